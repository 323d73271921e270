"""Layers that move, select, join or summarise elements."""

from __future__ import annotations

from itertools import pairwise

from ...ir.element_types import BOOL_CODE, FLOAT_CODE
from ...ir.graph import Shape, Value
from ...ir.shapes.check import product
from .. import caffe_pb2 as pb
from ..net import Layer
from .builder import Builder, Unknown
from .linear import index_of

REDUCTIONS = {"SUM": "ReduceSum", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare", "MEAN": "ReduceMean"}


def split(b: Builder) -> list[Value]:
    """Each top shows the bottom."""
    return [b.node("Identity", b.x) for _ in b.layer.tops]


def silence(_b: Builder) -> list[Value]:
    """No tops: its bottoms are not to be printed."""
    return []


def concat(b: Builder) -> list[Value]:
    """The bottoms one behind the other along an axis."""
    p = b.param.concat_param
    axis = p.concat_dim if p.HasField("concat_dim") else p.axis
    first = next((x.shape for x in b.bottoms if x.shape is not None), None)
    if first is None and axis < 0:
        raise Unknown(f"the rank of blob {b.x.name} is not known")
    if first is not None:
        axis = b.axis(next(x for x in b.bottoms if x.shape is first), axis)
    for x in b.bottoms:
        if first is not None and x.shape is not None and not _concatenates(first, x.shape, axis):
            raise b.fail(f"blob {x.name} {x.shape} does not join {first} along axis {axis}")
    return [b.node("Concat", *b.bottoms, axis=axis) if len(b.bottoms) > 1 else b.node("Identity", b.x)]


def _concatenates(a: Shape, b: Shape, axis: int) -> bool:
    if len(a) != len(b):
        return False
    return all(_may_be(p, q) for i, (p, q) in enumerate(zip(a, b, strict=True)) if i != axis)


def is_alone(layer: Layer) -> bool:
    """Concat of one bottom and Slice into one top show their bottom's memory."""
    return len(layer.bottoms) == 1 and len(layer.tops) == 1


def slice_(b: Builder) -> list[Value]:
    """The pieces of the bottom along an axis, cut at the slice points or into equal parts."""
    p = b.param.slice_param
    axis = b.axis(b.x, p.slice_dim if p.HasField("slice_dim") else p.axis)
    extent, count = b.extent(b.x, axis), len(b.layer.tops)
    if p.slice_point:
        points = [0, *p.slice_point, extent]
        sizes = [stop - start for start, stop in pairwise(points)]
        if len(sizes) != count or min(sizes) <= 0:
            raise b.fail(f"slice points {list(p.slice_point)} do not cut {extent} into {count} tops")
    elif extent % count:
        raise b.fail(f"{extent} along axis {axis} does not divide into {count} tops")
    else:
        sizes = [extent // count] * count
    return b.nodes_of("Split", [b.x, sizes], count, axis=axis) if count > 1 else [b.node("Identity", b.x)]


def flatten(b: Builder) -> list[Value]:
    """The axes from `axis` to `end_axis` as one."""
    p = b.param.flatten_param
    if b.x.shape is None and (p.axis, p.end_axis) == (1, -1):
        return [b.node("Flatten", b.x, axis=1)]
    start, end = b.axis(b.x, p.axis), b.axis(b.x, p.end_axis)
    shape = b.dims(b.x)
    if end < start - 1:
        raise b.fail(f"Flatten ends at axis {end}, before it starts at {start}")
    return [_reshaped(b, (*shape[:start], product(shape[start : end + 1]), *shape[end + 1 :]))]


def reshape(b: Builder) -> list[Value]:
    """The same elements in another shape: 0 copies an extent, −1 is what is left."""
    p = b.param.reshape_param
    shape = b.dims(b.x)
    rank = len(shape)
    start = p.axis if p.axis >= 0 else rank + p.axis + 1
    end = rank if p.num_axes == -1 else start + p.num_axes
    if not 0 <= start <= end <= rank or p.num_axes < -1:
        raise b.fail(f"axis {p.axis} and num_axes {p.num_axes} do not lie within {b.x.name} {shape}")
    dims = list(p.shape.dim)
    if dims.count(-1) > 1 or min(dims, default=0) < -1:
        raise b.fail(f"the shape {dims} has more than one -1, or an extent below")
    if any(d == 0 and start + i >= rank for i, d in enumerate(dims)):
        raise b.fail(f"the shape {dims} copies an axis that {b.x.name} {shape} does not have")
    target = [shape[start + i] if d == 0 else d for i, d in enumerate(dims)]
    full = [*shape[:start], *target, *shape[end:]]
    return [_reshaped(b, tuple(_inferred(b, shape, full)))]


def _inferred(b: Builder, shape: Shape, full: list[int | None]) -> list[int | None]:
    """`full` with its -1 replaced, and checked against the number of elements."""
    open_batch = bool(shape) and shape[0] is None
    if open_batch and full and full[0] == -1:
        return [None, *full[1:]]
    have, rest = product(shape[open_batch:]), product(e for e in full[open_batch:] if e != -1)
    if have is None or rest is None or (open_batch and full[:1] != [None]):
        raise Unknown(f"the shape of blob {b.x.name} is not fixed")
    if -1 in full and rest and have % rest == 0:
        full[full.index(-1)] = have // rest
    elif have != rest or -1 in full:
        raise b.fail(f"blob {b.x.name} {shape} does not reshape into {full}")
    return full


def _reshaped(b: Builder, shape: Shape) -> Value:
    """Always a Reshape of its own, so that equal shapes still give the top a node."""
    if sum(extent is None for extent in shape) > 1:
        raise Unknown(f"the shape of blob {b.x.name} is not fixed")
    return b.node("Reshape", b.x, [-1 if extent is None else extent for extent in shape])


def crop(b: Builder) -> list[Value]:
    """The part of the first bottom that has the extents of the second from `axis` on, at an offset."""
    p = b.param.crop_param
    x, like = b.bottoms
    axis = b.axis(x, p.axis)
    axes = list(range(axis, len(b.dims(x))))
    if len(p.offset) not in (0, 1, len(axes)) or len(b.dims(like)) != len(b.dims(x)):
        raise b.fail(f"Crop has {len(p.offset)} offsets for {len(axes)} axes of {x.name} {x.shape} like {like.shape}")
    offsets = list(p.offset or [0]) * (len(axes) if len(p.offset) < 2 else 1)
    ends = [o + b.extent(like, i) for i, o in zip(axes, offsets, strict=True)]
    if any(end > b.extent(x, i) for i, end in zip(axes, ends, strict=True)):
        raise b.fail(f"cropping {x.name} {x.shape} to {like.shape} at {offsets} leaves it")
    return [b.node("Slice", x, offsets, ends, axes)]


def tile(b: Builder) -> list[Value]:
    """The bottom repeated along an axis."""
    p = b.param.tile_param
    axis = b.axis(b.x, p.axis)
    b.positive(tiles=p.tiles)
    return [b.node("Tile", b.x, [p.tiles if i == axis else 1 for i in range(len(b.dims(b.x)))])]


def permute(b: Builder) -> list[Value]:
    """SSD: the axes named in `order`, then the others as they come."""
    rank = len(b.dims(b.x))
    order = list(b.param.permute_param.order)
    if len(set(order)) != len(order) or any(axis >= rank for axis in order):
        raise b.fail(f"order {order} is no order of the axes of {b.x.name} {b.x.shape}")
    return [b.node("Transpose", b.x, perm=[*order, *(axis for axis in range(rank) if axis not in order)])]


def shares_permuted(layer: Layer) -> bool:
    """Whether the order is the one there is, so that the top shows the bottom's memory."""
    order = list(layer.param.permute_param.order)
    return order == sorted(order) and order == list(range(len(order)))


def shuffle_channel(b: Builder) -> list[Value]:
    """Channels in g groups of n, read as n groups of g."""
    groups = b.param.shuffle_channel_param.group
    b.positive(group=groups)
    n, _, *space = b.rank4(b.x)
    channels = b.extent(b.x, 1)
    if channels % groups:
        raise b.fail(f"{channels} channels do not divide into {groups} groups")
    apart = b.reshape(b.x, (n, groups, channels // groups, *space))
    return [b.reshape(b.node("Transpose", apart, perm=[0, 2, 1, 3, 4]), (n, channels, *space))]


def reorg(b: Builder) -> list[Value]:
    """Darknet's reorg: the bottom's memory read as (C/s², H·s, W·s), its s×s blocks gathered into channels."""
    p = b.param.reorg_param
    if p.reverse:
        raise Unknown("Reorg in reverse has no description")
    s = p.stride
    b.positive(stride=s)
    n, c, h, w = b.rank4(b.x)[0], *(b.extent(b.x, i) for i in (1, 2, 3))
    if c % (s * s) or h % s or w % s:
        raise b.fail(f"stride {s} does not divide {b.x.name} {b.x.shape}")
    blocks = b.node("Reshape", b.x, [-1 if n is None else n, c // (s * s), h, s, w, s])
    gathered = b.node("Transpose", blocks, perm=[0, 3, 5, 1, 2, 4])
    return [b.reshape(gathered, (n, c * s * s, h // s, w // s))]


def reverse(b: Builder) -> list[Value]:
    """The elements along an axis from the last to the first."""
    axis = b.axis(b.x, b.param.reverse_param.axis)
    return [b.node("Slice", b.x, [-1], [-(2**31)], [axis], [-1])]


def batch_reindex(b: Builder) -> list[Value]:
    """The items of the batch that the second bottom says."""
    return [b.node("Gather", b.x, index_of(b, b.bottoms[1]), axis=0)]


def filter_(b: Builder) -> list[Value]:
    """Keeps the items for which the last bottom is not 0."""
    *items, selector = b.bottoms
    if len(b.layer.tops) != len(items) or any(e not in (1, None) for e in b.dims(selector)[1:]):
        raise b.fail(f"Filter takes {len(items)} tops and a selector (N, 1, ...), which {selector.shape} is not")
    for x in items:
        if not all(map(b.dims, (x, selector))) or not _may_be(b.dims(x)[0], b.dims(selector)[0]):
            raise b.fail(f"the selector {selector.shape} does not go with {x.name} {x.shape}")
    chosen = b.node("Cast", b.node("Reshape", selector, [-1]), to=BOOL_CODE)
    return [b.node("Compress", x, chosen, axis=0) for x in items]


def _may_be(a: int | None, b: int | None) -> bool:
    return a == b or None in (a, b)


def softmax(b: Builder) -> list[Value]:
    """eˣ/Σ eˣ along an axis."""
    axis = b.param.softmax_param.axis
    return [b.node("Softmax", b.x, axis=axis if b.x.shape is None else b.axis(b.x, axis))]


def reduction(b: Builder) -> list[Value]:
    """coeff·Σ x, Σ |x|, Σ x² or the mean over all axes from `axis` on."""
    p = b.param.reduction_param
    axis = b.axis(b.x, p.axis)
    op = REDUCTIONS[pb.ReductionParameter.ReductionOp.Name(p.operation)]
    y = reduce_axes(b, op, b.x, list(range(axis, len(b.dims(b.x)))), keepdims=0)
    return [y if p.coeff == 1 else b.node("Mul", y, p.coeff)]


def reduce_axes(b: Builder, op: str, x: Value, axes: list[int], keepdims: int = 1) -> Value:
    """A Reduce operator, whose axes are an input for ReduceSum and from opset 18 on."""
    if op == "ReduceSum" or b.opset >= 18:
        return b.node(op, x, axes, keepdims=keepdims)
    return b.node(op, x, axes=axes, keepdims=keepdims)


def arg_max(b: Builder) -> list[Value]:
    """Of equal elements Caffe ranks the one with the larger index first, so the axis is searched from its end."""
    p = b.param.argmax_param
    shape = b.dims(b.x)
    along = p.HasField("axis")
    x = b.x if along else b.node("Flatten", b.x, axis=1)
    axis = b.axis(b.x, p.axis) if along else 1
    extent = b.extent(x, axis)
    if not 1 <= p.top_k <= extent:
        raise b.fail(f"top_k is {p.top_k} of {extent} elements")
    back = b.node("Slice", x, [-1], [-(2**31)], [axis], [-1])
    values, places = b.nodes_of("TopK", [back, [p.top_k]], 2, axis=axis)
    indices = b.node("Cast", b.node("Sub", [extent - 1], places), to=FLOAT_CODE)
    if along:
        return [values if p.out_max_val else indices]
    tail = (p.top_k, *(1,) * (max(len(shape), 3) - 3))
    if not p.out_max_val:
        return [b.reshape(indices, (shape[0], 1, *tail))]
    both = b.node("Concat", b.node("Unsqueeze", indices, [1]), b.node("Unsqueeze", values, [1]), axis=1)
    return [b.reshape(both, (shape[0], 2, *tail))]
