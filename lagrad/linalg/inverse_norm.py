"""The 1-norm of an inverse that is only known by what it does to vectors (Hager 1984, Higham 1988, as LAPACK's xLACON).

Takes the solves with a matrix and with its transpose. Gives an estimate, a lower bound that is rarely far below. Knows
no factors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS = 5
"""Most iterations of the estimator; it rarely takes more than two (Higham 1988)."""


def inverse_norm(r: Floats, c: Floats, solve: Callable[[Floats, bool], Floats]) -> float:
    """Estimated ‖(R A C)⁻¹‖₁ for row scales r (n,) and column scales c (n,), in about five solves.

    solve(b, transpose) gives A⁻¹ b, or A⁻ᵀ b.
    """
    # Maximise the convex function ‖(R A C)⁻¹ x‖₁ over ‖x‖₁ = 1, where (R A C)⁻¹ = C⁻¹ A⁻¹ R⁻¹. Its gradient
    # is z, and a vertex ±e_j of the ball with |z_j| > zᵀx is better than x. The start is the centre of a
    # face.
    n = r.size
    x = np.full(n, 1.0 / n)
    estimate, vertex = 0.0, -1
    for step in range(STEPS):
        y = solve(x / r, False) / c
        total = float(np.abs(y).sum())
        if step > 0 and total <= estimate:
            break
        estimate = total
        z = solve(np.where(y >= 0.0, 1.0, -1.0) / c, True) / r
        best = int(np.argmax(np.abs(z)))
        # not z @ x: on long vectors BLAS wakes its threads, which takes longer than the product
        if abs(z[best]) <= float((z * x).sum()) or best == vertex:
            break
        vertex = best
        x = np.zeros(n)
        x[best] = 1.0
    # A vector of alternating signs catches most matrices on which the ascent stops early (Higham 1988).
    alternating = np.where(np.arange(n) % 2 == 0, 1.0, -1.0) * (1.0 + np.arange(n) / max(n - 1, 1))
    return max(estimate, 2.0 * float(np.abs(solve(alternating / r, False) / c).sum()) / (3.0 * n))


SURE = 1e3
"""How far above what two solves show the norm is taken to be where nothing more is asked: see `norm_bound`."""


def norm_bound(r: Floats, c: Floats, solve: Callable[[Floats, bool], Floats]) -> float:
    """A number that ‖(R A C)⁻¹‖₁ is below, from two solves; in most cases far below.

    The first gradient of the ascent above, from a point x of random signs: z = Bᵀ sign(B x) for the inverse B, none of
    whose entries exceeds ‖B‖₁. If B is large it is so by few directions, σ u vᵀ. B x shows them unless v x is as small
    as the rest of B is beside σ; then z has an entry of about σ ‖u‖₁ ‖v‖∞, that norm itself. If it does not show them,
    its signs are without relation to u, and z shows them unless their sum is small too. Entries of x are between a half
    and one, because two of the same size could cancel exactly.
    """
    n = r.size
    random = np.random.default_rng(6)  # fixed: what is refused is the same every time
    x = random.uniform(0.5, 1.0, n) * random.choice([-1.0, 1.0], n)
    y = solve(x / r, False) / c
    z = solve(np.where(y >= 0.0, 1.0, -1.0) / c, True) / r
    bound = SURE * float(np.abs(z).max(initial=0.0))
    return bound if np.isfinite(bound) else np.inf
