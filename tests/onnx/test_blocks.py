"""Affines through DepthToSpace and SpaceToDepth, which make blocks of pixels of channels and the reverse."""

from __future__ import annotations

import pytest
from onnx_models import batch_norm, fold, model, node, norm, ops, same, tensor


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_passes_an_affine_up(mode: str) -> None:
    nodes = [node("Conv", "x W", "c"), node("DepthToSpace", "c", "d", blocksize=2, mode=mode)]
    source = model([*nodes, batch_norm("d", "bn", "y")], [tensor("W", 12, 2, 3, 3), *norm("bn", 3)])
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["Conv", "DepthToSpace"]


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_channels_of_one_pixel_that_differ_do_not_pass_down(mode: str) -> None:
    nodes = [node("Relu", "x", "r"), node("SpaceToDepth", "r", "s", blocksize=5), batch_norm("s", "bn", "b")]
    nodes += [node("DepthToSpace", "b", "d", blocksize=5, mode=mode), node("Conv", "d V", "y")]
    source = model(nodes, [*norm("bn", 50), tensor("V", 2, 2, 1, 1)])
    folded = fold(source)
    same(source, folded)
    assert "BatchNormalization" in ops(folded)


def test_space_to_depth_passes_an_affine_down() -> None:
    nodes = [node("Relu", "x", "r"), batch_norm("r", "bn", "b"), node("SpaceToDepth", "b", "d", blocksize=5)]
    source = model([*nodes, node("Conv", "d W", "y")], [*norm("bn", 2), tensor("W", 3, 50, 1, 1)])
    folded = fold(source)
    same(source, folded)
    assert ops(folded) == ["Relu", "SpaceToDepth", "Conv"]
