"""A program as a function of another library: run by its operations, differentiable by its rules.

Takes a Program and the name of a library, gives a callable from parameters to states. A program that can be
run in order is run; any other one needs a solution (`at`), from which the callable takes one Newton step in
the library's own arithmetic: u − R_u(u, p)⁻¹ R(u, p). At the solution's parameters that is the solution, and
its derivative by p is exactly that of the implicit function theorem, −R_u⁻¹ R_p, however the library
differentiates; elsewhere its error is of second order in the distance from those parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lagrad.compare.explicit import Definition, definitions
from lagrad.compare.libraries import Library, Sympy, library
from lagrad.compare.naming import point_of, program_of
from lagrad.compare.schedule import GIVEN, Schedule, schedule
from lagrad.errors import ComparisonError, DeclarationError, ShapeError, UnknownNameError
from lagrad.expr.symbolic import symbol
from lagrad.numbers import check_kind
from lagrad.program import Program
from lagrad.solve import Solution

Floats = NDArray[np.float64]

LARGEST_DENSE: Final = 500  # states of an implicit program: its R_u is a dense array in the other library


def to_callable(
    program: Program, backend: str, *, at: Solution | None = None
) -> Callable[..., dict[str, Any]]:
    """The program as f(parameters) -> {state: array}, in "numpy", "autograd", "jax", "torch", "casadi" or
    "sympy".

    `parameters` is {name: array of the library}; those left out keep their declared values (in SymPy:
    symbols). For an implicit or cyclic program give the solution `at` which it is wanted: values and first
    derivatives are exact there. Raises `ComparisonError` where the library is not installed or cannot run the
    program.

    >>> import lagrad as lg
    >>> program = lg.Program("square")
    >>> x = program.parameter("x", 3.0)
    >>> y = program.define("y", x * x)
    >>> lg.to_callable(program, "sympy")()["y"]
    x**2
    """
    into = library(backend)
    if at is None:
        defined = definitions(program)
        return _Function(program, into, None, explicit(program, into, range(program.states.size), defined))
    check_kind("at", at, Solution)
    if program_of(at) is not program:
        raise DeclarationError("at", "the solution is of another program.", "Solve this one.")
    p, u = point_of(at)
    return _Function(program, into, p, at_solution(program, into, p, u))


def explicit(
    program: Program, into: Library, states: Iterable[int], defined: dict[int, Definition] | None = None
) -> Callable[[Any], Any]:
    """Scalar states (k,) of a program that is run in order as a function of p (m,), arrays of the library."""
    defined = definitions(program) if defined is None else defined
    steps = schedule(program, defined, [defined[j].node for j in states])
    return lambda p: run(steps, into, p, into.vector(np.empty(0)))


def at_solution(program: Program, into: Library, p: Floats, u: Floats) -> Callable[[Any], Any]:
    """All scalar states (n,) as a function of p (m,): one Newton step from the solution p, u."""
    n = u.size
    if n > LARGEST_DENSE:
        raise ComparisonError(
            "to_callable", f"{n} states, and an implicit program is limited to {LARGEST_DENSE} here."
        )
    sides = schedule(program, {}, [*program.lhs, *program.rhs])

    def states(p: Any) -> Any:
        def residual(u: Any) -> Any:
            both = run(sides, into, p, u)
            return into.take(both, np.arange(n)) - into.take(both, np.arange(n, 2 * n))

        return into.newton_step(residual, u)

    return states


class _Function:
    """Parameters in and states out, by name."""

    def __init__(
        self, program: Program, into: Library, p: Floats | None, states: Callable[[Any], Any]
    ) -> None:
        self.program, self.library, self.p, self.states = program, into, p, states

    def __call__(self, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if not isinstance(parameters, Mapping | None):
            raise ComparisonError(
                "to_callable", f"it takes {{parameter: value}}, not a {type(parameters).__name__}."
            )
        u = self.states(self.parameters(parameters or {}))
        take, reshape = self.library.take, self.library.reshape
        out = {}
        for item in self.program.states.items:
            part = take(u, np.arange(item.start, item.start + item.size))
            out[item.name] = reshape(part, item.shape) if item.shape else part[0]
        return out

    def parameters(self, given: Mapping[str, Any]) -> Any:
        """p (m,) as the library's array."""
        program = self.program
        for name in given:
            if name not in program.parameters.by_name:
                raise UnknownNameError(name, "parameter", list(program.parameters.by_name))
        parts = [self.library.vector(np.empty(0))]
        for item, declared in zip(program.parameters.items, program.values, strict=True):
            if self.p is not None:
                declared = self.p[item.start : item.start + item.size]
            value = given.get(item.name, declared)
            if isinstance(self.library, Sympy) and item.name not in given:
                value = [symbol(item.element(k)) for k in range(item.size)]
            if value is None:
                raise DeclarationError(item.name, "this parameter has no value.", "Give one.")
            part = self.library.vector(value)
            if part.shape[0] != item.size:
                raise ShapeError(item.name, np.shape(value), item.shape)
            parts.append(part)
        return self.library.join(parts)


def run(steps: Schedule, into: Library, p: Any, u: Any) -> Any:
    """The outputs of a schedule at p and u, arrays of the library."""
    made = [into.vector(steps.constants), p, u]
    assert len(made) == GIVEN

    def gather(wanted: Any) -> Any:
        parts = [
            made[step] if positions is None else into.take(made[step], positions)
            for step, positions in wanted.sources
        ]
        joined = parts[0] if len(parts) == 1 else into.join(parts) if parts else into.vector(np.empty(0))
        return joined if wanted.order is None else into.take(joined, wanted.order)

    for step in steps.steps:
        arguments = [gather(wanted) for wanted in step.operands]
        if step.coefs is not None:
            made.append(into.linear(step.coefs, arguments[0]))
        else:
            made.append(into.apply(step.code, *arguments))
    return gather(steps.outputs)
