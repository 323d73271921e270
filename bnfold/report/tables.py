"""The data of a result as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .data import Data

WAYS = {
    "up": "into the layers before",
    "down": "into the layers behind",
    "both": "into the layers before and behind",
    "merge": "into fewer layers",
    "same": "removed, another layer does the same",
    "drop": "removed, it does nothing",
}


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
        yield from _verification_tables(data["verification"])
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


def _verification_tables(told: Data) -> Iterator[Table]:
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
