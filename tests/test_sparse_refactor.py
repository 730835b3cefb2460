"""A refactorization with the same values gives the same solution, whatever the pattern.

Patterns without symmetry are where columns of L have equally many rows and not the same ones (seeds 61 and 129).
"""

import numpy as np
import pytest
import scipy.sparse as sp

from lagrad.arclength import bordered
from lagrad.linalg.sparse import analyze


@pytest.mark.parametrize("seeds", [range(100), range(100, 200), range(200, 300)])
def test_refactored_values_solve_as_fresh_ones(seeds: range) -> None:
    for seed in seeds:
        rng = np.random.default_rng(seed)
        n = int(rng.integers(6, 30))
        matrix = sp.csr_array(sp.random_array((n, n), density=0.2, rng=rng) + sp.eye_array(n) * 3)
        matrix.sort_indices()
        x = rng.standard_normal(n)
        pattern = analyze(matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), n)
        factor = pattern.factor(matrix.data)
        np.testing.assert_allclose(factor.refactor(matrix.data).solve(matrix @ x), x, rtol=0, atol=1e-9)


def ring(n: int) -> sp.csr_array:
    """The Jacobian of y_i² + 1 = 0.1 (y_i−1 + y_i+1) around a ring, at y of next to nothing."""
    i = np.arange(n)
    entries = np.concatenate([np.full(n, 1e-9), np.full(n, -0.1), np.full(n, -0.1)])
    places = (np.tile(i, 3), np.concatenate([i, (i - 1) % n, (i + 1) % n]))
    return sp.csr_array(sp.coo_array((entries, places), shape=(n, n)))


def plate(k: int, own: float) -> sp.csr_array:
    """k × k points coupled to their neighbours by 1 and to themselves by `own`: indefinite below 4."""
    line = sp.diags_array([np.ones(k - 1), np.ones(k - 1)], offsets=[-1, 1])
    one = sp.eye_array(k)
    return sp.csr_array(sp.kron(one, line) + sp.kron(line, one) + own * sp.eye_array(k * k))


@pytest.mark.parametrize(
    "matrix", [ring(1999), plate(100, 2.0), plate(60, 5.0)], ids=["ring", "plate", "definite"]
)
def test_a_symmetric_pattern_fills_no_more_where_its_diagonal_cannot_be_kept(matrix: sp.csr_array) -> None:
    import scipy.sparse.linalg as spla

    matrix.sort_indices()
    n = matrix.shape[0]
    x = np.random.default_rng(0).standard_normal(n)
    pattern = analyze(matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), n)
    assert pattern.symmetric
    factor = pattern.factor(matrix.data)
    partial = spla.splu(sp.csc_array(matrix.T), permc_spec="COLAMD")
    assert factor.entries <= 1.5 * (partial.L.nnz + partial.U.nnz)
    for found in (factor, factor.refactor(matrix.data)):
        np.testing.assert_allclose(found.solve(matrix @ x), x, rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.solve(matrix.T @ x, transpose=True), x, rtol=0, atol=1e-8)


def test_a_bordered_singular_matrix_is_solved_without_a_factor_of_its_full_row() -> None:
    n, rng = 400, np.random.default_rng(3)
    i = np.arange(n)
    bonds = sp.coo_array((-rng.uniform(1.0, 2.0, n), (i, (i + 1) % n)), shape=(n, n))
    laplacian = sp.csr_array(
        bonds + bonds.T - sp.diags_array((bonds + bonds.T).sum(axis=1))
    )  # ones are in its kernel

    class Singular:
        matrix = laplacian

        @staticmethod
        def solve(rhs: np.ndarray) -> np.ndarray:
            return np.full(rhs.shape, np.nan)

    b, c, f = rng.standard_normal((3, n))
    found = bordered(Singular(), b, c, 0.3, f, 0.7)
    assert found is not None
    whole = np.block([[laplacian.toarray(), b[:, None]], [c[None, :], np.array([[0.3]])]])
    exact = np.linalg.solve(whole, np.append(f, 0.7))
    np.testing.assert_allclose(np.append(*found), exact, rtol=1e-8, atol=1e-10 * np.abs(exact).max())
