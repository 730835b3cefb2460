"""The laws of DESIGN: what holds for every program, whichever way its linear systems are solved.

A law is a function of a `Case`, a fixture solved on one path; it asserts. The truths are NumPy's dense linear
algebra, SymPy's derivatives evaluated to 30 digits, the solver's own answers to changed problems (finite
differences, Taylor remainders), and a textbook backpropagation written here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
import scipy.sparse as sp
import sympy
from fixtures import FIXTURES, NUMPY, SYMPY, Fixture, declare, sides
from numpy.typing import ArrayLike, NDArray

import lagrad as lg
from lagrad.assembly.machine import rows_jacobian
from lagrad.kernel import kernel
from lagrad.linalg.blocks import BlockPattern

Floats = NDArray[np.float64]

PATHS = {"triangular": 48, "dense": 10**6, "sparse": 1, "klu": 1}  # `dense_max` that sends blocks there
DIGITS = 30
KINK_FREE = [{"DiracDelta": lambda _: 0}, "mpmath"]  # SymPy's second derivative of |x|; no point is on a kink
SYMPY_MAX = 60  # rows up to which SymPy's second derivatives are asked for: beyond, they take seconds
MANY_DIGITS_MAX = 60  # rows up to which linear systems are solved with many digits: beyond, it takes seconds


# -- cases -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """A fixture and the path that its blocks take."""

    fixture: Fixture
    path: str

    def __str__(self) -> str:
        return f"{self.fixture.name}-{self.path}"

    @cached_property
    def system(self) -> lg.System:
        linear = "klu" if self.path == "klu" else "superlu"
        return lg.build(declare(self.fixture), dense_max=PATHS[self.path], linear=linear)

    @cached_property
    def solution(self) -> lg.Solution:
        return self.system.solve()


CASES = tuple(
    Case(fixture, path)
    for fixture in FIXTURES
    for path in (("triangular",) if fixture.dag else ("dense", "sparse"))
)

LAWS: dict[str, Callable[[Case], None]] = {}
ONLY: dict[str, Callable[[Fixture], bool]] = {}


def law(only: Callable[[Fixture], bool] = lambda fixture: True) -> Callable[[Any], Any]:
    """Register a law, for the fixtures that it speaks about."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        LAWS[function.__name__] = function
        ONLY[function.__name__] = only
        return function

    return register


# -- helpers -----------------------------------------------------------------------------------------------
def generator(case: Case) -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng([ord(letter) for letter in str(case)])


def flat(values: Mapping[str, Any], names: Iterable[str]) -> Floats:
    """Arrays by name as one vector."""
    return np.concatenate([np.empty(0), *(np.ravel(values[name]) for name in names)])


def close(actual: ArrayLike, expected: ArrayLike, rel: float, what: str = "") -> None:
    """Every entry within `rel` of its own size, or within a ten-thousandth of that of the largest of all."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    assert np.isfinite(expected).all(), what
    largest = np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=rel, atol=1e-4 * rel * largest + 1e-22, err_msg=what)


def random_direction(case: Case) -> dict[str, Any]:
    """A parameter direction, each entry of the size of its parameter."""
    random = generator(case)
    out = {}
    for name, value in case.fixture.parameters.items():
        value = np.asarray(value, dtype=float)
        out[name] = random.normal(size=value.shape) * np.where(value == 0.0, 1.0, np.abs(value))
    return out


def random_weights(case: Case, random: np.random.Generator) -> dict[str, Any]:
    """Weights of every state and definition, of the inverse of its size."""
    values = case.solution.states
    return {
        name: random.normal(size=np.shape(value)) / np.where(value == 0.0, 1.0, np.abs(value))
        for name, value in values.items()
    }


def moved(case: Case, direction: Mapping[str, Any], step: float) -> dict[str, Any]:
    """Parameter values at a step along a direction."""
    return {name: np.asarray(case.fixture.parameters[name]) + step * d for name, d in direction.items()}


def dense_partials(solution: lg.Solution) -> tuple[Floats, Floats]:
    """R_u (n, n) and R_p (n, m) in block order, hidden states included."""
    machine, at = solution.layout.machine, solution.linearization
    rows = machine.rows
    by_states = sp.csr_array((at.data[: machine.nnz_u], rows.a_col, rows.a_ptr), shape=(machine.n, machine.n))
    return by_states.toarray(), at.by_parameters.toarray()


# -- the truth of SymPy ------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Symbols:
    """A fixture in SymPy: scalar names in order, and for each scalar row its two sides."""

    parameters: list[sympy.Symbol]
    states: list[sympy.Symbol]
    names: list[str]  # of the states
    rows: list[str]
    left: list[sympy.Expr]
    right: list[sympy.Expr]
    point: list[float]  # declared parameter values


def _element_names(name: str, shape: tuple[int, ...]) -> list[str]:
    return [f"{name}[{','.join(map(str, k))}]" if shape else name for k in np.ndindex(*shape)]


@cache
def symbols(fixture: Fixture) -> Symbols:
    """The fixture's mathematics, without lagrad."""
    v, groups = SimpleNamespace(), []
    shapes = ({k: np.shape(x) for k, x in fixture.parameters.items()}, fixture.shapes)
    for kind in shapes:
        group: list[sympy.Symbol] = []
        for name, shape in kind.items():
            # an identifier for every symbol: others cost `lambdify` a pass over everything, each
            made = [sympy.Symbol("_".join([name, *map(str, k)]), real=True) for k in np.ndindex(*shape)]
            group += made
            setattr(v, name, np.array(made, dtype=object).reshape(shape) if shape else made[0])
        groups.append(group)
    rows, left, right = [], [], []
    for name, (one, other) in sides(fixture, v, SYMPY).items():
        rows += _element_names(name, one.shape)
        left += [sympy.sympify(e) for e in one.ravel()]
        right += [sympy.sympify(e) for e in other.ravel()]
    point = flat(fixture.parameters, fixture.parameters).tolist()
    names = [element for name, shape in fixture.shapes.items() for element in _element_names(name, shape)]
    return Symbols(groups[0], groups[1], names, rows, left, right, point)


@dataclass(frozen=True, eq=False)
class Truth:
    """States and derivatives from SymPy's partials; states and rows in the order of `Symbols`."""

    correction: float  # largest relative Newton correction that lagrad's solution still needs
    inverse: Floats  # R_u⁻¹ (states, rows): row k holds the multipliers for state k
    total: Floats  # du/dp (states, parameters)


@cache
def truth(fixture: Fixture) -> Truth:
    """Derivatives at lagrad's solution, after a Newton step with many digits."""
    s = symbols(fixture)
    solution = lg.build(declare(fixture)).solve()
    start = flat(solution.states, fixture.shapes)
    n, m = len(s.states), len(s.parameters)
    if n == 0:
        return Truth(0.0, np.zeros((0, 0)), np.zeros((0, m)))
    residual = [a - b for a, b in zip(s.left, s.right, strict=True)]
    column = {symbol: j for j, symbol in enumerate([*s.states, *s.parameters])}
    entries = [
        (i, column[x], sympy.diff(term, x))
        for i, r in enumerate(residual)
        for term in sympy.Add.make_args(r)
        for x in sorted(term.free_symbols, key=str)
    ]
    arguments = [*s.states, *s.parameters]
    evaluate = sympy.lambdify([arguments], [residual, [e for _, _, e in entries]], "mpmath", cse=True)
    with mpmath.workdps(DIGITS):
        at = [mpmath.mpf(x) for x in (*start, *s.point)]
        many = n <= MANY_DIGITS_MAX
        correction = 0.0
        for last in (False, True):
            r, partials = evaluate(at)
            matrix = mpmath.zeros(n, n + m) if many else np.zeros((n, n + m))
            for (i, j, _), value in zip(entries, partials, strict=True):
                matrix[i, j] += value if many else float(value)
            if last:
                break
            if many:
                step = mpmath.lu_solve(matrix[:, :n], -mpmath.matrix(r))
            else:
                step = np.linalg.solve(matrix[:, :n], -np.array([float(x) for x in r]))
            scale = [max(abs(x), mpmath.mpf(10) ** -8) for x in at[:n]]
            correction = float(max((abs(d) / c for d, c in zip(step, scale, strict=True)), default=0.0))
            at = [*(x + d for x, d in zip(at[:n], step, strict=True)), *at[n:]]
        if many:
            inverse = mpmath.inverse(matrix[:, :n])
            total = -inverse * matrix[:, n:] if m else mpmath.zeros(n, 0)
            inverse, total = (
                np.array(x.tolist(), dtype=float).reshape(x.rows, x.cols) for x in (inverse, total)
            )
        else:
            inverse = np.linalg.inv(matrix[:, :n])
            total = -inverse @ matrix[:, n:]
    return Truth(correction, inverse, total)


def lagrangian_of_sympy(
    fixture: Fixture, output: str, point: Iterable[Iterable[float]]
) -> tuple[float, Any, Any, Any]:
    """L, ∇L over [u, p, λ], R, and ∇²L over [u, p, λ], to 30 digits."""
    s = symbols(fixture)
    lam = [sympy.Symbol(f"lam_{k}", real=True) for k in range(len(s.rows))]
    residual = [a - b for a, b in zip(s.left, s.right, strict=True)]
    variables = [*s.states, *s.parameters, *lam]
    value = s.states[s.names.index(output)] - sum(k * r for k, r in zip(lam, residual, strict=True))
    gradient = [sympy.diff(value, x) for x in variables]
    place = {x: k for k, x in enumerate(variables)}
    second = [
        (i, place[x], sympy.diff(g, x))
        for i, g in enumerate(gradient)
        for x in sorted(g.free_symbols, key=str)
    ]
    evaluate = sympy.lambdify([variables], [value, gradient, [e for *_, e in second]], KINK_FREE, cse=True)
    with mpmath.workdps(30):
        one, first, entries = evaluate([mpmath.mpf(x) for part in point for x in part])
    matrix = np.zeros((len(variables), len(variables)))
    for (i, j, _), entry in zip(second, entries, strict=True):
        matrix[i, j] = float(entry)
    return float(one), np.array(first, dtype=float), -np.array(first[-len(lam) :], dtype=float), matrix


@cache
def second_truth(fixture: Fixture) -> list[Floats]:
    """d²J/dp² (m, m) of every output at lagrad's solution: Tᵀ ∇²L T with T = [du/dp; I]."""
    s, t = symbols(fixture), truth(fixture)
    start = flat(lg.build(declare(fixture)).solve().states, fixture.shapes)
    lift = np.concatenate([t.total, np.eye(len(s.parameters))])
    out = []
    for output in fixture.outputs:
        lam = t.inverse[s.names.index(output)]
        matrix = lagrangian_of_sympy(fixture, output, (start, s.point, lam))[3]
        size = lift.shape[0]
        out.append(lift.T @ matrix[:size, :size] @ lift)
    return out


# -- structure of a case -----------------------------------------------------------------------------------
@law()
def law_a_case_takes_the_path_that_it_names(case: Case) -> None:
    layout = case.system.layout
    largest = np.diff(layout.ptr).max(initial=0)
    if case.path == "triangular":
        assert largest == 1
    elif case.path == "dense":
        assert not layout.pattern.large
    else:
        assert len(layout.pattern.large) == int((np.diff(layout.ptr) > 1).sum())
    assert layout.n_states == case.fixture.size


# -- linear systems ----------------------------------------------------------------------------------------
@law()
def law_solves_are_those_of_dense_linear_algebra(case: Case) -> None:
    at, layout = case.solution.linearization, case.system.layout
    by_states, _ = dense_partials(case.solution)
    rhs = generator(case).normal(size=(layout.n, 3))
    fresh = layout.pattern.factor(at.data[: layout.machine.nnz_u])  # the solution's own may be Newton's last
    for transpose, matrix in ((False, by_states), (True, by_states.T)):
        expected = np.linalg.solve(matrix, rhs)
        close(fresh.solve(rhs, transpose), expected, 1e-9)
        close(at.factors.solve_refined(rhs, transpose)[0], expected, 1e-9)
        close(at.factors.solve_refined(rhs[:, 0], transpose)[0], expected[:, 0], 1e-9)


@law()
def law_a_transposed_solve_is_a_solve_with_the_transposed_matrix(case: Case) -> None:
    """Turned around both diagonals, a block lower triangular matrix is one again, with blocks in reverse."""
    at, layout = case.solution.linearization, case.system.layout
    by_states, _ = dense_partials(case.solution)
    turned = sp.csr_array(by_states[::-1, ::-1].T)
    turned.sort_indices()
    ptr = (layout.n - layout.ptr[::-1]).astype(np.int32)
    pattern = BlockPattern.analyze(
        turned.indptr.astype(np.int32), turned.indices.astype(np.int32), ptr, PATHS[case.path]
    )
    rhs = generator(case).normal(size=(layout.n, 2))
    by_transposed_matrix = pattern.factor(turned.data).solve(rhs[::-1])[::-1]
    fresh = layout.pattern.factor(at.data[: layout.machine.nnz_u])
    close(fresh.solve(rhs, transpose=True), by_transposed_matrix, 1e-9)


@law()
def law_refactoring_gives_what_fresh_factors_give(case: Case) -> None:
    layout = case.system.layout
    random = generator(case)
    u = slice(layout.m, None)
    v = case.solution.v.copy()
    v[u] *= 1.0 + 0.01 * random.normal(size=layout.n)
    here, there = (layout.machine.jacobian(x)[2][: layout.machine.nnz_u] for x in (case.solution.v, v))
    rhs = random.normal(size=(layout.n, 2))
    for transpose in (False, True):
        refactored = layout.pattern.factor(here).refactor(there).solve(rhs, transpose)
        close(refactored, layout.pattern.factor(there).solve(rhs, transpose), 1e-9)


# -- values and partials -----------------------------------------------------------------------------------
@kernel
def row_major(n, tapes, terms, rows, nnz_u, reg, adj, v, out, magnitude, data):
    """`rows_jacobian`, callable from Python. Arrays as there."""
    rows_jacobian(0, n, tapes, terms, rows, nnz_u, reg, adj, v, out, magnitude, data)


def both_ways(machine: Any, v: Floats) -> tuple[tuple[Floats, Floats, Floats], tuple[Floats, Floats, Floats]]:
    """(R, magnitude, partials) at v, family-major and row-major."""
    reg, adj = np.empty(machine.registers), np.empty(machine.registers)
    out, magnitude, data = (
        np.full(machine.n, np.nan),
        np.full(machine.n, np.nan),
        np.full(machine.nnz, np.nan),
    )
    row_major(
        machine.n,
        machine.tapes,
        machine.terms,
        machine.rows,
        machine.nnz_u,
        reg,
        adj,
        v,
        out,
        magnitude,
        data,
    )
    return machine.jacobian(v), (out, magnitude, data)


@law()
def law_family_major_is_row_major(case: Case) -> None:
    machine, random = case.system.layout.machine, generator(case)
    for spread in (0.0, 0.03):
        v = case.solution.v * (1.0 + spread * random.normal(size=case.solution.v.size))
        family, row = both_ways(machine, v)
        rounding = 1e-14 * family[1]
        assert np.all(np.abs(family[0] - row[0]) <= rounding)
        assert np.all(np.abs(family[0] - machine.residual(v)) <= rounding)
        close(family[1], row[1], 1e-13)
        close(family[2], row[2], 1e-13)


@law()
def law_numbers_are_those_of_sympy(case: Case) -> None:
    fixture, expected, s = case.fixture, truth(case.fixture), symbols(case.fixture)
    assert expected.correction < 1e-11
    reference = lg.build(declare(fixture)).solve()
    close(flat(case.solution.states, fixture.shapes), flat(reference.states, fixture.shapes), 1e-11)
    names = list(fixture.parameters)
    sizes = [np.size(x) for x in fixture.parameters.values()]
    columns = np.split(expected.total, np.cumsum(sizes)[:-1], axis=1) if sizes else []
    jacobian = case.solution.jacobian(of=list(fixture.shapes))
    at = 0
    for name, shape in fixture.shapes.items():
        size = int(np.prod(shape))
        for parameter, column in zip(names, columns, strict=True):
            close(jacobian[name, parameter], column[at : at + size], 1e-9, f"d {name} / d {parameter}")
        at += size
    order = [*fixture.constraints, *fixture.definitions]
    for output in fixture.outputs:
        k = s.names.index(output)
        close(flat(case.solution.multipliers(output), order), expected.inverse[k], 1e-9, output)
        close(flat(case.solution.gradient(output), names), expected.total[k], 1e-9, output)


# -- derivatives among each other --------------------------------------------------------------------------
@law()
def law_tangent_and_adjoint_are_dual(case: Case) -> None:
    direction, weights = random_direction(case), random_weights(case, generator(case))
    forward, reverse = case.solution.jvp(direction), case.solution.vjp(weights)
    left = [float(np.sum(weights[name] * forward[name])) for name in weights]
    right = [float(np.sum(reverse[name] * direction[name])) for name in direction]
    size = sum(map(abs, left)) + sum(map(abs, right))
    assert abs(sum(left) - sum(right)) <= 1e-12 * size


@law()
def law_every_way_to_a_derivative_leads_to_the_same(case: Case) -> None:
    solution, names = case.solution, list(case.fixture.parameters)
    outputs = list(case.fixture.outputs)
    results = [
        solution.jacobian(outputs, mode="adjoint"),
        solution.jacobian(outputs, mode="tangent"),
        solution.jacobian(outputs, names[::-1]),
        {
            key: block.toarray()
            for key, block in solution.jacobian(outputs, sparse=True, mode="tangent").items()
        },
        {
            key: block.toarray()
            for key, block in solution.jacobian(outputs, sparse=True, mode="adjoint").items()
        },
    ]
    directions = {}
    for name in names:
        for k in np.ndindex(np.shape(case.fixture.parameters[name])):
            unit = np.zeros(np.shape(case.fixture.parameters[name]))
            unit[k] = 1.0
            directions[name, k] = solution.jvp({name: unit})
    for output in outputs:
        gradient = solution.gradient(output)
        by_vjp = solution.vjp({output: 1.0})
        base, _, index = output.partition("[")
        at = tuple(int(k) for k in index.rstrip("]").split(",")) if index else ()
        for name in names:
            close(by_vjp[name], gradient[name], 1e-13)
            for result in results:
                assert set(result) == {(o, p) for o in outputs for p in names}
                close(result[output, name], np.reshape(gradient[name], (1, -1)), 1e-10, f"{output} by {name}")
            by_jvp = [directions[name, k][base][at] for k in np.ndindex(np.shape(gradient[name]))]
            close(by_jvp, np.ravel(gradient[name]), 1e-10)
        if names:
            close(solution.gradient(output, names[-1:])[names[-1]], gradient[names[-1]], 0.0)


@law()
def law_gradients_are_linear_in_the_weights(case: Case) -> None:
    random, names = generator(case), list(case.fixture.parameters)
    one, other = random_weights(case, random), random_weights(case, random)
    both = {name: 0.7 * one[name] - 1.9 * other[name] for name in one}
    parts = [flat(case.solution.vjp(w), names) for w in (one, other, both)]
    size = np.abs(parts[0]) + np.abs(parts[1])
    assert np.all(
        np.abs(0.7 * parts[0] - 1.9 * parts[1] - parts[2]) <= 1e-11 * (size + size.max(initial=0.0))
    )
    single = sum(
        float(case.solution[output]) * flat(case.solution.gradient(output), names)
        for output in case.fixture.outputs
    )
    total: dict[str, Any] = {output: case.solution[output] for output in case.fixture.outputs}
    if total:
        close(flat(case.solution.vjp(total), names), single, 1e-10)


# -- changed programs --------------------------------------------------------------------------------------
def same_results(
    one: lg.Solution, other: lg.Solution, fixture: Fixture, rename: Callable[[str], str]
) -> None:
    """Values, gradients and multipliers of two solutions, the second with renamed names."""

    def called(name: str) -> str:
        base, bracket, index = name.partition("[")
        return rename(base) + bracket + index

    shapes, rows = list(fixture.shapes), [*fixture.constraints, *fixture.definitions]
    close(flat(other.states, map(rename, shapes)), flat(one.states, shapes), 1e-11)
    for output in fixture.outputs:
        for ask, names in ((lg.Solution.gradient, list(fixture.parameters)), (lg.Solution.multipliers, rows)):
            close(
                flat(ask(other, called(output)), map(rename, names)),
                flat(ask(one, output), names),
                1e-9,
                output,
            )


@law()
def law_declaration_order_and_names_change_nothing(case: Case) -> None:
    for seed, rename in ((2, str), (3, lambda name: "q" + name[::-1]), (4, lambda name: f"{hash(name)} of")):
        program = declare(case.fixture, seed, rename)
        other = lg.build(program, dense_max=PATHS[case.path]).solve()
        same_results(case.solution, other, case.fixture, rename)


@law(only=lambda fixture: fixture.size <= 60)  # the knot is a dense matrix
def law_the_three_paths_agree(case: Case) -> None:
    """The same program knotted into one block: numerically what it was, structurally one large cycle."""
    start = {name: case.solution[name] for name in case.fixture.shapes}
    for dense_max in (1, 10**6):
        system = lg.build(declare(case.fixture, knotted=True), dense_max=dense_max)
        sizes = np.diff(system.layout.ptr)
        assert sizes.max(initial=0) >= case.fixture.size and sizes.size <= 1
        same_results(case.solution, system.solve(start=start), case.fixture, str)


@law()
def law_states_for_shared_values_change_nothing(case: Case) -> None:
    program = declare(case.fixture)
    program.share_all = True
    other = lg.build(program, dense_max=PATHS[case.path]).solve()
    same_results(case.solution, other, case.fixture, str)


UNUSED: dict[str, Callable[[Any, Any], Any]] = {
    "finite": lambda x, zero: x * x + zero,
    "infinite_partial": lambda x, zero: lg.sqrt(zero) + lg.cbrt(x - x),
    "kink": lambda x, zero: abs(x - x) + lg.floor(zero) + lg.maximum(x, x + zero),
    "infinite": lambda x, zero: x / zero,
    "not_a_number": lambda x, zero: lg.log(zero - 1.0 - x * x),
    "on_infinite": lambda x, zero: lg.exp(-(lg.log(zero) ** 2)) * x,
}


@law()
def law_an_unused_definition_changes_nothing(case: Case) -> None:
    for name, formula in UNUSED.items():
        program = declare(case.fixture)
        zero = program.parameter("zero_parameter", 0.0)
        some = next(iter(case.fixture.states), None)
        x = zero + 0.5 if some is None else program_state(program, some)
        unused = program.define(f"unused_{name}", formula(x, zero))
        program.define(f"unused_{name}_again", unused * 2.0)
        other = lg.build(program, dense_max=PATHS[case.path]).solve()
        same_results(case.solution, other, case.fixture, str)
        for mode in ("adjoint", "tangent"):
            jacobian = other.jacobian(case.fixture.outputs, list(case.fixture.parameters), mode=mode)
            for output in case.fixture.outputs:
                gradient = case.solution.gradient(output)
                for p, value in gradient.items():
                    close(jacobian[output, p], np.reshape(value, (1, -1)), 1e-9, f"{name}, {mode}")


def program_state(program: lg.Program, name: str) -> Any:
    """The declared state `name`, as an expression."""
    from lagrad.expr.graph import STATE

    return program._leaves(STATE, program.states.by_name[name])


@law()
def law_a_multiplier_is_the_change_of_the_output_under_a_relaxed_constraint(case: Case) -> None:
    fixture, solution = case.fixture, case.solution
    system = lg.build(declare(fixture, relaxed=True), dense_max=PATHS[case.path])
    start = {name: solution[name] for name in fixture.shapes}
    base = system.solve(start=start)
    values = SimpleNamespace(**solution.states, **solution.parameters)
    multipliers = {output: solution.multipliers(output) for output in fixture.outputs}
    gradients = {output: base.gradient(output) for output in fixture.outputs}
    random = generator(case)
    with np.errstate(invalid="ignore"):  # of a branch not taken
        both = sides(fixture, values, NUMPY)
    for name, pair in both.items():
        for output in fixture.outputs:
            close(gradients[output][f"eps_{name}"], multipliers[output][name], 1e-9, name)
        indices = list(np.ndindex(pair[0].shape))
        for k in (indices[i] for i in random.choice(len(indices), min(len(indices), 4), replace=False)):
            step = np.zeros(pair[0].shape)
            step[k] = 1e-5 * max(abs(float(pair[0][k])), abs(float(pair[1][k]))) or 1e-5
            above, below = (system.solve({f"eps_{name}": s}, start=base) for s in (step, -step))
            for output in fixture.outputs:
                difference = (float(above[output]) - float(below[output])) / (2.0 * step[k])
                multiplier = float(multipliers[output][name][k])
                # rounding of two outputs, over the step; truncation is of second order in it
                noise = 1e-13 * abs(float(base[output])) / step[k]
                assert abs(difference - multiplier) <= 1e-7 * abs(multiplier) + noise, (name, k, output)


# -- nonlinear ---------------------------------------------------------------------------------------------
def is_of_order_two(remainder: Callable[[float], float], size: float) -> bool:
    """Whether remainder(h) falls by about four when h is halved, or is only rounding of numbers of `size`."""
    noise = 1e-13 * size
    first, second = abs(remainder(1e-3)), abs(remainder(5e-4))
    return first <= noise or 3.4 <= first / second <= 4.7


@law()
def law_taylor_remainders_are_of_second_order(case: Case) -> None:
    direction = random_direction(case)
    tangent = case.solution.jvp(direction)
    for output in case.fixture.outputs:
        here, gradient = float(case.solution[output]), case.solution.gradient(output)
        slope = sum(float(np.sum(gradient[name] * d)) for name, d in direction.items())
        base, _, index = output.partition("[")
        at = tuple(int(k) for k in index.rstrip("]").split(",")) if index else ()
        close(tangent[base][at], slope, 1e-11)

        def remainder(h: float, output: str = output, here: float = here, slope: float = slope) -> float:
            there = case.system.solve(moved(case, direction, h), start=case.solution)
            return float(there[output]) - here - h * slope

        assert is_of_order_two(remainder, abs(here) + abs(slope)), output


# -- second order ------------------------------------------------------------------------------------------
@law()
def law_taylor_remainders_are_of_third_order_with_the_hessian(case: Case) -> None:
    direction = random_direction(case)
    for output in case.fixture.outputs:
        here, gradient = float(case.solution[output]), case.solution.gradient(output)
        product = case.solution.hvp(output, direction)
        slope = sum(float(np.sum(gradient[name] * d)) for name, d in direction.items())
        bend = sum(float(np.sum(product[name] * d)) for name, d in direction.items())

        def remainder(
            h: float, output: str = output, here: float = here, slope: float = slope, bend: float = bend
        ) -> float:
            there = case.system.solve(moved(case, direction, h), start=case.solution)
            return float(there[output]) - here - h * slope - 0.5 * h * h * bend

        first, second = abs(remainder(8e-3)), abs(remainder(4e-3))
        assert first <= 1e-13 * (abs(here) + abs(slope) + abs(bend)) or 6.5 <= first / second <= 9.5, output


@law()
def law_the_hessian_is_symmetric_and_holds_every_product(case: Case) -> None:
    direction, names = random_direction(case), list(case.fixture.parameters)
    for output in case.fixture.outputs:
        product, hessian = case.solution.hvp(output, direction), case.solution.hessian(output)
        sparse = case.solution.hessian(output, sparse=True)
        total = [np.zeros(np.size(direction[a])) for a in names]
        for a, out in zip(names, total, strict=True):
            for b in names:
                assert (hessian[a, b] == hessian[b, a].T).all()
                assert (sparse[a, b].toarray() == hessian[a, b]).all()
                out += hessian[a, b] @ np.ravel(direction[b])
        # each entry of the sum is a sum of terms that may cancel
        size = max((np.abs(hessian[a, b]).max(initial=0.0) for a in names for b in names), default=0.0)
        size *= max((np.abs(d).max(initial=0.0) for d in direction.values()), default=0.0)
        for a, out in zip(names, total, strict=True):
            assert np.abs(out - np.ravel(product[a])).max(initial=0.0) <= 1e-10 * size, (output, a)


@law(lambda fixture: 0 < fixture.size <= SYMPY_MAX and fixture.name not in ("hidden", "hidden_in_loop"))
def law_second_derivatives_are_those_of_sympy(case: Case) -> None:
    names = list(case.fixture.parameters)
    cuts = np.cumsum([0] + [np.size(x) for x in case.fixture.parameters.values()])
    for output, expected in zip(case.fixture.outputs, second_truth(case.fixture), strict=True):
        hessian = case.solution.hessian(output)
        found = np.zeros_like(expected)
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                found[cuts[i] : cuts[i + 1], cuts[j] : cuts[j + 1]] = hessian[a, b]
        close(found, expected, 1e-8, output)


@law()
def law_the_hessian_is_the_difference_of_gradients(case: Case) -> None:
    direction = random_direction(case)
    for output in case.fixture.outputs:
        product = flat(case.solution.hvp(output, direction), case.fixture.parameters)

        def gradient(h: float, output: str = output) -> Floats:
            there = case.system.solve(moved(case, direction, h), start=case.solution)
            return flat(there.gradient(output), case.fixture.parameters)

        h = 1e-3
        coarse, fine = ((gradient(k * h) - gradient(-k * h)) / (2 * k * h) for k in (2, 1))
        expected = fine + (fine - coarse) / 3.0  # Richardson: of fourth order
        size = np.abs(expected).max(initial=0.0) + np.abs(gradient(0.0)).max(initial=0.0)
        size += (
            np.finfo(float).tiny / h
        )  # below it gradients are multiples of 5e-324 and have no digits to lose
        assert np.abs(product - expected).max(initial=0.0) <= 1e-7 * size, output


@law()
def law_the_corrected_value_is_wrong_to_second_order_only(case: Case) -> None:
    """J(û) − λᵀ R(û) at an approximate solution û."""
    solution, layout = case.solution, case.system.layout
    move = generator(case).normal(size=layout.n) * solution.v[layout.m :]
    for output in case.fixture.outputs:
        truth = float(solution[output])
        certificate = solution.gradient(output).certificate
        assert certificate.value == truth and abs(certificate.corrected - truth) <= 1e-13 * (1.0 + abs(truth))

        def error(h: float, output: str = output, truth: float = truth) -> float:
            v = solution.v.copy()
            v[layout.m :] += h * move
            near = dataclasses.replace(solution, v=v)
            return near.gradient(output, at_any_point=True).certificate.corrected - truth

        size = abs(truth) + float(np.abs(solution.linearization.magnitude).max())
        assert is_of_order_two(error, size), output


@law()
def law_solving_again_from_the_solution_stays_there(case: Case) -> None:
    again = case.system.solve(start=case.solution)
    close(again.v, case.solution.v, 1e-13)
    assert again.report.iterations.max(initial=0) <= 1  # from the guesses most blocks need more
    assert case.solution.certificate.residual <= 1e-14


@law()
def law_a_system_function_is_solve_and_jacobian(case: Case) -> None:
    names, outputs = list(case.fixture.parameters), list(case.fixture.outputs)
    function = case.system.function(of=outputs, wrt=names)
    direction = random_direction(case)
    for step in (0.0, 0.01, -0.02):
        values = moved(case, direction, step)
        solution = case.system.solve(values)
        got, jacobian = function(flat(values, names))
        close(got, [float(solution[output]) for output in outputs], 1e-11)
        expected = [flat(solution.gradient(output), names) for output in outputs]
        close(
            jacobian, np.reshape(expected, (len(outputs), -1)) if outputs else np.zeros(jacobian.shape), 1e-9
        )
        close(function.value(flat(values, names)), got, 1e-11)


@law()
def law_many_points_are_solved_as_one_by_one(case: Case) -> None:
    names, outputs = list(case.fixture.parameters), list(case.fixture.outputs)
    direction = random_direction(case)
    points = [moved(case, direction, step) for step in (0.0, 0.01, -0.02)]
    if not names:
        return
    batch = case.system.solve_many({name: np.stack([p[name] for p in points]) for name in names}, of=outputs)
    assert batch.ok.all()
    for lane, point in enumerate(points):
        solution = case.system.solve(point)
        for name, value in solution.states.items():
            close(batch[name][lane], value, 1e-11, name)
        for output in outputs:
            for name, value in solution.gradient(output).items():
                close(batch.jacobian[output, name][lane], np.reshape(value, (1, -1)), 1e-9, output)


# -- backpropagation, as in a textbook ---------------------------------------------------------------------
@dataclass(frozen=True)
class Assignment:
    """u := f, with the constraint that says so; sign −1 where it was written f == u."""

    row: str
    sign: float
    state: sympy.Symbol
    formula: sympy.Expr


def assignments(s: Symbols) -> list[Assignment]:
    """The rows of a DAG as assignments, operands before what uses them."""
    states = set(s.states)
    waiting = list(zip(s.rows, s.left, s.right, strict=True))
    done: set[sympy.Symbol] = set()
    out: list[Assignment] = []
    while waiting:
        rest = []
        for row, left, right in waiting:
            for sign, u, f in ((1.0, left, right), (-1.0, right, left)):
                if u in states and u not in done and f.free_symbols & states <= done:
                    out.append(Assignment(row, sign, u, f))
                    done.add(u)
                    break
            else:
                rest.append((row, left, right))
        assert len(rest) < len(waiting), "not a DAG"
        waiting = rest
    return out


@cache
def forward_pass(
    fixture: Fixture,
) -> tuple[list[Assignment], dict[sympy.Symbol, float], dict[tuple[sympy.Symbol, sympy.Symbol], float]]:
    """The assignments, the value of every variable, the partial of every variable by what it is computed from.

    The first rule: going forwards, every variable is computed from those before it.
    """
    s = symbols(fixture)
    tape = assignments(s)
    value: dict[sympy.Symbol, float] = dict(zip(s.parameters, s.point, strict=True))
    partial: dict[tuple[sympy.Symbol, sympy.Symbol], float] = {}
    for step in tape:
        before = sorted(step.formula.free_symbols, key=str)
        formulas = [step.formula, *(sympy.diff(step.formula, x) for x in before)]
        numbers = sympy.lambdify(before, formulas, "math", cse=True)(*(value[x] for x in before))
        value[step.state] = float(numbers[0])
        for x, number in zip(before, numbers[1:], strict=True):
            partial[step.state, x] = float(number)
    return tape, value, partial


def backprop(fixture: Fixture, output: str) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Values by state, multipliers by constraint, gradient by parameter.

    The second rule: going backwards, the adjoint of a variable is the sum over its children of the child's adjoint
    times the partial of the child by the variable.
    """
    s = symbols(fixture)
    tape, value, partial = forward_pass(fixture)
    adjoint = dict.fromkeys([*s.parameters, *s.states], 0.0)
    adjoint[s.states[s.names.index(output)]] = 1.0
    for step in reversed(tape):
        for x in step.formula.free_symbols:
            adjoint[x] += adjoint[step.state] * partial[step.state, x]
    return (
        {str(x): value[x] for x in s.states},
        {step.row: step.sign * adjoint[step.state] for step in tape},
        {str(x): adjoint[x] for x in s.parameters},
    )


@law(only=lambda fixture: fixture.dag)
def law_the_multipliers_of_a_dag_are_backpropagation(case: Case) -> None:
    fixture, s = case.fixture, symbols(case.fixture)
    for output in fixture.outputs:
        values, multipliers, gradient = backprop(fixture, output)
        close(flat(case.solution.states, fixture.shapes), list(values.values()), 1e-12)
        order = [*fixture.constraints, *fixture.definitions]
        close(flat(case.solution.multipliers(output), order), [multipliers[row] for row in s.rows], 1e-10)
        close(flat(case.solution.gradient(output), fixture.parameters), list(gradient.values()), 1e-10)
        assert math.isfinite(case.solution.gradient(output).certificate.linear_residual)
