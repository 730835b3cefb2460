"""One Newton step of an equality-constrained quadratic model, and what to do where the model is not convex.

Takes a sparse Hessian W (N, N), a sparse Jacobian A (M, N) and right-hand sides, gives a step and multipliers. Knows
no names and no method: `sqp`, `augmented-lagrangian` and `auxiliary-coordinates` all step with it.

    [W + δI   Aᵀ ] [d]     [−g]
    [A       −γI ] [y]  =  [−c]

by a sparse LU with partial pivoting. No inertia is counted: a step is taken when it shows positive curvature,
dᵀ(W + δI)d >= κ ‖d‖², or descent outright; else δ grows. At a solution where every step has passed, a last look at
the reduced Hessian (`optimality`) tells a minimum from a saddle.
Source: N.-Y. Chiang, V. Zavala, An inertia-free filter line-search algorithm, Comput. Optim. Appl. 64 (2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

Floats = NDArray[np.float64]

FIRST = 1e-4  # δ that is tried first, times the largest entry of W; then from what was last needed
LEAST, MOST = 1e-14, 1e12
CURVED = 1e-9  # κ, times the largest entry of W


@dataclass
class Convexifier:
    """Steps of one method in a row: remembers the δ that was last needed."""

    last: float = 0.0

    def step(
        self, W: sp.csr_array, A: sp.csr_array, g: Floats, c: Floats, gamma: float = 0.0
    ) -> tuple[Floats, Floats, float] | None:
        """(d, y, δ); None where no δ gives a finite step. `gamma` > 0 where A may be short of rank, or as a penalty."""
        size = max(1.0, float(np.abs(W.data).max(initial=0.0)))
        delta = 0.0
        while True:
            found = solve_kkt(W, A, g, c, delta, gamma)
            if found is not None:
                d, y = found
                curvature = float(d @ (W @ d)) + delta * float(d @ d)
                if gamma > 0.0:
                    Ad = A @ d
                    curvature += float(Ad @ Ad) / gamma
                else:
                    curvature += max(-float(y @ c), 0.0)
                if curvature >= CURVED * size * float(d @ d):
                    if delta > 0.0:
                        self.last = delta
                    return d, y, delta
            if delta == 0.0:
                delta = max(LEAST * size, self.last / 3.0) if self.last > 0.0 else FIRST * size
            else:
                delta *= 8.0 if self.last > 0.0 else 100.0
            if delta > MOST * size:
                return None


def solve_kkt(
    W: sp.csr_array, A: sp.csr_array, g: Floats, c: Floats, delta: float, gamma: float
) -> tuple[Floats, Floats] | None:
    """(d, y) of the system above, once refined; None where the matrix is singular."""
    M, N = A.shape
    if not N:
        return np.empty(0), np.zeros(M)
    K = sp.csc_matrix(
        sp.block_array(
            [[W + delta * sp.eye_array(N), A.T], [A, -gamma * sp.eye_array(M)]]
            if M
            else [[W + delta * sp.eye_array(N)]],
            format="csc",
        )
    )
    if not np.isfinite(K.data).all():
        return None
    rhs = -np.concatenate([g, c])
    try:
        factor = splu(K)
    except RuntimeError:  # exactly singular
        return None
    x = factor.solve(rhs)
    with np.errstate(all="ignore"):
        x = x + factor.solve(rhs - K @ x)
        off = np.abs(rhs - K @ x)
        if not (
            np.isfinite(x).all() and (off <= 1e-6 * (np.abs(rhs) + np.abs(K) @ np.abs(x) + 1e-300)).all()
        ):
            return None
    return x[:N], x[N:]
