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
        operator = linear(node)
        if not isinstance(operator, Linear):
            continue
        weight = node.input(operator.weight_slot) if operator.holder is None else operator.holder.input(0)
        if operator.holder is not None and (taken.post_a != 1).any():
            gain = (operator.holder, taken.post_a.tobytes())
            yield Job(
                operator.holder,
                "weight",
                1,
                operator.holder.input(1),
                None,
                gain,
                _scale(operator.holder, taken.post_a),
            )
        elif (taken.post_a != 1).any() or (taken.pre_a != 1).any():
            scales = (operator.layout, taken.pre_a.tobytes(), taken.post_a.tobytes())
            yield Job(node, "weight", operator.weight_slot, weight, None, scales, _weight(operator, taken))
        if operator.bias_slot is not None and _bias_changes(operator, taken):
            content = _bias(operator, taken)
            key = (operator.layout, operator.gain, operator.bias_gain, operator.out_axis, content.shape, *_bytes(taken))
            old = node.input(operator.bias_slot)
            summed = weight if old is None or taken.pre_b.any() else None
            yield Job(node, "bias", operator.bias_slot, old, summed, key, content)


def _bias_changes(operator: Linear, taken: Absorbed) -> bool:
    scaled = operator.bias is not None and bool((taken.post_a != 1).any())
    return scaled or bool(taken.post_b.any() or taken.pre_b.any())


def _bytes(taken: Absorbed) -> tuple[bytes, ...]:
    return tuple(array.tobytes() for array in (taken.pre_a, taken.pre_b, taken.post_a, taken.post_b))


def _weight(operator: Linear, taken: Absorbed) -> Content:
    weight = operator.weight
    return Content(weight.shape, weight.dtype, lambda: absorb_weight(weight.load(), operator.layout, taken))


def _scale(holder: Node, vector: Float64) -> Content:
    tensor = scale_of(holder)
    return Content(tensor.shape, tensor.dtype, lambda: scale_times(holder, vector))


def _bias(operator: Linear, taken: Absorbed) -> Content:
    """The bias with the operator's own factor in it, in the smallest shape that broadcasts like the old one."""
    outs = operator.layout.channels(operator.weight.shape)[0]
    old = operator.bias.shape if operator.bias is not None else ()
    rows = operator.out_axis == 0
    shape = (outs, *(old[-1:] or (1,))) if rows else (*old[:-1], outs)

    def make() -> Float64:
        bias = np.zeros(shape)
        if operator.bias is not None and operator.bias_gain:
            bias = np.broadcast_to(operator.bias_gain * operator.bias.float64(), shape)
        weight = operator.weight.load() if taken.pre_b.any() else None
        made = absorb_bias(bias.T if rows else bias, weight, operator.layout, operator.gain, taken)
        return made.T if rows else made

    return Content(shape, (operator.bias or operator.weight).dtype, make)
