"""The input is overwritten by no name that it has unless that is asked for; a model has no say in what is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import bnfold
from bnfold import cli
from bnfold.files import same_file

CAFFE = ["net.prototxt", "net.caffemodel"]
BN = "BatchNormalization"


@pytest.fixture
def work(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of each format, and one whose data lies in `weights`; the current one."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(samples / "keras.onnx", folder / "k.onnx")
    for name in CAFFE:
        shutil.copy((samples / "cifar10").with_suffix(Path(name).suffix), folder / name)
    model = onnx.load(samples / "keras.onnx")
    onnx.save_model(model, folder / "big.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(work: Path, *words: str, status: int = 2) -> None:
    before = contents(work)
    assert cli.main([*words, "--no-verify", "--quiet"]) == status
    assert contents(work) == before


def linked(work: Path) -> str:
    (work / "link.onnx").symlink_to("k.onnx")
    return "link.onnx"


def hard(work: Path) -> str:
    (work / "hard.onnx").hardlink_to(work / "k.onnx")
    return "hard.onnx"


def through_a_linked_folder(work: Path) -> str:
    (work / "around").symlink_to(work, target_is_directory=True)
    return "around/k.onnx"


SPELLINGS: dict[str, Callable[[Path], str]] = {
    "itself": lambda work: "k.onnx",
    "from here": lambda work: "./k.onnx",
    "by way of the folder above": lambda work: f"../{work.name}/k.onnx",
    "absolute": lambda work: str(work / "k.onnx"),
    "a link": linked,
    "a hard link": hard,
    "through a linked folder": through_a_linked_folder,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_model_is_not_overwritten(work: Path, spelling: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = SPELLINGS[spelling](work)
    refused(work, "k.onnx", "-o", name)
    assert "--in-place" in capsys.readouterr().err
    refused(work, name, "-o", "k.onnx")


@pytest.mark.skipif(os.path.normcase("A") == "a", reason="the system takes letters alike anyway")
def test_letters_that_a_file_system_takes_alike(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, stat = Path.samefile, Path.stat
    monkeypatch.setattr(Path, "samefile", lambda one, other: real(*(Path(str(p).lower()) for p in (one, other))))
    monkeypatch.setattr(Path, "stat", lambda path, **how: stat(Path(str(path).lower()), **how))
    refused(work, "k.onnx", "-o", "K.ONNX")


def test_names_of_files_that_are_not_there(tmp_path: Path) -> None:
    assert same_file(tmp_path / "a.onnx", tmp_path / "x" / ".." / "A.onnx")
    assert not same_file(tmp_path / "a.onnx", tmp_path / "b.onnx")
    (tmp_path / "a.onnx").touch()
    assert not same_file(tmp_path / "a.onnx", tmp_path / "c.onnx")
    assert not same_file(tmp_path / "a\0.onnx", tmp_path / "a.onnx")


@pytest.mark.parametrize("out", ["net", "net.prototxt", "net.CAFFEMODEL", "./net"])
def test_a_net_is_not_overwritten(work: Path, out: str) -> None:
    refused(work, *CAFFE, "-o", out)


@pytest.mark.parametrize("name", CAFFE)
def test_neither_of_two_files_is_overwritten(work: Path, name: str) -> None:
    other = f"other{Path(name).suffix}"
    (work / name).rename(work / other)
    refused(work, *(other if name == given else given for given in CAFFE), "-o", "other")


def test_what_else_is_written_overwrites_nothing(work: Path) -> None:
    refused(work, "big.onnx", "-o", "weights")
    refused(work, "big.onnx", "-o", "b.onnx", "--json", "weights")
    refused(work, "k.onnx", "-o", "b.onnx", "--json", "k.onnx")
    refused(work, "k.onnx", "-o", "k.onnx", "--in-place", "--json", "./k.onnx")
    refused(work, "k.onnx", "-o", "b.onnx", "--json", "b.onnx")
    refused(work, "big.onnx", "-o", "b.onnx", "--json", "b.onnx.data")
    refused(work, *CAFFE, "-o", "b", "--json", "b.caffemodel")
    refused(work, *CAFFE, "-o", "b", "--onnx", "--json", "b.onnx")
    (work / "net.prototxt").rename(work / "b.onnx")
    refused(work, "b.onnx", "net.caffemodel", "-o", "b", "--onnx")


def test_an_export_overwrites_nothing(work: Path) -> None:
    for name in CAFFE:
        before = contents(work)
        assert cli.main(["export", *CAFFE, "-o", str(work / name)]) == 2
        assert contents(work) == before


def test_data_that_another_model_would_lose(work: Path) -> None:
    """The input's data has the name that the result's is to have; in place or not, the input would be left without."""
    model = onnx.load(work / "k.onnx")
    where = {"save_as_external_data": True, "location": "out.onnx.data", "size_threshold": 0}
    onnx.save_model(model, work / "in.onnx", **where)
    refused(work, "in.onnx", "-o", "out.onnx")
    refused(work, "in.onnx", "-o", "out.onnx", "--in-place")


@pytest.mark.parametrize("words", [["-o", "k.onnx"], []])
def test_in_place(work: Path, words: list[str]) -> None:
    assert cli.main(["k.onnx", *words, "--in-place", "--quiet"]) == 0
    assert BN not in {node.op_type for node in onnx.load(work / "k.onnx").graph.node}


@pytest.mark.parametrize("words", [["-o", "net"], []])
def test_a_net_in_place(work: Path, words: list[str]) -> None:
    assert cli.main([*CAFFE, *words, "--in-place", "--quiet"]) == 0
    assert '"BatchNorm"' not in (work / "net.prototxt").read_text()
    assert sorted(contents(work)) == ["big.onnx", "k.onnx", "net.caffemodel", "net.prototxt", "weights"]


def test_files_of_two_names_are_replaced_under_them(work: Path) -> None:
    (work / "net.prototxt").rename(work / "deploy.txt")
    (work / "net.caffemodel").rename(work / "trained.bin")
    assert cli.main(["deploy.txt", "trained.bin", "--in-place", "--onnx", "--quiet"]) == 0
    assert sorted(contents(work)) == ["big.onnx", "deploy.onnx", "deploy.txt", "k.onnx", "trained.bin", "weights"]
    assert '"BatchNorm"' not in (work / "deploy.txt").read_text()


def test_half_of_a_net_is_not_replaced(work: Path) -> None:
    (work / "net.prototxt").rename(work / "deploy.prototxt")
    refused(work, "deploy.prototxt", "net.caffemodel", "-o", "net", "--in-place")
    (work / "far").mkdir()
    (work / "net.caffemodel").rename(work / "far" / "net.caffemodel")
    refused(work, "deploy.prototxt", "far/net.caffemodel", "--in-place")


def test_in_place_without_a_name_in_python(work: Path) -> None:
    result = bnfold.fold("k.onnx", options=bnfold.Options(in_place=True, verify=False))
    assert list(result.files) == [work / "k.onnx"]


def test_a_result_needs_a_name(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(work, "k.onnx")
    assert "-o" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ external data


def run(path: Path) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {
        i.name: rng.standard_normal([d if isinstance(d, int) else 1 for d in i.shape], np.float32)
        for i in session.get_inputs()
    }
    return list(session.run(None, feeds))


def test_a_model_names_no_file(work: Path) -> None:
    """Its weights lie where a test of somebody has its fixtures."""
    model = onnx.load(work / "k.onnx")
    onnx.save_model(model, work / "evil.onnx", save_as_external_data=True, location="py", size_threshold=0)
    (work / "conftest.py").write_text("precious")
    assert cli.main(["evil.onnx", "-o", "conftest.onnx", "--quiet"]) == 0
    assert (work / "conftest.py").read_text() == "precious"
    assert {"conftest.onnx", "conftest.onnx.data"} <= set(contents(work))
    np.testing.assert_allclose(run(work / "conftest.onnx")[0], run(work / "k.onnx")[0], rtol=1e-3, atol=1e-6)


def test_several_data_files_have_numbers(work: Path) -> None:
    model = onnx.load(work / "k.onnx")
    (work / "deep").mkdir()
    for index, tensor in enumerate(model.graph.initializer):
        name = f"deep/part{index % 3}"
        with (work / name).open("ab") as stream:
            onnx.external_data_helper.set_external_data(tensor, name, stream.tell(), len(tensor.raw_data))
            stream.write(tensor.raw_data)
        tensor.ClearField("raw_data")
    onnx.save_model(model, work / "parts.onnx")
    assert cli.main(["parts.onnx", "-o", "out.onnx", "--quiet"]) == 0
    made = sorted(name for name in contents(work) if name.startswith("out"))
    assert made == ["out.onnx", "out.onnx.data", "out.onnx.data.1"], "all tensors of the third file are folded"
    np.testing.assert_allclose(run(work / "out.onnx")[0], run(work / "k.onnx")[0], rtol=1e-3, atol=1e-6)


def test_only_the_data_of_an_earlier_result_is_replaced(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "out.onnx.data").write_text("precious")
    refused(work, "big.onnx", "-o", "out.onnx", status=5)
    assert "remove that file" in capsys.readouterr().err
    shutil.copy(work / "k.onnx", work / "out.onnx")
    refused(work, "big.onnx", "-o", "out.onnx", status=5)
    (work / "out.onnx.data").unlink()
    for _ in "ab":
        assert cli.main(["big.onnx", "-o", "out.onnx", "--quiet"]) == 0
    np.testing.assert_allclose(run(work / "out.onnx")[0], run(work / "k.onnx")[0], rtol=1e-3, atol=1e-6)


def test_data_of_a_model_that_stays_under_another_name_stays(work: Path) -> None:
    assert cli.main(["big.onnx", "-o", "out.onnx", "--quiet"]) == 0
    (work / "out.onnx").rename(work / "elsewhere.onnx")
    (work / "out.onnx").symlink_to("elsewhere.onnx")
    refused(work, "big.onnx", "-o", "out.onnx", status=5)


def test_data_in_place_goes_to_the_model_s_own_name(work: Path) -> None:
    before = (work / "weights").read_bytes()
    for _ in "ab":
        assert cli.main(["big.onnx", "--in-place", "--quiet"]) == 0
        assert (work / "weights").read_bytes() == before
    np.testing.assert_allclose(run(work / "big.onnx")[0], run(work / "k.onnx")[0], rtol=1e-3, atol=1e-6)
    assert "big.onnx.data" in contents(work)


def test_a_link_under_the_name_of_the_data_is_not_written_through(work: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (work / "out.onnx.data").symlink_to(tmp_path / "precious")
    refused(work, "big.onnx", "-o", "out.onnx", status=5)
    (work / "out.onnx.data").unlink()
    assert cli.main(["big.onnx", "-o", "out.onnx", "--quiet"]) == 0
    (work / "out.onnx.data").rename(tmp_path / "moved")
    (work / "out.onnx.data").symlink_to(tmp_path / "precious")
    assert cli.main(["big.onnx", "-o", "out.onnx", "--quiet"]) == 0
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (work / "out.onnx.data").is_symlink()
