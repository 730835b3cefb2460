"""`lagrad.minimize`: known minima by every method, and every way to fail told as what it is.

The truths: the reference values of Hock and Schittkowski's problems, closed forms, SciPy on a function written by hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from example_files import load
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen

import lagrad as lg
from lagrad.errors import DeclarationError, UnknownNameError
from lagrad.lagrangian.optimality import certify
from lagrad.lagrangian.result import STATUSES, Record

hock_schittkowski = load("examples/hock_schittkowski.py")
sellar = load("examples/sellar.py")
FULL_SPACE = ["sqp", "augmented-lagrangian"]
SECOND_ORDER = ["reduced", *FULL_SPACE]
ALL = [*SECOND_ORDER, "primal-dual", "one-shot", "auxiliary-coordinates"]


# -- known minima --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", FULL_SPACE)
@pytest.mark.parametrize("name", hock_schittkowski.EXPECTED)
def test_hock_schittkowski(name: str, method: str) -> None:
    result = lg.minimize(hock_schittkowski.build(name), "f", method=method, tolerance=1e-10)
    assert result.success, result.message
    assert max(hock_schittkowski.errors(name, result)) <= 1e-8
    assert result.certificate.minimum and result.certificate.curvature > 0.0


SELLAR: dict[str, Any] = {
    "over": ["z", "x"],
    "bounds": sellar.LIMITS,
    "inequalities": ["con1", "con2"],
}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("reduced", {"solver": "SLSQP"}),
        ("reduced", {"solver": "trust-constr", "tolerance": 1e-9}),
        ("sqp", {"tolerance": 1e-10}),
        ("augmented-lagrangian", {"tolerance": 1e-10}),
    ],
)
def test_sellar_within_its_limits(method: str, options: dict[str, Any]) -> None:
    result = lg.minimize(sellar.build(), "obj", method=method, **SELLAR, **options)
    assert result.success, result.message
    assert result.fun == pytest.approx(sellar.BEST["obj"], abs=1e-7)
    np.testing.assert_allclose(result.x["z"], [sellar.BEST["z0"], sellar.BEST["z1"]], atol=1e-6)
    assert float(result.x["x"]) == pytest.approx(0.0, abs=1e-5)
    # y1 is held at 3.16: one unit more of con1's limit lowers obj by what y1 lowers it
    system = lg.build(sellar.build())

    def best(limit: float) -> float:
        kept = {**SELLAR, "inequalities": {"con1": (None, limit), "con2": (None, 0.0)}}
        return lg.minimize(sellar.build(), "obj", method="sqp", tolerance=1e-11, **kept).fun

    if method == "sqp":
        slope = (best(1e-4) - best(-1e-4)) / 2e-4
        assert float(result.bound_multipliers["con1"]) == pytest.approx(slope, rel=1e-5)
    solution = system.solve(result.x)
    assert float(solution["obj"]) == pytest.approx(result.fun, abs=1e-7)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((m, {"tolerance": 1e-9}) for m in SECOND_ORDER),
        ("primal-dual", {"tolerance": 1e-8}),
        ("one-shot", {"tolerance": 1e-9}),
        ("one-shot", {"tolerance": 1e-9, "preconditioner": "fixed-point"}),
        ("auxiliary-coordinates", {"tolerance": 1e-8}),
        ("auxiliary-coordinates", {"tolerance": 1e-8, "blocks": [["y"], ["p"]], "penalty": 5.0}),
    ],
)
def test_multipliers_are_adjoints_where_nothing_else_holds(method: str, options: dict[str, Any]) -> None:
    """Free parameters, no active limit: λ is the adjoint, the reduced gradient is zero."""
    program = lg.Program("tracking")
    p = program.parameter("p", [0.5, 1.5])
    y = program.state("y", guess=[1.0, 1.0])
    program.constrain(y == p - 0.1 * lg.tanh(y[::-1]), name="law")
    cost = 0.3 * lg.sum(p**2)
    program.define("J", (y[0] - 1.0) ** 2 + 3 * (y[1] + 2.0) ** 2 + y[0] * y[1] + cost)
    result = lg.minimize(program, "J", over=["p"], method=method, **options)
    assert result.success, result.message
    solution = lg.build(program).solve(result.x, start=result.states)
    np.testing.assert_allclose(solution.gradient("J")["p"], 0.0, atol=1e-7)
    adjoint = solution.multipliers("J")
    assert np.abs(adjoint["law"]).min() > 0.1
    np.testing.assert_allclose(result.multipliers["law"], adjoint["law"], atol=1e-6)
    assert float(result.multipliers["J"]) == float(adjoint["J"]) == 1.0
    assert result.history["distance"][-1] <= 1e-6


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "primal-dual") for name in hock_schittkowski.EXPECTED),
        *((name, "auxiliary-coordinates") for name in hock_schittkowski.EXPECTED if name != "HS77"),
    ],  # auxiliary coordinates find another minimum of HS77
)
def test_first_order_methods_on_hock_schittkowski(name: str, method: str) -> None:
    result = lg.minimize(hock_schittkowski.build(name), "f", method=method, max_iterations=2000)
    assert result.success, result.message
    assert max(hock_schittkowski.errors(name, result)) <= 2e-5


@pytest.mark.parametrize("method", ALL)
def test_a_bound_on_a_parameter(method: str) -> None:
    """min (y − 3)² + (q − 1)², y = 2 p, 0 <= p <= 1, q >= 2: at p = 1 the slope is 2 · 2 (2 − 3), at q = 2 it is 2."""
    program = lg.Program("held")
    p, q = program.parameter("p", 0.3), program.parameter("q", 2.5)
    y = program.state("y", guess=1.0)
    program.constrain(y == 2 * p, name="law")
    program.define("J", (y - 3) ** 2 + (q - 1) ** 2)
    result = lg.minimize(program, "J", over=["p", "q"], bounds={"p": (0, 1), "q": (2, None)}, method=method)
    assert result.success, result.message
    assert [float(result.x[k]) for k in "pq"] == pytest.approx([1.0, 2.0], abs=1e-6)
    assert float(result.bound_multipliers["p"]) == pytest.approx(-4.0, abs=1e-5)
    assert float(result.bound_multipliers["q"]) == pytest.approx(2.0, abs=1e-5)
    assert float(result.multipliers["law"]) == pytest.approx(-2.0, abs=1e-5)


@pytest.mark.parametrize("solver", ["L-BFGS-B", "SLSQP", "trust-constr", "Newton-CG"])
def test_reduced_by_every_solver_of_scipy(solver: str) -> None:
    program = lg.Program("rosenbrock")
    x = program.parameter("x", [-1.2, 1.0, 0.7])
    program.define("f", lg.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))
    result = lg.minimize(program, "f", over=["x"], method="reduced", solver=solver, tolerance=1e-7)
    assert result.success, result.message
    np.testing.assert_allclose(result.x["x"], 1.0, atol=1e-5)
    assert result.history["objective"][0] == pytest.approx(rosen([-1.2, 1.0, 0.7]), rel=1e-12)


@pytest.mark.parametrize("method", FULL_SPACE)
def test_an_equality_on_a_definition(method: str) -> None:
    """The point of the ellipse x²/4 + y² = 1 nearest to (3, 2): the constraint a definition, or the program's."""
    asked = lg.Program("asked")
    a = asked.parameter("a", [1.0, 1.0])
    asked.define("ellipse", a[0] ** 2 / 4 + a[1] ** 2)
    asked.define("far", (a[0] - 3) ** 2 + (a[1] - 2) ** 2)
    one = lg.minimize(asked, "far", over="a", method=method, equalities={"ellipse": 1.0}, tolerance=1e-10)
    own = lg.Program("own")
    b = own.state("b", guess=[1.0, 1.0])
    own.constrain(b[0] ** 2 / 4 + b[1] ** 2 == 1.0, name="ellipse")
    own.define("far", (b[0] - 3) ** 2 + (b[1] - 2) ** 2)
    other = lg.minimize(own, "far", method=method, tolerance=1e-10)
    assert one.success and other.success
    np.testing.assert_allclose(one.x["a"], other.states["b"], atol=1e-8)
    assert float(one.equality_multipliers["ellipse"]) == pytest.approx(
        float(other.multipliers["ellipse"]), abs=1e-8
    )
    x, y = one.x["a"]
    # Lagrange: (x − 3, y − 2) is along (x/4, y)
    assert (x - 3) * y == pytest.approx((y - 2) * x / 4, abs=1e-8)


def test_elements_of_parameters_move_alone() -> None:
    program = lg.Program("elements")
    x = program.parameter("x", [5.0, 7.0, 9.0])
    program.define("f", lg.sum((x - 1.0) ** 2))
    result = lg.minimize(program, "f", over=["x[1]"], bounds={"x[1]": (2.0, None)}, tolerance=1e-10)
    assert result.success
    np.testing.assert_allclose(result.x["x"], [5.0, 2.0, 9.0], atol=1e-8)
    np.testing.assert_allclose(result.bound_multipliers["x"], [0.0, 2.0, 0.0], atol=1e-7)


# -- ways to fail ----------------------------------------------------------------------------------------------------
def infeasible() -> tuple[lg.Program, dict[str, Any]]:
    program = lg.Program("infeasible")
    x = program.parameter("x", 0.5)
    program.define("c", x * x + 1)
    program.define("f", 3 * x)
    return program, {"over": ["x"], "equalities": ["c"]}


def unbounded() -> tuple[lg.Program, dict[str, Any]]:
    program = lg.Program("unbounded")
    x = program.parameter("x", 0.5)
    y = program.define("y", 3 * x)
    program.define("f", x - 2 * y)
    return program, {"over": ["x"]}


def singular() -> tuple[lg.Program, dict[str, Any]]:
    """Feasible at a = 0 alone, where the constraint has no slope: no multiplier exists."""
    program = lg.Program("singular")
    a, b = program.state("a", guess=1.0), program.state("b", guess=2.0)
    program.constrain(a * a == 0, name="flat")
    program.define("f", a + b * b)
    return program, {}


def dependent() -> tuple[lg.Program, dict[str, Any]]:
    """The same said twice: many multipliers."""
    program = lg.Program("dependent")
    a, b, c = (program.state(name, guess=2.0) for name in "abc")
    program.constrain(a + b == 1, name="one")
    program.constrain(2 * a + 2 * b == 2, name="two")
    program.define("f", a * a + b * b + c * c)
    return program, {}


def short() -> tuple[lg.Program, dict[str, Any]]:
    program = lg.Program("rosenbrock")
    x = program.parameter("x", [-1.2, 1.0])
    program.define("f", 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2)
    return program, {"over": ["x"], "max_iterations": 3}


@pytest.mark.parametrize(
    ("method", "case", "status"),
    [
        *((m, infeasible, "infeasible") for m in SECOND_ORDER),
        # ten seconds each: penalties and multipliers have to grow by many powers of ten
        pytest.param("primal-dual", infeasible, "infeasible", marks=pytest.mark.long),
        pytest.param("auxiliary-coordinates", infeasible, "infeasible", marks=pytest.mark.long),
        *((m, unbounded, "unbounded") for m in SECOND_ORDER),
        *((m, singular, "singular") for m in FULL_SPACE),
        *((m, dependent, "singular") for m in ALL if m not in ("one-shot", "reduced")),
        *((m, short, "iterations") for m in ALL),
    ],
)
def test_failure_is_told(method: str, case: Any, status: str) -> None:
    program, arguments = case()
    result = lg.minimize(program, "f", method=method, **arguments)
    assert (result.success, result.status) == (False, status), result.message
    assert result.message.startswith(STATUSES[status])
    if status == "iterations":
        assert result.nit == 3
    if case is infeasible:
        assert "constraint c is off by" in result.message


@pytest.mark.parametrize("method", ["primal-dual", "one-shot", "auxiliary-coordinates"])
@pytest.mark.parametrize("allowed", [30, None])
def test_short_steps_tell_an_unbounded_objective(method: str, allowed: int | None) -> None:
    """Their steps stay short where the objective falls without end; the ray it falls along is looked for."""
    program, arguments = unbounded()
    result = lg.minimize(program, "f", method=method, max_iterations=allowed, **arguments)
    assert (result.success, result.status) == (False, "unbounded"), result.message
    assert result.nit <= 400


def test_a_ray_bends_along_constraints_and_ends_at_bounds() -> None:
    from lagrad.lagrangian.problem import make_problem
    from lagrad.lagrangian.unbounded import falls_forever

    program = lg.Program("ray")
    x = program.parameter("x", [0.5, 0.25, 0.0])
    program.define("parabola", x[1] - x[0] ** 2)
    program.define("f", -x[1] + x[2] ** 2)

    def found(bounds: Any) -> bool:
        problem = make_problem(program, "f", ["x"], bounds, {"parabola": 0.0}, {}, {}, False)
        return falls_forever(problem, problem.x0)

    assert found({})
    assert not found({"x": (None, [np.inf, 1e6, np.inf])})
    assert not found({"x": (-9.0, 9.0)})


@pytest.mark.parametrize("method", SECOND_ORDER)
def test_a_deep_minimum_is_not_called_unbounded(method: str) -> None:
    """(x − 1e7)² − 1e14, written out: a hundred times deeper than where falling begins to be suspicious."""
    program = lg.Program("deep")
    x = program.parameter("x", 0.0)
    program.define("f", x**2 - 2e7 * x)
    result = lg.minimize(program, "f", over=["x"], method=method)
    assert result.success, result.message
    assert result.fun == pytest.approx(-1e14, rel=1e-12)


def test_bounds_that_are_nearly_met_do_not_hide_curvature() -> None:
    """A convex quadratic in a box: the barrier's 1e10 beside it once made its own curvature of 1 count as none."""
    random = np.random.default_rng(1)
    Q, c = random.normal(size=(6, 6)), 3.0 * random.normal(size=6)
    Q = Q @ Q.T + np.eye(6)
    program = lg.Program("box")
    x = program.parameter("x", np.zeros(6))
    y = program.state("y", guess=np.zeros(6))
    program.constrain(y == Q @ x, name="c")
    program.define("f", 0.5 * lg.sum(x * y) + lg.sum(c * x))
    result = lg.minimize(program, "f", over=["x"], bounds={"x": (-0.3, 0.4)}, tolerance=1e-11)
    assert result.success and result.nit <= 20
    best = scipy_minimize(
        lambda v: 0.5 * v @ Q @ v + c @ v, np.zeros(6), jac=lambda v: Q @ v + c, bounds=[(-0.3, 0.4)] * 6,
        tol=1e-14,
    )  # fmt: skip
    assert result.fun == pytest.approx(best.fun, abs=1e-7)
    # a multiplier of a bound is the slope that it holds up: positive at a lower one, negative at an upper one
    slope = Q @ best.x + c
    np.testing.assert_allclose(
        result.bound_multipliers["x"], np.where(abs(slope) > 1e-5, slope, 0.0), atol=1e-5
    )


@pytest.mark.parametrize("method", ["reduced", "sqp", "one-shot"])
def test_a_slow_fall_without_end_is_unbounded(method: str) -> None:
    program = lg.Program("log")
    x = program.parameter("x", 1.0)
    program.define("f", -lg.log(x))
    result = lg.minimize(program, "f", over=["x"], method=method, max_iterations=100)
    assert result.status == "unbounded", result.message


@pytest.mark.parametrize(
    ("f", "endless"),
    [
        (lambda x: -lg.log(x), True),
        (lambda x: -lg.sqrt(x), True),
        (lambda x: lg.log(x) - lg.log(x * x + x), True),
        (lambda x: 1.0 / x, False),
        (lambda x: x**-0.2, False),
        (lambda x: -lg.arctan(x), False),
        (lambda x: lg.exp(-x), False),
        (lambda x: -lg.log(x) + 1e-9 * x, False),
    ],
)
def test_what_falls_forever(f: Any, endless: bool) -> None:
    from lagrad.lagrangian.problem import make_problem
    from lagrad.lagrangian.unbounded import falls_forever

    program = lg.Program("slow")
    x = program.parameter("x", 2.0)
    program.define("f", f(x))
    problem = make_problem(program, "f", ["x"], {}, {}, {}, {}, False)
    assert falls_forever(problem, problem.x0) == endless


@pytest.mark.parametrize("method", SECOND_ORDER)
def test_a_minimum_without_multipliers_is_singular(method: str) -> None:
    """Hock and Schittkowski's problem 13: the minimum is (1, 0), a cusp."""
    program = lg.Program("hs13")
    x = program.parameter("x", [-2.0, -2.0])
    program.define("g", (1 - x[0]) ** 3 - x[1])
    program.define("f", (x[0] - 2) ** 2 + x[1] ** 2)
    result = lg.minimize(
        program, "f", over=["x"], method=method, bounds={"x": (0, None)}, inequalities={"g": (0.0, None)},
        max_iterations=100,
    )  # fmt: skip
    assert (result.success, result.status) == (False, "singular"), result.message
    np.testing.assert_allclose(result.x["x"], [1.0, 0.0], atol=0.02)


def test_the_bound_that_cannot_be_met_is_named() -> None:
    program = lg.Program("far")
    a = program.parameter("a", 0.3)
    y = program.state("y", guess=1.0)
    program.constrain(y**3 + y == a, name="c")
    program.define("g", a * a + y * y + 1.0)
    program.define("f", a + y)
    result = lg.minimize(program, "f", over=["a"], method="reduced", inequalities=["g"], max_iterations=20)
    assert result.status == "infeasible" and "g is 1 beyond its upper bound" in result.message


@pytest.mark.parametrize("method", ALL)
def test_a_small_objective_is_not_flat(method: str) -> None:
    """1e-9 times an objective: the same minimum, multipliers 1e-9 times as large. It was "converged" at the start."""

    def solve(size: float) -> Any:
        program = lg.Program("small")
        x = program.parameter("x", [3.0, -2.0])
        y = program.state("y", guess=0.5)
        program.constrain(y + 0.1 * y**3 == x[0] + x[1], name="c")
        program.define("f", size * ((y - 1) ** 2 + x[0] ** 2 + y * x[0]))
        return lg.minimize(program, "f", over=["x"], bounds={"x": (None, 0.9)}, method=method)

    one, small = solve(1.0), solve(1e-9)
    assert one.success and small.success, small.message
    np.testing.assert_allclose(small.x["x"], one.x["x"], atol=1e-4)
    assert small.fun == pytest.approx(1e-9 * one.fun, abs=1e-15)
    assert float(small.multipliers["c"]) == pytest.approx(1e-9 * float(one.multipliers["c"]), rel=1e-3)
    np.testing.assert_allclose(small.bound_multipliers["x"], 1e-9 * one.bound_multipliers["x"], atol=1e-13)
    assert small.certificate.curvature == pytest.approx(1e-9 * one.certificate.curvature, rel=1e-3)
    assert small.history["objective"][-1] == pytest.approx(small.fun, rel=1e-12)
    assert float(small.states["f"]) == small.fun


def test_an_objective_flat_at_the_start_alone_is_judged_where_it_ends() -> None:
    program = lg.Program("well")
    x = program.parameter("x", 1.0)
    program.define("f", -lg.exp(-((x - 5.0) ** 2)))
    result = lg.minimize(program, "f", over=["x"], method="reduced", tolerance=1e-10)
    assert result.success, result.message
    assert float(result.x["x"]) == pytest.approx(5.0, abs=1e-8)
    assert result.certificate.curvature == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("method", ALL)
def test_a_start_outside_the_domain_fails_at_once(method: str) -> None:
    program = lg.Program("log")
    x = program.parameter("x", -1.0)
    program.define("f", x - lg.log(x))
    result = lg.minimize(program, "f", over=["x"], method=method)
    assert (result.status, result.nit, result.success) == ("failed", 0, False)


def test_a_program_that_cannot_be_solved_fails_with_its_reason() -> None:
    program = lg.Program("no_root")
    x = program.parameter("x", 0.5)
    y = program.state("y", guess=0.3)
    program.constrain(y * y + x * x == -1.0, name="impossible")
    program.define("f", x + y)
    result = lg.minimize(program, "f", over=["x"], method="reduced")
    assert result.status == "failed" and "impossible" in result.message
    assert lg.minimize(program, "f", over=["x"], method="sqp").status == "infeasible"


@pytest.mark.parametrize("method", SECOND_ORDER)
def test_a_saddle_is_left(method: str) -> None:
    program = lg.Program("saddle")
    x = program.parameter("x", [0.0, 0.0])
    program.define("f", x[0] ** 2 - x[1] ** 2 + x[1] ** 4)
    result = lg.minimize(program, "f", over=["x"], method=method)
    assert result.success
    assert result.fun == pytest.approx(-0.25, abs=1e-9)
    assert abs(result.x["x"][1]) == pytest.approx(np.sqrt(0.5), abs=1e-5)


@pytest.mark.parametrize("method", ALL)
def test_a_ridge_of_no_curvature_is_left(method: str) -> None:
    """x⁶ − x⁴ at 0, a maximum to fourth order: all of ∇f, ∇²f and ∇³f vanish. Its minima are at x² = 2/3."""
    program = lg.Program("ridge")
    x = program.parameter("x", 0.0)
    program.define("f", x**6 - x**4)
    result = lg.minimize(program, "f", over=["x"], method=method)
    assert result.success, result.message
    assert result.fun == pytest.approx(-4 / 27, abs=1e-6)


def test_a_slope_of_no_curvature_under_a_constraint() -> None:
    """b³ on the parabola a = b², from (0, 0): stationary, no curvature, and lower on one side."""
    program = lg.Program("slope")
    a, b = program.state("a", guess=0.0), program.state("b", guess=0.0)
    program.constrain(a == b**2, name="parabola")
    program.define("f", b**3 + 0.25 * a**2)  # b³ + b⁴/4: least at b = −3
    result = lg.minimize(program, "f")
    assert result.success, result.message
    assert float(result.states["b"]) == pytest.approx(-3.0, abs=1e-6)


def bowl(curvatures: Any) -> Any:
    """Σ c_i x_i² / 2 with Σ x_i = 0, as a flat problem."""
    from lagrad.lagrangian.problem import make_problem

    program = lg.Program("bowl")
    x = program.state("x", guess=np.zeros(len(curvatures)))
    program.constrain(lg.sum(x) == 0.0, name="sum")
    program.define("f", 0.5 * lg.sum(np.asarray(curvatures) * x**2))
    return make_problem(program, "f", [], {}, {}, {}, {}, False)


def test_the_curvature_of_many_variables() -> None:
    """Lanczos iteration beside dense eigenvalues; two negative curvatures leave at least one on any plane."""
    from lagrad.lagrangian.optimality import DENSE

    c = np.geomspace(0.1, 2.0, DENSE + 11)
    origin, none = np.zeros(c.size), np.zeros(1)
    best = certify(bowl(c), origin, none, origin, 1e-8)
    Z = np.linalg.svd(np.ones((1, c.size)))[2][1:].T
    assert best.minimum and best.curvature == pytest.approx(np.linalg.eigvalsh(Z.T * c @ Z)[0], rel=1e-5)
    c[[17, 133]] = -0.01
    saddle = certify(bowl(c), origin, none, origin, 1e-8)
    assert saddle.kkt and not saddle.minimum
    assert saddle.curvature == pytest.approx(np.linalg.eigvalsh(Z.T * c @ Z)[0], rel=1e-3)


def test_curvature_of_unknown_sign_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    import lagrad.lagrangian.optimality as optimality

    def nothing(*_: Any) -> tuple[float, None]:
        return np.nan, None

    program = lg.Program("large")
    x = program.parameter("x", np.ones(optimality.DENSE + 5))
    program.define("f", lg.sum(np.linspace(1.0, 2.0, x.size) * x**2))
    monkeypatch.setattr(optimality, "_smallest", nothing)
    other = lg.minimize(program, "f", over=["x"])  # the second way: the eigenvalue nearest to zero
    assert other.success and other.certificate.curvature == pytest.approx(2.0, rel=1e-3)
    monkeypatch.setattr(optimality, "_nearest", nothing)
    result = lg.minimize(program, "f", over=["x"])
    assert (result.success, result.status) == (False, "uncertain")
    assert result.certificate.kkt and not result.certificate.minimum


def test_a_step_is_taken_only_in_a_convex_model() -> None:
    """Eigenvalues −1, 2, 3: convex where a constraint holds the first, or δ > 1, whatever the one step shows."""
    from lagrad.lagrangian.newton import Convexifier, convex

    W = sp.csr_array(np.diag([-1.0, 2.0, 3.0]))
    first, second = sp.csr_array([[1.0, 0.0, 0.0]]), sp.csr_array([[0.0, 1.0, 0.0]])
    assert convex(W, first, 0.0, 0.0) and not convex(W, second, 0.0, 0.0)
    assert convex(W, second, 1.5, 0.0)
    # penalty 1/γ on the first variable: −1 + 1/γ
    assert convex(W, first, 0.0, 0.5) and not convex(W, first, 0.0, 2.0)
    # along this step the curvature is 3 · 1 − 1 · 0.01 > 0, and yet the first variable would go uphill
    g, c = np.array([0.1, 0.0, 3.0]), np.zeros(1)
    found = Convexifier().step(W, second, g, c)
    assert found is not None
    d, _, delta = found
    assert delta > 1.0 and d[0] < 0.0


def test_the_certificate_believes_no_method() -> None:
    """A point that is no minimum, with multipliers that are none: each figure says so."""
    from lagrad.lagrangian.problem import make_problem

    problem = make_problem(hock_schittkowski.build("HS7"), "f", [], {}, {}, {}, {}, False)
    x, lam = np.array([0.0, np.sqrt(3.0)]), np.array([-1 / np.sqrt(12.0)])
    none = np.zeros(2)
    assert certify(problem, x, lam, none, 1e-10).minimum
    assert certify(problem, x, 2 * lam, none, 1e-10).stationarity == pytest.approx(1 / 3)  # 1 over 1 + 2
    assert not certify(problem, x + 1e-6, lam, none, 1e-8).minimum
    assert certify(problem, x, lam, np.array([0.0, -1e-3]), 1e-10).complementarity == np.inf


def test_a_maximum_is_no_minimum() -> None:
    """a + b on the unit circle, at a = b = 1/√2: λ = 1/√2, ∇²L = −2λ I."""
    from lagrad.lagrangian.problem import make_problem

    program = lg.Program("circle")
    a, b = program.state("a", guess=1.0), program.state("b", guess=0.5)
    program.constrain(a * a + b * b == 1.0, name="circle")
    program.define("f", a + b)
    problem = make_problem(program, "f", [], {}, {}, {}, {}, False)
    top, none = np.full(2, np.sqrt(0.5)), np.zeros(2)
    found = certify(problem, top, np.array([np.sqrt(0.5)]), none, 1e-10)
    assert found.kkt and not found.minimum
    assert found.inertia == (0, 1, 0) and found.curvature == pytest.approx(-np.sqrt(2.0))
    assert certify(problem, -top, np.array([-np.sqrt(0.5)]), none, 1e-10).minimum
    assert lg.minimize(program, "f").fun == pytest.approx(-np.sqrt(2.0))


# -- asking wrongly ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"method": "newton"}, DeclarationError, "There are reduced, sqp"),
        ({"over": ["q"]}, UnknownNameError, "no parameter is named 'q'"),
        ({"over": ["x"], "bounds": {"x": (3, 1)}}, DeclarationError, "above its upper bound"),
        ({"over": ["z"], "bounds": {"x": (0, 1)}}, DeclarationError, "not in `over`"),
        ({"over": ["x"], "inequalities": ["x"]}, DeclarationError, "for states and definitions"),
        ({"over": ["x"], "solver": "SLSQP"}, DeclarationError, "no such option"),
        ({"over": ["x"], "tolerance": 0.0}, DeclarationError, "between 0 and 1"),
        ({"over": ["x"], "tolerance": "1e-8"}, DeclarationError, "is not a number"),
        ({"over": ["x"], "bounds": {"x": (np.inf, np.inf)}}, DeclarationError, "no finite value"),
        ({"over": ["x"], "bounds": [(0, 1)]}, DeclarationError, "Write {name"),
        ({"over": 3}, DeclarationError, "list of names"),
        ({"over": ["x"], "callback": 3}, DeclarationError, "cannot be called"),
        (
            {"over": ["x"], "method": "augmented-lagrangian", "penalty": -1},
            DeclarationError,
            "not a positive number",
        ),
        ({"over": ["x"], "method": "primal-dual", "damping": 0}, DeclarationError, "not a positive number"),
        (
            {"over": ["x"], "method": "reduced", "solver": "Newton-CG", "bounds": {"x": (0, 1)}},
            DeclarationError,
            "takes no bounds",
        ),
        (
            {"over": ["x"], "method": "reduced", "solver": "L-BFGS-B", "inequalities": ["con1"]},
            DeclarationError,
            "takes no equalities or inequalities",
        ),
        ({"method": "reduced"}, DeclarationError, "nothing is free to move"),
        ({"method": "one-shot"}, DeclarationError, "nothing is free to move"),
        (
            {"over": ["x"], "method": "one-shot", "equalities": ["con1"]},
            DeclarationError,
            "only bounds on parameters",
        ),
        ({"over": ["x"], "method": "one-shot", "preconditioner": "lu"}, DeclarationError, "is not one"),
        (
            {"over": ["x"], "method": "auxiliary-coordinates", "blocks": [["y1", "x"]]},
            DeclarationError,
            "y2, con1, con2 would never move",
        ),
    ],
)
def test_a_wrong_question_is_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        lg.minimize(sellar.build(), "obj", **arguments)


def test_methods_that_solve_refuse_free_programs() -> None:
    with pytest.raises(DeclarationError, match="determine the states"):
        lg.minimize(hock_schittkowski.build("HS6"), "f", method="reduced")


# -- history, callback -----------------------------------------------------------------------------------------------
def test_the_callback_sees_and_stops() -> None:
    seen: list[Record] = []

    def look(record: Record) -> bool:
        seen.append(record)
        return record.iteration == 2

    result = lg.minimize(hock_schittkowski.build("HS6"), "f", callback=look)
    assert (result.status, result.success, result.nit) == ("stopped", False, 2)
    assert tuple(seen) == tuple(result.history)
    # HS6 starts at (1 + 1.2)² with 10 (1 − 1.44) violated
    assert result.history["objective"][0] == pytest.approx(4.84)
    assert result.history["feasibility"][0] == pytest.approx(4.4 / (24 * 1.2 + 10))


def test_the_time_limit_is_told() -> None:
    result = lg.minimize(hock_schittkowski.build("HS6"), "f", time_limit=0.0)
    assert result.status == "time" and not result.success


# -- examples ----------------------------------------------------------------------------------------------------------
def test_the_network_trained_three_ways() -> None:
    """One loss, one set of weights; multipliers end at backprop's adjoints, from wherever they came."""
    network = load("examples/network.py")
    results = {method: network.train(method) for method in network.METHODS}
    best = results["reduced"]
    assert all(result.success for result in results.values())
    x, t = network.data()
    for result in results.values():
        off = 1e-2 if result.method == "auxiliary-coordinates" else 1e-5
        assert result.fun == pytest.approx(best.fun, rel=off)
        # hand-written backprop at the result's own weights: hidden units may have other signs
        W1, b1, W2, b2, w3 = (np.asarray(result.x[k]) for k in network.WEIGHTS)
        h = np.tanh(x @ W1 + b1)
        y = np.tanh(h @ W2 + b2)
        by_y = np.outer(2 * (y @ w3 - t) / t.size, w3)
        by_h = (by_y * (1 - y**2)) @ W2.T
        np.testing.assert_allclose(x.T @ (by_h * (1 - h**2)) + 0.02 * W1, 0.0, atol=off)
        np.testing.assert_allclose(result.multipliers["h"], by_h, atol=0.1 * off)
        np.testing.assert_allclose(result.multipliers["y"], by_y, atol=0.1 * off)
    away = results["augmented-lagrangian"].history["distance"]
    assert away[0] > 1e-2 and away[-1] < 1e-6
    assert best.history["distance"].max() < 1e-12  # backprop: the adjoint at every step


def test_control_needs_as_many_iterations_on_any_grid() -> None:
    control = load("examples/control.py")
    counts = []
    for n, steps in ((8, 5), (16, 10), (32, 20)):
        sqp, reduced = (
            lg.minimize(control.build(n, steps), "J", over=["q"], method=method, tolerance=1e-8)
            for method in ("sqp", "reduced")
        )
        assert sqp.success and reduced.success
        np.testing.assert_allclose(sqp.x["q"], reduced.x["q"], atol=1e-3)
        counts.append(sqp.nit)
    assert max(counts) <= 2 * min(counts)


def test_control_of_one_linear_step_is_linear_algebra() -> None:
    control = load("examples/control.py")
    q, value = control.best_of_one_step(7)
    result = lg.minimize(control.build(7, 1, loss=0.0), "J", over=["q"], tolerance=1e-12)
    assert result.success and result.nit == 1
    np.testing.assert_allclose(result.x["q"], q, rtol=1e-9)
    assert result.fun == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("method", ["reduced", "sqp"])
def test_the_field_tells_its_rate(method: str) -> None:
    estimation = load("examples/bratu_estimation.py")
    result = lg.minimize(
        estimation.build(5), "J", over=["a"], method=method, bounds={"a": (-4.0, 4.0)}, tolerance=1e-10
    )
    assert result.success, result.message
    np.testing.assert_allclose(result.x["a"], estimation.TRUE, atol=1e-4)


# -- the picture -------------------------------------------------------------------------------------------------------
def test_curves_side_by_side() -> None:
    from lagrad.view.convergence import PANELS, curves

    results = [
        lg.minimize(hock_schittkowski.build("HS7"), "f", method=m) for m in ("sqp", "sqp", *FULL_SPACE[1:])
    ]
    drawn = curves(results)
    assert set(drawn) == set(PANELS)
    assert set(drawn["objective"]) == {"sqp", "sqp (2)", "augmented-lagrangian"}
    iterations, values = drawn["objective"]["sqp"]
    assert iterations.tolist() == list(range(results[0].nit + 1))
    assert values[0] == pytest.approx(np.log(5.0) - 2.0 + np.sqrt(3.0))
    assert all((values > 0.0).all() for lines in drawn.values() for _, values in lines.values())
    assert drawn["distance"]["sqp"][0].size == 0  # one constraint for two states: no adjoint


def test_the_picture_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(lg.errors.ComparisonError, match="extra 'plot'"):
        lg.plot_convergence([])


def test_the_picture_is_drawn_from_the_curves(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is the extra 'plot'")
    free = lg.minimize(hock_schittkowski.build("HS28"), "f")
    program, arguments = unbounded()
    other = lg.minimize(program, "f", method="reduced", **arguments)
    path = tmp_path / "h.png"
    figure = lg.plot_convergence([free, other], str(path))
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    objective, feasibility, _, distance = figure.axes
    line = objective.get_lines()[0]
    assert line.get_label() == "sqp" and line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata()[0] == pytest.approx(13.0)  # (−4 + 1)² + (1 + 1)²
    assert [axis.get_yscale() for axis in figure.axes] == ["log"] * 4
    assert feasibility.get_ylim()[0] == feasibility.get_lines()[1].get_ydata().min() == 1e-16
    assert distance.get_lines()[0].get_xdata().size == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sqp", "reduced"]
    assert lg.plot_convergence([]).axes[0].get_lines() == []
