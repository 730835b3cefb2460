"""One large block with the LU of MKL's PARDISO (Schenk and Gärtner 2004), as `lagrad.linalg.sparse` with SuperLU.

Takes what `lagrad.linalg.sparse` takes and gives what it gives, through the package `pypardiso`, which is imported
when the first block is factored. Knows nothing of the blocks around it, and no names.

PARDISO chooses its pivots within supernodes and moves those that are too small away from zero, so that every matrix
comes out with factors: one with a pivot moved counts as singular here. Order, scales and matching depend on the values,
so a refactorization is a factorization. Measured, seconds by PARDISO and by the default's refactorization, two cores:
diffusion on 256² points 1.2, 0.38; on 35³ points 2.6, 9.5. It pays where fill is heavy (`sparse.HEAVY_ENTRIES`).
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.linalg.sparse import NOT_FINITE, REGULAR, ZERO_PIVOT, Counters, Estimated, values

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

PRICE = 40.0
"""Solves that one factorization costs: 81, 34 in two dimensions on 128², 256² points; 70, 40 in three on 25³, 35³."""
MOVED_PIVOTS, FACTOR_ENTRIES = 14, 18  # numbers of PARDISO's parameters, from 1


@dataclass(frozen=True, eq=False)
class PardisoPattern:
    """Pattern of A in CSR."""

    indptr: Ints  # (n + 1,)
    indices: Ints  # (nnz,)
    n: int
    counters: Counters

    @staticmethod
    def analyze(indptr: Ints, indices: Ints, n: int, counters: Counters) -> PardisoPattern:
        """Nothing but a count: PARDISO orders a pattern along with its values."""
        counters.add("analyses")
        return PardisoPattern(indptr, indices, n, counters)

    def factor(self, data: Floats) -> PardisoFactor:
        """Order, match, scale and factor. ModuleNotFoundError where pypardiso is not installed."""
        import scipy.sparse as sp
        from pypardiso import PyPardisoSolver
        from pypardiso.pardiso_wrapper import PyPardisoError

        self.counters.add("factorizations")
        data = values(data)
        if not np.isfinite(data).all():
            return PardisoFactor(self, data, None, NOT_FINITE)
        if not np.diff(self.indptr).all():
            return PardisoFactor(self, data, None, ZERO_PIVOT)
        solver = PyPardisoSolver()
        try:
            solver.factorize(sp.csr_matrix((data, self.indices, self.indptr), shape=(self.n, self.n)))
        except PyPardisoError:
            return PardisoFactor(self, data, None, ZERO_PIVOT)
        status = ZERO_PIVOT if solver.get_iparm(MOVED_PIVOTS) > 0 else REGULAR
        factor = PardisoFactor(self, data, solver, status)
        weakref.finalize(factor, solver.free_memory, True)
        return factor


@dataclass(frozen=True, eq=False)
class PardisoFactor(Estimated):
    """Factors of one matrix, in the library's own memory."""

    pattern: PardisoPattern
    data: Floats  # (nnz,) the values that they are of
    solver: Any
    status: int
    lock: Any = field(default_factory=threading.Lock)  # the solver keeps what it was last asked for

    @property
    def entries(self) -> int:
        return int(self.solver.get_iparm(FACTOR_ENTRIES)) if self.status == REGULAR else len(self.data)

    @property
    def price(self) -> float:
        return PRICE

    def refactor(self, data: Floats) -> PardisoFactor:
        """Factors for other values."""
        return self.pattern.factor(data)

    def solve(self, rhs: Floats, transpose: bool = False) -> Floats:
        """A⁻¹ rhs or A⁻ᵀ rhs, for rhs (n,) or (n, k); all nan where there are no regular factors."""
        import scipy.sparse as sp

        pattern = self.pattern
        pattern.counters.add("solves")
        rhs = values(rhs)
        if self.status != REGULAR or not rhs.size:
            return np.full(rhs.shape, np.nan)
        # the arrays of A in CSR, read as CSC, are its transpose: the solver finds that they are what it factored
        kind = sp.csc_matrix if transpose else sp.csr_matrix
        matrix = kind((self.data, pattern.indices, pattern.indptr), shape=(pattern.n, pattern.n))
        with self.lock:
            x = self.solver.solve(matrix, rhs)
        return np.ascontiguousarray(x).reshape(rhs.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.pattern.factor, (self.data,)
