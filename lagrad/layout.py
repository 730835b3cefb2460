"""Layout: everything about a program that no number changes. Names, blocks, machine, patterns.

Takes the pieces that `system.build` computed, gives positions for names and names for positions. Frozen;
shared by every System, Solution and Linearization of the program. Solves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lagrad.assembly.machine import Machine, alike_blocks
from lagrad.assembly.nearby import reach
from lagrad.errors import DeclarationError, ShapeError, UnknownNameError
from lagrad.expr.expression import Expression
from lagrad.expr.graph import PARAMETER, STATE, Graph
from lagrad.expr.text import hidden_name
from lagrad.linalg.blocks import BlockPattern
from lagrad.numbers import by_name as by_name
from lagrad.numbers import numbers as numbers
from lagrad.program import Declared, Registry

if TYPE_CHECKING:
    from lagrad.assembly.flat import FlatCode

Floats = NDArray[np.float64]
Index = NDArray[np.int32]

WORK = 2e8  # operations between two stops of compiled code


@dataclass(frozen=True, eq=False, repr=False)
class Names:
    """What a program declared when it was built: n_states states, n_parameters parameters, their names and places."""

    name: str
    graph: Graph
    parameters: Registry
    states: Registry
    constraints: Registry
    n_parameters: int
    n_states: int  # declared and defined states; hidden ones come after
    n_constraints: int  # declared constraints and definitions

    # -- positions of names ------------------------------------------------------------------------------
    def parameter_items(self) -> Iterable[Declared]:
        """The parameters of the program when it was built."""
        return (i for i in self.parameters.items if i.start + i.size <= self.n_parameters)

    def state_items(self) -> Iterable[Declared]:
        """The states and definitions of the program when it was built."""
        return (i for i in self.states.items if i.start + i.size <= self.n_states)

    def constraint_items(self) -> Iterable[Declared]:
        """The constraints and definitions of the program when it was built."""
        return (i for i in self.constraints.items if i.start + i.size <= self.n_constraints)

    def find(
        self, registry: Registry, count: int, name: Any, role: str
    ) -> tuple[NDArray[np.int64], tuple[int, ...]]:
        """Scalar indices and shape of "name" or "name[1,2]"."""
        item = registry.by_name.get(name) if isinstance(name, str) else None
        if item is not None and item.start + item.size <= count:
            return np.arange(item.start, item.start + item.size), item.shape
        if isinstance(name, str) and name.endswith("]") and "[" in name:
            base, _, inside = name[:-1].rpartition("[")  # the name itself may be "w[0]", of a traced function
            item = registry.by_name.get(base)
            if item is not None and item.start + item.size <= count:
                try:
                    index = tuple(int(k) for k in inside.split(","))
                    if len(index) != len(item.shape):
                        raise ValueError
                    offset = np.arange(item.size).reshape(item.shape)[index]
                except (ValueError, IndexError):
                    raise ShapeError(name, f"index [{inside}]", f"an index into {item.shape}") from None
                return np.array([item.start + int(offset)]), ()
        known = [i.name for i in registry.items if i.start + i.size <= count]
        raise UnknownNameError(name if isinstance(name, str) else repr(name), role, known)

    def find_parameter(self, name: Any) -> tuple[NDArray[np.int64], tuple[int, ...]]:
        """Positions in p and shape of a parameter or some of its elements, by name or as the Program gave it."""
        if isinstance(name, Expression):
            return self._leaves(name, PARAMETER, self.n_parameters, "parameters"), name.shape
        return self.find(self.parameters, self.n_parameters, name, "parameter")

    def find_state(self, name: Any) -> tuple[NDArray[np.int64], tuple[int, ...]]:
        """Scalar indices, in order of declaration, and shape of a state, a definition or some of their elements.

        By name ("y", "y[2]") or as the expression that the Program gave for it (y, y[2], y[1:]).
        """
        if isinstance(name, Expression):
            return self._leaves(name, STATE, self.n_states, "states and definitions"), name.shape
        return self.find(self.states, self.n_states, name, "state or definition")

    def _leaves(self, x: Expression, code: int, count: int, role: str) -> NDArray[np.int64]:
        """Scalar indices of the leaves that `x` is an array of."""
        ids, graph = x.array_ids.ravel().tolist(), self.graph
        if x.graph is not graph or any(graph.code[i] != code for i in ids):
            raise DeclarationError(
                "an expression in place of a name",
                f"it must be made of this program's {role}.",
                "Name it before building: program.define('name', expression).",
            )
        index = np.array([graph.a[i] for i in ids], dtype=np.int64)
        if index.size and int(index.max()) >= count:
            raise DeclarationError(
                "an expression in place of a name",
                "it was declared after the System was built.",
                "Build again.",
            )
        return index


@dataclass(frozen=True, eq=False, repr=False)
class Layout(Names):
    """n states and rows in block order (hidden ones included), m parameters; v = [p, u]."""

    hidden: Index  # graph node of each hidden state
    machine: Machine
    ptr: Index  # (n_blocks+1,) positions of each block
    kind: NDArray[np.int8]  # (n_blocks,)
    pattern: BlockPattern
    values: Floats  # (m,) declared parameter values, nan where there is none
    guess: Floats  # (n,) in block order; 1 for definitions and hidden states
    scale: Floats  # (n,) typical sizes of the states
    lower: Floats  # (n,), or empty where no state has a bound
    upper: Floats
    largest_small: int  # size of the largest block solved inside compiled sweeps
    opening_ptr: Index  # (n_blocks+1,) into opening
    opening: (
        Index  # rows that define states of non-explicit blocks, by block of the state, in order of evaluation
    )

    @property
    def n(self) -> int:
        """States and rows, hidden ones included."""
        return self.machine.n

    @property
    def m(self) -> int:
        """Scalar parameters."""
        return self.machine.m

    @cached_property
    def flat(self) -> FlatCode | None:
        """The whole program as flat code, made when first asked for; None where a block is not explicit."""
        if self.kind.size == 0 or self.kind.any():
            return None
        from lagrad.assembly.flat import flatten

        return flatten(self.machine, 0, self.n)

    @cached_property
    def reach(self) -> Floats:
        """`assembly.nearby.reach` of the machine."""
        return reach(self.machine, np.repeat(self.kind != 0, np.diff(self.ptr)))

    @cached_property
    def alike(self) -> Index:
        """(n_blocks,) of each block the end of the run of blocks that are solved together: `machine.alike_blocks`."""
        until = np.arange(1, self.kind.size + 1, dtype=np.int32)
        if self.kind.any():
            alike_blocks(
                self.ptr, self.kind, self.machine.tapes, self.machine.terms, self.machine.rows, until
            )
        return until

    @cached_property
    def together(self) -> bool:
        """Whether there is such a run."""
        return bool((self.alike != np.arange(1, self.kind.size + 1)).any())

    # -- which states depend on which -----------------------------------------------------------------------
    def computed_from(
        self, positions: NDArray[Any], entries: NDArray[np.bool_] | None = None
    ) -> NDArray[np.bool_]:
        """(n,) the states that those at `positions` are computed from, through any number of rows; with themselves.

        `entries`: those of R_u that count, by default all.
        """
        return _reached(self._uses(entries), positions)

    def used_by(self, positions: NDArray[Any]) -> NDArray[np.bool_]:
        """(n,) the states that are computed from those at `positions`, through any number of rows; with themselves."""
        return _reached(self._uses(None).T.tocsr(), positions)

    def _uses(self, entries: NDArray[np.bool_] | None) -> Any:
        """The incidence of rows and states, all ones; one more row and column, which are empty."""
        import scipy.sparse as sp

        n, rows = self.n, self.machine.rows
        indptr, indices = np.append(rows.a_ptr, rows.a_ptr[-1]), rows.a_col
        if entries is not None:
            indptr, indices = np.append(0, np.cumsum(entries))[indptr], indices[entries]
        return sp.csr_array((np.ones(indices.size, np.int8), indices, indptr), shape=(n + 1, n + 1))

    @cached_property
    def needed(self) -> NDArray[np.bool_]:
        """(n,) the states that a constraint needs; the others are definitions that no constraint uses."""
        declared = np.zeros(self.n, np.bool_)
        for item in self.constraint_items():
            declared[item.start : item.start + item.size] = not item.defined
        solved = np.repeat(self.kind != 0, np.diff(self.ptr))
        return self.computed_from(np.flatnonzero(declared[self.machine.row_order] | solved))

    # -- names of positions ---------------------------------------------------------------------------------
    def state_name(self, position: int) -> str:
        """The user's name of the state at a position in block order."""
        j = int(self.machine.col_order[position])
        return self.states.scalar_name(j) if j < self.n_states else self._hidden_name(j - self.n_states)

    def row_name(self, position: int) -> str:
        """The user's name of the constraint at a position in block order."""
        i = int(self.machine.row_order[position])
        return (
            self.constraints.scalar_name(i)
            if i < self.n_constraints
            else self._hidden_name(i - self.n_constraints)
        )

    def _hidden_name(self, h: int) -> str:
        return f"‹{hidden_name(self.graph, int(self.hidden[h]))}›"

    @cached_property
    def hidden_names(self) -> list[str]:
        """Names of the states that lagrad introduced, in order of evaluation, no two the same."""
        seen = Counter(i.name for r in (self.parameters, self.states, self.constraints) for i in r.items)
        out = []
        for node in self.hidden.tolist():
            name = hidden_name(self.graph, node)
            seen[name] += 1
            while seen[name] > 1:
                name = f"{name}#{seen[name]}"
                seen[name] += 1
            out.append(name)
        return out

    @cached_property
    def stops(self) -> NDArray[np.int64]:
        """Blocks, ascending, up to which compiled code solves without a look at the clock; the last is their number.

        By the operations of ten Newton iterations in each block: `WORK` of them are about 0.2 s.
        """
        size = np.diff(self.ptr).astype(np.float64)
        done = np.cumsum(np.where(self.kind == 0, 10.0, np.minimum(10.0 * size * (size**2 + 100.0), WORK)))
        steps = np.arange(1, int(done[-1] // WORK) + 1 if done.size else 1) * WORK
        return np.unique(np.append(np.searchsorted(done, steps) + 1, size.size).clip(max=size.size))

    def block_names(self, block: int, limit: int = 50) -> tuple[list[str], list[str]]:
        """(constraints, states) of a block by name; the user's own before hidden ones."""
        lo, hi = int(self.ptr[block]), int(self.ptr[block + 1])
        rows = range(lo, min(hi, lo + limit))
        constraints = [self.row_name(k) for k in rows]
        states = [self.state_name(k) for k in rows]
        for names in (constraints, states):
            names.sort(key=lambda s: s.startswith("‹"))
        if hi - lo > limit:
            for names in (constraints, states):
                names.extend(["…"] * (hi - lo - limit))
        return constraints, states

    def is_hidden(self, position: int) -> bool:
        """Whether the state at a position is one that lagrad introduced."""
        return bool(self.machine.col_order[position] >= self.n_states)

    # -- positions of names ------------------------------------------------------------------------------
    def find_output(self, name: Any) -> tuple[NDArray[Any], tuple[int, ...]]:
        """Positions in u (block order) and shape of a state, a definition or some of their elements.

        By name ("y", "y[2]") or as the expression that the Program gave for it (y, y[2], y[1:]).
        """
        index, shape = self.find_state(name)
        return self.machine.col_position[index], shape

    def find_value(self, name: Any) -> tuple[NDArray[Any], tuple[int, ...]]:
        """Positions in v and shape of a parameter, a state or a definition, or of some of their elements."""
        known = self.parameters.by_name
        if isinstance(name, Expression):
            ids = name.array_ids.ravel()
            parameter = bool(ids.size) and self.graph.code[int(ids[0])] == PARAMETER
        else:
            parameter = isinstance(name, str) and (name in known or name.rpartition("[")[0] in known)
        if parameter:
            return self.find_parameter(name)
        position, shape = self.find_output(name)
        return self.m + position, shape

    # -- numbers in --------------------------------------------------------------------------------------
    def parameter_vector(self, given: Mapping[str, ArrayLike] | None) -> Floats:
        """p (m,): declared values, overridden by `given`. Raises for unknown names, wrong shapes, nan."""
        p = self.values.copy()
        for name, value in by_name("parameters", given or {}):
            index, shape = self.find_parameter(name)
            p[index] = numbers(name, value, shape).ravel()
        if np.isnan(p).any():
            item = self.parameters.owner(int(np.flatnonzero(np.isnan(p))[0]))
            raise DeclarationError(
                item.name, "this parameter has no value.", f"Give one: solve({{{item.name!r}: ...}})."
            )
        return p

    def direction(self, given: Mapping[str, ArrayLike]) -> Floats:
        """A direction ṗ (m,), zero where not given."""
        out = np.zeros(self.m)
        for name, value in by_name("a direction", given):
            index, shape = self.find_parameter(name)
            out[index] = numbers(name, value, shape).ravel()
        return out

    def split_parameters(self, p: Floats, names: Sequence[str] | None = None) -> dict[str, Any]:
        """An array over parameters, (m,) or (m, …), as {name: array}."""
        if names is None:
            return {
                i.name: p[i.start : i.start + i.size].reshape(i.shape)[()] for i in self.parameter_items()
            }
        found = {name: self.find_parameter(name) for name in names}
        return {name: p[index].reshape(shape)[()] for name, (index, shape) in found.items()}

    def split_states(self, u: Floats) -> dict[str, Any]:
        """An array over states in block order as {name: array}, with definitions, without hidden ones."""
        declared = u[self.machine.col_position[: self.n_states]]
        return {i.name: declared[i.start : i.start + i.size].reshape(i.shape)[()] for i in self.state_items()}

    def split_rows(self, x: Floats, hidden: bool = False) -> dict[str, Any]:
        """An array over rows in block order as {constraint: array}, hidden ones left out unless asked for."""
        declared = x[self.machine.row_position[: self.n_constraints]]
        out = {
            i.name: declared[i.start : i.start + i.size].reshape(i.shape)[()] for i in self.constraint_items()
        }
        if hidden:
            out.update(
                zip(self.hidden_names, x[self.machine.row_position[self.n_constraints :]], strict=True)
            )
        return out

    def split_hidden(self, u: Floats) -> dict[str, Any]:
        """An array over states in block order as {hidden state: number}."""
        return dict(zip(self.hidden_names, u[self.machine.col_position[self.n_states :]], strict=True))


def _reached(graph: Any, start: NDArray[Any]) -> NDArray[np.bool_]:
    """Which nodes are reached from any of `start`; the graph's last node is free to lead to all of them."""
    import scipy.sparse as sp

    last = graph.shape[0] - 1
    indptr = graph.indptr.copy()
    indptr[-1] += start.size
    indices = np.append(graph.indices, start)
    graph = sp.csr_array((np.ones(indices.size, np.int8), indices, indptr), shape=graph.shape)
    out = np.zeros(last + 1, np.bool_)
    out[sp.csgraph.breadth_first_order(graph, last, return_predecessors=False)] = True
    return out[:last]


def several(names: Any) -> list[Any]:
    """A list of names; one alone, a name or an expression, is a list of one."""
    return [names] if isinstance(names, (str, Expression)) else list(names)
