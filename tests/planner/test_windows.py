"""What windows read, against counting it: for all small geometries."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bnfold.ir.shapes.windows import hollow, padded

from .nets import Impossible, Net
from .windows import pooled


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_padding_and_hollow_windows_are_those_that_the_taps_read(kernel: int) -> None:
    for size, stride, dilation, before, after, ceil in product((1, 3, 4), (1, 2, 4), (1, 2), (0, 1, 2), (0, 2), (0, 1)):
        net = Net()
        try:
            net.op(
                "MaxPool", net.input(1, 1, size), kernel_shape=[kernel], strides=[stride], dilations=[dilation],
                pads=[before, after], ceil_mode=ceil,
            )  # fmt: skip
        except Impossible:
            continue
        (node,) = net.graph.nodes
        reads = np.isfinite(pooled(node, np.zeros((1, 1, size)), -np.inf)[0])
        assert padded(node) == (not reads.all())
        assert hollow(node) == (not reads.any(axis=0).all())


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding_is_counted(auto: str) -> None:
    for size, kernel, stride, dilation in product((1, 3, 4), (1, 2, 3), (1, 2, 4), (1, 2)):
        net = Net()
        try:
            net.op(
                "Conv",
                net.input(1, 1, size),
                np.ones((1, 1, kernel)),
                strides=[stride],
                dilations=[dilation],
                auto_pad=auto,
            )
        except Impossible:
            continue
        (node,) = net.graph.nodes
        node.attributes = {**node.attributes, "kernel_shape": [kernel]}
        assert padded(node) == (not np.isfinite(pooled(node, np.zeros((1, 1, size)), -np.inf)[0]).all())


def test_unknown_extents_count_as_the_worst() -> None:
    net = Net()
    net.op("Conv", net.input(1, 1, None), np.ones((1, 1, 1)), auto_pad="SAME_UPPER")
    net.op("Conv", net.input(1, 1, None), np.ones((1, 1, 2)), auto_pad="SAME_UPPER")
    net.op("MaxPool", net.input(1, 1, None), kernel_shape=[2], pads=[1, 1])
    net.op("MaxPool", net.input(1, 1, None), kernel_shape=[2], pads=[0, 0], dilations=[2])
    assert [padded(node) for node in net.graph.nodes] == [False, True, True, False]
    assert [hollow(node) for node in net.graph.nodes[2:]] == [False, True]
