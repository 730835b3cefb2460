"""A thousand parameter points in one call of `solve_many`, beside as many single calls."""

from __future__ import annotations

from typing import Any

import numpy as np

import lagrad as lg
from benchmarks.cases import tiny
from benchmarks.harness import OURS, Case, Entrant, Goal, Work
from examples import sellar

LANES = 1_000
LOOP = 50  # states of the larger system


def loop() -> lg.Program:
    """One cyclic block of 50 states: y_i = cos(a y_{i-1}) + c_i y_{i+1}², indices around the loop."""
    program = lg.Program("loop of 50")
    a = program.parameter("a", [0.5, 0.1])
    b = program.parameter("b", 1.0)
    y = program.state("y", shape=LOOP, guess=0.5)
    slope = 0.1 + 0.001 * np.arange(LOOP)
    after = slope * np.roll(y, -1) ** 2
    program.constrain(y == lg.cos(a[0] * np.roll(y, 1)) + a[1] * after + 0.01 * b, name="loop")
    program.define("total", lg.sum(y * np.arange(1.0, LOOP + 1)))
    return program


def _points(name: str) -> tuple[lg.Program, str, dict[str, np.ndarray]]:
    """The program, its output, and its parameters with a leading batch axis."""
    if name == "Sellar":
        walk = tiny.points(LANES)[0]
        return sellar.build(), "obj", {"z": walk[:, :2], "x": walk[:, 2]}
    walk = np.random.default_rng(5).uniform(-1.0, 1.0, (LANES, 3))
    return loop(), "total", {"a": np.array([0.5, 0.1]) + 0.05 * walk[:, :2], "b": 1.0 + 0.5 * walk[:, 2]}


def entrants(name: str) -> list[Entrant]:
    """All lanes at once; one call of `solve` and `gradient` each; one call of a `system.function` each."""
    program, output, points = _points(name)
    names = list(points)

    def at_once(system: lg.System, given: dict[str, np.ndarray]) -> dict[str, Any]:
        batch = system.solve_many(given, of=[output])
        return {"value": batch[output]} | {name: batch.jacobian[output, name][:, 0] for name in names}

    def single(system: lg.System, given: dict[str, np.ndarray]) -> dict[str, Any]:
        found: dict[str, list[Any]] = {key: [] for key in ("value", *names)}
        for lane in range(LANES):
            solution = system.solve({name: value[lane] for name, value in given.items()})
            found["value"].append(solution[output])
            for name, slope in solution.gradient(output).items():
                found[name].append(np.ravel(slope))
        return found

    def function(system: lg.System, given: dict[str, np.ndarray]) -> dict[str, Any]:
        f = system.function(of=[output], wrt=names)
        flat = np.column_stack([value.reshape(LANES, -1) for value in given.values()])
        out = [f(p) for p in flat]
        slopes, found = np.array([j[0] for _, j in out]), {"value": np.array([v[0] for v, _ in out])}
        start = 0
        for name, value in given.items():
            width = value.reshape(LANES, -1).shape[1]
            found[name] = slopes[:, start : start + width]
            start += width
        return found

    def entrant(name: str, run: Any) -> Entrant:
        return Entrant(
            name, {"build": lambda _: lg.build(program)}, {"solve+gradient": Work(run, [points], calls=LANES)}
        )

    return [
        entrant(OURS, at_once),
        entrant("single solves", single),
        entrant("system.function", function),
    ]


CASE = Case(
    name="batch",
    summary="1 000 parameter points through solve_many; seconds per lane",
    unit="lane",
    sizes=("Sellar", "loop of 50"),
    quick=("Sellar", "loop of 50"),
    small="Sellar",
    entrants=entrants,
    goals=(Goal("solve+gradient", 0.1, "single solves"),),
    memory=False,
    count=lambda _: LANES,
)
