"""What shape rules ask of a node before they rely on it. It raises Contradiction for what only broken models have.

A rule may index, divide and zip only what went through here: any other exception is a fault of bnfold's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..graph import Contradiction, Node, Shape

MOST_AXES = 32
"""Of any array in the oldest NumPy that is supported."""
LARGEST = (1 << 63) - 1
"""No extent is larger: ONNX stores them in 64 bits."""


def ensure(holds: bool, what: str) -> None:
    """Raises Contradiction with `what` unless it `holds`."""
    if not holds:
        raise Contradiction(what)


def required(node: Node, name: str) -> Any:
    """An attribute without a default."""
    ensure(name in node.attributes, f"it has no {name}")
    return node.attributes[name]


def axis(number: int, rank: int) -> int:
    """An axis of `rank` counted from 0."""
    ensure(-rank <= number < rank, f"axis {number} is not one of {rank}")
    return number % rank


def axes(numbers: Iterable[int], rank: int) -> tuple[int, ...]:
    """Axes of `rank` counted from 0, each named once."""
    found = tuple(axis(number, rank) for number in numbers)
    ensure(len(set(found)) == len(found), f"the axes {found} repeat")
    return found


def ranked(shape: Shape | None, least: int, most: int | None = None) -> None:
    """A shape that is known has at least, and perhaps at most, so many axes."""
    if shape is not None:
        ensure(least <= len(shape) <= (len(shape) if most is None else most), f"an input has {len(shape)} axes")


def length(name: str, values: Sequence[Any], wanted: int) -> None:
    """A list of an argument has as many elements as it needs."""
    ensure(len(values) == wanted, f"it has {len(values)} {name} and needs {wanted}")


def common(extents: Iterable[int | None], what: str) -> int | None:
    """The one extent that all are which are known; None where none is."""
    known = sorted({extent for extent in extents if extent is not None})
    ensure(len(known) < 2, f"{what} have the extents {known}")
    return known[0] if known else None


def divided(extent: int | None, parts: int, what: str) -> int | None:
    """`extent` in equal parts."""
    ensure(parts > 0, f"its {what} is {parts}")
    if extent is None:
        return None
    ensure(extent % parts == 0, f"{extent} does not divide by its {what} {parts}")
    return extent // parts


def single(node: Node, index: int, name: str) -> Any:
    """The one element of a constant input; None where that is no constant."""
    tensor = node.constant(index)
    if tensor is None:
        return None
    ensure(math.prod(tensor.shape) == 1, f"its {name} has the shape {tensor.shape}")
    return tensor.load().reshape(-1)[0]


def finite(node: Node, index: int, name: str) -> float | None:
    """The one number in a constant input; None where that is no constant."""
    value = single(node, index, name)
    if value is None:
        return None
    ensure(math.isfinite(value), f"its {name} is {value}")
    return float(value)


def broadcast(shapes: Iterable[Shape | None]) -> Shape | None:
    """NumPy's broadcasting; an unknown extent beside one that is not 1 is that one."""
    known: list[Shape] = []
    for shape in shapes:
        if shape is None:
            return None
        known.append(shape)
    rank = max((len(s) for s in known), default=0)
    return tuple(wide([s[i - rank + len(s)] for s in known if i - rank + len(s) >= 0]) for i in range(rank))


def wide(extents: Sequence[int | None]) -> int | None:
    """The extent to which these broadcast."""
    found = {e for e in extents if e is not None and e != 1}
    ensure(len(found) < 2, f"the extents {sorted(found)} do not broadcast")
    if found:
        return found.pop()
    return None if None in extents else 1


def product(extents: Iterable[int | None]) -> int | None:
    """None when a factor is."""
    result = 1
    for extent in extents:
        if extent is None:
            return None
        result *= extent
    return result


def sensible(shapes: Iterable[Shape | None]) -> None:
    """What a rule found are shapes of arrays that could be."""
    for shape in shapes:
        if shape is not None:
            ensure(len(shape) <= MOST_AXES, f"an output has {len(shape)} axes")
            for extent in shape:
                ensure(extent is None or 0 <= extent <= LARGEST, f"an output has the extent {extent}")
