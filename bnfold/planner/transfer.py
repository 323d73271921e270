"""How an array of multipliers or shifts moves through an operator that commutes with it.

The array broadcasts against a value: one axis for each of the value's, extent 1 where it does not vary. `up` takes the
array wanted at an output to the arrays that the inputs must have had: a Refusal for an input that cannot, None for one
that takes no part. `down` takes the array found at an input to the arrays at the outputs, as many as carry it.
`neutral` (1 for multipliers, 0 for shifts) fills what the operator puts beside it. Whether the operator lets
multipliers or shifts pass at all is not asked here but in the table of `commuting`.
Operator semantics: https://github.com/onnx/onnx/blob/main/docs/Operators.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..ir.graph import Contradiction, Node, Value
from ..ir.shapes.arguments import given, integers, padding_name
from ..ir.shapes.check import broadcast
from .affine import Float64
from .records import Refusal
from .refusal import bounded, numbers, refuse, shape_of

Wanted = Sequence[Float64 | Refusal | None]
Up = Callable[[Node, int, Float64, float], Wanted]
Down = Callable[[Node, int, Float64, float], list[Float64]]


def within(node: Node, axis: int, rank: int) -> int:
    """An axis counted from 0; refuses one that `rank` axes do not have, as where a shape was not known before."""
    if not -rank <= axis < rank:
        raise refuse("shape", f"{node.label} has {rank} axes, and no axis {axis}", node)
    return axis % rank


def constant_integers(node: Node, name: str, index: int) -> list[int] | None:
    """A list that old opsets give as an attribute and newer ones as a constant input; None when it is absent."""
    found = integers(node, name, index)
    if given(node, name, index) and (found is None or not (name in node.attributes or node.constant(index))):
        raise refuse("dynamic", f"{node.label} computes its {name} at run time", node)
    return None if found is None else list(found)


def as_is(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """Up or down through an operator of one data input that works element by element."""
    return [array]


def spread_up(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through an element-wise operator of several inputs that broadcast against each other."""
    return [_fitted(node, value, array) if value is not None else None for value in node.inputs]


def _fitted(node: Node, value: Value, array: Float64) -> Float64 | Refusal:
    """`array` as the broadcasting input `value` must have it: a Refusal where that is repeated but the array varies."""
    _modern(node)
    shape = shape_of(value, node)
    missing = array.ndim - len(shape)
    if missing < 0:
        return Refusal("shape", f"{value.name!r} has more axes than what {node.label} makes of it", node.name)
    repeated = list(range(missing)) + [i + missing for i, extent in enumerate(shape) if extent == 1]
    if any(array.shape[axis] != 1 for axis in repeated):
        return Refusal("axis", f"{node.label} repeats {value.name!r} along the channels", node.name)
    fit: Float64 = array.reshape(array.shape[missing:])
    for known, own in zip(shape, fit.shape, strict=True):
        if own not in (1, known):
            what = f"the extents of {value.name!r} at {node.label} are not known"
            return Refusal("shape", what, node.name)
    return fit


def spread_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through an element-wise operator of several inputs that broadcast against each other."""
    _modern(node)
    rank = len(shape_of(node.outputs[0], node))
    return [array.reshape((1,) * (rank - array.ndim) + array.shape)]


def _modern(node: Node) -> None:
    """Refuse operators that broadcast as before opset 7, where an attribute tells the axis."""
    if node.version < 7 and node.attribute("broadcast", 0):
        raise refuse("broadcast", f"{node.label} broadcasts as before opset 7", node)


def subtracted_up(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Sub: a shift goes to the second input with its sign changed."""
    first, second = (value for value in node.inputs if value is not None)
    return [_fitted(node, first, array), _fitted(node, second, array if neutral else -array)]


def subtracted_down(node: Node, slot: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a Sub: a shift of the second input changes its sign."""
    return spread_down(node, slot, -array if slot and not neutral else array, neutral)


def factor(node: Node) -> Float64 | None:
    """The constant operand of a Mul, or what a Div by a constant multiplies with."""
    _modern(node)
    tensor = node.constant(1) or node.constant(0)
    if tensor is None:
        return None
    return 1 / numbers(tensor, node) if node.op == "Div" else numbers(tensor, node)


def _broadcasting(node: Node, array: Float64, constant: Float64 | None) -> Float64:
    """The constant operand, where it broadcasts with the array to something that can be spelled out."""
    if constant is None:
        return np.ones(())
    try:
        shape = broadcast([array.shape, constant.shape]) or ()
    except Contradiction as found:
        raise refuse("shape", f"{node.label} does not fit the affine: {found}", node) from None
    bounded([extent or 0 for extent in shape], node)
    return constant


def product_up(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Mul or Div: a multiplier goes to one factor as it is, a shift is divided by the constant."""
    wanted: Float64 = array if neutral else array / _broadcasting(node, array, factor(node))
    return [_fitted(node, v, wanted) if v is not None and v.tensor is None else None for v in node.inputs]


def quotient_up(node: Node, index: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Div: into the dividend only."""
    return [None if node.constant(0) is not None else product_up(node, index, array, neutral)[0]]


def product_down(node: Node, slot: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a Mul or Div: a shift is multiplied by the constant."""
    return spread_down(node, slot, array if neutral else array * _broadcasting(node, array, factor(node)), neutral)


_Axes = Callable[[Node, int], list[int]]
"""The axes of an operator's input (rank given) along which its outputs mix or repeat elements."""


def flat(node: Node, array: Float64, axes: list[int]) -> None:
    """Refuse unless the array is one value along `axes`."""
    if any(axis >= array.ndim or array.shape[axis] != 1 for axis in axes):
        what = f"{node.label} works along the axis on which the affine varies"
        raise refuse("axis", what, node)


def mixing(axes: _Axes) -> tuple[Up, Down]:
    """An operator that keeps the rank of its one data input and mixes elements only along `axes`."""

    def past(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
        flat(node, array, axes(node, array.ndim))
        return [array]

    return past, past


def spatial_axes(node: Node, rank: int) -> list[int]:
    """All but batch and channels."""
    return list(range(2, rank))


def padded_axes(node: Node, rank: int) -> list[int]:
    """The axes that a Pad extends or cuts."""
    pads = constant_integers(node, padding_name(node), 1) or []
    axes = constant_integers(node, "axes", 3)
    axes = list(range(rank)) if axes is None else axes
    return [within(node, axis, rank) for i, axis in enumerate(axes) if any(pads[i :: len(axes)])]


def resized_axes(node: Node, rank: int) -> list[int]:
    """The axes along which a Resize or Upsample interpolates: a scale near 1 does, even where the extent stays."""
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise refuse("dynamic", f"{node.label} chooses its scales", node)
    slot = 1 if node.op == "Upsample" or node.version < 11 else 2
    scales, value = node.attribute("scales", ()), node.input(slot)
    if value is not None and value.tensor is None:
        raise refuse("dynamic", f"{node.label} computes its scales at run time", node)
    if value is not None and value.tensor is not None:
        scales = value.tensor.load().reshape(-1)
    axes = node.attribute("axes", range(rank))
    scaled = {within(node, axis, rank) for axis, scale in zip(axes, scales, strict=False) if scale != 1}
    return sorted(scaled.union(repeated_axes(node, rank)))


def repeated_axes(node: Node, rank: int) -> list[int]:
    """The axes that a Tile or an Expand of equal rank repeats."""
    old, new = shape_of(node.inputs[0], node), shape_of(node.outputs[0], node)
    if not len(old) == len(new) == rank:
        raise refuse("axis", f"{node.label} changes the rank", node)
    return [axis for axis in range(rank) if old[axis] is None or old[axis] != new[axis]]


def _reduced_axes(node: Node) -> list[int]:
    """The axes that a Reduce* removes or reduces, counted from 0."""
    rank = len(shape_of(node.inputs[0], node))
    axes = constant_integers(node, "axes", 1)
    if not axes:
        return [] if node.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return [within(node, axis, rank) for axis in axes]


def reduced_up(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Reduce* whose axes the array does not vary along."""
    axes = _reduced_axes(node)
    if not node.attribute("keepdims", 1):
        array = np.expand_dims(array, tuple(axes))
    flat(node, array, axes)
    return [array]


def reduced_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a Reduce* whose axes the array does not vary along."""
    axes = _reduced_axes(node)
    flat(node, array, axes)
    return [array if node.attribute("keepdims", 1) else array.squeeze(tuple(axes))]


def _summands(node: Node) -> int:
    """How many elements a ReduceSum adds up to one; refuses where that is not known."""
    shape = shape_of(node.inputs[0], node)
    count = math.prod(shape[axis] or 0 for axis in _reduced_axes(node))
    if not 0 < count < 1 << 53:
        raise refuse("shape", f"how many elements {node.op} {node.name!r} adds up is not known", node)
    return count


def summed_up(node: Node, index: int, array: Float64, neutral: float) -> Wanted:
    """Up through a ReduceSum: each of n summands takes a shift divided by n."""
    return reduced_up(node, index, array if neutral else array / _summands(node), neutral)


def summed_down(node: Node, slot: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a ReduceSum: a shift of n summands counts n times."""
    return reduced_down(node, slot, array if neutral else array * _summands(node), neutral)
