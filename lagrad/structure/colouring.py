"""Star colouring: which columns of a symmetric matrix of known pattern can be asked for in one product.

Takes the pattern of a symmetric n × n matrix in CSR, gives a colour for every column and, for every entry, where it
can be read in the products of the matrix with the sums of the columns of one colour. Knows no numbers.

Method: greedy restricted star colouring, columns of many entries first (Gebremedhin, Manne and Pothen, SIAM Review 47
(2005) 629–705, section 4): neighbours differ, and if two neighbours v, x of w share a colour, that of w is lower. Then
for every entry (i, j) either i is the only neighbour of j with its colour, or j the only one of i. A matrix with an
arrow's pattern takes two colours, a band of half width w at most 2w + 1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import kernel
from lagrad.structure.incidence import Index


def star_colouring(indptr: Index, indices: Index) -> Index:
    """Colours 0, 1, … (n,) of the columns of a symmetric pattern; entries on the diagonal do not matter."""
    n = indptr.size - 1
    order = np.argsort(-np.diff(indptr), kind="stable").astype(np.int32)
    colours, forbidden = np.full(n, -1, np.int32), np.full(n + 1, -1, np.int32)
    _colour(order, indptr, indices, colours, forbidden)
    return colours


def places(
    indptr: Index, indices: Index, colours: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every entry the (row, colour) of the product that holds it and nothing else.

    The pattern must be symmetric and hold its whole diagonal.
    """
    n, count = indptr.size - 1, int(colours.max(initial=-1)) + 1
    row = np.repeat(np.arange(n), np.diff(indptr))
    here = row * count + colours[indices]
    alone = np.bincount(here, minlength=n * count)[here] == 1  # no other entry of this row has that colour
    return np.where(alone, row, indices), np.where(alone, colours[indices], colours[row])


@kernel
def _colour(order: Index, indptr: Index, indices: Index, colours: Index, forbidden: Index) -> None:
    # colours (n,): -1 before; forbidden (n+1,): the last column that may not have a colour, -1 before
    for v in order:
        for e in range(indptr[v], indptr[v + 1]):
            w = indices[e]
            if w == v:
                continue
            if colours[w] >= 0:
                forbidden[colours[w]] = v
            for f in range(indptr[w], indptr[w + 1]):
                x = indices[f]
                if x != v and x != w and colours[x] >= 0 and not 0 <= colours[w] < colours[x]:
                    forbidden[colours[x]] = v
        c = 0
        while forbidden[c] == v:
            c += 1
        colours[v] = c
