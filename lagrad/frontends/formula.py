"""One formula of a model file: text in, an expression, a constraint or a number out. Data, never code.

The text is parsed by `ast` and walked against a whitelist: numbers, declared names, + - * / ** % @, the
functions of `FUNCTIONS`, comparisons, indices and lists. What is not on it is refused by name and column
before anything is computed; nothing is ever compiled, looked up on an object or called that is not in
`FUNCTIONS`. The walks keep their own stacks, numbers become floats as they are read, and every operation is
charged to a `Budget` before it is carried out. Knows no files, no sections and no programs: names come from
a lookup.
"""

from __future__ import annotations

import ast
import math
import operator
import unicodedata
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lagrad.errors import LagradError
from lagrad.expr import functions
from lagrad.expr.expression import Constraint, Expression, graph_of, lift
from lagrad.expr.primitives import PRIMITIVES

MAX_FORMULA: Final = 1_000_000  # characters of one formula; `ast` needs some 100 bytes of memory for each
MAX_DEPTH: Final = 1_000  # levels of nesting; `ast` itself gives up at 1 500 to 3 000, by version of Python
MAX_ELEMENTS: Final = 10_000_000  # elements of one array
MAX_WORK: Final = 50_000_000  # elements made by all operations of one file: about 1 GB of graph

CONSTANTS: Final[Mapping[str, float]] = {"pi": math.pi, "e": math.e, "inf": math.inf}

_SHAPED: Final[dict[str, tuple[int, int]]] = {
    "power": (2, 2),
    "where": (3, 3),
    "clip": (3, 3),
    "sum": (1, 2),
    "mean": (1, 2),
    "prod": (1, 2),
    "max": (1, 1),  # no axis: max(a, 0) would be read as maximum(a, 0) by most people
    "min": (1, 1),
    "norm": (1, 2),
    "dot": (2, 2),
    "stack": (1, 2),
    "concatenate": (1, 2),
}
_WITH_AXIS: Final = frozenset({"sum", "mean", "prod", "norm", "stack", "concatenate"})
_WITH_PARTS: Final = frozenset({"stack", "concatenate"})

#: name -> (function, fewest arguments, most): primitives with a public function, and the shaped ones
FUNCTIONS: Final[Mapping[str, tuple[Callable[..., Any], int, int]]] = {
    **{
        p.name: (getattr(functions, p.name), p.arity, p.arity)
        for p in PRIMITIVES
        if hasattr(functions, p.name)
    },
    **{name: (getattr(functions, name), least, most) for name, (least, most) in _SHAPED.items()},
}

# What people write for functions that have another name here.
_OTHER_NAMES: Final = {
    "ln": "log",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "atan2": "arctan2",
    "asinh": "arcsinh",
    "acosh": "arccosh",
    "atanh": "arctanh",
    "pow": "power",
    "fabs": "abs",
    "absolute": "abs",
    "lgamma": "gammaln",
    "loggamma": "gammaln",
    "psi": "digamma",
    "sigmoid": "expit",
    "logistic": "expit",
    "amax": "max",
    "amin": "min",
    "iif": "where",
    "piecewise": "where",
    "matmul": "dot",
    "average": "mean",
    "product": "prod",
}

_BINARY: Final[dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.Pow: ("**", operator.pow),
    ast.Mod: ("%", operator.mod),
    ast.MatMult: ("@", operator.matmul),
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

_FORBIDDEN: Final[dict[type[ast.AST], tuple[str, str]]] = {
    ast.Lambda: ("a lambda", "Write the formula out, or name a part of it under [definitions]."),
    ast.ListComp: ("a comprehension", "Write an array operation, such as sum(a*b), or list the elements."),
    ast.SetComp: ("a comprehension", "Write an array operation, such as sum(a*b), or list the elements."),
    ast.DictComp: ("a comprehension", "Write an array operation, such as sum(a*b), or list the elements."),
    ast.GeneratorExp: (
        "a comprehension",
        "Write an array operation, such as sum(a*b), or list the elements.",
    ),
    ast.IfExp: ("if … else", "Write where(condition, a, b)."),
    ast.BoolOp: ("and/or", "Nest where(…): where(a < b, where(b < c, x, y), y)."),
    ast.NamedExpr: (":=", "Name the part under [definitions]."),
    ast.JoinedStr: ("text in quotes", "Names are written without quotes."),
    ast.Dict: ("braces", "Lists are written in brackets: [a, b]."),
    ast.Set: ("braces", "Lists are written in brackets: [a, b]."),
    ast.Starred: ("*", "List the elements one by one."),
    ast.Await: ("await", "Only arithmetic and functions take part."),
    ast.Yield: ("yield", "Only arithmetic and functions take part."),
    ast.YieldFrom: ("yield", "Only arithmetic and functions take part."),
    ast.Slice: ("a slice outside an index", "Slices stand in brackets after a name: z[0:3]."),
    ast.BitXor: ("^", "A power is written **."),
    ast.BitAnd: ("&", "Nest where(…): where(a < b, where(b < c, x, y), y)."),
    ast.BitOr: ("|", "Nest where(…): where(a < b, x, where(b < c, x, y))."),
    ast.LShift: ("<<", "Only + - * / ** % and @ take part."),
    ast.RShift: (">>", "Only + - * / ** % and @ take part."),
    ast.FloorDiv: ("//", "Write floor(a / b)."),
    ast.Not: ("not", "Turn the comparison round, or exchange the branches of where(…)."),
    ast.Invert: ("~", "Turn the comparison round, or exchange the branches of where(…)."),
    ast.NotEq: ("!=", "Only < <= > >= stand inside where(…)."),
    ast.Is: ("is", "Only < <= > >= stand inside where(…)."),
    ast.IsNot: ("is not", "Only < <= > >= stand inside where(…)."),
    ast.In: ("in", "Only < <= > >= stand inside where(…)."),
    ast.NotIn: ("not in", "Only < <= > >= stand inside where(…)."),
}


class FormulaError(ValueError):
    """What is wrong with a formula: `reason`, `advice`, `column` (from 1, or None), `excerpt` of the text."""

    def __init__(self, reason: str, advice: str = "", column: int | None = None, excerpt: str = "") -> None:
        self.reason, self.advice, self.column, self.excerpt = reason, advice, column, excerpt
        super().__init__(reason)


@dataclass(frozen=True)
class Formula:
    """A formula whose every part is on the whitelist.

    `lhs` alone for an expression, `lhs` and `rhs` for a constraint; `names` are the names that it mentions.
    """

    text: str
    lhs: ast.expr
    rhs: ast.expr | None
    names: tuple[str, ...]


class Budget:
    """How many more elements operations may make; shared by all formulas of a file."""

    def __init__(self, limit: int = MAX_WORK) -> None:
        self.limit = self.left = limit

    def charge(self, elements: int) -> None:
        """Take `elements` off, or raise `FormulaError` before they are made."""
        if elements > MAX_ELEMENTS:
            raise FormulaError(
                f"an array of {elements} elements; the limit is {MAX_ELEMENTS}",
                "Build a program of this size in Python.",
            )
        self.left -= elements
        if self.left < 0:
            raise FormulaError(
                f"the operations of this file make more than {self.limit} elements",
                "Build a program of this size in Python.",
            )


def shown(text: str, limit: int = 60) -> str:
    """Text from a file made safe to print: what no terminal shows is escaped, and what is long is cut."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def normal(name: str) -> str:
    """A name as `ast` spells it: Python's identifiers are compared in Unicode's compatibility form."""
    return unicodedata.normalize("NFKC", name)


# -- from text to a checked tree -----------------------------------------------------------------------------
def parse_formula(text: str, *, constraint: bool) -> Formula:
    """The checked tree of `text`: a constraint `lhs == rhs`, or an expression without `==`.

    Raises `FormulaError`. Nothing is looked up and nothing is computed.
    """
    if len(text) > MAX_FORMULA:
        raise FormulaError(
            f"{len(text)} characters; the limit for one formula is {MAX_FORMULA}",
            "Name parts of it under [definitions].",
            excerpt=shown(text),
        )
    if not text.strip():
        raise FormulaError("it is empty", 'Write a formula in quotes, such as "y == 2*x".')
    text = text.translate(
        {10: " ", 13: " ", 9: " "}
    )  # one line: columns count on, and # could hide what follows
    for column, char in enumerate(text):
        if char == "#":
            raise _at(text, column, "a comment inside a formula", "Put comments after the closing quotes.")
        if char < " ":
            raise _at(text, column, f"the control character {shown(char)}", "Retype the formula.")
    tree = _tree(text, constraint)
    lhs: ast.expr = tree
    rhs: ast.expr | None = None
    equation = isinstance(tree, ast.Compare) and any(isinstance(op, ast.Eq) for op in tree.ops)
    if constraint:
        if not equation:
            raise FormulaError(
                "a constraint has the form left == right, and there is no == at its outermost level",
                "Write both sides; what is only computed goes under [definitions].",
                excerpt=shown(text),
            )
        assert isinstance(tree, ast.Compare)
        if len(tree.ops) > 1:
            raise _of(text, tree.comparators[1], "a constraint has exactly one ==", "Write two constraints.")
        lhs, rhs = tree.left, tree.comparators[0]
    elif equation:
        assert isinstance(tree, ast.Compare)
        raise _of(
            text,
            tree.comparators[0],
            "an == where an expression is wanted",
            "Move it under [constraints], or keep only the right side.",
        )
    names: dict[str, None] = {}
    for part in (lhs, rhs):
        if part is not None:
            _check(text, part, names)
    return Formula(text, lhs, rhs, tuple(names))


def _tree(text: str, constraint: bool) -> ast.expr:
    source = text.strip()
    lost = len(text) - len(text.lstrip())
    try:
        with warnings.catch_warnings():  # the tokenizer warns about `1if`; the walk refuses it
            warnings.simplefilter("ignore")
            tree = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        column = (error.offset or 1) - 1 if error.lineno in (1, None) else 0
        reason, advice = _syntax(source, str(error.msg), column, constraint)
        if "integer string conversion" in str(error.msg):
            reason, advice = "an integer has thousands of digits", "Write it with an exponent, as 1e30."
        raise _at(text, min(max(column, 0) + lost, len(text) - 1), reason, advice) from None
    except (RecursionError, MemoryError):
        raise _too_deep(text) from None
    except (ValueError, OverflowError) as error:  # lone surrogates, integers of more than 4 300 digits
        if "integer string conversion" in str(error):
            raise FormulaError(
                "an integer has thousands of digits.",
                "Write it with an exponent, as 1e30.",
                excerpt=shown(text),
            ) from None
        raise FormulaError(
            f"it cannot be read: {shown(str(error))}", "Retype it.", excerpt=shown(text)
        ) from None
    if lost:
        for node in ast.walk(tree):
            if isinstance(node, ast.expr):
                node.col_offset += len(text[:lost].encode())
    return tree


def _syntax(source: str, message: str, column: int, constraint: bool) -> tuple[str, str]:
    """Reason and advice for what is not even an expression."""
    if "too many nested" in message:
        return f"nested more than {MAX_DEPTH} levels deep", "Name inner parts under [definitions]."
    bare = (
        source.replace("==", "  ")
        .replace("<=", "  ")
        .replace(">=", "  ")
        .replace("!=", "  ")
        .replace(":=", "  ")
    )
    if "=" in bare:
        if constraint:
            return "a single =", "A constraint is written with ==."
        return "an = in an expression", 'A definition\'s name stands before the quotes: name = "expression".'
    if "&&" in source or "||" in source:
        return "&& or ||", "Nest where(…): where(a < b, where(b < c, x, y), y)."
    if "invalid decimal literal" in message or "invalid imaginary" in message:
        return (
            "a number followed by a letter",
            "Write the product with *, as in 2*x; names start with a letter.",
        )
    if "$" in source or "?" in source or "!" in source.replace("!=", ""):
        return (
            "a character that has no meaning in a formula",
            "Only + - * / ** % @, functions and names take part.",
        )
    return (
        f"not a formula ({shown(message, 200)})",
        "Check the brackets, and that an operator stands between names.",
    )


def _check(text: str, root: ast.expr, names: dict[str, None]) -> None:
    """Refuse what is not on the whitelist; collect the names."""
    stack: list[tuple[ast.expr, int]] = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise _too_deep(text)
        kind = type(node)
        if isinstance(node, ast.Constant):
            _number(text, node)
        elif isinstance(node, (ast.Name, ast.Attribute)):
            names[_dotted(text, node)] = None
        elif isinstance(node, ast.BinOp):
            if type(node.op) not in _BINARY:
                raise _forbidden(text, node, type(node.op))
            stack += [(node.left, depth + 1), (node.right, depth + 1)]
        elif isinstance(node, ast.UnaryOp):
            if type(node.op) not in _UNARY:
                raise _forbidden(text, node, type(node.op))
            stack.append((node.operand, depth + 1))
        elif isinstance(node, ast.Compare):
            _check_comparison(text, node)
            stack += [(node.left, depth + 1), (node.comparators[0], depth + 1)]
        elif isinstance(node, ast.Call):
            _check_call(text, node)
            stack += [(a, depth + 1) for a in node.args]
        elif isinstance(node, ast.Subscript):
            _index(text, node)
            stack.append((node.value, depth + 1))
        elif isinstance(node, (ast.List, ast.Tuple)):
            if not node.elts:
                raise _of(text, node, "an empty list", "A list needs at least one element.")
            stack += [(element, depth + 1) for element in node.elts]
        else:
            raise _forbidden(text, node, kind)


def _number(text: str, node: ast.Constant) -> float:
    value = node.value
    if isinstance(value, bool) or value is None:
        raise _of(text, node, f"{value} is not a number", "Write 1 or 0, or a comparison inside where(…).")
    if isinstance(value, (str, bytes)):
        raise _of(text, node, "text in quotes has no place in a formula", "Names are written without quotes.")
    if isinstance(value, complex):
        raise _of(text, node, "an imaginary number", "All numbers are real; split the equation into two.")
    if not isinstance(value, (int, float)):
        raise _of(text, node, "… has no place in a formula", "Write the elements out.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise _of(text, node, "a number that double precision cannot hold", "The largest is about 1.8e308.")
    return number


def _dotted(text: str, node: ast.expr) -> str:
    parts: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    if not isinstance(inner, ast.Name):
        raise _of(
            text,
            node,
            "attributes cannot be read in a formula",
            "A dot only joins a scope and a name, as in tank.level.",
        )
    parts.append(inner.id)
    return ".".join(reversed(parts))


def _check_comparison(text: str, node: ast.Compare) -> None:
    for op in node.ops:
        if isinstance(op, ast.Eq):
            raise _of(
                text,
                node,
                "an == inside an expression",
                "Inside where(…) only < <= > >= stand; == makes a constraint.",
            )
        if type(op) not in _COMPARE:
            raise _forbidden(text, node, type(op))
    if len(node.ops) > 1:
        raise _of(text, node, "a chained comparison", "Nest where(…): where(a < b, where(b < c, x, y), y).")


def _check_call(text: str, node: ast.Call) -> None:
    if not isinstance(node.func, (ast.Name, ast.Attribute)):
        raise _of(text, node, "only a function's name can be called", "Put * between two factors: (a)*(b).")
    name = _dotted(text, node.func)
    if name not in FUNCTIONS:
        last = name.rsplit(".", 1)[-1]
        near = _OTHER_NAMES.get(last) or (last if last in FUNCTIONS else None)
        if near is None:
            near = nearest(last, FUNCTIONS)
        advice = f"Did you mean {near}? " if near else ""
        raise _of(
            text,
            node.func,
            f"{shown(name)} is not a function of model files",
            advice + "A product needs a *. The functions are: " + ", ".join(sorted(FUNCTIONS)) + ".",
        )
    if node.keywords:
        word = node.keywords[0]
        raise _of(
            text,
            word.value,
            f"{name}(…) with {shown(word.arg or '**')}=: arguments have no names in a formula",
            "Give them in order, as in sum(a, 0)." if name in _WITH_AXIS else "Give them in order.",
        )
    _, least, most = FUNCTIONS[name]
    if not least <= len(node.args) <= most:
        wanted = str(least) if least == most else f"{least} or {most}"
        given = f"{len(node.args)} {'is' if len(node.args) == 1 else 'are'} given"
        advice = ""
        if name in ("max", "min"):
            advice = f"The larger or smaller of two values is {name}imum(a, b); of a list, {name}([a, b, c])."
        elif name in _WITH_AXIS:
            advice = f"Values go in brackets: {name}([a, b, c])."
        raise _of(text, node, f"{name} takes {wanted} argument{'s' * (most > 1)}, and {given}", advice)
    if name in _WITH_AXIS and len(node.args) == 2:
        _whole(text, node.args[1], f"the axis of {name}")


def _whole(text: str, node: ast.expr, what: str) -> int:
    sign, inner = 1, node
    if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, (ast.USub, ast.UAdd)):
        sign, inner = (-1 if isinstance(inner.op, ast.USub) else 1), inner.operand
    if not isinstance(inner, ast.Constant) or type(inner.value) is not int:
        raise _of(text, node, f"{what} must be a whole number written out", "Write it as 0, 1, 2, … or -1.")
    if inner.value > MAX_ELEMENTS:
        raise _of(text, node, f"{what} is larger than any array may be ({MAX_ELEMENTS})", "Check the number.")
    return sign * inner.value


def _index(text: str, node: ast.Subscript) -> Any:
    """The index as NumPy takes it: whole numbers, slices of whole numbers, and tuples of these."""

    def one(part: ast.expr) -> int | slice:
        if isinstance(part, ast.Slice):
            ends = (part.lower, part.upper, part.step)
            start, stop, step = (None if x is None else _whole(text, x, "the end of a slice") for x in ends)
            if step == 0:
                raise _of(text, node, "a slice with step 0", "Use a step of 1 or more, or of -1 or less.")
            return slice(start, stop, step)
        return _whole(text, part, "an index")

    inner = node.slice
    if isinstance(inner, ast.Tuple):
        return tuple(one(part) for part in inner.elts)
    return one(inner)


# -- from a checked tree to a value --------------------------------------------------------------------------
Lookup = Callable[[str], Any]


def evaluate(formula: Formula, lookup: Lookup, budget: Budget) -> Any:
    """The value of a formula: an `Expression`, a float or an array, or a `Constraint` if it has two sides.

    `lookup(name)` gives the value of a declared name, None for one that there is not. Raises `FormulaError`.
    """
    with np.errstate(all="ignore"):  # what is not finite is refused where it arises
        lhs = _value(formula.text, formula.lhs, lookup, budget)
        if formula.rhs is None:
            return lhs
        rhs = _value(formula.text, formula.rhs, lookup, budget)
    graph = graph_of(lhs, rhs)
    if graph is None:
        raise FormulaError(
            "a constraint between numbers: it mentions no declared name",
            "Let it mention the states that it determines, or remove it.",
            excerpt=shown(formula.text),
        )
    try:
        budget.charge(_broadcast_size(lhs, rhs))
        return Constraint(lift(graph, lhs), lift(graph, rhs))
    except FormulaError:
        raise
    except (LagradError, ValueError) as error:
        raise FormulaError(str(error), excerpt=shown(formula.text)) from None


def _value(text: str, root: ast.expr, lookup: Lookup, budget: Budget) -> Any:
    values: list[Any] = []
    stack: list[tuple[ast.expr, bool, bool]] = [
        (root, False, False)
    ]  # node, operands are on `values`, keep a list
    while stack:
        node, ready, parts = stack.pop()
        operands = _operands(node)
        if not ready and operands:
            stack.append((node, True, parts))
            keeps = isinstance(node, ast.Call) and _dotted(text, node.func) in _WITH_PARTS
            stack += [(x, False, keeps and k == 0) for k, x in reversed(list(enumerate(operands)))]
            continue
        taken = values[len(values) - len(operands) :]
        del values[len(values) - len(operands) :]
        try:
            value = _combine(text, node, taken, parts, lookup, budget)
        except FormulaError as error:
            if error.column is None and not error.excerpt:
                raise _of(text, node, error.reason, error.advice) from None
            raise
        except (LagradError, ValueError, TypeError, IndexError, ArithmeticError) as error:
            raise _of(text, node, shown(str(error), 400), "") from None
        except MemoryError:
            raise _of(text, node, "not enough memory", "Build a program of this size in Python.") from None
        if isinstance(value, (float, np.ndarray)) and np.isnan(value).any():
            raise _of(text, node, "the value is not a number (nan)", "Check the function's domain.")
        values.append(value)
    return values[0]


def _operands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.Call):
        return node.args
    if isinstance(node, ast.Subscript):
        return [node.value]
    if isinstance(node, (ast.List, ast.Tuple)):
        return node.elts
    return []


def _combine(text: str, node: ast.expr, taken: list[Any], parts: bool, lookup: Lookup, budget: Budget) -> Any:
    if isinstance(node, ast.Constant):
        return _number(text, node)
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = _dotted(text, node)
        value = lookup(name)
        if value is not None:
            return value
        if name in CONSTANTS:
            return CONSTANTS[name]
        raise _unknown(name, lookup)
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.MatMult):
            budget.charge(_product_size(*taken))
        else:
            budget.charge(_broadcast_size(*taken))
        return _folded(node.op, _BINARY[type(node.op)][1], taken)
    if isinstance(node, ast.UnaryOp):
        budget.charge(_size(taken[0]))
        return _folded(node.op, _UNARY[type(node.op)], taken)
    if isinstance(node, ast.Compare):
        budget.charge(_broadcast_size(*taken))
        return _folded(node.ops[0], _COMPARE[type(node.ops[0])], taken)
    if isinstance(node, ast.Subscript):
        key = _index(text, node)
        if isinstance(taken[0], float):
            raise FormulaError("a number has no elements", "Only arrays and lists take an index.")
        return _scalar(taken[0][key])
    if isinstance(node, (ast.List, ast.Tuple)):
        return list(taken) if parts else _listed(taken, budget)
    assert isinstance(node, ast.Call)
    return _called(_dotted(text, node.func), taken, budget)


def _called(name: str, taken: list[Any], budget: Budget) -> Any:
    function = FUNCTIONS[name][0]
    if name in _WITH_AXIS or name in ("max", "min"):
        if name in _WITH_PARTS and not isinstance(taken[0], list):
            taken[0] = [taken[0][i] for i in range(len(taken[0]))] if np.ndim(taken[0]) else taken[0]
            if not isinstance(taken[0], list):
                raise FormulaError(f"{name} of a single value", f"Give a list: {name}([a, b]).")
        budget.charge(sum(_size(x) for x in taken[0]) if isinstance(taken[0], list) else _size(taken[0]))
        return _scalar(function(taken[0], *(int(axis) for axis in taken[1:])))
    budget.charge(_product_size(*taken) if name == "dot" else _broadcast_size(*taken))
    return _scalar(function(*taken))


def _folded(op: ast.AST, function: Callable[..., Any], taken: list[Any]) -> Any:
    """An operator applied; on plain numbers by NumPy, whose powers are never integers of a million digits."""
    if graph_of(*taken) is not None:
        return function(*taken)
    numbers = [np.asarray(x, dtype=np.float64) for x in taken]
    value = _scalar(function(*numbers))
    finite = all(np.isfinite(x).all() for x in numbers)
    if finite and not isinstance(op, ast.cmpop) and np.isinf(value).any():
        raise FormulaError("the value is infinite", "Check for a division by zero or a power out of range.")
    return value


def _scalar(value: Any) -> Any:
    """Plain numbers as float or float64 array; expressions as they are."""
    if isinstance(value, Expression):
        return value
    value = np.asarray(value, dtype=np.float64)
    return float(value) if value.ndim == 0 else value


def _listed(parts: list[Any], budget: Budget) -> Any:
    budget.charge(sum(_size(x) for x in parts))
    shapes = {_shape(x) for x in parts}
    if len(shapes) > 1:
        raise FormulaError(
            "the elements of a list have different shapes: " + ", ".join(map(str, sorted(shapes)[:4])),
            "Rows must be equally long; concatenate([a, b]) joins arrays of different lengths.",
        )
    graph = graph_of(parts)
    return np.array(parts, dtype=np.float64) if graph is None else lift(graph, parts)


def _shape(value: Any) -> tuple[int, ...]:
    return value.shape if isinstance(value, (Expression, np.ndarray)) else np.shape(value)


def _size(value: Any) -> int:
    return sum(map(_size, value)) if isinstance(value, list) else math.prod(_shape(value))


def _broadcast_size(*values: Any) -> int:
    shapes = [s for v in values if type(v) is not float and (s := _shape(v))]
    try:
        return math.prod(np.broadcast_shapes(*shapes)) if shapes else 1
    except ValueError:  # the operation itself will say which shapes do not fit
        return 0


def _product_size(x: Any, y: Any) -> int:
    """Products formed by x @ y: every element of x meets every column of y."""
    inner = _shape(y)[-2] if len(_shape(y)) > 1 else max(_size(y), 1)
    return _size(x) * max(_size(y) // max(inner, 1), 1)


def _unknown(name: str, lookup: Lookup) -> FormulaError:
    known = getattr(lookup, "known", lambda: ())()
    if name in FUNCTIONS:
        return FormulaError(f"{name} is a function", f"Give it arguments: {name}(…).")
    near = nearest(name, [*known, *CONSTANTS])
    dot = " A dot only joins a scope and a name; attributes cannot be read." if "." in name else ""
    return FormulaError(
        f"{shown(name)} is not a declared name.{dot}",
        (f"Did you mean {shown(near)}? " if near else "")
        + "Names are declared under [parameters], [states] and [definitions].",
    )


def nearest(name: str, known: Any) -> str | None:
    """The known name closest to `name`, if one is close."""
    from difflib import get_close_matches

    found = get_close_matches(name[:80], [k for k in known if len(k) < 100][:10_000], n=1, cutoff=0.7)
    return found[0] if found else None


# -- where in the text ---------------------------------------------------------------------------------------
def _at(text: str, column: int, reason: str, advice: str = "") -> FormulaError:
    """An error at a character of the text, with the piece around it and a caret below."""
    start = max(0, column - 40)
    piece = text[start : column + 40]
    before = ("…" if start else "") + shown(text[start:column], 1000)
    after = shown(piece[column - start :], 1000) + ("…" if column + 40 < len(text) else "")
    return FormulaError(reason, advice, column + 1, f"{before}{after}\n    {' ' * len(before)}^")


def _of(text: str, node: ast.expr, reason: str, advice: str = "") -> FormulaError:
    """An error at a node; `ast` counts columns in bytes of UTF-8."""
    return _at(text, len(text.encode()[: node.col_offset].decode(errors="ignore")), reason, advice)


def _forbidden(text: str, node: ast.expr, kind: type[ast.AST]) -> FormulaError:
    what, advice = _FORBIDDEN.get(kind, (f"a {kind.__name__}", "Only arithmetic and functions take part."))
    return _of(text, node, f"{what} has no place in a formula", advice)


def _too_deep(text: str) -> FormulaError:
    return FormulaError(
        f"nested more than {MAX_DEPTH} levels deep, or as many operations in one row",
        "Name parts of it under [definitions]; write long sums as sum([a, b, c]).",
        excerpt=shown(text),
    )
