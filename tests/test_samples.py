"""The samples are what their script makes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "name", ["resnet_block.caffemodel", "cifar10.caffemodel", "train_test.caffemodel", "keras.onnx"]
)
def test_samples_are_reproducible(samples: Path, name: str) -> None:
    made = runpy.run_path(str(samples / "make.py"))["SAMPLES"][name]()
    assert made == (samples / name).read_bytes()
    assert len(made) < 100_000
