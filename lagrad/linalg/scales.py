"""Scales that take the units out of a block: powers of two for its rows and columns.

Takes one diagonal block as it stands in a CSR matrix whose rows end with their block's columns. Gives scales; applies
them nowhere. Knows no factors.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import internal, kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

BALANCED = 1.5
"""Rows and columns are balanced when no sum of magnitudes is further than this factor from 1."""

PASSES = 50
"""Most passes of equilibration; a matrix in comparable units needs one or two.

Fifty take units of 10^±6 on rows and on columns out of a sparse 300×300 matrix.
"""

MANTISSA = (1 << 52) - 1  # the bits of a double below its exponent
MIDDLE = 0x6A0902DE00D1B  # those of 1.4142: from there on the next power of two is nearer, as a ratio


@internal
def power_of_two(scale: float) -> float:
    """The power of two nearest to `scale`, which then scales without rounding; 1 for 0, inf and nan.

    The exponent is bounded so that the product of a row scale and a column scale cannot overflow.
    """
    if not (0.0 < scale < math.inf):
        return 1.0
    bits = np.float64(scale).view(np.int64)  # 12 ns less than frexp and ldexp
    exponent: Any = (bits >> 52) - 1023 + ((bits & MANTISSA) >= MIDDLE)
    power: float = np.int64((min(max(exponent, -500), 500) + 1023) << 52).view(np.float64)
    return power


@kernel
def balance(
    lo: int,
    n: int,
    indptr: Ints,
    indices: Ints,
    data: Floats,
    r: Floats,
    c: Floats,
    at: int,
    room: Floats,
    start: int,
) -> None:
    """Scales r[at : at + n], c[at : at + n] such that rows and columns of |r_i a_ij c_j| sum to about 1.

    The block has rows and columns lo .. lo + n − 1 of the matrix; entries before column lo are passed over. Rows and
    columns are scaled in turn (Sinkhorn and Knopp 1967). A strongly connected block with a nonzero diagonal has exactly
    one doubly stochastic scaling, whatever units its rows and columns came in: units go out entirely. Scaling by
    largest entries, the usual choice, leaves much of them in a sparse matrix; scaling by geometric means is misled by
    entries that are only rounding. room[start : start + n]: scratch.
    """
    if n == 2:
        # [a b; c d] becomes [s t; t s] / (s + t) with s² = |a d|, straight, and t² = |b c|, across
        p00, p01, p10, p11 = 0.0, 0.0, 0.0, 0.0
        for e in range(indptr[lo + 1] - 1, indptr[lo] - 1, -1):
            if indices[e] == lo:
                p00 = abs(data[e])
            elif indices[e] == lo + 1:
                p01 = abs(data[e])
        for e in range(indptr[lo + 2] - 1, indptr[lo + 1] - 1, -1):
            if indices[e] == lo:
                p10 = abs(data[e])
            elif indices[e] == lo + 1:
                p11 = abs(data[e])
        straight = math.sqrt(p00) * math.sqrt(p11)
        across = math.sqrt(p01) * math.sqrt(p10)
        if straight > 0.0 and across > 0.0 and straight + across < math.inf:
            r[at] = power_of_two(straight / ((straight + across) * p00))
            r[at + 1] = power_of_two(across / ((straight + across) * p10))
            c[at] = 1.0
            c[at + 1] = power_of_two(across * p00 / (straight * p01))
            return
    for j in range(n):
        c[at + j] = 1.0
    for _ in range(PASSES):
        for j in range(n):
            room[start + j] = 0.0
        for i in range(n):
            total = 0.0
            for s in range(indptr[lo + i + 1] - 1, indptr[lo + i] - 1, -1):
                j = indices[s] - lo
                if j < 0:
                    break
                total += abs(data[s]) * c[at + j]
            scale = 1.0 / total if 0.0 < total < math.inf else 1.0
            r[at + i] = scale
            for s in range(indptr[lo + i + 1] - 1, indptr[lo + i] - 1, -1):
                j = indices[s] - lo
                if j < 0:
                    break
                room[start + j] += scale * abs(data[s])
        balanced = True
        for j in range(n):
            total = room[start + j]
            if 0.0 < total < math.inf:
                now = total * c[at + j]
                balanced = balanced and 1.0 / BALANCED <= now <= BALANCED
                c[at + j] = 1.0 / total
        if balanced:
            break
    for i in range(n):
        r[at + i] = power_of_two(r[at + i])
        c[at + i] = power_of_two(c[at + i])
