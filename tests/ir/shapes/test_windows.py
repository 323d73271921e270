"""Windows along one axis, against counting what each of them reads or writes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from bnfold.ir.graph import Node, Value
from bnfold.ir.shapes.windows import Axis, even, hollow, padded


def node(op: str, size: int | None, kernel: int, **attributes: Any) -> Node:
    weights = [Value("w", (1, 1, kernel))] if op.startswith("Conv") else []
    given = attributes if weights else {"kernel_shape": [kernel], **attributes}
    return Node(op, [Value("x", (1, 1, size)), *weights], [Value("y")], given, None, "n", 13)


def summands(axis: Axis, size: int) -> list[int]:
    """How many taps each element adds up that a transposed convolution makes of `size` elements."""
    whole = np.zeros(axis.stride * (size - 1) + axis.extra + axis.reach, int)
    for start, tap in product(range(size), range(axis.kernel)):
        whole[start * axis.stride + tap * axis.dilation] += 1
    return list(whole[axis.before : len(whole) - axis.after])


def test_a_transposed_convolution_is_even_where_every_element_adds_up_all_taps() -> None:
    size = 9
    found = set()
    for kernel, stride, dilation, before, after, extra in product(
        (1, 2, 3), (1, 2), (1, 2), range(5), range(5), (0, 1)
    ):
        axis = Axis(kernel, stride, dilation, before, after, extra=extra)
        made = summands(axis, size)
        assert axis.transposed(size) == (len(made) or None)
        full = set(made) == {kernel}
        assert axis.even <= full
        assert extra or stride > 1 or axis.even == full
        found.add(axis.even)
        attributes = {"strides": [stride], "dilations": [dilation], "output_padding": [extra]}
        assert even(node("ConvTranspose", size, kernel, pads=[before, after], **attributes)) == axis.even
    assert found == {True, False}


def test_a_shape_that_is_asked_for_is_not_known_to_be_even() -> None:
    assert even(node("ConvTranspose", 5, 1))
    assert not even(node("ConvTranspose", 5, 1, output_shape=[7]))
    assert not even(node("ConvTranspose", 5, 2, auto_pad="SAME_UPPER", pads=[1, 1]))


@pytest.mark.parametrize(("rounding", "lower"), [("SAME_UPPER", 0), ("SAME_LOWER", 1)])
def test_an_odd_element_of_automatic_padding_goes_to_the_side_that_is_named(rounding: str, lower: int) -> None:
    for size, kernel, stride, dilation in product((1, 4, 5, None), (1, 2, 4), (1, 2, 3), (1, 2)):
        axis = Axis(kernel, stride, dilation, rounding=rounding)
        before, after = axis.padding(size)
        assert (before - after if lower else after - before) in (0, 1)
        needed = (-(-size // stride) - 1) * stride + axis.reach - size if size else axis.reach - 1
        assert before + after == max(needed, 0)


def test_only_explicit_padding_reads_the_pads() -> None:
    assert padded(node("MaxPool", 4, 2, pads=[1, 1]))
    assert not padded(node("MaxPool", 4, 2, pads=[1, 1], auto_pad="VALID"))


def test_a_kernel_that_fits_nowhere_may_read_anything() -> None:
    assert Axis(5).count(3) is None
    assert Axis(5).beyond(3)
    assert Axis(5).hollow(3)


def test_rounding_up_an_unknown_extent_may_reach_behind_it() -> None:
    assert not padded(node("MaxPool", None, 2, strides=[3]))
    assert padded(node("MaxPool", None, 2, strides=[3], ceil_mode=1))
    assert hollow(node("MaxPool", None, 2, strides=[3], ceil_mode=1))
    assert not hollow(node("MaxPool", None, 2, strides=[2], ceil_mode=1))


def test_what_rounding_leaves_of_the_last_window() -> None:
    """Of 5 elements with a stride of 3 one is left, which a window of 1 would start behind."""
    assert [Axis(1, 3, rounding=rounding).count(5) for rounding in ("FLOOR", "CEIL", "OVER")] == [2, 2, 3]
    assert [Axis(2, 2, rounding=rounding).count(5) for rounding in ("FLOOR", "CEIL", "OVER")] == [2, 3, 3]
