"""`sqp`: Newton's method on the whole KKT system, states, parameters and multipliers at once; bounds by a barrier.

Takes a `Problem`, steps to a point where its Lagrangian is stationary. No constraint is ever solved on the way: one
sparse KKT system per iteration, exact Hessian of the Lagrangian, and feasibility comes with optimality.

    min J(x) − μ Σ log(x − lower) − μ Σ log(upper − x)   subject to C(x) = 0,   μ → 0
    [H + Σ + δI  Aᵀ] [d ]     [∇φ_μ]
    [A           0 ] [−λ]  = −[C   ],      Σ = z_l/(x − lower) + z_u/(upper − x)

A step is accepted by a filter: it must reduce either the infeasibility or the objective with barrier, and not be worse
than an earlier point in both. A step spoilt by the curvature of the constraints gets a second-order correction. Where
no step passes, Levenberg–Marquardt steps reduce ‖C‖ alone; where these end at ‖C‖ > 0, the problem is infeasible there.
Sources: A. Wächter, L. Biegler, Math. Program. 106 (2006) 25; δ: see `newton`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from lagrad.lagrangian.newton import Convexifier, solve_kkt
from lagrad.lagrangian.optimality import NullSpace, residuals
from lagrad.lagrangian.problem import Floats, Problem
from lagrad.lagrangian.result import Ended, Recorder
from lagrad.lagrangian.unbounded import unbounded

EPS = float(np.finfo(np.float64).eps)
DIVERGED = 1e12  # a multiplier beyond that does not exist


@dataclass
class _Filter:
    """Pairs (infeasibility, objective) that no later point may be worse than in both."""

    pairs: list[tuple[float, float]] = field(default_factory=list)

    def allows(self, theta: float, phi: float) -> bool:
        return all(theta < t or phi < f for t, f in self.pairs)

    def add(self, theta: float, phi: float) -> None:
        self.pairs.append((0.99999 * theta, phi - 1e-5 * theta))


def run(problem: Problem, record: Recorder, tolerance: float, max_iterations: int) -> Ended:
    """Iterate from problem.x0."""
    return _Interior(problem, record, tolerance, max_iterations).run()


class _Interior:
    def __init__(self, problem: Problem, record: Recorder, tolerance: float, max_iterations: int) -> None:
        self.problem, self.record = problem, record
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self.low, self.high = np.isfinite(problem.lower), np.isfinite(problem.upper)
        # a variable held between equal bounds has no inside: it is kept, its column left out
        self.held = problem.lower >= problem.upper
        self.low &= ~self.held
        self.high &= ~self.held
        self.move = np.flatnonzero(~self.held)
        self.mu = 0.1 if (self.low | self.high).any() else 0.0
        self.convex = Convexifier()

    # -- the barrier ----------------------------------------------------------------------------------------
    def inside(self, x: Floats) -> Floats:
        p = self.problem
        x = np.clip(x, p.lower, p.upper)
        with np.errstate(invalid="ignore"):
            width = np.where(self.low & self.high, p.upper - p.lower, np.inf)
            room_l = np.minimum(1e-2 * np.maximum(1.0, np.abs(p.lower)), 1e-2 * width)
            room_u = np.minimum(1e-2 * np.maximum(1.0, np.abs(p.upper)), 1e-2 * width)
        x = np.where(self.low, np.maximum(x, p.lower + np.where(self.low, room_l, 0.0)), x)
        out: Floats = np.where(self.high, np.minimum(x, p.upper - np.where(self.high, room_u, 0.0)), x)
        return out

    def gaps(self, x: Floats) -> tuple[Floats, Floats]:
        return np.where(self.low, x - self.problem.lower, 1.0), np.where(
            self.high, self.problem.upper - x, 1.0
        )

    def merit(self, x: Floats, mu: float) -> tuple[float, float]:
        """(θ = ‖C‖₁, φ = J with barrier); nan outside."""
        self.record.nfev += 1
        value, C = self.problem.values(x)
        below, above = self.gaps(x)
        if not ((below > 0.0).all() and (above > 0.0).all()):
            return np.nan, np.nan
        return float(np.abs(C).sum()), value - mu * float(np.log(below).sum() + np.log(above).sum())

    def longest(self, x: Floats, d: Floats, tau: float) -> float:
        below, above = self.gaps(x)
        ratio = np.full(x.size, np.inf)
        down, up = self.low & (d < 0.0), self.high & (d > 0.0)
        ratio[down] = -below[down] / d[down]
        ratio[up] = np.minimum(ratio[up], above[up] / d[up])
        return float(min(1.0, tau * ratio.min(initial=np.inf)))

    # -- the iteration --------------------------------------------------------------------------------------
    def run(self) -> Ended:
        problem = self.problem
        x = self.inside(problem.x0)
        value, C = problem.values(x)
        gradient, A = problem.slopes(x)
        if not (
            np.isfinite(value)
            and np.isfinite(C).all()
            and np.isfinite(gradient).all()
            and np.isfinite(A.data).all()
        ):
            return Ended(
                x,
                np.zeros(problem.M),
                np.zeros(problem.N),
                0,
                1,
                "failed",
                "values at the start are not finite",
            )
        first = value
        zl, zu = np.where(self.low, 1.0, 0.0), np.where(self.high, 1.0, 0.0)
        lam = self.first_multipliers(gradient - zl + zu, A)
        allowed, restorations = _Filter(), 0
        start_theta = max(1.0, float(np.abs(C).sum()))
        largest_theta, smallest_theta = 1e4 * start_theta, 1e-4 * start_theta
        status, reason = "iterations", ""
        it = 0
        while True:
            z = zl - zu
            if it or self.record.records == []:
                self.record(it, x, lam, z)
            now = residuals(problem, x, lam, self.told(x, lam, z))
            if now.within(self.tolerance):
                status = ""
                break
            if it >= self.max_iterations:
                break
            theta, phi = self.merit(x, self.mu)
            if unbounded(problem, x, problem.values(x)[0], first):
                status = "unbounded"
                break
            if now.feasibility <= self.tolerance and np.abs(lam).max(initial=0.0) > DIVERGED:
                status = "singular"
                break
            gradient, A = problem.slopes(x)
            _, C = problem.values(x)
            # the barrier problem solved well enough: a smaller μ
            while self.mu > 0.0 and self.barrier_error(gradient, A, C, x, lam, zl, zu) <= 10.0 * self.mu:
                least = self.tolerance / 100.0
                if self.mu <= least:
                    break
                self.mu = max(least, min(0.2 * self.mu, self.mu**1.5))
                allowed = _Filter()
                theta, phi = self.merit(x, self.mu)
            below, above = self.gaps(x)
            sigma = np.where(self.low, zl / below, 0.0) + np.where(self.high, zu / above, 0.0)
            barrier = gradient - self.mu * (
                np.where(self.low, 1.0 / below, 0.0) - np.where(self.high, 1.0 / above, 0.0)
            )
            H = problem.hessian(x, lam)
            found = self.newton(H, sigma, A, barrier, C)
            if found is None:
                status, reason = "singular", "no Newton step exists"
                break
            d, multipliers = found
            tau = max(0.99, 1.0 - self.mu)
            step = self.search(
                x, d, barrier, A, C, theta, phi, allowed, tau, largest_theta, smallest_theta, H, sigma
            )
            it += 1
            if step is None:
                tiny = float((np.abs(d) / np.maximum(1.0, np.abs(x))).max(initial=0.0)) <= 1e3 * EPS
                if tiny or theta <= 1e-2 * self.tolerance:
                    # nothing left to gain in double precision: take the multipliers and say what was reached
                    lam_new = multipliers
                    better = residuals(problem, x, lam_new, self.told(x, lam_new, z))
                    lam = lam_new if better.stationarity <= now.stationarity else lam
                    status = "" if better.within(self.tolerance) else "stalled"
                    if status == "stalled" and restorations < 5 and not tiny:
                        # the filter may be what is in the way
                        allowed, restorations = _Filter(), restorations + 1
                        x_new = x + self.longest(x, d, tau) * d
                        values = self.merit(x_new, self.mu)
                        if np.isfinite(values).all() and values[0] <= largest_theta:
                            x, lam = x_new, multipliers
                            continue
                    break
                allowed.add(theta, phi)
                restored, verdict = self.restore(x, theta, allowed)
                restorations += 1
                if verdict or restorations > 20:
                    x = restored
                    status, reason = verdict or "stalled", ""
                    break
                x = restored
                gradient, A = problem.slopes(x)
                lam = self.first_multipliers(gradient - zl + zu, A)
                continue
            x_new, alpha, flat = step
            if not flat:
                allowed.add(theta, phi)
            dz_l = np.where(self.low, self.mu / below - zl - zl / below * d, 0.0)
            dz_u = np.where(self.high, self.mu / above - zu + zu / above * d, 0.0)
            alpha_z = _positive(zl, dz_l, self.low, tau)
            alpha_z = min(alpha_z, _positive(zu, dz_u, self.high, tau))
            zl, zu = zl + alpha_z * dz_l, zu + alpha_z * dz_u
            lam = lam + alpha * (multipliers - lam)
            x = x_new
            below, above = self.gaps(x)
            zl = np.where(self.low, np.clip(zl, self.mu / (1e10 * below), 1e10 * self.mu / below), 0.0)
            zu = np.where(self.high, np.clip(zu, self.mu / (1e10 * above), 1e10 * self.mu / above), 0.0)
        return Ended(x, lam, self.told(x, lam, zl - zu), it, self.record.nfev, status, reason)

    def told(self, x: Floats, lam: Floats, z: Floats) -> Floats:
        """z, with all that is left of stationarity where a variable is held."""
        if not self.held.any():
            return z
        gradient, A = self.problem.slopes(x)
        out: Floats = np.where(self.held, gradient - A.T @ lam, z)
        return out

    def first_multipliers(self, gradient: Floats, A: sp.csr_array) -> Floats:
        """The least-squares multipliers; zero where they are huge or do not exist."""
        if not self.problem.M:
            return np.empty(0)
        try:
            lam = NullSpace(sp.csr_array(A[:, self.move])).multipliers(gradient[self.move])
        except RuntimeError:
            return np.zeros(self.problem.M)
        return lam if np.isfinite(lam).all() and np.abs(lam).max() <= 1e3 else np.zeros(self.problem.M)

    def barrier_error(
        self, gradient: Floats, A: sp.csr_array, C: Floats, x: Floats, lam: Floats, zl: Floats, zu: Floats
    ) -> float:
        below, above = self.gaps(x)
        size = max(100.0, (np.abs(lam).sum() + zl.sum() + zu.sum()) / max(1, lam.size + 2 * zl.size)) / 100.0
        rest = (gradient - A.T @ lam - zl + zu)[self.move]
        slack = np.maximum(
            np.where(self.low, np.abs(zl * below - self.mu), 0.0),
            np.where(self.high, np.abs(zu * above - self.mu), 0.0),
        )
        return float(
            max(
                np.abs(rest).max(initial=0.0) / size,
                np.abs(C).max(initial=0.0),
                slack.max(initial=0.0) / size,
            )
        )

    def newton(
        self, H: sp.csr_array, sigma: Floats, A: sp.csr_array, g: Floats, C: Floats
    ) -> tuple[Floats, Floats] | None:
        """(d, λ) of the convexified KKT system; with γ > 0 where A is short of rank."""
        W, sigma = sp.csr_array(H[self.move][:, self.move]), sigma[self.move]
        B, g = sp.csr_array(A[:, self.move]), g[self.move]
        found = self.convex.step(W, B, g, C, barrier=sigma)
        if found is None:
            found = self.convex.step(W, B, g, C, gamma=1e-8, barrier=sigma)
        if found is None:
            return None
        d = np.zeros(self.problem.N)
        d[self.move] = found[0]
        return d, -found[1]

    def search(
        self, x: Floats, d: Floats, barrier: Floats, A: sp.csr_array, C: Floats, theta: float, phi: float,
        allowed: _Filter, tau: float, largest: float, smallest: float, H: sp.csr_array, sigma: Floats,
    ) -> tuple[Floats, float, bool] | None:  # fmt: skip
        """(new point, length, whether it was a descent step of the objective); None where no length passes."""
        alpha = self.longest(x, d, tau)
        slope = float(barrier @ d)
        rounding = 10.0 * EPS * max(1.0, abs(phi))
        least = 1e-10 if theta > 0.0 else 1e-14
        trial = 0

        def accepts(x_new: Floats, length: float) -> bool | None:
            """True: descent of φ; False: by the filter; None: not accepted."""
            t, f = self.merit(x_new, self.mu)
            if not (np.isfinite(t) and np.isfinite(f)) or t > largest or not allowed.allows(t, f - rounding):
                return None
            if slope < 0.0 and length * (-slope) ** 2.3 > theta**1.1 and theta <= smallest:
                return True if f <= phi + 1e-4 * length * slope + rounding else None
            if t <= (1.0 - 1e-5) * theta or f <= phi - 1e-5 * theta:
                return False
            # as feasible as can be told, and no worse
            if t <= max(theta, 1e3 * EPS * max(1.0, float(np.abs(x).sum()))) and f <= phi + rounding:
                return False
            return None

        while alpha >= least:
            verdict = accepts(x + alpha * d, alpha)
            if verdict is not None:
                return x + alpha * d, alpha, verdict
            if trial == 0 and self.problem.M:
                bent = self.problem.values(x + alpha * d)[1]
                if np.isfinite(bent).all() and np.abs(bent).sum() >= theta:
                    corrected = self.second_order(x, d, alpha, A, C, bent, H, sigma, barrier)
                    if corrected is not None:
                        length = self.longest(x, corrected, tau)
                        verdict = accepts(x + length * corrected, alpha)
                        if verdict is not None:
                            return x + length * corrected, alpha, verdict
            trial += 1
            alpha *= 0.5
        return None

    def second_order(
        self, x: Floats, d: Floats, alpha: float, A: sp.csr_array, C: Floats, bent: Floats,
        H: sp.csr_array, sigma: Floats, barrier: Floats,
    ) -> Floats | None:  # fmt: skip
        """The step that also undoes the constraints' curvature: A d = −(α C + C(x + α d))."""
        W = sp.csr_array(H + sp.diags_array(sigma))[self.move][:, self.move]
        found = solve_kkt(
            W, sp.csr_array(A[:, self.move]), barrier[self.move], alpha * C + bent, self.convex.last, 0.0
        )
        if found is None:
            return None
        out = np.zeros(self.problem.N)
        out[self.move] = found[0]
        return out

    def restore(self, x: Floats, theta: float, allowed: _Filter) -> tuple[Floats, str]:
        """A more feasible point by Levenberg–Marquardt steps inside the bounds; or ("infeasible") why there is none."""
        damping = 1e-4
        theta_now = theta
        for _ in range(200):
            _, C = self.problem.values(x)
            _, A = self.problem.slopes(x)
            A = sp.csr_array(A[:, self.move])
            down = A.T @ C
            below, above = (gap[self.move] for gap in self.gaps(x))
            # scaled towards the bounds (Coleman and Li), so that steps bend along them
            room = np.ones(self.move.size)
            low, high = self.low[self.move], self.high[self.move]
            room = np.where(low & (down > 0.0), np.minimum(1.0, below), room)
            room = np.where(high & (down < 0.0), np.minimum(1.0, above), room)
            stationary = float(np.abs(room * down).max(initial=0.0))
            if stationary <= 1e-9 * max(1.0, float(np.abs(C).max())) * max(
                1.0, float(np.abs(A.data).max(initial=0.0))
            ):
                return x, "infeasible" if np.abs(C).max() > self.tolerance else ""
            scale = damping * np.maximum(np.abs(down).max(), 1e-12) / room
            found = solve_kkt(sp.csr_array(sp.diags_array(scale)), A, np.zeros(self.move.size), C, 0.0, 1.0)
            if found is None:
                damping *= 10.0
                continue
            d = np.zeros(x.size)
            d[self.move] = found[0]
            length = self.longest(x, d, 0.95)
            trial = x + length * d
            t, f = self.merit(trial, self.mu)
            if np.isfinite(t) and float(np.square(self.problem.values(trial)[1]).sum()) < float(
                np.square(C).sum()
            ) * (1 - 1e-12):
                x, theta_now, damping = trial, t, max(1e-12, damping / 5.0)
                if theta_now <= 0.9 * theta and allowed.allows(t, f):
                    return x, ""
            else:
                damping *= 10.0
                if damping > 1e16:
                    break
        _, C = self.problem.values(x)
        return x, "infeasible" if np.abs(C).max(initial=0.0) > np.sqrt(self.tolerance) else "stalled"


def _positive(z: Floats, dz: Floats, which: np.ndarray, tau: float) -> float:
    down = which & (dz < 0.0)
    return float(min(1.0, tau * (z[down] / -dz[down]).min(initial=np.inf)))
