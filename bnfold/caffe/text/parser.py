"""The parser of protobuf's text format: from a text to its tree.

Format: https://protobuf.dev/reference/protobuf/textformat-spec/, as far as the C++ parser that Caffe uses accepts it
(strings over several lines, no space after a number, `1f`).
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ...files import open_mapped
from .tokens import END, EXTENSION, GAP, NUMBER, PUNCTUATION, STRING, TOKEN, WORD
from .tree import Entry, Kind, Listing, Message, Source

_MAX_DEPTH = 100
_MAX_SIZE = 1 << 28
_SCALAR_KINDS = {WORD: Kind.WORD, NUMBER: Kind.NUMBER, STRING: Kind.STRING}


def read_prototxt(path: Path) -> Message:
    """The tree of the text file at `path`. Raises InputError when it cannot be read or is not protobuf text."""
    data = open_mapped(path)
    if len(data) > _MAX_SIZE:
        raise InputError(
            f"{len(data)} bytes are no prototxt", where=str(path), hint="give the prototxt first, then the caffemodel"
        )
    return _parse(bytes(data), str(path))


def _parse(data: bytes, name: str) -> Message:
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
