"""What a node is to the planner: a linear operator that can absorb an affine, or an affine that wants to be absorbed.

LINEAR and AFFINE are tables from operator to a function that reads the node; each function answers with that, or
refuses with the reason why this node is none. Opset differences are inside these functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..ir.element_types import is_float
from ..ir.graph import Node, Tensor, Value
from ..ir.shapes.windows import even, padded
from .affine import Affine, Float64, Layout, batch_norm_affine
from .quantised import dequantised, dequantiser
from .records import Linear, Refusal
from .refusal import Refused, consistent, numbers, refuse, shape_of


def _weights(node: Node, slot: int) -> Tensor:
    """The constant weights of a linear node; refuses when they are computed at run time or no floats."""
    tensor, value = node.constant(slot), node.input(slot)
    holder = dequantiser(value)
    if value is not None and holder is not None:
        if len(value.readers) > 1 or value.public:
            raise refuse("readers", f"the quantised weights of {node.label} are read elsewhere, too", node)
        return dequantised(holder)
    if tensor is None:
        code, hint = value.note if value is not None and value.note else ("dynamic", "")
        raise refuse(code, f"the weights of {node.label} are not constant", node, hint)
    if not _floats(tensor):
        raise refuse("dtype", f"{node.label} works on {tensor.dtype}", node)
    return tensor


def _floats(carrier: Tensor | Value | None) -> bool:
    """Whether its elements are floats; what has an unknown type passes."""
    dtype = carrier.dtype if carrier is not None else None
    return dtype is None or is_float(dtype)


def _constant_bias(node: Node, slot: int) -> Tensor | None:
    value = node.input(slot)
    if value is None:
        return None
    if value.tensor is None:
        code, hint = value.note or ("dynamic", "")
        raise refuse(code, f"the bias of {node.label} is not constant", node, hint)
    if not _floats(value.tensor):
        raise refuse("dtype", f"the bias of {node.label} is {value.tensor.dtype}", node)
    return value.tensor


def _conv(node: Node) -> Linear:
    edge = None
    if padded(node):
        what = f"{node.label} reads zero padding, which a shift does not reach"
        edge = Refusal("padding", what, node.name)
    layout = Layout("conv", int(node.attribute("group", 1)))
    return Linear(_weights(node, 1), _constant_bias(node, 2), layout, 1, 1, edge=edge)


def _conv_transpose(node: Node) -> Linear:
    weight, edge = _weights(node, 1), None
    if not even(node):
        what = f"{node.label} adds up a different number of elements at its border"
        edge = Refusal("padding", what, node.name)
    layout = Layout("deconv", int(node.attribute("group", 1)))
    return Linear(weight, _constant_bias(node, 2), layout, 1, 1, edge=edge)


def _gemm(node: Node) -> Linear:
    """alpha·A'B' + beta·C with one of A, B constant. C may broadcast: (), (N,), (1, N), (M, 1), (M, N)."""
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    trans_a, trans_b = bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))
    if node.constant(1) is not None:
        layout = Layout("rows" if trans_b else "columns")
        return Linear(
            _weights(node, 1), _constant_bias(node, 2), layout, 1, 0 if trans_a else 1, gain=alpha, bias_gain=beta
        )
    layout = Layout("columns" if trans_a else "rows")
    in_axis = 1 if trans_b else 0
    return Linear(_weights(node, 0), _constant_bias(node, 2), layout, 0, in_axis, 1, 0, gain=alpha, bias_gain=beta)


def _matmul(node: Node) -> Linear:
    """W on the right mixes the last axis, W on the left the last but one; it has no bias."""
    left = node.constant(1) is None and node.constant(0) is not None
    weight = _weights(node, 0 if left else 1)
    rank = len(shape_of(node.inputs[1 if left else 0], node))
    if len(weight.shape) != 2 or rank < 2:
        raise refuse("rank", f"the weights of {node.label} are no matrix", node)
    if left:
        return Linear(weight, None, Layout("rows"), rank - 2, rank - 2, 1, 0, None)
    return Linear(weight, None, Layout("columns"), rank - 1, rank - 1, 0, 1, None)


LINEAR: dict[str, Callable[[Node], Linear]] = {
    "Conv": _conv,  # W ∗ x + b
    "ConvTranspose": _conv_transpose,  # Wᵀ ∗ x + b
    "Gemm": _gemm,  # α·x·W + β·b or α·W·x + β·b
    "MatMul": _matmul,  # x·W or W·x
}


def _broadcast_constant(node: Node, slot: int) -> Float64:
    """The constant at `slot` with the rank of the other input; refuses if it would change that input's shape.

    Before opset 7 the second operand is aligned at `axis`, not at the last axis.
    """
    tensor = node.inputs[slot].tensor  # type: ignore[union-attr]
    assert tensor is not None
    shape = shape_of(node.inputs[1 - slot], node)
    missing = len(shape) - len(tensor.shape)
    if missing < 0:
        raise refuse("broadcast", f"the constant of {node.label} adds axes to its input", node)
    before = int(node.attribute("axis", missing)) if node.version < 7 and slot == 1 else missing
    before += len(shape) if before < 0 else 0
    if not 0 <= before <= missing:
        raise refuse("broadcast", f"the constant of {node.label} does not fit at its axis", node)
    array: Float64 = numbers(tensor, node).reshape((1,) * before + tensor.shape + (1,) * (missing - before))
    for extent, own in zip(shape, array.shape, strict=True):
        if own not in (1, extent):
            known = "is not known to have" if extent is None else "does not have"
            what = f"the input of {node.label} {known} the extents {tensor.shape} of its constant"
            raise refuse("broadcast", what, node)
    return array


def _arithmetic(node: Node) -> Affine | None:
    """Mul, Add, Sub, Div of one value and one constant of floats; None where it is something else."""
    slots = [slot for slot in (0, 1) if node.constant(slot) is not None]
    if len(slots) != 1 or (node.op == "Div" and slots == [0]) or not _floats(node.constant(slots[0])):
        return None
    c = _broadcast_constant(node, slots[0])
    one, zero = np.ones((1,) * c.ndim), np.zeros((1,) * c.ndim)
    if node.op == "Mul":
        return Affine(c, zero)
    if node.op == "Div":
        return Affine(1 / c, zero)
    if node.op == "Add":
        return Affine(one, c)
    return Affine(-one, c) if slots == [0] else Affine(one, -c)


def _negation(node: Node) -> Affine | None:
    if not _floats(node.inputs[0]):
        return None
    rank = len(shape_of(node.inputs[0], node))
    return Affine(-np.ones((1,) * rank), np.zeros((1,) * rank))


EPSILON = float(np.float32(1e-5))
"""The default of BatchNormalization, which is a float32 like all attributes."""


def _normalization(node: Node) -> Affine:
    """BatchNormalization at inference: opset 7 dropped is_test, 9 dropped spatial, 14 added training_mode.

    Channels are axis 1 in every rank: of an input whose rank is not known the affine has that and the axis before.
    """
    spread = [value for value in node.outputs[1:] if not value.omitted]
    if node.attribute("training_mode", 0) or spread or (node.version < 7 and not node.attribute("is_test", 0)):
        what = f"{node.name!r} normalises by the statistics of the batch"
        raise refuse("batch-statistics", what, node, "export the model for inference")
    data = node.inputs[0]
    shape = (None, None) if data is not None and data.shape is None else shape_of(data, node)
    trailing = (1,) * (len(shape) - 2) if node.version >= 9 or node.attribute("spatial", 1) else ()
    gamma, beta, mean, variance = (_parameter(node, slot, trailing) for slot in (1, 2, 3, 4))
    alike = gamma.shape == beta.shape == mean.shape == variance.shape and gamma.ndim == len(shape)
    if not alike or any(own not in (1, known or own) for own, known in zip(gamma.shape, shape, strict=True)):
        raise refuse("shape", f"the parameters of {node.name!r} do not fit its input of shape {shape}", node)
    eps = float(node.attribute("epsilon", EPSILON))
    bad = ~(np.isfinite(variance) & (variance + eps > 0))
    if bad.any():
        channels = ", ".join(str(c) for c in np.argwhere(bad.reshape(-1))[:8, 0])
        what = f"variance + eps of {node.name!r} is not positive in channels {channels}"
        raise refuse("variance", what, node, "the channels are broken in the trained model")
    return Affine(*batch_norm_affine(gamma, beta, mean, variance, eps))


def _parameter(node: Node, slot: int, trailing: tuple[int, ...]) -> Float64:
    """One of the four parameters, shaped to broadcast: (1, C, 1, ...)."""
    value = node.input(slot)
    if value is None or value.tensor is None:
        code, hint = value.note if value is not None and value.note else ("dynamic", "")
        raise refuse(code, f"a parameter of {node.name!r} is not constant", node, hint)
    return numbers(value.tensor, node).reshape((1, *value.tensor.shape, *trailing))


AFFINE: dict[str, Callable[[Node], Affine | None]] = {
    "BatchNormalization": _normalization,  # γ·(x − μ)/√(σ² + ε) + β
    "Mul": _arithmetic,  # c·x
    "Add": _arithmetic,  # x + c
    "Sub": _arithmetic,  # x − c or c − x
    "Div": _arithmetic,  # x/c
    "Neg": _negation,  # −x
}


def _check_linear(node: Node, operator: Linear) -> None:
    """Refuse a node whose shapes contradict each other, which only a broken model has."""
    shape, windowed = operator.weight.shape, operator.layout.kind in ("conv", "deconv")
    if 0 in shape or (len(shape) < 3 if windowed else len(shape) != 2):
        raise refuse("shape", f"the weights of {node.label} have the shape {shape}", node)
    if operator.layout.groups < 1 or shape[0] % operator.layout.groups:
        raise refuse("shape", f"{node.label} has {shape[0]} channels in {operator.layout.groups} groups", node)
    outs, ins = operator.layout.channels(shape)
    ends = (node.input(operator.data_slot), operator.in_axis, ins), (node.outputs[0], operator.out_axis, outs)
    for value, axis, extent in ends:
        known = value.shape[axis] if value is not None and value.shape and axis < len(value.shape) else None
        if known not in (None, extent):
            raise refuse("shape", f"{value} has {known} channels where {node.label} wants {extent}", node)
    if operator.bias is not None:
        axis = len(operator.bias.shape) - (1 if windowed else 2 - operator.out_axis)
        if (windowed and operator.bias.shape != (outs,)) or (axis >= 0 and operator.bias.shape[axis] not in (1, outs)):
            raise refuse("shape", f"the bias of {node.label} has the shape {operator.bias.shape}", node)


def linear(node: Node) -> Linear | Refusal:
    """The linear operator that `node` is, or why it is none."""
    try:
        consistent(node)
        operator = LINEAR[node.op](node)
        _check_linear(node, operator)
        return replace(operator, holder=dequantiser(node.input(operator.weight_slot)))
    except Refused as answer:
        return answer.refusal


def affine(node: Node, unranked: bool = False) -> Affine | Refusal | None:
    """The affine that `node` is, None if it does not look like one, or why it looks like one and is none.

    On a value whose rank is not known it is one only with `unranked`.
    """
    if node.op not in AFFINE or all(value is None or value.tensor is not None for value in node.inputs):
        return None
    try:
        consistent(node)
        found = AFFINE[node.op](node)
        if found is not None and not unranked:
            shape_of(next(value for value in node.inputs if value is not None and value.tensor is None), node)
        if found is not None and 0 in found.extents:
            raise refuse("shape", f"the constants of {node.label} have no elements", node)
        if found is not None and not all(value.omitted for value in node.outputs[1:]):
            raise refuse("shape", f"{node.label} has outputs that its operator does not have", node)
        if found is None or found.finite:
            return found
        raise refuse("finite", f"the constants of {node.label} are not finite, or divide by 0", node)
    except Refused as answer:
        return answer.refusal
