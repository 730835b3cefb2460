"""The sparse solvers that are not the default: the laws, and the verbs against NumPy's dense algebra."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from fixtures import FIXTURES
from laws import LAWS, ONLY, Case

import lagrad as lg
from examples import bratu
from lagrad.errors import DeclarationError
from lagrad.linalg import backends, sparse
from lagrad.linalg.klu import KLUFactor, KLUPattern
from lagrad.linalg.sparse import NOT_FINITE, REGULAR, ZERO_PIVOT, Counters

NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not backends.installed(name), reason=f"the package {backends.PACKAGES[name]} is optional"
        ),
    )
    for name in backends.BACKENDS
]
CHOSEN = ("loop_in_chain", "two_loops", "large_loop", "scaled", "zero_state")
KLU_CASES = [Case(fixture, "klu") for fixture in FIXTURES if fixture.name in CHOSEN]


@pytest.mark.skipif(not backends.installed("klu"), reason="the package kvxopt is optional")
@pytest.mark.parametrize("case", KLU_CASES, ids=str)
@pytest.mark.parametrize("law", LAWS)
def test_law(law: str, case: Case) -> None:
    if ONLY[law](case.fixture):
        LAWS[law](case)


def matrix(n: int, seed: int = 0) -> sp.csr_array:
    """Square, not symmetric, regular."""
    random = np.random.default_rng(seed)
    found = sp.csr_array(
        sp.random_array((n, n), density=0.1, rng=random) + sp.diags_array(random.uniform(2, 3, n))
    )
    found.sort_indices()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_four_verbs(name: str) -> None:
    a = matrix(70)
    counters = Counters()
    pattern = backends.BACKENDS[name](a.indptr.astype(np.int32), a.indices.astype(np.int32), 70, counters)
    factor = pattern.factor(a.data)
    random = np.random.default_rng(1)
    other = a.copy()
    other.data = a.data * random.uniform(0.8, 1.2, a.nnz)
    for values, made in (
        (a, factor),
        (other, factor.refactor(other.data)),
        (a, factor),
    ):  # the last: unchanged
        assert made.status == REGULAR and made.price > 1.0 and made.entries >= a.nnz
        for shape in ((70,), (70, 1), (70, 11)):
            b = random.standard_normal(shape)
            for transpose, dense in ((False, values.toarray()), (True, values.toarray().T)):
                x = made.solve(b, transpose)
                assert x.shape == shape and x.flags.c_contiguous
                np.testing.assert_allclose(x, np.linalg.solve(dense, b), rtol=1e-11, atol=1e-13)
    assert counters.analyses == 1 and counters.solves == 18
    b = random.standard_normal(70)
    assert np.array_equal(pickle.loads(pickle.dumps(factor)).solve(b), factor.solve(b))


@pytest.mark.parametrize("name", NAMES)
def test_matrices_without_factors(name: str) -> None:
    a = matrix(60)
    pattern = backends.BACKENDS[name](a.indptr.astype(np.int32), a.indices.astype(np.int32), 60, Counters())
    singular, broken = a.data.copy(), a.data.copy()
    singular[a.indptr[7] : a.indptr[8]] = 0.0
    broken[3] = np.nan
    for data, status in ((singular, ZERO_PIVOT), (broken, NOT_FINITE)):
        factor = pattern.factor(data)
        assert factor.status == status and np.isnan(factor.solve(np.ones(60))).all()
        assert factor.refactor(a.data).status == REGULAR


@pytest.mark.parametrize("name", NAMES)
def test_a_system_on_each(name: str) -> None:
    system, default = lg.build(bratu.build(10), linear=name), lg.build(bratu.build(10))
    points = [1.0 + 0.4 * k for k in range(8)]

    def gradient(lam: float) -> np.ndarray:
        return system.solve({"lam": np.full((10, 10), lam)}).gradient("integral")["lam"]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(gradient, points))
    for lam, found in zip(points, together, strict=True):
        assert np.array_equal(found, gradient(lam))
        expected = default.solve({"lam": np.full((10, 10), lam)}).gradient("integral")["lam"]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    again = pickle.loads(pickle.dumps(system))
    assert np.array_equal(again.solve().gradient("integral")["lam"], gradient(1.0))


@pytest.mark.skipif(not backends.installed("klu"), reason="the package kvxopt is optional")
def test_heavy_fill_is_refactored_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule of "auto", with KLU in the place of PARDISO and limits that a small block passes."""
    a = matrix(70)
    pattern = (a.indptr.astype(np.int32), a.indices.astype(np.int32), 70)
    other = KLUPattern.analyze(*pattern, Counters())
    light = replace(sparse.analyze(*pattern), heavy=other)
    assert isinstance(light.factor(a.data).refactor(2.0 * a.data), sparse.SuperLUFactor)
    monkeypatch.setattr(sparse, "HEAVY_FILL", 0)
    heavy = replace(sparse.analyze(*pattern), heavy=other)
    assert isinstance(heavy.factor(a.data).refactor(2.0 * a.data), sparse.SuperLUFactor)  # few entries
    monkeypatch.setattr(sparse, "HEAVY_ENTRIES", 1)
    first = heavy.factor(a.data)
    second = first.refactor(2.0 * a.data)
    assert isinstance(first, sparse.SuperLUFactor) and isinstance(second, KLUFactor)
    b = np.arange(70.0)
    np.testing.assert_allclose(second.solve(b), 0.5 * first.solve(b), rtol=1e-11)
    singular = a.data.copy()
    singular[a.indptr[7] : a.indptr[8]] = 0.0
    assert first.refactor(singular).status == ZERO_PIVOT


def test_a_solver_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeclarationError, match="'umfpack' is none of 'superlu', 'klu'"):
        lg.build(bratu.build(3), linear="umfpack")
    monkeypatch.setitem(backends.PACKAGES, "klu", "a_package_that_nobody_wrote")
    with pytest.raises(DeclarationError, match="pip install a_package_that_nobody_wrote"):
        lg.build(bratu.build(3), linear="klu")
