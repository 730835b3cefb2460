"""0 · ∞ inside one term: where a zero adjoint meets a partial that is not finite, no derivative is known.

Takes the tape of a template with the values and adjoints of instance i of a block; finds the leaves whose derivative
hangs on such a product. Knows no rows.

`tape_partials` and `block_partials` pass nothing on from an adjoint of exactly 0, which is right for a branch that was
not taken (of `where`, `minimum`, `maximum`) and wrong for a factor that happens to vanish: cbrt(x)**3 has the
derivative 1 at 0, but its chain rule is 0 · ∞ there. Here the two are kept apart: −0.0 marks a register that nothing
was handed to, 0.0 one that something was handed to, nan one that was handed something through a partial that is not
finite.
"""

import math

import numpy as np

from lagrad.assembly.dispatch import rare_partials
from lagrad.expr.primitives import COMMON_END, FLAT_START, OPCODE, PRIMITIVES
from lagrad.kernel import internal

BINARY = np.array([p.arity == 2 for p in PRIMITIVES])
SELECTS = np.array([p.name in ("pick", "picknot", "minimum", "maximum") for p in PRIMITIVES])
ADD, SUB, MUL, DIV, NEG = (OPCODE[name] for name in ("add", "sub", "mul", "div", "neg"))
SQUARE, RECIPROCAL, SQRT = (OPCODE[name] for name in ("square", "reciprocal", "sqrt"))


EDGED = np.array(
    [
        p.name
        in (
            "div", "reciprocal", "sqrt", "log", "powc", "cbrt", "log2", "log10", "log1p", "tan", "arcsin", "arccos",
            "arccosh", "arctanh", "gammaln", "digamma", "trigamma", "power", "arctan2", "hypot", "logaddexp", "mod",
        )
        for p in PRIMITIVES
    ]
)  # fmt: skip
"""Whether a partial need not be finite where arguments and value are."""


@internal
def _partials(k, a, b, r):
    """The partials by both arguments; 0 for an argument that is not selected, and by the second of a unary function."""
    if k == ADD or k == SUB or k == NEG:
        return 1.0, 1.0
    if k == MUL:
        return b, a
    if k == DIV:
        return 1.0 / b, -r / b
    if k == SQUARE:
        return a, 0.0
    if k == RECIPROCAL:
        return -r * r, 0.0
    if k == SQRT:
        return 0.5 / r, 0.0
    if k < COMMON_END:  # sin, cos, exp
        return 1.0, 0.0
    return rare_partials(k, a, b, r, 1.0)


@internal
def hides(op, arg_a, arg_b, start, stop, out, reg, adj, i):
    """Whether an adjoint of 0 meets a partial that is not finite: `mark` then says whether it matters."""
    for t in range(start, stop):
        o = out + t - start
        if adj[o, i] == 0.0 and EDGED[op[t]]:
            fa, fb = _partials(np.int64(op[t]), reg[arg_a[t], i], reg[arg_b[t], i], reg[o, i])
            if not (math.isfinite(fa) and math.isfinite(fb)):
                return True
    return False


@internal
def mark(op, arg_a, arg_b, start, stop, out, reg, adj, i):
    """Overwrite the adjoints of instance i by the marks of all registers."""
    last = out + stop - start - 1
    for j in range(last):
        adj[j, i] = -0.0
    adj[last, i] = 0.0
    for t in range(stop - 1, start - 1, -1):
        o = out + t - start
        w = adj[o, i]
        k = np.int64(op[t])
        if (w == 0.0 and math.copysign(1.0, w) < 0.0) or k >= FLAT_START:
            continue
        x, y = arg_a[t], arg_b[t]
        fa, fb = _partials(k, reg[x, i], reg[y, i], reg[o, i])
        if not (SELECTS[k] and fa == 0.0):
            adj[x, i] = 0.0 * fa + w + adj[x, i]
        if BINARY[k] and not (SELECTS[k] and fb == 0.0):
            adj[y, i] = 0.0 * fb + w + adj[y, i]
