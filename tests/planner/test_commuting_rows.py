"""Every row of the table of commuting operators against an evaluation in float64 that knows nothing of the row.

Whatever the row lets pass through a node is applied to random data: up, the inputs are changed as the row wants, and
the output must be the old one times the multiplier or plus the shift; down, one input is changed, and the outputs must
be the old ones changed by what the row says. A row that is wrong for one form of its operator gives other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from bnfold.ir.graph import Array, Node, Value
from bnfold.planner.affine import Float64
from bnfold.planner.commuting import COMMUTING
from bnfold.planner.records import Refusal
from bnfold.planner.refusal import Refused

from .evaluate import read
from .nets import Net
from .reference import equal, results
from .rows import CASES, Case, case, cases

MULTIPLIER, SHIFT = 1.0, 0.0
Change = tuple[float, Array]
"""A kind, and the array to multiply with or to add."""


def changed(array: Array, change: Change) -> Array:
    kind, by = change
    result = array * by if kind else array + by
    assert result.shape == array.shape, f"an array of shape {by.shape} for a value of shape {array.shape}"
    return result


# --------------------------------------------------------------------------------------------------------- the walk


class Walk:
    """One node on random data: what its row lets pass, and whether the numbers agree."""

    def __init__(self, net: Net, node: Node) -> None:
        self.node, self.row = node, COMMUTING[node.op]
        self.rng = np.random.default_rng(list(node.op.encode()))
        env = {value: 2 * self.rng.standard_normal(value.shape) for value in net.graph.inputs}  # type: ignore[arg-type]
        self.inputs = [read(env, value) for value in node.inputs]
        self.outputs = results(node, self.inputs)
        self.passed = 0

    def changes(self, value: Value) -> Iterator[Change]:
        """Multipliers of one sign, with a 0 and of both signs, and shifts, along all choices of axes of a value."""
        shape = value.shape or ()
        for axes in product((False, True), repeat=len(shape)):
            extents = [extent if along else 1 for extent, along in zip(shape, axes, strict=True)]
            size = self.rng.uniform(0.5, 2, extents)
            dead, sign = size.copy(), self.rng.choice([-1.0, 1.0], extents)
            dead.reshape(-1)[-1] = 0
            for array in (size, dead, sign * size, -size):
                yield MULTIPLIER, array
            yield SHIFT, sign * size

    def up(self) -> None:
        for index in range(len(self.outputs) if self.row.pieces else 1):
            for change in self.changes(self.node.outputs[index]):
                wanted = [change if i == index else None for i in range(len(self.outputs))]
                for taken in self.takers(index, change):
                    self.judge("up", change, taken, wanted)

    def takers(self, index: int, change: Change) -> list[dict[int, Change]]:
        """What the row asks of the inputs, once for each of which one is enough; nothing where any of them refuses."""
        kind, array = change
        try:
            self.allow(change)
            parts = self.row.up(self.node, index, array, kind)
        except Refused:
            return []
        asked = {slot: part for slot, part in enumerate(parts) if part is not None and self.node.inputs[slot]}
        can = {slot: (kind, part) for slot, part in asked.items() if not self.refuses(slot, part, kind)}
        if self.fan(kind) == "one":
            return [{slot: part} for slot, part in can.items()]
        return [can] if can and len(can) == len(asked) else []

    def refuses(self, slot: int, part: Float64 | Refusal, kind: float) -> bool:
        """Whether that is a Refusal, or a change of a constant."""
        return isinstance(part, Refusal) or (self.node.constant(slot) is not None and bool((part != kind).any()))

    def down(self) -> None:
        for slot, value in enumerate(self.node.inputs):
            if value is None or value.tensor is not None:
                continue
            for kind, array in self.changes(value):
                alone = self.fan(kind) == "all" and len(self.node.inputs) > 1
                if alone or (slot and self.fan(kind) == "first"):
                    continue
                try:
                    self.allow((kind, array))
                    found = self.row.down(self.node, slot, array, kind)
                except Refused:
                    continue
                wanted = [(kind, part) for part in found] + [None] * (len(self.outputs) - len(found))
                self.judge("down", (kind, array), {slot: (kind, array)}, wanted)

    def fan(self, kind: float) -> str:
        return self.row.fan_multiplier if kind else self.row.fan_shift

    def allow(self, change: Change) -> None:
        (self.row.multiplier if change[0] else self.row.shift)(self.node, change[1])

    def judge(self, way: str, change: Change, taken: dict[int, Change], wanted: list[Change | None]) -> None:
        """`taken`: what happens to the inputs; `wanted`: to the outputs, None where the row is silent."""
        inputs = [changed(a, taken[i]) if i in taken else a for i, a in enumerate(self.inputs)]  # type: ignore[arg-type]
        for old, new, by in zip(self.outputs, results(self.node, inputs), wanted, strict=True):
            what = "multiplier" if change[0] else "shift"
            told = f"the row of {self.node.op} {way} with a {what} of shape {change[1].shape}: {self.node.attributes}"
            if by is not None or self.row.pieces:
                assert equal(new, old if by is None else changed(old, by)), told
        self.passed += bool(np.isfinite(self.outputs[0]).any())


def walk(op: str, given: list[Case] | None = None) -> None:
    """Try the row of `op` on its cases, or those given; fails where the numbers differ or nothing was tried."""
    passed = 0
    for item in given or cases(op):
        try:
            trial = Walk(*item.build(op))
        except Exception as error:
            if op in CASES:
                raise
            pytest.fail(f"no case for {op}: add the inputs of a node to CASES in tests/planner/rows.py ({error!r})")
        with np.errstate(all="ignore"):
            trial.up()
            trial.down()
        passed += trial.passed
    assert passed, f"nothing passes {op} in its cases, so that they show nothing of its row"


@pytest.mark.parametrize("op", COMMUTING)
def test_row(op: str) -> None:
    walk(op)


# ---------------------------------------------------------------------------------------------------------- mutants

Make = Callable[[], Any]


def like(op: str, **changes: Any) -> Make:
    """The row of another operator, or of that one with some of it changed."""
    return lambda: replace(COMMUTING[op], **changes)


def rule(op: str, name: str) -> Any:
    return getattr(COMMUTING[op], name)


STRANGERS: dict[str, Make] = {
    "Elu": like("Relu"),
    "Celu": like("LeakyRelu"),
    "Selu": like("Relu"),
    "Gelu": like("Relu"),
    "Mish": like("Relu"),
    "HardSwish": like("Relu"),
    "ThresholdedRelu": like("Relu"),
    "Sigmoid": like("Identity"),
    "Softsign": like("Identity"),
    "Tanh": like("Abs"),
    "Sign": like("Relu"),
    "Neg": like("Identity"),
    "Round": like("Identity"),
    "Sqrt": like("Relu"),
    "Log": like("Identity"),
    "Softmax": like("Identity"),
    "ReduceL2": like("ReduceMean"),
    "ReduceProd": like("ReduceSum"),
    "ReduceLogSumExp": like("ReduceMax"),
    "Trilu": like("Identity"),
}
"""Operators that have no row, each with one that is wrong: the cases that every operator gets tell."""


@pytest.mark.parametrize("op", STRANGERS)
def test_a_wrong_row_of_a_new_operator_is_caught(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMUTING, op, STRANGERS[op]())
    with pytest.raises(AssertionError, match=f"the row of {op} |an array of shape"):
        walk(op)


RIGHT: dict[str, Make] = {
    "ReduceL1": like("ReduceMax", shift=rule("Relu", "shift")),
    "Trilu": like("Relu", multiplier=rule("Identity", "multiplier")),
    "Neg": like("Relu", multiplier=rule("Identity", "multiplier")),
}


@pytest.mark.parametrize("op", RIGHT)
def test_a_right_row_of_a_new_operator_needs_no_case(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMUTING, op, RIGHT[op]())
    walk(op)


@pytest.mark.parametrize("op", ["CumSum", "Where", "OfNobody"])
def test_a_row_that_cannot_be_tried_asks_for_a_case(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMUTING, op, COMMUTING["Identity"])
    with pytest.raises(pytest.fail.Exception, match=f"no case for {op}: add the inputs"):
        walk(op)


def test_a_wrong_row_of_an_operator_of_several_inputs_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMUTING, "CumSum", COMMUTING["Identity"])
    with pytest.raises(AssertionError, match="the row of CumSum up with a"):
        walk("CumSum", [case((2, 3, 4), np.int64(1))])


def test_a_row_that_lets_nothing_pass_is_not_taken_for_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = rule("Relu", "shift")
    monkeypatch.setitem(COMMUTING, "Abs", replace(COMMUTING["Abs"], multiplier=nothing))
    with pytest.raises(AssertionError, match="nothing passes Abs"):
        walk("Abs")


def swapped(op: str) -> Make:
    """Up and down exchanged."""
    return lambda: replace(COMMUTING[op], up=rule(op, "down"), down=rule(op, "up"))


WRONG: dict[str, Make] = {
    "Relu of any sign": like("Relu", multiplier=rule("Identity", "multiplier")),
    "Relu of shifts": like("Relu", shift=rule("Identity", "shift")),
    "PRelu of any sign": like("PRelu", multiplier=rule("Identity", "multiplier")),
    "MaxPool of any sign": like("MaxPool", multiplier=rule("Identity", "multiplier")),
    "MaxPool of hollow windows": like("MaxPool", multiplier=rule("Relu", "multiplier")),
    "MaxPool along the image": like("MaxPool", up=rule("Identity", "up")),
    "ReduceMax of any sign": like("ReduceMax", multiplier=rule("Identity", "multiplier")),
    "ReduceSum without the count": like("ReduceSum", up=rule("ReduceMean", "up"), down=rule("ReduceMean", "down")),
    "ReduceMean with the count": like("ReduceMean", up=rule("ReduceSum", "up")),
    "AveragePool that counts its padding": like("AveragePool", shift=rule("Identity", "shift")),
    "Pad with zeros": like("Pad", shift=rule("Identity", "shift")),
    "Pad with something": like("Pad", multiplier=rule("Identity", "multiplier")),
    "Transpose inverted": like("Transpose", up=rule("Transpose", "down")),
    "Squeeze as Identity": like("Identity"),
    "Unsqueeze as Squeeze": like("Squeeze"),
    "Flatten as Identity": like("Identity"),
    "Slice of the start": like("Slice", down=rule("Identity", "down")),
    "Concat of one": like("Concat", fan_multiplier="one", fan_shift="one"),
    "Add of one": like("Add", fan_multiplier="one"),
    "Add of all": like("Add", fan_shift="all"),
    "Sum of each": like("Sum", fan_multiplier="each"),
    "Sub without its sign": like("Add"),
    "Mean as Sum": like("Sum"),
    "Max of one": like("Max", fan_shift="one"),
    "Mul as Add": like("Add"),
    "Mul of all": like("Mul", fan_multiplier="all"),
    "Div as Mul": like("Mul"),
    "Div of each": like("Div", up=rule("Mul", "up"), fan_multiplier="each"),
    "Upsample along the image": like("Upsample", up=rule("Identity", "up")),
    "Tile as Identity": like("Identity"),
    "DepthToSpace as SpaceToDepth": like("SpaceToDepth"),
    "SpaceToDepth inverted": swapped("SpaceToDepth"),
    "Gather as Identity": like("Identity"),
    "Dropout of its mask": like("Dropout", pieces=True),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op = name.split(maxsplit=1)[0]
    monkeypatch.setitem(COMMUTING, op, WRONG[name]())
    with pytest.raises((AssertionError, ArithmeticError, LookupError, TypeError, ValueError)):
        walk(op)
