"""A BlobProto: its shape and where its values lie, without decoding them; and the writing of a new one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import protobuf
from ...errors import InputError
from ...protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, Lazy, Rope, WireError

_FLOATS, _SHAPE, _DOUBLES, _RAW_TYPE, _RAW = 5, 7, 8, 10, 12  # in BlobProto; 1 to 4 are the legacy shape
_ITEM_SIZES = {_FLOATS: 4, _DOUBLES: 8}
_RAW_TYPES = ("DOUBLE", "FLOAT", "FLOAT16", "INT", "UINT")  # by number
_RAW_DTYPES = tuple(map(np.dtype, ("<f8", "<f4", "<f2")))  # of those whose values are numbers of a weight
_DIM = 1  # in BlobShape
_MAX_AXES = 32  # of Caffe
MAX_COUNT = (1 << 31) - 1  # of Caffe, whose counts are int


@dataclass(frozen=True, eq=False, slots=True)
class Blob:
    """One stored blob: `count` values of `dtype` in `shape`. A `legacy` shape is (num, channels, height, width).

    `where` names file, layer and blob. `field` is the whole BlobProto in `data`, `run` the values if in one piece.
    `raw`: they lie in `raw_data`, as NVIDIA's Caffe writes them; float16 lies nowhere else.
    `reshaped`: `shape` is not the one that is stored there, but that of a layer that shares the values.
    """

    where: str
    data: memoryview
    field: Field
    shape: tuple[int, ...]
    legacy: bool
    dtype: np.dtype[Any]
    count: int
    run: tuple[int, int] | None
    raw: bool = False
    reshaped: bool = False

    def in_shape(self, shape: tuple[int, ...], legacy: bool = False) -> Blob:
        """The same values in another shape of as many elements."""
        return replace(self, shape=shape, legacy=legacy, reshaped=True)

    def renewed(self) -> NewBlob:
        """The same to be written anew."""
        return self.like(self.array)

    def like(self, load: Callable[[], npt.NDArray[Any]], shape: tuple[int, ...] | None = None) -> NewBlob:
        """A blob to write in the type and the style of this one, and in its shape unless another is given."""
        return NewBlob(self.shape if shape is None else shape, self.dtype, self.legacy, load, self.raw)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether Caffe loads this blob into a parameter of `shape`: alike, or alike in a legacy shape's last axes."""
        if self.legacy and len(shape) <= 4:
            shape = (1,) * (4 - len(shape)) + shape
        return self.shape == shape

    def array(self) -> npt.NDArray[Any]:
        """The values in `shape`: a read-only view of the file where they lie in one piece, else a copy."""
        data = b"".join(self._pieces()) if self.run is None else self.data[slice(*self.run)]
        return np.frombuffer(data, self.dtype).reshape(self.shape)

    def _pieces(self) -> Iterator[memoryview]:
        number = _FLOATS if self.dtype.itemsize == _ITEM_SIZES[_FLOATS] else _DOUBLES
        for part in protobuf.fields(self.data, self.field.body, self.field.end):
            if part.number == number and _holds_values(part):
                yield self.data[part.body : part.end]


class NewBlob(NamedTuple):
    """A blob to write: `load` makes its array of `shape` when it is written as `dtype` (float32 or float64).

    `legacy` writes the shape as num, channels, height, width, filled up with ones from the left. `raw` writes the
    values as `raw_data`, which can be float16, too.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    legacy: bool
    load: Callable[[], npt.NDArray[Any]]
    raw: bool = False


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


@dataclass(slots=True)
class _Parts:
    """What a BlobProto holds. `sizes`: bytes of the values in `data` and `double_data`, `runs` where these lie."""

    legacy: dict[int, int] = field(default_factory=dict)
    dims: list[int] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=lambda: dict.fromkeys(_ITEM_SIZES, 0))
    runs: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: {number: [] for number in _ITEM_SIZES})
    raw_type: int | None = None
    raw: tuple[int, int] | None = None

    def add(self, data: memoryview, part: Field) -> None:
        if _holds_values(part):
            self.sizes[part.number] += part.end - part.body
            if len(self.runs[part.number]) < 2:  # one is a view, more are to be joined; unpacked values are many
                self.runs[part.number].append((part.body, part.end))
        elif part.number == _SHAPE and part.wire == BYTES:
            self.dims += _dims(data, part)
        elif part.number < _FLOATS and part.wire == VARINT:
            self.legacy[part.number] = protobuf.read_integer(part)
        elif part.number == _RAW_TYPE and part.wire == VARINT:
            self.raw_type = part.value
        elif part.number == _RAW and part.wire == BYTES:
            self.raw = part.body, part.end


def decode(data: memoryview, field: Field, where: str) -> Blob:
    """The BlobProto `field`. Any legacy extent outweighs the shape; any double the floats, and these `raw_data`.

    That is the order in NVIDIA's Caffe (Blob::FromProto in src/caffe/blob.cpp) and, without `raw_data`, in BVLC's;
    OpenCV, which knows no doubles, has it too (blobFromProto in modules/dnn/src/caffe/caffe_importer.cpp).
    Raises InputError where it is broken, or its values are not as many as its shape says.
    """
    parts = _Parts()
    try:
        for part in protobuf.fields(data, field.body, field.end):
            parts.add(data, part)
    except WireError as error:
        raise InputError(f"the blob cannot be decoded: {error}", where=where) from None
    legacy = parts.legacy
    shape = tuple(legacy.get(axis, 0) for axis in range(1, 5)) if legacy else tuple(parts.dims)
    if parts.raw is not None and not any(parts.sizes.values()):
        dtype, raw = _raw_dtype(parts.raw_type, where), parts.raw
        count = _checked_count(shape, (raw[1] - raw[0]) / dtype.itemsize, where)
        return Blob(where, data, field, shape, bool(legacy), dtype, count, raw, raw=True)
    number = _DOUBLES if parts.sizes[_DOUBLES] else _FLOATS
    count = _checked_count(shape, parts.sizes[number] / _ITEM_SIZES[number], where)
    run = parts.runs[number][0] if len(parts.runs[number]) == 1 else None
    return Blob(where, data, field, shape, bool(legacy), np.dtype(f"<f{_ITEM_SIZES[number]}"), count, run)


def _raw_dtype(number: int | None, where: str) -> np.dtype[Any]:
    """The type of `raw_data`. Raises InputError where none is given, as NVIDIA's Caffe does, or it is no float's."""
    if number is None:
        raise InputError("the blob has raw_data without raw_data_type", where=where, hint="save it in Caffe anew")
    if number >= len(_RAW_DTYPES):
        name = _RAW_TYPES[number] if number < len(_RAW_TYPES) else str(number)
        known = ", ".join(_RAW_TYPES[: len(_RAW_DTYPES)])
        raise InputError(f"raw_data of type {name} is no weight", where=where, hint=f"Caffe loads {known} only")
    return _RAW_DTYPES[number]


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
    for dim in protobuf.fields(data, shape.body, shape.end):
        if dim.number == _DIM and dim.wire in (VARINT, BYTES):
            dims += protobuf.read_integers(data, dim)
        if len(dims) > _MAX_AXES:
            raise WireError(f"the shape has more than {_MAX_AXES} axes", dim.start)
    return dims


def _checked_count(shape: tuple[int, ...], count: float, where: str) -> int:
    """`count` values in the file, which are a broken number where the last one is cut. Raises InputError."""
    text = "×".join(map(str, shape)) or "()"
    if any(extent < 0 for extent in shape):
        raise InputError(f"the shape {text} has a negative extent", where=where)
    if math.prod(extent or 1 for extent in shape) > MAX_COUNT:  # also where an extent of 0 makes it empty
        raise InputError(f"the shape {text} is larger than any blob", where=where)
    if count != math.prod(shape):
        raise InputError(f"the shape {text} needs {math.prod(shape)} values, the file has {count:.15g}", where=where)
    return int(count)


def encode(blob: NewBlob) -> Rope:
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
            out.add(protobuf.integer(axis, extent))
    if not blob.raw and dtype.itemsize == _ITEM_SIZES[_FLOATS]:
        out.add_message(_FLOATS, values)
    if not legacy:
        dims = b"".join(map(protobuf.varint, blob.shape))
        out.add(protobuf.delimited(_SHAPE, protobuf.delimited(_DIM, dims) if dims else b""))
    if not blob.raw and dtype.itemsize == _ITEM_SIZES[_DOUBLES]:
        out.add_message(_DOUBLES, values)
    if blob.raw:
        out.add(protobuf.integer(_RAW_TYPE, _RAW_DTYPES.index(dtype)))
        out.add_message(_RAW, values)
    return out
