"""Graph -> ONNX model: the structure at once, each tensor only while it is being written.

A constant is written in the dtype of its Value: a Tensor that holds float64 (a BatchNorm's derived parameters) behind a
float32 Value is rounded once, here. Only if `Header.half` is set, one that holds float16 keeps it, with a Cast behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.element_types import element_code
from ..ir.graph import Graph, Node, Tensor, Value
from ..ir.names import Names, readable
from ..protobuf import Rope, delimited, integer, string
from .schema import GraphProto, ModelProto, OperatorSetIdProto
from .serialize import Content, Line, entry, node_proto, tensor_proto, value_info

LIMIT = 2**31 - 1
"""Protobuf's longest message, in bytes."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a model says of itself. `opset` is that of the standard domain, `batch` names unknown first extents.

    `half`: constants of float32 that are stored as float16 are written so, and cast: whoever reads the model can tell.
    """

    opset: int = 13
    ir_version: int = 7
    producer: str = ""
    producer_version: str = ""
    doc: str = ""
    metadata: Mapping[str, str] | None = None
    batch: str = ""
    half: bool = False


def write_model(graph: Graph, header: Header, spell: Callable[[str], str] | None = None) -> Rope:
    """The model as a Rope; its tensors are loaded when the Rope is written.

    `spell` makes ONNX names of those in the graph. By itself `names.readable` does: what ONNX can write stays as it is.
    """
    model = Rope(integer(ModelProto.IR_VERSION, header.ir_version))
    about = {ModelProto.PRODUCER_NAME: header.producer, ModelProto.PRODUCER_VERSION: header.producer_version}
    for number, value in (about | {ModelProto.DOC_STRING: header.doc}).items():
        if value:
            model.add(string(number, value))
    names = _Names(graph, spell, header.half)
    model.add_message(ModelProto.GRAPH, _graph(graph, header.batch, names))
    for domain, version in sorted(_domains(graph, header.opset).items()):
        name = string(OperatorSetIdProto.DOMAIN, domain) if domain else b""
        model.add(delimited(ModelProto.OPSET_IMPORT, name + integer(OperatorSetIdProto.VERSION, version)))
    for key, text in sorted((header.metadata or {}).items()):
        model.add(entry(ModelProto.METADATA_PROPS, key, text))
    return model


def _all_names(graph: Graph) -> Iterator[str]:
    """Of the graph, its values and its nodes, and of the graphs inside it."""
    yield graph.name
    yield from (value.name for value in (*graph.inputs, *graph.outputs))
    for node in graph.nodes:
        yield from (value.name for value in (*node.inputs, *node.outputs) if value is not None)
        yield node.name
        for inner in node.attributes.values():
            if isinstance(inner, Graph):
                yield from _all_names(inner)


def _domains(graph: Graph, opset: int) -> dict[str, int]:
    used = {"": opset}
    for node in graph.nodes:
        domain = node.op.rpartition(".")[0]
        used[domain] = max(used.get(domain, 1), node.version)
        for value in node.attributes.values():
            if isinstance(value, Graph):
                used |= _domains(value, opset)
    return used


class _Names:
    """Initializers, one for each stored tensor, shape and dtype, however many values show it; and unique node names."""

    def __init__(self, graph: Graph, spell: Callable[[str], str] | None, half: bool) -> None:
        taken = readable(_all_names(graph))
        self.spell, self.half = spell or taken.__getitem__, half
        self._made = Names(map(self.spell, taken)) if half else Names()
        self._first: dict[Any, str] = {}
        self._nodes = Names(first=2)
        self.found: list[Value] = []

    def node(self, node: Node) -> str:
        """The node's name, or one derived from it where another node has it: runtimes refuse two nodes of one name."""
        own = self.spell(node.name)
        return self._nodes.unique(own, f"{own}/{node.op}")

    def half_of(self, name: str) -> str:
        """A name for the float16 tensor of a constant."""
        return self._made.unique(f"{name}/half")

    def name(self, value: Value) -> str:
        if value.tensor is None:
            return self.spell(value.name)
        identity = value.tensor.key, value.tensor.shape, str(value.dtype)
        if identity not in self._first:
            self._first[identity] = self.spell(value.name)
            self.found.append(value)
        return self._first[identity]


def _graph(graph: Graph, batch: str, names: _Names) -> Rope:
    """The GraphProto: casts of constants before the nodes, whose names are given out first."""
    nodes, before = Rope(), len(names.found)
    for node in graph.nodes:
        nodes.add_message(GraphProto.NODE, _node(node, batch, names))
    outputs = [names.name(value) for value in graph.outputs]
    casts, constants = Rope(), Rope()
    for value in names.found[before:]:
        name = stored = names.name(value)
        tensor, dtype = value.tensor, value.dtype
        if tensor is None:
            continue
        if names.half and tensor.dtype.name == "float16" and dtype == np.float32:
            stored, dtype = names.half_of(name), tensor.dtype
            cast = node_proto("Cast", Line("", [stored], [name]), {"to": element_code(np.dtype(np.float32))})
            casts.add_message(GraphProto.NODE, cast)
        content = Content(tensor.shape, dtype or tensor.dtype, tensor.load)
        constants.add_message(GraphProto.INITIALIZER, tensor_proto(stored, content))
    title = string(GraphProto.NAME, names.spell(graph.name) if graph.name else "net")
    body = Rope()
    for part in (casts, nodes, title, constants):
        body.add(part)
    for value in graph.inputs:
        body.add_message(GraphProto.INPUT, value_info(names.name(value), value.dtype, value.shape, batch))
    for name, value in zip(outputs, graph.outputs, strict=True):
        body.add_message(GraphProto.OUTPUT, value_info(name, value.dtype, value.shape, batch))
    return body


def _node(node: Node, batch: str, names: _Names) -> Rope:
    domain, _, op = node.op.rpartition(".")
    inputs = ["" if value is None else names.name(value) for value in node.inputs]
    while inputs and not inputs[-1]:
        inputs.pop()
    outputs = [names.name(value) for value in node.outputs]
    line = Line(names.node(node), inputs, outputs)
    attributes = {name: _attribute(value, batch, names) for name, value in node.attributes.items()}
    return node_proto(op, line, attributes, domain)


def _attribute(value: Any, batch: str, names: _Names) -> Any:
    """An attribute's value as `serialize` takes it."""
    if isinstance(value, Tensor):
        return Content(value.shape, value.dtype, value.load)
    return _graph(value, batch, names) if isinstance(value, Graph) else value
