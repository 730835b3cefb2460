"""Following a curve H(u, t) = 0 of one dimension: pseudo-arclength, past points where t turns back.

Takes a function that evaluates H and its partials, gives points along the curve. Knows no names, no blocks
and no parameters: t is a number, u (n,) the rest.

The curve is followed in its own arclength (Keller 1977): a step along the unit tangent, then Newton's method
on H = 0 together with "no further along the tangent". That system is regular where H_u is singular but the
curve is smooth, so that a turning point (a fold) is a point like any other. Lengths are measured in the
scalar product

    <x, y> = 1/n Σ x_i y_i / w_i² + x_t y_t / w_t²        w: typical sizes of the states and of t

with the mean over states, so that t counts as much beside many states as beside one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import scipy.sparse as sp

Floats = NDArray[np.float64]
Matrix: TypeAlias = "NDArray[np.float64] | sp.csr_array"

CORRECTIONS = 8  # Newton steps back to the curve before the step is shortened
SLOW = 0.5  # contraction of successive corrections above which the step is shortened
TARGET = 0.1  # contraction that the step length aims at
CLOSE = 1e-7  # a correction of this length ends the corrector: the next would be at rounding level
TURN = 0.8  # smallest cosine between successive tangents: a sharper turn may be another branch
FARTHEST = 1e100  # states beyond that have left for infinity, and their squares would overflow
SHORTEST = 1e-9  # step below which following is given up
SHIFT = 1e-8  # of its row, by which a diagonal is moved where the matrix itself is too near to singular


class Linear(Protocol):
    """A square matrix, and solutions with it."""

    @property
    def matrix(self) -> Matrix:
        """The matrix itself, dense or sparse."""

    def solve(self, rhs: Floats) -> Floats:
        """matrix⁻¹ rhs for rhs (n, k); not finite where the matrix is singular."""


class Values(NamedTuple):
    """H and its partials at one point."""

    h: Floats  # (n,)
    by_u: Linear
    by_t: Floats  # (n,)


Curve = Callable[[Floats, float], Values | None]  # None: outside the domain of a function, or of bounds


@dataclass(frozen=True, eq=False)
class Node:
    """A point on the curve with the unit tangent that leads on from it."""

    u: Floats  # (n,)
    t: float
    du: Floats  # (n,)
    dt: float
    step: float  # arclength that led here
    w: Floats  # (n,) typical sizes in whose measure the tangent has length 1


def bordered(a: Linear, b: Floats, c: Floats, d: float, f: Floats, g: float) -> tuple[Floats, float] | None:
    """(x, s) with A x + b s = f and c·x + d s = g; None if that matrix is singular too.

    A dense A is bordered and factored. With a sparse one the factors of A alone are used, by elimination of
    x, and iterated against the bordered residual; where A is too near to singular for that, those of A with its
    diagonal moved a little, from which the bordered residual leads back if the bordered matrix is regular. That one is
    not factored: its last row is full, over which SuperLU took 30 s for 40 000 states around a ring.
    """
    import scipy.sparse as sp
    import scipy.sparse.linalg as spla

    matrix = a.matrix
    n = b.size
    if isinstance(matrix, np.ndarray):
        whole = np.empty((n + 1, n + 1))
        whole[:n, :n], whole[:n, n], whole[n, :n], whole[n, n] = matrix, b, c, d
        row = np.abs(whole).max(axis=1, initial=0.0)
        if not (np.isfinite(row).all() and row.all()):
            return None
        try:
            x = np.linalg.solve(whole / row[:, None], np.append(f, g) / row)
        except np.linalg.LinAlgError:
            return None
        return (x[:n], float(x[n])) if np.isfinite(x).all() else None
    found = _eliminated(a.solve, matrix, b, c, d, f, g)
    if found is not None:
        return found
    row = abs(matrix).max(axis=1).toarray().ravel()
    if not np.isfinite(row).all():
        return None
    row[row == 0.0] = 1.0
    signs = np.random.default_rng(0).choice([-1.0, 1.0], n)  # fixed: a curve is the same every time
    try:
        factors = spla.splu(sp.csc_array(sp.diags_array(1.0 / row) @ matrix + sp.diags_array(SHIFT * signs)))
    except RuntimeError:  # exactly singular
        return None
    return _eliminated(lambda rhs: factors.solve(rhs / row[:, None]), matrix, b, c, d, f, g)


def _eliminated(
    solve: Callable[[Floats], Floats],
    matrix: sp.csr_array,
    b: Floats,
    c: Floats,
    d: float,
    f: Floats,
    g: float,
) -> tuple[Floats, float] | None:
    """`bordered` by solutions with a matrix like A, or None where they do not lead there.

    Where a row of A vanishes, s is zero at the end, and b s no size to measure an error in: the largest s so far is.
    """
    size = abs(matrix)
    x, s, largest = np.zeros(b.size), 0.0, 0.0
    rest_f, rest_g = f, g
    for _ in range(4):
        both = solve(np.stack([rest_f, b], axis=1))
        pivot = d - float(c @ both[:, 1])
        if not np.isfinite(pivot) or pivot == 0.0:
            break
        ds = (rest_g - float(c @ both[:, 0])) / pivot
        s += ds
        largest = max(largest, abs(s))
        x = x + both[:, 0] - ds * both[:, 1]
        rest_f, rest_g = f - matrix @ x - b * s, g - float(c @ x) - d * s
        error_f = np.abs(rest_f) <= 1e-12 * (size @ np.abs(x) + np.abs(b * largest) + np.abs(f))
        if error_f.all() and abs(rest_g) <= 1e-12 * (np.abs(c) @ np.abs(x) + abs(d * largest) + abs(g)):
            return x, s
    return None


def product(du: Floats, dt: float, eu: Floats, et: float, w: Floats, w_t: float) -> float:
    """The scalar product of this module."""
    mean = float(np.mean(du * eu / w**2)) if w.size else 0.0
    return mean + dt * et / w_t**2


def tangent(at: Values, du: Floats, dt: float, w: Floats, w_t: float) -> tuple[Floats, float] | None:
    """The unit tangent of the curve on the side of (du, dt)."""
    found = bordered(at.by_u, at.by_t, du / w**2 / max(w.size, 1), dt / w_t**2, np.zeros(w.size), 1.0)
    if found is None:
        return None
    length = product(*found, *found, w, w_t) ** 0.5
    return (found[0] / length, found[1] / length) if np.isfinite(length) and length > 0.0 else None


def correct(
    curve: Curve, u: Floats, t: float, row: tuple[Floats, float], w: Floats, w_t: float
) -> tuple[Floats, float, Values, float] | None:
    """Newton's method on H = 0 in the hyperplane through (u, t) normal to `row`: (u, t, values, contraction)."""
    contraction, before = 0.0, np.inf
    for k in range(CORRECTIONS):
        at = curve(u, t)
        if at is None:
            return None
        found = bordered(at.by_u, at.by_t, *row, -at.h, 0.0)
        if found is None:
            return None
        length = product(*found, *found, w, w_t) ** 0.5
        if not np.isfinite(length):
            return None
        if k:
            contraction = max(contraction, length / before)
            if contraction > SLOW and length > CLOSE:
                return None
        u, t = u + found[0], t + found[1]
        if length <= CLOSE:
            at = curve(u, t)
            return None if at is None else (u, t, at, contraction)
        before = length
    return None


def follow(
    curve: Curve,
    u: Floats,
    t: float,
    towards: float,
    *,
    scale: Floats,
    w_t: float,
    first: float,
    longest: float,
) -> Iterator[Node]:
    """Points along the curve from (u, t), which is on it, beginning with that point itself.

    `towards`: sign of the first change of t; `scale` (n,) smallest typical sizes of u; `w_t` that of t;
    `first`, `longest`: steps in arclength. Ends where no step of `SHORTEST` leads on.
    """
    w = np.maximum(np.abs(u), scale)
    at = curve(u, t)
    if at is None:
        return
    direction = tangent(at, np.zeros_like(u), towards, w, w_t)
    if direction is None:
        return
    du, dt = direction
    yield Node(u, t, du, dt, 0.0, w)
    step = first
    while step >= SHORTEST:
        row = (du / w**2 / max(w.size, 1), dt / w_t**2)
        found = correct(curve, u + step * du, t + step * dt, row, w, w_t)
        after = None if found is None else tangent(found[2], du, dt, w, w_t)
        if found is None or after is None or product(du, dt, *after, w, w_t) < TURN:
            step *= 0.4
            continue
        u, t, _, contraction = found
        w_new = np.maximum(np.abs(u), scale)
        length = product(*after, *after, w_new, w_t) ** 0.5
        if not (np.isfinite(length) and length > 0.0 and w_new.max(initial=0.0) < FARTHEST):
            return
        du, dt, w = after[0] / length, after[1] / length, w_new
        yield Node(u, t, du, dt, step, w)
        step = min(longest, step * min(2.0, max(0.5, (TARGET / max(contraction, 1e-3)) ** 0.5)))
