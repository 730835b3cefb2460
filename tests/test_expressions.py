"""Expressions follow NumPy's rules: the same lines on numbers and on expressions give the same numbers.

Every case is a function of arrays. It is called once with NumPy arrays and once with the parameters of a program;
the program's output must have the same shape and values, and its directional derivative must be that of the
numbers (central differences). Errors name what was asked and what to do.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.special
from numpy.typing import NDArray

import lagrad as lg
from lagrad.errors import DeclarationError, ExpressionError, ShapeError, UnknownNameError
from lagrad.expr.expression import Expression

Floats = NDArray[np.float64]
Case = tuple[str, Callable[..., Any], tuple[tuple[int, ...], ...]]


def numbers(shape: tuple[int, ...], seed: int) -> Floats:
    """Distinct numbers between 0.3 and 1.8, in no order, no two differences alike, none in another's array."""
    count = int(np.prod(shape))
    values = 0.3 + 0.0137 * seed + 1.4 * ((np.arange(count) + 0.5) / (count + 1)) ** 1.1
    return np.random.default_rng([seed, count]).permutation(values).reshape(shape)


def outputs(result: Any) -> list[Any]:
    """The arrays of a result: of one array, or of a list or tuple of them."""
    return list(result) if isinstance(result, (list, tuple)) else [result]


def check(function: Callable[..., Any], arrays: list[Floats], tolerance: float = 1e-14) -> None:
    """Values, shapes and one directional derivative of `function` of expressions against those of numbers."""
    program = lg.Program("case")
    parameters = [program.parameter(f"p{k}", a) for k, a in enumerate(arrays)]
    expected = outputs(function(*arrays))
    made = outputs(function(*parameters))
    assert len(made) == len(expected)
    for k, (got, number) in enumerate(zip(made, expected, strict=True)):
        assert np.shape(got) == np.shape(number)
        program.define(f"out{k}", got)
    solution = lg.build(program).solve()
    directions = [np.random.default_rng(k).normal(size=a.shape) for k, a in enumerate(arrays)]
    tangent = solution.jvp({f"p{k}": d for k, d in enumerate(directions)})
    h = 1e-6
    above, below = (
        outputs(function(*(a + s * d for a, d in zip(arrays, directions, strict=True)))) for s in (h, -h)
    )
    for k, number in enumerate(expected):
        value, slope = solution[f"out{k}"], tangent[f"out{k}"]
        assert np.shape(value) == np.shape(number)
        number = np.asarray(number, dtype=float)
        size = 1.0 + np.abs(number).max(initial=0.0)
        np.testing.assert_allclose(value, number, rtol=tolerance, atol=tolerance * size)
        difference = (np.asarray(above[k], dtype=float) - np.asarray(below[k], dtype=float)) / (2 * h)
        np.testing.assert_allclose(
            slope, difference, rtol=1e-7, atol=1e-8 * (size + np.abs(difference).max(initial=0.0))
        )


def cases(*given: Case) -> Any:
    return pytest.mark.parametrize(("function", "shapes"), [c[1:] for c in given], ids=[c[0] for c in given])


# -- arithmetic and broadcasting ------------------------------------------------------------------------------
A, B, C, S, V, E = (3, 4), (4,), (3, 1), (), (5,), (0, 3)
NUMBERS = np.array([0.7, -1.3, 2.1, 0.4])


@cases(
    ("add", lambda a, b: a + b, (A, B)),
    ("add scalars", lambda a, b: a + b, (S, S)),
    ("add column and row", lambda a, b: a + b, (C, B)),
    ("add numbers", lambda a: NUMBERS + a + 2.0 + 1, (A,)),
    ("subtract", lambda a, b: a - b - 0.5, (B, A)),
    ("subtract from numbers", lambda a: NUMBERS - a, (B,)),
    ("subtract from a number", lambda a: 2 - a, (S,)),
    ("multiply", lambda a, b: a * b * 3, (C, B)),
    ("multiply numbers", lambda a: NUMBERS * a, (A,)),
    ("multiply by zeros", lambda a: np.array([0.0, 1.0, 0.0, -2.0]) * a + 0 * a, (A,)),
    ("divide", lambda a, b: a / b / 2.0, (A, B)),
    ("divide numbers", lambda a: NUMBERS / a, (A,)),
    ("divide a number", lambda a: 1 / a, (S,)),
    ("floor divide", lambda a, b: a // (b * 0.3), (V, V)),
    ("floor divide numbers", lambda a: 2.0 // a, (V,)),
    ("floor divide where the quotient rounds up", lambda a: [(0.0 * a + 1.0) // 0.1, 1.0 // (0.0 * a + 0.1)], (V,)),
    ("floor divide by negatives", lambda a, b: [a // -b, -a // b, np.floor_divide(a, -0.4), a % -b, -a % b], (V, V)),
    ("mod", lambda a, b: a % (b * 0.3), (V, V)),
    ("divmod", lambda a: [*divmod(a, 0.3), *divmod(2.0, a), *np.divmod(a, 0.3)], (V,)),
    ("mod of numbers", lambda a: np.array([3.1, -2.2, 0.9, 1.7]) % a, (B,)),
    ("negate", lambda a: -a, (A,)),
    ("plus", lambda a: +a, (A,)),
    ("abs", lambda a: abs(a - 0.9), (V,)),
    ("square", lambda a: a**2, (A,)),
    ("cube", lambda a: a**3, (A,)),
    ("powers", lambda a: [a**-1, a**-2, a**0.5, a**1, a**0, a**2.5, a**-0.3], (V,)),
    ("negative bases", lambda a: [(a - 2) ** 3, (a - 2) ** -2, (a - 2) ** 2, (a - 2.0) ** 4.0], (V,)),
    ("array of exponents", lambda a: a ** np.array([2.0, 0.0, -1.0, 0.5]), (A,)),
    ("symbolic exponent", lambda a, b: a**b, (A, B)),
    ("number to a symbolic exponent", lambda a: 1.7**a, (A,)),
    ("numpy.power", lambda a, b: [np.power(a, 3), np.power(a, b), np.float_power(a, 0.5), np.power(2.0, a)], (B, B)),
    ("empty", lambda a, b: a * b + 1.0, (E, (3,))),
    ("0-d array of numbers", lambda a: np.array(2.0) * a + np.float64(0.5), (A,)),
    ("integers and booleans", lambda a: a + np.arange(4) + np.array([True, False, True, True]), (A,)),
    ("lists", lambda a: [a * [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0] / a], (A,)),
)  # fmt: skip
def test_arithmetic(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    check(function, [numbers(shape, k) for k, shape in enumerate(shapes)])


# -- indexing --------------------------------------------------------------------------------------------------
@cases(
    ("integer", lambda a: [a[0], a[-1], a[1, 2], a[(2, -1)]], (A,)),
    ("numpy integer", lambda a: a[np.int64(1), np.int32(2)], (A,)),
    ("slice", lambda a: [a[1:], a[:, ::2], a[::-1], a[:, 1:3], a[-2:, :-1]], (A,)),
    ("empty slice", lambda a: a[3:], (A,)),
    ("ellipsis and newaxis", lambda a: [a[..., 0], a[None], a[:, None, :], a[..., None], a[None, 1]], (A,)),
    ("integer array", lambda a: [a[[2, 0, 0]], a[:, [3, 1]], a[np.array([[0, 1], [2, 2]])]], (A,)),
    ("two integer arrays", lambda a: a[[0, 2, 1], [3, 3, 0]], (A,)),
    ("numpy.ix_", lambda a: a[np.ix_([0, 2], [1, 3])], (A,)),
    ("negative integers", lambda a: a[[-1, -3]], (A,)),
    ("boolean array", lambda a: a[np.array([True, False, True])], (A,)),
    ("boolean mask", lambda a: a[np.arange(12).reshape(3, 4) % 3 == 0], (A,)),
    ("no element", lambda a: a[np.zeros(3, dtype=bool)], (A,)),
    ("mixed", lambda a: a[1:, [0, 2]], (A,)),
    ("whole scalar", lambda a: [a[()], a[...], a[None]], (S,)),
    ("iteration", lambda a: list(a), (A,)),
    ("unpacking", lambda a: (lambda x, y, z: x * y - z)(*a), (C,)),
    ("reversed", lambda a: list(reversed(a)), (A,)),
    ("flat", lambda a: sum(x * k for k, x in enumerate(a.flat)), (A,)),
)  # fmt: skip
def test_indexing(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    check(function, [numbers(shape, k) for k, shape in enumerate(shapes)])


def test_assignment_into_a_copy() -> None:
    def function(a: Any, b: Any) -> Any:
        c = a.copy()
        c[1:, 0] = b * c[0, 1]
        c[0] = 2.0
        c[c.shape[0] - 1, [1, 2]] = [0.5, b]
        d = np.zeros(4) + a[0]
        d[2] = a[0, 0]
        return [c, a, d]

    check(function, [numbers(A, 0), numbers(S, 1)])


# -- shapes -----------------------------------------------------------------------------------------------------
@cases(
    ("reshape", lambda a: [a.reshape(4, 3), a.reshape((2, 6)), a.reshape(-1), np.reshape(a, (6, -1))], (A,)),
    ("ravel", lambda a: [a.ravel(), a.flatten(), np.ravel(a)], (A,)),
    ("column by column", lambda a: [a.reshape(4, 3, order="F"), a.ravel("F"), a.flatten(order="F")], (A,)),
    ("matrices transposed", lambda a: a.mT, ((2, 3, 4),)),
    ("reshape a scalar", lambda a: [np.reshape(a, (1, 1)), np.ravel(a)], (S,)),
    ("transpose", lambda a: [a.T, a.transpose(), np.transpose(a), np.matrix_transpose(a)], (A,)),
    ("transpose axes", lambda a: [a.transpose(2, 0, 1), np.transpose(a, (1, 2, 0)), a.T], ((2, 3, 4),)),
    ("moving axes", lambda a: [np.swapaxes(a, 0, 2), np.moveaxis(a, 0, -1), np.rollaxis(a, 2)], ((2, 3, 4),)),
    ("squeeze", lambda a: [a.squeeze(), np.squeeze(a, 1), a.squeeze(axis=1)], (C,)),
    ("expand", lambda a: [np.expand_dims(a, 0), np.atleast_1d(a), np.atleast_2d(a), np.atleast_3d(a)], (B,)),
    ("at least, of a scalar", lambda a: [np.atleast_1d(a), np.atleast_2d(a)], (S,)),
    ("broadcast", lambda a: np.broadcast_to(a, (2, 3, 4)), (B,)),
    ("broadcast arrays", lambda a, b: list(np.broadcast_arrays(a, b, 2.0)), (C, B)),
    ("flip", lambda a: [np.flip(a), np.flip(a, 1), np.fliplr(a), np.flipud(a), np.rot90(a)], (A,)),
    ("roll", lambda a: [np.roll(a, 1), np.roll(a, -2, axis=1), np.roll(a, (1, 2), axis=(0, 1))], (A,)),
    ("repeat", lambda a: [np.repeat(a, 2), np.repeat(a, [1, 0, 2], axis=0), np.tile(a, (2, 2))], (A,)),
    ("take", lambda a: [np.take(a, [5, 0]), np.take(a, [1, 1], axis=0), np.delete(a, 1, axis=1)], (A,)),
    ("take along", lambda a: np.take_along_axis(a, np.array([[0], [3], [1]]), axis=1), (A,)),
    ("compress", lambda a: np.compress([True, False, True], a, axis=0), (A,)),
    ("resize", lambda a: np.resize(a, (5, 3)), (A,)),
    ("diagonal", lambda a: [np.diagonal(a), np.diagonal(a, 1), np.diag(a), np.diag(a, -1)], (A,)),
    ("diag of a vector", lambda a: [np.diag(a), np.diag(a, 1), np.diag(a, -2)], (B,)),
    ("triangles", lambda a: [np.tril(a), np.triu(a), np.tril(a, 1), np.triu(a, -1)], (A,)),
    ("split", lambda a: [*np.split(a, 2, axis=1), *np.array_split(a, 2), *np.split(a, [1], axis=0)], (A,)),
    ("other splits", lambda a: [*np.hsplit(a, 2), *np.vsplit(a, 2), *np.dsplit(a, 2)], ((2, 4, 2),)),
    ("stack", lambda a, b: [np.stack([a, b]), np.stack((a, b), axis=1), np.stack([a, 0 * NUMBERS], -1)], (B, B)),
    ("stack scalars", lambda a, b: [np.stack([a, b, 1.0]), lg.stack([a, b])], (S, S)),
    ("concatenate", lambda a, b: [np.concatenate([a, b[None]]), np.concatenate([a, a], axis=1)], (A, B)),
    ("concatenate flat", lambda a, b: [np.concatenate([a, b], axis=None), np.append(b, [1.0, 2.0])], (A, B)),
    ("append", lambda a, b: [np.append(a, b), np.append(a, a, axis=0), np.append(b, 3.0)], (A, B)),
    ("concatenate numbers", lambda a: [np.concatenate([[0.0], a[:-1]]), lg.concatenate([a, [1, 2]])], (B,)),
    ("joining", lambda a, b: [np.hstack([a, b]), np.vstack([a, b]), np.dstack([a, b])], (B, B)),
    ("columns", lambda a, b: [np.column_stack([a, b]), np.column_stack([a, NUMBERS])], (B, B)),
    ("block", lambda a, b: np.block([[a, b], [b.T[:1] * 0.5, a[:1]]]), ((2, 2), (2, 2))),
    ("pad", lambda a: [np.pad(a, 1), np.pad(a, ((0, 1), (2, 0)), constant_values=3.0)], (A,)),
    ("pad by copies", lambda a: [np.pad(a, 1, mode=m) for m in ("edge", "wrap", "reflect", "symmetric")], (A,)),
    ("like", lambda a: [np.zeros_like(a) + a, np.ones_like(a) * a, np.full_like(a, 2.0) * a], (A,)),
    ("copy", lambda a: [np.copy(a), a.copy(), np.real(a), np.nan_to_num(a), a.astype(float)], (A,)),
    ("list of rows", lambda a, b: np.stack([[a, b], [b, a]]), (S, S)),
    ("like, of another shape", lambda a: [np.zeros_like(a, shape=(2,)), np.full_like(a, a[0, 0], shape=3)], (A,)),
    ("meshgrid", lambda a, b: [*np.meshgrid(a, b), *np.meshgrid(a, b, indexing="ij")], (B, V)),
    ("sparse meshgrid", lambda a, b: np.meshgrid(a, b, sparse=True), (B, V)),
    ("linspace", lambda a, b: [np.linspace(a, b, 5), np.linspace(a, 2.0, 4, endpoint=False)], (S, S)),
    ("one point", lambda a, b: np.linspace(a, b, 1), (S, S)),
    ("linspace of arrays", lambda a, b: np.linspace(a, b, 3), (B, B)),
    ("arrays of expressions", lambda a, b: [np.array([a, b, 2.0]) * 3.0, np.sin(np.array([a, b]))], (S, S)),
    ("methods", lambda a: [a.swapaxes(0, 1), a.repeat(2), a.take([1, 5]), a.diagonal(), a.trace()], (A,)),
)  # fmt: skip
def test_shapes(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    check(function, [numbers(shape, k) for k, shape in enumerate(shapes)])


@cases(
    ("inserted", lambda a, b, c: [np.insert(b, 1, a), np.insert(b, 1, 2.0), np.insert(c, [0, 2], b[0], axis=1)],
        (S, B, A)),
    ("extracted", lambda a: [np.extract(NUMBERS > 0.0, a), a[NUMBERS > 0.0]], (B,)),
    ("diagonal matrix of all elements", lambda a: [np.diagflat(a), np.diagflat(a, 1)], ((2, 2),)),
    ("empty like", lambda a: np.empty_like(a, shape=2) * 0.0 + a[:2], (B,)),
    ("copied into", lambda a, b: filled(np.copyto, a, b, where=NUMBERS > 0.0), (A, B)),
    ("unstacked", lambda a: list(np.unstack(a, axis=1)), (A,)),
    ("at least, of several", lambda a, b: [*np.atleast_1d(a, b), *np.atleast_2d(b, 1.0)], (S, B)),
    ("joined as doubles", lambda a: np.concatenate([a, a], dtype=np.float64), (B,)),
    ("elements in order", lambda a: [a.flat[3], a.T.flat[3], *a.flat, *a[0].tolist(), a.item(1), a[0, 0].item()], (A,)),
    ("real parts", lambda a: [a.real, a.imag, np.imag(a), a.conj(), np.conj(a), a.conjugate()], (B,)),
    ("conversions", lambda a:
        [(3.0 * a - 2.0).astype(int) * a, (a > 1.0).astype(bool) * a, a.astype("f8", copy=False)], (V,)),
    ("Vandermonde", lambda a: [np.vander(a), np.vander(a, 3, increasing=True)], (B,)),
    ("powers of a base", lambda a, b: [np.logspace(a, b, 4), np.logspace(0.0, a, 3, base=2.0)], (S, S)),
)  # fmt: skip
def test_more_shapes(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    check(function, [numbers(shape, k) for k, shape in enumerate(shapes)])


def filled(function: Callable[..., Any], array: Any, *args: Any, **options: Any) -> Any:
    """A copy of the array after function(copy, …) has changed it."""
    array = array.copy()
    function(array, *args, **options)
    return array


TWICE = np.array([0, 2, 2, 1])


@cases(
    ("add", lambda a, b: filled(np.add.at, a, TWICE, b), (V, B)),
    ("add one number", lambda a: filled(np.add.at, a, [1, 1, 1], 0.5), (V,)),
    ("add rows", lambda a, b: filled(np.add.at, a, ([0, 2, 0], slice(None)), b), (A, A)),
    ("add at pairs", lambda a, b: filled(np.add.at, a, ([0, 2, 0, 0], [1, 1, 1, 3]), b), (A, B)),
    ("subtract", lambda a, b: filled(np.subtract.at, a, TWICE, b), (V, B)),
    ("multiply", lambda a, b: filled(np.multiply.at, a, TWICE, b), (V, B)),
    ("divide", lambda a, b: filled(np.divide.at, a, TWICE, b), (V, B)),
    ("maximum", lambda a, b: filled(np.maximum.at, a, TWICE, b), (V, B)),
    ("assigned once", lambda a, b: filled(lambda c: c.__setitem__(TWICE, c[TWICE] + b), a), (V, B)),
    ("filled", lambda a: filled(lambda c: c.fill(2.0), a) * a, (B,)),
    ("through flat", lambda a: filled(lambda c: c.flat.__setitem__(5, 2.0), a), (A,)),
    ("binned", lambda a: [np.bincount(TWICE, a), np.bincount(TWICE, a, minlength=7)], (B,)),
)  # fmt: skip
def test_in_place_at_indices(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    check(function, [numbers(shape, k) for k, shape in enumerate(shapes)])


def test_what_was_made_of_an_expression_is_no_view_of_it() -> None:
    """np.asarray gives an array of objects: assigning into it would leave the expression as it was."""
    a = lg.Program().parameter("a", [1.0, 2.0]).copy()
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(a)[0] = 1.0
    with pytest.raises(ExpressionError, match="Copy it first"):
        np.broadcast_to(a, (2, 2)).flat[0] = 1.0
    np.array(a)[0] = 1.0
    other = np.nan_to_num(a)
    other[0] = 5.0
    assert int(a[0].ids) != int(other[0].ids)


def test_a_filled_diagonal() -> None:
    def function(a: Any, b: Any) -> Any:
        c = a.copy()
        np.fill_diagonal(c, b)
        return c

    check(function, [numbers(A, 0), numbers(S, 1)])
    check(function, [numbers(A, 0), numbers((3,), 1)])


def test_facts_about_shape() -> None:
    a = lg.Program().state("a", shape=(3, 4))
    assert (np.shape(a), np.ndim(a), np.size(a), np.size(a, 1), len(a)) == ((3, 4), 2, 12, 4, 3)
    assert (a.shape, a.ndim, a.size, a.dtype) == ((3, 4), 2, 12, np.dtype(float))
    assert not np.iscomplexobj(a) and np.isrealobj(a)
    scalar = a[0, 0]
    assert (scalar.shape, scalar.ndim, scalar.size) == ((), 0, 1)


# -- reductions ---------------------------------------------------------------------------------------------------
T = (2, 3, 4)


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (-1, 0), ()], ids=str)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "prod", "max", "min", "var", "std"])
def test_reductions(name: str, keepdims: bool, axis: Any) -> None:
    if name in ("var", "std") and axis == ():
        return  # of single elements: 0/0 in the derivative of std
    array = numbers(T, 0)
    check(lambda a: getattr(np, name)(a, axis=axis, keepdims=keepdims), [array], 1e-13)
    if name in ("var", "std"):
        check(lambda a: getattr(np, name)(a, axis=axis, ddof=1, keepdims=keepdims), [array], 1e-13)
        return
    check(lambda a: getattr(a, name)(axis=axis, keepdims=keepdims), [array], 1e-13)
    check(lambda a: getattr(lg, name)(a, axis=axis, keepdims=keepdims), [array], 1e-13)


@cases(
    ("norms", lambda a: [np.linalg.norm(a), np.linalg.norm(a, axis=1), np.linalg.norm(a, "fro")], (A,)),
    ("norms of vectors", lambda a: [np.linalg.norm(a - 1.0, k) for k in (None, 1, 2, np.inf)], (V,)),
    ("norms along an axis", lambda a: [np.linalg.norm(a - 1.0, k, axis=0) for k in (1, 2, np.inf)], (A,)),
    ("norm keeps axes", lambda a: np.linalg.norm(a, axis=1, keepdims=True), (A,)),
    ("lg.norm", lambda a: [lg.norm(a), lg.norm(a, axis=0)], (A,)),
    ("cumulative", lambda a: [np.cumsum(a), np.cumsum(a, axis=1), np.cumprod(a, axis=0), np.cumprod(a)], (A,)),
    ("differences", lambda a: [np.diff(a), np.diff(a, axis=0), np.diff(a, n=2)], (A,)),
    ("trace", lambda a: [np.trace(a), np.trace(a, 1)], (A,)),
    ("of lists", lambda a, b: [f([a, b]) for f in (lg.sum, lg.max, lg.mean, lg.prod, lg.min)], (S, S)),
    ("Python's sum", lambda a: sum(a), (A,)),
    ("spread by the array standard", lambda a: [np.var(a, correction=1), np.std(a, axis=0, correction=1)], (A,)),
    ("methods", lambda a: [a.var(), a.std(axis=1), a.cumsum(axis=0), a.cumprod()], (A,)),
    ("average", lambda a, b: [np.average(a), np.average(a, axis=1, weights=b)], (A, B)),
    ("average by numbers", lambda a: np.average(a, 0, weights=[1, 2, 3]), (A,)),
    ("average of weights of the whole shape", lambda a, b: np.average(a, weights=b), (A, A)),
    ("range", lambda a: [np.ptp(a), np.ptp(a, axis=0)], (A,)),
    ("trapezoid", lambda a, b: [np.trapezoid(a), np.trapezoid(a, b), np.trapezoid(a, dx=0.3, axis=0)], (A, B)),
    ("trapezoid of numbers", lambda b: np.trapezoid(np.array([0.1, 0.7, 2.0, 0.3]), b), (B,)),
    ("polynomial", lambda a, b: [np.polyval(b, a), np.polyval([1.0, -2.0, 0.5], a), np.polyval(b, 1.3)], (S, B)),
    ("convolution", lambda a, b: [np.convolve(a, b, m) for m in ("full", "same", "valid")], (B, (2,))),
    ("convolution of numbers", lambda a: [np.convolve(a, [1.0, 0.5, -1.0], m) for m in ("full", "same")], (V,)),
    ("ufunc reductions", lambda a: [np.add.reduce(a), np.multiply.reduce(a, axis=1), np.maximum.reduce(a)], (A,)),
    ("more of them", lambda a: [np.minimum.reduce(a, axis=None), np.add.accumulate(a, axis=1)], (A,)),
    ("cumulative by the array standard", lambda a:
        [np.cumulative_sum(a), np.cumulative_prod(a, include_initial=True)], (V,)),
    ("cumulative along an axis", lambda a: np.cumulative_sum(a, axis=0, include_initial=True), (A,)),
    ("differences of more", lambda a, b: [np.diff(a, prepend=0.0), np.diff(a, append=b, axis=0)], (A, (1, 4))),
    ("gradients", lambda a: [*np.gradient(a), np.gradient(a[0], 0.1), np.gradient(a, axis=1, edge_order=2)], (A,)),
    ("gradients on a grid", lambda a: np.gradient(a, np.cumsum(np.abs(NUMBERS)), axis=1), (A,)),
    ("limits", lambda a: [np.amax(a), np.amin(a, axis=1)], (A,)),
    ("any and all", lambda a: [np.any(a > 1.0) * a, np.all(a > 0.1, axis=0) * a, (a > 1.0).any(1), (a > 1.0).all()],
        (A,)),
    ("counts", lambda a: [np.count_nonzero(a > 1.0) * a, np.count_nonzero(a > 1.0, axis=0) + a], (A,)),
    ("as doubles", lambda a: [np.sum(a, dtype=float), a.mean(dtype=np.float64), np.prod(a, dtype="f8")], (V,)),
    ("more norms", lambda a: [np.linalg.norm(a - 1.0, k) for k in (3, 0.5, -np.inf, -2)], (V,)),
    ("norms of matrices", lambda a: [np.linalg.norm(a - 1.0, k) for k in (1, -1, np.inf, -np.inf, "fro")], (A,)),
    ("norms of batches", lambda a: [np.linalg.norm(a, k, axis=(2, 0), keepdims=True) for k in (1, np.inf)], (T,)),
    ("vector norms", lambda a:
        [np.linalg.vector_norm(a), np.linalg.vector_norm(a, ord=1, axis=0), np.linalg.vector_norm(a, ord=0)], (A,)),
    ("matrix norms", lambda a: [np.linalg.matrix_norm(a), np.linalg.matrix_norm(a, ord=1)], (T,)),
    ("logaddexp", lambda a: [np.logaddexp.reduce(a), np.logaddexp.reduce(a, axis=None), np.logaddexp.accumulate(a)],
        (A,)),
    ("hypot", lambda a: np.hypot.reduce(a, axis=1), (A,)),
    ("running maximum", lambda a: [np.maximum.accumulate(a, axis=1), np.multiply.accumulate(a)], (A,)),
    ("logic", lambda a: [np.logical_or.reduce(a > 1.0) * a, np.logical_and.reduce(a > 0.1, axis=None) * a], (A,)),
    ("of a scalar", lambda a: [np.sum(a), np.prod(a), a.mean(), np.max(a)], (S,)),
    ("of nothing", lambda a: [np.sum(a), np.sum(a, axis=0), np.prod(a, axis=0), np.sum(a, axis=1)], (E,)),
    ("one element", lambda a: [np.sum(a, axis=1), np.mean(a, axis=1), np.min(a, axis=1)], (C,)),
    ("long", lambda a: [np.sum(a), np.prod(a), np.mean(a), np.max(a)], ((1000,),)),
)  # fmt: skip
def test_more_reductions(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    check(function, [numbers(shape, k) for k, shape in enumerate(shapes)], 1e-13)


# -- products --------------------------------------------------------------------------------------------------------
DENSE = np.array([[0.7, 0.0, -1.2], [0.3, 2.0, 0.0]])
SPARSE = sp.csr_array(np.array([[0.0, 1.5, 0.0, -0.4], [2.0, 0.0, 0.0, 0.3], [0.0, 0.0, 0.0, 0.0]]))


@cases(
    ("dense matrix and vector", lambda y: DENSE @ y, ((3,),)),
    ("dense matrix and matrix", lambda y: DENSE @ y, ((3, 4),)),
    ("vector and dense matrix", lambda y: y @ DENSE, ((2,),)),
    ("matrix and dense matrix", lambda y: y @ DENSE, ((4, 2),)),
    ("numbers and vector", lambda y: [np.array([1.0, -2.0, 0.5]) @ y, y @ np.array([1.0, -2.0, 0.5])], ((3,),)),
    ("vectors", lambda x, y: x @ y, (V, V)),
    ("matrix and vector", lambda x, y: x @ y, (A, B)),
    ("vector and matrix", lambda x, y: x @ y, ((3,), A)),
    ("matrices", lambda x, y: x @ y, (A, (4, 2))),
    ("batches", lambda x, y: x @ y, ((2, 3, 4), (2, 4, 5))),
    ("batches broadcast", lambda x, y: x @ y, ((2, 1, 3, 4), (3, 4, 2))),
    ("batch and vector", lambda x, y: x @ y, ((2, 3, 4), B)),
    ("vector and batch", lambda x, y: x @ y, ((3,), (2, 3, 4))),
    ("batch of numbers", lambda y: np.stack([DENSE, 2 * DENSE - 1]) @ y, ((3, 2),)),
    ("batch and matrix of numbers", lambda y: y @ DENSE, ((5, 4, 2),)),
    ("no inner element", lambda x, y: x @ y, ((2, 0), (0, 3))),
    ("numpy.matmul", lambda x, y: [np.matmul(x, y), np.matmul(DENSE, x[:3, :2])], (A, (4, 2))),
    ("dot", lambda x, y: [np.dot(x, y), x.dot(y), lg.dot(x, y)], (A, (4, 2))),
    ("dot over many axes", lambda x, y: [np.dot(x, y), x.dot(y), lg.dot(x, y[0]), np.dot(y[0, :, 0], y)], (
        (2, 3, 4), (2, 4, 2))),
    ("no column", lambda y: DENSE @ y, ((3, 0),)),
    ("dot with scalars", lambda x, y: [np.dot(x, y), np.dot(2.0, y), lg.dot(y, x), lg.dot(3.0, x)], (S, B)),
    ("dot of numbers", lambda x: [np.dot(DENSE, x), lg.dot(DENSE, x), np.dot(x.T, DENSE.T)], ((3, 2),)),
    ("vdot", lambda x, y: np.vdot(x, y), (A, A)),
    ("inner", lambda x, y: [np.inner(x, y), np.inner(x[0], y[0]), np.inner(x, 2.0)], (A, (2, 4))),
    ("outer", lambda x, y: [np.outer(x, y), np.outer(x, NUMBERS), np.outer(NUMBERS, x)], (V, B)),
    ("tensordot", lambda x, y: [np.tensordot(x, y, 1), np.tensordot(x, y, ([1, 0], [0, 1]))], ((3, 4), (4, 3))),
    ("tensordot without axes", lambda x, y: np.tensordot(x, y, 0), (B, (2,))),
    ("einsum", lambda x, y: [np.einsum("ij,jk->ik", x, y), np.einsum("ij,jk", x, y)], (A, (4, 2))),
    ("einsum of one", lambda x: [np.einsum("ii", x), np.einsum("ii->i", x), np.einsum("ij->ji", x)], ((3, 3),)),
    ("einsum of three", lambda x, y, z: np.einsum("i,ij,j->", x, y, z), ((3,), A, B)),
    ("einsum of numbers", lambda y: [np.einsum("ij,j->i", DENSE, y), np.einsum("i,j->ij", y, NUMBERS)], ((3,),)),
    ("kron", lambda x, y: [np.kron(x, y), np.kron(DENSE, y), np.kron(y, DENSE)], ((2, 2), (1, 3))),
    ("cross", lambda x, y: [np.cross(x, y), np.cross(x, np.array([1.0, 2.0, -1.0]))], ((2, 3), (3,))),
    ("vecdot", lambda x, y: [np.vecdot(x, y), np.linalg.vecdot(x, y)], (A, B)),
    ("vecdot along an axis", lambda x: [np.vecdot(x, x, axis=0), np.linalg.vecdot(x, x, axis=0)], (A,)),
    ("matvec", lambda x, y: [np.matvec(x, y), np.vecmat(y, x.T)], (A, B)),
    ("linalg", lambda x, y: [np.linalg.matmul(x, y), np.linalg.multi_dot([x, y, x, y]), np.linalg.outer(x[0], y[0]),
                             np.linalg.tensordot(x, y, axes=1)], (A, (4, 3))),
    ("linalg of one", lambda x: [np.linalg.trace(x), np.linalg.diagonal(x), np.linalg.matrix_transpose(x)], (T,)),
    ("powers of a matrix", lambda x: [np.linalg.matrix_power(x, k) for k in (0, 1, 2, 5)], ((2, 3, 3),)),
    ("linalg.cross", lambda x, y: np.linalg.cross(x, y), ((3,), (3,))),
    ("outer of ufuncs", lambda x, y: [np.add.outer(x, y), np.multiply.outer(x, NUMBERS), np.hypot.outer(NUMBERS, y)],
        (A, B)),
    ("correlate", lambda x, y: [np.correlate(x, y, m) for m in ("valid", "same", "full")], (V, (2,))),
    ("einsum of the other axes", lambda x, y: [np.einsum("...j,j->...", x, y), np.einsum("...j,j", x, y),
                                               np.einsum("i...,...->...i", x, y)], (T, B)),
)  # fmt: skip
def test_products(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    check(function, [numbers(shape, k) for k, shape in enumerate(shapes)], 1e-13)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dia"])
@pytest.mark.parametrize("matrix_class", ["array", "matrix"])
def test_products_with_sparse_matrices(kind: str, matrix_class: str) -> None:
    """SciPy's own product of numbers is the truth; explicit zeros and double entries are what they are there."""
    make = getattr(sp, f"{kind}_{matrix_class}")
    matrix, dense = make(SPARSE), SPARSE.toarray()
    for function, shape in (
        (lambda y, m=matrix: m @ y, (4,)),
        (lambda y, m=matrix: m @ y, (4, 2)),
        (lambda y, m=matrix: y @ m, (3,)),
        (lambda y, m=matrix: y @ m, (2, 3)),
    ):
        check(function, [numbers(shape, 0)])
    if matrix_class == "matrix":  # whose * is @, unlike that of arrays
        check(lambda y: [matrix * y[:4], y[1:] * matrix], [numbers((4,), 0)])
        check(lambda y: y * matrix, [numbers((2, 3), 0)])
    else:
        program = lg.Program()
        y = program.parameter("y", numbers((4,), 0))
        program.define("z", matrix * y)
        assert np.array_equal(lg.build(program).solve()["z"], dense * numbers((4,), 0))
    program = lg.Program()
    y = program.state("y", shape=4)
    program.constrain(make(np.diag([2.0, 3.0, 4.0, 5.0])) @ y == dense.T @ np.ones(3), name="rows")
    system = lg.build(program)
    assert system.layout.machine.nnz_u == 4  # a zero makes no dependency
    np.testing.assert_allclose(system.solve()["y"], dense.sum(axis=0) / [2.0, 3.0, 4.0, 5.0], rtol=1e-15)


def test_zeros_make_no_dependency() -> None:
    """Of a matrix, of a product by zeros and of an einsum: the structure sees the nonzeros only."""
    lower = np.tril(np.arange(1.0, 10.0).reshape(3, 3))
    for product in (
        lambda m, y: m @ y,
        lambda m, y: sp.csr_array(m) @ y,
        lambda m, y: y @ m.T,
        lambda m, y: np.dot(m, y),
        lambda m, y: np.sum(m * y, axis=1),
        lambda m, y: np.einsum("ij,j->i", m, y),
    ):
        program = lg.Program()
        y = program.state("y", shape=3)
        program.constrain(product(lower, y) == np.array([1.0, 2.0, 3.0]), name="rows")
        system = lg.build(program)
        assert system.structure == "3 states, 3 implicit"
        np.testing.assert_allclose(system.solve()["y"], np.linalg.solve(lower, [1.0, 2.0, 3.0]), rtol=1e-14)


# -- element by element -------------------------------------------------------------------------------------------
UFUNCS = (
    "absolute", "fabs", "sign", "sqrt", "cbrt", "square", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log10",
    "log1p", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh",
    "floor", "ceil", "rint", "trunc", "negative", "positive", "deg2rad", "radians", "rad2deg", "degrees", "sinc",
    "logical_not",
)  # fmt: skip


@pytest.mark.parametrize("name", UFUNCS)
def test_functions_of_one_argument(name: str) -> None:
    """By numpy's name and, where there is one, by lagrad's; scalars and arrays, numbers too."""
    array = numbers(A, 0)
    if name in ("arcsin", "arccos", "arctanh"):
        array = 0.5 * array
    if name == "arccosh":
        array = 1.0 + array
    function = getattr(np, name)
    check(function, [array])
    check(function, [array[0, 0].reshape(())])
    own = getattr(lg, {"absolute": "abs"}.get(name, name), None)
    if own is not None:
        check(own, [array])
        np.testing.assert_allclose(own(array), function(array), rtol=1e-15)


@pytest.mark.parametrize(
    "name", ["erf", "erfc", "gammaln", "digamma", "psi", "expit", "expm1", "log1p", "cbrt", "exp2"]
)
def test_special_functions(name: str) -> None:
    array = numbers(A, 0)
    check(getattr(scipy.special, name), [array], 1e-13)
    own = getattr(lg, name, None)
    if own is not None:
        check(own, [array], 1e-13)
        np.testing.assert_allclose(own(array), getattr(scipy.special, name)(array), rtol=1e-13)


@pytest.mark.parametrize(
    "name", ["arctan2", "hypot", "logaddexp", "maximum", "minimum", "fmod", "remainder", "mod", "heaviside"]
)
def test_functions_of_two_arguments(name: str) -> None:
    a, b = numbers(A, 0), numbers(B, 1) - 1.0
    function = getattr(np, name, None)
    check(function, [a, b])
    check(lambda x: function(x, 0.77), [a])
    check(lambda x: function(NUMBERS, x), [b])
    own = getattr(lg, name, None)
    if own is not None:
        check(own, [a, b])
        np.testing.assert_allclose(own(a, b), function(a, b), rtol=1e-15)


@cases(
    ("where", lambda a, b: np.where(a > 1.0, a * b, np.sin(b)), (A, B)),
    ("where of numbers", lambda a, b: np.where(NUMBERS > 0.0, a, b), (A, B)),
    ("where with numbers", lambda a: [np.where(a > 1.0, 2.0, a), np.where(a < NUMBERS, a, NUMBERS)], (A,)),
    ("lg.where", lambda a, b: lg.where(a > b, a, b), (A, B)),
    ("comparisons", lambda a, b: [np.where(c, a, b) for c in (a < b, a <= b, a > b, a >= b, a != b)], (A, B)),
    ("comparisons with numbers", lambda a: [np.where(c, a, -a) for c in (a < 1, operator.lt(1, a))], (A,)),
    ("comparisons with arrays", lambda a: [np.where(c, a, -a) for c in (a <= NUMBERS, a > NUMBERS)], (A,)),
    ("numpy's comparisons", lambda a, b: [np.where(f(a, b), a, b) for f in (np.less, np.greater)], (A, B)),
    ("more of them", lambda a, b: [np.where(f(a, b), a, b) for f in (np.greater_equal, np.less_equal)], (A, B)),
    ("inequality", lambda a, b: [np.where(np.not_equal(a, b), a, b), np.where(np.equal(a, a), a, 0.0)], (A, B)),
    ("select", lambda a, b: np.select([a > 1.4, a > 0.8], [a * b, b], default=a), (A, B)),
    ("logic with numbers", lambda a: np.where((NUMBERS > 0) & (a > 1), a, 0.0), (A,)),
    ("logic with numbers behind", lambda a: np.where((a > 1) | (NUMBERS > 0), a, 0.0), (A,)),
    ("logic of numbers first", lambda a: np.where(np.invert(NUMBERS > 0) | (a > 1), a, 0.0), (A,)),
    ("numpy's invert", lambda a: np.where(np.invert(a > 1), a, 0.0), (A,)),
    ("logic", lambda a, b: [np.where((a > 1) & (b > 1), a, b), np.where((a > 1) | ~(b > 1), a, b)], (A, B)),
    ("numpy's logic", lambda a, b: [np.where(f(a > 1, b > 1), a, b) for f in (np.logical_and, np.logical_or)], (A, B)),
    ("clip", lambda a: [np.clip(a, 0.5, 1.2), a.clip(0.5, 1.2), lg.clip(a, 0.5, 1.2), np.clip(a, None, 1.1)], (A,)),
    ("clip by arrays", lambda a, b: [np.clip(a, 0.5 * b, b), a.clip(b)], (A, B)),
    ("interp", lambda a: np.interp(a, [0.0, 0.7, 1.1, 3.0], [1.0, -1.0, 2.0, 0.5]), (V,)),
    ("interp with ends", lambda a: np.interp(3.0 * a - 2.0, [0.0, 0.7], [1.0, -1.0], left=5.0, right=-2.0), (V,)),
    ("interp between expressions", lambda a: np.interp(0.3, [0.0, 0.7, 1.1], a[:3]), (V,)),
    ("interp at numbers", lambda a: np.interp([-1.0, 0.0, 0.3, 0.7, 1.0, 2.0],
        [0.0, 0.7, 1.1], a[:3], left=a[3]), (V,)),
    ("interp between both", lambda a, b: np.interp(3.0 * a - 2.0, [0.0, 0.7, 1.1], b[:3], right=b[3]), (V, V)),
    ("interp of one node", lambda a: np.interp(a, [1.0], [3.0], left=2.0), (V,)),
    ("xor", lambda a, b:
        [np.where(np.logical_xor(a > 1, b > 1), a, b), ((a > 1) ^ (b > 1)) * a, ((a > 1) ^ True) * a], (A, B)),
    ("rounding", lambda a:
        [np.round(10 * a) * a, np.around(a, 1) * a, (10 * a).round(-1) * a, np.fix(5 * a - 6) * a], (V,)),
    ("clip by name", lambda a: [a.clip(min=0.9), a.clip(max=0.9), np.clip(a, min=0.5, max=0.9)], (V,)),
    ("remainders of negatives", lambda a, b: [np.fmod(-a, b), np.fmod(-a, -b), np.fmod(a, -0.4)], (V, V)),
    ("fmin and fmax", lambda a: [np.fmin(a, 0.9), np.fmax(0.9, a)], (V,)),
    ("interp outside", lambda a: np.interp(3.0 * a - 2.0, [0.0, 0.7, 1.1], [1.0, -1.0, 2.0]), (V,)),
    ("sinc near zero", lambda a: np.sinc(1e-6 * a), (V,)),
)  # fmt: skip
def test_conditions_and_limits(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> None:
    check(function, [numbers(shape, k) for k, shape in enumerate(shapes)])


def test_interpolation_at_a_node_takes_the_slope_of_one_side() -> None:
    """Along a straight line both sides agree; at a corner it is the side to the right; outside nothing changes."""
    nodes = [0.0, 1.0, 2.0]

    def slopes(values: list[float], at: list[float]) -> list[float]:
        return [float(lg.grad(lambda x: np.interp(x, nodes, values))(x)) for x in at]

    assert slopes([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]) == [1.0, 1.0, 1.0]
    assert slopes([0.0, 1.0, -2.0], [0.5, 1.0, 1.5]) == [1.0, -3.0, -3.0]
    assert slopes([0.0, 1.0, -2.0], [-0.5, 2.5]) == [0.0, 0.0]


def test_the_branch_not_taken_has_no_influence() -> None:
    program = lg.Program()
    x = program.parameter("x", [-1.0, 0.0, 4.0])
    program.define("y", np.where(x > 0.0, np.sqrt(x) + 1.0 / x, 3.0 * x))
    solution = lg.build(program).solve()
    np.testing.assert_array_equal(solution["y"], [-3.0, 0.0, 2.25])
    jacobian = solution.jacobian(["y"])["y", "x"]
    np.testing.assert_array_equal(jacobian, np.diag([3.0, 3.0, 0.25 - 1.0 / 16.0]))


def test_every_numpy_function_that_expressions_take_part_in_is_tested_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All the tests above once more, counting the handlers that they reach."""
    reached = set()

    def counted(name: Any, handler: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            reached.add(name)
            return handler(*args, **kwargs)

        return call

    counting = {name: counted(name, handler) for name, handler in Expression.handlers.items()}
    monkeypatch.setattr(Expression, "handlers", counting)
    program = lg.Program()
    for test in (
        test_arithmetic,
        test_indexing,
        test_shapes,
        test_more_shapes,
        test_in_place_at_indices,
        test_more_reductions,
        test_products,
        test_conditions_and_limits,
    ):
        for function, shapes in test.pytestmark[0].args[1]:
            function(
                *(
                    program.parameter(f"{id(function)} {len(program.values)}", numbers(s, k))
                    for k, s in enumerate(shapes)
                )
            )
    for name in ("sum", "mean", "prod", "max", "min", "var", "std", "sinc"):
        getattr(np, name)(program.state(f"of {name}", shape=3))
    test_facts_about_shape()
    test_a_filled_diagonal()
    assert set(counting) - reached == set()


def test_the_documentation_lists_the_numpy_functions_that_expressions_take_part_in() -> None:
    text = (Path(__file__).parent.parent / "docs" / "functions.md").read_text()
    table = text.split("## NumPy functions")[1].split("\n## ")[0]
    listed = set(re.findall(r"`((?:linalg\.)?\w+)`", table.split("- Moving")[1].split("Ufuncs")[0]))
    names = {f"{f.__module__}.{f.__name__}".removeprefix("numpy.") for f in Expression.handlers}
    assert listed == names


# -- what may stand on either side -------------------------------------------------------------------------------
def test_constraints_broadcast_as_numpy_does() -> None:
    program = lg.Program()
    p = program.parameter("p", [1.0, 2.0, 3.0])
    y, z, t = program.state("y", shape=(2, 3)), program.state("z", shape=3), program.state("t", shape=(2, 2))
    program.constrain(y == p, name="rows")
    program.constrain(np.array([4.0, 5.0, 6.0]) == z * p, name="numbers first")
    program.constrain(t == [[1.0, 2.0], [3.0, p[0]]], name="lists")
    solution = lg.build(program).solve()
    np.testing.assert_array_equal(solution["y"], [[1.0, 2.0, 3.0]] * 2)
    np.testing.assert_array_equal(solution["z"], [4.0, 2.5, 2.0])
    np.testing.assert_array_equal(solution["t"], [[1.0, 2.0], [3.0, 1.0]])
    assert solution.multipliers("y[1,2]")["rows"].tolist() == [[0.0] * 3, [0.0, 0.0, 1.0]]
    # numbers on the left stay on the left: z exceeds less where they do more
    assert float(solution.multipliers("z[1]")["numbers first"][1]) == -0.5


def test_scopes_prefix_names() -> None:
    program = lg.Program("plant")
    with program.scope("tank"):
        level = program.parameter("level", 2.0)
        with program.scope("valve"):
            flow = program.state("flow", guess=1.0)
            program.constrain(flow * flow == level, name="law")
    program.define("twice", 2 * flow)
    solution = lg.build(program).solve()
    assert float(solution["tank.valve.flow"]) == pytest.approx(math.sqrt(2.0))
    assert set(solution.multipliers("twice")) == {"tank.valve.law", "twice"}
    assert set(solution.gradient("twice")) == {"tank.level"}


# -- errors --------------------------------------------------------------------------------------------------------
def a_program() -> tuple[lg.Program, Any, Any]:
    program = lg.Program("errors")
    return program, program.parameter("p", [1.0, 2.0, 3.0]), program.state("y", shape=3)


ERRORS: dict[str, tuple[Callable[[lg.Program, Any, Any], Any], type[Exception], str]] = {
    "truth of an expression": (lambda g, p, y: bool(y[0] > 1), ExpressionError, r"lg\.where"),
    "if of a constraint": (lambda g, p, y: bool(y == p), ExpressionError, "constrain"),
    "and": (lambda g, p, y: (y[0] > 1) and (p[0] > 1), ExpressionError, "truth value"),
    "chained comparison": (lambda g, p, y: 0 < y[0] < 1, ExpressionError, "truth value"),
    "Python's max": (lambda g, p, y: max(y[0], p[0]), ExpressionError, r"lg\.maximum"),
    "float": (lambda g, p, y: float(y[0]), ExpressionError, "Solution"),
    "int": (lambda g, p, y: int(y[0]), ExpressionError, "no value before"),
    "complex": (lambda g, p, y: complex(y[0]), ExpressionError, "no value before"),
    "math": (lambda g, p, y: math.sin(y[0]), ExpressionError, r"lg\.exp"),
    "range": (lambda g, p, y: range(y[0]), ExpressionError, "index"),
    "array": (lambda g, p, y: np.asarray(y, dtype=float), ExpressionError, "array"),
    "index by an expression": (lambda g, p, y: p[y[0]], ExpressionError, r"lg\.where"),
    "index by a condition": (lambda g, p, y: p[y > 0], ExpressionError, r"lg\.where"),
    "index out of range": (lambda g, p, y: y[3], IndexError, "out of bounds"),
    "assignment into a state": (lambda g, p, y: y.__setitem__(0, 1.0), ExpressionError, "copy"),
    "assignment into a scalar": (lambda g, p, y: g.state("s").__setitem__((), 1.0), ExpressionError, "copy"),
    "shapes that do not broadcast": (lambda g, p, y: y + np.ones(2), ShapeError, r"\(3,\) and \(2,\)"),
    "shapes of a constraint": (lambda g, p, y: y == np.ones(4), ShapeError, r"\(3,\) == \(4,\)"),
    "inner lengths": (lambda g, p, y: np.ones((2, 2)) @ y, ShapeError, "inner"),
    "matmul with a scalar": (lambda g, p, y: y @ y[0], ShapeError, r"\*"),
    "reshape": (lambda g, p, y: y.reshape(2, 2), ValueError, "reshape"),
    "len of a scalar": (lambda g, p, y: len(y[0]), ExpressionError, "scalar"),
    "iteration over a scalar": (lambda g, p, y: list(y[0]), ExpressionError, "scalar"),
    "a numpy function without": (lambda g, p, y: np.fft.rfft(y), ExpressionError, r"functions\.md"),
    "a ufunc without": (lambda g, p, y: np.gcd(y, y), ExpressionError, r"numpy\.gcd"),
    "an option": (lambda g, p, y: np.add(y, y, out=np.empty(3)), ExpressionError, "out"),
    "where of a ufunc": (lambda g, p, y: np.sqrt(y, where=np.ones(3, bool)), ExpressionError, "where"),
    "where of a reduction": (lambda g, p, y: np.sum(y, where=[True, False, True]), ExpressionError, "where"),
    "initial of a reduction": (lambda g, p, y: np.max(y, initial=1.0), ExpressionError, "initial"),
    "where of a variance": (lambda g, p, y: np.var(y, where=[True, False, True]), ExpressionError, "where"),
    "mean of a variance": (lambda g, p, y: np.std(y, mean=1.0), ExpressionError, "mean"),
    "an array to clip into": (lambda g, p, y: np.clip(y, 0, 1, out=np.empty(3)), ExpressionError, "out"),
    "an array to sum into": (lambda g, p, y: np.cumsum(y, out=np.empty(3)), ExpressionError, "out"),
    "an array for a product": (lambda g, p, y: np.dot(y, p, out=np.empty(())), ExpressionError, "out"),
    "an array for an einsum": (lambda g, p, y: np.einsum("i,i", y, p, out=np.empty(())), ExpressionError, "out"),
    "a wrapped diagonal": (lambda g, p, y: np.fill_diagonal(y[:, None].copy(), 0, wrap=True), ExpressionError, "wrap"),
    "compress by an expression": (lambda g, p, y: np.compress(y > 0, y), ExpressionError, "not known"),
    "where with one argument": (lambda g, p, y: np.where(y > 0), ExpressionError, "three"),
    "norm of another order": (lambda g, p, y: np.linalg.norm(np.outer(y, y), 2), ExpressionError, "ord=2"),
    "norm of no order": (lambda g, p, y: np.linalg.norm(y, "fro"), ExpressionError, "no norm of vectors"),
    "an option that a function has not": (lambda g, p, y: np.trapezoid(y, spam=1), TypeError, "spam"),
    "an option that expressions have not": (lambda g, p, y: np.trace(y[None], out=p), ExpressionError, "out"),
    "interpolation between nodes in no order": (lambda g, p, y: np.interp(y, [0, 2, 1], y), ExpressionError, "Sort"),
    "interpolation between unknown nodes": (lambda g, p, y: np.interp(0.5, y, p), ExpressionError, "nodes"),
    "interpolation of too few values": (lambda g, p, y: np.interp(y, [0, 1], [1.0]), ExpressionError, "2 nodes"),
    "single precision": (lambda g, p, y: np.sum(y, dtype=np.float32), ExpressionError, "double precision"),
    "text as dtype": (lambda g, p, y: y.astype(str), ExpressionError, "double precision"),
    "scatter into numbers": (lambda g, p, y: np.add.at(np.zeros(2), [0, 1, 1], y), ExpressionError, r"lg\.zeros"),
    "copy into numbers": (lambda g, p, y: np.copyto(np.zeros(3), y), ExpressionError, r"lg\.zeros"),
    "item of many": (lambda g, p, y: y.item(), ShapeError, "one element"),
    "sorting": (lambda g, p, y: np.sort(y), ExpressionError, "order"),
    "argmax": (lambda g, p, y: np.argmax(y), ExpressionError, "Which element"),
    "sums without nan": (lambda g, p, y: np.nansum(y), ExpressionError, r"np\.sum"),
    "tests for nan": (lambda g, p, y: np.isnan(y), ExpressionError, "leave the test out"),
    "singular values": (lambda g, p, y: np.linalg.svd(np.outer(y, y)), ExpressionError, r"lg\.implicit"),
    "a special function without": (lambda g, p, y: scipy.special.j0(y), ExpressionError, r"scipy\.special\.j0"),
    "an inverse power": (lambda g, p, y: np.linalg.matrix_power(np.outer(y, y), -1), ExpressionError, "negative"),
    "einsum terms that do not fit": (lambda g, p, y: np.einsum("ij->i", y), ExpressionError, "one letter"),
    "nan as a constant": (lambda g, p, y: y * np.nan, ExpressionError, "nan"),
    "nan in an array": (lambda g, p, y: y * [1.0, np.nan, 2.0], ExpressionError, "nan"),
    "text": (lambda g, p, y: y + "1", ExpressionError, "real numbers"),
    "complex numbers": (lambda g, p, y: y + 1j, ExpressionError, "real numbers"),
    "None": (lambda g, p, y: y + None, ExpressionError, "real numbers"),
    "a huge integer": (lambda g, p, y: y + 10**400, ExpressionError, "double precision"),
    "another program": (lambda g, p, y: y + lg.Program().state("z"), ExpressionError, "belongs to"),
    "maximum of nothing": (lambda g, p, y: y[:0].max(), ShapeError, "at least one"),
    "mean of nothing": (lambda g, p, y: y[:0].mean(), ShapeError, "at least one"),
    "astype": (lambda g, p, y: y.astype(complex), ExpressionError, "double precision"),
    "a name twice": (lambda g, p, y: g.state("y"), DeclarationError, "already in use"),
    "a parameter's name twice": (lambda g, p, y: g.define("p", y), DeclarationError, "already in use"),
    "an empty name": (lambda g, p, y: g.parameter("", 1.0), DeclarationError, "not empty"),
    "no name": (lambda g, p, y: g.state(None), DeclarationError, "text"),
    "a constraint's name twice": (
        lambda g, p, y: [g.constrain(y == p, name="law") for _ in range(2)], DeclarationError, "already in use",
    ),
    "a parameter without value": (lambda g, p, y: g.parameter("q"), DeclarationError, "value or a shape"),
    "a value that is not finite": (lambda g, p, y: g.parameter("q", np.inf), DeclarationError, "not finite"),
    "a value that is text": (lambda g, p, y: g.parameter("q", "one"), DeclarationError, "not a real number"),
    "a value that is an expression": (lambda g, p, y: g.parameter("q", y), DeclarationError, "define"),
    "a ragged value": (lambda g, p, y: g.parameter("q", [[1.0], [1.0, 2.0]]), DeclarationError, "real number"),
    "value and shape": (lambda g, p, y: g.parameter("q", [1.0, 2.0], shape=3), ShapeError, r"\(3,\)"),
    "a masked value": (lambda g, p, y: g.parameter("q", np.ma.array([1.0], mask=[1])), DeclarationError, "real number"),
    "a numpy.matrix": (lambda g, p, y: np.matrix(np.eye(3)) * y, ExpressionError, "asarray"),
    "a numpy.matrix in @": (lambda g, p, y: np.matrix(np.eye(3)) @ y, ExpressionError, "asarray"),
    "a number and an array": (lambda g, p, y: lg.concatenate([1.0, y]), ShapeError, r"\(3,\).*zero-dim.*reshape"),
    "the same in NumPy": (lambda g, p, y: np.concatenate([y[0], y]), ShapeError, r"numpy.concatenate: got"),
    "a stack of unlike parts": (lambda g, p, y: lg.stack([1.0, y]), ShapeError, r"\[\(\), \(3,\)\].*same shape"),
    "columns of unlike length": (lambda g, p, y: np.column_stack([y, y[:2]]), ShapeError, r"column_stack: got.*\(2,\)"),
    "an axis too many": (lambda g, p, y: np.concatenate([y, y], axis=3), ShapeError, "axis 3"),
    "nothing that fits": (lambda g, p, y: np.reshape(y, (2, 2)), ShapeError, r"reshape: got.*\(3,\).*\(2,2\)"),
    "a linear solve": (lambda g, p, y: np.linalg.solve(np.outer(y, y), p), ExpressionError, "A @ x == b"),
    "an einsum of indices": (lambda g, p, y: np.einsum(y, [0], [0]), ExpressionError, "subscripts"),
    "a periodic interpolation": (lambda g, p, y: np.interp(y, [0, 1], [0, 1], period=1), ExpressionError, "period"),
    "a fraction as a shape": (lambda g, p, y: g.state("q", shape=2.5), DeclarationError, "not a shape"),
    "a shape beyond all memory": (lambda g, p, y: g.state("q", shape=(10**5, 10**6)), DeclarationError, "elements"),
    "a negative shape": (lambda g, p, y: g.state("q", shape=-1), DeclarationError, "not a shape"),
    "a shape that is text": (lambda g, p, y: g.state("q", shape="a"), DeclarationError, "not a shape"),
    "bounds crossed": (lambda g, p, y: g.state("q", lower=1.0, upper=0.0), DeclarationError, "not below"),
    "a guess out of bounds": (lambda g, p, y: g.state("q", 2.0, upper=1.0), DeclarationError, "outside"),
    "a bound that is nan": (lambda g, p, y: g.state("q", lower=np.nan), DeclarationError, "nan"),
    "a bound of another shape": (lambda g, p, y: g.state("q", 1.0, lower=[0, 0]), DeclarationError, "shape"),
    "no constraint": (lambda g, p, y: g.constrain(y), DeclarationError, "lhs == rhs"),
    "a truth value": (lambda g, p, y: g.constrain(1.0 == 1.0), DeclarationError, "parameter or a state"),
    "a constraint of another program": (
        lambda g, p, y: g.constrain(lg.Program().state("z") == 1.0), DeclarationError, "belongs to",
    ),
    "a definition of another program": (
        lambda g, p, y: g.define("d", lg.Program().state("z")), ExpressionError, "belongs to",
    ),
    "an empty scope": (lambda g, p, y: g.scope("").__enter__(), DeclarationError, "scope"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_to_do(case: str) -> None:
    action, kind, words = ERRORS[case]
    with pytest.raises(kind, match=words):
        action(*a_program())


def test_errors_of_names_and_values_at_solving() -> None:
    program, p, y = a_program()
    program.constrain(y * y == p, name="square")
    system = lg.build(program)
    solution = system.solve()
    for ask in (
        lambda: system.solve({"q": 1.0}),
        lambda: solution["yy"],
        lambda: solution.gradient("yy"),
        lambda: solution.multipliers("p"),
        lambda: solution.jvp({"y": 1.0}),
        lambda: solution.vjp({"p": [1.0, 1.0, 1.0]}),
        lambda: solution.jacobian(["y"], ["q"]),
        lambda: solution.gradient("y[0]", ["q"]),
        lambda: system.function(of=["q"]),
        lambda: system.function(of=["y"], wrt=["y"]),
        lambda: system.solve(start={"q": 1.0}),
    ):
        with pytest.raises(UnknownNameError) as caught:
            ask()
        assert "named" in str(caught.value) and not str(caught.value).startswith('"')
    for ask in (
        lambda: system.solve({"p": [1.0, 2.0]}),
        lambda: solution.gradient("y"),
        lambda: solution.multipliers("y"),
        lambda: solution["y[3]"],
        lambda: solution["y[0,0]"],
        lambda: solution["y[a]"],
        lambda: solution.vjp({"y": [1.0, 2.0]}),
        lambda: solution.jvp({"p": np.ones((3, 1))}),
        lambda: system.function(of=["y"])([1.0]),
        lambda: system.solve(start={"y": [1.0]}),
    ):
        with pytest.raises(ShapeError):
            ask()
    with pytest.raises(UnknownNameError, match="Did you mean temperature"):
        program = lg.Program()
        program.parameter("temperature", 1.0)
        lg.build(program).solve({"temprature": 2.0})
    with pytest.raises(DeclarationError, match="no value"):
        program = lg.Program()
        program.define("d", program.parameter("q", shape=2) * 2.0)
        lg.build(program).solve()


# -- size ------------------------------------------------------------------------------------------------------------
def nested(x: Any, depth: int, sin: Callable[[Any], Any]) -> Any:
    for k in range(depth):
        x = 0.9 * sin(x) + 0.1 * (k % 7)
    return x


def test_an_expression_nested_one_hundred_thousand_deep() -> None:
    depth = 100_000
    program = lg.Program("deep")
    x = program.parameter("x", 0.7)
    expression = nested(x, depth, lg.sin)
    assert len(repr(expression)) < 100_000
    program.define("y", expression)
    solution = lg.build(program).solve()
    value, slope = 0.7, 1.0
    for k in range(depth):
        slope *= 0.9 * math.cos(value)
        value = 0.9 * math.sin(value) + 0.1 * (k % 7)
    assert float(solution["y"]) == pytest.approx(value, rel=1e-12)
    assert float(solution.gradient("y")["x"]) == pytest.approx(slope, rel=1e-9, abs=1e-300)


def statements(count: int) -> None:
    """A loop of scalar statements, each defined: a chain that uses the last value and the one before it."""
    program = lg.Program("loop")
    p = program.parameter("p", 0.3)
    before, last = p, program.define("s0", p * 0.5)
    for k in range(1, count):
        before, last = last, program.define(f"s{k}", 0.6 * lg.sin(last) + 0.3 * before * (1.0 + 1e-7 * k))
    solution = lg.build(program).solve()
    a, b, da, db = 0.3, 0.15, 1.0, 0.5
    total = [1.0, 0.5]
    for k in range(1, count):
        factor = 0.3 * (1.0 + 1e-7 * k)
        a, b, da, db = b, 0.6 * math.sin(b) + factor * a, db, 0.6 * math.cos(b) * db + factor * da
        total.append(db)
    for k in (1, 100, count - 1):
        assert float(solution[f"s{min(k, 300)}"]) != 0.0
    middle = min(count - 1, 200)
    assert float(solution.gradient(f"s{middle}")["p"]) == pytest.approx(total[middle + 1], rel=1e-10)
    assert float(solution[f"s{count - 1}"]) == pytest.approx(b, rel=1e-9, abs=1e-300)
    assert float(solution.jvp({"p": 1.0})[f"s{count - 1}"]) == pytest.approx(db, rel=1e-8, abs=1e-300)


def test_a_loop_of_one_hundred_thousand_statements() -> None:
    statements(100_000)


@pytest.mark.long
def test_a_loop_of_a_million_statements() -> None:
    statements(1_000_000)


def test_a_long_sum_inside_a_function() -> None:
    """A sum of 10⁵ inside a logarithm: one hidden state, one row with 10⁵ entries, none with more."""
    n = 100_000
    program = lg.Program("sum")
    p = program.parameter("p", np.linspace(0.5, 1.5, n))
    program.define("y", lg.log(lg.sum(p * p)))
    solution = lg.build(program).solve()
    total = float(np.sum(np.linspace(0.5, 1.5, n) ** 2))
    assert float(solution["y"]) == pytest.approx(math.log(total), rel=1e-13)
    np.testing.assert_allclose(
        solution.gradient("y")["p"], 2.0 * np.linspace(0.5, 1.5, n) / total, rtol=1e-10
    )
