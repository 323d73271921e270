"""Small Caffe nets for tests: a prototxt as text, weights as arrays; folding them, and running both nets.

The files are written from the formats' facts alone, so that a test does not judge the package by itself.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from bnfold import protobuf
from bnfold.caffe import caffe_pb2 as pb
from bnfold.caffe.export import onnx_model
from bnfold.caffe.net import CaffeNet, load
from bnfold.caffe.weights.caffemodel import Caffemodel
from bnfold.options import Options
from bnfold.pipeline import Result
from bnfold.pipeline import fold as fold_files

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

TOLERANCE = 2e-6
"""Relative to the largest element of an output: what folding a few layers rounds away in float32."""


class Files(NamedTuple):
    prototxt: Path
    caffemodel: Path


# ----------------------------------------------------------------------------------------------------------- writing


def blob(array: Array, *, legacy: bool = False) -> bytes:
    """A BlobProto: float64 as `double_data`, all else as `data`; `legacy` has the shape in four fields."""
    values = np.ascontiguousarray(array, "<f8" if array.dtype == np.float64 else "<f4")
    extents = (1,) * (4 - array.ndim) + array.shape
    dims = b"".join(map(protobuf.varint, array.shape))
    four = b"".join(protobuf.integer(i, e) for i, e in enumerate(extents, 1))
    shape = four if legacy else protobuf.delimited(7, protobuf.delimited(1, dims))
    return shape + protobuf.delimited(8 if array.dtype == np.float64 else 5, values.tobytes())


def stored(name: str, *blobs: Array | bytes, kind: str = "", legacy: bool = False, more: bytes = b"") -> bytes:
    """One layer of a caffemodel; `more` are further fields of it."""
    body = protobuf.string(1, name) + (protobuf.string(2, kind) if kind else b"") + more
    for item in blobs:
        body += protobuf.delimited(7, item if isinstance(item, bytes) else blob(item, legacy=legacy))
    return protobuf.delimited(100, body)


def stored_v1(name: str, *blobs: Array, number: int = 0, more: bytes = b"") -> bytes:
    """One layer of a caffemodel of 2014, which gives types as numbers."""
    body = protobuf.string(4, name) + (protobuf.integer(5, number) if number else b"") + more
    return protobuf.delimited(2, body + b"".join(protobuf.delimited(6, blob(item, legacy=True)) for item in blobs))


def filled(blob: pb.BlobProto) -> bool:
    """Whether a blob with a shape has values in the fields of the schema, as some forks' blobs have not."""
    return bool(blob.data or blob.double_data or not blob.shape.dim)


def data(*extents: int, name: str = "data") -> str:
    """An Input layer; (2, 4, 6, 6) unless told."""
    dims = " ".join(f"dim: {extent}" for extent in extents or (2, 4, 6, 6))
    return layer("Input", name, "", name, f"input_param {{ shape {{ {dims} }} }}")


def layer(kind: str, name: str, bottoms: str, tops: str, body: str = "") -> str:
    """A layer in one line; several bottoms or tops have spaces between them."""
    blobs = [f'bottom: "{blob}"' for blob in bottoms.split()] + [f'top: "{blob}"' for blob in tops.split()]
    return " ".join(["layer {", f'name: "{name}"', f'type: "{kind}"', *blobs, *([body] if body else []), "}"]) + "\n"


def conv(name: str, bottom: str, top: str, outs: int = 4, kernel: int = 1, more: str = "", body: str = "") -> str:
    """A convolution; `more` goes into its convolution_param, `body` into the layer."""
    param = f"convolution_param {{ num_output: {outs} kernel_size: {kernel}{' ' + more if more else ''} }}"
    return layer("Convolution", name, bottom, top, f"{param} {body}".strip())


def bn(name: str, bottom: str, top: str, more: str = "") -> str:
    return layer("BatchNorm", name, bottom, top, f"batch_norm_param {{ {more} }}" if more else "")


def scaled(name: str, bottom: str, top: str, more: str = "bias_term: true") -> str:
    return layer("Scale", name, bottom, top, f"scale_param {{ {more} }}" if more else "")


Weights = Mapping[str, Sequence[Array]] | Sequence[bytes]


def save(folder: Path, text: str | bytes, weights: Weights, name: str = "net") -> Files:
    """`weights`: the arrays of each layer, or whole stored layers in the order of the file."""
    files = Files(folder / f"{name}.prototxt", folder / f"{name}.caffemodel")
    files.prototxt.write_bytes(text if isinstance(text, bytes) else text.encode())
    if isinstance(weights, Mapping):
        weights = [stored(layer, *arrays) for layer, arrays in weights.items()]
    files.caffemodel.write_bytes(protobuf.string(1, "net") + b"".join(weights))
    return files


# ------------------------------------------------------------------------------------------------- folding and running


@dataclass(frozen=True)
class Folded:
    """What folding wrote."""

    files: Files
    result: Result

    @property
    def text(self) -> str:
        return self.files.prototxt.read_bytes().decode()

    @cached_property
    def net(self) -> CaffeNet:
        return load(*self.files)

    @property
    def types(self) -> list[str]:
        return [layer.type for layer in self.net.layers]

    @cached_property
    def stored(self) -> list[tuple[str, list[Array]]]:
        """All layers of the caffemodel with their blobs."""
        layers = Caffemodel(self.files.caffemodel).layers
        return [(layer.name, [b.array() for b in layer.blobs]) for layer in layers]

    @property
    def blobs(self) -> dict[str, list[Array]]:
        return dict(self.stored)


def fold(files: Files, **options: Any) -> Folded:
    """Fold, without the verification's process unless `verify` is asked for."""
    out = files.prototxt.with_name("folded")
    result = fold_files(files, out, Options(**{"verify": False, **options}))
    return Folded(Files(out.with_name("folded.prototxt"), out.with_name("folded.caffemodel")), result)


def run(files: Files, feeds: Feeds | None = None, **how: Any) -> dict[str, Array]:
    """All outputs of the net, on random inputs where none are given."""
    stream = io.BytesIO()
    onnx_model(*files, **how)[0].write(stream)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(stream.getvalue(), options, providers=["CPUExecutionProvider"])
    if feeds is None:
        feeds = {i.name: noise(i.name, *i.shape) for i in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def noise(label: str, *shape: int) -> Array:
    """Random numbers of N(0, 1), the same for one label."""
    return np.random.default_rng(list(label.encode())).normal(size=shape).astype(np.float32)


def check(files: Files, **options: Any) -> Folded:
    """Fold, and see that every output has its name and values, and that folding again changes nothing."""
    folded = fold(files, **options)
    how = {key: value for key, value in options.items() if key in ("phase", "stages", "level", "bn_blobs")}
    assert_equal(run(files, **how), run(folded.files, **how))
    for layer in folded.net.layers:
        assert len(layer.param.param) <= max(len(layer.blobs), 1), f"{layer.name} has more specs than blobs"
    texts = [path.read_bytes() for path in folded.files]
    again = folded.files.prototxt.with_name("again")
    fold_files(folded.files, again, Options(**{"verify": False, **options}))
    assert texts == [again.with_name(f"again{path.suffix}").read_bytes() for path in folded.files]
    return folded


def assert_equal(wanted: Mapping[str, Array], found: Mapping[str, Array], tolerance: float = TOLERANCE) -> None:
    assert sorted(wanted) == sorted(found)
    for name, array in wanted.items():
        assert array.shape == found[name].shape, name
        error = np.abs(array.astype(np.float64) - found[name]).max() / max(np.abs(array).max(), 1e-30)
        assert error <= tolerance, f"{name} differs by {error:.2g} of its maximum"


# -------------------------------------------------------------------------------------------------- weights for a text


def batch_norm(channels: int, seed: int = 0, factor: float = 999.98) -> list[Array]:
    """BVLC's three blobs; the moments are stored times the factor."""
    rng = np.random.default_rng([channels, seed])
    mean, variance = rng.normal(0, 0.3, channels) * factor, rng.uniform(0.5, 1.5, channels) * factor
    return [mean.astype(np.float32), variance.astype(np.float32), np.array([factor], np.float32)]


def scale(channels: int, seed: int = 0) -> list[Array]:
    """gamma of both signs, and beta."""
    rng = np.random.default_rng([channels, seed, 1])
    gamma = rng.uniform(0.3, 0.9, channels) * rng.choice([-1, 1], channels)
    return [gamma.astype(np.float32), rng.normal(0, 0.3, channels).astype(np.float32)]


def he(*shape: int, seed: int = 0) -> Array:
    """Weights that keep the variance: N(0, 2 / fan-in); the fan-in is all but the first extent."""
    rng = np.random.default_rng([*shape, seed])
    return rng.normal(0, (2 / max(int(np.prod(shape[1:])), 1)) ** 0.5, shape).astype(np.float32)
