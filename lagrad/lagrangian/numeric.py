"""The Lagrangian as numbers: value, gradient, Jacobian, Hessian and KKT matrix at any (u, p, λ), solved or not.

Takes a Program and a scalar output, gives `LagrangianFunction` over flat vectors, and `LagrangianPoint`, the same at
one point by name. No matching and no blocks: constraints may be fewer or more than states. Solves nothing.

    L(u, p, λ) = J(u, p) − λᵀ R(u, p),   J one of the states, R_i = lhs_i − rhs_i
    ∇_u L = J_u − R_uᵀ λ      ∇_p L = −R_pᵀ λ      ∇_λ L = −R      A = [R_u  R_p]
    H = ∇²L over [u, p] = −Σ λ_i ∇²R_i             KKT matrix: ∇²L over [u, p, λ] = [[H, −Aᵀ], [−A, 0]]

Vectors are in the order of declaration. What lagrad keeps in hidden states (long sums inside nonlinear functions,
large values that several rows use) is a function of u and p here and is eliminated (`assembly.eliminate`), so that L,
its variables and its multipliers are those of the program as written. That can fill matrices: one row of a product W x
inside a nonlinear function has a dense Hessian over its x. With `hidden=True` these states and their constraints stand
after the declared ones instead, named ‹like this›; L then has the same stationary points and sparser matrices.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from lagrad.assembly.eliminate import (
    product_pattern,
    product_values,
    pull_back,
    total_values,
    totals_pattern,
)
from lagrad.assembly.lower import lower
from lagrad.assembly.machine import Machine, assemble, assign_rows
from lagrad.assembly.second import SecondSlots, hessian_values, second_slots
from lagrad.declared import Declared, Registry
from lagrad.errors import DeclarationError, EvaluationError, ShapeError, UnknownNameError
from lagrad.expr.graph import Graph
from lagrad.expr.text import hidden_name
from lagrad.numbers import by_name, numbers

Floats = NDArray[np.float64]
Index = NDArray[np.int32]


MOST: Final = 1 << 27  # derivatives of hidden states by others that are kept: 1.5 GB


class Declarations(Protocol):
    """What is read of a Program."""

    name: str
    graph: Graph
    parameters: Registry
    states: Registry
    constraints: Registry
    values: list[Floats | None]
    guesses: list[Floats | None]
    bounds: dict[int, tuple[Floats, Floats]]
    lhs: array[int]
    rhs: array[int]
    share_all: bool


class _Pattern(NamedTuple):
    """A CSR pattern, and where each of its entries comes from."""

    ptr: Index
    col: Index
    source: NDArray[np.int64]


class _Composition(NamedTuple):
    """The patterns of E = [I; S], of A E, of H E and of Eᵀ H E."""

    s_ptr: Index
    s_col: Index
    e: _Pattern  # source: into [ones, s]
    e_transposed: _Pattern  # source: into the values of E
    jacobian: tuple[Index, Index]
    half: tuple[Index, Index]
    hessian: tuple[Index, Index]
    mirror: NDArray[np.int64]  # where the entry (j, i) stands, for every entry (i, j) of Eᵀ H E


@dataclass(frozen=True, eq=False)
class LagrangianFunction:
    """L(u, p, λ) of a program for one output, over flat vectors u (n,), p (m,), λ (nc,). Made by `lagrangian_function`.

    Outside the domain of a function values are nan or infinite, as NumPy's are; a method that searches can step back.
    Raises `ShapeError` for a vector of the wrong length.

    >>> import lagrad as lg
    >>> program = lg.Program("cubic")
    >>> p = program.parameter("p", 2.0)
    >>> y = program.state("y", guess=1.0)
    >>> program.constrain(y**3 + y == p, name="law")
    >>> f = lg.lagrangian_function(program, "y")
    >>> f.residual([2.0], [2.0]), f.value([2.0], [2.0], [0.5])
    (array([8.]), -2.0)
    >>> f.gradient([2.0], [2.0], [0.5])
    (array([-5.5]), array([0.5]), array([-8.]))
    >>> f.kkt([2.0], [2.0], [0.5]).toarray()
    array([[ -6.,   0., -13.],
           [  0.,   0.,   1.],
           [-13.,   1.,   0.]])
    """

    name: str  # of the program
    output: int  # position of J in u
    n: int  # scalar states
    m: int  # scalar parameters
    nc: int  # scalar constraints
    #: (n,) the program's guesses; definitions have the values that follow, 1 where these are not finite
    guess: Floats = field(repr=False)
    values: Floats = field(repr=False)  # (m,) declared parameter values, nan where there is none
    lower: Floats = field(repr=False)  # (n,) bounds of the states, infinite where there are none
    upper: Floats = field(repr=False)
    _states: tuple[Declared, ...] = field(repr=False)
    _parameters: tuple[Declared, ...] = field(repr=False)
    _constraints: tuple[Declared, ...] = field(repr=False)
    _hidden_names: tuple[str, ...] = field(repr=False)  # of the hidden states that stand in u and λ
    _machine: Machine = field(repr=False)
    _inner: int = field(repr=False)  # hidden states that are eliminated; their rows and columns are the last
    _explicit: Index = field(repr=False)  # rows of definitions and hidden states, in order of evaluation

    # -- names ----------------------------------------------------------------------------------------------
    @cached_property
    def state_names(self) -> list[str]:
        """The names of the entries of u."""
        return [*_scalar_names(self._states), *self._hidden_names]

    @cached_property
    def parameter_names(self) -> list[str]:
        """The names of the entries of p."""
        return _scalar_names(self._parameters)

    @cached_property
    def constraint_names(self) -> list[str]:
        """The names of the entries of R and λ."""
        return [*_scalar_names(self._constraints), *self._hidden_names]

    def split_states(self, u: ArrayLike) -> dict[str, Any]:
        """u (n,) as {state or definition: array of its shape}."""
        return _split(_vector("u", u, self.n), self._states, self._hidden_names)

    def split_parameters(self, p: ArrayLike) -> dict[str, Any]:
        """p (m,) as {parameter: array of its shape}."""
        return _split(_vector("p", p, self.m), self._parameters, ())

    def split_constraints(self, lam: ArrayLike) -> dict[str, Any]:
        """λ or R (nc,) as {constraint or definition: array of its shape}."""
        return _split(_vector("λ", lam, self.nc), self._constraints, self._hidden_names)

    def flat_states(self, values: Mapping[str, ArrayLike]) -> Floats:
        """u (n,) from {state or definition: array}; the guess where a name is left out."""
        return _flat(values, self._states, self._hidden_names, self.guess, "state or definition")

    def flat_parameters(self, values: Mapping[str, ArrayLike]) -> Floats:
        """p (m,) from {parameter: array}; the declared value where a name is left out."""
        return _flat(values, self._parameters, (), self.values, "parameter")

    def flat_constraints(self, values: Mapping[str, ArrayLike]) -> Floats:
        """λ (nc,) from {constraint or definition: array}; 0 where a name is left out."""
        return _flat(values, self._constraints, self._hidden_names, np.zeros(self.nc), "constraint")

    def follow(self, u: ArrayLike, p: ArrayLike, given: Collection[str] = ()) -> Floats:
        """u (n,) with the values that definitions, but for those named, have at its other states and at p.

        A definition that is not finite there keeps its value.
        """
        v = np.concatenate([_vector("p", p, self.m), _vector("u", u, self.n), np.full(self._inner, np.nan)])
        keep = np.zeros(v.size, np.bool_)
        for item in self._states:
            if item.name in given:
                keep[self.m + item.start : self.m + item.start + item.size] = True
        for k, name in enumerate(self._hidden_names):
            keep[self.m + self.n - len(self._hidden_names) + k] = name in given
        which = self._explicit[~keep[self._machine.rows.lhs[self._explicit]]]
        _assign(self._machine, which, v)
        return v[self.m : self._width].copy()

    # -- values and first derivatives -----------------------------------------------------------------------
    def objective(self, u: ArrayLike, p: ArrayLike) -> float:
        """J. Shapes (n,), (m,)."""
        _vector("p", p, self.m)
        return float(_vector("u", u, self.n)[self.output])

    def objective_gradient(self, u: ArrayLike, p: ArrayLike) -> Floats:
        """∇J over [u, p], (n+m,): J is one of the states."""
        out = np.zeros(self.n + self.m)
        out[self.output] = 1.0
        return out

    def residual(self, u: ArrayLike, p: ArrayLike) -> Floats:
        """R = lhs − rhs of every constraint, (nc,)."""
        return self._machine.residual(self._point(u, p))[: self.nc]

    def value(self, u: ArrayLike, p: ArrayLike, lam: ArrayLike) -> float:
        """L = J − λᵀR."""
        return self.objective(u, p) - float(_vector("λ", lam, self.nc) @ self.residual(u, p))

    def gradient(self, u: ArrayLike, p: ArrayLike, lam: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """(∇_u L (n,), ∇_p L (m,), ∇_λ L = −R (nc,)): one reverse sweep, whatever is eliminated."""
        residual, _, data = self._machine.jacobian(self._point(u, p))
        turned, _ = self._pulled(data, _vector("λ", lam, self.nc))
        by_u = -turned[: self.n]
        by_u[self.output] += 1.0
        return by_u, -turned[self.n :], -residual[: self.nc]

    def jacobian(self, u: ArrayLike, p: ArrayLike) -> sp.csr_array:
        """A = [R_u, R_p], (nc, n+m), in CSR with a pattern that never changes."""
        ptr, col, values = self._jacobian(self._partials(u, p))
        return _matrix(values, col, ptr, (self.nc, self.n + self.m))

    # -- second derivatives ---------------------------------------------------------------------------------
    def hessian(self, u: ArrayLike, p: ArrayLike, lam: ArrayLike) -> sp.csr_array:
        """H = ∇²L over [u, p], (n+m, n+m), symmetric, in CSR with a pattern that never changes."""
        ptr, col, values = self._hessian(self._point(u, p), lam)[0]
        return _matrix(values, col, ptr, (self.n + self.m, self.n + self.m))

    def kkt(self, u: ArrayLike, p: ArrayLike, lam: ArrayLike) -> sp.csr_array:
        """∇²L over [u, p, λ]: [[H, −Aᵀ], [−A, 0]], (n+m+nc, n+m+nc), symmetric, in CSR with a fixed pattern."""
        v = self._point(u, p)
        (_, _, second), data = self._hessian(v, lam)
        first = self._jacobian(self._machine.jacobian(v)[2] if data is None else data)[2]
        pattern, size = self._kkt_pattern, self.n + self.m + self.nc
        return _matrix(
            np.concatenate([second, -first])[pattern.source], pattern.col, pattern.ptr, (size, size)
        )

    # -- how it is done -------------------------------------------------------------------------------------
    # Variables x = [u, p] and then the eliminated hidden states: N in all. The machine's own order is [p, u, hidden].
    @property
    def _width(self) -> int:
        return self.n + self.m

    def _point(self, u: ArrayLike, p: ArrayLike) -> Floats:
        """v, the machine's variables; eliminated states have their values at u and p, nan where not finite."""
        v = np.empty(self._machine.m + self.n + self._inner)
        v[: self.m], v[self.m : self._width] = _vector("p", p, self.m), _vector("u", u, self.n)
        if self._inner:
            v[self._width :] = np.nan
            _assign(self._machine, np.arange(self.nc, self.nc + self._inner, dtype=np.int32), v)
        return v

    def _partials(self, u: ArrayLike, p: ArrayLike) -> Floats:
        return self._machine.jacobian(self._point(u, p))[2]

    @cached_property
    def _place(self) -> Index:
        """The position in x of each of the machine's variables."""
        first = np.concatenate([self.n + np.arange(self.m), np.arange(self.n)])
        return np.concatenate([first, self._width + np.arange(self._inner)]).astype(np.int32)

    @cached_property
    def _all_partials(self) -> _Pattern:
        """All rows by x; source: into the machine's partials."""
        rows = self._machine.rows
        count = self.nc + self._inner
        row = np.concatenate([np.repeat(np.arange(count), np.diff(ptr)) for ptr in (rows.a_ptr, rows.b_ptr)])
        column = np.concatenate([self._place[self.m + rows.a_col], self._place[rows.b_col]])
        return _sorted_pattern(row, column, count, self._width + self._inner)

    def _pulled(self, data: Floats, lam: Floats) -> tuple[Floats, Floats]:
        """(Rᵀλ by x = [u, p] (n+m,), [λ, μ]) with hidden states eliminated."""
        pattern = self._all_partials
        multipliers = np.concatenate([lam, np.zeros(self._inner)])
        out = np.zeros(self._width + self._inner)
        pull_back(self.nc, self._width, pattern.ptr, pattern.col, data[pattern.source], multipliers, out)
        return out[: self._width], multipliers

    def _jacobian(self, data: Floats) -> tuple[Index, Index, Floats]:
        """CSR of A."""
        pattern = self._all_partials
        values = data[pattern.source]
        if not self._inner:
            return pattern.ptr, pattern.col, values
        c, end = self._composition, pattern.ptr[self.nc]
        ptr, col = c.jacobian
        out = np.empty(col.size)
        product_values(
            pattern.ptr[: self.nc + 1], pattern.col[:end], values[:end], c.e.ptr, c.e.col, self._totals(values),
            ptr, col, np.zeros(self._width), out,
        )  # fmt: skip
        return ptr, col, out

    def _totals(self, values: Floats) -> Floats:
        """The values of E, for those of all partials by x."""
        pattern, c = self._all_partials, self._composition
        s = np.empty(c.s_col.size)
        total_values(
            self.nc, self._width, pattern.ptr, pattern.col, values, c.s_ptr, c.s_col, np.zeros(self._width), s
        )
        return np.concatenate([np.ones(self._width), s])

    @cached_property
    def _second(self) -> tuple[SecondSlots, _Pattern]:
        """Slots of the lower triangle of ∇²L over all of x; the full matrix, source: into the lower triangle."""
        slots = second_slots(self._machine, self._place)
        off = np.flatnonzero(slots.row != slots.col)
        size = self._width + self._inner
        full = _sorted_pattern(
            np.concatenate([slots.row, slots.col[off]]),
            np.concatenate([slots.col, slots.row[off]]),
            size,
            size,
        )
        return slots, full._replace(source=np.concatenate([np.arange(slots.row.size), off])[full.source])

    def _hessian(self, v: Floats, lam: ArrayLike) -> tuple[tuple[Index, Index, Floats], Floats | None]:
        """CSR of H; and the machine's partials, where they were needed."""
        multipliers = _vector("λ", lam, self.nc)
        slots, full = self._second
        if not self._inner:
            return (
                full.ptr,
                full.col,
                hessian_values(self._machine, slots, v, multipliers)[full.source],
            ), None
        data = self._machine.jacobian(v)[2]
        _, multipliers = self._pulled(data, multipliers)
        h = hessian_values(self._machine, slots, v, multipliers)[full.source]
        c, row = self._composition, np.zeros(self._width)
        e = self._totals(data[self._all_partials.source])
        half, out = np.empty(c.half[1].size), np.empty(c.hessian[1].size)
        product_values(full.ptr, full.col, h, c.e.ptr, c.e.col, e, *c.half, row, half)
        turned = c.e_transposed
        product_values(turned.ptr, turned.col, e[turned.source], *c.half, half, *c.hessian, row, out)
        return (*c.hessian, 0.5 * (out + out[c.mirror])), data  # symmetric to the last bit

    @cached_property
    def _composition(self) -> _Composition:
        pattern, width, inner = self._all_partials, self._width, self._inner
        totals = totals_pattern(self.nc, width, pattern.ptr, pattern.col, MOST)
        if totals is None:
            raise DeclarationError(
                f"the Lagrangian of {self.name}",
                f"eliminating its {inner} hidden states would fill more than {MOST} entries.",
                "Keep them as states: lg.lagrangian_function(program, output, hidden=True).",
            )
        s_ptr, s_col = totals
        row = np.concatenate([np.arange(width), width + np.repeat(np.arange(inner), np.diff(s_ptr))])
        col = np.concatenate([np.arange(width), s_col])
        e, turned = (
            _sorted_pattern(row, col, width + inner, width),
            _sorted_pattern(col, row, width, width + inner),
        )
        end = pattern.ptr[self.nc]
        first = sp.csr_array(
            (np.ones(end), pattern.col[:end], pattern.ptr[: self.nc + 1]), shape=(self.nc, width + inner)
        )
        full = self._second[1]
        second = _matrix(np.ones(full.col.size), full.col, full.ptr, (width + inner, width + inner))
        by_x = _matrix(np.ones(e.col.size), e.col, e.ptr, (width + inner, width))
        half = product_pattern(second, by_x)
        ptr, col = product_pattern(
            by_x.T.tocsr(), _matrix(np.ones(half[1].size), half[1], half[0], by_x.shape)
        )
        mirror = _sorted_pattern(col, np.repeat(np.arange(width), np.diff(ptr)), width, width).source
        return _Composition(s_ptr, s_col, e, turned, product_pattern(first, by_x), half, (ptr, col), mirror)

    @cached_property
    def _kkt_pattern(self) -> _Pattern:
        """Source: into the entries of H, then those of −A."""
        full = self._composition.hessian if self._inner else self._second[1][:2]
        first = self._composition.jacobian if self._inner else self._all_partials[:2]
        (h_ptr, h_col), (a_ptr, a_col), size = full, first, self._width + self.nc
        h_row = np.repeat(np.arange(self._width), np.diff(h_ptr))
        a_row = self._width + np.repeat(np.arange(self.nc), np.diff(a_ptr))
        made = _sorted_pattern(
            np.concatenate([h_row, a_row, a_col]), np.concatenate([h_col, a_col, a_row]), size, size
        )
        source = np.concatenate([np.arange(h_col.size + a_col.size), h_col.size + np.arange(a_col.size)])
        return made._replace(source=source[made.source])


def lagrangian_function(program: Declarations, output: str, *, hidden: bool = False) -> LagrangianFunction:
    """The numeric Lagrangian of a program for the scalar `output`, a state or definition or one element ("y[3]").

    Constraints may be fewer or more than states. `hidden=True` keeps the hidden states of large shared values as
    states and constraints of their own, after the declared ones. Raises `UnknownNameError` and `ShapeError`.
    """
    index = program.states.scalar_index(output, "state or definition")
    return function_of(
        program, index, program.lhs, program.rhs, program.states.size, program.parameters.size, hidden
    )


def function_of(
    program: Declarations,
    output: int,
    left: array[int],
    right: array[int],
    n: int,
    m: int,
    hidden: bool = False,
) -> LagrangianFunction:
    """The same for a program as it was when it had these sides of constraints, n states and m parameters."""
    nc = len(left)
    lhs, rhs = (np.array(side, dtype=np.int32) for side in (left, right))
    lowered = lower(program.graph.arrays(), lhs, rhs, m, n, program.share_all)
    machine = assemble(
        lowered, np.arange(lowered.n_rows, dtype=np.int32), np.arange(lowered.n_states, dtype=np.int32), []
    )
    states, parameters, constraints = (
        tuple(item for item in registry.items if item.start + item.size <= count)
        for registry, count in ((program.states, n), (program.parameters, m), (program.constraints, nc))
    )
    values = np.full(m, np.nan)
    for item, given in zip(parameters, program.values, strict=False):
        if given is not None:
            values[item.start : item.start + item.size] = given.ravel()
    guess, low, high = np.ones(lowered.n_states), np.full(n, -np.inf), np.full(n, np.inf)
    for item, given in zip(states, program.guesses, strict=False):
        if given is not None:
            guess[item.start : item.start + item.size] = given.ravel()
    for k, (one, other) in program.bounds.items():
        if k < len(states):
            at = slice(states[k].start, states[k].start + states[k].size)
            low[at], high[at] = one.ravel(), other.ravel()
    # definitions and hidden states in order of evaluation: operands have smaller node numbers
    node = np.full(lowered.n_rows, -1, dtype=np.int64)
    node[nc:] = lowered.hidden
    for item in constraints:
        if item.defined:
            node[item.start : item.start + item.size] = lhs[item.start : item.start + item.size]
    order = np.argsort(node, kind="stable")
    explicit = order[node[order] >= 0].astype(np.int32)
    v = np.concatenate([values, guess])
    _assign(machine, explicit, v)
    inner = 0 if hidden else lowered.hidden.size
    seen = lowered.hidden.size - inner
    names = tuple(f"‹{hidden_name(program.graph, int(k))}›" for k in lowered.hidden[:seen])
    return LagrangianFunction(
        name=program.name,
        output=output,
        n=n + seen,
        m=m,
        nc=nc + seen,
        guess=v[m : m + n + seen].copy(),
        values=values,
        lower=np.concatenate([low, np.full(seen, -np.inf)]),
        upper=np.concatenate([high, np.full(seen, np.inf)]),
        _states=states,
        _parameters=parameters,
        _constraints=constraints,
        _hidden_names=_distinct(names),
        _machine=machine,
        _inner=inner,
        _explicit=explicit,
    )


@dataclass(frozen=True, eq=False)
class LagrangianPoint:
    """L and its derivatives at one point, by name; made by `Lagrangian.at`. Computed when read.

    Whatever is not finite is refused: every property raises `EvaluationError` naming a constraint that leaves the
    domain of a function. Matrices are over [u, p] in the order of declaration (`function` has the names).
    """

    function: LagrangianFunction
    u: Floats = field(repr=False)
    p: Floats = field(repr=False)
    lam: Floats = field(repr=False)

    @cached_property
    def value(self) -> float:
        """L = J − λᵀR."""
        self._check_residual()
        return self.function.value(self.u, self.p, self.lam)

    @cached_property
    def _gradient(self) -> tuple[Floats, Floats, Floats]:
        self._check_residual()
        out = self.function.gradient(self.u, self.p, self.lam)
        if not all(np.isfinite(part).all() for part in out):
            self._refuse_matrix(self.function.jacobian(self.u, self.p))
        return out

    @property
    def by_states(self) -> dict[str, Any]:
        """∂L/∂u = J_u − R_uᵀλ: {state or definition: array of its shape}."""
        return self.function.split_states(self._gradient[0])

    @property
    def by_parameters(self) -> dict[str, Any]:
        """∂L/∂p = −R_pᵀλ: {parameter: array of its shape}."""
        return self.function.split_parameters(self._gradient[1])

    @property
    def by_multipliers(self) -> dict[str, Any]:
        """∂L/∂λ = −R: {constraint: array of its shape}."""
        return self.function.split_constraints(self._gradient[2])

    @property
    def jacobian(self) -> sp.csr_array:
        """A = [R_u, R_p], (constraints, states + parameters)."""
        return self._refuse_matrix(self.function.jacobian(self.u, self.p))

    @property
    def hessian(self) -> sp.csr_array:
        """∇²L over [u, p]."""
        self._check_residual()
        return self._refuse_matrix(self.function.hessian(self.u, self.p, self.lam))

    @property
    def kkt(self) -> sp.csr_array:
        """∇²L over [u, p, λ]: [[H, −Aᵀ], [−A, 0]]."""
        self._check_residual()
        return self._refuse_matrix(self.function.kkt(self.u, self.p, self.lam))

    def _check_residual(self) -> None:
        residual = self.function.residual(self.u, self.p)
        if not np.isfinite(residual).all():
            self._refuse(int(np.flatnonzero(~np.isfinite(residual))[0]), "its residual is not finite there.")

    def _refuse_matrix(self, matrix: sp.csr_array) -> sp.csr_array:
        if np.isfinite(matrix.data).all():
            return matrix
        jacobian = self.function.jacobian(self.u, self.p)
        bad = np.flatnonzero(~np.isfinite(jacobian.data))
        row = int(np.searchsorted(jacobian.indptr, bad[0], side="right")) - 1 if bad.size else None
        self._refuse(row, "a derivative of it is not finite there.")
        return matrix

    def _refuse(self, row: int | None, reason: str) -> None:
        f = self.function
        if row is None:
            raise EvaluationError(-1, f.constraint_names[: f.nc], f.state_names, reason)
        columns = f.jacobian(self.u, self.p)[[row]].indices
        raise EvaluationError(
            -1,
            [f.constraint_names[row]],
            [f.state_names[k] for k in columns.tolist() if k < f.n],
            reason,
            "The point is outside a function's domain, or at its edge: check the states and parameters given.",
        )


def point_of(
    function: LagrangianFunction,
    states: Mapping[str, ArrayLike] | None,
    parameters: Mapping[str, ArrayLike] | None,
    multipliers: Mapping[str, ArrayLike] | None,
) -> LagrangianPoint:
    """The point of these values; what is left out follows, has its guess, its declared value, or is zero."""
    p = function.flat_parameters(parameters or {})
    if np.isnan(p).any():
        name = function.parameter_names[int(np.flatnonzero(np.isnan(p))[0])]
        raise DeclarationError(name, "this parameter has no value.", "Give one in `parameters`.")
    u = function.follow(function.flat_states(states or {}), p, states or ())
    return LagrangianPoint(function, u, p, function.flat_constraints(multipliers or {}))


def _assign(machine: Machine, which: Index, v: Floats) -> None:
    """Give the states of explicit rows their values in v, where these are finite."""
    if which.size:
        assign_rows(which, machine.tapes, machine.terms, machine.rows, np.empty(machine.registers), v)


def _sorted_pattern(row: NDArray[Any], col: NDArray[Any], n_rows: int, n_cols: int) -> _Pattern:
    """CSR of entries given in any order, no two the same."""
    order = np.argsort(row.astype(np.int64) * n_cols + col, kind="stable")
    ptr = np.zeros(n_rows + 1, np.int32)
    np.cumsum(np.bincount(row, minlength=n_rows), out=ptr[1:])
    return _Pattern(ptr, col[order].astype(np.int32), order)


def _matrix(values: Floats, col: Index, ptr: Index, shape: tuple[int, int]) -> sp.csr_array:
    """A matrix whose pattern is its own: SciPy changes patterns in place."""
    return sp.csr_array((values, col.copy(), ptr.copy()), shape=shape)


def _vector(what: str, given: ArrayLike, size: int) -> Floats:
    out = np.ascontiguousarray(given, dtype=np.float64)
    if out.shape != (size,):
        raise ShapeError(what, out.shape, (size,))
    return out


def _scalar_names(items: Sequence[Declared]) -> list[str]:
    return [item.element(k) for item in items for k in range(item.size)]


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(out)


def _split(x: Floats, items: Sequence[Declared], hidden: Sequence[str]) -> dict[str, Any]:
    out = {i.name: x[i.start : i.start + i.size].reshape(i.shape)[()] for i in items}
    return out | dict(zip(hidden, x[x.size - len(hidden) :], strict=True))


def _flat(
    values: Mapping[str, ArrayLike],
    items: Sequence[Declared],
    hidden: Sequence[str],
    default: Floats,
    role: str,
) -> Floats:
    out = default.copy()
    places = {item.name: (item.start, item.shape) for item in items}
    places |= {name: (default.size - len(hidden) + k, ()) for k, name in enumerate(hidden)}
    for name, value in by_name(f"the values of each {role}", values):
        if name not in places:
            raise UnknownNameError(name, role, list(places))
        start, shape = places[name]
        given = numbers(name, value, shape).ravel()
        out[start : start + given.size] = given
    return out
