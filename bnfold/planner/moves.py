"""How an array of multipliers or shifts moves through an operator that only moves elements about.

What such an operator does is said once: the order of its axes, the places that it keeps along an axis, the runs of axes
that correspond. Down follows that, and up goes back: a place that is not kept nobody reads, so that the neutral element
may stand there, and what is kept twice must agree. See `transfer` for what `up` and `down` are given and give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np

from ..ir.graph import Node, Shape, Value, content_readers
from ..ir.shapes.arguments import slice_places
from ..ir.shapes.check import product
from .affine import Float64, collapse
from .refusal import bounded, refuse, shape_of
from .transfer import Wanted, constant_integers, flat, within


def _permutation(node: Node) -> list[int]:
    rank = len(shape_of(node.inputs[0], node))
    return list(node.attribute("perm", range(rank)[::-1]))


def transposed_up(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Transpose: the axes in their old order."""
    return [array.transpose(np.argsort(_permutation(node)))]


def transposed_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a Transpose: the axes in the order of `perm`."""
    return [array.transpose(_permutation(node))]


def reshaped_up(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Reshape or Flatten."""
    return [_regroup(array, shape_of(node.outputs[0], node), shape_of(node.inputs[0], node), node)]


def reshaped_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a Reshape or Flatten."""
    return [_regroup(array, shape_of(node.inputs[0], node), shape_of(node.outputs[0], node), node)]


def _regroup(array: Float64, old: Shape, new: Shape, node: Node) -> Float64:
    """`array`, which broadcasts against `old`, as it broadcasts against `new` after a reshape in row-major order.

    Runs of axes with equal products correspond; where the array varies inside a run it is spelled out over the run,
    so one channel becomes a run of features, and a channel axis may split and join again (channel shuffle).
    An extent of 0 counts as not known: exporters write it for an open batch, and every product with it is the same.
    """
    old, new = (tuple(extent or None for extent in shape) for shape in (old, new))
    if product(old) != product(new) and None not in (*old, *new):
        raise refuse("shape", f"{node.label} reshapes {old} to {new}", node)
    pieces: list[int] = []
    for before, after in _matching(old, new):
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
    return collapse(np.ascontiguousarray(array).reshape(pieces))


def _matching(old: Shape, new: Shape) -> list[tuple[range, range]]:
    """The shortest runs of axes of `old` and `new` that hold the same elements.

    Known extents at either end correspond as far as their products meet, since in row-major order what stands between
    then holds equally many elements; where that is not known, it is one run.
    """
    heads = _meetings(old, new)
    i, j = heads[-1]
    tails = _meetings(old[i:][::-1], new[j:][::-1])
    ends = heads + [(len(old) - p, len(new) - q) for p, q in tails[::-1]]
    return [(range(p, r), range(q, s)) for (p, q), (r, s) in pairwise(ends)]


def _meetings(old: Shape, new: Shape) -> list[tuple[int, int]]:
    """Of how many extents of each the products meet, from the front as far as they are known."""
    found = [(0, 0)]
    i = j = 0
    a = b = 1
    while True:
        before, after = old[i] if i < len(old) else None, new[j] if j < len(new) else None
        if before is not None and (a <= b or after is None):
            a, i = a * before, i + 1
        elif after is not None:
            b, j = b * after, j + 1
        else:
            return found
        if a == b:
            found.append((i, j))


def _inserted_axes(node: Node) -> list[int]:
    """The axes that an Unsqueeze inserts or a Squeeze removes, counted from 0 in the longer of the two shapes."""
    shape, axes = shape_of(node.inputs[0], node), constant_integers(node, "axes", 1)
    if axes is None:
        if None in shape:
            raise refuse("shape", f"which axes {node.label} removes is not known", node)
        return [i for i, extent in enumerate(shape) if extent == 1]
    rank = len(shape) + (len(axes) if node.op == "Unsqueeze" else 0)
    return sorted(within(node, axis, rank) for axis in axes)


def inserted(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through an Unsqueeze, up through a Squeeze."""
    return [np.expand_dims(array, tuple(_inserted_axes(node)))]


def removed(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """Up through an Unsqueeze, down through a Squeeze."""
    axes = _inserted_axes(node)
    flat(node, array, axes)
    return [array.squeeze(tuple(axes))]


def _known_extent(value: Value | None, axis: int, node: Node) -> int:
    """The extent of a value along `axis`; refuses where it is not known."""
    found = shape_of(value, node)[axis]
    if found is None:
        name = value.name if value is not None else ""
        raise refuse("shape", f"an extent of {name!r} at {node.label} is not known", node)
    return found


def _placed(node: Node, array: Float64, axis: int, kept: Sequence[int], size: int, neutral: float) -> Float64:
    """`array` at the places `kept` of `axis`, the neutral element on the rest of `size`."""
    shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
    bounded(shape)
    whole = np.full(shape, neutral)
    whole[(slice(None),) * axis + (list(kept),)] = array
    if (whole.take(kept, axis=axis) != array).any():
        raise refuse("readers", f"{node.label} reads one channel twice", node)
    return whole


def _axis(node: Node, array: Float64) -> int:
    """The axis along which a Concat, Split or Gather works."""
    return within(node, node.attribute("axis", 1 if node.op == "Concat" else 0), array.ndim)


def _pieces(node: Node, values: Sequence[Value | None], axis: int) -> list[range]:
    """Where the inputs of a Concat, or the outputs of a Split, stand along `axis` of the whole."""
    ends = accumulate((_known_extent(value, axis, node) for value in values), initial=0)
    return [range(*pair) for pair in pairwise(ends)]


def _parted(node: Node, values: Sequence[Value | None], array: Float64) -> list[Float64]:
    axis = _axis(node, array)
    if array.shape[axis] == 1:
        return [array for _ in values]
    return [collapse(array.take(kept, axis=axis)) for kept in _pieces(node, values, axis)]


def _put(node: Node, values: Sequence[Value | None], index: int, array: Float64, neutral: float) -> list[Float64]:
    """The whole of which `array` is one piece: the neutral element stands for the others."""
    axis = _axis(node, array)
    pieces = _pieces(node, values, axis)
    return [_placed(node, array, axis, pieces[index], pieces[-1].stop, neutral)]


def concat_up(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Concat: each input takes its piece."""
    return _parted(node, node.inputs, array)


def concat_down(node: Node, slot: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a Concat: the neutral element stands for the other inputs."""
    return _put(node, node.inputs, slot, array, neutral)


def split_up(node: Node, index: int, array: Float64, neutral: float) -> Wanted:
    """The other pieces count where anyone reads them."""
    others = [value for i, value in enumerate(node.outputs) if i != index]
    read = any(content_readers(value) or value.public for value in others)
    return _put(node, node.outputs, index, array, neutral) if read or array.shape[_axis(node, array)] != 1 else [array]


def split_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a Split: each output takes its piece."""
    return _parted(node, node.outputs, array)


def _places(node: Node, array: Float64) -> Iterator[tuple[int, Sequence[int], int]]:
    """What a Slice or Gather keeps of each axis on which the array varies: the axis, its places, its extent."""
    if node.op == "Slice":
        found = slice_places(node, shape_of(node.inputs[0], node))
        if found is None:
            raise refuse("dynamic", f"{node.label} computes what it cuts at run time", node)
    else:
        tensor = node.constant(1)
        if tensor is None or len(tensor.shape) != 1:
            raise refuse("dynamic", f"{node.label} does not gather by a constant list", node)
        found = {_axis(node, array): tensor.load().tolist()}
    for axis, kept in found.items():
        if array.shape[axis] != 1:
            size = _known_extent(node.inputs[0], axis, node)  # within which they are known to lie
            yield axis, kept or (), size


def picked_up(node: Node, _: int, array: Float64, neutral: float) -> Wanted:
    """Up through a Slice or Gather: what is not kept takes the neutral element."""
    for axis, kept, size in _places(node, array):
        array = _placed(node, array, axis, kept, size, neutral)
    return [array]


def picked_down(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """Down through a Slice or Gather: what is kept."""
    for axis, kept, _size in _places(node, array):
        array = array.take(kept, axis=axis)
    return [collapse(array)]


def to_blocks(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """From a channel to the blocksize² channels that DepthToSpace makes it of, or SpaceToDepth makes of it."""
    flat(node, array, [0, 2, 3])
    times, vector = int(node.attribute("blocksize", 1)) ** 2, array.reshape(-1)
    bounded([vector.size, times], node)
    wide = vector.repeat(times) if node.attribute("mode", "DCR") == "CRD" else np.tile(vector, times)
    return [array if vector.size == 1 else wide.reshape(1, -1, 1, 1)]


def from_blocks(node: Node, _: int, array: Float64, neutral: float) -> list[Float64]:
    """The reverse of `to_blocks`; refuses where the channels that become one do not agree."""
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
