"""Shapes and dtypes of ONNX's operators, opset 6 to 23, inferred from what a node reads."""
