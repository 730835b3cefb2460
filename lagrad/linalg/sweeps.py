"""The compiled sweeps through a block lower triangular matrix in CSR, and the residual of what they give.

Takes flat arrays, the same in every kernel here:

    ptr (nb + 1,)      rows of block b are ptr[b] .. ptr[b + 1] − 1
    indptr (n + 1,), indices (nnz,), data (nnz,)   the matrix
    split (n,)         the first entry of each row that is inside its own diagonal block
    packed (nb + 1,)   a block that is not large has its factors at lu[packed[b]], by rows (1×1: itself)
    piv (n,)           pivots of small blocks
    x (n·m,)           n rows of m right-hand sides

Gives its results in place. Knows no large blocks: a sweep runs between two of them.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import inlined, internal, kernel
from lagrad.linalg.dense import (
    lu_factor,
    lu_solve,
    lu_solve_many,
    lu_solve_transposed,
    lu_solve_transposed_many,
    unscale,
)
from lagrad.linalg.scales import balance
from lagrad.linalg.sparse import NOT_FINITE, REGULAR, ZERO_PIVOT

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

EPS = 2.0**-52


@kernel
def factor_small(
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
) -> None:
    """Gather, equilibrate and factor every block that is not large: lu, piv, r, c, and status (nb,).

    Factors that are not regular become nan, or else a division by an infinite pivot would give a plausible 0.
    """
    for b in range(len(ptr) - 1):
        at = packed[b]
        if packed[b + 1] == at:
            continue
        lo = np.int64(ptr[b])
        n = np.int64(ptr[b + 1]) - lo
        r[lo] = 1.0
        c[lo] = 1.0
        if n > 1:
            balance(lo, n, indptr, indices, data, r, c, lo, lu, at)
        for s in range(at, packed[b + 1]):
            lu[s] = 0.0
        check = 0.0  # stays zero if and only if every entry is finite
        for k in range(n):
            for s in range(split[lo + k], indptr[lo + k + 1]):
                j = indices[s] - lo
                lu[at + k * n + j] = data[s] * (r[lo + k] * c[lo + j])
                check += 0.0 * data[s]
        failed = lu[at] == 0.0
        if n > 1:
            failed = lu_factor(lu, at, n, piv, lo) != 0 or not unscale(lu, at, n, piv, r, c, lo)
        if check != 0.0:
            status[b] = NOT_FINITE
        elif failed:
            status[b] = ZERO_PIVOT
        else:
            status[b] = REGULAR
            continue
        for s in range(at, packed[b + 1]):
            lu[s] = math.nan


@kernel
def subtract_earlier(
    lo: int, hi: int, m: int, indptr: Ints, split: Ints, indices: Ints, data: Floats, x: Floats
) -> None:
    """x_k −= Σ a_kj x_j over the columns j of earlier blocks, for rows lo .. hi − 1 of one block."""
    for k in range(lo, hi):
        if m == 1:
            v = x[k]
            for s in range(indptr[k], split[k]):
                v -= data[s] * x[indices[s]]
            x[k] = v
        else:
            for s in range(indptr[k], split[k]):
                a = data[s]
                j = indices[s] * m
                for t in range(m):
                    x[k * m + t] -= a * x[j + t]


@kernel
def subtract_from_earlier(
    lo: int, hi: int, m: int, indptr: Ints, split: Ints, indices: Ints, data: Floats, x: Floats
) -> None:
    """x_j −= Σ a_kj x_k over the columns j of earlier blocks, for rows k = lo .. hi − 1 of one block."""
    for k in range(lo, hi):
        if m == 1:
            v = x[k]
            for s in range(indptr[k], split[k]):
                x[indices[s]] -= data[s] * v
        else:
            for s in range(indptr[k], split[k]):
                a = data[s]
                j = indices[s] * m
                for t in range(m):
                    x[j + t] -= a * x[k * m + t]


@kernel
def sweep_forward(
    first: int,
    last: int,
    m: int,
    ptr: Ints,
    indptr: Ints,
    split: Ints,
    indices: Ints,
    data: Floats,
    packed: Longs,
    lu: Floats,
    piv: Ints,
    x: Floats,
) -> None:
    """Blocks first .. last − 1 in order, none of them large: subtract earlier blocks, solve the block."""
    for b in range(first, last):
        lo = np.int64(ptr[b])
        hi = np.int64(ptr[b + 1])
        subtract_earlier(lo, hi, m, indptr, split, indices, data, x)
        if hi - lo == 1:
            for t in range(m):
                x[lo * m + t] /= lu[packed[b]]
        elif m == 1:
            lu_solve(lu, packed[b], hi - lo, piv, lo, x, lo)
        else:
            lu_solve_many(lu, packed[b], hi - lo, piv, lo, x, lo * m, m)


@internal
def _nothing(x: Floats, start: int, stop: int) -> bool:
    """Whether x[start:stop] is all zeros."""
    for i in range(start, stop):
        if x[i] != 0.0:  # nan is something
            return False
    return True


@kernel
def sweep_transposed(
    first: int,
    last: int,
    m: int,
    ptr: Ints,
    indptr: Ints,
    split: Ints,
    indices: Ints,
    data: Floats,
    packed: Longs,
    lu: Floats,
    piv: Ints,
    x: Floats,
) -> None:
    """Blocks last − 1 .. first, none of them large: solve the block, subtract from earlier blocks.

    A block whose right-hand sides are zero takes no part: what does not pass through a singular block has its
    solution. The forward sweep has no such case, as its every block is determined by those before.
    """
    for b in range(last - 1, first - 1, -1):
        lo = np.int64(ptr[b])
        hi = np.int64(ptr[b + 1])
        if _nothing(x, lo * m, hi * m):
            continue
        if hi - lo == 1:
            for t in range(m):
                x[lo * m + t] /= lu[packed[b]]
        elif m == 1:
            lu_solve_transposed(lu, packed[b], hi - lo, piv, lo, x, lo)
        else:
            lu_solve_transposed_many(lu, packed[b], hi - lo, piv, lo, x, lo * m, m)
        subtract_from_earlier(lo, hi, m, indptr, split, indices, data, x)


@kernel
def residual_rows(
    lo: int,
    hi: int,
    m: int,
    start: Ints,
    indptr: Ints,
    split: Ints,
    indices: Ints,
    data: Floats,
    transpose: bool,
    b: Floats,
    x: Floats,
    residual: Floats,
    size: Floats,
    largest: Floats,
) -> None:
    """In rows lo .. hi − 1: residual = b − A x and size = |A||x| + |b| (n·m,), or with Aᵀ in place of A.

    Entries start[k] .. indptr[k + 1] − 1 of row k take part: start = indptr for the whole matrix, start =
    split for the rows of one block taken alone. largest (n,): largest entry, inside its block, of each row of
    A or of Aᵀ.
    """
    for k in range(lo, hi):
        largest[k] = 0.0
        for t in range(m):
            residual[k * m + t] = b[k * m + t]
            size[k * m + t] = abs(b[k * m + t])
    if m == 1 and transpose:
        for k in range(lo, hi):
            x0 = x[k]
            for s in range(start[k], split[k]):
                i = indices[s]
                v = data[s] * x0
                residual[i] -= v
                size[i] += abs(v)
            for s in range(max(start[k], split[k]), indptr[k + 1]):
                i = indices[s]
                a = data[s]
                v = a * x0
                residual[i] -= v
                size[i] += abs(v)
                largest[i] = max(largest[i], abs(a))
        return
    if m == 1:
        for k in range(lo, hi):
            r0 = residual[k]
            z0 = size[k]
            g = 0.0
            for s in range(start[k], split[k]):
                v = data[s] * x[indices[s]]
                r0 -= v
                z0 += abs(v)
            for s in range(max(start[k], split[k]), indptr[k + 1]):
                a = data[s]
                v = a * x[indices[s]]
                r0 -= v
                z0 += abs(v)
                g = max(g, abs(a))
            residual[k] = r0
            size[k] = z0
            largest[k] = g
        return
    for k in range(lo, hi):
        for s in range(max(start[k], split[k]), indptr[k + 1]):
            i = indices[s] if transpose else k
            largest[i] = max(largest[i], abs(data[s]))
    for k in range(lo, hi):
        for s in range(start[k], indptr[k + 1]):
            a = data[s]
            # the row of the residual, and the unknown that this entry multiplies
            i = (indices[s] if transpose else k) * m
            j = (k if transpose else indices[s]) * m
            for t in range(m):
                v = a * x[j + t]
                residual[i + t] -= v
                size[i + t] += abs(v)


@kernel
def backward_error(
    first: int,
    last: int,
    m: int,
    ptr: Ints,
    x: Floats,
    residual: Floats,
    size: Floats,
    largest: Floats,
    block: Floats,
    column: Floats,
) -> None:
    """max |residual| / size over each of blocks first .. last − 1, and over each column; inf stands for nan.

    A size below 1000 n eps · largest · max|x| is rounding of larger numbers; see `Residuals`.
    Writes block (nb,); column (m,) keeps the larger of what it holds and what is found.
    """
    for b in range(first, last):
        block[b] = 0.0
        lo = np.int64(ptr[b])
        hi = np.int64(ptr[b + 1])
        for t in range(m):
            biggest = 0.0
            if hi - lo > 1:
                for k in range(lo, hi):
                    if abs(x[k * m + t]) > biggest:
                        biggest = abs(x[k * m + t])
            for k in range(lo, hi):
                error = abs(residual[k * m + t])
                scale = size[k * m + t]
                if scale <= 1000.0 * (hi - lo) * EPS * largest[k] * biggest:
                    scale += largest[k] * biggest
                if error != 0.0:
                    error /= scale
                if not error < math.inf:
                    error = math.inf
                if error > block[b]:
                    block[b] = error
                if error > column[t]:
                    column[t] = error


@inlined
def _row_error(residual: float, size: float, own: float, share: float) -> float:
    """|residual| / size; inf for nan. `own`, the largest product of the row, is added to a size below `share` of it."""
    error = abs(residual)
    if size <= share * own:
        size += own
    if error != 0.0:
        error /= size
    return error if error < math.inf else math.inf


@kernel
def backward_errors(
    m: int,
    ptr: Ints,
    indptr: Ints,
    inner_from: Ints,
    inner_to: Ints,
    indices: Ints,
    data: Floats,
    b: Floats,
    x: Floats,
    residual: Floats,
    scratch: Floats,
    block: Floats,
    column: Floats,
) -> None:
    """`residual_rows` and `backward_error` of a whole matrix in one pass that keeps no sizes.

    By rows: for Aᵀ the arrays are those of Aᵀ. Entries inner_from[k] .. inner_to[k] − 1 of row k are inside its block.
    Writes residual (n·m,), block (nb,) and column (m,); scratch (16,). Eight columns go at once, their sums in
    registers (270 000 rows of 5 entries, 8 columns: 57 ms for Aᵀ in two passes, 18 ms so).
    """
    for t in range(m):
        column[t] = 0.0
    for i in range(len(ptr) - 1):
        block[i] = 0.0
        lo = np.int64(ptr[i])
        hi = np.int64(ptr[i + 1])
        share = 1000.0 * (hi - lo) * EPS
        first = 0
        while first < m:
            width = 8 if first + 8 <= m else 1
            for t in range(width):
                scratch[t] = 0.0
            if hi - lo > 1:
                for k in range(lo, hi):
                    for t in range(width):
                        if abs(x[k * m + first + t]) > scratch[t]:
                            scratch[t] = abs(x[k * m + first + t])
            for k in range(lo, hi):
                at = k * m + first
                largest = 0.0
                for s in range(inner_from[k], inner_to[k]):
                    largest = max(largest, abs(data[s]))
                if width == 1:
                    r0 = b[at]
                    z0 = abs(r0)
                    for s in range(indptr[k], indptr[k + 1]):
                        v0 = data[s] * x[np.int64(indices[s]) * m + first]
                        r0 -= v0
                        z0 += abs(v0)
                    residual[at] = r0
                    scratch[8] = z0
                else:
                    r0 = b[at]
                    r1 = b[at + 1]
                    r2 = b[at + 2]
                    r3 = b[at + 3]
                    r4 = b[at + 4]
                    r5 = b[at + 5]
                    r6 = b[at + 6]
                    r7 = b[at + 7]
                    z0 = abs(r0)
                    z1 = abs(r1)
                    z2 = abs(r2)
                    z3 = abs(r3)
                    z4 = abs(r4)
                    z5 = abs(r5)
                    z6 = abs(r6)
                    z7 = abs(r7)
                    for s in range(indptr[k], indptr[k + 1]):
                        a = data[s]
                        j = np.int64(indices[s]) * m + first
                        v0 = a * x[j]
                        v1 = a * x[j + 1]
                        v2 = a * x[j + 2]
                        v3 = a * x[j + 3]
                        v4 = a * x[j + 4]
                        v5 = a * x[j + 5]
                        v6 = a * x[j + 6]
                        v7 = a * x[j + 7]
                        r0 -= v0
                        r1 -= v1
                        r2 -= v2
                        r3 -= v3
                        r4 -= v4
                        r5 -= v5
                        r6 -= v6
                        r7 -= v7
                        z0 += abs(v0)
                        z1 += abs(v1)
                        z2 += abs(v2)
                        z3 += abs(v3)
                        z4 += abs(v4)
                        z5 += abs(v5)
                        z6 += abs(v6)
                        z7 += abs(v7)
                    residual[at] = r0
                    residual[at + 1] = r1
                    residual[at + 2] = r2
                    residual[at + 3] = r3
                    residual[at + 4] = r4
                    residual[at + 5] = r5
                    residual[at + 6] = r6
                    residual[at + 7] = r7
                    scratch[8] = z0
                    scratch[9] = z1
                    scratch[10] = z2
                    scratch[11] = z3
                    scratch[12] = z4
                    scratch[13] = z5
                    scratch[14] = z6
                    scratch[15] = z7
                for t in range(width):
                    error = _row_error(residual[at + t], scratch[8 + t], largest * scratch[t], share)
                    if error > block[i]:
                        block[i] = error
                    if error > column[first + t]:
                        column[first + t] = error
            first += width
