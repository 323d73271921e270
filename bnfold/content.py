"""The content of a file under the questions by which a format is recognised: its head, text, members and fields."""

from __future__ import annotations

import re
from functools import cached_property

from . import protobuf
from .protobuf import BYTES, Field, WireError

Kinds = set[tuple[int, int]]
"""Number and wire type of fields."""
HDF5 = b"\x89HDF\r\n\x1a\n"
"""How a file of this format begins."""
_HEAD = 4096
_TAIL = 1 << 17
_MEGABYTE = 1 << 20


class Content:
    """What a file holds. Each answer is found when it is first asked for, and reads no more than it needs."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.head = bytes(data[:_HEAD])

    def starts(self, *heads: bytes) -> bool:
        return self.head.startswith(heads)

    @cached_property
    def is_text(self) -> bool:
        """Whether the head has no control characters but white space, in ASCII or an encoding that contains it."""
        return not any(byte < 9 or 13 < byte < 32 for byte in self.head)

    @cached_property
    def text(self) -> bytes:
        """The head of a text, from its first word on; b"" where the file is none."""
        return self.head.removeprefix(b"\xef\xbb\xbf").lstrip() if self.is_text else b""

    def begins(self, pattern: bytes) -> bool:
        """Whether `pattern` stands at the beginning of the text."""
        return re.match(pattern, self.text) is not None

    def says(self, pattern: bytes) -> bool:
        """Whether a line in the head of the text begins with `pattern`, behind white space."""
        return re.search(rb"^[ \t]*" + pattern, self.text, re.MULTILINE) is not None

    @cached_property
    def is_utf16(self) -> bool:
        """Whether a byte order mark says so, or every other byte of the head is 0 and the others are text."""
        even, odd = self.head[:64:2], self.head[1:64:2]
        plain = any(not any(zeros) and min(other, default=0) > 8 for zeros, other in ((even, odd), (odd, even)))
        return self.starts(b"\xff\xfe", b"\xfe\xff") or (len(odd) > 3 and plain)

    @cached_property
    def members(self) -> bytes:
        """Of a zip archive the bytes in which its members' names stand: the head, and the directory at the end."""
        return self.head + bytes(self.data[-_TAIL:]) if self.starts(b"PK\x03\x04") else b""

    @cached_property
    def hdf5_names(self) -> bytes:
        """Of an HDF5 file the bytes in which the names of its first groups and attributes stand, a 0 behind each."""
        return bytes(self.data[:_MEGABYTE]) if self.starts(HDF5) else b""

    @cached_property
    def fields(self) -> list[Field]:
        """Those of a protobuf message. Raises WireError where the file is none."""
        return list(protobuf.fields(self.data))

    @cached_property
    def kinds(self) -> Kinds:
        """Those of the message that the file is; none where it is no message."""
        try:
            return {(field.number, field.wire) for field in self.fields}
        except WireError:
            return set()

    def inner(self, number: int) -> Kinds:
        """Those of the first message in field `number`; none where that is no message."""
        bodies = (field for field in self.fields if (field.number, field.wire) == (number, BYTES))
        try:
            return {(part.number, part.wire) for field in [*bodies][:1]
                    for part in protobuf.fields(self.data, field.body, field.end)}  # fmt: skip
        except WireError:
            return set()
