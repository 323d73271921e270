"""ONNX's messages as records of where they lie in the file, so that a writer can copy what did not change.

Each attribute of a record names the fields that it is read from, and how they are read: the `_last` of their values,
`_every` one of them, or all of them `_together`. Weights stay spans of the file.
"""

# ruff: noqa: RUF009 - what is called for the attributes of a record makes fields of a dataclass

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

from ..protobuf import BYTES, FIXED32, FIXED64, VARINT, Field
from .schema import (
    FIELD_OF_TYPE,
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
)

_Value = TypeVar("_Value")


class Data(NamedTuple):
    """The bytes of a model file, and its name for messages."""

    buffer: memoryview
    where: str


Reader = str | type[Any]
"""How a field is read: a method of the reader, or the class of the record that the message in it becomes."""


def _last(number: int, reader: Reader, default: _Value) -> _Value:
    """An attribute that holds the last value of field `number`."""
    made: _Value = field(default=default, metadata={"numbers": (number,), "reader": reader})
    return made


def _every(number: int | Sequence[int], reader: Reader, add: Callable[[Any, Any], None] = list.append) -> Any:
    """An attribute that holds the values of all fields of one or more numbers, each entered by `add`."""
    rows = {"numbers": (number,) if isinstance(number, int) else number, "reader": reader, "add": add}
    return field(default_factory=dict if add is dict.update else list, metadata=rows)


def _together(number: int, reader: Reader) -> Any:
    """The same as one tuple, of the tuples that are read: of what very many records have, it is the smallest form."""
    return field(default=(), metadata={"numbers": (number,), "reader": reader, "join": tuple.__add__})


@dataclass(slots=True, eq=False)
class Stored:
    """A message in the file: `start` is where its field begins, the message itself is from `body` to `end`."""

    start: int
    body: int
    end: int


_T = TensorProto
PAYLOAD = {
    _T.FLOAT_DATA: FIXED32, _T.INT32_DATA: VARINT, _T.STRING_DATA: BYTES, _T.INT64_DATA: VARINT, _T.RAW_DATA: BYTES,
    _T.DOUBLE_DATA: FIXED64, _T.UINT64_DATA: VARINT,
}  # fmt: skip
"""TensorProto's data fields, and the wire type of one element."""


@dataclass(slots=True, eq=False)
class StoredTensor(Stored):
    """A TensorProto. `payload` are its data fields; if the data is `outside` of the model, `entries` say where."""

    name: str = _last(TensorProto.NAME, "text", "")
    dims: tuple[int, ...] = _together(TensorProto.DIMS, "extents")
    type: int = _last(TensorProto.DATA_TYPE, "integer", 0)
    payload: list[Field] = _every(tuple(PAYLOAD), "payload")
    entries: tuple[tuple[str, str], ...] = _together(TensorProto.EXTERNAL_DATA, "entry")
    outside: int = _last(TensorProto.DATA_LOCATION, "integer", 0)

    @property
    def external(self) -> Mapping[str, str] | None:
        """The external_data entries; None where the data is inside."""
        return dict(self.entries) if self.outside == TensorProto.DataLocation.EXTERNAL else None


ABSENT = StoredTensor(0, 0, 0)


@dataclass(slots=True, eq=False)
class StoredSparse(Stored):
    """A SparseTensorProto: the values that are not zero, where they are, and the dense extents."""

    values: StoredTensor = _last(SparseTensorProto.VALUES, StoredTensor, ABSENT)
    indices: StoredTensor = _last(SparseTensorProto.INDICES, StoredTensor, ABSENT)
    dims: tuple[int, ...] = _together(SparseTensorProto.DIMS, "extents")

    @property
    def name(self) -> str:
        """That of the values is that of all."""
        return self.values.name


@dataclass(slots=True, eq=False)
class StoredValue(Stored):
    """A ValueInfoProto; the field with its TypeProto is read only when it is asked for."""

    name: str = _last(ValueInfoProto.NAME, "text", "")
    type: Field | None = _last(ValueInfoProto.TYPE, "later", None)


@dataclass(frozen=True, slots=True)
class Reference:
    """An attribute of a node in a function that takes the value of the function's own attribute `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Unread:
    """An attribute that bnfold has no use for: a type, or a graph (which its node's record holds)."""

    type: int


@dataclass(slots=True, eq=False)
class StoredAttribute(Stored):
    """An AttributeProto with its values as they lie."""

    name: str = _last(AttributeProto.NAME, "text", "")
    type: int = _last(AttributeProto.TYPE, "integer", 0)
    reference: str = _last(AttributeProto.REF_ATTR_NAME, "text", "")
    values: list[Field] = _every(tuple(FIELD_OF_TYPE.values()), "as_it_lies")


@dataclass(slots=True, eq=False)
class StoredNode(Stored):
    """A NodeProto. `parts` are its attributes as they lie, until these are read.

    Values of `attributes`, which nodes of the same bytes may share: int, float, str, StoredTensor, StoredSparse, tuples
    of these, Reference and Unread.
    """

    inputs: list[str] = _every(NodeProto.INPUT, "text")
    outputs: list[str] = _every(NodeProto.OUTPUT, "text")
    name: str = _last(NodeProto.NAME, "text", "")
    op: str = _last(NodeProto.OP_TYPE, "text", "")
    domain: str = _last(NodeProto.DOMAIN, "domain", "")
    parts: list[Field] = _every(NodeProto.ATTRIBUTE, "as_it_lies")
    attributes: Mapping[str, Any] = field(default_factory=dict)
    graphs: list[StoredGraph] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class StoredGraph(Stored):
    """A GraphProto. `mentioned` are names in quantisation annotations. What only functions have is empty."""

    function: ClassVar[bool] = False
    node_field: ClassVar[int] = GraphProto.NODE

    name: str = _last(GraphProto.NAME, "text", "")
    nodes: list[StoredNode] = _every(GraphProto.NODE, "node")
    infos: list[StoredValue] = _every(GraphProto.VALUE_INFO, StoredValue)
    initializers: list[StoredTensor] = _every(GraphProto.INITIALIZER, StoredTensor)
    sparse: list[StoredSparse] = _every(GraphProto.SPARSE_INITIALIZER, "sparse")
    inputs: list[StoredValue] = _every(GraphProto.INPUT, StoredValue)
    outputs: list[StoredValue] = _every(GraphProto.OUTPUT, StoredValue)
    mentioned: list[str] = _every(GraphProto.QUANTIZATION_ANNOTATION, "annotation", list.extend)
    names: Sequence[str] = ()
    results: Sequence[str] = ()


@dataclass(slots=True, eq=False)
class StoredFunction(StoredGraph):
    """A FunctionProto: `names` are its inputs and `results` its outputs."""

    function: ClassVar[bool] = True
    node_field: ClassVar[int] = FunctionProto.NODE

    name: str = _last(FunctionProto.NAME, "text", "")
    nodes: list[StoredNode] = _every(FunctionProto.NODE, "node")
    infos: list[StoredValue] = _every(FunctionProto.VALUE_INFO, StoredValue)
    names: list[str] = _every(FunctionProto.INPUT, "text")
    results: list[str] = _every(FunctionProto.OUTPUT, "text")
    opsets: dict[str, int] = _every(FunctionProto.OPSET_IMPORT, "opset", dict.update)
    domain: str = _last(FunctionProto.DOMAIN, "text", "")


@dataclass(slots=True, eq=False)
class StoredModel(Stored):
    """A ModelProto. `trained` are the names that its training information reads or sets."""

    graphs: list[StoredGraph] = _every(ModelProto.GRAPH, "main_graph")
    functions: list[StoredFunction] = _every(ModelProto.FUNCTIONS, StoredFunction)
    ir_version: int = _last(ModelProto.IR_VERSION, "integer", 0)
    opsets: dict[str, int] = _every(ModelProto.OPSET_IMPORT, "opset", dict.update)
    trained: list[str] = _every(ModelProto.TRAINING_INFO, "training", list.extend)
    data: Data = Data(memoryview(b""), "")

    @property
    def graph(self) -> StoredGraph:
        """The main graph."""
        return self.graphs[0]


def walk(graph: StoredGraph) -> Iterator[StoredGraph]:
    """The graph and all graphs in attributes of its nodes, outermost first."""
    yield graph
    for node in graph.nodes:
        for inner in node.graphs:
            yield from walk(inner)
