"""`lagrad.minimize`: one program, one Lagrangian, several methods to make it stationary.

Takes a Program and names; makes the flat `Problem`, runs the method asked for, judges the point where it ended
(`optimality`) and gives a `MinimizeResult`. A method's own opinion never makes a success.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike

from lagrad.errors import DeclarationError
from lagrad.lagrangian.optimality import Optimality, certify, off_most, without_multipliers
from lagrad.lagrangian.problem import Bounds, Floats, Problem, make_problem
from lagrad.lagrangian.result import STATUSES, Ended, MinimizeResult, Record, Recorder, Stop
from lagrad.lagrangian.unbounded import falls_forever
from lagrad.watch import OutOfTime, Watch

if TYPE_CHECKING:
    from lagrad.program import Program


@dataclass(frozen=True)
class _Method:
    module: str
    tolerance: float  # by default: what the method reaches in reasonable time
    iterations: int
    needs_square: bool  # states determined by the constraints
    hidden: bool  # large inner sums may be variables of their own: sparser matrices
    options: tuple[str, ...] = ()
    needs_program: bool = False


SADDLES = 3  # times that a saddle is left along its direction of negative curvature

METHODS: Final[dict[str, _Method]] = {
    "reduced": _Method("reduced", 1e-6, 1000, True, False, ("solver",), True),
    "sqp": _Method("sqp", 1e-8, 300, False, True),
    "augmented-lagrangian": _Method("augmented", 1e-8, 500, False, True, ("penalty",)),
    "primal-dual": _Method("primal_dual", 1e-6, 200_000, False, False, ("damping",)),
    "one-shot": _Method("one_shot", 1e-8, 5000, True, False, ("preconditioner",), True),
    "auxiliary-coordinates": _Method("auxiliary", 1e-6, 5000, False, False, ("penalty", "blocks"), True),
}


def minimize(
    program: Program,
    output: str,
    *,
    over: Sequence[str] = (),
    method: str = "sqp",
    bounds: Bounds | None = None,
    equalities: Sequence[str] | Mapping[str, ArrayLike] = (),
    inequalities: Sequence[str] | Bounds = (),
    start: Any = None,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    callback: Callable[[Record], object] | None = None,
    progress: bool | Callable[[str], object] | None = None,
    time_limit: float | None = None,
    **options: Any,
) -> MinimizeResult:
    """Minimise a scalar state or definition over parameters (and whatever states the constraints leave free).

    over: parameters that may move, whole or one element ("z[1]"); the others keep their values. It may be empty where
    the program has fewer constraints than states. bounds: {name: (lower, upper)}, numbers or arrays of the name's
    shape, None for none. equalities: states or definitions that must be 0, or {name: value}. inequalities: states or
    definitions that must be <= 0, or {name: (lower, upper)}. start: a Solution or {name: value}, of parameters and
    states; by default the declared values and guesses, with definitions following. Bounds declared on states hold.

    Methods, all on L = J − λᵀR with the same sparse derivatives (default tolerance in brackets):

    - "sqp" [1e-8]: Newton on the KKT system of states, parameters and multipliers; bounds by a barrier.
    - "reduced" [1e-6]: the program is solved at every point and SciPy descends along adjoint gradients; option
      `solver`: "L-BFGS-B", "SLSQP" (with equalities or inequalities), "trust-constr", "Newton-CG" (Hessian products).
    - "augmented-lagrangian" [1e-8]: method of multipliers, inner projected Newton; option `penalty`.
    - "primal-dual" [1e-6]: Arrow–Hurwicz–Uzawa with damping, first order, no linear system; option `damping`.
    - "one-shot" [1e-8]: one step of states, adjoints and parameters at a time; option `preconditioner`: "newton"
      (factors of R_u, kept) or "fixed-point" (constraints y == Φ(y) that contract).
    - "auxiliary-coordinates" [1e-6]: states as coordinates of their own, quadratic penalty with multipliers (ADMM),
      blocks of variables in turn; options `penalty`, `blocks` (lists of names).

    tolerance: for the relative KKT residuals of the certificate. callback: called with every `Record`; a true result
    stops. progress, time_limit: as in `System.solve`. Raises `UnknownNameError`, `ShapeError` and `DeclarationError`
    for the arguments; how a minimisation ended is said by `result.status`, a key of `lagrangian.result.STATUSES`.

    >>> import lagrad as lg
    >>> program = lg.Program("tin")                     # the least sheet for a can of one litre
    >>> r = program.state("r", guess=1.0, lower=0.1)
    >>> h = program.state("h", guess=1.0, lower=0.1)
    >>> program.constrain(3.141592653589793 * r**2 * h == 1.0, name="volume")
    >>> area = program.define("area", 6.283185307179586 * (r * h + r**2))
    >>> best = lg.minimize(program, "area")
    >>> best.success, round(best.fun, 5), round(float(best.states["h"] / best.states["r"]), 6)
    (True, 5.53581, 2.0)
    >>> round(float(best.multipliers["volume"]), 5)     # more sheet per litre more
    3.69054
    """
    if method not in METHODS:
        raise DeclarationError("method", f"{method!r} is not a method.", f"There are {', '.join(METHODS)}.")
    chosen = METHODS[method]
    for name in options:
        if name not in chosen.options:
            raise DeclarationError(
                name,
                f"method {method!r} has no such option.",
                f"It has: {', '.join(chosen.options) or 'none'}.",
            )
    for name in ("penalty", "damping"):
        given = options.get(name, 1.0)
        if not (isinstance(given, (int, float, np.number)) and 0.0 < given < np.inf):
            raise DeclarationError(name, f"{given!r} is not a positive number.")
    if callback is not None and not callable(callback):
        raise DeclarationError("callback", f"{callback!r} cannot be called.")
    for what, kind in (("bounds", Mapping), ("inequalities", (Mapping, Sequence)), ("equalities", (Mapping, Sequence)),
                       ("over", Sequence)):  # fmt: skip
        asked = {"bounds": bounds, "inequalities": inequalities, "equalities": equalities, "over": over}[what]
        if asked is not None and not isinstance(asked, kind):
            raise DeclarationError(
                what,
                f"{asked!r} is neither names nor a dict of them.",
                "Write {name: (lower, upper)}." if what == "bounds" else "Write a list of names.",
            )
    tolerance = chosen.tolerance if tolerance is None else tolerance
    if not isinstance(tolerance, (int, float, np.number)):
        raise DeclarationError("tolerance", f"{tolerance!r} is not a number.")
    if not 0.0 < tolerance < 1.0:
        raise DeclarationError("tolerance", f"{tolerance!r} is not between 0 and 1.")
    iterations = chosen.iterations if max_iterations is None else max_iterations
    if not (isinstance(iterations, (int, np.integer)) and iterations >= 0):
        raise DeclarationError("max_iterations", f"{iterations!r} is not a whole number from 0 on.")
    over = [over] if isinstance(over, str) else list(over)
    bounds = dict(bounds or {})
    targets = _targets(equalities)
    limits = _limits(inequalities)
    problem = make_problem(program, output, over, bounds, targets, limits, _start(start), chosen.hidden)
    problem = problem.weighted(problem.x0)
    if chosen.needs_square and not problem.square:
        raise DeclarationError(
            "method",
            f"{method!r} needs constraints that determine the states; {program.name} has {problem.f.nc} for "
            f"{problem.f.n} states.",
            "Use 'sqp' or 'augmented-lagrangian'.",
        )
    module = import_module(f"lagrad.lagrangian.{chosen.module}")
    with Watch(time_limit, progress) as watch:
        record = Recorder(problem, watch, method, callback)
        try:
            with np.errstate(all="ignore"):  # values outside a domain are steps that are not taken
                more = {"program": program} if chosen.needs_program else {}
                while True:
                    left = int(iterations) - record.before
                    ended = module.run(record.problem, record, tolerance, left, **more, **options)
                    ended = replace(ended, nit=ended.nit + record.before)
                    certificate = _certified(problem, ended, tolerance)
                    if ended.status in ("", "iterations", "stalled") and not certificate.minimum:
                        if falls_forever(problem, ended.x):
                            ended = replace(ended, status="unbounded")
                            break
                        if without_multipliers(problem, ended.x, ended.lam, ended.z, certificate):
                            ended = replace(ended, status="singular")
                    away = _beside(problem, ended.x, ended.lam, certificate)
                    if away is None or record.saddles >= SADDLES or ended.nit >= iterations:
                        break
                    record.saddles += 1
                    record.before = ended.nit + 1
                    record.problem = replace(problem, x0=away)
        except (Stop, OutOfTime) as stopped:
            x, lam, z, nit = record.last or (problem.x0, np.zeros(problem.M), np.zeros(problem.N), 0)
            status = "stopped" if isinstance(stopped, Stop) else "time"
            ended = Ended(x, lam, z, nit, record.nfev, status)
            certificate = _certified(problem, ended, tolerance)
        return _result(program, problem, method, ended, certificate, record, [*over], bounds, targets, limits)


def _certified(problem: Problem, ended: Ended, tolerance: float) -> Optimality:
    """The certificate of the end; an objective that was flat at the start alone is not taken by its size there."""
    judged = problem.weighted(problem.x0, ended.x) if problem.weight != 1.0 else problem
    share = judged.weight / problem.weight
    certificate = certify(judged, ended.x, share * ended.lam, share * ended.z, tolerance)
    return replace(certificate, curvature=certificate.curvature / judged.weight)


def _beside(problem: Problem, x: Floats, lam: Floats, certificate: Optimality) -> Floats | None:
    """A point beside a saddle, along its direction of negative curvature; None at any other point."""
    if certificate.descent is None or not certificate.kkt:
        return None
    direction = certificate.descent / np.abs(certificate.descent).max()
    size = 0.1 * max(1.0, float(np.abs(x).max()))
    while size > 1e-6:
        found: list[tuple[float, Floats]] = []
        for way in (direction, -direction):
            trial: Floats = np.clip(x + size * way, problem.lower, problem.upper)
            value, C = problem.values(trial)
            if np.isfinite(value) and np.isfinite(C).all():
                # what the constraints still cost there counts by their multipliers
                found.append((value - float(lam @ C), trial))
        if found:
            return min(found, key=lambda pair: pair[0])[1]
        size *= 0.1
    return None


def _result(
    program: Program, problem: Problem, method: str, ended: Ended, certificate: Optimality, record: Recorder,
    over: list[str], bounds: Mapping[str, Any], targets: Mapping[str, Any], limits: Mapping[str, Any],
) -> MinimizeResult:  # fmt: skip
    f, x = problem.f, ended.x
    status = _status(ended.status, certificate)
    message = STATUSES[status] + (f": {ended.reason}" if ended.reason else "")
    if status not in ("converged", "infeasible", "unbounded") and certificate.worst and not certificate.kkt:
        message += f" (worst: {certificate.worst})"
    if status == "infeasible" and problem.M:
        message += f" ({off_most(problem, x)})"
    u, p = problem.full_states(x), problem.point(x)[1]
    states, parameters = f.split_states(u), f.split_parameters(p)
    z = np.zeros(f.n + f.m)
    own_z, own_lam = ended.z / problem.weight, ended.lam / problem.weight
    z[problem.states], z[f.n + problem.over] = own_z[: problem.states.size], own_z[problem.states.size :]
    by_state, by_parameter = f.split_states(z[: f.n]), f.split_parameters(z[f.n :])
    mu = np.zeros(f.n)
    mu[problem.states[problem.fixed]] = own_lam[problem.rows.size :]
    by_target = f.split_states(mu)
    given = [i.name for k, i in enumerate(program.states.items) if k in program.bounds]
    bounded = dict.fromkeys(_owner(program, name) for name in [*bounds, *limits, *given])
    owned = dict.fromkeys(_owner(program, name) for name in over)
    declared = {i.name for i in program.states.items}
    return MinimizeResult(
        program=program.name,
        output=problem.output,
        method=method,
        x={name: parameters[name] for name in owned},
        fun=float(problem.values(x)[0]) / problem.weight,
        states={name: value for name, value in states.items() if name in declared},
        parameters=parameters,
        multipliers={
            name: value
            for name, value in f.split_constraints(
                problem.all_multipliers(ended.lam) / problem.weight
            ).items()
            if not name.startswith("‹")
        },
        equality_multipliers={
            name: by_target[name] for name in dict.fromkeys(_owner(program, k) for k in targets)
        },
        bound_multipliers={name: (by_state if name in by_state else by_parameter)[name] for name in bounded},
        success=status == "converged",
        status=status,
        message=message,
        nit=ended.nit,
        nfev=ended.nfev,
        history=record.history(),
        certificate=certificate,
        seconds=record.watch.seconds,
    )


def _status(ended: str, certificate: Optimality) -> str:
    """What the certificate makes of it."""
    if ended in ("stopped", "time", "unbounded", "infeasible"):
        return ended
    if certificate.singular:
        return "singular"
    if certificate.kkt:
        if certificate.minimum:
            return "converged"
        return "saddle" if certificate.descent is not None else "uncertain"
    return ended or "stalled"


def _owner(program: Program, name: str) -> str:
    """The declared thing that a name, or the name of one element, belongs to."""
    known = {i.name for r in (program.states, program.parameters) for i in r.items}
    return name if name in known else name[:-1].rpartition("[")[0]


def _targets(given: Sequence[str] | Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    if isinstance(given, Mapping):
        return dict(given)
    return dict.fromkeys([given] if isinstance(given, str) else given, 0.0)


def _limits(given: Sequence[str] | Bounds) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    return dict.fromkeys([given] if isinstance(given, str) else given, (None, 0.0))


def _start(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    if hasattr(given, "states") and hasattr(given, "parameters"):  # a Solution, or a MinimizeResult
        return {**given.parameters, **given.states}
    raise DeclarationError("start", f"{given!r} is neither a Solution nor a dict.", "Write {name: value}.")
