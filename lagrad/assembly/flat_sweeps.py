"""Kernels that run flat code; `python -m lagrad.assembly.generate` writes them from the table.

Takes the groups of operations of a `FlatCode` (see `assembly.flat`) and one value or adjoint per slot. Knows no
rows, states or parameters.

    level_ptr   (levels+1,) into groups
    group_ptr   (groups+1,) into operations
    group_op    (groups,) opcode, the index in PRIMITIVES; SUM for a sum of products with constants
    group_form  (groups,) where the operands of a group lie:
                0 anywhere; 1 both in consecutive slots; 2 the first in one slot, the second in consecutive ones;
                3 the first in consecutive slots, the second in one
    arg_a       (operations,) slot of the first operand; of a SUM its first place in args
    arg_b       (operations,) slot of the second operand; of a SUM the number of its places
    args, coefs (places,) slot and coefficient of a summand
    reg         (slots,) values: inputs, constants, and from `base` on operations, in order
    adj         (slots,) adjoints
    bits        reg or adj again, as int64
    spare       (2, WIDTH) scratch

A group's operations do not depend on each other, and a level's neither. An adjoint of exactly 0 passes nothing on,
whatever the partial: an unselected branch may be infinite or nan.
"""

import math

import numpy as np

from lagrad.assembly.dispatch import rare_partials, rare_value
from lagrad.assembly.elementary import cosines, exponentials, pass_on, sines, take_off
from lagrad.kernel import internal, kernel

AHEAD = 4096  # slots that are touched before they are needed: 12.6 -> 5.0 ns per operation at a million
LINE = 8  # slots of a cache line
WIDTH = 256  # operands that are gathered for functions of whole arrays
CHUNK = 2048  # values are looked at while they are in the nearest cache
NOT_FINITE = 0x800  # what one more makes of the exponent of inf and nan


@internal
def exponents(bits):
    """1 + exponent of all floats with these bits, or-ed together."""
    some = np.int64(0)
    for i in range(bits.size):
        some |= ((bits[i] >> 52) & 0x7FF) + 1
    return some


@internal
def magnitudes(bits):
    """All bits but the sign, or-ed together."""
    some = np.int64(0)
    for i in range(bits.size):
        some |= bits[i] & 0x7FFFFFFFFFFFFFFF
    return some


@internal
def any_zero(x):
    """Whether one of them is 0."""
    found = False
    for i in range(x.size):
        found |= x[i] == 0.0
    return found


@internal
def rare_edge(k, a, b):
    """Whether the arguments of one of these opcodes lie outside the domain of its derivatives."""
    inside = True
    if k == 11:  # log
        inside = a > 0.0
    elif k == 12:  # powc
        inside = a > 0.0 or (a == 0.0 and (b == 0.0 or b >= 1.0)) or (a < 0.0 and b == np.floor(b))
    elif k == 18:  # cbrt
        inside = a != 0.0
    elif k == 21 or k == 22:  # log2, log10
        inside = a > 0.0
    elif k == 23:  # log1p
        inside = a > -1.0
    elif k == 25 or k == 26:  # arcsin, arccos
        inside = abs(a) < 1.0
    elif k == 32:  # arccosh
        inside = a > 1.0
    elif k == 33:  # arctanh
        inside = abs(a) < 1.0
    elif k == 37 or k == 38 or k == 39:  # gammaln, digamma, trigamma
        inside = a > 0.0 or a != np.floor(a)
    elif k == 40:  # power
        inside = a > 0.0 or (a == 0.0 and b >= 1.0)
    elif k == 41:  # arctan2
        inside = a != 0.0 or b != 0.0
    elif k == 44:  # mod
        inside = b != 0.0
    return not inside


@kernel
def flat_values(
    level_ptr, group_ptr, group_op, group_form, arg_a, arg_b, args, coefs, base, reg, bits, spare,
):  # fmt: skip
    """Fill `reg` from `base` on; the slots before are given. Some of the groups fill their part.

    Whether all values are finite, and whether all are inside the domains of derivatives: at the edge of one, as
    sqrt at 0, an adjoint of 0 may be one side of 0 · ∞.
    """
    wrong = np.int64(0)
    edge = False
    done = base + np.int64(group_ptr[0])
    for g in range(group_op.size):
        k = np.int64(group_op[g])
        form = group_form[g]
        start = np.int64(group_ptr[g])
        stop = np.int64(group_ptr[g + 1])
        if base + start - done >= CHUNK:
            wrong |= exponents(bits[done : base + start])
            done = base + start
        if form == 0:
            if k == 0:  # add
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    y = np.uint64(arg_b[t])
                    a = reg[x]
                    b = reg[y]
                    r = a + b
                    reg[base + t] = r
            elif k == 1:  # sub
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    y = np.uint64(arg_b[t])
                    a = reg[x]
                    b = reg[y]
                    r = a - b
                    reg[base + t] = r
            elif k == 2:  # mul
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    y = np.uint64(arg_b[t])
                    a = reg[x]
                    b = reg[y]
                    r = a * b
                    reg[base + t] = r
            elif k == 3:  # div
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    y = np.uint64(arg_b[t])
                    a = reg[x]
                    b = reg[y]
                    r = a / b
                    reg[base + t] = r
            elif k == 4:  # neg
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    a = reg[x]
                    r = -a
                    reg[base + t] = r
            elif k == 5:  # square
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    a = reg[x]
                    r = a * a
                    reg[base + t] = r
            elif k == 6:  # reciprocal
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    a = reg[x]
                    r = 1.0 / a
                    reg[base + t] = r
            elif k == 7:  # sqrt
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    a = reg[x]
                    r = math.sqrt(a)
                    edge = edge or r == 0.0
                    reg[base + t] = r
            elif k == 8:  # sin
                for lo in range(start, stop, WIDTH):
                    hi = lo + WIDTH if lo + WIDTH < stop else stop
                    for t in range(lo, hi):
                        spare[0, t - lo] = reg[np.uint64(arg_a[t])]
                    sines(spare[0, : hi - lo], reg[base + lo : base + hi])
            elif k == 9:  # cos
                for lo in range(start, stop, WIDTH):
                    hi = lo + WIDTH if lo + WIDTH < stop else stop
                    for t in range(lo, hi):
                        spare[0, t - lo] = reg[np.uint64(arg_a[t])]
                    cosines(spare[0, : hi - lo], reg[base + lo : base + hi])
            elif k == 10:  # exp
                for lo in range(start, stop, WIDTH):
                    hi = lo + WIDTH if lo + WIDTH < stop else stop
                    for t in range(lo, hi):
                        spare[0, t - lo] = reg[np.uint64(arg_a[t])]
                    exponentials(spare[0, : hi - lo], reg[base + lo : base + hi])
            elif k == 57:  # a sum
                for t in range(start, stop):
                    r = -0.0 if arg_b[t] > 0 else 0.0
                    for u in range(arg_a[t], arg_a[t] + arg_b[t]):
                        r += coefs[u] * reg[np.uint64(args[u])]
                    reg[base + t] = r
            elif (
                k == 11
                or k == 12
                or k == 18
                or k == 21
                or k == 22
                or k == 23
                or k == 25
                or k == 26
                or k == 32
                or k == 33
                or k == 37
                or k == 38
                or k == 39
                or k == 40
                or k == 41
                or k == 44
            ):
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    y = np.uint64(arg_b[t])
                    a = reg[x]
                    b = reg[y]
                    r = rare_value(k, a, b)
                    edge = edge or rare_edge(k, a, b)
                    reg[base + t] = r
            else:
                for t in range(start, stop):
                    x = np.uint64(arg_a[t])
                    y = np.uint64(arg_b[t])
                    a = reg[x]
                    b = reg[y]
                    r = rare_value(k, a, b)
                    reg[base + t] = r
            continue
        size = stop - start
        left_slot, right_slot = np.int64(arg_a[start]), np.int64(arg_b[start])
        left = reg[left_slot : left_slot + (1 if form == 2 else size)]
        right = reg[right_slot : right_slot + (1 if form == 3 else size)]
        out = reg[base + start : base + stop]
        if form == 1:
            if k == 0:  # add
                for i in range(size):
                    a = left[i]
                    b = right[i]
                    out[i] = a + b
            elif k == 1:  # sub
                for i in range(size):
                    a = left[i]
                    b = right[i]
                    out[i] = a - b
            elif k == 2:  # mul
                for i in range(size):
                    a = left[i]
                    b = right[i]
                    out[i] = a * b
            elif k == 3:  # div
                for i in range(size):
                    a = left[i]
                    b = right[i]
                    out[i] = a / b
            elif k == 4:  # neg
                for i in range(size):
                    a = left[i]
                    out[i] = -a
            elif k == 5:  # square
                for i in range(size):
                    a = left[i]
                    out[i] = a * a
            elif k == 6:  # reciprocal
                for i in range(size):
                    a = left[i]
                    out[i] = 1.0 / a
            elif k == 7:  # sqrt
                for i in range(size):
                    a = left[i]
                    out[i] = math.sqrt(a)
                edge = edge or any_zero(out)
            elif k == 8:  # sin
                sines(left, out)
            elif k == 9:  # cos
                cosines(left, out)
            elif k == 10:  # exp
                exponentials(left, out)
        elif form == 2:
            if k == 0:  # add
                for i in range(size):
                    a = left[0]
                    b = right[i]
                    out[i] = a + b
            elif k == 1:  # sub
                for i in range(size):
                    a = left[0]
                    b = right[i]
                    out[i] = a - b
            elif k == 2:  # mul
                for i in range(size):
                    a = left[0]
                    b = right[i]
                    out[i] = a * b
            elif k == 3:  # div
                for i in range(size):
                    a = left[0]
                    b = right[i]
                    out[i] = a / b
        elif form == 3:
            if k == 0:  # add
                for i in range(size):
                    a = left[i]
                    b = right[0]
                    out[i] = a + b
            elif k == 1:  # sub
                for i in range(size):
                    a = left[i]
                    b = right[0]
                    out[i] = a - b
            elif k == 2:  # mul
                for i in range(size):
                    a = left[i]
                    b = right[0]
                    out[i] = a * b
            elif k == 3:  # div
                for i in range(size):
                    a = left[i]
                    b = right[0]
                    out[i] = a / b
    wrong |= exponents(bits[done : base + group_ptr[group_op.size]])
    return wrong & NOT_FINITE == 0, not edge


@kernel
def flat_adjoints(
    level_ptr, group_ptr, group_op, group_form, arg_a, arg_b, args, coefs, inputs, base, reg, adj, bits, spare, clear,
):  # fmt: skip
    """Add to the adjoints of the inputs what those of the operations pass on; whether all are finite. With some of
    the levels, only theirs.

    Given are adjoints of some slots, all others 0. The adjoints of operations are 0 again afterwards if `clear`;
    those of constants (slots from `inputs` to `base`) are left as they come. Ignore the second number.
    """
    wrong = np.int64(0)
    touched = 0.0
    low = base + np.int64(group_ptr[level_ptr[level_ptr.size - 1]])
    for level in range(level_ptr.size - 2, -1, -1):
        first, last = np.int64(level_ptr[level]), np.int64(level_ptr[level + 1])
        bottom, top = base + np.int64(group_ptr[first]), base + np.int64(group_ptr[last])
        # the operands of the levels to come: the first touch of a cache line would be a random one, which
        # no hardware foresees
        while low > max(0, bottom - AHEAD):
            low = max(0, low - LINE)
            touched += reg[low] + adj[low]
        some = exponents(bits[bottom:top])
        wrong |= some
        if some <= 1:  # all of them 0, or subnormal
            some = magnitudes(bits[bottom:top])
            if some == 0:
                continue
        for g in range(last - 1, first - 1, -1):
            k = np.int64(group_op[g])
            form = group_form[g]
            start = np.int64(group_ptr[g])
            stop = np.int64(group_ptr[g + 1])
            if form == 0:
                if k == 0:  # add
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        y = np.uint64(arg_b[t])
                        adj[x] += w
                        adj[y] += w
                elif k == 1:  # sub
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        y = np.uint64(arg_b[t])
                        adj[x] += w
                        adj[y] -= w
                elif k == 2:  # mul
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        y = np.uint64(arg_b[t])
                        a = reg[x]
                        b = reg[y]
                        adj[x] += w * b
                        adj[y] += w * a
                elif k == 3:  # div
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        y = np.uint64(arg_b[t])
                        b = reg[y]
                        r = reg[o]
                        adj[x] += w * (1.0 / b)
                        adj[y] += w * (-r * (1.0 / b))
                elif k == 4:  # neg
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        adj[x] -= w
                elif k == 5:  # square
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        a = reg[x]
                        adj[x] += w * (2.0 * a)
                elif k == 6:  # reciprocal
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        r = reg[o]
                        adj[x] += w * (-r * r)
                elif k == 7:  # sqrt
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        r = reg[o]
                        adj[x] += w * (0.5 / r)
                elif k == 8:  # sin
                    for lo in range(start, stop, WIDTH):
                        hi = lo + WIDTH if lo + WIDTH < stop else stop
                        for t in range(lo, hi):
                            spare[0, t - lo] = reg[np.uint64(arg_a[t])]
                        cosines(spare[0, : hi - lo], spare[1, : hi - lo])
                        for t in range(lo, hi):
                            w = adj[base + t]
                            if w != 0.0:
                                adj[np.uint64(arg_a[t])] += w * spare[1, t - lo]
                elif k == 9:  # cos
                    for lo in range(start, stop, WIDTH):
                        hi = lo + WIDTH if lo + WIDTH < stop else stop
                        for t in range(lo, hi):
                            spare[0, t - lo] = reg[np.uint64(arg_a[t])]
                        sines(spare[0, : hi - lo], spare[1, : hi - lo])
                        for t in range(lo, hi):
                            w = adj[base + t]
                            if w != 0.0:
                                adj[np.uint64(arg_a[t])] += w * -spare[1, t - lo]
                elif k == 10:  # exp
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        r = reg[o]
                        adj[x] += w * r
                elif k < 45:
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        x = np.uint64(arg_a[t])
                        y = np.uint64(arg_b[t])
                        a = reg[x]
                        b = reg[y]
                        r = reg[o]
                        ga, gb = rare_partials(k, a, b, r, w)
                        adj[x] += ga
                        adj[y] += gb
                elif k == 57:  # a sum
                    for t in range(stop - 1, start - 1, -1):
                        o = base + t
                        w = adj[o]
                        if w == 0.0:
                            continue
                        for u in range(arg_a[t], arg_a[t] + arg_b[t]):
                            adj[np.uint64(args[u])] += w * coefs[u]
                continue
            size = stop - start
            left_slot, right_slot = np.int64(arg_a[start]), np.int64(arg_b[start])
            left = reg[left_slot : left_slot + (1 if form == 2 else size)]
            right = reg[right_slot : right_slot + (1 if form == 3 else size)]
            out = reg[base + start : base + stop]
            to_left = adj[left_slot : left_slot + (1 if form == 2 else size)]
            to_right = adj[right_slot : right_slot + (1 if form == 3 else size)]
            own = adj[base + start : base + stop]
            if form == 1:
                if k == 0:  # add
                    for i in range(size):
                        w = own[i]
                        to_left[i] += w
                    for i in range(size):
                        w = own[i]
                        to_right[i] += w
                elif k == 1:  # sub
                    for i in range(size):
                        w = own[i]
                        to_left[i] += w
                    for i in range(size):
                        w = own[i]
                        to_right[i] -= w
                elif k == 2:  # mul
                    for i in range(size):
                        w = own[i]
                        b = right[i]
                        to_left[i] += 0.0 if w == 0.0 else w * b
                    for i in range(size):
                        w = own[i]
                        a = left[i]
                        to_right[i] += 0.0 if w == 0.0 else w * a
                elif k == 3:  # div
                    for i in range(size):
                        w = own[i]
                        b = right[i]
                        to_left[i] += 0.0 if w == 0.0 else w * (1.0 / b)
                    for i in range(size):
                        w = own[i]
                        b = right[i]
                        r = out[i]
                        to_right[i] += 0.0 if w == 0.0 else w * (-r * (1.0 / b))
                elif k == 4:  # neg
                    for i in range(size):
                        w = own[i]
                        to_left[i] -= w
                elif k == 5:  # square
                    for i in range(size):
                        w = own[i]
                        a = left[i]
                        to_left[i] += 0.0 if w == 0.0 else w * (2.0 * a)
                elif k == 6:  # reciprocal
                    for i in range(size):
                        w = own[i]
                        r = out[i]
                        to_left[i] += 0.0 if w == 0.0 else w * (-r * r)
                elif k == 7:  # sqrt
                    for i in range(size):
                        w = own[i]
                        r = out[i]
                        to_left[i] += 0.0 if w == 0.0 else w * (0.5 / r)
                elif k == 8:  # sin
                    for lo in range(0, size, WIDTH):
                        hi = lo + WIDTH if lo + WIDTH < size else size
                        cosines(left[lo:hi], spare[1, : hi - lo])
                        pass_on(own[lo:hi], spare[1, : hi - lo], to_left[lo:hi])
                elif k == 9:  # cos
                    for lo in range(0, size, WIDTH):
                        hi = lo + WIDTH if lo + WIDTH < size else size
                        sines(left[lo:hi], spare[1, : hi - lo])
                        take_off(own[lo:hi], spare[1, : hi - lo], to_left[lo:hi])
                elif k == 10:  # exp
                    for i in range(size):
                        w = own[i]
                        r = out[i]
                        to_left[i] += 0.0 if w == 0.0 else w * r
            elif form == 2:
                if k == 0:  # add
                    if left_slot < inputs or left_slot >= base:
                        total = 0.0
                        for i in range(size):
                            w = own[i]
                            total += w
                        to_left[0] += total
                    for i in range(size):
                        w = own[i]
                        to_right[i] += w
                elif k == 1:  # sub
                    if left_slot < inputs or left_slot >= base:
                        total = 0.0
                        for i in range(size):
                            w = own[i]
                            total += w
                        to_left[0] += total
                    for i in range(size):
                        w = own[i]
                        to_right[i] -= w
                elif k == 2:  # mul
                    if left_slot < inputs or left_slot >= base:
                        total = 0.0
                        for i in range(size):
                            w = own[i]
                            b = right[i]
                            total += 0.0 if w == 0.0 else w * b
                        to_left[0] += total
                    for i in range(size):
                        w = own[i]
                        a = left[0]
                        to_right[i] += 0.0 if w == 0.0 else w * a
                elif k == 3:  # div
                    if left_slot < inputs or left_slot >= base:
                        total = 0.0
                        for i in range(size):
                            w = own[i]
                            b = right[i]
                            total += 0.0 if w == 0.0 else w * (1.0 / b)
                        to_left[0] += total
                    for i in range(size):
                        w = own[i]
                        b = right[i]
                        r = out[i]
                        to_right[i] += 0.0 if w == 0.0 else w * (-r * (1.0 / b))
            elif form == 3:
                if k == 0:  # add
                    for i in range(size):
                        w = own[i]
                        to_left[i] += w
                    if right_slot < inputs or right_slot >= base:
                        total = 0.0
                        for i in range(size):
                            w = own[i]
                            total += w
                        to_right[0] += total
                elif k == 1:  # sub
                    for i in range(size):
                        w = own[i]
                        to_left[i] += w
                    if right_slot < inputs or right_slot >= base:
                        total = 0.0
                        for i in range(size):
                            w = own[i]
                            total -= w
                        to_right[0] += total
                elif k == 2:  # mul
                    for i in range(size):
                        w = own[i]
                        b = right[0]
                        to_left[i] += 0.0 if w == 0.0 else w * b
                    if right_slot < inputs or right_slot >= base:
                        total = 0.0
                        for i in range(size):
                            w = own[i]
                            a = left[i]
                            total += 0.0 if w == 0.0 else w * a
                        to_right[0] += total
                elif k == 3:  # div
                    for i in range(size):
                        w = own[i]
                        b = right[0]
                        to_left[i] += 0.0 if w == 0.0 else w * (1.0 / b)
                    if right_slot < inputs or right_slot >= base:
                        total = 0.0
                        for i in range(size):
                            w = own[i]
                            b = right[0]
                            r = out[i]
                            total += 0.0 if w == 0.0 else w * (-r * (1.0 / b))
                        to_right[0] += total
        if clear:
            adj[bottom:top] = 0.0
    return wrong & NOT_FINITE == 0, touched
