"""Unknowns that one equation gives outright, eliminated before a sparse LU sees the block.

Takes a square CSR pattern and the rows that may be solved for one of their columns by a division: in a system of
constraints the definitions u == f(…), with pivot ±1. Gives a pattern and factors of the kind of
`lagrad.linalg.sparse`, over the whole block. Knows no names.

Such a row may stand at another position than its column, for more than one way leads through a loop. It then changes
places with the row that is there: a row r at the column u of a definition d, which stands at the column w, mentions u,
and d mentions w, so that the product of the two puts r at w once d is eliminated.

A set K of such positions is chosen, no row of which mentions another of them, so that A_KK = D is diagonal. With R the
others,

    S = A_RR − A_RK D⁻¹ A_KR        A x = b:    S x_R = b_R − A_RK D⁻¹ b_K,    D x_K = b_K − A_KR x_R
                                    Aᵀ y = g:   Sᵀ y_R = g_R − A_KRᵀ D⁻¹ g_K,  D y_K = g_K − A_RKᵀ y_R

where every product and its place in S are found once per pattern. S may have such positions again (definitions over
definitions): it goes the same way, level by level, and what is left at last goes to the sparse LU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import kernel
from lagrad.linalg.backends import BACKENDS
from lagrad.linalg.sparse import (
    REGULAR,
    Counters,
    Estimated,
    InverseEstimate,
    SparseFactor,
    SparsePattern,
    equilibrated,
    equilibrating_scales,
    values,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

FILL = 2.0
"""A position is eliminated if the products it makes are at most this many for each entry of its row and column.

Two rows that mention a sum of any length pass; a sum that many rows mention stays.
"""
WORTH = 0.1  # share of the block that a level must eliminate
LOSS = 1e8  # a row of S this much smaller than the products that made it has lost too many digits


def analyze_with(
    indptr: Ints,
    indices: Ints,
    n: int,
    known: Ints,
    counters: Counters,
    backend: str = "superlu",
) -> SparsePattern:
    """A pattern of an n×n block whose row i may be solved for column known[i] (n,), or for none (-1), beforehand."""
    place = np.arange(n, dtype=np.int32)
    levels: list[Level] = []
    order = _swapped(n, known)
    if order is not None:
        moved, entry = _permuted(indptr, order)
        levels = _levels(moved, indices[entry], n, known[order] == place, order, entry)
    # it takes a plan to lead back from rows that changed places
    if len(levels) < 2 or not _full_diagonal(levels[-1]):
        levels = _levels(indptr, indices, n, known == place, place)
    *above, last = levels
    pattern: SparsePattern = BACKENDS[backend](last.indptr, last.indices, last.n, counters)
    for k in range(len(above) - 1, -1, -1):
        level, plan = above[k], above[k].plan
        assert plan is not None
        own = (indptr, indices) if k == 0 else (level.indptr, level.indices)
        pattern = EliminatedPattern(*own, level.n, plan, pattern, counters, backend)
    return pattern


class Level(NamedTuple):
    """One pattern on the way from the whole block to what the sparse LU sees."""

    indptr: Ints
    indices: Ints
    n: int
    plan: Plan | None  # None for the last


def _levels(
    indptr: Ints, indices: Ints, n: int, known: NDArray[np.bool_], rows: Ints, entry: Ints | None = None
) -> list[Level]:
    """All levels, from one of which row k is row rows[k] of the block, and its entries are `entry` of the block's."""
    plan = _plan(indptr, indices, n, known)
    if plan is None:
        return [Level(indptr, indices, n, None)]
    r = plan.rest.size
    below = _levels(plan.indptr, plan.indices, r, plan.still_known, np.arange(r, dtype=np.int32))
    plan = replace(plan, gone_row=rows[plan.gone], rest_row=rows[plan.rest])
    if entry is not None:
        changed = {name: entry[getattr(plan, name)] for name in ("pivot", "copied", "down", "across")}
        plan = replace(plan, **changed)
    return [Level(indptr, indices, n, plan), *below]


def _swapped(n: int, known: Ints) -> Ints | None:
    """The row at each position (n,) once every row stands at its column that can; None if all do already."""
    at = np.arange(n, dtype=np.int32)  # the row at each position
    place = np.arange(n, dtype=np.int32)  # the position of each row
    for row in np.flatnonzero((known >= 0) & (known != at)).tolist():
        there, now = int(known[row]), int(place[row])
        other = int(at[there])
        if known[other] != there:
            at[there], at[now] = row, other
            place[row], place[other] = there, now
    return None if (at == np.arange(n)).all() else at


def _permuted(indptr: Ints, order: Ints) -> tuple[Ints, Ints]:
    """indptr of the rows of a matrix in another order, and where their entries stand in it."""
    length = np.diff(indptr)[order]
    out = np.zeros(len(indptr), np.int32)
    np.cumsum(length, out=out[1:])
    entry = np.repeat(indptr[order] - out[:-1], length) + np.arange(out[-1], dtype=np.int32)
    return out, entry.astype(np.int32)


def _full_diagonal(level: Level) -> bool:
    row = np.repeat(np.arange(level.n), np.diff(level.indptr))
    return int(np.count_nonzero(row == level.indices)) == level.n


@dataclass(frozen=True, eq=False)
class Plan:
    """Which positions go, and where every product goes. k of them out of n; r = n − k stay."""

    gone: Ints  # (k,) positions, that is to say columns
    gone_row: Ints  # (k,) their rows
    rest: Ints  # (r,)
    rest_row: Ints  # (r,)
    pivot: Ints  # (k,) their entries of A
    indptr: Ints  # (r + 1,) S in CSR
    indices: Ints
    still_known: NDArray[np.bool_]  # (r,) positions of S that may be eliminated in turn
    copied: Ints  # entries of A_RR
    copied_to: Ints  # their entries of S
    down_ptr: Ints  # (r + 1,) entries of A_RK, by rows that stay
    down: Ints
    down_at: Ints  # their column, counted in `gone`
    across_ptr: Ints  # (k + 1,) entries of A_KR, by position gone
    across: Ints
    across_at: Ints  # their column, counted in `rest`
    to: Ints  # (products,) of each entry of A_RK with every entry of the row of A_KR that it meets, the entry of S


def _plan(indptr: Ints, indices: Ints, n: int, known: NDArray[np.bool_]) -> Plan | None:
    if n == 0 or np.count_nonzero(known) < WORTH * n:
        return None
    row = np.repeat(np.arange(n, dtype=np.int32), np.diff(indptr))
    diagonal = np.full(n, -1, np.int32)
    on = np.flatnonzero(row == indices)
    diagonal[indices[on]] = on
    by_column = np.argsort(indices, kind="stable").astype(np.int32)
    column_ptr = np.zeros(n + 1, np.int32)
    np.cumsum(np.bincount(indices, minlength=n), out=column_ptr[1:])
    above, beside = np.diff(column_ptr) - 1.0, np.diff(indptr) - 1.0
    cost = above * beside
    able = np.flatnonzero(known & (diagonal >= 0) & (cost <= FILL * (above + beside)))
    order = able[np.argsort(cost[able], kind="stable")].astype(np.int32)
    state = np.zeros(n, np.int8)
    choose(order, indptr, indices, column_ptr, row[by_column], state)
    chosen = state == 1
    gone, rest = np.flatnonzero(chosen).astype(np.int32), np.flatnonzero(~chosen).astype(np.int32)
    if gone.size < WORTH * n:
        return None
    r = rest.size
    place = np.empty(n, np.int32)  # position -> its number in `gone` or in `rest`
    place[gone] = np.arange(gone.size)
    place[rest] = np.arange(r)

    from_rest, to_rest = ~chosen[row], ~chosen[indices]
    copied = np.flatnonzero(from_rest & to_rest)
    down = np.flatnonzero(from_rest & ~to_rest)  # by rows
    across = np.flatnonzero(~from_rest & to_rest)  # by positions gone
    across_ptr = np.zeros(gone.size + 1, np.int64)
    np.cumsum(np.bincount(place[row[across]], minlength=gone.size), out=across_ptr[1:])
    # each entry of A_RK meets the whole row of its column's position
    met = place[indices[down]]
    count = np.diff(across_ptr)[met]
    left = np.repeat(down, count)
    first = np.cumsum(count) - count
    right = across[np.repeat(across_ptr[met] - first, count) + np.arange(left.size)]
    made_row, made_col = place[row[left]], place[indices[right]]
    keys = np.concatenate([
        place[row[copied]].astype(np.int64) * r + place[indices[copied]], made_row.astype(np.int64) * r + made_col
    ])  # fmt: skip
    found, to = np.unique(keys, return_inverse=True)
    s_ptr = np.searchsorted(found, np.arange(r + 1, dtype=np.int64) * r).astype(np.int32)
    down_ptr = np.searchsorted(place[row[down]], np.arange(r + 1)).astype(np.int32)
    touched = np.zeros(r, np.bool_)  # a diagonal entry to which a product was added is no pivot any more
    touched[made_row[made_row == made_col]] = True
    i = np.int32
    return Plan(
        gone, gone, rest, rest, diagonal[gone], s_ptr, (found % r).astype(i), known[rest] & ~touched,
        copied.astype(i), to[: copied.size].astype(i), down_ptr, down.astype(i), met,
        across_ptr.astype(i), across.astype(i), place[indices[across]], to[copied.size :].astype(i),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class EliminatedPattern:
    """A pattern of which some positions are eliminated before the rest goes to `inner`."""

    indptr: Ints
    indices: Ints
    n: int
    plan: Plan
    inner: SparsePattern  # of S
    counters: Counters
    backend: str

    def factor(self, data: Floats) -> SparseFactor:
        """S and its factors; factors of the whole block at once where S would have lost digits."""
        data = values(data)
        edge = self.gather(data)
        s, loss = self.complement(data, edge)
        return self.assembled(data, edge, loss, None if s is None else self.inner.factor(s), None)

    def assembled(
        self,
        data: Floats,
        edge: Edge,
        loss: float,
        inner: SparseFactor | None,
        first: EliminatedFactor | None,
    ) -> SparseFactor:
        """Factors from those of S; of the whole block at once where S, over all levels, has lost its digits."""
        if isinstance(inner, EliminatedFactor):
            loss *= inner.loss
        if inner is None or not loss <= LOSS:
            return self.undivided.factor(data)
        return EliminatedFactor(self, data, edge, inner, loss, None, first)

    @cached_property
    def undivided(self) -> SparsePattern:
        """The block without elimination, analyzed when first needed."""
        return BACKENDS[self.backend](self.indptr, self.indices, self.n, self.counters)

    def gather(self, data: Floats) -> Edge:
        """The entries of `data` that lead from S to the whole block and back, in the order of their use."""
        plan = self.plan
        edge = Edge(np.empty(plan.gone.size), np.empty(plan.down.size), np.empty(plan.across.size))
        gather(plan.pivot, plan.down, plan.across, data, *edge)
        return edge

    def complement(self, data: Floats, edge: Edge) -> tuple[Floats | None, float]:
        """The entries of S and how much larger than a row of it the products were that made the row, 1 at least.

        None where a pivot is zero or a row has lost its digits, or is not finite.
        """
        plan = self.plan
        s = np.empty(plan.indices.size)
        loss = complement(
            plan.rest.size, plan.indptr, plan.copied, plan.copied_to, plan.down_ptr, plan.down_at, plan.across_ptr,
            plan.to, *edge, np.empty(plan.gone.size), data, s,
        )  # fmt: skip
        return (s if loss <= LOSS else None), loss


class Edge(NamedTuple):
    """Values of D (k,), A_RK (down,) and A_KR (across,) of one matrix."""

    pivot: Floats
    down: Floats
    across: Floats


@dataclass(frozen=True, eq=False)
class EliminatedFactor(Estimated):
    """Factors of S, and the entries that lead from it to the whole block."""

    pattern: EliminatedPattern
    data: Floats
    edge: Edge  # of `data`
    inner: SparseFactor
    loss: float  # see `EliminatedPattern.complement`, over this level and those below
    lender: EliminatedFactor | None = None  # whose `inner` it is, where `data` are of a matrix near to it
    first: EliminatedFactor | None = None  # the fresh factorization whose pivots these are, if it is another

    @property
    def status(self) -> int:
        return self.inner.status

    @property
    def entries(self) -> int:
        plan = self.pattern.plan
        return self.inner.entries + plan.down.size + plan.across.size + plan.gone.size

    @property
    def price(self) -> float:
        return (self.inner.price * self.inner.entries + 2 * self.pattern.plan.to.size) / self.entries

    def refactor(self, data: Floats) -> SparseFactor:
        """The same plan, and the pivots of S, for other values."""
        data = values(data)
        edge = self.pattern.gather(data)
        s, loss = self.pattern.complement(data, edge)
        inner = None if s is None else self.inner.refactor(s)
        return self.pattern.assembled(data, edge, loss, inner, self.first or self)

    def around(self, data: Floats) -> EliminatedFactor:
        """These factors of S with the entries of a matrix near to it: its equations at K are then met exactly."""
        data = values(data)
        return replace(self, data=data, edge=self.pattern.gather(data), lender=self.lender or self)

    @cached_property
    def inverse(self) -> InverseEstimate:
        """Of the matrix that was factored, once for all that borrow."""
        return super().inverse if self.lender is None else self.lender.inverse

    @cached_property
    def inverse_bound(self) -> InverseEstimate:
        """As `inverse`."""
        return super().inverse_bound if self.lender is None else self.lender.inverse_bound

    @property
    def scales(self) -> tuple[Floats, Floats]:
        """Those of the matrix for which pivots were chosen, where they still serve: others take more passes."""
        if self.first is None:
            return self._own_scales
        p, (r, c) = self.pattern, self.first._own_scales
        if equilibrated(p.indptr, p.indices, p.n, self.data, r, c):
            return r, c
        return equilibrating_scales(p.indptr, p.indices, p.n, self.data, c)

    @cached_property
    def _own_scales(self) -> tuple[Floats, Floats]:
        return super().scales

    def solve(self, rhs: Floats, transpose: bool = False) -> Floats:
        """A⁻¹ rhs or A⁻ᵀ rhs, for rhs (n,) or (n, k): the two differ in which entries lead down to S and back."""
        plan, b = self.pattern.plan, values(rhs)
        m = b.size // self.pattern.n if self.pattern.n else 0
        if self.status != REGULAR:
            return np.full(b.shape, np.nan)
        pivot, down, across = self.edge
        rows = plan.down_ptr, plan.down_at, down
        columns = plan.across_ptr, plan.across_at, across
        reduced, x, w = (
            np.empty((plan.rest.size, *b.shape[1:])),
            np.empty_like(b),
            np.empty(plan.gone.size * m),
        )
        flat = b.reshape(-1), w, reduced.reshape(-1)
        if transpose:
            reduce_transposed(m, plan.gone, plan.rest, pivot, *columns, *flat)
        else:
            reduce(m, plan.gone_row, plan.rest_row, pivot, *rows, *flat)
        found = self.inner.solve(reduced, transpose)
        flat = b.reshape(-1), found.reshape(-1), x.reshape(-1)
        if transpose:
            recover_transposed(m, plan.gone, plan.gone_row, plan.rest_row, pivot, *rows, w, *flat)
        else:
            recover(m, plan.gone, plan.gone_row, plan.rest, pivot, *columns, *flat)
        return x


@kernel
def choose(
    order: Ints, indptr: Ints, indices: Ints, column_ptr: Ints, column_row: Ints, state: NDArray[np.int8]
) -> None:
    """state (n,): 1 for positions of `order`, in turn, that no position chosen before mentions or is mentioned by.

    2 for those that are thereby excluded. column_ptr (n + 1,), column_row: the rows of each column.
    """
    for k in order:
        if state[k] != 0:
            continue
        state[k] = 1
        for e in range(indptr[k], indptr[k + 1]):
            if indices[e] != k:
                state[indices[e]] = 2
        for e in range(column_ptr[k], column_ptr[k + 1]):
            if column_row[e] != k:
                state[column_row[e]] = 2


@kernel
def gather(
    pivot_at: Ints, down_at: Ints, across_at: Ints, data: Floats, pivot: Floats, down: Floats, across: Floats
) -> None:
    """The values of an `Edge`."""
    for e in range(len(pivot_at)):
        pivot[e] = data[pivot_at[e]]
    for e in range(len(down_at)):
        down[e] = data[down_at[e]]
    for e in range(len(across_at)):
        across[e] = data[across_at[e]]


@kernel
def complement(
    r: int,
    indptr: Ints,
    copied: Ints,
    copied_to: Ints,
    down_ptr: Ints,
    down_at: Ints,
    across_ptr: Ints,
    to: Ints,
    pivot: Floats,
    down: Floats,
    across: Floats,
    peaks: Floats,
    data: Floats,
    s: Floats,
) -> float:
    """S = A_RR − A_RK D⁻¹ A_KR. Returns the largest product of a row beside its largest entry, 1 at least.

    inf as soon as a row is not finite, or that is past `LOSS`. peaks (k,): scratch.
    """
    loss = 1.0
    for k in range(len(pivot)):
        peak = 0.0
        for q in range(across_ptr[k], across_ptr[k + 1]):
            peak = max(peak, abs(across[q]))
        peaks[k] = peak
    for e in range(len(s)):
        s[e] = 0.0
    for e in range(len(copied)):
        s[copied_to[e]] = data[copied[e]]
    p = 0
    for i in range(r):
        if down_ptr[i] == down_ptr[i + 1]:
            continue
        peak = 0.0
        for e in range(down_ptr[i], down_ptr[i + 1]):
            k = down_at[e]
            w = down[e] / pivot[k]
            peak = max(peak, abs(w) * peaks[k])
            for q in range(across_ptr[k], across_ptr[k + 1]):
                s[to[p]] -= w * across[q]
                p += 1
        largest = 0.0
        total = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            largest = max(largest, abs(s[e]))
            total += abs(s[e])
        # written so that nan fails; max may drop one
        if not (total < np.inf and peak <= LOSS * largest):
            return np.inf
        if peak > loss * largest:
            loss = peak / largest
    return loss


@kernel
def reduce(
    m: int,
    gone_row: Ints,
    rest_row: Ints,
    pivot: Floats,
    down_ptr: Ints,
    down_at: Ints,
    down: Floats,
    b: Floats,
    w: Floats,
    reduced: Floats,
) -> None:
    """reduced = b_R − A_RK D⁻¹ b_K, all with m columns; w: scratch for D⁻¹ b_K."""
    if m == 1:
        for k in range(len(gone_row)):
            w[k] = b[gone_row[k]] / pivot[k]
        for i in range(len(rest_row)):
            v = b[rest_row[i]]
            for e in range(down_ptr[i], down_ptr[i + 1]):
                v -= down[e] * w[down_at[e]]
            reduced[i] = v
        return
    for k in range(len(gone_row)):
        for t in range(m):
            w[k * m + t] = b[gone_row[k] * m + t] / pivot[k]
    for i in range(len(rest_row)):
        for t in range(m):
            v = b[rest_row[i] * m + t]
            for e in range(down_ptr[i], down_ptr[i + 1]):
                v -= down[e] * w[down_at[e] * m + t]
            reduced[i * m + t] = v


@kernel
def recover(
    m: int,
    gone: Ints,
    gone_row: Ints,
    rest: Ints,
    pivot: Floats,
    across_ptr: Ints,
    across_at: Ints,
    across: Floats,
    b: Floats,
    found: Floats,
    x: Floats,
) -> None:
    """x_R = found, x_K = D⁻¹ (b_K − A_KR x_R), all with m columns."""
    if m == 1:
        for i in range(len(rest)):
            x[rest[i]] = found[i]
        for k in range(len(gone)):
            v = b[gone_row[k]]
            s = 0.0  # of every other entry: one sum waits for itself
            e = across_ptr[k]
            while e + 1 < across_ptr[k + 1]:
                v -= across[e] * found[across_at[e]]
                s += across[e + 1] * found[across_at[e + 1]]
                e += 2
            if e < across_ptr[k + 1]:
                v -= across[e] * found[across_at[e]]
            x[gone[k]] = (v - s) / pivot[k]
        return
    for i in range(len(rest)):
        for t in range(m):
            x[rest[i] * m + t] = found[i * m + t]
    for k in range(len(gone)):
        for t in range(m):
            v = b[gone_row[k] * m + t]
            for e in range(across_ptr[k], across_ptr[k + 1]):
                v -= across[e] * found[across_at[e] * m + t]
            x[gone[k] * m + t] = v / pivot[k]


@kernel
def reduce_transposed(
    m: int,
    gone: Ints,
    rest: Ints,
    pivot: Floats,
    across_ptr: Ints,
    across_at: Ints,
    across: Floats,
    b: Floats,
    w: Floats,
    reduced: Floats,
) -> None:
    """reduced = b_R − A_KRᵀ D⁻¹ b_K, all with m columns; w: scratch for D⁻¹ b_K. The twin of `reduce`."""
    if m == 1:
        for i in range(len(rest)):
            reduced[i] = b[rest[i]]
        for k in range(len(gone)):
            v = b[gone[k]] / pivot[k]
            w[k] = v
            if v != 0.0:  # nan goes on
                for e in range(across_ptr[k], across_ptr[k + 1]):
                    reduced[across_at[e]] -= across[e] * v
        return
    for i in range(len(rest)):
        for t in range(m):
            reduced[i * m + t] = b[rest[i] * m + t]
    for k in range(len(gone)):
        for t in range(m):
            v = b[gone[k] * m + t] / pivot[k]
            w[k * m + t] = v
            if v != 0.0:
                for e in range(across_ptr[k], across_ptr[k + 1]):
                    reduced[across_at[e] * m + t] -= across[e] * v


@kernel
def recover_transposed(
    m: int,
    gone: Ints,
    gone_row: Ints,
    rest_row: Ints,
    pivot: Floats,
    down_ptr: Ints,
    down_at: Ints,
    down: Floats,
    w: Floats,
    b: Floats,
    found: Floats,
    x: Floats,
) -> None:
    """x_R = found, x_K = D⁻¹ (b_K − A_RKᵀ x_R), all with m columns; w: scratch. The twin of `recover`."""
    if m == 1:
        for k in range(len(gone)):
            w[k] = b[gone[k]]
        for i in range(len(rest_row)):
            v = found[i]
            x[rest_row[i]] = v
            if v != 0.0:
                for e in range(down_ptr[i], down_ptr[i + 1]):
                    w[down_at[e]] -= down[e] * v
        for k in range(len(gone)):
            x[gone_row[k]] = w[k] / pivot[k]
        return
    for k in range(len(gone)):
        for t in range(m):
            w[k * m + t] = b[gone[k] * m + t]
    for i in range(len(rest_row)):
        for t in range(m):
            v = found[i * m + t]
            x[rest_row[i] * m + t] = v
            if v != 0.0:
                for e in range(down_ptr[i], down_ptr[i + 1]):
                    w[down_at[e] * m + t] -= down[e] * v
    for k in range(len(gone)):
        for t in range(m):
            x[gone_row[k] * m + t] = w[k * m + t] / pivot[k]
