"""From a Python function to a Program: it is run once on expressions, and what it does is written down.

Takes a function of NumPy operations and example arguments, gives a Program with `share_all`: every value that
is used twice or more becomes a state, which is where adjoints add. Loops, recursion, comprehensions and
helper functions leave nothing but their operations; whatever else Python does (printing, reading globals and
closures) happens while tracing and never again. Solves nothing.

Arguments become parameters named after the function's arguments: "x", "w[0]", "params.b"; the result becomes
definitions named "out", "out[1]", "out.loss". `program.inputs` and `program.outputs` keep the two trees.
"""

from __future__ import annotations

import bisect
import gc
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import DeclarationError, ExpressionError
from lagrad.expr.expression import Cell, Expression, graph_of, lift
from lagrad.expr.functions import numeric
from lagrad.expr.graph import CONSTANT, LINEAR, PARAMETER, STATE, Graph
from lagrad.expr.primitives import PRIMITIVES
from lagrad.frontends.lines import Recorder, explain
from lagrad.frontends.tree import is_static, mapped
from lagrad.numbers import check_callable
from lagrad.program import Program, Registry

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Static:
    """A leaf of `program.inputs` that is no number: it was fixed when the function was traced."""

    value: Any


@dataclass
class Trace:
    """A function being traced, or traced: its program, and what `implicit` leaves to be done.

    guesses: (first scalar state, node numbers) of every state whose guess is itself a traced value
    """

    program: Program
    guesses: list[tuple[int, NDArray[np.int32]]] = field(default_factory=list)
    roots: Counter[str] = field(default_factory=Counter)  # names in use, without what follows "." and "["
    steps: list[Graph] = field(default_factory=list)  # of the steps being traced, the innermost last

    @property
    def graph(self) -> Graph:
        """Where expressions are made now."""
        return self.steps[-1] if self.steps else self.program.graph

    def new_root(self, name: str) -> str:
        """`name`, or "name#2" and so on if it is in use."""
        self.roots[name] += 1
        return name if self.roots[name] == 1 else self.new_root(f"{name}#{self.roots[name]}")

    def guessed(self, nodes: NDArray[np.int32]) -> Floats:
        """The values of nodes at the declared parameters, with every state at its guess."""
        program = self.program
        return evaluated(
            program.graph,
            nodes,
            lambda i: _declared_number(program.parameters, program.values, i),
            lambda j: _declared_number(program.states, program.guesses, j),
        )

    def starting_values(self, parameters: Floats) -> Floats:
        """Guesses of all states (n,) at parameters (m,): as declared, or computed where they depend on p."""
        program = self.program
        states = np.ones(program.states.size)
        for item, guess in zip(program.states.items, program.guesses, strict=True):
            if guess is not None:
                states[item.start : item.start + item.size] = guess.ravel()
        for start, nodes in self.guesses:
            here = slice(start, start + nodes.size)
            values = evaluated(program.graph, nodes, parameters.__getitem__, states.__getitem__).ravel()
            states[here] = np.where(np.isfinite(values), values, states[here])
        return states


class StatesInStep(BaseException):
    """Raised where a step that was to be traced once for all declares states: it is run once for each instead.

    No Exception, so that nobody's own `except` takes it for an error.
    """


_ACTIVE: ContextVar[tuple[Trace, ...]] = ContextVar("lagrad_traces", default=())


def active() -> Trace | None:
    """The trace going on, the innermost of several."""
    traces = _ACTIVE.get()
    return traces[-1] if traces else None


def trace(f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Program:
    """The Program of a Python function of NumPy operations, traced at example arguments.

    Arguments and result are numbers, arrays, and nested tuples, lists and dicts of them. Numbers and arrays
    in the arguments become parameters with these values, integers as doubles; truth values, text, None and
    functions are fixed. Raises `ExpressionError`, with the line, where the function needs a value that only a
    solution has, as in `if x > 0`; whatever the function itself raises is passed on.

    >>> import lagrad as lg, numpy as np
    >>> program = lg.trace(lambda x, w: {"loss": np.sum((w["a"] * x) ** 2)}, np.ones(2), {"a": 3.0})
    >>> program
    Program '<lambda>': 3 parameters, 1 state, 1 constraint
      out.loss == (w.a * x[0])**2 + (w.a * x[1])**2
    >>> program.outputs
    {'loss': 'out.loss'}
    """
    check_callable("trace", f)
    return record(f, args, kwargs).program


def record(
    f: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], fixed: Sequence[bool] | None = None
) -> Trace:
    """Trace f(*args, **kwargs). `fixed`: of each argument, keywords last, whether its integers are static."""
    label = getattr(f, "__name__", type(f).__name__)
    program = Program(label)
    program.share_all = True
    made = Trace(program)
    names = [*argument_names(f, len(args)), *kwargs]
    made.roots.update({re.split(r"[.\[]", name)[0] for name in names})
    values = (*args, *kwargs.values())
    whole = [False] * len(values) if fixed is None else fixed
    given = [
        mapped(partial(_declared, program, static), name, value)
        for name, value, static in zip(names, values, whole, strict=True)
    ]
    with recording(made):
        result = f(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))
        program.inputs = {
            name: mapped(partial(_named, static), name, value)
            for name, value, static in zip(names, values, whole, strict=True)
        }
        program.outputs = mapped(partial(_defined, program), made.new_root("out"), result)
    return made


@contextmanager
def recording(trace: Trace) -> Iterator[None]:
    """Inside, what runs adds to `trace`; afterwards nothing can, and its nodes have names.

    Nothing of a graph is in a reference cycle, and a loop of scalar operations keeps millions of objects. To look
    through them for cycles again and again takes 0.6 of 1.7 µs an operation at a million, so that waits until the end.
    """
    program = trace.program
    collecting = gc.isenabled()  # False in a trace within another, and where a person switched it off
    recorder = program.graph.watch = Recorder(program.graph)
    program.graph.traced = True
    token = _ACTIVE.set((*_ACTIVE.get(), trace))
    gc.disable()
    try:
        yield
    except Exception as error:
        better = explain(error)
        if better is not None:
            raise better from error
        raise
    finally:
        if collecting:
            gc.enable()
        _ACTIVE.reset(token)
        program.graph = program.graph.handed_over(lambda: _escaped(program.name))
        program.labels = recorder.finish((*program.parameters.by_name, *program.states.by_name))


def _escaped(label: str) -> ExpressionError:
    return ExpressionError(
        f"a value from inside {label}",
        "it was made while the function was traced, and has no meaning once that has ended.",
        "Return it from the function; do not keep it in a global, a closure or an attribute.",
    )


def _declared(program: Program, fixed: bool, path: str, leaf: Any) -> Any:
    """What stands for a leaf of an argument inside the function: an array of its own, to be assigned into."""
    if is_static(leaf, fixed):
        return leaf
    declared = program.parameter(path, leaf)
    number = isinstance(leaf, np.ndarray) and not leaf.shape
    return Cell(declared.graph, declared.ids) if number else declared.copy()


def _named(fixed: bool, path: str, leaf: Any) -> str | Static:
    return Static(leaf) if is_static(leaf, fixed) else path


def _defined(program: Program, path: str, leaf: Any) -> str | None:
    if leaf is None:
        return None
    try:
        program.define(path, leaf)
    except ExpressionError as error:
        if graph_of(leaf) is None:
            raise DeclarationError(
                path, f"the function returns a {type(leaf).__name__}.", "Return numbers and arrays of them."
            ) from error
        raise
    return path


def argument_names(f: Callable[..., Any], count: int) -> list[str]:
    """Names of the first `count` positional arguments: "x", or "xs[2]" for those that `*xs` collects."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # some functions written in C do not say
        return [f"arg{k}" for k in range(count)]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "arg")
    return names + [f"{rest}[{k}]" for k in range(count - len(names))]


def zeros(shape: int | tuple[int, ...]) -> Any:
    """An array of zeros to be filled: in a traced function one that can hold traced values, else NumPy's.

    >>> import lagrad as lg, numpy as np
    >>> def running(x):
    ...     out = lg.zeros(x.shape)
    ...     for i in range(len(x)):
    ...         out[i] = x[i] + (out[i - 1] if i else 0.0)
    ...     return out
    >>> lg.jacobian(running)(np.ones(2))
    array([[1., 0.],
           [1., 1.]])
    """
    numbers = np.zeros(shape)
    going_on = active()
    if going_on is None:
        return numbers
    graph = going_on.graph
    return (
        Expression(graph, np.full(shape, graph.constant(0.0), dtype=np.int32))
        if numbers.ndim
        else lift(graph, 0.0)
    )


def _declared_number(registry: Registry, values: Sequence[Floats | None], index: int) -> float:
    k = bisect.bisect_right(registry.starts, index) - 1
    found = values[k]
    return 1.0 if found is None else float(found.flat[index - registry.starts[k]])


def evaluated(
    graph: Graph, nodes: NDArray[np.int32], parameter: Callable[[int], float], state: Callable[[int], float]
) -> Floats:
    """The values of nodes, in their shape, for values of the scalar parameters and states."""
    values: dict[int, Any] = {}
    needed, stack = set(), [int(i) for i in np.ravel(nodes)]
    while stack:
        i = stack.pop()
        if i not in needed:
            needed.add(i)
            code, a, b = graph.code[i], graph.a[i], graph.b[i]
            stack.extend(graph.args[a : a + b] if code == LINEAR else (a, b) if code >= 0 else ())
    with np.errstate(all="ignore"):
        for i in sorted(needed):  # operands have smaller numbers
            code, a, b = graph.code[i], graph.a[i], graph.b[i]
            if code == CONSTANT:
                values[i] = np.float64(graph.values[a])
            elif code == PARAMETER:
                values[i] = parameter(a)
            elif code == STATE:
                values[i] = state(a)
            elif code == LINEAR:
                values[i] = sum(graph.coefs[t] * values[graph.args[t]] for t in range(a, a + b))
            else:
                operands = (values[a],) if PRIMITIVES[code].arity == 1 else (values[a], values[b])
                values[i] = numeric(code, *operands)
    return np.array([values[int(i)] for i in np.ravel(nodes)], dtype=np.float64).reshape(np.shape(nodes))
