"""Where in the user's Python a value was made: frames, lines, and the variables that values are assigned to.

Takes frames and code objects, gives names ("t", "t[2]", "t#3"), lines of source, and advice for an error
raised on a line. Reads bytecode and source text; runs nothing and knows no graph beyond node numbers.
"""

from __future__ import annotations

import ast
import dis
import linecache
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import ExpressionError, LagradError
from lagrad.expr import functions
from lagrad.expr.expression import Expression
from lagrad.expr.graph import LINEAR, Graph
from lagrad.expr.instead import INSTEAD
from lagrad.program import element_name

EVENTS: Final = 3_000  # operations of one trace that are watched: some 5 µs each, against 0.5 µs unwatched
NODES: Final = 200_000  # nodes after which watching ends, for functions of few operations on long arrays
SHOWN: Final = 60  # characters of source that a label shows

_RETURN: Final = "return"  # no variable can have this name
_OURS: Final = tuple(
    os.path.dirname(path) + os.sep for path in (os.path.dirname(__file__), np.__file__)
)  # this package and NumPy
_SCIPY: Final = f"{os.sep}scipy{os.sep}"


@lru_cache(1024)
def is_ours(file: str) -> bool:
    """Whether code in this file belongs to lagrad, NumPy or SciPy, and not to whoever uses them."""
    return file.startswith((*_OURS, "<__array_function__")) or _SCIPY in file


def caller() -> FrameType | None:
    """The innermost frame of the user's code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def assignment(frame: FrameType | None) -> tuple[FrameType, str] | None:
    """The frame and the variable that take the value of the instruction that `frame` is at, if stored next.

    Of `return x * y` it is what the caller assigns the result to. The name may be an attribute's.
    """
    while frame is not None and not is_ours(frame.f_code.co_filename):
        name = _stores(frame.f_code).get(frame.f_lasti)
        if name is None:
            return None
        if name != _RETURN:
            return frame, name
        frame = frame.f_back
    return None


def source_of(code: CodeType, lasti: int) -> tuple[int, str, str]:
    """(line number, that line, the part of it that the instruction at `lasti` evaluates), "" if unknown."""
    positions = list(code.co_positions())
    line, end_line, start, end = positions[lasti // 2] if 0 <= lasti // 2 < len(positions) else (None,) * 4
    if line is None:
        return code.co_firstlineno, "", ""
    text = linecache.getline(code.co_filename, line).rstrip("\n")
    if start is None or end is None:
        return line, text.strip(), ""
    part = text.encode()[start : end if end_line == line else None].decode(errors="replace")
    return line, text.strip(), part.strip() + ("" if end_line == line else " …")


@lru_cache(1024)
def _stores(code: CodeType) -> dict[int, str]:
    """Offset of an instruction -> the name that the next one stores its result in, or _RETURN."""
    out: dict[int, str] = {}
    steps = [
        i for i in dis.get_instructions(code) if i.opname not in ("NOP", "COPY", "CACHE", "EXTENDED_ARG")
    ]
    for here, after, beyond in zip(steps, steps[1:], [*steps[2:], None], strict=False):
        name = None
        if after.opname.startswith(("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF")):
            name = after.argval[0] if isinstance(after.argval, tuple) else after.argval
        elif after.opname == "RETURN_VALUE":
            name = _RETURN
        elif after.opname.startswith("LOAD_") and beyond is not None and beyond.opname == "STORE_ATTR":
            name = beyond.argval
        if name is not None:  # during a call, a frame may stand anywhere in the instruction's inline cache
            out.update((offset, name) for offset in range(here.offset, after.offset, 2))
    return out


class Recorder:
    """Notes, while a function is traced, on which line every node is made and what it is assigned to.

    The watch of a `Graph`; leaves it when more has been seen than `EVENTS` and `NODES` allow. What a variable
    holds is looked up when the next operation begins: by then the assignment has happened.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        #: first node of an operation, code and instruction; no code for nodes that are named as those they repeat
        self.lines: list[tuple[int, CodeType | None, int]] = []
        self.repeats: list[tuple[int, NDArray[np.int32], int]] = []  # see `Watch.repeated`
        #: name, nodes, shape of the whole array, and the index assigned to (None: all of it)
        self.values: list[tuple[str, int | NDArray[np.int32], tuple[int, ...], Any]] = []
        self._entry: FrameType | None = None  # of the last operation: the user's code called this function
        self._next: tuple[FrameType, str, int] | None = None  # where its result is going, and its first node
        self._nodes = 0  # in `values`
        self._most = NODES
        # by the identity of code objects, which are kept for that: their hashes take longer than all else here
        self._ours: dict[int, bool] = {}
        self._stores: dict[int, dict[int, str]] = {}
        self._kept: list[CodeType] = []

    def made(self, code: int, first: int) -> None:
        """Note one operation."""
        if code < 0 and code != LINEAR:
            return  # constants and declared things have no need of a name
        frame: FrameType | None = sys._getframe(2)
        entry = None
        ours = self._ours
        while frame is not None:
            here = frame.f_code
            own = ours.get(id(here))
            if own is None:
                own = ours[id(here)] = is_ours(here.co_filename)
                self._kept.append(here)
            if not own:
                break
            entry, frame = frame, frame.f_back
        if entry is not self._entry:  # else one call in the user's code makes both, and has not ended
            if self._next is not None:
                self._settle(first)
            self._entry = entry
        if len(self.lines) >= EVENTS or first > self._most:
            self._entry = self._next = self.graph.watch = None
        elif frame is not None:
            at = frame.f_lasti
            self.lines.append((first, here, at))
            stores = self._stores.get(id(here))
            if stores is None:
                stores = self._stores[id(here)] = _stores(here)
            name = stores.get(at)
            if name is None:
                self._next = None
            elif name != _RETURN:
                self._next = frame, name, first
            else:
                target = assignment(frame.f_back)
                self._next = None if target is None else (*target, first)

    def _settle(self, now: int) -> None:
        """Look what the last operation's result was assigned to."""
        if self._next is None:
            return
        frame, name, first = self._next
        value = frame.f_locals.get(name)
        if not isinstance(value, Expression):
            return
        # the variable holds the new value, not an old one, if the new nodes are in it
        if type(value.ids) is int:
            if first <= value.ids < now:
                self.values.append((name, value.ids, (), None))
        elif self._nodes <= NODES and ((value.ids >= first) & (value.ids < now)).any():
            self.values.append((name, value.ids.copy(), value.ids.shape, None))
            self._nodes += value.ids.size

    def stored(self, array: Any, key: Any) -> None:
        """Note x[key] = value, under the name that the user's function has for x."""
        frame = caller()
        if frame is None or len(self.values) >= 2 * EVENTS or self._nodes > NODES:
            return
        for name, value in frame.f_locals.items():
            if value is array:
                nodes = np.array(array.ids[key])
                self.values.append((name, nodes, array.ids.shape, key))
                self._nodes += nodes.size
                return

    def repeated(self, first: int, nodes: NDArray[np.int32], steps: int) -> None:
        """Note nodes that are named as the nodes of one step, with the number of the step."""
        self._settle(first)
        self._entry = self._next = None
        self.lines.append((first, None, 0))
        self.repeats.append((first, nodes, steps))
        self._most += steps * nodes.size  # of which none is watched

    def finish(self, taken: Iterable[str]) -> Labels:
        """The labels; `taken` are names that the program has declared."""
        self._settle(len(self.graph))
        self._entry = self._next = None
        return Labels(self.lines, self.values, set(taken), self.repeats)


class Labels(Mapping[int, str]):
    """Node -> its name, put together when first asked for.

    The first value of a variable is called by the variable's name, its third "t#3", an element "t[2]" or
    "t#3[2]". A value that is assigned to no variable is called by its source and line. A value of a step of
    `lg.scan` has the number of the step behind it: "t (step 12)".
    """

    def __init__(
        self,
        lines: list[tuple[int, CodeType | None, int]],
        values: list[tuple[str, int | NDArray[np.int32], tuple[int, ...], Any]],
        taken: set[str],
        repeats: list[tuple[int, NDArray[np.int32], int]],
    ) -> None:
        self._lines, self._values, self._taken, self._repeats = lines, values, taken, repeats
        self._made: dict[int, str] | None = None

    @property
    def _labels(self) -> dict[int, str]:
        if self._made is None:
            self._made = self._named()
        return self._made

    def __getitem__(self, node: int) -> str:
        found = self._labels.get(node)
        if found is not None:
            return found
        for first, nodes, steps in self._repeats:
            step, k = divmod(node - first, max(nodes.size, 1))
            if 0 <= step < steps:
                return f"{self[int(nodes[k])]} (step {step})"
        raise KeyError(node)

    def __iter__(self) -> Iterator[int]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __reduce__(self) -> tuple[Any, ...]:
        return _named_before, (self._labels, self._repeats)  # code objects stay where the function is

    def _named(self) -> dict[int, str]:
        seen: Counter[str] = Counter(self._taken)
        out: dict[int, str] = {}

        def numbered(name: str) -> str:
            seen[name] += 1
            return name if seen[name] == 1 else f"{name}#{seen[name]}"

        for name, nodes, shape, key in self._values:
            if key is None:
                name = numbered(name)
                for offset, node in enumerate(np.ravel(nodes).tolist()):
                    out.setdefault(node, element_name(name, shape, offset))
                continue
            offsets = np.arange(math.prod(shape)).reshape(shape)[key]
            for offset, node in zip(np.ravel(offsets).tolist(), np.ravel(nodes).tolist(), strict=True):
                if node not in out:
                    out[node] = numbered(element_name(name, shape, offset))
        ends = [first for first, _, _ in self._lines[1:]] + [self._lines[-1][0] + 1 if self._lines else 0]
        for (first, code, lasti), end in zip(self._lines, ends, strict=True):
            fresh = [node for node in range(first, end) if node not in out] if code else []
            if not code or not fresh:
                continue
            line, _, part = source_of(code, lasti)
            if part:
                part = part if len(part) <= SHOWN else part[: SHOWN - 1] + "…"
                name = numbered(f"{part} (line {line})")
                for k, node in enumerate(fresh):
                    out[node] = name if len(fresh) == 1 else f"{name}[{k}]"
        return out


def _named_before(
    labels: dict[int, str], repeats: list[tuple[int, NDArray[np.int32], int]]
) -> Mapping[int, str]:
    out = Labels([], [], set(), repeats)
    out._made = labels
    return out


# -- errors -----------------------------------------------------------------------------------------------
def explain(error: Exception) -> Exception | None:
    """Put the user's line into an error raised while tracing, and what to write there instead.

    Returns the error to raise in its place, if there is a better one.
    """
    found: TracebackType | None = None
    at = error.__traceback__
    while at is not None:
        if not is_ours(at.tb_frame.f_code.co_filename):
            found = at
        at = at.tb_next
    if found is None:
        return None
    code = found.tb_frame.f_code
    _, text, part = source_of(code, found.tb_lasti)
    foreign = None
    if isinstance(error, IndexError):
        if not _indexed_by_expression(found.tb_frame, part):
            return None
        foreign = error = ExpressionError(
            "indexing with an expression", "which element is meant must be known while tracing."
        )
    if not isinstance(error, LagradError):
        if not _FOREIGN.search(str(error)):
            return None
        if not isinstance(error, (TypeError, ValueError, AttributeError)):
            error.add_note("While a function is traced, its arguments are expressions, not NumPy arrays.")
            return None
        own = "Use NumPy's or lagrad's functions."
        if "Expression" not in str(error):
            own = "A library that has no rules for expressions takes part here. " + own
        missing = error.name or "" if isinstance(error, AttributeError) else ""
        foreign = ExpressionError(
            part or "a traced value", f"{str(error).rstrip('.')}.", INSTEAD.get(missing, own)
        )
    place = foreign or error
    assert isinstance(place, LagradError)
    advice = _advice(place, _opname(code, found.tb_lasti), text, part)
    place.locate(code.co_filename, found.tb_lineno, code.co_name, text, advice)
    return foreign


# What NumPy and SciPy say of an argument that is an expression, or an array of objects that are.
_FOREIGN: Final = re.compile(
    "Expression|setting an array element|has no callable|holds references|[Oo]bject arrays?|dtype\\('O'\\)"
    "|could not be safely coerced|data type for|sequence of integers"
)


def _indexed_by_expression(frame: FrameType, part: str) -> bool:
    """Whether an index in the text `part`, as numbers[k], is made of a traced value.

    NumPy asks what it is indexed by for no index that could be refused, and its `IndexError` does not say what it met.
    """
    try:
        tree = ast.parse(part, mode="eval")
    except SyntaxError:
        return False
    indices = [k.slice for k in ast.walk(tree) if isinstance(k, ast.Subscript)]
    names = {k.id for index in indices for k in ast.walk(index) if isinstance(k, ast.Name)}
    values = [frame.f_locals.get(name, frame.f_globals.get(name)) for name in names]
    inside = [v for value in values for v in (value if isinstance(value, (list, tuple)) else [value])]
    return any(
        isinstance(v, Expression)
        or (
            isinstance(v, np.ndarray) and v.dtype == object and any(isinstance(k, Expression) for k in v.flat)
        )
        for v in inside
    )


def _opname(code: CodeType, lasti: int) -> str:
    names = [i.opname for i in dis.get_instructions(code) if i.offset <= lasti]
    return names[-1] if names else ""


_STATIC = (
    "An argument that decides how often or where something is done has to be known while tracing: bind it "
    "with functools.partial or a lambda, or close over it."
)


def _advice(error: BaseException, opname: str, text: str, part: str) -> str | None:
    """What to write instead of the line `text`, whose `part` failed; None: what the error says itself."""
    operation = error.operation if isinstance(error, ExpressionError) else ""
    cause = str(error)
    if opname in ("STORE_SUBSCR", "STORE_SLICE") and operation == "indexing with an expression":
        return "Write x = lg.where(condition, value, x) instead of x[condition] = value."
    if opname in ("STORE_SUBSCR", "STORE_SLICE") and ("float()" in operation or "setting an array" in cause):
        return (
            "A NumPy array of numbers cannot hold a traced value: start from lg.zeros(shape) instead of "
            "np.zeros(shape), or collect the values in a list and use np.stack(list)."
        )
    called = re.match(r"(?:\w+\.)*(\w+)\(", part)
    name = called.group(1) if called and opname.startswith(("CALL", "PRECALL")) else ""
    if "has no callable" in cause:
        return (
            "An array of numbers and traced values is an array of objects: make it with np.stack([…]), or start "
            "from lg.zeros(shape)."
        )
    if name in ("softmax", "log_softmax", "logsumexp"):
        return {
            "softmax": "Write y = np.exp(x - np.max(x)), then y / np.sum(y).",
            "log_softmax": "Write x - np.logaddexp.reduce(x).",
            "logsumexp": "Write np.logaddexp.reduce(x, axis), of x + np.log(b) for weights b.",
        }[name]
    if name == "polygamma":
        return "Write scipy.special.digamma(x) for polygamma(0, x)."
    if operation.endswith((".inv", ".solve")):
        return "Write x = lg.implicit(lambda x: A @ x - b, np.zeros(n)): the solution of A x = b as a state."
    if re.match(r"(math|cmath)\.", part) and name:
        other = {"fabs": "abs", "pow": "power", "asin": "arcsin", "acos": "arccos", "atan": "arctan",
                 "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "atan2": "arctan2",
                 "lgamma": "gammaln"}.get(name, name)  # fmt: skip
        if name in INSTEAD:
            return INSTEAD[name]
        where = [f"{m}.{other}(…)" for m, has in (("lg", functions), ("np", np)) if hasattr(has, other)]
        instead = " or ".join(where) or "functions of lagrad or NumPy"
        return f"Write {instead}: math.{name} takes numbers only."
    if name in ("range", "arange", "zeros", "ones", "empty", "full", "eye", "reshape", "islice"):
        return _STATIC
    if "as a key" in operation:
        return "Keep traced values in lists, by position; lg.where chooses by values. " + _STATIC
    if "index" in operation:
        return _STATIC + " Among values that are all known, choose with lg.where."
    if "float()" in operation or "int()" in operation or "array()" in operation:
        if name in ("float", "int", "asarray", "array", "float64", "round"):
            return "Leave the conversion out: a traced value is a double already, or an array of them."
        return "Use the functions of NumPy or lagrad, which take expressions; read numbers from the result."
    if "truth value" in operation:
        return _truth_advice(name, opname, text, part)
    return None


def _truth_advice(name: str, opname: str, text: str, part: str) -> str:
    if name in ("max", "min"):
        return f"Write np.{name}imum(a, b), or np.{name}(array) for the {name}imum of an array."
    if name in ("sorted", "sort", "argsort"):
        return "The order of traced values is not known; np.minimum and np.maximum of two values are."
    if name in ("any", "all", "bool"):
        return "Combine conditions with & and |, and use the result in lg.where(condition, a, b)."
    if name:
        return (
            f"{name} compares traced values one by one. If they stand in np.array([…]), make the array with "
            "np.stack([…]); a choice between values is lg.where(condition, a, b)."
        )
    if text.startswith("while"):
        return (
            "A loop that ends when a traced value says so is an equation: y = lg.fixed_point(step, guess) or "
            "y = lg.implicit(residual, guess). Otherwise iterate a fixed number of times."
        )
    if text.startswith("assert"):
        return "Check numbers before or after the traced function, not inside."
    if re.search(r"\b(and|or|not)\b", text) and not text.startswith("if"):
        return "Combine conditions with &, | and ~, each in parentheses, inside lg.where(condition, a, b)."
    if len(re.findall("[<>]=?", part)) > 1:
        return "Write (a < x) & (x < b) instead of a < x < b, inside lg.where(condition, x, y)."
    condition = part if part and ("JUMP" in opname or opname in ("TO_BOOL", "COMPARE_OP")) else "condition"
    return (
        f"Write lg.where({condition}, a, b), with the values of both branches, instead of if; or bind what "
        "decides with functools.partial or a lambda, so that it is a number while tracing."
    )
