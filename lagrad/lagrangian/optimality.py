"""What makes a point a minimum that can be believed: KKT residuals, regular constraints, curvature.

Takes a `Problem` and a point with its multipliers, gives an `Optimality`. No method's own flag is trusted: every result
of `lagrad.minimize` is judged here, on the same figures.

    stationarity       ∇J − Aᵀλ − z = 0            relative to the sizes of what cancels there, from 1 up
    feasibility        C = 0, lower <= x <= upper   likewise
    complementarity    z_j (x_j − bound) = 0
    correction         λᵀC, the first-order change of J that feasibility leaves open (Griewank and Faure 2002)
    curvature          smallest eigenvalue of Zᵀ ∇²L Z, the columns of Z an orthonormal basis of the null space of the
                       active constraints' Jacobian: >= 0 at a minimum, > 0 at an isolated one

A J whose slopes are below `problem.SMALL` where it starts and ends is brought to the order of 1 first. Where the
curvature is zero, second order cannot tell a valley from a ridge (−x⁴) or a slope (x³): J is then looked at a tenth of
x and less along such directions, at points that meet the constraints.

Source: J. Nocedal, S. Wright, Numerical Optimization (2006), sections 12.3 to 12.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh, splu

from lagrad.lagrangian.problem import Floats, Problem

FLAT = 5  # directions of zero curvature that are looked along
NEAR = 1e-2  # of x: how far a point without multipliers is looked for
GROWN = 1e3  # multipliers, over the slopes of the objective, that may be on their way to none
DENSE = 400  # variables up to which the curvature is that of dense matrices: all eigenvalues, under 0.1 s


@dataclass(frozen=True)
class Optimality:
    """The certificate of a point: which conditions of a minimum hold there, and how well."""

    tolerance: float
    stationarity: float
    feasibility: float
    complementarity: float
    correction: float  # |λᵀC| / max(1, |J|)
    #: smallest eigenvalue of the reduced Hessian; inf where the constraints leave no direction; nan: not computed
    curvature: float
    #: (positive, negative, zero) eigenvalues of the reduced Hessian; None where only the smallest was computed
    inertia: tuple[int, int, int] | None
    #: smallest singular value of the constraints' Jacobian, over its largest
    regularity: float
    singular: bool  # no multipliers, or not only one choice of them: the Jacobian has not full rank
    worst: str = ""  # the condition furthest from holding, with the name of its variable or constraint
    descent: Floats | None = field(
        default=None, repr=False
    )  # feasible direction along which J falls, if there is one

    @property
    def kkt(self) -> bool:
        """Whether all first-order residuals are below the tolerance; nan never is."""
        figures = (self.stationarity, self.feasibility, self.complementarity, self.correction)
        return all(figure <= self.tolerance for figure in figures)

    @property
    def minimum(self) -> bool:
        """First order, regular constraints, and known to have no direction of negative curvature."""
        return self.kkt and not self.singular and self.descent is None and not np.isnan(self.curvature)

    def __str__(self) -> str:
        curvature = "no freedom left" if self.curvature == np.inf else f"curvature {self.curvature:.3g}"
        return (
            f"stationarity {self.stationarity:.1e}, feasibility {self.feasibility:.1e}, "
            f"complementarity {self.complementarity:.1e}, correction {self.correction:.1e} "
            f"(tolerance {self.tolerance:.0e}); {curvature}"
            + (", constraints singular" if self.singular else "")
        )


@dataclass(frozen=True)
class Residuals:
    """The first-order part: cheap, looked at in every iteration."""

    stationarity: float
    feasibility: float
    complementarity: float
    correction: float
    worst: str

    def within(self, tolerance: float) -> bool:
        """Whether all are below the tolerance."""
        figures = (self.stationarity, self.feasibility, self.complementarity, self.correction)
        return all(figure <= tolerance for figure in figures)


def bound_multipliers(problem: Problem, x: Floats, lam: Floats, slack: float = 1e-9) -> Floats:
    """z (N,): what is left of ∇J − Aᵀλ at variables on a bound, where it has the sign of a multiplier."""
    gradient, A = problem.slopes(x)
    return signed_at_bounds(problem, x, gradient - A.T @ lam, slack)


def signed_at_bounds(problem: Problem, x: Floats, rest: Floats, slack: float = 1e-9) -> Floats:
    """The part of `rest` (N,) that multipliers of bounds can take."""
    room = slack * np.maximum(1.0, np.abs(x))
    low, high = x <= problem.lower + room, x >= problem.upper - room
    out: Floats = np.where((low & (rest > 0.0)) | (high & (rest < 0.0)), rest, 0.0)
    return out


def residuals(problem: Problem, x: Floats, lam: Floats, z: Floats, named: bool = False) -> Residuals:
    """The first-order residuals at x."""
    value, C = problem.values(x)
    gradient, A = problem.slopes(x)
    size = np.abs(A)
    rest = np.abs(gradient - A.T @ lam - z) / np.maximum(1.0, np.abs(gradient) + size.T @ np.abs(lam))
    off = np.abs(C) / np.maximum(1.0, size @ np.abs(x))
    over = np.maximum(np.maximum(problem.lower - x, x - problem.upper), 0.0) / np.maximum(1.0, np.abs(x))
    # a multiplier of a bound belongs to a finite bound, and has its sign
    gap = np.where(z > 0.0, x - problem.lower, problem.upper - x)
    with np.errstate(invalid="ignore"):
        slack = np.abs(np.where(z == 0.0, 0.0, z * gap)) / max(1.0, abs(value))
    stationarity = float(rest.max(initial=0.0))
    feasibility = float(max(off.max(initial=0.0), over.max(initial=0.0)))
    complementarity = float(slack.max(initial=0.0))
    correction = float(abs(lam @ C)) / max(1.0, abs(value))
    worst = ""
    if named:
        if not stationarity <= max(feasibility, complementarity):
            worst = f"stationarity by {problem.name(int(np.argmax(rest)))}"
        elif not feasibility <= complementarity:
            worst = (
                f"constraint {problem.constraint_name(int(np.argmax(off)))}"
                if off.max(initial=0.0) >= over.max(initial=0.0)
                else f"the bounds of {problem.name(int(np.argmax(over)))}"
            )
        elif problem.N:
            worst = f"complementarity at the bound of {problem.name(int(np.argmax(slack)))}"
    return Residuals(stationarity, feasibility, complementarity, correction, worst)


def certify(problem: Problem, x: Floats, lam: Floats, z: Floats, tolerance: float) -> Optimality:
    """All conditions at x."""
    with np.errstate(all="ignore"):
        first = residuals(problem, x, lam, z, named=True)
        finite = all(np.isfinite(k) for k in (first.stationarity, first.feasibility, first.correction))
        regularity, singular = _regularity(problem, x, tolerance) if finite else (np.nan, False)
        curvature, inertia, descent = np.nan, None, None
        if finite and not singular:
            curvature, inertia, descent = _curvature(problem, x, lam, z, tolerance)
    return Optimality(
        tolerance, first.stationarity, first.feasibility, first.complementarity, first.correction,
        curvature, inertia, regularity, singular, first.worst, descent,
    )  # fmt: skip


class NullSpace:
    """The projection P onto the null space of a sparse A (M, N), by one LU of [[I, Aᵀ], [A, 0]]. M + N unknowns."""

    def __init__(self, A: sp.csr_array) -> None:
        self.shape = A.shape
        M, N = A.shape
        K = sp.block_array([[sp.eye_array(N), A.T], [A, sp.csr_array((M, M))]], format="csc")
        self._factor = splu(sp.csc_matrix(K))

    def project(self, v: Floats) -> Floats:
        """P v, (N,); once more against rounding."""
        M, N = self.shape
        for _ in range(2):
            v = self._factor.solve(np.concatenate([v, np.zeros(M)]))[:N]
        return v

    def multipliers(self, v: Floats) -> Floats:
        """λ (M,) that minimises ‖v − Aᵀλ‖."""
        M, N = self.shape
        out: Floats = self._factor.solve(np.concatenate([v, np.zeros(M)]))[N:]
        return out

    def inverse_square(self, w: Floats) -> Floats:
        """(A Aᵀ)⁻¹ w, (M,)."""
        N = self.shape[1]
        out: Floats = -self._factor.solve(np.concatenate([np.zeros(N), w]))[N:]
        return out


def _regularity(problem: Problem, x: Floats, tolerance: float) -> tuple[float, bool]:
    """(σ_min / σ_max of A, whether A must count as singular at the solution).

    At a multiple root, as of u² = 0, A never is singular where a method ends, only nearly: σ_min = ‖Aᵀw‖ is then
    no more than what moving x by the √tolerance to which such a root can be known changes, ‖∇²(wᵀC)‖ √tolerance.
    """
    if not problem.M:
        return 1.0, False
    _, A = problem.slopes(x)
    if problem.M > problem.N:
        return 0.0, True
    rows = np.sqrt(np.asarray(A.multiply(A).sum(axis=1)).ravel())
    if not (rows > 0.0).all():
        return 0.0, True
    scaled = sp.csr_array(sp.diags_array(1.0 / rows) @ A)
    try:
        null = NullSpace(scaled)
    except RuntimeError:  # exactly singular
        return 0.0, True
    w = np.cos(np.arange(problem.M) * 1.7 + 0.3)
    for _ in range(6):  # inverse iteration towards the least left singular vector of the scaled rows
        w = w / np.linalg.norm(w)
        w = null.inverse_square(w)
        if not np.isfinite(w).all():
            return 0.0, True
    w = w / np.linalg.norm(w)
    least = float(np.linalg.norm(scaled.T @ w))
    largest = float(np.sqrt(sp.linalg.norm(scaled, 1) * sp.linalg.norm(scaled, np.inf)))
    if least <= 1e-13 * largest:
        return least / largest, True
    # in the given rows: σ_min of A = least · (row norms); the curvature in the same combination of rows
    combination = w / rows
    bend = problem.hessian(x, -combination) - problem.hessian(x, np.zeros(problem.M))
    reach = np.sqrt(tolerance) * np.clip(np.abs(x), 1.0, 100.0)
    return least / largest, bool(least <= (np.abs(bend) @ reach).max(initial=0.0))


def without_multipliers(problem: Problem, x: Floats, lam: Floats, z: Floats, certificate: Optimality) -> bool:
    """Whether a method ended short of a minimum because no multipliers exist: what is active loses its rank there.

    As at the cusp of Hock and Schittkowski's problem 13, where multipliers grow without limit on the way. They must
    have grown, and the Jacobian of constraints and active bounds must be singular within `NEAR` of x: its smallest
    singular value no more than the curvature of those rows changes over that way.
    """
    if certificate.kkt or certificate.singular or not problem.M:
        return False
    gradient, A = problem.slopes(x)
    if not (np.isfinite(A.data).all() and np.isfinite(gradient).all() and np.isfinite(lam).all()):
        return False
    largest = max(float(np.abs(lam).max(initial=0.0)), float(np.abs(z[np.isfinite(z)]).max(initial=0.0)))
    if largest <= GROWN * max(1.0, float(np.abs(gradient).max())):
        return False
    size = NEAR * np.maximum(1.0, np.abs(x))
    at_bound = (x - problem.lower <= size) | (problem.upper - x <= size)
    free = np.flatnonzero(~at_bound)
    if free.size < problem.M:
        return True
    if max(problem.M, free.size) > DENSE:
        return False
    left, values, _ = np.linalg.svd(A[:, free].toarray())
    w = left[:, problem.M - 1]
    bend = problem.hessian(x, -w) - problem.hessian(x, np.zeros(problem.M))
    return bool(values[problem.M - 1] <= (np.abs(bend) @ size)[free].max(initial=0.0))


def off_most(problem: Problem, x: Floats) -> str:
    """The constraint or bound that is violated most, in words."""
    C = np.abs(problem.values(x)[1])
    below, above = problem.lower - x, x - problem.upper
    over = np.maximum(below, above)
    i, j = int(np.argmax(C)) if C.size else -1, int(np.argmax(over)) if over.size else -1
    if j >= 0 and over[j] > (C[i] if i >= 0 else 0.0):
        side = "lower" if below[j] > above[j] else "upper"
        return f"{problem.name(j)} is {over[j]:.3g} beyond its {side} bound"
    return (
        f"constraint {problem.constraint_name(i)} is off by {C[i]:.3g}" if i >= 0 else "no constraint is off"
    )


def _curvature(
    problem: Problem, x: Floats, lam: Floats, z: Floats, tolerance: float
) -> tuple[float, tuple[int, int, int] | None, Floats | None]:
    """(smallest eigenvalue of the reduced Hessian, inertia, a direction of negative curvature or None)."""
    _, A = problem.slopes(x)
    H = problem.hessian(x, lam)
    room = np.sqrt(tolerance) * np.maximum(1.0, np.abs(x))
    at_bound = (x - problem.lower <= room) | (problem.upper - x <= room)
    free = np.flatnonzero(~(at_bound & (np.abs(z) > tolerance)))  # weakly active ones may move
    H, A = H[free][:, free], A[:, free]
    N, M = free.size, problem.M
    largest = float(sp.linalg.norm(H, np.inf)) if H.nnz else 0.0
    limit = np.sqrt(tolerance) * max(1.0, largest)
    if not N:
        return np.inf, (0, 0, 0), None

    def full(v: Floats) -> Floats:
        out = np.zeros(problem.N)
        out[free] = v
        return out

    if DENSE >= N:
        Z: NDArray[np.float64] = scipy.linalg.null_space(A.toarray(), rcond=1e-10) if M else np.eye(N)
        if not Z.shape[1]:
            return np.inf, (0, 0, 0), None
        values, vectors = np.linalg.eigh(Z.T @ (H @ Z))
        inertia = (
            int((values > limit).sum()),
            int((values < -limit).sum()),
            int((np.abs(values) <= limit).sum()),
        )
        if values[0] < -limit:
            return float(values[0]), inertia, full(Z @ vectors[:, 0])
        flat = np.flatnonzero(values <= limit)[:FLAT]
        return (
            float(values[0]),
            inertia,
            _lower(problem, x, [full(Z @ vectors[:, k]) for k in flat], tolerance),
        )
    if M >= N:
        return np.inf, (0, 0, 0), None
    null = NullSpace(sp.csr_array(A))
    # P H P + σ (I − P): the constrained directions get the largest eigenvalue, out of the way of the smallest
    shift = max(largest, 1.0)

    def times(v: Floats) -> Floats:
        inside = null.project(v)
        out: Floats = null.project(H @ inside) + shift * (v - inside)
        return out

    start = null.project(np.cos(np.arange(N) * 1.3 + 0.7))
    least, vector = _smallest(times, N, start)
    if vector is None:
        least, vector = _nearest(H, sp.csr_array(A), limit, start)
    if vector is None:
        return np.nan, None, None
    direction = full(null.project(vector))
    if least < -limit:
        return least, None, direction
    return least, None, _lower(problem, x, [direction] if least <= limit else [], tolerance)


def _smallest(times: Callable[[Floats], Floats], N: int, start: Floats) -> tuple[float, Floats | None]:
    """The smallest eigenvalue and its vector by Lanczos iteration; (nan, None) where that does not converge."""
    try:
        values, vectors = eigsh(
            LinearOperator((N, N), matvec=times, dtype=np.float64),
            k=1, which="SA", v0=start, tol=1e-3, maxiter=400,
        )  # fmt: skip
    except ArpackError:
        return np.nan, None
    return float(values[0]), vectors[:, 0]


def _nearest(H: sp.csr_array, A: sp.csr_array, limit: float, start: Floats) -> tuple[float, Floats | None]:
    """The eigenvalue of the reduced Hessian nearest to −limit, by Lanczos iteration on its inverse; (nan, None) if not
    had.

    A last resort: many eigenvalues close together at the lower end, which stop `_smallest`, lie apart in the inverse.
    Steps d of [[H + limit I, Aᵀ], [A, 0]] are that inverse. Were there an eigenvalue clearly below −limit, apart from
    others, `_smallest` would have found it.
    """
    M, N = A.shape
    try:
        factor = splu(
            sp.csc_matrix(sp.block_array([[H + limit * sp.eye_array(N), A.T], [A, sp.csr_array((M, M))]]))
        )
        values, vectors = eigsh(
            LinearOperator(
                (N, N), matvec=lambda v: factor.solve(np.concatenate([v, np.zeros(M)]))[:N], dtype=np.float64
            ),
            k=1, which="LM", v0=start, tol=1e-3, maxiter=400,
        )  # fmt: skip
    except (ArpackError, RuntimeError):
        return np.nan, None
    return (1.0 / float(values[0]) - limit, vectors[:, 0]) if values[0] != 0.0 else (np.nan, None)


def _lower(problem: Problem, x: Floats, flat: Sequence[Floats], tolerance: float) -> Floats | None:
    """One of the directions `flat`, either way, in which J falls by more than the tolerance explains; or None."""
    here = restored(problem, x)
    if here is None:
        return None
    value = problem.values(here)[0]
    margin = 10.0 * tolerance * max(1.0, abs(value))
    size = max(1.0, float(np.abs(x).max(initial=0.0)))
    for direction in flat:
        unit = direction / np.abs(direction).max()
        for t in (1e-3, 1e-2, 1e-1):
            for way in (unit, -unit):
                there = restored(problem, np.clip(here + t * size * way, problem.lower, problem.upper))
                if there is not None and problem.values(there)[0] < value - margin:
                    return way
    return None


def restored(problem: Problem, x: Floats, close: float = 1e-8) -> Floats | None:
    """A point that meets the constraints to `close`, by shortest Newton steps from x; None where these fail."""
    nothing, none = np.zeros(problem.N), np.zeros(problem.M)
    for _ in range(60):  # far out Newton steps on a square only halve the way
        _, C = problem.values(x)
        if not np.isfinite(C).all():
            return None
        if residuals(problem, x, none, nothing).feasibility <= close:
            return x
        _, A = problem.slopes(x)
        try:
            step = A.T @ NullSpace(A).inverse_square(C)
        except RuntimeError:
            return None
        if not np.isfinite(step).all():
            return None
        x = np.clip(x - step, problem.lower, problem.upper)
    return None
