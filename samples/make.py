"""Make the weights of the samples: `python samples/make.py [FOLDER]`. The same bytes on every run and machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnfold.caffe import caffe_pb2

Array = npt.NDArray[np.float32]

FACTOR = 999.98
"""What a BatchNorm's third blob holds after long training with Caffe's default moving_average_fraction of 0.999."""


class Random:
    """NumPy's legacy generator, whose stream is frozen for good."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def normal(self, shape: tuple[int, ...], mean: float = 0, deviation: float = 1) -> Array:
        return self._state.normal(mean, deviation, shape).astype(np.float32)

    def weight(self, *shape: int) -> Array:
        """He's initialisation, which keeps activations at their size."""
        return self.normal(shape, 0, float(2 / np.prod(shape[1:])) ** 0.5)

    def variance(self, channels: int) -> Array:
        return self._state.uniform(0.3, 2, channels).astype(np.float32)


def caffemodel(name: str, layers: dict[str, tuple[str, list[Array]]]) -> bytes:
    """`layers`: name -> (type, blobs)."""
    net = caffe_pb2.NetParameter(name=name)
    for title, (kind, blobs) in layers.items():
        layer = net.layer.add(name=title, type=kind)
        for blob in blobs:
            stored = layer.blobs.add()
            stored.shape.dim.extend(blob.shape)
            stored.data.extend(blob.ravel().tolist())
    return net.SerializeToString(deterministic=True)


def batch_norm(random: Random, channels: int) -> tuple[str, list[Array]]:
    """Mean and variance times the factor, and the factor."""
    factor = np.float32(FACTOR)
    mean, variance = random.normal((channels,), 0, 0.3), random.variance(channels)
    return "BatchNorm", [mean * factor, variance * factor, np.array([factor])]


def scale(random: Random, channels: int) -> tuple[str, list[Array]]:
    return "Scale", [random.normal((channels,), 1, 0.2), random.normal((channels,), 0, 0.3)]


def resnet_block() -> bytes:
    random, layers = Random(1), {}
    shapes = {
        "conv1": (16, 3, 3, 3),
        "2a_branch1": (32, 16, 1, 1),
        "2a_branch2a": (16, 16, 3, 3),
        "2a_branch2b": (32, 16, 1, 1),
    }
    for name, shape in shapes.items():
        layers[name if name == "conv1" else f"res{name}"] = "Convolution", [random.weight(*shape)]
        layers[f"bn_{name}" if name == "conv1" else f"bn{name}"] = batch_norm(random, shape[0])
        layers[f"scale_{name}" if name == "conv1" else f"scale{name}"] = scale(random, shape[0])
    layers["fc"] = "InnerProduct", [random.weight(10, 32), random.normal((10,), 0, 0.1)]
    return caffemodel("resnet_block", layers)


def cifar10() -> bytes:
    random = Random(2)
    return caffemodel(
        "cifar10_sigmoid_bn",
        {
            "conv1": ("Convolution", [random.weight(16, 3, 5, 5)]),
            "bn1": batch_norm(random, 16),
            "conv2": ("Convolution", [random.weight(16, 16, 5, 5)]),
            "bn2": batch_norm(random, 16),
            "ip1": ("InnerProduct", [random.weight(10, 16 * 8 * 8), random.normal((10,), 0, 0.1)]),
        },
    )


def train_test() -> bytes:
    random = Random(3)
    return caffemodel(
        "train_test",
        {
            "conv1": ("Convolution", [random.weight(8, 3, 3, 3), random.normal((8,), 0, 0.1)]),
            "bn1": batch_norm(random, 8),
            "scale1": scale(random, 8),
            "ip1": ("InnerProduct", [random.weight(5, 8 * 16 * 16), random.normal((5,), 0, 0.1)]),
        },
    )


def keras() -> bytes:
    """As a Keras model is exported: one BatchNormalization with all four parameters behind each layer with weights."""
    random = Random(4)
    constants: dict[str, Array] = {}
    nodes = []

    def node(kind: str, out: str, source: str, **also: Any) -> str:
        parameters = also.pop("parameters", {})
        constants.update({f"{out}/{name}": value for name, value in parameters.items()})
        names = [source, *(f"{out}/{name}" for name in parameters)]
        nodes.append(helper.make_node(kind, names, [out], name=out, **also))
        return out

    def normalised(out: str, source: str, channels: int) -> str:
        values = {"gamma": random.normal((channels,), 1, 0.2), "beta": random.normal((channels,), 0, 0.3)}
        values |= {"moving_mean": random.normal((channels,), 0, 0.3), "moving_variance": random.variance(channels)}
        return node("BatchNormalization", out, source, epsilon=1e-3, parameters=values)

    convolution = {"kernel": random.weight(16, 3, 3, 3), "bias": random.normal((16,), 0, 0.1)}
    x = node("Conv", "conv2d", "image", pads=[1] * 4, parameters=convolution)
    x = node("Relu", "relu", normalised("batch_normalization", x, 16))
    x = node("Flatten", "flatten", node("MaxPool", "pool", x, kernel_shape=[4, 4], strides=[4, 4]))
    dense = {"kernel": random.weight(8, 16 * 16), "bias": random.normal((8,), 0, 0.1)}
    x = node("Gemm", "dense", x, transB=1, parameters=dense)
    node("Softmax", "scores", normalised("batch_normalization_1", x, 8), axis=1)
    graph = helper.make_graph(
        nodes,
        "keras",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8, producer_name="bnfold samples"
    )
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


SAMPLES = {
    "resnet_block.caffemodel": resnet_block,
    "cifar10.caffemodel": cifar10,
    "train_test.caffemodel": train_test,
    "keras.onnx": keras,
}


def main(folder: Path) -> None:
    for name, make in SAMPLES.items():
        (folder / name).write_bytes(make())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
