"""A caffemodel as its layers and where their weights lie in the mapped file; and the same file with some of them changed.

Only what all of Caffe's forks agree on is decoded: a layer's name, its type and its blobs. Whatever else the file holds
is copied as it stands. Read are NetParameters with `layer` (100) and with the V1 `layers` (2) of 2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..files import open_mapped
from ..wire import BYTES, FIXED32, FIXED64, VARINT, Field, Lazy, Rope, WireError
from ..wire import delimited, fields, integer, packed_varints, signed, string, text, varint
from .upgrade import V1_NUMBERS, V1_TYPES

_MAX_LAYERS = 500_000
_MAX_BLOBS = 1000
_FLOATS, _SHAPE, _DOUBLES = 5, 7, 8  # in BlobProto
_ITEM_SIZES = {_FLOATS: 4, _DOUBLES: 8}
_DIM = 1  # in BlobShape
_BIAS_TERM = 2  # in ConvolutionParameter and InnerProductParameter


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


@dataclass(eq=False)
class Blob:
    """One stored blob: its values as `dtype` in `shape`. A `legacy` shape is (num, channels, height, width)."""

    layer: StoredLayer
    index: int
    field: Field
    shape: tuple[int, ...]
    legacy: bool
    dtype: np.dtype[Any]
    count: int
    run: tuple[int, int] | None

    @property
    def where(self) -> str:
        return f"{self.layer.where}, blob {self.index}"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether Caffe loads this blob into a parameter of `shape`: alike, or alike in a legacy shape's last axes."""
        if self.legacy and len(shape) <= 4:
            shape = (1,) * (4 - len(shape)) + shape
        return self.shape == shape

    def array(self) -> npt.NDArray[Any]:
        """The values in `shape`: a read-only view of the file where they lie in one piece, else a copy."""
        data: memoryview | bytes
        if self.run is None:
            data = b"".join(self._pieces())
        else:
            data = self.layer.model.data[self.run[0] : self.run[1]]
        return np.frombuffer(data, self.dtype).reshape(self.shape)

    def _pieces(self) -> Iterator[memoryview]:
        data = self.layer.model.data
        number = _FLOATS if self.dtype.itemsize == 4 else _DOUBLES
        parts = fields(data, self.field.body, self.field.end)
        return (data[part.body : part.end] for part in parts if part.number == number and _holds_values(part))


class NewBlob(NamedTuple):
    """A blob to write: `load` makes its array of `shape` when it is written as `dtype` (float32 or float64).

    `legacy` writes the shape as num, channels, height, width, filled up with ones from the left.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    legacy: bool
    load: Callable[[], npt.NDArray[Any]]


class LayerChange(NamedTuple):
    """What becomes of a stored layer; None leaves a thing as it is."""

    blobs: Sequence[Blob | NewBlob] | None = None
    name: str | None = None
    type: str | None = None
    bias_term: bool | None = None


class NewLayer(NamedTuple):
    """A layer to add."""

    name: str
    type: str
    bottoms: Sequence[str]
    tops: Sequence[str]
    blobs: Sequence[NewBlob]


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
                self.name = text(model.data, field)
            elif field.number == layout.type:
                self.type = V1_TYPES.get(field.value, "") if field.wire == VARINT else text(model.data, field)
            elif layout is _V1 and field.number == _V0_IN_V1:
                raise InputError(
                    "the weights are in the format of 2013 (V0)",
                    where=str(model.path),
                    hint="Caffe's tool upgrade_net_proto_binary brings the file up to date",
                )

    @property
    def where(self) -> str:
        return f"{self.model.path}, layer {self.name or self.index!r}"

    @property
    def blobs(self) -> list[Blob]:
        """Raises InputError for a blob that is broken or holds another number of values than its shape has."""
        if self._blobs is None:
            found = [f for f in self.fields() if f.number == self.model.layout.blobs and f.wire == BYTES]
            if len(found) > _MAX_BLOBS:
                raise InputError(f"the layer has {len(found)} blobs", where=self.where)
            self._blobs = [_blob(self, index, field) for index, field in enumerate(found)]
        return self._blobs

    def fields(self) -> Iterator[Field]:
        try:
            yield from fields(self.model.data, self.body, self.end)
        except WireError as error:
            raise InputError(f"the layer cannot be decoded: {error}", where=self.where) from None


class Caffemodel:
    """The layers of a caffemodel in the order of the file. Nothing in it changes; `rope` is the changed content."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for what cannot be read, is cut short, or is another kind of file."""
        self.path = path
        self.data = open_mapped(path)
        _refuse_other_formats(self.data, str(path))
        self.layout = _V2
        spans = self._spans()
        self.layers = [StoredLayer(self, index, span) for index, span in enumerate(spans)]

    def _spans(self) -> list[tuple[int, int, int]]:
        """Start, body and end of each layer; sets the layout that they have."""
        found: dict[int, list[tuple[int, int, int]]] = {_V1.layers: [], _V2.layers: []}
        try:
            for field in fields(self.data):
                if field.wire == BYTES and field.number in found:
                    found[field.number].append((field.start, field.body, field.end))
                    if len(found[field.number]) > _MAX_LAYERS:
                        raise InputError(f"the file claims more than {_MAX_LAYERS} layers", where=str(self.path))
        except WireError as error:
            raise InputError(
                f"the file is cut short or no caffemodel: {error}", where=str(self.path), hint="was it copied or downloaded whole?"
            ) from None
        v1, v2 = found.values()
        if v1 and v2:
            raise InputError("the file mixes `layer` and V1 `layers`", where=str(self.path))
        if not v1 and not v2:
            raise InputError("the file holds no layers", where=str(self.path), hint="give the .caffemodel with the weights")
        self.layout = _V1 if v1 else _V2
        return v1 or v2

    def rope(
        self,
        drop: Collection[int] = (),
        changes: Mapping[int, LayerChange] | None = None,
        added: Sequence[NewLayer] = (),
    ) -> Rope:
        """The file without the layers whose indices are in `drop`, with `changes` by index, and `added` at its end."""
        out = Rope()
        at = 0
        for index in sorted({*drop, *(changes or ())}):
            layer = self.layers[index]
            out.add(self.data[at : layer.start])
            at = layer.end
            if changes and index in changes and index not in drop:
                out.add_message(self.layout.layers, self._changed(layer, changes[index]))
        out.add(self.data[at:])
        for layer in added:
            out.add_message(self.layout.layers, self._new_layer(layer))
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
                out.add(string(layout.name, change.name))
            elif field.number == layout.type and change.type is not None:
                out.add(self._type(change.type))
            elif field.number in layout.with_bias_term and change.bias_term is not None and field.wire == BYTES:
                out.add(delimited(field.number, _with_bias_term(bytes(data[field.body : field.end]), change.bias_term)))
            else:
                out.add(data[field.start : field.end])
        self._add_blobs(out, blobs or ())
        return out

    def _new_layer(self, layer: NewLayer) -> Rope:
        layout = self.layout
        out = Rope(string(layout.name, layer.name), self._type(layer.type))
        for name in layer.bottoms:
            out.add(string(layout.bottom, name))
        for name in layer.tops:
            out.add(string(layout.top, name))
        self._add_blobs(out, layer.blobs)
        return out

    def _type(self, name: str) -> bytes:
        """The type as a field; nothing where V1 has no number for it, which Caffe does not miss in a caffemodel."""
        if self.layout is _V2:
            return string(_V2.type, name)
        return integer(_V1.type, V1_NUMBERS[name]) if name in V1_NUMBERS else b""

    def _add_blobs(self, out: Rope, blobs: Sequence[Blob | NewBlob]) -> None:
        for blob in blobs:
            if isinstance(blob, Blob):
                out.add(self.data[blob.field.start : blob.field.end])
            else:
                out.add_message(self.layout.blobs, _encoded(blob))


def _refuse_other_formats(data: memoryview, where: str) -> None:
    head = bytes(data[:1024])
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        raise InputError(
            "the weights are in an HDF5 file", where=where, hint="load them in Caffe and save with net.save('x.caffemodel')"
        )
    if head.startswith(b"version https://git-lfs"):
        raise InputError("this is a git-lfs pointer, not the weights", where=where, hint="fetch the file with `git lfs pull`")
    if not head.translate(None, b"\t\n\r\f" + bytes(range(32, 127)) + bytes(range(128, 256))):
        raise InputError("this is a text file, not a caffemodel", where=where, hint="the prototxt comes first, then the weights")


def _blob(layer: StoredLayer, index: int, field: Field) -> Blob:
    """Decode all of a BlobProto but its values. Any legacy extent outweighs the shape, any double the floats."""
    where = f"{layer.where}, blob {index}"
    data = layer.model.data
    legacy: dict[int, int] = {}
    dims: list[int] = []
    runs: dict[int, list[tuple[int, int]]] = {_FLOATS: [], _DOUBLES: []}  # no more than two of each
    sizes = dict.fromkeys(_ITEM_SIZES, 0)
    try:
        for part in fields(data, field.body, field.end):
            if _holds_values(part):
                sizes[part.number] += part.end - part.body
                if len(runs[part.number]) < 2:
                    runs[part.number].append((part.body, part.end))
            elif part.number == _SHAPE and part.wire == BYTES:
                dims += _dims(data, part)
            elif part.number <= 4 and part.wire == VARINT:
                legacy[part.number] = signed(part.value)
    except WireError as error:
        raise InputError(f"the blob cannot be decoded: {error}", where=where) from None
    number = _DOUBLES if sizes[_DOUBLES] else _FLOATS
    dtype = np.dtype("<f8" if sizes[_DOUBLES] else "<f4")
    shape = tuple(legacy.get(axis, 0) for axis in range(1, 5)) if legacy else tuple(dims)
    count = _checked_count(shape, sizes[number], dtype.itemsize, where)
    run = runs[number][0] if len(runs[number]) == 1 else None
    return Blob(layer, index, field, shape, bool(legacy), dtype, count, run)


def _holds_values(part: Field) -> bool:
    """Whether a field of a BlobProto holds values, packed or a single one."""
    itemsize = _ITEM_SIZES.get(part.number)
    if itemsize is None or part.wire not in (BYTES, FIXED32 if itemsize == 4 else FIXED64):
        return False
    if (part.end - part.body) % itemsize:
        raise WireError("a value is cut in two", part.end)
    return True


def _dims(data: memoryview, shape: Field) -> list[int]:
    dims: list[int] = []
    for dim in fields(data, shape.body, shape.end):
        if dim.number == _DIM and dim.wire in (VARINT, BYTES):
            dims += packed_varints(data, dim)
        if len(dims) > 32:  # Caffe's limit
            raise WireError("the shape has more than 32 axes", dim.start)
    return dims


def _checked_count(shape: tuple[int, ...], size: int, itemsize: int, where: str) -> int:
    count = math.prod(shape)
    if any(extent < 0 for extent in shape):
        raise InputError(f"the shape {_by(shape)} has a negative extent", where=where)
    if size != count * itemsize:
        raise InputError(f"the shape {_by(shape)} needs {count} values, stored are {size / itemsize:g}", where=where)
    return count


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def _encoded(blob: NewBlob) -> Rope:
    """A BlobProto with its fields in the order of their numbers, as protobuf writes them."""
    dtype = blob.dtype.newbyteorder("<")
    size = math.prod(blob.shape) * dtype.itemsize

    def produce() -> memoryview:
        array = np.ascontiguousarray(blob.load(), dtype)
        return array.reshape(-1).view(np.uint8).data

    values = Rope(Lazy(size, produce)) if size else Rope()
    legacy = blob.legacy and len(blob.shape) <= 4
    out = Rope()
    if legacy:
        for axis, extent in enumerate((1,) * (4 - len(blob.shape)) + blob.shape, 1):
            out.add(integer(axis, extent))
    if dtype.itemsize == 4:
        out.add_message(_FLOATS, values)
    if not legacy:
        dims = b"".join(map(varint, blob.shape))
        out.add(delimited(_SHAPE, delimited(_DIM, dims) if dims else b""))
    if dtype.itemsize == 8:
        out.add_message(_DOUBLES, values)
    return out


def _with_bias_term(param: bytes, value: bool) -> bytes:
    """The convolution_param or inner_product_param with `bias_term`, which is true where it is absent, set."""
    stored = [field for field in fields(param) if field.number == _BIAS_TERM]
    if bool(stored[-1].value if stored else True) == value:
        return param
    kept = b"".join(param[field.start : field.end] for field in fields(param) if field.number != _BIAS_TERM)
    return kept + integer(_BIAS_TERM, value)
