"""The triangular solves with one sparse LU, and their twins with its transpose.

Takes the factors of `lagrad.linalg.sparse`, columns of L and U in pivot order with the scales around them, and flat
arrays of right-hand sides; gives solutions. Knows no pivoting and no pattern beyond the columns.
"""

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@kernel
def common_rows(n: int, lp: Ints, li: Ints, group_end: Ints) -> None:
    """group_end (n,) of the columns of L: column k + 1 joins column k if k's rows are k + 1 and then its own."""
    for k in range(n - 1, -1, -1):
        group_end[k] = k + 1
        if k + 1 < n and lp[k + 1] - lp[k] == lp[k + 2] - lp[k + 1] + 1 and li[lp[k]] == k + 1:
            alike = True
            for q in range(lp[k + 2] - lp[k + 1]):
                alike = alike and li[lp[k] + 1 + q] == li[lp[k + 1] + q]
            if alike:
                group_end[k] = group_end[k + 1]


@kernel
def solve_columns(
    n: int,
    m: int,
    r: Floats,
    c: Floats,
    constraint: Ints,
    position: Ints,
    lp: Ints,
    li: Ints,
    lx: Floats,
    up: Ints,
    ui: Ints,
    ux: Floats,
    d: Floats,
    group_end: Ints,
    w: Floats,
    b: Floats,
    x: Floats,
) -> None:
    """A x = b, from Pr (R A C)ᵀ Pc = L U: Uᵀ from the first column on, then Lᵀ from the last.

    b and x are n×m by rows; w is scratch, n for one column, else 8 n: columns go through in panels of 8, whose
    numbers stay in the cache and, one row at a time, in registers (grid of 9241 buses, 200 columns, per column:
    0.30 ms in one go, 0.13 ms in panels). For one column, sums of its own are kept for four columns of L that share
    their rows, and for every fourth entry of a long column of U: one sum waits for itself at every entry (that grid:
    0.43 ms so, 0.37 ms in fours; Bratu on 256² points, limited by memory: 8.1 and 7.9 ms).
    """
    if m == 1:
        for k in range(n):
            i = constraint[k]
            w[k] = r[i] * b[i]
        for j in range(n):
            v = w[j]
            q = up[j]
            if up[j + 1] - q >= 8:
                s1 = 0.0
                s2 = 0.0
                s3 = 0.0
                while q + 3 < up[j + 1]:
                    v -= ux[q] * w[ui[q]]
                    s1 += ux[q + 1] * w[ui[q + 1]]
                    s2 += ux[q + 2] * w[ui[q + 2]]
                    s3 += ux[q + 3] * w[ui[q + 3]]
                    q += 4
                v = (v - s1) - (s2 + s3)
            while q < up[j + 1]:
                v -= ux[q] * w[ui[q]]
                q += 1
            w[j] = v / d[j]
        j = n - 1
        while j >= 0:
            k = j - 3
            if k >= 0 and group_end[k] > j:
                q0 = lp[k]
                q1 = lp[k + 1]
                q2 = lp[k + 2]
                q3 = lp[j]
                s0 = 0.0
                s1 = 0.0
                s2 = 0.0
                s3 = 0.0
                for q in range(lp[j + 1] - q3):
                    v = w[li[q3 + q]]
                    s0 += lx[q0 + 3 + q] * v
                    s1 += lx[q1 + 2 + q] * v
                    s2 += lx[q2 + 1 + q] * v
                    s3 += lx[q3 + q] * v
                v3 = w[j] - s3
                v2 = w[j - 1] - s2 - lx[q2] * v3
                v1 = w[j - 2] - s1 - lx[q1 + 1] * v3 - lx[q1] * v2
                w[k] = w[k] - s0 - lx[q0 + 2] * v3 - lx[q0 + 1] * v2 - lx[q0] * v1
                w[j - 2] = v1
                w[j - 1] = v2
                w[j] = v3
                j -= 4
            else:
                v = w[j]
                for q in range(lp[j], lp[j + 1]):
                    v -= lx[q] * w[li[q]]
                w[j] = v
                j -= 1
        for i in range(n):
            x[i] = c[i] * w[position[i]]
        return
    for p in range(0, m, 8):
        h = min(8, m - p)
        for k in range(n):
            i = constraint[k]
            for t in range(h):
                w[k * 8 + t] = r[i] * b[i * m + p + t]
            for t in range(h, 8):
                w[k * 8 + t] = 0.0
        for j in range(n):
            at = j * 8
            v0 = w[at]
            v1 = w[at + 1]
            v2 = w[at + 2]
            v3 = w[at + 3]
            v4 = w[at + 4]
            v5 = w[at + 5]
            v6 = w[at + 6]
            v7 = w[at + 7]
            for q in range(up[j], up[j + 1]):
                a = ux[q]
                k = ui[q] * 8
                v0 -= a * w[k]
                v1 -= a * w[k + 1]
                v2 -= a * w[k + 2]
                v3 -= a * w[k + 3]
                v4 -= a * w[k + 4]
                v5 -= a * w[k + 5]
                v6 -= a * w[k + 6]
                v7 -= a * w[k + 7]
            e = d[j]
            w[at] = v0 / e
            w[at + 1] = v1 / e
            w[at + 2] = v2 / e
            w[at + 3] = v3 / e
            w[at + 4] = v4 / e
            w[at + 5] = v5 / e
            w[at + 6] = v6 / e
            w[at + 7] = v7 / e
        for j in range(n - 1, -1, -1):
            at = j * 8
            v0 = w[at]
            v1 = w[at + 1]
            v2 = w[at + 2]
            v3 = w[at + 3]
            v4 = w[at + 4]
            v5 = w[at + 5]
            v6 = w[at + 6]
            v7 = w[at + 7]
            for q in range(lp[j], lp[j + 1]):
                a = lx[q]
                k = li[q] * 8
                v0 -= a * w[k]
                v1 -= a * w[k + 1]
                v2 -= a * w[k + 2]
                v3 -= a * w[k + 3]
                v4 -= a * w[k + 4]
                v5 -= a * w[k + 5]
                v6 -= a * w[k + 6]
                v7 -= a * w[k + 7]
            w[at] = v0
            w[at + 1] = v1
            w[at + 2] = v2
            w[at + 3] = v3
            w[at + 4] = v4
            w[at + 5] = v5
            w[at + 6] = v6
            w[at + 7] = v7
        for i in range(n):
            k = position[i] * 8
            for t in range(h):
                x[i * m + p + t] = c[i] * w[k + t]


@kernel
def solve_columns_transposed(
    n: int,
    m: int,
    r: Floats,
    c: Floats,
    constraint: Ints,
    position: Ints,
    lp: Ints,
    li: Ints,
    lx: Floats,
    up: Ints,
    ui: Ints,
    ux: Floats,
    d: Floats,
    group_end: Ints,
    rp: Ints,
    rj: Ints,
    rx: Floats,
    w: Floats,
    b: Floats,
    x: Floats,
) -> None:
    """Aᵀ x = b, from Pr (R A C)ᵀ Pc = L U: L from the first column on, then U from the last.

    b and x are n×m by rows; w is scratch, n for one column, else 8 n; panels, and columns by four, as in
    `solve_columns` (Bratu on 256² points: 10.2 ms one by one, 7.5 ms by four). rp (n + 1,), rj, rx: U above its
    diagonal by rows, for panels only, whose sums then stay in registers (grid of 70 000 buses, a panel: 15 ms by
    columns, 8.5 by rows). A column of L with which nothing is to be done is passed over, which is most of them where
    a right-hand side has one entry (that grid: 8 ms for all columns, 2 ms for the 2 000 that eight such entries reach).
    """
    if m == 1:
        for i in range(n):
            w[position[i]] = c[i] * b[i]
        j = 0
        while j < n:
            if group_end[j] >= j + 4:
                q0 = lp[j]
                q1 = lp[j + 1]
                q2 = lp[j + 2]
                q3 = lp[j + 3]
                v0 = w[j]
                v1 = w[j + 1] - lx[q0] * v0
                v2 = w[j + 2] - lx[q0 + 1] * v0 - lx[q1] * v1
                v3 = w[j + 3] - lx[q0 + 2] * v0 - lx[q1 + 1] * v1 - lx[q2] * v2
                w[j + 1] = v1
                w[j + 2] = v2
                w[j + 3] = v3
                if not v0 == v1 == v2 == v3 == 0.0:  # nan is something
                    for q in range(lp[j + 4] - q3):
                        w[li[q3 + q]] -= (
                            lx[q0 + 3 + q] * v0 + lx[q1 + 2 + q] * v1 + lx[q2 + 1 + q] * v2 + lx[q3 + q] * v3
                        )
                j += 4
            else:
                v = w[j]
                if v != 0.0:
                    for q in range(lp[j], lp[j + 1]):
                        w[li[q]] -= lx[q] * v
                j += 1
        for j in range(n - 1, -1, -1):
            v = w[j] / d[j]
            w[j] = v
            for q in range(up[j], up[j + 1]):
                w[ui[q]] -= ux[q] * v
        for k in range(n):
            i = constraint[k]
            x[i] = r[i] * w[k]
        return
    for p in range(0, m, 8):
        h = min(8, m - p)
        for i in range(n):
            k = position[i] * 8
            for t in range(h):
                w[k + t] = c[i] * b[i * m + p + t]
            for t in range(h, 8):
                w[k + t] = 0.0
        for j in range(n):
            at = j * 8
            v0 = w[at]
            v1 = w[at + 1]
            v2 = w[at + 2]
            v3 = w[at + 3]
            v4 = w[at + 4]
            v5 = w[at + 5]
            v6 = w[at + 6]
            v7 = w[at + 7]
            if v0 == v1 == v2 == v3 == v4 == v5 == v6 == v7 == 0.0:
                continue
            for q in range(lp[j], lp[j + 1]):
                a = lx[q]
                k = li[q] * 8
                w[k] -= a * v0
                w[k + 1] -= a * v1
                w[k + 2] -= a * v2
                w[k + 3] -= a * v3
                w[k + 4] -= a * v4
                w[k + 5] -= a * v5
                w[k + 6] -= a * v6
                w[k + 7] -= a * v7
        for j in range(n - 1, -1, -1):
            at = j * 8
            e = d[j]
            v0 = w[at]
            v1 = w[at + 1]
            v2 = w[at + 2]
            v3 = w[at + 3]
            v4 = w[at + 4]
            v5 = w[at + 5]
            v6 = w[at + 6]
            v7 = w[at + 7]
            for q in range(rp[j], rp[j + 1]):
                a = rx[q]
                k = rj[q] * 8
                v0 -= a * w[k]
                v1 -= a * w[k + 1]
                v2 -= a * w[k + 2]
                v3 -= a * w[k + 3]
                v4 -= a * w[k + 4]
                v5 -= a * w[k + 5]
                v6 -= a * w[k + 6]
                v7 -= a * w[k + 7]
            w[at] = v0 / e
            w[at + 1] = v1 / e
            w[at + 2] = v2 / e
            w[at + 3] = v3 / e
            w[at + 4] = v4 / e
            w[at + 5] = v5 / e
            w[at + 6] = v6 / e
            w[at + 7] = v7 / e
        for k in range(n):
            i = constraint[k]
            for t in range(h):
                x[i * m + p + t] = r[i] * w[k * 8 + t]
