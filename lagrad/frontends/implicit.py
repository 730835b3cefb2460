"""Values that are defined by an equation, inside a traced function: new states, and constraints for them.

Takes a residual or a step and a guess, gives the tree of states that satisfies `residual(y) == 0` or `y ==
step(y)`. Nothing is iterated here and nothing is unrolled: the equations join the program, whose structure
says in which block they are solved, and derivatives go through the same block. Outside of a traced function
there are only numbers: then a Program is made of the equations alone and solved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lagrad.errors import DeclarationError, ShapeError
from lagrad.expr.expression import Constraint, Expression, graph_of, lift
from lagrad.expr.graph import Graph
from lagrad.frontends.lines import assignment, caller
from lagrad.frontends.trace import StatesInStep, Trace, active, recording
from lagrad.frontends.tree import is_static, mapped
from lagrad.numbers import check_callable
from lagrad.program import Program

if TYPE_CHECKING:
    from lagrad.solve import Solution


def implicit(
    residual: Callable[[Any], Any],
    guess: Any,
    *,
    name: str | None = None,
    lower: Any = None,
    upper: Any = None,
) -> Any:
    """The y with residual(y) == 0, of the structure and shapes of `guess`.

    `residual` takes y and gives as many scalars as y has, in any structure (`lhs == rhs` counts as lhs − rhs);
    it may use traced values of the
    function around it, and `implicit` again. `guess` is a number, an array, or nested tuples, lists and dicts
    of them, and where solving starts; one that depends on traced values counts with its value at the
    arguments, states within it at their own guesses. `lower` and `upper` (numbers or arrays that broadcast)
    are kept while solving. The states are called `name`, by default the variable that the result is assigned
    to.

    Inside a traced function y is a state, differentiated through the block that its equations form; elsewhere
    the equations are solved at once, and y holds numbers. Raises `ShapeError` for a wrong number of
    equations, and what `lg.build` and `System.solve` raise.

    >>> import lagrad as lg, numpy as np
    >>> def lambert(x):
    ...     return lg.implicit(lambda w: w * np.exp(w) - x, 1.0)
    >>> round(float(lambert(1.0)), 12), round(float(lg.grad(lambert)(1.0)), 12)
    (0.56714329041, 0.361896256635)
    """
    return _states("implicit", residual, guess, name, lower, upper)


def fixed_point(
    step: Callable[[Any], Any],
    guess: Any,
    *,
    name: str | None = None,
    lower: Any = None,
    upper: Any = None,
) -> Any:
    """The y with y == step(y), of the structure and shapes of `guess`.

    As `implicit`, but `step` gives a y of the same structure. The equation is solved by Newton's method, not
    by repeating the step, so the step need not contract.

    >>> import lagrad as lg, numpy as np
    >>> def dottie(a):
    ...     return lg.fixed_point(lambda y: np.cos(a * y), 0.5)
    >>> round(float(dottie(1.0)), 12), round(float(lg.grad(dottie)(1.0)), 12)
    (0.739085133215, -0.29747434151)
    """
    return _states("fixed_point", step, guess, name, lower, upper)


def _states(
    kind: str, function: Callable[[Any], Any], guess: Any, name: str | None, lower: Any, upper: Any
) -> Any:
    check_callable(kind, function)
    if name is None:
        own = getattr(function, "__name__", "y")
        target = assignment(caller())
        name = target[1] if target else (own if own.isidentifier() else "y")
    going_on = active()
    if going_on is not None:
        return _declare(going_on, kind, function, guess, name, lower, upper)
    alone = Trace(Program(name))
    with recording(alone):
        y = _declare(alone, kind, function, guess, name, lower, upper)
    from lagrad.system import build

    solution = build(alone.program).solve()
    return mapped(partial(_value, alone.program.graph, solution), name, y)


def _value(graph: Graph, solution: Solution, path: str, leaf: Expression) -> Any:
    layout = solution.layout
    index = np.frombuffer(graph.a, dtype=np.int32)[leaf.array_ids]
    return solution.v[layout.m + layout.machine.col_position[index]][()]


def _declare(
    trace: Trace, kind: str, function: Callable[[Any], Any], guess: Any, name: str, lower: Any, upper: Any
) -> Any:
    """New states like `guess`, and the constraints that `function` of them makes; returns the states."""
    if trace.steps:
        raise StatesInStep
    program, name = trace.program, trace.new_root(name)
    first = program.states.size
    y = mapped(partial(_state, trace, lower, upper), name, guess)
    unknowns = program.states.size - first
    value = function(mapped(lambda path, leaf: leaf.copy(), name, y))
    if kind == "fixed_point":
        mapped(partial(_equal, program), name, y, value)
        return y
    sides: list[tuple[str, Expression]] = []
    mapped(lambda path, leaf: sides.append((path, _lifted(program, path, leaf))), name, value)
    equations = sum(side.size for _, side in sides)
    if equations != unknowns:
        raise DeclarationError(
            name,
            f"the residual gives {equations} equation{'s' * (equations != 1)} for {unknowns} "
            f"unknown{'s' * (unknowns != 1)}.",
            "It must give as many numbers as the guess has.",
        )
    for path, side in sides:
        program.constrain(Constraint(side, lift(program.graph, 0.0)), name=path)
    return y


def _state(trace: Trace, lower: Any, upper: Any, path: str, guess: Any) -> Expression:
    program = trace.program
    if is_static(guess):
        raise DeclarationError(path, f"a guess must be numbers, got {guess!r}.")
    for bound in (lower, upper):
        if graph_of(bound) is not None:
            raise DeclarationError(path, f"the bound {bound!r} is a traced value.", "Give numbers as bounds.")
    if graph_of(guess) is None:
        return program.state(path, guess, lower=lower, upper=upper).copy()
    nodes = lift(program.graph, guess).array_ids
    start = program.states.size
    value = trace.guessed(nodes)
    if not np.isfinite(value).all():
        raise DeclarationError(path, "the guess is not finite at these arguments.", "Guess a number.")
    if lower is not None or upper is not None:
        value = np.clip(value, lower, upper)
    trace.guesses.append((start, nodes))
    return program.state(path, value, lower=lower, upper=upper).copy()


def _equal(program: Program, path: str, y: Expression, value: Any) -> None:
    step = _lifted(program, path, value)
    if step.shape != y.shape:
        raise ShapeError(f"the step of {path}", step.shape, y.shape, "It must give what it takes.")
    program.constrain(Constraint(y, step), name=path)


def _lifted(program: Program, path: str, value: Any) -> Expression:
    if is_static(value):
        raise DeclarationError(path, f"an equation must be numbers, got {value!r}.")
    if isinstance(value, Constraint):
        return lift(program.graph, value.lhs - value.rhs)
    return lift(program.graph, value)
