"""Small dense blocks inside compiled sweeps: factor, solve, solve transposed.

Takes blocks packed row by row in one flat array: the n×n block at `offset` has entry (i, j) at offset + i*n +
j. Its pivots stand at piv[at : at + n], local to the block. Gives the factors in the same place. Knows no
sparsity, no names and no tolerance: a zero or non-finite pivot is returned as a status, and what to do about
it is the caller's.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import inlined, internal, kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@inlined
def _subtract(x: Floats, to: int, a: Floats, at: int, count: int, factor: float) -> None:
    """x[to : to + count] −= factor · a[at : at + count]. Unsigned indices need no test for counting from the end, and
    without that the loop vectorises: 0.3 instead of 0.8 ns a number."""
    target, source = np.uint64(to), np.uint64(at)
    for j in range(np.uint64(count)):
        x[target + j] -= factor * a[source + j]


@inlined
def _multiply(x: Floats, to: int, a: Floats, at: int, count: int, factor: float) -> None:
    """x[to : to + count] *= factor · a[at : at + count]; unsigned as in `_subtract`."""
    target, source = np.uint64(to), np.uint64(at)
    for j in range(np.uint64(count)):
        x[target + j] *= factor * a[source + j]


@kernel
def lu_factor(a: Floats, offset: int, n: int, piv: Ints, at: int) -> int:
    """LU with partial pivoting, in place: P A = L U, L unit lower; row k is exchanged with row piv[at + k].

    Returns 0, or k + 1 for the first pivot k that is exactly zero, or −(k + 1) for the first that is not
    finite. The factorization runs to its end all the same; solving with it is then the caller's mistake.
    """
    status = 0
    for k in range(n):
        row = offset + k * n
        p = k
        best = abs(a[row + k])
        for i in range(k + 1, n):
            v = abs(a[offset + i * n + k])
            if v > best:
                best = v
                p = i
        piv[at + k] = p
        if p != k:
            other = offset + p * n
            for j in range(n):
                v = a[row + j]
                a[row + j] = a[other + j]
                a[other + j] = v
        if status == 0 and not (0.0 < best < math.inf):
            status = k + 1 if best == 0.0 else -(k + 1)
        if best == 0.0:  # the column below is zero too: nothing to eliminate
            continue
        pivot = a[row + k]
        for i in range(k + 1, n):
            below = offset + i * n
            l = a[below + k]
            if l != 0.0:
                l /= pivot
                a[below + k] = l
                _subtract(a, below + k + 1, a, row + k + 1, n - k - 1, l)
    return status


MARKED = 64
"""Rows of the largest block whose entries are marked by the bits of one word per row."""

# index of the only bit b of a word: _PLACE[(b · _SPREAD) >> 58] (Leiserson, Prokop and Randall 1998)
_SPREAD = np.uint64(0x03F79D71B4CB0A89)
_PLACE = np.zeros(64, np.int64)
for _bit in range(64):
    _PLACE[(((1 << _bit) * int(_SPREAD)) & 0xFFFFFFFFFFFFFFFF) >> 58] = _bit


@inlined
def _lowest(word: int) -> int:
    """The place of the lowest bit of a word that has one."""
    bit = word & (~word + np.uint64(1))
    place: int = _PLACE[(bit * _SPREAD) >> np.uint64(58)]
    return place


@internal
def lu_factor_marked(a: Floats, offset: int, n: int, piv: Ints, at: int, marks: NDArray[np.uint64]) -> int:
    """`lu_factor` of a block of at most MARKED rows: bit j of marks[i] tells whether entry (i, j) may be nonzero.

    marks (n,), of the block before and of its factors after. The same pivots and numbers.
    """
    status = 0
    one = np.uint64(1)
    for k in range(n):
        row = offset + k * n
        bit = one << np.uint64(k)
        p = k
        best = abs(a[row + k])
        for i in range(k + 1, n):
            if marks[i] & bit:
                v = abs(a[offset + i * n + k])
                if v > best:
                    best = v
                    p = i
        piv[at + k] = p
        if p != k:
            other = offset + p * n
            for j in range(n):
                v = a[row + j]
                a[row + j] = a[other + j]
                a[other + j] = v
            mark = marks[k]
            marks[k] = marks[p]
            marks[p] = mark
        if status == 0 and not (0.0 < best < math.inf):
            status = k + 1 if best == 0.0 else -(k + 1)
        if best == 0.0:
            continue
        pivot = a[row + k]
        right = marks[k] & ~((bit - one) | bit)
        for i in range(k + 1, n):
            if marks[i] & bit:
                below = offset + i * n
                l = a[below + k]
                if l != 0.0:
                    l /= pivot
                    a[below + k] = l
                    marks[i] |= right
                    _subtract(a, below + k + 1, a, row + k + 1, n - k - 1, l)
    return status


@internal
def lu_solve_marked(
    a: Floats, offset: int, n: int, piv: Ints, at: int, marks: NDArray[np.uint64], x: Floats, start: int
) -> None:
    """`lu_solve` with the factors and marks of `lu_factor_marked`."""
    one = np.uint64(1)
    for k in range(n):
        p = piv[at + k]
        if p != k:
            v = x[start + k]
            x[start + k] = x[start + p]
            x[start + p] = v
    for i in range(n):
        v = x[start + i]
        word = marks[i] & ((one << np.uint64(i)) - one)
        while word:
            j = _lowest(word)
            word &= word - one
            v -= a[offset + i * n + j] * x[start + j]
        x[start + i] = v
    for i in range(n - 1, -1, -1):
        v = x[start + i]
        bit = one << np.uint64(i)
        word = marks[i] & ~((bit - one) | bit)
        while word:
            j = _lowest(word)
            word &= word - one
            v -= a[offset + i * n + j] * x[start + j]
        x[start + i] = v / a[offset + i * n + i]


@kernel
def unscale(a: Floats, offset: int, n: int, piv: Ints, r: Floats, c: Floats, at: int) -> bool:
    """Factors of the block scaled by r and c -> factors of the block itself, with the same pivots, without
    rounding.

    P (R A C) = L U, and with S the row scales in the order of the pivots, P R = S P:
    P A = (S⁻¹ L S) (S⁻¹ U C⁻¹), where the first factor is unit lower triangular again. False if a pivot has
    left the range of numbers by that.
    """
    for k in range(n):
        p = at + piv[at + k]
        v = r[at + k]
        r[at + k] = r[p]
        r[p] = v
    representable = True
    for j in range(n):
        c[at + j] = 1.0 / c[at + j]  # exact, and back below
    for i in range(n):
        scale = 1.0 / r[at + i]
        _multiply(a, offset + i * n, r, at, i, scale)
        _multiply(a, offset + i * n + i, c, at + i, n - i, scale)
        representable = representable and 0.0 < abs(a[offset + i * n + i]) < math.inf
    for k in range(n - 1, -1, -1):
        p = at + piv[at + k]
        v = r[at + k]
        r[at + k] = r[p]
        r[p] = v
    for j in range(n):
        c[at + j] = 1.0 / c[at + j]
    return representable


@kernel
def lu_solve(a: Floats, offset: int, n: int, piv: Ints, at: int, x: Floats, start: int) -> None:
    """x ← A⁻¹ x for x[start : start + n]: exchange rows, then L from the top, then U from the bottom."""
    for k in range(n):
        p = piv[at + k]
        if p != k:
            v = x[start + k]
            x[start + k] = x[start + p]
            x[start + p] = v
    for i in range(n):
        v = x[start + i]
        for j in range(i):
            v -= a[offset + i * n + j] * x[start + j]
        x[start + i] = v
    for i in range(n - 1, -1, -1):
        v = x[start + i]
        for j in range(i + 1, n):
            v -= a[offset + i * n + j] * x[start + j]
        x[start + i] = v / a[offset + i * n + i]


@kernel
def lu_solve_transposed(a: Floats, offset: int, n: int, piv: Ints, at: int, x: Floats, start: int) -> None:
    """x ← A⁻ᵀ x for x[start : start + n]: Uᵀ from the top, then Lᵀ from the bottom, then exchange back."""
    for i in range(n):
        v = x[start + i] / a[offset + i * n + i]
        x[start + i] = v
        _subtract(x, start + i + 1, a, offset + i * n + i + 1, n - i - 1, v)
    for i in range(n - 1, -1, -1):
        _subtract(x, start, a, offset + i * n, i, x[start + i])
    for k in range(n - 1, -1, -1):
        p = piv[at + k]
        if p != k:
            v = x[start + k]
            x[start + k] = x[start + p]
            x[start + p] = v


@kernel
def lu_solve_many(a: Floats, offset: int, n: int, piv: Ints, at: int, x: Floats, start: int, m: int) -> None:
    """lu_solve on m right-hand sides: row i of the n×m array is x[start + i*m : start + (i + 1)*m]."""
    for k in range(n):
        p = piv[at + k]
        if p != k:
            for t in range(m):
                v = x[start + k * m + t]
                x[start + k * m + t] = x[start + p * m + t]
                x[start + p * m + t] = v
    for i in range(n):
        for j in range(i):
            l = a[offset + i * n + j]
            if l != 0.0:  # factors of a block of few entries are mostly zero
                _subtract(x, start + i * m, x, start + j * m, m, l)
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            u = a[offset + i * n + j]
            if u != 0.0:
                _subtract(x, start + i * m, x, start + j * m, m, u)
        u = a[offset + i * n + i]
        for t in range(m):
            x[start + i * m + t] /= u


@kernel
def lu_solve_transposed_many(
    a: Floats, offset: int, n: int, piv: Ints, at: int, x: Floats, start: int, m: int
) -> None:
    """lu_solve_transposed on m right-hand sides, which stand as in lu_solve_many."""
    for i in range(n):
        u = a[offset + i * n + i]
        for t in range(m):
            x[start + i * m + t] /= u
        for j in range(i + 1, n):
            u = a[offset + i * n + j]
            if u != 0.0:
                _subtract(x, start + j * m, x, start + i * m, m, u)
    for i in range(n - 1, -1, -1):
        for j in range(i):
            l = a[offset + i * n + j]
            if l != 0.0:
                _subtract(x, start + j * m, x, start + i * m, m, l)
    for k in range(n - 1, -1, -1):
        p = piv[at + k]
        if p != k:
            for t in range(m):
                v = x[start + k * m + t]
                x[start + k * m + t] = x[start + p * m + t]
                x[start + p * m + t] = v
