"""What a first solve of a small system does not pay for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOAD_ALL = """
import importlib, json, pathlib, pkgutil, sys
import lagrad
from lagrad import kernel
from numba.core.cpu import CPUContext

for module in pkgutil.walk_packages(lagrad.__path__, "lagrad."):
    if module.name.split(".")[1] in ("assembly", "linalg", "structure"):
        importlib.import_module(module.name)
dispatchers = {
    thing
    for name, module in list(sys.modules.items()) if name.startswith("lagrad")
    for thing in vars(module).values() if hasattr(thing, "_cache") and hasattr(thing, "targetctx")
}
loaded, filled = 0, []
refresh = CPUContext.refresh
CPUContext.refresh = lambda context: (filled.append(1), refresh(context))
for dispatcher in dispatchers:
    magic = dispatcher.targetctx.codegen().magic_tuple()
    for signature, made_for, _ in dispatcher._cache._cache_file._load_index():
        if made_for == magic:
            loaded += dispatcher._cache.load_overload(signature, dispatcher.targetctx) is not None
print(json.dumps([loaded, len(filled), kernel.__version__.startswith(kernel.LATE_REGISTRIES)]))
"""

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


def test_every_kernel_on_disk_loads_without_numbas_registries() -> None:
    """A symbol that is missing without them ends the process."""
    subprocess.run([sys.executable, "-c", FIRST_SOLVE], cwd=ROOT, capture_output=True, check=True)
    done = subprocess.run([sys.executable, "-c", LOAD_ALL], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded, filled, late = json.loads(done.stdout)
    assert loaded >= 10
    assert (filled == 0) is late
