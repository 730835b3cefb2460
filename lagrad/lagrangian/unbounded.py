"""Whether an objective falls without bound: a ray of points that meet the constraints, along which it keeps falling.

Takes a `Problem` and a point, gives a yes only with such a ray in hand. Methods whose steps are short would need
billions of them to get there, and one that has got far down may yet be on its way to a minimum: both ask here.

    d minimises ∇J·d + dᵀ(∇²L + εI)d/2 with A d = 0 where no bound stands: for a small ε along what has no curvature,
    for a large one along −∇J;
    J(x + t d) <= J(x) + SHARE t ∇J·d   for t = 1, 10, 100, … FAR, in units of x, every point first made feasible,
    or falls from each of these to the next that are at least KEPT of the fall before, as those of −log x are
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lagrad.lagrangian.newton import solve_kkt
from lagrad.lagrangian.optimality import NullSpace, restored
from lagrad.lagrangian.problem import Floats, Problem

FAR = 1e12  # sizes of x that the ray is followed
SHARE = 1e-2  # of the fall that its first slope promises
KEPT = 0.9  # of the fall over ten times the way, where it is slow: what ends, as 1/x and e⁻ˣ do, keeps a tenth or less
DIVERGED = 1e12  # an objective that much below where it started, in its size there: time to ask
FALLEN = 1e20  # and that much below, no ray is asked for: it may fall towards a pole


def unbounded(problem: Problem, x: Floats, value: float, first: float) -> bool:
    """Whether J has fallen from `first` so far (or less, but x so far out) that there is no minimum, by the ray."""
    size, reach = max(1.0, abs(first)), float(np.abs(x).max(initial=0.0))
    if value < -FALLEN * size:
        return True
    down = value < -DIVERGED * size or (value < -1e-4 * DIVERGED * size and reach > 1e-4 * DIVERGED)
    return down and falls_forever(problem, x)


def falls_forever(problem: Problem, x: Floats) -> bool:
    """Whether there is a ray, from the feasible point next to x, along which J falls as far as numbers go."""
    with np.errstate(all="ignore"):
        here = restored(problem, np.clip(x, problem.lower, problem.upper))
        if here is None:
            return False
        value = problem.values(here)[0]
        gradient, A = problem.slopes(here)
        return any(
            _falls(problem, here, value, gradient, _direction(problem, here, gradient, A, size))
            for size in (1e-8, 1e8)
        )


def _falls(problem: Problem, x: Floats, value: float, gradient: Floats, d: Floats) -> bool:
    """Whether J falls from `value` as far as numbers go along d."""
    slope = float(gradient @ d)
    if not (np.isfinite(value) and slope < -1e-9 * max(1.0, float(np.abs(gradient).max(initial=0.0)))):
        return False
    size, t = max(1.0, float(np.abs(x).max())), 1.0
    in_proportion, lasting, above, fall = True, True, value, 0.0
    while t <= FAR and (in_proportion or lasting):
        far = restored(problem, x + t * size * d)
        if far is None:
            return False
        below = problem.values(far)[0]
        if below == -np.inf:
            return True
        in_proportion = in_proportion and below <= value + SHARE * t * size * slope
        lasting = lasting and above - below > 1e-9 * max(1.0, abs(value)) and above - below >= KEPT * fall
        above, fall, t = below, above - below, 10.0 * t
    return in_proportion or lasting


def _direction(problem: Problem, x: Floats, gradient: Floats, A: sp.csr_array, size: float) -> Floats:
    """d, its largest entry 1, for ε = `size` times the largest second derivative; zero where there is none."""
    try:
        lam = NullSpace(A).multipliers(gradient) if problem.M else np.empty(0)
    except RuntimeError:
        return np.zeros(problem.N)
    H = problem.hessian(x, lam)
    shift = size * max(1.0, float(np.abs(H.data).max(initial=0.0)))
    move, none = np.arange(problem.N), np.zeros(problem.M)
    while move.size:
        found = solve_kkt(
            sp.csr_array(H[move][:, move]), sp.csr_array(A[:, move]), gradient[move], none, shift, 0.0
        )
        if found is None:  # more constraints than directions are left
            break
        d = found[0]
        largest = float(np.abs(d).max())
        if not largest > 0.0:
            break
        d = np.where(np.abs(d) > 1e-9 * largest, d / largest, 0.0)
        stopped = ((d < 0.0) & np.isfinite(problem.lower[move])) | (
            (d > 0.0) & np.isfinite(problem.upper[move])
        )
        if not stopped.any():
            out = np.zeros(problem.N)
            out[move] = d
            return out
        move = move[~stopped]
    return np.zeros(problem.N)
