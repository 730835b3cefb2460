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
LEAST = 1e-17  # what is drawn for zero on a logarithmic axis


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

    results: one, several, or {label: result}. Raises `ComparisonError` where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ComparisonError(
            "plot_convergence", "matplotlib is not installed.", "Install lagrad with its extra 'plot'."
        ) from None
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, (panel, lines) in zip(axes.flat, curves(results).items(), strict=True):
        for name, (iterations, values) in lines.items():
            axis.plot(1 + iterations, values, label=name)
        axis.set(title=PANELS[panel], xlabel="iteration (from 1)", xscale="log", yscale="log")
        axis.legend()
    if path is not None:
        figure.savefig(path)
    return figure


def _labelled(results: Iterable[MinimizeResult]) -> dict[str, MinimizeResult]:
    """By method; the second of a method is "sqp (2)"."""
    out: dict[str, MinimizeResult] = {}
    for result in results:
        same = sum(r.method == result.method for r in out.values())
        out[f"{result.method} ({same + 1})" if same else result.method] = result
    return out
