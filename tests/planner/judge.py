"""What must hold of every plan: judged by evaluating the net and what the plan makes of it."""

from __future__ import annotations

import numpy as np

from bnfold.ir.graph import Value
from bnfold.planner.records import Plan

from .evaluate import evaluate, evaluate_planned
from .nets import STYLE, Net, feeds


class Wrong(AssertionError):
    """The planned net is not the net."""


def judge(net: Net) -> Plan:
    """Plan `net`; raises Wrong unless all names and contents that must stay do, and nothing became dearer."""
    plan = net.plan()
    given = feeds(net)
    with np.errstate(all="ignore"):
        before, after = evaluate(net.graph, given), evaluate_planned(net.graph, plan, given)
    names = [plan.name(v) for v in after]
    if len(names) != len(set(names)):
        raise Wrong("two values have one name")
    for value in net.graph.inputs:
        if plan.name(value) != value.name:
            raise Wrong(f"the input {value.name} is renamed")
    for value in (v for v in before if v.public):
        if plan.name(plan.resolve(value)) != value.name:
            raise Wrong(f"{value.name} lost its name")
        same(value, before[value], after[plan.resolve(value)])
    if spent(plan) > sum(STYLE.cost(d.chain.nodes) for d in plan.decisions):
        raise Wrong("the net became dearer")
    return plan


def same(value: Value, left: np.ndarray, right: np.ndarray) -> None:
    if left.shape != right.shape:
        raise Wrong(f"{value.name} has changed its shape")
    scale = np.abs(left).max(initial=1e-6, where=np.isfinite(left))
    if not np.allclose(left, right, rtol=0, atol=1e-9 * scale, equal_nan=True):
        raise Wrong(f"{value.name} differs by {np.abs(left - right).max() / scale:.1e}")


def spent(plan: Plan) -> int:
    """What the affines cost that the plan leaves."""
    kept = sum(STYLE.cost(d.chain.nodes) for d in plan.decisions if d.untouched)
    return kept + sum(STYLE.price(d.leftover) for d in plan.decisions if not d.untouched and d.leftover is not None)
