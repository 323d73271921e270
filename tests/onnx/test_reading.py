"""Reading: what is understood, what is refused, and that nothing is lost."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import X, batch_norm, conv_bn, fold_bytes, model, node, norm, tensor, unchanged

from bnfold import protobuf
from bnfold.errors import BnfoldError, InputError
from bnfold.onnx.document import OnnxDocument

SHARED = Path(__file__).parents[3] / "shared"


def value(data: bytes, name: str = "t") -> Any:
    return OnnxDocument.from_bytes(data).scopes[0].values[name]


def with_tensor(stored: onnx.TensorProto) -> bytes:
    return model([node("Relu", "x", "y")], [stored]).SerializeToString()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.INT64, np.int64),
        (TensorProto.INT32, np.int32),
        (TensorProto.INT8, np.int8),
        (TensorProto.UINT64, np.uint64),
        (TensorProto.BOOL, np.bool_),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_all_types_are_read_from_typed_and_raw_data(kind: int, dtype: Any, raw: bool) -> None:
    numbers = [0, 1] if dtype is np.bool_ else [0, 1, 100, 127] if kind == TensorProto.UINT64 else [0, 1, 100, -127]
    array = np.array(numbers).astype(dtype)
    stored = helper.make_tensor("t", kind, [len(numbers)], array.tobytes() if raw else array, raw=raw)
    found = value(with_tensor(stored)).tensor
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found.load(), array)


def test_a_tensor_of_raw_data_is_a_view_of_the_file() -> None:
    assert not value(with_tensor(tensor("t", 3, 4))).tensor.load().flags.owndata


def test_unpacked_floats_are_read() -> None:
    packed = helper.make_tensor("t", TensorProto.FLOAT, [2], [1.5, 2.5]).SerializeToString()
    loose = packed.replace(b"\x22\x08" + np.float32([1.5, 2.5]).tobytes(), b"")
    loose += b"\x25" + np.float32(1.5).tobytes() + b"\x25" + np.float32(2.5).tobytes()
    np.testing.assert_array_equal(value(with_tensor(TensorProto.FromString(loose))).tensor.load(), [1.5, 2.5])


def test_a_sparse_initializer_is_the_dense_constant_that_it_stands_for() -> None:
    values = helper.make_tensor("t", TensorProto.FLOAT, [2], [5.0, 7.0])
    flat = helper.make_tensor("", TensorProto.INT64, [2], [1, 5])
    pairs = helper.make_tensor("", TensorProto.INT64, [2, 2], [0, 1, 1, 2])
    for indices in (flat, pairs):
        sparse = helper.make_sparse_tensor(values, indices, [2, 3])
        proto = model([node("Relu", "x", "y")], sparse_initializer=[sparse])
        np.testing.assert_array_equal(value(proto.SerializeToString()).tensor.load(), [[0, 5, 0], [0, 0, 7]])


def test_types_that_no_fold_touches_are_left_alone() -> None:
    stored = helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b"b"])
    data = with_tensor(stored)
    assert value(data).tensor is None
    assert unchanged(data) == data


@pytest.mark.parametrize(("dims", "size"), [((2, 3), 20), ((2, -3), 24), ((1 << 40, 1 << 40), 24), ((), 0), ((0,), 4)])
def test_extents_that_do_not_fit_the_data_are_refused(dims: tuple[int, ...], size: int) -> None:
    stored = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(size))
    with pytest.raises(InputError, match="'t'"):
        value(with_tensor(stored))


def test_data_in_two_forms_is_refused() -> None:
    stored = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4), float_data=[1.0])
    with pytest.raises(InputError, match="form"):
        value(with_tensor(stored))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no graph"),
        (b"name: 'net'\nlayer { type: 'Convolution' }\n", "not a readable ONNX model"),
        (b"\x0a\x03net\xa2\x06\x02\x0a\x00", "ONNX model"),
        (b"\x08\x08\x3a\x00", "standard|graph|output"),
        (bytes(range(256)), "not a readable ONNX model"),
    ],
)
def test_what_is_no_model_is_refused_with_a_hint(data: bytes, told: str) -> None:
    if data == b"\x08\x08\x3a\x00":
        assert unchanged(data) == data
        return
    with pytest.raises(InputError, match=told):
        OnnxDocument.from_bytes(data)


def broken() -> dict[str, onnx.ModelProto]:
    relu, weight = node("Relu", "x", "y"), tensor("W", 3, 2, 3, 3)
    return {
        "reads 'r', which nothing defines": model([node("Relu", "r", "y")]),
        "made from the node's own output": model([node("Relu", "y", "r"), node("Relu", "r", "y")]),
        "'y' is given to two values": model([relu, node("Tanh", "x", "y")]),
        "'W' is given to two values": model([relu], [weight, weight]),
        "the output 'y' is computed by no node": model([node("Relu", "x", "z")]),
        "needs 2": model([node("Conv", "x", "y")]),
        "needs 5": model([node("BatchNormalization", "x W W W", "y")], [tensor("W", 2)]),
        "attribute 'pads' of the wrong type": model([node("Conv", "x W", "y", pads="all")], [weight]),
        "attribute 'alpha' of the wrong type": model([node("Gemm", "x W", "y", alpha="one")], [weight]),
        "does not import the standard": helper.make_model(
            conv_bn().graph, opset_imports=[helper.make_opsetid("my", 1)]
        ),
    }


@pytest.mark.parametrize("told", broken())
def test_models_that_contradict_themselves_are_refused(told: str) -> None:
    with pytest.raises(InputError, match=told):
        OnnxDocument.from_bytes(broken()[told].SerializeToString())


def test_an_extent_that_has_a_denotation_is_known() -> None:
    proto = conv_bn()
    for number, dim in enumerate(proto.graph.input[0].type.tensor_type.shape.dim):
        dim.denotation = f"AXIS_{number}"
    expected = OnnxDocument.from_bytes(conv_bn().SerializeToString()).graphs()[0].inputs[0].shape
    assert expected is not None
    assert None not in expected
    assert OnnxDocument.from_bytes(proto.SerializeToString()).graphs()[0].inputs[0].shape == expected


def test_an_attribute_of_a_type_that_is_not_known_yet_is_left_alone() -> None:
    attribute = protobuf.string(1, "later") + protobuf.integer(99, 1) + protobuf.integer(20, 77)
    nodes = protobuf.delimited(1, protobuf.string(4, "Custom") + protobuf.delimited(5, attribute))
    data = protobuf.integer(1, 8) + protobuf.delimited(7, nodes) + protobuf.delimited(8, protobuf.integer(2, 17))
    assert unchanged(data) == data


def test_a_second_graph_is_refused() -> None:
    data = conv_bn().SerializeToString()
    with pytest.raises(InputError, match="a second graph begins at byte"):
        OnnxDocument.from_bytes(data + protobuf.delimited(7, b""))


def test_graphs_nested_without_end_are_refused() -> None:
    graph = b""
    for _ in range(5000):
        attribute = protobuf.delimited(5, protobuf.delimited(6, graph) + protobuf.integer(20, 5))
        graph = protobuf.delimited(1, protobuf.string(4, "Custom") + attribute)
    with pytest.raises(InputError, match="nested deeper"):
        OnnxDocument.from_bytes(protobuf.integer(1, 8) + protobuf.delimited(7, graph))


def several() -> list[onnx.ModelProto]:
    """Models that between them use all that is read."""
    inner = helper.make_graph(
        [node("Conv", "x W", "b"), node("Relu", "b", "o")], "body", [], [helper.make_empty_tensor_value_info("o")]
    )
    branches = node("If", "c", "y", then_branch=inner, else_branch=inner)
    flag = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    block = helper.make_function("my", "Block", ["a"], ["o"], [node("Relu", "a", "o")], [helper.make_opsetid("", 17)])
    called = node("Block", "x", "y", domain="my")
    typed = helper.make_tensor("W", TensorProto.FLOAT, [3, 2, 1, 1], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    return [
        conv_bn(),
        model([branches], [tensor("W", 3, 2, 1, 1)], inputs=[X, flag]),
        model([called], functions=[block], domains=["my"]),
        model([node("Conv", "x W", "c"), batch_norm("c", "bn", "y")], [typed, *norm("bn", 3)]),
        model(
            [
                node("Constant", "", "k", value_floats=[1.0, 2.0]),
                node("Constant", "", "t", value=tensor("", 3)),
                node("Relu", "x", "y"),
            ]
        ),
    ]


@pytest.mark.parametrize("number", range(5))
def test_what_no_plan_changes_is_written_to_the_byte(number: int) -> None:
    data = several()[number].SerializeToString() + b"\xba\x3e\x03abc"  # a field that ONNX does not have
    assert unchanged(data) == data


@pytest.mark.skipif(not SHARED.is_dir(), reason="no corpus of models beside the project")
def test_a_corpus_is_written_to_the_byte() -> None:
    """A damaged model, and one that onnx's checker does not accept, may be refused instead."""
    for path in [*SHARED.glob("onnx-cases/*/model.onnx"), *SHARED.glob("models/onnx/*.onnx")]:
        data = path.read_bytes()
        try:
            assert unchanged(data) == data, path
        except InputError:
            if not path.parent.name.startswith("broken_"):
                with pytest.raises(onnx.checker.ValidationError):
                    onnx.checker.check_model(path)


def test_damaged_models_are_refused_or_read_and_nothing_else() -> None:
    rng = random.Random(7)
    bases = [proto.SerializeToString() for proto in several()]
    read = 0
    for _ in range(3000):
        data = bytearray(rng.choice(bases))
        for _ in range(rng.choice([1, 1, 2, 5])):
            at, cut = rng.randrange(len(data)), rng.randrange(1, 9)
            if rng.random() < 0.5:
                data[at] = rng.choice([0, 1, 2, 8, 16, 127, 128, 255, data[at] ^ 1 << rng.randrange(8)])
            else:
                data[at : at + rng.choice([0, cut])] = rng.randbytes(rng.choice([0, cut]))
        try:
            assert unchanged(bytes(data)) == data
            read += 1
        except BnfoldError:
            pass
    assert 300 < read < 2700


def test_an_operator_with_more_outputs_than_it_has_stays() -> None:
    nodes = [node("Conv", "x W", "c"), node("Mul", "c k", "m more"), node("Relu", "m", "r"), node("Tanh", "more", "t")]
    proto = model([*nodes, node("Add", "r t", "y")], [tensor("W", 3, 2, 3, 3), tensor("k", 3, 1, 1)])
    assert fold_bytes(proto.SerializeToString()) == proto.SerializeToString()
