"""The same arithmetic on long arrays: a few array statements, one after the other, output the mean of the
last.

Statement k takes the value before and the value before that; kinds as in `dag`. The parameter is one long
array.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import lagrad as lg
from benchmarks.harness import OURS, Case, Entrant, Goal, Work, installed

STATEMENTS = 20


def inputs(n: int) -> list[np.ndarray]:
    """Input arrays, several."""
    x = np.random.default_rng(n).uniform(0.5, 1.5, n)
    return [x * (1 + 0.01 * k) for k in range(3)]


def run_statements(x: Any, np_like: Any) -> Any:
    """All statements on any kind of array, with `np_like.sin` and `np_like.exp`; the last value."""
    a, b = x, x
    for k in range(STATEMENTS):
        if k % 5 == 0:
            value = np_like.sin(a)
        elif k % 5 == 1:
            value = 0.5 * (a + b)
        elif k % 5 == 2:
            value = np_like.exp(-a * a)
        elif k % 5 == 3:
            value = a / (1 + b * b)
        else:
            value = a * b
        a, b = value, a
    return a


def declare(x: np.ndarray) -> lg.Program:
    """The statements traced as a Python function."""
    return lg.trace(lambda x: lg.mean(run_statements(x, lg)), x)


def _lagrad(n: int) -> Entrant:
    points = inputs(n)

    def value(function: Any, x: np.ndarray) -> dict[str, Any]:
        return {"value": function.value(x)[0]}

    def both(function: Any, x: np.ndarray) -> dict[str, Any]:
        out, jacobian = function(x)
        return {"value": out[0], "gradient": jacobian[0]}

    return Entrant(
        OURS,
        {
            "declare": lambda _: declare(points[0]),
            "build": lambda program: lg.build(program).function(of=["out"]),
        },
        {"value": Work(value, points), "value+gradient": Work(both, points)},
    )


def entrants(n: int) -> list[Entrant]:
    """NumPy by hand, and the array tools that are installed."""
    from benchmarks.peers import wide_numpy

    out = [_lagrad(n), wide_numpy.entrant(inputs(n), STATEMENTS)]
    if installed("autograd"):
        from benchmarks.peers import wide_autograd

        out.append(wide_autograd.entrant(inputs(n), run_statements))
    if installed("casadi"):
        from benchmarks.peers import wide_casadi

        out.append(wide_casadi.entrant(inputs(n), run_statements))
    if installed("jax"):
        from benchmarks.peers import wide_jax

        out.append(wide_jax.entrant(inputs(n), run_statements))
    return out


CASE = Case(
    name="wide",
    summary=f"{STATEMENTS} array statements on long arrays",
    unit="element of a statement",
    sizes=(10_000, 100_000, 1_000_000),
    quick=(10_000,),
    small=50,
    entrants=entrants,
    goals=(Goal("value+gradient", 1.0, "numpy"),),
    count=lambda n: STATEMENTS * n,
)
