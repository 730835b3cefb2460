"""Formulas of the table of primitives as Python syntax trees: values, local partials, sums and products of them.

Takes opcodes and trees of operands, gives trees that `ast.unparse` writes with the parentheses they need. Reads the
`format` column for values and the `partials` column for partials; functions are NumPy's and SciPy's, so that what
is written runs. Knows no programs and no graph.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Final

from lagrad.expr.primitives import OPCODE, PRIMITIVES

WRITTEN_OUT: Final = 24  # terms of a sum written with +; a longer one is sum([…])

ZERO, ONE = ast.Constant(0), ast.Constant(1)
_COMPARISONS: Final = {OPCODE[k]: v for k, v in (("equal", ast.Eq), ("not_equal", ast.NotEq))}
_TRUTHS: Final = {
    OPCODE[k]
    for k in ("less", "less_equal", "equal", "not_equal", "logical_not", "logical_and", "logical_or")
}
_NUMPY: Final = {
    "fabs": "abs", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "atan2": "arctan2", "lgamma": "gammaln",
}  # fmt: skip
_SPECIAL: Final = frozenset(("erf", "erfc", "expit", "gammaln", "digamma", "polygamma"))
_DECIDED: Final[dict[type, Callable[[float, float], bool]]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_COMBINED: Final[dict[type, Callable[[float, float], float]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
}  # fmt: skip
_BUILT_IN: Final = frozenset(("abs", "float", "sum"))
_POLYGAMMA: Final = {"trigamma": 1, "polygamma2": 2, "polygamma3": 3}


# -- making trees -----------------------------------------------------------------------------------------------
def number(value: float) -> ast.expr:
    """A constant; whole numbers without a point."""
    if value != value or abs(value) == float("inf"):
        return ast.Call(ast.Name("float"), [ast.Constant(str(value))], [])
    if value < 0:
        return ast.UnaryOp(ast.USub(), number(-value))
    return ast.Constant(int(value) if value.is_integer() and value < 1e15 else value)


def _positive(x: ast.expr) -> ast.expr | None:
    """−x, where x is written with a minus in front; else None."""
    if isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.USub):
        return x.operand
    if isinstance(x, ast.BinOp) and isinstance(x.op, (ast.Mult, ast.Div)):
        left = _positive(x.left)
        if left is not None:
            return _with_left(left, x)
    return None


def _with_left(left: ast.expr, x: ast.BinOp) -> ast.expr:
    """x with another left operand; a factor of one is left out."""
    return x.right if isinstance(x.op, ast.Mult) and _is(left, 1) else ast.BinOp(left, x.op, x.right)


def negative(x: ast.expr) -> ast.expr:
    """−x."""
    positive = _positive(x)
    if positive is not None:
        return positive
    return x if _is(x, 0) else ast.UnaryOp(ast.USub(), x)


def times(x: ast.expr, y: ast.expr) -> ast.expr:
    """x y, without factors of one; x is what is handed down, y the local partial."""
    if _is(x, 0) or _is(y, 0):
        return ZERO
    if isinstance(y, ast.UnaryOp) and isinstance(y.op, ast.USub):
        return negative(times(x, y.operand))
    if isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.USub):
        return negative(times(x.operand, y))
    if _is(x, 1):
        return y
    if _is(y, 1):
        return x
    if isinstance(y, ast.IfExp):
        return choice(y.test, times(x, y.body), times(x, y.orelse))
    if isinstance(y, ast.BinOp) and isinstance(y.op, ast.Div):
        if isinstance(y.left, ast.UnaryOp) and isinstance(y.left.op, ast.USub):
            return negative(times(x, ast.BinOp(y.left.operand, ast.Div(), y.right)))
        if _is(y.left, 1):
            return ast.BinOp(x, ast.Div(), y.right)
    return ast.BinOp(x, ast.Mult(), y)


def total(terms: Sequence[ast.expr]) -> ast.expr:
    """The sum of terms; 0 for none."""
    terms = [t for t in terms if not _is(t, 0)]
    if not terms:
        return ZERO
    if len(terms) > WRITTEN_OUT:
        return ast.Call(ast.Name("sum"), [ast.List(list(terms))], [])
    out = terms[0]
    for term in terms[1:]:
        positive = _positive(term)
        if positive is not None:
            out = ast.BinOp(out, ast.Sub(), positive)
        else:
            out = ast.BinOp(out, ast.Add(), term)
    return out


def choice(test: ast.expr, x: ast.expr, y: ast.expr) -> ast.expr:
    """x if test else y."""
    return ZERO if _is(x, 0) and _is(y, 0) else ast.IfExp(test, x, y)


def linear(coefs: Iterable[float], terms: Iterable[ast.expr]) -> ast.expr:
    """Σ coefs · terms."""
    return total([times(number(c), x) for c, x in zip(coefs, terms, strict=True)])


def call(function: str, *arguments: ast.expr) -> ast.expr:
    """function(arguments)."""
    return ast.Call(ast.Name(function), list(arguments), [])


def assign(target: ast.expr | str, value: ast.expr) -> str:
    """The line target = value."""
    left = target if isinstance(target, str) else ast.unparse(target)
    return f"{left} = {ast.unparse(value)}"


def size(x: ast.expr) -> int:
    """Names, numbers and operations in a tree."""
    return sum(isinstance(k, (ast.Name, ast.Constant, ast.BinOp, ast.Call)) for k in ast.walk(x))


def _is(x: ast.expr, value: float) -> bool:
    return isinstance(x, ast.Constant) and x.value == value


# -- the table ----------------------------------------------------------------------------------------------------
def value(code: int, operands: Sequence[ast.expr], condition: bool = False) -> ast.expr:
    """A primitive of its operands. A truth is 1.0 or 0.0, but bare where a condition is wanted."""
    if code in _COMPARISONS:
        made: ast.expr = ast.Compare(operands[0], [_COMPARISONS[code]()], [operands[1]])
    else:
        made = _filled(PRIMITIVES[code].format.replace("{a}", "a").replace("{b}", "b"), operands)
    if code in _TRUTHS and not condition:
        return call("float", made)
    return made


def condition(code: int | None, operands: Sequence[ast.expr]) -> ast.expr:
    """What stands behind `if`: a comparison as it is, any other value as value != 0."""
    if code is not None and code in _TRUTHS:
        return value(code, operands, condition=True)
    return ast.Compare(operands[0], [ast.NotEq()], [ZERO])


def is_truth(code: int) -> bool:
    """Whether a primitive's value is 1 or 0 by a condition."""
    return code in _TRUTHS


def partials(code: int, operands: Sequence[ast.expr], result: ast.expr) -> list[ast.expr]:
    """The local partials of a primitive by its operands; `result` is its value."""
    return [_filled(source, operands, result) for source in PRIMITIVES[code].partials]


@cache
def mentions_result(code: int, place: int) -> bool:
    """Whether the partial of a primitive by operand `place` is written with its value."""
    return _mentions(PRIMITIVES[code].partials[place], "r")


@cache
def mentions_operand(code: int, place: int) -> bool:
    """Whether a partial of a primitive is written with operand `place`."""
    return any(_mentions(source, "ab"[place]) for source in PRIMITIVES[code].partials)


def _mentions(source: str, name: str) -> bool:
    return any(isinstance(k, ast.Name) and k.id == name for k in ast.walk(ast.parse(source)))


def _filled(source: str, operands: Sequence[ast.expr], result: ast.expr | None = None) -> ast.expr:
    """A source of the table with trees for a, b and r."""
    names = {"a": operands[0], "b": operands[-1]}
    if result is not None:
        names["r"] = result
    return _Fill(names).visit(ast.parse(source, mode="eval").body)


class _Fill(ast.NodeTransformer):
    """Puts trees in place of names, and functions that can be imported in place of the kernels'."""

    def __init__(self, names: Mapping[str, ast.expr]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.names.get(node.id, node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """math.f and np.f: f of NumPy or SciPy."""
        return ast.Name(_NUMPY.get(node.attr, node.attr))

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return number(float(node.value)) if isinstance(node.value, (int, float)) else node

    # What is known when the text is written is not left for it to compute: 3 * y ** (3 - 1) is 3 * y ** 2.
    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """The branch, where the condition is about constants."""
        test = self.visit(node.test)
        if isinstance(test, ast.Constant):
            return self.visit(node.body if test.value else node.orelse)
        return ast.IfExp(test, self.visit(node.body), self.visit(node.orelse))

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """True or False, between constants."""
        left, right = self.visit(node.left), self.visit(node.comparators[0])
        a, b, decide = _constant(left), _constant(right), _DECIDED.get(type(node.ops[0]))
        if a is not None and b is not None and decide is not None:
            return ast.Constant(bool(decide(a, b)))
        return ast.Compare(left, node.ops, [right])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Sums and products of constants, powers and factors of one."""
        left, right = self.visit(node.left), self.visit(node.right)
        a, b = _constant(left), _constant(right)
        if isinstance(node.op, (ast.Pow, ast.Div)) and b == 1.0:
            return left
        if isinstance(node.op, ast.Mult) and 1.0 in (a, b):
            return right if a == 1.0 else left
        combine = _COMBINED.get(type(node.op))
        if a is not None and b is not None and combine is not None:
            return number(combine(a, b))
        return ast.BinOp(left, node.op, right)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        arguments = [self.visit(x) for x in node.args]
        function = self.visit(node.func)
        order = _POLYGAMMA.get(getattr(function, "id", ""))
        if order is not None:
            return call("polygamma", ast.Constant(order), *arguments)
        if getattr(function, "id", "") == "sech2":
            return ast.BinOp(ONE, ast.Div(), ast.BinOp(call("cosh", *arguments), ast.Pow(), ast.Constant(2)))
        return ast.Call(function, arguments, [])

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """Without `a != a`, which lets nan through: a program that is read has none."""
        kept = [self.visit(x) for x in node.values if not _compares_with_itself(x)]
        decides = isinstance(node.op, ast.Or)  # the truth value that settles the whole
        if any(isinstance(x, ast.Constant) and bool(x.value) == decides for x in kept):
            return ast.Constant(decides)
        kept = [x for x in kept if not isinstance(x, ast.Constant)] or [ast.Constant(not decides)]
        return kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)


def _constant(x: ast.expr) -> float | None:
    """The number that a tree is, if it is one."""
    if isinstance(x, ast.Constant) and isinstance(x.value, (int, float)):
        return float(x.value)
    if isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.USub):
        value = _constant(x.operand)
        return None if value is None else -value
    return None


def _compares_with_itself(x: ast.expr) -> bool:
    return isinstance(x, ast.Compare) and ast.dump(x.left) == ast.dump(x.comparators[0])


# -- what a text needs ------------------------------------------------------------------------------------------
def functions_called(text: str) -> tuple[list[str], list[str]]:
    """(from numpy, from scipy.special): the functions that a text calls, or names such as inf that it uses."""
    called = {
        k.func.id
        for k in ast.walk(ast.parse(text))
        if isinstance(k, ast.Call) and isinstance(k.func, ast.Name)
    }
    called |= {k.id for k in ast.walk(ast.parse(text)) if isinstance(k, ast.Name) and k.id in ("inf", "pi")}
    known = {name for p in PRIMITIVES for name in (p.name, *_NUMPY.values())} | {"rint", "inf", "pi", "zeros"}
    return sorted((called & known) - _SPECIAL - _BUILT_IN), sorted(called & _SPECIAL)


def operations(text: str) -> int:
    """Arithmetic operations and function calls in a text; a sum([…]) of k terms counts k − 1."""
    count = 0
    for k in ast.walk(ast.parse(text)):
        if isinstance(k, (ast.BinOp, ast.Compare)) or (
            isinstance(k, ast.UnaryOp) and isinstance(k.op, ast.USub)
        ):
            count += not (isinstance(k, ast.UnaryOp) and isinstance(k.operand, ast.Constant))
        elif isinstance(k, ast.Call) and isinstance(k.func, ast.Name):
            if k.func.id == "sum" and isinstance(k.args[0], ast.List):
                count += len(k.args[0].elts) - 1
            elif k.func.id not in ("zeros", "float"):
                count += 1
    return count
