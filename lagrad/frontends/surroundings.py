"""What a Python function reads besides its arguments: closures, globals, defaults, attributes of its object.

Takes a function, gives a list of plain values and checksums that is equal as long as these are; what a
trace was made of, so that a change makes a new one. Runs nothing of the function. Values are followed
through helper functions, tuples, lists, dicts and objects of the user's own classes, their operators (`x[i]`, `x * y`,
`len(x)`) included; not seen are files, what is looked up by a computed name (`getattr(x, name)`, `vars(x)`), the
comparisons that `dataclass` writes, which read every field, and C extensions.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
import weakref
from array import array
from collections import UserList, deque
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, ValuesView
from functools import lru_cache
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import numpy as np

from lagrad.frontends.lines import is_ours

MOST: Final = 2_000  # functions, containers and objects that are looked into; beyond, every call traces again

# methods with names of their kind that no operation calls: f reads what the others read, without naming them
_NO_OPERATORS: Final = frozenset(
    ("__init__", "__new__", "__post_init__", "__init_subclass__", "__del__", "__repr__", "__str__", "__format__",
     "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__setattr__", "__delattr__", "__dir__")
)  # fmt: skip

_PLAIN: Final = frozenset((float, int, bool, str, bytes, type(None), complex))
_LIBRARY: Final = tuple({sysconfig.get_path(k) for k in ("stdlib", "platstdlib")})


def surroundings(f: Callable[..., Any] | tuple[Callable[..., Any], ...]) -> list[Any]:
    """Everything that `f`, one or several, reads besides its arguments, flat; comparing two such lists costs little.

    Arrays count with a hash of their contents, plain values with themselves and their type, other objects with
    their identity and those of their attributes that some function here names. About 1 µs for a function
    without any, 2 ms per million array elements.
    """
    out: list[Any] = []
    visited: set[int] = set()
    named: set[str] = set()  # by the functions visited
    objects: list[tuple[Any, set[str]]] = []  # and which of their attributes have been looked at
    made: list[Any] = []  # by this function: kept, so that nothing else gets its identity
    waiting: list[Any] = [f]
    while True:
        while waiting and len(visited) < MOST:
            value = waiting.pop()
            kind = type(value)
            if kind in _PLAIN:
                out += (kind, repr(value) if value == 0 else value)  # 0.0 and -0.0 are two values
            elif kind is FunctionType:
                if id(value) in visited:
                    continue
                if not _is_library(value.__code__.co_filename):
                    visited.add(id(value))
                    _of_function(value, out, waiting)
                    named.update(_names(value.__code__))
                elif hasattr(value, "__wrapped__"):  # a decorator of some library
                    visited.add(id(value))
                    waiting.append(value.__wrapped__)
            elif issubclass(kind, np.ndarray) and value.dtype == object:
                visited.add(id(value))
                out.append(value.shape)
                waiting += value.ravel().tolist()
            elif issubclass(kind, np.ndarray):
                out += (value.shape, value.dtype.str, hash(value.tobytes()))
            elif issubclass(kind, np.generic):
                out += (kind, value.item())
            elif id(value) in visited:
                continue
            elif kind is ModuleType:
                if not _is_library(_file(value)):
                    visited.add(id(value))
                    objects.append((value, set()))
            elif kind is tuple or kind is list:
                visited.add(id(value))
                out.append(len(value))
                types = tuple(map(type, value))
                if _PLAIN.issuperset(types):
                    out += (types, tuple(value))
                else:
                    waiting += value
            elif issubclass(kind, Mapping):
                visited.add(id(value))
                out += (kind, tuple((type(key), str(key)) for key in value))
                waiting += value.values()
            elif issubclass(kind, (array, bytearray, memoryview)):
                out += (kind, hash(value.tobytes() if kind is not bytearray else bytes(value)))
            elif issubclass(kind, (deque, UserList, tuple, list)):
                visited.add(id(value))
                parts = tuple(_elements(value))
                out += (kind, len(parts))
                waiting += parts
                objects.append((value, set()))
            elif issubclass(kind, (KeysView, ValuesView, ItemsView)) and hasattr(value, "mapping"):
                visited.add(id(value))
                made.append(value.mapping)
                out.append(kind)
                waiting.append(made[-1])
            elif kind.__module__.startswith("scipy.sparse"):
                visited.add(id(value))
                out.append(kind)
                waiting += vars(value).values()
            elif kind is set or kind is frozenset:
                out.append(frozenset(value))
            elif kind is property:
                waiting.append(value.fget)
            elif kind is staticmethod or kind is classmethod:
                waiting.append(value.__func__)
            elif kind is MethodType:
                waiting += (value.__func__, value.__self__)
            elif kind is functools.partial:
                waiting += (value.func, value.args, value.keywords)
            else:
                visited.add(id(value))
                out.append(_Identity(value))
                objects.append((value, set()))
        for value, seen in objects:
            _of_object(value, seen, named, waiting)
        if not waiting:
            return out
        if len(visited) >= MOST:
            return [*out, object()]  # equal to nothing: what was not looked into may have changed


class _Identity:
    """An object, equal to itself alone; does not keep it alive, unless it cannot be known whether it still is."""

    __hash__ = object.__hash__

    def __init__(self, value: Any) -> None:
        try:
            self.get: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            self.get = lambda: value

    def __eq__(self, other: object) -> bool:
        mine = self.get()
        return isinstance(other, _Identity) and mine is not None and mine is other.get()


def _file(module: ModuleType) -> str:
    """Where a module is from; a folder that is a package without an __init__ has a path only."""
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "<built in>")


def _elements(value: Any) -> Iterable[Any]:
    """What a sequence holds, whatever its class makes of iterating over it."""
    kinds: tuple[Any, ...] = (list, tuple, deque)
    for base in kinds:
        if isinstance(value, base):
            found: Iterable[Any] = base.__iter__(value)
            return found
    return _elements(value.data)  # a UserList


def _of_function(function: FunctionType, out: list[Any], waiting: list[Any]) -> None:
    code = function.__code__
    out.append(code)
    if function.__defaults__:
        waiting += function.__defaults__
    if function.__kwdefaults__:
        waiting += function.__kwdefaults__.values()
    for cell in function.__closure__ or ():
        try:
            waiting.append(cell.cell_contents)
        except ValueError:  # a variable that is not assigned yet
            out.append(None)
    known = function.__globals__
    for name in _names(code):
        if name in known:
            waiting.append(known[name])
        elif name in sys.modules:  # imported inside the function
            waiting.append(sys.modules[name])


def _of_object(value: Any, seen: set[str], named: set[str], waiting: list[Any]) -> None:
    """Those attributes of an object, or a module, and of its class, if that is the user's own, that are named and not
    yet seen."""
    own = value if isinstance(value, type) else type(value)
    if own.__module__.partition(".")[0] == "lagrad":
        return
    held = dict(getattr(value, "__dict__", None) or {})
    for base in type(value).__mro__:
        slots = getattr(base, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                held[name] = getattr(value, name)
    operators: list[str] = ["__call__", "__wrapped__", "pyfunc"]  # the last is what np.vectorize calls
    if own.__module__ != "builtins" and not _is_library(
        getattr(sys.modules.get(own.__module__), "__file__", None) or ""
    ):
        for base in own.__mro__[:-1]:
            held = {**vars(base), **held}
        operators += [
            name for name, method in held.items()
            if name[:2] == "__" and type(method) is FunctionType and name not in _NO_OPERATORS
            and not ("__dataclass_fields__" in held and method.__code__.co_filename == "<string>")
        ]  # fmt: skip
    for name in (*sorted(named - seen), *operators):
        if name in held and name not in seen:
            waiting.append(held[name])
    seen |= named
    seen.update(operators)


@lru_cache(4096)
def _names(code: CodeType) -> tuple[str, ...]:
    """Names of globals and attributes in a function, and in the functions written inside it."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(_names(constant)))
    return tuple(names)


@lru_cache(4096)
def _is_library(file: str) -> bool:
    return is_ours(file) or file.startswith(("<built in>", *_LIBRARY)) or "site-packages" in file
