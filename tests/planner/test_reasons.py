"""The sentences that a user reads where an operator could take or pass an affine but for one of its parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bnfold.ir.graph import Value

from .directed import waves
from .judge import judge
from .nets import Net, ramp

X = (2, 4, 4, 4)


def told(net: Net) -> list[tuple[str, str]]:
    """Codes and sentences of all that stays, in a net that is judged to stay the same."""
    plan = judge(net)
    reasons = [reason for decision in plan.decisions for reason in decision.reasons]
    return [(reason.code, reason.sentence) for reason in [*reasons, *(item.reason for item in plan.stayed)]]


def behind_conv(build: Callable[[Net, Value], Value]) -> Net:
    """A convolution, what is built on it, a BatchNormalization of 4 channels."""
    net = Net()
    x = build(net, net.op("Conv", net.input(*X), waves(4, 4, 1, 1)))
    net.output(net.op("BatchNormalization", x, ramp(4), *[np.zeros(4)] * 2, np.ones(4)))
    return net


def bias_at_run_time(net: Net, x: Value) -> Value:
    return net.op("Conv", x, waves(4, 4, 1, 1), net.op("Sigmoid", net.input(4)))  # type: ignore[no-any-return]


def weights_of_three_axes(net: Net, x: Value) -> Value:
    return net.op("MatMul", x, waves(4, 4, 4))  # type: ignore[no-any-return]


def own_scales(net: Net, x: Value) -> Value:
    how = {"keep_aspect_ratio_policy": "not_larger", "mode": "nearest", "version": 18}
    return net.op("Resize", x, None, None, [2, 4, 8, 8], **how)  # type: ignore[no-any-return]


def fill_at_run_time(net: Net, x: Value) -> Value:
    return net.op("Pad", x, [0, 0, 1, 1, 0, 0, 1, 1], net.op("Sigmoid", net.input()))  # type: ignore[no-any-return]


def indices_that_are_read(net: Net, x: Value) -> Value:
    """With a multiplier that makes numbers equal which were not, it would find others."""
    pooled, indices = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], tops=2)
    net.output(indices)
    return pooled  # type: ignore[no-any-return]


def crop_and_resize(net: Net, x: Value) -> Value:
    how = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "nearest"}
    return net.op("Resize", x, ramp(8), np.array([1.0, 1.0, 2.0, 2.0]), **how)  # type: ignore[no-any-return]


REASONS: dict[str, tuple[Callable[[Net, Value], Value], str, str]] = {
    "bias": (bias_at_run_time, "dynamic", "the bias of Conv 'Conv2' is not constant"),
    "matrix": (weights_of_three_axes, "rank", "the weights of MatMul 'MatMul1' are no matrix"),
    "fill": (fill_at_run_time, "padding", "fills with a value other than 0"),
}


@pytest.mark.parametrize("what", REASONS)
def test_what_a_parameter_forbids_is_said(what: str) -> None:
    build, code, sentence = REASONS[what]
    found = told(behind_conv(build))
    assert any(c == code and sentence in s for c, s in found), found


@pytest.mark.parametrize(
    ("build", "code", "sentence"),
    [
        (own_scales, "dynamic", "chooses its scales"),
        (crop_and_resize, "padding", "a constant outside the image"),
        (indices_that_are_read, "indices", "the indices that MaxPool 'MaxPool1' finds are read"),
    ],
)
def test_what_goes_its_own_way_says_so(build: Callable[[Net, Value], Value], code: str, sentence: str) -> None:
    (decision,) = behind_conv(build).plan().decisions
    assert any(r.code == code and sentence in r.sentence for r in decision.reasons), decision.reasons


def test_how_many_elements_a_sum_has_must_be_known_for_a_shift() -> None:
    net = Net()
    x = net.op("Conv", net.input(2, 4, None, None), waves(4, 4, 1, 1))
    net.output(net.op("Add", net.op("ReduceSum", x, [2, 3]), ramp(4, 1, 1)))
    (decision,) = net.plan().decisions
    assert any(r.code == "shape" and "adds up is not known" in r.sentence for r in decision.reasons), decision.reasons
