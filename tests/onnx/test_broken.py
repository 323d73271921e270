"""Broken ONNX models by the hundred: folding one ends well, or in an error told for people."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from mutants import FLOATS, changed, integer, refused, seeds
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx_models import constants, fold, fold_bytes, model, node, ops, same, tensor

from bnfold.errors import InputError
from bnfold.onnx.document import OnnxDocument
from bnfold.planner.passes import plan

INTS = (AttributeProto.INT, AttributeProto.INTS)
Constants = dict[str, Any]


def sandwich(middle: list[onnx.NodeProto], constants: Constants, channels: int, **how: Any) -> onnx.ModelProto:
    """x (1, 4, 6, 6) → Conv → Mul → what makes `m` of `a` → Add → BatchNormalization → Conv.

    `channels` is that of m; where it has no channel axis and this is 0, a Div and an Add stand behind it.
    """
    stored = [tensor("W", 4, 4, 3, 3), tensor("mul", 1, 4, 1, 1)]
    stored += [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes = [node("Conv", "x W", "c", pads=[1, 1, 1, 1], kernel_shape=[3, 3]), node("Mul", "c mul", "a"), *middle]
    if channels:
        stored += [tensor("add", 1, channels, 1, 1), tensor("V", 2, channels, 1, 1)]
        stored += [tensor(name, channels) for name in ("g", "b", "mean", "var")]
        nodes += [
            node("Add", "m add", "s"),
            node("BatchNormalization", "s g b mean var", "n"),
            node("Conv", "n V", "y"),
        ]
    else:
        stored += [tensor("add"), tensor("div")]
        nodes += [node("Div", "m div", "s"), node("Add", "s add", "y")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return model(nodes, stored, [x], [y], **how)


def one(op: str, channels: int, constants: Constants | None = None, **attributes: Any) -> onnx.ModelProto:
    """A sandwich of one node that reads `a` and the constants."""
    opset = attributes.pop("opset", 17)
    names = list(constants or {})
    stored = {name: value for name, value in (constants or {}).items() if value is not None}
    inputs = " ".join(["a", *("_" if (constants or {})[name] is None else name for name in names)])
    return sandwich([node(op, inputs, "m", **attributes)], stored, channels, opset=opset)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


F = np.float32
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{op: lambda op=op: one(op, 4) for op in ("Relu", "LeakyRelu", "Abs", "Identity", "Dropout", "Sigmoid", "Neg",
                                                "GlobalAveragePool", "GlobalMaxPool", "Softmax")},
    "PRelu": lambda: one("PRelu", 4, {"slope": np.ones((4, 1, 1), F)}),
    "MaxPool": lambda: one("MaxPool", 4, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    "AveragePool": lambda: one("AveragePool", 4, kernel_shape=[2, 2], count_include_pad=1, auto_pad="SAME_UPPER"),
    "AveragePool 22": lambda: one("AveragePool", 4, kernel_shape=[2, 2], dilations=[2, 2], opset=19),
    "Conv": lambda: one("Conv", 6, {"w": np.ones((6, 2, 3, 3), F), "bias": np.ones(6, F)}, group=2, strides=[2, 2],
                        dilations=[1, 1], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
    "ConvTranspose": lambda: one("ConvTranspose", 6, {"w": np.ones((4, 3, 2, 2), F)}, group=2, strides=[2, 2],
                                 output_padding=[1, 1]),
    "ConvTranspose asked": lambda: one("ConvTranspose", 4, {"w": np.ones((4, 4, 2, 2), F)}, output_shape=[7, 7]),
    "Gemm": lambda: sandwich(
        [node("Flatten", "a", "f", axis=1), node("Gemm", "f w bias", "m", transB=1, alpha=0.5)],
        {"w": np.ones((5, 144), F), "bias": np.ones(5, F)}, 0,
    ),
    "MatMul": lambda: one("MatMul", 4, {"w": np.ones((6, 3), F)}),
    "Reshape": lambda: one("Reshape", 2, {"shape": ints(0, 2, -1, 6)}),
    "Flatten": lambda: one("Flatten", 0, axis=2),
    "Transpose": lambda: one("Transpose", 6, perm=[0, 2, 1, 3]),
    "Squeeze": lambda: one("Squeeze", 0, {"axes": ints(0)}),
    "Squeeze 11": lambda: one("Squeeze", 0, axes=[0], opset=11),
    "Unsqueeze": lambda: sandwich(
        [node("Unsqueeze", "a axes", "u"), node("Squeeze", "u axes", "m")], {"axes": ints(-1, 1)}, 4),
    "Reduce": lambda: one("ReduceMean", 4, axes=[2, -1], keepdims=1),
    "ReduceMax": lambda: one("ReduceMax", 0, axes=[1, 2, 3], keepdims=0),
    "ReduceSum": lambda: one("ReduceSum", 0, {"axes": ints(0, 1, 2, 3)}, keepdims=0),
    "ReduceMin": lambda: one("ReduceMin", 4, {"axes": ints(2)}, noop_with_empty_axes=0, opset=18),
    "Concat": lambda: sandwich(
        [node("Relu", "a", "r"), node("Concat", "a r k", "m", axis=1)], {"k": np.ones((1, 2, 6, 6), F)}, 10),
    "Split": lambda: sandwich(
        [node("Split", "a parts", "p q", axis=1), node("Relu", "q", "r"), node("Concat", "r p", "m", axis=1)],
        {"parts": ints(1, 3)}, 4),
    "Slice": lambda: one("Slice", 2, {"starts": ints(3, 0), "ends": ints(-9, 4), "axes": ints(1, -1),
                                       "steps": ints(-2, 1)}),
    "Slice 9": lambda: one("Slice", 2, starts=[1], ends=[3], axes=[1], opset=9),
    "Gather": lambda: one("Gather", 3, {"at": ints(2, 0, -1)}, axis=1),
    "Gather scalar": lambda: one("Gather", 0, {"at": np.array(1)}, axis=1),
    "Gather to a scalar": lambda: sandwich(
        [node("Shape", "x", "dims"), node("Gather", "dims at", "number", axis=0), node("Cast", "number", "m", to=1)],
        {"at": np.array(1)}, 0),
    "Pad": lambda: one("Pad", 4, {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "fill": np.array(0, F)}, mode="constant"),
    "Pad 18": lambda: one("Pad", 4, {"pads": ints(1, -1), "fill": None, "axes": ints(2)}, mode="edge", opset=19),
    "Resize": lambda: one("Resize", 4, {"roi": None, "scales": np.array([1, 1, 2, 2], F)}, mode="linear"),
    "Resize to sizes": lambda: one("Resize", 4, {"roi": None, "scales": None, "sizes": ints(9, 9)}, axes=[2, 3],
                                   opset=18),
    "Upsample": lambda: one("Upsample", 4, {"scales": np.array([1, 1, 2, 2], F)}, opset=9),
    "Expand": lambda: one("Expand", 4, {"shape": ints(3, 1, 1, 6)}),
    "Tile": lambda: one("Tile", 4, {"times": ints(1, 1, 2, 1)}),
    "DepthToSpace": lambda: one("DepthToSpace", 1, blocksize=2, mode="CRD"),
    "SpaceToDepth": lambda: one("SpaceToDepth", 16, blocksize=2),
    **{op: lambda op=op: sandwich([node("Relu", "a", "r"), node(op, "a r", "m")], {}, 4)
       for op in ("Add", "Sum", "Mean", "Max", "Min", "Sub", "Mul", "Div")},
    "Mul by a constant": lambda: one("Mul", 4, {"k": np.full((6, 6), 2, F)}),
    "Div by a constant": lambda: one("Div", 4, {"k": np.full((1, 1, 6), 2, F)}),
    "Add 6": lambda: one("Add", 4, {"k": np.ones(4, F)}, axis=1, broadcast=1, opset=6),
    "constants": lambda: sandwich(
        [node("ConstantOfShape", "shape", "k", value=tensor("fill", 1)), node("Expand", "k wide", "e"),
         node("Tile", "e times", "t"), node("Slice", "t from to axis", "l"), node("Concat", "l l", "o", axis=1),
         node("Transpose", "o", "v", perm=[1, 0]), node("Gather", "v rows", "h", axis=0), node("Reshape", "h r", "w"),
         node("Pow", "w w", "p"), node("Sub", "p w", "u"), node("Mul", "a u", "m")],
        {"shape": ints(2, 1), "wide": ints(2, 3), "times": ints(1, 2), "from": ints(0), "to": ints(2), "axis": ints(1),
         "rows": ints(3, 0), "r": ints(1, 4, 1, 1)}, 4),
    "shape arithmetic": lambda: sandwich(
        [node("Shape", "a", "dims"), node("Gather", "dims i", "number", axis=0), node("Slice", "dims from to", "l"),
         node("Mul", "l l", "ll"), node("Div", "ll l", "q"), node("Unsqueeze", "number zero", "u"),
         node("Concat", "u q minus", "t", axis=0), node("Reshape", "a t", "m")],
        {"i": np.array(0), "from": ints(1), "to": ints(3), "zero": ints(0), "minus": ints(-1)}, 4),
    "others": lambda: sandwich(
        [node("TopK", "a k", "t i", axis=1), node("ArgMax", "a", "x1", axis=2, keepdims=1),
         node("OneHot", "x1 k on", "x2"),
         node("Einsum", "t t", "x3", equation="nchw,nkhw->nck"), node("LSTM", "seq lw lr", "x4", hidden_size=2),
         node("Range", "k0 k1 k2", "x5"), node("GatherND", "a nd", "x6"), node("LayerNormalization", "a ln", "x7"),
         node("Compress", "a pick", "x8", axis=1), node("Unique", "a", "x9", axis=1),
         node("RandomNormal", "", "x10", shape=[2]),
         node("GatherElements", "a x1", "x11"), node("MaxRoiPool", "a rois", "x12", pooled_shape=[2, 2]),
         node("MaxUnpool", "a x1", "x13", kernel_shape=[2, 2]), node("NonZero", "a", "x14"),
         node("Where", "no a a", "x15"),
         node("QuantizeLinear", "a q z", "x16"), node("DequantizeLinear", "x16 q z", "m")],
        {"k": ints(2), "on": np.ones(2, F), "seq": np.ones((3, 1, 2), F), "lw": np.ones((1, 8, 2), F),
         "lr": np.ones((1, 8, 2), F), "k0": np.array(1), "k1": np.array(9), "k2": np.array(2),
         "nd": np.zeros((1, 2), np.int64), "ln": np.ones(6, F), "pick": np.ones(4, bool), "no": np.zeros((6, 1), bool),
         "rois": np.ones((2, 5), F), "q": np.array(0.5, F),
         "z": np.array(3, np.uint8)}, 4),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ mutations


def attribute(rng: Random, proto: onnx.ModelProto) -> None:
    at = rng.choice([n for n in proto.graph.node if n.attribute] or proto.graph.node)
    if not at.attribute:
        return
    index = rng.randrange(len(at.attribute))
    old = at.attribute[index]
    name, value = old.name, helper.get_attribute_value(old)
    del at.attribute[index]
    how = rng.random()
    if how < 0.1 or old.type == AttributeProto.TENSOR:
        return
    if how < 0.15:
        value = rng.choice([3, [1, 2], 0.5, [0.5], "text", ["text"]])
    elif old.type == AttributeProto.INTS:
        value = changed(rng, list(value), integer)
    elif old.type == AttributeProto.FLOAT:
        value = rng.choice(FLOATS)
    elif old.type == AttributeProto.INT:
        value = integer(rng)
    else:
        value = rng.choice(["SAME_UPPER", "VALID", "nonsense", "CRD", "edge", "", "ij->ji"])
    kind = AttributeProto.INTS if value == [] else None
    at.attribute.append(helper.make_attribute(name, value, attr_type=kind))


NEW = "axis axes pads strides dilations group auto_pad keepdims kernel_shape perm split shape blocksize"


def new_attribute(rng: Random, proto: onnx.ModelProto) -> None:
    at = rng.choice(proto.graph.node)
    name = rng.choice([name for name in NEW.split() if name not in {a.name for a in at.attribute}])
    values: list[Any] = [integer(rng), [integer(rng) for _ in range(rng.randint(1, 4))], 1.0, "VALID"]
    at.attribute.append(helper.make_attribute(name, rng.choice(values)))


def constant(rng: Random, proto: onnx.ModelProto) -> None:
    index = rng.randrange(len(proto.graph.initializer))
    stored = proto.graph.initializer[index]
    array = numpy_helper.to_array(stored)
    how = rng.random()
    if how < 0.15:
        array = (
            np.nan_to_num(array)
            .clip(-100, 100)
            .astype(rng.choice([np.float32, np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_]))
        )
    elif array.dtype == np.int64 and how < 0.9:
        array = np.array(changed(rng, array.reshape(-1).tolist(), integer), np.int64)
    elif how < 0.6:
        shape = changed(rng, list(array.shape), lambda rng: rng.choice([0, 1, 2, 3, 4, 5, 6]))[:6]
        array = np.resize(array, shape) if array.size else np.ones(shape, array.dtype)
    elif array.dtype.kind == "f":
        array = np.full(array.shape, rng.choice(FLOATS), array.dtype)
    else:
        array = array.reshape(rng.choice([(1, -1), (-1,), (-1, 1)]))
    stored.CopyFrom(numpy_helper.from_array(array, stored.name))


def declared(rng: Random, proto: onnx.ModelProto) -> None:
    """The shape or type of an input, or of a value in between."""
    names = [output for n in proto.graph.node for output in n.output if output]
    inner = rng.random() < 0.5
    name = rng.choice(names) if inner else "x"
    dims: list[Any] = [1, 4, 6, 6]
    for _ in range(rng.randint(1, 2)):
        dims = changed(rng, dims, lambda rng: rng.choice([None, "batch", *(abs(integer(rng)) for _ in range(3))]))
    elem = TensorProto.FLOAT if rng.random() < 0.8 else rng.choice([TensorProto.INT64, TensorProto.DOUBLE, 8, 16, 99])
    info = helper.make_tensor_value_info(name, elem, dims if rng.random() < 0.9 else None)
    if inner:
        proto.graph.value_info.append(info)
    else:
        proto.graph.input[0].CopyFrom(info)


def wiring(rng: Random, proto: onnx.ModelProto) -> None:
    at = rng.choice(proto.graph.node)
    names = ["x", "", *(t.name for t in proto.graph.initializer), *(o for n in proto.graph.node for o in n.output)]
    how = rng.randrange(5)
    if how == 0 and at.input:
        del at.input[rng.randrange(len(at.input))]
    elif how == 1:
        at.input.append(rng.choice(names))
    elif how == 2:
        at.output.append(f"more{rng.random()}")
    elif at.input:
        at.input[rng.randrange(len(at.input))] = rng.choice(names)


def operator(rng: Random, proto: onnx.ModelProto) -> None:
    if rng.random() < 0.5:
        proto.opset_import[0].version = rng.choice([1, 5, 6, 7, 9, 11, 13, 18, 21])
    else:
        rng.choice(proto.graph.node).op_type = rng.choice([n.op_type for m in MADE.values() for n in m.graph.node])


MUTATIONS = [attribute, attribute, attribute, constant, constant, constant, declared, wiring, operator, new_attribute]
MADE = {name: make() for name, make in MODELS.items()}


def headless(proto: onnx.ModelProto) -> None:
    """Take the first Conv out, so that the Mul behind it cannot go up."""
    del proto.graph.node[0]
    proto.graph.node[0].input[0] = "x"


def mutant(rng: Random) -> onnx.ModelProto:
    proto = copy.deepcopy(MADE[rng.choice(list(MADE))])
    if rng.random() < 0.4:
        headless(proto)
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
        rng.choice(MUTATIONS)(rng, proto)
    return proto


# ---------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", MODELS)
def test_what_the_mutants_are_made_of_is_sound(name: str) -> None:
    onnx.shape_inference.infer_shapes(MADE[name], check_type=True, strict_mode=True, data_prop=True)
    document = OnnxDocument.from_bytes(MADE[name].SerializeToString())
    assert not [node for graph in document.graphs() for node in graph.nodes if node.contradiction]


def test_a_broken_model_is_folded_or_refused() -> None:
    count = sum(refused(lambda rng=rng: fold_bytes(mutant(rng).SerializeToString())) for rng in seeds())
    assert count  # else nothing was broken


def refusals(proto: onnx.ModelProto) -> set[str]:
    """The codes of what the plan refuses; the model is folded, too."""
    fold_bytes(proto.SerializeToString())
    document = OnnxDocument.from_bytes(proto.SerializeToString())
    made = [plan(graph, document.style) for graph in document.graphs()]
    found = [reason for each in made for decision in each.decisions for reason in decision.reasons]
    found += [stayed.reason for each in made for stayed in each.stayed]
    return {reason.code for reason in found}


BROKEN: dict[str, tuple[Constants, dict[str, Any]]] = {
    "Squeeze": ({"axes": ints(0, -4)}, {}),
    "Slice": ({"starts": ints(0, 0), "ends": ints(1)}, {}),
    "Gather": ({"at": ints(4)}, {"axis": 1}),
    "Conv": ({"w": np.ones((4, 3, 1, 1), F)}, {}),
    "ReduceMean": ({}, {"axes": [9]}),
    "Concat": ({}, {"axis": 7}),
    "AveragePool": ({}, {"kernel_shape": [2, 2], "strides": [0, 1]}),
    "Mul": ({"k": np.ones((5, 1), F)}, {}),
}


@pytest.mark.parametrize("op", BROKEN)
def test_nothing_goes_through_a_node_that_contradicts_itself(op: str) -> None:
    stored, attributes = BROKEN[op]
    proto = one(op, 4, stored, **attributes)
    headless(proto)
    assert "shape" in refusals(proto)
    assert ops(onnx.load_model_from_string(fold_bytes(proto.SerializeToString())))[:2] == ["Mul", op]


def test_a_scalar_out_of_a_gather_may_be_scaled() -> None:
    fold_bytes(MADE["Gather to a scalar"].SerializeToString())
    vector = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    scalar = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    nodes = [node("Mul", "x two", "a"), node("Gather", "a at", "m"), node("Mul", "m two", "y")]
    stored = [numpy_helper.from_array(np.array(2, F), "two"), numpy_helper.from_array(np.array(1), "at")]
    proto = model(nodes, stored, [vector], [scalar])
    same(proto, fold(proto))


def test_an_affine_over_made_up_extents_is_not_spelled_out() -> None:
    """Reshape would spell it out over 2⁴⁰ features, Concat fill the rest of the channels, Slice what it leaves away."""
    wide = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 1 << 20, 1 << 20])
    many = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 1 << 40, 6, 6])
    stored = [tensor("mul", 1, 4, 1, 1), tensor("W", 4, 4, 1, 1)]
    flat = [node("Conv", "x W", "c"), node("Reshape", "c shape", "r"), node("Mul", "r scalar", "m"),
            node("Reshape", "m back", "b"), node("Mul", "b mul", "y")]  # fmt: skip
    flat_constants = [numpy_helper.from_array(ints(1, -1), "shape"), tensor("scalar"),
                      numpy_helper.from_array(ints(1, 4, 1 << 20, 1 << 20), "back")]  # fmt: skip
    concat = [node("Conv", "x W", "c"), node("Mul", "c mul", "a"), node("Concat", "a z", "y", axis=1)]
    taken = [node("Slice", "z from to axes", "s"), node("Mul", "s mul", "a"), node("Relu", "a", "y")]
    slices = [numpy_helper.from_array(ints(*at), name) for name, at in (("from", [0]), ("to", [4]), ("axes", [1]))]
    for nodes, more, inputs in (
        (flat, flat_constants, [wide]),
        (concat, [], [wide, many]),
        (taken, slices, [many]),
    ):
        fold_bytes(model(nodes, [*stored, *more], inputs).SerializeToString())


def test_windows_beyond_counting_are_not_listed() -> None:
    wide = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 1 << 40, 1 << 40])
    nodes = [node("Mul", "x mul", "a"), node("MaxPool", "a", "m", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
             node("Conv", "m W", "y")]  # fmt: skip
    proto = model(nodes, [tensor("mul", 1, 4, 1, 1), tensor("W", 2, 4, 1, 1)], [wide])
    assert refusals(proto) == set()


def test_constants_that_do_not_fit_or_are_made_up_are_none() -> None:
    for nodes, shape in (
        ([node("Concat", "one two", "e", axis=0)], None),
        ([node("Add", "one two", "e")], None),
        ([node("Gather", "one at", "e")], None),
        ([node("ConstantOfShape", "huge", "e")], (1 << 13, 1 << 13)),
        ([node("ConstantOfShape", "empty", "e")], (1 << 62, 0)),
    ):
        arrays = {"one": np.ones((2, 3), F), "two": np.ones((2, 4, 1), F), "at": ints(2)}
        arrays |= {"huge": ints(1 << 13, 1 << 13), "empty": ints(1 << 62, 0)}
        stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        proto = model([*nodes, node("Identity", "x", "y")], stored)
        value = OnnxDocument.from_bytes(proto.SerializeToString()).scopes[0].values["e"]
        assert (value.tensor, value.shape) == (None, shape)


@pytest.mark.parametrize(
    ("proto", "what"),
    [
        (one("Identity", 4, {"more": np.ones(1, F)}), "has 2 inputs and needs 1"),
        (one("Mul", 4, {"k": np.ones(1, F), "more": np.ones(1, F)}), "has 3 inputs and needs 2"),
        (one("Transpose", 4, perm=[0.0, 1.0, 2.0, 3.0]), "'perm' of the wrong type"),
        (one("Squeeze", 4, axes=0, opset=11), "'axes' of the wrong type"),
        (one("Upsample", 4, scales=[1, 1, 2, 2], opset=7), "'scales' of the wrong type"),
        (one("TopK", 4, k=[3], opset=9), "'k' of the wrong type"),
    ],
)
def test_what_no_operator_has_is_refused(proto: onnx.ModelProto, what: str) -> None:
    with pytest.raises(InputError, match=what):
        OnnxDocument.from_bytes(proto.SerializeToString())


def test_a_bias_that_is_no_float_takes_no_shift() -> None:
    proto = one("Conv", 4, {"w": np.ones((4, 4, 1, 1), F), "bias": np.ones(4, bool)})
    found = onnx.load_model_from_string(fold_bytes(proto.SerializeToString()))
    assert constants(found)["bias"].dtype == np.bool_
