"""The words of Caffe's forks against their formulas, each with a value that the reading without the word gets wrong.

Sources: Synopsys's Caffe (pad_l and others, relu6, AVE_EXC_PAD), DeepLab v1 (hole), RPN_BF (filter_stride), the Caffe
of AM-softmax (normalize), Fast R-CNN's (scale_train), NVIDIA's (fillers of BatchNorm), Intel's (quantization_param).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bnfold.caffe.export import onnx_model
from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load
from bnfold.errors import InputError, StrictError

from ..build import Array, batch_norm, bn, check, conv, data, fold, he, layer, noise, run, save, scale, scaled

SIZE = (2, 4, 7, 8)
STATISTICS = [noise("gamma", 4), noise("beta", 4), noise("mean", 4), noise("variance", 4) ** 2]


def convolved(
    x: Array, weight: Array, begin: tuple[int, int], end: tuple[int, int], dilation: tuple[int, int]
) -> Array:
    """Σ over the taps of the zero padded image, stride 1; x (N, C, H, W) and weight (O, C, h, w), in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *zip(begin, end, strict=True)))
    height, width = (e - d * (k - 1) for e, k, d in zip(x.shape[2:], weight.shape[2:], dilation, strict=True))
    total = 0.0
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            part = x[:, :, i * dilation[0] :][:, :, :height, j * dilation[1] :][..., :width]
            total = total + np.einsum("nchw,oc->nohw", part, weight[:, :, i, j].astype(np.float64))
    return np.asarray(total)


def filters(
    begin: tuple[int, int], end: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> Callable[[Array], Array]:
    return lambda x: convolved(x, he(3, 4, 3, 3), begin, end, dilation)


def average(x: Array, counted: bool) -> Array:
    """3 × 3 windows with stride 2, one row and column of padding before and behind, on 7 × 8 elements."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    inside = np.pad(np.ones_like(x, np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=float(counted))
    spots = [(i, j) for i in range(0, 7, 2) for j in range(0, 9, 2)]
    cells = [
        (padded[:, :, i : i + 3, j : j + 3].sum((2, 3)), inside[:, :, i : i + 3, j : j + 3].sum((2, 3)))
        for i, j in spots
    ]
    return np.stack([total / count for total, count in cells], -1).reshape(*x.shape[:2], 4, 5)


def unit(x: Array) -> Array:
    weight = he(5, 224).astype(np.float64)
    return x.reshape(2, -1) @ (weight / np.sqrt((weight**2).sum(1, keepdims=True))).T


CONV = layer("Convolution", "l", "data", "y", "convolution_param { num_output: 3 kernel_size: 3 bias_term: false % }")
POOL = layer("Pooling", "l", "data", "y", "pooling_param { kernel_size: 3 stride: 2 pad: 1 pool: % }")
RELU = layer("ReLU", "l", "data", "y", "relu_param { % }")
PRODUCT = layer("InnerProduct", "l", "data", "y", "inner_product_param { num_output: 5 bias_term: false % }")
DROPOUT = layer("Dropout", "l", "data", "y", "dropout_param { dropout_ratio: 0.4 % }")
WORDS: list[tuple[str, str, str, list[Array], Callable[[Array], Array]]] = [
    (CONV, "pad_l: 1 pad_r: 0 pad_t: 2 pad_b: 3", "", [he(3, 4, 3, 3)], filters((2, 1), (3, 0))),
    (CONV, "pad_l: 2", "", [he(3, 4, 3, 3)], filters((0, 2), (0, 0))),
    (CONV, "pad_l: 0 pad_r: 0 pad_t: 0 pad_b: 0 pad: 1", "", [he(3, 4, 3, 3)], filters((1, 1), (1, 1))),
    (CONV, "hole: 2", "", [he(3, 4, 3, 3)], filters((0, 0), (0, 0), (2, 2))),
    (CONV, "hole_h: 2 hole_w: 3", "", [he(3, 4, 3, 3)], filters((0, 0), (0, 0), (2, 3))),
    (CONV, "filter_stride: 3", "", [he(3, 4, 3, 3)], filters((0, 0), (0, 0), (3, 3))),
    (POOL, "AVE_EXC_PAD", "AVE", [], lambda x: average(x, False)),
    (POOL, "AVE_TF", "AVE", [], lambda x: average(x, False)),
    (POOL, "AVE", "AVE_EXC_PAD", [], lambda x: average(x, True)),
    (RELU, "relu6: true", "", [], lambda x: x.clip(0, 6)),
    (
        RELU,
        "relu6: true negative_slope: 0.5",
        "negative_slope: 0.5",
        [],
        lambda x: np.where(x > 0, x, x / 2).clip(None, 6),
    ),
    (PRODUCT, "normalize: true", "", [he(5, 224)], unit),
    (DROPOUT, "scale_train: false", "", [], lambda x: 0.6 * x),
]


@pytest.mark.parametrize(("text", "word", "without", "blobs", "formula"), WORDS, ids=[word for _, word, *_ in WORDS])
def test_a_word_of_a_fork(
    text: str, word: str, without: str, blobs: list[Array], formula: Callable[[Array], Array], tmp_path: Path
) -> None:
    def computed(word: str) -> Array:
        weights = {"l": blobs} if blobs else {"none": [np.ones(1)]}
        return run(save(tmp_path, data(*SIZE) + text.replace("%", word), weights), {"data": x})["y"]

    x = 9 * noise("data", *SIZE)
    wanted, other = formula(x), computed(without)
    np.testing.assert_allclose(computed(word), wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    assert other.shape != wanted.shape or np.abs(other - wanted).max() > 0.1 * np.abs(wanted).max()


SIDES = "pad_l: 1 pad_r: 0 pad_t: 2 pad_b: 1"


def test_padding_by_sides_takes_from_a_deconvolution(tmp_path: Path) -> None:
    text = CONV.replace('"Convolution"', '"Deconvolution"')
    x = {"data": noise("data", *SIZE)}
    whole = run(save(tmp_path, data(*SIZE) + text.replace("%", ""), {"l": [he(4, 3, 3, 3)]}), x)["y"]
    found = run(save(tmp_path, data(*SIZE) + text.replace("%", SIDES), {"l": [he(4, 3, 3, 3)]}), x)["y"]
    np.testing.assert_allclose(found, whole[:, :, 2:-1, 1:], rtol=0, atol=1e-5)


def test_padding_by_sides_in_front_of_im2col(tmp_path: Path) -> None:
    text = layer("Im2col", "l", "data", "y", "convolution_param { kernel_size: 3 % }")
    x = noise("data", *SIZE)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 1), (1, 0)))
    whole = run(save(tmp_path, data(*padded.shape) + text.replace("%", ""), {"x": [np.ones(1)]}), {"data": padded})["y"]
    found = run(save(tmp_path, data(*SIZE) + text.replace("%", SIDES), {"x": [np.ones(1)]}), {"data": x})["y"]
    np.testing.assert_array_equal(found, whole)


def test_folds_into_and_past_the_words(tmp_path: Path) -> None:
    net = data(*SIZE) + CONV.replace("%", "pad_l: 1 pad_b: 2 hole: 2") + bn("b", "y", "y") + scaled("s", "y", "y")
    net += layer("Pooling", "p", "y", "p", "pooling_param { pool: AVE_EXC_PAD kernel_size: 2 pad_r: 1 }") + bn(
        "q", "p", "q"
    )
    weights = {"l": [he(3, 4, 3, 3)], "b": batch_norm(3), "s": scale(3), "q": batch_norm(3, 1)}
    folded = check(save(tmp_path, net, weights))
    assert folded.types == ["Input", "Convolution", "Pooling"]
    assert "pad_l: 1 pad_b: 2 hole: 2" in folded.text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (CONV.replace("%", "pad: 1 pad_l: 1"), "which exclude each other"),
        (CONV.replace("%", "hole: 2 dilation: 2"), "its dilation is given under two names"),
        (CONV.replace("%", "hole: 2 filter_stride: 2"), "its dilation is given under two names"),
        (CONV.replace("%", "hole: 2 hole_h: 2 hole_w: 2"), "go with two spatial axes and without"),
        (POOL.replace("%", "AVE pad_l: 1"), "which exclude each other"),
        (CONV.replace("%", "axis: 2 pad_l: 1"), "pad_l, pad_r, pad_t and pad_b go with two spatial axes"),
    ],
)
def test_words_that_contradict_each_other(text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what):
        onnx_model(*save(tmp_path, data(*SIZE) + text, {"l": [he(3, 4, 3, 3)]}))


@pytest.mark.parametrize(
    ("kind", "param", "blobs", "known"),
    [
        ("BN", "batch_norm_param { eps: 0.1 }", STATISTICS, False),
        ("SyncBN", "bn_param { eps: 0.1 }", STATISTICS, True),
        ("BatchNorm", "bn_param { eps: 0.1 }", batch_norm(4), False),
        ("BatchNorm", "pooling_param { pool: AVE } scale_param { axis: 2 }", batch_norm(4), True),
        ("CuDNNBatchNorm", "batch_norm_param { eps: 0.1 }", STATISTICS, True),
        ("CuDNNBatchNorm", "cudnn_batch_norm_param { eps: 0.1 } batch_norm_param { eps: 0.2 }", STATISTICS, False),
        ("CuDNNBatchNorm", "batch_norm_param { relu: true }", STATISTICS, False),
        ("ReLU6", "relu_param { negative_slope: 0.5 }", [], False),
        ("ReLU6", "relu_param { engine: CAFFE }", [], True),
        ("ReLU", "relu6_param { negative_slope: 0.5 }", [], False),
        ("ReLU", "prelu_param { channel_shared: true }", [], True),
        ("ReLU", "quantization_param { bw: 8 }", [], True),
    ],
)
def test_a_message_that_the_type_does_not_read(
    kind: str, param: str, blobs: list[Array], known: bool, tmp_path: Path
) -> None:
    """BVLC's types read their own message alone, as its Caffe shows; what forks read beside theirs nobody knows."""
    net = save(
        tmp_path, data() + layer(kind, "l", "data", "y", param), {"l": blobs} if blobs else {"none": [np.ones(1)]}
    )
    opaque = list(lower(load(*net)).opaque.values())
    assert (not opaque) == known
    assert known or re.search(r"what \S+ means to type \w+ is not known", opaque[0].reason)


# ------------------------------------------------------------------------------- weights that the layer changes itself


@pytest.mark.parametrize("how", ["transposed", "short"])
def test_normalised_weights_of_which_forks_differ_are_opaque(how: str, tmp_path: Path) -> None:
    word = "normalize: true" + " transpose: true" * (how == "transposed")
    blobs = [he(224, 5) if how == "transposed" else 0.1 * he(5, 224)]
    lowered = lower(load(*save(tmp_path, data(*SIZE) + PRODUCT.replace("%", word), {"l": blobs})))
    assert [node.op for node in lowered.graph.nodes] == ["caffe.InnerProduct"]


def test_normalised_weights_take_no_affine(tmp_path: Path) -> None:
    net = data(*SIZE) + PRODUCT.replace("%", "normalize: true") + bn("b", "y", "z")
    folded = check(save(tmp_path, net, {"l": [he(5, 224)], "b": batch_norm(5)}))
    (decision,) = folded.result.plans[0][1].decisions
    assert not decision.into
    assert [reason.code for reason in decision.reasons][:1] == ["normalised"]
    assert "InnerProduct 'l' divides its weights by their length" in decision.reasons[0].sentence


def test_quantised_layers_keep_their_weights_unless_asked(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c", body="quantization_param { scale_params: 3 bw: 8 }") + bn("b", "c", "c")
    files = save(tmp_path, net, {"c": [he(4, 4, 1, 1), he(4)], "b": batch_norm(4)})
    kept = check(files)
    (decision,) = kept.result.plans[0][1].decisions
    assert (decision.reasons[0].code, "--fold-quantized" in decision.reasons[0].advice) == ("quantization-scales", True)
    assert kept.types == ["Input", "Convolution", "Scale"]
    np.testing.assert_array_equal(kept.blobs["c"][0], he(4, 4, 1, 1))
    assert check(files, fold_quantized=True).types == ["Input", "Convolution"]


# ------------------------------------------------------------------------------------------------ NVIDIA's BatchNorm

NVIDIA = [noise("mean", 4), noise("variance", 4) ** 2, np.zeros(1, np.float32), noise("gamma", 4), noise("beta", 4)]


@pytest.mark.parametrize("word", ["scale_bias: true", "scale_filler { }", "bias_filler { type: 'constant' value: 0 }"])
def test_nvidias_five_blobs(word: str, tmp_path: Path) -> None:
    """γ(x − μ)/√(σ² + eps) + β, the third blob unread; read as Intel's, its 0 makes the statistics 0."""
    mean, variance, _, gamma, beta = (array.astype(np.float64).reshape(-1, 1, 1) for array in NVIDIA)
    x = noise("data", 2, 4, 6, 6)
    wanted = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    files = save(tmp_path, data() + bn("b", "data", "y", f"eps: 0.001 {word}"), {"b": NVIDIA})
    np.testing.assert_allclose(run(files, {"data": x})["y"], wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    intel = save(tmp_path, data() + bn("b", "data", "y", "eps: 0.001 filler { } bias_filler { }"), {"b": NVIDIA})
    assert np.abs(run(intel, {"data": x})["y"] - wanted).max() > 0.1 * np.abs(wanted).max()


def test_a_factor_of_0_is_doubted(tmp_path: Path) -> None:
    """BVLC takes the statistics for 0, NVIDIA reads no factor: folded as BVLC does, said, and refused where strict."""
    files = save(
        tmp_path, data() + conv("c", "data", "c") + bn("b", "c", "c"), {"c": [he(4, 4, 1, 1), he(4)], "b": NVIDIA[:3]}
    )
    folded = check(files)
    assert folded.types == ["Input", "Convolution"]
    (notice,) = folded.result.notices
    assert (notice.code, notice.hint) == ("factor", "if the file is NVIDIA's, give --bn-blobs mean,variance,unused")
    np.testing.assert_allclose(folded.blobs["c"][0], he(4, 4, 1, 1) / 1e-5**0.5, rtol=1e-6)
    with pytest.raises(StrictError, match="the factor of mean and variance is 0"):
        fold(files, strict=True)
    read = check(files, bn_blobs="mean,variance,unused", strict=True)
    assert not read.result.notices
    deviation = np.sqrt(NVIDIA[1] + 1e-5).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(read.blobs["c"][0], he(4, 4, 1, 1) / deviation, rtol=1e-6)


@pytest.mark.parametrize("statistics", [[np.zeros(4), np.zeros(4), np.zeros(1)], batch_norm(4)])
def test_no_doubt_where_both_readings_are_one(statistics: list[Array], tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + bn("b", "c", "c")
    assert not fold(save(tmp_path, net, {"c": [he(4, 4, 1, 1), he(4)], "b": statistics}), strict=True).result.notices


# ------------------------------------------------------------------------------------------------- Intel's fused Scale


@pytest.mark.parametrize("before", ["", conv("c", "data", "c"), layer("Mystery", "m", "data", "c")])
def test_a_scale_that_was_fused_into_its_batch_norm_is_the_identity(before: str, tmp_path: Path) -> None:
    blobs = [*batch_norm(4), *scale(4)]
    source = "c" if before else "data"
    fused = data() + before + bn("b", source, "y", "use_global_stats: true") + scaled("s", "y", "z")
    weights = {"c": [he(4, 4, 1, 1), he(4)], "b": blobs}
    folded = fold(save(tmp_path, fused, weights))
    assert [notice.code for notice in folded.result.notices] == ["fused-scale"]
    if "Mystery" in before:
        return
    apart = data() + before + bn("b", source, "y") + scaled("s", "y", "z")
    wanted = run(save(tmp_path, apart, {**weights, "b": blobs[:3], "s": blobs[3:]}, "apart"))
    found = run(folded.files)
    np.testing.assert_allclose(found["z"], wanted["z"], rtol=0, atol=2e-6 * np.abs(wanted["z"]).max())


def test_a_scale_without_weights_elsewhere_is_a_fault(tmp_path: Path) -> None:
    net = data() + bn("b", "data", "y") + scaled("s", "y", "z")
    with pytest.raises(InputError, match="the layer has no weights"):
        fold(save(tmp_path, net, {"b": batch_norm(4)}))
