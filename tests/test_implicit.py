"""Values defined by equations inside functions: against closed forms, reference values, and finite differences."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

import lagrad as lg
from lagrad.errors import (
    ConvergenceError,
    DeclarationError,
    ExpressionError,
    LagradError,
    ShapeError,
    SingularError,
    StructuralError,
)

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text(encoding="utf-8"))


def number(entry: object) -> float:
    return float(Fraction(entry)) if isinstance(entry, str) else float(entry)


def table(entry: str | list) -> np.ndarray:
    """A vector or matrix, written as a list of decimals or as text such as "[[1/2,1/2],[1,0]]"."""
    if isinstance(entry, list):
        return np.array([number(x) for x in entry])
    rows = [[number(x.strip()) for x in row.split(",")] for row in re.findall(r"\[([^\[\]]+)\]", entry)]
    return np.array(rows if entry.startswith("[[") else rows[0])


def agree(actual: object, expected: object, rel: float = 1e-9) -> None:
    """Same shape; every component within `rel` of its own size."""
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected, dtype=float), rtol=rel, atol=0)


def differences(f, x, step=1e-4):
    """Central differences of a function of an array, extrapolated: error of order step⁴."""
    x = np.asarray(x, dtype=float)
    out = np.zeros(x.shape)
    for k in np.ndindex(x.shape):
        moved = []
        for h in (step, step / 2):
            e = np.zeros(x.shape)
            e[k] = h
            moved.append((float(f(x + e)) - float(f(x - e))) / (2 * h))
        out[k] = (4 * moved[1] - moved[0]) / 3
    return out


# -- reference values ---------------------------------------------------------------------------------------------
def lambert(x):
    return lg.implicit(lambda w: w * np.exp(w) - x, 1.0)


@pytest.mark.parametrize("point", REFERENCE["lambertw"]["points"])
def test_lambertw(point: str) -> None:
    expected = REFERENCE["lambertw"]["points"][point]
    value, gradient = lg.value_and_grad(lambert)(float(point))
    agree(value, number(expected["w"]))
    agree(gradient, number(expected["dw/dx"]))
    agree(lambert(float(point)), number(expected["w"]))  # on numbers, without a trace


def test_cubic() -> None:
    expected = REFERENCE["cubic"]
    for f in (
        lambda p: lg.implicit(lambda y: y**3 + y - p, 0.3),
        lambda p: lg.fixed_point(
            lambda y: p - y**3, 0.3
        ),  # repeating this step diverges: |3 y²| > 1 at y = 1
    ):
        value, gradient = lg.value_and_grad(f)(expected["p"])
        agree(value, number(expected["y"]))
        agree(gradient, number(expected["dy/dp"]))


def test_loop2() -> None:
    expected = REFERENCE["loop2"]

    def together(theta):
        state = lg.fixed_point(
            lambda s: {"u": np.tanh(theta * s["w"]), "w": np.cos(s["u"]) / 2 + theta}, {"u": 1.0, "w": 1.0}
        )
        return state["u"] * state["w"]

    def nested(theta):
        def w_of(u):
            return lg.implicit(lambda w: w - np.cos(u) / 2 - theta, 1.0)

        u = lg.implicit(lambda u: u - np.tanh(theta * w_of(u)), 1.0)
        return u * w_of(u)

    def one_array(theta):
        s = lg.implicit(
            lambda s: np.stack([s[0] - np.tanh(theta * s[1]), s[1] - np.cos(s[0]) / 2 - theta]), np.ones(2)
        )
        return s[0] * s[1]

    for f in (together, nested, one_array):
        value, gradient = lg.value_and_grad(f)(expected["theta"])
        agree(value, number(expected["J"]))
        agree(gradient, number(expected["dJ/dtheta"]))


def test_ridge_hyperparameter() -> None:
    expected = REFERENCE["ridge_hyperparameter"]
    x, y, x_val, y_val = (table(expected[name]) for name in ("X", "y", "Xval", "yval"))

    def theta(weight):
        return lg.implicit(lambda t: x.T @ (x @ t - y) + weight * t, np.zeros(2))

    def loss(weight):
        return 0.5 * np.sum((x_val @ theta(weight) - y_val) ** 2)

    weight = number(expected["lambda"])
    agree(theta(weight), table(expected["theta"]))
    agree(lg.jacobian(theta)(weight), table(expected["dtheta/dlambda"]))
    value, gradient = lg.value_and_grad(loss)(weight)
    agree(value, number(expected["valloss=.5|r|^2"]))
    agree(gradient, number(expected["dvalloss/dlambda"]))


def test_mdp() -> None:
    expected = REFERENCE["mdp"]
    transition, reward, start = (table(expected[name]) for name in ("P", "r", "mu"))

    def value_at_start(p, gamma, r):
        v = lg.fixed_point(lambda v: r + gamma * (p @ v), np.zeros(3))
        return start @ v

    gamma = number(expected["gamma"])
    program = lg.trace(value_at_start, transition, gamma, reward)
    solution = lg.build(program).solve()
    agree(solution["v"], table(expected["v"]))
    occupancy = table(expected["dJ/dr = lam (discounted occupancy)"])
    agree(solution.multipliers("out")["v"], occupancy)
    value, (by_p, by_gamma, by_r) = lg.value_and_grad(value_at_start, (0, 1, 2))(transition, gamma, reward)
    agree(value, number(expected["J"]))
    agree(by_r, occupancy)
    agree(by_gamma, number(expected["dJ/dgamma = lam^T P v"]))
    agree(by_p[0, 1], number(expected["dJ/dP_ij = gamma*lam_i*v_j, [0,1]"]))


def test_kepler_and_diodes_as_functions() -> None:
    expected = REFERENCE["kepler"]

    def anomaly(m, ecc):
        return lg.implicit(lambda e: e - ecc * np.sin(e) - m, m)

    value, (by_m, by_ecc) = lg.value_and_grad(anomaly, (0, 1))(np.deg2rad(85), expected["ecc"])
    agree(value, number(expected["E"]))
    agree(by_m, number(expected["dE/dM"]))
    agree(by_ecc, number(expected["dE/decc"]))


# -- closed forms ---------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 50.0), st.floats(0.3, 3.0))
def test_nested_square_roots(p: float, q: float) -> None:
    """z² = p inside y² = q + z: y = (q + p^½)^½, by chain rule and without it."""

    def f(p, q):
        def residual(y):
            z = lg.implicit(lambda z: z**2 - p, 1.0, lower=0.0)
            return y**2 - q - z

        return lg.implicit(residual, 1.0, lower=0.0)

    value, (by_p, by_q) = lg.value_and_grad(f, (0, 1))(p, q)
    root = math.sqrt(q + math.sqrt(p))
    agree(value, root)
    agree(by_q, 0.5 / root)
    agree(by_p, 0.25 / (root * math.sqrt(p)))


def test_three_levels_of_nesting_with_feedback() -> None:
    """Each inner equation uses the outer unknowns: one block of three, against its closed form.

    z = a + y, y = z x, x = 1 + y / 4 give y = (a + y)(1 + y/4): y² + a y + 4 a = 0.
    """

    def f(a):
        def outer(x):
            def middle(y):
                z = lg.implicit(lambda z: z - a - y, 0.0)
                return y - z * x

            y = lg.implicit(middle, -0.5)
            return x - 1 - y / 4

        x = lg.implicit(outer, 1.0)
        return 4 * (x - 1)

    def closed(a):
        return (-a + math.sqrt(a * a - 16 * a)) / 2

    a = -0.3
    value, gradient = lg.value_and_grad(f)(a)
    assert math.isclose(value**2 + a * value + 4 * a, 0.0, abs_tol=1e-9)
    if math.isclose(value, closed(a), rel_tol=1e-9):
        expected = (-1 + (2 * a - 16) / (2 * math.sqrt(a * a - 16 * a))) / 2
    else:
        expected = (-1 - (2 * a - 16) / (2 * math.sqrt(a * a - 16 * a))) / 2
    agree(gradient, expected)
    agree(gradient, differences(f, a)[()], 1e-7)


def test_several_at_once_and_one_after_another() -> None:
    """w e^w = x for two x, then one more of their sum: the derivative is W'(s) (W'(x₀), W'(x₁))."""

    def f(x):
        first, second = lambert(x[0]), lambert(x[1])
        return lambert(first + second)

    x = np.array([0.8, 2.5])
    w = scipy.special.lambertw(x).real
    s = w.sum()
    ws = float(scipy.special.lambertw(s).real)

    def slope(w):
        return np.exp(-w) / (1 + w)

    value, gradient = lg.value_and_grad(f)(x)
    agree(value, ws)
    agree(gradient, slope(ws) * slope(w))
    program = lg.trace(f, x)
    assert "implicit" in str(lg.build(program)) and "cyclic" not in str(lg.build(program))


def test_linear_solve_and_its_transpose() -> None:
    """A x = b: the gradient of c·x is A⁻ᵀ c by b and −λ xᵀ by A."""
    rng = np.random.default_rng(11)
    a = rng.standard_normal((5, 5)) + 4 * np.eye(5)
    b, c = rng.standard_normal(5), rng.standard_normal(5)

    def f(a, b):
        x = lg.implicit(lambda x: a @ x - b, np.zeros(5))
        return c @ x

    value, (by_a, by_b) = lg.value_and_grad(f, (0, 1))(a, b)
    x, lam = np.linalg.solve(a, b), np.linalg.solve(a.T, c)
    agree(value, c @ x, 1e-12)
    np.testing.assert_allclose(by_b, lam, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(by_a, -np.outer(lam, x), rtol=1e-12, atol=1e-14)


def test_matrix_unknowns_and_trees() -> None:
    """X² = A for a symmetric positive A, beside a scalar: the sum of the square root's entries."""
    a = np.array([[4.0, 1.0], [1.0, 3.0]])

    def f(a, s):
        y = lg.implicit(
            lambda y: (y["x"] @ y["x"] - a, [y["extra"][0] ** 3 - s]), {"x": np.eye(2), "extra": [1.0]}
        )
        return np.sum(y["x"]) * y["extra"][0]

    values, vectors = np.linalg.eigh(a)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    value, (by_a, by_s) = lg.value_and_grad(f, (0, 1))(a, 8.0)
    agree(value, 2 * root.sum())
    agree(by_s, root.sum() / 12)
    np.testing.assert_allclose(by_a, differences(lambda a: f(a, 8.0), a), rtol=1e-7, atol=1e-9)


def test_a_large_block() -> None:
    """200 coupled unknowns (−u'' + u³ = p on a line): more than fits the dense path, against a NumPy Newton."""
    n = 200

    def residual(u, p):
        left = np.concatenate([np.zeros(1), u[:-1]])
        right = np.concatenate([u[1:], np.zeros(1)])
        return 2 * u - left - right + u**3 - p

    def f(p):
        u = lg.implicit(lambda u: residual(u, p), np.full(n, 0.5))
        return np.mean(u**2)

    p = 0.01 + 0.001 * np.sin(np.arange(n))
    value, gradient = lg.value_and_grad(f)(p)
    u = np.full(n, 0.5)
    laplace = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    for _ in range(50):
        u = u - np.linalg.solve(laplace + np.diag(3 * u**2), residual(u, p))
    agree(value, np.mean(u**2), 1e-10)
    agree(gradient, np.linalg.solve((laplace + np.diag(3 * u**2)).T, 2 * u / n), 1e-9)


def test_unrolled_and_implicit_agree() -> None:
    """Fifty Newton steps written out, differentiated through all of them, give what the equation gives."""

    def unrolled(x):
        w = 1.0
        for _ in range(50):
            w = w - (w * np.exp(w) - x) / (np.exp(w) * (1 + w))
        return w

    agree(lg.grad(lambert)(3.0), lg.grad(unrolled)(3.0))


# -- where it may stand ---------------------------------------------------------------------------------------------
def test_closing_over_traced_values_arguments_and_loops() -> None:
    """Implicit Euler for y' = −k y: each step is y / (1 + k h)."""
    steps, h = 30, 0.1

    def f(k):
        y = 2.0
        for _ in range(steps):
            y = lg.implicit(lambda z, before=y: z - before + h * k * z, y)
        return y

    k = 0.7
    value, gradient = lg.value_and_grad(f)(k)
    agree(value, 2 * (1 + k * h) ** -steps)
    agree(gradient, -2 * steps * h * (1 + k * h) ** (-steps - 1))


def test_names_of_states() -> None:
    def f(x):
        level = lg.implicit(lambda y: y**2 - x, 1.0)
        again = [lg.implicit(lambda y: y - level, 1.0, name="named") for _ in range(2)]
        tree = lg.fixed_point(
            lambda t: {"a": x + t["b"][0] * 0.5, "b": [t["a"] * 0.25]}, {"a": 1.0, "b": [2.0]}
        )
        level = lg.implicit(lambda y: y - level * 2, 1.0)
        return level * again[0] * again[1] * tree["a"]

    program = lg.trace(f, 2.0)
    states = [i.name for i in program.states.items]
    assert states == ["level", "named", "named#2", "tree.a", "tree.b[0]", "level#2", "out"]
    assert [i.name for i in program.constraints.items] == states
    assert set(lg.build(program).solve().multipliers("out")) == set(states)


def test_a_residual_may_assign_in_place_and_its_result_too() -> None:
    def f(x):
        def residual(y):
            out = y * y
            out -= x
            y[0] = 77.0  # a copy: the unknown stays what it is
            return out

        y = lg.implicit(residual, np.ones(2))
        y[0] += 1.0
        return np.sum(y)

    agree(lg.grad(f)(np.array([4.0, 9.0])), [0.25, 1 / 6])


def test_guesses_may_be_traced_values() -> None:
    """y² = x with the guess −x takes the negative root, at every x, whatever was called before."""

    def f(x):
        start = -x
        return lg.implicit(lambda y: y**2 - x, start)

    gradient = lg.value_and_grad(f)
    for x in (4.0, 100.0, 0.01):
        value, slope = gradient(x)
        agree(value, -math.sqrt(x))
        agree(slope, -0.5 / math.sqrt(x))
    jacobian = lg.jacobian(f)
    agree(jacobian(9.0), -1 / 6)

    def chosen(x, sign):
        return lg.implicit(lambda y: y**2 - x, sign * 2.0)

    both = lg.value_and_grad(chosen)
    agree(both(4.0, 1.0)[0], 2.0)
    agree(both(4.0, -1.0)[0], -2.0)
    agree(both(4.0, 1.0)[0], 2.0)


def test_a_guess_from_another_implicit_value_counts_with_its_guess() -> None:
    def f(x):
        first = lg.implicit(lambda y: y**2 - x, -1.5)
        second = lg.implicit(lambda z: z**2 - x, first * 2.0)
        return second

    agree(lg.value_and_grad(f)(4.0), (-2.0, -0.25))
    program = lg.trace(f, 4.0)
    assert float(program.guesses[1]) == -3.0


def test_outside_of_a_trace_the_result_is_numbers() -> None:
    y = lg.implicit(lambda y: y**2 - 2.0, 1.0)
    assert isinstance(y, float) and math.isclose(y, math.sqrt(2), rel_tol=1e-15)
    tree = lg.fixed_point(lambda t: {"a": np.array([1.0, 2.0]) + 0.5 * t["b"], "b": t["a"] * 0.5}, {
        "a": np.zeros(2), "b": np.zeros(2)})  # fmt: skip
    agree(tree["a"], np.array([1.0, 2.0]) / 0.75, 1e-12)
    agree(tree["b"], np.array([1.0, 2.0]) / 1.5, 1e-12)
    assert type(tree["a"]) is np.ndarray

    def residual(y):
        z = lg.implicit(lambda z: z**3 - y, 1.0)
        return z * y - 16.0

    agree(lg.implicit(residual, 5.0), 8.0, 1e-12)


@pytest.mark.parametrize(
    ("bounds", "guess", "root"), [({"lower": 0.0}, 1.0, 3.0), ({"upper": 0.0}, -1.0, -2.0)]
)
def test_bounds_choose_the_root(bounds: dict[str, float], guess: float, root: float) -> None:
    """y² − y = 6 has the roots 3 and −2, with derivative 1 / (2y − 1) by the right side."""
    value, slope = lg.value_and_grad(lambda c: lg.implicit(lambda y: y**2 - y - c, guess, **bounds))(6.0)
    agree(value, root)
    agree(slope, 1 / (2 * root - 1))
    assert lg.trace(lambda c: lg.implicit(lambda y: y - c, guess, **bounds), 1.0).bounds


def test_unused_and_constant_equations() -> None:
    def f(x):
        lg.implicit(lambda y: y**2 - x, 1.0)
        free = lg.implicit(lambda y: y - 3.0, 0.0)
        return x * free

    assert float(lg.grad(f)(2.0)) == 3.0


def test_an_equation_may_be_a_constraint() -> None:
    """y³ = p has the derivative 1 / (3 y²); of trees of constraints as of one."""
    agree(lg.grad(lambda p: lg.implicit(lambda y: y**3 == p, 1.0))(8.0), 1.0 / 12.0)
    both = lg.jacobian(
        lambda p: lg.implicit(lambda y: {"k": y["a"] == p, "l": 2.0 * y["b"] == y["a"]}, {"a": 1.0, "b": 1.0})
    )
    agree(list(both(3.0).values()), [1.0, 0.5])


def test_the_order_of_keys_does_not_matter() -> None:
    """a = p, b = a / 2, and tangents and weights by key."""

    def f(p):
        return lg.fixed_point(lambda y: {"b": 0.5 * y["a"], "a": p["u"] * p["v"]}, {"a": 1.0, "b": 1.0})

    value, change = lg.jvp(f, ({"u": 2.0, "v": 3.0},), ({"v": 1.0, "u": 10.0},))
    agree([value["a"], value["b"], change["a"], change["b"]], [6.0, 3.0, 32.0, 16.0])
    weights = lg.vjp(f, {"u": 2.0, "v": 3.0})[1]({"b": 2.0, "a": 0.0})
    agree([weights[0]["u"], weights[0]["v"]], [3.0, 2.0])


# -- refusals -------------------------------------------------------------------------------------------------------
def test_a_singular_root_has_no_derivative() -> None:
    """y³ = p at p = 0: the Jacobian 3y² vanishes at the solution."""
    with pytest.raises(LagradError) as caught:
        lg.grad(lambda p: lg.implicit(lambda y: y**3 - p, 1.0, name="y"))(0.0)
    assert isinstance(caught.value, (SingularError, ConvergenceError))
    assert "y" in str(caught.value)


def test_no_solution_is_an_error_with_the_name() -> None:
    with pytest.raises(ConvergenceError, match="level"):
        lg.grad(lambda p: lg.implicit(lambda y: y**2 + p, 0.7, name="level"))(1.0)


def test_an_equation_without_its_unknown() -> None:
    with pytest.raises(StructuralError, match="level"):
        lg.grad(lambda x: lg.implicit(lambda y: x - 1.0, 1.0, name="level"))(1.0)


def test_wrong_numbers_of_equations_show_the_line() -> None:
    with pytest.raises(DeclarationError, match="2 equations for 1 unknown") as caught:
        lg.grad(lambda x: lg.implicit(lambda y: [y - x, y + x], 1.0))(1.0)
    assert "lambda y: [y - x, y + x]" in str(caught.value)
    with pytest.raises(DeclarationError, match="1 equation for 3 unknowns"):
        lg.implicit(lambda y: np.sum(y), np.ones(3))
    with pytest.raises(ShapeError, match="the step of y"):
        lg.fixed_point(lambda y: np.sum(y), np.ones(3), name="y")
    with pytest.raises(DeclarationError, match="was expected"):
        lg.fixed_point(lambda y: y["a"], {"a": 1.0})


@pytest.mark.parametrize("guess", ["text", None, True, {"a": None}])
def test_guesses_that_are_no_numbers(guess) -> None:
    with pytest.raises(DeclarationError, match="guess must be numbers"):
        lg.implicit(lambda y: y, guess)


def test_a_guess_that_is_not_finite() -> None:
    with pytest.raises(DeclarationError, match="not finite"):
        lg.grad(lambda x: lg.implicit(lambda y: y - x, np.log(x - 1)))(1.0)


def test_bounds_are_numbers() -> None:
    with pytest.raises(DeclarationError, match="the bound p is a traced value"):
        lg.grad(lambda p: lg.implicit(lambda y: y**2 - p, 1.0, lower=p))(4.0)


def test_a_residual_that_returns_nothing() -> None:
    with pytest.raises(DeclarationError, match="must be numbers"):
        lg.implicit(lambda y: None, 1.0)


def test_control_flow_in_a_residual_on_numbers_shows_the_line() -> None:
    def residual(y):
        if y > 0:
            return y - 1
        return y + 1

    with pytest.raises(ExpressionError, match=r"if y > 0:"):
        lg.implicit(residual, 1.0)


def test_an_unknown_that_escapes() -> None:
    kept = []

    def residual(y):
        kept.append(y)
        return y - 1.0

    lg.implicit(residual, 0.0, name="level")
    with pytest.raises(ExpressionError, match="a value from inside level"):
        kept[0] + 1


def test_values_of_another_program_are_refused() -> None:
    program = lg.Program("plant")
    p = program.parameter("p", 1.0)
    with pytest.raises(ExpressionError, match="plant"):
        lg.implicit(lambda y: y - p, 1.0)
