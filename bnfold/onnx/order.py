"""The order of a graph's nodes: each behind those that it reads, as the operators' specification has it.

Runtimes accept other orders, and exporters write them. What bodies of control flow read of the graph around them counts
as read by the node that holds them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from .model import StoredGraph, StoredNode


class CycleError(ValueError):
    """`node` reads what it makes itself, or what is made of that."""

    def __init__(self, node: StoredNode) -> None:
        super().__init__("the nodes of a graph read each other in a circle")
        self.node = node


def in_order(nodes: Sequence[StoredNode]) -> Sequence[StoredNode]:
    """`nodes` itself where it is in order, else its stable topological order. Raises CycleError where there is none."""
    makers = {name: i for i, node in enumerate(nodes) for name in node.outputs if name}
    needs = [{makers[name] for name in reads(node) if name in makers} for node in nodes]
    if all(not need or max(need) < i for i, need in enumerate(needs)):
        return nodes
    waiting = [len(need) for need in needs]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, need in enumerate(needs):
        for j in need:
            readers[j].append(i)
    ready = [i for i, count in enumerate(waiting) if not count]  # in order, and so a heap
    found = []
    while ready:
        i = heapq.heappop(ready)
        found.append(nodes[i])
        for j in readers[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(ready, j)
    if len(found) < len(nodes):
        raise CycleError(next(node for node, count in zip(nodes, waiting, strict=True) if count))
    return found


def reads(node: StoredNode) -> Iterator[str]:
    """The names that a node reads, those in its bodies that are not made there included."""
    yield from node.inputs
    for body in node.graphs:
        yield from free(body)


def free(graph: StoredGraph) -> set[str]:
    """The names that the nodes and outputs of a body read and that are not its own."""
    own = {name for node in graph.nodes for name in node.outputs}
    own.update(value.name for value in graph.inputs)
    own.update(tensor.name for tensor in graph.initializers)
    own.update(tensor.name for tensor in graph.sparse)
    wanted = {name for node in graph.nodes for name in reads(node)}
    return wanted.union(value.name for value in graph.outputs) - own
