"""What a plan does to a Caffe net: which layers go, which become a Scale or Bias, who is named how, which blobs change.

The prototxt is edited where it stands, so that it differs in the removed layers, `bias_term` and the names of blobs
only. In the caffemodel the layers that go are dropped, and what no fold touched keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..affine import Absorbed, Affine, absorb_bias, absorb_weight
from ..graph import Node, Value
from ..records import Decision, Plan
from ..roles import Linear, linear
from ..wire import Rope
from .caffemodel import Blob, Caffemodel, LayerChange, NewBlob, NewLayer
from .lowering import Lowered, LoweredLayer
from .net import CaffeNet, Layer
from .prototxt import Entry, Message
from .prototxt_edit import Edits

SHARES_MEMORY = {"Split", "Flatten", "Reshape", "Concat", "Slice"}
"""Types whose tops may be the memory of their bottom: an in-place layer behind them must not move onto it."""

AnyBlob = Blob | NewBlob


@dataclass(frozen=True, eq=False)
class Host:
    """A layer that stays for a chain and is written as `affine`, from `source` to `target`.

    `kind` is Scale, or Bias where nothing is multiplied, or Power where the chain was nothing else.
    """

    layer: Layer
    affine: Affine
    source: Value
    target: Value
    kind: str

    @property
    def param(self) -> str:
        return f"{self.kind.lower()}_param"


class NetEdit:
    """A plan as changes to one net. `prototxt` and `caffemodel` give the folded files' content."""

    def __init__(self, net: CaffeNet, lowered: Lowered, plan: Plan) -> None:
        self.net, self.lowered, self.plan = net, lowered, plan
        self.removed: set[Layer] = set()
        self.hosts: dict[Layer, Host] = {}
        self.texts = Edits(net.text)
        for decision in plan.decisions:
            if not decision.untouched:
                self.place(decision)
        self.spelling = {value: name for value, name in spellings(lowered)}
        self.named = {value.name: value for value in self.spelling}
        self.taken = {node.origin: (node, taken) for node, taken in plan.weights.items()}
        self.sharers: dict[str, list[Layer]] = {}
        for layer in net.layers:
            for name in filter(None, layer.shared):
                self.sharers.setdefault(name, []).append(layer)

    @cached_property
    def taps(self) -> dict[Value, str]:
        """`layer:index` in the folded net for each value that is a top there."""
        found = {host.target: f"{host.layer.name}:0" for host in self.hosts.values()}
        for item in self.lowered.layers:
            if item.layer not in self.removed and item.layer not in self.hosts:
                found.update((value, f"{item.layer.name}:{i}") for i, value in enumerate(item.tops))
        return found

    def place(self, decision: Decision) -> None:
        """The layers of the chain go, but for one that holds what stays."""
        chain, residue = decision.chain, decision.residue
        layers = list(dict.fromkeys(node.origin for node in chain.nodes if isinstance(node.origin, Layer)))
        if residue is not None:
            powers = all(layer.type == "Power" for layer in layers) and not residue.axes
            kind = "Power" if powers else "Scale" if residue.scales else "Bias"
            host = next((layer for layer in reversed(layers) if layer.type == kind), layers[-1])
            self.hosts[host] = Host(host, residue, chain.source, chain.target, kind)
            layers.remove(host)
        self.removed.update(layers)

    def blob_name(self, value: Value) -> str:
        """The name of a surviving value: that of the vanished value whose content it has now, where it may have it."""
        own = self.spelling[value]
        taken = self.plan.names.get(value)
        if taken is None:
            return own
        target = self.named[taken]
        origin = value.producer.origin if value.producer is not None else None
        if isinstance(origin, Layer) and origin.type in SHARES_MEMORY and not target.public:
            return own
        return self.spelling[target]

    def prototxt(self) -> bytes:
        """The text of the folded net. The twins that a changed layer has in other phases go: its blobs are not theirs."""
        for layer in [*self.removed, *(twin for layer in [*self.removed, *self.hosts] for twin in self.net.twins(layer))]:
            self.texts.remove(entry_of(layer))
        for item in self.lowered.layers:
            if item.layer not in self.removed and item.layer.block is not None:
                self.rename(item, item.layer.block)
        for host in self.hosts.values():
            self.rewrite(host)
        for layer, new in self.blobs():
            if layer not in self.hosts and layer.block is not None:
                self.settle_specs(layer, layer.block, new)
        return self.texts.render()

    def rename(self, item: LoweredLayer, block: Message) -> None:
        host = self.hosts.get(item.layer)
        bottoms = [host.source] if host else item.bottoms
        tops = [host.target] if host else item.tops
        for key, values in (("bottom", bottoms), ("top", tops)):
            for entry, value in zip(block.all(key), values, strict=False):
                name = self.blob_name(self.plan.resolve(value))
                if entry.string() != name:
                    self.texts.replace(entry, name)

    def rewrite(self, host: Host) -> None:
        """Write the layer's type and parameters anew, or only what must change where what stays fits into them."""
        layer, block = host.layer, entry_of(host.layer).message()
        if layer.type == host.kind and self.fits(host):
            if host.kind == "Scale" and host.affine.shifts and not layer.param.scale_param.bias_term:
                self.set_bias_term(block, host.param, bias_entry(block))
            return
        for entry in block.entries:
            if entry.name.endswith("_param") or entry.name in ("param", "blobs_lr", "weight_decay"):
                self.texts.remove(entry)
        kind = block.first("type")
        if kind is not None and layer.type != host.kind:
            self.texts.replace(kind, host.kind)
        if body := parameters(host):
            self.texts.insert(block, host.param, body)

    def set_bias_term(self, block: Message, key: str, entry: Entry | None) -> None:
        if entry is not None:
            self.texts.replace(entry, True)
        elif (param := block.first(key)) is not None:
            self.texts.insert(param.message(), "bias_term", True)
        else:
            self.texts.insert(block, key, [("bias_term", True)])

    def settle_specs(self, layer: Layer, block: Message, new: list[AnyBlob]) -> None:
        """Give a layer with another number of blobs its bias_term, and one with blobs of its own no shared names."""
        entry = bias_entry(block)
        if len(new) > len(layer.blobs) and entry is not None:
            self.texts.replace(entry, True)
        for index, spec in enumerate(block.all("param")):
            shared = layer.shared[index] if index < len(layer.shared) else None
            if shared and not all(self.agreements(layer, shared)):
                name = spec.block.first("name") if spec.block is not None else spec
                if name is not None:
                    self.texts.remove(name)

    def agreements(self, layer: Layer, name: str) -> Iterator[bool]:
        """For every other layer that stays and shares this blob: whether it absorbs the very same."""
        own = self.absorbed(layer)
        for other in self.sharers[name]:
            if other is not layer and other not in self.removed:
                yield other not in self.hosts and same(own, self.absorbed(other))

    def absorbed(self, layer: Layer) -> Absorbed | None:
        return self.taken[layer][1] if layer in self.taken else None

    def fits(self, host: Host) -> bool:
        """Whether the blobs of what stays have the shape, and the parameters mean the axes, that the layer has now."""
        layer = host.layer
        if host.kind == "Power" or not layer.blobs or any(layer.shared):
            return False
        axis, axes = span(host.affine)
        if layer.blobs[0].shape != extents(host, axis, axes):
            return False
        if host.kind == "Bias":
            return layer.param.bias_param.axis == axis
        return layer.param.scale_param.axis == axis and layer.param.scale_param.bias_term <= host.affine.shifts

    def blobs(self) -> Iterator[tuple[Layer, list[AnyBlob]]]:
        """All layers whose stored blobs change, with their new blobs.

        Where one of several sharers of a blob goes or changes, the others are written with what they share: it may
        have been stored with the one that goes.
        """
        touched = [layer for layer in self.net.layers if layer in self.taken or layer in self.removed or layer in self.hosts]
        groups = {name for layer in touched for name in layer.shared if name}
        for layer in self.net.layers:
            if layer in self.hosts:
                yield layer, list(host_blobs(self.hosts[layer]))
            elif layer in self.taken:
                yield layer, list(folded_blobs(layer, *self.taken[layer]))
            elif layer not in self.removed and groups & set(layer.shared):
                yield layer, list(layer.blobs)

    def caffemodel(self, weights: Caffemodel) -> Rope:
        """The folded caffemodel. A layer that had no entry of its own in the file, but now has own blobs, gets one."""
        names = {layer.name for layer in self.removed}
        gone = {stored.index for stored in weights.layers if stored.name in names}
        changes, added = {}, []
        for layer, new in self.blobs():
            host = self.hosts.get(layer)
            if layer.weight_index is None:
                fresh = [b if isinstance(b, NewBlob) else NewBlob(b.shape, b.dtype, b.legacy, b.array) for b in new]
                added.append(NewLayer(layer.name, host.kind if host else layer.type, layer.bottoms, layer.tops, fresh))
            else:
                bias = True if len(new) > len(layer.blobs) and host is None else None
                changes[layer.weight_index] = LayerChange(new, None, host.kind if host else None, bias)
        return weights.rope(gone, changes, added)


def parameters(host: Host) -> list[tuple[str, Any]]:
    """The fields of the parameter message of a host that is written anew; none where Caffe's defaults say it all."""
    if host.kind == "Power":
        return [("scale", float(host.affine.a.reshape(-1)[0])), ("shift", float(host.affine.b.reshape(-1)[0]))]
    axis, axes = span(host.affine)
    fields: list[tuple[str, Any]] = [("axis", axis)] if axis != 1 else []
    fields += [("num_axes", axes)] if axes != 1 else []
    return fields + ([("bias_term", True)] if host.kind == "Scale" and host.affine.shifts else [])


def spellings(lowered: Lowered) -> Iterator[tuple[Value, str]]:
    """Every value that stands in the prototxt, with the blob name under which it stands there."""
    for item in lowered.layers:
        yield from zip(item.bottoms, item.layer.bottoms, strict=True)
        yield from zip(item.tops, item.layer.tops, strict=True)


def entry_of(layer: Layer) -> Entry:
    """The block of a layer that stands in the text."""
    assert layer.block is not None  # the layer of `input` fields holds no affine
    assert layer.block.entry is not None
    return layer.block.entry


def bias_entry(block: Message) -> Entry | None:
    """The `bias_term` of a layer (`biasterm` in V0), wherever in its parameters it stands."""
    for entry in block.entries:
        if entry.name in ("bias_term", "biasterm"):
            return entry
        if entry.block is not None and (found := bias_entry(entry.block)) is not None:
            return found
    return None


def same(one: Absorbed | None, other: Absorbed | None) -> bool:
    """Whether two layers absorb the same; both nothing is the same."""
    if one is None or other is None:
        return one is other
    return all(np.array_equal(a, b) for a, b in zip(one.parts, other.parts, strict=True))


def span(affine: Affine) -> tuple[int, int]:
    """`axis` and `num_axes` of the Scale or Bias that spells out an affine; the channels for one scalar."""
    axes = affine.axes or {1}
    return min(axes), max(axes) - min(axes) + 1


def extents(host: Host, axis: int, axes: int) -> tuple[int, ...]:
    """The shape of the blobs of a host. The lowering knows it, because the affine came from blobs of that extent."""
    shape = host.target.shape or host.source.shape or host.affine.a.shape
    return tuple(int(extent or 1) for extent in shape[axis : axis + axes])


def host_blobs(host: Host) -> Iterator[NewBlob]:
    """The blobs of a Scale (gamma, and beta where it has a shift) or a Bias, in the dtype of the layer's old blobs."""
    if host.kind == "Power":
        return
    axis, axes = span(host.affine)
    shape = extents(host, axis, axes)
    dtype = host.layer.blobs[0].dtype if host.layer.blobs else np.dtype(np.float32)
    arrays = [host.affine.b] if host.kind == "Bias" else [host.affine.a, host.affine.b][: 1 + host.affine.shifts]
    for array in arrays:
        inner = array.reshape(array.shape[axis : axis + axes])
        yield NewBlob(shape, dtype, False, partial(spread, inner, shape, dtype))


def spread(array: npt.NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.broadcast_to(array, shape).astype(dtype)


def folded_blobs(layer: Layer, node: Node, taken: Absorbed) -> Iterator[AnyBlob]:
    """The weights and the bias that a layer has when it has absorbed `taken`; a bias only where there is one to have."""
    role = linear(node)
    assert isinstance(role, Linear)  # the plan names linear nodes only
    weight = layer.blobs[0]
    load: Callable[[], npt.NDArray[Any]] = partial(folded_weight, role, weight, taken)
    untouched = (taken.post_a == 1).all() and (taken.pre_a == 1).all()
    yield weight if untouched else NewBlob(weight.shape, weight.dtype, weight.legacy, load)
    if len(layer.blobs) > 1 or taken.post_b.any() or taken.pre_b.any():
        outs = role.layout.channels(role.weight.shape)[0]
        style = layer.blobs[1] if len(layer.blobs) > 1 else weight
        shape = style.shape if style is not weight else (1, 1, 1, outs) if weight.legacy else (outs,)
        yield NewBlob(shape, style.dtype, style.legacy, partial(folded_bias, role, outs, taken, style.dtype))


def folded_weight(role: Linear, weight: Blob, taken: Absorbed) -> npt.NDArray[Any]:
    return absorb_weight(role.weight.load().reshape(role.weight.shape), role.layout, taken).reshape(weight.shape)


def folded_bias(role: Linear, outs: int, taken: Absorbed, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    old = np.zeros(outs) if role.bias is None else role.bias.float64().reshape(-1)
    return absorb_bias(old, role.weight.load().reshape(role.weight.shape), role.layout, role.gain, taken).astype(dtype)
