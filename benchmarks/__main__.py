"""The command: run cases, print one table of medians and ratios, write JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from benchmarks import cases, memory, report
from benchmarks.harness import Case, Measured, measure, warm_up


def _size(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if an answer differs from a peer's."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time lagrad beside the peers installed. Answers are compared before any time counts.",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: about a minute")
    parser.add_argument("--case", nargs="+", choices=cases.NAMES, metavar="NAME", default=list(cases.NAMES),
                        help=f"only these: {', '.join(cases.NAMES)}")  # fmt: skip
    parser.add_argument("--size", nargs="+", type=_size, metavar="SIZE", default=None,
                        help="only these sizes of the cases, such as 100000 or case9241pegase")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write every sample, ratio and peak to FILE")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out peak memory, one process per entrant"
    )
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    status = Console(stderr=True)
    about = report.machine() | {"quick": options.quick}
    results: list[tuple[Case, Measured]] = []
    interrupted = False
    with status.status("") as line:
        try:
            for name in options.case:
                case = cases.case(name)
                line.update(f"{name}: warms up")
                warm_up(case)
                for size in options.size or (case.quick if options.quick else case.sizes):
                    results.append((case, _measured(case, size, options, line.update)))
                    if options.json:  # hours of work may follow
                        report.write_json(results, about, options.json)
        except KeyboardInterrupt:
            interrupted = True
    report.write(results, about, console)
    if interrupted:
        console.print("[red]Interrupted: only what was measured until then.[/]")
        return 130
    return 1 if any(measured.refused for _, measured in results) else 0


def _measured(case: Case, size: Any, options: argparse.Namespace, log: Callable[[str], None]) -> Measured:
    """One case in one size: peaks first, each in a process of its own, then times."""
    peaks = {}
    if case.memory and not options.no_memory:
        for entrant in case.entrants(size):
            log(f"{case.name} {size}: memory of {entrant.name}")
            found = memory.peak(case, size, entrant.name)
            if found is not None:
                peaks[entrant.name] = found
    budget, rounds = (2.0, 5) if options.quick else (6.0, 9)
    measured = measure(case, size, budget=budget, rounds=rounds, log=log)
    measured.peaks = peaks
    return measured


if __name__ == "__main__":
    sys.exit(main())
