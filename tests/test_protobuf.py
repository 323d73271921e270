"""The wire format against protobuf's own encoder, and ropes against plain bytes."""

from __future__ import annotations

import io

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from bnfold import protobuf
from bnfold.protobuf import Lazy, Rope, WireError

uint64 = st.integers(0, (1 << 64) - 1)


@given(uint64)
def test_varints_read_back(value: int) -> None:
    data = protobuf.varint(value)
    assert len(data) == max(1, -(-value.bit_length() // 7))
    assert protobuf.read_varint(b"\xff" + data + b"\xff", 1, len(data) + 1) == (value, len(data) + 1)


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_negative_integers_are_twos_complement(value: int) -> None:
    data = protobuf.integer(5, value)
    assert protobuf.read_integer(next(protobuf.fields(data))) == value
    option = descriptor_pb2.UninterpretedOption(negative_int_value=value)
    assert data == option.SerializeToString()


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9, b"\x80" * 10 + b"\x01"])
def test_a_varint_that_does_not_end(data: bytes) -> None:
    with pytest.raises(WireError, match="does not end"):
        protobuf.read_varint(data, 0, len(data))


def test_the_fields_of_a_message() -> None:
    data = (
        protobuf.integer(1, 300)
        + protobuf.string(2, "é")
        + protobuf.tag(3, protobuf.FIXED32)
        + b"abcd"
        + protobuf.tag(400, 1)
        + b"8 bytes!"
    )
    found = list(protobuf.fields(memoryview(data)))
    assert [(f.number, f.wire, data[f.body : f.end], f.value) for f in found] == [
        (1, protobuf.VARINT, b"\xac\x02", 300),
        (2, protobuf.BYTES, "é".encode(), 0),
        (3, protobuf.FIXED32, b"abcd", 0),
        (400, protobuf.FIXED64, b"8 bytes!", 0),
    ]
    assert b"".join(data[f.start : f.end] for f in found) == data
    assert protobuf.read_string(data, found[1]) == "é"


@given(st.text(st.characters(codec="utf-8")), st.lists(st.integers(-(1 << 31), (1 << 31) - 1)), st.binary())
def test_fields_as_protobuf_writes_them(name: str, numbers: list[int], payload: bytes) -> None:
    proto = descriptor_pb2.SourceCodeInfo(
        location=[descriptor_pb2.SourceCodeInfo.Location(path=numbers, leading_comments=name)]
    )
    data = proto.SerializeToString() + protobuf.delimited(77, payload)
    location, unknown = protobuf.fields(data)
    assert data[unknown.body : unknown.end] == payload
    inner = {field.number: field for field in protobuf.fields(data, location.body, location.end)}
    assert protobuf.read_string(data, inner[3]) == name
    assert (protobuf.read_integers(data, inner[1]) if 1 in inner else []) == numbers


def test_one_unpacked_integer() -> None:
    data = protobuf.integer(1, -5)
    assert protobuf.read_integers(data, next(protobuf.fields(data))) == [-5]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x00", "number 0"),
        (b"\x0a", "an integer does not end"),
        (b"\x0a\x02x", "field 1 runs past the end"),
        (b"\x0d\x01\x02", "field 1 runs past the end"),
        (b"\x0b", "field 1 has type 3"),
        (b"\x0f", "field 1 has type 7"),
        (b"\x08\xff", "an integer does not end"),
    ],
)
def test_what_is_no_message(data: bytes, what: str) -> None:
    with pytest.raises(WireError, match=what) as caught:
        list(protobuf.fields(data))
    assert f"at byte {caught.value.offset}" in str(caught.value)


@given(st.binary(max_size=40))
def test_any_bytes_are_fields_or_a_wire_error(data: bytes) -> None:
    try:
        found = list(protobuf.fields(data))
    except WireError:
        return
    assert b"".join(data[f.start : f.end] for f in found) == data


@given(st.lists(st.binary(max_size=8)))
def test_a_rope_is_its_pieces(pieces: list[bytes]) -> None:
    rope = Rope()
    for index, piece in enumerate(pieces):
        made = (piece, memoryview(piece), Lazy(len(piece), lambda piece=piece: piece), Rope(piece))
        rope.add(made[index % 4])
    assert rope.size == sum(map(len, pieces))
    outer = Rope(b"<")
    outer.add_message(5, rope)
    stream = io.BytesIO()
    outer.write(stream)
    assert stream.getvalue() == b"<" + protobuf.delimited(5, b"".join(pieces))
    assert outer.size == len(stream.getvalue())


def test_a_piece_that_announced_another_size_is_not_written() -> None:
    with pytest.raises(ValueError, match="announced 3 bytes and made 2"):
        Rope(Lazy(3, lambda: b"12")).write(io.BytesIO())
