"""Every command of the README runs, and its statuses are those of the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bnfold
from bnfold import errors
from bnfold.caffe.layers.table import ROWS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line and not line.startswith("pip install")]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    return tmp_path


def environment(copy: Path) -> dict[str, str]:
    """One in which `bnfold` is this Python's."""
    script = copy / "bin" / "bnfold"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bnfold "$@"\n')
    script.chmod(0o755)
    paths = {"PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}
    return {**os.environ, **paths, "PYTHONPATH": str(Path(bnfold.__file__).parent.parent)}


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8
    assert sum(line.startswith("pip install") for block in BLOCKS for line in block.splitlines()) == 2


@pytest.mark.skipif(os.name == "nt", reason="the commands are those of a Unix shell")
def test_every_command_runs(copy: Path) -> None:
    """In one folder, one after another, as a reader would."""
    script = "set -eu\n" + "\n".join(COMMANDS)
    done = subprocess.run(
        ["bash", "-c", script], cwd=copy, env=environment(copy), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("folded.prototxt", "folded.caffemodel", "folded.onnx", "report.json", "cifar10.onnx"):
        assert (copy / name).exists()


def test_the_python_runs(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(copy)
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert "True" in capsys.readouterr().out


def test_statuses() -> None:
    told = dict(re.findall(r"^\| (\d) \| (.*?) \|$", README, re.MULTILINE))
    kinds = [errors.VerificationError, errors.UsageError, errors.InputError, errors.StrictError, errors.OutputError]
    assert set(told) == {"0", *(str(kind.status) for kind in kinds)}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists()


def test_the_layer_types_are_those_of_the_table() -> None:
    section = README.partition("## Caffe layer types")[2].partition("\n## ")[0]
    cells = [row for row in section.splitlines() if row.startswith("| ")]
    assert sorted(re.findall(r"`(\w+)`", "\n".join(cells))) == sorted(ROWS)
