"""The operators that slide a window or resample, in float64 and from their definitions: tap by tap, axis by axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from bnfold.ir.graph import Array, Node

Pads = list[tuple[int, int]]


def geometry(node: Node, space: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int], Pads]:
    """Strides, dilations and pads of a convolution or pooling."""
    rank = len(space)
    strides = list(node.attribute("strides", [1] * rank))
    dilations = list(node.attribute("dilations", [1] * rank))
    auto = node.attribute("auto_pad", "NOTSET")
    flat = node.attribute("pads", [0] * 2 * rank)
    pads = [(flat[i], flat[i + rank]) for i in range(rank)]
    if auto == "VALID":
        pads = [(0, 0)] * rank
    elif auto != "NOTSET":
        pads = []
        for size, k, s, d in zip(space, kernel, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            half = total // 2
            pads.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
    return strides, dilations, pads


def taps(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], count: Sequence[int]
) -> Iterator[Any]:
    """For each tap of the kernel its index, and what it reads of the padded input at each of `count` windows."""
    for tap in product(*map(range, kernel)):
        window = [
            slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilations, count, strides, strict=True)
        ]
        yield tap, x[(..., *window)]


def positions(size: int, k: int, s: int, d: int, pads: tuple[int, int], ceil: bool) -> int:
    room = size + sum(pads) - d * (k - 1) - 1
    count = (-(-room // s) if ceil else room // s) + 1
    return count - 1 if ceil and (count - 1) * s >= size + pads[0] else count


def padding(x: Array, pads: Pads, value: float) -> Array:
    return np.pad(x, [(0, 0), (0, 0), *pads], constant_values=value)


def conv(node: Node, x: Any, w: Any, b: Any = None) -> Array:
    groups, kernel, space = node.attribute("group", 1), w.shape[2:], x.shape[2:]
    strides, dilations, pads = geometry(node, space, kernel)
    count = [positions(*item, False) for item in zip(space, kernel, strides, dilations, pads, strict=True)]
    outs = w.shape[0] // groups
    y = np.zeros((x.shape[0], groups, outs, *count))
    for tap, patch in taps(padding(x, pads, 0), kernel, strides, dilations, count):
        patch = patch.reshape(x.shape[0], groups, -1, *count)
        y += np.einsum("ngi...,goi->ngo...", patch, w[(..., *tap)].reshape(groups, outs, -1))
    y = y.reshape(x.shape[0], -1, *count)
    return y if b is None else y + b.reshape(-1, *(1,) * len(count))  # type: ignore[no-any-return]


def conv_transpose(node: Node, x: Any, w: Any, b: Any = None) -> Array:
    """Each element of x adds w times itself to a window of y."""
    groups, kernel, space = node.attribute("group", 1), w.shape[2:], x.shape[2:]
    strides, dilations, pads = geometry(node, space, kernel)
    extra = node.attribute("output_padding", [0] * len(space))
    full = [
        s * (n - 1) + d * (k - 1) + 1 + e
        for n, k, s, d, e in zip(space, kernel, strides, dilations, extra, strict=True)
    ]
    y = np.zeros((x.shape[0], groups * w.shape[1], *full))
    for tap, target in taps(y, kernel, strides, dilations, space):
        patch = x.reshape(x.shape[0], groups, -1, *space)
        part = np.einsum("ngi...,gio->ngo...", patch, w[(..., *tap)].reshape(groups, -1, w.shape[1]))
        target += part.reshape(target.shape)
    y = y[(..., *(slice(before, n - after) for n, (before, after) in zip(full, pads, strict=True)))]
    return y if b is None else y + b.reshape(-1, *(1,) * len(space))  # type: ignore[no-any-return]


def pooled(node: Node, x: Array, fill: float) -> tuple[list[Array], list[Array]]:
    """What each tap reads at each window, and whether it counts: 1 in the image, and in its padding if that counts."""
    kernel, space = node.attributes["kernel_shape"], x.shape[2:]
    strides, dilations, pads = geometry(node, space, kernel)
    ceil = bool(node.attribute("ceil_mode", 0)) and node.attribute("auto_pad", "NOTSET") == "NOTSET"
    count = [positions(*item, ceil) for item in zip(space, kernel, strides, dilations, pads, strict=True)]
    counted = padding(np.ones_like(x), pads, node.attribute("count_include_pad", 0))
    room = [(0, (n + k) * s * d) for n, k, s, d in zip(count, kernel, strides, dilations, strict=True)]
    data, counted = padding(padding(x, pads, fill), room, fill), padding(counted, room, 0)
    reads = [patch for _, patch in taps(data, kernel, strides, dilations, count)]
    return reads, [patch for _, patch in taps(counted, kernel, strides, dilations, count)]


def max_pool(node: Node, x: Array) -> Array:
    """Where a window reads nothing, runtimes give the lowest number."""
    return np.max(pooled(node, x, float(np.finfo(np.float32).min))[0], axis=0)  # type: ignore[no-any-return]


def average_pool(node: Node, x: Array) -> Array:
    reads, counted = pooled(node, x, 0)
    return np.sum(reads, axis=0) / np.sum(counted, axis=0)  # type: ignore[no-any-return]


def pad(node: Node, x: Any, pads: Any = None, value: Any = None) -> Array:
    flat = [int(p) for p in (node.attributes["pads"] if pads is None else pads)]
    mode = node.attribute("mode", "constant")
    x = x[tuple(slice(max(-flat[i], 0), e + min(flat[i + x.ndim], 0)) for i, e in enumerate(x.shape))]
    widths = [(max(flat[i], 0), max(flat[i + x.ndim], 0)) for i in range(x.ndim)]
    if mode != "constant":
        return np.pad(x, widths, mode=mode)  # type: ignore[no-any-return]
    fill = node.attribute("value", 0.0) if value is None else float(np.reshape(value, -1)[0])
    return np.pad(x, widths, constant_values=fill)


def resize(node: Node, x: Any, *inputs: Any) -> Array:
    """Nearest and linear, as a matrix along each axis."""
    (target,) = (value.shape for value in node.outputs)
    shape, rank = [old if new is None else new for old, new in zip(x.shape, target or (), strict=True)], x.ndim
    scales = [array for array in inputs[-1 if node.op == "Upsample" else 1 :][:1] if array is not None]
    ratios = (
        [1 / scale for scale in scales[0]] if scales else [old / new for old, new in zip(x.shape, shape, strict=True)]
    )
    region = inputs[0] if node.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize" else None
    for axis, (old, new, ratio) in enumerate(zip(x.shape, shape, ratios, strict=True)):
        ends = (0, 1) if region is None else (region[axis], region[axis + rank])
        if ratio != 1 or ends != (0, 1):
            at = places(node, old, new, ratio, ends)
            y = np.moveaxis(np.tensordot(resampling(node, old, at), x, ([1], [axis])), 0, axis)
            outside = np.reshape((at < 0) | (at > old - 1), [-1 if i == axis else 1 for i in range(rank)])
            x = y if region is None else np.where(outside, node.attribute("extrapolation_value", 0.0), y)
    return x  # type: ignore[no-any-return]


def places(node: Node, old: int, new: int, ratio: float, ends: tuple[float, float]) -> Array:
    """Where the elements of the new axis lie on the old one."""
    index = np.arange(new)
    transform = node.attribute("coordinate_transformation_mode", "half_pixel")
    if node.op == "Upsample" or transform == "asymmetric":
        return index * ratio
    if transform == "align_corners":
        return index * ((old - 1) / max(new - 1, 1))
    if transform == "tf_crop_and_resize":
        return (old - 1) * (ends[0] + index * (ends[1] - ends[0]) / max(new - 1, 1))  # type: ignore[no-any-return]
    return (index + 0.5) * ratio - 0.5


def resampling(node: Node, old: int, at: Array) -> Array:
    """Rows of the weights with which elements of the old axis make those of the new one."""
    if node.attribute("mode", "nearest") == "nearest":
        floors = node.op == "Upsample" or node.attribute("nearest_mode", "round_prefer_floor") == "floor"
        nearest = np.floor(at) if floors else np.ceil(at - 0.5)
        return np.eye(old)[np.clip(nearest, 0, old - 1).astype(int)]
    at = np.clip(at, 0, old - 1)
    low = np.minimum(np.floor(at).astype(int), old - 1)
    share = (at - low)[:, None]
    result: Array = np.eye(old)[low] * (1 - share) + np.eye(old)[np.minimum(low + 1, old - 1)] * share
    return result
