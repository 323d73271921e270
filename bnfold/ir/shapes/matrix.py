"""Shapes of the operators that multiply matrices or reduce axes."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Node, Shape
from . import check
from .arguments import given, input_shape, integers
from .check import broadcast


def matmul_shape(node: Node, right: int = 1) -> list[Shape | None]:
    """Rows of the first by columns of the second, the axes before broadcast; vectors lose theirs."""
    a, b = input_shape(node), input_shape(node, right)
    check.ranked(a, 1)
    check.ranked(b, 1)
    if a is None or b is None:
        return [None]
    left_vector, right_vector = len(a) == 1, len(b) == 1
    a, b = (1, *a) if left_vector else a, (*b, 1) if right_vector else b
    check.common((a[-1], b[-2]), "the columns and rows of its factors")
    batch = broadcast([a[:-2], b[:-2]]) or ()
    rows = () if left_vector else (a[-2],)
    return [(*batch, *rows, *(() if right_vector else (b[-1],)))]


def gemm_shape(node: Node) -> list[Shape | None]:
    """Rows of A' by columns of B'."""
    a, b, c = (input_shape(node, index) for index in range(3))
    check.ranked(a, 2, 2)
    check.ranked(b, 2, 2)
    a = (None, None) if a is None else a[::-1] if node.attribute("transA", 0) else a
    b = (None, None) if b is None else b[::-1] if node.attribute("transB", 0) else b
    check.common((a[1], b[0]), "the columns and rows of its factors")
    result = a[0], b[1]
    if c is not None:
        check.ranked(c, 0, 2)
        for extent, own in zip(result[::-1], c[::-1], strict=False):
            check.ensure(own in (1, None) or extent in (own, None), f"its sum of {c} does not broadcast to {result}")
    return [result]


def einsum_shape(node: Node) -> list[Shape | None]:
    """The extents of the letters behind the arrow."""
    equation = check.required(node, "equation")
    terms = equation.replace(" ", "")
    if "->" not in terms or "." in terms:
        return [None]
    inputs, _, output = terms.partition("->")
    operands = inputs.split(",")
    check.length("operands", operands, len(node.inputs))
    extents: dict[str, list[int | None]] = {}
    for index, letters in enumerate(operands):
        shape = input_shape(node, index)
        check.ranked(shape, len(letters), len(letters))
        for letter, extent in zip(letters, shape or (None,) * len(letters), strict=True):
            extents.setdefault(letter, []).append(extent)
    check.ensure(set(output) <= set(extents), f"{equation!r} has letters in its result only")
    return [tuple(check.wide(extents[letter]) for letter in output)]


def reduction_shape(node: Node) -> list[Shape | None]:
    """Without the axes reduced, or with extent 1 there."""
    data, keep = input_shape(node), node.attribute("keepdims", 1)
    if data is None:
        return [None]
    axes = integers(node, "axes", 1)
    if axes is None and given(node, "axes", 1):
        return [(None,) * len(data) if keep else None]
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            return [data]
        axes = tuple(range(len(data)))
    return [_without(data, axes, keep)]


def extreme_shape(node: Node) -> list[Shape | None]:
    """Without `axis`, or with extent 1 there."""
    data = input_shape(node)
    return [None if data is None else _without(data, (node.attribute("axis", 0),), node.attribute("keepdims", 1))]


def _without(data: Shape, axes: Sequence[int], keep: int) -> Shape:
    gone = check.axes(axes, len(data))
    return tuple(1 if i in gone else e for i, e in enumerate(data) if keep or i not in gone)


def recurrent_shape(node: Node) -> list[Shape | None]:
    """LSTM, GRU, RNN: all hidden states, the last ones, and (LSTM) the last cell states."""
    data, weight = input_shape(node), input_shape(node, 2)
    check.ranked(data, 3, 3)
    check.ranked(weight, 3, 3)
    directions = 2 if node.attribute("direction", "forward") == "bidirectional" else 1
    hidden = node.attribute("hidden_size", None if weight is None else weight[2])
    first, second = (None, None) if data is None else data[:2]
    if node.attribute("layout", 0):
        last: Shape = (first, directions, hidden)
        return [(first, second, directions, hidden), last, last]
    last = (directions, second, hidden)
    return [(first, directions, second, hidden), last, last]
