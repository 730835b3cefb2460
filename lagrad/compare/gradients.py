"""The second opinion: one gradient by many methods, as a table and as data.

Takes a Solution and an output, gives a `GradientCheck` per method. The built-in methods are the textbook
tape, central differences of repeated solves, and the complex step; the others hand the program to a library
that is installed here and let it differentiate. A method that cannot be had says why in its row."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lagrad.compare import complex_step
from lagrad.compare.callables import at_solution, explicit
from lagrad.compare.differences import derivative
from lagrad.compare.explicit import definitions, evaluation_order
from lagrad.compare.libraries import installed, library
from lagrad.compare.naming import point_of, program_of, split
from lagrad.compare.symbolic import gradient_by_sympy
from lagrad.compare.tape import backprop, backprop_at
from lagrad.errors import ComparisonError, LagradError, UnknownNameError
from lagrad.numbers import check_kind
from lagrad.program import Program
from lagrad.solve import Solution
from lagrad.system import System

if TYPE_CHECKING:
    from rich.table import Table

Floats = NDArray[np.float64]

BUILT_IN: Final = ("tape", "finite-differences", "complex-step")
LIBRARIES: Final = ("autograd", "jax", "torch", "casadi", "sympy")
MOST_ELEMENTS: Final = 100  # scalar parameters that a method with a run for each of them is asked for
SMALL: Final = (
    1e-6  # an element below this part of the largest is compared with that part: see `GradientCheck`
)
EXACT: Final = 1e-10  # relative difference that rounding may make between two exact methods
UNSETTLED: Final = 0.1  # relative error of differences beyond which they excuse nothing
DIFFERENCES: Final = 1e-6  # the same for differences, beside their own estimate of their error


@dataclass(frozen=True)
class GradientCheck:
    """One method's gradient beside lagrad's.

    method      its name
    value       of the output, by this method; None where the method could not be had
    gradient    {parameter: array of its shape}, nan for elements that were not asked for; None likewise
    difference  largest relative difference from lagrad's gradient over the elements: |theirs − ours| divided
                by the larger magnitude of the two, or by `SMALL` times the largest where both are less
    where       name of the parameter element that has it
    agrees      whether rounding and the method's own error explain every difference; None likewise
    seconds     that it took, imports and repeated solves included
    note        why it could not be had, or what was left out
    """

    method: str
    value: float | None = None
    gradient: dict[str, Any] | None = field(default=None, repr=False)
    difference: float | None = None
    where: str = ""
    agrees: bool | None = None
    seconds: float = 0.0
    note: str = ""


def check_gradients(
    solution: Solution,
    output: str,
    against: Sequence[str] | str | None = None,
    *,
    show: bool = True,
) -> list[GradientCheck]:
    """Differentiate a scalar output by other methods, print them as a table, and return them.

    `against` names methods: "tape", "finite-differences", "complex-step" (all three by default), "autograd",
    "jax", "torch", "casadi", "sympy"; or "all" for the first three and every library that is installed. The first entry
    returned is lagrad's own gradient. Raises what `solution.gradient` raises, and `UnknownNameError` for a
    method there is not.

    >>> import lagrad as lg
    >>> program = lg.Program("cubic")
    >>> p = program.parameter("p", 2.0)
    >>> y = program.state("y", guess=1.0)
    >>> program.constrain(y**3 + y == p)
    >>> solution = lg.build(program).solve()
    >>> found = lg.check_gradients(solution, "y", against=["tape", "complex-step"], show=False)
    >>> [(c.method, round(float(c.gradient["p"]), 12), c.agrees) for c in found]
    [('lagrad', 0.25, True), ('tape', 0.25, True), ('complex-step', 0.25, True)]
    """
    check_kind("check_gradients", solution, Solution, "Write lg.check_gradients(system.solve(), output).")
    methods = _methods(against)
    problem = _Problem(solution, output)
    found = [_ours(problem)]
    found += [_checked(name, problem, found[0]) for name in methods]
    if show:
        _print(problem, found)
    return found


def _methods(against: Sequence[str] | str | None) -> list[str]:
    if against is None:
        return list(BUILT_IN)
    against = [against] if isinstance(against, str) or not isinstance(against, Sequence) else list(against)
    if "all" in against:
        named = [name for name in against if name != "all"]
        against = list(dict.fromkeys([*BUILT_IN, *filter(installed, LIBRARIES), *named]))
    for name in against:
        if name not in (*BUILT_IN, *LIBRARIES):
            raise UnknownNameError(str(name), "method", [*BUILT_IN, *LIBRARIES, "all"])
    return list(against)


class _Problem:
    """The point, and which way the program can be run."""

    def __init__(self, solution: Solution, output: str) -> None:
        self.solution, self.name = solution, output
        self.program: Program = program_of(solution)
        self.output = self.program.states.scalar_index(output, "state or definition")
        self.p, self.u = point_of(solution)
        try:
            defined = definitions(self.program)
            evaluation_order(self.program, defined, [defined[self.output].node])
            self.explicit = True
        except ComparisonError:
            self.explicit = False

    def gradient(self, flat: Any) -> dict[str, Any]:
        """A flat gradient (m,) by name."""
        return split(self.program.parameters, np.asarray(flat, dtype=np.float64))

    def function(self, name: str) -> Callable[[Any], Any]:
        """The output as a function of flat parameters, in a library."""
        into = library(name)
        if self.explicit:
            return explicit(self.program, into, [self.output])
        states = at_solution(self.program, into, self.p, self.u)
        return lambda p: states(p)[self.output : self.output + 1]

    def elements(self, ours: Floats) -> NDArray[np.int64]:
        """All scalar parameters, or the ones with the largest derivatives and some spread over the others."""
        if ours.size <= MOST_ELEMENTS:
            return np.arange(ours.size)
        largest = np.argsort(-np.abs(ours), kind="stable")[: MOST_ELEMENTS // 2]
        spread = np.linspace(0, ours.size - 1, MOST_ELEMENTS // 2).astype(np.int64)
        return np.union1d(largest, spread)


def _flat(gradient: Mapping[str, Any]) -> Floats:
    return np.concatenate([np.empty(0), *(np.ravel(x) for x in gradient.values())])


def _ours(problem: _Problem) -> GradientCheck:
    began = time.perf_counter()
    gradient = dict(problem.solution.gradient(problem.name))
    return GradientCheck(
        "lagrad", float(problem.u[problem.output]), gradient, 0.0, "", True, time.perf_counter() - began
    )


def _checked(method: str, problem: _Problem, ours: GradientCheck) -> GradientCheck:
    assert ours.gradient is not None
    began = time.perf_counter()
    mine = _flat(ours.gradient)
    try:
        value, theirs, error, note = _METHODS[method](problem, mine)
    except ComparisonError as refusal:
        reason = f"{refusal.reason} {refusal.advice}".strip()
        return GradientCheck(method, note=reason, seconds=time.perf_counter() - began)
    seconds = time.perf_counter() - began
    asked = ~np.isnan(theirs) if note else np.ones(theirs.size, dtype=np.bool_)
    scale = np.maximum(np.abs(theirs), np.abs(mine))
    scale = np.maximum(scale, SMALL * scale[asked].max(initial=0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.where(theirs == mine, 0.0, np.abs(theirs - mine))
        relative = np.where(difference == 0.0, 0.0, difference / scale)
    relative = np.where(asked, np.where(np.isnan(relative), np.inf, relative), 0.0)
    rounding = max(EXACT, 100 * problem.solution.certificate.sensitivity)
    worst = int(np.argmax(relative)) if relative.any() else -1
    return GradientCheck(
        method,
        value,
        problem.gradient(theirs),
        float(relative.max(initial=0.0)),
        problem.program.parameter_name(worst) if worst >= 0 else "",
        bool((difference <= error + rounding * scale)[asked].all()),
        seconds,
        note,
    )


# -- methods: (value, flat gradient, estimate of its absolute error, note) -----------------------------------
_Result = tuple[float, Floats, Any, str]


def _tape(problem: _Problem, ours: Floats) -> _Result:
    program = problem.program
    if problem.explicit:
        found = backprop(program, problem.name, problem.gradient(problem.p))
    else:
        found = backprop_at(program, problem.name, problem.p, problem.u)
    return found.value, _flat(found.gradient), 0.0, ""


def _finite_differences(problem: _Problem, ours: Floats) -> _Result:
    layout, solution = problem.solution.layout, problem.solution
    system, at = System(layout), problem.solution.parameters
    elements = problem.elements(ours)
    found, error = np.full(ours.size, np.nan), np.zeros(ours.size)
    for k in elements.tolist():
        name, p = problem.program.parameter_name(k), float(problem.p[k])

        def moved(x: float, name: str = name) -> Floats:
            try:
                return np.array([float(system.solve({**at, name: x}, start=solution)[problem.name])])
            except LagradError:
                return np.array([np.nan])

        slope, spread = derivative(moved, p, abs(p) or 1.0)
        found[k], error[k] = slope[0], spread[0]
    lost = int(np.isnan(found[elements]).sum())
    if lost and lost == elements.size:
        raise ComparisonError("finite-differences", "the system could not be solved beside the point.")
    note = f"{lost} elements could not be solved for beside the point" if lost else _left_out(elements, ours)
    value = float(problem.u[problem.output])
    # at a jump the differences do not settle, and what they say of their own error would excuse any gradient
    steep = np.maximum(np.abs(ours), np.nan_to_num(np.abs(found)))
    flat = DIFFERENCES * abs(value) / np.where(problem.p == 0.0, 1.0, np.abs(problem.p))
    excused = np.minimum(10.0 * np.nan_to_num(error), UNSETTLED * steep + flat)
    return value, found, excused + DIFFERENCES * np.abs(ours), note


def _complex_step(problem: _Problem, ours: Floats) -> _Result:
    elements = problem.elements(ours)
    program, output = problem.program, problem.output
    if problem.explicit:
        value, some = complex_step.gradient(program, output, problem.p, elements.tolist())
    else:
        value, some = complex_step.gradient_at(program, output, problem.p, problem.u, elements.tolist())
    found = np.full(ours.size, np.nan)
    found[elements] = some
    return value, found, 0.0, _left_out(elements, ours)


def _left_out(elements: NDArray[np.int64], ours: Floats) -> str:
    return f"{elements.size} of {ours.size} elements" if elements.size < ours.size else ""


def _autograd(problem: _Problem, ours: Floats) -> _Result:
    function = problem.function("autograd")
    from autograd import value_and_grad

    value, found = value_and_grad(lambda p: function(p)[0])(problem.p)
    return float(value), np.asarray(found, dtype=np.float64), 0.0, ""


def _jax(problem: _Problem, ours: Floats) -> _Result:
    if not installed("jax"):
        library("jax")
    import jax

    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else nullcontext():
        function = problem.function("jax")
        value, found = jax.jit(jax.value_and_grad(lambda p: function(p)[0]))(problem.p)
        return float(value), np.asarray(found, dtype=np.float64), 0.0, ""


def _torch(problem: _Problem, ours: Floats) -> _Result:
    function = problem.function("torch")
    import torch

    p = torch.tensor(problem.p, requires_grad=True)
    value = function(p)[0]
    if value.requires_grad:
        value.backward()
    found = np.zeros(ours.size) if p.grad is None else p.grad.numpy()
    return float(value.detach()), np.asarray(found, dtype=np.float64), 0.0, ""


def _casadi(problem: _Problem, ours: Floats) -> _Result:
    function = problem.function("casadi")
    import casadi

    if not problem.p.size:  # nothing is symbolic, and CasADi cannot differentiate numbers
        return float(casadi.DM(function(casadi.DM(0, 1)))), np.zeros(0), 0.0, ""
    p = (casadi.SX if problem.explicit else casadi.MX).sym("p", problem.p.size)
    value = function(p) + 0.0 * p[0]  # symbolic also where no parameter matters
    made = casadi.Function("gradient", [p], [value, casadi.jacobian(value, p)])
    out, found = made(problem.p)
    return float(out), np.asarray(found.full(), dtype=np.float64).ravel(), 0.0, ""


def _sympy(problem: _Problem, ours: Floats) -> _Result:
    return *gradient_by_sympy(problem.program, problem.output, problem.p, problem.u), 0.0, ""


_METHODS: Final[dict[str, Callable[[_Problem, Floats], _Result]]] = {
    "tape": _tape,
    "finite-differences": _finite_differences,
    "complex-step": _complex_step,
    "autograd": _autograd,
    "jax": _jax,
    "torch": _torch,
    "casadi": _casadi,
    "sympy": _sympy,
}


# -- the table -----------------------------------------------------------------------------------------------
def _print(problem: _Problem, found: Sequence[GradientCheck]) -> None:
    from rich.console import Console

    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    console.print(_table(problem, found))
    for c in found:
        if c.note:
            console.print(f"{c.method}: {c.note}")


def _table(problem: _Problem, found: Sequence[GradientCheck]) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(
        title=f"d {problem.name} by other methods",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("method", "value", "difference", "where", "", "seconds"):
        number = heading in ("value", "difference", "seconds")
        made.add_column(
            heading, justify="right" if number else "left", overflow="fold", no_wrap=heading != "where"
        )
    verdict = {True: "agrees", False: "DISAGREES", None: "not compared"}
    for k, c in enumerate(found):
        value = "" if c.value is None else f"{c.value:.12g}"
        difference = "" if c.difference is None or not k else f"{c.difference:.1e}"
        made.add_row(c.method, value, difference, c.where, verdict[c.agrees] if k else "", f"{c.seconds:.3f}")
    return made
