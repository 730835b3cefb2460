"""Which second derivatives of an output by parameters can differ from zero: the pattern of a reduced Hessian.

Takes a layout, an output and parameters, by position; gives a symmetric pattern, or nothing where finding it would cost
more than it saves. Knows no values.

    H = Tᵀ ∇²L T,  T = [I; du/dp]

Two parameters are coupled if a nonlinear term, in a row that the output is computed from, has two leaves that they
move. What moves a state moves all of its block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lagrad.assembly.eliminate import totals_pattern
from lagrad.assembly.second import second_slots
from lagrad.layout import Layout

if TYPE_CHECKING:
    import scipy.sparse as sp

MOST: Final = 1 << 24  # entries of T, and multiplications in Tᵀ ∇²L T, as patterns: a quarter of a second


def coupled(layout: Layout, outputs: NDArray[Any], cols: NDArray[Any]) -> sp.csr_array | None:
    """(k, k) pattern, with its diagonal, of second derivatives by k parameters of a sum of states `outputs`."""
    import scipy.sparse as sp

    machine, k, blocks = layout.machine, cols.size, layout.ptr.size - 1
    rows = machine.rows
    needed = layout.computed_from(outputs)
    block = np.repeat(np.arange(blocks), np.diff(layout.ptr))
    parameter = np.full(layout.m, -1)
    parameter[cols] = np.arange(k)

    # what the rows of every block mention: parameters, and earlier blocks
    row_u, row_p = (np.repeat(np.arange(layout.n), np.diff(ptr)) for ptr in (rows.a_ptr, rows.b_ptr))
    of_u = needed[row_u] & (block[row_u] != block[rows.a_col])
    of_p = needed[row_p] & (parameter[rows.b_col] >= 0)
    row = np.concatenate([block[row_u[of_u]], block[row_p[of_p]]])
    col = np.concatenate([k + block[rows.a_col[of_u]], parameter[rows.b_col[of_p]]])
    key = np.unique(row * (k + blocks) + col)
    ptr = np.searchsorted(key, np.arange(blocks + 1) * (k + blocks)).astype(np.int32)
    found = totals_pattern(0, k, ptr, (key % (k + blocks)).astype(np.int32), MOST)
    if found is None:
        return None
    # T, with an empty row for the parameters that are not asked for
    s_ptr, s_col = found
    indptr = np.concatenate([np.arange(k), k + s_ptr, [k + s_ptr[-1]]])
    t = sp.csr_array(
        (np.ones(k + s_col.size), np.concatenate([np.arange(k), s_col]), indptr), shape=(k + blocks + 1, k)
    )
    place = np.concatenate([np.where(parameter >= 0, parameter, k + blocks), k + block]).astype(np.int32)
    slots = second_slots(machine, place, needed[machine.terms.row])
    width = np.diff(indptr)
    if int((width[slots.row] * width[slots.col]).sum()) > MOST:
        return None
    lower = sp.csr_array((np.ones(slots.row.size), (slots.row, slots.col)), shape=(k + blocks + 1,) * 2)
    out = (t.T @ (lower + lower.T) @ t + sp.eye_array(k)).tocsr()
    out.sort_indices()
    return out
