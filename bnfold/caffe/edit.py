"""What a plan does to a Caffe net: which layers go, which become a Scale or Bias, who is named how, which blobs change.

The prototxt is edited where it stands, so that it differs in the removed layers, `bias_term` and the names of blobs
only. In the caffemodel the layers that go are dropped, and what no fold touched keeps its bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir.graph import Value
from ..planner.affine import Absorbed, absorb_bias, absorb_weight
from ..planner.records import Decision, Linear, Plan
from ..protobuf import Rope
from .layers.table import ROWS, Role
from .leftover import Host, host, layers_of
from .lowered import Lowered, LoweredLayer
from .naming import Step, blob_names, check_made, check_names
from .net import CaffeNet, Layer
from .text.edit import Edits
from .text.tree import Entry, Message
from .weights.blob import Blob, LayerChange, NewBlob, NewLayer
from .weights.caffemodel import Caffemodel

AnyBlob = Blob | NewBlob


class NetEdit:
    """A plan as changes to one net. `prototxt` and `caffemodel` give the folded files' content."""

    def __init__(self, net: CaffeNet, lowered: Lowered, plan: Plan) -> None:
        self.net, self.lowered, self.plan = net, lowered, plan
        self.removed: set[Layer] = set()
        self.hosts: dict[Layer, Host] = {}
        for decision in plan.decisions:
            if not decision.untouched:
                self.place(decision)
        self.shown = {plan.resolve(value) for value in lowered.graph.outputs}
        for item in lowered.layers:
            if _is_sink(item.layer) and self.shown.issuperset(map(plan.resolve, item.bottoms)):
                self.removed.add(item.layer)
        self.taken = {node.origin: found for node, found in plan.weights.items() if isinstance(node.origin, Layer)}
        self.sharers: dict[str, list[Layer]] = {}
        for layer in net.layers:
            for name in filter(None, layer.shared):
                self.sharers.setdefault(name, []).append(layer)

    def place(self, decision: Decision) -> None:
        """The layers of the chain go, but for one that holds what stays."""
        chain = decision.chain
        layers = layers_of(chain)
        if decision.leftover is not None:
            stays = host(chain, decision.leftover, self.net.version)
            self.hosts[stays.layer] = stays
            layers.remove(stays.layer)
        self.removed.update(layers)

    @cached_property
    def steps(self) -> list[Step]:
        """The layers of the folded net. What has become an output is no longer for a Silence to hide."""
        found = []
        for item in self.lowered.layers:
            if item.layer in self.hosts:
                stays = self.hosts[item.layer]
                found.append(Step(item.layer, [self.plan.resolve(stays.source)], [stays.target]))
            elif item.layer not in self.removed:
                bottoms = [self.plan.resolve(value) for value in item.bottoms]
                hidden = self.shown if _is_sink(item.layer) else ()
                found.append(Step(item.layer, [value for value in bottoms if value not in hidden], item.tops))
        return found

    @cached_property
    def probes(self) -> dict[Value, str]:
        """The name of each top of the folded net that can be compared."""
        return probe_names(self.net, self.steps)

    @cached_property
    def blobs(self) -> dict[Layer, list[AnyBlob]]:
        """All layers whose stored blobs change, with their new blobs.

        Where one of several sharers of a blob goes or changes, the others are written with what they share: it may
        have been stored with the one that goes.
        """
        found: dict[Layer, list[AnyBlob]] = {layer: list(stays.blobs()) for layer, stays in self.hosts.items()}
        found |= {layer: list(_folded_blobs(layer, *taken)) for layer, taken in self.taken.items()}
        groups = {name for layer in (*found, *self.removed) for name in layer.shared if name}
        for name in groups:
            for layer in self.sharers[name]:
                if layer not in self.removed:
                    found.setdefault(layer, list(layer.blobs))
        return {layer: found[layer] for layer in self.net.layers if layer in found}

    # ----------------------------------------------------------------------------------------------------- the text

    def prototxt(self) -> bytes:
        """The text of the folded net. The twins that such layers have in other phases go: the blobs are not theirs."""
        texts = Edits(self.net.text)
        gone = [*self.removed, *(twin for layer in (*self.removed, *self.hosts) for twin in self.net.twins(layer))]
        for layer in gone:
            texts.remove(_entry_of(layer))
        check_made(self.steps)
        names = blob_names(self.lowered, self.plan, self.steps)
        check_names(names, self.steps)
        for step in self.steps:
            if step.layer.block is not None:
                _rename_blobs(texts, step, step.layer.block, names)
        for layer, new in self.blobs.items():
            if layer in self.hosts:
                _rewrite_host(texts, self.hosts[layer])
            elif layer.block is not None:
                self.settle(texts, layer, layer.block, len(new))
        return texts.render()

    def settle(self, texts: Edits, layer: Layer, block: Message, blobs: int) -> None:
        """Give a layer that gets a bias its bias_term, and one with blobs of its own no shared names."""
        for key in ("convolution_param", "inner_product_param", "layer"):
            if blobs > len(layer.blobs) and (entry := _bias_entry(block, key)):
                texts.replace(entry, True)
        for spec, shared in zip(block.all("param"), layer.shared, strict=False):
            if shared and not all(self.agreements(layer, shared)):
                if spec.block is None:  # V1, which knows the blobs by the order of the names
                    texts.replace(spec, "")
                elif name := spec.block.first("name"):
                    texts.remove(name)

    def agreements(self, layer: Layer, name: str) -> Iterator[bool]:
        """For every other layer that stays and shares this blob: whether a fold makes the very same of it."""
        for other in self.sharers[name]:
            if other is not layer and other not in self.removed:
                yield other not in self.hosts and _absorb_alike(self.taken.get(layer), self.taken.get(other))

    # -------------------------------------------------------------------------------------------------- the weights

    def caffemodel(self, weights: Caffemodel) -> Rope:
        """The folded caffemodel. A layer that had no entry of its own in the file, but now has own blobs, gets one.

        Of several entries under one name Caffe reads the last one last, into the first layer of that name.
        """
        owners = {layer.name: layer for layer in reversed(self.net.layers)}
        gone, changes, added = set(), {}, []
        for stored in weights.layers:
            owner = owners.get(stored.name)
            if owner in self.removed or (owner in self.blobs and owner.weight_index != stored.index):
                gone.add(stored.index)
        for layer, new in self.blobs.items():
            stays = self.hosts.get(layer)
            if layer.weight_index is not None:
                bias = True if len(new) > len(layer.blobs) and stays is None else None
                changes[layer.weight_index] = LayerChange(new, None, stays.kind if stays else None, bias)
            elif new:
                kind = stays.kind if stays else layer.type
                added.append(NewLayer(layer.name, kind, layer.bottoms, layer.tops, [_copied(b) for b in new]))
        return weights.rope(gone, changes, added)


def probe_names(net: CaffeNet, items: Sequence[Step | LoweredLayer]) -> dict[Value, str]:
    """Every top as `layer:index`, which a fold does not change; none of layers that have one name in `net`.

    Left out is also what is the name of a blob.
    """
    count = Counter(layer.name for layer in net.layers)
    blobs = {name for layer in net.layers for name in layer.tops}
    once = (item for item in items if count[item.layer.name] == 1)
    named = {value: f"{item.layer.name}:{index}" for item in once for index, value in enumerate(item.tops)}
    return {value: name for value, name in named.items() if name not in blobs}


# ------------------------------------------------------------------------------------------------------ changes of text


def _entry_of(layer: Layer) -> Entry:
    """The block of a layer that stands in the text."""
    assert layer.block is not None  # the layer of `input` fields holds no affine
    assert layer.block.entry is not None
    return layer.block.entry


def _is_sink(layer: Layer) -> bool:
    row = ROWS.get(layer.type)
    return row is not None and row.role is Role.SINK


def _rename_blobs(texts: Edits, step: Step, block: Message, names: dict[Value, str]) -> None:
    """Write the names that the blobs have now, in which a bottom that the layer no longer has is the last."""
    for key, values in (("bottom", step.bottoms), ("top", step.tops)):
        for entry, value in zip_longest(block.all(key), values):
            if value is None:
                texts.remove(entry)
            elif entry is not None and entry.string() != names[value]:
                texts.replace(entry, names[value])


def _rewrite_host(texts: Edits, stays: Host) -> None:
    """Write the layer's type and parameters anew, or only its `bias_term` where the rest can stay."""
    block = _entry_of(stays.layer).message()
    if stays.fits:
        if len(list(stays.blobs())) > len(stays.layer.blobs):
            _set_bias_term(texts, block, stays.param)
        return
    for entry in block.entries:
        if entry.name.endswith("_param") or entry.name in ("param", "blobs_lr", "weight_decay"):
            texts.remove(entry)
    kind = block.first("type")
    if kind is not None and stays.layer.type != stays.kind:
        texts.replace(kind, stays.kind)
    if body := stays.parameters():
        texts.insert(block, stays.param, body)


def _set_bias_term(texts: Edits, block: Message, key: str) -> None:
    if entry := _bias_entry(block, key):
        texts.replace(entry, True)
    elif param := block.first(key):
        texts.insert(param.message(), "bias_term", True)
    else:
        texts.insert(block, key, [("bias_term", True)])


def _bias_entry(block: Message, key: str) -> Entry | None:
    """The `bias_term` in the message `key` of a layer, `biasterm` in the `layer` of V0."""
    param = block.first(key)
    name = "biasterm" if key == "layer" else "bias_term"
    return param.message().first(name) if param is not None else None


# ------------------------------------------------------------------------------------------------------- folded weights


def _absorb_alike(one: tuple[Linear, Absorbed] | None, other: tuple[Linear, Absorbed] | None) -> bool:
    """Whether two layers absorb the same along the same axes; both nothing is the same.

    A shift of the input reaches the bias through the filter, so that has to be one, too.
    """
    if one is None or other is None:
        return one is other
    layouts = {linear.layout for linear, _ in (one, other)}
    filters = {linear.weight.key for linear, _ in (one, other)} if one[1].pre_b.any() else set()
    parts = zip(one[1].parts, other[1].parts, strict=True)
    return len(layouts) == 1 and len(filters) < 2 and all(np.array_equal(a, b) for a, b in parts)


def _copied(blob: AnyBlob) -> NewBlob:
    return blob if isinstance(blob, NewBlob) else blob.renewed()


def _folded_blobs(layer: Layer, linear: Linear, taken: Absorbed) -> Iterator[AnyBlob]:
    """The weights and the bias of a layer that has absorbed `taken`; a bias only where there is one to have."""
    weight = layer.blobs[0]
    untouched = (taken.post_a == 1).all() and (taken.pre_a == 1).all()
    load = partial(_folded_weight, linear, weight, taken)
    yield weight if untouched else weight.like(load)
    if len(layer.blobs) > 1 or taken.post_b.any() or taken.pre_b.any():
        outs = linear.layout.channels(linear.weight.shape)[0]
        style = layer.blobs[1] if len(layer.blobs) > 1 else weight
        shape = style.shape if style is not weight else (1, 1, 1, outs) if weight.legacy else (outs,)
        yield style.like(partial(_folded_bias, linear, outs, taken, style.dtype), shape)


def _folded_weight(linear: Linear, weight: Blob, taken: Absorbed) -> npt.NDArray[Any]:
    return absorb_weight(linear.weight.load().reshape(linear.weight.shape), linear.layout, taken).reshape(weight.shape)


def _folded_bias(linear: Linear, outs: int, taken: Absorbed, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    old = np.zeros(outs) if linear.bias is None else linear.bias.float64().reshape(-1)
    return absorb_bias(
        old, linear.weight.load().reshape(linear.weight.shape), linear.layout, linear.gain, taken
    ).astype(dtype)
