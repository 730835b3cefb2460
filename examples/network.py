"""A small network trained by three methods on one Lagrangian: backprop, auxiliary coordinates, method of multipliers.

    h == tanh(x W1 + b1),   y == tanh(h W2 + b2),   out == y · w3     for every sample
    loss = mean (out − t)² + decay (|W1|² + |b1|² + |W2|² + |b2|² + |w3|²)

The layers are constraints like any others. `reduced` keeps them satisfied (a forward pass) and sets the multipliers to
the adjoints (backprop) at every step; the other two let both go and come back: in the end they have the same weights,
the same loss, and multipliers that are backprop's. T. Vieira's remark that the chain rule is one choice among many.
"""

from __future__ import annotations

import sys

import numpy as np

import lagrad as lg

SAMPLES = 12
METHODS = {
    "reduced": {"tolerance": 1e-8},
    "augmented-lagrangian": {"tolerance": 1e-8},
    "auxiliary-coordinates": {"tolerance": 1e-4, "penalty": 0.1},
}


def data() -> tuple[np.ndarray, np.ndarray]:
    """Inputs (SAMPLES, 1) and targets (SAMPLES,)."""
    x = np.linspace(-1.0, 1.0, SAMPLES)
    return x[:, None], np.sin(2.0 * x) + 0.3 * x**2


def build(decay: float = 1e-2) -> lg.Program:
    """One hidden layer of three, one of two; 3 + 3 + 6 + 2 + 2 weights."""
    x, t = data()
    program = lg.Program("network")
    W1 = program.parameter("W1", [[0.9, -0.4, 0.3]])
    b1 = program.parameter("b1", [0.1, 0.2, -0.1])
    W2 = program.parameter("W2", [[0.5, -0.3], [-0.4, 0.2], [0.2, 0.6]])
    b2 = program.parameter("b2", [0.0, 0.1])
    w3 = program.parameter("w3", [0.8, -0.5])
    h = program.define("h", lg.tanh(x @ W1 + b1))
    y = program.define("y", lg.tanh(h @ W2 + b2))
    weights = sum((lg.sum(w**2) for w in (W1, b1, W2, b2)), lg.sum(w3**2))
    program.define("loss", lg.mean((y @ w3 - t) ** 2) + decay * weights)
    return program


WEIGHTS = ["W1", "b1", "W2", "b2", "w3"]


def train(method: str) -> lg.MinimizeResult:
    """The loss minimised over all weights, from those in `build`."""
    return lg.minimize(build(), "loss", over=WEIGHTS, method=method, **METHODS[method])


def main(picture: str = "") -> None:
    """The three beside each other; `network.py FILE` also draws their curves there, with matplotlib."""
    results = [train(method) for method in METHODS]
    for result in results:
        solution = lg.build(build()).solve(result.x)
        adjoint = solution.multipliers("loss")
        off = max(float(np.abs(result.multipliers[k] - adjoint[k]).max()) for k in ("h", "y"))
        print(
            f"{result.method:24} loss {result.fun:.9f}  {result.nit:5} iterations  {result.seconds:6.1f} s  "
            f"|λ − adjoint| {off:.0e}  {result.status}"
        )
    if picture:
        lg.plot_convergence(results, picture)


if __name__ == "__main__":
    main(*sys.argv[1:2])
