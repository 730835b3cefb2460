"""The forward sweep through explicit, implicit and small cyclic blocks, entirely in compiled code.

Takes the machine's arrays, a block range and v with a guess in it; leaves the solution in v and a status per block.
An explicit block is an assignment; any other is a damped Newton method on the block's rows alone, earlier states
held. Large blocks are not its business: the caller runs it between them.

The Newton method is affine invariant (Deuflhard, Newton Methods for Nonlinear Problems, 2004, NLEQ1): a trial point
is accepted when the simplified Newton correction, taken with the factors already there, is shorter than the step
that led to it. Units of the constraints do not matter to that test, and no merit function has to be chosen.

Convergence is decided by rounding, not by a tolerance alone. R counts as zero when every |R_i| is at most a few
eps · magnitude_i (see `Machine.jacobian`); a small step counts only together with |R_i| <= tolerance · magnitude_i.
A residual that shrinks only because the state does (y² = 0) satisfies neither, and is reported as not
converged; whether that is a multiple root is decided by the ladder (`lagrad.ladder`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.machine import (
    ALIKE,
    SMALL,
    WIDE,
    assign_rows,
    clear,
    explicit_rows,
    rows_alike,
    rows_jacobian,
)
from lagrad.kernel import inlined, internal, kernel
from lagrad.linalg.dense import MARKED, lu_factor, lu_factor_marked, lu_solve, lu_solve_marked
from lagrad.linalg.scales import balance

Floats = NDArray[np.float64]

# status of a block
SOLVED = 0
TOO_MANY_ITERATIONS = 1
SINGULAR_ITERATE = 2  # the Jacobian became singular on the way
NOT_FINITE = 3  # at the starting point
STALLED = 4  # no shorter step along the Newton direction helped
MULTIPLE_ROOT = 5  # solved, and the Jacobian changes by its own size within rounding of the root
LARGE = 6  # left to the caller
ALONE = 7  # within a sweep: not solved yet, or left by those that were solved together

EPS = 2.220446049250313e-16
EXACT = 4.0  # |R| <= EXACT eps magnitude: no step can improve on it
NOISE = 64.0  # |R| <= NOISE eps magnitude: steps that no longer help may stop here
STEP = 1e-9  # relative size of a correction after which the next is below rounding (quadratic convergence)
# contraction of the simplified correction that shows a simple root: at a q-fold one it is (1 − 1/q)^q
QUADRATIC = 0.1
BENT = 0.25  # relative change of the Jacobian within rounding of a root from which on the root is multiple
SMALLEST = 1e-10  # shortest fraction of a Newton step that is tried
UNDERFLOW = 1e-290  # a magnitude below it is, or is about, what underflow leaves: see `machine.TINY`
ROUNDS = 12  # evaluations of blocks that are solved together, after which those that are left go on alone
TO_BOUND = 0.99  # fraction of the distance to a bound that a step may use


class Scratch(NamedTuple):
    """Working storage of one sweep, for blocks of at most `most` rows.

    Few arrays: each costs 0.12 µs whenever a kernel is called from Python.
    """

    registers: Floats  # (2, (registers + 1) · WIDE) values and adjoints
    a: Floats  # (most²,) dense block, then its factors
    piv: NDArray[np.int32]  # (most,)
    work: Floats  # (10, most), the last two rows for blocks that are solved together
    marks: NDArray[np.uint64]  # (most,) where a block of at most MARKED rows has entries

    @staticmethod
    def of(registers: int, most: int, together: bool) -> Scratch:
        """Storage for templates of `registers` registers and blocks of up to `most` rows.

        `together`: for `WIDE` blocks of up to `SMALL` rows at once as well.
        """
        square = max(most * most, WIDE * SMALL * SMALL) if together else most * most
        most = max(most, WIDE * SMALL) if together else most
        return Scratch(
            np.empty((2, (registers + 1) * WIDE)), np.empty(square), np.empty(most, np.int32), np.empty((10, most)),
            np.empty(most, np.uint64),
        )  # fmt: skip


@kernel
def sweep(
    first, last, large_from, ptr, kind, tapes, terms, rows, scratch, m, nnz_u, scale, lower, upper,
    opening_ptr, opening, alike, cold, max_iterations, tolerance, v, data, residual, magnitude, status, iterations,
):  # fmt: skip
    """Solve blocks [first, last) in order; returns the first block that is large or fails, or `last`.

    ptr (n_blocks+1,), kind (n_blocks,); large_from: smallest size of a large block; scale, lower, upper (n,) of the
    states in block order (lower and upper empty: no bounds); opening_ptr (n_blocks+1,), opening: rows of definitions
    inside each block, assigned once from the guesses of the other states if `cold`; alike (n_blocks,): see
    `machine.alike_blocks`; v (m+n,), data (nnz,), residual, magnitude (n,) are written; status, iterations (n_blocks,).
    """
    reg = scratch.registers[0]
    b = first
    apart = first  # blocks before it are solved one by one
    while b < last:
        if kind[b] == 0:
            stop = b + 1
            while stop < last and kind[stop] == 0:
                stop += 1
            reached = explicit_rows(np.int64(ptr[b]), np.int64(ptr[stop]), tapes, terms, rows, reg, m, v)
            b += reached - ptr[b]
            if b < stop:
                status[b] = NOT_FINITE
                return b
            continue
        if ptr[b + 1] - ptr[b] >= large_from:
            status[b] = LARGE
            return b
        stop = min(np.int64(alike[b]), last, b + WIDE)
        if b < apart or stop - b < ALIKE:
            stop = b + 1
        if cold and opening_ptr[stop] > opening_ptr[b]:
            assign_rows(opening[opening_ptr[b] : opening_ptr[stop]], tapes, terms, rows, reg, v)
        status[b] = ALONE
        if stop > b + 1:
            alone = _newton_together(
                b, stop - b, ptr, tapes, terms, rows, scratch, m, nnz_u, scale, lower, upper, max_iterations, tolerance,
                v, data, residual, magnitude, status, iterations,
            )  # fmt: skip
            if 2 * alone > stop - b:
                apart = np.int64(alike[b])
        for k in range(b, stop):
            if status[k] != ALONE:
                continue
            status[k] = _newton(
                np.int64(ptr[k]), np.int64(ptr[k + 1]), tapes, terms, rows, scratch, m, nnz_u, scale, lower, upper,
                max_iterations, tolerance, v, data, residual, magnitude, iterations, k,
            )  # fmt: skip
            if status[k] != SOLVED and status[k] != MULTIPLE_ROOT:
                for i in range(ptr[k + 1], ptr[stop]):  # blocks after it are as they were, but for openings
                    v[m + i] = scratch.work[GUESS, i - ptr[b]]
                return k
        b = stop
    return b


@inlined
def _within(lo, hi, bound, residual, magnitude):
    """Whether every |R| of rows [lo, hi) is at most bound · magnitude, and is a number."""
    for i in range(lo, hi):
        if not abs(residual[i]) <= bound * magnitude[i]:
            return False
    return True


@inlined
def _factor_block(lo, hi, rows, data, a, piv, r_scale, c_scale, marks):
    """Dense LU of the equilibrated diagonal block of rows [lo, hi); the status of `lu_factor`.

    By the marks of its entries where these fit in a word and are less than half of all; else marks[0] is 0. Measured,
    µs for factors and for a solve: a loop of 50 states, three entries in a row, 5.4, 2.8 plain and 4.1, 1.0 by marks; a
    full block of 50 12.6, 3.2 and 14.7, 4.5.
    """
    n = hi - lo
    start = np.int64(0)  # a variable: a literal 0 would compile `balance` a second time
    balance(lo, n, rows.a_ptr, rows.a_col, data, r_scale, c_scale, start, a, start)
    for e in range(n * n):  # assigning to a slice takes 60 ns more
        a[e] = 0.0
    entries = 0
    for i in range(n):
        mark = np.uint64(0)
        for e in range(rows.a_ptr[lo + i + 1] - 1, rows.a_ptr[lo + i] - 1, -1):
            j = rows.a_col[e] - lo
            if j < 0:
                break
            a[i * n + j] = data[e] * (r_scale[i] * c_scale[j])
            mark |= np.uint64(1) << np.uint64(j & 63)
            entries += 1
        marks[i] = mark
    if n > MARKED or 2 * entries > n * n:
        marks[0] = 0
        return lu_factor(a, 0, n, piv, 0)
    return lu_factor_marked(a, start, n, piv, start, marks)


@inlined
def _solve_block(n, a, piv, r_scale, c_scale, marks, x):
    """x <- A⁻¹ x with the factors of `_factor_block`."""
    for i in range(n):
        x[i] *= r_scale[i]
    if marks[0] == 0:
        lu_solve(a, 0, n, piv, 0, x, 0)
    else:
        start = np.int64(0)
        lu_solve_marked(a, start, n, piv, start, marks, x, start)
    for i in range(n):
        x[i] *= c_scale[i]


@inlined
def _finite(lo, hi, rows, residual, data):
    """Whether the residual and the partials by states of rows [lo, hi) are numbers."""
    for i in range(lo, hi):
        if not np.isfinite(residual[i]):
            return False
        for e in range(rows.a_ptr[i], rows.a_ptr[i + 1]):
            if not np.isfinite(data[e]):
                return False
    return True


# Where no sequence of steps has shown that a root is simple: move by what rounding leaves open, e = A⁻¹ (NOISE eps ·
# magnitude), and see whether the Jacobian changes by its own size: |A⁻¹ (A(u + e) − A(u)) e| against |e|, the quantity
# of the Newton–Kantorovich theorem; and whether R changes by A e, row by row. At a multiple root neither holds, and the
# second does not where R oscillates faster than rounding resolves. Where all terms are zero the states are known to
# rounding of their typical sizes at best, and where all underflow, or are far larger than what the states change, not
# at all.
@internal
def _nudge(
    lo, n, m, rows, scale, v, data, residual, magnitude, a, piv, r_scale, c_scale, marks, start, step, correction,
    weight, spare, before,
):  # fmt: skip
    """Move off the root; how far, relative to the states. -1 where rounding hides the root.

    a, piv, r_scale, c_scale, marks: the Jacobian at the root, factored. start, step, correction, weight, spare, before
    (n,): written, for `_straight`.
    """
    for i in range(n):
        step[i] = NOISE * EPS * magnitude[lo + i]
        start[i] = v[m + lo + i]
    _solve_block(n, a, piv, r_scale, c_scale, marks, step)
    length = 0.0
    for i in range(n):
        weight[i] = max(abs(start[i]), scale[lo + i])
        length = max(length, abs(step[i]) / weight[i])
        correction[i] = 0.0
        spare[i] = 0.0
    for i in range(n):
        seen = 0.0
        for e in range(rows.a_ptr[lo + i], rows.a_ptr[lo + i + 1]):
            if rows.a_col[e] >= lo:
                seen += abs(data[e]) * weight[rows.a_col[e] - lo]
        if seen <= NOISE * EPS * magnitude[lo + i]:
            return -1.0  # rounding hides what any other states of their sizes would change
    if length == 0.0:
        length = EPS
        for i in range(n):
            step[i] = EPS * weight[i]
    for i in range(n):
        for e in range(rows.a_ptr[lo + i], rows.a_ptr[lo + i + 1]):
            if rows.a_col[e] >= lo:
                correction[i] -= data[e] * step[rows.a_col[e] - lo]
                spare[i] += data[e] * step[rows.a_col[e] - lo]
        v[m + lo + i] = start[i] + step[i]
        before[i] = residual[lo + i]
    return length


@internal
def _straight(
    lo, n, m, rows, v, data, residual, magnitude, a, piv, r_scale, c_scale, marks, start, step, correction, weight,
    spare, before, length,
):  # fmt: skip
    """Whether R and its partials, evaluated where `_nudge` moved to, are those of a simple root; moves back."""
    straight = True
    for i in range(n):
        for e in range(rows.a_ptr[lo + i], rows.a_ptr[lo + i + 1]):
            if rows.a_col[e] >= lo:
                correction[i] += data[e] * step[rows.a_col[e] - lo]
        allowed = BENT * abs(spare[i]) + EXACT * EPS * magnitude[lo + i]
        if not abs(residual[lo + i] - before[i] - spare[i]) <= allowed:
            straight = False
        v[m + lo + i] = start[i]
    _solve_block(n, a, piv, r_scale, c_scale, marks, correction)
    for i in range(n):
        if not abs(correction[i]) <= BENT * length * weight[i]:
            straight = False
    return straight


@internal
def _newton(
    lo, hi, tapes, terms, rows, scratch, m, nnz_u, scale, lower, upper,
    max_iterations, tolerance, v, data, residual, magnitude, iterations, block,
):  # fmt: skip
    n = hi - lo
    reg, adj, a, piv, work = scratch.registers[0], scratch.registers[1], scratch.a, scratch.piv, scratch.work
    r_scale, c_scale, marks = work[6], work[7], scratch.marks
    start, step, correction, weight, spare, before = work[0], work[1], work[2], work[3], work[4], work[5]
    for i in range(n):
        start[i] = v[m + lo + i]
    rows_jacobian(lo, hi, tapes, terms, rows, nnz_u, reg, adj, v, residual, magnitude, data)
    if not _finite(lo, hi, rows, residual, data):
        return NOT_FINITE
    damping = 1.0
    contraction = 1.0
    expected = np.inf
    done = False
    for it in range(max_iterations + 1):
        iterations[block] = it
        if _within(lo, hi, EXACT * EPS, residual, magnitude):
            done = True
            break
        if it == max_iterations:
            break
        if _factor_block(lo, hi, rows, data, a, piv, r_scale, c_scale, marks) != 0:
            return SINGULAR_ITERATE
        length = 0.0
        for i in range(n):
            step[i] = -residual[lo + i]
        _solve_block(n, a, piv, r_scale, c_scale, marks, step)
        for i in range(n):
            start[i] = v[m + lo + i]
            weight[i] = max(abs(start[i]), scale[lo + i])
            length = max(length, abs(step[i]) / weight[i])
        if not np.isfinite(length):
            return SINGULAR_ITERATE
        if length > 2.0 * expected:
            contraction = 1.0  # not the step that quadratic convergence promised, but a leap
        noisy = _within(lo, hi, NOISE * EPS, residual, magnitude)
        damping = min(1.0, 4.0 * damping)
        while True:
            bounded = False
            for i in range(n):
                x = start[i] + damping * step[i]
                if lower.size > 0:
                    if x <= lower[lo + i]:
                        x = start[i] + TO_BOUND * (lower[lo + i] - start[i])
                        bounded = True
                    elif x >= upper[lo + i]:
                        x = start[i] + TO_BOUND * (upper[lo + i] - start[i])
                        bounded = True
                v[m + lo + i] = x
            rows_jacobian(lo, hi, tapes, terms, rows, nnz_u, reg, adj, v, residual, magnitude, data)
            shorter = damping * 0.25
            if _finite(lo, hi, rows, residual, data):
                if _within(lo, hi, EXACT * EPS, residual, magnitude):
                    break
                for i in range(n):
                    correction[i] = -residual[lo + i]
                _solve_block(n, a, piv, r_scale, c_scale, marks, correction)
                after = 0.0
                bend = 0.0
                for i in range(n):
                    after = max(after, abs(correction[i]) / weight[i])
                    bend = max(bend, abs(correction[i] - (1.0 - damping) * step[i]) / weight[i])
                if after <= (1.0 - 0.25 * damping) * length:
                    break
                # the damping for which a quadratic model of the path predicts the most progress
                best = 0.5 * length * damping * damping / bend if bend > 0.0 else 0.0
                shorter = min(max(best, 0.1 * damping), 0.5 * damping)
            if noisy or shorter < SMALLEST:
                for i in range(n):
                    v[m + lo + i] = start[i]
                rows_jacobian(lo, hi, tapes, terms, rows, nnz_u, reg, adj, v, residual, magnitude, data)
                if noisy:
                    done = True
                    break
                return STALLED
            damping = shorter
        if done:
            break
        if _within(lo, hi, EXACT * EPS, residual, magnitude):
            iterations[block] = it + 1
            done = True
            break
        expected = np.inf
        if damping < 1.0 or bounded:
            contraction = 1.0
        else:
            expected = after
            if not _within(lo, hi, NOISE * EPS, residual, magnitude):
                contraction = after / length  # of rounding noise it would say nothing
            small = True
            for i in range(n):
                # a state at zero has no relative size: there only the residual can tell
                if not abs(correction[i]) <= STEP * abs(v[m + lo + i]):
                    small = False
            if small and contraction <= QUADRATIC and _within(lo, hi, tolerance, residual, magnitude):
                for i in range(n):
                    spare[i] = v[m + lo + i]
                    v[m + lo + i] += correction[i]
                rows_jacobian(lo, hi, tapes, terms, rows, nnz_u, reg, adj, v, residual, magnitude, data)
                if _finite(lo, hi, rows, residual, data):
                    if _within(lo, hi, NOISE * EPS, residual, magnitude):
                        iterations[block] = it + 1
                        done = True
                        break
                else:
                    for i in range(n):
                        v[m + lo + i] = spare[i]
                    rows_jacobian(lo, hi, tapes, terms, rows, nnz_u, reg, adj, v, residual, magnitude, data)
    if not done:
        return TOO_MANY_ITERATIONS
    if contraction <= QUADRATIC:
        return SOLVED
    if _factor_block(lo, hi, rows, data, a, piv, r_scale, c_scale, marks) != 0:
        return MULTIPLE_ROOT
    length = _nudge(
        lo, n, m, rows, scale, v, data, residual, magnitude, a, piv, r_scale, c_scale, marks, start, step, correction,
        weight, spare, before,
    )  # fmt: skip
    if length < 0.0:
        return MULTIPLE_ROOT
    rows_jacobian(lo, hi, tapes, terms, rows, nnz_u, reg, adj, v, residual, magnitude, data)
    straight = _straight(
        lo, n, m, rows, v, data, residual, magnitude, a, piv, r_scale, c_scale, marks, start, step, correction, weight,
        spare, before, length,
    )  # fmt: skip
    rows_jacobian(lo, hi, tapes, terms, rows, nnz_u, reg, adj, v, residual, magnitude, data)
    return SOLVED if straight else MULTIPLE_ROOT


# what a block of several, solved together, waits for after the next evaluation
BEGUN, TRIED, POLISHED, NUDGED, BACK, SETTLED, LEFT = 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0
GUESS = 8  # row of `Scratch.work` with the states that they began with


@internal
def _newton_together(
    block, count, ptr, tapes, terms, rows, scratch, m, nnz_u, scale, lower, upper, max_iterations, tolerance,
    v, data, residual, magnitude, status, iterations,
):  # fmt: skip
    """`_newton` for `count` blocks that are alike, from `block` on; how many it leaves, as they were, as `ALONE`.

    All are evaluated together and each takes its own steps, the same as alone while these are whole. One that would be
    damped, or meets a bound or anything else out of the ordinary, is left. Measured on 2 359 blocks e = r cos a,
    f = r sin a: 5.8 ms one by one, 3.2 ms so.
    """
    base = np.int64(ptr[block])
    n = np.int64(ptr[block + 1]) - base
    reg, adj, work = scratch.registers[0], scratch.registers[1], scratch.work
    guess, lanes = work[GUESS], work[GUESS + 1]
    contraction, expected = lanes[:WIDE], lanes[WIDE : 2 * WIDE]
    length, phase = lanes[2 * WIDE : 3 * WIDE], lanes[3 * WIDE : 4 * WIDE]
    for i in range(n * count):
        guess[i] = v[m + base + i]
    for k in range(count):
        contraction[k], expected[k], phase[k] = 1.0, np.inf, BEGUN
        iterations[block + k] = 0
        status[block + k] = SOLVED
    left = count
    for _ in range(ROUNDS):
        clear(base, base + n * count, rows, nnz_u, data)
        for q in range(n):
            rows_alike(base + q, n, count, tapes, terms, rows, reg, adj, v, residual, magnitude, data)
        for k in range(count):
            if phase[k] >= SETTLED:
                continue
            lo, at = base + k * n, k * n
            hi = lo + n
            start, step, correction = work[0][at : at + n], work[1][at : at + n], work[2][at : at + n]
            weight, spare, before = work[3][at : at + n], work[4][at : at + n], work[5][at : at + n]
            r_scale, c_scale = work[6][at : at + n], work[7][at : at + n]
            a, piv = scratch.a[at * n : (at + n) * n], scratch.piv[at : at + n]
            marks = scratch.marks[at : at + n]
            if phase[k] == NUDGED:
                if not _straight(
                    lo, n, m, rows, v, data, residual, magnitude, a, piv, r_scale, c_scale, marks, start, step,
                    correction, weight, spare, before, length[k],
                ):  # fmt: skip
                    status[block + k] = MULTIPLE_ROOT
                phase[k] = BACK
                continue
            if phase[k] == BACK:
                phase[k] = SETTLED
                left -= 1
                continue
            finite = _finite(lo, hi, rows, residual, data)
            noisy = _within(lo, hi, NOISE * EPS, residual, magnitude)
            solved = noisy and (phase[k] == POLISHED or _within(lo, hi, EXACT * EPS, residual, magnitude))
            ordinary = finite
            if phase[k] == TRIED:
                iterations[block + k] += 1
                if finite and not solved:
                    for i in range(n):
                        correction[i] = -residual[lo + i]
                    _solve_block(n, a, piv, r_scale, c_scale, marks, correction)
                    after = 0.0
                    small = True
                    for i in range(n):
                        after = max(after, abs(correction[i]) / weight[i])
                        small = small and abs(correction[i]) <= STEP * abs(v[m + lo + i])
                    ordinary = after <= 0.75 * length[k]
                    if ordinary:
                        expected[k] = after
                        if not noisy:
                            contraction[k] = after / length[k]
                        if (
                            small
                            and contraction[k] <= QUADRATIC
                            and _within(lo, hi, tolerance, residual, magnitude)
                        ):
                            for i in range(n):
                                v[m + lo + i] += correction[i]
                            phase[k] = POLISHED
                            continue
            if not ordinary or (not solved and iterations[block + k] >= max_iterations):
                phase[k] = LEFT
            elif solved and contraction[k] <= QUADRATIC:
                phase[k] = SETTLED
            elif _factor_block(lo, hi, rows, data, a, piv, r_scale, c_scale, marks) != 0:
                phase[k] = LEFT
                if solved:
                    phase[k] = SETTLED
                    status[block + k] = MULTIPLE_ROOT
            elif solved:
                length[k] = _nudge(
                    lo, n, m, rows, scale, v, data, residual, magnitude, a, piv, r_scale, c_scale, marks,
                    start, step, correction, weight, spare, before,
                )  # fmt: skip
                phase[k] = NUDGED
                if length[k] < 0.0:
                    phase[k] = SETTLED
                    status[block + k] = MULTIPLE_ROOT
            else:  # another step
                for i in range(n):
                    step[i] = -residual[lo + i]
                _solve_block(n, a, piv, r_scale, c_scale, marks, step)
                size = 0.0
                free = True
                for i in range(n):
                    start[i] = v[m + lo + i]
                    weight[i] = max(abs(start[i]), scale[lo + i])
                    size = max(size, abs(step[i]) / weight[i])
                    x = start[i] + step[i]
                    if lower.size > 0:
                        free = free and lower[lo + i] < x < upper[lo + i]
                    v[m + lo + i] = x
                if size > 2.0 * expected[k]:
                    contraction[k] = 1.0
                expected[k] = np.inf
                length[k] = size
                phase[k] = TRIED if free and np.isfinite(size) else LEFT
            if phase[k] >= SETTLED:
                left -= 1
        if left == 0:
            break
    alone = 0
    for k in range(count):
        if phase[k] != SETTLED:
            alone += 1
            status[block + k] = ALONE
            for i in range(n):
                v[m + base + k * n + i] = guess[k * n + i]
    return alone
