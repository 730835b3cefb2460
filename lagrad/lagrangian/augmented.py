"""`augmented-lagrangian`: the method of multipliers, with a projected Newton method inside.

Takes a `Problem`; minimises, over all variables within their bounds and with no constraint left,

    ψ(x) = J − λᵀC + ρ/2 ‖C‖²        ∇ψ = ∇J − Aᵀ(λ − ρC)        ∇²ψ = ∇²L(x, λ − ρC) + ρ AᵀA

then sets λ ← λ − ρC, and raises ρ where C does not fall fast enough. Newton's step on ∇²ψ comes from the sparse system
[[∇²L, Aᵀ], [A, −I/ρ]], so that AᵀA is never formed and a large ρ does no harm.
Sources: M. Hestenes, J. Optim. Theory Appl. 4 (1969) 303; M. Powell (1969); projection on bounds: D. Bertsekas, SIAM J.
Control Optim. 20 (1982) 221; ρ and tolerances: Nocedal and Wright, Numerical Optimization (2006), algorithm 17.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lagrad.lagrangian.newton import Convexifier
from lagrad.lagrangian.optimality import residuals, signed_at_bounds
from lagrad.lagrangian.problem import Floats, Places, Problem
from lagrad.lagrangian.result import Ended, Recorder
from lagrad.lagrangian.sqp import EPS
from lagrad.lagrangian.unbounded import unbounded

HITS = 10  # times that a Newton step is asked for anew because of bounds that it met
MOST = 1e12  # ρ beyond which a constraint that is still violated will not be met


@dataclass
class Penalised:
    """ψ for given λ and ρ; steps over all variables or over some of them, the others held."""

    problem: Problem
    lam: Floats
    rho: float

    def value(self, x: Floats) -> float:
        """ψ."""
        value, C = self.problem.values(x)
        return value - float(self.lam @ C) + 0.5 * self.rho * float(C @ C)

    def multipliers(self, x: Floats) -> Floats:
        """λ − ρC: what λ becomes, were x the minimum."""
        return self.lam - self.rho * self.problem.values(x)[1]

    def gradient(self, x: Floats) -> Floats:
        """∇ψ (N,)."""
        gradient, A = self.problem.slopes(x)
        return gradient - A.T @ self.multipliers(x)

    def free(self, x: Floats, gradient: Floats) -> NDArray[np.bool_]:
        """Variables that are not on a bound that ψ pushes against."""
        p = self.problem
        room = 1e-12 * np.maximum(1.0, np.abs(x))
        stuck = ((x <= p.lower + room) & (gradient > 0.0)) | ((x >= p.upper - room) & (gradient < 0.0))
        return ~stuck

    def step(
        self, x: Floats, convex: Convexifier, among: NDArray[np.bool_] | None = None
    ) -> tuple[Floats, float, bool]:
        """A projected Newton step, Armijo's rule: (new x, size of the projected gradient at x, whether it moved)."""
        p = self.problem
        gradient, A = p.slopes(x)
        lam = self.multipliers(x)
        slope = gradient - A.T @ lam
        free = self.free(x, slope) if among is None else self.free(x, slope) & among
        projected = float(np.abs(slope[free]).max(initial=0.0))
        which = np.flatnonzero(free)
        if not which.size or projected == 0.0:
            return x, projected, False
        d = self.direction(x, convex, slope, A, p.hessian(x, lam), which)
        before = self.value(x)
        rounding = 20.0 * EPS * (1.0 + abs(before))
        length = 1.0
        while length > 1e-12:
            trial = np.clip(x + length * d, p.lower, p.upper)
            after = self.value(trial)
            gain = float(slope @ (trial - x))
            if np.isfinite(after) and after <= before + 1e-4 * min(gain, 0.0) + rounding:
                return trial, projected, not np.array_equal(trial, x)
            length *= 0.5
        return x, projected, False

    def direction(
        self, x: Floats, convex: Convexifier, slope: Floats, A: sp.csr_array, H: sp.csr_array, which: Places
    ) -> Floats:
        """Newton's direction among the variables `which` (N,), ended at the bounds that it meets.

        Those that would leave their bounds stop there and the others are asked again, given that: clipping alone would
        leave the others with a step that counts on what does not happen.
        """
        p, d, moving = self.problem, np.zeros(x.size), which
        for _ in range(HITS):
            held = np.flatnonzero(d)
            g, c = slope + H[:, held] @ d[held], A[:, held] @ d[held]
            found = convex.step(
                sp.csr_array(H[moving][:, moving]), sp.csr_array(A[:, moving]), g[moving], c, 1.0 / self.rho
            )
            step = -slope[moving] if found is None else found[0]
            low, high = p.lower[moving] - x[moving], p.upper[moving] - x[moving]
            beyond = (step < low) | (step > high)
            if not beyond.any() or found is None:
                break
            trial = d.copy()
            trial[moving[beyond]] = np.clip(step, low, high)[beyond]
            # a direction that only stops at bounds has to stay one of descent
            if beyond.all() or float(slope @ trial) > 0.0:
                break
            d, moving = trial, moving[~beyond]
        d[moving] = step
        return d


def run(
    problem: Problem, record: Recorder, tolerance: float, max_iterations: int, penalty: float = 10.0
) -> Ended:
    """Iterate from problem.x0; an iteration is one Newton step."""
    x, lam, rho = problem.x0.copy(), np.zeros(problem.M), float(penalty)
    convex = Convexifier()
    first, C = problem.values(x)
    if not (np.isfinite(first) and np.isfinite(C).all()):
        return Ended(x, lam, np.zeros(problem.N), 0, 1, "failed", "values at the start are not finite")
    inner, wanted, it = 1.0 / rho, np.inf, 0
    z = signed_at_bounds(problem, x, problem.slopes(x)[0])
    record(0, x, lam, z)
    while True:
        psi = Penalised(problem, lam, rho)
        last = np.inf
        while True:
            if it >= max_iterations:
                return Ended(x, lam, z, it, record.nfev, "iterations")
            it += 1
            moved_from = x
            x, projected, moved = psi.step(x, convex)
            now = psi.multipliers(x)
            z = signed_at_bounds(problem, x, psi.gradient(x))
            record.nfev += 1
            record(it, x, now, z)
            if residuals(problem, x, now, z).within(tolerance):
                return Ended(x, now, z, it, record.nfev)
            value, C = problem.values(x)
            if unbounded(problem, x, value, first):
                return Ended(x, now, z, it, record.nfev, "unbounded")
            after = psi.gradient(x)
            projected = float(np.abs(after[psi.free(x, after)]).max(initial=0.0))
            still = not moved or np.abs(x - moved_from).max(initial=0.0) <= 4.0 * EPS * max(
                1.0, np.abs(x).max()
            )
            if projected <= inner or still or (projected >= 0.9 * last and projected <= 1e-9 * rho):
                break
            last = projected
        violation = float(np.abs(C).max(initial=0.0))
        lam = now
        if violation > 0.1 * wanted:  # not fast enough
            rho *= 10.0
        wanted = violation
        inner = max(0.1 * tolerance, min(0.1 * inner, violation))
        if rho > MOST:
            _, A = problem.slopes(x)
            down = signed_at_bounds(problem, x, A.T @ C, 1e-9)
            at_rest = float(np.abs(A.T @ C - down).max(initial=0.0)) <= 1e-6 * violation * max(
                1.0, np.abs(A.data).max()
            )
            if violation > np.sqrt(tolerance) and at_rest:
                return Ended(x, lam, z, it, record.nfev, "infeasible")
            return Ended(x, lam, z, it, record.nfev, "stalled")
