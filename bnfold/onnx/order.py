"""The nodes of a graph in an order in which each stands behind those that it reads.

ONNX demands that of a file; onnxruntime does not, so that there are files whose nodes are stored in another order.
A node reads its inputs, and what the bodies in its attributes read of the graphs around them.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

from .messages import StoredGraph, StoredNode


class CycleError(ValueError):
    """`node` reads `name`, which cannot be made before it."""

    def __init__(self, node: StoredNode, name: str) -> None:
        super().__init__(f"{node.name!r} reads {name!r}")
        self.node = node
        self.name = name


class FreeNames:
    """Which names graphs define, and which they read of the graphs around them; each graph is looked at once."""

    def __init__(self) -> None:
        self._defined: dict[StoredGraph, frozenset[str]] = {}
        self._free: dict[StoredGraph, frozenset[str]] = {}

    def defined(self, graph: StoredGraph) -> frozenset[str]:
        """All names of values of the graph itself."""
        if graph not in self._defined:
            given = [*graph.names, *(name for node in graph.nodes for name in node.outputs)]
            given += [tensor.name for tensor in graph.initializers] + [sparse.name for sparse in graph.sparse]
            self._defined[graph] = frozenset([*given, *(value.name for value in graph.inputs)])
        return self._defined[graph]

    def free(self, graph: StoredGraph) -> frozenset[str]:
        """The names that a body needs from outside."""
        if graph not in self._free:
            read = {name for node in graph.nodes for name in self.read(node)}
            read.update(value.name for value in graph.outputs)
            self._free[graph] = frozenset(read - self.defined(graph) - {""})
        return self._free[graph]

    def read(self, node: StoredNode) -> Collection[str]:
        """The names that a node needs in its graph."""
        if not node.graphs:
            return node.inputs
        return dict.fromkeys([*node.inputs, *(name for body in node.graphs for name in sorted(self.free(body)))])


def arranged(graph: StoredGraph, names: FreeNames) -> Sequence[StoredNode]:
    """The nodes of `graph`, each as early as what it reads allows, else in the stored order: the graph's own list
    where that is sorted already. Raises CycleError.
    """
    makers = {name: index for index, node in reversed(list(enumerate(graph.nodes))) for name in node.outputs if name}
    needs = [{name: makers[name] for name in names.read(node) if name in makers} for node in graph.nodes]
    if all(maker < index for index, needed in enumerate(needs) for maker in needed.values()):
        return graph.nodes
    behind: list[list[int]] = [[] for _ in graph.nodes]
    waits = [len(set(needed.values())) for needed in needs]
    for index, needed in enumerate(needs):
        for maker in set(needed.values()):
            behind[maker].append(index)
    ready = [index for index, count in enumerate(waits) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(graph.nodes[index])
        for reader in behind[index]:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(graph.nodes):
        raise _cycle(graph, needs, waits)
    return order


def _cycle(graph: StoredGraph, needs: Sequence[dict[str, int]], waits: Sequence[int]) -> CycleError:
    """A node that needs itself: going from a node that waits to one that it waits for comes to one a second time."""
    at = next(index for index, count in enumerate(waits) if count)
    seen: set[int] = set()
    while at not in seen:
        seen.add(at)
        name, following = next((name, maker) for name, maker in needs[at].items() if waits[maker])
        last, at = at, following
    return CycleError(graph.nodes[last], name)


def misplaced(graph: StoredGraph, names: FreeNames) -> set[str]:
    """The names that a node reads before another one, which stands behind it, makes them."""
    found: set[str] = set()
    read: set[str] = set()
    for node in graph.nodes:
        read.update(names.read(node))
        found.update(read.intersection(node.outputs))
    return found - {""}
