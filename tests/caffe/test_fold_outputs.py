"""The outputs of a folded net, which no layer reads, and blobs of which a layer reads nothing but the shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from .build import bn, check, conv, data, layer, scaled
from .weigh import weighed

PAIR = data() + conv("c", "data", "c", kernel=3)


def like(bottom: str, name: str = "crop") -> str:
    """A layer that crops the input to the extents of `bottom`, of which it reads nothing else."""
    return layer("Crop", name, f"data {bottom}", name, "crop_param { axis: 2 }")


def test_the_shape_of_a_blob_inside_a_chain_is_read(tmp_path: Path) -> None:
    net = PAIR + bn("b", "c", "b") + like("b") + scaled("s", "b", "s") + layer("ReLU", "r", "s", "r")
    folded = check(weighed(tmp_path, net), verify=True)
    assert folded.text == data() + conv("c", "data", "s", kernel=3) + like("s") + layer("ReLU", "r", "s", "r")


def test_the_shape_of_a_blob_inside_a_merged_chain_is_read(tmp_path: Path) -> None:
    before, behind = PAIR + layer("Sigmoid", "g", "c", "g"), layer("Sigmoid", "h", "s", "h")
    net = before + bn("b", "g", "b") + like("b") + scaled("s", "b", "s") + behind
    folded = check(weighed(tmp_path, net), verify=True)
    assert folded.text == before + like("g") + scaled("s", "g", "s") + behind


def test_an_affine_of_which_only_the_shape_is_read_goes(tmp_path: Path) -> None:
    behind = conv("c", "crop", "c", kernel=3)
    folded = check(weighed(tmp_path, data() + bn("b", "data", "b") + like("b") + behind), verify=True)
    assert folded.text == data() + like("data") + behind


@pytest.mark.parametrize("read", ["c", "b"])
def test_an_output_must_not_be_read_for_its_shape(read: str, tmp_path: Path) -> None:
    net = PAIR + bn("b", "c", "b") + scaled("s", "b", "s") + like(read)
    folded = check(weighed(tmp_path, net), verify=True)
    kept = scaled("s", read, "s")
    assert folded.text == data() + conv("c", "data", read, kernel=3) + kept + like(read)
