"""Laws of the block linear algebra, against NumPy, SciPy, mpmath and elimination written out."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import mpmath
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from hypothesis import given, settings
from hypothesis import strategies as st

from lagrad.kernel import kernel
from lagrad.linalg import sparse
from lagrad.linalg.blocks import DENSE_MAX, BlockPattern
from lagrad.linalg.dense import (
    MARKED,
    lu_factor,
    lu_factor_marked,
    lu_solve,
    lu_solve_marked,
    lu_solve_transposed,
)
from lagrad.linalg.inverse_norm import inverse_norm, norm_bound
from lagrad.linalg.scales import balance
from lagrad.linalg.sparse import NOT_FINITE, REGULAR, ZERO_PIVOT, Counters, analyze

EPS = np.finfo(float).eps
PATHS = [1, DENSE_MAX, 10**6]  # dense_max: every block of two or more large; the usual; none large


def csr(matrix):
    """A CSR array with int32 sorted indices; entries whose value is zero stay entries."""
    matrix = sp.csr_array(matrix)
    matrix.sort_indices()
    matrix.indptr, matrix.indices = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    return matrix


def block_triangular(sizes, seed=0):
    """Strongly connected unsymmetric blocks of these sizes, coupled downwards: matrix, ptr.

    Each block is weak but for one strong entry in each row and column, at random: pivots must be sought.
    """
    rng = np.random.default_rng(seed)
    ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    n = int(ptr[-1])
    rows, columns, strong = [], [], []
    for lo, size in zip(ptr[:-1].tolist(), sizes, strict=True):
        i, matched = np.arange(size), rng.permutation(size)
        strong += (n * (lo + i) + lo + matched).tolist()
        rows += [lo + i, lo + i, lo + i, lo + rng.integers(0, size, size)]
        columns += [lo + i, lo + (i + 1) % size, lo + matched, lo + rng.integers(0, size, size)]
        if lo:
            rows.append(lo + rng.integers(0, size, size + 1))
            columns.append(rng.integers(0, lo, size + 1))
    pattern = sp.coo_array(
        (np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns))), (n, n)
    )
    matrix = csr(pattern)
    matrix.data = rng.uniform(0.2, 0.9, matrix.nnz) * rng.choice([-1.0, 1.0], matrix.nnz)
    place = n * np.repeat(np.arange(n), np.diff(matrix.indptr)) + matrix.indices
    matrix.data[np.isin(place, strong)] += 4.0
    return matrix, ptr


SIZES = [1, 3, 70, 1, 1, 2, 2, 90, 7, 1]


def factored(matrix, ptr, dense_max):
    return BlockPattern.analyze(matrix.indptr, matrix.indices, ptr, dense_max).factor(matrix.data)


def convection_diffusion(m, seed=3):
    """Five points on an m×m grid, upwinded with a wind that varies, every coefficient different."""
    rng = np.random.default_rng(seed)
    index = np.arange(m * m).reshape(m, m)
    entries = [(index, index, 4.6)]
    for here, there, weight in (
        (np.s_[1:, :], np.s_[:-1, :], -1.7),
        (np.s_[:-1, :], np.s_[1:, :], -0.3),
        (np.s_[:, 1:], np.s_[:, :-1], -1.4),
        (np.s_[:, :-1], np.s_[:, 1:], -0.6),
    ):
        entries.append((index[here], index[there], weight))
    rows = np.concatenate([r.ravel() for r, _, _ in entries])
    columns = np.concatenate([c.ravel() for _, c, _ in entries])
    values = np.concatenate([w * rng.uniform(0.9, 1.1, r.size) for r, _, w in entries])
    return csr(sp.coo_array((values, (rows, columns)), (m * m, m * m)))


def backward_error(matrix, x, b):
    """Componentwise, in extended precision where the machine has it."""
    long = np.longdouble
    a = matrix.toarray().astype(long) if matrix.shape[0] < 500 else matrix.astype(long)
    r = b.astype(long) - a @ x.astype(long)
    return float(np.max(np.abs(r) / (abs(a) @ np.abs(x).astype(long) + np.abs(b).astype(long))))


# ---- small dense blocks --------------------------------------------------------------------------


@given(n=st.integers(1, 12), seed=st.integers(0, 10**6), offset=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_dense_factors_solve_with_the_matrix_and_its_transpose(n, seed, offset):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((n, n)) + 2.0 * np.eye(n)[rng.permutation(n)]
    b = rng.standard_normal(n)
    a, piv = np.full(offset + n * n + 3, 77.0), np.full(offset + n + 2, -7, np.int32)
    a[offset : offset + n * n] = matrix.ravel()
    assert lu_factor(a, offset, n, piv, offset) == 0
    x, y = np.full(offset + n + 1, 55.0), np.full(offset + n + 1, 55.0)
    x[offset : offset + n] = y[offset : offset + n] = b
    lu_solve(a, offset, n, piv, offset, x, offset)
    lu_solve_transposed(a, offset, n, piv, offset, y, offset)
    tolerance = 1e-14 * n * np.linalg.cond(matrix)
    np.testing.assert_allclose(
        x[offset : offset + n], np.linalg.solve(matrix, b), rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(
        y[offset : offset + n], np.linalg.solve(matrix.T, b), rtol=tolerance, atol=tolerance
    )
    # nothing outside the block was touched
    assert np.all(a[:offset] == 77.0) and np.all(a[offset + n * n :] == 77.0)
    assert np.all(x[:offset] == 55.0) and x[-1] == 55.0 and np.all(piv[offset + n :] == -7)


def test_a_bad_pivot_is_reported_by_its_place():
    def status(rows):
        matrix = np.array(rows, dtype=float)
        return lu_factor(matrix.ravel().copy(), 0, len(matrix), np.zeros(len(matrix), np.int32), 0)

    assert status([[0.0, 2.0], [3.0, 1.0]]) == 0
    assert status([[1.0, 2.0], [2.0, 4.0]]) == 2
    assert status([[0.0, 2.0], [0.0, 4.0]]) == 1
    assert status([[2.0, 1.0, 5.0], [4.0, 2.0, 10.0], [1.0, 3.0, 7.0]]) == 3
    assert status([[math.nan, 2.0], [3.0, 1.0]]) == -1
    assert status([[3.0, math.inf], [1.0, 1.0]]) == -2


# ---- one large block -----------------------------------------------------------------------------


@st.composite
def sparse_matrices(draw):
    """Structurally regular, unsymmetric, often with entries that are zero; other values for the pattern."""
    n = draw(st.integers(2, 25))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    per_row = draw(st.integers(1, 4))
    pattern = sp.coo_array(
        (
            np.ones(n * (per_row + 1)),
            (
                np.concatenate([np.arange(n), rng.integers(0, n, n * per_row)]),
                np.concatenate([rng.permutation(n), rng.integers(0, n, n * per_row)]),
            ),
        ),
        (n, n),
    )
    matrix = csr(pattern)
    first = rng.choice([-2.0, -1.0, 1.0, 1.0, 2.0, 0.0], matrix.nnz)  # cancels and vanishes often
    second = rng.uniform(0.5, 2.0, matrix.nnz) * rng.choice([-1.0, 1.0], matrix.nnz)
    return matrix, first, second


def filled(matrix, order):
    """Pattern of L and U by eliminating position after position, without a thought for zero values."""
    n = matrix.shape[0]
    present = np.zeros((n, n), bool)
    for i in range(n):
        for s in range(matrix.indptr[i], matrix.indptr[i + 1]):
            present[order.position[matrix.indices[s]], np.flatnonzero(order.constraint == i)[0]] = True
    np.fill_diagonal(present, True)
    for k in range(n):
        present[k + 1 :, k + 1 :] |= np.outer(present[k + 1 :, k], present[k, k + 1 :])
    return present


@given(case=sparse_matrices())
@settings(max_examples=60, deadline=None)
def test_the_fill_is_closed_and_refactoring_stays_inside_it(case):
    matrix, first, second = case
    n = matrix.shape[0]
    factor = analyze(matrix.indptr, matrix.indices, n).factor(first)
    if factor.status != REGULAR:
        return
    fill, expected = factor.order.fill, filled(matrix, factor.order)
    columns = [np.repeat(np.arange(n), np.diff(p)) for p in (fill.lp, fill.up)]
    got = np.eye(n, dtype=bool)
    got[fill.li, columns[0]] = True
    got[fill.ui, columns[1]] = True
    assert np.array_equal(got, expected)
    assert np.all(fill.li > columns[0]) and np.all(fill.ui < columns[1])
    for k, end in enumerate(fill.group_end):  # columns treated as one have the same rows
        for j in range(k + 1, end):
            assert np.array_equal(np.flatnonzero(got[j + 1 :, j]), np.flatnonzero(got[j + 1 :, k]))
            assert got[j, k]

    changed = sp.csr_array((second, matrix.indices, matrix.indptr), shape=(n, n)).toarray()
    condition = np.linalg.cond(changed)
    if condition < 1e8:
        b = np.arange(1.0, n + 1)
        again = factor.refactor(second)
        scale = 1e-9 * condition * np.abs(np.linalg.solve(changed, b)).max()
        np.testing.assert_allclose(again.solve(b), np.linalg.solve(changed, b), atol=scale)
        scale = 1e-9 * condition * np.abs(np.linalg.solve(changed.T, b)).max()
        np.testing.assert_allclose(again.solve(b, transpose=True), np.linalg.solve(changed.T, b), atol=scale)


@pytest.mark.parametrize("shuffled", [False, True], ids=["symmetric pattern", "unsymmetric pattern"])
def test_convection_diffusion_agrees_with_spsolve(shuffled):
    matrix = convection_diffusion(100)
    n = matrix.shape[0]
    if shuffled:
        matrix = csr(matrix[np.random.default_rng(5).permutation(n)])
    counters = Counters()
    pattern = analyze(matrix.indptr, matrix.indices, n, counters)
    assert pattern.symmetric is not shuffled
    factor = pattern.factor(matrix.data)
    changed = matrix.copy()
    changed.data = matrix.data * np.random.default_rng(6).uniform(0.97, 1.03, matrix.nnz)
    b = np.random.default_rng(7).standard_normal(n)
    for system, factors in ((matrix, factor), (changed, factor.refactor(changed.data))):
        np.testing.assert_allclose(factors.solve(b), spla.spsolve(csr(system), b), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(
            factors.solve(b, transpose=True), spla.spsolve(csr(system.T), b), rtol=1e-9, atol=1e-11
        )
    assert (counters.analyses, counters.factorizations, counters.refactorizations) == (1, 1, 1)
    assert (counters.rejections, counters.solves) == (0, 4)


def test_a_refactorization_is_a_fresh_factorization():
    matrix = convection_diffusion(30)
    n = matrix.shape[0]
    counters = Counters()
    factor = analyze(matrix.indptr, matrix.indices, n, counters).factor(matrix.data)
    other = matrix.data * np.random.default_rng(1).uniform(0.8, 1.2, matrix.nnz)
    far = factor.refactor(other)
    back = far.refactor(matrix.data)
    assert counters.factorizations == 1 and counters.refactorizations == 2 and counters.rejections == 0
    b = np.random.default_rng(2).standard_normal((n, 3))
    for transpose in (False, True):
        np.testing.assert_allclose(
            back.solve(b, transpose), factor.solve(b, transpose), rtol=1e-11, atol=1e-13
        )
        fresh = analyze(matrix.indptr, matrix.indices, n).factor(other)
        np.testing.assert_allclose(far.solve(b, transpose), fresh.solve(b, transpose), rtol=1e-11, atol=1e-13)


def test_pivot_growth_falls_back_to_a_fresh_factorization():
    """Pivots chosen on a strong diagonal are no pivots once the diagonal has all but vanished."""
    matrix = convection_diffusion(8)
    n = matrix.shape[0]
    counters = Counters()
    factor = analyze(matrix.indptr, matrix.indices, n, counters).factor(matrix.data)
    weak = matrix.copy()
    on = weak.indices == np.repeat(np.arange(n), np.diff(weak.indptr))
    weak.data[on] *= 1e-14
    again = factor.refactor(weak.data)
    assert (counters.refactorizations, counters.rejections, counters.factorizations) == (1, 1, 2)
    b = np.random.default_rng(0).standard_normal(n)
    expected = np.linalg.solve(weak.toarray(), b)
    np.testing.assert_allclose(again.solve(b), expected, atol=1e-9 * np.abs(expected).max())
    # a pivot that is exactly zero on the old order is replaced as well
    weak.data[on] = 0.0
    again = factor.refactor(weak.data)
    assert counters.rejections == 2
    expected = np.linalg.solve(weak.toarray(), b)
    np.testing.assert_allclose(again.solve(b), expected, atol=1e-9 * np.abs(expected).max())


def test_heavy_fill_is_factored_by_superlu_again(monkeypatch):
    matrix = convection_diffusion(20)
    counters = Counters()
    factor = analyze(matrix.indptr, matrix.indices, 400, counters).factor(matrix.data)
    monkeypatch.setattr(sparse, "HEAVY_FILL", 0)
    b = np.arange(400.0)
    np.testing.assert_allclose(factor.refactor(2.0 * matrix.data).solve(b), factor.solve(b) / 2.0, rtol=1e-12)
    assert (counters.factorizations, counters.refactorizations) == (2, 0)


@pytest.mark.parametrize(
    "value, status", [(math.nan, NOT_FINITE), (math.inf, NOT_FINITE), (None, ZERO_PIVOT)]
)
def test_a_large_block_without_factors_says_so_and_recovers(value, status):
    matrix, _ = block_triangular([60], seed=9)
    data = matrix.data.copy()
    if value is None:
        data[matrix.indptr[20] : matrix.indptr[21]] = 0.0
    else:
        data[17] = value
    good = analyze(matrix.indptr, matrix.indices, 60).factor(matrix.data)
    bad = good.refactor(data)
    assert bad.status == status
    assert np.all(np.isnan(bad.solve(np.ones(60)))) and np.all(np.isnan(bad.solve(np.ones((60, 2)), True)))
    np.testing.assert_allclose(
        bad.refactor(matrix.data).solve(np.ones(60)), good.solve(np.ones(60)), rtol=1e-13
    )


# ---- blocks --------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.sampled_from([1, 1, 1, 2, 3, 5, 9]), min_size=1, max_size=9),
    seed=st.integers(0, 10**6),
    dense_max=st.sampled_from([1, 2, 4, 100]),
    k=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_block_solves_agree_with_numpy_in_both_directions(sizes, seed, dense_max, k):
    matrix, ptr = block_triangular(sizes, seed)
    factors = factored(matrix, ptr, dense_max)
    dense = matrix.toarray()
    b = np.random.default_rng(seed).standard_normal((matrix.shape[0], k))
    tolerance = 1e-13 * np.linalg.cond(dense)
    for transpose, a in ((False, dense), (True, dense.T)):
        expected = np.linalg.solve(a, b)
        scale = tolerance * np.abs(expected).max()
        np.testing.assert_allclose(factors.solve(b, transpose), expected, atol=scale)
        refined, residuals = factors.solve_refined(b, transpose)
        np.testing.assert_allclose(refined, expected, atol=scale)
        assert residuals.overall <= 1e-14


@pytest.mark.parametrize("dense_max", PATHS)
def test_transposed_solve_is_the_solve_with_the_transposed_matrix(dense_max):
    matrix, ptr = block_triangular(SIZES)
    n = matrix.shape[0]
    # reversed, the transposed matrix is block lower triangular again
    turned = csr(matrix.T[::-1, ::-1])
    b = np.random.default_rng(4).standard_normal((n, 3))
    x = factored(matrix, ptr, dense_max).solve(b, transpose=True)
    y = factored(turned, n - ptr[::-1], dense_max).solve(b[::-1])[::-1]
    np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(matrix.T @ x, b, rtol=1e-10, atol=1e-12)


def test_the_three_paths_agree():
    matrix, ptr = block_triangular(SIZES)
    b = np.random.default_rng(4).standard_normal(matrix.shape[0])
    for transpose in (False, True):
        x = [factored(matrix, ptr, dense_max).solve(b, transpose) for dense_max in PATHS]
        np.testing.assert_allclose(x[0], x[2], rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(x[1], x[2], rtol=1e-11, atol=1e-13)
    kinds = [len(factored(matrix, ptr, dense_max).large) for dense_max in PATHS]
    assert kinds == [6, 2, 0]


@pytest.mark.parametrize("dense_max", PATHS)
@pytest.mark.parametrize("transpose", [False, True])
def test_many_right_hand_sides_are_one_after_the_other(dense_max, transpose):
    matrix, ptr = block_triangular(SIZES)
    factors = factored(matrix, ptr, dense_max)
    b = np.random.default_rng(4).standard_normal((matrix.shape[0], 5))
    kept = b.copy()
    together = factors.solve(b, transpose)
    solves = factors.pattern.counters.solves
    factors.solve(b, transpose)
    assert factors.pattern.counters.solves - solves == len(factors.large)  # not five times that
    for j in range(5):
        np.testing.assert_allclose(together[:, j], factors.solve(b[:, j], transpose), rtol=1e-12, atol=1e-14)
    fortran = factors.solve(np.asfortranarray(b), transpose)
    assert np.array_equal(fortran, together) and fortran.flags.c_contiguous
    assert np.array_equal(b, kept)
    assert factors.solve(b[:, :0], transpose).shape == (matrix.shape[0], 0)


@pytest.mark.parametrize("dense_max", PATHS)
def test_block_refactor_is_a_fresh_factor_and_leaves_the_old_one_alone(dense_max):
    matrix, ptr = block_triangular(SIZES)
    counters = Counters()
    pattern = BlockPattern.analyze(matrix.indptr, matrix.indices, ptr, dense_max, counters)
    old = pattern.factor(matrix.data)
    b = np.random.default_rng(4).standard_normal(matrix.shape[0])
    before = old.solve(b)
    other = matrix.data * np.random.default_rng(5).uniform(0.8, 1.2, matrix.nnz)
    new = old.refactor(other)
    np.testing.assert_allclose(new.solve(b), pattern.factor(other).solve(b), rtol=1e-11, atol=1e-13)
    assert np.array_equal(old.solve(b), before) and np.array_equal(old.data, matrix.data)
    number = len(pattern.large)
    assert (counters.analyses, counters.refactorizations, counters.factorizations) == (
        number,
        number,
        2 * number,
    )


@pytest.mark.parametrize("dense_max", PATHS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_reported(dense_max, value):
    matrix, ptr = block_triangular(SIZES)
    for b in range(len(SIZES)):
        data = matrix.data.copy()
        k = ptr[b + 1] - 1
        data[np.flatnonzero(matrix.indices[: matrix.indptr[k + 1]] >= ptr[b])[-1]] = value
        factors = BlockPattern.analyze(matrix.indptr, matrix.indices, ptr, dense_max).factor(data)
        assert factors.singular_blocks.tolist() == [b] and factors.status[b] == NOT_FINITE
        assert factors.condition()[b] == 0.0
        x, residuals = factors.solve_refined(np.ones(matrix.shape[0]))
        assert np.all(np.isfinite(x[: ptr[b]])) and np.all(np.isnan(x[ptr[b] : ptr[b + 1]]))
        assert np.all(np.isnan(factors.solve(np.ones(matrix.shape[0]), transpose=True)[ptr[b] : ptr[b + 1]]))
        assert residuals.overall == math.inf and residuals.column.tolist() == [math.inf]
        assert np.all(residuals.block[:b] < 1e-14) and residuals.block[b] == math.inf
    off = matrix.data.copy()
    coupling = np.arange(matrix.nnz) < np.repeat(factors.pattern.split, np.diff(matrix.indptr))
    off[np.flatnonzero(coupling)[0]] = value
    factors = factors.refactor(off)
    assert factors.singular_blocks.size == 0
    assert factors.solve_refined(np.ones(matrix.shape[0]))[1].overall == math.inf


@pytest.mark.parametrize("dense_max", PATHS)
def test_singular_blocks_are_reported_all_of_them_and_no_others(dense_max):
    matrix, ptr = block_triangular(SIZES)
    dense = matrix.toarray()
    inside = dense != 0.0
    bad = [1, 2, 3, 7]
    for b in bad:  # one equation of the block twice: rows and values the same up to a power of two
        lo = ptr[b]
        if SIZES[b] == 1:
            dense[lo, lo] = 0.0
        else:
            dense[lo + 1, lo : ptr[b + 1]] = -2.0 * dense[lo, lo : ptr[b + 1]]
            inside[lo + 1, lo : ptr[b + 1]] |= inside[lo, lo : ptr[b + 1]]
    rows, columns = np.nonzero(inside)
    singular = csr(sp.coo_array((dense[inside], (rows, columns)), dense.shape))
    factors = factored(singular, ptr, dense_max)
    rcond = factors.condition()
    assert np.all(rcond[bad] <= EPS) and np.all(np.delete(rcond, bad) > 1e-3)
    assert factors.status[3] == ZERO_PIVOT  # the 1×1 block; in the others a zero may be hidden by rounding
    assert set(factors.singular_blocks) <= set(bad)
    for b in bad:
        lo, hi = ptr[b], ptr[b + 1]
        block, null = dense[lo:hi, lo:hi], factors.null_vectors(b)
        assert null.residual < 1e-8
        assert np.abs(block @ null.right).max() < 1e-7 and np.abs(block.T @ null.left).max() < 1e-7
        if SIZES[b] > 1:  # exactly the two equal equations take part
            left = null.left / null.left[1]
            expected = np.zeros(hi - lo)
            expected[:2] = 2.0, 1.0
            np.testing.assert_allclose(left, expected, atol=1e-6)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_refinement_takes_fewer_steps_where_the_factor_differs_by_something_smooth(transpose, columns):
    """Convection and diffusion on 120² points, with a factor that lacks a reaction; plain refinement beside it."""
    m = 120
    x, y = np.mgrid[1 : m + 1, 1 : m + 1] / (m + 1)
    line = sp.diags_array([-1.01, 2.0, -0.99], offsets=[-1, 0, 1], shape=(m, m))
    near = csr(sp.kron(line, sp.eye_array(m)) + sp.kron(sp.eye_array(m), line))
    matrix = csr(near - sp.diags_array((np.exp(-x * y) / (m + 1) ** 2).ravel()))
    b = np.random.default_rng(2).standard_normal((m * m, *columns)) + 1.0
    pattern = factored(near, [0, m * m], 1).pattern
    lent = pattern.factor(near.data).large_factors()
    before = pattern.counters.refinements
    found, info = pattern.factor(matrix.data, lent).solve_refined(b, transpose)
    steps = pattern.counters.refinements - before

    a = matrix.T if transpose else matrix
    truth = spla.spsolve(sp.csc_array(a), b.reshape(m * m, -1)).reshape(b.shape)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-11 * np.abs(truth).max())
    assert info.overall < 1e-15 and not info.refactored

    plain, guess = 0, lent[0].solve(b, transpose)
    while np.max(np.abs(b - a @ guess) / (abs(a) @ np.abs(guess) + np.abs(b))) > 1e-15:
        plain, guess = plain + 1, guess + lent[0].solve(b - a @ guess, transpose)
    assert 2 < steps <= plain - 2


def test_threads_may_share_a_pattern_and_its_factors():
    matrix, ptr = block_triangular(SIZES)
    shared = factored(matrix, ptr, 20)
    b = np.random.default_rng(4).standard_normal((matrix.shape[0], 2))

    def work(seed):
        data = matrix.data * np.random.default_rng(seed).uniform(0.9, 1.1, matrix.nnz)
        return shared.refactor(data).solve_refined(b, transpose=seed % 2 == 1)[0]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(24)))
    for seed, x in enumerate(together):
        assert np.array_equal(x, work(seed))


def test_a_missing_diagonal_is_a_zero_pivot():
    matrix = csr(sp.coo_array(([2.0, 3.0, 5.0], ([0, 1, 2], [0, 0, 2])), (3, 3)))
    factors = factored(matrix, [0, 1, 2, 3], 10)
    assert factors.singular_blocks.tolist() == [1]
    assert factors.condition().tolist() == [1.0, 0.0, 1.0]


def test_a_million_scalars_are_one_sweep():
    """Whole numbers throughout, so that the answer is exact to the last bit."""
    n = 10**6
    rng = np.random.default_rng(0)
    before = np.maximum(np.arange(n) - rng.integers(1, 1000, n), 0)[1:]
    rows = np.concatenate([np.arange(n), np.arange(1, n)])
    matrix = csr(
        sp.coo_array(
            (
                np.concatenate([rng.integers(1, 9, n), rng.integers(-5, 6, n - 1)]).astype(float),
                (rows, np.concatenate([np.arange(n), before])),
            ),
            (n, n),
        )
    )
    factors = factored(matrix, np.arange(n + 1), DENSE_MAX)
    x = rng.integers(-99, 99, (n, 2)).astype(float)
    assert np.array_equal(factors.solve(matrix @ x), x)
    assert np.array_equal(factors.solve(matrix.T @ x, transpose=True), x)
    assert np.array_equal(factors.solve((matrix @ x)[:, 1]), x[:, 1])
    _, residuals = factors.solve_refined(rng.standard_normal(n))
    assert residuals.overall <= 4 * EPS
    assert np.all(factors.condition() == 1.0)
    assert factors.pattern.counters == Counters(sweeps=4)


def test_the_empty_matrix():
    factors = BlockPattern.analyze(np.zeros(1), np.zeros(0), np.zeros(1)).factor(np.zeros(0))
    assert factors.solve(np.zeros((0, 3))).shape == (0, 3)
    x, residuals = factors.solve_refined(np.zeros(0), transpose=True)
    assert x.shape == (0,) and residuals.overall == 0.0 and factors.condition().shape == (0,)


def test_what_does_not_fit_is_refused():
    matrix, ptr = block_triangular([2, 3])
    with pytest.raises(ValueError, match="above its diagonal blocks"):
        BlockPattern.analyze(matrix.indptr, matrix.indices, [0, 1, 2, 5])
    factors = factored(matrix, ptr, 10)
    for wrong in (np.ones(4), np.ones((5, 1, 1)), np.float64(1.0)):
        with pytest.raises(ValueError, match="5 rows"):
            factors.solve(wrong)


def test_read_only_and_other_types_of_arrays_are_taken():
    matrix, ptr = block_triangular([2, 60, 1])
    b = np.arange(63)
    expected = factored(matrix, ptr, 10).solve(b.astype(float))
    frozen = [a.copy() for a in (matrix.indptr.astype(np.int64), matrix.indices, matrix.data)]
    for a in frozen:
        a.flags.writeable = False
    factors = BlockPattern.analyze(frozen[0], frozen[1], tuple(ptr), 10).factor(frozen[2])
    assert np.array_equal(factors.solve(b), expected)
    assert np.array_equal(factors.refactor(frozen[2]).solve_refined(b)[0].shape, expected.shape)


# ---- refinement ----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 3, 8, 19])  # of eight, all sums are kept at once
def test_backward_error_is_that_of_oettli_and_prager(columns):
    matrix, ptr = block_triangular(SIZES)
    rng = np.random.default_rng(1)
    x, b = rng.standard_normal((2, matrix.shape[0], columns))
    for transpose in (False, True):
        a = matrix.T if transpose else matrix
        expected = np.abs(b - a @ x) / (abs(a) @ np.abs(x) + np.abs(b))
        found = factored(matrix, ptr, 10).residuals(x, b, transpose)
        np.testing.assert_allclose(found.block, np.maximum.reduceat(expected, ptr[:-1]).max(1), rtol=1e-12)
        np.testing.assert_allclose(found.column, expected.max(0), rtol=1e-12)
        assert found.overall == pytest.approx(expected.max(), rel=1e-12)


@pytest.mark.parametrize("columns", [1, 3, 8, 11])
@pytest.mark.parametrize("transpose", [False, True])
def test_a_solution_that_is_not_finite_is_infinitely_wrong(columns, transpose):
    matrix, ptr = block_triangular(SIZES)
    x, b = np.ones((matrix.shape[0], columns)), np.ones((matrix.shape[0], columns))
    x[ptr[7] + 5, columns - 1] = np.nan
    found = factored(matrix, ptr, 10).residuals(x, b, transpose)
    assert np.isinf(found.column).tolist() == [*[False] * (columns - 1), True]
    assert np.isinf(found.block[7]) and np.isinf(found.overall)


@pytest.mark.parametrize("columns", [1, 8])
@pytest.mark.parametrize("transpose", [False, True])
def test_rounding_in_a_row_of_zeros_is_not_read_as_an_error(columns, transpose):
    """x = (1, 1e-17, 2e-17): the last row is off by all of itself, and by nothing beside what it could hold.

    The entry 1e-3 ties the three together; it is no part of what is measured.
    """
    dense = np.array([[1.0, 0.5, 1e-3], [0.25, 1.5, 0.0], [0.0, 3.0, 1.0]])
    factors = factored(csr(dense.T if transpose else dense), [0, 3], 10)
    x, b = (np.tile(one, (columns, 1)).T for one in ([1.0, 1e-17, 2e-17], [1.0, 0.25, 0.0]))
    assert factors.residuals(x, b, transpose).overall < 1e-15


@pytest.mark.parametrize("fresh", [False, True])  # pivots of SuperLU's own, or on the diagonal
@pytest.mark.parametrize("columns", [1, 8, 21])
@pytest.mark.parametrize("transpose", [False, True])
def test_right_hand_sides_of_one_entry_are_solved_as_any_other(fresh, columns, transpose):
    """What a column of zeros passes over is nothing; here most of the factors are passed over."""
    matrix = convection_diffusion(30)
    if fresh:
        matrix = matrix[np.random.default_rng(3).permutation(900)]
    factor = analyze(matrix.indptr, matrix.indices, 900).factor(matrix.data)
    assert (factor.fill is None) == fresh
    places = np.random.default_rng(4).integers(0, 900, columns)
    b = np.zeros((900, columns))
    b[places, np.arange(columns)] = 2.0
    a = matrix.T if transpose else matrix
    np.testing.assert_allclose(
        factor.solve(b, transpose), np.linalg.solve(a.toarray(), b), rtol=1e-9, atol=1e-13
    )
    b[places[0], 0] = np.nan
    assert np.isnan(factor.solve(b, transpose)).any(axis=0).tolist() == [True, *[False] * (columns - 1)]


@pytest.mark.parametrize("transpose", [False, True])
def test_a_nearby_factor_reaches_full_accuracy_without_factoring(transpose):
    inner = convection_diffusion(100)
    n = inner.shape[0] + 3
    # two scalars before it and one behind, coupled downwards
    matrix = sp.lil_array((n, n))
    matrix[0, 0], matrix[1, 0], matrix[1, 1], matrix[n - 1, n - 1] = 2.0, 0.7, 1.5, 0.3
    matrix[5, 1], matrix[4000, 0], matrix[n - 1, 77], matrix[n - 1, 0] = 1.1, -0.4, 0.9, 1.3
    matrix = csr(matrix.tocsr() + sp.block_diag([np.zeros((2, 2)), inner, np.zeros((1, 1))], format="csr"))
    ptr = [0, 1, 2, n - 1, n]
    rng = np.random.default_rng(2)
    pattern = BlockPattern.analyze(matrix.indptr, matrix.indices, ptr)
    first = pattern.factor(matrix.data)
    moved = matrix.copy()
    moved.data = matrix.data * (1.0 + 1e-4 * rng.standard_normal(matrix.nnz))
    counters = pattern.counters
    done = (counters.factorizations, counters.refactorizations)
    factors = pattern.factor(moved.data, large=first.large_factors())
    b = rng.standard_normal((n, 2))
    x, residuals = factors.solve_refined(b, transpose)
    assert (counters.factorizations, counters.refactorizations) == done
    assert 1 <= counters.refinements <= 8
    a = csr(moved.T) if transpose else moved
    assert backward_error(a, x, b) < 3e-15
    assert residuals.overall < 5e-15 and residuals.refactored == () and residuals.factors is factors
    # without refinement the borrowed factor shows
    assert factors.residuals(factors.solve(b, transpose), b, transpose).overall > 1e-9


@pytest.mark.parametrize("transpose", [False, True])
def test_a_factor_too_far_away_is_replaced_and_counted(transpose):
    matrix, ptr = block_triangular([4, 80, 1, 70, 2])
    pattern = BlockPattern.analyze(matrix.indptr, matrix.indices, ptr)
    first = pattern.factor(matrix.data)
    data = matrix.data.copy()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    second_block = (rows >= ptr[1]) & (rows < ptr[2])
    data[second_block] *= np.random.default_rng(0).uniform(-2.0, 2.0, second_block.sum())
    moved = csr(sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape))
    factors = pattern.factor(data, large=first.large_factors())
    assert factors.borrowed == {1, 3}
    counters = pattern.counters
    done = counters.factorizations + counters.refactorizations
    b = np.random.default_rng(1).standard_normal(matrix.shape[0])
    x, residuals = factors.solve_refined(b, transpose)
    assert residuals.refactored == (1,) and residuals.factors.borrowed == {3}
    redone = counters.factorizations + counters.refactorizations - counters.rejections - done
    assert redone == 1
    assert backward_error(csr(moved.T) if transpose else moved, x, b) < 5e-15
    # the factors handed back are those to go on with; the old ones are as they were
    assert factors.borrowed == {1, 3}
    y, again = residuals.factors.solve_refined(b, transpose)
    assert again.refactored == () and again.factors is residuals.factors
    np.testing.assert_allclose(y, x, rtol=1e-11)


def test_a_borrowed_factor_that_is_singular_is_replaced():
    matrix, ptr = block_triangular([80])
    pattern = BlockPattern.analyze(matrix.indptr, matrix.indices, ptr)
    empty = pattern.factor(np.zeros(matrix.nnz))
    assert empty.singular_blocks.tolist() == [0]
    factors = pattern.factor(matrix.data, large=empty.large_factors())
    x, residuals = factors.solve_refined(np.ones(80))
    assert residuals.refactored == (0,) and residuals.overall < 5e-15
    assert residuals.factors.singular_blocks.size == 0
    np.testing.assert_allclose(x, np.linalg.solve(matrix.toarray(), np.ones(80)), rtol=1e-12)


@pytest.mark.parametrize("dense_max", PATHS)
def test_refinement_makes_badly_scaled_systems_componentwise_exact(dense_max):
    matrix, ptr = block_triangular(SIZES)
    rng = np.random.default_rng(3)
    n = matrix.shape[0]
    rows, columns = 10.0 ** rng.uniform(-6, 6, (2, n))
    scaled = csr(sp.diags_array(rows) @ matrix @ sp.diags_array(columns))
    b = rows * rng.standard_normal(n)
    x, residuals = factored(scaled, ptr, dense_max).solve_refined(b)
    assert residuals.overall < 5e-15 and backward_error(scaled, x, b) < 5e-15
    np.testing.assert_allclose(
        columns * x, np.linalg.solve(matrix.toarray(), b / rows), rtol=1e-11, atol=1e-11
    )


# ---- condition -----------------------------------------------------------------------------------


def balanced(matrix):
    """Rows and columns scaled until they all sum to one, by two hundred passes."""
    scaled = np.abs(matrix)
    signs = np.sign(matrix)
    for _ in range(200):
        scaled = scaled / scaled.sum(1, keepdims=True)
        scaled = scaled / scaled.sum(0)
    return scaled * signs


def true_rcond(matrix):
    with mpmath.workdps(40):
        exact = mpmath.matrix(matrix.tolist())
        return float(1 / (mpmath.mnorm(exact, 1) * mpmath.mnorm(exact**-1, 1)))


@kernel
def by_marks(a, n, piv, marks, x):
    """Factor and solve by marks, which Python cannot call one by one."""
    start = np.int64(0)
    status = lu_factor_marked(a, start, n, piv, start, marks)
    lu_solve_marked(a, start, n, piv, start, marks, x, start)
    return status


@pytest.mark.parametrize("n", [1, 2, 3, 17, 50, MARKED])
@pytest.mark.parametrize("share", [0.03, 0.2, 1.0])
def test_elimination_by_marks_gives_the_same_bits(n, share):
    rng = np.random.default_rng(n)
    for _ in range(5):
        matrix = rng.standard_normal((n, n)) * (rng.random((n, n)) < share)
        matrix[np.arange(n), rng.permutation(n)] = rng.uniform(0.5, 2.0, n)  # pivots off the diagonal
        b = rng.standard_normal(n)
        plain, x, piv = matrix.ravel().copy(), b.copy(), np.zeros(n, np.int32)
        status = lu_factor(plain, 0, n, piv, 0)
        lu_solve(plain, 0, n, piv, 0, x, 0)
        marks = np.array([sum(1 << int(j) for j in np.flatnonzero(row)) for row in matrix], np.uint64)
        marked, y, pivots = matrix.ravel().copy(), b.copy(), np.zeros(n, np.int32)
        assert by_marks(marked, n, pivots, marks, y) == status
        assert np.array_equal(marked, plain) and np.array_equal(pivots, piv)
        assert np.array_equal(y, x, equal_nan=True)
        if status == 0:
            np.testing.assert_allclose(matrix @ y, b, atol=1e-9 * np.abs(y).max(), rtol=0)


@pytest.mark.parametrize("dense_max", [1, 100])
@pytest.mark.parametrize("exponent", range(0, 15, 2))
@pytest.mark.parametrize("n", [2, 5, 14])
def test_rcond_is_within_a_factor_of_ten(dense_max, exponent, n):
    rng = np.random.default_rng(100 * exponent + n)
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    matrix = u @ np.diag(10.0 ** -np.linspace(0.0, exponent, n)) @ v
    rcond = factored(csr(matrix), [0, n], dense_max).condition()[0]
    truth = true_rcond(balanced(matrix))
    assert truth / 10 <= rcond <= truth * 10


@pytest.mark.parametrize("dense_max", [1, 100])
def test_rcond_where_the_ascent_stops_at_once(dense_max):
    """inverse = I + θ u vᵀ, whose rows and columns sum to one: at the centre the estimator sees only I."""
    for n, theta, seed in itertools.product([4, 12], [4.0, 16.0, 1e3], range(20)):
        rng = np.random.default_rng(seed)
        u, v = rng.permutation([1.0, -1.0] * (n // 2)), rng.permutation([1.0, -1.0] * (n // 2))
        second_start = np.cos(np.pi * np.arange(n)) * (1.0 + np.arange(n) / (n - 1))
        if u @ v == 0 and abs(v @ second_start) > n / 3:
            inverse = np.eye(n) + theta * np.outer(u, v)
            matrix = np.eye(n) - theta * np.outer(u, v)
            truth = 1.0 / (np.abs(matrix).sum(0).max() * np.abs(inverse).sum(0).max())
            rcond = factored(csr(matrix), [0, n], dense_max).condition()[0]
            assert truth / 10 <= rcond <= truth * 10


def test_a_large_block_is_tried_with_alternating_signs_as_well():
    """The matrix of the test above behind an exact solver, for which the ascent does end where it starts."""
    u, v = np.array([-1.0, 1.0, 1.0, -1.0]), np.array([-1.0, 1.0, -1.0, 1.0])
    inverse = np.eye(4) + 16.0 * np.outer(u, v)
    matrix = csr(np.eye(4) - 16.0 * np.outer(u, v))

    one = np.ones(4)
    norm = inverse_norm(one, one, lambda b, transpose: (inverse.T if transpose else inverse) @ b)
    assert np.abs(matrix).sum(axis=0).max() == 65.0 and 6.5 <= norm <= 65.0


def test_rcond_of_a_small_block_is_exact():
    rng = np.random.default_rng(11)
    for n in (2, 3, 7, 20):
        matrix = rng.standard_normal((n, n)) * 10.0 ** rng.uniform(-2, 2, (n, 1))
        factors = factored(csr(matrix), [0, n], 100)
        scaled = factors.r[:, None] * matrix * factors.c
        assert factors.condition()[0] == pytest.approx(1.0 / np.linalg.cond(scaled, 1), rel=1e-9)


@pytest.mark.parametrize("exponent", [0.1, 1, 6])
def test_rcond_of_refactored_values_is_under_scales_that_fit_them(exponent):
    """Other units than those that the pivots were chosen in."""
    rng = np.random.default_rng(7)
    matrix, ptr = block_triangular([40], seed=5)
    units = 10.0 ** rng.uniform(-exponent, exponent, 40)
    scaled = csr(sp.diags_array(units) @ matrix @ sp.diags_array(np.roll(units, 1)))
    rcond = factored(matrix, ptr, 1).refactor(scaled.data).condition()[0]
    truth = true_rcond(balanced(matrix.toarray()))
    assert truth / 10 <= rcond <= truth * 10


@pytest.mark.parametrize("dense_max", [1, 100])
def test_units_alone_do_not_read_as_ill_conditioning(dense_max):
    matrix, ptr = block_triangular([40, 3, 1, 90], seed=5)
    rng = np.random.default_rng(3)
    rows, columns = 10.0 ** rng.uniform(-6, 6, (2, matrix.shape[0]))
    scaled = csr(sp.diags_array(rows) @ matrix @ sp.diags_array(columns))
    plain, other = (factored(a, ptr, dense_max).condition() for a in (matrix, scaled))
    blocks = [matrix.toarray()[lo:hi, lo:hi] for lo, hi in itertools.pairwise(ptr)]
    for b, block in enumerate(blocks):
        raw = scaled.toarray()[ptr[b] : ptr[b + 1], ptr[b] : ptr[b + 1]]
        truth = 1.0 / np.linalg.cond(balanced(block), 1)
        assert truth / 10 <= plain[b] <= truth * 10 and truth / 10 <= other[b] <= truth * 10
        if len(block) > 1:
            assert np.linalg.cond(raw, 1) > 1e5 / truth  # the scales were no formality


def scales(block, before=0):
    """The scales of a block that stands behind `before` columns of other blocks."""
    n = len(block)
    matrix = csr(sp.csr_array(np.hstack([np.full((n, before), 1e5), block])))
    indptr = np.concatenate([np.zeros(before, np.int32), matrix.indptr])
    r, c = np.zeros(n), np.zeros(n)
    balance(before, n, indptr, matrix.indices, matrix.data, r, c, 0, np.empty(n), 0)
    return r, c


@pytest.mark.parametrize("before", [0, 3])
def test_equilibration_takes_powers_of_two_and_balances(before):
    rng = np.random.default_rng(0)
    n = 7
    matrix = rng.standard_normal((n, n)) * 10.0 ** rng.uniform(-8, 8, (n, 1)) * 10.0 ** rng.uniform(-8, 8, n)
    r, c = scales(matrix, before)
    assert np.all(np.frexp(r)[0] == 0.5) and np.all(np.frexp(c)[0] == 0.5)
    scaled = np.abs(matrix) * r[:, None] * c
    sums = np.concatenate([scaled.sum(0), scaled.sum(1)])
    assert np.all((sums > 0.25) & (sums < 4.0))


@pytest.mark.parametrize("dense_max", [1, 100])
def test_extreme_numbers_are_solved_for_or_refused(dense_max):
    """Row scale times column scale would overflow where the zero stands; the determinant underflows."""
    entries = np.array([1e-280, 0.0, 1.0, 3e-280])
    r, c = scales(entries.reshape(2, 2))
    assert np.all(np.isfinite(np.outer(r, c)))
    tiny = csr(sp.coo_array((entries, ([0, 0, 1, 1], [0, 1, 0, 1])), (2, 2)))
    x, residuals = factored(tiny, [0, 2], dense_max).solve_refined(np.array([2e-280, 2.0]))
    assert np.all(np.isnan(x)) == (residuals.overall == math.inf)
    assert np.all(np.isnan(x)) or np.allclose(x, [2.0, 0.0], atol=1e-15)


@pytest.mark.parametrize("dense_max", [1, 100])
@pytest.mark.parametrize("overall", [1e-130, 1e130])
def test_numbers_far_from_one_are_as_good_as_others(dense_max, overall):
    rng = np.random.default_rng(12)
    matrix = rng.uniform(0.5, 1.0, (5, 5)) + 3.0 * np.eye(5)[[2, 0, 3, 4, 1]]
    rows, columns = 10.0 ** rng.uniform(-5, 5, (2, 5))
    x = rng.uniform(0.5, 1.0, 5)
    factors = factored(csr(overall * rows[:, None] * matrix * columns), [0, 5], dense_max)
    np.testing.assert_allclose(columns * factors.solve(overall * rows * (matrix @ x)), x, rtol=1e-13)
    assert factors.condition()[0] > 1e-2


def test_a_large_singular_block_shows_who_takes_part():
    """Two neighbouring equations of a discretised flow made to say the same."""
    matrix = convection_diffusion(18)
    dense = matrix.toarray()
    dense[152] = -0.7 * dense[151]
    singular = csr(dense)
    factors = factored(singular, [0, 324], DENSE_MAX)
    assert factors.condition()[0] < 1e-13
    null = factors.null_vectors(0)
    assert set(np.flatnonzero(np.abs(null.constraints) > 1e-3)) == {151, 152}
    assert null.left[152] / null.left[151] == pytest.approx(1 / 0.7, rel=1e-6)
    expected = np.linalg.svd(dense)[2][-1]
    expected /= expected[np.argmax(np.abs(null.right))] / np.abs(null.right).max()
    found = null.right / null.right[np.argmax(np.abs(null.right))] * np.abs(null.right).max()
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_the_null_vectors_of_a_block_with_nan_are_nan():
    matrix, ptr = block_triangular([60])
    data = matrix.data.copy()
    data[3] = math.nan
    null = BlockPattern.analyze(matrix.indptr, matrix.indices, ptr).factor(data).null_vectors(0)
    assert np.all(np.isnan(null.right)) and np.all(np.isnan(null.constraints)) and math.isnan(null.residual)


def test_the_norm_of_an_inverse_is_bounded_by_two_solves():
    """Against NumPy's inverse, over matrices of which some are near to singular in one to three directions."""
    rng = np.random.default_rng(11)
    shares = []
    for _ in range(600):
        n = int(rng.integers(1, 60))
        a = rng.standard_normal((n, n)) * (rng.random((n, n)) < rng.uniform(0.1, 1.0))
        a += np.eye(n) * rng.uniform(1.0, 2.0)
        if rng.random() < 0.6:
            u, s, vt = np.linalg.svd(a)
            s[-int(rng.integers(1, 4)) :] *= 10.0 ** -rng.uniform(0.0, 12.0)
            a = u @ np.diag(s) @ vt
        inverse = np.linalg.inv(a)
        calls = []

        def solve(b, transpose, inverse=inverse, calls=calls):
            calls.append(transpose)
            return (inverse.T if transpose else inverse) @ b

        r, c = 2.0 ** rng.integers(-3, 4, n), 2.0 ** rng.integers(-3, 4, n)
        bound = norm_bound(r, c, solve)
        assert calls == [False, True]
        shares.append(bound / np.abs(inverse / r / c[:, None]).sum(axis=0).max())
    assert min(shares) > 10.0  # of SURE = 1000
    assert np.median(shares) < 1001.0


def test_a_norm_that_is_not_finite_bounds_nothing():
    one = np.ones(3)
    assert norm_bound(one, one, lambda b, transpose: np.full(3, np.nan)) == math.inf
