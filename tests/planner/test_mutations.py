"""Some sixty broken versions of the folding rules: each is caught by the nets on which the rules as they are pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest

from bnfold.ir import graph
from bnfold.ir.shapes import windows
from bnfold.planner import (
    affine,
    commuting,
    foldable,
    moves,
    passes,
    propagate,
    transfer,
    view,
)
from bnfold.planner.affine import Absorbed, Affine
from bnfold.planner.commuting import COMMUTING

from . import evaluate
from .directed import DIRECTED
from .judge import Wrong, judge
from .nets import Impossible, Net
from .steps import random_net

SEEDS = 300
Patch = pytest.MonkeyPatch


def nets() -> Iterator[Net]:
    for build in DIRECTED.values():
        yield build()
    for seed in range(SEEDS):
        yield random_net(Random(seed))


def caught() -> bool:
    """Whether some net becomes another one, or cannot even be planned."""
    for net in nets():
        try:
            judge(net)
        except (Wrong, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
            return True
    return False


def rule(op: str, **changes: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setitem(COMMUTING, op, replace(COMMUTING[op], **changes))


def every_rule(**changes: Any) -> Callable[[Patch], None]:
    def mutate(patch: Patch) -> None:
        for op in COMMUTING:
            patch.setitem(COMMUTING, op, replace(COMMUTING[op], **changes))

    return mutate


def swap(place: Any, name: str, make: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Put `make` of the right version in the place of a function."""
    return lambda patch: patch.setattr(place, name, make(getattr(place, name)))


def moved(
    op: str, up: Callable[..., Any] | None = None, down: Callable[..., Any] | None = None
) -> Callable[[Patch], None]:
    """Post-process what a rule makes of an array: up(node, index, results, neutral), down the same."""
    old = COMMUTING[op]

    def new_up(node: Any, index: int, array: Any, neutral: float) -> Any:
        results = old.up(node, index, array, neutral)
        return results if up is None else up(node, index, results, neutral)

    def new_down(node: Any, slot: int, array: Any, neutral: float) -> Any:
        results = old.down(node, slot, array, neutral)
        return results if down is None else down(node, slot, results, neutral)

    return rule(op, up=new_up, down=new_down)


def linear(op: str, **changes: Any) -> Callable[[Patch], None]:
    old = foldable.LINEAR[op]
    return lambda patch: patch.setitem(foldable.LINEAR, op, lambda node: replace(old(node), **changes))


def layout(op: str, kind: Callable[[str], str]) -> Callable[[Patch], None]:
    old = foldable.LINEAR[op]

    def mutant(node: Any) -> Any:
        found = old(node)
        return replace(found, layout=replace(found.layout, kind=kind(found.layout.kind)))

    return lambda patch: patch.setitem(foldable.LINEAR, op, mutant)


def statistics(function: Callable[..., Any]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(foldable, "batch_norm_affine", function)


def absorbed(bias: bool = False, **wrong: Callable[[Absorbed], Any]) -> Callable[[Patch], None]:
    """Absorb something else into the weights or the bias."""

    def mutate(patch: Patch) -> None:
        name = "absorb_bias" if bias else "absorb_weight"
        right = getattr(evaluate, name)

        def mutant(*args: Any) -> Any:
            taken = args[-1]
            return right(*args[:-1], replace(taken, **{k: f(taken) for k, f in wrong.items()}))

        patch.setattr(evaluate, name, mutant)

    return mutate


def reversed_groups(right: Any) -> Any:
    return lambda self, weight: right(self, weight)[::-1]


def swapped_groups(right: Any) -> Any:
    """Channels numbered across the groups instead of within them."""

    def mutant(weight: Any, how: Any, taken: Absorbed) -> Any:
        def mix(vector: Any) -> Any:
            return vector.reshape(-1, how.groups).T.reshape(-1) if vector.size > how.groups else vector

        return right(weight, how, replace(taken, pre_a=mix(taken.pre_a), post_a=mix(taken.post_a)))

    return mutant


def ones(vector: Any) -> Any:
    return np.ones_like(vector)


def joined(chain: Any, later: Affine) -> bool:
    """Any two neighbours, whoever else reads what is between them."""
    return chain.affine.then(later).finite


def by_size(right: Any) -> Any:
    """A vector of as many elements as there are channels is one a channel, wherever it is aligned."""

    def mutant(node: Any, slot: int) -> Any:
        array, shape = right(node, slot), node.inputs[1 - slot].shape
        return array.reshape(1, -1, *(1,) * (len(shape) - 2)) if len(shape) > 1 and array.size == shape[1] else array

    return mutant


def python_places(right: Any) -> Any:
    """A Slice that goes backwards to the front, whose end Python would count from behind."""

    def mutant(node: Any, shape: Any) -> Any:
        found = right(node, shape) or {}
        return {axis: kept and range(*slice(*edges(kept)).indices(shape[axis])) for axis, kept in found.items()}

    def edges(kept: range) -> tuple[int, int, int]:
        return kept.start, kept.stop, kept.step

    return mutant


def without_offsets(right: Any) -> Any:
    """Every piece but the last begins at the front."""

    def mutant(node: Any, values: Any, axis: int) -> Any:
        *pieces, last = right(node, values, axis)
        return [*(range(len(piece)) for piece in pieces), last]

    return mutant


def without_kernel(right: Any) -> Any:
    return lambda node: right(node) if "kernel_shape" in node.attributes else []


def by_heads(right: Any) -> Any:
    """The twin that stays is the one whose first node stands first."""

    def mutant(decisions: Any, view: Any, graph: Any) -> Any:
        firsts: dict[object, Any] = {}
        return {chain for chain in decisions if passes._computed_already(decisions[chain], view, firsts)}

    return mutant


def undivided(right: Any) -> Any:
    return lambda whole: [(way, moves, Affine(stays.a, whole.b * stays.shifts)) for way, moves, stays in right(whole)]


def other_side(right: Any) -> Any:
    return lambda self, chain, array, kind, behind: right(self, chain, array, kind, not behind)


def shift_scaled(right: Any) -> Any:
    return lambda old, vector, kind: right(old, vector * old.post_a if kind == propagate.SHIFT else vector, kind)


def shift_unscaled(right: Any) -> Any:
    return lambda old, vector, kind: replace(
        right(old, vector, kind), pre_b=old.pre_b + (vector if kind == propagate.SHIFT else 0)
    )


MUTATIONS: dict[str, Callable[[Patch], None]] = {
    "bias not scaled": absorbed(bias=True, post_a=lambda t: ones(t.post_a)),
    "weight not scaled": absorbed(post_a=lambda t: ones(t.post_a)),
    "shift not added": absorbed(bias=True, post_b=lambda t: 0 * t.post_b),
    "shift before not added": absorbed(bias=True, pre_b=lambda t: 0 * t.pre_b),
    "shift before not weighted": absorbed(True, pre_b=lambda t: 0 * t.pre_b, post_b=lambda t: t.post_b + t.pre_b.sum()),
    "eps outside the root": statistics(lambda g, b, m, v, eps: (a := g / (np.sqrt(v) + eps), b - a * m)),
    "eps ignored": statistics(lambda g, b, m, v, eps: affine.batch_norm_affine(g, b, m, v, 0.0)),
    "eps a constant": statistics(lambda g, b, m, v, eps: affine.batch_norm_affine(g, b, m, v, 1e-5)),
    "root missing": statistics(lambda g, b, m, v, eps: (a := g / (v + eps), b - a * m)),
    "mean added": statistics(lambda g, b, m, v, eps: affine.batch_norm_affine(g, b, -m, v, eps)),
    "gamma ignored": statistics(lambda g, b, m, v, eps: affine.batch_norm_affine(np.ones_like(g), b, m, v, eps)),
    "beta scaled": statistics(lambda g, b, m, v, eps: (a := g / np.sqrt(v + eps), a * (b - m))),
    "scaled along the input channels": layout("Conv", {"conv": "deconv"}.__getitem__),
    "deconvolution taken for a convolution": layout("ConvTranspose", {"deconv": "conv"}.__getitem__),
    "order of groups": swap(affine.Layout, "canonical", reversed_groups),
    "index within the group": swap(evaluate, "absorb_weight", swapped_groups),
    "transposition of Gemm ignored": layout("Gemm", lambda kind: "rows"),
    "alpha ignored": linear("Gemm", gain=1.0),
    "beta ignored": linear("Gemm", bias_gain=1.0),
    "input axis of Gemm": linear("Gemm", in_axis=1),
    "padding of Conv ignored": linear("Conv", edge=None),
    "border of ConvTranspose ignored": linear("ConvTranspose", edge=None),
    "bias of MatMul invented": linear("MatMul", bias_slot=2),
    "count_include_pad ignored": rule("AveragePool", shift=commuting._unconditionally),
    "sign at MaxPool ignored": rule("MaxPool", multiplier=commuting._unconditionally),
    "hollow windows ignored": rule("MaxPool", multiplier=commuting._positive),
    "shift through Relu": rule("Relu", shift=commuting._unconditionally),
    "negative multiplier through Relu": rule("Relu", multiplier=commuting._unconditionally),
    "negative multiplier through PRelu": rule("PRelu", multiplier=commuting._unconditionally),
    "count of ReduceSum ignored": rule("ReduceSum", up=transfer.reduced_up, down=transfer.reduced_down),
    "shift through a zero Pad": rule("Pad", shift=commuting._unconditionally),
    "filler of Pad ignored": rule("Pad", multiplier=commuting._unconditionally),
    "shift through a product": rule("Mul", shift=commuting._unconditionally),
    "multiplier into both factors": rule("Mul", fan_multiplier="all"),
    "shift into all summands": rule("Sum", fan_shift="all"),
    "multiplier into one summand": rule("Add", fan_multiplier="one"),
    "multiplier of one branch taken for all": rule("Add", fan_multiplier="each"),
    "shift into one of Mean": rule("Mean", fan_shift="one"),
    "sign of Sub forgotten": rule("Sub", up=transfer.spread_up, down=transfer.spread_down),
    "multiplier into the divisor": rule("Div", up=transfer.spread_up, fan_multiplier="each"),
    "slices of Concat swapped": moved("Concat", up=lambda node, _, results, __: results[::-1]),
    "start in Concat forgotten": moved("Concat", down=lambda _, slot, results, __: [np.roll(results[0], slot, 1)]),
    "rest of Concat forgotten": swap(moves, "_placed", lambda right: lambda node, array, *rest: array),
    "offset of a piece": swap(moves, "_pieces", without_offsets),
    "order of a Gather ignored": moved("Gather", up=lambda node, _, results, __: [results[0][:, ::-1]]),
    "order of a Reshape ignored": moved("Reshape", up=lambda _, __, results, ___: [np.flip(results[0])]),
    "Transpose not inverted": rule("Transpose", up=moves.transposed_down),
    "Transpose inverted down": rule("Transpose", down=moves.transposed_up),
    "axes of pooling ignored": swap(transfer, "flat", lambda right: lambda *args: None),
    "broadcasting by size": swap(foldable, "_broadcast_constant", by_size),
    "other readers ignored": swap(view.View, "readers", lambda right: lambda self, value: right(self, value)[:1]),
    "outputs ignored": swap(view.View, "public", lambda right: lambda self, value: ""),
    "chain joined across a second reader": swap(passes, "_extends", lambda right: joined),
    "order of composition": swap(Affine, "then", lambda right: lambda self, later: right(later, self)),
    "merged on the wrong side": swap(propagate.Attempt, "_take_chain", other_side),
    "b left instead of b/a": swap(passes, "_parts", undivided),
    "mask of Dropout taken for its data": rule("Dropout", pieces=True),
    "slices as Python counts them": swap(moves, "slice_places", python_places),
    "no kernel_shape, no padding": swap(windows, "windows", without_kernel),
    "content taken for a shape": lambda patch: patch.setitem(graph.BLIND, "Sigmoid", frozenset({0})),
    "type taken for content nowhere": lambda patch: patch.setitem(graph.BLIND, "CastLike", frozenset({0, 1})),
    "twin that begins first": swap(passes, "_twins", by_heads),
    "shift moved before the multiplier": swap(propagate, "_behind_weights", shift_scaled),
    "multiplier before forgets the shift": swap(propagate, "_before_weights", shift_unscaled),
}  # fmt: skip


@cache
def sound() -> bool:
    return not caught()


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_caught(name: str) -> None:
    assert sound()
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[name](patch)
        assert caught()


def test_impossible_nets_are_not_counted_as_caught() -> None:
    assert not issubclass(
        Impossible, ArithmeticError | AssertionError | AttributeError | LookupError | TypeError | ValueError
    )
