"""Weights that a DequantizeLinear makes from integers: the scale takes multipliers, the integers stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import constants, fold, ops, same

CHANNELS = [0.01, 0.02, 0.03, 0.04]


def net(scale: Any, axis: int = 0, op: str = "Conv", gamma: Any = (1.5, 0.5, 1.0, 2.0), **how: Any) -> onnx.ModelProto:
    """int8 weights → DequantizeLinear → Conv or ConvTranspose of 3 to 4 channels → BatchNormalization."""
    rng = np.random.default_rng(0)
    shape = (3, 4, 3, 3) if op == "ConvTranspose" else (4, 3, 3, 3)
    arrays = {"q": rng.integers(-127, 127, shape, np.int8), "z": np.full(np.shape(scale), 3, np.int8)}
    floats = {"s": scale, "gamma": gamma, "beta": rng.normal(size=4), "mean": rng.normal(size=4)}
    arrays |= {name: np.asarray(value, np.float32) for name, value in (floats | {"variance": CHANNELS}).items()}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=axis),
        helper.make_node(op, ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["y"]),
        *how.get("more", []),
    ]
    size = [1, 4, 10, 10] if op == "ConvTranspose" else [1, 4, 6, 6]
    outputs = [helper.make_tensor_value_info("y", 1, size), *how.get("outputs", [])]
    inputs = [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])]
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(("axis", "op"), [(0, "Conv"), (1, "ConvTranspose")])
def test_a_scale_for_each_channel_takes_the_multiplier(axis: int, op: str) -> None:
    source = net(CHANNELS, axis, op)
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["DequantizeLinear", op]
    assert np.array_equal(constants(folded)["q"], constants(source)["q"])


@pytest.mark.parametrize(("scale", "gamma"), [(0.01, (1.5, 0.5, 1.0, 2.0)), (CHANNELS, (-1.0, 1.0, 1.0, 1.0))])
def test_what_no_positive_scale_can_take_stays_a_product(scale: Any, gamma: Any) -> None:
    source = net(scale, gamma=gamma)
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["DequantizeLinear", "Conv", "Mul"]
    assert np.array_equal(constants(folded)["s"], constants(source)["s"])


def test_weights_that_somebody_else_reads_stay() -> None:
    more = [helper.make_node("ReduceSum", ["w"], ["sum"], keepdims=0)]
    source = net(CHANNELS, more=more, outputs=[helper.make_tensor_value_info("sum", 1, [])])
    folded = fold(source)
    same(source, folded)
    assert "BatchNormalization" in ops(folded)


def test_a_multiplier_of_the_inputs_stays_and_the_shift_goes_into_the_bias() -> None:
    source = net(CHANNELS)
    source.graph.node[2].input[:] = ["x", "g3", "b3", "m3", "v3"]
    source.graph.node[2].output[0], source.graph.node[1].input[0], source.graph.node[1].output[0] = "n", "n", "y"
    for name, values in (("g3", [2, 3, 4]), ("b3", [1, 2, 3]), ("m3", [0.1, 0.2, 0.3]), ("v3", [1, 1, 1])):
        source.graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), name))
    order = [source.graph.node[i] for i in (0, 2, 1)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del source.graph.node[:]
    source.graph.node.extend(copies)
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["DequantizeLinear", "Mul", "Conv"]


@pytest.mark.parametrize(("scale", "axis"), [(CHANNELS, 1), (CHANNELS[:2], 0), ([], 0)])
def test_a_scale_that_does_not_fit_its_weights_keeps_the_affine(scale: Any, axis: int) -> None:
    assert "BatchNormalization" in ops(fold(net(scale, axis)))


def test_a_zero_point_that_does_not_fit_its_scale_keeps_the_affine() -> None:
    source = net(CHANNELS)
    source.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros(2, np.int8), "z"))
    assert "BatchNormalization" in ops(fold(source))
