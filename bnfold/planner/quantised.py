"""Weights stored as integers: a DequantizeLinear of constants, whose float scale takes a multiplier exactly.

    w = scale · (q − zero_point), with one scale for all, or one for each slice along `_scale_axis`

Source: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html. The integers stay as they are, so that the model
stays as small; what would have to change them, a multiplier of the inputs, is refused.
"""

from __future__ import annotations

from ..ir.graph import Array, Node, Tensor, Value
from .affine import Float64, Layout, nearest
from .refusal import refuse


def dequantiser(value: Value | None) -> Node | None:
    """The DequantizeLinear that makes `value` from constants, None where something else makes it."""
    node = value.producer if value is not None and value.tensor is None else None
    if node is None or node.op != "DequantizeLinear":
        return None
    constant = all(v is None or v.tensor is not None for v in node.inputs)
    return node if constant and len(scale_of(node).shape) < 2 and not node.attribute("block_size", 0) else None


def scale_of(node: Node) -> Tensor:
    """The scale of a DequantizeLinear of constants: (), (1,) or one for each slice."""
    tensor = node.constant(1)
    assert tensor is not None  # `dequantiser` has seen to it
    return tensor


def dequantised(node: Node) -> Tensor:
    """The weights that a DequantizeLinear of constants makes, in the dtype of its scale.

    Refuses a scale or a zero point that do not fit them, which only a broken model has.
    """
    stored, factor, zero = node.constant(0), scale_of(node), node.constant(2)
    assert stored is not None  # `dequantiser` has seen to it
    shape = [1] * len(stored.shape)
    if factor.shape and factor.shape != (1,):
        along = _scale_axis(node, len(stored.shape))
        if stored.shape[along : along + 1] != factor.shape:
            raise refuse("shape", f"the scale of {node.label} does not fit its weights of shape {stored.shape}", node)
        shape[along] = -1
    if zero is not None and zero.shape not in ((), (1,), factor.shape):
        raise refuse("shape", f"the zero point of {node.label} does not fit its scale of shape {factor.shape}", node)

    def load() -> Array:
        offset = zero.float64().reshape(shape) if zero is not None else 0.0
        return nearest((stored.float64() - offset) * factor.float64().reshape(shape), factor.dtype)

    return Tensor((stored.key, factor.key), stored.shape, factor.dtype, load)


def _scale_axis(node: Node, rank: int) -> int:
    return int(node.attribute("axis", 1)) % max(rank, 1)


def check_multiplier(node: Node, holder: Node, layout: Layout, vector: Float64, behind: bool) -> None:
    """Refuse multipliers of the linear `node` that the scale in `holder` cannot take: it has to stay positive."""
    if not behind:
        raise refuse("quantised", f"the weights of {node.label} are quantised, with no scale for each input", node)
    if not (vector > 0).all():
        raise refuse("quantised", f"the scale of the quantised weights of {node.label} has to stay positive", node)
    outs = {"conv": 0, "rows": 0, "columns": 1, "deconv": 1}[layout.kind]
    shape = scale_of(holder).shape
    along = _scale_axis(holder, 2 if layout.kind in ("rows", "columns") else 3) == outs and (
        outs == 0 or layout.groups == 1
    )
    if vector.size > 1 and not (along and shape == vector.shape):
        raise refuse("quantised", f"the quantised weights of {node.label} have no scale for each output channel", node)


def scale_times(holder: Node, vector: Float64) -> Array:
    """The scale in `holder` times `vector`, rounded once."""
    tensor = scale_of(holder)
    return nearest(tensor.float64() * vector.reshape(vector.shape if vector.size > 1 else ()), tensor.dtype)
