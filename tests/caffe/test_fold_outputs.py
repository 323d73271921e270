"""The outputs of a folded net, which no layer reads, and blobs of which a layer reads nothing but the shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .build import batch_norm, bn, check, conv, data, he, layer, save, scale, scaled
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


def test_a_copy_that_is_an_output_must_not_be_read(tmp_path: Path) -> None:
    """Without the Scale, which does nothing, its output would be the bottom of the ReLU."""
    net = PAIR + scaled("s", "c", "s", "") + layer("ReLU", "r", "c", "r")
    blobs = {"c": [he(4, 4, 3, 3), np.zeros(4, np.float32)], "s": [np.ones(4, np.float32)]}
    assert check(save(tmp_path, net, blobs), verify=True).text == net


def test_a_multiplier_goes_up_and_the_shift_into_a_layer_that_stays(tmp_path: Path) -> None:
    """conv → ReLU → BatchNorm → (+ other) → Scale: the sum takes a shift of one summand, but no multiplier."""
    head = data(2, 4, 6, 6, name="other") + data()
    behind = layer("Eltwise", "e", "n other", "e") + scaled("s", "e", "s")
    net = head + conv("c", "data", "c") + layer("ReLU", "r", "c", "r") + bn("n", "r", "n") + behind
    blobs = {"c": [he(4, 4, 1, 1), scale(4)[1]], "n": batch_norm(4), "s": scale(4)}
    folded = check(save(tmp_path, net, blobs), verify=True)
    assert folded.types == ["Input", "Input", "Convolution", "ReLU", "Eltwise", "Scale"]
    assert folded.result.plans[0][1].decisions[0].way == "both"


def test_a_layer_that_took_another_affine_is_not_compared(tmp_path: Path) -> None:
    """The Bias behind the Flatten goes into the Scale of the rows, of which only the sum of both is as before."""
    net = data() + scaled("s", "data", "s", "axis: 2 bias_term: true") + layer("Flatten", "f", "s", "f")
    net += layer("Bias", "b", "f", "b") + layer("Softmax", "m", "b", "m")
    rows = np.arange(6, dtype=np.float32)
    blobs = {"s": [np.cos(rows), np.sin(rows)], "b": [np.tile(rows.repeat(6), 4)]}
    folded = check(save(tmp_path, net, blobs), verify=True)
    assert folded.types == ["Input", "Scale", "Flatten", "Softmax"]
