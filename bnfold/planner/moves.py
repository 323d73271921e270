"""How an array of multipliers or shifts moves through an operator that only moves elements about.

See `transfer` for what `up` and `down` are given and give.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir.graph import Node, Shape, Value, content_readers
from ..ir.shapes.arguments import slice_arguments, slice_indices
from .affine import Float64, collapse
from .refusal import bounded, refuse, shape_of
from .transfer import Wanted, flat, integers, within


def permutation(node: Node) -> list[int]:
    rank = len(shape_of(node.inputs[0], node))
    order = [int(i) for i in node.attribute("perm", range(rank)[::-1])]
    if sorted(order) != list(range(rank)):
        raise refuse("shape", f"{node.label} orders {rank} axes by {order}", node)
    return order


def transposed(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    return [array.transpose(np.argsort(permutation(node)))]


def transposed_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    return [array.transpose(permutation(node))]


def reshaped(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    return [regroup(array, shape_of(node.outputs[0], node), shape_of(node.inputs[0], node), node)]


def reshaped_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    return [regroup(array, shape_of(node.inputs[0], node), shape_of(node.outputs[0], node), node)]


def regroup(array: Float64, old: Shape, new: Shape, node: Node) -> Float64:
    """`array`, which broadcasts against `old`, as it broadcasts against `new` after a reshape in row-major order.

    Runs of axes with equal products correspond; where the array varies inside a run it is spelled out over the run,
    so one channel becomes a run of features, and a channel axis may split and join again (channel shuffle).
    """
    pieces: list[int] = []
    for before, after in matching(old, new):
        part = array.shape[before.start : before.stop]
        if all(extent == 1 for extent in part):
            pieces.extend([1] * len(after))
            continue
        full = [old[i] for i in before]
        if None in full or None in [new[i] for i in after]:
            raise refuse("shape", f"{node.label} reshapes extents that are not known", node)
        whole = (*array.shape[: before.start], *(e or 0 for e in full), *array.shape[before.stop :])
        bounded(whole, node)
        array = np.broadcast_to(array, whole)
        pieces.extend(int(new[i] or 0) for i in after)
    if array.size != math.prod(pieces):
        raise refuse("shape", f"{node.label} reshapes {old} to {new}", node)
    return collapse(np.ascontiguousarray(array).reshape(pieces))


def matching(old: Shape, new: Shape) -> list[tuple[range, range]]:
    """The shortest runs of axes of `old` and `new` that hold the same elements.

    Known extents at either end correspond as far as their products meet, since in row-major order what stands between
    then holds equally many elements; where that is not known, it is one run.
    """
    i, j = tails(old, new)
    left, right = tails(old[:i][::-1], new[:j][::-1])
    p, q = i - left, j - right
    between = [(range(p, i), range(q, j))] if (p, q) != (i, j) else []
    behind = split_runs(old, new, range(i, len(old)), range(j, len(new)))
    return split_runs(old, new, range(p), range(q)) + between + behind


def tails(old: Shape, new: Shape) -> tuple[int, int]:
    """Where the longest known tails of equal product begin."""
    found = i, j = len(old), len(new)
    a = b = 1
    while True:
        if a == b:
            found = i, j
        before, after = old[i - 1] if i else None, new[j - 1] if j else None
        if a <= b and before is not None:
            a, i = a * before, i - 1
        elif b <= a and after is not None:
            b, j = b * after, j - 1
        else:
            return found


def split_runs(old: Shape, new: Shape, left: range, right: range) -> list[tuple[range, range]]:
    """Cut two runs of known extents and equal product wherever the products of their prefixes meet."""
    runs: list[tuple[range, range]] = []
    i, j = left.start, right.start
    while i < left.stop or j < right.stop:
        first_i, first_j = i, j
        a = b = 1
        while (a != b or (i, j) == (first_i, first_j)) and (i < left.stop or j < right.stop):
            if (a <= b and i < left.stop) or j >= right.stop:
                a, i = a * int(old[i] or 0), i + 1
            else:
                b, j = b * int(new[j] or 0), j + 1
        runs.append((range(first_i, i), range(first_j, j)))
    return runs


def inserted_axes(node: Node) -> list[int]:
    """The axes that an Unsqueeze inserts or a Squeeze removes, counted from 0 in the longer of the two shapes."""
    shape, axes = shape_of(node.inputs[0], node), integers(node, 1, "axes")
    if axes is None:
        if None in shape:
            raise refuse("shape", f"which axes {node.label} removes is not known", node)
        return [i for i, extent in enumerate(shape) if extent == 1]
    rank = len(shape) + (len(axes) if node.op == "Unsqueeze" else 0)
    return sorted(within(node, axis, rank) for axis in axes)


def inserted(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    return [np.expand_dims(array, tuple(inserted_axes(node)))]


def removed(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    axes = inserted_axes(node)
    flat(node, array, axes)
    return [array.squeeze(tuple(axes))]


def extent(value: Value | None, axis: int, node: Node) -> int:
    """The extent of a value along `axis`; refuses where it is not known."""
    found = shape_of(value, node)[axis]
    if found is None:
        name = value.name if value is not None else ""
        raise refuse("shape", f"an extent of {name!r} at {node.label} is not known", node)
    return found


def concatenated(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Concat: each input takes its slice."""
    axis = within(node, node.attribute("axis", 1), array.ndim)
    if array.shape[axis] == 1:
        return [array for _ in node.inputs]
    parts: list[Float64] = []
    at = 0
    for value in node.inputs:
        size = extent(value, axis, node)
        parts.append(collapse(array.take(range(at, at + size), axis=axis)))
        at += size
    return parts


def concatenated_down(node: Node, slot: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a Concat: the neutral element stands for the other inputs."""
    axis = within(node, node.attribute("axis", 1), array.ndim)
    sizes = [extent(value, axis, node) for value in node.inputs]
    return [placed(array, axis, sum(sizes[:slot]), sizes[slot], sum(sizes), neutral)]


def placed(array: Float64, axis: int, start: int, size: int, total: int, neutral: float) -> Float64:
    """`array` on [start, start + size) of `axis`, the neutral element on the rest of `total`."""
    whole = blank(array, axis, total, neutral)
    window = (slice(None),) * axis + (slice(start, start + size),)
    whole[window] = array
    return whole


def blank(array: Float64, axis: int, size: int, neutral: float) -> Float64:
    """The neutral element in the shape of `array`, with another extent along `axis`."""
    shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
    bounded(shape)
    return np.full(shape, neutral)


def split_part(node: Node, axis: int, index: int) -> tuple[int, int, int]:
    """Start and size of output `index` of a Split along `axis`, and the whole extent."""
    sizes = [extent(value, axis, node) for value in node.outputs]
    return sum(sizes[:index]), sizes[index], sum(sizes)


def split(node: Node, index: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Split: the neutral element stands for the other pieces, where anyone reads them."""
    axis = within(node, node.attribute("axis", 0), array.ndim)
    others = [value for i, value in enumerate(node.outputs) if i != index]
    if array.shape[axis] == 1 and not any(content_readers(value) or value.public for value in others):
        return [array]
    return [placed(array, axis, *split_part(node, axis, index), neutral)]


def split_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    axis = within(node, node.attribute("axis", 0), array.ndim)
    if array.shape[axis] == 1:
        return [array for _ in node.outputs]
    parts = []
    for index in range(len(node.outputs)):
        start, size, _total = split_part(node, axis, index)
        parts.append(collapse(array.take(range(start, start + size), axis=axis)))
    return parts


def slices(node: Node, array: Float64) -> dict[int, range]:
    """The indices that a Slice keeps, for each axis on which the array varies."""
    cuts = slice_arguments(node)
    if cuts is None:
        raise refuse("dynamic", f"{node.label} computes what it cuts at run time", node)
    kept = {}
    for given, start, end, step in cuts:
        axis = within(node, given, array.ndim)
        if array.shape[axis] != 1:
            kept[axis] = slice_indices(start, end, step, extent(node.inputs[0], axis, node))
    return kept


def sliced(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Slice: what it does not keep nobody reads, so the neutral element may stand there."""
    for axis, kept in slices(node, array).items():
        size = extent(node.inputs[0], axis, node)
        whole = blank(array, axis, size, neutral)
        whole[(slice(None),) * axis + (list(kept),)] = array
        array = whole
    return [array]


def sliced_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    for axis, kept in slices(node, array).items():
        array = array.take(kept, axis=axis)
    return [collapse(array)]


def gather(node: Node, rank: int) -> tuple[int, list[int]]:
    """Axis and indices of a Gather by a constant list."""
    tensor = node.constant(1)
    if tensor is None or len(tensor.shape) != 1:
        raise refuse("dynamic", f"{node.label} does not gather by a constant list", node)
    axis = within(node, node.attribute("axis", 0), rank)
    return axis, [int(i) for i in tensor.load()]


def gathered(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Gather: what it does not read may stay; what it reads twice must agree."""
    axis, indices = gather(node, array.ndim)
    if array.shape[axis] == 1:
        return [array]
    whole = blank(array, axis, extent(node.inputs[0], axis, node), neutral)
    whole[(slice(None),) * axis + (indices,)] = array
    if not np.array_equal(whole.take(indices, axis=axis), array):
        raise refuse("readers", f"{node.label} reads one channel twice", node)
    return [whole]


def gathered_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    axis, indices = gather(node, array.ndim)
    if array.shape[axis] == 1:
        return [array]
    extent(node.inputs[0], axis, node)  # within which the indices are known to lie
    return [collapse(array.take(indices, axis=axis))]


def widened(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """From a channel to the blocksize² channels that DepthToSpace makes it of, or SpaceToDepth makes of it."""
    flat(node, array, [0, 2, 3])
    times, vector = int(node.attribute("blocksize", 1)) ** 2, array.reshape(-1)
    bounded([vector.size, times], node)
    wide = vector.repeat(times) if node.attribute("mode", "DCR") == "CRD" else np.tile(vector, times)
    return [array if vector.size == 1 else wide.reshape(1, -1, 1, 1)]


def narrowed(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """The reverse of `widened`; refuses where the channels that become one do not agree."""
    flat(node, array, [0, 2, 3])
    times, vector = int(node.attribute("blocksize", 1)) ** 2, array.reshape(-1)
    if vector.size == 1:
        return [array]
    if vector.size % times:
        raise refuse("shape", f"{node.label} makes no whole channels of {vector.size}", node)
    rows = vector.reshape(-1, times).T if node.attribute("mode", "DCR") == "CRD" else vector.reshape(times, -1)
    if not (rows == rows[0]).all():
        raise refuse("axis", f"{node.label} makes one channel of several, and they differ", node)
    return [rows[0].reshape(1, -1, 1, 1)]
