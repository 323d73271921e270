"""Typed messages from text, field by field by name: Caffe's parser, but that fields no schema knows are set aside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message as Proto

from ..wire import encoded
from .prototxt import Entry, Kind, Message

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}


def fill(proto: Proto, block: Message, unknown: list[str], *, skip: Collection[str] = (), path: str = "") -> None:
    """Set the fields of `proto` from the entries of `block`; the paths of those it does not have go to `unknown`.

    Raises InputError with file, line and column for a value of the wrong type or out of range, an enum name that does
    not exist, and a second value of a field that takes one.
    """
    known = _fields(proto.DESCRIPTOR)
    seen: set[str] = set()
    for entry in block.entries:
        name = entry.name
        if name in skip:
            continue
        if name not in known:
            unknown.append(path + name)
            continue
        field, repeated = known[name]
        if not repeated and name in seen:
            raise entry.fail(f"`{name}` is given twice")
        seen.add(name)
        if field.message_type is None:
            set_field(proto, name, entry)
            continue
        inner = getattr(proto, name)
        if repeated:
            inner = inner.add()
        else:
            inner.SetInParent()
        fill(inner, entry.message(), unknown, path=f"{path}{name}.")


def set_field(proto: Proto, name: str, entry: Entry) -> None:
    """Set the scalar field `name`, or add to it if it is repeated. Raises InputError like `fill`."""
    field, repeated = _fields(proto.DESCRIPTOR)[name]
    value = _value(field, entry)
    if repeated:
        getattr(proto, name).append(value)
    else:
        setattr(proto, name, value)


@functools.cache
def _fields(descriptor: Descriptor) -> dict[str, tuple[FieldDescriptor, bool]]:
    return {field.name: (field, _is_repeated(field)) for field in descriptor.fields}


def _is_repeated(field: FieldDescriptor) -> bool:
    try:
        return bool(field.is_repeated)
    except AttributeError:  # protobuf before 6.31
        return bool(field.label == FieldDescriptor.LABEL_REPEATED)


def _value(field: FieldDescriptor, entry: Entry) -> Any:
    if field.cpp_type in _INTEGERS:
        value = entry.integer()
        low, high = _INTEGERS[field.cpp_type]
        if not low <= value <= high:
            raise entry.fail(f"`{entry.name}` must be from {low} to {high} and is {value}")
        return value
    if field.enum_type is not None:
        return _enumerated(field, entry)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = entry.string()
        if field.type == FieldDescriptor.TYPE_BYTES:
            return encoded(text)
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise entry.fail(f"`{entry.name}` holds bytes that are not UTF-8", "save the file as UTF-8")
        return text
    read: Callable[[Entry], Any] = Entry.boolean if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else Entry.real
    return read(entry)


def _enumerated(field: FieldDescriptor, entry: Entry) -> int:
    enum = field.enum_type
    numbers = enum.values_by_number
    if entry.kind is Kind.NUMBER and entry.integer() in numbers:
        return entry.integer()
    value = enum.values_by_name.get(entry.text) if entry.kind is Kind.WORD else None
    if value is None:
        raise entry.fail(f"`{entry.name}` is {entry.text}", f"it can be {', '.join(enum.values_by_name)}")
    return int(value.number)
