"""`share_mode: PERMISSIVE` shares a blob by the number of its elements; each layer has it in a shape of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold.errors import InputError

from .build import Files, batch_norm, bn, check, conv, data, he, layer, run, save, stored

STRICT, PERMISSIVE = 'param { name: "w" }', 'param { name: "w" share_mode: PERMISSIVE }'
PRODUCT = "inner_product_param { num_output: 4 bias_term: false }"
BARE = "bias_term: false"


def net(first: str, second: str, between: str = "", behind: str = "") -> str:
    """A convolution with filters (4, 4, 1, 1) and an inner product with weights (4, 4), which are the same numbers."""
    text = data(2, 4, 1, 1) + conv("c", "data", "c", more=BARE, body=first) + between
    return text + layer("InnerProduct", "f", "c", "f", f"{PRODUCT} {second}") + behind


def files(folder: Path, text: str, both: bool = True) -> Files:
    weights = [stored("c", he(4, 4, 1, 1)), *([stored("f", he(4, 4))] if both else []), stored("b", *batch_norm(4))]
    return save(folder, text, weights)


@pytest.mark.parametrize("both", [True, False])
def test_each_layer_has_the_shape_that_it_wants(both: bool, tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4, 1, 1)
    found = run(files(tmp_path, net(STRICT, PERMISSIVE), both), {"data": x})["f"]
    weight = he(4, 4) if both else he(4, 4, 1, 1).reshape(4, 4)  # the last one stored wins for all
    np.testing.assert_allclose(found, x.reshape(2, 4) @ weight.T @ weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(
    ("between", "behind"),
    [(bn("b", "c", "c"), ""), ("", bn("b", "f", "f")), (bn("b", "c", "c"), layer("ReLU", "r", "f", "y"))],
)
def test_folds_leave_every_blob_in_the_shape_of_its_layer(
    both: bool, between: str, behind: str, tmp_path: Path
) -> None:
    folded = check(files(tmp_path, net(STRICT, PERMISSIVE, between, behind), both), verify=True)
    assert "BatchNorm" not in folded.types
    assert folded.blobs["c"][0].shape == (4, 4, 1, 1)
    assert folded.blobs["f"][0].shape == (4, 4)


def test_strict_sharing_compares_shapes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"blob 0 has shape \(4, 4\) in the caffemodel") as caught:
        run(files(tmp_path, net(STRICT, STRICT)))
    assert "share_mode: PERMISSIVE" in caught.value.hint


def test_another_number_of_elements_is_refused(tmp_path: Path) -> None:
    text = net(STRICT, PERMISSIVE).replace(
        "num_output: 4 bias_term: false } param", "num_output: 3 bias_term: false } param"
    )
    with pytest.raises(InputError, match="the layer wants"):
        run(files(tmp_path, text, False))
