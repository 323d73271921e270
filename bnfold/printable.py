"""Text that comes from files, for people: what could steer a terminal or rearrange a line is shown, not sent."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""`text` with all that is not printable escaped: controls, line ends, marks of direction, bytes that are no UTF-8.

    An escape character becomes \x1b, U+202E \u202e, a byte 0x80 that was read with "surrogateescape" \x80.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
