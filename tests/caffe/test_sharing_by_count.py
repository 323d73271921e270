"""`share_mode: PERMISSIVE`: layers share the values of a blob, each in a shape of its own with as many elements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold.caffe.net import load
from bnfold.errors import InputError

from .build import Files, Weights, assert_equal, batch_norm, bn, check, conv, data, he, layer, noise, run, save, stored

BY_COUNT = 'param { name: "w" share_mode: PERMISSIVE }'
STRICT = 'param { name: "w" }'
BARE = "bias_term: false"
INPUTS = data() + data(2, 16, 3, 3, name="other")
SQUARE, FLAT = he(4, 4, 2, 2), he(4, 16, 1, 1)
FLAT_OF_SQUARE = SQUARE.reshape(FLAT.shape)


def pair(first: str = STRICT, second: str = BY_COUNT) -> str:
    """c1 has a kernel of 2×2 over 4 channels, c2 one of 1×1 over 16."""
    return conv("c1", "data", "x", kernel=2, more=BARE, body=first) + conv("c2", "other", "y", more=BARE, body=second)


def assert_computes(folder: Path, files: Files, text: str, weights: Weights) -> None:
    """As the same net in which nothing is shared."""
    apart = INPUTS + text.replace(BY_COUNT, "").replace(STRICT, "")
    assert_equal(run(save(folder, apart, weights, "apart")), run(files))


STORED = {
    "both": [stored("c1", SQUARE), stored("c2", FLAT_OF_SQUARE)],
    "the owner alone": [stored("c1", SQUARE)],
    "the sharer alone": [stored("c2", FLAT_OF_SQUARE)],
    "the sharer's last": [stored("c1", he(4, 4, 2, 2, seed=3)), stored("c2", FLAT_OF_SQUARE)],
    "the owner's last": [stored("c2", he(4, 16, 1, 1, seed=3)), stored("c1", SQUARE)],
}


@pytest.mark.parametrize("entries", STORED.values(), ids=STORED)
def test_each_layer_reads_the_values_in_its_own_shape(tmp_path: Path, entries: list[bytes]) -> None:
    files = save(tmp_path, INPUTS + pair(), entries)
    assert_computes(tmp_path, files, pair(), {"c1": [SQUARE], "c2": [FLAT_OF_SQUARE]})


@pytest.mark.parametrize("entries", STORED.values(), ids=STORED)
@pytest.mark.parametrize("seeds", [{"n1": 0, "n2": 0}, {"n1": 0, "n2": 1}, {"n1": 0}, {"n2": 0}], ids=str)
def test_folds_write_each_blob_in_its_own_shape(tmp_path: Path, entries: list[bytes], seeds: dict[str, int]) -> None:
    norms = "".join(bn(name, blob, blob) for name, blob in (("n1", "x"), ("n2", "y")) if name in seeds)
    files = save(
        tmp_path, INPUTS + pair() + norms, [*entries, *(stored(n, *batch_norm(4, s)) for n, s in seeds.items())]
    )
    folded = check(files, verify=True)
    assert "BatchNorm" not in folded.types
    assert [folded.blobs[name][0].shape for name in ("c1", "c2")] == [SQUARE.shape, FLAT.shape]
    assert ('"w"' in folded.text) == (len(set(seeds.values())) == 1 and len(seeds) == 2)


def test_a_filter_of_an_inner_product_is_that_of_a_convolution(tmp_path: Path) -> None:
    text = INPUTS + conv("c1", "data", "x", kernel=2, more=BARE, body=STRICT)
    text += layer("InnerProduct", "p", "other", "y", f"inner_product_param {{ num_output: 4 {BARE} }} {BY_COUNT}")
    text = text.replace("dim: 16 dim: 3 dim: 3", "dim: 16 dim: 1 dim: 1") + bn("n1", "x", "x") + bn("n2", "y", "y")
    entries = {"c1": [SQUARE], "n1": batch_norm(4), "n2": batch_norm(4)}
    folded = check(save(tmp_path, text, entries), verify=True)
    assert [folded.blobs[name][0].shape for name in ("c1", "p")] == [SQUARE.shape, (4, 16)]


def test_shapes_of_2014_and_of_today_are_one_filter(tmp_path: Path) -> None:
    text = data() + data(name="other") + conv("c1", "data", "x", more=BARE, body=STRICT)
    text += layer("InnerProduct", "p", "flat", "y", f"inner_product_param {{ num_output: 4 {BARE} }} {STRICT}")
    text = text.replace('"flat"', '"other"').replace("dim: 6 dim: 6", "dim: 1 dim: 1")
    with pytest.raises(InputError, match="PERMISSIVE"):
        run(save(tmp_path, text, [stored("c1", he(4, 4, 1, 1)), stored("p", he(4, 4))]))
    text = (
        data()
        + data(name="other")
        + "".join(conv(f"c{i}", bottom, f"y{i}", more=BARE, body=STRICT) for i, bottom in ((1, "data"), (2, "other")))
    )
    for legacy in (True, False):
        entries = [stored("c1", he(4, 4, 1, 1), legacy=legacy), stored("c2", he(4, 4, 1, 1), legacy=not legacy)]
        norms = [stored(f"n{i}", *batch_norm(4)) for i in (1, 2)]
        folded = check(save(tmp_path, text + bn("n1", "y1", "y1") + bn("n2", "y2", "y2"), entries + norms))
        assert folded.text.count('"w"') == 2


@pytest.mark.parametrize("entries", STORED.values(), ids=STORED)
@pytest.mark.parametrize("first", [STRICT, BY_COUNT])
def test_a_layer_that_does_not_share_by_count_is_refused(tmp_path: Path, entries: list[bytes], first: str) -> None:
    with pytest.raises(InputError) as error:
        run(save(tmp_path, INPUTS + pair(first, STRICT), entries))
    assert "layer c2" in error.value.where
    assert "'c1'" in error.value.what
    assert "share_mode: PERMISSIVE" in error.value.hint


@pytest.mark.parametrize("entries", [[stored("c1", SQUARE)], [stored("c1", SQUARE), stored("c2", he(4, 8, 1, 1))]])
def test_another_number_of_elements_is_refused(tmp_path: Path, entries: list[bytes]) -> None:
    with pytest.raises(InputError) as error:
        run(save(tmp_path, INPUTS.replace("dim: 16", "dim: 8") + pair(), entries))
    assert "c1" in str(error.value)
    assert "c2" in str(error.value)
    assert "as many elements" in error.value.hint


def test_a_blob_that_does_not_fit_its_own_layer_is_refused(tmp_path: Path) -> None:
    """Caffe loads each blob by the shape of its layer, shared or not."""
    for entries in ([stored("c1", FLAT)], [stored("c1", SQUARE), stored("c2", SQUARE)]):
        with pytest.raises(InputError, match="the layer wants"):
            run(save(tmp_path, INPUTS + pair(), entries))


def test_shared_values_are_counted_once(tmp_path: Path) -> None:
    folded = check(save(tmp_path, INPUTS + pair(), STORED["both"]))
    assert folded.result.before["parameters"] == SQUARE.size
    assert np.array_equal(load(*folded.files).layers[2].blobs[0].array().ravel(), SQUARE.ravel())


def test_the_weights_of_an_inner_product_serve_a_convolution(tmp_path: Path) -> None:
    """Only the first of the two is stored, in two axes; the other one wants four."""
    product = f"inner_product_param {{ num_output: 4 {BARE} }} {STRICT}"
    text = data(2, 4, 1, 1) + layer("InnerProduct", "f", "data", "f", product)
    text += layer("Reshape", "r", "f", "r", "reshape_param { shape { dim: 0 dim: 4 dim: 1 dim: 1 } }")
    files = save(tmp_path, text + conv("c", "r", "c", more=BARE, body=BY_COUNT), {"f": [he(4, 4)]})
    x = noise("x", 2, 4, 1, 1)
    (found,) = run(files, {"data": x}).values()
    np.testing.assert_allclose(found.reshape(2, 4), x.reshape(2, 4) @ he(4, 4).T @ he(4, 4).T, rtol=1e-5, atol=1e-5)
