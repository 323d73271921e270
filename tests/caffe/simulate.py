"""Caffe's forward pass over its own memory: blobs that share memory do, and a layer in place overwrites.

Independent of how the package lowers a net: only the parser of the files is shared. Split, Flatten, Reshape, and Concat
and Slice with one bottom and one top show their bottom's memory; whatever overwrites it changes all of them. Observed
in BVLC Caffe; the types are those of the random nets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bnfold.caffe import caffe_pb2 as pb
from bnfold.caffe.net import CaffeNet, Layer

Array = np.ndarray[Any, np.dtype[np.float64]]
SUM, PROD = pb.EltwiseParameter.SUM, pb.EltwiseParameter.PROD


def simulate(net: CaffeNet, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The blobs that nobody reads, in float64."""
    blobs: dict[str, Array] = {}
    unread: dict[str, None] = {}
    for layer in net.layers:
        bottoms = [blobs[name] for name in layer.bottoms]
        for name in layer.bottoms:
            unread.pop(name, None)
        if layer.type == "Input":
            blobs[layer.tops[0]] = feeds[layer.tops[0]].astype(np.float64)
        else:
            step(layer, bottoms, blobs)
        unread.update(dict.fromkeys(layer.tops))
    return {name: blobs[name].copy() for name in unread}


def step(layer: Layer, bottoms: list[Array], blobs: dict[str, Array]) -> None:
    weights = [blob.array().astype(np.float64) for blob in layer.blobs]
    results = LAYERS[layer.type](layer, weights, *bottoms)
    for index, (name, result) in enumerate(zip(layer.tops, results, strict=True)):
        if index < len(layer.bottoms) and layer.bottoms[index] == name:
            blobs[name][...] = result  # into the memory that is there
        else:
            blobs[name] = result


def along(array: Array, x: Array, axis: int = 1) -> Array:
    """`array` as it broadcasts against x, its first axis being that one."""
    axis = axis % x.ndim if array.ndim else 0
    return array.reshape((1,) * axis + array.shape + (1,) * (x.ndim - axis - array.ndim))


def convolution(layer: Layer, weights: list[Array], x: Array) -> list[Array]:
    """Of stride 1, by taps."""
    p, w = layer.param.convolution_param, weights[0]
    groups, apart = p.group, p.dilation[0] if p.dilation else p.hole or p.filter_stride or 1
    data = np.pad(x, [(0, 0), (0, 0), *sides(p, p.pad[0] if p.pad else 0)])
    height, width = (extent - apart * (k - 1) for extent, k in zip(data.shape[2:], w.shape[2:], strict=True))
    y = np.zeros((x.shape[0], groups, w.shape[0] // groups, height, width))
    for i, j in np.ndindex(*w.shape[2:]):
        patch = data[:, :, i * apart : i * apart + height, j * apart : j * apart + width]
        patch = patch.reshape(x.shape[0], groups, -1, height, width)
        y += np.einsum("ngihw,goi->ngohw", patch, w[:, :, i, j].reshape(groups, -1, w.shape[1]))
    y = y.reshape(x.shape[0], -1, height, width)
    return [y + along(weights[1], y) if p.bias_term else y]


def sides(p: Any, pad: int) -> list[tuple[int, int]]:
    """The padding before and behind height and width."""
    return [(p.pad_t or pad, p.pad_b or pad), (p.pad_l or pad, p.pad_r or pad)]


def inner_product(layer: Layer, weights: list[Array], x: Array) -> list[Array]:
    p, weight = layer.param.inner_product_param, weights[0]
    if p.normalize:
        weight = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    y = x.reshape(x.shape[0], -1) @ weight.T
    return [y + weights[1] if p.bias_term else y]


def batch_norm(layer: Layer, weights: list[Array], x: Array) -> list[Array]:
    mean, variance, factor, *rest = weights
    scale = 0 if factor[0] == 0 else 1 / factor[0]
    eps = float(np.float32(layer.param.batch_norm_param.eps))
    y = (x - along(mean * scale, x)) / np.sqrt(along(variance * scale, x) + eps)
    return [y * along(rest[0], x) + along(rest[1], x) if rest else y]


def scale(layer: Layer, weights: list[Array], x: Array) -> list[Array]:
    p = layer.param.scale_param
    y = x * along(weights[0], x, p.axis)
    return [y + along(weights[1], x, p.axis) if p.bias_term else y]


def power(layer: Layer, _: list[Array], x: Array) -> list[Array]:
    p = layer.param.power_param
    return [p.shift + p.scale * x]


def pooling(layer: Layer, _: list[Array], x: Array) -> list[Array]:
    """Kernel 2, stride 1; no window lies in the padding as a whole but in its corners."""
    p = layer.param.pooling_param
    around = [(0, 0), (0, 0), *sides(p, p.pad)]
    lowest = float(np.finfo(np.float32).min) if p.pool == pb.PoolingParameter.MAX else 0.0

    def windows(array: Array, fill: float) -> list[Array]:
        array = np.pad(array, around, constant_values=fill)
        return [array[:, :, i : array.shape[2] - 1 + i, j : array.shape[3] - 1 + j] for i, j in np.ndindex(2, 2)]

    if lowest:
        return [np.max(windows(x, lowest), axis=0)]
    counted = np.mean(windows(np.ones_like(x), 0.0), axis=0) if p.pool == pb.PoolingParameter.AVE_EXC_PAD else 1.0
    return [np.mean(windows(x, 0.0), axis=0) / counted]


def eltwise(layer: Layer, _: list[Array], *inputs: Array) -> list[Array]:
    p = layer.param.eltwise_param
    if p.operation == SUM:
        factors = list(p.coeff) or [1.0] * len(inputs)
        return [sum((f * x for f, x in zip(factors, inputs, strict=True)), np.zeros_like(inputs[0]))]
    if p.operation != PROD:
        return [np.maximum.reduce(inputs)]  # type: ignore[call-overload]
    top = inputs[0] if layer.tops[0] == layer.bottoms[0] else np.empty_like(inputs[0])
    np.multiply(inputs[0], inputs[1], out=top)
    for x in inputs[2:]:  # each is read when those before it have been written
        np.multiply(top, x, out=top)
    return [top]


def concat(layer: Layer, _: list[Array], *inputs: Array) -> list[Array]:
    return [inputs[0].view() if len(inputs) == 1 else np.concatenate(inputs, axis=layer.param.concat_param.axis)]


def slice_(layer: Layer, _: list[Array], x: Array) -> list[Array]:
    p = layer.param.slice_param
    return [part.copy() for part in np.split(x, list(p.slice_point), axis=p.axis)]


def flatten(layer: Layer, _: list[Array], x: Array) -> list[Array]:
    return [x.reshape(x.shape[0], -1)]


def reshape(layer: Layer, _: list[Array], x: Array) -> list[Array]:
    return [x.reshape([x.shape[i] if e == 0 else e for i, e in enumerate(layer.param.reshape_param.shape.dim)])]


def neuron(function: Callable[[Array], Array]) -> Callable[..., list[Array]]:
    return lambda layer, weights, x: [function(x)]


LAYERS: dict[str, Callable[..., Sequence[Array]]] = {
    "BatchNorm": batch_norm,
    "Bias": lambda layer, weights, x: [x + along(weights[0], x, layer.param.bias_param.axis)],
    "Concat": concat,
    "Convolution": convolution,
    "Dropout": lambda layer, weights, x: [
        x.copy() if layer.param.dropout_param.scale_train else x * (1 - layer.param.dropout_param.dropout_ratio)
    ],
    "Eltwise": eltwise,
    "Flatten": flatten,
    "InnerProduct": inner_product,
    "Mystery": neuron(lambda x: np.sin(3 * x)),
    "Pooling": pooling,
    "Power": power,
    "ReLU": lambda layer, weights, x: [np.clip(x, 0, 6 if layer.param.relu_param.relu6 else None)],
    "Reshape": reshape,
    "Scale": scale,
    "Silence": lambda layer, weights, *inputs: [],
    "Slice": slice_,
    "Split": lambda layer, weights, x: [x.view() for _ in layer.tops],
    "TanH": neuron(np.tanh),
}
