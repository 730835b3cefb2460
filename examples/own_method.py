"""A method of one's own on the Lagrangian: Newton's method for its stationary points, in ten lines.

    minimise ½ |x|²  so that  x₁ x₂ == a

Two free states and one constraint: nothing determines the states but that the cost shall be least. All that a method
needs stands in ∇L = 0 and in the Jacobian of that, the KKT matrix:

    [[H, −Aᵀ], [−A, 0]] (Δu, Δλ) = −∇L

`lg.lagrangian_function` gives both as flat arrays at any point (`program.lagrangian("cost").at(…)` by name). In closed
form x₁ = x₂ = √a, the cost is a, and the multiplier of x₁ x₂ == a, the change of the least cost per unit by which the
product may exceed a, is 1.

    python examples/own_method.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse.linalg as spla

import lagrad as lg

EXPECTED = {"x": [2**0.5, 2**0.5], "cost": 2.0, "multiplier": 1.0}  # for a = 2


def build(a: float = 2.0) -> lg.Program:
    """The program: its states are free, its parameter is a."""
    program = lg.Program("own_method")
    product = program.parameter("a", a)
    x = program.state("x", guess=[1.0, 2.0])
    program.constrain(x[0] * x[1] == product, name="product")
    program.define("cost", 0.5 * lg.sum(x**2))
    return program


def newton(program: lg.Program, output: str) -> tuple[dict[str, Any], dict[str, Any], list[float]]:
    """States and multipliers where ∇L = 0 over both, parameters held, and |∇L| step by step."""
    f = lg.lagrangian_function(program, output)
    u, p, lam = (
        f.guess,
        f.values,
        f.flat_constraints({output: 1.0}),
    )  # a definition that is J has multiplier 1
    free = np.r_[: f.n, f.n + f.m : f.n + f.m + f.nc]  # all of [u, p, λ] but p
    history: list[float] = []
    while not history or (history[-1] > 1e-12 and len(history) < 50):
        by_u, _, by_lam = f.gradient(u, p, lam)
        kkt = f.kkt(u, p, lam)[free][:, free].tocsc()
        step = spla.spsolve(kkt, -np.concatenate([by_u, by_lam]))
        u, lam = u + step[: f.n], lam + step[f.n :]
        history.append(float(max(np.abs(by_u).max(), np.abs(by_lam).max())))
    return f.split_states(u), f.split_constraints(lam), history


def main() -> None:
    """Solve it and print each step."""
    states, multipliers, history = newton(build(), "cost")
    print("|∇L| step by step:", " ".join(f"{x:.1e}" for x in history))
    print(f"x = {states['x'].round(12)}, cost = {states['cost']:.12f}, λ = {multipliers['product']:.12f}")


if __name__ == "__main__":
    main()
