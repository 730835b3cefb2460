"""Solving block by block, and the Solution that comes out.

Takes a layout and parameter values, gives a `Solution`: states, report, certificate, derivatives. Explicit,
implicit and small cyclic blocks run inside the compiled sweep (`assembly.forward`), large ones by its twin on sparse
factors (`lagrad.large`).
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
from lagrad.block import BlockEquations, open_block
from lagrad.certificate import Certificate, certify, per_block, scaled_residual
from lagrad.derivatives import Derivatives, Differentiator, check_strict, kink_names, undefined_value
from lagrad.domain import culprit
from lagrad.errors import ConvergenceError, EvaluationError
from lagrad.expr.expression import Expression
from lagrad.ladder import Attempt as Attempt
from lagrad.ladder import Newton, climb, doubt
from lagrad.large import LargeNewton
from lagrad.layout import Layout
from lagrad.linalg.blocks import LargeBlock
from lagrad.linalg.sparse import Counters, SparseFactor
from lagrad.linearize import Evaluated, Linearization
from lagrad.watch import OutOfTime, Watch

if TYPE_CHECKING:
    from lagrad.assembly.flat import FlatPoint

Floats = NDArray[np.float64]

EXPLICIT = 0
FLAT_FROM = 256  # explicit rows from which on a solution is differentiated as flat code: below, its kernels do not pay
LONG = 1000  # Newton iterations of a small block between two looks at the clock, and at a person's Ctrl-C
WORST = 3  # residuals that a message names
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
        self.scratch = forward.Scratch.of(machine.registers, layout.largest_small, layout.together)

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
        before = 0  # iterations that block `first` has had
        while True:
            reached: int = forward.sweep(
                first, first + 1 if before else stop, self.large_from, layout.ptr, layout.kind, machine.tapes,
                machine.terms, machine.rows, self.scratch, machine.m, machine.nnz_u, layout.scale, layout.lower,
                layout.upper, layout.opening_ptr, layout.opening, layout.alike, cold and not before,
                min(options.max_iterations - before, LONG), options.tolerance, self.v, self.data, self.residual,
                self.magnitude, self.status, self.iterations,
            )  # fmt: skip
            if before:
                self.iterations[first] += before
                before = 0
                if first < reached < stop:
                    first = reached
                    continue
            if reached == stop or self.status[reached] != forward.TOO_MANY_ITERATIONS:
                return reached
            before = int(self.iterations[reached])
            if before >= options.max_iterations:
                return reached
            self.watch.tick("block {}: Newton iteration {}", reached, before)
            first = reached

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

    def large_newton(self, b: int) -> LargeNewton:
        group, block = self.large[b]
        return LargeNewton(
            self.layout, group, block, self.v, self.residual, self.magnitude, self.data, self.watch,
            None if self.near is None else self.near.lent.get(b), partial(_reference_values, self.layout, block),
        )  # fmt: skip

    def newton_large(self, b: int, cold: bool) -> None:
        newton = self.large_newton(b)
        self.status[b], self.iterations[b] = newton.run(
            cold, self.options.max_iterations, self.options.tolerance
        )
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
