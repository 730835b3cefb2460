"""Values and declarations as plain text. Takes numbers or a Program, gives lines; knows no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lagrad.expr.text import node_text
from lagrad.lagrangian.lagrangian import SHOWN
from lagrad.lagrangian.text import aligned
from lagrad.program import Declared, Program

DIGITS: Final = 12
ELEMENTS: Final = 8  # of an array that is written out


def printable(text: str) -> str:
    """Text in which nothing but letters, signs, spaces and line ends reaches the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def number_text(value: float) -> str:
    """A number for a person, with twelve digits."""
    return f"{float(value):.{DIGITS}g}"


def value_text(value: Any) -> str:
    """A number, or an array as nested lists; of a large array its shape and range."""
    array = np.asarray(value)
    if array.ndim == 0:
        return number_text(float(array))
    if array.size > ELEMENTS:
        low, high = number_text(array.min()), number_text(array.max())
        return f"array of shape {_shape_text(array.shape)}, {low} to {high}"
    return _nested(array)


def _nested(array: NDArray[np.float64]) -> str:
    if array.ndim == 0:
        return number_text(float(array))
    return "[" + ", ".join(_nested(part) for part in array) + "]"


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def counted(count: int, word: str) -> str:
    """ "1 state", "2 states"."""
    return f"{count} {word}{'s' * (count != 1)}"


def summary(program: Program) -> str:
    """ "sellar: 3 parameters, 3 states, 3 constraints"."""
    sizes = (
        counted(program.parameters.size, "parameter"),
        counted(program.states.size, "state"),
        counted(program.constraints.size, "constraint"),
    )
    return f"{program.name}: {', '.join(sizes)}"


def declarations(program: Program) -> Iterator[str]:
    """Parameters and states, one line each."""
    if program.parameters.items:
        yield "Parameters"
        values = [
            "to be given" if v is None else value_text(v)
            for v in program.values[:SHOWN]
        ]  # fmt: skip
        yield from aligned([(i.name, v) for i, v in zip(program.parameters.items, values, strict=False)])
        yield from _rest(len(program.parameters.items))
        yield ""
    if program.states.items:
        yield "States"
        lines = [
            (item.name, _state_line(program, k, item)) for k, item in enumerate(program.states.items[:SHOWN])
        ]
        yield from aligned(lines)
        yield from _rest(len(program.states.items))
        yield ""


def shared_values(program: Program) -> Iterator[str]:
    """Of a traced function, what each value that is used twice or more is computed from."""
    shared = program.shared()
    if shared:
        yield "Values used twice or more: each a hidden state, written out in what follows"
        shown = list(shared.items())[:SHOWN]
        yield from aligned(
            [(f"{name}:", f"{name} == {node_text(program.graph, k, named=shared)}") for k, name in shown]
        )
        yield from _rest(len(shared))
        yield ""


def _state_line(program: Program, k: int, item: Declared) -> str:
    guess = program.guesses[k]
    text = "defined" if guess is None else f"guess {value_text(guess)}"
    if item.shape and (guess is None or item.size > ELEMENTS):
        text += f", shape {_shape_text(item.shape)}"
    if k in program.bounds:
        low, high = program.bounds[k]
        if np.isfinite(low).any():
            text += f", at least {value_text(low if np.ptp(low) else low.flat[0])}"
        if np.isfinite(high).any():
            text += f", at most {value_text(high if np.ptp(high) else high.flat[0])}"
    return text


def _rest(count: int) -> Iterator[str]:
    if count > SHOWN:
        yield f"  … and {count - SHOWN} more"
