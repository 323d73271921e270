"""ONNX's messages as spans of a buffer: the structure of a model is read, its weights stay where they lie.

ModelProto, GraphProto, FunctionProto, NodeProto, AttributeProto, ValueInfoProto and TensorProto become small records
that know their own span (`start` of the field's tag, `body`, `end`), so that a writer can copy what did not change.
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import InputError
from ..protobuf import Field, WireError, fields
from . import attributes
from .messages import Span, StoredSparse, StoredTensor, message, number, pair, read_sparse, read_tensor, text

DEEPEST = 40
"""Graphs nested in attributes of nodes deeper than this are refused; protobuf's own parsers stop at 33."""
SMALL = 2048
"""Runs of attributes up to this many bytes are decoded once for all nodes that have the same bytes."""


class Data(NamedTuple):
    """The bytes of a model file, and its name for messages."""

    buffer: memoryview
    where: str


@dataclass(slots=True, eq=False)
class StoredValue:
    """A ValueInfoProto; its TypeProto is read only when it is asked for."""

    start: int
    end: int
    name: str
    type: Span | None


@dataclass(slots=True, eq=False)
class StoredNode:
    """A NodeProto. `attributes` are decoded (see `attributes.py`) and may be shared with nodes of the same bytes."""

    start: int
    body: int
    end: int
    inputs: list[str]
    outputs: list[str]
    name: str
    op: str
    domain: str
    overload: str
    attributes: Mapping[str, Any]
    graphs: list[StoredGraph]


@dataclass(slots=True, eq=False)
class StoredGraph:
    """A GraphProto, or a FunctionProto (`function`: then `names` are its inputs and `results` its outputs).

    `start` is the field's tag, `body` and `end` the message. `mentioned` are names in quantisation annotations.
    """

    start: int
    body: int
    end: int
    name: str = ""
    nodes: list[StoredNode] = field(default_factory=list)
    initializers: list[StoredTensor] = field(default_factory=list)
    sparse: list[StoredSparse] = field(default_factory=list)
    inputs: list[StoredValue] = field(default_factory=list)
    outputs: list[StoredValue] = field(default_factory=list)
    infos: list[StoredValue] = field(default_factory=list)
    mentioned: list[str] = field(default_factory=list)
    function: bool = False
    domain: str = ""
    overload: str = ""
    names: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class StoredModel:
    """A ModelProto over its bytes. `trained` are the names that its training information reads or sets."""

    data: Data
    ir_version: int
    opsets: dict[str, int]
    graph: StoredGraph
    functions: list[StoredGraph]
    trained: list[str]


def read_model(data: Data) -> StoredModel:
    """The structure of the model in `data`. Raises InputError where the bytes are no model."""
    try:
        return _Reader(data).model()
    except WireError as error:
        hint = "the file may be truncated, or it is not an ONNX model"
        raise InputError(f"not a readable ONNX model: {error}", where=data.where, hint=hint) from None


class _Reader:
    """One pass over a model's bytes."""

    def __init__(self, data: Data) -> None:
        self.data = data.buffer
        self.where = data.where
        self.depth = 0
        self.seen: dict[bytes, Mapping[str, Any]] = {}

    def model(self) -> StoredModel:
        ir_version, graph = 0, None
        opsets: dict[str, int] = {}
        functions: list[StoredGraph] = []
        trained: list[str] = []
        for at in fields(self.data):
            match at.number:
                case 1:
                    ir_version = number(at)
                case 7:
                    if graph is not None:
                        raise WireError("a second graph begins", at.start)
                    graph = self.graph(at)
                case 8:
                    opsets.update([self._opset(message(at))])
                case 20:
                    trained += self._training(message(at))
                case 25:
                    functions.append(self.function(at))
        if graph is None or not (ir_version or opsets):
            hint = "bnfold reads ONNX models and Caffe's pairs of prototxt and caffemodel"
            raise InputError("not an ONNX model: it has no graph", where=self.where, hint=hint)
        return StoredModel(Data(self.data, self.where), ir_version, opsets, graph, functions, trained)

    def _training(self, span: Span) -> list[str]:
        """All names in the graphs and bindings of a TrainingInfoProto."""
        names: list[str] = []
        for at in fields(self.data, *span):
            if at.number in (1, 2):
                nodes = (node for graph in walk(self.graph(at)) for node in graph.nodes)
                names += [name for node in nodes for name in (*node.inputs, *node.outputs)]
            elif at.number in (3, 4):
                names += pair(self.data, message(at))
        return names

    def _opset(self, span: Span) -> tuple[str, int]:
        domain, version = "", 0
        for at in fields(self.data, *span):
            if at.number == 1:
                domain = text(self.data, at)
            elif at.number == 2:
                version = number(at)
        return "" if domain == "ai.onnx" else domain, version

    def graph(self, at: Field) -> StoredGraph:
        found = StoredGraph(at.start, *message(at))
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError(f"graphs are nested deeper than {DEEPEST}", where=self.where)
        for part in fields(self.data, at.body, at.end):
            match part.number:
                case 1:
                    found.nodes.append(self.node(part))
                case 2:
                    found.name = text(self.data, part)
                case 5:
                    found.initializers.append(read_tensor(self.data, part))
                case 11:
                    found.inputs.append(self.value(part))
                case 12:
                    found.outputs.append(self.value(part))
                case 13:
                    found.infos.append(self.value(part))
                case 14:
                    found.mentioned += self._annotation(message(part))
                case 15:
                    found.sparse.append(read_sparse(self.data, part))
        self.depth -= 1
        return found

    def function(self, at: Field) -> StoredGraph:
        found = StoredGraph(at.start, *message(at), function=True)
        for part in fields(self.data, at.body, at.end):
            match part.number:
                case 1:
                    found.name = text(self.data, part)
                case 4:
                    found.names.append(text(self.data, part))
                case 5:
                    found.results.append(text(self.data, part))
                case 7:
                    found.nodes.append(self.node(part))
                case 9:
                    found.opsets.update([self._opset(message(part))])
                case 10:
                    found.domain = text(self.data, part)
                case 12:
                    found.infos.append(self.value(part))
                case 13:
                    found.overload = text(self.data, part)
        return found

    def node(self, at: Field) -> StoredNode:
        data = self.data
        inputs: list[str] = []
        outputs: list[str] = []
        name = op = domain = overload = ""
        attributes: list[Field] = []
        for part in fields(data, *message(at)):
            kind = part.number
            if kind == 1:
                inputs.append(text(data, part))
            elif kind == 2:
                outputs.append(text(data, part))
            elif kind == 5:
                attributes.append(part)
            elif kind == 4:
                op = text(data, part)
            elif kind == 3:
                name = text(data, part)
            elif kind == 7:
                domain = text(data, part)
            elif kind == 8:
                overload = text(data, part)
        domain = "" if domain == "ai.onnx" else domain
        graphs: list[StoredGraph] = []
        decoded = self._attributes(attributes, graphs) if attributes else {}
        return StoredNode(at.start, at.body, at.end, inputs, outputs, name, op, domain, overload, decoded, graphs)

    def _attributes(self, parts: list[Field], graphs: list[StoredGraph]) -> Mapping[str, Any]:
        """The attributes in `parts`, those of equal bytes decoded once; graphs among them are appended to `graphs`."""
        first, last = parts[0].start, parts[-1].end
        key = None
        if last - first <= SMALL and sum(p.end - p.start for p in parts) == last - first:
            key = bytes(self.data[first:last])
            known = self.seen.get(key)
            if known is not None:
                return known
        decoded = attributes.read(self.data, parts, self.graph, graphs)
        if key is not None and not graphs and attributes.shareable(decoded):
            self.seen[key] = decoded
        return decoded

    def value(self, at: Field) -> StoredValue:
        name, type_ = "", None
        for part in fields(self.data, *message(at)):
            if part.number == 1:
                name = text(self.data, part)
            elif part.number == 2:
                type_ = message(part)
        return StoredValue(at.start, at.end, name, type_)

    def _annotation(self, span: Span) -> list[str]:
        """The tensors that a TensorAnnotation names: the annotated one, and the values of its map of parameters."""
        names = []
        for at in fields(self.data, *span):
            if at.number == 1:
                names.append(text(self.data, at))
            elif at.number == 2:
                names.append(pair(self.data, message(at))[1])
        return names


def walk(graph: StoredGraph) -> Iterator[StoredGraph]:
    """The graph and all graphs in attributes of its nodes, outermost first."""
    yield graph
    for node in graph.nodes:
        for inner in node.graphs:
            yield from walk(inner)
