"""Lagrangian and adjoint equations as LaTeX (amsmath). Takes `Equations`, gives lines; knows no values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lagrad.expr.latex import MAX_WRITTEN, TEXT_ESCAPES, name_latex, node_latex, ranked_latex
from lagrad.expr.primitives import SUM
from lagrad.expr.symbolic import symbol
from lagrad.lagrangian.equations import Column, Equations, multiplier_name

# TeX breaks no line and no page inside a row of align*, and refuses boxes of more than 16 384 pt.
TALL: Final = 30  # rows of one align*
WIDE: Final = 300  # characters of LaTeX in a row of a sum, a term apart: a term of its own may be longer
_BREAK: Final = " \\\\\n"


def program_latex(written: Equations) -> Iterator[str]:
    """The constraints, the Lagrangian, the adjoint equations and the gradient, with comments between them."""
    graph = written.graph
    more = written.n_constraints - len(written.rows)
    yield f"% {_comment(written.name)}: requires amsmath"
    yield "% constraints"
    rest = [rf"& \dots && \text{{and {more} more}}"] if more else []
    lines = [
        rf"{node_latex(graph, row.lhs)} &= {node_latex(graph, row.rhs)} && (\text{{{_upright(row.name)}}})"
        for row in written.rows
    ]
    yield from _align(lines + rest)
    yield f"% Lagrangian of {'an output J' if written.output is None else _comment(written.output)}"
    yield from lagrangian_latex(written)
    if written.states is None:
        yield f"% adjoint equations: not written out for {written.n_constraints} constraints"
        return
    yield "% adjoint equations"
    yield from adjoint_latex(written)
    if written.parameters:
        yield "% gradient"
        yield from gradient_latex(written)


def lagrangian_latex(written: Equations) -> Iterator[str]:
    """L = J − Σ λ_i (lhs_i − rhs_i)."""
    graph = written.graph
    terms = []
    for row in written.rows:
        lhs, (rhs, rank) = node_latex(graph, row.lhs), ranked_latex(graph, row.rhs)
        right = "" if rhs == "0" else rf" - \left({rhs}\right)" if rank <= SUM else f" - {rhs}"
        terms.append(rf"&\quad - {_multiplier(row.name)} \left({lhs}{right}\right)")
    rest = [r"&\quad - \dots"] if written.n_constraints > len(written.rows) else []
    yield from _align([f"L &= {_output(written)}", *terms, *rest])


def adjoint_latex(written: Equations) -> Iterator[str]:
    """Σ λ_i ∂R_i/∂u_j = ∂J/∂u_j for every state."""
    yield from _align(
        [
            rf"{_sum(c) or '0'} &= {_d('J', c.name) if c.output_slope is None else c.output_slope}"
            for c in written.states or ()
        ]
    )


def gradient_latex(written: Equations) -> Iterator[str]:
    """dJ/dp_k = ∂J/∂p_k − Σ λ_i ∂R_i/∂p_k for every parameter."""
    of = _output(written)
    yield from _align([rf"{_total_d(of, c.name)} &= {_total(c)}" for c in written.parameters or ()])


def _align(lines: list[str]) -> Iterator[str]:
    """Equations in displays of at most `TALL` rows, an equation apart; each may be several rows itself."""
    display: list[str] = []
    rows = 0
    for line in [*lines, None]:
        more = 0 if line is None else 1 + line.count(_BREAK)
        if display and (line is None or rows + more > TALL):
            yield r"\begin{align*}"
            yield _BREAK.join(display)
            yield r"\end{align*}"
            display, rows = [], 0
        if line is not None:
            display.append("  " + line)
            rows += more


def _output(written: Equations) -> str:
    return "J" if written.output is None else name_latex(written.output)


def _total_d(output: str, by: str) -> str:
    return _d(output, by, r"\mathrm{d} ")


def _d(output: str, by: str, d: str = r"\partial ") -> str:
    return rf"\frac{{{d}{output}}}{{{d}{name_latex(by)}}}"


def _upright(name: str) -> str:
    return "".join(TEXT_ESCAPES.get(c, c) for c in name)


def _comment(name: str) -> str:
    return " ".join(name.split())


def _multiplier(constraint: str) -> str:
    return rf"\lambda_{{{name_latex(constraint)}}}"


def _terms(column: Column) -> Iterator[tuple[bool, str]]:
    """(negative, LaTeX) of every λ_i ∂R_i/∂x."""
    from sympy import latex

    for constraint, slope in column.partials:
        if slope is None or slope.count_ops() > MAX_WRITTEN:
            yield False, rf"\left(\dots\right) {_multiplier(constraint)}"
            continue
        negative = bool(slope.could_extract_minus_sign())
        of_constraint = symbol(multiplier_name(constraint))
        names = {s: name_latex(s.name) for s in slope.free_symbols} | {of_constraint: _multiplier(constraint)}
        yield negative, latex((-slope if negative else slope) * of_constraint, symbol_names=names)


def _rows(terms: Iterator[tuple[bool, str]], opening: str = "") -> list[str]:
    """The sum of some terms, (negative, LaTeX), after what it opens with, in rows of about `WIDE` characters."""
    rows, row = [], opening
    for negative, term in terms:
        if row and len(row) + len(term) > WIDE:
            rows.append(row)
            row = ""
        if row:
            row += (" - " if negative else " + ") + term
        else:
            row = ("-" if negative else "+ " if rows else "") + term
    return [*rows, row]


def _sum(column: Column) -> str:
    return f"{_BREAK}  ".join(_rows(_terms(column)))


def _total(column: Column) -> str:
    terms = ((not negative, term) for negative, term in _terms(column))
    rows = _rows(terms, _d("J", column.name) if column.output_slope is None else "")
    return rf"{_BREAK}  &\quad ".join(rows) or "0"
