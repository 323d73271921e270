"""Two affines that compute the same from one value."""

from __future__ import annotations

from .judge import judge
from .nets import Net, ramp


def twins(public: bool = False, second: float = 1.0) -> Net:
    """conv → two BatchNormalizations of one kind, each with its own activation."""
    net = Net()
    x = net.op("Conv", net.input(1, 3, 4, 4), ramp(4, 3, 1, 1))
    one, other = net.bn(x, ramp(4), ramp(4)), net.bn(x, second * ramp(4), ramp(4))
    net.output(net.op("Relu", one))
    net.output(other if public else net.op("Sigmoid", other))
    return net


def test_readers_that_agree_fold_together() -> None:
    ways = [decision.way for decision in judge(twins()).decisions]
    assert ways == ["up", "same"]


def test_readers_that_differ_stay() -> None:
    assert all(decision.untouched for decision in judge(twins(second=2.0)).decisions)


def test_a_name_in_the_interface_stays_a_value_of_its_own() -> None:
    assert all(decision.untouched for decision in judge(twins(public=True)).decisions)
