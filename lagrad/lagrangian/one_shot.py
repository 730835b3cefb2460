"""`one-shot`: one step of the states, one of the adjoints and one of the parameters, over and over ("piggyback").

Takes a `Problem` whose constraints determine the states; solves none of the three equations before it moves on the
others, which pays where one step towards the solution costs as much as a solve elsewhere:

    u ← u − P (R + R_p Δp)    λ ← λ + Pᵀ (J_u − R_uᵀ λ)    p ← p + Δp,   Δp = −τ B⁻¹ (J_p − R_pᵀ λ)

P is the inverse of R_u, factored once and again only when it no longer contracts ("newton"), or the identity for
constraints y == Φ(y, p) whose iteration contracts ("fixed-point"). B is a limited-memory BFGS matrix of the gradients
seen. p waits (Δp = 0) until what is left to do for u and λ is small beside its own last step ("multistep"); a step
after which the corrected objective J − λᵀR, of second order in what is left, has not fallen is taken back and cut.
Source: A. Hamdi, A. Griewank, Properties of an augmented Lagrangian for design optimization, Optim. Methods Softw. 25
(2010). Waiting: T. Bosse, N. Gauger, A. Griewank, S. Günther, V. Schulz, One-shot approaches to design optimization,
ISNM 165 (2014).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from lagrad.errors import DeclarationError
from lagrad.expr.graph import STATE
from lagrad.lagrangian.optimality import residuals, signed_at_bounds
from lagrad.lagrangian.problem import Floats, Places, Problem
from lagrad.lagrangian.result import Ended, Recorder
from lagrad.lagrangian.unbounded import falls_forever, unbounded

MEMORY = 20  # pairs of the limited-memory BFGS matrix
SLOW = 0.3  # contraction of the states' residual beyond which R_u is factored again
ASK = 100  # iterations, doubling, after which a ray without end is looked for
WAIT = 500  # iterations that p waits for u and λ before their steps are said not to contract
Inverse = tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]  # P r, Pᵀ r


def run(
    problem: Problem, record: Recorder, tolerance: float, max_iterations: int, *, program: Any,
    preconditioner: str = "newton",
) -> Ended:  # fmt: skip
    """Iterate from problem.x0, adjoints from zero."""
    if preconditioner not in ("newton", "fixed-point"):
        raise DeclarationError(
            "preconditioner", f"{preconditioner!r} is not one.", "Use 'newton' or 'fixed-point'."
        )
    n, k = problem.states.size, problem.over.size
    if problem.fixed.size or np.isfinite(problem.lower[:n]).any() or np.isfinite(problem.upper[:n]).any():
        raise DeclarationError(
            "method",
            "'one-shot' takes no equalities, inequalities or bounds on states, only bounds on parameters.",
            "Use 'sqp'.",
        )
    if not k:
        raise DeclarationError("over", "nothing is free to move.", "Name parameters: over=['x'].")
    own = _own_states(problem, program) if preconditioner == "fixed-point" else None
    return _OneShot(problem, record, tolerance, max_iterations, own).run()


class _OneShot:
    def __init__(
        self, problem: Problem, record: Recorder, tolerance: float, max_iterations: int, own: Places | None
    ) -> None:
        self.problem, self.record, self.own = problem, record, own
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self.n = problem.states.size
        self.pairs: list[tuple[Floats, Floats]] = []

    def run(self) -> Ended:
        problem, n = self.problem, self.n
        x, lam, z = problem.x0.copy(), np.zeros(problem.M), np.zeros(problem.N)
        first = problem.values(x)[0]
        before, patience, gate, tau, it = np.inf, 0, 0.0, 1.0, 0
        inverse: Inverse | None = None
        ask = ASK
        kept: _Kept | None = None  # where the last step of p began
        while True:
            self.record.nfev += 1
            value, R = problem.values(x)
            gradient, A = problem.slopes(x)
            by_u, by_p = sp.csr_array(A[:, :n]), sp.csr_array(A[:, n:])
            back = not (np.isfinite(value) and np.isfinite(R).all() and np.isfinite(A.data).all())
            if back and kept is None:
                return self.ended(x, lam, z, it, "failed", "values are not finite")
            if not back:
                size = float(np.abs(R).max(initial=0.0))
                slope = gradient[n:] - by_p.T @ lam
                z = signed_at_bounds(problem, x, np.concatenate([np.zeros(n), slope]))
                self.record(it, x, lam, z)
                if residuals(problem, x, lam, z).within(self.tolerance):
                    return self.ended(x, lam, z, it)
                if unbounded(problem, x, value, first) or (it == ask and falls_forever(problem, x)):
                    return self.ended(x, lam, z, it, "unbounded")
                ask = 2 * ask if it == ask else ask
                if it >= self.max_iterations:
                    return self.ended(x, lam, z, it, "iterations")
                it += 1
                if inverse is None or (self.own is None and size > SLOW * before and size > 1e-13):
                    try:
                        inverse = _factored(by_u) if self.own is None else _relabelled(self.own)
                    except RuntimeError:
                        return self.ended(x, lam, z, it, "singular", "R_u is singular there")
                before = size
                du, dlam = -inverse[0](R), inverse[1](gradient[:n] - by_u.T @ lam)
                left = max(_relative(du, x[:n]), _relative(dlam, lam))
                patience += 1
                if not left <= gate and patience <= WAIT:
                    x = np.concatenate([x[:n] + du, x[n:]])
                    lam = lam + dlam
                    continue
                if patience > WAIT and kept is None:
                    return self.ended(
                        x, lam, z, it, "stalled", "the steps of states and adjoints do not contract"
                    )
                merit = value - float(lam @ R)
                rounding = 1e-13 * max(1.0, abs(merit))
                back = patience > WAIT or (
                    kept is not None and merit > kept.merit + 1e-4 * tau * kept.fall + rounding
                )
            if back:
                assert kept is not None and inverse is not None
                tau *= 0.25
                if tau < 1e-12:
                    return self.ended(kept.x, kept.lam, z, it, "stalled")
                x, lam, by_p, du, dlam, step = kept.x, kept.lam, kept.by_p, kept.du, kept.dlam, kept.step
            else:
                if kept is not None:
                    self.remember(x[n:] - kept.x[n:], slope - kept.slope)
                tau = 1.0
                step = self.direction(x[n:], slope)
                kept = _Kept(x, lam, by_p, du, dlam, step, slope, merit, float(slope @ step))
            new = np.clip(x[n:] + tau * step, problem.lower[n:], problem.upper[n:])
            assert inverse is not None
            gate, patience, before = max(0.1 * _relative(new - x[n:], x[n:]), 0.1 * self.tolerance), 0, np.inf
            x = np.concatenate([x[:n] + du - inverse[0](by_p @ (new - x[n:])), new])
            lam = lam + dlam

    def direction(self, p: Floats, slope: Floats) -> Floats:
        """−B⁻¹ slope for the parameters that their bounds leave free; not longer than they are."""
        low, high = self.problem.lower[self.n :], self.problem.upper[self.n :]
        free = ~(((p <= low) & (slope > 0.0)) | ((p >= high) & (slope < 0.0)))
        reduced = np.where(free, slope, 0.0)
        step = np.where(free, -_two_loops(self.pairs, reduced), 0.0)
        if float(step @ slope) > 0.0:  # projection has spoilt it
            step = -reduced
        longest = float(np.abs(step).max(initial=0.0))
        limit = (1.0 if self.pairs else 0.1) * max(1.0, float(np.abs(p).max()))
        out: Floats = step * min(1.0, limit / longest if longest > 0.0 else 1.0)
        return out

    def remember(self, s: Floats, y: Floats) -> None:
        """Keep a pair that shows positive curvature: what is seen of it mixes in the errors of u and λ."""
        if float(s @ y) > 1e-8 * float(np.linalg.norm(s) * np.linalg.norm(y)):
            self.pairs.append((s, y))
            del self.pairs[:-MEMORY]

    def ended(self, x: Floats, lam: Floats, z: Floats, it: int, status: str = "", reason: str = "") -> Ended:
        return Ended(x, lam, z, it, self.record.nfev, status, reason)


class _Kept(NamedTuple):
    """Where a step of p began, and what it was made of."""

    x: Floats
    lam: Floats
    by_p: sp.csr_array
    du: Floats
    dlam: Floats
    step: Floats
    slope: Floats
    merit: float
    fall: float  # slope · step


def _relative(change: Floats, of: Floats) -> float:
    return float(np.abs(change).max(initial=0.0)) / max(1.0, float(np.abs(of).max(initial=0.0)))


def _factored(by_u: sp.csr_array) -> Inverse:
    if not by_u.shape[0]:
        return lambda r: r, lambda r: r
    factor = splu(sp.csc_matrix(by_u))
    return lambda r: factor.solve(r), lambda r: factor.solve(r, trans="T")


def _relabelled(own: Places) -> Inverse:
    """Row i belongs to state own[i]: P puts its residual there."""
    back = np.empty_like(own)
    back[own] = np.arange(own.size)
    return lambda r: r[back], lambda r: r[own]


def _own_states(problem: Problem, program: Any) -> Places:
    """The state that stands alone on the left of each constraint, by position among the variables."""
    graph, place = program.graph, np.full(problem.f.n, -1)
    place[problem.states] = np.arange(problem.states.size)
    own = [
        int(place[graph.a[program.lhs[i]]]) if graph.code[program.lhs[i]] == STATE else -1
        for i in problem.rows.tolist()
    ]
    if sorted(own) != list(range(problem.states.size)):
        missing = next((i for i, k in enumerate(own) if k < 0), 0)
        raise DeclarationError(
            "preconditioner",
            f"'fixed-point' needs every constraint written state == …, each state once; "
            f"{problem.constraint_name(missing)} is not.",
            "Use 'newton'.",
        )
    return np.array(own, dtype=np.int64)


def _two_loops(pairs: list[tuple[Floats, Floats]], g: Floats) -> Floats:
    """B⁻¹ g (Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4)."""
    q, used = g.copy(), []
    for s, y in reversed(pairs):
        a = float(s @ q) / float(s @ y)
        q = q - a * y
        used.append(a)
    if pairs:
        s, y = pairs[-1]
        q = q * (float(s @ y) / float(y @ y))
    for (s, y), a in zip(pairs, reversed(used), strict=True):
        q = q + s * (a - float(y @ q) / float(s @ y))
    return q
