"""What standard operators always have: how many inputs, at least one output, and the types of their attributes."""

from __future__ import annotations

from typing import Any

from ..ir.graph import Node, Tensor

_MANY = 1 << 31
_COUNTS = {
    (0, 0): "Constant RandomNormal RandomUniform",
    (1, 1): "Abs Cast Exp Flatten Identity LeakyRelu Neg Reciprocal Relu Shape Sqrt Transpose",
    (2, 2): "Add CastLike Div Gather MatMul Mul Pow PRelu Sub",
    (2, 3): "Conv ConvTranspose Gemm",
    (5, 5): "BatchNormalization",
}
_INPUTS = {op: counts for counts, ops in _COUNTS.items() for op in ops.split()}
"""How few and how many inputs an operator has, where it matters; others have at least one."""

_NAMES: dict[tuple[type, ...], str] = {
    (str,): "auto_pad mode coordinate_transformation_mode nearest_mode equation keep_aspect_ratio_policy direction",
    (int,): "group transA transB ceil_mode count_include_pad storage_order keepdims is_test spatial training_mode "
    "noop_with_empty_axes axis blocksize block_size batch_dims allowzero to dtype broadcast num_outputs start end k "
    "hidden_size layout output_height output_width value_int",
    (float,): "alpha epsilon beta momentum value value_float",
    (tuple, int): "pads strides dilations kernel_shape output_padding output_shape perm axes starts ends steps split "
    "paddings shape pooled_shape value_ints",
    (tuple, float): "scales value_floats",
}
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
"""The types of attributes on which the reading of standard operators relies; of a list also that of its elements."""


def misuse(node: Node) -> str:
    """What a node of a standard operator lacks, or which attribute has the wrong type; "" where all is well."""
    least, most = _INPUTS.get(node.op, (1, _MANY))
    if not least <= len(node.inputs) <= most or None in node.inputs[:least]:
        more = "" if most == least else " or more" if most == _MANY else f" to {most}"
        return f"has {len(node.inputs)} inputs and needs {least}{more}"
    if not node.outputs:
        return "has no output"
    for name, value in node.attributes.items():
        expected = (Tensor,) if name == "value" and node.op.startswith("Constant") else _KINDS.get(name)
        if expected is not None and not _is(value, expected):
            return f"has an attribute {name!r} of the wrong type"
    return ""


def _is(value: Any, kind: tuple[type, ...]) -> bool:
    if not isinstance(value, kind[0]):
        return False
    return not isinstance(value, tuple) or all(isinstance(item, kind[1]) for item in value)
