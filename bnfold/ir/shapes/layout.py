"""Shapes of the operators that work element by element, or move elements."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Node, Shape
from . import check
from .arguments import contents, given, input_shape, integers, slice_places, with_extents
from .check import broadcast, product


def elementwise_shape(node: Node) -> list[Shape | None]:
    """The inputs broadcast against each other; before opset 7 the second to the first."""
    if node.version < 7 and node.op not in ("Sum", "Max", "Min", "Mean", "Where"):
        return [_aligned(node)]
    return [broadcast(None if v is None else v.shape for v in node.inputs)]


def _aligned(node: Node) -> Shape | None:
    """Before opset 7 the second operand is repeated to the shape of the first: from an axis on, or at the end."""
    first, second = input_shape(node), input_shape(node, 1)
    if first is None or second is None:
        return first
    start = node.attribute("axis", len(first) - len(second))
    start += len(first) if start < 0 else 0
    covered = first[start : start + len(second)] if start >= 0 else ()
    fits = len(covered) == len(second) and all(
        own in (1, None, e) or e is None for e, own in zip(covered, second, strict=True)
    )
    check.ensure(fits, f"{second} does not fit {first} from axis {start} on")
    return first


def same_shape(node: Node) -> list[Shape | None]:
    """That of the first input."""
    return [input_shape(node)]


def dropout_shape(node: Node) -> list[Shape | None]:
    """The data and the mask; ratio and training_mode are inputs from opset 12 on."""
    for index, name in ((1, "ratio"), (2, "training_mode")):
        check.single(node, index, name)
    return [input_shape(node)] * len(node.outputs)


def batch_norm_shape(node: Node) -> list[Shape | None]:
    """Behind Y come running and saved statistics, one element a channel."""
    data, parameters = input_shape(node), [input_shape(node, index) for index in range(1, 5)]
    if (node.version >= 9 or node.attribute("spatial", 1)) and data is not None and len(data) > 1:
        for parameter in parameters:
            check.ranked(parameter, 1, 1)
        channels = [data[1], *(parameter[0] for parameter in parameters if parameter is not None)]
        data = (data[0], check.common(channels, "its channels and parameters"), *data[2:])
    return [data, *[parameters[0]] * 4]


def layer_norm_shape(node: Node) -> list[Shape | None]:
    """Behind Y come mean and inverse deviation, with extent 1 from `axis` on."""
    data = input_shape(node)
    if data is None:
        return [None]
    axis = check.axis(node.attribute("axis", -1), len(data))
    statistics = (*data[:axis], *(1,) * (len(data) - axis))
    return [data, statistics, statistics]


def flatten_shape(node: Node) -> list[Shape | None]:
    """Two axes: those before `axis`, and those from it on."""
    data, axis = input_shape(node), node.attribute("axis", 1)
    if data is None:
        return [(None, None)]
    check.ensure(-len(data) <= axis <= len(data), f"axis {axis} is not within {len(data)}")
    return [(product(data[:axis]), product(data[axis:]))]


def reshape_shape(node: Node) -> list[Shape | None]:
    """The extents asked for: 0 copies one, −1 is what is left."""
    data, target = input_shape(node), _target(node)
    if target is None:
        return [None]
    keeps = not node.attribute("allowzero", 0)
    copied = [axis for axis, extent in enumerate(target) if extent == 0 and keeps]
    check.ensure(target.count(-1) <= 1 and min((e for e in target if e is not None), default=0) >= -1,
                 f"it reshapes to {target}")  # fmt: skip
    if data is None:
        return [tuple(None if extent in (0, -1) else extent for extent in target)]
    check.ensure(all(axis < len(data) for axis in copied), f"it reshapes {len(data)} axes to {target}")
    shape = [data[axis] if axis in copied else extent for axis, extent in enumerate(target)]
    have = product(e for axis, e in enumerate(data) if axis not in copied)
    rest = product(e for axis, e in enumerate(target) if axis not in copied and e != -1)
    if -1 in target:
        shape[target.index(-1)] = None
    if have is None or rest is None:
        return [tuple(shape)]
    fits = have == rest if -1 not in target else have == 0 if rest == 0 else have % rest == 0
    check.ensure(fits, f"it reshapes {data} to {target}")
    if -1 in target and rest:
        shape[target.index(-1)] = have // rest
    return [tuple(shape)]


def _target(node: Node) -> tuple[int | None, ...] | None:
    """The shape that a Reshape asks for, an attribute before opset 5."""
    if "shape" in node.attributes:
        return tuple(node.attributes["shape"])
    source = node.input(1)
    return None if source is None else contents(source)


def transpose_shape(node: Node) -> list[Shape | None]:
    """The axes in the order of `perm`, reversed without one."""
    data, order = input_shape(node), node.attribute("perm", None)
    if order is None:
        return [None if data is None else data[::-1]]
    rank = len(order) if data is None else len(data)
    check.ensure(sorted(order) == list(range(rank)), f"it orders {rank} axes by {tuple(order)}")
    return [tuple(None if data is None else data[i] for i in order)]


def squeeze_shape(node: Node) -> list[Shape | None]:
    """Without the axes named, or all of extent 1."""
    data, axes = input_shape(node), integers(node, "axes", 1)
    if data is None:
        return [None]
    if axes is None:
        if given(node, "axes", 1) or None in data:
            return [None]
        return [tuple(e for e in data if e != 1)]
    gone = check.axes(axes, len(data))
    check.ensure(all(data[i] in (1, None) for i in gone), f"it removes the axes {gone} of {data}")
    return [tuple(e for i, e in enumerate(data) if i not in gone)]


def unsqueeze_shape(node: Node) -> list[Shape | None]:
    """With axes of extent 1 where they are named."""
    data, axes = input_shape(node), integers(node, "axes", 1)
    if data is None or axes is None:
        return [None]
    rank = len(data) + len(axes)
    new, rest = check.axes(axes, rank), iter(data)
    return [tuple(1 if i in new else next(rest) for i in range(rank))]


def concat_shape(node: Node) -> list[Shape | None]:
    """The extents add up along `axis`."""
    shapes = [None if v is None else v.shape for v in node.inputs]
    known = [s for s in shapes if s is not None]
    if not known:
        return [None]
    rank = len(known[0])
    check.ensure(all(len(s) == rank for s in known), f"its inputs have {sorted({len(s) for s in known})} axes")
    axis = check.axis(node.attribute("axis", 1), rank)
    every = len(known) == len(shapes)
    total = None if not every or any(s[axis] is None for s in known) else sum(s[axis] or 0 for s in known)
    others = (check.common((s[i] for s in known), "its inputs") if i != axis else total for i in range(rank))
    return [tuple(others)]


def split_shape(node: Node) -> list[Shape | None]:
    """The pieces along `axis`: as `split` says, or equal ones, of which the last may be smaller."""
    data, count = input_shape(node), len(node.outputs)
    parts: Sequence[int | None] | None = integers(node, "split", 1)
    if parts is not None:
        check.length("split", parts, count)
        check.ensure(min((p for p in parts if p is not None), default=0) >= 0, f"its split is {parts}")
    if data is None:
        return [None] * count
    axis = check.axis(node.attribute("axis", 0), len(data))
    whole = data[axis]
    if parts is not None:
        check.common((whole, sum(part or 0 for part in parts)), "its input and its parts")
    elif whole is None or given(node, "split", 1):
        parts = [None] * count
    else:
        chunk = -(-whole // count)
        parts = [max(0, min(chunk, whole - i * chunk)) for i in range(count)]
    return [(*data[:axis], part, *data[axis + 1 :]) for part in parts]


def slice_shape(node: Node) -> list[Shape | None]:
    """What is kept of each axis that is cut."""
    check.ensure(given(node, "starts", 1) and given(node, "ends", 2), "it has no starts or no ends")
    data = input_shape(node)
    if data is None:
        return [None]
    places = slice_places(node, data)
    if places is None:
        axes = integers(node, "axes", 3)
        places = dict.fromkeys(range(len(data)) if axes is None else check.axes(axes, len(data)))
    return [with_extents(data, {axis: None if kept is None else len(kept) for axis, kept in places.items()})]


def gather_shape(node: Node) -> list[Shape | None]:
    """The indices' axes in the place of `axis`."""
    data, indices = input_shape(node), input_shape(node, 1)
    if data is None or indices is None:
        return [None]
    axis = check.axis(node.attribute("axis", 0), len(data))
    _within(node, data[axis])
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _within(node: Node, extent: int | None) -> None:
    """Constant indices of a Gather lie within the axis."""
    tensor = node.constant(1)
    if tensor is None:
        return
    check.ensure(tensor.dtype.kind == "i", f"its indices are {tensor.dtype}")
    indices = tensor.load()
    if extent is not None and indices.size:
        low, high = int(indices.min()), int(indices.max())
        check.ensure(-extent <= low and high < extent, f"it takes elements {low} to {high} of {extent}")


def gather_nd_shape(node: Node) -> list[Shape | None]:
    """The indices' axes but the last, and those of the data that they do not index."""
    data, indices, batch = input_shape(node), input_shape(node, 1), node.attribute("batch_dims", 0)
    check.ranked(indices, 1)
    check.ensure(batch >= 0, f"its batch_dims is {batch}")
    if data is None or indices is None or indices[-1] is None:
        return [None]
    depth = batch + indices[-1]
    check.ensure(depth <= len(data) and batch < len(indices), f"it indexes {depth} of {len(data)} axes")
    return [(*indices[:-1], *data[depth:])]


def indices_shape(node: Node) -> list[Shape | None]:
    """That of the indices."""
    return [input_shape(node, 1)]


def expand_shape(node: Node) -> list[Shape | None]:
    """The data broadcast against the shape asked for."""
    source = node.input(1)
    target = None if source is None else contents(source)
    return [None if target is None else broadcast([input_shape(node), target])]


def tile_shape(node: Node) -> list[Shape | None]:
    """Each extent times its repeats."""
    data = input_shape(node)
    source = node.input(1)
    repeats = None if source is None else contents(source)
    if data is None:
        return [None if repeats is None else (None,) * len(repeats)]
    if repeats is None or node.version < 6:
        return [(None,) * len(data)]
    check.length("repeats", repeats, len(data))
    return [tuple(None if e is None or r is None else e * r for e, r in zip(data, repeats, strict=True))]
