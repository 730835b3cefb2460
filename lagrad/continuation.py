"""Continuation: following the solutions of a whole system along a path of its parameters, past turning points.

Takes a layout, a path t -> parameters and a solution on it; gives a `Branch`. All blocks move together, on the factors
of the whole block triangular matrix. Every point is corrected until only rounding is left in its residuals, as a
solution is; derivatives are to be had from `Branch.solution`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad import arclength
from lagrad.assembly import forward
from lagrad.certificate import scaled_residual
from lagrad.errors import ConvergenceError, DeclarationError, EvaluationError, ShapeError
from lagrad.ladder import Attempt
from lagrad.layout import Layout, numbers
from lagrad.linalg.blocks import BlockFactors
from lagrad.solve import Options, Solution, solve
from lagrad.watch import OutOfTime, Watch

if TYPE_CHECKING:
    import scipy.sparse as sp

Floats = NDArray[np.float64]
Path = str | Mapping[str, ArrayLike] | Callable[[float], Mapping[str, ArrayLike]]

DIFFERENCE = 1e-6  # step in t, relative to its range, for the direction of a path given as a function
REFINEMENTS = 4  # corrections of a point after it counts as being on the curve, while they still help
FOLD_STEPS = 60  # halvings of the step in which t turns, at most
FOLD_CLOSE = 1e-9  # step, relative to the first, at which a turning point is found; t is exact to its square
FIRST = 0.1  # first step, relative to the longest
ARRIVED = "arrived"


@dataclass(frozen=True, eq=False)
class TurningPoint:
    """A fold: t stops growing and falls, or the reverse. The Jacobian is singular there.

    `t` is its value, `after` the number of the last point before it, `states` {name: value}.
    """

    t: float
    after: int
    states: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Branch:
    """Solutions along a path, in order: `t` (k,), and `branch["y"]` (k, *shape of y) for any name.

    `turning_points` are the folds between them, `ended` says why the branch stops where it does, and
    `branch.solution(i)` is the Solution at point i, with its derivatives and certificate.
    """

    layout: Layout
    t: Floats  # (k,)
    v: Floats = field(repr=False)  # (k, m+n)
    turning_points: tuple[TurningPoint, ...]
    ended: str
    options: Options = field(repr=False)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, name: str) -> Floats:
        index, shape = self.layout.find_value(name)
        return self.v[:, index].reshape((len(self), *shape))

    def solution(self, i: int) -> Solution:
        """Point i as a Solution. Raises `ConvergenceError` where Newton's method cannot hold it (at a fold)."""
        m = self.layout.m
        return solve(self.layout, self.v[i, :m].copy(), self.v[i, m:], self.options)

    def __repr__(self) -> str:
        folds = ", ".join(f"{p.t:.8g}" for p in self.turning_points) or "none"
        ends = f"t = {self.t[0]:.6g} to {self.t[-1]:.6g}"
        return f"Branch of {self.layout.name!r}: {len(self)} points, {ends}; turning points: {folds}; {self.ended}"


@dataclass(frozen=True, eq=False)
class _Factored:
    """R_u of the whole system, factored when first needed."""

    layout: Layout
    data: Floats

    @cached_property
    def matrix(self) -> sp.csr_array:
        import scipy.sparse as sp

        rows, n = self.layout.machine.rows, self.layout.n
        return sp.csr_array((self.data, rows.a_col, rows.a_ptr), shape=(n, n))

    @cached_property
    def _factors(self) -> BlockFactors:
        return self.layout.pattern.factor(self.data)

    def solve(self, rhs: Floats) -> Floats:
        return self._factors.solve(rhs)


class _Curve:
    """R(u, p(t)) = 0 as `arclength` asks for it."""

    def __init__(
        self,
        layout: Layout,
        along: Callable[[float], Floats],
        slope: Callable[[float], Floats],
        watch: Watch,
    ) -> None:
        self.layout, self.along, self.slope, self.watch = layout, along, slope, watch
        self.scaled = np.inf  # largest residual, relative to what cancels in it, at the last point asked for

    def __call__(self, u: Floats, t: float) -> arclength.Values | None:
        import scipy.sparse as sp

        layout = self.layout
        machine = layout.machine
        self.watch.tick("continuation: t = {:.6g}", t)
        p = self.along(t)
        if not (np.isfinite(u).all() and np.isfinite(p).all()):
            return None
        if layout.lower.size and not ((u >= layout.lower) & (u <= layout.upper)).all():
            return None
        residual, magnitude, data = machine.jacobian(np.concatenate([p, u]))
        if not (np.isfinite(residual).all() and np.isfinite(data).all()):
            return None
        self.scaled = float(scaled_residual(residual, magnitude).max(initial=0.0))
        nnz, rows = machine.nnz_u, machine.rows
        by_p = sp.csr_array((data[nnz:], rows.b_col, rows.b_ptr), shape=(machine.n, machine.m))
        by_t = np.asarray(by_p @ self.slope(t)) if machine.m else np.zeros(machine.n)
        return arclength.Values(residual, _Factored(layout, data[:nnz]), by_t)

    def exact(self, node: arclength.Node, w_t: float, tolerance: float) -> tuple[Floats, float] | None:
        """The node corrected until only rounding is left in the residuals; None if that is not to be had."""
        u, t, w = node.u, node.t, node.w
        row = (node.du / w**2 / max(w.size, 1), node.dt / w_t**2)
        best: tuple[float, Floats, float] | None = None
        for _ in range(REFINEMENTS):
            at = self(u, t)
            if at is None or (best is not None and self.scaled >= best[0]):
                break
            best = self.scaled, u, t
            if best[0] <= forward.EXACT * forward.EPS:
                break
            step = arclength.bordered(at.by_u, at.by_t, *row, -at.h, 0.0)
            if step is None:
                break
            u, t = u + step[0], t + step[1]
        return (best[1], best[2]) if best is not None and best[0] <= tolerance else None


def read_path(
    layout: Layout, path: Path, p: Floats, to: float | None
) -> tuple[Callable[[float], Floats], Callable[[float], Floats], float, float]:
    """p(t), dp/dt(t), the first t and the last."""
    if to is not None and not isinstance(to, (int, float)):  # nan is no path, told below
        to = float(numbers("to", to, ()))
    if isinstance(path, str):
        index, shape = layout.find_parameter(path)
        if index.size != 1:
            raise ShapeError(
                path, shape, "a scalar", "Follow one element, or give a path {name: last value}."
            )
        if to is None:
            raise DeclarationError(path, "continuation along a parameter needs `to`, the value to go to.")
        one = np.zeros(layout.m)
        one[index] = 1.0
        start = float(p[index[0]])
        return (lambda t: p + (t - start) * one), (lambda t: one), start, float(to)
    last = 1.0 if to is None else float(to)
    if isinstance(path, Mapping):
        there = p.copy()
        for name, value in path.items():
            index, shape = layout.find_parameter(name)
            there[index] = numbers(name, value, shape).ravel()
        leg = there - p
        return (lambda t: p + t * leg), (lambda t: leg), 0.0, last
    if not callable(path):
        raise DeclarationError(
            "path", f"{path!r} is no path.", "Give a name, {name: last value} or a function of t."
        )

    def along(t: float) -> Floats:
        out = p.copy()
        for name, value in path(t).items():
            index, shape = layout.find_parameter(name)
            out[index] = numbers(name, value, shape).ravel()
        return out

    h = DIFFERENCE * (abs(last) or 1.0)
    return along, (lambda t: (along(t + h) - along(t - h)) / (2.0 * h)), 0.0, last


@np.errstate(all="ignore")  # trial points may overflow, and what is not finite is not taken
def trace(
    layout: Layout,
    start: Solution,
    along: Callable[[float], Floats],
    slope: Callable[[float], Floats],
    first: float,
    last: float,
    *,
    step: float,
    max_points: int,
    options: Options,
    watch: Watch,
) -> Branch:
    """The branch through `start`, which solves the system at t = first, until t = last or back at first."""
    curve = _Curve(layout, along, slope, watch)
    span = abs(last - first)
    if not (np.isfinite(span) and span > 0.0 and step > 0.0):
        raise DeclarationError(
            "continuation", "the path has no length: `to` is where it begins, or not finite."
        )
    ts, us, folds = [first], [start.v[layout.m :]], []
    ended = f"no step leads on from t = {first:.6g}"
    before: arclength.Node | None = None
    nodes = arclength.follow(
        curve, us[0], first, last - first, scale=layout.scale, w_t=span, first=FIRST * step, longest=step
    )
    try:
        for node in nodes:
            if before is None:
                before = node
                continue
            if before.dt * node.dt < 0.0:
                fold = _fold(curve, before, node, span, options.tolerance)
                if fold is not None:
                    u, t = fold
                    folds.append(TurningPoint(t, len(ts) - 1, layout.split_states(u)))
            over = next((end for end in (last, first) if (before.t - end) * (node.t - end) < 0.0), None)
            if over is not None or node.t == last:
                end = last if over is None else over
                landed = _landing(layout, before, node, along, end, options)
                if landed is None:
                    ended = f"the point at t = {end:.6g} could not be solved"
                else:
                    ts.append(end)
                    us.append(landed)
                    ended = ARRIVED if ts[-1] == last else "back where it began"
                break
            point = curve.exact(node, span, options.tolerance)
            if point is None:
                ended = f"residuals at t = {node.t:.6g} cannot be brought down to rounding"
                break
            us.append(point[0])
            ts.append(point[1])
            before = node
            ended = f"no step leads on from t = {node.t:.6g}"
            if len(ts) >= max_points:
                ended = f"{max_points} points"
                break
    except OutOfTime:
        ended = f"the time limit of {options.time_limit:g} s was reached"
    v = np.array([np.concatenate([along(t), u]) for t, u in zip(ts, us, strict=True)])
    return Branch(layout, np.array(ts), v, tuple(folds), ended, options)


def _landing(
    layout: Layout,
    before: arclength.Node,
    node: arclength.Node,
    along: Callable[[float], Floats],
    end: float,
    options: Options,
) -> Floats | None:
    """The states at t = end, between two points of the curve."""
    share = (end - before.t) / (node.t - before.t) if node.t != before.t else 1.0
    for u in (before.u + share * (node.u - before.u), node.u):
        try:
            return solve(layout, along(end), u, options).v[layout.m :]
        except (ConvergenceError, EvaluationError):
            continue
    return None


def _fold(
    curve: _Curve, before: arclength.Node, node: arclength.Node, w_t: float, tolerance: float
) -> tuple[Floats, float] | None:
    """(u, t) where t turns, between two points: the step from the first at which the tangent has no t in it."""
    row = (before.du / before.w**2 / max(before.w.size, 1), before.dt / w_t**2)

    def at(h: float) -> arclength.Node | None:
        found = arclength.correct(
            curve, before.u + h * before.du, before.t + h * before.dt, row, before.w, w_t
        )
        if found is None:
            return None
        u, t, values, _ = found
        along = arclength.tangent(values, before.du, before.dt, before.w, w_t)
        return None if along is None else arclength.Node(u, t, *along, h, before.w)

    # regula falsi by the Illinois rule: b is the newest point, and an end that stays counts half
    a, fa, b, fb = 0.0, before.dt, node.step, node.dt
    middle = node
    for _ in range(FOLD_STEPS):
        h = (a * fb - b * fa) / (fb - fa)
        found = at(h)
        if found is None:
            return None
        middle = found
        if abs(b - a) <= FOLD_CLOSE * node.step or abs(middle.dt) <= FOLD_CLOSE * abs(before.dt):
            break
        if middle.dt * fb < 0.0:
            a, fa = b, fb
        else:
            fa *= 0.5
        b, fb = h, middle.dt
    return curve.exact(middle, w_t, tolerance)


def solve_from(layout: Layout, start: Solution, p: Floats, options: Options) -> Solution:
    """Solve at the parameters p from a solution at others: Newton from its states; then the straight line from its
    parameters to p, followed in small steps; then the ladder.

    Raises what `solve` raises.
    """
    before = start.v[: layout.m]
    leg = p - before
    u = start.v[layout.m :]
    if not (options.ladder and leg.any()):
        return solve(layout, p, u, options, near=start)
    watch = Watch(options.time_limit, options.progress)
    try:
        return solve(layout, p, u, replace(options, ladder=False), near=start)
    except (ConvergenceError, EvaluationError) as error:
        block, newton = error.block, [a for a in getattr(error, "attempts", []) if isinstance(a, Attempt)]
    with watch:
        branch = trace(
            layout, start, lambda t: before + t * leg, lambda t: leg, 0.0, 1.0,
            step=0.5, max_points=4 * options.max_iterations, options=options, watch=watch,
        )  # fmt: skip
    arrived = branch.ended == ARRIVED
    tried = {block: [*newton, Attempt("parameter continuation", len(branch) - 1, 0.0, branch.ended)]}
    if options.time_limit is not None:
        options = replace(options, time_limit=max(0.0, options.time_limit - watch.seconds))
    return solve(layout, p, branch.v[-1, layout.m :] if arrived else u, options, tried)
