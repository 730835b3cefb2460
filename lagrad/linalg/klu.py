"""One large block with the LU of KLU (Davis and Palamadai Natarajan 2010), as `lagrad.linalg.sparse` with SuperLU.

Takes what `lagrad.linalg.sparse` takes and gives what it gives, through the package `kvxopt`, which is imported
when the first pattern is analyzed. Knows nothing of the blocks around it, and no names.

KLU orders the pattern once and searches for pivots in every factorization, so a refactorization here is a factorization
in the order found before. Measured, ms of thread CPU by KLU and by the default: power flow of 9241 buses, refactor
14.5, 5.8, solve 0.38, 0.34, solution and gradient 160, 90; Bratu on 128² points 37, 20; 3.8, 1.7; 136, 72. Nothing
was found where KLU is the faster, so nothing chooses it but the user: for circuits, which it was made for, and as a
second opinion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.linalg.sparse import NOT_FINITE, REGULAR, ZERO_PIVOT, Counters, Estimated, values

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

PRICE = 25.0
"""Solves that one factorization costs: 38, 20 in power flow of 9241, 2869 buses, 26, 10 in Bratu on 64², 128²."""


@dataclass(frozen=True, eq=False)
class KLUPattern:
    """Pattern of A in CSR, which is that of Aᵀ in CSC: KLU sees Aᵀ."""

    indptr: Ints  # (n + 1,)
    indices: Ints  # (nnz,)
    n: int
    counters: Counters
    matrix: Any  # Aᵀ with the values of nobody
    symbolic: Any  # KLU's order of it

    @staticmethod
    def analyze(indptr: Ints, indices: Ints, n: int, counters: Counters) -> KLUPattern:
        """Order the pattern. ModuleNotFoundError where kvxopt is not installed."""
        import kvxopt
        from kvxopt import klu

        counters.add("analyses")
        columns = np.repeat(np.arange(n), np.diff(indptr))
        ones = kvxopt.matrix(np.ones(len(indices)))
        rows = kvxopt.matrix(indices.astype(np.int64))
        matrix = kvxopt.spmatrix(ones, rows, kvxopt.matrix(columns), (n, n))
        return KLUPattern(indptr, indices, n, counters, matrix, klu.symbolic(matrix))

    def factor(self, data: Floats) -> KLUFactor:
        """Choose pivots in the order of the pattern, and factor."""
        import kvxopt
        from kvxopt import klu

        self.counters.add("factorizations")
        data = values(data)
        if not np.isfinite(data).all():
            return KLUFactor(self, data, None, None, NOT_FINITE)
        matrix = +self.matrix  # a copy: factors are shared, and KLU looks at the matrix again when it solves
        matrix.V = kvxopt.matrix(data)
        try:
            return KLUFactor(self, data, matrix, klu.numeric(matrix, self.symbolic), REGULAR)
        except ArithmeticError:
            return KLUFactor(self, data, None, None, ZERO_PIVOT)

    def __reduce__(self) -> tuple[Any, ...]:  # KLU's own objects cannot be copied
        return KLUPattern.analyze, (self.indptr, self.indices, self.n, self.counters)


@dataclass(frozen=True, eq=False)
class KLUFactor(Estimated):
    """Factors of one matrix."""

    pattern: KLUPattern
    data: Floats  # (nnz,) the values that they are of
    matrix: Any
    numeric: Any
    status: int

    @property
    def entries(self) -> int:
        return 3 * len(
            self.data
        )  # KLU does not say; in power flow L and U have two to three times those of A

    @property
    def price(self) -> float:
        return PRICE

    def refactor(self, data: Floats) -> KLUFactor:
        """Factors for other values, with the order of the pattern."""
        return self.pattern.factor(data)

    def solve(self, rhs: Floats, transpose: bool = False) -> Floats:
        """A⁻¹ rhs or A⁻ᵀ rhs, for rhs (n,) or (n, k); all nan where there are no regular factors."""
        import kvxopt
        from kvxopt import klu

        self.pattern.counters.add("solves")
        if self.status != REGULAR or not rhs.size:
            return np.full(rhs.shape, np.nan)
        x = kvxopt.matrix(values(rhs))
        klu.solve(self.matrix, self.pattern.symbolic, self.numeric, x, trans="N" if transpose else "T")
        return np.ascontiguousarray(np.array(x, dtype=np.float64).reshape(rhs.shape))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.pattern.factor, (self.data,)
