"""lg.scan against the same steps in a Python loop, closed forms, and jax.lax.scan."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pytest

import lagrad as lg
from lagrad.errors import DeclarationError, ExpressionError, LagradError, ShapeError

MATRIX = np.array([[0.5, -0.2, 0.0], [0.1, 0.3, 0.7], [0.0, 0.0, -0.4]])


class Pair(NamedTuple):
    a: Any
    b: Any


def looped(step: Callable[[Any, Any], Any], init: Any, xs: Any = None, length: int | None = None) -> Any:
    """What scan does, written as a loop over flat lists of arrays."""
    carry, ys = init, []
    for k in range(len(xs) if length is None else length):
        carry, y = step(carry, None if xs is None else xs[k])
        ys.append(y)
    return carry, None if ys[0] is None else np.stack(ys)


# -- programs: each takes scan (or the loop), and x (3,) --------------------------------------------------------
def plain(scan: Any, x: Any) -> Any:
    last, every = scan(lambda c, _: (np.sin(c) + x, c * 2.0), x * 0.5, length=5)
    return np.sum(last**2) + np.sum(every * np.arange(15.0).reshape(5, 3))


def scalar(scan: Any, x: Any) -> Any:
    last, every = scan(lambda c, w: (c * w + np.tanh(c), c - w), x[0], np.linspace(0.1, 0.9, 4))
    return last * np.sum(every**3)


def sums(scan: Any, x: Any) -> Any:
    """Sums inside a step: products with a matrix, means, dot products."""

    def step(c: Any, w: Any) -> Any:
        c = np.tanh(MATRIX @ c) + np.mean(c) * w
        return c, c @ x

    last, every = scan(step, x, np.outer(np.arange(1.0, 7.0), np.ones(3)) * x)
    return np.sum(last) + np.prod(every)


def handed_on(scan: Any, x: Any) -> Any:
    """Parts of the carry that only move: a delay line."""

    def step(c: Any, w: Any) -> Any:
        return np.concatenate([c[2:3] * w + 1.0, c[:1], c[1:2]]), c[2]

    last, every = scan(step, x, np.linspace(1.0, 2.0, 7))
    return np.sum(last * np.array([1.0, 10.0, 100.0])) + np.sum(np.cumsum(every) ** 2)


def kept(scan: Any, x: Any) -> Any:
    """A carry of which two parts never change."""

    def step(c: Any, w: Any) -> Any:
        return np.concatenate([c[:1] * c[1] + w * c[2], c[1:]]), c[2] * c[0]

    last, every = scan(step, x, np.linspace(1.1, 2.0, 4))
    return np.sum(last * np.array([1.0, 10.0, 100.0])) + np.prod(every)


def exchanged(scan: Any, x: Any) -> Any:
    """A carry whose parts change places, one that stays, and one that is what x was."""

    def step(c: Any, w: Any) -> Any:
        return np.stack([c[1], c[0], c[2], w]), c[3]

    last, every = scan(step, np.concatenate([x, x[:1]]), x * np.ones(3))
    return np.sum(last * np.array([1.0, 2.0, 3.0, 4.0])) + every[0] * every[1] ** 2 * every[2] ** 3


def nested(scan: Any, x: Any) -> Any:
    """Scans in the step of a scan, which use values of both."""

    def step(c: Any, w: Any) -> Any:
        inner, parts = scan(lambda d, v: (d * np.cos(v) + 0.1 * w * c[0], d[1]), c, np.linspace(0.1, 0.4, 3))
        return inner + x, np.sum(parts)

    last, every = scan(step, x, x**2)
    return np.sum(last) * np.sum(every)


def fixed(scan: Any, x: Any) -> Any:
    """What no step changes, made inside of it, and given out of it."""

    def step(c: Any, _: Any) -> Any:
        weight = np.exp(x) * np.array([1.0, 2.0, 3.0])
        return c * weight / 10.0, weight

    last, every = scan(step, x, length=3)
    return np.sum(last) + np.sum(every[1] * x)


def branches(scan: Any, x: Any) -> Any:
    def step(c: Any, w: Any) -> Any:
        c = np.where(c > w, c * w, c + w)
        c[0] = c[1] * 0.5  # the step's own array
        return c, np.maximum(c, 0.7)

    last, every = scan(step, x * 1.0, np.array([0.3, 0.9, 1.4, 0.2]))
    return np.sum(last) + np.sum(every)


PROGRAMS = [plain, scalar, sums, handed_on, kept, exchanged, nested, fixed, branches]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_a_scan_is_its_loop_to_the_last_bit(program: Callable[..., Any]) -> None:
    x = np.array([0.4, 1.1, -0.6])
    value, gradient = lg.value_and_grad(lambda x: program(lg.scan, x))(x)
    expected, slope = lg.value_and_grad(lambda x: program(looped, x))(x)
    assert value == expected
    if program in (
        nested,
        fixed,
    ):  # what does not depend on a step is computed once, and its adjoint added up at once
        np.testing.assert_allclose(gradient, slope, rtol=1e-14)
    else:
        assert gradient.tobytes() == slope.tobytes()
    assert program(lg.scan, x) == program(looped, x)  # among numbers
    np.testing.assert_allclose(value, program(looped, x), rtol=1e-14)
    hessian = lg.hessian(lambda x: program(lg.scan, x))(x)
    np.testing.assert_allclose(hessian, lg.hessian(lambda x: program(looped, x))(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_solutions_of_a_scan_are_those_of_its_loop(program: Callable[..., Any]) -> None:
    x = np.array([0.4, 1.1, -0.6])
    stamped, unrolled = (lg.trace(lambda x, s=s: program(s, x), x) for s in (lg.scan, looped))
    one, other = (lg.build(p).solve() for p in (stamped, unrolled))
    np.testing.assert_allclose(one["out"], other["out"], rtol=1e-14)
    np.testing.assert_allclose(one.gradient("out")["x"], other.gradient("out")["x"], rtol=1e-12)
    assert [c.agrees for c in lg.check_gradients(one, "out")][1:] == [True] * 3


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_trees_of_carry_xs_and_y_are_jax_s() -> None:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    init = {"v": np.array([1.0, 2.0]), "n": (0.5, Pair(np.ones((2, 2)), 3.0))}
    xs = (np.linspace(0.0, 1.0, 6).reshape(3, 2), {"w": np.array([0.3, -0.2, 0.9])})

    def program(scan: Any, xp: Any, init: Any, xs: Any) -> Any:
        def step(c: Any, x: Any) -> Any:
            n, (a, b) = c["n"]
            v = xp.sin(c["v"]) * x[1]["w"] + x[0]
            new = {"v": v + a @ v, "n": (n * b, Pair(a * n, xp.sum(a)))}
            return new, [v, {"n": n}]

        last, ys = scan(step, init, xs)
        return (
            xp.sum(last["v"]) + last["n"][1].b * ys[1]["n"][2] + xp.sum(ys[0] ** 2) + xp.sum(last["n"][1].a)
        )

    value, gradient = lg.value_and_grad(lambda i, x: program(lg.scan, np, i, x), (0, 1))(init, xs)
    expected, slope = jax.value_and_grad(lambda i, x: program(jax.lax.scan, jnp, i, x), (0, 1))(init, xs)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    ours, theirs = jax.tree.leaves(gradient), jax.tree.leaves(slope)
    assert len(ours) == len(theirs) == 6
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert type(gradient[0]["n"][1]) is Pair
    np.testing.assert_allclose(program(lg.scan, np, init, xs), expected, rtol=1e-14)


def test_the_step_runs_once_among_expressions_and_each_time_among_numbers() -> None:
    calls = []

    def f(x: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            calls.append(1)
            return c * x, None

        last, nothing = lg.scan(step, 1.0, length=50)
        assert nothing is None
        return last

    program = lg.trace(f, 1.1)
    assert len(calls) == 1
    np.testing.assert_allclose(lg.build(program).solve()["out"], 1.1**50, rtol=1e-13)
    f(1.1)
    assert len(calls) == 51


def test_a_logistic_growth_is_its_closed_form() -> None:
    """z -> z² has z_n = z_0^(2^n); the derivative is 2^n z_0^(2^n − 1)."""

    def f(z: Any) -> Any:
        return lg.scan(lambda c, _: (c * c, None), z, length=10)[0]

    np.testing.assert_allclose(lg.grad(f)(1.001), 2**10 * 1.001 ** (2**10 - 1), rtol=1e-11)


def test_among_expressions_of_a_declared_program() -> None:
    program = lg.Program()
    x = program.parameter("x", 2.0)
    y = program.state("y", guess=1.0)
    last, every = lg.scan(lambda c, w: (c * w + y, c), x, [1.0, 2.0, 3.0] * np.ones(3))
    program.constrain(y * y == x + 2.0)
    program.define("last", last)
    program.define("every", every)
    solution = lg.build(program).solve()
    # y = 2: 2, 2·1 + 2 = 4, 4·2 + 2 = 10, 10·3 + 2 = 32
    np.testing.assert_allclose(solution["every"], [2.0, 4.0, 10.0], rtol=1e-13)
    np.testing.assert_allclose(solution["last"], 32.0, rtol=1e-13)
    # d last / dx = 6 + dy/dx (6 + 3 + 1), dy/dx = 1 / 2y
    np.testing.assert_allclose(solution.gradient("last")["x"], 6.0 + 10.0 / 4.0, rtol=1e-12)


def test_nested_among_expressions_of_a_declared_program() -> None:
    """The inner scan begins with what is no value of the step around it, and uses one that is."""
    program = lg.Program()
    x = program.parameter("x", 2.0)

    def step(c: Any, w: Any) -> Any:
        inner, _ = lg.scan(lambda d, _: (d * c + w, None), x, length=2)
        return c + inner, None

    program.define("last", lg.scan(step, x * 1.0, np.array([1.0, 0.5]))[0])
    solution = lg.build(program).solve()

    def expected(x: float) -> float:
        c = x
        for w in (1.0, 0.5):
            c = c + (x * c + w) * c + w
        return c

    np.testing.assert_allclose(solution["last"], expected(2.0), rtol=1e-14)
    slope = (expected(2.0 + 1e-6) - expected(2.0 - 1e-6)) / 2e-6
    np.testing.assert_allclose(solution.gradient("last")["x"], slope, rtol=1e-8)


@pytest.mark.parametrize("traced", [False, True])
def test_no_steps(traced: bool) -> None:
    def f(x: Any) -> Any:
        last, every = lg.scan(lambda c, w: (c + w, {"y": np.stack([c, w])}), x, np.empty((0, 3)) * x[0])
        assert every["y"].shape == (0, 2, 3)
        return np.sum(last)

    x = np.array([1.0, 2.0, 4.0])
    assert (float(lg.build(lg.trace(f, x)).solve()["out"]) if traced else f(x)) == 7.0


def test_states_of_a_step_are_named_with_its_number() -> None:
    def f(x: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            rate = np.sin(c)
            c = rate * rate + x
            return c, None

        return lg.scan(step, x, length=3)[0]

    program = lg.trace(f, 0.5)
    names = list(program.shared().values())
    assert names == ["rate (step 0)", "rate (step 1)", "rate (step 2)"]
    again = pickle.loads(pickle.dumps(program))
    assert list(again.shared().values()) == names
    hidden = lg.build(program).solve().hidden
    np.testing.assert_allclose(hidden["rate (step 1)"], np.sin(np.sin(0.5) ** 2 + 0.5), rtol=1e-14)
    assert "rate (step 2)" in hidden


def test_names_after_a_long_scan_are_known() -> None:
    def f(x: Any) -> Any:
        last, _ = lg.scan(lambda c, _: (np.sin(c) * x, None), np.ones(300) * x, length=1_000)
        total = np.sum(last)
        return total * total

    program = lg.trace(f, 0.5)
    assert len(program.graph) > 300_000 and "total" in program.shared().values()


def test_everything_that_reads_programs_reads_scans() -> None:
    given = np.array([0.4, 1.1, -0.6])
    value, gradient = lg.value_and_grad(lambda x: plain(looped, x))(given)
    program = lg.trace(lambda x: plain(lg.scan, x), given)
    scope: dict[str, Any] = {}
    exec(lg.adjoint_source(program), scope)
    found = scope["lambda_"](given)
    np.testing.assert_allclose(found[0], value, rtol=1e-14)
    np.testing.assert_allclose(found[1]["x"], gradient, rtol=1e-12)
    np.testing.assert_allclose(program.to_callable("numpy")({"x": given})["out"], value, rtol=1e-14)
    assert "(step 3)" in repr(program)
    small = lg.trace(lambda x: lg.scan(lambda c, _: (np.sin(c) * x, None), x, length=2)[0], 0.5)
    assert r"\sin\left(\sin\left(x\right) \, x\right) \, x" in small.lagrangian("out").latex()


def kepler(scan: Any, x: Any) -> Any:
    """Implicit states in every step, one block each."""

    def step(c: Any, w: Any) -> Any:
        root = lg.implicit(lambda y: y + 0.3 * np.sin(y) * c - w - x[0], c, name="root")
        return root * 0.5 + c * 0.1, root

    last, every = scan(step, x[1], np.linspace(0.5, 1.5, 4))
    return last + np.sum(every**2)


def test_a_step_with_implicit_states_is_run_for_each() -> None:
    x = np.array([0.3, 0.8])
    value, gradient = lg.value_and_grad(lambda x: kepler(lg.scan, x))(x)
    expected, slope = lg.value_and_grad(lambda x: kepler(looped, x))(x)
    assert value == expected and gradient.tolist() == slope.tolist()
    np.testing.assert_allclose(kepler(lg.scan, x), expected, rtol=1e-9)
    assert len(lg.trace(lambda x: kepler(lg.scan, x), x).states.by_name) == 5

    def around(x: Any) -> Any:
        return lg.scan(lambda c, _: (c + kepler(lg.scan, c), None), x, length=2)[0][0]

    h = 1e-6
    e = np.array([h, 0.0])
    slope = (around(x + e) - around(x - e)) / (2 * h)
    np.testing.assert_allclose(lg.grad(around)(x)[0], slope, rtol=1e-7)


# -- what is refused --------------------------------------------------------------------------------------------
def traced(step: Any, init: Any = 1.0, xs: Any = None, length: int | None = 3) -> lg.Program:
    return lg.trace(lambda x: lg.scan(step(x), init * x, xs, length)[0], 2.0)


def test_a_value_that_leaves_its_step_is_refused() -> None:
    kept: list[Any] = []

    def f(x: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            kept.append(c * 2)
            return c * x, None

        last, _ = lg.scan(step, x, length=3)
        return last + kept[0]

    with pytest.raises(ExpressionError, match=r"from inside a step of lg\.scan"):
        lg.trace(f, 2.0)


@pytest.mark.parametrize("change", ["item", "in place", "of its own", "at"])
def test_a_step_cannot_change_an_array_around_it(change: str) -> None:
    def f(x: Any) -> Any:
        around = x * 1.0

        def step(c: Any, _: Any) -> Any:
            nonlocal around
            if change == "item":
                around[0] = c
            elif change == "of its own":
                around[0] = around[1] + 1.0  # once, not three times
            elif change == "at":
                np.add.at(around, [0], 1.0)
            else:
                around += 1.0
            return c * 2.0, None

        return lg.scan(step, x[0], length=3)[0] + around[0]

    with pytest.raises(ExpressionError, match="outside the step"):
        lg.trace(f, np.array([1.0, 2.0]))


@pytest.mark.parametrize("declare", ["define", "constrain"])
def test_a_step_cannot_declare(declare: str) -> None:
    program = lg.Program()
    u = program.state("u", guess=1.0)

    def step(c: Any, _: Any) -> Any:
        if declare == "define":
            program.define("twice", 2 * c)
        else:
            program.constrain(u == c)
        return c, None

    with pytest.raises(ExpressionError, match=r"inside a step of lg\.scan.*Return it from the step"):
        lg.scan(step, u, length=2)
    program.constrain(u == program.parameter("x", 3.0))  # goes on
    assert lg.build(program).solve()["u"] == 3.0


def test_arrays_to_fill_belong_to_the_step() -> None:
    def f(x: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            out = lg.zeros(2)
            out[0], out[1] = c[1], c[0] + x
            return out, out[1]

        return np.sum(lg.scan(step, np.array([1.0, 0.0]), length=3)[1])

    assert lg.value_and_grad(f)(2.0) == (3.0 + 2.0 + 5.0, 4.0)


@pytest.mark.parametrize("numbers", [False, True])
def test_a_step_writes_into_arrays_of_its_own(numbers: bool) -> None:
    start, rows = np.array([1.0, 2.0]), np.array([[3.0, 4.0], [5.0, 6.0]])

    def f(scale: Any) -> Any:
        def step(c: Any, w: Any) -> Any:
            first, second = c
            w[0] = w[0] + 1.0
            first[1] = first[0] * w[0]
            second[:] = first * scale
            return (first, second), (first, second, w)

        return lg.scan(step, (start, start), rows)

    last, every = f(2.0) if numbers else lg.jvp(f, (2.0,), (0.0,))[0]
    assert [a.tolist() for a in last] == [[1.0, 6.0], [2.0, 12.0]]
    assert every[0].tolist() == [[1.0, 4.0], [1.0, 6.0]]  # what a step gave stays as it was
    assert every[1].tolist() == [[2.0, 8.0], [2.0, 12.0]]
    assert every[2].tolist() == [[4.0, 4.0], [6.0, 6.0]]
    assert start.tolist() == [1.0, 2.0] and rows.tolist() == [[3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize("numbers", [False, True])
def test_a_dict_comes_out_of_a_step_in_any_order(numbers: bool) -> None:
    def f(x: Any) -> Any:
        def step(c: Any, w: Any) -> Any:
            return {"b": c["b"] * x, "a": c["a"] + w * c["b"]}, None

        last, _ = lg.scan(step, {"a": x, "b": 2 * x}, np.array([1.0, 2.0]))
        assert list(last) == ["a", "b"]
        return last["a"] + 10 * last["b"]

    # a = x + 2x + 4x², b = 2x³
    assert f(3.0) == 585.0 if numbers else lg.value_and_grad(f)(3.0) == (585.0, 3 + 8 * 3 + 60 * 9)


def test_control_flow_on_a_value_is_refused_with_its_line() -> None:
    def step(x: Any) -> Any:
        return lambda c, _: (c if c > 1 else x, None)

    with pytest.raises(ExpressionError, match=r"lg\.where") as caught:
        traced(step)
    assert caught.value.place is not None and caught.value.place[0] == __file__


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize(
    ("step", "init", "xs", "length", "kind", "says"),
    [
        (lambda c, w: (c, w), 1.0, None, None, DeclarationError, "neither an array in xs nor a length"),
        (lambda c, w: (c, w), 1.0, np.ones(3), 4, DeclarationError, "xs is for 3 steps, length for 4"),
        (lambda c, w: (c, w), 1.0, (np.ones(3), np.ones(2)), None, DeclarationError, r"xs\[1\] is for 2 .*3"),
        (lambda c, w: (c, w), 1.0, 5.0, None, ShapeError, "xs.*axis"),
        (lambda c, w: (c, w), 1.0, None, -1, DeclarationError, "length"),
        (lambda c, w: (c, w), 1.0, None, 2.0, DeclarationError, "length"),
        (lambda c, w: c, 1.0, None, 2, DeclarationError, r"Return \(carry, y\)"),
        (lambda c, w: (c, w, w), 1.0, None, 2, DeclarationError, "3 values"),
        (lambda c, w: (c * np.ones(2), w), 1.0, None, 2, ShapeError, "carry after a step"),
        (lambda c, w: ({"b": c["a"]}, w), {"a": 1.0}, None, 2, DeclarationError, "carry: a dict of a"),
        (lambda c, w: ((c[0], None), w), (1.0, 2.0), None, 2, DeclarationError, r"carry\[1\]"),
        (lambda c, w: ((c[0], "two"), w), (1.0, "one"), None, 2, DeclarationError, "'one' was carried"),
        (3.0, 1.0, None, 2, DeclarationError, "scan"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(
    numbers: bool, step: Any, init: Any, xs: Any, length: Any, kind: type[LagradError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        if numbers:
            lg.scan(step, init, xs, length)
        else:
            lg.trace(lambda x: lg.scan(step, init, xs, length)[0], 2.0)


@pytest.mark.parametrize("first", [None, "one", 1.0, np.ones(2)])
def test_steps_that_give_different_y_are_refused_among_numbers(first: Any) -> None:
    ys = [first, first, np.ones(3) if isinstance(first, np.ndarray) else "two"]
    with pytest.raises((DeclarationError, ShapeError), match=r"^y"):
        lg.scan(lambda c, _: (c + 1, ys[c]), 0, length=3)
    assert lg.scan(lambda c, _: (c + 1, ys[c]), 0, length=2)[0] == 2


def test_what_a_step_is_given_can_be_printed() -> None:
    seen: list[str] = []

    def f(x: Any) -> Any:
        def step(c: Any, w: Any) -> Any:
            seen.append(f"{c * x + w}")
            return c, None

        return lg.scan(step, x, np.ones(3))[0]

    lg.trace(f, 2.0)
    assert seen == ["‹step› * x + ‹step›"]


def test_after_a_refusal_the_function_goes_on() -> None:
    def f(x: Any) -> Any:
        with suppress(ShapeError):
            lg.scan(lambda c, _: (c * np.ones(3), None), x, length=2)
        around = lg.zeros(2)
        around[0] = x
        return lg.scan(lambda c, _: (c * x, None), x, length=2)[0] + around[0]

    assert lg.value_and_grad(f)(2.0) == (10.0, 13.0)
