"""Kernels that run one template's tape; `python -m lagrad.assembly.generate` writes them from the table.

Takes flat arrays of opcodes, argument registers and register values. Knows no rows, families or sparsity.

A template's registers are its leaves, then its constants, then one for each operation in order. The
operations of all templates lie one after the other in `op`, `arg_a`, `arg_b`; a template owns `start:stop`
of them, and operation t writes register `out + t - start`. The `arg_b` of a unary operation has no
influence, but is a valid register. Adjoints are of the last register: the caller has set its adjoint to 1
and all others to 0.

    op        (operations,) opcode, the index in PRIMITIVES           integer
    arg_a     (operations,) register of the first argument            int32
    arg_b     (operations,) register of the second argument           int32
    reg       (registers,) values; in a block (registers, >= width)   float64
    adj       like reg: derivative of the last register by each register, the adjoint
    tan       like reg: derivative of each register in one direction, the tangent
    adj_tan   like reg: derivative of each adjoint in that direction

An adjoint of exactly 0 passes nothing on, whatever the partial: an unselected branch may be infinite or nan.
"""

import math

import numpy as np

from lagrad.assembly.elementary import (
    block_cosine,
    block_cosine_partial,
    block_exponential,
    block_sine,
    block_sine_partial,
    cosine,
    exponential,
    sine,
)
from lagrad.assembly.special import digamma, expit, logaddexp, polygamma2, polygamma3, sech2, trigamma
from lagrad.kernel import inlined, internal


@internal
def rare_value(k, a, b):
    """The value r of an opcode that has no branch of its own."""
    r = 0.0
    if k == 11:  # log
        r = math.log(a)
    elif k == 12:  # powc
        r = a**b
    elif k == 13:  # abs
        r = abs(a)
    elif k == 14:  # pick
        r = b if a != 0.0 else 0.0
    elif k == 15:  # picknot
        r = b if a == 0.0 else 0.0
    elif k == 16:  # minimum
        r = a if a <= b or a != a else b
    elif k == 17:  # maximum
        r = a if a >= b or a != a else b
    elif k == 18:  # cbrt
        r = np.cbrt(a)
    elif k == 19:  # exp2
        r = np.exp2(a)
    elif k == 20:  # expm1
        r = math.expm1(a)
    elif k == 21:  # log2
        r = np.log2(a)
    elif k == 22:  # log10
        r = math.log10(a)
    elif k == 23:  # log1p
        r = math.log1p(a)
    elif k == 24:  # tan
        r = math.tan(a)
    elif k == 25:  # arcsin
        r = math.asin(a)
    elif k == 26:  # arccos
        r = math.acos(a)
    elif k == 27:  # arctan
        r = math.atan(a)
    elif k == 28:  # sinh
        r = math.sinh(a)
    elif k == 29:  # cosh
        r = math.cosh(a)
    elif k == 30:  # tanh
        r = math.tanh(a)
    elif k == 31:  # arcsinh
        r = math.asinh(a)
    elif k == 32:  # arccosh
        r = math.acosh(a)
    elif k == 33:  # arctanh
        r = math.atanh(a)
    elif k == 34:  # erf
        r = math.erf(a)
    elif k == 35:  # erfc
        r = math.erfc(a)
    elif k == 36:  # expit
        r = 1.0 / (1.0 + exponential(-a))
    elif k == 37:  # gammaln
        r = math.lgamma(a)
    elif k == 38:  # digamma
        r = digamma(a)
    elif k == 39:  # trigamma
        r = trigamma(a)
    elif k == 40:  # power
        r = a**b
    elif k == 41:  # arctan2
        r = math.atan2(a, b)
    elif k == 42:  # hypot
        r = math.hypot(a, b)
    elif k == 43:  # logaddexp
        r = logaddexp(a, b)
    elif k == 44:  # mod
        r = a % b
    elif k == 45:  # sign
        r = 1.0 if a > 0.0 else (-1.0 if a < 0.0 else a)
    elif k == 46:  # floor
        r = np.floor(a)
    elif k == 47:  # ceil
        r = np.ceil(a)
    elif k == 48:  # rint
        r = np.rint(a)
    elif k == 49:  # trunc
        r = np.trunc(a)
    elif k == 50:  # logical_not
        r = 1.0 if a == 0.0 else 0.0
    elif k == 51:  # less
        r = 1.0 if a < b else 0.0
    elif k == 52:  # less_equal
        r = 1.0 if a <= b else 0.0
    elif k == 53:  # equal
        r = 1.0 if a == b else 0.0
    elif k == 54:  # not_equal
        r = 1.0 if a != b else 0.0
    elif k == 55:  # logical_and
        r = 1.0 if a != 0.0 and b != 0.0 else 0.0
    elif k == 56:  # logical_or
        r = 1.0 if a != 0.0 or b != 0.0 else 0.0
    return r


@internal
def rare_partials(k, a, b, r, w):
    """What the arguments of an opcode that has no branch of its own gain in adj[x], adj[y]."""
    fa = 0.0
    fb = 0.0
    if k == 11:  # log
        fa = 1.0 / a
    elif k == 12:  # powc
        fa = 0.0 if b == 0.0 else b * a ** (b - 1.0)
    elif k == 13:  # abs
        fa = 1.0 if a >= 0.0 else -1.0
    elif k == 14:  # pick
        ga = 0.0
        gb = w if a != 0.0 else 0.0
        return ga, gb
    elif k == 15:  # picknot
        ga = 0.0
        gb = w if a == 0.0 else 0.0
        return ga, gb
    elif k == 16:  # minimum
        ga = w if a <= b or a != a else 0.0
        gb = w if not (a <= b or a != a) else 0.0
        return ga, gb
    elif k == 17:  # maximum
        ga = w if a >= b or a != a else 0.0
        gb = w if not (a >= b or a != a) else 0.0
        return ga, gb
    elif k == 18:  # cbrt
        fa = 1.0 / (3.0 * r * r)
    elif k == 19:  # exp2
        fa = 0.6931471805599453 * r
    elif k == 20:  # expm1
        fa = exponential(a)
    elif k == 21:  # log2
        fa = 1.4426950408889634 / a
    elif k == 22:  # log10
        fa = 0.4342944819032518 / a
    elif k == 23:  # log1p
        fa = 1.0 / (1.0 + a)
    elif k == 24:  # tan
        fa = 1.0 + r * r
    elif k == 25:  # arcsin
        fa = 1.0 / math.sqrt((1.0 - a) * (1.0 + a))
    elif k == 26:  # arccos
        fa = -1.0 / math.sqrt((1.0 - a) * (1.0 + a))
    elif k == 27:  # arctan
        fa = 1.0 / (1.0 + a * a)
    elif k == 28:  # sinh
        fa = math.cosh(a)
    elif k == 29:  # cosh
        fa = math.sinh(a)
    elif k == 30:  # tanh
        fa = sech2(a)
    elif k == 31:  # arcsinh
        fa = 1.0 / math.hypot(a, 1.0)
    elif k == 32:  # arccosh
        fa = 1.0 / (math.sqrt(a - 1.0) * math.sqrt(a + 1.0))
    elif k == 33:  # arctanh
        fa = 1.0 / ((1.0 - a) * (1.0 + a))
    elif k == 34:  # erf
        fa = 1.1283791670955126 * exponential(-a * a)
    elif k == 35:  # erfc
        fa = -1.1283791670955126 * exponential(-a * a)
    elif k == 36:  # expit
        fa = r * expit(-a)
    elif k == 37:  # gammaln
        fa = digamma(a)
    elif k == 38:  # digamma
        fa = trigamma(a)
    elif k == 39:  # trigamma
        fa = polygamma2(a)
    elif k == 40:  # power
        fa = 0.0 if b == 0.0 else b * a ** (b - 1.0)
        fb = 0.0 if a == 0.0 and b > 0.0 else r * math.log(a)
    elif k == 41:  # arctan2
        fa = b / math.hypot(a, b) / math.hypot(a, b)
        fb = -a / math.hypot(a, b) / math.hypot(a, b)
    elif k == 42:  # hypot
        fa = a / r if r != 0.0 else 1.0
        fb = b / r if r != 0.0 else 0.0
    elif k == 43:  # logaddexp
        fa = expit(a - b)
        fb = expit(b - a)
    elif k == 44:  # mod
        fa = 1.0
        fb = -np.rint((a - r) / b)
    ga = 0.0 if w == 0.0 else w * fa
    gb = 0.0 if w == 0.0 else w * fb
    return ga, gb


@internal
def rare_tangent(k, a, b, r, ta, tb):
    """The tangent of an opcode that has no branch of its own."""
    d = 0.0
    if k == 6:  # reciprocal
        d = ta * (-r * r)
    elif k == 7:  # sqrt
        d = ta * (0.5 / r)
    elif k == 8:  # sin
        d = ta * cosine(a)
    elif k == 9:  # cos
        d = ta * (-sine(a))
    elif k == 10:  # exp
        d = ta * r
    elif k == 11:  # log
        d = ta * (1.0 / a)
    elif k == 12:  # powc
        d = ta * (0.0 if b == 0.0 else b * a ** (b - 1.0))
    elif k == 13:  # abs
        d = ta * (1.0 if a >= 0.0 else -1.0)
    elif k == 14:  # pick
        d = tb if a != 0.0 else 0.0
    elif k == 15:  # picknot
        d = tb if a == 0.0 else 0.0
    elif k == 16:  # minimum
        d = ta if a <= b or a != a else 0.0
        d += tb if not (a <= b or a != a) else 0.0
    elif k == 17:  # maximum
        d = ta if a >= b or a != a else 0.0
        d += tb if not (a >= b or a != a) else 0.0
    elif k == 18:  # cbrt
        d = ta * (1.0 / (3.0 * r * r))
    elif k == 19:  # exp2
        d = ta * (0.6931471805599453 * r)
    elif k == 20:  # expm1
        d = ta * exponential(a)
    elif k == 21:  # log2
        d = ta * (1.4426950408889634 / a)
    elif k == 22:  # log10
        d = ta * (0.4342944819032518 / a)
    elif k == 23:  # log1p
        d = ta * (1.0 / (1.0 + a))
    elif k == 24:  # tan
        d = ta * (1.0 + r * r)
    elif k == 25:  # arcsin
        d = ta * (1.0 / math.sqrt((1.0 - a) * (1.0 + a)))
    elif k == 26:  # arccos
        d = ta * (-1.0 / math.sqrt((1.0 - a) * (1.0 + a)))
    elif k == 27:  # arctan
        d = ta * (1.0 / (1.0 + a * a))
    elif k == 28:  # sinh
        d = ta * math.cosh(a)
    elif k == 29:  # cosh
        d = ta * math.sinh(a)
    elif k == 30:  # tanh
        d = ta * sech2(a)
    elif k == 31:  # arcsinh
        d = ta * (1.0 / math.hypot(a, 1.0))
    elif k == 32:  # arccosh
        d = ta * (1.0 / (math.sqrt(a - 1.0) * math.sqrt(a + 1.0)))
    elif k == 33:  # arctanh
        d = ta * (1.0 / ((1.0 - a) * (1.0 + a)))
    elif k == 34:  # erf
        d = ta * (1.1283791670955126 * exponential(-a * a))
    elif k == 35:  # erfc
        d = ta * (-1.1283791670955126 * exponential(-a * a))
    elif k == 36:  # expit
        d = ta * (r * expit(-a))
    elif k == 37:  # gammaln
        d = ta * digamma(a)
    elif k == 38:  # digamma
        d = ta * trigamma(a)
    elif k == 39:  # trigamma
        d = ta * polygamma2(a)
    elif k == 40:  # power
        d = ta * (0.0 if b == 0.0 else b * a ** (b - 1.0))
        d += tb * (0.0 if a == 0.0 and b > 0.0 else r * math.log(a))
    elif k == 41:  # arctan2
        d = ta * (b / math.hypot(a, b) / math.hypot(a, b))
        d += tb * (-a / math.hypot(a, b) / math.hypot(a, b))
    elif k == 42:  # hypot
        d = ta * (a / r if r != 0.0 else 1.0)
        d += tb * (b / r if r != 0.0 else 0.0)
    elif k == 43:  # logaddexp
        d = ta * expit(a - b)
        d += tb * expit(b - a)
    elif k == 44:  # mod
        d = ta
        d += tb * (-np.rint((a - r) / b))
    return d


@internal
def rare_seconds(k, a, b, r, ta, tb, w, wt):
    """What the arguments of an opcode that has no branch of its own gain in adj and adj_tan."""
    fa = 0.0
    da = 0.0
    fb = 0.0
    db = 0.0
    if k == 6:  # reciprocal
        fa = -r * r
        da = ta * (2.0 * r * r * r)
    elif k == 7:  # sqrt
        fa = 0.5 / r
        da = ta * (-0.25 / (a * r))
    elif k == 8:  # sin
        fa = cosine(a)
        da = ta * (-r)
    elif k == 9:  # cos
        fa = -sine(a)
        da = ta * (-r)
    elif k == 10:  # exp
        fa = r
        da = ta * r
    elif k == 11:  # log
        fa = 1.0 / a
        da = ta * (-1.0 / (a * a))
    elif k == 12:  # powc
        fa = 0.0 if b == 0.0 else b * a ** (b - 1.0)
        da = ta * (0.0 if b == 0.0 or b == 1.0 else b * (b - 1.0) * a ** (b - 2.0))
    elif k == 13:  # abs
        fa = 1.0 if a >= 0.0 else -1.0
    elif k == 14:  # pick
        ga = 0.0
        gb = w if a != 0.0 else 0.0
        ha = 0.0
        hb = wt if a != 0.0 else 0.0
        return ga, gb, ha, hb
    elif k == 15:  # picknot
        ga = 0.0
        gb = w if a == 0.0 else 0.0
        ha = 0.0
        hb = wt if a == 0.0 else 0.0
        return ga, gb, ha, hb
    elif k == 16:  # minimum
        ga = w if a <= b or a != a else 0.0
        gb = w if not (a <= b or a != a) else 0.0
        ha = wt if a <= b or a != a else 0.0
        hb = wt if not (a <= b or a != a) else 0.0
        return ga, gb, ha, hb
    elif k == 17:  # maximum
        ga = w if a >= b or a != a else 0.0
        gb = w if not (a >= b or a != a) else 0.0
        ha = wt if a >= b or a != a else 0.0
        hb = wt if not (a >= b or a != a) else 0.0
        return ga, gb, ha, hb
    elif k == 18:  # cbrt
        fa = 1.0 / (3.0 * r * r)
        da = ta * (-2.0 / (9.0 * a * r * r))
    elif k == 19:  # exp2
        fa = 0.6931471805599453 * r
        da = ta * (0.4804530139182014 * r)
    elif k == 20:  # expm1
        fa = exponential(a)
        da = ta * exponential(a)
    elif k == 21:  # log2
        fa = 1.4426950408889634 / a
        da = ta * (-1.4426950408889634 / (a * a))
    elif k == 22:  # log10
        fa = 0.4342944819032518 / a
        da = ta * (-0.4342944819032518 / (a * a))
    elif k == 23:  # log1p
        fa = 1.0 / (1.0 + a)
        da = ta * (-1.0 / ((1.0 + a) * (1.0 + a)))
    elif k == 24:  # tan
        fa = 1.0 + r * r
        da = ta * (2.0 * r * (1.0 + r * r))
    elif k == 25:  # arcsin
        fa = 1.0 / math.sqrt((1.0 - a) * (1.0 + a))
        da = ta * (a / ((1.0 - a) * (1.0 + a) * math.sqrt((1.0 - a) * (1.0 + a))))
    elif k == 26:  # arccos
        fa = -1.0 / math.sqrt((1.0 - a) * (1.0 + a))
        da = ta * (-a / ((1.0 - a) * (1.0 + a) * math.sqrt((1.0 - a) * (1.0 + a))))
    elif k == 27:  # arctan
        fa = 1.0 / (1.0 + a * a)
        da = ta * (-2.0 * a / ((1.0 + a * a) * (1.0 + a * a)))
    elif k == 28:  # sinh
        fa = math.cosh(a)
        da = ta * r
    elif k == 29:  # cosh
        fa = math.sinh(a)
        da = ta * r
    elif k == 30:  # tanh
        fa = sech2(a)
        da = ta * (-2.0 * r * sech2(a))
    elif k == 31:  # arcsinh
        fa = 1.0 / math.hypot(a, 1.0)
        da = ta * (-a / math.hypot(a, 1.0) / (a * a + 1.0))
    elif k == 32:  # arccosh
        fa = 1.0 / (math.sqrt(a - 1.0) * math.sqrt(a + 1.0))
        da = ta * (-a / (math.sqrt(a - 1.0) * math.sqrt(a + 1.0)) / ((a - 1.0) * (a + 1.0)))
    elif k == 33:  # arctanh
        fa = 1.0 / ((1.0 - a) * (1.0 + a))
        da = ta * (2.0 * a / ((1.0 - a) * (1.0 + a) * (1.0 - a) * (1.0 + a)))
    elif k == 34:  # erf
        fa = 1.1283791670955126 * exponential(-a * a)
        da = ta * (-2.2567583341910251 * a * exponential(-a * a))
    elif k == 35:  # erfc
        fa = -1.1283791670955126 * exponential(-a * a)
        da = ta * (2.2567583341910251 * a * exponential(-a * a))
    elif k == 36:  # expit
        fa = r * expit(-a)
        da = ta * (-r * expit(-a) * math.tanh(0.5 * a))
    elif k == 37:  # gammaln
        fa = digamma(a)
        da = ta * trigamma(a)
    elif k == 38:  # digamma
        fa = trigamma(a)
        da = ta * polygamma2(a)
    elif k == 39:  # trigamma
        fa = polygamma2(a)
        da = ta * polygamma3(a)
    elif k == 40:  # power
        fa = 0.0 if b == 0.0 else b * a ** (b - 1.0)
        da = ta * (0.0 if b == 0.0 or b == 1.0 else b * (b - 1.0) * a ** (b - 2.0))
        da += tb * (0.0 if a == 0.0 and b > 1.0 else a ** (b - 1.0) * (1.0 + b * math.log(a)))
        fb = 0.0 if a == 0.0 and b > 0.0 else r * math.log(a)
        db = ta * (0.0 if a == 0.0 and b > 1.0 else a ** (b - 1.0) * (1.0 + b * math.log(a)))
        db += tb * (0.0 if a == 0.0 and b > 0.0 else r * math.log(a) * math.log(a))
    elif k == 41:  # arctan2
        fa = b / math.hypot(a, b) / math.hypot(a, b)
        da = ta * (-2.0 * a / math.hypot(a, b) * b / math.hypot(a, b) / math.hypot(a, b) ** 2)
        da += tb * ((a - b) / math.hypot(a, b) * (a + b) / math.hypot(a, b) / math.hypot(a, b) ** 2)
        fb = -a / math.hypot(a, b) / math.hypot(a, b)
        db = ta * ((a - b) / math.hypot(a, b) * (a + b) / math.hypot(a, b) / math.hypot(a, b) ** 2)
        db += tb * (2.0 * a / math.hypot(a, b) * b / math.hypot(a, b) / math.hypot(a, b) ** 2)
    elif k == 42:  # hypot
        fa = a / r if r != 0.0 else 1.0
        da = ta * ((b / r) * (b / r) / r if r != 0.0 else 0.0)
        da += tb * (-(a / r) * (b / r) / r if r != 0.0 else 0.0)
        fb = b / r if r != 0.0 else 0.0
        db = ta * (-(a / r) * (b / r) / r if r != 0.0 else 0.0)
        db += tb * ((a / r) * (a / r) / r if r != 0.0 else np.inf)
    elif k == 43:  # logaddexp
        fa = expit(a - b)
        da = ta * (expit(a - b) * expit(b - a))
        da += tb * (-expit(a - b) * expit(b - a))
        fb = expit(b - a)
        db = ta * (-expit(a - b) * expit(b - a))
        db += tb * (expit(a - b) * expit(b - a))
    elif k == 44:  # mod
        fa = 1.0
        fb = -np.rint((a - r) / b)
    ga = 0.0 if w == 0.0 else w * fa
    gb = 0.0 if w == 0.0 else w * fb
    ha = (0.0 if wt == 0.0 else wt * fa) + (0.0 if w == 0.0 else w * da)
    hb = (0.0 if wt == 0.0 else wt * fb) + (0.0 if w == 0.0 else w * db)
    return ga, gb, ha, hb


@inlined
def tape_values(op, arg_a, arg_b, start, stop, out, reg):
    """Fill the registers from `out` on; the leaves and constants before them are given."""
    for t in range(start, stop):
        a = reg[np.uint64(arg_a[t])]
        b = reg[np.uint64(arg_b[t])]
        k = np.int64(op[t])
        if k == 0:  # add
            r = a + b
        elif k == 1:  # sub
            r = a - b
        elif k == 2:  # mul
            r = a * b
        elif k == 3:  # div
            r = a / b
        elif k == 4:  # neg
            r = -a
        elif k == 5:  # square
            r = a * a
        elif k == 6:  # reciprocal
            r = 1.0 / a
        elif k == 7:  # sqrt
            r = math.sqrt(a)
        elif k == 8:  # sin
            r = sine(a)
        elif k == 9:  # cos
            r = cosine(a)
        elif k == 10:  # exp
            r = exponential(a)
        else:
            r = rare_value(k, a, b)
        reg[np.uint64(out + t - start)] = r


@inlined
def block_values(op, arg_a, arg_b, start, stop, out, width, reg):
    """The twin of `tape_values` for instances 0 … width - 1 of a block."""
    for t in range(start, stop):
        o = out + t - start
        x = arg_a[t]
        y = arg_b[t]
        k = np.int64(op[t])
        if k == 0:  # add
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                reg[o, i] = a + b
        elif k == 1:  # sub
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                reg[o, i] = a - b
        elif k == 2:  # mul
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                reg[o, i] = a * b
        elif k == 3:  # div
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                reg[o, i] = a / b
        elif k == 4:  # neg
            for i in range(width):
                a = reg[x, i]
                reg[o, i] = -a
        elif k == 5:  # square
            for i in range(width):
                a = reg[x, i]
                reg[o, i] = a * a
        elif k == 6:  # reciprocal
            for i in range(width):
                a = reg[x, i]
                reg[o, i] = 1.0 / a
        elif k == 7:  # sqrt
            for i in range(width):
                a = reg[x, i]
                reg[o, i] = math.sqrt(a)
        elif k == 8:  # sin
            block_sine(reg, x, o, width)
        elif k == 9:  # cos
            block_cosine(reg, x, o, width)
        elif k == 10:  # exp
            block_exponential(reg, x, o, width)
        else:
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                reg[o, i] = rare_value(k, a, b)


@inlined
def tape_partials(op, arg_a, arg_b, start, stop, out, reg, adj):
    """Accumulate the adjoints of all registers; `reg` is what `tape_values` left."""
    for t in range(stop - 1, start - 1, -1):
        o = out + t - start
        w = adj[o]
        if w == 0.0:
            continue
        x = arg_a[t]
        y = arg_b[t]
        k = np.int64(op[t])
        a = reg[x]
        b = reg[y]
        r = reg[o]
        if k == 0:  # add
            adj[x] += w
            adj[y] += w
        elif k == 1:  # sub
            adj[x] += w
            adj[y] -= w
        elif k == 2:  # mul
            adj[x] += w * b
            adj[y] += w * a
        elif k == 3:  # div
            adj[x] += w * (1.0 / b)
            adj[y] += w * (-r * (1.0 / b))
        elif k == 4:  # neg
            adj[x] -= w
        elif k == 5:  # square
            adj[x] += w * (2.0 * a)
        elif k == 6:  # reciprocal
            adj[x] += w * (-r * r)
        elif k == 7:  # sqrt
            adj[x] += w * (0.5 / r)
        elif k == 8:  # sin
            adj[x] += w * cosine(a)
        elif k == 9:  # cos
            adj[x] += w * (-sine(a))
        elif k == 10:  # exp
            adj[x] += w * r
        elif k < 45:
            ga, gb = rare_partials(k, a, b, r, w)
            adj[x] += ga
            adj[y] += gb


@inlined
def block_partials(op, arg_a, arg_b, start, stop, out, width, reg, adj):
    """The twin of `tape_partials` for instances 0 … width - 1 of a block."""
    for t in range(stop - 1, start - 1, -1):
        o = out + t - start
        x = arg_a[t]
        y = arg_b[t]
        k = np.int64(op[t])
        if k == 0:  # add
            for i in range(width):
                w = adj[o, i]
                adj[x, i] += w
                adj[y, i] += w
        elif k == 1:  # sub
            for i in range(width):
                w = adj[o, i]
                adj[x, i] += w
                adj[y, i] -= w
        elif k == 2:  # mul
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                w = adj[o, i]
                adj[x, i] += 0.0 if w == 0.0 else w * b
                adj[y, i] += 0.0 if w == 0.0 else w * a
        elif k == 3:  # div
            for i in range(width):
                b = reg[y, i]
                r = reg[o, i]
                w = adj[o, i]
                adj[x, i] += 0.0 if w == 0.0 else w * (1.0 / b)
                adj[y, i] += 0.0 if w == 0.0 else w * (-r * (1.0 / b))
        elif k == 4:  # neg
            for i in range(width):
                w = adj[o, i]
                adj[x, i] -= w
        elif k == 5:  # square
            for i in range(width):
                a = reg[x, i]
                w = adj[o, i]
                adj[x, i] += 0.0 if w == 0.0 else w * (2.0 * a)
        elif k == 6:  # reciprocal
            for i in range(width):
                r = reg[o, i]
                w = adj[o, i]
                adj[x, i] += 0.0 if w == 0.0 else w * (-r * r)
        elif k == 7:  # sqrt
            for i in range(width):
                r = reg[o, i]
                w = adj[o, i]
                adj[x, i] += 0.0 if w == 0.0 else w * (0.5 / r)
        elif k == 8:  # sin
            block_sine_partial(reg, adj, x, o, width)
        elif k == 9:  # cos
            block_cosine_partial(reg, adj, x, o, width)
        elif k == 10:  # exp
            for i in range(width):
                r = reg[o, i]
                w = adj[o, i]
                adj[x, i] += 0.0 if w == 0.0 else w * r
        elif k < 45:
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                r = reg[o, i]
                w = adj[o, i]
                ga, gb = rare_partials(k, a, b, r, w)
                adj[x, i] += ga
                adj[y, i] += gb


@inlined
def tape_seconds(op, arg_a, arg_b, start, stop, out, reg, tan, adj, adj_tan):
    """Tangents of all registers, then the adjoints and their tangents.

    Given are all of `reg`, `tan` of the leaves and constants, `adj` as for `tape_partials`, and
    `adj_tan`, all 0. Then `adj_tan` of the leaves is the Hessian of the last register times `tan`.
    """
    for t in range(start, stop):
        o = out + t - start
        x = arg_a[t]
        y = arg_b[t]
        k = np.int64(op[t])
        a = reg[x]
        b = reg[y]
        r = reg[o]
        ta = tan[x]
        tb = tan[y]
        if k == 0:  # add
            tan[o] = ta + tb
        elif k == 1:  # sub
            tan[o] = ta - tb
        elif k == 2:  # mul
            tan[o] = ta * b + tb * a
        elif k == 3:  # div
            tan[o] = ta * (1.0 / b) + tb * (-r * (1.0 / b))
        elif k == 4:  # neg
            tan[o] = -ta
        elif k == 5:  # square
            tan[o] = ta * (2.0 * a)
        elif k < 45:
            tan[o] = rare_tangent(k, a, b, r, ta, tb)
        else:
            tan[o] = 0.0
    for t in range(stop - 1, start - 1, -1):
        o = out + t - start
        w = adj[o]
        wt = adj_tan[o]
        if w == 0.0 and wt == 0.0:
            continue
        x = arg_a[t]
        y = arg_b[t]
        k = np.int64(op[t])
        a = reg[x]
        b = reg[y]
        r = reg[o]
        ta = tan[x]
        tb = tan[y]
        if k == 0:  # add
            adj[x] += w
            adj_tan[x] += wt
            adj[y] += w
            adj_tan[y] += wt
        elif k == 1:  # sub
            adj[x] += w
            adj_tan[x] += wt
            adj[y] -= w
            adj_tan[y] -= wt
        elif k == 2:  # mul
            adj[x] += 0.0 if w == 0.0 else w * b
            adj_tan[x] += 0.0 if wt == 0.0 else wt * b
            adj_tan[x] += 0.0 if w == 0.0 else w * tb
            adj[y] += 0.0 if w == 0.0 else w * a
            adj_tan[y] += 0.0 if wt == 0.0 else wt * a
            adj_tan[y] += 0.0 if w == 0.0 else w * ta
        elif k == 3:  # div
            adj[x] += 0.0 if w == 0.0 else w * (1.0 / b)
            adj_tan[x] += 0.0 if wt == 0.0 else wt * (1.0 / b)
            adj_tan[x] += 0.0 if w == 0.0 else w * (tb * (-1.0 / (b * b)))
            adj[y] += 0.0 if w == 0.0 else w * (-r * (1.0 / b))
            adj_tan[y] += 0.0 if wt == 0.0 else wt * (-r * (1.0 / b))
            adj_tan[y] += 0.0 if w == 0.0 else w * (ta * (-1.0 / (b * b)) + tb * (2.0 * r / (b * b)))
        elif k == 4:  # neg
            adj[x] -= w
            adj_tan[x] -= wt
        elif k == 5:  # square
            adj[x] += 0.0 if w == 0.0 else w * (2.0 * a)
            adj_tan[x] += 0.0 if wt == 0.0 else wt * (2.0 * a)
            adj_tan[x] += 0.0 if w == 0.0 else w * (ta * 2.0)
        elif k < 45:
            ga, gb, ha, hb = rare_seconds(k, a, b, r, ta, tb, w, wt)
            adj[x] += ga
            adj[y] += gb
            adj_tan[x] += ha
            adj_tan[y] += hb


@inlined
def block_seconds(op, arg_a, arg_b, start, stop, out, width, reg, tan, adj, adj_tan):
    """The twin of `tape_seconds` for instances 0 … width - 1 of a block."""
    for t in range(start, stop):
        o = out + t - start
        x = arg_a[t]
        y = arg_b[t]
        k = np.int64(op[t])
        if k == 0:  # add
            for i in range(width):
                ta = tan[x, i]
                tb = tan[y, i]
                tan[o, i] = ta + tb
        elif k == 1:  # sub
            for i in range(width):
                ta = tan[x, i]
                tb = tan[y, i]
                tan[o, i] = ta - tb
        elif k == 2:  # mul
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                ta = tan[x, i]
                tb = tan[y, i]
                tan[o, i] = ta * b + tb * a
        elif k == 3:  # div
            for i in range(width):
                b = reg[y, i]
                r = reg[o, i]
                ta = tan[x, i]
                tb = tan[y, i]
                tan[o, i] = ta * (1.0 / b) + tb * (-r * (1.0 / b))
        elif k == 4:  # neg
            for i in range(width):
                ta = tan[x, i]
                tan[o, i] = -ta
        elif k == 5:  # square
            for i in range(width):
                a = reg[x, i]
                ta = tan[x, i]
                tan[o, i] = ta * (2.0 * a)
        elif k < 45:
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                r = reg[o, i]
                ta = tan[x, i]
                tb = tan[y, i]
                tan[o, i] = rare_tangent(k, a, b, r, ta, tb)
        else:
            for i in range(width):
                tan[o, i] = 0.0
    for t in range(stop - 1, start - 1, -1):
        o = out + t - start
        x = arg_a[t]
        y = arg_b[t]
        k = np.int64(op[t])
        if k == 0:  # add
            for i in range(width):
                w = adj[o, i]
                wt = adj_tan[o, i]
                adj[x, i] += w
                adj_tan[x, i] += wt
                adj[y, i] += w
                adj_tan[y, i] += wt
        elif k == 1:  # sub
            for i in range(width):
                w = adj[o, i]
                wt = adj_tan[o, i]
                adj[x, i] += w
                adj_tan[x, i] += wt
                adj[y, i] -= w
                adj_tan[y, i] -= wt
        elif k == 2:  # mul
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                ta = tan[x, i]
                tb = tan[y, i]
                w = adj[o, i]
                wt = adj_tan[o, i]
                adj[x, i] += 0.0 if w == 0.0 else w * b
                adj_tan[x, i] += 0.0 if wt == 0.0 else wt * b
                adj_tan[x, i] += 0.0 if w == 0.0 else w * tb
                adj[y, i] += 0.0 if w == 0.0 else w * a
                adj_tan[y, i] += 0.0 if wt == 0.0 else wt * a
                adj_tan[y, i] += 0.0 if w == 0.0 else w * ta
        elif k == 3:  # div
            for i in range(width):
                b = reg[y, i]
                r = reg[o, i]
                ta = tan[x, i]
                tb = tan[y, i]
                w = adj[o, i]
                wt = adj_tan[o, i]
                adj[x, i] += 0.0 if w == 0.0 else w * (1.0 / b)
                adj_tan[x, i] += 0.0 if wt == 0.0 else wt * (1.0 / b)
                adj_tan[x, i] += 0.0 if w == 0.0 else w * (tb * (-1.0 / (b * b)))
                adj[y, i] += 0.0 if w == 0.0 else w * (-r * (1.0 / b))
                adj_tan[y, i] += 0.0 if wt == 0.0 else wt * (-r * (1.0 / b))
                adj_tan[y, i] += 0.0 if w == 0.0 else w * (ta * (-1.0 / (b * b)) + tb * (2.0 * r / (b * b)))
        elif k == 4:  # neg
            for i in range(width):
                w = adj[o, i]
                wt = adj_tan[o, i]
                adj[x, i] -= w
                adj_tan[x, i] -= wt
        elif k == 5:  # square
            for i in range(width):
                a = reg[x, i]
                ta = tan[x, i]
                w = adj[o, i]
                wt = adj_tan[o, i]
                adj[x, i] += 0.0 if w == 0.0 else w * (2.0 * a)
                adj_tan[x, i] += 0.0 if wt == 0.0 else wt * (2.0 * a)
                adj_tan[x, i] += 0.0 if w == 0.0 else w * (ta * 2.0)
        elif k < 45:
            for i in range(width):
                a = reg[x, i]
                b = reg[y, i]
                r = reg[o, i]
                ta = tan[x, i]
                tb = tan[y, i]
                w = adj[o, i]
                wt = adj_tan[o, i]
                ga, gb, ha, hb = rare_seconds(k, a, b, r, ta, tb, w, wt)
                adj[x, i] += ga
                adj[y, i] += gb
                adj_tan[x, i] += ha
                adj_tan[y, i] += hb
