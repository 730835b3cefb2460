"""The AC power flow written over named intermediate values, beside the same written without.

With names the voltages e + j f and the currents a + j b = Y V of all buses are definitions on the cycle: three times as
many unknowns. The answers must be those of the grid without names.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import lagrad as lg
from benchmarks.cases import grid
from benchmarks.harness import OURS, Case, Entrant, Goal
from examples import power_flow


def _facts(system: lg.System) -> dict[str, Any]:
    largest = max(system.layout.pattern.large, key=lambda block: block.hi - block.lo, default=None)
    size = 0 if largest is None else largest.hi - largest.lo
    return {"states": system.layout.n, "largest_block": size, **vars(system.counters)}


def entrants(name: str) -> list[Entrant]:
    """Both are ours."""
    case = grid.read(name)
    without = grid.ours(case)
    setup = {"declare": lambda _: power_flow.build(case, currents=True), "build": lg.build}
    return [
        dataclasses.replace(without, name=OURS, setup=setup, facts=_facts),
        dataclasses.replace(without, name="without names", facts=_facts),
    ]


CASE = Case(
    name="named",
    summary="AC power flow over named voltages and currents, beside the same without names",
    unit="bus",
    sizes=("case2869pegase", "case9241pegase"),
    quick=("case2869pegase",),
    small="case9",
    entrants=entrants,
    goals=(Goal("solve+gradient", 1.3, "without names"),),
    memory=False,
    count=lambda name: len(grid.read(name).bus),
)
