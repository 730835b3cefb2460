"""Which rows hold an operation whose result underflows, and how much of it that costs.

Takes the machine and a point v; gives, per row, by how much rounding there exceeds its usual share of a value. Runs
over whole families of terms with NumPy, from the sources of the table of primitives. Knows no names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.kinks import run_source
from lagrad.assembly.machine import TINY, UNDERFLOWS, Machine
from lagrad.expr.primitives import PRIMITIVES

Floats = NDArray[np.float64]


def underflow(machine: Machine, v: Floats) -> Floats:
    """Per row (n,), the largest TINY / |r| over its operations with results |r| below `TINY`; 1 where there are none.

    An operation rounds by eps |r|, and by no less than eps · TINY: relative errors below `TINY` are that many times as
    large as elsewhere. inf where a product, quotient or power of numbers that are not zero has come out as zero.
    """
    tapes, terms = machine.tapes, machine.terms
    out = np.ones(machine.n)
    losing = UNDERFLOWS[tapes.op]
    templates = [t for t in range(tapes.ptr.size - 1) if losing[tapes.ptr[t] : tapes.ptr[t + 1]].any()]
    if not templates:
        return out
    order = np.argsort(terms.template, kind="stable")
    first = np.searchsorted(terms.template[order], templates, side="left")
    last = np.searchsorted(terms.template[order], templates, side="right")
    with np.errstate(all="ignore"):
        for t, lo, hi in zip(templates, first.tolist(), last.tolist(), strict=True):
            which = order[lo:hi]
            np.maximum.at(out, terms.row[which], _family(machine, t, which, v))
    return out


def _family(machine: Machine, template: int, which: NDArray[Any], v: Floats) -> Floats:
    """The figure of `underflow` for every instance of a template."""
    tapes, terms = machine.tapes, machine.terms
    values: list[Any] = [v[terms.leaf[terms.leaf_ptr[which] + j]] for j in range(int(tapes.leaves[template]))]
    values += [terms.const[terms.const_ptr[which] + j] for j in range(int(tapes.consts[template]))]
    worst = np.ones(which.size)
    for q in range(int(tapes.ptr[template]), int(tapes.ptr[template + 1])):
        op = int(tapes.op[q])
        primitive = PRIMITIVES[op]
        a, b = values[int(tapes.a[q])], values[int(tapes.b[q])] if primitive.arity == 2 else None
        r = np.asarray(run_source(primitive.value, a=a, b=a if b is None else b), dtype=np.float64)
        values.append(r)
        if not UNDERFLOWS[op]:
            continue
        exact = (r == 0.0) & ((a == 0.0) | (False if b is None else b == 0.0))
        worst = np.fmax(worst, np.where((np.abs(r) < TINY) & ~exact, TINY / np.abs(r), 1.0))
    return worst
