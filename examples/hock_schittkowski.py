"""Test problems of nonlinear programming with known minima: fewer constraints than states, nothing else given.

All variables are states and no parameter is needed: `lagrad.minimize` moves what the constraints leave free. Starting
points are the published ones, HS6's far side of its valley and HS77's sixth-order flatness among them.

Source: W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes, Springer (1981), by their numbers.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import lagrad as lg


@dataclass(frozen=True)
class Case:
    """A problem, written as in a model file, and its minimum to 20 digits from mpmath."""

    objective: str
    constraints: tuple[str, ...]
    start: tuple[float, ...]
    f: float
    x: tuple[float, ...]
    multipliers: tuple[float, ...]  # of L = J − λᵀR, R = lhs − rhs


EXPECTED = {
    "HS6": Case(
        objective="(1-x1)**2",
        constraints=("10*(x2-x1**2) == 0",),
        start=(-1.2, 1.0),
        f=0.0,
        x=(1.0, 1.0),
        multipliers=(0.0,),
    ),
    "HS7": Case(
        objective="log(1+x1**2)-x2",
        constraints=("(1+x1**2)**2+x2**2 == 4",),
        start=(2.0, 2.0),
        f=-1.73205080756887729352,
        x=(0.0, 1.73205080756887729352),
        multipliers=(-0.28867513459481288225,),
    ),
    "HS28": Case(
        objective="(x1+x2)**2+(x2+x3)**2",
        constraints=("x1+2*x2+3*x3 == 1",),
        start=(-4.0, 1.0, 1.0),
        f=0.0,
        x=(0.5, -0.5, 0.5),
        multipliers=(0.0,),
    ),
    "HS39": Case(
        objective="-x1",
        constraints=("x2-x1**3-x3**2 == 0", "x1**2-x2-x4**2 == 0"),
        start=(2.0, 2.0, 2.0, 2.0),
        f=-1.0,
        x=(1.0, 1.0, 0.0, 0.0),
        multipliers=(1.0, 1.0),
    ),
    "HS40": Case(
        objective="-x1*x2*x3*x4",
        constraints=("x1**3+x2**2 == 1", "x1**2*x4-x3 == 0", "x4**2-x2 == 0"),
        start=(0.8, 0.8, 0.8, 0.8),
        f=-0.25,
        x=(0.79370052598409973737, 0.70710678118654752440, -0.52973154717964763228, -0.84089641525371454303),
        multipliers=(-0.5, -0.47193715634084674832, -0.35355339059327376220),
    ),
    "HS48": Case(
        objective="(x1-1)**2+(x2-x3)**2+(x4-x5)**2",
        constraints=("x1+x2+x3+x4+x5 == 5", "x3-2*(x4+x5) == -3"),
        start=(3.0, 5.0, -3.0, 2.0, -2.0),
        f=0.0,
        x=(1.0, 1.0, 1.0, 1.0, 1.0),
        multipliers=(0.0, 0.0),
    ),
    "HS52": Case(
        objective="(4*x1-x2)**2+(x2+x3-2)**2+(x4-1)**2+(x5-1)**2",
        constraints=("x1+3*x2 == 0", "x3+x4-2*x5 == 0", "x2-x5 == 0"),
        start=(2.0, 2.0, 2.0, 2.0, 2.0),
        f=5.32664756446991404011,
        x=(
            -0.09455587392550143266,
            0.03151862464183381088,
            0.51575931232091690544,
            -0.45272206303724928366,
            0.03151862464183381088,
        ),
        multipliers=(-3.27793696275071633237, -2.90544412607449856733, 7.74785100286532951289),
    ),
    "HS77": Case(
        objective="(x1-1)**2+(x1-x2)**2+(x3-1)**2+(x4-1)**4+(x5-1)**6",
        constraints=("x1**2*x4+sin(x4-x5) == 2*sqrt(2)", "x2+x3**4*x4**2 == 8+sqrt(2)"),
        start=(2.0, 2.0, 2.0, 2.0, 2.0),
        f=0.24150512879017869685,
        x=(
            1.16617218970929848478,
            1.18211138880270426697,
            1.38025704314545973822,
            1.50603627362304573483,
            0.61092019604309082407,
        ),
        multipliers=(0.08553959704281990014, 0.03187839818681156438),
    ),
}
# −x1 x2 x3 x4 stays what it is when x3 and x4 change their signs together: HS40 has two minima, the other's second
# multiplier (of x1**2*x4 - x3 == 0) with the other sign.
MIRRORED = {"HS40": ((1.0, 1.0, -1.0, -1.0), (1.0, -1.0, 1.0))}


def build(name: str = "HS77") -> lg.Program:
    """A program with states x1, x2, ..., constraints c1, c2, ... and the objective `f`."""
    case = EXPECTED[name]
    program = lg.Program(name)
    names = {f"x{k + 1}": program.state(f"x{k + 1}", guess=value) for k, value in enumerate(case.start)}
    known = {**names, "log": lg.log, "sin": lg.sin, "sqrt": math.sqrt}
    for k, text in enumerate(case.constraints):
        # these texts stand in this very file; a model from elsewhere is read by lagrad.frontends.model_file
        program.constrain(eval(text, {}, known), name=f"c{k + 1}")
    program.define("f", eval(case.objective, {}, known))
    return program


def errors(name: str, result: lg.MinimizeResult) -> tuple[float, float, float]:
    """The largest errors of f, x and the multipliers of a result, against the minimum or its mirror image."""
    case = EXPECTED[name]
    signs_x, signs = MIRRORED.get(name, ((1.0,) * len(case.x), (1.0,) * len(case.multipliers)))
    states, multipliers = result.states, result.multipliers
    x = [float(states[f"x{k + 1}"]) for k in range(len(case.x))]
    lam = [float(multipliers[f"c{k + 1}"]) for k in range(len(case.multipliers))]
    found = []
    for mirror in (False, True):
        want_x = [v * s if mirror else v for v, s in zip(case.x, signs_x, strict=True)]
        want = [v * s if mirror else v for v, s in zip(case.multipliers, signs, strict=True)]
        off_x = max(abs(a - b) for a, b in zip(x, want_x, strict=True))
        off = max(abs(a - b) for a, b in zip(lam, want, strict=True))
        found.append((off_x, off))
    off_x, off = min(found)
    return abs(result.fun - case.f), off_x, off


def main(method: str = "sqp") -> None:
    """All problems by one method: iterations, and the errors of objective, point and multipliers."""
    print(f"{method:24}{'iterations':>11}{'error of f':>12}{'of x':>10}{'of λ':>10}")
    for name in EXPECTED:
        result = lg.minimize(build(name), "f", method=method, tolerance=1e-10)
        figures = errors(name, result)
        print(f"{name:24}{result.nit:11}{figures[0]:12.0e}{figures[1]:10.0e}{figures[2]:10.0e}")
        if not result.success:
            print(f"  {result.message}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
