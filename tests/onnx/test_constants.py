"""Constant expressions against onnx's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_models import model, node, tensor

from bnfold.onnx.document import OnnxDocument


def integers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


HALF = tensor("h", 2, 3, dtype=np.float16)
FILL = helper.make_tensor("", TensorProto.FLOAT, [1], [1.5])
BACKWARDS = [integers("from", -1), integers("to", -9), integers("axes", 1), integers("steps", -1)]
A, B = tensor("a", 2, 3, 1), tensor("b", 3, 4)
CASES: dict[str, tuple[onnx.NodeProto, list[onnx.TensorProto]]] = {
    "identity": (node("Identity", "a", "e"), [A]),
    "cast to half": (node("Cast", "a", "e", to=TensorProto.FLOAT16), [A]),
    "cast to double": (node("Cast", "h", "e", to=TensorProto.DOUBLE), [HALF]),
    "cast like": (node("CastLike", "a h", "e"), [A, HALF]),
    "transpose": (node("Transpose", "a", "e", perm=[1, 2, 0]), [A]),
    "transpose all": (node("Transpose", "a", "e"), [A]),
    "unsqueeze": (node("Unsqueeze", "a axes", "e"), [A, integers("axes", 0, -1)]),
    "squeeze": (node("Squeeze", "a axes", "e"), [A, integers("axes", 2)]),
    "squeeze all": (node("Squeeze", "a", "e"), [A]),
    "reshape": (node("Reshape", "a shape", "e"), [A, integers("shape", 0, -1)]),
    "flatten": (node("Flatten", "a", "e", axis=2), [A]),
    "constant of shape": (node("ConstantOfShape", "shape", "e", value=FILL), [integers("shape", 2, 3)]),
    "zeros of shape": (node("ConstantOfShape", "shape", "e"), [integers("shape", 2)]),
    "shape": (node("Shape", "a", "e", start=1), [A]),
    "gather": (node("Gather", "a at", "e", axis=1), [A, integers("at", 2, 0)]),
    "slice": (node("Slice", "a from to axes steps", "e"), [A, *BACKWARDS]),
    "concat": (node("Concat", "a a", "e", axis=2), [A]),
    "expand": (node("Expand", "a shape", "e"), [A, integers("shape", 1, 1, 4)]),
    "tile": (node("Tile", "a times", "e"), [A, integers("times", 1, 2, 4)]),
    "add": (node("Add", "a b", "e"), [A, B]),
    "subtract": (node("Sub", "a b", "e"), [A, B]),
    "multiply": (node("Mul", "h h", "e"), [HALF]),
    "divide": (node("Div", "a b", "e"), [A, B]),
    "power": (node("Pow", "a b", "e"), [A, B]),
    "negate": (node("Neg", "a", "e"), [A]),
    "absolute": (node("Abs", "n", "e"), [numpy_helper.from_array(np.array([-1.5, 2], np.float32), "n")]),
    "largest": (node("Max", "a b c", "e"), [A, B, tensor("c", 1)]),
    "smallest": (node("Min", "a b", "e"), [A, B]),
    "root": (node("Sqrt", "h", "e"), [HALF]),
    "exponential": (node("Exp", "a", "e"), [A]),
    "reciprocal": (node("Reciprocal", "a", "e"), [A]),
}  # fmt: skip


def found(proto: onnx.ModelProto, name: str = "e") -> Any:
    return OnnxDocument.from_bytes(proto.SerializeToString()).scopes[0].values[name].tensor


@pytest.mark.parametrize("case", CASES)
def test_expressions_are_computed_in_the_stored_types(case: str) -> None:
    made, stored = CASES[case]
    proto = model([made, node("Relu", "x", "y")], stored)
    graph = helper.make_graph([made], "g", [], [helper.make_empty_tensor_value_info("e")], stored)
    alone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    want = ReferenceEvaluator(alone).run(None, {})[0]
    constant = found(proto)
    assert constant.shape == want.shape
    assert constant.dtype == want.dtype
    np.testing.assert_array_max_ulp(constant.load(), want, 0 if want.dtype.kind == "i" else 1)


@pytest.mark.parametrize(
    ("attribute", "want"),
    [
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
        ({"value": tensor("", 2, 2)}, numpy_helper.to_array(tensor("", 2, 2))),
    ],
)
def test_constant_nodes_in_all_forms(attribute: dict[str, Any], want: Any) -> None:
    proto = model([node("Constant", "", "e", **attribute), node("Relu", "x", "y")])
    np.testing.assert_array_equal(found(proto).load(), want, strict=True)


def test_what_is_too_large_to_compute_is_no_constant() -> None:
    made = node("ConstantOfShape", "shape", "e")
    assert found(model([made, node("Relu", "x", "y")], [integers("shape", 1 << 20, 1 << 20)])) is None


def test_doubling_again_and_again_is_cheap_or_refused() -> None:
    doubled = [node("Add", f"e{i} e{i}", f"e{i + 1}") for i in range(60)]
    small = found(model([*doubled, node("Relu", "x", "y")], [tensor("e0", 2)]), "e60")
    np.testing.assert_array_equal(small.load(), numpy_helper.to_array(tensor("e0", 2)) * np.float32(2.0**60))
    assert found(model([*doubled, node("Relu", "x", "y")], [tensor("e0", 300, 300)]), "e60") is None


def test_what_a_net_computes_is_no_constant() -> None:
    for op in ("RandomNormalLike", "Dropout", "DequantizeLinear"):
        inputs = "a s" if op == "DequantizeLinear" else "a"
        stored = (
            [integers("i", 1), tensor("s"), numpy_helper.from_array(np.ones(3, np.int8), "a")] if "s" in inputs else [A]
        )
        assert found(model([node(op, inputs, "e"), node("Relu", "x", "y")], stored)) is None
