"""The one way lagrad compiles: Numba, cached on disk, without the interpreter lock, in IEEE arithmetic.

`error_model="numpy"`: a division by zero gives inf or nan, which the certificates see, and never raises
inside a kernel. No fastmath: the order of every sum is fixed, so results are the same bits from run to run.

`kernel` is called from Python and from other kernels; `internal` from other kernels only, which spares the
compiler the wrapper that unpacks Python arguments; `inlined` is copied into its callers by LLVM (copying
Numba's own IR instead made the interpreting loops 20–30 % slower). None of them makes an array, and so they do without
Numba's runtime, which would count references to every array at every call: 80 atomic operations for the 39 arrays of
`machine.rows_jacobian`. `allocating` is `kernel` with that runtime.
"""

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import __version__, njit
from numba.core.runtime import rtsys


def _sources() -> str:
    """One stamp for all files that hold kernels.

    Numba's own stamp is the file of the kernel alone: a cached kernel would go on running old code of the
    kernels it calls, or has inlined, from other files.
    """
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for folder in ("assembly", "linalg", "structure"):
        for file in sorted((here / folder).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


_STAMP = _sources()

LATE_REGISTRIES = ("0.68.",)
"""Versions of Numba in which kernels are known to load without registries; in others they are filled first."""

# Numba numbers the files of machine code, one for each signature of a kernel. Two processes that compile at the same
# time would give one number to two signatures, and a third would run the wrong code: here each writer has its own.
_WRITER = uuid.uuid4().hex[:12]


def _load_without_registries(cache: Any) -> None:
    """Make `cache` read machine code without what compiling would need.

    Numba fills its registries of types and functions before it looks for a kernel on disk: 0.8 of 2.0 s of processor
    time of a first solve, for nothing where the kernel is there. Where it is not, they are filled as before. What
    machine code calls is the runtime, which is started here as there; a test loads every kernel so.
    """

    def load_overload(signature: Any, context: Any) -> Any:
        rtsys.initialize(context)
        with cache._guard_against_spurious_io_errors():
            found = cache._load_overload(signature, context)
            if found is not None:
                return found
        context.refresh()
        return None

    cache.load_overload = load_overload


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    compiler = njit(cache=True, error_model="numpy", nogil=True, no_cfunc_wrapper=True, **options)

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = compiler(function)
        index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        # a Numba without these falls back to its own stamp and names
        if index is not None and hasattr(index, "_source_stamp"):
            index._source_stamp = _STAMP
        if index is not None and hasattr(index, "_data_name_pattern"):
            index._data_name_pattern = index._data_name_pattern.replace("{number", f"{_WRITER}.{{number")
        if dispatcher.__dict__.get("_cache") is not None and __version__.startswith(LATE_REGISTRIES):
            _load_without_registries(dispatcher._cache)
        return dispatcher

    return decorate


kernel = _compiled(_nrt=False)
internal = _compiled(_nrt=False, no_cpython_wrapper=True)
inlined = _compiled(_nrt=False, no_cpython_wrapper=True, forceinline=True)
allocating = _compiled()


def specialised(function: Any, *arguments: Any) -> Callable[..., Any]:
    """The machine code of a kernel for arguments of exactly these types; it does not look at types again.

    Numba's own call finds the types of all arguments out each time, 5 of 11 µs for 58 arrays. Who calls this code
    answers for its arguments: the same dtypes, numbers of dimensions and layout as here.
    """
    if not hasattr(function, "compile"):  # compilation is switched off
        code: Callable[..., Any] = function
        return code
    code = function.compile(tuple(function.typeof_pyval(a) for a in arguments))
    return code
