"""Time: Lorenz-96 by classical Runge-Kutta, a misfit's gradient by the initial state and the forcing.

    dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F
    misfit = mean over every 100th step and all i of (x_i - seen_i)²/2

The step is short enough that the whole time is about 8 times that in which errors grow by e: over a longer
time the gradient is large beyond any use, and no two programs agree on it to 1e-8.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

import lagrad as lg
from benchmarks.harness import OURS, SETUP, Case, Entrant, Goal, Work, installed
from benchmarks.peers import lorenz_numpy

VARIABLES, STEP, EVERY = 40, 0.0025, 100
FORCING = 8.0


def points() -> list[np.ndarray]:
    """Initial states and forcing in one vector (41,), several."""
    x = FORCING + np.random.default_rng(96).standard_normal(VARIABLES)
    return [np.append(x * (1 + 0.001 * k), FORCING + 0.01 * k) for k in range(3)]


@lru_cache(maxsize=4)
def seen(steps: int) -> np.ndarray:
    """What the misfit compares with, (steps / EVERY, 40): the course from another initial state."""
    x = FORCING + np.random.default_rng(69).standard_normal(VARIABLES)
    return lorenz_numpy.course(np.append(x, FORCING), steps, STEP)[EVERY::EVERY]


def rate(x: Any, forcing: Any, roll: Any) -> Any:
    """dx/dt for x (…, 40)."""
    return (roll(x, -1, -1) - roll(x, 2, -1)) * roll(x, 1, -1) - x + forcing


def step(x: Any, forcing: Any, h: float, roll: Any) -> Any:
    """One step of the classical Runge-Kutta method."""
    k1 = rate(x, forcing, roll)
    k2 = rate(x + h / 2 * k1, forcing, roll)
    k3 = rate(x + h / 2 * k2, forcing, roll)
    k4 = rate(x + h * k3, forcing, roll)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def declare(steps: int) -> lg.Program:
    """The course as a scan, as in JAX, and its misfit, traced as a Python function."""
    observed = seen(steps)

    def misfit(x: Any, forcing: Any) -> Any:
        def advance(x: Any, _: None) -> Any:
            x = step(x, forcing, STEP, np.roll)
            return x, x

        _, course = lg.scan(advance, x, length=steps)
        return lg.mean((course[EVERY - 1 :: EVERY] - observed) ** 2) / 2

    return lg.trace(misfit, points()[0][:-1], FORCING)


def _lagrad(steps: int) -> Entrant:
    def value(function: Any, p: np.ndarray) -> dict[str, Any]:
        return {"value": function.value(p)[0]}

    def both(function: Any, p: np.ndarray) -> dict[str, Any]:
        out, jacobian = function(p)
        return {"value": out[0], "gradient": jacobian[0]}

    return Entrant(
        OURS,
        {
            "declare": lambda _: declare(steps),
            "build": lambda program: lg.build(program).function(of=["out"]),
        },
        {"value": Work(value, points()), "value+gradient": Work(both, points())},
    )


def entrants(steps: int) -> list[Entrant]:
    """NumPy by hand, and the tools that are installed."""
    given = points(), seen(steps), steps, STEP, EVERY
    out = [_lagrad(steps), lorenz_numpy.entrant(*given)]
    if installed("autograd"):
        from benchmarks.peers import lorenz_autograd

        out.append(lorenz_autograd.entrant(*given, step))
    if installed("casadi"):
        from benchmarks.peers import lorenz_casadi

        out.append(lorenz_casadi.entrant(*given, step))
    if installed("jax"):
        from benchmarks.peers import lorenz_jax

        out.append(lorenz_jax.entrant(*given, step))
    return out


CASE = Case(
    name="time",
    summary="Lorenz-96, 40 variables, RK4; gradient by initial state and forcing",
    unit="step",
    sizes=(2_000,),
    quick=(200,),
    small=100,
    entrants=entrants,
    goals=(
        Goal(SETUP, 0.2, "jax"),
        Goal("value+gradient", 3.0, "jax"),
        Goal("value+gradient", 0.02, "autograd"),
    ),
)
