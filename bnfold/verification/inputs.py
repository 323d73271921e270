"""Random inputs that a model accepts, the same on every run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .engine import Engine, Input
from .inspect import shake

Feeds = dict[str, npt.NDArray[Any]]

EXTENTS = (64, 224, 32, 16, 128, 8, 320, 7, 3, 2, 1)
"""What is tried, one after another, for every free extent but that of the first axis, which is 1."""
UNIFORM = 0.0
"""Stands for the uniform distribution from 0 to 1, as of scaled images."""
SPREADS = (1.0, UNIFORM, 0.5, 0.1, 0.01)
"""Of N(0, 1) in turn, until two give finite outputs."""
DRAWS = 2


def draws(engine: Engine, outputs: Sequence[str]) -> list[Feeds]:
    """`DRAWS` sets of inputs with which the outputs are finite, fewer where no more are found.

    Where there are none, `DRAWS` sets with which the fewest elements are not.

    Raises what the engine says where no extents are accepted, ValueError where an input holds no numbers.
    """
    reason: Exception | None = None
    free = any(not isinstance(d, int) for i in engine.inputs for d in i.shape)
    for below, extent in itertools.product((2, 1), EXTENTS if free else EXTENTS[:1]):
        try:
            return _finite_draws(engine, outputs, extent, below)
        except Exception as error:  # engines raise their own classes, which have nothing in common
            reason = reason or error
    raise reason or ValueError("the net accepts no input")


def _finite_draws(engine: Engine, outputs: Sequence[str], extent: int, below: int) -> list[Feeds]:
    tried: list[tuple[int, Feeds]] = []
    for seed, spread in enumerate(SPREADS):
        feeds = {i.name: _draw(i, extent, below, spread, seed) for i in engine.inputs}
        values = [v for v in engine.run(outputs, feeds) if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
        tried.append((sum(v.size - int(np.count_nonzero(np.isfinite(v))) for v in values), feeds))
        finite = [feeds for lost, feeds in tried if not lost]
        if len(finite) == DRAWS:
            break
    return finite or [feeds for _, feeds in sorted(tried, key=lambda pair: pair[0])[:DRAWS]]


def _draw(value: Input, extent: int, below: int, spread: float, seed: int) -> npt.NDArray[Any]:
    """One input. Integers are 0 or 1, which an index into any table can be; all are 1 where `below` is 1."""
    if value.dtype is None:
        raise ValueError(f"the input {value.name!r} holds no numbers")
    shape = [d if isinstance(d, int) else extent if axis else 1 for axis, d in enumerate(value.shape)]
    rng = np.random.default_rng([seed, *value.name.encode("utf-8", "surrogateescape")])
    if value.dtype.kind in "iub":
        return (rng.integers(0, 2, shape) if below == 2 else np.ones(shape)).astype(value.dtype)
    if spread == UNIFORM:
        return rng.random(shape).astype(value.dtype)
    return rng.normal(0, spread, shape).astype(value.dtype)


def jittered(feeds: Feeds, seed: int) -> Feeds:
    """The same inputs a few units of their last place up or down."""
    rng = np.random.default_rng(seed)
    moved = {name: value.copy() for name, value in feeds.items()}
    for value in moved.values():
        if value.dtype.kind == "f":
            shake(value.view(f"u{value.itemsize}"), np.finfo(value.dtype).nmant, rng)
    return moved
