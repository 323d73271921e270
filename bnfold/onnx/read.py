"""The structure of a model, read without its weights: one reader of messages, driven by the rows of their records."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

from ..errors import InputError
from ..ir.element_types import OPAQUE, DType, element_type
from ..ir.graph import Shape
from ..protobuf import BYTES, FIXED32, Field, WireError, fields, read_integer, read_integers, read_string
from .messages import (
    ABSENT,
    PAYLOAD,
    Data,
    Reader,
    Reference,
    Stored,
    StoredAttribute,
    StoredFunction,
    StoredGraph,
    StoredModel,
    StoredNode,
    StoredSparse,
    StoredTensor,
    StoredValue,
    Unread,
    walk,
)
from .schema import (
    FIELD_OF_TYPE,
    AttributeProto,
    OperatorSetIdProto,
    StringStringEntryProto,
    TensorAnnotation,
    TensorShapeProto,
    TrainingInfoProto,
    TypeProto,
)

_Record = TypeVar("_Record", bound=Stored)

_DEEPEST = 40
"""Graphs nested in attributes of nodes deeper than this are refused; protobuf's own parsers stop at 33."""
_SMALL = 2048
"""Runs of attributes up to this many bytes are decoded once for all nodes that have the same bytes."""


def read_model(data: Data) -> StoredModel:
    """The structure of the model in `data`. Raises InputError where the bytes are no model."""
    try:
        model = _Reader(data).message(StoredModel, Field(0, BYTES, 0, 0, len(data.buffer), 0))
    except WireError as error:
        hint = "the file may be truncated, or it is not an ONNX model"
        raise InputError(f"not a readable ONNX model: {error}", where=data.where, hint=hint) from None
    if not model.graphs or not (model.ir_version or model.opsets):
        hint = "bnfold reads ONNX models and Caffe's pairs of prototxt and caffemodel"
        raise InputError("not an ONNX model: it has no graph", where=data.where, hint=hint)
    model.data = data
    return model


def read_type(data: Data, at: Field) -> tuple[DType | None, Shape | None]:
    """Element type and shape in a field that holds a TypeProto; None for what it does not say or what is no tensor.

    Raises WireError where the bytes are no such message.
    """
    return _Reader(data).type(at)


class _Reader:
    """One pass over a model's bytes.

    The methods that take nothing but a field read it; they raise WireError where it is of another kind.
    """

    def __init__(self, data: Data) -> None:
        self.data = data.buffer
        self.where = data.where
        self.begun = False
        self.depth = 0
        self.seen: dict[bytes, Mapping[str, Any]] = {}

    def message(self, record: type[_Record], at: Field) -> _Record:
        """The message in field `at`."""
        self.later(at)
        made, table = record(at.start, at.body, at.end), _TABLES[record]
        for part in fields(self.data, at.body, at.end):
            row = table.get(part.number)
            if row is not None:
                attribute, read, add, join = row
                value = read(self, part)
                if add is not None:
                    add(getattr(made, attribute), value)
                else:
                    setattr(made, attribute, value if join is None else join(getattr(made, attribute), value))
        return made

    def values(self, at: Field, readers: Mapping[int, str]) -> Iterator[tuple[int, Any]]:
        """Number and value of each field of the small message in `at`; `readers` has those that are wanted."""
        self.later(at)
        for part in fields(self.data, at.body, at.end):
            if part.number in readers:
                yield part.number, getattr(self, readers[part.number])(part)

    def later(self, at: Field) -> Field:
        """A message that is not read yet."""
        if at.wire != BYTES:
            raise WireError(f"field {at.number} is not a message", at.start)
        return at

    def as_it_lies(self, at: Field) -> Field:
        return at

    def text(self, at: Field) -> str:
        return read_string(self.data, at)

    def integer(self, at: Field) -> int:
        return read_integer(at)

    def integers(self, at: Field) -> list[int]:
        return read_integers(self.data, at)

    def extents(self, at: Field) -> tuple[int, ...]:
        return tuple(read_integers(self.data, at))

    def payload(self, at: Field) -> Field:
        if at.wire not in (BYTES, PAYLOAD[at.number]):
            raise WireError(f"field {at.number} of a tensor has wire type {at.wire}", at.start)
        return at

    def floats(self, at: Field) -> list[float]:
        packed = at.wire == BYTES and at.number == AttributeProto.FLOATS
        if (at.wire != FIXED32 and not packed) or (at.end - at.body) % 4:
            raise WireError("an attribute's floats are cut", at.start)
        return [value for (value,) in struct.iter_unpack("<f", self.data[at.body : at.end])]

    def domain(self, at: Field) -> str:
        """The domain of an operator; the standard one has two names."""
        name = self.text(at)
        return "" if name == "ai.onnx" else name

    def opset(self, at: Field) -> dict[str, int]:
        found = dict(self.values(at, {OperatorSetIdProto.DOMAIN: "domain", OperatorSetIdProto.VERSION: "integer"}))
        return {found.get(OperatorSetIdProto.DOMAIN, ""): found.get(OperatorSetIdProto.VERSION, 0)}

    def entry(self, at: Field) -> tuple[tuple[str, str], ...]:
        """The one entry of a map, as all of them are joined."""
        found = dict(self.values(at, {StringStringEntryProto.KEY: "text", StringStringEntryProto.VALUE: "text"}))
        return ((found.get(StringStringEntryProto.KEY, ""), found.get(StringStringEntryProto.VALUE, "")),)

    def training(self, at: Field) -> list[str]:
        """All names in the graphs and bindings of a TrainingInfoProto."""
        graphs = dict.fromkeys((TrainingInfoProto.INITIALIZATION, TrainingInfoProto.ALGORITHM), "names")
        bindings = (TrainingInfoProto.INITIALIZATION_BINDING, TrainingInfoProto.UPDATE_BINDING)
        return [name for _, names in self.values(at, graphs | dict.fromkeys(bindings, "pair")) for name in names]

    def names(self, at: Field) -> list[str]:
        """The names that the nodes of a graph read and make."""
        nodes = (node for graph in walk(self.graph(at)) for node in graph.nodes)
        return [name for node in nodes for name in (*node.inputs, *node.outputs)]

    def pair(self, at: Field) -> list[str]:
        return [text for pair in self.entry(at) for text in pair]

    def annotation(self, at: Field) -> list[str]:
        """The tensors that a TensorAnnotation names: the annotated one, and the values of its map of parameters."""
        readers = {TensorAnnotation.TENSOR_NAME: "text", TensorAnnotation.QUANT_PARAMETER_TENSOR_NAMES: "pair"}
        return [found if isinstance(found, str) else found[1] for _, found in self.values(at, readers)]

    def type(self, at: Field) -> tuple[DType | None, Shape | None]:
        kinds = [kind for _, kind in self.values(at, {TypeProto.TENSOR_TYPE: "tensor_type"})]
        return kinds[-1] if kinds else (None, None)

    def tensor_type(self, at: Field) -> tuple[DType | None, Shape | None]:
        found = dict(self.values(at, {TypeProto.Tensor.ELEM_TYPE: "integer", TypeProto.Tensor.SHAPE: "shape"}))
        dtype = element_type(found.get(TypeProto.Tensor.ELEM_TYPE, 0))
        return (None if dtype == OPAQUE else dtype), found.get(TypeProto.Tensor.SHAPE)

    def shape(self, at: Field) -> Shape:
        return tuple(extent for _, extent in self.values(at, {TensorShapeProto.DIM: "extent"}))

    def extent(self, at: Field) -> int | None:
        """A fixed extent; None where it is a name or nothing."""
        extents = [extent for _, extent in self.values(at, {TensorShapeProto.Dimension.DIM_VALUE: "integer"})]
        return extents[-1] if extents and extents[-1] >= 0 else None

    def sparse(self, at: Field) -> StoredSparse:
        found = self.message(StoredSparse, at)
        if ABSENT in (found.values, found.indices):
            raise WireError("a sparse tensor lacks its values or indices", at.start)
        return found

    def main_graph(self, at: Field) -> StoredGraph:
        if self.begun:
            raise WireError("a second graph begins", at.start)
        self.begun = True
        return self.graph(at)

    def graph(self, at: Field) -> StoredGraph:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise InputError(f"graphs are nested deeper than {_DEEPEST}", where=self.where)
        found = self.message(StoredGraph, at)
        self.depth -= 1
        return found

    def node(self, at: Field) -> StoredNode:
        found = self.message(StoredNode, at)
        if found.parts:
            found.attributes = self._attributes(found.parts, found.graphs)
            found.parts = []
        return found

    def _attributes(self, parts: list[Field], graphs: list[StoredGraph]) -> Mapping[str, Any]:
        """The attributes in `parts`, those of equal bytes decoded once; graphs among them are appended to `graphs`."""
        first, last = parts[0].start, parts[-1].end
        key = None
        if last - first <= _SMALL and sum(part.end - part.start for part in parts) == last - first:
            key = bytes(self.data[first:last])
            known = self.seen.get(key)
            if known is not None:
                return known
        found = dict(self._attribute(part, graphs) for part in parts)
        placed = any(isinstance(value, StoredTensor | StoredSparse | Unread) for value in found.values())
        if key is not None and not graphs and not placed:  # no value remembers where it lies
            self.seen[key] = found
        return found

    def _attribute(self, at: Field, graphs: list[StoredGraph]) -> tuple[str, Any]:
        """Name and value of an AttributeProto; a graph goes to `graphs`."""
        found = self.message(StoredAttribute, at)
        if found.reference:
            return found.name, Reference(found.reference)
        number = FIELD_OF_TYPE.get(found.type) or (found.values[0].number if found.values else 0)
        values = [part for part in found.values if part.number == number]
        if number in (AttributeProto.G, AttributeProto.GRAPHS):
            graphs.extend(map(self.graph, values))
            return found.name, Unread(found.type)
        if number in _REPEATED:
            return found.name, tuple(element for part in values for element in self._elements(part))
        if values:
            return found.name, self._elements(values[-1])[-1]
        if number in _DEFAULTS or (found.type and not number):
            return found.name, _DEFAULTS.get(number, Unread(found.type))
        raise WireError("an attribute has no value", at.start)

    def _elements(self, at: Field) -> list[Any]:
        """The values in one field of an AttributeProto; there is at least one in a field that is not repeated."""
        if at.number not in _ELEMENTS:
            return [Unread(at.number)]
        found = _ELEMENTS[at.number](self, at)
        return found if isinstance(found, list) else [found]


_A = AttributeProto
_REPEATED = {_A.FLOATS, _A.INTS, _A.STRINGS, _A.TENSORS, _A.SPARSE_TENSORS, _A.TYPE_PROTOS}
_DEFAULTS = {_A.F: 0.0, _A.I: 0, _A.S: ""}
"""Writers of proto3 leave out a value that is 0 or empty."""


def _read(reader: Reader) -> Callable[[_Reader, Field], Any]:
    """What reads a field."""
    if isinstance(reader, str):
        return cast("Callable[[_Reader, Field], Any]", getattr(_Reader, reader))
    return lambda self, at: self.message(reader, at)


_Row = tuple[str, Callable[[_Reader, Field], Any], Callable[[Any, Any], None] | None, Callable[[Any, Any], Any] | None]


def _table(record: type[Stored]) -> Mapping[int, _Row]:
    """The fields of the message that a class of records stands for: attribute, how it is read, what adds or joins it.

    What the class takes from one that it is derived from is in another message.
    """
    own = [at for at in dataclasses.fields(record) if at.metadata and at.name in record.__annotations__]
    how = {at.name: at.metadata for at in own}
    rows = {name: (name, _read(told["reader"]), told.get("add"), told.get("join")) for name, told in how.items()}
    return {number: rows[at.name] for at in own for number in at.metadata["numbers"]}


_ELEMENTS = {
    **dict.fromkeys((_A.F, _A.FLOATS), _read("floats")),
    _A.I: _read("integer"),
    _A.INTS: _read("integers"),
    **dict.fromkeys((_A.S, _A.STRINGS), _read("text")),
    **dict.fromkeys((_A.T, _A.TENSORS), _read(StoredTensor)),
    **dict.fromkeys((_A.SPARSE_TENSOR, _A.SPARSE_TENSORS), _read("sparse")),
}
"""How the values of attributes are read, by their field."""
_RECORDS = (
    StoredModel, StoredGraph, StoredFunction, StoredNode, StoredAttribute, StoredTensor, StoredSparse, StoredValue,
)  # fmt: skip
_TABLES: Mapping[type[Stored], Mapping[int, _Row]] = {record: _table(record) for record in _RECORDS}
