"""Shape inference against onnx.shape_inference, case by case and on random convolutions and slices."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bnfold.ir.graph import Graph, Node, Tensor, Value
from bnfold.ir.shapes.arguments import contents
from bnfold.ir.shapes.table import SHAPES, infer

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
    assert not node.contradiction
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
@settings(max_examples=60)
def test_pooling_windows(extent: int, kernel: int, stride: int, before: int, after: int, ceil: bool, op: str) -> None:
    if extent + before + after < kernel or max(before, after) >= kernel:
        return
    attributes = {"kernel_shape": [kernel], "strides": [stride], "pads": [before, after], "ceil_mode": int(ceil)}
    check(op, [(1, 2, extent)], attributes, 1, 22)


@given(st.integers(0, 9), st.integers(-12, 12), st.integers(-12, 12), st.sampled_from([1, 2, 3, -1, -2]))
@settings(max_examples=60)
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


X = (2, 4, 6, 6)
W = np.ones((4, 2, 3, 3), F)
CONTRADICTIONS: list[tuple[str, list[Given], dict[str, Any], str]] = [
    ("Add", [(2, 3), (4,)], {}, r"the extents \[3, 4\] do not broadcast"),
    ("Expand", [(2, 3), [2, 2]], {}, "do not broadcast"),
    ("Expand", [(1,), [-2]], {}, "the extent -2"),
    ("Softmax", [(2,) * 33], {}, "33 axes"),
    ("BatchNormalization", [X, (4,), (4,), (3,), (4,)], {}, r"channels and parameters have the extents \[3, 4\]"),
    ("Concat", [(2, 3), (3, 3)], {"axis": 1}, r"extents \[2, 3\]"),
    ("Concat", [(2, 3), (2, 3)], {"axis": 2}, "axis 2 is not one of 2"),
    ("Concat", [(2, 3), (2,)], {"axis": 0}, r"have \[1, 2\] axes"),
    ("Concat", [(), ()], {"axis": 0}, "axis 0 is not one of 0"),
    ("Split", [X, [1, 2]], {"axis": 1}, r"its input and its parts have the extents \[3, 4\]"),
    ("Split", [X, [5, -1]], {"axis": 1}, "split"),
    ("Split", [X, [1, 1, 2]], {"axis": 1}, "has 3 split and needs 2"),
    ("Slice", [X, [0], [1, 2], [0]], {}, "starts, ends, axes, steps"),
    ("Slice", [X], {"axes": [1]}, "no starts"),
    ("Slice", [X, [0], [1], [4]], {}, "axis 4"),
    ("Slice", [X, [0, 0], [1, 1], [1, -3]], {}, "repeat"),
    ("Slice", [X, [0], [1], [0], [0]], {}, "a step is 0"),
    ("Slice", [X, [], [1], [0]], {}, "starts, ends, axes, steps"),
    ("Squeeze", [X, [0]], {}, "it removes"),
    ("Squeeze", [(1, 2), [0, -2]], {}, "repeat"),
    ("Unsqueeze", [X, [6]], {}, "axis 6 is not one of 5"),
    ("Transpose", [X], {"perm": [0, 1, 2]}, "orders 4 axes"),
    ("Transpose", [X], {"perm": [0, 1, 2, 2]}, "orders 4 axes"),
    ("Reshape", [X, [-1, -1]], {}, "reshapes to"),
    ("Reshape", [X, [7, -1]], {}, "it reshapes"),
    ("Reshape", [X, [2, 4]], {}, "it reshapes"),
    ("Reshape", [(6,), [6, 0]], {}, "1 axes"),
    ("Flatten", [X], {"axis": 5}, "axis 5"),
    ("Gather", [(), [0]], {}, "axis 0 is not one of 0"),
    ("Gather", [X, [4]], {"axis": 1}, "elements 4 to 4 of 4"),
    ("Gather", [X, np.array([0.5], F)], {"axis": 1}, "float32"),
    ("GatherND", [X, np.zeros((1, 5), INT)], {}, "5 of 4 axes"),
    ("Tile", [X, [1, 2]], {}, "2 repeats"),
    ("Tile", [(3,), [-1]], {}, "extent -3"),
    ("Tile", [(1 << 62,), [4]], {}, "extent"),
    ("ReduceMean", [X], {"axes": [4]}, "axis 4"),
    ("ReduceSum", [X, [1, 1]], {}, "repeat"),
    ("ArgMax", [X], {"axis": -5}, "axis -5"),
    ("TopK", [X, [7]], {}, "7 of 6"),
    ("OneHot", [(2,), np.array([np.nan], F), (2,)], {}, "depth is nan"),
    ("Range", [np.array(0), np.array(9), np.array(0)], {}, "delta is 0"),
    ("ConstantOfShape", [[2]], {"value": numpy_helper.from_array(np.ones(2, F))}, "its value"),
    ("RandomNormal", [], {}, "no shape"),
    ("MatMul", [(2, 3), (4, 5)], {}, r"\[3, 4\]"),
    ("MatMul", [(), (4, 5)], {}, "0 axes"),
    ("Gemm", [(2, 3), (3, 5), (4,)], {}, "does not broadcast"),
    ("Gemm", [(2, 3, 1), (3, 5)], {}, "3 axes"),
    ("Einsum", [(2, 3)], {"equation": "ij->ik"}, "letters"),
    ("Einsum", [(2, 3)], {"equation": "ijk->i"}, "2 axes"),
    ("Einsum", [(2, 3)], {"equation": "ij,j->i"}, "operands"),
    ("Conv", [X, W], {}, "in a group"),
    ("Conv", [X, W], {"group": 3}, "does not divide by its group 3"),
    ("Conv", [X, W], {"group": 0}, "group is 0"),
    ("Conv", [X, W], {"group": 2, "strides": [0, 1]}, "strides"),
    ("Conv", [X, W], {"group": 2, "dilations": [1]}, "1 dilations"),
    ("Conv", [X, W], {"group": 2, "pads": [1, 1]}, "2 pads"),
    ("Conv", [X, W], {"group": 2, "kernel_shape": [2, 3]}, "kernel_shape"),
    ("Conv", [X, W], {"group": 2, "auto_pad": "SOME"}, "auto_pad is 'SOME'"),
    ("Conv", [X, np.ones((4, 4), F)], {}, "2 axes"),
    ("ConvTranspose", [X, np.ones((3, 2, 3, 3), F)], {}, "extents"),
    ("ConvTranspose", [X, W], {"output_shape": [3]}, "output_shape"),
    ("MaxPool", [X], {}, "no kernel_shape"),
    ("MaxPool", [X], {"kernel_shape": [0, 2]}, "kernel_shape"),
    ("AveragePool", [(2, 3)], {"kernel_shape": [2]}, "2 axes"),
    ("Pad", [X, [1, 1]], {}, "2 pads"),
    ("Pad", [X, [0, 0, -7, 0, 0, 0, 0, 0]], {}, "extent -1"),
    ("Pad", [(3,), [1, 1], np.ones(0, F)], {}, "its value"),
    ("Dropout", [X, np.ones(0, F)], {}, "its ratio"),
    ("Resize", [X, None, np.ones(3, F)], {}, "3 scales"),
    ("Resize", [X, None, np.array([1, 1, np.inf, 1], F)], {}, "scales"),
    ("Resize", [X, None, None, [1, 2]], {}, "2 sizes"),
    ("DepthToSpace", [X], {"blocksize": 0}, "blocksize is 0"),
    ("DepthToSpace", [X], {"blocksize": 3}, "does not divide"),
    ("SpaceToDepth", [(2, 4, 6)], {"blocksize": 2}, "3 axes"),
    ("LSTM", [(7, 2), (1, 20, 3), (1, 20, 5)], {}, "2 axes"),
    ("RoiAlign", [(2, 3, 8), (5, 4), np.zeros(5, INT)], {}, "3 axes"),
]  # fmt: skip


@pytest.mark.parametrize(("second", "axis"), [((4,), 2), ((3, 4), None), ((2,), 0), ((5,), None), ((1, 2, 3, 4), None)])
def test_what_broadcast_before_opset_7_contradicts_itself(second: tuple[int, ...], axis: int | None) -> None:
    attributes = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
    node = _node("Mul", [(2, 3, 4), second], attributes, 1, 6)
    infer(node)
    assert bool(node.contradiction) == (second in ((5,), (1, 2, 3, 4)))
    assert node.outputs[0].shape == (None if node.contradiction else (2, 3, 4))


@pytest.mark.parametrize("case", CONTRADICTIONS, ids=lambda case: f"{case[0]} {case[3]}")
def test_what_contradicts_itself_says_how_and_has_no_shape(case: tuple[str, list[Given], dict[str, Any], str]) -> None:
    op, inputs, attributes, how = case
    node = _node(op, inputs, attributes, 2 if op == "Split" else 1, 13)
    infer(node)
    assert re.search(how, node.contradiction), node.contradiction
    assert node.outputs[0].shape is None
    assert op in ("RandomNormal", "Range", "ConstantOfShape") or node.outputs[0].dtype is not None


def test_a_window_larger_than_its_image_leaves_the_extent_unknown() -> None:
    node = _node("MaxPool", [(1, 2, 3, 9)], {"kernel_shape": [5, 5]}, 1, 13)
    infer(node)
    assert node.outputs[0].shape == (1, 2, None, 5)
    assert not node.contradiction


def test_what_is_shape_arithmetic_on_nothing_is_unknown() -> None:
    """A division by 0, an index beyond the shape, and sums of lists of two lengths."""
    for op, left, right in (("Div", [4], [0]), ("Gather", [4], [3]), ("Add", [1, 2], [1, 2, 3])):
        node = _node(op, [left, right], {}, 1, 13)
        infer(node)
        found = contents(node.outputs[0])
        assert found is None or found == (None,)


def test_a_fault_in_a_rule_is_not_taken_for_one_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "Relu", lambda node: [node.inputs[0].shape[9]])
    with pytest.raises(IndexError):
        infer(_node("Relu", [(2, 3)], {}, 1, 13))
