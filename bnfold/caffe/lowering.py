"""A Caffe net as ONNX operators over single assignment values: what the planner, the verifier and the export read.

Each layer is described by its row in `layers`. Here in-place chains are taken apart, memory that Caffe shares between
blobs is watched, and names are given: the last version of a blob keeps its name, an input always keeps it.
A layer that no row describes, that needs a shape which is not known, or that reads memory which another layer has
overwritten (see `memory`) becomes a node `caffe.TYPE` of unknown result.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ..errors import InputError, UsageError
from ..ir.graph import Graph, Shape, Value, reads_content
from ..ir.names import Names
from ..planner.foldable import AFFINE
from ..planner.records import Notice, Opaque
from .inputs import check_given, missing, settle_channels
from .layers.builder import FLOAT, Builder, Unknown
from .layers.table import ROWS, Role, Row
from .lowered import Lowered, LoweredLayer
from .memory import Memory
from .net import CaffeNet, Layer

OPSETS = range(13, 24)
"""Versions of ONNX's standard domain that the rows know how to write."""
DEFAULT_OPSET = 13


def lower(
    net: CaffeNet,
    *,
    opset: int = DEFAULT_OPSET,
    inputs: Mapping[str, Shape] | None = None,
    dynamic_batch: bool = False,
    bn_order: str | None = None,
    fold_quantized: bool = False,
) -> Lowered:
    """The graph of `net` at ONNX's `opset`.

    `inputs` gives shapes of inputs by blob name, instead of those in the file; with `dynamic_batch` the first extent of
    every input is left open. `bn_order` names the blobs of BatchNorm layers whose order the file leaves open.
    `fold_quantized` lets layers with stored quantisation scales take affines.
    Raises InputError, with file and layer, for a net that Caffe would refuse or that it computes by accident only.
    """
    with np.errstate(all="ignore"):  # parameters of any magnitude are taken
        return _Lowering(net, opset, dict(inputs or {}), dynamic_batch, bn_order or "", fold_quantized).run()


class _Lowering:
    def __init__(
        self,
        net: CaffeNet,
        opset: int,
        shapes: dict[str, Shape],
        dynamic: bool,
        order: str,
        fold_quantized: bool = False,
    ) -> None:
        if opset not in OPSETS:
            raise UsageError(f"opset {opset} is not supported", hint=f"give one from {OPSETS[0]} to {OPSETS[-1]}")
        self.net = net
        self.opset, self.shapes, self.dynamic, self.order = opset, shapes, dynamic, order
        self.fold_quantized = fold_quantized
        self.result = Lowered(Graph(net.name))
        self.names = Names(name for layer in net.layers for name in layer.tops)
        self.constants: dict[Hashable, Value] = {}
        self.current: dict[str, Value] = {}
        self.versions: dict[str, list[Value]] = {}
        self.readers: dict[Value, list[Layer]] = {}
        self.cut: set[Value] = set()
        self.measured: set[Value] = set()
        self.memory = Memory()
        self.order_fits = not order

    def run(self) -> Lowered:
        read_later = _read_later(self.net.layers)
        for layer in self.net.layers:
            row = ROWS.get(layer.type)
            bottoms = [self._read(layer, name) for name in layer.bottoms]
            if row is not None and row.role is Role.CUT and not read_later[layer]:
                item = LoweredLayer(layer, bottoms, [Value(name) for name in layer.tops], [])
                self.memory.read(layer, bottoms)
                self.cut.update(bottoms)
                for value in bottoms:
                    value.public = value.public or f"read by {layer.type} {layer.name!r}"
            else:
                item = self._layer(layer, row, bottoms)
                for value in bottoms:
                    self.readers.setdefault(value, []).append(layer)
                self._write(item, row)
            if row is None or row.role is not Role.SINK:
                self.measured.update(v for v in bottoms if not _reads(item, v))
            self.result.layers.append(item)
        check_given(self.shapes, self.result.graph.inputs)
        if not self.order_fits:
            what = f"--bn-blobs {self.order} fits no BatchNorm: none has as many blobs, or none is there"
            self.result.notices.append(Notice("bn-blobs", what, self.net.text.source.name))
        self._finish()
        return self.result

    def _read(self, layer: Layer, name: str) -> Value:
        if name not in self.current:
            raise missing(self.net, layer, name)
        return self.current[name]

    # ------------------------------------------------------------------------------------------------- one layer

    def _layer(self, layer: Layer, row: Row | None, bottoms: list[Value]) -> LoweredLayer:
        builder = Builder(
            self.result.graph, layer, bottoms, opset=self.opset, names=self.names, constants=self.constants,
            fixed=row is None or row.fixed, order=self.order,
            notices=self.result.notices,
        )  # fmt: skip
        unread = "; ".join(item.what for item in layer.unread)
        sink = row is not None and row.role is Role.SINK
        clobbered = "" if sink else self.memory.read(layer, bottoms)
        if row is None and layer.tops and not layer.bottoms and not layer.blobs:
            return self._source(builder, [Value("") for _ in layer.tops], f"bnfold does not know the type {layer.type}")
        if row is None:
            return self._opaque(builder, clobbered or f"bnfold does not know the type {layer.type}")
        if row.role is Role.CUT:
            return self._opaque(builder, clobbered or "it belongs to training, and its tops are read")
        if row.role is Role.SOURCE:
            row.check(builder)
            return self._source(builder, row.describe(builder), unread)
        if unread and not row.own:
            return self._opaque(builder, unread, place=layer.unread[0].place)
        return self._described(builder, row, clobbered)

    def _described(self, builder: Builder, row: Row, clobbered: str) -> LoweredLayer:
        layer, graph = builder.layer, self.result.graph
        nodes, shapes = len(graph.nodes), []
        try:
            row.check(builder)
            tops = _separate(builder, row.describe(builder))
            self.order_fits = self.order_fits or builder.order_fits
            if not row.own:
                builder.check_read()
            if layer.param.HasField("quantization_param") and not self.fold_quantized:
                builder.keep_quantized(tops)
            if not clobbered:
                return LoweredLayer(layer, builder.bottoms, tops, builder.nodes)
            reason, shapes = clobbered, [value.shape for value in tops]
            if any(node.op in AFFINE and not node.fixed for node in builder.nodes):
                graph.notes[layer] = ("memory", clobbered)
        except Unknown as unfit:
            reason = str(unfit)
        except InputError as unfit:
            if not row.lenient:
                raise
            reason = unfit.what
        self._undo(nodes)
        return self._opaque(builder, reason, shapes)

    def _undo(self, nodes: int) -> None:
        """Take the nodes of the layer, all but the first `nodes`, out of the graph."""
        for node in self.result.graph.nodes[nodes:]:
            for value in node.inputs:
                if value is not None:
                    value.readers.remove(node)
        del self.result.graph.nodes[nodes:]

    def _opaque(
        self, builder: Builder, reason: str, shapes: Sequence[Shape | None] = (), place: str = ""
    ) -> LoweredLayer:
        layer = builder.layer
        self.result.opaque[layer] = Opaque(layer.name, layer.type, reason, place or layer.at)
        tops = [Value(self.names.unique(f"{layer.name}/{layer.type}"), dtype=FLOAT) for _ in layer.tops]
        for value, shape in zip(tops, shapes, strict=False):
            value.shape = shape
        node = self.result.graph.add_node(
            f"caffe.{layer.type}", builder.bottoms, tops, {}, origin=layer, name=layer.name, version=1
        )
        return LoweredLayer(layer, builder.bottoms, tops, [node])

    def _source(self, builder: Builder, values: list[Value], reason: str) -> LoweredLayer:
        """The tops of a layer as inputs of the net; `reason` says what of it is not understood, "" if all is."""
        layer = builder.layer
        if reason:
            told = f"{reason}; its tops are taken for inputs of the net"
            self.result.sources.append(Opaque(layer.name, layer.type, told, layer.at, source=True))
        tops = []
        for value, name in zip(values, layer.tops, strict=True):
            shape = self.shapes.get(name, value.shape)
            if shape and self.dynamic and name not in self.shapes:
                shape = (None, *shape[1:])
            builder.limited(shape)
            tops.append(self.result.graph.add_input(Value(name, shape, np.dtype(np.float32))))
        return LoweredLayer(layer, [], tops, [])

    # ---------------------------------------------------------------------------------------------- blobs and memory

    def _write(self, item: LoweredLayer, row: Row | None) -> None:
        """Enter the tops as the newest versions of their blobs. Raises InputError for what Caffe refuses or spoils."""
        layer = item.layer
        for index, (name, value) in enumerate(zip(layer.tops, item.tops, strict=True)):
            in_place = index < len(layer.bottoms) and layer.bottoms[index] == name
            if in_place:
                self._overwrite(layer, row, item.bottoms[index], value)
            elif name in self.current:
                raise InputError(f"a second layer makes blob {name!r}, and not in place", where=layer.where)
            elif row is not None and row.shares(layer):
                self.memory.share(item.bottoms[0], value)
            else:
                self.memory.add(value)
            self.current[name] = value
            value.name = name  # for messages, until all versions of a blob are known
            self.versions.setdefault(name, []).append(value)

    def _overwrite(self, layer: Layer, row: Row | None, old: Value, new: Value) -> None:
        readers = self.readers[old]
        others = [reader for reader in readers if reader is not layer] or readers[1:]
        if others:
            raise InputError(
                f"the layer works in place on blob {layer.tops[0]!r}, which layer {others[0].name} reads too",
                where=layer.where,
                hint="Caffe refuses that; give the top a name of its own",
            )
        if row is not None and layer not in self.result.opaque and not row.in_place(layer):
            raise InputError(
                f"type {layer.type} in place overwrites its bottom {layer.bottoms[0]!r} before it has read all of it, "
                "so that Caffe computes by accident what comes out",
                where=layer.where,
                hint="give the top a name of its own",
            )
        self.memory.overwrite(layer, old, new)

    # -------------------------------------------------------------------------------------------------- the interface

    def _finish(self) -> None:
        """Give the values their names, and the graph its outputs: the blobs that no layer reads, sorted as in Caffe."""
        graph = self.result.graph
        for value in graph.inputs:
            settle_channels(value)
        inputs = set(graph.inputs)
        for name, versions in self.versions.items():
            keeper = versions[0] if versions[0] in inputs else versions[-1]
            for value in versions:
                value.name = name if value is keeper else self.names.unique(name)
        for name in sorted(self.current):
            value = self.current[name]
            if value in self.readers or (value in self.cut and value in inputs):
                continue
            if writer := self.memory.writer(value):
                where = self.versions_origin(value)
                self.memory.clobber(value, f"the net's output is blob {name!r}", where, writer)
                self.result.unproven.append(name)
            else:
                graph.add_output(value)
                self._keep_apart(value)
        dropped = {value for value in self.cut if value not in self.readers}
        graph.inputs = [value for value in graph.inputs if value not in dropped or value in graph.outputs]
        self.result.clobbered, self.result.frozen = self.memory.clobbered, self.memory.freeze(self.result.layers)

    def _keep_apart(self, output: Value) -> None:
        """Have affines stay between an output and a blob of which a layer reads the shape.

        Folded into one blob they would be read, and so be no output any more.
        """
        value = output
        while value.producer is not None and value.producer.op in AFFINE:
            value = next(v for v in value.producer.inputs if v is not None)
            if value in self.measured:
                value.public = value.public or f"read for its shape, and {output.name!r} is an output of the net"

    def versions_origin(self, value: Value) -> str:
        origin = None if value.producer is None else value.producer.origin
        return origin.where if isinstance(origin, Layer) else ""


def _reads(item: LoweredLayer, value: Value) -> bool:
    """Whether the layer reads the content of `value`, and not its shape alone."""
    return any(value in node.inputs and reads_content(node, value) for node in item.nodes)


def _separate(builder: Builder, tops: list[Value]) -> list[Value]:
    """Tops that are values of their own, made by this layer: none is a bottom, a constant, or another top."""
    made = {value for node in builder.nodes for value in node.outputs}
    result: list[Value] = []
    for value in tops:
        own = value in made and value not in result
        result.append(value if own else builder.node("Identity", value))
    have = len(builder.layer.tops)
    if len(result) != have:
        raise builder.fail(f"the layer has {have} tops where type {builder.layer.type} makes {len(result)}")
    return result


def _read_later(layers: list[Layer]) -> dict[Layer, bool]:
    """Of each layer whether a layer behind it reads one of its tops."""
    read: set[str] = set()
    result = {}
    for layer in reversed(layers):
        result[layer] = not read.isdisjoint(layer.tops)
        read.update(layer.bottoms)
    return result
