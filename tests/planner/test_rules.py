"""The rules one by one: what each operator lets pass, what it refuses and by which reason code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfold.ir.graph import Value
from bnfold.planner.records import Decision

from .judge import judge
from .nets import Net, ramp


def after_conv(channels: int = 4, size: int = 5) -> tuple[Net, Value]:
    net = Net()
    return net, net.op("Conv", net.input(2, 3, size, size), np.sin(ramp(channels, 3, 1, 1)))


def finish(net: Net, x: Value, a: Any = None, b: Any = None) -> Decision:
    """The decision on a BatchNormalization of `x` before an output."""
    channels = x.shape[1] if x.shape else 0
    net.output(net.bn(x, ramp(channels or 1) if a is None else a, ramp(channels or 1) if b is None else b))
    return judge(net).decisions[-1]


def codes(decision: Decision) -> list[str]:
    return [reason.code for reason in decision.reasons]


UP = {
    "MaxPool": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "MaxPool ": {"kernel_shape": [1, 1], "strides": [2, 2]},
    "AveragePool": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "AveragePool ": {"kernel_shape": [2, 2], "count_include_pad": 1},
    "AveragePool  ": {"kernel_shape": [5, 5], "count_include_pad": 1, "ceil_mode": 1},
    "GlobalAveragePool": {},
    "GlobalMaxPool": {},
    "ReduceMean": {"axes": [2, 3], "keepdims": 1},
    "Identity": {},
    "Dropout": {},
}


@pytest.mark.parametrize("op", UP)
def test_multiplier_and_shift_go_up(op: str) -> None:
    net, x = after_conv()
    decision = finish(net, net.op(op.strip(), x, **UP[op]))
    assert decision.way == "up"
    assert [node.op for node in decision.into] == ["Conv"]


REFUSALS = [
    ("MaxPool", {"kernel_shape": [2, 2]}, -1.0, 0.0, "negative"),
    ("GlobalMaxPool", {}, [1, -1, 1, -1], 0.0, "negative"),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 3, 3]}, 2.0, 0.0, "window"),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 3, 3]}, 1.0, 1.0, "window"),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, 1.0, 1.0, "padding"),
    (
        "AveragePool",
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1},
        1.0,
        1.0,
        "padding",
    ),
    ("Relu", {}, 1.0, 1.0, "nonlinear"),
    ("Relu", {}, -1.0, 0.0, "negative"),
    ("LeakyRelu", {}, -1.0, 0.0, "negative"),
    ("Abs", {}, 1.0, 1.0, "nonlinear"),
    ("Sigmoid", {}, 2.0, 0.0, "nonlinear"),
    ("ReduceMax", {"axes": [2, 3]}, -1.0, 0.0, "negative"),
    ("Dropout", {"version": 6}, 2.0, 0.0, "training"),
]


@pytest.mark.parametrize(("op", "attributes", "a", "b", "code"), REFUSALS)
def test_reasons_not_to_go_up(op: str, attributes: dict[str, Any], a: Any, b: Any, code: str) -> None:
    net, x = after_conv()
    decision = finish(net, net.op(op, x, **attributes), a, b)
    assert decision.way in ("keep", "merge")
    assert codes(decision) == [code, "output"]


def test_only_the_data_of_an_operator_passes_an_affine_on() -> None:
    net = Net()
    slope = net.bn(net.op("Sigmoid", net.input(1, 2, 1, 1)), 3.0, 0.0)
    x = net.op("PRelu", net.op("Tanh", net.input(1, 2, 4, 4)), slope)
    net.output(net.op("Conv", x, ramp(2, 2, 1, 1)))
    assert codes(judge(net).decisions[0]) == ["nonlinear", "nonlinear"]


def test_a_quotient_of_a_constant_takes_no_multiplier() -> None:
    net, x = after_conv()
    decision = finish(net, net.op("Div", 1.0, x), 2.0, 0.0)
    assert codes(decision) == ["constant", "output"]


def test_a_gate_that_is_broadcast_need_not_take_the_multiplier() -> None:
    net, x = after_conv()
    gate = net.op("Sigmoid", net.input(2, 1, 5, 5))
    for order in ((gate, x), (x, gate)):
        trial, y = after_conv()
        gate = trial.op("Sigmoid", trial.input(2, 1, 5, 5))
        decision = finish(trial, trial.op("Mul", *((gate, y) if order[0] is gate else (y, gate))), None, 0.0)
        assert decision.way == "up"


def test_the_branch_of_a_sum_that_is_not_broadcast_takes_the_shift() -> None:
    net, x = after_conv()
    decision = finish(net, net.op("Add", net.op("Sigmoid", net.input(2, 1, 5, 5)), x), 1.0, None)
    assert decision.way == "up"


def test_dead_channels_keep_no_multiplier_from_moving_alone() -> None:
    net = Net()
    x = net.op("MatMul", net.input(2, 3), ramp(3, 3))
    decision = finish(net, x, np.array([1.0, 0.0, 2.0]), ramp(3))
    assert decision.way == "up"
    assert decision.leftover is not None
    assert not decision.leftover.scales


def test_a_shift_that_would_make_scales_of_several_branches_dearer_is_not_merged() -> None:
    net = Net()
    inputs = [net.op("Mul", net.op("Sigmoid", net.input(1, 2, 4, 4)), ramp(2, 1, 1)) for _ in range(3)]
    net.output(net.op("Add", net.op("Concat", *inputs, axis=1), ramp(6, 1, 1)))
    assert [d.way for d in judge(net).decisions] == ["keep"] * 4


@pytest.mark.parametrize("left", [False, True])
def test_a_shift_goes_through_weights_without_bias_into_what_is_added_behind(left: bool) -> None:
    net = Net()
    x, column = net.input(2, 3, 3), (3, 1) if left else (3,)
    x = net.op("Add", net.op("Mul", x, ramp(*column)), ramp(*column) + 1)
    x = net.op("MatMul", np.sin(ramp(3, 3)), x) if left else net.op("MatMul", x, np.sin(ramp(3, 3)))
    net.output(net.op("Add", x, ramp(*column)))
    first, second = judge(net).decisions
    assert (first.way, first.merged, [node.op for node in first.into]) == ("down", True, ["Add", "MatMul"])
    assert second.leftover is not None
    assert not second.leftover.scales


def test_a_shift_goes_through_weights_without_bias_into_a_bias() -> None:
    net = Net()
    x = net.op("MatMul", net.op("Add", net.input(2, 3), ramp(3)), np.sin(ramp(3, 4)))
    net.output(net.op("Gemm", x, np.sin(ramp(4, 2))))
    decision = judge(net).decisions[0]
    assert (decision.way, decision.merged, [node.op for node in decision.into]) == ("down", False, ["Gemm"])


def test_a_shift_that_varies_along_the_rows_does_not_go_through_weights() -> None:
    net = Net()
    x = net.op("MatMul", net.op("Add", net.input(2, 3, 3), ramp(3, 1)), np.sin(ramp(3, 3)))
    net.output(net.op("Add", x, ramp(3)))
    assert [d.untouched for d in judge(net).decisions] == [True, True]


def test_two_affines_that_cancel_when_they_merge_both_go() -> None:
    net = Net()
    x = net.op("Mul", net.op("Sigmoid", net.input(1, 2, 4, 4)), 4.0)
    net.output(net.op("Tanh", net.op("Mul", net.op("Transpose", x, perm=[0, 2, 3, 1]), 0.25)))
    assert [d.way for d in judge(net).decisions] == ["drop", "up"]


@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
def test_before_opset_7_an_attribute_tells_the_axis(op: str) -> None:
    net = Net()
    x = net.op("Conv", net.input(1, 2, 2, 2), ramp(2, 2, 1, 1))
    net.output(net.op(op, x, ramp(2), version=6, broadcast=1, axis=1))
    assert judge(net).decisions[0].way == "up"


def test_a_vector_along_the_width_is_no_channel_affine() -> None:
    net, x = after_conv(5)
    net.output(net.op("Mul", x, ramp(5)))
    assert codes(judge(net).decisions[0]) == ["axis", "output"]


def test_a_constant_that_adds_axes_or_extents_is_no_affine() -> None:
    net, x = after_conv()
    net.output(net.op("Add", x, ramp(1, 1, 4, 1, 1)))
    net.output(net.op("Mul", net.op("GlobalMaxPool", x), ramp(5, 5)))
    plan = judge(net)
    assert not plan.decisions
    assert [s.reason.code for s in plan.stayed] == ["broadcast", "broadcast"]


def test_integers_are_neither_affines_nor_a_reason() -> None:
    net = Net()
    x = net.graph.add_input(Value("shape", (4,), np.dtype(np.int64)))
    net.output(net.op("Neg", net.op("Mul", x, [2])))
    plan = net.plan()
    assert not plan.decisions
    assert not plan.stayed


def test_an_affine_of_constants_is_none() -> None:
    net, x = after_conv()
    net.output(net.op("Add", x, net.op("Neg", ramp(4, 1, 1))))
    net.output(net.op("Mul", x, net.bn(net.constant(ramp(1, 4, 1, 1)), 2.0, 1.0)))
    assert not judge(net).decisions


def test_a_channel_axis_that_an_upsampling_resamples_stops_it() -> None:
    net, x = after_conv()
    y = net.op("Resize", x, None, np.array([1, 1.2, 1, 1]), mode="nearest")
    assert y.shape == x.shape
    net.output(net.bn(y, ramp(4), 0.0))
    assert codes(net.plan().decisions[0]) == ["axis", "output"]


def test_batch_statistics_and_broken_parameters_stay_with_a_reason() -> None:
    net, x = after_conv()
    net.bn(x, 1.0, 0.0, training_mode=1, version=14)
    net.bn(x, 1.0, 0.0, version=6)
    net.bn(x, 1.0, 0.0, variance=[1, -1, 1, 0])
    net.bn(x, 1.0, 0.0, variance=[1, 1, np.nan, np.inf], epsilon=1e-5)
    net.bn(x, np.array([1, np.inf, 1, 1]), 0.0)
    net.op("Div", x, np.array(0.0))
    net.op("BatchNormalization", x, net.op("Sigmoid", net.input(4)), *[ramp(4)] * 3)
    found = [s.reason.code for s in net.plan().stayed]
    assert found == ["batch-statistics", "batch-statistics", "variance", "variance", "finite", "finite", "dynamic"]


def test_parameters_that_do_not_fit_the_rank_stay_with_a_reason() -> None:
    net = Net()
    net.op("BatchNormalization", net.input(1), *[ramp(1)] * 4)
    net.op("BatchNormalization", net.input(2, 3, 4), *[ramp(3)] * 4, version=7, spatial=0)
    assert [s.reason.code for s in net.plan().stayed] == ["shape", "shape"]
