"""Convolutions of one to three spatial axes, grouped and dilated, with a BatchNormalization behind."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper
from onnx_models import batch_norm, fold, model, node, norm, ops, same, tensor


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("op", "how"),
    [("Conv", {}), ("ConvTranspose", {"strides": 2, "output_padding": 1}), ("ConvTranspose", {"pads": 1})],
)
def test_a_norm_behind_a_convolution_of_any_rank_folds(rank: int, op: str, how: dict[str, Any]) -> None:
    spread = {name: [value] * (2 * rank if name == "pads" else rank) for name, value in {"dilations": 2, **how}.items()}
    nodes = [node(op, "x W", "c", group=2, **spread), batch_norm("c", "bn", "y")]
    weight = tensor("W", *((6, 2) if op == "Conv" else (4, 3)), *(2,) * rank)
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [2, 4] + [5] * rank), ("y", [None] * (rank + 2)))
    ]
    source = model(nodes, [weight, *norm("bn", 6)], ends[:1], ends[1:])
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == [op]
