"""The one table of layer types, and what describes each: an ONNX node or several."""

from .table import register

__all__ = ["register"]
