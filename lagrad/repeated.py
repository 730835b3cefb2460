"""The fast repeated call: flat parameters in, outputs and their Jacobian out, warm-started if so wished.

Takes a layout, names of outputs and parameters; gives a callable for loops and optimisers. It holds the last
solution, so one instance belongs to one thread. A system without large blocks is solved and differentiated in
one call into compiled code (`assembly.whole`), a system of explicit rows only as flat code (`assembly.flat`);
whatever they decline goes the ordinary way, which says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.assembly.forward import Scratch
from lagrad.assembly.whole import DONE, Room, solve_and_differentiate
from lagrad.certificate import BACKWARD_LIMIT, RCOND_LIMIT, RESIDUAL_LIMIT
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
        Scratch.of(machine.registers, layout.largest_small), machine.m, machine.nnz_u,
        layout.scale, layout.lower, layout.upper, layout.opening_ptr, layout.opening,
        pattern.split, pattern.packed, options.max_iterations, options.tolerance,
        RESIDUAL_LIMIT, RCOND_LIMIT, BACKWARD_LIMIT,
    )  # fmt: skip


_NO_OUTPUTS = np.empty(0, np.int64)


def consecutive(index: NDArray[Any]) -> NDArray[Any] | slice:
    """The same places as a slice, where they lie in a row: numbers are then copied, not gathered one by one."""
    if index.size and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


class _Explicit:
    """Outputs at `rows` and their derivatives by parameters `cols` for a layout of explicit rows only.

    What `certificate` limits holds by construction: R = 0 exactly, pivots are 1, and a multiplier is one sum of
    products. That every number is finite and every state within its bounds is looked at; None where it is not so.
    """

    def __init__(self, layout: Layout, flat: FlatCode, rows: NDArray[Any], cols: NDArray[Any]) -> None:
        self.layout, self.flat, self.rows, self.cols = layout, flat, rows, cols
        self.part = consecutive(cols)
        self.slots = flat.where[rows]
        self.reg = flat.values()
        self.adj = np.empty(0)
        self.inside = True  # whether the last values had all their derivatives

    @staticmethod
    def of(layout: Layout, rows: NDArray[Any], cols: NDArray[Any]) -> _Explicit | None:
        """None where a block is not explicit."""
        return None if layout.flat is None else _Explicit(layout, layout.flat, rows, cols)

    def value(self, p: Floats) -> Floats | None:
        """The outputs (k,)."""
        self.reg[: p.size] = p
        finite, self.inside = self.flat.evaluate(self.reg)
        if not (finite and np.isfinite(p).all()):
            return None
        lower, upper = self.layout.lower, self.layout.upper
        if lower.size:
            u = self.reg[self.flat.where]
            if not ((lower <= u) & (u <= upper)).all():
                return None
        return self.reg[self.slots]

    def value_and_jacobian(self, p: Floats) -> tuple[Floats, Floats] | None:
        """The outputs (k,) and the Jacobian (k, parameters asked for)."""
        values = self.value(p)
        if values is None or not self.inside:
            return None
        if not self.adj.size:
            self.adj = np.zeros(self.reg.size)
        adj, out = self.adj, np.empty((self.rows.size, self.cols.size))
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
        layout: Layout,
        of: Sequence[str],
        wrt: Sequence[str] | None,
        options: Options,
        warm: bool = True,
    ) -> None:
        self.layout = layout
        self._keep = warm
        self.of = several(of)
        self.wrt = [i.name for i in layout.parameter_items()] if wrt is None else several(wrt)
        outputs = [layout.find_output(name)[0] for name in self.of]
        inputs = [layout.find_parameter(name)[0] for name in self.wrt]
        self._rows: NDArray[Any] = np.concatenate([np.empty(0, np.int64), *outputs])
        self._cols: NDArray[Any] = np.concatenate([np.empty(0, np.int64), *inputs])
        if np.unique(self._cols).size < self._cols.size:
            raise DeclarationError("wrt", "a parameter is named twice.", "Name each once.")
        self._part = consecutive(self._cols)
        self._at = layout.m + self._rows
        self._v = np.concatenate([layout.values, layout.guess])  # parameters and last solution
        self._spare = self._v.copy()
        self._warm = False
        self._options = options
        self._arguments: tuple[Any, ...] = ()
        self._code: Callable[..., int] | None = None
        self._flat = _Explicit.of(layout, self._rows, self._cols)
        if not self._flat and not layout.pattern.large:
            machine, pattern, k = layout.machine, layout.pattern, self._rows.size
            self._arguments = compiled_arguments(layout, options)
            self._room = Room.of(
                machine.n, machine.m, layout.kind.size, k, machine.nnz, int(pattern.packed[-1])
            )

    def __repr__(self) -> str:
        of, wrt = (", ".join(str(name) for name in names) for names in (self.of, self.wrt))
        return f"SystemFunction: ({wrt}) -> ({of}) and its Jacobian"

    def solution(self, p: ArrayLike) -> Solution:
        """The Solution at p, warm-started from the last; from the guesses if that fails."""
        layout = self.layout
        self._set(p)
        full = self._v[: layout.m].copy()
        if np.isnan(full).any() or not np.isfinite(full).all():
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

    def value(self, p: ArrayLike) -> Floats:
        """The outputs (k,) at p."""
        if self._flat:
            self._set(p)
            found = self._flat.value(self._v[: self.layout.m])
            if found is not None:
                return found
        out = np.empty((0, self._cols.size))
        if self._compiled(p, _NO_OUTPUTS, out):
            return self._v[self._at]
        solution = self.solution(p)
        solution.check_finite(self._rows)
        return solution.v[self._at]

    def __call__(self, p: ArrayLike) -> tuple[Floats, Floats]:
        if self._flat:
            self._set(p)
            both = self._flat.value_and_jacobian(self._v[: self.layout.m])
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

    def _set(self, p: ArrayLike) -> None:
        try:
            values = np.asarray(p, dtype=np.float64).ravel()
        except (TypeError, ValueError):
            raise DeclarationError(
                "the argument of a system function", f"{p!r:.60} is not an array of real numbers."
            ) from None
        if values.size != self._cols.size:
            raise ShapeError("the argument of a system function", values.shape, (self._cols.size,))
        self._v[self._part] = values

    def _compiled(self, p: ArrayLike, rows: NDArray[Any], out: Floats) -> bool:
        """Solve, and fill `out`, in compiled code; False where the ordinary way has to decide."""
        self._set(p)
        if not self._arguments or (self._keep and not self._warm):
            return False
        if not self._keep:
            self._v[self.layout.m :] = self.layout.guess
        np.copyto(self._spare, self._v)
        given = (*self._arguments, not self._keep, rows, self._cols, self._room, self._v, out)
        if self._code is None:
            self._code = specialised(solve_and_differentiate, *given)
        if self._code(*given) == DONE:
            return True
        np.copyto(self._v, self._spare)  # parameters as asked, states as they were before
        return False
