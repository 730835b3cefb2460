"""NumPy functions that expressions take part in, beyond ufuncs.

Functions that only move elements (stack, roll, tril, …) are NumPy's own, applied to node numbers; reductions
and products are written with the operations of `expression`. Fills `Expression.handlers`; knows no values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import ExpressionError
from lagrad.expr import expression as ex
from lagrad.expr import functions as fn
from lagrad.expr.expression import Expression, graph_of, lift, wrap
from lagrad.expr.graph import Graph
from lagrad.expr.primitives import OPCODE, PRIMITIVES

_HANDLERS = Expression.handlers


def _implements(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(handler: Callable[..., Any]) -> Callable[..., Any]:
        for f in functions:
            _HANDLERS[f] = handler
        return handler

    return register


def _only(function: str, options: dict[str, Any], *harmless: str) -> None:
    """Refuse options that would change the result or are to be written to; `harmless` ones do neither."""
    for name, value in options.items():
        if name not in harmless and value is not None and value is not np._NoValue:
            if name == "dtype" and np.dtype(value) == np.float64:
                continue
            raise ExpressionError(
                f"numpy.{function}",
                f"the option {name} does not apply to expressions.",
                _OPTIONS.get(name, "Leave it out."),
            )


_OPTIONS = {
    "where": "Put np.where(condition, x, 0.0), or what else changes nothing, in place of x.",
    "initial": "Add it, or what the function does with it, to the result.",
    "out": "Assign the result: z = f(x), or z[...] = f(x).",
    "dtype": "Expressions are real numbers in double precision.",
}


# -- functions that only move elements -------------------------------------------------------------------
# Applied to node numbers with the
# constant zero's node in place of the zeros that some of them fill in.
_MOVING = (
    np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.rollaxis, np.squeeze, np.expand_dims,
    np.broadcast_to, np.flip, np.fliplr, np.flipud, np.roll, np.rot90, np.repeat, np.tile, np.take, np.delete,
    np.diagonal, np.take_along_axis, np.resize, np.matrix_transpose, np.copy,
    np.linalg.diagonal, np.linalg.matrix_transpose,
)  # fmt: skip
_PROMOTING = (np.atleast_1d, np.atleast_2d, np.atleast_3d)
_SPLITTING = (np.split, np.array_split, np.hsplit, np.vsplit, np.dsplit, np.broadcast_arrays, np.unstack)
_JOINING = (np.stack, np.concatenate, np.hstack, np.vstack, np.dstack, np.column_stack, np.block)


def _moving(function: Any) -> Callable[..., Any]:
    def handler(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Expression):
            raise ExpressionError(
                f"numpy.{function.__name__}", "an option is an expression; it must be a number."
            )
        return wrap(x.graph, function(x.array_ids, *args, **kwargs))

    return handler


def _promoting(function: Any) -> Callable[..., Any]:
    def handler(*args: Any) -> Any:
        g = graph_of(*args)
        assert g is not None
        parts = tuple(wrap(g, function(lift(g, a).array_ids)) for a in args)
        return parts if len(parts) > 1 else parts[0]

    return handler


def _splitting(function: Any) -> Callable[..., Any]:
    def handler(*args: Any, **kwargs: Any) -> Any:
        g = graph_of(*args)
        assert g is not None
        if function is np.broadcast_arrays:
            args = tuple(lift(g, a).array_ids for a in args)
        else:
            args = (lift(g, args[0]).array_ids, *args[1:])
        return [wrap(g, part) for part in function(*args, **kwargs)]

    return handler


def _ids(g: Graph, part: Any) -> Any:
    return [_ids(g, p) for p in part] if isinstance(part, (list, tuple)) else lift(g, part).array_ids


def _joining(function: Any) -> Callable[..., Any]:
    def handler(parts: Any, *args: Any, **kwargs: Any) -> Any:
        _only(
            function.__name__,
            {k: kwargs.pop(k) for k in ("out", "dtype", "casting") if k in kwargs},
            "casting",
        )
        parts = list(parts) if not isinstance(parts, Expression) else parts
        g = graph_of(parts)
        assert g is not None
        if isinstance(parts, Expression):
            return wrap(g, function(parts.array_ids, *args, **kwargs))
        return wrap(g, function(_ids(g, parts), *args, **kwargs))

    return handler


_HANDLERS.update({f: _moving(f) for f in _MOVING})
_HANDLERS.update({f: _promoting(f) for f in _PROMOTING})
_HANDLERS.update({f: _splitting(f) for f in _SPLITTING})
_HANDLERS.update({f: _joining(f) for f in _JOINING})


@_implements(np.compress)
def _compress(condition: Any, x: Any, axis: int | None = None) -> Expression:
    if isinstance(condition, Expression):
        raise ExpressionError("numpy.compress", "which elements hold is not known.", "Use lg.where.")
    return wrap(x.graph, np.compress(condition, x.array_ids, axis=axis))


def _masked(x: Expression, keep: Any) -> Expression:
    return wrap(x.graph, np.where(keep, x.array_ids, np.int32(x.graph.constant(0.0))))


def _on_and_below(x: Expression, k: int) -> NDArray[np.bool_]:
    """The mask of `numpy.tril`: square for a vector, which it broadcasts."""
    rows, columns = x.shape[-2:] if x.ndim > 1 else (len(x), len(x))
    return np.tri(rows, columns, k, dtype=np.bool_)


@_implements(np.tril)
def _tril(x: Expression, k: int = 0) -> Expression:
    return _masked(x, _on_and_below(x, k))


@_implements(np.triu)
def _triu(x: Expression, k: int = 0) -> Expression:
    return _masked(x, ~_on_and_below(x, k - 1))


@_implements(np.diag)
def _diag(x: Expression, k: int = 0) -> Expression:
    ids = np.diag(x.array_ids + np.int32(1), k)  # 0 marks the filled places
    return wrap(x.graph, np.where(ids == 0, np.int32(x.graph.constant(0.0)), ids - np.int32(1)))


@_implements(np.diagflat)
def _diagflat(x: Expression, k: int = 0) -> Expression:
    return _diag(x.ravel(), k)


@_implements(np.extract)
def _extract(condition: Any, x: Any) -> Expression:
    return _compress(np.ravel(condition), np.ravel(x))


@_implements(np.insert)
def _insert(x: Any, position: Any, values: Any, axis: int | None = None) -> Expression:
    g = graph_of(x, values)
    assert g is not None
    return wrap(g, np.insert(lift(g, x).array_ids, position, lift(g, values).array_ids, axis=axis))


@_implements(np.copyto)
def _copyto(target: Any, source: Any, casting: str = "same_kind", where: Any = True) -> None:
    if not isinstance(target, Expression):
        raise ExpressionError(
            "numpy.copyto",
            "an array of numbers cannot hold expressions.",
            "Start from lg.zeros(shape), or write np.full(shape, x) for np.full_like(numbers, x).",
        )
    target[...] = fn.where(where, np.broadcast_to(source, target.shape), target)


@_implements(np.append)
def _append(x: Any, values: Any, axis: int | None = None) -> Any:
    if axis is None:
        x, values = np.ravel(x), np.ravel(values) if np.ndim(values) else [values]
    return fn.concatenate([x, values], axis=axis if axis is not None else 0)


@_implements(np.pad)
def _pad(x: Expression, pad_width: Any, mode: Any = "constant", **options: Any) -> Expression:
    if mode == "constant":
        value = options.pop("constant_values", 0.0)
        if np.ndim(value) == 0 and not options:
            return wrap(x.graph, np.pad(x.array_ids, pad_width, constant_values=lift(x.graph, value).ids))
    elif mode in ("edge", "wrap", "reflect", "symmetric") and not options:
        return wrap(x.graph, np.pad(x.array_ids, pad_width, mode=mode))
    raise ExpressionError(
        f"numpy.pad with mode {mode!r}", "expressions take part in constant, edge, wrap, reflect."
    )


@_implements(np.zeros_like)
def _zeros_like(x: Expression, shape: Any = None, **options: Any) -> Expression:
    _only("zeros_like", options, "dtype", "order", "subok")
    return _full_like(x, 0.0, shape)


@_implements(np.empty_like)
def _empty_like(x: Expression, shape: Any = None, **options: Any) -> Expression:
    _only("empty_like", options, "dtype", "order", "subok", "device")
    return _full_like(x, 0.0, shape)


@_implements(np.ones_like)
def _ones_like(x: Expression, shape: Any = None, **options: Any) -> Expression:
    _only("ones_like", options, "dtype", "order", "subok")
    return _full_like(x, 1.0, shape)


@_implements(np.full_like)
def _full_like(x: Any, fill_value: Any, shape: Any = None, **options: Any) -> Expression:
    _only("full_like", options, "dtype", "order", "subok")
    g = graph_of(x, fill_value)
    assert g is not None
    target = np.shape(x) if shape is None else shape
    return wrap(g, np.broadcast_to(lift(g, fill_value).array_ids, target).copy())


# -- facts about shape -----------------------------------------------------------------------------------
@_implements(np.shape)
def _shape(x: Expression) -> tuple[int, ...]:
    return x.shape


@_implements(np.ndim)
def _ndim(x: Expression) -> int:
    return x.ndim


@_implements(np.size)
def _size(x: Expression, axis: int | None = None) -> int:
    return x.size if axis is None else x.shape[axis]


@_implements(np.iscomplexobj)
def _iscomplexobj(x: Expression) -> bool:
    return False


@_implements(np.isrealobj)
def _isrealobj(x: Expression) -> bool:
    return True


# -- reductions ------------------------------------------------------------------------------------------
def _reducing(name: str) -> Callable[..., Any]:
    def handler(
        x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, **options: Any
    ) -> Any:
        _only(name, {"dtype": dtype, "out": out, **options})
        g = graph_of(x)
        assert g is not None
        return getattr(lift(g, x), name)(axis=axis, keepdims=bool(keepdims))

    return handler


_HANDLERS.update(
    {
        np.sum: _reducing("sum"),
        np.mean: _reducing("mean"),
        np.prod: _reducing("prod"),
        np.max: _reducing("max"),
        np.min: _reducing("min"),
        np.amax: _reducing("max"),
        np.amin: _reducing("min"),
        np.any: _reducing("any"),
        np.all: _reducing("all"),
    }
)


@_implements(np.count_nonzero)
def _count_nonzero(x: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    return (x != 0).sum(axis, keepdims)


@_implements(np.var)
def _var(
    x: Expression, axis: Any = None, ddof: int = 0, keepdims: bool = False, **options: Any
) -> Expression:
    ddof += options.pop("correction", 0)  # the array standard's word for it
    _only("var", options)
    deviation = x - x.mean(axis, keepdims=True)
    total = ex.power(deviation, 2).sum(axis, keepdims)
    return total / (x.size // total.size - ddof)


@_implements(np.std)
def _std(x: Expression, axis: Any = None, ddof: int = 0, keepdims: bool = False, **options: Any) -> Any:
    return fn.sqrt(_var(x, axis, ddof, keepdims, **options))


@_implements(np.cumsum)
def _cumsum(x: Expression, axis: int | None = None, **options: Any) -> Expression:
    _only("cumsum", options)
    return ex.accumulate(x, axis, OPCODE["add"])


@_implements(np.cumprod)
def _cumprod(x: Expression, axis: int | None = None, **options: Any) -> Expression:
    _only("cumprod", options)
    return ex.accumulate(x, axis, OPCODE["mul"])


def _cumulative(code: int, start: float) -> Callable[..., Any]:
    def handler(
        x: Expression, /, *, axis: int | None = None, include_initial: bool = False, **options: Any
    ) -> Expression:
        _only("cumulative_sum", options)
        if axis is None and x.ndim > 1:
            raise ExpressionError("numpy.cumulative_sum", "the axis is not stated.", "Give axis.")
        along = -1 if axis is None else axis
        out = ex.accumulate(x, along, code)
        if not include_initial:
            return out
        rows = np.moveaxis(out.array_ids, along, 0)
        first = np.full((1, *rows.shape[1:]), x.graph.constant(start), dtype=np.int32)
        return wrap(x.graph, np.moveaxis(np.concatenate([first, rows]), 0, along))

    return handler


_HANDLERS[np.cumulative_sum] = _cumulative(OPCODE["add"], 0.0)
_HANDLERS[np.cumulative_prod] = _cumulative(OPCODE["mul"], 1.0)


@_implements(np.diff)
def _diff(x: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Any:
    ends = [None if e is None or e is np._NoValue else e for e in (prepend, append)]
    g = graph_of(x, *ends)
    assert g is not None
    x = lift(g, x)
    rows = np.moveaxis(x.array_ids, axis, 0)
    shape = (1, *rows.shape[1:])
    parts = [
        None if e is None
        else np.broadcast_to(lift(g, e).ids, shape) if np.ndim(e) == 0
        else np.moveaxis(lift(g, e).array_ids, axis, 0)
        for e in ends
    ]  # fmt: skip
    rows = np.concatenate([p for p in (parts[0], rows, parts[1]) if p is not None])
    for _ in range(n):
        rows = (wrap(g, rows[1:]) - wrap(g, rows[:-1])).array_ids
    return wrap(g, np.moveaxis(rows, 0, axis))


@_implements(np.gradient)
def _gradient(x: Any, *spacing: Any, axis: Any = None, edge_order: Literal[1, 2] = 1) -> Any:
    """Linear in x: along every axis, the matrix that NumPy makes of the unit vectors, times x."""
    if graph_of(*spacing) is not None:
        raise ExpressionError("numpy.gradient", "the spacing is an expression.", "Give numbers.")
    axes = range(x.ndim) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, x.ndim)
    steps = spacing * len(axes) if len(spacing) == 1 else spacing or (1.0,) * len(axes)
    if len(steps) != len(axes):
        raise ExpressionError(
            "numpy.gradient", f"{len(steps)} spacings for {len(axes)} axes.", "Give one for each axis."
        )
    parts = []
    for k, step in zip(axes, steps, strict=True):
        matrix = np.gradient(np.eye(x.shape[k]), step, axis=0, edge_order=edge_order)
        moved = np.moveaxis(x, k, 0)
        product = ex.matmul(matrix, moved.reshape(x.shape[k], x.size // x.shape[k]))
        parts.append(np.moveaxis(np.reshape(product, moved.shape), 0, k))
    return tuple(parts) if len(parts) > 1 else parts[0]


@_implements(np.linalg.norm)
def _norm(x: Expression, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    axes = tuple(range(x.ndim)) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, x.ndim)
    if ord is None and (axis is None or len(axes) <= 2):
        return fn.sqrt(ex.power(x, 2).sum(axis, keepdims))
    if len(axes) == 1:
        return _vector_norm(x, ord=ord, axis=axes[0], keepdims=keepdims)
    if len(axes) == 2:
        if ord == "fro":
            return fn.sqrt(ex.power(x, 2).sum(axes, keepdims))
        if ord in (1, -1, np.inf, -np.inf):
            summed, other = axes if abs(ord) == 1 else axes[::-1]
            sums = abs(x).sum(summed, keepdims=True)
            out = sums.max(other, keepdims=True) if ord > 0 else sums.min(other, keepdims=True)
            return out if keepdims else out.squeeze(axes)
    raise ExpressionError(
        f"numpy.linalg.norm with ord={ord}",
        "it is not one that expressions take part in.",
        "Use a number or inf for vectors; 1, -1, inf, -inf or 'fro' for matrices.",
    )


@_implements(np.linalg.vector_norm)
def _vector_norm(x: Expression, /, *, axis: Any = None, ord: Any = 2, keepdims: bool = False) -> Any:
    if ord is None or ord == 2:
        return fn.sqrt(ex.power(x, 2).sum(axis, keepdims))
    if ord == 0:
        return (x != 0).sum(axis, keepdims)
    if ord == 1:
        return abs(x).sum(axis, keepdims)
    if ord in (np.inf, -np.inf):
        return abs(x).max(axis, keepdims) if ord > 0 else abs(x).min(axis, keepdims)
    if isinstance(ord, (int, float, np.number)):
        return ex.power(ex.power(abs(x), ord).sum(axis, keepdims), 1.0 / float(ord))
    raise ExpressionError(f"numpy.linalg.norm with ord={ord}", "it is no norm of vectors.")


@_implements(np.linalg.matrix_norm)
def _matrix_norm(x: Expression, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    return _norm(x, ord, (-2, -1), keepdims)


# -- products --------------------------------------------------------------------------------------------
@_implements(np.dot)
def _dot(x: Any, y: Any, out: Any = None) -> Any:
    _only("dot", {"out": out})
    return fn.dot(x, y)


@_implements(np.linalg.matmul)
def _matmul(x: Any, y: Any, /) -> Any:
    return ex.matmul(x, y)


@_implements(np.linalg.multi_dot)
def _multi_dot(arrays: Any, *, out: Any = None) -> Any:
    _only("linalg.multi_dot", {"out": out})
    product, *rest = arrays
    for factor in rest:
        product = fn.dot(product, factor)
    return product


@_implements(np.linalg.matrix_power)
def _matrix_power(x: Expression, n: int) -> Expression:
    if n < 0:
        raise ExpressionError(
            "numpy.linalg.matrix_power", "the exponent is negative.", "Use lg.implicit for an inverse."
        )
    if n == 0:
        return wrap(x.graph, np.broadcast_to(lift(x.graph, np.eye(x.shape[-1])).array_ids, x.shape).copy())
    half = x if n == 1 else _matrix_power(x, n // 2)
    return x.copy() if n == 1 else half @ half if n % 2 == 0 else half @ half @ x


@_implements(np.linalg.vecdot)
def _vecdot(x: Any, y: Any, /, *, axis: int = -1) -> Any:
    return ex.vecdot(x, y, axis)


@_implements(np.vdot)
def _vdot(x: Any, y: Any) -> Any:
    return fn.dot(np.ravel(x), np.ravel(y))


@_implements(np.inner)
def _inner(x: Any, y: Any) -> Any:
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return x * y
    return np.tensordot(x, y, axes=(-1, -1))


@_implements(np.outer, np.linalg.outer)
def _outer(x: Any, y: Any, out: Any = None) -> Any:
    _only("outer", {"out": out})
    return np.ravel(x)[:, None] * np.ravel(y)[None, :]


@_implements(np.tensordot, np.linalg.tensordot)
def _tensordot(x: Any, y: Any, axes: Any = 2) -> Any:
    if isinstance(axes, (int, np.integer)):
        ax, ay = list(range(np.ndim(x) - axes, np.ndim(x))), list(range(axes))
    else:
        ax, ay = ([a] if np.ndim(a) == 0 else list(a) for a in axes)
    ax, ay = [a % np.ndim(x) for a in ax], [a % np.ndim(y) for a in ay]
    fx = [k for k in range(np.ndim(x)) if k not in ax]
    fy = [k for k in range(np.ndim(y)) if k not in ay]
    shape = [np.shape(x)[k] for k in fx] + [np.shape(y)[k] for k in fy]
    inner = int(np.prod([np.shape(x)[k] for k in ax], dtype=np.int64))
    left = np.reshape(np.transpose(x, fx + ax), (-1, inner) if inner else (int(np.prod(shape[: len(fx)])), 0))
    right = np.reshape(
        np.transpose(y, ay + fy), (inner, -1) if inner else (0, int(np.prod(shape[len(fx) :])))
    )
    return np.reshape(ex.matmul(left, right), shape)


@_implements(np.einsum)
def _einsum(subscripts: str, *operands: Any, **options: Any) -> Any:
    _only("einsum", options, "optimize", "order", "casting", "dtype")
    if not isinstance(subscripts, str):
        raise ExpressionError("numpy.einsum", "the subscripts are no text.", "Write them as in 'ij,j->i'.")
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(operands):
        raise ExpressionError(f"numpy.einsum({subscripts!r})", "write one term per operand.")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in subscripts]  # what "..." stands for
    rest = [max(0, np.ndim(x) - len(t) + 3) * ("..." in t) for t, x in zip(terms, operands, strict=True)]
    dots = "".join(free[: max(rest)])
    terms = [t.replace("...", dots[len(dots) - n :]) for t, n in zip(terms, rest, strict=True)]
    if arrow:
        output = output.replace("...", dots)
    else:
        letters = "".join(terms)
        output = dots + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    if any(len(t) != np.ndim(x) or "." in t for t, x in zip(terms, operands, strict=True)) or "." in output:
        raise ExpressionError(
            f"numpy.einsum({subscripts!r})",
            f"the terms do not fit operands of shapes {', '.join(str(np.shape(x)) for x in operands)}.",
            "Write one letter per axis of each operand.",
        )
    order = output + "".join(sorted(set("".join(terms)) - set(output)))
    g = graph_of(*operands)
    assert g is not None
    product: Any = None
    for term, operand in zip(terms, operands, strict=True):
        ids = lift(g, operand).array_ids
        for c in sorted(set(term)):  # a letter twice in a term means its diagonal
            while term.count(c) > 1:
                i, j = term.index(c), term.rindex(c)
                ids = np.moveaxis(np.diagonal(ids, axis1=i, axis2=j), -1, i)
                term = term[:j] + term[j + 1 :]
        ids = ids.transpose([term.index(c) for c in order if c in term])
        ids = ids[tuple(slice(None) if c in term else None for c in order)]
        numeric = graph_of(operand) is None
        part: Any = wrap(g, ids)
        if numeric:  # keep constants as numbers, so that zeros make no dependency
            values = np.frombuffer(g.values, dtype=np.float64).copy()
            index = np.frombuffer(g.a, dtype=np.int32).copy()
            part = values[index[ids]]
        product = part if product is None else product * part
    axes = tuple(range(len(output), len(order)))
    return ex.lift(g, product).sum(axes) if axes else product


@_implements(np.trace)
def _trace(x: Expression, offset: int = 0, axis1: int = 0, axis2: int = 1, **options: Any) -> Expression:
    _only("trace", options)
    return wrap(x.graph, np.diagonal(x.array_ids, offset, axis1, axis2)).sum(-1)


@_implements(np.linalg.trace)
def _linalg_trace(x: Expression, /, *, offset: int = 0, dtype: Any = None) -> Expression:
    return _trace(x, offset, -2, -1, dtype=dtype)


@_implements(np.kron)
def _kron(x: Any, y: Any) -> Any:
    g = graph_of(x, y)
    assert g is not None
    a, b = lift(g, x), lift(g, y)
    n = max(a.ndim, b.ndim)
    sa, sb = (1,) * (n - a.ndim) + a.shape, (1,) * (n - b.ndim) + b.shape
    left = np.reshape(x, [k for p in sa for k in (p, 1)])
    right = np.reshape(y, [k for p in sb for k in (1, p)])
    return np.reshape(left * right, [p * q for p, q in zip(sa, sb, strict=True)])


@_implements(np.cross, np.linalg.cross)
def _cross(x: Any, y: Any, **options: Any) -> Any:
    if options or np.shape(x)[-1:] != (3,) or np.shape(y)[-1:] != (3,):
        raise ExpressionError(
            "numpy.cross", "expressions take part for vectors of three along the last axis."
        )
    parts = [x[..., i] * y[..., j] - x[..., j] * y[..., i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return np.stack(parts, axis=-1)


# -- element by element ----------------------------------------------------------------------------------
@_implements(np.where)
def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None or y is None:
        raise ExpressionError(
            "numpy.where with one argument", "which elements hold is not known.", "Give all three arguments."
        )
    return fn.where(condition, x, y)


@_implements(np.clip)
def _clip(x: Any, a_min: Any = None, a_max: Any = None, **options: Any) -> Any:
    lower, upper = options.pop("min", a_min), options.pop("max", a_max)
    _only("clip", options)
    return fn.clip(x, lower, upper)


@_implements(np.interp)
def _interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    """Piecewise linear interpolation: the segment that holds x; at a node, the one that begins there."""
    _only("interp", {"period": period})
    if graph_of(xp) is not None:
        raise ExpressionError(
            "numpy.interp", "the nodes are expressions: their order is not known.", "Give nodes as numbers."
        )
    xp = np.asarray(xp, dtype=float)
    if xp.ndim != 1 or len(xp) == 0 or not (np.diff(xp) > 0).all():
        raise ExpressionError("numpy.interp", "the nodes do not increase.", "Sort them.")
    if np.shape(fp) != xp.shape:
        raise ExpressionError("numpy.interp", f"{len(xp)} nodes, and values of shape {np.shape(fp)}.")
    within = graph_of(fp)
    fp = np.asarray(fp) if within is None else lift(within, fp)
    left, right = fp[0] if left is None else left, fp[-1] if right is None else right
    if graph_of(x) is None:
        x = np.asarray(x, dtype=float)
        k = np.clip(np.searchsorted(xp, x, "right") - 1, 0, max(len(xp) - 2, 0))
        inside = fp[k]
        if len(xp) > 1:
            inside = inside + (x - xp[k]) / (xp[k + 1] - xp[k]) * (fp[k + 1] - fp[k])
        return fn.where(x < xp[0], left, fn.where(x > xp[-1], right, inside))
    g = graph_of(x)
    assert g is not None
    x = lift(g, x)
    out: Any = ex.binary(OPCODE["pick"], x < xp[0], left) + ex.binary(OPCODE["pick"], x > xp[-1], right)
    for k in range(len(xp) - 1):
        here = (x >= xp[k]) & (x < xp[k + 1] if k < len(xp) - 2 else x <= xp[k + 1])
        segment = fp[k] + (fp[k + 1] - fp[k]) / (xp[k + 1] - xp[k]) * (x - xp[k])
        out = out + ex.binary(OPCODE["pick"], here, segment)
    return out if len(xp) > 1 else ex.where(x == xp[0], fp[0], out)


@_implements(np.real)
def _same(x: Expression) -> Expression:
    return x


@_implements(np.nan_to_num)
def _nan_to_num(x: Expression, copy: bool = True, **options: Any) -> Expression:
    return x.copy() if copy else x  # what is not finite is refused at solving


@_implements(np.imag)
def _imag(x: Expression) -> Expression:
    return _full_like(x, 0.0)


@_implements(np.round, np.around)
def _round(x: Expression, decimals: int = 0, out: Any = None) -> Any:
    _only("round", {"out": out})
    rint = OPCODE["rint"]
    if decimals == 0:
        return ex.unary(rint, x)
    scale = 10.0 ** abs(decimals)  # as NumPy does it
    return ex.unary(rint, x * scale) / scale if decimals > 0 else ex.unary(rint, x / scale) * scale


@_implements(np.fix)
def _fix(x: Expression, out: Any = None) -> Any:
    _only("fix", {"out": out})
    return ex.unary(OPCODE["trunc"], x)


@_implements(np.bincount)
def _bincount(x: Any, weights: Any = None, minlength: int = 0) -> Any:
    if graph_of(x) is not None:
        raise ExpressionError("numpy.bincount", "the bins are expressions.", "Give whole numbers.")
    bins = np.asarray(x)
    out = np.zeros(max(minlength, int(bins.max(initial=-1)) + 1)) + 0.0 * weights.sum()
    ex.scatter(OPCODE["add"], out, bins, weights)
    return out


@_implements(np.vander)
def _vander(x: Expression, N: int | None = None, increasing: bool = False) -> Any:
    powers = range(len(x) if N is None else N)
    return np.stack([ex.power(x, k) for k in (powers if increasing else reversed(powers))], axis=-1)


@_implements(np.logspace)
def _logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, **options: Any
) -> Any:
    return ex.power(base, _linspace(start, stop, num, endpoint, **options))


@_implements(np.correlate)
def _correlate(a: Any, v: Any, mode: str = "valid") -> Any:
    return _convolve(a, v[::-1], mode)


@_implements(np.sinc)
def _sinc(x: Expression) -> Any:
    scaled = np.pi * x
    small = abs(scaled) < 1e-4  # sin(t)/t = 1 − t²/6 + O(t⁴): exact to double precision below 1e-4
    return ex.where(small, 1.0 - ex.power(scaled, 2) / 6.0, fn.sin(scaled) / ex.where(small, 1.0, scaled))


@_implements(np.average)
def _average(x: Any, axis: Any = None, weights: Any = None, keepdims: bool = False, **options: Any) -> Any:
    if options:
        raise ExpressionError("numpy.average", f"the option {sorted(options)[0]} has no meaning here.")
    if weights is None:
        return np.mean(x, axis=axis, keepdims=keepdims)
    if np.ndim(weights) == 1 and np.ndim(x) > 1:
        if axis is None:
            raise ExpressionError("numpy.average", "the axis of the weights is not stated.", "Give axis.")
        shape = [1] * np.ndim(x)
        shape[axis] = np.size(weights)
        weights = np.reshape(weights, shape)
    total = np.sum(weights * np.ones_like(x), axis=axis, keepdims=keepdims)
    return np.sum(x * weights, axis=axis, keepdims=keepdims) / total


@_implements(np.ptp)
def _ptp(x: Expression, axis: Any = None, keepdims: bool = False, **options: Any) -> Expression:
    _only("ptp", options)
    return x.max(axis, keepdims) - x.min(axis, keepdims)


@_implements(np.trapezoid)
def _trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    width = dx if x is None else np.diff(x, axis=axis if np.ndim(x) > 1 else -1)
    rows = np.moveaxis(y, axis, -1)
    width = np.moveaxis(width, axis, -1) if np.ndim(width) > 1 else width
    return np.sum(width * (rows[..., 1:] + rows[..., :-1]) / 2.0, axis=-1)


@_implements(np.polyval)
def _polyval(p: Any, x: Any) -> Any:
    value: Any = 0.0
    for coefficient in p:
        value = value * x + coefficient
    return value


@_implements(np.convolve)
def _convolve(a: Any, v: Any, mode: str = "full") -> Any:
    n, m = np.size(a), np.size(v)
    if mode == "full":
        first, count = 0, n + m - 1
    elif mode == "same":
        first, count = (min(n, m) - 1) // 2, max(n, m)
    else:
        first, count = min(n, m) - 1, max(n, m) - min(n, m) + 1
    g = graph_of(a, v)
    assert g is not None
    products = [
        [a[i] * v[k - i] for i in range(max(0, k - m + 1), min(n, k + 1))]
        for k in range(first, first + count)
    ]
    return lift(g, [fn.sum(some) for some in products])


@_implements(np.meshgrid)
def _meshgrid(*axes: Any, indexing: Any = "xy", sparse: bool = False, **options: Any) -> tuple[Any, ...]:
    _only("meshgrid", options, "copy")
    g = graph_of(*axes)
    assert g is not None
    grids = np.meshgrid(*(lift(g, a).array_ids for a in axes), indexing=indexing, sparse=sparse)
    return tuple(wrap(g, ids) for ids in grids)


@_implements(np.linspace)
def _linspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, **options: Any) -> Any:
    if options:
        raise ExpressionError("numpy.linspace", f"the option {sorted(options)[0]} has no meaning here.")
    share = np.arange(num) / max(num - 1 if endpoint else num, 1)
    share = share.reshape((num,) + (1,) * max(np.ndim(start), np.ndim(stop)))
    return start * (1.0 - share) + stop * share


@_implements(np.select)
def _select(conditions: Any, choices: Any, default: Any = 0.0) -> Any:
    for condition, choice in reversed(list(zip(conditions, choices, strict=True))):
        default = fn.where(condition, choice, default)
    return default


@_implements(np.fill_diagonal)
def _fill_diagonal(a: Any, val: Any, wrap: bool = False) -> None:
    if not isinstance(a, Expression):
        raise ExpressionError("numpy.fill_diagonal", "an array of numbers holds none.", "Use lg.zeros.")
    _only("fill_diagonal", {"wrap": wrap or None})
    k = np.arange(min(a.shape))
    a[(k,) * a.ndim] = val


# -- methods ---------------------------------------------------------------------------------------
def _method(function: Any) -> Callable[..., Any]:
    def method(self: Expression, *args: Any, **kwargs: Any) -> Any:
        return _HANDLERS[function](self, *args, **kwargs)

    method.__name__ = method.__qualname__ = function.__name__
    method.__doc__ = f"As `numpy.{function.__name__}` of this expression."
    return method


for _function in (
    np.var, np.std, np.cumsum, np.cumprod, np.swapaxes, np.repeat, np.take, np.diagonal, np.trace, np.round,
):  # fmt: skip
    setattr(Expression, _function.__name__, _method(_function))


def _elementwise(code: int) -> Callable[..., Any]:
    def method(self: Expression, *other: Any) -> Any:
        return ex.binary(code, self, *other) if other else ex.unary(code, self)

    return method


# A ufunc of an array of objects, such as np.sin(np.array([x, y])), calls every element's method of that name.
for _primitive in PRIMITIVES:
    for _name in _primitive.ufuncs:
        if not hasattr(Expression, _name):
            setattr(Expression, _name, _elementwise(OPCODE[_primitive.name]))
