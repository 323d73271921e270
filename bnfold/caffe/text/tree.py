"""Protobuf text format without a schema: a tree whose every entry knows where it stands in the text.

Nothing is thrown away and nothing is interpreted: the text stays the document, the tree points into it, and
`prototxt_edit` changes the text at those places. The text is held as str with bytes that are not UTF-8 as lone
surrogates, so that encoding it gives back the very bytes that were read.
Format: https://protobuf.dev/reference/protobuf/textformat-spec/, as far as the C++ parser that Caffe uses accepts it
(strings over several lines, no space after a number, `1f`).
"""

from __future__ import annotations

import bisect
import functools
import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ...errors import InputError
from ...files import open_mapped
from .tokens import END, EXTENSION, GAP, NUMBER, PUNCTUATION, STRING, TOKEN, WORD, unquote

_INTEGER = re.compile(r"(-?)\s*(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))\Z")
_MAX_DEPTH = 100
_MAX_SIZE = 1 << 28


class Kind(Enum):
    """What stands behind a name."""

    WORD = "a word"
    NUMBER = "a number"
    STRING = "a string"
    MESSAGE = "a block"


_SCALAR_KINDS = {WORD: Kind.WORD, NUMBER: Kind.NUMBER, STRING: Kind.STRING}


class Source:
    """A text and the name of the file it came from."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text

    @functools.cached_property
    def _lines(self) -> list[int]:
        """Where each line begins."""
        return [1 if self.text.startswith("\ufeff") else 0, *(match.end() for match in re.finditer("\n", self.text))]

    def where(self, offset: int) -> str:
        """`file:line:column` of an offset, both from 1."""
        line = max(bisect.bisect_right(self._lines, offset), 1)
        return f"{self.name}:{line}:{offset - self._lines[line - 1] + 1}"

    def unquote(self, start: int, end: int) -> str:
        """The string of the tokens in text[start:end]. Raises InputError for an escape that means nothing."""
        try:
            return unquote(self.text, start, end)
        except ValueError:  # also UnicodeError, from half a surrogate pair
            raise self.fail(start, "the string holds an escape that means nothing") from None

    def fail(self, offset: int, what: str, hint: str = "") -> InputError:
        return InputError(what, where=self.where(offset), hint=hint)


@dataclass(eq=False, slots=True)
class Listing:
    """A bracketed list `name: [a, b]`: text[start:stop] from the name up to and with a separator."""

    start: int
    stop: int = 0
    elements: list[Entry] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Entry:
    """One `name: value`, parent.entries[index]. It is text[start:end], with a separator behind it text[start:stop].

    Its value is text[value:end], with the tree of it in `block` where it is one.
    Each element of a list is an entry of the list's name that starts at its value.
    """

    source: Source
    parent: Message
    index: int
    name: str
    kind: Kind
    start: int
    value: int
    end: int
    stop: int
    listing: Listing | None = None
    block: Message | None = None

    @property
    def text(self) -> str:
        """The value as it is written."""
        return self.source.text[self.value : self.end]

    def fail(self, what: str, hint: str = "") -> InputError:
        """The error `what` at the place of the value."""
        return self.source.fail(self.value, what, hint)

    def _expected(self, what: str) -> InputError:
        found = self.kind.value if self.kind is Kind.MESSAGE else self.text
        return self.fail(f"`{self.name}` should be {what} and is {found}")

    def message(self) -> Message:
        if self.block is None:
            raise self._expected("a block `{ ... }`")
        return self.block

    def string(self) -> str:
        """The string, its adjacent pieces joined and escapes resolved; bytes that are not UTF-8 become surrogates."""
        if self.kind is not Kind.STRING:
            raise self._expected("a string in quotes")
        text = self.text
        if "\\" not in text and text.count(text[0]) == 2 and text[-1] == text[0]:  # one piece, as nearly always
            return text[1:-1]
        return self.source.unquote(self.value, self.end)

    def word(self) -> str:
        if self.kind is not Kind.WORD:
            raise self._expected("a bare word")
        return self.text

    def integer(self) -> int:
        match = _INTEGER.match(self.text) if self.kind is Kind.NUMBER else None
        if match is None:
            raise self._expected("a whole number")
        sign, hexadecimal, octal, decimal = match.groups()
        digits, base = (hexadecimal, 16) if hexadecimal else (octal, 8) if octal else (decimal, 10)
        if len(digits) > 30:
            raise self.fail(f"`{self.name}` is a number of {len(digits)} digits")
        return -int(digits, base) if sign else int(digits, base)

    def real(self) -> float:
        text = self.text if self.kind in (Kind.NUMBER, Kind.WORD) else ""
        digits = "".join(text.lower().split())
        if not digits.endswith("inf"):
            digits = digits.removesuffix("f")
        try:
            return float(digits)
        except ValueError:
            raise self._expected("a number") from None

    def boolean(self) -> bool:
        if self.text in ("true", "True", "t", "1"):
            return True
        if self.text in ("false", "False", "f", "0"):
            return False
        raise self._expected("true or false")


@dataclass(eq=False, slots=True)
class Message:
    """The entries between the brackets at `open` and `close`; of the whole text for the root, which has no `entry`."""

    source: Source
    open: int
    close: int = 0
    entry: Entry | None = None
    entries: list[Entry] = field(default_factory=list)

    def all(self, name: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.name == name]

    def first(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def messages(self, name: str) -> list[Message]:
        return [entry.message() for entry in self.all(name)]

    def strings(self, name: str) -> list[str]:
        return [entry.string() for entry in self.all(name)]

    def string(self, name: str, default: str = "") -> str:
        entry = self.first(name)
        return default if entry is None else entry.string()

    def fail(self, what: str, hint: str = "") -> InputError:
        """The error `what` at the place of the block."""
        return self.source.fail(self.entry.start if self.entry else 0, what, hint)


def read(path: Path) -> Message:
    """The tree of the text file at `path`. Raises InputError when it cannot be read or is not protobuf text."""
    data = open_mapped(path)
    if len(data) > _MAX_SIZE:
        raise InputError(
            f"{len(data)} bytes are no prototxt", where=str(path), hint="give the prototxt first, then the caffemodel"
        )
    return parse(bytes(data), str(path))


def parse(data: bytes, name: str) -> Message:
    """The tree of a text; `name` stands for it in errors. Raises InputError with file, line and column."""
    if b"\0" in data[:4096]:
        raise InputError(
            "this is a binary file, not protobuf text", where=name, hint="give the prototxt first, then the caffemodel"
        )
    return _Parser(Source(name, data.decode("utf-8", "surrogateescape"))).root()


class _Parser:
    """Recursive descent with one token of look-ahead: its group in TOKEN, its text, and where it starts and ends."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.depth = 0
        self.end = 1 if source.text.startswith("\ufeff") else 0
        self._advance()

    def _advance(self) -> None:
        self.last = self.end
        match = TOKEN.match(self.source.text, self.end)
        if match is None:
            raise self._bad_character()
        self.group = match.lastindex or END
        self.start, self.end = match.span(self.group)
        self.token = match[self.group]

    def _bad_character(self) -> InputError:
        gap = GAP.match(self.source.text, self.end)
        at = gap.end() if gap else self.end
        found = self.source.text[at]
        return self.source.fail(at, "a string does not end" if found in "\"'" else f"unexpected character {found!r}")

    def _unexpected(self, expected: str) -> InputError:
        found = "the end of the file" if self.group == END else f"`{self.token[:40]}`"
        return self.source.fail(self.start, f"expected {expected}, found {found}")

    def _take(self, token: str) -> bool:
        if self.token != token or self.group != PUNCTUATION:
            return False
        self._advance()
        return True

    def root(self) -> Message:
        root = Message(self.source, 0)
        while self.group != END:
            self._field(root)
        root.close = len(self.source.text)
        return root

    def _name(self) -> str:
        if self.group == WORD:
            name = self.token
        elif self.token == "[" and (match := EXTENSION.match(self.source.text, self.start)):
            name, self.end = f"[{match[1]}]", match.end()
        else:
            raise self._unexpected("a field name")
        self._advance()
        return name

    def _field(self, parent: Message) -> None:
        start = self.start
        name = self._name()
        colon = self._take(":")
        if self.token == "[":
            self._list(parent, name, start, colon)
        elif colon or self.token in ("{", "<"):
            entry = self._entry(parent, name, start)
            entry.stop = self._separator()
        else:
            raise self._unexpected(f"`:` or a block after `{name}`")

    def _separator(self) -> int:
        """The offset behind the entry that just ended, with the separator that may follow."""
        end = self.last
        return self.last if self._take(",") or self._take(";") else end

    def _list(self, parent: Message, name: str, start: int, colon: bool) -> None:
        listing = Listing(start)
        self._advance()
        while not self._take("]"):
            if listing.elements and not self._take(","):
                raise self._unexpected(f"`,` or `]` in the list `{name}`")
            if not colon and self.token not in ("{", "<"):
                raise self._unexpected(f"`:` before the list `{name}`, or a block in it")
            entry = self._entry(parent, name, self.start)
            entry.listing = listing
            listing.elements.append(entry)
        listing.stop = self._separator()

    def _entry(self, parent: Message, name: str, start: int) -> Entry:
        """The value that begins here, added to `parent` as an entry."""
        value = self.start
        block = None
        if self.token in ("{", "<"):
            kind = Kind.MESSAGE
            block = self._block(name)
        else:
            kind = self._scalar(name)
        entry = Entry(
            self.source, parent, len(parent.entries), name, kind, start, value, self.last, self.last, None, block
        )
        if block is not None:
            block.entry = entry
        parent.entries.append(entry)
        return entry

    def _block(self, name: str) -> Message:
        message = Message(self.source, self.start)
        closer = "}" if self.token == "{" else ">"
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.source.fail(self.start, f"blocks are nested more than {_MAX_DEPTH} deep")
        self._advance()
        while self.token != closer:
            if self.group == END:
                raise self.source.fail(message.open, f"the block `{name}` that begins here does not end")
            self._field(message)
        message.close = self.start
        self.depth -= 1
        self._advance()
        return message

    def _scalar(self, name: str) -> Kind:
        group, value = self.group, self.start
        kind = _SCALAR_KINDS.get(group)
        if kind is None:
            raise self._unexpected(f"a value for `{name}`")
        escaped = "\\" in self.token
        self._advance()
        while kind is Kind.STRING and self.group == STRING:
            escaped = escaped or "\\" in self.token
            self._advance()
        if escaped:
            self.source.unquote(value, self.last)  # a wrong escape is a fault of the text, whoever reads the entry
        return kind
