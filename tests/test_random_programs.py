"""Random programs over the whole table of primitives against many-digit values and derivatives.

A program is a list of instructions, each a primitive or a change of shape applied to earlier values; it is
run once with lagrad's expressions and once with mpmath's numbers. Derivatives of the second are central
differences at 40 digits, states of implicit programs are polished there by Newton's method, and total
derivatives follow from the implicit function theorem: nothing of lagrad takes part in the truth.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
import sympy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import both_ways
from numpy.typing import NDArray

import lagrad as lg
from lagrad.expr.expression import binary, unary
from lagrad.expr.primitives import FLAT, OPCODE, PRIMITIVES

Floats = NDArray[np.float64]
Numbers = NDArray[Any]  # of mpmath's numbers

DIGITS = 40
STEP = 12  # differences of values over 10**-STEP: their error is of the order of its square
SHAPES = ((), (3,), (2, 3), (2, 1))  # any two of them broadcast
EXPONENTS = (2.0, -1.0, 0.5, 3.0, 2.5, -1.5, 1.0, 0.0, -2.0)
BY_NAME = {p.name: p for p in PRIMITIVES}
JUMPING = {p.name for p in FLAT} | {"mod", "arctan2"}
KINKED = {"minimum", "maximum", "abs"}
MOVES: dict[str, Callable[[Any], Any]] = {  # what they give broadcasts with all of SHAPES
    "sum": lambda x: x.sum(),
    "long_sum": lambda x: np.concatenate([np.ravel(x)] * 10).sum() / 8.0,  # longer than a tape takes whole
    "sum_last": lambda x: x.sum(axis=-1, keepdims=True) if x.ndim else x,
    "last": lambda x: x[..., -1:] if x.ndim else x,
    "first": lambda x: x[0] if x.ndim else x,
    "flip": lambda x: x[::-1] if x.ndim else x,
    "turn": lambda x: x[..., [2, 0, 1]] if x.shape[-1:] == (3,) else x,
}


@dataclass(frozen=True)
class Instruction:
    """`name` of a primitive, of a change of shape, or "constant"; operands are numbers of earlier values."""

    name: str
    operands: tuple[int, ...] = ()
    value: float = 0.0  # of a constant
    style: int = 0  # which of the ways to write it in lagrad


@dataclass(frozen=True)
class Equation:
    """factor · state + value number `part` == right, written in one of three forms."""

    part: int
    factor: float
    right: Floats
    form: int


@dataclass
class Recipe:
    """Values are numbered: parameters, then states, then one per instruction."""

    parameters: list[Floats] = field(default_factory=list)
    states: list[Floats] = field(default_factory=list)  # at a solution
    instructions: list[Instruction] = field(default_factory=list)
    defined: list[int] = field(default_factory=list)  # values that become definitions
    equations: list[Equation] = field(default_factory=list)  # one per state


# -- the same instructions in three arithmetics ------------------------------------------------------------
@cache
def by_numpy(name: str) -> Callable[..., Any]:
    return eval(f"lambda a, b=0.0: {BY_NAME[name].numpy}", {"np": np, "sp": scipy.special})


@cache
def by_mpmath(name: str) -> Callable[..., Any]:
    """A primitive of arrays of many-digit numbers, from its SymPy source."""
    primitive = BY_NAME[name]
    a, b = sympy.symbols("a b", real=True)
    expression = eval(primitive.sympy, {"sympy": sympy, "a": a, "b": b})
    return np.frompyfunc(sympy.lambdify((a, b)[: primitive.arity], expression, "mpmath"), primitive.arity, 1)


def numeric(instruction: Instruction, operands: list[Any]) -> Floats:
    if instruction.name == "constant":
        return np.asarray(instruction.value)
    function = MOVES[instruction.name] if instruction.name in MOVES else by_numpy(instruction.name)
    with np.errstate(all="ignore"):
        return np.asarray(function(*map(np.asarray, operands)), dtype=float)


def many_digits(instruction: Instruction, operands: list[Any]) -> Numbers:
    if instruction.name == "constant":
        return np.asarray(mpmath.mpf(instruction.value), dtype=object)
    function = MOVES[instruction.name] if instruction.name in MOVES else by_mpmath(instruction.name)
    return np.asarray(function(*operands), dtype=object)


def in_lagrad(instruction: Instruction, operands: list[Any]) -> Any:
    """An instruction in one of the ways that a user has to write it."""
    name, style = instruction.name, instruction.style
    if name == "constant":
        return instruction.value
    if name in MOVES:
        return MOVES[name](operands[0])
    primitive = BY_NAME[name]
    a, b = operands[0], operands[-1]
    if name == "powc":
        return np.power(a, b) if style == 1 else a**b
    if style == 1 and primitive.ufuncs and name != "equal":  # numpy.equal makes a constraint, as == does
        return getattr(np, primitive.ufuncs[0])(*operands)
    if style == 2 and hasattr(lg, name):
        return getattr(lg, name)(*operands)
    operators: dict[str, Callable[[], Any]] = {
        "add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "div": lambda: a / b,
        "mod": lambda: a % b, "less": lambda: a < b, "less_equal": lambda: a <= b, "neg": lambda: -a,
        "abs": lambda: abs(a), "power": lambda: a**b, "not_equal": lambda: a != b,
    }  # fmt: skip
    if style == 3 and name in operators:
        return operators[name]()
    return unary(OPCODE[name], a) if primitive.arity == 1 else binary(OPCODE[name], a, b)


def run(recipe: Recipe, leaves: list[Any], apply: Callable[[Instruction, list[Any]], Any]) -> list[Any]:
    """All values."""
    values = list(leaves)
    for instruction in recipe.instructions:
        values.append(apply(instruction, [values[k] for k in instruction.operands]))
    return values


# -- growing a recipe --------------------------------------------------------------------------------------
class Growing:
    """A recipe with the values at its point: every primitive is used within its domain and off its kinks."""

    def __init__(self, seed: int, parameters: int, states: int) -> None:
        self.random = random.Random(seed)
        self.recipe = Recipe()
        for into, count in ((self.recipe.parameters, parameters), (self.recipe.states, states)):
            for _ in range(count):
                shape = self.random.choice(SHAPES)
                into.append(np.array([self.random.uniform(-1.5, 1.5) for _ in range(int(np.prod(shape)))]))
                into[-1].shape = shape
        self.values: list[Floats] = [*self.recipe.parameters, *self.recipe.states]
        self.usable = list(range(len(self.values)))  # values that are no constants

    def add(self, name: str, *operands: int, value: float = 0.0) -> int:
        instruction = Instruction(name, operands, value, self.random.randrange(4))
        self.recipe.instructions.append(instruction)
        self.values.append(numeric(instruction, [self.values[k] for k in operands]))
        return len(self.values) - 1

    def wave(self, x: int, low: float, high: float) -> int:
        """A value between the two, from any value: offset + factor · sin(x)."""
        factor, offset = 0.45 * (high - low), 0.5 * (high + low)
        product = self.add("mul", self.add("sin", x), self.add("constant", value=factor))
        return self.add("add", product, self.add("constant", value=offset))

    def argument(self, intervals: tuple[tuple[float, float], ...]) -> int:
        """A value within one of the intervals: one that is there, or one made to lie there."""
        x = self.random.choice(self.usable)
        if all(low == high for low, high in intervals):  # a condition
            c = self.add("constant", value=self.random.uniform(-1.0, 1.0))
            return self.add("less", x, c) if np.abs(self.values[x] - self.values[c]).min() > 1e-6 else x
        inside = np.zeros(self.values[x].shape, dtype=bool)
        for low, high in intervals:
            inside |= (low <= self.values[x]) & (self.values[x] <= high)
        return x if inside.all() else self.wave(x, *self.random.choice(intervals))

    def primitive(self, name: str) -> None:
        """An instruction with this primitive, on values that suit it."""
        primitive = BY_NAME[name]
        operands = [self.argument(primitive.sample[0])]
        if name == "powc":
            operands.append(self.add("constant", value=self.random.choice(EXPONENTS)))
        elif primitive.arity == 2:
            if self.random.random() < 0.25 and any(low < high for low, high in primitive.sample[1]):
                low, high = self.random.choice(primitive.sample[1])
                operands.append(self.add("constant", value=self.random.uniform(low, high)))
            else:
                operands.append(self.argument(primitive.sample[1]))
        if self.suits(name, operands):
            result = self.add(name, *operands)
            if np.isfinite(self.values[result]).all() and np.abs(self.values[result]).max() < 1e3:
                self.usable.append(result)

    def suits(self, name: str, operands: list[int]) -> bool:
        """Whether no jump and no kink is near: there, values at 16 and at 40 digits may differ."""
        arrays = np.broadcast_arrays(*(self.values[k] for k in operands))
        if name in KINKED:
            return bool(np.abs(arrays[0] - (arrays[1] if len(arrays) > 1 else 0.0)).min() > 1e-6)
        if name in JUMPING:
            here = by_numpy(name)(*arrays)
            for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                near = by_numpy(name)(*(x + 1e-6 * s for x, s in zip(arrays, signs, strict=False)))
                if np.abs(near - here).max() > 1e-2:
                    return False
        return True

    def move(self) -> None:
        x = self.random.choice(self.usable)
        self.usable.append(self.add(self.random.choice(list(MOVES)), x))

    def grow(self, instructions: int, own: int | None = None) -> None:
        """Append about so many instructions; `own`: the state that may be used, with those before it."""
        first = len(self.recipe.parameters)
        if own is not None:
            later = range(first + own + 1, first + len(self.recipe.states))
            self.usable = [k for k in self.usable if k not in later]
        for _ in range(instructions):
            if self.random.random() < 0.15:
                self.move()
            else:
                self.primitive(self.random.choice(PRIMITIVES).name)
            if self.random.random() < 0.3:
                self.define(self.usable[-1])

    def define(self, value: int) -> None:
        if (
            value >= len(self.recipe.parameters) + len(self.recipe.states)
            and value not in self.recipe.defined
        ):
            self.recipe.defined.append(value)

    def close(self, state: int) -> None:
        """The equation of a state, with what was computed last, so that it holds and its block is regular."""
        recipe = self.recipe
        shape = recipe.states[state].shape
        part = self.usable[-1]
        # G of any shape as a value of the state's: its sum, which broadcasts
        if np.broadcast_shapes(self.values[part].shape, shape) != shape:
            part = self.add("sum", part)
        elif self.random.random() < 0.5:
            part = self.add("mul", part, self.usable[self.random.randrange(len(recipe.parameters))])
            if np.broadcast_shapes(self.values[part].shape, shape) != shape:
                part = self.add("sum", part)
        slope = 0.0
        for k in range(len(recipe.states)):
            for e in np.ndindex(recipe.states[k].shape):
                moved = [x.copy() for x in (*recipe.parameters, *recipe.states)]
                moved[len(recipe.parameters) + k][e] += 1e-6
                slope += float(np.abs(run(recipe, moved, numeric)[part] - self.values[part]).max()) / 1e-6
        factor = 1.3 + 2.0 * slope + self.random.random()
        right = factor * recipe.states[state] + self.values[part]
        recipe.equations.append(Equation(part, factor, right, self.random.randrange(3)))


# -- in lagrad ---------------------------------------------------------------------------------------------
def declare(recipe: Recipe, start: Callable[[Floats], Floats]) -> lg.Program:
    """Parameters p0, p1, …; states u0, …; definitions d0, …, and constraints e0, …"""
    program = lg.Program("random")
    values: list[Any] = [program.parameter(f"p{k}", x) for k, x in enumerate(recipe.parameters)]
    values += [program.state(f"u{k}", guess=start(x)) for k, x in enumerate(recipe.states)]
    for instruction in recipe.instructions:
        value = in_lagrad(instruction, [values[k] for k in instruction.operands])
        if len(values) in recipe.defined:
            value = program.define(f"d{recipe.defined.index(len(values))}", value)
        values.append(value)
    for k, equation in enumerate(recipe.equations):
        state, part = values[len(recipe.parameters) + k], values[equation.part]
        if equation.form == 0:
            constraint = equation.factor * state + part == equation.right
        else:
            formula = (equation.right - part) / equation.factor
            constraint = state == formula if equation.form == 1 else formula == state
        program.constrain(constraint, name=f"e{k}")
    return program


# -- the truth ---------------------------------------------------------------------------------------------
def vector(arrays: list[Any]) -> list[Any]:
    return [x for array in arrays for x in np.asarray(array, dtype=object).ravel()]


@dataclass(frozen=True)
class Truth:
    states: list[Any]
    defined: list[Any]
    total: Any  # d (states, defined) / d parameters


def truth(recipe: Recipe, states: list[Floats]) -> Truth:
    """Values and total derivatives at the solution nearest to `states`, with many digits."""
    m, leaves = sum(x.size for x in recipe.parameters), [*recipe.parameters, *recipe.states]

    def both(x: list[Any]) -> tuple[list[Any], list[Any]]:
        arrays, at = [], 0
        for leaf in leaves:
            arrays.append(np.array(x[at : at + leaf.size], dtype=object).reshape(leaf.shape))
            at += leaf.size
        values = run(recipe, arrays, many_digits)
        residual = []
        for k, equation in enumerate(recipe.equations):
            u = values[len(recipe.parameters) + k]
            residual.append(mpmath.mpf(equation.factor) * u + values[equation.part] - equation.right)
        return vector(residual), vector([values[k] for k in recipe.defined])

    def partials(x: list[Any]) -> tuple[Any, Any]:
        """Of residuals and definitions by all leaves."""
        h = mpmath.mpf(10) ** -STEP
        columns = []
        for j in range(len(x)):
            above, below = (both([*x[:j], x[j] + s, *x[j + 1 :]]) for s in (h, -h))
            columns.append(
                [[(a - b) / (2 * h) for a, b in zip(up, down, strict=True)]
                 for up, down in zip(above, below, strict=True)]
            )  # fmt: skip
        return tuple(
            mpmath.matrix([[column[part][i] for column in columns] for i in range(len(columns[0][part]))])
            if columns and columns[0][part]
            else mpmath.matrix(0, len(columns))
            for part in (0, 1)
        )

    with mpmath.workdps(DIGITS):
        x = [mpmath.mpf(float(value)) for value in vector([*recipe.parameters, *states])]
        n = len(x) - m
        for _ in range(3 if n else 0):
            residual, _ = both(x)
            by_leaves, _ = partials(x)
            step = mpmath.lu_solve(by_leaves[:, m:], -mpmath.matrix(residual))
            x = [*x[:m], *(value + d for value, d in zip(x[m:], step, strict=True))]
        by_leaves, of_definitions = partials(x)
        du = -mpmath.inverse(by_leaves[:, m:]) * by_leaves[:, :m] if n else mpmath.matrix(0, m)
        rows = du.tolist() if n else []
        if of_definitions.rows:
            direct = of_definitions[:, :m]
            rows += (direct + of_definitions[:, m:] * du if n else direct).tolist()
        return Truth(x[m:], both(x)[1], rows)


# -- comparing ---------------------------------------------------------------------------------------------
def check(recipe: Recipe, share_all: bool = False, dense_max: int = 48) -> None:
    """Solve and differentiate in lagrad; compare values, Jacobians both ways, and the two evaluations.

    Solving starts near the solution; at it where a jump or a kink may stand between.
    """
    smooth = not any(i.name in JUMPING | KINKED for i in recipe.instructions)
    program = declare(recipe, lambda x: x * (1.0001 if smooth else 1.0))
    program.share_all = share_all
    system = lg.build(program, dense_max=dense_max)
    solution = system.solve()
    states = [np.asarray(solution[f"u{k}"]) for k in range(len(recipe.states))]
    expected = truth(recipe, states)
    names = [f"u{k}" for k in range(len(recipe.states))] + [f"d{k}" for k in range(len(recipe.defined))]
    got = vector([solution[name] for name in names])
    for value, true in zip(got, [*expected.states, *expected.defined], strict=True):
        assert abs(value - true) <= 1e-10 * (1 + abs(true)), (value, true)
    parameters = [f"p{k}" for k in range(len(recipe.parameters))]
    for mode in ("adjoint", "tangent"):
        jacobian = solution.jacobian(names, parameters, mode=mode)
        rows = [row for name in names for row in np.hstack([jacobian[name, p] for p in parameters])]
        for row, true_row in zip(rows, expected.total, strict=True):
            size = 1 + max(abs(true) for true in true_row)
            for value, true in zip(row, true_row, strict=True):
                assert abs(value - true) <= 1e-9 * size, (value, true)
    machine = system.layout.machine
    family, row_major = both_ways(machine, solution.v)
    for one, other in zip(family, row_major, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14 * np.abs(one).max(initial=1.0))


examples = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 2**32 - 1)


@examples
@given(seeds, st.integers(1, 3), st.integers(1, 12), st.booleans())
def test_explicit_programs(seed: int, parameters: int, instructions: int, share_all: bool) -> None:
    growing = Growing(seed, parameters, 0)
    growing.grow(instructions)
    growing.define(growing.usable[-1])
    check(growing.recipe, share_all)


@examples
@given(seeds, st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.booleans())
def test_implicit_programs(
    seed: int, parameters: int, states: int, instructions: int, share_all: bool
) -> None:
    """One block per state and element, or larger where a sum joins the elements of one state."""
    growing = Growing(seed, parameters, states)
    everything = list(growing.usable)
    for k in range(states):
        growing.usable = sorted({*growing.usable, *everything})
        growing.grow(instructions, own=k)
        growing.close(k)
    check(growing.recipe, share_all)


@examples
@given(
    seeds, st.integers(1, 2), st.integers(2, 3), st.integers(1, 5), st.sampled_from([1, 48]), st.booleans()
)
def test_cyclic_programs(
    seed: int, parameters: int, states: int, instructions: int, dense_max: int, share_all: bool
) -> None:
    growing = Growing(seed, parameters, states)
    for k in range(states):
        growing.grow(instructions)
        growing.close(k)
    check(growing.recipe, share_all, dense_max)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_primitive_on_a_cycle(name: str) -> None:
    """The primitive of a state and a parameter, in the equation of that state; and of the other order."""
    for seed in range(3):
        growing = Growing(seed, 2, 2)
        for k in range(2):
            before = len(growing.usable)
            while len(growing.usable) == before or growing.recipe.instructions[-1].name != name:
                growing.primitive(name)
            growing.define(growing.usable[-1])
            growing.close(k)
        check(growing.recipe, share_all=bool(seed % 2))
