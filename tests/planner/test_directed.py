"""What the plan makes of each directed net computes the same, and folds what can be folded."""

from __future__ import annotations

import pytest

from .directed import DIRECTED
from .judge import judge

KEPT = {
    "padded conv before", "deconv before", "other reader", "public", "two readers, one folds", "beside sum", "zero pad",
    "max pool mixed", "max pool hollow", "average pool counted", "relu shifted", "relu mixed",
    "resize channels", "product", "quotient", "gemm along the rows", "transposed width", "transposed height",
    "height before transpose", "filling pad", "merge", "width", "beside sub",
    "mask", "twins interleaved", "integers without kernel_shape",
}  # fmt: skip
"""Nets in which something of an affine must stay."""


@pytest.mark.parametrize("name", DIRECTED)
def test_the_planned_net_is_the_net(name: str) -> None:
    plan = judge(DIRECTED[name]())
    gone = all(not d.untouched and not d.merged and d.leftover is None for d in plan.decisions)
    assert gone == (name not in KEPT)
