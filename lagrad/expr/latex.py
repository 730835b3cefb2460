"""Expressions and names as LaTeX. Takes graph nodes, gives text; knows no values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from lagrad.expr.graph import CONSTANT, LINEAR, PARAMETER, STATE, Graph
from lagrad.expr.primitives import ATOM, OPCODE, POWER, PRIMITIVES, PRODUCT, SIGN, SUM
from lagrad.expr.walk import branches, fold, operands, written_size

MAX_WRITTEN: Final = 150  # operations of a formula that is written out; TeX has room for some 400 in a line

# A control word such as \lfloor must not run into the operand's first letter.
_TEMPLATES: Final = [re.sub(r"(\\[A-Za-z]+)(\{[ab]\})", r"\1 \2", p.latex) for p in PRIMITIVES]
# A second exponent cannot follow e^{a}, and ln|…| raised to a power would read as a power inside.
_RANKS: Final = {OPCODE["exp"]: POWER, OPCODE["exp2"]: POWER, OPCODE["gammaln"]: PRODUCT}

_LETTERS: Final = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi
omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega
"""
_GREEK: Final = frozenset(_LETTERS.split())
_UNICODE: Final = dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ", _LETTERS.split(), strict=True))
_ESCAPES: Final = {
    "\\": r"\backslash ",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\wedge ",
    "~": r"\sim ",
} | {letter: rf"\{name} " for letter, name in _UNICODE.items()}
TEXT_ESCAPES: Final = _ESCAPES | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    **{letter: rf"\ensuremath{{\{name}}}" for letter, name in _UNICODE.items()},
}


def name_latex(name: str) -> str:
    """A name as a symbol: y1 is y_{1}, theta is the Greek letter, z[0] is z_{0}, others stand upright.

    >>> print(name_latex("y1"), name_latex("theta_2"), name_latex("tank.level[3]"))
    y_{1} \\theta_{2} \\mathrm{tank.level}_{3}
    """
    base, bracket, index = name.partition("[")
    below = [index.rstrip("]")] if bracket else []
    numbered = re.fullmatch(r"(.*[^\W\d_])_?(\d+)", base)
    if numbered:
        base = numbered[1]
        below.insert(0, numbered[2])
    base = _UNICODE.get(base, base)
    if base in _GREEK:
        symbol = "\\" + base
    elif len(base) == 1 and base.isalpha():
        symbol = base
    else:
        symbol = r"\mathrm{" + "".join(_ESCAPES.get(c, c) for c in base) + "}"
    return symbol + ("_{" + ",".join(below) + "}" if below else "")


def number_latex(value: float) -> str:
    """A number with at most twelve digits; powers of ten as powers of ten.

    >>> print(number_latex(0.2), number_latex(-1.5e-7))
    0.2 -1.5 \\cdot 10^{-7}
    """
    mantissa, exponent, power = f"{value:.12g}".partition("e")
    if not exponent:
        return mantissa.replace("inf", r"\infty")
    return rf"{mantissa} \cdot 10^{{{int(power)}}}"


def node_latex(graph: Graph, root: int) -> str:
    """The LaTeX of a node, with the parentheses that its operations need and no others."""
    return ranked_latex(graph, root)[0]


def ranked_latex(graph: Graph, root: int) -> tuple[str, int]:
    """The LaTeX of a node, and how tightly it holds together."""
    if written_size(graph, root) > MAX_WRITTEN:
        return r"\dots", ATOM

    def make(node: int, values: Mapping[int, tuple[str, int]]) -> tuple[str, int]:
        code, a = graph.code[node], graph.a[node]
        below = [values[k] for k in operands(graph, node)]
        if code == CONSTANT:
            text = number_latex(graph.values[a])
            return text, SIGN if text.startswith("-") else PRODUCT if "cdot" in text else ATOM
        if code == PARAMETER:
            return name_latex(graph.names.parameter_name(a)), ATOM
        if code == STATE:
            return name_latex(graph.names.state_name(a)), ATOM
        if code == LINEAR:
            return _linear(list(graph.coefs[a : a + graph.b[node]]), below), SUM
        if chosen := branches(graph, node):
            condition, x, y = (values[k][0] for k in chosen)
            return (
                rf"\begin{{cases}} {x} & \text{{if }} {condition} \\ {y} & \text{{otherwise}} \end{{cases}}",
                ATOM,
            )
        texts = [
            rf"\left({text}\right)" if rank < need else text
            for (text, rank), need in zip(below, PRIMITIVES[code].latex_binds, strict=True)
        ]
        template = _TEMPLATES[code]
        if code == OPCODE["mul"] and texts[1][0].isdigit():
            template = r"{a} \cdot {b}"
        return template.format(a=texts[0], b=texts[-1]), _RANKS.get(code, PRIMITIVES[code].precedence)

    return fold(graph, root, make)


def _linear(coefs: list[float], terms: list[tuple[str, int]]) -> str:
    parts: list[str] = []
    for coef, (text, rank) in zip(coefs, terms, strict=True):
        factor = "" if abs(coef) == 1.0 else number_latex(abs(coef)) + r" \, "
        if rank <= SUM or (factor and rank < PRODUCT) or text.startswith("-"):
            text = rf"\left({text}\right)"
        parts.append((" - " if coef < 0 else " + ") + factor + text)
    joined = "".join(parts) or " + 0"
    return joined[3:] if joined.startswith(" + ") else "-" + joined[3:]
