"""What the judge and the engines must know of a model's structure, read without its weights."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from .. import wire

GRAPH = 7  # of ModelProto
NODE, INITIALIZER = 1, 5  # of GraphProto
OUTPUT, OP_TYPE, ATTRIBUTE = 2, 4, 5  # of NodeProto
BODY = 6  # of AttributeProto
DATA_TYPE = 2  # of TensorProto

SPACING = {1: 2.0**-23, 10: 2.0**-10, 11: 2.0**-52, 16: 2.0**-7}
"""Distance from 1 to the next number, by TensorProto.DataType: float, float16, double, bfloat16."""
QUANTISERS = (b"QuantizeLinear", b"DynamicQuantizeLinear")


@dataclass
class Survey:
    """`unit`: the spacing of the coarsest floating-point initializer, 0 without any. `quantised`: it rounds to steps
    inside. `blank`: a node's outputs end with an empty name, on which onnxruntime 1.32 crashes."""

    unit: float = 0.0
    quantised: bool = False
    blank: bool = False


def survey(model: Path) -> Survey:
    """Raises WireError where the file is no protobuf message."""
    result = Survey()
    with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for part in wire.fields(content):  # type: ignore[arg-type]  # mmap indexes and slices as bytes do
            if part.number == GRAPH:  # several occurrences are one graph
                _graph(result, content, part)  # type: ignore[arg-type]
    return result


def _graph(result: Survey, data: wire.Buffer, graph: wire.Field) -> None:
    for part in wire.fields(data, graph.body, graph.end):
        if part.number == NODE:
            _node(result, data, part)
        elif part.number == INITIALIZER:
            kind = next((f.value for f in wire.fields(data, part.body, part.end) if f.number == DATA_TYPE), 0)
            result.unit = max(result.unit, SPACING.get(kind, 0.0))


def _node(result: Survey, data: wire.Buffer, node: wire.Field) -> None:
    last = None
    for part in wire.fields(data, node.body, node.end):
        if part.number == OUTPUT:
            last = part
        elif part.number == OP_TYPE:
            result.quantised |= bytes(data[part.body : part.end]) in QUANTISERS
        elif part.number == ATTRIBUTE:
            for inner in wire.fields(data, part.body, part.end):
                if inner.number == BODY and inner.wire == wire.BYTES:
                    _graph(result, data, inner)
    result.blank |= last is not None and last.body == last.end
