"""What plans do to a model: which nodes go, what the others read, and which constants change, over all its graphs."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

from ..ir.graph import Graph, Node, Value
from ..ir.names import Names
from ..planner.records import Plan
from ..protobuf import Rope
from .graphs import Scope, stored_node
from .leftover import Place, leftover
from .messages import StoredNode, StoredSparse, StoredTensor
from .parameters import Job, jobs
from .serialize import Content
from .splice import Wires, Written
from .uses import Uses

_NOTHING = Written(Rope())


@dataclass(eq=False, slots=True)
class Edit:
    """The changes to one graph.

    `wires`: nodes that read or write other names. `instead`: what stands in the place of a node. `contents`: stored
    tensors with new values; `literals`: the Constant nodes among whose attributes they are. `removed`: initializers
    that go. `added`: new constants by name. `gone`: names that no value has any more. `outputs`: new graph outputs.
    """

    wires: dict[StoredNode, Wires] = field(default_factory=dict)
    instead: dict[StoredNode, Written] = field(default_factory=dict)
    contents: dict[StoredTensor, Content] = field(default_factory=dict)
    literals: dict[StoredNode, StoredTensor] = field(default_factory=dict)
    removed: set[StoredTensor | StoredSparse] = field(default_factory=set)
    added: dict[str, Content] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    outputs: list[Rope] = field(default_factory=list)

    def wires_of(self, stored: StoredNode) -> Wires:
        """The wires of a node, to be changed."""
        if stored not in self.wires:
            self.wires[stored] = Wires(list(stored.inputs), list(stored.outputs))
        return self.wires[stored]

    @property
    def changes(self) -> bool:
        """Whether anything of the graph is written otherwise."""
        return any((self.wires, self.instead, self.contents, self.removed, self.added, self.outputs))


class Editor:
    """Turns the plans of a model's graphs into edits. Tensors in `fixed` are never given new values in their place."""

    def __init__(
        self, buffer: memoryview, scopes: Sequence[Scope], plans: Mapping[Graph, Plan], fixed: Collection[StoredTensor]
    ) -> None:
        self.buffer = buffer
        self.fixed = fixed
        self.scopes = scopes
        self.plans = {scope: plans[scope.graph] for scope in scopes if scope.graph in plans}
        self.edits = {scope: Edit() for scope in scopes}
        self.uses = Uses(scopes)
        self.claimed: set[Value] = set()

    def run(self) -> Mapping[Scope, Edit]:
        """The edits of all graphs."""
        plans = [(scope, plan) for scope, plan in self.plans.items() if plan.changes]
        work: list[tuple[Scope, Job]] = []
        for scope, plan in plans:
            self._take_out(scope, plan)
        for scope, plan in plans:
            self._leftovers(scope, plan)
            self._rewire(scope, plan)
            work += [(scope, job) for job in jobs(plan)]
        self._place(work)
        self.uses.sweep()
        for value in self.uses.unread:
            self._undefine(value)
        for scope, plan in self.plans.items():
            self.edits[scope].gone -= set(plan.names.values())
        return self.edits

    @cached_property
    def names(self) -> Names:
        """Gives out names that no value of any graph has."""
        return Names(name for scope in self.scopes for name in scope.values)

    @cached_property
    def titles(self) -> Names:
        """Gives out names that no node of any graph has."""
        return Names(node.name for scope in self.scopes for node in scope.stored.nodes)

    def title(self, old: str, op: str) -> str:
        """The name of a new node that stands in the place of one called `old`; none where that had none."""
        return self.titles.unique(f"{old}_{op}") if old else ""

    def _take_out(self, scope: Scope, plan: Plan) -> None:
        """Take out the nodes of chains."""
        edit = self.edits[scope]
        for decision in plan.decisions:
            for node in () if decision.untouched else decision.chain.nodes:
                edit.instead[stored_node(node)] = _NOTHING
                self.uses.drop(node.inputs)
                edit.gone.update(value.name for value in node.outputs)

    def _leftovers(self, scope: Scope, plan: Plan) -> None:
        """Write what stays of chains."""
        edit, constant, number = self.edits[scope], partial(self._constant, scope), scope.stored.node_field
        for decision in plan.decisions:
            if decision.leftover is not None and not decision.untouched:
                chain = decision.chain
                names = _present_name(plan, chain.source), plan.name(chain.target)
                place = Place(self.buffer, number, *names, self.names.unique, self.title, constant)
                edit.instead.update(leftover(chain, decision.leftover, place))
                edit.gone.discard(names[1])

    def _constant(self, scope: Scope, old: Value | None, wish: str, content: Content) -> str:
        """Enter a constant of a leftover; returns its name."""
        base = None if old is None else self.uses.base(old)
        if base in self.uses.home and base not in self.claimed and not self.uses.left(base):
            self.claimed.add(base)
            self.uses.keep(base)
            self._replace(base, content)
            return base.name
        name = self.names.unique(wish if base is None else f"{base.name}_folded")
        self.edits[scope].added[name] = content
        return name

    def _rewire(self, scope: Scope, plan: Plan) -> None:
        """Have all nodes read and write the names that values have now."""
        edit = self.edits[scope]
        touched = [node for value in plan.aliases for node in value.readers]
        for value in plan.names:
            edit.gone.add(value.name)
            touched += [value.producer] if value.producer is not None else []
            touched += value.readers
        for node in dict.fromkeys(touched):
            if stored_node(node) not in edit.instead:
                wires = edit.wires_of(stored_node(node))
                wires.inputs = ["" if value is None else _present_name(plan, value) for value in node.inputs]
                wires.outputs = [plan.name(value) for value in node.outputs]

    def _place(self, work: Sequence[tuple[Scope, Job]]) -> None:
        """Put new constants where the old ones are if nobody else reads those, else beside them."""
        groups: dict[Value, list[tuple[Scope, Job]]] = {}
        for scope, job in work:
            if job.old is not None:
                groups.setdefault(self.uses.base(job.old), []).append((scope, job))
        alone = {
            base
            for base, group in groups.items()
            if len({self._identity(job) for _, job in group}) == 1 and self.uses.left(base) == len(group)
        }
        names: dict[object, str] = {}
        for scope, job in work:
            base = None if job.old is None else self.uses.base(job.old)
            wires = None
            if base is None or base not in alone:
                wires = self.edits[scope].wires_of(stored_node(job.node))
                wires.inputs += [""] * (job.slot + 1 - len(wires.inputs))
                wires.inputs[job.slot] = self._beside(job, names)
                self.uses.drop([job.old])
            elif base not in names:
                names[base] = base.name
                self._replace(base, job.content)
            if job.kind == "bias" and job.node.attribute("beta", 1.0) != 1:
                self.edits[scope].wires_of(stored_node(job.node)).without.add("beta")

    def _identity(self, job: Job) -> tuple[Hashable, ...]:
        """Equal for two jobs that ask for the same numbers."""
        old, weight = (None if value is None else self.uses.base(value) for value in (job.old, job.weight))
        return job.kind, job.key, old, weight

    def _beside(self, job: Job, names: dict[object, str]) -> str:
        """The name of a new constant in the graph where the old one, or else the weight, is defined."""
        identity = self._identity(job)
        if identity not in names:
            near = job.old or job.weight
            base = self.uses.base(near) if near is not None else None
            if base is None:
                raise ValueError(f"nothing tells what {job.node!r} reads")
            names[identity] = self.names.unique(f"{base.name}_folded" if job.old is not None else _bias_name(base.name))
            self.edits[self.uses.home[base]].added[names[identity]] = job.content
        return names[identity]

    def _replace(self, base: Value, content: Content) -> None:
        """Give the constant `base`, all of whose readers want `content`, these values under its own name."""
        edit = self.edits[self.uses.home[base]]
        made = self.uses.definition(base)
        stored = stored_node(made).attributes.get("value") if isinstance(made, Node) and made.op == "Constant" else made
        same = base.tensor is not None and (base.tensor.shape, base.tensor.dtype) == (content.shape, content.dtype)
        if not same or not isinstance(stored, StoredTensor) or stored in self.fixed:
            self._undefine(base)
            self.uses.drop(made.inputs if isinstance(made, Node) else ())
            edit.added[base.name] = content
            return
        edit.contents[stored] = content
        if isinstance(made, Node):
            edit.literals[stored_node(made)] = stored

    def _undefine(self, value: Value) -> None:
        """Take away the initializer or the node that defines a constant."""
        edit = self.edits[self.uses.home[value]]
        made = self.uses.definition(value)
        edit.gone.add(value.name)
        if isinstance(made, Node):
            edit.instead[stored_node(made)] = _NOTHING
        elif made is not None:
            edit.removed.add(made)


def _present_name(plan: Plan, value: Value) -> str:
    """The name under which a reader of `value` finds its data now."""
    return plan.name(plan.resolve(value))


def _bias_name(weight: str) -> str:
    head, found, tail = weight.rpartition("weight")
    return f"{head}bias{tail}" if found else f"{weight}_bias"
