"""Derivatives of Python functions: grad, value_and_grad, jacobian, jvp, vjp; of second order: hessian, hvp.

Takes a function of NumPy operations, gives functions that trace it once for each structure of arguments,
build the traced program, and from then on solve it and sweep through its blocks. Conventions are JAX's: a
gradient has the structure of the argument it belongs to.

What is traced once: the function's own Python runs only when arguments of a new structure come. Two calls
share a trace when their arguments have the same nested tuples, lists and dicts, the same shapes, and equal
static leaves. Static are truth values, text, None and functions, and whole numbers in arguments that are not
differentiated (loop counts, exponents, index arrays): they are plain Python values inside the function. Whole
numbers in differentiated arguments, and all floating-point numbers and arrays, are traced; these may change
from call to call. Globals and closures are read while tracing; where they have changed since, the function is
traced again. Every call starts from the guesses, so
that its result depends on its arguments and on nothing else. Derivatives are certified, or refused by the
exceptions of `Solution`.
"""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import DeclarationError, EvaluationError, ShapeError
from lagrad.frontends.surroundings import surroundings
from lagrad.frontends.trace import Static, Trace, argument_names, record
from lagrad.frontends.tree import mapped, signature

if TYPE_CHECKING:
    from lagrad.built import Built
    from lagrad.layout import Layout
    from lagrad.repeated import SystemFunction
    from lagrad.solve import Solution

Floats = NDArray[np.float64]

KEPT: Final = 64  # traces kept for one function; the one not used for longest goes first


@dataclass(frozen=True, eq=False)
class Compiled:
    """A function traced and built for one structure of arguments. m parameters, in order of the leaves."""

    trace: Trace
    built: Built
    names: list[str]  # of the arguments, keywords last
    parts: list[slice]  # of each argument, its parameters
    surroundings: list[Any]  # closures, globals and attributes that the function read
    passed: list[Any]  # and that those functions read which were passed to it as arguments
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def layout(self) -> Layout:
        """Rows, blocks and the machine."""
        return self.built.layout

    def parameters(self, numbers: Sequence[Any]) -> Floats:
        """p (m,) from the leaves of the arguments."""
        p = np.empty(self.built.values.size)
        for item, value in zip(self.trace.program.parameters.items, numbers, strict=True):
            p[item.start : item.start + item.size] = value if not item.shape else value.ravel()
        if not np.isfinite(p).all():
            name = self.trace.program.parameter_name(int(np.flatnonzero(~np.isfinite(p))[0]))
            raise DeclarationError(name, "the value given is not finite.", "Give finite numbers.")
        return p

    @cached_property
    def function(self) -> SystemFunction:
        """The one number that the function returns and its gradient, always from the same guesses."""
        from lagrad.repeated import SystemFunction
        from lagrad.solve import Options

        return SystemFunction(self.built, [self.trace.program.outputs], None, Options(), warm=False)

    def value_and_gradient(
        self, p: Floats, wanted: Sequence[int], strict: bool | float
    ) -> tuple[Any, Floats]:
        """The one number that the function returns, and its derivatives by all parameters (m,).

        They are vouched for in the parts of the arguments `wanted`.
        """
        self.check_scalar()
        compiled = self.built.is_straight or not self.layout.pattern.large
        if strict is False and not self.trace.guesses and compiled:
            # refused for an argument that is not wanted, perhaps: below, only those that are
            with suppress(EvaluationError), self.lock:  # its working storage is for one call at a time
                value, gradient = self.function(p)
                if all(np.isfinite(gradient[0, self.parts[k]]).all() for k in wanted):
                    return value[0], gradient[0]
        solution = self.solution(p)
        position, _ = self.positions(self.trace.program.outputs)
        cols = self.columns(wanted)
        if strict is not False:
            solution.gradient(self.trace.program.outputs, self.parameter_names(wanted), strict=strict)
        total = np.zeros(self.layout.m)
        total[cols] = solution.total(position, cols)[0]
        return solution.v[self.layout.m + position[0]], total

    def columns(self, wanted: Sequence[int]) -> NDArray[np.int64]:
        """The parameters of these arguments."""
        return np.concatenate([np.arange(self.parts[k].start, self.parts[k].stop) for k in wanted])

    def parameter_names(self, wanted: Sequence[int]) -> list[str]:
        """The parameters of these arguments, by name."""
        parts = [self.parts[k] for k in wanted]
        items = self.trace.program.parameters.items
        return [i.name for i in items if any(part.start <= i.start < part.stop for part in parts)]

    def named(self, direction: Floats) -> dict[str, Floats]:
        """A direction of the parameters (m,) by name."""
        items = self.trace.program.parameters.items
        return {i.name: direction[i.start : i.start + i.size].reshape(i.shape) for i in items}

    def check_scalar(self) -> None:
        """Raise unless the function returns one number."""
        program = self.trace.program
        if not isinstance(program.outputs, str):
            kind = "None" if program.outputs is None else f"a {type(program.outputs).__name__}"
            raise DeclarationError(
                program.name,
                f"a gradient needs a function that returns one number, not {kind}.",
                "Use lg.jacobian or lg.vjp.",
            )
        shape = program.states.by_name[program.outputs].shape
        if shape != ():
            raise ShapeError(
                f"the result of {program.name}", shape, "()", "Sum it, or use lg.jacobian or lg.vjp."
            )

    def solution(self, p: Floats) -> Solution:
        """The traced program solved at p, from the guesses."""
        from lagrad.solve import Options, solve

        layout = self.layout
        if self.trace.guesses:
            guess = np.ones(layout.n)
            guess[: layout.n_states] = self.trace.starting_values(p)
            guess = guess[layout.machine.col_order]
            if layout.lower.size:
                guess = np.clip(guess, layout.lower, layout.upper)
            layout = replace(layout, guess=guess)
        return solve(layout, p, None, Options())

    def positions(self, name: str) -> tuple[NDArray[Any], tuple[int, ...]]:
        """Where an output stands among the states, and its shape."""
        return self.layout.find_output(name)

    def output(self, states: Floats) -> Any:
        """The function's result, from its values (or their tangents) among the states (n,)."""

        def pick(path: str, name: str | None) -> Any:
            if name is None:
                return None
            position, shape = self.positions(name)
            return states[position].reshape(shape)[()]

        return mapped(pick, "", self.trace.program.outputs)

    def argument(self, k: int, total: Floats, before: tuple[int, ...] = (), first: int | None = None) -> Any:
        """A tree like argument k, of what belongs to its leaves along the last axis of `total`.

        That axis is that of all parameters (m,); or the argument's begin at `first` in it.
        """
        by_name = self.trace.program.parameters.by_name
        moved = 0 if first is None else first - self.parts[k].start

        def pick(path: str, name: str | Static) -> Any:
            if isinstance(name, Static):
                return None
            item = by_name[name]
            start = item.start + moved
            return total[..., start : start + item.size].reshape(before + item.shape)[()]

        return mapped(pick, "", self.trace.program.inputs[self.names[k]])


_compiled: WeakKeyDictionary[Callable[..., Any], OrderedDict[Hashable, Compiled]] = WeakKeyDictionary()


def _cache(f: Callable[..., Any]) -> OrderedDict[Hashable, Compiled]:
    """The traces of f; kept for as long as f itself, where f can be a key."""
    if not callable(f):
        raise DeclarationError(repr(f), "a function was expected.", "Write lg.grad(f)(x), not lg.grad(f(x)).")
    try:
        return _compiled.setdefault(f, OrderedDict())
    except TypeError:
        return OrderedDict()


def _prepared(
    f: Callable[..., Any],
    cache: OrderedDict[Hashable, Compiled],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    wanted: Sequence[int],
    needed: Sequence[int] = (),
) -> tuple[Compiled, Floats]:
    """The trace for these arguments, made if there is none, and its parameters.

    `wanted`: arguments to differentiate by; `needed`: those of them that have to hold numbers.
    """
    numbers: list[Any] = []
    functions: list[Callable[..., Any]] = []
    fixed = [k not in wanted for k in range(len(args))] + [True] * len(kwargs)
    keys, parts, start = [], [], 0
    for k, value in enumerate((*args, *kwargs.values())):
        first = len(numbers)
        keys.append(signature(value, numbers, f"argument {k}", fixed[k], functions))
        if k in needed and len(numbers) == first:
            raise DeclarationError(
                f"argument {k}", "it holds no number to differentiate by.", "Choose another argnums."
            )
        size = sum(np.size(x) for x in numbers[first:])
        parts.append(slice(start, start + size))
        start += size
    key = (len(args), tuple(kwargs), *keys)
    compiled = cache.get(key)
    now, passed = surroundings(f), surroundings(tuple(functions)) if functions else []
    if compiled is None or now != compiled.surroundings or passed != compiled.passed:
        from lagrad.system import build

        trace = record(f, args, kwargs, fixed)
        names = [*argument_names(f, len(args)), *kwargs]
        after = surroundings(f)
        for (
            other
        ) in cache.values():  # what f itself has changed, such as a count of its calls, makes none stale
            if other.surroundings == now:
                other.surroundings[:] = after
        passed = surroundings(tuple(functions)) if functions else []
        built = build(trace.program).built
        compiled = cache[key] = Compiled(trace, built, names, parts, list(after), passed)
        if len(cache) > KEPT:
            cache.popitem(last=False)
    else:
        cache.move_to_end(key)
    return compiled, compiled.parameters(numbers)


def _wanted(argnums: int | Sequence[int], args: Sequence[Any]) -> list[int]:
    out = []
    for k in argnums if isinstance(argnums, (tuple, list)) else (argnums,):
        try:
            index = operator.index(k)
        except TypeError:
            raise DeclarationError(
                f"argnums={argnums!r}", f"{k!r} is no whole number.", "Count arguments from 0."
            ) from None
        if not -len(args) <= index < len(args):
            raise DeclarationError(
                f"argnums={argnums}",
                f"the function was called with {len(args)} positional argument{'s' * (len(args) != 1)}.",
                "Arguments to differentiate by are counted from 0 and given by position.",
            )
        out.append(index % len(args))
    return out


def _gradients(
    compiled: Compiled, wanted: Sequence[int], argnums: int | Sequence[int], total: Floats,
    before: tuple[int, ...] = (),
) -> Any:  # fmt: skip
    """The trees of the arguments asked for: one, or a tuple of them where `argnums` is a sequence."""
    trees = tuple(compiled.argument(k, total, before) for k in wanted)
    return trees if isinstance(argnums, (tuple, list)) else trees[0]


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, strict: bool | float = False
) -> Callable[..., tuple[Any, Any]]:
    """A function that returns (f(…), gradient of f by its arguments `argnums`); f returns one number.

    The gradient has the structure of the argument, with None in place of static leaves; for a sequence
    `argnums` it is a tuple. `strict` is that of `Solution.gradient`: with True, or the relative error that is
    allowed, what the certificate does not vouch for is refused, and any one-sided derivative on a kink. Raises
    `ShapeError` if f returns anything but a scalar, what `lg.trace` raises,
    and what `System.solve` and `Solution.gradient` raise.

    >>> import lagrad as lg, numpy as np
    >>> value, gradient = lg.value_and_grad(lambda w: w["a"] * np.sum(w["b"]))({"a": 2.0, "b": np.ones(2)})
    >>> float(value), gradient
    (4.0, {'a': np.float64(2.0), 'b': array([2., 2.])})
    """
    cache = _cache(f)

    @wraps(f)
    def differentiated(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        wanted = _wanted(argnums, args)
        compiled, p = _prepared(f, cache, args, kwargs, wanted, wanted)
        value, gradient = compiled.value_and_gradient(p, wanted, strict)
        return value, _gradients(compiled, wanted, argnums, gradient)

    return differentiated


def grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, strict: bool | float = False
) -> Callable[..., Any]:
    """The gradient of a function with one number as result, by its arguments `argnums`: see `value_and_grad`.

    >>> import lagrad as lg, numpy as np
    >>> lg.grad(lambda x: np.sum(x**3))(np.array([1.0, 2.0]))
    array([ 3., 12.])
    """
    both = value_and_grad(f, argnums, strict=strict)

    @wraps(f)
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return differentiated


def jacobian(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, strict: bool | float = False
) -> Callable[..., Any]:
    """A function that returns all derivatives of f by its arguments `argnums`.

    For every leaf of f's result, in the structure of that result: a tree like the argument, of arrays of the
    leaf's shape followed by the argument's leaf's shape. One adjoint solve per result or one tangent solve
    per argument, whichever are fewer. Raises as `value_and_grad` does, also where `strict`.

    >>> import lagrad as lg, numpy as np
    >>> lg.jacobian(lambda x: np.array([x[0] * x[1], x[0]]))(np.array([2.0, 3.0]))
    array([[3., 2.],
           [1., 0.]])
    """
    cache = _cache(f)

    @wraps(f)
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        wanted = _wanted(argnums, args)
        compiled, p = _prepared(f, cache, args, kwargs, wanted, wanted)
        layout = compiled.layout
        cols = compiled.columns(wanted)
        rows: list[NDArray[Any]] = [np.empty(0, np.int64)]
        names: list[str] = []

        def note(path: str, name: str | None) -> None:
            if name is not None:
                names.append(name)
                rows.append(compiled.positions(name)[0])

        mapped(note, "", compiled.trace.program.outputs)
        solution = compiled.solution(p)
        if strict is not False:
            solution.jacobian(names, compiled.parameter_names(wanted), strict=strict)
        block = solution.total(np.concatenate(rows), cols)
        total = np.zeros((block.shape[0], layout.m))
        total[:, cols] = block
        done = 0

        def pick(path: str, name: str | None) -> Any:
            nonlocal done
            if name is None:
                return None
            position, shape = compiled.positions(name)
            here = total[done : done + position.size]
            done += position.size
            return _gradients(compiled, wanted, argnums, here, shape)

        return mapped(pick, "", compiled.trace.program.outputs)

    return differentiated


def hessian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    one_sided: bool = False,
    strict: bool | float = False,
) -> Callable[..., Any]:
    """A function that returns all second derivatives of f by its arguments `argnums`.

    The structure is JAX's: for every leaf of f's result, for every leaf of the argument, a tree like the argument, of
    arrays of shape result's + leaf's + leaf's; for a sequence `argnums`, tuples in place of both trees. Through
    `lg.implicit` as through anything else. For each number of the result, as many Hessian-vector products as the
    sparsity pattern needs, at most one for each number of the arguments. Raises as `value_and_grad` does, and
    `KinkError` on a kink, such as that of |x| at 0, where no second derivative exists; `one_sided=True` gives there
    what the rules of the table of primitives make of it.

    >>> import lagrad as lg, numpy as np
    >>> lg.hessian(lambda x: x[0] ** 2 * x[1])(np.array([2.0, 3.0]))
    array([[6., 4.],
           [4., 0.]])
    >>> root = lg.hessian(lambda p: lg.implicit(lambda y: y**3 + y - p, 0.3))(2.0)
    >>> round(float(root), 12)
    -0.09375
    """
    cache = _cache(f)

    @wraps(f)
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        wanted = _wanted(argnums, args)
        compiled, p = _prepared(f, cache, args, kwargs, wanted, wanted)
        layout, solution, cols = compiled.layout, compiled.solution(p), compiled.columns(wanted)
        by_name, inputs = compiled.trace.program.parameters.by_name, compiled.trace.program.inputs
        sizes = [compiled.parts[k].stop - compiled.parts[k].start for k in wanted]
        first = np.cumsum([0, *sizes]).tolist()
        alone = isinstance(argnums, (int, np.integer))

        def of_result(path: str, name: str | None) -> Any:
            if name is None:
                return None
            position, shape = compiled.positions(name)
            for index in np.ndindex(shape) if strict is not False else ():
                one = f"{name}[{','.join(map(str, index))}]" if index else name
                solution.hessian(one, compiled.parameter_names(wanted), one_sided=one_sided, strict=strict)
            total = np.empty((position.size, cols.size, cols.size))
            for out, output in zip(total, position.tolist(), strict=True):
                seed = np.zeros(layout.n)
                seed[output] = 1.0
                out[:] = solution.second(seed, cols, one_sided)

            def rows_of(k: int, start: int) -> Any:
                def of_leaf(path: str, leaf: str | Static) -> Any:
                    if isinstance(leaf, Static):
                        return None
                    item = by_name[leaf]
                    at = item.start - compiled.parts[k].start + start
                    part, before = total[:, at : at + item.size], shape + item.shape
                    trees = [
                        compiled.argument(j, part, before, f) for j, f in zip(wanted, first, strict=False)
                    ]
                    return trees[0] if alone else tuple(trees)

                return mapped(of_leaf, "", inputs[compiled.names[k]])

            rows = tuple(rows_of(k, f) for k, f in zip(wanted, first, strict=False))
            return rows[0] if alone else rows

        return mapped(of_result, "", compiled.trace.program.outputs)

    return differentiated


def hvp(
    f: Callable[..., Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    one_sided: bool = False,
    strict: bool | float = False,
) -> tuple[Any, Any]:
    """(gradient of f at `primals`, its change per unit along `tangents`), each a tuple with a tree per argument.

    The second is the Hessian times a vector, over all arguments: one tangent and two adjoint solves, and no Hessian.
    f returns one number; `tangents` is as for `jvp`. Raises as `value_and_grad` and `jvp` do; kinks as for `hessian`.

    >>> import lagrad as lg, numpy as np
    >>> lg.hvp(lambda x: np.sum(x**3), (np.array([1.0, 2.0]),), (np.array([1.0, 10.0]),))
    ((array([ 3., 12.]),), (array([  6., 120.]),))
    """
    compiled, p, direction = _directed(f, primals, tangents, "hvp")
    compiled.check_scalar()
    solution = compiled.solution(p)
    seed = np.zeros(compiled.layout.n)
    output = compiled.trace.program.outputs
    seed[compiled.positions(output)[0]] = 1.0
    if strict is not False:
        solution.hvp(output, compiled.named(direction), one_sided=one_sided, strict=strict)
    gradient, product = solution.pull(seed), solution.second_product(seed, direction, one_sided)
    arguments = range(len(primals))
    return (
        tuple(compiled.argument(k, gradient) for k in arguments),
        tuple(compiled.argument(k, product) for k in arguments),
    )


def jvp(
    f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], *, strict: bool | float = False
) -> tuple[Any, Any]:
    """(f(*primals), its change per unit along `tangents`): one tangent solve.

    `tangents` has the structure and shapes of `primals`, with None for static leaves. Raises as
    `value_and_grad` does, also where `strict`, and for tangents that do not fit.

    >>> import lagrad as lg, numpy as np
    >>> value, change = lg.jvp(lambda x, y: x * y, (2.0, 3.0), (1.0, 0.5))
    >>> float(value), float(change)
    (6.0, 4.0)
    """
    compiled, p, direction = _directed(f, primals, tangents, "jvp")
    layout, solution = compiled.layout, compiled.solution(p)
    if strict is not False:
        solution.jvp(compiled.named(direction), strict=strict)
    return compiled.output(solution.v[layout.m :]), compiled.output(solution.push(direction))


def _directed(
    f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], what: str
) -> tuple[Compiled, Floats, Floats]:
    """The trace, its parameters and the direction that `tangents` are (m,)."""
    from lagrad.layout import numbers

    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise DeclarationError(
            what, "primals and tangents are no tuples of arguments.", f"Write lg.{what}(f, (x,), (dx,))."
        )
    if len(primals) != len(tangents):
        raise DeclarationError(
            what, f"{len(primals)} primals and {len(tangents)} tangents.", "Give one for each."
        )
    compiled, p = _prepared(f, _cache(f), primals, {}, range(len(primals)))
    direction = np.zeros(compiled.layout.m)
    by_name = compiled.trace.program.parameters.by_name

    def place(path: str, leaf: str | Static, tangent: Any) -> None:
        if isinstance(leaf, str):
            item = by_name[leaf]
            direction[item.start : item.start + item.size] = numbers(leaf, tangent, item.shape).ravel()

    for name, tangent in zip(compiled.names, tangents, strict=True):
        mapped(place, name, compiled.trace.program.inputs[name], tangent)
    return compiled, p, direction


def vjp(
    f: Callable[..., Any], *primals: Any, strict: bool | float = False
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """(f(*primals), pull): pull(weights) is the gradient of the weighted sum of the results, by every argument.

    `weights` has the structure and shapes of f's result; pull returns a tuple, one tree per argument, and may
    be called many times: each costs one adjoint solve on the same factors. Raises as `value_and_grad` does, also
    where `strict`.

    >>> import lagrad as lg, numpy as np
    >>> value, pull = lg.vjp(lambda x: x**2, np.array([1.0, 2.0]))
    >>> pull(np.array([1.0, 10.0]))
    (array([ 2., 40.]),)
    """
    compiled, p = _prepared(f, _cache(f), primals, {}, range(len(primals)))
    layout, solution = compiled.layout, compiled.solution(p)

    def pull(weights: Any) -> tuple[Any, ...]:
        from lagrad.layout import numbers

        seeds = np.zeros(layout.n)
        named: dict[str, Any] = {}

        def place(path: str, name: str | None, weight: Any) -> None:
            if name is not None:
                position, shape = compiled.positions(name)
                named[name] = numbers(name, weight, shape)
                seeds[position] += named[name].ravel()

        mapped(place, "out", compiled.trace.program.outputs, weights)
        if strict is not False:
            solution.vjp(named, strict=strict)
        total = solution.pull(seeds)
        return tuple(compiled.argument(k, total) for k in range(len(primals)))

    return compiled.output(solution.v[layout.m :]), pull
