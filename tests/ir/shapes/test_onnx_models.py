"""Shapes over the models by which the onnx package tests its operators, against what onnx knows of them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from bnfold.ir.graph import Shape
from bnfold.ir.shapes.table import SHAPES
from bnfold.onnx.document import OnnxDocument

STANDARD = {"", "ai.onnx"}
LARGEST = 64
"""Elements up to which an operand other than the first is made a constant: a shape, axes, scales."""


@cache
def models() -> dict[str, tuple[onnx.ModelProto, list[np.ndarray]]]:
    """Name -> model and its inputs, of all that use operators of the standard domain alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, about the arithmetic of the models' expected results
        cases = collect_testcases(None)
    return {
        case.name: (case.model, list(case.data_sets[0][0]))
        for case in cases
        if case.model is not None and {entry.domain for entry in case.model.opset_import} <= STANDARD
    }


def with_constants(model: onnx.ModelProto, inputs: list[np.ndarray]) -> onnx.ModelProto:
    """The model with small operands as constants, as exporters write them: shapes follow from what they hold."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for value, array in list(zip(result.graph.input, inputs, strict=False))[1:]:
        if isinstance(array, np.ndarray) and array.dtype.kind in "iuf" and array.size <= LARGEST:
            result.graph.initializer.append(numpy_helper.from_array(array, value.name))
            result.graph.input.remove(value)
    return result


def known(values: Iterator[onnx.ValueInfoProto]) -> dict[str, Shape]:
    """The shapes that a model declares."""
    shapes = {}
    for value in values:
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type") and tensor.HasField("shape"):
            shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return shapes


def undeclared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the shapes that it declares of anything but its inputs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    for value in result.graph.output:
        value.type.tensor_type.ClearField("shape")
    return result


def conflicts(model: onnx.ModelProto, seen: Counter[str]) -> list[str]:
    """Where what is inferred contradicts what onnx infers or the model declares; `seen` counts outputs by operator."""
    bare = undeclared(model)
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    told = [known(iter([*inferred.value_info, *inferred.output])), known(iter(model.graph.output))]
    graph = OnnxDocument.from_bytes(bare.SerializeToString()).graphs()[0]
    wrong = []
    for node in graph.nodes:
        if node.contradiction:
            wrong.append(f"{node}: {node.contradiction}")
        for value in node.outputs:
            others = [shapes[value.name] for shapes in told if value.name in shapes]
            seen[node.op] += bool(others) and value.shape is not None
            wrong += [f"{node}: {value.shape} and {other}" for other in others if not agree(value.shape, other)]
    return wrong


def agree(one: Shape | None, other: Shape) -> bool:
    if one is None:
        return True
    return len(one) == len(other) and all(a == b or None in (a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("constant", [False, True], ids=["operands as inputs", "operands as constants"])
def test_shapes_are_those_that_onnx_infers_and_its_models_declare(constant: bool) -> None:
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for name, (model, inputs) in models().items():
        found = conflicts(with_constants(model, inputs) if constant else model, seen)
        wrong.extend(f"{name}: {what}" for what in found)
    assert wrong == []
    assert seen.total() > 2500
    assert len(seen) > 120


def test_each_wrong_row_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    """But of Size, a scalar, which has no extent to be wrong, and Constant, whose tensor brings its shape."""
    uses: dict[str, list[str]] = {}
    for name, (model, _) in models().items():
        for op in {node.op_type for node in model.graph.node} & set(SHAPES):
            uses.setdefault(op, []).append(name)
    unnoticed = []
    for op, names in uses.items():
        with monkeypatch.context() as patch:
            right = SHAPES[op]
            patch.setitem(SHAPES, op, lambda node, right=right: [s and (*s[:-1], 7919) for s in right(node)])
            if not any(conflicts(with_constants(*models()[name]), Counter()) for name in names):
                unnoticed.append(op)
    assert len(uses) > 120
    assert set(unnoticed) <= {"Size", "Constant"}
