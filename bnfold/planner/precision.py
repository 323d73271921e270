"""Whether what a linear operator absorbs can be stored in the dtype of its weights: finite, and with all its digits.

All of it is asked while folds are being decided, so that a fold that would spoil numbers is none.
"""

from __future__ import annotations

import numpy as np

from ..ir.graph import Node, Tensor
from .affine import Absorbed, absorb_bias
from .foldable import Linear
from .records import Chain, is_batch_norm

MOST_DEVIATIONS = 32
"""Of a mean that float16 weights may take: its rounding is then off by 32 · 2⁻¹², a hundredth of a deviation."""


def largest(tensor: Tensor) -> float:
    """The largest finite number of a tensor's dtype (bfloat16 is no NumPy type and has float32's exponents)."""
    return float(np.finfo(tensor.dtype).max) if tensor.dtype.kind == "f" else 3.3895e38


def tiny(tensor: Tensor) -> float:
    """The smallest number that a tensor's dtype stores with all its digits."""
    return float(np.finfo(tensor.dtype).tiny) if tensor.dtype.kind == "f" else 1.1755e-38


def exactly_fits(linear: Linear, taken: Absorbed, limit: float) -> bool:
    """The test by channel, where the bound over all of them was too coarse."""
    view = np.abs(linear.layout.canonical(linear.weight.load()).astype(np.float64))
    post = np.broadcast_to(np.abs(taken.post_a), view.shape[0] * view.shape[1]).reshape(view.shape[0], -1, 1, 1)
    pre = np.broadcast_to(np.abs(taken.pre_a), view.shape[0] * view.shape[2]).reshape(view.shape[0], 1, -1, 1)
    return bool((view * post * pre <= limit).all())


def keeps_digits(linear: Linear, taken: Absorbed) -> bool:
    """Whether folded float16 weights are stored with as many digits as the old ones.

    They are not where the largest weight of an output or an input channel falls below the smallest normal number, 2⁻¹⁴,
    but by a factor of 0. Above it every weight is stored to 2⁻¹¹ of its channel's largest, as rounding leaves that one.
    A channel that was below already may not shrink. The bias needs no test: below 2⁻¹⁴ it is off by 2⁻²⁵ at the most.
    """
    view, least = linear.layout.canonical(linear.weight.load()), tiny(linear.weight)
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


def widened(node: Node, linear: Linear) -> bool:
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


def bias_fits(linear: Linear, taken: Absorbed, limit: float) -> bool:
    outs = linear.layout.channels(linear.weight.shape)[0]
    own = np.zeros((1, 1)) if linear.bias is None else np.atleast_2d(linear.bias_gain * linear.bias.float64())
    own = own.T if linear.out_axis == 0 else own
    own = np.broadcast_to(own, (own.shape[0], outs))
    return bool((np.abs(absorb_bias(own, linear.weight.load(), linear.layout, linear.gain, taken)) <= limit).all())
