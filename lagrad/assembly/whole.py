"""Solve and differentiate in one call into compiled code, for systems without large blocks.

Takes the machine's arrays, a point to start from, output and parameter positions; leaves the solution in v and the
total Jacobian in `out`. It does what `solve`, `linearize` and `derivatives` do, with the same kernels, the same checks
and the same limits, and returns at which of them it stopped: the caller then takes the ordinary way, which explains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.forward import sweep
from lagrad.assembly.machine import rows_jacobian
from lagrad.assembly.nearby import change_of_blocks, far_enough, move, signed
from lagrad.assembly.products import minus_transposed_times
from lagrad.kernel import kernel
from lagrad.linalg.condition import condition_small
from lagrad.linalg.sweeps import backward_error, factor_small, residual_rows, sweep_forward, sweep_transposed

Index = NDArray[np.int32]
Floats = NDArray[np.float64]

DONE, UNSOLVED, REFUSED = 0, 1, 2


class Room(NamedTuple):
    """Working storage for n states in n_blocks blocks, m parameters and k outputs; few arrays, as in `Scratch`."""

    data: Floats  # (2, nnz) partials at the solution, and at a point moved off it
    moved: Floats  # (m+n,) that point
    lu: Floats  # packed dense blocks
    piv: Index  # (n,)
    # (8, n) residual, magnitude, scales of rows and of columns, largest product of a row; residual and magnitude at
    # the moved point, and how it is moved
    rows: Floats
    iterations: Index  # (n_blocks,)
    status: NDArray[np.int8]  # (2, n_blocks) of the solve; of the factors
    blocks: Floats  # (3, n_blocks) reciprocal condition; error of the adjoint; change of the Jacobian
    adjoint: Floats  # (4, n·k) seeds; λ; its residual; the size of that
    column: Floats  # (k,) error of the adjoint
    total: Floats  # (m·k,)

    @staticmethod
    def of(n: int, m: int, n_blocks: int, k: int, nnz: int, packed: int) -> Room:
        """Storage of the sizes stated."""
        i8, i32 = np.int8, np.int32
        return Room(
            np.zeros((2, nnz)), np.empty(m + n), np.empty(packed), np.zeros(n, i32), np.ones((8, n)),
            np.zeros(n_blocks, i32), np.zeros((2, n_blocks), i8), np.empty((3, n_blocks)), np.zeros((4, n * k)),
            np.empty(k), np.empty(m * k),
        )  # fmt: skip


@kernel
def solve_and_differentiate(
    ptr, kind, tapes, terms, rows, scratch, m, nnz_u, scale, lower, upper, opening_ptr, opening, alike, split, packed,
    max_iterations, tolerance, residual_limit, rcond_limit, backward_limit, noise, change_limit, reach, cold,
    outputs, inputs, room, v, out,
):  # fmt: skip
    """DONE, or the stage at which a check failed. v (m+n,): start, then solution; out (outputs, inputs).

    cold: v starts at the guesses, not at a solution. noise, reach: see `assembly.nearby`.
    """
    n_blocks = kind.size
    n = ptr[n_blocks]
    k = outputs.size
    data, residual, magnitude, r, c = room.data[0], room.rows[0], room.rows[1], room.rows[2], room.rows[3]
    status, regular, rcond = room.status[0], room.status[1], room.blocks[0]
    reached = sweep(
        0, n_blocks, n + 1, ptr, kind, tapes, terms, rows, scratch, m, nnz_u, scale, lower, upper,
        opening_ptr, opening, alike, cold, max_iterations, tolerance, v, data, residual, magnitude,
        status, room.iterations,
    )  # fmt: skip
    if reached < n_blocks:
        return UNSOLVED
    for b in range(n_blocks):
        if status[b] == 5:  # a multiple root is looked at more closely by `solve`
            return UNSOLVED
    for i in range(lower.size):
        if not lower[i] <= v[m + i] <= upper[i]:
            return UNSOLVED
    if k == 0:
        return DONE
    b = 0
    while b < n_blocks:
        stop = b + 1
        if kind[b] == 0:  # every other block was left with R and its partials at the solution
            while stop < n_blocks and kind[stop] == 0:
                stop += 1
            rows_jacobian(
                np.int64(ptr[b]), np.int64(ptr[stop]), tapes, terms, rows, nnz_u, scratch.registers[0],
                scratch.registers[1], v, residual, magnitude, data,
            )  # fmt: skip
        b = stop
    for i in range(n):
        if residual[i] != 0.0 and not abs(residual[i]) <= residual_limit * magnitude[i]:
            return REFUSED
    finite = 0.0
    for i in range(data.size):
        finite += 0.0 * data[i]
    if finite != 0.0:  # nan: 0 · ∞ is no zero, and which partials count is for `derivatives` to say
        return REFUSED
    a_ptr, a_col = rows.a_ptr, rows.a_col
    lu, piv = room.lu, room.piv
    factor_small(ptr, a_ptr, split, a_col, data, packed, lu, piv, r, c, regular)
    condition_small(ptr, a_ptr, split, a_col, data, packed, lu, piv, r, c, regular, rcond)
    for b in range(n_blocks):
        if status[b] != 0 or regular[b] != 0 or not rcond[b] > rcond_limit:
            return REFUSED
    e, change = room.rows[7], room.blocks[2]
    signed(noise, magnitude, e)
    sweep_forward(0, n_blocks, 1, ptr, a_ptr, split, a_col, data, packed, lu, piv, e)
    if far_enough(m, reach, v, e):
        move(m, e, v, room.moved)
        change_of_blocks(
            ptr, kind, alike, tapes, terms, rows, scratch.registers[0], scratch.registers[1], nnz_u, split, packed, r,
            c, rcond, data, room.moved, room.rows[5], room.rows[6], room.data[1], change,
        )  # fmt: skip
        for b in range(n_blocks):
            if not change[b] <= change_limit:  # `determined` compares more points
                return REFUSED
    seeds, lam, wrong, size = room.adjoint[0], room.adjoint[1], room.adjoint[2], room.adjoint[3]
    largest, total = room.rows[4], room.total
    for t in range(k):
        seeds[outputs[t] * k + t] = 1.0
        room.column[t] = 0.0
    for i in range(seeds.size):
        lam[i] = seeds[i]
    sweep_transposed(0, n_blocks, k, ptr, a_ptr, split, a_col, data, packed, lu, piv, lam)
    residual_rows(
        0, np.int64(n), k, a_ptr[:-1], a_ptr, split, a_col, data, True, seeds, lam, wrong, size, largest
    )
    backward_error(0, n_blocks, k, ptr, lam, wrong, size, largest, room.blocks[1], room.column)
    for t in range(k):
        seeds[outputs[t] * k + t] = 0.0
    for t in range(k):
        if not room.column[t] <= backward_limit:
            return REFUSED
    for i in range(total.size):
        total[i] = 0.0
    minus_transposed_times(n, k, rows.b_ptr, rows.b_col, nnz_u, data, lam, total)
    finite = 0.0
    for t in range(k):
        for j in range(inputs.size):
            out[t, j] = total[inputs[j] * k + t]
            finite += 0.0 * out[t, j]
    return DONE if finite == 0.0 else REFUSED  # finite partials, and a product of them that overflows


@kernel
def solve_lanes(
    ptr, kind, tapes, terms, rows, scratch, m, nnz_u, scale, lower, upper, opening_ptr, opening, alike, split, packed,
    max_iterations, tolerance, residual_limit, rcond_limit, backward_limit, noise, change_limit, reach, cold,
    outputs, inputs, room, v, out, state,
):  # fmt: skip
    """`solve_and_differentiate` for every lane: v (lanes, m+n), out (lanes, outputs, inputs), state (lanes,)."""
    for i in range(state.size):
        state[i] = solve_and_differentiate(
            ptr, kind, tapes, terms, rows, scratch, m, nnz_u, scale, lower, upper, opening_ptr, opening, alike, split,
            packed, max_iterations, tolerance, residual_limit, rcond_limit, backward_limit, noise, change_limit,
            reach, cold, outputs, inputs, room, v[i], out[i],
        )  # fmt: skip
