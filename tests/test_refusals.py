"""Never a number that is not a derivative: every refusal in every mode, and rivals' silent wrong answers.

Each situation is met on both linear paths. A refusal names the block, its constraints and its states by the
user's names; what may still be computed beside it is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fixtures import (
    DEFINITIONS_IN_LOOP,
    FIXTURES,
    LOOP_IN_CHAIN,
    NUMPY,
    SINGULAR_PAIR,
    Fixture,
    declare,
    sides,
)

import lagrad as lg
from lagrad.errors import (
    BlockError,
    CertificateError,
    ConvergenceError,
    DeclarationError,
    EvaluationError,
    IllConditionedError,
    KinkError,
    NotASolutionError,
    SingularError,
)

MODES: dict[str, Callable[[lg.Solution, str], Any]] = {
    "gradient": lambda s, of: s.gradient(of),
    "multipliers": lambda s, of: s.multipliers(of),
    "jacobian, adjoint": lambda s, of: s.jacobian([of], mode="adjoint"),
    "jacobian, tangent": lambda s, of: s.jacobian([of], mode="tangent"),
    "jacobian, sparse": lambda s, of: s.jacobian([of], sparse=True),
    "jvp": lambda s, of: s.jvp({name: np.ones_like(p) for name, p in s.parameters.items()}),
    "vjp": lambda s, of: s.vjp({of: 1.0}),
    "hvp": lambda s, of: s.hvp(of, {name: np.ones_like(p) for name, p in s.parameters.items()}),
    "hessian": lambda s, of: s.hessian(of),
}

every_mode = pytest.mark.parametrize("mode", MODES)
both_paths = pytest.mark.parametrize("dense_max", [1, 10**6], ids=["sparse", "dense"])


def system(program: lg.Program, dense_max: int = 48) -> lg.System:
    return lg.build(program, dense_max=dense_max)


def at(solution: lg.Solution, **values: float) -> lg.Solution:
    """The Solution with some states moved, as if it were one."""
    v = solution.v.copy()
    for name, value in values.items():
        position, _ = solution.layout.find_output(name)
        v[solution.layout.m + position] = value
    return dataclasses.replace(solution, v=v)


def names_of(error: BlockError, rows: set[str], states: set[str]) -> None:
    """The error's fields and its message name these."""
    assert rows <= set(error.constraints) and states <= set(error.states)
    for name in rows | states:
        assert name in str(error)


# -- points that are no solutions --------------------------------------------------------------------------
def violated(fixture: Fixture, solution: lg.Solution) -> set[str]:
    values = SimpleNamespace(**solution.states, **solution.parameters)
    return {
        name
        for name, (left, right) in sides(fixture, values, NUMPY).items()
        if np.any(np.abs(left - right) > 1e-9 * (np.abs(left) + np.abs(right)))
    }


HIDDEN_INFINITIES = {
    "cbrt(x)**3": lambda x: lg.cbrt(x) ** 3,  # derivative 1
    "sqrt(x)*sqrt(x)": lambda x: lg.sqrt(x) * lg.sqrt(x),  # 1 from the right
    "1 - cos(sqrt(x))": lambda x: 1 - lg.cos(lg.sqrt(x)),  # 1/2 from the right
    "arccos(1 - x)**2": lambda x: lg.arccos(1 - x) ** 2,  # 2 from the right
    "cbrt(x)**2": lambda x: lg.cbrt(x) ** 2,  # none
}


@pytest.mark.parametrize("size", [1, 3, 600])  # row by row, and families in blocks
@pytest.mark.parametrize("function", HIDDEN_INFINITIES.values(), ids=HIDDEN_INFINITIES)
@pytest.mark.parametrize("mode", MODES)
def test_zero_times_infinity_inside_one_row_is_no_zero(mode: str, function: Any, size: int) -> None:
    program = lg.Program("edge")
    at_edge = np.linspace(1.0, 0.0, size) if size > 1 else np.zeros(1)
    x = program.parameter("x", at_edge)
    z = program.define("z", function(x))
    program.define("o", lg.sum(z))
    system = lg.build(program)
    with pytest.raises(
        EvaluationError, match=f"derivative of constraint z.{size - 1}. by x.{size - 1}. is nan"
    ):
        MODES[mode](system.solve(), "o")
    with pytest.raises(EvaluationError):
        system.function("o")(at_edge)


@every_mode
def test_a_branch_not_taken_may_hide_an_infinity(mode: str) -> None:
    """Beside it: the same functions where `where`, `minimum` and `maximum` do not choose them."""
    program = lg.Program("branches")
    x = program.parameter("x", 0.0)
    a = lg.where(x > 0, lg.sqrt(x), 2.0 * x)
    b = lg.minimum(lg.sqrt(x) + 1.0, 0.5 * x)
    program.define("o", a + b + lg.maximum(lg.cbrt(x) ** 3 - 1.0, 3.0 * x))
    solution = lg.build(program).solve()
    if mode in ("hvp", "hessian"):  # they meet at x = 0 with different slopes
        with pytest.raises(KinkError, match="constraint o sits on a kink"):
            MODES[mode](solution, "o")
    else:
        MODES[mode](solution, "o")
    assert float(solution.gradient("o")["x"]) == 5.5


@pytest.mark.parametrize("function", [lambda x: x**1.5, lambda x: lg.abs(x) ** 1.5], ids=["x", "abs"])
def test_a_second_derivative_that_is_not_finite_is_refused(function: Any) -> None:
    program = lg.Program("edge")
    x = program.parameter("x", 0.0)
    program.define("o", function(x))
    solution = lg.build(program).solve()
    assert float(solution.gradient("o")["x"]) == 0.0
    with pytest.raises(KinkError, match="no second derivative"):
        solution.hvp("o", {"x": 1.0})
    with pytest.raises(EvaluationError, match="second derivative"):
        solution.hvp("o", {"x": 1.0}, one_sided=True)
    with pytest.raises(EvaluationError, match="second derivative"):
        solution.hessian("o", one_sided=True)


@every_mode
@both_paths
@pytest.mark.parametrize("moved", ["a", "x1", "d", "e"])
def test_a_point_that_is_no_solution(moved: str, dense_max: int, mode: str) -> None:
    solution = system(declare(LOOP_IN_CHAIN), dense_max).solve()
    there = at(solution, **{moved: float(solution[moved]) * (1.0 + 1e-7)})
    with pytest.raises(NotASolutionError) as caught:
        MODES[mode](there, "e")
    wrong = violated(LOOP_IN_CHAIN, there)
    assert set(caught.value.constraints) & wrong and caught.value.states
    names_of(caught.value, set(caught.value.constraints), set(caught.value.states))
    block = int(there.layout.block_names(caught.value.block)[0] == caught.value.constraints)
    assert block == 1
    assert np.isfinite(float(there.gradient("e", at_any_point=True)["p"]))


@every_mode
@both_paths
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_a_number(value: float, dense_max: int, mode: str) -> None:
    solution = system(declare(LOOP_IN_CHAIN), dense_max).solve()
    with pytest.raises((NotASolutionError, EvaluationError)) as caught:
        MODES[mode](at(solution, x1=value), "e")
    names_of(caught.value, set(caught.value.constraints), set(caught.value.states))


@every_mode
@both_paths
def test_a_loop_that_was_cut(dense_max: int, mode: str) -> None:
    """Sellar after one pass around its loop, where OpenMDAO stops: y1 = 27.8, not 25.588302369878."""
    solved = system(sellar(), dense_max).solve()
    assert float(solved["y1"]) == pytest.approx(25.588302369878, rel=1e-12)
    y1 = 5.0**2 + 2.0 + 1.0 - 0.2 * 1.0
    y2 = np.sqrt(y1) + 7.0
    obj = 1.0 + 2.0 + y1 + np.exp(-y2)
    assert y1 == 27.8
    with pytest.raises(NotASolutionError) as caught:
        MODES[mode](at(solved, y1=y1, y2=y2, obj=obj), "obj")
    names_of(caught.value, {"d1", "d2"}, {"y1", "y2"})


def sellar() -> lg.Program:
    program = lg.Program("sellar")
    z, x = program.parameter("z", [5.0, 2.0]), program.parameter("x", 1.0)
    y1, y2 = program.state("y1", guess=1.0), program.state("y2", guess=1.0)
    program.constrain(y1 == z[0] ** 2 + z[1] + x - 0.2 * y2, name="d1")
    program.constrain(y2 == lg.sqrt(y1) + z[0] + z[1], name="d2")
    program.define("obj", x**2 + z[1] + y1 + lg.exp(-y2))
    return program


@both_paths
def test_a_solution_at_other_parameters_is_none_here(dense_max: int) -> None:
    solution = system(sellar(), dense_max).solve()
    v = solution.v.copy()
    v[solution.layout.find_parameter("x")[0]] = 1.1
    for ask in MODES.values():
        with pytest.raises(NotASolutionError):
            ask(dataclasses.replace(solution, v=v), "obj")


# -- solves that do not end at a solution ------------------------------------------------------------------
@both_paths
@pytest.mark.parametrize(
    "fixture", [f for f in FIXTURES if f.name in ("loop", "one_state", "large_loop")], ids=str
)
def test_an_unconverged_solve(fixture: Fixture, dense_max: int) -> None:
    compiled = system(declare(fixture), dense_max)
    with pytest.raises(ConvergenceError) as caught:
        compiled.solve(max_iterations=1, ladder=False)
    error = caught.value
    assert error.attempts and set(error.values) <= set(error.states)
    assert all(np.isfinite(list(error.values.values())))
    names_of(error, set(error.constraints[:1]), set(error.states[:1]))
    solution = compiled.solve()  # nothing of the failure stays behind
    assert solution.certificate.residual < 1e-14
    # with the ladder, and in the fast call, one iteration may be enough for a true solution, never for another
    outputs = list(fixture.outputs)
    function = compiled.function(of=outputs, wrt=list(fixture.parameters), max_iterations=1)
    expected = [float(solution[name]) for name in outputs]
    with suppress(ConvergenceError):
        values, _ = function(np.concatenate([np.ravel(x) for x in fixture.parameters.values()]))
        np.testing.assert_allclose(values, expected, rtol=1e-8)
    with suppress(ConvergenceError):
        again = compiled.solve(max_iterations=1)
        np.testing.assert_allclose([float(again[name]) for name in outputs], expected, rtol=1e-8)


def test_no_root() -> None:
    """y² + 1 = 0, where CasADi's Newton returns nan and says success."""
    program = lg.Program("no_root")
    y = program.state("y", guess=2.0)
    program.constrain(y**2 + 1.0 == 0.0, name="none")
    with pytest.raises(ConvergenceError) as caught:
        lg.build(program).solve()
    names_of(caught.value, {"none"}, {"y"})


@both_paths
def test_no_root_in_a_loop(dense_max: int) -> None:
    program = lg.Program("no_root_in_a_loop")
    u, w = program.state("u", guess=2.0), program.state("w", guess=0.5)
    program.constrain(u * u + 1.0 == 0.1 * w, name="one")
    program.constrain(w == 0.2 * lg.sin(u), name="two")
    with pytest.raises(ConvergenceError) as caught:
        system(program, dense_max).solve(ladder=dense_max > 1)  # the ladder's own business is told only once
    names_of(caught.value, {"one", "two"}, {"u", "w"})


@both_paths
def test_a_root_beyond_the_bounds(dense_max: int) -> None:
    program = lg.Program("bounded")
    p = program.parameter("p", 4.0)
    y, t = program.state("y", guess=0.5, lower=0.0, upper=1.0), program.state("t", guess=0.5)
    program.constrain(y**2 + 0.1 * t == p, name="beyond")
    program.constrain(t == 0.1 * y, name="t_law")
    with pytest.raises(ConvergenceError) as caught:
        system(program, dense_max).solve(ladder=dense_max > 1)
    names_of(caught.value, {"beyond", "t_law"}, {"y", "t"})
    assert 0.0 <= caught.value.values["y"] <= 1.0


@both_paths
def test_a_guess_outside_the_domain(dense_max: int) -> None:
    program = lg.Program("domain")
    p = program.parameter("p", 0.5)
    y, t = program.state("y", guess=-1.0), program.state("t", guess=0.5)
    program.constrain(lg.log(y) == p + 0.1 * t, name="logarithm")
    program.constrain(t**3 == y, name="t_law")
    compiled = system(program, dense_max)
    with pytest.raises(EvaluationError) as caught:
        compiled.solve()
    names_of(caught.value, {"logarithm"}, {"y"})
    assert float(compiled.solve(start={"y": 1.0})["y"]) > 1.0


def test_a_definition_outside_the_domain() -> None:
    program = lg.Program("domain")
    p = program.parameter("p", 1.0)
    y = program.define("y", lg.sqrt(p))
    z = program.state("z", guess=1.0)
    program.constrain(z**3 + z == y, name="z_law")
    compiled = lg.build(program)
    with pytest.raises(EvaluationError) as caught:
        compiled.solve({"p": -1.0})
    names_of(caught.value, {"y"}, {"y"})
    with pytest.raises(EvaluationError):
        compiled.function(of=["z"])([-1.0])


def test_a_definition_that_nobody_uses_is_refused_when_it_is_asked_for() -> None:
    """Its value, its derivatives, all at once on the command line; never before, and nothing else."""
    program = lg.Program("unused")
    p = program.parameter("p", 1.0)
    y = program.state("y", guess=1.0)
    program.constrain(y * y == p + 3.0, name="root")
    bad = program.define("bad", lg.log(p - lg.stack([1.0, 0.5])))
    program.define("worse", lg.sum(bad) * y)
    program.define("good", 3.0 * y)
    compiled = lg.build(program)
    solution = compiled.solve()
    assert float(solution["y"]) == pytest.approx(2.0) and float(solution["bad[1]"]) == pytest.approx(
        np.log(0.5)
    )
    assert float(solution.gradient("good")["p"]) == pytest.approx(0.75, rel=1e-14)
    assert float(solution.hvp("good", {"p": 1.0})["p"]) == pytest.approx(-3.0 / 32.0)
    assert solution.gradient("good").certificate.gradient_error["p"] < 1e-13
    for name in ("bad", "bad[0]", "worse"):
        with pytest.raises(EvaluationError, match=r"(bad\[0\]|worse) = "):
            solution[name]
    with pytest.raises(EvaluationError, match="domain"):
        solution.check_finite()
    for mode, ask in MODES.items():
        if mode != "jvp":
            ask(solution, "bad[1]"), ask(solution, "good")
        for name in ("bad[0]", "worse"):
            with pytest.raises(EvaluationError) as caught:
                ask(solution, name)
            names_of(caught.value, {"bad[0]"} & set(caught.value.constraints), set(caught.value.states))
    assert compiled.function(of=["good"])([1.0])[1][0, 0] == pytest.approx(0.75, rel=1e-14)
    for of in (["bad"], ["good", "worse"]):
        with pytest.raises(EvaluationError):
            compiled.function(of=of)([1.0])
        with pytest.raises(EvaluationError):
            compiled.function(of=of).value([1.0])
    batch = compiled.solve_many({"p": [1.0, 2.0]}, of=["good"])
    assert batch.ok.all() and np.isnan(batch["bad"][0, 0]) and np.isfinite(batch["bad"][1]).all()
    np.testing.assert_allclose(batch["good"], 3.0 * np.sqrt([4.0, 5.0]), rtol=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, None, "1", 1j])
def test_a_parameter_that_is_no_number(value: Any) -> None:
    compiled = lg.build(sellar())
    with pytest.raises(DeclarationError) as caught:
        compiled.solve({"x": value})
    assert caught.value.name == "x" and "x" in str(caught.value)
    solution = compiled.solve()
    with pytest.raises(DeclarationError):
        solution.jvp({"x": value})
    with pytest.raises(DeclarationError):
        solution.vjp({"obj": value})
    with pytest.raises(DeclarationError):
        compiled.solve(start={"y1": value})


def test_a_system_function_refuses_what_is_no_number() -> None:
    function = lg.build(sellar()).function(of=["obj"], wrt=["x"])
    good, slope = function([1.0])
    for value in (np.nan, np.inf):
        with pytest.raises((DeclarationError, EvaluationError, ConvergenceError)):
            function([value])
    again, slope_again = function([1.0])
    np.testing.assert_allclose(again, good, rtol=1e-14)
    np.testing.assert_allclose(slope_again, slope, rtol=1e-12)


def test_a_derivative_that_overflows_is_refused_by_the_fast_call_too() -> None:
    """z = 1e200 · (1e200 p / 1e200)·…: partials of 1e200 each, a finite value, a derivative of 1e400."""
    program = lg.Program("overflow")
    p = program.parameter("p", 1e-300)
    y = program.state("y", guess=1.0)
    program.constrain(y + 1e-9 * y**3 == 1e200 * p, name="large")
    program.define("z", 1e200 * y)
    system = lg.build(program)
    function = system.function(of=["z"], wrt=["p"])
    for _ in range(2):
        with pytest.raises(CertificateError):
            function([1e-300])
    batch = system.solve_many({"p": [1e-300, 2e-300]}, of=["z"])
    assert not batch.ok.any() and all(isinstance(e, CertificateError) for e in batch.errors.values())


# -- singular blocks ---------------------------------------------------------------------------------------
@every_mode
@both_paths
def test_a_singular_pair_is_not_its_guess(mode: str, dense_max: int) -> None:
    """CasADi's Newton returns the guess of this pair and says success. Solved or not, it has no derivative."""
    with pytest.raises((ConvergenceError, SingularError)) as caught:
        solution = system(declare(SINGULAR_PAIR), dense_max).solve()
        assert float(solution["u"]) + 2.0 * float(solution["w"]) == pytest.approx(1.5, rel=1e-8)
        MODES[mode](solution, "t")
    names_of(caught.value, {"first", "second"}, {"u", "w"})


@every_mode
@both_paths
def test_a_singular_block_at_a_solution(mode: str, dense_max: int) -> None:
    """u + 2 w == 1.5 twice over, started at one of its solutions."""
    solution = system(declare(SINGULAR_PAIR), dense_max).solve(start={"u": 0.5, "w": 0.5})
    assert (solution["u"], solution["w"]) == (0.5, 0.5)
    with pytest.raises(SingularError) as caught:
        MODES[mode](solution, "t")
    names_of(caught.value, {"first", "second"}, {"u", "w"})
    # what does not pass through the block has its derivatives: apart = (0.3 q)² + q at q = 1.1
    gradient = solution.gradient("apart")
    assert float(gradient["q"]) == pytest.approx(0.18 * 1.1 + 1.0, rel=1e-14) and float(gradient["p"]) == 0.0
    assert float(solution.multipliers("apart")["first"]) == 0.0
    for other in ("adjoint", "tangent"):
        assert float(solution.jacobian(["apart"], ["q"], mode=other)["apart", "q"][0, 0]) == gradient["q"]
    assert float(solution.hvp("apart", {"q": 1.0})["q"]) == pytest.approx(0.18, rel=1e-14)


@both_paths
def test_a_singular_block_through_the_fast_call(dense_max: int) -> None:
    compiled = system(declare(SINGULAR_PAIR), dense_max)
    with pytest.raises((SingularError, ConvergenceError)):
        compiled.function(of=["t"])([0.5, 1.1])


def square(guess: float, extra: bool) -> lg.Program:
    """y² == p; with `extra` in a loop of two."""
    program = lg.Program("square")
    p = program.parameter("p", 0.0)
    y = program.state("y", guess=guess)
    if extra:
        t = program.state("t", guess=guess)
        program.constrain(y * t == p, name="square")
        program.constrain(t == y, name="same")
    else:
        program.constrain(y**2 == p, name="square")
    program.define("J", 3.0 * y)
    return program


@every_mode
@both_paths
@pytest.mark.parametrize("guess", [0.0, 1.0, 1e-9])
@pytest.mark.parametrize("extra", [False, True])
def test_a_singular_root(extra: bool, guess: float, dense_max: int, mode: str) -> None:
    """y² = p at p = 0, where optimistix returns a gradient of 6.7e7."""
    compiled = system(square(guess, extra), dense_max)
    with pytest.raises((SingularError, ConvergenceError)) as caught:
        MODES[mode](compiled.solve(), "J")
    names_of(caught.value, {"square"}, {"y"})
    # beside the root the derivative is 3/(2 √p), to all digits
    solution = compiled.solve({"p": 1e-6}, start={"y": 1.0} | ({"t": 1.0} if extra else {}))
    assert float(solution.gradient("J")["p"]) == pytest.approx(1500.0, rel=1e-9)


@every_mode
@both_paths
@pytest.mark.parametrize("power", [2, 3, 5])
def test_a_multiple_root_that_is_not_zero(power: int, dense_max: int, mode: str) -> None:
    """(y − 1)**power == p at p = 0, written out: no residual is zero exactly at the root."""
    program = lg.Program("multiple")
    p = program.parameter("p", 0.0)
    y, t = program.state("y", guess=2.0), program.state("t", guess=2.0)
    terms = [float(c) for c in np.polynomial.polynomial.polyfromroots([1.0] * power)]
    program.constrain(sum(c * y**k for k, c in enumerate(terms)) == p + 0.0 * t + (t - y), name="root")
    program.constrain(t == y, name="same")
    with pytest.raises((SingularError, IllConditionedError, ConvergenceError)) as caught:
        MODES[mode](system(program, dense_max).solve(), "y")
    names_of(caught.value, {"root", "same"}, {"y", "t"})


# -- ill conditioning --------------------------------------------------------------------------------------
def hilbert(n: int) -> lg.Program:
    """H x == b with the Hilbert matrix of order n, b = p · (1, …, 1); J = Σ (k + 1) x_k."""
    matrix = np.array([[1.0 / (i + j + 1) for j in range(n)] for i in range(n)])
    program = lg.Program("hilbert")
    p = program.parameter("p", 1.0)
    x = program.state("x", guess=np.zeros(n))
    program.constrain(matrix @ x == p * np.ones(n), name="row")
    program.define("J", lg.sum(np.arange(1.0, n + 1) * x))
    return program


@every_mode
@both_paths
def test_a_block_of_which_no_digit_is_certain(mode: str, dense_max: int) -> None:
    with pytest.raises((IllConditionedError, SingularError, ConvergenceError)) as caught:
        MODES[mode](system(hilbert(16), dense_max).solve(), "J")
    names_of(caught.value, {"row[0]"}, {"x[0]"})
    if isinstance(caught.value, IllConditionedError):
        assert caught.value.rcond < 1e-13


@both_paths
def test_condition_one_million(dense_max: int) -> None:
    """Where jaxopt's default adjoint is 96 % wrong: the Hilbert matrix of order 5, 4.8e5, in fractions."""
    n = 5
    rows = [[Fraction(1.0 / (i + j + 1)) for j in range(n)] + [Fraction(1)] for i in range(n)]
    for k in range(n):  # Gauss–Jordan
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(n):
            if i != k:
                rows[i] = [a - rows[i][k] * b for a, b in zip(rows[i], rows[k], strict=True)]
    expected = float(sum((k + 1) * rows[k][-1] for k in range(n)))
    solution = system(hilbert(n), dense_max).solve()
    certificate = solution.gradient("J").certificate
    assert float(solution.gradient("J")["p"]) == pytest.approx(expected, rel=1e-9)
    assert float(solution.jvp({"p": 1.0})["J"]) == pytest.approx(expected, rel=1e-9)
    assert 1e-7 < certificate.rcond < 1e-4 and certificate.linear_residual < 1e-14


# -- derivatives that do not exist -------------------------------------------------------------------------
@every_mode
def test_an_infinite_partial(mode: str) -> None:
    """d √p / dp at p = 0."""
    program = lg.Program("edge")
    p = program.parameter("p", 0.0)
    program.define("r", lg.sqrt(p))
    solution = lg.build(program).solve()
    assert float(solution["r"]) == 0.0
    with pytest.raises(BlockError) as caught:
        MODES[mode](solution, "r")
    names_of(caught.value, {"r"}, {"r"})


@every_mode
@both_paths
def test_an_infinite_partial_on_the_way(mode: str, dense_max: int) -> None:
    """y = √p at p = 0, used in a loop: no derivative reaches p, whatever the weights."""
    program = lg.Program("edge")
    p = program.parameter("p", 0.0)
    r = program.define("r", lg.sqrt(p))
    u, w = program.state("u", guess=0.4), program.state("w", guess=0.3)
    program.constrain(u == 0.3 * lg.cos(w) + r, name="u_law")
    program.constrain(w + 0.1 * w**3 == 0.5 * u, name="w_law")
    solution = system(program, dense_max).solve()
    with pytest.raises(BlockError):
        MODES[mode](solution, "w")


@every_mode
@pytest.mark.parametrize("between", [0, 2])
def test_zero_times_infinity_is_no_zero(mode: str, between: int) -> None:
    """o = d · d with d = √p is p, with derivative 1 at p = 0, where the chain rule has 0 · ∞."""
    program = lg.Program("edge")
    p = program.parameter("p", 0.0)
    d = program.define("d", lg.sqrt(p))
    for k in range(between):
        d = program.define(f"d{k}", 1.5 * d)
    program.define("o", d * d)
    solution = lg.build(program).solve()
    with pytest.raises(EvaluationError) as caught:
        MODES[mode](solution, "o")
    names_of(caught.value, {"d"}, {"d"})
    function = lg.build(program).function("o")
    for at_p, expected in ((4.0, 2.25**between), (0.0, None), (1.0, 2.25**between), (0.0, None)):
        if expected is None:
            with pytest.raises(EvaluationError):
                function([at_p])
        else:
            assert function([at_p])[1].item() == pytest.approx(expected)
    batch = lg.build(program).solve_many({"p": [0.0, 4.0]}, of=["o"])
    assert batch.ok.tolist() == [False, True]
    assert batch.jacobian["o", "p"][1].item() == pytest.approx(2.25**between)


@every_mode
@both_paths
def test_a_singular_block_behind_a_partial_that_vanishes(mode: str, dense_max: int) -> None:
    """y³ == p at p = 0 makes o = y³ what p is, with derivative 1; of y · z, with y + z == p twice, nothing is known."""
    program = lg.Program("edge")
    p = program.parameter("p", 0.0)
    y, z, w = (program.state(name, guess=0.0) for name in "yzw")
    program.constrain(w**3 == p, name="cube")
    program.constrain(y + z == p, name="sum")
    program.constrain(2 * y + 2 * z == 2 * p, name="again")
    program.define("known", w**3)
    program.define("unknown", y * z)
    solution = system(program, dense_max).solve()
    for of, names in (("known", {"cube"}), ("unknown", {"sum", "again"})):
        with pytest.raises(SingularError) as caught:
            MODES[mode](solution, of)
        assert mode == "jvp" or names <= set(
            caught.value.constraints
        )  # jvp is of all states: the first block is told
        with pytest.raises(SingularError):
            system(program, dense_max).function(of)([0.0])


@pytest.mark.parametrize("mode", [m for m in MODES if m != "jvp"])
@pytest.mark.parametrize("at_x", [-1.0, 0.0])
def test_a_branch_not_taken_has_no_influence_in_any_mode(mode: str, at_x: float) -> None:
    """where(x > 0, log(x), 2 x): at x <= 0 the logarithm does not exist, and is not asked for."""
    program = lg.Program("branches")
    x = program.parameter("x", at_x)
    d = program.define("d", lg.log(x))
    program.define("o", lg.where(x > 0, d, 2 * x))
    solution = lg.build(program).solve()
    if at_x == 0.0 and mode in ("hvp", "hessian"):  # beside it the other branch counts
        with pytest.raises(KinkError, match="less in constraint o"):
            MODES[mode](solution, "o")
        return
    found = list(MODES[mode](solution, "o").values())
    expected = {"multipliers": [0.0, 1.0], "hvp": [0.0], "hessian": [0.0]}.get(mode, [2.0])
    assert [x.item() if mode != "jacobian, sparse" else x.toarray().item() for x in found] == expected


@both_paths
def test_a_loop_at_the_edge_of_a_domain(dense_max: int) -> None:
    """y + y³ + z²/10 == √x: y is about √x, so y² has the derivative 1 at x = 0, and y none."""
    program = lg.Program("edge")
    x = program.parameter("x", 0.0)
    y, z = program.state("y", guess=0.0), program.state("z", guess=0.0)
    program.constrain(y + y**3 + 0.1 * z**2 == lg.sqrt(x), name="edge")
    program.constrain(z + y**2 == 0, name="other")
    program.define("o", y * y)
    with pytest.raises(EvaluationError, match="edge"):
        system(program, dense_max).solve()


def test_a_second_derivative_behind_a_parameter_that_is_zero() -> None:
    """o = q √x at q = x = 0: ∂²o/∂q∂x is infinite."""
    program = lg.Program("edge")
    q, x = program.parameter("q", 0.0), program.parameter("x", 0.0)
    d = program.define("d", lg.sqrt(x))
    program.define("o", q * d)
    solution = lg.build(program).solve()
    for direction in ({"q": 1.0}, {"x": 1.0}):
        with pytest.raises(EvaluationError):
            solution.hvp("o", direction)
    with pytest.raises(EvaluationError):
        solution.hessian("o")


# -- other rivals' answers ---------------------------------------------------------------------------------
def test_a_point_that_lax_custom_root_takes_for_a_root() -> None:
    """y³ + y == p at p = 2: at y = 1/2, 0.571 is the derivative of nothing; the root is 1, and 1/4."""
    program = lg.Program("cubic")
    p = program.parameter("p", 2.0)
    y = program.state("y", guess=0.5)
    program.constrain(y**3 + y == p, name="cubic")
    solution = lg.build(program).solve()
    assert float(solution.gradient("y")["p"]) == pytest.approx(0.25, rel=1e-15)
    there = at(solution, y=0.5)
    for ask in MODES.values():
        with pytest.raises(NotASolutionError):
            ask(there, "y")
    asked_by_name = there.gradient("y", at_any_point=True)
    assert float(asked_by_name["p"]) == pytest.approx(4.0 / 7.0, rel=1e-15)


@pytest.mark.parametrize("n", [1, 2, 48, 49, 50, 51, 200])
@both_paths
def test_a_steady_state_of_any_size(n: int, dense_max: int) -> None:
    """u² = p at p = 2, coupled: a steady-state adjoint gave 0.707 at n = 50 and 0.0 at n = 51."""
    program = lg.Program("steady")
    p = program.parameter("p", 2.0)
    u = program.state("u", shape=n)
    program.constrain(u**2 + 0.5 * (u - u[(np.arange(n) + 1) % n]) == p, name="steady")
    solution = system(program, dense_max).solve()
    derivative = solution.jvp({"p": 1.0})["u"]
    np.testing.assert_allclose(derivative, 0.35355339059327376, rtol=1e-12)
    for k in {0, n // 2, n - 1}:
        assert float(solution.gradient(f"u[{k}]")["p"]) == pytest.approx(0.35355339059327376, rel=1e-12)


@pytest.mark.parametrize("number", [2.0, np.float64(2.0), np.array(2.0), 2, np.int64(2)])
def test_scalar_inputs_have_their_gradient(number: Any) -> None:
    """Scalar (0-d) inputs once gave zero: y³ + y == p at p = 2, declared and given."""
    for declared in (number, 5.0):
        program = lg.Program("cubic")
        p = program.parameter("p", declared)
        y = program.state("y", guess=number)
        program.constrain(y**3 + y == p)
        solution = lg.build(program).solve({"p": number})
        gradient = solution.gradient("y")["p"]
        assert np.shape(gradient) == () and float(gradient) == pytest.approx(0.25, rel=1e-14)
        assert np.shape(solution.jvp({"p": number})["y"]) == ()
        assert float(solution.jvp({"p": number})["y"]) == pytest.approx(0.5, rel=1e-14)
        value, jacobian = lg.build(program).function(of=["y"])(number)
        assert value.shape == (1,) and jacobian.shape == (1, 1) and jacobian[0, 0] == pytest.approx(0.25)


@both_paths
def test_chained_implicit_blocks_pass_their_gradients_on(dense_max: int) -> None:
    """Four cyclic blocks in a chain, t³ + t == what came before: by hand, a product of slopes."""
    program = lg.Program("reactors")
    p = program.parameter("p", 2.0)
    before: Any = p
    for k in range(4):
        t, s = program.state(f"t{k}", guess=0.5), program.state(f"s{k}", guess=0.5)
        program.constrain(t * t * s + s == before, name=f"t_law{k}")
        program.constrain(s == t, name=f"s_law{k}")
        before = (2.0 + k) * t
    solution = system(program, dense_max).solve()
    expected = 1.0
    for k in range(4):
        t = float(solution[f"t{k}"])
        expected *= (1.0 if k == 0 else 1.0 + k) / (3.0 * t * t + 1.0)
    assert float(solution.gradient("t3")["p"]) == pytest.approx(expected, rel=1e-12)


def test_an_unconverged_loop_of_definitions_is_no_number_either() -> None:
    """Definitions on a cycle are solved with it, not taken from the pass before."""
    solution = lg.build(declare(DEFINITIONS_IN_LOOP)).solve()
    there = at(solution, d=float(solution["d"]) + 1e-6)
    for ask in MODES.values():
        with pytest.raises(NotASolutionError) as caught:
            ask(there, "J")
        assert {"d", "u_law"} & set(caught.value.constraints)


# -- what left its domain, in the words of the program -------------------------------------------------------
def _hidden_sum() -> Any:
    program = lg.Program("sums")
    x = program.parameter("x", [-1.0, 2.0])
    y = program.state("y", guess=1.0)
    total = lg.sum(lg.log(x) * x)  # used twice: a hidden state
    program.constrain(y**3 + y == total + lg.exp(total), name="balance")
    return lg.build(program).solve()


def _network(dense_max: int) -> Any:
    program = lg.Program("network")
    x = program.parameter("x", 3.0)
    u = program.state("u", shape=(2,), guess=[2.0, 4.0])
    program.constrain(u * lg.sqrt(x - u) + u[::-1] == 1.0, name="flow")
    return lg.build(program, dense_max=dense_max).solve()


def _traced() -> Any:
    def f(x: Any) -> Any:
        a = np.log(x)
        return np.sum(a * a)

    return lg.grad(f)(np.array([1.0, -2.0]))


def _at_the_edge() -> Any:
    program = lg.Program("edge")
    x = program.parameter("x", 2.0)
    program.define("y", lg.where(x > 5.0, lg.log(-x), lg.sqrt(x - 2.0)))
    return lg.build(program).solve().gradient("y")


CULPRITS: dict[str, tuple[Callable[[], Any], str]] = {
    "hidden": (_hidden_sum, r"balance .*: log\(x\[0\]\) is nan, where x\[0\] = -1\."),
    "dense": (lambda: _network(64), r"sqrt\(x - u\[1\]\) is nan, where x - u\[1\] = -1\."),
    "sparse": (lambda: _network(1), r"sqrt\(x - u\[1\]\) is nan, where x - u\[1\] = -1\."),
    "traced": (_traced, r"log\(x\[1\]\) is nan, where x\[1\] = -2\."),
    "partial": (_at_the_edge, r"the derivative of sqrt\(x - 2\) by x - 2 is inf, where x - 2 = 0\."),
}


@pytest.mark.parametrize("case", CULPRITS)
def test_the_function_that_left_its_domain_is_named_with_its_argument(case: str) -> None:
    action, words = CULPRITS[case]
    with pytest.raises(EvaluationError, match=words):
        action()


# -- underflow -----------------------------------------------------------------------------------------------
@both_paths
@pytest.mark.parametrize("size", [1e-160, 1e-170, 1e-200, 1e-300])
@pytest.mark.parametrize("times", [1.0, 3.0, -1.0])
def test_states_of_which_underflow_leaves_nothing_are_not_solved(
    times: float, size: float, dense_max: int
) -> None:
    """y² = p s at p = 2 s: y = √2 s, and y² and p s are both zero for any guess of that size but at 1e-160.

    There they keep a few digits, and so does the gradient: what it lacks is in its bound. And s y = s p, likewise.
    """
    for bent in (True, False):
        program = lg.Program("small")
        p = program.parameter("p", 2.0 * size)
        y = program.state("y", shape=(2,), guess=times * size)
        left = y * y if bent else size * y
        turned = size * (y - y[::-1])  # vanishes: the two are one block
        program.constrain(left + turned == p * size, name="small")
        try:
            solution = system(program, dense_max).solve()
        except ConvergenceError as error:
            assert size < 1e-160 or times < 0.0  # where the matrix changes on the way
            assert size == 1e-160 or "underflow" in str(error)
            continue
        truth = np.copysign(2.0**0.5, times) if bent else 2.0
        assert abs(solution["y"][0] / (truth * size) - 1.0) < 0.01
        try:
            gradient = solution.gradient("y[0]")
        except SingularError:
            continue
        bound = gradient.certificate.gradient_error
        assert bound is not None
        assert abs(gradient["p"] - (0.5 / truth if bent else 1.0)) <= bound["p"]


@both_paths
@pytest.mark.parametrize("beside", [1e16, 1e20])
def test_states_that_rounding_hides_are_not_solved(beside: float, dense_max: int) -> None:
    """(c + y) - c = (c + p) - c for any y, p below the last digit of c: the guess would pass for the answer."""
    program = lg.Program("hidden")
    p = program.parameter("p", 0.3)
    y = program.state("y", shape=(2,), guess=[0.7, 0.2])
    program.constrain((beside + (y - p)) - beside + 0.0 * y[::-1] == 0.0, name="swamped")
    with pytest.raises(ConvergenceError, match="hardly depends on the states") as caught:
        system(program, dense_max).solve()
    assert "swamped" in str(caught.value)


@pytest.mark.parametrize("count", [1, 600], ids=["row by row", "families"])
@pytest.mark.parametrize(
    ("function", "at"),
    [(lambda x: lg.sqrt(x * x), 3e-161), (lambda x: (x * x * x) ** (1 / 3), 1e-107)],
    ids=["square", "cube"],
)
def test_what_underflows_on_the_way_is_in_the_bound(function: Any, at: float, count: int) -> None:
    """Both are x, with the slope 1; x · x keeps three digits at 3e-161."""
    program = lg.Program("there and back")
    x = program.parameter("x", np.full(count, at))
    y = program.state("y", shape=(count,), guess=1.0)
    program.constrain(y == function(x), name="back")
    gradient = lg.build(program).solve().gradient("y[0]")
    off = abs(gradient["x"][0] - 1.0)
    assert off > 1e-4  # or the example shows nothing
    bound = gradient.certificate.gradient_error
    assert bound is not None and off <= bound["x"][0]
    with pytest.raises(CertificateError, match="x"):
        system(program).solve().gradient("y[0]", strict=True)
