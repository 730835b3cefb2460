"""What `build` hands to a System: the layout, or how to make it when it is first asked for.

A program of explicit rows in order is evaluated and differentiated as flat code straight from its graph
(`assembly.straight`); rows, blocks and the machine are half a microsecond per operation more, and whoever calls a
`SystemFunction`, or `lg.grad` of a traced function, never looks at them. Takes names, values and the two ways of
making; knows neither expressions nor numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lagrad.layout import Floats, Layout, Names

if TYPE_CHECKING:
    from lagrad.assembly.flat import FlatCode


class Built:
    """Names and declared values of a program; its layout and, if it has one, its straight code, each made once."""

    def __init__(
        self,
        names: Names,
        values: Floats,
        layout: Layout | Callable[[], Layout],
        straight: Callable[[], FlatCode] | None = None,
    ) -> None:
        self.names, self.values = names, values
        self._layout, self._straight = layout, straight
        self._code: FlatCode | None = None
        self._lock = threading.Lock()

    @staticmethod
    def of(layout: Layout) -> Built:
        """With a layout that is there."""
        return Built(layout, layout.values, layout)

    @property
    def layout(self) -> Layout:
        """Rows, blocks, machine; the same for all who ask."""
        if not isinstance(self._layout, Layout):
            with self._lock:
                if not isinstance(self._layout, Layout):
                    self._layout = self._layout()
        return self._layout

    @property
    def is_straight(self) -> bool:
        """Whether there is straight code."""
        return self._straight is not None or self._code is not None

    @property
    def straight(self) -> FlatCode | None:
        """The states in order of declaration as flat code, straight from the graph; None where that is not possible."""
        if self._code is None and self._straight is not None:
            with self._lock:
                if self._straight is not None:
                    self._code, self._straight = self._straight(), None
        return self._code

    def __reduce__(self) -> tuple[Any, ...]:
        return Built.of, (self.layout,)
