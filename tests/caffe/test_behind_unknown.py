"""Affines behind a layer of unknown type: nobody knows the shape there, but the channels are axis 1 in every rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold import pipeline
from bnfold.caffe.net import load
from bnfold.options import Options

from . import simulate
from .build import (
    TOLERANCE,
    Array,
    Folded,
    batch_norm,
    bn,
    conv,
    data,
    fold,
    he,
    layer,
    noise,
    save,
    scale,
    scaled,
    stored_v1,
)

RANKS = [(2, 4), (2, 4, 5), (2, 4, 5, 3), (2, 4, 2, 3, 2)]
MYSTERY = layer("Mystery", "m", "data", "m")
TANH = layer("TanH", "t", "y", "t")
WEIGHTS = {
    "b": batch_norm(4), "b2": batch_norm(4, 2), "s": scale(4), "s2": scale(4, 2), "u": scale(4, 4)[:1],
    "i": scale(4, 3)[1:], "c": [he(3, 4, 2, 2), scale(3)[1]],
}  # fmt: skip


def bias(name: str, bottom: str, top: str) -> str:
    return layer("Bias", name, bottom, top)


MERGED = {
    "BatchNorm and Scale": (bn("b", "m", "n") + scaled("s", "n", "y"), ["Scale"]),
    "in place": (bn("b", "m", "m") + scaled("s", "m", "m") + layer("TanH", "g", "m", "y"), ["Scale", "TanH"]),
    "a ReLU behind": (bn("b", "m", "n") + scaled("s", "n", "n") + layer("ReLU", "r", "n", "y"), ["Scale", "ReLU"]),
    "BatchNorm alone": (bn("b", "m", "y"), ["Scale"]),
    "Scale alone": (scaled("s", "m", "y"), ["Scale"]),
    "Scale before": (scaled("s", "m", "n") + bn("b", "n", "y"), ["Scale"]),
    "Scale without shift, and Bias": (scaled("u", "m", "n", "") + bias("i", "n", "y"), ["Scale"]),
    "Bias alone": (bias("i", "m", "y"), ["Bias"]),
    "BatchNorm and Bias": (bn("b", "m", "n") + bias("i", "n", "y"), ["Scale"]),
    "two BatchNorms": (bn("b", "m", "n") + bn("b2", "n", "y"), ["Scale"]),
    "an Eltwise between": (
        bn("b", "m", "n") + scaled("s", "n", "n") + layer("Eltwise", "e", "n m", "e") + bn("b2", "e", "f")
        + scaled("s2", "f", "y"),
        ["Scale", "Eltwise", "Scale"],
    ),
    "a TanH between": (
        bn("b", "m", "n") + layer("TanH", "g", "n", "g") + scaled("s", "g", "y"), ["Scale", "TanH", "Scale"],
    ),
    "the same twice": (
        bn("b", "m", "n") + scaled("s", "n", "n") + bn("b2", "m", "o") + scaled("s2", "o", "o")
        + layer("Eltwise", "e", "n o", "y"),
        ["Scale", "Scale", "Eltwise"],
    ),
}  # fmt: skip


def same(before: dict[str, Array], after: dict[str, Array], tolerance: float = TOLERANCE) -> None:
    assert sorted(before) == sorted(after)
    for name, array in before.items():
        assert np.abs(array - after[name]).max() <= tolerance * np.abs(array).max(), name


def judged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, weights: dict[str, list[Array]], *shape: int
) -> Folded:
    """Fold, and see that the net computes the same where Mystery is a sine, and that folding again changes nothing."""
    monkeypatch.setitem(
        simulate.LAYERS, "Mystery", lambda layer, _, x: [np.sin(i + x) for i, _ in enumerate(layer.tops)]
    )
    names = {line.split('"')[1] for line in text.splitlines()}
    files = save(folder, text, {name: blobs for name, blobs in weights.items() if name in names})
    folded, feeds = fold(files), {"data": noise("data", *shape)}
    same(simulate.simulate(load(*files), feeds), simulate.simulate(folded.net, feeds))
    again = folder / "again"
    pipeline.fold(folded.files, again, Options(verify=False))
    for path in folded.files:
        assert path.read_bytes() == again.with_suffix(path.suffix).read_bytes()
    return folded


@pytest.mark.parametrize("shape", RANKS)
@pytest.mark.parametrize("case", MERGED)
def test_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, shape: tuple[int, ...]) -> None:
    text, types = MERGED[case]
    folded = judged(tmp_path, monkeypatch, data(*shape) + MYSTERY + text + TANH, WEIGHTS, *shape)
    assert folded.types == ["Input", "Mystery", *types, "TanH"]


def test_a_second_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = layer("Mystery", "m", "data", "k m") + bn("b", "m", "y") + scaled("s", "y", "y") + TANH
    assert judged(tmp_path, monkeypatch, data() + text, WEIGHTS, 2, 4, 6, 6).types[2:] == ["Scale", "TanH"]


def test_an_unknown_layer_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = layer("TanH", "g", "data", "m") + layer("Mystery", "m", "m", "m") + bn("b", "m", "m")
    folded = judged(tmp_path, monkeypatch, data() + text + scaled("s", "m", "y") + TANH, WEIGHTS, 2, 4, 6, 6)
    assert folded.types[2:] == ["Mystery", "Scale", "TanH"]


def test_one_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"b": batch_norm(1), "s": scale(1)}
    text = data(2, 1, 3, 3) + MYSTERY + bn("b", "m", "y") + scaled("s", "y", "y") + TANH
    folded = judged(tmp_path, monkeypatch, text, weights, 2, 1, 3, 3)
    assert [blob.shape for blob in folded.blobs["s"]] == [(1,), (1,)]


def test_channels_that_are_all_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number for all of them is written for each: a Scale behind an unknown shape needs to know how many."""
    alike = [np.full(4, value, np.float32) for value in (0.5, 2.0)]
    text = data() + MYSTERY + bn("b", "m", "n") + scaled("s", "n", "y") + TANH
    folded = judged(tmp_path, monkeypatch, text, {"b": [*alike, np.ones(1, np.float32)], "s": alike}, 2, 4, 6, 6)
    assert [blob.shape for blob in folded.blobs["s"]] == [(4,), (4,)]


@pytest.mark.parametrize("pad", [0, 1])
def test_into_a_convolution_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pad: int) -> None:
    text = data() + MYSTERY + bn("b", "m", "n") + scaled("s", "n", "y") + conv("c", "y", "c", 3, 2, f"pad: {pad}")
    folded = judged(tmp_path, monkeypatch, text, WEIGHTS, 2, 4, 6, 6)
    assert folded.types[2:] == ["Bias"] * pad + ["Convolution"]


OTHER_AXES = {"axis: 2": (5,), "axis: 0": (2,), "num_axes: 2": (4, 5), "num_axes: -1": (4, 5, 3), "axis: -1": (3,)}


@pytest.mark.parametrize("axes", OTHER_AXES)
def test_other_axes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axes: str) -> None:
    """Where they lie only the shape would tell; the BatchNorm before becomes a Scale of its own."""
    weights = {"b": batch_norm(4), "s": [noise("s", *OTHER_AXES[axes])]}
    text = data(2, 4, 5, 3) + MYSTERY + bn("b", "m", "n") + scaled("s", "n", "y", axes) + TANH
    folded = judged(tmp_path, monkeypatch, text, weights, 2, 4, 5, 3)
    assert folded.types[2:] == ["Scale", "Scale", "TanH"]
    assert np.array_equal(folded.blobs["s"][0], weights["s"][0])
    assert scaled("s", "n", "y", axes) in folded.text


NUMBERED = """input: "data" input_dim: 2 input_dim: 4 input_dim: 6 input_dim: 6
layers { name: "m" type: SOFTMAX_LOSS bottom: "data" bottom: "data" top: "loss" top: "m" }
layers { name: "b" type: BN bottom: "m" top: "n" bn_param { bn_mode: INFERENCE } }
layers { name: "d" type: BN bottom: "n" top: "y" bn_param { bn_mode: INFERENCE } }
layers { name: "t" type: TANH bottom: "y" top: "t" }
"""


def test_the_text_format_of_2014(tmp_path: Path) -> None:
    """It has no types of its own, but a loss that is read on is one that bnfold does not know."""
    (a, p), (c, q) = scale(4, 5), scale(4, 6)
    entries = [stored_v1("b", a, p), stored_v1("d", c, q)]
    folded = fold(save(tmp_path, NUMBERED, entries))
    assert folded.types == ["Input", "SoftmaxWithLoss", "BN", "TanH"]
    for found, wanted in zip(folded.blobs["d"], (c * a, c * p + q), strict=True):
        assert np.allclose(found.reshape(4), wanted, rtol=1e-6)


def test_what_is_left_out_is_not_called_verified(tmp_path: Path) -> None:
    """All of this net lies behind the unknown layer."""
    text = data() + MYSTERY + bn("b", "m", "n") + scaled("s", "n", "y") + TANH
    found = fold(save(tmp_path, text, {name: WEIGHTS[name] for name in "bs"}), verify=True).result.verification
    assert found is not None
    assert (found.passed, found.proven, found.left_out) == (True, False, ["m"])
