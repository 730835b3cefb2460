"""Named things in order of declaration: where each one's scalars start, what shape they have, what each is called.

Takes names and shapes, gives positions for names and names for positions. Knows neither values nor expressions.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from lagrad.errors import ShapeError, UnknownNameError


@dataclass(frozen=True)
class Declared:
    """One named thing: where its scalars start and what shape they have."""

    name: str
    start: int  # first scalar index among its kind
    shape: tuple[int, ...]
    size: int
    defined: bool = False  # a state made by `define`; a constraint made by `define`

    def element(self, offset: int) -> str:
        """The name of one scalar: "y", "y[3]" or "y[1,2]"."""
        return element_name(self.name, self.shape, offset)


def element_name(name: str, shape: tuple[int, ...], offset: int) -> str:
    """The name of the scalar at flat position `offset` of an array called `name`."""
    if not shape:
        return name
    return f"{name}[{','.join(str(int(k)) for k in np.unravel_index(offset, shape))}]"


class Registry:
    """Things of one kind in order of declaration; finds them by name and by scalar index."""

    __slots__ = ("by_name", "items", "size", "starts")

    def __init__(self) -> None:
        self.items: list[Declared] = []
        self.by_name: dict[str, Declared] = {}
        self.starts: list[int] = []
        self.size = 0  # number of scalars

    def add(self, name: str, shape: tuple[int, ...], defined: bool = False) -> Declared:
        """Append a thing of the given shape."""
        size = 1
        for k in shape:
            size *= k
        item = Declared(name, self.size, shape, size, defined)
        self.items.append(item)
        self.by_name[name] = item
        self.starts.append(self.size)
        self.size += size
        return item

    def owner(self, index: int) -> Declared:
        """The thing that scalar `index` belongs to."""
        return self.items[bisect.bisect_right(self.starts, index) - 1]

    def scalar_index(self, name: str, role: str) -> int:
        """The index of one scalar: of a scalar thing by its name, or of an element such as "y[1,2]"."""
        if not isinstance(name, str):
            raise UnknownNameError(str(name), role, list(self.by_name))
        base, bracket, inside = name, "", ""
        if name not in self.by_name and name.endswith("]"):
            base, bracket, inside = name[:-1].rpartition("[")
        item = self.by_name.get(base)
        if item is None:
            raise UnknownNameError(name, role, list(self.by_name))
        try:
            index = tuple(int(k) for k in inside.split(",")) if bracket else ()
            if len(index) != len(item.shape):
                raise IndexError
            return item.start + (int(np.ravel_multi_index(index, item.shape)) if index else 0)
        except (ValueError, IndexError):
            raise ShapeError(name, item.shape, "a scalar", f"Name one element of {item.name}.") from None

    def scalar_name(self, index: int) -> str:
        """The name of scalar `index`, as the user would write it."""
        item = self.owner(index)
        # an empty array starts where the next one does
        while item.size == 0 or index >= item.start + item.size:
            item = self.items[self.items.index(item) - 1]
        return item.element(index - item.start)
