"""A net as it stands in the file that it was trained with, whose inputs have no shape there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bnfold.pipeline import fold

from .build import bn, conv, layer, save


def test_a_training_file_folds_and_is_verified(tmp_path: Path) -> None:
    """Batch, channels and size of the images are those of a database: here 3 channels of 16 times 16."""
    text = "".join(
        [
            layer("Data", "cifar", "", "data label", "data_param { batch_size: 1000 }"),
            conv("conv1", "data", "conv1", outs=4, kernel=5),
            layer("Pooling", "pool1", "conv1", "pool1", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
            bn("bn1", "pool1", "bn1"),
            layer("Sigmoid", "sigmoid1", "bn1", "bn1"),
            layer("InnerProduct", "ip1", "bn1", "ip1", "inner_product_param { num_output: 2 }"),
            layer("SoftmaxWithLoss", "loss", "ip1 label", "loss"),
        ]
    )
    rng = np.random.default_rng(0)
    weights = {
        "conv1": [rng.normal(0, 0.1, (4, 3, 5, 5)), rng.normal(0, 0.1, 4)],
        "bn1": [rng.normal(0, 0.3, 4), rng.uniform(0.5, 1.5, 4), np.ones(1)],
        "ip1": [rng.normal(0, 0.1, (2, 4 * 6 * 6)), rng.normal(0, 0.1, 2)],
    }
    result = fold(list(save(tmp_path, text, weights)), tmp_path / "folded")
    assert result.verification is not None
    assert result.verification.passed
    assert [c.name for c in result.verification.outputs] == ["ip1"]
    assert result.after.get("BatchNorm", 0) == 0
