"""Names are bytes: in any encoding, empty or with controls they stay as they are, and ONNX gets names it can write."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold import protobuf
from bnfold.caffe.export import onnx_model
from bnfold.caffe.net import load
from bnfold.cli import main
from bnfold.errors import InputError
from bnfold.ir import names

from .build import Files, assert_equal, batch_norm, bn, check, conv, data, fold, he, run, save, stored

ODD = {
    "gbk": (b"\xbe\xed", "xbexed"),
    "utf8": ("卷积".encode(), "卷积"),
    "half": (b"\xe4\xb8", "xe4xb8"),
    "control": (b"a\x01b", "a\x01b"),
    "nul": (b"a\0b", "ax00b"),
    "percent": (b"%ca%", "%ca%"),
    "empty": (b"", "unnamed"),
}


def quoted(name: bytes) -> bytes:
    return "".join(f"\\{byte:03o}" for byte in name).encode()


def named(text: str, name: bytes) -> bytes:
    """The text with NAME replaced by the name in escapes."""
    return text.encode().replace(b"NAME", quoted(name))


def weights(name: bytes) -> list[bytes]:
    return [stored(protobuf.decoded(name), he(4, 4, 1, 1), he(4, 1)[:, 0]), stored("n", *batch_norm(4))]


def exported(files: Files) -> onnx.ModelProto:
    stream = io.BytesIO()
    onnx_model(*files)[0].write(stream)
    proto = onnx.load_model_from_string(stream.getvalue())
    onnx.checker.check_model(proto)
    return proto


BEHIND = conv("NAME", "data", "NAME") + bn("n", "NAME", "y")
INSIDE = conv("NAME", "data", "NAME") + bn("n", "NAME", "NAME") + conv("c2", "NAME", "z")


@pytest.mark.parametrize("name", [name for name, _ in ODD.values()], ids=ODD)
@pytest.mark.parametrize("text", [BEHIND, INSIDE, conv("NAME", "data", "NAME") + bn("n", "NAME", "NAME")])
def test_a_net_with_an_odd_name_folds(tmp_path: Path, name: bytes, text: str) -> None:
    entries = [*weights(name), stored("c2", he(4, 4, 1, 1), he(4, 1)[:, 0])]
    folded = check(save(tmp_path, named(data() + text, name), entries), verify=True)
    assert "BatchNorm" not in folded.types
    assert folded.net.layers[1].name == protobuf.decoded(name)


@pytest.mark.parametrize(("name", "wanted"), ODD.values(), ids=ODD)
def test_an_odd_name_is_input_and_output(tmp_path: Path, name: bytes, wanted: str) -> None:
    text = named(data(name="NAME") + conv("c", "NAME", "y") + bn("n", "y", "y") + data(name="more"), name)
    text = text.replace(b'name: "%s"' % quoted(name), b'name: "in"')
    files = save(tmp_path, text, {"c": [he(4, 4, 1, 1), he(4, 1)[:, 0]], "n": batch_norm(4)})
    assert [value.name for value in exported(files).graph.input] == [wanted, "more"]
    check(files, verify=True)
    text = named(data() + BEHIND.replace('"y"', '"NAME"'), name)
    assert [value.name for value in exported(save(tmp_path, text, weights(name))).graph.output] == [wanted]


def test_a_name_is_the_same_in_raw_bytes_and_in_escapes(tmp_path: Path) -> None:
    spellings = b'"\xbe\xed\xe5\xb1\x82"', rb'"\276\355\345\261\202"', rb'"\xbe" "\xed\xe5" "\xb1" "\x82"'
    layers = [b'layer { name: %s type: "Input" top: %s }' % (one, one) for one in spellings]
    files = save(tmp_path, b"\n".join(layers), {})
    assert {layer.name for layer in load(*files).layers} == {"\udcbe\udced层"}


def test_two_names_never_become_one_in_onnx(tmp_path: Path) -> None:
    """Not either with one that is spelled as the other is escaped."""
    tops = [b"\xca", b"\xcb", b"xca", b"xca_1", b"", b"unnamed"]
    layers = [b'layer { name: "%s" type: "ReLU" bottom: "data" top: "%s" }' % (quoted(t), quoted(t)) for t in tops]
    files = save(tmp_path, data().encode() + b"\n".join(layers), {})
    proto = exported(files)
    found = [value.name for value in proto.graph.output]
    assert sorted(found) == ["unnamed", "unnamed_1", "xca", "xca_1", "xca_2", "xcb"]
    assert len({node.name for node in proto.graph.node}) == len(tops)


def test_names_for_comparing_are_injective_and_safe() -> None:
    raw = ["", "%", "%25", "%ca", "\udcca", "a\0", "a%00", "%2525", "卷"]
    spelled = [names.spelled(name) for name in raw]
    assert len(set(spelled)) == len(raw)
    assert all(name and "\0" not in name and name.encode() for name in spelled)
    assert names.spelled("conv1/bn_a:0") == "conv1/bn_a:0"


def test_an_output_is_compared_though_the_net_loses_the_layer_that_had_its_escaped_name(tmp_path: Path) -> None:
    text = (data() + conv("c", "data", "xca") + bn("n", "xca", "NAME")).encode().replace(b"NAME", b"\xca")
    files = save(tmp_path, text, {"c": [he(4, 4, 1, 1), he(4, 1)[:, 0]], "n": batch_norm(4)})
    folded = fold(files, verify=True)
    assert folded.result.verification is not None
    assert folded.result.verification.proven
    assert [compared.name for compared in folded.result.verification.outputs] == ["\udcca"]


def test_shared_names_that_differ_in_one_byte_are_two(tmp_path: Path) -> None:
    shared = b'param { name: "%s" }'
    text = data() + conv("c1", "data", "x", more="bias_term: false", body="P1")
    text += conv("c2", "data", "y", more="bias_term: false", body="P2")
    one, two = he(4, 4, 1, 1), he(4, 4, 1, 1, seed=1)
    for spelling in (b"\xbe\xed", rb"\276\355"):
        content = text.encode().replace(b"P1", shared % spelling)
        apart = save(tmp_path, content.replace(b"P2", shared % b"\xbe\xee"), {"c1": [one], "c2": [two]})
        assert [np.array_equal(layer.blobs[0].array(), one) for layer in load(*apart).layers[1:]] == [True, False]
        alike = save(tmp_path, content.replace(b"P2", shared % b"\xbe\xed"), {"c1": [one], "c2": [two]})
        assert [np.array_equal(layer.blobs[0].array(), two) for layer in load(*alike).layers[1:]] == [True, True]


def test_shared_names_of_2014_that_differ_in_one_byte_are_two(tmp_path: Path) -> None:
    text = "".join(
        f'layers {{ name: "c{i}" type: CONVOLUTION bottom: "data" top: "y{i}" param: "P{i}" '
        "convolution_param { num_output: 4 kernel_size: 1 } }\n"
        for i in (1, 2)
    )
    text = 'input: "data" input_dim: 1 input_dim: 4 input_dim: 2 input_dim: 2\n' + text
    files = save(tmp_path, text.encode().replace(b"P1", b"\xca").replace(b"P2", b"\xcb"), {})
    assert [layer.shared for layer in load(files.prototxt, None).layers[1:]] == [["\udcca"], ["\udccb"]]


def test_stages_that_differ_in_one_byte_are_two(tmp_path: Path) -> None:
    rule = b'layer { name: "%s" type: "Input" top: "%s" include { stage: "%s" } }\n'
    text = rule % (b"a", b"a", b"\xca") + rule % (b"b", b"b", b"\xcb") + rule % (b"c", b"c", rb"\312")
    files = save(tmp_path, text, {})
    assert [layer.name for layer in load(files.prototxt, None, stages=["\udcca"]).layers] == ["a", "c"]
    files.prototxt.write_bytes(b'state { stage: "\xcb" }\n' + text)
    assert [layer.name for layer in load(files.prototxt, None).layers] == ["b"]


def test_an_old_input_field_may_be_named_in_any_encoding(tmp_path: Path) -> None:
    text = b'input: "\xbe\xed" input_dim: 1 input_dim: 4 input_dim: 2 input_dim: 2\n'
    text += conv("c", "NAME", "y").encode().replace(b"NAME", b"\xbe\xed")
    files = save(tmp_path, text, {"c": [he(4, 4, 1, 1), he(4, 1)[:, 0]]})
    assert [value.name for value in exported(files).graph.input] == ["xbexed"]


def test_a_word_that_is_no_name_has_to_be_text(tmp_path: Path) -> None:
    text = b'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { data_filler { type: "\xca" } } }\n'
    with pytest.raises(InputError, match=r"type.*not UTF-8"):
        load(save(tmp_path, text, {}).prototxt, None)


def test_the_command_line_takes_such_names(tmp_path: Path) -> None:
    text = (data(name="NAME") + conv("c", "NAME", "x") + bn("n", "x", "NEXT")).encode()
    text = text.replace(b"NAME", b"\xbe\xed").replace(b"NEXT", b"").replace(b"dim: 6", b"dim: 5")
    files = save(tmp_path, text, {"c": [he(4, 4, 1, 1), he(4, 1)[:, 0]], "n": batch_norm(4)})
    paths, out = [str(path) for path in files], str(tmp_path / "out.onnx")
    assert main(["export", *paths, "-o", out, "--input", "\udcbe\udced=3x4x7x7"]) == 0
    shape = onnx.load(out).graph.input[0].type.tensor_type.shape
    assert [extent.dim_value for extent in shape.dim] == [3, 4, 7, 7]
    report = tmp_path / "report.json"
    keep = ["--keep", "\udcbe\udced", "--keep", "", "--keep", "x", "--json", str(report), "--quiet"]
    assert main([*paths, "-o", str(tmp_path / "kept"), *keep]) == 0
    assert b'type: "Scale" bottom: "x"' in (tmp_path / "kept.prototxt").read_bytes()
    assert json.loads(report.read_text("ascii"))


def test_two_layers_without_a_name_have_the_weights_of_the_first(tmp_path: Path) -> None:
    text = data() + conv("", "data", "x") + bn("n", "x", "x") + 'layer { type: "ReLU" bottom: "x" top: "y" }\n'
    files = save(tmp_path, text, {"": [he(4, 4, 1, 1), he(4, 1)[:, 0]], "n": batch_norm(4)})
    assert check(files, verify=True).types == ["Input", "Convolution", "ReLU"]
    named = save(
        tmp_path,
        text.replace('name: ""', 'name: "c"'),
        {"c": [he(4, 4, 1, 1), he(4, 1)[:, 0]], "n": batch_norm(4)},
        "named",
    )
    assert_equal(run(named), run(files), 0)


def test_a_later_top_without_a_name_is_read(tmp_path: Path) -> None:
    """ONNX writes an output that is not there with an empty name; Caffe's is there."""
    text = data() + conv("c", "data", "x") + bn("n", "x", "x")
    text += 'layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "" }\n'
    files = save(tmp_path, text, {"c": [he(4, 4, 1, 1), he(4, 1)[:, 0]], "n": batch_norm(4)})
    assert "BatchNorm" not in check(files, verify=True).types
    text = data() + 'layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "" }\n' + bn("n", "a", "z")
    text += conv("c", "NONE", "y").replace("NONE", "")
    files = save(tmp_path, text, {"c": [he(4, 2, 1, 1), he(4, 1)[:, 0]], "n": batch_norm(2)})
    check(files, verify=True)


def test_a_tap_does_not_take_the_name_of_a_blob(tmp_path: Path) -> None:
    text = data() + conv("c", "data", "x") + bn("n", "x", "c:0") + conv("c2", "c:0", "y")
    entries = {"c": [he(4, 4, 1, 1), he(4, 1)[:, 0]], "n": batch_norm(4), "c2": [he(4, 4, 1, 1), he(4, 1)[:, 0]]}
    assert "BatchNorm" not in check(save(tmp_path, text, entries), verify=True).types
