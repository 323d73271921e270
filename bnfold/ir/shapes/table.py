"""Shape and dtype inference for ONNX's operators, opset 6 to 23: one table, operator -> rule.

A rule reads a node's inputs and returns the shapes of its outputs, as far as they are known. The operators are
described at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..element_types import FLOAT_CODE, DType, element_type
from ..graph import Contradiction, Node, Shape
from . import layout, made, matrix, spatial
from .check import sensible

Rule = Callable[[Node], Sequence[Shape | None]]
_BOOL, _INT64, _UINT8, _INT32, _FLOAT = (np.dtype(t) for t in (np.bool_, np.int64, np.uint8, np.int32, np.float32))

_UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh CumSum DequantizeLinear "
    "Elu Erf Exp EyeLike Floor Gelu HardSigmoid HardSwish Hardmax Identity IsInf IsNaN LeakyRelu Log LogSoftmax "
    "LpNormalization LRN MeanVarianceNormalization InstanceNormalization GroupNormalization RMSNormalization Mish Neg "
    "Not PRelu QuantizeLinear Reciprocal Relu ReverseSequence Round RotaryEmbedding Scatter ScatterElements ScatterND "
    "TensorScatter Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu "
    "Trilu Bernoulli RandomNormalLike RandomUniformLike Affine ImageScaler ParametricSoftplus ScaledTanh"
)
_BROADCAST = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min "
    "Mod Mul Or Pow Sub Sum Where Xor"
)
_REDUCE = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"

SHAPES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY.split(), layout.same_shape),
    **dict.fromkeys(_BROADCAST.split(), layout.elementwise_shape),
    **{f"Reduce{name}": matrix.reduction_shape for name in _REDUCE.split()},
    "ArgMax": matrix.extreme_shape,
    "ArgMin": matrix.extreme_shape,
    "AveragePool": spatial.pool_shape,
    "BatchNormalization": layout.batch_norm_shape,
    "Compress": made.compress_shape,
    "Concat": layout.concat_shape,
    "Constant": made.constant_shape,
    "ConstantOfShape": made.constant_of_shape_shape,
    "Conv": spatial.convolution_shape,
    "ConvInteger": spatial.convolution_shape,
    "ConvTranspose": spatial.transposed_shape,
    "DepthToSpace": spatial.depth_to_space_shape,
    "Dropout": layout.dropout_shape,
    "Einsum": matrix.einsum_shape,
    "Expand": layout.expand_shape,
    "Flatten": layout.flatten_shape,
    "GRU": matrix.recurrent_shape,
    "Gather": layout.gather_shape,
    "GatherElements": layout.indices_shape,
    "GatherND": layout.gather_nd_shape,
    "Gemm": matrix.gemm_shape,
    "GlobalAveragePool": spatial.global_pool_shape,
    "GlobalLpPool": spatial.global_pool_shape,
    "GlobalMaxPool": spatial.global_pool_shape,
    "LSTM": matrix.recurrent_shape,
    "LayerNormalization": layout.layer_norm_shape,
    "LpPool": spatial.pool_shape,
    "MatMul": matrix.matmul_shape,
    "MatMulInteger": matrix.matmul_shape,
    "MaxPool": spatial.pool_shape,
    "MaxRoiPool": spatial.roi_shape,
    "MaxUnpool": spatial.unpool_shape,
    "NonMaxSuppression": made.selected_boxes_shape,
    "NonZero": made.non_zero_shape,
    "OneHot": made.one_hot_shape,
    "Pad": spatial.pad_shape,
    "QLinearConv": spatial.convolution_shape,
    "QLinearMatMul": partial(matrix.matmul_shape, right=3),
    "RNN": matrix.recurrent_shape,
    "RandomNormal": made.random_shape,
    "RandomUniform": made.random_shape,
    "Range": made.range_shape,
    "Reshape": layout.reshape_shape,
    "Resize": spatial.resize_shape,
    "RoiAlign": spatial.roi_shape,
    "Shape": made.shape_shape,
    "Size": made.scalar_shape,
    "Slice": layout.slice_shape,
    "SpaceToDepth": spatial.space_to_depth_shape,
    "Split": layout.split_shape,
    "Squeeze": layout.squeeze_shape,
    "Tile": layout.tile_shape,
    "TopK": made.top_k_shape,
    "Transpose": layout.transpose_shape,
    "Unique": made.unique_shape,
    "Unsqueeze": layout.unsqueeze_shape,
    "Upsample": spatial.resize_shape,
}


def _first(node: Node) -> list[DType | None]:
    """All outputs have the type of the first input that is there."""
    return [next((v.dtype for v in node.inputs if v is not None), None)] * len(node.outputs)


def _input_type(index: int) -> Callable[[Node], list[DType | None]]:
    def rule(node: Node) -> list[DType | None]:
        value = node.input(index)
        return [None if value is None else value.dtype] * len(node.outputs)

    return rule


def _named(attribute: str, default: int | None) -> Callable[[Node], list[DType | None]]:
    """The type is an attribute; None as default stands for the type of the first input. Only real numbers are known."""

    def rule(node: Node) -> list[DType | None]:
        number = node.attribute(attribute, default)
        if number is None:
            return _first(node)
        dtype = element_type(number)
        return [dtype if dtype.kind in "biuf" else None]

    return rule


def _typed(*types: DType | None) -> Callable[[Node], list[DType | None]]:
    def rule(node: Node) -> list[DType | None]:
        first = _first(node)[:1]
        return [(first or [None])[0] if t is None else t for t in types]

    return rule


def _constant_type(node: Node) -> list[DType | None]:
    if "value" in node.attributes:
        return [np.dtype(node.attributes["value"].dtype)]
    return [_FLOAT if any("float" in name for name in node.attributes) else _INT64 if node.attributes else _FLOAT]


def _filler_type(node: Node) -> list[DType | None]:
    value = node.attribute("value", None)
    return [_FLOAT if value is None else np.dtype(value.dtype)]


def _dropout_types(node: Node) -> list[DType | None]:
    """The mask was of the type of the data before opset 10."""
    return [*_first(node)[:1], _BOOL if node.version >= 10 else _first(node)[0]]


_PREDICATES = "And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor"
_INDICES = "ArgMax ArgMin NonMaxSuppression NonZero Shape Size"

TYPES: dict[str, Callable[[Node], list[DType | None]]] = {
    **dict.fromkeys(_PREDICATES.split(), _typed(_BOOL)),
    **dict.fromkeys(_INDICES.split(), _typed(_INT64)),
    **dict.fromkeys(("Cast",), _named("to", None)),
    **dict.fromkeys(("EyeLike", "Bernoulli", "RandomNormalLike", "RandomUniformLike"), _named("dtype", None)),
    **dict.fromkeys(("RandomNormal", "RandomUniform"), _named("dtype", FLOAT_CODE)),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), _typed(_INT32)),
    **dict.fromkeys(("CastLike", "Where", "DequantizeLinear"), _input_type(1)),
    **dict.fromkeys(("QuantizeLinear", "OneHot"), _input_type(2)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), _input_type(7)),
    "Constant": _constant_type,
    "ConstantOfShape": _filler_type,
    "Dropout": _dropout_types,
    "MaxPool": _typed(None, _INT64),
    "TopK": _typed(None, _INT64),
    "Unique": _typed(None, _INT64, _INT64, _INT64),
}


def infer(node: Node) -> None:
    """Fill shape and dtype of the node's outputs from its inputs.

    Known facts are kept where nothing better follows; nothing is raised for what is unknown. A node whose inputs and
    attributes contradict each other says how in `contradiction`, and leaves the shapes of its outputs unknown.
    """
    rule = SHAPES.get(node.op)
    shapes: Sequence[Shape | None] = ()
    node.contradiction = ""
    if rule is not None:
        try:
            shapes = rule(node)
            sensible(shapes)
        except Contradiction as found:
            node.contradiction, shapes = str(found), ()
    if rule is not None or node.op in TYPES:
        for value, dtype in zip(node.outputs, TYPES.get(node.op, _first)(node), strict=False):
            value.dtype = dtype or value.dtype
    for value, shape in zip(node.outputs, shapes, strict=False):
        value.shape = _merged(shape, value.shape)


def _merged(found: Shape | None, declared: Shape | None) -> Shape | None:
    """What was found, its unknown extents filled from what was declared."""
    if found is None or declared is None or len(found) != len(declared):
        return declared if found is None else found
    return tuple(d if f is None else f for f, d in zip(found, declared, strict=True))
