"""The table of commuting operators: which let an affine pass, under which condition, and how.

Linear operators and affines themselves are recognised in `foldable`. A commuting operator f answers two questions, of
multipliers and of shifts apart: does f(a·x) = a'·f(x) hold, and does f(x + b) = f(x) + b'? Each row says under which
condition and who of several inputs must take part; `transfer` and `moves` hold the arithmetic that turns a into a'.
Whatever is not in the table does not commute. Differences between opsets live in the functions that a row names.
Semantics: https://github.com/onnx/onnx/blob/main/docs/Operators.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..ir.graph import Node, content_readers
from ..ir.shapes.arguments import padding_name
from ..ir.shapes.windows import hollow, padded
from . import moves, transfer
from .affine import Float64
from .refusal import refuse
from .transfer import Down, Up, mixing

_Condition = Callable[[Node, Float64], None]
"""Raises Refused unless the operator lets this array of multipliers or shifts pass."""


def _unconditionally(node: Node, array: Float64) -> None:
    """Commutes with any."""


def _positive(node: Node, array: Float64) -> None:
    """f(a·x) = a·f(x) for a >= 0: f keeps the order, or is linear on each side of 0."""
    bad = np.unique(np.argwhere(array < 0).max(axis=1, initial=0)) if (array < 0).any() else ()
    if len(bad):
        channels = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        what = f"{node.label} commutes with no negative multiplier, and it has some, in channels {channels}"
        raise refuse("negative", what, node)


def _no_shift(node: Node, array: Float64) -> None:
    raise refuse("nonlinear", f"{node.label} does not commute with a shift", node)


def _unpadded(node: Node, array: Float64) -> None:
    """An average is shifted by b only where every element that it counts is."""
    if node.attribute("count_include_pad", 0) and padded(node):
        raise refuse("padding", f"{node.label} counts zero padding, which a shift does not reach", node)
    _not_hollow(node)


def _unfilled(node: Node, array: Float64) -> None:
    """A multiplier passes a Pad that fills with 0 or with values of its input."""
    fill = node.constant(2)
    value = node.attribute("value", 0.0) if fill is None else float(fill.load().reshape(-1)[0])
    dynamic = node.input(2) is not None and fill is None
    if _plain_fill(node) and (dynamic or value != 0):
        raise refuse("padding", f"{node.label} fills with a value other than 0", node)


def _mirrored(node: Node, array: Float64) -> None:
    if _plain_fill(node):
        raise refuse("padding", f"{node.label} fills with 0, which a shift does not reach", node)


def _plain_fill(node: Node) -> bool:
    """Whether a Pad brings in elements that are none of its input's."""
    pads = transfer.constant_integers(node, padding_name(node), 1) or []
    return bool(node.attribute("mode", "constant") == "constant") and any(pad > 0 for pad in pads)


def _inference(node: Node, array: Float64) -> None:
    """A Dropout is the identity unless a constant input tells it to train."""
    training = node.input(2)
    if node.version < 7 and not node.attribute("is_test", 0):
        raise refuse("training", f"{node.label} drops at random", node)
    if training is not None and (training.tensor is None or bool(training.tensor.load().reshape(-1)[0])):
        raise refuse("training", f"{node.label} may drop at random", node)


def _interpolating(node: Node, array: Float64) -> None:
    if node.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise refuse("padding", f"{node.label} fills with a constant outside the image", node)


def _not_hollow(node: Node) -> None:
    """Refuse a pooling with a window of padding alone, whose result is made up."""
    if hollow(node):
        raise refuse("window", f"{node.label} may have windows that lie outside its input", node)


def _only_values(node: Node, array: Float64) -> None:
    """A max pooling commutes; the indices of its second output need not, when rounding makes a tie."""
    if any(content_readers(value) or value.public for value in node.outputs[1:]):
        raise refuse("indices", f"the indices that {node.label} finds are read", node)
    _not_hollow(node)


def _ordered_values(node: Node, array: Float64) -> None:
    _positive(node, array)
    _only_values(node, array)


def _by_constant(node: Node, array: Float64) -> None:
    """c·x + b = c·(x + b/c): a shift passes a product with a constant, not a product of two values."""
    constant = transfer.factor(node) if node.constant(1) or node.op == "Mul" else None
    if constant is None:
        _no_shift(node, array)
    elif not np.isfinite([constant, 1 / constant]).all():
        raise refuse("zero", f"{node.label} multiplies by 0 or infinity", node)


@dataclass(frozen=True)
class Rule:
    """How one operator lets multipliers and shifts pass.

    `fan` says which inputs carry data, and who of them takes what an output shall have: the "first" is the only one,
    "each" takes its own slice, "all" the same, "one" alone. Other inputs are parameters, into which nothing passes.
    The rule speaks of the first output; with `pieces` of every one, as all are parts of the data. What else an operator
    puts out, a mask or indices, is no function of which it knows anything.
    """

    up: Up
    down: Down
    multiplier: _Condition = _unconditionally
    shift: _Condition = _unconditionally
    fan_multiplier: str = "first"
    fan_shift: str = "first"
    pieces: bool = False


_SPATIAL = mixing(transfer.spatial_axes)
_RESIZED = mixing(transfer.resized_axes)
_REPEATED = mixing(transfer.repeated_axes)
_PADDED = mixing(transfer.padded_axes)
_RESHAPE = Rule(moves.reshaped_up, moves.reshaped_down)
_RECTIFIER = Rule(transfer.as_is, transfer.as_is, _positive, _no_shift)
_MAXIMUM = Rule(*_SPATIAL, _ordered_values, _only_values)
_INTERPOLATION = Rule(*_RESIZED, _interpolating, _interpolating)

# In the laws, a and b are constant along the axes on which the operator works; π(a) is what it makes of a itself, and
# a↓ what is left of a without the axes that the operator reduces.
COMMUTING: dict[str, Rule] = {
    # f(a·x + b) = a·f(x) + b
    "Identity": Rule(transfer.as_is, transfer.as_is),
    "Dropout": Rule(transfer.as_is, transfer.as_is, _inference, _inference),
    # π(a·x + b) = π(a)·π(x) + π(b): elements are moved, left out or repeated
    "Transpose": Rule(moves.transposed_up, moves.transposed_down),
    "Reshape": _RESHAPE,
    "Flatten": _RESHAPE,
    "Squeeze": Rule(moves.inserted, moves.removed),
    "Unsqueeze": Rule(moves.removed, moves.inserted),
    "Split": Rule(moves.split_up, moves.split_down, pieces=True),
    "Slice": Rule(moves.picked_up, moves.picked_down),
    "Gather": Rule(moves.picked_up, moves.picked_down),
    "DepthToSpace": Rule(moves.to_blocks, moves.from_blocks),
    "SpaceToDepth": Rule(moves.from_blocks, moves.to_blocks),
    "Expand": Rule(*_REPEATED),
    "Tile": Rule(*_REPEATED),
    # [a·x + b, c·y + d] = [a, c]·[x, y] + [b, d]
    "Concat": Rule(moves.concat_up, moves.concat_down, fan_multiplier="each", fan_shift="each"),
    # max(a·x + b) = a·max(x) + b, a ≥ 0, where each window holds an element
    "MaxPool": _MAXIMUM,
    "GlobalMaxPool": _MAXIMUM,
    # Σ w·(a·x + b) = a·Σ w·x + b·Σ w, where Σ w = 1: for b no zero of the padding is counted
    "AveragePool": Rule(*_SPATIAL, _unconditionally, _unpadded),
    "GlobalAveragePool": Rule(*_SPATIAL),
    "Resize": _INTERPOLATION,
    "Upsample": _INTERPOLATION,
    # mean(a·x + b) = a↓·mean(x) + b↓
    "ReduceMean": Rule(transfer.reduced_up, transfer.reduced_down),
    # max(a·x + b) = a↓·max(x) + b↓, a ≥ 0; so does min
    "ReduceMax": Rule(transfer.reduced_up, transfer.reduced_down, _positive),
    "ReduceMin": Rule(transfer.reduced_up, transfer.reduced_down, _positive),
    # Σ (a·x + b) = a↓·Σ x + n·b↓, of n elements
    "ReduceSum": Rule(transfer.summed_up, transfer.summed_down),
    # [0, a·x, 0] = a·[0, x, 0]; where the fill is of x itself, [x₁, x, xₙ] + b, too
    "Pad": Rule(*_PADDED, _unfilled, _mirrored),
    # f(a·x) = a·f(x), a ≥ 0
    "Relu": _RECTIFIER,
    "LeakyRelu": _RECTIFIER,
    "PRelu": _RECTIFIER,
    "Abs": _RECTIFIER,
    # a·x + a·y = a·(x + y), (x + b) + y = (x + y) + b
    "Add": Rule(transfer.spread_up, transfer.spread_down, fan_multiplier="all", fan_shift="one"),
    "Sum": Rule(transfer.spread_up, transfer.spread_down, fan_multiplier="all", fan_shift="one"),
    # a·x − a·y = a·(x − y), (x + b) − y = x − (y − b) = (x − y) + b
    "Sub": Rule(transfer.subtracted_up, transfer.subtracted_down, fan_multiplier="all", fan_shift="one"),
    # mean(a·x + b, a·y + b) = a·mean(x, y) + b
    "Mean": Rule(transfer.spread_up, transfer.spread_down, fan_multiplier="all", fan_shift="all"),
    # max(a·x + b, a·y + b) = a·max(x, y) + b, a ≥ 0; so does min
    "Max": Rule(transfer.spread_up, transfer.spread_down, _positive, fan_multiplier="all", fan_shift="all"),
    "Min": Rule(transfer.spread_up, transfer.spread_down, _positive, fan_multiplier="all", fan_shift="all"),
    # (a·x)·y = a·(x·y), (x + b)·c = x·c + b·c with a constant c, finite and not 0
    "Mul": Rule(transfer.product_up, transfer.product_down, _unconditionally, _by_constant, "one", "one"),
    # (a·x)/y = a·(x/y), (x + b)/c = x/c + b/c with a constant c, finite and not 0
    "Div": Rule(transfer.quotient_up, transfer.product_down, _unconditionally, _by_constant),
}
"""Operator -> how it lets an affine pass. A new commuting operator is one row."""
