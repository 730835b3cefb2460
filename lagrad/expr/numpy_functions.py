"""NumPy functions that expressions take part in, beyond ufuncs.

Functions that only move elements (stack, roll, tril, …) are NumPy's own, applied to node numbers; reductions
and products are written with the operations of `expression`. Fills `Expression.handlers`; knows no values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
            raise ExpressionError(f"numpy.{function}", f"the option {name} does not apply to expressions.")


# -- functions that only move elements -------------------------------------------------------------------
# Applied to node numbers with the
# constant zero's node in place of the zeros that some of them fill in.
_MOVING = (
    np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.rollaxis, np.squeeze, np.expand_dims,
    np.broadcast_to, np.flip, np.fliplr, np.flipud, np.roll, np.rot90, np.repeat, np.tile, np.take, np.delete,
    np.diagonal, np.atleast_1d, np.atleast_2d, np.atleast_3d, np.take_along_axis, np.resize,
    np.matrix_transpose, np.copy,
)  # fmt: skip
_SPLITTING = (np.split, np.array_split, np.hsplit, np.vsplit, np.dsplit, np.broadcast_arrays)
_JOINING = (np.stack, np.concatenate, np.hstack, np.vstack, np.dstack, np.column_stack, np.block)


def _moving(function: Any) -> Callable[..., Any]:
    def handler(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Expression):
            raise ExpressionError(
                f"numpy.{function.__name__}", "an option is an expression; it must be a number."
            )
        return wrap(x.graph, function(x.array_ids, *args, **kwargs))

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
        parts = list(parts) if not isinstance(parts, Expression) else parts
        g = graph_of(parts)
        assert g is not None
        if isinstance(parts, Expression):
            return wrap(g, function(parts.array_ids, *args, **kwargs))
        return wrap(g, function(_ids(g, parts), *args, **kwargs))

    return handler


_HANDLERS.update({f: _moving(f) for f in _MOVING})
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
    }
)


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
    return _accumulate(x, axis, OPCODE["add"])


@_implements(np.cumprod)
def _cumprod(x: Expression, axis: int | None = None, **options: Any) -> Expression:
    _only("cumprod", options)
    return _accumulate(x, axis, OPCODE["mul"])


def _accumulate(x: Expression, axis: int | None, code: int) -> Expression:
    ids = x.array_ids.reshape(-1) if axis is None else np.moveaxis(x.array_ids, axis, 0)
    out = [ids[0]] if len(ids) else []
    for k in range(1, len(ids)):
        out.append(x.graph.nodes(code, np.asarray(out[-1]), np.asarray(ids[k])))
    stacked = np.array(out, dtype=np.int32).reshape(ids.shape)
    return wrap(x.graph, stacked if axis is None else np.moveaxis(stacked, 0, axis))


@_implements(np.diff)
def _diff(x: Expression, n: int = 1, axis: int = -1) -> Expression:
    for _ in range(n):
        moved = np.moveaxis(x.array_ids, axis, 0)
        x = wrap(x.graph, np.moveaxis(moved[1:], 0, axis)) - wrap(x.graph, np.moveaxis(moved[:-1], 0, axis))
    return x


@_implements(np.linalg.norm)
def _norm(x: Expression, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    vector = x.ndim == 1 or isinstance(axis, (int, np.integer))
    if ord is None or (ord == 2 and vector) or (ord == "fro" and not vector):
        return fn.sqrt(ex.power(x, 2).sum(axis, keepdims))
    if vector and ord == 1:
        return abs(x).sum(axis, keepdims)
    if vector and ord == np.inf:
        return abs(x).max(axis, keepdims)
    raise ExpressionError(
        f"numpy.linalg.norm with ord={ord}", "expressions take part in 1, 2, inf and 'fro'."
    )


# -- products --------------------------------------------------------------------------------------------
@_implements(np.dot)
def _dot(x: Any, y: Any, out: Any = None) -> Any:
    _only("dot", {"out": out})
    return fn.dot(x, y)


@_implements(np.vdot)
def _vdot(x: Any, y: Any) -> Any:
    return fn.dot(np.ravel(x), np.ravel(y))


@_implements(np.inner)
def _inner(x: Any, y: Any) -> Any:
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return x * y
    return np.tensordot(x, y, axes=(-1, -1))


@_implements(np.outer)
def _outer(x: Any, y: Any, out: Any = None) -> Any:
    _only("outer", {"out": out})
    return np.ravel(x)[:, None] * np.ravel(y)[None, :]


@_implements(np.tensordot)
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
    if "." in subscripts or len(terms) != len(operands):
        raise ExpressionError(f"numpy.einsum({subscripts!r})", "write one plain term per operand.")
    if not arrow:
        letters = "".join(terms)
        output = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
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


@_implements(np.cross)
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
    """Piecewise linear interpolation in constant increasing nodes: sum of clipped slopes."""
    _only("interp", {"period": period})
    xp = np.asarray(xp, dtype=float)
    out: Any = fp[0]
    for k in range(len(xp) - 1):
        out = out + (fp[k + 1] - fp[k]) / (xp[k + 1] - xp[k]) * (fn.clip(x, xp[k], xp[k + 1]) - xp[k])
    if left is not None:
        out = np.where(x < xp[0], left, out)
    return out if right is None else np.where(x > xp[-1], right, out)


@_implements(np.nan_to_num, np.real)
def _same(x: Expression, *_: Any, **__: Any) -> Expression:
    return x


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
    np.var, np.std, np.cumsum, np.cumprod, np.swapaxes, np.repeat, np.take, np.diagonal, np.trace,
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
