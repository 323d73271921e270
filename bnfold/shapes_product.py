"""Shapes of the operators that multiply matrices or reduce axes."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Node, Shape
from .shapes_layout import broadcast
from .shapes_values import given, integers, shape_of


def matmul(node: Node, right: int = 1) -> list[Shape | None]:
    a, b = shape_of(node), shape_of(node, right)
    if a is None or b is None:
        return [None]
    left_vector, right_vector = len(a) == 1, len(b) == 1
    a, b = (1, *a) if left_vector else a, (*b, 1) if right_vector else b
    batch = broadcast([a[:-2], b[:-2]]) or ()
    rows = () if left_vector else (a[-2],)
    return [(*batch, *rows, *(() if right_vector else (b[-1],)))]


def gemm(node: Node) -> list[Shape | None]:
    a, b = shape_of(node), shape_of(node, 1)
    rows = None if a is None else a[1 if node.attribute("transA", 0) else 0]
    columns = None if b is None else b[0 if node.attribute("transB", 0) else 1]
    return [(rows, columns)]


def einsum(node: Node) -> list[Shape | None]:
    equation = node.attributes["equation"]
    terms = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    if "->" not in terms or "." in terms:
        return [None]
    inputs, output = terms.split("->")
    extents: dict[str, int | None] = {}
    for index, letters in enumerate(inputs.split(",")):
        shape = shape_of(node, index)
        for letter, extent in zip(letters, shape or (None,) * len(letters), strict=True):
            extents[letter] = extents.get(letter) or extent
    return [tuple(extents[letter] for letter in output)]


def reduce(node: Node) -> list[Shape | None]:
    data, keep = shape_of(node), node.attribute("keepdims", 1)
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


def arg_extreme(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    return [None if data is None else _without(data, (node.attribute("axis", 0),), node.attribute("keepdims", 1))]


def _without(data: Shape, axes: Sequence[int], keep: int) -> Shape:
    gone = {a % len(data) for a in axes}
    return tuple(1 if i in gone else e for i, e in enumerate(data) if keep or i not in gone)


def recurrent(node: Node) -> list[Shape | None]:
    """LSTM, GRU, RNN: all hidden states, the last ones, and (LSTM) the last cell states."""
    data, weight = shape_of(node), shape_of(node, 2)
    directions = 2 if node.attribute("direction", "forward") in ("bidirectional", b"bidirectional") else 1
    hidden = node.attribute("hidden_size", None if weight is None else weight[2])
    first, second = (None, None) if data is None else data[:2]
    if node.attribute("layout", 0):
        last: Shape = (first, directions, hidden)
        return [(first, second, directions, hidden), last, last]
    last = (directions, second, hidden)
    return [(first, directions, second, hidden), last, last]
