"""A model with its edits as pieces to write: untouched spans of the file, and what changed between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..protobuf import Lazy, Rope, fields
from .data_files import literals_of, tensors_of
from .edit import Edit
from .graphs import Scope
from .messages import StoredModel, StoredNode, StoredTensor
from .schema import GraphProto, NodeProto
from .serialize import Content, constant_node, framed, tensor_proto, value_info
from .splice import Splice, number_at, rewired, tensor_at, tensor_with
from .tensors import External


class Storage:
    """Where external data of the result lies: `names` has the new name of each location that the result refers to.

    Changed tensors are patched in place.
    """

    def __init__(self, external: External, names: Mapping[str, str]) -> None:
        self.external = external
        self.names = names
        self.patches: dict[str, dict[int, tuple[int, Lazy]]] = defaultdict(dict)

    def tensor(self, buffer: memoryview, stored: StoredTensor, content: Content | None) -> Rope | None:
        """The TensorProto `stored` as it is written, None where it is written as it was."""
        if stored.external is None:
            return None if content is None else tensor_with(buffer, stored, content)
        location = stored.external.get("location", "")
        if content is not None:
            _, offset, length = self.external.span(stored, content.size)
            self.patches[location][offset] = (offset + length, content.lazy())
        elif self.names[location] == location:
            return None
        return tensor_at(buffer, stored, self.names[location], content is not None)

    def files(self) -> dict[str, Rope]:
        """The content of each data file by its old location."""
        result = {}
        for location in self.names:
            content = self.external.files[location]
            splice = Splice(content, 0, len(content))
            for start, (end, lazy) in self.patches[location].items():
                splice.replace(start, end, Rope(lazy))
            result[location] = splice.rope()
        return result


@dataclass(eq=False)
class Renderer:
    """Writes one model with the edits of its scopes.

    Nodes are written in an order in which each stands behind what it reads, unless no edit changes anything at all and
    `sorts` does not ask for it.
    """

    model: StoredModel
    edits: Mapping[Scope, Edit]
    storage: Storage
    inner: dict[StoredNode, list[Scope]] = field(default_factory=lambda: defaultdict(list))
    moving: bool = False
    sorts: bool = False

    def rope(self) -> Rope:
        """The ModelProto."""
        self.moving = any(old != new for old, new in self.storage.names.items())
        buffer = self.model.data.buffer
        whole = Splice(buffer, 0, len(buffer))
        edits = self.edits.items()
        changed = {scope for scope, edit in edits if edit.changes or scope.frozen}
        self.sorts = self.sorts or bool(changed)
        if self.sorts:
            changed |= {scope for scope in self.edits if scope.nodes is not scope.stored.nodes}
        changed |= {scope for scope in self.edits if self._moved(scope)}
        for scope in list(changed):
            self._mark(scope, changed)
        for scope in self.edits:
            if scope in changed and scope.holder is None:
                stored = scope.stored
                whole.replace(stored.start, stored.end, framed(number_at(buffer, stored.start), self._graph(scope)))
        return whole.rope()

    def _mark(self, scope: Scope, changed: set[Scope]) -> None:
        """Enter the scopes around `scope` as changed, and which node of each holds the inner one."""
        while scope.holder is not None and scope.parent is not None:
            held = self.inner[scope.holder]
            if scope in held:
                return
            held.append(scope)
            changed.add(scope.parent)
            scope = scope.parent

    def _moved(self, scope: Scope) -> bool:
        """Whether any tensor of the graph has external data under a name that changes."""
        return self.moving and any(stored.external is not None for stored in tensors_of(scope.stored))

    def _graph(self, scope: Scope) -> Rope:
        """The GraphProto or FunctionProto."""
        edit, stored, buffer = self.edits[scope], scope.stored, self.model.data.buffer
        splice = Splice(buffer, stored.body, stored.end)
        for place, node in zip(stored.nodes, scope.nodes if self.sorts else stored.nodes, strict=True):
            by = self._node(node, edit)
            if by is not None or place is not node:
                splice.replace(place.start, place.end, Rope(buffer[node.start : node.end]) if by is None else by)
        for tensor_ in stored.initializers:
            if tensor_ in edit.removed:
                splice.replace(tensor_.start, tensor_.end)
            elif (by := self.storage.tensor(buffer, tensor_, edit.contents.get(tensor_))) is not None:
                splice.replace(tensor_.start, tensor_.end, framed(GraphProto.INITIALIZER, by))
        for sparse in stored.sparse:
            if sparse in edit.removed:
                splice.replace(sparse.start, sparse.end)
        lost = {found.name for found in edit.removed}
        drop = [value for value in stored.inputs if value in scope.frozen or value.name in lost]
        drop += [info for info in stored.infos if info.name in edit.gone]
        for value in drop:
            splice.replace(value.start, value.end)
        self._add(scope, splice)
        return splice.rope()

    def _add(self, scope: Scope, splice: Splice) -> None:
        """New outputs, and new constants: initializers where the graph can have them, else Constant nodes."""
        stored, old = scope.stored, self.model.ir_version < 4
        first = stored.nodes[0].start if stored.nodes else stored.body
        ahead = Rope()
        for output in self.edits[scope].outputs:
            splice.tail.add(framed(GraphProto.OUTPUT, output))
        for name, content in self.edits[scope].added.items():
            if stored.function or (old and scope.parent is not None):
                ahead.add(framed(stored.node_field, constant_node(name, content)))
                continue
            splice.tail.add(framed(GraphProto.INITIALIZER, tensor_proto(name, content)))
            if old:
                splice.tail.add(framed(GraphProto.INPUT, value_info(name, content.dtype, content.shape)))
        if ahead.size:
            splice.insert(first, ahead)

    def _node(self, node: StoredNode, edit: Edit) -> Rope | None:
        """What stands in the place of `node`, None where nothing of it changes."""
        if node in edit.instead:
            return edit.instead[node].rope
        buffer, wires = self.model.data.buffer, edit.wires.get(node)
        parts = self._parts(node, edit)
        if wires is None and not parts:
            return None
        splice = rewired(buffer, node, wires) if wires is not None else Splice(buffer, node.body, node.end)
        for at in fields(buffer, node.body, node.end) if parts else ():
            within = {start: part for start, part in parts.items() if at.body <= start < at.end}
            if at.number == NodeProto.ATTRIBUTE and within:
                attribute = Splice(buffer, at.body, at.end)
                for start, (end, by) in within.items():
                    attribute.replace(start, end, framed(number_at(buffer, start), by))
                splice.replace(at.start, at.end, framed(at.number, attribute.rope()))
        return framed(number_at(buffer, node.start), splice.rope())

    def _parts(self, node: StoredNode, edit: Edit) -> dict[int, tuple[int, Rope]]:
        """Graphs and tensors among the node's attributes that change, by their place."""
        parts = {s.stored.start: (s.stored.end, self._graph(s)) for s in self.inner.get(node, ())}
        for stored in literals_of(node) if self.moving or node in edit.literals else ():
            by = self.storage.tensor(self.model.data.buffer, stored, edit.contents.get(stored))
            if by is not None:
                parts[stored.start] = (stored.end, by)
        return parts
