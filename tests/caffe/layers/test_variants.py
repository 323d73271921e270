"""Every BatchNorm of the Caffe family folds right, and none of the wrong results that such tools are known for comes.

What a folded net gives is compared with formulas in NumPy, written here for convolutions of kernel 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold.errors import AmbiguousError
from bnfold.planner.records import Decision

from ..build import Array, Folded, batch_norm, bn, check, conv, data, fold, he, layer, noise, run, save, scale, scaled
from .test_layers_batchnorm import FORMS, MEAN, PLAIN, VARIANCE, C, X, text

UNIT = np.eye(C, dtype=np.float32).reshape(C, C, 1, 1)
"""The filter of a convolution that gives what it reads."""
INPUT = noise("data", 2, 4, 6, 6)
W, BIAS = he(4, 4, 1, 1), he(4, 1, seed=3)[:, 0]
M, V, F = batch_norm(4)


def behind(head: str, form: str) -> str:
    """The net of `form`, which reads x, with `head` between x and it."""
    kind, param, _, _ = FORMS[form]
    net = text(kind, param)
    return net[: net.index("layer")] + head + net[net.index("layer") :].replace('bottom: "x"', 'bottom: "c"')


def product(weight: Array, x: Array) -> Array:
    return np.asarray(np.einsum("oi,nihw->nohw", weight[:, :, 0, 0].astype(np.float64), x.astype(np.float64)))


def column(vector: Array) -> Array:
    return np.asarray(vector, np.float64).reshape(-1, 1, 1)


def normal(x: Array, blobs: list[Array], eps: float = 1e-5) -> Array:
    """BVLC's BatchNorm."""
    mean, variance, factor = (blob.astype(np.float64) for blob in blobs)
    return np.asarray((x - column(mean / factor)) / np.sqrt(column(variance / factor) + eps))


def close(found: Array, wanted: Array) -> bool:
    return bool(np.abs(found - wanted).max() <= 3e-6 * np.abs(wanted).max())


def decision(folded: Folded) -> Decision:
    (found,) = folded.result.plans[0][1].decisions
    return found


# -------------------------------------------------------------------------------------------------------- all the forms

OF_BATCH = {form for form in FORMS if "batch" in form or "LEARN" in form}
FOLDS = [form for form in FORMS if form not in OF_BATCH and "ReLU" not in form]


@pytest.mark.parametrize("form", FOLDS)
def test_form_folds(tmp_path: Path, form: str) -> None:
    _, _, blobs, wanted = FORMS[form]
    net = behind(conv("c", "x", "c", C, more="bias_term: false"), form)
    folded = check(save(tmp_path, net, {"c": [UNIT], "l": blobs}))
    assert folded.types == ["Input", "Convolution"]
    assert np.abs(run(folded.files, {"x": X})["y"] - wanted).max() <= 5e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("form", FOLDS)
def test_form_stays_as_one_scale_or_bias(tmp_path: Path, form: str) -> None:
    _, _, blobs, wanted = FORMS[form]
    folded = check(save(tmp_path, behind(layer("TanH", "c", "x", "c"), form), {"l": blobs}))
    assert folded.types == ["Input", "TanH", "Bias" if "no variance" in form else "Scale"]
    assert "bn_param" not in folded.text
    assert "batch_norm_param" not in folded.text
    x = np.clip(X, -0.9, 0.9)  # the layer reads what TanH makes of artanh x
    blobs = folded.blobs["l"]
    slope, shift = ([np.ones(C), *blobs] if "no variance" in form else [*blobs, np.zeros(C)])[:2]
    line = column(slope) * x + column(shift)
    ends = run(folded.files, {"x": np.arctanh(x).astype(np.float32)})["y"]
    assert np.allclose(ends, line, rtol=1e-4, atol=1e-5)
    assert np.abs(column(slope) * X + column(shift) - wanted).max() <= 5e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("form", sorted(OF_BATCH))
def test_statistics_of_the_batch_stay(tmp_path: Path, form: str) -> None:
    _, _, blobs, wanted = FORMS[form]
    net = behind(conv("c", "x", "c", C, more="bias_term: false"), form)
    folded = check(save(tmp_path, net, {"c": [UNIT], "l": blobs}))
    assert folded.text == net
    assert np.abs(run(folded.files, {"x": X})["y"] - wanted).max() <= 5e-6 * np.abs(wanted).max()
    (stayed,) = folded.result.plans[0][1].stayed
    assert (stayed.node, stayed.reason.code) == ("l", "batch-statistics")


ORDERS = {
    "mean,variance,factor,gamma,beta": ("gamma", "beta", "mean", "variance", "unused"),
    "gamma,beta,mean,variance,unused": ("mean", "variance", "factor", "gamma", "beta"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_an_ambiguous_order_is_refused_with_both_readings_and_folds_when_told(tmp_path: Path, order: str) -> None:
    values = {"mean": 0.5, "variance": 4.0, "factor": 1.0, "gamma": 3.0, "beta": 2.0, "unused": 1.0}
    blobs = [np.full(1, values[part], np.float32) for part in order.split(",")]
    net = data(1, 1, 2, 2) + conv("c", "data", "c", 1) + bn("l", "c", "y")
    files = save(tmp_path, net, {"c": [he(1, 1, 1, 1), he(1)], "l": blobs})
    with pytest.raises(AmbiguousError) as caught:
        fold(files)
    assert order.replace(",", ", ") in caught.value.what
    assert ", ".join(ORDERS[order]) in caught.value.what
    assert "--bn-blobs" in caught.value.hint
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    wanted = 3 * (he(1, 1, 1, 1)[0, 0] * x + he(1)[0] - 0.5) / np.sqrt(4 + 1e-5) + 2
    folded = fold(files, bn_blobs=order)
    assert folded.types == ["Input", "Convolution"]
    assert close(run(folded.files, {"data": x})["y"], wanted)


def test_inverse_deviations_of_old_files(tmp_path: Path) -> None:
    gamma, beta, mean, _ = PLAIN
    blobs = [gamma, beta, mean, (1 / np.sqrt(VARIANCE)).astype(np.float32)]
    files = save(
        tmp_path, behind(conv("c", "x", "c", C), "yjxiong"), {"c": [UNIT, np.zeros(C, np.float32)], "l": blobs}
    )
    folded = fold(files, bn_blobs="gamma,beta,mean,inverse-deviation")
    wanted = column(gamma) * (X - column(MEAN)) / np.sqrt(column(VARIANCE)) + column(beta)
    assert close(run(folded.files, {"x": X})["y"], wanted)


# ------------------------------------------------------------------------------------- wrong results of other tools


def test_eps_is_the_layers_own_and_under_the_root(tmp_path: Path) -> None:
    for eps in (0.0, 2.2e-16, 1e-3, 0.7):
        net = data() + conv("c", "data", "c") + bn("b", "c", "y", f"eps: {eps}")
        folded = fold(save(tmp_path, net, {"c": [W, BIAS], "b": [M, V, F]}))
        wanted = normal(product(W, INPUT) + column(BIAS), [M, V, F], eps)
        assert close(run(folded.files, {"data": INPUT})["y"], wanted), eps


@pytest.mark.parametrize("factor", [0.0, 1.0, 0.5, 999.98])
def test_the_factor(tmp_path: Path, factor: float) -> None:
    net = data() + conv("c", "data", "c") + bn("b", "c", "y", "eps: 0.01")
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "b": [M, V, np.array([factor], np.float32)]}))
    x = product(W, INPUT) + column(BIAS)
    wanted = 10 * x if factor == 0 else normal(x, [M, V, np.array([factor], np.float32)], 0.01)
    assert close(run(folded.files, {"data": INPUT})["y"], wanted)


def test_no_chain_is_folded_across_a_relu_in_place(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + layer("ReLU", "r", "c", "c") + bn("b", "c", "c")
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "b": [M, V, F]}))
    wanted = normal((product(W, INPUT) + column(BIAS)).clip(0), [M, V, F])
    assert close(run(folded.files, {"data": INPUT})["c"], wanted)
    assert folded.types in (["Input", "Convolution", "ReLU", "Bias"], ["Input", "Convolution", "ReLU", "Scale"])


def test_neighbours_in_the_list_need_not_be_neighbours_in_the_net(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + conv("d", "data", "d") + bn("b", "c", "y") + scaled("s", "d", "z")
    gamma, beta = scale(4)
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "d": [2 * W, -BIAS], "b": [M, V, F], "s": [gamma, beta]}))
    assert folded.types == ["Input", "Convolution", "Convolution"]
    found = run(folded.files, {"data": INPUT})
    assert close(found["y"], normal(product(W, INPUT) + column(BIAS), [M, V, F]))
    assert close(found["z"], column(gamma) * (product(2 * W, INPUT) - column(BIAS)) + column(beta))


def test_another_reader_of_the_convolution(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + bn("b", "c", "y") + layer("TanH", "t", "c", "z")
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "b": [M, V, F]}))
    x = product(W, INPUT) + column(BIAS)
    found = run(folded.files, {"data": INPUT})
    assert close(found["y"], normal(x, [M, V, F]))
    assert close(found["z"], np.tanh(x))
    assert decision(folded).reasons[0].code == "readers"


@pytest.mark.parametrize("bias", [True, False])
def test_a_scale_without_batch_norm(tmp_path: Path, bias: bool) -> None:
    gamma, beta = scale(4)
    net = data() + conv("c", "data", "c") + scaled("s", "c", "y", "bias_term: true" if bias else "")
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "s": [gamma, beta][: 1 + bias]}))
    assert folded.types == ["Input", "Convolution"]
    wanted = column(gamma) * (product(W, INPUT) + column(BIAS)) + (column(beta) if bias else 0)
    assert close(run(folded.files, {"data": INPUT})["y"], wanted)


@pytest.mark.parametrize("axis", [2, -1])
def test_a_scale_along_another_axis_does_not_fold(tmp_path: Path, axis: int) -> None:
    gamma = np.array([1, 2, 3, 4], np.float32)
    net = data(2, 4, 4, 4) + conv("c", "data", "c") + scaled("s", "c", "y", f"axis: {axis}")
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "s": [gamma]}))
    assert folded.text == net
    assert decision(folded).reasons[0].code == "axis"
    x = INPUT[:, :, :4, :4]
    factor = gamma.reshape((4, 1) if axis == 2 else (1, 4))
    assert close(run(folded.files, {"data": x})["y"], factor * (product(W, x) + column(BIAS)))


def test_a_second_bottom_is_no_constant(tmp_path: Path) -> None:
    net = (
        data()
        + data(2, 4, name="gate")
        + conv("c", "data", "c")
        + layer("Scale", "s", "c gate", "y", "scale_param { axis: 0 }")
    )
    folded = fold(save(tmp_path, net, {"c": [W, BIAS]}))
    assert folded.text == net
    gate = noise("gate", 2, 4)
    found = run(folded.files, {"data": INPUT, "gate": gate})["y"]
    assert close(found, gate[:, :, None, None] * (product(W, INPUT) + column(BIAS)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_deconvolution_has_its_output_channels_on_axis_1_of_each_group(tmp_path: Path, groups: int) -> None:
    param = f"convolution_param {{ num_output: 8 kernel_size: 1 group: {groups} bias_term: false }}"
    net = data() + layer("Deconvolution", "d", "data", "d", param) + bn("b", "d", "y")
    weight, blobs = he(4, 8 // groups, 1, 1), batch_norm(8)
    folded = fold(save(tmp_path, net, {"d": [weight], "b": blobs}))
    assert folded.types == ["Input", "Deconvolution"]
    x = np.split(INPUT, groups, 1)
    parts = [product(w.swapaxes(0, 1), part) for w, part in zip(np.split(weight, groups), x, strict=True)]
    assert close(run(folded.files, {"data": INPUT})["y"], normal(np.concatenate(parts, 1), blobs))


@pytest.mark.parametrize("transpose", [False, True])
def test_an_inner_product_and_its_transpose(tmp_path: Path, transpose: bool) -> None:
    weight, blobs = he(3, 4), batch_norm(3)
    param = f"inner_product_param {{ num_output: 3 bias_term: false transpose: {str(transpose).lower()} }}"
    net = data(5, 4) + layer("InnerProduct", "i", "data", "i", param) + bn("b", "i", "y")
    folded = fold(save(tmp_path, net, {"i": [weight.T.copy() if transpose else weight], "b": blobs}))
    assert folded.types == ["Input", "InnerProduct"]
    x = noise("rows", 5, 4)
    wanted = normal((x.astype(np.float64) @ weight.T.astype(np.float64))[:, :, None, None], blobs)[:, :, 0, 0]
    assert close(run(folded.files, {"data": x})["y"], wanted)


def test_a_filter_that_two_layers_share_is_folded_once_for_each(tmp_path: Path) -> None:
    shared = 'param { name: "w" } param { name: "b" }'
    net = data() + conv("c", "data", "c", body=shared) + conv("d", "data", "d", body=shared)
    net += bn("n", "c", "y") + bn("m", "d", "z")
    other = batch_norm(4, 1)
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "n": [M, V, F], "m": other}))
    x, found = product(W, INPUT) + column(BIAS), run(folded.files, {"data": INPUT})
    assert close(found["y"], normal(x, [M, V, F]))
    assert close(found["z"], normal(x, other))


def test_coefficients_of_a_sum(tmp_path: Path) -> None:
    net = data() + conv("c", "data", "c") + conv("d", "data", "d")
    net += layer("Eltwise", "e", "c d", "e", "eltwise_param { operation: SUM coeff: 2 coeff: -3 }") + bn("b", "e", "y")
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "d": [W[::-1].copy(), BIAS], "b": [M, V, F]}))
    assert folded.types == ["Input", "Convolution", "Convolution", "Eltwise"]
    wanted = 2 * (product(W, INPUT) + column(BIAS)) - 3 * (product(W[::-1], INPUT) + column(BIAS))
    assert close(run(folded.files, {"data": INPUT})["y"], normal(wanted, [M, V, F]))


def test_an_average_that_counts_padding_lets_no_shift_pass(tmp_path: Path) -> None:
    pool = layer("Pooling", "p", "c", "p", "pooling_param { pool: AVE kernel_size: 3 stride: 3 pad: 1 }")
    net = data(2, 4, 5, 5) + conv("c", "data", "c") + pool + bn("b", "p", "y")
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "b": [M, V, F]}))
    x = np.pad(product(W, INPUT[:, :, :5, :5]) + column(BIAS), ((0, 0), (0, 0), (1, 1), (1, 1)))
    wanted = normal(x[:, :, :6, :6].reshape(2, 4, 2, 3, 2, 3).mean((3, 5)), [M, V, F])
    assert close(run(folded.files, {"data": INPUT[:, :, :5, :5]})["y"], wanted)
    assert folded.types == ["Input", "Convolution", "Pooling", "Bias"]


def test_a_maximum_lets_no_negative_multiplier_pass(tmp_path: Path) -> None:
    pool = layer("Pooling", "p", "c", "p", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
    net = data() + conv("c", "data", "c") + pool + scaled("s", "p", "y", "")
    gamma = np.array([1, -2, 3, -4], np.float32)
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "s": [gamma]}))
    x = (product(W, INPUT) + column(BIAS)).reshape(2, 4, 3, 2, 3, 2).max((3, 5))
    assert close(run(folded.files, {"data": INPUT})["y"], column(gamma) * x)
    assert "channels 1, 3" in decision(folded).reasons[0].sentence


@pytest.mark.parametrize("bad", [-7e-44, -0.9e-5, 1.4e-45, 0.0])
def test_dead_channels_and_slightly_negative_variances_fold(tmp_path: Path, bad: float) -> None:
    variance = V / F
    variance[2] = bad
    net = data() + conv("c", "data", "c") + bn("b", "c", "y")
    blobs = [M, variance, np.ones(1, np.float32)]
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "b": blobs}))
    assert folded.types == ["Input", "Convolution"]
    wanted = normal(product(W, INPUT) + column(BIAS), blobs)
    found = run(folded.files, {"data": INPUT})["y"]
    for channel in range(4):
        assert close(found[:, channel], wanted[:, channel])


@pytest.mark.parametrize("bad", [-1.1e-5, -1.0, np.nan, np.inf])
def test_a_variance_without_a_root_stays_and_its_channel_is_told(tmp_path: Path, bad: float) -> None:
    variance = V / F
    variance[2] = bad
    net = data() + conv("c", "data", "c") + bn("b", "c", "y")
    folded = fold(save(tmp_path, net, {"c": [W, BIAS], "b": [M, variance, np.ones(1, np.float32)]}))
    assert folded.text == net
    (stayed,) = folded.result.plans[0][1].stayed
    assert stayed.reason.code == "variance"
    assert stayed.reason.sentence.endswith("in channels 2")


def test_no_shift_goes_down_into_padding(tmp_path: Path) -> None:
    """It would be wrong at the border only, which a check of the middle misses."""
    net = data() + bn("b", "data", "x") + conv("c", "x", "y", kernel=3, more="pad: 1 bias_term: false")
    weight = he(4, 4, 3, 3)
    folded = fold(save(tmp_path, net, {"b": [M, V, F], "c": [weight]}))
    assert folded.types == ["Input", "Bias", "Convolution"]
    x = np.pad(normal(INPUT, [M, V, F]), ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    parts = [product(weight[:, :, i : i + 1, j : j + 1], x[:, :, i : i + 6, j : j + 6]) for i, j in taps]
    assert close(run(folded.files, {"data": INPUT})["y"], np.sum(parts, axis=0))
