"""Program: what the user declares. Parameters, states, constraints, definitions, scopes.

Takes names, shapes, values and expressions, gives a list of declarations over one expression graph. It checks
what the user says (names, shapes, finiteness) and computes nothing; `lagrad.build` turns it into a System.
"""

from __future__ import annotations

import math
import operator
import reprlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.declared import Declared as Declared
from lagrad.declared import Registry as Registry
from lagrad.declared import element_name as element_name
from lagrad.errors import DeclarationError, ShapeError
from lagrad.expr.expression import Constraint, Expression, lift
from lagrad.expr.graph import PARAMETER, STATE, Graph

if TYPE_CHECKING:
    from lagrad.lagrangian.lagrangian import AdjointEquations, Lagrangian

Floats = NDArray[np.float64]

_MOST = 2**31 - 1  # nodes are numbered by 32-bit integers


class Program:
    """A set of equality constraints between parameters and states, declared one by one.

    >>> import lagrad as lg
    >>> program = lg.Program("half")
    >>> x = program.parameter("x", 3.0)
    >>> y = program.state("y", guess=1.0)
    >>> program.constrain(y * y == x, name="root")
    >>> double = program.define("double", 2 * y)
    >>> program
    Program 'half': 1 parameter, 2 states, 2 constraints
      root: y * y == x
      double == 2 * y
    """

    def __init__(self, name: str = "program") -> None:
        if not isinstance(name, str):
            raise DeclarationError(repr(name), "a program's name must be text.")
        self.name = name
        self.graph = Graph()
        self.graph.names = self
        self.parameters = Registry()
        self.states = Registry()
        self.constraints = Registry()
        self.values: list[Floats | None] = []  # per parameter; None: must be given to solve
        self.guesses: list[Floats | None] = []  # per state; None: a definition, which needs none
        self.bounds: dict[int, tuple[Floats, Floats]] = {}  # per bounded state, by position
        self.scales: dict[int, Floats] = {}  # per state whose typical size was given, by position
        self.lhs = array("i")  # per scalar constraint, the node of its left side
        self.rhs = array("i")
        #: every value used twice becomes a state (traced functions), not only large ones
        self.share_all = False
        self.labels: Mapping[int, str] = {}  # names of nodes that are not declared, such as Python variables
        #: of a traced function: its arguments, with parameter names in place of numbers
        self.inputs: Any = None
        self.outputs: Any = None  # of a traced function: its result, with names of definitions in it
        self._prefix = ""
        self._unnamed = 0

    # -- declaring ----------------------------------------------------------------------------------------
    def parameter(
        self, name: str, value: ArrayLike | None = None, *, shape: int | tuple[int, ...] | None = None
    ) -> Expression:
        """Declare a parameter: given, not solved for.

        `value` (any shape) is used when `solve` is not told another; with `shape` alone the parameter has no
        value and `solve` must be given one. Raises `DeclarationError` for a name in use or a value that is
        not a finite real number, `ShapeError` where value and shape disagree.
        """
        name = self._new_name(name)
        if value is None and shape is None:
            raise DeclarationError(
                name, "a parameter needs a value or a shape.", "Write parameter(name, 1.0)."
            )
        values = None if value is None else _numbers(name, value, shape)
        item = self.parameters.add(name, _shape(name, shape) if values is None else values.shape)
        self.values.append(values)
        return self._leaves(PARAMETER, item)

    def state(
        self,
        name: str,
        guess: ArrayLike | None = None,
        *,
        shape: int | tuple[int, ...] | None = None,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
        scale: ArrayLike | None = None,
    ) -> Expression:
        """Declare a state: an unknown that the constraints determine.

        `guess` (any shape) is where solving starts, 1.0 if left out; `lower` and `upper` (broadcast to the
        shape) are never left while solving. `scale`: the typical size, against which steps are measured while
        the state is smaller than that; by default the largest magnitude in the guess, or 1. Raises
        `DeclarationError` and `ShapeError` as `parameter` does.
        """
        name = self._new_name(name)
        given = guess if guess is not None else (1.0 if shape is None else np.ones(_shape(name, shape)))
        values = _numbers(name, given, shape)
        if lower is not None or upper is not None:
            low = _bound(name, "lower bound", lower, -np.inf, values.shape)
            high = _bound(name, "upper bound", upper, np.inf, values.shape)
            if not (low < high).all():
                raise DeclarationError(name, "a lower bound is not below its upper bound.")
            if guess is None:
                values = np.clip(values, low, high)
            elif not ((low <= values) & (values <= high)).all():
                raise DeclarationError(
                    name, "the guess lies outside the bounds.", "Give a guess between them."
                )
            self.bounds[len(self.states.items)] = (low, high)
        if scale is not None:
            sizes = _bound(name, "scale", scale, 1.0, values.shape)
            if not ((sizes > 0.0) & np.isfinite(sizes)).all():
                raise DeclarationError(name, "a scale is not positive and finite.")
            self.scales[len(self.states.items)] = sizes
        item = self.states.add(name, values.shape)
        self.guesses.append(values)
        return self._leaves(STATE, item)

    def constrain(self, constraint: Constraint, name: str | None = None) -> None:
        """Declare that the two sides of `constraint` are equal, element by element.

        Without a name the constraint is called c0, c1, … by position. Its residual is lhs − rhs. Raises
        `DeclarationError` for anything but a Constraint and for a name in use.
        """
        if not isinstance(constraint, Constraint):
            what = (
                "a truth value"
                if isinstance(constraint, (bool, np.bool_))
                else f"a {type(constraint).__name__}"
            )
            raise DeclarationError(
                name or "constrain",
                f"a constraint was expected, got {what}.",
                "Write constrain(lhs == rhs) with a parameter or a state in it.",
            )
        self._own(constraint.lhs, name or "constrain")
        if name is None:
            while f"{self._prefix}c{self._unnamed}" in self.constraints.by_name:
                self._unnamed += 1
            name = f"c{self._unnamed}"
            self._unnamed += 1
        name = self._new_name(name, constraint=True)
        self.constraints.add(name, constraint.shape)
        _extend(self.lhs, constraint.lhs)
        _extend(self.rhs, constraint.rhs)

    def define(self, name: str, value: Any) -> Expression:
        """Declare a state by what it equals: an explicit constraint and an output, both called `name`.

        Returns the new state. Raises `DeclarationError` for a name in use.
        """
        value = lift(self.graph, value)
        name = self._new_name(name)
        if name in self.constraints.by_name:
            raise DeclarationError(name, "a constraint already has this name.", "Choose another name.")
        item = self.states.add(name, value.shape, defined=True)
        self.guesses.append(None)
        self.constraints.add(name, value.shape, defined=True)
        out = self._leaves(STATE, item)
        _extend(self.lhs, out)
        _extend(self.rhs, value)
        return out

    @contextmanager
    def scope(self, name: str) -> Iterator[Program]:
        """Prefix every name declared inside with `name.`; scopes nest.

        >>> import lagrad as lg
        >>> program = lg.Program()
        >>> with program.scope("tank"):
        ...     level = program.state("level", guess=2.0)
        >>> level
        tank.level
        """
        if not isinstance(name, str) or not name:
            raise DeclarationError(repr(name), "a scope's name must be text that is not empty.")
        before = self._prefix
        self._prefix = f"{before}{name}."
        try:
            yield self
        finally:
            self._prefix = before

    # -- the mathematics, to be read -------------------------------------------------------------------------
    def lagrangian(self, output: str | None = None) -> Lagrangian:
        """L = J − Σ λ_i (lhs_i − rhs_i), as text, LaTeX or SymPy; J is the scalar `output`, or left open.

        `output` names a state or definition, or one element ("y[3]"). Raises `UnknownNameError` and
        `ShapeError`.
        """
        from lagrad.lagrangian.lagrangian import Lagrangian

        index = None if output is None else self.states.scalar_index(output, "state or definition")
        sides = array("i", self.lhs), array("i", self.rhs)
        return Lagrangian(self.name, self.graph, *sides, self.states.size, self.parameters.size, index)

    def adjoint_equations(self, output: str | None = None) -> AdjointEquations:
        """∂L/∂state = 0, which determines the multipliers, and the gradient that they give."""
        return self.lagrangian(output).adjoint_equations()

    #: what `to_callable` calls; set by the package, since the comparisons with other libraries are no part of programs
    callable_maker: ClassVar[Callable[..., Callable[..., dict[str, Any]]]]

    def to_callable(self, backend: str, *, at: Any = None) -> Callable[..., dict[str, Any]]:
        """This program as a function of another library: see `lagrad.to_callable`.

        >>> import lagrad as lg
        >>> lg.trace(lambda x: x * x, 3.0).to_callable("sympy")()["out"]
        x**2
        """
        return Program.callable_maker(self, backend, at=at)

    # -- names ----------------------------------------------------------------------------------------------
    def parameter_name(self, index: int) -> str:
        """The name of scalar parameter `index`."""
        return self.parameters.scalar_name(index)

    def state_name(self, index: int) -> str:
        """The name of scalar state `index`."""
        return self.states.scalar_name(index)

    def constraint_name(self, index: int) -> str:
        """The name of scalar constraint `index`."""
        return self.constraints.scalar_name(index)

    def _new_name(self, name: Any, constraint: bool = False) -> str:
        if not isinstance(name, str) or not name:
            raise DeclarationError(repr(name), "a name must be text that is not empty.")
        name = self._prefix + name
        if constraint:
            taken = name in self.constraints.by_name
        else:
            taken = name in self.parameters.by_name or name in self.states.by_name
        if taken:
            raise DeclarationError(
                name,
                "this name is already in use.",
                "Choose another, or open a scope: with program.scope('…').",
            )
        return name

    def _own(self, x: Expression, name: str) -> None:
        if x.graph.is_inside(self.graph):
            lift(self.graph, x)  # says why not
        if x.graph is not self.graph:
            raise DeclarationError(
                name, "the expression belongs to another Program.", "Declare both in one Program."
            )

    def _leaves(self, code: int, item: Declared) -> Expression:
        if not item.shape:
            return Expression(self.graph, self.graph.node(code, item.start, 0))
        index = np.arange(item.start, item.start + item.size, dtype=np.int32).reshape(item.shape)
        ids = self.graph.nodes(code, index, np.zeros_like(index))
        ids.setflags(write=False)
        return Expression(self.graph, ids)

    def __repr__(self) -> str:
        from lagrad.expr.text import node_text

        counts = [
            f"{n} {word}{'s' * (n != 1)}"
            for n, word in (
                (self.parameters.size, "parameter"),
                (self.states.size, "state"),
                (self.constraints.size, "constraint"),
            )
        ]
        lines = [f"Program {self.name!r}: {', '.join(counts)}"]
        shared = self.shared()
        if shared:
            lines[0] += f"; {len(shared)} shared value{'s' * (len(shared) != 1)}"
        limit = 24
        for node in list(shared)[:limit]:
            lines.append(f"  {shared[node]} == {node_text(self.graph, node, named=shared)}")
        if len(shared) > limit:
            lines.append(f"  … and {len(shared) - limit} more shared values")
        for i in range(min(len(self.lhs), limit)):
            name, text = self.constraint_name(i), node_text(self.graph, self.rhs[i], named=shared)
            left = node_text(self.graph, self.lhs[i], named=shared)
            if i < len(self.rhs) and self.rhs[i] in shared:
                text = shared[self.rhs[i]]
            lines.append(f"  {left} == {text}" if left == name else f"  {name}: {left} == {text}")
        if len(self.lhs) > limit:
            lines.append(f"  … and {len(self.lhs) - limit} more")
        return "\n".join(lines)

    def shared(self) -> dict[int, str]:
        """Of a traced function: {node: name} of every operation that is used twice or more, in order of evaluation.

        Each of them is a state of its own, hidden, with an explicit constraint: `solution.hidden` has their values.
        Empty for programs that were declared.
        """
        from lagrad.expr.text import hidden_name
        from lagrad.expr.walk import shared

        if not self.share_all:
            return {}
        return {node: hidden_name(self.graph, node) for node in shared(self.graph, self.lhs, self.rhs)}


def _extend(nodes: array[int], x: Expression) -> None:
    if type(x.ids) is int:
        nodes.append(x.ids)
    else:
        nodes.frombytes(np.ascontiguousarray(x.ids, dtype=np.int32).tobytes())


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    try:
        out = tuple(operator.index(k) for k in ((shape,) if np.ndim(shape) == 0 else shape))
    except (TypeError, ValueError):
        out = (-1,)
    if any(k < 0 for k in out):
        raise DeclarationError(
            name, f"{shape!r} is not a shape.", "Give whole numbers, such as (3,) or (2, 5)."
        )
    if math.prod(out) > _MOST:
        raise DeclarationError(name, f"an array of shape {out} has more than {_MOST} elements.")
    return out


def _numbers(name: str, value: Any, shape: Any = None) -> Floats:
    """`value` as finite doubles of its own or the stated shape; never shares memory with the user's array."""
    if isinstance(value, Expression):
        raise DeclarationError(
            name, "numbers were expected, got an expression.", "Use define for expressions."
        )
    try:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "fiub":
            raise TypeError
        numbers = np.array(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        raise DeclarationError(
            name, f"{reprlib.repr(value)} is not a real number in double precision, or an array of them."
        ) from None
    if not np.isfinite(numbers).all():
        raise DeclarationError(name, "the value is not finite.", "Give finite numbers.")
    if shape is not None:
        target = _shape(name, shape)
        try:
            numbers = np.broadcast_to(numbers, target).copy()
        except ValueError:
            raise ShapeError(name, numbers.shape, target) from None
    return numbers


def _bound(name: str, side: str, value: Any, default: float, shape: tuple[int, ...]) -> Floats:
    try:
        bound = np.array(default if value is None else value, dtype=np.float64)
        bound = np.broadcast_to(bound, shape).copy()
    except (TypeError, ValueError):
        raise DeclarationError(name, f"the {side} {value!r} does not fit the shape {shape}.") from None
    if np.isnan(bound).any():
        raise DeclarationError(name, f"the {side} is nan.", "Leave it out where there is none.")
    return bound
