"""Maximum matching: which constraint determines which state.

Takes an incidence and the column that each row would like; gives a matching of greatest size, which is the
structural rank. Knows nothing of what the rows and columns stand for.

Method: a start by Karp and Sipser (1981), which is nearly maximum on sparse patterns, made maximum by
Hopcroft and Karp (1973) with the second search of Duff and Wiberg (1988) in each phase and the lookahead of
Duff (1981). The bound n_entries·√n_rows is Hopcroft and Karp's; the rest makes the usual case a few passes
over the entries.
"""

from dataclasses import dataclass

import numpy as np

from lagrad.kernel import allocating, inlined
from lagrad.structure.incidence import Index


@dataclass(frozen=True, eq=False)
class Matching:
    """A maximum matching.

    `row_match` (n_rows,): the column of each row; `col_match` (n_cols,): the row of each column; -1 where
    there is none. `rank`: the number of pairs, which is the structural rank of the incidence.
    """

    row_match: Index
    col_match: Index
    rank: int


def maximum_matching(n_rows: int, n_cols: int, indptr: Index, indices: Index, preferred: Index) -> Matching:
    """Match as many rows with columns as can be.

    `preferred` (n_rows,): the column of which a row is the explicit definition, or -1. Where it is among
    the row's own entries and no earlier row has it, the search starts from that pair; the pair is given up
    only for a larger matching. Linear time where the preferences suffice, never more than
    n_entries·√n_rows.
    """
    row_match = np.full(n_rows, -1, np.int32)
    col_match = np.full(n_cols, -1, np.int32)
    _start(n_rows, n_cols, indptr, indices, preferred, row_match, col_match)
    free = np.flatnonzero(row_match < 0).astype(np.int32)
    if free.size:
        _augment(n_rows, indptr, indices, free, row_match, col_match)
    return Matching(row_match, col_match, int(np.count_nonzero(row_match >= 0)))


@allocating
def _start(
    n_rows: int,
    n_cols: int,
    indptr: Index,
    indices: Index,
    preferred: Index,
    row_match: Index,
    col_match: Index,
) -> None:
    # The preferred pairs, then Karp and Sipser on what they leave: a row or column with one possible
    # partner takes it, which loses nothing; when there is none, the next row takes the column that fewest
    # rows want.
    #
    # indptr (n_rows+1,), indices (n_entries,): the incidence.   preferred (n_rows,): column or -1.
    # row_match (n_rows,), col_match (n_cols,): all -1 on entry, a matching on return.
    n_free = n_rows
    for i in range(n_rows):
        for e in range(indptr[i], indptr[i + 1]):
            c = indices[e]
            if c == preferred[i]:
                if col_match[c] < 0:
                    row_match[i] = c
                    col_match[c] = i
                    n_free -= 1
                break
    if n_free == 0:
        return

    # The entries of free rows in free columns, by row (counted) and by column (listed). Both counts are
    # kept up.
    choices = np.zeros(n_rows, np.int32)
    wanted_by = np.zeros(n_cols, np.int32)
    for i in range(n_rows):
        if row_match[i] < 0:
            for e in range(indptr[i], indptr[i + 1]):
                c = indices[e]
                if col_match[c] < 0:
                    choices[i] += 1
                    wanted_by[c] += 1
    indptr_t = np.zeros(n_cols + 1, np.int32)
    for c in range(n_cols):
        indptr_t[c + 1] = indptr_t[c] + wanted_by[c]
    indices_t = np.empty(indptr_t[n_cols], np.int32)
    place = indptr_t.copy()
    for i in range(n_rows):
        if row_match[i] < 0:
            for e in range(indptr[i], indptr[i + 1]):
                c = indices[e]
                if col_match[c] < 0:
                    indices_t[place[c]] = i
                    place[c] += 1

    single = np.empty(n_rows + n_cols, np.int32)  # stack of rows i and columns n_rows + c with one entry left
    n_single = 0
    for c in range(n_cols - 1, -1, -1):
        if wanted_by[c] == 1:
            single[n_single] = n_rows + c
            n_single += 1
    for i in range(n_rows - 1, -1, -1):
        if choices[i] == 1:
            single[n_single] = i
            n_single += 1
    following = 0
    while n_single > 0 or following < n_rows:
        i = -1
        c = -1
        if n_single > 0:
            n_single -= 1
            if single[n_single] < n_rows:
                i = single[n_single]
            else:
                c = single[n_single] - n_rows
        else:
            i = following
            following += 1
        if i < 0 and col_match[c] < 0:
            for e in range(indptr_t[c], indptr_t[c + 1]):
                if row_match[indices_t[e]] < 0:
                    i = indices_t[e]
        elif i >= 0 and row_match[i] < 0:
            for e in range(indptr[i], indptr[i + 1]):
                d = indices[e]
                if col_match[d] < 0 and (c < 0 or wanted_by[d] < wanted_by[c]):
                    c = d
        else:
            continue
        if i < 0 or c < 0:
            continue
        row_match[i] = c
        col_match[c] = i
        for e in range(indptr[i], indptr[i + 1]):
            d = indices[e]
            if col_match[d] < 0:
                wanted_by[d] -= 1
                if wanted_by[d] == 1:
                    single[n_single] = n_rows + d
                    n_single += 1
        for e in range(indptr_t[c], indptr_t[c + 1]):
            j = indices_t[e]
            if row_match[j] < 0:
                choices[j] -= 1
                if choices[j] == 1:
                    single[n_single] = j
                    n_single += 1


@inlined
def _free_entry(e: int, end: int, indices: Index, col_match: Index) -> int:
    # The first entry from e on whose column is free, else end.
    while e < end and col_match[indices[e]] >= 0:
        e += 1
    return e


@allocating
def _augment(
    n_rows: int, indptr: Index, indices: Index, free: Index, row_match: Index, col_match: Index
) -> None:
    # indptr (n_rows+1,), indices (n_entries,): the incidence.   free: the rows without a column; overwritten.
    # row_match (n_rows,), col_match (n_cols,): a matching on entry, a maximum one on return.
    #
    # A matched column stays matched for good, so the entries before look[i] need never be looked at again
    # for a free column: the lookahead of the whole search together reads each entry once.
    n_free = free.size
    look = indptr[:n_rows].copy()  # first entry of each row whose column may still be free
    # Distance in rows from the free rows. -1: not reached, or used by the first search in depth; -2: by the
    # second.
    level = np.empty(n_rows, np.int32)
    stack = np.empty(n_rows, np.int32)  # queue in breadth, path in depth
    cursor = np.empty(n_rows, np.int32)  # next entry to follow from each row on the path
    phase = 0
    while n_free > 0:
        # In breadth, to the nearest row that sees a free column. None: the matching is maximum (Berge 1957).
        level[:] = -1
        for k in range(n_free):
            level[free[k]] = 0
            stack[k] = free[k]
        head = 0
        tail = n_free
        shortest = -1
        while head < tail:
            i = stack[head]
            head += 1
            end = indptr[i + 1]
            look[i] = _free_entry(look[i], end, indices, col_match)
            if look[i] < end:
                shortest = level[i]
                break
            for e in range(indptr[i], end):
                j = col_match[indices[e]]
                if level[j] == -1:
                    level[j] = level[i] + 1
                    stack[tail] = j
                    tail += 1
        if shortest < 0:
            break

        # In depth along shortest paths, then along any path from the rows that are still free. Each search
        # enters a row once, so it reads an entry at most once. Hopcroft and Karp's bound of 2·√n_rows phases
        # holds for the first search alone, whatever the matching it begins with: hence the second only in the
        # first √n_rows phases.
        phase += 1
        for search in range(2 if phase * phase <= n_rows else 1):
            n_left = 0
            for k in range(n_free):
                i = free[k]
                stack[0] = i
                cursor[i] = indptr[i]
                depth = 0
                while depth >= 0:
                    i = stack[depth]
                    end = indptr[i + 1]
                    look[i] = _free_entry(look[i], end, indices, col_match)
                    if look[i] < end:
                        # Augment: each row on the path takes the column by which the path leaves it, which
                        # is the column that the next row gives up.
                        c = indices[look[i]]
                        while depth >= 0:
                            i = stack[depth]
                            given_up = row_match[i]
                            row_match[i] = c
                            col_match[c] = i
                            c = given_up
                            depth -= 1
                        break
                    following = -1
                    e = cursor[i]
                    while e < end and following < 0:
                        j = col_match[indices[e]]
                        e += 1
                        if search == 0:
                            if level[j] == depth + 1 and depth < shortest:
                                following = j
                        elif level[j] != -2:
                            following = j
                    cursor[i] = e
                    if following < 0:
                        depth -= 1
                    else:
                        level[following] = -1 if search == 0 else -2
                        cursor[following] = indptr[following]
                        depth += 1
                        stack[depth] = following
                if row_match[free[k]] < 0:
                    free[n_left] = free[k]
                    n_left += 1
            n_free = n_left
