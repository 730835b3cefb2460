"""Methods times problems: lagrad's, and SciPy's SLSQP and trust-constr with their own defaults beside them.

    python -m benchmarks.optimise [--problem NAME …]

The problems are Hock's and Schittkowski's, whose minima are known to 20 digits. SciPy gets compiled gradients and
Jacobians of the same formulas from SymPy. Every answer is judged by its largest error in x: solved, refused (the method
says that it has not converged) or elsewhere (success, x off by more than 1e-3: another minimum, or none). No times are
taken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy
from rich.console import Console
from rich.table import Table
from scipy.optimize import NonlinearConstraint, minimize

import lagrad as lg
from tests.example_files import load

problems = load("examples/hock_schittkowski.py")
OURS = (
    "sqp",
    "augmented-lagrangian",
    "auxiliary-coordinates",
    "primal-dual",
)  # the others need solvable programs
PEERS = ("SLSQP", "trust-constr")
ITERATIONS = {"primal-dual": 10_000, "auxiliary-coordinates": 500}
FAR = 1e-3


def ours(name: str, method: str) -> dict[str, Any]:
    """How lagrad's `method` ends, with its tolerance for all: 1e-8, 1e-6 for the last two."""
    result = lg.minimize(
        problems.build(name), "f", method=method, max_iterations=ITERATIONS.get(method), progress=False
    )
    _, x, multipliers = problems.errors(name, result)
    return _judged(result.success, result.nit, x, multipliers)


def peer(name: str, method: str) -> dict[str, Any]:
    """How SciPy's `method` ends. Multipliers are not compared: SLSQP gives none."""
    case = problems.EXPECTED[name]
    symbols = sympy.symbols(f"x1:{len(case.x) + 1}")
    objective = sympy.sympify(case.objective)
    rows = []
    for text in case.constraints:
        left, right = text.split("==")
        rows.append(sympy.sympify(left) - sympy.sympify(right))
    f, g, c, a = (
        sympy.lambdify([symbols], expression)
        for expression in (
            objective,
            [objective.diff(s) for s in symbols],
            rows,
            [[row.diff(s) for s in symbols] for row in rows],
        )
    )

    def array(function: Any) -> Any:
        return lambda x: np.array(function(x), dtype=float)

    constraint: Any = (
        NonlinearConstraint(array(c), 0.0, 0.0, jac=array(a))
        if method == "trust-constr"
        else {"type": "eq", "fun": array(c), "jac": array(a)}
    )
    result = minimize(f, case.start, jac=array(g), method=method, constraints=constraint)
    signs = problems.MIRRORED.get(name, ((1.0,) * len(case.x), ()))[0]
    off = min(
        float(np.abs(result.x - np.array(case.x) * s).max()) for s in (np.ones(len(case.x)), np.array(signs))
    )
    # trust-constr: 1 and 2 are its two tests of convergence, 0 the iterations used up
    success = result.status in (1, 2) if method == "trust-constr" else bool(result.success)
    return _judged(success, int(result.nit), off, None)


def _judged(success: bool, iterations: int, x: float, multipliers: float | None) -> dict[str, Any]:
    outcome = "refused" if not success else "solved" if x <= FAR else "elsewhere"
    return {"outcome": outcome, "iterations": iterations, "x": x, "multipliers": multipliers}


def rows(names: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """{(problem, method): outcome, iterations and errors}."""
    out = {}
    for name in names:
        for method in OURS:
            out[name, method] = ours(name, method)
        for method in PEERS:
            out[name, method] = peer(name, method)
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.optimise", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--problem", nargs="+", choices=list(problems.EXPECTED), default=list(problems.EXPECTED)
    )
    names = parser.parse_args(arguments).problem
    found = rows(names)
    table = Table("problem", *OURS, *PEERS, title="iterations, error of x (° elsewhere, – refused)")
    for name in names:
        cells = []
        for method in (*OURS, *PEERS):
            row = found[name, method]
            mark = {"solved": "", "elsewhere": " °", "refused": " –"}[row["outcome"]]
            cells.append(f"{row['iterations']}, {row['x']:.0e}{mark}")
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
