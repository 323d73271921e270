"""A form of the report is a row of a table: of each the command line makes an option, and nothing else knows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bnfold import cli, report
from bnfold.report import FORMS, Form

OTHER = Form("other", "something else", "json_form", "as_json")


@pytest.fixture
def model(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for module in (cli, report):
        monkeypatch.setattr(module, "FORMS", (*FORMS, OTHER))
    return str(samples / "keras.onnx")


def test_each_form_is_written_to_its_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([model, "-o", "x.onnx", "--no-verify", "--json", "a", "--other", "b"]) == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert json.loads((tmp_path / "a").read_text())["folds"]
    assert "2 folded" in capsys.readouterr().out


def test_a_form_on_the_standard_output_stands_there_alone(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([model, "-o", "x.onnx", "--no-verify", "--json", "a", "--other", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["folds"]
    assert cli.main(["plan", model, "--other"]) == 0
    assert json.loads(capsys.readouterr().out)["folds"]


def test_two_forms_have_two_files(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([model, "-o", "x.onnx", "--no-verify", "--json", "a", "--other", "./a"]) == 2
    assert "the report a" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_each_form(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (([], "write the report as something else"), (["plan"], "print the plan as something else")):
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        assert told in " ".join(capsys.readouterr().out.split())
