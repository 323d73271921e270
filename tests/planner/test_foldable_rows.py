"""Every row of the tables of linear operators and of affines, in every form, against an evaluation in float64.

A linear operator stands between two affines, which must go into its weights; an affine is what its row says it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from bnfold.ir.graph import Node, Value
from bnfold.planner.affine import Affine, Layout
from bnfold.planner.foldable import AFFINE, LINEAR
from bnfold.planner.records import Decision

from .directed import waves
from .judge import judge
from .nets import Net, ramp
from .reference import equal, results
from .rows import case, default

# ---------------------------------------------------------------------------------------------------------- linear


class Form(NamedTuple):
    """A linear node on data of a shape; its channels lie along `ins` of the data and along `outs` of the result.

    `inputs` has the constants, and None in the place of the data. `border`: it reads zeros beyond its input, so that no
    shift passes from before it. `biased`: it has a bias, which takes a shift.
    """

    shape: tuple[int, ...]
    inputs: tuple[Any, ...]
    how: dict[str, Any]
    ins: int = 1
    outs: int = 1
    border: bool = False
    biased: bool = True


def conv(shape: tuple[int, ...], weight: tuple[int, ...], border: bool = False, bias: int = 0, **how: Any) -> Form:
    constants = (waves(*weight), *([waves(bias)] if bias else []))
    return Form(shape, (None, *constants), how, border=border)


def gemm(*inputs: Any, ins: int = 1, outs: int = 1, rows: int = 3, columns: int = 4, **how: Any) -> Form:
    return Form((rows, columns), inputs, how, ins, outs)


def matmul(shape: tuple[int, ...], *inputs: Any, axis: int) -> Form:
    return Form(shape, inputs, {}, axis, axis, biased=False)


C_FORMS = [(), (1,), (5,), (1, 5), (1, 1)]
"""Of a Gemm of 5 columns with its weights on the right; (3, 1) and (3, 5) vary along the rows."""

FORMS: dict[str, list[Form]] = {
    "Conv": [
        conv((2, 3, 5, 4), (4, 3, 1, 1)),
        conv((2, 3, 5, 4), (4, 3, 3, 2), bias=4, strides=[2, 1], dilations=[1, 2]),
        conv((2, 4, 5, 4), (6, 2, 2, 2), bias=6, group=2),
        conv((2, 4, 5, 4), (4, 1, 3, 3), group=4, pads=[1, 1, 1, 1], border=True),
        conv((2, 3, 5, 4), (4, 3, 3, 3), bias=4, pads=[1, 0, 0, 2], border=True),
        conv((2, 3, 5, 4), (4, 3, 3, 3), auto_pad="SAME_LOWER", border=True),
        conv((2, 3, 5, 4), (4, 3, 3, 3), auto_pad="VALID", bias=4),
        conv((2, 3, 7), (4, 3, 3), strides=[2], bias=4),
        conv((1, 4, 3, 4, 3), (4, 2, 2, 2, 2), group=2, bias=4),
    ],
    "ConvTranspose": [
        conv((2, 3, 4, 4), (3, 4, 1, 1), bias=4),
        conv((2, 3, 4, 4), (3, 4, 3, 3), bias=4, border=True),
        conv((2, 4, 4, 4), (4, 3, 2, 2), group=2, strides=[2, 2], border=True),
        conv((2, 3, 4, 4), (3, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1], bias=2, border=True),
        conv((2, 3, 5, 5), (3, 2, 3, 3), pads=[2, 2, 2, 2], bias=2),
        conv((2, 3, 4, 4), (3, 2, 2, 2), dilations=[2, 2], border=True),
        conv((2, 4, 6), (4, 1, 2), group=4, bias=4, border=True),
        conv((1, 3, 3, 3, 3), (3, 2, 2, 2, 2), bias=2, border=True),
    ],
    "Gemm": [
        *(gemm(None, waves(4, 5), waves(*c), alpha=0.5, beta=3.0) for c in C_FORMS),
        gemm(None, waves(4, 5)),
        gemm(None, waves(5, 4), waves(5), transB=1),
        gemm(None, waves(3, 5), waves(5), transA=1, ins=0),
        gemm(None, waves(5, 3), waves(5), transA=1, transB=1, ins=0, alpha=-2.0),
        gemm(None, waves(4, 5), waves(3, 1)),
        gemm(None, waves(4, 5), waves(3, 5), beta=0.5),
        gemm(None, waves(4, 5), waves(5), beta=0.0),
        gemm(waves(5, 3), None, waves(5, 1), ins=0, outs=0),
        gemm(waves(3, 5), None, waves(5, 1), ins=0, outs=0, transA=1, alpha=0.5),
        gemm(waves(5, 4), None, waves(5, 3), ins=1, outs=0, transB=1, beta=2.0),
        gemm(waves(4, 5), None, ins=1, outs=0, transA=1, transB=1),
        gemm(waves(5, 3), None, waves(4), ins=0, outs=0),
    ],
    "MatMul": [
        matmul((3, 4), None, waves(4, 5), axis=1),
        matmul((2, 3, 4), None, waves(4, 5), axis=2),
        matmul((2, 2, 3, 4), None, waves(4, 5), axis=3),
        matmul((3, 4), waves(5, 3), None, axis=0),
        matmul((2, 3, 4), waves(5, 3), None, axis=1),
    ],
}  # fmt: skip


def vector(shape: tuple[int | None, ...], axis: int, array: Any) -> Any:
    return array(shape[axis] or 1).reshape([-1 if i == axis else 1 for i in range(len(shape))])


def between(op: str, form: Form, scales: bool, shifts: bool) -> list[Decision]:
    """The decisions on the affines before and behind the node, in a net that `judge` has evaluated."""
    net = Net()
    x = net.op("Sigmoid", net.input(*form.shape))
    for before, axis in ((True, form.ins), (False, form.outs)):
        if scales:
            x = net.op("Mul", x, vector(x.shape, axis, waves))
        if shifts:
            x = net.op("Add", x, vector(x.shape, axis, ramp))
        if before:
            x = net.op(op, *(x if item is None else item for item in form.inputs), **form.how)
    net.output(net.op("Sigmoid", x))
    return judge(net).decisions


def fold(op: str) -> None:
    assert op in FORMS, f"no case for {op}: add its forms to FORMS in {__name__}"
    for form in FORMS[op]:
        told = f"{op} {form.how} on {form.shape} leaves "
        for decision in between(op, form, True, False):
            assert not decision.untouched, told + "a multiplier"
            assert decision.leftover is None, told + "a part of a multiplier"
        before, behind = between(op, form, False, True)
        if form.biased:
            assert behind.way == "up", told + "a shift behind it"
            assert (before.way == "down") != form.border, told + "a shift before it, or takes it"
        between(op, form, True, True)


@pytest.mark.parametrize("op", LINEAR)
def test_linear(op: str) -> None:
    fold(op)


def changed(op: str, **changes: Any) -> Callable[[Node], Any]:
    right = LINEAR[op]
    return lambda node: replace(right(node), **changes)


WRONG_LINEAR: dict[str, Callable[[], Any]] = {
    "Conv as ConvTranspose": lambda: LINEAR["ConvTranspose"],
    "Conv without groups": lambda: changed("Conv", layout=Layout("conv")),
    "Conv without border": lambda: changed("Conv", edge=None),
    "ConvTranspose as Conv": lambda: LINEAR["Conv"],
    "ConvTranspose without border": lambda: changed("ConvTranspose", edge=None),
    "Gemm as MatMul": lambda: LINEAR["MatMul"],
    "Gemm without alpha": lambda: changed("Gemm", gain=1.0),
    "Gemm without beta": lambda: changed("Gemm", bias_gain=1.0),
    "Gemm along the first axis": lambda: changed("Gemm", in_axis=0),
    "MatMul as Gemm": lambda: LINEAR["Gemm"],
    "MatMul along another axis": lambda: changed("MatMul", out_axis=1),
}


@pytest.mark.parametrize("name", WRONG_LINEAR)
def test_a_wrong_linear_row_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op = name.split(maxsplit=1)[0]
    monkeypatch.setitem(LINEAR, op, WRONG_LINEAR[name]())
    with pytest.raises((AssertionError, LookupError, TypeError, ValueError)):
        fold(op)


def test_a_linear_row_without_a_case_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LINEAR, "Einsum", LINEAR["MatMul"])
    with pytest.raises(AssertionError, match="no case for Einsum"):
        fold("Einsum")


# ---------------------------------------------------------------------------------------------------------- affine

X = (2, 3, 4, 5)
CONSTANTS = [ramp(3, 1, 1), ramp(1, 3, 1, 1) - 0.6, np.array(-1.5), ramp(5), ramp(2, 3, 4, 5)]
LEGACY = [case(X, ramp(3), version=6, broadcast=1, axis=1), case(X, ramp(4, 5), version=6, broadcast=1)]


def norm(shape: tuple[int, ...], *own: int, **how: Any) -> Any:
    """A BatchNormalization with parameters of the shape `own`, or one a channel."""
    parts = [waves(*(own or shape[1:2])) * factor for factor in (1.5, -0.5, 2.0)]
    return case(shape, *parts, parts[0] ** 2 + 0.1, **how)


AFFINE_CASES: dict[str, list[Any]] = {
    "BatchNormalization": [
        norm(X), norm((2, 3)), norm((2, 3, 4), epsilon=0.5), norm((1, 2, 2, 3, 2), version=15), norm(X, version=14),
        norm(X, version=9), norm(X, version=7), norm(X, version=6, is_test=1), norm(X, 3, 4, 5, version=7, spatial=0),
        norm((2, 3), version=6, is_test=1, spatial=0), norm((2, 3, 4), 3, 4, version=6, is_test=1, spatial=0),
    ],
    "Mul": [*(case(X, c) for c in CONSTANTS), *(case(c, X) for c in CONSTANTS), *LEGACY],
    "Add": [*(case(X, c) for c in CONSTANTS), *(case(c, X) for c in CONSTANTS), *LEGACY],
    "Sub": [*(case(X, c) for c in CONSTANTS), *(case(c, X) for c in CONSTANTS), *LEGACY],
    "Div": [*(case(X, c) for c in CONSTANTS), *LEGACY],
    "Neg": [case(X), case((2, 3)), case((3,))],
}  # fmt: skip
"""Operator -> the forms of an affine. A row that is missing here is tried on one data input."""


def nodes(op: str) -> Iterator[tuple[Net, Node]]:
    for item in AFFINE_CASES.get(op, [default(op)]):
        yield item.build(op)


def affine(op: str) -> None:
    for net, node in nodes(op):
        (data,) = net.graph.inputs
        x = np.random.default_rng(0).standard_normal(data.shape)  # type: ignore[arg-type]
        inputs = [x if value is data else constant(value) for value in node.inputs]
        found = AFFINE[op](node)
        assert isinstance(found, Affine), f"{op} {node.attributes} is no affine to its row"
        assert found.a.ndim == found.b.ndim == x.ndim
        assert equal(found.a * x + found.b, results(node, inputs)[0]), f"the row of {op}: {node.attributes}"


def constant(value: Value | None) -> Any:
    assert value is not None
    assert value.tensor is not None
    return value.tensor.load()


@pytest.mark.parametrize("op", AFFINE)
def test_affine(op: str) -> None:
    affine(op)


def of(make: Callable[[Affine], Affine], op: str) -> Callable[[Node], Any]:
    right = AFFINE[op]
    return lambda node: make(right(node))  # type: ignore[arg-type]


WRONG_AFFINE: dict[str, Callable[[], Any]] = {
    "BatchNormalization without beta": lambda: of(lambda y: Affine(y.a, 0 * y.b), "BatchNormalization"),
    "BatchNormalization of the variance": lambda: of(lambda y: Affine(y.a**2, y.b), "BatchNormalization"),
    "Mul as Add": lambda: of(lambda y: Affine(y.b + 1, y.a - 1), "Mul"),
    "Add doubled": lambda: of(lambda y: Affine(y.a, 2 * y.b), "Add"),
    "Sub with its sign lost": lambda: of(lambda y: Affine(np.abs(y.a), y.b), "Sub"),
    "Div as Mul": lambda: of(lambda y: Affine(1 / y.a, y.b), "Div"),
    "Neg as Identity": lambda: of(lambda y: Affine(-y.a, y.b), "Neg"),
    "Abs as Neg": lambda: AFFINE["Neg"],
    "Sign as Neg": lambda: AFFINE["Neg"],
    "Tanh as nothing": lambda: lambda node: None,
}


@pytest.mark.parametrize("name", WRONG_AFFINE)
def test_a_wrong_affine_row_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op = name.split(maxsplit=1)[0]
    monkeypatch.setitem(AFFINE, op, WRONG_AFFINE[name]())
    with pytest.raises(AssertionError, match=f"{op}.*"):
        affine(op)


def test_a_right_affine_row_of_a_new_operator_needs_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AFFINE, "Identity", of(lambda y: Affine(-y.a, y.b), "Neg"))
    affine("Identity")


@pytest.mark.parametrize("item", [case(ramp(3, 1, 1), X), case(X, X)])
def test_a_quotient_is_an_affine_of_its_dividend_alone(item: Any) -> None:
    _, node = item.build("Div")
    assert AFFINE["Div"](node) is None
