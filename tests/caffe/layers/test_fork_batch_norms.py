"""Which fork's reading of a BatchNorm is meant: by its words, by the user, or by nobody, and then that is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold.caffe.lowered import Lowered
from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load
from bnfold.cli import main
from bnfold.errors import StrictError, UsageError
from bnfold.options import Options

from ..build import Array, batch_norm, bn, check, conv, data, fold, he, layer, noise, run, save, scale, scaled

MEAN, VARIANCE, GAMMA, BETA = noise("mean", 4), noise("variance", 4) ** 2, noise("gamma", 4), noise("beta", 4)
FIVE = [MEAN, VARIANCE, np.full(1, 2, np.float32), GAMMA, BETA]
PLAIN = [GAMMA, BETA, MEAN, VARIANCE]


def normalised(folder: Path, param: str, blobs: list[Array], kind: str = "BatchNorm", **how: str) -> Array:
    """y of one layer on noise."""
    net = data() + layer(kind, "b", "data", "y", param)
    return run(save(folder, net, {"b": blobs}), {"data": noise("x", 2, 4, 6, 6)}, **how)["y"]


def formula(divisor: float, eps: float, gamma: Array = GAMMA, beta: Array = BETA) -> Array:
    """γ(x − μ/f)/√(σ²/f + eps) + β in float64."""
    mean, variance, g, b = (a.astype(np.float64).reshape(-1, 1, 1) for a in (MEAN, VARIANCE, gamma, beta))
    x = noise("x", 2, 4, 6, 6)
    return np.asarray(g * (x - mean / divisor) / np.sqrt(variance / divisor + eps) + b)


def close(found: Array, wanted: Array) -> bool:
    return bool(np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max())


def lowered(folder: Path, text: str, blobs: list[Array], **how: str) -> Lowered:
    return lower(load(*save(folder, data() + text, {"b": blobs})), **how)


@pytest.mark.parametrize("word", ["filler { }", "use_weight_bias: true", "bias_term: true", "stats_batch_size: 32"])
def test_intels_words_beside_a_bias_filler_are_intels(word: str, tmp_path: Path) -> None:
    """Intel's Caffe divides by the factor, NVIDIA's does not read it; both have a bias_filler."""
    param = f"batch_norm_param {{ eps: 0.001 bias_filler {{ }} {word} }}"
    assert close(normalised(tmp_path, param, FIVE), formula(2, 1e-3))
    alone = normalised(tmp_path, "batch_norm_param { eps: 0.001 bias_filler { } }", FIVE)
    assert close(alone, formula(1, 1e-3))
    assert not close(alone, formula(2, 1e-3))


def test_words_of_both_make_the_layer_opaque(tmp_path: Path) -> None:
    text = layer("BatchNorm", "b", "data", "y", "batch_norm_param { scale_filler { } use_weight_bias: true }")
    (opaque,) = lowered(tmp_path, text, FIVE).opaque.values()
    assert opaque.reason.startswith("`use_weight_bias` is a word of Intel's Caffe and `scale_filler` of NVIDIA's")


def test_the_users_order_wins(tmp_path: Path) -> None:
    param = "batch_norm_param { eps: 0.001 scale_filler { } }"
    assert close(normalised(tmp_path, param, FIVE, bn_blobs="mean,variance,factor,gamma,beta"), formula(2, 1e-3))


@pytest.mark.parametrize(
    ("order", "blobs"), [("mean,variance,unused", FIVE[:3]), ("mean,variance,unused,gamma,beta", FIVE)]
)
def test_nvidias_least_eps_goes_with_its_order(order: str, blobs: list[Array], tmp_path: Path) -> None:
    ones = (np.ones(4), np.zeros(4)) if len(blobs) == 3 else (GAMMA, BETA)
    found = normalised(tmp_path, "batch_norm_param { eps: 1e-9 }", blobs, bn_blobs=order)
    assert close(found, formula(1, 1e-5, *ones))


@pytest.mark.parametrize("word", ["shift_filler { }", "decay: 0.9", "var_eps: 0.1", "moving_average: true"])
def test_eps_beside_the_words_of_another_fork(word: str, tmp_path: Path) -> None:
    text = layer("BN", "b", "data", "y", f"bn_param {{ eps: 0.1 {word} }}")
    assert len(lowered(tmp_path, text, PLAIN).opaque) == 1


@pytest.mark.parametrize(
    ("kind", "param"),
    [("BN", "bn_param"), ("SyncBN", "bn_param"), ("CuDNNBatchNorm", "cudnn_batch_norm_param"),
     ("CuDNNBatchNorm", "batch_norm_param")],
)  # fmt: skip
def test_in_training_only_frozen_statistics_are_stored(kind: str, param: str, tmp_path: Path) -> None:
    for frozen, ops in (("true", ["BatchNormalization"]), ("false", None)):
        text = layer(kind, "b", "data", "y", f"{param} {{ eps: 0.001 frozen: {frozen} }} phase: TRAIN")
        found = lowered(tmp_path, text, PLAIN)
        assert ([node.op for node in found.graph.nodes] == ops) == (ops is not None)
        assert ("b" in [str(getattr(key, "name", "")) for key in found.graph.notes]) == (ops is None)


# ------------------------------------------------------------------------------------------------------------- doubts

ZERO = [MEAN, VARIANCE, np.zeros(1, np.float32)]
NET = data() + conv("c", "data", "c") + bn("b", "c", "c")


def test_an_order_of_ones_own_is_no_doubt(tmp_path: Path) -> None:
    files = save(tmp_path, NET, {"c": [he(4, 4, 1, 1), he(4)], "b": ZERO})
    with pytest.raises(StrictError):
        fold(files, strict=True)
    assert not fold(files, strict=True, bn_blobs="mean,variance,factor").result.notices
    batch = save(tmp_path, NET.replace('"BatchNorm"', '"BatchNorm" batch_norm_param { use_global_stats: false }'),
                 {"c": [he(4, 4, 1, 1), he(4)], "b": ZERO})  # fmt: skip
    assert not fold(batch).result.notices


@pytest.mark.parametrize(("order", "strict"), [(None, True), ("mean,variance,unused,gamma,beta", False)])
def test_a_third_blob_that_is_not_used_and_looks_like_a_factor(order: str | None, strict: bool, tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + bn("b", "c", "c", "scale_filler { }")
    files = save(tmp_path, net, {"c": [he(4, 4, 1, 1), he(4)], "b": FIVE})
    (notice,) = fold(files, bn_blobs=order).result.notices
    assert (notice.sentence[:22], notice.strict) == ("the third blob is 2; r", strict)


def test_gamma_and_beta_that_the_text_denies(tmp_path: Path) -> None:
    text = layer("BatchNorm", "b", "data", "y", "batch_norm_param { use_weight_bias: false }")
    assert len(lowered(tmp_path, text, FIVE).opaque) == 1


def test_an_order_that_fits_no_layer_is_told(tmp_path: Path) -> None:
    files = save(tmp_path, NET, {"c": [he(4, 4, 1, 1), he(4)], "b": batch_norm(4)})
    (notice,) = fold(files, bn_blobs="gamma,beta,mean,variance").result.notices
    assert notice.sentence.startswith("--bn-blobs gamma,beta,mean,variance fits no BatchNorm")


@pytest.mark.parametrize(
    "order",
    [
        "factor,variance,gamma", "unused,unused,unused", "mean,gamma,factor", "gamma,beta,factor",
        "mean,variance,inverse-deviation",
    ],
)  # fmt: skip
def test_orders_of_no_batch_norm(order: str) -> None:
    with pytest.raises(UsageError, match="is no order of one"):
        Options(bn_blobs=order)


def test_export_tells_what_is_to_be_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = save(tmp_path, f"foo: 1\n{NET}", {"c": [he(4, 4, 1, 1), he(4)], "b": ZERO})
    assert main(["export", *map(str, files), "-o", str(tmp_path / "out.onnx")]) == 0
    told = capsys.readouterr().out
    assert "the factor of mean and variance is 0" in told
    assert "does not know the field `foo`" in told


# -------------------------------------------------------------------------------------- what stays, and is told to stay


def test_a_batch_norm_with_a_relu_of_its_own_is_kept(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + bn("b", "c", "c", "relu: true filler { }")
    files = save(tmp_path, net, {"c": [he(4, 4, 1, 1), he(4)], "b": FIVE})
    assert fold(files).result.kept_batch_norms == ["b"]
    with pytest.raises(StrictError):
        fold(files, strict=True)


def test_quantised_layers_and_their_blobs_stay(tmp_path: Path) -> None:
    scales = "quantization_param { scale_in: 2 scale_out: 3 }"
    pool = layer("Pooling", "p", "c", "p", f"pooling_param {{ pool: AVE kernel_size: 2 }} {scales}")
    for net in (
        data() + conv("c", "data", "c") + layer("BatchNorm", "b", "c", "c", scales),
        data() + conv("c", "data", "c") + pool + bn("b", "p", "y"),
        data() + conv("c", "data", "c", body=scales) + layer("ReLU", "r", "c", "r") + bn("b", "r", "y"),
    ):
        files = save(tmp_path, net, {"c": [he(4, 4, 1, 1), he(4)], "b": batch_norm(4)})
        kept = check(files)
        np.testing.assert_array_equal(kept.blobs["c"][0], he(4, 4, 1, 1))
        assert "Convolution" in kept.types
    files = save(tmp_path, data() + conv("c", "data", "c") + pool + bn("b", "p", "y"),
                 {"c": [he(4, 4, 1, 1), he(4)], "b": batch_norm(4)})  # fmt: skip
    assert check(files, fold_quantized=True).types == ["Input", "Convolution", "Pooling"]


@pytest.mark.parametrize(
    ("filler", "identity"),
    [("", True), ("filler { value: 1 } bias_filler { value: 0 }", True), ("filler { value: 2 }", False),
     ("bias_filler { value: 3 }", False), ("filler { type: 'gaussian' value: 1 }", False), ("filler { }", False)],
)  # fmt: skip
def test_what_fills_a_scale_without_weights(filler: str, identity: bool, tmp_path: Path) -> None:
    """A filler of no value is 0, which is no identity."""
    net = data() + conv("c", "data", "c") + bn("b", "c", "c") + scaled("s", "c", "s", f"bias_term: true {filler}")
    files = save(tmp_path, net, {"c": [he(4, 4, 1, 1), he(4)], "b": [*batch_norm(4), *scale(4)]})
    if identity:
        assert fold(files).types == ["Input", "Convolution"]
    else:
        with pytest.raises(Exception, match="the layer has no weights"):
            fold(files)
