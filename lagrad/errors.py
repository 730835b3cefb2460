"""Every exception lagrad raises on purpose.

Fields carry the user's names and the figures; the text is put together here and nowhere else, and always says
what is wrong, why, and what to do next. Takes names and numbers; knows no stage of the computation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_SHOWN = 6  # names listed in a message before "and N more": a message is read by a person


def listed(names: Iterable[str], limit: int = _SHOWN) -> str:
    """Names as a person reads them: "a, b, c and 4 more"."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


class LagradError(Exception):
    """The base of every exception that lagrad raises on purpose.

    Field `place`: (file, line, function) of the line of the user's code, where that is known; else None.
    """

    place: tuple[str, int, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its text and fields, so that it comes whole out of another process."""
        return _restored, (type(self), self.args, self.__dict__)

    def locate(self, file: str, line: int, function: str, source: str, advice: str | None = None) -> None:
        """Put the line of the user's code into the message; `advice` takes the place of what was advised."""
        if self.place is not None:
            return  # the innermost line is the one to look at
        self.place = (file, line, function)
        text, rest = str(self), ""
        given = getattr(self, "advice", "")
        if given and text.endswith(given):
            text, rest = text[: -len(given)].rstrip(), given
        rest = rest if advice is None else advice
        where = f'\n  File "{file}", line {line}, in {function}' + (f"\n    {source}" if source else "")
        self.args = (text + where + (f"\n{rest}" if rest else ""),)


def _restored(kind: type[LagradError], args: tuple[Any, ...], fields: dict[str, Any]) -> LagradError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class ExpressionError(LagradError, TypeError):
    """An operation that expressions do not take part in.

    Fields: `operation` (what was asked), `reason`, `advice`.
    """

    def __init__(self, operation: str, reason: str, advice: str = "") -> None:
        self.operation, self.reason, self.advice = operation, reason, advice
        super().__init__(f"{operation}: {reason}" + (f" {advice}" if advice else ""))


class ShapeError(LagradError, ValueError):
    """Shapes that do not fit together.

    Fields: `what` (the thing), `got` and `expected` (shapes or a sentence).
    """

    def __init__(self, what: str, got: object, expected: object, advice: str = "") -> None:
        self.what, self.got, self.expected, self.advice = what, got, expected, advice
        super().__init__(f"{what}: got shape {got}, expected {expected}." + (f" {advice}" if advice else ""))


class DeclarationError(LagradError, ValueError):
    """A declaration that a Program cannot take: a name used twice, a value that is no number, and the like.

    Fields: `name` (the user's thing), `reason`, `advice`.
    """

    def __init__(self, name: str, reason: str, advice: str = "") -> None:
        self.name, self.reason, self.advice = name, reason, advice
        super().__init__(f"{name}: {reason}" + (f" {advice}" if advice else ""))


class UnknownNameError(LagradError, KeyError):
    """A name that the program does not have, or not in the role asked for.

    Fields: `name`, `role` (what was looked for), `known` (the names there are).
    """

    def __init__(self, name: str, role: str, known: Sequence[str]) -> None:
        from difflib import get_close_matches

        self.name, self.role, self.known = name, role, list(known)
        near = get_close_matches(name, self.known, n=3)
        hint = (
            f" Did you mean {' or '.join(near)}?"
            if near
            else f" There are: {listed(self.known, 12) or 'none'}."
        )
        self.message = f"no {role} is named {name!r}.{hint}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return self.message


class StructuralError(LagradError):
    """The constraints do not determine the states, whatever the numbers: too many here, too few there.

    Fields: `over` and `under`, each a list of (constraint names, state names), one per connected piece:
    over-determined pieces have more constraints than states, under-determined ones more states than
    constraints.
    """

    def __init__(
        self,
        over: Sequence[tuple[Sequence[str], Sequence[str]]],
        under: Sequence[tuple[Sequence[str], Sequence[str]]],
        constraints: int,
        states: int,
    ) -> None:
        self.over = [(list(c), list(s)) for c, s in over]
        self.under = [(list(c), list(s)) for c, s in under]
        self.constraints, self.states = constraints, states
        lines = [
            f"the system is structurally singular: {constraints} constraint{'s' * (constraints != 1)}, "
            f"{states} state{'s' * (states != 1)}."
        ]
        for c, s in self.over[:_SHOWN]:
            lines.append(
                f"Over-determined: {len(c)} constraint{'s' * (len(c) != 1)} ({listed(c)}) "
                + (
                    f"for {len(s)} state{'s' * (len(s) != 1)} ({listed(s)}). "
                    if s
                    else f"mention{'s' * (len(c) == 1)} no state. "
                )
                + (
                    f"Remove {len(c) - len(s)} of these constraints, or turn a parameter in them into a state."
                    if len(c) != 1
                    else "Remove it, or turn a parameter in it into a state."
                )
            )
        for c, s in self.under[:_SHOWN]:
            lines.append(
                f"Under-determined: {len(s)} state{'s' * (len(s) != 1)} ({listed(s)}) "
                + (
                    f"in {len(c)} constraint{'s' * (len(c) != 1)} ({listed(c)}). "
                    if c
                    else "in no constraint. "
                )
                + (
                    f"Add {len(s) - len(c)} constraint{'s' * (len(s) - len(c) != 1)} that "
                    f"mention{'s' * (len(s) - len(c) == 1)} them, or make some of these states parameters."
                    if len(s) != 1
                    else "Add a constraint that mentions it, or make it a parameter."
                )
            )
        rest = max(0, len(self.over) - _SHOWN) + max(0, len(self.under) - _SHOWN)
        if rest:
            lines.append(f"… and {rest} more pieces in this exception's `over` and `under`.")
        super().__init__("\n".join(lines))


class BlockError(LagradError):
    """Something about one block, by the user's names.

    Fields: `block` (its position in block order; -1 where no blocks were formed), `constraints`, `states`, `reason`,
    `advice`; `point`, parameters and states where solving ended, for `System.diagnose`, or None.
    """

    what = "block"
    point: Any = None

    def __init__(
        self, block: int, constraints: Sequence[str], states: Sequence[str], reason: str, advice: str = ""
    ) -> None:
        self.block, self.reason, self.advice = block, reason, advice
        self.constraints, self.states = list(constraints), list(states)
        where = f"constraints {listed(self.constraints)}; states {listed(self.states)}"
        super().__init__(
            f"{self.what}: {where if block < 0 else f'block {block} ({where})'}: {reason}"
            + (f" {advice}" if advice else "")
        )


class ConvergenceError(BlockError):
    """A block was not solved. `attempts`: what was tried; `values`: the last iterate by state name."""

    what = "not solved"

    def __init__(
        self,
        block: int,
        constraints: Sequence[str],
        states: Sequence[str],
        reason: str,
        advice: str = "",
        attempts: Sequence[object] = (),
        values: dict[str, float] | None = None,
    ) -> None:
        self.attempts, self.values = list(attempts), dict(values or {})
        super().__init__(block, constraints, states, reason, advice)


class SingularError(BlockError):
    """A block whose Jacobian is singular at the solution: no derivative exists there, or not a unique one."""

    what = "singular"


class IllConditionedError(BlockError):
    """A block so ill conditioned that nothing could be vouched for. Field `rcond`: the estimate."""

    what = "ill conditioned"

    def __init__(
        self,
        block: int,
        constraints: Sequence[str],
        states: Sequence[str],
        reason: str,
        advice: str = "",
        rcond: float = 0.0,
    ) -> None:
        self.rcond = rcond
        super().__init__(block, constraints, states, reason, advice)


class NotASolutionError(BlockError):
    """A derivative was asked for at a point that does not satisfy the constraints."""

    what = "not a solution"


class EvaluationError(BlockError):
    """A value that is not finite: a constraint left the domain of a function, or an input was nan."""

    what = "not finite"


class KinkError(BlockError):
    """A second derivative at a kink of a function, as that of |x| at 0: it does not exist."""

    what = "not smooth"


class CertificateError(LagradError):
    """A derivative whose own check failed: the linear residual stayed too large, or `strict` asked for more.

    Fields: `mode` ("adjoint" or "tangent"), `residual` (backward error reached; under `strict` the bound on the error),
    `limit`, `where`, `reason` (what `strict` found, else empty).
    """

    def __init__(self, mode: str, residual: float, limit: float, where: str = "", reason: str = "") -> None:
        self.mode, self.residual, self.limit, self.where, self.reason = mode, residual, limit, where, reason
        super().__init__(
            f"{where}: not certified as strictly as asked: {reason}."
            if reason
            else f"the {mode} solve was not certified: backward error {residual:.1e} after refinement, "
            f"limit {limit:.0e}{' in ' + where if where else ''}. The Jacobian is close to singular or badly "
            f"scaled there: look at solution.certificate, rescale states or constraints."
        )


class ModelFileError(LagradError):
    """A model file that cannot be read as a model. Nothing in it was run.

    Fields: `file`, `entry` (section.name or None), `reason`, `advice`, `excerpt` (the piece of text).
    """

    def __init__(
        self, file: str, entry: str | None, reason: str, *, advice: str = "", excerpt: str = ""
    ) -> None:
        self.file, self.entry, self.reason, self.advice, self.excerpt = file, entry, reason, advice, excerpt
        place = f"{file}: {entry}" if entry else file
        super().__init__(
            f"{place}: {reason}" + (f"\n    {excerpt}" if excerpt else "") + (f"\n{advice}" if advice else "")
        )


class ComparisonError(LagradError):
    """A second opinion that cannot be had: a method that does not apply to a program, or is not installed.

    Fields: `method`, `reason`, `advice`.
    """

    def __init__(self, method: str, reason: str, advice: str = "") -> None:
        self.method, self.reason, self.advice = method, reason, advice
        super().__init__(f"{method}: {reason}" + (f" {advice}" if advice else ""))
