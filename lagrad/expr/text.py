"""Expressions as one line of text.

Takes an expression, gives a string; walks without recursion; knows no values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lagrad.expr.graph import CONSTANT, LINEAR, PARAMETER, STATE, Graph
from lagrad.expr.primitives import ATOM, PRIMITIVES, PRODUCT, SIGN, SUM

_MAX_NODES = 400  # a line longer than this is not read; the rest is shown as …
_MAX_TEXT = 2000  # characters of an operand
GIVEN = "‹step›"  # the carry, or x, of the step that is being traced


def node_text(
    graph: Graph, node: int, max_nodes: int = _MAX_NODES, named: Mapping[int, str] | None = None
) -> str:
    """The text of one node; of those below it that are `named`, their names."""
    out: dict[int, tuple[str, int]] = {k: (name, ATOM) for k, name in (named or {}).items() if k != node}
    stack: list[tuple[int, bool]] = [(node, False)]
    visited = 0
    while stack:
        i, ready = stack.pop()
        if i in out:
            continue
        code, a, b = graph.code[i], graph.a[i], graph.b[i]
        if code == CONSTANT:
            value = graph.values[a]
            if value != value:  # no constant is nan: what a step of `lg.scan` is given
                out[i] = (GIVEN, ATOM)
                continue
            out[i] = (f"{value:.12g}", ATOM if value >= 0 else SIGN)
        elif code in (PARAMETER, STATE):
            names = graph.names
            kind = "p" if code == PARAMETER else "u"
            if names is not None:
                text = names.parameter_name(a) if code == PARAMETER else names.state_name(a)
            else:
                text = f"{kind}{a}"
            out[i] = (text, ATOM)
        elif not ready:
            visited += 1
            if visited > max_nodes:
                out[i] = ("…", ATOM)
                continue
            stack.append((i, True))
            operands = [graph.args[t] for t in range(a, a + min(b, max_nodes))] if code == LINEAR else [a, b]
            stack.extend((k, False) for k in reversed(operands))
        elif code == LINEAR:
            parts = []
            for t in range(a, a + min(b, max_nodes)):
                coef, (text, rank) = graph.coefs[t], out[graph.args[t]]
                magnitude = "" if abs(coef) == 1.0 else f"{abs(coef):.12g}*"
                if rank <= SUM or (magnitude and rank < PRODUCT):
                    text = f"({text})"
                parts.append((" - " if coef < 0 else " + ") + magnitude + text)
            joined = "".join(parts) or " + 0"
            out[i] = (joined[3:] if joined.startswith(" + ") else "-" + joined[3:], SUM)
        else:
            primitive = PRIMITIVES[code]
            texts = [
                f"({out[k][0]})" if out[k][1] < need else out[k][0]
                for k, need in zip((a, b), primitive.binds, strict=False)
            ]
            out[i] = (primitive.format.format(a=texts[0], b=texts[-1]), primitive.precedence)
        if i in out and len(out[i][0]) > _MAX_TEXT and i != node:
            out[i] = ("…", ATOM)  # a value used twice doubles the text: t = t*t, forty times, is too long
    return out[node][0]


HIDDEN_TEXT = 40  # characters of a hidden state's expression that a message shows


def hidden_name(graph: Graph, node: int) -> str:
    """What a state that nobody declared is called: its label, or else its expression, shortened."""
    label = getattr(graph.names, "labels", {}).get(node)
    if label is not None:
        return str(label)
    text = node_text(graph, node, 12)
    return text if len(text) <= HIDDEN_TEXT else text[: HIDDEN_TEXT - 1] + "…"


def expression_text(x: Any, max_elements: int = 12) -> str:
    """The text of an expression: one line for a scalar, a list for an array."""
    if x.ndim == 0:
        return node_text(x.graph, int(x.ids))
    flat = x.array_ids.ravel()
    shown = [node_text(x.graph, int(i), 60) for i in flat[:max_elements]]
    more = f", … {flat.size - max_elements} more" if flat.size > max_elements else ""
    shape = "" if x.ndim == 1 else f" shape {np.shape(x.ids)}"
    return "[" + ", ".join(shown) + more + "]" + shape
