"""Any one node on given data: by the tests' own definition of its operator, else by onnx's reference evaluator."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from bnfold.ir.graph import Array, Node

from .evaluate import OPERATORS, run


def results(node: Node, inputs: list[Array | None]) -> list[Array]:
    """All outputs; by onnx's reference evaluator where the tests have no definition of the operator of their own."""
    with np.errstate(all="ignore"):
        return run(node, inputs) if node.op in OPERATORS else reference(node, inputs)


def reference(node: Node, inputs: list[Array | None]) -> list[Array]:
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    outputs = [f"y{i}" for i in range(len(node.outputs))]
    attributes = tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in node.attributes.items()))
    types = tuple((name, array.dtype) for name, array in feeds.items())
    return list(evaluator(node.op, tuple(names), tuple(outputs), attributes, types, node.version).run(None, feeds))


@cache
def evaluator(
    op: str, names: tuple[str, ...], outputs: tuple[str, ...], attributes: Any, types: Any, version: int
) -> ReferenceEvaluator:
    proto = helper.make_node(op, names, outputs, **dict(attributes))
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(dtype), None) for n, dtype in types]
    targets = [helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in outputs]
    graph = helper.make_graph([proto], "node", inputs, targets)
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8))


def equal(found: Array, wanted: Array) -> bool:
    scale = np.abs(wanted).max(initial=1e-3, where=np.isfinite(wanted))
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=0, atol=1e-10 * scale, equal_nan=True)
