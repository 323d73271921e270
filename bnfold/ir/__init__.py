"""The one view of a network: a graph of ONNX's operators, their shapes, and names for what is new."""
