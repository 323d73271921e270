"""The constants that a plan changes: what linear linears hold once they have absorbed their affines."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np

from ..ir.graph import Node, Value
from ..planner.affine import Absorbed, Float64, absorb_bias, absorb_weight
from ..planner.quantised import scale_of, scale_times
from ..planner.records import Linear, Plan
from .serialize import Content


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    """Input `slot` of `node` shall be `content`.

    `old` is what it reads there now, None where it reads nothing; `weight` is the value of the node's weights if the
    numbers depend on them too, or if there is nothing else to name them after. Jobs of one kind ("weight", "bias") with
    equal keys, `old` and `weight` ask for the same numbers.
    """

    node: Node
    kind: str
    slot: int
    old: Value | None
    weight: Value | None
    key: Hashable
    content: Content


def jobs(plan: Plan) -> Iterator[Job]:
    """All constants that the plan changes, node by node."""
    for node, (linear, taken) in plan.weights.items():
        weight = node.input(linear.weight_slot) if linear.holder is None else linear.holder.input(0)
        if linear.holder is not None and (taken.post_a != 1).any():
            gain = (linear.holder, taken.post_a.tobytes())
            content = _scale(linear.holder, taken.post_a)
            yield Job(linear.holder, "weight", 1, linear.holder.input(1), None, gain, content)
        elif (taken.post_a != 1).any() or (taken.pre_a != 1).any():
            scales = (linear.layout, taken.pre_a.tobytes(), taken.post_a.tobytes())
            yield Job(node, "weight", linear.weight_slot, weight, None, scales, _weight(linear, taken))
        if linear.bias_slot is not None and _bias_changes(linear, taken):
            content = _bias(linear, taken)
            key = (linear.layout, linear.gain, linear.bias_gain, linear.out_axis, content.shape, *_bytes(taken))
            old = node.input(linear.bias_slot)
            summed = weight if old is None or taken.pre_b.any() else None
            yield Job(node, "bias", linear.bias_slot, old, summed, key, content)


def _bias_changes(linear: Linear, taken: Absorbed) -> bool:
    scaled = linear.bias is not None and bool((taken.post_a != 1).any())
    return scaled or bool(taken.post_b.any() or taken.pre_b.any())


def _bytes(taken: Absorbed) -> tuple[bytes, ...]:
    return tuple(array.tobytes() for array in (taken.pre_a, taken.pre_b, taken.post_a, taken.post_b))


def _weight(linear: Linear, taken: Absorbed) -> Content:
    weight = linear.weight
    return Content(weight.shape, weight.dtype, lambda: absorb_weight(weight.load(), linear.layout, taken))


def _scale(holder: Node, vector: Float64) -> Content:
    tensor = scale_of(holder)
    return Content(tensor.shape, tensor.dtype, lambda: scale_times(holder, vector))


def _bias(linear: Linear, taken: Absorbed) -> Content:
    """The bias with the linear's own factor in it, in the smallest shape that broadcasts like the old one."""
    outs = linear.layout.channels(linear.weight.shape)[0]
    old = linear.bias.shape if linear.bias is not None else ()
    rows = linear.out_axis == 0
    shape = (outs, *(old[-1:] or (1,))) if rows else (*old[:-1], outs)

    def make() -> Float64:
        bias = np.zeros(shape)
        if linear.bias is not None and linear.bias_gain:
            bias = np.broadcast_to(linear.bias_gain * linear.bias.float64(), shape)
        weight = linear.weight.load() if taken.pre_b.any() else None
        made = absorb_bias(bias.T if rows else bias, weight, linear.layout, linear.gain, taken)
        return made.T if rows else made

    return Content(shape, (linear.bias or linear.weight).dtype, make)
