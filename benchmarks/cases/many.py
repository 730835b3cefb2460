"""Many outputs and many parameters at once: the Jacobian of bus angles by demands in a large grid.

The peer holds SuperLU factors of the power-flow Jacobian at the solution and sends all right-hand sides
through them in one call; lagrad holds a Solution of which a gradient has been asked, and checks what it
gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse.linalg import splu

import lagrad as lg
from benchmarks.cases import grid
from benchmarks.harness import OURS, Case, Entrant, Goal, Work
from benchmarks.peers import power_flow_scipy
from examples import power_flow

MANY = 200


def chosen(case: power_flow.Case) -> np.ndarray:
    """The buses whose angles are asked for and whose demands are changed: some of type PQ, spread over the
    file.
    """
    pq = power_flow.make_grid(case).pq
    return pq[np.linspace(0, len(pq) - 1, min(MANY, len(pq))).astype(int)]


def _lagrad(case: power_flow.Case) -> Entrant:
    network = power_flow.make_grid(case)
    free = np.sort(np.concatenate([network.pv, network.pq]))
    buses = chosen(case)
    outputs = [f"va[{k}]" for k in np.searchsorted(free, buses)]
    parameters = [f"Pd[{k}]" for k in buses]

    def held(system: lg.System) -> lg.Solution:
        solution = system.solve()
        solution.gradient("flat_distance")
        return solution

    def jacobian(solution: lg.Solution) -> dict[str, Any]:
        found = solution.jacobian(outputs, parameters)
        return {"jacobian": [[found[o, p][0, 0] for p in parameters] for o in outputs]}

    return Entrant(
        OURS,
        {
            "declare": lambda _: power_flow.build(case),
            "build": lg.build,
            "hold": held,
        },
        {"jacobian": Work(jacobian)},
    )


def _scipy(case: power_flow.Case) -> Entrant:
    buses = chosen(case)

    def held(_: None) -> Any:
        flow = grid.grids(case)[0]
        solution = power_flow_scipy.solve(flow, grid.TOLERANCE)
        return solution.grid, splu(power_flow_scipy.jacobian(solution.grid, solution.voltage))

    def jacobian(state: Any) -> dict[str, Any]:
        network, factors = state
        pvpq = np.concatenate([network.pv, network.pq])
        place = np.empty(len(network.load), dtype=int)
        place[pvpq] = np.arange(len(pvpq))
        rows = place[buses]
        seeds = np.zeros((len(pvpq) + len(network.pq), len(buses)))
        seeds[rows, np.arange(len(buses))] = 1.0
        return {"jacobian": -factors.solve(seeds, trans="T")[rows].T / network.base_mva}

    return Entrant("scipy", {"hold": held}, {"jacobian": Work(jacobian)})


def entrants(name: str) -> list[Entrant]:
    """SuperLU's factors held by hand."""
    case = grid.read(name)
    return [_lagrad(case), _scipy(case)]


CASE = Case(
    name="many",
    summary=f"{MANY} outputs × {MANY} parameters of a grid, full Jacobian",
    unit="bus",
    sizes=("case9241pegase", "case_ACTIVSg25k", "case_ACTIVSg70k"),
    quick=("case2869pegase",),
    small="case9",
    entrants=entrants,
    goals=(Goal("jacobian", 1.3, "scipy"),),
    memory=False,
    count=lambda name: len(grid.read(name).bus),
)
