"""A result for people and for programs: records become plain data, data becomes tables.

`as_data` is the JSON form, versioned by `records.SCHEMA`; every other form is made from it, so that all say the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from . import __version__
from .records import SCHEMA, Decision, Refusal

if TYPE_CHECKING:
    from .graph import Node
    from .pipeline import Result
    from .verify import Compared, Verification

Data = dict[str, Any]

WAYS = {
    "up": "into the layers before",
    "down": "into the layers behind",
    "both": "into the layers before and behind",
    "merge": "into fewer layers",
    "same": "removed, another layer does the same",
    "drop": "removed, it does nothing",
}


# --------------------------------------------------------------------------------------------------------------- data


def as_data(result: Result) -> Data:
    """The JSON form. Keys are never renamed within one `schema`; figures that are not finite are null."""
    return {
        "schema": SCHEMA,
        "bnfold": __version__,
        "sources": [str(path) for path in result.sources],
        "folds": [{"graph": g} | _fold(d) for g, plan in result.plans for d in plan.decisions if not d.untouched],
        "opaque": [asdict(layer) for layer in result.opaque],
        "notices": [asdict(notice) for notice in result.notices],
        "kept": [{"graph": g} | _kept(d) for g, plan in result.plans for d in plan.decisions if d.untouched]
        + [
            {"graph": g, "layers": [{"name": s.node, "type": s.type}], "reasons": [_reason(s.reason)]}
            for g, plan in result.plans
            for s in plan.stayed
        ],
        "before": _counts(result.before),
        "after": _counts(result.after) if result.after else None,
        "verification": _verification(result.verification) if result.verification else None,
        "files": [{"path": str(path), "size": size} for path, size in result.files.items()],
        "bytes": {"read": result.read, "written": result.written} if result.files else None,
    }


def _fold(decision: Decision) -> Data:
    residue, into = decision.residue, _layers(decision.into)
    left = [] if residue is None else ["multiplier"] * residue.scales + ["shift"] * residue.shifts
    return {
        "layers": _layers(decision.chain.nodes),
        "way": decision.way,
        "into": into,
        "merged": decision.merged,
        "through": [layer for layer in _layers(decision.through) if layer not in into],
        "left": left,
        "reasons": [_reason(refusal) for refusal in decision.reasons],
    }


def _kept(decision: Decision) -> Data:
    return {"layers": _layers(decision.chain.nodes), "reasons": [_reason(refusal) for refusal in decision.reasons]}


def _layers(nodes: Iterable[Node]) -> list[Data]:
    """Each layer once: one layer may lower to several nodes."""
    return [{"name": n, "type": t} for n, t in dict.fromkeys((node.name, node.type) for node in nodes)]


def _reason(refusal: Refusal) -> Data:
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


# ------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, and under it rows of cells; without `columns` the rows stand as lines of text."""

    heading: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)


def as_tables(data: Data, *, verbose: bool = False) -> list[Table]:
    """What people want to see of `as_data`, in the order in which they ask; each opaque layer if `verbose`."""
    return [table for table in _tables(data, verbose) if table.heading or table.rows]


def _tables(data: Data, verbose: bool) -> Iterator[Table]:
    yield from _notices(data)
    folds = [fold for fold in data["folds"] if not fold["left"]]
    reduced = [fold for fold in data["folds"] if fold["left"]]
    kept = data["kept"]
    if folds:
        rows = [[_names(f["layers"]), WAYS[f["way"]], _names(f["into"]), _names(f["through"])] for f in folds]
        yield Table(f"{len(folds)} folded", ("layers", "how", "into", "passing"), rows)
    elif not reduced:
        yield Table("Nothing to fold" if not kept else "Nothing folded")
    if reduced:
        rows = [[_names(f["layers"]), _outcome(f), *why] for f in reduced for why in _why(f)]
        yield Table(f"{len(reduced)} made cheaper", ("layers", "how", "reason", "why not folded"), rows)
    if kept:
        rows = [[_names(k["layers"]), *why] for k in kept for why in _why(k)]
        yield Table(f"{len(kept)} kept", ("layers", "reason", "why"), rows)
    yield from _not_understood(data, verbose)
    if data["after"]:
        yield Table("Before and after", ("", "before", "after"), list(_differences(data["before"], data["after"])))
    if data["verification"]:
        yield from _verified(data["verification"])
    if data["files"]:
        rows = [[f"{f['path']}  {_size(f['size'])}"] for f in data["files"]]
        more = data["bytes"]["written"] - data["bytes"]["read"]
        rows += [[f"{more:,} bytes more than before: weights that were shared or computed, or new biases"]] * (more > 0)
        yield Table("Written", (), rows)


def as_notices(data: Data) -> list[Table]:
    """What people have to know of a model that was only exported."""
    return [*_notices(data), *_not_understood(data, verbose=True)]


def _notices(data: Data) -> Iterator[Table]:
    if data["notices"]:
        rows = [[n["where"], f"{n['sentence']} ({n['hint']})" if n["hint"] else n["sentence"]] for n in data["notices"]]
        yield Table("To be known of the model", ("where", "what"), rows)


def _not_understood(data: Data, verbose: bool) -> Iterator[Table]:
    if data["opaque"]:
        rows = list((_opaque if verbose else _opaque_groups)(data["opaque"]))
        columns = ("layers", "type", "why", "where") if verbose else ("layers", "type", "why")
        yield Table(f"{len(data['opaque'])} not understood (opaque)", columns, rows)


def _opaque(layers: Sequence[Data]) -> Iterator[list[str]]:
    for layer in layers:
        yield [layer["layer"], layer["type"], layer["reason"], layer["where"]]


def _opaque_groups(layers: Sequence[Data]) -> Iterator[list[str]]:
    """One row for each type and reason: how many layers it is, and the names of two."""
    groups: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        groups.setdefault((layer["type"], layer["reason"]), []).append(layer["layer"])
    for (kind, reason), names in groups.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        yield [", ".join(names[:2]) + more, kind, reason]


def _names(layers: Iterable[Data]) -> str:
    return ", ".join(f"{layer['name']} ({layer['type']})" for layer in layers)


def _outcome(fold: Data) -> str:
    """What became of a chain that did not go as a whole."""
    left = " and ".join(fold["left"])
    if fold["way"] == "merge":
        return f"one layer with {left}"
    return f"{left} stays, the rest into {_names(fold['into'])}"


def _why(record: Data) -> list[list[str]]:
    """Code and sentence of each reason."""
    told = [[r["code"], f"{r['sentence']} ({r['hint']})" if r["hint"] else r["sentence"]] for r in record["reasons"]]
    return told or [["", ""]]


def _differences(before: Data, after: Data) -> Iterator[list[str]]:
    yield ["layers", f"{before['layers']:,}", f"{after['layers']:,}"]
    for kind in sorted({*before["types"], *after["types"]}):
        one, other = before["types"].get(kind, 0), after["types"].get(kind, 0)
        if one != other:
            yield [f"  {kind}", f"{one:,}", f"{other:,}"]
    yield ["parameters", f"{before['parameters']:,}", f"{after['parameters']:,}"]


def _verified(told: Data) -> Iterator[Table]:
    if told["identical"]:
        yield Table("Verified: identical, byte by byte")
        return
    word = "Verified" if told["proven"] else "Not proven, and not disproved" if told["passed"] else "NOT EQUAL"
    if told["passed"] and told["uncovered"] and any(c["proven"] for c in told["outputs"] + told["inner"]):
        word = "Verified in part"
    shown = [c for c in told["outputs"] + told["inner"] if not c["layers"] or not c["proven"]]
    rows = [[c["name"], _figure(c["error"]), _figure(c["limit"]), _said(c)] for c in shown]
    ran = f" by {told['engine']}, {told['draws']} random inputs; figures relative to each maximum"
    yield Table(word + (ran if told["engine"] else ""), ("value", "difference", "rounding explains", ""), rows)
    inner = sum(c["proven"] for c in told["inner"])
    remarks = [f"compared inside the net too: {inner} values"] if inner else []
    if told["problem"]:
        remarks.append(f"the folded net does not run: {told['problem']}")
    if told["note"]:
        remarks.append(f"not by onnxruntime: {told['note']}")
    if told["left_out"]:
        remarks.append(
            f"not converted, so not run: {', '.join(told['left_out'])}; folds not covered: {told['uncovered']}"
        )
    yield Table("", (), [[remark] for remark in remarks])


def _said(compared: Data) -> str:
    return "; ".join(filter(None, (compared["problem"] or compared["layers"], compared["remark"])))


def _figure(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1e}"


def _size(size: int) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000 or unit == "MB":
            break
        size //= 1000
    return f"{size:,} {unit}"
