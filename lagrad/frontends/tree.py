"""Nested tuples, lists and dicts of numbers: what traced functions take and give.

Takes any such tree, gives its leaves by path and trees of the same structure. Knows no program. Named tuples
keep their type, and so do subclasses of dict; None is a leaf without a number, as are the other static
leaves: truth values, text, functions, types, slices, ranges, members of enumerations.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Hashable
from typing import Any, Final

import numpy as np

from lagrad.errors import DeclarationError
from lagrad.expr.expression import Expression

_STATIC: Final = (type(None), bool, np.bool_, str, bytes, enum.Enum, np.dtype, slice, range, type(Ellipsis))


def children(tree: Any) -> list[tuple[str, Any]] | None:
    """(how it is written after the tree's own name, subtree) of every child; None for a leaf."""
    if isinstance(tree, dict):
        return [
            (f".{k}" if isinstance(k, str) and k.isidentifier() else f"[{k!r}]", v) for k, v in tree.items()
        ]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return [(f".{k}", v) for k, v in zip(tree._fields, tree, strict=True)]
    if isinstance(tree, (tuple, list)):
        return [(f"[{k}]", v) for k, v in enumerate(tree)]
    return None


def rebuilt(tree: Any, parts: list[Any]) -> Any:
    """`tree` with other children."""
    if isinstance(tree, dict):
        if type(tree) is dict:
            return dict(zip(tree, parts, strict=True))
        new = copy.copy(tree)
        new.update(zip(tree, parts, strict=True))
        return new
    if isinstance(tree, tuple):
        return type(tree)._make(parts) if hasattr(tree, "_make") else tuple(parts)
    return list(parts)


def mapped(function: Callable[..., Any], path: str, tree: Any, *others: Any) -> Any:
    """function(path, leaf, leaves of the others…) of every leaf, in a tree of the same structure.

    Raises `DeclarationError` where another tree has another structure.
    """
    found = children(tree)
    if found is None:
        return function(path, tree, *others)
    parts: list[list[Any]] = []
    for other in others:
        if isinstance(tree, dict) and isinstance(other, dict) and tree.keys() == other.keys():
            parts.append([other[key] for key in tree])  # in whatever order
            continue
        beside = children(other)
        if beside is None or [name for name, _ in beside] != [name for name, _ in found]:
            raise DeclarationError(
                path,
                f"{_shown(tree)} was expected, got {_shown(other)}.",
                "Give the same nested tuples, lists and dicts.",
            )
        parts.append([child for _, child in beside])
    beside_each = zip(found, *parts, strict=True)
    return rebuilt(
        tree, [mapped(function, path + name, child, *rest) for (name, child), *rest in beside_each]
    )


def _shown(tree: Any) -> str:
    found = children(tree)
    if found is None:
        return f"a {type(tree).__name__}"
    return f"a {type(tree).__name__} of {', '.join(n.strip('.') for n, _ in found[:6]) or 'nothing'}"


def is_static(leaf: Any, fixed: bool = False) -> bool:
    """Whether a leaf is none of the numbers that a function is traced for. `fixed`: nor is a whole number."""
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind in ("biu" if fixed else "b")
    if fixed and isinstance(leaf, (int, np.integer)):
        return True
    return isinstance(leaf, _STATIC) or (callable(leaf) and not isinstance(leaf, Expression))


def signature(
    tree: Any, numbers: list[Any], path: str, fixed: bool, functions: list[Callable[..., Any]]
) -> Hashable:
    """What has to be equal for two trees to share a trace: structure, shapes, and the static leaves.

    Appends the other leaves to `numbers`, and those static ones that can be called to `functions`. `fixed`: whole
    numbers are static too. Raises `DeclarationError` for a leaf that is neither a real number, nor an array, nor
    static.
    """
    kind = type(tree)
    if kind is float:
        numbers.append(tree)
        return ()
    if kind is np.ndarray:
        code = tree.dtype.kind
        if code == "f" or (code in "iu" and not fixed):
            numbers.append(tree)
            return tree.shape or "0-d"  # no number: it can be assigned into
        if code in "biu":
            return (kind, tree.dtype.str, tree.shape, tree.tobytes())
    found = children(tree)
    if found is not None:
        keys = tuple(tree) if isinstance(tree, dict) else len(found)
        return (
            kind,
            keys,
            *(signature(child, numbers, path + name, fixed, functions) for name, child in found),
        )
    if is_static(tree):
        key = (kind, tree.start, tree.stop, tree.step) if kind is slice else (kind, tree)
        try:
            hash(key)
        except TypeError:
            raise DeclarationError(
                path, f"a {kind.__name__} that cannot be hashed cannot be an argument."
            ) from None
        if callable(tree):
            functions.append(tree)
        return key
    if isinstance(tree, (int, np.integer)):
        if fixed:
            return (kind, int(tree))
        numbers.append(tree)
        return ()
    if isinstance(tree, (float, np.floating)):
        numbers.append(float(tree))
        return ()
    if isinstance(tree, (np.ma.MaskedArray, np.matrix)):
        raise DeclarationError(
            path,
            f"the rules of a numpy {kind.__name__} are not those of arrays.",
            "Pass np.asarray(x), or the array and its mask.",
        )
    if isinstance(tree, np.ndarray) and tree.dtype.kind == "f":  # a subclass of ndarray
        numbers.append(np.asarray(tree))
        return tree.shape
    if isinstance(tree, Expression):
        raise DeclarationError(
            path,
            "a traced value was given to a function that differentiates by itself.",
            "Differentiate the outer function only: derivatives of derivatives are lg.hessian.",
        )
    if isinstance(tree, np.ndarray):
        raise DeclarationError(path, f"an array of {tree.dtype} holds no real numbers.")
    raise DeclarationError(
        path,
        f"a {kind.__name__} is neither a real number nor an array of them.",
        "Pass arrays in tuples, lists and dicts; let the function close over anything else.",
    )
