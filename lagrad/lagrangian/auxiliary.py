"""`auxiliary-coordinates`: the states of a layered program as coordinates of their own, moved block by block.

Takes a `Problem`; minimises the quadratic penalty with multipliers (see `augmented`)

    ψ(x) = J − λᵀC + ρ/2 ‖C‖²

over one block of variables at a time, the others held, and after every sweep sets λ ← λ − ρC (ADMM). With the states
held, every layer's parameters are a small regression of its own; with the parameters held, states meet their neighbours
half way. The forward pass is the sweep that an infinite ρ would make. By default the blocks are the parameters in
`over` together, then every declared state, in the order of declaration. ρ keeps C and ∇ψ in balance.
Sources: M. Carreira-Perpiñán, W. Wang, Distributed optimization of deeply nested systems, AISTATS (2014); G. Taylor et
al., Training neural networks without gradients: a scalable ADMM approach, ICML (2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import DeclarationError
from lagrad.lagrangian.augmented import MOST, Penalised
from lagrad.lagrangian.newton import Convexifier
from lagrad.lagrangian.optimality import residuals, signed_at_bounds
from lagrad.lagrangian.primal_dual import violation_at_rest
from lagrad.lagrangian.problem import Floats, Problem
from lagrad.lagrangian.result import Ended, Recorder
from lagrad.lagrangian.unbounded import falls_forever, unbounded

STEPS = 3  # Newton steps on one block before the next has its turn
PATIENCE = 5  # sweeps between two looks at ρ
BALANCE = (
    10.0  # ratio of feasibility and stationarity beyond which ρ is moved (S. Boyd et al. (2011), section 3.4)
)
ASTRAY = 0.3  # feasibility, relative, below which a rise is no sign of running away
ASK = 50  # sweeps, doubling, after which a ray without end is looked for
LEAST = 1e-4  # ρ, over its first value


def run(
    problem: Problem, record: Recorder, tolerance: float, max_iterations: int, *, program: Any,
    penalty: float = 1.0, blocks: Sequence[Sequence[str]] | None = None,
) -> Ended:  # fmt: skip
    """Sweep from problem.x0, multipliers from zero; an iteration is one sweep."""
    masks = _blocks(problem, program, blocks)
    convex = [Convexifier() for _ in masks]
    x, lam, rho = problem.x0.copy(), np.zeros(problem.M), float(penalty)
    first, C = problem.values(x)
    z = _bounds_of(problem, x, lam)
    if not (np.isfinite(first) and np.isfinite(C).all() and np.isfinite(z).all()):
        return Ended(x, lam, np.zeros(problem.N), 0, 1, "failed", "values at the start are not finite")
    record(0, x, lam, z)
    ask = ASK
    floor, last = LEAST * rho, (x, lam, residuals(problem, x, lam, z).feasibility)
    for it in range(1, max_iterations + 1):
        psi = Penalised(problem, lam, rho)
        for b in range(len(masks)):
            for _ in range(STEPS):
                x, projected, moved = psi.step(x, convex[b], masks[b])
                record.nfev += 1
                if not moved or projected <= 0.01 * tolerance:
                    break
        value, C = problem.values(x)
        lam = lam - rho * C
        z = _bounds_of(problem, x, lam)
        record(it, x, lam, z)
        now = residuals(problem, x, lam, z)
        if now.within(tolerance):
            return Ended(x, lam, z, it, record.nfev)
        away = float(np.abs(x).max(initial=0.0)) > 10.0 * max(1.0, float(np.abs(last[0]).max(initial=0.0)))
        if unbounded(problem, x, value, first) or ((it == ask or away) and falls_forever(problem, x)):
            return Ended(x, lam, z, it, record.nfev, "unbounded")
        ask = 2 * ask if it == ask else ask
        if it % PATIENCE == 0 or away:
            if away or not now.feasibility <= max(10.0 * last[2], ASTRAY):
                # ρ is too small for the curvature of L: back, and never that small again
                x, lam, rho = last[0], last[1], 4.0 * rho
                floor = rho
            elif now.feasibility > BALANCE * now.stationarity:
                rho *= 2.0
            elif now.stationarity > BALANCE * now.feasibility and rho > floor:
                rho *= 0.5
            last = (x, lam, residuals(problem, x, lam, z).feasibility)
            if rho > MOST:
                status = "infeasible" if violation_at_rest(problem, x, tolerance) else "stalled"
                return Ended(x, lam, z, it, record.nfev, status)
    return Ended(x, lam, z, max_iterations, record.nfev, "iterations")


def _bounds_of(problem: Problem, x: Floats, lam: Floats) -> Floats:
    gradient, A = problem.slopes(x)
    return signed_at_bounds(problem, x, gradient - A.T @ lam)


def _blocks(
    problem: Problem, program: Any, blocks: Sequence[Sequence[str]] | None
) -> list[NDArray[np.bool_]]:
    """Which variables are moved together, (N,) each; all variables are in one."""
    n = problem.states.size
    owner: dict[str, NDArray[np.bool_]] = {}
    for registry, places, offset in (
        (program.states, problem.states, 0),
        (program.parameters, problem.over, n),
    ):
        for item in registry.items:
            inside = np.flatnonzero((places >= item.start) & (places < item.start + item.size)) + offset
            if inside.size:
                owner[item.name] = np.zeros(problem.N, np.bool_)
                owner[item.name][inside] = True
    if blocks is None:
        parameters = np.arange(problem.N) >= n
        states = [mask for name, mask in owner.items() if name in program.states.by_name]
        return [mask for mask in (parameters, *states) if mask.any()]
    out = []
    for names in blocks:
        together = np.zeros(problem.N, np.bool_)
        for name in [names] if isinstance(names, str) else names:
            if name not in owner:
                raise DeclarationError(
                    "blocks", f"{name!r} is no variable here.", f"There are {', '.join(owner)}."
                )
            together |= owner[name]
        out.append(together)
    left = [name for name, mask in owner.items() if not any((mask & block).any() for block in out)]
    if left:
        raise DeclarationError(
            "blocks", f"{', '.join(left)} would never move.", "Name every variable in a block."
        )
    return out
