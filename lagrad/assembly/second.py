"""Second derivatives of the constraints: ∇²(λᵀR), times directions or as a sparse matrix, term by term.

Takes the machine's arrays, a point v and multipliers λ. With k directions v̇ in the space of [p, u] it gives
−∇²(λᵀR) v̇, which is ∇²L v̇ for an output that is a state, and forms no matrix: each nonlinear term contributes its
own small Hessian times the direction, by one forward and one reverse pass over its tape. As a matrix, −∇²(λᵀR) has a
pattern that no number changes: `second_slots` finds it once, from which leaves of each template act on each other, and
`hessian_values` adds the entries of the terms' Hessians into their slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.dispatch import tape_seconds, tape_values
from lagrad.assembly.machine import Machine
from lagrad.expr.primitives import PRIMITIVES
from lagrad.kernel import kernel

Index = NDArray[np.int32]
Floats = NDArray[np.float64]

# which second partials of each primitive are not zero everywhere: 1 f_aa, 2 f_ab, 4 f_bb
_CURVED = np.array(
    [sum(1 << k for k, source in enumerate(p.seconds) if source != "0.0") for p in PRIMITIVES], dtype=np.int32
)


def hessian_times(machine: Machine, v: Floats, lam: Floats, directions: Floats) -> Floats:
    """−∇²(λᵀR) v̇ at v (m+n,), for multipliers λ (n,) and directions v̇ (m+n, k); (m+n, k)."""
    out = np.zeros(directions.shape)
    scratch: NDArray[Any] = np.empty((4, machine.registers))
    _hessian_times(
        machine.tapes, machine.terms, v, lam, directions.shape[1], np.ascontiguousarray(directions).reshape(-1),
        scratch[0], scratch[1], scratch[2], scratch[3], out.reshape(-1),
    )  # fmt: skip
    return out


@kernel
def _hessian_times(tapes, terms, v, lam, n_directions, directions, reg, tan, adj, adj_tan, out):
    # directions, out ((m+n)·n_directions,); reg, tan, adj, adj_tan (registers,): scratch
    for e in range(terms.row.size):
        t = terms.template[e]
        first, last = tapes.ptr[t], tapes.ptr[t + 1]
        weight = -lam[terms.row[e]] * terms.weight[e]
        if first == last or weight == 0.0:  # linear, or without influence
            continue
        k, c = tapes.leaves[t], tapes.consts[t]
        leaves, consts = terms.leaf_ptr[e], terms.const_ptr[e]
        for j in range(k):
            reg[j] = v[terms.leaf[leaves + j]]
        for j in range(c):
            reg[k + j] = terms.const[consts + j]
        result = k + c + last - first - 1
        tape_values(tapes.op, tapes.a, tapes.b, first, last, k + c, reg)
        for d in range(n_directions):
            moves = False
            for j in range(k):
                tan[j] = directions[terms.leaf[leaves + j] * n_directions + d]
                moves = moves or tan[j] != 0.0
            if not moves:
                continue
            for j in range(c):
                tan[k + j] = 0.0
            for j in range(result + 1):
                adj[j] = 0.0
                adj_tan[j] = 0.0
            adj[result] = 1.0
            tape_seconds(tapes.op, tapes.a, tapes.b, first, last, k + c, reg, tan, adj, adj_tan)
            for j in range(k):
                out[terms.leaf[leaves + j] * n_directions + d] += weight * adj_tan[j]


# -- as a matrix ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class SecondSlots:
    """Where the entries of all local Hessians go. T templates, L terms, P pairs of leaves over all terms.

    A pair (i, j), i >= j, of leaves of one template is listed if the template's second derivative by them is not zero
    everywhere. The entries of the lower triangle of the matrix, in the order of their key row · N + column, are
    `row`, `col`; `slot` says to which of them each pair of each term adds.
    """

    pair_ptr: Index  # (T+1,) into pair_i, pair_j; ascending j within a template
    pair_i: Index
    pair_j: Index
    slot_ptr: NDArray[np.int64]  # (L+1,) into slot
    slot: Index  # (P,)
    row: Index  # of each entry of the lower triangle
    col: Index


def second_slots(machine: Machine, place: Index, of: NDArray[np.bool_] | None = None) -> SecondSlots:
    """The pattern of ∇²(λᵀR) for variables v (m+n,) that stand in row and column `place` (m+n,) of the matrix.

    of (L,): the terms that count, all by default. Variables may share a place.
    """
    tapes, terms = machine.tapes, machine.terms
    widest = int(tapes.leaves.max(initial=1))
    room = int((tapes.leaves.astype(np.int64) * (tapes.leaves + 1) // 2).sum())
    pair_ptr = np.zeros(tapes.ptr.size, np.int32)
    pair_i, pair_j = np.empty((2, room), np.int32)
    _pairs(
        tapes, _CURVED, np.zeros((machine.registers, widest), np.bool_), np.zeros((widest, widest), np.bool_),
        pair_ptr, pair_i, pair_j,
    )  # fmt: skip
    count = np.diff(pair_ptr)[terms.template].astype(np.int64)
    if of is not None:
        count[~of] = 0
    slot_ptr = np.concatenate([[0], np.cumsum(count)])
    term = np.repeat(np.arange(count.size), count)
    pair = np.arange(slot_ptr[-1]) - slot_ptr[term] + pair_ptr[terms.template[term]]
    one = place[terms.leaf[terms.leaf_ptr[term] + pair_i[pair]]].astype(np.int64)
    other = place[terms.leaf[terms.leaf_ptr[term] + pair_j[pair]]].astype(np.int64)
    size = int(place.max(initial=0)) + 1
    key, slot = np.unique(np.maximum(one, other) * size + np.minimum(one, other), return_inverse=True)
    row, col = np.divmod(key, size)
    return SecondSlots(
        pair_ptr, pair_i[: pair_ptr[-1]].copy(), pair_j[: pair_ptr[-1]].copy(), slot_ptr,
        slot.ravel().astype(np.int32), row.astype(np.int32), col.astype(np.int32),
    )  # fmt: skip


def hessian_values(machine: Machine, slots: SecondSlots, v: Floats, lam: Floats) -> Floats:
    """The entries of the lower triangle of −∇²(λᵀR) at v (m+n,), for multipliers λ, one per row."""
    out = np.zeros(slots.row.size)
    scratch: NDArray[Any] = np.empty((4, machine.registers))
    _hessian_values(
        machine.tapes, machine.terms, slots.pair_ptr, slots.pair_i, slots.pair_j, slots.slot_ptr, slots.slot, v, lam,
        scratch[0], scratch[1], scratch[2], scratch[3], out,
    )  # fmt: skip
    return out


@kernel
def _pairs(tapes, curved, uses, acts, pair_ptr, pair_i, pair_j):
    # uses (registers, leaves): whether a register depends on a leaf; acts (leaves, leaves), lower triangle: whether
    # two leaves act on each other; both all False before. Second derivatives of f(a, b) by leaves i and j come from
    # f_aa a_i a_j + f_ab (a_i b_j + b_i a_j) + f_bb b_i b_j; what a_ij and b_ij add was marked with a and b.
    for t in range(tapes.ptr.size - 1):
        first, last = tapes.ptr[t], tapes.ptr[t + 1]
        k = tapes.leaves[t]
        base = k + tapes.consts[t]
        for i in range(k):
            for j in range(k):
                uses[i, j] = i == j
                acts[i, j] = False
        for r in range(k, base):
            for j in range(k):
                uses[r, j] = False
        for o in range(first, last):
            r, x, y = base + o - first, tapes.a[o], tapes.b[o]
            c = curved[tapes.op[o]]
            for i in range(k):
                uses[r, i] = uses[x, i] or uses[y, i]
            if c == 0:
                continue
            for i in range(k):
                for j in range(i + 1):
                    if (
                        (c & 1 and uses[x, i] and uses[x, j])
                        or (c & 2 and ((uses[x, i] and uses[y, j]) or (uses[y, i] and uses[x, j])))
                        or (c & 4 and uses[y, i] and uses[y, j])
                    ):
                        acts[i, j] = True
        n = pair_ptr[t]
        for j in range(k):
            for i in range(j, k):
                if acts[i, j]:
                    pair_i[n] = i
                    pair_j[n] = j
                    n += 1
        pair_ptr[t + 1] = n


@kernel
def _hessian_values(
    tapes, terms, pair_ptr, pair_i, pair_j, slot_ptr, slot, v, lam, reg, tan, adj, adj_tan, out
):  # fmt: skip
    # reg, tan, adj, adj_tan (registers,): scratch; out (entries of the lower triangle,)
    for e in range(terms.row.size):
        t = terms.template[e]
        weight = -lam[terms.row[e]] * terms.weight[e]
        if pair_ptr[t] == pair_ptr[t + 1] or weight == 0.0:
            continue
        first, last = tapes.ptr[t], tapes.ptr[t + 1]
        k, c = tapes.leaves[t], tapes.consts[t]
        leaves, consts = terms.leaf_ptr[e], terms.const_ptr[e]
        for j in range(k):
            reg[j] = v[terms.leaf[leaves + j]]
        for j in range(c):
            reg[k + j] = terms.const[consts + j]
        result = k + c + last - first - 1
        tape_values(tapes.op, tapes.a, tapes.b, first, last, k + c, reg)
        direction = -1
        s = slot_ptr[e]
        for q in range(pair_ptr[t], pair_ptr[t + 1]):
            i, j = pair_i[q], pair_j[q]
            if j != direction:
                direction = j
                for r in range(k + c):
                    tan[r] = 0.0
                tan[j] = 1.0
                for r in range(result + 1):
                    adj[r] = 0.0
                    adj_tan[r] = 0.0
                adj[result] = 1.0
                tape_seconds(tapes.op, tapes.a, tapes.b, first, last, k + c, reg, tan, adj, adj_tan)
            value = weight * adj_tan[i]
            # two leaves that are one variable: both of its mixed derivatives are in the one entry on the diagonal
            if i != j and terms.leaf[leaves + i] == terms.leaf[leaves + j]:
                value *= 2.0
            out[slot[s]] += value
            s += 1
