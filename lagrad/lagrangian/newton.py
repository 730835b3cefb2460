"""One Newton step of an equality-constrained quadratic model, and what to do where the model is not convex.

Takes a sparse Hessian W (N, N), a sparse Jacobian A (M, N) and right-hand sides, gives a step and multipliers. Knows
no names and no method: `sqp`, `augmented-lagrangian` and `auxiliary-coordinates` all step with it.

    [W + δI   Aᵀ ] [d]     [−g]
    [A       −γI ] [y]  =  [−c]

by a sparse LU with partial pivoting. δ grows until the model is convex where it may move. Up to `DENSE` unknowns that
is counted: the matrix has N positive and M negative eigenvalues, no zero one, if and only if W + δI is positive
definite on the null space of A (W + δI + AᵀA/γ everywhere, for γ > 0). SciPy has no sparse LDLᵀ, and SuperLU without
pivoting fills such matrices (16-fold on the 20 100 unknowns of a control problem), so that larger ones are tested along
the step alone: dᵀ(W + δI)d >= κ ‖d‖², or descent of the constraints that pays for it. That the end is no saddle is then
left to the look at the reduced Hessian that every end gets (`optimality`).
Sources: inertia, N. Gould, Math. Program. 32 (1985) 90, and A. Wächter, L. Biegler, Math. Program. 106 (2006) 25; the
test along the step, N.-Y. Chiang, V. Zavala, An inertia-free filter line-search algorithm, Comput. Optim. Appl. 64
(2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

Floats = NDArray[np.float64]

FIRST = 1e-4  # δ that is tried first, times the largest entry of W; then from what was last needed
LEAST, MOST = 1e-14, 1e12
CURVED = 1e-9  # κ, times the largest entry of W
DENSE = 200  # unknowns up to which eigenvalues are counted: a dense LDLᵀ of 200 takes 7 ms


@dataclass
class Convexifier:
    """Steps of one method in a row: remembers the δ that was last needed."""

    last: float = 0.0

    def step(
        self, W: sp.csr_array, A: sp.csr_array, g: Floats, c: Floats, gamma: float = 0.0,
        barrier: Floats | None = None,
    ) -> tuple[Floats, Floats, float] | None:  # fmt: skip
        """(d, y, δ); None where no δ gives a finite step. `gamma` > 0 where A may be short of rank, or as a penalty.

        `barrier` (N,) >= 0 is added to the diagonal of W, and no measure of what curvature is large: next to a bound it
        grows without limit, and what W shows along the bounds would count as none beside it.
        """
        size = max(1.0, float(np.abs(W.data).max(initial=0.0)))
        if barrier is not None:
            W = sp.csr_array(W + sp.diags_array(barrier))
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
                if curvature >= CURVED * size * float(d @ d) and convex(W, A, delta, gamma):
                    if delta > 0.0:
                        self.last = delta
                    return d, y, delta
            if delta == 0.0:
                delta = max(LEAST * size, self.last / 3.0) if self.last > 0.0 else FIRST * size
            else:
                delta *= 8.0 if self.last > 0.0 else 100.0
            if delta > MOST * size:
                return None


def convex(W: sp.csr_array, A: sp.csr_array, delta: float, gamma: float) -> bool:
    """Whether the system above has the N positive and M negative eigenvalues of a convex model; true if too large."""
    M, N = A.shape
    if not 0 < N + M <= DENSE:
        return True
    K = np.zeros((N + M, N + M))
    K[:N, :N] = W.toarray()
    K[N:, :N] = A.toarray()
    K[np.arange(N), np.arange(N)] += delta
    K[np.arange(N, N + M), np.arange(N, N + M)] = -gamma
    _, D, _ = scipy.linalg.ldl(K, lower=True)
    # D has blocks of 1 and 2
    values = scipy.linalg.eigvalsh_tridiagonal(np.diag(D), np.diag(D, -1))
    return int((values > 0.0).sum()) == N and int((values < 0.0).sum()) == M


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
