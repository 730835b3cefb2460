"""Solving block by block, and the Solution that comes out.

Takes a layout and parameter values, gives a `Solution`: states, report, certificate, derivatives. Explicit,
implicit and small cyclic blocks run inside the compiled sweep (`assembly.forward`); a large block is a damped
Newton method here, written as its twin: the same tests on the same quantities, with a sparse factorization.
Where Newton's method fails on a block, the ladder (`lagrad.ladder`) is climbed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.assembly import forward
from lagrad.block import BlockEquations, open_block, propagated_magnitude
from lagrad.certificate import Certificate, certify, per_block, scaled_residual
from lagrad.derivatives import Derivatives, Differentiator, check_strict, kink_names, undefined_value
from lagrad.domain import culprit
from lagrad.errors import ConvergenceError, EvaluationError
from lagrad.expr.expression import Expression
from lagrad.ladder import Attempt as Attempt
from lagrad.ladder import Newton, climb, doubt
from lagrad.layout import Layout
from lagrad.linalg.blocks import REFINEMENT, LargeBlock, more_steps
from lagrad.linalg.sparse import REGULAR, Counters, SparseFactor, times
from lagrad.linearize import Evaluated, Linearization
from lagrad.watch import OutOfTime, Watch

if TYPE_CHECKING:
    from lagrad.assembly.flat import FlatPoint

Floats = NDArray[np.float64]

EXPLICIT = 0
CHORD = forward.QUADRATIC  # most that one step on old factors may leave of the error for another to be taken
FLAT_FROM = 256  # explicit rows from which on a solution is differentiated as flat code: below, its kernels do not pay
LONG = 1000  # Newton iterations of a small block between two looks at the clock, and at a person's Ctrl-C
WORST = 3  # residuals that a message names
JACOBIAN = 2.4  # one evaluation of all partials, in evaluations of R alone (9241 buses: 4.8 ms and 2.0 ms)
# Of the largest relative move of a state: one that moved less is not asked what that did to the Jacobian.
FLOOR = 1e-3
CLOSE = 1e-6  # relative length of a Newton step from which on vanishing terms are looked for
CLIMBED_FROM = (forward.TOO_MANY_ITERATIONS, forward.SINGULAR_ITERATE, forward.STALLED)


@dataclass(frozen=True)
class Options:
    """How to solve.

    max_iterations  of Newton's method, per block; the other methods of the ladder take their share of it
    tolerance       scaled residual of a converged block
    ladder          whether other methods are tried where Newton's fails
    time_limit      seconds
    progress        None: a line on a terminal when it takes long; False: silence; or a function of a text
    """

    max_iterations: int = 50
    tolerance: float = 1e-10
    ladder: bool = True
    time_limit: float | None = None
    progress: bool | Callable[[str], object] | None = None


@dataclass(frozen=True)
class BlockReport:
    """How one implicit or cyclic block was solved."""

    block: int
    kind: str
    size: int
    constraints: list[str]
    states: list[str]
    iterations: int
    residual: float
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What a solve did: counts, seconds, and a `BlockReport` for each block that is not explicit."""

    layout: Layout
    seconds: float
    iterations: NDArray[np.int32] = field(repr=False)  # (n_blocks,)
    block_residual: Floats = field(repr=False)  # (n_blocks,) scaled
    attempts: Mapping[int, Sequence[Attempt]] = field(repr=False)
    counters: Counters = field(default_factory=Counters, repr=False)  # what was done in this solve alone

    @property
    def structure(self) -> str:
        """One line: states and blocks by kind."""
        return describe_structure(self.layout)

    @cached_property
    def blocks(self) -> list[BlockReport]:
        """The blocks that are not explicit, in the order in which they were solved."""
        layout = self.layout
        out = []
        for b in np.flatnonzero(layout.kind != EXPLICIT).tolist():
            size = int(layout.ptr[b + 1] - layout.ptr[b])
            constraints, states = layout.block_names(b)
            newton = Attempt("newton", int(self.iterations[b]), float(self.block_residual[b]), "solved")
            attempts = tuple(self.attempts.get(b, (newton,)))
            out.append(
                BlockReport(
                    b, ("explicit", "implicit", "cyclic")[layout.kind[b]], size, constraints, states,
                    int(self.iterations[b]), float(self.block_residual[b]), attempts,
                )
            )  # fmt: skip
        return out

    @property
    def total_iterations(self) -> int:
        """Newton iterations over all blocks."""
        return int(self.iterations.sum())

    def __repr__(self) -> str:
        lines = [f"{self.structure}; {self.total_iterations} Newton iterations in {self.seconds:.3g} s"]
        shown = 10
        for b in self.blocks[:shown]:
            lines.append(
                f"  block {b.block}, {b.kind}{f' of {b.size}' if b.size > 1 else ''} "
                f"({', '.join(b.constraints[:4])}{', …' if len(b.constraints) > 4 else ''}): "
                f"{b.iterations} iterations, scaled residual {b.residual:.1e}"
            )
        if len(self.blocks) > shown:
            lines.append(f"  … and {len(self.blocks) - shown} more blocks")
        return "\n".join(lines)


def describe_structure(layout: Layout) -> str:
    """ "12 states, 9 explicit, 1 implicit, 1 cyclic block of 2: d1, d2"."""
    shown = np.ones(layout.n, dtype=np.bool_)
    shown[layout.machine.col_position[layout.n_states :]] = False
    visible = np.add.reduceat(shown, layout.ptr[:-1]) if layout.n else np.zeros(0, int)
    parts = [f"{layout.n_states} state{'s' * (layout.n_states != 1)}"]
    explicit = int(visible[layout.kind == 0].sum())
    # a block of one declared state is implicit to the user, however many hidden ones it has beside it
    implicit = int(((layout.kind != 0) & (visible == 1)).sum())
    if explicit:
        parts.append(f"{explicit} explicit")
    if implicit:
        parts.append(f"{implicit} implicit")
    cyclic = np.flatnonzero((layout.kind == 2) & (visible > 1))
    if cyclic.size == 1:
        b = int(cyclic[0])
        names = [s for s in layout.block_names(b)[0] if not s.startswith("‹")]
        listed = ", ".join(names[:6]) + (", …" if visible[b] > 6 else "")
        parts.append(f"1 cyclic block of {visible[b]}: {listed}")
    elif cyclic.size:
        lo, hi = int(visible[cyclic].min()), int(visible[cyclic].max())
        parts.append(f"{cyclic.size} cyclic blocks of {lo}" + (f" to {hi}" if hi > lo else ""))
    return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Solution:
    """States that satisfy the constraints at given parameters, with everything needed to vouch for them.

    `solution["y"]` is the value of a state, definition or parameter ("y[2]" for one element). Derivatives are
    computed on the blocks' factors when asked for and are refused, by an exception that names the block,
    where they cannot be certified.
    """

    layout: Layout
    v: Floats = field(repr=False)  # (m+n,) parameters, then states in block order
    report: Report
    multiple: NDArray[np.bool_] = field(repr=False)  # (n_blocks,) blocks at a multiple root
    lent: Mapping[int, SparseFactor] = field(repr=False)  # Newton's last factors of large blocks
    converged: bool = True
    typical: Mapping[int, Floats] = field(
        default_factory=dict, repr=False
    )  # see `Linearization.at`, also for these:
    far: frozenset[int] = field(default=frozenset(), repr=False)
    evaluated: Evaluated | None = field(default=None, repr=False)

    def __getitem__(self, name: str | Expression) -> Any:
        index, shape = self.layout.find_value(name)
        value = self.v[index]
        if not np.isfinite(value).all():
            self.check_finite(index - self.layout.m)
        return value.reshape(shape)[()]

    def check_finite(self, positions: NDArray[Any] | None = None) -> None:
        """Raise `EvaluationError` for the first state (all, or those at `positions`) that is not finite.

        A solve needs the definitions that its constraints use. Of the others, one that is infinite or nan at the
        solution is found out here, when its value is asked for.
        """
        u = self.v[self.layout.m :]
        among = np.arange(u.size) if positions is None else positions
        bad = among[~np.isfinite(u[among])]
        if bad.size:
            raise undefined_value(self.layout, int(bad[0]), self.v)

    @property
    def parameters(self) -> dict[str, Any]:
        """{name: value} of every parameter."""
        return self.layout.split_parameters(self.v[: self.layout.m])

    @property
    def states(self) -> dict[str, Any]:
        """{name: value} of every state and definition; nan and inf of a definition that no constraint uses stay."""
        return self.layout.split_states(self.v[self.layout.m :])

    @property
    def hidden(self) -> dict[str, Any]:
        """{name: value} of the scalar states that lagrad introduced, in order of evaluation.

        They are long sums and values used several times; in a traced function, every value used twice, named
        after the Python variable that it was assigned to ("t", "t[2]", "t#3" for the third assignment) or
        else by its expression and line.
        """
        return self.layout.split_hidden(self.v[self.layout.m :])

    @cached_property
    def linearization(self) -> Linearization:
        """The partials at the solution, factored; large blocks on Newton's last factors."""
        return Linearization.at(self.layout, self.v, self.lent, self.typical, True, self.far, self.evaluated)

    @cached_property
    def certificate(self) -> Certificate:
        """Residuals and conditions of every block at the solution."""
        at = self.linearization
        return certify(self.layout, at.residual, at.magnitude, at.rcond, kinks=partial(kink_names, at))

    @cached_property
    def _differentiator(self) -> Differentiator:
        return Differentiator(
            self.layout,
            partial(getattr, self, "linearization"),
            self.multiple,
            self.converged,
            self._flat_point,
        )

    @cached_property
    def _flat_point(self) -> FlatPoint | None:
        """The values of every operation, where all rows are explicit and there are many."""
        layout = self.layout
        if layout.n < FLAT_FROM or layout.flat is None or not self.converged:
            return None
        from lagrad.assembly.flat import FlatPoint

        return FlatPoint.at(layout.flat, layout.machine.rows.sign, self.v)

    def gradient(
        self,
        of: str,
        wrt: Sequence[str] | None = None,
        *,
        at_any_point: bool = False,
        strict: bool | float = False,
    ) -> Derivatives:
        """Total derivative of a scalar output by parameters: {name: array of the parameter's shape}.

        `of` names a state or definition, or one element ("y[3]"); `wrt` parameters, all by default. One
        adjoint solve: dJ/dp = J_p − λᵀ R_p. Raises `SingularError`, `IllConditionedError`,
        `NotASolutionError`, `CertificateError`. `at_any_point=True` accepts a point that is not a solution.
        `strict=True`, or a relative error, refuses by `CertificateError` what the bounds in
        `certificate.gradient_error` do not vouch for, and one-sided derivatives at kinks.

        >>> import lagrad as lg
        >>> program = lg.Program("cubic")
        >>> p = program.parameter("p", 2.0)
        >>> y = program.state("y", guess=1.0)
        >>> program.constrain(y**3 + y == p)
        >>> round(float(lg.build(program).solve().gradient("y")["p"]), 12)
        0.25
        """
        return check_strict(self._differentiator.gradient(of, wrt, at_any_point), strict)

    def multipliers(
        self, of: str, *, hidden: bool = False, at_any_point: bool = False, strict: bool | float = False
    ) -> Derivatives:
        """The Lagrange multiplier of every constraint for a scalar output: {constraint: array of its shape}.

        λ_i is the change of the output per unit by which the left side of constraint i is allowed to exceed
        its right side. For a definition it is the reverse-mode adjoint of what is defined. `hidden=True` adds
        those of the states in `hidden`, under the same names.
        """
        return check_strict(self._differentiator.multipliers(of, at_any_point, hidden), strict)

    def jacobian(
        self,
        of: Sequence[str],
        wrt: Sequence[str] | None = None,
        *,
        sparse: bool = False,
        mode: str | None = None,
        at_any_point: bool = False,
        strict: bool | float = False,
    ) -> Derivatives:
        """{(output, parameter): array (output size, parameter size)}; `sparse=True` gives SciPy CSR arrays.

        `mode` "adjoint" (one solve per output) or "tangent" (one per parameter); by default the fewer. All
        right-hand sides go through one factorization.
        """
        return check_strict(self._differentiator.jacobian(of, wrt, sparse, mode, at_any_point), strict)

    def total(self, rows: NDArray[Any], cols: NDArray[Any]) -> Floats:
        """The dense Jacobian of state positions `rows` by parameter positions `cols`, certified."""
        out: Floats = self._differentiator.total(rows, cols)[0]
        return out

    def pull(self, seeds: Floats) -> Floats:
        """Σ seeds · du/dp, (m,), for weights of the states (n,) in block order: `vjp` without names."""
        return self._differentiator.pull(seeds)[0]

    def push(self, direction: Floats) -> Floats:
        """du/dp · direction, (n,) in block order, for a parameter direction (m,): `jvp` without names."""
        return self._differentiator.push(direction)[0]

    def second(self, seed: Floats, cols: NDArray[Any], one_sided: bool = False) -> Floats:
        """d²(seed · u)/dp² (k, k) by parameter positions `cols` (k,), for weights (n,): `hessian` without names."""
        out: Floats = self._differentiator.second(seed, cols, one_sided=one_sided)[0]
        return out

    def second_product(self, seed: Floats, direction: Floats, one_sided: bool = False) -> Floats:
        """d²(seed · u)/dp² · direction, (m,): `hvp` without names."""
        return self._differentiator.hessian_times(seed, direction[:, None], one_sided=one_sided)[0][:, 0]

    def jvp(
        self, direction: Mapping[str, ArrayLike], *, at_any_point: bool = False, strict: bool | float = False
    ) -> Derivatives:
        """Change of every state and definition per unit along a parameter direction: {name: array}."""
        return check_strict(self._differentiator.jvp(direction, at_any_point), strict)

    def vjp(
        self, weights: Mapping[str, ArrayLike], *, at_any_point: bool = False, strict: bool | float = False
    ) -> Derivatives:
        """Σ weights · d output / d parameter: {parameter: array}. `weights`: {output: array of its shape}."""
        return check_strict(self._differentiator.vjp(weights, at_any_point), strict)

    def hvp(
        self,
        of: str,
        direction: Mapping[str, ArrayLike],
        *,
        at_any_point: bool = False,
        one_sided: bool = False,
        strict: bool | float = False,
    ) -> Derivatives:
        """Second derivative of a scalar output times a parameter direction: {parameter: array of its shape}.

        One tangent and one adjoint solve on the factors of the gradient, and one pass over the terms. On a kink that
        the direction moves something across no second derivative exists: `KinkError`, unless `one_sided` asks for
        what the rules of the table of primitives make of it.

        >>> import lagrad as lg
        >>> program = lg.Program("cubic")
        >>> p = program.parameter("p", 2.0)
        >>> y = program.state("y", guess=1.0)
        >>> program.constrain(y**3 + y == p)
        >>> round(float(lg.build(program).solve().hvp("y", {"p": 1.0})["p"]), 12)
        -0.09375
        """
        return check_strict(self._differentiator.hvp(of, direction, at_any_point, one_sided), strict)

    def hessian(
        self,
        of: str,
        wrt: Sequence[str] | str | None = None,
        *,
        sparse: bool = False,
        at_any_point: bool = False,
        one_sided: bool = False,
        strict: bool | float = False,
    ) -> Derivatives:
        """Second derivatives of a scalar output: {(a, b): array (size of a, size of b)} over parameters a and b.

        Where parameters are not all coupled through a nonlinear term, fewer products than parameters are needed: a star
        colouring of the pattern says which columns share one. `sparse` gives SciPy's CSR arrays. Kinks as for `hvp`.

        >>> import lagrad as lg
        >>> program = lg.Program("bowl")
        >>> x = program.parameter("x", [1.0, 2.0, 3.0])
        >>> obj = program.define("obj", lg.sum(x**3) + x[0] * x[1])
        >>> lg.build(program).solve().hessian("obj")["x", "x"]
        array([[ 6.,  1.,  0.],
               [ 1., 12.,  0.],
               [ 0.,  0., 18.]])
        """
        found = self._differentiator.hessian(of, wrt, sparse, at_any_point, one_sided)
        return check_strict(found, strict)

    def __repr__(self) -> str:
        lines = [f"Solution of {self.layout.name!r}: {self.report.structure}"]
        for k, (name, value) in enumerate(self.states.items()):
            if k == 20:
                lines.append(f"  … and {len(self.states) - 20} more")
                break
            lines.append(f"  {name} = {np.array2string(np.asarray(value), precision=10, threshold=8)}")
        return "\n".join(lines)


def solve(
    layout: Layout,
    p: Floats,
    start: Floats | None,
    options: Options,
    tried: Mapping[int, Sequence[Attempt]] | None = None,
    near: Solution | None = None,
) -> Solution:
    """Solve every block in order from the guesses, or from `start` (n,), states in block order.

    `tried`: what was attempted before, by block, for the report. `near`: the solution that `start` is of, whose
    factors of large blocks are tried first. Raises `ConvergenceError` or `EvaluationError` for the first block that
    could not be solved.
    """
    with Watch(options.time_limit, options.progress) as watch, Counters.tally() as counters:
        return _Run(layout, p, start, options, watch, tried or {}, near, counters).solution()


def _reference_values(layout: Layout, block: LargeBlock) -> Floats | None:
    """Values of a large block at the declared parameters and guesses, small blocks before it solved.

    None if they are not finite. A parameter declared without a value counts as 1. The pivots of all solves are chosen
    for these values, so they must depend on nothing but the layout.
    """
    p = np.where(np.isnan(layout.values), 1.0, layout.values)
    options = Options(ladder=False, progress=False)
    with Watch(None, False) as watch:
        run = _Run(layout, p, None, options, watch, {}, None, Counters())
        b = 0
        while b < block.block:  # another large block, or one that fails, keeps its guesses
            b = run.sweep(b, block.block, True) + 1
        newton = run.large_newton(block.block)
        open_block(layout, block.block, run.v)
        return newton.entries if newton.evaluate() else None


class _Run:
    """One pass through all blocks."""

    def __init__(
        self,
        layout: Layout,
        p: Floats,
        start: Floats | None,
        options: Options,
        watch: Watch,
        tried: Mapping[int, Sequence[Attempt]],
        near: Solution | None,
        counters: Counters,
    ) -> None:
        machine, n_blocks = layout.machine, layout.kind.size
        self.layout, self.options, self.watch = layout, options, watch
        self.cold = start is None
        self.start = layout.guess if start is None else start
        self.v = np.concatenate([p, self.start])
        self.data = np.zeros(machine.nnz)
        self.residual, self.magnitude = np.zeros(machine.n), np.zeros(machine.n)
        if near is not None and near.evaluated is not None:
            self.magnitude[:] = near.evaluated.magnitude
        self.status = np.zeros(n_blocks, np.int8)
        self.iterations = np.zeros(n_blocks, np.int32)
        self.large = {block.block: (g + 1, block) for g, block in enumerate(layout.pattern.large)}
        self.large_from = min((b.hi - b.lo for _, b in self.large.values()), default=machine.n + 1)
        self.near, self.counters = near, counters
        self.lent: dict[int, SparseFactor] = {}
        self.far: set[int] = set()
        self.evaluated: set[int] = set()
        self.typical: dict[int, Floats] = {}
        self.attempts = {block: list(attempts) for block, attempts in tried.items()}
        self.doubts: dict[int, str] = {}
        self.scratch = forward.Scratch.of(machine.registers, layout.largest_small)

    def solution(self) -> Solution:
        layout, options = self.layout, self.options
        n_blocks = layout.kind.size
        b = n_blocks if self.all_at_once() else 0
        try:
            while b < n_blocks:
                stop = int(layout.stops[np.searchsorted(layout.stops, b, side="right")])
                self.watch.tick("block {} of {}", b, n_blocks)
                first, b = b, self.sweep(b, stop, self.cold)
                b = self.first_doubtful(first, b)
                if b == stop:
                    continue
                if self.status[b] == forward.LARGE:
                    self.newton_large(b, self.cold)
                    self.first_doubtful(b, b + 1)
                if self.status[b] in CLIMBED_FROM and options.ladder:
                    self.climb(b)
                if self.status[b] == forward.NOT_FINITE and not layout.needed[layout.ptr[b]]:
                    # a definition that no constraint uses: `check_finite` tells when it is asked for
                    self.status[b] = forward.SOLVED
                if self.status[b] not in (forward.SOLVED, forward.MULTIPLE_ROOT):
                    raise self.failure(b)
                b += 1
        except OutOfTime:
            raise self.failure(min(b, n_blocks - 1), out_of_time=True) from None
        if layout.lower.size:
            _check_bounds(layout, self.v, self.iterations)
        for block, typical in self.typical.items():
            self.magnitude[layout.ptr[block] : layout.ptr[block + 1]] = typical
        block_residual = per_block(layout.ptr, scaled_residual(self.residual, self.magnitude))
        report = Report(
            layout, self.watch.seconds, self.iterations, block_residual, self.attempts, self.counters
        )
        multiple = self.status == forward.MULTIPLE_ROOT
        groups = frozenset(self.large[block][0] for block in self.evaluated)
        evaluated = (
            Evaluated(groups, self.v.copy(), self.residual, self.magnitude, self.data) if groups else None
        )
        return Solution(
            layout, self.v, report, multiple, self.lent,
            typical=self.typical, far=frozenset(self.far), evaluated=evaluated,
        )  # fmt: skip

    def all_at_once(self) -> bool:
        """Assign all states by flat code, where all rows are explicit and there are many; whether they are finite."""
        layout = self.layout
        if layout.n < FLAT_FROM or layout.flat is None:
            return False
        reg = layout.flat.values()
        reg[: layout.m] = self.v[: layout.m]
        finite, _ = layout.flat.evaluate(reg)
        if finite:
            self.v[layout.m :] = reg[layout.flat.where]
        return finite

    def sweep(self, first: int, stop: int, cold: bool) -> int:
        """Blocks [first, stop) in compiled code; the first that is large or fails, or `stop`.

        Compiled code looks at no clock, so a block that needs more than `LONG` iterations takes them by as many.
        """
        layout, machine, options = self.layout, self.layout.machine, self.options
        before = 0
        while True:
            reached: int = forward.sweep(
                first, stop, self.large_from, layout.ptr, layout.kind, machine.tapes, machine.terms, machine.rows,
                self.scratch, machine.m, machine.nnz_u, layout.scale, layout.lower, layout.upper,
                layout.opening_ptr, layout.opening, cold, min(options.max_iterations - before, LONG),
                options.tolerance, self.v, self.data, self.residual, self.magnitude, self.status, self.iterations,
            )  # fmt: skip
            if before:
                self.iterations[first] += before
                before = 0
            if reached == stop or self.status[reached] != forward.TOO_MANY_ITERATIONS:
                return reached
            before = int(self.iterations[reached])
            if before >= options.max_iterations:
                return reached
            self.watch.tick("block {}: Newton iteration {}", reached, before)
            first, cold = reached, False

    def first_doubtful(self, first: int, stop: int) -> int:
        """The first of blocks [first, stop) whose root is multiple and in doubt, marked as not solved; or `stop`."""
        for b in (first + np.flatnonzero(self.status[first:stop] == forward.MULTIPLE_ROOT)).tolist():
            block = BlockEquations(self.layout, b, self.v, self.residual, self.magnitude, self.data)
            reason = doubt(block, self.options.tolerance)
            if reason:
                self.status[b] = forward.STALLED
                self.doubts[b] = reason
                return int(b)
        return stop

    def large_newton(self, b: int) -> _LargeNewton:
        group, block = self.large[b]
        return _LargeNewton(
            self.layout, group, block, self.v, self.residual, self.magnitude, self.data, self.watch,
            None if self.near is None else self.near.lent.get(b),
        )  # fmt: skip

    def newton_large(self, b: int, cold: bool) -> None:
        newton = self.large_newton(b)
        self.status[b], self.iterations[b] = newton.run(cold, self.options)
        for known in (self.far, self.evaluated):
            known.discard(b)
        self.typical.pop(b, None)
        if newton.typical is not None and self.status[b] == forward.SOLVED:
            self.typical[b] = newton.typical
        if newton.factor is not None:
            self.lent[b] = newton.factor
            if newton.far():
                self.far.add(b)
        if self.status[b] == forward.SOLVED:
            self.evaluated.add(b)

    def climb(self, b: int) -> None:
        """The ladder for block b, from where solving began, from where Newton ended, and from the guess."""
        layout, options = self.layout, self.options
        lo, hi = int(layout.ptr[b]), int(layout.ptr[b + 1])
        block = BlockEquations(layout, b, self.v, self.residual, self.magnitude, self.data)
        here = self.v[layout.m + lo : layout.m + hi]  # a view
        ended = here.copy()
        attempts = self.attempts.setdefault(b, [])
        attempts.append(self.newton_attempt(b))
        starts = [block.opened(layout.guess[lo:hi]), ended]
        if not self.cold:
            starts.insert(0, self.start[lo:hi])

        def newton(u: Floats) -> tuple[int, int]:
            here[:] = u
            if b in self.large:
                self.newton_large(b, False)
            else:
                self.sweep(b, b + 1, False)
            return int(self.status[b]), int(self.iterations[b])

        run: Newton = newton
        with np.errstate(
            all="ignore"
        ):  # methods that go astray overflow, and what is not finite is not taken
            climbed = climb(
                block, starts, int(self.status[b]), run, attempts,
                options.max_iterations, options.tolerance, self.watch,
            )  # fmt: skip
        self.evaluated.discard(b)  # the ladder evaluates at other points as well
        self.status[b], self.iterations[b] = climbed.status, climbed.iterations
        if climbed.typical is not None:
            self.typical[b] = climbed.typical
            if climbed.status == forward.MULTIPLE_ROOT:
                self.lent.pop(b, None)

    def newton_attempt(self, b: int) -> Attempt:
        lo, hi = int(self.layout.ptr[b]), int(self.layout.ptr[b + 1])
        scaled = scaled_residual(self.residual[lo:hi], self.magnitude[lo:hi])
        iterations = int(self.iterations[b])
        outcome = _REASONS.get(int(self.status[b]), "not solved").format(iterations=iterations)
        outcome = self.doubts.pop(b, outcome)
        return Attempt("newton", iterations, float(scaled.max(initial=0.0)), outcome)

    def failure(self, b: int, out_of_time: bool = False) -> ConvergenceError | EvaluationError:
        if out_of_time:
            reason = f"the time limit of {self.options.time_limit:g} s was reached"
        else:
            reason = ""
            if not (self.options.ladder and self.attempts.get(b)):
                self.attempts.setdefault(b, []).append(self.newton_attempt(b))
        error = _failure(
            self.layout, b, int(self.status[b]), reason, self.attempts.get(b, ()), self.v, self.residual,
            self.magnitude,
        )  # fmt: skip
        error.point = self.v.copy()
        return error


def _check_bounds(layout: Layout, v: Floats, iterations: NDArray[np.int32]) -> None:
    """Explicit states cannot be kept within bounds while solving; one outside is reported, never returned."""
    u = v[layout.m :]
    room = 4.0 * forward.EPS * np.abs(u)
    outside = np.flatnonzero((u < layout.lower - room) | (u > layout.upper + room))
    if outside.size:
        k = int(outside[0])
        b = int(np.searchsorted(layout.ptr, k, side="right")) - 1
        raise ConvergenceError(
            b,
            *layout.block_names(b),
            f"{layout.state_name(k)} = {u[k]:.6g} lies outside its bounds [{layout.lower[k]:.6g}, "
            f"{layout.upper[k]:.6g}].",
            "An explicit state is what its definition says: widen its bounds or change the parameters.",
            values={layout.state_name(k): float(u[k])},
        )


_REASONS = {
    forward.TOO_MANY_ITERATIONS: "no convergence in {iterations} iterations",
    forward.SINGULAR_ITERATE: "the Jacobian became singular after {iterations} iterations",
    forward.STALLED: "no step along the Newton direction reduces the error, after {iterations} iterations",
}


def _failure(
    layout: Layout,
    b: int,
    status: int,
    reason: str,
    attempts: Sequence[Attempt],
    v: Floats,
    residual: Floats,
    magnitude: Floats,
) -> ConvergenceError | EvaluationError:
    """`reason`: why solving ended, where it was not the block itself that failed."""
    lo, hi = int(layout.ptr[b]), int(layout.ptr[b + 1])
    names = layout.block_names(b)
    values = {layout.state_name(k): float(v[layout.m + k]) for k in range(lo, min(hi, lo + 50))}
    if status == forward.NOT_FINITE and not reason:
        if layout.kind[b] == EXPLICIT:
            return undefined_value(layout, lo, v)
        bad = [k for k in range(lo, hi) if not np.isfinite(residual[k])]
        where = layout.row_name(bad[0]) if bad else names[0][0]
        causes = (culprit(layout, v, k) for k in (bad or range(lo, hi)))
        cause = next((c for c in causes if c), "")
        return EvaluationError(
            b,
            *names,
            f"constraint {where} or one of its partials is not finite at the starting values"
            f"{f': {cause}' if cause else ''}.",
            "Give guesses (and bounds) inside the domain of log, sqrt, powers and divisions.",
        )
    scaled = scaled_residual(residual[lo:hi], magnitude[lo:hi])
    order = np.argsort(-scaled, kind="stable")[:WORST] + lo
    listed = ", ".join(
        f"{residual[k]:.3g} in {layout.row_name(k)} (terms of size {magnitude[k]:.3g} should cancel)"
        for k in order.tolist()
        if scaled[k - lo] > 0.0
    )
    underflow = bool((magnitude[lo:hi] < forward.UNDERFLOW).all())
    nothing = "all terms underflow" if underflow else "all residuals are zero"
    where = f"largest residuals {listed}" if listed else f"{nothing} at the last point"
    if not np.any(magnitude[lo:hi]) and reason:  # out of time before the block was looked at
        where = ""
    first = attempts[0].outcome if attempts else ""
    others = {f"{a.method} ({a.outcome})": None for a in attempts[1:]}  # once each, in order
    return ConvergenceError(
        b,
        *names,
        "; ".join(part for part in (reason, first, where) if part)
        + (f". Tried as well: {'; '.join(others)}." if others else "."),
        "Give guesses nearer to a solution, bounds that exclude wrong branches, or check that one exists.",
        attempts=attempts,
        values=values,
    )


class _LargeNewton:
    """The damped Newton method of `assembly.forward` for one large block, on sparse factors."""

    def __init__(
        self,
        layout: Layout,
        group: int,
        block: LargeBlock,
        v: Floats,
        residual: Floats,
        magnitude: Floats,
        data: Floats,
        watch: Watch,
        near: SparseFactor | None,
    ) -> None:
        self.layout, self.group, self.block, self.watch, self.near = layout, group, block, watch, near
        self.v, self.residual, self.magnitude, self.data = v, residual, magnitude, data
        self.rows = slice(block.lo, block.hi)
        self.u = v[layout.m + block.lo : layout.m + block.hi]  # a view: writing it moves v
        self.factor: SparseFactor | None = None
        self.factored: Floats | None = None  # the values that it is of
        self.entries = np.empty(0)  # the partials inside the block as last evaluated
        self.gain = 1.0  # what another step on the factor at hand would leave of the error
        self.bend = np.inf  # what a Newton step left, per length
        self.typical: Floats | None = None  # magnitudes by which the root was accepted, if not its own

    def evaluate(self) -> bool:
        """R, magnitudes and partials of the block at v; whether all are numbers."""
        self.layout.pattern.counters.add("evaluations")
        self.layout.machine.group_jacobian(self.group, self.v, self.residual, self.magnitude, self.data)
        self.entries = self.data[self.block.slots]
        return self.finite

    @property
    def finite(self) -> bool:
        """Whether R, magnitudes and partials as last evaluated are numbers."""
        return bool(
            np.isfinite(self.residual[self.rows]).all()
            and np.isfinite(
                self.magnitude[self.rows]
            ).all()  # nan where a partial by a parameter is not finite
            and np.isfinite(self.entries).all()
        )

    @property
    def held(self) -> tuple[Floats, ...]:
        """u and all that an evaluation writes but `entries`, as views."""
        machine, lo, hi = self.layout.machine, self.block.lo, self.block.hi
        a, b = machine.rows.a_ptr, machine.nnz_u + machine.rows.b_ptr
        by_states, by_parameters = self.data[a[lo] : a[hi]], self.data[b[lo] : b[hi]]
        return self.u, self.residual[self.rows], self.magnitude[self.rows], by_states, by_parameters

    def within(self, bound: float) -> bool:
        return bool((np.abs(self.residual[self.rows]) <= bound * self.magnitude[self.rows]).all())

    def evaluate_residual(self) -> bool:
        """R of the block at v, nothing else; whether all are numbers."""
        self.layout.pattern.counters.add("residuals")
        self.layout.machine.group_residual(self.group, self.v, self.residual)
        return bool(np.isfinite(self.residual[self.rows]).all())

    def vanishing(self, bound: float) -> bool:
        """`within` by magnitudes that the block's definitions pass on, which then become `typical`.

        Terms of a constraint that are zero but for rounding do not cancel: see `propagated_magnitude`.
        """
        entries = np.abs(self.entries)
        magnitude = propagated_magnitude(
            self.layout, self.block.lo, self.block.hi, self.magnitude[self.rows],
            lambda x: _times(self.block, entries, x),
        )  # fmt: skip
        if not (np.abs(self.residual[self.rows]) <= bound * magnitude).all():
            return False
        self.typical = magnitude
        return True

    def factorize(self) -> bool:
        entries, block, near = self.entries, self.block, self.near if self.factor is None else self.factor
        if near is not None:
            self.factor = near.refactor(entries)
        else:
            values = partial(_reference_values, self.layout, block)
            self.factor = block.reference.factor(entries, block.pattern, values)
        self.factored = entries
        return self.factor.status == REGULAR

    def solve(self, rhs: Floats) -> Floats:
        assert self.factor is not None
        return self.factor.solve(rhs)

    def step(self, start: Floats, step: Floats, damping: float) -> bool:
        """Move to start + damping · step, short of the bounds; whether a bound was in the way."""
        x = start + damping * step
        bounded = False
        if self.layout.lower.size:
            low, high = self.layout.lower[self.rows], self.layout.upper[self.rows]
            below, above = x <= low, x >= high
            bounded = bool(below.any() or above.any())
            x[below] = start[below] + forward.TO_BOUND * (low[below] - start[below])
            x[above] = start[above] + forward.TO_BOUND * (high[above] - start[above])
        self.u[:] = x
        return bounded

    def run(self, cold: bool, options: Options) -> tuple[int, int]:
        """(status, iterations); steps on the factor of a solution before count as one."""
        layout, exact, noise = self.layout, forward.EXACT * forward.EPS, forward.NOISE * forward.EPS
        if cold:
            open_block(layout, self.block.block, self.v)
        scale = layout.scale[self.rows]
        damping, contraction, expected = 1.0, 1.0, np.inf
        start, solved = self.u.copy(), self.warm(scale)
        if solved and self.unbent(self.u - start, np.maximum(np.abs(start), scale)):
            return forward.SOLVED, 1
        self.factor = None
        begun = int(solved is not None)
        if solved is None:
            self.u[:], self.gain, self.bend = start, 1.0, np.inf
            if not self.evaluate():
                return forward.NOT_FINITE, 0
        for it in range(options.max_iterations + 1):
            if self.within(exact):
                return self._simple(contraction), begun + it
            if it == options.max_iterations:
                break
            self.watch.tick("block {}, {} states: Newton iteration {}", self.block.block, self.u.size, it)
            if not self.factorize():
                return forward.SINGULAR_ITERATE, begun + it
            step = self.solve(-self.residual[self.rows])
            start = self.u.copy()
            weight = np.maximum(np.abs(start), scale)
            length = float((np.abs(step) / weight).max())
            if not np.isfinite(length):
                return forward.SINGULAR_ITERATE, begun + it
            if length > 2.0 * expected:
                contraction = 1.0
            self.gain = min(1.0, 2.0 * self.bend * length)
            noisy = self.within(noise)
            damping = min(1.0, 4.0 * damping)
            correction, after = step, length
            quick = self.gain <= CHORD and self.pays(step)  # no partials will be asked for
            while True:
                bounded = self.step(start, step, damping)
                shorter = 0.25 * damping
                if self.evaluate_residual() if quick else self.evaluate():
                    if self.within(exact) and (not quick or (self.evaluate() and self.within(exact))):
                        return self._simple(contraction), begun + it + 1
                    correction = self.solve(-self.residual[self.rows])
                    after = float((np.abs(correction) / weight).max())
                    if after <= (1.0 - 0.25 * damping) * length:
                        break
                    bend = float((np.abs(correction - (1.0 - damping) * step) / weight).max())
                    best = 0.5 * length * damping * damping / bend if bend > 0.0 else 0.0
                    shorter = min(max(best, 0.1 * damping), 0.5 * damping)
                near = length <= CLOSE
                if noisy or near or shorter < forward.SMALLEST:
                    self.u[:] = start
                    self.evaluate()
                    if noisy or (near and self.vanishing(noise)):
                        return self._simple(contraction), begun + it
                    if shorter < forward.SMALLEST:
                        return forward.STALLED, begun + it
                damping = shorter
            expected = np.inf
            whole = damping == 1.0 and not bounded
            if not whole:
                contraction = 1.0
            else:
                expected = after
                measured = not self.within(noise)  # of rounding it would say nothing
                if measured:
                    contraction = after / length
                    # at the root the factors are as far off as the step was long; on the way, half as far
                    self.gain, self.bend = 2.0 * contraction, contraction / length
                useful = contraction if measured else self.gain
                if useful <= CHORD and self.pays(correction):
                    if self.keep(correction, after, weight):
                        return self._simple(contraction), begun + it + 1
                    expected = np.inf
                    continue
            if quick and not self.evaluate():  # R is finite there, and a partial is not
                self.u[:], self.bend = start, np.inf
                self.evaluate()
                continue
            small = whole and bool((np.abs(correction) <= forward.STEP * np.abs(self.u)).all())
            if small and contraction <= forward.QUADRATIC and self.within(options.tolerance):
                before = self.u.copy()
                self.u += correction
                if self.evaluate():
                    if self.within(noise):
                        return forward.SOLVED, begun + it + 1
                else:
                    self.u[:] = before
                    self.evaluate()
        return forward.TOO_MANY_ITERATIONS, options.max_iterations

    def warm(self, scale: Floats) -> bool | None:
        """Steps on the factors of a solution nearby, if one of them leaves little of the next.

        Whether the block is solved at their end, where residual and partials are then at hand; None: they do not serve.
        Partials at the start are not asked for, and magnitudes are those of the solution nearby until the end.
        """
        near, noise = self.near, forward.NOISE * forward.EPS
        if near is None or near.status != REGULAR or not self.evaluate_residual():
            return None
        self.factor, start, residual = near, self.u.copy(), self.residual[self.rows].copy()
        weight = np.maximum(np.abs(start), scale)
        step = self.solve(-residual)
        length = float((np.abs(step) / weight).max())
        if not 0.0 < length < np.inf or self.step(start, step, 1.0) or not self.evaluate_residual():
            return None
        correction = self.solve(-self.residual[self.rows])
        after = float((np.abs(correction) / weight).max())
        if not after <= CHORD * length:
            return None
        self.gain, self.bend = after / length, after / length**2
        solved = self.keep(correction, after, weight)
        # of rounding noise it would say nothing that a step on it leaves little
        told = bool((np.abs(residual) > noise * self.magnitude[self.rows]).any())
        return solved if told and self.finite else None

    def left(self, step: Floats) -> float:
        """The largest change of a state relative to its size in a step, 1 at most."""
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.where(step == 0.0, 0.0, np.abs(step) / np.abs(self.u))
        return min(1.0, float(change.max()))

    def pays(self, step: Floats) -> bool:
        """Whether going on with the factor at hand is cheaper than a new one; `step` is the next.

        The factor at hand leaves `gain` of the error in each step, one for the next point about gain² of it, and
        so takes half as many steps. In both cases a step is a solve and a residual; a new factor needs all partials
        as well.
        """
        assert self.factor is not None
        steps = more_steps(self.left(step), self.gain, 0.25 * forward.EPS)
        residual = self.layout.machine.group_operations[self.group] / self.factor.entries
        return 0.5 * steps * (1.0 + residual) < self.factor.price + JACOBIAN * residual

    def unbent(self, moved: Floats, weight: Floats) -> bool:
        """Whether along `moved`, the way from where the factor at hand is of, the Jacobian here is still that matrix.

        How much a step leaves of the next tells of the mean Jacobian on the way alone. Where the step ends, the
        Jacobian may vanish: (y - a) (y - a - p) is linear from the root at a + 1, p = 1, to the double one at a, p = 0.
        State by state, because one that moves farther than others must not speak for them.
        """
        here = self.solve(_times(self.block, self.entries, moved))
        floor = FLOOR * float((np.abs(moved) / weight).max()) * weight
        return bool((np.abs(here - moved) <= forward.BENT * np.maximum(np.abs(moved), floor)).all())

    def keep(self, correction: Floats, after: float, weight: Floats) -> bool:
        """Steps on the factor at hand, `correction` first, of length `after`, while each is far shorter than the last.

        Whether the block is solved at their end, by all that is asked of a solution; residual and partials are
        evaluated there, and the former is finite.
        """
        end = self.to_end(correction, after, weight)
        return self.evaluate() and end and self.within(forward.NOISE * forward.EPS)

    def to_end(self, correction: Floats, after: float, weight: Floats) -> bool:
        """The steps of `keep`; whether others would change nothing, or no longer less than the last."""
        while True:
            before = self.u.copy()
            if self.step(before, correction, 1.0) or not self.evaluate_residual():
                self.u[:] = before
                return False
            if self.left(correction) * self.gain <= 0.25 * forward.EPS:
                return True
            correction = self.solve(-self.residual[self.rows])
            if self.within(forward.EXACT * forward.EPS):
                # what is left is smooth, as rounding is not, and the last step costs no more
                self.u += correction
                return True
            reached = float((np.abs(correction) / weight).max())
            self.gain = reached / after
            if not self.gain <= CHORD:
                return True
            after = reached
            if not self.pays(correction):
                return False

    def far(self) -> bool:
        """Whether the Jacobian at the solution is to be factored for what is solved there with it.

        That is where refinement with the factor at hand would cost more; and where a partial is zero in one of the two
        and not in the other, for then a multiplier that is zero would come out as rounding.
        """
        assert self.factor is not None
        if self.factor.status != REGULAR:
            return False
        if self.factored is not None and ((self.factored == 0.0) != (self.entries == 0.0)).any():
            return True
        refinements = max(0.0, more_steps(1.0, self.gain, forward.EPS) - 1.0)
        return (
            REFINEMENT * (refinements + 1.0) - 1.0 > self.factor.price
        )  # and the residual of the first solution

    def _simple(self, contraction: float) -> int:
        """SOLVED, or MULTIPLE_ROOT by the test that ends `assembly.forward._newton`."""
        if contraction <= forward.QUADRATIC:
            return forward.SOLVED
        if not self.factorize():
            return forward.MULTIPLE_ROOT
        self.gain = 0.0
        start, block = self.u.copy(), self.block
        magnitude = self.magnitude[self.rows].copy() if self.typical is None else self.typical
        step = self.solve(forward.NOISE * forward.EPS * magnitude)
        weight = np.maximum(np.abs(start), self.layout.scale[self.rows])
        length = float((np.abs(step) / weight).max())
        seen = _times(block, np.abs(self.entries), weight)
        if (seen <= forward.NOISE * forward.EPS * magnitude).any():
            return forward.MULTIPLE_ROOT
        if length == 0.0:
            length, step = forward.EPS, forward.EPS * weight
        here, r = self.entries, self.residual[self.rows].copy()
        held = [part.copy() for part in self.held]
        self.u[:] = start + step
        self.evaluate()
        change = self.solve(_times(block, self.entries - here, step))
        straight = _times(block, here, step)
        if self.typical is None:
            magnitude = self.magnitude[self.rows]
        allowed = forward.BENT * np.abs(straight) + forward.EXACT * forward.EPS * magnitude
        off = np.abs(self.residual[self.rows] - r - straight)  # nan where the step left a domain
        for part, before in zip(self.held, held, strict=True):
            part[:] = before
        self.entries = here
        simple = (off <= allowed).all() and (np.abs(change) <= forward.BENT * length * weight).all()
        return forward.SOLVED if simple else forward.MULTIPLE_ROOT


def _times(block: LargeBlock, entries: Floats, x: Floats) -> Floats:
    """The diagonal block with these entries times x."""
    pattern, out = block.pattern, np.empty(x.size)
    times(pattern.indptr, pattern.indices, pattern.n, entries, x, out)
    return out
