"""How many affines could go, found by trial on numbers and without any rule of the planner.

An affine y = a·x + b can go *down* if each of its readers, given x for y, can have its output put right, and *up* if
the operator that makes x can be made to give y; or one part goes up and the other down, as a·x and then + b, or as
x + b/a and then a times that. Whether an operator can is not looked up but tried:

- linear operators: the outputs that some constants of theirs can give are a linear space, spanned by evaluating the
  operator once for each element of its weights and bias; what is asked of it must lie in that space at once for
  several random inputs (least squares; the residual must vanish);
- other operators, downwards: per element of the output, the regression of f(a·u + b) on f(u) over random u. If every
  element lies on a line, its slope and offset are what the output lacks, and its readers are asked in turn;
- other operators, upwards: which elements of an input an element of the output depends on is found by changing them.
  An input that shall take part must be multiplied, where it matters to an element of the output, as that is, and
  shifted in proportion. All choices of inputs that take part are tried, and each is accepted if f of the changed
  inputs is a·f + b for random inputs.

Other affines block the way as long as they stay. Since one that goes can free another's way, all orders are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from bnfold.ir.graph import Array, Node, Value
from bnfold.planner.affine import Float64
from bnfold.planner.records import Chain

from .evaluate import run
from .nets import Net, filled

LINEARS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
TRIALS = 6


def is_linear(node: Node) -> bool:
    """Whether constants of `node` span what it can give."""
    return node.op in LINEARS and any(v is not None and v.tensor is not None for v in node.inputs[:2])


class Change(NamedTuple):
    """y = a·x + b, both of the full shape of the value; NaN where nobody reads it, so that it may be anything."""

    a: Float64
    b: Float64

    @property
    def nothing(self) -> bool:
        return bool(((self.a == 1) | np.isnan(self.a)).all() and ((self.b == 0) | np.isnan(self.b)).all())

    def of(self, x: Array) -> Array:
        return np.nan_to_num(self.a, nan=1.0) * x + np.nan_to_num(self.b, nan=0.0)  # type: ignore[no-any-return]


class Brute:
    """One net with some of its chains taken out."""

    def __init__(self, net: Net, chains: list[Chain]) -> None:
        self.graph = net.graph
        self.chains = chains
        self.gone: frozenset[Chain] = frozenset()
        self.rng = np.random.default_rng(1)

    def most(self) -> int:
        """The largest number of chains that can go, one after another."""
        reached = {frozenset[Chain]()}
        frontier = list(reached)
        while frontier:
            self.gone = frontier.pop()
            for chain in self.chains:
                larger = self.gone | {chain}
                if larger not in reached and self.goes(chain):
                    reached.add(larger)
                    frontier.append(larger)
        return max(map(len, reached))

    def goes(self, chain: Chain) -> bool:
        change = Change(
            *(np.broadcast_to(part, filled(chain.source.shape or ())) for part in (chain.affine.a, chain.affine.b))
        )
        source, target = self.source(chain.source), chain.target
        if change.nothing:
            return not (self.public(target) and (self.public(source) or source.producer is None))
        none = np.ones_like(change.a), np.zeros_like(change.b)
        scale, shift, ahead = Change(change.a, none[1]), Change(none[0], change.b), Change(none[0], change.b / change.a)
        return (
            self.up(source, change)
            or self.down(target, change)
            or (self.up(source, scale) and self.down(target, shift))
            or (self.up(source, ahead) and self.down(target, scale))
        )

    def source(self, value: Value) -> Value:
        """What is read in the place of `value`."""
        for chain in self.gone:
            if chain.target is value:
                return self.source(chain.source)
        return value

    def aliases(self, value: Value) -> list[Value]:
        """`value` and the targets of the chains that are gone between it and its readers."""
        return [value] + [v for chain in self.gone if self.source(chain.source) is value for v in [chain.target]]

    def public(self, value: Value) -> bool:
        return any(alias.public for alias in self.aliases(value))

    def readers(self, value: Value) -> list[Node]:
        heads = {chain.nodes[0] for chain in self.gone}
        return [n for alias in self.aliases(value) for n in alias.readers if n not in heads and self.matters(n, alias)]

    def matters(self, node: Node, value: Value) -> bool:
        """Whether what `node` gives depends on the content of `value`."""
        return any(self.differs(node, value) for _ in range(8 * TRIALS))

    def differs(self, node: Node, value: Value) -> bool:
        inputs = self.inputs(node)
        others = [self.sample(v) if v is value else array for v, array in zip(node.inputs, inputs, strict=True)]
        return not all(map(np.array_equal, run(node, inputs), run(node, others)))

    def stays(self, node: Node) -> bool:
        return any(node in chain.nodes for chain in self.chains if chain not in self.gone)

    def inputs(self, node: Node) -> list[Array | None]:
        """Random values for all inputs of a node, its own constants."""
        return [None if v is None else self.sample(v) for v in node.inputs]

    def sample(self, value: Value) -> Array:
        if value.tensor is not None:
            return value.tensor.load()
        return self.rng.standard_normal(filled(value.shape or ()))

    def up(self, value: Value, change: Change) -> bool:
        """Whether `value` can be made to be changed."""
        node = value.producer
        if self.public(value) or node is None or len(self.readers(value)) != 1 or self.stays(node):
            return False
        if is_linear(node):
            return self.spans(node, lambda _, output: change.a * output + change.b)
        return any(
            all(
                c.nothing or self.up(self.source(v), c)
                for v, c in zip(node.inputs, wanted, strict=True)
                if v is not None and c
            )
            for wanted in self.wanted(node, self.overall(node, value, change))
        )

    def down(self, value: Value, change: Change) -> bool:
        """Whether all readers of `value` can do with it as it was before it was changed."""
        if self.public(value):
            return False
        for node in set(self.readers(value)):
            slots = [i for i, v in enumerate(node.inputs) if v is not None and self.source(v) is value]
            if len(slots) != 1 or self.stays(node):
                return False
            if is_linear(node):
                if not self.spans(
                    node, lambda inputs, _, node=node, slot=slots[0]: altered(node, inputs, slot, change)
                ):
                    return False
            elif not self.passes(node, slots[0], change):
                return False
        return True

    def spans(self, node: Node, wanted: object) -> bool:
        """Whether some constants give the wanted output for all inputs."""
        slot = next(i for i, v in reversed(list(enumerate(node.inputs[:2]))) if v is not None and v.tensor is not None)
        rows: list[Array] = []
        targets: list[Array] = []
        while not rows or sum(map(len, rows)) < 8 * rows[0].shape[1]:
            inputs = self.inputs(node)
            basis = []
            weight = inputs[slot]
            assert weight is not None
            plain = [None if i == 2 else array for i, array in enumerate(inputs)]
            for index in np.ndindex(weight.shape):
                plain[slot] = np.zeros_like(weight)
                plain[slot][index] = 1.0  # type: ignore[index]
                basis.append(run(node, plain)[0].reshape(-1))
            output = run(node, inputs)[0]
            basis += [c.reshape(-1) for c in biases(node, inputs[2:], output.shape)]
            rows.append(np.stack(basis, axis=1))
            targets.append(wanted(inputs, output).reshape(-1))  # type: ignore[operator]
        matrix, target = np.concatenate(rows), np.concatenate(targets)
        matrix, target = matrix[~np.isnan(target)], target[~np.isnan(target)]
        solution = np.linalg.lstsq(matrix, target, rcond=None)[0]
        return bool(np.abs(matrix @ solution - target).max(initial=0) <= 1e-8 * np.abs(target).max(initial=1))

    def passes(self, node: Node, slot: int, change: Change) -> bool:
        """Down through an operator that is not linear: by regression."""
        trials = []
        for _ in range(8 * TRIALS):
            inputs = self.inputs(node)
            trials.append((run(node, inputs), run(node, self.changed(node, inputs, slot, change))))
        for index, output in enumerate(node.outputs):
            if not (self.readers(output) or self.public(output)):
                continue
            lacking = line([before[index] for before, _ in trials], [after[index] for _, after in trials])
            if lacking is None or not (lacking.nothing or self.down(output, lacking)):
                return False
        return True

    @staticmethod
    def changed(node: Node, inputs: list[Array | None], slot: int, change: Change) -> list[Array | None]:
        return [change.of(x) if i == slot and x is not None else x for i, x in enumerate(inputs)]

    def outputs(self, node: Node) -> list[int]:
        return [i for i, v in enumerate(node.outputs) if self.readers(v) or self.public(v)]

    def seen(self, node: Node, inputs: list[Array | None]) -> Array:
        """All elements of the outputs that anybody reads."""
        results = run(node, inputs)
        return np.concatenate([results[i].reshape(-1) for i in self.outputs(node)])

    def overall(self, node: Node, value: Value, change: Change) -> Change:
        """`change` of the one output, none of the others that anybody reads."""
        shapes = [filled(node.outputs[i].shape or ()) for i in self.outputs(node)]
        none = [Change(np.ones(shape), np.zeros(shape)) for shape in shapes]
        parts = [change if node.outputs[i] is value else n for i, n in zip(self.outputs(node), none, strict=True)]
        return Change(*(np.concatenate([part.reshape(-1) for part in array]) for array in zip(*parts, strict=True)))

    def wanted(self, node: Node, change: Change) -> Iterator[list[Change | None]]:
        """All ways in which inputs can be changed so that what is seen is."""
        slots = [i for i, v in enumerate(node.inputs) if v is not None and v.tensor is None]
        depends = {slot: self.depends(node, slot) for slot in slots}
        kinds = list(product([False, True], repeat=len(slots)))
        for scaled, shifted in product(kinds, kinds):
            gain = self.gain(node, [slot for slot, shifts in zip(slots, shifted, strict=True) if shifts])
            shift = np.divide(change.b, gain, out=np.full(gain.shape, np.inf), where=gain != 0)
            found: list[Change | None] = [None] * len(node.inputs)
            for slot, scales, shifts in zip(slots, scaled, shifted, strict=True):
                a = traced(depends[slot], change.a) if scales else np.ones(())
                b = traced(depends[slot], shift) if shifts else np.zeros(())
                if a is None or b is None:
                    break
                shape = filled(node.inputs[slot].shape or ())  # type: ignore[union-attr]
                found[slot] = Change(*(np.broadcast_to(p.reshape(shape if p.ndim else ()), shape) for p in (a, b)))
            else:
                if all(self.holds(node, found, change) for _ in range(TRIALS)):
                    yield found

    def depends(self, node: Node, slot: int) -> Array:
        """(elements of the input, elements of the output): whether a large change of the one changes the other."""
        inputs = self.inputs(node)
        base, data = self.seen(node, inputs), inputs[slot]
        assert data is not None
        rows = []
        for element in range(data.size):
            hit = np.zeros(base.size, np.bool_)
            for step in (-100.0, 100.0):
                other = data.copy()
                other.reshape(-1)[element] += step
                hit |= self.seen(node, [other if i == slot else x for i, x in enumerate(inputs)]) != base
            rows.append(hit)
        return np.stack(rows)

    def gain(self, node: Node, slots: list[int]) -> Array:
        """By how much the elements of the output change where all of these inputs are shifted by 1."""
        inputs = self.inputs(node)
        shifted = [x + 1e-3 if i in slots and x is not None else x for i, x in enumerate(inputs)]
        return ((self.seen(node, shifted) - self.seen(node, inputs)) / 1e-3).round(9)  # type: ignore[no-any-return]

    def holds(self, node: Node, found: list[Change | None], change: Change) -> bool:
        inputs = self.inputs(node)
        changed = [x if c is None or x is None else c.of(x) for x, c in zip(inputs, found, strict=True)]
        wanted = change.a * self.seen(node, inputs) + change.b
        read = ~np.isnan(wanted)
        return np.allclose(self.seen(node, changed)[read], wanted[read], rtol=1e-9, atol=1e-9)


def altered(node: Node, inputs: list[Array | None], slot: int, change: Change) -> Array:
    return run(node, Brute.changed(node, inputs, slot, change))[0]


def biases(node: Node, bias: list[Array | None], shape: tuple[int, ...]) -> Iterator[Array]:
    """What a bias can add: one number an output channel, and what Gemm's adds already, by channel."""
    if node.op == "MatMul":
        return
    axis = 0 if node.op == "Gemm" and node.constant(1) is None else 1
    for channel in range(shape[axis]):
        one = np.zeros(shape)
        one[(slice(None),) * axis + (channel,)] = 1
        yield one
        if node.op == "Gemm" and bias and bias[0] is not None:
            yield one * bias[0]


def line(x: list[Array], y: list[Array]) -> Change | None:
    """Slope and offset of y over x, element by element; None where some element is on no line."""
    left, right = np.stack(x), np.stack(y)
    centred = left - left.mean(axis=0)
    spread = (centred**2).sum(axis=0)
    if (spread < 1e-12).any():
        return None
    a = (centred * (right - right.mean(axis=0))).sum(axis=0) / spread
    b = right.mean(axis=0) - a * left.mean(axis=0)
    return Change(a, b) if np.allclose(a * left + b, right, rtol=1e-9, atol=1e-9) else None


def traced(depends: Array, wanted: Array) -> Array | None:
    """Each element of the input as the elements of the output that depend on it; None where these disagree."""
    result = np.full(len(depends), np.nan)
    for element, row in enumerate(depends):
        values = wanted[row & ~np.isnan(wanted)]
        if values.size:
            result[element] = values[0]
            if not (np.isfinite(values).all() and np.allclose(values, values[0])):
                return None
    return result
