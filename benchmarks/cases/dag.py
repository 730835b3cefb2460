"""A random scalar DAG written as a Python loop: what backprop is for.

Every statement takes its operands from the last `WINDOW` values; kinds 0.5 (a + b), a b, sin a, exp(-a²), a /
(1 + b²); the output is the sum of the last `WINDOW` values, differentiated with respect to all inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import lagrad as lg
from benchmarks.harness import OURS, SETUP, Case, Entrant, Goal, Work, installed

INPUTS, WINDOW = 100, 1000


def statements(n: int) -> tuple[list[int], list[int], list[int]]:
    """Kind, first and second operand of every statement; value k < INPUTS is an input, the others follow."""
    rng = np.random.default_rng(n)
    place = INPUTS + np.arange(n)
    low = np.maximum(0, place - WINDOW)
    first, second = (low + (rng.random(n) * (place - low)).astype(int) for _ in range(2))
    return rng.integers(0, 5, n).tolist(), first.tolist(), second.tolist()


def inputs() -> list[np.ndarray]:
    """Input values, several, so that no two calls in a row are alike."""
    return [np.linspace(0.5, 1.5, INPUTS) * (1 + 0.01 * k) for k in range(5)]


def run_statements(
    values: list[Any], program: tuple[list[int], ...], sin: Callable[[Any], Any], exp: Callable[[Any], Any]
) -> list[Any]:
    """Append every statement's value to `values`, as a person writes it; the last WINDOW of them."""
    for kind, i, j in zip(*program, strict=True):
        a = values[i]
        if kind == 0:
            value = 0.5 * (a + values[j])
        elif kind == 1:
            value = a * values[j]
        elif kind == 2:
            value = sin(a)
        elif kind == 3:
            value = exp(-a * a)
        else:
            b = values[j]
            value = a / (1 + b * b)
        values.append(value)
    return values[-WINDOW:]


def declare(program: tuple[list[int], ...], x: np.ndarray) -> lg.Program:
    """The loop traced as a Python function."""

    def out(x: Any) -> Any:
        last = run_statements([x[k] for k in range(INPUTS)], program, lg.sin, lg.exp)
        return lg.sum(lg.stack(last))

    return lg.trace(out, x)


def _lagrad(n: int) -> Entrant:
    program, points = statements(n), inputs()

    def value(function: Any, x: np.ndarray) -> dict[str, Any]:
        return {"value": function.value(x)[0]}

    def both(function: Any, x: np.ndarray) -> dict[str, Any]:
        out, jacobian = function(x)
        return {"value": out[0], "gradient": jacobian[0]}

    def facts(function: Any) -> dict[str, Any]:
        machine = function.layout.machine
        return {"states": machine.n, "terms": machine.terms.row.size, "templates": machine.tapes.ptr.size - 1}

    return Entrant(
        OURS,
        {
            "declare": lambda _: declare(program, points[0]),
            "build": lambda traced: lg.build(traced).function(of=["out"]),
        },
        {"value": Work(value, points), "value+gradient": Work(both, points)},
        facts,
    )


def entrants(n: int) -> list[Entrant]:
    """The peers up to a million statements: autograd's gradient takes a minute there, and plain floats tell no more
    than at a hundred thousand."""
    out = [_lagrad(n)]
    if n > 1_000_000:
        return out
    if installed("casadi"):
        from benchmarks.peers import dag_casadi

        out.append(dag_casadi.entrant(inputs(), statements(n), run_statements))
    if n <= 100_000:
        from benchmarks.peers import dag_python

        out.append(dag_python.entrant(inputs(), statements(n), WINDOW))
    if installed("autograd"):
        from benchmarks.peers import dag_autograd

        out.append(dag_autograd.entrant(inputs(), statements(n), run_statements))
    return out


CASE = Case(
    name="dag",
    summary="random scalar DAG of statements in a Python loop, 100 inputs",
    unit="statement",
    sizes=(1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    quick=(1_000, 10_000),
    small=1_200,
    entrants=entrants,
    goals=(
        Goal(SETUP, 0.08, "casadi", sizes=(10_000, 100_000, 1_000_000)),
        Goal("value+gradient", 0.7, "casadi"),
        Goal("value+gradient", 2.2, OURS, "value"),
        Goal("memory", 1.0, "casadi"),
    ),
    growth=True,
)
