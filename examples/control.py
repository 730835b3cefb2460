"""Optimal control of an implicit time stepper: heat a bar until its profile is as wished, at the least expense.

    (u_k+1 − u_k)/dt == ν D u_k+1 − u_k+1³ + patch q_k+1      k = 0 … steps − 1, u_0 = 0; q_k: one control per step
    J = h/2 ‖u_steps − target‖² + α dt/2 Σ q_k²

Backward Euler with a cubic loss: each step is a nonlinear system in all its points, D the second difference with zero
ends. n points times `steps` steps are the states, `steps` numbers the controls. All matrices are sparse; nobody writes
down a time loop or its reverse, and a full-space method never solves one.
"""

from __future__ import annotations

import resource
import sys

import numpy as np
import scipy.sparse as sp

import lagrad as lg

# The linear bar with one point and one step, cubic loss left out, is (1/dt + 8 ν) u = q: J is a parabola in q.
NU, ALPHA, TIME = 0.1, 1e-3, 0.5


def build(n: int = 20, steps: int = 10, loss: float = 1.0) -> lg.Program:
    """n points, `steps` steps: n · steps states, `steps` parameters."""
    program = lg.Program("control")
    h, dt = 1.0 / (n + 1), TIME / steps
    place = np.linspace(h, 1.0 - h, n)
    second = sp.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)) / h**2
    patch = np.exp(-20.0 * (place - 0.5) ** 2)
    q = program.parameter("q", np.zeros(steps))
    u = program.state("u", shape=(steps, n), guess=0.0)
    every = sp.kron(sp.eye_array(steps), second, format="csr")
    back = sp.eye_array(n * steps) - sp.eye_array(n * steps, k=-n)
    flat = u.ravel()
    heat = sp.kron(sp.eye_array(steps), patch[:, None], format="csr")
    program.constrain((sp.csr_array(back / dt - NU * every)) @ flat + loss * flat**3 == heat @ q, name="bar")
    wished = 0.5 * np.sin(np.pi * place)
    off = u[steps - 1] - wished
    program.define("J", 0.5 * h * lg.sum(off**2) + 0.5 * ALPHA * dt * lg.sum(q**2))
    return program


def best_of_one_step(n: int) -> tuple[np.ndarray, float]:
    """(q, J) of one linear step: q = (cᵀc + β)⁻¹ cᵀ target for u = q c, by hand."""
    h, dt = 1.0 / (n + 1), TIME
    place = np.linspace(h, 1.0 - h, n)
    second = (np.diag(np.full(n - 1, 1.0), -1) - 2 * np.eye(n) + np.diag(np.full(n - 1, 1.0), 1)) / h**2
    c = np.linalg.solve(np.eye(n) / dt - NU * second, np.exp(-20.0 * (place - 0.5) ** 2))
    wished = 0.5 * np.sin(np.pi * place)
    q = h * (c @ wished) / (h * (c @ c) + ALPHA * dt)
    return np.array([q]), 0.5 * h * float(np.sum((q * c - wished) ** 2)) + 0.5 * ALPHA * dt * q * q


def main(n: int = 20, steps: int = 10) -> None:
    """Both methods: iterations, seconds, and the peak of this process's memory after each."""
    print(f"{n * steps} states, {steps} controls")
    for method in ("sqp", "reduced"):
        result = lg.minimize(build(n, steps), "J", over=["q"], method=method, tolerance=1e-7)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{method:10} J = {result.fun:.10f}  {result.nit} iterations  {result.seconds:.1f} s  peak {peak:.0f} MB  "
            f"{result.status}  distance of λ from the adjoint {result.history['distance'][-1]:.0e}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
