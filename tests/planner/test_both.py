"""An affine of which one part can only go up and the other only down."""

from __future__ import annotations

import numpy as np

from bnfold.verification.probes import _unchanged

from .judge import judge
from .nets import Net, ramp


def pooled_and_padded() -> Net:
    """conv → max pooling → BatchNormalization with negative multipliers → conv that reads zero padding."""
    net = Net()
    x = net.op("Conv", net.input(1, 3, 6, 6), np.sin(ramp(4, 3, 1, 1)))
    x = net.bn(net.op("MaxPool", x, kernel_shape=[2, 2]), [-1.0, 2.0, -0.5, 1.0], [0.5, -1.0, 0.25, 2.0])
    net.output(net.op("Conv", x, np.cos(ramp(2, 4, 3, 3)), pads=[1, 1, 1, 1]))
    return net


def test_the_shift_goes_up_and_the_multiplier_down() -> None:
    decision = judge(pooled_and_padded()).decisions[0]
    assert (decision.way, decision.leftover) == ("both", None)
    assert [len(decision.above), len(decision.below)] == [1, 1]


def test_only_the_output_is_compared_because_all_before_it_changes() -> None:
    net = pooled_and_padded()
    assert [value for value, _ in _unchanged(net.plan())] == net.graph.outputs
