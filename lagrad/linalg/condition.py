"""How near to singular each block is, and which rows and columns make it so.

Takes the values of a block and its factors; gives estimates of 1/cond in the 1-norm (Hager 1984, Higham 1988,
as in LAPACK's xLACON) and approximate null vectors. Knows no blocks around it, and no names.

Every estimate is of the block *equilibrated* by powers of two (rows and columns of magnitudes sum to about
1), so that a constraint in pascals beside one in bars, or a state in millimetres beside one in kilometres,
does not by itself read as ill conditioning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import allocating
from lagrad.linalg.dense import lu_solve_many
from lagrad.linalg.sparse import (
    REGULAR,
    SparseFactor,
    SparsePattern,
    analyze,
    equilibrating_scales,
    largest_column,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

PANEL = 64
"""Columns of a small block's inverse that are computed together: the 50 of a loop of 50 take 6 µs, in panels of 32 they
take 8, one by one 136."""


@allocating
def condition_small(
    ptr: Ints,
    indptr: Ints,
    split: Ints,
    indices: Ints,
    data: Floats,
    packed: Longs,
    lu: Floats,
    piv: Ints,
    r: Floats,
    c: Floats,
    status: NDArray[np.int8],
    rcond: Floats,
) -> None:
    """rcond (nb,) of every block that is not large: 0 if singular or not finite, 1 for other 1×1 blocks.

    Exact but for rounding: the inverse is computed, `PANEL` columns at a time. r and c (n,) are the scales that
    equilibrate; other arrays as in `lagrad.linalg.sweeps`. The factors are of the blocks as they are, and
    (R A C)⁻¹ = C⁻¹ A⁻¹ R⁻¹.
    """
    start = np.int64(0)  # a variable: a literal 0 would compile lu_solve_many a second time
    widest = 1
    for b in range(len(ptr) - 1):
        if packed[b + 1] > packed[b]:
            widest = max(widest, int(ptr[b + 1] - ptr[b]))
    x, sums = np.empty(widest * min(widest, PANEL)), np.empty(PANEL)
    for b in range(len(ptr) - 1):
        at = packed[b]
        if packed[b + 1] == at:
            continue
        lo = np.int64(ptr[b])
        n = np.int64(ptr[b + 1]) - lo
        rcond[b] = 1.0 if status[b] == REGULAR else 0.0
        if n == 1 or status[b] != REGULAR:
            continue
        for i in range(n):
            x[i] = 0.0
        for k in range(lo, lo + n):
            for s in range(split[k], indptr[k + 1]):
                x[indices[s] - lo] += abs(data[s]) * r[k] * c[indices[s]]
        norm = 0.0
        for i in range(n):
            norm = max(norm, x[i])
        inverse = 0.0
        for first in range(0, n, PANEL):
            m = PANEL if n - first > PANEL else int(n) - first
            for i in range(n * m):
                x[i] = 0.0
            for t in range(m):
                x[(first + t) * m + t] = 1.0 / r[lo + first + t]
            lu_solve_many(lu, at, n, piv, lo, x, start, m)
            for t in range(m):
                sums[t] = 0.0
            for i in range(n):
                back = 1.0 / c[lo + i]  # exact
                for t in range(m):
                    sums[t] += abs(x[i * m + t]) * back
            for t in range(m):
                inverse = max(inverse, sums[t]) if sums[t] < math.inf else math.inf
        rcond[b] = 1.0 / norm / inverse


def condition_large(pattern: SparsePattern, data: Floats, factor: SparseFactor, bound: bool = False) -> float:
    """rcond of one large block from its values and its factor; 0 if it is singular. `bound`: a number it is above.

    With the factor of a nearby matrix it is the nearby inverse that is estimated, once for all that borrow it, and
    under the scales of that matrix.
    """
    if factor.status != REGULAR:
        return 0.0
    r, c, inverse = factor.inverse_bound if bound else factor.inverse
    norm = largest_column(pattern.indptr, pattern.indices, pattern.n, data, r, c)
    with np.errstate(divide="ignore"):
        rcond = float(1.0 / np.float64(norm) / inverse)
    return min(1.0, rcond) if np.isfinite(rcond) else 0.0


@dataclass(frozen=True, eq=False)
class NullVectors:
    """Approximate null vectors of one block A (n×n): A right ≈ 0 and Aᵀ left ≈ 0.

    `states` and `constraints` are the same two vectors for the equilibrated block, largest entry 1 in
    magnitude: there, sizes can be compared across units, so they tell which columns and which rows take part.
    """

    right: Floats
    left: Floats
    states: Floats
    constraints: Floats
    residual: float
    """Larger of max|A states| and max|Aᵀ constraints|, equilibrated: small if nearly singular."""


def null_vectors(indptr: Ints, indices: Ints, n: int, data: Floats, dense: bool) -> NullVectors:
    """Null vectors of an n×n block in CSR; all nan if an entry is not finite.

    A small block (`dense`): the singular vectors of the smallest singular value. A large one: inverse
    iteration with the factor of the block plus a perturbation of all its entries by 1e-13, without which
    there would be no factor.
    """
    import scipy.sparse as sp

    if not np.isfinite(data).all():
        nan = np.full(n, np.nan)
        return NullVectors(nan, nan, nan, nan, np.nan)
    r, c = equilibrating_scales(indptr, indices, n, data)
    matrix = sp.csr_array((data * np.repeat(r, np.diff(indptr)) * c[indices], indices, indptr), shape=(n, n))
    if dense:
        u, _, vt = np.linalg.svd(matrix.toarray())
        states, constraints = vt[-1], u[:, -1]
    else:
        random = np.random.default_rng(0)  # fixed: a diagnosis is the same every time
        factor = analyze(indptr, indices, n).factor(
            matrix.data + 1e-13 * random.uniform(-1.0, 1.0, len(data))
        )
        states, constraints = random.standard_normal(n), random.standard_normal(n)
        for _ in range(3):
            states = factor.solve(states / np.abs(states).max())
            constraints = factor.solve(constraints / np.abs(constraints).max(), transpose=True)
    states = states / states[np.argmax(np.abs(states))]
    constraints = constraints / constraints[np.argmax(np.abs(constraints))]
    residual = max(np.abs(matrix @ states).max(), np.abs(matrix.T @ constraints).max())
    return NullVectors(c * states, r * constraints, states, constraints, float(residual))
