"""The arithmetic of absorption: against the operators themselves, layout by layout."""

from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bnfold.planner.affine import (
    NOTHING,
    Absorbed,
    Affine,
    Layout,
    absorb_bias,
    absorb_weight,
    batch_norm_affine,
    collapse,
    identity,
    nearest,
)

RNG = np.random.default_rng(5)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape)


def dense(weight: Any, layout: Layout) -> Any:
    """The matrix (out, in) of a weight of one tap, its groups along the diagonal, element by element."""
    outs, ins = layout.channels(weight.shape)
    matrix = np.zeros((outs, ins))
    for out, in_ in product(range(outs), range(ins)):
        group = out // (outs // layout.groups)
        if group != in_ // (ins // layout.groups):
            continue
        local_out, local_in = out - group * (outs // layout.groups), in_ - group * (ins // layout.groups)
        index = {"conv": (out, local_in), "deconv": (in_, local_out), "rows": (out, in_), "columns": (in_, out)}[
            layout.kind
        ]
        matrix[out, in_] = weight[index].sum()
    return matrix


CASES = [
    (Layout("conv"), (4, 6, 1, 1)),
    (Layout("conv", 2), (4, 3, 1)),
    (Layout("conv", 6), (6, 1, 1, 1, 1)),
    (Layout("deconv"), (6, 4, 1, 1)),
    (Layout("deconv", 2), (6, 2, 1)),
    (Layout("rows"), (4, 6)),
    (Layout("columns"), (6, 4)),
]


@pytest.mark.parametrize(("layout", "shape"), CASES)
def test_weight_and_bias_absorb_what_stands_before_and_behind(layout: Layout, shape: tuple[int, ...]) -> None:
    weight, (outs, ins) = normal(*shape), layout.channels(shape)
    taken = Absorbed(normal(ins), normal(ins), normal(outs), normal(outs))
    bias, x, gain = normal(outs), normal(ins), 0.5
    before = gain * dense(weight, layout) @ (taken.pre_a * x + taken.pre_b) + bias
    after = gain * dense(absorb_weight(weight, layout, taken), layout) @ x
    after += absorb_bias(bias, weight, layout, gain, taken)
    np.testing.assert_allclose(after, taken.post_a * before + taken.post_b, rtol=1e-12)


@pytest.mark.parametrize(("layout", "shape"), CASES)
def test_one_number_stands_for_all_channels(layout: Layout, shape: tuple[int, ...]) -> None:
    weight, (outs, ins) = normal(*shape), layout.channels(shape)
    single = Absorbed(np.array([2.0]), np.array([3.0]), np.array([5.0]), np.array([7.0]))
    spread = Absorbed(
        *(
            np.full(n, p[0])
            for n, p in zip(
                (ins, ins, outs, outs), (single.pre_a, single.pre_b, single.post_a, single.post_b), strict=True
            )
        )
    )
    np.testing.assert_array_equal(absorb_weight(weight, layout, single), absorb_weight(weight, layout, spread))
    bias = normal(outs)
    np.testing.assert_allclose(
        absorb_bias(bias, weight, layout, 1.0, single), absorb_bias(bias, weight, layout, 1.0, spread), rtol=1e-14
    )


def test_a_shift_before_adds_up_all_taps() -> None:
    weight = normal(2, 3, 2, 2)
    taken = Absorbed(np.ones(1), normal(3), np.ones(1), np.zeros(1))
    expected = (weight.sum(axis=(2, 3)) * taken.pre_b).sum(axis=1)
    np.testing.assert_allclose(absorb_bias(np.zeros(2), weight, Layout("conv"), 1.0, taken), expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_weights_are_rounded_once_to_their_own_type(dtype: Any) -> None:
    weight = normal(3, 2, 1, 1).astype(dtype)
    taken = Absorbed(np.array([1 / 3, 3.0]), np.zeros(1), np.array([1 / 7, 7.0, 0.1]), np.zeros(1))
    exact = weight.astype(np.float64) * taken.post_a.reshape(3, 1, 1, 1) * taken.pre_a.reshape(1, 2, 1, 1)
    found = absorb_weight(weight, Layout("conv"), taken)
    assert found.dtype == weight.dtype
    np.testing.assert_array_equal(found, exact.astype(dtype))


def test_weights_that_nothing_touches_keep_their_bits() -> None:
    weight = np.array([[-0.0, 1e-45], [np.float32(3.4e38), 1.0]], np.float32)
    found = absorb_weight(weight, Layout("rows"), NOTHING)
    assert found.tobytes() == weight.tobytes()


def test_a_mapped_weight_is_not_written_to() -> None:
    weight = normal(2, 2).astype(np.float32)
    weight.flags.writeable = False
    absorb_weight(weight, Layout("columns"), Absorbed(np.ones(1), np.zeros(1), np.array([2.0]), np.zeros(1)))


def test_composition_is_in_the_order_of_reading() -> None:
    first, then, x = Affine(np.array([2.0]), np.array([3.0])), Affine(np.array([5.0]), np.array([7.0])), 11.0
    both = first.then(then)
    assert both.a * x + both.b == 5 * (2 * x + 3) + 7


def test_properties_tell_what_an_affine_does() -> None:
    nothing = identity(4)
    assert (nothing.rank, nothing.scales, nothing.shifts, nothing.acts, nothing.axes) == (
        4,
        False,
        False,
        False,
        frozenset(),
    )
    affine = Affine(np.ones((1, 3, 1)), np.zeros((1, 1, 2)))
    assert (affine.acts, affine.finite, affine.axes) == (False, True, {1, 2})
    assert not Affine(np.array([np.nan]), np.zeros(1)).finite
    assert Affine(np.array([np.nan]), np.zeros(1)).scales


def test_collapse_reduces_what_is_constant_along_an_axis() -> None:
    array = np.broadcast_to(np.arange(3.0).reshape(1, 3, 1), (2, 3, 4))
    assert collapse(array).shape == (1, 3, 1)
    assert collapse(np.zeros((2, 3))).shape == (1, 1)
    assert collapse(np.full(3, np.nan)).shape == (3,)
    assert collapse(np.zeros((0, 3))).shape == (0, 1)


def test_eps_is_added_to_the_variance_under_the_root() -> None:
    a, b = batch_norm_affine(np.array([3.0]), np.array([1.0]), np.array([5.0]), np.array([0.0]), 0.25)
    assert (a[0], b[0]) == (6.0, 1 - 6 * 5)


def half_way(above: float) -> tuple[Any, Any]:
    """Numbers half way between two neighbours of bfloat16, moved by `above` of the last place of float32's."""
    lower = RNG.integers(0, 0x7F7F, 4000).astype(np.uint16)
    one, two = (bits.view(ml_dtypes.bfloat16).astype(np.float64) for bits in (lower, lower + np.uint16(1)))
    middle = (one + two) / 2
    return lower, middle + above * (two - one) * 2.0**-17


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("above", [-0.1, 0.0, 0.1])
def test_bfloat16_is_rounded_once(above: float, sign: int) -> None:
    lower, numbers = half_way(above)
    up = above > 0 if above else lower % 2 == 1
    found = nearest(sign * numbers, np.dtype(ml_dtypes.bfloat16))
    assert np.array_equal(np.abs(found).view(np.uint16), lower + up)
    assert (np.signbit(found.astype(np.float32)) == (sign < 0)).all()


def test_what_bfloat16_holds_stays_and_what_is_too_large_becomes_infinite() -> None:
    dtype = np.dtype(ml_dtypes.bfloat16)
    held = np.arange(0x7F81, dtype=np.uint16).view(dtype)  # the last is an infinity
    assert np.array_equal(nearest(held.astype(np.float64), dtype).view(np.uint16), held.view(np.uint16))
    assert np.isposinf(nearest(np.array([1e300, 3.4e38, np.inf]), dtype).astype(np.float64)).all()
    assert np.isnan(nearest(np.array(np.nan), dtype).astype(np.float64))


def test_absorbed_bfloat16_weights_are_rounded_once() -> None:
    weight = np.array([[1.0]], ml_dtypes.bfloat16)
    taken = Absorbed(np.ones(1), np.zeros(1), np.array([1 + 2.0**-8 + 2.0**-40]), np.zeros(1))
    assert float(absorb_weight(weight, Layout("rows"), taken)[0, 0]) == 1 + 2.0**-7
