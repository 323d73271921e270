"""The content of a file under the questions by which a format is recognised: its head, text, members and fields.

The functions at the end tell formats that have no signature, by what their descriptions say that such a file holds.
"""

from __future__ import annotations

import re
from functools import cached_property
from itertools import islice

from . import protobuf
from .protobuf import BYTES, FIXED32, VARINT, WireError

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
        """Whether the file begins with one of `heads`."""
        return self.head.startswith(heads)

    def is_flatbuffer(self, identifier: bytes) -> bool:
        """Whether the file is a FlatBuffer of this kind: before the identifier stands where the root is, near the head.

        Alone it may stand in a text or a name, too. Source: https://flatbuffers.dev/internals/
        """
        return self.head[2:8] == b"\0\0" + identifier

    @cached_property
    def is_text(self) -> bool:
        """Whether the head has no control characters but white space, in ASCII or an encoding that contains it."""
        return _plain(self.head)

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
        plain = any(not any(zeros) and _plain(other) for zeros, other in ((even, odd), (odd, even)))
        return self.starts(b"\xff\xfe", b"\xfe\xff") or (len(odd) > 3 and plain)

    @cached_property
    def members(self) -> bytes:
        """Of a zip archive the bytes in which its members' names stand: the head, and the directory at the end."""
        return self.head + bytes(self.data[-_TAIL:]) if self.starts(b"PK\x03\x04") else b""

    @cached_property
    def hdf5_names(self) -> bytes:
        """Of an HDF5 file the bytes in which the names of its first groups and attributes stand, a 0 behind each."""
        return bytes(self.data[:_MEGABYTE]) if self.starts(HDF5) else b""

    def fields(self) -> Kinds:
        """Those of a protobuf message. Raises WireError where the file is none."""
        return {(field.number, field.wire) for field in protobuf.fields(self.data)}

    @cached_property
    def kinds(self) -> Kinds:
        """Those of the message that the file is; none where it is no message."""
        try:
            return self.fields()
        except WireError:
            return set()

    def inner(self, number: int) -> Kinds:
        """Those of the first message in field `number`; none where that is no message."""
        bodies = (at for at in protobuf.fields(self.data) if (at.number, at.wire) == (number, BYTES))
        try:
            return {(part.number, part.wire) for field in islice(bodies, 1)
                    for part in protobuf.fields(self.data, field.body, field.end)}  # fmt: skip
        except WireError:
            return set()


def _plain(characters: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in characters)


# ------------------------------------------------------------------------------------------------ messages and texts


def is_solver(c: Content) -> bool:
    """A solver's text, which names its net; one that has layers, wherever in a line, is a net."""
    of_solvers = rb"(base_lr|lr_policy|max_iter|solver_mode|solver_type|test_iter|snapshot_prefix)\s*:"
    return c.says(of_solvers) and not re.search(rb"\blayers?\s*:?\s*[{<]", c.text)


def is_solverstate(c: Content) -> bool:
    """SolverState: the iteration, the caffemodel's name, the history, the current step, which ONNX has a string for."""
    solver = {(1, VARINT)} <= c.kinds <= {(1, VARINT), (2, BYTES), (3, BYTES), (4, VARINT)}
    return solver and ((4, VARINT) in c.kinds or b".caffemodel" in c.head)


def is_mean(c: Content) -> bool:
    """A BlobProto: four extents or a shape, and the numbers, where ONNX has an integer."""
    return bool(c.kinds & {(5, BYTES), (5, FIXED32)}) and max(number for number, _ in c.kinds) < 10


def is_graph_def(c: Content) -> bool:
    """Its first field is a node with name and operator, where a caffemodel has the net's name; of ONNX the version."""
    node = c.inner(1) if (1, BYTES) in c.kinds else set()
    return {(1, BYTES), (2, BYTES)} <= node <= {(number, BYTES) for number in range(1, 8)}


def is_saved_model(c: Content) -> bool:
    """The schema's version, and graphs, each with an inner GraphDef; ONNX has the producer's name in their place."""
    if c.kinds != {(1, VARINT), (2, BYTES)}:
        return False
    graph = c.inner(2)
    return bool(graph & {(1, BYTES), (2, BYTES)}) and graph <= {(number, BYTES) for number in range(1, 8)}


def is_meta_graph(c: Content) -> bool:
    """What it is made for, and a GraphDef with its versions, where a caffemodel has layers of V1."""
    if not {(1, BYTES), (2, BYTES)} <= c.kinds or not c.inner(1):
        return False
    return {(1, BYTES), (4, BYTES)} <= c.inner(2) <= {(1, BYTES), (2, BYTES), (3, VARINT), (4, BYTES)}


def is_core_ml(c: Content) -> bool:
    """Its field 1 is a version as ONNX's is; the model stands in one of the fields from 200 on."""
    described = {(1, VARINT), (2, BYTES)} <= c.kinds and (7, BYTES) not in c.kinds
    return described and any(199 < number < 4000 and wire == BYTES for number, wire in c.kinds)


def is_safetensors(c: Content) -> bool:
    """The length of a JSON text, and the text."""
    return c.head[8:9] == b"{" and 2 <= int.from_bytes(c.head[:8], "little") <= len(c.data) - 8


def is_caffemodel(c: Content) -> bool:
    """A name of the net or layers of either version; ONNX: its version, its graph."""
    caffe = {(1, BYTES), (2, BYTES), (100, BYTES)}
    return bool(c.kinds & caffe) and not c.kinds & {(1, VARINT), (7, BYTES)}
