"""A block lower triangular matrix: factor its blocks, sweep through them forwards and backwards.

Takes a square CSR matrix A (indptr, indices int32, sorted; data float64) that is already permuted, and block
pointers ptr: row k of block b, ptr[b] <= k < ptr[b + 1], has columns below ptr[b + 1] only. Gives solutions
of A X = B and Aᵀ X = B and says how exact they are. Knows no names, no constraints, no states.

    pattern = BlockPattern.analyze(indptr, indices, ptr)     once per structure
    factors = pattern.factor(data)                           once per values; then factors.refactor(data)
    x       = factors.solve(rhs, transpose)                  once per right-hand sides

A block of size 1 is a division; a small block is a dense LU inside the compiled sweep; a large block is a
sparse LU (`lagrad.linalg.sparse`). Python runs once per large block, never per row or per small block.

The forward sweep goes from the first block to the last: subtract what earlier blocks contribute, solve the
block. The transposed sweep goes from the last to the first: solve the transposed block, subtract what it
contributes to earlier blocks. Their compiled parts, twins, are in `lagrad.linalg.sweeps`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagrad.linalg.condition import NullVectors, condition_large, condition_small, null_vectors
from lagrad.linalg.elimination import EliminatedFactor, analyze_with
from lagrad.linalg.sparse import (
    REGULAR,
    Counters,
    Reference,
    SparseFactor,
    SparsePattern,
    transposed_pattern,
    values,
)
from lagrad.linalg.sweeps import (
    EPS,
    backward_error,
    backward_errors,
    factor_small,
    residual_rows,
    subtract_earlier,
    subtract_from_earlier,
    sweep_forward,
    sweep_transposed,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

DENSE_MAX = 64
"""Largest block that is factored as a dense matrix.

Measured, milliseconds of CPU for one call of a `system.function` (solve and gradient), dense against sparse: a loop,
three entries in a row, of 50 states 0.08 and 0.51, of 96 states 0.23 and 0.55, of 128 states 0.40 and 0.58; a full
matrix of 32 states 0.23 and 0.64, of 64 states 1.08 and 1.09, of 96 states 3.0 and 1.7.
"""

REFINEMENT = 2.5
"""One step of refinement of a large block, with its residual, in solves (grid of 9241 buses: 0.88 ms and 0.36 ms)."""


TINY = 1e-300  # a size below it is no unit to measure a residual in


@dataclass(frozen=True, eq=False)
class LargeBlock:
    """One block with a sparse LU of its own: rows lo .. hi − 1 of the matrix."""

    block: int
    lo: int
    hi: int
    slots: Longs  # where the entries inside the block stand in `data`, row by row
    pattern: SparsePattern
    reference: Reference


class Transposed(NamedTuple):
    """The pattern of a block lower triangular matrix by columns: that of its transpose by rows."""

    indptr: Ints  # (n + 1,)
    indices: Ints  # (nnz,)
    split: Ints  # (n,) in each row of the transpose, the first entry beyond its diagonal block
    places: Ints  # (nnz,) where each entry stands in `data`


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """All that depends on the pattern only. n rows, nb blocks."""

    indptr: Ints  # (n + 1,)
    indices: Ints  # (nnz,)
    ptr: Ints  # (nb + 1,) first row of each block
    split: Ints  # (n,) in each row, the first entry inside the diagonal block
    packed: Longs  # (nb + 1,) where each small block stands in the packed storage; large blocks take no room
    large: tuple[LargeBlock, ...]  # in order
    longest_row: (
        Ints  # (nb,) most entries of a row of the block, of all columns: bounds rounding in a residual
    )
    longest_column: Ints  # (nb,) most entries of a column of the block, of all rows
    counters: Counters

    @property
    def n(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def transposed(self) -> Transposed:
        """The pattern by columns, found when it is first asked for."""
        indptr, indices, places = transposed_pattern(self.indptr, self.indices)
        sizes = np.diff(self.ptr)
        last = np.repeat(
            np.repeat(self.ptr[1:], sizes), np.diff(indptr)
        )  # of each entry, the end of its block
        inside = np.zeros(len(indices) + 1, np.int64)
        np.cumsum(indices < last, out=inside[1:])
        split = indptr[:-1] + (inside[indptr[1:]] - inside[indptr[:-1]]).astype(np.int32)
        return Transposed(indptr, indices, split, places)

    @property
    def nb(self) -> int:
        return len(self.ptr) - 1

    @staticmethod
    def analyze(
        indptr: Ints,
        indices: Ints,
        ptr: Ints,
        dense_max: int = DENSE_MAX,
        counters: Counters | None = None,
        backend: str = "superlu",
        known: Ints | None = None,
    ) -> BlockPattern:
        """Find what every block needs; blocks of more than `dense_max` rows are large.

        `backend` names the sparse solver of the large ones; `known` (n,): of each row the column that a division
        gives, to be eliminated from these beforehand (`lagrad.linalg.elimination`), or a negative number. ValueError
        if an entry stands above the blocks.
        """
        counters = Counters() if counters is None else counters
        indptr, indices, ptr = (_int32(a) for a in (indptr, indices, ptr))
        n, sizes = len(indptr) - 1, np.diff(ptr)
        first = np.repeat(ptr[:-1], sizes)  # (n,) first row of the block of each row
        row = np.repeat(np.arange(n, dtype=np.int32), np.diff(indptr))
        if np.any(indices >= np.repeat(ptr[1:], sizes)[row]):
            raise ValueError("the matrix has an entry above its diagonal blocks")
        inside = np.zeros(len(indices) + 1, np.int64)
        np.cumsum(indices >= first[row], out=inside[1:])
        split = (indptr[1:] - (inside[indptr[1:]] - inside[indptr[:-1]])).astype(np.int32)
        is_large = sizes > max(dense_max, 1)
        packed = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(np.where(is_large, 0, sizes.astype(np.int64) ** 2), out=packed[1:])
        large = []
        for b in np.flatnonzero(is_large).tolist():
            lo, hi = int(ptr[b]), int(ptr[b + 1])
            local, slots = inner_entries(indptr, split, lo, hi)
            inner = indices[slots] - np.int32(lo)
            given = np.full(hi - lo, -1, np.int32) if known is None else known[lo:hi] - np.int32(lo)
            given = np.where((given < 0) | (given >= hi - lo), -1, given).astype(np.int32)
            sub = analyze_with(local, inner, hi - lo, given, counters, backend)
            large.append(LargeBlock(b, lo, hi, slots, sub, Reference()))
        rows, columns = np.diff(indptr), np.bincount(indices, minlength=n).astype(np.int32)
        if len(sizes):
            rows, columns = (np.maximum.reduceat(count, ptr[:-1]) for count in (rows, columns))
        return BlockPattern(indptr, indices, ptr, split, packed, tuple(large), rows, columns, counters)

    def factor(
        self,
        data: Floats,
        large: Mapping[int, SparseFactor] | None = None,
        far: Collection[int] = (),
    ) -> BlockFactors:
        """Factor every block for the values `data` (nnz,).

        `large` lends, for some large blocks (by block number), the factor of a nearby matrix to be used in
        place of this matrix's own. With such a factor `solve` is only approximate; `solve_refined` makes it
        exact. Of the blocks in `far` only the pivots are taken over.
        """
        lent = large or {}
        data = values(data)

        def factor(block: LargeBlock) -> SparseFactor:
            if block.block not in lent:
                return block.pattern.factor(data[block.slots])
            near = lent[block.block]
            entries = data[block.slots]
            return near.refactor(entries) if block.block in far else _borrowed(near, entries)

        factors = tuple(factor(block) for block in self.large)
        return self._with_small_blocks(data, factors, frozenset(lent).difference(far))

    def _with_small_blocks(
        self, data: Floats, large: tuple[SparseFactor, ...], borrowed: frozenset[int]
    ) -> BlockFactors:
        lu = np.empty(int(self.packed[-1]))
        piv = np.zeros(self.n, np.int32)
        r, c = np.ones(self.n), np.ones(self.n)
        status = np.zeros(self.nb, np.int8)
        factor_small(
            self.ptr, self.indptr, self.split, self.indices, data, self.packed, lu, piv, r, c, status
        )
        for block, factor in zip(self.large, large, strict=True):
            status[block.block] = factor.status
        return BlockFactors(self, data, lu, piv, r, c, status, large, borrowed)


def _borrowed(factor: SparseFactor, data: Floats) -> SparseFactor:
    """The factor of a nearby matrix, to be used for one with the entries `data`."""
    return factor.around(data) if isinstance(factor, EliminatedFactor) else factor


@dataclass(frozen=True, eq=False)
class Residuals:
    """How exactly a refined solution X of A X = B (or Aᵀ X = B) satisfies its equations.

    The measure is the componentwise backward error of Oettli and Prager (1964), max_i |B − A X|_i / (|A||X| +
    |B|)_i: the largest relative change of any single entry of A and B that makes X exact, whatever the scales
    of rows and columns. Where the denominator is itself only rounding (Arioli, Demmel and Duff 1989, §3: at
    most 1000 n_b eps times the largest product that the row could hold), that largest product is added to it.
    inf where X is not finite.
    """

    overall: float
    block: Floats  # (nb,) largest over the block's rows and all right-hand sides
    column: Floats  # (k,) largest over all rows, for each right-hand side
    refactored: tuple[int, ...]  # blocks whose borrowed factor was too far away, and was replaced
    factors: BlockFactors  # the factors that gave X: those asked, or with the replaced ones


@dataclass(frozen=True, eq=False)
class BlockFactors:
    """Factors of every block of one matrix. Never changes once made, so threads may share it."""

    pattern: BlockPattern
    data: Floats  # (nnz,) the values, exactly as given
    lu: Floats  # packed factors of the blocks that are not large, by rows; 1×1: the number itself
    piv: Ints  # (n,) pivots of small blocks, local to the block
    r: Floats  # (n,) row scales under which the pivots of small blocks were chosen, powers of two
    c: Floats  # (n,) column scales likewise
    status: NDArray[np.int8]  # (nb,) REGULAR, ZERO_PIVOT or NOT_FINITE
    large: tuple[SparseFactor, ...]  # one per pattern.large
    borrowed: frozenset[int]  # large blocks (by number) whose factor is of a nearby matrix

    @property
    def singular_blocks(self) -> NDArray[np.intp]:
        """Blocks with a pivot that is exactly zero, or with values that are not finite.

        Solutions are nan in these blocks, and in all that depend on them.
        """
        return np.flatnonzero(self.status != REGULAR)

    @cached_property
    def by_columns(self) -> Floats:
        """(nnz,) the values in the order of `BlockPattern.transposed`."""
        return self.data[self.pattern.transposed.places]

    def large_factors(self) -> dict[int, SparseFactor]:
        """Block number -> its sparse factor: what `BlockPattern.factor(data, large=…)` borrows."""
        return {block.block: factor for block, factor in zip(self.pattern.large, self.large, strict=True)}

    def refactor(self, data: Floats) -> BlockFactors:
        """Factors for other values, large blocks on the pivots found earlier where these still serve."""
        data = values(data)
        large = tuple(
            factor.refactor(data[block.slots])
            for block, factor in zip(self.pattern.large, self.large, strict=True)
        )
        return self.pattern._with_small_blocks(data, large, frozenset())

    def own(self) -> BlockFactors:
        """The same with every borrowed factor replaced by a refactorization for this matrix."""
        return self.renewed(self.borrowed) if self.borrowed else self

    def renewed(self, blocks: Collection[int]) -> BlockFactors:
        """The same with the factors of these large blocks replaced by refactorizations for this matrix."""
        large = [
            factor.refactor(self.data[block.slots]) if block.block in blocks else factor
            for block, factor in zip(self.pattern.large, self.large, strict=True)
        ]
        return self._with_large(large, blocks)

    def _with_large(self, large: Sequence[SparseFactor], own: Collection[int]) -> BlockFactors:
        status = self.status.copy()
        for block, factor in zip(self.pattern.large, large, strict=True):
            status[block.block] = factor.status
        return replace(self, status=status, large=tuple(large), borrowed=self.borrowed.difference(own))

    def solve(self, rhs: Floats, transpose: bool = False) -> Floats:
        """X with A X = rhs, or Aᵀ X = rhs, for rhs (n,) or (n, k). Approximate where a factor is borrowed."""
        x = np.array(rhs, dtype=np.float64, order="C")
        self._sweep(x.reshape(self._shape(x)), transpose)
        return x

    def solve_refined(self, rhs: Floats, transpose: bool = False, steps: int = 8) -> tuple[Floats, Residuals]:
        """`solve`, corrected against the exact values until only rounding is left, with the final residual.

        A block with a borrowed factor is refined when the sweep reaches it, in at most `steps` steps; other blocks,
        where it is needed (it rarely is), by one more sweep over the whole residual. Refinement ends when the
        backward error is down to the rounding of the residual itself, or when a step gains less than a factor of
        four. A borrowed factor with which it is then still a hundred times that large, or would take more steps
        than cost a refactorization, is replaced by one.
        """
        b = values(rhs)
        x = b.copy()
        shape = self._shape(x)
        check = _Check(self, b.reshape(shape), transpose)
        factors = list(self.large)
        renewed: list[int] = []

        def solve_large(i: int, x: Floats) -> None:
            block = self.pattern.large[i]
            part = x[block.lo : block.hi]
            wanted = part.copy()
            if block.block in self.borrowed:
                error = check.refine(block, factors[i], wanted, x, steps)
                if error <= 100.0 * check.rounding[block.block]:
                    return
                factors[i] = factors[i].refactor(self.data[block.slots])
                renewed.append(block.block)
            part[...] = factors[i].solve(wanted, transpose)  # checked with all other rows

        x2 = x.reshape(shape)
        self._sweep(x2, transpose, solve_large)
        used = self._with_large(factors, renewed) if renewed else self
        block_error, column_error = check.everywhere(x2)
        worst = float(block_error.max(initial=0.0))
        for _ in range(steps):
            if np.all(block_error <= check.rounding) or not math.isfinite(worst):
                break
            corrected = check.residual.copy()
            used._sweep(corrected, transpose)
            corrected += x2
            self.pattern.counters.add("refinements")
            new_block, new_column = check.everywhere(corrected)
            new_worst = float(new_block.max(initial=0.0))
            if not new_worst < worst:
                break
            gained = new_worst <= worst / 4.0
            x2[...] = corrected
            block_error, column_error, worst = new_block, new_column, new_worst
            if not gained:
                break
        far = [b for b in used.borrowed if not block_error[b] <= 100.0 * check.rounding[b]]
        if far:
            x, found = used.renewed(far).solve_refined(rhs, transpose, steps)
            return x, replace(found, refactored=tuple(sorted({*renewed, *far, *found.refactored})))
        return x, Residuals(worst, block_error, column_error, tuple(sorted(renewed)), used)

    def residuals(self, x: Floats, rhs: Floats, transpose: bool = False) -> Residuals:
        """How exactly a given x solves A x = rhs, or Aᵀ x = rhs, measured as in `solve_refined`."""
        x, b = values(x), values(rhs)
        shape = self._shape(x)
        block_error, column_error = _Check(self, b.reshape(shape), transpose).everywhere(x.reshape(shape))
        return Residuals(float(block_error.max(initial=0.0)), block_error, column_error, (), self)

    def condition(self, bound: bool = False) -> Floats:
        """Estimated 1/cond (nb,) of each block, equilibrated, in the 1-norm; 0 where singular.

        `bound`: of large blocks a number that it is above, for two solves with each instead of about five.
        """
        p = self.pattern
        rcond = np.zeros(p.nb)
        matrix = (p.ptr, p.indptr, p.split, p.indices, self.data)
        condition_small(*matrix, p.packed, self.lu, self.piv, self.r, self.c, self.status, rcond)
        for block, factor in zip(p.large, self.large, strict=True):
            rcond[block.block] = condition_large(block.pattern, self.data[block.slots], factor, bound)
        return rcond

    def null_vectors(self, block: int) -> NullVectors:
        """Approximate left and right null vectors of one block, to diagnose a (nearly) singular one."""
        lo, hi = int(self.pattern.ptr[block]), int(self.pattern.ptr[block + 1])
        dense = self.pattern.packed[block + 1] > self.pattern.packed[block]
        return null_vectors(*self._alone(lo, hi), bool(dense))

    def _alone(self, lo: int, hi: int) -> tuple[Ints, Ints, int, Floats]:
        """indptr, indices, n and values of the diagonal block in rows lo .. hi − 1 as a matrix of its own."""
        indptr, slots = inner_entries(self.pattern.indptr, self.pattern.split, lo, hi)
        return indptr, self.pattern.indices[slots] - np.int32(lo), hi - lo, self.data[slots]

    def _shape(self, x: Floats) -> tuple[int, int]:
        if x.ndim not in (1, 2) or x.shape[0] != self.pattern.n:
            raise ValueError(f"right-hand sides have shape {x.shape}; the matrix has {self.pattern.n} rows")
        return x.shape[0], 1 if x.ndim == 1 else x.shape[1]

    def _sweep(
        self, x: Floats, transpose: bool, solve_large: Callable[[int, Floats], None] | None = None
    ) -> None:
        """x (n, k) ← A⁻¹ x or A⁻ᵀ x; solve_large(i, x), if given, solves in the rows of large block i."""
        p = self.pattern
        p.counters.add("sweeps")
        m, flat = x.shape[1], x.reshape(-1)
        matrix = (p.indptr, p.split, p.indices, self.data)
        blocks = (p.ptr, *matrix, p.packed, self.lu, self.piv)

        def plain(i: int, x: Floats) -> None:
            rows = x[p.large[i].lo : p.large[i].hi]
            rows[...] = self.large[i].solve(rows, transpose)

        solve_large = solve_large or plain
        if not transpose:
            at = 0
            for i, block in enumerate(p.large):
                sweep_forward(at, block.block, m, *blocks, flat)
                subtract_earlier(block.lo, block.hi, m, *matrix, flat)
                solve_large(i, x)
                at = block.block + 1
            sweep_forward(at, p.nb, m, *blocks, flat)
        else:
            at = p.nb
            for i, block in reversed(list(enumerate(p.large))):
                sweep_transposed(block.block + 1, at, m, *blocks, flat)
                if x[block.lo : block.hi].any():  # as in `sweep_transposed`
                    solve_large(i, x)
                    subtract_from_earlier(block.lo, block.hi, m, *matrix, flat)
                at = block.block
            sweep_transposed(0, at, m, *blocks, flat)


class _Check:
    """Residual and backward error of candidate solutions of one system, in arrays that are used again."""

    def __init__(self, factors: BlockFactors, b: Floats, transpose: bool) -> None:
        p = factors.pattern
        self.factors = factors
        self.transpose = transpose
        self.b = b  # (n, k)
        self.wanted = np.empty(
            b.shape
        )  # right-hand sides of large blocks, less what earlier blocks contribute
        self.residual = np.empty(b.shape)
        self.size = np.empty(b.shape)
        self.largest = np.empty(p.n)
        self.block = np.empty(p.nb)
        longest = p.longest_column if transpose else p.longest_row
        # (nb,) what an exact solution, rounded, could show: the sum of a row is known to eps times its length
        self.rounding = EPS * (8.0 + longest)

    def everywhere(self, x: Floats) -> tuple[Floats, Floats]:
        """Backward error of x (n, k) by block (nb,) and by column (k,); leaves b − A x in self.residual."""
        p, m = self.factors.pattern, x.shape[1]
        column = np.zeros(m)
        if m == 1:  # in one pass, by rows of the transpose, one column takes as long
            self._measure(0, p.nb, p.indptr[:-1], self.b, x, column)
            return self.block.copy(), column
        if self.transpose:
            t = p.transposed
            matrix = (t.indptr, t.indptr[:-1], t.split, t.indices, self.factors.by_columns)
        else:
            matrix = (p.indptr, p.split, p.indptr[1:], p.indices, self.factors.data)
        backward_errors(
            m, p.ptr, *matrix, self.b.reshape(-1), x.reshape(-1), self.residual.reshape(-1), np.empty(16), self.block,
            column,
        )  # fmt: skip
        return self.block.copy(), column

    def refine(self, block: LargeBlock, factor: SparseFactor, wanted: Floats, x: Floats, steps: int) -> float:
        """Solve one large block alone for `wanted`, in its rows of x, and refine; its backward error.

        With M the matrix that the factor is of, refinement adds M⁻¹ r, r = b − A x. Here each step goes as far along
        M⁻¹ r, made conjugate to the directions before, as leaves the least of r (Eisenstat, Elman and Schultz 1983), in
        the norm in which the backward error is measured: what M differs from A by is often smooth, and a few directions
        hold most of it (Bratu on 256² points, factor of another solution: 4 steps instead of 6 to 2e-16).

        inf once a refactorization would be cheaper than the steps that are left, if each gains what the last did
        (the first gains about what the factor's error is). A step of which that promises enough is the last, and is
        measured with all other rows.
        """
        rows = slice(block.lo, block.hi)
        part, residual = x[rows], self.residual[rows]
        self.wanted[rows] = wanted
        rounding = float(self.rounding[block.block])
        part[...] = factor.solve(wanted, self.transpose)
        gain = error = self._alone(block, x)
        unit = 1.0 / np.maximum(self.size[rows], TINY)
        before: list[
            tuple[Floats, Floats, Floats, Floats]
        ] = []  # directions d, A d, and that in units, its square
        for _ in range(steps):
            if error <= rounding or not math.isfinite(error):
                break
            if REFINEMENT * more_steps(error, gain, rounding) > factor.price:
                return math.inf
            d = factor.solve(residual, self.transpose)
            self.factors.pattern.counters.add("refinements")
            if 10.0 * gain * error <= rounding:
                part += d
                return rounding
            times_d = self._times(block, d, x)
            for e, times_e, in_units, square in before:
                share = (unit * times_d * in_units).sum(axis=0) / square
                d -= share * e
                times_d -= share * times_e
            in_units = unit * times_d
            square = (in_units**2).sum(axis=0)
            if not (square > 0.0).all():
                break
            before.append((d, times_d, in_units, square))
            far = (unit * residual * in_units).sum(axis=0) / square
            part += far * d
            residual -= far * times_d
            new = self._backward_error(block.block, block.block + 1, x, np.zeros(x.shape[1]))
            if not new < error:
                part -= far * d
                break
            gain, error = new / error, new
            if gain > 0.25:
                break
        return error

    def _alone(self, block: LargeBlock, x: Floats) -> float:
        column = np.zeros(x.shape[1])
        self._measure(block.block, block.block + 1, self.factors.pattern.split, self.wanted, x, column)
        return float(self.block[block.block])

    def _times(self, block: LargeBlock, d: Floats, x: Floats) -> Floats:
        """The block, or its transpose, times d (rows of the block, k); x (n, k) tells the shape of the whole."""
        p, flat = self.factors.pattern, (-1,)
        whole, out, size = np.zeros(x.shape), np.zeros(x.shape), np.empty(x.shape)
        whole[block.lo : block.hi] = -d
        residual_rows(
            block.lo, block.hi, x.shape[1], p.split, p.indptr, p.split, p.indices, self.factors.data, self.transpose,
            np.zeros(x.size), whole.reshape(flat), out.reshape(flat), size.reshape(flat), np.empty(p.n),
        )  # fmt: skip
        return out[block.lo : block.hi]

    def _measure(self, first: int, last: int, start: Ints, b: Floats, x: Floats, column: Floats) -> None:
        """Blocks first .. last − 1, rows from entry start[row] on: whole rows, or their part inside."""
        p, data, m = self.factors.pattern, self.factors.data, x.shape[1]
        out = (self.residual.reshape(-1), self.size.reshape(-1), self.largest)
        lo, hi = int(p.ptr[first]), int(p.ptr[last])
        flat = x.reshape(-1)
        residual_rows(
            lo, hi, m, start, p.indptr, p.split, p.indices, data, self.transpose, b.reshape(-1), flat, *out
        )
        self._backward_error(first, last, x, column)

    def _backward_error(self, first: int, last: int, x: Floats, column: Floats) -> float:
        """From residuals and sizes at hand, the largest of blocks first .. last − 1; see `backward_error`."""
        out = (self.residual.reshape(-1), self.size.reshape(-1), self.largest)
        backward_error(
            first, last, x.shape[1], self.factors.pattern.ptr, x.reshape(-1), *out, self.block, column
        )
        return float(self.block[first:last].max(initial=0.0))


def more_steps(error: float, gain: float, wanted: float) -> float:
    """How many times `error` must be multiplied by `gain` to be at most `wanted`; inf for a gain of 1 or more."""
    if error <= wanted:
        return 0.0
    if not 0.0 < gain < 1.0:
        return math.inf if gain else 1.0
    return math.ceil(math.log(wanted / error) / math.log(gain))


def inner_entries(indptr: Ints, split: Ints, lo: int, hi: int) -> tuple[Ints, Longs]:
    """indptr of the diagonal block in rows lo .. hi − 1, and where its entries stand in the whole matrix."""
    counts = indptr[lo + 1 : hi + 1] - split[lo:hi]
    local = np.zeros(hi - lo + 1, np.int32)
    np.cumsum(counts, out=local[1:])
    slots = np.arange(local[-1], dtype=np.int64) + np.repeat(split[lo:hi] - local[:-1], counts)
    return local, slots


def _int32(a: Ints) -> Ints:
    """`a` as a writable C-contiguous int32 array: the one integer type that the kernels are compiled for."""
    a = np.ascontiguousarray(a, dtype=np.int32)
    return a if a.flags.writeable else a.copy()
