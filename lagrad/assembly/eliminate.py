"""Hidden states eliminated: derivatives of the declared constraints by the declared variables alone.

Takes the partials of all rows in CSR over the variables x, then the hidden states h; the rows of the h hidden states,
h_k − g_k(x, h_0 … h_{k−1}) = 0, come last and in the order of evaluation. Gives what remains when h is a function of x:

    multipliers   μ with ∂L/∂h = 0, last to first; then ∂L/∂x of L − μᵀ(h − g) is the gradient that is wanted
    E = [I; S]    S = dh/dx, first to last: S_k = ∂g_k/∂x + Σ_{l<k} ∂g_k/∂h_l S_l
    Jacobian      A_x + A_h S = A E          Hessian      Eᵀ ∇²(L − μᵀ(h − g)) E

Patterns are found once (`totals_pattern`, `product_pattern`), values computed into them. Knows no names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lagrad.kernel import kernel

if TYPE_CHECKING:
    import scipy.sparse as sp

Index = NDArray[np.int32]
Floats = NDArray[np.float64]


def totals_pattern(n_rows: int, n: int, ptr: Index, col: Index, most: int) -> tuple[Index, Index] | None:
    """CSR pattern of S (hidden, n), columns ascending, for `n_rows` declared rows and n declared variables.

    None if it has more than `most` entries, or nearly so.
    """
    hidden = ptr.size - 1 - n_rows
    s_ptr, mark = np.zeros(hidden + 1, np.int32), np.full(n, -1, np.int32)
    s_col = np.empty(4 * (hidden + n), np.int32)
    done = 0
    while (done := _totals_pattern(done, n_rows, n, ptr, col, s_ptr, s_col, mark)) < hidden:
        if s_ptr[done] + n > most:
            return None
        s_col = np.concatenate([s_col, np.empty(s_col.size + n, np.int32)])
        mark[:] = -1
    import scipy.sparse as sp

    pattern = sp.csr_array((np.empty(s_ptr[-1], np.int8), s_col[: s_ptr[-1]], s_ptr), shape=(hidden, n))
    pattern.sort_indices()
    return s_ptr, pattern.indices.astype(np.int32)


def product_pattern(a: sp.csr_array, b: sp.csr_array) -> tuple[Index, Index]:
    """CSR pattern of a product of two patterns (their values are ignored), columns ascending."""
    import scipy.sparse as sp

    one, two = (sp.csr_array((np.ones(x.nnz), x.indices, x.indptr), shape=x.shape) for x in (a, b))
    product = one @ two
    product.sort_indices()
    return product.indptr.astype(np.int32), product.indices.astype(np.int32)


@kernel
def _totals_pattern(start, n_rows, n, ptr, col, s_ptr, s_col, mark):
    # From hidden row `start` on, as far as s_col has room; returns the first row not done. mark (n,): -1 before.
    hidden = s_ptr.size - 1
    for k in range(start, hidden):
        end = s_ptr[k]
        if end + n > s_col.size:
            return k
        for e in range(ptr[n_rows + k], ptr[n_rows + k + 1]):
            c = col[e]
            if c < n:
                if mark[c] != k:
                    mark[c] = k
                    s_col[end] = c
                    end += 1
            elif c - n != k:
                for t in range(s_ptr[c - n], s_ptr[c - n + 1]):
                    d = s_col[t]
                    if mark[d] != k:
                        mark[d] = k
                        s_col[end] = d
                        end += 1
        s_ptr[k + 1] = end
    return hidden


@kernel
def total_values(n_rows, n, ptr, col, data, s_ptr, s_col, row, s):
    """S in its pattern: s (entries,). data: partials of the residuals, so ∂g = −data; row (n,): scratch, 0 before."""
    for k in range(s_ptr.size - 1):
        for e in range(ptr[n_rows + k], ptr[n_rows + k + 1]):
            c = col[e]
            if c < n:
                row[c] -= data[e]
            elif c - n != k:
                for t in range(s_ptr[c - n], s_ptr[c - n + 1]):
                    row[s_col[t]] -= data[e] * s[t]
        for t in range(s_ptr[k], s_ptr[k + 1]):
            s[t] = row[s_col[t]]
            row[s_col[t]] = 0.0


@kernel
def pull_back(n_rows, n, ptr, col, data, lam, out):
    """out (n + hidden,) = Aᵀ[λ, μ], zero before; lam holds λ, and takes μ so that `out` vanishes at hidden states."""
    rows = ptr.size - 1
    for r in range(n_rows):
        if lam[r] != 0.0:  # a constraint without influence passes nothing on, whatever its partials
            for e in range(ptr[r], ptr[r + 1]):
                out[col[e]] += lam[r] * data[e]
    for r in range(rows - 1, n_rows - 1, -1):  # ∂(h − g)/∂h = 1
        lam[r] = -out[n + r - n_rows]
        if lam[r] != 0.0:
            for e in range(ptr[r], ptr[r + 1]):
                out[col[e]] += lam[r] * data[e]


@kernel
def product_values(a_ptr, a_col, a, b_ptr, b_col, b, c_ptr, c_col, row, c):
    """The values of a product of two CSR matrices in its pattern. row (columns,): scratch, 0 before."""
    for r in range(c_ptr.size - 1):
        for e in range(a_ptr[r], a_ptr[r + 1]):
            k = a_col[e]
            for t in range(b_ptr[k], b_ptr[k + 1]):
                row[b_col[t]] += a[e] * b[t]
        for t in range(c_ptr[r], c_ptr[r + 1]):
            c[t] = row[c_col[t]]
            row[c_col[t]] = 0.0
