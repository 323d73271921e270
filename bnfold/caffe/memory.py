"""Which values lie in one memory, and which layers read there what a layer in place has overwritten.

Split, Flatten, Reshape, and Concat and Slice with one bottom and one top show the memory of their bottom, and a layer
in place writes into its own. Who reads such memory later reads, in real Caffe, what stands there by then: no value of
single assignment. So such memory is left as it is: no fold changes, moves or renames what lies in it or next to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import InputError
from ..graph import Value
from ..roles import AFFINE
from .net import Layer

if TYPE_CHECKING:
    from .lowering import LoweredLayer


class Memory:
    """The memory of all values so far. `clobbered` are the reads of overwritten memory, as what an export raises."""

    def __init__(self) -> None:
        self.clobbered: list[InputError] = []
        self._values: dict[Value, list[Value]] = {}
        self._writers: dict[Value, Layer] = {}
        self._lost: dict[Value, Layer] = {}

    def add(self, value: Value) -> None:
        """Enter a value in memory of its own."""
        self._values[value] = [value]

    def share(self, old: Value, new: Value) -> None:
        """Enter `new`, which lies in the memory of `old`."""
        self._values[new] = self._values[old]
        self._values[new].append(new)

    def overwrite(self, layer: Layer, old: Value, new: Value) -> None:
        """Enter `new`, which `layer` writes over `old` and all that lies in its memory."""
        self._writers.update(dict.fromkeys(self._values[old], layer))
        self.share(old, new)

    def lost(self, value: Value) -> bool:
        """Whether other content stands in its memory by now."""
        return value in self._writers

    def clobber(self, value: Value, what: str, where: str) -> str:
        """Enter that `what` happens to a value that is lost; returns the sentence that tells why it matters."""
        writer = self._writers[value]
        told = f"{what}, but layer {writer.name}, in place on blob {writer.tops[0]!r}, overwrites their common memory"
        self.clobbered.append(InputError(told, where=where, hint=f"give layer {writer.name} a top of its own"))
        self._lost[value] = writer
        return told

    def freeze(self, layers: Iterable[LoweredLayer]) -> set[Value]:
        """The values in memory of which a read was clobbered; these, and the affines next to them, become public."""
        writers = {value: writer for lost, writer in self._lost.items() for value in self._values[lost]}
        for value, writer in writers.items():
            _mark(value, "in", writer)
        for item in layers:
            around = [*item.bottoms, *item.tops]
            found = next((writers[value] for value in around if value in writers), None)
            if found is not None and any(node.op in AFFINE and not node.fixed for node in item.nodes):
                for value in around:
                    _mark(value, "next to", found)
        return set(writers)


def _mark(value: Value, place: str, writer: Layer) -> None:
    if not value.public:
        value.public = f"{place} memory that layer {writer.name!r} overwrites in place as blob {writer.tops[0]!r}"
        value.note = "memory", ""
