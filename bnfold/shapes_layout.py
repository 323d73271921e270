"""Shapes of the operators that rearrange or select elements, or make them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .graph import Node, Shape
from .shapes_values import contents, given, integers, shape_of, slice_arguments, slice_indices


def broadcast(shapes: Iterable[Shape | None]) -> Shape | None:
    """NumPy's broadcasting; an unknown extent beside one that is not 1 is that one. ValueError when they clash."""
    known: list[Shape] = []
    for shape in shapes:
        if shape is None:
            return None
        known.append(shape)
    rank = max((len(s) for s in known), default=0)
    return tuple(_common([s[axis - rank + len(s)] for s in known if axis - rank + len(s) >= 0]) for axis in range(rank))


def _common(extents: Sequence[int | None]) -> int | None:
    wide = {e for e in extents if e is not None and e != 1}
    if len(wide) > 1:
        raise ValueError(f"extents {sorted(wide)} do not broadcast")
    if wide:
        return wide.pop()
    return None if None in extents else 1


def elementwise(node: Node) -> list[Shape | None]:
    if node.version < 7 and node.op not in ("Sum", "Max", "Min", "Mean", "Where"):
        return [shape_of(node)]
    return [broadcast(None if v is None else v.shape for v in node.inputs)]


def same(node: Node) -> list[Shape | None]:
    return [shape_of(node)] * len(node.outputs)


def first_same(node: Node) -> list[Shape | None]:
    return [shape_of(node)]


def batch_norm(node: Node) -> list[Shape | None]:
    """Behind Y come running and saved statistics, one element a channel."""
    return [shape_of(node), *[shape_of(node, 1)] * 4]


def layer_norm(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    if data is None:
        return [None]
    axis = node.attribute("axis", -1) % len(data)
    statistics = (*data[:axis], *(1,) * (len(data) - axis))
    return [data, statistics, statistics]


def flatten(node: Node) -> list[Shape | None]:
    data, axis = shape_of(node), node.attribute("axis", 1)
    if data is None:
        return [(None, None)]
    axis = axis + len(data) if axis < 0 else axis
    return [(product(data[:axis]), product(data[axis:]))]


def product(extents: Iterable[int | None]) -> int | None:
    """None when a factor is."""
    result = 1
    for extent in extents:
        if extent is None:
            return None
        result *= extent
    return result


def reshape(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    if "shape" in node.attributes:
        target: Sequence[int | None] | None = list(node.attributes["shape"])
    else:
        source = node.input(1)
        target = None if source is None else contents(source)
    if target is None:
        return [None]
    shape = list(target)
    for axis, extent in enumerate(shape):
        if extent == 0 and not node.attribute("allowzero", 0):
            shape[axis] = None if data is None else data[axis]
    if any(extent is not None and extent < -1 for extent in shape):
        return [None]
    if -1 in shape:
        at = shape.index(-1)
        shape[at] = None
        if data is not None:
            have, rest = _cancelled(data, target)
            if have is not None and rest:
                shape[at] = have // rest
    return [tuple(shape)]


def _cancelled(data: Shape, target: Sequence[int | None]) -> tuple[int | None, int | None]:
    """Elements of the data and of the target without its -1, where extents copied by a 0 stand on neither side."""
    copied = {axis for axis, extent in enumerate(target) if extent == 0}
    rest = [e for axis, e in enumerate(target) if axis not in copied and e != -1]
    return product(e for axis, e in enumerate(data) if axis not in copied), product(rest)


def transpose(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    order = node.attribute("perm", None)
    if data is None:
        return [None if not order else (None,) * len(order)]
    return [tuple(data[i] for i in (order or reversed(range(len(data)))))]


def squeeze(node: Node) -> list[Shape | None]:
    data, axes = shape_of(node), integers(node, "axes", 1)
    if data is None:
        return [None]
    if axes is None:
        if given(node, "axes", 1) or None in data:
            return [None]
        return [tuple(e for e in data if e != 1)]
    gone = {a % len(data) for a in axes}
    return [tuple(e for i, e in enumerate(data) if i not in gone)]


def unsqueeze(node: Node) -> list[Shape | None]:
    data, axes = shape_of(node), integers(node, "axes", 1)
    if data is None or axes is None:
        return [None]
    rank = len(data) + len(axes)
    new, rest = {a % rank for a in axes}, iter(data)
    if len(new) != len(axes):
        return [None]
    return [tuple(1 if i in new else next(rest) for i in range(rank))]


def concat(node: Node) -> list[Shape | None]:
    shapes = [None if v is None else v.shape for v in node.inputs]
    known = [s for s in shapes if s is not None]
    if not known:
        return [None]
    axis = node.attribute("axis", 1) % len(known[0])
    every = len(known) == len(shapes)
    total = None if not every or any(s[axis] is None for s in known) else sum(s[axis] or 0 for s in known)

    def extent(i: int) -> int | None:
        return next((s[i] for s in known if s[i] is not None), None)

    return [tuple(total if i == axis else extent(i) for i in range(len(known[0])))]


def split(node: Node) -> list[Shape | None]:
    data, count = shape_of(node), len(node.outputs)
    if data is None:
        return [None] * count
    axis = node.attribute("axis", 0) % len(data)
    parts: Sequence[int | None] | None = integers(node, "split", 1)
    if parts is None:
        whole = data[axis]
        if whole is None or given(node, "split", 1):
            parts = [None] * count
        else:
            chunk = -(-whole // count)
            parts = [max(0, min(chunk, whole - i * chunk)) for i in range(count)]
    return [(*data[:axis], part, *data[axis + 1 :]) for part in parts]


def slice_(node: Node) -> list[Shape | None]:
    data, cuts = shape_of(node), slice_arguments(node)
    if data is None:
        return [None]
    shape = list(data)
    if cuts is None:
        axes = integers(node, "axes", 3)
        return [tuple(None if axes is None or axis in _from_front(axes, data) else e for axis, e in enumerate(shape))]
    for axis, start, end, step in cuts:
        extent = shape[axis]
        shape[axis] = None if extent is None else len(slice_indices(start, end, step, extent))
    return [tuple(shape)]


def _from_front(axes: Iterable[int], shape: Shape) -> set[int]:
    return {axis % len(shape) for axis in axes}


def gather(node: Node) -> list[Shape | None]:
    data, indices = shape_of(node), shape_of(node, 1)
    if data is None or indices is None:
        return [None]
    axis = node.attribute("axis", 0) % len(data)
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def gather_nd(node: Node) -> list[Shape | None]:
    data, indices, batch = shape_of(node), shape_of(node, 1), node.attribute("batch_dims", 0)
    if data is None or indices is None or indices[-1] is None:
        return [None]
    return [(*indices[:-1], *data[batch + indices[-1] :])]


def like_indices(node: Node) -> list[Shape | None]:
    return [shape_of(node, 1)]


def expand(node: Node) -> list[Shape | None]:
    source = node.input(1)
    target = None if source is None else contents(source)
    return [None if target is None else broadcast([shape_of(node), target])]


def tile(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    source = node.input(1)
    repeats = None if source is None else contents(source)
    if data is None:
        return [None if repeats is None else (None,) * len(repeats)]
    if repeats is None or node.version < 6:
        return [(None,) * len(data)]
    return [tuple(None if e is None or r is None else e * r for e, r in zip(data, repeats, strict=True))]


def top_k(node: Node) -> list[Shape | None]:
    data, count = shape_of(node), integers(node, "k", 1)
    if data is None:
        return [None, None]
    axis = node.attribute("axis", -1) % len(data)
    shape = (*data[:axis], None if count is None else count[0], *data[axis + 1 :])
    return [shape, shape]


def one_hot(node: Node) -> list[Shape | None]:
    indices, depth = shape_of(node), node.constant(1)
    if indices is None:
        return [None]
    axis = node.attribute("axis", -1) % (len(indices) + 1)
    return [(*indices[:axis], None if depth is None else int(depth.load().reshape(-1)[0]), *indices[axis:])]


def constant_of_shape(node: Node) -> list[Shape | None]:
    source = node.input(0)
    return [None if source is None else contents(source)]


def random(node: Node) -> list[Shape | None]:
    return [tuple(node.attributes["shape"])]


def range_(node: Node) -> list[Shape | None]:
    ends = [None if t is None else t.load().reshape(-1)[0] for t in map(node.constant, range(3))]
    if any(e is None for e in ends):
        return [(None,)]
    start, limit, delta = (float(e) for e in ends if e is not None)
    return [(max(math.ceil((limit - start) / delta), 0),)]


def shape(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    if data is None:
        return [(None,)]
    return [(len(data[node.attribute("start", 0) : node.attribute("end", None)]),)]


def scalar(_node: Node) -> list[Shape | None]:
    return [()]


def non_zero(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    return [(None if data is None else len(data), None)]


def selected_boxes(_node: Node) -> list[Shape | None]:
    return [(None, 3)]


def compress(node: Node) -> list[Shape | None]:
    data = shape_of(node)
    if "axis" not in node.attributes:
        return [(None,)]
    if data is None:
        return [None]
    axis = node.attributes["axis"] % len(data)
    return [(*data[:axis], None, *data[axis + 1 :])]


def constant(node: Node) -> list[Shape | None]:
    value = node.attribute("value", None)
    if value is not None:
        return [tuple(value.shape)]
    lists = ("value_ints", "value_floats", "value_strings")
    several = next((node.attributes[name] for name in lists if name in node.attributes), None)
    return [() if several is None else (len(several),)]


def unknown_vectors(node: Node) -> list[Shape | None]:
    """Unique: one extent that depends on the data, or the data's shape with one such extent."""
    data, axis = shape_of(node), node.attribute("axis", None)
    first: Shape | None = (None,)
    if axis is not None:
        first = None if data is None else tuple(None if i == axis % len(data) else e for i, e in enumerate(data))
    return [first, (None,), (None,), (None,)]
