"""The graphs that the planner sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import X, Y, batch_norm, conv_bn, fold, model, node, norm, same, tensor

from bnfold.errors import UsageError
from bnfold.onnx.document import OnnxDocument
from bnfold.planner.passes import plan
from bnfold.planner.records import Style


def opened(proto: onnx.ModelProto, **how: Any) -> OnnxDocument:
    return OnnxDocument.from_bytes(proto.SerializeToString(), **how)


def branching(*nodes: onnx.NodeProto, output: str = "o", constants: Any = ()) -> onnx.NodeProto:
    """An If whose two branches are these nodes."""
    body = helper.make_graph(nodes, "body", [], [helper.make_empty_tensor_value_info(output)], constants)
    return node("If", "flag", "y", then_branch=body, else_branch=body)


FLAG = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])


def test_shapes_are_inferred_from_the_inputs_on() -> None:
    values = opened(conv_bn()).scopes[0].values
    assert values["c"].shape == values["n"].shape == (1, 3, 3, 3)
    assert values["y"].dtype == np.float32


def test_declared_shapes_count_where_nothing_is_inferred_and_only_there() -> None:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 7]) for name in ("k", "r")]
    nodes = [node("Custom", "x", "k", domain="my"), node("Relu", "x", "r"), node("Relu", "k", "y")]
    values = opened(model(nodes, value_info=infos, domains=["my"])).scopes[0].values
    assert values["k"].shape == values["y"].shape == (1, 7)
    assert values["r"].shape == (1, 2, 5, 5)


def test_a_captured_value_is_public_and_a_captured_constant_is_one() -> None:
    proto = model([node("Relu", "x", "r"), branching(node("Add", "r W", "o"))], [tensor("W", 2, 1, 1)], [X, FLAG])
    main, *bodies = opened(proto).scopes
    assert main.values["r"].public == "read inside a subgraph"
    assert not main.values["W"].public
    assert len(bodies) == 2
    for body in bodies:
        assert body.values["W"].tensor is main.values["W"].tensor
        assert body.values["r"].tensor is None
        assert body.values["r"].shape == (1, 2, 5, 5)


def test_captures_reach_through_several_graphs() -> None:
    inner = branching(node("Relu", "x", "i"), output="i")
    inner.output[0] = "o"
    main, *bodies = opened(model([branching(inner)], inputs=[X, FLAG])).scopes
    assert len(bodies) == 6
    assert main.values["x"].public == "read inside a subgraph"


def test_an_initializer_that_is_an_input_may_be_overridden_from_ir_4_on() -> None:
    weight = helper.make_tensor_value_info("W", TensorProto.FLOAT, [3, 2, 3, 3])
    proto = conv_bn(inputs=[X, weight])
    value = opened(proto).scopes[0].values["W"]
    assert value.tensor is None
    assert value.note is not None
    assert value.note[0] == "overridable"
    assert "--freeze" in value.note[1]
    assert opened(proto, freeze=True).scopes[0].values["W"].tensor is not None
    proto.ir_version = 3
    old = opened(proto)
    assert old.scopes[0].values["W"].tensor is not None
    assert [v.name for v in old.graphs()[0].inputs] == ["x"]


def test_a_model_local_function_is_a_graph_of_its_own_with_its_own_opset() -> None:
    body = [node("Relu", "a", "b"), node("LeakyRelu", "b", "o")]
    body[1].attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    block = helper.make_function("my", "Block", ["a"], ["o"], body, [helper.make_opsetid("", 11)], ["slope"])
    called = node("Block", "x", "y", domain="my", slope=0.5)
    main, inside = opened(model([called], functions=[block], domains=["my"])).graphs()
    assert [n.op for n in main.nodes] == ["function.my.Block"]
    assert [(n.op, n.version) for n in inside.nodes] == [("Relu", 11), ("opaque.LeakyRelu", 11)]


def test_nodes_over_constants_are_no_part_of_the_graph() -> None:
    nodes = [node("Constant", "", "k", value_float=2.0), node("Sqrt", "k", "s"), node("Mul", "x s", "y")]
    graph = opened(model(nodes)).graphs()[0]
    assert [n.op for n in graph.nodes] == ["Mul"]
    tensor_ = graph.nodes[0].constant(1)
    assert tensor_ is not None
    assert tensor_.load() == np.sqrt(np.float32(2))


def test_a_quantised_weight_is_no_constant_and_says_why() -> None:
    stored = [numpy_helper.from_array(np.ones((3, 2, 1, 1), np.int8), "q"), tensor("s")]
    nodes = [node("DequantizeLinear", "q s", "W"), node("Conv", "x W", "y")]
    value = opened(model(nodes, stored)).scopes[0].values["W"]
    assert value.tensor is None
    assert value.note is not None
    assert value.note[0] == "quantised"


def test_kept_names_are_public_and_unknown_ones_an_error() -> None:
    assert opened(conv_bn(), keep=["c"]).scopes[0].values["c"].public == "kept by the user"
    with pytest.raises(UsageError, match="'nope'"):
        opened(conv_bn(), keep=["nope"])


def test_operators_of_other_domains_bear_their_domain() -> None:
    proto = model(
        [node("Gelu", "x", "g", domain="com.microsoft"), node("Relu", "g", "y", domain="ai.onnx")],
        domains=["com.microsoft"],
    )
    assert [(n.op, n.version) for n in opened(proto).graphs()[0].nodes] == [("com.microsoft.Gelu", 1), ("Relu", 17)]


@pytest.mark.parametrize(("axis", "left"), [(1, ["Conv"]), (-3, ["Conv"]), (3, ["Conv", "Mul"]), (-1, ["Conv", "Mul"])])
def test_before_opset_7_an_axis_tells_where_a_constant_is_aligned(axis: int, left: list[str]) -> None:
    nodes = [node("Conv", "x W", "c"), node("Mul", "c k", "y", axis=axis, broadcast=1)]
    stored = [tensor("W", 3, 2, 3, 3), tensor("k", 3)]
    inputs = [X, *(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in stored)]
    assert [n.op_type for n in fold(model(nodes, stored, inputs, opset=6, ir_version=3)).graph.node] == left


def test_constants_that_are_aligned_by_an_axis_are_no_expression() -> None:
    nodes = [node("Add", "k v", "W", axis=0, broadcast=1), node("Conv", "x W", "y")]
    stored = [tensor("k", 3, 2, 3, 3), tensor("v", 3)]
    assert opened(model(nodes, stored, opset=6)).scopes[0].values["W"].tensor is None


def test_a_norm_whose_attribute_the_caller_of_its_function_gives_stays_with_that_reason() -> None:
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in (tensor("W", 3, 2, 3, 3), *norm("bn", 3))]
    body = [*constants, node("Conv", "a W", "c"), batch_norm("c", "bn", "o")]
    body[-1].attribute.add(name="epsilon", ref_attr_name="eps", type=onnx.AttributeProto.FLOAT)
    block = helper.make_function("my", "Block", ["a"], ["o"], body, [helper.make_opsetid("", 17)], ["eps"])
    called = [node("Block", "x", "y", domain="my", eps=0.5)]
    stayed = plan(opened(model(called, functions=[block], domains=["my"])).graphs()[1], Style(2)).stayed
    assert [(found.node, found.reason.code) for found in stayed] == [("bn", "reference")]


def test_counts_tell_operators_of_all_graphs_and_read_elements() -> None:
    proto = model([branching(batch_norm("x", "bn", "o"))], [*norm("bn", 2), tensor("unused", 9)], [X, FLAG], [Y])
    counts = opened(proto).counts()
    assert (counts["If"], counts["BatchNormalization"]) == (1, 2)
    assert counts["parameters"] == 8


def test_what_training_or_annotations_name_stays() -> None:
    proto = conv_bn()
    step = helper.make_graph([node("Identity", "n", "loss")], "step", [], [helper.make_empty_tensor_value_info("loss")])
    info = helper.make_training_info(step, [("W", "loss")], step, [])
    proto.training_info.append(info)
    proto.graph.quantization_annotation.add(tensor_name="c")
    values = opened(proto).scopes[0].values
    assert [values[name].public for name in ("n", "W", "c")] == [
        "used in training",
        "used in training",
        "named by a quantisation annotation",
    ]


@pytest.mark.parametrize("op", ["Loop", "Scan"])
def test_folds_inside_of_the_bodies_of_loops(op: str) -> None:
    """Two rounds of a Conv and its BatchNormalization, whose image is the state of the loop."""
    nodes = [node("Conv", "s W", "c"), batch_norm("c", "bn", "n")]
    if op == "Loop":
        state = [
            helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("go", 9, []), ("s", 1, [1, 2, 5, 5]))
        ]
        nodes.append(node("Identity", "go", "on"))
        results = [helper.make_tensor_value_info("on", 9, []), helper.make_tensor_value_info("n", 1, [1, 2, 5, 5])]
        outer = node("Loop", "rounds _ x", "y", body=helper.make_graph(nodes, "body", state, results))
    else:
        state = [helper.make_tensor_value_info(n, 1, s) for n, s in (("s", [1, 2, 5, 5]), ("i", [1]))]
        nodes.append(node("Identity", "i", "j"))
        results = [helper.make_tensor_value_info(n, 1, s) for n, s in (("n", [1, 2, 5, 5]), ("j", [1]))]
        body = helper.make_graph(nodes, "body", state, results)
        outer = node("Scan", "x turns", "y unused", body=body, num_scan_inputs=1)
    stored = [tensor("W", 2, 2, 1, 1), *norm("bn", 2), tensor("turns", 2, 1)]
    stored.append(numpy_helper.from_array(np.array(2), "rounds"))
    source = model([outer], stored)
    folded = fold(source)
    same(source, folded)
    assert [n.op_type for n in folded.graph.node[0].attribute[0].g.node] == ["Conv", "Identity"]
