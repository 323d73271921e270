"""External data: confined to the model's folder, copied as it lies, written under names made of the result's."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from onnx_models import batch_norm, conv_bn, model, node, norm, run, tensor

from bnfold.errors import InputError, OutputError
from bnfold.onnx.document import OnnxDocument
from bnfold.planner.passes import plan


def stored(folder: Path, proto: onnx.ModelProto, location: str = "model.onnx.data") -> Path:
    with contextlib.chdir(folder):  # which onnx takes `location` to be in, when it looks whether that is there
        onnx.save_model(proto, folder / "model.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "model.onnx"


def fold(path: Path, out: Path, folds: bool = True) -> None:
    document = OnnxDocument.open(path)
    plans = {graph: plan(graph, document.style) for graph in document.graphs()} if folds else {}
    out.parent.mkdir(exist_ok=True)
    for target, content in document.folded(plans, document.places(out)).items():
        with target.open("wb") as stream:
            content.write(stream)


def pointing(**entries: str) -> bytes:
    weight = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=[2])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return model([node("Relu", "x", "y")], [weight]).SerializeToString()


@pytest.mark.parametrize(
    "location",
    ["", "/etc/hostname", "../secret", "a/../../secret", "C:\\secret", "..\\secret", "\\\\host\\s", "link", "a\0b"],
)
def test_data_outside_of_the_folder_is_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(8))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="outside"):
        OnnxDocument.from_bytes(pointing(location=location), inside)


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "missing"},
        {"location": "."},
        {"location": "d", "offset": "4"},
        {"location": "d", "offset": "-4", "length": "8"},
        {"location": "d", "offset": "4", "length": "8"},
        {"location": "d", "length": "4"},
        {"location": "d", "length": "eight"},
        {"location": "d", "offset": "9" * 30},
    ],
)
def test_data_that_is_not_there_is_an_error_that_names_the_tensor(tmp_path: Path, entries: dict[str, str]) -> None:
    (tmp_path / "d").write_bytes(bytes(8))
    with pytest.raises(InputError, match="'W'"):
        OnnxDocument.from_bytes(pointing(**entries), tmp_path)


def test_without_a_folder_external_data_is_refused() -> None:
    with pytest.raises(InputError, match="folder of the model is not known"):
        OnnxDocument.from_bytes(pointing(location="d"))


@pytest.mark.parametrize(
    "location", ["model.onnx.data", "weights.bin", "w/a.bin", "folded.onnx", "folded.onnx.data", "py"]
)
def test_data_is_written_beside_the_result_under_its_name(tmp_path: Path, location: str) -> None:
    (tmp_path / "w").mkdir()
    source, out = stored(tmp_path, conv_bn(), location), tmp_path / "out" / "folded.onnx"
    before = (tmp_path / location).read_bytes()
    fold(source, out)
    assert {path.name for path in out.parent.iterdir()} == {"folded.onnx", "folded.onnx.data"}
    folded = onnx.load(out)
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Relu"]
    np.testing.assert_allclose(run(folded)[0], run(conv_bn())[0], rtol=1e-4, atol=1e-5)
    assert (tmp_path / location).read_bytes() == before
    assert (out.parent / "folded.onnx.data").stat().st_size == len(before)


def test_the_same_name_elsewhere_without_folds_is_the_same_bytes(tmp_path: Path) -> None:
    source, out = stored(tmp_path, conv_bn()), tmp_path / "out" / "model.onnx"
    fold(source, out, folds=False)
    for name in ("model.onnx", "model.onnx.data"):
        assert (out.parent / name).read_bytes() == (tmp_path / name).read_bytes()


def test_folding_twice_is_folding_once(tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "folded.onnx", tmp_path / "two" / "folded.onnx"
    fold(stored(tmp_path, conv_bn()), first)
    fold(first, second)
    for name in ("folded.onnx", "folded.onnx.data"):
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()


def spread(folder: Path, ones: str = "ones.bin", others: str = "others.bin") -> Path:
    """A Conv with its data in one file, and its BatchNormalization with its data in another."""
    proto = conv_bn()
    for location, tensors in ((ones, proto.graph.initializer[:1]), (others, proto.graph.initializer[1:])):
        (folder / location).write_bytes(b"".join(t.raw_data for t in tensors))
        at = 0
        for stored_ in tensors:
            size = len(stored_.raw_data)
            set_external_data(stored_, location, at, size)
            stored_.ClearField("raw_data")
            at += size
    onnx.save_model(proto, folder / "model.onnx")
    return folder / "model.onnx"


def test_data_files_are_numbered_and_those_that_nothing_reads_are_not_written(tmp_path: Path) -> None:
    source, unfolded, out = spread(tmp_path), tmp_path / "same" / "x.onnx", tmp_path / "out" / "x.onnx"
    fold(source, unfolded, folds=False)
    assert sorted(p.name for p in unfolded.parent.iterdir()) == ["x.onnx", "x.onnx.data", "x.onnx.data.1"]
    for name, old in (("x.onnx.data", "ones.bin"), ("x.onnx.data.1", "others.bin")):
        assert (unfolded.parent / name).read_bytes() == (tmp_path / old).read_bytes()
    np.testing.assert_array_equal(run(onnx.load(unfolded))[0], run(conv_bn())[0])
    fold(unfolded, tmp_path / "again" / "x.onnx", folds=False)
    for path in unfolded.parent.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    fold(source, out)
    assert sorted(p.name for p in out.parent.iterdir()) == ["x.onnx", "x.onnx.data"]
    np.testing.assert_allclose(run(onnx.load(out))[0], run(conv_bn())[0], rtol=1e-4, atol=1e-5)


def test_a_list_of_tensors_in_an_attribute_moves_with_the_rest(tmp_path: Path) -> None:
    weights = [tensor("", 2, seed=seed) for seed in (1, 2)]
    (tmp_path / "w.bin").write_bytes(b"".join(t.raw_data for t in weights))
    for number, weight in enumerate(weights):
        set_external_data(weight, "w.bin", 8 * number, 8)
        weight.ClearField("raw_data")
    (tmp_path / "model.onnx").write_bytes(
        model([node("Custom", "x", "y", domain="my", all=weights)], domains=["my"]).SerializeToString()
    )
    fold(tmp_path / "model.onnx", tmp_path / "out" / "x.onnx")
    found = onnx.load(tmp_path / "out" / "x.onnx", load_external_data=False).graph.node[0].attribute[0].tensors
    assert [entry.value for t in found for entry in t.external_data if entry.key == "location"] == ["x.onnx.data"] * 2
    assert (tmp_path / "out" / "x.onnx.data").read_bytes() == (tmp_path / "w.bin").read_bytes()


def test_a_sparse_tensor_with_external_data_is_refused(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(tensor("s", 1), helper.make_tensor("", TensorProto.INT64, [1], [0]), [2])
    (tmp_path / "w.bin").write_bytes(sparse.values.raw_data)
    set_external_data(sparse.values, "w.bin")
    sparse.values.ClearField("raw_data")
    proto = model([node("Relu", "x", "y")], sparse_initializer=[sparse])
    with pytest.raises(InputError, match="'s' is sparse and has its data outside"):
        OnnxDocument.from_bytes(proto.SerializeToString(), tmp_path)


def test_data_that_two_tensors_share_is_not_changed_under_the_other(tmp_path: Path) -> None:
    nodes = [node("Conv", "x W", "c"), batch_norm("c", "bn", "n"), node("Relu", "x", "r")]
    nodes += [node("Conv", "r V", "d"), node("Concat", "n d", "y", axis=1)]
    proto = model(nodes, [tensor("W", 3, 2, 3, 3), tensor("V", 3, 2, 3, 3), *norm("bn", 3)])
    data = numpy_helper.to_array(proto.graph.initializer[0]).tobytes()
    (tmp_path / "model.onnx.data").write_bytes(data)
    for weight in proto.graph.initializer[:2]:
        set_external_data(weight, "model.onnx.data", 0, len(data))
        weight.ClearField("raw_data")
    onnx.save_model(proto, tmp_path / "model.onnx")
    fold(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    folded = onnx.load(tmp_path / "folded.onnx")
    found: dict[str, Any] = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    assert found["V"].tobytes() == data
    assert found["W"].tobytes() != data
    np.testing.assert_allclose(run(folded)[0], run(onnx.load(tmp_path / "model.onnx"))[0], rtol=1e-4, atol=1e-5)


def test_changed_data_loses_its_checksum_and_other_data_keeps_it(tmp_path: Path) -> None:
    source = stored(tmp_path, conv_bn())
    proto = onnx.load(source, load_external_data=False)
    proto.graph.initializer.append(tensor("other", 2))
    (tmp_path / "other.bin").write_bytes(proto.graph.initializer[-1].raw_data)
    set_external_data(proto.graph.initializer[-1], "other.bin", checksum="abc")
    proto.graph.initializer[-1].ClearField("raw_data")
    proto.graph.initializer[0].external_data.add(key="checksum", value="def")
    onnx.save_model(proto, source)
    fold(source, tmp_path / "folded.onnx")
    weight, *_, other, _ = onnx.load(tmp_path / "folded.onnx", load_external_data=False).graph.initializer
    assert {e.key: e.value for e in other.external_data} == {"location": "folded.onnx.data.1", "checksum": "abc"}
    assert "checksum" not in {e.key for e in weight.external_data}


def test_a_file_that_is_no_data_of_an_earlier_result_is_not_replaced(tmp_path: Path) -> None:
    source, out = stored(tmp_path, conv_bn()), tmp_path / "out" / "folded.onnx"
    out.parent.mkdir()
    out.with_name("folded.onnx.data").write_bytes(b"precious")
    for other in (b"", b"no model", conv_bn().SerializeToString(), pointing(location="folded.onnx")):
        out.write_bytes(other)
        with pytest.raises(OutputError, match="has this name already"):
            fold(source, out)
        assert out.with_name("folded.onnx.data").read_bytes() == b"precious"
    out.write_bytes(pointing(location="folded.onnx.data"))
    fold(source, out)
    np.testing.assert_allclose(run(onnx.load(out))[0], run(conv_bn())[0], rtol=1e-4, atol=1e-5)
