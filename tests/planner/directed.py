"""Small nets, each made to show one thing that folding can get wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bnfold.ir.graph import Value
from bnfold.planner.affine import Float64

from .nets import Net, ramp


def waves(*shape: int) -> Float64:
    """Different numbers of both signs."""
    return np.sin(3.0 * np.arange(1, np.prod(shape) + 1).reshape(shape))  # type: ignore[no-any-return]


def up(build: Callable[[Net, Value], Value], a: Any = None, b: Any = None, kernel: int = 1, **how: Any) -> Net:
    """Conv, `build`, BatchNormalization."""
    net = Net()
    x = build(
        net, net.op("Conv", net.input(2, 4, 4, 4), waves(4, 4 // how.get("group", 1), kernel, kernel), waves(4), **how)
    )
    channels = x.shape[1] if x.shape else 1
    net.output(net.bn(x, ramp(channels or 1) if a is None else a, waves(channels or 1) if b is None else b))
    return net


def down(build: Callable[[Net, Value], Value], a: Any = None, b: Any = None) -> Net:
    """BatchNormalization behind a Sigmoid, `build`."""
    net = Net()
    x = net.op("Sigmoid", net.input(2, 4, 4, 4))
    net.output(build(net, net.bn(x, waves(4) if a is None else a, waves(4) if b is None else b)))
    return net


def conv(net: Net, x: Value, **how: Any) -> Value:
    kernel = how.pop("kernel", 1)
    ins = (x.shape or ())[1] or 1
    return net.op("Conv", x, waves(4, ins // how.get("group", 1), kernel, kernel), **how)  # type: ignore[no-any-return]


def matrices(**how: Any) -> Net:
    net = Net()
    x, along = net.op("Sigmoid", net.input(3, 3)), (3, 1) if "transA" in how and not how.pop("rows", 0) else (3,)
    x = net.op("Add", net.op("Mul", x, waves(*along)), ramp(*along))
    net.output(
        net.bn(net.op("Gemm", x, waves(3, 3), *([waves(3)] if how.pop("c", 1) else []), **how), ramp(3), waves(3))
    )
    return net


def left_matrix() -> Net:
    net = Net()
    y = net.op("Gemm", waves(4, 3), net.op("Sigmoid", net.input(3, 5)), waves(4, 1), alpha=0.5)
    net.output(net.op("Add", net.op("Mul", y, ramp(4, 1)), waves(4, 1)))
    return net


def decomposed() -> Net:
    """Statistics far from 0 and 1 and a large eps."""
    net = Net()
    x = net.op("Conv", net.input(1, 2, 3, 3), waves(3, 2, 1, 1))
    net.output(net.bn(x, ramp(3), waves(3), mean=5 + ramp(3), variance=ramp(3), epsilon=0.75))
    return net


def two_readers(public: bool) -> Net:
    net = Net()
    x = net.op("Conv", net.input(1, 4, 4, 4), waves(4, 4, 1, 1))
    net.output(net.bn(x, ramp(4), waves(4)))
    net.output(x if public else net.op("Sigmoid", x))
    return net


def three_branches(op: str) -> Net:
    net = Net()
    x = net.input(1, 4, 4, 4)
    inputs = [net.op("Conv", x, waves(4, 4, 1, 1) * i) for i in (1.0, 2.0, -1.5)][: 2 if op == "Sub" else 3]
    y = net.op(op, *inputs, **({"axis": 1} if op == "Concat" else {}))
    channels = 12 if op == "Concat" else 4
    net.output(net.bn(y, ramp(channels), waves(channels)))
    return net


def beside(op: str) -> Net:
    """An affine of one of two branches, before a linear operator."""
    return down(
        lambda net, x: conv(
            net, net.op(op, net.op("Tanh", net.input(2, 4, 4, 4)), x, **({"axis": 1} if op == "Concat" else {}))
        )
    )


def both_ways() -> Net:
    """A multiplier that only the operator before can take, and a shift that only the one behind can."""
    net = Net()
    x = net.bn(net.op("MatMul", net.input(2, 3), waves(3, 3)), waves(3), ramp(3))
    net.output(net.op("Gemm", net.op("Add", x, net.op("Sigmoid", net.input(2, 3))), waves(3, 2)))
    return net


def piece(index: int) -> Net:
    return up(lambda net, x: net.op("Split", x, [1, 3], axis=1, tops=2)[index])


def pieces_down() -> Net:
    def build(net: Net, x: Value) -> Value:
        first, second = net.op("Split", x, [1, 3], axis=1, tops=2)
        return net.op("Add", conv(net, first), conv(net, second))  # type: ignore[no-any-return]

    return down(build)


def shuffled(net: Net, x: Value) -> Value:
    y = net.op("Transpose", net.op("Reshape", x, [2, 2, 2, 4, 4]), perm=[0, 2, 1, 3, 4])
    return net.op("Reshape", y, [2, 4, 4, 4])  # type: ignore[no-any-return]


def flattened(net: Net, x: Value) -> Value:
    return net.op("Gemm", net.op("Flatten", net.op("MaxPool", x, kernel_shape=[2, 2])), waves(36, 3))  # type: ignore[no-any-return]


def rotated(net: Net, x: Value) -> Value:
    return net.op("Transpose", net.op("Transpose", x, perm=[2, 0, 3, 1]), perm=[1, 3, 0, 2])  # type: ignore[no-any-return]


def transposed(axis: int) -> Net:
    """A vector along one of three axes that all could be the channels."""
    net = Net()
    x = net.op("Transpose", net.op("Conv", net.input(2, 4, 4, 4), waves(4, 4, 1, 1)), perm=[0, 2, 3, 1])
    net.output(net.op("Mul", x, ramp(4, *[1] * (3 - axis))))
    return net


def before_transpose(axis: int) -> Net:
    net = Net()
    x = net.op("Mul", net.op("Sigmoid", net.input(2, 4, 4, 4)), ramp(4, *[1] * (3 - axis)))
    net.output(conv(net, net.op("Transpose", x, perm=[0, 2, 3, 1])))
    return net


def chains() -> Net:
    """A long chain in an order that matters."""
    net = Net()
    x = net.op("Conv", net.input(1, 3, 2, 2), waves(3, 3, 1, 1))
    x = net.op("Mul", net.op("Sub", 1.5, net.bn(x, ramp(3), waves(3))), ramp(3, 1, 1))
    net.output(net.op("Neg", net.op("Div", net.op("Add", x, waves(3, 1, 1)), ramp(3, 1, 1))))
    return net


def cancelled() -> Net:
    """Two affines that merge through an operator, and neither can go."""
    net = Net()
    x = net.op("Transpose", net.bn(net.op("Sigmoid", net.input(1, 3, 2, 2)), ramp(3), waves(3)), perm=[0, 2, 3, 1])
    net.output(net.op("Tanh", net.op("Add", net.op("Mul", x, waves(3)), ramp(3))))
    return net


def vector(axis_extent: int) -> Net:
    """A vector along the width where width and channels are equal."""
    net = Net()
    x = net.op("Conv", net.input(1, 2, axis_extent, axis_extent), waves(axis_extent, 2, 1, 1))
    net.output(net.op("Add", net.op("Mul", x, ramp(axis_extent)), waves(axis_extent)))
    return net


def two_outer(net: Net, x: Value) -> Value:
    """A reader of the affine that folds, and one that does not."""
    net.output(net.op("Sigmoid", x))
    return conv(net, x)


def interleaved() -> Net:
    """Two chains of one content, of which the first to begin is the last to end; readers of both stand between."""
    net = Net()
    x, k, s = net.op("Sigmoid", net.input(1, 3, 4, 4)), net.constant(ramp(3, 1, 1)), net.constant(waves(3, 1, 1))
    one, other = net.op("Mul", x, k), net.op("Mul", x, k)
    other = net.op("Add", other, s)
    net.output(net.op("Sigmoid", other))
    net.output(net.op("Tanh", net.op("Add", one, s)))
    return net


def measured(a: bool) -> Net:
    """Shape reads a convolution beside its BatchNormalization, or the value within a chain."""
    net = Net()
    x = net.op("Conv", net.input(1, 3, 4, 4), waves(3, 3, 1, 1))
    x = x if a else net.op("Mul", x, ramp(3, 1, 1))
    net.output(net.op("Shape", x))
    net.output(net.bn(x, ramp(3), waves(3)))
    return net


def unnamed_kernel(weight: Callable[[Net], Value]) -> Net:
    """A padded convolution with no kernel_shape, whose weights are no constant."""
    return down(lambda net, x: net.op("Conv", x, weight(net), auto_pad="SAME_UPPER"), b=0.0)  # type: ignore[no-any-return]


def integer_weights(net: Net) -> Value:
    return net.op("DequantizeLinear", np.round(9 * waves(4, 4, 3, 3)).astype(np.int8), 0.1)  # type: ignore[no-any-return]


def deconv(net: Net, x: Value, **how: Any) -> Value:
    kernel = how.pop("kernel", 2)
    outs = 4 // how.get("group", 1)
    return net.op("ConvTranspose", x, waves(4, outs, kernel, kernel), waves(4), **how)  # type: ignore[no-any-return]


def chain_of_two_filters() -> Net:
    net = Net()
    shared = net.constant(waves(4, 4, 1, 1))
    x = net.input(1, 4, 3, 3)
    for a, b in ((ramp(4), waves(4)), (waves(4), ramp(4))):
        net.output(net.bn(net.op("Conv", x, shared), a, b))
    return net


def padded_by_node(mode: str) -> Net:
    return up(
        lambda net, x: net.op("Pad", x, [0, 0, 1, 1, 0, 0, 1, 1], *([0.0] if mode == "constant" else []), mode=mode)
    )


POOL = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}

DIRECTED: dict[str, Callable[[], Net]] = {
    "conv": lambda: up(lambda net, x: x, kernel=3, pads=[1] * 4),
    "grouped conv": lambda: up(lambda net, x: x, group=2),
    "depthwise conv before": lambda: down(lambda net, x: conv(net, x, group=4, kernel=2)),
    "grouped conv before": lambda: down(lambda net, x: conv(net, x, group=2, kernel=2)),
    "padded conv before": lambda: down(lambda net, x: conv(net, x, kernel=3, pads=[1] * 4)),
    "grouped deconv": lambda: up(lambda net, x: deconv(net, x, group=2, strides=[2, 2], output_padding=[1, 0])),
    "deconv before": lambda: down(lambda net, x: deconv(net, x, strides=[2, 2])),
    "cut deconv before": lambda: down(lambda net, x: deconv(net, x, pads=[1] * 4)),
    "grouped deconv before": lambda: down(lambda net, x: deconv(net, x, kernel=1, group=2)),
    "gemm": lambda: matrices(),
    "gemm transposed": lambda: matrices(transB=1),
    "gemm of transposed": lambda: matrices(transA=1),
    "gemm along the rows": lambda: matrices(rows=1, transA=1),
    "gemm scaled": lambda: matrices(alpha=0.5, beta=3.0, transB=1),
    "gemm without c": lambda: matrices(c=0, alpha=2.0),
    "gemm left": left_matrix,
    "statistics": decomposed,
    "other reader": lambda: two_readers(False),
    "public": lambda: two_readers(True),
    "two readers, one folds": lambda: down(two_outer),
    "sum": lambda: three_branches("Sum"),
    "sub": lambda: three_branches("Sub"),
    "both ways": both_ways,
    "mean": lambda: three_branches("Mean"),
    "concat": lambda: three_branches("Concat"),
    "beside concat": lambda: beside("Concat"),
    "beside sum": lambda: beside("Add"),
    "beside sub": lambda: beside("Sub"),
    "split first": lambda: piece(0),
    "split second": lambda: piece(1),
    "split down": pieces_down,
    "shuffle": lambda: up(shuffled),
    "flatten": lambda: down(flattened, a=ramp(4)),
    "transpose": lambda: up(rotated),
    "transpose down": lambda: down(lambda net, x: conv(net, rotated(net, x))),
    "slice": lambda: up(lambda net, x: net.op("Slice", x, [3], [-9], [1], [-2])),
    "gather": lambda: up(lambda net, x: net.op("Gather", x, [2, 0, 3], axis=1)),
    "slice from below the axis": lambda: down(lambda net, x: conv(net, net.op("Slice", x, [-9], [-99], [1], [-1]))),
    "mask": lambda: up(lambda net, x: net.op("Dropout", x, tops=2, version=7)[1]),
    "twins interleaved": interleaved,
    "shape beside": lambda: measured(True),
    "shape within": lambda: measured(False),
    "integers without kernel_shape": lambda: unnamed_kernel(integer_weights),
    "transposed width": lambda: transposed(2),
    "transposed height": lambda: transposed(1),
    "height before transpose": lambda: before_transpose(3),
    "width before transpose": lambda: before_transpose(2),
    "twice before": lambda: down(
        lambda net, x: conv(net, net.bn(net.op("MaxPool", x, **POOL), waves(4), ramp(4))), a=ramp(4)
    ),
    "filling pad": lambda: up(lambda net, x: net.op("Pad", x, [0, 0, 1, 1, 0, 0, 1, 1], [1.5]), b=0.0),
    "cropping pad": lambda: up(lambda net, x: net.op("Pad", x, [0, 0, -1, 0, 0, 0, 0, -1], [1.5])),
    "zero pad": lambda: padded_by_node("constant"),
    "reflecting pad": lambda: padded_by_node("reflect"),
    "max pool": lambda: up(lambda net, x: net.op("MaxPool", x, **POOL)),
    "max pool mixed": lambda: up(lambda net, x: net.op("MaxPool", x, **POOL), a=waves(4)),
    "max pool hollow": lambda: up(
        lambda net, x: net.op("MaxPool", x, kernel_shape=[1, 1], pads=[0, 0, 1, 1]), a=2.0, b=0.0
    ),
    "average pool": lambda: up(lambda net, x: net.op("AveragePool", x, **POOL), a=waves(4)),
    "average pool counted": lambda: up(lambda net, x: net.op("AveragePool", x, **POOL, count_include_pad=1)),
    "relu": lambda: up(lambda net, x: net.op("Relu", x), b=0.0),
    "relu shifted": lambda: up(lambda net, x: net.op("Relu", x)),
    "relu mixed": lambda: up(lambda net, x: net.op("Relu", x), a=waves(4), b=0.0),
    "prelu": lambda: up(lambda net, x: net.op("PRelu", x, waves(4, 1, 1)), b=0.0),
    "reduce sum": lambda: up(lambda net, x: net.op("ReduceSum", x, [2, 3])),
    "resize": lambda: up(lambda net, x: net.op("Resize", x, None, np.array([1, 1, 2, 2.0]), mode="linear")),
    "resize channels": lambda: up(lambda net, x: net.op("Resize", x, None, np.array([1, 2, 1, 1.0]), mode="linear")),
    "product": lambda: up(lambda net, x: net.op("Mul", x, net.op("Sigmoid", net.input(2, 4, 1, 1)))),
    "product of two": lambda: up(lambda net, x: net.op("Mul", x, conv(net, net.input(2, 4, 4, 4))), b=0.0),
    "quotient of two": lambda: up(lambda net, x: net.op("Div", x, conv(net, net.input(2, 4, 4, 4))), b=0.0),
    "quotient": lambda: up(
        lambda net, x: net.op("Div", net.op("Sigmoid", net.input(2, 4, 4, 4)), net.op("Sigmoid", x)), b=0.0
    ),
    "chain": chains,
    "merge": cancelled,
    "width": lambda: vector(4),
    "shared filter": chain_of_two_filters,
}
