"""What a run shows, and what it does not: infinities and NaNs of the original, and empty arrays, prove nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import batch_norm, model, node, norm, ops, tensor

from bnfold import cli

BATCH = helper.make_tensor_value_info("x", TensorProto.FLOAT, [0, 2, 5, 5])
CONV_BN = [node("Conv", "x W", "c"), batch_norm("c", "bn", "n")]
STORED = [tensor("W", 3, 2, 3, 3), *norm("bn", 3)]


def constant(name: str, *values: float, shape: Any = ()) -> onnx.TensorProto:
    return numpy_helper.from_array(np.float32(values).reshape(shape), name)


def overflowing(*behind: onnx.NodeProto) -> onnx.ModelProto:
    """Two convolutions whose weights are too large together, and a BatchNormalization that is small again."""
    nodes = [node("Conv", "x W", "c"), node("Mul", "c huge", "h"), node("Mul", "h huge", "i")]
    nodes += [node("Conv", "i V", "d"), node("Mul", "d tiny", "e"), node("Add", "e bn.b", "n")]
    stored = [tensor("W", 3, 2, 3, 3), tensor("V", 3, 3, 1, 1), constant("huge", 1e25)]
    stored += [constant("tiny", 1e-36), constant("bn.b", 1, 2, 3, shape=(3, 1, 1))]
    return model([*nodes, *behind], stored)


def fold(folder: Path, source: onnx.ModelProto, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, dict[str, Any]]:
    """Exit status, all that is printed, and the verification in the report; whether there is a result fits to it."""
    onnx.save(source, folder / "m.onnx")
    files = [str(folder / name) for name in ("m.onnx", "out.onnx", "report.json")]
    status = cli.main([files[0], "-o", files[1], "--json", files[2]])
    told = capsys.readouterr()
    assert (folder / "out.onnx").exists() == (status == 0)
    return status, told.out + told.err, json.loads((folder / "report.json").read_text())["verification"]


def test_an_output_that_is_nan_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = model([*CONV_BN, node("Abs", "n", "p"), node("Neg", "p", "q"), node("Log", "q", "y")], STORED)
    status, text, found = fold(tmp_path, source, capsys)
    assert status == 0
    assert "Not proven, and not disproved" in text
    assert "not proven: the original is not finite anywhere" in text
    assert "Verified" not in text
    assert (found["passed"], found["proven"]) == (True, False)
    (output,) = found["outputs"]
    assert (output["proven"], output["error"], output["compared"]) == (False, None, 0)
    assert found["inner"][0]["proven"], "the value behind the fold is compared all the same"


def test_an_output_that_is_infinite_in_one_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zeros = constant("k", 1, 0, 1, shape=(3, 1, 1))
    source = model([*CONV_BN, node("Abs", "n", "p"), node("Div", "p k", "y")], [*STORED, zeros])
    status, text, found = fold(tmp_path, source, capsys)
    assert status == 0
    assert "Verified" in text
    assert "not compared where the original is not finite, 18 elements" in text
    assert found["proven"]
    assert [(o["compared"], o["not_finite"]) for o in found["outputs"]] == [(36, 18)]


def test_what_overflows_inside_the_original_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, found = fold(tmp_path, overflowing(node("Sigmoid", "n", "y")), capsys)
    assert status == 0, text
    assert "differs" not in text
    assert found["passed"]


def test_an_empty_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = model([*CONV_BN, node("Relu", "n", "y")], STORED, [BATCH])
    status, text, found = fold(tmp_path, source, capsys)
    assert status == 0
    assert "not proven: it has no elements" in text
    assert "0.0e+00" not in text
    assert (found["passed"], found["proven"]) == (True, False)
    assert ops(onnx.load(tmp_path / "out.onnx")) == ["Conv", "Relu"]
