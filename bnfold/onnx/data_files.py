"""The files beside a model that hold its external data: what they are called, and which of them a model refers to.

A model decides nothing about where a result is written: its data goes to names made of the result's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import open_mapped
from .messages import Data, StoredGraph, StoredNode, StoredTensor, walk
from .read import read_model

if TYPE_CHECKING:
    from .edit import Edit
    from .graphs import Scope


def data_name(model: str, number: int) -> str:
    """The name of a data file of the model called `model`: model.data, model.data.1, model.data.2, ..."""
    return f"{model}.data.{number}" if number else f"{model}.data"


def literals_of(node: StoredNode) -> list[StoredTensor]:
    """The tensors among a node's attributes."""
    values = [v for value in node.attributes.values() for v in (value if isinstance(value, tuple) else (value,))]
    return [value for value in values if isinstance(value, StoredTensor)]


def tensors_of(graph: StoredGraph) -> list[StoredTensor]:
    """All dense tensors stored in a graph, those of inner graphs apart."""
    return [*graph.initializers, *(stored for node in graph.nodes for stored in literals_of(node))]


def remaining(edits: Mapping[Scope, Edit]) -> list[str]:
    """The locations to which the model still refers when `edits` are made, in the order of the first tensor there."""
    found: dict[str, None] = {}
    for scope, edit in edits.items():
        stored = [tensor for tensor in scope.stored.initializers if tensor not in edit.removed]
        stored += [t for node in scope.nodes if node not in edit.instead for t in literals_of(node)]
        found |= dict.fromkeys(t.external.get("location", "") for t in stored if t.external is not None)
    return list(found)


def locations(path: Path) -> set[str]:
    """Where the model in the file `path` says that its external data lies; nothing where that is no model."""
    try:
        model = read_model(Data(open_mapped(path), str(path)))
    except InputError:
        return set()
    graphs = (graph for outermost in (model.graph, *model.functions) for graph in walk(outermost))
    stored = (tensor.external for graph in graphs for tensor in tensors_of(graph))
    return {external.get("location", "") for external in stored if external is not None}
