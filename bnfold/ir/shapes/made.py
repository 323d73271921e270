"""Shapes of the operators that make values, or choose elements by what they hold."""

from __future__ import annotations

import math

from ..graph import Node, Shape
from . import check
from .arguments import contents, input_shape, integers


def top_k_shape(node: Node) -> list[Shape | None]:
    """K elements along `axis`, of values and of indices."""
    data, count = input_shape(node), integers(node, "k", 1)
    if count is not None:
        check.length("k", count, 1)
    if data is None:
        return [None, None]
    axis = check.axis(node.attribute("axis", -1), len(data))
    have = data[axis]
    if count is not None and have is not None:
        check.ensure(count[0] <= have, f"it takes {count[0]} of {have} elements")
    shape = (*data[:axis], None if count is None else count[0], *data[axis + 1 :])
    return [shape, shape]


def one_hot_shape(node: Node) -> list[Shape | None]:
    """An axis more, as deep as `depth` says."""
    indices, depth = input_shape(node), check.finite(node, 1, "depth")
    if indices is None:
        return [None]
    axis = check.axis(node.attribute("axis", -1), len(indices) + 1)
    return [(*indices[:axis], None if depth is None else int(depth), *indices[axis:])]


def constant_of_shape_shape(node: Node) -> list[Shape | None]:
    """The integers of its input."""
    value, source = node.attribute("value", None), node.input(0)
    if value is not None:
        check.ensure(math.prod(value.shape) == 1, f"its value has the shape {tuple(value.shape)}")
    return [None if source is None else contents(source)]


def random_shape(node: Node) -> list[Shape | None]:
    """As the attribute says."""
    return [tuple(check.required(node, "shape"))]


def range_shape(node: Node) -> list[Shape | None]:
    """As many as there are from `start` to `limit` by `delta`."""
    names = ("start", "limit", "delta")
    known = [end for index, name in enumerate(names) if (end := check.finite(node, index, name)) is not None]
    if len(known) < len(names):
        return [(None,)]
    start, limit, delta = known
    check.ensure(delta != 0, "its delta is 0")
    steps = (limit - start) / delta
    check.ensure(math.isfinite(steps), f"it ranges from {start} to {limit} by {delta}")
    return [(max(math.ceil(steps), 0),)]


def shape_shape(node: Node) -> list[Shape | None]:
    """One extent for each axis from `start` to `end`."""
    data = input_shape(node)
    if data is None:
        return [(None,)]
    return [(len(data[node.attribute("start", 0) : node.attribute("end", None)]),)]


def scalar_shape(_node: Node) -> list[Shape | None]:
    """No axes."""
    return [()]


def non_zero_shape(node: Node) -> list[Shape | None]:
    """An index for each axis of each element that is not 0, which the data tell."""
    data = input_shape(node)
    return [(None if data is None else len(data), None)]


def selected_boxes_shape(_node: Node) -> list[Shape | None]:
    """Three indices for each box that is kept."""
    return [(None, 3)]


def compress_shape(node: Node) -> list[Shape | None]:
    """As many as the condition keeps, along `axis` or of all."""
    data = input_shape(node)
    if "axis" not in node.attributes:
        return [(None,)]
    if data is None:
        return [None]
    axis = check.axis(node.attributes["axis"], len(data))
    return [(*data[:axis], None, *data[axis + 1 :])]


def constant_shape(node: Node) -> list[Shape | None]:
    """That of the attribute that it has."""
    value = node.attribute("value", None)
    if value is not None:
        return [tuple(value.shape)]
    lists = ("value_ints", "value_floats", "value_strings")
    several = next((node.attributes[name] for name in lists if name in node.attributes), None)
    return [() if several is None else (len(several),)]


def unique_shape(node: Node) -> list[Shape | None]:
    """One extent that depends on the data, or the data's shape with one such extent."""
    data, along = input_shape(node), node.attribute("axis", None)
    first: Shape | None = (None,)
    if along is not None and data is not None:
        axis = check.axis(along, len(data))
        first = (*data[:axis], None, *data[axis + 1 :])
    elif along is not None:
        first = None
    return [first, (None,), (None,), (None,)]
