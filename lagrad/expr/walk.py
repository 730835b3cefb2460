"""Walking an expression graph from the leaves up, without recursion. Knows nothing of what is made there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from lagrad.expr.graph import LINEAR, STATE, Graph
from lagrad.expr.primitives import OPCODE, PRIMITIVES

T = TypeVar("T")

_ADD, _PICK, _PICKNOT = OPCODE["add"], OPCODE["pick"], OPCODE["picknot"]


def operands(graph: Graph, node: int) -> list[int]:
    """The nodes that a node is computed from; none for a leaf."""
    code, a, b = graph.code[node], graph.a[node], graph.b[node]
    if code == LINEAR:
        return list(graph.args[a : a + b])
    if code < 0:
        return []
    return [a] if PRIMITIVES[code].arity == 1 else [a, b]


def fold(graph: Graph, root: int, make: Callable[[int, Mapping[int, T]], T]) -> T:
    """make(node, values of nodes below it) for every node that `root` needs, once each; that of `root`."""
    values: dict[int, T] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        if node in values:
            stack.pop()
            continue
        missing = [k for k in operands(graph, node) if k not in values]
        if missing:
            stack.extend(reversed(missing))
        else:
            stack.pop()
            values[node] = make(node, values)
    return values[root]


def written_size(graph: Graph, root: int) -> int:
    """Operations and leaves of `root` written out, where a value that is used twice is written twice."""
    return fold(graph, root, lambda node, sizes: 1 + sum(sizes[k] for k in operands(graph, node)))


def leaves(graph: Graph, root: int, code: int) -> list[int]:
    """The scalar indices of the leaves with this code that `root` needs, ascending."""
    found: set[int] = set()

    def note(node: int, _: Mapping[int, None]) -> None:
        if graph.code[node] == code:
            found.add(graph.a[node])

    fold(graph, root, note)
    return sorted(found)


def shared(graph: Graph, lhs: Sequence[int], rhs: Sequence[int]) -> list[int]:
    """The operations that the constraints lhs[i] == rhs[i] use twice or more, in order of evaluation."""
    uses: dict[int, int] = {}
    for pair in zip(lhs, rhs, strict=True):
        bare = next((side for side in (0, 1) if graph.code[pair[side]] == STATE), -1)
        for side in (0, 1):
            if side != bare:
                uses[pair[side]] = uses.get(pair[side], 0) + 1
    stack, seen = list(uses), set(uses)
    while stack:
        for k in operands(graph, stack.pop()):
            uses[k] = uses.get(k, 0) + 1
            if k not in seen:
                seen.add(k)
                stack.append(k)
    return sorted(
        k for k, count in uses.items() if count > 1 and (graph.code[k] >= 0 or graph.code[k] == LINEAR)
    )


def branches(graph: Graph, node: int) -> tuple[int, int, int] | None:
    """(condition, x, y) of a node that is where(condition, x, y): pick and picknot of a condition, added."""
    if graph.code[node] != _ADD:
        return None
    first, second = graph.a[node], graph.b[node]
    if graph.code[first] != _PICK or graph.code[second] != _PICKNOT or graph.a[first] != graph.a[second]:
        return None
    return graph.a[first], graph.b[first], graph.b[second]
