"""The small parts of ONNX's messages: checked fields, and TensorProto as a record of where its data lies.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..protobuf import BYTES, FIXED32, FIXED64, VARINT, Buffer, Field, WireError, fields, packed_varints, signed

Span = tuple[int, int]

_PAYLOAD = {4: FIXED32, 5: VARINT, 6: BYTES, 7: VARINT, 9: BYTES, 10: FIXED64, 11: VARINT}
"""TensorProto's data fields (float, int32, string, int64, raw, double, uint64) and the wire type of one element."""


@dataclass(slots=True, eq=False)
class StoredTensor:
    """A TensorProto: `payload` are its data fields, `external` its external_data entries (None: the data is inside)."""

    start: int
    body: int
    end: int
    name: str = ""
    dims: tuple[int, ...] = ()
    type: int = 0
    payload: list[Field] = field(default_factory=list)
    external: dict[str, str] | None = None


@dataclass(slots=True, eq=False)
class StoredSparse:
    """A SparseTensorProto: the values that are not zero, where they are, and the dense extents."""

    start: int
    body: int
    end: int
    values: StoredTensor
    indices: StoredTensor
    dims: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.values.name


def text(data: Buffer, at: Field) -> str:
    """The string of a length-delimited field; bytes that are not UTF-8 survive as surrogates."""
    if at.wire != BYTES:
        raise WireError(f"field {at.number} is not a string", at.start)
    return str(data[at.body : at.end], "utf-8", "surrogateescape")


def number(at: Field) -> int:
    """The signed integer of a varint field."""
    if at.wire != VARINT:
        raise WireError(f"field {at.number} is not an integer", at.start)
    return signed(at.value)


def numbers(data: Buffer, at: Field) -> list[int]:
    """The integers of one occurrence of a repeated field, packed or not."""
    if at.wire not in (VARINT, BYTES):
        raise WireError(f"field {at.number} holds no integers", at.start)
    return packed_varints(data, at)


def message(at: Field) -> Span:
    """The span of a field's message."""
    if at.wire != BYTES:
        raise WireError(f"field {at.number} is not a message", at.start)
    return at.body, at.end


def pair(data: Buffer, span: Span) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    key = value = ""
    for at in fields(data, *span):
        if at.number == 1:
            key = text(data, at)
        elif at.number == 2:
            value = text(data, at)
    return key, value


def read_tensor(data: Buffer, at: Field) -> StoredTensor:
    """The TensorProto in field `at`."""
    found = StoredTensor(at.start, *message(at))
    dims: list[int] = []
    external: dict[str, str] = {}
    outside = False
    for part in fields(data, at.body, at.end):
        kind = part.number
        if kind == 1:
            dims += numbers(data, part)
        elif kind == 2:
            found.type = number(part)
        elif kind == 8:
            found.name = text(data, part)
        elif kind in _PAYLOAD:
            if part.wire not in (BYTES, _PAYLOAD[kind]):
                raise WireError(f"field {kind} of a tensor has wire type {part.wire}", part.start)
            found.payload.append(part)
        elif kind == 13:
            external.update([pair(data, message(part))])
        elif kind == 14:
            outside = number(part) == 1
    found.dims = tuple(dims)
    found.external = external if outside else None
    return found


def read_sparse(data: Buffer, at: Field) -> StoredSparse:
    """The SparseTensorProto in field `at`."""
    parts: dict[int, StoredTensor] = {}
    dims: list[int] = []
    for part in fields(data, *message(at)):
        if part.number in (1, 2):
            parts[part.number] = read_tensor(data, part)
        elif part.number == 3:
            dims += numbers(data, part)
    if len(parts) < 2:
        raise WireError("a sparse tensor lacks its values or indices", at.start)
    return StoredSparse(at.start, at.body, at.end, parts[1], parts[2], tuple(dims))
