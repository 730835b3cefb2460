"""The fast repeated call: flat parameters in, outputs and their Jacobian out, warm-started if so wished.

Takes a layout, names of outputs and parameters; gives a callable for loops and optimisers. It holds the last
solution, so one instance belongs to one thread. A system without large blocks is solved and differentiated in
one call into compiled code (`assembly.whole`), a system of explicit rows only as flat code (`assembly.flat`),
straight from its graph where that is possible (`assembly.straight`); whatever they decline goes the ordinary way,
which says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.assembly.forward import EPS, NOISE, Scratch
from lagrad.assembly.whole import DONE, Room, solve_and_differentiate
from lagrad.built import Built
from lagrad.certificate import BACKWARD_LIMIT, RCOND_LIMIT, RESIDUAL_LIMIT
from lagrad.determined import LITTLE_CHANGE
from lagrad.errors import ConvergenceError, DeclarationError, EvaluationError, ShapeError
from lagrad.kernel import specialised
from lagrad.layout import Floats, Layout, several
from lagrad.solve import Options, Solution, solve

if TYPE_CHECKING:
    from lagrad.assembly.flat import FlatCode


def compiled_arguments(layout: Layout, options: Options) -> tuple[Any, ...]:
    """What `assembly.whole` needs of a layout without large blocks, in its order, with scratch of its own."""
    machine, pattern = layout.machine, layout.pattern
    return (
        layout.ptr, layout.kind, machine.tapes, machine.terms, machine.rows,
        Scratch.of(machine.registers, layout.largest_small, layout.together), machine.m, machine.nnz_u,
        layout.scale, layout.lower, layout.upper, layout.opening_ptr, layout.opening, layout.alike,
        pattern.split, pattern.packed, options.max_iterations, options.tolerance,
        RESIDUAL_LIMIT, RCOND_LIMIT, BACKWARD_LIMIT, NOISE * EPS, LITTLE_CHANGE, layout.reach,
    )  # fmt: skip


_NO_OUTPUTS = np.empty(0, np.int64)


def consecutive(index: NDArray[Any]) -> NDArray[Any] | slice:
    """The same places as a slice, where they lie in a row: numbers are then copied, not gathered one by one."""
    if index.size and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


class _Explicit:
    """Some states and their derivatives by parameters `cols`, where flat code computes all states.

    What `certificate` limits holds by construction: R = 0 exactly, pivots are 1, and a multiplier is one sum of
    products. That every number is finite and every state within its bounds is looked at; None where it is not so.
    """

    def __init__(
        self, flat: FlatCode, states: NDArray[Any], cols: NDArray[Any], lower: Floats, upper: Floats
    ) -> None:
        self.flat, self.cols, self.lower, self.upper = flat, cols, lower, upper
        self.part = consecutive(cols)
        self.slots = flat.where[states]
        self.reg = flat.values()
        self.adj = np.empty(0)
        self.inside = True  # whether the last values had all their derivatives

    def value(self, p: Floats) -> Floats | None:
        """The outputs (k,)."""
        self.reg[: p.size] = p
        finite, self.inside = self.flat.evaluate(self.reg)
        if not (finite and np.isfinite(p).all()):
            return None
        if self.lower.size:
            u = self.reg[self.flat.where]
            if not ((self.lower <= u) & (u <= self.upper)).all():
                return None
        return self.reg[self.slots]

    def value_and_jacobian(self, p: Floats) -> tuple[Floats, Floats] | None:
        """The outputs (k,) and the Jacobian (k, parameters asked for)."""
        values = self.value(p)
        if values is None or not self.inside:
            return None
        if not self.adj.size:
            self.adj = np.zeros(self.reg.size)
        adj, out = self.adj, np.empty((self.slots.size, self.cols.size))
        for t, slot in enumerate(self.slots.tolist()):
            adj[slot] = 1.0
            certain = self.flat.pull(self.reg, adj)
            out[t] = adj[self.part]
            adj[: p.size] = 0.0
            if not certain:
                return None
        return values, out


class SystemFunction:
    """f(p) -> (outputs, Jacobian); `value(p)` for outputs alone. Made by `System.function`.

    With `warm` every call starts from the solution of the call before; without, from the guesses, so that
    what a call gives does not depend on the calls before it.
    """

    def __init__(
        self,
        built: Built,
        of: Sequence[str],
        wrt: Sequence[str] | None,
        options: Options,
        warm: bool = True,
    ) -> None:
        names = built.names
        self.of = several(of)
        self.wrt = [i.name for i in names.parameter_items()] if wrt is None else several(wrt)
        outputs = [names.find_state(name)[0] for name in self.of]
        inputs = [names.find_parameter(name)[0] for name in self.wrt]
        states: NDArray[Any] = np.concatenate([np.empty(0, np.int64), *outputs])
        self._cols: NDArray[Any] = np.concatenate([np.empty(0, np.int64), *inputs])
        if np.unique(self._cols).size < self._cols.size:
            raise DeclarationError("wrt", "a parameter is named twice.", "Name each once.")
        self._part = consecutive(self._cols)
        self._p = built.values.copy()
        self._built, self._states, self._options, self._warm = built, states, options, warm
        flat, free = built.straight, np.empty(0)  # no state has a bound
        self._straight = None if flat is None else _Explicit(flat, states, self._cols, free, free)
        self._made = None if self._straight else self._make()

    def __repr__(self) -> str:
        of, wrt = (", ".join(str(name) for name in names) for names in (self.of, self.wrt))
        return f"SystemFunction: ({wrt}) -> ({of}) and its Jacobian"

    @property
    def layout(self) -> Layout:
        """Rows, blocks and the machine of the system."""
        return self._built.layout

    def _make(self) -> _Ordinary:
        return _Ordinary(self._built.layout, self._states, self._cols, self._options, self._warm)

    @property
    def _ordinary(self) -> _Ordinary:
        """For what straight code declines, and where there is none."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def solution(self, p: ArrayLike) -> Solution:
        """The Solution at p, warm-started from the last; from the guesses if that fails."""
        return self._ordinary.solution(self._given(p))

    def value(self, p: ArrayLike) -> Floats:
        """The outputs (k,) at p."""
        given = self._given(p)
        found = None if self._straight is None else self._straight.value(given)
        return self._ordinary.value(given) if found is None else found

    def __call__(self, p: ArrayLike) -> tuple[Floats, Floats]:
        given = self._given(p)
        found = None if self._straight is None else self._straight.value_and_jacobian(given)
        return self._ordinary.value_and_jacobian(given) if found is None else found

    def _given(self, p: ArrayLike) -> Floats:
        """All parameters (m,), those that were asked for from p. Not to be kept."""
        try:
            values = np.asarray(p, dtype=np.float64).ravel()
        except (TypeError, ValueError):
            raise DeclarationError(
                "the argument of a system function", f"{p!r:.60} is not an array of real numbers."
            ) from None
        if values.size != self._cols.size:
            raise ShapeError("the argument of a system function", values.shape, (self._cols.size,))
        self._p[self._part] = values
        return self._p


class _Ordinary:
    """Outputs and their derivatives by way of the layout: compiled in one piece where no block is large."""

    def __init__(
        self, layout: Layout, states: NDArray[Any], cols: NDArray[Any], options: Options, keep: bool
    ) -> None:
        self._layout, self._cols, self._options, self._keep = layout, cols, options, keep
        self._rows = layout.machine.col_position[states].astype(np.int64)
        self._at = layout.m + self._rows
        self._v = np.concatenate([layout.values, layout.guess])  # parameters and last solution
        self._spare = self._v.copy()
        self._warm = False
        self._arguments: tuple[Any, ...] = ()
        self._code: Callable[..., int] | None = None
        self._flat = None
        if layout.flat is not None:
            self._flat = _Explicit(layout.flat, self._rows, cols, layout.lower, layout.upper)
        elif not layout.pattern.large:
            machine, pattern, k = layout.machine, layout.pattern, self._rows.size
            self._arguments = compiled_arguments(layout, options)
            self._room = Room.of(
                machine.n, machine.m, layout.kind.size, k, machine.nnz, int(pattern.packed[-1])
            )

    def solution(self, p: Floats) -> Solution:
        """The Solution at p (m,), warm-started from the last; from the guesses if that fails."""
        layout = self._layout
        full = p.copy()
        if not np.isfinite(full).all():
            full = layout.parameter_vector(layout.split_parameters(full))  # says which parameter, and raises
        solved = None
        if self._warm:
            # where the last solution is no good start, begin again where the program says
            with suppress(ConvergenceError, EvaluationError):
                warm = replace(self._options, ladder=False)
                solved = solve(layout, full, self._v[layout.m :], warm)
        if solved is None:
            solved = solve(layout, full, None, self._options)
        self._v[:] = solved.v
        self._warm = self._keep
        return solved

    def value(self, p: Floats) -> Floats:
        """The outputs (k,) at p (m,)."""
        if self._flat:
            found = self._flat.value(p)
            if found is not None:
                return found
        out = np.empty((0, self._cols.size))
        if self._compiled(p, _NO_OUTPUTS, out):
            return self._v[self._at]
        solution = self.solution(p)
        solution.check_finite(self._rows)
        return solution.v[self._at]

    def value_and_jacobian(self, p: Floats) -> tuple[Floats, Floats]:
        """The outputs (k,) and their derivatives (k, columns)."""
        if self._flat:
            both = self._flat.value_and_jacobian(p)
            if both is not None:
                return both
        out = np.empty((self._rows.size, self._cols.size))
        if self._compiled(p, self._rows, out):
            return self._v[self._at], out
        solution = self.solution(p)
        solution.check_finite(self._rows)
        return solution.v[self._at], solution.total(self._rows, self._cols)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_code": None}  # machine code stays in its process

    def _compiled(self, p: Floats, rows: NDArray[Any], out: Floats) -> bool:
        """Solve, and fill `out`, in compiled code; False where the ordinary way has to decide."""
        if not self._arguments or (self._keep and not self._warm):
            return False
        m = self._layout.m
        if not self._keep:
            self._v[m:] = self._layout.guess
        self._v[:m] = p
        np.copyto(self._spare, self._v)
        given = (*self._arguments, not self._keep, rows, self._cols, self._room, self._v, out)
        if self._code is None:
            self._code = specialised(solve_and_differentiate, *given)
        if self._code(*given) == DONE:
            return True
        np.copyto(self._v, self._spare)  # parameters as asked, states as they were before
        return False
