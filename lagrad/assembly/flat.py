"""Flat code: a run of explicit rows as one list of operations, sorted so that equal ones stand together.

Takes a machine and a range of rows that are all u == f, in order; gives `FlatCode`: every operation of every row as
(opcode, slot, slot), each writing a slot of its own. The generated sweeps (`assembly.flat_sweeps`) run it forward for
values and backward for adjoints. Knows no names, and judges nothing but whether numbers are finite.

Slots. One array holds the inputs (variables that the run does not compute), the constants (each once) and the
operations. The state of a row *is* the slot of the last operation of its row; a row of several terms ends in a SUM.
The adjoint of that slot is the multiplier of the row: R = u - f has pivot 1, so R_uᵀ λ = J_uᵀ says that λ is the seed
plus what all users of u pass on.

Order. A group is a run of one opcode, none of whose operations needs another: a loop without dispatch. Array statements
are such runs as they are written, and stay where they are. Where runs are short, operations are sorted by level (one
more than the highest of their operands), then by opcode, stably: groups are then 28 operations long in a random scalar
DAG. Where the operands of a stretch lie in consecutive slots, as everywhere in array statements, it is a group of its
own, and array arithmetic. A level of groups, in either order, is as many as do not need each other.

Tiles. A few statements on long arrays are levels longer than any cache, and each would be read from memory as often as
it is used. Inputs are therefore cut into tiles of neighbours, an operation belongs to the last tile among its operands,
and operations are sorted by tile first: all statements are run on one tile, whose slots stay in the cache, and
then on the next. Operands come from the same tile or an earlier one, so that this is an order too. Where all tiles but
the last, in which the sums over arrays are, keep to themselves, threads share them: forward before the last, backward
after it. Each slot is written by one thread, in the same order, so that no bit depends on their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.flat_sweeps import WIDTH, flat_adjoints, flat_values
from lagrad.assembly.machine import Machine
from lagrad.expr.primitives import COMMON_END, PRIMITIVES
from lagrad.kernel import inlined, kernel
from lagrad.threads import cores, together

Index = NDArray[np.int32]
Floats = NDArray[np.float64]

SUM = len(PRIMITIVES)  # opcode of a sum of products with constants
STRETCH = 16  # operations with operands in order from which on they are a group of their own
TILE = 16_384  # slots of a tile: 256 KiB of values and adjoints, half a second-level cache
THREADED = (
    500_000  # operations from which on threads share tiles: a millisecond, against 0.05 to hand it over
)
SHARED = 8  # an input used so many times as often as inputs are on average belongs to no tile of its own
NARROW = 64  # inputs of a tile below which groups would become too short to pay
_BINARY = np.array([p.arity == 2 for p in PRIMITIVES])


class Code(NamedTuple):
    """The operations, as `flat_sweeps` reads them. q of them."""

    level_ptr: Index  # (levels+1,) into groups
    group_ptr: Index  # (groups+1,) into operations
    group_op: Index  # (groups,)
    group_form: Index  # (groups,)
    arg_a: Index  # (q,)
    arg_b: Index  # (q,)
    args: Index  # (places,) slots
    coefs: Floats  # (places,)


@dataclass(frozen=True, eq=False)
class FlatCode:
    """Rows [start, stop) of a machine, ready to run."""

    start: int
    stop: int
    inputs: Index  # (inputs,) index into v of each
    constants: Floats
    where: Index  # (stop - start,) slot of each row's state
    code: Code
    tiles: Index  # (tiles+1,) into levels, where tiles but for the last share no slot that is not constant; or empty

    @property
    def base(self) -> int:
        """The first slot of an operation."""
        return self.inputs.size + self.constants.size

    @property
    def operations(self) -> int:
        """How many there are."""
        return self.code.arg_a.size

    def values(self) -> Floats:
        """Room for a value per slot, with the constants in it."""
        reg = np.zeros(self.base + self.operations)
        reg[self.inputs.size : self.base] = self.constants
        return reg

    def evaluate(self, reg: Floats) -> tuple[bool, bool]:
        """Run forward from the inputs in `reg`; whether every state is finite, and the rest as `flat_values` says."""
        code, bits = self.code, reg.view(np.int64)

        def run(first: int, last: int) -> tuple[bool, bool]:
            lo, hi = int(code.level_ptr[first]), int(code.level_ptr[last])
            groups = code.group_ptr[lo : hi + 1], code.group_op[lo:hi], code.group_form[lo:hi]
            spare = np.empty((2, WIDTH))
            finite, inside = flat_values(
                code.level_ptr, *groups, code.arg_a, code.arg_b, code.args, code.coefs, self.base, reg, bits, spare
            )  # fmt: skip
            return finite, inside

        *parts, last = self._stretches()
        found = together([partial(run, *ends) for ends in parts]) if parts else []
        found.append(run(*last))
        finite, inside = (all(flags) for flags in zip(*found, strict=True))
        if finite:  # all operations are, but a state may be none
            return self._finite_constants, inside
        # an operation inside a row may well overflow: 1 / (1 + exp(1000)) is 0
        return bool(np.isfinite(reg[self.where]).all()), inside

    @cached_property
    def _finite_constants(self) -> bool:
        """Whether every state that is a constant is finite."""
        constant = self.where[(self.where >= self.inputs.size) & (self.where < self.base)]
        return bool(np.isfinite(self.constants[constant - self.inputs.size]).all())

    def pull(self, reg: Floats, adj: Floats, clear: bool = True) -> bool:
        """Run backward: adj (slots,), with seeds in it, becomes the adjoints of the inputs; whether all are finite.

        With `clear` those of all other slots are 0 afterwards; without, they stay to be read, in `where` the
        multipliers of the rows.
        """
        code, inputs, base, bits = self.code, self.inputs.size, self.base, adj.view(np.int64)

        def run(first: int, last: int) -> bool:
            levels, spare = code.level_ptr[first : last + 1], np.empty((2, WIDTH))
            return bool(flat_adjoints(levels, *code[1:], inputs, base, reg, adj, bits, spare, clear)[0])

        *parts, last = self._stretches()
        found = [run(*last)]
        if parts:
            found += together([partial(run, *ends) for ends in parts])
        adj[inputs:base] = 0.0
        return all(found) and bool(np.isfinite(adj[:inputs]).all())

    def _stretches(self) -> list[tuple[int, int]]:
        """[first, last) of levels: those that threads may run at once, then those that come after them."""
        end = self.code.level_ptr.size - 1
        workers = cores() if self.tiles.size and self.operations >= THREADED else 1
        if workers == 1:
            return [(0, end)]
        before = self.tiles.size - 2  # tiles but the last
        cuts = self.tiles[np.linspace(0, before, min(workers, before) + 1).astype(np.int64)].tolist()
        return [*pairwise(cuts), (cuts[-1], end)]


@dataclass(frozen=True, eq=False)
class FlatPoint:
    """Flat code of all rows of a program with its values at a point that has all its derivatives.

    `sign` (rows,): R = sign (u - f), so that the multiplier of a row is sign times the adjoint of its state.
    """

    code: FlatCode
    values: Floats  # (slots,)
    sign: Floats

    @staticmethod
    def at(code: FlatCode, sign: Floats, v: Floats) -> FlatPoint | None:
        """The point v = [p, u]; None where u is not what the rows say, or a value or derivative may not exist."""
        reg = code.values()
        reg[: code.inputs.size] = v[code.inputs]
        finite, inside = code.evaluate(reg)
        m = v.size - code.where.size
        here = finite and inside and np.array_equal(reg[code.where], v[m:])
        return FlatPoint(code, reg, sign) if here else None

    def pull(self, seeds: Floats) -> tuple[Floats, Floats] | None:
        """λ (rows,) and the gradient (inputs,) for weights of the states; None if they are not finite."""
        adj = np.zeros(self.values.size)
        adj[self.code.where] = seeds
        if not self.code.pull(self.values, adj, clear=False):
            return None
        return self.sign * adj[self.code.where], adj[: self.code.inputs.size].copy()


def flatten(machine: Machine, start: int, stop: int) -> FlatCode:
    """The flat code of rows [start, stop), all explicit."""
    tapes, terms, rows = machine.tapes, machine.terms, machine.rows
    m, n = machine.m, machine.n
    whole = start == 0 and stop == n
    own = np.arange(rows.ptr[start], rows.ptr[stop]) if not whole else slice(None)
    term = rows.term[own]
    lengths = np.diff(tapes.ptr)[terms.template[term]]
    room = int(lengths.sum()) + stop - start
    if whole:
        inputs = np.arange(m, dtype=np.int32)
        consts = terms.const.size
    else:
        counts = np.diff(terms.leaf_ptr)[term]
        first = np.repeat(terms.leaf_ptr[:-1][term] - np.cumsum(counts) + counts, counts)
        leaf = np.unique(terms.leaf[first + np.arange(first.size)])
        inputs = leaf[(leaf < m + start) | (leaf >= m + stop)].astype(np.int32)
        consts = int(np.diff(terms.const_ptr)[term].sum())
    slot_of = np.empty(m + n, np.int32)
    slot_of[inputs] = np.arange(inputs.size, dtype=np.int32)
    table = np.full(1 << max(4, (2 * consts + 2).bit_length()), -1, np.int32)
    bits = np.empty(consts + 1, np.int64)
    op, a, b = np.empty((3, room), np.int32)
    args, coefs = np.empty(term.size, np.int32), np.empty(term.size)
    q, places, constants = _expand(
        start, stop, m, inputs.size, tapes, terms, rows, terms.const.view(np.int64),
        slot_of, table, bits, op, a, b, args, coefs,
    )  # fmt: skip
    where = slot_of[m + start : m + stop].copy()
    del table, slot_of
    return arranged(
        start, stop, inputs, bits[:constants].view(np.float64).copy(), where,
        op[:q], a, b, args[:places].copy(), coefs[:places].copy(),
    )  # fmt: skip


def arranged(
    start: int, stop: int, inputs: Index, constants: Floats, where: Index,
    op: Index, a: Index, b: Index, args: Index, coefs: Floats,
) -> FlatCode:  # fmt: skip
    """Flat code of operations in an order of evaluation, numbered as `_expand` does; args and where are written."""
    q = op.size
    width = TILE * inputs.size // max(q, 1)  # inputs of a tile
    tiled = NARROW <= width < inputs.size
    tile = np.empty(q if tiled else 0, np.int32)
    highest, apart = 0, False
    if tiled:
        of_input = np.arange(inputs.size, dtype=np.int32) // np.int32(width)
        count = np.zeros(inputs.size, np.int32)
        highest, apart = _cut(inputs.size, _BINARY, op, a, b, args, of_input, count, tile)
    order = np.empty(0, np.int32)  # as they are
    if not _in_runs(inputs.size, _BINARY, op, a, b, args, q // STRETCH):
        order, level, spare = np.empty((3, q), np.int32)
        count, by_op = np.zeros(q + 2, np.int32), np.zeros(SUM + 2, np.int32)
        _by_level(inputs.size, op, a, b, args, level, spare, count, by_op, order)
        if tiled:
            _by_tile(tile, np.zeros(highest + 2, np.int32), order.copy(), order)
    elif tiled:
        order = np.empty(q, np.int32)
        _by_tile(tile, np.zeros(highest + 2, np.int32), np.arange(q, dtype=np.int32), order)
    position = np.empty(order.size, np.int32)
    final_op, arg_a, arg_b = np.empty((3, q), np.int32) if order.size else (op, a, b)
    _renumber(inputs.size, constants.size, op, a, b, args, where, order, position, final_op, arg_a, arg_b)
    del position
    tile = tile[order] if tiled else tile
    group = np.empty((3, q + 1), np.int32)
    level_ptr, starts = np.empty(q + 2, np.int32), np.empty(highest + 2, np.int32)
    base = inputs.size + constants.size
    levels, groups, tiles = _group(
        base, _BINARY, final_op, arg_a, arg_b, args, tile, level_ptr, group, starts
    )
    starts = np.append(starts[:tiles], np.int32(levels)) if tiles > 1 and apart else np.empty(0, np.int32)
    code = Code(
        level_ptr[: levels + 1].copy(), group[0, : groups + 1].copy(), group[1, :groups].copy(),
        group[2, :groups].copy(), arg_a, arg_b, args, coefs,
    )  # fmt: skip
    return FlatCode(start, stop, inputs, constants, where, code, starts)


@inlined
def add_constant(value, table, bits, known):
    """The number of the constant with these bits, added if it is new (then it is `known`)."""
    mask = table.size - 1
    mixed = np.uint64(value) * np.uint64(0x9E3779B97F4A7C15)
    place = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))
    while table[place] >= 0:
        if bits[table[place]] == value:
            return np.int64(table[place])
        place = (place + 1) & mask
    table[place] = known
    bits[known] = value
    return known


@kernel
def _expand(
    start, stop, m, inputs, tapes, terms, rows, const_bits, slot_of, table, bits, op, arg_a, arg_b, args, coefs
):  # fmt: skip
    # slot_of (m+n,): slots of the inputs; those of the run's states are written. Operation t has slot inputs + t for
    # now, constant c the number -1 - c. Returns the numbers of operations, places and constants.
    q, places, known = 0, 0, 0
    for r in range(start, stop):
        opening = places
        result = np.int64(-1)
        alone = rows.ptr[r + 1] - rows.ptr[r] == 1
        for p in range(rows.ptr[r], rows.ptr[r + 1]):
            e = rows.term[p]
            t = terms.template[e]
            k, c = tapes.leaves[t], tapes.consts[t]
            leaves, consts = terms.leaf_ptr[e], terms.const_ptr[e]
            first, last = tapes.ptr[t], tapes.ptr[t + 1]
            before = inputs + q - k - c
            for s in range(first, last):
                op[q] = tapes.op[s]
                for side in range(2):
                    reg = tapes.a[s] if side == 0 else tapes.b[s]
                    if reg < k:
                        slot = np.int64(slot_of[terms.leaf[leaves + reg]])
                    elif reg < k + c:
                        number = add_constant(const_bits[consts + reg - k], table, bits, known)
                        known = max(known, number + 1)
                        slot = -1 - number
                    else:
                        slot = before + reg
                    if side == 0:
                        arg_a[q] = slot
                    else:
                        arg_b[q] = slot
                q += 1
            if last > first:
                result = inputs + q - 1
            elif k == 1:
                result = np.int64(slot_of[terms.leaf[leaves]])
            else:
                number = add_constant(const_bits[consts], table, bits, known)
                known = max(known, number + 1)
                result = -1 - number
            # R = sign u + sum of weight * term, so u = sum of -sign * weight * term
            coef = -rows.sign[r] * terms.weight[e]
            if not (alone and coef == 1.0 and last > first):
                args[places] = result
                coefs[places] = coef
                places += 1
        if places > opening or not alone:
            op[q], arg_a[q], arg_b[q] = SUM, opening, places - opening
            result = inputs + q
            q += 1
        slot_of[rows.lhs[r]] = result
    return q, places, known


# Operations are numbered as `_expand` leaves them until `_renumber` gives them their slots. q of them:
#     op, a, b (q,) and args (places,) as `_expand` writes them
#     binary   (opcodes,) whether b is an operand
#     tile     (q,) of each operation, or empty: all in one
#     order    (q,) the operations in their final order, or empty: as they are
# What an operation needs last is written out where it is asked: a helper that is handed arrays takes 20 ns more.
@kernel
def _cut(inputs, binary, op, a, b, args, of_input, count, tile):
    # of_input (inputs,): tile of each, changed for those that belong to none; count (inputs,): zeros. Writes tile;
    # returns the last one, and whether all but that have no operand in another.
    q = op.size
    # what far more operations use than most inputs, as a number beside arrays, must not hold them all up
    for t in range(q):
        if op[t] != SUM:
            if 0 <= a[t] < inputs:
                count[a[t]] += 1
            if binary[op[t]] and 0 <= b[t] < inputs:
                count[b[t]] += 1
    for i in range(inputs):
        if count[i] > SHARED * q // inputs:
            of_input[i] = 0
    highest = np.int64(0)
    met = np.int64(inputs)  # the first tile of those with an operand in another
    for t in range(q):
        # tiles of the operands but constants, which are in all
        first, last = np.int64(inputs), np.int64(-1)
        if op[t] == SUM:
            for s in range(a[t], a[t] + b[t]):
                x = args[s]
                if x >= 0:
                    of = np.int64(tile[x - inputs] if x >= inputs else of_input[x])
                    first, last = min(first, of), max(last, of)
        else:
            for x in (a[t], b[t]):
                if x >= 0:
                    of = np.int64(tile[x - inputs] if x >= inputs else of_input[x])
                    first, last = min(first, of), max(last, of)
        last = max(last, np.int64(0))
        tile[t] = last
        highest = max(highest, last)
        if first < last:
            met = min(met, last)
    return highest, met >= highest


@kernel
def _in_runs(inputs, binary, op, a, b, args, most):
    # Whether runs of one opcode, none of whose operations needs another, are `most` at most, as they are.
    runs, lo = 0, 0
    while lo < op.size and runs <= most:
        k = op[lo]
        two = binary[k] if k != SUM else False
        own = inputs + lo  # the first number of the run's own
        hi = lo
        while hi < op.size and op[hi] == k:
            latest = a[hi]
            if k == SUM:
                latest = np.int32(-1)
                for s in range(a[hi], a[hi] + b[hi]):
                    latest = max(latest, args[s])
            elif two:
                latest = max(latest, b[hi])
            if latest >= own:
                break
            hi += 1
        lo = hi
        runs += 1
    return runs <= most


@kernel
def _by_level(inputs, op, a, b, args, level, spare, count, by_op, order):
    # level, spare (q,): scratch; count (q+2,), by_op (SUM+2,): zeros. Writes order: by level, then by opcode, stably.
    q = op.size
    levels = np.int32(0)
    for t in range(q):
        above = np.int32(-1)
        if op[t] == SUM:
            for s in range(a[t], a[t] + b[t]):
                if args[s] >= inputs:
                    above = max(above, level[args[s] - inputs])
        else:
            if a[t] >= inputs:
                above = level[a[t] - inputs]
            if b[t] >= inputs:
                above = max(above, level[b[t] - inputs])
        level[t] = above + 1
        levels = max(levels, above + 2)
    for t in range(q):
        by_op[op[t] + 1] += 1
        count[level[t] + 1] += 1
    for k in range(SUM + 1):
        by_op[k + 1] += by_op[k]
    for t in range(q):
        spare[by_op[op[t]]] = t
        by_op[op[t]] += 1
    for i in range(levels):
        count[i + 1] += count[i]
    for i in range(q):
        t = spare[i]
        order[count[level[t]]] = t
        count[level[t]] += 1


@kernel
def _by_tile(tile, count, before, order):
    # before (q,): an order; count (tiles+1,): zeros. Writes order: by tile, stably.
    for t in range(tile.size):
        count[tile[t] + 1] += 1
    for i in range(1, count.size):
        count[i] += count[i - 1]
    for i in range(tile.size):
        t = before[i]
        order[count[tile[t]]] = t
        count[tile[t]] += 1


@kernel
def _renumber(inputs, constants, op, a, b, args, where, order, position, final_op, arg_a, arg_b):
    # position (as order): scratch. Writes final_op, arg_a, arg_b (q,) in the final order, which may be op, a, b where
    # that is as they are; args and where with final slots.
    base, moved = inputs + constants, order.size > 0
    for i in range(order.size):
        position[order[i]] = base + i
    for s in range(args.size):
        x = args[s]
        if x < 0 or x >= inputs:
            args[s] = inputs - 1 - x if x < 0 else (position[x - inputs] if moved else x + constants)
    for r in range(where.size):
        x = where[r]
        if x < 0 or x >= inputs:
            where[r] = inputs - 1 - x if x < 0 else (position[x - inputs] if moved else x + constants)
    for i in range(op.size):
        t = np.int64(order[i]) if moved else i
        k, x, y = op[t], a[t], b[t]
        if k != SUM:
            if x < 0 or x >= inputs:
                x = np.int32(inputs - 1 - x if x < 0 else (position[x - inputs] if moved else x + constants))
            if y < 0 or y >= inputs:
                y = np.int32(inputs - 1 - y if y < 0 else (position[y - inputs] if moved else y + constants))
        final_op[i], arg_a[i], arg_b[i] = k, x, y


@kernel
def _group(base, binary, op, arg_a, arg_b, args, tile, level_ptr, group, starts):
    # op, arg_a, arg_b, args, tile: of operations in their final order, with final slots. Written: level_ptr (q+2,),
    # group (3, q+1): pointer, opcode, form; starts (tiles+1,), the first level of each tile that has operations.
    # Returns the numbers of levels, those of each tile counted anew, of groups and of such tiles.
    q = op.size
    groups, levels, tiles = 0, 0, 0
    floor = 0  # the first operation of the level
    lo = 0
    while lo < q:
        k = op[lo]
        two = binary[k] if k != SUM else False
        another = tile.size > 0 and (lo == 0 or tile[lo] != tile[lo - 1])
        own, latest = base + lo, np.int32(-1)  # the first slot of the run's own; the last that it needs
        hi = lo
        while hi < q and op[hi] == k and (tile.size == 0 or tile[hi] == tile[lo]):
            operand = arg_a[hi]
            if k == SUM:
                operand = np.int32(-1)
                for s in range(arg_a[hi], arg_a[hi] + arg_b[hi]):
                    operand = max(operand, args[s])
            elif two:
                operand = max(operand, arg_b[hi])
            if operand >= own:
                break
            latest = max(latest, operand)
            hi += 1
        if another:
            starts[tiles] = levels
            tiles += 1
        if lo == 0 or another or latest >= base + floor:
            level_ptr[levels] = groups
            levels += 1
            floor = lo
        opened = lo
        i = lo
        while k < COMMON_END and i + STRETCH <= hi:
            # the longest stretch from i on whose operands each stay or move on by one slot
            da, db = arg_a[i + 1] - arg_a[i], arg_b[i + 1] - arg_b[i]
            j = i + 1
            if 0 <= da <= 1 and 0 <= db <= 1 and da + db > 0:
                while j < hi and arg_a[j] - arg_a[j - 1] == da and arg_b[j] - arg_b[j - 1] == db:
                    j += 1
            if j - i < STRETCH:
                i = max(i + 1, j - 1)
                continue
            if opened < i:
                group[0, groups], group[1, groups], group[2, groups] = opened, k, 0
                groups += 1
            group[0, groups], group[1, groups] = i, k
            group[2, groups] = 1 if da == db or not binary[k] else (2 if db == 1 else 3)
            groups += 1
            opened = i = j
        if opened < hi:
            group[0, groups], group[1, groups], group[2, groups] = opened, k, 0
            groups += 1
        lo = hi
    group[0, groups] = q
    level_ptr[levels] = groups
    return levels, groups, tiles
