"""How an array of multipliers goes through a reshape of extents that are known in part."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.ir.graph import Node, Shape, Value
from bnfold.planner.moves import _regroup
from bnfold.planner.refusal import Refused

NODE = Node("Reshape", [Value("x")], [Value("y")], {}, "r", "r", 17)

GO = [
    ((None, 3, 6), (None, 6), 2, (2, 3, 6), (6, 6)),
    ((None, None, 6), (None, 6), 2, (2, 3, 6), (6, 6)),
    ((None, 6), (None, 3, 6), 1, (6, 6), (2, 3, 6)),
    ((None, None, 12), (None, None, 3, 4), 2, (2, 5, 12), (2, 5, 3, 4)),
    ((6, None, None), (2, 3, None), 0, (6, 2, 5), (2, 3, 10)),
    ((None, 6, 2, 2), (None, 24), 1, (3, 6, 2, 2), (3, 24)),
    ((4, None, 6, 1), (2, 2, None, 6), 2, (4, 5, 6, 1), (2, 2, 5, 6)),
    ((1, None, 6), (None, 1, 6), 2, (1, 5, 6), (5, 1, 6)),
    ((0, 4, 3), (0, 12), 1, (2, 4, 3), (2, 12)),  # exporters write 0 for an open batch
    ((0, 12), (0, 4, 3), 1, (2, 12), (2, 4, 3)),
]


@pytest.mark.parametrize(("old", "new", "axis", "real", "target"), GO)
def test_known_ends_go_over_whatever_stands_between(
    old: Shape, new: Shape, axis: int, real: tuple[int, ...], target: tuple[int, ...]
) -> None:
    array = np.arange(1.0, real[axis] + 1).reshape([e if i == axis else 1 for i, e in enumerate(real)])
    found = np.broadcast_to(_regroup(array, old, new, NODE), target)
    assert (found == np.broadcast_to(array, real).reshape(target)).all()


@pytest.mark.parametrize(
    ("old", "new"), [((None, 6), (6, None)), ((None, 6), (None, 4)), ((None, 6, None), (None, 6, None))]
)
def test_an_unknown_extent_beside_the_channels_may_take_a_part_of_them(old: Shape, new: Shape) -> None:
    with pytest.raises(Refused, match="not known"):
        _regroup(np.arange(6.0).reshape([1, 6, 1][: len(old)]), old, new, NODE)


def test_extents_of_different_products_do_not_correspond() -> None:
    with pytest.raises(Refused, match="reshapes"):
        _regroup(np.arange(4.0).reshape(4, 1), (4, 2), (2, 2), NODE)
