"""Weights in `raw_data`, as NVIDIA's Caffe and OpenCV's tools write them: read, folded in their own type, or kept."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from bnfold import protobuf
from bnfold.caffe import edit
from bnfold.caffe.weights.blob import Blob, NewBlob, decode, encode
from bnfold.caffe.weights.caffemodel import Caffemodel
from bnfold.errors import InputError
from bnfold.options import Options
from bnfold.pipeline import MismatchError, Result, explain
from bnfold.pipeline import fold as fold_files
from bnfold.protobuf import Rope

from ..build import (
    Array,
    Files,
    Folded,
    assert_equal,
    batch_norm,
    blob,
    bn,
    check,
    conv,
    data,
    fold,
    he,
    layer,
    run,
    save,
    scale,
    scaled,
    stored,
)
from ..test_random_nets import random_net

TYPE, RAW = 10, 12
NUMBERS = {np.dtype(np.float64): 0, np.dtype(np.float32): 1, np.dtype(np.float16): 2}
HALF = 2e-3
"""Relative to the largest element of an output: a few weights rounded to float16."""
DTYPES = [np.float16, np.float32, np.float64]


def raw(array: Array, *, legacy: bool = False, dtype: Any = None) -> bytes:
    """A BlobProto whose values are in `raw_data`, in the type of `array` unless another is given."""
    array = array if dtype is None else array.astype(dtype)
    shape = blob(np.zeros(array.shape, np.float32), legacy=legacy)
    kept = b"".join(shape[f.start : f.end] for f in protobuf.fields(shape) if f.number != 5)
    return kept + protobuf.integer(TYPE, NUMBERS[array.dtype]) + protobuf.delimited(RAW, array.tobytes())


def raw_net(folder: Path, text: str, weights: dict[str, list[Array]], dtype: Any = np.float16) -> Files:
    return save(folder, text, [stored(name, *(raw(a, dtype=dtype) for a in made)) for name, made in weights.items()])


def read(proto: bytes) -> Blob:
    content = memoryview(protobuf.delimited(7, proto))
    return decode(content, next(protobuf.fields(content)), "net, layer c, blob 0")


def written(new: NewBlob) -> bytes:
    return content(encode(new))


def content(rope: Rope) -> bytes:
    return b"".join(bytes(p) if isinstance(p, bytes | memoryview) else bytes(p.produce()) for p in rope.pieces)


def codes(result: Result) -> set[str]:
    return {reason.code for _, plan in result.plans for decision in plan.decisions for reason in decision.reasons}


def kinds(folded: Folded) -> set[tuple[str, bool]]:
    return {(b.dtype.name, b.raw) for item in Caffemodel(folded.files.caffemodel).layers for b in item.blobs}


# ------------------------------------------------------------------------------------------------- reading and writing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("legacy", [False, True])
def test_raw_data_is_read_and_written_in_its_type(dtype: Any, legacy: bool) -> None:
    values = np.array([[1.5, -2.25, 0], [65504, 2.0**-24, -0.1]], dtype)
    proto = raw(values, legacy=legacy)
    found = read(proto)
    assert (found.dtype, found.raw, found.shape) == (values.dtype, True, (1, 1, 2, 3) if legacy else (2, 3))
    np.testing.assert_array_equal(found.array().reshape(2, 3), values, strict=True)
    assert written(found.like(found.array)) == proto


def test_floats_outweigh_raw_data_and_doubles_both() -> None:
    floats, doubles = blob(np.ones(2, np.float32)), blob(np.full(2, 2.0))
    half = raw(np.full(2, 3, np.float16))
    for protos, value in [((floats, half), 1), ((half, floats), 1), ((half, floats, doubles), 2), ((half,), 3)]:
        shape, *parts = [proto.partition(floats[:5]) for proto in protos]  # the shape once
        found = read(shape[1] + shape[2] + b"".join(part[2] for part in parts))
        np.testing.assert_array_equal(found.array(), [value] * 2)
        assert found.raw == (value == 3)


def test_of_raw_data_the_last_counts_and_differences_do_not() -> None:
    first, last = raw(np.zeros(2)), raw(np.array([1, 2], np.float16))
    diff = protobuf.integer(11, 1) + protobuf.delimited(13, bytes(8))
    found = read(diff + first + diff + last.removeprefix(first[:5]) + diff)
    np.testing.assert_array_equal(found.array(), np.array([1, 2], np.float16), strict=True)


SHAPE = protobuf.delimited(7, protobuf.integer(1, 2))


@pytest.mark.parametrize(
    ("proto", "what"),
    [
        (protobuf.delimited(RAW, bytes(4)), "raw_data without raw_data_type"),
        (protobuf.integer(TYPE, 3) + protobuf.delimited(RAW, bytes(8)), "type INT "),
        (protobuf.integer(TYPE, 4) + protobuf.delimited(RAW, bytes(8)), "type UINT "),
        (protobuf.integer(TYPE, 9) + protobuf.delimited(RAW, bytes(8)), "type 9 "),
        (protobuf.integer(TYPE, -1) + protobuf.delimited(RAW, bytes(8)), "type 18446744073709551615 "),
        (protobuf.integer(TYPE, 2) + protobuf.delimited(RAW, bytes(5)), "needs 2 values, the file has 2.5"),
        (protobuf.integer(TYPE, 2) + protobuf.delimited(RAW, bytes(8)), "needs 2 values, the file has 4"),
        (protobuf.integer(TYPE, 2) + protobuf.delimited(RAW, b""), "needs 2 values, the file has 0"),
        (protobuf.integer(TYPE, 2), "needs 2 values, the file has 0"),
    ],
)
def test_raw_data_that_is_no_weight_is_refused(proto: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        read(SHAPE + proto)
    assert caught.value.where == "net, layer c, blob 0"


# ------------------------------------------------------------------------------------------------------------- folding

NETS: dict[str, tuple[str, dict[str, list[Array]]]] = {
    "conv": (
        conv("c", "data", "c", more="bias_term: false") + bn("b", "c", "b") + scaled("s", "b", "s"),
        {"c": [he(4, 4, 1, 1)], "b": batch_norm(4), "s": scale(4)},
    ),
    "grouped": (
        conv("c", "data", "c", kernel=3, more="group: 2") + bn("b", "c", "b") + scaled("s", "b", "s"),
        {"c": [he(4, 2, 3, 3), he(4, 2)[:, 0]], "b": batch_norm(4), "s": scale(4)},
    ),
    "deconv": (
        layer("Deconvolution", "c", "data", "c", "convolution_param { num_output: 6 kernel_size: 2 bias_term: false }")
        + bn("b", "c", "b"),
        {"c": [he(4, 6, 2, 2)], "b": batch_norm(6)},
    ),
    "inner product": (
        layer("InnerProduct", "c", "data", "c", "inner_product_param { num_output: 5 bias_term: false }")
        + bn("b", "c", "b")
        + scaled("s", "b", "s"),
        {"c": [he(5, 144)], "b": batch_norm(5), "s": scale(5)},
    ),
    "pooling": (
        conv("c", "data", "c", more="bias_term: false")
        + layer("Pooling", "p", "c", "p", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }")
        + bn("b", "p", "b"),
        {"c": [he(4, 4, 1, 1)], "b": batch_norm(4)},
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(NETS))
def test_folds_keep_the_type_and_the_style(tmp_path: Path, name: str, dtype: Any) -> None:
    text, weights = NETS[name]
    files = raw_net(tmp_path, data() + text, weights, dtype)
    folded = fold(files, verify=True)
    assert "BatchNorm" not in folded.types
    assert kinds(folded) == {(np.dtype(dtype).name, True)}
    assert len(folded.blobs["c"]) == 2
    assert_equal(run(files), run(folded.files), HALF if dtype is np.float16 else 2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_raw_numbers_fold_as_the_same_numbers_elsewhere(tmp_path: Path, dtype: Any) -> None:
    text, weights = NETS["grouped"]
    weights = {name: [a.astype(dtype) for a in arrays] for name, arrays in weights.items()}
    plain = fold(save(tmp_path, data() + text, weights)).blobs
    found = fold(raw_net(tmp_path, data() + text, weights, dtype)).blobs
    for one, other in zip(plain["c"], found["c"], strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_half_weights_are_rounded_once(tmp_path: Path) -> None:
    text, weights = NETS["conv"]
    halves = {name: [a.astype(np.float16) for a in arrays] for name, arrays in weights.items()}
    (weight,), (mean, variance, factor), (gamma, beta) = (
        [a.astype(np.float64) for a in arrays] for arrays in halves.values()
    )
    a = gamma / np.sqrt(variance / factor + np.float32(1e-5))
    found = fold(raw_net(tmp_path, data() + text, weights)).blobs["c"]
    np.testing.assert_array_equal(found[0], (weight * a[:, None, None, None]).astype(np.float16), strict=True)
    np.testing.assert_array_equal(found[1], (beta - a * mean / factor).astype(np.float16), strict=True)


def test_blobs_that_no_fold_touches_keep_their_bytes(tmp_path: Path) -> None:
    text, weights = NETS["conv"]
    kept = stored(
        "last", raw(he(2, 4, 1, 1), dtype=np.float16) + protobuf.integer(11, 1) + protobuf.delimited(13, b"\x01\x02")
    )
    made = [stored(name, *(raw(a, dtype=np.float16) for a in arrays)) for name, arrays in weights.items()]
    last = layer("Sigmoid", "g", "s", "g") + conv("last", "g", "y", outs=2, more="bias_term: false")
    folded = check_half(save(tmp_path, data() + text + last, [*made, kept]))
    assert kept in folded.files.caffemodel.read_bytes()


def check_half(files: Files) -> Folded:
    folded = fold(files, verify=True)
    assert_equal(run(files), run(folded.files), HALF)
    return folded


def test_layers_of_2014(tmp_path: Path) -> None:
    text = 'input: "data" input_dim: 2 input_dim: 4 input_dim: 6 input_dim: 6\n'
    text += 'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" '
    text += "convolution_param { num_output: 4 kernel_size: 1 } }\n"
    text += 'layers { name: "p" type: POWER bottom: "c" top: "p" power_param { scale: 0.3 shift: 0.7 } }\n'
    blobs = [protobuf.delimited(6, raw(a, legacy=True, dtype=np.float16)) for a in (he(4, 4, 1, 1), he(4, 2)[:, 0])]
    weights = protobuf.delimited(2, protobuf.string(4, "c") + protobuf.integer(5, 4) + b"".join(blobs))
    folded = check_half(save(tmp_path, text, [weights]))
    assert folded.types == ["Input", "Convolution"]
    assert kinds(folded) == {("float16", True)}
    assert [b.legacy for b in Caffemodel(folded.files.caffemodel).layers[0].blobs] == [True, True]


def test_shared_weights_stay_half(tmp_path: Path) -> None:
    shares = 'param { name: "w" } param { name: "b" }'
    text = data() + conv("one", "data", "one", body=shares) + bn("n", "one", "n")
    text += conv("two", "data", "two", body=shares) + layer("Eltwise", "sum", "n two", "sum")
    folded = check_half(raw_net(tmp_path, text, {"one": [he(4, 4, 1, 1), he(4, 2)[:, 0]], "n": batch_norm(4)}))
    assert folded.types == ["Input", "Convolution", "Convolution", "Eltwise"]
    assert kinds(folded) == {("float16", True)}


# ---------------------------------------------------------------------------------------------- what half cannot hold

AFFINE = layer("Sigmoid", "g", "data", "g") + bn("b", "g", "b") + scaled("s", "b", "s") + layer("TanH", "t", "s", "t")


def affine(a: float, b: float) -> dict[str, list[Array]]:
    """Blobs of `AFFINE` in float16 that make ±a·x + b of it."""
    ones = np.ones(4)
    return {"b": [0 * ones, ones * 1e-4, np.ones(1)], "s": [ones * a / 100 * [1, -1, 1, -1], ones * b]}


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [(2, 0.5, "float16"), (2, 1e-6, "float16"), (0.005, 0.5, "float16"), (4e6, 0.5, "float32"), (4e-5, 3, "float32")],
)
def test_a_merged_scale_is_half_where_half_holds_it(tmp_path: Path, a: float, b: float, kind: str) -> None:
    files = raw_net(tmp_path, data() + AFFINE, affine(a, b))
    folded = check_half(files)
    assert folded.types == ["Input", "Sigmoid", "Scale", "TanH"]
    assert kinds(folded) == {(kind, True)}
    factor = np.array([1, -1, 1, -1]) * np.float64(np.float16(a / 100)) / np.sqrt(np.float64(np.float16(1e-4)) + 1e-5)
    np.testing.assert_allclose(folded.blobs["s"][0], factor, rtol=2**-11)


def test_a_batch_norm_does_not_grow_to_be_a_scale(tmp_path: Path) -> None:
    text = data() + layer("Sigmoid", "g", "data", "g") + bn("b", "g", "b") + layer("TanH", "t", "b", "t")
    made = {"b": [np.zeros(4), np.ones(4), np.ones(1)]}
    small = fold(raw_net(tmp_path, text, made))
    assert small.types == ["Input", "Sigmoid", "Scale", "TanH"]
    huge = {"b": [np.full(4, 6e4), np.full(4, 1e-4), np.ones(1)]}  # its shift fits into no half
    assert fold(raw_net(tmp_path, text, huge)).types == ["Input", "Sigmoid", "BatchNorm", "TanH"]


def behind(weight: Array, gamma: Array) -> tuple[str, dict[str, list[Array]]]:
    outs = len(weight)
    text = conv("c", "data", "c", outs=outs) + scaled("s", "c", "s") + layer("TanH", "t", "s", "t")
    return data() + text, {"c": [weight, np.full(outs, 0.5)], "s": [gamma, np.full(outs, 0.25)]}


ONES = np.ones((4, 4, 1, 1))


@pytest.mark.parametrize(
    ("weight", "gamma", "code"),
    [
        (ONES * 300, np.full(4, 250.0), "overflow"),
        (ONES, np.full(4, 2.0**-15), "underflow"),
        (ONES, np.array([1, 1, 2.0**-15, 1]), "underflow"),
        (ONES, np.full(4, 2.0**-14), "cancellation"),
        (ONES, np.array([1, 1, 0, 1]), ""),
        (np.where(np.eye(4)[:, :, None, None] > 0, 1, 2.0**-14), np.full(4, 0.5), ""),
        (ONES * 2.0**-20, np.full(4, 0.5), "underflow"),
        (ONES * 2.0**-20, np.full(4, 2.0), ""),
    ],
)
def test_a_fold_that_half_cannot_hold_is_kept(tmp_path: Path, weight: Array, gamma: Array, code: str) -> None:
    text, weights = behind(weight, gamma)
    files = raw_net(tmp_path, text, weights)
    assert codes(explain(files)) & {"overflow", "underflow", "cancellation"} == ({code} if code else set())
    folded = check_half(files)
    assert ("Scale" in folded.types) == bool(code)
    if code:
        np.testing.assert_array_equal(folded.blobs["c"][0], weight.astype(np.float16), strict=True)
    assert "Scale" not in fold(raw_net(tmp_path, text, weights, np.float32)).types


def test_a_column_below_the_normal_numbers_is_kept(tmp_path: Path) -> None:
    text = data() + layer("Sigmoid", "g", "data", "g") + scaled("s", "g", "s", "") + conv("c", "s", "c")
    for factor, types in ((2.0**-13, ["Convolution"]), (2.0**-15, ["Scale", "Convolution"])):
        gamma = np.array([1, 1, factor, 1])
        folded = check_half(raw_net(tmp_path, text, {"s": [gamma], "c": [ONES, np.zeros(4)]}))
        assert folded.types[2:] == types


def test_a_bias_has_the_limits_of_its_own_type(tmp_path: Path) -> None:
    text, weights = behind(ONES, np.full(4, 2e5))
    made = [
        stored("c", raw(weights["c"][0], dtype=np.float32), raw(weights["c"][1], dtype=np.float16)),
        stored("s", *(raw(a, dtype=np.float32) for a in weights["s"])),
    ]
    files = save(tmp_path, text, made)
    reasons = [reason for _, plan in explain(files).plans for d in plan.decisions for reason in d.reasons]
    (sentence,) = [reason.sentence for reason in reasons if reason.code == "overflow"]
    assert "bias" in sentence
    assert "float16" in sentence
    assert "Scale" in check(files).types


# ----------------------------------------------------------------------------------------------------------- verifying


def test_random_half_nets_are_verified(tmp_path: Path) -> None:
    done = 0
    for seed in range(40):
        made = random_net(Random(seed))
        for name, arrays in made.weights.items():
            if name.startswith("batchnorm"):
                arrays[0] *= 20  # far from 0, so that the shift cancels most of what it is added to
        files = raw_net(tmp_path, "".join(made.text), made.weights)
        try:
            plans = explain(files).plans
        except InputError:  # Caffe refuses the net, too
            continue
        if done < 6 and any(plan.weights for _, plan in plans):
            fold(files, verify=True)
            done += 1
    assert done == 6


@pytest.mark.parametrize("wrong", [1.06, 0.94])
def test_a_wrong_half_fold_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    text, weights = NETS["grouped"]
    right = edit._folded_weight

    def spoilt(*args: Any) -> Array:
        weight = right(*args)
        weight[1] *= np.float16(wrong)
        return weight

    monkeypatch.setattr(edit, "_folded_weight", spoilt)
    with pytest.raises(MismatchError):
        fold(raw_net(tmp_path, data() + text, weights), verify=True)


# ------------------------------------------------------------------------------------------------------ cancellation


@pytest.mark.parametrize(("mean", "folds"), [(20.0, True), (1001.0, False)])
@pytest.mark.parametrize("kind", ["conv", "pool"])
def test_a_mean_of_many_deviations_does_not_go_into_halves(kind: str, mean: float, folds: bool, tmp_path: Path) -> None:
    """β − a·μ in float16 is off by 2⁻¹² of itself, which can be more than the layer's whole output."""
    moments = [np.full(4, mean, np.float32), np.ones(4, np.float32), np.ones(1, np.float32)]
    text = data() + layer("Power", "p", "data", "p", f"power_param {{ shift: {mean} }}") + layer("ReLU", "r", "p", "r")
    text += conv("c", "r", "c", more="bias_term: false") if kind == "conv" else layer("Pooling", "c", "r", "c", POOL)
    text += bn("b", "c", "b") + scaled("s", "b", "s") + layer("TanH", "t", "s", "t")
    gamma = [np.full(4, 3, np.float32), np.zeros(4, np.float32)]
    files = raw_net(tmp_path, text, {"c": [np.eye(4)[:, :, None, None]] * (kind == "conv"), "b": moments, "s": gamma})
    folded = fold(files)
    reasons = codes(folded.result)
    assert ("cancellation" in reasons) == (kind == "conv" and not folds)
    assert_equal(run(files), run(folded.files), 0.05)
    assert (("float32", True) in kinds(folded)) == (not folds)


@pytest.mark.parametrize("spelled", ["Bias", "Scale"])
def test_a_shift_of_any_spelling_does_not_go_into_halves(spelled: str, tmp_path: Path) -> None:
    """What a first fold has left as a Scale, a second one must not take."""
    text = data() + layer("Power", "p", "data", "p", "power_param { shift: 1001 }") + layer("ReLU", "r", "p", "r")
    shifted = {"Bias": "bias_param { }", "Scale": "scale_param { bias_term: true }"}[spelled]
    text += conv("c", "r", "c", more="bias_term: false") + layer(spelled, "s", "c", "s", shifted)
    blobs = [np.full(4, -1001.0)] if spelled == "Bias" else [np.full(4, 3.0), np.full(4, -3003.0)]
    text += scaled("g", "s", "g", "") + layer("TanH", "t", "g", "t")
    files = raw_net(tmp_path, text, {"c": [np.eye(4)[:, :, None, None]], "g": [np.full(4, 1.5)]})
    whole = files.caffemodel.read_bytes() + stored("s", *(raw(array, dtype=np.float32) for array in blobs))
    files.caffemodel.write_bytes(whole)
    folded = fold(files)
    assert "cancellation" in codes(folded.result)
    assert_equal(run(files), run(folded.files), 1e-3)
    fold_files(folded.files, tmp_path / "again", Options(verify=False))
    assert_equal(run(files), run(Files(tmp_path / "again.prototxt", tmp_path / "again.caffemodel")), 1e-3)


POOL = "pooling_param { pool: AVE kernel_size: 2 }"


def test_the_half_of_a_constant_has_a_name_of_its_own(tmp_path: Path) -> None:
    text = data() + conv("c", "data", "c.0/half") + bn("b", "c.0/half", "y")
    folded = fold(raw_net(tmp_path, text, {"c": [he(4, 4, 1, 1), he(4)], "b": batch_norm(4)}), verify=True)
    assert folded.result.verification is not None
    assert folded.result.verification.engine == "onnxruntime"
