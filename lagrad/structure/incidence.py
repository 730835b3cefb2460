"""The incidence of constraints (rows) and states (columns), and its transpose.

Takes and gives CSR: `indptr` (n_rows+1,) int32 and `indices` (n_entries,) int32. Entries of a row may stand
in any order and may repeat; nothing in this folder minds. Knows no numbers and no names.
"""

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import allocating

Index = NDArray[np.int32]


@allocating
def transpose(n_rows: int, n_cols: int, indptr: Index, indices: Index) -> tuple[Index, Index, Index]:
    """Transpose a CSR pattern.

    Takes plain ints and `indptr` (n_rows+1,), `indices` (n_entries,), both int32. Gives `indptr_t`
    (n_cols+1,), `indices_t` (n_entries,) and `perm` (n_entries,), int32: entry k of the transpose is entry
    `perm[k]` of the original, so `data_t = data[perm]`. Rows come out ascending within each column,
    repeated entries in the order in which they stood.
    """
    n_entries = indptr[n_rows]
    indptr_t = np.zeros(n_cols + 1, np.int32)
    indices_t = np.empty(n_entries, np.int32)
    perm = np.empty(n_entries, np.int32)
    for e in range(n_entries):
        indptr_t[indices[e] + 1] += 1
    for c in range(n_cols):
        indptr_t[c + 1] += indptr_t[c]
    place = indptr_t[:n_cols].copy()  # (n_cols,) where the next entry of each column goes
    for i in range(n_rows):
        for e in range(indptr[i], indptr[i + 1]):
            c = indices[e]
            k = place[c]
            place[c] = k + 1
            indices_t[k] = i
            perm[k] = e
    return indptr_t, indices_t, perm
