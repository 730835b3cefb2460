"""Random programs at the edges of domains, at kinks and at singular points: a right derivative, or none.

Whatever number any mode returns away from kinks is one of the two one-sided difference quotients. Where one mode
refuses, so do the others, but for the tangent, which may refuse more: it passes through states that an adjoint never
asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lagrad as lg

STEP, NEAR = 1e-6, 2e-2  # of x·∛x at 0 a quotient is 0.01 still

FUNCTIONS: list[Callable[[Any, Any], Any]] = [
    lambda a, b: lg.sqrt(a),
    lambda a, b: lg.log(a),
    lambda a, b: lg.cbrt(a),
    lambda a, b: lg.arcsin(a),
    lambda a, b: lg.hypot(a, b),
    lambda a, b: lg.abs(a),
    lambda a, b: lg.maximum(a, b),
    lambda a, b: lg.where(a > b, a, b * b),
    lambda a, b: lg.exp(50 * a),
    lambda a, b: a * b,
    lambda a, b: a + b,
    lambda a, b: a**2,
    lambda a, b: a**1.5,
    lambda a, b: 1 / a,
    lambda a, b: 0 * a + b,
]

MODES: dict[str, Callable[[lg.Solution, str], dict[Any, Any]]] = {
    "gradient": lambda s, of: s.gradient(of),
    "vjp": lambda s, of: s.vjp({of: 1.0}),
    "jacobian, adjoint": lambda s, of: s.jacobian(of, mode="adjoint"),
    "jacobian, tangent": lambda s, of: s.jacobian(of, mode="tangent"),
}


def random_program(rng: np.random.Generator) -> tuple[lg.Program, str]:
    """A program of x and y, most of them 0 or 1, and the name of its output."""
    program = lg.Program("edges")
    x = program.parameter("x", float(rng.choice([0, 0, 1, -1, 2])))
    y = program.parameter("y", float(rng.choice([0, 1, 0.5])))
    values = [x, y]
    kind = rng.integers(6)
    if kind < 3:
        u = program.state("u", guess=float(rng.choice([0, 1])))
        program.constrain([u**3 == x, u * u == y, u + u**3 == x][kind], name="one")
        values.append(u)
    elif kind == 3:
        u, w = program.state("u", guess=0.5), program.state("w", guess=0.5)
        program.constrain(u + 0.3 * w**2 == x, name="first")
        program.constrain(w**3 - 0.2 * u == y, name="second")
        values += [u, w]
    name = ""
    for k in range(rng.integers(1, 5)):
        function = FUNCTIONS[rng.integers(len(FUNCTIONS))]
        a, b = (values[rng.integers(len(values))] for _ in range(2))
        name = f"d{k}"
        values.append(program.define(name, function(a, b)))
    return program, name


def number_or_error(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except lg.LagradError as error:
        return type(error)


def quotients(system: lg.System, solution: lg.Solution, of: str, index: int) -> list[float]:
    """The difference quotients to both sides, where there are any."""
    out = []
    for h in (STEP, -STEP):
        p = dict(solution.parameters)
        p["xy"[index]] = p["xy"[index]] + h
        moved = number_or_error(lambda p=p: float(system.solve(p, start=solution)[of]))
        if isinstance(moved, float):
            out.append((moved - float(solution[of])) / h)
    return out


def check(seed: int) -> str:
    """What became of it: "no solution", "refused", "a kink" or "a number"."""
    rng = np.random.default_rng([18, seed])
    program, of = random_program(rng)
    system = lg.build(program, dense_max=int(rng.choice([1, 48])))
    solution = number_or_error(system.solve)
    if not isinstance(solution, lg.Solution) or not isinstance(number_or_error(lambda: solution[of]), float):
        return "no solution"
    found = {
        name: number_or_error(lambda m=m: np.array([np.asarray(g).item() for g in m(solution, of).values()]))
        for name, m in MODES.items()
    }
    function = system.function(of)
    for call in ("first call", "second call"):
        found[call] = number_or_error(lambda: function(solution.v[:2])[1][0])
    tangent = found.pop("jacobian, tangent")
    gradient = found["gradient"]
    if isinstance(gradient, type):
        assert all(g is gradient for g in [*found.values(), tangent]), (program, found)
        return "refused"
    numbers = [*found.values()] if isinstance(tangent, type) else [*found.values(), tangent]
    for other in numbers:
        np.testing.assert_allclose(other, gradient, rtol=1e-9, atol=1e-12, err_msg=f"{program} {found}")
    if solution.gradient(
        of
    ).certificate.kinks:  # the rule of a kink may take a side that is not there beside it
        return "a kink"
    noise = 1e-11 * abs(float(solution[of])) / STEP  # exp(50 u) magnifies the last digits of u
    for index in range(2):
        near = quotients(system, solution, of, index)
        assert not near or any(abs(q - gradient[index]) <= NEAR * (1 + abs(q)) + noise for q in near), (
            f"{program} at {solution.parameters}: {gradient[index]} by {'xy'[index]}, differences {near}"
        )
    return "a number"


def test_a_right_derivative_or_none() -> None:
    outcomes = [check(seed) for seed in range(200)]
    assert outcomes.count("refused") > 20 and outcomes.count("a number") > 80


@pytest.mark.long
def test_a_right_derivative_or_none_in_many_programs() -> None:
    for seed in range(200, 3000):
        check(seed)
