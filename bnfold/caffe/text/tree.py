"""Protobuf text format without a schema: a tree whose every entry knows where it stands in the text.

Nothing is thrown away and nothing is interpreted: the text stays the document, the tree points into it, and `edit`
changes the text at those places. The text is held as str with bytes that are not UTF-8 as lone surrogates, so that
encoding it gives back the very bytes that were read.
"""

from __future__ import annotations

import bisect
import functools
import re
from dataclasses import dataclass, field
from enum import Enum

from ...errors import InputError
from .tokens import unquote

_INTEGER = re.compile(r"(-?)\s*(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))\Z")


class Kind(Enum):
    """What stands behind a name."""

    WORD = "a word"
    NUMBER = "a number"
    STRING = "a string"
    MESSAGE = "a block"


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
        """The error `what` at an offset."""
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
        """The block. Raises InputError where the value is another thing, as do the other readers."""
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
        """The bare word."""
        if self.kind is not Kind.WORD:
            raise self._expected("a bare word")
        return self.text

    def integer(self) -> int:
        """The number in any of C's bases."""
        match = _INTEGER.match(self.text) if self.kind is Kind.NUMBER else None
        if match is None:
            raise self._expected("a whole number")
        sign, hexadecimal, octal, decimal = match.groups()
        digits, base = (hexadecimal, 16) if hexadecimal else (octal, 8) if octal else (decimal, 10)
        if len(digits) > 30:
            raise self.fail(f"`{self.name}` is a number of {len(digits)} digits")
        return -int(digits, base) if sign else int(digits, base)

    def real(self) -> float:
        """The number; `1f`, `inf` and `nan` are ones."""
        text = self.text if self.kind in (Kind.NUMBER, Kind.WORD) else ""
        digits = "".join(text.lower().split())
        if not digits.endswith("inf"):
            digits = digits.removesuffix("f")
        try:
            return float(digits)
        except ValueError:
            raise self._expected("a number") from None

    def boolean(self) -> bool:
        """true or false in any spelling that protobuf takes."""
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
        """Its entries of one name."""
        return [entry for entry in self.entries if entry.name == name]

    def first(self, name: str) -> Entry | None:
        """Its first entry of a name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def messages(self, name: str) -> list[Message]:
        """Its blocks of one name."""
        return [entry.message() for entry in self.all(name)]

    def strings(self, name: str) -> list[str]:
        """The strings of its entries of one name."""
        return [entry.string() for entry in self.all(name)]

    def string(self, name: str, default: str = "") -> str:
        """The string of its first entry of a name."""
        entry = self.first(name)
        return default if entry is None else entry.string()

    def fail(self, what: str, hint: str = "") -> InputError:
        """The error `what` at the place of the block."""
        return self.source.fail(self.entry.start if self.entry else 0, what, hint)
