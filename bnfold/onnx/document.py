"""An ONNX model as a document: read as spans, shown to the planner graph by graph, written with its plans applied."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from ..document import Runnable
from ..errors import InputError, OutputError, UsageError
from ..files import open_mapped
from ..ir.graph import Graph, Value
from ..planner.records import Notice, Opaque, Plan, Style
from ..protobuf import Rope, WireError, string
from .data_files import data_name, locations, remaining, tensors_of
from .edit import Edit, Editor
from .graphs import Builder, pin
from .growth import growth
from .messages import Data
from .postconditions import check_edits
from .read import read_model
from .render import Renderer, Storage
from .schema import ValueInfoProto
from .serialize import value_info
from .tensors import External, Tensors, overlapping
from .uses import Uses


class OnnxDocument:
    """One ONNX model. `freeze` takes inputs that have a default as constants; `keep` are names that must stay.

    Raises InputError where the file is no model or contradicts itself, UsageError where a kept name is unknown.
    """

    def __init__(self, data: Data, path: Path | None, folder: Path | None, freeze: bool, kept: Collection[str]) -> None:
        self.path = path
        self.external = External(folder, data.where)
        try:
            self.model = read_model(data)
            self.scopes = Builder(self.model, Tensors(data, self.external), freeze).build()
        except WireError as error:
            raise InputError(f"not a readable ONNX model: {error}", where=data.where) from None
        stored = (tensor for scope in self.scopes for tensor in tensors_of(scope.stored))
        self.outside = [tensor for tensor in stored if tensor.external is not None]
        for tensor in self.outside:
            self.external.open((tensor.external or {}).get("location", ""), tensor.name)
        known = set().union(*(pin(scope, kept, "kept by the user") for scope in self.scopes))
        for name in kept:
            if name not in known:
                raise UsageError(f"the model has no value named {name!r}, which is to be kept", where=data.where)

    @cached_property
    def style(self) -> Style:
        """A BatchNormalization costs two operations, a node nothing."""
        return Style(batch_norm=2, growth=partial(growth, Uses(self.scopes), self.model.data.buffer))

    @classmethod
    def open(cls, path: Path, *, freeze: bool = False, keep: Collection[str] = ()) -> OnnxDocument:
        """The model in a file; its external data lies beside it."""
        return cls(Data(open_mapped(path), str(path)), path, path.parent, freeze, keep)

    @classmethod
    def from_bytes(
        cls, data: bytes, folder: Path | None = None, *, freeze: bool = False, keep: Collection[str] = ()
    ) -> OnnxDocument:
        """A serialized model; its external data, if it has any, lies in `folder`."""
        return cls(Data(memoryview(data), "the model"), None, folder, freeze, keep)

    @property
    def sources(self) -> Sequence[Path]:
        """The model's file and those of its external data."""
        data = [self.external.path(location, "") for location in self.external.files]
        return [path for path in (self.path,) if path is not None] + data

    def graphs(self) -> Sequence[Graph]:
        """The main graph, bodies of control flow in the order of their nodes, and model-local functions."""
        return [scope.graph for scope in self.scopes]

    def counts(self) -> Mapping[str, int]:
        """Nodes by operator over all graphs, and "parameters": elements of stored tensors that something reads."""
        found = Counter(node.op for scope in self.scopes for node in scope.stored.nodes)
        uses = Uses(self.scopes)
        found["parameters"] = sum(_elements(value) for value in uses.home if uses.left(value))
        return found

    def opaque(self) -> Sequence[Opaque]:
        """None: onnxruntime runs what the planner does not know."""
        return ()  # an operator that the planner does not know is still run by onnxruntime

    def notices(self) -> Sequence[Notice]:
        """None."""
        return ()

    def places(self, out: Path | None) -> Sequence[Path]:
        """`out` and the data files beside it; fewer of these are written where a fold takes all tensors of one.

        The names are made of `out` alone: a model says where data is, not where any goes.
        """
        model = out or self.path
        assert model is not None  # a model from memory is written nowhere
        numbers = range(len(self.external.files))
        return [model, *(model.with_name(data_name(model.name, number)) for number in numbers)]

    def folded(self, plans: Mapping[Graph, Plan], places: Sequence[Path]) -> Mapping[Path, Rope]:
        """The model and its data; what no plan touches is a span of the input.

        Raises OutputError where a file has the name of the data and is not that of an earlier result.
        """
        fixed = overlapping(self.external, self.outside)
        edits = Editor(self.model.data.buffer, self.scopes, plans, fixed).run()
        check_edits(edits)
        files = dict(zip(remaining(edits), places[1:], strict=False))  # there are fewer where all of one's tensors go
        _check_free(places[0], files.values())
        storage = Storage(self.external, {location: path.name for location, path in files.items()})
        model = Renderer(self.model, edits, storage).rope()
        return {places[0]: model, **{files[location]: content for location, content in storage.files().items()}}

    def probe(self, value: Value) -> str:
        """The name of a value of the main graph; "" for constants, and for what other graphs compute."""
        mine = self.scopes[0].values.get(value.name) is value
        return value.name if mine and value.tensor is None else ""

    def folded_probe(self, plan: Plan, value: Value) -> str:
        """The name of `value`, if one of that name holds its content in the folded model."""
        name = plan.name(plan.resolve(value))
        return name if self.probe(value) == name else ""

    def runnable(self, probes: Sequence[str]) -> Runnable:
        """The model with further outputs, without what onnxruntime stumbles over: outputs that are omitted at the end
        of a node (1.32 crashes on BatchNormalization of opset 9 with them), and two nodes of one name. Its nodes are
        sorted, for the reference evaluator.
        """
        main = self.scopes[0]
        edits = {scope: Edit() for scope in self.scopes}
        names: set[str] = set()
        for scope, edit in edits.items():
            for node in scope.stored.nodes:
                if node.name and node.name in names:
                    edit.wires_of(node).nameless = True
                names.add(node.name)
                if len(node.outputs) > 1 and not node.outputs[-1]:
                    edit.wires_of(node).outputs = _trimmed(node.outputs)
        outputs = [value.name for value in main.stored.outputs]
        found = [name for name in dict.fromkeys(probes) if name in main.values]
        for name in found:
            dtype = main.values[name].dtype
            if name not in outputs:
                edits[main].outputs.append(
                    Rope(string(ValueInfoProto.NAME, name)) if dtype is None else value_info(name, dtype, None)
                )
                outputs.append(name)
        same = {location: location for location in self.external.files}
        model = Renderer(self.model, edits, Storage(self.external, same), sorts=True).rope()
        return Runnable(model, outputs, found, self.external.folder if same else None)


def _check_free(model: Path, data: Collection[Path]) -> None:
    """Raises OutputError where a data file has a name that is taken by another file than that of an earlier `model`.

    A link is no earlier model: the one that it points at stays.
    """
    earlier = locations(model) if data and not model.is_symlink() else ()
    for path in data:
        if os.path.lexists(path) and path.name not in earlier:
            what = f"a file has this name already, and no {model.name} there has its data in it"
            raise OutputError(what, where=str(path), hint="choose another name with -o, or remove that file")


def _elements(value: Value) -> int:
    """Elements of the constant that `value` is, if it is stored and not computed."""
    stored = value.producer is None or value.producer.op == "Constant"
    count = 1
    for extent in (value.shape or ()) if stored else (0,):
        count *= extent or 0
    return count


def _trimmed(names: Sequence[str]) -> list[str]:
    """The outputs of a node without those omitted at its end; the first stays."""
    count = max((index + 1 for index, name in enumerate(names) if name), default=1)
    return list(names[:count])
