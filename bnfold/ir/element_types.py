"""ONNX's element types and NumPy's, in one table. Source: TensorProto.DataType in onnx.proto."""

from __future__ import annotations

from typing import Any

import numpy as np

DType = np.dtype[Any]

_BFLOAT16 = 16
_NAMES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
}  # fmt: skip
_DTYPES = {code: np.dtype(name).newbyteorder("<") for code, name in _NAMES.items()}
_CODES = {name: code for code, name in _NAMES.items()} | {"bfloat16": _BFLOAT16}
FLOAT_CODE, INT64_CODE, BOOL_CODE = (_CODES[name] for name in ("float32", "int64", "bool"))
OPAQUE = np.dtype("V1")
"""Stands for element types that no fold touches: strings, and floats and integers of 8 bits and less in new formats."""


def element_type(code: int) -> DType:
    """The dtype, little-endian, of a TensorProto.DataType; OPAQUE where folding has no use for it."""
    if code == _BFLOAT16:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return _DTYPES.get(code, OPAQUE)


def is_float(dtype: DType) -> bool:
    """Whether a dtype is one of floats: NumPy has no kind for bfloat16."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def element_code(dtype: DType) -> int:
    """The TensorProto.DataType of a dtype that `element_type` gives. Raises KeyError for others."""
    return _CODES[dtype.name]
