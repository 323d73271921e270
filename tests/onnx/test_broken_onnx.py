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
from onnx_models import fold_bytes, model, node, tensor

from bnfold.onnx.document import OnnxDocument

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


def mutant(rng: Random) -> onnx.ModelProto:
    proto = copy.deepcopy(MADE[rng.choice(list(MADE))])
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
