"""`reduced`: the constraints are solved at every point, and SciPy descends along certified adjoint gradients.

Takes a `Problem` whose constraints determine the states, and its Program; the unknowns are the parameters alone,

    j(p) = J(u(p), p),   dj/dp = J_p − λᵀR_p with R_uᵀ λ = J_uᵀ,   Hessian products from `Solution.hvp`

and equalities and inequalities are nonlinear constraints c(p) on further outputs. Every iteration is judged by the KKT
residuals of the whole problem, and the method ends there, not at SciPy's own tests. A point that cannot be solved or
differentiated is worse than any other, rising from the last good one, so that a line search steps back.
Sources: L-BFGS-B, R. Byrd, P. Lu, J. Nocedal, C. Zhu, SIAM J. Sci. Comput. 16 (1995) 1190; SLSQP, D. Kraft, report
DFVLR-FB 88-28 (1988); trust-constr, R. Byrd, M. Hribar, J. Nocedal, SIAM J. Optim. 9 (1999) 877; Newton-CG, J. Nocedal,
S. Wright, Numerical Optimization (2006), chapter 7.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import DeclarationError, LagradError
from lagrad.lagrangian.optimality import residuals, signed_at_bounds
from lagrad.lagrangian.problem import Floats, Places, Problem
from lagrad.lagrangian.result import Ended, Recorder
from lagrad.lagrangian.unbounded import unbounded
from lagrad.system import build

if TYPE_CHECKING:
    from lagrad.program import Program
    from lagrad.solve import Solution

SOLVERS = {  # takes bounds, takes constraints
    "L-BFGS-B": (True, False),
    "SLSQP": (True, True),
    "trust-constr": (True, True),
    "Newton-CG": (False, False),
}
NEAR = 1e-4  # a bound that near may have a multiplier; complementarity then says whether it is near enough


class _Done(Exception):
    """The point recorded last ends the method."""

    def __init__(self, status: str = "") -> None:
        self.status = status


@dataclass
class _Point:
    """What is known at one p."""

    y: Floats
    solution: Solution | None = None
    values: Floats | None = None  # [J, constrained states]
    slopes: Floats | None = None  # (1 + constrained, k)


@dataclass(eq=False)
class Reduced:
    """j(p), c(p) and their derivatives, with the last solution as the start of the next."""

    problem: Problem
    program: Program
    record: Recorder
    tolerance: float
    max_iterations: int
    start: dict[str, Any]
    at: _Point | None = None
    good: _Point | None = None  # the last point that was solved
    error: LagradError | None = None
    highest: float = 0.0
    first: float | None = None
    iteration: int = 0
    constrained: Places = field(init=False)  # positions in x of the states with targets or asked bounds

    def __post_init__(self) -> None:
        p = self.problem
        n = p.states.size
        own = (p.lower[:n] != p.f.lower[p.states]) | (p.upper[:n] != p.f.upper[p.states])
        self.constrained = np.concatenate([p.fixed, np.setdiff1d(np.flatnonzero(own), p.fixed)])
        self.system = build(self.program)
        layout = self.system.layout
        names = [p.output, *(p.name(int(j)) for j in self.constrained)]
        self.rows: NDArray[Any] = np.concatenate([layout.find_output(name)[0] for name in names])

    # -- evaluation -----------------------------------------------------------------------------------------
    def point(self, y: Floats) -> _Point:
        """Solved and differentiated at y; `solution` None where that failed."""
        if self.at is not None and np.array_equal(self.at.y, y):
            return self.at
        self.at = _Point(y.copy())
        self.record.nfev += 1
        full = self.problem.p.copy()
        full[self.problem.over] = y
        given = self.problem.f.split_parameters(full)
        starts: list[Any] = [self.start] if self.good is None else [self.good.solution, self.start]
        for start in starts:
            try:
                solution = self.system.solve(given, start=start, progress=False)
                rows = self.rows
                solution.check_finite(rows)
                slopes = np.asarray(solution.total(rows, self.problem.over))
                if np.isfinite(slopes).all():
                    weights = np.ones(rows.size)
                    weights[0] = self.problem.weight
                    self.at.slopes = weights[:, None] * slopes
                    self.at.values = weights * solution.v[solution.layout.m + rows]
                    self.at.solution = solution
                    self.error = None
                    break
            except LagradError as error:
                self.error = error
        if self.at.solution is not None and self.at.values is not None:
            self.good = self.at
            value = float(self.at.values[0])
            self.highest = max(self.highest, abs(value))
            self.first = value if self.first is None else self.first
            u = self.problem.f.flat_states(self.at.solution.states)[self.problem.states]
            if unbounded(self.problem, np.concatenate([u, y]), value, self.first):
                self.note(y)
                raise _Done("unbounded")
        return self.at

    def objective(self, y: Floats) -> tuple[float, Floats]:
        """(j, dj/dp)."""
        at = self.point(y)
        if at.values is not None and at.slopes is not None:
            return float(at.values[0]), at.slopes[0].copy()
        if self.good is None:
            raise _Done("failed")
        away = y - self.good.y
        height = 10.0 * (1.0 + self.highest)
        return height * (1.0 + float(away @ away)), 2.0 * height * away

    def constraints(self, y: Floats) -> Floats:
        """The constrained states, (c,); those of the last good point where y cannot be solved."""
        at = self.point(y)
        at = at if at.values is not None else self.known()
        assert at.values is not None
        return at.values[1:].copy()

    def constraint_slopes(self, y: Floats) -> Floats:
        """(c, k)."""
        at = self.point(y)
        at = at if at.slopes is not None else self.known()
        assert at.slopes is not None
        return at.slopes[1:].copy()

    def known(self) -> _Point:
        if self.good is None:
            raise _Done("failed")
        return self.good

    def hessian_times(self, y: Floats, direction: Floats) -> Floats:
        """H ṗ (k,)."""
        at = self.point(y)
        if at.solution is None:
            return np.asarray(direction, dtype=np.float64)
        full = np.zeros(self.problem.f.m)
        full[self.problem.over] = np.ravel(direction)
        # a model of the output to step by, not a derivative to report
        product = at.solution.hvp(self.problem.output, self.problem.f.split_parameters(full), one_sided=True)
        parts = [np.ravel(product[name]) for name in self.problem.f.split_parameters(full)]
        return self.problem.weight * np.concatenate(parts)[self.problem.over]

    # -- the whole problem at y -----------------------------------------------------------------------------
    def whole(self, at: _Point) -> tuple[Floats, Floats, Floats]:
        """(x, λ, z): multipliers of equalities and active bounds by least squares, λ by the adjoint they make."""
        from scipy.optimize import lsq_linear

        p = self.problem
        assert at.solution is not None and at.values is not None and at.slopes is not None
        u = p.f.flat_states(at.solution.states)
        x = np.concatenate([u[p.states], at.y])
        k0, n_fixed = p.states.size, p.fixed.size
        limited = self.constrained[n_fixed:]
        value, room = at.values[1 + n_fixed :], NEAR * np.maximum(1.0, np.abs(at.values[1 + n_fixed :]))
        low, high = value <= p.lower[limited] + room, value >= p.upper[limited] - room
        active = np.flatnonzero(low | high)
        edge = NEAR * np.maximum(1.0, np.abs(at.y))
        inside = np.flatnonzero((at.y > p.lower[k0:] + edge) & (at.y < p.upper[k0:] - edge))
        z, mu = np.zeros(p.N), np.zeros(n_fixed)
        chosen = np.concatenate([np.arange(n_fixed), n_fixed + active])
        rest = at.slopes[0].copy()
        if chosen.size:
            matrix = at.slopes[1:][chosen]
            sides = np.concatenate([np.zeros(n_fixed), np.where(low[active], 1.0, -1.0)])
            both = np.concatenate([np.ones(n_fixed, bool), (low & high)[active]])
            best = lsq_linear(
                matrix[:, inside].T if inside.size else np.zeros((1, chosen.size)),
                rest[inside] if inside.size else np.zeros(1),
                bounds=(
                    np.where((sides <= 0) | both, -np.inf, 0.0),
                    np.where((sides >= 0) | both, np.inf, 0.0),
                ),
                tol=1e-14,
            ).x
            # where the parameters inside their bounds leave a choice, the smallest multipliers are taken
            mu = best[:n_fixed]
            z[limited[active]] = best[n_fixed:]
            rest -= matrix.T @ best
        z[k0:] = signed_at_bounds(p, x, np.concatenate([np.zeros(k0), rest]), NEAR)[k0:]
        lam = np.concatenate([np.zeros(p.rows.size), mu])
        adjoint = p.adjoint(x, lam, z)
        if adjoint is not None:
            lam[: p.rows.size] = adjoint
        return x, lam, z

    def note(self, y: Floats, *_: Any) -> None:
        """Record an iteration; ends the method where the conditions of a minimum hold."""
        at = self.point(np.asarray(y, dtype=np.float64))
        if at.solution is None:
            return
        x, lam, z = self.whole(at)
        self.record(self.iteration, x, lam, z)
        self.iteration += 1
        if residuals(self.problem, x, lam, z).within(self.tolerance):
            raise _Done
        if self.iteration > self.max_iterations:
            raise _Done("iterations")


def run(
    problem: Problem, record: Recorder, tolerance: float, max_iterations: int, *, program: Program,
    solver: str | None = None,
) -> Ended:  # fmt: skip
    """From problem.x0."""
    k0 = problem.states.size
    start = problem.f.split_states(problem.full_states(problem.x0))
    finite = all(np.isfinite(v).all() for v in start.values())
    reduced = Reduced(problem, program, record, tolerance, max_iterations, start if finite else {})
    constrained = reduced.constrained.size > 0
    name = solver or ("SLSQP" if constrained else "L-BFGS-B")
    _check(problem, name, constrained, k0)
    y, status, reason = problem.x0[k0:].copy(), "", ""
    if not y.size:
        raise DeclarationError("over", "nothing is free to move.", "Name parameters: over=['x'].")
    try:
        reduced.note(y)
        if reduced.good is None:
            raise _Done("failed")
        for _ in range(5):  # from where it ended, with fresh curvature, as long as that helps
            before = float(reduced.objective(y)[0])
            left = max_iterations - reduced.iteration + 1
            if left <= 0:
                status = "iterations"
                break
            y = np.clip(_scipy(reduced, name, y, left, tolerance), problem.lower[k0:], problem.upper[k0:])
            reduced.note(y)
            if not constrained and reduced.objective(y)[0] >= before:
                status = "stalled"
                break
        status = status or ("iterations" if reduced.iteration > max_iterations else "stalled")
    except _Done as done:
        status = done.status
    if reduced.error is not None:
        reason = str(reduced.error)
    if reduced.good is None:
        nothing = np.zeros(problem.N)
        return Ended(problem.x0, np.zeros(problem.M), nothing, 0, record.nfev, "failed", reason)
    if status in ("stalled", "iterations", "unbounded") and constrained:
        status, nearest = _feasibility(reduced, problem.x0[k0:], status)
        if nearest is not None:  # solvers leave it, and may end anywhere
            record(max(0, reduced.iteration - 1), *reduced.whole(nearest))
    assert record.last is not None
    x, lam, z, _ = record.last
    if reason and status == "stalled":
        status = "failed"
    return Ended(x, lam, z, max(0, reduced.iteration - 1), record.nfev, status, reason)


def _feasibility(reduced: Reduced, y: Floats, status: str) -> tuple[str, _Point | None]:
    """`status`, or "infeasible" and a point where the equalities and inequalities are violated least, and are.

    That is looked for from the start by least squares on the violation alone.
    """
    from scipy.optimize import least_squares

    p = reduced.problem
    k0, n_fixed = p.states.size, p.fixed.size
    low, high = p.lower[reduced.constrained].copy(), p.upper[reduced.constrained].copy()
    low[:n_fixed] = high[:n_fixed] = p.targets

    def off(y: Floats) -> Floats:
        c = reduced.constraints(y)
        return c - np.clip(c, low, high)

    def off_slopes(y: Floats) -> Floats:
        c = reduced.constraints(y)
        return reduced.constraint_slopes(y) * ((c < low) | (c > high) | (low == high))[:, None]

    ended = reduced.good
    assert ended is not None
    limit = np.sqrt(reduced.tolerance)
    if np.abs(off(ended.y)).max(initial=0.0) <= limit:
        return status, None
    try:
        nearest = least_squares(
            off,
            y,
            off_slopes,
            (p.lower[k0:] - 1e-12, p.upper[k0:] + 1e-12),
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
        )
        if np.abs(nearest.fun).max(initial=0.0) > limit:
            at = reduced.point(nearest.x)
            return "infeasible", at if at.solution is not None else None
    except _Done:
        pass
    return "stalled" if status == "unbounded" else status, None


def _check(problem: Problem, name: str, constrained: bool, k0: int) -> None:
    if name not in SOLVERS:
        raise DeclarationError("solver", f"{name!r} is not a solver.", f"There are {', '.join(SOLVERS)}.")
    takes_bounds, takes_constraints = SOLVERS[name]
    if constrained and not takes_constraints:
        raise DeclarationError(
            "solver", f"{name} takes no equalities or inequalities.", "Use 'SLSQP' or 'trust-constr'."
        )
    if not takes_bounds and (np.isfinite(problem.lower[k0:]).any() or np.isfinite(problem.upper[k0:]).any()):
        raise DeclarationError("solver", f"{name} takes no bounds.", "Use 'L-BFGS-B' or 'trust-constr'.")


def _scipy(reduced: Reduced, name: str, y: Floats, iterations: int, tolerance: float) -> Floats:
    """Where SciPy's `name` ends from y."""
    from scipy.optimize import BFGS, Bounds, NonlinearConstraint, minimize

    p = reduced.problem
    k0, n_fixed = p.states.size, p.fixed.size
    box = Bounds(p.lower[k0:], p.upper[k0:]) if SOLVERS[name][0] else None
    more: dict[str, Any] = {}
    if reduced.constrained.size:
        low, high = p.lower[reduced.constrained].copy(), p.upper[reduced.constrained].copy()
        low[:n_fixed] = high[:n_fixed] = p.targets
        if name == "SLSQP":
            more["constraints"] = _slsqp_constraints(reduced, low, high, n_fixed)
        else:
            more["constraints"] = NonlinearConstraint(
                reduced.constraints, low, high, jac=reduced.constraint_slopes, hess=BFGS()
            )
    options: dict[str, Any] = {"maxiter": iterations}
    if name == "L-BFGS-B":
        options |= {"ftol": 0.0, "gtol": 0.0, "maxcor": 20, "maxfun": 20 * iterations, "maxls": 40}
    elif name == "SLSQP":
        options |= {"ftol": tolerance**2}
    elif name == "trust-constr":
        options |= {"gtol": 1e-16, "xtol": 1e-15, "barrier_tol": 0.01 * tolerance}
    else:
        options |= {"xtol": 1e-14}
    if name in ("trust-constr", "Newton-CG"):
        more["hessp"] = reduced.hessian_times
    if box is not None:
        more["bounds"] = box
    # y lies inside its bounds for SciPy to the last bit
    result = minimize(
        reduced.objective, y, jac=True, method=name, callback=reduced.note, options=options, **more
    )  # fmt: skip
    return np.asarray(result.x, dtype=np.float64)


def _slsqp_constraints(reduced: Reduced, low: Floats, high: Floats, n_fixed: int) -> list[dict[str, Any]]:
    """c = target, c − low >= 0, high − c >= 0."""
    rest = np.arange(n_fixed, low.size)
    at_least, at_most = rest[np.isfinite(low[rest])], rest[np.isfinite(high[rest])]

    def one(kind: str, which: Places, sign: float, limit: Floats) -> dict[str, Any]:
        return {
            "type": kind,
            "fun": lambda y: sign * (reduced.constraints(y)[which] - limit[which]),
            "jac": lambda y: sign * reduced.constraint_slopes(y)[which],
        }

    out = [one("eq", np.arange(n_fixed), 1.0, low)] if n_fixed else []
    out += [one("ineq", at_least, 1.0, low)] if at_least.size else []
    return out + ([one("ineq", at_most, -1.0, high)] if at_most.size else [])
