"""What a first solve of a small system does not pay for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FIRST_SOLVE = """
import json, sys
import lagrad as lg
from examples import sellar

solution = lg.build(sellar.build()).solve()
solution.gradient("obj"), solution.certificate
heavy = ("scipy.sparse", "scipy.sparse.linalg", "scipy.optimize", "scipy.special", "sympy", "matplotlib", "rich")
kernels = {
    f"{name}.{key}": len(thing.signatures)
    for name, module in list(sys.modules.items()) if name.startswith("lagrad")
    for key, thing in vars(module).items() if hasattr(thing, "signatures")
}
print(json.dumps([[m for m in heavy if m in sys.modules], kernels]))
"""


def test_a_small_first_solve_imports_nothing_heavy_and_loads_no_kernel_twice() -> None:
    command = [sys.executable, "-c", FIRST_SOLVE]
    subprocess.run(
        command, cwd=ROOT, capture_output=True, check=True
    )  # may compile, for which Numba imports more
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    heavy, kernels = json.loads(done.stdout)
    assert heavy == []
    assert kernels["lagrad.assembly.forward.sweep"] == 1
    assert max(kernels.values()) == 1
