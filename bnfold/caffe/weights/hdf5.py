"""Weights in HDF5, as Caffe's snapshots are with `snapshot_format: HDF5`, as the layers of a caffemodel.

A group `data` holds a group for each layer, by its name, and that a dataset for each blob: "0", "1" and so on. A name
with a slash makes groups inside groups. Of a blob that layers share only the first of them has the dataset.
Source: Net::ToHDF5 and CopyTrainedLayersFromHDF5 in Caffe's src/caffe/net.cpp, which h5py stands in for here.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import InputError
from .blob import MAX_COUNT, NewBlob, NewLayer

_CONVERT = "load it in Caffe and write net.save('x.caffemodel')"

Shared = Mapping[str, Sequence[str | None]]
"""For each layer of a net the names under which it shares its blobs, None where it does not."""


@contextlib.contextmanager
def layers(path: Path, shared: Shared) -> Iterator[list[NewLayer]]:
    """The layers that have blobs, each with all of its blobs, to be written while the context is open.

    One that is not in `shared` may be anything: it is left out where its blobs are not whole, as nobody loads it.
    Raises InputError where the file is broken or another program's, or h5py is not installed.
    """
    h5py = _library(path)
    try:
        with h5py.File(path, "r") as file:
            data = file.get("data")
            if not isinstance(data, h5py.Group):
                hint = "Caffe's snapshots have one; weights of other programs, and solverstates, are not read"
                raise InputError(
                    "this HDF5 file has no group `data`, as Caffe's weights have", where=str(path), hint=hint
                )
            stored = {n: own for n, own in _datasets(h5py, data).items() if n in shared or _complete(own)}
            owners = _owners(stored, shared)
            yield [
                NewLayer(name, "", [], [], _blobs(f"{path}, layer {name}", own, shared.get(name, ()), owners))
                for name, own in stored.items()
            ]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # h5py has no errors of its own
        hint = "was it copied or downloaded whole?"
        raise InputError(f"this HDF5 file cannot be read: {error}", where=str(path), hint=hint) from error


def _library(path: Path) -> ModuleType:
    try:
        import h5py
    except ImportError:
        hint = f"pip install 'bnfold[hdf5]'; or {_CONVERT}"
        raise InputError(
            "the weights are in an HDF5 file, and h5py is not installed", where=str(path), hint=hint
        ) from None
    found: ModuleType = h5py
    return found


def _datasets(h5py: ModuleType, data: Any) -> dict[str, dict[int, Any]]:
    """The datasets of each layer by their numbers; links to other files and places are not followed."""
    found: dict[str, dict[int, Any]] = {}

    def visit(name: str | bytes, item: Any) -> None:
        if isinstance(item, h5py.Group):
            numbers = [key for key in map(_text, item) if key.isdecimal() and str(int(key)) == key]
            own = [key for key in numbers if isinstance(item.get(key, getlink=True), h5py.HardLink)]
            blobs = {int(key): item[key] for key in own if isinstance(item[key], h5py.Dataset)}
            if blobs:
                found[_text(name)] = blobs

    data.visititems(visit)
    return found


def _text(name: str | bytes) -> str:
    """A name in HDF5, which h5py gives as bytes where it is not UTF-8; as that of a layer in a caffemodel is read."""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def _owners(stored: Mapping[str, Mapping[int, Any]], shared: Shared) -> dict[str, Any]:
    """The dataset of each shared blob: that of the first layer which has one."""
    owners: dict[str, Any] = {}
    for layer, names in shared.items():
        for index, name in enumerate(names):
            if name and index in stored.get(layer, {}):
                owners.setdefault(name, stored[layer][index])
    return owners


def _blobs(where: str, own: Mapping[int, Any], names: Sequence[str | None], owners: Mapping[str, Any]) -> list[NewBlob]:
    """All blobs of a layer, those that it shares among them. Raises InputError where one in between is missing."""
    blobs: list[NewBlob] = []
    for index in itertools.count():
        name = names[index] if index < len(names) else None
        dataset = own.get(index, owners.get(name) if name else None)
        if dataset is None:
            break
        blobs.append(_dataset_blob(dataset, f"{where}, blob {index}"))
    if max(own) >= len(blobs):
        raise InputError(f"the file has no blob {len(blobs)}, but a blob {max(own)}", where=where, hint=_CONVERT)
    return blobs


def _dataset_blob(dataset: Any, where: str) -> NewBlob:
    """A dataset as a blob of float32, or of float64 where it is of that. Raises InputError where it is no weight."""
    if dataset.is_virtual or dataset.external:
        raise InputError(
            "the numbers of the dataset lie in other files, which are not read", where=where, hint=_CONVERT
        )
    if not _is_weight(dataset):
        what = f"has the type {dataset.dtype} and the shape {dataset.shape}"
        raise InputError(f"the dataset {what}, which no weight has", where=where, hint=_CONVERT)
    dtype = np.dtype(np.float64 if dataset.dtype.itemsize == 8 else np.float32)
    return NewBlob(dataset.shape, dtype, False, lambda: dataset[()])


def _is_weight(dataset: Any) -> bool:
    """Whether it holds floats that float64 can, and no more of them than Caffe counts."""
    floats = dataset.dtype.kind == "f" and dataset.dtype.itemsize <= 8
    return floats and dataset.shape is not None and math.prod(dataset.shape) <= MAX_COUNT


def _complete(own: Mapping[int, Any]) -> bool:
    return sorted(own) == list(range(len(own))) and all(map(_is_weight, own.values()))
