"""Weights for a prototxt that comes without: in the shapes that Caffe wants, and such that activations stay finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnfold import protobuf
from bnfold.caffe import lowering
from bnfold.caffe.net import Layer, load
from bnfold.caffe.weights.blob import Blob
from bnfold.ir.graph import Value

from .build import Array, Files, batch_norm, he, save, scale, stored

Shape = tuple[int, ...]


def weighed(folder: Path, text: str, **given: Sequence[Array]) -> Files:
    """A net with the weights `given` by the layers' names, and random ones for all others."""
    files = save(folder, text, [])
    return save(folder, text, weigh(files.prototxt, given))


def weigh(
    prototxt: Path,
    given: Mapping[str, Sequence[Array]] | None = None,
    inputs: Mapping[str, Shape] | None = None,
) -> list[bytes]:
    """The stored layers of a caffemodel for the net, made while it is lowered, when its bottoms' shapes are known.

    `given` are the weights of some layers, `inputs` the shapes of inputs that the text does not tell.
    """
    net = load(prototxt, None)
    made: dict[str, Sequence[Array]] = {}

    class Weighing(lowering._Lowering):
        def _layer(self, layer: Layer, row: Any, bottoms: list[Value]) -> lowering.LoweredLayer:
            if layer.name in (given or {}) or layer.type in SHAPES:
                known = (given or {}).get(layer.name)
                made[layer.name] = SHAPES[layer.type](layer, shapes(layer, bottoms)) if known is None else known
                layer.blobs = [held(array) for array in made[layer.name]]
            item = super()._layer(layer, row, bottoms)
            for value, guess in zip(item.tops, guesses(layer, bottoms), strict=False):
                value.shape = guess if value.shape is None else value.shape
            return item

    Weighing(net, lowering.DEFAULT_OPSET, dict(inputs or {}), False, "").run()
    return [stored(name, *arrays) for name, arrays in made.items()]


def shapes(layer: Layer, bottoms: Sequence[Value]) -> list[Shape]:
    for value in bottoms:
        assert value.shape is not None, f"{layer.name} ({layer.type}) reads {value.name} of unknown shape"
    return [tuple(extent or 1 for extent in value.shape or ()) for value in bottoms]


def guesses(layer: Layer, bottoms: Sequence[Value]) -> list[Any]:
    """What a layer without description is taken to give: what it reads, or regions of an image."""
    if layer.type == "Python":
        return [(1, 5)] * len(layer.tops)
    return [value.shape for value in bottoms[:1]] * len(layer.tops)


def held(array: Array) -> Blob:
    """A blob as if it lay in a file."""
    data = memoryview(array.astype(np.float32).tobytes())
    return Blob(
        "", data, protobuf.Field(0, 2, 0, 0, 0, 0), array.shape, False, np.dtype("<f4"), array.size, (0, len(data))
    )


def convolution(layer: Layer, bottoms: list[Shape]) -> list[Array]:
    p = layer.param.convolution_param
    channels = bottoms[0][1]
    kernel = [p.kernel_h, p.kernel_w] if p.kernel_h else (list(p.kernel_size) * 2)[: max(2, len(p.kernel_size))]
    group = channels if layer.type.lower() in ("depthwiseconvolution", "convolutiondepthwise") else p.group
    if layer.type == "Deconvolution":
        weight = he(channels, p.num_output // group, *kernel, seed=len(layer.name)) * math.sqrt(p.num_output / channels)
    else:
        weight = he(p.num_output, channels // group, *kernel, seed=len(layer.name))
    return [weight.astype(np.float32), *biases(layer, p.num_output, p.bias_term)]


def biases(layer: Layer, outs: int, present: bool) -> list[Array]:
    return [he(outs, 2, seed=len(layer.name))[:, 0] * np.float32(0.1)] if present else []


def inner_product(layer: Layer, bottoms: list[Shape]) -> list[Array]:
    p = layer.param.inner_product_param
    weight = he(p.num_output, math.prod(bottoms[0][p.axis :]))
    return [weight.T.copy() if p.transpose else weight, *biases(layer, p.num_output, p.bias_term)]


def scaling(layer: Layer, bottoms: list[Shape]) -> list[Array]:
    p = layer.param.scale_param
    first = p.axis % len(bottoms[0])
    shape = bottoms[0][first:] if p.num_axes == -1 else bottoms[0][first : first + p.num_axes]
    gamma, beta = scale(math.prod(shape), len(layer.name))
    gamma = gamma if sum(layer.name.encode()) % 2 else np.abs(gamma)  # of both signs: it passes no ReLU
    return [gamma.reshape(shape), beta.reshape(shape)][1 if len(bottoms) > 1 else 0 : 1 + p.bias_term]


def plain(layer: Layer, bottoms: list[Shape]) -> list[Array]:
    """gamma, beta, mean, variance."""
    mean, variance, _ = batch_norm(bottoms[0][1], len(layer.name), 1.0)
    return [*scale(bottoms[0][1], len(layer.name)), mean, variance]


def prelu(layer: Layer, bottoms: list[Shape]) -> list[Array]:
    shape = () if layer.param.prelu_param.channel_shared else (bottoms[0][1],)
    return [np.full(shape, 0.25, np.float32)]


def lstm(layer: Layer, bottoms: list[Shape]) -> list[Array]:
    outs = layer.param.recurrent_param.num_output
    ins = math.prod(bottoms[0][2:])
    more = [he(4 * outs, math.prod(bottoms[2][1:]))] if len(bottoms) > 2 else []
    return [he(4 * outs, ins), biases(layer, 4 * outs, True)[0], *more, he(4 * outs, outs)]


def normalize(layer: Layer, bottoms: list[Shape]) -> list[Array]:
    shape = () if layer.param.norm_param.channel_shared else (bottoms[0][1],)
    return [np.full(shape, 20, np.float32)]


SHAPES: dict[str, Callable[[Layer, list[Shape]], list[Array]]] = {
    "BatchNorm": lambda layer, bottoms: batch_norm(bottoms[0][1], len(layer.name)),
    "BN": plain,
    "CuDNNBatchNorm": plain,
    "Convolution": convolution,
    "ConvolutionDepthwise": convolution,
    "Deconvolution": convolution,
    "DepthwiseConvolution": convolution,
    "InnerProduct": inner_product,
    "LSTM": lstm,
    "Normalize": normalize,
    "PReLU": prelu,
    "Parameter": lambda layer, _: [he(*layer.param.parameter_param.shape.dim)],
    "Scale": scaling,
}
