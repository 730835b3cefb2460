"""Unknowns that one equation gives outright, eliminated before a sparse LU sees the block.

Takes a square CSR pattern and the positions k whose row may be solved for column k by a division: in a system of
constraints the definitions u_k == f(…), with pivot ±1. Gives a pattern and factors of the kind of
`lagrad.linalg.sparse`, over the whole block. Knows no names.

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
    known: NDArray[np.bool_],
    counters: Counters,
    backend: str = "superlu",
) -> SparsePattern:
    """A pattern of an n×n block in which positions `known` (n,) may be eliminated beforehand."""
    plan = _plan(indptr, indices, n, known)
    if plan is None:
        return BACKENDS[backend](indptr, indices, n, counters)
    inner = analyze_with(plan.indptr, plan.indices, plan.rest.size, plan.still_known, counters, backend)
    return EliminatedPattern(indptr, indices, n, plan, inner, counters, backend)


@dataclass(frozen=True, eq=False)
class Plan:
    """Which positions go, and where every product goes. k of them out of n; r = n − k stay."""

    gone: Ints  # (k,) positions
    rest: Ints  # (r,) positions
    pivot: Ints  # (k,) their entries of A
    indptr: Ints  # (r + 1,) S in CSR
    indices: Ints
    still_known: NDArray[np.bool_]  # (r,) positions of S that may be eliminated in turn
    copied: Ints  # entries of A_RR
    copied_to: Ints  # their entries of S
    product_ptr: Ints  # (r + 1,) the products of each row of S
    left: Ints  # (products,) entry of A_RK
    right: Ints  # entry of A_KR
    over: Ints  # entry of D
    to: Ints  # entry of S
    down_ptr: Ints  # (k + 1,) entries of A_RK, by position gone
    down: Ints
    down_at: Ints  # their row, counted in `rest`
    across_ptr: Ints  # (k + 1,) entries of A_KR, by position gone
    across: Ints
    across_at: Ints  # their column, counted in `rest`


def _plan(indptr: Ints, indices: Ints, n: int, known: NDArray[np.bool_]) -> Plan | None:
    if np.count_nonzero(known) < WORTH * n:
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
    over = diagonal[indices[left]]
    made_row, made_col = place[row[left]], place[indices[right]]
    keys = np.concatenate([
        place[row[copied]].astype(np.int64) * r + place[indices[copied]], made_row.astype(np.int64) * r + made_col
    ])  # fmt: skip
    found, to = np.unique(keys, return_inverse=True)
    s_ptr = np.searchsorted(found, np.arange(r + 1, dtype=np.int64) * r).astype(np.int32)
    product_ptr = np.searchsorted(made_row, np.arange(r + 1)).astype(np.int32)
    touched = np.zeros(r, np.bool_)  # a diagonal entry to which a product was added is no pivot any more
    touched[made_row[made_row == made_col]] = True
    by_gone = np.argsort(met, kind="stable")
    down_ptr = np.zeros(gone.size + 1, np.int32)
    np.cumsum(np.bincount(met, minlength=gone.size), out=down_ptr[1:])
    i = np.int32
    return Plan(
        gone, rest, diagonal[gone], s_ptr, (found % r).astype(i), known[rest] & ~touched,
        copied.astype(i), to[: copied.size].astype(i),
        product_ptr, left.astype(i), right.astype(i), over.astype(i), to[copied.size :].astype(i),
        down_ptr, down[by_gone].astype(i), place[row[down[by_gone]]],
        across_ptr.astype(i), across.astype(i), place[indices[across]],
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
        s = self.complement(data)
        if s is None:
            return self.undivided.factor(data)
        return EliminatedFactor(self, data, self.inner.factor(s))

    @cached_property
    def undivided(self) -> SparsePattern:
        """The block without elimination, analyzed when first needed."""
        return BACKENDS[self.backend](self.indptr, self.indices, self.n, self.counters)

    def complement(self, data: Floats) -> Floats | None:
        """The entries of S, or None where a pivot is zero or a row has lost its digits, or is not finite."""
        plan = self.plan
        s = np.empty(plan.indices.size)
        s[:] = 0.0
        s[plan.copied_to] = data[plan.copied]
        kept = add_products(
            plan.rest.size, plan.indptr, plan.product_ptr, plan.left, plan.right, plan.over, plan.to, data, s
        )
        return s if kept else None


@dataclass(frozen=True, eq=False)
class EliminatedFactor(Estimated):
    """Factors of S, and the entries that lead from it to the whole block."""

    pattern: EliminatedPattern
    data: Floats
    inner: SparseFactor
    lender: EliminatedFactor | None = None  # whose `inner` it is, where `data` are of a matrix near to it

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
        s = self.pattern.complement(data)
        if s is None:
            return self.pattern.undivided.factor(data)
        return EliminatedFactor(self.pattern, data, self.inner.refactor(s))

    def around(self, data: Floats) -> EliminatedFactor:
        """These factors of S with the entries of a matrix near to it: its equations at K are then met exactly."""
        return replace(self, data=values(data), lender=self.lender or self)

    @cached_property
    def inverse(self) -> InverseEstimate:
        """Of the matrix that was factored, once for all that borrow."""
        return super().inverse if self.lender is None else self.lender.inverse

    def solve(self, rhs: Floats, transpose: bool = False) -> Floats:
        """A⁻¹ rhs or A⁻ᵀ rhs, for rhs (n,) or (n, k): the two differ in which entries lead down to S and back."""
        plan, b = self.pattern.plan, values(rhs)
        m = b.size // self.pattern.n if self.pattern.n else 0
        if self.status != REGULAR:
            return np.full(b.shape, np.nan)
        down = plan.down_ptr, plan.down, plan.down_at
        across = plan.across_ptr, plan.across, plan.across_at
        to_rest, from_rest = (across, down) if transpose else (down, across)
        reduced = b[plan.rest]
        reduce_rhs(m, plan.gone, plan.pivot, *to_rest, self.data, b.reshape(-1), reduced.reshape(-1))
        found = self.inner.solve(reduced, transpose)
        x = np.empty_like(b)
        x[plan.rest] = found
        recover(
            m, plan.gone, plan.pivot, *from_rest, self.data, b.reshape(-1), found.reshape(-1), x.reshape(-1)
        )
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
def add_products(
    r: int,
    indptr: Ints,
    product_ptr: Ints,
    left: Ints,
    right: Ints,
    over: Ints,
    to: Ints,
    data: Floats,
    s: Floats,
) -> bool:
    """S ← S − A_RK D⁻¹ A_KR; False as soon as a row is not finite or has lost its digits."""
    for i in range(r):
        if product_ptr[i] == product_ptr[i + 1]:
            continue
        peak = 0.0
        for p in range(product_ptr[i], product_ptr[i + 1]):
            v = data[left[p]] / data[over[p]] * data[right[p]]
            s[to[p]] -= v
            peak = max(peak, abs(v))
        largest = 0.0
        total = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            largest = max(largest, abs(s[e]))
            total += abs(s[e])
        # written so that nan fails; max may drop one
        if not (total < np.inf and peak <= LOSS * largest):
            return False
    return True


@kernel
def reduce_rhs(
    m: int,
    gone: Ints,
    pivot: Ints,
    ptr: Ints,
    entry: Ints,
    at: Ints,
    data: Floats,
    b: Floats,
    reduced: Floats,
) -> None:
    """reduced ← reduced − A_RK D⁻¹ b_K, all with m columns; transposed by the other list of entries."""
    for k in range(len(gone)):
        for t in range(m):
            w = b[gone[k] * m + t] / data[pivot[k]]
            if w != 0.0:  # nan goes on
                for e in range(ptr[k], ptr[k + 1]):
                    reduced[at[e] * m + t] -= data[entry[e]] * w


@kernel
def recover(
    m: int,
    gone: Ints,
    pivot: Ints,
    ptr: Ints,
    entry: Ints,
    at: Ints,
    data: Floats,
    b: Floats,
    found: Floats,
    x: Floats,
) -> None:
    """x_K = D⁻¹ (b_K − A_KR x_R), all with m columns; transposed by the other list of entries."""
    for k in range(len(gone)):
        for t in range(m):
            v = b[gone[k] * m + t]
            for e in range(ptr[k], ptr[k + 1]):
                v -= data[entry[e]] * found[at[e] * m + t]
            x[gone[k] * m + t] = v / data[pivot[k]]
