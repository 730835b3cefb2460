"""Starting: how long an import takes, and the first solve of a whole process, with warm and with cold
kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import OURS, SECONDS, Case, Entrant, Goal, Work, installed

ROOT = Path(__file__).absolute().parent.parent.parent
IMPORT = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
SOLVE = ["-m", "lagrad", "solve", "examples/sellar.toml", "--gradient", "obj", "--json"]
LIBRARIES = {
    "numpy": "numpy",
    "casadi": "casadi",
    "autograd": "autograd",
    "jax": "jax",
    "openmdao": "openmdao.api",
}


def _process(command: list[str], **environment: str) -> str:
    """What a Python process prints. Byte code is kept from run to run, as it is where a library is installed."""
    given = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | environment
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=given, capture_output=True, text=True, check=True
    )
    return done.stdout


def _import(module: str) -> Work:
    """Import a module in a fresh process; the time is that of the import alone."""
    return Work(lambda _: {SECONDS: float(_process(["-c", IMPORT.format(module)]))})


def _solve(**environment: str) -> dict[str, Any]:
    found = json.loads(_process(SOLVE, **environment))
    gradient = found["gradients"]["obj"]
    return {"value": found["definitions"]["obj"], "gradient": [*gradient["z"], gradient["x"]]}


def _solve_cold(_: None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return _solve(NUMBA_CACHE_DIR=folder)


def _peer(module: str) -> Work:
    """A peer's module as a program: it prints value and gradient."""
    return Work(lambda _: json.loads(_process(["-m", f"benchmarks.peers.{module}"])))


def entrants(kind: str) -> list[Entrant]:
    """Importing each library, and a first solve; in the size "cold", a solve that compiles all kernels."""
    if kind == "cold":
        return [Entrant(OURS, {}, {"first solve, no kernels": Work(_solve_cold)})]
    work = {"import": _import("lagrad"), "first solve": Work(lambda _: _solve())}
    out = [Entrant(OURS, {}, work)]
    for name, module in LIBRARIES.items():
        if installed(name):
            work = {"import": _import(module)}
            if name in ("casadi", "openmdao"):
                work["first solve"] = _peer(f"sellar_{name}")
            out.append(Entrant(name, {}, work))
    return out


CASE = Case(
    name="start",
    summary="whole processes: an import, and a first certified solve with gradient",
    unit="process",
    sizes=("warm", "cold"),
    quick=("warm",),
    small="warm",
    entrants=entrants,
    goals=(Goal("import", 0.35), Goal("first solve", 0.8), Goal("first solve, no kernels", 30.0)),
    memory=False,
    count=lambda _: 1,
)
