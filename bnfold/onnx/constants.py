"""Constant expressions: nodes that read constants only, as constants that are computed when they are asked for.

Values are computed in the stored types, as a runtime would. Shapes and types come from shape inference, so nothing is
computed to know what it will be. Operators that draw at random, or whose arithmetic is a runtime's own, are not here.
Operator semantics: https://github.com/onnx/onnx/blob/main/docs/Operators.md
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from ..ir.element_types import is_float
from ..ir.graph import Array, Node, Tensor
from ..ir.shapes.arguments import slice_places

_LARGEST = 1 << 30
"""An expression with more work than this, in elements over all its nodes, is not taken for a constant."""
_MADE = 1 << 24
"""An expression of more elements than this, and than any of its inputs, has made up extents."""
_KEPT = 1 << 16
"""Results of up to this many elements are kept, so that long chains of small expressions stay cheap."""

_Compute = Callable[[Node, list[Array]], Array]


def _reshape(node: Node, given: list[Array]) -> Array:
    return given[0].reshape(_known(node))


def _known(node: Node) -> tuple[int, ...]:
    """The output's extents, all of which are known for a constant expression."""
    return tuple(extent for extent in node.outputs[0].shape or () if extent is not None)


def _repeated(node: Node, _: list[Array]) -> Array:
    value = node.attribute("value", None)
    fill: Any = np.float32(0) if value is None else value.load().reshape(-1)[0]
    return np.broadcast_to(fill, _known(node))


def _extents(node: Node, given: list[Array]) -> Array:
    return np.array(given[0].shape[node.attribute("start", 0) : node.attribute("end", None)], np.int64)


def _taken(node: Node, given: list[Array]) -> Array:
    array = given[0]
    for axis, kept in (slice_places(node, array.shape) or {}).items():
        array = array.take(kept or (), axis=axis)
    return array


def _power(base: Array, exponent: Array) -> Array:
    return np.power(base, exponent).astype(base.dtype)


_ARITHMETIC: dict[str, tuple[str, Callable[..., Array]]] = {
    "Identity": ("fiub", np.asarray),
    "Cast": ("fiub", np.asarray),
    "CastLike": ("fiub", lambda array, *_: array),
    "Add": ("fiu", np.add),
    "Sub": ("fiu", np.subtract),
    "Mul": ("fiu", np.multiply),
    "Div": ("f", np.divide),
    "Pow": ("f", _power),
    "Neg": ("fi", np.negative),
    "Abs": ("fiu", np.abs),
    "Max": ("fiu", lambda *arrays: reduce(np.maximum, arrays)),
    "Min": ("fiu", lambda *arrays: reduce(np.minimum, arrays)),
    "Sqrt": ("f", np.sqrt),
    "Exp": ("f", np.exp),
    "Reciprocal": ("f", np.reciprocal),
}
"""Operator -> the kinds of types that its first input may have, and what it computes of its inputs alone."""

_MOVES: dict[str, _Compute] = {
    "Transpose": lambda node, given: given[0].transpose(node.attribute("perm", None)),
    "Unsqueeze": _reshape,
    "Squeeze": _reshape,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Expand": lambda node, given: np.broadcast_to(given[0], _known(node)),
    "Tile": lambda _, given: np.tile(given[0], given[1]),
    "ConstantOfShape": _repeated,
    "Shape": _extents,
    "Gather": lambda node, given: np.take(given[0], given[1], axis=node.attribute("axis", 0)),
    "Slice": _taken,
    "Concat": lambda node, given: np.concatenate(given, axis=node.attribute("axis", 1)),
}
"""Operator -> how it picks, repeats and orders elements; the output's inferred shape stands for the arguments."""


def _meaning(node: Node, dtype: np.dtype[Any]) -> _Compute | None:
    """What `node` computes of constants the first of which is of `dtype`; None where that is not for us."""
    kinds, function = _ARITHMETIC.get(node.op, ("", None))
    old = node.version < 7 and "axis" in node.attributes  # which is where the second operand was aligned
    if function is not None and _letter(dtype) in kinds and not old:
        return lambda _, given: function(*given)
    return _MOVES.get(node.op)


class Expressions:
    """Makes constants of nodes over constants, and remembers how much work each of them stands for."""

    def __init__(self) -> None:
        self.work: dict[Tensor, int] = {}

    def tensor(self, node: Node) -> Tensor | None:
        """What `node`, all of whose inputs are constants, computes; None where that cannot be told.

        It has one output, whose shape and type have been inferred, so that its inputs are known to fit together.
        """
        tensors = [value.tensor for value in node.inputs if value is not None and value.tensor is not None]
        target, shape = node.outputs[0], node.outputs[0].shape
        compute = _meaning(node, tensors[0].dtype)
        if compute is None or target.dtype is None or shape is None or None in shape:
            return None
        extents = _known(node)
        size = math.prod(extents)
        work = math.prod(extent or 1 for extent in extents) + sum(self.work.get(tensor, 0) for tensor in tensors)
        grown = size > max(_MADE, *(math.prod(tensor.shape) for tensor in tensors))
        if work > _LARGEST or grown:
            return None
        found = Tensor(node, extents, target.dtype, self._loader(node, compute, tensors, extents, size <= _KEPT))
        self.work[found] = size if size <= _KEPT else work
        return found

    def _loader(
        self, node: Node, compute: _Compute, given: list[Tensor], shape: tuple[int, ...], keep: bool
    ) -> Callable[[], Array]:
        kept: list[Array] = []

        def load() -> Array:
            if kept:
                return kept[0]
            with np.errstate(all="ignore"):
                array = compute(node, [tensor.load() for tensor in given])
                array = array.astype(node.outputs[0].dtype, copy=False).reshape(shape)
            if keep:
                kept.append(array)
            return array

        return load


def _letter(dtype: np.dtype[Any]) -> str:
    return "f" if is_float(dtype) else dtype.kind
