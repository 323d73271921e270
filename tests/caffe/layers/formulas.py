"""What Caffe's layers compute, in NumPy and float64: written from Caffe's loops and papers, not from the package.

A formula takes the bottoms and then the blobs of a layer, and returns its top, or a list of its tops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from ..build import Array

Formula = Callable[..., Any]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def channels(vector: Array, rank: int = 4) -> Array:
    """One value a channel, as it broadcasts against (N, C, ...)."""
    return vector.reshape(-1, *(1,) * (rank - 2))


def taps(x: Array, kernel: tuple[int, ...], stride: int = 1, pad: int = 0, apart: int = 1) -> Array:
    """What each tap of a window reads at each of its positions: (N, C, taps, H', W')."""
    space = x.ndim - 2
    x = np.pad(x, [(0, 0)] * 2 + [(pad, pad)] * space)
    counts = [(extent - apart * (k - 1) - 1) // stride + 1 for extent, k in zip(x.shape[2:], kernel, strict=True)]
    reads = []
    for tap in product(*map(range, kernel)):
        at = [slice(t * apart, t * apart + (n - 1) * stride + 1, stride) for t, n in zip(tap, counts, strict=True)]
        reads.append(x[(..., *at)])
    return np.stack(reads, axis=2)


def convolution(groups: int = 1, stride: int = 1, pad: int = 0, apart: int = 1) -> Formula:
    def formula(x: Array, weight: Array, bias: Array | None = None) -> Array:
        read = taps(x, weight.shape[2:], stride, pad, apart)
        read = read.reshape(read.shape[0], groups, -1, *read.shape[3:])
        y = np.einsum("ngk...,gok->ngo...", read, weight.reshape(groups, weight.shape[0] // groups, -1))
        y = y.reshape(y.shape[0], -1, *y.shape[3:])
        return y if bias is None else y + channels(bias, y.ndim)

    return formula


def deconvolution(groups: int = 1, stride: int = 1, pad: int = 0) -> Formula:
    """Each element adds the filter of its channel, times itself, to a window of the result."""

    def formula(x: Array, weight: Array, bias: Array) -> Array:
        n, ins, height, width = x.shape
        outs, (kh, kw) = weight.shape[1], weight.shape[2:]
        y = np.zeros((n, outs * groups, stride * (height - 1) + kh, stride * (width - 1) + kw))
        for c, i, j in np.ndindex(ins, height, width):
            first = c // (ins // groups) * outs
            window = y[:, first : first + outs, i * stride : i * stride + kh, j * stride : j * stride + kw]
            window += x[:, c, i, j].reshape(-1, 1, 1, 1) * weight[c]
        return y[:, :, pad : y.shape[2] - pad, pad : y.shape[3] - pad] + channels(bias)

    return formula


def im2col(kernel: tuple[int, int], **how: int) -> Formula:
    """Column (c·kh + i)·kw + j has tap (i, j) of channel c."""

    def formula(x: Array) -> Array:
        read = taps(x, kernel, **how)
        return read.reshape(x.shape[0], -1, *read.shape[3:])

    return formula


def inner_product(x: Array, weight: Array, bias: Array) -> Array:
    return x.reshape(x.shape[0], -1) @ weight.T + bias


def embed(x: Array, weight: Array, bias: Array) -> Array:
    return weight[x.astype(int)] + bias


def lrn_across(size: int, alpha: float, beta: float, k: float) -> Formula:
    """x·(k + α/n·Σx²)^−β, the sum over n neighbouring channels."""

    def formula(x: Array) -> Array:
        half, count = size // 2, x.shape[1]
        sums = [(x[:, max(c - half, 0) : c + half + 1] ** 2).sum(axis=1) for c in range(count)]
        return x * (k + alpha / size * np.stack(sums, axis=1)) ** -beta

    return formula


def lrn_within(size: int, alpha: float, beta: float) -> Formula:
    """x·(1 + α·mean x²)^−β, the mean over a square around each element in which what is outside the image counts."""

    def formula(x: Array) -> Array:
        return x * (1 + alpha * taps(x**2, (size, size), pad=size // 2).mean(axis=2)) ** -beta

    return formula


def mvn(axes: tuple[int, ...], variance: bool = True, eps: float = 1e-9) -> Formula:
    def formula(x: Array) -> Array:
        centred = x - x.mean(axis=axes, keepdims=True)
        return centred / (np.sqrt((centred**2).mean(axis=axes, keepdims=True)) + eps) if variance else centred

    return formula


def normalize(axes: tuple[int, ...], eps: float = 1e-10) -> Formula:
    def formula(x: Array, scale: Array) -> Array:
        unit = x / np.sqrt((x * x).sum(axis=axes, keepdims=True) + eps)
        return unit * (channels(scale) if scale.size > 1 else scale)

    return formula


def pool(method: str, kernel: int, stride: int, pad: int = 0) -> Formula:
    """Caffe's loops: as many windows as reach into the image, rounded up; an average counts the padding of an image."""

    def formula(x: Array) -> Array:
        return pooled(x, method, [kernel] * 2, [stride] * 2, [pad] * 2)

    return formula


def pooled(x: Array, method: str, kernel: Any, stride: Any, pad: Any) -> Array:
    counts = []
    for extent, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True):
        count = math.ceil((extent + 2 * p - k) / s) + 1
        counts.append(count - 1 if any(pad) and (count - 1) * s >= extent + p else count)
    y = np.zeros((*x.shape[:2], *counts))
    for place in np.ndindex(*counts):
        ends = [
            (i * s - p, min(i * s - p + k, extent + p))
            for i, k, s, p, extent in zip(place, kernel, stride, pad, x.shape[2:], strict=True)
        ]
        part = x[(..., *(slice(max(start, 0), end) for start, end in ends))].reshape(*x.shape[:2], -1)
        size = math.prod(end - start for start, end in ends)
        y[(..., *place)] = part.max(axis=-1) if method == "MAX" else part.sum(axis=-1) / size
    return y


def spp(method: str, levels: int) -> Formula:
    """Level i has 2^i × 2^i bins, of ⌈extent/2^i⌉ and padded alike at both ends; all are joined to features."""

    def formula(x: Array) -> Array:
        found = []
        for level in range(levels):
            kernel = [math.ceil(extent / 2**level) for extent in x.shape[2:]]
            pads = [(k * 2**level - extent + 1) // 2 for k, extent in zip(kernel, x.shape[2:], strict=True)]
            found.append(pooled(x, method, kernel, kernel, pads).reshape(x.shape[0], -1))
        return np.concatenate(found, axis=1)

    return formula


def interp(rows: int, columns: int) -> Formula:
    """Bilinear, corner on corner."""

    def formula(x: Array) -> Array:
        for axis, count in ((2, rows), (3, columns)):
            places = np.linspace(0, x.shape[axis] - 1, count)
            x = np.apply_along_axis(lambda line, at=places: np.interp(at, np.arange(len(line)), line), axis, x)
        return x

    return formula


def unpool(x: Array, mask: Array, scale: int = 2) -> Array:
    """Each value goes to where its maximum stood in the plane of its channel."""
    n, c, height, width = x.shape
    y = np.zeros((n, c, height * scale * width * scale))
    for i, j in np.ndindex(n, c):
        y[i, j, mask[i, j].astype(int).reshape(-1)] = x[i, j].reshape(-1)
    return y.reshape(n, c, height * scale, width * scale)


def reorg(stride: int) -> Formula:
    """Element by element, as Darknet writes it."""

    def formula(x: Array) -> Array:
        n, c, h, w = x.shape
        source, result = x.reshape(n, -1), np.empty((n, c * h * w))
        for k, j, i in np.ndindex(c, h, w):
            c2, offset = k % (c // stride**2), k // (c // stride**2)
            w2, h2 = i * stride + offset % stride, j * stride + offset // stride
            result[:, i + w * (j + h * k)] = source[:, w2 + w * stride * (h2 + h * stride * c2)]
        return result.reshape(n, c * stride * stride, h // stride, w // stride)

    return formula


def shuffle(groups: int) -> Formula:
    def formula(x: Array) -> Array:
        n, c, *space = x.shape
        return x.reshape(n, groups, c // groups, *space).swapaxes(1, 2).reshape(x.shape)

    return formula


def roi_pooling(height: int, width: int, scale: float) -> Formula:
    """The maximum of each bin of each region (image, x1, y1, x2, y2), whose ends are within it."""

    def bins(start: float, end: float, count: int, extent: int) -> list[slice]:
        first, last = (math.floor(e * scale + 0.5) for e in (start, end))
        size = max(last - first + 1, 1) / count
        edges = [(first + math.floor(i * size), first + math.ceil((i + 1) * size)) for i in range(count)]
        return [slice(*(min(max(edge, 0), extent) for edge in pair)) for pair in edges]

    def formula(x: Array, rois: Array) -> Array:
        y = np.zeros((len(rois), x.shape[1], height, width))
        for number, (image, left, top, right, bottom) in enumerate(rois):
            for i, rows in enumerate(bins(top, bottom, height, x.shape[2])):
                for j, columns in enumerate(bins(left, right, width, x.shape[3])):
                    y[number, :, i, j] = x[int(image), :, rows, columns].max(axis=(1, 2))
        return y

    return formula


def arg_max(axis: int, count: int, values: bool = False) -> Formula:
    """The largest first; of equal ones the last."""

    def formula(x: Array) -> Array:
        order = np.flip(np.argsort(x, axis=axis, kind="stable"), axis=axis).take(range(count), axis=axis)
        return np.take_along_axis(x, order, axis=axis) if values else order

    return formula


def softmax(axis: int) -> Formula:
    def formula(x: Array) -> Array:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)

    return formula


def lstm(x: Array, flags: Array, w: Array, bias: Array, recurrent: Array) -> Array:
    state = np.zeros((1, x.shape[1], recurrent.shape[1]))
    return lstm_from(x, flags, x[0] * 0, state, state, w, bias, w, recurrent)[0]


def lstm_from(
    x: Array, flags: Array, static: Array, h: Array, c: Array, w: Array, bias: Array, ws: Array, recurrent: Array
) -> list[Array]:
    """Gates i, f, o, g; the states of a step count where its flag is 1. All outputs, and the last of both states."""
    outputs = []
    for step, flag in zip(x, flags[:, :, None], strict=True):
        i, f, o, g = np.split(step @ w.T + bias + static @ ws.T + (flag * h) @ recurrent.T, 4, axis=2)
        c = flag * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return [np.concatenate(outputs), h, c]


def rnn(x: Array, flags: Array, w: Array, bias: Array, recurrent: Array, wo: Array, bo: Array) -> Array:
    h = np.zeros((x.shape[1], recurrent.shape[1]))
    outputs = []
    for step, flag in zip(x, flags[:, :, None], strict=True):
        h = np.tanh(step @ w.T + bias + (flag * h) @ recurrent.T)
        outputs.append(np.tanh(h @ wo.T + bo))
    return np.stack(outputs)


def batch_norm(eps: float = 1e-5) -> Formula:
    """BVLC's blobs: moments times a factor, and that."""

    def formula(x: Array, mean: Array, variance: Array, factor: Array) -> Array:
        return (x - channels(mean / factor)) / np.sqrt(channels(variance / factor) + eps)

    return formula


def affine_norm(eps: float = 1e-5) -> Formula:
    """The blobs of the forks: scale, shift, mean, variance."""

    def formula(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array) -> Array:
        return (x - channels(mean)) / np.sqrt(channels(variance) + eps) * channels(gamma) + channels(beta)

    return formula
