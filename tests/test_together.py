"""Small blocks that are alike are solved together: every number is the one that each gives alone, bit for bit.

The truths are the same systems solved one block after the other, closed forms, and SciPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from scipy.optimize import brentq

import lagrad as lg
from lagrad.assembly import forward
from lagrad.assembly.machine import ALIKE, SMALL, WIDE
from lagrad.errors import ConvergenceError, LagradError
from lagrad.layout import Layout

COUNT = 2 * WIDE + 11


def apart(system: lg.System) -> lg.System:
    """The same, each block on its own."""
    layout = Layout(**{name: vars(system.layout)[name] for name in Layout.__dataclass_fields__})
    layout.__dict__["alike"] = np.arange(1, layout.kind.size + 1, dtype=np.int32)
    return lg.System(layout)


def kepler(p: lg.Program, n: int) -> None:
    M = p.parameter("M", np.linspace(-3.0, 3.0, n))
    e = p.parameter("e", np.linspace(0.0, 0.97, n))
    E = p.state("E", guess=np.full(n, 0.7))
    p.constrain(E - e * lg.sin(E) == M, name="kepler")
    p.define("out", lg.sum(lg.cos(E) * e))


def polar(p: lg.Program, n: int) -> None:
    x, y = p.parameter("x", np.linspace(0.5, 2.0, n)), p.parameter("y", np.linspace(-1.5, 1.0, n))
    r, a = p.state("r", guess=np.ones(n)), p.state("a", guess=np.zeros(n))
    p.constrain(x == r * lg.cos(a), name="x of it")
    p.constrain(y == r * lg.sin(a), name="y of it")
    p.define("out", lg.sum(r * a))


def linear(p: lg.Program, n: int) -> None:
    """One step hits the root: no sequence of steps shows that it is simple."""
    b = p.parameter("b", np.linspace(-1.0, 1.0, n))
    x, y, z = (p.state(name, guess=np.zeros(n)) for name in "xyz")
    p.constrain(2.0 * x + y == b)
    p.constrain(x - 3.0 * y + 0.5 * z == 1.0)
    p.constrain(y + z - 0.1 * x == 2.0 * b)
    p.define("out", lg.sum(x * y * z))


def loops_with_a_definition(p: lg.Program, n: int) -> None:
    """A definition inside each loop, which opens with a value from the guesses of the others."""
    c = p.parameter("c", np.linspace(0.1, 1.5, n))
    y = p.state("y", guess=np.full(n, 0.2))
    w = p.define("w", lg.exp(-y) * c)
    p.constrain(y == lg.cos(w) - 0.2 * y * w)
    p.define("out", lg.sum(w * y))


def far_guesses(p: lg.Program, n: int) -> None:
    """Steps that must be damped, in some blocks."""
    c = p.parameter("c", np.linspace(-4.0, 4.0, n))
    y = p.state("y", guess=np.linspace(-9.0, 9.0, n))
    p.constrain(lg.arctan(y) + 0.05 * y == 0.3 * c)
    p.define("out", lg.sum(y**2))


def edges_of_a_domain(p: lg.Program, n: int) -> None:
    """Whole steps from some guesses leave the domain of the square root."""
    c = p.parameter("c", np.linspace(0.02, 3.0, n))
    y = p.state("y", guess=np.full(n, 4.0))
    p.constrain(lg.sqrt(y) + 0.1 * y == c)
    p.define("out", lg.sum(y))


def bounded(p: lg.Program, n: int) -> None:
    c = p.parameter("c", np.linspace(0.3, 5.0, n))
    y = p.state("y", guess=np.full(n, 0.5), lower=0.0, upper=40.0)
    p.constrain(y * y * y + y == c)
    p.define("out", lg.sum(y))


def hard_ones(p: lg.Program, n: int) -> None:
    """The third is not found by Newton's method from its guess, and is left to the ladder."""
    guess = np.full(n, 1.0)
    guess[2] = 0.0
    c = p.parameter("c", np.linspace(1.0, 2.0, n))
    y = p.state("y", guess=guess)
    p.constrain(y * y - c == 0.0)
    p.define("out", lg.sum(y))


PROGRAMS: list[Callable[[lg.Program, int], None]] = [
    kepler, polar, linear, loops_with_a_definition, far_guesses, edges_of_a_domain, bounded, hard_ones,
]  # fmt: skip


def built(declare: Callable[[lg.Program, int], None], n: int) -> lg.System:
    program = lg.Program(declare.__name__)
    declare(program, n)
    return lg.build(program)


def everything(solution: lg.Solution) -> list[np.ndarray[Any, Any]]:
    """All numbers of a solution and of a gradient."""
    gradient = solution.gradient("out")
    at = solution.linearization
    certificate = gradient.certificate
    return [
        solution.v, at.residual, at.magnitude, at.data, solution.multiple,
        np.array([b.iterations for b in solution.report.blocks]),
        *(np.asarray(g) for g in gradient.values()),
        certificate.block_residual, certificate.block_rcond,
    ]  # fmt: skip


@pytest.mark.parametrize("n", [ALIKE - 1, ALIKE, WIDE + 1, COUNT])
@pytest.mark.parametrize("declare", PROGRAMS, ids=lambda f: f.__name__)
def test_every_number_is_that_of_each_block_alone(declare: Callable[[lg.Program, int], None], n: int) -> None:
    system = built(declare, n)
    assert system.layout.together == (n >= ALIKE)
    name = next(i.name for i in system.layout.parameter_items())
    found = []
    for each in (system, apart(system)):
        cold = each.solve()
        warm = each.solve({name: cold[name] * (1.0 + 1e-3)}, start=cold)
        again = each.solve(start=cold)  # every block is at its root to begin with
        found.append([x for solution in (cold, warm, again) for x in everything(solution)])
    for mine, alone in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, alone)


@pytest.mark.parametrize("declare", PROGRAMS, ids=lambda f: f.__name__)
def test_repeated_calls_and_lanes_are_the_same_too(declare: Callable[[lg.Program, int], None]) -> None:
    system = built(declare, COUNT)
    one = apart(system)
    name = next(i.name for i in system.layout.parameter_items())
    p = system.solve()[name]
    calls = [s.function(["out"], [name]) for s in (system, one)]
    for k in range(3):
        mine, alone = (call(p * (1.0 + 1e-3 * k)) for call in calls)
        for a, b in zip(mine, alone, strict=True):
            np.testing.assert_array_equal(a, b)
    lanes = {name: np.stack([p, 1.01 * p])}
    mine, alone = (s.solve_many(lanes, of=["out"]) for s in (system, one))
    assert mine.ok.all() and alone.ok.all()
    np.testing.assert_array_equal(mine.v, alone.v)
    np.testing.assert_array_equal(mine.jacobian["out", name], alone.jacobian["out", name])


def test_keplers_equation_against_brent() -> None:
    solution = built(kepler, COUNT).solve()
    M, e = solution["M"], solution["e"]
    truth = [
        brentq(lambda E, M=M, e=e: E - e * np.sin(E) - M, -5, 5, xtol=1e-15)
        for M, e in zip(M, e, strict=True)
    ]
    np.testing.assert_allclose(solution["E"], truth, rtol=1e-12, atol=1e-13)
    dE = 1.0 / (1.0 - e * np.cos(truth))
    np.testing.assert_allclose(solution.gradient("out")["M"], -e * np.sin(truth) * dE, rtol=1e-11, atol=1e-13)


def test_a_block_without_a_solution_is_named_and_what_follows_is_as_it_was() -> None:
    program = lg.Program("squares")
    c = np.linspace(1.0, 2.0, COUNT)
    c[5] = -1.0
    y = program.state("y", guess=np.full(COUNT, 1.5))
    program.constrain(y * y == program.parameter("c", c), name="square")
    system = lg.build(program)
    with pytest.raises(ConvergenceError) as error:
        system.solve()
    with pytest.raises(ConvergenceError) as alone:
        apart(system).solve()
    assert "square[5]" in str(error.value) and str(error.value) == str(alone.value)


def test_multiple_roots_among_simple_ones_are_refused_as_alone() -> None:
    """At p = 0 the two roots of y² = p y meet."""
    program = lg.Program("crossing")
    p = program.parameter("p", np.where(np.arange(COUNT) % 7 == 3, 0.0, 1.0))
    y = program.state("y", guess=np.full(COUNT, 0.0))
    program.constrain(y * y - p * y + 0.0 * p == 0.0, name="crossing")
    program.define("out", lg.sum(y))
    system = lg.build(program)
    found = []
    for s in (system, apart(system)):
        solution = s.solve()
        assert solution.multiple.sum() == np.count_nonzero(solution["p"] == 0.0)
        with pytest.raises(LagradError) as error:
            solution.gradient("out")
        found.append((solution.v, str(error.value)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_blocks_that_need_each_other_are_not_solved_together() -> None:
    program = lg.Program("chain")
    y = program.state("y", guess=np.ones(40))
    program.constrain(y[0] + 0.1 * lg.sin(y[0]) == 1.0)
    program.constrain(y[1:] + 0.1 * lg.sin(y[1:]) == y[:-1], name="link")
    system = lg.build(program)
    assert not system.layout.together and (np.diff(system.layout.ptr) == 1).all()
    solution = system.solve()
    np.testing.assert_allclose(
        solution["y"][1:] + 0.1 * np.sin(solution["y"][1:]), solution["y"][:-1], rtol=1e-14
    )


def test_only_small_blocks_of_one_kind_are_solved_together() -> None:
    def rings(size: int) -> lg.System:
        program = lg.Program("rings")
        y = [program.state(f"y{k}", guess=np.ones(20)) for k in range(size)]
        for k in range(size):
            program.constrain(y[k] + 0.2 * lg.sin(y[k - 1]) == 1.0 + k)
        return lg.build(program)

    assert rings(SMALL).layout.together and not rings(SMALL + 1).layout.together
    program = lg.Program("two kinds")
    y = program.state("y", guess=np.ones(2 * (ALIKE - 1)))
    program.constrain(y[: ALIKE - 1] + lg.sin(y[: ALIKE - 1]) == 1.0)
    program.constrain(y[ALIKE - 1 :] + lg.exp(y[ALIKE - 1 :]) == 2.0)
    assert not lg.build(program).layout.together


def test_most_blocks_take_the_way_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels cannot be watched; scratch for one block alone is too small for several, and is asked for."""
    asked = []
    real = forward.Scratch.of
    monkeypatch.setattr(forward.Scratch, "of", staticmethod(lambda *a: asked.append(a) or real(*a)))
    built(kepler, COUNT).solve()
    assert [a[-1] for a in asked] == [True]


def test_blocks_after_one_that_takes_many_iterations_open_as_alone() -> None:
    """Compiled code looks at the clock inside that block; definitions of later ones still open from the guesses."""

    def declare(p: lg.Program, n: int) -> None:
        c = p.parameter("c", np.linspace(0.1, 1.5, n))
        y = p.state("y", guess=np.where(np.arange(n) == 0, 40.0, 0.2))
        w = p.define("w", lg.exp(-y) * c)
        p.constrain(y == lg.cos(w) - 0.2 * y * w)
        p.define("out", lg.sum(w * y))

    system = built(declare, 12)
    whole = everything(system.solve())
    with mock.patch("lagrad.solve.LONG", 3):
        for each in (system, apart(system)):
            for mine, expected in zip(everything(each.solve()), whole, strict=True):
                np.testing.assert_array_equal(mine, expected)
