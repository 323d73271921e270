"""Every graph of a model as the planner sees it: the main graph, bodies of control flow, model-local functions.

A scope joins a stored graph with its Graph. Names of outer graphs are visible in bodies; a body that reads one has a
Value of its own for it, linked to the outer one. Nodes that only compute constants are no part of the Graph: their
outputs carry the constant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError
from ..ir.element_types import OPAQUE
from ..ir.graph import BLIND, Graph, Node, Tensor, Value
from ..ir.shapes.table import SHAPES, infer
from .constants import Expressions
from .messages import Reference, StoredGraph, StoredModel, StoredNode, StoredSparse, StoredTensor, StoredValue
from .order import CycleError, FreeNames, arranged, misplaced
from .read import read_type
from .signatures import misuse
from .tensors import Tensors

_OVERRIDABLE = ("overridable", "it is an input with a default that callers may override; --freeze takes the default")
_QUANTISED = ("quantised", "fold before quantising")
_UNREADABLE = ("dtype", "")


@dataclass(eq=False, slots=True)
class Scope:
    """One graph of the model.

    `definitions`: where a constant is stored, an initializer or the Node that makes it. `outer`: a value of this scope
    that stands for one of an enclosing graph. `captures`: the reverse. `pinned`: how many uses a value has besides
    reads by nodes (outputs, annotations). `frozen`: graph inputs that are taken for initializers. `nodes`: the stored
    nodes, each behind those that it reads.
    """

    stored: StoredGraph
    graph: Graph
    parent: Scope | None
    opsets: Mapping[str, int]
    values: dict[str, Value] = field(default_factory=dict)
    definitions: dict[Value, StoredTensor | StoredSparse | Node] = field(default_factory=dict)
    outer: dict[Value, Value] = field(default_factory=dict)
    captures: dict[Value, list[Value]] = field(default_factory=dict)
    pinned: Counter[Value] = field(default_factory=Counter)
    frozen: list[StoredValue] = field(default_factory=list)
    holder: StoredNode | None = None
    nodes: Sequence[StoredNode] = ()


class Builder:
    """Builds the scopes of one model, the main graph first. Raises InputError where the model contradicts itself."""

    def __init__(self, model: StoredModel, tensors: Tensors, freeze: bool) -> None:
        self.model = model
        self.tensors = tensors
        self.freeze = freeze
        self.where = model.data.where
        self.expressions = Expressions()
        self.names = FreeNames()
        self.functions = {(f.domain, f.name) for f in model.functions}
        self.scopes: list[Scope] = []

    def build(self) -> list[Scope]:
        """The scopes: the main graph and those in it, outermost first, then the functions."""
        pin(self._scope(self.model.graph, None, self.model.opsets), self.model.trained, "used in training")
        for function in self.model.functions:
            self._scope(function, None, function.opsets)
        return self.scopes

    def _fault(self, what: str, node: StoredNode | None = None, hint: str = "") -> InputError:
        place = f"{self.where}, node {node.name or node.outputs[:1]} ({node.op})" if node else self.where
        return InputError(what, where=place, hint=hint)

    def _scope(self, stored: StoredGraph, parent: Scope | None, opsets: Mapping[str, int]) -> Scope:
        scope = Scope(stored, Graph(stored.name), parent, opsets, nodes=self._arranged(stored, parent))
        self.scopes.append(scope)
        infos = {info.name: info for info in stored.infos}
        inputs = {value.name: value for value in stored.inputs}
        tensors: list[StoredTensor | StoredSparse] = [*stored.initializers, *stored.sparse]
        for tensor in tensors:
            self._initializer(scope, tensor, inputs.pop(tensor.name, None))
        for name in (*inputs, *stored.names):
            value = self._define(scope, name)
            self._declare(value, inputs.get(name) or infos.get(name))
            scope.graph.add_input(value)
        for node in scope.nodes:
            self._node(scope, node, infos)
        for name in (*(value.name for value in stored.outputs), *stored.results):
            result = self._find(scope, name)
            if result is None:
                raise self._fault(f"the output {name!r} is computed by no node")
            scope.graph.add_output(result)
            scope.pinned[result] += 1
        pin(scope, stored.mentioned, "named by a quantisation annotation")
        for output in stored.outputs:
            self._declare(scope.values[output.name], output)
        return scope

    def _arranged(self, stored: StoredGraph, parent: Scope | None) -> Sequence[StoredNode]:
        """The nodes of `stored`, sorted. A name that is read before it is made must not be one of a graph around."""
        try:
            nodes = arranged(stored, self.names)
        except CycleError as error:
            what = f"reads {error.name!r}, which in the end is made from the node's own output"
            raise self._fault(what, error.node) from None
        early = set() if nodes is stored.nodes else misplaced(stored, self.names)
        while parent is not None:
            for name in sorted(early & self.names.defined(parent.stored)):
                raise self._twice(name)
            parent = parent.parent
        return nodes

    def _twice(self, name: str) -> InputError:
        return self._fault(f"the name {name!r} is given to two values", hint="every value needs a name of its own")

    def _define(self, scope: Scope, name: str) -> Value:
        if name in scope.values:
            raise self._twice(name)
        value = scope.values[name] = Value(name)
        return value

    def _declare(self, value: Value, info: StoredValue | None) -> None:
        """Fill what is not known of a value from what the model says of it."""
        if info is not None and info.type is not None and (value.shape is None or value.dtype is None):
            dtype, shape = read_type(self.model.data, info.type)
            value.dtype = value.dtype or dtype
            value.shape = shape if value.shape is None else value.shape

    def _initializer(self, scope: Scope, stored: StoredTensor | StoredSparse, given: StoredValue | None) -> None:
        value = self._define(scope, stored.name)
        reader = self.tensors
        tensor = reader.sparse(stored, stored) if isinstance(stored, StoredSparse) else reader.dense(stored, stored)
        scope.definitions[value] = stored
        self._hold(value, tensor)
        if given is None or (self.model.ir_version < 4 and scope.parent is None):
            return
        if self.freeze and scope.parent is None:
            scope.frozen.append(given)
            return
        value.tensor, value.note = None, _OVERRIDABLE
        scope.graph.add_input(value)
        scope.pinned[value] += 1

    def _hold(self, value: Value, tensor: Tensor) -> None:
        """Make `value` the constant `tensor`, unless its type is one that is not read."""
        value.shape = tensor.shape
        if tensor.dtype == OPAQUE:
            value.note = _UNREADABLE
        else:
            value.tensor, value.dtype = tensor, tensor.dtype

    def _find(self, scope: Scope, name: str) -> Value | None:
        """The value of this name that is visible in `scope`: its own, or one that stands for an outer graph's."""
        own = scope.values.get(name)
        if own is not None or scope.parent is None:
            return own
        outer = self._find(scope.parent, name)
        if outer is None:
            return None
        value = scope.values[name] = Value(name, outer.shape, outer.dtype, tensor=outer.tensor, note=outer.note)
        scope.outer[value] = outer
        scope.parent.captures.setdefault(outer, []).append(value)
        if outer.tensor is None:
            outer.public = outer.public or "read inside a subgraph"
        return value

    def _read(self, scope: Scope, name: str, node: StoredNode) -> Value | None:
        if not name:
            return None
        value = self._find(scope, name)
        if value is None:
            raise self._fault(f"reads {name!r}, which nothing defines", node, "was it cut out of a larger model?")
        return value

    def _node(self, scope: Scope, stored: StoredNode, infos: Mapping[str, StoredValue]) -> None:
        inputs = [self._read(scope, name, stored) for name in stored.inputs]
        for inner in stored.graphs:
            self._scope(inner, scope, scope.opsets).holder = stored
        outputs = [self._define(scope, name) if name else Value("") for name in stored.outputs]
        op, version = self._operator(scope, stored)
        attributes = self._attributes(stored)
        name = stored.name or next((name for name in stored.outputs if name), "")
        node = Node(op, inputs, outputs, attributes, stored, name, version)
        if op in SHAPES and (fault := misuse(node)):
            raise self._fault(fault, stored)
        if op == "opaque.BatchNormalization":
            scope.graph.notes[node] = ("reference", f"an attribute of {name!r} is given by those who call its function")
        if self._constant(node):
            scope.definitions[outputs[0]] = node
        else:
            for output in outputs:
                self._declare(output, infos.get(output.name))
            infer(node)
            scope.graph.nodes.append(node)
        _connect(node)

    def _operator(self, scope: Scope, stored: StoredNode) -> tuple[str, int]:
        """The operator's name in the Graph, and the version of its domain."""
        version = scope.opsets.get(stored.domain)
        if version is None and not stored.domain:
            if self.model.ir_version >= 3:
                raise self._fault("the model does not import the standard operators", stored)
            version = 1
        op = f"{stored.domain}.{stored.op}" if stored.domain else stored.op
        if (stored.domain, stored.op) in self.functions:
            return f"function.{op}", version or 0
        if any(isinstance(value, Reference) for value in stored.attributes.values()):
            return f"opaque.{op}", version or 0
        return op, version or 0

    def _attributes(self, stored: StoredNode) -> Mapping[str, Any]:
        """The node's attributes, tensors as constants."""
        found = stored.attributes
        if not any(isinstance(value, StoredTensor) for value in found.values()):
            return found
        made = {k: v for k, v in found.items() if not isinstance(v, StoredTensor)}
        for name, value in found.items():
            if isinstance(value, StoredTensor):
                made[name] = self.tensors.dense(value, (stored, name), stored.outputs[0] if stored.outputs else "")
        return made

    def _constant(self, node: Node) -> bool:
        """Give the node's output the constant that it computes, if it computes one."""
        if len(node.outputs) != 1 or not node.outputs[0].name:
            return False
        known = [value is not None and value.tensor is not None for value in node.inputs]
        blind = BLIND.get(node.op, ())
        if node.op == "Constant":
            tensor = self._literal(node)
        elif any(known) and all(is_constant or slot in blind for slot, is_constant in enumerate(known)):
            infer(node)
            tensor = None if node.contradiction else self.expressions.tensor(node)
        else:
            return False
        if tensor is not None:
            self._hold(node.outputs[0], tensor)
        return tensor is not None and tensor.dtype != OPAQUE

    def _literal(self, node: Node) -> Tensor | None:
        """The constant that a Constant node holds in one of its attributes."""
        names: Sequence[tuple[str, Any]] = (("value_float", np.float32), ("value_floats", np.float32))
        for name, dtype in (*names, ("value_int", np.int64), ("value_ints", np.int64)):
            if name in node.attributes:
                array = np.asarray(node.attributes[name], dtype)
                return Tensor(node, array.shape, array.dtype, partial(np.asarray, array))
        value = node.attributes.get("value")
        if isinstance(value, Tensor):
            return value
        sparse = node.attributes.get("sparse_value")
        return self.tensors.sparse(sparse, node) if isinstance(sparse, StoredSparse) else None


def _connect(node: Node) -> None:
    """Enter the node with its inputs as a reader and with its outputs as the producer."""
    for value in node.inputs:
        if value is not None:
            value.readers.append(node)
    for value in node.outputs:
        value.producer = node
        if node.op == "DequantizeLinear" and node.constant(0) is not None:
            value.note = _QUANTISED


def stored_node(node: Node) -> StoredNode:
    """The node in the file that `node` was made of. Raises TypeError where it is no node of an ONNX model."""
    if not isinstance(node.origin, StoredNode):
        raise TypeError(f"{node!r} is no node of an ONNX model")
    return node.origin


def pin(scope: Scope, names: Iterable[str], reason: str) -> set[str]:
    """Have the values of these names stay as they are, for `reason`; returns those of the names that the graph has."""
    found = {name for name in names if name in scope.values}
    for name in found:
        value = scope.values[name]
        value.public = value.public or reason
        scope.pinned[value] += 1
    return found
