"""Whatever a model's names hold, nothing of it steers a terminal, forges a line or turns the reading direction."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold import cli, pipeline
from bnfold.errors import BnfoldError, InputError
from bnfold.printable import printable
from bnfold.report.data import as_data
from bnfold.report.json_form import as_json
from bnfold.report.tables import Table, as_tables
from bnfold.report.terminal import write_text

EVIL = "\x1b]0;t\x07\nFORGED\r\x7f\u202e\u2066\x85\u2028\u200b\udc80"
SHOWN = r"\x1b]0;t\x07\nFORGED\r\x7f\u202e\u2066\x85\u2028\u200b\x80"
"""`EVIL`, escaped."""


def assert_clean(text: str) -> None:
    """Nothing but printable characters and the lines' own ends, and no line that a name has begun."""
    assert all(character.isprintable() for character in text.replace("\n", "")), ascii(text)
    assert not any(line.strip().startswith("FORGED") for line in text.split("\n"))


def stored(path: Path, model: onnx.ModelProto) -> None:
    """With the byte 0x80, which protobuf does not write into a text, where `EVIL` has it."""
    path.write_bytes(model.SerializeToString().replace("¢¢".encode(), b"\xe2\x80\x8b\x80"))


def evil(name: str) -> str:
    """`name` with `EVIL` behind it, as `stored` takes it."""
    return name + EVIL.replace("\u200b\udc80", "¢¢")


def an_onnx_model(**changed: Any) -> onnx.ModelProto:
    """Conv → BatchNormalization → an operator that nobody knows → BatchNormalization, all with evil names."""
    rng = np.random.default_rng(0)
    constants = {evil("w"): rng.normal(size=(3, 2, 1, 1))}
    constants |= {evil(f"{part}{i}"): rng.uniform(0.5, 1.5, 3) for part in "gbmv" for i in (1, 2)}
    bn = [[evil(f"{part}{i}") for part in "gbmv"] for i in (1, 2)]
    nodes = [
        helper.make_node("Conv", [evil("x"), evil("w")], [evil("c")], name=evil("conv")),
        helper.make_node("BatchNormalization", [evil("c"), *bn[0]], [evil("n")], name=evil("bn1")),
        helper.make_node(evil("Op"), [evil("n")], [evil("o")], name=evil("odd"), domain=evil("domain")),
        helper.make_node("BatchNormalization", [evil("o"), *bn[1]], [evil("y")], name=evil("bn2")),
    ]
    inputs = [helper.make_tensor_value_info(evil("x"), TensorProto.FLOAT, [1, 2, 4, 4])]
    outputs = [helper.make_tensor_value_info(evil("y"), TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, evil("net"), inputs, outputs, tensors)
    domains = [helper.make_opsetid("", 15), helper.make_opsetid(evil("domain"), 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8)


NET = """name: "net{0}"
layer {{ name: "data{0}" type: "Input" top: "data{0}" input_param {{ shape {{ dim: 1 dim: 3 dim: 4 dim: 4 }} }} }}
layer {{ name: "conv{0}" type: "Convolution" bottom: "data{0}" top: "c{0}"
  convolution_param {{ num_output: 3 kernel_size: 1 bias_term: false }} }}
layer {{ name: "p{0}" type: "Power" bottom: "c{0}" top: "p{0}" power_param {{ scale: 2 }} }}
layer {{ name: "odd{0}" type: "Odd{0}" bottom: "p{0}" top: "o{0}" }}
layer {{ name: "q{0}" type: "Power" bottom: "o{0}" top: "z{0}" power_param {{ scale: 3 }} }}
"""


def a_caffe_net(folder: Path) -> list[Path]:
    """Convolution → Power → a layer that nobody knows → Power, all with evil names."""
    from caffe.build import stored as layer

    name = "".join(f"\\{byte:03o}" for byte in EVIL.encode("utf-8", "surrogateescape"))
    (folder / "net.prototxt").write_text(NET.format(name))
    (folder / "net.caffemodel").write_bytes(layer("conv" + EVIL, np.ones((3, 3, 1, 1), np.float32)))
    return [folder / "net.prototxt", folder / "net.caffemodel"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=["onnx", "caffe"])
def sources(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """In a folder whose name is not printable either."""
    folder = tmp_path / "in\x1b\u202e"
    folder.mkdir()
    if request.param == "caffe":
        return a_caffe_net(folder)
    stored(folder / "net.onnx", an_onnx_model())
    return [folder / "net.onnx"]


def test_what_is_escaped_and_what_is_not() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("σ → \\ 'conv/1' 卷积 é") == "σ → \\ 'conv/1' 卷积 é"
    assert printable("\ud800\U000e0001") == r"\ud800\U000e0001"


def test_reports(sources: Sequence[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = list(map(str, sources))
    assert cli.main(["plan", *words]) == 0
    assert cli.main([*words, "-o", str(sources[0].with_name("out")), "--no-verify"]) == 0
    told = capsys.readouterr()
    assert_clean(told.out)
    assert told.err == ""
    assert told.out.count(SHOWN) >= 6
    assert r"in\x1b\u202e" in told.out
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Terminal()
    write_text(as_tables(as_data(pipeline.explain(sources))), screen)
    plain = re.sub("\x1b\\[[0-9;]*m", "", screen.getvalue())  # the emphasis is rich's own
    assert plain != screen.getvalue()
    assert_clean(plain)
    assert plain.count(SHOWN) >= 3


def test_headings_and_columns() -> None:
    for stream in (io.StringIO(), Terminal()):
        write_text([Table(EVIL, (EVIL, "b"), [["a", EVIL]]), Table("", (), [[EVIL]])], stream)
        plain = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue())
        assert_clean(plain)
        assert "FORGED" in plain


def test_json_is_plain_ascii_and_holds_the_names(sources: Sequence[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *map(str, sources), "--json"]) == 0
    out = capsys.readouterr().out
    assert_clean(out)
    assert out.isascii()
    assert json.loads(out)["folds"][0]["into"][0]["name"] == json.loads(as_json({"x": "conv" + EVIL}))["x"]


def test_errors(sources: Sequence[Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = list(map(str, sources))
    out = str(sources[0].with_name("out"))
    cli.main([*words, "-o", out])  # nothing runs such names
    assert_clean("".join(capsys.readouterr()))
    for wrong in (
        [*words, "-o", out, "--keep", EVIL],
        [*words, "-o", out, EVIL],
        [str(sources[0]) + EVIL, "-o", out],
        [*words, "-o", "nowhere" + EVIL + "/out"],
        ["export", *words[:1], "absent" + EVIL, "-o", out],
    ):
        cli.main(wrong)
        told = capsys.readouterr()
        assert_clean(told.out + told.err)
        assert "\\x" in told.out + told.err


def test_an_error_of_the_model_itself(tmp_path: Path) -> None:
    model = an_onnx_model()
    model.graph.node[1].input[0] = evil("gone")
    model.graph.node.append(model.graph.node[0])
    stored(tmp_path / "net.onnx", model)
    with pytest.raises(InputError) as told:
        pipeline.explain(tmp_path / "net.onnx")
    assert_clean(str(told.value))
    assert "FORGED" in str(told.value)


def test_the_attributes_of_an_error_are_raw() -> None:
    error = BnfoldError(EVIL, where=EVIL, hint=EVIL)
    assert (error.what, error.where, error.hint) == (EVIL, EVIL, EVIL)
    assert str(error) == f"{SHOWN}: {SHOWN}\n  hint: {SHOWN}"


@pytest.mark.parametrize("more", [[], ["--debug"]])
def test_a_fault_of_bnfold_itself(
    more: list[str], samples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> None:
        try:
            raise KeyError(EVIL)
        except KeyError:
            raise RuntimeError(EVIL) from None

    monkeypatch.setattr(pipeline, "explain", fail)
    assert cli.main(["plan", str(samples / "keras.onnx"), *more]) == 70
    err = capsys.readouterr().err
    assert_clean(err)
    assert f"RuntimeError: {SHOWN}" in err


@pytest.mark.parametrize(
    ("name", "told_"),
    [("a", "a"), ("50%", "50%"), ("\udcb2\udcbf", "%b2%bf"), ("\udcca", "%ca"), ("%ca", "%25ca"), ("卷积", "卷积")],
    ids=["plain", "percent", "two", "one", "like one", "words"],
)
def test_json_has_valid_text_and_no_two_names_in_one(name: str, told_: str) -> None:
    made = json.loads(as_json({"x": [{"name": name}], name: 1, "path": name}))
    assert made == {"x": [{"name": told_}], told_: 1, "path": name}
