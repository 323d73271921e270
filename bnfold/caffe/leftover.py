"""The affine that stays of a chain, as one layer: which one holds it, its parameters as text, its blobs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir.graph import Value
from ..planner.affine import Affine
from ..planner.precision import MOST_DEVIATIONS, deviations
from ..planner.records import Chain
from ..protobuf import varint
from .net import CaffeNet, Layer
from .text.edit import Word
from .weights.blob import Blob, NewBlob, encode


@dataclass(frozen=True, eq=False, slots=True)
class Host:
    """A layer that stays for a chain and is written as `affine`.

    `kind` is Scale, or Bias where nothing is multiplied, or Power where the chain was nothing else. The text format of
    2014 knows no Scale: a fork's BN of type INFERENCE is one there.
    """

    layer: Layer
    affine: Affine
    chain: Chain
    kind: str

    @property
    def source(self) -> Value:
        """The value that it reads."""
        return self.chain.source

    @property
    def target(self) -> Value:
        """The value that it makes."""
        return self.chain.target

    @property
    def param(self) -> str:
        """The name of its parameter message."""
        return f"{self.kind.lower()}_param"

    @property
    def span(self) -> tuple[int, int]:
        """`axis` and `num_axes` of the Scale or Bias; the channels for one scalar, since all readers know that."""
        axes = self.affine.axes or {1}
        return min(axes), max(axes) - min(axes) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its blobs: the extents of what it works on; where these are open, its old blobs and its constants tell."""
        axis, count = self.span
        shape = self.target.shape or (None,) * self.affine.rank
        own = math.prod(self.layer.blobs[0].shape) if self.layer.blobs and count == 1 else 1
        spelled = np.broadcast_shapes(self.affine.a.shape, self.affine.b.shape)
        known = zip(shape[axis : axis + count], spelled[axis : axis + count], strict=True)
        return tuple(extent or (own if constant == 1 else constant) for extent, constant in known)

    @property
    def fits(self) -> bool:
        """Whether the layer's parameters and the shapes of its blobs can stay, but for a `bias_term` to set."""
        layer = self.layer
        if layer.type != self.kind or self.kind in ("Power", "BN") or any(layer.shared):
            return False
        if not layer.blobs or layer.blobs[0].shape != self.shape:
            return False
        param = layer.param.bias_param if self.kind == "Bias" else layer.param.scale_param
        return param.axis == self.span[0] and (self.kind == "Bias" or param.bias_term <= self.affine.shifts)

    def parameters(self) -> list[tuple[str, Any]]:
        """The fields of its parameter message, as far as Caffe's defaults do not say it."""
        if self.kind == "Power":
            return [("scale", float(self.affine.a.flat[0])), ("shift", float(self.affine.b.flat[0]))]
        if self.kind == "BN":
            return [("bn_mode", Word("INFERENCE"))]
        axis, count = self.span
        fields: list[tuple[str, Any]] = [("axis", axis)] if axis != 1 else []
        fields += [("num_axes", count)] if count != 1 else []
        return fields + ([("bias_term", True)] if self.kind == "Scale" and self.affine.shifts else [])

    def blobs(self) -> Iterator[NewBlob]:
        """gamma, and beta where it shifts; beta alone of a Bias; in the dtype and the style of the layer's old blobs.

        In float32 where these are float16, which cannot hold the numbers, or those of another layer are wider.
        """
        axis, count = self.span
        old = self.layer.blobs[0] if self.layer.blobs else None
        dtype = np.dtype(np.float32) if old is None else old.dtype
        wider = any(blob.dtype.itemsize > 2 for layer in layers_of(self.chain) for blob in layer.blobs)
        if dtype.itemsize == 2 and (wider or not _holds(dtype, self.affine, self.chain)):
            dtype = np.dtype(np.float32)
        raw = old is not None and old.raw
        a, b = self.affine.a, self.affine.b
        arrays = {"Power": [], "Bias": [b], "BN": [a, b], "Scale": [a, b] if self.affine.shifts else [a]}
        for array in arrays[self.kind]:
            inner = array.reshape(array.shape[axis : axis + count])
            yield NewBlob(self.shape, dtype, False, partial(_spread_out, inner, self.shape, dtype), raw)


def _holds(dtype: np.dtype[Any], affine: Affine, chain: Chain) -> bool:
    """Whether `affine` is as exact in `dtype` as its digits allow; which is asked of float16.

    No number may become infinite, and no multiplier but 0 smaller than the smallest normal number. A shift may: it is
    off by 2⁻²⁵ at the most then, which is 2⁻¹¹ of the smallest normal multiplier, and so what rounding that one costs.
    Nor may a mean cancel with what rounding leaves of multiplier and shift.
    """
    if deviations(chain) > MOST_DEVIATIONS:
        return False
    limits = np.finfo(dtype)
    a, b = np.abs(affine.a), np.abs(affine.b)
    return bool(max(a.max(initial=0), b.max(initial=0)) <= limits.max and (a[a > 0] >= limits.tiny).all())


def _spread_out(array: npt.NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.broadcast_to(array, shape).astype(dtype)


def host(chain: Chain, leftover: Affine, version: int) -> Host:
    """The host among the layers of a chain: the last one that has the right type already, else the last one."""
    layers = layers_of(chain)
    powers = all(layer.type == "Power" for layer in layers) and not leftover.axes
    old = version < 2 and any(layer.type == "BN" for layer in layers)
    kind = "Power" if powers else "BN" if old else "Scale" if leftover.scales else "Bias"
    layer = next((layer for layer in reversed(layers) if layer.type == kind), layers[-1])
    return Host(layer, leftover, chain, kind)


def layers_of(chain: Chain) -> list[Layer]:
    """The layers that a chain consists of."""
    return list(dict.fromkeys(node.origin for node in chain.nodes if isinstance(node.origin, Layer)))


def caffe_growth(net: CaffeNet, changes: Mapping[Chain, Affine | None]) -> int:
    """By how many bytes both files together grow when chains are written as other affines, or go.

    The text of the one layer that stays of a chain is taken to be as long as before: its parameters are a few words.
    """
    size = 0
    for chain, affine in changes.items():
        layers = layers_of(chain)
        if affine is not None:
            stays = host(chain, affine, net.version)
            layers.remove(stays.layer)
            blobs = list(stays.blobs())
            size += sum(map(_blob_size, blobs)) - sum(map(_blob_size, stays.layer.blobs))
            size += _entry(stays.layer) if blobs and stays.layer.weight_index is None else 0
        for layer in layers:
            size -= layer.block.entry.stop - layer.block.entry.start if layer.block and layer.block.entry else 0
            size -= sum(map(_blob_size, layer.blobs)) if layer.weight_index is not None else 0
    return size


def _blob_size(blob: Blob | NewBlob) -> int:
    """In bytes, as a field of its layer."""
    if isinstance(blob, Blob) and not blob.reshaped:
        return blob.field.end - blob.field.start
    message = encode(blob.renewed() if isinstance(blob, Blob) else blob)
    return 1 + len(varint(message.size)) + message.size


def _entry(layer: Layer) -> int:
    """Of a layer in the caffemodel without its blobs, at the most."""
    return 32 + sum(len(name) + 2 for name in (layer.name, layer.type, *layer.bottoms, *layer.tops))
