"""How a question is refused, and what every rule asks of a node before it answers: known shapes, bounded sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.graph import Node, Shape, Tensor, Value
from ..ir.shapes.check import MOST_AXES
from .affine import Float64
from .records import Refusal


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """Raised inside a question: this operator cannot take or pass on the affine."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.sentence)
        self.refusal = refusal


def refuse(code: str, sentence: str, node: Node | None = None, hint: str = "") -> Refused:
    """A Refused to raise: stable code, sentence, the node that stands in the way, and what helps."""
    return Refused(Refusal(code, sentence, node.name if node else "", hint))


def shape_of(value: Value | None, node: Node) -> Shape:
    """The shape of an input or output of `node`; refuses where it is not known."""
    if value is None or value.shape is None:
        name = value.name if value is not None else "its input"
        hint = "give the model static shapes, or run shape inference on it"
        raise refuse("shape", f"the shape of {name!r} at {node.label} is not known", node, hint)
    if len(value.shape) > MOST_AXES:
        raise refuse("shape", f"{value.name!r} at {node.label} has {len(value.shape)} axes", node)
    return value.shape


def consistent(node: Node) -> None:
    """Refuse a node whose inputs and attributes contradict each other, which only a broken model has."""
    if node.contradiction:
        raise refuse("shape", f"{node.label} contradicts itself: {node.contradiction}", node)


LARGEST = 1 << 24
"""Elements up to which an affine is spelled out; more has only a model with made up extents."""


def bounded(shape: Sequence[int], node: Node | None = None) -> None:
    """Refuse an affine that would be spelled out over more than LARGEST elements."""
    if math.prod(shape) > LARGEST:
        where = f" at {node.label}" if node else ""
        raise refuse("shape", f"the affine would have {math.prod(shape)} elements{where}", node)


def numbers(tensor: Tensor, node: Node) -> Float64:
    """The values of a constant that takes part in an affine."""
    bounded(tensor.shape, node)
    return tensor.float64()
