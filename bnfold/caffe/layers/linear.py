"""Layers that multiply with stored weights: convolutions, inner products, embeddings. The constants are the blobs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.element_types import INT64_CODE
from ...ir.graph import Array, Value
from ...ir.shapes.check import product
from ...ir.shapes.windows import Axis, window_attributes
from .builder import INT64, Builder, Unknown

_MOST_TAPS = 4096
_MOST_UNIT_ERROR = 0.5
"""Of a squared length: below it, 1e-6 more changes a quotient by more than 1e-6."""


def _window(b: Builder, rank: int) -> list[Axis]:
    """The window of convolution_param over `rank` spatial axes: one value for all, one for each, or _h and _w.

    Synopsys pads each side on its own; what is dilation in BVLC is `hole` in DeepLab v1, `filter_stride` in RPN_BF.
    """
    p = b.param.convolution_param

    def each(name: str, listed: Sequence[int], default: int | None) -> list[int]:
        if not listed and default is not None:
            return [default] * rank
        if len(listed) not in (1, rank):
            raise b.fail(f"{name} has {len(listed)} values for {rank} spatial axes")
        return list(listed) * (rank if len(listed) == 1 else 1)

    def values(name: str, height: str, width: str, listed: Sequence[int], default: int | None) -> list[int]:
        if not (p.HasField(height) or p.HasField(width)):
            return each(name, listed, default)
        if listed or rank != 2:
            raise b.fail(f"{height} and {width} go with two spatial axes and without {name}")
        return [getattr(p, height), getattr(p, width)]

    names = [name for name in ("hole", "filter_stride") if p.HasField(name)]
    if len(names) + bool(p.dilation) > 1:
        raise Unknown("its dilation is given under two names")
    dilation = [getattr(p, name) for name in names] or p.dilation
    pad = values("pad", "pad_h", "pad_w", p.pad, 0)
    begin, end = sides(p, pad)
    kernel = values("kernel_size", "kernel_h", "kernel_w", p.kernel_size, None)
    stride = values("stride", "stride_h", "stride_w", p.stride, 1)
    dilation = values("dilation", "hole_h", "hole_w", dilation, 1)
    for extents in zip(kernel, stride, dilation, strict=True):
        b.positive(**dict(zip(("kernel_size", "stride", "dilation"), extents, strict=True)))
    return [Axis(*extents) for extents in zip(kernel, stride, dilation, begin, end, strict=True)]


def sides(p: Any, pad: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and behind height and width: `pad`, or pad_t, pad_l and pad_b, pad_r where any of them is not 0.

    Source: Synopsys Caffe's convolution and pooling, which refuse both at once. Raises Unknown for both.
    """
    begin, end = [p.pad_t, p.pad_l], [p.pad_b, p.pad_r]
    if not any(begin + end):
        return list(pad), list(pad)
    if len(pad) != 2:
        raise Unknown("pad_l, pad_r, pad_t and pad_b go with two spatial axes")
    if any(pad):
        raise Unknown("it has a pad, and pad_l, pad_r, pad_t or pad_b, which exclude each other")
    return begin, end


def convolution(b: Builder) -> list[Value]:
    """W ∗ x + b in groups: each bottom makes a top."""
    return _convolve(b, b.param.convolution_param.group, transposed=False)


def deconvolution(b: Builder) -> list[Value]:
    """The transpose of a convolution's product, plus b: each bottom makes a top."""
    return _convolve(b, b.param.convolution_param.group, transposed=True)


def depthwise(b: Builder) -> list[Value]:
    """The forks' own depthwise types: as many groups as channels, whether or not `group` says so."""
    b.want_blobs(1 + b.param.convolution_param.bias_term)
    shape = b.x.shape
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    return _convolve(b, channels or b.want_axes(0, 3)[0], transposed=False)


def _convolve(b: Builder, groups: int, transposed: bool) -> list[Value]:
    p = b.param.convolution_param
    b.want_blobs(1 + p.bias_term)
    b.positive(num_output=p.num_output, group=groups)
    stored = b.want_axes(0, 3) if b.x.shape is None else ()
    b.same_shapes()
    if len(b.layer.tops) != len(b.bottoms):
        raise b.fail(f"the layer has {len(b.bottoms)} bottoms and {len(b.layer.tops)} tops")
    axis = p.axis if b.x.shape is None and p.axis > 0 else b.axis(b.x, p.axis)
    if axis != 1 or p.axis < 0:
        b.dims(b.x)
    rank = (len(stored) if b.x.shape is None else len(b.x.shape) - axis + 1) - 2
    if rank < 1:
        raise b.fail(f"type {b.layer.type} along axis {axis} needs spatial axes, and {b.x.name} has shape {b.x.shape}")
    windows = _window(b, rank)
    weight, bias = _parameters(b, axis, groups, windows, transposed)
    attributes = {**window_attributes(windows), "dilations": [axis.dilation for axis in windows], "group": groups}
    op = "ConvTranspose" if transposed else "Conv"
    tops = []
    for x in b.bottoms:
        _check_extents(b, x, axis, windows, transposed)
        flat = x if axis == 1 else b.reshape(x, (product(b.known(x)[:axis]), *b.dims(x)[axis:]))
        y = b.node(op, flat, weight, bias, **attributes)
        tops.append(y if axis == 1 else b.reshape(y, (*b.dims(x)[:axis], *b.dims(y)[1:])))
    return tops


def _parameters(
    b: Builder, axis: int, groups: int, windows: list[Axis], transposed: bool
) -> tuple[Value, Value | None]:
    """Weight and bias; behind an unknown shape the stored weight says how many channels come in."""
    p = b.param.convolution_param
    outs, ins = p.num_output, None if b.x.shape is None else b.x.shape[axis]
    if ins is None:
        stored = b.want_axes(0, 3)
        ins = stored[0] if transposed else stored[1] * groups
    if not ins or ins % groups or outs % groups:
        raise b.fail(f"{ins} input and {outs} output channels do not divide into {groups} groups")
    first, second = (ins, outs) if transposed else (outs, ins)
    weight = b.blob(0, (first, second // groups, *(axis.kernel for axis in windows)))
    return weight, b.blob(1, (outs,)) if p.bias_term else None


def _check_extents(b: Builder, x: Value, axis: int, windows: list[Axis], transposed: bool) -> None:
    """Raises InputError where no position of the window is left."""
    if x.shape is None:
        return
    if len(x.shape) - axis - 1 != len(windows):
        raise b.fail(f"{x.name} has shape {x.shape} and the window {len(windows)} axes")
    for extent, window in zip(x.shape[axis + 1 :], windows, strict=True):
        if extent is None:
            continue
        begin, end = window.before, window.after
        if transposed and window.transposed(extent) is None:
            raise b.fail(f"the padding, {begin} and {end}, takes away all of the result of {x.name} {x.shape}")
        if not transposed and window.count(extent) is None:
            room = extent + begin + end
            raise b.fail(f"the kernel reaches over {window.reach} of the {room} positions of {x.name} {x.shape}")


def inner_product(b: Builder) -> list[Value]:
    """W·x + b over all axes from `axis` on, taken as one."""
    p = b.param.inner_product_param
    b.want_blobs(1 + p.bias_term)
    b.positive(num_output=p.num_output)
    if b.x.shape is None and p.axis != 1:
        raise Unknown(f"the rank of blob {b.x.name} is not known")
    axis = 1 if b.x.shape is None else b.axis(b.x, p.axis)
    features = None if b.x.shape is None else product(b.x.shape[axis:])
    if features is None:
        stored = b.layer.blobs[0].shape
        features = (product(stored) or 0) // p.num_output
    shape = (features, p.num_output) if p.transpose else (p.num_output, features)
    weight = _unit_rows(b, shape) if p.normalize else b.blob(0, shape)
    bias = b.blob(1, (p.num_output,)) if p.bias_term else None
    flat = b.x if b.x.rank == 2 and axis == 1 else b.node("Flatten", b.x, axis=axis)
    y = b.node("Gemm", flat, weight, bias, transB=int(not p.transpose))
    return [y if axis == 1 else b.reshape(y, (*b.dims(b.x)[:axis], p.num_output))]


def _unit_rows(b: Builder, shape: tuple[int, int]) -> Value:
    """Weights of which each row is divided by its length when the net runs: w/√(Σw²), in forks for face recognition.

    Some of them add 1e-6 to Σw². Where that would be more than rounding, which one it is has to be known.
    """
    if b.param.inner_product_param.transpose:
        raise Unknown("what `normalize` does to transposed weights differs between forks")
    stored = b.blob(0, shape).tensor
    assert stored is not None  # a blob is a constant
    squares = np.square(stored.float64()).sum(axis=1)
    if not squares.min(initial=1.0) > _MOST_UNIT_ERROR:
        raise Unknown(
            "a row of the weights is so short that the 1e-6 matters which some forks add to its squared length"
        )
    b.hold("normalised", "divides its weights by their length when the net runs, so that a multiplier would vanish")

    def load() -> Array:
        weight = stored.float64()
        unit: Array = weight / np.sqrt(np.square(weight).sum(axis=1, keepdims=True))
        return unit

    return b.derived(("unit rows", b.layer.blobs[0]), "unit", shape, np.dtype(np.float64), load)


def embed(b: Builder) -> list[Value]:
    """The row of the weights that x says, plus b."""
    p = b.param.embed_param
    b.want_blobs(1 + p.bias_term)
    b.positive(input_dim=p.input_dim, num_output=p.num_output)
    index = b.node("Cast", b.x, to=INT64_CODE)
    y = b.node("Gather", b.blob(0, (p.input_dim, p.num_output)), index, axis=0)
    return [b.node("Add", y, b.blob(1, (p.num_output,))) if p.bias_term else y]


def im2col(b: Builder) -> list[Value]:
    """Each tap of the window is a strided slice of the padded bottom; the taps of one channel lie side by side."""
    axis = b.axis(b.x, b.param.convolution_param.axis)
    shape = b.known(b.x)
    rank = len(shape) - axis - 1
    windows = _window(b, rank)
    _check_extents(b, b.x, axis, windows, transposed=False)
    kernel, strides, pads = window_attributes(windows).values()
    if math.prod(kernel) > _MOST_TAPS:
        raise Unknown(f"a window of {kernel} is too large to be taken apart")
    zeros = [0] * (axis + 1)
    padded = b.node("Pad", b.x, zeros + pads[:rank] + zeros + pads[rank:]) if any(pads) else b.x
    axes = list(range(axis + 1, len(shape)))
    counts = [window.count(extent) or 0 for extent, window in zip(shape[axis + 1 :], windows, strict=True)]
    columns = []
    for at in np.ndindex(*kernel):
        starts = [i * window.dilation for i, window in zip(at, windows, strict=True)]
        ends = [start + (n - 1) * stride + 1 for start, n, stride in zip(starts, counts, strides, strict=True)]
        piece = b.node("Slice", padded, starts, ends, axes, strides)
        columns.append(b.node("Unsqueeze", piece, [axis + 1]))
    stacked = b.node("Concat", *columns, axis=axis + 1)
    return [b.reshape(stacked, (*shape[:axis], shape[axis] * len(columns), *counts))]


def index_of(b: Builder, value: Value) -> Value:
    """Indices, which Caffe keeps as floats, as int64."""
    return value if value.dtype == INT64 else b.node("Cast", value, to=INT64_CODE)
