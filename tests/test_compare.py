"""The second opinion: each method against truths that are not lagrad's, then lagrad against each method.

Truths: closed forms, SymPy's derivatives at thirty digits, and autograd on the same Python function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
import sympy
from example_files import load
from fixtures import FIXTURES, Fixture, declare
from hypothesis import given, settings
from hypothesis import strategies as st

import lagrad as lg
from lagrad.compare import gradients, libraries
from lagrad.compare.differences import derivative
from lagrad.compare.libraries import installed
from lagrad.compare.naming import point_of
from lagrad.compare.tape import backprop, backprop_at, record
from lagrad.errors import ComparisonError, DeclarationError, EvaluationError, ShapeError, UnknownNameError
from lagrad.expr import expression
from lagrad.expr.primitives import PRIMITIVES

EPS = float(np.finfo(float).eps)
DIGITS = 30
WEIGHTS = np.array([1.0, 0.7])
# A library that is not installed has nothing to be tested with.
LIBRARIES = [name for name in libraries.NAMES if installed(name)]
PEERS = [name for name in LIBRARIES if name not in ("numpy", "sympy")]
METHODS = ["tape", "finite-differences", "complex-step", "sympy", *PEERS]
FAST = [
    name for name in METHODS if name != "jax"
]  # JAX compiles for seconds where the others take milliseconds
DAGS = [fixture for fixture in FIXTURES if fixture.dag]
OTHERS = [fixture for fixture in FIXTURES if not fixture.dag and fixture.outputs]


def solved(program: lg.Program) -> lg.Solution:
    return lg.build(program).solve()


def close(actual: Any, expected: Any, rel: float = 1e-12) -> None:
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(actual, float), np.asarray(expected, float), rtol=rel, atol=0)


# -- the tape ------------------------------------------------------------------------------------------------
def test_the_tape_on_a_product_of_many_variables() -> None:
    """Speelpenning's product: ∂(x₁ … xₙ)/∂xᵢ is the product over xᵢ."""
    x = 0.7 + 0.05 * np.arange(11)
    program = lg.Program("speelpenning")
    expression: Any = 1.0
    for factor in program.parameter("x", x):
        expression = expression * factor
    program.define("y", expression)
    found = backprop(program, "y")
    close(found.value, math.prod(x))
    close(found.gradient["x"], math.prod(x) / x, 1e-14)


def test_the_tape_on_the_essays_function() -> None:
    example = load("examples/domke.py")
    for x, expected in example.EXPECTED.items():
        found = backprop(example.build(x), "f")
        close(found.value, expected["f"], 1e-14)
        close(found.gradient["x"], expected["df/dx"], 1e-14)
        for name, value in expected["multipliers"].items():
            close(found.multipliers[name], value, 1e-14)


def test_adjoints_add_where_a_value_is_used_twice() -> None:
    program = lg.Program("twice")
    a = program.define("a", 3.0 * program.parameter("x", 0.4))
    program.define("y", lg.sin(a) + a * a)
    found = backprop(program, "y")
    close(found.multipliers["a"], math.cos(1.2) + 2.4, 1e-14)
    close(found.gradient["x"], 3 * (math.cos(1.2) + 2.4), 1e-14)


def test_a_branch_that_is_not_taken_hands_nothing_down() -> None:
    program = lg.Program("branch")
    x = program.parameter("x", 0.0)
    program.define("y", lg.where(x > 0, lg.sqrt(x), 2.0 * x))  # the partial of sqrt is infinite there
    assert backprop(program, "y").gradient["x"] == 2.0


def test_the_order_of_declaration_is_no_order_of_evaluation() -> None:
    program = lg.Program("shuffled")
    u, w = program.state("u"), program.state("w")
    x = program.parameter("x", 0.3)
    program.constrain(u == lg.exp(w), name="u_law")
    program.constrain(2 * x == w, name="w_law")  # formula == state: the multiplier changes its sign
    found = backprop(program, "u")
    close(found.gradient["x"], 2 * math.exp(0.6), 1e-14)
    close(found.multipliers["u_law"], 1.0)
    close(found.multipliers["w_law"], -math.exp(0.6), 1e-14)


@pytest.mark.parametrize("fixture", DAGS, ids=str)
def test_tape_and_multipliers_agree_node_by_node(fixture: Fixture) -> None:
    program = declare(fixture)
    for output in fixture.outputs:
        same_node_by_node(program, output)


def test_tape_and_multipliers_agree_node_by_node_where_every_operation_is_a_constraint() -> None:
    for seed in range(5):
        program = random_dag(seed, 400)
        same_node_by_node(program, "y")


def test_tape_and_multipliers_agree_node_by_node_in_a_traced_function() -> None:
    def cell(x: Any, w: Any) -> Any:
        h = np.zeros(3)
        for k in range(6):
            h = np.tanh(w @ h + x[k]) * (1 + 0.1 * h)
        return np.sum(h * h) + h[0]

    random = np.random.default_rng(0)
    program = lg.trace(cell, random.normal(size=6), random.normal(size=(3, 3)))
    assert lg.build(program).layout.hidden.size >= 15
    same_node_by_node(program, program.states.items[-1].name)


def same_node_by_node(program: lg.Program, output: str) -> None:
    """Every multiplier, the hidden states' among them, within a few roundings of what is added up in it."""
    solution = solved(program)
    tape = record(program)
    node = next(
        k
        for k in range(len(program.graph))
        if program.graph.code[k] == -3 and program.graph.a[k] == program.states.scalar_index(output, "state")
    )
    largest = np.array(tape.reverse({node: 1.0}, absolute=True), dtype=float)
    found = backprop(program, output)
    ours = solution.multipliers(output, hidden=True)
    graph = program.graph
    leaf = {graph.a[k]: k for k in range(len(graph)) if graph.code[k] == -3}
    compared = 0
    for j, definition in tape.defined.items():
        name = program.constraint_name(definition.constraint)
        base, _, inside = name.partition("[")
        index = tuple(int(k) for k in inside.rstrip("]").split(",")) if inside else ()
        mine, theirs = ours[base][index], found.multipliers[base][index]
        assert abs(mine - theirs) <= 50 * EPS * largest[leaf[j]], name
        compared += theirs != 0.0
    assert found.adjoints is not None
    layout = solution.layout
    for name, k in zip(layout.hidden_names, layout.hidden.tolist(), strict=True):
        assert abs(ours[name] - found.adjoints[k]) <= 50 * EPS * largest[k], name
    assert compared > 0
    gradient = solution.gradient(output)
    for name, values in found.gradient.items():
        close(gradient[name], values, 1e-12)


def random_dag(seed: int, size: int) -> lg.Program:
    """Every operation a definition of its own, of two earlier values; about one in three is used again."""
    choose = np.random.default_rng(seed)
    program = lg.Program(f"dag{seed}")
    values = [program.parameter(f"x{k}", choose.normal()) for k in range(5)]
    unary = (lg.sin, lg.tanh, lg.arctan, lambda x: lg.exp(-x * x), lambda x: lg.sqrt(1 + x * x))
    binary = (
        lambda x, y: x + y,
        lambda x, y: x - 0.3 * y,
        lambda x, y: x * y,
        lambda x, y: x / (1.5 + y * y),
    )
    for k in range(size):
        i, j = (len(values) - 1 - min(int(choose.exponential(6)), len(values) - 1) for _ in range(2))
        if choose.random() < 0.5:
            made = unary[choose.integers(len(unary))](values[i])
        else:
            made = binary[choose.integers(len(binary))](values[i], values[j])
        values.append(program.define(f"v{k}", made))
    program.define("y", values[-1] + values[-2] * values[-3])
    return program


@pytest.mark.parametrize("fixture", OTHERS, ids=str)
def test_the_tape_and_a_dense_solve_agree_with_the_multipliers_of_any_program(fixture: Fixture) -> None:
    program = declare(fixture)
    solution = solved(program)
    output = fixture.outputs[0]
    found = backprop_at(program, output, *point_of(solution))
    ours = solution.multipliers(output)
    scale = max(np.abs(x).max(initial=0.0) for x in found.multipliers.values())
    for name, values in found.multipliers.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-9, atol=1e-11 * scale)


def test_an_implicit_program_has_no_tape() -> None:
    program = load("examples/loop2.py").build()
    with pytest.raises(ComparisonError, match=r"the definition of [uw] needs [uw]"):
        backprop(program, "J")
    program = load("examples/kepler.py").build()
    with pytest.raises(ComparisonError, match="constraint kepler is no definition"):
        backprop(program, "E")


# -- every primitive by every library --------------------------------------------------------------------------
@cache
def primitives_program(without: tuple[str, ...] = ()) -> tuple[lg.Program, dict[str, Any]]:
    """y = Σ of all primitives at points of their domains, and the truth of dy/d(their arguments)."""
    program = lg.Program("primitives")
    choose = np.random.default_rng(3)
    total: Any = 0.0
    truth: dict[str, Any] = {}
    for code, primitive in enumerate(PRIMITIVES):
        if primitive.name in without:
            continue
        arguments = []
        for place in range(primitive.arity):
            low, high = primitive.sample[place][choose.integers(len(primitive.sample[place]))]
            arguments.append(low + (high - low) * choose.random(2))
        if primitive.name == "powc":
            arguments = [np.array([-1.3, 0.7]), np.array([3.0, -2.0])]  # whole exponents of a negative base
        declared = [
            program.parameter(f"{primitive.name}_{'ab'[k]}", value) for k, value in enumerate(arguments)
        ]
        if primitive.name == "powc":
            declared[1] = arguments[1]  # a constant, whose parameter then has no influence
        made = (expression.unary if primitive.arity == 1 else expression.binary)(code, *declared)
        total = total + (made * WEIGHTS).sum()
        truth |= slopes(primitive, arguments)
        if primitive.name == "powc":
            truth["powc_b"] = np.zeros(2)
    program.define("y", total)
    return program, truth


def slopes(primitive: Any, arguments: list[Any]) -> dict[str, Any]:
    """Differences at many digits of the SymPy column: no rule of differentiation takes part."""
    symbols = sympy.symbols("a b", real=True)[: primitive.arity]
    formula = eval(primitive.sympy, {"sympy": sympy, "a": symbols[0], "b": symbols[-1]})
    function = sympy.lambdify(symbols, formula, "mpmath")
    out = {}
    with mpmath.workdps(DIGITS):
        for k in range(primitive.arity):
            order = tuple(int(place == k) for place in range(primitive.arity))
            points = zip(*(map(mpmath.mpf, values.tolist()) for values in arguments), strict=True)
            found = [
                mpmath.diff(function, point if len(point) > 1 else point[0], order if len(point) > 1 else 1)
                for point in points
            ]
            out[f"{primitive.name}_{'ab'[k]}"] = np.array([float(mpmath.re(x)) for x in found]) * WEIGHTS
    return out


@pytest.mark.parametrize("method", METHODS)
def test_every_primitive_by_every_method(method: str) -> None:
    """Derivatives of each method, and lagrad's, against SymPy's at thirty digits."""
    # CasADi has none of the three; PyTorch has nine digits of the trigamma function, digamma's derivative.
    missing = {"casadi": ("gammaln", "digamma", "trigamma"), "torch": ("digamma",)}.get(method, ())
    program, truth = primitives_program(missing)
    ours, theirs = gradients.check_gradients(solved(program), "y", against=method, show=False)
    assert theirs.note == "" or theirs.note.endswith("elements")
    rel = 1e-8 if method == "finite-differences" else 1e-11
    for name, expected in truth.items():
        assert theirs.gradient is not None and ours.gradient is not None
        asked = ~np.isnan(theirs.gradient[name])
        np.testing.assert_allclose(theirs.gradient[name][asked], expected[asked], rtol=rel, atol=1e-13)
        np.testing.assert_allclose(ours.gradient[name], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", LIBRARIES)
def test_a_callable_gives_every_state_in_its_shape(backend: str) -> None:
    program = lg.Program("shapes")
    A = program.parameter("A", np.arange(6.0).reshape(2, 3) / 7)
    x = program.parameter("x", 0.25)
    M = program.define("M", lg.sin(A) * x)
    v = program.define("v", M.sum(axis=0))
    program.define("s", v.mean() + M[1, 2])
    given = np.array([[0.1, -0.4, 0.9], [1.3, 0.2, -0.7]])
    f = program.to_callable(backend)
    with double_precision(backend):
        made = f({"A": given, "x": 0.25})
    shapes = {
        item.name: item.shape for item in program.states.items
    }  # CasADi's arrays are columns or matrices
    found = {name: np.array(value, dtype=float).reshape(shapes[name]) for name, value in made.items()}
    expected = np.sin(given) * 0.25
    close(found["M"], expected, 1e-15)
    close(found["v"], expected.sum(axis=0), 1e-14)
    close(found["s"], expected.sum(axis=0).mean() + expected[1, 2], 1e-14)


def double_precision(backend: str) -> Any:
    """JAX computes in single precision unless told otherwise."""
    if backend != "jax":
        return nullcontext()
    import jax

    return jax.enable_x64(True)


def test_sympy_gives_the_closed_form() -> None:
    program = load("examples/domke.py").build()
    x = sympy.Symbol("x", real=True)
    a = sympy.exp(x)
    assert (
        sympy.simplify(lg.to_callable(program, "sympy")()["f"] - sympy.exp(a + a**2) - sympy.sin(a + a**2))
        == 0
    )


def test_a_callable_of_an_implicit_program_needs_a_solution() -> None:
    program = load("examples/loop2.py").build()
    for backend in LIBRARIES:
        with pytest.raises(ComparisonError, match="at=solution"):
            lg.to_callable(program, backend)
    with pytest.raises(ComparisonError, match="no closed form"):
        lg.to_callable(program, "sympy", at=solved(program))()


def test_a_callable_at_a_solution_is_exact_there_and_of_second_order_beside_it() -> None:
    example = load("examples/loop2.py")
    program = example.build()
    f = lg.to_callable(program, "numpy", at=solved(program))
    close(f()["J"], example.EXPECTED["J"], 1e-14)
    errors = []
    for h in (1e-2, 1e-3):
        exact = solved(example.build(0.7 + h))["J"]
        errors.append(abs(f({"theta": 0.7 + h})["J"] - exact))
    assert 0.5e-2 < errors[1] / errors[0] < 2e-2


if installed("casadi"):

    @pytest.mark.parametrize("kind", ["SX", "MX"])
    def test_casadi_differentiates_a_loop_by_symbols_of_either_kind(kind: str) -> None:
        import casadi

        example = load("examples/loop2.py")
        program = example.build()
        f = lg.to_callable(program, "casadi", at=solved(program))
        theta = getattr(casadi, kind).sym("theta")
        value = f({"theta": theta})["J"]
        made = casadi.Function("J", [theta], [value, casadi.jacobian(value, theta)])
        got, slope = made(0.7)
        close(float(got), example.EXPECTED["J"], 1e-14)
        close(float(slope), example.EXPECTED["dJ/dtheta"], 1e-14)
        close(float(f({"theta": 0.7})["J"]), example.EXPECTED["J"], 1e-14)


def test_what_to_callable_refuses() -> None:
    program = load("examples/domke.py").build()
    with pytest.raises(ComparisonError, match="no such library"):
        lg.to_callable(program, "fortran")
    with pytest.raises(UnknownNameError, match="'y'"):
        lg.to_callable(program, "numpy")({"y": 1.0})
    with pytest.raises(ShapeError):
        lg.to_callable(program, "numpy")({"x": [1.0, 2.0]})


# -- differences and the complex step ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("function", "slope", "x"),
    [
        (np.sin, np.cos, 1.3),
        (np.exp, np.exp, 20.0),
        (lambda x: np.exp(40 * x), lambda x: 40 * np.exp(40 * x), 0.7),
        (np.log, lambda x: 1 / x, 1e-6),  # a relative step of 1 would leave the domain
        (np.sqrt, lambda x: 0.5 / np.sqrt(x), 3.0),
        (lambda x: 3.0 * x, lambda x: 3.0, -5.0),
        (lambda x: np.sin(1000 * x), lambda x: 1000 * np.cos(1000 * x), 2.0),  # far from linear at first
    ],
)
def test_differences_find_their_step_and_their_error(
    function: Callable[[float], float], slope: Callable[[float], float], x: float
) -> None:
    with np.errstate(invalid="ignore"):
        found, error = derivative(lambda t: np.array([function(t)]), x, abs(x))
    off = abs(found[0] - slope(x))
    assert off <= 1e-10 * abs(slope(x))
    assert off <= 10 * error[0]
    assert error[0] <= 1e-9 * abs(slope(x))


def test_differences_of_a_function_that_is_defined_nearby_only() -> None:
    def near_one(x: float) -> np.ndarray:
        return np.array([x**3 if abs(x - 1) < 1e-3 else np.nan])

    found, _ = derivative(near_one, 1.0, 1.0)
    np.testing.assert_allclose(found, [3.0], rtol=1e-9)
    nowhere, _ = derivative(lambda x: np.array([x if x == 1.0 else np.nan]), 1.0, 1.0)
    assert np.isnan(nowhere).all()


# -- implicit programs ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_methods_on_a_loop_with_a_closed_form(method: str) -> None:
    """u == p w and w == q u + 1: u = p/(1 − p q), du/dp = 1/(1 − p q)², du/dq = p²/(1 − p q)²."""
    program = lg.Program("linear")
    p, q = program.parameter("p", 0.6), program.parameter("q", [0.7])
    u, w = program.state("u"), program.state("w")
    program.constrain(u == p * w)
    program.constrain(w == q[0] * u + 1)
    _, found = gradients.check_gradients(solved(program), "u", against=method, show=False)
    assert found.agrees and found.gradient is not None
    rel = 1e-8 if method == "finite-differences" else 1e-13
    close(found.value, 0.6 / 0.58, rel)
    close(found.gradient["p"], 1 / 0.58**2, rel)
    close(found.gradient["q"], [0.36 / 0.58**2], rel)


@pytest.mark.parametrize("fixture", [f for f in FIXTURES if f.outputs], ids=str)
def test_every_method_agrees_on_every_fixture(fixture: Fixture) -> None:
    solution = solved(declare(fixture))
    for output in fixture.outputs[:1]:
        for found in gradients.check_gradients(solution, output, against=FAST, show=False):
            if found.method == "sympy" and "limited" in found.note:
                continue  # more states than a dense solve with many digits takes
            assert found.note == "" or found.note.endswith("elements"), found
            assert found.agrees, found
            assert found.difference is not None
            assert found.difference < (1e-7 if found.method == "finite-differences" else 1e-10), found


# -- the table -----------------------------------------------------------------------------------------------
def test_a_place_is_not_broken_by_the_widest_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 columns, twelve digits, a negative value, and a method that declines."""
    monkeypatch.setenv("COLUMNS", "80")

    def f(x: Any) -> Any:
        for k in range(40):
            x = np.sin(x) * x[::-1] - k / 7
        return np.sum(x)

    solution = lg.build(lg.trace(f, np.linspace(0.1, 0.9, 14))).solve()
    lg.check_gradients(solution, "out", against=["finite-differences", "complex-step", "sympy"])
    printed = capsys.readouterr().out
    assert "not compared" in printed
    assert printed.count("x[") == printed.count("]") >= 2 and all(
        line.count("x[") == line.count("]") for line in printed.split("\n")
    )


def test_the_table_and_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    solution = solved(load("examples/sellar.py").build())
    found = lg.check_gradients(solution, "obj")
    assert [c.method for c in found] == ["lagrad", "tape", "finite-differences", "complex-step"]
    expected = load("examples/sellar.py").EXPECTED
    for c in found:
        assert c.gradient is not None
        close(c.value, expected["obj"], 1e-13)
        close(c.gradient["x"], expected["totals"]["obj"]["x"], 1e-9)
        close(c.gradient["z"], expected["totals"]["obj"]["z"], 1e-9)
        assert c.agrees and c.seconds >= 0.0
    printed = capsys.readouterr().out
    assert "28.588308165" in printed
    assert printed.count("agrees") == 3
    assert all(heading in printed for heading in ("method", "value", "difference", "where", "seconds"))


def test_a_wrong_gradient_is_found_by_every_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = lg.Solution.gradient

    def wrong(self: lg.Solution, of: str, *args: Any, **options: Any) -> Any:
        out = right(self, of, *args, **options)
        out["z"] = out["z"] * np.array([1.0, 1.00001])  # one element, in the fifth digit
        return out

    monkeypatch.setattr(lg.Solution, "gradient", wrong)
    found = lg.check_gradients(solved(load("examples/sellar.py").build()), "obj", against=FAST)
    for c in found[1:]:
        assert c.agrees is False, c
        assert c.where == "z[1]"
        assert c.difference is not None
        assert 0.9e-5 < c.difference < 1.1e-5
    assert capsys.readouterr().out.count("DISAGREES") == len(FAST)


def test_a_method_that_cannot_be_had_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    monkeypatch.setattr(gradients, "installed", lambda name: False)
    solution = solved(load("examples/sellar.py").build())
    for method in ("autograd", "jax", "torch", "casadi"):
        _, found = lg.check_gradients(solution, "obj", against=[method], show=False)
        assert "not installed" in found.note
        assert found.gradient is None and found.agrees is None
    assert len(lg.check_gradients(solution, "obj", against="all", show=False)) == 4
    assert len(lg.check_gradients(solution, "obj", against=["tape", "all"], show=False)) == 4
    with pytest.raises(UnknownNameError, match="finite-differences"):
        lg.check_gradients(solution, "obj", against=["finite-difference"], show=False)


def test_what_is_no_solution_program_method_or_name_is_told() -> None:
    program = lg.Program("small")
    program.define("y", program.parameter("x", 1.0) ** 2)
    solution = solved(program)
    for wrong, words in (
        (lambda: lg.check_gradients(program, "y"), "a Solution was expected, got a Program"),
        (lambda: lg.adjoint_source(solution), "a Program was expected, got a Solution"),
        (lambda: lg.adjoint_source(program, at=3), "at: a Solution was expected, got a int"),
        (lambda: lg.expression_swell(solution), "a Program was expected"),
        (lambda: lg.to_callable(program, "numpy", at=program), "a Solution was expected"),
        (lambda: lg.trace(3), "trace: a function was expected, got a int"),
        (lambda: lg.implicit(3.0, 1.0), "implicit: a function was expected, got a float"),
        (lambda: lg.fixed_point(None, 1.0), "fixed_point: a function was expected"),
    ):
        with pytest.raises(DeclarationError, match=words):
            wrong()
    for call in (
        lambda: lg.check_gradients(solution, 3),
        lambda: lg.check_gradients(solution, "y", against=3),
        lambda: lg.check_gradients(solution, "y", against=["tape", None]),
        lambda: program.lagrangian(3),
        lambda: program.adjoint_equations(["y"]),
        lambda: lg.adjoint_source(program, 3),
        lambda: lg.expression_swell(program, 3),
    ):
        with pytest.raises(UnknownNameError, match=r"no .* is named"):
            call()


def test_of_many_parameters_the_largest_derivatives_are_compared() -> None:
    program = lg.Program("many")
    x = program.parameter("x", np.linspace(0.1, 2.0, 300))
    program.define("y", (x**4).sum())
    _, found = lg.check_gradients(solved(program), "y", against="finite-differences", show=False)
    assert found.note == "91 of 300 elements"  # 50 largest, 50 spread over all, 9 of them both
    assert found.gradient is not None
    asked = ~np.isnan(found.gradient["x"])
    assert asked[-50:].all() and asked[0]
    np.testing.assert_allclose(
        found.gradient["x"][asked], 4 * np.linspace(0.1, 2.0, 300)[asked] ** 3, rtol=1e-7
    )
    assert found.agrees


def test_an_element_of_an_array_is_an_output() -> None:
    solution = solved(load("examples/economy.py").build())
    for c in lg.check_gradients(solution, "x[1]", show=False)[1:]:
        assert c.agrees, c
    with pytest.raises(ShapeError, match="x"):
        lg.check_gradients(solution, "x", show=False)


# -- random functions, run by autograd as they are -------------------------------------------------------------
def squashed(x: Any, f: Any) -> Any:
    """Within (−1, 1), where every function below is defined after a shift."""
    return f.tanh(0.7 * x)


UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "neg": lambda x, f: -x,
    "square": lambda x, f: x**2,
    "powc": lambda x, f: (1.5 + x) ** 2.5,
    "reciprocal": lambda x, f: 1 / (1.7 + x),
    "abs": lambda x, f: f.abs(x - 0.123),
    "sqrt": lambda x, f: f.sqrt(1.2 + x),
    "exp": lambda x, f: f.exp(x),
    "exp2": lambda x, f: f.exp2(x),
    "expm1": lambda x, f: f.expm1(x),
    "log": lambda x, f: f.log(1.3 + x),
    "log2": lambda x, f: f.log2(1.3 + x),
    "log10": lambda x, f: f.log10(1.3 + x),
    "log1p": lambda x, f: f.log1p(0.8 * x),
    "sin": lambda x, f: f.sin(3 * x),
    "cos": lambda x, f: f.cos(3 * x),
    "tan": lambda x, f: f.tan(x),
    "arcsin": lambda x, f: f.arcsin(0.9 * x),
    "arccos": lambda x, f: f.arccos(0.9 * x),
    "arctan": lambda x, f: f.arctan(2 * x),
    "sinh": lambda x, f: f.sinh(x),
    "cosh": lambda x, f: f.cosh(x),
    "tanh": lambda x, f: f.tanh(x),
    "arcsinh": lambda x, f: f.arcsinh(x),
    "arccosh": lambda x, f: f.arccosh(2.3 + x),
    "arctanh": lambda x, f: f.arctanh(0.9 * x),
    "erf": lambda x, f: f.erf(x),
    "erfc": lambda x, f: f.erfc(x),
    "expit": lambda x, f: f.expit(x),
    "gammaln": lambda x, f: f.gammaln(1.6 + x),
    "digamma": lambda x, f: f.digamma(1.6 + x),
    "floor": lambda x, f: x * f.floor(4 * x),
    "sign": lambda x, f: x * f.sign(x - 0.071),
    "sum": lambda x, f: f.sum(x),
    "sum_last": lambda x, f: f.sum(x, axis=-1, keepdims=True) if np.ndim(x) else x,
    "mean_first": lambda x, f: f.mean(x, axis=0) if np.ndim(x) else x,
    "prod": lambda x, f: f.prod(1.1 + 0.3 * x),
    "max": lambda x, f: f.max(x, axis=-1) if np.ndim(x) else x,
    "min": lambda x, f: f.min(x),
    "transpose": lambda x, f: f.transpose(x),
    "ravel": lambda x, f: f.ravel(x),
    "part": lambda x, f: x[..., ::-1] if np.ndim(x) else x,
    "corner": lambda x, f: x[0] if np.ndim(x) else x,
    "gram": lambda x, f: x @ f.transpose(x) if np.ndim(x) == 2 else x,
    "stack": lambda x, f: f.stack([x, 0.4 * x * x]) if np.ndim(x) < 3 else x,
}
BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda x, y, f: x + y,
    "sub": lambda x, y, f: x - y,
    "mul": lambda x, y, f: x * y,
    "div": lambda x, y, f: x / (1.9 + y),
    "power": lambda x, y, f: (1.4 + x) ** y,
    "maximum": lambda x, y, f: f.maximum(x, y + 0.0173),
    "minimum": lambda x, y, f: f.minimum(x, y - 0.0119),
    "arctan2": lambda x, y, f: f.arctan2(x, 1.2 + y),
    "hypot": lambda x, y, f: f.hypot(x, 1.2 + y),
    "logaddexp": lambda x, y, f: f.logaddexp(x, y),
    "mod": lambda x, y, f: f.mod(x + 0.313, 1.3 + y),
    # autograd does not sum over what `where` broadcasts, silently: both branches have the common shape here
    "where": lambda x, y, f: f.where(x > y + 0.0131, x * y, f.sin(y) + 0.1 * x),
}
SHAPES = ((), (2,), (3, 1), (2, 3), (2, 3, 2))


@dataclass(frozen=True)
class Function:
    """f(arguments, functions) of arrays, by NumPy operations; the same for numbers, expressions and autograd."""

    instructions: tuple[tuple[str, int, int], ...]

    def __call__(self, arguments: list[Any], f: Any) -> Any:
        values = list(arguments)
        for name, i, j in self.instructions:
            x, y = squashed(values[i % len(values)], f), squashed(values[j % len(values)], f)
            if name in UNARY:
                values.append(UNARY[name](x, f))
                continue
            try:
                np.broadcast_shapes(np.shape(x), np.shape(y))
            except ValueError:
                y = f.sum(y)
            values.append(BINARY[name](x, y, f))
        return sum(f.sum(squashed(v, f)) * (0.3 + 0.1 * k) for k, v in enumerate(values))


@st.composite
def functions(draw: st.DrawFn) -> Function:
    """Random instructions, each of one or two earlier values."""
    names = st.sampled_from([*UNARY, *BINARY])
    instructions = draw(
        st.lists(st.tuples(names, st.integers(0, 99), st.integers(0, 99)), min_size=4, max_size=18)
    )

    return Function(tuple(instructions))


def namespace(*modules: Any) -> SimpleNamespace:
    """Functions by name, from the first module that has them."""
    wanted = (
        "abs sqrt exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh"
    )
    wanted += " arccosh arctanh erf erfc expit gammaln digamma floor sign sum mean prod max min transpose ravel stack"
    wanted += " maximum minimum arctan2 hypot logaddexp mod where"
    return SimpleNamespace(
        **{name: next(getattr(m, name) for m in modules if hasattr(m, name)) for name in wanted.split()}
    )


def agrees_with_autograd(function: Function, seed: int) -> None:
    import autograd
    import autograd.numpy
    import autograd.scipy.special

    choose = np.random.default_rng(seed)
    arguments = [choose.normal(size=shape) for shape in SHAPES]
    theirs = autograd.value_and_grad(lambda x: function(x, namespace(autograd.numpy, autograd.scipy.special)))
    with np.errstate(all="ignore"):
        value, slopes = theirs(arguments)
    program = lg.Program("random")
    declared = [program.parameter(f"x{k}", x) for k, x in enumerate(arguments)]
    program.define("y", function(declared, namespace(np, lg)))
    solution = solved(program)
    close(solution["y"], value, 1e-10)
    ours = solution.gradient("y")
    scale = max(np.abs(x).max() for x in slopes)
    for k, slope in enumerate(slopes):
        np.testing.assert_allclose(ours[f"x{k}"], slope, rtol=1e-10, atol=1e-12 * scale)


if installed("autograd"):  # the peer that runs a NumPy function as it is

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(functions(), st.integers(0, 10**6))
    def test_random_functions_agree_with_autograd(function: Function, seed: int) -> None:
        agrees_with_autograd(function, seed)

    @pytest.mark.long
    @settings(max_examples=1500, deadline=None)
    @given(functions(), st.integers(0, 10**6))
    def test_many_random_functions_agree_with_autograd(function: Function, seed: int) -> None:
        agrees_with_autograd(function, seed)


@pytest.mark.parametrize("at", [2.0, 0.0])
def test_differences_across_a_jump_do_not_agree(at: float) -> None:
    """floor(x) + x jumps at whole numbers, where lagrad takes the slope 1 beside the jump."""
    program = lg.Program("jump")
    x = program.parameter("x", at)
    program.define("y", lg.floor(x) + x)
    solution = lg.build(program).solve()
    _, differences = lg.check_gradients(solution, "y", against=["finite-differences"], show=False)
    assert differences.agrees is False
    beside = lg.build(program).solve({"x": at + 0.25})
    _, differences = lg.check_gradients(beside, "y", against=["finite-differences"], show=False)
    assert differences.agrees is True


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: np.cbrt(x) ** 3, math.nan),  # 0 · ∞: the rules do not say that it is 1
        (lambda x: np.sqrt(x) * np.sqrt(x), math.nan),
        (lambda x: lg.where(x > 0.0, np.sqrt(x), 2.0 * x), 2.0),
        (lambda x: np.maximum(np.sqrt(x), 2.0 + x), 1.0),
        (lambda x: np.floor(np.sqrt(x)) + x, 1.0),
        (lambda x: 0.0 * np.sqrt(x) + x, 1.0),
    ],
)
def test_an_adjoint_of_zero_hides_no_infinite_partial(f: Any, expected: float) -> None:
    found = backprop(lg.trace(f, 0.0), "out").gradient["x"]
    np.testing.assert_equal(float(found), expected)
    if math.isnan(expected):
        with pytest.raises(EvaluationError):
            lg.grad(f)(0.0)
    else:
        assert lg.grad(f)(0.0) == expected


@pytest.mark.skipif(not installed("torch"), reason="PyTorch is large to install and not in the test extra")
def test_pytorchs_trigamma_to_all_digits() -> None:
    """Its polygamma(1, x) is off by 5e-10 at 1.2."""
    for x in (0.3, 1.2, 2.1, 5.7):
        program = lg.trace(lambda x: scipy.special.digamma(x) * x, x)
        found = lg.check_gradients(lg.build(program).solve(), "out", against=["torch"], show=False)[1]
        truth = mpmath.polygamma(1, x) * x + mpmath.digamma(x)
        close(found.gradient["x"], float(truth), 1e-13)
