"""Parameter estimation in a field: how fast is the reaction, and where, seen from the temperatures it leads to?

    −Δu == λ(x, y) exp(u),  λ = a0 + a1 x + a2 y;   J = h²/2 Σ (u − seen)²

The temperatures seen are those of a = (2, 1.5, −0.5) (see `bratu`), so that the answer is known: J = 0 there. One
cyclic block of n² states, three unknown parameters; bounds keep the estimate below the point of no solution.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

import lagrad as lg

TRUE = np.array([2.0, 1.5, -0.5])


def field_example() -> ModuleType:
    """The file beside this one."""
    spec = importlib.util.spec_from_file_location("bratu", Path(__file__).with_name("bratu.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rate(n: int, a: np.ndarray) -> np.ndarray:
    """λ (n, n) on the interior points."""
    line = np.arange(1, n + 1) / (n + 1)
    return np.asarray(a[0] + a[1] * line[:, None] + a[2] * line[None, :])


def build(n: int = 9) -> lg.Program:
    """The field with its three parameters, and the misfit `J`."""
    bratu = field_example()
    seen = lg.build(bratu.build(n, rate(n, TRUE))).solve()["u"]
    program = lg.Program("bratu_estimation")
    h2 = 1 / (n + 1) ** 2
    a = program.parameter("a", [1.0, 0.0, 0.0])
    u = program.state("u", shape=(n, n), guess=0.0)
    line = np.arange(1, n + 1) / (n + 1)
    at = [np.ones((n, n)), line[:, None] * np.ones(n), np.ones((n, 1)) * line]
    local = sum((a[k] * at[k].ravel() for k in (1, 2)), a[0] * at[0].ravel())
    program.constrain(bratu.negative_laplacian(n) @ u.ravel() == h2 * local * lg.exp(u.ravel()), name="heat")
    program.define("J", 0.5 * h2 * lg.sum((u - seen) ** 2) * 1e3)
    return program


def main(n: int = 9) -> None:
    """The estimate by two methods; the second never solves the field on the way."""
    for method in ("reduced", "sqp"):
        result = lg.minimize(
            build(n), "J", over=["a"], method=method, bounds={"a": (-4.0, 4.0)}, tolerance=1e-9
        )
        print(
            f"{method:8} a = {np.round(result.x['a'], 6)}  J = {result.fun:.1e}  {result.nit} iterations, "
            f"{result.seconds:.1f} s, {result.status}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
