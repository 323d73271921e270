"""Every row of the tables of shapes and types against what its operator gave when onnx evaluated it.

The models and the arrays are those of onnx's own node tests; an operator that they lack has a case here. A row is asked
alone, so that no declared shape stands in for what it does not know.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from bnfold.ir.graph import Contradiction, Graph, Node, Tensor, Value
from bnfold.ir.shapes.table import SHAPES, TYPES

F, INT = np.float32, np.int64


class Case(NamedTuple):
    """A node as it was evaluated: None is an input or output that is left out."""

    inputs: list[Any]
    outputs: list[Any]
    attributes: dict[str, Any]
    version: int = 13

    def node(self, op: str, constants: bool) -> Node:
        """The inputs are constants, or values of which only shape and type are known."""
        inputs: list[Value | None] = []
        for index, array in enumerate(self.inputs):
            known = Tensor(index, array.shape, array.dtype, lambda a=array: a) if array is not None else None
            tensor = known if constants else None
            inputs.append(Value(f"x{index}", known.shape, known.dtype, tensor=tensor) if known else None)
        outputs = [Value(f"y{index}") for index in range(len(self.outputs))]
        return Graph().add_node(op, inputs, outputs, self.attributes, origin=None, name=op, version=self.version)


def given(*inputs: Any, gives: np.ndarray, **attributes: Any) -> list[Case]:
    """A case of our own: a tuple is an input of that shape."""
    arrays = [np.zeros(item, F) if isinstance(item, tuple) else item for item in inputs]
    return [Case(arrays, [gives], attributes)]


ARITHMETIC = "Add BitShift BitwiseAnd BitwiseOr BitwiseXor Div Max Mean Min Mod Mul Pow Sub Sum"
COMPARISONS = "And Equal Greater GreaterOrEqual Less LessOrEqual Or Xor"
BYTE, ONE = np.zeros((), np.uint8), np.ones((), F)

OWN: dict[str, list[Case]] = {
    **dict.fromkeys(ARITHMETIC.split(), given((3, 1), (2, 1, 4), gives=np.zeros((2, 3, 4), F))),
    **dict.fromkeys(COMPARISONS.split(), given((3, 1), (2, 1, 4), gives=np.zeros((2, 3, 4), np.bool_))),
    "Where": given(np.zeros((3, 1), np.bool_), (2, 1, 1), (4,), gives=np.zeros((2, 3, 4), F)),
    "Conv": given((2, 3, 5, 6), (4, 3, 3, 3), gives=np.zeros((2, 4, 3, 4), F)),
    "QLinearConv": given(
        np.zeros((2, 3, 5, 6), np.uint8),
        BYTE,
        BYTE,
        np.zeros((4, 3, 3, 3), np.uint8),
        *[BYTE] * 4,
        gives=np.zeros((2, 4, 3, 4), np.uint8),
    ),
    "MatMulInteger": given(
        np.zeros((2, 3, 4), np.uint8), np.zeros((4, 5), np.uint8), gives=np.zeros((2, 3, 5), np.int32)
    ),
    "QLinearMatMul": given(
        np.zeros((2, 3), np.uint8),
        ONE,
        BYTE,
        np.zeros((3, 4), np.int8),
        ONE,
        np.zeros((), np.int8),
        ONE,
        np.zeros((), np.int8),
        gives=np.zeros((2, 4), np.int8),
    ),
    "Dropout": [Case([np.zeros((2, 3), np.float16)], [np.zeros((2, 3), np.float16)] * 2, {}, 7)],
    "Cast": given((2, 3), gives=np.zeros((2, 3), INT), to=onnx.TensorProto.INT64),
    "CastLike": given((2, 3), np.zeros(1, INT), gives=np.zeros((2, 3), INT)),
    "GlobalLpPool": given((2, 3, 4, 5), gives=np.zeros((2, 3, 1, 1), F)),
    "MaxRoiPool": given((2, 3, 8, 8), (5, 5), gives=np.zeros((5, 3, 2, 4), F), pooled_shape=[2, 4]),
    "RandomNormal": given(gives=np.zeros((2, 3), F), shape=[2, 3]),
    "RandomUniform": given(gives=np.zeros((2, 3)), shape=[2, 3], dtype=onnx.TensorProto.DOUBLE),
    "RandomNormalLike": given((2, 3), gives=np.zeros((2, 3), F)),
    "RandomUniformLike": given((2, 3), gives=np.zeros((2, 3), np.float16), dtype=onnx.TensorProto.FLOAT16),
    "Affine": given((2, 3), gives=np.zeros((2, 3), F), alpha=2.0),
    "ImageScaler": given((1, 3, 4, 4), gives=np.zeros((1, 3, 4, 4), F), scale=2.0),
    "ParametricSoftplus": given((2, 3), gives=np.zeros((2, 3), F)),
    "ScaledTanh": given((2, 3), gives=np.zeros((2, 3), F)),
}
"""What onnx's node tests lack: a first operand that is repeated, several channels, a batch, types that differ, old
opsets, operators that draw random numbers, and experimental ones that are gone."""

OPEN = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}
"""What these give depends on the content of their inputs: of its shape no more than the rank is known."""


@cache
def recorded() -> dict[str, list[Case]]:
    """onnx's node tests of one node of the standard domain, by operator."""
    found: dict[str, list[Case]] = defaultdict(list)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = collect_testcases(None)
    for test in tests:
        graph, opsets = test.model.graph, {o.domain: o.version for o in test.model.opset_import}
        if len(graph.node) != 1 or graph.node[0].domain or "" not in opsets:
            continue
        for inputs, outputs in test.data_sets:
            case = one(graph, inputs, outputs, opsets[""])
            if case is not None:
                found[graph.node[0].op_type].append(case)
    return found


def one(graph: onnx.GraphProto, inputs: Any, outputs: Any, version: int) -> Case | None:
    """The only node of a graph; None where it works on something else than arrays."""
    (proto,) = graph.node
    env = dict(zip([v.name for v in graph.input], inputs, strict=True))
    env |= zip([v.name for v in graph.output], outputs, strict=True)
    attributes = {a.name: plain(helper.get_attribute_value(a)) for a in proto.attribute}
    arrays = [[env[name] if name else None for name in names] for names in (proto.input, proto.output)]
    whole = all(array is None or isinstance(array, np.ndarray | np.generic) for part in arrays for array in part)
    return Case(*arrays, attributes, version) if whole else None


def plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value.decode() if isinstance(value, bytes) else value


def walk(op: str) -> None:
    """Ask the rows of `op` for its cases; raises AssertionError where they are wrong, or know nothing at all."""
    cases = recorded().get(op, []) + OWN.get(op, [])
    assert cases, f"no case for {op}: add a node to OWN in {__name__}"
    known = False
    for case in cases:
        for constants in (False, True):
            node = case.node(op, constants)
            told = f"the row of {op}: {case.attributes}, opset {case.version}"
            for shape, array in zip(SHAPES[op](node) if op in SHAPES else (), case.outputs, strict=False):
                if shape is not None and array is not None:
                    assert len(shape) == array.ndim, told
                    assert all(e in (None, own) for e, own in zip(shape, array.shape, strict=True)), told
                    known |= None not in shape or op in OPEN
            for dtype, array in zip(TYPES[op](node) if op in TYPES else (), case.outputs, strict=False):
                assert array is None or dtype in (None, array.dtype), told
                known |= op not in SHAPES and dtype is not None
    assert known, f"the row of {op} knows the shape of no case"


@pytest.mark.parametrize("op", sorted({*SHAPES, *TYPES}))
def test_row(op: str) -> None:
    walk(op)


# ---------------------------------------------------------------------------------------------------------- mutants

WRONG: dict[str, Callable[[], Any]] = {
    "Transpose": lambda: SHAPES["Relu"],
    "Flatten": lambda: SHAPES["Reshape"],
    "Conv": lambda: SHAPES["ConvTranspose"],
    "MaxPool": lambda: SHAPES["Relu"],
    "Gemm": lambda: SHAPES["MatMul"],
    "Concat": lambda: SHAPES["Add"],
    "ReduceMean": lambda: SHAPES["Relu"],
    "ArgMax": lambda: SHAPES["Relu"],
    "Squeeze": lambda: SHAPES["Unsqueeze"],
    "DepthToSpace": lambda: SHAPES["SpaceToDepth"],
    "GatherND": lambda: SHAPES["Gather"],
    "Tile": lambda: SHAPES["Expand"],
    "Softmax": lambda: lambda node: [None],
    "Add": lambda: SHAPES["Relu"],
    "Where": lambda: SHAPES["GatherElements"],
    "QLinearConv": lambda: SHAPES["Relu"],
    "Det": lambda: SHAPES["Relu"],
}


@pytest.mark.parametrize("op", WRONG)
def test_a_wrong_shape_is_caught(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, op, WRONG[op]())
    with pytest.raises((AssertionError, Contradiction, LookupError, TypeError)):
        walk(op)


@pytest.mark.parametrize(
    ("op", "like"),
    [("Equal", "Shape"), ("ArgMax", "Equal"), ("CastLike", "Cast"), ("ConvInteger", "Shape"), ("Relu", "Equal"),
     ("OneHot", "Where"), ("TopK", "Shape"), ("ConstantOfShape", "Shape")],
)  # fmt: skip
def test_a_wrong_type_is_caught(op: str, like: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, op, TYPES[like])
    with pytest.raises(AssertionError, match=f"the row of {op}"):
        walk(op)


def test_a_right_row_of_a_new_operator_needs_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "Det", lambda node: [node.inputs[0].shape[:-2]])
    walk("Det")


def test_a_row_without_a_case_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "OfNobody", SHAPES["Relu"])
    with pytest.raises(AssertionError, match="no case for OfNobody"):
        walk("OfNobody")
