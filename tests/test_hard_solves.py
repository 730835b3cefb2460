"""Systems that are hard to solve, systems that have no solution, and what is said about both.

The named silent wrong answers of other tools are here by name. Truths: residuals written in NumPy apart from the
Programs (`mgh`), SciPy, closed forms, exact fractions.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
from example_files import ROOT, load
from mgh import FURTHER, SYSTEMS, System
from rich.console import Console
from scipy.optimize import brentq, root

import lagrad as lg
from lagrad import arclength, ladder
from lagrad.errors import (
    ConvergenceError,
    DeclarationError,
    EvaluationError,
    IllConditionedError,
    LagradError,
    NotASolutionError,
    SingularError,
)
from lagrad.watch import Watch

FACTORS = (1, 10, 100)
REFUSED = {("trigonometric", 10), *(("Chebyquad, n = 8", factor) for factor in FACTORS)}
SOLVED = 1e-10  # largest |F_i| of a solution, by the NumPy residual
OF_SCIPY = 1e-6  # the same for SciPy, which stops at steps of 1.5e-8, whatever it says about success


def solved_by_scipy(system: System, factor: float, method: str) -> bool:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = root(system.residual, system.start(factor), method=method)
    return bool(np.abs(system.residual(found.x)).max() <= OF_SCIPY)


def one(equation: Callable[[Any, Any], Any], guess: float, p: float, **options: Any) -> lg.Program:
    """A program of one constraint, equation(y, p) == 0, called "law"."""
    program = lg.Program("one")
    parameter = program.parameter("p", p)
    y = program.state("y", guess=guess, **options)
    program.constrain(equation(y, parameter) == 0, name="law")
    return program


def solve_one(equation: Callable[[Any, Any], Any], guess: float, p: float, **options: Any) -> lg.Solution:
    return lg.build(one(equation, guess, p)).solve(**options)


def refused_everywhere(solution: lg.Solution, of: str, wrt: str) -> None:
    """Every derivative of `of` by `wrt` is refused because a block is singular."""
    for derivative in (
        lambda: solution.gradient(of),
        lambda: solution.multipliers(of),
        lambda: solution.jacobian([of], [wrt], mode="adjoint"),
        lambda: solution.jacobian([of], [wrt], mode="tangent"),
        lambda: solution.jvp({wrt: 1.0}),
        lambda: solution.vjp({of: 1.0}),
    ):
        with pytest.raises(SingularError, match=r"law|f0"):
            derivative()


# -- the collection ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dense_max", [48, 1], ids=["dense", "sparse"])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_collection(system: System, factor: int, dense_max: int) -> None:
    """Solved, judged by a residual written apart; or refused, where that is known and SciPy fails as well."""
    built = lg.build(system.program(factor), dense_max=dense_max)
    if (system.name, factor) in REFUSED:
        with pytest.raises(ConvergenceError, match="largest residuals"):
            built.solve()
        assert not any(solved_by_scipy(system, factor, method) for method in ("hybr", "lm"))
        return
    solution = built.solve()
    assert np.abs(system.residual(np.asarray(solution["x"]))).max() <= SOLVED
    if system.singular:
        with pytest.raises((SingularError, IllConditionedError)):
            solution.gradient("x[0]")


@pytest.mark.parametrize("factor", FACTORS)
def test_at_least_as_many_as_scipy(factor: int) -> None:
    ours = {s.name for s in SYSTEMS if (s.name, factor) not in REFUSED}  # as `test_collection` shows
    for method in ("hybr", "lm"):
        theirs = {s.name for s in SYSTEMS if solved_by_scipy(s, factor, method)}
        assert theirs <= ours
        assert len(theirs) < len(ours)


@pytest.mark.long
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("system", FURTHER, ids=lambda s: s.name)
def test_further_sizes(system: System, factor: int) -> None:
    """Solved or refused, and never a point that is no root."""
    try:
        solution = lg.build(system.program(factor)).solve()
    except ConvergenceError as error:
        assert not system.root or factor > 1
        assert {a.method for a in error.attempts} >= {"newton", "trust region", "Newton homotopy"}
    else:
        assert system.root
        assert np.abs(system.residual(np.asarray(solution["x"]))).max() <= SOLVED


@pytest.mark.parametrize(
    ("method", "name", "factor"),
    [
        ("trust region", "Brown almost-linear", 1),
        ("Levenberg–Marquardt", "Chebyquad", 100),
        ("pseudo-transient continuation", "Freudenstein and Roth", 100),
        ("Newton homotopy", "Freudenstein and Roth", 10),
        ("Newton homotopy", "Powell badly scaled", 100),
        ("fixed-point homotopy", "Freudenstein and Roth", 100),
        ("fixed-point homotopy", "Brown almost-linear", 10),
    ],
)
@pytest.mark.parametrize("dense_max", [48, 1], ids=["dense", "sparse"])
def test_each_method_alone(
    method: str, name: str, factor: int, dense_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is needed by some system, or could be; the scan is by `test_newtons_two_cycle`."""
    monkeypatch.setattr(ladder, "METHODS", {method: ladder.METHODS[method]})
    system = next(s for s in SYSTEMS if s.name == name)
    built = lg.build(system.program(factor), dense_max=dense_max)
    solution = built.solve()
    assert np.abs(system.residual(np.asarray(solution["x"]))).max() <= SOLVED
    attempts = max(solution.report.blocks, key=lambda b: b.size).attempts
    assert [a.method for a in attempts if a.outcome == "solved"] == [method]


def test_the_table_beside_scipy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A start at which SciPy's lm reports success at a point that is no root."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    hard = importlib.import_module("benchmarks.hard")
    wanted = {"Freudenstein and Roth", "Powell singular"}
    rows = hard.outcomes([s for s in hard.SYSTEMS if s.name in wanted])
    found = hard.counts(rows)
    for factor in FACTORS:
        assert found["lagrad"][factor] == {"solved": 2, "false": 0, "refused": 0}
        assert found["lm"][factor] == {"solved": 1, "false": 1, "refused": 0}
    hard.show(rows, Console(width=140, file=sys.stdout))
    printed = capsys.readouterr().out
    assert "multiple root" in printed
    assert "2 solved, 0 refused" in printed


# -- silent wrong answers of other tools --------------------------------------------------------------------
def test_sellar_is_not_left_at_a_point_that_is_no_solution() -> None:
    """OpenMDAO with its default solvers gives y1 = 27.8 here, without a warning."""
    solution = lg.build(load("examples/sellar.py").build()).solve()
    y1, y2 = float(solution["y1"]), float(solution["y2"])
    assert y1 == pytest.approx(25.588302369877685529, rel=1e-14)
    assert y2 == pytest.approx(math.sqrt(y1) + 7.0, rel=1e-14)


def linear(p: float, third: float) -> lg.Program:
    """x + z == p and 2 x + 2 z == third p."""
    program = lg.Program("singular")
    q = program.parameter("p", p)
    x, z = program.state("x"), program.state("z")
    program.constrain(x + z == q, name="law")
    program.constrain(2 * x + 2 * z == third * q, name="twice")
    return program


@pytest.mark.parametrize("dense_max", [48, 1], ids=["dense", "sparse"])
def test_a_singular_system_without_solution_is_refused(dense_max: int) -> None:
    """CasADi's Newton method returns the initial guess, with success."""
    with pytest.raises(ConvergenceError) as caught:
        lg.build(linear(1.0, 3.0), dense_max=dense_max).solve()
    assert set(caught.value.constraints) == {"law", "twice"}
    assert "became singular" in caught.value.attempts[0].outcome


@pytest.mark.parametrize("dense_max", [48, 1], ids=["dense", "sparse"])
def test_a_singular_system_with_many_solutions_gives_one_and_no_derivative(dense_max: int) -> None:
    solution = lg.build(linear(1.5, 2.0), dense_max=dense_max).solve()
    assert float(solution["x"] + solution["z"]) == pytest.approx(1.5, rel=1e-14)
    refused_everywhere(solution, "x", "p")


@pytest.mark.parametrize("guess", [1.0, 0.3, -7.0, 1e6])
def test_an_equation_without_root_is_refused(guess: float) -> None:
    """y² + 1 = 0: CasADi gives nan, with success."""
    with pytest.raises(ConvergenceError) as caught:
        solve_one(lambda y, p: y**2 + p, guess, 1.0)
    error = caught.value
    assert (error.block, error.constraints, error.states) == (0, ["law"], ["y"])
    assert "no change of sign" in str(error)
    assert "largest residuals 1 in law (terms of size" in str(error)
    assert np.isfinite(error.values["y"])


def test_a_point_that_is_no_root_gives_no_derivative() -> None:
    """y³ + y = 2: lax.custom_root takes what its solver returns, and gives 0.571 for 1/4."""
    solution = solve_one(lambda y, p: y**3 + y - p, 0.0, 2.0)
    assert float(solution.gradient("y")["p"]) == pytest.approx(0.25, rel=1e-14)
    elsewhere = replace(solution, v=np.array([2.0, 0.5]))
    for derivative in (elsewhere.gradient, elsewhere.multipliers):
        with pytest.raises(NotASolutionError, match="law has residual -1"):
            derivative("y")
    with pytest.raises(ConvergenceError, match="no convergence in 2 iterations"):
        solve_one(lambda y, p: y**3 + y - p, 0.0, 2.0, max_iterations=2, ladder=False)


@pytest.mark.parametrize("guess", [1.0, 0.0, -3.0, 1e-9, 1e8])
@pytest.mark.parametrize("iterations", [50, 2000])
def test_a_square_at_zero_has_no_derivative(guess: float, iterations: int) -> None:
    """y² = p at p = 0: optimistix gives 6.7e7. With 2000 iterations y² underflows."""
    solution = solve_one(lambda y, p: y**2 - p, guess, 0.0, max_iterations=iterations)
    assert abs(float(solution["y"])) <= 1e-15 * max(1.0, abs(guess))
    if float(solution["y"]) ** 2 < 1e-307:  # as small as rounding in the last numbers before zero
        assert solution.certificate.residual <= 1e-15 and solution.certificate.residual_raw <= 1e-322
    else:
        assert solution.certificate.residual <= 1e-20
    refused_everywhere(solution, "y", "p")


@pytest.mark.parametrize("size", [3, 4, 5])
def test_gradients_through_ill_conditioned_systems(size: int) -> None:
    """Hilbert matrices (condition 5e2, 1.6e4, 4.8e5): jaxopt's default adjoint is 96 % off at 1e6."""
    common = math.lcm(*range(1, 2 * size))
    matrix = [[Fraction(common, i + j + 1) for j in range(size)] for i in range(size)]  # of integers
    program = lg.Program("hilbert")
    b = program.parameter("b", np.arange(1.0, size + 1))
    x = program.state("x", shape=size)
    program.constrain(np.array(matrix, dtype=float) @ x == b, name="law")
    first = program.define("first", lg.sum(x * np.arange(1.0, size + 1) ** 2))
    solution = lg.build(program).solve()
    truth = exact_inverse(matrix)
    weights = [Fraction((j + 1) ** 2) for j in range(size)]
    expected = [float(sum(weights[j] * truth[j][i] for j in range(size))) for i in range(size)]
    np.testing.assert_allclose(solution.gradient(first)["b"], expected, rtol=1e-9)


def exact_inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """By elimination in fractions."""
    n = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for k in range(n):
        rows[k] = [value / rows[k][k] for value in rows[k]]
        for i in range(n):
            if i != k:
                rows[i] = [a - rows[i][k] * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [row[n:] for row in rows]


@pytest.mark.parametrize("iterations", range(0, 60, 7))
def test_a_root_found_in_any_number_of_iterations_has_its_own_gradient(iterations: int) -> None:
    """u² = 2: a differentiated iteration gives 0.707 after 50 steps and 0 after 51; here it is right or refused."""
    try:
        solution = solve_one(lambda y, p: y**2 - p, 1.0, 2.0, max_iterations=iterations, ladder=False)
    except ConvergenceError:
        assert iterations < 7
    else:
        assert float(solution.gradient("y")["p"]) == pytest.approx(0.35355339059327376, rel=1e-15)


def test_chained_implicit_blocks_have_gradients() -> None:
    """y³ + y = b x, then z³ + z = c y: a chain of implicit functions gives zero in some tools."""
    program = lg.Program("chain")
    b, c, x = (program.parameter(name, value) for name, value in (("b", 2.0), ("c", 3.0), ("x", 1.3)))
    y, z = program.state("y"), program.state("z")
    program.constrain(y**3 + y == b * x)
    program.constrain(z**3 + z == c * y)
    gradient = lg.build(program).solve().gradient("z")
    y0 = brentq(lambda y: y**3 + y - 2.6, 0.0, 3.0, xtol=1e-15)
    z0 = brentq(lambda z: z**3 + z - 3.0 * y0, 0.0, 3.0, xtol=1e-15)
    by_y = 3.0 / (3 * z0**2 + 1)
    assert float(gradient["x"]) == pytest.approx(by_y * 2.0 / (3 * y0**2 + 1), rel=1e-12)
    assert float(gradient["b"]) == pytest.approx(by_y * 1.3 / (3 * y0**2 + 1), rel=1e-12)
    assert float(gradient["c"]) == pytest.approx(y0 / (3 * z0**2 + 1), rel=1e-12)


def test_scalar_inputs_have_gradients() -> None:
    """Inputs without axes give zero in some tools."""
    solution = solve_one(lambda y, p: y - p * p, 1.0, np.float64(3.0))
    gradient = solution.gradient("y")["p"]
    assert np.shape(gradient) == ()
    assert float(gradient) == 6.0


@pytest.mark.parametrize("guess", [(10.0, 1e-3), (0.0, 0.0), (10.0, 5.0), (-3.0, -3.0)])
def test_the_diode_circuit_from_bad_guesses(guess: tuple[float, float]) -> None:
    expected = json.loads((Path(__file__).parent / "reference.json").read_text(encoding="utf-8"))[
        "diode_circuit"
    ]
    solution = lg.build(load("examples/diode_circuit.py").build(guess)).solve()
    for name in ("V1", "V2"):
        assert float(solution[name]) == pytest.approx(float(expected[name]), rel=1e-13)
        assert float(solution.gradient(name)["I"]) == pytest.approx(float(expected[f"d{name}/dI"]), rel=1e-12)


def test_newtons_two_cycle() -> None:
    """x³ − 2x + 2 = 0 from 0, where Newton's method goes 0, 1, 0, 1, …"""
    solution = solve_one(lambda x, p: x**3 - 2 * x + 2 - p, 0.0, 0.0)
    expected = brentq(lambda x: x**3 - 2 * x + 2, -2.0, -1.0, xtol=1e-15)
    assert float(solution["y"]) == pytest.approx(expected, rel=1e-14)
    assert float(solution.gradient("y")["p"]) == pytest.approx(1.0 / (3 * expected**2 - 2), rel=1e-13)
    assert [a.method for a in solution.report.blocks[0].attempts] == ["newton", "scan"]


def test_a_badly_scaled_chain_to_full_precision() -> None:
    """0 = 1.296e12 v1/v0 + 79703634.05 with v0 = 3e5: absolute tolerances stop far away."""
    program = lg.Program("chain")
    p = program.parameter("p", 79703634.05)
    v0, v1 = program.state("v0"), program.state("v1")
    program.constrain(1e-4 * v0 == 30.0, name="first")
    program.constrain(1.296e12 * v1 / v0 + p == 0, name="second")
    solution = lg.build(program).solve()
    expected = -Fraction(79703634.05) * 300000 / Fraction(1.296e12)
    assert float(solution["v1"]) == pytest.approx(float(expected), rel=4e-16)
    assert float(solution.gradient("v1")["p"]) == pytest.approx(-3e5 / 1.296e12, rel=4e-16)


# -- multiple roots ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("equation", "guess", "at"),
    [
        (lambda y, p: y**3 - p, 1.0, 0.0),
        (lambda y, p: y**6 - p, 2.0, 0.0),
        (lambda y, p: y * (y - 5) ** 2 - p, 10.0, 5.0),
        (lambda y, p: y * (y - 5) ** 2 - p, 100.0, 5.0),
        (lambda y, p: y**2 - 2 * y + 1 - p, 3.0, 1.0),
        (lambda y, p: y**2 - 2e6 * y + 1e12 - p, 1.0, 1e6),
        (lambda y, p: 1 - lg.cos(y) - p, 0.5, 0.0),
        (lambda y, p: lg.exp(y) - 1 - y - p, 1.0, 0.0),
    ],
    ids=["cubic", "sixth", "factored", "factored far", "expanded", "expanded large", "cosine", "exponential"],
)
def test_a_multiple_root_is_found_and_has_no_derivative(
    equation: Callable[[Any, Any], Any], guess: float, at: float
) -> None:
    """The double root 5 of y(y − 5)² contracts Newton's simplified correction by 1/4, near to a simple root's."""
    solution = solve_one(equation, guess, 0.0)
    # as near as rounding in the terms lets a root of such multiplicity be told
    assert float(solution["y"]) == pytest.approx(at, rel=1e-7, abs=1e-7)
    refused_everywhere(solution, "y", "p")


def test_two_simple_roots_near_to_each_other_are_simple() -> None:
    """y² = 1e-34 looks like a double root until y is 1e-16."""
    solution = solve_one(lambda y, p: y**2 - p, 1.0, 1e-34)
    assert float(solution["y"]) == pytest.approx(1e-17, rel=1e-13)
    assert float(solution.gradient("y")["p"]) == pytest.approx(5e16, rel=1e-13)


def test_other_blocks_of_a_multiple_root_keep_their_derivatives() -> None:
    program = one(lambda y, p: y**2 - p, 1.0, 0.0)
    x = program.parameter("x", 3.0)
    program.define("cube", x**3)
    solution = lg.build(program).solve()
    assert float(solution.gradient("cube")["x"]) == 27.0
    with pytest.raises(SingularError, match="multiple root"):
        solution.gradient("y")


@pytest.mark.parametrize(
    ("equation", "guess", "p"),
    [
        (lambda y, p: lg.exp(y) - p, 1.0, 0.0),
        (lambda y, p: lg.exp(y) + 1 - p, 100.0, 0.0),
        (lambda y, p: 1 / y - p, 1.0, 0.0),
        (lambda y, p: lg.arctan(y) - p, 20.0, 2.0),
        (lambda y, p: lg.sqrt(y**2 + 1) - y - p, 1.0, 0.0),
    ],
    ids=["exp", "exp + 1", "reciprocal", "arctan", "asymptote"],
)
@pytest.mark.parametrize("iterations", [50, 2000])
def test_a_root_at_infinity_is_refused(
    equation: Callable[[Any, Any], Any], guess: float, p: float, iterations: int
) -> None:
    """Residuals vanish there by underflow or by rounding, never at a root."""
    with pytest.raises(ConvergenceError, match="law"):
        solve_one(equation, guess, p, max_iterations=iterations, ladder=iterations < 100)


@pytest.mark.parametrize("dense_max", [48, 1], ids=["dense", "sparse"])
@pytest.mark.parametrize("guess", [1.0, 0.5, -2.0, 3e4, 1e9])
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_a_function_that_oscillates_faster_than_rounding_resolves(
    p: float, guess: float, dense_max: int
) -> None:
    """cos(cos(x²)) is at least 0.54. At x = 1e9 a rounding of x changes it by its own size, and hides that."""
    system = lg.build(one(lambda y, q: lg.cos(lg.cos(y * y)) - q, guess, p), dense_max=dense_max)
    with pytest.raises(ConvergenceError, match="law"):
        system.solve()


# -- bounds and domains -----------------------------------------------------------------------------------------
def test_bounds_choose_the_root_and_are_never_left() -> None:
    def cubic(y: Any, p: Any) -> Any:
        return (y - 1) * (y - 4) * (y + 3) - p

    for lower, upper, expected in ((-math.inf, 0.0, -3.0), (0.0, 2.0, 1.0), (2.5, math.inf, 4.0)):
        guess = min(max(0.0, lower + 0.01), upper - 0.01)
        solution = lg.build(one(cubic, guess, 0.0, lower=lower, upper=upper)).solve()
        assert float(solution["y"]) == pytest.approx(expected, rel=1e-14)
    with pytest.raises(ConvergenceError, match="no change of sign from 5 to 6"):
        lg.build(one(cubic, 5.5, 0.0, lower=5.0, upper=6.0)).solve()


@pytest.mark.parametrize("dense_max", [48, 1], ids=["dense", "sparse"])
def test_no_method_leaves_the_bounds(dense_max: int) -> None:
    """Freudenstein and Roth from a start that needs the ladder; a function of the state sees every point."""
    program = lg.Program("bounded")
    x = program.state("x", guess=[5.0, -20.0], lower=[-40.0, -50.0], upper=[40.0, 3.0])
    program.constrain(x[0] - x[1] ** 3 + 5 * x[1] ** 2 - 2 * x[1] == 13, name="a")
    program.constrain(x[0] + x[1] ** 3 + x[1] ** 2 - 14 * x[1] == 29, name="b")
    with pytest.raises(ConvergenceError) as caught:  # the root (5, 4) is outside
        lg.build(program, dense_max=dense_max).solve()
    values = caught.value.values
    assert -40.0 <= values["x[0]"] <= 40.0
    assert -50.0 <= values["x[1]"] <= 3.0


def test_a_logarithm_is_never_taken_of_a_negative_number() -> None:
    """From 1e3 the full Newton step for log(y) = −5 leads to −1e4."""
    solution = solve_one(lambda y, p: lg.log(y) - p, 1e3, -5.0)
    assert float(solution["y"]) == pytest.approx(math.exp(-5.0), rel=1e-14)
    with pytest.raises(EvaluationError, match=r"law .* not finite at the starting values"):
        solve_one(lambda y, p: lg.log(y) - p, -1.0, 0.0)


def test_a_scale_tells_how_small_a_state_may_be() -> None:
    """A double root at zero is approached to rounding of the typical size: of the scale, not of the guess."""
    found = []
    for scale in (None, 1e-9):
        program = lg.Program("scaled")
        y = program.state("y", guess=1.0, scale=scale)
        program.constrain(y**2 == 0, name="law")
        found.append(abs(float(lg.build(program).solve()["y"])))
    assert found[0] > 1e-18
    assert 0.0 < found[1] < 1e-23
    for bad in (0.0, -1.0, math.inf, math.nan, [1.0, 2.0]):
        with pytest.raises(DeclarationError, match="scale"):
            lg.Program().state("y", guess=1.0, scale=bad)


# -- what is said -----------------------------------------------------------------------------------------------
def test_every_attempt_is_reported_in_order() -> None:
    with pytest.raises(ConvergenceError) as caught:
        lg.build(linear(1.0, 3.0)).solve()
    methods = list(dict.fromkeys(a.method for a in caught.value.attempts))
    assert methods == [
        "newton", "trust region", "Levenberg–Marquardt", "pseudo-transient continuation", "Newton homotopy",
        "fixed-point homotopy",
    ]  # fmt: skip
    for attempt in caught.value.attempts:
        assert attempt.outcome
        assert attempt.residual > 0.0
        assert attempt.outcome in str(caught.value)


def test_a_solved_block_reports_how() -> None:
    """Brown's almost-linear function makes Newton's method stall."""
    brown = next(s for s in SYSTEMS if s.name == "Brown almost-linear")
    block = max(lg.build(brown.program()).solve().report.blocks, key=lambda b: b.size)
    assert [a.method for a in block.attempts] == ["newton", "trust region"]
    assert block.attempts[-1].outcome == "solved"
    with pytest.raises(ConvergenceError) as caught:
        lg.build(brown.program()).solve(ladder=False)
    assert [a.method for a in caught.value.attempts] == ["newton"]


def test_time_limit() -> None:
    field = lg.build(load("examples/bratu.py").build(32, 6.9))  # no solution above 6.81
    with pytest.raises(ConvergenceError, match=r"the time limit of 0\.2 s was reached") as caught:
        field.solve(time_limit=0.2)
    assert "heat" in caught.value.constraints[0]
    assert field.solve({"lam": np.full((32, 32), 1.0)}, time_limit=60.0).converged
    chain = lg.Program("chain")
    x = chain.parameter("x", 1.0)
    for k in range(20_000):  # more blocks than are solved between two looks at the clock
        y = chain.state(f"y{k}")
        chain.constrain(y**3 + y == x)
    with pytest.raises(ConvergenceError, match="the time limit of 0 s was reached"):
        lg.build(chain).solve(time_limit=0.0)


def blocks_of_forty(count: int) -> lg.System:
    program = lg.Program("blocks")
    p = program.parameter("p", 1.0)
    y = program.state("y", shape=(count, 40), guess=0.3)
    couple = np.random.default_rng(0).normal(size=(40, 40)) / 40
    program.constrain(y @ couple + y + 0.1 * y**3 == p * np.linspace(0.0, 2.0, 40), name="law")
    return lg.build(program)


def test_compiled_code_stops_for_the_clock_and_for_a_person() -> None:
    """By work, with and without a limit: many small blocks take seconds, and one block any number of iterations."""
    system = blocks_of_forty(900)
    ends = system.layout.stops
    assert ends.size > 2 and ends[-1] == 900 and (np.diff(ends) > 0).all()
    seen: list[str] = []

    def interrupt(text: str) -> None:
        seen.append(text)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        system.solve(progress=interrupt)
    assert seen[-1] == f"block {ends[0]} of 900"
    with pytest.raises(ConvergenceError, match=r"block 0 .*time limit of 0 s"):
        system.solve(time_limit=0.0)
    program = one(lambda y, p: lg.exp(-y) - p, 1.0, 1e-300)  # about 690 steps of length one
    patient = lg.build(program).solve(max_iterations=5000, ladder=False)
    count = patient.report.total_iterations
    assert 600 < count < 5000 and float(patient["y"]) == pytest.approx(300 * math.log(10.0), rel=1e-12)
    ticks: list[str] = []
    with mock.patch("lagrad.solve.LONG", 100):
        again = lg.build(program).solve(max_iterations=5000, ladder=False, progress=ticks.append)
    assert len(ticks) == 1 + (count - 1) // 100 and ticks[-1].startswith("block 0: Newton iteration")
    assert again.report.total_iterations == count and again["y"] == patient["y"]


def test_a_trust_region_in_which_every_product_underflows_is_a_flat_one() -> None:
    """|A g|² is 0 where A is 1e-165: it was divided by. Scales of rows, left out here, only make that rarer."""
    unscaled = mock.patch("lagrad.ladder._row_scales", lambda at, w: np.ones(at.r.size))
    with unscaled, pytest.raises(ConvergenceError, match=r"trust region \(a local minimum"):
        solve_one(lambda y, p: 1e-165 * y * y + p, 1.0, 1e10)


@pytest.mark.parametrize(
    "options",
    [
        {"max_iterations": -1},
        {"max_iterations": 2.5},
        {"tolerance": 0.0},
        {"tolerance": math.nan},
        {"time_limit": -1.0},
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match=next(iter(options))):
        solve_one(lambda y, p: y - p, 1.0, 1.0, **options)


def test_progress_and_interruption() -> None:
    """A solve that is interrupted leaves the System as it was."""
    system = lg.build(linear(1.0, 3.0))
    texts: list[str] = []

    def interrupt(text: str) -> None:
        texts.append(text)
        if "homotopy" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        system.solve(progress=interrupt)
    assert texts[0] == "block 0 of 1"
    assert any("trust region" in text for text in texts)
    with pytest.raises(ConvergenceError, match="fixed-point homotopy"):
        system.solve()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("progress", [None, False])
def test_a_line_appears_on_terminals_only(
    terminal: bool, progress: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with Watch(None, progress) as watch:
        watch.tick("too early to show")
        watch.began -= 3.0
        watch.tick("block {} of {}", 2, 5)
    written = stream.getvalue()
    assert ("block 2 of 5" in written) == (terminal and progress is None)
    assert "too early" not in written


# -- continuation -----------------------------------------------------------------------------------------------
def circle(x: float = 0.0) -> lg.System:
    program = lg.Program("circle")
    p = program.parameter("x", x)
    y = program.state("y", guess=1.0)
    program.constrain(p**2 + y**2 == 1, name="circle")
    program.define("twice", 2 * y)
    return lg.build(program)


def test_a_circle_is_followed_past_its_turning_point() -> None:
    branch = circle().continuation("x", to=2.0)
    x, y = branch["x"], branch["y"]
    np.testing.assert_allclose(x**2 + y**2, 1.0, rtol=1e-14)
    np.testing.assert_array_equal(branch["twice"], 2 * y)
    np.testing.assert_array_equal(branch.t, x)
    (fold,) = branch.turning_points
    assert fold.t == pytest.approx(1.0, rel=1e-14)
    assert abs(float(fold.states["y"])) <= 1e-6  # x is exact to the square of that
    assert y[fold.after] > 0.0 > y[fold.after + 1]
    assert (x[0], y[0], x[-1]) == (0.0, 1.0, 0.0)
    assert y[-1] == pytest.approx(-1.0, rel=1e-15)
    assert branch.ended == "back where it began"
    angles = np.unwrap(np.arctan2(y, x))
    assert np.abs(np.diff(angles)).max() < 0.2
    middle = int(np.argmin(np.abs(y - 0.5)))
    gradient = branch.solution(middle).gradient("y")["x"]
    assert float(gradient) == pytest.approx(-x[middle] / y[middle], rel=1e-12)


def test_a_branch_arrives_backwards_and_from_another_start() -> None:
    branch = circle(0.6).continuation("x", to=-0.6, start={"y": -1.0})
    assert branch.ended == "arrived"
    assert branch.turning_points == ()
    assert (branch.t[0], branch.t[-1]) == (0.6, -0.6)
    np.testing.assert_allclose(branch["y"][[0, -1]], -0.8, rtol=1e-15)
    assert (np.diff(branch.t) < 0.0).all()


def test_paths_of_three_kinds_are_the_same() -> None:
    system = circle()
    ways = [
        system.continuation("x", to=0.8),
        system.continuation({"x": 0.8}),
        system.continuation(lambda t: {"x": 0.4 * t * (t + 1)}),
    ]
    for branch in ways:
        assert branch["x"][-1] == pytest.approx(0.8, rel=1e-15)
        assert branch["y"][-1] == pytest.approx(0.6, rel=1e-14)
        assert branch.ended == "arrived"


def bratu_line(n: int) -> lg.System:
    """u'' + λ exp(u) = 0 on (0, 1), u = 0 at both ends, by Numerov's differences of fourth order."""
    program = lg.Program("bratu")
    rate = program.parameter("lam", 0.1)
    u = program.state("u", guess=np.zeros(n))
    h = 1 / (n + 1)
    padded = lg.concatenate([np.zeros(1), u, np.zeros(1)])
    heat = lg.exp(padded)
    bent = padded[:-2] - 2 * padded[1:-1] + padded[2:]
    program.constrain(bent + rate * h**2 / 12 * (heat[:-2] + 10 * heat[1:-1] + heat[2:]) == 0, name="heat")
    return lg.build(program)


def test_the_fold_of_bratus_problem_on_a_line() -> None:
    """λ = 8 (q / cosh q)² with q tanh q = 1, approached with the fourth power of the spacing."""
    q = brentq(lambda q: q * math.tanh(q) - 1.0, 1.0, 2.0, xtol=1e-15)
    expected = 8.0 * (q / math.cosh(q)) ** 2
    assert expected == pytest.approx(3.513830719, abs=1e-9)
    errors = []
    for n in (15, 31, 63):  # the last has a sparse Jacobian
        branch = bratu_line(n).continuation("lam", to=5.0)
        (fold,) = branch.turning_points
        errors.append(expected - fold.t)
        assert branch["u"][-1].max() > 3 * branch["u"][0].max()
        assert branch.ended == "back where it began"
    assert errors[2] < 1.1e-7
    assert errors[0] / errors[1] == pytest.approx(16.0, rel=0.01)
    assert errors[1] / errors[2] == pytest.approx(16.0, rel=0.01)


@pytest.mark.parametrize(("n", "fold"), [(1, 16 / math.e), (2, 18 / math.e)])
def test_the_fold_of_bratus_problem_on_small_squares(n: int, fold: float) -> None:
    """One value, by symmetry: u exp(−u) = λ h²/k turns at u = 1."""
    branch = lg.build(load("examples/bratu.py").build(n)).continuation({"lam": np.full((n, n), 11.0)})
    (found,) = branch.turning_points
    assert 1.0 + 10.0 * found.t == pytest.approx(fold, rel=1e-13)
    np.testing.assert_allclose(found.states["u"], 1.0, rtol=1e-6)


def test_a_curve_turns_where_a_row_of_the_jacobian_is_exactly_zero() -> None:
    """The tangent at a fold of one state among explicit ones, where s comes out as zero."""

    class Singular:
        matrix = sp.csr_array(np.array([[0.0, 0.0, 0.0], [-0.25, 1.0, 0.0], [-1.0, 0.0, 1.0]]))

        def solve(self, rhs: np.ndarray) -> np.ndarray:
            return np.full(rhs.shape, np.nan)

    b, c = np.array([-6.8, 0.0, 0.0]), np.array([0.4, 0.1, 0.4])
    found = arclength.bordered(Singular(), b, c, 0.0113, np.zeros(3), 1.0)
    assert found is not None
    whole = np.block([[Singular.matrix.toarray(), b[:, None]], [c[None], np.array([[0.0113]])]])
    wanted = np.linalg.solve(whole, [0.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose([*found[0], found[1]], wanted, rtol=1e-12, atol=1e-20)


def test_continuation_says_why_it_ends() -> None:
    assert len(circle().continuation("x", to=2.0, max_points=5)) == 5
    assert circle().continuation("x", to=2.0, max_points=5).ended == "5 points"
    limited = bratu_line(63).continuation("lam", to=5.0, step=1e-4, max_points=10**6, time_limit=0.5)
    assert limited.ended == "the time limit of 0.5 s was reached"
    assert len(limited) > 1
    program = lg.Program("wall")
    x = program.parameter("x", 1.0)
    y = program.state("y", guess=1.0, lower=0.0)
    program.constrain(y + x == 2)
    wall = lg.build(program).continuation("x", to=3.0)
    assert "no step leads on from t = 2" in wall.ended
    assert wall["y"].min() >= 0.0
    assert "turning points: none" in repr(wall)


def test_paths_that_make_no_sense() -> None:
    system = circle()
    for path, to, message in (
        ("x", None, "needs `to`"),
        ("y", 1.0, "no parameter is named"),
        ("x", 0.0, "no length"),
        ("x", math.nan, "no length"),
        (3.0, None, "no path"),
        ({"x": math.inf}, None, "not finite"),
    ):
        with pytest.raises(LagradError, match=message):
            system.continuation(path, to=to)
    vector = lg.Program("vector")
    a = vector.parameter("a", [1.0, 2.0])
    vector.define("s", lg.sum(a))
    with pytest.raises(LagradError, match="a scalar"):
        lg.build(vector).continuation("a", to=2.0)


def test_solving_from_a_solution_follows_its_parameters() -> None:
    """Freudenstein and Roth's equations, with right sides for which the bad start is a root, then with zero."""
    program = lg.Program("shifted")
    shift = program.parameter("shift", np.zeros(2))
    x = program.state("x", guess=[5.0, -20.0])
    program.constrain(x[0] - x[1] ** 3 + 5 * x[1] ** 2 - 2 * x[1] - 13 == shift[0], name="a")
    program.constrain(x[0] + x[1] ** 3 + x[1] ** 2 - 14 * x[1] - 29 == shift[1], name="b")
    system = lg.build(program)
    here = [5.0 + 8000.0 + 2000.0 + 40.0 - 13.0, 5.0 - 8000.0 + 400.0 + 280.0 - 29.0]
    old = system.solve({"shift": here})
    np.testing.assert_allclose(old["x"], [5.0, -20.0])
    with pytest.raises(ConvergenceError):
        system.solve({"shift": [0.0, 0.0]}, start=old, ladder=False)
    new = system.solve({"shift": [0.0, 0.0]}, start=old)
    np.testing.assert_allclose(new["x"], [5.0, 4.0], rtol=1e-13)  # the only root
    attempts = new.report.blocks[-1].attempts
    assert [a.method for a in attempts] == ["newton", "parameter continuation"]
    assert attempts[-1].outcome == "arrived"
