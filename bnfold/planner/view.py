"""The graph as it stands while folds are being decided, for the questions that are asked of it."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.graph import Node, Tensor, Value, content_readers
from .affine import Absorbed
from .records import Chain, Linear, Refusal


class View:
    """The graph as it stands while folds are being decided: who reads what, what is linear, which chains are left."""

    def __init__(self, linears: dict[Node, Linear | Refusal], chains: Sequence[Chain], unread_outputs: bool) -> None:
        self.linears = linears
        self.unread_outputs = unread_outputs
        self.heads = {chain.nodes[0]: chain for chain in chains}
        self.tails = {chain.target: chain for chain in chains}
        self.aliases: dict[Value, Value] = {}
        self.taken: dict[Node, Absorbed] = {}
        self.composed: set[Chain] = set()
        self.names: dict[Value, str] = {}
        self.peaks: dict[object, float] = {}
        self._readers: dict[Value, list[Node]] = {}
        self._public: dict[Value, str] = {}

    def resolve(self, value: Value) -> Value:
        """The value that is read in the place of `value` now."""
        while value in self.aliases:
            value = self.aliases[value]
        return value

    def readers(self, value: Value) -> list[Node]:
        """Who reads the content of `value`, one entry a read."""
        if value not in self._readers:
            self._readers[value] = content_readers(value)
        return self._readers[value]

    def public(self, value: Value) -> str:
        """Why the content of `value` must stay as it is; "" where it need not."""
        return self._public.get(value, value.public)

    def remove(self, chain: Chain, renames: bool) -> None:
        """Take the chain out: whoever read its target reads its source, which `renames` gives the target's name."""
        source, target = self.resolve(chain.source), chain.target
        if renames and not self.public(source) and source.producer is not None:
            self.names[source] = self.names.get(target, target.name)
        rest = [node for node in self.readers(source) if node is not chain.nodes[0]]
        self._readers[source] = rest + self.readers(target)
        self._public[source] = self.public(source) or self.public(target)
        self.aliases[target] = source
        self.tails.pop(target)
        self.heads.pop(chain.nodes[0])

    def share(self, chain: Chain, first: Chain) -> None:
        """Take the chain out: whoever read its target reads that of `first`, which holds the same."""
        source = self.resolve(chain.source)
        self._readers[source] = [node for node in self.readers(source) if node is not chain.nodes[0]]
        self._readers[first.target] = self.readers(first.target) + self.readers(chain.target)
        self.aliases[chain.target] = first.target
        self.tails.pop(chain.target)
        self.heads.pop(chain.nodes[0])

    def peak(self, tensor: Tensor) -> float:
        """The largest magnitude in a tensor; one pass, remembered. NaN where the tensor holds one."""
        if tensor.key not in self.peaks:
            array = tensor.load()
            self.peaks[tensor.key] = float(max(array.max(initial=0), -array.min(initial=0)))
        return self.peaks[tensor.key]
