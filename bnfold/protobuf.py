"""The protobuf wire format as spans of a buffer: read structure without its payload, write without copying it.

A message is a run of fields; a field is a tag (number and wire type) and a payload. Reading yields where each field
lies, so that nothing is decoded before it is asked for. Writing goes through a `Rope`: pieces that are spans of the
input, new bytes, or arrays computed only when they are written.
Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Buffer = bytes | memoryview


class WireError(ValueError):
    """The bytes are not a protobuf message. `offset` is where reading stopped."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(f"{what} at byte {offset}")
        self.offset = offset


class Field(NamedTuple):
    """One field: the whole of it is data[start:end], its payload data[body:end]; for a varint `value` holds it."""

    number: int
    wire: int
    start: int
    body: int
    end: int
    value: int


def read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """The unsigned integer at `at` and the offset behind it. Raises WireError when it runs past `end` or 64 bits."""
    result = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            break
    raise WireError("an integer does not end", at)


def fields(data: Buffer, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """The fields of the message data[start:end], in order. Raises WireError where the bytes are no message."""
    at = start
    stop = len(data) if end is None else end
    new = tuple.__new__  # what Field's own constructor calls, in half the time
    while at < stop:
        first = at
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = read_varint(data, at, stop)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise WireError("a field has number 0", first)
        if wire == BYTES:
            if at < stop and data[at] < 0x80:
                length = data[at]
                at += 1
            else:
                length, at = read_varint(data, at, stop)
            body, at, value = at, at + length, 0
        elif wire == VARINT:
            body = at
            value, at = read_varint(data, at, stop)
        elif wire in (FIXED32, FIXED64):
            body, at, value = at, at + (4 if wire == FIXED32 else 8), 0
        else:
            raise WireError(f"field {number} has type {wire}, which no current format uses", first)
        if at > stop:
            raise WireError(f"field {number} runs past the end of its message", first)
        yield new(Field, (number, wire, first, body, at, value))


def read_string(data: Buffer, field: Field) -> str:
    """The string of a field, bytes that are not UTF-8 as surrogates. Raises WireError where it cannot hold one."""
    if field.wire != BYTES:
        raise WireError(f"field {field.number} is not a string", field.start)
    return str(data[field.body : field.end], "utf-8", "surrogateescape")


def read_integer(field: Field) -> int:
    """The int32 or int64 of a field. Raises WireError where it cannot hold one."""
    if field.wire != VARINT:
        raise WireError(f"field {field.number} is not an integer", field.start)
    return _signed(field.value)


def read_integers(data: Buffer, field: Field) -> list[int]:
    """The values of a repeated integer field's one occurrence, packed or not. Raises WireError where it holds none."""
    if field.wire == VARINT:
        return [_signed(field.value)]
    if field.wire != BYTES:
        raise WireError(f"field {field.number} holds no integers", field.start)
    values, at = [], field.body
    while at < field.end:
        value, at = read_varint(data, at, field.end)
        values.append(_signed(value))
    return values


def _signed(value: int) -> int:
    """An int32/int64 varint as the signed integer it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def varint(value: int) -> bytes:
    """`value` (negative as two's complement of 64 bits) in the wire's base-128 form."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire: int) -> bytes:
    """What a field begins with."""
    return varint(number << 3 | wire)


def integer(number: int, value: int) -> bytes:
    """Field `number` with an int32 or int64."""
    return tag(number, VARINT) + varint(value)


def delimited(number: int, payload: bytes) -> bytes:
    """Field `number` with bytes: a string, a message or packed numbers."""
    return tag(number, BYTES) + varint(len(payload)) + payload


def encoded(value: str) -> bytes:
    """The bytes that `decoded` makes `value` of."""
    return value.encode("utf-8", "surrogateescape")


def decoded(value: bytes) -> str:
    """As a string, in which bytes that are not UTF-8 survive as surrogates."""
    return value.decode("utf-8", "surrogateescape")


def string(number: int, value: str) -> bytes:
    """Field `number` with a string."""
    return delimited(number, encoded(value))


@dataclass(frozen=True)
class Lazy:
    """`size` bytes that `produce` makes only when they are written."""

    size: int
    produce: Callable[[], Buffer]


Piece = bytes | memoryview | Lazy


class Rope:
    """Bytes in pieces: spans of the input, new bytes, and payloads that are computed while writing."""

    def __init__(self, *pieces: Piece) -> None:
        self.pieces: list[Piece] = []
        self.size = 0
        for piece in pieces:
            self.add(piece)

    def add(self, piece: Piece | Rope) -> None:
        """Add `piece` behind what is there."""
        if isinstance(piece, Rope):
            self.pieces.extend(piece.pieces)
            self.size += piece.size
        else:
            self.pieces.append(piece)
            self.size += piece.size if isinstance(piece, Lazy) else len(piece)

    def add_message(self, number: int, body: Rope) -> None:
        """Add `body` as a length-delimited field."""
        self.add(tag(number, BYTES) + varint(body.size))
        self.add(body)

    def write(self, stream: BinaryIO) -> None:
        """Write all pieces in order; a lazy piece is made, written and let go.

        Raises ValueError if one lies about its size.
        """
        for piece in self.pieces:
            if isinstance(piece, Lazy):
                made = memoryview(piece.produce()).cast("B")
                if len(made) != piece.size:
                    raise ValueError(f"a piece announced {piece.size} bytes and made {len(made)}")
                stream.write(made)
            else:
                stream.write(piece)
