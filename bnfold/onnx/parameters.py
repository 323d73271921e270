"""The constants that a plan changes: what linear operators hold once they have absorbed their affines."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np

from ..ir.graph import Node, Value
from ..planner.affine import Absorbed, Float64, absorb_bias, absorb_weight
from ..planner.foldable import Linear, linear
from ..planner.quantised import scale_of, scale_times
from ..planner.records import Plan
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
    for node, taken in plan.weights.items():
        role = linear(node)
        if not isinstance(role, Linear):
            continue
        weight = node.input(role.weight_slot) if role.holder is None else role.holder.input(0)
        if role.holder is not None and (taken.post_a != 1).any():
            gain = (role.holder, taken.post_a.tobytes())
            yield Job(role.holder, "weight", 1, role.holder.input(1), None, gain, _scale(role.holder, taken.post_a))
        elif (taken.post_a != 1).any() or (taken.pre_a != 1).any():
            scales = (role.layout, taken.pre_a.tobytes(), taken.post_a.tobytes())
            yield Job(node, "weight", role.weight_slot, weight, None, scales, _weight(role, taken))
        if role.bias_slot is not None and _bias_changes(role, taken):
            content = _bias(role, taken)
            key = (role.layout, role.gain, role.bias_gain, role.out_axis, content.shape, *_bytes(taken))
            old = node.input(role.bias_slot)
            summed = weight if old is None or taken.pre_b.any() else None
            yield Job(node, "bias", role.bias_slot, old, summed, key, content)


def _bias_changes(role: Linear, taken: Absorbed) -> bool:
    scaled = role.bias is not None and bool((taken.post_a != 1).any())
    return scaled or bool(taken.post_b.any() or taken.pre_b.any())


def _bytes(taken: Absorbed) -> tuple[bytes, ...]:
    return tuple(array.tobytes() for array in (taken.pre_a, taken.pre_b, taken.post_a, taken.post_b))


def _weight(role: Linear, taken: Absorbed) -> Content:
    weight = role.weight
    return Content(weight.shape, weight.dtype, lambda: absorb_weight(weight.load(), role.layout, taken))


def _scale(holder: Node, vector: Float64) -> Content:
    tensor = scale_of(holder)
    return Content(tensor.shape, tensor.dtype, lambda: scale_times(holder, vector))


def _bias(role: Linear, taken: Absorbed) -> Content:
    """The bias with the operator's own factor in it, in the smallest shape that broadcasts like the old one."""
    outs = role.layout.channels(role.weight.shape)[0]
    old = role.bias.shape if role.bias is not None else ()
    rows = role.out_axis == 0
    shape = (outs, *(old[-1:] or (1,))) if rows else (*old[:-1], outs)

    def make() -> Float64:
        bias = np.zeros(shape)
        if role.bias is not None and role.bias_gain:
            bias = np.broadcast_to(role.bias_gain * role.bias.float64(), shape)
        weight = role.weight.load() if taken.pre_b.any() else None
        made = absorb_bias(bias.T if rows else bias, weight, role.layout, role.gain, taken)
        return made.T if rows else made

    return Content(shape, (role.bias or role.weight).dtype, make)
