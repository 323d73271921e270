"""Which kind of model files are, told by their content, and the document of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError, UsageError
from .files import HDF5, open_mapped
from .options import CAFFE_ONLY, ONNX_ONLY, Options, check_apply

if TYPE_CHECKING:
    from .document import Document


def open_document(paths: Sequence[Path], options: Options) -> Document:
    """The model in these files, whose kind is told by their content. Raises InputError, UsageError."""
    kinds = [_kind(path) for path in paths]
    found = sorted(kinds)
    if found == ["onnx"]:
        from .onnx.document import OnnxDocument

        check_apply(options, CAFFE_ONLY, f"is for Caffe nets, and {paths[0]} is an ONNX model")
        return OnnxDocument.open(paths[0], freeze=options.freeze, keep=options.keep)
    if found == ["caffemodel", "prototxt"]:
        from .caffe.document import CaffeDocument

        prototxt, caffemodel = caffe_order(paths)
        check_apply(options, ONNX_ONLY, f"is for ONNX models, and {prototxt} is a Caffe net")
        return CaffeDocument.open(
            prototxt,
            caffemodel,
            phase=options.phase or "TEST",
            stages=options.stages,
            level=options.level or 0,
            keep=options.keep,
            bn_blobs=options.bn_blobs,
            inputs=dict(options.inputs),
            fold_quantized=options.fold_quantized,
        )
    told = " and ".join(f"{path} ({kind})" for path, kind in zip(paths, kinds, strict=True))
    hint = "give one ONNX model, or the prototxt and the caffemodel of a Caffe net"
    missing = {"prototxt": "the caffemodel is missing", "caffemodel": "the prototxt is missing"}
    raise UsageError(f"{missing.get(' '.join(found), 'this is not one model')}: {told}", hint=hint)


def _kind(path: Path) -> str:
    """`onnx`, `caffemodel` (HDF5, too) or `prototxt`, by the first bytes, then by the top-level fields."""
    from . import protobuf

    with open_mapped(path) as data:
        head = bytes(data[:4096])
        if head.startswith(HDF5):
            return "caffemodel"
        if not any(byte < 9 or 13 < byte < 32 for byte in head):
            return "prototxt"
        try:
            found = {(part.number, part.wire) for part in protobuf.fields(data)}
        except protobuf.WireError as error:
            hint = "it is neither text nor a whole ONNX or Caffe model; was it copied or downloaded whole?"
            raise InputError(f"cannot be read: {error}", where=str(path), hint=hint) from None
    caffe = {
        (1, protobuf.BYTES),
        (2, protobuf.BYTES),
        (100, protobuf.BYTES),
    }  # the net's name, its layers; ONNX: version, producer
    return "caffemodel" if found & caffe and not found & {(1, protobuf.VARINT), (7, protobuf.BYTES)} else "onnx"


def caffe_order(paths: Sequence[Path]) -> tuple[Path, Path]:
    first, second = sorted(paths, key=lambda path: _kind(path) != "prototxt")
    return first, second
