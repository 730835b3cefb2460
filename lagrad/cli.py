"""The `lagrad` command: solve, check and show a model from a file.

Takes arguments, gives text on stdout and an exit status: 0 solved and certified, 1 the model could not be
solved or certified (one message on stderr), 2 the command or the file is wrong. No traceback gets out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

import lagrad
from lagrad.errors import (
    DeclarationError,
    ExpressionError,
    LagradError,
    ModelFileError,
    ShapeError,
    StructuralError,
    UnknownNameError,
    listed,
)
from lagrad.program import Program
from lagrad.view.text import printable

if TYPE_CHECKING:
    from lagrad.layout import Layout
    from lagrad.solve import Solution
    from lagrad.system import System
    from lagrad.view.tables import Output

SOLVED: Final = 0
NOT_SOLVED: Final = 1
WRONG: Final = 2
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it

MODEL_HELP: Final = "a .toml model file; or file.py:program, which RUNS that Python file"

EPILOG: Final = """\
MODEL is a TOML model file, which is data and is never run (docs/model_files.md), or FILE.py:NAME. The latter
runs FILE.py, your own code, as Python would; NAME is a lagrad.Program in it, or a function without arguments
that returns one.

exit status: 0 solved and certified; 1 the model could not be solved or certified;
             2 the command or the file is wrong
"""


class UsageError(Exception):
    """The command line asks for something that there is not. Exit status 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (the process's own by default); the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show λ gets ? for it, not an exception
            stream.reconfigure(errors="replace")
    try:
        try:
            options = _parser().parse_args(arguments)
        except SystemExit as stop:  # argparse has printed help, the version or the usage
            return int(stop.code or 0)
        with warnings.catch_warnings():
            # What overflows inside lagrad ends as a certificate or as an error that names the block.
            warnings.simplefilter("ignore", RuntimeWarning)
            status = _run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as with `| head`; nobody is left to tell
        _close_output()
        return SOLVED
    except OSError as error:  # files are read with errors of their own: it is the output
        _close_output()
        _say(f"the output could not be written: {error.strerror or error}")
        return NOT_SOLVED


def _close_output() -> None:
    """What is still to be written goes nowhere, not even when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(options: argparse.Namespace) -> int:
    try:
        command = {"solve": _solve, "check": _check, "show": _show}[options.command]
        return command(options)
    except (
        UsageError,
        ModelFileError,
        UnknownNameError,
        ShapeError,
        DeclarationError,
        ExpressionError,
    ) as error:
        _say(str(error))
        return WRONG
    except LagradError as error:
        _say(str(error))
        return NOT_SOLVED
    except MemoryError:
        _say("not enough memory for this model")
        return NOT_SOLVED
    except (KeyboardInterrupt, OSError):
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = " ".join(str(error).split())[:300]
        _say(
            f"internal error, please report it: {type(error).__name__}: {line} "
            f"({Path(where.filename).name}, line {where.lineno})"
        )
        return NOT_SOLVED


def _say(message: str) -> None:
    print(printable(f"lagrad: {message}"), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lagrad",
        description="Solve and differentiate systems of equality constraints.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lagrad {lagrad.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{solve,check,show}")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        return made

    solve = command("solve", "solve the model; print states, definitions and what was asked for")
    _add_set(solve)
    solve.add_argument(
        "--gradient",
        metavar="NAME",
        action="append",
        default=[],
        help="also d NAME / d parameters and the multipliers, of a state or definition, or an element y[3]",
    )
    solve.add_argument(
        "--strict",
        action="store_true",
        help="refuse gradients whose error bound is above a millionth, and one-sided ones at a kink",
    )
    solve.add_argument("--json", action="store_true", help="print one JSON object instead of tables")

    check = command("check", "find the structure and what is wrong with it, without solving")
    _add_set(check)
    check.add_argument(
        "--derivatives",
        action="store_true",
        help="then solve, and compare gradients with a tape, finite differences and the complex step",
    )

    show = command("show", "print the constraints, the Lagrangian, the adjoint equations and the blocks")
    show.add_argument("--latex", action="store_true", help="print LaTeX (amsmath) instead of text")
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="values",
        action="append",
        default=[],
        help="a parameter's value: x=2, z=[1,2], z[0]=3, theta=pi/2",
    )


# -- the model -------------------------------------------------------------------------------------------
def _load(model: str) -> Program:
    path, colon, name = model.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_python(path, name)
    if model.endswith(".py"):
        raise UsageError(f"{model}: name the program in this file, as in {model}:program or {model}:build")
    from lagrad.frontends.model_file import load_model

    return load_model(model)


def _from_python(path: str, name: str) -> Program:
    """The Program called `name` in the Python file at `path`, which is run."""
    from importlib.util import module_from_spec, spec_from_file_location

    file = os.path.abspath(path)
    if not os.path.isfile(file):
        raise UsageError(f"{path}: there is no such file")
    spec = spec_from_file_location(f"lagrad_model_{Path(file).stem}", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, os.path.dirname(file))  # as Python does for a file that it runs
    with _users_code(path, file):
        spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if found is None:
        there = [n for n, value in vars(module).items() if isinstance(value, Program)]
        if callable(getattr(module, "build", None)):
            there.append("build")
        near = f"There is {' and '.join(there)}." if there else "There is no Program in it."
        raise UsageError(f"{path}: nothing is called {name!r} in it. {near}")
    if not isinstance(found, Program):
        if not callable(found):
            kind = type(found).__name__
            raise UsageError(f"{path}:{name} is a {kind}, not a Program or a function that makes one")
        with _users_code(path, file):
            found = found()
        if not isinstance(found, Program):
            raise UsageError(f"{path}:{name}() returned a {type(found).__name__}, not a Program")
    return found


@contextmanager
def _users_code(path: str, file: str) -> Iterator[None]:
    """Run the user's code: its output goes to stderr, and its errors are told with its own file and line."""
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("default", RuntimeWarning)
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: sys.exit() in a model file is an error of the file
        line = " ".join(str(error).split())[:500]
        lineno = error.lineno if isinstance(error, SyntaxError) and error.filename == file else None
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == file:
                lineno = frame.lineno
        if isinstance(error, SyntaxError) and error.filename == file:
            lineno = error.lineno
        place = f"{path}:{lineno}" if lineno else path
        raise UsageError(f"{place}: {type(error).__name__}: {line}") from None


def _values(program: Program, assignments: Sequence[str]) -> dict[str, Any]:
    """{name: value} of --set NAME=VALUE."""
    from lagrad.frontends.formula import FormulaError, shown
    from lagrad.frontends.model_file import parse_number

    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        name = "".join(name.split())
        if not equals or not name or not value.strip():
            raise UsageError(f"--set {shown(text)}: write NAME=VALUE, as in --set x=2")
        base = re.sub(r"\[[-\d,]+\]$", "", name)
        if base not in program.parameters.by_name:
            if base in program.states.by_name:
                raise UsageError(f"--set {shown(text)}: {shown(base)} is a state; only parameters can be set")
            raise UnknownNameError(shown(base), "parameter", list(program.parameters.by_name))
        try:
            values[name] = parse_number(value)
        except FormulaError as error:
            advice = f"Write a number or a list, as in {shown(name)}=2 or {shown(name)}=[1,2]."
            raise UsageError(f"--set {shown(text)}: {error.reason.rstrip('.')}. {advice}") from None
    return values


# -- commands --------------------------------------------------------------------------------------------
def _solve(options: argparse.Namespace) -> int:
    began = time.perf_counter()
    program = _load(options.model)
    values = _values(program, options.values)
    system = lagrad.build(program)
    _check_names(system, options.gradient)
    solution = system.solve(values)
    solution.check_finite()  # all of it is printed
    certificate = solution.certificate
    gradients = {name: solution.gradient(name, strict=options.strict) for name in options.gradient}
    multipliers = {name: solution.multipliers(name) for name in options.gradient}
    if options.json:
        seconds = time.perf_counter() - began
        print(json.dumps(_as_json(program, solution, gradients, multipliers, seconds), allow_nan=False))
        return SOLVED
    from lagrad.view import tables

    out = tables.Output(sys.stdout)
    out.line(f"{program.name}: {system.structure}")
    out.line()
    tables.solution_tables(out, solution)
    for name, gradient in gradients.items():
        tables.gradient_tables(out, name, solution, gradient, multipliers[name])
    out.line(f"certified: {certificate}")
    for name, gradient in gradients.items():
        out.line(f"certified d {name}: {gradient.certificate}")
    return SOLVED


def _check_names(system: System, outputs: Sequence[str]) -> None:
    """Refuse unknown names before time is spent on solving."""
    for name in outputs:
        position, shape = system.layout.find_output(name)
        if position.size != 1:
            raise ShapeError(name, shape, "a scalar", f"Name one element: --gradient '{name}[0]'.")


def _as_json(
    program: Program,
    solution: Solution,
    gradients: dict[str, Any],
    multipliers: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    from lagrad.view.tables import visible_sizes

    layout = solution.layout
    sizes = visible_sizes(layout)
    defined = {item.name for item in layout.state_items() if item.defined}
    states = solution.states
    return {
        "model": program.name,
        "converged": bool(solution.converged),
        "parameters": _plain(solution.parameters),
        "states": _plain({n: x for n, x in states.items() if n not in defined}),
        "definitions": _plain({n: x for n, x in states.items() if n in defined}),
        "gradients": _plain(gradients),
        "multipliers": _plain(multipliers),
        "certificate": _certificate(solution.certificate)
        | {"gradients": {name: _gradient_certificate(layout, g) for name, g in gradients.items()}},
        "structure": {
            "states": layout.n_states,
            "constraints": layout.n_constraints,
            "blocks": int((sizes > 0).sum()),
            "largest_block": int(sizes.max(initial=0)),
        },
        "seconds": seconds,
    }


_FIGURES: Final = (
    "residual",
    "residual_raw",
    "worst_constraint",
    "structural_rank",
    "rcond",
    "linear_residual",
    "value",
    "corrected",
    "error",
    "sensitivity",
    "kinks",
)
BOUNDED: Final = 200  # parameters for which a bound on the error, two solves for each, is computed unasked


def _certificate(certificate: Any) -> dict[str, Any]:
    condition = 1.0 / certificate.rcond if certificate.rcond > 0.0 else math.inf
    return {name: _plain(getattr(certificate, name)) for name in _FIGURES} | {"condition": _plain(condition)}


def _gradient_certificate(layout: Layout, gradient: Any) -> dict[str, Any]:
    """With bounds on the errors; null where they were not computed, or an error is not bounded."""
    bounds = gradient.certificate.gradient_error if layout.m <= BOUNDED else None
    return _certificate(gradient.certificate) | {"gradient_error": _plain(bounds)}


def _plain(value: Any) -> Any:
    """What JSON can say: nested lists for arrays, null for what is not finite."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(options: argparse.Namespace) -> int:
    from lagrad.view import tables
    from lagrad.view.text import summary

    program = _load(options.model)
    values = _values(program, options.values)
    out = tables.Output(sys.stdout)
    out.line(summary(program))
    try:
        system = lagrad.build(program)
    except StructuralError:  # its message tells the parts; duplicates are often why
        for finding in lagrad.diagnose(program).of("duplicate"):
            out.line(str(finding))
        raise
    out.line(system.structure)
    out.line()
    tables.block_table(out, system.layout)
    for note in _notes(system):
        out.line(note)
    out.line("structure: every state is determined by the constraints")
    if _diagnose(out, program, system, values):
        return NOT_SOLVED
    if not options.derivatives:
        return SOLVED
    out.line()
    return _check_derivatives(out, system, system.solve(values))


def _diagnose(out: Output, program: Program, system: System, values: dict[str, Any]) -> bool:
    """Print what the numbers at the starting values show; whether it rules a solution out."""
    given = {re.sub(r"\[[-\d,]+\]$", "", name) for name in values}
    items = program.parameters.items
    missing = [
        i.name for i, x in zip(items, program.values, strict=True) if x is None and i.name not in given
    ]
    if missing:
        out.line(f"numbers: not looked at, as {listed(missing)} has no value")
        return False
    diagnosis = system.diagnose(parameters=values)
    for finding in diagnosis.findings:
        out.line(str(finding))
    if not diagnosis.ok:
        _say(listed((f.message for f in diagnosis.findings if f.severity == "error"), 3))
    return not diagnosis.ok


OUTPUTS_CHECKED: Final = 20


def _check_derivatives(out: Output, system: System, solution: Solution) -> int:
    """Every definition's gradient (every state's, if there is none) beside the same by other methods."""
    from lagrad.compare.gradients import check_gradients
    from lagrad.view import tables

    items = [i for i in system.layout.state_items() if i.defined] or list(system.layout.state_items())
    names = [i.element(k) for i in items[:OUTPUTS_CHECKED] for k in range(min(i.size, OUTPUTS_CHECKED))]
    found = {name: check_gradients(solution, name, show=False) for name in names[:OUTPUTS_CHECKED]}
    tables.comparison_table(out, found)
    total = sum(i.size for i in items)
    if len(found) < total:
        out.line(f"checked: {len(found)} of {total} outputs")
    wrong = [f"{c.method} of {name}" for name, checks in found.items() for c in checks if c.agrees is False]
    if wrong:
        _say(
            f"derivatives disagree: {listed(wrong)}. At a kink or a jump (of abs, where, maximum, %, floor) "
            "differences see both sides; anywhere else, please report it."
        )
        return NOT_SOLVED
    out.line("derivatives: the methods agree")
    return SOLVED


def _notes(system: System) -> Iterator[str]:
    """What is not wrong, but may not be meant."""
    layout = system.layout
    rows = layout.machine.rows
    used = np.zeros(layout.m, dtype=np.bool_)
    used[rows.b_col] = True
    idle = [i.name for i in layout.parameter_items() if i.size and not used[i.start : i.start + i.size].any()]
    if idle:
        yield f"note: no constraint mentions {', '.join(idle[:10])}{', …' if len(idle) > 10 else ''}"


def _show(options: argparse.Namespace) -> int:
    from lagrad.lagrangian.latex import program_latex
    from lagrad.lagrangian.text import equation_lines

    program = _load(options.model)
    written = program.lagrangian().equations()
    if options.latex:
        _lines(sys.stdout, program_latex(written))
        return SOLVED
    from lagrad.view import tables, text

    _lines(sys.stdout, [text.summary(program), ""])
    _lines(sys.stdout, text.declarations(program))
    _lines(sys.stdout, text.shared_values(program))
    _lines(sys.stdout, equation_lines(written))
    system = lagrad.build(program)
    out = tables.Output(sys.stdout)
    out.line()
    out.line("Blocks, in the order of solving; the adjoint equations are solved from last to first")
    tables.block_table(out, system.layout)
    out.line(system.structure)
    return SOLVED


def _lines(file: IO[str], lines: Any) -> None:
    for line in lines:
        print(printable(line), file=file)
