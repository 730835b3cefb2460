"""What a System works out once is not worked out again, and what was solved before changes no answer.

Counted, not timed. Answers are compared to the last bit, and with SciPy's Newton on the same equations.
"""

from __future__ import annotations

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import lagrad as lg
from examples import bratu
from lagrad.linalg.sparse import Counters

N = 12
HERE = 1.0 + np.sin(np.arange(N * N).reshape(N, N))


def reference(lam: np.ndarray) -> np.ndarray:
    """Bratu's u (n, n) by Newton's method on SciPy's matrices."""
    a, u = bratu.negative_laplacian(N), np.zeros(N * N)
    rate = lam.ravel() / (N + 1) ** 2
    for _ in range(8):
        heat = rate * np.exp(u)
        u -= spla.spsolve(sp.csc_array(a - sp.diags_array(heat)), a @ u - heat)
    return u.reshape(N, N)


def test_pivots_are_searched_for_once():
    system = lg.build(bratu.build(N, HERE))
    first = system.solve()
    first.gradient("integral")
    assert (system.counters.analyses, system.counters.factorizations) == (1, 1)
    last = first
    for k in range(1, 6):
        lam = HERE * (1 + 0.01 * k)
        last = system.solve({"lam": lam}, start=last)
        last.gradient("integral")
        np.testing.assert_allclose(last["u"], reference(lam), rtol=0, atol=1e-13)
        system.solve({"lam": lam}).gradient("integral")
        assert last.report.counters.factorizations == 0
    assert (system.counters.analyses, system.counters.factorizations) == (1, 1)
    assert system.counters.rejections == 0


def test_a_report_counts_its_own_solve():
    system = lg.build(bratu.build(N, HERE))
    cold = system.solve()
    assert cold.report.counters == system.counters - Counters(analyses=1)
    assert cold.report.counters.factorizations == 1 and cold.report.counters.evaluations >= 3
    again = system.solve(start=cold).report.counters
    assert (again.factorizations, again.refactorizations) == (0, 1) and again.evaluations <= 3
    solved = cold.report.counters
    gradient = cold.gradient("integral")
    assert cold.report.counters is solved and solved.refinements == 0
    assert gradient.certificate.linear_residual < 1e-14


def test_answers_do_not_depend_on_what_was_solved_before():
    points = [HERE * (1 + 0.3 * k) for k in range(-2, 3)]

    def answers(system: lg.System, order: list[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        out = {}
        for k in order:
            solution = system.solve({"lam": points[k]})
            out[k] = solution["u"], solution.gradient("integral")["lam"]
        return out

    program = bratu.build(N, HERE)
    expected = answers(lg.build(program), [0, 1, 2, 3, 4])
    for order in ([4, 3, 2, 1, 0], [2, 2, 0, 4, 1, 3]):
        for k, (u, gradient) in answers(lg.build(program), order).items():
            assert np.array_equal(u, expected[k][0]) and np.array_equal(gradient, expected[k][1])
    shared = lg.build(program)
    with ThreadPoolExecutor(8) as pool:  # none has solved anything yet
        together = list(pool.map(lambda k: answers(shared, [k])[k], [k % 5 for k in range(40)]))
    for k, (u, gradient) in enumerate(together):
        assert np.array_equal(u, expected[k % 5][0]) and np.array_equal(gradient, expected[k % 5][1])
    assert shared.counters.factorizations == 1
    copied = pickle.loads(pickle.dumps(shared))
    assert np.array_equal(answers(copied, [3])[3][1], expected[3][1])


def test_pivots_that_do_not_serve_are_replaced_and_then_kept_along_a_chain():
    """Rotated pairs in a ring: at the declared point the diagonal is 1, at the other nearly 0."""
    n, target = 60, np.arange(1.0, 61.0)
    program = lg.Program("turned")
    turn = program.parameter("turn", 0.0)
    wanted = program.parameter("wanted", target)
    x = program.state("x", shape=(n,), guess=1.0)
    y = program.state("y", shape=(n,), guess=1.0)
    program.constrain(lg.cos(turn) * x + lg.sin(turn) * y + 1e-12 * lg.concatenate([x[1:], x[:1]]) == wanted)
    program.constrain(lg.cos(turn) * y - lg.sin(turn) * x + 0.1 * lg.concatenate([y[1:], y[:1]]) == 1.0)
    system = lg.build(program)
    system.solve()
    assert system.counters.rejections == 0

    angle = np.pi / 2 - 1e-13
    one, ring = np.eye(n), np.roll(np.eye(n), 1, axis=1)
    matrix = np.block(
        [
            [np.cos(angle) * one + 1e-12 * ring, np.sin(angle) * one],
            [-np.sin(angle) * one, np.cos(angle) * one + 0.1 * ring],
        ]
    )
    start = None
    for step, expected in ((0.0, (1, 1)), (0.01, (0, 0))):
        solution = system.solve({"turn": angle, "wanted": target + step}, start=start)
        truth = np.linalg.solve(matrix, np.concatenate([target + step, np.ones(n)]))
        np.testing.assert_allclose(
            np.concatenate([solution["x"], solution["y"]]), truth, rtol=1e-12, atol=1e-13
        )
        counters = solution.report.counters
        assert (counters.rejections, counters.factorizations) == expected
        start = solution


@pytest.mark.parametrize("mode", ["adjoint", "tangent"])
@pytest.mark.parametrize("many", [2, 7, 8, 9, 21])
def test_many_columns_take_one_factorization(mode: str, many: int) -> None:
    """Whole panels of columns and what is left over, against the dense inverse."""
    solution = lg.build(bratu.build(N, HERE)).solve()
    u, h2 = solution["u"].ravel(), 1 / (N + 1) ** 2
    matrix = bratu.negative_laplacian(N).toarray() - np.diag(h2 * HERE.ravel() * np.exp(u))
    truth = np.linalg.solve(matrix, np.diag(h2 * np.exp(u)))  # du/dlam
    places = [(3 * k) % (N * N) for k in range(many)]
    names = [f"[{k // N},{k % N}]" for k in places]
    counters = solution.layout.pattern.counters
    before = dataclasses.replace(counters)
    found = solution.jacobian([f"u{n}" for n in names], [f"lam{n}" for n in names], mode=mode)
    table = np.array([[found[f"u{a}", f"lam{b}"][0, 0] for b in names] for a in names])
    np.testing.assert_allclose(table, truth[np.ix_(places, places)], rtol=1e-11)
    done = counters - before
    assert done.factorizations == 0 and done.refactorizations <= 1 and done.evaluations <= 1


def test_a_linearization_evaluates_no_large_block_again():
    system = lg.build(bratu.build(N, HERE))
    solution = system.solve()
    at = solution.linearization
    residual, magnitude, data = system.layout.machine.jacobian(solution.v)
    assert np.array_equal(at.data, data) and np.array_equal(at.magnitude, magnitude)
    assert np.array_equal(at.residual, residual)
    # at another point nothing of it is taken over
    moved = dataclasses.replace(solution, v=solution.v * 1.01)
    assert np.array_equal(moved.linearization.data, system.layout.machine.jacobian(moved.v)[2])


def test_old_factors_serve_for_several_steps_and_end_at_the_same_root():
    lam = 5.0 * HERE / HERE.max()
    solution = lg.build(bratu.build(N, HERE)).solve({"lam": lam})
    np.testing.assert_allclose(solution["u"], reference(lam), rtol=1e-13)
    counters = solution.report.counters
    assert counters.residuals >= 3 and counters.refactorizations <= 3
    assert solution.certificate.residual < 1e-15


@pytest.mark.parametrize("more", [1e-6, 0.01, 0.5])
def test_partials_are_evaluated_where_a_warm_start_ends_and_where_it_factors(more: float) -> None:
    system = lg.build(bratu.build(N, HERE))
    lam = HERE * (1 + more)
    warm = system.solve({"lam": lam}, start=system.solve())
    np.testing.assert_allclose(warm["u"], reference(lam), rtol=0, atol=1e-13)
    counters = warm.report.counters
    assert counters.evaluations == 1 + counters.refactorizations
    assert counters.refactorizations == (1 if more > 0.1 else 0)


def test_a_gradient_estimates_no_condition_that_two_solves_bound() -> None:
    """What a certificate shows is computed when it is read; what could refuse the gradient, before."""
    solution = lg.build(bratu.build(N, HERE)).solve()
    at = solution.linearization
    gradient = solution.gradient("integral")
    assert "rcond_bound" in at.__dict__ and "rcond" not in at.__dict__
    block = at.layout.pattern.large[0].block
    matrix = bratu.negative_laplacian(N).toarray() - np.diag(
        HERE.ravel() / (N + 1) ** 2 * np.exp(solution["u"].ravel())
    )
    truth = 1.0 / np.linalg.cond(matrix, 1)
    assert at.rcond_bound[block] < truth
    assert gradient.certificate.rcond == pytest.approx(truth, rel=0.5)
    assert "rcond" in at.__dict__


@pytest.mark.parametrize("exponent", [-10, -13, -15, -17])
def test_a_large_block_is_refused_by_its_estimated_condition_alone(exponent: int) -> None:
    """A ring of 100 with one pair of rows nearly alike: refused below 1e-14, and not before."""
    n, near = 100, 10.0**exponent
    program = lg.Program("ring")
    p = program.parameter("p", np.linspace(1.0, 2.0, n))
    y = program.state("y", shape=n, guess=0.0)
    left, right = y[np.arange(-1, n - 1)], y[np.arange(1, n + 1) % n]
    program.constrain((3.0 * y - left + 0.5 * right)[:-1] == p[:-1], name="ring")
    program.constrain(
        3.0 * y[0] - y[n - 1] + 0.5 * y[1] + near * (y[n - 1] + y[50]) == p[0] + near * p[n - 1], name="alike"
    )
    program.define("total", lg.sum(y))
    at = lg.build(program).solve().linearization
    block = at.layout.pattern.large[0].block
    assert bool(at.conditioned(1e-14)[block]) == bool(at.rcond[block] > 1e-14) == (exponent >= -13)
