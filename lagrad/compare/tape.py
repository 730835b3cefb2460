"""Textbook reverse mode: a tape of every operation, and two rules. Shares nothing with the engine.

Takes a Program and numbers, gives values and adjoints of every node of its expression graph. Plain Python,
one node at a time: no lowering, no structure, no kernel, no linear algebra on the way of a program that can
be run in order. The local partials of one operation are those of the table of primitives, which its own tests
check.

    Adjoints add:          what is used twice receives from both uses.
    Multiply along edges:  a use hands down its own adjoint times its local partial.

A program that cannot be run in order has no tape from its parameters to its states. There the tape gives the
rows of R_u and R_p at a solution, one reverse pass for each constraint, and a dense solve does the rest: the
implicit function theorem as it is written, R_uᵀ λ = J_uᵀ, dJ/dp = −R_pᵀ λ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.compare.explicit import Definition, definitions, evaluation_order
from lagrad.compare.naming import parameter_vector, split
from lagrad.errors import ComparisonError
from lagrad.expr.graph import CONSTANT, LINEAR, PARAMETER, STATE
from lagrad.expr.primitives import OPCODE, PRIMITIVES
from lagrad.expr.walk import operands
from lagrad.program import Program

Floats = NDArray[np.float64]

LARGEST_DENSE: Final = (
    2000  # states of an implicit program: 2000² doubles are 32 MB, the solve takes a second
)
_CHOOSING: Final = {
    OPCODE[name] for name in ("pick", "picknot", "minimum", "maximum")
}  # one operand or the other


@dataclass(frozen=True)
class Backprop:
    """What one reverse pass gives for an output.

    value        of the output
    gradient     {parameter: array of its shape}
    multipliers  {constraint: array of its shape}
    adjoints     (nodes,) of every node of the expression graph; None where there was a dense solve
    """

    value: float
    gradient: dict[str, Any]
    multipliers: dict[str, Any]
    adjoints: Sequence[float] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Tape:
    """Values of the nodes that were run, in the order in which they were."""

    program: Program
    order: list[int]
    values: list[Any]  # (nodes,) nan where not run
    defined: Mapping[int, Definition]  # of the states that were computed; the others were given

    def reverse(self, seeds: Mapping[int, float], absolute: bool = False) -> list[Any]:
        """The adjoint of every node for the output Σ seeds[node] · node. `absolute` adds magnitudes instead.

        Nothing is handed down to what has no influence near the point, such as the branch of a `where` that was not
        taken. An adjoint that is 0 at the point alone is handed down like any other: 0 times an infinite partial,
        as for cbrt(x)**3 at 0, is nan, and no derivative.
        """
        graph = self.program.graph
        adjoint: list[Any] = [0.0] * len(graph)
        reached = [False] * len(graph)
        for node, weight in seeds.items():
            adjoint[node] += weight
            reached[node] = True
        with np.errstate(all="ignore"):
            for node in reversed(self.order):
                if not reached[node]:
                    continue
                w = adjoint[node]
                for below, partial in self.edges(node):
                    reached[below] = True
                    adjoint[below] += w * (abs(partial) if absolute else partial)
        return adjoint

    def edges(self, node: int) -> list[tuple[int, Any]]:
        """(operand, local partial) of every use that a node makes of another, where it has an influence."""
        graph = self.program.graph
        code, a, b = graph.code[node], graph.a[node], graph.b[node]
        if code == LINEAR:
            terms = zip(graph.args[a : a + b], graph.coefs[a : a + b], strict=True)
            return [(k, coef) for k, coef in terms if coef != 0.0]
        if code == STATE and a in self.defined:
            return [(self.defined[a].node, 1.0)]
        if code < 0:
            return []
        values = self.values
        below = operands(graph, node)
        x, y, r = values[below[0]], values[below[-1]], values[node]
        out = []
        for place, (k, partial) in enumerate(zip(below, _partials(code), strict=True)):
            slope = partial(x, y, r)
            other = below[1 - place] if len(below) == 2 else k
            times_zero = graph.code[other] == CONSTANT and values[other] == 0.0
            flat = PRIMITIVES[code].partials[place] == "0.0"
            if slope == 0.0 and (flat or times_zero or code in _CHOOSING):
                continue
            out.append((k, slope))
        return out


def record(
    program: Program, parameters: Mapping[str, ArrayLike] | None = None, roots: Iterable[int] | None = None
) -> Tape:
    """Run a program in order at parameter values, as far as the nodes `roots` need it; all states by default.

    Raises `ComparisonError` if what is needed is implicit or cyclic.
    """
    defined = definitions(program)
    if roots is None:
        roots = [k for leaves in _leaves(program, STATE).values() for k in leaves]
    order = evaluation_order(program, defined, roots)
    return _run(program, order, parameter_vector(program, parameters), None, defined)


def record_at(program: Program, p: Floats, u: Floats) -> Tape:
    """Evaluate both sides of every constraint at given parameters (m,) and states (n,)."""
    return _run(program, evaluation_order(program, {}, [*program.lhs, *program.rhs]), p, u, {})


def backprop(program: Program, output: str, parameters: Mapping[str, ArrayLike] | None = None) -> Backprop:
    """Value, gradient and multipliers of a scalar output of a program that can be run in order.

    >>> import lagrad as lg
    >>> from lagrad.compare.tape import backprop
    >>> program = lg.Program("square")
    >>> x = program.parameter("x", 3.0)
    >>> y = program.define("y", x * x)
    >>> found = backprop(program, "y")
    >>> float(found.value), float(found.gradient["x"])
    (9.0, 6.0)
    """
    states = _leaves(program, STATE)
    node = states[program.states.scalar_index(output, "state or definition")][0]
    tape = record(program, parameters, [node])
    adjoint = tape.reverse({node: 1.0})
    lam = np.zeros(program.constraints.size)
    for j, leaves in states.items():
        definition = tape.defined[j]
        lam[definition.constraint] = definition.sign * sum(adjoint[k] for k in leaves)
    gradient = np.zeros(program.parameters.size)
    for j, leaves in _leaves(program, PARAMETER).items():
        gradient[j] = sum(adjoint[k] for k in leaves)
    return Backprop(
        float(tape.values[node]),
        split(program.parameters, gradient),
        split(program.constraints, lam),
        adjoint,
    )


def backprop_at(program: Program, output: str, p: Floats, u: Floats) -> Backprop:
    """The same of any program at a solution p (m,), u (n,): tape for the partials, a dense solve for λ."""
    n, m = program.states.size, program.parameters.size
    if n > LARGEST_DENSE:
        raise ComparisonError("tape", f"{n} states, and a dense solve is limited to {LARGEST_DENSE}.")
    by_states, by_parameters = jacobian_rows(program, p, u)
    j = program.states.scalar_index(output, "state or definition")
    lam = np.linalg.solve(by_states.T, np.eye(1, n, j)[0])
    gradient = -(by_parameters.T @ lam) if m else np.zeros(0)
    return Backprop(float(u[j]), split(program.parameters, gradient), split(program.constraints, lam))


def jacobian_rows(program: Program, p: Floats, u: Floats) -> tuple[Floats, Floats]:
    """R_u (n, n) and R_p (n, m), dense: one reverse pass for each constraint."""
    tape = record_at(program, p, u)
    graph = program.graph
    by_states = np.zeros((len(program.lhs), program.states.size))
    by_parameters = np.zeros((len(program.lhs), program.parameters.size))
    place = {STATE: by_states, PARAMETER: by_parameters}
    for i, (lhs, rhs) in enumerate(zip(program.lhs, program.rhs, strict=True)):
        needed = evaluation_order(program, {}, [lhs, rhs])
        row = Tape(program, needed, tape.values, {})
        adjoint = row.reverse({lhs: 1.0, rhs: -1.0} if lhs != rhs else {})
        for k in needed:
            if graph.code[k] in place:
                place[graph.code[k]][i, graph.a[k]] += adjoint[k]
    return by_states, by_parameters


def _run(
    program: Program, order: list[int], p: Floats, u: Floats | None, defined: Mapping[int, Definition]
) -> Tape:
    graph = program.graph
    values: list[Any] = [math.nan] * len(graph)
    with np.errstate(all="ignore"):
        for node in order:
            code, a = graph.code[node], graph.a[node]
            if code == CONSTANT:
                values[node] = np.float64(graph.values[a])
            elif code == PARAMETER:
                values[node] = p[a]
            elif code == STATE:
                values[node] = values[defined[a].node] if u is None else u[a]
            elif code == LINEAR:
                end = a + graph.b[node]
                terms = zip(graph.coefs[a:end], graph.args[a:end], strict=True)
                values[node] = sum((c * values[k] for c, k in terms), np.float64(0.0))
            else:
                values[node] = _value(code)(values[a], values[graph.b[node]])
    return Tape(program, order, values, defined)


def _leaves(program: Program, code: int) -> dict[int, list[int]]:
    """The leaf nodes of each scalar of a kind, by its index; usually one, made where it was declared."""
    graph = program.graph
    found: dict[int, list[int]] = {}
    for node, c in enumerate(graph.code):
        if c == code:
            found.setdefault(graph.a[node], []).append(node)
    return found


# The sources of the table, for NumPy's double precision scalars: outside a domain they give nan and inf, as
# the kernels do, where Python's own floats would raise.
def _scope() -> dict[str, Any]:
    from scipy import special

    names = {"fabs": "abs", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh"}
    names |= {"acosh": "arccosh", "atanh": "arctanh", "atan2": "arctan2"}
    same = (
        "exp",
        "expm1",
        "log",
        "log10",
        "log1p",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "sinh",
        "cosh",
        "tanh",
        "hypot",
    )
    functions = {name: getattr(np, name) for name in same} | {k: getattr(np, v) for k, v in names.items()}
    return {
        "np": np,
        "math": SimpleNamespace(
            **functions, pi=math.pi, nan=math.nan, erf=special.erf, erfc=special.erfc, lgamma=special.gammaln
        ),
        "digamma": special.digamma,
        "trigamma": lambda x: special.polygamma(1, x),
        "polygamma2": lambda x: special.polygamma(2, x),
        "polygamma3": lambda x: special.polygamma(3, x),
        "expit": special.expit,
        "sech2": lambda x: 1.0 / np.cosh(x) ** 2,
        "logaddexp": np.logaddexp,
    }


@cache
def _compiled(source: str) -> Callable[..., Any]:
    """A source of the table as a function of the arguments and the value. Never a user's text."""
    scope = _scope()
    exec(f"def formula(a, b, r): return {source}", scope)
    formula: Callable[..., Any] = scope["formula"]
    return formula


@cache
def _value(code: int) -> Callable[[Any, Any], Any]:
    formula = _compiled(PRIMITIVES[code].value)
    return lambda a, b: formula(a, b, None)


@cache
def _partials(code: int) -> tuple[Callable[..., Any], ...]:
    return tuple(_compiled(source) for source in PRIMITIVES[code].partials)
