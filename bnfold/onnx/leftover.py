"""The affine that stays of a chain, written as few nodes: Mul, Add, one BatchNormalization, or Mul and Add.

An affine that does nothing is an Identity: the chain stood between two names that both stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..ir.element_types import DType
from ..ir.graph import Node, Value
from ..planner.affine import Affine, Float64, nearest
from ..planner.records import Chain
from ..protobuf import Rope
from .graphs import stored_node
from .messages import StoredNode
from .serialize import Content, Line, attribute_field, framed, node_proto
from .splice import Wires, Written, rewired

_BATCH_NORM = "BatchNormalization"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a leftover is written: the names it stands between, and who names and holds what is new.

    `number` is the field of nodes in the graph's message. `value` gives a value a name that nothing has, `node` a node
    one that is made of another's. `constant` enters a constant and returns its name: that of the one whose job it
    takes over, if nothing else reads that, else one that is made of its name, or of a wish.
    """

    buffer: memoryview
    number: int
    source: str
    target: str
    value: Callable[[str], str]
    node: Callable[[str, str], str]
    constant: Callable[[Value | None, str, Content], str]


def leftover(chain: Chain, affine: Affine, place: Place) -> dict[StoredNode, Written]:
    """What is written for `affine` in the place of a chain: instead of the node that it is made of or the last one."""
    nodes = chain.nodes
    carrier = next((n for n in nodes if n.op == _BATCH_NORM), None)
    if affine.scales and affine.shifts and carrier is not None and affine.rank > 1 and affine.axes <= {1}:
        return {stored_node(carrier): _batch_norm(carrier, affine, place)}
    dtype = _dtype(chain)
    a, b = (nearest(array, dtype).astype(np.float64) for array in (affine.a, affine.b))
    steps = [Step("Mul", "Div", "gamma", a)] * bool((a != 1).any()) + [Step("Add", "Sub", "beta", b)] * bool(b.any())
    if steps:
        return _steps(nodes, steps, dtype, place)
    last = stored_node(nodes[-1])
    line = Line(place.node(last.name, "Identity"), [place.source], [place.target])
    return {last: Written(framed(place.number, node_proto("Identity", line)), [line])}


class Step(NamedTuple):
    """One operator of a leftover, the one that does the same with another constant, and what its constant is called."""

    op: str
    other: str
    word: str
    array: Float64


def _steps(nodes: Sequence[Node], steps: Sequence[Step], dtype: DType, place: Place) -> dict[StoredNode, Written]:
    """Mul, Add or both: nodes of the chain that are the same operator are used again."""
    carriers = [next((n for n in nodes if n.op == step.op and n.version >= 7), None) for step in steps]
    source, rope, last, old = place.source, Rope(), stored_node(nodes[-1]), nodes[0].version < 7
    lines: list[Line] = []
    for index, (step, carrier) in enumerate(zip(steps, carriers, strict=True)):
        target = place.target if index == len(steps) - 1 else place.value(f"{place.target}_scaled")
        held = next((_held(n) for op in (step.op, step.other) for n in nodes if n.op == op), None)
        constant = place.constant(held, f"{place.target}_{step.word}", _operand(step.array, dtype, old))
        if carrier is not None:
            lines.append(Line(stored_node(carrier).name, [source, constant], [target]))
            made = _reused(carrier, source, constant, target, place)
        else:
            lines.append(Line(place.node(last.name, step.op), [source, constant], [target]))
            made = node_proto(step.op, lines[-1], _old_broadcast(step.array) if old else {})
        rope.add(framed(place.number, made))
        source = target
    return {stored_node((len(steps) == 1 and carriers[0]) or nodes[-1]): Written(rope, lines)}


def _held(carrier: Node) -> Value | None:
    """The constant operand of a Mul or Add."""
    return next((value for value in carrier.inputs if value is not None and value.tensor is not None), None)


def _batch_norm(carrier: Node, affine: Affine, place: Place) -> Written:
    """y = a·(x − 0)/√(1 + 0) + b, in the place of the BatchNormalization `carrier`."""
    held = [value for value in carrier.inputs[1:5] if value is not None]
    gamma, _, mean, _ = (value.tensor for value in held)
    if gamma is None or mean is None:
        raise ValueError(f"the parameters of {carrier!r} are no constants")
    count = gamma.shape[0]
    arrays = [np.broadcast_to(array.reshape(-1), count) for array in (affine.a, affine.b)]
    arrays += [np.zeros(count), np.ones(count)]
    types = [gamma.dtype] * 2 + [mean.dtype] * 2
    names = [
        place.constant(value, value.name, _constant_content(array, dtype))
        for value, array, dtype in zip(held, arrays, types, strict=True)
    ]
    wires = Wires([place.source, *names], [place.target], {"epsilon", "spatial"})
    splice = rewired(place.buffer, stored_node(carrier), wires)
    splice.tail.add(attribute_field("epsilon", 0.0))
    line = Line(stored_node(carrier).name, wires.inputs, wires.outputs)
    return Written(framed(place.number, splice.rope()), [line])


def _reused(carrier: Node, source: str, constant: str, target: str, place: Place) -> Rope:
    """A Mul or Add of the chain between other names, its constant on the side where it was."""
    inputs = [constant, source] if carrier.constant(0) is not None else [source, constant]
    return rewired(place.buffer, stored_node(carrier), Wires(inputs, [target])).rope()


def _old_broadcast(array: Float64) -> dict[str, int]:
    """How operators before opset 7 were told to broadcast."""
    axes = [axis for axis, extent in enumerate(array.shape) if extent != 1]
    return {"broadcast": 1, **({"axis": axes[0]} if axes else {})}


def _operand(array: Float64, dtype: DType, old: bool) -> Content:
    """`array` in the smallest shape that still broadcasts: without leading axes of extent 1."""
    axes = [axis for axis, extent in enumerate(array.shape) if extent != 1]
    shape = array.shape[axes[0] :] if axes else ()
    if old and axes:
        shape = array.shape[axes[0] : axes[-1] + 1]
    return _constant_content(array.reshape(shape), dtype)


def _constant_content(array: Float64, dtype: DType) -> Content:
    return Content(array.shape, dtype, lambda: array)


def _dtype(chain: Chain) -> DType:
    """The type of the chain's values; where nothing tells, that of a constant that they are multiplied with."""
    known = chain.target.dtype or chain.source.dtype
    if known is not None:
        return known
    constants = (value.tensor for n in chain.nodes for value in n.inputs if value is not None)
    return next((tensor.dtype for tensor in constants if tensor is not None), np.dtype(np.float32))
