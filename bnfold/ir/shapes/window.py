"""Shapes of the operators that slide a window or resample: convolutions, pooling, padding, resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..graph import Node, Shape
from . import check
from .arguments import contents, integers, numbers, shape_of, text

_PADDING = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def _spatial(node: Node, name: str, default: int, count: int) -> list[int]:
    """A list with one element an axis (two for pads); those that count or step are positive."""
    found = list(node.attribute(name, None) or [default] * count)
    check.length(name, found, count)
    check.ensure(default < 1 or min(found, default=1) > 0, f"its {name} are {found}")
    return found


def _auto(node: Node) -> str:
    mode = text(node, "auto_pad", "NOTSET") or "NOTSET"
    check.ensure(mode in _PADDING, f"its auto_pad is {mode!r}")
    return mode


def _window_extent(
    extent: int | None, kernel: int | None, stride: int, dilation: int, pads: tuple[int, int], mode: str
) -> int | None:
    """Number of window positions, None where there is none; `mode` is auto_pad, or "CEIL" for pads with ceil_mode."""
    if extent is None or kernel is None:
        return None
    if mode.startswith("SAME"):
        return -(-extent // stride)
    before, after = (0, 0) if mode == "VALID" else pads
    room = extent + before + after - dilation * (kernel - 1) - 1
    count = (-(-room // stride) if mode == "CEIL" else room // stride) + 1
    if mode == "CEIL" and (count - 1) * stride >= extent + before:
        count -= 1
    return count if count > 0 else None


def _windows(node: Node, space: Sequence[int | None], kernel: Sequence[int | None]) -> Shape:
    rank = len(space)
    strides, dilations = _spatial(node, "strides", 1, rank), _spatial(node, "dilations", 1, rank)
    pads = _spatial(node, "pads", 0, 2 * rank)
    mode = _auto(node)
    if mode == "NOTSET" and node.attribute("ceil_mode", 0):
        mode = "CEIL"
    return tuple(
        _window_extent(space[i], kernel[i], strides[i], dilations[i], (pads[i], pads[i + rank]), mode)
        for i in range(rank)
    )


def _filters(node: Node, weight: int) -> tuple[Shape | None, Shape | None]:
    """The data's and the weight's shape; data of unknown shape behind a known weight has the weight's rank."""
    data, shape = shape_of(node), shape_of(node, weight)
    if data is None and shape is not None:
        data = (None,) * len(shape)
    check.ranked(data, 3)
    if data is not None:
        check.ranked(shape, len(data), len(data))
    return data, shape


def _kernel(node: Node, weight: Shape) -> Sequence[int | None]:
    """The kernel's extents, which an attribute may repeat."""
    given = node.attribute("kernel_shape", None) or weight[2:]
    check.length("kernel_shape", given, len(weight) - 2)
    kernel = [check.common(pair, "kernel_shape and weights") for pair in zip(given, weight[2:], strict=True)]
    check.ensure(min((k for k in kernel if k is not None), default=1) > 0, f"its kernel is {kernel}")
    return kernel


def convolution(node: Node, weight_input: int = 1) -> list[Shape | None]:
    data, weight = _filters(node, weight_input)
    if data is None:
        return [None]
    if weight is None:
        return [(data[0], *(None,) * (len(data) - 1))]
    groups = node.attribute("group", 1)
    ins = check.divided(data[1], groups, "group")
    check.common((ins, weight[1]), "its input and its weights, in a group,")
    check.divided(weight[0], groups, "group")
    return [(data[0], weight[0], *_windows(node, data[2:], _kernel(node, weight)))]


def transposed(node: Node) -> list[Shape | None]:
    data, weight = _filters(node, 1)
    if data is None:
        return [None]
    if weight is None:
        return [(data[0], *(None,) * (len(data) - 1))]
    groups = node.attribute("group", 1)
    check.divided(check.common((data[1], weight[0]), "its input and its weights"), groups, "group")
    channels = None if weight[1] is None else weight[1] * groups
    return [(data[0], channels, *_transposed_space(node, data[2:], _kernel(node, weight)))]


def _transposed_space(node: Node, space: Shape, kernel: Sequence[int | None]) -> Shape:
    rank = len(space)
    strides, dilations = _spatial(node, "strides", 1, rank), _spatial(node, "dilations", 1, rank)
    extra, pads = _spatial(node, "output_padding", 0, rank), _spatial(node, "pads", 0, 2 * rank)
    mode, asked = _auto(node), node.attribute("output_shape", None)
    if asked:
        check.ensure(len(asked) in (rank, rank + 2), f"its output_shape has {len(asked)} extents for {rank} axes")
        return tuple(asked[-rank:])

    def extent(i: int, have: int | None, taps: int | None) -> int | None:
        if have is None or taps is None:
            return None
        if mode.startswith("SAME"):
            return have * strides[i]
        pad = 0 if mode == "VALID" else pads[i] + pads[i + rank]
        found = strides[i] * (have - 1) + extra[i] + (taps - 1) * dilations[i] + 1 - pad
        return found if found > 0 else None

    return tuple(extent(i, space[i], kernel[i]) for i in range(rank))


def _pooled(node: Node, data: Shape) -> list[int]:
    """The kernel of a pooling."""
    check.ranked(data, 3)
    check.required(node, "kernel_shape")
    return _spatial(node, "kernel_shape", 1, len(data) - 2)


def pool(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    if data is None:
        return [None, None]
    shape = (*data[:2], *_windows(node, data[2:], _pooled(node, data)))
    return [shape, shape]


def global_pool(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    return [None if data is None else (*data[:2], *(1,) * (len(data) - 2))]


def unpool(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    if node.input(2) is not None:
        size = integers(node, "output_shape", 2)
        return [size or (None if data is None else (None,) * len(data))]
    if data is None:
        return [None]
    return [(*data[:2], *_transposed_space(node, data[2:], _pooled(node, data)))]


def roi(node: Node) -> list[Shape | None]:
    """MaxRoiPool and RoiAlign: one map for each region."""
    data, regions = shape_of(node), shape_of(node, 1)
    check.ranked(data, 4, 4)
    check.ranked(regions, 2, 2)
    aligned = node.attribute("output_height", 1), node.attribute("output_width", 1)
    size = node.attribute("pooled_shape", None) or aligned
    check.length("pooled_shape", size, 2)
    return [(None if regions is None else regions[0], None if data is None else data[1], *size)]


def pad(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    name = "paddings" if "paddings" in node.attributes else "pads"
    pads, axes = integers(node, name, 1), integers(node, "axes", 3)
    check.single(node, 2, "value")
    if pads is not None and axes is not None:
        check.length("pads", pads, 2 * len(axes))
    if data is None:
        return [None]
    if pads is None or (axes is None and node.input(3) is not None):
        return [(None,) * len(data)]
    shape = list(data)
    places = tuple(range(len(data))) if axes is None else check.axes(axes, len(data))
    check.length("pads", pads, 2 * len(places))
    for k, axis in enumerate(places):
        have = shape[axis]
        shape[axis] = None if have is None else have + pads[k] + pads[k + len(places)]
    return [tuple(shape)]


def resize(node: Node) -> list[Shape | None]:
    """Resize and Upsample: `scales` (third input of Resize from opset 11 on, else the second) or `sizes`."""
    data = shape_of(node)
    if data is None:
        return [None]
    axes = check.axes(node.attribute("axes", None) or range(len(data)), len(data))
    sizes = node.input(3)
    shape = list(data)
    if sizes is not None:
        found = contents(sizes) or (None,) * len(axes)
        check.length("sizes", found, len(axes))
        keep = text(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
        for k, axis in enumerate(axes):
            shape[axis] = found[k] if keep else None
        return [tuple(shape)]
    scales = numbers(node, "scales", 2 if node.op == "Resize" and node.version >= 11 else 1)
    if scales is not None:
        check.length("scales", scales, len(axes))
        check.ensure(all(0 < scale < math.inf for scale in scales), f"its scales are {scales}")
    for k, axis in enumerate(axes):
        have = shape[axis]
        shape[axis] = None if have is None or scales is None else math.floor(have * scales[k])
    return [tuple(shape)]


def depth_to_space(node: Node) -> list[Shape | None]:
    data, size = _blocks(node)
    if data is None:
        return [None]
    channels = check.divided(data[1], size**2, "blocksize squared")
    return [(data[0], channels, *(None if e is None else e * size for e in data[2:]))]


def space_to_depth(node: Node) -> list[Shape | None]:
    data, size = _blocks(node)
    if data is None:
        return [None]
    channels = None if data[1] is None else data[1] * size**2
    return [(data[0], channels, *(check.divided(e, size, "blocksize") for e in data[2:]))]


def _blocks(node: Node) -> tuple[Shape | None, int]:
    data, size = shape_of(node), check.required(node, "blocksize")
    check.ranked(data, 4, 4)
    check.ensure(size > 0, f"its blocksize is {size}")
    return data, size
