"""A merge never makes a model larger: not by copies of constants that others read, not by longer names."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from random import Random

import onnx
import pytest
from onnx import helper
from onnx_models import batch_norm, fold, fold_bytes, model, node, norm, ops, tensor
from planner.steps import AFFINES, COMMUTING, OPAQUES, random_net

from bnfold.onnx.document import OnnxDocument
from bnfold.onnx.model_writer import Header, write_model
from bnfold.options import Options
from bnfold.pipeline import fold as fold_files
from bnfold.planner.passes import plan
from bnfold.report.data import as_data
from bnfold.report.tables import as_tables
from bnfold.report.terminal import write_text

LARGE = helper.make_tensor_value_info("x", 1, [1, 2, 40, 40])
ENDS = [helper.make_tensor_value_info(name, 1, list("nchw")) for name in "yz"]


def test_a_scalar_is_not_merged_into_a_copy_of_a_large_constant() -> None:
    nodes = [node("Mul", "x h", "p"), node("Mul", "p K", "q"), node("Exp", "q", "y")]
    nodes += [node("Sigmoid", "x", "s"), node("Mul", "s K", "z")]
    source = model(nodes, [tensor("h"), tensor("K", 1, 2, 40, 40)], [LARGE], ENDS)
    assert ops(fold(source)) == ops(source)


def test_it_is_merged_where_nobody_else_reads_the_constant() -> None:
    nodes = [node("Mul", "x h", "p"), node("Mul", "p K", "q"), node("Exp", "q", "y"), node("Sigmoid", "x", "z")]
    source = model(nodes, [tensor("h"), tensor("K", 1, 2, 40, 40)], [LARGE], ENDS)
    assert ops(fold(source)) == ["Mul", "Exp", "Sigmoid"]


@pytest.mark.parametrize("channels", [2, 200])
def test_parameters_that_two_normalisations_share_are_not_written_twice(channels: int) -> None:
    data = helper.make_tensor_value_info("x", 1, [1, channels, 5, 5])
    nodes = [batch_norm("x", "bn", "n"), node("Mul", "n k", "a"), node("Sigmoid", "a", "y")]
    nodes += [node("Tanh", "x", "t"), batch_norm("t", "bn", "m"), node("Sigmoid", "m", "z")]
    source = model(nodes, [*norm("bn", channels), tensor("k", channels, 1, 1)], [data], ENDS)
    assert ops(fold(source)) == ops(source)


def test_no_random_model_grows_by_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.steps.KINDS", [AFFINES, AFFINES, AFFINES, COMMUTING, OPAQUES])
    ways: Counter[str] = Counter()
    for seed in range(400):
        stream = io.BytesIO()
        write_model(random_net(Random(seed)).graph, Header(opset=13)).write(stream)
        document = OnnxDocument.from_bytes(stream.getvalue())
        made = plan(document.graphs()[0], document.style)
        if not made.weights:
            ways.update(d.way for d in made.decisions if not d.untouched)
            assert len(fold_bytes(stream.getvalue())) <= len(stream.getvalue()), seed
    assert ways["merge"] > 50
    assert ways["up"] + ways["down"] > 10


@pytest.mark.parametrize("shared", [True, False])
def test_a_fold_that_makes_the_model_larger_says_so(tmp_path: Path, shared: bool) -> None:
    """One filter of two convolutions, of which one has a normalisation behind it."""
    nodes = [node("Conv", "x W", "c"), batch_norm("c", "bn", "y"), node("Conv", f"x {'W' if shared else 'V'}", "z")]
    data = helper.make_tensor_value_info("x", 1, [1, 8, 5, 5])
    stored = [tensor("W", 8, 8, 3, 3), *norm("bn", 8), *([] if shared else [tensor("V", 8, 8, 3, 3)])]
    onnx.save(model(nodes, stored, [data], ENDS), tmp_path / "m.onnx")
    result = fold_files(tmp_path / "m.onnx", tmp_path / "out.onnx", Options(verify=False))
    told = as_data(result)
    text = io.StringIO()
    write_text(as_tables(told), text)
    more = told["bytes"]["written"] - told["bytes"]["read"]
    assert more == (tmp_path / "out.onnx").stat().st_size - (tmp_path / "m.onnx").stat().st_size
    assert (more > 2000) == shared
    assert (f"{more:,} bytes more than before" in text.getvalue()) == shared
