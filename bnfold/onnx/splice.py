"""Writing ONNX's messages: spans of the input with some fields replaced, and the few messages that are new.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .. import protobuf
from ..ir.graph import Array
from ..planner.affine import nearest
from ..protobuf import Buffer, Field, Lazy, Piece, Rope, fields
from .messages import StoredTensor, pair, text
from .read import StoredNode
from .tensors import DType, element_code

SMALL = 4096
"""Pieces up to this many bytes are copied; larger ones stay spans of the input."""


@dataclass(frozen=True, eq=False, slots=True)
class Content:
    """A tensor to write: its extents and type now, its values when the file is written."""

    shape: tuple[int, ...]
    dtype: DType
    make: Callable[[], Array]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def lazy(self) -> Lazy:
        return Lazy(self.size, self.bytes)

    def bytes(self) -> Buffer:
        """The values in the order and the byte order of raw_data."""
        array = np.ascontiguousarray(nearest(self.make(), self.dtype), self.dtype.newbyteorder("<")).reshape(self.shape)
        return array.reshape(-1).view(np.uint8).data if self.size else b""


class Splice:
    """A message of the input of which some spans are replaced; what is replaced lies within it and does not overlap."""

    def __init__(self, buffer: memoryview, body: int, end: int) -> None:
        self.buffer = buffer
        self.body = body
        self.end = end
        self.edits: dict[int, tuple[int, Rope]] = {}
        self.tail = Rope()

    def replace(self, start: int, end: int, by: Rope | None = None) -> None:
        """Put `by` (nothing) in the place of the span."""
        self.edits[start] = (end, by or Rope())

    def insert(self, start: int, by: Rope) -> None:
        """Put `by` before what stands at `start`."""
        end, behind = self.edits.get(start, (start, Rope()))
        both = Rope()
        both.add(by)
        both.add(behind)
        if end == start and start < self.end:
            end = self._field_end(start)
            both.add(self.buffer[start:end])
        self.edits[start] = (end, both)

    def _field_end(self, start: int) -> int:
        return next(fields(self.buffer, start, self.end)).end

    def rope(self) -> Rope:
        """The message: its spans, the replacements in their places, and the tail."""
        result, at = Rope(), self.body
        for start in sorted(self.edits):
            end, by = self.edits[start]
            if start > at:
                result.add(self.buffer[at:start])
            result.add(by)
            at = end
        if self.end > at:
            result.add(self.buffer[at : self.end])
        result.add(self.tail)
        return result


def framed(number: int, body: Rope) -> Rope:
    """`body` as field `number`, its small pieces joined, so that a model of many small nodes stays small."""
    pieces: list[Piece] = []
    run = bytearray(protobuf.tag(number, protobuf.BYTES) + protobuf.varint(body.size))
    for piece in body.pieces:
        if not isinstance(piece, Lazy) and len(piece) <= SMALL:
            run += piece
            continue
        pieces += [bytes(run), piece] if run else [piece]
        run = bytearray()
    return Rope(*pieces, bytes(run)) if run else Rope(*pieces)


def number_at(buffer: Buffer, start: int) -> int:
    """The number of the field that begins at `start`."""
    tag, _ = protobuf.read_varint(buffer, start, len(buffer))
    return tag >> 3


def tensor(name: str, content: Content) -> Rope:
    """A new TensorProto."""
    head = b"".join(protobuf.integer(1, extent) for extent in content.shape)
    head += protobuf.integer(2, element_code(content.dtype)) + (protobuf.string(8, name) if name else b"")
    rope = Rope(head)
    rope.add(_raw(content))
    return rope


def _raw(content: Content) -> Rope:
    return Rope(protobuf.tag(9, protobuf.BYTES) + protobuf.varint(content.size), content.lazy())


def tensor_with(buffer: memoryview, stored: StoredTensor, content: Content) -> Rope:
    """The TensorProto `stored`, whose data is inside, with other values of the same extents and type."""
    splice = Splice(buffer, stored.body, stored.end)
    for index, part in enumerate(stored.payload):
        splice.replace(part.start, part.end, _raw(content) if index == 0 else None)
    if not stored.payload:
        splice.tail = _raw(content)
    return splice.rope()


def tensor_at(buffer: memoryview, stored: StoredTensor, location: str, changed: bool) -> Rope:
    """The TensorProto `stored`, whose data is outside, now at `location`; `changed` data loses its old checksum."""
    splice = Splice(buffer, stored.body, stored.end)
    for at in fields(buffer, stored.body, stored.end):
        key = pair(buffer, (at.body, at.end))[0] if at.number == 13 else ""
        if key == "location":
            entry = protobuf.string(1, key) + protobuf.string(2, location)
            splice.replace(at.start, at.end, Rope(protobuf.delimited(13, entry)))
        elif key == "checksum" and changed:
            splice.replace(at.start, at.end)
    return splice.rope()


class Line(NamedTuple):
    """A node that is written: its name, and the names that it reads and makes."""

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]


class Written(NamedTuple):
    """What stands in the place of a node: the bytes, and what nodes they are."""

    rope: Rope
    lines: Sequence[Line] = ()


@dataclass(eq=False, slots=True)
class Wires:
    """What a node shall read and write, and the names of attributes that it loses; `nameless` takes its own name."""

    inputs: list[str]
    outputs: list[str]
    without: set[str] = field(default_factory=set)
    nameless: bool = False


def node(op: str, line: Line, attributes: Rope | None = None) -> Rope:
    """A new NodeProto of the standard domain."""
    strings = [(1, text) for text in line.inputs] + [(2, text) for text in line.outputs]
    strings += [(3, line.name)] if line.name else []
    rope = Rope(b"".join(protobuf.string(number, text) for number, text in strings) + protobuf.string(4, op))
    if attributes is not None:
        rope.add(attributes)
    return rope


def integer_attributes(values: Mapping[str, int]) -> Rope:
    """Attributes of type INT."""
    made = (
        protobuf.string(1, name) + protobuf.integer(3, value) + protobuf.integer(20, 2)
        for name, value in values.items()
    )
    return Rope(b"".join(protobuf.delimited(5, payload) for payload in made))


def float_attribute(name: str, value: float) -> Rope:
    payload = (
        protobuf.string(1, name)
        + protobuf.tag(2, protobuf.FIXED32)
        + struct.pack("<f", value)
        + protobuf.integer(20, 1)
    )
    return Rope(protobuf.delimited(5, payload))


def constant_node(name: str, content: Content) -> Rope:
    """A Constant node that makes the value `name`."""
    attribute = Rope(protobuf.string(1, "value"))
    attribute.add_message(5, tensor("", content))
    attribute.add(protobuf.integer(20, 4))
    return node("Constant", Line("", (), (name,)), framed(5, attribute))


def value_info(name: str, dtype: DType, shape: tuple[int, ...] | None) -> Rope:
    """The ValueInfoProto of a tensor."""
    kind = protobuf.integer(1, element_code(dtype))
    if shape is not None:
        kind += protobuf.delimited(2, b"".join(protobuf.delimited(1, protobuf.integer(1, extent)) for extent in shape))
    return Rope(protobuf.string(1, name) + protobuf.delimited(2, protobuf.delimited(1, kind)))


def rewired(buffer: memoryview, stored: StoredNode, wires: Wires) -> Splice:
    """The NodeProto `stored` with other inputs and outputs, and without some attributes."""
    splice = Splice(buffer, stored.body, stored.end)
    places: dict[int, list[Field]] = {1: [], 2: []}
    for at in fields(buffer, stored.body, stored.end):
        if at.number in places:
            places[at.number].append(at)
        elif (at.number == 3 and wires.nameless) or (at.number == 5 and _lost(buffer, at, wires)):
            splice.replace(at.start, at.end)
    _rename(splice, places[1], stored.inputs, wires.inputs)
    _rename(splice, places[2], stored.outputs, wires.outputs)
    return splice


def _lost(buffer: memoryview, at: Field, wires: Wires) -> bool:
    """Whether the attribute at `at` is one that goes."""
    parts = fields(buffer, at.body, at.end) if wires.without else ()
    return any(part.number == 1 and text(buffer, part) in wires.without for part in parts)


def _rename(splice: Splice, places: Sequence[Field], old: Sequence[str], new: Sequence[str]) -> None:
    """Have the strings `new` in the fields that hold `old`; more of them stand behind the last."""
    for index, at in enumerate(places):
        final = index == len(places) - 1
        texts = new[index:] if final else new[index : index + 1]
        if list(texts) != [old[index]]:
            splice.replace(at.start, at.end, Rope(b"".join(protobuf.string(at.number, name) for name in texts)))
