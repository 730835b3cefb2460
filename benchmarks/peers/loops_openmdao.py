"""The chain of pairs in OpenMDAO: a group of two explicit components with a Newton solver for each pair.

Partials by hand, direct solvers inside the groups, adjoint mode. Solves start from the last solution, as
OpenMDAO does. Knows nothing of lagrad.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import openmdao.api as om

from benchmarks.harness import Entrant, Work


class First(om.ExplicitComponent):
    """y1 = z² + 4 + x - 0.2 y2."""

    def setup(self) -> None:
        """Scalars in, a scalar out."""
        for name in ("z", "x", "y2"):
            self.add_input(name, 1.0)
        self.add_output("y1", 5.0)
        self.declare_partials("y1", "z")
        self.declare_partials("y1", "x", val=1.0)
        self.declare_partials("y1", "y2", val=-0.2)

    def compute(self, inputs: Any, outputs: Any) -> None:
        """The value."""
        outputs["y1"] = inputs["z"] ** 2 + 4 + inputs["x"] - 0.2 * inputs["y2"]

    def compute_partials(self, inputs: Any, partials: Any) -> None:
        """The partial that is not constant."""
        partials["y1", "z"] = 2 * inputs["z"]


class Second(om.ExplicitComponent):
    """y2 = √y1 + z."""

    def setup(self) -> None:
        """Scalars in, a scalar out."""
        self.add_input("y1", 5.0)
        self.add_input("z", 1.0)
        self.add_output("y2", 3.0)
        self.declare_partials("y2", "y1")
        self.declare_partials("y2", "z", val=1.0)

    def compute(self, inputs: Any, outputs: Any) -> None:
        """The value."""
        outputs["y2"] = np.sqrt(inputs["y1"]) + inputs["z"]

    def compute_partials(self, inputs: Any, partials: Any) -> None:
        """The partial that is not constant."""
        partials["y2", "y1"] = 0.5 / np.sqrt(inputs["y1"])


class Pair(om.Group):
    """One coupled pair, solved by Newton."""

    def setup(self) -> None:
        """Both components, every variable promoted."""
        self.add_subsystem("first", First(), promotes=["*"])
        self.add_subsystem("second", Second(), promotes=["*"])
        self.nonlinear_solver = om.NewtonSolver(
            solve_subsystems=False, maxiter=30, atol=1e-13, rtol=1e-13, iprint=-1
        )
        self.linear_solver = om.DirectSolver()


def entrant(points: list[np.ndarray], x0: float) -> Entrant:
    """OpenMDAO as an entrant."""
    n = points[0].size

    def declare(_: None) -> Any:
        problem = om.Problem(reports=False)
        model = problem.model
        inputs = model.add_subsystem("inputs", om.IndepVarComp())
        inputs.add_output("z", points[0])
        inputs.add_output("x", x0)
        for k in range(n):
            if k > 0:
                model.add_subsystem(f"next{k}", om.ExecComp("x = 0.1 * y2", has_diag_partials=True))
            model.add_subsystem(f"pair{k}", Pair())
            model.connect("inputs.z", f"pair{k}.z", src_indices=[k])
            if k == 0:
                model.connect("inputs.x", "pair0.x")
            else:
                model.connect(f"pair{k - 1}.y2", f"next{k}.y2")
                model.connect(f"next{k}.x", f"pair{k}.x")
        model.add_subsystem("total", om.AddSubtractComp("out", [f"y{k}" for k in range(n)]))
        for k in range(n):
            model.connect(f"pair{k}.y2", f"total.y{k}")
        return problem

    def build(problem: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", om.OpenMDAOWarning
            )  # names every pair: a group with a Newton solver
            problem.setup(mode="rev")
            problem.final_setup()
        return problem

    def solve(problem: Any, z: np.ndarray) -> dict[str, Any]:
        problem.set_val("inputs.z", z)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", om.OpenMDAOWarning)
            problem.run_model()
        return {"value": problem.get_val("total.out")[0]}

    def gradient(problem: Any, _: np.ndarray, __: Any = None) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", om.OpenMDAOWarning)
            totals = problem.compute_totals(of=["total.out"], wrt=["inputs.z"])
        return {"gradient": next(iter(totals.values())).ravel()}

    def both(problem: Any, z: np.ndarray) -> dict[str, Any]:
        return {**solve(problem, z), **gradient(problem, z)}

    work = {
        "solve": Work(solve, points),
        "gradient": Work(gradient, points, solve),
        "solve+gradient": Work(both, points),
    }
    return Entrant("openmdao", {"declare": declare, "build": build}, work)
