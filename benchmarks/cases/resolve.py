"""The same grid solved and differentiated again and again while its demands change slowly.

`lagrad` starts every solve from the solution before, `lagrad cold` from the guesses of the file. Times are
per solve and gradient; the facts say how many patterns were analysed and how many matrices factored.
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

SOLVES = 100


def factors() -> list[np.ndarray]:
    """One entry: what demands are multiplied by, one solve after the other."""
    return [1 + 0.002 * np.sin(0.5 + np.arange(SOLVES))]


def _lagrad(case: power_flow.Case, name: str, warm: bool) -> Entrant:
    p, q = case.bus[:, power_flow.PD], case.bus[:, power_flow.QD]

    def run(system: lg.System, series: np.ndarray) -> dict[str, Any]:
        values, gradients, last = [], [], None
        for factor in series:
            last = system.solve({"Pd": factor * p, "Qd": factor * q}, start=last if warm else None)
            values.append(last["flat_distance"])
            gradients.append(-last.gradient("flat_distance", ["Pd"])["Pd"])
        return {"value": values, "by P": gradients}

    return Entrant(
        name,
        {"declare": lambda _: power_flow.build(case), "build": lg.build},
        {"solve+gradient": Work(run, factors(), calls=SOLVES)},
        lambda system: vars(system.counters),
    )


def _scipy(case: power_flow.Case) -> Entrant:
    def run(_: None, series: np.ndarray) -> dict[str, Any]:
        network = grid.grids(case)[0]
        values, gradients = [], []
        for factor in series:
            injection = grid.grids(case)[0].injection - (factor - 1) * network.load
            flow = power_flow_scipy.solve(
                power_flow_scipy.Grid(**{**vars(network), "injection": injection}),
                grid.TOLERANCE,
                factorize=splu,
            )
            value, by_angle, by_magnitude = power_flow_scipy.flat_distance(flow)
            values.append(value)
            gradients.append(power_flow_scipy.injection_gradient(flow, by_angle, by_magnitude)[0])
            network = power_flow_scipy.Grid(**{**vars(network), "start": flow.voltage})
        return {"value": values, "by P": gradients}

    return Entrant("scipy", {}, {"solve+gradient": Work(run, factors(), calls=SOLVES)})


def entrants(name: str) -> list[Entrant]:
    """lagrad warm and cold; SciPy by hand, warm."""
    case = grid.read(name)
    return [_lagrad(case, OURS, True), _lagrad(case, f"{OURS} cold", False), _scipy(case)]


CASE = Case(
    name="resolve",
    summary="a grid solved and differentiated again with slowly changing demands; seconds per solve",
    unit="bus",
    sizes=("case9241pegase", "case_ACTIVSg25k", "case_ACTIVSg70k"),
    quick=("case2869pegase",),
    small="case9",
    entrants=entrants,
    goals=(Goal("solve+gradient", 0.5, f"{OURS} cold"),),
    memory=False,
    count=lambda name: len(grid.read(name).bus),
)
