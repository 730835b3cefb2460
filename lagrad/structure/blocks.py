"""Block lower triangular form: the order in which a system is solved.

Takes a square, perfectly matched incidence; gives the rows and columns in an order in which every block
uses columns of itself and of earlier blocks only. The blocks are the strongly connected components of the
graph in which a row points to the rows that determine the columns it mentions; they depend on the incidence
alone, not on which perfect matching was found. Knows no names and no numbers.

Method: Duff and Reid, ACM Transactions on Mathematical Software 4 (1978) 137–147: Tarjan's components,
which come out in the order wanted, without recursion.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import allocating
from lagrad.structure.incidence import Index
from lagrad.structure.matching import Matching

EXPLICIT = 0  # 1×1, the row is u = f(…) with u its column, and f does not mention u: an assignment
IMPLICIT = 1  # 1×1 otherwise: one equation in one unknown
CYCLIC = 2  # larger: rows that determine each other


@dataclass(frozen=True, eq=False)
class Blocks:
    """A block lower triangular order of a square system of n rows and columns, in n_blocks blocks.

    `row_order`, `col_order` (n,): positions in the order to rows and columns; row `row_order[k]` is matched
    with column `col_order[k]`. `ptr` (n_blocks+1,): block b is the positions `ptr[b]:ptr[b+1]`, its rows
    ascending. `kind` (n_blocks,) int8: EXPLICIT, IMPLICIT or CYCLIC.
    """

    row_order: Index
    col_order: Index
    ptr: Index
    kind: NDArray[np.int8]

    def __len__(self) -> int:
        return self.kind.size

    @cached_property
    def size(self) -> Index:
        """How many rows each block has, (n_blocks,)."""
        return np.diff(self.ptr)

    @cached_property
    def block_of_row(self) -> Index:
        """The block that each row is in, (n,)."""
        return self._block_of(self.row_order)

    @cached_property
    def block_of_col(self) -> Index:
        """The block that each column is in, (n,)."""
        return self._block_of(self.col_order)

    def _block_of(self, order: Index) -> Index:
        block = np.empty(order.size, np.int32)
        block[order] = np.repeat(np.arange(len(self), dtype=np.int32), self.size)
        return block


def block_triangular(
    n: int, indptr: Index, indices: Index, preferred: Index, matching: Matching, self_use: NDArray[np.bool_]
) -> Blocks:
    """Order a square system of n rows block by block; `matching` must be perfect. Linear time.

    `preferred` (n,): the column of which a row is the explicit definition, or -1; `self_use` (n,): whether
    that definition mentions the column itself (u = f(u, …)). A system declared in triangular order keeps it.
    """
    row_order, ptr = components(n, indptr, indices, matching.col_match)
    col_order = matching.row_match[row_order]
    kind = np.full(ptr.size - 1, CYCLIC, np.int8)
    single = np.diff(ptr) == 1
    row = row_order[ptr[:-1][single]]
    explicit = (preferred[row] == matching.row_match[row]) & ~self_use[row]
    kind[single] = np.where(explicit, EXPLICIT, IMPLICIT)
    return Blocks(row_order, col_order, ptr, kind)


@allocating
def components(n: int, indptr: Index, indices: Index, col_match: Index) -> tuple[Index, Index]:
    """Strongly connected components: row_order (n,), and ptr (n_blocks + 1,) where each begins in it.

    indptr (n + 1,), indices: an incidence; col_match (n,): the row that determines each column.
    """
    # low[i]: 0 until i is visited; while its component is open, the smallest number of a visit that it is
    # known to reach; then n+1, which no minimum notices. A component is closed at its root, after all those
    # that it uses.
    low = np.zeros(n, np.int32)
    is_root = np.ones(n, np.bool_)
    cursor = np.empty(n, np.int32)  # next entry to follow from each row on the path
    path = np.empty(n, np.int32)
    open_rows = np.empty(n, np.int32)  # visited rows of components not yet closed, in order of visit
    block = np.empty(n, np.int32)
    ptr = np.zeros(n + 1, np.int32)
    n_blocks = 0
    n_visited = 0
    n_open = 0
    for start in range(n):
        if low[start] != 0:
            continue
        depth = 0
        path[0] = start
        cursor[start] = indptr[start]
        n_visited += 1
        low[start] = n_visited
        open_rows[n_open] = start
        n_open += 1
        while depth >= 0:
            i = path[depth]
            e = cursor[i]
            end = indptr[i + 1]
            unvisited = -1
            while e < end and unvisited < 0:
                j = col_match[indices[e]]
                e += 1
                if low[j] == 0:
                    unvisited = j
                elif low[j] < low[i]:
                    low[i] = low[j]
                    is_root[i] = False
            cursor[i] = e
            if unvisited >= 0:
                depth += 1
                path[depth] = unvisited
                cursor[unvisited] = indptr[unvisited]
                n_visited += 1
                low[unvisited] = n_visited
                open_rows[n_open] = unvisited
                n_open += 1
                continue
            if is_root[i]:
                while True:
                    n_open -= 1
                    j = open_rows[n_open]
                    low[j] = n + 1
                    block[j] = n_blocks
                    ptr[n_blocks + 1] += 1
                    if j == i:
                        break
                n_blocks += 1
            depth -= 1
            if depth >= 0 and low[i] < low[path[depth]]:
                low[path[depth]] = low[i]
                is_root[path[depth]] = False

    # Counting sort by block, so that the rows of a block come out ascending.
    for b in range(n_blocks):
        ptr[b + 1] += ptr[b]
    place = ptr[:n_blocks].copy()
    row_order = np.empty(n, np.int32)
    for i in range(n):
        row_order[place[block[i]]] = i
        place[block[i]] += 1
    return row_order, ptr[: n_blocks + 1].copy()
