"""By how much a model grows when affines in it are written otherwise: constants that others read cannot be given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial

from ..ir.graph import Node, Value
from ..planner.affine import Affine
from ..planner.records import Chain
from .leftover import Place, leftover
from .messages import StoredNode, StoredTensor
from .schema import GraphProto
from .serialize import Content, framed, tensor_proto
from .uses import Uses


def growth(uses: Uses, buffer: memoryview, changes: Mapping[Chain, Affine | None]) -> int:
    """The bytes that are written for `changes`, less those that go: nodes, and constants that only they read."""
    nodes = [node for chain in changes for node in chain.nodes]
    reads = Counter(uses.base(v) for node in nodes for v in node.inputs if v is not None and v.tensor is not None)
    free = {base: _stored_size(uses, base) for base, count in reads.items() if uses.left(base) == count}
    gone = sum(free.values()) + sum(n.origin.end - n.origin.start for n in nodes if isinstance(n.origin, StoredNode))
    made: list[int] = []
    constant = partial(_constant, uses, free, made)
    for chain, affine in changes.items():
        if affine is not None:
            place = Place(buffer, GraphProto.NODE, chain.source.name, chain.target.name, str, "{}_{}".format, constant)
            made += [written.rope.size for written in leftover(chain, affine, place).values()]
    return sum(made) - gone


def _constant(
    uses: Uses, free: dict[Value, int], made: list[int], old: Value | None, wish: str, content: Content
) -> str:
    """The name that a constant will have, and into `made` the bytes that it takes in the model."""
    base = None if old is None else uses.base(old)
    own = free.pop(base, None) if base is not None else None
    if base is None or own is None:
        name = f"{wish if base is None else base.name}_folded_00"  # no name that is given here is longer
        made.append(framed(GraphProto.INITIALIZER, tensor_proto(name, content)).size)
        return name
    stored, held = uses.definition(base), base.tensor
    outside = isinstance(stored, StoredTensor) and stored.external is not None
    same = held is not None and (held.shape, held.dtype) == (content.shape, content.dtype)
    made.append(own if outside and same else framed(GraphProto.INITIALIZER, tensor_proto(base.name, content)).size)
    return base.name


def _stored_size(uses: Uses, value: Value) -> int:
    """The bytes that define a constant in the model's own file."""
    made = uses.definition(value)
    stored = made.origin if isinstance(made, Node) else made
    return stored.end - stored.start if isinstance(stored, StoredNode | StoredTensor) else 0
