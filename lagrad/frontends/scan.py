"""Loops whose steps are all alike: traced once, and repeated as array arithmetic.

Takes a step (carry, x) -> (carry, y), a first carry and what x runs over; gives the last carry and all y, stacked.
The nodes that one step makes are written down for every step, with operands moved on: what a Python loop of steps would
leave in the graph, at 10 ns per operation instead of a microsecond. Knows no values; among numbers the loop is run.

Derivation. A step makes nodes of which some depend on its carry or its x, directly or not. Let these be k, and let
`base` be the first node after all that was traced. Copy j of step s is node base + s k + j, so an operand that is
itself a copy moves on by k from step to step, and one that is not depends on no step and stays where it is. The carry
that enters step s is what left step s - 1, again copies; only where a step hands a part of the carry on untouched is
that found step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import DeclarationError, ExpressionError, ShapeError
from lagrad.expr.expression import Expression, graph_of, lift, wrap
from lagrad.expr.graph import CONSTANT, LINEAR, Graph
from lagrad.frontends.trace import StatesInStep, active
from lagrad.frontends.tree import children, is_static, mapped
from lagrad.numbers import check_callable

Ids = NDArray[np.int32]
Step = Callable[[Any, Any], tuple[Any, Any]]

_MOST: Final = 2**31 - 1  # nodes are numbered by 32-bit integers


def scan(step: Step, init: Any, xs: Any = None, length: int | None = None) -> tuple[Any, Any]:
    """Repeat carry, y = step(carry, x), with x = xs[0], xs[1], …; the last carry, and all y stacked.

    As `jax.lax.scan`. Carry, xs and y are numbers, arrays, and nested tuples, lists and dicts of them; the arrays of
    `xs` are cut along their first axis, those of y get one. Without `xs`, x is None and the step is repeated `length`
    times. The carry keeps its structure and its shapes. Arrays that a step is given are its own: what it writes into
    them is seen in what it returns, and nowhere else.

    In a traced function, and among expressions of a Program, `step` runs once, for all steps: build time does not
    depend on how long one step of Python takes. What it does besides (printing, counting, changing what it closes
    over) happens once; values of the function around it may be used in it; and `if` on a traced value raises
    `ExpressionError` as anywhere in a traced function. A step that uses `lg.implicit` is run for each step, after it
    was begun once, to find that out. Among numbers, `step` is called for each step.

    Raises `ShapeError` and `DeclarationError` where the carry does not come out as it went in, the arrays of `xs` have
    different lengths, or there are none and no `length`.

    >>> import lagrad as lg, numpy as np
    >>> def compound(rates):
    ...     def year(wealth, rate):
    ...         wealth = wealth * (1 + rate)
    ...         return wealth, wealth
    ...     last, all_years = lg.scan(year, 100.0, rates)
    ...     return last
    >>> rates = np.array([0.5, 1.0])
    >>> float(compound(rates)), lg.grad(compound)(rates)
    (300.0, array([200., 150.]))
    """
    check_callable("scan", step)
    steps = _steps(xs, length)
    going_on = active()
    graph = graph_of(*_leaves(init), *_leaves(xs)) if going_on is None else going_on.graph
    if graph is None:
        return _each(step, init, xs, steps) if steps else _none(step, init, xs)
    while graph.inner is not None:  # in a step of a scan among expressions of a declared program
        graph = graph.inner
    around = [] if going_on is None else going_on.steps
    inner = graph.opened()
    around.append(inner)
    try:
        body = _traced(step, init, xs, graph, inner)
    except StatesInStep:
        body = None
    finally:
        around.pop()
        inner.close(_escaped)
    if body is None:
        if going_on is not None and going_on.steps:
            raise StatesInStep
        if not steps:
            raise DeclarationError("scan", "a step that declares states was to be repeated no times.")
        return _each(step, init, xs, steps)
    return _repeated(graph, body, xs, steps)


def _escaped() -> ExpressionError:
    return ExpressionError(
        "a value from inside a step of lg.scan",
        "it was made while the step was traced once for all steps, and is the value of none.",
        "Return it from the step: in the carry, or as y, of which scan gives those of all steps.",
    )


# -- what is repeated -----------------------------------------------------------------------------------------
def _is_number(leaf: Any) -> bool:
    return not is_static(leaf) or isinstance(leaf, (bool, np.bool_, np.ndarray))


def _leaves(tree: Any) -> list[Any]:
    """All leaves that are numbers, from left to right."""
    found = children(tree)
    if found is None:
        return [tree] if _is_number(tree) else []
    return [leaf for _, child in found for leaf in _leaves(child)]


def _steps(xs: Any, length: int | None) -> int:
    """How many steps there are."""
    found: dict[str, int] = {}

    def note(path: str, leaf: Any) -> None:
        if _is_number(leaf):
            shape = np.shape(leaf)
            if not shape:
                raise ShapeError(
                    path, (), "an axis to run along", "Close over what is the same in all steps."
                )
            found[path] = int(shape[0])

    mapped(note, "xs", xs)
    if length is not None:
        if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 0:
            raise DeclarationError("length", f"{length!r} is not a whole number from 0 on.")
        found["length"] = int(length)
    if not found:
        raise DeclarationError(
            "scan", "there is neither an array in xs nor a length.", "Say how often: length=100."
        )
    if len(set(found.values())) > 1:
        (one, first), (other, second) = sorted(found.items(), key=lambda item: item[1])[:: len(found) - 1]
        raise DeclarationError("scan", f"{one} is for {first} steps, {other} for {second}.")
    return next(iter(found.values()))


def _pair(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise DeclarationError(
            "the step of scan",
            f"it returns {f'{len(result)} values' if isinstance(result, tuple) else f'a {type(result).__name__}'}.",
            "Return (carry, y), with None for what there is not.",
        )
    return result


def _same_shape(path: str, before: Any, after: Any) -> None:
    if not _is_number(before):
        if _is_number(after) or (after is not before and after != before):
            raise DeclarationError(path, f"{before!r} was carried into a step, {after!r} out of it.")
    elif not _is_number(after):
        raise DeclarationError(path, f"a number was carried into a step, {after!r} out of it.")
    elif np.shape(before) != np.shape(after):
        raise ShapeError(
            f"{path} after a step", np.shape(after), np.shape(before), "The carry keeps its shape."
        )


def _own(path: str, leaf: Any) -> Any:
    """An array that nobody else writes into."""
    return leaf.copy() if isinstance(leaf, (np.ndarray, Expression)) else leaf


# -- step by step ---------------------------------------------------------------------------------------------
def _each(step: Step, init: Any, xs: Any, steps: int) -> tuple[Any, Any]:
    """Every step run by itself, one at least; on arrays of its own, as where it is traced."""

    def next_carry(path: str, before: Any, after: Any) -> Any:
        _same_shape(path, before, after)
        return _own(path, after)

    carry, ys = mapped(_own, "carry", init), []
    for k in range(steps):
        x = mapped(lambda path, leaf, k=k: _own(path, leaf[k]) if _is_number(leaf) else leaf, "xs", xs)
        after, y = _pair(step(carry, x))
        carry = mapped(next_carry, "carry", init, after)
        ys.append(mapped(_own, "y", y))

    def stacked(path: str, *leaves: Any) -> Any:
        one = leaves[0]
        for other in leaves[1:]:
            if _is_number(one) != _is_number(other) or (
                not _is_number(one) and one is not other and one != other
            ):
                raise DeclarationError(path, f"one step gives {one!r:.60}, another {other!r:.60}.")
            if np.shape(one) != np.shape(other):
                raise ShapeError(path, np.shape(other), np.shape(one), "Every step gives the same shape.")
        if not _is_number(one):
            return one
        return np.stack([leaf if isinstance(leaf, Expression) else np.asarray(leaf) for leaf in leaves])

    return carry, mapped(stacked, "y", ys[0], *ys[1:])


def _none(step: Step, init: Any, xs: Any) -> tuple[Any, Any]:
    """No step among numbers: their shapes are those of a step on expressions."""
    graph = Graph()
    inner = graph.opened()
    _, ys = _repeated(graph, _traced(step, init, xs, graph, inner), xs, 0)
    last = mapped(_own, "carry", init)
    return last, mapped(lambda path, y: np.zeros(y.shape) if isinstance(y, Expression) else y, "y", ys)


# -- once for all ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Body:
    """One step as it was traced: nodes [first, stop), the first of which stand for carry and x, in this order."""

    first: int
    stop: int
    init: Any  # the tree of the carry; its numbers as node numbers before the first step
    carry: Any  # and those after a step
    y: Any


def _traced(step: Step, init: Any, xs: Any, graph: Graph, inner: Graph) -> _Body:
    """Run the step once on expressions of `inner`."""
    before = mapped(
        lambda path, leaf: lift(graph, leaf).array_ids if _is_number(leaf) else leaf, "carry", init
    )
    first = len(graph)

    def place(shape: tuple[int, ...]) -> Expression:
        # Nobody computes with this constant: copies have the numbers of the carry, or of x, in its place.
        return wrap(inner, inner.nodes(CONSTANT, np.full(shape, unknown), np.zeros(shape, np.int32)))

    unknown = len(graph.values)
    graph.values.append(np.nan)
    carry = mapped(
        lambda path, leaf: place(leaf.shape) if isinstance(leaf, np.ndarray) else leaf, "carry", before
    )
    x = mapped(lambda path, leaf: place(np.shape(leaf)[1:]) if _is_number(leaf) else leaf, "xs", xs)
    after, y = _pair(step(carry, x))

    def nodes(path: str, leaf: Any) -> Any:
        return lift(inner, leaf).array_ids.copy() if _is_number(leaf) else leaf

    def next_carry(path: str, before: Any, after: Any) -> Any:
        _same_shape(path, before, after)
        return nodes(path, after)

    after, y = mapped(next_carry, "carry", init, after), mapped(nodes, "y", y)
    return _Body(first, len(graph), before, after, y)


def _flat(tree: Any) -> Ids:
    """All node numbers in a tree of arrays of them."""
    return np.concatenate([np.empty(0, np.int32), *(ids.ravel() for ids in _leaves(tree))]).astype(np.int32)


def _repeated(graph: Graph, body: _Body, xs: Any, steps: int) -> tuple[Any, Any]:
    """Write the nodes of a step down for every step; the last carry, and all y."""
    first, stop = body.first, body.stop
    code, a, b, _, args, coefs = (part[s].copy() for part, s in zip(
        graph.views(), [slice(first, stop)] * 3 + [slice(None)] * 3, strict=True))  # fmt: skip
    init = _flat(body.init)
    run = np.concatenate(
        [np.empty((steps, 0), np.int32)]
        + [lift(graph, x).array_ids.reshape(steps, math.prod(np.shape(x)[1:])) for x in _leaves(xs)], axis=1,
    )  # fmt: skip
    places = init.size + run.shape[1]
    moving = _moving(code, a, b, args, first, places)
    moving[:places] = False
    copied = np.flatnonzero(moving)
    count, base = copied.size, len(graph)
    if base + steps * count > _MOST:
        raise DeclarationError("scan", f"{steps} steps of {count} operations are more than {_MOST}.")
    rank = np.full(stop - first, -1, np.int32)
    rank[copied] = np.arange(count, dtype=np.int32)
    s = np.arange(steps, dtype=np.int32)[:, None]
    carry = np.empty((steps + 1, init.size), np.int32)

    def of_steps(ids: Ids) -> Ids:
        """The nodes (steps, k) that stand for `ids` (k,) in each step."""
        own = ids - first
        inside = own >= 0
        copy = np.where(inside, rank[np.where(inside, own, 0)], -1)
        is_copy = copy >= 0
        moved = s * np.where(is_copy, np.int32(count), np.int32(0)) + np.where(is_copy, base + copy, ids)
        out: Ids = moved.astype(np.int32, copy=False)
        for table, lo, hi in ((carry[:-1], 0, init.size), (run, init.size, places)):
            columns = np.flatnonzero((own >= lo) & (own < hi))
            out[:, columns] = table[:, own[columns] - lo]
        return out

    carry[0] = init
    after = _flat(body.carry)
    handed = (after >= first) & (after < first + init.size)  # parts of the carry that come out untouched
    carry[1:, ~handed] = of_steps(after[~handed])
    source = after[handed] - first
    if (source == np.flatnonzero(handed)).all():
        carry[1:, handed] = init[handed]
    else:
        for k in range(steps):
            carry[k + 1, handed] = carry[k, source]
    sums = code[copied] == LINEAR
    lengths = b[copied][sums]
    total = int(lengths.sum())
    opening = np.cumsum(lengths) - lengths
    summands = np.repeat(a[copied][sums] - opening, lengths) + np.arange(total)
    new_a = of_steps(np.where(sums, 0, a[copied]).astype(np.int32))
    new_b = of_steps(np.where(sums, 0, b[copied]).astype(np.int32))
    new_a[:, sums] = len(graph.args) + s * np.int32(total) + opening
    new_b[:, sums] = lengths
    graph.repeat(
        np.broadcast_to(code[copied], (steps, count)), new_a, new_b,
        of_steps(args[summands]), np.broadcast_to(coefs[summands], (steps, total)),
        (first + copied).astype(np.int32), steps,
    )  # fmt: skip

    done = 0

    def last(path: str, ids: Any) -> Any:
        nonlocal done
        if not isinstance(ids, np.ndarray):
            return ids
        done += ids.size
        return wrap(graph, carry[-1, done - ids.size : done].reshape(ids.shape).copy())

    def stacked(path: str, ids: Any) -> Any:
        if not isinstance(ids, np.ndarray):
            return ids
        return wrap(graph, of_steps(ids.ravel()).reshape(steps, *ids.shape))

    return mapped(last, "carry", body.init), mapped(stacked, "y", body.y)


def _moving(code: NDArray[np.int16], a: Ids, b: Ids, args: Ids, first: int, places: int) -> NDArray[np.bool_]:
    """Which of the nodes from `first` on depend on the first `places` of them.

    Taken in runs of nodes that do not need each other: one for each array statement.
    """
    n = code.size
    sums = np.flatnonzero((code == LINEAR) & (b > 0))
    opening = np.cumsum(b[sums]) - b[sums]
    summands = args[np.repeat(a[sums] - opening, b[sums]) + np.arange(int(b[sums].sum()))]
    is_op = code >= 0
    latest = np.where(is_op, np.maximum(a, b), -1)
    if sums.size:
        latest[sums] = np.maximum.reduceat(summands, opening)
    out = np.zeros(n + 1, np.bool_)  # the last one: what is before `first`
    out[:places] = True
    of_a, of_b, of_summand = (np.where(x >= first, x - first, n) for x in (a, b, summands))
    of_a[~is_op] = of_b[~is_op] = n
    lo = places
    while lo < n:
        hi, window = lo, 64
        while hi < n:
            late = latest[hi : hi + window] >= first + lo
            if late.any():
                hi += int(late.argmax())
                break
            hi, window = min(hi + window, n), 2 * window
        out[lo:hi] = out[of_a[lo:hi]] | out[of_b[lo:hi]]
        t, end = np.searchsorted(sums, (lo, hi))
        if t < end:
            here = out[of_summand[opening[t] : opening[end - 1] + b[sums[end - 1]]]]
            out[sums[t:end]] = np.logical_or.reduceat(here, opening[t:end] - opening[t])
        lo = hi
    return out[:n]
