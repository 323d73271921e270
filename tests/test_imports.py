"""What is imported when, what is public, and that imports run one way."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bnfold

PACKAGE = Path(bnfold.__file__).parent
HEAVY = ("numpy", "onnx", "onnxruntime", "rich", "google")


def loaded_by(code: str) -> set[str]:
    """The heavy modules that are loaded when `code` has run in a new Python."""
    tell = f"import sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True, env=environment
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import bnfold; bnfold.InputError, bnfold.__version__, dir(bnfold)",
        "from bnfold.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from bnfold.cli import main\ntry: main(['plan', '--help'])\nexcept SystemExit: pass",
        "from bnfold.cli import main\nassert main([]) == 2",
    ],
)
def test_starting_is_light(code: str) -> None:
    assert loaded_by(code) == set()


def test_folding_needs_neither_onnx_nor_its_runtime(samples: Path, tmp_path: Path) -> None:
    fold = f"from bnfold.cli import main; assert not main(['{samples}/%s, '-o', '{tmp_path}/x', '--no-verify'])"
    assert loaded_by(fold % "keras.onnx'").isdisjoint({"onnx", "onnxruntime", "rich", "google"})
    pair = f"cifar10.prototxt', '{samples}/cifar10.caffemodel'"
    assert loaded_by(fold % pair).isdisjoint({"onnx", "onnxruntime", "rich"})


def test_public_names() -> None:
    for name in bnfold.__all__:
        assert getattr(bnfold, name) is not None
    assert set(bnfold.__all__) <= set(dir(bnfold))
    with pytest.raises(AttributeError, match="nothing"):
        _ = bnfold.nothing


def test_only_the_command_line_prints() -> None:
    for path in PACKAGE.rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        prints = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not prints or path.name == "cli.py", path
