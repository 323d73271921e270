"""Every exit status, and what is printed where; never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import bnfold
from bnfold import cli, errors, pipeline


@pytest.fixture
def work(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with copies of the samples, which is the current one."""
    for path in samples.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    relu = 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }'
    (tmp_path / "plain.prototxt").write_text('input: "x" input_shape { dim: 1 dim: 2 } ' + relu)
    monkeypatch.chdir(tmp_path)
    return tmp_path


CAFFE = ["cifar10.prototxt", "cifar10.caffemodel"]
PLAIN = ["plain.prototxt", "cifar10.caffemodel"]
"""A net without BatchNorm."""

BNFOLD = [sys.executable, "-m", "bnfold"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(bnfold.__file__).parent.parent)}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BNFOLD, *words], capture_output=True, text=True, check=False, env=ENVIRONMENT)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_done_0(work: Path) -> None:
    done = run(*CAFFE, "-o", "folded")
    assert (done.returncode, done.stderr) == (0, "")
    for word in (
        "2 folded",
        "pool1 (Pooling)",
        "BatchNorm  2 ",
        "Verified by onnxruntime",
        "folded.caffemodel",
    ):
        assert word in done.stdout
    assert (work / "folded.prototxt").exists()
    again = run("folded.caffemodel", "folded.prototxt", "-o", "twice")
    assert again.returncode == 0
    assert "Nothing to fold" in again.stdout
    assert "identical" in again.stdout
    for suffix in (".prototxt", ".caffemodel"):
        assert (work / f"folded{suffix}").read_bytes() == (work / f"twice{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["x.prototxt", "x.caffemodel"])
def test_the_suffix_of_either_file_may_name_the_pair(work: Path, name: str) -> None:
    assert cli.main([*CAFFE, "-o", name, "--no-verify", "--quiet"]) == 0
    assert (work / "x.prototxt").exists()
    assert (work / "x.caffemodel").exists()


def test_verification_failed_1(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from bnfold.verification import verifier as verify

    def differ(self: Any, *args: Any) -> verify.Verification:
        wrong = verify.Compared("y", "bn1 → conv1", 0.5, 1e-7, 1e-6)
        return verify.Verification(engine="onnxruntime", draws=2, inner=[wrong])

    monkeypatch.setattr(verify.Verifier, "compare", differ)
    before = names(work)
    assert cli.main(["keras.onnx", "-o", "folded.onnx", "--json", "-"]) == 1
    out, err = capsys.readouterr()
    assert "first at 'y' (where bn1 → conv1)" in err
    assert json.loads(out)["verification"]["first_wrong"] == "y"
    assert names(work) == before
    assert cli.main(["keras.onnx", "-o", "folded.onnx"]) == 1
    assert "NOT EQUAL" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["keras.onnx"],
        ["keras.onnx", "-o"],
        ["keras.onnx", "-o", "x.onnx", "--unheard"],
        ["keras.onnx", "-o", "x.onnx", "--phase", "LUNCH"],
        ["cifar10.prototxt", "-o", "x"],
        ["cifar10.caffemodel", "-o", "x"],
        ["keras.onnx", "cifar10.caffemodel", "-o", "x"],
        ["keras.onnx", "-o", ".."],
        ["keras.onnx", "-o", "x.onnx", "--onnx"],
        ["keras.onnx", "-o", "x.onnx", "--phase", "TEST"],
        ["keras.onnx", "-o", "x.onnx", "--stage", "deploy"],
        ["keras.onnx", "-o", "x.onnx", "--level", "0"],
        ["keras.onnx", "-o", "x.onnx", "--bn-blobs", "mean,variance,factor"],
        ["plan", "keras.onnx", "--level", "1"],
        [*CAFFE, "-o", "x", "--freeze"],
        ["plan", *CAFFE, "--freeze"],
        ["keras.onnx", "-o", "x.onnx", "--keep", "nobody"],
        ["keras.onnx", "keras.onnx", "-o", "x.onnx"],
        ["keras.onnx", "-o", "x.onnx", "--json", "keras.onnx"],
        ["keras.onnx", "-o", "x.onnx", "--json", "x.onnx"],
        [*CAFFE, "-o", "x", "--json", "x.prototxt"],
        [*CAFFE, "-o", "x", "--bn-blobs", "weird"],
        [*PLAIN, "-o", "x", "--bn-blobs", "mean,weird"],
        [*PLAIN, "-o", "x", "--bn-blobs", "mean,mean"],
        ["plan", *PLAIN, "--bn-blobs", ""],
        ["export", *PLAIN, "-o", "x.onnx", "--bn-blobs", "weird"],
        ["plan"],
        ["export", *CAFFE],
        ["export", *CAFFE, "-o", "x.onnx", "--input", "data=1x"],
        ["export", *CAFFE, "-o", "x.onnx", "--opset", "0"],
        ["export", *CAFFE, "-o", "x.onnx", "--ir-version", "99"],
    ],
)
def test_usage_2(work: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    before = {p: p.read_bytes() for p in work.iterdir()}
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith("bnfold: ")
    assert {p: p.read_bytes() for p in work.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["keras.onnx", "-o", "x.onnx", "--phase", "TRAIN"], "--phase is for Caffe nets, and keras.onnx is an ONNX"),
        ([*CAFFE, "-o", "x", "--freeze"], "--freeze is for ONNX models, and cifar10.prototxt is a Caffe net"),
        ([*PLAIN, "-o", "x", "--bn-blobs", "foo"], "'foo', which no blob is called"),
        ([*PLAIN, "-o", "x", "--bn-blobs", "mean,mean"], "'mean' twice"),
    ],
)
def test_what_an_option_is_for(work: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert cli.main(words) == 2
    assert told in capsys.readouterr().err


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def other_bytes(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def a_page(path: Path) -> None:
    path.write_text("<html>Not found</html>")


@pytest.mark.parametrize("harm", [truncated, other_bytes, a_page, Path.unlink, lambda p: p.write_bytes(b"")])
@pytest.mark.parametrize("words", [["keras.onnx"], CAFFE, CAFFE[::-1]])
def test_bad_input_3(
    work: Path, capsys: pytest.CaptureFixture[str], words: list[str], harm: Callable[[Path], Any]
) -> None:
    harm(work / words[0])
    status = cli.main([*words, "-o", "x", "--quiet"])
    assert status in ((2, 3) if harm is a_page else (3,))  # a page is text, so it is taken for one prototxt too many
    assert words[0] in capsys.readouterr().err
    assert not (work / "x").exists()


def test_strict_4(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["train_test.prototxt", "train_test.caffemodel", "--strict", "-o", "folded"]
    before = names(work)
    assert cli.main([*pair, "--phase", "TRAIN"]) == 4
    out, err = capsys.readouterr()
    assert "BatchNorm kept: bn1" in err
    assert "batch-statistics" in out
    assert names(work) == before
    assert cli.main([*pair, "--quiet"]) == 0


def test_could_not_write_5(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keras.onnx", "-o", "nowhere/folded.onnx"]) == 5
    assert "create it first" in capsys.readouterr().err
    assert cli.main(["keras.onnx", "-o", "x.onnx", "--json", "nowhere/report.json"]) == 5
    assert not (work / "x.onnx").exists()
    (work / "folded.onnx").mkdir()
    assert cli.main(["keras.onnx", "-o", "folded.onnx"]) == 5


def test_a_fault_of_bnfold_itself(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **named: Any) -> None:
        try:
            raise KeyError("lost")
        except KeyError as error:
            raise ZeroDivisionError("oops") from error

    monkeypatch.setattr(pipeline, "fold", fail)
    assert cli.main(["keras.onnx", "-o", "x.onnx"]) == 70
    err = capsys.readouterr().err
    assert "a fault of bnfold itself: ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    assert cli.main(["keras.onnx", "-o", "x.onnx", "--debug"]) == 70
    told = capsys.readouterr().err.splitlines()
    assert told.count("Traceback (most recent call last):") == 2
    assert told.index("KeyError: 'lost'") < told.index("bnfold: a fault of bnfold itself: ZeroDivisionError: oops")
    assert any("test_cli.py" in line for line in told)


def test_interrupt_130(monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    def interrupted(*args: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "fold", interrupted)
    assert cli.main(["keras.onnx", "-o", "x.onnx"]) == 130


INTERRUPTED = """
import os, signal, sys
import bnfold.{module}
from bnfold import cli

real = bnfold.{module}.{function}

def interrupting(*args, **how):
    os.killpg(0, signal.SIGINT)
    return real(*args, **how)

bnfold.{module}.{function} = interrupting
sys.exit(cli.main(["keras.onnx", "-o", "x.onnx"]))
"""
"""The program that interrupts its whole group, as Ctrl-C does, the verification's process included."""


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("pipeline", "open_document"),
        ("pipeline", "_planned"),
        ("files", "Staging.write"),
        ("pipeline", "_verified"),
        ("verification.verifier", "Verifier.compare"),
        ("files", "Staging.commit"),
    ],
)
def test_interrupt_while_it_runs(work: Path, module: str, function: str) -> None:
    """At several moments: no traceback, no droppings."""
    before = names(work)
    program = [sys.executable, "-c", INTERRUPTED.format(module=module, function=function)]
    done = subprocess.run(program, capture_output=True, check=False, env=ENVIRONMENT, start_new_session=True)
    assert (done.returncode, done.stderr) == (130, b"")
    assert names(work) == before


def test_a_closed_pipe(work: Path) -> None:
    command = f"{sys.executable} -m bnfold plan keras.onnx | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def test_an_encoding_that_lacks_a_character(work: Path) -> None:
    model = onnx.load("keras.onnx")
    model.graph.node[1].name = "σ"
    onnx.save(model, "keras.onnx")
    command = [*BNFOLD, "plan", "keras.onnx"]
    done = subprocess.run(command, capture_output=True, check=False, env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u03c3" in done.stdout


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["plan", "--help"], ["export", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 0
    out = capsys.readouterr().out
    assert "exit status" in out
    assert all(len(line) <= 120 for line in out.splitlines())


def test_plan_writes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(work)
    assert cli.main(["plan", *CAFFE]) == 0
    assert "2 folded" in capsys.readouterr().out
    assert cli.main(["plan", "keras.onnx", "--json"]) == 0
    assert [fold["way"] for fold in json.loads(capsys.readouterr().out)["folds"]] == ["up", "up"]
    assert names(work) == before


def test_a_file_named_as_a_command(work: Path) -> None:
    shutil.copy("keras.onnx", "plan")
    assert cli.main(["./plan", "-o", "folded.onnx", "--quiet"]) == 0
    assert (work / "folded.onnx").exists()


def test_json_and_quiet(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keras.onnx", "-o", "x.onnx", "--json", "report.json", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    told = json.loads((work / "report.json").read_text())
    assert told["verification"]["passed"]
    assert told["files"] == [{"path": str(work / "x.onnx"), "size": (work / "x.onnx").stat().st_size}]


def test_export(work: Path) -> None:
    assert cli.main(["export", *CAFFE, "-o", "net.onnx", "--dynamic-batch", "--opset", "15"]) == 0
    model = onnx.load(work / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 15
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert cli.main([*CAFFE, "-o", "folded", "--onnx", "--quiet"]) == 0
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(work / "folded.onnx").graph.node}


def test_statuses_are_those_of_the_errors() -> None:
    kinds = [errors.VerificationError, errors.UsageError, errors.InputError, errors.StrictError, errors.OutputError]
    assert [kind.status for kind in kinds] == [1, 2, 3, 4, 5]
