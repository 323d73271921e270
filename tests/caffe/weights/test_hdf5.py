"""Weights that Caffe saved as HDF5: folded as the same weights in a caffemodel are, or refused by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from mutants import seeds

from bnfold import protobuf
from bnfold.caffe import caffe_pb2 as pb
from bnfold.caffe.export import onnx_model
from bnfold.caffe.weights.caffemodel import Caffemodel
from bnfold.errors import InputError, UsageError
from bnfold.options import Options
from bnfold.pipeline import explain, export
from bnfold.pipeline import fold as fold_files

from ..build import (
    Array,
    Files,
    assert_equal,
    batch_norm,
    bn,
    conv,
    data,
    fold,
    he,
    layer,
    run,
    save,
    scale,
    scaled,
    stored,
)

h5py = pytest.importorskip("h5py")

TEXT = data() + conv("c", "data", "c", kernel=3) + bn("b", "c", "b") + scaled("s", "b", "s")
WEIGHTS = {"c": [he(4, 4, 3, 3), he(4, 2)[:, 0]], "b": batch_norm(4), "s": scale(4)}


def write(path: Path, weights: Mapping[str, Mapping[int, Array] | list[Array]], **how: Any) -> Path:
    """A snapshot: a group for each layer, datasets by number; `how`: what create_dataset takes."""
    with h5py.File(path, "w") as file:
        for name, blobs in weights.items():
            group = file.require_group(f"data/{name}")
            for index, array in blobs.items() if isinstance(blobs, Mapping) else enumerate(blobs):
                group.create_dataset(str(index), data=array, **(how if np.ndim(array) else {}))
    return path


def snapshot(folder: Path, text: str, weights: Mapping[str, Any], name: str = "w.caffemodel.h5", **how: Any) -> Files:
    prototxt = folder / "net.prototxt"
    prototxt.write_text(text)
    return Files(prototxt, write(folder / name, weights, **how))


def same_as_caffemodel(folder: Path, text: str, weights: dict[str, list[Array]], snap: Files) -> None:
    """The fold of the snapshot is that of the same weights in a caffemodel, layer by layer."""
    (folder / "plain").mkdir()
    plain = fold(save(folder / "plain", text, weights))
    found = fold(snap, verify=True)
    assert plain.text == found.text
    assert plain.blobs.keys() == found.blobs.keys()
    for name, arrays in plain.blobs.items():
        for one, other in zip(arrays, found.blobs[name], strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
    assert_equal(run(snap), run(found.files))


@pytest.mark.parametrize(
    "how", [{}, {"chunks": True}, {"compression": "gzip", "shuffle": True}, {"dtype": ">f4"}, {"dtype": "<f8"}], ids=str
)
def test_a_snapshot_folds_as_a_caffemodel(tmp_path: Path, how: dict[str, Any]) -> None:
    weights = WEIGHTS
    if how.get("dtype") == "<f8":
        weights = {name: [a.astype(np.float64) for a in arrays] for name, arrays in WEIGHTS.items()}
    with_others = {**WEIGHTS, "relu": [], "of another net": [np.ones(3, np.float32)]}
    snap = snapshot(tmp_path, TEXT, with_others, **how)
    same_as_caffemodel(tmp_path, TEXT, {**weights, "of another net": [np.ones(3, how.get("dtype", "f4"))]}, snap)


def test_names_with_slashes_are_groups_in_groups(tmp_path: Path) -> None:
    text = data() + conv("a", "data", "a") + conv("a/b", "a", "ab") + bn("a/b/bn", "ab", "y")
    weights = {"a": [he(4, 4, 1, 1), he(4, 2)[:, 0]], "a/b": [he(4, 4, 1, 1, seed=1), he(4, 3)[:, 0]]}
    weights["a/b/bn"] = batch_norm(4)
    same_as_caffemodel(tmp_path, text, weights, snapshot(tmp_path, text, weights))


def test_a_layer_without_datasets_has_no_weights(tmp_path: Path) -> None:
    snap = snapshot(tmp_path, TEXT, {**WEIGHTS, "b": []})
    with pytest.raises(InputError, match="has no weights") as caught:
        explain(snap)
    assert "layer b" in caught.value.where


def test_float16_becomes_float32(tmp_path: Path) -> None:
    found = Caffemodel(write(tmp_path / "x", {"c": [np.array([1 / 3, 2], np.float16)]})).layers[0].blobs[0].array()
    np.testing.assert_array_equal(found, np.array([1 / 3, 2], np.float16).astype(np.float32), strict=True)


def test_scalars(tmp_path: Path) -> None:
    text = data() + layer("Sigmoid", "g", "data", "g") + scaled("s", "g", "s", "num_axes: 0") + conv("c", "s", "c")
    weights = {"s": [np.float32(0.5).reshape(())], "c": [he(4, 4, 1, 1), he(4, 2)[:, 0]]}
    snap = snapshot(tmp_path, text, weights)
    assert [b.shape for b in Caffemodel(snap.caffemodel).layers[1].blobs] == [()]
    same_as_caffemodel(tmp_path, text, weights, snap)


def test_blobs_are_numbered_not_sorted_as_text(tmp_path: Path) -> None:
    found = Caffemodel(write(tmp_path / "x", {"l": [np.full(1, i, np.float32) for i in range(12)]})).layers[0].blobs
    assert [int(blob.array()[0]) for blob in found] == list(range(12))


# ------------------------------------------------------------------------------------------------------ shared weights

SHARES = 'param { name: "w" } param { %s }'


def sharing(second: str) -> str:
    """Two convolutions of one filter, of which the first is normalised; `second` is the second's spec of its bias."""
    text = data() + conv("one", "data", "one", body=SHARES % 'name: "b"') + bn("n", "one", "n")
    return text + conv("two", "data", "two", body=SHARES % second) + layer("Eltwise", "sum", "n two", "sum")


@pytest.mark.parametrize("own_bias", [False, True])
@pytest.mark.parametrize("folds", [False, True])
def test_of_shared_blobs_the_first_layer_has_the_dataset(tmp_path: Path, own_bias: bool, folds: bool) -> None:
    text = sharing("lr_mult: 1" if own_bias else 'name: "b"')
    if not folds:
        text = text.replace("BatchNorm", "TanH")
    one, normal, bias = [he(4, 4, 1, 1), he(4, 2)[:, 0]], batch_norm(4), he(4, 3)[:, 0]
    full = {"one": one, "n": normal, "two": [one[0], bias if own_bias else one[1]]}
    if not folds:
        del full["n"]
    snap = snapshot(tmp_path, text, {**full, "two": {1: bias} if own_bias else {}})
    (tmp_path / "plain").mkdir()
    plain, found = fold(save(tmp_path / "plain", text, full)), fold(snap, verify=True)
    assert "BatchNorm" not in found.types
    assert_equal(run(plain.files), run(found.files))
    counts = {item.name: len(item.blobs) for item in Caffemodel(found.files.caffemodel).layers}
    assert counts["one"] == 2
    assert counts.get("two", 2) == 2  # a layer that shares all needs no entry


def test_sharers_of_another_phase_keep_their_weights(tmp_path: Path) -> None:
    train = conv("aux", "data", "aux", body=SHARES % "lr_mult: 1" + " include { phase: TRAIN }")
    text = sharing('name: "b"') + train
    bias = he(4, 3)[:, 0]
    weights = {"one": [he(4, 4, 1, 1), he(4, 2)[:, 0]], "n": batch_norm(4), "aux": {1: bias}, "gone": {1: bias}}
    found = fold(snapshot(tmp_path, text, weights)).blobs
    np.testing.assert_array_equal(found["aux"][0], he(4, 4, 1, 1), strict=True)
    np.testing.assert_array_equal(found["aux"][1], bias, strict=True)
    assert "gone" not in found


def test_a_blob_that_is_missing_and_not_shared_is_named(tmp_path: Path) -> None:
    snap = snapshot(tmp_path, TEXT, {**WEIGHTS, "c": {1: WEIGHTS["c"][1]}})
    with pytest.raises(InputError, match="no blob 0, but a blob 1") as caught:
        explain(snap)
    assert caught.value.where == f"{snap.caffemodel}, layer c"


# ----------------------------------------------------------------------------------------------------- files and names


@pytest.mark.parametrize("name", ["w.caffemodel.h5", "w.caffemodel", "w.bin"])
@pytest.mark.parametrize("out", ["folded", "folded.caffemodel.h5", "folded.prototxt", "folded.CAFFEMODEL"])
def test_the_content_tells_what_it_is(tmp_path: Path, name: str, out: str) -> None:
    snap = snapshot(tmp_path, TEXT, WEIGHTS, name)
    before = snap.caffemodel.read_bytes()
    fold_files([snap.caffemodel, snap.prototxt], tmp_path / out, Options(verify=False))
    written = {path.name for path in tmp_path.iterdir()} - {name, "net.prototxt"}
    assert written == {"folded.prototxt", "folded.caffemodel"}
    assert snap.caffemodel.read_bytes() == before
    assert not Caffemodel(tmp_path / "folded.caffemodel").hdf5


@pytest.mark.parametrize(
    ("name", "out", "in_place"),
    [("net.caffemodel.h5", None, True), ("net.caffemodel", None, True), ("net.caffemodel", "net", True),
     ("net.caffemodel", "net", False), ("net.caffemodel", "net.caffemodel.h5", True)],
)  # fmt: skip
def test_a_caffemodel_does_not_replace_it(tmp_path: Path, name: str, out: str | None, in_place: bool) -> None:
    snap = snapshot(tmp_path, TEXT, WEIGHTS, name)
    before = {path: path.read_bytes() for path in snap}
    with pytest.raises(UsageError, match="HDF5") as caught:
        fold_files(snap, out and tmp_path / out, Options(in_place=in_place))
    assert "-o" in caught.value.hint
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_snapshot_is_exported(tmp_path: Path) -> None:
    snap = snapshot(tmp_path, TEXT, WEIGHTS)
    assert_equal(run(save(tmp_path, TEXT, WEIGHTS)), run(snap))
    export(*snap, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").stat().st_size == onnx_model(*snap)[0].size


# ----------------------------------------------------------------------------------------------------- what is refused


def test_without_h5py_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snap = snapshot(tmp_path, TEXT, WEIGHTS)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="HDF5 file, and h5py is not installed") as caught:
        explain(snap)
    assert "pip install 'bnfold[hdf5]'" in caught.value.hint
    assert caught.value.where == str(snap.caffemodel)


def foreign() -> Iterator[tuple[str, Any, str]]:
    yield "keras", lambda file: file.create_dataset("model_weights/dense/kernel", data=np.ones(2)), "no group `data`"
    yield "data set", lambda file: file.create_dataset("data", data=np.ones(2)), "no group `data`"
    yield "integers", lambda file: file.create_dataset("data/c/0", data=np.ones(2, np.int32)), "type int32"
    yield "text", lambda file: file.create_dataset("data/c/0", data="words"), "type object"
    yield "nothing", lambda file: file.create_dataset("data/c/0", data=h5py.Empty("f")), "shape None"
    yield "huge", lambda file: file.create_dataset("data/c/0", (1 << 20, 1 << 20), "f4"), "which no weight has"
    yield "complex", lambda file: file.create_dataset("data/c/0", data=np.ones(2, np.complex64)), "type complex64"


@pytest.mark.parametrize(("make", "what"), [case[1:] for case in foreign()], ids=[case[0] for case in foreign()])
def test_hdf5_that_is_no_snapshot_is_refused(tmp_path: Path, make: Any, what: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        make(file)
    with pytest.raises(InputError, match=what) as caught:
        Caffemodel(tmp_path / "x.h5", {"c": []})
    if "data`" not in what:
        assert not Caffemodel(tmp_path / "x.h5", {"another": []}).layers
    assert caught.value.where.startswith(str(tmp_path / "x.h5"))


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "other.h5", {"c": [np.ones(2, np.float32)]})
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("data/c")
        group["0"] = np.ones(2, np.float32)
        group["1"] = h5py.ExternalLink("other.h5", "data/c/0")
        group["2"] = h5py.SoftLink("/nowhere")
        file["data/again"] = file["data"]  # a circle
    found = Caffemodel(tmp_path / "x.h5")
    assert [(item.name, len(item.blobs)) for item in found.layers] == [("c", 1)]


def test_broken_files_are_refused_or_read(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.h5", WEIGHTS, compression="gzip").read_bytes()
    path, refusals = tmp_path / "x.caffemodel", []
    for rng in seeds():
        path.write_bytes(broken(rng, whole))
        try:
            for item in Caffemodel(path).layers:
                for blob in item.blobs:
                    blob.array()
        except InputError as error:
            refusals.append(error.where)
    assert len(refusals) > 10
    assert all(where.startswith(str(path)) for where in refusals)


def broken(rng: Random, whole: bytes) -> bytes:
    if rng.random() < 0.2:
        return whole[: rng.randrange(8, len(whole))]
    spoilt = bytearray(whole)
    for _ in range(rng.choice([1, 4, 30])):
        spoilt[rng.randrange(8, len(whole))] = rng.randrange(256)
    return bytes(spoilt)


def test_a_snapshot_of_layers_without_weights(tmp_path: Path) -> None:
    text = data() + layer("ReLU", "r", "data", "r")
    assert fold(snapshot(tmp_path, text, {"r": []})).types == ["Input", "ReLU"]


def test_the_content_is_a_caffemodel(tmp_path: Path) -> None:
    found, wanted = pb.NetParameter(), pb.NetParameter()
    found.ParseFromString(bytes(Caffemodel(write(tmp_path / "x", WEIGHTS)).data))
    wanted.ParseFromString(b"".join(stored(name, *WEIGHTS[name]) for name in sorted(WEIGHTS)))
    for item in found.layer:
        item.ClearField("type")
    assert found == wanted


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = "卷积".encode("gbk")
    with h5py.File(tmp_path / "x", "w") as file:
        group = h5py.h5g.create(file.create_group("data").id, name)
        h5py.Group(group).create_dataset("0", data=np.ones(2, np.float32))
    text = name.decode("utf-8", "surrogateescape")
    assert [item.name for item in Caffemodel(tmp_path / "x").layers] == [text]
    plain = save(tmp_path, "", [protobuf.delimited(100, protobuf.delimited(1, name))])
    assert [item.name for item in Caffemodel(plain.caffemodel).layers] == [text]


def test_a_sharer_by_count_has_a_shape_of_its_own(tmp_path: Path) -> None:
    """The snapshot has the numbers with their first layer only."""
    by_count = 'param { name: "w" share_mode: PERMISSIVE }'
    text = data(2, 4, 1, 1) + conv("c", "data", "c", more="bias_term: false", body='param { name: "w" }') + layer(
        "InnerProduct", "f", "c", "f", f"inner_product_param {{ num_output: 4 bias_term: false }} {by_count}"
    )  # fmt: skip
    folded = fold(snapshot(tmp_path, text + bn("b", "f", "y"), {"c": [he(4, 4, 1, 1)], "b": batch_norm(4)}))
    assert folded.types == ["Input", "Convolution", "InnerProduct"]
    assert [array.shape for _, (array, *_) in folded.stored] == [(4, 4, 1, 1), (4, 4)]


@pytest.mark.parametrize("kind", ["virtual", "external"])
def test_numbers_in_other_files_are_not_read(kind: str, tmp_path: Path) -> None:
    snap = snapshot(tmp_path, TEXT, {"b": WEIGHTS["b"], "s": WEIGHTS["s"]})
    (tmp_path / "other").write_bytes(np.zeros(36 * 4, np.float32).tobytes())
    with h5py.File(snap.caffemodel, "a") as file:
        group = file.create_group("data/c")
        if kind == "virtual":
            layout = h5py.VirtualLayout((4, 4, 3, 3), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4, 4, 3, 3))
            group.create_virtual_dataset("0", layout)
        else:
            group.create_dataset("0", (4, 4, 3, 3), np.float32, external=[(str(tmp_path / "other"), 0, 576)])
        group.create_dataset("1", data=WEIGHTS["c"][1])
    with pytest.raises(InputError, match="the numbers of the dataset lie in other files"):
        fold(snap)
