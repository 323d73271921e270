"""The judge of two nets: is the difference between their outputs rounding, or a fault?

A fold rounds other numbers than the original does, so the two differ even if it is right; by how much depends on the
net: behind a channel of tiny variance by a thousand units of the last place, since the original is that far from the
truth itself. Comparing for near equality would then sound a false alarm, or be too lax to notice a fault. Hence:

1. A difference of at most `FLOOR` units of the last place, relative to the largest value of the channel, growing with
   the root of the depth as rounding does that adds up at random, is rounding.
2. Else the net is asked how far it moves on its own: the original runs again with all its constants and inputs a few
   units of the last place up or down. Up to `FACTOR` times the movement of the channel is rounding.

A fault moves values by far more than the original moves by itself: that is what makes it a fault. Where the original is
infinite or NaN nothing is proven and nothing disproved; where only the folded net is, that is a fault.
The growth with the root of the depth: N. J. Higham, Accuracy and Stability of Numerical Algorithms (2002), 2.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir.graph import Array

Channels = npt.NDArray[np.float64]

FLOOR = 8.0
FACTOR = 5.0
"""Right folds of random nets, well and badly conditioned, stay below 4 (at 9,216 terms to a sum), mostly below 2."""
FEW = 16
"""Elements to a channel below which its largest one says little."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two tensors are apart: `by` channel (axis 1, one entry where there is none), and the largest `sizes`.

    Where a channel has few elements, `sizes` has one entry for all, since 0 may be the largest by chance.
    For tensors that hold no fractions `by` is the share of elements that differ, and `sizes` is 1.
    Infinite where shape or dtype differ, or the second has become infinite or NaN; `problem` then says so.
    `compared` elements were looked at; `skipped` ones were not, since the first is not finite there.
    """

    by: Channels
    sizes: Channels
    problem: str = ""
    compared: int = 1
    skipped: int = 0


def difference(first: Any, second: Any) -> Difference:
    """The difference of two outputs of a run, tensors or sequences or maps of them; `first` is the original's."""
    if not any(isinstance(value, list | dict) for value in (first, second)):
        return _tensors(np.asarray(first), np.asarray(second))
    if type(first) is not type(second):
        return _apart(f"a {type(first).__name__} became a {type(second).__name__}")
    if len(first) != len(second):
        return _apart(f"{len(first)} entries became {len(second)}")
    return _joined([difference(a, b) for a, b in zip(_entries(first), _entries(second), strict=True)])


def _entries(values: list[Any] | dict[Any, Any]) -> list[Any]:
    """Of a sequence; of a map its keys, in order, and their values."""
    if isinstance(values, list):
        return values
    keys = sorted(values)
    return [np.array(keys), np.array([values[key] for key in keys])]


def _joined(parts: list[Difference]) -> Difference:
    """Of a sequence, from those of its entries: the channels of all, or the first entry that is apart."""
    for number, one in enumerate(parts):
        if np.isinf(one.by).any():
            return _apart(f"entry {number}: {one.problem}")
    nothing = [np.zeros(0)]
    by = np.concatenate(nothing + [one.by for one in parts])
    sizes = np.concatenate(nothing + [np.broadcast_to(one.sizes, one.by.shape) for one in parts])
    problem = next((f"entry {n}: {one.problem}" for n, one in enumerate(parts) if one.problem), "")
    counts = sum(one.compared for one in parts), sum(one.skipped for one in parts)
    return Difference(by, sizes, problem, *counts) if by.size else Difference(np.zeros(1), np.zeros(1), "", 0)


def _tensors(first: Array, second: Array) -> Difference:
    if first.shape != second.shape or first.dtype != second.dtype:
        told = [f"{a.dtype}{list(a.shape)}" for a in (first, second)]
        return _apart(f"{told[0]} became {told[1]}")
    if first.dtype.kind in "iubOSU":
        share = float((first != second).mean()) if first.size else 0.0
        problem = f"{share:.2%} of the elements differ" if share else ""
        return Difference(np.full(1, share), np.ones(1), problem, first.size)
    return _float_distance(
        *(a if a.dtype.kind == "f" and a.itemsize > 2 else a.astype(np.float32) for a in (first, second))
    )


def _apart(problem: str) -> Difference:
    return Difference(np.full(1, np.inf), np.ones(1), problem)


def _float_distance(first: Array, second: Array) -> Difference:
    """Of two floating-point tensors of one shape, taken where the first is finite."""
    with np.errstate(all="ignore"):
        gap, size = np.abs(first - second), np.abs(first)
    skipped = 0
    if not (np.isfinite(size.max(initial=0.0)) and np.isfinite(gap.max(initial=0.0))):
        finite = np.isfinite(first)
        if (~np.isfinite(second) & ~np.isnan(first) & (first != second)).any():
            return _apart("it is infinite or NaN where the original is not")
        gap, size = np.where(finite, gap, 0), np.where(finite, size, 0)
        skipped = finite.size - int(np.count_nonzero(finite))
    compared = gap.size - skipped
    if not compared:
        return Difference(np.zeros(1), np.zeros(1), "", 0, skipped)
    axes = tuple(i for i in range(gap.ndim) if i != 1) if gap.ndim > 1 else None
    by, tops = (np.atleast_1d(t.max(axis=axes)).astype(np.float64) for t in (gap, size))
    sizes = tops if gap.size >= FEW * tops.size else tops.max(keepdims=True)
    return Difference(by, sizes, "", compared, skipped)


def floor(fraction: int, depth: int) -> float:
    """The relative difference that is rounding at the `depth`-th comparison in a net of numbers with so many bits."""
    return FLOOR * 2.0**-fraction * float(np.sqrt(depth))


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one value of the net: the worst channel of the worst draw, all relative to the value's largest element.

    `noise` is how far the original moves by itself there, None where that was not asked. `compared` and `skipped` are
    the elements of all draws that were looked at, and that were not since the original is not finite there.
    """

    error: float
    noise: float | None
    limit: float
    problem: str
    compared: int
    skipped: int

    @property
    def passed(self) -> bool:
        """Whether the difference is rounding."""
        return self.error <= self.limit


def judge(found: Sequence[Difference], noises: Sequence[Channels] | None, floor: float) -> Verdict:
    """Whether all differences of one value, one a draw, are rounding; `noises` are the original's own movements.

    No channel is trusted to move less than the median one: with few elements to a channel it may stand still by chance.
    """
    verdicts = []
    counts = sum(one.compared for one in found), sum(one.skipped for one in found)
    for number, difference in enumerate(found):
        noise = np.zeros(1) if noises is None else noises[number]
        own = np.maximum(noise, np.median(noise))
        with np.errstate(all="ignore"):
            by, own, allowed = np.broadcast_arrays(
                difference.by, own, np.maximum(floor * difference.sizes, FACTOR * own)
            )
            excess = np.nan_to_num(by / allowed, nan=0.0, posinf=np.inf)  # 0/0: nothing differs; ∞/∞: nor is it stable
        channel = int(excess.argmax())
        scale = float(difference.sizes.max()) or 1.0
        told = None if noises is None else float(own[channel]) / scale
        error, limit = float(by[channel]) / scale, float(allowed[channel]) / scale
        problem = difference.problem if excess[channel] > 1 else ""  # the original wavers as much
        verdict = Verdict(error, told, limit, problem, *counts)
        verdicts.append((float(excess[channel]), verdict))
    return max(verdicts, key=lambda pair: pair[0])[1]
