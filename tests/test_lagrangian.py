"""The numeric Lagrangian at any (u, p, λ): against SymPy on every fixture, and against the adjoints where solved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fixtures import FIXTURES, HIDDEN, HIDDEN_IN_LOOP, STRUCTURAL, Fixture, declare
from laws import CASES, SYMPY_MAX, Case, close, flat, lagrangian_of_sympy, symbols

import lagrad as lg
from lagrad.errors import DeclarationError, EvaluationError, ShapeError, UnknownNameError
from lagrad.expr.graph import STATE
from lagrad.lagrangian.numeric import LagrangianFunction, lagrangian_function


def constraint_order(fixture: Fixture) -> list[str]:
    return [*fixture.constraints, *fixture.definitions]


def random_point(fixture: Fixture, seed: int) -> tuple[list[float], list[float], list[float]]:
    """States, parameters and multipliers in the order of `symbols`; states near the guesses, nothing solved."""
    random, s = np.random.default_rng(seed), symbols(fixture)
    start = lagrangian_function(declare(fixture), s.names[0])
    guess = start.split_states(start.guess)
    u = flat(guess, fixture.shapes)
    u = u * (1.0 + 0.2 * random.uniform(-1.0, 1.0, u.size)) + 0.01 * random.uniform(size=u.size)
    p = np.array(s.point) * (1.0 + 0.1 * random.uniform(-1.0, 1.0, len(s.point)))
    return u.tolist(), p.tolist(), random.normal(size=len(s.rows)).tolist()


def declared_order(f: LagrangianFunction, fixture: Fixture, seed_names: list[str]) -> Any:
    """Positions in lagrad's [u, p, λ] of the variables in the order of `symbols`."""
    u = f.split_states(np.arange(f.n, dtype=float))
    p = f.split_parameters(np.arange(f.m, dtype=float))
    lam = f.split_constraints(np.arange(f.nc, dtype=float))
    parts = flat(u, fixture.shapes), f.n + flat(p, fixture.parameters), f.n + f.m + flat(lam, seed_names)
    return np.concatenate(parts).astype(int)


@pytest.mark.parametrize(
    "fixture",
    [
        # SymPy takes 10 s for the second derivatives of long sums in nested functions
        pytest.param(f, marks=pytest.mark.long if f in (HIDDEN, HIDDEN_IN_LOOP) else ())
        for f in (*FIXTURES, *STRUCTURAL)
        if 0 < f.size <= SYMPY_MAX
    ],
    ids=str,
)
def test_at_any_point_numbers_are_those_of_sympy(fixture: Fixture) -> None:
    s = symbols(fixture)
    output = fixture.outputs[0] if fixture.outputs else s.names[0]
    point = random_point(fixture, 3)
    value, gradient, residual, matrix = lagrangian_of_sympy(fixture, output, point)
    assert np.isfinite(matrix).all() and np.isfinite(value)
    for seed in (1, 2):  # the rows shuffled in two ways
        f = lagrangian_function(declare(fixture, seed), output)
        assert (f.n, f.m, f.nc) == (len(s.states), len(s.parameters), len(s.rows))
        order = declared_order(f, fixture, constraint_order(fixture))
        x = np.empty(order.size)
        x[order] = np.concatenate(point)
        u, p, lam = np.split(x, [f.n, f.n + f.m])
        close(f.value(u, p, lam), value, 1e-12)
        assert f.value(u, p, np.zeros(f.nc)) == f.objective(u, p) == u[f.output]
        close(np.concatenate(f.gradient(u, p, lam))[order], gradient, 1e-11)
        rows = order[f.n + f.m :] - f.n - f.m
        close(f.residual(u, p)[rows], residual, 1e-12)
        kkt = f.kkt(u, p, lam)
        assert kkt.has_canonical_format and kkt.shape == (order.size, order.size)
        close(kkt.toarray()[np.ix_(order, order)], matrix, 1e-10)
        size = f.n + f.m
        np.testing.assert_array_equal(f.hessian(u, p, lam).toarray(), kkt.toarray()[:size, :size])
        np.testing.assert_array_equal(f.jacobian(u, p).toarray(), -kkt.toarray()[size:, :size])
        assert (kkt.toarray() == kkt.toarray().T).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_where_solved_the_multipliers_are_the_adjoints(case: Case) -> None:
    fixture, solution = case.fixture, case.solution
    for output in fixture.outputs:
        multipliers = solution.multipliers(output)
        point = declare(fixture).lagrangian(output).at(solution.states, solution.parameters, multipliers)
        sizes = {name: 1e-9 * (1.0 + np.abs(lam).max(initial=0.0)) for name, lam in multipliers.items()}
        worst = max(sizes.values(), default=1e-9)
        scale = np.abs(point.jacobian.data).max(initial=1.0)
        for name, slope in point.by_states.items():
            assert np.abs(slope).max(initial=0.0) <= worst * scale, name
        close(
            flat(point.by_parameters, fixture.parameters),
            flat(solution.gradient(output), fixture.parameters),
            1e-9,
        )
        assert point.value == pytest.approx(float(np.ravel(solution[output])[0]), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("fixture", [f for f in FIXTURES if f.outputs], ids=str)
def test_the_hessian_is_the_difference_of_gradients(fixture: Fixture) -> None:
    """Also for the large fixtures; the error of a central difference falls with the square of its step."""
    output = fixture.outputs[-1]
    f = lagrangian_function(declare(fixture), output)
    random = np.random.default_rng(5)
    u = f.guess * (1.0 + 0.1 * random.uniform(-1.0, 1.0, f.n)) + 0.01
    p, lam, direction = f.values, random.normal(size=f.nc), random.normal(size=f.n + f.m)
    exact = f.hessian(u, p, lam) @ direction

    def gradient(step: float) -> Any:
        by_u, by_p, _ = f.gradient(u + step * direction[: f.n], p + step * direction[f.n :], lam)
        return np.concatenate([by_u, by_p])

    errors = [
        np.abs((gradient(h) - gradient(-h)) / (2 * h) - exact).max(initial=0.0) for h in (1e-3, 0.5e-3, 1e-4)
    ]
    size = np.abs(exact).max(initial=0.0) + np.abs(gradient(0.0)).max(initial=1.0)
    assert errors[2] <= 1e-5 * size
    assert errors[1] <= 0.3 * errors[0] + 1e-9 * size


def hidden_program() -> lg.Program:
    """exp and sin of a long sum, used in two rows; a long product shared by three; 14 states, 3 constraints."""
    program = lg.Program("hidden")
    q = program.parameter("q", [0.3, -0.2])
    x = program.state("x", guess=0.1 * np.arange(1.0, 13.0))
    y = program.state("y", guess=0.5)
    shared = lg.sum(x * np.linspace(0.2, 0.9, 12)) + q[0]
    product = lg.exp(0.1 * shared) * lg.sin(y + q[1]) * (1.3 + lg.cos(x[0] * y) ** 2) * lg.exp(-x[3] * y)
    program.constrain(lg.sin(shared) + product == y * x[2], name="first")
    program.constrain(product**2 == x[1] + lg.exp(-shared), name="second")
    program.define("obj", product * lg.log(2.0 + x[4] ** 2))
    return program


def test_hidden_states_are_eliminated_or_shown() -> None:
    program = hidden_program()
    f = lagrangian_function(program, "obj")
    seen = lagrangian_function(program, "obj", hidden=True)
    assert (f.n, f.nc) == (14, 3)
    count = seen.n - f.n
    assert count >= 2 and seen.nc == f.nc + count
    assert (
        seen.state_names[: f.n] == f.state_names and seen.state_names[f.n :] == seen.constraint_names[f.nc :]
    )
    assert all(name.startswith("‹") for name in seen.state_names[f.n :])
    # eliminated by hand: dense linear algebra on the shown states
    random = np.random.default_rng(2)
    u, p, lam = f.guess + 0.1 * random.normal(size=f.n), f.values, random.normal(size=f.nc)
    full = np.concatenate([u, seen.guess[f.n :]])
    for _ in range(count):  # their constraints are h = g(earlier h), so that many substitutions solve them
        full[f.n :] -= seen.residual(full, p)[f.nc :]
    np.testing.assert_allclose(seen.residual(full, p)[: f.nc], f.residual(u, p), rtol=1e-13, atol=1e-15)
    a = seen.jacobian(full, p).toarray()
    inner, outer = np.arange(f.n, seen.n), np.r_[np.arange(f.n), seen.n + np.arange(f.m)]
    totals = np.linalg.solve(a[f.nc :][:, inner], -a[f.nc :][:, outer])
    mu = np.linalg.solve(a[f.nc :][:, inner].T, -a[: f.nc][:, inner].T @ lam)
    lift = np.zeros((seen.n + seen.m, outer.size))
    lift[outer, np.arange(outer.size)] = 1.0
    lift[inner] = totals
    np.testing.assert_allclose(f.jacobian(u, p).toarray(), a[: f.nc] @ lift, rtol=1e-11, atol=1e-14)
    h = seen.hessian(full, p, np.concatenate([lam, mu])).toarray()
    np.testing.assert_allclose(f.hessian(u, p, lam).toarray(), lift.T @ h @ lift, rtol=1e-10, atol=1e-13)


def test_free_programs_and_patterns() -> None:
    """Fewer constraints than states, and more; x·x and x·y·x; the same pattern at every point."""
    for count in (1, 4):
        program = lg.Program("free")
        x = program.state("x", guess=[0.3, -0.7, 1.1])
        a = program.parameter("a", 2.0)
        for k in range(count):
            program.constrain(
                x[0] * x[1] * x[0] + a * x[2] ** 2 * (k + 1.0) == x[0] / (x[2] + 3.0), name=f"c{k}"
            )
        program.define("obj", x[0] * x[0] + x[1])
        f = lagrangian_function(program, "obj")
        assert (f.n, f.m, f.nc) == (4, 1, count + 1)
        lam = np.arange(1.0, f.nc + 1.0)
        u = f.guess
        h = f.hessian(u, f.values, lam).toarray()
        t, w = u[:3], lam[:count].sum()
        scaled = (lam[:count] * np.arange(1.0, count + 1.0)).sum()
        assert h[0, 0] == pytest.approx(2 * lam[-1] - 2 * w * t[1])
        assert h[0, 1] == h[1, 0] == pytest.approx(-2 * w * t[0])
        assert h[0, 2] == pytest.approx(-w / (t[2] + 3.0) ** 2)
        assert h[2, 2] == pytest.approx(-2 * scaled * 2.0 + 2 * w * t[0] / (t[2] + 3.0) ** 3)
        assert h[2, 4] == h[4, 2] == pytest.approx(-2 * scaled * t[2])
        first, second = f.kkt(u, f.values, lam), f.kkt(u * 0.0, f.values, lam * 0.0)
        np.testing.assert_array_equal(first.indices, second.indices)
        assert first.nnz == second.nnz
        second.eliminate_zeros()  # in place: the next one must not share its pattern
        assert second.nnz < first.nnz == f.kkt(u, f.values, lam).nnz
        np.testing.assert_array_equal(f.kkt(u, f.values, lam).toarray(), first.toarray())


def test_one_variable_at_two_leaves() -> None:
    """A variable that a graph holds as two nodes: x·x' has second derivative 2, not 1."""
    program = lg.Program("twice")
    x = program.state("x", guess=3.0)
    again = lg.Expression(program.graph, program.graph.node(STATE, 0, 0))
    program.constrain(lg.exp(x * again) == 5.0, name="law")
    f = lagrangian_function(program, "x")
    expected = -(2.0 + 4.0 * 0.7**2) * np.exp(0.7**2)
    np.testing.assert_allclose(f.hessian([0.7], [], [1.0]).toarray(), [[expected]], rtol=1e-14)


def test_names_and_bounds_in_order_of_declaration() -> None:
    program = lg.Program("tank")
    level = program.state("level", guess=[[1.0, 2.0]], lower=0.5, upper=[[3.0, 4.0]])
    k = program.parameter("k", shape=2)
    program.constrain(level[0] == k, name="law")
    program.define("total", lg.sum(level) * 3.0)
    f = lagrangian_function(program, "total")
    assert f.state_names == ["level[0,0]", "level[0,1]", "total"]
    assert f.parameter_names == ["k[0]", "k[1]"] and f.constraint_names == ["law[0]", "law[1]", "total"]
    np.testing.assert_array_equal(f.guess, [1.0, 2.0, 9.0])  # the definition is evaluated
    np.testing.assert_array_equal(f.lower, [0.5, 0.5, -np.inf])
    np.testing.assert_array_equal(f.upper, [3.0, 4.0, np.inf])
    assert np.isnan(f.values).all()
    u = np.array([5.0, 6.0, 7.0])
    assert f.split_states(u)["level"].tolist() == [[5.0, 6.0]]
    np.testing.assert_array_equal(f.flat_states(f.split_states(u)), u)
    np.testing.assert_array_equal(f.flat_constraints({"law": [1.0, 2.0]}), [1.0, 2.0, 0.0])
    np.testing.assert_array_equal(f.flat_parameters({"k": [1.0, 2.0]}), [1.0, 2.0])
    with pytest.raises(UnknownNameError, match="leval"):
        f.flat_states({"leval": 1.0})
    with pytest.raises(ShapeError, match="λ"):
        f.value(u, [1.0, 2.0], [1.0])
    with pytest.raises(DeclarationError, match=r"k\[0\].*no value"):
        program.lagrangian("total").at()
    with pytest.raises(DeclarationError, match="left open"):
        program.lagrangian().at(parameters={"k": [1.0, 2.0]})


def test_a_point_outside_the_domain_is_refused_by_name() -> None:
    program = lg.Program("edge")
    x = program.state("x", guess=[1.0, 4.0])
    program.constrain(x[0] == 2.0, name="plain")
    program.constrain(lg.sqrt(x[1]) + lg.log(x[0]) == 1.0, name="rooted")
    program.define("obj", x[0] + x[1])
    lagrangian = program.lagrangian("obj")
    assert lagrangian.at(multipliers={"rooted": 1.0}).value == 5.0 - 1.0
    outside = lagrangian.at({"x": [1.0, -4.0]}, multipliers={"rooted": 1.0})
    for what in ("value", "by_states", "by_multipliers", "hessian", "kkt"):
        with pytest.raises(EvaluationError, match="rooted"):
            getattr(outside, what)
    edge = lagrangian.at({"x": [1.0, 0.0]}, multipliers={"rooted": 1.0})
    assert edge.value == 1.0 + 1.0  # the definition follows the states given
    assert lagrangian.at({"x": [1.0, 0.0], "obj": 7.0}).value == 7.0
    for what in ("by_states", "jacobian", "hessian", "kkt"):
        with pytest.raises(EvaluationError, match="rooted"):
            getattr(edge, what)
    flat_function = lagrangian_function(program, "obj")
    assert np.isnan(flat_function.residual([1.0, -4.0, 0.0], [])[1])


def test_declaring_more_does_not_change_a_lagrangian() -> None:
    program = lg.Program("grows")
    x = program.state("x", guess=2.0)
    program.constrain(x**3 == 8.0, name="law")
    lagrangian = program.lagrangian("x")
    program.define("later", x * x)
    point = lagrangian.at(multipliers={"law": 1.0})
    assert list(point.by_states) == ["x"] and list(point.by_multipliers) == ["law"]
    assert point.by_states["x"] == 1.0 - 12.0
