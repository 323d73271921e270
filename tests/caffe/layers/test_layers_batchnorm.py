"""Every form of BatchNorm in the Caffe family against its formula, and the forms that nothing can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load
from bnfold.errors import AmbiguousError, InputError, UsageError

from ..build import Array, noise, run, save

C = 5
X = noise("x", 2, C, 3, 4)
MEAN, VARIANCE, GAMMA, BETA = noise("m", C), noise("v", C) ** 2 + 0.1, noise("g", C), noise("b", C)
FACTOR, ONE = np.array([999.98], np.float32), np.ones(1, np.float32)


def text(kind: str, param: str = "", channels: int = C) -> str:
    return f"""input: "x" input_shape {{ dim: 2 dim: {channels} dim: 3 dim: 4 }}
        layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {param} }}"""


def column(vector: Array) -> Array:
    return np.asarray(vector, np.float64).reshape(-1, 1, 1)


def normal(mean: Array, variance: Array, eps: float, gamma: Array = GAMMA, beta: Array = BETA) -> Array:
    return column(gamma) * (X - column(mean)) / np.sqrt(column(variance) + eps) + column(beta)


def of_batch(eps: float) -> Array:
    mean = X.mean((0, 2, 3), keepdims=True)
    return (X - mean) / np.sqrt(((X - mean) ** 2).mean((0, 2, 3), keepdims=True) + eps)


PLAIN, ZERO, UNIT = [GAMMA, BETA, MEAN, VARIANCE], np.zeros(C), np.ones(C)
BVLC = [FACTOR[0] * MEAN, FACTOR[0] * VARIANCE, FACTOR]
BN = "batch_norm_param"
FORMS: dict[str, tuple[str, str, list[Array], Array]] = {
    "BVLC": ("BatchNorm", "", BVLC, normal(MEAN, VARIANCE, 1e-5, UNIT, ZERO)),
    "eps": ("BatchNorm", f"{BN} {{ eps: 0.5 }}", BVLC, normal(MEAN, VARIANCE, 0.5, UNIT, ZERO)),
    "factor 0": ("BatchNorm", f"{BN} {{ eps: 0.01 }}", [MEAN, VARIANCE, 0 * ONE], 10 * X),
    "batch": ("BatchNorm", f"{BN} {{ use_global_stats: false }}", BVLC, of_batch(1e-5)),
    "Intel": ("BatchNorm", "", [*BVLC, GAMMA, BETA], normal(MEAN, VARIANCE, 1e-5)),
    "Intel, scale only": ("BatchNorm", "", [*BVLC, GAMMA], normal(MEAN, VARIANCE, 1e-5, beta=ZERO)),
    "Intel, ReLU": (
        "BatchNorm", f"{BN} {{ relu: true }}", [*BVLC, GAMMA, BETA], normal(MEAN, VARIANCE, 1e-5).clip(0)
    ),
    "NVIDIA 0.17": (
        "BatchNorm", f"{BN} {{ scale_bias: true eps: 1e-9 }}", [MEAN, VARIANCE, FACTOR, GAMMA, BETA],
        normal(MEAN, VARIANCE, 1e-5),
    ),
    "NVIDIA 0.15": ("BatchNorm", f"{BN} {{ eps: 1e-9 }}", [*PLAIN, ONE], normal(MEAN, VARIANCE, 1e-5)),
    "NVIDIA 0.15 without scalar": ("BatchNorm", "", PLAIN, normal(MEAN, VARIANCE, 1e-5)),
    "happynear, no mean": (
        "BatchNorm", f"{BN} {{ disable_mean: true }}", BVLC, normal(ZERO, VARIANCE, 1e-5, UNIT, ZERO),
    ),
    "happynear, no variance": (
        "BatchNorm", f"{BN} {{ disable_variance: true }}", BVLC, normal(MEAN, UNIT, 0, UNIT, ZERO),
    ),
    "Synopsys": (
        "BatchNorm", f"{BN} {{ add_eps_before_sqrt: false eps: 0.5 }}", BVLC,
        normal(MEAN, (np.sqrt(VARIANCE) + 0.5) ** 2, 0, UNIT, ZERO),
    ),
    "yjxiong": ("BN", "bn_param { eps: 0.01 }", PLAIN, normal(MEAN, VARIANCE, 0.01)),
    "yjxiong, 4-D blobs": ("BN", "", [v.reshape(1, C, 1, 1) for v in PLAIN], normal(MEAN, VARIANCE, 1e-5)),
    "PSPNet": ("SyncBN", "", PLAIN, normal(MEAN, VARIANCE, 1e-5)),
    "ducha-aiki": ("BN", "bn_param { var_eps: 0.1 }", PLAIN, normal(MEAN, VARIANCE, 0.1)),
    "ducha-aiki, batch": (
        "BN", "bn_param { var_eps: 0.1 moving_average: false }", PLAIN, column(GAMMA) * of_batch(0.1) + column(BETA),
    ),
    "SegNet INFERENCE": ("BN", "bn_param { bn_mode: INFERENCE }", [GAMMA, BETA], column(GAMMA) * X + column(BETA)),
    "SegNet LEARN": ("BN", "", [GAMMA, BETA], column(GAMMA) * of_batch(1e-9) + column(BETA)),
    "CuDNNBatchNorm": ("CuDNNBatchNorm", f"{BN} {{ eps: 1e-9 }}", PLAIN, normal(MEAN, VARIANCE, 1e-5)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_form(form: str, tmp_path: Path) -> None:
    kind, param, blobs, wanted = FORMS[form]
    found = run(save(tmp_path, text(kind, param), {"l": blobs}), {"x": X})["y"]
    assert np.abs(found - wanted).max() <= 5e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("form", [form for form in FORMS if "ReLU" not in form])
def test_stored_statistics_are_one_node_and_those_of_the_batch_are_noted(form: str, tmp_path: Path) -> None:
    kind, param, blobs, _ = FORMS[form]
    low = lower(load(*save(tmp_path, text(kind, param), {"l": blobs})))
    if "batch" in form or "LEARN" in form:
        ((layer, (code, sentence)),) = low.graph.notes.items()
        assert (layer, code) == (low.layers[1].layer, "batch-statistics")
        assert "batch" in sentence
        affine = ("Mul", "Add", "Sub", "Div")
        assert all(node.fixed for node in low.graph.nodes if node.op in affine)
    else:
        (node,) = low.graph.nodes
        assert (node.op, node.fixed, low.graph.notes) == ("BatchNormalization", False, {})
        assert {tensor.dtype for tensor in (v.tensor for v in node.inputs[1:] if v) if tensor} == {np.dtype(np.float64)}


@pytest.mark.parametrize("count", [4, 5])
def test_one_channel_leaves_the_order_open(count: int, tmp_path: Path) -> None:
    blobs = [np.full(1, value, np.float32) for value in (2, 3, 4, 5, 1)[:count]]
    files = save(tmp_path, text("BatchNorm", channels=1), {"l": blobs})
    with pytest.raises(AmbiguousError) as caught:
        lower(load(*files))
    assert "mean, variance, factor, gamma" in str(caught.value)
    assert "gamma, beta, mean, variance" in str(caught.value)
    assert "--bn-blobs" in caught.value.hint
    x = X[:, :1]
    order = ["gamma,beta,mean,variance", "gamma,beta,mean,variance,unused"][count - 4]
    found = run(files, {"x": x}, bn_blobs=order)["y"]
    np.testing.assert_allclose(found, 2 * (x - 4) / np.sqrt(5 + 1e-5) + 3, rtol=1e-5, atol=1e-5)


def test_an_order_of_the_users_own(tmp_path: Path) -> None:
    """NVIDIA 0.14, which its shapes do not tell from Intel, and the inverse deviations of very old files."""
    files = save(tmp_path, text("BatchNorm"), {"l": [GAMMA, BETA, ONE, MEAN, VARIANCE]})
    found = run(files, {"x": X}, bn_blobs="gamma, beta, unused, mean, variance")["y"]
    np.testing.assert_allclose(found, normal(MEAN, VARIANCE, 1e-5), rtol=1e-4, atol=1e-5)
    inverse = (1 / np.sqrt(VARIANCE + 0.1)).astype(np.float32)
    files = save(tmp_path, text("BN"), {"l": [GAMMA, BETA, MEAN, inverse]})
    found = run(files, {"x": X}, bn_blobs="gamma,beta,mean,inverse-deviation")["y"]
    np.testing.assert_allclose(found, normal(MEAN, VARIANCE, 0.1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["mean,variance,scale", "mean,mean,variance"])
def test_a_wrong_order_is_refused(order: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--bn-blobs"):
        lower(load(*save(tmp_path, text("BatchNorm"), {"l": BVLC})), bn_order=order)


@pytest.mark.parametrize(
    ("blobs", "reason"),
    [
        ([MEAN, VARIANCE], "2 blobs"),
        ([MEAN[:4], VARIANCE[:4], ONE], "5 channels"),
        ([MEAN, VARIANCE[:4], ONE], "elements"),
        ([MEAN, VARIANCE, ONE, GAMMA, BETA, ONE], "elements"),
    ],
)
def test_blobs_that_are_no_batch_norm(blobs: list[Array], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        lower(load(*save(tmp_path, text("BatchNorm"), {"l": blobs})))
    assert reason in str(caught.value) or "elements" in str(caught.value)
    assert "layer l" in caught.value.where
