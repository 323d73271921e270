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
    pad, groups = (p.pad[0] if p.pad else 0), p.group
    data = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    height, width = (extent - k + 1 for extent, k in zip(data.shape[2:], w.shape[2:], strict=True))
    y = np.zeros((x.shape[0], groups, w.shape[0] // groups, height, width))
    for i, j in np.ndindex(*w.shape[2:]):
        patch = data[:, :, i : i + height, j : j + width].reshape(x.shape[0], groups, -1, height, width)
        y += np.einsum("ngihw,goi->ngohw", patch, w[:, :, i, j].reshape(groups, -1, w.shape[1]))
    y = y.reshape(x.shape[0], -1, height, width)
    return [y + along(weights[1], y) if p.bias_term else y]


def inner_product(layer: Layer, weights: list[Array], x: Array) -> list[Array]:
    y = x.reshape(x.shape[0], -1) @ weights[0].T
    return [y + weights[1] if layer.param.inner_product_param.bias_term else y]


def batch_norm(layer: Layer, weights: list[Array], x: Array) -> list[Array]:
    mean, variance, factor = weights
    scale = 0 if factor[0] == 0 else 1 / factor[0]
    eps = float(np.float32(layer.param.batch_norm_param.eps))
    return [(x - along(mean * scale, x)) / np.sqrt(along(variance * scale, x) + eps)]


def scale(layer: Layer, weights: list[Array], x: Array) -> list[Array]:
    p = layer.param.scale_param
    y = x * along(weights[0], x, p.axis)
    return [y + along(weights[1], x, p.axis) if p.bias_term else y]


def power(layer: Layer, _: list[Array], x: Array) -> list[Array]:
    p = layer.param.power_param
    return [p.shift + p.scale * x]


def pooling(layer: Layer, _: list[Array], x: Array) -> list[Array]:
    """Kernel 2, stride 1, no padding."""
    parts = [x[:, :, i : x.shape[2] - 1 + i, j : x.shape[3] - 1 + j] for i, j in np.ndindex(2, 2)]
    average = layer.param.pooling_param.pool == pb.PoolingParameter.AVE
    return [np.mean(parts, axis=0) if average else np.max(parts, axis=0)]


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
    "Dropout": neuron(np.copy),
    "Eltwise": eltwise,
    "Flatten": flatten,
    "InnerProduct": inner_product,
    "Pooling": pooling,
    "Power": power,
    "ReLU": neuron(lambda x: np.maximum(x, 0)),
    "Reshape": reshape,
    "Scale": scale,
    "Silence": lambda layer, weights, *inputs: [],
    "Slice": slice_,
    "Split": lambda layer, weights, x: [x.view() for _ in layer.tops],
    "TanH": neuron(np.tanh),
}
