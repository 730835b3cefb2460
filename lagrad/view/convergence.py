"""Histories of `lagrad.minimize` beside each other, as a picture.

Takes `MinimizeResult`s, gives a matplotlib figure: objective, feasibility, stationarity, and how far the multipliers
are from the adjoints at the same point. Needs matplotlib (the extra `plot`), imported here and only when called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lagrad.errors import ComparisonError
from lagrad.lagrangian.result import MinimizeResult

PANELS = {
    "objective": "objective above the best",
    "feasibility": "feasibility",
    "stationarity": "stationarity",
    "distance": "multipliers: distance to the adjoint",
}
LEAST = 1e-16  # what is drawn for zero, or rounding, on a logarithmic axis: the lower edge of every panel
DASHES = ("-", "--", ":")  # after ten colours


def curves(
    results: MinimizeResult | Iterable[MinimizeResult] | Mapping[str, MinimizeResult],
) -> dict[str, dict[str, tuple[Any, Any]]]:
    """{panel: {name: (iterations, values)}}, all values positive: what `plot_convergence` draws.

    The objective is shown above the lowest that any of the results ended at with success, or at all.
    """
    if isinstance(results, MinimizeResult):
        results = [results]
    named = results if isinstance(results, Mapping) else _labelled(results)
    ends = [r.fun for r in named.values() if r.success] or [r.fun for r in named.values()]
    best = min(ends, default=0.0)
    out: dict[str, dict[str, tuple[Any, Any]]] = {panel: {} for panel in PANELS}
    for name, result in named.items():
        for panel in PANELS:
            values = np.asarray(result.history[panel], dtype=np.float64)
            values = np.abs(values - best) if panel == "objective" else values
            keep = np.isfinite(values)
            out[panel][name] = (
                np.asarray(result.history["iteration"])[keep],
                np.maximum(values[keep], LEAST),
            )
    return out


def plot_convergence(
    results: MinimizeResult | Iterable[MinimizeResult] | Mapping[str, MinimizeResult], path: str | None = None
) -> Any:
    """A matplotlib figure of the histories, methods side by side; saved at `path` if that is given.

    results: one, several, or {label: result}. A mark shows where each ended; zero, and what rounding leaves, is drawn
    at the lower edge; free programs have no adjoint, and no line in the last panel. Raises `ComparisonError` where
    matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ComparisonError(
            "plot_convergence", "matplotlib is not installed.", "Install lagrad with its extra 'plot'."
        ) from None
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    drawn: dict[str, Any] = {}
    for axis, (panel, lines) in zip(axes.flat, curves(results).items(), strict=True):
        for k, (name, (iterations, values)) in enumerate(lines.items()):
            style = {"color": f"C{k % 10}", "linestyle": DASHES[k // 10 % len(DASHES)]}
            # a single point has no line; where a method ended is worth a mark
            (drawn[name],) = axis.plot(
                1 + iterations, values, label=name, linewidth=1.4, marker="o", markersize=4,
                markevery=[-1] if iterations.size else [], clip_on=False, **style,
            )  # fmt: skip
        axis.set(title=PANELS[panel], xlabel="iteration (from 1)", xscale="log", yscale="log")
        axis.set_xlim(left=1.0)
        lowest = min((values.min() for _, values in lines.values() if values.size), default=1.0)
        axis.set_ylim(bottom=LEAST if lowest <= 10.0 * LEAST else None)
        axis.grid(True, which="major", color="0.9", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    if drawn:
        figure.legend(list(drawn.values()), list(drawn), loc="outside upper center", ncols=4, frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _labelled(results: Iterable[MinimizeResult]) -> dict[str, MinimizeResult]:
    """By method; the second of a method is "sqp (2)"."""
    out: dict[str, MinimizeResult] = {}
    for result in results:
        same = sum(r.method == result.method for r in out.values())
        out[f"{result.method} ({same + 1})" if same else result.method] = result
    return out
