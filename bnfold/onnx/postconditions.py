"""What must hold of the edits of a model before it is written, whatever the model: else the fault is bnfold's own.

Every edit has its place; each node reads what is made before it; no value and no node shares a name that was its own.
Only names are looked at, so it costs a pass over the nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ..errors import PostconditionError
from .data_files import literals_of
from .edit import Edit
from .graphs import Scope
from .messages import StoredNode
from .serialize import Line


def check_edits(edits: Mapping[Scope, Edit]) -> None:
    """Raises PostconditionError unless the graphs that are about to be written are whole and in order."""
    for scope, edit in edits.items():
        _check_places(scope, edit)
    graphs = _Graphs(edits)
    for scope in edits:
        if scope.parent is None:
            graphs.check(scope, ())
    before = Counter(node.name for scope in edits for node in scope.stored.nodes)
    for name, count in graphs.titles.items():
        if name and count > max(before[name], 1):
            raise PostconditionError(f"two nodes are called {name!r}")


def _check_places(scope: Scope, edit: Edit) -> None:
    """Every edit is one of something that the graph has."""
    nodes, stored = set(scope.stored.nodes), {*scope.stored.initializers, *scope.stored.sparse}
    literals = {tensor for node in edit.literals for tensor in literals_of(node)}
    for keys, places in (
        ({*edit.wires, *edit.instead, *edit.literals}, nodes),
        (edit.removed, stored),
        (edit.contents.keys(), stored | literals),
    ):
        if not keys <= places:
            raise PostconditionError(f"what is to be edited is not in the graph {scope.graph.name!r}")


class _Graphs:
    """Looks through graphs as they will be written, and counts the names of their nodes."""

    def __init__(self, edits: Mapping[Scope, Edit]) -> None:
        self.edits = edits
        self.titles: Counter[str] = Counter()
        self.inner: dict[StoredNode, list[Scope]] = {}
        for scope in edits:
            if scope.holder is not None:
                self.inner.setdefault(scope.holder, []).append(scope)

    def check(self, scope: Scope, around: tuple[set[str], ...]) -> None:
        """`around`: the names that are visible from outside, graph by graph."""
        known = self._given(scope)
        for node in scope.nodes:
            for body in self.inner.get(node, ()):
                self.check(body, (*around, known))
            for title, inputs, outputs in self._lines(scope, node):
                self.titles[title] += 1
                for name in inputs:
                    self._find(name, (*around, known), scope)
                for name in filter(None, outputs):
                    if name in known:
                        raise PostconditionError(f"two values are called {name!r}")
                    known.add(name)
        for name in (*(value.name for value in scope.stored.outputs), *scope.stored.results):
            self._find(name, (*around, known), scope)

    def _given(self, scope: Scope) -> set[str]:
        """The names of inputs and constants."""
        stored, edit = scope.stored, self.edits[scope]
        constants = [tensor.name for tensor in stored.initializers if tensor not in edit.removed]
        constants += [sparse.name for sparse in stored.sparse if sparse not in edit.removed]
        constants += edit.added
        if len(constants) > len(set(constants)):
            raise PostconditionError(f"two constants of the graph {scope.graph.name!r} have one name")
        lost = {tensor.name for tensor in edit.removed}
        inputs = {value.name for value in stored.inputs if value not in scope.frozen and value.name not in lost}
        return inputs.union(stored.names, constants)

    def _lines(self, scope: Scope, node: StoredNode) -> Iterator[Line]:
        """Name, inputs and outputs of what is written for a stored node."""
        edit = self.edits[scope]
        if node in edit.instead:
            yield from edit.instead[node].lines
            return
        wires = edit.wires.get(node)
        yield (
            Line(node.name, node.inputs, node.outputs)
            if wires is None
            else Line(node.name, wires.inputs, wires.outputs)
        )

    @staticmethod
    def _find(name: str, known: tuple[set[str], ...], scope: Scope) -> None:
        if name and not any(name in names for names in reversed(known)):
            raise PostconditionError(f"the graph {scope.graph.name!r} reads {name!r} before anything makes it")
