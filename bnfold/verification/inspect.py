"""What the judge must know of a model's structure, read without its weights; and the model with its weights shaken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ir.element_types import element_type
from ..onnx.messages import Data, StoredTensor, walk
from ..onnx.read import read_model
from ..onnx.schema import TensorProto
from ..protobuf import BYTES, Buffer

_FRACTIONS = {"float32": 23, "float16": 10, "float64": 52, "bfloat16": 7}
"""Stored bits of the fraction of floating-point numbers."""
_QUANTISERS = {"QuantizeLinear", "DynamicQuantizeLinear"}
SHAPING = {"Range", "Resize", "Upsample", "TopK", "OneHot", "NonMaxSuppression", "Pow"}
"""Operators that turn the value of a constant into an extent or a choice: it is never shaken.

The exponent 2 of a Pow is one: but for whole numbers a power of a negative number is NaN.
"""
_STEPS = 4
"""The farthest that a number is shaken, in units of its last place."""


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Floating-point numbers of a constant: little-endian words of `size` bytes in data[start:end]."""

    name: str
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
    numbers: list[_Numbers] = field(default_factory=list)


def inspect(data: Buffer) -> Inspection:
    """Of a serialized ModelProto, functions apart. Raises InputError where it is none."""
    result, fixed = Inspection(), set[str]()
    for graph in walk(read_model(Data(memoryview(data), "the model")).graph):
        for node in graph.nodes:
            result.quantised |= node.op in _QUANTISERS
            fixed.update(node.inputs if node.op in SHAPING else ())
            for value in node.attributes.values():
                if isinstance(value, StoredTensor):
                    result.numbers += _numbers(value, node.outputs[-1] if node.outputs else "")
        for tensor in graph.initializers:
            result.numbers += _numbers(tensor, tensor.name)
    result.fraction = min((n.fraction for n in result.numbers), default=23)
    result.numbers = [n for n in result.numbers if n.name not in fixed]
    return result


def _numbers(tensor: StoredTensor, name: str) -> Iterator[_Numbers]:
    """The numbers of a tensor that makes the value `name`."""
    dtype = element_type(tensor.type)
    for part in tensor.payload:
        held = part.number in (TensorProto.RAW_DATA, TensorProto.FLOAT_DATA, TensorProto.DOUBLE_DATA)
        if held and part.wire == BYTES and dtype.name in _FRACTIONS:
            yield _Numbers(name, part.body, part.end, dtype.itemsize, _FRACTIONS[dtype.name])


def shaken(data: Buffer, found: Inspection, seed: int) -> bytearray:
    """The model with its numbers a few units of their last place up or down."""
    result = bytearray(data)
    for number, at in enumerate(found.numbers):
        words = np.frombuffer(result, f"<u{at.size}", (at.end - at.start) // at.size, at.start)
        shake(words, at.fraction, np.random.default_rng([seed, number]))
    return result


def shake(words: npt.NDArray[np.unsignedinteger[Any]], fraction: int, rng: np.random.Generator) -> None:
    """Step the floating-point numbers whose bits are `words`, in place, up to `_STEPS` units of their last place.

    Neighbours in size are neighbours as words. Zeros, denormal numbers, the largest and what is not finite stay.
    """
    bits = words.dtype.itemsize * 8
    top = (1 << bits - 1 - fraction) - 1
    exponents = words >> fraction & top
    steps = np.resize(rng.integers(-_STEPS, _STEPS + 1, 65521), words.size).reshape(words.shape)
    words += np.where((exponents > 0) & (exponents < top - 1), steps, 0).astype(words.dtype)
