"""Array libraries under one small interface: what a `Schedule` needs to be run by each of them.

Takes arrays of a library, gives arrays of that library. Formulas are the `numpy` column of the table of
primitives (the `sympy` column for SymPy), read with the library's own functions; what a library lacks is
written with what it has. A library is imported when it is asked for. Knows no programs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import ComparisonError
from lagrad.expr.primitives import OPCODE, PRIMITIVES

NAMES: Final = ("numpy", "autograd", "jax", "torch", "casadi", "sympy")


def installed(name: str) -> bool:
    """Whether a library can be imported here."""
    return find_spec(name) is not None


def library(name: str) -> Library:
    """The library of that name. Raises `ComparisonError` if there is none, or if it is not installed."""
    made: dict[str, type[Library]] = {
        "numpy": Numpy, "autograd": Autograd, "jax": Jax, "torch": Torch, "casadi": Casadi, "sympy": Sympy,
    }  # fmt: skip
    if name not in made:
        raise ComparisonError(name, "no such library is known here.", f"There are: {', '.join(NAMES)}.")
    if not installed(name):
        raise ComparisonError(name, "it is not installed here.", f"Install it: pip install {name}.")
    return made[name]()


class Library(ABC):
    """What running a schedule needs. Arrays are flat, of one axis."""

    def __init__(self) -> None:
        self._formulas: dict[int, Callable[..., Any]] = {}

    @abstractmethod
    def vector(self, value: Any) -> Any:
        """A number, an array or an array of this library, flat, in C order."""

    @abstractmethod
    def join(self, parts: Sequence[Any]) -> Any:
        """Arrays one after the other."""

    @abstractmethod
    def linear(self, coefs: NDArray[np.float64], x: Any) -> Any:
        """(k,) sums of the rows of coefs (k, c) times x (k·c,) in rows."""

    @abstractmethod
    def scope(self) -> dict[str, Any]:
        """What the table's sources call `np` and `sp`."""

    @abstractmethod
    def newton_step(self, residual: Callable[[Any], Any], u: NDArray[np.float64]) -> Any:
        """u − R_u(u)⁻¹ R(u), where R may depend on values that the library differentiates by."""

    def take(self, x: Any, positions: NDArray[np.int64]) -> Any:
        """The elements at `positions`."""
        return x[positions]

    def reshape(self, x: Any, shape: tuple[int, ...]) -> Any:
        """A flat array in the shape that a user expects."""
        return x.reshape(shape)

    def apply(self, code: int, *arguments: Any) -> Any:
        """A primitive, element by element."""
        if code not in self._formulas:
            self._formulas[code] = _read(PRIMITIVES[code].numpy, self.scope())
        return self._formulas[code](arguments[0], arguments[-1])


def _read(source: str, scope: dict[str, Any]) -> Callable[..., Any]:
    """A source of the table as a function of a and b. The table is the package's own, never a user's text."""
    scope = dict(scope)
    exec(f"def formula(a, b): return {source}", scope)
    formula: Callable[..., Any] = scope["formula"]
    return formula


class _Arrays(Library):
    """The libraries whose arrays are NumPy's in all but name."""

    np: Any
    sp: Any

    def scope(self) -> dict[str, Any]:
        return {"np": self.np, "sp": self.sp}

    def vector(self, value: Any) -> Any:
        return self.np.reshape(self.np.asarray(value), (-1,)) * 1.0

    def join(self, parts: Sequence[Any]) -> Any:
        return self.np.concatenate(parts)

    def linear(self, coefs: NDArray[np.float64], x: Any) -> Any:
        return (coefs * x.reshape(coefs.shape)).sum(-1)


@final
class Numpy(_Arrays):
    """NumPy and SciPy, on real or complex arrays; complex ones for the complex step."""

    def __init__(self) -> None:
        super().__init__()
        import scipy.special

        self.np, self.sp = np, scipy.special

    def apply(self, code: int, *arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            if any(np.iscomplexobj(x) for x in arguments):
                continuation = _CONTINUED.get(PRIMITIVES[code].name)
                if continuation is not None:
                    return continuation(*arguments)
            return super().apply(code, *arguments)

    def newton_step(self, residual: Callable[[Any], Any], u: NDArray[np.float64]) -> Any:
        # The columns of R_u by the complex step itself: no differentiation rule takes part.
        columns = [residual(u + 1j * STEP * unit).imag / STEP for unit in np.eye(u.size)]
        matrix = np.array(columns).reshape(u.size, u.size).T
        return u - np.linalg.solve(matrix, residual(u))


@final
class Autograd(_Arrays):
    """HIPS autograd."""

    def __init__(self) -> None:
        super().__init__()
        import autograd
        import autograd.numpy
        import autograd.scipy.special

        self.autograd, self.np, self.sp = autograd, autograd.numpy, autograd.scipy.special

    def vector(self, value: Any) -> Any:
        return self.np.reshape(self.np.array(value), (-1,)) * 1.0

    def apply(self, code: int, *arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            if code == OPCODE["cbrt"]:  # autograd has no derivative of it
                (a,) = arguments
                return self.np.sign(a) * self.np.abs(a) ** (1 / 3)
            return super().apply(code, *arguments)

    def newton_step(self, residual: Callable[[Any], Any], u: NDArray[np.float64]) -> Any:
        matrix = self.autograd.jacobian(residual)(u)
        return u - self.np.linalg.solve(matrix, residual(u))


@final
class Jax(_Arrays):
    """JAX. Double precision only where `jax_enable_x64` is set: JAX's own rule."""

    def __init__(self) -> None:
        super().__init__()
        import jax
        import jax.scipy.special

        self.jax, self.np, self.sp = jax, jax.numpy, jax.scipy.special

    def newton_step(self, residual: Callable[[Any], Any], u: NDArray[np.float64]) -> Any:
        there = self.np.asarray(u)
        return there - self.np.linalg.solve(self.jax.jacrev(residual)(there), residual(there))


@final
class Torch(Library):
    """PyTorch, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        import torch

        self.torch = torch

    def scope(self) -> dict[str, Any]:
        t = self.torch
        same = """
        exp exp2 expm1 log log2 log10 log1p sqrt abs sign floor ceil trunc sin cos tan sinh cosh tanh hypot
        arcsin arccos arctan arcsinh arccosh arctanh arctan2 minimum maximum where logaddexp less less_equal
        not_equal logical_not logical_and logical_or
        """
        functions = {name: getattr(t, name) for name in same.split()}
        functions |= {"power": t.pow, "mod": t.remainder, "rint": t.round, "equal": t.eq}
        functions["cbrt"] = lambda a: t.sign(a) * t.abs(a) ** (1 / 3)
        special = t.special
        return {
            "np": SimpleNamespace(**functions),
            "sp": SimpleNamespace(
                erf=special.erf, erfc=special.erfc, expit=special.expit, gammaln=special.gammaln,
                digamma=_digamma_torch(t), polygamma=_polygamma_torch(t),
            ),
        }  # fmt: skip

    def vector(self, value: Any) -> Any:
        return self.torch.as_tensor(value, dtype=self.torch.float64).reshape(-1)

    def join(self, parts: Sequence[Any]) -> Any:
        return self.torch.cat(list(parts))

    def take(self, x: Any, positions: NDArray[np.int64]) -> Any:
        return x[self.torch.as_tensor(positions)]

    def linear(self, coefs: NDArray[np.float64], x: Any) -> Any:
        return (self.torch.as_tensor(coefs) * x.reshape(coefs.shape)).sum(-1)

    def newton_step(self, residual: Callable[[Any], Any], u: NDArray[np.float64]) -> Any:
        there = self.torch.as_tensor(u)
        matrix = self.torch.func.jacrev(residual)(there)
        return there - self.torch.linalg.solve(matrix, residual(there))


# PyTorch's polygamma(1, x) has nine digits (5e-10 off at 1.2); its Hurwitz zeta(2, x), the same number, has all, and no
# derivative. What the one lacks is added as a constant.
def _missing_torch(torch: Any, x: Any) -> Any:
    there = x.detach()
    two = torch.full_like(there, 2.0)
    return torch.special.zeta(two, there) - torch.special.polygamma(1, there)


def _polygamma_torch(torch: Any) -> Callable[[int, Any], Any]:
    def polygamma(n: int, x: Any) -> Any:
        found = torch.special.polygamma(n, x)
        return found + _missing_torch(torch, x) if n == 1 else found

    return polygamma


def _digamma_torch(torch: Any) -> Callable[[Any], Any]:
    def digamma(x: Any) -> Any:
        return torch.special.digamma(x) + _missing_torch(torch, x) * (x - x.detach())

    return digamma


def _rint_casadi(ca: Any) -> Callable[[Any], Any]:
    """The nearest whole number, the even one at a tie."""

    def rint(a: Any) -> Any:
        up = ca.floor(a + 0.5)
        return up - ca.logic_and(up == a + 0.5, up != 2 * ca.floor(up / 2))

    return rint


@final
class Casadi(Library):
    """CasADi: SX, MX or DM columns."""

    def __init__(self) -> None:
        super().__init__()
        import casadi

        self.ca = casadi

    def scope(self) -> dict[str, Any]:
        ca = self.ca
        same = "exp expm1 log log10 log1p sqrt sign floor ceil sin cos tan sinh cosh tanh hypot"
        inverse = "sin cos tan sinh cosh tanh tan2"
        functions = {name: getattr(ca, name) for name in same.split()}
        functions |= {"arc" + name: getattr(ca, "a" + name) for name in inverse.split()}
        functions |= {
            "abs": ca.fabs,
            "minimum": ca.fmin,
            "maximum": ca.fmax,
            "power": ca.power,
            "where": ca.if_else,
            "less": lambda a, b: a < b,
            "less_equal": lambda a, b: a <= b,
            "equal": lambda a, b: a == b,
            "not_equal": lambda a, b: a != b,
            "logical_not": ca.logic_not,
            "logical_and": ca.logic_and,
            "logical_or": ca.logic_or,
            "mod": lambda a, b: a - b * ca.floor(a / b),
            "trunc": lambda a: ca.sign(a) * ca.floor(ca.fabs(a)),
            "rint": _rint_casadi(ca),
            "exp2": lambda a: ca.exp(a * math.log(2)),
            "log2": lambda a: ca.log(a) / math.log(2),
            "cbrt": lambda a: ca.sign(a) * ca.fabs(a) ** (1 / 3),
            "logaddexp": lambda a, b: ca.fmax(a, b) + ca.log1p(ca.exp(-ca.fabs(a - b))),
        }  # fmt: skip
        special = {"erf": ca.erf, "erfc": lambda a: 1 - ca.erf(a), "expit": lambda a: 1 / (1 + ca.exp(-a))}
        return {"np": SimpleNamespace(**functions), "sp": SimpleNamespace(**special)}

    def apply(self, code: int, *arguments: Any) -> Any:
        name = PRIMITIVES[code].name
        if name in ("gammaln", "digamma", "trigamma"):
            raise ComparisonError("casadi", f"CasADi has no {name}.")
        return super().apply(code, *arguments)

    def vector(self, value: Any) -> Any:
        if isinstance(value, (self.ca.SX, self.ca.MX, self.ca.DM)):
            return self.ca.vec(value.T)
        return self.ca.DM(np.asarray(value, dtype=np.float64).ravel())

    def join(self, parts: Sequence[Any]) -> Any:
        return self.ca.vertcat(*parts)

    def take(self, x: Any, positions: NDArray[np.int64]) -> Any:
        return x[positions.tolist(), 0]

    def reshape(self, x: Any, shape: tuple[int, ...]) -> Any:
        """A matrix where there are two axes; a column otherwise. CasADi counts down the columns."""
        return self.ca.reshape(x, shape[1], shape[0]).T if len(shape) == 2 else x

    def linear(self, coefs: NDArray[np.float64], x: Any) -> Any:
        import scipy.sparse as sp

        k, c = coefs.shape
        indptr, indices = np.arange(0, k * c + 1, c) if c else np.zeros(k + 1, int), np.arange(k * c)
        matrix = sp.csr_array((coefs.ravel(), indices, indptr), shape=(k, k * c))
        return self.ca.mtimes(self.ca.DM(sp.csc_matrix(matrix)), x)

    def newton_step(self, residual: Callable[[Any], Any], u: NDArray[np.float64]) -> Any:
        # `residual` holds the user's symbols or numbers; only u is made symbolic here, so that jacobian() can
        # be asked.
        ca = self.ca
        there = ca.DM(u)
        for kind in (ca.SX, ca.MX):
            symbol = kind.sym("u", u.size)
            try:
                value = residual(symbol)
            except (NotImplementedError, TypeError):  # symbols of the other kind
                continue
            matrix, value = ca.substitute([ca.jacobian(value, symbol), value], [symbol], [kind(there)])
            return there - ca.solve(matrix, value)
        raise ComparisonError("casadi", "the parameters mix SX and MX symbols.", "Give one kind.")


@final
class Sympy(Library):
    """SymPy, element by element: object arrays of expressions."""

    def __init__(self) -> None:
        super().__init__()
        import sympy

        self.sympy = sympy

    def scope(self) -> dict[str, Any]:
        return {"sympy": self.sympy}

    def number(self, value: Any) -> Any:
        """Whole numbers as integers, so that x**2 keeps the exact rules of powers; others as they are."""
        if not isinstance(value, float):
            return value
        return (
            self.sympy.Integer(int(value))
            if value.is_integer() and abs(value) < 1e15
            else self.sympy.Float(value)
        )

    def vector(self, value: Any) -> Any:
        flat = np.asarray(value, dtype=object).ravel()
        out = np.empty(flat.size, dtype=object)
        out[:] = [self.number(float(x) if isinstance(x, (int, float, np.number)) else x) for x in flat]
        return out

    def join(self, parts: Sequence[Any]) -> Any:
        return np.concatenate(parts)

    def linear(self, coefs: NDArray[np.float64], x: Any) -> Any:
        rows = x.reshape(coefs.shape)
        return self._objects(
            self.sympy.Add(*(self.number(float(c)) * t for c, t in zip(*row, strict=True)))
            for row in zip(coefs, rows, strict=True)
        )

    def apply(self, code: int, *arguments: Any) -> Any:
        if code not in self._formulas:
            self._formulas[code] = _read(PRIMITIVES[code].sympy, self.scope())
        formula = self._formulas[code]
        return self._objects(formula(*pair) for pair in zip(arguments[0], arguments[-1], strict=True))

    def _objects(self, items: Any) -> NDArray[Any]:
        items = list(items)
        out = np.empty(len(items), dtype=object)
        out[:] = items
        return out

    def newton_step(self, residual: Callable[[Any], Any], u: NDArray[np.float64]) -> Any:
        raise ComparisonError(
            "sympy",
            "an implicit program has no closed form.",
            "program.lagrangian().sympy() gives its equations.",
        )


# -- complex arguments ---------------------------------------------------------------------------------------
STEP: Final = (
    1e-100  # of the complex step: its square is 0 beside 1, and products with partials stay in range
)


def _first_order(value: Callable[..., Any], *partials: Callable[..., Any]) -> Callable[..., Any]:
    """f(x + i y) = f(x) + i Σ ∂f y: the continuation of a real function to first order in y, for tiny y."""

    def continued(*arguments: Any) -> Any:
        real = [np.real(x) for x in arguments]
        imaginary = [np.imag(x) for x in arguments]
        return value(*real) + 1j * sum(d(*real) * y for d, y in zip(partials, imaginary, strict=True))

    return continued


def _of_reals(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Steps and comparisons: of the real parts, with no imaginary part of their own."""
    return lambda *arguments: formula(*(np.real(x) for x in arguments)) * 1.0


def _special(name: str, *before: int) -> Callable[..., Any]:
    def function(x: Any) -> Any:
        import scipy.special

        return getattr(scipy.special, name)(*before, x)

    return function


def _power_by_exponent(a: Any, b: Any) -> Any:
    inside = a > 0
    return np.where(inside, a**b * np.log(np.where(inside, a, 1.0)), 0.0)


# NumPy's complex power goes by way of the logarithm: (−2 + 0i)**3 has an imaginary part from rounding π.
_POWER: Final = _first_order(
    np.power, lambda a, b: np.where(b == 0, 0.0, b * a ** (b - 1.0)), _power_by_exponent
)

# Where NumPy has no complex version, or one that is not the continuation of the real function.
_CONTINUED: Final[dict[str, Callable[..., Any]]] = {
    "abs": lambda a: np.where(np.real(a) >= 0, a, -a),
    "minimum": lambda a, b: np.where(np.real(a) <= np.real(b), a, b),
    "maximum": lambda a, b: np.where(np.real(a) >= np.real(b), a, b),
    "pick": lambda a, b: np.where(np.real(a) != 0, b, 0.0),
    "picknot": lambda a, b: np.where(np.real(a) == 0, b, 0.0),
    "cbrt": _first_order(np.cbrt, lambda a: 1 / (3 * np.cbrt(a) ** 2)),
    "hypot": _first_order(np.hypot, lambda a, b: a / np.hypot(a, b), lambda a, b: b / np.hypot(a, b)),
    "arctan2": _first_order(np.arctan2, lambda a, b: b / (a * a + b * b), lambda a, b: -a / (a * a + b * b)),
    "mod": _first_order(np.mod, lambda a, b: 1.0, lambda a, b: -np.floor(a / b)),
    "logaddexp": lambda a, b: (
        np.where(np.real(a) > np.real(b), a, b)
        + np.log1p(np.exp(np.where(np.real(a) > np.real(b), b - a, a - b)))
    ),
    "gammaln": _first_order(_special("gammaln"), _special("digamma")),
    "trigamma": _first_order(_special("polygamma", 1), _special("polygamma", 2)),
    "expit": lambda a: 1 / (1 + np.exp(-a)),
    "powc": _POWER,
    "power": _POWER,
    "sign": _of_reals(np.sign),
    "floor": _of_reals(np.floor),
    "ceil": _of_reals(np.ceil),
    "rint": _of_reals(np.rint),
    "trunc": _of_reals(np.trunc),
    "logical_not": _of_reals(np.logical_not),
    "less": _of_reals(np.less),
    "less_equal": _of_reals(np.less_equal),
    "equal": _of_reals(np.equal),
    "not_equal": _of_reals(np.not_equal),
    "logical_and": _of_reals(np.logical_and),
    "logical_or": _of_reals(np.logical_or),
}
