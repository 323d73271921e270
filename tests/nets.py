"""Small nets of Conv, BatchNormalization and Relu, folded by hand, right or with a fault, for the verifier's tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnfold.document import Runnable
from bnfold.protobuf import Rope

Array = npt.NDArray[Any]


@dataclass
class Block:
    """Conv (padding 1) → BatchNormalization → Relu; `bias` None for none. Weights (out, in/group, 3, 3)."""

    weight: Array
    bias: Array | None
    gamma: Array
    beta: Array
    mean: Array
    variance: Array
    groups: int = 1
    eps: float = float(np.float32(1e-5))  # as an attribute holds it

    def folded(self) -> tuple[Array, Array]:
        """Weight and bias of the convolution that does it all, in float64."""
        a = self.gamma.astype(np.float64) / np.sqrt(self.variance.astype(np.float64) + self.eps)
        bias = np.zeros(len(a)) if self.bias is None else self.bias.astype(np.float64)
        return self.weight.astype(np.float64) * a[:, None, None, None], a * (bias - self.mean) + self.beta


Fold = Callable[[Block], tuple[Array, Array]]


def random_block(rng: np.random.Generator, ins: int, outs: int, groups: int = 1, **changed: Array) -> Block:
    """Statistics that fit the weights, as training would leave them."""
    deviation = (ins // groups * 9) ** -0.5
    block = Block(
        weight=rng.normal(0, deviation, (outs, ins // groups, 3, 3)).astype(np.float32),
        bias=rng.normal(0, 0.2, outs).astype(np.float32),
        gamma=rng.uniform(0.5, 1.5, outs).astype(np.float32) * rng.choice(np.float32([1, -1]), outs),
        beta=rng.normal(0, 0.5, outs).astype(np.float32),
        mean=rng.normal(0, 0.5, outs).astype(np.float32),
        variance=rng.uniform(0.3, 2, outs).astype(np.float32),
        groups=groups,
    )
    for name, value in changed.items():
        setattr(block, name, value)
    return block


@dataclass
class Net:
    """A run of blocks; inside, `y0`, `y1`, ... are what the normalisations give, before the Relu."""

    blocks: list[Block]
    size: int = 8
    batch: int | str = 1
    opset: int = 15
    head: list[onnx.NodeProto] = field(default_factory=list)

    def original(self) -> onnx.ModelProto:
        nodes, constants = [], []
        for i, block in enumerate(self.blocks):
            names = [f"{n}{i}" for n in ("gamma", "beta", "mean", "variance")]
            values = (block.gamma, block.beta, block.mean, block.variance)
            constants += [numpy_helper.from_array(v, n) for v, n in zip(values, names, strict=True)]
            nodes.append(self._conv(i, f"c{i}", block.weight, block.bias, constants))
            nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *names], [f"y{i}"], epsilon=block.eps))
            nodes.append(helper.make_node("Relu", [f"y{i}"], [f"r{i}"]))
        return self._model(nodes, constants)

    def folded(self, wrong: dict[int, Fold] | None = None) -> onnx.ModelProto:
        """Each block as one convolution; `wrong` folds some of them in another way."""
        nodes, constants = [], []
        for i, block in enumerate(self.blocks):
            weight, bias = (wrong or {}).get(i, Block.folded)(block)
            single = weight.astype(block.weight.dtype), bias.astype(block.weight.dtype)
            nodes.append(self._conv(i, f"y{i}", *single, constants))
            nodes.append(helper.make_node("Relu", [f"y{i}"], [f"r{i}"]))
        return self._model(nodes, constants)

    def _conv(self, i: int, out: str, weight: Array, bias: Array | None, constants: list[Any]) -> onnx.NodeProto:
        arrays = {f"w{i}": weight} if bias is None else {f"w{i}": weight, f"b{i}": bias}
        constants += [numpy_helper.from_array(v, n) for n, v in arrays.items()]
        source = f"r{i - 1}" if i else "x"
        return helper.make_node("Conv", [source, *arrays], [out], pads=[1] * 4, group=self.blocks[i].groups)

    def _model(self, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
        channels = self.blocks[0].weight.shape[1] * self.blocks[0].groups
        kind = helper.np_dtype_to_tensor_dtype(self.blocks[0].weight.dtype)
        entry = helper.make_tensor_value_info("x", kind, [self.batch, channels, self.size, self.size])
        nodes = [*nodes, helper.make_node("Identity", [f"r{len(self.blocks) - 1}"], ["out"]), *self.head]
        exits = [helper.make_tensor_value_info("out", kind, None)]
        graph = helper.make_graph(nodes, "net", [entry], exits, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def runnable(model: onnx.ModelProto, probes: list[str] | None = None, **also: Any) -> Runnable:
    """The model as the verifier takes it, with the values `probes` as further outputs."""
    outputs = [o.name for o in model.graph.output]
    kind = model.graph.input[0].type.tensor_type.elem_type if model.graph.input else TensorProto.FLOAT
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_tensor_value_info(t, kind, None) for t in probes or [])
    return Runnable(Rope(copy.SerializeToString()), outputs, list(probes or []), **also)
