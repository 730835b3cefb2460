"""The compiled machine: families of terms in block order, fixed sparse slots, and the kernels that read them.

Takes the rows of terms of `lower` and a block lower triangular order, gives `Machine`: flat arrays that Numba kernels
interpret. No code is generated for a model. Knows no names and solves nothing.

Positions. Rows and states are numbered in block order from here on: row k and state k belong together on the
diagonal. The flat variable vector is v = [p, u] with u in block order, so state k is v[m + k].

Slots. The partials of all rows live in one array `data`: first the entries of R_u (n, n) in CSR, then those of R_p
(n, m) in CSR, columns ascending in each row. Every leaf of every term knows its slot.

Two ways through the same arrays. *Family-major*: terms are stored sorted by group and template; a run of one
template in one group is a segment, evaluated `WIDTH` instances at a time. Group 0 holds the rows of blocks that are
solved inside compiled sweeps, group g >= 1 the rows of the g-th large block. *Row-major*: `Rows.term` lists the terms
of each row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.dispatch import block_partials, block_values, tape_partials, tape_values
from lagrad.assembly.edges import EDGED, hides, mark
from lagrad.assembly.lower import Lowered
from lagrad.expr.primitives import OPCODE
from lagrad.kernel import inlined, internal, kernel

Index = NDArray[np.int32]
Floats = NDArray[np.float64]

WIDE = 64  # rows that are evaluated together where they are alike, if storage is given for so many
ALIKE = 8  # rows alike from which on that pays
WIDTH = 128  # instances per block: registers of a usual template stay in the first-level cache
TINY = 2.2250738585072014e-308  # the smallest normal number: below it rounding errors are eps · TINY
# by opcode: results far smaller than the arguments, or about as large as a small one; all others are exact down there
UNDERFLOWS = np.zeros(len(OPCODE), np.bool_)
UNDERFLOWS[
    [
        OPCODE[name]
        for name in (
            "mul", "div", "square", "reciprocal", "powc", "power", "exp", "exp2", "erfc", "expit", "logaddexp",
            "sin", "tan", "arcsin", "arctan", "sinh", "tanh", "arcsinh", "arctanh", "expm1", "log1p", "erf",
        )
    ]
] = True  # fmt: skip
LONG_FAMILIES = 64  # terms per template in group 0 from which on they are stored by template (see `assemble`)
SMALL = (
    4  # rows of a block up to which blocks alike are solved together; `forward` keeps as many numbers of each
)
FEW_TERMS = 512  # below, blocks would be mostly empty: row-major is as fast, and one kernel less to compile


class Tapes(NamedTuple):
    """The templates. T of them, Q operations in all."""

    ptr: Index  # (T+1,) into op, a, b
    op: Index  # (Q,)
    a: Index  # (Q,) registers
    b: Index  # (Q,)
    leaves: Index  # (T,)
    consts: Index  # (T,)


class Terms(NamedTuple):
    """The terms, sorted by group, template, row. L of them."""

    template: Index  # (L,)
    row: Index  # (L,)
    weight: Floats  # (L,)
    leaf_ptr: Index  # (L+1,) into leaf and slot
    const_ptr: Index  # (L+1,) into const
    leaf: Index  # index into v
    const: Floats
    slot: Index  # index into data, one per leaf


class Rows(NamedTuple):
    """The rows, in block order. n of them."""

    ptr: Index  # (n+1,) into term
    term: Index  # (L,) the terms of each row
    lhs: Index  # (n,) index into v of the state u of a row u == f, or -1
    lhs_slot: Index  # (n,) its slot, or -1
    sign: Floats  # (n,)
    a_ptr: Index  # (n+1,) R_u in CSR
    a_col: Index
    b_ptr: Index  # (n+1,) R_p in CSR; its entries of `data` start at a_ptr[n]
    b_col: Index


@dataclass(frozen=True, eq=False)
class Machine:
    """What the kernels read, and the maps between declaration order and block order."""

    tapes: Tapes
    terms: Terms
    rows: Rows
    segments: Index  # (S+1,) first term of each segment
    groups: Index  # (G+1,) first segment of each group
    n: int
    m: int
    registers: int  # the most that a template needs
    row_major: bool  # whether the terms of group 0 are stored row by row, not family by family
    row_order: Index  # (n,) declared row at each position
    col_order: Index  # (n,) declared state at each position
    col_position: Index  # (n,) position of each declared state
    row_position: Index  # (n,) position of each declared row
    group_rows: tuple[tuple[int, int], ...]  # rows [start, stop) of each group g >= 1

    @property
    def nnz_u(self) -> int:
        """Entries of R_u."""
        return int(self.rows.a_ptr[-1])

    @property
    def nnz(self) -> int:
        """Entries of R_u and R_p."""
        return self.nnz_u + int(self.rows.b_ptr[-1])

    def residual(self, v: Floats) -> Floats:
        """R (n,) at v (m+n,)."""
        out = np.empty(self.n)
        _start(0, self.n, self.rows, v, out)
        reg = np.empty((self.registers, WIDTH))
        _residual(0, self.segments.size - 1, self.segments, self.tapes, self.terms, reg, v, out)
        return out

    def jacobian(self, v: Floats) -> tuple[Floats, Floats, Floats]:
        """R (n,), its magnitude (n,) and the partials `data` (nnz,) at v.

        The magnitude of a row is the sum over the registers of its terms of |adjoint · value|: the first-order
        bound of the rounding error of R in units of the machine precision (Linnainmaa 1976), so |R| below a few
        eps · magnitude is as small as R can be made. Below `TINY`, the smallest normal number, rounding is no share
        of a value any more: there |value| of an operation that `UNDERFLOWS`, or of weight times term, counts as `TINY`.
        """
        residual, magnitude, data = np.empty(self.n), np.empty(self.n), np.zeros(self.nnz)
        if self.row_major or self.terms.row.size < FEW_TERMS:
            self.jacobian_beside((), v, residual, magnitude, data)
            return residual, magnitude, data
        _start_jacobian(0, self.n, self.rows, v, residual, magnitude, data)
        _jacobian(
            0, self.segments.size - 1, self.segments, self.tapes, self.terms, *self._scratch(),
            v, residual, magnitude, data,
        )  # fmt: skip
        return residual, magnitude, data

    def jacobian_beside(
        self, groups: Collection[int], v: Floats, residual: Floats, magnitude: Floats, data: Floats
    ) -> None:
        """Complete R, magnitudes and partials, of which the rows of some large blocks, `groups`, are there already."""
        if self.row_major or self.terms.row.size < FEW_TERMS:
            reg, adj = np.empty((2, self.registers))
            for start, stop in self._beside():
                rows_jacobian(
                    start, stop, self.tapes, self.terms, self.rows, self.nnz_u, reg, adj,
                    v, residual, magnitude, data,
                )  # fmt: skip
        else:
            rows = self.rows
            for start, stop in self._beside():
                data[rows.a_ptr[start] : rows.a_ptr[stop]] = 0.0
                data[self.nnz_u + rows.b_ptr[start] : self.nnz_u + rows.b_ptr[stop]] = 0.0
                _start_jacobian(start, stop, rows, v, residual, magnitude, data)
            lo, hi = int(self.groups[0]), int(self.groups[1])
            _jacobian(
                lo, hi, self.segments, self.tapes, self.terms, *self._scratch(), v, residual, magnitude, data
            )
        for group in range(1, len(self.group_rows) + 1):
            if group not in groups:
                self.group_jacobian(group, v, residual, magnitude, data)

    def _beside(self) -> list[tuple[int, int]]:
        """The rows [start, stop) between the large blocks."""
        ends = [0, *(k for block in self.group_rows for k in block), self.n]
        return list(zip(ends[0::2], ends[1::2], strict=True))

    @cached_property
    def group_operations(self) -> list[int]:
        """Reads of leaves and operations of one evaluation of R, of each group."""
        tapes = self.tapes
        work = (np.diff(tapes.ptr) + tapes.leaves)[self.terms.template].astype(np.int64)
        before = np.append(0, np.cumsum(work))
        return np.diff(before[self.segments[self.groups]]).tolist()

    def group_residual(self, group: int, v: Floats, out: Floats) -> None:
        """R of the rows of one large block, into their places of `out` (n,)."""
        start, stop = self.group_rows[group - 1]
        _start(start, stop, self.rows, v, out)
        lo, hi = int(self.groups[group]), int(self.groups[group + 1])
        reg = np.empty((self.registers, WIDTH))
        _residual(lo, hi, self.segments, self.tapes, self.terms, reg, v, out)

    def group_jacobian(self, group: int, v: Floats, out: Floats, magnitude: Floats, data: Floats) -> None:
        """R, magnitude and partials of the rows of one large block, into their places."""
        start, stop = self.group_rows[group - 1]
        rows = self.rows
        data[rows.a_ptr[start] : rows.a_ptr[stop]] = 0.0
        data[self.nnz_u + rows.b_ptr[start] : self.nnz_u + rows.b_ptr[stop]] = 0.0
        _start_jacobian(start, stop, rows, v, out, magnitude, data)
        lo, hi = int(self.groups[group]), int(self.groups[group + 1])
        _jacobian(lo, hi, self.segments, self.tapes, self.terms, *self._scratch(), v, out, magnitude, data)

    def _scratch(self) -> tuple[Floats, Floats, Floats]:
        return np.empty((self.registers, WIDTH)), np.empty((self.registers, WIDTH)), np.empty(WIDTH)


def incidence(lowered: Lowered) -> tuple[Index, Index]:
    """The states (n_states) that each row mentions: CSR (indptr, indices), each state once."""
    m = lowered.n_parameters
    term = np.arange(lowered.term_row.size, dtype=np.int32)
    out = _pattern(lowered.n_rows, m, lowered.term_row, term, lowered.leaf_ptr, lowered.leaf, lowered.row_lhs)
    return out[0], out[1]


def assemble(lowered: Lowered, row_order: Index, col_order: Index, large: list[tuple[int, int]]) -> Machine:
    """The machine of rows in `row_order` with states in `col_order`; `large`: [start, stop) of each large block.

    The rows of group 0 are solved one after the other. Where they have few templates, terms stored by template are
    read in as many streams, and blocks of one template fill; where nearly every row has its own (a random scalar
    DAG: 35 000 templates for 275 000 rows), they are stored row by row, or each row would miss the cache ten times.
    """
    n, m = lowered.n_rows, lowered.n_parameters
    row_position = np.empty(n, np.int32)
    row_position[row_order] = np.arange(n, dtype=np.int32)
    col_position = np.empty(lowered.n_states, np.int32)
    col_position[col_order] = np.arange(lowered.n_states, dtype=np.int32)

    row = row_position[lowered.term_row]
    group = np.zeros(n, np.int64)
    for g, (start, stop) in enumerate(large):
        group[start:stop] = g + 1
    n_templates = lowered.tape_ptr.size - 1
    key = group[row] * n_templates + lowered.term_template
    first = key[group[row] == 0]
    row_major = first.size < LONG_FAMILIES * np.unique(first).size
    if row_major:
        key[group[row] == 0] = 0
    by_row = np.argsort(row, kind="stable")
    order = by_row[np.argsort(key[by_row], kind="stable")]

    variable = np.concatenate([np.arange(m, dtype=np.int32), m + col_position]).astype(np.int32)
    leaf_ptr, leaf = _gather(order, lowered.leaf_ptr, variable[lowered.leaf])
    const_ptr, const = _gather(order, lowered.const_ptr, lowered.const)
    row = row[order]
    place = np.empty(order.size, np.int32)
    place[order] = np.arange(order.size, dtype=np.int32)
    term = place[by_row]
    row_ptr = np.zeros(n + 1, np.int32)
    np.cumsum(np.bincount(row, minlength=n), out=row_ptr[1:])
    lhs = np.where(lowered.row_lhs >= 0, col_position[lowered.row_lhs], -1)[row_order].astype(np.int32)
    a_ptr, a_col, b_ptr, b_col, slot, lhs_slot = _pattern(n, m, row[term], term, leaf_ptr, leaf, lhs)

    template = lowered.term_template[order]
    apart = np.diff(group[row]) + (np.diff(template) != 0)
    new = np.flatnonzero(apart) + 1 if order.size else np.empty(0, np.int64)
    segments = np.concatenate([[0], new, [order.size]] if order.size else [[0]]).astype(np.int32)
    segment_group = group[row[segments[:-1]]]
    groups = np.searchsorted(segment_group, np.arange(len(large) + 2)).astype(np.int32)
    registers = lowered.template_leaves + lowered.template_consts + np.diff(lowered.tape_ptr)
    return Machine(
        tapes=Tapes(
            lowered.tape_ptr, lowered.tape_op, lowered.tape_a, lowered.tape_b,
            lowered.template_leaves, lowered.template_consts,
        ),
        terms=Terms(template, row, lowered.term_weight[order], leaf_ptr, const_ptr, leaf, const, slot),
        rows=Rows(
            row_ptr, term, np.where(lhs >= 0, m + lhs, -1).astype(np.int32), lhs_slot,
            lowered.row_sign[row_order], a_ptr, a_col, b_ptr, b_col,
        ),
        segments=segments,
        groups=groups,
        n=n,
        m=m,
        registers=int(registers.max(initial=1)),
        row_major=row_major,
        row_order=row_order,
        col_order=col_order,
        col_position=col_position,
        row_position=row_position,
        group_rows=tuple(large),
    )  # fmt: skip


def _gather(order: NDArray[Any], ptr: Index, values: NDArray[Any]) -> tuple[Index, NDArray[Any]]:
    """The runs values[ptr[i]:ptr[i+1]] in another order."""
    counts = np.diff(ptr)[order]
    out_ptr = np.zeros(order.size + 1, np.int32)
    np.cumsum(counts, out=out_ptr[1:])
    source = np.repeat(ptr[:-1][order] - out_ptr[:-1], counts) + np.arange(out_ptr[-1], dtype=np.int32)
    return out_ptr, np.ascontiguousarray(values[source])


# -- kernels ----------------------------------------------------------------------------------------------------
def _pattern(
    n: int, m: int, term_row: Index, term: Index, leaf_ptr: Index, leaf: Index, lhs: Index
) -> tuple[Index, Index, Index, Index, Index, Index]:
    """CSR patterns of R_u and R_p with ascending columns, the slot of every leaf and of every lhs.

    term_row (L,) ascending, term (L,): the terms row by row; leaf: < m a parameter, else m + state; lhs (n,): the
    state of a row u == f, or -1.
    """
    start = np.zeros(n + 1, np.int64)
    count = np.bincount(term_row, weights=np.diff(leaf_ptr)[term], minlength=n) + (lhs >= 0)
    np.cumsum(count, out=start[1:])
    a_ptr, b_ptr = np.zeros(n + 1, np.int32), np.zeros(n + 1, np.int32)
    a_col, b_col = np.empty(int(start[-1]), np.int32), np.empty(int(start[-1]), np.int32)
    slot, lhs_slot = np.empty(leaf.size, np.int32), np.full(n, -1, np.int32)
    key, spare = np.empty((2, int(start[-1])), np.int64)
    na, nb = _slots(
        m, term_row, term, leaf_ptr, leaf, lhs, start, start[:-1].copy(), key, spare,
        a_ptr, a_col, b_ptr, b_col, slot, lhs_slot,
    )  # fmt: skip
    return a_ptr, a_col[:na].copy(), b_ptr, b_col[:nb].copy(), slot, lhs_slot


@internal
def _sort(key, spare, lo, hi):
    """Sort key[lo:hi]: insertion in runs of 16, then merges through `spare`."""
    for first in range(lo, hi, 16):
        for i in range(first + 1, min(first + 16, hi)):
            x = key[i]
            j = i - 1
            while j >= first and key[j] > x:
                key[j + 1] = key[j]
                j -= 1
            key[j + 1] = x
    width = 16
    while width < hi - lo:
        for first in range(lo, hi, 2 * width):
            middle, last = min(first + width, hi), min(first + 2 * width, hi)
            i, j = first, middle
            for k in range(first, last):
                if i < middle and (j >= last or key[i] <= key[j]):
                    spare[k] = key[i]
                    i += 1
                else:
                    spare[k] = key[j]
                    j += 1
        for k in range(lo, hi):
            key[k] = spare[k]
        width *= 2


@kernel
def _slots(
    m, term_row, term, leaf_ptr, leaf, lhs, start, fill, key, spare, a_ptr, a_col, b_ptr, b_col, slot, lhs_slot
):  # fmt: skip
    # key: variable in the high half, then where it came from: leaf position + 1, or 0 for the lhs. start (n+1,):
    # room of each row in key; fill (n,): a copy of its beginning. Returns the entries of R_u and R_p.
    n = lhs.size
    for r in range(n):
        if lhs[r] >= 0:
            key[fill[r]] = np.int64(m + lhs[r]) << 32
            fill[r] += 1
    for p in range(term.size):
        t, r = term[p], term_row[p]
        for e in range(leaf_ptr[t], leaf_ptr[t + 1]):
            key[fill[r]] = (np.int64(leaf[e]) << 32) | np.int64(e + 1)
            fill[r] += 1
    na, nb = 0, 0
    for r in range(n):
        lo, hi = start[r], start[r + 1]
        _sort(key, spare, lo, hi)
        last = np.int64(-1)
        for i in range(lo, hi):
            variable = key[i] >> 32
            if variable != last:
                last = variable
                if variable < m:
                    b_col[nb] = variable
                    nb += 1
                else:
                    a_col[na] = variable - m
                    na += 1
            e = key[i] & 0xFFFFFFFF
            where = na - 1 if variable >= m else -nb  # R_p slots are shifted once the size of R_u is known
            if e == 0:
                lhs_slot[r] = where
            else:
                slot[e - 1] = where
        a_ptr[r + 1] = na
        b_ptr[r + 1] = nb
    for e in range(slot.size):
        if slot[e] < 0:
            slot[e] = na - slot[e] - 1
    return na, nb


@kernel
def _start(start, stop, rows, v, out):
    """R of rows [start, stop) before any term: the bare states."""
    for r in range(start, stop):
        out[r] = rows.sign[r] * v[rows.lhs[r]] if rows.lhs[r] >= 0 else 0.0


@kernel
def _start_jacobian(start, stop, rows, v, out, magnitude, data):
    """The same with magnitudes and partials; `data` of these rows is zero before."""
    for r in range(start, stop):
        out[r] = 0.0
        magnitude[r] = 0.0
        if rows.lhs[r] >= 0:
            out[r] = rows.sign[r] * v[rows.lhs[r]]
            magnitude[r] = abs(out[r])
            data[rows.lhs_slot[r]] = rows.sign[r]


@kernel
def _residual(first, last, segments, tapes, terms, reg, v, out):
    """Add the terms of segments [first, last) to R, family-major. reg (registers, WIDTH): scratch."""
    for s in range(first, last):
        t = terms.template[segments[s]]
        k, c = tapes.leaves[t], tapes.consts[t]
        start, stop = tapes.ptr[t], tapes.ptr[t + 1]
        result = k + c + stop - start - 1
        for lo in range(segments[s], segments[s + 1], WIDTH):
            width = min(WIDTH, segments[s + 1] - lo)
            base = terms.leaf_ptr[lo]
            for j in range(k):
                for i in range(width):
                    reg[j, i] = v[terms.leaf[base + i * k + j]]
            base = terms.const_ptr[lo]
            for j in range(c):
                for i in range(width):
                    reg[k + j, i] = terms.const[base + i * c + j]
            block_values(tapes.op, tapes.a, tapes.b, start, stop, k + c, width, reg)
            for i in range(width):
                out[terms.row[lo + i]] += terms.weight[lo + i] * reg[result, i]


@inlined
def _vanishes(first, last, width, adj):
    """Whether any adjoint of registers [first, last) is 0."""
    found = False
    for j in range(first, last):
        for i in range(width):
            found = found or adj[j, i] == 0.0
    return found


@kernel
def _jacobian(first, last, segments, tapes, terms, reg, adj, size, v, out, magnitude, data):
    """Add the terms of segments [first, last) to R, its magnitude and its partials, family-major.

    reg, adj (registers, WIDTH), size (WIDTH,): scratch.
    """
    for s in range(first, last):
        t = terms.template[segments[s]]
        k, c = tapes.leaves[t], tapes.consts[t]
        start, stop = tapes.ptr[t], tapes.ptr[t + 1]
        result = k + c + stop - start - 1
        edged = False
        for q in range(start, stop - 1):
            edged = edged or EDGED[tapes.op[q]]
        for lo in range(segments[s], segments[s + 1], WIDTH):
            width = min(WIDTH, segments[s + 1] - lo)
            leaves = terms.leaf_ptr[lo]
            if k == 1 and stop == start:  # a linear term: nothing to interpret
                for i in range(width):
                    w, r = terms.weight[lo + i], terms.row[lo + i]
                    value = w * v[terms.leaf[leaves + i]]
                    out[r] += value
                    value = abs(value)
                    magnitude[r] += TINY if value < TINY and abs(w) != 1.0 else value
                    data[terms.slot[leaves + i]] += w
                continue
            for j in range(k):
                for i in range(width):
                    reg[j, i] = v[terms.leaf[leaves + i * k + j]]
            base = terms.const_ptr[lo]
            for j in range(c):
                for i in range(width):
                    reg[k + j, i] = terms.const[base + i * c + j]
            block_values(tapes.op, tapes.a, tapes.b, start, stop, k + c, width, reg)
            for j in range(result):
                for i in range(width):
                    adj[j, i] = 0.0
            for i in range(width):
                adj[result, i] = 1.0
                size[i] = 0.0
            block_partials(tapes.op, tapes.a, tapes.b, start, stop, k + c, width, reg, adj)
            for j in range(result + 1):
                floor = TINY if j >= k + c and UNDERFLOWS[tapes.op[start + j - k - c]] else 0.0
                for i in range(width):
                    # an adjoint of zero is a branch not taken, whatever its value
                    value = abs(reg[j, i])
                    value = floor if value < floor else value
                    size[i] += abs(adj[j, i]) * value if adj[j, i] != 0.0 else 0.0
            for i in range(width):
                w, r = terms.weight[lo + i], terms.row[lo + i]
                out[r] += w * reg[result, i]
                value = abs(w) * size[i]
                magnitude[r] += TINY if value < TINY and abs(w) != 1.0 else value
                for j in range(k):
                    data[terms.slot[leaves + i * k + j]] += w * adj[j, i]
            if edged and _vanishes(k + c, result, width, adj):
                for i in range(width):
                    if hides(tapes.op, tapes.a, tapes.b, start, stop, k + c, reg, adj, i):
                        mark(tapes.op, tapes.a, tapes.b, start, stop, k + c, reg, adj, i)
                        for j in range(k):
                            data[terms.slot[leaves + i * k + j]] += adj[j, i]  # 0 or nan


@internal
def _alike(r, stop, tapes, terms, rows, registers):
    """How many rows from r on, below `stop`, have the templates of row r; 0 if one needs more registers than given."""
    first = rows.ptr[r]
    count = rows.ptr[r + 1] - first
    if rows.ptr[stop] - first < count * ALIKE:
        return 0
    for q in range(first, first + count):
        t = terms.template[rows.term[q]]
        if tapes.leaves[t] + tapes.consts[t] + tapes.ptr[t + 1] - tapes.ptr[t] > registers:
            return 0
    for i in range(r + 1, stop):
        at = rows.ptr[i]
        if rows.ptr[i + 1] - at != count:
            return i - r
        for q in range(count):
            if terms.template[rows.term[at + q]] != terms.template[rows.term[first + q]]:
                return i - r
    return stop - r


@internal
def rows_alike(r, step, width, tapes, terms, rows, reg, adj, v, out, magnitude, data):
    """What `rows_jacobian` does with `width` rows that are alike: r, r + step, …

    reg, adj: `WIDE` of each register and one more. `data` of these rows is zero before.
    """
    spare = reg.size // WIDE - 1  # a register that no template has: for weights, and for magnitudes
    reg = reg[: (spare + 1) * WIDE].reshape((spare + 1, WIDE))
    adj = adj[: (spare + 1) * WIDE].reshape((spare + 1, WIDE))
    for i in range(r, r + step * width, step):
        out[i] = 0.0
        magnitude[i] = 0.0
        if rows.lhs[i] >= 0:
            out[i] = rows.sign[i] * v[rows.lhs[i]]
            magnitude[i] = abs(out[i])
            data[rows.lhs_slot[i]] = rows.sign[i]
    for q in range(rows.ptr[r + 1] - rows.ptr[r]):
        t = terms.template[rows.term[rows.ptr[r] + q]]
        k, c = tapes.leaves[t], tapes.consts[t]
        first, last = tapes.ptr[t], tapes.ptr[t + 1]
        result = k + c + last - first - 1
        for i in range(width):
            e = rows.term[rows.ptr[r + i * step] + q]
            leaves, consts = terms.leaf_ptr[e], terms.const_ptr[e]
            for j in range(k):
                reg[j, i] = v[terms.leaf[leaves + j]]
            for j in range(c):
                reg[k + j, i] = terms.const[consts + j]
            reg[spare, i] = terms.weight[e]
            adj[spare, i] = 0.0
        for j in range(result):
            for i in range(width):
                adj[j, i] = 0.0
        for i in range(width):
            adj[result, i] = 1.0
        block_values(tapes.op, tapes.a, tapes.b, first, last, k + c, width, reg)
        block_partials(tapes.op, tapes.a, tapes.b, first, last, k + c, width, reg, adj)
        edged = False
        for s in range(first, last - 1):
            edged = edged or EDGED[tapes.op[s]]
        edged = edged and _vanishes(k + c, result, width, adj)
        for j in range(result + 1):
            floor = TINY if j >= k + c and UNDERFLOWS[tapes.op[first + j - k - c]] else 0.0
            for i in range(width):
                value = abs(reg[j, i])
                value = floor if value < floor else value
                adj[spare, i] += abs(reg[spare, i] * adj[j, i]) * value if adj[j, i] != 0.0 else 0.0
        for i in range(width):
            e = rows.term[rows.ptr[r + i * step] + q]
            w, leaves = terms.weight[e], terms.leaf_ptr[e]
            out[r + i * step] += w * reg[result, i]
            term = adj[spare, i]
            magnitude[r + i * step] += TINY if term < TINY and abs(w) != 1.0 else term
            for j in range(k):
                data[terms.slot[leaves + j]] += w * adj[j, i]
            if edged and hides(tapes.op, tapes.a, tapes.b, first, last, k + c, reg, adj, i):
                mark(tapes.op, tapes.a, tapes.b, first, last, k + c, reg, adj, i)
                for j in range(k):
                    data[terms.slot[leaves + j]] += adj[j, i]  # 0 or nan


@kernel
def alike_blocks(ptr, kind, tapes, terms, rows, until):
    """until (n_blocks,): of each block the end of a run of blocks, from it on, that can be solved together.

    They are as large as the first and not explicit, their rows are alike term by term, and none depends on another of
    the run. b + 1 of a block that is explicit, has more than `SMALL` rows, or is in a run of fewer than `ALIKE`.
    """
    b = 0
    while b < kind.size:
        first, size = np.int64(ptr[b]), ptr[b + 1] - ptr[b]
        stop = b + 1
        alike = kind[b] != 0 and size <= SMALL
        while alike and stop < kind.size:
            lo = np.int64(ptr[stop])
            alike = kind[stop] != 0 and ptr[stop + 1] - lo == size
            if not alike:
                break
            for q in range(size):
                one, other = rows.ptr[first + q], rows.ptr[lo + q]
                alike = alike and rows.ptr[lo + q + 1] - other == rows.ptr[first + q + 1] - one
                if not alike:
                    break
                for e in range(rows.ptr[first + q + 1] - one):
                    alike = (
                        alike and terms.template[rows.term[one + e]] == terms.template[rows.term[other + e]]
                    )
                for e in range(rows.a_ptr[lo + q], rows.a_ptr[lo + q + 1]):
                    alike = alike and not first <= rows.a_col[e] < lo
            if alike:
                stop += 1
        for k in range(b, stop):
            until[k] = stop if stop - b >= ALIKE else k + 1
        b = stop


@internal
def clear(start, stop, rows, nnz_u, data):
    """Zero for the partials of rows [start, stop)."""
    for e in range(rows.a_ptr[start], rows.a_ptr[stop]):
        data[e] = 0.0
    for e in range(nnz_u + rows.b_ptr[start], nnz_u + rows.b_ptr[stop]):
        data[e] = 0.0


@kernel
def rows_jacobian(start, stop, tapes, terms, rows, nnz_u, reg, adj, v, out, magnitude, data):
    """R, magnitude and partials of rows [start, stop), row-major. reg, adj: (registers,) scratch, or `WIDE` for each
    register and one more.

    With so much scratch, consecutive rows that are alike term by term (an array of constraints) are evaluated together,
    by the same operations in the same order: 50 rows y_i = cos(a y_{i-1}) + b y_{i+1}² in 2.8 instead of 5.3 µs.
    """
    clear(start, stop, rows, nnz_u, data)
    after = start
    for r in range(start, stop):
        if r < after:
            continue
        if reg.size >= WIDE and stop - r >= ALIKE:
            count = _alike(r, min(r + WIDE, stop), tapes, terms, rows, reg.size // WIDE - 1)
            if count >= ALIKE:
                rows_alike(r, np.int64(1), count, tapes, terms, rows, reg, adj, v, out, magnitude, data)
                after = r + count
                continue
        total = 0.0
        size = 0.0
        if rows.lhs[r] >= 0:
            total = rows.sign[r] * v[rows.lhs[r]]
            size = abs(total)
            data[rows.lhs_slot[r]] = rows.sign[r]
        for p in range(rows.ptr[r], rows.ptr[r + 1]):
            e = rows.term[p]
            t = terms.template[e]
            w = terms.weight[e]
            k, c = tapes.leaves[t], tapes.consts[t]
            first, last = tapes.ptr[t], tapes.ptr[t + 1]
            leaves, consts = terms.leaf_ptr[e], terms.const_ptr[e]
            if k == 1 and last == first:  # a linear term: nothing to interpret
                term = w * v[terms.leaf[leaves]]
                total += term
                term = abs(term)
                size += TINY if term < TINY and abs(w) != 1.0 else term
                data[terms.slot[leaves]] += w
                continue
            for j in range(k):
                reg[j] = v[terms.leaf[leaves + j]]
            for j in range(c):
                reg[k + j] = terms.const[consts + j]
            result = k + c + last - first - 1
            for j in range(result):
                adj[j] = 0.0
            adj[result] = 1.0
            tape_values(tapes.op, tapes.a, tapes.b, first, last, k + c, reg)
            tape_partials(tapes.op, tapes.a, tapes.b, first, last, k + c, reg, adj)
            total += w * reg[result]
            vanishes = False
            term = 0.0
            for j in range(result + 1):
                if adj[j] != 0.0:
                    value = abs(reg[j])
                    if value < TINY and j >= k + c and UNDERFLOWS[tapes.op[first + j - k - c]]:
                        value = TINY
                    term += abs(w * adj[j]) * value
                else:
                    vanishes = vanishes or j >= k + c
            size += TINY if term < TINY and abs(w) != 1.0 else term
            for j in range(k):
                data[terms.slot[leaves + j]] += w * adj[j]
            if vanishes:
                r2, a2 = reg.reshape((reg.size, 1)), adj.reshape((adj.size, 1))
                if hides(tapes.op, tapes.a, tapes.b, first, last, k + c, r2, a2, 0):
                    mark(tapes.op, tapes.a, tapes.b, first, last, k + c, r2, a2, 0)
                    for j in range(k):
                        data[terms.slot[leaves + j]] += adj[j]  # 0 or nan
        out[r] = total
        magnitude[r] = size


@inlined
def _explicit_value(r, tapes, terms, rows, reg, v):
    """f of a row u == f: the sum of -sign * weight * term, since R = sign * u + sum of weight * term.

    The sum begins with -0.0, which adds nothing to any number, so that u == f has the sign of f also where f is zero.
    """
    total = -0.0 if rows.ptr[r + 1] > rows.ptr[r] else 0.0
    for p in range(rows.ptr[r], rows.ptr[r + 1]):
        e = rows.term[p]
        t = terms.template[e]
        k, c = tapes.leaves[t], tapes.consts[t]
        first, last = tapes.ptr[t], tapes.ptr[t + 1]
        leaves, consts = terms.leaf_ptr[e], terms.const_ptr[e]
        if k == 1 and last == first:  # a linear term: nothing to interpret
            total += -rows.sign[r] * terms.weight[e] * v[terms.leaf[leaves]]
            continue
        for j in range(k):
            reg[j] = v[terms.leaf[leaves + j]]
        for j in range(c):
            reg[k + j] = terms.const[consts + j]
        tape_values(tapes.op, tapes.a, tapes.b, first, last, k + c, reg)
        total += -rows.sign[r] * terms.weight[e] * reg[k + c + last - first - 1]
    return total


@internal
def explicit_rows(start, stop, tapes, terms, rows, reg, m, v):
    """Assign the states of explicit rows [start, stop) in order; stops at, and returns, a value that is not finite."""
    for r in range(start, stop):
        value = _explicit_value(r, tapes, terms, rows, reg, v)
        v[m + r] = value
        if not np.isfinite(value):
            return r
    return stop


@kernel
def assign_rows(which, tapes, terms, rows, reg, v):
    """Assign the states of the rows listed in `which`, each u == f, where f is finite: a guess for u."""
    for r in which:  # row numbers of one type only: another would compile everything once more
        value = _explicit_value(np.int64(r), tapes, terms, rows, reg, v)
        if np.isfinite(value):
            v[rows.lhs[r]] = value
