"""What must not be folded, with the code and the name that the report shows; overflow; determinism."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from bnfold.ir.graph import Value
from bnfold.ir.shapes.table import infer
from bnfold.planner.affine import Float64
from bnfold.planner.records import Decision, Plan, Refusal, Style

from .directed import DIRECTED, waves
from .judge import judge
from .nets import Net, only, ramp
from .steps import random_net


def refusals(net: Net) -> list[tuple[str, str]]:
    return [(reason.code, reason.at) for reason in only(net).reasons]


def test_an_activation_written_in_place_stands_between() -> None:
    net = Net()
    x = net.op("Relu", net.op("Conv", net.input(1, 2, 3, 3), waves(2, 2, 1, 1)))
    net.output(net.bn(x, ramp(2), ramp(2)))
    assert refusals(net) == [("nonlinear", "Relu1"), ("output", "BatchNormalization2")]


def test_neighbours_in_the_file_need_not_be_neighbours_in_the_graph() -> None:
    net = Net()
    x = net.input(1, 2, 3, 3)
    net.output(net.op("Conv", x, waves(2, 2, 1, 1)))
    net.output(net.bn(x, ramp(2), ramp(2)))
    assert refusals(net)[0][0] == "input"


def test_another_reader_of_the_convolution_keeps_it() -> None:
    net = Net()
    x = net.op("Conv", net.input(1, 2, 3, 3), waves(2, 2, 1, 1))
    net.output(net.bn(x, ramp(2), ramp(2)))
    net.output(net.op("Sigmoid", x))
    decision = only(net)
    assert [reason.code for reason in decision.reasons] == ["readers", "output"]
    assert "'Sigmoid2'" in decision.reasons[0].sentence


def test_a_multiplier_that_is_computed_is_no_affine() -> None:
    net = Net()
    x = net.op("Conv", net.input(1, 2, 3, 3), waves(2, 2, 1, 1))
    net.output(net.op("Mul", x, net.op("Sigmoid", net.input(1, 2, 1, 1))))
    plan = judge(net)
    assert (plan.decisions, plan.stayed) == ([], [])


def test_a_scale_without_a_batch_norm_and_a_shift_without_a_scale_fold() -> None:
    for build in (lambda net, x: net.op("Mul", x, ramp(2, 1, 1)), lambda net, x: net.op("Add", x, ramp(2, 1, 1))):
        net = Net()
        net.output(build(net, net.op("Conv", net.input(1, 2, 3, 3), waves(2, 2, 1, 1))))
        judge(net)
        assert only(net).way == "up"


@pytest.mark.parametrize("indices", [[1, 1, 0], [0, 1, -1]], ids=["twice", "from either end"])
def test_a_channel_that_is_gathered_twice_has_to_agree_with_itself(indices: list[int]) -> None:
    def gathered(scale: Float64) -> Decision:
        net = Net()
        x = net.op("Gather", net.op("Conv", net.input(1, 2, 3, 3), waves(2, 2, 1, 1)), np.array(indices), axis=1)
        net.output(net.bn(x, scale, ramp(3)[np.abs(indices)]))
        judge(net)
        return only(net)

    assert "readers" in [reason.code for reason in gathered(ramp(3)).reasons]
    assert gathered(ramp(3)[np.abs(indices)]).way == "up"


def test_weights_that_are_computed_or_overridable_say_so() -> None:
    net = Net()
    weight = net.input(2, 2, 1, 1)
    weight.note = ("overridable", "use --freeze")
    net.output(net.bn(net.op("Conv", net.input(1, 2, 3, 3), weight), ramp(2), ramp(2)))
    reason = only(net).reasons[0]
    assert (reason.code, reason.hint) == ("overridable", "use --freeze")
    net = Net()
    net.output(
        net.bn(net.op("Conv", net.input(1, 2, 3, 3), net.op("Sigmoid", net.input(2, 2, 1, 1))), ramp(2), ramp(2))
    )
    assert only(net).reasons[0].code == "dynamic"


def test_a_layer_whose_tops_share_its_weights_takes_nothing() -> None:
    net = Net()
    weight = net.constant(waves(2, 2, 1, 1))
    tops = [net.op("Conv", net.input(1, 2, 3, 3), weight) for _ in "ab"]
    net.graph.nodes[1].origin = net.graph.nodes[0].origin
    for top in tops:
        net.output(net.bn(top, ramp(2), ramp(2)))
    assert [d.reasons[0].code for d in judge(net).decisions] == ["tops", "tops"]


def test_a_kept_blob_keeps_its_content() -> None:
    net = Net()
    x = net.op("Conv", net.input(1, 2, 3, 3), waves(2, 2, 1, 1))
    x.public = "kept by the user"
    net.output(net.bn(x, ramp(2), ramp(2)))
    reason = only(net).reasons[0]
    assert reason.code == "output"
    assert reason.sentence == f"{x.name!r} is kept by the user, so its content must stay"


def test_unknown_shapes_say_what_to_do() -> None:
    net = Net()
    x = net.op("Conv", net.input(1, 2, None, None), waves(2, 2, 1, 1))
    x.shape = None
    net.graph.add_node("Mul", [x, net.constant(ramp(2, 1, 1))], [Value("y")], {}, origin=0, name="scale", version=13)
    (stayed,) = net.plan().stayed
    assert stayed.reason.code == "shape"
    assert "static shapes" in stayed.reason.hint


@pytest.mark.parametrize(
    ("statistics", "fits"),
    [
        ({"gamma": 4e4, "beta": 0.0}, True),
        ({"gamma": 4e4, "beta": 0.0, "variance": 0.25}, False),
        ({"gamma": 1.0, "beta": -1e4, "mean": 5e4}, True),
        ({"gamma": 1.0, "beta": -1e4, "mean": 6e4}, False),
    ],
)
def test_what_is_not_finite_in_float16_is_not_folded(statistics: dict[str, float], fits: bool) -> None:
    net = Net(np.float16)
    net.output(net.bn(net.op("Conv", net.input(1, 2, 3, 3), np.ones((2, 2, 1, 1))), **statistics))
    assert [reason.code for reason in only(net).reasons] == ([] if fits else ["overflow", "output"])


def test_overflow_is_judged_by_channel() -> None:
    """Large multipliers of small weights fit although the largest of both would not."""
    net = Net(np.float16)
    x = net.op("Conv", net.input(1, 1, 3, 3), np.array([1000.0, 1e-3]).reshape(2, 1, 1, 1))
    net.output(net.bn(x, np.array([1e-3, 1000.0]), 0.0))
    assert only(net).way == "up"


def test_the_sum_over_the_taps_must_fit_too() -> None:
    net = Net(np.float16)
    x = net.op("Add", net.op("Sigmoid", net.input(1, 64, 2, 2)), 3000.0)
    net.output(net.op("Conv", x, np.ones((1, 64, 1, 1))))
    assert [reason.code for reason in only(net).reasons] == ["nonlinear", "overflow"]


def test_weights_that_are_not_finite_take_nothing() -> None:
    net = Net()
    net.output(net.bn(net.op("Conv", net.input(1, 1, 2, 2), np.array(np.nan).reshape(1, 1, 1, 1)), 2.0, 0.0))
    assert only(net).reasons[0].code == "overflow"


def test_tiny_and_huge_constants_raise_no_warning() -> None:
    net = Net()
    x = net.op("Conv", net.input(1, 1, 2, 2), np.full((1, 1, 1, 1), 1e300))
    x = net.op("Mul", net.op("Mul", x, np.array(1e300)), np.array(1e300))
    x = net.op("Add", net.op("Div", x, np.array(5e-324)), np.array(1e-320))
    net.output(net.bn(x, 1e300, 1e300, mean=1e300, variance=1e-320))
    assert not any(d.way == "up" for d in net.plan().decisions)


def test_dead_channels_of_denormal_variance_fold() -> None:
    net = Net(np.float32)
    x = net.op("Conv", net.input(1, 3, 2, 2), waves(3, 3, 1, 1))
    net.output(net.bn(x, ramp(3), ramp(3), variance=[1e-45, 0.0, -7e-44], epsilon=1e-5))
    assert only(net).way == "up"


def described(plan: Plan, net: Net) -> str:
    """All that a plan says, as text, with nodes and values by their names."""
    lines = []
    for d in plan.decisions:
        names = [[node.name for node in nodes] for nodes in (d.chain.nodes, d.into, d.through)]
        arrays = [] if d.leftover is None else [d.leftover.a.tobytes(), d.leftover.b.tobytes()]
        lines.append(repr((names, d.way, d.merged, d.untouched, arrays, d.reasons)))
    for node, (_, taken) in plan.weights.items():
        lines.append(repr((node.name, [p.tobytes() for p in (taken.pre_a, taken.pre_b, taken.post_a, taken.post_b)])))
    lines += [f"{v.name} {plan.name(plan.resolve(v))}" for node in net.graph.nodes for v in node.outputs]
    return "\n".join(lines)


def test_the_same_net_has_the_same_plan() -> None:
    for seed in range(60):
        first, second = (random_net(Random(seed)) for _ in "ab")
        assert described(first.plan(), first) == described(second.plan(), second)


def test_every_affine_that_stays_says_why() -> None:
    for build in DIRECTED.values():
        for decision in build().plan().decisions:
            told = decision.reasons or decision.way in ("drop", "same")
            assert told or (decision.way in ("up", "down", "both") and decision.leftover is None)
            for reason in decision.reasons:
                assert isinstance(reason, Refusal)
                assert reason.code
                assert reason.sentence[0] not in " ."
                assert not reason.sentence.endswith(".")


def test_weights_that_would_lose_their_digits_stay() -> None:
    net = Net(np.float16)
    x = net.op("Conv", net.input(1, 2, 3, 3), np.full((2, 2, 1, 1), 0.01))
    net.output(net.op("Mul", x, np.array(4e-6)))
    assert [reason.code for reason in only(net).reasons] == ["underflow", "output"]


@pytest.mark.parametrize(("least", "folds"), [(2.0**-14, True), (2.0**-15, False), (0.0, True)])
def test_digits_are_judged_by_channel(least: float, folds: bool) -> None:
    for dtype in (np.float16, np.float32):
        net = Net(dtype)
        x = net.op("Conv", net.input(1, 2, 3, 3), np.ones((2, 2, 1, 1)))
        net.output(net.op("Mul", x, np.array([1.0, least]).reshape(2, 1, 1)))
        assert (only(net).way == "up") == (folds or dtype is np.float32)


def test_a_layer_of_which_one_half_is_no_affine_stays_whole() -> None:
    """As a Scale with a broken gamma: its Mul cannot go, so its Add must not."""
    net = Net()
    x = net.op("Mul", net.op("Conv", net.input(1, 2, 3, 3), np.ones((2, 2, 1, 1))), np.array(np.inf))
    net.output(net.op("Add", x, np.array(1.0)))
    for node in net.graph.nodes[1:]:
        node.origin = "scale"
    plan = net.plan()
    assert [reason.reason.code for reason in plan.stayed] == ["finite"]
    assert plan.decisions == []


@pytest.mark.parametrize(
    ("op", "given"), [("Transpose", {"perm": [0, 1, 7]}), ("MaxPool", {"kernel_shape": [2, 2], "pads": [1]})]
)
def test_attributes_that_make_no_sense_are_refused(op: str, given: dict[str, list[int]]) -> None:
    net = Net()
    x = net.op("Conv", net.input(1, 2, 3, 3), np.ones((2, 2, 1, 1)))
    node = net.graph.add_node(op, [x], [Value("y", x.shape)], given, origin=op, name=op, version=13)
    infer(node)
    net.output(net.bn(node.outputs[0], ramp(2), ramp(2)))
    assert "shape" in [reason.code for reason in only(net).reasons]


def unranked(behind: bool) -> Net:
    """A shift along the channels of a value whose rank nobody knows, into a sum of which the shape is declared."""
    net = Net()
    x = net.input(1, 4, 3, 4)
    shifted = net.bn(x, 1.0, ramp(4))
    if behind:
        shifted = net.op("Add", shifted, net.op("Sigmoid", net.input(1, 4, 3, 4)))
        net.output(net.op("Add", shifted, ramp(1, 1, 1, 4)))
    else:
        net.output(net.bn(shifted, 1.0, ramp(4)))
    for node in net.graph.nodes[: 1 + (not behind)]:
        node.outputs[0].shape = None
    x.shape = None
    return net


def test_the_axis_of_an_affine_on_an_unknown_rank_is_counted_from_the_front() -> None:
    """Counted from the back, as operands broadcast, it would fit the width."""
    decisions = unranked(behind=True).decisions(Style(2, unranked=True))
    assert not any(decision.into for decision in decisions.values())
    assert decisions["BatchNormalization0"].reasons[-1].code == "shape"


def test_two_affines_on_an_unknown_rank_are_one_where_the_document_can_write_it() -> None:
    (decision,) = unranked(behind=False).plan(Style(2, unranked=True)).decisions
    assert decision.leftover is not None
    assert np.array_equal(decision.leftover.b, 2 * ramp(1, 4))
    plan = unranked(behind=False).plan(Style(2))
    assert [(stayed.node, stayed.reason.code) for stayed in plan.stayed] == [
        ("BatchNormalization0", "shape"), ("BatchNormalization1", "shape")
    ]  # fmt: skip
