"""The content of tensors: TensorProto and SparseTensorProto as constants whose arrays are loaded when asked for.

Arrays are views of the mapped file wherever the stored form allows it. Data outside the model is confined to the
model's folder. Semantics: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and docs/ExternalData.md
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable
from functools import partial
from pathlib import Path, PureWindowsPath

import numpy as np

from ..errors import BnfoldError, InputError
from ..files import open_mapped
from ..ir.element_types import OPAQUE, DType, element_type, is_float
from ..ir.graph import Array, Tensor
from ..ir.shapes.check import MOST_AXES
from ..protobuf import Field
from .messages import Data, StoredSparse, StoredTensor
from .schema import TensorProto

LARGEST = 1 << 30
"""A sparse tensor that stands for more elements is not made dense."""

_PLAIN = {TensorProto.FLOAT_DATA, TensorProto.RAW_DATA, TensorProto.DOUBLE_DATA}
"""The data fields that hold elements as they lie in memory; the others hold varints."""
_USERS = {
    TensorProto.FLOAT_DATA: "float32 complex64",
    TensorProto.DOUBLE_DATA: "float64 complex128",
    TensorProto.UINT64_DATA: "uint32 uint64",
    TensorProto.INT64_DATA: "int64",
}
_FORMS = {np.dtype(name): number for number, names in _USERS.items() for name in names.split()}
"""The data field, besides raw_data, of each type that does not use int32_data."""


class External:
    """The files beside a model that hold tensors, each mapped once."""

    def __init__(self, folder: Path | None, where: str) -> None:
        self.folder = folder
        self.where = where
        self.files: dict[str, memoryview] = {}

    def span(self, tensor: StoredTensor, size: int) -> tuple[str, int, int]:
        """Location, offset and length of a tensor's data, `size` bytes where the model does not tell.

        Raises InputError where that is nothing in the folder.
        """
        entries = tensor.external or {}
        location = entries.get("location", "")
        room = len(self.open(location, tensor.name))
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries.get("length") or size)
        except ValueError:
            raise self._fault(tensor.name, "has an offset or length that is no number") from None
        if offset < 0 or length < 0 or offset + length > room:
            hint = "was the data file copied whole?"
            raise self._fault(tensor.name, f"runs past the end of {location!r}", hint)
        return location, offset, length

    def open(self, location: str, name: str) -> memoryview:
        """The content of the file at `location`, which must lie in the model's folder, links resolved."""
        if location in self.files:
            return self.files[location]
        path = self.path(location, name)
        try:
            self.files[location] = open_mapped(path)
        except BnfoldError as error:
            hint = "the model's data files must lie beside it"
            raise self._fault(name, f"has its data in {location!r}: {error.what}", hint) from None
        return self.files[location]

    def path(self, location: str, name: str) -> Path:
        """Where `location` is. Raises InputError when it leaves the model's folder."""
        if self.folder is None:
            raise self._fault(name, f"has its data in {location!r}, and the folder of the model is not known")
        outside = self._fault(name, f"has its data in {location!r}, which is outside the model's folder")
        windows = PureWindowsPath(location)
        if not location or "\0" in location or windows.drive or windows.root or ".." in windows.parts:
            raise outside
        try:
            path = (self.folder / location).resolve()
        except (OSError, RuntimeError):
            raise outside from None
        if not path.is_relative_to(self.folder.resolve()):
            raise outside
        return path

    def _fault(self, name: str, what: str, hint: str = "") -> InputError:
        return InputError(f"the tensor {name!r} {what}", where=self.where, hint=hint)


def overlapping(external: External, tensors: Iterable[StoredTensor]) -> set[StoredTensor]:
    """Those tensors with external data of which another tensor of these holds a part."""
    spans = []
    for stored in tensors:
        if stored.external is not None:
            location, offset, length = external.span(
                stored, math.prod(stored.dims) * element_type(stored.type).itemsize
            )
            spans.append((location, offset, offset + length, stored))
    spans.sort(key=lambda span: span[:3])
    found: set[StoredTensor] = set()
    for before, after in itertools.pairwise(spans):
        if before[0] == after[0] and after[1] < before[2]:
            found |= {before[3], after[3]}
    return found


class Tensors:
    """Makes constants of a model's stored tensors."""

    def __init__(self, data: Data, external: External) -> None:
        self.data = data
        self.external = external

    def dense(self, stored: StoredTensor, key: Hashable, name: str = "") -> Tensor:
        """A TensorProto as a constant. Raises InputError where its size does not fit its extents."""
        dtype = element_type(stored.type)
        self._check(stored, dtype, name or stored.name)
        return Tensor(key, stored.dims, dtype, partial(self._load, stored, dtype, name or stored.name))

    def sparse(self, stored: StoredSparse, key: Hashable) -> Tensor:
        """A SparseTensorProto as the dense constant that it stands for; of no readable type where that is enormous."""
        if stored.values.external is not None or stored.indices.external is not None:
            raise self._fault(stored.name, "is sparse and has its data outside of the model, which ONNX lacks")
        values = self.dense(stored.values, stored.values)
        indices = self.dense(stored.indices, stored.indices, stored.name)
        count, rank = values.shape[:1], len(stored.dims)
        good = (
            rank <= MOST_AXES
            and len(values.shape) == 1
            and indices.dtype == np.int64
            and indices.shape in (count, (*count, rank))
        )
        if not good or any(extent < 0 for extent in stored.dims):
            raise self._fault(stored.name, "is sparse and its values and indices do not fit together")
        dtype = values.dtype if math.prod(stored.dims) <= LARGEST else OPAQUE
        return Tensor(key, stored.dims, dtype, partial(self._scatter, stored, values, indices))

    def _fault(self, name: str, what: str) -> InputError:
        return InputError(f"the tensor {name!r} {what}", where=self.data.where, hint="the file may be damaged")

    def _check(self, stored: StoredTensor, dtype: DType, name: str) -> None:
        dims = stored.dims
        if len(dims) > MOST_AXES:
            raise self._fault(name, f"has {len(dims)} axes")
        if any(extent < 0 for extent in dims):
            raise self._fault(name, f"has a negative extent in {dims}")
        size = math.prod(dims) * dtype.itemsize
        length = size
        if stored.external is not None:
            _, _, length = self.external.span(stored, 0 if dtype == OPAQUE else size)
        elif dtype != OPAQUE and stored.payload:
            forms = {part.number for part in stored.payload}
            if len(forms) > 1 or not forms <= {TensorProto.RAW_DATA, _FORMS.get(dtype, TensorProto.INT32_DATA)}:
                raise self._fault(name, f"holds its data in a form that does not fit {dtype}")
            if forms <= _PLAIN:
                length = sum(part.end - part.body for part in stored.payload)
        elif dtype != OPAQUE:
            length = 0
        if dtype != OPAQUE and length != size:
            raise self._fault(name, f"has the extents {dims} and {length} bytes of {dtype}")

    def _load(self, stored: StoredTensor, dtype: DType, name: str) -> Array:
        if dtype == OPAQUE:
            raise self._fault(name, f"has the element type {stored.type}, which bnfold does not read")
        dims, count = stored.dims, math.prod(stored.dims)
        if stored.external is not None:
            location, offset, length = self.external.span(stored, count * dtype.itemsize)
            content = self.external.open(location, name)[offset : offset + length]
            return np.frombuffer(content, dtype).reshape(dims)
        parts = [self._part(part, dtype, name) for part in stored.payload]
        array = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype), *parts])
        if array.size != count:
            raise self._fault(name, f"has the extents {dims} and {array.size} elements")
        return array.reshape(dims)

    def _part(self, part: Field, dtype: DType, name: str) -> Array:
        """What one field holds. 16-bit floats in int32_data are the integers of their bits."""
        content = self.data.buffer[part.body : part.end]
        if part.number in _PLAIN:
            return np.frombuffer(content, dtype)
        found = _varints(np.frombuffer(content, np.uint8))
        if found is None:
            raise self._fault(name, "holds an integer that does not end")
        if is_float(dtype):
            return found.astype(np.uint16).view(dtype)
        return found.astype(dtype, copy=False)

    def _scatter(self, stored: StoredSparse, values: Tensor, indices: Tensor) -> Array:
        result: Array = np.zeros(math.prod(stored.dims), values.dtype)
        where = indices.load()
        if where.ndim == 2:
            where = where @ np.cumprod([1, *stored.dims[:0:-1]])[::-1].astype(np.int64)
        if where.size and (where.min() < 0 or where.max() >= result.size):
            raise self._fault(stored.name, "is sparse and has an index outside its extents")
        result[where] = values.load()
        return result.reshape(stored.dims)


def _varints(raw: Array) -> Array | None:
    """All base-128 integers in a run of bytes as int64; None where the run is cut or an integer is too long."""
    if not raw.size:
        return np.zeros(0, np.int64)
    last = np.flatnonzero(raw < 128)
    if not last.size or last[-1] != raw.size - 1:
        return None
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > 10:
        return None
    result = np.zeros(last.size, np.uint64)
    for k in range(int(lengths.max())):
        longer = np.flatnonzero(lengths > k)
        result[longer] |= (raw[first[longer] + k] & np.uint64(127)).astype(np.uint64) << np.uint64(7 * k)
    return result.view(np.int64)
