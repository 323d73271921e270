"""Which values lie in one memory, and which layers read there what a layer in place has overwritten.

Split, Flatten, Reshape, and Concat and Slice with one bottom and one top show the memory of their bottom, and a layer
in place writes into its own. Who reads such memory later reads, in real Caffe, what stands there by then: no value of
single assignment. So such memory is left as it is: no fold changes, moves or renames what lies in it or next to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import InputError
from ..ir.graph import Value
from ..planner.foldable import AFFINE
from .lowered import LoweredLayer
from .net import Layer


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

    def writer(self, value: Value) -> Layer | None:
        """Who has overwritten it, so that other content stands in its memory by now."""
        return self._writers.get(value)

    def read(self, layer: Layer, bottoms: Sequence[Value]) -> str:
        """Enter which of its bottoms are overwritten when `layer` reads them; returns what is to be said of it, or "".

        One that works in place overwrites its other bottoms itself if they lie in the memory of that one.
        """
        over = [old for old, name, top in zip(bottoms, layer.bottoms, layer.tops, strict=False) if name == top]
        told = []
        for name, value in zip(layer.bottoms, bottoms, strict=True):
            itself = any(old is not value and self._values[old] is self._values[value] for old in over)
            if writer := self.writer(value) or (layer if itself else None):
                told.append(self.clobber(value, f"layer {layer.name} reads blob {name!r}", layer.where, writer))
        return "; ".join(told)

    def clobber(self, value: Value, what: str, where: str, writer: Layer) -> str:
        """Enter that `what` happens to a value that `writer` overwrites; returns the sentence that tells so."""
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
