"""Under which blob name each value stands in the folded net, so that no layer overwrites what another one still reads.

A value takes the name of the one that vanishes behind it: so the layers there, and the net's outputs, keep their names.
But a layer whose bottom and top have one name works in place. Where that was safe it need not be so any more: a fold
may take away the layer that made a copy, so that another layer reads the bottom too, or shows its memory under a second
name (Split, Reshape, Flatten). Such a bottom gets a name of its own. Memory in which a layer of the net reads what
another one has overwritten is none of these: there all names stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import PostconditionError
from ..ir.graph import Value
from ..ir.names import Names
from ..planner.records import Plan
from .layers.table import ROWS
from .lowered import Lowered
from .net import Layer


class Step(NamedTuple):
    """A layer of the folded net, with the values that it reads and makes there."""

    layer: Layer
    bottoms: Sequence[Value]
    tops: Sequence[Value]


def blob_names(lowered: Lowered, plan: Plan, steps: Sequence[Step]) -> dict[Value, str]:
    """The name of every value in `steps`, which stand in the order of the net."""
    spelled = {value: name for item in lowered.layers for value, name in zip(item.tops, item.layer.tops, strict=True)}
    taken_over = {value.name: name for value, name in spelled.items()}
    names = {top: taken_over[plan.name(top)] if top in plan.names else spelled[top] for s in steps for top in s.tops}
    outputs = {plan.resolve(value) for value in lowered.graph.outputs}
    for chain in _unsafe(names, steps, outputs, lowered.frozen):
        own, used = spelled[chain[-1]], set(names.values())
        names.update(dict.fromkeys(chain, own if own not in used else Names(used).unique(own)))
    return names


def _unsafe(
    names: dict[Value, str], steps: Sequence[Step], outputs: set[Value], frozen: set[Value]
) -> Iterable[list[Value]]:
    """The values that have the name of one that must not overwrite them, with those before them under that name.

    An input of the net cannot be given another name, and is left out; so are those that are `frozen`.
    """
    readers: dict[Value, set[int]] = {value: {len(steps)} for value in outputs}
    for at, step in enumerate(steps):
        for value in step.bottoms:
            readers.setdefault(value, set()).add(at)
    memory: dict[Value, list[Value]] = {}
    chains: dict[Value, list[Value]] = {}
    for at, step in enumerate(steps):
        for index, top in enumerate(step.tops):
            memory[top], chains[top] = [top], [top]
            bottom = step.bottoms[index] if index < len(step.bottoms) else None
            if bottom is None or names[bottom] != names[top]:
                continue
            alone = readers[bottom] == {at} and all(max(readers.get(v, {-1})) <= at for v in memory[bottom])
            if alone or bottom in frozen or chains[bottom][0].producer is None:
                memory[bottom].append(top)
                chains[top], memory[top] = [*chains[bottom], top], memory[bottom]
            else:
                yield chains[bottom]
        row = ROWS.get(step.layer.type)
        if row is not None and row.shares(step.layer):
            shared = memory[step.bottoms[0]]
            shared += step.tops
            memory.update(dict.fromkeys(step.tops, shared))


def check_made(steps: Sequence[Step]) -> None:
    """Raises PostconditionError unless each layer reads what a layer before it makes."""
    made: set[Value] = set()
    for step in steps:
        for value in step.bottoms:
            if value not in made:
                raise PostconditionError(f"layer {step.layer.name!r} would read {value.name!r}, which nothing makes")
        made.update(step.tops)


def check_names(names: dict[Value, str], steps: Sequence[Step]) -> None:
    """Raises PostconditionError unless each layer finds under its bottoms' names the values that it is to read."""
    current: dict[str, Value] = {}
    for step in steps:
        for value in step.bottoms:
            if current.get(names[value]) is not value:
                raise PostconditionError(f"layer {step.layer.name!r} would not find {names[value]!r} as it is to be")
        current.update((names[value], value) for value in step.tops)
