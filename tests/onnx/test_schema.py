"""The schema against onnx's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfold.ir.element_types import OPAQUE, element_code, element_type
from bnfold.onnx import schema


def numbers(ours: type, theirs: Any) -> Iterator[tuple[str, int, int]]:
    """Each number of `ours` beside the one that the message or enumeration `theirs` has for it."""
    for name, value in vars(ours).items():
        if isinstance(value, type):
            yield from numbers(value, getattr(theirs, name))
        elif name.isupper() and hasattr(theirs, "DESCRIPTOR") and hasattr(theirs.DESCRIPTOR, "fields_by_name"):
            yield name, value, theirs.DESCRIPTOR.fields_by_name[name.lower()].number
        elif name.isupper():
            yield name, value, theirs.Value(name)


MESSAGES = [name for name, found in vars(schema).items() if isinstance(found, type) and not name.startswith("_")]


@pytest.mark.parametrize("message", MESSAGES)
def test_numbers_are_those_of_onnx(message: str) -> None:
    found = list(numbers(getattr(schema, message), getattr(onnx, message)))
    assert found
    for name, ours, theirs in found:
        assert ours == theirs, name


def test_each_type_of_attribute_has_its_field() -> None:
    fields = onnx.AttributeProto.DESCRIPTOR.fields_by_name
    spelled = {"FLOAT": "f", "INT": "i", "STRING": "s", "TENSOR": "t", "GRAPH": "g", "TYPE_PROTO": "tp"}
    for name, kind in onnx.AttributeProto.AttributeType.items():
        if name != "UNDEFINED":
            assert schema.FIELD_OF_TYPE[kind] == fields[spelled.get(name, name.lower())].number


def test_element_types_are_those_of_onnx() -> None:
    known = 0
    for code in onnx.TensorProto.DataType.values():
        dtype = element_type(code)
        if dtype != OPAQUE:
            assert dtype == helper.tensor_dtype_to_np_dtype(code)
            assert element_code(dtype) == code
            known += 1
    assert known == 15
    assert element_type(99) == OPAQUE
    with pytest.raises(KeyError):
        element_code(np.dtype("M8[s]"))
