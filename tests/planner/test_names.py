"""Names: outputs keep theirs, inputs too, and a value that stays may take over that of one that goes."""

from __future__ import annotations

from .judge import judge
from .nets import Net, ramp


def test_an_output_keeps_its_name_when_the_chain_behind_an_identity_that_went_goes_up() -> None:
    net = Net()
    y = net.bn(net.op("Conv", net.input(1, 2, 4, 4), ramp(2, 2, 1, 1)), ramp(2), ramp(2))
    net.output(net.op("Add", y, 0.0), "result")
    net.output(net.op("Sigmoid", y), "other")
    plan = judge(net)
    assert [d.way for d in plan.decisions] == ["up", "drop"]


def test_an_affine_that_does_nothing_between_an_input_and_an_output_stays() -> None:
    net = Net()
    net.output(net.bn(net.input(1, 2, 4, 4), 1.0, 0.0), "result")
    plan = judge(net)
    assert plan.decisions[0].untouched
    assert not plan.changes


def test_an_affine_that_does_nothing_between_two_outputs_stays() -> None:
    net = Net()
    x = net.output(net.op("Sigmoid", net.input(1, 2, 4, 4)), "one")
    net.output(net.op("Mul", x, 1.0), "two")
    assert judge(net).decisions[0].untouched


def test_one_of_two_identities_to_two_outputs_stays() -> None:
    net = Net()
    x = net.op("Sigmoid", net.input(1, 2, 4, 4))
    net.output(net.op("Mul", x, 1.0), "one")
    net.output(net.op("Add", x, 0.0), "two")
    assert [d.way for d in judge(net).decisions] == ["drop", "keep"]
