"""The one maker of unique names, and of names that are text where a file's names are bytes."""

from __future__ import annotations

from collections.abc import Iterable


def legible(name: str) -> str:
    """`name` where it is UTF-8 without NUL, which ONNX and C strings ask for; else each other byte as %HH.

    Bytes that are not UTF-8 are lone surrogates in `name`.
    """
    return "".join(f"%{ord(c) & 0xFF:02X}" if c == "\0" or "\udc80" <= c <= "\udcff" else c for c in name)


class Names:
    """Gives out names, none of them twice and none of those that are `taken`."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._counts: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """`wanted` as text, or with a number behind it."""
        name = wanted = legible(wanted)
        while name in self._taken:
            self._counts[wanted] = self._counts.get(wanted, 0) + 1
            name = f"{wanted}_{self._counts[wanted]}"
        self._taken.add(name)
        return name
