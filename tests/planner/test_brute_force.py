"""Nothing foldable is missed: on small nets the planner takes out as many affines as trial on numbers can.

`brute` says what "can" means there: it knows no rules, it evaluates. Left out are nets in which trial finds what is
true but of no use: a window that covers everything is a full matrix, that can take any shift; |−x| = |x|; tanh and a
symmetric clip are odd, softmax is blind to a shift of all; what is multiplied by 0 is a constant; what nobody reads
may be anything. Trial knows no scale of integer weights, and no mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest

from bnfold.planner.passes import _find_chains
from bnfold.planner.records import Chain, Plan

from .brute import Brute
from .judge import judge
from .nets import Net, filled
from .steps import random_net

SEEDS = 7000
CURIOUS = {"Softmax", "Tanh", "Clip", "Abs", "DequantizeLinear"}
WINDOWS = {"Conv", "ConvTranspose", "AveragePool", "MaxPool"}


def plain(net: Net) -> bool:
    """Small enough, and nothing curious."""
    for node in net.graph.nodes:
        shapes = [filled(v.shape or ()) for v in (*node.outputs, node.inputs[0]) if v is not None]
        if node.op in CURIOUS or any(np.prod(shape) > 40 for shape in shapes):
            return False
        if node.op in WINDOWS and any(1 in shape[2:] for shape in shapes):
            return False
        if node.op == "Dropout" and (node.outputs[1].readers or node.outputs[1].public):
            return False
        if any(not v.readers and not v.public and v.dtype == net.dtype for v in node.outputs):
            return False
    return True


def small_nets() -> Iterator[tuple[int, Net, list[Chain]]]:
    for seed in range(SEEDS):
        net = random_net(Random(seed), most=6)
        chains = _find_chains(net.graph, Plan())
        if plain(net) and 1 <= len(chains) <= 3 and all(chain.affine.a.all() for chain in chains):
            yield seed, net, chains


def test_no_affine_stays_that_trial_can_take_out() -> None:
    tried = foldable = 0
    for seed, net, chains in small_nets():
        gone = sum(not d.untouched and d.leftover is None for d in judge(net).decisions)
        possible = Brute(net, chains).most() if gone < len(chains) else gone
        assert gone >= possible, f"{possible} of the affines of net {seed} can go, {gone} went"
        tried, foldable = tried + 1, foldable + possible
    assert tried > 800
    assert foldable > 250


def test_trial_finds_what_can_go() -> None:
    """Where the planner takes out all without merging, trial finds no less: it is no judge that says no to all."""
    checked = 0
    for seed, net, chains in small_nets():
        decisions = judge(net).decisions
        if all(d.into and not d.leftover and not d.merged and d.way != "same" for d in decisions):
            assert Brute(net, chains).most() == len(chains), seed
            checked += 1
        if checked == 60:
            return
    pytest.fail(f"only {checked} of the nets are of this kind")
