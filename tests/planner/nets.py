"""A tiny builder of graphs for the tests of the planner."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.ir.graph import Array, Graph, Node, Shape, Tensor, Value
from bnfold.ir.shapes.table import infer
from bnfold.planner.affine import Float64
from bnfold.planner.passes import plan
from bnfold.planner.records import Decision, Plan, Style

STYLE = Style(batch_norm=2)
"""A BatchNormalization costs as much as the Mul and Add that it stands for, and a node nothing on top of that."""


class Impossible(Exception):
    """The node cannot be built on these inputs."""


class Net:
    """A graph that grows node by node; an operand is a value, an array that becomes a constant, or None.

    Lists become constants of int64, arrays of integers stay, others become of `dtype` in which all values are.
    """

    def __init__(self, dtype: Any = np.float64) -> None:
        self.graph = Graph()
        self.dtype = np.dtype(dtype)

    def input(self, *shape: int | None, name: str = "") -> Value:
        return self.graph.add_input(Value(name or f"input{len(self.graph.inputs)}", shape, self.dtype))

    def constant(self, array: Any) -> Value:
        whole = isinstance(array, np.generic | np.ndarray) and array.dtype.kind in "iu"
        array = np.asarray(array, None if whole else np.int64 if isinstance(array, list) else self.dtype)
        tensor = Tensor(object(), array.shape, array.dtype, lambda: array)
        return Value(f"constant{id(tensor)}", array.shape, array.dtype, tensor=tensor)

    def op(self, op: str, *inputs: Any, tops: int = 1, version: int = 13, **attributes: Any) -> Any:
        """The output of a new node, or a tuple of its outputs; raises Impossible where a shape would not be right."""
        values = [v if v is None or isinstance(v, Value) else self.constant(v) for v in inputs]
        name = f"{op}{len(self.graph.nodes)}"
        outputs = [Value(f"{name}_{i}") for i in range(tops)]
        node = self.graph.add_node(op, values, outputs, attributes, origin=object(), name=name, version=version)
        infer(node)
        if any(v.shape is None or 0 in v.shape for v in outputs) or not windowed(node):
            self.undo(node)
            raise Impossible
        return outputs[0] if tops == 1 else tuple(outputs)

    def undo(self, node: Node) -> None:
        self.graph.nodes.remove(node)
        for value in node.inputs:
            if value is not None:
                value.readers.remove(node)

    def bn(self, x: Value, gamma: Any, beta: Any, mean: Any = 0.0, variance: Any = 1.0, **more: Any) -> Value:
        """A BatchNormalization; one number stands for all channels. Its own default eps makes no multiplier round."""
        channels = 1 if x.shape is None or len(x.shape) < 2 else x.shape[1]
        arrays = [np.broadcast_to(np.asarray(p, self.dtype), (channels,)) for p in (gamma, beta, mean, variance)]  # type: ignore[arg-type]
        return self.op("BatchNormalization", x, *arrays, **{"epsilon": 0.0} | more)  # type: ignore[no-any-return]

    def output(self, value: Value, name: str = "") -> Value:
        value.name = name or value.name
        self.graph.add_output(value)
        return value

    def plan(self, style: Style = STYLE) -> Plan:
        return plan(self.graph, style)

    def decisions(self, style: Style = STYLE) -> dict[str, Decision]:
        """The decision on each chain, by the name of its first node."""
        return {d.chain.nodes[0].name: d for d in self.plan(style).decisions}


def only(net: Net) -> Decision:
    """The decision on a net's only chain."""
    (decision,) = net.plan().decisions
    return decision


def ramp(*shape: int, start: float = 0.5, step: float = 0.25) -> Float64:
    """Different positive numbers of a shape."""
    return start + step * np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


def windowed(node: Node) -> bool:
    """Whether a convolution or pooling has a window left along each axis of which the extent is known."""
    before, after = node.inputs[0], node.outputs[0]
    if node.op not in ("AveragePool", "Conv", "ConvTranspose", "MaxPool"):
        return True
    assert before is not None
    pairs = zip((before.shape or ())[2:], (after.shape or ())[2:], strict=False)
    return all(new is not None or old is None for old, new in pairs)


def extents(value: Value) -> Shape:
    if value.shape is None:
        raise Impossible
    return value.shape


def filled(shape: Shape, batch: int = 2) -> tuple[int, ...]:
    """`shape` with the unknown extents given."""
    return tuple(batch if extent is None else extent for extent in shape)


def feeds(net: Net, seed: int = 0) -> dict[Value, Array]:
    rng = np.random.default_rng(seed)
    return {value: rng.standard_normal(filled(extents(value))) for value in net.graph.inputs}
