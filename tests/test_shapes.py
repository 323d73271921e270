"""Shape inference against onnx.shape_inference, case by case and on random convolutions and slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bnfold.graph import Graph, Node, Tensor, Value
from bnfold.shapes import infer

F, INT = np.float32, np.int64
Given = tuple[int, ...] | list[Any] | np.ndarray | None
"""An input: a tuple is the shape of a float input, a list a constant of int64, an array itself, None is omitted."""


def _node(op: str, inputs: list[Given], attributes: dict[str, Any], outputs: int, opset: int) -> Node:
    values: list[Value | None] = []
    for index, item in enumerate(inputs):
        if item is None:
            values.append(None)
        elif isinstance(item, tuple):
            values.append(Value(f"x{index}", item, np.dtype(F)))
        else:
            array = np.asarray(item, INT) if isinstance(item, list) else item
            tensor = Tensor(index, array.shape, array.dtype, lambda array=array: array)
            values.append(Value(f"x{index}", array.shape, array.dtype, tensor=tensor))
    tops = [Value(f"y{i}") for i in range(outputs)]
    plain = {k: v for k, v in attributes.items() if not isinstance(v, onnx.TensorProto)}
    made = {k: numpy_helper.to_array(v) for k, v in attributes.items() if isinstance(v, onnx.TensorProto)}
    return Graph().add_node(op, values, tops, plain | made, origin=None, name="n", version=opset)


def _expected(node: Node, attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    names = ["" if v is None else v.name for v in node.inputs]
    known = [v for v in node.inputs if v is not None]
    inputs = [
        helper.make_tensor_value_info(v.name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for v in known
        if v.tensor is None
    ]
    initializers = [numpy_helper.from_array(v.tensor.load(), v.name) for v in known if v.tensor is not None]
    outputs = [helper.make_empty_tensor_value_info(v.name) for v in node.outputs]
    proto = helper.make_node(node.op, names, [v.name for v in node.outputs], **attributes)
    graph = helper.make_graph([proto], "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.version)], ir_version=8)
    found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    result = []
    for value in found.graph.output:
        tensor = value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        result.append((tuple(dims) if tensor.HasField("shape") else None, tensor.elem_type))
    return result


def check(op: str, inputs: list[Given], attributes: dict[str, Any], outputs: int = 1, opset: int = 13) -> None:
    """What we infer agrees with onnx wherever onnx knows, and knows at least as much."""
    node = _node(op, inputs, attributes, outputs, opset)
    infer(node)
    for value, (shape, elem_type) in zip(node.outputs, _expected(node, attributes), strict=True):
        assert value.shape == shape, f"{op} {value.name}"
        assert value.dtype is not None
        assert helper.np_dtype_to_tensor_dtype(value.dtype) == elem_type


ONE = np.array(1.5, F)
CASES: list[tuple[Any, ...]] = [
    ("Relu", [(2, 3)], {}),
    ("Add", [(2, 3, 1), (4,)], {}),
    ("Add", [(2, 3, 4, 5), (3,)], {"axis": 1, "broadcast": 1}, 1, 6),
    ("Where", [np.ones((3, 1), np.bool_), (3, 4), (4,)], {}),
    ("Greater", [(2, 3), (3,)], {}),
    ("Max", [(2, 1), (1, 3), (1,)], {}),
    ("Conv", [(2, 3, 9, 8), (6, 3, 3, 3), (6,)], {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    ("Conv", [(2, 4, 9, 8), (6, 2, 3, 3)], {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [(2, 4, 9), (6, 4, 3)], {"auto_pad": "VALID"}),
    ("ConvTranspose", [(1, 4, 5, 6), (4, 3, 3, 2)], {"strides": [2, 3],
      "pads": [1, 0, 1, 1], "output_padding": [1, 0]}),
    ("ConvTranspose", [(1, 4, 5, 6), (4, 3, 3, 3)], {"group": 2, "output_shape": [11, 13], "strides": [2, 2]}),
    ("ConvTranspose", [(1, 4, 5), (4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2]}),
    ("MaxPool", [(1, 2, 8, 7)], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1}, 2),
    ("MaxPool", [(1, 2, 6)], {"kernel_shape": [1], "strides": [2], "ceil_mode": 1}, 1, 22),
    ("AveragePool", [(1, 2, 8, 7)], {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("GlobalAveragePool", [(1, 2, 8, 7)], {}),
    ("BatchNormalization", [(2, 3, 4), (3,), (3,), (3,), (3,)], {}),
    ("BatchNormalization", [(2, 3, 4), (3,), (3,), (3,), (3,)], {"training_mode": 1}, 3, 15),
    ("Gemm", [(5, 2), (3, 5), (3,)], {"transA": 1, "transB": 1}),
    ("MatMul", [(7, 1, 2, 3), (4, 3, 5)], {}),
    ("MatMul", [(3,), (4, 3, 5)], {}),
    ("MatMul", [(2, 3), (3,)], {}),
    ("Einsum", [(2, 3, 4), (2, 4, 5)], {"equation": "bij,bjk->bik"}),
    ("Flatten", [(2, 3, 4, 5)], {"axis": -1}),
    ("Flatten", [(2, 3, 4, 5)], {"axis": 0}),
    ("Reshape", [(2, 3, 4), [0, -1]], {}),
    ("Reshape", [(2, 3, 4), [4, 0, -1]], {}),
    ("Transpose", [(2, 3, 4)], {"perm": [1, 2, 0]}),
    ("Transpose", [(2, 3, 4)], {}),
    ("Squeeze", [(1, 3, 1)], {}),
    ("Squeeze", [(1, 3, 1), [-1]], {}),
    ("Squeeze", [(1, 3, 1)], {"axes": [0]}, 1, 11),
    ("Unsqueeze", [(3, 4), [0, -1]], {}),
    ("Unsqueeze", [(3, 4)], {"axes": [1]}, 1, 9),
    ("Concat", [(2, 3), (2, 4)], {"axis": -1}),
    ("Split", [(2, 7), [3, 4]], {"axis": 1}, 2),
    ("Split", [(2, 6)], {"axis": 1, "split": [1, 5]}, 2, 11),
    ("Split", [(2, 6)], {"axis": -1}, 3),
    ("Split", [(2, 7)], {"axis": 1, "num_outputs": 3}, 3, 18),
    ("Slice", [(8, 9), [1, -20], [-1, 20], [0, 1], [2, 3]], {}),
    ("Slice", [(8, 9), [7], [-100], [0], [-2]], {}),
    ("Slice", [(8, 9)], {"starts": [2], "ends": [5], "axes": [1]}, 1, 9),
    ("Slice", [(8, 9)], {"starts": [2, 1], "ends": [5, 3]}, 1, 9),
    ("Gather", [(5, 6), np.zeros((2, 2), INT)], {"axis": 1}),
    ("GatherElements", [(5, 6), np.zeros((2, 6), INT)], {}),
    ("GatherND", [(2, 3, 4), np.zeros((2, 5, 1), INT)], {"batch_dims": 1}),
    ("ScatterND", [(2, 3), np.zeros((1, 1), INT), (1, 3)], {}),
    ("Expand", [(3, 1), [2, 1, 4]], {}),
    ("Tile", [(3, 2), [2, 3]], {}),
    ("Pad", [(3, 2), [1, 0, 2, 3]], {}),
    ("Pad", [(3, 2), [1, 2], None, [1]], {}, 1, 18),
    ("Pad", [(3, 2)], {"pads": [1, 0, 2, 3]}, 1, 10),
    ("Resize", [(1, 2, 5, 6), None, np.array([1, 1, 2, 1.5], F)], {}),
    ("Resize", [(1, 2, 5, 6), None, None, [1, 2, 9, 9]], {}),
    ("Resize", [(1, 2, 5, 6), None, None, [9, 9]], {"axes": [2, 3]}, 1, 18),
    ("Resize", [(1, 2, 5, 6), np.array([1, 1, 2, 2], F)], {}, 1, 10),
    ("Upsample", [(1, 2, 5, 6), np.array([1, 1, 2, 2], F)], {}, 1, 9),
    ("Upsample", [(1, 2, 5, 6)], {"scales": [1.0, 1.0, 2.0, 3.0]}, 1, 8),
    ("DepthToSpace", [(1, 8, 2, 3)], {"blocksize": 2}),
    ("SpaceToDepth", [(1, 2, 4, 6)], {"blocksize": 2}),
    ("ReduceMean", [(2, 3, 4)], {"axes": [1, -1]}),
    ("ReduceMean", [(2, 3, 4), [1]], {"keepdims": 0}, 1, 18),
    ("ReduceSum", [(2, 3, 4)], {"keepdims": 0}),
    ("ReduceSum", [(2, 3, 4)], {"noop_with_empty_axes": 1}),
    ("ArgMax", [(2, 3, 4)], {"axis": -1, "keepdims": 0}),
    ("TopK", [(2, 9), [4]], {"axis": 1}, 2),
    ("TopK", [(2, 9)], {"k": 4}, 2, 9),
    ("OneHot", [np.zeros((2, 3), INT), np.array(5, INT), np.array([0, 1], F)], {"axis": 1}),
    ("Shape", [(2, 3, 4)], {}),
    ("Shape", [(2, 3, 4)], {"start": 1}, 1, 15),
    ("Size", [(2, 3)], {}),
    ("ConstantOfShape", [[2, 3]], {"value": helper.make_tensor("v", TensorProto.INT32, [1], [7])}),
    ("Constant", [], {"value": numpy_helper.from_array(np.zeros((2, 3), np.float16))}),
    ("Constant", [], {"value_ints": [1, 2]}),
    ("Range", [np.array(1, INT), np.array(10, INT), np.array(2, INT)], {}),
    ("Cast", [(2, 3)], {"to": TensorProto.INT64}),
    ("NonZero", [(2, 3)], {}),
    ("NonMaxSuppression", [(1, 9, 4), (1, 2, 9)], {}),
    ("Dropout", [(2, 3)], {}, 2),
    ("LayerNormalization", [(2, 3, 4), (4,)], {"axis": -1}, 3, 17),
    ("InstanceNormalization", [(2, 3, 4), (3,), (3,)], {}),
    ("LSTM", [(7, 2, 3), (1, 20, 3), (1, 20, 5)], {"hidden_size": 5}, 3),
    ("GRU", [(7, 2, 3), (2, 15, 3), (2, 15, 5)], {"hidden_size": 5, "direction": "bidirectional"}, 2),
    ("RoiAlign", [(2, 3, 8, 8), (5, 4), np.zeros(5, INT)], {"output_height": 3, "output_width": 4}),
    ("MaxRoiPool", [(2, 3, 8, 8), (5, 5)], {"pooled_shape": [2, 3]}),
    ("RandomNormal", [], {"shape": [2, 3]}),
    ("Compress", [(2, 3), np.array([True, False, True])], {"axis": 1}),
    ("Unique", [(2, 3)], {"axis": 1}, 4),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_agrees_with_onnx(case: tuple[Any, ...]) -> None:
    check(*case)


@given(
    extent=st.integers(1, 12), kernel=st.integers(1, 4), stride=st.integers(1, 4), before=st.integers(0, 2),
    after=st.integers(0, 2), ceil=st.booleans(), op=st.sampled_from(["MaxPool", "AveragePool"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_pooling_windows(extent: int, kernel: int, stride: int, before: int, after: int, ceil: bool, op: str) -> None:
    if extent + before + after < kernel or max(before, after) >= kernel:
        return
    attributes = {"kernel_shape": [kernel], "strides": [stride], "pads": [before, after], "ceil_mode": int(ceil)}
    check(op, [(1, 2, extent)], attributes, 1, 22)


@given(st.integers(0, 9), st.integers(-12, 12), st.integers(-12, 12), st.sampled_from([1, 2, 3, -1, -2]))
@settings(max_examples=60, deadline=None)
def test_slices(extent: int, start: int, end: int, step: int) -> None:
    node = _node("Slice", [(extent,), [start], [end], [0], [step]], {}, 1, 13)
    infer(node)
    assert node.outputs[0].shape == _expected(node, {})[0][0]


def test_unknown_extents_stay_unknown_and_the_rest_is_known() -> None:
    node = _node("Conv", [(1, 1), np.zeros((8, 3, 3, 3), F)], {}, 1, 13)
    node.inputs[0].shape = None  # type: ignore[union-attr]
    infer(node)
    assert node.outputs[0].shape == (None, 8, None, None)


def test_shape_arithmetic_is_followed_backwards() -> None:
    """x.view(x.shape[0], -1) as PyTorch writes it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    graph, version = Graph(), 13
    data = Value("x", (4, 3, None, 5), np.dtype(F))

    def constant(*items: int) -> Value:
        array = np.array(items, INT)
        return Value("c", array.shape, array.dtype, tensor=Tensor(items, array.shape, array.dtype, lambda: array))

    def node(op: str, *inputs: Value, **attributes: Any) -> Value:
        out = Value(op)
        infer(graph.add_node(op, inputs, [out], attributes, origin=None, name=op, version=version))
        return out

    index = Value("i", (), np.dtype(INT), tensor=Tensor("i", (), np.dtype(INT), lambda: np.array(0, INT)))
    first = node("Unsqueeze", node("Gather", node("Shape", data), index), constant(0))
    target = node("Concat", first, constant(-1), axis=0)
    assert node("Reshape", data, target).shape == (4, None)


def test_contradictions_leave_the_output_unknown() -> None:
    node = _node("Add", [(2, 3), (4,)], {}, 1, 13)
    infer(node)
    assert node.outputs[0].shape is None
    assert node.outputs[0].dtype == np.dtype(F)
    assert node.contradiction == "the extents [3, 4] do not broadcast"
