"""Scale and Bias: products and sums that broadcast from an axis on."""

from __future__ import annotations

import math

from ...ir.graph import Shape, Value
from ..net import Layer
from .builder import Builder, Unknown


def scale(b: Builder) -> list[Value]:
    """γ·x [+ β]; with two bottoms γ is the second one, and β the only blob."""
    p = b.param.scale_param
    if len(b.bottoms) == 2:
        b.want_blobs(int(p.bias_term))
        b.fixed = True
        b.graph.notes[b.layer] = ("dynamic", f"{b.layer.type} {b.layer.name!r} multiplies with its second bottom")
        axis, shape = _against_second(b, p.axis)
        y = b.node("Mul", b.x, _spread(b, b.bottoms[1], axis))
        return [b.node("Add", y, _blob(b, 0, axis, shape)) if p.bias_term else y]
    if not b.layer.blobs and (channels := _fused(b)):
        return [_channelwise(b, (channels,))]
    b.want_blobs(1 + p.bias_term)
    if b.x.shape is None and (p.axis, p.num_axes) == (1, 1):
        extents = (b.want_axes(0, 1)[-1],)
        y = _channelwise(b, extents, gamma=0)
        return [_channelwise(b, extents, beta=1, x=y) if p.bias_term else y]
    axis, shape = _span(b, p.axis, p.num_axes)
    y = b.node("Mul", b.x, _blob(b, 0, axis, shape))
    return [b.node("Add", y, _blob(b, 1, axis, shape)) if p.bias_term else y]


def _fused(b: Builder) -> int:
    """The channels of a Scale without weights behind a BatchNorm that has gamma and beta itself, else 0.

    Intel's Caffe writes such files: it fuses the Scale into the BatchNorm, which leaves the identity.
    """
    p, norm = b.param.scale_param, b.x.producer and b.x.producer.origin
    if not isinstance(norm, Layer) or norm.type != "BatchNorm" or (p.axis, p.num_axes) != (1, 1):
        return 0
    if len(norm.blobs) < 4 or not (_fills(b, "filler", 1.0) and _fills(b, "bias_filler", 0.0)):
        return 0
    b.notice(
        "fused-scale",
        f"the layer has no weights, and BatchNorm {norm.name!r} before it has gamma and beta: taken for the identity, "
        "as in files of Intel's Caffe",
    )
    return math.prod(norm.blobs[0].shape)


def _fills(b: Builder, name: str, value: float) -> bool:
    """Whether the filler, which gives the numbers where the file has none, is absent or that constant."""
    blocks = b.layer.block.messages("scale_param") if b.layer.block is not None else []
    fillers = [filler for block in blocks for filler in block.messages(name)]
    return all(
        f.string("type", "constant") == "constant" and [e.real() for e in f.all("value")] in ([], [value])
        and (value == 0 or f.all("value"))
        for f in fillers
    )  # fmt: skip


def bias(b: Builder) -> list[Value]:
    """x + β; with two bottoms β is the second one."""
    p = b.param.bias_param
    if len(b.bottoms) == 2:
        b.want_blobs(0)
        axis, _ = _against_second(b, p.axis)
        return [b.node("Add", b.x, _spread(b, b.bottoms[1], axis))]
    b.want_blobs(1)
    if b.x.shape is None and (p.axis, p.num_axes) == (1, 1):
        return [_channelwise(b, (b.want_axes(0, 1)[-1],), beta=0)]
    axis, shape = _span(b, p.axis, p.num_axes)
    return [b.node("Add", b.x, _blob(b, 0, axis, shape))]


def _span(b: Builder, axis: int, num_axes: int) -> tuple[int, Shape]:
    """First axis and shape of a blob that covers `num_axes` axes of the first bottom; -1 stands for all that follow."""
    if num_axes == 0:
        return 0, ()
    shape = b.dims(b.x)
    first = b.axis(b.x, axis)
    last = len(shape) if num_axes == -1 else first + num_axes
    if num_axes < -1 or last > len(shape):
        raise b.fail(f"axis {axis} and num_axes {num_axes} do not lie within {b.x.name} {shape}")
    return first, shape[first:last]


def _against_second(b: Builder, axis: int) -> tuple[int, Shape]:
    x, factor = b.dims(b.x), b.dims(b.bottoms[1])
    first = b.axis(b.x, axis) if factor else 0
    covered = x[first : first + len(factor)]
    if len(covered) != len(factor) or any(p != q and None not in (p, q) for p, q in zip(covered, factor, strict=True)):
        raise b.fail(f"the second bottom {factor} does not fit {covered}, the axes of {b.x.name} {x} from {first} on")
    return first, factor


def _spread(b: Builder, factor: Value, axis: int) -> Value:
    shape = b.dims(factor)
    return b.reshape(factor, (*shape, *(1,) * (len(b.dims(b.x)) - axis - len(shape))))


def _blob(b: Builder, index: int, axis: int, shape: Shape) -> Value:
    """The stored blob, which fits `shape`, with extents 1 behind so that it broadcasts against the first bottom."""
    if axis == 0 and shape[:1] == (None,):
        raise Unknown("a blob covers the batch, whose extent is not fixed")
    stored = b.layer.blobs[index].shape[-len(shape) :] if shape else ()
    if len(stored) < len(shape):
        raise b.fail(f"blob {index} has shape {stored} in the caffemodel and covers {len(shape)} axes")
    wanted = tuple(have if e is None else e for e, have in zip(shape, stored, strict=True))
    rank = len(shape) + axis if b.x.shape is None else len(b.x.shape)
    behind = (1,) * (rank - axis - len(shape)) if shape else ()
    return b.blob(index, wanted, wanted + behind)


def _channelwise(
    b: Builder, channels: tuple[int], gamma: int | None = None, beta: int | None = None, x: Value | None = None
) -> Value:
    """γ·x or x + β along axis 1 of a blob of unknown rank, by default the bottom; γ and β by their blobs' numbers.

    A BatchNormalization broadcasts by itself, which no Mul or Add does; the rest of its statistics does nothing.
    """
    ones, zeros = b.fill(channels, 1.0), b.fill(channels, 0.0)
    factor = ones if gamma is None else b.blob(gamma, channels)
    shift = zeros if beta is None else b.blob(beta, channels)
    return b.node("BatchNormalization", b.x if x is None else x, factor, shift, zeros, ones, epsilon=0.0)
