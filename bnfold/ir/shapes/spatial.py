"""Shapes of the operators that slide a window, pad, or resample."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..graph import Node, Shape
from . import check
from .arguments import contents, input_shape, integers, padding_name, reals, with_extents
from .windows import WEIGHTS, Axis, windows


def _filters(node: Node) -> tuple[Shape | None, Shape | None]:
    """The data's and the weight's shape; data of unknown shape behind a known weight has the weight's rank."""
    data, shape = input_shape(node), input_shape(node, WEIGHTS[node.op])
    if data is None and shape is not None:
        data = (None,) * len(shape)
    check.ranked(data, 3)
    if data is not None:
        check.ranked(shape, len(data), len(data))
    return data, shape


def convolution_shape(node: Node) -> list[Shape | None]:
    """Batch, output channels, and a position for each window."""
    data, weight = _filters(node)
    axes = windows(node)
    if data is None:
        return [None]
    space = (None,) * (len(data) - 2) if axes is None else map(Axis.count, axes, data[2:])
    if weight is not None:
        groups = node.attribute("group", 1)
        ins = check.divided(data[1], groups, "group")
        check.common((ins, weight[1]), "its input and its weights, in a group,")
        check.divided(weight[0], groups, "group")
    return [(data[0], None if weight is None else weight[0], *space)]


def transposed_shape(node: Node) -> list[Shape | None]:
    """Batch, output channels, and the elements that the windows make."""
    data, weight = _filters(node)
    axes = windows(node)
    if data is None:
        return [None]
    rank, asked = len(data) - 2, node.attribute("output_shape", None)
    space = (None,) * rank if axes is None else map(Axis.transposed, axes, data[2:])
    if asked:
        check.ensure(len(asked) in (rank, rank + 2), f"its output_shape has {len(asked)} extents for {rank} axes")
        space = asked[-rank:]
    groups, channels = node.attribute("group", 1), None
    if weight is not None:
        check.divided(check.common((data[1], weight[0]), "its input and its weights"), groups, "group")
        channels = None if weight[1] is None else weight[1] * groups
    return [(data[0], channels, *space)]


def _pooled_shape(node: Node, extent: Callable[[Axis, int | None], int | None]) -> Shape | None:
    """The shape behind a pooling, of whose windows `extent` makes so many elements of so many."""
    data = input_shape(node)
    check.ranked(data, 3)
    check.required(node, "kernel_shape")
    axes = windows(node)
    return None if data is None or axes is None else (*data[:2], *map(extent, axes, data[2:]))


def pool_shape(node: Node) -> list[Shape | None]:
    """A position for each window, of values and of indices."""
    return [_pooled_shape(node, Axis.count)] * 2


def unpool_shape(node: Node) -> list[Shape | None]:
    """As asked for, or the elements that the windows make."""
    data = input_shape(node)
    if node.input(2) is not None:
        size = integers(node, "output_shape", 2)
        return [size or (None if data is None else (None,) * len(data))]
    return [_pooled_shape(node, Axis.transposed)]


def global_pool_shape(node: Node) -> list[Shape | None]:
    """Extent 1 along each spatial axis."""
    data = input_shape(node)
    return [None if data is None else (*data[:2], *(1,) * (len(data) - 2))]


def roi_shape(node: Node) -> list[Shape | None]:
    """MaxRoiPool and RoiAlign: one map for each region."""
    data, regions = input_shape(node), input_shape(node, 1)
    check.ranked(data, 4, 4)
    check.ranked(regions, 2, 2)
    aligned = node.attribute("output_height", 1), node.attribute("output_width", 1)
    size = node.attribute("pooled_shape", None) or aligned
    check.length("pooled_shape", size, 2)
    return [(None if regions is None else regions[0], None if data is None else data[1], *size)]


def pad_shape(node: Node) -> list[Shape | None]:
    """Each extent with what is added before and behind it."""
    data = input_shape(node)
    pads, axes = integers(node, padding_name(node), 1), integers(node, "axes", 3)
    check.single(node, 2, "value")
    if pads is not None and axes is not None:
        check.length("pads", pads, 2 * len(axes))
    if data is None:
        return [None]
    if pads is None or (axes is None and node.input(3) is not None):
        return [(None,) * len(data)]
    places = tuple(range(len(data))) if axes is None else check.axes(axes, len(data))
    check.length("pads", pads, 2 * len(places))
    padded = {axis: pads[k] + pads[k + len(places)] for k, axis in enumerate(places)}
    return [tuple(None if extent is None else extent + padded.get(i, 0) for i, extent in enumerate(data))]


def resize_shape(node: Node) -> list[Shape | None]:
    """Resize and Upsample: `scales` (third input of Resize from opset 11 on, else the second) or `sizes`."""
    data = input_shape(node)
    if data is None:
        return [None]
    axes = check.axes(node.attribute("axes", None) or range(len(data)), len(data))
    sizes = node.input(3)
    if sizes is not None:
        found = contents(sizes) or (None,) * len(axes)
        check.length("sizes", found, len(axes))
        keep = node.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
        return [with_extents(data, dict(zip(axes, found, strict=True)) if keep else dict.fromkeys(axes))]
    scales = reals(node, "scales", 2 if node.op == "Resize" and node.version >= 11 else 1)
    if scales is None:
        return [with_extents(data, dict.fromkeys(axes))]
    check.length("scales", scales, len(axes))
    check.ensure(all(0 < scale < math.inf for scale in scales), f"its scales are {scales}")
    scaled = dict(zip(axes, scales, strict=True))
    return [tuple(None if extent is None else math.floor(extent * scaled.get(i, 1)) for i, extent in enumerate(data))]


def depth_to_space_shape(node: Node) -> list[Shape | None]:
    """Channels by blocksize² fewer, height and width by blocksize more."""
    data, size = _blocks(node)
    if data is None:
        return [None]
    channels = check.divided(data[1], size**2, "blocksize squared")
    return [(data[0], channels, *(None if e is None else e * size for e in data[2:]))]


def space_to_depth_shape(node: Node) -> list[Shape | None]:
    """Channels by blocksize² more, height and width by blocksize fewer."""
    data, size = _blocks(node)
    if data is None:
        return [None]
    channels = None if data[1] is None else data[1] * size**2
    return [(data[0], channels, *(check.divided(e, size, "blocksize") for e in data[2:]))]


def _blocks(node: Node) -> tuple[Shape | None, int]:
    data, size = input_shape(node), check.required(node, "blocksize")
    check.ranked(data, 4, 4)
    check.ensure(size > 0, f"its blocksize is {size}")
    return data, size
