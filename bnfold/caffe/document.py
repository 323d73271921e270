"""A Caffe net as a document: lowered to a graph for the planner, edited by its plan, exported for the verifier."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from ..document import Runnable
from ..errors import InputError, UsageError
from ..files import same_file
from ..ir.graph import Graph, Node, Shape, Value
from ..ir.names import spelled
from ..onnx.model_writer import Header, write_model
from ..planner.records import Notice, Opaque, Plan, Style
from ..protobuf import Rope
from .edit import NetEdit, probe_names
from .leftover import caffe_growth
from .lowered import Lowered
from .lowering import DEFAULT_OPSET, lower
from .net import CaffeNet, Phase, load
from .notices import notices

IR_VERSION = 7
"""Of the models for the verifier: the one that opset 13 came with."""


@dataclass(eq=False)
class CaffeDocument:
    """A prototxt and its caffemodel, in one phase."""

    net: CaffeNet
    lowered: Lowered
    sources: Sequence[Path]
    _edit: NetEdit | None = None

    @classmethod
    def open(
        cls,
        prototxt: Path,
        caffemodel: Path,
        *,
        phase: Phase = "TEST",
        stages: Sequence[str] = (),
        level: int = 0,
        keep: Sequence[str] = (),
        bn_blobs: str | None = None,
        inputs: Mapping[str, Shape] | None = None,
        fold_quantized: bool = False,
    ) -> CaffeDocument:
        """Read both files. `inputs`: shapes of inputs by blob name.

        Raises InputError for what Caffe would not load, UsageError for a `keep` or an input that is no such blob.
        """
        net = load(prototxt, caffemodel, phase=phase, stages=stages, level=level)
        lowered = lower(net, inputs=inputs, bn_order=bn_blobs, fold_quantized=fold_quantized)
        _mark_kept(lowered, keep)
        return cls(net, lowered, [prototxt, caffemodel])

    @property
    def style(self) -> Style:
        """In V1 nets what stays of a BN is a BN again."""
        cost = 3 if self.net.version == 2 else 2
        return Style(cost, layer=4, unread_outputs=True, unranked=True, growth=partial(caffe_growth, self.net))

    def graphs(self) -> Sequence[Graph]:
        """The one graph that the net is lowered to."""
        return [self.lowered.graph]

    def counts(self) -> Mapping[str, int]:
        """Active layers by type; "parameters" counts each stored value once that a layer of the net loads."""
        found = Counter(layer.type for layer in self.net.layers)
        blobs = {blob.field.start: blob for layer in self.net.layers for blob in layer.blobs}
        return {**found, "parameters": sum(math.prod(blob.shape) for blob in blobs.values())}

    def opaque(self) -> Sequence[Opaque]:
        """The layers that are not understood, and those taken for inputs of the net."""
        return [*self.lowered.opaque.values(), *self.lowered.sources]

    def notices(self) -> Sequence[Notice]:
        """What else the user has to know of the net: of its lowering, its weights and its text."""
        return [*self.lowered.notices, *notices(self.net)]

    def places(self, out: Path | None) -> Sequence[Path]:
        """`out`.prototxt and `out`.caffemodel, also where `out` has one of these suffixes, or that of HDF5, already.

        Raises UsageError where the caffemodel would take the place of weights in HDF5.
        """
        found = self.sources
        if out is not None:
            name = re.sub(r"(?<=.)\.(prototxt|caffemodel(\.h5)?)$", "", out.name, flags=re.IGNORECASE)
            found = [out.with_name(f"{name}.{kind}") for kind in ("prototxt", "caffemodel")]
        assert self.net.weights is not None  # `open` wants a caffemodel
        if self.net.weights.hdf5 and same_file(found[1], self.sources[1]):
            what = f"{found[1]} holds its weights in HDF5, and the result is a caffemodel, which cannot replace it"
            raise UsageError(what, hint="give the result a name with -o")
        return found

    def folded(self, plans: Mapping[Graph, Plan], places: Sequence[Path]) -> Mapping[Path, Rope]:
        """The content of prototxt and caffemodel with the plan applied, for their two `places`."""
        edit = self.edit(plans[self.lowered.graph])
        assert self.net.weights is not None  # `open` wants a caffemodel
        return dict(zip(places, (Rope(edit.prototxt()), edit.caffemodel(self.net.weights)), strict=True))

    def runnable(self, probes: Sequence[str]) -> Runnable:
        """The net up to the layers that have no conversion, with the tops that `probes` name under these names."""
        wanted = {probe: self.tops[probe] for probe in probes if probe in self.tops}
        graph, left_out = _convertible(self.lowered.graph, wanted)
        for value in graph.inputs:
            if value.shape is None and any(value in node.inputs for node in graph.nodes):
                hint = f"give it, for example --input {value.name}=1x3x224x224"
                where = str(self.sources[0])
                raise InputError(f"the shape of input {value.name!r} is not known", where=where, hint=hint)
        own = [value.name for value in self.lowered.graph.outputs if value in graph.outputs]
        there = {value.name for value in graph.outputs}
        found = [probe for probe in wanted if probe in there]
        left_out += (f"output {name!r}" for name in self.lowered.unproven)
        rope = write_model(graph, Header(DEFAULT_OPSET, IR_VERSION, half=True), spelled)
        return Runnable(rope, own, found, left_out=left_out, spell=spelled)

    def probe(self, value: Value) -> str:
        """The name of a top as `layer:index`; "" for what is no top of a layer whose name is its own."""
        return self.probes.get(value, "")

    def folded_probe(self, plan: Plan, value: Value) -> str:
        """The name of what holds the content of `value` in the folded net, "" where nothing does."""
        return self.edit(plan).probes.get(plan.resolve(value), "")

    @cached_property
    def tops(self) -> dict[str, Value]:
        """Each top by the name that `probe` gives it."""
        return {name: value for value, name in self.probes.items()}

    @cached_property
    def probes(self) -> dict[Value, str]:
        """The name of each top that can be compared."""
        return probe_names(self.net, self.lowered.layers)

    def edit(self, plan: Plan) -> NetEdit:
        """The edit of a plan, made once."""
        if self._edit is None or self._edit.plan is not plan:
            self._edit = NetEdit(self.net, self.lowered, plan)
        return self._edit


def _mark_kept(lowered: Lowered, keep: Sequence[str]) -> None:
    """Have the blobs that the user names keep their content. A name written several times in place means the last."""
    last = {name: value for item in lowered.layers for name, value in zip(item.layer.tops, item.tops, strict=True)}
    for name in keep:
        if name not in last:
            raise UsageError(f"the net has no blob {name!r} to keep", hint="--keep takes the name of a top")
        last[name].public = last[name].public or "kept by the user"


def _convertible(graph: Graph, probes: Mapping[str, Value]) -> tuple[Graph, list[str]]:
    """The part of a graph that does not depend on layers without conversion, and the names of those.

    Its outputs are those of the graph, what such a layer reads, and copies of `probes` under their names.
    """
    part = Graph(graph.name)
    part.inputs = list(graph.inputs)
    lost: set[Value] = set()
    left_out, ends = [], []
    for node in graph.nodes:
        inputs = [value for value in node.inputs if value is not None]
        opaque = node.op.startswith("caffe.")
        if opaque or lost.intersection(inputs):
            lost.update(node.outputs)
            ends += [value for value in inputs if value not in lost and value.tensor is None]
            left_out += [node.name] if opaque else []
        else:
            part.nodes.append(node)
    part.outputs = [value for value in dict.fromkeys([*graph.outputs, *ends]) if value not in lost]
    for name, value in probes.items():
        if value not in lost:
            copy = Value(name, value.shape, value.dtype)
            part.nodes.append(Node("Identity", [value], [copy], {}, name, name, DEFAULT_OPSET))
            part.outputs.append(copy)
    return part, left_out
