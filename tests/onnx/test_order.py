"""Models whose nodes stand in another order than one in which they can run; onnxruntime takes the main graph so."""

from __future__ import annotations

import io
import itertools
import random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx_models import X, batch_norm, conv_bn, fold_bytes, model, node, norm, ops, run, same, tensor, unchanged

from bnfold.errors import InputError
from bnfold.onnx.document import OnnxDocument

FLAG = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])


def folded(source: onnx.ModelProto, like: onnx.ModelProto) -> onnx.ModelProto:
    """The folded model, which is sorted though `source` is not, and computes the same as `like`."""
    result = onnx.load_model_from_string(fold_bytes(source.SerializeToString()))
    onnx.checker.check_model(result)
    assert fold_bytes(result.SerializeToString()) == result.SerializeToString()
    same(like, result)
    return result


def shuffled(source: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """With the nodes of all graphs and functions in a random order."""

    def shuffle(holder: Any) -> None:
        nodes = list(holder.node)
        rng.shuffle(nodes)
        for stored in nodes:
            for attribute in stored.attribute:
                if attribute.HasField("g"):
                    shuffle(attribute.g)
        del holder.node[:]
        holder.node.extend(nodes)

    result = onnx.ModelProto()
    result.CopyFrom(source)
    shuffle(result.graph)
    for function in result.functions:
        shuffle(function)
    return result


def body(*nodes: onnx.NodeProto, output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [], [helper.make_empty_tensor_value_info(output)])


def deep() -> onnx.ModelProto:
    """Folds in the main graph, in a body and in a function; a body inside of a body reads what the main graph makes."""
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in (tensor("V", 2, 2, 1, 1), *norm("f", 2))]
    inside = [*constants, node("Conv", "a V", "c"), batch_norm("c", "f", "o")]
    block = helper.make_function("my", "Block", ["a"], ["o"], inside, [helper.make_opsetid("", 17)])
    branches = body(node("Relu", "r", "k"), output="k"), body(node("Neg", "e", "q"), output="q")
    inner = node("If", "flag", "j", then_branch=branches[0], else_branch=branches[1])
    outer = body(inner, node("Conv", "j U", "t"), batch_norm("t", "b", "u"), node("Tanh", "u", "v"), output="v")
    nodes = [node("Conv", "x W", "c"), batch_norm("c", "n", "d"), node("Relu", "d", "r"), node("Abs", "r", "e")]
    nodes += [node("Block", "r", "g", domain="my"), node("If", "flag", "h", then_branch=outer, else_branch=outer)]
    nodes.append(node("Add", "g h", "y"))
    stored = [tensor("W", 2, 2, 1, 1), tensor("U", 2, 2, 1, 1), *norm("n", 2), *norm("b", 2)]
    return model(nodes, stored, [X, FLAG], functions=[block], domains=["my"])


@pytest.mark.parametrize("seed", range(8))
def test_nodes_in_any_order_fold_as_those_that_are_sorted(seed: int) -> None:
    result = folded(shuffled(deep(), random.Random(seed)), deep())
    assert sorted(ops(result)) == ["Abs", "Add", "Block", "Conv", "If", "Relu"]
    assert sorted(n.op_type for n in result.functions[0].node) == ["Constant", "Constant", "Conv"]
    branches = next(n for n in result.graph.node if n.op_type == "If").attribute
    assert [[n.op_type for n in branch.g.node] for branch in branches] == [["If", "Conv", "Tanh"]] * 2


def test_a_node_stands_as_early_as_its_producers_allow_and_else_where_it_stood() -> None:
    nodes = [node("Relu", "c", "r"), node("Tanh", "x", "t"), batch_norm("k", "n", "c"), node("Abs", "t", "z")]
    nodes += [node("Conv", "x W", "k"), node("Concat", "r z", "y", axis=1)]
    source = model(nodes, [tensor("W", 2, 2, 1, 1), *norm("n", 2)])
    result = folded(source, source)
    assert ops(result) == ["Tanh", "Abs", "Conv", "Relu", "Concat"]


def test_fields_that_are_no_nodes_stay_where_they_are() -> None:
    """The nodes change places with each other only: what stands between them stays between them."""
    proto = conv_bn()
    proto.graph.node.insert(0, node("Abs", "n", "z"))
    proto.graph.doc_string = "between"
    data = proto.graph.SerializeToString()
    first = len(onnx.GraphProto(node=proto.graph.node[:1]).SerializeToString())
    doc = onnx.GraphProto(doc_string="also between").SerializeToString()
    head = onnx.ModelProto(ir_version=8, opset_import=proto.opset_import).SerializeToString()
    graph = data[:first] + doc + data[first:]
    source = head + b"\x3a" + bytes([len(graph) & 127 | 128, len(graph) >> 7]) + graph
    written = fold_bytes(source)
    assert 0 <= written.index(b"also between") < written.index(b"n_y")
    assert written.index(b"\x0a\x01x\x0a\x01W") < written.index(b"also between")
    assert ops(onnx.load_model_from_string(written)) == ["Conv", "Abs", "Relu"]


def test_where_nothing_folds_the_order_stays() -> None:
    data = model([node("Relu", "r", "y"), node("Tanh", "x", "r")]).SerializeToString()
    assert unchanged(data) == fold_bytes(data) == data


def test_the_model_for_the_verifier_is_sorted() -> None:
    source = shuffled(deep(), random.Random(1))
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(source)
    stream = io.BytesIO()
    OnnxDocument.from_bytes(source.SerializeToString()).runnable([]).model.write(stream)
    runnable = onnx.load_model_from_string(stream.getvalue())
    onnx.checker.check_model(runnable)
    feeds = {"x": np.ones((1, 2, 5, 5), np.float32), "flag": np.array(True)}
    for one, other in zip(ReferenceEvaluator(runnable).run(None, feeds), run(runnable, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_long_chain_backwards() -> None:
    """No recursion, and no more than linear work."""
    names = ["x", *(f"v{i}" for i in range(20_000)), "y"]
    nodes = [node("Relu", one, other) for one, other in itertools.pairwise(names)]
    document = OnnxDocument.from_bytes(model(nodes[::-1]).SerializeToString())
    assert [n.name for n in document.scopes[0].graph.nodes] == [n.name for n in nodes]


def reads_itself() -> onnx.ModelProto:
    return model([node("Add", "x y", "y")])


def ring() -> onnx.ModelProto:
    return model(
        [node("Relu", "b", "y"), node("Add", "x b", "a", name="guilty"), node("Relu", "a", "b", name="guilty")]
    )


def ring_through_a_body() -> onnx.ModelProto:
    branch = body(node("Relu", "y", "o"), output="o")
    held = node("If", "flag", "z", then_branch=branch, else_branch=branch, name="guilty")
    return model([held, node("Add", "x z", "y", name="guilty")], inputs=[X, FLAG])


CYCLES = [(reads_itself, "n_y.*'y'"), (ring, "guilty"), (ring_through_a_body, "guilty")]


@pytest.mark.parametrize(("make", "told"), CYCLES)
def test_a_cycle_is_refused_and_names_a_node_of_it(make: Any, told: str) -> None:
    with pytest.raises(InputError, match=rf"{told}.*made from the node's own output"):
        OnnxDocument.from_bytes(make().SerializeToString())


def test_a_name_that_nothing_defines_is_refused_in_bodies_too() -> None:
    branch = body(node("Relu", "nowhere", "o", name="guilty"), output="o")
    held = node("If", "flag", "y", then_branch=branch, else_branch=branch)
    with pytest.raises(InputError, match=r"guilty.*'nowhere', which nothing defines"):
        OnnxDocument.from_bytes(model([held], inputs=[X, FLAG]).SerializeToString())


@pytest.mark.parametrize("outside", ["Tanh", ""])
def test_a_body_that_reads_a_name_before_it_makes_it_must_not_find_it_outside(outside: str) -> None:
    """Else nobody could tell which of the two values it reads."""
    branch = body(node("Relu", "r", "o"), node("Abs", "x", "r", name="own"), output="o")
    held = node("If", "flag", "y", then_branch=branch, else_branch=branch)
    source = model([held, *([node(outside, "x", "r")] if outside else [])], inputs=[X, FLAG]).SerializeToString()
    if outside:
        with pytest.raises(InputError, match="'r' is given to two values"):
            OnnxDocument.from_bytes(source)
    else:
        assert [n.op for n in OnnxDocument.from_bytes(source).graphs()[1].nodes] == ["Abs", "Relu"]
