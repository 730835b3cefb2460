"""Certificates: what makes a result trustworthy, stated in numbers, and the refusal when it is not.

Takes a layout, residuals, linear backward errors and condition estimates; gives a `Certificate`, or raises
with the names of the block concerned. Computes no solution itself. The limits are the constants below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import CertificateError, IllConditionedError, NotASolutionError, SingularError, listed
from lagrad.layout import Layout

Floats = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
RESIDUAL_LIMIT = 1e-9  # |R_i| / magnitude_i of a point that counts as a solution
RCOND_LIMIT = 1e-14  # below it no digit of a derivative is vouched for
BACKWARD_LIMIT = 1e-10  # backward error of an adjoint or tangent solve


@dataclass(frozen=True)
class Certificate:
    """What was checked of a Solution or a derivative.

    residual          largest |R_i| / magnitude_i over all constraints; magnitude_i is the size of what
                      cancels in R_i
    residual_raw      largest |R_i|
    worst_constraint  name of the constraint with the largest scaled residual
    block_residual    (n_blocks,) the same per block, scaled
    structural_rank   states determined by the structure; equal to the number of states, or there is no System
    rcond             smallest estimated reciprocal condition of a block
    worst_block       the block that has it
    block_rcond       (n_blocks,)
    mode              "solution", "adjoint" or "tangent"
    linear_residual   componentwise backward error of the adjoint or tangent solve; None for a solution
    value, corrected  J and J − λᵀ R, the value with the residual's effect taken out to first order (Griewank
                      and Faure); for a single adjoint only
    error             |λᵀ R| + eps |λ|ᵀ magnitude: what the correction changed, and to first order the most that
                      rounding in the constraints can hide; a bound of the error of J
    sensitivity       eps / rcond: an estimate of the relative error that rounding leaves in the derivative
    kinks             names of the constraints that sit on a kink; computed when read
    gradient_error    how far each derivative may be off, absolutely; computed when read
    """

    residual: float
    residual_raw: float
    worst_constraint: str | None
    block_residual: Floats = field(repr=False)
    structural_rank: int
    rcond: float
    worst_block: int
    block_rcond: Floats = field(repr=False)
    mode: str = "solution"
    linear_residual: float | None = None
    value: float | None = None
    corrected: float | None = None
    error: float | None = None
    _kinks: Callable[[], list[str]] | None = field(default=None, repr=False, compare=False)
    _bound: Callable[[], dict[Any, Any]] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def kinks(self) -> list[str]:
        """Constraints with a term that is not differentiable at the solution, by name.

        There the derivative is one-sided, by the rule that the table of primitives states (docs/primitives.md): of
        abs from the right, of a tie of maximum that of the first argument, of a jump 0.
        """
        return [] if self._kinks is None else self._kinks()

    @cached_property
    def gradient_error(self) -> dict[Any, Any] | None:
        """How far each number of a derivative may be off, absolutely, under the same names; inf if nothing can be said.

        A bound for first derivatives and multipliers, an estimate for second ones. It covers the error of the solution
        itself, the rounding of the partials and the residual of the linear solve (`lagrad.accuracy` derives it). What
        it costs when first read is in docs/guide.md, "How strict". None of a solution, and once a certificate was
        pickled unread.
        """
        return None if self._bound is None else self._bound()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kinks": self.kinks, "_kinks": None, "_bound": None}

    @property
    def sensitivity(self) -> float:
        """eps / rcond."""
        return EPS / self.rcond if self.rcond > 0.0 else float("inf")

    def __str__(self) -> str:
        parts = [f"residual {self.residual:.1e} (scaled), {self.residual_raw:.1e} (raw)"]
        if self.linear_residual is not None:
            parts.append(f"{self.mode} residual {self.linear_residual:.1e}")
        parts.append(f"rcond {self.rcond:.1e}")
        if self.error is not None:
            parts.append(f"output error about {self.error:.1e}")
        if self.kinks:
            parts.append(f"one-sided at a kink of {listed(self.kinks)}")
        return ", ".join(parts)


def scaled_residual(residual: Floats, magnitude: Floats) -> Floats:
    """|R_i| / magnitude_i, 0 where R_i is 0, inf where it is not a number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.where(residual == 0.0, 0.0, np.abs(residual) / magnitude)
    return np.where(np.isfinite(residual) & np.isfinite(magnitude), out, np.inf)


def per_block(ptr: NDArray[np.int32], x: Floats, empty: float = 0.0) -> Floats:
    """The largest entry of x over each block."""
    return np.maximum.reduceat(x, ptr[:-1]) if x.size else np.full(ptr.size - 1, empty)


def check_is_solution(layout: Layout, residual: Floats, magnitude: Floats) -> None:
    """Raise `NotASolutionError` for the block with the largest scaled residual, if that is too large."""
    scaled = scaled_residual(residual, magnitude)
    if scaled.size and not scaled.max() <= RESIDUAL_LIMIT:
        worst = int(np.argmax(scaled))
        block = int(np.searchsorted(layout.ptr, worst, side="right")) - 1
        raise NotASolutionError(
            block,
            *layout.block_names(block),
            f"constraint {layout.row_name(worst)} has residual {residual[worst]:.3g} where terms of size "
            f"{magnitude[worst]:.3g} should cancel; a derivative there is not a derivative of the program.",
            "Solve first (system.solve), or ask for partials at this point by name: at_any_point=True.",
        )


def check_regular(
    layout: Layout,
    status: NDArray[np.int8],
    rcond: Floats,
    multiple: NDArray[np.bool_],
    concerned: NDArray[np.bool_],
    last_digits: Callable[[int], bool],
) -> None:
    """Raise for the first concerned block that is singular or too ill conditioned.

    status (n_blocks,): nonzero where a pivot was zero or not finite; multiple: blocks whose Jacobian changes by its own
    size within what rounding leaves open; concerned: blocks that take part in the derivative asked for; last_digits:
    whether that is no more of a block's states than their last digits.
    """
    singular = (status != 0) & concerned
    advice = (
        "The states of this block are not determined to first order there (lagrad check names the culprits). "
        "Move the parameters, or replace the constraint that has become dependent."
    )
    if singular.any():
        block = int(np.flatnonzero(singular)[0])
        raise SingularError(
            block, *layout.block_names(block), "its Jacobian is singular at the solution.", advice
        )
    if (multiple & concerned).any():
        block = int(np.flatnonzero(multiple & concerned)[0])
        if last_digits(block):
            raise SingularError(
                block,
                *layout.block_names(block),
                "its states are known to their last digits only, and within these its Jacobian changes by its own "
                "size: rounding decides the derivative.",
                "Restate the block in states that keep more digits there, as what is left of a phase after whole "
                "turns, or what a state differs from a large number by.",
            )
        raise SingularError(
            block,
            *layout.block_names(block),
            "the solution is a multiple root: its Jacobian vanishes within rounding of the point.",
            advice,
        )
    low = ~(rcond > RCOND_LIMIT) & concerned
    if low.any():
        block = int(np.flatnonzero(low)[np.argmin(rcond[low])])
        raise IllConditionedError(
            block,
            *layout.block_names(block),
            f"reciprocal condition {rcond[block]:.1e}, limit {RCOND_LIMIT:.0e}: "
            "no digit of a derivative is certain.",
            advice,
            rcond=float(rcond[block]),
        )


def check_linear(mode: str, residual: float) -> None:
    """Raise `CertificateError` if a linear solve kept too large a backward error."""
    if not residual <= BACKWARD_LIMIT:
        raise CertificateError(mode, residual, BACKWARD_LIMIT)


def certify(
    layout: Layout, residual: Floats, magnitude: Floats, rcond: Floats, mode: str = "solution",
    linear_residual: float | None = None, value: float | None = None, correction: float | None = None,
    kinks: Callable[[], list[str]] | None = None, hidden: float = 0.0,
) -> Certificate:  # fmt: skip
    """Put the figures together.

    `correction` is λᵀ R, `hidden` what rounding hides of it; `kinks` gives the names, when they are asked for.
    """
    scaled = scaled_residual(residual, magnitude)
    blocks = per_block(layout.ptr, scaled)
    worst = int(np.argmin(rcond)) if rcond.size else -1
    return Certificate(
        residual=float(scaled.max(initial=0.0)),
        residual_raw=float(np.abs(residual).max(initial=0.0)),
        worst_constraint=layout.row_name(int(np.argmax(scaled))) if scaled.size else None,
        block_residual=blocks,
        structural_rank=layout.n_states,
        rcond=float(rcond[worst]) if rcond.size else 1.0,
        worst_block=worst,
        block_rcond=rcond,
        mode=mode,
        linear_residual=linear_residual,
        value=value,
        corrected=None if value is None or correction is None else value - correction,
        error=None if correction is None else abs(correction) + hidden,
        _kinks=kinks,
    )
