"""Changes to a prototxt that leave every other byte alone.

Edits are collected against the parsed tree and applied in one pass. A removed block takes its lines with it, comments
on them and in it included; free-standing comments stay. What is inserted copies the style of its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .tree import Entry, Kind, Listing, Message


class Word(str):
    """A value that stands bare in the text: an enum name."""


Scalar = str | Word | bool | int | float
Block = Sequence[tuple[str, "Scalar | Block"]]
Value = Scalar | Block


@dataclass(frozen=True, slots=True)
class _Patch:
    """text[start:stop] becomes `text`."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True, slots=True)
class _Insertion:
    parent: Message
    name: str
    value: Value
    after: Entry | None


@dataclass
class Edits:
    """Changes to the text of `root`, none of them made before `render`."""

    root: Message
    _removed: set[Entry] = field(default_factory=set)
    _replaced: dict[Entry, Scalar] = field(default_factory=dict)
    _inserted: list[_Insertion] = field(default_factory=list)

    def remove(self, entry: Entry) -> None:
        """Take away an entry, a whole block or one element of a list."""
        self._removed.add(entry)

    def replace(self, entry: Entry, value: Scalar) -> None:
        """Give a scalar entry or an element of a list another value; a string keeps the quotes that it has."""
        self._replaced[entry] = value

    def insert(self, parent: Message, name: str, value: Value, *, after: Entry | None = None) -> None:
        """Add `name: value` to `parent`, behind `after` or at its end; (name, value) pairs make a block."""
        self._inserted.append(_Insertion(parent, name, value, after))

    def render(self) -> bytes:
        """The changed text; without changes the very bytes that were parsed."""
        text = self.root.source.text
        patches = [
            _Patch(entry.value, entry.end, _scalar(value, _quote(entry)))
            for entry, value in self._replaced.items()
            if not self._gone(entry)
        ]
        patches += [self._place(insertion) for insertion in self._inserted if not self._lost(insertion.parent)]
        patches += _cuts(text, self._removed_spans())
        pieces, at = [], 0
        for patch in sorted(patches, key=lambda patch: (patch.start, patch.stop)):
            pieces += [text[at : patch.start], patch.text]
            at = patch.stop
        return "".join([*pieces, text[at:]]).encode("utf-8", "surrogateescape")

    def _gone(self, entry: Entry) -> bool:
        return entry in self._removed or self._lost(entry.parent)

    def _lost(self, message: Message) -> bool:
        """Whether the block goes away, with one that holds it."""
        return message.entry is not None and self._gone(message.entry)

    def _removed_spans(self) -> Iterator[tuple[int, int]]:
        listings: dict[int, Listing] = {}
        for entry in self._removed:
            if self._lost(entry.parent):
                continue
            if entry.listing is None:
                yield entry.start, entry.stop
            else:
                listings[entry.listing.start] = entry.listing
        for listing in listings.values():
            yield from self._list_spans(listing)

    def _list_spans(self, listing: Listing) -> Iterator[tuple[int, int]]:
        """An element goes with the comma behind it; those behind the last that stays, with the comma before them."""
        elements = listing.elements
        kept = [index for index, element in enumerate(elements) if element not in self._removed]
        if not kept:
            yield listing.start, listing.stop
            return
        for index in range(kept[-1]):
            if elements[index] in self._removed:
                yield elements[index].start, elements[index + 1].start
        if kept[-1] + 1 < len(elements):
            yield elements[kept[-1]].end, elements[-1].end

    def _place(self, insertion: _Insertion) -> _Patch:
        """Where the new entry goes, and its text: behind the nearest entry that stays."""
        parent, entries = insertion.parent, insertion.parent.entries
        index = len(entries) - 1 if insertion.after is None else insertion.after.index
        while index >= 0 and entries[index] in self._removed:
            index -= 1
        anchor = entries[index] if index >= 0 else None
        style = _Style.near(parent, anchor)
        return _place_first(insertion, style) if anchor is None else _place_behind(anchor, insertion, style)


def _place_first(insertion: _Insertion, style: _Style) -> _Patch:
    parent, text = insertion.parent, insertion.parent.source.text
    if parent.entry is None:
        at = 1 if text.startswith("\ufeff") else 0
        return _Patch(at, at, style.entry(insertion.name, insertion.value, "") + style.newline)
    at = parent.open + 1
    if "\n" in text[parent.open : parent.close]:
        indent = _indent(text, parent.entry.start) + style.unit
        return _Patch(at, at, style.newline + indent + style.entry(insertion.name, insertion.value, indent))
    space = " " if at == parent.close else ""
    return _Patch(at, at, f" {style.entry(insertion.name, insertion.value, None)}{space}")


def _place_behind(anchor: Entry, insertion: _Insertion, style: _Style) -> _Patch:
    text = anchor.source.text
    start, stop = (anchor.start, anchor.stop) if anchor.listing is None else (anchor.listing.start, anchor.listing.stop)
    separator = text[stop - 1] if text[stop - 1] in ",;" else ""
    if _begins_line(text, start) and (end := _line_rest(text, stop)) is not None:
        indent = _indent(text, start)
        entry = indent + style.entry(insertion.name, insertion.value, indent) + separator
        line_ended = text[end - 1] == "\n"
        return _Patch(end, end, entry + style.newline if line_ended else style.newline + entry)
    if not separator and style.separator:
        return _Patch(stop, stop, f"{style.separator} {style.entry(insertion.name, insertion.value, None)}")
    return _Patch(stop, stop, f" {style.entry(insertion.name, insertion.value, None)}{separator}")


@dataclass(frozen=True, slots=True)
class _Style:
    """How the neighbours are written: between name and value, around blocks, and how deep a block indents."""

    colon: str = ": "
    opening: str = " {"
    closing: str = "}"
    unit: str = "  "
    quote: str = '"'
    newline: str = "\n"
    separator: str = ""
    one_line: bool = False

    @classmethod
    def near(cls, parent: Message, anchor: Entry | None) -> _Style:
        """The style at `anchor` in `parent`, else of the blocks around."""
        text = parent.source.text
        siblings = [entry for entry in (anchor, *parent.entries[:50]) if entry is not None]
        blocks = [entry.block for entry in siblings if entry.block is not None]
        inner = [entry for block in blocks[:5] for entry in block.entries[:20]]
        around = [entry for entry in (parent.entry,) if entry is not None]
        sample = next((entry for entry in (*siblings, *around) if entry.block and entry.listing is None), None)
        scalars = [e for e in (*siblings, *inner) if e.kind is not Kind.MESSAGE and e.listing is None]
        colon = next((text[e.start + len(e.name) : e.value] for e in scalars), ": ")
        opening = text[sample.start + len(sample.name) : sample.value + 1] if sample else " {"
        if opening.strip(": \t") not in ("{", "<"):
            opening = " {"
        return cls(
            colon=colon if colon.strip(" \t") == ":" else ": ",
            opening=opening,
            closing=">" if opening.endswith("<") else "}",
            unit=next((unit for block in blocks if (unit := _unit(block))), _unit(parent) or "  "),
            quote=next((_quote(entry) for entry in scalars if entry.kind is Kind.STRING), '"'),
            newline="\r\n" if "\r\n" in text else "\n",
            separator=next((text[e.stop - 1] for e in siblings if e.stop > e.end), "") if anchor else "",
            one_line=bool(sample and sample.block and sample in siblings and "\n" not in sample.text),
        )

    def entry(self, name: str, value: Value, indent: str | None) -> str:
        """`name: value`; a block goes over several lines unless `indent` is None or its neighbours take one."""
        if isinstance(value, str | bool | int | float):
            return f"{name}{self.colon}{_scalar(value, self.quote)}"
        if indent is None or self.one_line:
            inner = " ".join(self.entry(key, item, None) for key, item in value)
            return f"{name}{self.opening} {inner} {self.closing}"
        deeper = indent + self.unit
        lines = [deeper + self.entry(key, item, deeper) for key, item in value]
        return self.newline.join([name + self.opening, *lines, indent + self.closing])


def _unit(block: Message) -> str:
    """What the entries of a block are indented by, or nothing where that cannot be seen."""
    text = block.source.text
    if block.entry is None or not block.entries or not _begins_line(text, block.entries[0].start):
        return ""
    outer, inner = _indent(text, block.entry.start), _indent(text, block.entries[0].start)
    return inner.removeprefix(outer) if inner.startswith(outer) else ""


def _indent(text: str, at: int) -> str:
    """The white space that begins the line of `at`."""
    line = text.rfind("\n", 0, at) + 1
    match = re.compile(r"\ufeff?([ \t]*)").match(text, line)
    return match[1] if match else ""


def _quote(entry: Entry) -> str:
    return entry.source.text[entry.value] if entry.kind is Kind.STRING else '"'


def _scalar(value: Scalar, quote: str) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, str):
        return quote + "".join(_escape(char, quote) for char in value) + quote
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.9g}" if isinstance(value, float) else str(value)  # nine digits hold any float32


def _escape(char: str, quote: str) -> str:
    if char in ("\\", quote):
        return "\\" + char
    if char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff":
        return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))
    return char


def _cuts(text: str, spans: Iterator[tuple[int, int]]) -> Iterator[_Patch]:
    """Removals of the spans, neighbours on one line taken together."""
    ordered = sorted(spans)
    while ordered:
        start, stop = ordered.pop()
        while ordered and not text[ordered[-1][1] : start].strip(" \t"):
            start = ordered.pop()[0]
        yield _removal(text, start, stop)


def _removal(text: str, start: int, stop: int) -> _Patch:
    """The removal of text[start:stop]: with its whole lines where nothing else stands on them."""
    begins, end = _begins_line(text, start), _line_rest(text, stop)
    if begins and end is not None:
        return _Patch(start - len(_indent(text, start)), end, "")
    if end is not None:
        while text[start - 1] in " \t":
            start -= 1
        return _Patch(start, stop, "")
    while text[stop] in " \t":
        stop += 1
    glued = start > 0 and text[start - 1].isalnum() and text[stop].isalnum()  # `a:1b{}c:2` without b
    return _Patch(start, stop, " " if glued else "")


def _begins_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip(" \t\ufeff")


_LINE_REST = re.compile(r"[ \t]*+(?:#[^\n]*+)?+\r?(?:\n|\Z)")


def _line_rest(text: str, at: int) -> int | None:
    """Where the line of `at` ends, its line break included, if nothing but a comment follows; else None."""
    match = _LINE_REST.match(text, at)
    return match.end() if match else None
