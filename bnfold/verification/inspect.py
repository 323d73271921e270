"""What the judge must know of a model's structure, read without its weights; and the model with its weights shaken.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import protobuf

GRAPH = 7  # of ModelProto
NODE, INITIALIZER = 1, 5  # of GraphProto
INPUT, OUTPUT, OP_TYPE, ATTRIBUTE = 1, 2, 4, 5  # of NodeProto
TENSOR, BODY = 5, 6  # of AttributeProto
DATA_TYPE, FLOATS, NAME, RAW, DOUBLES = 2, 4, 8, 9, 10  # of TensorProto

FORMATS = {1: (4, 23), 10: (2, 10), 11: (8, 52), 16: (2, 7)}
"""Bytes and stored bits of the fraction, by TensorProto.DataType: float, float16, double, bfloat16."""
QUANTISERS = {b"QuantizeLinear", b"DynamicQuantizeLinear"}
SHAPING = {b"Range", b"Resize", b"Upsample", b"TopK", b"OneHot", b"NonMaxSuppression", b"Pow"}
"""Operators that turn the value of a constant into an extent or a choice: it is never shaken.

The exponent 2 of a Pow is one: but for whole numbers a power of a negative number is NaN.
"""
STEPS = 4
"""The farthest that a number is shaken, in units of its last place."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Floating-point numbers of a constant: little-endian words of `size` bytes in data[start:end]."""

    name: bytes
    start: int
    end: int
    size: int
    fraction: int


@dataclass
class Inspection:
    """`fraction`: the fewest bits of the fraction in a constant (float32's without any). `quantised`: the net rounds to
    steps inside. `numbers`: all constants that lie in the model's own bytes and may be shaken.
    """

    fraction: int = 23
    quantised: bool = False
    numbers: list[Numbers] = field(default_factory=list)


def inspect(data: protobuf.Buffer) -> Inspection:
    """Of a serialized ModelProto. Raises WireError where it is none."""
    result, fixed = Inspection(), set[bytes]()
    for part in protobuf.fields(data):
        if part.number == GRAPH:  # several occurrences are one graph
            _graph(result, fixed, data, part)
    result.fraction = min((n.fraction for n in result.numbers), default=23)
    result.numbers = [n for n in result.numbers if n.name not in fixed]
    return result


def _graph(result: Inspection, fixed: set[bytes], data: protobuf.Buffer, graph: protobuf.Field) -> None:
    for part in protobuf.fields(data, graph.body, graph.end):
        if part.number == NODE:
            _node(result, fixed, data, part)
        elif part.number == INITIALIZER:
            _tensor(result, data, part)


def _node(result: Inspection, fixed: set[bytes], data: protobuf.Buffer, node: protobuf.Field) -> None:
    inputs, output = [], b""
    for part in protobuf.fields(data, node.body, node.end):
        if part.number == INPUT:
            inputs.append(part)
        elif part.number == OUTPUT:
            output = bytes(data[part.body : part.end])
        elif part.number == OP_TYPE:
            kind = bytes(data[part.body : part.end])
            result.quantised |= kind in QUANTISERS
            if kind in SHAPING:
                fixed.update(bytes(data[i.body : i.end]) for i in inputs)
        elif part.number == ATTRIBUTE:
            for inner in protobuf.fields(data, part.body, part.end):
                if inner.number == BODY:
                    _graph(result, fixed, data, inner)
                elif inner.number == TENSOR:
                    _tensor(result, data, inner, output)


def _tensor(result: Inspection, data: protobuf.Buffer, tensor: protobuf.Field, name: bytes | None = None) -> None:
    """Enter the numbers of a tensor under its own name, or the `name` of the node's output that gives it."""
    parts = {part.number: part for part in protobuf.fields(data, tensor.body, tensor.end)}
    size, fraction = FORMATS.get(parts[DATA_TYPE].value if DATA_TYPE in parts else 0, (0, 0))
    content = parts.get(RAW) or parts.get(FLOATS) or parts.get(DOUBLES)
    if size and content is not None and content.wire == protobuf.BYTES:
        if name is None:
            name = bytes(data[parts[NAME].body : parts[NAME].end]) if NAME in parts else b""
        result.numbers.append(Numbers(name, content.body, content.end, size, fraction))


def shaken(data: protobuf.Buffer, found: Inspection, seed: int) -> bytearray:
    """The model with its numbers a few units of their last place up or down."""
    result = bytearray(data)
    for number, at in enumerate(found.numbers):
        words = np.frombuffer(result, f"<u{at.size}", (at.end - at.start) // at.size, at.start)
        shake(words, at.fraction, np.random.default_rng([seed, number]))
    return result


def shake(words: npt.NDArray[np.unsignedinteger[Any]], fraction: int, rng: np.random.Generator) -> None:
    """Step the floating-point numbers whose bits are `words`, in place, up to `STEPS` units of their last place.

    Neighbours in size are neighbours as words. Zeros, denormal numbers, the largest and what is not finite stay.
    """
    bits = words.dtype.itemsize * 8
    top = (1 << bits - 1 - fraction) - 1
    exponents = words >> fraction & top
    steps = np.resize(rng.integers(-STEPS, STEPS + 1, 65521), words.size).reshape(words.shape)
    words += np.where((exponents > 0) & (exponents < top - 1), steps, 0).astype(words.dtype)
