"""The one maker of unique names; and names that ONNX can write for those, any bytes, of a Caffe net.

ONNX wants UTF-8, takes an empty name for an input that is not there, and runtimes pass names on as C strings.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..protobuf import encoded


class Names:
    """Gives out names, none twice and none of those that are `taken`; `first` is the first number put behind one."""

    def __init__(self, taken: Iterable[str] = (), first: int = 1) -> None:
        self._taken = set(taken)
        self._first = first
        self._counts: dict[str, int] = {}

    def unique(self, *wanted: str) -> str:
        """The first of these that is free, else the last with a number behind it."""
        name = next((name for name in wanted if name not in self._taken), wanted[-1])
        while name in self._taken:
            number = self._counts.get(wanted[-1], self._first)
            self._counts[wanted[-1]] = number + 1
            name = f"{wanted[-1]}_{number}"
        self._taken.add(name)
        return name


def readable(names: Iterable[str]) -> dict[str, str]:
    """For each name one that ONNX can write, no two alike: itself wherever that can be.

    In others a byte that is not UTF-8, or is 0, becomes xHH; the empty name becomes "unnamed".
    """
    found = dict.fromkeys(names)
    unique = Names(name for name in found if name and all(map(writable, name)))
    return {
        name: name if name and all(map(writable, name)) else unique.unique(_each(name, "x") or "unnamed")
        for name in found
    }


def spelled(name: str) -> str:
    """A name that ONNX can write, of no other `name` and the same in every net, though less readable: %HH for a byte.

    Thus the names of two nets that have different layers can be compared.
    """
    return _each(name.replace("%", "%25"), "%") or "%"


def writable(character: str) -> bool:
    """Whether a name in ONNX may have this character: UTF-8 has no lone surrogate, and a C string ends at a 0."""
    return character != "\0" and not "\ud800" <= character <= "\udfff"


def _each(name: str, mark: str) -> str:
    return "".join(c if writable(c) else f"{mark}{encoded(c)[0]:02x}" for c in name)
