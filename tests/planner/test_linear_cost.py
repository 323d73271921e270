"""Planning costs time linear in the size of the net: counted in questions, not in seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bnfold.ir.graph import Value
from bnfold.planner.affine import Float64
from bnfold.planner.propagate import Attempt
from bnfold.planner.records import Plan

from .nets import Net, ramp

Build = Callable[[int], Net]


def questions(net: Net, monkeypatch: pytest.MonkeyPatch) -> int:
    return planned(net, monkeypatch)[0]


def planned(net: Net, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Plan]:
    """How many values are asked while `net` is planned, and the plan."""
    count = 0
    right = {name: getattr(Attempt, name) for name in ("up", "down")}

    def counting(name: str) -> Callable[..., None]:
        def ask(self: Attempt, value: Value, array: Float64, kind: float, depth: int = 0) -> None:
            nonlocal count
            count += 1
            right[name](self, value, array, kind, depth)

        return ask

    with monkeypatch.context() as patch:
        for name in right:
            patch.setattr(Attempt, name, counting(name))
        plan = net.plan()
    return count, plan


def stack(net: Net, x: Value, depth: int) -> Value:
    """Conv, BatchNormalization, Relu, again and again."""
    weight = net.constant(ramp(2, 2, 1, 1))
    parameters = [net.constant(ramp(2)) for _ in range(4)]
    for _ in range(depth):
        x = net.op("Conv", x, weight)
        x = net.op("Relu", net.op("BatchNormalization", x, *parameters))
    return x


def convolutions(size: int) -> Net:
    net = Net()
    net.output(stack(net, net.input(1, 2, 2, 2), size))
    return net


def blocked(size: int) -> Net:
    """Affines that ask in vain, through runs of operators that let them pass."""
    net = Net()
    x = net.input(1, 2, 2, 2)
    for _ in range(size):
        x = net.op("Sigmoid", net.op("Identity", net.op("MaxPool", net.bn(x, ramp(2), ramp(2)), kernel_shape=[1, 1])))
    net.output(x)
    return net


def passing(size: int) -> Net:
    """One long run of operators between two that stop everything, with an affine after each."""
    net = Net()
    x = net.op("Sigmoid", net.input(1, 2, 2, 2))
    for _ in range(size):
        x = net.op("Transpose", net.op("Mul", net.op("Transpose", x, perm=[0, 2, 3, 1]), ramp(2)), perm=[0, 3, 1, 2])
        x = net.op("Neg", net.op("Relu", x))
    net.output(net.op("Sigmoid", x))
    return net


def diamonds(size: int) -> Net:
    """Each level doubles the paths on which a question can travel down."""
    net = Net()
    x = net.bn(net.op("Sigmoid", net.input(1, 2, 2, 2)), ramp(2), 0.0)
    for _ in range(size):
        x = net.op("Mul", net.op("Identity", x), net.op("Identity", x))
    net.output(net.op("Sigmoid", x))
    return net


def tree(size: int) -> Net:
    """Sums of sums: a shift asks one summand after the other."""
    net = Net()
    level = [net.op("Sigmoid", net.input(1, 2, 2, 2)) for _ in range(size)]
    while len(level) > 1:
        level = [net.bn(net.op("Add", a, b), ramp(2), ramp(2)) for a, b in zip(level[::2], level[1::2], strict=True)]
    net.output(level[0])
    return net


@pytest.mark.parametrize("build", [convolutions, blocked, passing])
def test_twice_the_net_is_about_twice_the_questions(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    once, twice = (questions(build(size), monkeypatch) for size in (150, 300))
    assert twice <= 2.2 * once


def test_summands_are_asked_once_for_each_affine_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    once, twice = (questions(tree(size), monkeypatch) for size in (64, 128))
    assert twice <= 2.5 * once


def test_a_question_that_could_travel_on_endless_paths_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert questions(diamonds(40), monkeypatch) < 5000


def test_five_thousand_convolutions_are_planned_with_two_questions_each(monkeypatch: pytest.MonkeyPatch) -> None:
    count, plan = planned(convolutions(5000), monkeypatch)
    assert count == 10_000
    assert all(d.way == "up" for d in plan.decisions)


def test_a_value_with_many_readers_is_no_burden(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    x = net.op("Sigmoid", net.input(1, 2, 2, 2))
    for index in range(2000):
        net.output(net.op("Conv", net.bn(x, ramp(2) + index, ramp(2)), np.ones((2, 2, 1, 1))))
    count, plan = planned(net, monkeypatch)
    assert count <= 3 * 2000
    assert all(d.way == "down" for d in plan.decisions)
