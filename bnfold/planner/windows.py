"""What the windows of a convolution or pooling read: the input only, padding too, or nothing but padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.graph import Node, Shape, Value
from .refusal import refuse

LARGEST = 1 << 22
"""Elements that all windows along an axis read, up to which each window is looked at."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The windows along one spatial axis: `count` of them over `size` elements; None where not known.

    The count of a kernel larger than the image is not known: what a runtime makes of that is its own.
    """

    size: int | None
    count: int | None
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def beyond(self) -> bool:
        """Whether a window reads beyond the input; True where that is not known."""
        if self.before > 0:
            return True
        if self.size is None:
            return self.after > 0
        if self.count is None:
            return True
        return (self.count - 1) * self.stride + self.dilation * (self.kernel - 1) - self.before >= self.size

    @property
    def hollow(self) -> bool:
        """Whether a window reads nothing of the input; True where that is not known, or they are very many."""
        if self.size is None or (self.count or 0) * self.kernel > LARGEST:
            return self.dilation > 1 or max(self.before, self.after) >= self.kernel
        if self.count is None:
            return True
        start = np.arange(self.count)[:, None] * self.stride - self.before
        reads = start + np.arange(self.kernel) * self.dilation
        return not ((reads >= 0) & (reads < self.size)).any(axis=1).all()


def check_lengths(node: Node, rank: int) -> None:
    """Refuse a node whose attributes are not those of a window of `rank` axes, which only a broken model has."""
    for name, times in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 2), ("output_padding", 1)):
        given = node.attribute(name, None)
        if given and len(given) != rank * times:
            raise refuse("shape", f"{node.label} has {len(given)} {name} for {rank} axes", node)


def axes(node: Node) -> list[Axis] | None:
    """The spatial axes of a convolution or pooling, none of a global pooling; None where its kernel is not known."""
    weight = node.input(1)
    known = weight.shape[2:] if weight is not None and weight.shape is not None else None
    given: Shape | None = node.attribute("kernel_shape", None) or (() if node.op.startswith("Global") else known)
    kernel = [k for k in given or () if k is not None]
    rank = len(kernel)
    if given is None or len(given) != rank:
        return None
    check_lengths(node, rank)
    strides = node.attribute("strides", None) or [1] * rank
    dilations = node.attribute("dilations", None) or [1] * rank
    pads = node.attribute("pads", None) or [0] * 2 * rank
    auto = node.attribute("auto_pad", "NOTSET") or "NOTSET"
    found = []
    for i in range(rank):
        size, count = extent(node.input(0), i + 2), extent(node.outputs[0], i + 2)
        count = count if count is None or count > 0 else None
        before, after = pads[i], pads[i + rank]
        if node.attribute("ceil_mode", 0) and size is None:
            after += strides[i] - 1  # as far as the last window may reach
        if auto != "NOTSET":
            before, after = automatic(auto, size, kernel[i], strides[i], dilations[i])
        found.append(Axis(size, count, kernel[i], strides[i], dilations[i], before, after))
    return found


def extent(value: Value | None, axis: int) -> int | None:
    shape = value.shape if value is not None else None
    return shape[axis] if shape is not None and axis < len(shape) else None


def automatic(auto: str, size: int | None, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """The padding before and after that auto_pad means; the most that it can be where the extent is not known."""
    total = dilation * (kernel - 1)
    if auto == "VALID":
        total = 0
    elif size is not None:
        total = max((-(-size // stride) - 1) * stride + total + 1 - size, 0)
    return (total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2)


def padded(node: Node) -> bool:
    """True where a convolution or pooling may read beyond its input."""
    found = axes(node)
    return found is None or any(axis.beyond for axis in found)


def hollow(node: Node) -> bool:
    """True where a window of a pooling may lie in the padding altogether, so that its result is made up."""
    found = axes(node)
    return found is None or any(axis.hollow for axis in found)
