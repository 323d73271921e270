"""Changing ONNX's messages: spans of the input of which some fields are replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..protobuf import Buffer, Field, Rope, fields, read_string, read_varint, string
from .messages import StoredNode, StoredTensor
from .schema import AttributeProto, NodeProto, StringStringEntryProto, TensorProto
from .serialize import Content, Line, entry, raw_data


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


def number_at(buffer: Buffer, start: int) -> int:
    """The number of the field that begins at `start`."""
    tag, _ = read_varint(buffer, start, len(buffer))
    return tag >> 3


def tensor_with(buffer: memoryview, stored: StoredTensor, content: Content) -> Rope:
    """The TensorProto `stored`, whose data is inside, with other values of the same extents and type."""
    splice = Splice(buffer, stored.body, stored.end)
    for index, part in enumerate(stored.payload):
        splice.replace(part.start, part.end, raw_data(content) if index == 0 else None)
    if not stored.payload:
        splice.tail = raw_data(content)
    return splice.rope()


def tensor_at(buffer: memoryview, stored: StoredTensor, location: str, changed: bool) -> Rope:
    """The TensorProto `stored`, whose data is outside, now at `location`; `changed` data loses its old checksum."""
    splice = Splice(buffer, stored.body, stored.end)
    entries = (at for at in fields(buffer, stored.body, stored.end) if at.number == TensorProto.EXTERNAL_DATA)
    for at in entries:
        key = _string_in(buffer, at, StringStringEntryProto.KEY)
        if key == "location":
            splice.replace(at.start, at.end, Rope(entry(at.number, key, location)))
        elif key == "checksum" and changed:
            splice.replace(at.start, at.end)
    return splice.rope()


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


def rewired(buffer: memoryview, stored: StoredNode, wires: Wires) -> Splice:
    """The NodeProto `stored` with other inputs and outputs, and without some attributes."""
    splice = Splice(buffer, stored.body, stored.end)
    places: dict[int, list[Field]] = {NodeProto.INPUT: [], NodeProto.OUTPUT: []}
    for at in fields(buffer, stored.body, stored.end):
        if at.number in places:
            places[at.number].append(at)
        elif _is_lost(buffer, at, wires):
            splice.replace(at.start, at.end)
    _rename(splice, places[NodeProto.INPUT], stored.inputs, wires.inputs)
    _rename(splice, places[NodeProto.OUTPUT], stored.outputs, wires.outputs)
    return splice


def _is_lost(buffer: memoryview, at: Field, wires: Wires) -> bool:
    """Whether the field `at` of a node is one that goes."""
    if at.number == NodeProto.ATTRIBUTE and wires.without:
        return _string_in(buffer, at, AttributeProto.NAME) in wires.without
    return at.number == NodeProto.NAME and wires.nameless


def _string_in(buffer: memoryview, at: Field, number: int) -> str:
    """The string in field `number` of the message in `at`; "" if there is none."""
    parts = (part for part in fields(buffer, at.body, at.end) if part.number == number)
    return next((read_string(buffer, part) for part in parts), "")


def _rename(splice: Splice, places: Sequence[Field], old: Sequence[str], new: Sequence[str]) -> None:
    """Have the strings `new` in the fields that hold `old`; more of them stand behind the last."""
    for index, at in enumerate(places):
        final = index == len(places) - 1
        texts = new[index:] if final else new[index : index + 1]
        if list(texts) != [old[index]]:
            splice.replace(at.start, at.end, Rope(b"".join(string(at.number, name) for name in texts)))
