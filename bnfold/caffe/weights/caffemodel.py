"""A caffemodel as its layers and where their weights lie in the mapped file; and the file with some layers changed.

Only what all of Caffe's forks agree on is decoded: a layer's name, its type and its blobs. Whatever else the file holds
is copied as it stands. Read are NetParameters with `layer` (100) and with the V1 `layers` (2) of 2014; weights in HDF5
are made into the first, of which they are a part.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ... import protobuf
from ...content import HDF5
from ...errors import InputError
from ...files import open_mapped
from ...protobuf import BYTES, VARINT, Field, Rope, WireError
from ..upgrade import V1_NUMBERS, V1_TYPES
from .blob import Blob, LayerChange, NewBlob, NewLayer, decode, encode

_NET_NAME = 1
_MAX_LAYERS = 500_000
_MAX_BLOBS = 1000  # of one layer


class _Layout(NamedTuple):
    """Field numbers: of the layers in the net, and in a layer of what is read or changed."""

    layers: int
    name: int
    type: int
    blobs: int
    bottom: int
    top: int
    with_bias_term: tuple[int, ...]  # convolution_param and inner_product_param


_V2 = _Layout(100, 1, 2, 7, 3, 4, (106, 117))
_V1 = _Layout(2, 4, 5, 6, 2, 3, (10, 17))
_V0_IN_V1 = 1
_BIAS_TERM = 2  # in ConvolutionParameter and InnerProductParameter


class StoredLayer:
    """A layer of the file: its name, its type by today's name ("" if it has none), and its blobs when asked for."""

    __slots__ = ("_blobs", "body", "end", "index", "model", "name", "start", "type")

    def __init__(self, model: Caffemodel, index: int, span: tuple[int, int, int]) -> None:
        self.model, self.index = model, index
        self.start, self.body, self.end = span
        self.name = self.type = ""
        self._blobs: list[Blob] | None = None
        layout = model.layout
        for field in self.fields():
            if field.number == layout.name and field.wire == BYTES:
                self.name = protobuf.read_string(model.data, field)
            elif field.number == layout.type and field.wire in (BYTES, VARINT):
                self.type = (
                    V1_TYPES.get(field.value, "") if field.wire == VARINT else protobuf.read_string(model.data, field)
                )
            elif layout is _V1 and field.number == _V0_IN_V1:
                raise InputError(
                    "the weights are in the format of 2013 (V0)",
                    where=str(model.path),
                    hint="Caffe's tool upgrade_net_proto_binary brings the file up to date",
                )

    @property
    def where(self) -> str:
        """File and layer, for errors."""
        return f"{self.model.path}, layer {self.name or self.index}"

    @property
    def blobs(self) -> list[Blob]:
        """Raises InputError for a blob that is broken or holds another number of values than its shape has."""
        if self._blobs is None:
            stored = (f for f in self.fields() if f.number == self.model.layout.blobs and f.wire == BYTES)
            found = list(itertools.islice(stored, _MAX_BLOBS + 1))
            if len(found) > _MAX_BLOBS:
                raise InputError(f"the layer claims more than {_MAX_BLOBS} blobs", where=self.where)
            self._blobs = [
                decode(self.model.data, field, f"{self.where}, blob {index}") for index, field in enumerate(found)
            ]
        return self._blobs

    def fields(self) -> Iterator[Field]:
        """Where each field of the layer lies. Raises InputError where the bytes are no message."""
        try:
            yield from protobuf.fields(self.model.data, self.body, self.end)
        except WireError as error:
            raise InputError(f"the layer cannot be decoded: {error}", where=self.where) from None


class Caffemodel:
    """The layers of a caffemodel in the order of the file. Nothing in it changes; `rope` is the changed content."""

    def __init__(self, path: Path, shared: Mapping[str, Sequence[str | None]] | None = None) -> None:
        """`shared`: for each layer of the net the names under which it shares its blobs, which HDF5 does not tell.

        Raises InputError for what cannot be read or is cut short.
        """
        self.path = path
        self.data = open_mapped(path)
        self.hdf5 = bytes(self.data[:8]) == HDF5
        if self.hdf5:
            self.data = self._converted(shared or {})
        self.layout = _V2
        spans = self._spans()
        self.layers = [StoredLayer(self, index, span) for index, span in enumerate(spans)]

    def _converted(self, shared: Mapping[str, Sequence[str | None]]) -> memoryview:
        """The content of the HDF5 file as that of a caffemodel."""
        from .hdf5 import layers

        self.data, self.layout, self.layers = memoryview(b""), _V2, []
        content = io.BytesIO()
        with layers(self.path, shared) as found:
            self.rope(added=found).write(content)
        return memoryview(content.getvalue())

    def _spans(self) -> list[tuple[int, int, int]]:
        """Start, body and end of each layer; sets the layout that they have."""
        found: dict[int, list[tuple[int, int, int]]] = {_V1.layers: [], _V2.layers: []}
        try:
            for field in protobuf.fields(self.data):
                if field.wire == BYTES and field.number in found:
                    found[field.number].append((field.start, field.body, field.end))
                    if len(found[field.number]) > _MAX_LAYERS:
                        raise InputError(f"the file claims more than {_MAX_LAYERS} layers", where=str(self.path))
        except WireError as error:
            raise InputError(
                f"the file is cut short or is no caffemodel: {error}",
                where=str(self.path),
                hint="was it copied or downloaded whole?",
            ) from None
        v1, v2 = found.values()
        if v1 and v2:
            raise InputError("the file mixes `layer` and V1 `layers`", where=str(self.path))
        self.layout = _V1 if v1 else _V2
        return v1 or v2

    def rope(
        self,
        drop: Collection[int] = (),
        changes: Mapping[int, LayerChange] | None = None,
        added: Sequence[NewLayer] = (),
    ) -> Rope:
        """The file without the layers whose indices are in `drop`, with `changes` by index, and `added` at its end."""
        edits: dict[int, LayerChange | None] = {**(changes or {}), **dict.fromkeys(drop)}
        out = Rope()
        at = 0
        for index in sorted(edits):
            layer, change = self.layers[index], edits[index]
            out.add(self.data[at : layer.start])
            at = layer.end
            if change is not None:
                out.add_message(self.layout.layers, self._changed(layer, change))
        out.add(self.data[at:])
        for new in added:
            out.add_message(self.layout.layers, self._new_layer(new))
        if not out.size:  # all its layers are gone, which is not to look like a file that was never written
            out.add(protobuf.string(_NET_NAME, ""))
        return out

    def _changed(self, layer: StoredLayer, change: LayerChange) -> Rope:
        layout, data = self.layout, self.data
        out = Rope()
        blobs = change.blobs
        for field in layer.fields():
            if field.number == layout.blobs and change.blobs is not None:
                self._add_blobs(out, blobs or ())
                blobs = None
            elif field.number == layout.name and change.name is not None:
                out.add(protobuf.string(layout.name, change.name))
            elif field.number == layout.type and change.type is not None:
                out.add(self._type(change.type))
            elif field.number in layout.with_bias_term and field.wire == BYTES and change.bias_term is not None:
                param = bytes(data[field.body : field.end])
                out.add(protobuf.delimited(field.number, _with_bias_term(param, change.bias_term, layer.where)))
            else:
                out.add(data[field.start : field.end])
        self._add_blobs(out, blobs or ())
        return out

    def _new_layer(self, layer: NewLayer) -> Rope:
        layout = self.layout
        out = Rope(protobuf.string(layout.name, layer.name), self._type(layer.type))
        for name in layer.bottoms:
            out.add(protobuf.string(layout.bottom, name))
        for name in layer.tops:
            out.add(protobuf.string(layout.top, name))
        self._add_blobs(out, layer.blobs)
        return out

    def _type(self, name: str) -> bytes:
        """The type as a field; nothing where V1 has no number for it, which Caffe does not miss in a caffemodel."""
        if self.layout is _V2:
            return protobuf.string(_V2.type, name)
        return protobuf.integer(_V1.type, V1_NUMBERS[name]) if name in V1_NUMBERS else b""

    def _add_blobs(self, out: Rope, blobs: Sequence[Blob | NewBlob]) -> None:
        for blob in blobs:
            if isinstance(blob, Blob) and not blob.reshaped:
                out.add(self.data[blob.field.start : blob.field.end])
            else:
                out.add_message(self.layout.blobs, encode(blob.renewed() if isinstance(blob, Blob) else blob))


def _with_bias_term(param: bytes, value: bool, where: str) -> bytes:
    """The convolution_param or inner_product_param with `bias_term`, which is true where it is absent, set."""
    stored = True
    kept = bytearray()
    try:
        for part in protobuf.fields(param):
            if part.number == _BIAS_TERM:
                stored = bool(part.value)
            else:
                kept += param[part.start : part.end]
    except WireError as error:
        raise InputError(f"the layer's parameters cannot be decoded: {error}", where=where) from None
    return param if stored == value else bytes(kept) + protobuf.integer(_BIAS_TERM, value)
