"""Which function left its domain: what the user wrote at the bottom of a value or a partial that is not finite.

Takes a layout, a point v and a row; gives a sentence. Interprets the terms of that row with the sources of the table of
primitives, and follows hidden states to their own rows. Called for messages only; solves nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.kinks import run_source
from lagrad.expr.primitives import ATOM, PRIMITIVES, SIGN
from lagrad.layout import Layout

Floats = NDArray[np.float64]

LONGEST = 60  # characters of an expression that is shown
DEEPEST = 50  # hidden states that are followed


def culprit(layout: Layout, v: Floats, row: int) -> str:
    """ "log(x[1]) is nan, where x[1] = -2", for the first function in `row` whose value or partial is not finite.

    The value of a hidden state that is not finite is followed to its own row. Empty where nothing is found: a sum that
    overflows, or a row that is finite.
    """
    for _ in range(DEEPEST):
        found = _in_row(layout, v, row)
        if isinstance(found, str):
            return found
        row = found
    return ""


def _in_row(layout: Layout, v: Floats, row: int) -> str | int:
    """A sentence, or the row of a hidden state to go on with."""
    machine = layout.machine
    rows, terms, tapes = machine.rows, machine.terms, machine.tapes
    for e in rows.term[rows.ptr[row] : rows.ptr[row + 1]].tolist():
        t = int(terms.template[e])
        leaves = terms.leaf[terms.leaf_ptr[e] : terms.leaf_ptr[e] + tapes.leaves[t]].tolist()
        consts = terms.const[terms.const_ptr[e] : terms.const_ptr[e] + tapes.consts[t]]
        names = [_leaf_name(layout, k) for k in leaves]
        values = [np.float64(v[k]) for k in leaves] + [np.float64(c) for c in consts]
        texts = [(name, ATOM) for name in names] + [(f"{c:g}", ATOM if c >= 0.0 else SIGN) for c in consts]
        for k in leaves:
            hidden = k >= machine.m and machine.col_order[k - machine.m] >= layout.n_states
            if hidden and not np.isfinite(v[k]):
                return k - machine.m
        operations = range(int(tapes.ptr[t]), int(tapes.ptr[t + 1]))
        first = len(values)
        with np.errstate(all="ignore"):
            for q in operations:
                a, b = _operands(tapes, q, values)
                values.append(np.float64(run_source(PRIMITIVES[tapes.op[q]].value, a=a, b=b)))
                texts.append(_text(tapes, q, texts))
            adjoint = np.zeros(len(values))
            adjoint[-1] = 1.0
            for q in reversed(operations):
                k = first + q - operations.start
                if adjoint[k] == 0.0:  # a branch not taken
                    continue
                primitive = PRIMITIVES[tapes.op[q]]
                a, b = _operands(tapes, q, values)
                places = (int(tapes.a[q]), int(tapes.b[q]))[: primitive.arity]
                arguments = [(texts[i][0], float(values[i])) for i in places if i < len(leaves) or i >= first]
                given = np.isfinite([float(values[i]) for i in places]).all()
                if given and not np.isfinite(values[k]):
                    return _sentence(f"{texts[k][0]} is {values[k]:g}", arguments)
                for source, i in zip(primitive.partials, places, strict=False):
                    partial = float(run_source(source, a=a, b=b, r=values[k]))
                    if given and not np.isfinite(partial):
                        return _sentence(
                            f"the derivative of {texts[k][0]} by {texts[i][0]} is {partial:g}", arguments
                        )
                    adjoint[i] += adjoint[k] * partial
    return ""


def _sentence(what: str, arguments: list[tuple[str, float]]) -> str:
    where = " and ".join(f"{text} = {value:.6g}" for text, value in dict(arguments).items())
    return f"{what}, where {where}" if where else what


def _leaf_name(layout: Layout, k: int) -> str:
    m = layout.m
    return layout.parameters.scalar_name(k) if k < m else layout.state_name(k - m)


def _operands(tapes: Any, q: int, values: list[Any]) -> tuple[Any, Any]:
    a = values[int(tapes.a[q])]
    return a, values[int(tapes.b[q])] if PRIMITIVES[tapes.op[q]].arity == 2 else a


def _text(tapes: Any, q: int, texts: list[tuple[str, int]]) -> tuple[str, int]:
    primitive = PRIMITIVES[tapes.op[q]]
    places = (int(tapes.a[q]), int(tapes.b[q]))[: primitive.arity]
    parts = [
        f"({texts[i][0]})" if texts[i][1] < binds else texts[i][0]
        for i, binds in zip(places, primitive.binds, strict=False)
    ]
    text = primitive.format.format(a=parts[0], b=parts[-1])
    return (text, primitive.precedence) if len(text) <= LONGEST else ("…", ATOM)
