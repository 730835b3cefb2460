"""Whether the Jacobian of a block is determined: the same at all points that rounding cannot tell from the solution.

Takes a Linearization; gives the blocks of which it is not. Their derivatives are decided by rounding, as at a double
root, a bifurcation, or in a phase of which no digit is known. The condition of a block does not tell: equilibrated, a
pivot that is nothing but rounding looks like a constraint in small units. How the solution was found does not matter.

Cheap where there is no cause: one solve, and one evaluation of the Jacobian where `assembly.nearby` asks for it. Only
where that leaves a doubt are several points compared, by the spectral radius of T = A⁻¹ (A(u + e) − A(u)): the inverse
changes by (I + T)⁻¹, and units of constraints and states cancel in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.forward import BENT, EPS, NOISE
from lagrad.assembly.kinks import kinks
from lagrad.assembly.machine import WIDE
from lagrad.assembly.nearby import ULPS, change_of_blocks, far_enough, move, signed
from lagrad.certificate import RCOND_LIMIT
from lagrad.linalg.blocks import BlockFactors
from lagrad.linalg.sparse import REGULAR, times
from lagrad.linearize import Linearization

Floats = NDArray[np.float64]

LITTLE_CHANGE = 1e-3  # bound on ‖T‖ up to which a Jacobian is determined without comparing more points
POINTS = 4  # pairs of points that are compared otherwise: one could be a whole turn of a phase away
STEPS = 8  # of the power iteration for the spectral radius: T is nearly of rank one where it is large


def undetermined(at: Linearization) -> NDArray[np.bool_]:
    """(n_blocks,) blocks whose Jacobian changes by `BENT` of its size within rounding of the point."""
    layout = at.layout
    out = np.zeros(layout.kind.size, np.bool_)
    if not layout.kind.any():
        return out
    e = np.empty(layout.n)
    signed(NOISE * EPS, at.magnitude, e)
    with np.errstate(all="ignore"):
        e = at.factors.solve(e)
        if not far_enough(layout.m, layout.reach, at.v, e):
            return out
        change = _changes(at, e)
        doubtful = ~(change <= LITTLE_CHANGE)
        if doubtful.any():  # others are refused as they are
            doubtful &= (at.factors.status == REGULAR) & at.conditioned(RCOND_LIMIT)
        if doubtful.any():
            out[doubtful] = _compared(at, np.flatnonzero(doubtful))
    return out


def _changes(at: Linearization, e: Floats) -> Floats:
    """Bounds (n_blocks,) of ‖T‖₁, equilibrated, where the states are off by e (n,); of large blocks an estimate."""
    layout, machine, pattern, factors = at.layout, at.layout.machine, at.layout.pattern, at.factors
    moved = np.empty(at.v.size)
    move(layout.m, e, at.v, moved)
    change = np.empty(layout.kind.size)
    residual, magnitude, other = np.empty(layout.n), np.empty(layout.n), np.empty(machine.nnz)
    reg, adj = np.empty((2, (machine.registers + 1) * WIDE))
    change_of_blocks(
        layout.ptr, layout.kind, layout.alike, machine.tapes, machine.terms, machine.rows, reg, adj, machine.nnz_u,
        pattern.split, pattern.packed, factors.r, factors.c, at.rcond_bound,
        at.data, moved, residual, magnitude, other, change,
    )  # fmt: skip
    for group, (block, factor) in enumerate(zip(pattern.large, factors.large, strict=True), 1):
        if factor.status == REGULAR:
            machine.group_jacobian(group, moved, residual, magnitude, other)
            change[block.block] = _radius(at, factors, block.block, other - at.data, 1)
    return change


def _compared(at: Linearization, blocks: NDArray[Any]) -> NDArray[np.bool_]:
    """For each of `blocks`, whether T is larger than `BENT` at one of several points.

    Rows with a kink in reach take no part: there a rule chose the derivative, and the certificate says so. With factors
    of this very Jacobian: near a double root those that Newton's method left behind are of one twice as large.
    """
    layout, machine = at.layout, at.layout.machine
    random = np.random.default_rng(4)  # fixed: what is refused is the same every time
    shares = random.uniform(0.25, 1.0, (layout.n, POINTS)) * random.choice([-1.0, 1.0], (layout.n, POINTS))
    steps = at.own_factors.solve(shares * (NOISE * EPS * at.magnitude)[:, None])
    off = ULPS * EPS * np.abs(at.v)
    spread = off.copy()
    spread[layout.m :] += np.abs(steps).max(axis=1)
    kinked = [row for row, _ in kinks(machine, at.v, lambda: spread)]
    out = np.zeros(blocks.size, np.bool_)
    for step in (*steps.T, *-steps.T):
        moved = at.v + off * random.choice([-1.0, 1.0], at.v.size)
        moved[layout.m :] += step
        change = machine.jacobian(moved)[2] - at.data
        for row in kinked:
            change[machine.rows.a_ptr[row] : machine.rows.a_ptr[row + 1]] = 0.0
        for k, block in enumerate(blocks.tolist()):
            out[k] = out[k] or not _radius(at, at.own_factors, block, change) <= BENT
    return out


def _radius(
    at: Linearization, factors: BlockFactors, block: int, change: Floats, steps: int = STEPS
) -> float:
    """An estimate of the spectral radius of A⁻¹ Δ for one block, Δ among `change` (nnz,); not finite where Δ is not.

    From one step, of ‖T x‖ / ‖x‖ for some x without a pattern, states measured by their sizes.
    """
    layout, rows = at.layout, at.layout.machine.rows
    lo, hi = int(layout.ptr[block]), int(layout.ptr[block + 1])
    sizes = np.maximum(np.abs(at.v[layout.m + lo : layout.m + hi]), layout.scale[lo:hi])
    random = np.random.default_rng(5)
    x, growth = np.zeros(layout.n), []  # x stays zero in the columns of earlier blocks
    x[lo:hi] = sizes * random.uniform(0.5, 1.0, hi - lo) * random.choice([-1.0, 1.0], hi - lo)
    for _ in range(steps):
        rhs = np.zeros(layout.n)
        times(rows.a_ptr[lo : hi + 1], rows.a_col, hi - lo, change, x, rhs[lo:hi])
        x[lo:hi] = factors.solve(rhs)[lo:hi]
        length = float(np.abs(x[lo:hi] / sizes).max())
        if length == 0.0 or not np.isfinite(length):
            return length
        growth.append(length)
        x /= length
    return float(np.exp(np.mean(np.log(growth[steps // 2 :]))))
