"""System: a program made ready for numbers, and `build`, the one place where the stages are called in order.

Takes a Program, gives a System; a System takes parameter values and gives Solutions. Immutable: solving
leaves nothing behind in it but counters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from traceback import clear_frames
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.assembly.lower import Lowered, lower
from lagrad.assembly.machine import assemble, incidence
from lagrad.assembly.straight import Straight
from lagrad.batch import Batch, solve_many
from lagrad.built import Built
from lagrad.continuation import Branch, Path, read_path, solve_from, trace
from lagrad.diagnosis import Diagnosis, diagnose_system
from lagrad.errors import ConvergenceError, DeclarationError, EvaluationError, StructuralError
from lagrad.expr.text import hidden_name
from lagrad.layout import Floats, Index, Layout, Names, by_name, numbers
from lagrad.linalg.backends import BACKENDS, PACKAGES, installed
from lagrad.linalg.blocks import DENSE_MAX, BlockPattern
from lagrad.linalg.sparse import Counters
from lagrad.program import Program
from lagrad.repeated import SystemFunction
from lagrad.solve import EXPLICIT, Options, Solution, describe_structure, solve
from lagrad.structure.blocks import Blocks, block_triangular
from lagrad.structure.dulmage_mendelsohn import dulmage_mendelsohn
from lagrad.structure.matching import maximum_matching
from lagrad.watch import Watch

T = TypeVar("T")


def build(program: Program, *, dense_max: int = DENSE_MAX, linear: str = "superlu") -> System:
    """Find the structure of a program and compile it: lower, match, order in blocks, assemble.

    Blocks of more than `dense_max` states are solved with sparse factors, smaller ones with dense ones inside
    the compiled sweep. `linear` names the library of the sparse ones: "superlu", the default; "klu" (package
    kvxopt); "pardiso" (package pypardiso); or "auto": the default, and PARDISO, where it is installed, for blocks
    whose factors have millions of entries, as in three dimensions. Raises `StructuralError` if the constraints
    cannot determine the states, with the names of the over-determined constraints and the under-determined states.

    >>> import lagrad as lg
    >>> program = lg.Program("kepler")
    >>> M = program.parameter("M", 1.5)
    >>> E = program.state("E", guess=1.5)
    >>> program.constrain(E - 0.6 * lg.sin(E) == M)
    >>> lg.build(program)
    System 'kepler': 1 state, 1 implicit
    """
    if not isinstance(program, Program):
        raise DeclarationError("build", f"a Program was expected, got a {type(program).__name__}.")
    if not isinstance(dense_max, (int, np.integer)):
        raise DeclarationError("dense_max", f"{dense_max!r} is not a whole number of states.")
    if not (isinstance(linear, str) and linear in BACKENDS):
        raise DeclarationError("linear", f"{linear!r} is none of {', '.join(map(repr, BACKENDS))}.")
    if not installed(linear):
        raise DeclarationError(
            "linear", f"{linear!r} needs the package {PACKAGES[linear]}.", f"pip install {PACKAGES[linear]}"
        )
    said = Declarations.of(program)
    straight = None
    if not said.bounds:  # which a solve looks after
        straight = said.of_graph(lambda arrays: Straight.of(arrays, said.lhs, said.rhs, said.names.n_states))
    if straight is None:
        return System(_layout(said, dense_max, linear))
    flat = partial(straight.flat, n_parameters=said.names.n_parameters)
    return System(
        Built(
            said.names,
            said.values,
            partial(_layout, said, dense_max, linear),
            lambda: said.of_graph(flat),
        )
    )


@dataclass(frozen=True, eq=False)
class Declarations:
    """What a program says when it is built. It may say more later on, and the layout may be made later still."""

    names: Names
    extent: tuple[int, int, int]  # of the graph
    lhs: Index  # (n_constraints,) nodes
    rhs: Index
    values: Floats  # (m,) of the parameters, nan where there is none
    guesses: list[Floats | None]  # per state that has a name
    bounds: dict[int, tuple[Floats, Floats]]
    scales: dict[int, Floats]
    share_all: bool

    @staticmethod
    def of(program: Program) -> Declarations:
        """Everything so far."""
        values = [np.full(i.size, np.nan) if x is None else x.ravel() for i, x in zip(
            program.parameters.items, program.values, strict=True)]  # fmt: skip
        names = Names(
            name=program.name,
            graph=program.graph,
            parameters=program.parameters,
            states=program.states,
            constraints=program.constraints,
            n_parameters=program.parameters.size,
            n_states=program.states.size,
            n_constraints=program.constraints.size,
        )
        return Declarations(
            names,
            program.graph.extent,
            np.array(program.lhs, dtype=np.int32),
            np.array(program.rhs, dtype=np.int32),
            np.concatenate([np.empty(0), *values]),
            program.guesses.copy(),
            program.bounds.copy(),
            program.scales.copy(),
            program.share_all,
        )

    def of_graph(self, make: Callable[[tuple[NDArray[Any], ...]], T]) -> T:
        """What `make` makes of the arrays of the graph as it was then, without a copy of them."""
        try:
            return make(self.names.graph.views(self.extent))
        except BaseException as stopped:
            # the graph cannot grow while its arrays are held, as the traceback of a Ctrl-C would
            clear_frames(stopped.__traceback__)
            raise


def _layout(said: Declarations, dense_max: int, linear: str) -> Layout:
    """Lower, match, order in blocks, assemble."""
    names = said.names
    lowered = lower(
        names.graph.arrays(said.extent),
        said.lhs,
        said.rhs,
        names.n_parameters,
        names.n_states,
        said.share_all,
    )
    blocks = _structure(names, lowered)
    sizes = np.diff(blocks.ptr)
    large = [(int(blocks.ptr[b]), int(blocks.ptr[b + 1])) for b in np.flatnonzero(sizes > max(dense_max, 1))]
    machine = assemble(lowered, blocks.row_order, blocks.col_order, large)
    counters = Counters()
    # the state u of a definition u == f(…) without u in f: its pivot is 1
    known = np.where(lowered.self_use[blocks.row_order], -1, machine.rows.lhs - machine.m)
    pattern = BlockPattern.analyze(
        machine.rows.a_ptr, machine.rows.a_col, blocks.ptr, dense_max, counters, linear, known
    )
    order = blocks.col_order
    guess, scale, lower_bound, upper_bound = _starting_values(said, lowered.n_states)
    opening_ptr, opening = _opening(said, lowered, blocks)
    return Layout(
        **vars(names),
        hidden=lowered.hidden,
        machine=machine,
        ptr=blocks.ptr,
        kind=blocks.kind,
        pattern=pattern,
        values=said.values,
        guess=guess[order],
        scale=scale[order],
        lower=lower_bound[order] if lower_bound.size else lower_bound,
        upper=upper_bound[order] if upper_bound.size else upper_bound,
        largest_small=int(sizes[sizes <= max(dense_max, 1)].max(initial=1)),
        opening_ptr=opening_ptr,
        opening=opening,
    )


def _structure(names: Names, lowered: Lowered) -> Blocks:
    """The block lower triangular order, or a StructuralError with the user's names."""
    rows, cols = lowered.n_rows, lowered.n_states
    indptr, indices = incidence(lowered)
    # A constraint that defines no state is paired with the state declared at its place where it mentions
    # that: the pattern of a block then stays near to symmetric, as it was written, and its factors stay small
    # (9241-bus grid: 203 000 entries of L + U against 375 000 for an arbitrary matching).
    natural = np.where(np.arange(rows) < cols, np.arange(rows), -1)
    preferred = np.where(lowered.row_lhs >= 0, lowered.row_lhs, natural).astype(np.int32)
    matching = maximum_matching(rows, cols, indptr, indices, preferred)
    if rows == cols and matching.rank == rows:
        return block_triangular(rows, indptr, indices, lowered.row_lhs, matching, lowered.self_use)
    parts = dulmage_mendelsohn(rows, cols, indptr, indices, matching)

    def of_hidden(h: int) -> str:
        return f"‹{hidden_name(names.graph, int(lowered.hidden[h]))}›"

    def named(pieces: Any) -> list[tuple[list[str], list[str]]]:
        n_rows, n_cols = names.n_constraints, names.n_states
        return [
            (
                [
                    names.constraints.scalar_name(i) if i < n_rows else of_hidden(i - n_rows)
                    for i in piece.rows.tolist()
                ],
                [
                    names.states.scalar_name(j) if j < n_cols else of_hidden(j - n_cols)
                    for j in piece.cols.tolist()
                ],
            )
            for piece in pieces
        ]

    raise StructuralError(
        named(parts.pieces("over")),
        named(parts.pieces("under")),
        names.n_constraints,
        names.n_states,
    )


def _starting_values(said: Declarations, n: int) -> tuple[Floats, Floats, Floats, Floats]:
    """(guess, scale, lower, upper), each (n,) in order of declaration; bounds empty where there are none."""
    guess, scale = np.ones(n), np.ones(n)
    items = said.names.states.items
    # there may be more states by now than there were guesses then
    given = [(i.start, x) for i, x in zip(items, said.guesses, strict=False) if x is not None and x.size]
    if given:
        flat = np.concatenate([x.ravel() for _, x in given])
        sizes = np.array([x.size for _, x in given])
        first = np.cumsum(sizes) - sizes
        where = np.arange(flat.size) + np.repeat(np.array([start for start, _ in given]) - first, sizes)
        guess[where] = flat
        # one size for a whole array: an element that happens to start near zero is no smaller than the others
        largest = np.maximum.reduceat(np.abs(flat), first)
        scale[where] = np.repeat(np.where(largest == 0.0, 1.0, largest), sizes)
    for k, typical in said.scales.items():
        item = items[k]
        scale[item.start : item.start + item.size] = typical.ravel()
    lower = upper = np.empty(0)
    if said.bounds:
        lower, upper = np.full(n, -np.inf), np.full(n, np.inf)
        for k, (low, high) in said.bounds.items():
            item = items[k]
            lower[item.start : item.start + item.size] = low.ravel()
            upper[item.start : item.start + item.size] = high.ravel()
    return guess, scale, lower, upper


def _opening(
    said: Declarations, lowered: Lowered, blocks: Blocks
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rows (positions) of definitions and hidden states whose states are in non-explicit blocks, by that block, then
    by evaluation.

    The row itself may be in a later block, where it determines another state: AC power flow written over e = |V| cos φ
    and f = |V| sin φ is solved in e and f, and |V| and φ follow from them. The guesses are the user's for |V| and φ.
    Operands come first in the graph, so the order of node numbers is an order of evaluation.
    """
    node = np.full(lowered.n_rows, -1, dtype=np.int64)
    count = said.names.n_constraints
    node[count:] = lowered.hidden
    defined = np.zeros(count, dtype=np.bool_)
    for item in said.names.constraint_items():
        if item.defined:
            defined[item.start : item.start + item.size] = True
    node[:count] = np.where(defined, said.lhs, -1)
    node = node[blocks.row_order]
    own = lowered.row_lhs[blocks.row_order]
    block = np.where(own >= 0, blocks.block_of_col[own], -1)
    chosen = np.flatnonzero((node >= 0) & (own >= 0) & (blocks.kind[block] != EXPLICIT))
    chosen = chosen[np.lexsort((node[chosen], block[chosen]))] if chosen.size else chosen
    ptr = np.searchsorted(block[chosen], np.arange(len(blocks) + 1)).astype(np.int32)
    return ptr, chosen.astype(np.int32)


_NUMBER = (int, float, np.integer, np.floating)


def _options(
    max_iterations: int,
    tolerance: float,
    ladder: bool,
    time_limit: float | None,
    progress: bool | Callable[[str], object] | None,
) -> Options:
    """Checked where the user speaks."""
    if not (isinstance(max_iterations, (int, np.integer)) and max_iterations >= 0):
        raise DeclarationError("max_iterations", f"{max_iterations!r} is not a whole number from 0 on.")
    if not (isinstance(tolerance, _NUMBER) and 0.0 < tolerance < 1.0):
        raise DeclarationError("tolerance", f"{tolerance!r} is not between 0 and 1.")
    if time_limit is not None and not (isinstance(time_limit, _NUMBER) and time_limit >= 0.0):
        raise DeclarationError("time_limit", f"{time_limit!r} is not a number of seconds.")
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise DeclarationError("progress", f"{progress!r} is not None, True, False or a function of a text.")
    return Options(int(max_iterations), float(tolerance), bool(ladder), time_limit, progress)


class System:
    """A compiled program. `solve` it at parameter values, or make a fast callable with `function`."""

    __slots__ = ("built",)
    built: Built

    def __init__(self, built: Layout | Built) -> None:
        object.__setattr__(self, "built", built if isinstance(built, Built) else Built.of(built))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a System does not change; build another from its Program")

    def __reduce__(self) -> tuple[Any, ...]:
        return System, (self.built,)

    @property
    def layout(self) -> Layout:
        """Rows, blocks and the machine; for explicit rows in order made when first asked for."""
        return self.built.layout

    def solve(
        self,
        parameters: Mapping[str, ArrayLike] | None = None,
        *,
        start: Solution | Mapping[str, ArrayLike] | None = None,
        max_iterations: int = 50,
        tolerance: float = 1e-10,
        ladder: bool = True,
        time_limit: float | None = None,
        progress: bool | Callable[[str], object] | None = None,
    ) -> Solution:
        """Solve at the given parameter values; those left out keep their declared values.

        `start` is where iterations begin instead of the guesses: a Solution (the normal case in a loop) or
        {state: value}. `max_iterations` bounds Newton's method in every block, `tolerance` the scaled residual
        of a solved block (usually far below it). Where Newton's method fails, other methods are tried (see
        `solution.report`), unless `ladder=False`. `time_limit` in seconds is looked at between iterations.
        `progress`: by default a solve of more than two seconds shows a line on a terminal; False never does; a
        function is called with every text instead.

        A block at a root where its Jacobian is singular counts as solved when it is clearly converging to it;
        its derivatives raise `SingularError`. Raises `ConvergenceError` or `EvaluationError` naming the block
        that could not be solved, and `UnknownNameError`, `ShapeError` or `DeclarationError` for the arguments.
        """
        layout = self.layout
        p = layout.parameter_vector(parameters)
        u = self._start(start)
        options = _options(max_iterations, tolerance, ladder, time_limit, progress)
        if isinstance(start, Solution):
            return solve_from(layout, start, p, options)
        return solve(layout, p, u, options)

    def continuation(
        self,
        path: Path,
        to: float | None = None,
        *,
        parameters: Mapping[str, ArrayLike] | None = None,
        start: Solution | Mapping[str, ArrayLike] | None = None,
        step: float = 0.1,
        max_points: int = 200,
        max_iterations: int = 50,
        tolerance: float = 1e-10,
        time_limit: float | None = None,
        progress: bool | Callable[[str], object] | None = None,
    ) -> Branch:
        """Follow the solutions along a path of parameters, past turning points (pseudo-arclength; Keller 1977).

        `path` is the name of a scalar parameter, which goes from its present value to `to`; or {name: last value},
        along the straight line from the present values, t from 0 to 1; or a function t -> {name: value}. The
        branch begins with the solution at t's first value, found from `start` as in `solve`, ends at `to` or where
        t comes back to where it began, and has at most `max_points` points, not further than `step` from each
        other (the range of t and the typical sizes of the states being 1).

        Raises what `solve` raises for the first point. What stops the branch later on is said in `branch.ended`.

        >>> import lagrad as lg
        >>> program = lg.Program("circle")
        >>> x = program.parameter("x", 0.0)
        >>> y = program.state("y", guess=1.0)
        >>> program.constrain(x**2 + y**2 == 1)
        >>> branch = lg.build(program).continuation("x", to=2.0)
        >>> branch.turning_points[0].t, branch["y"][[0, -1]]
        (1.0, array([ 1., -1.]))
        """
        layout = self.layout
        p = layout.parameter_vector(parameters)
        along, slope, first, last = read_path(layout, path, p, to)
        options = _options(max_iterations, tolerance, True, time_limit, progress)
        with Watch(time_limit, progress) as watch:
            u = self._start(start)
            opening = solve(layout, along(first), u, options)
            return trace(
                layout, opening, along, slope, first, last,
                step=step, max_points=max_points, options=options, watch=watch,
            )  # fmt: skip

    def _start(self, start: Solution | Mapping[str, ArrayLike] | None) -> Floats | None:
        layout = self.layout
        if start is None:
            return None
        if isinstance(start, Solution):
            if start.layout is not layout:
                raise DeclarationError(
                    "start", "the solution belongs to another System.", "Build once, solve often."
                )
            return start.v[layout.m :]
        u = layout.guess.copy()
        for name, value in by_name("start", start):
            position, shape = layout.find_output(name)
            u[position] = numbers(name, value, shape).ravel()
        if layout.lower.size:
            u = np.clip(u, layout.lower, layout.upper)
        return u

    def function(
        self,
        of: Sequence[str],
        wrt: Sequence[str] | None = None,
        *,
        max_iterations: int = 50,
        tolerance: float = 1e-10,
    ) -> SystemFunction:
        """A callable on flat arrays for loops and optimisers: f(p) -> (outputs (k,), Jacobian (k, len(p))).

        p holds the parameters named in `wrt` (all by default), flattened one after the other; the others keep
        their declared values. Every call starts from the solution of the call before.

        >>> import lagrad as lg
        >>> program = lg.Program("double")
        >>> x = program.parameter("x", 1.0)
        >>> y = program.define("y", 2 * x)
        >>> lg.build(program).function(of=["y"])([3.0])
        (array([6.]), array([[2.]]))
        """
        return SystemFunction(self.built, of, wrt, Options(max_iterations, tolerance))

    def solve_many(
        self,
        parameters: Mapping[str, ArrayLike],
        *,
        of: Sequence[str] = (),
        wrt: Sequence[str] | None = None,
        max_iterations: int = 50,
        tolerance: float = 1e-10,
        threads: int | None = None,
    ) -> Batch:
        """Solve at many parameter points: arrays with one leading axis more than the parameter are lanes.

        Parameters without that axis are the same in every lane. With `of`, the Jacobian of these outputs by the
        parameters `wrt` is computed in every lane too. A lane that fails holds nan, its exception is in
        `batch.errors`, and the others know nothing of it. Every lane starts from the guesses. `threads`: at most so
        many, by default as many as there are cores; none is started for little work, and no answer depends on them.

        >>> import lagrad as lg
        >>> program = lg.Program("root")
        >>> x = program.parameter("x", 4.0)
        >>> y = program.state("y", guess=1.0)
        >>> program.constrain(y * y == x)
        >>> batch = lg.build(program).solve_many({"x": [4.0, 9.0, -1.0]}, of=["y"])
        >>> batch["y"].round(12), batch.ok
        (array([ 2.,  3., nan]), array([ True,  True, False]))
        """
        if threads is not None and not (isinstance(threads, (int, np.integer)) and threads >= 1):
            raise DeclarationError("threads", f"{threads!r} is not a whole number from 1 on.")
        return solve_many(self.layout, parameters, of, wrt, Options(max_iterations, tolerance), threads)

    def diagnose(
        self,
        at: Solution | ConvergenceError | EvaluationError | Mapping[str, ArrayLike] | None = None,
        parameters: Mapping[str, ArrayLike] | None = None,
    ) -> Diagnosis:
        """What is wrong, or nearly so, at a point, in the names of the program; see `lagrad.diagnosis.Finding`.

        `at`: a Solution; the exception of a solve that failed (worst residuals, the blocks that feed the one that
        failed); {state: value}; or nothing: the guesses, with definitions evaluated. `parameters`: their values, in the
        last two cases. Singular and ill conditioned blocks with the constraints and states that take part, constraints
        that say the same or nearly so, bad scales, terms that cancel, states at bounds, kinks.
        """
        return diagnose_system(self.layout, at, self.layout.parameter_vector(parameters))

    @property
    def structure(self) -> str:
        """One line: states and blocks by kind."""
        return describe_structure(self.layout)

    @property
    def counters(self) -> Counters:
        """What has been done with this System so far: analyses, factorizations, refactorizations, solves."""
        return self.layout.pattern.counters

    def __repr__(self) -> str:
        return f"System {self.layout.name!r}: {self.structure}"
