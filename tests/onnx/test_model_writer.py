"""What is written is what onnx reads: attributes, tensors, headers, subgraphs."""

from __future__ import annotations

import io
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import numpy_helper

from bnfold.ir.graph import Graph, Tensor, Value
from bnfold.onnx.model_writer import Header, write_model
from bnfold.protobuf import Rope

F = np.dtype(np.float32)
HEADER = Header(13, 7, "bnfold", "1.2", "a net", {"b": "2", "a": "é"})


def _constant(name: str, array: np.ndarray, dtype: Any = None, key: Any = None) -> Value:
    tensor = Tensor(key or name, array.shape, array.dtype, lambda: array)
    return Value(name, array.shape, np.dtype(dtype or array.dtype), tensor=tensor)


def _add(graph: Graph, op: str, inputs: list[Value | None], out: Value, **attributes: Any) -> Value:
    graph.add_node(op, inputs, [out], attributes, origin=None, name=f"n/{out.name}", version=13)
    return out


def _model(rope: Rope) -> onnx.ModelProto:
    stream = io.BytesIO()
    rope.write(stream)
    assert len(stream.getvalue()) == rope.size
    return onnx.load_from_string(stream.getvalue())


def _small() -> Graph:
    graph = Graph("small")
    x = graph.add_input(Value("x", (None, 3), F))
    w = _constant("w", np.arange(12, dtype=np.float64).reshape(3, 4) / 3, np.float32)
    y = _add(graph, "Gemm", [x, w, None], Value("y", (None, 4), F), alpha=0.5, transB=0)
    graph.add_output(y)
    return graph


def test_header_and_interface() -> None:
    model = _model(write_model(_small(), Header(13, 7, "bnfold", "1.2", "a net", {"b": "2", "a": "é"}, batch="batch")))
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.producer_name, model.producer_version) == (7, "bnfold", "1.2")
    assert (model.doc_string, [(e.key, e.value) for e in model.metadata_props]) == ("a net", [("a", "é"), ("b", "2")])
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 13)]
    for info, columns in ((model.graph.input[0], 3), (model.graph.output[0], 4)):
        dims = info.type.tensor_type.shape.dim
        assert (dims[0].dim_param, dims[1].dim_value) == ("batch", columns)


def test_a_float64_tensor_is_rounded_to_the_dtype_of_its_value() -> None:
    initializer = _model(write_model(_small(), HEADER)).graph.initializer[0]
    expected = (np.arange(12, dtype=np.float64).reshape(3, 4) / 3).astype(np.float32)
    np.testing.assert_array_equal(numpy_helper.to_array(initializer), expected)


def test_float16_behind_float32_is_written_so_on_request_only() -> None:
    array = np.array([[1 / 3, 2.0**-24]], np.float16)
    graph = Graph("g")
    graph.add_output(_add(graph, "Identity", [_constant("c", array, np.float32)], Value("y", (1, 2), F)))
    plain, half = (_model(write_model(graph, Header(half=half))) for half in (False, True))
    onnx.checker.check_model(half, full_check=True)
    assert [node.op_type for node in plain.graph.node] == ["Identity"]
    np.testing.assert_array_equal(numpy_helper.to_array(plain.graph.initializer[0]), array.astype(F), strict=True)
    np.testing.assert_array_equal(numpy_helper.to_array(half.graph.initializer[0]), array, strict=True)
    (y,) = onnx.reference.ReferenceEvaluator(half).run(None, {})
    np.testing.assert_array_equal(y, array.astype(F), strict=True)


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"],
)
def test_tensors_of_every_type(dtype: str) -> None:
    array = np.array([[0, 1, 2]], dtype)
    graph = Graph()
    graph.add_output(_add(graph, "Identity", [_constant("c", array)], Value("y", (1, 3), array.dtype)))
    written = numpy_helper.to_array(_model(write_model(graph, HEADER)).graph.initializer[0])
    np.testing.assert_array_equal(written, array)
    assert written.dtype == array.dtype


def test_bfloat16_empty_and_scalar_tensors() -> None:
    graph = Graph()
    bf16 = _constant("a", np.array([1.5, -2], ml_dtypes.bfloat16))
    empty, scalar = _constant("b", np.zeros((0, 3), np.float32)), _constant("c", np.array(7, np.int64))
    for value in (bf16, empty, scalar):
        graph.add_output(_add(graph, "Identity", [value], Value("y" + value.name, value.shape, value.dtype)))
    tensors = [numpy_helper.to_array(t) for t in _model(write_model(graph, HEADER)).graph.initializer]
    assert [t.shape for t in tensors] == [(2,), (0, 3), ()]
    assert tensors[0].astype(np.float32).tolist() == [1.5, -2]


def test_attributes_of_every_kind() -> None:
    graph = Graph()
    value = np.array([3], np.int64)
    tensor = Tensor("t", (1,), value.dtype, lambda: value)
    given = {"f": 0.1, "i": -5, "s": "ä", "floats": [1.0, 2.5], "ints": (3, -4), "strings": ["a", "b"], "none": []}
    _add(graph, "caffe.Odd", [], Value("y"), value=tensor, **given)
    model = _model(write_model(graph, HEADER))
    node = model.graph.node[0]
    read = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert (node.domain, node.op_type) == ("caffe", "Odd")
    assert sorted((o.domain, o.version) for o in model.opset_import) == [("", 13), ("caffe", 13)]
    np.testing.assert_array_equal(numpy_helper.to_array(read.pop("value")), value)
    assert read.pop("f") == pytest.approx(0.1)
    expected = {"i": -5, "s": "ä".encode(), "floats": [1, 2.5], "ints": [3, -4], "strings": [b"a", b"b"], "none": []}
    assert read == expected


def test_one_initializer_for_values_that_show_one_stored_tensor() -> None:
    graph, array = Graph(), np.ones(3, np.float32)
    x = graph.add_input(Value("x", (3,), F))
    first = _add(graph, "Add", [x, _constant("w", array, key="k")], Value("a", (3,), F))
    graph.add_output(_add(graph, "Mul", [first, _constant("again", array, key="k")], Value("y", (3,), F)))
    model = _model(write_model(graph, HEADER))
    onnx.checker.check_model(model, full_check=True)
    assert [t.name for t in model.graph.initializer] == ["w"]
    assert [list(n.input) for n in model.graph.node] == [["x", "w"], ["a", "w"]]


def test_subgraphs() -> None:
    graph, then, other = Graph("g"), Graph("then"), Graph("else")
    condition = graph.add_input(Value("c", (), np.dtype(np.bool_)))
    x = graph.add_input(Value("x", (2,), F))
    then.add_output(_add(then, "Neg", [x], Value("t", (2,), F)))
    other.add_output(_add(other, "Add", [x, _constant("one", np.ones(2, np.float32))], Value("e", (2,), F)))
    graph.add_output(_add(graph, "If", [condition], Value("y", (2,), F), then_branch=then, else_branch=other))
    model = _model(write_model(graph, HEADER))
    onnx.checker.check_model(model, full_check=True)
    assert [t.name for t in model.graph.node[0].attribute[1].g.initializer] == ["one"]


def test_the_same_graph_gives_the_same_bytes() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    write_model(_small(), HEADER).write(first)
    write_model(_small(), HEADER).write(second)
    assert first.getvalue() == second.getvalue()


def test_nodes_of_one_name_get_names_of_their_own() -> None:
    graph = Graph()
    x = graph.add_input(Value("x", (2,), F))
    for name in ("a", "b", "c", "d"):
        x = Value(name, (2,), F)
        graph.add_node("Relu", [graph.inputs[0]], [x], {}, origin=None, name="same", version=13)
        graph.add_output(x)
    assert [n.name for n in _model(write_model(graph, HEADER)).graph.node] == [
        "same",
        "same/Relu",
        "same/Relu_2",
        "same/Relu_3",
    ]
