"""sin, cos and exp of the kernels against mpmath at 40 digits; one number at a time and a block at once."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from lagrad.assembly import elementary
from lagrad.kernel import kernel

Floats = NDArray[np.float64]

WIDTH = 128
SIN, COS, EXP = range(3)
EXACT = (mpmath.sin, mpmath.cos, mpmath.exp)
LIBM = (math.sin, math.cos, math.exp)


@kernel
def one_by_one(which, x, out):
    for i in range(x.size):
        if which == 0:
            out[i] = elementary.sine(x[i])
        elif which == 1:
            out[i] = elementary.cosine(x[i])
        else:
            out[i] = elementary.exponential(x[i])


@kernel
def at_once(which, reg, adj, width):
    if which == 0:
        elementary.block_sine(reg, 0, 1, width)
        elementary.block_sine_partial(reg, adj, 0, 1, width)
    elif which == 1:
        elementary.block_cosine(reg, 0, 1, width)
        elementary.block_cosine_partial(reg, adj, 0, 1, width)
    else:
        elementary.block_exponential(reg, 0, 1, width)


def values(which: int, x: Floats) -> Floats:
    out = np.empty_like(x)
    one_by_one(which, x, out)
    return out


def arguments(which: int) -> Floats:
    """Random arguments of every size, around whole multiples of π/2 or ln 2, and at the ends of the fast range."""
    rng = np.random.default_rng(7)
    step, end = (math.log(2.0), elementary.MODEST) if which == EXP else (math.pi / 2, elementary.NEAR)
    near = step * np.concatenate([np.arange(1, 200), rng.integers(200, int(end / step), 100)])
    near = np.concatenate([near, np.nextafter(near, 0.0), near * (1.0 + 1e-9), near + step / 2])
    sizes = 10.0 ** rng.uniform(-12.0, math.log10(end), 400)
    around = np.array([end, np.nextafter(end, 0.0), np.nextafter(end, np.inf), 1.01 * end])
    x = np.concatenate([near, sizes, around])
    return np.concatenate([x, -x])


@pytest.mark.parametrize("which", [SIN, COS, EXP], ids=["sin", "cos", "exp"])
def test_errors_stay_below_one_unit_in_the_last_place(which: int) -> None:
    x = arguments(which)
    with mpmath.workdps(40):
        exact = [EXACT[which](mpmath.mpf(float(a))) for a in x]
        for a, got, truth in zip(x, values(which, x), exact, strict=True):
            assert abs(mpmath.mpf(float(got)) - truth) < np.spacing(abs(float(truth))), a


@pytest.mark.parametrize("which", [SIN, COS, EXP], ids=["sin", "cos", "exp"])
def test_zeros_infinities_and_nan(which: int) -> None:
    x = np.array(
        [0.0, -0.0, 5e-324, -5e-324, 1e-310, 1e16, -1e22, 1e300, 710.0, -746.0, np.inf, -np.inf, np.nan]
    )
    for a, got in zip(x, values(which, x), strict=True):
        try:
            expected = LIBM[which](a)
        except (ValueError, OverflowError):  # Python's own way to say nan and inf
            expected = math.nan if which != EXP else math.inf
        assert got == expected or (math.isnan(got) and math.isnan(expected))
        assert math.copysign(1.0, got) == math.copysign(1.0, expected) or math.isnan(expected)


@pytest.mark.parametrize("outlier", [None, 3e7, math.inf, math.nan])
@pytest.mark.parametrize("which", [SIN, COS, EXP], ids=["sin", "cos", "exp"])
def test_a_block_and_one_number_give_the_same_bits(which: int, outlier: float | None) -> None:
    """Also where one argument of the block sends all of it the slow way."""
    x = np.random.default_rng(which).permutation(arguments(which))
    x = x[np.abs(x) < (elementary.MODEST if which == EXP else elementary.NEAR)]
    for lo in range(0, x.size, WIDTH):
        reg, adj = np.full((2, WIDTH), np.nan), np.zeros((2, WIDTH))
        width = min(WIDTH, x.size - lo)
        reg[0, :width] = x[lo : lo + width]
        if outlier is not None:
            reg[0, width // 2] = outlier
        adj[1, :width:2] = 1.0  # where the adjoint is 0, nothing is passed on
        at_once(which, reg, adj, width)
        np.testing.assert_array_equal(reg[1, :width], values(which, reg[0, :width].copy()))
        if which != EXP:
            slope = (
                values(COS, reg[0, :width].copy()) if which == SIN else -values(SIN, reg[0, :width].copy())
            )
            np.testing.assert_array_equal(adj[0, :width:2], slope[::2])
            assert not adj[0, 1:width:2].any()
