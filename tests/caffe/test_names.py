"""Names are bytes: none is lost, none becomes another, and ONNX gets text in their place."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.caffe.export import model
from bnfold.caffe.net import load
from bnfold.names import Names, legible
from bnfold.report import as_data

from .build import Files, assert_equal, batch_norm, bn, check, conv, data, fold, he, layer, run, save, stored


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


GBK, OTHER = (bytes.fromhex(code).decode("utf-8", "surrogateescape") for code in ("BEEDBBFD", "B9E9D2BB"))
"""Two words in GBK, of which some bytes are no UTF-8."""


def octal(name: str) -> str:
    """The name as text format escapes it."""
    return "".join(f"\\{byte:03o}" for byte in encoded(name))


def chain(folder: Path, one: str, other: str, spelled: tuple[str, str] | None = None) -> Files:
    """Convolution `one` into blob `one`, BatchNorm `other` in place on it, Convolution `one`/`other` into `other`."""
    a, b = spelled or (one, other)
    text = data() + conv(a, "data", a) + bn(b, a, a) + conv(f"{a}/{b}", a, b)
    filters = he(4, 4, 1, 1), he(4)
    weights = [stored(one, *filters), stored(other, *batch_norm(4)), stored(f"{one}/{other}", *filters)]
    return save(folder, encoded(text), weights)


@pytest.mark.parametrize("spell", [str, octal])
@pytest.mark.parametrize(
    ("one", "other"),
    [(GBK, OTHER), (GBK, "%BE%ED%BB%FD"), ("卷积", "归一"), (GBK, "\ufffd\ufffd"), ("a", GBK)],
)
def test_names_of_any_bytes_fold_and_stay(one: str, other: str, spell: Callable[[str], str], tmp_path: Path) -> None:
    files = chain(tmp_path, one, other, (spell(one), spell(other)))
    folded = fold(files, verify=True)
    assert folded.result.verification is not None
    assert folded.result.verification.proven
    lines = files.prototxt.read_bytes().splitlines()
    assert folded.files.prototxt.read_bytes().splitlines() == [lines[0], lines[1], lines[3]]
    assert [name for name, _ in folded.stored] == [one, f"{one}/{other}"]
    assert_equal(run(files), run(folded.files))


def test_a_name_with_a_nul_is_escaped_where_c_strings_are(tmp_path: Path) -> None:
    files = chain(tmp_path, "a\0b", "a", (r"a\000b", "a"))
    folded = fold(files, verify=True)
    assert folded.types == ["Input", "Convolution", "Convolution"]
    assert_equal(run(files), run(folded.files))


def test_two_names_that_differ_never_become_one(tmp_path: Path) -> None:
    """Read with replacement characters both filters would be one, and so would the weights."""
    text = data() + conv(GBK, "data", GBK) + conv(OTHER, "data", OTHER) + layer("Eltwise", "e", f"{GBK} {OTHER}", "y")
    weights = [stored(GBK, he(4, 4, 1, 1), he(4)), stored(OTHER, -he(4, 4, 1, 1), -he(4))]
    (y,) = run(save(tmp_path, encoded(text), weights)).values()
    np.testing.assert_array_equal(y, np.zeros_like(y))
    shared = f'param {{ name: "{GBK}" }}', f'param {{ name: "{OTHER}" }}'
    text = data() + conv("a", "data", "a", body=shared[0]) + conv("b", "a", "b", body=shared[1])
    net = load(*save(tmp_path, encoded(text), {"a": [he(4, 4, 1, 1), he(4)], "b": [2 * he(4, 4, 1, 1), he(4)]}))
    assert [layer.shared for layer in net.layers[1:]] == [[GBK], [OTHER]]
    assert [float(layer.blobs[0].array().flat[0] / he(4, 4, 1, 1).flat[0]) for layer in net.layers[1:]] == [1, 2]


@pytest.mark.parametrize(("stages", "active"), [((GBK,), True), ((OTHER,), False), ((), False)])
def test_stages_are_bytes(stages: tuple[str, ...], active: bool, tmp_path: Path) -> None:
    text = data() + layer("ReLU", "r", "data", "y", f'include {{ stage: "{octal(GBK)}" }}')
    net = load(*save(tmp_path, text, {"x": [np.ones(1)]}), stages=stages)
    assert [layer.name for layer in net.layers] == (["data", "r"] if active else ["data"])


def test_a_kept_blob_and_an_input_of_any_name(tmp_path: Path) -> None:
    text = data(2, 4, 6, 6, name=GBK) + conv("c", GBK, OTHER) + bn("b", OTHER, "y")
    files = save(tmp_path, encoded(text), {"c": [he(4, 4, 1, 1), he(4)], "b": batch_norm(4)})
    assert fold(files).types == ["Input", "Convolution"]
    kept = fold(files, keep=(OTHER,), inputs=((GBK, (1, 4, 8, 8)),), verify=True)
    assert kept.types == ["Input", "Convolution", "Scale"]
    assert run(files, inputs={GBK: (1, 4, 3, 3)})["y"].shape == (1, 4, 3, 3)


def test_onnx_gets_text(tmp_path: Path) -> None:
    stream = io.BytesIO()
    model(*chain(tmp_path, GBK, "%BE%ED%BB%FD")).write(stream)
    found = onnx.load_from_string(stream.getvalue())
    onnx.checker.check_model(found)
    assert [output.name for output in found.graph.output] == ["%BE%ED%BB%FD"]
    assert len({name for node in found.graph.node for name in node.output}) == len(found.graph.node)


def test_the_report_tells_names_apart(tmp_path: Path) -> None:
    text = data() + layer("Odd", GBK, "data", "a") + layer("Odd", OTHER, "data", "b")
    told = json.loads(json.dumps(as_data(fold(save(tmp_path, encoded(text), {"x": [np.ones(1)]})).result)))
    assert [layer["layer"] for layer in told["opaque"]] == [GBK, OTHER]


@pytest.mark.parametrize(
    ("name", "text"),
    [(GBK, "%BE%ED%BB%FD"), ("a\0", "a%00"), ("卷积", "卷积"), ("%BE", "%BE"), ("", ""), ("\1", "\1")],
)
def test_legible_names(name: str, text: str) -> None:
    assert legible(name) == text


def test_an_escaped_name_is_none_that_is_taken() -> None:
    assert Names(["%BE%ED%BB%FD"]).unique(GBK) == "%BE%ED%BB%FD_1"


# --------------------------------------------------------------------------------------------------- the empty name


def nameless(text: str) -> str:
    return text.replace('"_"', '""')


@pytest.mark.parametrize(
    "net",
    [
        data() + conv("c", "data", "_") + bn("b", "_", "_") + layer("ReLU", "r", "_", "y"),
        data() + conv("c", "data", "_") + bn("b", "_", "_"),
        data() + conv("c", "data", "_") + bn("b", "_", "y"),
        data(name="_") + conv("c", "_", "c") + bn("b", "c", "c"),
        data() + conv("c", "data", "c") + bn("b", "c", "_") + conv("d", "_", "unnamed"),
    ],
)
def test_a_blob_without_a_name_is_a_blob(net: str, tmp_path: Path) -> None:
    weights = {"c": [he(4, 4, 1, 1), he(4)], "b": batch_norm(4), "d": [he(4, 4, 1, 1), he(4)]}
    folded = check(save(tmp_path, nameless(net), weights), verify=True)
    assert "BatchNorm" not in folded.types
    assert folded.result.verification is not None
    assert folded.result.verification.proven


def test_layers_without_a_name(tmp_path: Path) -> None:
    net = nameless(data() + conv("_", "data", "c") + bn("b", "c", "c") + layer("ReLU", "_", "c", "d"))
    assert check(save(tmp_path, net, {"": [he(4, 4, 1, 1), he(4)], "b": batch_norm(4)})).types == [
        "Input", "Convolution", "ReLU",
    ]  # fmt: skip
