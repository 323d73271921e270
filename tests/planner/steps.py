"""The commuting and the other operators of random nets, and the net made of them all."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

import numpy as np

from bnfold.ir.graph import Value

from .generate import (
    Maker,
    Step,
    arithmetic,
    batch_norm,
    conv,
    conv_transpose,
    divisors,
    gemm,
    image,
    matmul,
    twin,
    window,
)
from .nets import Impossible, Net, extents


def unary(op: str, m: Maker, x: Value) -> Value:
    return m.net.op(op, x)  # type: ignore[no-any-return]


def clip(m: Maker, x: Value) -> Value:
    return m.net.op("Clip", x, -0.5, 0.5)  # type: ignore[no-any-return]


def dropout(m: Maker, x: Value) -> Value:
    """The data, or the mask, which was of the data's type then."""
    data, mask = m.net.op("Dropout", x, tops=2, ratio=0.5, version=7)
    return m.pick(data, data, mask)  # type: ignore[no-any-return]


def measure(m: Maker, x: Value) -> Value:
    """A value of which another operator reads the shape or the type; or what is cast to the type of a constant."""
    m.net.op("Shape", x)
    cast = m.net.op("CastLike", x, 1.0, version=15)
    if m.pick(True, False):
        return m.pick(x, cast)  # type: ignore[no-any-return]
    return m.net.op("Mul", m.net.op("CastLike", m.normal(*[1] * len(extents(x))), x, version=15), x)  # type: ignore[no-any-return]


def prelu(m: Maker, x: Value) -> Value:
    channels, space = image(m, x, 2)
    slope = m.normal(*m.pick([1], [channels, *[1] * len(space)]))
    return m.net.op("PRelu", x, m.shared(slope))  # type: ignore[no-any-return]


def leaky(m: Maker, x: Value) -> Value:
    return m.net.op("LeakyRelu", x, alpha=m.pick(0.1, -0.5))  # type: ignore[no-any-return]


def max_pool(m: Maker, x: Value) -> Value:
    how = window(m, image(m, x)[1], (1, 2), dilated=False)
    return m.net.op("MaxPool", x, ceil_mode=m.pick(0, 1), **how)  # type: ignore[no-any-return]


def average_pool(m: Maker, x: Value) -> Value:
    how = window(m, image(m, x)[1], (1, 2), dilated=False)
    return m.net.op("AveragePool", x, ceil_mode=m.pick(0, 1), count_include_pad=m.pick(0, 1), **how)  # type: ignore[no-any-return]


def overall(m: Maker, x: Value) -> Value:
    image(m, x)
    return m.net.op(m.pick("GlobalAveragePool", "GlobalMaxPool"), x)  # type: ignore[no-any-return]


def reduction(m: Maker, x: Value) -> Value:
    rank = len(extents(x))
    axes = m.pick(list(range(2, rank)), [1], [-1], list(range(-rank, 0))) or [1]
    op = m.pick("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")
    keep = m.pick(0, 1, 1) if rank > len(axes) + 1 or len(axes) == rank else 1
    if op == "ReduceSum":
        return m.net.op(op, x, list(axes), keepdims=keep)  # type: ignore[no-any-return]
    return m.net.op(op, x, axes=axes, keepdims=keep)  # type: ignore[no-any-return]


def transpose(m: Maker, x: Value) -> Value:
    rank = len(extents(x))
    perm = [*range(rank)]
    m.rng.shuffle(perm)
    return m.net.op("Transpose", x, perm=perm if perm[0] == 0 else [0, *[p for p in perm if p]])  # type: ignore[no-any-return]


def reshape(m: Maker, x: Value) -> Value:
    channels, space = image(m, x, 2)
    flat = channels * int(np.prod(space))
    shapes = [[0, channels, -1], [0, -1], [0, d := m.pick(*divisors(flat)), flat // d], [0, 1, flat], [0, flat, 1, 1]]
    if flat % 2 == 0:
        shapes.append([0, flat // 2, 2])
    shape = m.pick(*shapes)
    return m.net.op(
        "Reshape", x, shape if 0 in extents(x)[:1] else [-1 if e == 0 and -1 not in shape else e for e in shape]
    )  # type: ignore[no-any-return]


def shuffle(m: Maker, x: Value) -> Value:
    channels, space = image(m, x)
    groups = m.pick(*divisors(channels))
    split = m.net.op("Reshape", x, [0, groups, channels // groups, *space])
    mixed = m.net.op("Transpose", split, perm=[0, 2, 1, *range(3, 3 + len(space))])
    return m.net.op("Reshape", mixed, [0, channels, *space])  # type: ignore[no-any-return]


def flatten(m: Maker, x: Value) -> Value:
    return m.net.op("Flatten", x, axis=m.pick(1, 1, 1 - len(extents(x))))  # type: ignore[no-any-return]


def unsqueeze(m: Maker, x: Value) -> Value:
    rank = len(extents(x))
    if rank > 3:
        raise Impossible
    axis = m.pick(1, rank, -1)
    return (
        m.net.op("Unsqueeze", x, [axis])
        if m.pick(0, 1)
        else m.net.op("Unsqueeze", x, axes=[axis % (rank + 1)], version=11)
    )  # type: ignore[no-any-return]


def squeeze(m: Maker, x: Value) -> Value:
    ones = [i for i, e in enumerate(extents(x)) if e == 1 and i > 0]
    if not ones or len(extents(x)) < 3:
        raise Impossible
    axis = m.pick(*ones)
    return m.net.op("Squeeze", x, [axis]) if m.pick(0, 1) else m.net.op("Squeeze", x, axes=[axis], version=11)  # type: ignore[no-any-return]


def pieces(m: Maker, x: Value) -> Value:
    """A Split, whose other pieces are read or not."""
    axis = m.pick(1, 1, -1)
    size = extents(x)[axis]
    if size is None or size < 2:
        raise Impossible
    sizes = [m.pick(*range(1, size)), 0]
    sizes[1] = size - sizes[0]
    first, second = m.net.op("Split", x, sizes, axis=axis, tops=2)
    if m.pick(True, False):
        m.values.append(first)
        return second  # type: ignore[no-any-return]
    return m.pick(first, second)  # type: ignore[no-any-return]


def cut(m: Maker, x: Value) -> Value:
    axis = m.pick(1, 1, -1)
    size = extents(x)[axis] or 2
    anywhere = (
        m.rng.randint(-2 * size - 1, 2 * size + 1),
        m.rng.randint(-2 * size - 1, 2 * size + 1),
        m.pick(-2, -1, 1, 2),
    )
    starts, ends, steps = m.pick((0, 1, 1), (1, 2**31, 1), (-1, -(2**62), -1), (0, 99, 2), anywhere, anywhere)
    if m.pick(True, False) and steps == 1:
        return m.net.op("Slice", x, version=9, starts=[starts], ends=[ends], axes=[axis])  # type: ignore[no-any-return]
    return m.net.op("Slice", x, [starts], [ends], [axis], [steps])  # type: ignore[no-any-return]


def gather(m: Maker, x: Value) -> Value:
    axis = m.pick(1, 1, -1)
    size = extents(x)[axis] or 1
    indices = [m.rng.randrange(-size, size) for _ in range(m.pick(1, 2, size))]
    if m.pick(True, False, False, False):
        return m.net.op("Gather", x, np.int64(indices[0]), axis=axis)  # type: ignore[no-any-return]
    return m.net.op("Gather", x, m.pick(indices, [*range(size)][::-1]), axis=axis)  # type: ignore[no-any-return]


def pad(m: Maker, x: Value) -> Value:
    rank = len(extents(x))
    flat = [m.pick(0, 1) if i % rank > (1 if m.pick(1, 1, 0) else 0) else 0 for i in range(2 * rank)]
    mode = m.pick("constant", "constant", "reflect", "edge")
    if mode == "reflect" and any(e == 1 for e in extents(x)):
        raise Impossible
    return m.net.op("Pad", x, flat, *m.pick([], [0.0], [1.5]), mode=mode)  # type: ignore[no-any-return]


def resize(m: Maker, x: Value) -> Value:
    space = image(m, x, 4)[1]
    if max(space) > 8:
        raise Impossible
    scales = [1.0, m.pick(1.0, 1.0, 1.0, 2.0), *[m.pick(1.0, 2.0, 3.0) for _ in space]]
    mode = m.pick("nearest", "linear" if scales[1] == 1 else "nearest")  # onnxruntime has no linear one of channels
    if m.pick(0, 1):
        return m.net.op("Upsample", x, np.array(scales), mode="nearest", version=9)  # type: ignore[no-any-return]
    where = m.pick("half_pixel", "asymmetric", "align_corners")
    return m.net.op("Resize", x, None, np.array(scales), mode=mode, coordinate_transformation_mode=where)  # type: ignore[no-any-return]


def repeat(m: Maker, x: Value) -> Value:
    shape = extents(x)
    if any(e and e > 6 for e in shape):
        raise Impossible
    if m.pick(0, 1):
        return m.net.op("Tile", x, [1, *[m.pick(1, 1, 2) for _ in shape[1:]]])  # type: ignore[no-any-return]
    return m.net.op("Expand", x, [1, *[m.pick(1, 2) if e == 1 else 1 for e in shape[1:]]])  # type: ignore[no-any-return]


def join(m: Maker, x: Value) -> Value:
    op, y = m.pick("Add", "Add", "Sub", "Sum", "Mean", "Mul", "Max", "Min"), m.partner(x)
    inputs = [x, y] if m.pick(True, False) else [y, x]
    if op in ("Sum", "Mean", "Max", "Min") and m.pick(True, False):
        inputs.append(m.partner(x))
    return m.net.op(op, *inputs)  # type: ignore[no-any-return]


def concat(m: Maker, x: Value) -> Value:
    y, axis = m.partner(x), m.pick(1, 1, -1, len(extents(x)) - 1)
    inputs = [y, x, m.partner(x)] if m.pick(0, 0, 1) else m.pick([x, y], [y, x])
    others = (
        {(*shape[:axis], *shape[axis:][1:]) for shape in map(extents, inputs)}
        if axis > 0
        else {extents(v)[:-1] for v in inputs}
    )
    if len(others) > 1:
        raise Impossible
    return m.net.op("Concat", *inputs, axis=axis)  # type: ignore[no-any-return]


LINEARS: list[Step] = [conv, conv, conv_transpose, gemm, matmul]
AFFINES: list[Step] = [batch_norm, batch_norm, arithmetic]
OPAQUES: list[Step] = [partial(unary, "Sigmoid"), partial(unary, "Tanh"), partial(unary, "Softmax"), clip]
COMMUTING: list[Step] = [
    partial(unary, "Relu"), partial(unary, "Abs"), partial(unary, "Identity"), leaky, prelu, dropout, max_pool,
    average_pool, overall, reduction, transpose, reshape, shuffle, flatten, squeeze, unsqueeze, pieces, cut, gather,
    pad, resize, repeat, join, join, concat, concat, twin, twin, measure,
]  # fmt: skip
ANY_RANK: list[Step] = [partial(unary, "Relu"), partial(unary, "Sigmoid"), arithmetic, join, twin, measure, dropout]
"""What can be built on a value of one axis or none."""
KINDS = [LINEARS, LINEARS, LINEARS, AFFINES, AFFINES, AFFINES, COMMUTING, COMMUTING, COMMUTING, COMMUTING, OPAQUES]


def random_net(rng: Random, most: int = 9) -> Net:
    """A net of up to `most` steps over one or two inputs; what nobody reads is an output, and some more values are."""
    m = Maker(rng)
    for _ in range(m.pick(1, 1, 2)):
        shape = (m.pick(2, 3, 4), *m.pick((4, 4), (2, 4), (4,), (3, 2), ()))
        m.values.append(m.net.input(m.pick(2, 2, None, 1), *shape))
    for index in range(m.pick(*range(2, most + 1))):
        step = m.pick(*(LINEARS if index == 0 and m.pick(True, False) else m.pick(*KINDS)))
        if sum(int(np.prod([e or 1 for e in extents(v)])) for v in m.values[-1:]) > 2000:
            break
        x = m.some()
        try:
            m.values.append((step if len(extents(x)) > 1 else m.pick(*ANY_RANK))(m, x))
        except Impossible:
            continue
    interleave(m)
    made = [v for node in m.net.graph.nodes for v in node.outputs]
    for value in made:
        loose = not value.readers and value.dtype == m.net.dtype
        if (loose and m.rng.random() < 0.95) or (not loose and m.rng.random() < 0.05):
            m.net.output(value)
    return m.net


def interleave(m: Maker) -> None:
    """Another order of the nodes in which each stands behind those that it reads."""
    waiting, done = list(m.net.graph.nodes), set(m.net.graph.inputs)
    m.net.graph.nodes.clear()
    while waiting:
        ready = [n for n in waiting if all(v is None or v.producer is None or v in done for v in n.inputs)]
        m.net.graph.nodes.append(m.pick(ready[0], *ready))
        waiting.remove(m.net.graph.nodes[-1])
        done.update(m.net.graph.nodes[-1].outputs)


def numbers(net: Net) -> dict[str, Any]:
    """How often each operator occurs."""
    ops = [node.op for node in net.graph.nodes]
    return {op: ops.count(op) for op in sorted(set(ops))}
