"""A Caffe net: the layers of a prototxt that a phase has, each with the weights that Caffe would load for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import InputError
from ..protobuf import decoded, encoded
from . import caffe_pb2 as pb
from .phases import is_included
from .text.fields import harmless
from .text.parser import read_prototxt
from .text.tree import Entry, Message, Source
from .text.typed import Unread, fill, set_field, unknown_field
from .upgrade import fill_v1, v1_type
from .weights.blob import Blob
from .weights.caffemodel import Caffemodel

Phase = Literal["TRAIN", "TEST"]


@dataclass(eq=False, slots=True)
class Layer:
    """One layer, its names as they are in the file, and its place there.

    `param` has the values of the text but for name, type, bottoms and tops, and the net's phase where the text gives
    none; `unread` lists what of the text is not understood. `block` is its text, None for the layer that stands for the
    net's `input` fields. `blobs` are the weights as Caffe's rules assign them: empty where the caffemodel has none,
    shorter than Caffe wants where it has too few. `weight_index` is the layer's own place in the caffemodel.
    `owners`: of each blob that it shares the first layer with it, and which blob of that it is. `wanted`: the shapes of
    its blobs as its description asks for them. `foreign`: the blobs that were stored with another layer, in its shape.
    """

    name: str
    type: str
    bottoms: list[str]
    tops: list[str]
    param: pb.LayerParameter = field(repr=False)
    block: Message | None = field(repr=False)
    place: tuple[Source, int] = field(repr=False)
    unread: list[Unread] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)
    weight_index: int | None = None
    owners: dict[int, tuple[Layer, int]] = field(default_factory=dict, repr=False)
    wanted: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)
    foreign: frozenset[int] = frozenset()

    @property
    def at(self) -> str:
        """File, line and column."""
        source, offset = self.place
        return source.where(offset)

    @property
    def where(self) -> str:
        """File, line, column and name, for errors."""
        return f"{self.at}, layer {self.name or '(no name)'}"

    @property
    def shared(self) -> list[str | None]:
        """For each `param` of the layer the name under which that blob is shared."""
        return [decoded(spec.name) or None for spec in self.param.param]


@dataclass(eq=False, slots=True)
class CaffeNet:
    """A net in one phase. `inactive` are the layers that the rules leave out; `version` is the text's: 0, 1 or 2.

    `unread` lists what of the net's own fields is not understood.
    """

    name: str
    text: Message
    weights: Caffemodel | None
    layers: list[Layer]
    inactive: list[Layer]
    version: int
    unread: list[Unread] = field(default_factory=list)

    def twins(self, layer: Layer) -> list[Layer]:
        """The layers of other phases under the name of `layer`: they share its weights, and go when it goes."""
        return [other for other in self.inactive if other.name == layer.name]


def load(
    prototxt: Path,
    caffemodel: Path | None,
    *,
    phase: Phase = "TEST",
    stages: Sequence[str] = (),
    level: int = 0,
) -> CaffeNet:
    """The net of `prototxt` in a phase, at a level and with `stages` beside those of the text, with its weights.

    Raises InputError with file, line and column, and the layer, for what Caffe would not load.
    """
    root = read_prototxt(prototxt)
    entries, version = _layer_entries(root)
    unread = [unknown_field(pb.NetParameter(), entry) for entry in root.entries if entry.name not in _NET_FIELDS]
    state = _net_state(root, phase, stages, level, unread)
    layers, inactive = _input_layers(root, unread), []
    for entry in entries:
        layer = _layer(entry, version)
        if is_included(state, layer.param):
            layers.append(layer)
        else:
            inactive.append(layer)
    for layer in layers:
        if not layer.param.HasField("phase"):
            layer.param.phase = state.phase
    shared = {layer.name: layer.shared for layer in reversed([*layers, *inactive])}  # of several of one name the first
    weights = None if caffemodel is None else Caffemodel(caffemodel, shared)
    if weights is not None:
        _assign(layers, weights)
    return CaffeNet(root.string("name"), root, weights, layers, inactive, version, unread)


_NET_FIELDS = {*pb.NetParameter.DESCRIPTOR.fields_by_name, *harmless("NetParameter")}


def _layer_entries(root: Message) -> tuple[list[Entry], int]:
    """The layers' blocks and the version of their format."""
    v2, v1 = root.all("layer"), root.all("layers")
    if v1 and v2:
        raise v1[0].fail("the file mixes `layer` and `layers`", "Caffe refuses that; use one of the two for all")
    if not v1 and not v2:
        solver = any(root.first(name) for name in ("net", "train_net", "base_lr"))
        raise root.fail("the file has no layers", "this is a solver; give the net that it names" if solver else "")
    v0 = any(entry.message().first("layer") for entry in v1)
    return v1 or v2, 0 if v0 else 1 if v1 else 2


def _net_state(root: Message, phase: Phase, stages: Sequence[str], level: int, unread: list[Unread]) -> pb.NetState:
    """Of the text's `state` the stages count; phase and level are the caller's, as in Caffe."""
    state = pb.NetState()
    for block in root.messages("state"):
        fill(state, block, unread, path="state.")
    state.phase = pb.Phase.Value(phase)
    state.level = level
    state.stage.extend(map(encoded, stages))
    return state


def _input_layers(root: Message, unread: list[Unread]) -> list[Layer]:
    """The Input layer that the net's own `input`, `input_dim` and `input_shape` stand for, if there are any."""
    inputs, dims, shapes = root.all("input"), root.all("input_dim"), root.all("input_shape")
    if not inputs or not (dims or shapes):  # without shapes Caffe ignores the names: an Input layer gives them
        return []
    layer_param = pb.LayerParameter()
    param = layer_param.input_param
    for entry in shapes:
        fill(param.shape.add(), entry.message(), unread, path="input_shape.")
    if not shapes:
        for index, entry in enumerate(dims):
            set_field(param.shape.add() if index % 4 == 0 else param.shape[-1], "dim", entry)
    if len(param.shape) != len(inputs) or (not shapes and len(dims) % 4):
        raise inputs[0].fail(
            f"the net has {len(inputs)} `input` fields, {len(shapes)} `input_shape` and {len(dims)} `input_dim`",
            "each input needs one `input_shape`, or four `input_dim`",
        )
    return [Layer("input", "Input", [], root.strings("input"), layer_param, None, (root.source, inputs[0].start))]


def _layer(entry: Entry, version: int) -> Layer:
    block = entry.message()
    name = _layer_name(block)
    param = pb.LayerParameter()
    unread: list[Unread] = []
    try:
        bottoms, tops = block.strings("bottom"), block.strings("top")
        if version == 2:
            kind = block.string("type")
            fill(param, block, unread, skip=("name", "type", "bottom", "top"))
        else:
            kind = v1_type(block)
            fill_v1(param, block, unread)
        for item in unread:
            if item.path.startswith(_PRESENCE):
                raise item.entry.fail(item.what, "it decides whether the layer is in the net")
        if param.include and param.exclude:
            raise block.fail("a layer can have `include` or `exclude` rules, not both")
        if not kind:
            raise block.fail("the layer has no type")
        if stored := block.first("blobs"):
            raise stored.fail("weights inside a prototxt are not supported", "put them into a caffemodel")
    except InputError as error:
        raise InputError(error.what, where=f"{error.where}, layer {name or '(no name)'}", hint=error.hint) from None
    return Layer(name, kind, bottoms, tops, param, block, (entry.source, entry.start), unread)


_PRESENCE = ("include.", "exclude.")


def _layer_name(block: Message) -> str:
    v0 = block.first("layer")
    return (block if v0 is None else v0.message()).string("name")


def _assign(layers: Sequence[Layer], weights: Caffemodel) -> None:
    """Give the layers their blobs as Caffe's CopyTrainedLayersFrom does.

    The stored layers are copied in their order, each into the first layer of its name, so that a later one of the same
    name overwrites it. Blobs shared under one name are one blob: whoever comes last in the caffemodel wins for all.
    """
    first: dict[str, Layer] = {}
    for layer in layers:
        first.setdefault(layer.name, layer)
    slots: dict[object, Blob] = {}
    for stored in weights.layers:
        target = first.get(stored.name)
        if target is not None:
            target.weight_index = stored.index
            slots.update(zip(_slots(target), stored.blobs, strict=False))
    owners: dict[str, tuple[Layer, int]] = {}
    for layer in layers:
        layer.blobs = _own_blobs(layer, weights, slots)
        if weights.hdf5 or layer.weight_index is None:
            layer.foreign = frozenset(i for i, name in enumerate(layer.shared) if name)
        layer.owners = {i: owners.setdefault(name, (layer, i)) for i, name in enumerate(layer.shared) if name}


def _slots(layer: Layer) -> Iterator[object]:
    """What names the memory of each blob of a layer: the shared name, or the layer and the blob's index."""
    shared = layer.shared
    for index in itertools.count():
        yield (shared[index] if index < len(shared) else None) or (id(layer), index)


def _own_blobs(layer: Layer, weights: Caffemodel, slots: dict[object, Blob]) -> list[Blob]:
    """The layer's blobs up to the first that nothing was stored for; no more than it has in the caffemodel itself.

    Those that it has there keep their shapes, though their values be another's that shares them.
    """
    own = None if layer.weight_index is None else weights.layers[layer.weight_index].blobs
    blobs: list[Blob] = []
    for slot in _slots(layer):
        if slot not in slots or (own is not None and len(blobs) == len(own)):
            break
        blobs.append(slots[slot] if own is None else _as(layer, own[len(blobs)], slots[slot]))
    return blobs


def _as(layer: Layer, own: Blob, values: Blob) -> Blob:
    """The values in the shape of the layer's own blob. Raises InputError if they are not as many."""
    if own.count != values.count:
        raise InputError(
            f"the layer shares a blob of {own.count} elements with one of {values.count}: {values.where}",
            where=layer.where,
            hint="blobs that share a name need as many elements",
        )
    alike = (own.shape, own.legacy) == (values.shape, values.legacy)
    return values if alike else values.in_shape(own.shape, own.legacy)
