"""Typed messages from text, field by field by name: Caffe's parser, but that what it does not know is set aside.

A field is known to the schema, or harmless, or reported as unread: nothing is dropped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message as Proto

from ...protobuf import encoded
from .fields import harmless, resembling
from .tree import Entry, Kind, Message

_FIRST_OF_OURS = 1000  # of the numbers that the schema gives to what has none in BVLC's
_PRESENCE = "Unread"  # the message of a block of which only the presence counts
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}


class Unread(NamedTuple):
    """A field that is not understood, by its `path` from the layer down, or an enum's value: `what` says so."""

    path: str
    entry: Entry
    what: str

    @property
    def place(self) -> str:
        """File, line and column."""
        return self.entry.source.where(self.entry.start)


def fill(proto: Proto, block: Message, unread: list[Unread], *, skip: Collection[str] = (), path: str = "") -> None:
    """Set the fields of `proto` from the entries of `block`; what is neither known nor harmless goes to `unread`.

    Raises InputError with file, line and column for a value of the wrong type or out of range, and a second value of a
    field that takes one.
    """
    known, ignored = _fields(proto.DESCRIPTOR), harmless(proto.DESCRIPTOR.name)
    seen: set[str] = set()
    for entry in block.entries:
        name = entry.name
        if name in skip or name in ignored:
            continue
        if name not in known:
            unread.append(unknown_field(proto, entry, path))
            continue
        field, repeated = known[name]
        if not repeated and name in seen:
            raise entry.fail(f"`{name}` is given twice")
        seen.add(name)
        if field.message_type is None:
            set_or_report(proto, name, entry, unread, path)
            continue
        inner = getattr(proto, name)
        if repeated:
            inner = inner.add()
        else:
            inner.SetInParent()
        if field.message_type.name != _PRESENCE:
            fill(inner, entry.message(), unread, path=f"{path}{name}.")


def unknown_field(proto: Proto, entry: Entry, path: str = "") -> Unread:
    """The report on a field that `proto` lacks and that is not harmless in it."""
    known = frozenset(_fields(proto.DESCRIPTOR)) | harmless(proto.DESCRIPTOR.name)
    near = resembling(entry.name, known)
    told = f", probably `{near}` misspelt: real Caffe refuses such a file" if near else ""
    return Unread(path + entry.name, entry, f"bnfold does not know the field `{path}{entry.name}`{told}")


def set_or_report(proto: Proto, name: str, entry: Entry, unread: list[Unread], path: str = "") -> None:
    """Set the scalar field `name`, or report a value that its enum does not have. Raises InputError like `fill`."""
    field, _ = _fields(proto.DESCRIPTOR)[name]
    if field.enum_type is not None and _enumerated(field, entry) is None:
        names = ", ".join(field.enum_type.values_by_name)
        what = f"bnfold does not know the value {entry.text} of `{path}{entry.name}`; it can be {names}"
        unread.append(Unread(path + entry.name, entry, what))
    else:
        set_field(proto, name, entry)


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


def _enumerated(field: FieldDescriptor, entry: Entry) -> int | None:
    """The number of an enum's value, None where it has no such value."""
    numbers = field.enum_type.values_by_number
    if entry.kind is Kind.NUMBER and entry.integer() in numbers and entry.integer() < _FIRST_OF_OURS:
        return entry.integer()
    value = field.enum_type.values_by_name.get(entry.text) if entry.kind is Kind.WORD else None
    return None if value is None else int(value.number)
