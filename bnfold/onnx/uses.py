"""Who still reads a constant while folds are being written: what may be changed in place, and what is left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..ir.graph import Node, Value
from .graphs import Scope
from .messages import StoredSparse, StoredTensor


class Uses:
    """Reads of constants over all scopes, minus those that folds have taken away."""

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self.home = {value: scope for scope in scopes for value in scope.definitions}
        self.outer = {value: outer for scope in scopes for value, outer in scope.outer.items()}
        self.gone: Counter[Value] = Counter()
        self.unread: set[Value] = set()
        """Constants whose last read was taken away, so that their definitions go."""
        self._scopes = {value: scope for scope in scopes for value in (*scope.captures, *scope.pinned)}

    def base(self, value: Value) -> Value:
        """The value of the outermost graph that `value` stands for."""
        while value in self.outer:
            value = self.outer[value]
        return value

    def definition(self, value: Value) -> StoredTensor | StoredSparse | Node | None:
        """What defines the constant `value`; None where nothing of the model does."""
        return self.home[value].definitions[value] if value in self.home else None

    def left(self, value: Value) -> int:
        """Reads of `value` that remain, those through inner graphs and by outputs included."""
        count = len(value.readers) - self.gone[value]
        scope = self._scopes.get(value)
        if scope is not None:
            count += scope.pinned[value] + sum(self.left(inner) for inner in scope.captures.get(value, ()))
        return count

    def drop(self, values: Iterable[Value | None]) -> None:
        """One read of each of `values` is no more."""
        for value in values:
            if value is not None and value.tensor is not None:
                self.gone[value] += 1

    def keep(self, value: Value) -> None:
        """Something reads `value` again."""
        self.gone[value] -= 1

    def sweep(self) -> None:
        """Find all constants that nothing reads any more, and those that only they read."""
        waiting = [self.base(value) for value in self.gone]
        while waiting:
            value = waiting.pop()
            if value in self.unread or value not in self.home or self.left(value) > 0:
                continue
            self.unread.add(value)
            made = self.definition(value)
            if isinstance(made, Node):
                self.drop(made.inputs)
                waiting += [self.base(source) for source in made.inputs if source is not None]
