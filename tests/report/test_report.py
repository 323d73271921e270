"""The JSON form is versioned and whole; the text form cuts no name and fits its terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from bnfold.options import Options
from bnfold.pipeline import explain, fold
from bnfold.planner.records import is_batch_norm
from bnfold.report.data import as_data
from bnfold.report.tables import Table, as_tables
from bnfold.report.terminal import write_text
from bnfold.verification.outcome import Compared, Verification


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def text(tables: list[Table], stream: io.StringIO) -> str:
    write_text(tables, stream)
    return stream.getvalue()


@pytest.fixture
def pair(samples: Path) -> list[Path]:
    return [samples / "resnet_block.prototxt", samples / "resnet_block.caffemodel"]


def test_json_form(pair: list[Path], tmp_path: Path) -> None:
    data = as_data(fold(pair, tmp_path / "folded"))
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert set(data) == {
        "schema", "bnfold", "sources", "folds", "kept", "before", "after", "verification", "files", "bytes", "opaque",
        "notices",
    }  # fmt: skip
    assert data["schema"] == 1
    assert data["folds"][0] == {
        "graph": data["folds"][0]["graph"],
        "layers": [{"name": "bn_conv1", "type": "BatchNorm"}, {"name": "scale_conv1", "type": "Scale"}],
        "way": "up",
        "into": [{"name": "conv1", "type": "Convolution"}],
        "merged": False,
        "through": [],
        "left": [],
        "reasons": [],
    }
    assert (data["before"]["types"]["BatchNorm"], data["before"]["layers"], data["after"]["layers"]) == (4, 20, 12)
    assert [output["name"] for output in data["verification"]["outputs"]] == ["prob"]
    assert len(data["verification"]["inner"]) == 4


def test_a_plan_has_reasons(samples: Path) -> None:
    sources = [samples / "train_test.prototxt", samples / "train_test.caffemodel"]
    data = as_data(explain(sources, Options(phase="TRAIN")))
    kept = [entry for entry in data["kept"] if entry["layers"][0]["name"] == "bn1"]
    assert kept[0]["reasons"][0]["code"] == "batch-statistics"
    assert (data["after"], data["verification"], data["files"]) == (None, None, [])
    assert "batch-statistics" in text(as_tables(data), io.StringIO())


def test_figures_that_are_not_finite_are_null(pair: list[Path]) -> None:
    from dataclasses import replace

    wrong = Compared("y", "bn1 → conv1", float("inf"), None, 0.0, "float32[1] became float32[2]")
    found = Verification(engine="onnxruntime", draws=2, inner=[wrong], note="no kernel", left_out=["odd"], uncovered=3)
    data = as_data(replace(explain(pair), verification=found))
    assert json.loads(json.dumps(data, allow_nan=False))["verification"]["inner"][0]["error"] is None
    told = text(as_tables(data), io.StringIO())
    for words in ("NOT EQUAL", "became", "no kernel", "folds not covered: 3"):
        assert words in told


def test_nothing_to_fold_says_so(pair: list[Path], tmp_path: Path) -> None:
    fold(pair, tmp_path / "once")
    data = as_data(fold([tmp_path / "once.prototxt", tmp_path / "once.caffemodel"], tmp_path / "twice"))
    told = text(as_tables(data), io.StringIO())
    assert told.startswith("Nothing to fold\n")
    assert "identical, byte by byte" in told


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_is_never_too_narrow(pair: list[Path], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    told = text(as_tables(as_data(explain(pair))), Terminal())
    assert max(map(len, told.splitlines())) <= width
    assert "4 folded" in told


def test_plain_text_cuts_nothing() -> None:
    long = "n" * 300
    assert long in text([Table("Head", ("a", "b"), [[long, "x"]])], io.StringIO())
    assert long in text([Table("Head", (), [[long]])], io.StringIO()).splitlines()[1]


def test_spellings_of_batch_norm() -> None:
    assert all(map(is_batch_norm, ["BatchNorm", "BN", "SyncBN", "FusedBN", "CuDNNBatchNorm", "BatchNormalization"]))
    assert not any(map(is_batch_norm, ["Scale", "Mul", "LayerNormalization", "BNLL", "BNet"]))
