"""Flat code straight from the graph: against solutions by way of the layout, NumPy, and the textbook tape."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fixtures import FIXTURES, Fixture, declare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lagrad as lg
from lagrad.assembly import flat
from lagrad.compare.tape import backprop
from lagrad.errors import EvaluationError, LagradError, StructuralError


def outputs(program: lg.Program) -> list[str]:
    return [item.name for item in program.states.items]


def same_as_the_solution(program: lg.Program) -> None:
    """All states and derivatives by straight code are those of a Solution of the same System."""
    system = lg.build(program)
    assert system.built.is_straight
    names = outputs(program)
    function = system.function(of=names)
    p = system.built.values
    values, jacobian = function(p)
    assert function._made is None  # straight code has answered
    solution = system.solve()
    exact = np.concatenate([np.ravel(solution[name]) for name in names]) if names else np.empty(0)
    np.testing.assert_allclose(values, exact, rtol=1e-13, atol=1e-300)
    for k, name in enumerate(n for item in program.states.items for n in elements(item)):
        gradient = solution.gradient(name)
        whole = np.concatenate([np.ravel(gradient[i.name]) for i in program.parameters.items] or [[]])
        np.testing.assert_allclose(
            jacobian[k], whole, rtol=1e-12, atol=1e-13 * (1 + abs(whole).max(initial=0))
        )


def elements(item: Any) -> list[str]:
    return [item.element(k) for k in range(item.size)]


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.name)
def test_fixtures_give_what_their_solutions_give(fixture: Fixture) -> None:
    program = declare(fixture)
    try:
        straight = lg.build(program).built.is_straight
    except StructuralError:
        return
    assert straight <= (fixture.dag or program.states.size == 0)
    if straight:
        same_as_the_solution(program)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_definitions_give_what_their_solutions_give(data: st.DataObject) -> None:
    program = lg.Program()
    x = program.parameter("x", data.draw(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=4)))
    made = [x[k] for k in range(x.size)]
    for k in range(data.draw(st.integers(1, 8))):
        kind, i, j = (data.draw(st.integers(0, n)) for n in (4, len(made) - 1, len(made) - 1))
        a, b = made[i], made[j]
        value = (a + b, a * b, lg.sin(a) - 2.0 * b, lg.exp(-a * a), a / (1 + b * b))[kind]
        made.append(program.define(f"d{k}", value) if data.draw(st.booleans()) else value)
    program.define("all", lg.sum(lg.stack(made)))
    same_as_the_solution(program)


def wave(x: Any) -> Any:
    y = np.sin(x) * x + 0.5
    for _ in range(5):
        y = np.exp(-y * y) + np.roll(y, 1) * x
    return np.mean(y), y[:3] - y[-3:]


def loop(x: Any) -> Any:
    total = 0.0
    for k in range(len(x)):
        total = np.tanh(total + x[k] * x[k - 1]) + 0.1 * k
    return total


def nested(x: Any) -> Any:
    """The same function of its own result, again and again."""
    for _ in range(6):
        x = np.sin(x)
    y = x[0]
    for _ in range(6):
        y = np.exp(-np.exp(y))
    return y * np.sum(x)


@pytest.mark.parametrize("f", [wave, loop, nested])
@pytest.mark.parametrize("n", [7, 700])
def test_traced_functions_are_numpy_s(f: Callable[[Any], Any], n: int) -> None:
    x = np.random.default_rng(n).uniform(0.2, 1.0, n)
    program = lg.trace(f, x)
    function = lg.build(program).function(of=outputs(program))
    expected = f(x)
    expected = np.concatenate(
        [np.ravel(e) for e in (expected if isinstance(expected, tuple) else (expected,))]
    )
    np.testing.assert_allclose(function(x)[0], expected, rtol=1e-14)
    assert function._made is None
    gradient = backprop(program, outputs(program)[0]).gradient["x"] if f is not wave or n < 100 else None
    if gradient is not None:
        np.testing.assert_allclose(function(x)[1][0], gradient, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("elements", [100, 30_000])
def test_tiles_and_array_order_change_nothing(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of array statements, in tiles or not, and sorted by level: the same values."""
    x = np.random.default_rng(5).uniform(0.5, 1.5, elements)
    program = lg.trace(lambda x, c: np.sum(np.sin(x * c) / (1 + x**2) * np.exp(-x)), x, 2.0)
    found, groups = [], set()
    for stretch, narrow in ((16, 64), (16, 10**9), (10**9, 64), (10**9, 10**9)):
        monkeypatch.setattr(
            flat, "STRETCH", stretch
        )  # kernels keep theirs: it is whether to sort that changes
        monkeypatch.setattr(flat, "NARROW", narrow)
        function = lg.build(program).function(of=["out"])
        found.append(function(np.append(x, 2.0)))
        groups.add(function._straight.flat.code.group_ptr.size)
    assert len(groups) > 1 or elements < 1000  # they are not all the same way
    d = np.cos(2 * x) * 2 / (1 + x**2) * np.exp(-x) - np.sin(2 * x) * np.exp(-x) * (
        2 * x / (1 + x**2) ** 2 + 1 / (1 + x**2)
    )
    for value, jacobian in found:
        np.testing.assert_allclose(value, found[0][0], rtol=1e-13)
        np.testing.assert_allclose(jacobian[0, :-1], d, rtol=1e-12, atol=1e-15)


def test_what_no_state_needs_is_not_computed() -> None:
    def f(x: Any) -> Any:
        np.log(x - 10.0)  # nan at x = 3
        return x * x

    function = lg.build(lg.trace(f, 3.0)).function(of=["out"])
    assert function([3.0])[0] == 9.0 and function._made is None


def test_an_overflow_on_the_way_is_left_to_the_ordinary_way() -> None:
    def f(x: Any) -> Any:
        return 1.0 / (1.0 + np.exp(x))

    program = lg.trace(f, 1.0)
    function = lg.build(program).function(of=["out"])
    assert function([800.0])[0] == 0.0  # exp overflows
    value, jacobian = function([1.0])
    np.testing.assert_allclose(value, f(1.0), rtol=1e-15)
    np.testing.assert_allclose(jacobian, [[-f(1.0) * (1 - f(1.0))]], rtol=1e-15)
    with pytest.raises(LagradError, match="x"):
        function([np.nan])


def test_a_state_used_before_its_definition_goes_the_ordinary_way() -> None:
    program = lg.Program()
    x = program.parameter("x", 3.0)
    y = program.state("y")
    program.define("z", y * y)
    program.constrain(y == x + 1)
    system = lg.build(program)
    assert not system.built.is_straight
    assert system.function(of=["z"])([3.0])[0] == 16.0


def test_a_loop_gives_values_and_derivatives_in_any_order_of_calls() -> None:
    program = lg.Program()
    x = program.parameter("x", 3.0)
    y, z = program.state("y", guess=1.0), program.state("z", guess=1.0)
    program.constrain(y * z == x)
    program.constrain(y == 2 * z + 1)
    function = lg.build(program).function(of=["y"])
    for x in (3.0, 10.0, 21.0):  # z = (√(1 + 8x) − 1) / 4
        root = np.sqrt(1 + 8 * x)
        np.testing.assert_allclose(function.value([x]), [(root + 1) / 2], rtol=1e-12)
        value, jacobian = function([x])
        np.testing.assert_allclose(value, [(root + 1) / 2], rtol=1e-12)
        np.testing.assert_allclose(jacobian, [[2 / root]], rtol=1e-12)
        np.testing.assert_allclose(function.value([x + 0.1]), [(np.sqrt(1.8 + 8 * x) + 1) / 2], rtol=1e-12)


@pytest.mark.parametrize("rows", ["y == y * x", "y == 1, y == 2", "y == x, x == y"])
def test_rows_that_do_not_say_what_a_state_is_are_refused_or_solved_as_before(rows: str) -> None:
    program = lg.Program()
    x = program.parameter("x", 3.0)
    y = program.state("y")
    for row in rows.split(","):
        program.constrain(eval(row, {"x": x, "y": y}))
    if "," in rows:
        with pytest.raises(StructuralError):
            lg.build(program)
    else:
        system = lg.build(program)
        assert not system.built.is_straight
        assert system.function(of=["y"])([3.0])[0] == 0.0


def test_bounds_are_kept() -> None:
    program = lg.Program()
    x = program.parameter("x", 0.5)
    y = program.state("y", guess=0.5, lower=0.0, upper=1.0)
    program.constrain(y == 2 * x)
    function = lg.build(program).function(of=["y"])
    assert function([0.25])[0] == 0.5
    with pytest.raises(LagradError):
        function([5.0])


def test_a_system_is_of_the_program_as_it_was_built() -> None:
    """Its layout may be made when the program says more."""
    program = lg.Program()
    x = program.parameter("x", 2.0)
    y = program.define("y", x * x)
    system = lg.build(program)
    program.define("z", y * x)
    w = program.state("w", guess=1.0)
    program.constrain(w * w == program.parameter("a", 4.0))
    assert system.layout.n_states == 1 and system.layout.m == 1
    assert system.solve({"x": 3.0})["y"] == 9.0
    with pytest.raises(LagradError, match="z"):
        system.function(of=["z"])
    later = lg.build(program).function(of=["z", "w"])([3.0, 4.0])[0]
    np.testing.assert_allclose(later, [27.0, 2.0], rtol=1e-14)


def test_a_build_that_is_interrupted_leaves_a_program_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    program = lg.Program()
    x = program.parameter("x", 2.0)
    program.define("y", x * x)

    def interrupted(*args: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt) as kept:
        patched.setattr("lagrad.assembly.straight._reach", interrupted)
        lg.build(program)
    for k in range(10_000):
        x = x * 1.0001 if k % 2 else x / 1.0001
    program.define("z", x)
    assert kept.value is not None
    np.testing.assert_allclose(lg.build(program).function(of=["z"])([3.0])[0], 3.0, rtol=1e-10)


def test_all_who_ask_at_once_get_one_layout() -> None:
    system = lg.build(lg.trace(loop, np.linspace(0.1, 1.0, 2_000)))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(system.layout)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len({id(layout) for layout in found}) == 1


def test_pickled_they_answer_the_same() -> None:
    program = lg.trace(loop, np.linspace(0.1, 1.0, 9))
    system, x = lg.build(program), np.linspace(0.2, 1.1, 9)
    function = system.function(of=["out"])
    value, jacobian = function(x)
    for copied in (
        pickle.loads(pickle.dumps(function)),
        pickle.loads(pickle.dumps(system)).function(of=["out"]),
    ):
        np.testing.assert_allclose(copied(x)[0], value, rtol=1e-15)
        np.testing.assert_allclose(copied(x)[1], jacobian, rtol=1e-14)


def test_states_that_are_parameters_or_numbers() -> None:
    program = lg.Program()
    x = program.parameter("x", 2.0)
    y = program.define("y", x)
    program.define("z", y)
    program.define("one", 1.0)
    program.define("none", np.empty(0))
    value, jacobian = lg.build(program).function(of=["z", "one", "y", "none"])([5.0])
    assert value.tolist() == [5.0, 1.0, 5.0] and jacobian.tolist() == [[1.0], [0.0], [1.0]]


@pytest.mark.parametrize("number", [np.inf, -np.inf])
def test_a_state_that_is_a_number_but_not_finite_is_refused(number: float) -> None:
    program = lg.Program()
    program.define("y", 2.0 * program.parameter("x", 2.0))
    program.define("bad", number)
    function = lg.build(program).function(of=["bad"])
    for call in (function, function.value):
        with pytest.raises(EvaluationError, match=r"bad = -?inf"):
            call([1.0])
    assert lg.build(program).function(of=["y"])([1.0])[0] == 2.0  # nobody asked for the other
    with pytest.raises(EvaluationError):
        lg.value_and_grad(lambda x: number)(1.0)
