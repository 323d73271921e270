"""Layers over the two axes of an image: pooling in Caffe's own rounding, pyramids, resampling, regions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...ir.element_types import FLOAT_CODE, INT64_CODE
from ...ir.graph import Value
from ...ir.shapes.windows import Axis, window_attributes
from .. import caffe_pb2 as pb
from .builder import Builder, Unknown
from .linear import sides

_METHODS = pb.PoolingParameter.PoolMethod
_MAX, _STOCHASTIC = map(_METHODS.Value, ("MAX", "STOCHASTIC"))
_UNCOUNTED = frozenset(map(_METHODS.Value, ("AVE_EXC_PAD", "AVE_TF")))
_FLOOR = pb.PoolingParameter.RoundMode.Value("FLOOR")
_LOWEST = float(np.finfo(np.float32).min)
"""What Caffe's maximum starts from, and so the maximum of an empty window."""


@dataclass(frozen=True, slots=True)
class _Pool:
    """A pooling over height and width, padded before them and behind. An average counts its padding if `counts`."""

    maximum: bool
    axes: list[Axis]
    counts: bool = True

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(axis.kernel for axis in self.axes)

    @property
    def begin(self) -> list[int]:
        return [axis.before for axis in self.axes]

    @property
    def end(self) -> list[int]:
        return [axis.after for axis in self.axes]

    @property
    def padded(self) -> bool:
        return any(self.begin + self.end)


def pooling(b: Builder) -> list[Value]:
    """The maximum or the average of each window, or of each channel; with two tops where the maximum stands."""
    p = b.param.pooling_param
    if b.x.shape is not None:
        b.rank4(b.x)
    if p.pool == _STOCHASTIC:
        raise Unknown("stochastic pooling has no description")
    pool = _pool(b, p)
    if pool is None:
        if p.pool != _MAX or len(b.layer.tops) == 1:
            return [b.node("GlobalMaxPool" if p.pool == _MAX else "GlobalAveragePool", b.x)]
        pool = _Pool(True, [Axis(b.extent(b.x, 2)), Axis(b.extent(b.x, 3))])
    if len(b.layer.tops) == 1:
        return [_pooled(b, b.x, pool)]
    return _with_mask(b, pool)


def _pool(b: Builder, p: pb.PoolingParameter) -> _Pool | None:
    """The parameters; None stands for global pooling."""
    kernel, stride, pad = (_height_and_width(b, p, one, side) for one, side in _PAIRS)
    begin, end = sides(p, pad)
    if p.global_pooling:
        if any(p.HasField(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
            raise b.fail("global pooling takes no kernel size")
        if any(begin + end) or stride != (1, 1):
            raise b.fail("global pooling takes pad 0 and stride 1")
        return None
    for extents in zip(kernel, stride, strict=True):
        b.positive(**dict(zip(("kernel_size", "stride"), extents, strict=True)))
    rounding = "FLOOR" if p.round_mode == _FLOOR or not p.ceil_mode else "CEIL" if any(begin + end) else "OVER"
    columns = kernel, stride, (1, 1), begin, end, [rounding] * 2
    return _Pool(p.pool == _MAX, [Axis(*row) for row in zip(*columns, strict=True)], p.pool not in _UNCOUNTED)


_PAIRS = (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad"))


def _height_and_width(b: Builder, p: pb.PoolingParameter, one: str, side: str) -> tuple[int, int]:
    """Height and width from one field for both, or one for each."""
    names = [f"{side}_h", f"{side}_w"]
    given = [p.HasField(name) for name in names]
    if any(given) and (not all(given) or p.HasField(one)):
        raise b.fail(f"{names[0]} and {names[1]} go together, and without {one}")
    height, width = names if any(given) else (one, one)
    return getattr(p, height), getattr(p, width)


def _overhang(b: Builder, pool: _Pool, size: tuple[int, int]) -> list[int]:
    """How far the last windows reach behind the image.

    Their number is rounded up, but none starts in the padding behind the image.
    """
    if any(max(axis.before, axis.after) >= axis.kernel for axis in pool.axes):
        begin, end = tuple(pool.begin), tuple(pool.end)
        raise b.fail(f"the padding {begin}, {end} must be smaller than the kernel {pool.kernel}")
    ends = [axis.end(extent) for axis, extent in zip(pool.axes, size, strict=True)]
    if None in ends:
        raise b.fail(f"a window of {pool.kernel} is larger than the image {size} with its padding")
    return [end - extent for end, extent in zip(ends, size, strict=True) if end is not None]


def _pooled(b: Builder, x: Value, pool: _Pool) -> Value:
    """The pooling in windows that Caffe clips at the image (MAX) or at the padded image (AVE), as ONNX counts them.

    AVE divides by the positions of a window within the padded image. Without padding, or where it does not count, that
    is AveragePool with its own padding left out of the count; with padding, and a last window that sticks out of it,
    the padding is written out as zeros first.
    """
    shape = b.dims(x)
    if len(shape) != 4 or None in shape[2:]:
        return _open_pooled(b, x, pool)
    size = b.extent(x, 2), b.extent(x, 3)
    out = _overhang(b, pool, size)
    x, written = _written_behind(b, x, pool, out)
    begin, end = pool.begin, [max(q - w, 0) for q, w in zip(out, written, strict=True)]
    counted = not pool.maximum and pool.padded and pool.counts
    if counted and any(q > p for q, p in zip(end, pool.end, strict=True)):
        x = b.node("Pad", x, [0, 0, *begin, 0, 0, *pool.end])
        begin, end, counted = [0, 0], [max(q - p, 0) for q, p in zip(end, pool.end, strict=True)], False
    attributes = {**window_attributes(pool.axes), "pads": begin + end}
    if pool.maximum:
        return b.node("MaxPool", x, **attributes)
    return b.node("AveragePool", x, **attributes, count_include_pad=int(counted))


def _written_behind(b: Builder, x: Value, pool: _Pool, out: list[int]) -> tuple[Value, list[int]]:
    """What lies behind the image where a last window, its stride being wider, starts there; and how much, by axis.

    The maximum of nothing is -FLT_MAX. An average is 0/0 where the window starts at the image's end; where it starts
    farther out Caffe divides 0 by a negative extent.
    """
    written = [0, 0]
    for value in (_LOWEST,) if pool.maximum else (0.0, math.nan):
        fill = [0, 0]
        for i, axis in enumerate(pool.axes):
            beyond = out[i] - axis.kernel
            if beyond >= 0 and (pool.maximum or math.isnan(value) == (beyond == 0)):
                fill[i] = written[i] = out[i]
        if any(fill):
            x = b.node("Pad", x, [0, 0, 0, 0, 0, 0, *fill], value)
    return x, written


def _open_pooled(b: Builder, x: Value, pool: _Pool) -> Value:
    """The same over an image of unknown size, where ONNX's own rounding comes to the same."""
    steps_over = any(axis.stride > axis.kernel for axis in pool.axes)
    if steps_over or (not pool.maximum and pool.padded):
        raise Unknown(f"the shape of blob {x.name} is not known")
    ceil = int(pool.axes[0].rounding != "FLOOR")
    return b.node("MaxPool" if pool.maximum else "AveragePool", x, **window_attributes(pool.axes), ceil_mode=ceil)


def _with_mask(b: Builder, pool: _Pool) -> list[Value]:
    """MAX with its mask: where in its channel's plane each maximum stands, as float."""
    if not pool.maximum:
        raise b.fail("average pooling makes one top")
    height, width = b.extent(b.x, 2), b.extent(b.x, 3)
    first = len(b.nodes)
    y = _pooled(b, b.x, pool)
    node = b.nodes[-1]
    if len(b.nodes) > first + 1:
        raise Unknown("the mask of an empty pooling window has no description")
    indices = b.add_output(node)
    return [y, b.node("Cast", b.node("Mod", indices, [height * width]), to=FLOAT_CODE)]


def spp(b: Builder) -> list[Value]:
    """Level i pools into 2^i × 2^i bins; the levels follow each other in one row of features."""
    p = b.param.spp_param
    b.rank4(b.x)
    size = b.extent(b.x, 2), b.extent(b.x, 3)
    if not p.pyramid_height or p.pool == _STOCHASTIC:
        raise Unknown("this pyramid has no description")
    levels = []
    for level in range(p.pyramid_height):
        bins = 2**level
        kernel = [-(-extent // bins) for extent in size]
        pads = [(k * bins - extent + 1) // 2 for k, extent in zip(kernel, size, strict=True)]
        axes = [Axis(k, k, 1, pad, pad, "CEIL") for k, pad in zip(kernel, pads, strict=True)]
        y = _pooled(b, b.x, _Pool(p.pool == _MAX, axes))
        if p.pyramid_height == 1:
            return [y]
        levels.append(b.node("Flatten", y, axis=1))
    return [b.node("Concat", *levels, axis=1)]


def interp(b: Builder) -> list[Value]:
    """DeepLab's bilinear resampling, corner on corner; a negative pad crops."""
    p = b.param.interp_param
    x = b.x
    if p.pad_beg > 0 or p.pad_end > 0:
        raise b.fail("pad_beg and pad_end must not be positive")
    size = [b.extent(x, i) + p.pad_beg + p.pad_end for i in (2, 3)]
    if p.pad_beg or p.pad_end:
        x = b.node("Slice", x, [-p.pad_beg] * 2, [-p.pad_beg + extent for extent in size], [2, 3])
    target = _interp_size(b, p, size)
    if min(size + target) < 1:
        raise b.fail(f"an image of {size} cannot be resampled to {target}")
    return [_resized(b, x, target, mode="linear", coordinate_transformation_mode="align_corners")]


def _interp_size(b: Builder, p: pb.InterpParameter, size: list[int]) -> list[int]:
    shrink, zoom = p.HasField("shrink_factor"), p.HasField("zoom_factor")
    if not (shrink or zoom):
        if p.HasField("height") and p.HasField("width"):
            return [p.height, p.width]
        if len(b.bottoms) == 2:
            return [b.extent(b.bottoms[1], i) for i in (2, 3)]
        raise b.fail("Interp needs a size, a factor, or a second bottom")
    b.positive(shrink_factor=p.shrink_factor, zoom_factor=p.zoom_factor)
    size = [(extent - 1) // p.shrink_factor + 1 for extent in size]
    return [extent + (extent - 1) * (p.zoom_factor - 1) for extent in size]


def _resized(b: Builder, x: Value, size: list[int], **attributes: str) -> Value:
    n, channels = b.dims(x)[0], b.extent(x, 1)
    if n is not None:
        return b.node("Resize", x, None, None, [n, channels, *size], **attributes)
    scales = [1.0, 1.0, *(new / b.extent(x, i) for i, new in zip((2, 3), size, strict=True))]
    return b.node("Resize", x, None, np.array(scales, np.float32), **attributes)


def upsample(b: Builder) -> list[Value]:
    """With a pooling mask as second bottom each value goes back to where it was (SegNet), else it is repeated."""
    p = b.param.upsample_param
    if p.HasField("scale"):
        b.positive(scale=p.scale)
    b.rank4(b.x)
    if len(b.bottoms) == 2:
        return [_unpooled(b, p)]
    factors = (p.stride_h, p.stride_w) if p.HasField("stride_h") else (p.stride, p.stride)
    scale = p.scale if any(factors) and p.HasField("scale") else 1.0
    if not any(factors):
        factors = (p.scale_h, p.scale_w) if p.HasField("scale_h") else (int(p.scale), int(p.scale))
        if p.HasField("scale") and p.scale != int(p.scale):
            raise b.fail(f"the scale must be a whole number and is {p.scale}")
    if min(factors) < 1:
        raise b.fail("Upsample needs a scale")
    y = b.node(
        "Resize", b.x, None, np.array([1, 1, *factors], np.float32),
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    return [y if scale == 1 else b.node("Mul", y, scale)]


def _unpooled(b: Builder, p: pb.UpsampleParameter) -> Value:
    n, channels, height, width = b.known(b.x)
    factor = int(p.scale) if p.HasField("scale") else 2
    rows, columns = (p.scale_h or factor, p.scale_w or factor)
    size = p.upsample_h or height * rows - p.pad_out_h, p.upsample_w or width * columns - p.pad_out_w
    if min(size) < 1:
        raise b.fail(f"{b.x.name} {b.x.shape} cannot be brought to {size} by scale, upsample_h and _w, and pad_out")
    plane = [n, channels, -1]
    empty = b.node("Expand", 0.0, [n, channels, size[0] * size[1]])
    places = b.node("Cast", b.node("Reshape", b.bottoms[1], plane), to=INT64_CODE)
    filled = b.node("ScatterElements", empty, places, b.node("Reshape", b.x, plane), axis=2)
    return b.reshape(filled, (n, channels, *size))


def roi_pooling(b: Builder) -> list[Value]:
    """The maximum over each bin of each region of interest."""
    p = b.param.roi_pooling_param
    b.positive(pooled_h=p.pooled_h, pooled_w=p.pooled_w)
    rois = b.bottoms[1]
    if rois.shape is not None and len(rois.shape) != 2:
        rois = b.reshape(rois, (*rois.shape[:1], 5))
    return [b.node("MaxRoiPool", b.x, rois, pooled_shape=[p.pooled_h, p.pooled_w], spatial_scale=p.spatial_scale)]
