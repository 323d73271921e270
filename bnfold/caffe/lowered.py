"""A Caffe net when it has been lowered: its graph, and which nodes and values each of its layers has become."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InputError
from ..ir.graph import Graph, Node, Value
from ..planner.records import Notice, Opaque
from .net import Layer


@dataclass(frozen=True, eq=False, slots=True)
class LoweredLayer:
    """A layer, the values of its bottoms and tops in its order, and the nodes that compute them."""

    layer: Layer
    bottoms: list[Value]
    tops: list[Value]
    nodes: list[Node]


@dataclass(eq=False, slots=True)
class Lowered:
    """`opaque` says of each layer that has no description here why, `sources` of those that are taken for inputs.

    `clobbered` are the reads of overwritten memory; `frozen` is all that lies in such memory, and `unproven` the blobs
    there that are outputs of the net, which the graph does not have.
    """

    graph: Graph
    layers: list[LoweredLayer] = field(default_factory=list)
    opaque: dict[Layer, Opaque] = field(default_factory=dict)
    sources: list[Opaque] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    clobbered: list[InputError] = field(default_factory=list)
    frozen: set[Value] = field(default_factory=set)
    unproven: list[str] = field(default_factory=list)
