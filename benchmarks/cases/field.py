"""Bratu's problem on n × n points, with a distributed parameter: one cyclic block with the pattern of a grid.

The output is the integral, differentiated with respect to the parameter at every point.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import lagrad as lg
from benchmarks.harness import OURS, Case, Entrant, Goal, Work
from benchmarks.peers import bratu_scipy
from examples import bratu


def points(n: int) -> list[np.ndarray]:
    """Parameters (n, n), several, not symmetric."""
    i, j = np.mgrid[1 : n + 1, 1 : n + 1] / (n + 1)
    return [(1 + 0.01 * k) * (1.0 + 3.0 * i**2 + np.sin(4 * j) * i) for k in range(3)]


def _lagrad(n: int) -> Entrant:
    def solve(system: lg.System, given: np.ndarray) -> dict[str, Any]:
        return {"value": system.solve({"lam": given})["integral"]}

    def solved(system: lg.System, given: np.ndarray) -> lg.Solution:
        return system.solve({"lam": given})

    def gradient(_: lg.System, __: np.ndarray, solution: lg.Solution) -> dict[str, Any]:
        return {"gradient": solution.gradient("integral")["lam"]}

    def both(system: lg.System, given: np.ndarray) -> dict[str, Any]:
        solution = system.solve({"lam": given})
        return {"value": solution["integral"], "gradient": solution.gradient("integral")["lam"]}

    given = points(n)
    work = {
        "solve": Work(solve, given),
        "gradient": Work(gradient, given, solved),
        "solve+gradient": Work(both, given),
    }
    return Entrant(
        OURS,
        {"declare": lambda _: bratu.build(n, given[0]), "build": lg.build},
        work,
        lambda system: {"structure": system.structure, **vars(system.counters)},
    )


def _scipy(n: int) -> Entrant:
    def solve(_: None, given: np.ndarray) -> dict[str, Any]:
        return {"value": bratu_scipy.solve(given).integral}

    def solved(_: None, given: np.ndarray) -> bratu_scipy.Field:
        return bratu_scipy.solve(given)

    def gradient(_: None, __: np.ndarray, field: bratu_scipy.Field) -> dict[str, Any]:
        return {"gradient": bratu_scipy.integral_gradient(field)}

    def both(_: None, given: np.ndarray) -> dict[str, Any]:
        field = bratu_scipy.solve(given)
        return {"value": field.integral, "gradient": bratu_scipy.integral_gradient(field)}

    given = points(n)
    work = {
        "solve": Work(solve, given),
        "gradient": Work(gradient, given, solved),
        "solve+gradient": Work(both, given),
    }
    return Entrant("scipy", {}, work)


def entrants(n: int) -> list[Entrant]:
    """SciPy with SuperLU by hand."""
    return [_lagrad(n), _scipy(n)]


CASE = Case(
    name="field",
    summary="Bratu on n × n points; gradient by a distributed parameter",
    unit="point",
    sizes=(64, 128, 256, 512),
    quick=(64,),
    small=5,
    entrants=entrants,
    goals=(
        Goal("solve+gradient", 1.0, "scipy"),
        Goal("gradient", 0.08, OURS, "solve"),
        Goal("gradient", 0.08, "scipy", "solve"),
    ),
    count=lambda n: n * n,
)
