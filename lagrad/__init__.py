"""lagrad: solve and differentiate systems of equality constraints; multipliers as certified adjoints.

Import is light: the compiled core (Numba) is loaded by the first `build`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lagrad.errors import LagradError as LagradError
from lagrad.expr.expression import Constraint as Constraint
from lagrad.expr.expression import Expression as Expression
from lagrad.expr.functions import (
    abs,
    arccos,
    arccosh,
    arcsin,
    arcsinh,
    arctan,
    arctan2,
    arctanh,
    cbrt,
    ceil,
    clip,
    concatenate,
    cos,
    cosh,
    digamma,
    dot,
    erf,
    erfc,
    exp,
    exp2,
    expit,
    expm1,
    floor,
    gammaln,
    hypot,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    max,
    maximum,
    mean,
    min,
    minimum,
    mod,
    norm,
    power,
    prod,
    reciprocal,
    sign,
    sin,
    sinh,
    sqrt,
    square,
    stack,
    sum,
    tan,
    tanh,
    where,
)
from lagrad.program import Program as Program

if TYPE_CHECKING:
    from lagrad.compare.callables import to_callable as to_callable
    from lagrad.compare.gradients import check_gradients as check_gradients
    from lagrad.diagnosis import diagnose as diagnose
    from lagrad.frontends.functions import grad as grad
    from lagrad.frontends.functions import hessian as hessian
    from lagrad.frontends.functions import hvp as hvp
    from lagrad.frontends.functions import jacobian as jacobian
    from lagrad.frontends.functions import jvp as jvp
    from lagrad.frontends.functions import value_and_grad as value_and_grad
    from lagrad.frontends.functions import vjp as vjp
    from lagrad.frontends.implicit import fixed_point as fixed_point
    from lagrad.frontends.implicit import implicit as implicit
    from lagrad.frontends.model_file import load_model as load_model
    from lagrad.frontends.scan import scan as scan
    from lagrad.frontends.trace import trace as trace
    from lagrad.frontends.trace import zeros as zeros
    from lagrad.lagrangian.minimize import minimize as minimize
    from lagrad.lagrangian.numeric import lagrangian_function as lagrangian_function
    from lagrad.lagrangian.result import MinimizeResult as MinimizeResult
    from lagrad.solve import Solution as Solution
    from lagrad.system import System as System
    from lagrad.system import build as build
    from lagrad.view.convergence import plot_convergence as plot_convergence
    from lagrad.view.essay import adjoint_source as adjoint_source
    from lagrad.view.swell import expression_swell as expression_swell

__version__ = "0.1.0"

_LAZY = {
    "build": "lagrad.system",
    "System": "lagrad.system",
    "Solution": "lagrad.solve",
    "diagnose": "lagrad.diagnosis",
    "adjoint_source": "lagrad.view.essay",
    "check_gradients": "lagrad.compare.gradients",
    "expression_swell": "lagrad.view.swell",
    "to_callable": "lagrad.compare.callables",
    "minimize": "lagrad.lagrangian.minimize",
    "MinimizeResult": "lagrad.lagrangian.result",
    "lagrangian_function": "lagrad.lagrangian.numeric",
    "load_model": "lagrad.frontends.model_file",
    "plot_convergence": "lagrad.view.convergence",
    "scan": "lagrad.frontends.scan",
    "trace": "lagrad.frontends.trace",
    "zeros": "lagrad.frontends.trace",
    "implicit": "lagrad.frontends.implicit",
    "fixed_point": "lagrad.frontends.implicit",
    "grad": "lagrad.frontends.functions",
    "value_and_grad": "lagrad.frontends.functions",
    "hessian": "lagrad.frontends.functions",
    "hvp": "lagrad.frontends.functions",
    "jacobian": "lagrad.frontends.functions",
    "jvp": "lagrad.frontends.functions",
    "vjp": "lagrad.frontends.functions",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lagrad' has no attribute {name!r}")


def _callable_maker(*args: Any, **options: Any) -> Any:
    return __getattr__("to_callable")(*args, **options)


Program.callable_maker = _callable_maker


__all__ = [
    "Constraint",
    "Expression",
    "LagradError",
    "MinimizeResult",
    "Program",
    "Solution",
    "System",
    "abs",
    "adjoint_source",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "build",
    "cbrt",
    "ceil",
    "check_gradients",
    "clip",
    "concatenate",
    "cos",
    "cosh",
    "diagnose",
    "digamma",
    "dot",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expit",
    "expm1",
    "expression_swell",
    "fixed_point",
    "floor",
    "gammaln",
    "grad",
    "hessian",
    "hvp",
    "hypot",
    "implicit",
    "jacobian",
    "jvp",
    "lagrangian_function",
    "load_model",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "max",
    "maximum",
    "mean",
    "min",
    "minimize",
    "minimum",
    "mod",
    "norm",
    "plot_convergence",
    "power",
    "prod",
    "reciprocal",
    "scan",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "stack",
    "sum",
    "tan",
    "tanh",
    "to_callable",
    "trace",
    "value_and_grad",
    "vjp",
    "where",
    "zeros",
]  # fmt: skip
