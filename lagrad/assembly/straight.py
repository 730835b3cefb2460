"""Straight from the graph to flat code, where every constraint says what a state is, of what was made before.

Takes the flat arrays of a graph and the two sides of every constraint, gives `Straight`: which node each state equals
and which nodes are needed; and of it flat code. A graph is already a list of operations in an order of evaluation, so
nothing has to be lowered, matched or put into blocks where no state is used before the node that it equals: traced
functions without equations of their own, and declared programs of definitions one after the other. For all others
there is the ordinary way: rows, blocks, `assembly.machine`.

No value is a hidden state here, since flat code adds adjoints at any operation. Sums are as the user wrote them; the
ordinary way makes one sum of a long row, which may round differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.flat import SUM, FlatCode, add_constant, arranged
from lagrad.expr.graph import CONSTANT, LINEAR, PARAMETER, STATE
from lagrad.expr.primitives import PRIMITIVES
from lagrad.kernel import kernel

Index = NDArray[np.int32]

_BINARY = np.array([p.arity == 2 for p in PRIMITIVES])


@dataclass(frozen=True, eq=False)
class Straight:
    """n states, each equal to a node whose operands equal or are nodes with smaller numbers."""

    root: Index  # (n,) the node that each state equals
    needed: NDArray[np.bool_]  # (nodes,) what the states are computed from
    operations: int  # among these, sums included
    summands: int  # of the sums
    constants: int

    @staticmethod
    def of(arrays: tuple[NDArray[Any], ...], lhs: Index, rhs: Index, n_states: int) -> Straight | None:
        """None where a state is used before the node it equals, or a constraint does not say what a state is."""
        code, a, b, _, args, _ = arrays
        left = code[lhs] == STATE
        if lhs.size != n_states or not (left | (code[rhs] == STATE)).all():
            return None
        state = a[np.where(left, lhs, rhs)]
        if (np.bincount(state, minlength=n_states) != 1).any():
            return None
        root = np.empty(n_states, np.int32)
        root[state] = np.where(left, rhs, lhs)
        needed = np.zeros(code.size, np.bool_)
        needed[root] = True
        count = np.zeros(3, np.int64)
        if not _reach(code, a, b, args, _BINARY, root, needed, count):
            return None
        return Straight(root, needed, *count.tolist())

    def flat(self, arrays: tuple[NDArray[Any], ...], n_parameters: int) -> FlatCode:
        """The flat code of all states in order of declaration; the inputs are all parameters."""
        code, a, b, values, args, coefs = arrays
        slot = np.empty(self.needed.size, np.int32)
        op = np.empty(self.operations, np.int32)
        arg_a, arg_b = np.empty((2, self.operations), np.int32)
        summands, weights = np.empty(self.summands, np.int32), np.empty(self.summands)
        table = np.full(1 << max(4, (2 * self.constants + 2).bit_length()), -1, np.int32)
        bits = np.empty(self.constants + 1, np.int64)
        constants = _write(
            code, a, b, values.view(np.int64), args, coefs, self.root, self.needed, n_parameters,
            slot, table, bits, op, arg_a, arg_b, summands, weights,
        )  # fmt: skip
        where = slot[self.root]
        del slot, table
        constant = bits[:constants].view(np.float64).copy()
        inputs = np.arange(n_parameters, dtype=np.int32)
        return arranged(0, self.root.size, inputs, constant, where, op, arg_a, arg_b, summands, weights)


@kernel
def _reach(code, a, b, args, binary, root, needed, count):
    # root (n,): the node of each state; needed (nodes,): these on entry. Marks what they are computed from; counts
    # operations, summands and constants; whether every state that is used equals an earlier node. Operands have
    # smaller numbers.
    for i in range(needed.size - 1, -1, -1):
        if not needed[i]:
            continue
        c = code[i]
        if c >= 0:
            needed[a[i]] = True
            if binary[c]:
                needed[b[i]] = True
            count[0] += 1
        elif c == LINEAR:
            for t in range(a[i], a[i] + b[i]):
                needed[args[t]] = True
            count[0] += 1
            count[1] += b[i]
        elif c == CONSTANT:
            count[2] += 1
        elif c == STATE:
            if root[a[i]] >= i:
                return False
            needed[root[a[i]]] = True
    return True


@kernel
def _write(
    code, a, b, value_bits, args, coefs, root, needed, m,
    slot, table, bits, op, arg_a, arg_b, summands, weights,
):  # fmt: skip
    # Written: slot (nodes,) of each needed node, as in `flat._expand`: input i, operation m + t, constant -1 - c;
    # op, arg_a, arg_b: the operations; summands, weights: the places of sums; bits: of the constants, each once.
    # Returns the number of constants.
    q, places, known = 0, 0, 0
    for i in range(needed.size):
        if not needed[i]:
            continue
        c = code[i]
        if c >= 0:
            op[q] = c
            arg_a[q] = slot[a[i]]
            arg_b[q] = slot[b[i]]
            slot[i] = m + q
            q += 1
        elif c == CONSTANT:
            number = add_constant(value_bits[a[i]], table, bits, known)
            known = max(known, number + 1)
            slot[i] = -1 - number
        elif c == PARAMETER:
            slot[i] = a[i]
        elif c == STATE:
            slot[i] = slot[root[a[i]]]
        else:
            op[q] = SUM
            arg_a[q], arg_b[q] = places, b[i]
            for t in range(a[i], a[i] + b[i]):
                summands[places] = slot[args[t]]
                weights[places] = coefs[t]
                places += 1
            slot[i] = m + q
            q += 1
    return known
