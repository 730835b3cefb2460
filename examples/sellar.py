"""Sellar's problem: two disciplines that need each other's result, a standard test of design optimisation.

    y1 == z0² + z1 + x - 0.2 y2          (discipline 1)
    y2 == sqrt(y1) + z0 + z1             (discipline 2)
    obj = x² + z1 + y1 + exp(-y2),   con1 = 3.16 - y1,   con2 = y2 - 24

Source: R. S. Sellar, S. M. Batill, J. E. Renaud, AIAA paper 96-0714 (1996). A tool that runs each discipline
once and differentiates what it ran gets y1 = 27.8 and dobj/dz0 = 9.99999; both are wrong, and nothing warns.
"""

from __future__ import annotations

import lagrad as lg

# 20 digits from mpmath, at z = (5, 2), x = 1; totals by output, then parameter.
EXPECTED = {
    "y1": 25.588302369877685529,
    "y2": 12.058488150611572356,
    "obj": 28.588308165033750231,
    "totals": {
        "obj": {"x": 2.9806139134842877643, "z": [9.6100105569899553879, 1.7844853356313655091]},
        "con1": {"x": -0.9806144751949959701, "z": [-9.610021856910960507, -0.78449158015599677608]},
        "con2": {"x": 0.096927624025020149487, "z": [1.949890715445197465, 1.0775420992200161196]},
    },
}

# Its best design: −10 <= z0 <= 10, 0 <= z1 <= 10, 0 <= x <= 10, con1 <= 0, con2 <= 0 (the published optimum).
BEST = {"z0": 1.9776388834, "z1": 0.0, "x": 0.0, "obj": 3.18339395}
LIMITS = {"x": (0, 10), "z": ([-10, 0], [10, 10])}


def build() -> lg.Program:
    """The two disciplines as constraints, objective and limits as definitions."""
    program = lg.Program("sellar")
    z = program.parameter("z", [5.0, 2.0])
    x = program.parameter("x", 1.0)
    y1 = program.state("y1", guess=1.0)
    y2 = program.state("y2", guess=1.0)
    program.constrain(y1 == z[0] ** 2 + z[1] + x - 0.2 * y2, name="d1")
    program.constrain(y2 == lg.sqrt(y1) + z[0] + z[1], name="d2")
    program.define("obj", x**2 + z[1] + y1 + lg.exp(-y2))
    program.define("con1", 3.16 - y1)
    program.define("con2", y2 - 24)
    return program


def main() -> None:
    """Print the solution, all totals, and the multipliers of the objective."""
    solution = lg.build(build()).solve()
    print(f"y1 = {float(solution['y1']):.12g}, y2 = {float(solution['y2']):.12g}\n")
    print("output          value        d/dz[0]        d/dz[1]           d/dx")
    for output in ("obj", "con1", "con2"):
        total = solution.gradient(output)
        figures = (float(solution[output]), *total["z"], float(total["x"]))
        print(f"{output:6}" + "".join(f"{figure:15.8f}" for figure in figures))
    multipliers = solution.multipliers("obj")
    d1, d2 = float(multipliers["d1"]), float(multipliers["d2"])
    print(
        f"\nmultipliers of obj: d1 {d1:.8f}, d2 {d2:.8f}\n"
        f"If discipline 1 gave more, obj would change by {d1:.4f} per unit, not by 1: "
        "y2 answers y1 and takes some back."
    )
    best = lg.minimize(
        build(), "obj", over=["z", "x"], method="reduced", bounds=LIMITS, inequalities=["con1", "con2"]
    )
    print(
        f"\nbest design: z0 {best.x['z'][0]:.8f}, z1 {best.x['z'][1]:.1f}, x {float(best.x['x']):.1f}, "
        f"obj {best.fun:.8f}; con1 holds it back at {float(best.bound_multipliers['con1']):.6f} per unit"
    )


if __name__ == "__main__":
    main()
