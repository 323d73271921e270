"""Which values inside the net hold the same numbers before and after a plan, so that they can be compared.

A fold changes what flows between the layers that it moves through; only behind it all is as before. Comparing there,
in order, tells the layer at which a wrong fold begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..document import Document
from ..ir.graph import Graph, Node, Value
from ..planner.records import Decision, Plan


@dataclass(frozen=True, slots=True)
class Probe:
    """One value under its name in the original and in the folded net, and in words what was folded there."""

    original: str
    folded: str
    layers: str


def probes(document: Document, plans: Mapping[Graph, Plan]) -> list[Probe]:
    """At most one probe for each fold and each operator that took one, from the inputs of the net to its outputs."""
    found = []
    for graph, plan in plans.items():
        order = {node: i for i, node in enumerate(graph.nodes)}
        for value, layers in sorted(_unchanged(plan), key=lambda pair: _place(pair[0], order)):
            original, folded = document.probe(value), document.folded_probe(plan, value)
            if original and folded:
                found.append(Probe(original, folded, layers))
    return found


def _place(value: Value, order: Mapping[Node, int]) -> int:
    return -1 if value.producer is None else order[value.producer]


def _unchanged(plan: Plan) -> Iterable[tuple[Value, str]]:
    """The values behind each fold whose content is as before, with the fold in words."""
    done = [d for d in plan.decisions if not d.untouched]
    between = {plan.resolve(value) for decision in done for value in _between(decision, plan)}
    behind: dict[
        Value, tuple[Value, str]
    ] = {}  # where two folds end at one value, the later one's target is what it holds
    for decision in done:
        for value in _ends(decision):
            if plan.resolve(value) not in between:
                behind[plan.resolve(value)] = value, _in_words(decision)  # of several folds here the last one counts
    return behind.values()


def _between(decision: Decision, plan: Plan) -> Iterator[Value]:
    """The values that carry other numbers than before because the affine, or a part of it, passes them."""
    if decision.way == "same":
        return
    source, target = decision.chain.source, decision.chain.target
    changed = [value for node in (*decision.above, *decision.through) for value in node.outputs]
    if decision.way == "up" and decision.leftover is None:
        yield from (value for value in changed if plan.resolve(value) is not plan.resolve(source))
        return
    yield from changed
    if decision.above:
        yield source
    if decision.below and decision.leftover is not None:
        yield target


def _ends(decision: Decision) -> list[Value]:
    """Where the net is as before, unless another fold passes there."""
    if not decision.below and decision.way != "down":  # down, where nobody reads more than the shape, ends nowhere
        return [decision.chain.target]
    return [] if decision.merged else [node.outputs[0] for node in decision.below]


def _in_words(decision: Decision) -> str:
    """`bn1, scale1 → conv1`."""
    nodes = ", ".join(dict.fromkeys(node.name for node in decision.chain.nodes))
    into = ", ".join(dict.fromkeys(node.name for node in decision.into))
    return f"{nodes} → {into}" if into else nodes
