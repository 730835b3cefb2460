"""Threads for work that falls into independent parts: how many, and a pool that is kept.

Takes functions that run without the interpreter's lock, as compiled kernels do. Knows nothing of what they do. What is
computed must not depend on how many threads share it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

Part = TypeVar("Part")

VARIABLE = "LAGRAD_THREADS"
"""Environment variable with the most threads that one call may use; by default, as many as there are cores."""

MOST = 64
"""Most threads that are kept; each is started when as many parts run at once."""

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
    pool = _kept()
    others = [pool.submit(part) for part in parts[1:]]
    return [parts[0](), *(other.result() for other in others)]


def in_turn(run: Callable[[Part], object], parts: Iterable[Part], threads: int) -> None:
    """`run` every part, each taken by whichever of so many threads is free; the calling thread is one of them.

    Once one has failed, or a person has pressed Ctrl-C, no other begins; what runs by then comes to its end first.
    """
    waiting = deque(parts)

    def work() -> None:
        try:
            while True:
                try:
                    part = waiting.popleft()
                except IndexError:
                    return
                run(part)
        except BaseException:
            waiting.clear()
            raise

    others = [_kept().submit(work) for _ in range(min(threads, len(waiting)) - 1)]
    try:
        work()
    finally:
        wait(others)
    for other in others:
        other.result()


def _kept() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(MOST, thread_name_prefix="lagrad")
    return _pool


def _forget() -> None:
    """The threads of a pool do not live on in a forked process."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
