"""One large block: sparse LU behind four verbs, analyze, factor, refactor, solve.

Takes a square CSR pattern (indptr, indices int32, sorted) and float64 values; gives factors that solve with
the matrix and with its transpose. Knows nothing of the blocks around it, and no names.

    pattern = analyze(indptr, indices, n)      depends on the pattern only
    factor  = pattern.factor(data)             pivots chosen for these values
    factor  = factor.refactor(data)            other values, the same pivots where they still serve
    x       = factor.solve(rhs, transpose)     rhs (n,) or (n, k), all columns in one pass

The default backend takes its order, and pivots off the diagonal, from SuperLU once, and then refactors on a fixed
pattern by the left-looking method of Gilbert and Peierls (1988) with the search left out. Other libraries are in
`lagrad.linalg.backends`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import allocating, kernel
from lagrad.linalg.inverse_norm import inverse_norm, norm_bound
from lagrad.linalg.scales import balance
from lagrad.linalg.triangular import common_rows, solve_columns, solve_columns_transposed

if TYPE_CHECKING:
    import scipy.sparse as sp

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

REGULAR, ZERO_PIVOT, NOT_FINITE = 0, 1, 2  # the status of a factor

SYMMETRY = 0.5
"""Share of entries whose mirror (j, i) is an entry too, from which on minimum degree on A + Aᵀ is used.

Measured, entries of L and U against those of COLAMD: power flow of 9241 buses (share 1.0) 0.24 M, 0.46 M;
convection and diffusion on 100×100 points (1.0) 0.37 M, 0.71 M; its rows shuffled (0.0) 12.9 M, 0.74 M.
"""
DIAGONAL_THRESHOLD = 0.01
"""In the symmetric order a diagonal pivot stays if it is at least this share of its column: less fill."""

DIAGONAL_GROWTH = 1e6
"""Growth up to which pivots on the diagonal are taken in a fresh factorization; else COLAMD and partial pivoting.

SuperLU would leave the diagonal where it must, one pivot after the other, in an order that was made for none. Measured:
the Jacobian of y_i² + 1 = 0.1 (y_i−1 + y_i+1) around 40 000 states at y = 0, whose diagonal is zero, takes it more than
a minute, deaf to limits and to Ctrl-C, and 0.02 s with COLAMD; 200×200 points, coupled to their neighbours by 1 and to
themselves by 2, more than 6 s and 0.15 s. The growth is infinite there; of the power flow of 9241 buses it is 126, of
70 000 buses 5e4.
"""
EXCHANGE = 4.0
"""Two rows change places where that makes the product of their pivots this many times as large.

Measured, growth of the power flow over named currents, of 2869 and of 9241 buses: 1e6 and 3e7 as matched by structure
alone, 11 and 280 for exchanges from 1 on, 41 and 87 from 4 on, 8e4 and 3e5 from 100 on, with the same fill throughout.
"""

GROWTH_LIMIT = 1e8
"""Largest max|l| · max|u| / max|a| with which a refactorization on old pivots is accepted.

The backward error of LU is at most about eps times this number (Higham, Accuracy and Stability, §9.3), and is
in practice far below; at the limit, 2e-8, one or two steps of refinement still reach full accuracy.
"""
HEAVY_FILL = 200
"""Operations per entry of L and U from which on SuperLU's dense supernodes beat the refactorization kernel.

Measured, seconds by kernel and by SuperLU: power flow (13) 0.003, 0.021; convection and diffusion on 256×256
points (124) 0.151, 0.186; on 20×20×20 points (383) 0.212, 0.079.
"""
HEAVY_ENTRIES = 5_000_000
"""Entries of L and U from which on, where fill is heavy, another library's factorization takes over (`heavy`).

Measured, seconds by SuperLU and by PARDISO on two cores: diffusion on 16³ points (0.6 million entries) 0.06, 0.72; on
25³ (4.8) 0.79, 1.03; on 35³ (24) 9.5, 2.6.
"""

NEAR_ONE = 8.0
"""Sums of rows and columns with which a matrix passes as equilibrated. Right after `balance` they are within 3: 1.5 for
`scales.BALANCED`, 2 for the powers of two. The power flows of 2869 and 9241 buses, over named currents, have sums up to
5.7 at the solution by the scales of the reference."""

PRICE = 4.0, 0.18
"""One refactorization costs as many solves as the first figure, and the second times operations per entry of L and U.

Measured, operations per entry and solves: power flow 7.4, 5.4; 13, 6.3; Bratu on 64² to 384² points 36, 13; 66, 14;
123, 24; 175, 35.
"""

_counting = threading.Lock()
_tallies = threading.local()


@dataclass
class Counters:
    """What has been done so far: a diagnostic, and the one thing here that changes after it is made.

    The first five count work on large sparse blocks; a sweep's 1×1 and small blocks are
    always factored anew and not counted. One solve is one call, whatever its number of right-hand sides.
    """

    analyses: int = 0  # patterns of large blocks analyzed
    factorizations: int = 0  # with a search for pivots
    refactorizations: int = 0  # on pivots found earlier
    rejections: int = 0  # refactorizations given up for pivot growth, and replaced by a factorization
    solves: int = 0  # solves with one large block
    sweeps: int = 0  # passes through all blocks
    refinements: int = 0  # steps of iterative refinement, of one large block or of the whole sweep
    evaluations: int = 0  # of all residuals and partials of one large block, or of all other rows
    residuals: int = 0  # of the residuals alone of one large block

    def add(self, name: str) -> None:
        """Count one more, here and in the tallies that the running thread has open."""
        with _counting:
            for counters in (self, *getattr(_tallies, "open", ())):
                setattr(counters, name, getattr(counters, name) + 1)

    def __sub__(self, other: Counters) -> Counters:
        """What was done since `other` was copied."""
        return Counters(**{name: count - getattr(other, name) for name, count in vars(self).items()})

    @staticmethod
    @contextmanager
    def tally() -> Iterator[Counters]:
        """What this thread does, from zero, while the context lasts."""
        outer, counters = getattr(_tallies, "open", ()), Counters()
        _tallies.open = (*outer, counters)
        try:
            yield counters
        finally:
            _tallies.open = outer


class SparseFactor(Protocol):
    """Factors of one matrix. Never changes once made."""

    @property
    def status(self) -> int:
        """REGULAR, ZERO_PIVOT or NOT_FINITE; in the last two cases `solve` gives nan."""

    @property
    def entries(self) -> int:
        """Multiplications of one solve."""

    @property
    def price(self) -> float:
        """Solves with one right-hand side that one `refactor` costs, roughly."""

    @property
    def inverse(self) -> InverseEstimate:
        """The size of the inverse of the matrix that they are of; computed when first read."""

    @property
    def inverse_bound(self) -> InverseEstimate:
        """A number that it is below, which takes fewer solves."""

    def refactor(self, data: Floats) -> SparseFactor:
        """Factors of the matrix with the same pattern and these values."""

    def solve(self, rhs: Floats, transpose: bool = False) -> Floats:
        """A⁻¹ rhs or A⁻ᵀ rhs, for rhs (n,) or (n, k); a new C-contiguous array of the same shape."""


class SparsePattern(Protocol):
    """All that depends on the pattern only."""

    @property
    def indptr(self) -> Ints:
        """(n + 1,) of the matrix in sorted CSR."""

    @property
    def indices(self) -> Ints:
        """(nnz,)"""

    @property
    def n(self) -> int:
        """Rows, and columns."""

    def factor(self, data: Floats) -> SparseFactor:
        """Factors of the matrix with these values, one per entry of the pattern; pivots chosen for them."""


class InverseEstimate(NamedTuple):
    """‖(R A C)⁻¹‖₁ for the scales that equilibrate A."""

    r: Floats  # (n,) powers of two
    c: Floats  # (n,)
    norm: float


class Estimated:
    """What all factors have in common: `pattern`, `data` and `solve` are theirs."""

    pattern: Any
    data: Floats  # (nnz,) the values that they are of

    def solve(self, rhs: Floats, transpose: bool = False) -> Floats:
        """See `SparseFactor`."""
        raise AssertionError("a factor solves")

    @cached_property
    def inverse(self) -> InverseEstimate:
        """See `SparseFactor`. A matter of these factors alone, so that it does not matter who asks first."""
        r, c = self.scales
        return InverseEstimate(r, c, inverse_norm(r, c, self.solve))

    @cached_property
    def inverse_bound(self) -> InverseEstimate:
        """See `SparseFactor`."""
        r, c = self.scales
        return InverseEstimate(r, c, norm_bound(r, c, self.solve))

    @property
    def scales(self) -> tuple[Floats, Floats]:
        """Scales of rows and columns under which the matrix is equilibrated."""
        pattern = self.pattern
        return equilibrating_scales(pattern.indptr, pattern.indices, pattern.n, self.data)


class Reference:
    """A factor of one pattern for values that are a matter of the pattern's owner alone, made when first needed.

    Its pivots serve all other values (`SparseFactor.refactor`), so that they are searched for once. For what comes
    out to be the same whoever asks first, in whatever thread, `make` must give the same values every time.
    """

    __slots__ = ("_factor", "_made", "_values")
    _lock = (
        threading.Lock()
    )  # one for all: it is held once per pattern, and a lock of each could not be pickled

    def __init__(self) -> None:
        self._made = False
        self._values: Floats | None = None
        self._factor: SparseFactor | None = None

    def factor(self, data: Floats, pattern: SparsePattern, make: Callable[[], Floats | None]) -> SparseFactor:
        """Factors for the values `data` on the pivots of the values `make()`; on their own where those have none.

        `make` is called once in the life of this reference. Values equal to the reference's take its factor itself.
        """
        if not self._made:
            with self._lock:
                if not self._made:
                    self._values = make()
                    found = None if self._values is None else pattern.factor(self._values)
                    self._factor = found if found is not None and found.status == REGULAR else None
                    self._made = True
        if self._factor is None or self._values is None:
            return pattern.factor(data)
        return self._factor if np.array_equal(data, self._values) else self._factor.refactor(data)

    def __reduce__(self) -> tuple[type[Reference], tuple[()]]:
        return Reference, ()


def analyze(indptr: Ints, indices: Ints, n: int, counters: Counters | None = None) -> SuperLUPattern:
    """Work on the pattern of one n×n block in sorted CSR, for the default backend."""
    return SuperLUPattern.analyze(indptr, indices, n, Counters() if counters is None else counters)


@dataclass(frozen=True, eq=False)
class SuperLUPattern:
    """Pattern of A in CSR, which is that of Aᵀ in CSC: everything below factors Aᵀ, column by column."""

    indptr: Ints  # (n + 1,)
    indices: Ints  # (nnz,)
    n: int
    symmetric: bool  # a full diagonal, and near enough to symmetric for minimum degree on A + Aᵀ
    counters: Counters
    heavy: SparsePattern | None = None  # the same pattern for another library, to refactor heavy fill with

    @staticmethod
    def analyze(indptr: Ints, indices: Ints, n: int, counters: Counters) -> SuperLUPattern:
        """Choose the ordering; SuperLU computes it along with each factorization, SciPy cannot keep it."""
        import scipy.sparse as sp

        counters.add("analyses")
        pattern = sp.csr_array((np.ones(len(indices)), indices, indptr), shape=(n, n))
        mirrored = pattern.multiply(pattern.T).nnz
        symmetric = mirrored >= SYMMETRY * max(len(indices), 1) and bool(pattern.diagonal().all())
        return SuperLUPattern(indptr, indices, n, symmetric, counters)

    def factor(self, data: Floats) -> SuperLUFactor:
        """Equilibrate, choose pivots and factor with SuperLU."""
        import scipy.sparse as sp
        import scipy.sparse.linalg as spla

        self.counters.add("factorizations")
        data = values(data)
        if not np.isfinite(data).all():
            return self._without_factors(NOT_FINITE)
        r, c = equilibrating_scales(self.indptr, self.indices, self.n, data)
        scaled = data * np.repeat(r, np.diff(self.indptr)) * c[self.indices]
        heavy = self.symmetric and self.diagonal.fill.heavy
        if self.symmetric and not heavy:
            found, growth = replace(self.diagonal, r=r, c=c, known=self.diagonal.fill).eliminate(data)
            if growth > DIAGONAL_GROWTH:
                exchanged = self._exchanged(scaled)
                if exchanged is not None:
                    found, growth = replace(exchanged, r=r, c=c).eliminate(data)
            if growth <= DIAGONAL_GROWTH:
                return found
        transposed = sp.csc_array((scaled, self.indices, self.indptr), shape=(self.n, self.n))
        try:
            lu = _symmetric_lu(transposed) if heavy else spla.splu(transposed, permc_spec="COLAMD")
        except RuntimeError as error:
            if "singular" not in str(error):
                raise
            return self._without_factors(ZERO_PIVOT)
        constraint = np.empty(self.n, np.int32)
        constraint[lu.perm_c] = np.arange(self.n, dtype=np.int32)
        order = PivotOrder(self, r, c, constraint, lu.perm_r.astype(np.int32))
        lp, li, lx, _ = _without_diagonal(lu.L)
        up, ui, ux, d = _without_diagonal(lu.U)
        status = REGULAR if np.isfinite(d).all() else NOT_FINITE
        if status == REGULAR and not d.all():
            status = ZERO_PIVOT
        return SuperLUFactor(order, data, lp, li, lx, up, ui, ux, d, status)

    @cached_property
    def diagonal(self) -> PivotOrder:
        """Minimum degree on A + Aᵀ with every pivot on the diagonal, unscaled."""
        return self._minimum_degree(np.arange(self.n, dtype=np.int32))

    def _exchanged(self, scaled: Floats) -> PivotOrder | None:
        """`diagonal`, with pairs of rows exchanged where that makes the product of their pivots far larger; or None.

        Two constraints that mention the same states, such as the two balances of one place, are matched to these by
        structure alone, which may be the wrong way round for the values. The pattern hardly changes.
        """
        import scipy.sparse as sp

        sizes = sp.csr_array((np.abs(scaled), self.indices, self.indptr), shape=(self.n, self.n))
        diagonal = sizes.diagonal()
        across = sizes.multiply(sizes.T).tocoo()
        i, j = across.coords
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(i < j, across.data / (diagonal[i] * diagonal[j]), 0.0)
        found = np.flatnonzero(gain > EXCHANGE)
        rows, free = np.arange(self.n, dtype=np.int32), np.ones(self.n, np.bool_)
        for k in found[np.argsort(-gain[found], kind="stable")].tolist():
            one, other = int(i[k]), int(j[k])
            if free[one] and free[other]:
                free[one] = free[other] = False
                rows[one], rows[other] = other, one
        return None if free.all() else self._minimum_degree(rows)

    def _minimum_degree(self, rows: Ints) -> PivotOrder:
        """Minimum degree on B + Bᵀ with every pivot on the diagonal of B, whose row k is row rows[k] of A; unscaled.

        SuperLU gives its ordering along with factors only: here of a matrix with this pattern that needs no pivoting.
        """
        import scipy.sparse as sp

        one = sp.csr_array((np.ones(len(self.indices)), self.indices, self.indptr), shape=(self.n, self.n))[
            rows
        ]
        length = np.diff(one.indptr)
        row = np.repeat(np.arange(self.n), length)
        data = np.where(row == one.indices, 1.0, 0.5 / length[row])
        transposed = sp.csc_array((data, one.indices, one.indptr), shape=(self.n, self.n))
        order = np.empty(self.n, np.int32)
        perm = _symmetric_lu(transposed).perm_c.astype(np.int32)
        order[perm] = np.arange(self.n, dtype=np.int32)
        return PivotOrder(self, np.ones(self.n), np.ones(self.n), rows[order], perm)

    def _without_factors(self, status: int) -> SuperLUFactor:
        ints, floats = np.empty(0, np.int32), np.empty(0)
        order = PivotOrder(self, floats, floats, ints, ints)
        return SuperLUFactor(order, floats, ints, ints, floats, ints, ints, floats, floats, status)


@dataclass(frozen=True, eq=False)
class PivotOrder:
    """Scales and pivot order, chosen for some values and kept for others: Pr (R A C)ᵀ Pc = L U.

    Position k of the elimination takes constraint `constraint[k]` (a row of A, a column of Aᵀ) and the state
    i with position[i] == k.
    """

    pattern: SuperLUPattern
    r: Floats  # (n,) scale of each row of A, a power of two
    c: Floats  # (n,) scale of each column of A, a power of two
    constraint: Ints  # (n,)
    position: Ints  # (n,)
    known: Fill | None = None  # its fill, if that is known

    def eliminate(self, data: Floats) -> tuple[SuperLUFactor, float]:
        """Factors with these pivots for the values `data` (nnz,), finite, and their growth: inf if they are none."""
        pattern, fill = self.pattern, self.fill
        lx, ux, d = np.empty(len(fill.li)), np.empty(len(fill.ui)), np.empty(pattern.n)
        growth = refactor_columns(
            pattern.n, pattern.indptr, pattern.indices, data, self.r, self.c, self.constraint, self.position,
            fill.lp, fill.li, fill.up, fill.ui, fill.group_end, lx, ux, d,
        )  # fmt: skip
        return SuperLUFactor(self, data, fill.lp, fill.li, lx, fill.up, fill.ui, ux, d, REGULAR, fill), growth

    @cached_property
    def fill(self) -> Fill:
        """Pattern of L and U in this order, computed when first asked for.

        From the pattern of A alone, not from SuperLU's factors: those leave out what happened to be zero for
        the values at hand, and it need not be zero for other values. This one is closed: eliminating any
        values in this order stays inside it.
        """
        if self.known is not None:
            return self.known
        p = self.pattern
        lp, li, up, ui = fill_pattern(p.n, p.indptr, p.indices, self.constraint, self.position)
        li, ui = sorted_columns(p.n, lp, li), sorted_columns(p.n, up, ui)
        length = np.diff(lp)
        # Columns k and k + 1 of L share their rows beyond k + 1 if l_k+1,k and u_k,k+1 are both in the
        # pattern (then eliminating k has brought its rows into column k + 1) and column k + 1 has no others.
        # Equal counts alone are not enough. The first entry of a column of L and the last of one of U tell;
        # -1 stands for none.
        k = np.arange(p.n - 1)
        below = np.where(length[:-1] > 0, np.append(li, -1)[lp[:-2]], -1)
        above = np.where(np.diff(up)[1:] > 0, np.append(ui, -1)[up[2:] - 1], -1)
        joined = (below == k + 1) & (above == k) & (length[:-1] == length[1:] + 1)
        ends = np.where(np.append(joined, False), p.n, np.arange(1, p.n + 1))
        group_end = np.minimum.accumulate(ends[::-1])[::-1].astype(np.int32)
        operations = 2 * int(length[ui].sum(dtype=np.int64))
        return Fill(lp, li, up, ui, group_end, operations)


@dataclass(frozen=True, eq=False)
class Fill:
    """Patterns of L below and U above its diagonal, by columns, sorted."""

    lp: Ints  # (n + 1,)
    li: Ints
    up: Ints  # (n + 1,)
    ui: Ints
    group_end: Ints  # (n,) end of the run of columns of L that share their rows from there on
    operations: int  # multiplications and additions of one refactorization

    @cached_property
    def upper_rows(self) -> tuple[Ints, Ints, Ints]:
        """U above its diagonal by rows: see `transposed_pattern`."""
        return transposed_pattern(self.up, self.ui)

    @property
    def heavy(self) -> bool:
        """Whether SuperLU's dense kernels are faster on this much fill."""
        return self.operations > HEAVY_FILL * (len(self.li) + len(self.ui))


@dataclass(frozen=True, eq=False)
class SuperLUFactor(Estimated):
    """L (unit diagonal left out) and U (diagonal in d) by columns, in the positions of `order`."""

    order: PivotOrder
    data: Floats  # (nnz,) the values that they are of
    lp: Ints  # (n + 1,)
    li: Ints
    lx: Floats
    up: Ints  # (n + 1,)
    ui: Ints
    ux: Floats
    d: Floats  # (n,) the pivots
    status: int
    fill: Fill | None = (
        None  # the pattern that lp, li, up and ui are of; SuperLU's own leaves out what is zero
    )

    @property
    def pattern(self) -> SuperLUPattern:
        return self.order.pattern

    @property
    def entries(self) -> int:
        return len(self.lx) + len(self.ux) + len(self.d)

    @cached_property
    def group_end(self) -> Ints:
        """As `Fill.group_end`, of these very columns."""
        if self.fill is not None:
            return self.fill.group_end
        out = np.empty(self.pattern.n, np.int32)
        common_rows(self.pattern.n, self.lp, self.li, out)
        return out

    @cached_property
    def upper_rows(self) -> tuple[Ints, Ints, Floats]:
        """U above its diagonal by rows: indptr, indices, values."""
        indptr, indices, places = (
            transposed_pattern(self.up, self.ui) if self.fill is None else self.fill.upper_rows
        )
        return indptr, indices, self.ux[places]

    @property
    def scales(self) -> tuple[Floats, Floats]:
        """Those of the pivots, where they still serve (9241 buses: 0.2 ms, and 1.5 ms for others)."""
        p, r, c = self.pattern, self.order.r, self.order.c
        if equilibrated(p.indptr, p.indices, p.n, self.data, r, c):
            return r, c
        return equilibrating_scales(p.indptr, p.indices, p.n, self.data, c)

    @property
    def price(self) -> float:
        fill = self.order.fill
        return PRICE[0] + PRICE[1] * fill.operations / max(len(fill.li) + len(fill.ui), 1)

    def refactor(self, data: Floats) -> SparseFactor:
        """Same pivots, other values; a fresh factorization where that is faster, or would not be stable."""
        order, pattern = self.order, self.order.pattern
        if self.status != REGULAR or order.fill.heavy:
            other = pattern.heavy if self.status == REGULAR and self.entries >= HEAVY_ENTRIES else None
            found = None if other is None else other.factor(data)
            return pattern.factor(data) if found is None or found.status != REGULAR else found
        data = values(data)
        if not np.isfinite(data).all():
            return pattern.factor(data)
        pattern.counters.add("refactorizations")
        found, growth = order.eliminate(data)
        if not growth <= GROWTH_LIMIT:
            pattern.counters.add("rejections")
            return pattern.factor(data)
        return found

    def solve(self, rhs: Floats, transpose: bool = False) -> Floats:
        """A⁻¹ rhs or A⁻ᵀ rhs, for rhs (n,) or (n, k); all nan where there are no regular factors."""
        order, pattern = self.order, self.order.pattern
        pattern.counters.add("solves")
        rhs = values(rhs)
        x = np.full(rhs.shape, np.nan)
        if self.status != REGULAR:
            return x
        m = x.size // pattern.n if pattern.n else 0
        rows: tuple[Any, ...] = ()
        if transpose:
            rows = self.upper_rows if m > 1 else (self.up, self.ui, self.ux)  # one column needs no rows
        sweep = solve_columns_transposed if transpose else solve_columns
        sweep(
            pattern.n,
            m,
            order.r,
            order.c,
            order.constraint,
            order.position,
            self.lp,
            self.li,
            self.lx,
            self.up,
            self.ui,
            self.ux,
            self.d,
            self.group_end,
            *rows,
            np.empty(pattern.n if m == 1 else 8 * pattern.n),
            rhs.reshape(-1),
            x.reshape(-1),
        )
        return x


def transposed_pattern(ptr: Ints, indices: Ints) -> tuple[Ints, Ints, Ints]:
    """A square pattern given by columns, by rows, or the reverse: indptr, indices, and where each entry stood."""
    import scipy.sparse as sp

    n = len(ptr) - 1
    rows = sp.csc_array((np.arange(len(indices), dtype=np.int32), indices, ptr), shape=(n, n)).tocsr()
    return rows.indptr.astype(np.int32), rows.indices.astype(np.int32), rows.data


def _symmetric_lu(transposed: sp.csc_array) -> Any:
    """SuperLU's factors in the order of minimum degree on A + Aᵀ, diagonal pivots preferred."""
    import scipy.sparse.linalg as spla

    return spla.splu(
        transposed,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=DIAGONAL_THRESHOLD,
        options={"SymmetricMode": True},
    )


def values(data: Floats) -> Floats:
    """`data` as a writable C-contiguous float64 array: the one type that the kernels are compiled for."""
    data = np.ascontiguousarray(data, dtype=np.float64)
    return data if data.flags.writeable else data.copy()


def _without_diagonal(triangle: sp.csc_array) -> tuple[Ints, Ints, Floats, Floats]:
    """A triangular CSC matrix -> its strict part (indptr, indices, data) and its diagonal, 0 if absent."""
    n = triangle.shape[0]
    column = np.repeat(np.arange(n, dtype=np.int32), np.diff(triangle.indptr))
    on = triangle.indices == column
    diagonal = np.zeros(n)
    diagonal[column[on]] = triangle.data[on]
    indptr = np.zeros(n + 1, np.int32)
    np.cumsum(np.bincount(column[~on], minlength=n), out=indptr[1:])
    return indptr, triangle.indices[~on].astype(np.int32), triangle.data[~on].astype(np.float64), diagonal


def equilibrating_scales(
    indptr: Ints, indices: Ints, n: int, data: Floats, near: Floats | None = None
) -> tuple[Floats, Floats]:
    """Powers of two r (n,) and c (n,) such that rows and columns of |r_i a_ij c_j| sum to about 1.

    `near`: column scales that a matrix near to this one has, to start from (power flow over named currents, 2869 buses:
    2 passes instead of 11).
    """
    r, c, room = np.empty(n), np.empty(n), np.empty(n)
    balance(0, n, indptr, indices, data if near is None else data * near[indices], r, c, 0, room, 0)
    return r, c if near is None else c * near


@allocating
def largest_column(indptr: Ints, indices: Ints, n: int, data: Floats, r: Floats, c: Floats) -> float:
    """‖R A C‖₁ of an n×n matrix; inf or nan where an entry is."""
    sums = np.zeros(n)
    for i in range(n):
        for s in range(indptr[i], indptr[i + 1]):
            sums[indices[s]] += r[i] * abs(data[s])
    largest = 0.0
    for j in range(n):
        total = sums[j] * c[j]
        if not total <= largest:  # so that nan stays
            largest = total
        if not largest < math.inf:
            break
    return largest


@allocating
def equilibrated(indptr: Ints, indices: Ints, n: int, data: Floats, r: Floats, c: Floats) -> bool:
    """Whether rows and columns of |r_i a_ij c_j| sum to 1, within a factor of `NEAR_ONE`."""
    sums = np.zeros(n)
    for i in range(n):
        total = 0.0
        for s in range(indptr[i], indptr[i + 1]):
            v = r[i] * abs(data[s]) * c[indices[s]]
            total += v
            sums[indices[s]] += v
        if not 1.0 / NEAR_ONE <= total <= NEAR_ONE:
            return False
    for j in range(n):
        if not 1.0 / NEAR_ONE <= sums[j] <= NEAR_ONE:
            return False
    return True


@kernel
def times(indptr: Ints, indices: Ints, n: int, data: Floats, x: Floats, out: Floats) -> None:
    """out (n,) ← A x."""
    for i in range(n):
        total = 0.0
        for s in range(indptr[i], indptr[i + 1]):
            total += data[s] * x[indices[s]]
        out[i] = total


@allocating
def resized(a: Ints, used: int, size: int) -> Ints:
    """The first `used` entries of a, in an array of `size`. A loop: slices take Numba seconds to compile."""
    b = np.empty(size, np.int32)
    for s in range(used):
        b[s] = a[s]
    return b


@allocating
def fill_pattern(
    n: int, indptr: Ints, indices: Ints, constraint: Ints, position: Ints
) -> tuple[Ints, Ints, Ints, Ints]:
    """Patterns of L and U, without diagonals, of the matrix B with B[position[i], k] = A[constraint[k], i].

    Column j of U holds the positions below j that are reached from the entries of column j through the
    columns of L, column j of L the positions above j met on the way (Gilbert and Peierls). The search through
    column k of L may end at the first j with both l_jk and u_kj: whatever lies beyond is also reached through
    column j (Eisenstat and Liu's symmetric pruning), which makes the search cheap beside the arithmetic that
    it stands for.
    """
    lp = np.zeros(n + 1, np.int32)
    up = np.zeros(n + 1, np.int32)
    li = np.empty(4 * len(indices) + n, np.int32)
    ui = np.empty(4 * len(indices) + n, np.int32)
    searched = np.zeros(n, np.int32)  # end of the part of column k of L to search, 0: all of it
    seen = np.zeros(n, np.int32)  # 1 + the last column whose search met this position
    path = np.empty(n, np.int32)  # columns of L on the way down
    at = np.empty(n, np.int32)  # next entry to look at in each of them
    nl = np.int64(0)
    nu = np.int64(0)
    for j in range(n):
        if nl + n > len(li):
            li = resized(li, nl, 2 * len(li) + n)
        if nu + n > len(ui):
            ui = resized(ui, nu, 2 * len(ui) + n)
        seen[j] = j + 1
        row = constraint[j]
        for s in range(indptr[row], indptr[row + 1]):
            start = position[indices[s]]
            if seen[start] == j + 1:
                continue
            seen[start] = j + 1
            if start > j:
                li[nl] = start
                nl += 1
                continue
            depth = 0
            path[0] = start
            at[0] = lp[start]
            while depth >= 0:
                k = path[depth]
                end = searched[k] if searched[k] > 0 else lp[k + 1]
                q = at[depth]
                deeper = False
                while q < end and not deeper:
                    i = li[q]
                    q += 1
                    if seen[i] == j + 1:
                        continue
                    seen[i] = j + 1
                    if i > j:
                        li[nl] = i
                        nl += 1
                    else:
                        at[depth] = q
                        depth += 1
                        path[depth] = i
                        at[depth] = lp[i]
                        deeper = True
                if not deeper:
                    ui[nu] = k
                    nu += 1
                    depth -= 1
        lp[j + 1] = nl
        up[j + 1] = nu
        for s in range(up[j], nu):  # prune: bring the entries up to j of column k to its front
            k = ui[s]
            if searched[k] > 0:
                continue
            mirrored = False
            for q in range(lp[k], lp[k + 1]):
                mirrored = mirrored or li[q] == j
            if mirrored:
                low = lp[k]
                high = lp[k + 1] - 1
                while low <= high:
                    if li[low] <= j:
                        low += 1
                    else:
                        i = li[low]
                        li[low] = li[high]
                        li[high] = i
                        high -= 1
                searched[k] = low
    return lp, resized(li, nl, nl), up, resized(ui, nu, nu)


def sorted_columns(n: int, indptr: Ints, indices: Ints) -> Ints:
    """The indices of an n×n pattern by columns, sorted within each."""
    import scipy.sparse as sp

    pattern = sp.csc_array((np.ones(len(indices), np.int8), indices, indptr), shape=(n, n))
    pattern.has_sorted_indices = False
    pattern.sort_indices()
    return pattern.indices


@allocating
def refactor_columns(
    n: int,
    indptr: Ints,
    indices: Ints,
    data: Floats,
    r: Floats,
    c: Floats,
    constraint: Ints,
    position: Ints,
    lp: Ints,
    li: Ints,
    up: Ints,
    ui: Ints,
    group_end: Ints,
    lx: Floats,
    ux: Floats,
    d: Floats,
) -> float:
    """L and U of B = Pr (R A C)ᵀ Pc: column j solves L x = b_j; x is u_j down to u_jj, and u_jj l_j below.

    Writes lx, ux (in the places of li, ui) and d (n,). Returns max|l| · max_j (max_i |u_ij| / max_i |b_ij|),
    or inf as soon as a pivot is zero or any number has outgrown GROWTH_LIMIT, in which case the rest is not
    computed.

    Four columns of L that share their rows are subtracted at once: one load and one store of x for four of
    them.
    """
    x = np.zeros(n)
    largest_l = 0.0
    growth = 0.0
    for j in range(n):
        row = constraint[j]
        largest_b = 0.0
        for s in range(indptr[row], indptr[row + 1]):
            i = indices[s]
            v = data[s] * r[row] * c[i]
            x[position[i]] = v
            if abs(v) > largest_b:
                largest_b = abs(v)
        largest_u = 0.0
        s = up[j]
        while s < up[j + 1]:
            k = ui[s]
            u = x[k]
            x[k] = 0.0
            ux[s] = u
            if abs(u) > largest_u:
                largest_u = abs(u)
            if s + 3 < up[j + 1] and group_end[k] >= k + 4:
                q0 = lp[k]
                q1 = lp[k + 1]
                q2 = lp[k + 2]
                q3 = lp[k + 3]
                u1 = x[k + 1] - lx[q0] * u
                u2 = x[k + 2] - lx[q0 + 1] * u - lx[q1] * u1
                u3 = x[k + 3] - lx[q0 + 2] * u - lx[q1 + 1] * u1 - lx[q2] * u2
                x[k + 1] = 0.0
                x[k + 2] = 0.0
                x[k + 3] = 0.0
                ux[s + 1] = u1
                ux[s + 2] = u2
                ux[s + 3] = u3
                for v in (u1, u2, u3):
                    if abs(v) > largest_u:
                        largest_u = abs(v)
                q0 += 3
                q1 += 2
                q2 += 1
                for q in range(lp[k + 4] - q3):
                    x[li[q3 + q]] -= lx[q0 + q] * u + lx[q1 + q] * u1 + lx[q2 + q] * u2 + lx[q3 + q] * u3
                s += 4
            else:
                for q in range(lp[k], lp[k + 1]):
                    x[li[q]] -= lx[q] * u
                s += 1
        pivot = x[j]
        x[j] = 0.0
        d[j] = pivot
        if abs(pivot) > largest_u:
            largest_u = abs(pivot)
        # Written so that nan fails. With b below 1e270 and l and u/b below GROWTH_LIMIT no product overflows,
        # so that every number kept is finite.
        if not (0.0 < abs(pivot) < math.inf and largest_u <= GROWTH_LIMIT * largest_b and largest_b < 1e270):
            return math.inf
        growth = max(growth, largest_u / largest_b)
        for q in range(lp[j], lp[j + 1]):
            l = x[li[q]] / pivot
            x[li[q]] = 0.0
            lx[q] = l
            if not abs(l) <= GROWTH_LIMIT:
                return math.inf
            if abs(l) > largest_l:
                largest_l = abs(l)
    return max(1.0, largest_l) * growth
