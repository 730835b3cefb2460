"""The cases by name, in the order in which they run.

A case's module is imported when the case is asked for.
"""

from __future__ import annotations

from importlib import import_module

from benchmarks.harness import Case

NAMES = (
    "dag",
    "wide",
    "time",
    "loops",
    "tiny",
    "grid",
    "named",
    "field",
    "many",
    "batch",
    "resolve",
    "start",
)
_MODULES = {"time": "lorenz"}


def case(name: str) -> Case:
    """The case called `name`, one of `NAMES`."""
    found: Case = import_module(f"benchmarks.cases.{_MODULES.get(name, name)}").CASE
    return found
