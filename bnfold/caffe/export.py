"""A Caffe net as an ONNX model, equal to what Caffe computes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import __version__
from ..errors import InputError, UsageError
from ..onnx.model_writer import LIMIT, Header, write_model
from ..planner.records import Notice, Opaque
from ..printable import printable
from ..protobuf import Rope
from .lowered import Lowered
from .lowering import DEFAULT_OPSET, lower
from .net import CaffeNet, Phase, load
from .notices import notices

Told = tuple[Sequence[Opaque], Sequence[Notice]]
"""The layers that are taken for inputs, and what else the user has to know."""
_IR_VERSIONS = {13: 7, 14: 7, 15: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The IR version of the first release of ONNX that had an opset."""
_KNOWN = range(4, 15)
"""Before IR version 4 initializers have to be inputs, too; 14 is the newest that was tried."""


def onnx_model(
    prototxt: Path,
    caffemodel: Path | None,
    *,
    opset: int | None = None,
    ir_version: int | None = None,
    dynamic_batch: bool = False,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
    phase: Phase = "TEST",
    stages: Sequence[str] = (),
    level: int = 0,
    bn_blobs: str | None = None,
) -> tuple[Rope, Told]:
    """The ONNX model of a Caffe net, whose tensors are read when it is written, and what is to be known of it.

    `inputs` gives or replaces the shape of inputs by blob name. With `dynamic_batch` the first extent of all inputs is
    left open. `bn_blobs` says how to read BatchNorm blobs whose order the file leaves open.
    Raises InputError for a net that Caffe would refuse, or a layer that has no exact counterpart; UsageError for
    versions that cannot be written.
    """
    if ir_version is not None and ir_version not in _KNOWN:
        raise UsageError(f"IR version {ir_version} is not supported", hint=f"give one from {_KNOWN[0]} to {_KNOWN[-1]}")
    net = load(prototxt, caffemodel, phase=phase, stages=stages, level=level)
    version = DEFAULT_OPSET if opset is None else opset
    lowered = lower(net, opset=version, inputs=inputs, dynamic_batch=dynamic_batch, bn_order=bn_blobs)
    _check_exportable(net, lowered, dynamic_batch)
    header = _header(version, ir_version, [path for path in (prototxt, caffemodel) if path is not None], dynamic_batch)
    rope = write_model(lowered.graph, header)
    if rope.size > LIMIT:
        raise InputError(
            f"the model has {rope.size} bytes, and an ONNX file ends at {LIMIT}", where=str(caffemodel or prototxt)
        )
    return rope, (lowered.sources, [*lowered.notices, *notices(net)])


def _header(opset: int, ir_version: int | None, sources: Sequence[Path], dynamic_batch: bool) -> Header:
    """What the model says of itself: its versions, and of which files it was made."""
    pairs = zip(("prototxt", "caffemodel"), sources, strict=False)
    metadata = {f"bnfold.source.{kind}": f"{printable(path.name)} sha256:{_digest(path)}" for kind, path in pairs}
    return Header(
        opset,
        ir_version or max(v for o, v in _IR_VERSIONS.items() if o <= opset),
        producer="bnfold",
        producer_version=__version__,
        metadata=metadata,
        batch="batch" if dynamic_batch else "",
    )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_exportable(net: CaffeNet, lowered: Lowered, dynamic_batch: bool) -> None:
    """Raises InputError where ONNX cannot say what the net is."""
    if lowered.clobbered:
        raise lowered.clobbered[0]
    for layer, opaque in lowered.opaque.items():
        hint = "try a fixed batch" if dynamic_batch else "bnfold.caffe.layers.register teaches bnfold a type"
        where = f"{opaque.where}, layer {layer.name or '(no name)'}"
        raise InputError(f"type {layer.type} cannot be exported: {opaque.reason}", where=where, hint=hint)
    last = {name: value for item in lowered.layers for name, value in zip(item.layer.tops, item.tops, strict=True)}
    for name, value in last.items():
        if value in lowered.graph.outputs and value.name != name:
            raise InputError(
                f"blob {name!r} is an input and, changed in place, also an output; ONNX needs two names",
                where=net.text.source.name,
                hint="give the layer that changes it a top of its own",
            )
    for value in lowered.graph.inputs:
        if value.shape is None or None in value.shape[int(dynamic_batch) :]:
            shape = "x".join("?" if e is None else str(e) for e in value.shape or (None,))
            raise InputError(
                f"the shape of input {value.name!r} is not known ({shape})",
                where=net.text.source.name,
                hint=f"give it, for example --input {value.name}=1x3x224x224",
            )
