"""Which rows sit on a kink: a point where a function is not differentiable, so that a rule chose its derivative.

Takes the machine, a point v and how uncertain each entry of v is; gives positions of rows with the primitives
concerned. The conditions are those of the table of primitives, read as array code. Runs over whole families of
terms with NumPy; programs without such functions cost nothing. Knows no names.

A solved state is a rounded one: |y| at y = 0 is met at y = 1e-17. The sources `a == 0.0` of the table are therefore
read as |a - 0| <= t, where t comes from a running error analysis (each register's own rounding, and what its
arguments pass on through their partials), started from the uncertainty of v.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from types import CodeType, SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.machine import Machine
from lagrad.expr.primitives import NO_KINK, OPCODE, PRIMITIVES

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

EPS: Final = float(np.finfo(np.float64).eps)
PICKS: Final = (OPCODE["pick"], OPCODE["picknot"])
KINKED: Final = frozenset(k for k, p in enumerate(PRIMITIVES) if p.kink != NO_KINK)


def _near(left: Any, right: Any, tolerance: Any) -> Any:
    return np.abs(left - right) <= tolerance


def _special(name: str) -> Callable[..., Any]:
    """A function of scipy.special, which is imported when it is called: few tables have one, and all start faster."""

    def call(*arguments: Any) -> Any:
        import scipy.special

        return getattr(scipy.special, name)(*arguments)

    return call


@cache
def _names() -> dict[str, Any]:
    polygamma = _special("polygamma")
    math = SimpleNamespace(
        sqrt=np.sqrt, sin=np.sin, cos=np.cos, tan=np.tan, exp=np.exp, log=np.log, expm1=np.expm1, log1p=np.log1p,
        asin=np.arcsin, acos=np.arccos, atan=np.arctan, atan2=np.arctan2, sinh=np.sinh, cosh=np.cosh, tanh=np.tanh,
        asinh=np.arcsinh, acosh=np.arccosh, atanh=np.arctanh, hypot=np.hypot,
        erf=_special("erf"), erfc=_special("erfc"), lgamma=_special("gammaln"),
    )  # fmt: skip
    return {
        "__builtins__": {}, "abs": np.abs, "math": math, "np": np, "near": _near, "expit": _special("expit"),
        "logaddexp": np.logaddexp, "digamma": _special("digamma"),
        "trigamma": lambda a: polygamma(1, a), "polygamma2": lambda a: polygamma(2, a),
        "polygamma3": lambda a: polygamma(3, a), "sech2": lambda a: np.cosh(a) ** -2.0,
    }  # fmt: skip


class _Arrays(ast.NodeTransformer):
    """Kernel source as array source: `x if c else y`, `and`, `or`, `not`; with `near`, == within `tolerance`."""

    def __init__(self, near: bool) -> None:
        self.near = near

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return _call("np.where", node.test, node.body, node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        out = node.values[0]
        name = "np.logical_and" if isinstance(node.op, ast.And) else "np.logical_or"
        for value in node.values[1:]:
            out = _call(name, out, value)
        return out

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return _call("np.logical_not", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if self.near and isinstance(node.ops[0], ast.Eq):
            return _call("near", node.left, node.comparators[0], ast.Name("tolerance", ast.Load()))
        return node


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.parse(name, mode="eval").body, list(arguments), [])


@cache
def _compiled(source: str, near: bool = False) -> CodeType:
    tree = ast.fix_missing_locations(_Arrays(near).visit(ast.parse(source, mode="eval")))
    return compile(tree, "<primitive>", "eval")


def run_source(source: str, near: bool = False, **values: Any) -> Any:
    """A source of the table of primitives on arrays `a`, `b` and the result `r`."""
    return eval(_compiled(source, near), _names(), values)  # sources of the table, never of a user


def kinks(
    machine: Machine, v: Floats, spread: Callable[[], Floats], moves: Mask | None = None
) -> list[tuple[int, str]]:
    """(row, primitive) of every row with a term that sits on a kink at v (m+n,), each pair once, ascending.

    `spread` gives the absolute uncertainty (m+n,) of v; it is called only if there is a function with a kink. `moves`
    (m+n,): which entries of v may change, by default all; a function of those that may not is no kink. Nor is one in a
    branch that `where` did not take.
    """
    moves = np.ones(v.size, np.bool_) if moves is None else moves
    tapes, terms = machine.tapes, machine.terms
    template_of = np.repeat(np.arange(tapes.ptr.size - 1), np.diff(tapes.ptr))
    templates = np.unique(template_of[np.isin(tapes.op, list(KINKED))])
    if not templates.size:
        return []
    near = spread()
    order = np.argsort(terms.template, kind="stable")
    first = np.searchsorted(terms.template[order], templates, side="left")
    last = np.searchsorted(terms.template[order], templates, side="right")
    found: set[tuple[int, str]] = set()
    with np.errstate(all="ignore"):
        for t, lo, hi in zip(templates.tolist(), first.tolist(), last.tolist(), strict=True):
            which = order[lo:hi]
            for name, mask in _family(machine, t, which, v, near, moves):
                found.update((row, name) for row in terms.row[which[mask]].tolist())
    return sorted(found)


def _family(
    machine: Machine, template: int, which: NDArray[Any], v: Floats, spread: Floats, moves: Mask
) -> list[tuple[str, Mask]]:
    """For every operation of a template with a kink, which of its instances sit on it."""
    tapes, terms = machine.tapes, machine.terms
    values: list[Any] = []
    errors: list[Any] = []
    moving: list[Any] = []
    for j in range(int(tapes.leaves[template])):
        leaf = terms.leaf[terms.leaf_ptr[which] + j]
        values.append(v[leaf])
        errors.append(spread[leaf])
        moving.append(moves[leaf])
    for j in range(int(tapes.consts[template])):
        values.append(terms.const[terms.const_ptr[which] + j])
        errors.append(np.zeros(which.size))
        moving.append(np.zeros(which.size, np.bool_))
    taken = _taken(machine, template, which, v)
    out = []
    for q in range(int(tapes.ptr[template]), int(tapes.ptr[template + 1])):
        primitive = PRIMITIVES[tapes.op[q]]
        x, y = int(tapes.a[q]), int(tapes.b[q])
        a, ea = values[x], errors[x]
        b, eb = (values[y], errors[y]) if primitive.arity == 2 else (a, np.zeros_like(ea))
        r = np.asarray(run_source(primitive.value, a=a, b=b), dtype=np.float64)
        passed = EPS * np.abs(r)
        for source, error in zip(primitive.partials, (ea, eb), strict=False):
            part = np.abs(run_source(source, a=a, b=b, r=r)) * error
            passed = passed + np.where(np.isnan(part), 0.0, part)
        if primitive.kink != NO_KINK:
            tolerance = 2.0 * (ea + eb)
            # from both sides of each argument: the nearest integer may be the one above
            sides = ((a, b), (a - ea, b), (a + ea, b), (a, b - eb), (a, b + eb))
            mask = np.zeros(which.size, np.bool_)
            for left, right in sides:
                mask |= run_source(primitive.kink, True, a=left, b=right, tolerance=tolerance)
            mask &= (moving[x] | moving[y]) & taken[len(values)]
            if mask.any():
                out.append((primitive.name, mask))
        values.append(r)
        errors.append(passed)
        moving.append(moving[x] | moving[y])
    return out


def followed(machine: Machine, v: Floats) -> Mask:
    """Which entries of R_u and R_p (nnz,) say that something is computed from something at v (m+n,).

    All but those of branches that `where` did not take; those that are 0 among them.
    """
    tapes, terms = machine.tapes, machine.terms
    picks = np.zeros(tapes.ptr.size - 1, np.bool_)
    template_of = np.repeat(np.arange(tapes.ptr.size - 1), np.diff(tapes.ptr))
    picks[template_of[np.isin(tapes.op, PICKS)]] = True
    used = np.ones(terms.slot.size, np.bool_)
    used[np.repeat(picks[terms.template], np.diff(terms.leaf_ptr))] = False
    for t in np.flatnonzero(picks).tolist():
        which = np.flatnonzero(terms.template == t)
        taken = _taken(machine, t, which, v)
        for j in range(int(tapes.leaves[t])):
            used[terms.leaf_ptr[which] + j] = taken[j]
    out = np.zeros(machine.nnz, np.bool_)
    out[terms.slot[used]] = True
    return out


def _taken(machine: Machine, template: int, which: NDArray[Any], v: Floats) -> list[Any]:
    """For every register of a template, in which of its instances the result depends on it: not in a branch that
    `where` leaves out."""
    tapes, terms = machine.tapes, machine.terms
    values: list[Any] = [v[terms.leaf[terms.leaf_ptr[which] + j]] for j in range(int(tapes.leaves[template]))]
    values += [terms.const[terms.const_ptr[which] + j] for j in range(int(tapes.consts[template]))]
    first, last = int(tapes.ptr[template]), int(tapes.ptr[template + 1])
    before = len(values)
    count = before + last - first
    if not np.isin(tapes.op[first:last], PICKS).any():
        return [True] * count
    for q in range(first, last):
        a, b = values[int(tapes.a[q])], values[int(tapes.b[q])]
        values.append(run_source(PRIMITIVES[tapes.op[q]].value, a=a, b=b))
    taken: list[Any] = [np.zeros(which.size, np.bool_) for _ in range(count)]
    taken[-1] = np.ones(which.size, np.bool_)
    for q in range(last - 1, first - 1, -1):
        here, op = taken[before + q - first], int(tapes.op[q])
        x, y = int(tapes.a[q]), int(tapes.b[q])
        taken[x] = taken[x] | here
        if PRIMITIVES[op].arity == 2:
            if op in PICKS:
                chosen = values[x] != 0.0
                here = here & (chosen if op == PICKS[0] else ~chosen)
            taken[y] = taken[y] | here
    return taken
