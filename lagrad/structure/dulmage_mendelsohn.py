"""The coarse Dulmage–Mendelsohn decomposition: where there are too many constraints, and where too few.

Takes an incidence and a maximum matching; gives three parts and their connected pieces. The parts depend on
the incidence alone, not on which maximum matching was found. Knows nothing of names, hence of advice.

    over-determined   rows that some maximum matching leaves out, and their columns: more rows than columns
    under-determined  columns that some maximum matching leaves out, and their rows: more columns than rows
    well-determined   the rest: as many rows as columns, perfectly matched

An over-determined row has over-determined columns only, a well-determined row no under-determined column:
with the parts in the order under, well, over the incidence is block upper triangular.

Method: Pothen and Fan, ACM Transactions on Mathematical Software 16 (1990) 303–324.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import allocating, kernel
from lagrad.structure.incidence import Index, transpose
from lagrad.structure.matching import Matching

Mask = NDArray[np.bool_]
Part = Literal["over", "well", "under"]


class Piece(NamedTuple):
    """A connected piece of a part: its rows and its columns, each ascending; either may be empty."""

    rows: Index
    cols: Index


@dataclass(frozen=True, eq=False)
class DulmageMendelsohn:
    """The coarse parts of an incidence; every array is int32 and ascending.

    `over_rows`, `over_cols`, `well_rows`, `well_cols`, `under_rows`, `under_cols`: the parts.
    `unmatched_rows` (all over-determined) and `unmatched_cols` (all under-determined): what the matching
    left out. The incidence determines how many these are in each piece; which of the piece's they are, the
    matching chose.
    """

    over_rows: Index
    over_cols: Index
    well_rows: Index
    well_cols: Index
    under_rows: Index
    under_cols: Index
    unmatched_rows: Index
    unmatched_cols: Index
    indptr: Index = field(repr=False)
    indices: Index = field(repr=False)

    @property
    def is_perfect(self) -> bool:
        """Whether every row and every column is matched: the system is square and of full structural rank."""
        return self.unmatched_rows.size == 0 and self.unmatched_cols.size == 0

    def pieces(self, part: Part) -> list[Piece]:
        """Split a part into its connected pieces, by the entries inside the part.

        Each over-determined piece has more rows than columns, each under-determined piece more columns than
        rows: the difference is the number of rows too many or too few there. Pieces are ordered by their
        first row; those without rows (a column that no row has) come last, by their column.
        """
        rows, cols = {
            "over": (self.over_rows, self.over_cols),
            "well": (self.well_rows, self.well_cols),
            "under": (self.under_rows, self.under_cols),
        }[part]
        n_rows = self.indptr.size - 1
        n_cols = self.over_cols.size + self.well_cols.size + self.under_cols.size
        root = np.full(n_rows + n_cols, -1, np.int32)
        root[rows] = rows
        root[n_rows + cols] = n_rows + cols
        _connect(n_rows, rows, self.indptr, self.indices, root)
        # A row or column is a node (columns after rows); the first node of a piece is its label.
        nodes = np.concatenate([rows, n_rows + cols])
        order = np.argsort(root[nodes], kind="stable")  # stable: nodes stay ascending within a piece
        nodes = nodes[order]
        cuts = np.flatnonzero(np.diff(root[nodes])) + 1
        pieces = np.split(nodes, cuts) if nodes.size else []
        return [Piece(piece[piece < n_rows], piece[piece >= n_rows] - n_rows) for piece in pieces]


def dulmage_mendelsohn(
    n_rows: int, n_cols: int, indptr: Index, indices: Index, matching: Matching
) -> DulmageMendelsohn:
    """Find the over-, well- and under-determined parts. `matching` must be maximum. Linear time."""
    row_match, col_match = matching.row_match, matching.col_match
    over_row, over_col = _alternate(n_rows, n_cols, indptr, indices, row_match, col_match)
    indptr_t, indices_t, _ = transpose(n_rows, n_cols, indptr, indices)
    under_col, under_row = _alternate(n_cols, n_rows, indptr_t, indices_t, col_match, row_match)
    # No row or column is in both: one that were would lie on an augmenting path.
    return DulmageMendelsohn(
        over_rows=_where(over_row),
        over_cols=_where(over_col),
        well_rows=_where(~(over_row | under_row)),
        well_cols=_where(~(over_col | under_col)),
        under_rows=_where(under_row),
        under_cols=_where(under_col),
        unmatched_rows=_where(row_match < 0),
        unmatched_cols=_where(col_match < 0),
        indptr=indptr,
        indices=indices,
    )


def _where(mask: Mask) -> Index:
    return np.flatnonzero(mask).astype(np.int32)


@allocating
def _alternate(
    n_near: int, n_far: int, indptr: Index, indices: Index, near_match: Index, far_match: Index
) -> tuple[Mask, Mask]:
    # From the unmatched near vertices along any entry to a far vertex, and back along its matching pair.
    # indptr (n_near+1,), indices: the far neighbours of each near vertex.
    # near_match (n_near,), far_match (n_far,): the matching.
    # Gives what is reached: (n_near,) and (n_far,).
    near = near_match < 0
    far = np.zeros(n_far, np.bool_)
    queue = np.empty(n_near, np.int32)
    tail = 0
    for i in range(n_near):
        if near[i]:
            queue[tail] = i
            tail += 1
    head = 0
    while head < tail:
        i = queue[head]
        head += 1
        for e in range(indptr[i], indptr[i + 1]):
            c = indices[e]
            if not far[c]:
                far[c] = True
                j = far_match[c]  # never -1: that would be an augmenting path
                if not near[j]:
                    near[j] = True
                    queue[tail] = j
                    tail += 1
    return near, far


@kernel
def _connect(n_rows: int, rows: Index, indptr: Index, indices: Index, root: Index) -> None:
    # Union–find with path halving; the smaller label wins, so that a piece is named by its first node.
    #
    # rows: the part's rows.   indptr (n_rows+1,), indices: the incidence.
    # root (n_rows+n_cols,): each node of the part itself, -1 outside it; then the first node of its piece.
    for i in rows:
        for e in range(indptr[i], indptr[i + 1]):
            b = n_rows + indices[e]
            if root[b] < 0:
                continue
            a = i
            while root[a] != a:
                root[a] = root[root[a]]
                a = root[a]
            while root[b] != b:
                root[b] = root[root[b]]
                b = root[b]
            if a < b:
                root[b] = a
            else:
                root[a] = b
    # A label is never larger than its node, so that labels before a node are final when the node is reached.
    for a in range(root.size):
        if root[a] >= 0:
            root[a] = root[root[a]]
