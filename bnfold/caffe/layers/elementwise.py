"""Layers that work element by element, on one bottom or on several of one shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...ir.element_types import FLOAT_CODE
from ...ir.graph import Value
from .. import caffe_pb2 as pb
from ..net import Layer
from .builder import Builder

SUM, PROD, MAX = (pb.EltwiseParameter.EltwiseOp.Value(name) for name in ("SUM", "PROD", "MAX"))


def operator(op: str) -> Callable[[Builder], list[Value]]:
    """A layer that is one ONNX operator without parameters."""

    def describe(b: Builder) -> list[Value]:
        return [b.node(op, b.x)]

    return describe


def relu(b: Builder) -> list[Value]:
    """max(x, 0) + slope·min(x, 0), and at most 6 with `relu6`."""
    p = b.param.relu_param
    return [_rectified(b, p.negative_slope, 6.0 if p.relu6 else math.inf)]


def relu6(b: Builder) -> list[Value]:
    """min(max(x, 0) + slope·min(x, 0), 6)."""
    return [_rectified(b, b.param.relu6_param.negative_slope, 6.0)]


def _rectified(b: Builder, slope: float, most: float) -> Value:
    """min(max(x, 0) + slope·min(x, 0), most)."""
    if slope:
        y = b.node("LeakyRelu", b.x, alpha=slope)
        return y if most == math.inf else b.node("Min", y, most)
    return b.node("Relu", b.x) if most == math.inf else b.node("Clip", b.x, 0.0, most)


def prelu(b: Builder) -> list[Value]:
    """max(x, 0) + γ·min(x, 0), γ for each channel or one for all."""
    b.want_blobs(1)
    if b.param.prelu_param.channel_shared:
        return [b.node("PRelu", b.x, b.blob(0, (), (1,)))]
    rank = len(b.dims(b.x))
    if not 2 <= rank <= 4:
        raise b.fail(f"a PReLU needs 2 to 4 axes and blob {b.x.name} has shape {b.x.shape}")
    channels = b.dims(b.x)[1] or b.want_axes(0, 1)[-1]
    return [b.node("PRelu", b.x, b.blob(0, (channels,), (channels, *(1,) * (rank - 2))))]


def dropout(b: Builder) -> list[Value]:
    """The identity; where training did not scale what it kept (Fast R-CNN's Caffe), inference does: (1 − ratio)·x."""
    p = b.param.dropout_param
    return [b.node("Identity", b.x) if p.scale_train else b.node("Mul", b.x, 1 - p.dropout_ratio)]


def elu(b: Builder) -> list[Value]:
    """x where x > 0, else α·(eˣ − 1)."""
    return [b.node("Elu", b.x, alpha=b.param.elu_param.alpha)]


def swish(b: Builder) -> list[Value]:
    """x·σ(β·x)."""
    return [b.node("Mul", b.x, b.node("Sigmoid", times(b, b.x, b.param.swish_param.beta)))]


def clip(b: Builder) -> list[Value]:
    """min(max(x, min), max)."""
    p = b.param.clip_param
    if not (p.HasField("min") and p.HasField("max")):
        raise b.fail("a Clip needs `min` and `max`")
    return [b.node("Clip", b.x, p.min, p.max)]


def threshold(b: Builder) -> list[Value]:
    """1 where x > threshold, else 0."""
    return [b.node("Cast", b.node("Greater", b.x, b.param.threshold_param.threshold), to=FLOAT_CODE)]


def times(b: Builder, x: Value, factor: float) -> Value:
    """factor·x, which is x where the factor is 1."""
    return x if factor == 1 else b.node("Mul", x, factor)


def _shifted(b: Builder, x: Value, shift: float) -> Value:
    return b.node("Add", x, shift) if shift else x


def exp(b: Builder) -> list[Value]:
    """base^(scale·x + shift), as Caffe has it: outer·exp(inner·x)."""
    p = b.param.exp_param
    log_base = 0.0 if p.base == 1 else _log_base(b, p.base)
    b.finite(base=p.base, scale=p.scale, shift=p.shift)
    outer = float(np.exp(log_base * p.shift))
    return [times(b, b.node("Exp", times(b, b.x, log_base * p.scale)), outer)]


def log(b: Builder) -> list[Value]:
    """log_base(scale·x + shift)."""
    p = b.param.log_param
    b.finite(base=p.base, scale=p.scale, shift=p.shift)
    y = b.node("Log", _shifted(b, times(b, b.x, p.scale), p.shift))
    return [times(b, y, 1 / _log_base(b, p.base))]


def _log_base(b: Builder, base: float) -> float:
    """The logarithm of the base; -1 stands for e."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf or base == 1:
        raise b.fail(f"the base must be positive and not 1, or -1 for e, and is {base}")
    return math.log(base)


def power(b: Builder) -> list[Value]:
    """(scale·x + shift)^power. It is an affine where the power is 1; a power or scale of 0 makes it a constant."""
    p = b.param.power_param
    if p.power == 0 or p.scale == 0:
        value = 1.0 if p.power == 0 else float(np.power(np.float32(p.shift), np.float32(p.power)))
        return [b.node("Expand", value, b.node("Shape", b.x))]
    b.fixed = p.power != 1
    y = _shifted(b, times(b, b.x, p.scale), p.shift)
    return [y if p.power == 1 else b.node("Pow", y, p.power)]


def eltwise(b: Builder) -> list[Value]:
    """Σ coeff·x, Π x or max x over all bottoms, element by element."""
    p = b.param.eltwise_param
    b.same_shapes()
    if p.coeff and (len(p.coeff) != len(b.bottoms) or p.operation == PROD):
        raise b.fail(f"Eltwise has {len(p.coeff)} coefficients for {len(b.bottoms)} bottoms; they go with SUM only")
    if p.operation == MAX:
        return [b.node("Max", *b.bottoms)]
    if p.operation == PROD:
        y = b.x
        for other in b.bottoms[1:]:
            y = b.node("Mul", y, other)
        return [y]
    terms = [times(b, x, c) for x, c in zip(b.bottoms, p.coeff or [1.0] * len(b.bottoms), strict=True)]
    return [b.node("Add" if len(terms) == 2 else "Sum", *terms)]


def eltwise_in_place(layer: Layer) -> bool:
    """PROD multiplies the first two bottoms before it writes; SUM and MAX clear the top before they read."""
    return bool(layer.param.eltwise_param.operation == PROD)


def axpy(b: Builder) -> list[Value]:
    """a[n, c]·x + y."""
    a, x, y = b.bottoms
    channels, rank = b.dims(a)[:2], len(b.dims(x))
    if rank < 2 or len(channels) < 2:
        raise b.fail(f"type Axpy needs channels and {a.name} has shape {a.shape}, {x.name} {x.shape}")
    return [b.node("Add", b.node("Mul", b.reshape(a, (*channels, *(1,) * (rank - 2))), x), y)]
