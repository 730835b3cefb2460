"""Which constraint determines which state, in what order, and what is missing. Integers only, no floats.

    incidence            the pattern of constraints × states, and its transpose
    matching             maximum matching: a constraint for each state; structural rank
    dulmage_mendelsohn   over-, well- and under-determined parts, in connected pieces
    blocks               strongly connected components in block lower triangular order
    colouring            which columns of a symmetric matrix can share a product

All arrays of indices are int32. Importing this package imports Numba: import it where a system is built.
"""

from lagrad.structure.blocks import CYCLIC, EXPLICIT, IMPLICIT, Blocks, block_triangular
from lagrad.structure.dulmage_mendelsohn import DulmageMendelsohn, Part, Piece, dulmage_mendelsohn
from lagrad.structure.incidence import Index, transpose
from lagrad.structure.matching import Matching, maximum_matching

__all__ = [
    "CYCLIC",
    "EXPLICIT",
    "IMPLICIT",
    "Blocks",
    "DulmageMendelsohn",
    "Index",
    "Matching",
    "Part",
    "Piece",
    "block_triangular",
    "dulmage_mendelsohn",
    "maximum_matching",
    "transpose",
]
