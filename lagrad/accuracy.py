"""How far a solved point and a gradient there may be from the truth, in numbers that are meant as bounds.

Takes a Linearization; gives uncertainties of v, bounds on the absolute error of first derivatives and multipliers, and
estimates for second derivatives. Knows positions, no
names; refuses nothing. Costs two solves and a pass over the terms per parameter and five Jacobians: computed when
read, never before.

Three sources of error in g_j = dJ/dp_j = J_p − λᵀ R_p, with u̇_j = −R_u⁻¹ R_p e_j:

  the point     R is evaluated with an error of at most eps · magnitude (Linnainmaa 1976) and is not zero, so that the
                exact states are those of R(u, p) = s with |s_i| <= |R_i| + 2 eps · magnitude_i. With s as further
                parameters dJ/ds = λ, hence dg_j/ds = dλ/dp_j = λ̇_j, which the Hessian product computes anyhow:
                |δg_j| <= |λ̇_j|ᵀ |s|.
  the partials  each entry a of R_u and R_p is wrong by at most E, hence |δg_j| <= |λ|ᵀ (E_u |u̇_j| + E_p e_j).
  the solve     R_uᵀ λ = J_u − r gives δg_j = rᵀ u̇_j.

E is measured, not derived: 8 eps |a|, as many times as much where an operation underflows, plus what a comes out
different when every number in the terms is moved by a few units in its last place. The first two lines are of first
order; where that is not to be trusted (a root that is nearly multiple, a phase of which no digit is known) the gradient
is computed again at points moved by the whole of s, and a larger change there stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.machine import Machine
from lagrad.assembly.second import hessian_times
from lagrad.assembly.underflow import underflow
from lagrad.expr.primitives import OPCODE
from lagrad.linearize import Linearization

Floats = NDArray[np.float64]

EPS: Final = float(np.finfo(np.float64).eps)
SAFETY: Final = 2.0  # on the sum of the three: what second order and the rounding of the bound itself add
ESTIMATE: Final = 8.0  # on the largest change of a second derivative over four perturbed points
MOVES: Final = 3  # Jacobians with all numbers moved in their last places
SLICE: Final = 1 << 20  # numbers in one slice of directions


def doubt(at: Linearization) -> Floats:
    """|s| (n,): how far from zero the exact residual may be at the point."""
    return np.abs(at.residual) + 2.0 * EPS * at.magnitude


def spread(at: Linearization) -> Floats:
    """Uncertainty (m+n,) of v at a solution: 0 for parameters; for states an estimate of |R_u⁻¹| |s|."""
    layout = at.layout
    out = np.zeros(layout.m + layout.n)
    u = np.abs(at.v[layout.m :])
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (layout.n, 3))
    with np.errstate(all="ignore"):
        moved = np.abs(at.factors.solve(signs * doubt(at)[:, None])).max(axis=1, initial=0.0)
    # where a block is singular nothing is known of its states; rounding is what remains to be said
    out[layout.m :] = np.maximum(np.where(np.isfinite(moved), 2.0 * moved, 0.0), EPS * u)
    return out


def entry_doubt(at: Linearization) -> Floats:
    """E (nnz,): how far each partial may be from the exact one at v."""
    machine, v, data = at.layout.machine, at.v, at.data
    random = np.random.default_rng(1)  # fixed: the same bound every time
    free = _movable(machine)
    worst = np.zeros(data.size)
    with np.errstate(all="ignore"):
        for _ in range(MOVES):
            const = machine.terms.const * (1.0 + 4.0 * EPS * random.uniform(-1.0, 1.0, free.size) * free)
            moved = v * (1.0 + 4.0 * EPS * random.uniform(-1.0, 1.0, v.size))
            other = replace(machine, terms=machine.terms._replace(const=const)).jacobian(moved)[2]
            worst = np.fmax(worst, np.abs(other - data))
    left_out = np.zeros(at.layout.n, np.bool_)
    left_out[at.undefined.rows] = True
    for ptr, part in (
        (machine.rows.a_ptr, worst[: machine.nnz_u]),
        (machine.rows.b_ptr, worst[machine.nnz_u :]),
    ):
        part[np.repeat(left_out, np.diff(ptr))] = 0.0
    # partials of linear terms do not move: what their sum may lose is told by their sizes
    terms, tapes = machine.terms, machine.tapes
    linear = (tapes.ptr[1:] == tapes.ptr[:-1])[terms.template]
    leaves = np.diff(terms.leaf_ptr)
    chosen = np.repeat(linear, leaves)
    sizes = np.bincount(
        terms.slot[chosen], weights=np.abs(np.repeat(terms.weight, leaves))[chosen], minlength=data.size
    )
    counted = np.bincount(terms.slot, minlength=data.size)
    lost = underflow(machine, v)
    share = np.concatenate(
        [np.repeat(lost, np.diff(machine.rows.a_ptr)), np.repeat(lost, np.diff(machine.rows.b_ptr))]
    )
    with np.errstate(invalid="ignore"):
        own = np.where(data == 0.0, np.where(np.isinf(share), np.inf, 0.0), 8.0 * EPS * share * np.abs(data))
    return own + 4.0 * EPS * np.where(counted > 1, sizes, 0.0) + 4.0 * worst


def _movable(machine: Machine) -> NDArray[np.bool_]:
    """Which constants may be moved by rounding: all but exponents, where a whole number is meant."""
    tapes, terms = machine.tapes, machine.terms
    free = np.ones(terms.const.size, np.bool_)
    template_of = np.repeat(np.arange(tapes.ptr.size - 1), np.diff(tapes.ptr))
    powers = np.flatnonzero(tapes.op == OPCODE["powc"])
    t = template_of[powers]
    slot = tapes.b[powers] - tapes.leaves[t]
    for template, k in {*zip(t.tolist(), slot.tolist(), strict=True)}:
        if 0 <= k < tapes.consts[template]:
            free[terms.const_ptr[:-1][terms.template == template] + k] = False
    return free


def _transposed_times(ptr: NDArray[Any], col: NDArray[Any], data: Floats, x: Floats, columns: int) -> Floats:
    """Aᵀ x (columns,) for a matrix in CSR; without SciPy's, whose import is a tenth of a first solve."""
    products = data * np.repeat(x, np.diff(ptr))
    return np.asarray(np.bincount(col, weights=products, minlength=columns), dtype=np.float64)


def gradient_bound(at: Linearization, seed: Floats, lam: Floats, cols: NDArray[Any]) -> Floats:
    """A bound (len(cols),) on the absolute error of −R_pᵀ λ for parameters `cols`; inf where there is none.

    seed (n,): weights of the states; lam (n,): λ as computed, R_uᵀ λ = seed.
    """
    layout, machine = at.layout, at.layout.machine
    n, m, rows, nnz = layout.n, layout.m, machine.rows, machine.nnz_u
    s, entries, size = doubt(at), entry_doubt(at), np.abs(lam)
    left = np.abs(seed - _transposed_times(rows.a_ptr, rows.a_col, at.data[:nnz], lam, n))
    weights = left + _transposed_times(rows.a_ptr, rows.a_col, entries[:nnz], size, n)
    out = _transposed_times(rows.b_ptr, rows.b_col, entries[nnz:], size, m)[cols]
    with np.errstate(all="ignore"):
        width = max(1, SLICE // max(n + m, 1))
        for lo in range(0, cols.size, width):
            some = slice(lo, min(lo + width, cols.size))
            directions = np.zeros((m, some.stop - lo))
            directions[cols[some], np.arange(some.stop - lo)] = 1.0
            tangent = at.tangent(at.minus_by_parameters(directions))[0]
            turned = hessian_times(machine, at.v, lam, np.concatenate([directions, tangent]))[m:]
            turning = at.adjoint(turned)[0]
            out[some] += weights @ np.abs(tangent) + s @ np.abs(turning)
        out = SAFETY * np.fmax(out, _change_nearby(at, seed, lam, s)[cols])
    return np.where(np.isfinite(out), out, np.inf)


def multiplier_bound(at: Linearization, seed: Floats, lam: Floats) -> Floats:
    """A bound (n,) on the absolute error of λ itself: that of a gradient by s in R(u, p) = s, where dJ/ds = λ.

    u̇ for the i-th s is R_u⁻¹ e_i, and no partial by s is in doubt. Two solves per constraint.
    """
    layout, machine = at.layout, at.layout.machine
    n, m, rows, nnz = layout.n, layout.m, machine.rows, machine.nnz_u
    s, entries, size = doubt(at), entry_doubt(at), np.abs(lam)
    weights = np.abs(seed - _transposed_times(rows.a_ptr, rows.a_col, at.data[:nnz], lam, n))
    weights += _transposed_times(rows.a_ptr, rows.a_col, entries[:nnz], size, n)
    out = np.zeros(n)
    with np.errstate(all="ignore"):
        width = max(1, SLICE // max(n + m, 1))
        for lo in range(0, n, width):
            ones = np.eye(n, min(width, n - lo), -lo)
            tangent = at.tangent(ones)[0]
            still = np.zeros((m, ones.shape[1]))
            turned = hessian_times(machine, at.v, lam, np.concatenate([still, tangent]))[m:]
            out[lo : lo + width] = weights @ np.abs(tangent) + s @ np.abs(at.adjoint(turned)[0])
        for there in _nearby(at, lam, s):
            change = np.abs(there.adjoint(seed)[0] - lam)
            out = np.maximum(out, np.where(np.isnan(change), np.inf, change))
        out = SAFETY * out
    return np.where(np.isfinite(out), out, np.inf)


def product_estimate(at: Linearization, seed: Floats, directions: Floats) -> Floats:
    """An estimate (m, k) of the absolute error of H ṗ, for directions (m, k); inf where there is none.

    Not a bound: third derivatives are not at hand. The product is computed again where s moves the point, with the
    partials moved by random parts of E, and the largest change counts `ESTIMATE` times.
    """
    here = hessian_product(at, seed, directions)
    entries, worst = entry_doubt(at), 16.0 * EPS * np.abs(here)
    random = np.random.default_rng(3)
    lam = at.adjoint(seed)[0]
    with np.errstate(all="ignore"):
        for there in _nearby(at, lam, doubt(at)):
            data = there.data + entries * random.choice([-1.0, 1.0], entries.size)
            factors = at.layout.pattern.factor(data[: at.layout.machine.nnz_u], None)
            moved = hessian_product(replace(there, data=data, factors=factors), seed, directions)
            change = np.abs(moved - here)
            worst = np.maximum(worst, np.where(np.isnan(change), np.inf, change))
    return ESTIMATE * worst


def hessian_product(at: Linearization, seed: Floats, directions: Floats) -> Floats:
    """H ṗ (m, k), unchecked; `Differentiator.hessian_times` derives it."""
    m = at.layout.m
    tangent = at.tangent(at.minus_by_parameters(directions))[0]
    lam = at.adjoint(seed)[0]
    moved = hessian_times(at.layout.machine, at.v, lam, np.concatenate([directions, tangent]))
    return np.asarray(moved[:m] + at.minus_by_parameters_transposed(at.adjoint(moved[m:])[0]))


def _change_nearby(at: Linearization, seed: Floats, lam: Floats, s: Floats) -> Floats:
    """The largest change (m,) of the gradient seen at points that satisfy R = ±s as well as v does R = 0."""
    here = at.minus_by_parameters_transposed(lam)
    worst = np.zeros(at.layout.m)
    for there in _nearby(at, lam, s):
        change = np.abs(there.minus_by_parameters_transposed(there.adjoint(seed)[0]) - here)
        worst = np.maximum(worst, np.where(np.isnan(change), np.inf, change))
    return worst


def _nearby(at: Linearization, lam: Floats, s: Floats) -> Iterator[Linearization]:
    """The partials at four points that satisfy R = ±s as well as v does R = 0."""
    layout = at.layout
    random = np.random.default_rng(2).choice([-1.0, 1.0], layout.n)
    signs = np.stack([np.where(lam < 0.0, -1.0, 1.0), random], axis=1)
    steps = at.factors.solve(signs * s[:, None])
    for step in (*steps.T, *-steps.T):
        v = at.v.copy()
        v[layout.m :] += step
        yield Linearization.at(layout, v, leave_out=True)
