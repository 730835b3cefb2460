"""Numbers that a user gives: checked where they come in.

Takes what the user gave for a named thing, gives finite doubles of its shape, or an error that names the thing.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.errors import DeclarationError, ShapeError
from lagrad.expr.expression import Expression

Floats = NDArray[np.float64]


def check_kind(what: str, value: object, kind: type, advice: str = "") -> None:
    """Raise unless `value`, given to the function `what`, is of a kind."""
    if not isinstance(value, kind):
        raise DeclarationError(what, f"a {kind.__name__} was expected, got a {type(value).__name__}.", advice)


def check_callable(what: str, f: object) -> None:
    """Raise unless `f`, given to the function `what`, can be called."""
    if not callable(f):
        raise DeclarationError(what, f"a function was expected, got a {type(f).__name__}.")


def by_name(what: str, given: Mapping[Any, ArrayLike]) -> Iterable[tuple[Any, ArrayLike]]:
    """The items of {name: value}, or an error that says what was expected."""
    if not isinstance(given, Mapping):
        raise DeclarationError(what, f"{{name: value}} was expected, got a {type(given).__name__}.")
    return given.items()


def numbers(name: Any, value: Any, shape: tuple[int, ...]) -> Floats:
    """`value` as finite doubles of `shape` (scalars are broadcast), or an error that names the thing."""
    if isinstance(value, Expression):
        raise DeclarationError(name, "a number was expected, got an expression.")
    try:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError
        out = np.asarray(value)
        if out.dtype.kind not in "fiub":
            raise TypeError
        out = out.astype(np.float64)
    except (TypeError, ValueError):
        raise DeclarationError(
            name, f"{reprlib.repr(value)} is not a real number in double precision, or an array of them."
        ) from None
    if out.shape != shape:
        if out.ndim:
            raise ShapeError(name, out.shape, shape)
        out = np.broadcast_to(out, shape)
    if not np.isfinite(out).all():
        raise DeclarationError(name, "the value given is not finite.", "Give finite numbers.")
    return out
