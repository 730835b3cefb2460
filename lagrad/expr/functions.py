"""The functions of expressions that lagrad exports by name: one per public primitive, and the shaped ones.

Given plain numbers and arrays they compute with NumPy and SciPy; given expressions they make expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from lagrad.errors import LagradError
from lagrad.expr import expression as ex
from lagrad.expr.expression import graph_of
from lagrad.expr.primitives import OPCODE, PRIMITIVES


def numeric(code: int, *arguments: Any) -> Any:
    """The primitive with opcode `code` of plain numbers, by the NumPy/SciPy formula that the table states."""
    return _numpy_formula(code)(*(np.asarray(x, dtype=float) for x in arguments))


@cache
def _numpy_formula(code: int) -> Callable[..., Any]:
    """The table's own source as a function of arrays; it is part of the package, never a user's text."""
    scope: dict[str, Any] = {"np": np}
    if "sp." in PRIMITIVES[code].numpy:
        import scipy.special

        scope["sp"] = scipy.special
    arguments = "a" if PRIMITIVES[code].arity == 1 else "a, b"
    exec(f"def formula({arguments}): return {PRIMITIVES[code].numpy}", scope)
    return scope["formula"]


def _primitive(name: str) -> Callable[..., Any]:
    code = OPCODE[name]
    primitive = PRIMITIVES[code]

    def of_one(x: Any, /) -> Any:
        if type(x) is ex.Expression:
            return ex.unary(code, x)
        return numeric(code, x) if graph_of(x) is None else ex.unary(code, x)

    def of_two(x: Any, y: Any, /) -> Any:
        return numeric(code, x, y) if graph_of(x, y) is None else ex.binary(code, x, y)

    function: Callable[..., Any] = of_one if primitive.arity == 1 else of_two
    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"{primitive.format.format(a='x', b='y')}, element by element, for expressions, arrays and numbers."
        + (f" At a kink: {primitive.rule}" if primitive.rule else "")
    )
    return function


abs = _primitive("abs")
sign = _primitive("sign")
sqrt = _primitive("sqrt")
cbrt = _primitive("cbrt")
square = _primitive("square")
reciprocal = _primitive("reciprocal")
exp = _primitive("exp")
exp2 = _primitive("exp2")
expm1 = _primitive("expm1")
log = _primitive("log")
log2 = _primitive("log2")
log10 = _primitive("log10")
log1p = _primitive("log1p")
sin = _primitive("sin")
cos = _primitive("cos")
tan = _primitive("tan")
arcsin = _primitive("arcsin")
arccos = _primitive("arccos")
arctan = _primitive("arctan")
arctan2 = _primitive("arctan2")
sinh = _primitive("sinh")
cosh = _primitive("cosh")
tanh = _primitive("tanh")
arcsinh = _primitive("arcsinh")
arccosh = _primitive("arccosh")
arctanh = _primitive("arctanh")
hypot = _primitive("hypot")
erf = _primitive("erf")
erfc = _primitive("erfc")
gammaln = _primitive("gammaln")
digamma = _primitive("digamma")
expit = _primitive("expit")
logaddexp = _primitive("logaddexp")
minimum = _primitive("minimum")
maximum = _primitive("maximum")
floor = _primitive("floor")
ceil = _primitive("ceil")
mod = _primitive("mod")


def power(x: Any, y: Any, /) -> Any:
    """x ** y, element by element."""
    return np.power(x, y) if graph_of(x, y) is None else x**y


def where(condition: Any, x: Any, y: Any, /) -> Any:
    """x where the condition holds, y elsewhere. The branch not taken has no influence, not even through nan.

    >>> import lagrad as lg
    >>> program = lg.Program("doc")
    >>> y = program.state("y", guess=1.0)
    >>> lg.where(y > 0, lg.sqrt(y), 0.0).shape
    ()
    """
    return np.where(condition, x, y) if graph_of(condition, x, y) is None else ex.where(condition, x, y)


def clip(x: Any, lower: Any = None, upper: Any = None, /) -> Any:
    """x limited to [lower, upper], as `numpy.clip`."""
    g = graph_of(x, lower, upper)
    return np.clip(x, lower, upper) if g is None else ex.lift(g, x).clip(lower, upper)


def sum(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """Sum over axes, as `numpy.sum`; of a list of expressions too."""
    g = graph_of(x)
    return np.sum(x, axis=axis, keepdims=keepdims) if g is None else ex.lift(g, x).sum(axis, keepdims)


def mean(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """Mean over axes, as `numpy.mean`."""
    g = graph_of(x)
    return np.mean(x, axis=axis, keepdims=keepdims) if g is None else ex.lift(g, x).mean(axis, keepdims)


def prod(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """Product over axes, as `numpy.prod`."""
    g = graph_of(x)
    return np.prod(x, axis=axis, keepdims=keepdims) if g is None else ex.lift(g, x).prod(axis, keepdims)


def max(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """Maximum over axes, as `numpy.max`."""
    g = graph_of(x)
    return np.max(x, axis=axis, keepdims=keepdims) if g is None else ex.lift(g, x).max(axis, keepdims)


def min(x: Any, /, axis: Any = None, keepdims: bool = False) -> Any:
    """Minimum over axes, as `numpy.min`."""
    g = graph_of(x)
    return np.min(x, axis=axis, keepdims=keepdims) if g is None else ex.lift(g, x).min(axis, keepdims)


def dot(x: Any, y: Any, /) -> Any:
    """As `numpy.dot`."""
    return np.dot(x, y) if graph_of(x, y) is None else ex.dot(x, y)


def norm(x: Any, /, axis: Any = None) -> Any:
    """The Euclidean (Frobenius) norm sqrt(sum(x**2)), over all elements or over `axis`."""
    g = graph_of(x)
    if g is None:
        return np.linalg.norm(np.asarray(x).ravel() if axis is None else x, axis=axis)
    return sqrt(ex.power(ex.lift(g, x), 2).sum(axis))


def stack(parts: Any, /, axis: int = 0) -> Any:
    """Parts of one shape joined along a new axis, as `numpy.stack`."""
    return _joined(np.stack, parts, axis)


def concatenate(parts: Any, /, axis: int | None = 0) -> Any:
    """Parts joined along an axis, as `numpy.concatenate`."""
    return _joined(np.concatenate, parts, axis)


def _joined(function: Callable[..., Any], parts: Any, axis: Any) -> Any:
    parts = list(parts)
    g = graph_of(parts)
    if g is None:
        return function(parts, axis=axis)
    try:
        return ex.wrap(g, function([ex.lift(g, p).array_ids for p in parts], axis=axis))
    except ValueError as unfit:
        raise (
            unfit if isinstance(unfit, LagradError) else ex.misfit(function.__name__, (parts,), unfit)
        ) from None
