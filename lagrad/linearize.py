"""Linearization: the partials at a point, factored once; everything linear is solved here.

Takes a layout, a point v and, where Newton left them, factors of a nearby Jacobian for the large blocks;
gives adjoint and tangent solutions with the backward error that they reached. Knows positions, no names;
judges nothing.

A definition may be infinite, or have an infinite partial, where nothing depends on it. Its row, with nan and inf in
it, would spoil all sums that it enters with weight zero, so it is left out: u == 0 stands in its place, and the row is
listed in `undefined`. A derivative in which such a row has a part is not one; to see to that is the caller's.

    adjoint   R_uᵀ λ = J_uᵀ      last block to first      dJ/dp = J_p − λᵀ R_p
    tangent   R_u u̇ = −R_p ṗ     first block to last      J̇ = J_u u̇ + J_p ṗ
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.products import minus_times, minus_transposed_times
from lagrad.layout import Layout
from lagrad.linalg.blocks import BlockFactors, Residuals
from lagrad.linalg.sparse import SparseFactor

if TYPE_CHECKING:
    import scipy.sparse as sp

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Undefined:
    """Rows of explicit states that are not finite, or not differentiable to finite numbers, at a point."""

    rows: NDArray[np.int64]  # ascending
    slots: NDArray[np.int64]  # of each, the first partial that is not finite; -1: its value is not
    partials: Floats  # of each, that partial
    # In rows that are otherwise finite, the partials by parameters that are not: they matter to who asks for these.
    by_rows: NDArray[np.int64]
    by_slots: NDArray[np.int64]
    by_parameters: NDArray[np.int64]
    by_partials: Floats


_NONE: Final = np.empty(0, np.int64)
NOTHING_UNDEFINED: Final = Undefined(_NONE, _NONE, np.empty(0), _NONE, _NONE, _NONE, np.empty(0))


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What solving left behind: in the rows of some large blocks R, magnitudes and partials at the solution."""

    groups: frozenset[int]  # those large blocks, by their group of the machine
    v: Floats  # (m+n,) the point, a copy
    residual: Floats  # (n,)
    magnitude: Floats  # (n,)
    data: Floats  # (nnz,)


@dataclass(frozen=True, eq=False, repr=False)
class Linearization:
    """R_u and R_p at one point v, with factors of R_u."""

    layout: Layout
    v: Floats  # (m+n,)
    residual: Floats  # (n,) R at v
    magnitude: Floats  # (n,) see Machine.jacobian
    data: Floats  # (nnz,) partials, R_u then R_p
    factors: BlockFactors
    undefined: Undefined = NOTHING_UNDEFINED

    @staticmethod
    def at(
        layout: Layout,
        v: Floats,
        lent: Mapping[int, SparseFactor] | None = None,
        typical: Mapping[int, Floats] | None = None,
        leave_out: bool = False,
        far: Collection[int] = (),
        evaluated: Evaluated | None = None,
    ) -> Linearization:
        """Evaluate all partials at v and factor; `lent`: factors of nearby Jacobians, by large block.

        `far`: the large blocks of which only the pivots of the lent factor serve. `evaluated`: what need not be
        evaluated again.

        `typical`: magnitudes of the rows of blocks that were accepted as multiple roots, by block; they stand
        in place of those at v, which vanish with the states there. `leave_out`: see the module's first lines.
        """
        layout.pattern.counters.add("evaluations")
        if evaluated is None or not np.array_equal(v, evaluated.v):
            residual, magnitude, data = layout.machine.jacobian(v)
        else:
            residual, magnitude = evaluated.residual.copy(), evaluated.magnitude.copy()
            data = evaluated.data.copy()
            layout.machine.jacobian_beside(evaluated.groups, v, residual, magnitude, data)
        undefined = _leave_out(layout, v, residual, magnitude, data) if leave_out else NOTHING_UNDEFINED
        for block, sizes in (typical or {}).items():
            magnitude[layout.ptr[block] : layout.ptr[block + 1]] = sizes
        return Linearization(
            layout,
            v,
            residual,
            magnitude,
            data,
            layout.pattern.factor(data[: layout.machine.nnz_u], lent, far),
            undefined,
        )

    @cached_property
    def rcond(self) -> Floats:
        """Estimated reciprocal condition of every block (n_blocks,), after equilibration."""
        return self.factors.condition()

    @cached_property
    def rcond_bound(self) -> Floats:
        """What `rcond` is above: the same for small blocks, far less for large ones, and cheaper."""
        return self.factors.condition(bound=True)

    def conditioned(self, limit: float) -> NDArray[np.bool_]:
        """(n_blocks,) whether `rcond` is above `limit`, estimated only where `rcond_bound` does not tell."""
        sure = self.rcond_bound > limit
        return sure if sure.all() else self.rcond > limit

    @cached_property
    def by_parameters(self) -> sp.csr_array:
        """R_p (n, m), for whoever wants the matrix."""
        import scipy.sparse as sp

        machine = self.layout.machine
        rows = machine.rows
        return sp.csr_array(
            (self.data[machine.nnz_u :], rows.b_col, rows.b_ptr), shape=(machine.n, machine.m)
        )

    def minus_by_parameters(self, direction: Floats) -> Floats:
        """−R_p ṗ, for ṗ (m,) or (m, k)."""
        machine, k = self.layout.machine, 1 if direction.ndim == 1 else direction.shape[1]
        out = np.empty((machine.n, *direction.shape[1:]))
        minus_times(
            machine.n, k, machine.rows.b_ptr, machine.rows.b_col, machine.nnz_u, self.data,
            np.ascontiguousarray(direction).reshape(-1), out.reshape(-1),
        )  # fmt: skip
        return out

    def minus_by_parameters_transposed(self, lam: Floats) -> Floats:
        """−R_pᵀ λ, for λ (n,) or (n, k)."""
        machine, k = self.layout.machine, 1 if lam.ndim == 1 else lam.shape[1]
        out = np.zeros((machine.m, *lam.shape[1:]))
        minus_transposed_times(
            machine.n, k, machine.rows.b_ptr, machine.rows.b_col, machine.nnz_u, self.data,
            np.ascontiguousarray(lam).reshape(-1), out.reshape(-1),
        )  # fmt: skip
        return out

    @cached_property
    def own_factors(self) -> BlockFactors:
        """Factors of this very Jacobian: for many right-hand sides cheaper than to refine them all."""
        return self.factors.own()

    def adjoint(self, seeds: Floats) -> tuple[Floats, Residuals]:
        """λ with R_uᵀ λ = seeds, for seeds (n,) or (n, k)."""
        return self._factors_for(seeds).solve_refined(seeds, transpose=True)

    def tangent(self, rhs: Floats) -> tuple[Floats, Residuals]:
        """x with R_u x = rhs, for rhs (n,) or (n, k)."""
        return self._factors_for(rhs).solve_refined(rhs)

    def _factors_for(self, rhs: Floats) -> BlockFactors:
        return self.factors if rhs.ndim == 1 or rhs.shape[1] == 1 else self.own_factors


def _leave_out(layout: Layout, v: Floats, residual: Floats, magnitude: Floats, data: Floats) -> Undefined:
    """Put u == 0 in the place of explicit rows that are not finite at v, and list them."""
    with np.errstate(all="ignore"):
        if np.isfinite(data.sum() + magnitude.sum() + residual.sum()):  # nan and inf outlast any sum
            return NOTHING_UNDEFINED
    machine, n = layout.machine, layout.n
    rows = machine.rows
    of_entry = np.concatenate([np.repeat(np.arange(n), np.diff(ptr)) for ptr in (rows.a_ptr, rows.b_ptr)])
    slots = np.flatnonzero(~np.isfinite(data))
    states = slots[slots < machine.nnz_u]
    first = np.full(n, -1, np.int64)
    first[of_entry[states[::-1]]] = states[::-1]
    value = ~np.isfinite(v[layout.m :])
    explicit = np.repeat(layout.kind == 0, np.diff(layout.ptr))
    bad = ((first >= 0) | value | ~np.isfinite(residual)) & explicit
    by = slots[slots >= machine.nnz_u]
    by = by[explicit[of_entry[by]] & ~bad[of_entry[by]]]
    magnitude[of_entry[by]] = np.abs(
        v[layout.m + of_entry[by]]
    )  # the other terms' is not known; R is 0 there
    bad |= ~np.isfinite(magnitude) & explicit
    by = by[~bad[of_entry[by]]]
    found = np.flatnonzero(bad)
    first = np.where(value, -1, first)[found]
    undefined = Undefined(
        found, first, np.where(first >= 0, data[first], np.nan),
        of_entry[by], by, rows.b_col[by - machine.nnz_u].astype(np.int64), data[by],
    )  # fmt: skip
    data[by] = 0.0
    data[bad[of_entry]] = 0.0
    data[rows.lhs_slot[found]] = rows.sign[found]
    residual[found] = magnitude[found] = 0.0
    return undefined
