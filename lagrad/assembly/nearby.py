"""How much the Jacobians of blocks change between a solution and a point that rounding cannot tell from it.

Takes the machine's arrays and factors of the Jacobian at the solution; gives, block by block, a bound on
‖A⁻¹ (A(moved) − A)‖, and says where it cannot be large without a look. Knows no large blocks, and decides nothing.

R is evaluated with an error of a few eps · magnitude, so that u is known to within e = R_u⁻¹ s with |s_i| that error,
and every number in a term to a few units in its last place. Where A changes by its own size on such a move, the point
may as well be one where A is singular: rounding has decided the derivative, whatever the condition of A equilibrated.

Where no look is needed. Let M_i be the magnitude of row i. For products, powers and quotients the second partials
times the states, |∂²R_i/∂u_j∂u_k| |u_j| |u_k|, and eps⁻¹ times the rounding of a partial times its state are of the
size of M_i at most. With h = max_j |e_j| / |u_j| the change is then no larger than about h · h / noise, where
|s| = noise · M. So the states are compared with themselves, not with what is typical of them: one that is zero says
nothing, and is looked at. A function may change faster than its argument only if that is a phase of many turns: `reach`
says from where on. M knows what cancels in a sum to first order. Of a product of two sums, a power of one, or a
quotient by one, the second partials are as large where the sums are zero and M is not: (u − 1) (w − 1) has |u| |w|, and
M = |u − 1| + |w − 1|. Terms that `bends` knows are looked at wherever they are.

Measured, of solve and gradient in one call: nothing without a look; with one 6 % of two states, 9 % of fifty.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.machine import ALIKE, WIDE, Machine, clear, rows_alike, rows_jacobian
from lagrad.expr.primitives import OPCODE, PRIMITIVES
from lagrad.kernel import inlined, kernel
from lagrad.linalg.scales import BALANCED

Floats = NDArray[np.float64]

EPS = 2.220446049250313e-16
SHORT = 1e-10  # |e| / |u| of all states up to which no Jacobian is looked at: it changes by 1e-6 of its size at most
ULPS = 4.0  # units in its last place by which every number is moved besides
PHASE = 1e3  # radians up to which sin, cos and tan change no faster than a power of their argument
PHASED = tuple(OPCODE[name] for name in ("sin", "cos", "tan"))
# by opcode: the most that a result may be, whatever the argument
BOUNDED = {OPCODE[name]: 1.6 for name in ("sin", "cos", "tanh", "arctan", "arcsin", "erf", "expit", "sign")}
ANY = 1.7976931348623157e308
CONSTANT, MONOMIAL, SUM = 0, 1, 2  # a register: without leaves, a product of them, or with a sum in it
# of a sum: what has second partials no larger than its first, or is asked by `reach`
STRAIGHT = ("neg", "abs", "sin", "cos", "tanh", "arctan", "erf", "expit", "sign")
SHARE = 0.5**25  # turns the 24 bits that `_HIGH` leaves of a number into less than a half
_MIX, _HIGH, _ONE = np.uint64(0x9E3779B97F4A7C15), np.uint64(40), np.uint64(1)


def reach(machine: Machine, implicit: NDArray[np.bool_]) -> Floats:
    """(m+n,) the magnitudes of the numbers in v up to which no phase in any term is larger than `PHASE`.

    `ANY` of what is in no phase; 0 where a phase is more than a sum of multiples; -1, which no magnitude is within, in
    a term that `bends` where a sum cancels; inf of what is in no implicit row. implicit (n,): whether a row is one.
    """
    out = np.full(machine.m + machine.n, np.inf)
    tapes, terms = machine.tapes, machine.terms
    inside = np.repeat(implicit[terms.row], np.diff(terms.leaf_ptr))
    out[terms.leaf[inside]] = ANY
    of_op = np.repeat(np.arange(tapes.ptr.size - 1), np.diff(tapes.ptr))
    for t in np.unique(of_op[np.isin(tapes.op, PHASED)]).tolist():
        which = np.flatnonzero(terms.template == t)
        for bound in _phases(machine, t, which):
            for j in range(int(tapes.leaves[t])):
                leaf = terms.leaf[terms.leaf_ptr[which] + j]
                most = np.zeros(which.size)
                if bound is not None:
                    factors, rest = bound
                    with np.errstate(divide="ignore"):
                        most = np.maximum(PHASE - rest, 0.0) / (
                            np.count_nonzero(factors, axis=0) * factors[j]
                        )
                    most[factors[j] == 0.0] = np.inf
                np.minimum.at(out, leaf, most)
    bent = np.array([bends(machine, t) for t in range(tapes.ptr.size - 1)], np.bool_)
    if bent.any():
        out[terms.leaf[inside & np.repeat(bent[terms.template], np.diff(terms.leaf_ptr))]] = -1.0
    return out


def bends(machine: Machine, template: int) -> bool:
    """Whether a template is curved in a sum that may cancel by more than M tells: see the module's first lines."""
    tapes = machine.tapes
    leaves, constants = int(tapes.leaves[template]), int(tapes.consts[template])
    known = [MONOMIAL] * leaves + [CONSTANT] * constants
    for q in range(int(tapes.ptr[template]), int(tapes.ptr[template + 1])):
        primitive = PRIMITIVES[int(tapes.op[q])]
        a, b = known[tapes.a[q]], known[tapes.b[q]] if primitive.arity == 2 else CONSTANT
        both = max(a, b)
        if primitive.name in ("add", "sub"):
            both = SUM if both != CONSTANT else CONSTANT
        elif both == SUM and primitive.name not in STRAIGHT:
            times = primitive.name == "mul" or (primitive.name == "div" and b != SUM)
            if not times or a == b:
                return True
        known.append(both)
    return False


Bound = tuple[NDArray[Any], NDArray[Any]] | None  # |register| <= Σ_j factors[j] |leaf j| + rest; None: not so


def _phases(machine: Machine, template: int, which: NDArray[Any]) -> list[Bound]:
    """The bound of every phase of a template, for all instances: factors (leaves, instances), rest (instances,)."""
    tapes, terms = machine.tapes, machine.terms
    k, none = int(tapes.leaves[template]), np.zeros(which.size)
    known: list[Bound] = [(np.eye(k)[:, [j]] * np.ones(which.size), none) for j in range(k)]
    for j in range(int(tapes.consts[template])):
        known.append((np.zeros((k, which.size)), np.abs(terms.const[terms.const_ptr[which] + j])))
    found: list[Bound] = []
    for q in range(int(tapes.ptr[template]), int(tapes.ptr[template + 1])):
        op = int(tapes.op[q])
        a, b = known[tapes.a[q]], known[tapes.b[q]] if PRIMITIVES[op].arity == 2 else None
        if op in PHASED:
            found.append(a)
        known.append(_bound(op, a, b))
    return found


def _bound(op: int, a: Bound, b: Bound) -> Bound:
    """The bound of the result of an operation from those of its arguments."""
    name = PRIMITIVES[op].name
    if op in BOUNDED and a is not None:
        return np.zeros_like(a[0]), np.full_like(a[1], BOUNDED[op])
    if a is None:
        return None
    if name in ("neg", "abs"):
        return a
    if b is None:
        return None
    if name in ("add", "sub"):
        return a[0] + b[0], a[1] + b[1]
    if name == "mul" and not a[0].any():
        return a[1] * b[0], a[1] * b[1]
    if name == "mul" and not b[0].any():
        return a[0] * b[1], a[1] * b[1]
    return None


@inlined
def _sign(i):
    """1.0 or -1.0, without a pattern: a bit of a multiple of 2⁶⁴ over the golden ratio."""
    return 1.0 if np.uint64(i) * _MIX >> _HIGH & _ONE == _ONE else -1.0


@kernel
def signed(noise, magnitude, e):
    """e (n,) <- ±noise · magnitude, between half of it and all: were all alike, two of them could cancel exactly."""
    for i in range(e.size):
        share = float(np.uint64(i) * _MIX >> _HIGH) * SHARE
        e[i] = _sign(i) * (0.5 + share) * noise * magnitude[i]


@kernel
def far_enough(m, reach, v, e):
    """Whether e (n,), an error of the states, may change a Jacobian noticeably: see the module's first lines."""
    for i in range(e.size):  # explicit ones that implicit rows mention, too: as factors they are partials
        if reach[m + i] < math.inf and not abs(e[i]) < SHORT * abs(v[m + i]):  # both zero say nothing
            return True
    for i in range(v.size):
        if abs(v[i]) > reach[i]:
            return True
    return False


@kernel
def move(m, e, v, moved):
    """moved (m+n,) <- v, every number off by `ULPS` and the states by e (n,) besides."""
    for i in range(v.size):
        moved[i] = v[i] * (1.0 + _sign(i + 7) * ULPS * EPS)
    for i in range(e.size):
        moved[m + i] += e[i]


@kernel
def change_of_blocks(
    ptr, kind, alike, tapes, terms, rows, reg, adj, nnz_u, split, packed, r, c, rcond,
    data, moved, residual, magnitude, other, change,
):  # fmt: skip
    """change (n_blocks,): bounds of ‖A⁻¹ (A(moved) − A)‖₁, equilibrated; 0 for explicit and for large blocks.

    alike: see `machine.alike_blocks`; reg, adj: `WIDE` of each register and one more. data (nnz,): the partials at the
    solution; other (nnz,), residual, magnitude (n,): scratch; r, c (n,), rcond (n_blocks,) as of
    `linalg.condition.condition_small`, split, packed as in `linalg.sweeps`.
    """
    done: Any = 0  # blocks before it are evaluated; an int64 later, which no annotation knows
    for b in range(kind.size):
        change[b] = 0.0
        if kind[b] == 0 or packed[b + 1] == packed[b]:
            continue
        lo, hi = np.int64(ptr[b]), np.int64(ptr[b + 1])
        if b >= done:
            done = min(np.int64(alike[b]), b + WIDE)
            if done - b < ALIKE:
                done = b + 1
                rows_jacobian(lo, hi, tapes, terms, rows, nnz_u, reg, adj, moved, residual, magnitude, other)
            else:
                clear(lo, np.int64(ptr[done]), rows, nnz_u, other)
                for q in range(hi - lo):
                    rows_alike(
                        lo + q, hi - lo, done - b, tapes, terms, rows, reg, adj, moved, residual, magnitude, other,
                    )  # fmt: skip
        for j in range(lo, hi):
            magnitude[j] = 0.0  # from here on sums of columns
        for k in range(lo, hi):
            for s in range(split[k], rows.a_ptr[k + 1]):
                j = rows.a_col[s]
                magnitude[j] += abs(other[s] - data[s]) * (r[k] * c[j])
        largest = 0.0
        for j in range(lo, hi):
            if not magnitude[j] <= largest:  # nan is large
                largest = magnitude[j]
        if hi - lo == 1:
            change[b] = largest / abs(data[split[lo]] * (r[lo] * c[lo]))
        else:  # ‖(R A C)⁻¹‖ = 1 / (rcond ‖R A C‖), and that norm is no smaller than 1 / BALANCED
            change[b] = BALANCED * largest / rcond[b]
