"""What a plan says: per chain of affines where it goes, and for all that stays why. Data only.

The planner makes these records, the documents turn them into edits, the reports print them, the verifier reads which
values to compare.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..ir.graph import Node, Tensor, Value
from .affine import Absorbed, Affine, Layout

SCHEMA = 1
"""Version of the JSON form of a plan; raised when a field changes its meaning or goes."""


HINTS = {
    "affine": "see why that one stays",
    "axis": "only an affine along the channels of the weights fits into them",
    "bias": "what is left costs one addition",
    "dynamic": "have the exporter write it as a constant",
    "input": "it can be moved into the preprocessing of the input by hand",
    "memory": "give the layer in place a top of its own",
    "negative": "with the normalisation before the pooling or activation it folds, which is another network",
    "nonlinear": "with the normalisation next to a convolution it folds, which is another network",
    "output": "if nobody needs that value, take it out of the outputs",
    "padding": "with a convolution that does not pad it folds, which is another network",
    "quantization-scales": "--fold-quantized folds all the same; the scales are then to be measured anew",
    "readers": "if the other readers are not needed, cut them off",
}
"""What can be done, by the code of a refusal that brings no hint of its own."""


_BN = r"BN(?![a-z]|LL)"
"""In the name of a type, but for BNLL, which is an activation."""


def is_batch_norm(kind: str) -> bool:
    """Whether a type is a BatchNorm by its name, in any of the spellings of Caffe, its forks and ONNX."""
    return re.search(f"BatchNorm|{_BN}", kind) is not None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot take an affine: a stable `code`, a sentence, and who stands in the way."""

    code: str
    sentence: str
    at: str = ""
    hint: str = ""

    @property
    def advice(self) -> str:
        """How it could fold after all: the hint, or what helps against refusals of this code."""
        return self.hint or HINTS.get(self.code, "")


@dataclass(frozen=True, slots=True)
class Linear:
    """y = gain·(W x) + bias_gain·bias with constant W and bias.

    `out_axis` is the axis of y that carries W's output channels, `in_axis` that of x for its input channels.
    `data_slot`, `weight_slot`, `bias_slot` are inputs of the node; `bias_slot` is None where the operator has no bias.
    `edge` is the reason why a shift of x cannot be absorbed: at its border the operator reads zeros. `holder` is the
    DequantizeLinear that makes quantised weights, whose scale takes multipliers in their stead.
    """

    weight: Tensor
    bias: Tensor | None
    layout: Layout
    out_axis: int
    in_axis: int
    data_slot: int = 0
    weight_slot: int = 1
    bias_slot: int | None = 2
    gain: float = 1.0
    bias_gain: float = 1.0
    edge: Refusal | None = None
    holder: Node | None = None


@dataclass(eq=False, slots=True)
class Chain:
    """A maximal run of affine nodes, each the only reader of the one before: target = affine(source)."""

    nodes: list[Node]
    source: Value
    target: Value
    affine: Affine


@dataclass(eq=False, slots=True)
class Decision:
    """What becomes of one chain.

    `way`: "up" (into the operators before it), "down" (into those behind it), "both" (the multiplier one way, the shift
    the other), "same" (a chain of which `above` holds the last node computes it already), "drop" (it does nothing),
    "merge" (its own nodes become fewer), "keep".
    `above`, `below`: the nodes before and behind it whose constants take it; `merged` when these are affines of
    another chain, which stays. `through`: the nodes that it passes on the way.
    `leftover`: the affine that stays in the place of the chain, None when nothing does. `untouched`: the chain is left
    exactly as it is.
    `reasons`: why it, or what is left of it, could not go up and could not go down.
    """

    chain: Chain
    way: str = "keep"
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)
    through: list[Node] = field(default_factory=list)
    merged: bool = False
    leftover: Affine | None = None
    untouched: bool = False
    reasons: list[Refusal] = field(default_factory=list)

    @property
    def into(self) -> list[Node]:
        """All nodes whose constants take it."""
        return [*self.above, *self.below]


@dataclass(frozen=True, slots=True)
class Stayed:
    """A BatchNorm (or affine look-alike with a constant) that is no per-channel affine at all, and why."""

    node: str
    type: str
    reason: Refusal


@dataclass(frozen=True, slots=True)
class Opaque:
    """A layer that is not understood: folds go around it, or take a `source` for an input of the net.

    `where`: file, line and column of the layer or the field.
    """

    layer: str
    type: str
    reason: str
    where: str
    source: bool = False

    @property
    def normalises(self) -> bool:
        """Whether it is a normalisation by its name, and so a BatchNorm that may have been left."""
        return not self.source and re.search(f"(?i:norm)|{_BN}", self.type) is not None


@dataclass(frozen=True, slots=True)
class Notice:
    """What a user has to know of a model that was read. `strict`: it is a fault where `Options.strict` is asked for."""

    code: str
    sentence: str
    where: str = ""
    hint: str = ""
    strict: bool = False


@dataclass(eq=False, slots=True)
class Plan:
    """All decisions over one graph, and what the edited graph looks like.

    `weights`: for each linear node whose parameters change, what it is and what it absorbs. `aliases`: a value that
    vanishes -> the value its readers read instead (follow with `resolve`). `names`: a surviving value -> the name it
    takes over from a value that vanishes (so that each name that survives at the end of a fold has the content it had).
    """

    decisions: list[Decision] = field(default_factory=list)
    stayed: list[Stayed] = field(default_factory=list)
    weights: dict[Node, tuple[Linear, Absorbed]] = field(default_factory=dict)
    aliases: dict[Value, Value] = field(default_factory=dict)
    names: dict[Value, str] = field(default_factory=dict)

    def resolve(self, value: Value) -> Value:
        """The value that stands for `value` in the edited graph."""
        while value in self.aliases:
            value = self.aliases[value]
        return value

    def name(self, value: Value) -> str:
        """The name of a surviving value in the edited graph."""
        return self.names.get(value, value.name)

    @property
    def changes(self) -> bool:
        """False when there is nothing to fold, merge or drop."""
        return any(not d.untouched for d in self.decisions)


@dataclass(frozen=True, slots=True)
class Style:
    """What affines cost in a document, so that the planner can tell whether a leftover is cheaper than its chain.

    An operation costs 1, a BatchNormalization `batch_norm`; on top comes `layer` for each layer that holds them.
    `unread_outputs`: a document's outputs are what nothing reads, so that an output must not come to be read.
    `unranked`: it can write an affine along the channels, axis 1, of a value whose rank is not known.
    `growth`: by how many bytes the document grows when chains are written as other affines, or go (None).
    """

    batch_norm: int
    layer: int = 0
    unread_outputs: bool = False
    unranked: bool = False
    growth: Callable[[Mapping[Chain, Affine | None]], int] = lambda _: 0

    def cost(self, nodes: Sequence[Node]) -> int:
        """Of a chain's nodes as they stand. A BatchNormalization may stand for one operation of another layer."""
        normal = [node.op == "BatchNormalization" and is_batch_norm(node.type) for node in nodes]
        operations = sum(self.batch_norm if found else 1 for found in normal)
        return operations + self.layer * len({node.origin for node in nodes})

    def price(self, affine: Affine) -> int:
        """Of `affine` written anew: one layer with a multiplication, an addition or both."""
        return affine.scales + affine.shifts + self.layer
