"""A node for every form of every commuting operator, and the node of one data input that any other operator gets.

A case lists the inputs of a node: a tuple is the shape of data, a list a constant of int64, a number or an array a
constant of floats (of int64 where the array is of integers), None an input that is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx

from bnfold.ir.graph import Node, Value

from .nets import Net, ramp

SHAPE = (2, 3, 4, 5)


class Case(NamedTuple):
    inputs: tuple[Any, ...]
    how: dict[str, Any]

    def build(self, op: str) -> tuple[Net, Node]:
        """A net of that one node; raises Impossible where the shape of its output cannot be told."""
        net = Net()
        values: list[Any] = [net.input(*item) if isinstance(item, tuple) else item for item in self.inputs]
        made: Value | tuple[Value, ...] = net.op(op, *values, **self.how)
        for value in made if isinstance(made, tuple) else [made]:
            net.output(value)
        return net, net.graph.nodes[-1]


def case(*inputs: Any, **how: Any) -> Case:
    return Case(inputs, how)


def default(op: str) -> Case:
    """One data input, and the oldest opset from 13 that has the operator."""
    since = onnx.defs.get_schema(op).since_version if onnx.defs.has(op) else 13
    return case(SHAPE, version=max(13, since))


def cases(op: str) -> list[Case]:
    """What the row of an operator is tried on: its own cases, else those of a reduction, else the default."""
    return CASES.get(op) or (REDUCED if op.startswith("Reduce") else [default(op)])


X = SHAPE
EVEN = (2, 4, 6, 4)
ONES = (2, 4, 1, 1)

WINDOWS = [
    case(EVEN, kernel_shape=[2, 2]),
    case(EVEN, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    case(EVEN, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, pads=[0, 0, 1, 1]),
    case(EVEN, kernel_shape=[2, 2], strides=[3, 3], pads=[0, 0, 3, 3]),  # a window of padding alone
    case(EVEN, kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
    case((2, 3, 7), kernel_shape=[3]),
    case((1, 2, 3, 4, 3), kernel_shape=[2, 2, 2]),
]
REDUCED = [
    case(X, axes=[2, 3]),
    case(X, axes=[1], keepdims=0),
    case(X, axes=[-1], keepdims=0),
    case(X, axes=[0, 2]),
    case(X, keepdims=0),
    case(X, [2, 3], version=18),
    case(X, version=18, noop_with_empty_axes=1),
]
JOINED = [case(X, X), case(X, (1, 3, 1, 1)), case((4, 5), X), case(X, X, X), case((2, 1, 4, 5), X)]
PAIRS = [case(X, X), case(X, (3, 1, 1)), case((2, 1, 4, 5), X)]
WITH_CONSTANT = [case(X, ramp(3, 1, 1)), case(X, np.array(-1.5)), case(X, ramp(5) - 1.25), case(X, ramp(2, 3, 1, 1))]
UPSAMPLED = [np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])]

CASES: dict[str, list[Case]] = {
    "Identity": [default("Identity")],
    "Dropout": [
        case(X, tops=2), case(X, 0.5, np.bool_(False), tops=2), case(X, 0.5, np.bool_(True)), case(X, version=7),
        case(X, version=6, is_test=1), case(X, version=6),
    ],
    "Transpose": [
        case(X), case(X, perm=[0, 2, 3, 1]), case(X, perm=[0, 3, 1, 2]), case(X, perm=[1, 0, 3, 2]),
        case((2, 3, 3, 3), perm=[0, 2, 3, 1]),
    ],
    "Reshape": [
        case(EVEN, [0, -1]), case(EVEN, [0, 2, 2, 6, 4]), case(EVEN, [2, 4, 24]), case(EVEN, [2, 6, 4, 4]),
        case(EVEN, [-1, 4]), case(ONES, [2, 4]), case((2, 4), [0, 0, 1, 1]), case(EVEN, [8, 24]),
        case((2, 4, 4), [4, 4, 2]),
    ],
    "Flatten": [case(X), case(X, axis=2), case(X, axis=0), case(X, axis=-1), case((2, 3))],
    "Squeeze": [case(ONES), case(ONES, [3]), case(ONES, [-2, 3]), case(ONES, axes=[2], version=11)],
    "Unsqueeze": [case(X, [2]), case(X, [-1, 0]), case(X, axes=[1], version=11)],
    "MaxPool": [*WINDOWS, case(EVEN, kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1)],
    "GlobalMaxPool": [case(X), case((2, 3, 4))],
    "AveragePool": [
        *WINDOWS, *(case(*c.inputs, **c.how, count_include_pad=1) for c in WINDOWS),
        case((2, 4, 5, 5), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1),
    ],
    "GlobalAveragePool": [case(X), case((2, 3, 4))],
    "ReduceSum": [case(X, [2, 3]), case(X, [1], keepdims=0), case(X), case(X, noop_with_empty_axes=1)],
    "Concat": [
        case(X, X, axis=1), case(X, (2, 1, 4, 5), X, axis=1), case(X, X, axis=-1), case(X, X, axis=0),
        case(X, ramp(2, 2, 4, 5), axis=1),
    ],
    "Split": [
        case(X, [1, 2], axis=1, tops=2), case(X, [1, 1, 1], axis=1, tops=3), case(EVEN, axis=1, tops=2),
        case(X, axis=-1, split=[2, 3], tops=2, version=11), case(X, axis=0, tops=2),
    ],
    "Slice": [
        case(X, [1], [3], [1]), case(X, [-1], [-9], [1], [-2]), case(X, [0, 1], [99, -1], [2, 3], [2, 1]),
        case(X, version=9, starts=[1, 0], ends=[3, 2]), case(X, [1], [2], [0]),
        case(X, [-1], [-9], [1], [-1]),
    ],
    "Pad": [
        case(X, [0, 0, 1, 1, 0, 0, 0, 2]), case(X, [0, 0, 1, 1, 0, 0, 0, 2], 1.5), case(X, [0, 1, 0, 0, 0, 0, 0, 0]),
        case(X, [0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"), case(X, [0, 0, 1, 1, 0, 0, 1, 1], mode="edge"),
        case(X, [0, 0, -1, 0, 0, 0, 0, -2]), case(X, pads=[0, 0, 1, 0, 0, 0, 1, 0], value=0.5, version=10),
        case(X, pads=[0, 0, 1, 0, 0, 0, 1, 0], version=10),
    ],
    "Resize": [
        *(case(X, None, scales) for scales in UPSAMPLED),
        case(X, None, UPSAMPLED[0], mode="linear", coordinate_transformation_mode="asymmetric"),
        case(X, None, UPSAMPLED[0], mode="linear", coordinate_transformation_mode="align_corners"),
        case(X, None, None, [2, 3, 6, 3], mode="linear"), case(X, None, np.array([1.0, 1.25, 1.0, 1.0])),
        case(X, np.array([0.0, 0, 0, 0, 1, 1, 2, 1]), UPSAMPLED[0], mode="linear", extrapolation_value=3.0,
             coordinate_transformation_mode="tf_crop_and_resize"),
    ],
    "Upsample": [
        *(case(X, scales, version=9) for scales in UPSAMPLED), case(X, UPSAMPLED[0], mode="linear", version=9),
        case(X, np.array([1.0, 1.25, 1.0, 1.0]), version=9),
    ],
    "Expand": [case(ONES, [1, 1, 3, 2]), case((2, 1, 4, 5), [2, 3, 1, 1]), case((3, 1), [2, 3, 4]), case(X, [1])],
    "Tile": [case(X, [1, 1, 2, 3]), case(X, [1, 2, 1, 1]), case(X, [1, 1, 1, 1])],
    "Relu": [case(X)],
    "LeakyRelu": [case(X), case(X, alpha=-0.5), case(X, alpha=2.0)],
    "PRelu": [case(X, ramp(3, 1, 1) - 0.75), case(X, np.array([0.1])), case(X, (3, 1, 1)), case(X, ramp(3), version=6)],
    "Abs": [case(X)],
    "Add": [*PAIRS, case(X, (3,), version=6, broadcast=1, axis=1)],
    "Sum": JOINED,
    "Mean": JOINED,
    "Max": JOINED,
    "Min": JOINED,
    "Sub": [*PAIRS, case(X, (3,), version=6, broadcast=1, axis=1)],
    "Mul": [
        *PAIRS, *WITH_CONSTANT, case(ramp(3, 1, 1), X), case(X, np.array(0.0)),
        case(X, ramp(3), version=6, broadcast=1, axis=1),
    ],
    "Div": [*PAIRS, *WITH_CONSTANT, case(ramp(3, 1, 1), X), case(X, ramp(3), version=6, broadcast=1, axis=1)],
    "DepthToSpace": [case((2, 8, 2, 3), blocksize=2), case((2, 8, 2, 3), blocksize=2, mode="CRD")],
    "SpaceToDepth": [case((2, 2, 4, 6), blocksize=2)],
    "Gather": [
        case(X, [2, 0, -1, 0], axis=1), case(X, np.int64(1), axis=1), case(X, [[0, 1], [-1, 2]], axis=-1), case(X, [1]),
        case(X, [2, 1, 0], axis=1),
    ],
}  # fmt: skip
"""Operator -> the forms on which its row is tried. A row that is missing here is tried on `default`."""
