"""Each row of the table of formats: a small file of its kind is recognised by it alone, and opened or told of."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import re
import shutil
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_imports import loaded_by

import bnfold
from bnfold import protobuf
from bnfold.content import Content
from bnfold.formats import FORMATS, MODELS, Format, _recognised, open_document
from bnfold.options import Options

h5py = pytest.importorskip("h5py")
PARTS = {part for model in MODELS for part in model.parts}
GENERAL = {
    "a zip archive",
    "a PyTorch checkpoint",
    "a pickled Python object",
    "an XML text, perhaps a server's answer, not the file itself",
    *PARTS,
}
"""Rows that take what no row above them took, such as any zip archive, any pickle, any text, any HDF5 file."""


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 5000)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return stream.getvalue()


def hdf5(fill: Callable[[h5py.File], object]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        fill(file)
    return stream.getvalue()


def keras(file: h5py.File) -> None:
    file.attrs["backend"] = "tensorflow"
    file.attrs["keras_version"] = "2.15.0"
    file.create_group("model_weights/conv2d/conv2d")["kernel:0"] = np.ones((3, 3, 1, 2), np.float32)


def state(file: h5py.File) -> None:
    file["iter"], file["learned_net"], file["current_step"] = 100, "x_iter_100.caffemodel.h5", 0
    file.create_group("history")["0"] = np.ones(3, np.float32)


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


def message(*parts: bytes) -> bytes:
    return b"".join(parts)


def string(number: int, value: str) -> bytes:
    return protobuf.string(number, value)


def safetensors() -> bytes:
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(4)


NODE = message(string(1, "x"), string(2, "Placeholder"), protobuf.delimited(5, string(1, "dtype")))
GRAPH_DEF = message(protobuf.delimited(1, NODE), protobuf.delimited(4, protobuf.integer(1, 27)))
META_GRAPH = message(protobuf.delimited(1, string(1, "serve")), protobuf.delimited(2, GRAPH_DEF))
NET = 'name: "net"\nlayer { name: "a" type: "ReLU" bottom: "x" top: "a" }\n'
PAGE = b"<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>\n"

SAMPLES: dict[str, list[bytes]] = {
    "a pointer of Git LFS, not the file itself": [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"],
    "a web page (HTML), not the file itself": [
        PAGE, b"\xef\xbb\xbf\n" + PAGE, b"<html>", b"<!-- saved -->\n<HTML lang=en>", b'<?xml version="1.0"?>' + PAGE,
    ],
    "a gzip-compressed file": [gzip.compress(NET.encode())],
    "a bzip2-compressed file": [bz2.compress(NET.encode()), bz2.compress(b"x", 1)],
    "an xz-compressed file": [lzma.compress(NET.encode())],
    "a zstd-compressed file": [b"\x28\xb5\x2f\xfd\x20\x01\x09\x00\x00x"],
    "a 7z archive": [b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(24)],
    "a RAR archive": [b"Rar!\x1a\x07\x01\x00" + bytes(20)],
    "a tar archive": [tarred()],
    "a TorchScript model of PyTorch": [zipped("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl")],
    "a PyTorch checkpoint": [zipped("archive/data.pkl", "archive/data/0", "archive/version")],
    "a program of PyTorch's torch.export": [zipped("net/archive_format", "net/models/model.json")],
    "a Keras model": [zipped("metadata.json", "config.json", "model.weights.h5")],
    "an archive of NumPy arrays": [zipped("arr_0.npy")],
    "a zip archive": [zipped("readme.txt", "model.onnx")],
    "a Keras model or its weights (HDF5)": [hdf5(keras)],
    "a solverstate (HDF5), the state of Caffe's training": [hdf5(state)],
    "a PyTorch checkpoint (before PyTorch 1.6)": [b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."],
    "a pickled Python object": [pickle.dumps({"w": [1.0]}, protocol) for protocol in (2, 3, 4, 5)],
    "a TensorFlow Lite model": [b"\x1c\0\0\0TFL3" + bytes(20)],
    "a model in onnxruntime's own format (ORT)": [b"\x1c\0\0\0ORTM" + bytes(20)],
    "a TensorRT engine": [b"ftrt" + bytes(20), b"ptrt" + bytes(20)],
    "a NumPy array": [npy()],
    "a file of weights without a network (safetensors)": [safetensors()],
    "a database (LMDB), such as the images that Caffe trains on": [bytes(16) + b"\xde\xc0\xef\xbe" + bytes(20)],
    "a picture": [b"\x89PNG\r\n\x1a\n" + bytes(20), b"\xff\xd8\xff\xe0" + bytes(20)],
    "a language model (GGUF)": [b"GGUF\3\0\0\0" + bytes(16)],
    "a file of MXNet's weights": [b"\x12\1" + bytes(14) + b"\1" + bytes(7)],
    "a file of Darknet's weights": [
        b"\0\0\0\0%c\0\0\0\5\0\0\0" % version + bytes(range(64)) for version in (1, 2)
    ],
    "a text in UTF-16": [NET.encode("utf-16"), NET.encode("utf-16-le"), NET.encode("utf-16-be")],
    "an OpenVINO network (IR)": [b'<?xml version="1.0"?>\n<net name="n" version="11">\n</net>', b'<net version="7">'],
    "an XML text, perhaps a server's answer, not the file itself": [
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', b"<Error><Code>NoSuchKey</Code></Error>",
    ],
    "a JSON text, such as a server's answer or a model of TensorFlow.js or MXNet": [
        b'{"message": "Not Found"}', b"{}", b'[\n  {"name": "x"}]',
    ],
    "a Darknet network": [b"[net]\n# Testing\nbatch=1\n", b"# yolo\n\n[net]\nbatch = 1\n\n[shortcut]\nfrom=1\n"],
    "an ncnn network": [b"7767517\n1 1\nInput data 0 1 data\n"],
    "an ONNX model as text": [b'ir_version: 8\ngraph {\n  name: "g"\n}\n', b"<\n  ir_version: 8\n>\ng () => () {}"],
    "a TensorFlow graph as text": [b'node {\n  name: "x"\n  op: "Placeholder"\n}\n'],
    "a solver, which tells how a net is trained": [
        b'# how it was trained\nnet: "train_val.prototxt"\nbase_lr: 0.01\nlr_policy: "step"\n',
        b'train_net: "a.prototxt"\n  max_iter: 10\n',
    ],
    "prototxt": [
        NET.encode(), b"cat\ndog\n", b"# base_lr: 0.01\n" + NET.encode(), b"", b'base_lr: 1\nlayer { name: "a" }',
        "# Schicht für Schicht é\n".encode() + NET.encode(), b"# a # b " * 400 + b"\n" + NET.encode(),
    ],
    "a solverstate, the state of Caffe's training": [
        message(
            protobuf.integer(1, 100), string(2, "x_iter_100.caffemodel"), protobuf.delimited(3, b""),
            protobuf.integer(4, 0),
        ),
        message(protobuf.integer(1, 100), protobuf.integer(4, 0)),
        message(protobuf.integer(1, 100), string(2, "x_iter_100.caffemodel"), protobuf.delimited(3, b"")),
    ],
    "a mean file (BlobProto), the mean image that is taken off a net's input": [
        message(*(protobuf.integer(n, 1) for n in (1, 2, 3, 4)), protobuf.delimited(5, bytes(4))),
        message(*(protobuf.integer(n, 1) for n in (1, 2, 3, 4)), b"\x2d\0\0\0\0"),
        message(protobuf.delimited(7, b"\x0a\x01\x01"), protobuf.delimited(5, bytes(4))),
    ],
    "a TensorFlow graph (GraphDef)": [GRAPH_DEF],
    "a TensorFlow SavedModel": [
        message(protobuf.integer(1, 1), protobuf.delimited(2, META_GRAPH)),
        message(protobuf.integer(1, 1), protobuf.delimited(2, protobuf.delimited(2, GRAPH_DEF))),
    ],
    "a TensorFlow graph with its training (.meta)": [META_GRAPH],
    "a Core ML model": [
        message(protobuf.integer(1, 4), protobuf.delimited(2, string(1, "x")), protobuf.delimited(500, b"")),
    ],
    "caffemodel": [
        message(string(1, "net"), protobuf.delimited(100, string(1, "conv1"))),
        message(  # a layer of 2014 that does not say its type, and the shape of an input
            string(1, "net"), protobuf.delimited(2, message(string(2, "x"), string(3, "y"), string(4, "relu"))),
            protobuf.delimited(8, b""),
        ),
        protobuf.delimited(2, string(4, "conv1")),
        message(
            string(1, "net"), protobuf.delimited(8, b"\x0a\x01\x01"),
            protobuf.delimited(2, message(string(2, "x"), string(3, "y"), string(4, "conv1"), protobuf.integer(5, 4))),
        ),
        hdf5(lambda file: file.create_dataset("data/conv1/0", data=np.ones((2, 1, 3, 3), np.float32))),
    ],
    "onnx": [message(protobuf.integer(1, 8), string(2, "pytorch"), protobuf.delimited(7, string(2, "g")))],
}  # fmt: skip
CASES = [(name, sample) for name, samples in SAMPLES.items() for sample in samples]
FOREIGN = [case for case in CASES if case[0] not in PARTS]


def named(cases: list[tuple[str, bytes]]) -> list[str]:
    """Names for tests, without the bytes: some hold the second in which they were made."""
    return [f"{name}-{i}" for i, (name, _) in enumerate(cases)]


def rows(data: bytes) -> list[Format]:
    """All rows that recognise this content, from the top of the table down."""

    def answers(row: Format, content: Content) -> bool:
        try:
            return row.recognises(content)
        except protobuf.WireError:
            return False

    return [row for row in FORMATS if answers(row, Content(memoryview(data)))]


@pytest.mark.parametrize(("name", "data"), CASES, ids=named(CASES))
def test_a_file_is_what_one_row_says(name: str, data: bytes) -> None:
    found = [row.name for row in rows(data)]
    assert found[:1] == [name]
    assert set(found[1:]) <= GENERAL


def test_every_row_has_a_file() -> None:
    assert [row for row in FORMATS if row not in [rows(data)[0] for _, data in CASES]] == []


def test_a_row_is_opened_or_tells_what_to_do() -> None:
    for row in FORMATS:
        assert bool(row.hint) == (row.name not in PARTS), row
        assert row.suffixes or "UTF-16" in row.name or "LFS" in row.name, row
    assert {row.name for row in FORMATS} >= PARTS


@pytest.mark.parametrize(("name", "data"), FOREIGN, ids=named(FOREIGN))
@pytest.mark.parametrize("place", [0, 1, None])
def test_the_sentence_holds_wherever_the_file_stands(
    samples: Path, tmp_path: Path, name: str, data: bytes, place: int | None
) -> None:
    (path := tmp_path / "file").write_bytes(data)
    net = [samples / "cifar10.prototxt", samples / "cifar10.caffemodel"]
    given = [path] if place is None else [path if place == i else net[i] for i in range(2)]
    calls: list[Callable[[], object]] = [lambda: bnfold.explain(given), lambda: bnfold.fold(given, tmp_path / "out")]
    if place is not None:
        calls.append(lambda: bnfold.export(given[0], given[1], tmp_path / "out.onnx"))
    for call in calls:
        with pytest.raises(bnfold.InputError, match=f"this is {re.escape(name)}") as told:
            call()
        assert (told.value.where, bool(told.value.hint)) == (str(path), True)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_recognising_is_light(tmp_path: Path) -> None:
    for number, (_, data) in enumerate(CASES):
        (tmp_path / str(number)).write_bytes(data or b" ")
    ask = "try: _recognised(path)\n  except InputError: pass"
    imports = "from pathlib import Path; from bnfold.formats import _recognised; from bnfold import InputError"
    assert loaded_by(f"{imports}\nfor path in Path({str(tmp_path)!r}).iterdir():\n  {ask}") == set()


LAYER = protobuf.delimited(100, protobuf.string(1, "c"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("caffemodel", protobuf.string(1, "SPORTModel") + LAYER),
        ("onnx", protobuf.integer(1, 8) + protobuf.string(2, "TFL3x") + protobuf.delimited(7, b"")),
        ("prototxt", b'#by ORTModel\nname: "n"\n'),
        ("prototxt", b'name: "n" layer { name: "c" type: "Crf"\nmax_iter: 3 }\n'),
        ("prototxt", b'name: "n"\nlayer < name: "c" type: "Crf"\nmax_iter: 3 >\n'),
    ],
)
def test_words_of_other_formats_in_a_model_mislead_nobody(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    assert _recognised(tmp_path / "x").name == name


def test_what_nobody_knows_is_told_without_guessing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(256)))
    with pytest.raises(bnfold.InputError, match="cannot be read") as told:
        _recognised(tmp_path / "x")
    assert "whole ONNX or Caffe model" in told.value.hint


def test_parts_of_models(samples: Path) -> None:
    found = {path.suffix: _recognised(path).name for path in sorted(samples.iterdir()) if path.suffix != ".py"}
    assert found == {".prototxt": "prototxt", ".caffemodel": "caffemodel", ".onnx": "onnx"}


@pytest.mark.parametrize(
    "names", [["cifar10.prototxt"], ["cifar10.caffemodel"], ["keras.onnx", "cifar10.prototxt"], []]
)
def test_what_is_not_one_model(samples: Path, names: list[str]) -> None:
    with pytest.raises(bnfold.UsageError, match="is missing" if len(names) == 1 else "not one model"):
        open_document([samples / name for name in names], Options())


def test_an_onnx_model_is_not_exported(samples: Path) -> None:
    from bnfold.formats import export_model

    with pytest.raises(bnfold.UsageError, match="is an ONNX model already"):
        export_model([samples / "keras.onnx"], Options())


@pytest.mark.parametrize(
    "suffix", [s for row in FORMATS for s in row.suffixes if row.name in ("prototxt", "caffemodel")]
)
def test_a_result_loses_each_suffix_of_caffe(samples: Path, tmp_path: Path, suffix: str) -> None:
    """`CaffeDocument.places` names the files of a result by the suffixes that the table has."""
    for name in ("cifar10.prototxt", "cifar10.caffemodel"):
        shutil.copy(samples / name, tmp_path)
    document = open_document([tmp_path / "cifar10.prototxt", tmp_path / "cifar10.caffemodel"], Options())
    found = document.places(tmp_path / f"out{suffix}")
    assert [path.name for path in found] == ["out.prototxt", "out.caffemodel"]


def test_a_file_of_very_many_fields_is_recognised_without_a_list_of_them() -> None:
    held = Content(memoryview(protobuf.integer(1, 8) + protobuf.integer(30, 1) * 20_000))
    tracemalloc.start()
    found = next(row for row in FORMATS if row.recognises(held))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.name, peak < 100_000) == ("onnx", True)
