"""What is known of a node's arguments: attributes, and the integers that inputs such as `shape` or `axes` hold.

ONNX moved many arguments from attributes to inputs over the years; a rule asks here and need not care.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..graph import Node, Shape, Value
from . import check

Extents = tuple[int | None, ...]
_DEPTH = 12
"""How many operators of shape arithmetic are followed backwards; exporters write five or six in a row."""
_LARGEST = 64
"""A constant with more elements is no shape."""


def given(node: Node, name: str, index: int) -> bool:
    """Whether the argument is there, as the attribute `name` or as the input `index`."""
    return name in node.attributes or node.input(index) is not None


def integers(node: Node, name: str, index: int) -> tuple[int, ...] | None:
    """An argument of integers by attribute or input; None when it is absent or any of them is unknown."""
    if name in node.attributes:
        value = node.attributes[name]
        return (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)
    source = node.input(index)
    found = None if source is None else contents(source)
    return None if found is None or None in found else tuple(v for v in found if v is not None)


def padding_name(node: Node) -> str:
    """What a Pad calls its padding where that is an attribute: opset 1 had another word for it."""
    return "pads" if "pads" in node.attributes else "paddings"


def reals(node: Node, name: str, index: int) -> tuple[float, ...] | None:
    """An argument of floats by attribute or constant input; None when it is absent or not constant."""
    if name in node.attributes:
        return tuple(float(v) for v in node.attributes[name])
    tensor = node.constant(index)
    return None if tensor is None or tensor.shape == (0,) else tuple(float(v) for v in tensor.load().reshape(-1))


def input_shape(node: Node, index: int = 0) -> Shape | None:
    """The shape of an input; None where it is absent or its shape is not known."""
    value = node.input(index)
    return None if value is None else value.shape


def with_extents(shape: Shape, extents: Mapping[int, int | None]) -> Shape:
    """`shape` with other extents along some axes."""
    return tuple(extents.get(axis, extent) for axis, extent in enumerate(shape))


def slice_places(node: Node, shape: Shape) -> dict[int, range | None] | None:
    """The elements that a Slice of an input of `shape` keeps along each axis that it cuts, None where its extent is.

    None as a whole where the arguments are not constant. Raises Contradiction where they do not fit each other.
    """
    starts, ends = integers(node, "starts", 1), integers(node, "ends", 2)
    axes = integers(node, "axes", 3) if given(node, "axes", 3) else tuple(range(len(starts or ())))
    steps = integers(node, "steps", 4) if given(node, "steps", 4) else (1,) * len(starts or ())
    check.ensure(0 not in (steps or ()), "a step is 0")
    if starts is None or ends is None or axes is None or steps is None:
        return None
    check.common(map(len, (starts, ends, axes, steps)), "its starts, ends, axes, steps")
    extents = {axis: shape[axis] for axis in check.axes(axes, len(shape))}
    cuts = zip(extents.items(), starts, ends, steps, strict=True)
    return {axis: None if e is None else _slice_range(start, end, step, e) for (axis, e), start, end, step in cuts}


def _slice_range(start: int, end: int, step: int, extent: int) -> range:
    """The elements that a Slice takes of an axis of `extent`; Python counts otherwise when it goes backwards.

    Negative ends count from behind; then both are clamped to [0, extent], or going backwards to the last element and
    to one before the first: https://onnx.ai/onnx/operators/onnx__Slice.html.
    """
    low, high = (0, extent) if step > 0 else (-1, extent - 1)
    first, last = (end + extent if end < 0 else end for end in (start, end))
    return range(min(max(first, 0), high), min(max(last, low), high), step)


def contents(value: Value, depth: int = _DEPTH) -> Extents | None:
    """The integers that a value of rank 0 or 1 holds, as far as known; None when not even their number is."""
    if value.tensor is not None:
        tensor = value.tensor
        if len(tensor.shape) > 1 or math.prod(tensor.shape) > _LARGEST or tensor.dtype.kind not in "iu":
            return None
        return tuple(int(v) for v in tensor.load().reshape(-1))
    node = value.producer
    rule = _ARITHMETIC.get(node.op) if node is not None and depth and not node.contradiction else None
    found = None if rule is None or node is None else rule(node, depth - 1)
    count = value.shape[0] if value.shape is not None and len(value.shape) == 1 else None
    return (None,) * count if found is None and count is not None and count <= _LARGEST else found


def _content(node: Node, index: int, depth: int) -> Extents | None:
    value = node.input(index)
    return None if value is None else contents(value, depth)


def _of_same(node: Node, depth: int) -> Extents | None:
    return _content(node, 0, depth)


def _of_shape(node: Node, _depth: int) -> Extents | None:
    shape = input_shape(node)
    return None if shape is None else shape[node.attribute("start", 0) : node.attribute("end", None)]


def _of_gather(node: Node, depth: int) -> Extents | None:
    data, indices = _content(node, 0, depth), _content(node, 1, depth)
    if data is None or indices is None or None in indices:
        return None
    return tuple(data[i] if -len(data) <= i < len(data) else None for i in indices if i is not None)


def _of_concat(node: Node, depth: int) -> Extents | None:
    parts = [_content(node, i, depth) for i in range(len(node.inputs))]
    return None if None in parts else tuple(v for part in parts if part is not None for v in part)


def _of_slice(node: Node, depth: int) -> Extents | None:
    data = _content(node, 0, depth)
    places = None if data is None else slice_places(node, (len(data),))
    if data is None or places is None:
        return None
    return tuple(data[i] for i in places.get(0) or ()) if places else data


def _of_both(compute: Callable[[int, int], int | None]) -> Callable[[Node, int], Extents | None]:
    def rule(node: Node, depth: int) -> Extents | None:
        left, right = _content(node, 0, depth), _content(node, 1, depth)
        if left is None or right is None or not left or not right:
            return None
        count = max(len(left), len(right))
        if min(len(left), len(right)) not in (1, count):
            return None
        pairs = zip(_repeat(left, count), _repeat(right, count), strict=True)
        return tuple(None if a is None or b is None else compute(a, b) for a, b in pairs)

    return rule


def _repeat(values: Extents, count: int) -> Extents:
    return values * count if len(values) == 1 else values


def _divide(a: int, b: int) -> int | None:
    """ONNX divides integers towards zero; what it makes of a division by 0 is not known."""
    if b == 0:
        return None
    return abs(a) // abs(b) if (a < 0) == (b < 0) else -(abs(a) // abs(b))


_ARITHMETIC: dict[str, Callable[[Node, int], Any]] = {
    "Identity": _of_same,
    "Cast": _of_same,
    "Squeeze": _of_same,
    "Unsqueeze": _of_same,
    "Shape": _of_shape,
    "Gather": _of_gather,
    "Concat": _of_concat,
    "Slice": _of_slice,
    "Add": _of_both(lambda a, b: a + b),
    "Sub": _of_both(lambda a, b: a - b),
    "Mul": _of_both(lambda a, b: a * b),
    "Div": _of_both(_divide),
}
