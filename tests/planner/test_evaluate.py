"""The evaluator against onnxruntime, operator by operator: it judges the planner, so who judges it?"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.ir.graph import Graph

from .evaluate import OPERATORS, Arrays, evaluate, read
from .nets import Net, feeds
from .steps import random_net

SEEDS = 400


def model(graph: Graph, node: Any, env: Arrays) -> tuple[bytes, dict[str, np.ndarray]]:
    """A model of one node in float32, and what it is fed."""
    inputs, initializers, given, names = [], [], {}, []
    for index, value in enumerate(node.inputs):
        names.append("" if value is None else f"x{index}")
        array = read(env, value)
        if value is None or array is None:
            continue
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        if value.tensor is None:
            inputs.append(helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, array.shape))
            given[names[-1]] = array
        else:
            initializers.append(numpy_helper.from_array(array, names[-1]))
    made = helper.make_node(node.op, names, ["y"], **node.attributes)
    for index, value in enumerate(node.outputs[1:]):
        made.output.append(f"z{index}" if value.dtype == node.outputs[0].dtype else "")
    outputs = [helper.make_empty_tensor_value_info("y")]
    proto = helper.make_graph([made], "net", inputs, outputs, initializers)
    opset = helper.make_opsetid("", max(node.version, 7))
    return helper.make_model(proto, opset_imports=[opset], ir_version=8).SerializeToString(), given


def test_every_operator_agrees_with_onnxruntime() -> None:
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    seen: dict[str, int] = {}
    for seed in range(SEEDS):
        net = random_net(Random(seed))
        env = evaluate(net.graph, feeds(net))
        for node in net.graph.nodes:
            if seen.get(node.op, 0) >= 8 or (
                node.op == "BatchNormalization" and (node.version < 9 or node.version == 14)
            ):
                continue
            content, given = model(net.graph, node, env)
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            (found,) = session.run(["y"], given)
            expected = env[node.outputs[0]]
            scale = np.abs(expected).max(initial=1e-3)
            assert found.shape == expected.shape, (seed, node, node.attributes)
            assert np.abs(found - expected).max() <= 1e-5 * scale, (seed, node, node.attributes)
            seen[node.op] = seen.get(node.op, 0) + 1
    assert set(seen) == set(OPERATORS)


@pytest.mark.parametrize("axis", [1, 2])
def test_operands_before_opset_7_are_aligned_at_their_axis(axis: int) -> None:
    """The rule of https://github.com/onnx/onnx/blob/main/docs/Changelog.md#Add-6."""
    net = Net()
    x = net.input(2, 3, 3)
    y = net.op("Add", x, np.arange(3.0), version=6, broadcast=1, axis=axis)
    env = evaluate(net.graph, {x: np.zeros((2, 3, 3))})
    assert env[y][0].tolist() == np.broadcast_to(np.arange(3.0).reshape((3, 1) if axis == 1 else (3,)), (3, 3)).tolist()


def test_a_batch_normalization_per_element_takes_parameters_of_the_shape_of_an_element() -> None:
    net = Net()
    x = net.input(2, 2, 2)
    parameters = [np.arange(4.0).reshape(2, 2)] * 3 + [np.ones((2, 2))]
    y = net.op("BatchNormalization", x, *parameters, version=7, spatial=0, epsilon=0.0)
    given = np.ones((2, 2, 2))
    assert evaluate(net.graph, {x: given})[y][0].tolist() == [[0.0, 1.0], [0.0, -3.0]]
