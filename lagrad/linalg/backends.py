"""The libraries that can factor a large block, by name.

Each gives the four verbs of `lagrad.linalg.sparse`: analyze, factor, refactor, solve. None is imported before use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from lagrad.linalg.klu import KLUPattern
from lagrad.linalg.pardiso import PardisoPattern
from lagrad.linalg.sparse import Counters, SparsePattern, SuperLUPattern

Ints = NDArray[np.int32]


def automatic(indptr: Ints, indices: Ints, n: int, counters: Counters) -> SuperLUPattern:
    """SuperLU and its refactorization; PARDISO, where it is installed, for blocks that turn out to fill heavily."""
    heavy = PardisoPattern(indptr, indices, n, counters) if installed("pardiso") else None
    return replace(SuperLUPattern.analyze(indptr, indices, n, counters), heavy=heavy)


BACKENDS: dict[str, Callable[[Ints, Ints, int, Counters], SparsePattern]] = {
    "superlu": SuperLUPattern.analyze,
    "klu": KLUPattern.analyze,
    "pardiso": PardisoPattern.analyze,
    "auto": automatic,
}
"""Name of a sparse direct solver -> its analyze."""

PACKAGES = {"superlu": "scipy", "klu": "kvxopt", "pardiso": "pypardiso", "auto": "scipy"}
"""Name of a sparse direct solver -> the package that it comes with."""


def installed(name: str) -> bool:
    """Whether the package of a solver of `BACKENDS` is there."""
    return find_spec(PACKAGES[name]) is not None
