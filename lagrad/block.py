"""One block as equations of its own: F(u) = 0 in the block's states, earlier states held.

Takes a layout and the arrays of a solve, gives F, its magnitude and its Jacobian at any point, dense for a
small block and sparse for a large one. Solves nothing nonlinear; knows positions, no names. Evaluating a
point writes it into v.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly import forward
from lagrad.assembly.machine import assign_rows, rows_jacobian
from lagrad.layout import Layout
from lagrad.linalg.blocks import LargeBlock, inner_entries
from lagrad.linalg.sparse import SparsePattern

if TYPE_CHECKING:
    import scipy.sparse as sp

Floats = NDArray[np.float64]

# a large block of that many states at most, of which one entry in `FILLED` is not zero, is a dense matrix here: its
# factors fill, and the ladder on 200 states of a recurrent network takes a third of the time
DENSE, FILLED = 500, 10
PANEL = 64  # columns that LAPACK factors together, for which it is given room
GOLDEN = 0.6180339887498949  # its multiples modulo 1 keep their distance from each other


@dataclass(frozen=True, eq=False)
class Square:
    """A square matrix, dense or CSR, and what the methods of the ladder ask of it."""

    matrix: NDArray[np.float64] | sp.csr_array
    pattern: SparsePattern | None  # that of a CSR matrix

    def times(self, x: Floats) -> Floats:
        """A x."""
        return np.asarray(self.matrix @ x)

    def transposed_times(self, x: Floats) -> Floats:
        """Aᵀ x."""
        return np.asarray(self.matrix.T @ x)

    def scaled(self, rows: Floats, columns: Floats) -> Square:
        """diag(rows) A diag(columns)."""
        import scipy.sparse as sp

        if isinstance(self.matrix, np.ndarray):
            return Square(self.matrix * rows[:, None] * columns, None)
        a = self.matrix
        data = a.data * np.repeat(rows, np.diff(a.indptr)) * columns[a.indices]
        return Square(sp.csr_array((data, a.indices, a.indptr), shape=a.shape), self.pattern)

    def row_sizes(self) -> Floats:
        """The largest magnitude in each row."""
        if isinstance(self.matrix, np.ndarray):
            return np.asarray(np.abs(self.matrix).max(axis=1, initial=0.0))
        return np.asarray(abs(self.matrix).max(axis=1).toarray().ravel())

    def diagonal(self) -> Floats:
        """The diagonal; in block order a constraint stands in the row of the state that it is paired with."""
        return np.asarray(self.matrix.diagonal())

    def shifted(self, d: Floats) -> Square:
        """A + diag(d). Every diagonal entry of a block is part of its pattern."""
        import scipy.sparse as sp

        if isinstance(self.matrix, np.ndarray):
            return Square(self.matrix + np.diag(d), None)
        a = self.matrix
        row = np.repeat(np.arange(d.size, dtype=a.indices.dtype), np.diff(a.indptr))
        data = a.data.copy()
        data[row == a.indices] += d
        return Square(sp.csr_array((data, a.indices, a.indptr), shape=a.shape), self.pattern)

    def solve(self, rhs: Floats) -> Floats:
        """A⁻¹ rhs for rhs (n,) or (n, k); nan where A is singular."""
        if isinstance(self.matrix, np.ndarray):
            rows = self.row_sizes()
            with np.errstate(all="ignore"):
                try:
                    found = np.linalg.solve(self.matrix / rows[:, None], (rhs.T / rows).T)
                    return np.asarray(found, dtype=np.float64)
                except np.linalg.LinAlgError:
                    return np.full(rhs.shape, np.nan)
        assert self.pattern is not None
        return self.pattern.factor(self.matrix.data).solve(rhs)

    def damped(self, r: Floats, mu: float) -> Floats:
        """The x that minimises |A x + r|² + mu |x|², mu > 0."""
        import scipy.sparse as sp
        import scipy.sparse.linalg as spla

        if isinstance(self.matrix, np.ndarray):
            from scipy.linalg.lapack import dgels

            # least squares over [A; √mu I] without its Q: 1.9 ms for 200 states, and 6.4 with a Q that is formed
            n = r.size
            stacked = np.zeros((2 * n, n), order="F")
            stacked[:n] = self.matrix
            stacked[np.arange(n, 2 * n), np.arange(n)] = np.sqrt(mu)
            target = np.concatenate([-r, np.zeros(n)])[:, None]
            _, found, info = dgels(stacked, target, lwork=PANEL * 2 * n, overwrite_a=True, overwrite_b=True)
            return np.asarray(found[:n, 0]) if info == 0 else np.full(n, np.nan)  # where mu has underflowed
        # y = −(A x + r) and Aᵀ y = mu x: never Aᵀ A, which would fill and lose half of the digits
        n = r.size
        one = sp.eye_array(n)
        whole = sp.csc_array(sp.block_array([[one, self.matrix], [self.matrix.T, -mu * one]]))
        try:
            return np.asarray(spla.splu(whole).solve(np.concatenate([-r, np.zeros(n)]))[n:])
        except RuntimeError:
            return np.full(n, np.nan)


@dataclass(frozen=True, eq=False)
class Point:
    """F, its magnitude and its Jacobian at one u; all finite."""

    u: Floats  # (n,)
    r: Floats  # (n,)
    magnitude: Floats  # (n,) see Machine.jacobian
    by_u: Square

    @property
    def scaled_residual(self) -> float:
        """Largest |F_i| / magnitude_i."""
        return self.residual_by(self.magnitude)

    def residual_by(self, magnitude: Floats) -> float:
        """Largest |F_i| / magnitude_i for other magnitudes."""
        with np.errstate(divide="ignore", invalid="ignore"):
            out = np.where(self.r == 0.0, 0.0, np.abs(self.r) / magnitude)
        return float(out.max(initial=0.0))


def open_block(layout: Layout, block: int, v: Floats) -> None:
    """Give the definitions and hidden states of a block the values that they have at its other states in v."""
    machine = layout.machine
    which = layout.opening[layout.opening_ptr[block] : layout.opening_ptr[block + 1]]
    if which.size:
        assign_rows(which, machine.tapes, machine.terms, machine.rows, np.empty(machine.registers), v)


def propagated_magnitude(
    layout: Layout, lo: int, hi: int, magnitude: Floats, sizes_times: Callable[[Floats], Floats]
) -> Floats:
    """Magnitudes of rows [lo, hi) with what rounding in the block's own definitions passes on.

    + Σ_j |∂R_i/∂u_j| magnitude_j over states j that a row u_j == f defines: a sum that comes out as zero is known to
    the rounding of its terms only, whatever its own size. `sizes_times(x)`: the block's |∂R_i/∂u_j| times x. One step
    along the definitions, so that a loop of them cannot add up.
    """
    defined = layout.machine.rows.lhs[lo:hi] - (layout.m + lo)
    own = (defined >= 0) & (defined < hi - lo)
    passed = np.zeros(hi - lo)
    passed[defined[own]] = magnitude[own]
    out: Floats = magnitude + sizes_times(passed)
    return out


class BlockEquations:
    """F(u) = 0 of one block; `v` (m+n of the layout) holds parameters and earlier states, and takes u."""

    def __init__(
        self, layout: Layout, block: int, v: Floats, residual: Floats, magnitude: Floats, data: Floats
    ) -> None:
        self.layout, self.block, self.v = layout, block, v
        self._arrays = residual, magnitude, data
        self.lo, self.hi = int(layout.ptr[block]), int(layout.ptr[block + 1])
        self.n = self.hi - self.lo
        rows = slice(self.lo, self.hi)
        self.scale = layout.scale[rows]
        self.lower = layout.lower[rows] if layout.lower.size else np.full(self.n, -np.inf)
        self.upper = layout.upper[rows] if layout.upper.size else np.full(self.n, np.inf)
        self.large: LargeBlock | None = None
        self._group = 0
        for g, candidate in enumerate(layout.pattern.large):
            if candidate.block == block:
                self.large, self._group = candidate, g + 1
        pattern = layout.pattern
        self._indptr, self._slots = inner_entries(pattern.indptr, pattern.split, self.lo, self.hi)
        self._indices = pattern.indices[self._slots] - np.int32(self.lo)
        filled = self._slots.size >= self.n**2 / FILLED
        self._sparse = self.large is not None and not (filled and self.n <= DENSE)
        self._row = np.repeat(np.arange(self.n), np.diff(self._indptr))

    def at(self, u: Floats) -> Point | None:
        """Everything at u, or None where F or a partial is not a finite number."""
        import scipy.sparse as sp

        machine, (residual, magnitude, data) = self.layout.machine, self._arrays
        self.v[machine.m + self.lo : machine.m + self.hi] = u
        if self.large is not None:
            self.layout.pattern.counters.add("evaluations")
            machine.group_jacobian(self._group, self.v, residual, magnitude, data)
        else:
            reg, adj = np.empty(machine.registers), np.empty(machine.registers)
            rows_jacobian(
                self.lo, self.hi, machine.tapes, machine.terms, machine.rows, machine.nnz_u, reg, adj,
                self.v, residual, magnitude, data,
            )  # fmt: skip
        r, size, entries = residual[self.lo : self.hi], magnitude[self.lo : self.hi], data[self._slots]
        if not (np.isfinite(r).all() and np.isfinite(size).all() and np.isfinite(entries).all()):
            return None
        if self._sparse:
            assert self.large is not None
            csr = sp.csr_array((entries, self._indices, self._indptr), shape=(self.n, self.n))
            return Point(u.copy(), r.copy(), size.copy(), Square(csr, self.large.pattern))
        dense = np.zeros((self.n, self.n))
        dense[self._row, self._indices] = entries
        return Point(u.copy(), r.copy(), size.copy(), Square(dense, None))

    def here(self) -> Floats:
        """The block's states in v (n,), a copy."""
        return self.v[self.layout.m + self.lo : self.layout.m + self.hi].copy()

    def opened(self, u: Floats) -> Floats:
        """u (n,) with the definitions and hidden states in it as the others give them."""
        self.v[self.layout.m + self.lo : self.layout.m + self.hi] = u
        open_block(self.layout, self.block, self.v)
        return self.here()

    def sizes(self, u: Floats) -> Floats:
        """Typical sizes (n,) of the states near u."""
        return np.maximum(np.abs(u), self.scale)

    def typical_magnitude(self, at: Point) -> Floats:
        """Magnitudes (n,) where the states have their typical sizes near `at`, and no smaller than there."""
        return np.maximum(at.magnitude, self._magnitude_of_size(self.sizes(at.u), at.u))

    def declared_magnitude(self, at: Point) -> Floats:
        """Magnitudes (n,) where the states have the sizes of their guesses; those at `at` if there are none."""
        found = self._magnitude_of_size(self.scale, at.u)
        return np.where(found > 0.0, found, at.magnitude)

    def propagated_magnitude(self, at: Point) -> Floats:
        """`propagated_magnitude` of this block."""
        sizes = abs(at.by_u.matrix)
        return propagated_magnitude(
            self.layout, self.lo, self.hi, at.magnitude, lambda x: np.asarray(sizes @ x)
        )

    def _magnitude_of_size(self, sizes: Floats, u: Floats) -> Floats:
        out = np.zeros(self.n)
        apart = self.apart(sizes)
        for signed in (np.copysign(apart, u), np.where(np.arange(self.n) % 2, apart, -apart)):
            point = self.at(signed)
            if point is not None:
                out = np.maximum(out, point.magnitude)
        self.v[self.layout.m + self.lo : self.layout.m + self.hi] = u
        return out

    def apart(self, sizes: Floats) -> Floats:
        """Such sizes (n,), from half to three halves, that differences of states do not vanish by accident."""
        return sizes * (0.5 + np.arange(self.n) * GOLDEN % 1.0)

    def within(self, start: Floats, u: Floats) -> Floats:
        """u, with components beyond a bound replaced by points most of the way there from `start`."""
        low = u <= self.lower
        high = u >= self.upper
        if low.any() or high.any():
            u = np.where(low, start + forward.TO_BOUND * (self.lower - start), u)
            u = np.where(high, start + forward.TO_BOUND * (self.upper - start), u)
        return u
