"""The ONNX side: a model as spans of its file, the graphs that the planner sees, and the folded model."""
