"""TypeProto as dtype and shape."""

from __future__ import annotations

from ..ir.graph import Shape
from ..protobuf import Buffer, fields
from .messages import Span, message, number
from .tensors import OPAQUE, DType, element_type


def read_type(data: Buffer, span: Span) -> tuple[DType | None, Shape | None]:
    """Element type and shape of a TypeProto; None for what it does not say or what is no tensor."""
    for at in fields(data, *span):
        if at.number == 1:
            return _tensor_type(data, message(at))
    return None, None


def _tensor_type(data: Buffer, span: Span) -> tuple[DType | None, Shape | None]:
    dtype: DType | None = None
    shape: Shape | None = None
    for at in fields(data, *span):
        if at.number == 1:
            dtype = element_type(number(at))
        elif at.number == 2:
            shape = tuple(_extent(data, message(part)) for part in fields(data, *message(at)) if part.number == 1)
    return (None if dtype == OPAQUE else dtype), shape


def _extent(data: Buffer, span: Span) -> int | None:
    """A fixed extent; None where it is a name or nothing."""
    extent = None
    for at in fields(data, *span):
        extent = number(at) if at.number == 1 else None
    return extent if extent is not None and extent >= 0 else None
