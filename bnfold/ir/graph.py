"""The one view of a network: ONNX's operators over values in single assignment form.

Both documents (Caffe, ONNX) lower themselves to this graph; the planner, the exporter and the verifier read nothing
else. A value is written once, knows its producer and all its readers, and may carry a constant. A node remembers in
`origin` the layer or node of the document that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Shape = tuple[int | None, ...]
Array = npt.NDArray[Any]


class Contradiction(Exception):  # noqa: N818 - the model's fault, not the program's
    """Raised by a shape rule: a node's inputs and attributes contradict each other. The text says how."""


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A constant: shape and dtype are known at once, the array only when `load` is called.

    `key` names the tensor inside its document, so that two tensors with one key are one stored tensor.
    """

    key: Hashable
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Array]

    def float64(self) -> npt.NDArray[np.float64]:
        """The values in float64, in which all folding is done."""
        return self.load().astype(np.float64).reshape(self.shape)


@dataclass(eq=False, slots=True)
class Value:
    """One blob or tensor between nodes. An unknown shape is None, an unknown extent is None inside the shape.

    `readers` has one entry a read. `public` says why the content under this name must not change ("" if it may):
    "an output of the net", "kept by the user", "read inside a subgraph". `note` says more of a value that is public,
    or that could have been a constant and is none: a code and a hint (an initializer that the caller may override).
    """

    name: str
    shape: Shape | None = None
    dtype: np.dtype[Any] | None = None
    producer: Node | None = None
    readers: list[Node] = field(default_factory=list)
    tensor: Tensor | None = None
    public: str = ""
    note: tuple[str, str] | None = None

    @property
    def omitted(self) -> bool:
        """Whether it holds the place of an output that is not there: ONNX writes that as an empty name."""
        return not (self.name or self.readers or self.public)

    @property
    def rank(self) -> int | None:
        """How many axes; None where the shape is not known."""
        return None if self.shape is None else len(self.shape)

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.shape})"


@dataclass(eq=False, slots=True)
class Node:
    """One operator: `op` is ONNX's op_type, with the domain and a dot before it outside the standard domain.

    `fixed` marks a node that must stay as it is although it looks like an affine, because it is a part of a layer.
    `version` is the opset of the node's domain. `contradiction` says how its inputs and attributes contradict each
    other, "" where they do not: only broken models have such nodes, whose outputs are unknown.
    """

    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    attributes: Mapping[str, Any]
    origin: Hashable
    name: str
    version: int
    fixed: bool = False
    contradiction: str = ""

    def attribute(self, name: str, default: Any) -> Any:
        """The attribute `name`, or `default`."""
        return self.attributes.get(name, default)

    def input(self, index: int) -> Value | None:
        """The value at `index`, None where the input is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> Tensor | None:
        """The constant at input `index`, None where that input is absent or is not a constant."""
        value = self.input(index)
        return None if value is None else value.tensor

    @property
    def type(self) -> str:
        """What the document calls it: the type of the layer that it came from, else the operator."""
        return str(getattr(self.origin, "type", self.op))

    @property
    def label(self) -> str:
        """Type and name, for sentences."""
        return f"{self.type} {self.name!r}"

    def __repr__(self) -> str:
        return f"Node({self.op}, {self.name!r})"


class Graph:
    """Nodes in topological order over their values, with named inputs and outputs.

    `notes` says of a normalisation that was lowered to something else than an affine why: a stable code and a
    sentence. The key is its node, or the origin of its nodes. `held` says of a linear operator, by its
    origin, why its weights take no affine: code, and sentence behind its name.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self.notes: dict[Hashable, tuple[str, str]] = {}
        self.held: dict[Hashable, tuple[str, str]] = {}

    def add_input(self, value: Value) -> Value:
        """Enter an input of the net, and return it."""
        self.inputs.append(value)
        return value

    def add_output(self, value: Value) -> None:
        """Enter an output of the net, whose content must stay."""
        value.public = value.public or "an output of the net"
        self.outputs.append(value)

    def add_node(
        self,
        op: str,
        inputs: Iterable[Value | None],
        outputs: Iterable[Value],
        attributes: Mapping[str, Any],
        *,
        origin: Hashable,
        name: str,
        version: int,
    ) -> Node:
        """Append a node behind its producers, and enter it as a reader of its inputs and producer of its outputs."""
        node = Node(op, list(inputs), list(outputs), attributes, origin, name, version)
        for value in node.inputs:
            if value is not None:
                value.readers.append(node)
        for value in node.outputs:
            value.producer = node
        self.nodes.append(node)
        return node


BLIND: dict[str, frozenset[int]] = {
    "Shape": frozenset({0}),
    "Size": frozenset({0}),
    "EyeLike": frozenset({0}),
    "CastLike": frozenset({1}),
    "RandomNormalLike": frozenset({0}),
    "RandomUniformLike": frozenset({0}),
}
"""Operator -> the inputs of which it reads shape or type and no content: a fold changes neither."""


def reads_content(node: Node, value: Value) -> bool:
    """Whether the content of `value` matters to `node`, which reads it."""
    blind = BLIND.get(node.op)
    return blind is None or any(v is value and i not in blind for i, v in enumerate(node.inputs))


def content_readers(value: Value) -> list[Node]:
    """The readers of `value` that its content matters to, one entry a read."""
    return [node for node in value.readers if reads_content(node, value)]
