"""Nodes that do not stand in order: runtimes run such models, so they are read, and what is written is sorted."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import (
    MATRIX,
    X,
    Y,
    batch_norm,
    conv_bn,
    fold_bytes,
    model,
    node,
    norm,
    ops,
    run,
    same,
    tensor,
    unchanged,
)

FLAG = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])


def fold(source: onnx.ModelProto) -> onnx.ModelProto:
    """Folded, which the checker accepts, since it is sorted; and the same when it is folded again."""
    data = fold_bytes(source.SerializeToString())
    assert fold_bytes(data) == data
    result = onnx.load_model_from_string(data)
    onnx.checker.check_model(result)
    return result


def shuffled(source: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    result = onnx.ModelProto.FromString(source.SerializeToString())
    for nodes in (result.graph.node, *(function.node for function in result.functions)):
        order = list(nodes)
        Random(seed).shuffle(order)
        del nodes[:]
        nodes.extend(order)
    return result


def body(nodes: Any, output: str = "o") -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [], [helper.make_empty_tensor_value_info(output)])


def branching(*nodes: onnx.NodeProto, **how: Any) -> onnx.NodeProto:
    return node("If", "flag", "y", then_branch=body(nodes), else_branch=body(nodes), **how)


@pytest.mark.parametrize("seed", range(6))
def test_a_shuffled_model_folds_as_the_sorted_one(seed: int) -> None:
    source = shuffled(conv_bn(), seed)
    folded = fold(source)
    assert ops(folded) == ["Conv", "Relu"]
    same(conv_bn(), folded)


def test_the_stored_order_is_kept_as_far_as_it_can_be() -> None:
    nodes = [node("Tanh", "x", "a"), node("Relu", "n", "y"), node("Sigmoid", "x", "b"), batch_norm("c", "bn", "n")]
    nodes += [node("Exp", "x", "d"), node("Conv", "x W", "c")]
    outputs = [Y, *(helper.make_tensor_value_info(name, 1, [1, 2, 5, 5]) for name in "abd")]
    source = model(nodes, [tensor("W", 3, 2, 3, 3), *norm("bn", 3)], outputs=outputs)
    assert ops(fold(source)) == ["Tanh", "Sigmoid", "Exp", "Conv", "Relu"]


def test_where_nothing_folds_nothing_is_sorted() -> None:
    source = model([node("Relu", "r", "y"), node("Tanh", "x", "r")]).SerializeToString()
    assert fold_bytes(source) == unchanged(source) == source


def test_a_body_is_sorted_and_reads_what_stands_behind_it() -> None:
    inside = [node("Relu", "n", "o"), batch_norm("c", "bn", "n"), node("Conv", "s W", "c")]
    nodes = [branching(*inside), node("Sigmoid", "x", "s")]
    stored = [tensor("W", 3, 2, 3, 3), *norm("bn", 3)]
    folded = fold(model(nodes, stored, [X, FLAG]))
    assert ops(folded) == ["Sigmoid", "If"]
    assert [n.op_type for n in folded.graph.node[1].attribute[0].g.node] == ["Conv", "Relu"]
    in_order = [nodes[1], branching(*inside[::-1])]
    same(model(in_order, stored, [X, FLAG]), folded, {"flag": np.array(True)})


def test_what_a_body_in_a_body_reads_is_read_by_both() -> None:
    inner = branching(node("Add", "s t", "o"))
    inner.output[0] = "o"
    nodes = [branching(inner), node("Conv", "x W", "c"), node("Relu", "n", "s"), batch_norm("c", "bn", "n")]
    nodes += [node("Tanh", "x", "t")]
    folded = fold(model(nodes, [tensor("W", 2, 2, 1, 1), *norm("bn", 2)], [X, FLAG]))
    assert ops(folded) == ["Conv", "Relu", "Tanh", "If"]


def test_a_function_is_sorted() -> None:
    inside = [node("Relu", "n", "o"), node("Mul", "c k", "n"), node("Gemm", "i w", "c")]
    inside += [node("Constant", "", "k", value=tensor("", 3)), node("Constant", "", "w", value=tensor("", 2, 3))]
    function = helper.make_function("my", "f", ["i"], ["o"], inside, [helper.make_opsetid("", 17)])
    data = helper.make_tensor_value_info("x", 1, [4, 2])
    source = model([node("f", "x", "y", domain="my")], [], [data], [MATRIX], functions=[function], domains=["my"])
    folded = fold(source)
    assert [n.op_type for n in folded.functions[0].node if n.op_type != "Constant"] == ["Gemm", "Relu"]
    assert run(folded)[0].shape == (4, 3)


def test_a_graph_is_sorted_where_another_one_folds() -> None:
    inside = [node("Tanh", "r", "o"), node("Relu", "s", "r")]
    nodes = [branching(*inside), node("Relu", "n", "s"), batch_norm("c", "bn", "n"), node("Conv", "x W", "c")]
    folded = fold(model(nodes, [tensor("W", 2, 2, 1, 1), *norm("bn", 2)], [X, FLAG]))
    assert ops(folded) == ["Conv", "Relu", "If"]
    assert [n.op_type for n in folded.graph.node[2].attribute[0].g.node] == ["Relu", "Tanh"]
