"""Pooling against Caffe's own loops, over windows that are clipped, padded, or lie behind the image."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bnfold.caffe.lowering import lower
from bnfold.caffe.net import load
from bnfold.errors import InputError

from ..build import Array, noise, run, save

LOWEST = np.finfo(np.float32).min
Pair = tuple[int, int]


def caffe_pool(x: Array, method: str, kernel: Pair, stride: Pair, begin: Pair, end: Pair, floor: bool) -> Array | None:
    """The loops of Caffe's pooling on a CPU, Synopsys's padding and method included; None where it has no window."""
    counts = []
    for extent, k, s, p, q in zip(x.shape[2:], kernel, stride, begin, end, strict=True):
        steps = (extent + p + q - k) / s
        count = (math.floor(steps) if floor else math.ceil(steps)) + 1
        counts.append(count - 1 if any(begin + end) and (count - 1) * s >= extent + p else count)
    if min(counts) < 1:
        return None
    result = np.empty((*x.shape[:2], *counts), np.float32)
    for i in range(counts[0]):
        for j in range(counts[1]):
            spans = zip((i, j), kernel, stride, begin, end, x.shape[2:], strict=True)
            (top, bottom, rows), (left, right, columns) = (_clipped(*span, method == "AVE_EXC_PAD") for span in spans)
            part = x[:, :, top:bottom, left:right].reshape(*x.shape[:2], -1)
            if method == "MAX":
                result[:, :, i, j] = part.max(-1, initial=LOWEST)
            else:
                with np.errstate(invalid="ignore"):
                    result[:, :, i, j] = part.sum(-1) / np.float32(rows * columns)
    return result


def _clipped(n: int, k: int, s: int, p: int, q: int, extent: int, clipped: bool) -> tuple[int, int, int]:
    """Start and end within the image, and the extent that an average divides by."""
    start = n * s - p
    end = min(start + k, extent + q)
    within = max(start, 0), max(min(end, extent), max(start, 0))
    return *within, min(end, extent) - max(start, 0) if clipped else end - start


def onnx_pool(x: Array, param: str) -> Array:
    text = f"""
        input: "x" input_shape {{ dim: {x.shape[0]} dim: {x.shape[1]} dim: {x.shape[2]} dim: {x.shape[3]} }}
        layer {{ name: "l" type: "Pooling" bottom: "x" top: "y" pooling_param {{ {param} }} }}"""
    with tempfile.TemporaryDirectory() as folder:
        return run(save(Path(folder), text, {"none": [np.zeros(1)]}), {"x": x})["y"]


PAIRS = st.tuples(st.integers(0, 2), st.integers(0, 2))
METHODS = ["MAX", "AVE", "AVE_EXC_PAD"]


@given(
    method=st.sampled_from(METHODS), size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)), stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    begin=PAIRS, end=st.none() | PAIRS, floor=st.booleans(),
)  # fmt: skip
@example(method="AVE", size=(5, 8), kernel=(1, 1), stride=(3, 3), begin=(0, 0), end=None, floor=False)
@example(method="AVE", size=(6, 5), kernel=(1, 1), stride=(2, 2), begin=(0, 0), end=None, floor=False)
@example(method="AVE_EXC_PAD", size=(6, 5), kernel=(1, 1), stride=(2, 2), begin=(0, 0), end=None, floor=False)
@example(method="MAX", size=(6, 5), kernel=(1, 1), stride=(2, 2), begin=(0, 0), end=None, floor=False)
@example(method="AVE", size=(6, 7), kernel=(3, 3), stride=(2, 2), begin=(1, 1), end=None, floor=False)
@example(method="AVE", size=(6, 7), kernel=(3, 3), stride=(2, 2), begin=(0, 0), end=(1, 2), floor=False)
@example(method="AVE_EXC_PAD", size=(6, 7), kernel=(3, 3), stride=(2, 2), begin=(1, 0), end=(0, 1), floor=False)
@example(method="MAX", size=(6, 7), kernel=(7, 7), stride=(4, 4), begin=(0, 0), end=None, floor=False)
@settings(max_examples=200)
def test_pooling(
    method: str, size: Pair, kernel: Pair, stride: Pair, begin: Pair, end: Pair | None, floor: bool
) -> None:
    """`end` is None where height and width are padded alike on both sides, in BVLC's words."""
    behind = begin if end is None else end
    assume(all(max(p, q) < k for p, q, k in zip(begin, behind, kernel, strict=True)))
    x = noise("x", 1, 2, *size)
    pads = f"pad_h: {begin[0]} pad_w: {begin[1]}"
    if end is not None:
        pads = f"pad_t: {begin[0]} pad_l: {begin[1]} pad_b: {end[0]} pad_r: {end[1]}"
    param = (
        f"pool: {method} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} "
        f"stride_w: {stride[1]} {pads} round_mode: {'FLOOR' if floor else 'CEIL'}"
    )
    wanted = caffe_pool(x, method, kernel, stride, begin, behind, floor)
    if wanted is None:
        with pytest.raises(InputError):
            onnx_pool(x, param)
    else:
        np.testing.assert_allclose(onnx_pool(x, param), wanted, rtol=1e-5, atol=1e-6)


def test_ceil_mode_of_forks_is_the_rounding(tmp_path: Path) -> None:
    x = noise("x", 1, 2, 6, 6)
    for word, floor in (("true", False), ("false", True)):
        wanted = caffe_pool(x, "MAX", (3, 3), (2, 2), (0, 0), (0, 0), floor)
        assert wanted is not None
        np.testing.assert_array_equal(onnx_pool(x, f"kernel_size: 3 stride: 2 ceil_mode: {word}"), wanted)


def test_an_image_of_unknown_size_is_pooled_too(tmp_path: Path) -> None:
    """Where ONNX's rounding comes to Caffe's; else the layer stays opaque."""
    text = """layer { name: "d" type: "Data" top: "x" data_param { batch_size: 1 } }
        layer { name: "l" type: "Pooling" bottom: "x" top: "y" pooling_param { %s } }"""

    def ops(param: str) -> list[str]:
        files = save(tmp_path, text % param, {"none": [np.zeros(1)]})
        return [node.op for node in lower(load(*files)).graph.nodes]

    assert ops("kernel_size: 3 stride: 2") == ["MaxPool"]
    assert ops("pool: AVE kernel_size: 3 stride: 2") == ["AveragePool"]
    assert ops("pool: AVE kernel_size: 3 stride: 2 pad: 1") == ["caffe.Pooling"]
    assert ops("kernel_size: 1 stride: 2") == ["caffe.Pooling"]
    assert ops("pool: AVE global_pooling: true") == ["GlobalAveragePool"]


@pytest.mark.parametrize(("pad", "counted", "operators"), [(0, 0, ["AveragePool"]), (1, 1, ["AveragePool"])])
def test_an_average_says_what_it_counts(pad: int, counted: int, operators: list[str], tmp_path: Path) -> None:
    text = f"""input: "x" input_shape {{ dim: 1 dim: 1 dim: 8 dim: 8 }}
        layer {{ name: "l" type: "Pooling" bottom: "x" top: "y"
                 pooling_param {{ pool: AVE kernel_size: 3 stride: 1 pad: {pad} }} }}"""
    nodes = lower(load(*save(tmp_path, text, {"none": [np.zeros(1)]}))).graph.nodes
    assert [node.op for node in nodes] == operators
    assert nodes[-1].attributes["count_include_pad"] == counted
