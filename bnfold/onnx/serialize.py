"""Graph -> ONNX file, without importing `onnx`: the structure at once, each tensor only while it is being written.

A constant is written in the dtype of its Value: a Tensor that holds float64 (a BatchNorm's derived parameters) behind a
float32 Value is rounded once, here. Only if `Header.half` is set, one that holds float16 keeps it, with a Cast behind.
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import protobuf
from ..ir.graph import Graph, Node, Tensor, Value
from ..ir.names import Names, readable

LIMIT = 2**31 - 1
"""Protobuf's longest message, in bytes."""

ELEMENT_TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
    "float64": 11, "uint32": 12, "uint64": 13, "bfloat16": 16,
}  # fmt: skip
"""NumPy's (and ml_dtypes') name -> TensorProto.DataType."""

_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS = range(1, 9)


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


def write(graph: Graph, header: Header, spell: Callable[[str], str] | None = None) -> protobuf.Rope:
    """The model as a Rope; its tensors are loaded when the Rope is written.

    `spell` makes ONNX names of those in the graph. By itself `names.readable` does: what ONNX can write stays as it is.
    """
    model = protobuf.Rope(protobuf.integer(1, header.ir_version))
    for number, value in ((2, header.producer), (3, header.producer_version), (6, header.doc)):
        if value:
            model.add(protobuf.string(number, value))
    names = _Names(graph, spell, header.half)
    model.add_message(7, _graph(graph, header.batch, names))
    for domain, version in sorted(_domains(graph, header.opset).items()):
        model.add(protobuf.delimited(8, (protobuf.string(1, domain) if domain else b"") + protobuf.integer(2, version)))
    for key, text in sorted((header.metadata or {}).items()):
        model.add(protobuf.delimited(14, protobuf.string(1, key) + protobuf.string(2, text)))
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
        self._nodes: set[str] = set()
        self.found: list[Value] = []

    def node(self, node: Node) -> str:
        """The node's name, or one derived from it where another node has it: runtimes refuse two nodes of one name."""
        own = name = self.spell(node.name)
        count = 1
        while name in self._nodes:
            name = f"{own}/{node.op}" + (f"_{count}" if count > 1 else "")
            count += 1
        self._nodes.add(name)
        return name

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


def _graph(graph: Graph, batch: str, names: _Names) -> protobuf.Rope:
    nodes, before = protobuf.Rope(), len(names.found)
    for node in graph.nodes:
        nodes.add_message(1, _node(node, batch, names))
    outputs = [names.name(value) for value in graph.outputs]
    casts, constants = protobuf.Rope(), protobuf.Rope()
    for value in names.found[before:]:
        name = names.name(value)
        if value.tensor is not None and names.half and _is_half(value):
            half = names.half_of(name)
            constants.add_message(5, tensor(half, value.tensor, value.tensor.dtype))
            casts.add_message(1, _cast(half, name))
        elif value.tensor is not None:
            constants.add_message(5, tensor(name, value.tensor, value.dtype or value.tensor.dtype))
    body = protobuf.Rope()
    title = protobuf.string(2, names.spell(graph.name) if graph.name else "net")
    for part in (casts, nodes, protobuf.Rope(title), constants):
        body.add(part)
    for value in graph.inputs:
        body.add(protobuf.delimited(11, _value_info(names.name(value), value, batch)))
    for name, value in zip(outputs, graph.outputs, strict=True):
        body.add(protobuf.delimited(12, _value_info(name, value, batch)))
    return body


def _is_half(value: Value) -> bool:
    """Whether it is a float32 constant that is stored as float16."""
    return value.tensor is not None and value.tensor.dtype.name == "float16" and value.dtype == np.float32


def _cast(half: str, name: str) -> protobuf.Rope:
    """The node that makes a constant of its float16 tensor."""
    to = protobuf.string(1, "to") + protobuf.integer(3, ELEMENT_TYPES["float32"]) + protobuf.integer(20, _INT)
    head = protobuf.string(1, half) + protobuf.string(2, name) + protobuf.string(4, "Cast")
    return protobuf.Rope(head + protobuf.delimited(5, to))


def _node(node: Node, batch: str, names: _Names) -> protobuf.Rope:
    domain, _, op = node.op.rpartition(".")
    inputs = ["" if value is None else names.name(value) for value in node.inputs]
    while inputs and not inputs[-1]:
        inputs.pop()
    head = [protobuf.string(1, name) for name in inputs] + [
        protobuf.string(2, names.name(value)) for value in node.outputs
    ]
    rope = protobuf.Rope(b"".join(head) + protobuf.string(3, names.node(node)) + protobuf.string(4, op))
    for name, value in node.attributes.items():
        rope.add_message(5, _attribute(name, value, batch, names))
    if domain:
        rope.add(protobuf.string(7, domain))
    return rope


def _attribute(name: str, value: Any, batch: str, names: _Names) -> protobuf.Rope:
    rope = protobuf.Rope(protobuf.string(1, name))
    if isinstance(value, Tensor):
        rope.add_message(5, tensor("", value, value.dtype))
        kind = _TENSOR
    elif isinstance(value, Graph):
        rope.add_message(6, _graph(value, batch, names))
        kind = _GRAPH
    else:
        payload, kind = _plain(value)
        rope.add(payload)
    rope.add(protobuf.integer(20, kind))
    return rope


def _plain(value: Any) -> tuple[bytes, int]:
    """Payload and AttributeType of a number, a string or a sequence of one of them."""
    if isinstance(value, str | bytes):
        return protobuf.delimited(4, _encoded(value)), _STRING
    if isinstance(value, int):
        return protobuf.integer(3, value), _INT
    if isinstance(value, float):
        return protobuf.tag(2, protobuf.FIXED32) + struct.pack("<f", value), _FLOAT
    items = list(value)
    if items and isinstance(items[0], str | bytes):
        return b"".join(protobuf.delimited(9, _encoded(item)) for item in items), _STRINGS
    if items and isinstance(items[0], float):
        return b"".join(protobuf.tag(7, protobuf.FIXED32) + struct.pack("<f", item) for item in items), _FLOATS
    return b"".join(protobuf.integer(8, item) for item in items), _INTS


def _encoded(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else protobuf.encoded(value)


def tensor(name: str, source: Tensor, dtype: np.dtype[Any]) -> protobuf.Rope:
    """A TensorProto of `dtype` whose raw data is loaded and rounded when it is written."""
    little = dtype.newbyteorder("<")

    def produce() -> memoryview:
        return np.ascontiguousarray(source.load(), little).reshape(-1).view(np.uint8).data

    head = b"".join(protobuf.integer(1, extent) for extent in source.shape) + protobuf.integer(
        2, ELEMENT_TYPES[dtype.name]
    )
    head += protobuf.string(8, name) if name else b""
    size = dtype.itemsize * int(np.prod(source.shape, dtype=np.int64))
    rope = protobuf.Rope(head + protobuf.tag(9, protobuf.BYTES) + protobuf.varint(size))
    if size:
        rope.add(protobuf.Lazy(size, produce))
    return rope


def _value_info(name: str, value: Value, batch: str) -> bytes:
    kind = b"" if value.dtype is None else protobuf.integer(1, ELEMENT_TYPES[value.dtype.name])
    if value.shape is not None:
        kind += protobuf.delimited(2, b"".join(_dimensions(value.shape, batch)))
    return protobuf.string(1, name) + protobuf.delimited(2, protobuf.delimited(1, kind))


def _dimensions(shape: Sequence[int | None], batch: str) -> Iterable[bytes]:
    for axis, extent in enumerate(shape):
        if extent is not None:
            yield protobuf.delimited(1, protobuf.integer(1, extent))
        else:
            yield protobuf.delimited(1, protobuf.string(2, batch) if batch and axis == 0 else b"")
