"""A result as plain data: the JSON form, versioned by `records.SCHEMA`.

Every other form is made from it, so that all say the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..planner.records import SCHEMA, Decision, Refusal

if TYPE_CHECKING:
    from ..ir.graph import Node
    from ..pipeline import Result
    from ..verification.outcome import Compared, Verification

Data = dict[str, Any]


def as_data(result: Result) -> Data:
    """The JSON form. Keys are never renamed within one `schema`; figures that are not finite are null."""
    return {
        "schema": SCHEMA,
        "bnfold": __version__,
        "sources": [str(path) for path in result.sources],
        "folds": [{"graph": g} | _fold_data(d) for g, plan in result.plans for d in plan.decisions if not d.untouched],
        "opaque": [asdict(layer) for layer in result.opaque],
        "notices": [asdict(notice) for notice in result.notices],
        "kept": [{"graph": g} | _kept(d) for g, plan in result.plans for d in plan.decisions if d.untouched]
        + [
            {"graph": g, "layers": [{"name": s.node, "type": s.type}], "reasons": [_reason_data(s.reason)]}
            for g, plan in result.plans
            for s in plan.stayed
        ],
        "before": _counts(result.before),
        "after": _counts(result.after) if result.after else None,
        "verification": _verification(result.verification) if result.verification else None,
        "files": [{"path": str(path), "size": size} for path, size in result.files.items()],
        "bytes": {"read": result.read, "written": result.written} if result.files else None,
    }


def _fold_data(decision: Decision) -> Data:
    leftover, into = decision.leftover, _layers(decision.into)
    left = [] if leftover is None else ["multiplier"] * leftover.scales + ["shift"] * leftover.shifts
    return {
        "layers": _layers(decision.chain.nodes),
        "way": decision.way,
        "into": into,
        "merged": decision.merged,
        "through": [layer for layer in _layers(decision.through) if layer not in into],
        "left": left,
        "reasons": [_reason_data(refusal) for refusal in decision.reasons],
    }


def _kept(decision: Decision) -> Data:
    return {"layers": _layers(decision.chain.nodes), "reasons": [_reason_data(refusal) for refusal in decision.reasons]}


def _layers(nodes: Iterable[Node]) -> list[Data]:
    """Each layer once: one layer may lower to several nodes."""
    return [{"name": n, "type": t} for n, t in dict.fromkeys((node.name, node.type) for node in nodes)]


def _reason_data(refusal: Refusal) -> Data:
    return {"code": refusal.code, "sentence": refusal.sentence, "at": refusal.at, "hint": refusal.advice}


def _counts(counts: Mapping[str, int]) -> Data:
    types = {kind: count for kind, count in sorted(counts.items()) if kind != "parameters"}
    return {"layers": sum(types.values()), "parameters": counts.get("parameters", 0), "types": types}


def _verification(verification: Verification) -> Data:
    first = verification.first_wrong
    return {
        "passed": verification.passed,
        "proven": verification.proven,
        "identical": verification.identical,
        "engine": verification.engine,
        "note": verification.note,
        "draws": verification.draws,
        "outputs": [_compared(c) for c in verification.outputs],
        "inner": [_compared(c) for c in verification.inner],
        "first_wrong": first.name if first else None,
        "left_out": list(verification.left_out),
        "uncovered": verification.uncovered,
        "problem": verification.problem,
    }


def _compared(compared: Compared) -> Data:
    return {
        "name": compared.name,
        "layers": compared.layers,
        "passed": compared.passed,
        "proven": compared.proven,
        "compared": compared.compared,
        "not_finite": compared.skipped,
        "remark": compared.remark,
        "error": _finite(compared.error) if compared.compared else None,
        "noise": _finite(compared.noise),
        "limit": _finite(compared.limit) if compared.compared else None,
        "problem": compared.problem,
    }


def _finite(figure: float | None) -> float | None:
    return figure if figure is not None and math.isfinite(figure) else None
