"""The windows of convolutions and poolings: how many there are, and what they read: the input only, padding too, or
nothing but padding. This is the one place that reads kernel, stride, dilation, pads, auto_pad and ceil_mode.

Semantics: https://onnx.ai/onnx/operators/, Conv, ConvTranspose, AveragePool, MaxPool and MaxUnpool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..graph import Node
from . import check
from .arguments import input_shape

WEIGHTS = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}
"""Convolution -> the input that holds its weights, whose extents kernel_shape may repeat."""

_LARGEST = 1 << 22
"""Elements that all windows along an axis read, up to which each window is looked at."""
_SAME = ("SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True, slots=True)
class Axis:
    """The windows along one spatial axis: `kernel` elements that lie `dilation` apart, and the next one `stride` on.

    `before` and `after` pad the input. `rounding` says how many windows there are: FLOOR, as many as fit; CEIL, one
    more where elements are left, unless it would start in the padding behind them; OVER, even then; SAME_UPPER or
    SAME_LOWER, one for each stride, with as much padding as that takes. `extra` is what output_padding appends to the
    result of a transposed convolution.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    rounding: str = "FLOOR"
    extra: int = 0

    @property
    def reach(self) -> int:
        """From the first element of a window to its last, both counted."""
        return self.dilation * (self.kernel - 1) + 1

    def count(self, size: int | None) -> int | None:
        """The number of windows over `size` elements.

        None where that is not known, or not one fits: what a runtime makes of a larger kernel is its own.
        """
        if size is None:
            return None
        if self.rounding in _SAME:
            return -(-size // self.stride)
        room = size + self.before + self.after - self.reach
        steps = room // self.stride if self.rounding == "FLOOR" else -(-room // self.stride)
        if self.rounding == "CEIL" and steps * self.stride >= size + self.before:
            steps -= 1
        return steps + 1 if steps >= 0 else None

    def end(self, size: int | None) -> int | None:
        """Where the last window over `size` elements ends, counted from the first element; None as of `count`."""
        count = self.count(size)
        return (count - 1) * self.stride + self.reach - self.padding(size)[0] if count else None

    def transposed(self, size: int | None) -> int | None:
        """The number of elements that a transposed convolution makes of `size`; None where unknown, or none is left."""
        if size is None:
            return None
        if self.rounding in _SAME:
            return size * self.stride
        found = self.stride * (size - 1) + self.extra + self.reach - self.before - self.after
        return found if found > 0 else None

    def padding(self, size: int | None) -> tuple[int, int]:
        """The elements padded before and after `size`; the most that they can be where that is not known."""
        if self.rounding not in _SAME:
            over = self.stride - 1 if size is None and self.rounding != "FLOOR" else 0
            return self.before, self.after + over
        total = self.reach - 1
        if size is not None:
            total = max((-(-size // self.stride) - 1) * self.stride + self.reach - size, 0)
        small, large = total // 2, total - total // 2
        return (small, large) if self.rounding == "SAME_UPPER" else (large, small)

    def beyond(self, size: int | None) -> bool:
        """Whether a window reads beyond the input; True where that is not known."""
        before, after = self.padding(size)
        if before > 0 or size is None:
            return max(before, after) > 0
        end = self.end(size)
        return end is None or end > size

    def hollow(self, size: int | None) -> bool:
        """Whether a window reads nothing of the input; True where that is not known, or they are very many."""
        before, after = self.padding(size)
        count = self.count(size)
        if size is None or (count or 0) * self.kernel > _LARGEST:
            return self.dilation > 1 or max(before, after) >= self.kernel
        start = np.arange(count or 0)[:, None] * self.stride - before
        reads = start + np.arange(self.kernel) * self.dilation
        return not count or not ((reads >= 0) & (reads < size)).any(axis=1).all()

    @property
    def even(self) -> bool:
        """Whether each output of a transposed convolution adds up all taps: stride 1, and a border that is cut off."""
        cut = self.rounding == "FLOOR" and min(self.before, self.after) >= self.reach - 1
        return cut and self.stride == 1 and not self.extra


def windows(node: Node) -> list[Axis] | None:
    """The windows of a convolution or pooling along each spatial axis, none of a global pooling.

    None where its kernel is not known. Raises Contradiction where its attributes do not fit each other or its inputs.
    """
    if node.op.startswith("Global"):
        return []
    weights = input_shape(node, WEIGHTS[node.op]) if node.op in WEIGHTS else None
    kernel = node.attribute("kernel_shape", None) or (None if weights is None else weights[2:])
    if kernel is None:
        return None
    rank = next((len(shape) - 2 for shape in (weights, input_shape(node)) if shape is not None), len(kernel))
    check.length("kernel_shape", kernel, rank)
    if weights is not None and tuple(kernel) != weights[2:]:
        kernel = [check.common(pair, "kernel_shape and weights") for pair in zip(kernel, weights[2:], strict=True)]
    check.ensure(min((k for k in kernel if k is not None), default=1) > 0, f"its kernel_shape is {kernel}")
    auto = node.attribute("auto_pad", "NOTSET") or "NOTSET"
    check.ensure(auto in ("NOTSET", "VALID", *_SAME), f"its auto_pad is {auto!r}")
    strides, dilations = _listed(node, "strides", 1, rank), _listed(node, "dilations", 1, rank)
    extra, pads = _listed(node, "output_padding", 0, rank), _listed(node, "pads", 0, 2 * rank)
    if None in kernel:
        return None
    pads = pads if auto == "NOTSET" else [0] * 2 * rank
    rounding = auto if auto in _SAME else "CEIL" if auto == "NOTSET" and node.attribute("ceil_mode", 0) else "FLOOR"
    columns = kernel, strides, dilations, pads[:rank], pads[rank:], [rounding] * rank, extra
    return [Axis(*row) for row in zip(*columns, strict=True)]


def _listed(node: Node, name: str, default: int, count: int) -> list[int]:
    """A list with one element an axis (two for pads); those that count or step are positive."""
    given = node.attribute(name, None)
    if not given:
        return [default] * count
    found = list(given)
    check.length(name, found, count)
    check.ensure(default < 1 or min(found) > 0, f"its {name} are {found}")
    return found


def window_attributes(axes: Sequence[Axis]) -> dict[str, list[int]]:
    """How ONNX writes these windows, but for their dilations."""
    pads = [axis.before for axis in axes] + [axis.after for axis in axes]
    return {"kernel_shape": [axis.kernel for axis in axes], "strides": [axis.stride for axis in axes], "pads": pads}


def padded(node: Node) -> bool:
    """True where a convolution or pooling may read beyond its input."""
    return _any(node, Axis.beyond)


def hollow(node: Node) -> bool:
    """True where a window of a pooling may lie in the padding altogether, so that its result is made up."""
    return _any(node, Axis.hollow)


def _any(node: Node, judge: Callable[[Axis, int | None], bool]) -> bool:
    axes, data = windows(node), input_shape(node)
    if axes is None:
        return True
    return any(map(judge, axes, (None,) * len(axes) if data is None else data[2:]))


def even(node: Node) -> bool:
    """Whether every output of a transposed convolution adds up all taps."""
    axes = windows(node)
    return axes is not None and "output_shape" not in node.attributes and all(axis.even for axis in axes)
