"""Shapes of the operators that slide a window or resample: convolutions, pooling, padding, resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .graph import Node, Shape
from .shapes_values import contents, integers, numbers, shape_of, text


def _spatial(node: Node, name: str, default: int, rank: int) -> list[int]:
    return list(node.attribute(name, None) or [default] * rank)


def _window_extent(
    extent: int | None, kernel: int | None, stride: int, dilation: int, pads: tuple[int, int], mode: str
) -> int | None:
    """Number of window positions; `mode` is auto_pad, or "CEIL" for explicit pads with ceil_mode."""
    if extent is None or kernel is None:
        return None
    if mode.startswith("SAME"):
        return -(-extent // stride)
    before, after = (0, 0) if mode == "VALID" else pads
    room = extent + before + after - dilation * (kernel - 1) - 1
    if mode != "CEIL":
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= extent + before else count


def _windows(node: Node, space: Sequence[int | None], kernel: Sequence[int | None]) -> Shape:
    rank = len(space)
    strides, dilations = _spatial(node, "strides", 1, rank), _spatial(node, "dilations", 1, rank)
    pads = _spatial(node, "pads", 0, 2 * rank)
    mode = text(node, "auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        mode = "CEIL" if node.attribute("ceil_mode", 0) else "NOTSET"
    return tuple(
        _window_extent(space[i], kernel[i], strides[i], dilations[i], (pads[i], pads[i + rank]), mode)
        for i in range(rank)
    )


def _filters(node: Node, weight: int) -> tuple[Shape | None, Shape | None]:
    """The data's and the weight's shape; data of unknown shape behind a known weight has the weight's rank."""
    data, shape = shape_of(node), shape_of(node, weight)
    if data is None and shape is not None:
        data = (None,) * len(shape)
    return data, shape


def _kernel(node: Node, weight: Shape) -> Sequence[int | None]:
    return node.attribute("kernel_shape", None) or weight[2:]


def convolution(node: Node, weight_input: int = 1) -> list[Shape | None]:
    data, weight = _filters(node, weight_input)
    if data is None:
        return [None]
    if weight is None:
        return [(data[0], *(None,) * (len(data) - 1))]
    return [(data[0], weight[0], *_windows(node, data[2:], _kernel(node, weight)))]


def transposed(node: Node) -> list[Shape | None]:
    data, weight = _filters(node, 1)
    if data is None:
        return [None]
    if weight is None:
        return [(data[0], *(None,) * (len(data) - 1))]
    channels = None if weight[1] is None else weight[1] * node.attribute("group", 1)
    return [(data[0], channels, *_transposed_space(node, data[2:], _kernel(node, weight)))]


def _transposed_space(node: Node, space: Shape, kernel: Sequence[int | None]) -> Shape:
    rank = len(space)
    if node.attribute("output_shape", None):
        return tuple(node.attributes["output_shape"][-rank:])
    strides, dilations = _spatial(node, "strides", 1, rank), _spatial(node, "dilations", 1, rank)
    extra, pads = _spatial(node, "output_padding", 0, rank), _spatial(node, "pads", 0, 2 * rank)
    mode = text(node, "auto_pad", "NOTSET")

    def extent(i: int, have: int | None, taps: int | None) -> int | None:
        if have is None or taps is None:
            return None
        if mode.startswith("SAME"):
            return have * strides[i]
        pad = 0 if mode == "VALID" else pads[i] + pads[i + rank]
        return strides[i] * (have - 1) + extra[i] + (taps - 1) * dilations[i] + 1 - pad

    return tuple(extent(i, space[i], kernel[i]) for i in range(rank))


def pool(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    if data is None:
        return [None, None]
    shape = (*data[:2], *_windows(node, data[2:], node.attributes["kernel_shape"]))
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
    return [(*data[:2], *_transposed_space(node, data[2:], node.attributes["kernel_shape"]))]


def roi(node: Node) -> list[Shape | None]:
    """MaxRoiPool and RoiAlign: one map for each region."""
    data, regions = shape_of(node), shape_of(node, 1)
    aligned = node.attribute("output_height", 1), node.attribute("output_width", 1)
    size = node.attribute("pooled_shape", None) or aligned
    return [(None if regions is None else regions[0], None if data is None else data[1], *size)]


def pad(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    if data is None:
        return [None]
    name = "paddings" if "paddings" in node.attributes else "pads"
    pads, axes = integers(node, name, 1), integers(node, "axes", 3)
    if pads is None or (axes is None and node.input(3) is not None):
        return [(None,) * len(data)]
    shape = list(data)
    places = range(len(data)) if axes is None else axes
    for k, axis in enumerate(places):
        have = shape[axis]
        shape[axis] = None if have is None else have + pads[k] + pads[k + len(places)]
    return [tuple(shape)]


def resize(node: Node) -> list[Shape | None]:
    """Resize and Upsample: `scales` (third input of Resize from opset 11 on, else the second) or `sizes`."""
    data = shape_of(node)
    if data is None:
        return [None]
    sizes, axes = node.input(3), node.attribute("axes", None) or range(len(data))
    shape = list(data)
    if sizes is not None:
        found = contents(sizes) or (None,) * len(axes)
        keep = text(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
        for k, axis in enumerate(axes):
            shape[axis] = found[k] if keep else None
        return [tuple(shape)]
    scales = numbers(node, "scales", 2 if node.op == "Resize" and node.version >= 11 else 1)
    for k, axis in enumerate(axes):
        have = shape[axis]
        shape[axis] = None if have is None or scales is None else math.floor(have * scales[k])
    return [tuple(shape)]


def depth_to_space(node: Node) -> list[Shape | None]:
    return _blocks(node, 1)


def space_to_depth(node: Node) -> list[Shape | None]:
    return _blocks(node, -1)


def _blocks(node: Node, direction: int) -> list[Shape | None]:
    data, size = shape_of(node), node.attributes["blocksize"]
    if data is None:
        return [None]

    def times(extent: int | None, power: int) -> int | None:
        return None if extent is None else extent * size**power if power > 0 else extent // size**-power

    return [(data[0], times(data[1], -2 * direction), times(data[2], direction), times(data[3], direction))]
