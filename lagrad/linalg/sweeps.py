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

from lagrad.kernel import internal, kernel
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
    for k in range(lo, hi):
        for s in range(start[k], indptr[k + 1]):
            a = data[s]
            # the row of the residual, and the unknown that this entry multiplies
            i = indices[s] if transpose else k
            j = k if transpose else indices[s]
            if s >= split[k] and abs(a) > largest[i]:
                largest[i] = abs(a)
            for t in range(m):
                v = a * x[j * m + t]
                residual[i * m + t] -= v
                size[i * m + t] += abs(v)


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
