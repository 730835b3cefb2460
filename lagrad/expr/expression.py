"""Expressions: NumPy-shaped arrays of graph nodes, and the constraints that `==` makes of them.

Takes Python numbers, NumPy arrays, SciPy sparse matrices and other expressions, gives expressions. An
expression is a handle: a graph and node numbers, one Python int for a scalar, an int32 array otherwise. Shape
rules are NumPy's because node numbers are indexed, broadcast and stacked by NumPy itself. Knows no values of
states, no matrices.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lagrad.errors import ExpressionError, LagradError, ShapeError
from lagrad.expr.graph import CONSTANT, Graph
from lagrad.expr.instead import INSTEAD, LISTED
from lagrad.expr.primitives import OPCODE, PRIMITIVES

_ADD, _SUB, _MUL, _DIV = OPCODE["add"], OPCODE["sub"], OPCODE["mul"], OPCODE["div"]
_NEG, _SQUARE, _SQRT, _RECIPROCAL = OPCODE["neg"], OPCODE["square"], OPCODE["sqrt"], OPCODE["reciprocal"]
_POWER, _POWC, _ABS = OPCODE["power"], OPCODE["powc"], OPCODE["abs"]
_LESS, _LESS_EQUAL = OPCODE["less"], OPCODE["less_equal"]
_EQUAL, _NOT_EQUAL = OPCODE["equal"], OPCODE["not_equal"]

_UFUNCS: dict[str, int] = {name: code for code, p in enumerate(PRIMITIVES) for name in p.ufuncs}
_SCIPY: dict[str, int] = {name: code for code, p in enumerate(PRIMITIVES) for name in p.scipy}


class Expression:
    """A symbolic value of some shape: a parameter, a state, or what was computed from them.

    Takes part in arithmetic, comparisons, indexing, `@` and NumPy functions under NumPy's rules; `==` makes a
    `Constraint`. Created by `Program.parameter` and `Program.state`, never directly.

    >>> import lagrad as lg, numpy as np
    >>> program = lg.Program("doc")
    >>> y = program.state("y", guess=[1.0, 2.0, 3.0])
    >>> (np.exp(y[1:]) * y[0]).shape
    (2,)
    """

    __slots__ = ("graph", "ids")
    __array_priority__ = 1000.0
    #: NumPy functions that expressions take part in; filled by `lagrad.expr.numpy_functions`
    handlers: ClassVar[dict[Callable[..., Any], Callable[..., Any]]] = {}

    graph: Graph
    ids: Any  # int for a scalar, NDArray[np.int32] otherwise

    def __init__(self, graph: Graph, ids: Any) -> None:
        self.graph = graph
        self.ids = ids

    # -- shape ------------------------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, as NumPy's."""
        return () if type(self.ids) is int else self.ids.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return 0 if type(self.ids) is int else self.ids.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return 1 if type(self.ids) is int else self.ids.size

    @property
    def dtype(self) -> np.dtype[np.float64]:
        """float64: lagrad computes in double precision."""
        return np.dtype(np.float64)

    @property
    def T(self) -> Expression:
        """The transpose."""
        return wrap(self.graph, self.array_ids.T)

    @property
    def array_ids(self) -> NDArray[np.int32]:
        """Node numbers as an array of this expression's shape, also for a scalar."""
        return np.asarray(self.ids, dtype=np.int32)

    @property
    def flat(self) -> Expression:
        """The elements in C order: to iterate over, to index and, where they lie in this order, to assign to."""
        ids = self.array_ids.ravel()
        if type(self.ids) is int or not np.shares_memory(ids, self.ids):
            ids.flags.writeable = False
        return Expression(self.graph, ids)

    @property
    def real(self) -> Expression:
        """This expression: expressions are real."""
        return self

    @property
    def imag(self) -> Expression:
        """Zeros: expressions are real."""
        return wrap(self.graph, np.full(self.shape, self.graph.constant(0.0), dtype=np.int32))

    def conj(self) -> Expression:
        """A copy: expressions are real."""
        return self.copy()

    conjugate = conj

    def __len__(self) -> int:
        if self.ndim == 0:
            raise ExpressionError(
                "len() of a scalar expression", "it has no axis.", "Use a state with a shape."
            )
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Expression]:
        if self.ndim == 0:
            raise ExpressionError("iterating over a scalar expression", "it has no axis.", "Use a shape.")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Expression:
        if type(key) is int and type(self.ids) is not int:
            return wrap(self.graph, self.ids[key])
        return wrap(self.graph, self.array_ids[_plain_index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(self.ids) is int or not self.ids.flags.writeable:
            raise ExpressionError(
                "assignment into a declared array",
                "a parameter or a state is what it was declared to be.",
                "Copy it first: y = y.copy(); y[i] = ...",
            )
        if self.graph.inner is not None:
            raise _from_outside()
        self.ids[_plain_index(key)] = lift(self.graph, value).array_ids
        if self.graph.watch is not None:
            self.graph.watch.stored(self, key)

    def copy(self) -> Expression:
        """The same values in an array of its own, which can be assigned into."""
        return self if type(self.ids) is int else Expression(self.graph, self.ids.copy())

    def __copy__(self) -> Expression:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Expression:
        return self.copy()  # of the array; the graph is one for all expressions of a program

    @property
    def mT(self) -> Expression:
        """The last two axes exchanged."""
        return wrap(self.graph, self.array_ids.mT)

    def reshape(self, *shape: Any, order: Any = "C") -> Expression:
        """The same elements in another shape, as `numpy.reshape`."""
        return wrap(self.graph, self.array_ids.reshape(*shape, order=order))

    def ravel(self, order: Any = "C") -> Expression:
        """The elements as one axis, as `numpy.ravel`."""
        return wrap(self.graph, self.array_ids.ravel(order))

    def flatten(self, order: Any = "C") -> Expression:
        """The elements as one axis in an array of its own, as `numpy.ndarray.flatten`."""
        return wrap(self.graph, self.array_ids.flatten(order))

    def transpose(self, *axes: Any) -> Expression:
        """Axes permuted, as `numpy.ndarray.transpose`."""
        return wrap(self.graph, self.array_ids.transpose(*axes))

    def squeeze(self, axis: Any = None) -> Expression:
        """Axes of length one removed, as `numpy.squeeze`."""
        return wrap(self.graph, self.array_ids.squeeze(axis))

    def astype(self, dtype: Any, **options: Any) -> Expression:
        """The value that a conversion leaves, in double precision whatever the type.

        Floating types leave it as it is, integers truncate it towards zero, bool makes 1 of what is not 0; an
        `ExpressionError` for any other type.
        """
        kind = np.dtype(dtype).kind
        if kind == "f":
            return self.copy()
        if kind == "i":
            return unary(OPCODE["trunc"], self)
        if kind == "b":
            return binary(_NOT_EQUAL, self, 0.0)
        raise ExpressionError(
            f"astype({np.dtype(dtype)})",
            "expressions are real numbers in double precision.",
            "Convert the numbers of the solution.",
        )

    def item(self, *index: Any) -> Expression:
        """The scalar expression at an index, as `numpy.ndarray.item`."""
        if not index and self.size != 1:
            raise ShapeError("item()", self.shape, "one element", "Give the index of the element.")
        ids = self.array_ids
        return Expression(self.graph, int(ids.item(*index)))

    def tolist(self) -> Any:
        """Nested lists of scalar expressions, as `numpy.ndarray.tolist`."""
        return self if self.ndim == 0 else [part.tolist() for part in self]

    def fill(self, value: Any) -> None:
        """Assign one value to all elements."""
        self[...] = value

    # -- reductions ---------------------------------------------------------------------------------------
    def sum(self, axis: Any = None, keepdims: bool = False, *, dtype: Any = None) -> Expression:
        """Sum over axes, as `numpy.sum`."""
        _double(dtype)
        return reduce_linear(self, axis, keepdims, mean=False)

    def mean(self, axis: Any = None, keepdims: bool = False, *, dtype: Any = None) -> Expression:
        """Mean over axes, as `numpy.mean`."""
        _double(dtype)
        return reduce_linear(self, axis, keepdims, mean=True)

    def prod(self, axis: Any = None, keepdims: bool = False, *, dtype: Any = None) -> Expression:
        """Product over axes, as `numpy.prod`."""
        _double(dtype)
        return reduce_tree(self, _MUL, axis, keepdims, empty=1.0)

    def max(self, axis: Any = None, keepdims: bool = False) -> Expression:
        """Maximum over axes, as `numpy.max`; at a tie the derivative is the earlier element's."""
        return reduce_tree(self, OPCODE["maximum"], axis, keepdims, empty=None)

    def min(self, axis: Any = None, keepdims: bool = False) -> Expression:
        """Minimum over axes, as `numpy.min`; at a tie the derivative is the earlier element's."""
        return reduce_tree(self, OPCODE["minimum"], axis, keepdims, empty=None)

    def any(self, axis: Any = None, keepdims: bool = False) -> Expression:
        """1 where some element is not 0, else 0, as `numpy.any`."""
        return reduce_tree(binary(_NOT_EQUAL, self, 0.0), OPCODE["logical_or"], axis, keepdims, empty=0.0)

    def all(self, axis: Any = None, keepdims: bool = False) -> Expression:
        """1 where no element is 0, else 0, as `numpy.all`."""
        return reduce_tree(binary(_NOT_EQUAL, self, 0.0), OPCODE["logical_and"], axis, keepdims, empty=1.0)

    def dot(self, other: Any) -> Expression:
        """As `numpy.dot`."""
        return dot(self, other)

    def clip(self, lower: Any = None, upper: Any = None, **limits: Any) -> Expression:
        """Values limited to [lower, upper], as `numpy.clip`; NumPy's names min and max are taken too."""
        lower, upper = limits.pop("min", lower), limits.pop("max", upper)
        if limits:
            raise ExpressionError("clip", f"the option {min(limits)} does not apply to expressions.")
        out = self.copy()
        if lower is not None:
            out = binary(OPCODE["maximum"], out, lower)
        if upper is not None:
            out = binary(OPCODE["minimum"], out, upper)
        return out

    # -- arithmetic ---------------------------------------------------------------------------------------
    # The scalar–scalar case comes first and touches nothing but the graph's lists: a program written as a
    # Python loop makes millions of these calls.
    def __add__(self, other: Any) -> Any:
        if type(other) is Expression and type(self.ids) is int and type(other.ids) is int:
            if (g := self.graph) is other.graph:
                return Expression(g, g.node(_ADD, self.ids, other.ids))
        return binary(_ADD, self, other)

    def __radd__(self, other: Any) -> Any:
        return binary(_ADD, other, self)

    def __sub__(self, other: Any) -> Any:
        if type(other) is Expression and type(self.ids) is int and type(other.ids) is int:
            if (g := self.graph) is other.graph:
                return Expression(g, g.node(_SUB, self.ids, other.ids))
        return binary(_SUB, self, other)

    def __rsub__(self, other: Any) -> Any:
        return binary(_SUB, other, self)

    def __mul__(self, other: Any) -> Any:
        if type(other) is Expression and type(self.ids) is int and type(other.ids) is int:
            if (g := self.graph) is other.graph:
                return Expression(g, g.node(_MUL, self.ids, other.ids))
        return binary(_MUL, self, other)

    def __rmul__(self, other: Any) -> Any:
        return binary(_MUL, other, self)

    def __truediv__(self, other: Any) -> Any:
        if type(other) is Expression and type(self.ids) is int and type(other.ids) is int:
            if (g := self.graph) is other.graph:
                return Expression(g, g.node(_DIV, self.ids, other.ids))
        return binary(_DIV, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return binary(_DIV, other, self)

    def __pow__(self, other: Any) -> Any:
        return power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return binary(_POWER, other, self)

    def __mod__(self, other: Any) -> Any:
        return binary(OPCODE["mod"], self, other)

    def __rmod__(self, other: Any) -> Any:
        return binary(OPCODE["mod"], other, self)

    def __floordiv__(self, other: Any) -> Any:
        return floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return floor_divide(other, self)

    def __divmod__(self, other: Any) -> Any:
        return floor_divide(self, other), binary(OPCODE["mod"], self, other)

    def __rdivmod__(self, other: Any) -> Any:
        return floor_divide(other, self), binary(OPCODE["mod"], other, self)

    def __neg__(self) -> Expression:
        return unary(_NEG, self)

    def __pos__(self) -> Expression:
        return self.copy()

    def __abs__(self) -> Expression:
        return unary(_ABS, self)

    def __round__(self, digits: int | None = None) -> Any:
        return np.round(self, digits or 0)

    # In place as in NumPy: every view of the array sees the change. What cannot be assigned into (a scalar, a
    # declared parameter or state) is left as it is, and the name stands for the result from then on.
    def __iadd__(self, other: Any) -> Any:
        return self._in_place(self + other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(self - other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(self * other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(self / other)

    def __ipow__(self, other: Any) -> Any:
        return self._in_place(self**other)

    def _in_place(self, result: Expression) -> Expression:
        if type(self.ids) is int or not self.ids.flags.writeable:
            return result
        if result.shape != self.shape:
            raise ShapeError("an operation in place", result.shape, self.shape, "Write x = x + y.")
        if self.graph.inner is not None:
            raise _from_outside()
        self.ids[...] = result.ids
        return self

    def __matmul__(self, other: Any) -> Any:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return matmul(other, self)

    # -- comparisons --------------------------------------------------------------------------------------
    def __hash__(self) -> int:
        # In a declared program by identity: {x: 2.0} names x. In a traced function that would keep equal numbers
        # apart: sum(set(x)), d[x] and x in {…} would answer something else.
        if self.graph.traced:
            raise ExpressionError(
                "an expression as a key, or in a set",
                "which numbers are equal is not known before the system is solved.",
            )
        return object.__hash__(self)

    def __eq__(self, other: Any) -> Any:
        g = _need_graph(self, other)
        return Constraint(lift(g, self), lift(g, other))

    def __ne__(self, other: Any) -> Any:
        return binary(_NOT_EQUAL, self, other)

    def __lt__(self, other: Any) -> Any:
        return binary(_LESS, self, other)

    def __le__(self, other: Any) -> Any:
        return binary(_LESS_EQUAL, self, other)

    def __gt__(self, other: Any) -> Any:
        return binary(_LESS, other, self)

    def __ge__(self, other: Any) -> Any:
        return binary(_LESS_EQUAL, other, self)

    def __and__(self, other: Any) -> Any:
        return binary(OPCODE["logical_and"], self, other)

    def __or__(self, other: Any) -> Any:
        return binary(OPCODE["logical_or"], self, other)

    def __rand__(self, other: Any) -> Any:
        return binary(OPCODE["logical_and"], other, self)

    def __ror__(self, other: Any) -> Any:
        return binary(OPCODE["logical_or"], other, self)

    def __xor__(self, other: Any) -> Any:
        return logical_xor(self, other)

    def __rxor__(self, other: Any) -> Any:
        return logical_xor(other, self)

    def __invert__(self) -> Any:
        return unary(OPCODE["logical_not"], self)

    # -- what an expression is not -------------------------------------------------------------------------
    def __bool__(self) -> bool:
        raise ExpressionError(
            "the truth value of an expression",
            "its value is not known while the program is being declared.",
            "Use lg.where(condition, a, b) instead of if, and lg.maximum/minimum instead of max/min.",
        )

    def _no_number(self, kind: str) -> Any:
        raise ExpressionError(
            f"{kind}() of an expression",
            "it has no value before the system is solved.",
            "Use the functions of lagrad or NumPy (lg.exp, np.exp, ...) and read values from the Solution.",
        )

    def __float__(self) -> float:
        return float(self._no_number("float"))

    def __int__(self) -> int:
        return int(self._no_number("int"))

    def __complex__(self) -> complex:
        return complex(self._no_number("complex"))

    def __index__(self) -> int:
        return int(self._no_number("index"))

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        """An object array of scalar expressions: `np.array([x, y])` and `np.asarray(x)` compute on, slowly.

        SciPy's sparse `A @ y` is given this expression in one piece, as a foreign scalar: it then declines,
        and Python asks `__rmatmul__` above. Arithmetic with NumPy arrays never comes here
        (`__array_ufunc__`).
        """
        if dtype is not None and np.dtype(dtype) != object:
            self._no_number("array")
        if self.ndim == 0 or sys._getframe(1).f_globals.get("__name__", "").startswith("scipy.sparse"):
            out: NDArray[Any] = np.empty((), dtype=object)
            out[()] = self
            return out
        out = np.empty(self.shape, dtype=object)
        out.ravel()[:] = [Expression(self.graph, i) for i in self.array_ids.ravel().tolist()]
        out.flags.writeable = bool(copy)  # np.asarray: an assignment would not reach this expression
        return out

    # -- NumPy --------------------------------------------------------------------------------------------
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "__call__" and not options:  # the usual case, and in a Python loop the only one
            code = _BY_UFUNC.get(ufunc)
            if code is not None:
                return unary(code, *inputs) if len(inputs) == 1 else binary(code, *inputs)
        name = ufunc.__name__
        options = {
            k: v for k, v in options.items() if k == "axis" or (v is not None and v is not np._NoValue)
        }
        if method == "__call__" and not options:
            if name in _SPECIAL_UFUNCS:
                return _SPECIAL_UFUNCS[name](*inputs)
            code = _UFUNCS.get(name, _SCIPY.get(name))
            if code is not None:
                return unary(code, *inputs) if ufunc.nin == 1 else binary(code, *inputs)
        if method == "reduce" and isinstance(inputs[0], Expression) and len(inputs) == 1:
            _double(options.pop("dtype", None))
            if not set(options) - {"axis", "keepdims"}:
                axis, keepdims = options.get("axis", 0), bool(options.get("keepdims", False))
                if name in _REDUCTIONS:
                    return getattr(inputs[0], _REDUCTIONS[name])(axis=axis, keepdims=keepdims)
                if name in ("logaddexp", "hypot"):  # with which order they are taken makes no difference
                    return reduce_tree(
                        inputs[0], _UFUNCS[name], axis, keepdims, -np.inf if name == "logaddexp" else 0.0
                    )
        if method == "accumulate" and name in ("add", "multiply", "maximum", "minimum", "logaddexp"):
            if not set(options) - {"axis"}:
                return accumulate(inputs[0], options.get("axis", 0), _UFUNCS[name])
        if method == "outer" and ufunc.nin == 2 and not options:
            x, y = inputs
            return ufunc(np.reshape(x, (*np.shape(x), *(1,) * np.ndim(y))), y)
        if method == "at" and name in ("add", "subtract", "multiply", "divide", "maximum", "minimum"):
            scatter(_UFUNCS[name], *inputs)
            return None
        if name == "vecdot" and method == "__call__" and set(options) == {"axis"}:
            x, y = inputs
            return vecdot(x, y, options["axis"])
        module = "numpy" if getattr(np, name, None) is ufunc else "scipy.special"
        raise ExpressionError(
            f"{module}.{name}" + (f".{method}" if method != "__call__" else ""),
            "expressions do not take part in this operation"
            + (f" with the option {', '.join(sorted(options))}." if options else "."),
            "Write z = z + x instead of z += x, and assign results, where z is an array of numbers."
            if "out" in options
            else "Leave the option out."
            if options
            else INSTEAD.get(name, LISTED),
        )

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        handler = self.handlers.get(func)
        if handler is None:
            raise ExpressionError(
                f"{func.__module__}.{func.__name__}",
                "expressions do not take part in this function.",
                INSTEAD.get(func.__name__, f"Write it with arithmetic, indexing and sums. {LISTED}"),
            )
        try:
            return handler(*args, **kwargs)
        except LagradError:
            raise
        except ValueError as unfit:  # NumPy's own, of node numbers in the user's shapes
            raise misfit(func.__name__, args, unfit) from None
        except TypeError:
            try:
                inspect.signature(handler).bind(*args, **kwargs)
            except TypeError as unfit:
                raise ExpressionError(
                    f"{func.__module__}.{func.__name__}", f"with expressions: {unfit}.", "Leave it out."
                ) from None
            raise

    def __repr__(self) -> str:
        from lagrad.expr.text import expression_text

        return expression_text(self)


def misfit(function: str, args: Any, unfit: ValueError) -> ShapeError:
    """The error of arguments that do not fit together in a function of NumPy, with the shapes they have."""
    single = len(args) == 1 and isinstance(args[0], (list, tuple))
    got = [_shape(a) for a in (args[0] if single else args)]
    text = str(unfit)
    text = text[:1].lower() + text[1:].rstrip(".")
    return ShapeError(
        f"numpy.{function}", got[0] if len(got) == 1 else got, f"shapes that fit ({text})",
        "Give every part its shape first, as in x.reshape(1) for a single number."
        if "dimension" in text and () in got else "",
    )  # fmt: skip


def _shape(x: Any) -> Any:
    """The shape of an array, expression or number; of anything else, and of options, what it is."""
    try:
        return x if isinstance(x, (str, int)) and not isinstance(x, bool) else np.shape(x)
    except (ValueError, TypeError):
        return [_shape(part) for part in x]


class Constraint:
    """`lhs == rhs`, element by element; what `Program.constrain` takes. Its residual is lhs − rhs.

    Has no truth value: `==` on expressions declares, it does not compare.
    """

    __slots__ = ("lhs", "rhs")
    __array_ufunc__ = None

    def __init__(self, lhs: Expression, rhs: Expression) -> None:
        try:
            shape = np.broadcast_shapes(lhs.shape, rhs.shape)
        except ValueError:
            raise ShapeError(
                "constraint", f"{lhs.shape} == {rhs.shape}", "shapes that broadcast together"
            ) from None
        self.lhs = broadcast_to(lhs, shape)
        self.rhs = broadcast_to(rhs, shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The common shape of both sides."""
        return self.lhs.shape

    def __bool__(self) -> bool:
        raise ExpressionError(
            "the truth value of a constraint",
            "== between expressions makes a constraint; it does not compare values.",
            "Pass it to program.constrain(...); for a condition inside lg.where use <, <=, > or >=.",
        )

    def __repr__(self) -> str:
        return f"{self.lhs!r} == {self.rhs!r}"


# -- making expressions -------------------------------------------------------------------------------------
class Cell(Expression):
    """A number that can be assigned into: what stands for a 0-d array, which is one object for all who hold it."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if key is not Ellipsis and key != ():
            raise ExpressionError("indexing a 0-d array", "it has no axis.", "Write x[...] or x[()].")
        self._in_place(lift(self.graph, value))

    def copy(self) -> Expression:
        """The same number, in an array of its own."""
        return Cell(self.graph, self.ids)

    def _in_place(self, result: Expression) -> Expression:
        if result.shape:
            raise ShapeError("an operation in place", result.shape, (), "Write x = x + y.")
        if self.graph.inner is not None:
            raise _from_outside()
        self.ids = result.ids
        return self


def wrap(graph: Graph, ids: Any) -> Expression:
    """An expression around node numbers; a 0-d array becomes a scalar."""
    return Expression(graph, ids if isinstance(ids, np.ndarray) and ids.ndim else int(ids))


def _foreign(graph: Graph, value: Expression) -> Exception:
    """Why an expression is none of `graph`."""
    if value.graph.closed is not None:
        return value.graph.closed
    if value.graph.is_inside(graph):
        return ExpressionError(
            "a value from inside a step of lg.scan",
            "the step is traced once for all steps, and cannot declare a definition or a constraint.",
            "Return it from the step, in the carry or as y, and declare what lg.scan gives.",
        )
    return ExpressionError(
        "mixing two programs",
        f"one expression belongs to {_owner(value.graph)}, the other to {_owner(graph)}.",
        "Declare both in one Program.",
    )


def lift(graph: Graph, value: Any) -> Expression:
    """A value as an expression of `graph`: numbers and arrays become constants, lists may hold expressions.

    Raises `ExpressionError` for what is not a real number, for nan, and for an expression of another program.
    """
    kind = type(value)
    if kind is Expression:
        if value.graph is not graph:
            if graph.is_inside(value.graph):
                return _inside(graph, value)
            raise _foreign(graph, value)
        return value
    if kind is float or kind is int or kind is bool:
        if value != value:
            raise ExpressionError("the constant nan", "a constant must be a number.")
        try:
            return Expression(graph, graph.constant(float(value)))
        except OverflowError:
            raise ExpressionError("an integer constant", "it does not fit into double precision.") from None
    if kind is Cell:  # the number that it holds now
        return lift(graph, Expression(value.graph, value.ids))
    if isinstance(value, Constraint):
        return binary(_EQUAL, value.lhs, value.rhs)
    if isinstance(value, (list, tuple)) and _holds_expression(value):
        parts = [lift(graph, v) for v in value]
        shape = np.broadcast_shapes(*(p.shape for p in parts))
        if any(p.shape != shape for p in parts):
            raise ShapeError("a list of expressions", [p.shape for p in parts], "parts of one shape")
        return wrap(graph, np.stack([p.array_ids for p in parts]))
    if hasattr(value, "toarray"):
        value = value.toarray()
    if isinstance(value, np.matrix):
        raise ExpressionError(
            "a numpy.matrix in an expression",
            "its rules are not those of arrays.",
            "Use np.asarray(A) and @.",
        )
    try:
        numbers = np.asarray(value)
    except (TypeError, ValueError):
        numbers = np.empty((), dtype=object)
    if numbers.dtype == object:
        elements = numbers.ravel().tolist()
        if any(isinstance(e, Expression) for e in elements):
            ids = np.array([lift(graph, e).ids for e in elements], dtype=np.int32)
            return wrap(graph, ids.reshape(numbers.shape))
    if numbers.dtype.kind not in "fiub":
        raise ExpressionError(
            f"using a {kind.__name__} in an expression", "only real numbers and arrays of them take part.", ""
        )
    numbers = numbers.astype(np.float64)
    if np.isnan(numbers).any():
        raise ExpressionError("the constant nan", "a constant must be a number.")
    if numbers.ndim == 0:
        return Expression(graph, graph.constant(float(numbers)))
    return Expression(graph, graph.constants(numbers))


def _inside(graph: Graph, value: Expression) -> Expression:
    """A value from around a step, in the step; it cannot be assigned into there."""
    if type(value.ids) is int:
        return Expression(graph, value.ids)
    ids = value.ids.view()
    ids.flags.writeable = False
    return Expression(graph, ids)


def _from_outside() -> ExpressionError:
    return ExpressionError(
        "assignment into an array from outside the step",
        "a step is traced once for all, and what it changes outside would be changed once.",
        "Make the array part of the carry, or copy it: y = y.copy().",
    )


def _owner(graph: Graph) -> str:
    name = getattr(graph.names, "name", None)
    return "another Program" if name is None else f"Program {name!r}"


def _holds_expression(values: Any) -> bool:
    return any(
        isinstance(v, Expression) or (isinstance(v, (list, tuple)) and _holds_expression(v)) for v in values
    )


def graph_of(*values: Any) -> Graph | None:
    """The graph of the first expression among the values, lists included; None if there is none.

    While a step is traced, that of the step, if one of the values is the step's.
    """
    found: Graph | None = None
    for v in values:
        if isinstance(v, Expression):
            g: Graph | None = v.graph
        elif isinstance(v, Constraint):
            g = v.lhs.graph
        elif isinstance(v, (list, tuple)):
            g = graph_of(*v)
        elif isinstance(v, np.ndarray) and v.dtype == object:
            g = graph_of(*v.ravel().tolist())
        else:
            continue
        if g is not None and (found is None or g.is_inside(found)):
            found = g
            if g.inner is None:
                return g
    return found


def _need_graph(*values: Any) -> Graph:
    graph = graph_of(*values)
    if graph is None:
        raise ExpressionError(
            "an operation on plain numbers", "no expression takes part.", "Use NumPy for numbers."
        )
    return graph


def _plain_index(key: Any) -> Any:
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, (Expression, Constraint)):
            raise ExpressionError(
                "indexing with an expression",
                "which element is meant must be known at declaration.",
                "Use lg.where.",
            )
    return key


def broadcast_to(x: Expression, shape: tuple[int, ...]) -> Expression:
    """`x` broadcast to `shape`, as `numpy.broadcast_to`."""
    return x if x.shape == shape else wrap(x.graph, np.broadcast_to(x.array_ids, shape))


# -- element by element ----------------------------------------------------------------------------------
def unary(code: int, x: Any) -> Expression:
    """The primitive with opcode `code` of every element."""
    if type(x) is Expression and type(i := x.ids) is int:
        return Expression(x.graph, x.graph.node(code, i, i))
    g = _need_graph(x)
    x = lift(g, x)
    if type(x.ids) is int:
        return Expression(g, g.node(code, x.ids, x.ids))
    return Expression(g, g.nodes(code, x.ids, x.ids))


# x + 0, x − 0, x · 1, x / 1 are x, and 0 · x is 0: a coefficient that is zero makes no dependency.
_RIGHT_IDENTITY = {_ADD: 0.0, _SUB: 0.0, _MUL: 1.0, _DIV: 1.0}
_LEFT_IDENTITY = {_ADD: 0.0, _MUL: 1.0}
_NUMPY_SCALARS = frozenset((np.float64, np.float32, np.int64, np.int32))


def binary(code: int, x: Any, y: Any) -> Expression:
    """The primitive with opcode `code` of every pair of elements, broadcast as NumPy does."""
    tx, ty = type(x), type(y)
    if tx is not Expression and tx in _NUMPY_SCALARS:
        x = x.item()
        tx = type(x)
    elif ty is not Expression and ty in _NUMPY_SCALARS:
        y = y.item()
        ty = type(y)
    if tx is Expression and (ty is float or ty is int):
        g = x.graph
        if _RIGHT_IDENTITY.get(code) == y:
            return x.copy()
        if type(x.ids) is int and y == y and not (y == 0 and code == _MUL):
            # a constant that was seen before, whole or not; 0.0 and -0.0 are one key of a dict
            seen = g.known.get(y) if y else None
            return Expression(g, g.node(code, x.ids, lift(g, y).ids if seen is None else seen))
    elif ty is Expression and (tx is float or tx is int):
        g = y.graph
        if _LEFT_IDENTITY.get(code) == x:
            return y.copy()
        if type(y.ids) is int and x == x and not (x == 0 and code == _MUL):
            seen = g.known.get(x) if x else None
            return Expression(g, g.node(code, lift(g, x).ids if seen is None else seen, y.ids))
    g = _need_graph(x, y)
    if code == _MUL and any(_multiplies_as_a_matrix(v) for v in (x, y)) and np.ndim(x) and np.ndim(y):
        return matmul(x, y)
    numbers = [v for v in (x, y) if not isinstance(v, (Expression, Constraint)) and graph_of(v) is None]
    x, y = lift(g, x), lift(g, y)
    try:
        a, b = np.broadcast_arrays(x.array_ids, y.array_ids)
    except ValueError:
        raise ShapeError(
            f"operands of {PRIMITIVES[code].name}",
            f"{x.shape} and {y.shape}",
            "shapes that broadcast together",
        ) from None
    out = g.nodes(code, a, b)
    if code == _MUL and numbers:
        factor = np.asarray(
            numbers[0].toarray() if hasattr(numbers[0], "toarray") else numbers[0], dtype=float
        )
        zero = np.broadcast_to(factor == 0.0, out.shape)
        if zero.any():
            out = np.where(zero, np.int32(g.constant(0.0)), out)
    return wrap(g, out)


def _multiplies_as_a_matrix(value: Any) -> bool:
    """Whether * of this operand is the matrix product: SciPy's `csr_matrix` and its like, not `csr_array`."""
    if not hasattr(value, "tocsr"):
        return False
    from scipy.sparse import isspmatrix

    return bool(isspmatrix(value))


def power(x: Any, y: Any) -> Expression:
    """x ** y. A constant exponent gets its own rules: 2, 1, 0, −1 and 1/2 exactly, others through `powc`."""
    if isinstance(y, Expression):
        return binary(_POWER, x, y)
    g = _need_graph(x)
    exponents = np.asarray(y)
    if exponents.ndim == 0 and exponents.dtype.kind in "fiub":
        exponent = float(exponents)
        x = lift(g, x)
        if exponent == 2.0:
            return unary(_SQUARE, x)
        if exponent == 1.0:
            return x.copy()
        if exponent == 0.5:
            return unary(_SQRT, x)
        if exponent == -1.0:
            return unary(_RECIPROCAL, x)
        if exponent == 0.0:
            return wrap(g, np.full(x.shape, g.constant(1.0), dtype=np.int32))
    return binary(_POWC, x, y)


def floor_divide(x: Any, y: Any) -> Expression:
    """x // y as Python and NumPy have it: by the remainder, where floor(x / y) may see x / y rounded up."""
    return unary(OPCODE["rint"], binary(_DIV, binary(_SUB, x, binary(OPCODE["mod"], x, y)), y))


def fmod(x: Any, y: Any) -> Expression:
    """The remainder with the sign of x, as C's fmod: that of |x| by |y|, exact as `mod` is."""
    size = abs(y)
    g = _need_graph(x, y)
    x = lift(g, x)
    return where(x < 0.0, -binary(OPCODE["mod"], -x, size), binary(OPCODE["mod"], x, size))


def logical_xor(x: Any, y: Any) -> Expression:
    """1 where one of both is not 0, but not the other."""
    g = _need_graph(x, y)
    return binary(_NOT_EQUAL, *(binary(_NOT_EQUAL, lift(g, v), 0.0) for v in (x, y)))


def _double(dtype: Any) -> None:
    if dtype is not None and np.dtype(dtype) != np.float64:
        raise ExpressionError(
            f"the option dtype={np.dtype(dtype)}",
            "expressions are real numbers in double precision.",
            "Leave it out.",
        )


def where(condition: Any, x: Any, y: Any) -> Expression:
    """x where the condition holds, y elsewhere; the branch not taken has no influence, nor has its nan."""
    if graph_of(condition) is None:
        g = _need_graph(x, y)
        chosen = np.where(np.asarray(condition, dtype=bool), lift(g, x).array_ids, lift(g, y).array_ids)
        return wrap(g, chosen)
    return binary(_ADD, binary(OPCODE["pick"], condition, x), binary(OPCODE["picknot"], condition, y))


# -- sums and products -----------------------------------------------------------------------------------
def _reduction(x: Expression, axis: Any, keepdims: bool) -> tuple[NDArray[np.int32], tuple[int, ...]]:
    """Node numbers as (results, reduced elements), and the shape of the result."""
    ids = x.array_ids
    if axis is None:
        axes = tuple(range(ids.ndim))
    else:
        axes = tuple(np.lib.array_utils.normalize_axis_tuple(axis, ids.ndim))
    kept = [k for k in range(ids.ndim) if k not in axes]
    count = int(np.prod([ids.shape[k] for k in axes], dtype=np.int64))
    results = int(np.prod([ids.shape[k] for k in kept], dtype=np.int64))
    flat = ids.transpose([*kept, *axes]).reshape(results, count)
    shape = (
        tuple(1 if k in axes else n for k, n in enumerate(ids.shape))
        if keepdims
        else tuple(ids.shape[k] for k in kept)
    )
    return flat, shape


def reduce_linear(x: Expression, axis: Any, keepdims: bool, mean: bool) -> Expression:
    """Sum or mean over axes: one LINEAR node per result."""
    flat, shape = _reduction(x, axis, keepdims)
    results, count = flat.shape
    if count == 1:
        return wrap(x.graph, flat.reshape(shape).copy())
    if mean and count == 0:
        raise ShapeError("mean", x.shape, "at least one element")
    coefs = np.full(flat.size, 1.0 / count if mean else 1.0)
    return wrap(x.graph, x.graph.linear(np.full(results, count), flat.ravel(), coefs).reshape(shape))


def reduce_tree(x: Expression, code: int, axis: Any, keepdims: bool, empty: float | None) -> Expression:
    """A balanced tree of a binary primitive over axes (depth log2 of the count)."""
    flat, shape = _reduction(x, axis, keepdims)
    g = x.graph
    if flat.shape[1] == 0:
        if empty is None:
            raise ShapeError(f"reduction by {PRIMITIVES[code].name}", x.shape, "at least one element")
        return wrap(g, np.full(shape, g.constant(empty), dtype=np.int32))
    flat = flat.copy()  # with one column it would be a view of x
    while flat.shape[1] > 1:
        half = flat.shape[1] // 2
        joined = g.nodes(code, flat[:, 0 : 2 * half : 2], flat[:, 1 : 2 * half : 2])
        flat = np.concatenate([joined, flat[:, 2 * half :]], axis=1)
    return wrap(g, flat.reshape(shape))


def accumulate(x: Expression, axis: int | None, code: int) -> Expression:
    """Running results of a binary primitive along an axis, or over all elements."""
    ids = x.array_ids.reshape(-1) if axis is None else np.moveaxis(x.array_ids, axis, 0)
    out = [ids[0]] if len(ids) else []
    for k in range(1, len(ids)):
        out.append(x.graph.nodes(code, np.asarray(out[-1]), np.asarray(ids[k])))
    stacked = np.array(out, dtype=np.int32).reshape(ids.shape)
    return wrap(x.graph, stacked if axis is None else np.moveaxis(stacked, 0, axis))


def scatter(code: int, x: Any, index: Any, values: Any) -> None:
    """x[index] (op)= values in place, once for every time that an element is named: `ufunc.at`."""
    if not isinstance(x, Expression):
        raise ExpressionError(
            f"numpy.{PRIMITIVES[code].ufuncs[0]}.at",
            "an array of numbers cannot hold expressions.",
            "Start from lg.zeros(shape) instead of np.zeros(shape).",
        )
    g = x.graph
    places = np.arange(x.size).reshape(x.shape)[_plain_index(index)]
    added = np.broadcast_to(lift(g, values).array_ids, places.shape).ravel()
    named, first = np.unique(places, return_inverse=True)
    ids = x.array_ids.ravel()
    new = ids[named]
    if code in (_ADD, _SUB):  # one sum for each element
        order = np.argsort(np.concatenate([np.arange(len(named)), first.ravel()]), kind="stable")
        signs = np.concatenate([np.ones(len(named)), np.full(added.size, 1.0 if code == _ADD else -1.0)])
        counts = np.bincount(first.ravel(), minlength=len(named)) + 1
        new = g.linear(counts, np.concatenate([new, added])[order], signs[order])
    else:
        for place, node in zip(first.ravel().tolist(), added.tolist(), strict=True):
            new[place] = g.node(code, int(new[place]), node)
    x[np.unravel_index(named, x.shape)] = Expression(g, new)


def vecdot(x: Any, y: Any, axis: int = -1) -> Expression:
    """Products summed over an axis, as `numpy.vecdot`."""
    return reduce_linear(binary(_MUL, x, y), axis, False, mean=False)


def matmul(x: Any, y: Any) -> Expression:
    """x @ y for dense, sparse and symbolic operands, as `numpy.matmul`; constant zeros make no dependency."""
    g = _need_graph(x, y)
    for operand in (x, y):
        if isinstance(operand, np.matrix):
            lift(g, operand)  # raises
    if hasattr(x, "tocsr") and isinstance(y, Expression) and y.ndim in (1, 2):
        return _constant_matmul(g, x.tocsr(), y)
    if hasattr(y, "tocsr") and isinstance(x, Expression) and x.ndim in (1, 2):
        return _constant_matmul(g, y.T.tocsr(), x.T if x.ndim == 2 else x).T
    if isinstance(y, Expression) and not isinstance(x, Expression) and graph_of(x) is None:
        matrix = np.asarray(x)
        if matrix.ndim == 2 and y.ndim in (1, 2):
            return _constant_matmul(g, _csr(matrix), y)
    if isinstance(x, Expression) and not isinstance(y, Expression) and graph_of(y) is None:
        matrix = np.asarray(y)
        if matrix.ndim == 2 and x.ndim in (1, 2):
            return _constant_matmul(g, _csr(matrix.T), x.T if x.ndim == 2 else x).T
    u = x if isinstance(x, Expression) else (np.asarray(x) if graph_of(x) is None else lift(g, x))
    w = y if isinstance(y, Expression) else (np.asarray(y) if graph_of(y) is None else lift(g, y))
    if u.ndim == 0 or w.ndim == 0:
        raise ShapeError(
            "operands of @", f"{u.shape} and {w.shape}", "at least one axis each", "Use * for scalars."
        )
    inner = w.shape[-2] if w.ndim > 1 else w.shape[0]
    if u.shape[-1] != inner:
        raise ShapeError("operands of @", f"{u.shape} and {w.shape}", "equal inner lengths")
    left = u[..., :, None] if u.ndim > 1 else u[:, None]
    right = w[:, None] if w.ndim == 1 else w[..., None, :, :] if u.ndim > 1 else w
    total = reduce_linear(binary(_MUL, left, right), -2, False, mean=False)
    return total[..., 0] if w.ndim == 1 else total


def dot(x: Any, y: Any) -> Any:
    """As `numpy.dot`: x * y where one is a scalar, else the sum over the last axis of x and the one before y's last."""
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return x * y
    if np.ndim(x) <= 2 and np.ndim(y) <= 2:
        return matmul(x, y)
    return np.tensordot(x, y, axes=(-1, -2 if np.ndim(y) > 1 else -1))


class _csr:
    """The nonzeros of a dense matrix row by row: what `_constant_matmul` reads of SciPy's interface."""

    def __init__(self, matrix: NDArray[Any]) -> None:
        if matrix.dtype.kind not in "fiub":
            raise ExpressionError("a matrix in @", "its elements must be real numbers.")
        rows, self.indices = np.nonzero(matrix)
        self.data = matrix[rows, self.indices].astype(np.float64)
        self.indptr = np.searchsorted(rows, np.arange(matrix.shape[0] + 1))
        self.shape = matrix.shape


def _constant_matmul(g: Graph, matrix: Any, y: Expression) -> Expression:
    """A @ y for constant A in CSR form: one LINEAR node per result, nonzeros only."""
    if matrix.shape[1] != y.shape[0]:
        raise ShapeError("operands of @", f"{matrix.shape} and {y.shape}", "equal inner lengths")
    data = np.asarray(matrix.data, dtype=np.float64)
    if np.isnan(data).any():
        raise ExpressionError("the constant nan", "a constant must be a number.")
    ids = y.array_ids.reshape(y.shape[0], y.shape[1] if y.ndim == 2 else 1)
    counts = np.diff(matrix.indptr)
    columns = [g.linear(counts, ids[matrix.indices, k], data) for k in range(ids.shape[1])]
    if not columns:
        return wrap(g, np.empty((matrix.shape[0], 0), dtype=np.int32))
    return wrap(g, columns[0] if y.ndim == 1 else np.stack(columns, axis=1))


def is_constant(x: Expression) -> bool:
    """Whether every element is a constant node."""
    code = np.frombuffer(x.graph.code, dtype=np.int16)
    return bool((code[x.array_ids.ravel()] == CONSTANT).all())


_SPECIAL_UFUNCS: dict[str, Callable[..., Any]] = {
    "power": power,
    "float_power": power,
    "matmul": matmul,
    "equal": lambda x, y: Constraint(*(lift(_need_graph(x, y), v) for v in (x, y))),
    "greater": lambda x, y: binary(_LESS, y, x),
    "greater_equal": lambda x, y: binary(_LESS_EQUAL, y, x),
    "positive": lambda x: x.copy(),
    "fmax": lambda x, y: binary(OPCODE["maximum"], x, y),
    "fmin": lambda x, y: binary(OPCODE["minimum"], x, y),
    "divmod": lambda x, y: (floor_divide(x, y), binary(OPCODE["mod"], x, y)),
    "floor_divide": floor_divide,
    "bitwise_and": lambda x, y: binary(OPCODE["logical_and"], x, y),
    "bitwise_or": lambda x, y: binary(OPCODE["logical_or"], x, y),
    "invert": lambda x: unary(OPCODE["logical_not"], x),
    "deg2rad": lambda x: x * (np.pi / 180.0),
    "radians": lambda x: x * (np.pi / 180.0),
    "rad2deg": lambda x: x * (180.0 / np.pi),
    "degrees": lambda x: x * (180.0 / np.pi),
    "logical_xor": lambda x, y: logical_xor(x, y),
    "bitwise_xor": lambda x, y: logical_xor(x, y),
    "conjugate": lambda x: x.copy(),
    "fmod": lambda x, y: fmod(x, y),
    "heaviside": lambda x, y: where(x < 0.0, 0.0, where(x > 0.0, 1.0, y)),
    "vecdot": lambda x, y: vecdot(x, y),
    "matvec": lambda x, y: matmul(x, y[..., None])[..., 0],
    "vecmat": lambda x, y: matmul(x[..., None, :], y)[..., 0, :],
}
_BY_UFUNC: dict[Any, int] = {
    getattr(np, name): code
    for name, code in _UFUNCS.items()
    if name not in _SPECIAL_UFUNCS and isinstance(getattr(np, name, None), np.ufunc)
}
_REDUCTIONS = {
    "add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min", "fmax": "max", "fmin": "min",
    "logical_or": "any", "logical_and": "all",
}  # fmt: skip
