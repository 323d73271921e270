"""Which affine goes where: the plan of all folds of one graph, made without touching the model.

Chains of affines are found first: maximal runs in which each node is the only reader of the one before. Then every
chain is asked about once in each of these passes, and leaves the graph as soon as one succeeds:

    0. same     another chain computes it from the same value already
    1. up       into the linear operators that make its source, in topological order
    2. down     into all linear operators that read its target, in reverse order
    3. both     its multiplier one way and its shift the other
    4. merge    into other chains that stay, through operators that commute: up, down, or both ways
    5. in part  its multiplier, or its shift, up or down, if what stays is cheaper
    6. in place its own nodes into fewer

Why this leaves few operations: a chain that leaves never makes another one's way harder, because it only takes nodes
out of the paths, and a linear operator can take any number of affines on both sides. So the order decides nothing in
1 and 2 but which way a chain goes that could go both (up), and the reverse order in 2 lets a chain follow the one
before it. Every removal saves the whole chain, every later pass at most a part of it, so the passes stand in the
order of what they save. It is not optimal where two affines could only leave together: one value read by two chains,
of which the second could go down if the first went up, keeps both.

Cost: each question visits at most `propagate.REACH` operators deep, and no pass is repeated.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from ..ir.graph import Graph, Node, Value, content_readers
from .affine import Affine, collapse, identity, nearest
from .foldable import AFFINE, LINEAR, affine, linear
from .propagate import MULTIPLIER, SHIFT, Attempt
from .records import Chain, Decision, Linear, Plan, Refusal, Stayed, Style
from .refusal import Refused, refuse
from .view import View

Route: TypeAlias = "list[tuple[str, Affine]]"
"""Which part of an affine goes which way, in order."""


def plan(graph: Graph, style: Style) -> Plan:
    """The plan for one graph. Raises nothing: what cannot be folded is a record with its reason.

    Constants of any magnitude are tried: what overflows or divides by 0 is found by looking at the result.
    """
    with np.errstate(all="ignore"):
        return _all_passes(graph, style)


def _all_passes(graph: Graph, style: Style) -> Plan:
    result = Plan()
    chains = _find_chains(graph, result, style.unranked)
    view = View(_find_linears(graph), chains, style.unread_outputs)
    decisions = {chain: Decision(chain) for chain in chains}
    gone = _twins(decisions, view, graph)
    left = [chain for chain in chains if chain not in gone]
    left = [chain for chain in left if not _drop(decisions[chain], view)]
    for merging in (False, True):
        for way in ("up", "down", "both"):
            order = reversed(left) if way == "down" else left
            stays = [chain for chain in order if not _moved(decisions[chain], view, style, way, merging)]
            left = stays[::-1] if way == "down" else stays
    for chain in left:
        if chain in view.composed:
            chain.affine = _rounded(chain.affine, chain)
            if _drop(decisions[chain], view):
                continue
        if not _in_part(decisions[chain], view, style):
            _in_place(decisions[chain], view, style)
    result.decisions = list(decisions.values())
    for chain in (decision.chain for decision in result.decisions if not decision.untouched):
        for node in chain.nodes[:-1]:  # who reads a value inside a chain reads its shape alone, which is its source's
            view.aliases[node.outputs[0]] = chain.source
    operators = ((node, view.linears[node]) for node in view.taken)
    result.weights = {node: (found, view.taken[node]) for node, found in operators if isinstance(found, Linear)}
    result.aliases, result.names = view.aliases, view.names
    return result


def _find_linears(graph: Graph) -> dict[Node, Linear | Refusal]:
    """Each node that could be a linear operator as one, or why it is none: several of one layer share their weights."""
    nodes = [node for node in graph.nodes if node.op in LINEAR and not node.fixed]
    count: dict[object, int] = {}
    for node in nodes:
        count[node.origin] = count.get(node.origin, 0) + 1

    def found(node: Node) -> Linear | Refusal:
        if held := graph.held.get(node.origin):
            return Refusal(held[0], f"{node.label} {held[1]}", node.name)
        if count[node.origin] > 1:
            return Refusal("tops", f"{node.name!r} has several tops that share its weights", node.name)
        return linear(node)

    return {node: found(node) for node in nodes}


def _find_chains(graph: Graph, result: Plan, unranked: bool = False) -> list[Chain]:
    """All chains in topological order; enters into `result` what only looks like an affine, with the reason."""
    tails: dict[Value, Chain] = {}
    candidates = (node for node in graph.nodes if not node.fixed)
    affines = {node: found for node in candidates if (found := affine(node, unranked)) is not None}
    refused = {node: found for node, found in affines.items() if isinstance(found, Refusal)}
    result.stayed += [Stayed(node.name, node.type, found) for node, found in refused.items()]
    torn = {node.origin for node in refused}  # the other nodes of a layer stay with the one that is no affine
    for node, found in affines.items():
        if not isinstance(found, Affine) or node.origin in torn:
            continue
        source = next(v for v in node.inputs if v is not None and v.tensor is None)
        before = tails.get(source)
        if before is not None and _extends(before, found):
            del tails[source]
            before.nodes.append(node)
            before.target, before.affine = node.outputs[0], before.affine.then(found)
            tails[node.outputs[0]] = before
        else:
            tails[node.outputs[0]] = Chain([node], source, node.outputs[0], found)
    for origin, note in graph.notes.items():
        kind, name = (str(getattr(origin, key)) for key in ("type", "name"))
        result.stayed.append(Stayed(name, kind, Refusal(*note)))
    order = {node: i for i, node in enumerate(graph.nodes) if node.op in AFFINE}
    return sorted(tails.values(), key=lambda chain: order[chain.nodes[0]])


def _extends(chain: Chain, later: Affine) -> bool:
    """Whether `later`, which reads the target of `chain`, is one affine with it, no larger than either."""
    if len(content_readers(chain.target)) != 1 or chain.target.public:
        return False
    return chain.affine.joins(later) and chain.affine.then(later).finite


def _twins(decisions: dict[Chain, Decision], view: View, graph: Graph) -> set[Chain]:
    """The chains that go because another one computes the same.

    Of several the one that ends first stays: who reads another stands behind that one's end, and so behind this one.
    """
    ends = {node: i for i, node in enumerate(graph.nodes)}
    firsts: dict[object, Chain] = {}
    order = sorted(decisions, key=lambda chain: ends[chain.nodes[-1]])
    return {chain for chain in order if _computed_already(decisions[chain], view, firsts)}


def _computed_already(decision: Decision, view: View, firsts: dict[object, Chain]) -> bool:
    """A chain goes that does to a value what another one does; not where a name in the interface would go with it."""
    chain = decision.chain
    if view.public(chain.target):
        return False
    arrays = chain.affine.a, chain.affine.b
    key = view.resolve(chain.source), *((part.shape, part.tobytes()) for part in arrays)
    first = firsts.setdefault(key, chain)
    if first is chain or (view.unread_outputs and view.public(first.target)):
        return False
    decision.way, decision.above = "same", [first.nodes[-1]]
    view.share(chain, first)
    return True


def _drop(decision: Decision, view: View) -> bool:
    """An affine that changes nothing goes, unless it stands between two names that must both stay."""
    if decision.chain.affine.acts or _bridges(decision.chain, view):
        return False
    decision.way = "drop"
    view.remove(decision.chain, renames=True)
    return True


def _bridges(chain: Chain, view: View) -> bool:
    """Whether a chain stands between two names that must both stay."""
    source = view.resolve(chain.source)
    read = view.unread_outputs and len(view.readers(source)) > 1
    return bool(view.public(chain.target) and (view.public(source) or source.producer is None or read))


def _moved(decision: Decision, view: View, style: Style, way: str, merging: bool) -> bool:
    """Move the whole chain up, down or both ways, while `merging` into others that stay, too, where that pays.

    One that does nothing, and could not be dropped, cannot.
    """
    chain = decision.chain
    for route in _routes(chain.affine, way):
        found = _attempt(view, chain, route, merging)
        if isinstance(found, Refusal):
            decision.reasons += [found] * (not merging and way != "both")
        elif not merging or _pays(found, chain, view, style):
            _settle(decision, found, way)
            view.remove(chain, renames=way == "up")
            decision.reasons = []
            return True
    return False


def _routes(affine: Affine, way: str) -> list[Route]:
    """What goes where when all of an affine goes `way`; both ways go the multiplier and the shift, one each."""
    if way != "both":
        return [[(way, affine)]]
    return [[(way, moving), ("down" if way == "up" else "up", rest)] for way, moving, rest in _parts(affine)[:2]]


def _attempt(view: View, chain: Chain, route: Route, merging: bool = False) -> Attempt | Refusal:
    """What every pass does: send parts of a chain along `route`. Nothing is changed before it is settled."""
    attempt = Attempt(view, chain, merging)
    try:
        for way, step in route:
            _send(attempt, chain, way, step)
    except Refused as answer:
        return answer.refusal
    return attempt


def _pays(attempt: Attempt, chain: Chain, view: View, style: Style) -> bool:
    """Whether the chains that take another one grow by less than that costs, and the file does not grow."""
    grown = sum(style.price(new) - _cost(old, view, style) for old, new in attempt.chains.items())
    possible = all(_fits(new, old) and (new.acts or not _bridges(old, view)) for old, new in attempt.chains.items())
    larger = possible and style.growth({**attempt.chains, chain: None}) > 0
    return possible and not larger and grown < _cost(chain, view, style)


def _settle(decision: Decision, attempt: Attempt, way: str) -> None:
    attempt.commit()
    decision.way, decision.merged = way, bool(attempt.chains)
    decision.above, decision.below = list(dict.fromkeys(attempt.above)), list(dict.fromkeys(attempt.below))
    decision.through = list(dict.fromkeys(attempt.through))


def _send(attempt: Attempt, chain: Chain, way: str, step: Affine) -> None:
    """Ask for both parts of `step`: the multiplier is nearer to the source, the shift nearer to the target."""
    if not step.acts:
        raise refuse("output", "it does nothing, but stands between two names that must both stay")
    if way == "up":
        if step.scales:
            attempt.up(chain.source, step.a, MULTIPLIER)
        if step.shifts:
            attempt.up(chain.source, step.b, SHIFT)
    else:
        if step.shifts:
            attempt.down(chain.target, step.b, SHIFT)
        if step.scales:
            attempt.down(chain.target, step.a, MULTIPLIER)


def _parts(affine: Affine) -> list[tuple[str, Affine, Affine]]:
    """The ways to move a part: (way, what moves, what stays). a·x + b = a·(x + b/a)."""
    nothing = identity(affine.rank)
    scale, shift = Affine(affine.a, nothing.b), Affine(nothing.a, affine.b)
    ahead = Affine(nothing.a, affine.b / affine.a)
    ways = [("up", scale, shift), ("down", scale, ahead), ("up", ahead, scale), ("down", shift, scale)]
    return ways if affine.a.all() else [ways[0], ways[3]]


def _in_part(decision: Decision, view: View, style: Style) -> bool:
    """Move the multiplier or the shift alone if what stays is cheaper than the chain."""
    chain = decision.chain
    if not (chain.affine.scales and chain.affine.shifts):
        return False
    for way, moving, rest in _parts(chain.affine):
        leftover = _rounded(rest, chain)
        if not _fits(leftover, chain) or style.price(leftover) >= _cost(chain, view, style):
            continue
        found = _attempt(view, chain, [(way, moving)])
        if isinstance(found, Refusal):
            continue
        _settle(decision, found, way)
        decision.leftover = leftover
        return True
    return False


def _in_place(decision: Decision, view: View, style: Style) -> None:
    """Leave the chain, written as fewer or cheaper operations where that is possible."""
    chain = decision.chain
    leftover = _rounded(chain.affine, chain)
    decision.leftover = leftover
    cheaper = leftover.acts and _fits(leftover, chain) and style.price(leftover) < style.cost(chain.nodes)
    if (cheaper and style.growth({chain: leftover}) <= 0) or chain in view.composed:
        decision.way = "merge"
    else:
        decision.untouched = True


def _cost(chain: Chain, view: View, style: Style) -> int:
    """Of a chain as it would be left: its nodes, or what must be written anew because it took another chain."""
    return style.price(chain.affine) if chain in view.composed else style.cost(chain.nodes)


def _rounded(affine: Affine, chain: Chain) -> Affine:
    """As it will be stored in the place of the chain: in the value's dtype, and no larger than it varies."""
    dtype = chain.source.dtype
    a, b = (part if dtype is None else nearest(part, dtype).astype(np.float64) for part in (affine.a, affine.b))
    return Affine(collapse(a), collapse(b))


def _fits(leftover: Affine, chain: Chain) -> bool:
    """Whether the constants of a leftover are finite in the dtype of the value (float32 where that is not known)."""
    dtype = chain.source.dtype
    limit = float(np.finfo(dtype).max) if dtype is not None and dtype.kind == "f" else 3.3895e38
    return bool((np.abs(leftover.a) <= limit).all() and (np.abs(leftover.b) <= limit).all())
