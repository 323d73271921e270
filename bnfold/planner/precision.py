"""Whether what a linear operator absorbs can be stored in the dtype of its weights: finite, and with all its digits.

`check_storable` is asked while folds are being decided, so that a fold that would spoil numbers is none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir.graph import Node, Tensor
from .affine import Absorbed, absorb_bias
from .records import Chain, Linear, is_batch_norm
from .refusal import refuse

MOST_DEVIATIONS = 32
"""Of a mean that float16 weights may take: its rounding is then off by 32 · 2⁻¹², a hundredth of a deviation."""


_WIDER = "fold the model in a wider type first"


def check_storable(node: Node, linear: Linear, taken: Absorbed, peak: Callable[[Tensor], float], chain: Chain) -> None:
    """Refuse where the folded weights or bias are not finite in the dtype in which they are stored, or lose digits.

    `peak` gives the largest magnitude in a tensor; `chain` is what `taken` comes from. What loses digits: all weights
    become smaller than the smallest normal number; of float16 see `_keeps_digits` and `deviations`.
    """
    tensor = linear.weight
    largest, gain = peak(tensor), float(np.abs(taken.post_a).max() * np.abs(taken.pre_a).max())
    if not largest * gain <= _largest(tensor) and not _exactly_fits(linear, taken, _largest(tensor)):
        what = f"the folded weights of {node.label} do not fit into {tensor.dtype}"
        raise refuse("overflow", what, node, _WIDER)
    lost = 0 < largest * gain < _tiny(tensor) <= largest
    if lost or (tensor.dtype.name == "float16" and not _keeps_digits(linear, taken)):
        what = f"the folded weights of {node.label} lose their precision in {tensor.dtype}"
        raise refuse("underflow", what, node, _WIDER)
    if _computes_wider(node, linear) and deviations(chain) > MOST_DEVIATIONS:
        what = f"a mean of more than {MOST_DEVIATIONS} deviations would cancel with the rounding of float16"
        raise refuse("cancellation", f"{what} in the weights of {node.label}", node, _WIDER)
    if linear.bias_slot is not None:
        _check_bias(node, linear, taken, peak)


def _check_bias(node: Node, linear: Linear, taken: Absorbed, peak: Callable[[Tensor], float]) -> None:
    """Refuse a bias that is not finite: by a bound over all channels, exactly where that is too coarse."""
    tensor, stored = linear.weight, linear.bias or linear.weight
    fan_in = linear.layout.channels(tensor.shape)[1] // linear.layout.groups * int(np.prod(tensor.shape[2:]))
    own = abs(linear.bias_gain) * peak(linear.bias) if linear.bias is not None else 0.0
    shift = abs(linear.gain) * peak(tensor) * fan_in * float(np.abs(taken.pre_b).max())
    bound = float(np.abs(taken.post_a).max()) * (own + shift) + float(np.abs(taken.post_b).max())
    if not bound <= _largest(stored) and not _bias_fits(linear, taken, _largest(stored)):
        what = f"the folded bias of {node.label} does not fit into {stored.dtype}"
        raise refuse("overflow", what, node, _WIDER)


def _largest(tensor: Tensor) -> float:
    """The largest finite number of a tensor's dtype (bfloat16 is no NumPy type and has float32's exponents)."""
    return float(np.finfo(tensor.dtype).max) if tensor.dtype.kind == "f" else 3.3895e38


def _tiny(tensor: Tensor) -> float:
    """The smallest number that a tensor's dtype stores with all its digits."""
    return float(np.finfo(tensor.dtype).tiny) if tensor.dtype.kind == "f" else 1.1755e-38


def _exactly_fits(linear: Linear, taken: Absorbed, limit: float) -> bool:
    """The test by channel, where the bound over all of them was too coarse."""
    view = np.abs(linear.layout.canonical(linear.weight.load()).astype(np.float64))
    post = np.broadcast_to(np.abs(taken.post_a), view.shape[0] * view.shape[1]).reshape(view.shape[0], -1, 1, 1)
    pre = np.broadcast_to(np.abs(taken.pre_a), view.shape[0] * view.shape[2]).reshape(view.shape[0], 1, -1, 1)
    return bool((view * post * pre <= limit).all())


def _keeps_digits(linear: Linear, taken: Absorbed) -> bool:
    """Whether folded float16 weights are stored with as many digits as the old ones.

    They are not where the largest weight of an output or an input channel falls below the smallest normal number, 2⁻¹⁴,
    but by a factor of 0. Above it every weight is stored to 2⁻¹¹ of its channel's largest, as rounding leaves that one.
    A channel that was below already may not shrink. The bias needs no test: below 2⁻¹⁴ it is off by 2⁻²⁵ at the most.
    """
    view, least = linear.layout.canonical(linear.weight.load()), _tiny(linear.weight)
    post = np.broadcast_to(np.abs(taken.post_a), view.shape[0] * view.shape[1]).reshape(view.shape[:2])
    pre = np.broadcast_to(np.abs(taken.pre_a), view.shape[0] * view.shape[2]).reshape(view.shape[0], -1)
    for group, outs in enumerate(view):
        before, after = np.zeros((2, view.shape[2]))
        for weights, factor in zip(outs, post[group], strict=True):  # one by one: they can be a hundred million
            old = np.abs(weights).max(axis=-1, initial=0).astype(np.float64)
            new = old * factor * pre[group]
            if 0 < new.max(initial=0) < min(least, old.max(initial=0)):
                return False
            before, after = np.maximum(before, old), np.maximum(after, new)
        if ((after > 0) & (after < np.minimum(least, before))).any():
            return False
    return True


def _computes_wider(node: Node, linear: Linear) -> bool:
    """Whether weights or a bias stored as float16 are computed with in a wider type, which their rounding can spoil."""
    stored = {linear.weight.dtype.name} | ({linear.bias.dtype.name} if linear.bias is not None else set())
    output = node.outputs[0].dtype
    return "float16" in stored and (output is None or output.name != "float16")


def deviations(chain: Chain) -> float:
    """How many deviations the largest mean is that a chain subtracts; of values without statistics it is taken for 1.

    Before, the difference of two large numbers is taken with all digits; behind a fold it is one of rounded numbers,
    W·a·x and β − a·μ, and so off by |μ|/σ times the rounding, of the output's deviation.
    """
    normal = [node for node in chain.nodes if node.op == "BatchNormalization" and is_batch_norm(node.type)]
    found = 0.0
    for node in normal:
        mean, variance = node.constant(3), node.constant(4)
        if mean is not None and variance is not None:
            root = np.sqrt(variance.float64() + float(node.attribute("epsilon", 1e-5)))
            found = max(found, float(np.max(np.abs(mean.float64()) / root, initial=0)))
    if not normal:
        a, b = np.broadcast_arrays(np.abs(chain.affine.a), np.abs(chain.affine.b))
        found = float(np.max(b[a > 0] / a[a > 0], initial=0))
    return found


def _bias_fits(linear: Linear, taken: Absorbed, limit: float) -> bool:
    outs = linear.layout.channels(linear.weight.shape)[0]
    own = np.zeros((1, 1)) if linear.bias is None else np.atleast_2d(linear.bias_gain * linear.bias.float64())
    own = own.T if linear.out_axis == 0 else own
    own = np.broadcast_to(own, (own.shape[0], outs))
    return bool((np.abs(absorb_bias(own, linear.weight.load(), linear.layout, linear.gain, taken)) <= limit).all())
