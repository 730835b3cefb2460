"""The ladder: what is tried on one block after the damped Newton method has failed on it.

Takes the block's equations F(u) = 0, places to start from and the damped Newton method; leaves a solution, or
the best point that was found, and a list of attempts that says what each method reached and why it ended.

    newton, beside vanishing terms   a root already, but for terms that are rounding altogether
    full Newton steps       to a root where the Jacobian is singular, to which they converge linearly
    newton, continued       if it was on its way, and only its iterations were used up
    scan                    a single state: signs of F at all distances, then bisection
    trust region            Powell's dogleg on scaled F and u (Powell 1970)
    Levenberg–Marquardt     the step damped instead of cut, F as the user wrote it (Nielsen's damping, 1999)
    pseudo-transient        u' = −F(u), implicit Euler with growing steps (Kelley and Keyes 1998)
    Newton homotopy         F(u) = (1 − t) F(u₀) followed in arclength from t = 0 to 1, either way from u₀
    fixed-point homotopy    t F(u) + (1 − t) G (u − u₀) = 0, G diagonal, likewise

None of them accepts anything: where one comes close, the damped Newton method takes over, and only what that
accepts is a solution. The one exception is a root at which the Jacobian is singular; see `_settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lagrad import arclength
from lagrad.assembly import forward
from lagrad.block import BlockEquations, Point, Square
from lagrad.watch import Watch

Floats = NDArray[np.float64]

CLOSE = 1e-6  # |F| / magnitude at which a method hands over to Newton
FLAT = 1e-10  # cosine between F and the columns of its Jacobian that counts as a local minimum of |F|
SHORT = 1e-12  # relative step that ends a method
NEARLY = 1e-8  # |F| / typical magnitude from which on a multiple root is looked for
STEADY = 6  # successive steps that show linear convergence
LINEAR = (0.3, 0.95)  # their contraction: 1/2 at a double root, 0.9 at a tenfold one
PATIENCE = 10  # how often Newton's method is given its iterations again, if it only ran out of them
MOVE = 0.01  # share of their sizes by which states are moved to see whether a residual grows
GROWTH = 10.0  # by which factor it must
LONGEST = 1000  # full Newton steps to a multiple root: a tenfold one takes 350
HAND_OVER = (10, 20, 40, 80, 160, 320, 640)  # iterations after which Newton's method is tried in between


@dataclass(frozen=True)
class Attempt:
    """One method tried on one block: its name, iterations, scaled residual reached and how it ended."""

    method: str
    iterations: int
    residual: float
    outcome: str


@dataclass(frozen=True, eq=False)
class Reached:
    """Where one run of one method ended."""

    point: Point
    iterations: int
    why: str
    promising: bool  # whether Newton's method should take over from here


Newton = Callable[[Floats], tuple[int, int]]  # from u, leaving its result in the block: (status, iterations)
ACCEPTED = (forward.SOLVED, forward.MULTIPLE_ROOT)


def _merit(r: Floats) -> float:
    return float(r @ r)


def _row_scales(point: Point, w: Floats) -> Floats:
    """1 / the change of each F_i when one state changes by its typical size."""
    rows = point.by_u.scaled(np.ones_like(w), w).row_sizes()
    rows = np.where(rows > 0.0, rows, point.magnitude)
    return np.where(rows > 0.0, 1.0 / np.where(rows > 0.0, rows, 1.0), 1.0)


# -- methods that decrease |F| -------------------------------------------------------------------------------
def trust_region(block: BlockEquations, start: Point, most: int, watch: Watch) -> Iterator[Reached]:
    """Powell's dogleg: the Newton step, cut to a region in which the linear model has proved itself."""
    w = block.sizes(start.u)
    rows = _row_scales(start, w)
    at, radius = start, 10.0 * max(1.0, float(np.linalg.norm(start.u / w)))
    for k in range(most):
        watch.tick("block {}: trust region, {} iterations", block.block, k)
        if k in HAND_OVER or at.scaled_residual <= CLOSE:
            yield Reached(at, k, "handed over", True)
        w = np.maximum(w, np.abs(at.u))
        r = rows * at.r
        a = at.by_u.scaled(rows, w)
        gradient = a.transposed_times(r)
        slope = float(np.linalg.norm(gradient))
        flat = _flat(a, r, gradient)
        along = 0.0 if flat else float(np.linalg.norm(a.times(gradient / slope)))
        if flat or along**2 == 0.0:  # the second also where a product underflows
            yield Reached(at, k, "a local minimum of the residual", False)
            return
        cauchy = -(slope / along**2) * gradient
        newton = a.solve(-r)
        if not np.isfinite(newton).all():
            newton = a.damped(r, 1e-12 * along**2)
        phi = _merit(r)
        while True:
            step = _dogleg(cauchy, newton, radius) if np.isfinite(newton).all() else _cut(cauchy, radius)
            u = block.within(at.u, at.u + w * step)
            step = (u - at.u) / w
            length = float(np.linalg.norm(step))
            trial = block.at(u)
            ratio = 0.0
            if trial is not None:
                expected = phi - _merit(r + a.times(step))
                gained = phi - _merit(rows * trial.r)
                ratio = gained / expected if expected > 0.0 else (1.0 if gained > 0.0 else 0.0)
            if ratio > 0.75:
                radius = max(radius, 2.0 * length)
            elif not ratio > 0.25:
                radius = 0.25 * min(radius, length)
            if trial is not None and ratio > 1e-4:
                at = trial
                break
            if radius <= SHORT * max(1.0, float(np.linalg.norm(at.u / w))):
                yield Reached(at, k, "no step along the dogleg reduces the residual", True)
                return
    yield Reached(at, most, "iterations used up", True)


def _flat(a: Square, r: Floats, gradient: Floats) -> bool:
    """Whether no combination of the Jacobian's columns points along r any more."""
    size = float(np.linalg.norm(r))
    columns = float(np.abs(a.matrix).max()) if a.matrix.shape[0] else 0.0
    return not float(np.linalg.norm(gradient)) > FLAT * size * columns


def _cut(step: Floats, radius: float) -> Floats:
    length = float(np.linalg.norm(step))
    return step if length <= radius else step * (radius / length)


def _dogleg(cauchy: Floats, newton: Floats, radius: float) -> Floats:
    """The point at distance `radius` along the path from 0 by the Cauchy point to the Newton point."""
    if float(np.linalg.norm(newton)) <= radius:
        return newton
    if float(np.linalg.norm(cauchy)) >= radius:
        return _cut(cauchy, radius)
    leg = newton - cauchy
    b, c = float(cauchy @ leg), float(cauchy @ cauchy) - radius**2
    tau = -c / (b + np.sqrt(b * b - float(leg @ leg) * c))
    return cauchy + tau * leg


def levenberg_marquardt(block: BlockEquations, start: Point, most: int, watch: Watch) -> Iterator[Reached]:
    """Damped least squares on F as it was written, states scaled by the largest columns met so far."""
    at, damping, grow = start, -1.0, 2.0
    columns = np.zeros(block.n)
    ones = np.ones(block.n)
    for k in range(most):
        if k in HAND_OVER or at.scaled_residual <= CLOSE:
            yield Reached(at, k, "handed over", True)
        columns = np.maximum(columns, _column_norms(at.by_u))
        w = 1.0 / np.where(columns > 0.0, columns, 1.0)
        a = at.by_u.scaled(ones, w)
        gradient = a.transposed_times(at.r)
        if _flat(a, at.r, gradient):
            yield Reached(at, k, "a local minimum of the residual", False)
            return
        if damping < 0.0:
            damping = 1e-3
        phi = _merit(at.r)
        while True:
            watch.tick("block {}: Levenberg–Marquardt, {} iterations", block.block, k)
            step = a.damped(at.r, damping)
            u = block.within(at.u, at.u + w * step)
            step = (u - at.u) / w
            trial = block.at(u) if np.isfinite(u).all() else None
            ratio = 0.0
            if trial is not None:
                expected = phi - _merit(at.r + a.times(step))
                gained = phi - _merit(trial.r)
                ratio = gained / expected if expected > 0.0 else (1.0 if gained > 0.0 else 0.0)
            if trial is not None and ratio > 1e-4:
                damping = max(damping * max(1.0 / 3.0, 1.0 - (2.0 * ratio - 1.0) ** 3), 1e-20)
                grow = 2.0
                at = trial
                break
            damping *= grow
            grow *= 2.0
            if float(np.max(np.abs(step * w) / block.sizes(at.u))) <= SHORT or not damping < 1e30:
                yield Reached(at, k, "no damped step reduces the residual", True)
                return
    yield Reached(at, most, "iterations used up", True)


def _column_norms(a: Square) -> Floats:
    if isinstance(a.matrix, np.ndarray):
        return np.asarray(np.sqrt((a.matrix**2).sum(axis=0)))
    return np.sqrt(np.bincount(a.matrix.indices, weights=a.matrix.data**2, minlength=a.matrix.shape[1]))


# -- methods that follow a path ------------------------------------------------------------------------------
def pseudo_transient(block: BlockEquations, start: Point, most: int, watch: Watch) -> Iterator[Reached]:
    """Implicit Euler steps of G u' = −F, G diagonal with the signs of F's own diagonal, longer as F falls."""
    w = block.sizes(start.u)
    rows = _row_scales(start, w)
    at, time = start, 0.1
    size = float(np.linalg.norm(rows * at.r))
    for k in range(most):
        if k in HAND_OVER or at.scaled_residual <= CLOSE:
            yield Reached(at, k, "handed over", True)
        r, a = rows * at.r, at.by_u.scaled(rows, w)
        signs = np.where(a.diagonal() < 0.0, -1.0, 1.0)
        while True:
            watch.tick("block {}: pseudo-transient continuation, {} iterations", block.block, k)
            step = a.shifted(signs / time).solve(-r)
            trial = None
            if np.isfinite(step).all():
                trial = block.at(block.within(at.u, at.u + w * step))
            if trial is not None:
                break
            time *= 0.1
            if time < 1e-12:
                yield Reached(at, k, "every step leaves the domain of a function", False)
                return
        now = float(np.linalg.norm(rows * trial.r))
        if now > 1e3 * size and time > 1e-6:  # far too long a step: the flow itself does not do that
            time *= 0.1
            continue
        moved = float(np.max(np.abs(trial.u - at.u) / block.sizes(at.u)))
        at = trial
        if moved <= SHORT:
            yield Reached(at, k + 1, "the flow has come to rest", True)
            return
        time = min(1e12, time * min(10.0, max(0.1, size / now if now > 0.0 else 10.0)))
        size = now
    yield Reached(at, most, "iterations used up", True)


def newton_homotopy(block: BlockEquations, start: Point, most: int, watch: Watch) -> Iterator[Reached]:
    """F(u) = (1 − t) F(u₀)."""
    first = start.r

    def curve(u: Floats, t: float) -> arclength.Values | None:
        at = _inside(block, u)
        return None if at is None else arclength.Values(at.r - (1.0 - t) * first, at.by_u, first)

    yield from _track(block, start, curve, most, watch)


def fixed_point_homotopy(block: BlockEquations, start: Point, most: int, watch: Watch) -> Iterator[Reached]:
    """t S F(u) + (1 − t) G (u − u₀) / w = 0, with the row scales S and the signs G of F's diagonal at u₀."""
    w = block.sizes(start.u)
    rows = _row_scales(start, w)
    pull = np.where(start.by_u.diagonal() < 0.0, -1.0, 1.0) / w
    ones = np.ones(block.n)

    def curve(u: Floats, t: float) -> arclength.Values | None:
        at = _inside(block, u)
        if at is None:
            return None
        back = pull * (u - start.u)
        by_u = at.by_u.scaled(t * rows, ones).shifted((1.0 - t) * pull)
        return arclength.Values(t * rows * at.r + (1.0 - t) * back, by_u, rows * at.r - back)

    yield from _track(block, start, curve, most, watch)


def _inside(block: BlockEquations, u: Floats) -> Point | None:
    if not (np.isfinite(u).all() and (u >= block.lower).all() and (u <= block.upper).all()):
        return None
    return block.at(u)


def _track(
    block: BlockEquations, start: Point, curve: arclength.Curve, most: int, watch: Watch
) -> Iterator[Reached]:
    """Follow a homotopy from t = 0, first with t growing, then with t falling; where t crosses 1 is a root."""
    total = 0

    def watched(u: Floats, t: float) -> arclength.Values | None:
        watch.tick("block {}: homotopy, {} steps, t = {:.3g}", block.block, total, t)
        return curve(u, t)

    for towards in (1.0, -1.0):
        before: arclength.Node | None = None
        ended = "the path cannot be followed any further"
        last = start.u
        for node in arclength.follow(
            watched, start.u, 0.0, towards, scale=block.scale, w_t=1.0, first=0.1, longest=1.0
        ):
            total += 1
            last = node.u
            if before is not None and (before.t - 1.0) * (node.t - 1.0) <= 0.0 and before.t != node.t:
                share = (1.0 - before.t) / (node.t - before.t)
                point = _inside(block, before.u + share * (node.u - before.u)) or _inside(block, node.u)
                if point is not None:
                    yield Reached(point, total, "the path reaches t = 1", True)
            if total >= most or abs(node.t) > 1e6:
                ended = "steps used up" if total >= most else "the path leads to infinity"
                break
            before = node
        point = block.at(last)
        if point is not None:
            yield Reached(point, total, f"{ended}, t = {before.t if before else 0.0:.3g}", False)
        if total >= most:
            return


# -- a single state ------------------------------------------------------------------------------------------
def scan(block: BlockEquations, start: Point, most: int, watch: Watch) -> Iterator[Reached]:
    """One state: look for changes of sign at distances of all magnitudes from the start, and bisect."""
    from scipy.optimize import brentq

    u0, w = float(start.u[0]), float(block.sizes(start.u)[0])
    low, high = float(block.lower[0]), float(block.upper[0])
    reach = w * 10.0 ** (np.arange(-3 * 4, 15 * 4 + 1) / 4.0)  # from w/1000 to 10¹⁵ w
    places = np.concatenate([u0 - reach[::-1], [u0], u0 + reach, [0.0, low, high]])
    places = np.unique(places[np.isfinite(places) & (places >= low) & (places <= high)])

    def value(x: float) -> float:
        at = block.at(np.array([x]))
        return np.nan if at is None else float(at.r[0])

    values = np.array([value(x) for x in places])
    places, values = places[np.isfinite(values)], values[np.isfinite(values)]
    signs = np.sign(values)
    changes = np.flatnonzero(signs[:-1] * signs[1:] <= 0.0)
    changes = changes[np.argsort(np.abs(places[changes] - u0))]
    for count, k in enumerate(changes.tolist()):
        watch.tick("block {}: bracket {} of {}", block.block, count + 1, changes.size)
        a, b = float(places[k]), float(places[k + 1])
        try:
            x = brentq(value, a, b, xtol=1e-300, rtol=1e-15, maxiter=most)
        except (ValueError, RuntimeError):  # not a number on the way, or too many steps
            continue
        point = block.at(np.array([x]))
        if point is not None:
            yield Reached(point, places.size, f"change of sign near {x:.6g}", True)
    point = block.at(start.u)
    assert point is not None
    if not changes.size:
        yield Reached(
            point, places.size, f"no change of sign from {places[0]:.3g} to {places[-1]:.3g}", False
        )


# -- a root where the Jacobian is singular -------------------------------------------------------------------
def _settle(
    block: BlockEquations, start: Point, tolerance: float, watch: Watch
) -> tuple[Reached, Floats] | None:
    """Full Newton steps from `start`, if they converge linearly to a multiple root; with typical magnitudes.

    At a root of multiplicity q (y^q = 0 is the model) every step is (q − 1)/q of the one before. Where the
    root is at zero F has no terms that cancel there, |F| / magnitude stays near one, and Newton's own test,
    which is relative to the states as they are, is never met. So the states are judged by their typical sizes
    here. Accepted is a point at which the last `STEADY` steps shrank by factors in `LINEAR`, what they leave
    to go is at rounding level of the typical sizes, and |F_i| <= tolerance² times its magnitude at typical
    sizes. A system without a root fails at the first: its steps do not go on shrinking. The block is marked
    as a multiple root, and derivatives are refused there.
    """
    at = start
    lengths: list[float] = []
    for k in range(LONGEST):
        watch.tick("block {}: full Newton steps, {} iterations", block.block, k)
        w = block.sizes(at.u)
        step = at.by_u.solve(-at.r)
        if not np.isfinite(step).all():
            rows = _row_scales(at, w)
            step = w * at.by_u.scaled(rows, w).damped(rows * at.r, 1e-14)
        if not np.isfinite(step).all():
            return None
        lengths.append(float(np.max(np.abs(step) / w)))
        if lengths[-1] == 0.0:
            return None
        ratios = np.array(lengths[1:][-STEADY:]) / np.array(lengths[:-1][-STEADY:])
        steady = ratios.size == STEADY and bool(((ratios >= LINEAR[0]) & (ratios <= LINEAR[1])).all())
        if k > 2 * STEADY and not steady:
            return None
        rest = lengths[-1] * ratios[-1] / (1.0 - ratios[-1]) if steady else np.inf
        if rest <= forward.EXACT * forward.EPS:
            typical = block.typical_magnitude(at)
            if at.residual_by(typical) > tolerance**2:
                return None
            return Reached(at, k, "a multiple root: the Jacobian is singular at it", True), typical
        following = block.at(block.within(at.u, at.u + step))
        if following is None:
            return None
        at = following
    return None


def _vanishing(block: BlockEquations, at: Point) -> Floats | None:
    """Magnitudes by which `at` is a simple root where terms vanish altogether, or None if it is none.

    e a + f b == 0 and f a − e b == 0 over definitions a, b that come out as zero: terms that only rounding keeps from
    being zero do not cancel, and |R| / magnitude stays near one however near the root is. Judged are they by what
    rounding in the definitions themselves makes of them. The root must be simple by the test that ends
    `assembly.forward._newton`, with these magnitudes.
    """
    magnitude = block.propagated_magnitude(at)
    if not at.residual_by(magnitude) <= forward.NOISE * forward.EPS:
        return None
    w = block.sizes(at.u)
    step = at.by_u.solve(forward.NOISE * forward.EPS * magnitude)
    moved = block.at(at.u + step) if np.isfinite(step).all() else None
    block.at(at.u)
    if moved is None:
        return None
    straight = at.by_u.times(step)
    change = at.by_u.solve(moved.by_u.times(step) - straight)
    allowed = forward.BENT * np.abs(straight) + forward.EXACT * forward.EPS * magnitude
    length = float(np.max(np.abs(step) / w))
    bent = not (np.abs(change) <= forward.BENT * length * w).all()
    blind = bool((abs(at.by_u.matrix) @ w <= forward.NOISE * forward.EPS * magnitude).any())
    return None if blind or bent or not (np.abs(moved.r - at.r - straight) <= allowed).all() else magnitude


def doubt(block: BlockEquations, tolerance: float) -> str:
    """Why the block's point, accepted by Newton's test although its Jacobian is singular, is no root; or "".

    Far out along a null vector of the Jacobian terms grow until rounding hides any residual; where a function
    saturates or underflows residuals do not depend on the states any more; where it oscillates faster than the
    states are resolved they are anything. So a residual must also be small beside the terms that the declared sizes
    of the states give, and it must grow well beyond what it is when the states move by a share of their sizes.
    """
    u = block.here()
    at = block.at(u)
    if at is None:
        return "a partial is not finite there"
    declared = block.declared_magnitude(at)
    reason = ""
    hidden = forward.EPS * at.magnitude  # what rounding may hide
    if not (np.maximum(np.abs(at.r), hidden) <= tolerance * declared).all():
        reason = "only rounding hides the residual there, so far from the guess"
    grown = np.zeros(block.n)
    for share in (MOVE, -MOVE):
        moved = block.at(block.within(u, u + share * block.apart(block.sizes(u))))
        if moved is not None:
            seen = np.abs(moved.r) > forward.NOISE * forward.EPS * moved.magnitude  # beyond rounding
            grown = np.maximum(grown, np.where(seen, np.abs(moved.r), 0.0))
    flat = (grown <= GROWTH * np.abs(at.r)) & (declared > 0.0)
    if flat.any() and not reason:
        reason = "the residual hardly depends on the states there"
    empty = (at.magnitude <= forward.UNDERFLOW * declared) & (declared > 0.0)
    if empty.any() and not reason:
        moved = block.at(block.within(u, u + forward.EPS**0.5 * block.apart(block.sizes(u))))
        if moved is not None and ((moved.magnitude <= forward.UNDERFLOW * declared) & empty).any():
            reason = "all terms underflow there"
    block.at(u)
    return reason


# -- all of it -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Climbed:
    """How the ladder ended: a status of `assembly.forward`; magnitudes that the root was judged by, if not its own."""

    status: int
    iterations: int
    typical: Floats | None = None


Method = Callable[[BlockEquations, Point, int, Watch], Iterator[Reached]]
METHODS: dict[str, tuple[Method, int]] = {  # with iterations allowed per iteration of Newton's method
    "scan": (scan, 20),
    "trust region": (trust_region, 10),
    "Levenberg–Marquardt": (levenberg_marquardt, 10),
    "pseudo-transient continuation": (pseudo_transient, 4),
    "Newton homotopy": (newton_homotopy, 4),
    "fixed-point homotopy": (fixed_point_homotopy, 4),
}
ENOUGH = 100  # iterations asked of Newton's method beyond which the others do not get more
MANY, FEWER = 500, 5  # a block of more states than that gets so many times fewer iterations of each method


def climb(
    block: BlockEquations, starts: Sequence[Floats], stopped: int, newton: Newton, attempts: list[Attempt],
    max_iterations: int, tolerance: float, watch: Watch,
) -> Climbed:  # fmt: skip
    """Try the methods one after the other from every start (n,); appends to `attempts`.

    The last start is where Newton's method ended, with status `stopped`. Leaves the solution in the block, or the
    best point.
    """
    points = [point for point in (block.at(u) for u in starts) if point is not None]
    if not points:
        return Climbed(forward.NOT_FINITE, 0)
    reference = block.declared_magnitude(points[0])
    best = min(points, key=lambda p: p.residual_by(reference))

    def try_newton(u: Floats) -> tuple[int, int] | None:
        """Newton's result from u, if it is one."""
        status, iterations = newton(u)
        if status == forward.MULTIPLE_ROOT and doubt(block, tolerance):
            return None
        return (status, iterations) if status in ACCEPTED else None

    def try_settling(start: Point) -> Climbed | None:
        settled = _settle(block, start, tolerance, watch)
        if settled is None:
            return None
        reached, typical = settled
        simple = try_newton(reached.point.u)  # two simple roots near to each other look like one from afar
        if simple is not None:
            attempts.append(Attempt("full Newton steps", reached.iterations, 0.0, "solved"))
            return Climbed(*simple)
        block.at(reached.point.u)
        residual = reached.point.residual_by(typical)
        attempts.append(Attempt("full Newton steps", reached.iterations, residual, reached.why))
        return Climbed(forward.MULTIPLE_ROOT, reached.iterations, typical)

    vanishing = _vanishing(block, points[-1])
    if vanishing is not None:
        iterations, residual = attempts[-1].iterations, points[-1].residual_by(vanishing)
        attempts.append(Attempt("newton, beside vanishing terms", iterations, residual, "solved"))
        return Climbed(forward.SOLVED, iterations, vanishing)
    climbed = try_settling(points[-1])
    if climbed is not None:
        return climbed
    for k in range(PATIENCE if stopped == forward.TOO_MANY_ITERATIONS else 0):
        u = points[-1].u if k == 0 else block.here()
        solved = try_newton(u)
        if solved is not None:
            attempts.append(Attempt("newton, continued", (k + 1) * max_iterations, 0.0, "solved"))
            return Climbed(*solved)
        if np.array_equal(block.here(), u):
            break
    for name, (method, allowance) in METHODS.items():
        if name == "scan" and block.n > 1:
            continue
        most = allowance * min(max_iterations, ENOUGH) // (FEWER if block.n > MANY else 1)
        for start in _different(points):
            reached = None
            for reached in method(block, start, most, watch):
                if reached.point.residual_by(reference) < best.residual_by(reference):
                    best = reached.point
                if reached.promising:
                    solved = try_newton(reached.point.u)
                    if solved is not None:
                        attempts.append(Attempt(name, reached.iterations, 0.0, "solved"))
                        return Climbed(*solved)
            if reached is None:
                continue
            end = reached.point
            attempts.append(Attempt(name, reached.iterations, end.scaled_residual, reached.why))
            if end.residual_by(block.typical_magnitude(end)) <= NEARLY:
                climbed = try_settling(end)
                if climbed is not None:
                    return climbed
    block.at(best.u)
    return Climbed(forward.STALLED, 0)


def _different(points: Sequence[Point]) -> list[Point]:
    """The points without repetitions."""
    out: list[Point] = []
    for p in points:
        if not any(np.array_equal(p.u, q.u) for q in out):
            out.append(p)
    return out
