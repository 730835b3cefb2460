"""A program as a flat optimisation problem: what every method of `lagrad.minimize` works on.

Takes a `LagrangianFunction`, the parameters that may move and what is asked of states; gives values, gradients and
sparse matrices over one vector x = [states, free parameters]. Knows no method.

    minimise J(x)   subject to   C(x) = 0,   lower <= x <= upper
    C = [R; u_k − target_k]          R: the program's constraints, then the equalities asked for
    L = J − λᵀC − zᵀ(x − bound)      stationary: ∇J − Aᵀλ − z = 0;  z >= 0 at lower, <= 0 at upper bounds

States are variables here, so an inequality on a state or a definition is a bound on a variable. An output that is a
definition used nowhere else is substituted, J = f instead of obj with obj == f: its multiplier is 1 and the method
sees the objective itself, nonlinear as it is, not a straight line with a constraint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import splu

from lagrad.errors import DeclarationError, ShapeError, UnknownNameError
from lagrad.lagrangian.numeric import LagrangianFunction, lagrangian_function

if TYPE_CHECKING:
    from lagrad.program import Program, Registry

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Bounds = Mapping[str, tuple[ArrayLike | None, ArrayLike | None]]

SMALL = 1e-3  # slopes of an objective below which tolerances, which are for slopes of 1, would call it flat


@dataclass(frozen=True, eq=False)
class Problem:
    """minimise J(x) subject to C(x) = 0 and lower <= x <= upper, over N variables with M constraints."""

    f: LagrangianFunction = field(repr=False)
    output: str
    p: Floats = field(repr=False)  # (m,) parameters, of which those in `over` are variables
    states: Places = field(repr=False)  # positions in u of the variables that are states
    over: Places = field(repr=False)  # positions in p of the variables that are parameters
    rows: Places = field(repr=False)  # positions in R of the constraints
    substituted: int  # row of the output's own definition where that was substituted, else -1
    fixed: Places = field(repr=False)  # positions in x of states with a target
    targets: Floats = field(repr=False)
    x0: Floats = field(repr=False)
    lower: Floats = field(repr=False)
    upper: Floats = field(repr=False)
    weight: float = 1.0  # of J in all that follows, and with it of λ and z

    @property
    def N(self) -> int:
        """Variables."""
        return self.states.size + self.over.size

    @property
    def M(self) -> int:
        """Constraints."""
        return self.rows.size + self.fixed.size

    @property
    def square(self) -> bool:
        """As many constraints of the program as states: then an adjoint is defined at every point."""
        return self.rows.size == self.states.size

    @property
    def bounded(self) -> bool:
        """Whether any variable has a bound."""
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    # -- at a point -----------------------------------------------------------------------------------------
    def point(self, x: Floats) -> tuple[Floats, Floats]:
        """(u, p); a substituted output is 0, so that its residual is −J."""
        u, p = np.zeros(self.f.n), self.p.copy()
        u[self.states] = x[: self.states.size]
        p[self.over] = x[self.states.size :]
        return u, p

    def values(self, x: Floats) -> tuple[float, Floats]:
        """(weight · J, C (M,))."""
        u, p = self.point(x)
        residual = self.f.residual(u, p)
        value = -residual[self.substituted] if self.substituted >= 0 else u[self.f.output]
        return self.weight * float(value), np.concatenate([residual[self.rows], x[self.fixed] - self.targets])

    def slopes(self, x: Floats) -> tuple[Floats, sp.csr_array]:
        """(weight · ∇J (N,), A (M, N))."""
        full = self.f.jacobian(*self.point(x))
        A = full[:, self._columns]
        if self.substituted >= 0:
            gradient = -A[[self.substituted]].toarray().ravel()
            A = A[self.rows]
        else:
            gradient = np.zeros(self.N)
            gradient[np.flatnonzero(self.states == self.f.output)] = 1.0
        gradient = self.weight * gradient
        if self.fixed.size:
            A = sp.vstack([A, self._unit_rows], format="csr")
        return gradient, sp.csr_array(A)

    def hessian(self, x: Floats, lam: Floats) -> sp.csr_array:
        """∇²(weight · J − λᵀC), (N, N)."""
        full = self.f.hessian(*self.point(x), self.all_multipliers(lam))
        return sp.csr_array(full[self._columns][:, self._columns])

    def all_multipliers(self, lam: Floats) -> Floats:
        """λ of every constraint of the program, (nc,), that of a substituted output too."""
        out = np.zeros(self.f.nc)
        out[self.rows] = lam[: self.rows.size]
        if self.substituted >= 0:
            out[self.substituted] = self.weight
        return out

    def adjoint(self, x: Floats, lam: Floats, z: Floats) -> Floats | None:
        """The multipliers of R that make L stationary by the states at x, solution or not; None where there are none.

        R_uᵀ λ = J_u − Eᵀμ − z_u, with the multipliers μ of equalities and z of bounds as they are.
        """
        if not self.square:
            return None
        gradient, A = self.slopes(x)
        n, r = self.states.size, self.rows.size
        seed = (gradient - z)[:n] - (A[r:].T @ lam[r:])[:n]
        if not n:
            return np.empty(0)
        try:
            factor = splu(sp.csc_matrix(A[:r, :n]))
        except (RuntimeError, ValueError):
            return None
        out = factor.solve(seed, trans="T")
        return out if np.isfinite(out).all() else None

    @cached_property
    def _columns(self) -> Places:
        return np.concatenate([self.states, self.f.n + self.over])

    @cached_property
    def _unit_rows(self) -> sp.csr_array:
        k = self.fixed.size
        return sp.csr_array((np.ones(k), (np.arange(k), self.fixed)), shape=(k, self.N))

    # -- names ----------------------------------------------------------------------------------------------
    def name(self, j: int) -> str:
        """The user's name of variable j."""
        n = self.states.size
        names = self.f.state_names if j < n else self.f.parameter_names
        return names[int(self.states[j] if j < n else self.over[j - n])]

    def constraint_name(self, i: int) -> str:
        """The user's name of constraint i; an equality asked for has the name of its state."""
        r = self.rows.size
        return self.f.constraint_names[int(self.rows[i])] if i < r else self.name(int(self.fixed[i - r]))

    def full_states(self, x: Floats) -> Floats:
        """u (n,), a substituted output with its value."""
        u, _ = self.point(x)
        if self.substituted >= 0:
            u[self.f.output] = self.values(x)[0] / self.weight
        return u

    def unit(self, x: Floats) -> float:
        """The size that slopes of J have about x: the largest of ∇J, and of what ∇²J makes of it over a way of |x|."""
        gradient, _ = self.slopes(x)
        bend = np.abs(self.hessian(x, np.zeros(self.M))) @ np.maximum(1.0, np.abs(x))
        return float(max(np.abs(gradient).max(initial=0.0), bend.max(initial=0.0))) / self.weight

    def weighted(self, *points: Floats) -> Problem:
        """The same with J brought to the order of 1 where it is below `SMALL` at all these points."""
        with np.errstate(all="ignore"):
            unit = max(self.unit(x) for x in points)
        return replace(self, weight=1.0 / unit if 1e-200 < unit < SMALL else 1.0)


def make_problem(
    program: Program,
    output: str,
    over: Sequence[str],
    bounds: Bounds,
    equalities: Mapping[str, ArrayLike],
    inequalities: Bounds,
    start: Mapping[str, ArrayLike],
    hidden: bool,
) -> Problem:
    """The flat problem; every name, shape and number checked."""
    f = lagrangian_function(program, output, hidden=hidden)
    lower, upper = np.full(f.n + f.m, -np.inf), np.full(f.n + f.m, np.inf)
    lower[: f.n], upper[: f.n] = f.lower, f.upper
    asked: list[Places] = []

    free = _places(program.parameters, over, "parameter")
    if free.size != np.unique(free).size:
        raise DeclarationError("over", "a parameter is named twice.", "Name each once.")
    for name, pair in {**bounds, **inequalities}.items():
        at, shape, is_state = _find(program, name, f.n)
        if name in inequalities and not is_state:
            raise DeclarationError(
                name, "inequalities are for states and definitions.", f"Write bounds={{{name!r}: ...}}."
            )
        if is_state:
            asked.append(at)
        elif not np.isin(at - f.n, free).all():
            raise DeclarationError(
                name, "a parameter with bounds is not in `over`.", "Add it there, or leave its bounds out."
            )
        low, high = _pair(name, pair, shape)
        lower[at], upper[at] = np.maximum(lower[at], low), np.minimum(upper[at], high)
        if not (lower[at] <= upper[at]).all():
            raise DeclarationError(name, "a lower bound is above its upper bound.")
        if (lower[at] == np.inf).any() or (upper[at] == -np.inf).any():
            raise DeclarationError(
                name, "its bounds leave it no finite value.", "Use None where there is none."
            )
    fixed, targets = [], []
    for name, value in equalities.items():
        at, shape, is_state = _find(program, name, f.n)
        if not is_state:
            raise DeclarationError(
                name,
                "equalities are for states and definitions.",
                "Leave a parameter that is known out of `over`.",
            )
        fixed.append(at)
        targets.append(_array(name, value, shape))
    fixed_at = np.concatenate([np.empty(0, np.int64), *fixed])
    asked_at = np.concatenate([np.empty(0, np.int64), *asked, fixed_at])

    u0, p0 = f.guess.copy(), f.values.copy()
    for name, value in start.items():
        at, shape, is_state = _find(program, name, f.n)
        (u0 if is_state else p0)[at - (0 if is_state else f.n)] = _array(name, value, shape)
    if np.isnan(p0).any():
        missing = f.parameter_names[int(np.flatnonzero(np.isnan(p0))[0])]
        raise DeclarationError(missing, "this parameter has no value.", "Give one in `start`, or declare it.")

    substituted, states = -1, np.arange(f.n)
    own = _definition_row(program, f, output)
    if own >= 0 and f.output not in asked_at:
        substituted = own
        states = np.delete(states, f.output)
    rows = np.delete(np.arange(f.nc), [substituted] if substituted >= 0 else [])
    place = np.full(f.n, -1)
    place[states] = np.arange(states.size)
    columns = np.concatenate([states, f.n + free])
    x0 = np.concatenate([u0[states], p0[free]])
    return Problem(
        f=f, output=output, p=p0, states=states, over=free, rows=rows, substituted=substituted,
        fixed=place[fixed_at], targets=np.concatenate([np.empty(0), *targets]),
        x0=np.clip(x0, lower[columns], upper[columns]), lower=lower[columns], upper=upper[columns],
    )  # fmt: skip


def _definition_row(program: Program, f: LagrangianFunction, output: str) -> int:
    """The row that defines the output and is the only one to mention it; -1 if it is not so."""
    items = [
        i for i in program.constraints.items if i.defined and i.name == program.states.owner(f.output).name
    ]
    if not items or f.lower[f.output] > -np.inf or f.upper[f.output] < np.inf:
        return -1
    row = items[0].start + f.output - program.states.by_name[items[0].name].start
    pattern = f.jacobian(f.guess, np.nan_to_num(f.values, nan=1.0)).tocsc()
    mentioned = pattern.indices[pattern.indptr[f.output] : pattern.indptr[f.output + 1]]
    return row if mentioned.tolist() == [row] else -1


def _places(registry: Registry, names: Iterable[str], role: str) -> Places:
    out = [np.empty(0, np.int64)]
    for name in names:
        item = registry.by_name.get(name)
        if item is not None:
            out.append(np.arange(item.start, item.start + item.size))
        else:
            out.append(np.array([registry.scalar_index(name, role)]))
    return np.concatenate(out)


def _find(program: Program, name: str, n: int) -> tuple[Places, tuple[int, ...], bool]:
    """Positions in [u, p], shape, and whether it is a state, of a name or of one element ("z[1]")."""
    base = name.split("[")[0] if name.endswith("]") and name not in program.states.by_name else name
    is_state = name in program.states.by_name or base in program.states.by_name
    registry = program.states if is_state else program.parameters
    if not is_state and name not in registry.by_name and base not in registry.by_name:
        known = [i.name for r in (program.states, program.parameters) for i in r.items]
        raise UnknownNameError(name, "state, definition or parameter", known)
    at = _places(registry, [name], "state" if is_state else "parameter")
    shape = registry.by_name[name].shape if name in registry.by_name else ()
    return at if is_state else at + n, shape, is_state


def _array(name: str, value: ArrayLike, shape: tuple[int, ...], infinite: bool = False) -> Floats:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DeclarationError(name, f"{value!r} is not a real number or an array of them.") from None
    try:
        out = np.broadcast_to(numbers, shape).ravel().copy()
    except ValueError:
        raise ShapeError(name, numbers.shape, shape) from None
    if np.isnan(out).any() or (not infinite and np.isinf(out).any()):
        raise DeclarationError(name, "a value given is not finite.", "Give finite numbers.")
    return out


def _pair(name: str, pair: Any, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    try:
        low, high = pair
    except (TypeError, ValueError):
        raise DeclarationError(
            name, f"{pair!r} is not a pair of bounds.", "Write (lower, upper), None where there is none."
        ) from None
    return (
        _array(name, -np.inf if low is None else low, shape, infinite=True),
        _array(name, np.inf if high is None else high, shape, infinite=True),
    )
