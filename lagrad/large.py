"""Newton's method on one large block: the twin of `assembly.forward`, on sparse factors.

Takes a block with the arrays of its layout, v with a start in it, and a factor from a solution nearby if there is one;
leaves v at the solution, and the factor and the partials that it ended with. A step on an old factor is a chord step:
it costs a residual and a solve, and is taken while it leaves little of the error. Climbs no ladder and raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly import forward
from lagrad.assembly.nearby import signed
from lagrad.block import open_block, propagated_magnitude
from lagrad.layout import Layout
from lagrad.linalg.blocks import REFINEMENT, LargeBlock, more_steps
from lagrad.linalg.sparse import REGULAR, SparseFactor, times
from lagrad.structure.blocks import components
from lagrad.watch import Watch

Floats = NDArray[np.float64]

CHORD = forward.QUADRATIC  # most that one step on old factors may leave of the error for another to be taken
JACOBIAN = 2.4  # one evaluation of all partials, in evaluations of R alone (9241 buses: 4.8 ms and 2.0 ms)
# Of the largest relative move of a state: one that moved less is not asked what that did to the Jacobian.
FLOOR = 1e-3
LEFT_OPEN = 0.01  # share of a step that rounding may leave open for the step to show that the root is simple
CLOSE = 1e-6  # relative length of a Newton step from which on vanishing terms are looked for


class LargeNewton:
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
        reference: Callable[[], Floats | None],
    ) -> None:
        """`near`: a factor from a solution nearby; `reference`: the values that pivots are chosen for."""
        self.reference = reference
        self.layout, self.group, self.block, self.watch, self.near = layout, group, block, watch, near
        self.v, self.residual, self.magnitude, self.data = v, residual, magnitude, data
        self.rows = slice(block.lo, block.hi)
        self.u = v[layout.m + block.lo : layout.m + block.hi]  # a view: writing it moves v
        self.factor: SparseFactor | None = None
        self.factored: Floats | None = None  # the values that it is of
        self.entries = np.empty(0)  # the partials inside the block as last evaluated
        self.gain = 1.0  # what another step on the factor at hand would leave of the error
        self.bend = np.inf  # what a Newton step left, per length
        self.reached = np.inf  # length of the last step on old factors
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
            self.factor = block.reference.factor(entries, block.pattern, self.reference)
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

    def run(self, cold: bool, max_iterations: int, tolerance: float) -> tuple[int, int]:
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
        for it in range(max_iterations + 1):
            if self.within(exact):
                return self._simple(contraction), begun + it
            if it == max_iterations:
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
                        moved = self.u - start if damping == 1.0 and not bounded else None
                        return self._simple(contraction, moved), begun + it + 1
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
                        ended = whole and not measured and after <= forward.QUADRATIC * length
                        return self._simple(contraction, self.u - start if ended else None), begun + it + 1
                    expected = np.inf
                    continue
            if quick and not self.evaluate():  # R is finite there, and a partial is not
                self.u[:], self.bend = start, np.inf
                self.evaluate()
                continue
            small = whole and bool((np.abs(correction) <= forward.STEP * np.abs(self.u)).all())
            if small and contraction <= forward.QUADRATIC and self.within(tolerance):
                before = self.u.copy()
                self.u += correction
                if self.evaluate():
                    if self.within(noise):
                        return forward.SOLVED, begun + it + 1
                else:
                    self.u[:] = before
                    self.evaluate()
        return forward.TOO_MANY_ITERATIONS, max_iterations

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
        if not self.evaluate():
            return False
        exact, noise = forward.EXACT * forward.EPS, forward.NOISE * forward.EPS
        if not end:  # other steps were to follow on a new factor, but there is nothing left for them
            return self.within(exact)
        return self.within(noise) or (self.reached <= CLOSE and self.vanishing(noise))

    def to_end(self, correction: Floats, after: float, weight: Floats) -> bool:
        """The steps of `keep`; whether others would change nothing, or no longer less than the last."""
        self.reached = after
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
            before_last, self.reached = self.reached, float((np.abs(correction) / weight).max())
            if not self.reached <= CHORD * before_last:
                return True  # rounding, which says nothing of the factor
            self.gain = self.reached / before_last
            if not self.pays(correction):
                return False

    def far(self) -> bool:
        """Whether the Jacobian at the solution is to be factored for what is solved there with it.

        That is where refinement with the factor at hand would cost more; and where partials that are zero there, and
        not where the factor is of, leave states that do not depend on each other: multipliers of zero would come out as
        rounding.
        """
        assert self.factor is not None
        if self.factor.status != REGULAR:
            return False
        refinements = max(0.0, more_steps(1.0, self.gain, forward.EPS) - 1.0)
        # the first solution needs a residual too, which is counted as a refinement without its solve
        if REFINEMENT * (refinements + 1.0) - 1.0 > self.factor.price:
            return True
        if self.factored is None or not ((self.entries == 0.0) & (self.factored != 0.0)).any():
            return False
        return not self.connected()

    def connected(self) -> bool:
        """Whether every state of the block depends on every other by partials that are not zero at v."""
        pattern, there = self.block.pattern, self.entries != 0.0
        kept = np.zeros(len(there) + 1, np.int32)
        np.cumsum(there, out=kept[1:])
        n = pattern.n
        _, ptr = components(n, kept[pattern.indptr], pattern.indices[there], np.arange(n, dtype=np.int32))
        return len(ptr) == 2

    def _simple(self, contraction: float, moved: Floats | None = None) -> int:
        """SOLVED, or MULTIPLE_ROOT by the test that ends `assembly.forward._newton`.

        `moved`: by a whole Newton step, factored where it began, that left nothing but rounding. Where it was far
        longer than what rounding leaves open there, and the Jacobian at its end is still the one it began with, it has
        shown that the root is simple: at a double root the last step is no longer than that, unless it hits the root.
        """
        if contraction <= forward.QUADRATIC:
            return forward.SOLVED
        if moved is not None and self.factor is not None and self.factor.status == REGULAR:
            open_ = np.empty(self.u.size)
            signed(forward.NOISE * forward.EPS, self.magnitude[self.rows], open_)
            weight = np.maximum(np.abs(self.u), self.layout.scale[self.rows])
            length = float((np.abs(moved) / weight).max())
            known = float((np.abs(self.solve(open_)) / weight).max()) <= LEFT_OPEN * length
            if known and self.unbent(moved, weight):
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
