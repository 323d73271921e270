"""How many mutants of a model are made, what their numbers become, and the only ways in which they may end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from bnfold.errors import BnfoldError

COUNT = int(os.environ.get("BNFOLD_MUTANTS", "400"))
"""Mutants of each kind of model; more are made with BNFOLD_MUTANTS=20000."""
INTEGERS = (0, 1, 2, 3, -1, -2, -7, 5, 64, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 62, -(1 << 62))
FLOATS = (0.0, -1.0, 0.5, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))


def integer(rng: Random) -> int:
    return rng.choice(INTEGERS)


def changed(rng: Random, numbers: list[Any], number: Callable[[Random], Any]) -> list[Any]:
    """The list with one element replaced, more or less of them, in another order, or none."""
    found = list(numbers)
    how = rng.randrange(6)
    if how <= 1 and found:
        found[rng.randrange(len(found))] = number(rng)
    elif how == 2:
        found.insert(rng.randint(0, len(found)), number(rng))
    elif how == 3 and found:
        del found[rng.randrange(len(found))]
    elif how == 4:
        found += found
    else:
        rng.shuffle(found)
    return found if rng.random() < 0.95 else []


def seeds() -> Iterator[Random]:
    for seed in range(COUNT):
        yield Random(seed)


def refused(attempt: Callable[[], Any]) -> bool:
    """Whether the attempt ends in an error told for people; any other exception is a fault, and shows."""
    try:
        attempt()
    except BnfoldError:
        return True
    return False
