"""Which of a layer's parameter messages its description has read, and which it should have."""

from __future__ import annotations

from typing import Any

from .. import caffe_pb2 as pb

_NUMBERS = {name: field.number for name, field in pb.LayerParameter.DESCRIPTOR.fields_by_name.items()}
_FIRST_OF_FORKS = 200
"""The least number of a LayerParameter's field that BVLC's Caffe does not have."""


class Reading:
    """The parameters of a layer as its description sees them, and the names of those that it asks for."""

    def __init__(self, param: pb.LayerParameter) -> None:
        self._param = param
        self._asked = {"quantization_param"}  # which the lowering reads for all types

    def __getattr__(self, name: str) -> Any:
        self._asked.add(name)
        return getattr(self._param, name)

    def HasField(self, name: str) -> bool:  # noqa: N802  as protobuf has it
        """Whether the file gives the field."""
        self._asked.add(name)
        return bool(self._param.HasField(name))

    def unread(self) -> str:
        """A message that the layer has and that was not asked for, where that may matter; "" if there is none.

        A layer of BVLC's reads its own message only, whatever others it has. Of forks that is not known: neither of
        their types nor of their messages.
        """
        fork = any(_NUMBERS.get(name, 0) >= _FIRST_OF_FORKS for name in self._asked - {"quantization_param"})
        fields = self._param.ListFields()  # of a message with harmless fields alone nothing is set
        given = {field.name for field, value in fields if field.name.endswith("_param") and value.ListFields()}
        left = sorted(given - self._asked)
        return next((name for name in left if fork or _NUMBERS[name] >= _FIRST_OF_FORKS), "")
