"""The Lagrangian of a program as an object that can be read, as text, as LaTeX, as a SymPy expression, and evaluated.

Takes the graph, the two sides of every constraint and an output, by number; names come from the graph. Solves
nothing; its numbers, at any point, are those of `numeric`.

    L(u, p, λ) = J − Σ_i λ_i R_i,   R_i = lhs_i − rhs_i
    ∂L/∂λ = 0   the constraints            ∂L/∂u = 0   the adjoint equations            ∂L/∂p   the gradient

Only the partials of one constraint by the variables that it mentions are ever formed; the linear system that
the adjoint equations are does the rest. That is why they stay as short as the program, however deep it is.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import ArrayLike

from lagrad.errors import DeclarationError
from lagrad.expr.graph import PARAMETER, STATE, Graph
from lagrad.expr.symbolic import node_sympy, partial, symbol
from lagrad.expr.walk import leaves, written_size
from lagrad.lagrangian import latex, text
from lagrad.lagrangian.equations import Column, Equations, Row, multiplier_name

if TYPE_CHECKING:
    from lagrad.lagrangian.numeric import LagrangianFunction, LagrangianPoint

SHOWN: Final = (
    40  # constraints, states and parameters that `lagrad show` writes out; nobody reads more of them
)
SEARCHED: Final = 2_000  # constraints looked through for the adjoint equations of the states shown
MAX_DIFFERENTIATED: Final = 400  # operations of a constraint that SymPy differentiates, to be read


@dataclass(frozen=True, eq=False)
class Lagrangian:
    """L = J − Σ λ_i (lhs_i − rhs_i) of a program, for one output or for any J. Made by `Program.lagrangian`.

    >>> import lagrad as lg
    >>> program = lg.Program("cubic")
    >>> p = program.parameter("p", 2.0)
    >>> y = program.state("y", guess=1.0)
    >>> program.constrain(y**3 + y == p, name="law")
    >>> print(program.lagrangian("y"))
    L = y
      - λ_law*(y**3 + y - p)
    >>> program.lagrangian("y").sympy()
    y - λ_law*(-p + y**3 + y)
    """

    name: str  # of the program
    graph: Graph = field(repr=False)
    lhs: array[int] = field(repr=False)  # per scalar constraint, the node of its left side
    rhs: array[int] = field(repr=False)
    n_states: int
    n_parameters: int
    output: int | None = None  # scalar state; None: any J

    def text(self) -> str:
        """L as text, a constraint to a line."""
        return "\n".join(text.lagrangian_lines(self._equations(None, partials=False)))

    def latex(self) -> str:
        """L as LaTeX (amsmath)."""
        return "\n".join(latex.lagrangian_latex(self._equations(None, partials=False)))

    def sympy(self) -> Any:
        """L as a SymPy expression over symbols λ_<constraint>; J is a symbol where it is left open."""
        import sympy

        terms = (-symbol(multiplier_name(row.name)) * self._residual(row) for row in self._rows(None))
        return sympy.Add(symbol(self._output_name or "J"), *terms)

    def at(
        self,
        states: Mapping[str, ArrayLike] | None = None,
        parameters: Mapping[str, ArrayLike] | None = None,
        multipliers: Mapping[str, ArrayLike] | None = None,
    ) -> LagrangianPoint:
        """L and its derivatives at any point, solved or not; constraints may be fewer or more than states.

        Each of the three is {name: array of its shape}. Left out, a definition has the value that follows from the
        other states, a state its guess, a parameter its declared value, a multiplier 0. The result has `value`,
        `by_states`, `by_parameters`, `by_multipliers` (by name) and the sparse `jacobian`, `hessian` and `kkt`. Raises
        `UnknownNameError`, `ShapeError`, `DeclarationError` for the arguments; the result raises `EvaluationError`
        where something is not finite.

        >>> import lagrad as lg
        >>> program = lg.Program("cubic")
        >>> p = program.parameter("p", 2.0)
        >>> y = program.state("y", guess=1.0)
        >>> program.constrain(y**3 + y == p, name="law")
        >>> point = program.lagrangian("y").at({"y": 2.0}, multipliers={"law": 0.5})
        >>> point.value, point.by_states, point.by_multipliers
        (-2.0, {'y': np.float64(-5.5)}, {'law': np.float64(-8.0)})
        >>> point.hessian.toarray()
        array([[-6.,  0.],
               [ 0.,  0.]])
        """
        from lagrad.lagrangian.numeric import point_of

        return point_of(self._function, states, parameters, multipliers)

    @cached_property
    def _function(self) -> LagrangianFunction:
        from lagrad.lagrangian.numeric import function_of

        if self.output is None:
            raise DeclarationError(
                f"the Lagrangian of {self.name}",
                "J is left open.",
                "Name an output: program.lagrangian('obj').",
            )
        sizes = self.n_states, self.n_parameters
        return function_of(self.graph.names, self.output, self.lhs, self.rhs, *sizes)

    def adjoint_equations(self) -> AdjointEquations:
        """∂L/∂u = 0 for every state, and ∂L/∂p, the gradient."""
        return AdjointEquations(self)

    def equations(self) -> Equations:
        """All that `lagrad show` writes out: the first `SHOWN` of each kind, in the order of declaration."""
        return self._equations(SHOWN, partials=len(self.lhs) <= SEARCHED)

    @property
    def _output_name(self) -> str | None:
        return None if self.output is None else str(self.graph.names.state_name(self.output))

    def _rows(self, limit: int | None) -> Iterator[Row]:
        for i in range(len(self.lhs) if limit is None else min(limit, len(self.lhs))):
            yield Row(self.graph.names.constraint_name(i), self.lhs[i], self.rhs[i])

    def _residual(self, row: Row) -> Any:
        return node_sympy(self.graph, row.lhs) - node_sympy(self.graph, row.rhs)

    def _equations(self, limit: int | None, partials: bool) -> Equations:
        columns = self._columns(limit, MAX_DIFFERENTIATED) if partials else {}
        return Equations(
            self.name, self.graph, self._output_name, tuple(self._rows(limit)), columns.get(STATE),
            columns.get(PARAMETER), len(self.lhs), self.n_states, self.n_parameters, self._example(),
        )  # fmt: skip

    def _example(self) -> str | None:
        """The first scalar definition: constraint and state of one name."""
        names = self.graph.names
        for i, lhs in enumerate(self.lhs):
            if self.graph.code[lhs] == STATE:
                name = names.constraint_name(i)
                if name == names.state_name(self.graph.a[lhs]) and not name.endswith("]"):
                    return str(name)
        return None

    def _columns(self, limit: int | None, longest: int | None) -> dict[int, tuple[Column, ...]]:
        """The partials of every residual, by the states and by the parameters that it mentions.

        limit: states and parameters wanted; longest: operations of a constraint that is differentiated.
        """
        names = self.graph.names
        kinds = (
            (STATE, names.state_name, self.n_states),
            (PARAMETER, names.parameter_name, self.n_parameters),
        )
        found: dict[int, list[list[tuple[str, Any]]]] = {
            code: [[] for _ in range(count if limit is None else min(count, limit))]
            for code, _, count in kinds
        }
        for row in self._rows(None):
            residual: Any = None
            for code, name_of, _ in kinds:
                for k in sorted({*leaves(self.graph, row.lhs, code), *leaves(self.graph, row.rhs, code)}):
                    if k >= len(found[code]):
                        continue
                    if longest is not None and self._size(row) > longest:
                        found[code][k].append((row.name, None))
                        continue
                    if residual is None:
                        residual = self._residual(row)
                    slope = partial(residual, name_of(k))
                    if slope != 0:
                        found[code][k].append((row.name, slope))
        return {
            code: tuple(
                Column(name_of(k), tuple(terms), self._output_slope(code, k))
                for k, terms in enumerate(found[code])
            )
            for code, name_of, _ in kinds
        }

    def _output_slope(self, code: int, k: int) -> int | None:
        """∂J/∂x: an output is a state. None where it is left open."""
        return None if self.output is None else int(code == STATE and k == self.output)

    def _size(self, row: Row) -> int:
        return written_size(self.graph, row.lhs) + written_size(self.graph, row.rhs)

    def __str__(self) -> str:
        return self.text()


@dataclass(frozen=True, eq=False)
class AdjointEquations:
    """∂L/∂u = 0, one equation per state, linear in the multipliers; and the gradient ∂L/∂p that they lead to.

    >>> import lagrad as lg
    >>> program = lg.Program("cubic")
    >>> p = program.parameter("p", 2.0)
    >>> y = program.state("y", guess=1.0)
    >>> program.constrain(y**3 + y == p, name="law")
    >>> print(program.adjoint_equations("y"))
    y:  λ_law*(3*y**2 + 1) = 1
    dy/dp = λ_law
    >>> program.adjoint_equations("y").sympy()
    {'y': Eq(λ_law*(3*y**2 + 1), 1)}
    """

    of: Lagrangian

    def text(self) -> str:
        """The equations, then the gradient, as text."""
        written = self.of._equations(None, partials=True)
        return "\n".join([*text.adjoint_lines(written), *text.gradient_lines(written)])

    def latex(self) -> str:
        """The equations, then the gradient, as LaTeX (amsmath)."""
        written = self.of._equations(None, partials=True)
        return "\n".join([*latex.adjoint_latex(written), *latex.gradient_latex(written)])

    def sympy(self) -> dict[str, Any]:
        """{state: Eq(Σ λ_i ∂R_i/∂state, ∂J/∂state)} for every scalar state."""
        import sympy

        return {
            c.name: sympy.Eq(_total(c), _output_slope(c), evaluate=False)
            for c in self.of._columns(None, None)[STATE]
        }

    def gradient(self) -> dict[str, Any]:
        """{parameter: ∂J/∂parameter − Σ λ_i ∂R_i/∂parameter} for every scalar parameter."""
        return {c.name: _output_slope(c) - _total(c) for c in self.of._columns(None, None)[PARAMETER]}

    def __str__(self) -> str:
        return self.text()


def _total(column: Column) -> Any:
    import sympy

    return sympy.Add(*(slope * symbol(multiplier_name(name)) for name, slope in column.partials))


def _output_slope(column: Column) -> Any:
    import sympy

    if column.output_slope is None:
        return symbol(f"∂J/∂{column.name}")
    return sympy.Integer(column.output_slope)
