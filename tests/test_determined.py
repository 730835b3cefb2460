"""A derivative that rounding decides is refused by default, however the solution was found and in whatever units.

Each system has an exact solution at which its Jacobian is singular, known on paper; a state that has converged there
before, or was never off, shows Newton's method nothing of it. Beside each stands the same system a little off that
point, with a derivative from elsewhere, which must come out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import lagrad as lg

ROW, COLUMN = 1e9, 1e-7  # units of the constraint, and of the state, in which the pivot vanishes


def pitchfork(q: float, others: int = 0, unit: float = 1.0, column: float = 1.0) -> lg.Program:
    """w³ + w + z² = 2 q, z³ + (w − 1) z = (q − 1)(1 + w), in a ring with `others` more states; z = Z · column.

    At q = 1: w = 1, and z = 0 three times; the row of z is zero but for what rounding makes of w − 1.
    """
    program = lg.Program("pitchfork")
    parameter = program.parameter("q", q)
    w, state = program.state("w", guess=2.0), program.state("z", guess=0.0)
    z = state * column
    first = w**3 + w + z**2 - 2.0 * parameter
    if others:
        x = program.state("x", guess=np.ones(others))
        program.constrain(x[0] == w * z + 1.0, name="x0")
        for k in range(1, others):
            program.constrain(x[k] == x[k - 1] ** 2, name=f"x{k}")
        first = first + (x[-1] - 1.0) * z
    program.constrain(first == 0.0, name="bent")
    program.constrain(unit * (z**3 + (w - 1.0) * z - (parameter - 1.0) * (1.0 + w)) == 0.0, name="fork")
    return program


def chained(q: float) -> lg.Program:
    """w = 1.1 q, then z³ − (w − 1.21) z = q − 1.1: two blocks, at q = 1.1 the second singular but for rounding."""
    program = lg.Program("chained")
    parameter = program.parameter("q", q)
    z = program.state("z", guess=0.0)
    w = program.define("w", 1.1 * parameter)
    program.constrain(z**3 - (w - 1.21) * z == parameter - 1.1, name="fork")
    return program


def kepler(q: float) -> lg.Program:
    """E − e sin E = M, dE/dM = 1 / (1 − e cos E). At M = 1e15 doubles are 0.125 apart."""
    program = lg.Program("kepler")
    parameter = program.parameter("q", q)
    z = program.state("z", guess=q)
    program.constrain(z - 0.5 * lg.sin(z) == parameter, name="fork")
    return program


SINGULAR: dict[str, tuple[Callable[[float], lg.Program], float]] = {
    "two": (pitchfork, 1.0),
    "row in other units": (lambda q: pitchfork(q, unit=ROW), 1.0),
    "state in other units": (lambda q: pitchfork(q, column=COLUMN), 1.0),
    "three": (lambda q: pitchfork(q, 1), 1.0),
    "six": (lambda q: pitchfork(q, 4), 1.0),
    "chained": (chained, 1.1),
    **{f"kepler {m:g}": (kepler, m) for m in (1e15, 1.1e15, 2.7e15, 3.3e15, 7.9e15)},
}


def differentiate(path: str, program: lg.Program, q: float) -> float:
    """dz/dq at q, by one of the ways that there are."""
    system = lg.build(program, dense_max=1 if "large" in path else 64)
    if "function" in path:
        f = system.function(of=["z"], wrt=["q"])
        f([q * (1.0 + 1e-7)])
        return float(f([q])[1][0, 0])
    if path == "solve_many":
        batch = system.solve_many({"q": np.array([q * (1.0 + 1e-7), q])}, of=["z"])
        if 1 in batch.errors:
            raise batch.errors[1]
        return float(batch.jacobian["z", "q"][1, 0, 0])
    start = None
    if "warm" in path:
        start = system.solve({"q": q} if "same" in path else {"q": q * (1.0 + 1e-7)})
    solution = system.solve({"q": q}, start=start)
    if "jvp" in path:
        return float(solution.jvp({"q": 1.0})["z"])
    if "jacobian" in path:
        return float(solution.jacobian(["z"], ["q"])["z", "q"][0, 0])
    if "hvp" in path:
        return float(solution.hvp("z", {"q": 1.0})["q"])
    return float(solution.gradient("z")["q"])


PATHS = ["cold", "warm", "warm, same point", "function", "solve_many", "jvp", "jacobian", "hvp"]
PATHS += ["large", "large, warm", "large, warm, same point", "large, function"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SINGULAR)
def test_a_derivative_that_rounding_decides_is_refused(name: str, path: str) -> None:
    make, q = SINGULAR[name]
    with pytest.raises((lg.errors.SingularError, lg.errors.ConvergenceError), match="fork"):
        differentiate(path, make(q), q)


def slope(q: float, column: float = 1.0) -> float:
    """dz/dq of the pitchfork at its solution near w = 1, by mpmath at 50 digits."""
    import mpmath as mp

    with mp.workdps(50):

        def constraints(w: mp.mpf, z: mp.mpf, p: mp.mpf) -> list[mp.mpf]:
            return [w**3 + w + z**2 - 2 * p, z**3 + (w - 1) * z - (p - 1) * (1 + w)]

        p, h = mp.mpf(q), mp.mpf(10) ** -20
        up, down = (
            mp.findroot(lambda w, z, at=at: constraints(w, z, at), (mp.mpf(1), mp.mpf(0.3)), tol=1e-80)
            for at in (p + h, p - h)
        )
        return float((up[1] - down[1]) / (2 * h) / column)


@pytest.mark.parametrize("path", [p for p in PATHS if p != "hvp"])
@pytest.mark.parametrize("unit, column", [(1.0, 1.0), (ROW, 1.0), (1.0, COLUMN), (ROW, COLUMN)])
def test_off_that_point_the_derivative_comes_out(path: str, unit: float, column: float) -> None:
    q = 1.01
    found = differentiate(path, pitchfork(q, unit=unit, column=column), q)
    np.testing.assert_allclose(found, slope(q, column), rtol=1e-9)


def test_a_phase_that_has_digits_left_is_differentiated() -> None:
    q = 1e6
    solution = lg.build(kepler(q)).solve()
    import mpmath as mp

    with mp.workdps(50):
        e = mp.findroot(lambda x: x - mp.sin(x) / 2 - mp.mpf(q), mp.mpf(q))
        exact = float(1 / (1 - mp.cos(e) / 2))
    np.testing.assert_allclose(solution.gradient("z")["q"], exact, rtol=1e-8)


def test_where_a_state_is_nearly_zero_without_being_singular_the_derivative_comes_out() -> None:
    program = lg.Program("zero")
    q = program.parameter("q", 0.0)
    y, z = program.state("y", guess=0.5), program.state("z", guess=0.5)
    program.constrain(y + y**3 == lg.sin(z) + q)
    program.constrain(2.0 * z - y == q)
    system = lg.build(program)
    np.testing.assert_allclose(system.solve().gradient("y")["q"], 3.0, rtol=1e-12)
    found = system.solve_many({"q": np.array([0.0, 0.0])}, of=["z"])
    np.testing.assert_allclose(found.jacobian["z", "q"].ravel(), 2.0, rtol=1e-12)


def test_a_kink_within_rounding_keeps_its_one_sided_derivative() -> None:
    program = lg.Program("kink")
    q = program.parameter("q", 1.0)
    y, z = program.state("y", guess=0.5), program.state("z", guess=0.5)
    program.constrain(y == q + 0.25 * lg.maximum(z - 1.0, 0.0), name="kinked")
    program.constrain(z == y + 0.0 * z**2, name="tie")
    found = lg.build(program).solve().gradient("y")
    assert math.isclose(found["q"], 1.0 / (1.0 - 0.25)) or math.isclose(found["q"], 1.0)
    assert found.certificate.kinks == ["kinked"]


def sums(q: float, others: int) -> lg.Program:
    """In Z = 1e7 z − 123.4 and w: Z³ − (w − 1) Z = −q, w = 1 + q + 0.3 Z² + 0.3 Z (y − 1), in a ring with more states.

    At q = 0: w = 1, and Z = 0 three times. Both factors of the product are sums that cancel there, so that rounding is
    far larger than the terms tell, and no state is near zero.
    """
    program = lg.Program("sums")
    parameter = program.parameter("q", q)
    z, w = program.state("z", guess=123.4e-7), program.state("w", guess=1.0)
    y = program.state("y", guess=np.full(others, 0.6))
    near = z * 1e7 - 123.4
    program.constrain(1e5 * (near**3 - (w - 1.0) * near + parameter) == 0.0, name="fork")
    program.constrain(w - 1.0 - parameter - 0.3 * near**2 + 0.3 * near * (y[-1] - 1.0) == 0.0, name="bent")
    for k in range(others):
        program.constrain(y[k] == 0.5 * (y[k - 1] if k else w + 0.2 * near) + 0.01 * y[k] ** 2, name=f"y{k}")
    return program


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("others", [1, 2, 3, 5])
def test_a_product_of_sums_that_cancel_together_is_refused(others: int, path: str) -> None:
    with pytest.raises((lg.errors.SingularError, lg.errors.ConvergenceError), match="fork"):
        differentiate(path, sums(0.0, others), 0.0)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_a_factor_that_is_computed_from_what_cancels_is_refused(scale: float) -> None:
    """z (√2² − 2) = q and y = z y: at q = 0 both are zero, and their Jacobian is what rounding makes of zero."""
    program = lg.Program("factor")
    two, q = program.parameter("two", 2.0), program.parameter("q", 0.0)
    z, y = program.state("z", guess=0.0), program.state("y", guess=0.0)
    root = program.define("root", lg.sqrt(two))
    left = program.define("left", scale * (root * root - 2.0))
    program.constrain(z * left + y == q, name="fork")
    program.constrain(y == z * y, name="tie")
    with pytest.raises((lg.errors.SingularError, lg.errors.ConvergenceError), match="fork"):
        lg.build(program).solve().gradient("z")


@pytest.mark.parametrize("dense_max", [64, 1])
def test_two_errors_that_could_cancel_do_not_hide_each_other(dense_max: int) -> None:
    """z (z − w + 1) = −1.65 q², w = 1 + 0.73 q + 0.3 z²: without a real solution, and with one to rounding."""
    program = lg.Program("crossing")
    q = program.parameter("q", -2.085992171738165e-17)
    z, w = program.state("z", guess=1e-3), program.state("w", guess=1.0)
    program.constrain(1e5 * (z * (z - (w - 1.0)) + q * q * 1.652192349868896) == 0.0, name="fork")
    program.constrain(w - 1.0 - 0.7261040926259249 * q - 0.3 * z * z == 0.0, name="bent")
    with pytest.raises((lg.errors.SingularError, lg.errors.ConvergenceError), match="fork"):
        lg.build(program, dense_max=dense_max).solve().gradient("z")


def test_old_factors_do_not_hide_a_double_root() -> None:
    """(z − 1e4) (z − 1e4 − (w − 1)) = −1.5 q²: Newton's last factors are of a Jacobian 2.6
    times as large, by which rounding changes theirs too little to tell."""
    program = lg.Program("crossing")
    q = program.parameter("q", 1.2997318795825872e-17)
    z, w, y = (
        program.state("z", guess=10000.000000003605),
        program.state("w", guess=1.0),
        program.state("y", guess=0.6),
    )
    near = z * 1.0 - 1e4
    fork = near * (near - (w - 1.0)) + q * q * 1.4976751214114215
    program.constrain(1e9 * fork == 0.0, name="fork")
    bent = w - 1.0 - 0.6428412639858239 * q - 0.3 * near * near + 0.0 * y + 0.3 * near * (y - 1.0)
    program.constrain(bent == 0.0, name="bent")
    program.constrain(y - w * 0.5 - near * 0.1 - 0.01 * y**2 == 0.0, name="y")
    with pytest.raises((lg.errors.SingularError, lg.errors.ConvergenceError), match="fork"):
        lg.build(program, dense_max=1).solve().gradient("z")
