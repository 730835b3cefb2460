"""Who solves what: the collection of MINPACK from its standard starts and from 10 and 100 times them.

    python -m benchmarks.hard [--further] [--json FILE] [--markdown FILE]

lagrad beside `scipy.optimize.root` with `hybr` and `lm`, each with its own defaults, SciPy with differences for its
Jacobian. Every answer is judged by the same residual, written in NumPy apart from lagrad: solved, refused, or *false*:
returned as a success although it is no root. A point that SciPy gives up at counts as solved all the same if it is
one. No times are taken. `benchmarks/hard.md` holds what it printed last.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import root

import lagrad as lg
from tests.mgh import FURTHER, SYSTEMS, System

FACTORS = (1, 10, 100)
ROOT = (
    1e-6  # largest |F_i| that counts as a root: SciPy stops at steps of 1.5e-8, and terms here are about one
)
METHODS = ("hybr", "lm")
SOLVED, FALSE, REFUSED = "solved", "false", "refused"


def ours(system: System, factor: float) -> dict[str, Any]:
    """lagrad's outcome, and by which method of the ladder."""
    try:
        solution = lg.build(system.program(factor)).solve()
    except lg.LagradError as error:
        tried = len({attempt.method for attempt in getattr(error, "attempts", ())})
        return {"outcome": REFUSED, "why": f"{type(error).__name__}, {tried} methods", "residual": None}
    residual = float(np.abs(system.residual(np.asarray(solution["x"]))).max())
    by = [block.attempts[-1].method for block in solution.report.blocks if len(block.attempts) > 1]
    how = by[-1] if by else "newton"
    if solution.multiple.any():
        how += ", multiple root"
    return {"outcome": SOLVED if residual <= ROOT else FALSE, "why": how, "residual": residual}


def scipys(system: System, factor: float, method: str) -> dict[str, Any]:
    """The same for a method of `scipy.optimize.root`."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = root(system.residual, system.start(factor), method=method)
        residual = float(np.abs(system.residual(found.x)).max())
    outcome = SOLVED if residual <= ROOT else FALSE if found.success else REFUSED
    return {"outcome": outcome, "why": "success" if found.success else "no success", "residual": residual}


def outcomes(systems: Sequence[System]) -> list[dict[str, Any]]:
    """One row per system and start."""
    return [
        {
            "system": system.name,
            "states": system.n,
            "factor": factor,
            "lagrad": ours(system, factor),
            **{method: scipys(system, factor, method) for method in METHODS},
        }
        for system in systems
        for factor in FACTORS
    ]


def counts(rows: Sequence[dict[str, Any]]) -> dict[str, dict[int, dict[str, int]]]:
    """{who: {factor: {outcome: how many}}}."""
    return {
        who: {
            factor: {
                outcome: sum(r["factor"] == factor and r[who]["outcome"] == outcome for r in rows)
                for outcome in (SOLVED, FALSE, REFUSED)
            }
            for factor in FACTORS
        }
        for who in ("lagrad", *METHODS)
    }


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """The table, and a table of totals."""
    table = Table("system", "states", "start", "lagrad", "by", *(f"scipy {m}" for m in METHODS))
    colour = {SOLVED: "green", FALSE: "bold red", REFUSED: "yellow"}

    def cell(found: dict[str, Any]) -> str:
        residual = "" if found["residual"] is None else f" {found['residual']:.0e}"
        return f"[{colour[found['outcome']]}]{found['outcome']}[/]{residual}"

    for k, row in enumerate(rows):
        table.add_row(
            row["system"] if row["factor"] == FACTORS[0] else "",
            str(row["states"]) if row["factor"] == FACTORS[0] else "",
            f"{row['factor']}×",
            cell(row["lagrad"]),
            row["lagrad"]["why"],
            *(cell(row[method]) for method in METHODS),
            end_section=(k + 1) % len(FACTORS) == 0,
        )
    console.print(table)
    totals = Table("of " + str(len(rows) // len(FACTORS)), *(f"{factor}×" for factor in FACTORS))
    for who, found in counts(rows).items():
        totals.add_row(
            who if who == "lagrad" else f"scipy {who}",
            *(
                f"{found[f][SOLVED]} solved, {found[f][REFUSED]} refused"
                + (f", [bold red]{found[f][FALSE]} false[/]" if found[f][FALSE] else "")
                for f in FACTORS
            ),
        )
    console.print(totals)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The totals and the table as Markdown: outcomes without their residuals, which differ from machine to machine."""
    lines = [
        "# Who solves what",
        "",
        "Written by `python -m benchmarks.hard --further --markdown benchmarks/hard.md`.",
    ]
    lines += [
        "",
        f"| of {len(rows) // len(FACTORS)} | " + " | ".join(f"{factor}×" for factor in FACTORS) + " |",
    ]
    lines += ["|---|" + "---|" * len(FACTORS)]
    for who, found in counts(rows).items():
        cells = (
            ", ".join(f"{found[factor][o]} {o}" for o in (SOLVED, REFUSED, FALSE) if found[factor][o])
            for factor in FACTORS
        )
        lines.append(f"| {who if who == 'lagrad' else f'SciPy {who}'} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| system | states | start | lagrad | by | " + " | ".join(f"SciPy {m}" for m in METHODS) + " |",
    ]
    lines += ["|---|---|---|---|---|" + "---|" * len(METHODS)]
    for row in rows:
        others = " | ".join(row[method]["outcome"] for method in METHODS)
        own = f"{row['lagrad']['outcome']} | {row['lagrad']['why']}"
        lines.append(f"| {row['system']} | {row['states']} | {row['factor']}× | {own} | {others} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if lagrad returns a point that is no root, or solves fewer than SciPy from any start."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hard", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--further", action="store_true", help="the other sizes of MINPACK's driver as well")
    parser.add_argument("--json", metavar="FILE", help="write every outcome to FILE")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables to FILE")
    options = parser.parse_args(arguments)
    rows = outcomes([*SYSTEMS, *FURTHER] if options.further else SYSTEMS)
    show(rows, Console(width=None if sys.stdout.isatty() else 120))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"rows": rows, "counts": counts(rows)}, file, indent=1)
    if options.markdown:
        with open(options.markdown, "w", encoding="utf-8") as file:
            file.write(markdown(rows))
    found = counts(rows)
    behind = any(
        found["lagrad"][factor][SOLVED] < found[method][factor][SOLVED]
        for factor in FACTORS
        for method in METHODS
    )
    return 1 if behind or any(found["lagrad"][factor][FALSE] for factor in FACTORS) else 0


if __name__ == "__main__":
    sys.exit(main())
