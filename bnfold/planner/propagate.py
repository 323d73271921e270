"""The one question, asked of a value: can you take this affine?

`Attempt.up` asks the producer of a value to change the value by an array of multipliers or of shifts; `Attempt.down`
asks all readers of a value to undo nothing but go on reading a value that lacks it. A linear operator says yes and
takes the array into its weights; an affine that stays composes with it; an operator that commutes passes the question
on; everything else refuses with a reason. What was taken is collected aside, so that a refusal leaves no trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..ir.graph import Node, Value
from .affine import NOTHING, Absorbed, Affine, Float64, absorb_bias, collapse
from .commuting import COMMUTING, Rule
from .precision import check_storable
from .quantised import check_multiplier
from .records import Chain, Linear, Refusal
from .refusal import Refused, consistent, refuse, shape_of
from .transfer import as_is
from .view import View

MULTIPLIER, SHIFT = 1.0, 0.0
"""The two kinds of question, each named by its neutral element."""

REACH = 100
"""How many operators away a question may travel: it bounds recursion, and keeps planning linear in the net."""


@dataclass(eq=False)
class Attempt:
    """One attempt to move that of a chain. `merging` lets chains that stay take it, else only linear operators may."""

    view: View
    chain: Chain
    merging: bool = False
    taken: dict[Node, Absorbed] = field(default_factory=dict)
    chains: dict[Chain, Affine] = field(default_factory=dict)
    through: list[Node] = field(default_factory=list)
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)

    def up(self, value: Value, array: Float64, kind: float, depth: int = 0) -> None:
        """Have `value` multiplied or shifted by `array` where it is made. Raises Refused."""
        value = self.view.resolve(value)
        self._private(value)
        _check_shape(value, array)
        node = value.producer
        if value.tensor is not None:
            raise refuse("constant", f"{value.name!r} is a constant, which stays", node)
        if node is None:
            raise refuse("input", f"{value.name!r} is an input of the net, and no weights stand before it")
        self._only_reader(node, value)
        array, index = collapse(array), node.outputs.index(value)
        if not index and self._take_linear(node, array, kind, behind=True):
            return
        if self._take_chain(self.view.tails.get(value), array, kind, behind=True):
            return
        rule = self._passing(node, value, array, kind, depth)
        if index and not rule.pieces:
            raise refuse("nonlinear", f"{value.name!r} is another output of {node.label} than that of its data", node)
        wanted = rule.up(node, index, array, kind)
        asked = [(v, a) for v, a in zip(node.inputs, wanted, strict=False) if v is not None and a is not None]
        if not asked:
            raise refuse("constant", f"{node.label} has no input that could take it", node)
        if (rule.fan_multiplier if kind else rule.fan_shift) == "one":
            self._first_of(asked, kind, depth)
            return
        for source, part in asked:
            self._pass_up(source, part, kind, depth)

    def _only_reader(self, node: Node, value: Value) -> None:
        """Refuse where several nodes read the content of `value`, which `node` makes."""
        readers = self.view.readers(value)
        if len(readers) > 1 and all(reader.origin is node.origin for reader in readers):
            raise refuse("nonlinear", f"{node.label} does not commute with a per-channel affine", node)
        if len(readers) > 1:
            unique = list(dict.fromkeys(repr(reader.name) for reader in readers))
            names = ", ".join(unique[:4]) + (", ..." if len(unique) > 4 else "")
            what = f"{value.name!r} has several readers ({names}), and each needs it as it is"
            raise refuse("readers", what, node)

    def _private(self, value: Value) -> None:
        """Refuse where the content of `value` must stay."""
        reason = self.view.public(value)
        if reason:
            code, hint = value.note or ("output", "")
            raise refuse(code, f"{value.name!r} is {reason}, so its content must stay", value.producer, hint)

    def _pass_up(self, source: Value, part: Float64 | Refusal, kind: float, depth: int) -> None:
        if isinstance(part, Refusal):
            raise Refused(part)
        if (part != kind).any():
            self.up(source, part, kind, depth + 1)

    def _first_of(self, asked: list[tuple[Value, Float64 | Refusal]], kind: float, depth: int) -> None:
        """Ask the inputs one by one until one takes it; what a refusal left behind, all of it above, is undone."""
        refusals = []
        for source, part in asked:
            before = self._snapshot()
            try:
                self._pass_up(source, part, kind, depth)
                return
            except Refused as answer:
                refusals.append(answer)
                self._restore(before)
        raise refusals[-1]

    def down(self, value: Value, array: Float64, kind: float, depth: int = 0) -> None:
        """Have all readers of `value` do the multiplying or shifting themselves. Raises Refused."""
        self._private(value)
        _check_shape(value, array)
        array = collapse(array)
        for node in dict.fromkeys(self.view.readers(value)):
            slots = [i for i, v in enumerate(node.inputs) if v is not None and self.view.resolve(v) is value]
            if len(slots) != 1:
                raise refuse("readers", f"{node.name!r} reads {value.name!r} twice", node)
            if self._take_linear(node, array, kind, behind=False, slot=slots[0], depth=depth):
                continue
            if self._take_chain(self.view.heads.get(node), array, kind, behind=False):
                continue
            self._pass_down(node, slots[0], array, kind, depth)

    def _pass_down(self, node: Node, slot: int, array: Float64, kind: float, depth: int) -> None:
        rule = self._passing(node, node.inputs[slot], array, kind, depth)
        fan = rule.fan_multiplier if kind else rule.fan_shift
        if fan == "first" and slot:
            raise refuse("nonlinear", f"{node.label} takes it as a parameter", node)
        if fan == "all" and len(node.inputs) > 1:
            raise refuse("branches", f"the other inputs of {node.label} lack it", node)
        for output, part in zip(node.outputs, rule.down(node, slot, array, kind), strict=False):
            if (self.view.readers(output) or self.view.public(output)) and (part != kind).any():
                self.down(output, part, kind, depth + 1)

    def _passing(self, node: Node, value: Value | None, array: Float64, kind: float, depth: int) -> Rule:
        """The rule by which `node` passes on the question about `value`; raises Refused where it does not."""
        if node in self.view.heads or any(value in self.view.tails for value in node.outputs):
            raise refuse("affine", f"{node.label} stays, and stands in between", node)
        consistent(node)
        rule = COMMUTING.get(node.op)
        if rule is None:
            refusal = self.view.linears.get(node)
            if isinstance(refusal, Refusal):
                raise Refused(refusal)
            if "." in node.op:
                raise refuse("unknown", f"what {node.label} computes is not known here", node)
            raise refuse("nonlinear", f"{node.label} does not commute with a per-channel affine", node)
        if depth >= REACH or len(self.through) > REACH * 10:
            raise refuse("distance", f"no weights within {REACH} operators of {node.name!r}", node)
        if rule.up is not as_is:  # only what works element by element does the same in every rank
            shape_of(value, node)
        (rule.multiplier if kind else rule.shift)(node, array)
        self.through.append(node)
        return rule

    def _take_linear(
        self, node: Node, array: Float64, kind: float, behind: bool, slot: int = -1, depth: int = 0
    ) -> bool:
        """Absorb into the weights of `node` if it is linear in that slot; raises Refused where it cannot."""
        linear = self.view.linears.get(node)
        if linear is None or isinstance(linear, Refusal) or slot not in (-1, linear.data_slot):
            return False
        axis = linear.out_axis if behind else linear.in_axis
        if any(extent != 1 for i, extent in enumerate(array.shape) if i != axis):
            raise refuse("axis", f"it varies along another axis than the channels of {node.label}", node)
        vector = array.reshape(-1)
        if vector.size not in (1, linear.layout.channels(linear.weight.shape)[0 if behind else 1]):
            raise refuse("shape", f"it has {vector.size} channels, which are not those of {node.label}", node)
        if linear.holder is not None and kind == MULTIPLIER:
            check_multiplier(node, linear.holder, linear.layout, vector, behind)
        old = self.taken.get(node) or self.view.taken.get(node, NOTHING)
        new = _behind_weights(old, vector, kind) if behind else _before_weights(old, vector, kind)
        if kind == SHIFT and linear.bias_slot is None:
            if behind or not self.merging or depth >= REACH:
                raise refuse("bias", f"{node.label} has no bias to take a shift", node)
            self._multiply_shift(node, linear, new, depth)
            return True
        if kind == SHIFT and not behind and linear.edge is not None:
            raise Refused(linear.edge)
        check_storable(node, linear, new, self.view.peak, self.chain)
        self.taken[node] = new
        (self.above if behind else self.below).append(node)
        return True

    def _multiply_shift(self, node: Node, linear: Linear, taken: Absorbed, depth: int) -> None:
        """Pass on the shift in `taken` through weights without bias: W (x + b) = W x + W b.

        Only while merging, when all else has failed: it takes a product with the weights to know W b.
        """
        output, weight = node.outputs[0], linear.weight.load()
        zeros = np.zeros(linear.layout.channels(weight.shape)[0])
        shift = absorb_bias(zeros, weight, linear.layout, linear.gain, taken)
        self.through.append(node)
        axes = range(len(shape_of(output, node)))
        self.down(output, shift.reshape([-1 if i == linear.out_axis else 1 for i in axes]), SHIFT, depth + 1)

    def _take_chain(self, chain: Chain | None, array: Float64, kind: float, behind: bool) -> bool:
        """Compose with a chain that stays, unless that would make its constants larger."""
        if chain is None or not self.merging:
            return False
        old = self.chains.get(chain, chain.affine)
        ones, zeros = np.ones((1,) * array.ndim), np.zeros((1,) * array.ndim)
        step = Affine(array, zeros) if kind else Affine(ones, array)
        if not old.joins(step):
            raise refuse("axis", f"{chain.nodes[0].name!r} varies along another axis", chain.nodes[0])
        new = old.then(step) if behind else step.then(old)
        if not new.finite:
            raise refuse("overflow", f"the constants of {chain.nodes[0].name!r} would not be finite", chain.nodes[0])
        self.chains[chain] = new
        (self.above if behind else self.below).append(chain.nodes[-1] if behind else chain.nodes[0])
        return True

    def _snapshot(self) -> tuple[dict[Node, Absorbed], dict[Chain, Affine], int, int]:
        return dict(self.taken), dict(self.chains), len(self.through), len(self.above)

    def _restore(self, state: tuple[dict[Node, Absorbed], dict[Chain, Affine], int, int]) -> None:
        self.taken, self.chains = state[0], state[1]
        del self.through[state[2] :]
        del self.above[state[3] :]

    def commit(self) -> None:
        """Make what was taken the state of the view."""
        self.view.taken.update(self.taken)
        self.view.composed.update(self.chains)
        for chain, affine in self.chains.items():
            chain.affine = affine


def _check_shape(value: Value, array: Float64) -> None:
    """Refuse an array that does not broadcast against its value: the model declares shapes that are not its own."""
    shape = (None,) * array.ndim if value.shape is None else value.shape
    if len(shape) != array.ndim or any(own not in (1, e or own) for own, e in zip(array.shape, shape, strict=True)):
        raise refuse("shape", f"{value.name!r} cannot have both the shapes {shape} and {array.shape}", value.producer)


def _behind_weights(old: Absorbed, vector: Float64, kind: float) -> Absorbed:
    """`old` followed by a multiplier or shift of the output."""
    if kind == SHIFT:
        return Absorbed(old.pre_a, old.pre_b, old.post_a, old.post_b + vector)
    return Absorbed(old.pre_a, old.pre_b, old.post_a * vector, old.post_b * vector)


def _before_weights(old: Absorbed, vector: Float64, kind: float) -> Absorbed:
    """`old` with a multiplier or shift of its input: x = a·(v·x') + b, or x = a·(x' + v) + b."""
    if kind == SHIFT:
        return Absorbed(old.pre_a, old.pre_a * vector + old.pre_b, old.post_a, old.post_b)
    return Absorbed(old.pre_a * vector, old.pre_b, old.post_a, old.post_b)
