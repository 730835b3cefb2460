"""What `lagrad solve` and `lagrad check` print: tables of names and values, by the `rich` library.

Takes a Solution or a Layout, prints. On a terminal the tables have ruled headings; elsewhere they are plain
columns without control codes. `rich` is imported when there is a terminal. Computes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from lagrad.layout import Layout
from lagrad.solve import Solution
from lagrad.view.text import printable, value_text

if TYPE_CHECKING:
    from rich.console import Console


ROWS: Final = 50  # rows of a table; --json gives all of them
NAMES: Final = 6  # names listed in one cell
KINDS: Final = ("explicit", "implicit", "cyclic")


class Output:
    """Where lines and tables go: ruled tables on a terminal, plain columns elsewhere.

    Nothing printed is interpreted as markup, and `NO_COLOR` leaves no control codes at all.
    """

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.console: Console | None = None
        if file.isatty() and "NO_COLOR" not in os.environ:
            from rich.console import Console

            self.console = Console(file=file, markup=False, highlight=False, emoji=False)

    def line(self, text: str = "") -> None:
        """Print a line; control characters, which a name given in Python may hold, are escaped."""
        print(printable(text), file=self.file)

    def table(
        self, headings: Sequence[str], rows: Iterable[Sequence[str]], count: int, title: str = ""
    ) -> None:
        """Print a table; `count` is how many rows there would be without the limit `ROWS`."""
        if self.console is None:
            self._plain([headings, *rows], title)
        else:
            self._ruled(self.console, headings, rows, title)
        if count > ROWS:
            self.line(f"… and {count - ROWS} more")
        self.line()

    def _plain(self, rows: Sequence[Sequence[str]], title: str) -> None:
        if title:
            self.line(title)
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        for row in rows:
            self.line("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())

    def _ruled(
        self, console: Console, headings: Sequence[str], rows: Iterable[Sequence[str]], title: str
    ) -> None:
        from rich import box
        from rich.table import Table

        made = Table(
            title=title or None,
            title_justify="left",
            title_style="bold",
            header_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
        )
        for heading in headings:
            made.add_column(heading, overflow="fold")
        for row in rows:
            made.add_row(*map(printable, row))
        console.print(made)


def solution_tables(out: Output, solution: Solution) -> None:
    """States and definitions with their values."""
    values = solution.states
    defined = {item.name for item in solution.layout.state_items() if item.defined}
    for heading, names in (
        ("state", [n for n in values if n not in defined]),
        ("definition", [n for n in values if n in defined]),
    ):
        if names:
            rows = [(n, value_text(values[n])) for n in names[:ROWS]]
            out.table((heading, "value"), rows, len(names))


def gradient_tables(
    out: Output, output: str, solution: Solution, gradient: Mapping[str, Any], multipliers: Mapping[str, Any]
) -> None:
    """dJ/dp for every parameter, and the multiplier of every constraint."""
    values = solution.parameters
    rows = [(n, value_text(values[n]), value_text(g)) for n, g in list(gradient.items())[:ROWS]]
    out.table(("parameter", "value", f"d {output}"), rows, len(gradient), f"gradient of {output}")
    rows_of = [(n, value_text(x)) for n, x in list(multipliers.items())[:ROWS]]
    out.table(("constraint", "λ"), rows_of, len(multipliers), f"multipliers of {output}")


def block_table(out: Output, layout: Layout) -> None:
    """The blocks in the order in which they are solved, by the user's names."""
    visible = visible_sizes(layout)
    shown = np.flatnonzero(visible)
    rows = []
    for k, b in enumerate(shown[:ROWS].tolist()):
        constraints, states = layout.block_names(b)
        size = f" of {visible[b]}" if visible[b] > 1 else ""
        rows.append((str(k + 1), KINDS[layout.kind[b]] + size, _names(constraints), _names(states)))
    out.table(("block", "kind", "constraints", "states"), rows, shown.size)


def comparison_table(out: Output, found: Mapping[str, Sequence[Any]]) -> None:
    """By output: how far the gradient by each other method is from lagrad's, and at which parameter."""
    rows = [
        (
            name,
            check.method,
            "" if check.difference is None else f"{check.difference:.1e}",
            check.where,
            {True: "agrees", False: "DISAGREES", None: "not compared"}[check.agrees]
            + (f": {check.note}" if check.note else ""),
        )
        for name, checks in found.items()
        for check in checks
        if check.method != "lagrad"
    ]
    out.table(("gradient of", "by", "difference", "at", ""), rows[:ROWS], len(rows))


def visible_sizes(layout: Layout) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How many of the user's own states each block has (n_blocks,); the rest are values that lagrad named."""
    own = (layout.machine.col_order < layout.n_states).astype(np.int64)
    return np.add.reduceat(own, layout.ptr[:-1]) if layout.n else np.zeros(0, np.int64)


def _names(names: Sequence[str]) -> str:
    own = [n for n in names if not n.startswith(("‹", "…"))]
    return ", ".join(own[:NAMES]) + (", …" if len(own) > NAMES else "")
