"""What a minimisation gives back, and the record of how it got there.

Takes flat vectors from a method and names from its `Problem`; gives `MinimizeResult` and `History`. Computes only what
is recorded: objective, feasibility, stationarity and how far multipliers are from the adjoint at the same point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lagrad.lagrangian.optimality import Optimality, residuals
from lagrad.lagrangian.problem import Floats, Problem
from lagrad.watch import Watch

#: status -> what it means; `success` is status "converged" and no other
STATUSES = {
    "converged": "a minimum: KKT residuals below the tolerance, constraints regular, no negative curvature",
    "iterations": "the iterations allowed were used up",
    "infeasible": "the constraints cannot be met near here: their violation has a minimum that is not zero",
    "unbounded": "the objective falls without bound",
    "singular": "the Jacobian of the constraints is singular where the method ended: no certified multipliers",
    "saddle": "stationary, but the objective falls along a direction that the constraints allow",
    "uncertain": "stationary, but the sign of the curvature could not be found: a minimum or a saddle",
    "stalled": "no further progress, KKT residuals above the tolerance",
    "failed": "values or solves that failed stopped the method",
    "time": "the time limit was reached",
    "stopped": "the callback stopped the method",
}


class Record(NamedTuple):
    """One line of a history."""

    iteration: int
    objective: float
    feasibility: float  # largest violation of a constraint or bound, scaled as in `Optimality`
    stationarity: float
    #: ‖λ − adjoint‖ / max(1, ‖adjoint‖), largest components, at the same point; nan where none was computed
    distance: float
    seconds: float


class History(tuple[Record, ...]):
    """Records in order; `history["objective"]` is a column, (records,)."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return np.array([getattr(record, key) for record in self])
        return super().__getitem__(key)


@dataclass(frozen=True, eq=False)
class MinimizeResult:
    """The result of `lagrad.minimize`. `success` only with a certificate whose every condition holds."""

    program: str
    output: str
    method: str
    x: dict[str, Any]  # {parameter in `over`: array of its shape}
    fun: float
    states: dict[str, Any]  # {state or definition: array}
    parameters: dict[str, Any]  # all of them, those in `over` with their new values
    multipliers: dict[
        str, Any
    ]  # {constraint or definition: array}, λ: change of the output per unit of excess
    #: {state of `equalities`: array}: change of the output per unit by which its target is raised
    equality_multipliers: dict[str, Any]
    #: {parameter or state with bounds: array}: change of the output per unit by which the active bound is raised
    bound_multipliers: dict[str, Any]
    success: bool
    status: str
    message: str
    nit: int
    nfev: int
    history: History = field(repr=False)
    certificate: Optimality = field(repr=False)
    seconds: float = 0.0

    def __repr__(self) -> str:
        found = ", ".join(
            f"{name} = {np.array2string(np.asarray(v), precision=6, threshold=6)}"
            for name, v in self.x.items()
        )
        return (
            f"{'minimum' if self.success else 'NOT a minimum'} of {self.output} in {self.program!r} by {self.method}: "
            f"{self.output} = {self.fun:.10g}" + (f" at {found}" if found else "") + f"\n  {self.message}\n"
            f"  {self.certificate}; {self.nit} iterations, {self.nfev} evaluations, {self.seconds:.2g} s"
        )


@dataclass(frozen=True)
class Ended:
    """Where and why a method ended; `status` one of `STATUSES`, "" where the certificate alone decides."""

    x: Floats
    lam: Floats
    z: Floats
    nit: int
    nfev: int
    status: str = ""
    reason: str = ""


class Stop(Exception):
    """The callback wants no more."""


@dataclass(eq=False)
class Recorder:
    """Keeps the history, shows the line of progress, calls the callback, watches the clock."""

    problem: Problem
    watch: Watch
    method: str
    callback: Callable[[Record], object] | None
    records: list[Record] = field(default_factory=list)
    last: tuple[Floats, Floats, Floats, int] | None = None  # x, λ, z, iteration: for a method cut short
    nfev: int = 0
    saddles: int = 0  # left so far
    before: int = 0  # iterations of runs that ended at a saddle

    def __call__(self, iteration: int, x: Floats, lam: Floats, z: Floats, adjoint: bool = True) -> Record:
        """Record one iteration. Raises `Stop` and `OutOfTime`."""
        iteration += self.before
        self.last = (x.copy(), lam.copy(), z.copy(), iteration)
        with np.errstate(all="ignore"):
            first = residuals(self.problem, x, lam, z)
            value = self.problem.values(x)[0] / self.problem.weight
            distance = self._distance(x, lam, z) if adjoint else np.nan
        record = Record(iteration, value, first.feasibility, first.stationarity, distance, self.watch.seconds)
        self.records.append(record)
        if self.callback is not None and self.callback(record):
            raise Stop
        self.watch.tick(
            "{}: iteration {}, {} = {:.6g}, feasibility {:.1e}, stationarity {:.1e}",
            self.method, iteration, self.problem.output, value, first.feasibility, first.stationarity,
        )  # fmt: skip
        return record

    def _distance(self, x: Floats, lam: Floats, z: Floats) -> float:
        adjoint = self.problem.adjoint(x, lam, z)
        if adjoint is None:
            return np.nan
        off = float(np.abs(adjoint - lam[: adjoint.size]).max(initial=0.0))
        size = float(np.abs(adjoint).max(initial=0.0))
        return off / max(1.0, size)  # 1: the multiplier of the output itself

    def history(self) -> History:
        """What was recorded."""
        return History(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)
