"""Shapes and dtypes of ONNX's operators."""
