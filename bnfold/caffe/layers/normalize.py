"""Normalisations by what the bottom itself holds: LRN, MVN, SSD's Normalize."""

from __future__ import annotations

from ...ir.graph import Value
from .. import caffe_pb2 as pb
from .builder import Builder
from .elementwise import times
from .shape import reduce_axes

WITHIN_CHANNEL = pb.LRNParameter.NormRegion.Value("WITHIN_CHANNEL")


def lrn(b: Builder) -> list[Value]:
    """x/(k + α/n·Σ x²)^β, the sum over n channels around each, or over a window in each."""
    p = b.param.lrn_param
    b.rank4(b.x)
    if p.local_size % 2 == 0:
        raise b.fail(f"local_size must be odd and is {p.local_size}")
    if p.norm_region == WITHIN_CHANNEL:
        return [_lrn_within(b, p)]
    return [b.node("LRN", b.x, size=p.local_size, alpha=p.alpha, beta=p.beta, bias=p.k)]


def _lrn_within(b: Builder, p: pb.LRNParameter) -> Value:
    """x·(1 + α·average of x² over the window)^−β; the average counts the padding, and k plays no part."""
    pad = (p.local_size - 1) // 2
    mean = b.node(
        "AveragePool", b.node("Mul", b.x, b.x),
        kernel_shape=[p.local_size] * 2, strides=[1, 1], pads=[pad] * 4, count_include_pad=1,
    )  # fmt: skip
    return b.node("Mul", b.x, b.node("Pow", b.node("Add", times(b, mean, p.alpha), 1.0), -p.beta))


def mvn(b: Builder) -> list[Value]:
    """(x − mean)/(deviation + eps) over each channel, or each item; the result always has four axes."""
    p = b.param.mvn_param
    shape = b.dims(b.x)
    if len(shape) > 4:
        raise b.fail(f"an MVN takes at most 4 axes and blob {b.x.name} has shape {shape}")
    x = b.reshape(b.x, (*shape, *(1,) * (4 - len(shape))))
    axes = [1, 2, 3] if p.across_channels else [2, 3]
    y = b.node("Sub", x, reduce_axes(b, "ReduceMean", x, axes))
    if p.normalize_variance:
        deviation = b.node("Sqrt", reduce_axes(b, "ReduceMean", b.node("Mul", y, y), axes))
        y = b.node("Div", y, b.node("Add", deviation, p.eps))
    return [y]


def normalize(b: Builder) -> list[Value]:
    """SSD: x/√(Σx² + eps)·scale, the sum over the channels, or over all of an item."""
    p = b.param.norm_param
    b.want_blobs(1)
    b.rank4(b.x)
    square = reduce_axes(b, "ReduceSum", b.node("Mul", b.x, b.x), [1, 2, 3] if p.across_spatial else [1])
    y = b.node("Div", b.x, b.node("Sqrt", b.node("Add", square, p.eps)))
    if p.channel_shared:
        return [b.node("Mul", y, b.blob(0, (1,) if b.layer.blobs[0].shape == (1,) else ()))]
    channels = b.extent(b.x, 1)
    return [b.node("Mul", y, b.blob(0, (channels,), (channels, 1, 1)))]
