"""Who reads the shape or the type of a value binds nothing: the value folds, and that reader finds one of its kind."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import Y, batch_norm, fold, model, node, norm, ops, run, tensor

SHAPE = helper.make_tensor_value_info("s", TensorProto.INT64, [4])
SIZE = helper.make_tensor_value_info("s", TensorProto.INT64, [])
NUMBER = helper.make_tensor_value_info("s", TensorProto.FLOAT, [])
LIKE = helper.make_tensor_value_info("s", TensorProto.FLOAT, list("nchw"))


@pytest.mark.parametrize("at", ["c", "m", "a"])
@pytest.mark.parametrize("op", ["Shape", "Size"])
def test_a_shape_is_read_before_within_and_behind_a_chain(op: str, at: str) -> None:
    nodes = [node("Conv", "x W", "c"), node("Mul", "c k", "m"), node("Add", "m k", "a"), node("Relu", "a", "y")]
    nodes += [node(op, at, "s")]
    source = model(
        nodes, [tensor("W", 3, 2, 3, 3), tensor("k", 3, 1, 1)], outputs=[Y, SHAPE if op == "Shape" else SIZE]
    )
    folded = fold(source)
    assert ops(folded) == ["Conv", "Relu", op]
    for one, other in zip(run(source), run(folded), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_chain_that_becomes_one_node_keeps_the_shape_of_what_was_within() -> None:
    nodes = [node("Sigmoid", "x", "p"), batch_norm("p", "bn", "n"), node("Mul", "n k", "m"), node("Exp", "m", "y")]
    nodes += [node("Shape", "n", "s")]
    source = model(nodes, [*norm("bn", 2), tensor("k", 2, 1, 1)], outputs=[Y, SHAPE])
    folded = fold(source)
    assert ops(folded) == ["Sigmoid", "BatchNormalization", "Exp", "Shape"]
    assert folded.graph.node[-1].input == ["p"]


def test_the_type_of_a_value_is_read() -> None:
    nodes = [node("Conv", "x W", "c"), node("CastLike", "h c", "s"), batch_norm("c", "bn", "y")]
    source = model(nodes, [tensor("W", 3, 2, 3, 3), tensor("h"), *norm("bn", 3)], outputs=[Y, NUMBER])
    assert ops(fold(source)) == ["Conv", "CastLike"]


def test_what_is_cast_to_the_type_of_another_is_read() -> None:
    nodes = [node("Conv", "x W", "c"), node("CastLike", "c h", "s"), batch_norm("c", "bn", "y")]
    source = model(nodes, [tensor("W", 3, 2, 3, 3), tensor("h"), *norm("bn", 3)], outputs=[Y, LIKE])
    assert ops(fold(source)) == ["Conv", "CastLike", "BatchNormalization"]


def test_a_chain_goes_down_past_a_reader_of_its_shape() -> None:
    nodes = [node("Sigmoid", "x", "p"), batch_norm("p", "bn", "n"), node("Shape", "n", "s"), node("Conv", "n W", "y")]
    source = model(nodes, [*norm("bn", 2), tensor("W", 3, 2, 3, 3)], outputs=[Y, SHAPE])
    assert ops(fold(source)) == ["Sigmoid", "Shape", "Conv"]


def test_a_constant_of_the_type_of_a_value_is_a_constant() -> None:
    nodes = [node("CastLike", "h x", "z"), node("Shape", "b", "n"), node("Expand", "z n", "e")]
    nodes += [node("Conv", "x W e", "c"), batch_norm("c", "bn", "y")]
    source = model(nodes, [tensor("h", dtype=np.float64), tensor("b", 3), tensor("W", 3, 2, 3, 3), *norm("bn", 3)])
    assert ops(fold(source)) == ["Conv"]
