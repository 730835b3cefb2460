"""The essay, executable: a program and its derivative program as plain Python.

Takes a Program and an output, gives source text that runs with NumPy and SciPy alone. Forwards, each constraint is a
statement; backwards, each multiplier is a statement too, in reverse order, made by two rules: adjoints add, and
multiply along edges. A block of constraints that need each other is solved by Newton's method, and its multipliers
by one linear system with the transposed partials. Reads the block structure; shares no arithmetic with the engine.

Values that are used twice get names of their own (t1, t2, …, or the names they had in a traced function), and so do
operations inside a formula whose partial is written with their value, such as exp: nothing is computed twice.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lagrad.errors import DeclarationError
from lagrad.expr.graph import CONSTANT, LINEAR, PARAMETER, STATE
from lagrad.expr.primitives import OPCODE, PRIMITIVES
from lagrad.expr.walk import branches, leaves, operands
from lagrad.numbers import check_kind
from lagrad.program import Declared, Program, Registry, element_name
from lagrad.solve import Solution
from lagrad.view import python_source as py

LARGEST_INLINE: Final = 24  # operations written into one statement
SMALL_OPERAND: Final = 3  # operations of a sum inside a function, where a partial writes it again
LARGE_WEIGHT: Final = 8  # names and operations of an adjoint that is not written twice
LITERAL: Final = 4  # states of a block whose partials are written as a matrix; larger ones entry by entry

Key = tuple[str, int]  # ("state", j), ("parameter", k) or ("value", node)
Sink = Callable[[Key, ast.expr], None]

_GLUE: Final = frozenset(OPCODE[k] for k in ("add", "sub", "neg")) | {LINEAR}
_MUL, _DIV = OPCODE["mul"], OPCODE["div"]
_PICK, _PICKNOT = OPCODE["pick"], OPCODE["picknot"]
_TAKEN: Final = frozenset(p.name for p in PRIMITIVES) | frozenset(
    ("solve", "newton", "transpose", "zeros", "sum", "abs", "float", "polygamma", "inf", "pi")
)
_NEWTON: Final = '''
def newton(block, u):
    """The root of block(*u)[0] from u on, and its partials block(*u)[1] there."""
    for _ in range(50):
        R, J = block(*u)
        step = solve(J, R)
        u = u - step
        if max(abs(step)) <= 1e-11 * max(abs(u)):
            return u, block(*u)[1]
    raise ArithmeticError(f"{block.__name__}: no convergence")
'''


def adjoint_source(program: Program, output: str | None = None, *, at: Solution | None = None) -> str:
    """The derivative program of a scalar output, as Python source that runs.

    The function in it takes the parameters and returns (value, {parameter: derivative}, {constraint:
    multiplier}); constraints that do not influence the output are left out. `output` is a state, a definition or
    an element ("y[3]"); the last scalar definition if left out. Blocks start Newton's method from the guesses, or
    from the values of a solution (`at`); bounds are not written. Raises `StructuralError` where the constraints do
    not determine the states.

    >>> import lagrad as lg
    >>> program = lg.Program("essay")
    >>> x = program.parameter("x", 0.5)
    >>> a = program.define("a", lg.exp(x))
    >>> f = program.define("f", lg.sin(a) + a)
    >>> print(lg.adjoint_source(program))
    # Program 'essay': f and its derivatives.
    from numpy import cos, exp, sin
    <BLANKLINE>
    <BLANKLINE>
    def essay(x):
        # the constraints, in order
        a = exp(x)
        f = sin(a) + a
        # the multipliers, in reverse order: adjoints add, and multiply along edges
        λ_f = 1
        λ_a = λ_f + λ_f * cos(a)
        # the derivatives
        d_x = λ_a * a
        return f, {'x': d_x}, {'a': λ_a, 'f': λ_f}
    <BLANKLINE>
    """
    check_kind("adjoint_source", program, Program)
    if at is not None:
        check_kind("at", at, Solution)
    if output is None:
        scalars = [item.name for item in program.states.items if item.defined and not item.shape]
        if not scalars:
            raise DeclarationError("adjoint_source", "there is no scalar definition.", "Name an output.")
        output = scalars[-1]
    return _Writer(program, output, at).source()


# -- structure ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Block:
    """Constraints and the states that they determine, by scalar index; explicit: one, state == formula.

    `sign` of an explicit one is −1 where it was written formula == state.
    """

    constraints: list[int]
    states: list[int]
    explicit: bool
    formulas: list[int]  # nodes: the formula of an explicit block; both sides, one after the other, of others
    sign: int = 1


def influential_blocks(program: Program, output: int) -> list[Block]:
    """The blocks that the output depends on, in order of solving."""
    from lagrad.structure.blocks import EXPLICIT, block_triangular
    from lagrad.structure.matching import maximum_matching

    graph, n, rows = program.graph, program.states.size, len(program.lhs)
    sides = list(zip(program.lhs, program.rhs, strict=True))
    mentioned = [sorted({*leaves(graph, lhs, STATE), *leaves(graph, rhs, STATE)}) for lhs, rhs in sides]
    indptr = np.cumsum([0, *map(len, mentioned)], dtype=np.int32)
    indices = np.array([j for row in mentioned for j in row], dtype=np.int32)
    bare = [_bare_state(program, lhs, rhs) for lhs, rhs in sides]
    defines = np.array([j for j, _, _ in bare], dtype=np.int32)
    uses_itself = np.array([j >= 0 and j in leaves(graph, f, STATE) for j, f, _ in bare], dtype=np.bool_)
    natural = np.where(np.arange(rows) < n, np.arange(rows), -1)
    preferred = np.where(defines >= 0, defines, natural).astype(np.int32)
    matching = maximum_matching(rows, n, indptr, indices, preferred)
    if rows != n or matching.rank < n:
        from lagrad.system import build

        build(program)  # raises, with the names
    found = block_triangular(n, indptr, indices, defines, matching, uses_itself)
    needed, kept = {output}, []
    for b in range(len(found) - 1, -1, -1):
        places = range(found.ptr[b], found.ptr[b + 1])
        constraints = [int(found.row_order[k]) for k in places]
        states = [int(found.col_order[k]) for k in places]
        if needed.isdisjoint(states):
            continue
        needed.update(j for i in constraints for j in mentioned[i])
        if found.kind[b] == EXPLICIT:
            _, formula, sign = bare[constraints[0]]
            kept.append(Block(constraints, states, True, [formula], sign))
        else:
            formulas = [side for i in constraints for side in sides[i]]
            kept.append(Block(constraints, states, False, formulas))
    return kept[::-1]


def _bare_state(program: Program, lhs: int, rhs: int) -> tuple[int, int, int]:
    """(state, formula, sign) of a constraint that says state == formula; (−1, rhs, 1) of any other."""
    graph = program.graph
    if graph.code[lhs] == STATE:
        return graph.a[lhs], rhs, 1
    if graph.code[rhs] == STATE:
        return graph.a[rhs], lhs, -1
    return -1, rhs, 1


# -- names --------------------------------------------------------------------------------------------------------
class _Names:
    """Python names for what the user named otherwise, no two the same."""

    def __init__(self) -> None:
        self.taken = set(_TAKEN) | set(keyword.kwlist)

    def new(self, name: str, prefix: str = "") -> str:
        """A name that can stand in Python, close to `name`."""
        made = prefix + (re.sub(r"\W+", "_", name).strip("_") or "it")
        made = made if made.isidentifier() else "_" + made
        while made in self.taken:
            made += "_"
        self.taken.add(made)
        return made


class _Things:
    """The scalars of a registry as Python variables: x, or z[0] of an array z."""

    def __init__(self, registry: Registry, names: _Names, prefix: str = "") -> None:
        self.registry = registry
        self.names = {item.name: names.new(item.name, prefix) for item in registry.items}

    def __call__(self, index: int) -> ast.expr:
        """The variable of scalar `index`."""
        item = self.registry.owner(index)
        while item.size == 0 or index >= item.start + item.size:
            item = self.registry.items[self.registry.items.index(item) - 1]
        text = element_name(self.names[item.name], item.shape, index - item.start)
        return ast.parse(text.replace(",", ", "), mode="eval").body

    def among(self, indices: Iterable[int]) -> list[Declared]:
        """The things that have one of these scalars, in order of declaration."""
        names = {self.registry.owner(k).name for k in indices}
        return [item for item in self.registry.items if item.name in names]


# -- writing ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Step:
    """One step of the forward run: a named value, or a block. `inside`: named values that need its states."""

    value: int = -1
    block: Block | None = None
    inside: tuple[int, ...] = ()
    function: str = ""  # the names of a block's function and of its partials at the solution
    partials: str = ""


class _Writer:
    """Writes one derivative program, forwards and then backwards."""

    def __init__(self, program: Program, output: str, at: Solution | None) -> None:
        self.program, self.graph, self.at = program, program.graph, at
        self.output_name, self.output = output, program.states.scalar_index(output, "state or definition")
        self.blocks = influential_blocks(program, self.output)
        names = _Names()
        self.function = names.new(program.name)
        self.parameter = _Things(program.parameters, names)
        self.state = _Things(program.states, names)
        self.multiplier = _Things(program.constraints, names, "λ_")
        self.slope = _Things(program.parameters, names, "d_")
        self.names = names
        self.rank, named = _named_values(program, self.blocks)
        self.values: dict[int, str] = {}  # node -> Python name, for the nodes that have one
        labels = program.labels
        for node in sorted(named):
            self.values[node] = (
                names.new(labels[node]) if node in labels else names.new(f"t{len(self.values) + 1}")
            )
        self.lambdas = {node: names.new(name, "λ_") for node, name in self.values.items()}
        self.inside_block = names.new("R"), names.new("J"), names.new("u")
        self.steps = self._steps()
        self.lines: list[str] = []

    def source(self) -> str:
        """The whole text."""
        influential = [i for block in self.blocks for i in block.constraints]
        determined = [j for block in self.blocks for j in block.states]
        self._arrays(self.state, determined)
        self.lines.append("# the constraints, in order")
        for step in self.steps:
            self._forwards(step)
        self.lines.append("# the multipliers, in reverse order: adjoints add, and multiply along edges")
        self._arrays(self.multiplier, influential)
        parts = self._backwards()
        self.lines.append("# the derivatives")
        gradient = self._gradient(parts)
        multipliers = ", ".join(
            f"{item.name!r}: {self.multiplier.names[item.name]}"
            for item in self.multiplier.among(influential)
        )
        value = ast.unparse(self.state(self.output))
        self.lines.append(f"return {value}, {{{gradient}}}, {{{multipliers}}}")
        arguments = ", ".join(self.parameter.names[item.name] for item in self.program.parameters.items)
        body = "\n".join("    " + line for line in self.lines)
        function = f"def {self.function}({arguments}):\n{body}\n"
        return self._imports(function) + "\n" + function

    def _imports(self, function: str) -> str:
        numpy, special = py.functions_called(function)
        solves = "newton(" in function
        lines = [f"# Program {self.program.name!r}: {self.output_name} and its derivatives."]
        if solves:
            numpy = sorted({*numpy, "transpose"}) if "transpose(" in function else numpy
        if numpy:
            lines.append(f"from numpy import {', '.join(numpy)}")
        if solves:
            lines.append("from numpy.linalg import solve")
        if special:
            lines.append(f"from scipy.special import {', '.join(special)}")
        return "\n".join(lines) + "\n\n" + (_NEWTON + "\n" if solves else "")

    def _arrays(self, things: _Things, indices: list[int]) -> None:
        for item in things.among(indices):
            if item.shape:
                self.lines.append(f"{things.names[item.name]} = zeros({item.shape})")

    # -- formulas ---------------------------------------------------------------------------------------------
    def _written(self, node: int) -> ast.expr:
        """A node where it is used: by its name if it has one."""
        if node in self.values:
            return ast.Name(self.values[node])
        return self._formula(node)

    def _formula(self, node: int) -> ast.expr:
        """What a node is computed from."""
        graph = self.graph
        code, a = graph.code[node], graph.a[node]
        if code == CONSTANT:
            return py.number(graph.values[a])
        if code == PARAMETER:
            return self.parameter(a)
        if code == STATE:
            return self.state(a)
        if code == LINEAR:
            end = a + graph.b[node]
            return py.linear(graph.coefs[a:end], [self._written(k) for k in graph.args[a:end]])
        chosen = _choice(self.program, node)
        if chosen is not None:
            test, x, y = chosen
            return py.choice(self._condition(test), self._branch(x), self._branch(y))
        return py.value(code, [self._written(k) for k in operands(graph, node)])

    def _branch(self, node: int | None) -> ast.expr:
        return py.ZERO if node is None else self._written(node)

    def _condition(self, node: int) -> ast.expr:
        code = self.graph.code[node]
        if node in self.values or code < 0 or not py.is_truth(code):
            return py.condition(None, [self._written(node)])
        return py.condition(code, [self._written(k) for k in operands(self.graph, node)])

    def _hand_down(self, node: int, weight: ast.expr, sink: Sink, result: ast.expr | None = None) -> None:
        """Multiply along edges: the adjoint `weight` of a formula, handed down to the names that it uses.

        `result` is the formula's own name, for the partials that are written with it.
        """
        graph = self.graph
        code, a = graph.code[node], graph.a[node]
        if code == CONSTANT or (isinstance(weight, ast.Constant) and weight.value == 0):
            return
        if code in (PARAMETER, STATE):
            sink(("parameter" if code == PARAMETER else "state", a), weight)
            return
        if code == LINEAR:
            end = a + graph.b[node]
            for coef, k in zip(graph.coefs[a:end], graph.args[a:end], strict=True):
                self._edge(k, py.times(weight, py.number(coef)), sink)
            return
        chosen = _choice(self.program, node)
        if chosen is not None:
            test, x, y = chosen
            condition = self._condition(test)
            if x is not None:
                self._edge(x, weight, lambda key, w: sink(key, py.choice(condition, w, py.ZERO)))
            if y is not None:
                self._edge(y, weight, lambda key, w: sink(key, py.choice(condition, py.ZERO, w)))
            return
        below = operands(graph, node)
        written = [self._written(k) for k in below]
        value = result or self._written(node)
        for k, partial in zip(below, py.partials(code, written, value), strict=True):
            self._edge(k, py.times(weight, partial), sink)

    def _edge(self, node: int, weight: ast.expr, sink: Sink) -> None:
        if node in self.values:
            if not (isinstance(weight, ast.Constant) and weight.value == 0):
                sink(("value", node), weight)
        else:
            self._hand_down(node, weight, sink)

    # -- forwards ---------------------------------------------------------------------------------------------
    def _steps(self) -> list[_Step]:
        steps: list[_Step] = []
        known: set[int] = set()
        number = 0
        for b, block in enumerate(self.blocks):
            wanted = self._values_below(block.formulas, known)
            known.update(wanted)
            inside = [] if block.explicit else [t for t in wanted if self.rank[t] == b]
            steps += [_Step(value=t) for t in wanted if t not in inside]
            if block.explicit:
                steps.append(_Step(block=block))
            else:
                number += 1
                new = self.names.new
                steps.append(_Step(-1, block, tuple(inside), new(f"block_{number}"), new(f"J_{number}")))
        return steps

    def _values_below(self, roots: Iterable[int], known: set[int]) -> list[int]:
        """The named values that formulas need and that are not known, in order of evaluation."""
        found, seen, stack = set(), set(), list(roots)
        while stack:
            node = stack.pop()
            if node in seen or node in known:
                continue
            seen.add(node)
            if node in self.values:
                found.add(node)
            stack.extend(operands(self.graph, node))
        return sorted(found)

    def _forwards(self, step: _Step) -> None:
        block = step.block
        if block is None:
            self.lines.append(py.assign(self.values[step.value], self._formula(step.value)))
        elif block.explicit:
            self.lines.append(py.assign(self.state(block.states[0]), self._written(block.formulas[0])))
        else:
            self._block_function(step)
            self.lines += [py.assign(self.values[t], self._formula(t)) for t in step.inside]

    def _block_function(self, step: _Step) -> None:
        """The residuals of a block and their partials as a function, and its solution by Newton's method."""
        block, lines = step.block, self.lines
        assert block is not None
        states = [ast.unparse(self.state(j)) for j in block.states]
        starts = self._starts(step)
        scalars = all(name.isidentifier() for name in states) and len(states) <= 2 * LITERAL
        together = ", ".join(states) + ("," if len(states) == 1 else "")
        R, J, u = self.inside_block
        lines.append(f"def {step.function}({', '.join(states) if scalars else '*' + u}):")
        if not scalars:
            lines.append(f"    {together} = {u}")
        lines += ["    " + py.assign(self.values[t], self._formula(t)) for t in step.inside]
        residuals, partials, weights = self._residuals(step)
        lines += ["    " + line for line in weights]
        if len(states) <= LITERAL:
            lines.append(f"    {R} = [{', '.join(residuals)}]")
            rows = [", ".join(ast.unparse(x) for x in row) for row in partials]
            lines.append(f"    {J} = [{', '.join(f'[{row}]' for row in rows)}]")
        else:
            lines += [f"    {R} = [", *(f"        {residual}," for residual in residuals), "    ]"]
            lines.append(f"    {J} = zeros({(len(states), len(states))})")
            for i, row in enumerate(partials):
                lines += [
                    f"    {J}[{i}, {k}] = {ast.unparse(x)}" for k, x in enumerate(row) if x is not py.ZERO
                ]
        lines.append(f"    return {R}, {J}")
        lines.append(f"({together}), {step.partials} = newton({step.function}, [{', '.join(starts)}])")

    def _starts(self, step: _Step) -> list[str]:
        """What Newton's method starts from: guesses; for definitions, their formulas at the guesses."""
        block, program = step.block, self.program
        assert block is not None
        if self.at is not None:
            return [repr(float(self.at[program.state_name(j)])) for j in block.states]
        position = {item.name: k for k, item in enumerate(program.states.items)}
        starts, defined = [], []
        for j in block.states:
            item = program.states.owner(j)
            guess = program.guesses[position[item.name]]
            if guess is None:
                starts.append(ast.unparse(self.state(j)))
                defined.append(j)
            else:
                starts.append(repr(float(guess.ravel()[j - item.start])))
        if defined:
            given = [
                (self.state(j), text)
                for j, text in zip(block.states, starts, strict=True)
                if j not in defined
            ]
            self.lines += [f"{ast.unparse(name)} = {text}" for name, text in given]
            self._opening(step, defined)
        return starts

    def _opening(self, step: _Step, defined: list[int]) -> None:
        """Definitions inside a block at the guesses, each after the values that it needs."""
        block = step.block
        assert block is not None
        formulas: dict[int, int] = {}  # node of the state -> its formula
        for lhs, rhs in zip(block.formulas[::2], block.formulas[1::2], strict=True):
            if self.graph.code[lhs] == STATE and self.graph.a[lhs] in defined:
                formulas[lhs] = rhs
        inside = set(step.inside)
        for node in sorted([*formulas, *inside]):
            if node in formulas:
                self.lines.append(py.assign(self._written(node), self._written(formulas[node])))
            elif self._values_below([node], set()):
                self.lines.append(py.assign(self.values[node], self._formula(node)))

    def _residuals(self, step: _Step) -> tuple[list[str], list[list[ast.expr]], list[str]]:
        """(residuals, partials by the block's states, lines before them) of every constraint of a block."""
        block = step.block
        assert block is not None
        column = {j: k for k, j in enumerate(block.states)}
        residuals: list[str] = []
        partials: list[list[ast.expr]] = []
        lines: list[str] = []
        for lhs, rhs in zip(block.formulas[::2], block.formulas[1::2], strict=True):
            residuals.append(ast.unparse(py.total([self._written(lhs), py.negative(self._written(rhs))])))
            parts: list[list[ast.expr]] = [[] for _ in block.states]
            adjoints: dict[int, list[ast.expr]] = {t: [] for t in step.inside}

            def sink(key: Key, weight: ast.expr, parts: Any = parts, adjoints: Any = adjoints) -> None:
                kind, k = key
                if kind == "state" and k in column:
                    parts[column[k]].append(weight)
                elif kind == "value" and k in adjoints:
                    adjoints[k].append(weight)

            self._edge(lhs, py.ONE, sink)
            self._edge(rhs, py.negative(py.ONE), sink)
            for t in reversed(step.inside):
                if adjoints[t]:
                    weight = py.total(adjoints[t])
                    if py.size(weight) > LARGE_WEIGHT:
                        name = self.names.new(f"w{len(lines) + 1}")
                        lines.append(py.assign(name, weight))
                        weight = ast.Name(name)
                    self._hand_down(t, weight, sink, ast.Name(self.values[t]))
            partials.append([py.total(terms) for terms in parts])
        return residuals, partials, lines

    # -- backwards --------------------------------------------------------------------------------------------
    def _backwards(self) -> dict[Key, list[ast.expr]]:
        """All multipliers; returns what is handed down to every name, the parameters' among it."""
        parts: dict[Key, list[ast.expr]] = {("state", self.output): [py.ONE]}

        def add(key: Key, weight: ast.expr) -> None:
            parts.setdefault(key, []).append(weight)

        for step in reversed(self.steps):
            block = step.block
            if block is None:
                self._value_backwards(step.value, parts.get(("value", step.value), []), add)
            elif block.explicit:
                target = self.multiplier(block.constraints[0])
                adjoint = _sum(parts.get(("state", block.states[0]), []))
                self.lines.append(py.assign(target, adjoint if block.sign > 0 else py.negative(adjoint)))
                if adjoint is not py.ZERO:
                    weight = target if block.sign > 0 else py.negative(target)
                    formula = block.formulas[0]
                    if formula in self.values:
                        self._edge(formula, weight, add)
                    else:
                        self._hand_down(formula, weight, add, self.state(block.states[0]))
            else:
                self._block_backwards(step, parts, add)
        return parts

    def _value_backwards(self, node: int, terms: list[ast.expr], sink: Sink) -> None:
        adjoint = _sum(terms)
        if adjoint is py.ZERO:
            return
        name = self.lambdas[node]
        self.lines.append(py.assign(name, adjoint))
        self._hand_down(node, ast.Name(name), sink, ast.Name(self.values[node]))

    def _block_backwards(self, step: _Step, parts: dict[Key, list[ast.expr]], add: Sink) -> None:
        """One linear system for the multipliers of a block.

        Its named values are eliminated: what later constraints hand down to them is first handed on to the states
        of the block, for the right side; with the multipliers known, all that reaches them is handed on outwards.
        """
        block = step.block
        assert block is not None
        own = {("state", j) for j in block.states}
        inside = {("value", t) for t in step.inside}
        later = {t: list(parts.get(("value", t), [])) for t in step.inside}
        to_inside: dict[Key, list[ast.expr]] = {}

        def inwards(key: Key, weight: ast.expr) -> None:
            if key in own:
                add(key, weight)
            elif key in inside:
                to_inside.setdefault(key, []).append(weight)

        for t in reversed(step.inside):
            self._value_backwards(t, later[t] + to_inside.get(("value", t), []), inwards)
        right = [_sum(parts.get(("state", j), [])) for j in block.states]
        targets = [ast.unparse(self.multiplier(i)) for i in block.constraints]
        if len(targets) == 1:
            slope = ast.parse(f"{step.partials}[0][0]", mode="eval").body
            self.lines.append(py.assign(targets[0], ast.BinOp(right[0], ast.Div(), slope)))
        else:
            written = ", ".join(map(ast.unparse, right))
            self.lines.append(f"{', '.join(targets)} = solve(transpose({step.partials}), [{written}])")
        to_inside.clear()

        def outwards(key: Key, weight: ast.expr) -> None:
            if key in inside:
                to_inside.setdefault(key, []).append(weight)
            elif key not in own:
                add(key, weight)

        sides = zip(block.constraints, block.formulas[::2], block.formulas[1::2], strict=True)
        for i, lhs, rhs in sides:
            self._edge(lhs, py.negative(self.multiplier(i)), outwards)
            self._edge(rhs, self.multiplier(i), outwards)
        for t in reversed(step.inside):
            self._value_backwards(t, later[t] + to_inside.get(("value", t), []), outwards)

    def _gradient(self, parts: Mapping[Key, list[ast.expr]]) -> str:
        """A line for every parameter that matters; the entries of the dictionary of derivatives."""
        for item in self.program.parameters.items:
            name = self.slope.names[item.name]
            if item.shape:
                self.lines.append(f"{name} = zeros({item.shape})")
            for k in range(item.start, item.start + item.size):
                terms = parts.get(("parameter", k), [])
                if terms or not item.shape:
                    self.lines.append(py.assign(self.slope(k), _sum(terms)))
        return ", ".join(
            f"{item.name!r}: {self.slope.names[item.name]}" for item in self.program.parameters.items
        )


def _sum(terms: list[ast.expr]) -> ast.expr:
    """Adjoints add; the use that comes first in the program is written first."""
    return py.total(terms[::-1])


# -- which values get names -----------------------------------------------------------------------------------------
def _choice(program: Program, node: int) -> tuple[int, int | None, int | None] | None:
    """(condition, x, y) of a node that is x if condition else y; None stands for 0."""
    graph = program.graph
    found = branches(graph, node)
    if found is not None:
        return found
    if graph.code[node] == _PICK:
        return graph.a[node], graph.b[node], None
    if graph.code[node] == _PICKNOT:
        return graph.a[node], None, graph.b[node]
    return None


def _named_values(program: Program, blocks: list[Block]) -> tuple[dict[int, int], set[int]]:
    """(the block after which each node is known, −1 before all of them; the nodes that get names).

    A value used twice gets one; so does what a partial repeats: an operation inside another whose partial is
    written with its value, an argument with which its function's partial is written, unless it is a short sum;
    and whatever makes a statement longer than `LARGEST_INLINE`. The branches of a choice keep their operations,
    so that only the one chosen is evaluated.
    """
    graph = program.graph
    uses: dict[int, int] = {}
    written: dict[int, list[int]] = {}  # operands as they are written
    protected: set[int] = set()  # operands of a choice
    stack = [root for block in blocks for root in block.formulas]
    for root in stack:
        uses[root] = uses.get(root, 0) + 1
    while stack:
        node = stack.pop()
        if node in written:
            continue
        chosen = _choice(program, node)
        below = operands(graph, node) if chosen is None else [k for k in chosen if k is not None]
        written[node] = below
        if chosen is not None:
            protected.update(below)
        for k in below:
            uses[k] = uses.get(k, 0) + 1
        stack.extend(below)
    for node in sorted(written, reverse=True):  # inside a branch all the way down, while used once
        if node in protected and uses[node] == 1:
            protected.update(written[node])
    states = {j: b for b, block in enumerate(blocks) for j in block.states}
    roots = {root: block.explicit for block in blocks for root in block.formulas}
    rank: dict[int, int] = {}
    inline: dict[int, int] = {}  # operations of a node written where it is used
    named: set[int] = set()

    def name(node: int) -> None:
        named.add(node)
        inline[node] = 0

    def needs_result(node: int) -> bool:
        """Whether a partial that is wanted is written with the node's own value."""
        below = operands(graph, node)
        return graph.code[node] >= 0 and any(
            graph.code[k] != CONSTANT and py.mentions_result(graph.code[node], place)
            for place, k in enumerate(below)
        )

    for node in sorted(written):
        code, below = graph.code[node], written[node]
        own = states.get(graph.a[node], -1) if code == STATE else -1
        rank[node] = max([own, *(rank[k] for k in below)])
        glue = _is_glue(program, node)
        choice = _choice(program, node) is not None
        for place, k in enumerate(below):
            if inline[k] == 0 or k in protected or choice:
                continue
            short = _is_glue(program, k) and inline[k] <= SMALL_OPERAND
            if needs_result(k) or (not glue and not short and py.mentions_operand(code, place)):
                name(k)
        while 1 + sum(inline[k] for k in below) > max(LARGEST_INLINE, len(below)):
            name(max(below, key=lambda k: inline[k]))
        inline[node] = (1 + sum(inline[k] for k in below)) if below else 0
        if not below:
            continue
        if uses[node] > 1 or (node in roots and not roots[node] and not choice and needs_result(node)):
            name(node)
    return rank, named


def _is_glue(program: Program, node: int) -> bool:
    """Sums, and products with a constant: operations that stay where they are used."""
    graph = program.graph
    code = graph.code[node]
    if code == _MUL:
        return CONSTANT in (graph.code[graph.a[node]], graph.code[graph.b[node]])
    if code == _DIV:
        return graph.code[graph.b[node]] == CONSTANT
    return code in _GLUE
