"""Writing folded models: names, sharing, places and bytes, and that the function stays."""

from __future__ import annotations

import io
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import (
    MATRIX,
    X,
    Y,
    batch_norm,
    constants,
    conv_bn,
    fold,
    fold_bytes,
    model,
    node,
    norm,
    ops,
    run,
    same,
    tensor,
)

from bnfold.onnx.document import OnnxDocument
from bnfold.planner.passes import plan

FLAG = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])


def test_a_fold_keeps_the_weight_s_name_and_place_and_takes_its_own_away() -> None:
    source = conv_bn(doc_string="kept", producer_name="somebody")
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["Conv", "Relu"]
    assert folded.graph.node[0].output == ["n"]
    assert list(constants(folded)) == ["W", "W_bias"]
    assert (folded.doc_string, folded.producer_name) == ("kept", "somebody")


def test_untouched_parts_are_the_same_bytes() -> None:
    nodes = [node("Conv", "x W", "c"), batch_norm("c", "bn", "n"), node("Relu", "n", "r"), node("Mul", "r big", "y")]
    source = model(nodes, [tensor("W", 3, 2, 3, 3), *norm("bn", 3), tensor("big", 1, 3, 3, 3)])
    source.graph.node[2].doc_string = "a note"
    unknown = b"\xba\x3e\x03abc"
    folded = fold_bytes(source.SerializeToString() + unknown)
    for part in (source.graph.node[2], source.graph.node[3], source.graph.initializer[5], source.opset_import[0]):
        assert part.SerializeToString() in folded
    assert folded.endswith(unknown)


def test_an_added_bias_is_named_after_its_weight_and_never_collides() -> None:
    nodes = [node("Conv", "x l.weight", "c"), batch_norm("c", "bn", "n"), node("Concat", "n l.bias", "y", axis=1)]
    source = model(nodes, [tensor("l.weight", 3, 2, 3, 3), tensor("l.bias", 1, 3, 3, 3), *norm("bn", 3)])
    folded = fold(source)
    same(source, folded)
    assert set(constants(folded)) == {"l.weight", "l.bias", "l.bias_1"}


def two_convs(second: str, *more: onnx.NodeProto) -> onnx.ModelProto:
    nodes = [node("Conv", "x W B", "c"), batch_norm("c", "bn", "n"), node("Relu", "x", "r"), node("Conv", "r W B", "d")]
    nodes += [*more, node("Concat", f"n {second}", "y", axis=1)]
    return model(nodes, [tensor("W", 3, 2, 3, 3), tensor("B", 3), *norm("bn", 3), *norm("other", 3)])


def test_a_shared_weight_is_copied_where_its_readers_differ() -> None:
    source = two_convs("d")
    folded = fold(source)
    same(source, folded)
    assert set(constants(folded)) == {"W", "B", "W_folded", "B_folded", "other.g", "other.b", "other.m", "other.v"}
    np.testing.assert_array_equal(constants(folded)["W"], constants(source)["W"])
    assert [list(n.input[1:]) for n in folded.graph.node if n.op_type == "Conv"] == [
        ["W_folded", "B_folded"],
        ["W", "B"],
    ]


def test_a_shared_weight_stays_shared_where_its_readers_agree() -> None:
    twin = batch_norm("d", "bn", "m")
    twin.name = "twin"
    source = two_convs("m", twin)
    folded = fold(source)
    same(source, folded)
    assert set(constants(folded)) == {"W", "B", "other.g", "other.b", "other.m", "other.v"}


def test_a_shared_weight_has_two_copies_where_both_readers_change_it() -> None:
    source = two_convs("m", batch_norm("d", "other", "m"))
    folded = fold(source)
    same(source, folded)
    assert set(constants(folded)) == {"W_folded", "B_folded", "W_folded_1", "B_folded_1"}


def test_a_weight_that_is_an_output_stays_what_it_was() -> None:
    outputs = [Y, helper.make_tensor_value_info("W", TensorProto.FLOAT, [3, 2, 3, 3])]
    source = conv_bn(outputs=outputs)
    same(source, fold(source))


def image(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list("nchw"))


def branch(*nodes: onnx.NodeProto, stored: Any = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [image(nodes[-1].output[0])], stored)


@pytest.mark.parametrize("flag", [True, False])
def test_folds_inside_of_branches_leave_captured_weights_to_their_other_readers(flag: bool) -> None:
    inside = [node("Conv", "x W", "ic"), batch_norm("ic", "bn", "io")]
    plain = [node("Conv", "x W", "po")]
    choice = node("If", "flag", "z", then_branch=branch(*inside), else_branch=branch(*plain))
    nodes = [choice, node("Conv", "x W", "c"), batch_norm("c", "other", "n"), node("Add", "n z", "y")]
    source = model(nodes, [tensor("W", 3, 2, 3, 3), *norm("bn", 3), *norm("other", 3)], [X, FLAG])
    folded = fold(source)
    same(source, folded, {"flag": np.array(flag)})
    assert ops(folded) == ["If", "Conv", "Add"]
    assert set(constants(folded)) == {"W", "W_folded", "W_bias", "W_folded_1", "W_bias_1"}


def test_a_captured_weight_that_only_one_branch_reads_changes_where_it_is() -> None:
    inside = [node("Conv", "x W", "ic"), batch_norm("ic", "bn", "io")]
    choice = node("If", "flag", "y", then_branch=branch(*inside), else_branch=branch(node("Relu", "x", "po")))
    source = model([choice], [tensor("W", 3, 2, 3, 3), *norm("bn", 3)], [X, FLAG])
    folded = fold(source)
    same(source, folded, {"flag": np.array(True)})
    assert set(constants(folded)) == {"W", "W_bias"}


def test_weights_in_constant_nodes_change_in_the_node() -> None:
    nodes = [node("Constant", "", "W", value=tensor("own", 3, 2, 1, 1)), node("Conv", "x W", "c")]
    source = model([*nodes, node("Constant", "", "k", value_float=2.0), node("Mul", "c k", "y")])
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["Constant", "Conv"]
    assert folded.graph.node[0].attribute[0].t.name == "own"
    assert not folded.graph.initializer


def test_weights_that_are_computed_become_initializers() -> None:
    nodes = [node("Transpose", "T", "W", perm=[3, 2, 0, 1]), node("Conv", "x W", "c"), node("Mul", "c k", "y")]
    source = model(nodes, [tensor("T", 1, 1, 2, 3), tensor("k", 3, 1, 1)])
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["Conv"]
    assert set(constants(folded)) == {"W"}


def test_functions_are_folded_for_all_their_callers_with_constant_nodes() -> None:
    body = [node("Constant", "", "W", value=tensor("", 2, 2, 1, 1)), node("Conv", "a W", "c")]
    body += [node("Constant", "", f"bn.{s}", value=tensor(s, 2)) for s in "gbmv"]
    block = helper.make_function(
        "my", "Block", ["a"], ["o"], [*body, batch_norm("c", "bn", "o")], [helper.make_opsetid("", 17)]
    )
    nodes = [node("Block", "x", "h", domain="my"), node("Block", "h", "y", domain="my")]
    source = model(nodes, functions=[block], domains=["my"])
    folded = fold(source)
    same(source, folded)
    assert sorted(n.op_type for n in folded.functions[0].node) == ["Constant", "Constant", "Conv"]


def test_before_ir_4_initializers_come_and_go_with_their_inputs() -> None:
    stored = [tensor("W", 3, 2, 3, 3), *norm("bn", 3)]
    inputs = [X, *(helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.dims) for t in stored)]
    source = model([node("Conv", "x W", "c"), batch_norm("c", "bn", "y")], stored, inputs, opset=9, ir_version=3)
    folded = fold(source)
    same(source, folded)
    assert [value.name for value in folded.graph.input] == ["x", "W", "W_bias"]


def test_before_ir_4_branches_get_constant_nodes() -> None:
    stored = [node("Constant", "", f"bn.{s}", value=tensor(s, 2)) for s in "gbmv"]
    inside = [*stored, node("Constant", "", "W", value=tensor("", 2, 2, 1, 1))]
    inside += [node("Conv", "x W", "c"), batch_norm("c", "bn", "o")]
    choice = node("If", "flag", "y", then_branch=branch(*inside), else_branch=branch(node("Relu", "x", "p")))
    source = model([choice], (), [X, FLAG], opset=9, ir_version=3)
    folded = fold(source)
    same(source, folded, {"flag": np.array(True)})
    chosen = next(a.g for a in folded.graph.node[0].attribute if a.name == "then_branch")
    assert [n.op_type for n in chosen.node] == ["Constant", "Constant", "Conv"]


def test_frozen_inputs_are_taken_away() -> None:
    source = conv_bn(inputs=[X, helper.make_tensor_value_info("W", TensorProto.FLOAT, [3, 2, 3, 3])])
    assert ops(fold(source)) == ["Conv", "BatchNormalization", "Relu"]
    folded = fold(source, freeze=True)
    assert ops(folded) == ["Conv", "Relu"]
    assert [value.name for value in folded.graph.input] == ["x"]
    same(source, folded)


@pytest.mark.parametrize("shape", [None, (), (1,), (3,), (1, 3), (2, 1), (2, 3)])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_gemm_with_all_shapes_of_its_bias(shape: tuple[int, ...] | None, beta: float) -> None:
    c = "" if shape is None else "C"
    nodes = [node("Gemm", f"x W {c}", "c", alpha=0.5, beta=beta, transB=1), batch_norm("c", "bn", "y")]
    stored = [tensor("W", 3, 4), *norm("bn", 3)] + ([] if shape is None else [tensor("C", *shape)])
    source = model(nodes, stored, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])], [MATRIX])
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["Gemm"]


@pytest.mark.parametrize("shape", [None, (), (1,), (5,), (1, 5), (3, 1), (3, 5)])
def test_gemm_with_its_weights_on_the_left(shape: tuple[int, ...] | None) -> None:
    c = "" if shape is None else "C"
    nodes = [node("Gemm", f"W x {c}", "c", beta=2.0), node("Mul", "c k", "d"), node("Add", "d k", "y")]
    stored = [tensor("W", 3, 4), tensor("k", 3, 1)] + ([] if shape is None else [tensor("C", *shape)])
    source = model(nodes, stored, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 5])], [MATRIX])
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["Gemm"]


def chain(*nodes: onnx.NodeProto, stored: Any, **how: Any) -> list[onnx.NodeProto]:
    """What is left of nodes from x to a that no linear operator takes."""
    source = model([*nodes, node("Sigmoid", "a", "y")], stored, **how)
    folded = fold(source)
    same(source, folded)
    return list(folded.graph.node[:-1])


def test_several_affines_become_one_batch_normalization_where_there_was_one() -> None:
    nodes = [batch_norm("x", "bn", "n"), node("Mul", "n k", "m"), node("Add", "k m", "a")]
    (left,) = chain(*nodes, stored=[*norm("bn", 2), tensor("k", 2, 1, 1)])
    assert (left.op_type, left.name, left.output) == ("BatchNormalization", "bn", ["a"])


def test_several_affines_become_mul_and_add_with_names_of_their_own() -> None:
    nodes = [node("Add", "x k", "plus"), node("Mul", "plus k", "times"), node("Sub", "times k", "less")]
    left = chain(*nodes, node("Div", "less half", "a"), stored=[tensor("k", 2, 1, 1), tensor("half")])
    assert [(n.op_type, n.name) for n in left] == [("Mul", "n_times"), ("Add", "n_plus")]


def test_a_multiplier_alone_is_one_mul() -> None:
    nodes = [node("Neg", "x", "p"), node("Div", "p k", "m"), node("Div", "m h", "a")]
    (left,) = chain(*nodes, stored=[tensor("k", 2, 1, 1), tensor("h")])
    assert (left.op_type, left.output) == ("Mul", ["a"])


def test_an_addition_that_stays_before_padding_is_one_add() -> None:
    nodes = [batch_norm("x", "bn", "n"), node("Conv", "n W", "a", pads=[1] * 4)]
    left = chain(*nodes, stored=[*norm("bn", 2), tensor("W", 3, 2, 3, 3)])
    assert [n.op_type for n in left] == ["Add", "Conv"]


def test_half_precision_stays_half_precision() -> None:
    half = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 2, 5, 5])
    stored = [tensor("W", 3, 2, 3, 3, dtype=np.float16), *norm("bn", 3)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT16, list("nchw"))
    source = model([node("Conv", "x W", "c"), batch_norm("c", "bn", "y")], stored, [half], [result])
    folded = fold(source)
    assert {array.dtype for array in constants(folded).values()} == {np.dtype(np.float16)}
    np.testing.assert_allclose(run(source)[0], run(folded)[0], rtol=3e-3, atol=3e-2)


def test_declared_shapes_of_names_that_go_go_too() -> None:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 3, 3]) for name in ("c", "n")]
    assert [info.name for info in fold(conv_bn(value_info=infos)).graph.value_info] == ["n"]


def test_kept_names_stay() -> None:
    assert ops(fold(conv_bn(), keep=["c"])) == ["Conv", "BatchNormalization", "Relu"]
    folded = fold(conv_bn(), keep=["W"])
    np.testing.assert_array_equal(constants(folded)["W"], constants(conv_bn())["W"])


def test_a_runnable_model_has_taps_and_nothing_that_stops_onnxruntime() -> None:
    nodes = [node("Conv", "x W", "c", name="same"), batch_norm("c", "bn", "n"), node("Relu", "n", "y", name="same")]
    nodes[1].output.extend(["", ""])
    source = model(nodes, [tensor("W", 3, 2, 3, 3), *norm("bn", 3)], opset=9)
    document = OnnxDocument.from_bytes(source.SerializeToString())
    runnable = document.runnable(["c", "nowhere", "c", "y"])
    assert (runnable.outputs, runnable.probes) == (["y", "c"], ["c", "y"])
    stream = io.BytesIO()
    runnable.model.write(stream)
    y, c = run(stream.getvalue())
    assert y.shape == c.shape == (1, 3, 3, 3)


def test_taps_name_what_the_folded_model_still_holds() -> None:
    document = OnnxDocument.from_bytes(conv_bn().SerializeToString())
    graph = document.graphs()[0]
    made, values = plan(graph, document.style), document.scopes[0].values
    assert [document.probe(values[name]) for name in ("c", "n", "W")] == ["c", "n", ""]
    assert [document.folded_probe(made, values[name]) for name in ("c", "n", "y")] == ["", "n", "y"]


def test_what_is_new_has_names_made_of_the_chains() -> None:
    """An Add may not pass for the Sub of its name; constants stay with what they are for."""
    nodes = [node("Sub", "x shift", "p"), node("Div", "p by", "m"), node("Sub", "by m", "a")]
    mul, add = chain(*nodes, stored=[tensor("shift", 2, 1, 1), tensor("by")])
    assert [(n.op_type, n.name) for n in (mul, add)] == [("Mul", "n_a_Mul"), ("Add", "n_a_Add")]
    assert (mul.input, mul.output) == (["x", "by"], ["a_scaled"])
    assert (add.input, add.output) == (["a_scaled", "shift"], ["a"])


def test_bfloat16_stays_bfloat16() -> None:
    def stored(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(numpy_helper.to_array(tensor(name, *shape)).astype(ml_dtypes.bfloat16), name)

    ends = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [1, 2, 5, 5]) for name in "xy"]
    nodes = [node("Conv", "x W", "c", kernel_shape=[1, 1]), node("Mul", "c k", "y")]
    source = model(nodes, [stored("W", 2, 2, 1, 1), stored("k", 2, 1, 1)], ends[:1], ends[1:], opset=22, ir_version=10)
    want = (constants(source)["W"].astype(float) * constants(source)["k"].astype(float)[:, None]).astype(
        ml_dtypes.bfloat16
    )
    found = constants(fold(source))
    assert list(found) == ["W"]
    np.testing.assert_array_equal(found["W"], want)


def test_what_a_branch_leaves_is_renamed_with_the_branches_inside() -> None:
    inside = [node("Conv", "x W", "c"), batch_norm("c", "bn", "o")]
    choice = node("If", "flag", "z", then_branch=branch(*inside), else_branch=branch(node("Conv", "x W", "p")))
    ones = numpy_helper.from_array(np.ones((3, 1, 1), np.float32), "ones")
    source = model([choice, node("Mul", "z ones", "y")], [tensor("W", 3, 2, 3, 3), ones, *norm("bn", 3)], [X, FLAG])
    source.graph.value_info.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3, 3, 3]))
    folded = fold(source)
    same(source, folded, {"flag": np.array(True)})
    assert ops(folded) == ["If"]


def test_affines_that_cancel_between_two_names_that_stay_become_an_identity() -> None:
    nodes = [node("Sub", "x k", "z"), node("Add", "z k", "y"), node("Add", "z h", "s"), node("Sigmoid", "s", "t")]
    source = model(nodes, [tensor("k", 2, 1, 1), tensor("h")], [X], [Y, image("t")])
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["Identity", "Add", "Sigmoid"]


def test_a_shared_bias_is_copied_where_it_takes_shifts_through_different_weights() -> None:
    nodes = [
        batch_norm("x", "bn", "n"),
        node("Conv", "n W B", "c"),
        node("Conv", "n V B", "d"),
        node("Add", "c d", "y"),
    ]
    source = model(nodes, [tensor("W", 3, 2, 1, 1), tensor("V", 3, 2, 1, 1), tensor("B", 3), *norm("bn", 2)])
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["Conv", "Conv", "Add"]
    assert set(constants(folded)) == {"W", "V", "B_folded", "B_folded_1"}


def test_a_shared_bias_stays_shared_where_its_shifts_do_not_depend_on_weights() -> None:
    nodes = [node("Conv", "x W B", "c"), batch_norm("c", "bn", "n"), node("Conv", "x V B", "d")]
    nodes += [batch_norm("d", "bn", "m"), node("Concat", "n m", "y", axis=1)]
    nodes[3].name = "twin"
    source = model(nodes, [tensor("W", 3, 2, 1, 1), tensor("V", 3, 2, 1, 1), tensor("B", 3), *norm("bn", 3)])
    folded = fold(source)
    same(source, folded)
    assert set(constants(folded)) == {"W", "V", "B"}
