"""The arithmetic of folding: channel affines, and how the weights of a linear operator absorb one.

A BatchNorm at inference, a Scale, a Bias, a Mul or Add by a constant are all y = a·x + b with constant a and b. Here a
and b are float64 arrays that broadcast against the value, one axis for each of its axes: (1, C, 1, 1) behind a 2-D
convolution. Everything is computed in float64 from the stored values and rounded once, to the stored dtype.

    y = a2·(a1·x + b1) + b2                      = (a2·a1)·x + (a2·b1 + b2)          composition
    y = a·(W x + c) + b                          = (a·W) x + (a·c + b)               absorbed behind the weights
    y = W (a·x + b) + c                          = (W·a) x + (c + Σ W·b)             absorbed before the weights
    BatchNorm: γ(x − μ)/√(σ² + ε) + β            = a·x + b,  a = γ/√(σ² + ε),  b = β − a·μ

The last line is Ioffe and Szegedy, "Batch Normalization" (2015), algorithm 2. This module knows arrays, no graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Affine:
    """y = a·x + b; `a` and `b` are float64, of one rank, each axis 1 or the extent of the value that they act on."""

    a: Float64
    b: Float64

    def then(self, later: Affine) -> Affine:
        """The one affine that does this and then `later`."""
        return Affine(later.a * self.a, later.a * self.b + later.b)

    @property
    def rank(self) -> int:
        """How many axes `a` and `b` have."""
        return self.a.ndim

    @property
    def scales(self) -> bool:
        """True unless every multiplier is 1."""
        return bool((self.a != 1).any())

    @property
    def shifts(self) -> bool:
        """True unless every shift is 0."""
        return bool((self.b != 0).any())

    @property
    def acts(self) -> bool:
        """False when it is the identity."""
        return self.scales or self.shifts

    @property
    def finite(self) -> bool:
        """Whether all its numbers are."""
        return bool(np.isfinite(self.a).all() and np.isfinite(self.b).all())

    @property
    def axes(self) -> frozenset[int]:
        """The axes along which it is not one value."""
        return frozenset(i for i, extent in enumerate(self.extents) if extent != 1)

    @property
    def extents(self) -> tuple[int, ...]:
        """The shape of `a` and `b` together."""
        return tuple(max(p, q) if 0 not in (p, q) else 0 for p, q in zip(self.a.shape, self.b.shape, strict=True))

    def joins(self, other: Affine) -> bool:
        """Whether the two make one affine that is no larger than either."""
        both = self.axes | other.axes
        pairs = zip(self.extents, other.extents, strict=False)
        return (
            self.rank == other.rank and both in (self.axes, other.axes) and all(p == q or 1 in (p, q) for p, q in pairs)
        )


def identity(rank: int) -> Affine:
    """a = 1 and b = 0 over `rank` axes of extent 1."""
    return Affine(np.ones((1,) * rank), np.zeros((1,) * rank))


def collapse(array: Float64) -> Float64:
    """`array` with every axis along which it is constant reduced to extent 1."""
    for axis, extent in enumerate(array.shape):
        if extent > 1:
            first = array.take([0], axis=axis)
            if (array == first).all():
                array = first
    return array


def nearest(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """`array` as `dtype`, rounded once: to the nearest number, of two to the even one.

    ml_dtypes goes from float64 to bfloat16 by way of float32 and so rounds twice. Rounded to odd on the way, which is
    cut off with the last bit set where anything was lost, a number keeps on which side of a tie it was. Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd" (2008).
    """
    if dtype.name != "bfloat16" or array.dtype != np.float64:
        return array.astype(dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        odd = np.array(array, np.float32)
        bits = odd.view(np.uint32)
        bits -= np.abs(odd) > np.abs(array)
        bits |= (odd != array) & np.isfinite(array)
        return odd.astype(dtype)


def batch_norm_affine(
    gamma: Float64, beta: Float64, mean: Float64, variance: Float64, eps: float
) -> tuple[Float64, Float64]:
    """a and b of a BatchNorm at inference, channel by channel; the caller has seen to it that variance + eps > 0."""
    a = gamma / np.sqrt(variance + eps)
    return a, beta - a * mean


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a weight tensor keeps its output channels, its input channels and its groups.

    Kinds: "conv" (out, in/group, *k), "deconv" (in, out/group, *k), "rows" (out, in), "columns" (in, out).
    """

    kind: str
    groups: int = 1

    def canonical(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of `weight` as (groups, out/group, in/group, taps), on which all absorption is written once."""
        g = self.groups
        if self.kind == "conv":
            return weight.reshape(g, weight.shape[0] // g, weight.shape[1], -1)
        if self.kind == "deconv":
            return weight.reshape(g, weight.shape[0] // g, weight.shape[1], -1).swapaxes(1, 2)
        if self.kind == "rows":
            return weight.reshape(1, *weight.shape, 1)
        return weight.reshape(1, *weight.shape, 1).swapaxes(1, 2)

    def channels(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Output and input channels of a weight of this shape, over all groups."""
        if self.kind == "conv":
            return shape[0], shape[1] * self.groups
        if self.kind == "deconv":
            return shape[1] * self.groups, shape[0]
        return (shape[0], shape[1]) if self.kind == "rows" else (shape[1], shape[0])


@dataclass(frozen=True, eq=False, slots=True)
class Absorbed:
    """What a linear operator takes: an affine on its input channels and one on its output channels, as vectors.

    `pre_a`, `pre_b` have one element an input channel or one for all; `post_a`, `post_b` the same for the output.
    """

    pre_a: Float64
    pre_b: Float64
    post_a: Float64
    post_b: Float64

    @property
    def parts(self) -> tuple[Float64, Float64, Float64, Float64]:
        """The four vectors in the order of the fields."""
        return self.pre_a, self.pre_b, self.post_a, self.post_b


NOTHING = Absorbed(np.ones(1), np.zeros(1), np.ones(1), np.zeros(1))


def absorb_weight(weight: npt.NDArray[Any], layout: Layout, taken: Absorbed) -> npt.NDArray[Any]:
    """The weight of `post_a · W · pre_a` in the dtype and shape of `weight`, rounded once."""
    result = np.empty_like(weight, order="C")
    source, target = layout.canonical(weight), layout.canonical(result)
    outs, ins = layout.channels(weight.shape)
    post = np.broadcast_to(taken.post_a, outs).reshape(layout.groups, -1, 1, 1)
    pre = np.broadcast_to(taken.pre_a, ins).reshape(layout.groups, 1, -1, 1)
    for group in range(layout.groups):
        scaled = source[group].astype(np.float64) * post[group]
        scaled = scaled * pre[group] if taken.pre_a.size > 1 or taken.pre_a[0] != 1 else scaled
        target[group] = nearest(scaled, weight.dtype)
    return result


def absorb_bias(
    bias: Float64, weight: npt.NDArray[Any] | None, layout: Layout, gain: float, taken: Absorbed
) -> Float64:
    """`post_a·(bias + gain·Σ W·pre_b) + post_b` in float64, one element an output channel.

    `bias` has one element an output channel; `gain` is what the operator multiplies its product by (Gemm's alpha);
    `weight` is needed only where `pre_b` is not 0.
    """
    outs = bias.shape[-1]
    if weight is not None and taken.pre_b.any():
        _, ins = layout.channels(weight.shape)
        shift = np.broadcast_to(taken.pre_b, ins).reshape(layout.groups, -1)
        view = layout.canonical(weight)
        sums = [view[g].astype(np.float64).sum(axis=-1) @ shift[g] for g in range(layout.groups)]
        bias = bias + gain * np.concatenate(sums)
    return taken.post_a * bias + np.broadcast_to(taken.post_b, outs)
