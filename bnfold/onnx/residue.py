"""The affine that stays of a chain, written as few nodes: Mul, Add, one BatchNormalization, or Mul and Add.

An affine that does nothing is an Identity: the chain stood between two names that both stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..affine import Affine, Float64
from ..graph import Node
from ..records import Decision
from ..wire import Rope
from .model import StoredNode
from .tensors import DType
from .write import Content, Wires, float_attribute, framed, integer_attributes, node, rewired

BATCH_NORM = "BatchNormalization"


@dataclass(eq=False, slots=True)
class Residue:
    """The nodes that stand in the places of a chain's, and the constants that they read, by name."""

    instead: dict[StoredNode, Rope] = field(default_factory=dict)
    constants: dict[str, Content] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a residue is written: the names it stands between, and how the graph holds nodes.

    `fresh` makes a name that nothing has; `number` is the field of nodes in the graph's message.
    """

    buffer: memoryview
    source: str
    target: str
    fresh: Callable[[str], str]
    number: int


def residue(decision: Decision, place: Place) -> Residue:
    """What is written for the residue of a chain, in the place of the node that it is made of or the chain's last."""
    affine, nodes = decision.residue, decision.chain.nodes
    result = Residue()
    if affine is None:
        return result
    carrier = next((n for n in nodes if n.op == BATCH_NORM), None)
    if affine.scales and affine.shifts and carrier is not None and affine.rank > 1 and affine.axes <= {1}:
        _batch_norm(result, carrier, affine, place)
        return result
    dtype = _dtype(decision)
    a, b = (array.astype(dtype).astype(np.float64) for array in (affine.a, affine.b))
    steps = [("Mul", "scale", a)] * bool((a != 1).any()) + [("Add", "shift", b)] * bool(b.any())
    if steps:
        _steps(result, nodes, steps, dtype, place)
    else:
        same = node("Identity", (place.source,), (place.target,), _stored(nodes[-1]).name)
        result.instead[_stored(nodes[-1])] = framed(place.number, same)
    return result


def _steps(
    result: Residue, nodes: Sequence[Node], steps: Sequence[tuple[str, str, Float64]], dtype: DType, place: Place
) -> None:
    """Mul, Add or both: nodes of the chain that are the same operator are used again, others lend their names."""
    carriers = [next((n for n in nodes if n.op == op and n.version >= 7), None) for op, _, _ in steps]
    spare = [_stored(n).name for n in nodes if n not in carriers]
    source, written = place.source, Rope()
    for index, ((op, suffix, array), carrier) in enumerate(zip(steps, carriers, strict=True)):
        target = place.target if index == len(steps) - 1 else place.fresh(f"{place.target}_scaled")
        constant = place.fresh(f"{place.target}_{suffix}")
        if carrier is not None:
            made = _reused(carrier, source, constant, target, place)
        else:
            attributes = integer_attributes(_old_broadcast(array)) if nodes[0].version < 7 else None
            made = node(op, (source, constant), (target,), spare.pop() if spare else "", attributes)
        written.add(framed(place.number, made))
        result.constants[constant] = _operand(array, dtype, nodes[0].version)
        source = target
    result.instead[_stored((len(steps) == 1 and carriers[0]) or nodes[-1])] = written


def _stored(found: Node) -> StoredNode:
    if not isinstance(found.origin, StoredNode):
        raise TypeError(f"{found!r} is no node of an ONNX model")
    return found.origin


def _batch_norm(result: Residue, carrier: Node, affine: Affine, place: Place) -> None:
    """y = a·(x − 0)/√(1 + 0) + b, in the place of the BatchNormalization `carrier`."""
    scale, mean = carrier.constant(1), carrier.constant(3)
    if scale is None or mean is None:
        raise ValueError(f"the parameters of {carrier!r} are no constants")
    count = scale.shape[0]
    names = [place.fresh(f"{place.target}_{suffix}") for suffix in ("scale", "shift", "mean", "variance")]
    arrays = [np.broadcast_to(array.reshape(-1), count) for array in (affine.a, affine.b)]
    arrays += [np.zeros(count), np.ones(count)]
    for name, array, dtype in zip(names, arrays, [scale.dtype] * 2 + [mean.dtype] * 2, strict=True):
        result.constants[name] = _fixed(array, dtype)
    stored = _stored(carrier)
    splice = rewired(place.buffer, stored, Wires([place.source, *names], [place.target], {"epsilon", "spatial"}))
    splice.tail.add(float_attribute("epsilon", 0.0))
    result.instead[stored] = framed(place.number, splice.rope())


def _reused(carrier: Node, source: str, constant: str, target: str, place: Place) -> Rope:
    """A Mul or Add of the chain between other names, its constant on the side where it was."""
    inputs = [constant, source] if carrier.constant(0) is not None else [source, constant]
    return rewired(place.buffer, _stored(carrier), Wires(inputs, [target])).rope()


def _old_broadcast(array: Float64) -> dict[str, int]:
    """How operators before opset 7 were told to broadcast."""
    axes = [axis for axis, extent in enumerate(array.shape) if extent != 1]
    return {"broadcast": 1, **({"axis": axes[0]} if axes else {})}


def _operand(array: Float64, dtype: DType, version: int) -> Content:
    """`array` in the smallest shape that still broadcasts: without leading axes of extent 1."""
    axes = [axis for axis, extent in enumerate(array.shape) if extent != 1]
    shape = array.shape[axes[0] :] if axes else ()
    if version < 7 and axes:
        shape = array.shape[axes[0] : axes[-1] + 1]
    return _fixed(array.reshape(shape), dtype)


def _fixed(array: Float64, dtype: DType) -> Content:
    return Content(array.shape, dtype, lambda: array)


def _dtype(decision: Decision) -> DType:
    """The type of the chain's values; where nothing tells, that of a constant that they are multiplied with."""
    chain = decision.chain
    known = chain.target.dtype or chain.source.dtype
    if known is not None:
        return known
    constants = (value.tensor for n in chain.nodes for value in n.inputs if value is not None)
    return next((tensor.dtype for tensor in constants if tensor is not None), np.dtype(np.float32))
