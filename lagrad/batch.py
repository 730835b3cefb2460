"""Many parameter points in one call, each a lane of its own.

Takes a layout and parameters with a leading batch axis; gives a `Batch`: states, Jacobians and, lane by lane, what
went wrong. A system without large blocks runs through all lanes in one call into compiled code; a lane that this
declines, and every lane of a system with large blocks, goes the ordinary way alone. No lane sees another, so that
where there is work for several threads they share the lanes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.assembly.whole import DONE, Room, solve_lanes
from lagrad.errors import DeclarationError, LagradError, ShapeError
from lagrad.expr.expression import Expression
from lagrad.layout import Floats, Layout, by_name, numbers, several
from lagrad.repeated import compiled_arguments
from lagrad.solve import Options, solve
from lagrad.threads import cores, in_turn

PROBE = 8  # lanes that one thread solves before others are asked for
THREADS_PAY = 2e-3  # seconds of work left from which on they are: starting them takes a tenth of that
PATIENCE = 0.1  # seconds, about, that a piece of the lanes takes at most
PIECES = 4  # for each thread, so that lanes which take long are shared out


@dataclass(frozen=True, eq=False)
class Batch:
    """The lanes of `System.solve_many`. Values of a lane that failed are nan; `errors` says why.

    `batch["y"]` has shape (lanes, *shape of y). `errors` is {lane: exception}; `ok` (lanes,) is its opposite.
    `jacobian` is {(output, parameter): (lanes, output size, parameter size)} for the outputs asked for.
    """

    layout: Layout
    v: Floats = field(repr=False)  # (lanes, m+n)
    errors: dict[int, LagradError]
    jacobian: dict[tuple[str, str], Floats] = field(repr=False)

    def __len__(self) -> int:
        return len(self.v)

    def __repr__(self) -> str:
        return f"Batch of {self.layout.name!r}: {len(self)} lanes, {len(self.errors)} failed"

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which lanes were solved (and, if asked for, differentiated)."""
        out = np.ones(len(self), dtype=np.bool_)
        out[list(self.errors)] = False
        return out

    def __getitem__(self, name: str | Expression) -> Floats:
        index, shape = self.layout.find_value(name)
        return self.v[:, index].reshape((len(self), *shape))


def solve_many(
    layout: Layout,
    parameters: Mapping[str, ArrayLike],
    of: Sequence[str],
    wrt: Sequence[str] | None,
    options: Options,
    threads: int | None = None,
) -> Batch:
    """Solve at every point of `parameters`; arrays with one more axis than the parameter, in front, are batched."""
    p = _points(layout, parameters)
    names = [i.name for i in layout.parameter_items()] if wrt is None else several(wrt)
    of = several(of)
    outputs = [layout.find_output(name)[0] for name in of]
    inputs = [layout.find_parameter(name)[0] for name in names] if outputs else []
    rows = np.concatenate([np.empty(0, np.int64), *outputs])
    cols = np.concatenate([np.empty(0, np.int64), *inputs])
    lanes = len(p)
    v = np.concatenate([p, np.broadcast_to(layout.guess, (lanes, layout.n))], axis=1)
    total = np.full((lanes, rows.size, cols.size), np.nan)
    left = np.ones(lanes, dtype=np.int64)
    bad = ~np.isfinite(p).all(axis=1)
    if not layout.pattern.large and lanes:
        machine = layout.machine
        sizes = (
            machine.n,
            machine.m,
            layout.kind.size,
            rows.size,
            machine.nnz,
            int(layout.pattern.packed[-1]),
        )

        def run(part: slice) -> None:
            arguments = compiled_arguments(layout, options)
            room = Room.of(*sizes)
            solve_lanes(*arguments, True, rows, cols, room, v[part], total[part], left[part])

        _share(run, lanes, cores() if threads is None else threads)
        left[bad] = DONE + 1
    errors: dict[int, LagradError] = {}
    for lane in np.flatnonzero(left != DONE).tolist():
        try:
            full = layout.parameter_vector(layout.split_parameters(p[lane]))
            solution = solve(layout, full, None, options)
            if rows.size:
                total[lane] = solution.total(rows, cols)
            v[lane] = np.where(np.isfinite(solution.v), solution.v, np.nan)
        except LagradError as error:
            errors[lane] = error
            v[lane, layout.m :] = np.nan
            total[lane] = np.nan
    row_at = np.cumsum([0] + [p.size for p in outputs])
    col_at = np.cumsum([0] + [p.size for p in inputs])
    jacobian = {
        (a, b): total[:, row_at[i] : row_at[i + 1], col_at[j] : col_at[j + 1]]
        for i, a in enumerate(of)
        for j, b in enumerate(names)
    }
    return Batch(layout, v, errors, jacobian)


def _share(run: Callable[[slice], None], lanes: int, threads: int) -> None:
    """`run` all lanes, the first few here and what is left on several threads, if it is worth starting them.

    In pieces short enough for a person's Ctrl-C to be heard between them; what has not begun by then does not begin.
    """
    first = min(lanes, PROBE)
    begun = time.perf_counter()
    run(slice(0, first))
    each = max((time.perf_counter() - begun) / first, 1e-9)
    pieces = math.ceil((lanes - first) * each / PATIENCE)
    if each * (lanes - first) < THREADS_PAY:
        threads = 1
    if threads > 1:
        pieces = max(pieces, PIECES * threads)
    cuts = np.linspace(first, lanes, 1 + max(1, min(pieces, lanes - first))).astype(int).tolist()
    in_turn(run, [slice(*ends) for ends in pairwise(cuts)], threads)


def _points(layout: Layout, parameters: Mapping[str, ArrayLike]) -> Floats:
    """p (lanes, m). A non-finite value is a matter of its lane, not of the batch."""
    lanes: int | None = None
    given: list[tuple[NDArray[np.int64], tuple[int, ...], Any]] = []
    for name, value in by_name("parameters", parameters):
        index, shape = layout.find_parameter(name)
        array = np.asarray(value)
        if array.ndim == len(shape) + 1:
            if lanes is not None and len(array) != lanes:
                raise ShapeError(
                    name, array.shape, (lanes, *shape), "All batched parameters have as many lanes."
                )
            if array.dtype.kind not in "fiub" or array.shape[1:] != shape:
                raise ShapeError(name, array.shape, ("lanes", *shape))
            lanes = len(array)
            given.append((index, shape, array.astype(np.float64)))
        else:
            given.append((index, shape, numbers(name, value, shape)[None]))
    if lanes is None:
        raise DeclarationError(
            "solve_many",
            "no parameter has a leading batch axis.",
            "Give arrays of shape (lanes, *shape), or call solve for one point.",
        )
    p = np.broadcast_to(layout.values, (lanes, layout.m)).copy()
    for index, shape, array in given:
        p[:, index] = np.broadcast_to(array, (lanes, *shape)).reshape(lanes, index.size)
    return p
