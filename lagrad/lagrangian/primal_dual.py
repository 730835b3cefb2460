"""`primal-dual`: descent in the variables and ascent in the multipliers at once, with damping. First order.

Takes a `Problem`; follows, with variables kept within their bounds,

    ẋ = −M⁻¹ (∇J − Aᵀ(λ − ρC)),    λ̇ = −ρ C

Without the damping ρ this circles about a saddle of L; with it, it spirals in, wherever ∇²L + ρ AᵀA is positive
definite. Steps are 1 in the diagonal metric M >= |∇²L| + ρ AᵀA (row sums, looked at anew every `LOOK` iterations and
after every long step), so that no step is longer than its variable's curvature allows. Variables keep a part of their
velocity, and lose it when it points uphill; multipliers wait while the slope that is left for the variables exceeds
|C|: with momentum on one side alone the two would drive each other round. Without momentum HS77 takes 12 100
iterations in place of 200, and HS6, a curved valley, more than 20 000 in place of 1 350. No linear system is solved;
that is all there is to say for it.
Sources: K. Arrow, L. Hurwicz, H. Uzawa, Studies in Linear and Non-Linear Programming (1958); J. Platt, A. Barr,
Constrained differential optimization, NIPS (1987). Momentum: Y. Nesterov, Soviet Math. Dokl. 27 (1983) 372; its
restart: B. O'Donoghue, E. Candès, Found. Comput. Math. 15 (2015) 715. Waiting: D. Bertsekas, Constrained Optimization
and Lagrange Multiplier Methods (1982), section 2.5.
"""

from __future__ import annotations

import numpy as np

from lagrad.lagrangian.optimality import residuals, signed_at_bounds
from lagrad.lagrangian.problem import Floats, Problem
from lagrad.lagrangian.result import Ended, Recorder
from lagrad.lagrangian.unbounded import falls_forever, unbounded

LOOK = 25  # iterations from one look at curvature, residuals and history to the next
ASK = 400  # iterations, doubling, after which a ray without end is looked for
MOST = 1e6  # damping, over its first value


def violation_at_rest(problem: Problem, x: Floats, tolerance: float) -> bool:
    """Whether the constraints are violated and ‖C‖² has a stationary point at x: infeasible near here."""
    _, C = problem.values(x)
    _, A = problem.slopes(x)
    size = float(np.abs(C).max(initial=0.0))
    down = A.T @ C
    down -= signed_at_bounds(problem, x, down)
    steepest = float(np.abs(A.data).max(initial=0.0))
    return size > np.sqrt(tolerance) and float(np.abs(down).max(initial=0.0)) <= 1e-3 * size * max(
        1.0, steepest
    )


def run(
    problem: Problem, record: Recorder, tolerance: float, max_iterations: int, damping: float = 1.0
) -> Ended:
    """Iterate from problem.x0, multipliers from zero."""
    x, lam, rho = problem.x0.copy(), np.zeros(problem.M), float(damping)
    first, C = problem.values(x)
    curvature, moved, pace = np.ones(problem.N), np.zeros(problem.N), 1.0
    ask = ASK
    for it in range(max_iterations + 1):
        record.nfev += 1
        if it % LOOK == 0 or it == max_iterations:
            value, C = problem.values(x)
            gradient, A = problem.slopes(x)
            z = signed_at_bounds(problem, x, gradient - A.T @ lam)
            if not (np.isfinite(value) and np.isfinite(C).all() and np.isfinite(A.data).all()):
                return Ended(x, lam, z, it, record.nfev, "failed", "values are not finite")
            record(it, x, lam, z)
            if residuals(problem, x, lam, z).within(tolerance):
                return Ended(x, lam, z, it, record.nfev)
            if unbounded(problem, x, value, first) or (it >= ask and falls_forever(problem, x)):
                return Ended(x, lam, z, it, record.nfev, "unbounded")
            ask = 2 * ask if it >= ask else ask
            largest = float(np.abs(lam).max(initial=0.0))
            if largest > 1e3 * max(1.0, np.abs(gradient).max()) and violation_at_rest(problem, x, tolerance):
                return Ended(x, lam, z, it, record.nfev, "infeasible")
        faster = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * pace**2))
        ahead = np.clip(x + (pace - 1.0) / faster * moved, problem.lower, problem.upper)
        value, C = problem.values(ahead)
        gradient, A = problem.slopes(ahead)
        if not (np.isfinite(value) and np.isfinite(C).all() and np.isfinite(A.data).all()):
            if pace == 1.0:
                return Ended(x, lam, z, it, record.nfev, "failed", "a step left the domain")
            pace = 1.0  # momentum left the domain: from x again, without it
            continue
        shifted = lam - rho * C
        if it % LOOK == 0 or (np.abs(moved) > 0.01 * np.maximum(1.0, np.abs(x))).any():
            H, size = problem.hessian(ahead, shifted), np.abs(A)
            Am = A @ moved
            if float(moved @ (H @ moved)) + rho * float(Am @ Am) < 0.0 and rho < MOST * damping:
                rho *= 2.0  # L curves down where it just went: more damping, or it would run away
                shifted = lam - rho * C
            rows = np.asarray(size.sum(axis=1)).ravel()
            curvature = np.asarray(np.abs(H).sum(axis=1)).ravel() + rho * (size.T @ rows)
        slope = gradient - A.T @ shifted
        # and never a step of more than a quarter of the variable's size: no curvature would allow any
        metric = np.maximum(1.05 * curvature, 4.0 * np.abs(slope) / np.maximum(1.0, np.abs(x)))
        new = np.clip(ahead - slope / np.maximum(metric, 1e-12), problem.lower, problem.upper)
        pace = 1.0 if float(slope @ (new - x)) > 0.0 else faster
        moved, x = new - x, new
        C = problem.values(x)[1]
        left = slope - signed_at_bounds(problem, ahead, slope)
        if float(np.abs(left).max(initial=0.0)) <= float(np.abs(C).max(initial=0.0)):
            lam = lam - rho * C
    return Ended(x, lam, z, max_iterations, record.nfev, "iterations")
