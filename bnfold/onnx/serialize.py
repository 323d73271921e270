"""The makers of ONNX's messages: what is new in a model is written by these, without importing `onnx`."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..ir.element_types import DType, element_code
from ..ir.graph import Array, Shape
from ..planner.affine import nearest
from ..protobuf import BYTES, FIXED32, Buffer, Lazy, Piece, Rope, delimited, encoded, integer, string, tag, varint
from .schema import (
    FIELD_OF_TYPE,
    AttributeProto,
    NodeProto,
    StringStringEntryProto,
    TensorProto,
    TensorShapeProto,
    TypeProto,
    ValueInfoProto,
)

_SMALL = 4096
"""Pieces up to this many bytes are copied; larger ones stay spans of the input."""


@dataclass(frozen=True, eq=False, slots=True)
class Content:
    """A tensor to write: its extents and type now, its values, rounded once, when the file is written."""

    shape: tuple[int, ...]
    dtype: DType
    make: Callable[[], Array]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def lazy(self) -> Lazy:
        """The values as a piece to write."""
        return Lazy(self.size, self.bytes)

    def bytes(self) -> Buffer:
        """The values in the order and the byte order of raw_data."""
        array = np.ascontiguousarray(nearest(self.make(), self.dtype), self.dtype.newbyteorder("<")).reshape(self.shape)
        return array.reshape(-1).view(np.uint8).data if self.size else b""


class Line(NamedTuple):
    """A node that is written: its name, and the names that it reads and makes."""

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]


Scalar = int | float | str | bytes | Content | Rope
"""One value of an attribute; a Rope is a GraphProto."""
_Type = AttributeProto.AttributeType
_TYPES: Mapping[type, tuple[int, int]] = {
    int: (_Type.INT, _Type.INTS),
    float: (_Type.FLOAT, _Type.FLOATS),
    str: (_Type.STRING, _Type.STRINGS),
    bytes: (_Type.STRING, _Type.STRINGS),
    Content: (_Type.TENSOR, _Type.TENSORS),
    Rope: (_Type.GRAPH, _Type.GRAPHS),
}
"""The types of an attribute that is one value, and of one that is several; none at all are integers."""


def framed(number: int, body: Rope) -> Rope:
    """`body` as field `number`, its small pieces joined, so that a model of many small nodes stays small."""
    pieces: list[Piece] = []
    run = bytearray(tag(number, BYTES) + varint(body.size))
    for piece in body.pieces:
        if not isinstance(piece, Lazy) and len(piece) <= _SMALL:
            run += piece
            continue
        pieces += [bytes(run), piece] if run else [piece]
        run = bytearray()
    return Rope(*pieces, bytes(run)) if run else Rope(*pieces)


def tensor_proto(name: str, content: Content) -> Rope:
    """A TensorProto."""
    head = b"".join(integer(TensorProto.DIMS, extent) for extent in content.shape)
    head += integer(TensorProto.DATA_TYPE, element_code(content.dtype))
    rope = Rope(head + (string(TensorProto.NAME, name) if name else b""))
    rope.add(raw_data(content))
    return rope


def raw_data(content: Content) -> Rope:
    """The field of a TensorProto with the values."""
    rope = Rope(tag(TensorProto.RAW_DATA, BYTES) + varint(content.size))
    if content.size:
        rope.add(content.lazy())
    return rope


def node_proto(
    op: str, line: Line, attributes: Mapping[str, Scalar | Sequence[Scalar]] | None = None, domain: str = ""
) -> Rope:
    """A NodeProto."""
    strings = [(NodeProto.INPUT, name) for name in line.inputs] + [(NodeProto.OUTPUT, name) for name in line.outputs]
    strings += [(NodeProto.NAME, line.name)] if line.name else []
    rope = Rope(b"".join(string(number, text) for number, text in (*strings, (NodeProto.OP_TYPE, op))))
    for name, value in (attributes or {}).items():
        rope.add(attribute_field(name, value))
    if domain:
        rope.add(string(NodeProto.DOMAIN, domain))
    return rope


def attribute_field(name: str, value: Scalar | Sequence[Scalar]) -> Rope:
    """The field of a NodeProto with one attribute."""
    several = not isinstance(value, Scalar)
    items = [value] if isinstance(value, Scalar) else value
    types = next((types for kind, types in _TYPES.items() if items and isinstance(items[0], kind)), _TYPES[int])
    rope = Rope(string(AttributeProto.NAME, name))
    for item in items:
        rope.add(_element(FIELD_OF_TYPE[types[several]], item))
    rope.add(integer(AttributeProto.TYPE, types[several]))
    return framed(NodeProto.ATTRIBUTE, rope)


def _element(number: int, value: Scalar) -> bytes | Rope:
    """One value in field `number` of an AttributeProto."""
    if isinstance(value, Content | Rope):
        return framed(number, tensor_proto("", value) if isinstance(value, Content) else value)
    if isinstance(value, str | bytes):
        return delimited(number, value if isinstance(value, bytes) else encoded(value))
    if isinstance(value, float) or number == AttributeProto.FLOATS:
        return tag(number, FIXED32) + struct.pack("<f", value)
    return integer(number, value)


def constant_node(name: str, content: Content) -> Rope:
    """A Constant node that makes the value `name`."""
    return node_proto("Constant", Line("", (), (name,)), {"value": content})


def value_info(name: str, dtype: DType | None, shape: Shape | None, batch: str = "") -> Rope:
    """The ValueInfoProto of a tensor whose type or shape may be unknown; `batch` names an unknown axis 0."""
    kind = b"" if dtype is None else integer(TypeProto.Tensor.ELEM_TYPE, element_code(dtype))
    if shape is not None:
        dimensions = (_dimension(extent, "" if axis else batch) for axis, extent in enumerate(shape))
        kind += delimited(TypeProto.Tensor.SHAPE, b"".join(dimensions))
    tensor_type = delimited(TypeProto.TENSOR_TYPE, kind)
    return Rope(string(ValueInfoProto.NAME, name) + delimited(ValueInfoProto.TYPE, tensor_type))


def _dimension(extent: int | None, name: str) -> bytes:
    if extent is not None:
        return delimited(TensorShapeProto.DIM, integer(TensorShapeProto.Dimension.DIM_VALUE, extent))
    return delimited(TensorShapeProto.DIM, string(TensorShapeProto.Dimension.DIM_PARAM, name) if name else b"")


def entry(number: int, key: str, value: str) -> bytes:
    """Field `number` with a StringStringEntryProto."""
    return delimited(number, string(StringStringEntryProto.KEY, key) + string(StringStringEntryProto.VALUE, value))
