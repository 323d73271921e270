"""Random nets of linear, affine, commuting and other operators, drawn from one source of choices.

`rng` is a `random.Random`: Hypothesis's own, whose choices it shrinks, or a seeded one. A step that cannot be built on
the value it was given (a window larger than the image) raises Impossible and leaves the net as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from bnfold.ir.graph import Node, Value
from bnfold.planner.affine import Float64
from bnfold.planner.foldable import AFFINE

from .nets import Impossible, Net, extents

Step = Callable[["Maker", Value], Value]


class Maker:
    """A net under construction, with the values that later nodes may read."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.net = Net()
        self.values: list[Value] = []
        self.constants: list[Value] = []
        self.numbers = np.random.default_rng(rng.getrandbits(32))

    def pick(self, *options: Any) -> Any:
        return options[self.rng.randrange(len(options))]

    def normal(self, *shape: int) -> Float64:
        return self.numbers.standard_normal(shape)

    def shared(self, array: Float64) -> Value:
        """A constant, now and then one of this shape that another node reads already."""
        same = [c for c in self.constants if c.shape == array.shape]
        if same and self.pick(True, False):
            return self.pick(*same)  # type: ignore[no-any-return]
        self.constants.append(self.net.constant(array))
        return self.constants[-1]

    def some(self) -> Value:
        """A value to go on from: mostly the newest."""
        return self.values[-1] if self.rng.random() < 0.75 else self.pick(*self.values)

    def partner(self, x: Value) -> Value:
        """Another value of the shape of `x`, or one that broadcasts to it."""
        same = [v for v in self.values if v is not x and v.shape == x.shape]
        if same and self.pick(True, False):
            return self.pick(*same)  # type: ignore[no-any-return]
        return self.pick(*(PARTNERS if len(extents(x)) > 1 else PARTNERS[:1]))(self, x)  # type: ignore[no-any-return]


def image(m: Maker, x: Value, least: int = 3) -> tuple[int, list[int]]:
    """Channels and spatial extents of `x`."""
    shape = extents(x)
    if len(shape) < least or None in shape[1:]:
        raise Impossible
    return shape[1], list(shape[2:])  # type: ignore[return-value]


def divisors(*numbers: int) -> list[int]:
    return [d for d in (1, 2, 3, 4) if all(n % d == 0 for n in numbers)]


def window(m: Maker, space: list[int], stride: tuple[int, ...] = (1, 1, 2), dilated: bool = True) -> dict[str, Any]:
    """Attributes of a window; the kernel comes first in the dictionary."""
    kernel = [m.pick(1, 2, 3) for _ in space]
    result: dict[str, Any] = {"kernel_shape": kernel, "strides": [m.pick(*stride) for _ in space]}
    if dilated and m.pick(True, False, False):
        result["dilations"] = [m.pick(1, 2) for _ in space]
    whole = all(k >= s for k, s in zip(kernel, result["strides"], strict=True))  # else onnxruntime pads by less than 0
    form = m.pick("none", "none", "pads", "pads", "auto" if whole else "none")
    if form == "pads":
        result["pads"] = [m.pick(*range(min(k, 2))) for _ in "be" for k in kernel]
    elif form == "auto":
        result["auto_pad"] = m.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    return result


def conv(m: Maker, x: Value) -> Value:
    channels, space = image(m, x)
    group = m.pick(*divisors(channels), channels)
    outs = group * m.pick(1, 1, 2) if channels < 9 else group
    how = window(m, space)
    weight = filters(m, m.normal(outs, channels // group, *how["kernel_shape"]) / math.sqrt(channels / group))
    bias = [m.shared(m.normal(outs))] if m.pick(True, False) else []
    if m.pick(True, False, False):
        del how["kernel_shape"]
    return m.net.op("Conv", x, weight, *bias, group=group, **how)  # type: ignore[no-any-return]


def filters(m: Maker, weight: Float64) -> Value:
    """A constant; or integers times a scale, for all or for each output channel; or what an operator computes."""
    form = m.pick("constant", "constant", "constant", "constant", "integers", "computed")
    if form == "computed":
        return m.net.op("Tanh", m.net.constant(weight))  # type: ignore[no-any-return]
    if form == "constant":
        return m.shared(weight)
    integers, each = np.round(weight * 20).astype(np.int8), m.pick(True, True, False)
    scale = m.numbers.uniform(0.02, 0.1, weight.shape[:1] if each else ())
    return m.net.op("DequantizeLinear", integers, scale, axis=0)  # type: ignore[no-any-return]


def conv_transpose(m: Maker, x: Value) -> Value:
    channels, space = image(m, x)
    group = m.pick(*divisors(channels))
    each = m.pick(1, 2) if channels < 9 else 1
    how = window(m, space)
    how.pop("auto_pad", None)
    if m.pick(True, False):
        how["output_padding"] = [m.pick(*range(s)) for s in how["strides"]]
    weight = m.normal(channels, each, *how["kernel_shape"]) / math.sqrt(channels / group)
    bias = [m.shared(m.normal(group * each))] if m.pick(True, False) else []
    return m.net.op("ConvTranspose", x, m.shared(weight), *bias, group=group, **how)  # type: ignore[no-any-return]


def matrix(m: Maker, x: Value) -> tuple[int, int]:
    shape = extents(x)
    if len(shape) != 2 or shape[1] is None:
        raise Impossible
    return shape[0] or 2, shape[1]


def gemm(m: Maker, x: Value) -> Value:
    """With the constant on either side; C in every form that broadcasts."""
    rows, ins = matrix(m, x)
    outs, left = m.pick(2, 3, 4), m.pick(False, False, True)
    trans_data, trans_weight = m.pick(0, 0, 1), m.pick(0, 1)
    fan = (rows if trans_data else ins) if not left else (ins if trans_data else rows)
    height, width = (outs, rows if trans_data else ins) if left else (ins if trans_data else rows, outs)
    if extents(x)[0] is None and (left or trans_data):
        raise Impossible  # the batch would be mixed
    weight = m.shared(m.normal(*((outs, fan) if bool(trans_weight) != left else (fan, outs))) / math.sqrt(fan))
    forms = [(), (1,), (width,), (1, width), (1, 1), (height, 1), (height, width)]
    if extents(x)[0] is None:
        forms = forms[:5]
    c = [m.shared(m.normal(*m.pick(*forms)))] if m.pick(True, True, False) else []
    how = {"alpha": m.pick(1.0, 0.5, -2.0), "beta": m.pick(1.0, 1.0, 0.0, 3.0)} if m.pick(True, False) else {}
    trans = {"transA": trans_weight, "transB": trans_data} if left else {"transA": trans_data, "transB": trans_weight}
    return m.net.op("Gemm", *((weight, x) if left else (x, weight)), *c, **trans, **how)  # type: ignore[no-any-return]


def matmul(m: Maker, x: Value) -> Value:
    shape = extents(x)
    if len(shape) < 2 or shape[-1] is None or shape[-2] is None:
        raise Impossible
    outs, left = m.pick(2, 3, 4), m.pick(False, False, True)
    fan = shape[-2] if left else shape[-1]
    weight = m.shared(m.normal(*((outs, fan) if left else (fan, outs))) / math.sqrt(fan))
    return m.net.op("MatMul", *((weight, x) if left else (x, weight)))  # type: ignore[no-any-return]


def multipliers(m: Maker, *shape: int) -> Float64:
    """Positive, mixed, zero here and there, or all 1."""
    kind, size = m.pick("positive", "positive", "mixed", "mixed", "dead", "one"), m.numbers.uniform(0.5, 2, shape)
    if kind == "one":
        return np.ones(shape)
    sign = (
        np.ones(shape)
        if kind == "positive"
        else m.numbers.choice([-1.0, 1.0] if kind == "mixed" else [0.0, 1.0], shape)
    )
    return size * sign


def shifts(m: Maker, *shape: int) -> Float64:
    return m.pick(m.normal(*shape), np.zeros(shape), m.normal(*shape))  # type: ignore[no-any-return]


def batch_norm(m: Maker, x: Value) -> Value:
    if len(extents(x)) < 2:
        raise Impossible
    channels, space = image(m, x, 2)
    version = m.pick(6, 7, 9, 14, 15)
    shape = [channels]
    how: dict[str, Any] = {"is_test": 1} if version < 7 else {}
    if version < 9 and space and m.pick(False, False, True):
        shape, how["spatial"] = [channels, *space], 0
    plain = m.pick(False, False, True)
    mean, variance = (np.zeros(shape), np.ones(shape)) if plain else (m.normal(*shape), m.numbers.uniform(0, 2, shape))
    how["epsilon"] = 0.0 if plain else m.pick(1e-3, 0.5, 0.01)
    parameters = [m.shared(p) for p in (multipliers(m, *shape), shifts(m, *shape))]
    return m.net.op("BatchNormalization", x, *parameters, mean, variance, version=version, **how)  # type: ignore[no-any-return]


def operand_shape(m: Maker, x: Value) -> list[int]:
    """A shape that broadcasts to that of `x`: mostly one value a channel, and every trap."""
    shape = [e or 1 for e in extents(x)]
    if len(shape) > 1 and m.pick(True, True, False):
        ones = [e if i == 1 else 1 for i, e in enumerate(shape)]
        return ones[m.pick(0, 1) :]
    kept = [e if m.pick(True, False) else 1 for e in shape]
    return kept[m.rng.randrange(len(shape) + 1) :]


def arithmetic(m: Maker, x: Value) -> Value:
    op, shape = m.pick("Mul", "Mul", "Add", "Add", "Sub", "Div", "Neg"), operand_shape(m, x)
    if op == "Neg":
        return m.net.op("Neg", x)  # type: ignore[no-any-return]
    array = shifts(m, *shape) if op in ("Add", "Sub") else multipliers(m, *shape)
    if op == "Div":
        array = np.where(array == 0, 1, array)
    constant = (
        m.net.constant(array) if op == "Div" else m.shared(array) if op in ("Add", "Sub") else m.net.constant(array)
    )
    inputs = (constant, x) if op != "Div" and m.pick(True, False) else (x, constant)
    return m.net.op(op, *inputs)  # type: ignore[no-any-return]


def twin(m: Maker, x: Value) -> Value:
    """What is computed already, once more: one affine, or the two that end at a value."""
    ends = [n for n in m.net.graph.nodes if n.op in AFFINE]
    if not ends:
        raise Impossible
    nodes = [m.pick(*ends)]
    source = data_of(nodes[0])
    if source.producer in ends and m.pick(True, False):
        nodes.insert(0, source.producer)
        source = data_of(source.producer)
    for node in nodes:
        inputs = [source if v is data_of(node) else v for v in node.inputs]
        source = m.net.op(node.op, *inputs, version=node.version, **node.attributes)
    return source


def data_of(node: Node) -> Value:
    """The first input that is no constant."""
    return next(v for v in node.inputs if v is not None and v.tensor is None)


PARTNERS: list[Step] = [
    lambda m, x: m.net.op("Mul", x, multipliers(m, *[1] * len(extents(x)))),
    lambda m, x: conv(m, x) if len(extents(x)) > 2 else batch_norm(m, x),
    lambda m, x: m.net.op("GlobalAveragePool", x) if len(extents(x)) > 2 else m.net.op("Relu", x),
    lambda m, x: m.net.op("ReduceMean", x, axes=[1], keepdims=1),
    lambda m, x: m.net.op("Sigmoid", x),
]
