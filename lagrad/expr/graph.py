"""The expression graph: one flat, append-only list of scalar nodes.

Takes operation codes and operand numbers, gives node numbers. A node's operands have smaller numbers, so the
order of creation is a topological order and no walk needs recursion. Arrays are arrays of node numbers;
indexing, reshaping and stacking are therefore NumPy's own. Knows no names, no matrices and no values of
states.

Node codes: code >= 0 is the opcode of a primitive (`primitives.PRIMITIVES[code]`) with operands a and b (b =
a for unary ones); negative codes are the leaves and the one node of variable fan-in:

    CONSTANT   a = index into `values`
    PARAMETER  a = scalar index of the parameter
    STATE      a = scalar index of the state
    LINEAR     sum over t in [a, a + b) of coefs[t] * args[t]
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

CONSTANT = -1
PARAMETER = -2
STATE = -3
LINEAR = -4


class Watch(Protocol):
    """Whoever wants to know, node by node, what is being made: see `Graph.watch`."""

    def made(self, code: int, first: int) -> None:
        """Nodes first, first + 1, … with this code, of one operation, are about to be made."""

    def stored(self, array: Any, key: Any) -> None:
        """array[key] = … was written into the expression `array`."""

    def repeated(self, first: int, nodes: Ids, steps: int) -> None:
        """From node `first` on, `nodes` (k,) are about to be repeated, all of them once for each step."""


class _Closed:
    """The watch of a graph that takes no more nodes: raises what `error` makes."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self.error = error

    def made(self, code: int, first: int) -> None:
        raise self.error()

    def stored(self, array: Any, key: Any) -> None:
        raise self.error()

    def repeated(self, first: int, nodes: Ids, steps: int) -> None:
        raise self.error()


class Graph:
    """Nodes of one program. Append-only; node numbers never change."""

    __slots__ = (
        "a", "args", "b", "code", "coefs", "inner", "known", "names", "outer", "traced", "values", "watch",
    )  # fmt: skip

    def __init__(self) -> None:
        #: told of every new node: watch.made(code, first); None almost always
        self.watch: Watch | None = None
        self.code = array("h")
        self.a = array("i")
        self.b = array("i")
        self.values = array("d")
        self.args = array("i")
        self.coefs = array("d")
        self.known: dict[
            float | str, int
        ] = {}  # constants seen in scalar arithmetic, by value; zeros by sign
        #: whoever can name leaves, for printing: has .parameter_name(i), .state_name(i)
        self.names: Any = None
        #: whether a Python function is being traced into it, where expressions stand for numbers
        self.traced = False
        #: while a step is traced that will be repeated: the graph of its expressions, over the same nodes; see `opened`
        self.inner: Graph | None = None
        self.outer: Graph | None = None

    def __len__(self) -> int:
        return len(self.code)

    # -- one node ---------------------------------------------------------------------------------------
    def node(self, code: int, a: int, b: int) -> int:
        """Append one node and return its number."""
        made = len(self.code)
        if self.watch is not None:
            self.watch.made(code, made)
        self.code.append(code)
        self.a.append(a)
        self.b.append(b)
        return made

    def constant(self, value: float) -> int:
        """The node of a constant; equal constants share one node (0.0 and -0.0 are kept apart)."""
        found = self.known.get(value)
        if found is not None and value != 0.0:
            return found
        if value == 0.0:
            key = "-0" if str(value)[0] == "-" else "0"
            found = self.known.get(key)
            if found is not None:
                return found
            made = self._constant(value)
            self.known[key] = made
            return made
        made = self._constant(value)
        self.known[value] = made
        return made

    def _constant(self, value: float) -> int:
        self.values.append(value)
        return self.node(CONSTANT, len(self.values) - 1, 0)

    # -- many nodes at once -------------------------------------------------------------------------------
    def nodes(self, code: int, a: NDArray[Any], b: NDArray[Any]) -> Ids:
        """Append a node per element (a and b of one shape) and return the node numbers in that shape."""
        first = len(self.code)
        count = a.size
        if self.watch is not None:
            self.watch.made(code, first)
        self.code.frombytes(np.full(count, code, dtype=np.int16).tobytes())
        self.a.frombytes(np.ascontiguousarray(a, dtype=np.int32).tobytes())
        self.b.frombytes(np.ascontiguousarray(b, dtype=np.int32).tobytes())
        return np.arange(first, first + count, dtype=np.int32).reshape(a.shape)

    def constants(self, values: NDArray[np.float64]) -> Ids:
        """A constant node per element."""
        first = len(self.values)
        self.values.frombytes(np.ascontiguousarray(values, dtype=np.float64).tobytes())
        index = np.arange(first, first + values.size, dtype=np.int32).reshape(values.shape)
        return self.nodes(CONSTANT, index, np.zeros_like(index))

    def linear(self, counts: NDArray[Any], args: NDArray[Any], coefs: NDArray[np.float64]) -> Ids:
        """A LINEAR node per entry of `counts` (k,): consecutive runs of `args`, `coefs` (sum of counts,)."""
        start = len(self.args)
        self.args.frombytes(np.ascontiguousarray(args, dtype=np.int32).tobytes())
        self.coefs.frombytes(np.ascontiguousarray(coefs, dtype=np.float64).tobytes())
        counts = np.asarray(counts, dtype=np.int64)
        first = start + np.concatenate(([0], np.cumsum(counts[:-1]))) if counts.size else counts
        return self.nodes(LINEAR, np.asarray(first, dtype=np.int32), counts.astype(np.int32))

    def repeat(
        self, code: NDArray[Any], a: NDArray[Any], b: NDArray[Any], args: NDArray[Any], coefs: NDArray[Any],
        nodes: Ids, steps: int,
    ) -> None:  # fmt: skip
        """Append nodes (steps, k) that repeat `nodes` (k,), step by step, and operands and coefficients of sums."""
        if self.watch is not None:
            self.watch.repeated(len(self.code), nodes, steps)
        parts = (self.code, code, np.int16), (self.a, a, np.int32), (self.b, b, np.int32)
        for own, new, kind in (*parts, (self.args, args, np.int32), (self.coefs, coefs, np.float64)):
            if new.size:
                own.frombytes(np.ascontiguousarray(new, dtype=kind).data.cast("B"))

    def opened(self) -> Graph:
        """A graph over the same nodes, for expressions that mean one step of many until `close` ends it.

        They may be computed with expressions of this graph, and the result is one of the step's.
        """
        new = Graph()
        for name in ("a", "args", "b", "code", "coefs", "known", "names", "traced", "values", "watch"):
            setattr(new, name, getattr(self, name))
        new.outer, self.inner = self, new
        return new

    def close(self, error: Callable[[], Exception]) -> None:
        """End a graph that was `opened`; using an expression of it raises `error()` from now on."""
        assert self.outer is not None
        self.outer.inner, self.outer = None, None
        self.watch = _Closed(error)

    def is_inside(self, other: Graph) -> bool:
        """Whether `other` is the graph that this one was opened in, or one around that."""
        around = self.outer
        while around is not None and around is not other:
            around = around.outer
        return around is not None

    def handed_over(self, error: Callable[[], Exception]) -> Graph:
        """The same nodes as a graph of its own; making another node in this one raises `error()` from now on.

        Expressions that were made before belong to this one: whoever kept one cannot compute with it.
        """
        new = Graph()
        for name in ("a", "args", "b", "code", "coefs", "known", "names", "values"):
            setattr(new, name, getattr(self, name))
        self.watch = _Closed(error)
        return new

    @property
    def closed(self) -> Exception | None:
        """What using an expression of this graph raises, if it was handed over."""
        return self.watch.error() if isinstance(self.watch, _Closed) else None

    @property
    def extent(self) -> tuple[int, int, int]:
        """How many nodes, values of constants and operands of sums there are: what `arrays` gives of this graph now."""
        return len(self.code), len(self.values), len(self.args)

    def arrays(self, extent: tuple[int, int, int] | None = None) -> tuple[NDArray[Any], ...]:
        """(code, a, b, values, args, coefs) as NumPy arrays; copies, so that the graph can grow on.

        Of the graph as it was when it had this extent.
        """
        return tuple(part.copy() for part in self.views(extent))

    def views(self, extent: tuple[int, int, int] | None = None) -> tuple[NDArray[Any], ...]:
        """What `arrays` copies. The graph cannot grow for as long as one of these is held."""
        nodes, values, args = self.extent if extent is None else extent
        return (
            np.frombuffer(self.code, np.int16)[:nodes],
            np.frombuffer(self.a, np.int32)[:nodes],
            np.frombuffer(self.b, np.int32)[:nodes],
            np.frombuffer(self.values, np.float64)[:values],
            np.frombuffer(self.args, np.int32)[:args],
            np.frombuffer(self.coefs, np.float64)[:args],
        )
