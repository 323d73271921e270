"""NodeProto's attributes as Python values: int, float, str, tuples of them, and records of tensors and graphs.

Field numbers and type codes: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (AttributeProto)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..protobuf import BYTES, FIXED32, Buffer, Field, WireError, fields
from .messages import StoredSparse, StoredTensor, message, number, numbers, read_sparse, read_tensor, text


@dataclass(frozen=True, slots=True)
class Reference:
    """An attribute of a node in a function that takes the value of the function's own attribute `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Unread:
    """An attribute that bnfold has no use for: a type, or a graph (which its node's record holds)."""

    type: int


_FIELD_OF_TYPE = {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 11, 11: 22, 12: 23, 13: 14, 14: 15}
_REPEATED = {7, 8, 9, 10, 11, 15, 23}
_GRAPHS = {6, 11}

_NAMES: dict[tuple[type, ...], str] = {
    (str,): "auto_pad mode coordinate_transformation_mode nearest_mode equation keep_aspect_ratio_policy direction",
    (int,): "group transA transB ceil_mode count_include_pad storage_order keepdims is_test spatial training_mode "
    "noop_with_empty_axes axis blocksize block_size batch_dims allowzero to dtype broadcast num_outputs start end k "
    "hidden_size layout output_height output_width value_int",
    (float,): "alpha epsilon beta momentum value value_float",
    (tuple, int): "pads strides dilations kernel_shape output_padding output_shape perm axes starts ends steps split "
    "paddings shape pooled_shape value_ints",
    (tuple, float): "scales value_floats",
}
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
"""The types of attributes on which the reading of standard operators relies; of a list also that of its elements."""


def read(data: Buffer, parts: Sequence[Field], graph: Callable[[Field], Any], graphs: list[Any]) -> Mapping[str, Any]:
    """The attributes in `parts` by name. A graph is read by `graph` and goes to the list `graphs`.

    Raises WireError where an attribute has no value of its type.
    """
    found: dict[str, Any] = {}
    for part in parts:
        name, value = _attribute(data, part, graph, graphs)
        found[name] = value
    return found


def shareable(attributes: Mapping[str, Any]) -> bool:
    """Whether two nodes with equal bytes can share this: no value remembers where it lies."""
    return not any(isinstance(value, StoredTensor | StoredSparse | Unread) for value in attributes.values())


def mistyped(op: str, attributes: Mapping[str, Any]) -> str:
    """The name of an attribute whose type is not what the standard operator `op` has under this name, or ""."""
    for name, value in attributes.items():
        expected = (StoredTensor,) if name == "value" and op.startswith("Constant") else _KINDS.get(name)
        if expected is not None and not isinstance(value, Reference) and not _is(value, expected):
            return name
    return ""


def _is(value: Any, kind: tuple[type, ...]) -> bool:
    if not isinstance(value, kind[0]):
        return False
    return not isinstance(value, tuple) or all(isinstance(item, kind[1]) for item in value)


def _attribute(data: Buffer, at: Field, graph: Callable[[Field], Any], graphs: list[Any]) -> tuple[str, Any]:
    name = reference = ""
    type_ = 0
    values: list[Field] = []
    for part in fields(data, *message(at)):
        if part.number == 1:
            name = text(data, part)
        elif part.number == 20:
            type_ = number(part)
        elif part.number == 21:
            reference = text(data, part)
        elif part.number not in (13,):
            values.append(part)
    if reference:
        return name, Reference(reference)
    wanted = _FIELD_OF_TYPE.get(type_, values[0].number if values else 0)
    values = [part for part in values if part.number == wanted]
    if wanted in _GRAPHS:
        graphs.extend(graph(part) for part in values)
        return name, Unread(type_)
    if wanted in _REPEATED:
        return name, tuple(v for part in values for v in _elements(data, part))
    if not values:
        return name, _default(wanted, at)
    return name, _elements(data, values[-1])[-1]


def _default(wanted: int, at: Field) -> Any:
    """proto3 writers leave out a value that is 0 or empty."""
    if wanted not in (2, 3, 4):
        raise WireError("an attribute has no value", at.start)
    return {2: 0.0, 3: 0, 4: ""}[wanted]


def _elements(data: Buffer, at: Field) -> list[Any]:
    """The values in one field of an AttributeProto; there is at least one in a field that is not repeated."""
    if at.number in (2, 7):
        if (at.wire != FIXED32 and (at.number == 2 or at.wire != BYTES)) or (at.end - at.body) % 4:
            raise WireError("an attribute's floats are cut", at.start)
        return [value for (value,) in struct.iter_unpack("<f", data[at.body : at.end])]
    if at.number == 3:
        return [number(at)]
    if at.number == 8:
        return numbers(data, at)
    reader: Any = {4: text, 9: text, 5: read_tensor, 10: read_tensor, 22: read_sparse, 23: read_sparse}.get(at.number)
    return [reader(data, at) if reader else Unread(at.number)]
