"""Definitions on a cycle, eliminated before the sparse LU: the whole block is solved as without."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

import lagrad as lg
from examples import power_flow
from lagrad.linalg import elimination
from lagrad.linalg.elimination import EliminatedFactor, EliminatedPattern, analyze_with
from lagrad.linalg.sparse import Counters, SuperLUFactor, SuperLUPattern

layers = importlib.import_module("lagrad.linalg.elimination")


def chained(n: int, seed: int) -> tuple[sp.csr_array, NDArray[np.bool_]]:
    """A sparse matrix of which two thirds of the rows are definitions, some over others, with pivots ±1."""
    rng = np.random.default_rng(seed)
    known = rng.random(n) < 2 / 3
    dense = np.where(rng.random((n, n)) < 3.0 / n, rng.uniform(-1.5, 1.5, (n, n)), 0.0)
    dense[known] = np.tril(dense[known]) if n > 1 else dense[known]
    np.fill_diagonal(dense, np.where(known, rng.choice([-1.0, 1.0], n), rng.uniform(2.0, 4.0, n)))
    matrix = sp.csr_array(dense)
    matrix.sort_indices()
    return matrix, known


def levels(pattern: object) -> int:
    found = 0
    while isinstance(pattern, EliminatedPattern):
        pattern, found = pattern.inner, found + 1
    return found


def pattern_of(matrix: sp.csr_array, known: NDArray[np.bool_], counters: Counters | None = None) -> object:
    indptr, indices = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    own = np.where(known, np.arange(known.size), -1)
    return analyze_with(indptr, indices, matrix.shape[0], own, counters or Counters())


@pytest.mark.parametrize("seed", range(12))
def test_the_whole_block_is_solved_both_ways_at_other_values_too(seed: int) -> None:
    n = 5 + 11 * seed
    matrix, known = chained(n, seed)
    pattern = pattern_of(matrix, known)
    assert levels(pattern) >= 1
    factor = pattern.factor(matrix.data)  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    for _ in range(2):
        assert isinstance(factor, EliminatedFactor)
        for shape in ((n,), (n, 3)):
            b = rng.standard_normal(shape)
            for transpose, a in ((False, matrix.toarray()), (True, matrix.toarray().T)):
                wanted = np.linalg.solve(a, b)
                np.testing.assert_allclose(
                    factor.solve(b, transpose),
                    wanted,
                    rtol=0,
                    atol=1e-11 * np.linalg.cond(a) * np.abs(wanted).max(),
                )
        pivots = matrix.diagonal()
        matrix = sp.csr_array(
            (matrix.data * rng.uniform(0.5, 1.5, matrix.nnz), matrix.indices, matrix.indptr)
        )
        matrix.setdiag(pivots)
        factor = factor.refactor(matrix.data)


def test_definitions_over_definitions_go_level_by_level() -> None:
    """A loop of 60 definitions closed by one equation: what is left for the LU is small."""
    n = 61
    dense = np.eye(n) - 0.9 * np.eye(n, k=-1)
    dense[0, -1] = -0.3
    matrix = sp.csr_array(dense)
    known = np.arange(n) > 0
    pattern = pattern_of(matrix, known)
    assert levels(pattern) >= 4
    inner = pattern
    while isinstance(inner, EliminatedPattern):
        inner = inner.inner
    assert isinstance(inner, SuperLUPattern) and inner.n <= 6
    b = np.linspace(1.0, 2.0, n)
    found = pattern.factor(matrix.data).solve(b)  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, np.linalg.solve(dense, b), rtol=1e-13)


def test_a_sum_that_many_rows_mention_stays() -> None:
    """Eliminating it would fill the block: 40 rows would each hold its 40 terms."""
    n = 41
    dense = 3.0 * np.eye(n)
    dense[0] = dense[:, 0] = -0.1
    dense[0, 0] = 1.0
    dense += -0.2 * np.eye(n, k=1)
    known = np.zeros(n, np.bool_)
    known[0] = True
    assert levels(pattern_of(sp.csr_array(dense), known)) == 0


def test_a_block_that_would_lose_its_digits_is_factored_whole() -> None:
    """u = 1e9 x + y and u == …: the complement keeps 1 beside 1e18, seven digits too few."""
    n = 6
    dense = np.eye(n) + 0.1 * np.eye(n, k=1)
    dense[0] = [1.0, -1e9, -1.0, 0.0, 0.0, 0.0]
    dense[1] = [1e9, -1e18 + 256.0, 2.0, 0.0, 0.0, 0.0]
    matrix, known = sp.csr_array(dense), np.arange(n) == 0
    factor = pattern_of(matrix, known).factor(matrix.data)  # type: ignore[attr-defined]
    assert isinstance(factor, SuperLUFactor)
    assert isinstance(pattern_of(sp.csr_array(dense), np.zeros(n, np.bool_)), SuperLUPattern)


def without_elimination(monkeypatch: pytest.MonkeyPatch, program: lg.Program, dense_max: int) -> lg.System:
    with monkeypatch.context() as patch:
        patch.setattr(layers, "WORTH", 2.0)
        return lg.build(program, dense_max=dense_max)


@pytest.mark.parametrize("dense_max", [1, 64])
def test_power_flow_over_named_currents_is_the_power_flow(
    monkeypatch: pytest.MonkeyPatch, dense_max: int
) -> None:
    program = power_flow.build(currents=True)
    eliminated = lg.build(program, dense_max=dense_max)
    patterns = [block.pattern for block in eliminated.layout.pattern.large]
    assert any(isinstance(p, EliminatedPattern) for p in patterns) == (dense_max == 1)
    plain = lg.build(power_flow.build()).solve()
    one, other = eliminated.solve(), without_elimination(monkeypatch, program, dense_max).solve()
    for name in ("vm", "va", "slack_P"):
        np.testing.assert_allclose(one[name], plain[name], rtol=0, atol=1e-11)
    for name in ("e", "f", "a", "b"):
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-11)
    wanted = power_flow.EXPECTED["dslack_P/dPd"]
    found, straight = one.gradient("slack_P")["Pd"], plain.gradient("slack_P")["Pd"]
    np.testing.assert_allclose([found[bus - 1] for bus in wanted], list(wanted.values()), rtol=1e-7)
    np.testing.assert_allclose(found, straight, rtol=1e-9)
    multipliers, expected = one.multipliers("slack_P"), other.multipliers("slack_P")
    assert multipliers.keys() == expected.keys() and {"e", "f", "a", "b"} <= multipliers.keys()
    for name in expected:
        np.testing.assert_allclose(multipliers[name], expected[name], rtol=1e-9, atol=1e-9)
    assert one.certificate.residual < 1e-13 and multipliers.certificate.rcond > 1e-6


@pytest.mark.parametrize("k", [0, 7, 19])
def test_the_multiplier_of_an_eliminated_definition_is_what_relaxing_it_does(k: int) -> None:
    """A ring y_k + y_k³ / 10 == s_k + z_k of 20, over definitions s_k of its neighbours, relaxed by a parameter."""
    n = 20

    def ring() -> lg.Program:
        program = lg.Program("ring")
        z = program.parameter("z", np.linspace(0.2, 0.9, n))
        relaxed = program.parameter("relaxed", np.zeros(n))
        y = program.state("y", shape=n, guess=0.5)
        s = program.define(
            "s", 0.5 * lg.sin(y[np.arange(-1, n - 1)]) + 0.2 * lg.cos(y[np.arange(1, n + 1) % n])
        )
        program.constrain(y + 0.1 * y**3 == s + relaxed + z, name="ring")
        program.define("total", lg.sum(np.linspace(1.0, 2.0, n) * y))
        return program

    system = lg.build(ring(), dense_max=1)
    assert isinstance(system.layout.pattern.large[0].pattern, EliminatedPattern)
    multiplier = system.solve().multipliers("total")["s"][k]
    step = 1e-5 * np.eye(n)[k]
    up, down = (system.solve({"relaxed": sign * step})["total"] for sign in (1.0, -1.0))
    np.testing.assert_allclose(multiplier, (up - down) / 2e-5, rtol=1e-8)


def test_the_plan_is_worth_its_levels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, known = chained(80, 3)
    assert levels(pattern_of(matrix, known)) >= 1
    monkeypatch.setattr(elimination, "WORTH", 2.0)
    assert levels(pattern_of(matrix, known)) == 0


def crossed(n: int, seed: int) -> tuple[sp.csr_array, NDArray[np.int32]]:
    """A sparse matrix of triples (d, r, x) in which d defines the first column and stands at the third.

    Row d, u = w x + …, and row r, which holds u, stand at each other's columns, as a matching may put them.
    """
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, n)) < 2.0 / n, rng.uniform(-0.2, 0.2, (n, n)), 0.0)
    known = np.full(n, -1, np.int32)
    for k in range(0, n - 2, 3):
        dense[k + 1] = 0.0  # the definition of column k, at the position of column k + 1
        dense[k + 1, [k, k + 1, (k + 5) % n]] = 1.0, rng.uniform(2.0, 3.0), 0.3
        dense[:, k] = np.where(np.arange(n) == k + 1, 1.0, 0.0)
        dense[k, k] = rng.uniform(2.0, 3.0)  # the other row mentions what is defined
        dense[k, k + 1] = 0.0
        dense[k + 2, k + 2] = 4.0
        known[k + 1] = k
    dense += 4.0 * np.diag(dense.diagonal() == 0.0)
    matrix = sp.csr_array(dense)
    matrix.sort_indices()
    return matrix, known


@pytest.mark.parametrize("seed", range(8))
def test_a_definition_is_eliminated_where_the_matching_put_it_elsewhere(seed: int) -> None:
    n = 6 + 9 * seed
    matrix, known = crossed(n, seed)
    indptr, indices = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    pattern = analyze_with(indptr, indices, n, known, Counters())
    assert isinstance(pattern, EliminatedPattern)
    assert set(np.flatnonzero(known >= 0)) <= set(pattern.plan.gone_row)
    dense, rng = matrix.toarray(), np.random.default_rng(seed)
    factor = pattern.factor(matrix.data)
    other = matrix.data * rng.uniform(0.9, 1.1, matrix.nnz)
    for data in (matrix.data, other):
        factor = factor.refactor(data)
        assert isinstance(factor, EliminatedFactor)
        dense = sp.csr_array((data, indices, indptr), shape=(n, n)).toarray()
        for b in (rng.standard_normal(n), rng.standard_normal((n, 3))):
            for transpose, a in ((False, dense), (True, dense.T)):
                wanted = np.linalg.solve(a, b)
                found = factor.solve(b, transpose)
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11 * np.abs(wanted).max())


def test_names_leave_the_sparse_solver_the_pattern_that_there_is_without_them() -> None:
    sizes = []
    for currents in (False, True):
        system = lg.build(power_flow.build(currents=currents), dense_max=4)
        pattern = system.layout.pattern.large[0].pattern
        while isinstance(pattern, EliminatedPattern):
            pattern = pattern.inner
        sizes.append((pattern.n, pattern.indices.size))
    assert sizes[0] == sizes[1]


def test_rows_change_places_where_their_pivots_are_small() -> None:
    """Pairs [g b; −b g] with g far below b along a line: as they stand the pivots grow, exchanged they do not."""
    n = 400
    rng = np.random.default_rng(2)
    g = 10.0 ** rng.uniform(-9, -7, n // 2)
    dense = np.zeros((n, n))
    for k in range(n // 2):
        i = 2 * k
        dense[i : i + 2, i : i + 2] = [[g[k], 1.0], [-1.0, g[k]]]
        if i + 3 < n:
            coupling = rng.uniform(-0.3, 0.3, (2, 2))
            dense[i : i + 2, i + 2 : i + 4], dense[i + 2 : i + 4, i : i + 2] = coupling, coupling.T
    matrix = sp.csr_array(dense)
    indptr, indices = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    pattern = SuperLUPattern.analyze(indptr, indices, n, Counters())
    assert pattern.symmetric
    as_matched = pattern.diagonal.eliminate(matrix.data)[1]
    factor = pattern.factor(matrix.data)
    rows, columns = factor.order.constraint, np.argsort(factor.order.position)
    assert np.mean(rows != columns) > 0.9 and set(np.abs(rows - columns)) <= {0, 1}
    assert factor.order.eliminate(matrix.data)[1] < 1e3 < 1e6 < as_matched
    b = rng.standard_normal(n)
    for transpose, a in ((False, dense), (True, dense.T)):
        np.testing.assert_allclose(factor.solve(b, transpose), np.linalg.solve(a, b), rtol=1e-10)
    assert pattern.counters.factorizations == 1


def test_a_pattern_without_a_level_keeps_its_rows_where_they_are() -> None:
    """One definition at another column than its own is too little for a plan: no rows change places for it."""
    n = 12
    dense = 3.0 * np.eye(n) - np.eye(n, k=-1) - np.eye(n, k=1)
    dense[0], dense[1] = 0.0, 0.0
    dense[0, :2], dense[1, :3] = [2.0, 1.0], [5.0, 0.5, 1.0]
    matrix = sp.csr_array(dense)
    matrix.sort_indices()
    known = np.full(n, -1, np.int32)
    known[0] = 1
    indptr, indices = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    pattern = analyze_with(indptr, indices, n, known, Counters())
    assert levels(pattern) == 0
    assert np.array_equal(pattern.indptr, indptr) and np.array_equal(pattern.indices, indices)
    b = np.arange(1.0, n + 1.0)
    np.testing.assert_allclose(pattern.factor(matrix.data).solve(b), np.linalg.solve(dense, b), rtol=1e-12)


@pytest.mark.parametrize("n", [11, 12, 13, 40])
@pytest.mark.parametrize("seed", range(6))
def test_the_pattern_of_a_block_is_that_of_its_entries(n: int, seed: int) -> None:
    """Loops of cubic equations, of which one definition or a few name one state as a function of the next."""
    rng = np.random.default_rng(100 * n + seed)
    program = lg.Program("loop")
    q = program.parameter("q", rng.uniform(0.5, 1.5, n))
    y = program.state("y", shape=n, guess=0.3)
    defined = rng.permutation(n)[: 1 + seed]
    for k in range(n):
        c = int(rng.integers(n))
        right = 0.3 * y[k - 1] + 0.2 * lg.sin(y[c] if c != k else y[k - 1]) + q[k]
        program.constrain(y[k] == right if k in defined else 2.0 * y[k] + 0.1 * y[k] ** 3 - right == 0.0)
    program.define("total", lg.sum(np.linspace(1.0, 2.0, n) * y))
    system, dense = lg.build(program, dense_max=1), lg.build(program, dense_max=100).solve()
    for block in system.layout.pattern.large:
        rows = np.repeat(np.arange(block.hi - block.lo), np.diff(block.pattern.indptr))
        whole = system.layout.pattern
        of_entry = np.repeat(np.arange(whole.n), np.diff(whole.indptr))
        assert np.array_equal(of_entry[block.slots] - block.lo, rows)
        assert np.array_equal(whole.indices[block.slots] - block.lo, block.pattern.indices)
    sparse = system.solve()
    np.testing.assert_allclose(sparse["y"], dense["y"], rtol=1e-12)
    np.testing.assert_allclose(sparse.gradient("total")["q"], dense.gradient("total")["q"], rtol=1e-11)


def test_nothing_is_left_where_every_row_is_known() -> None:
    n = 7
    dense = np.eye(n)
    dense[0, -1] = 0.5
    matrix = sp.csr_array(dense)
    pattern = pattern_of(matrix, np.ones(n, np.bool_))
    b = np.arange(1.0, n + 1.0)
    np.testing.assert_allclose(pattern.factor(matrix.data).solve(b), np.linalg.solve(dense, b))  # type: ignore[attr-defined]


def test_digits_lost_over_several_levels_count_together() -> None:
    """u == 1e5 x leaves 1 of 1e5 + 1 in one row, w == u + … does in another: ten digits, past the eight allowed."""
    n = 8
    dense = np.eye(n) + 0.1 * np.eye(n, k=1)
    dense[:4] = 0.0
    dense[0, [0, 2]] = 1.0, -1e5
    dense[1, [0, 1, 4]] = -1.0, 1.0, 0.5
    dense[2, [0, 2, 3]] = -1.0, 1e5 + 1.0, 0.2
    dense[3, [1, 2, 3]] = -1.0, 1e5 + 1.0, 1.0
    dense[-1, 1] = 1e-3
    matrix = sp.csr_array(dense)
    factor = pattern_of(matrix, np.arange(n) < 2).factor(matrix.data)  # type: ignore[attr-defined]
    assert isinstance(factor, SuperLUFactor)
    b = np.linspace(1.0, 2.0, n)
    wanted = np.linalg.solve(dense, b)
    np.testing.assert_allclose(factor.solve(b), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
