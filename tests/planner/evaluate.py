"""Evaluate a graph, and what a plan makes of it, in float64: simple on purpose, and independent of the planner's rules.

Each operator is written from its definition in https://github.com/onnx/onnx/blob/main/docs/Operators.md. Of the
package only the arithmetic of absorption is used, in the way in which documents use it: that is under test, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bnfold.ir.graph import Array, Graph, Node, Value
from bnfold.planner.affine import Absorbed, absorb_bias, absorb_weight
from bnfold.planner.foldable import linear
from bnfold.planner.records import Linear, Plan

from .windows import average_pool, conv, conv_transpose, max_pool, pad, resize

Arrays = dict[Value, Array]


def evaluate(graph: Graph, feeds: Mapping[Value, Array]) -> Arrays:
    """All values of a graph."""
    env = dict(feeds)
    for node in graph.nodes:
        store(env, node, run(node, [read(env, value) for value in node.inputs]))
    return env


def evaluate_planned(graph: Graph, plan: Plan, feeds: Mapping[Value, Array]) -> Arrays:
    """All values that survive the plan; what their names are the plan tells."""
    env = dict(feeds)
    gone = {node for d in plan.decisions if not d.untouched for node in d.chain.nodes}
    written = {d.chain.nodes[-1]: d for d in plan.decisions if not d.untouched and d.leftover is not None}
    for node in graph.nodes:
        if node in written:
            chain, leftover = written[node].chain, written[node].leftover
            assert leftover is not None
            env[chain.target] = leftover.a * env[plan.resolve(chain.source)] + leftover.b
        elif node not in gone:
            inputs = [None if v is None else read(env, plan.resolve(v)) for v in node.inputs]
            if node in plan.weights:
                node, inputs = absorbed(node, plan.weights[node][1], inputs)
            store(env, node, run(node, inputs))
    return env


def absorbed(node: Node, taken: Absorbed, inputs: list[Array | None]) -> tuple[Node, list[Array | None]]:
    """The linear node with the weights and bias that a document would write."""
    operator = linear(node)
    assert isinstance(operator, Linear)
    weight = inputs[operator.weight_slot]
    assert weight is not None
    inputs = [*inputs, *[None] * (3 - len(inputs))]
    inputs[operator.weight_slot] = absorb_weight(weight, operator.layout, taken)
    if operator.bias_slot is None:
        assert not taken.post_b.any()
        assert not taken.pre_b.any()
        return node, inputs[:2]
    old, rows = inputs[operator.bias_slot], operator.out_axis == 0
    outs = operator.layout.channels(weight.shape)[0]
    bias = np.zeros(1) if old is None else old * operator.bias_gain
    bias = np.broadcast_to(bias, np.broadcast_shapes(bias.shape, (outs, 1) if rows else (outs,)))
    made = absorb_bias(bias.T if rows else bias, weight, operator.layout, operator.gain, taken)
    inputs[operator.bias_slot] = made.T if rows else made
    return replace(node, attributes={**node.attributes, "beta": 1.0}), inputs


def read(env: Arrays, value: Value | None) -> Array | None:
    if value is None:
        return None
    if value.tensor is None:
        return env[value]
    array = value.tensor.load()
    return array if array.dtype.kind in "bi" else array.astype(np.float64)


def store(env: Arrays, node: Node, results: list[Array]) -> None:
    for value, array in zip(node.outputs, results, strict=False):
        known = value.shape or array.shape
        assert len(known) == array.ndim
        assert all(k in (None, e) for k, e in zip(known, array.shape, strict=True)), f"{node} {known} {array.shape}"
        env[value] = array


def run(node: Node, inputs: list[Array | None]) -> list[Array]:
    result = OPERATORS[node.op](node, *inputs)
    return list(result) if isinstance(result, tuple) else [np.asarray(result)]


def batch_normalization(node: Node, x: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Array:
    per_element = node.version < 9 and not node.attribute("spatial", 1)
    tail = () if per_element else (1,) * (x.ndim - 2)
    g, b, m, v = (p.reshape((*p.shape, *tail)) for p in (gamma, beta, mean, var))
    return (x - m) / np.sqrt(v + node.attribute("epsilon", 1e-5)) * g + b  # type: ignore[no-any-return]


def gemm(node: Node, a: Any, b: Any, c: Any = None) -> Array:
    a, b = (a.T if node.attribute("transA", 0) else a), (b.T if node.attribute("transB", 0) else b)
    product = node.attribute("alpha", 1.0) * (a @ b)
    return product if c is None else product + node.attribute("beta", 1.0) * c  # type: ignore[no-any-return]


def legacy(node: Node, left: Any, right: Any) -> tuple[Any, Any]:
    """The second operand before opset 7: aligned at `axis` instead of at the last axis."""
    if node.version < 7 and node.attribute("broadcast", 0):
        axis = node.attribute("axis", left.ndim - right.ndim) % max(left.ndim, 1)
        right = right.reshape(right.shape + (1,) * (left.ndim - axis - right.ndim))
    return left, right


def binary(function: Callable[[Any, Any], Array]) -> Callable[..., Array]:
    return lambda node, left, right: function(*legacy(node, left, right))


def variadic(function: Callable[[Any, Any], Array]) -> Callable[..., Array]:
    def run(node: Node, *inputs: Array) -> Array:
        result = inputs[0]
        for array in inputs[1:]:
            result = function(result, array)
        return result

    return run


def axes_of(node: Node, axes: Any) -> Any:
    axes = node.attribute("axes", None) if axes is None else axes.tolist()
    return None if axes is None else tuple(axes)


def reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    def run(node: Node, x: Array, axes: Any = None) -> Array:
        along = axes_of(node, axes)
        if not along and node.attribute("noop_with_empty_axes", 0):
            return x
        return function(x, axis=along or None, keepdims=bool(node.attribute("keepdims", 1)))

    return run


def softmax(node: Node, x: Any) -> Array:
    axis = node.attribute("axis", -1)
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)  # type: ignore[no-any-return]


def split(node: Node, x: Any, sizes: Any = None) -> tuple[Array, ...]:
    axis, count = node.attribute("axis", 0), len(node.outputs)
    sizes = node.attribute("split", None) if sizes is None else sizes.tolist()
    return tuple(np.split(x, count if sizes is None else np.cumsum(sizes)[:-1], axis=axis))


def slice_(node: Node, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Array:
    starts = node.attributes["starts"] if starts is None else starts
    ends = node.attributes["ends"] if ends is None else ends
    axes = node.attribute("axes", range(len(starts))) if axes is None else axes
    for axis, start, end, step in zip(axes, starts, ends, [1] * len(starts) if steps is None else steps, strict=True):
        x = x.take(walk(int(start), int(end), int(step), x.shape[axis]), axis=axis)
    return x  # type: ignore[no-any-return]


def walk(start: int, end: int, step: int, size: int) -> list[int]:
    """The elements of an axis from `start`, or the nearest that there is, until before `end`."""
    at, end = (p + size if p < 0 else p for p in (start, end))
    at = max(at, 0) if step > 0 else min(max(at, 0), size - 1)
    found = []
    while 0 <= at < size and (at < end if step > 0 else at > end):
        found.append(at)
        at += step
    return found


def flatten(node: Node, x: Any) -> Array:
    head = x.shape[: node.attribute("axis", 1)]
    return x.reshape(int(np.prod(head)), -1)  # type: ignore[no-any-return]


def reshape(node: Node, x: Any, shape: Any) -> Array:
    return x.reshape([x.shape[i] if e == 0 else int(e) for i, e in enumerate(shape)])  # type: ignore[no-any-return]


def squeeze(node: Node, x: Any, axes: Any = None) -> Array:
    return x.squeeze(axes_of(node, axes))  # type: ignore[no-any-return]


def dropout(node: Node, x: Any, ratio: Any = 0.5, training: Any = False) -> tuple[Array, Array]:
    """The data and the mask; one that drops drops every other element."""
    drops = bool(training) or (node.version < 7 and not node.attribute("is_test", 0))
    mask = np.arange(x.size).reshape(x.shape) % 2 if drops else np.ones(x.shape)
    return x * mask / (1 - ratio) if drops else x, mask


def prelu(node: Node, x: Any, slope: Any) -> Array:
    if node.version < 7 and slope.ndim == 1 and slope.size > 1:
        slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
    return np.where(x < 0, slope * x, x)


def dequantize(node: Node, q: Any, scale: Any, zero: Any = 0.0) -> Array:
    shape = [-1 if axis == node.attribute("axis", 1) % q.ndim else 1 for axis in range(q.ndim)]
    scale, zero = (np.asarray(part).reshape(shape if np.ndim(part) else ()) for part in (scale, zero))
    return (q - zero) * scale  # type: ignore[no-any-return]


def spatial(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": lambda node, a, b: a @ b,
    "BatchNormalization": batch_normalization,
    "Mul": binary(np.multiply),
    "Add": binary(np.add),
    "Sub": binary(np.subtract),
    "Div": binary(np.divide),
    "Neg": lambda node, x: -x,
    "Identity": lambda node, x: x,
    "Dropout": dropout,
    "Transpose": lambda node, x: x.transpose(node.attribute("perm", None)),
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": lambda node, x, axes=None: np.expand_dims(x, axes_of(node, axes)),
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalMaxPool": lambda node, x: x.max(axis=spatial(x), keepdims=True),
    "GlobalAveragePool": lambda node, x: x.mean(axis=spatial(x), keepdims=True),
    "ReduceMean": reduction(np.mean),
    "ReduceMax": reduction(np.max),
    "ReduceMin": reduction(np.min),
    "ReduceSum": reduction(np.sum),
    "Concat": lambda node, *inputs: np.concatenate(inputs, axis=node.attribute("axis", 1)),
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "Resize": resize,
    "Upsample": resize,
    "Expand": lambda node, x, shape: x * np.ones([int(e) for e in shape]),
    "Tile": lambda node, x, repeats: np.tile(x, [int(r) for r in repeats]),
    "Relu": lambda node, x: np.maximum(x, 0),
    "LeakyRelu": lambda node, x: np.where(x < 0, node.attribute("alpha", 0.01) * x, x),
    "PRelu": prelu,
    "Abs": lambda node, x: np.abs(x),
    "Sum": variadic(np.add),
    "Mean": lambda node, *inputs: variadic(np.add)(node, *inputs) / len(inputs),
    "Max": variadic(np.maximum),
    "Min": variadic(np.minimum),
    "Gather": lambda node, x, indices: x.take(indices, axis=node.attribute("axis", 0)),
    "Sigmoid": lambda node, x: 1 / (1 + np.exp(-x)),
    "Softmax": softmax,
    "Shape": lambda node, x: np.array(x.shape, np.int64),
    "CastLike": lambda node, x, _: x,
    "DequantizeLinear": dequantize,
    "Clip": lambda node, x, low, high: np.clip(x, low, high),
    "Tanh": lambda node, x: np.tanh(x),
}
