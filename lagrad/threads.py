"""Threads for work that falls into independent parts: how many, and a pool that is kept.

Takes functions that run without the interpreter's lock, as compiled kernels do. Knows nothing of what they do. What is
computed must not depend on how many threads share it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

VARIABLE = "LAGRAD_THREADS"
"""Environment variable with the most threads that one call may use; by default, as many as there are cores."""

_pool: ThreadPoolExecutor | None = None


def cores() -> int:
    """How many threads one call may use."""
    asked = os.environ.get(VARIABLE, "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def together(parts: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the parts return, in order; the first runs in the calling thread, the others in threads that are kept."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="lagrad")
    others = [_pool.submit(part) for part in parts[1:]]
    return [parts[0](), *(other.result() for other in others)]


def _forget() -> None:
    """The threads of a pool do not live on in a forked process."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
