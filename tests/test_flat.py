"""Flat code against the row-major and family-major ways, NumPy's functions and the textbook tape."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest
import scipy.special
from fixtures import FIXTURES, Fixture, declare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_random_programs import Growing
from test_random_programs import declare as declare_recipe

import lagrad as lg
from lagrad.assembly import flat
from lagrad.assembly.flat import FlatCode, flatten
from lagrad.assembly.machine import explicit_rows
from lagrad.compare.tape import backprop
from lagrad.errors import ConvergenceError, EvaluationError, LagradError
from lagrad.expr.expression import binary, unary
from lagrad.expr.primitives import OPCODE, PRIMITIVES, Primitive
from lagrad.kernel import kernel

Floats = NDArray[np.float64]

DAGS = [fixture for fixture in FIXTURES if fixture.dag]


@kernel
def in_rows(start, stop, tapes, terms, rows, reg, m, v):
    return explicit_rows(start, stop, tapes, terms, rows, reg, m, v)


def row_major(system: lg.System, p: Floats) -> Floats:
    """All states (n,), one row after the other."""
    machine, layout = system.layout.machine, system.layout
    v = np.concatenate([p, np.zeros(layout.n)])
    reg = np.empty(machine.registers)
    stop = np.int64(machine.n)
    reached = in_rows(np.int64(0), stop, machine.tapes, machine.terms, machine.rows, reg, machine.m, v)
    assert reached == machine.n
    return v[machine.m :]


def flat_states(system: lg.System, p: Floats) -> Floats:
    """All states (n,), by flat code."""
    code = system.layout.flat
    assert code is not None
    reg = code.values()
    reg[: p.size] = p
    assert code.evaluate(reg)[0]
    return reg[code.where]


def multipliers(system: lg.System, p: Floats, seeds: Floats) -> tuple[Floats, Floats]:
    """λ of every row and the gradient, by flat code."""
    code = system.layout.flat
    assert code is not None
    reg = code.values()
    reg[: p.size] = p
    assert code.evaluate(reg)[0]
    adj = np.zeros(reg.size)
    adj[code.where] = seeds
    assert code.pull(reg, adj, clear=False)
    return adj[code.where], adj[: p.size]


def same_as_the_other_ways(system: lg.System, p: Floats) -> None:
    """Values to the last bit; residuals of nothing but rounding; adjoints that solve the other ways' Jacobian."""
    layout, machine = system.layout, system.layout.machine
    u = flat_states(system, p)
    assert u.tobytes() == row_major(system, p).tobytes()
    v = np.concatenate([p, u])
    residual, magnitude, data = machine.jacobian(v)
    assert (np.abs(residual) <= 4.0 * np.finfo(float).eps * magnitude).all()
    if not np.isfinite(data).all():
        return
    seeds = np.random.default_rng(layout.n).normal(size=layout.n)
    lam, gradient = multipliers(system, p, seeds)
    rows = machine.rows
    by_state = np.zeros((layout.n, layout.n))
    by_parameter = np.zeros((layout.n, layout.m))
    for r in range(layout.n):
        by_state[r, rows.a_col[rows.a_ptr[r] : rows.a_ptr[r + 1]]] = data[rows.a_ptr[r] : rows.a_ptr[r + 1]]
        here = slice(rows.b_ptr[r], rows.b_ptr[r + 1])
        by_parameter[r, rows.b_col[here]] = data[machine.nnz_u :][here]
    by_state *= rows.sign[:, None]
    by_parameter *= rows.sign[:, None]
    # lam belongs to u - f; what rounding may do to each equation is a few units of the sum of its sizes
    sizes = np.abs(by_state.T) @ np.abs(lam) + np.abs(seeds)
    assert (np.abs(by_state.T @ lam - seeds) <= 1e-13 * sizes).all()
    sizes = np.abs(by_parameter.T) @ np.abs(lam)
    assert (np.abs(gradient + by_parameter.T @ lam) <= 1e-13 * sizes + 1e-300).all()


@pytest.mark.parametrize("fixture", DAGS, ids=lambda fixture: fixture.name)
def test_fixtures_in_all_ways(fixture: Fixture) -> None:
    system = lg.build(declare(fixture))
    if system.layout.kind.any():  # all of the form u == f, but one is solved for another state
        assert fixture.name == "reversed"
        assert system.layout.flat is None
        return
    same_as_the_other_ways(system, system.layout.parameter_vector(None))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(5, 60), st.booleans())
def test_random_programs_in_all_ways(seed: int, parameters: int, instructions: int, share_all: bool) -> None:
    growing = Growing(seed, parameters, 0)
    growing.grow(instructions)
    program = declare_recipe(growing.recipe, lambda x: x)
    program.share_all = share_all
    system = lg.build(program)
    if system.layout.n:
        same_as_the_other_ways(system, system.layout.parameter_vector(None))


# -- every primitive, wherever its operands lie ---------------------------------------------------------------------
def sampled(primitive: Primitive, side: int, size: int, rng: np.random.Generator) -> Floats:
    intervals = primitive.sample[side]
    low, high = np.array(intervals)[rng.integers(len(intervals), size=size)].T
    return np.asarray(rng.uniform(low, high))


def ways(primitive: Primitive) -> tuple[str, ...]:
    """Where its operands may lie."""
    if primitive.name == "powc":  # the exponent is one number
        return ("second fixed",)
    if primitive.arity == 1:
        return ("in order", "anywhere")
    return ("in order", "first fixed", "second fixed", "anywhere", "twice")


@pytest.mark.parametrize(
    ("primitive", "lie"), [pytest.param(p, lie, id=f"{p.name}, {lie}") for p in PRIMITIVES for lie in ways(p)]
)
def test_every_primitive(primitive: Primitive, lie: str) -> None:
    """Long arrays, which take the ways of array arithmetic, against NumPy's values and the textbook tape."""
    size, rng = 40, np.random.default_rng(primitive.arity)
    a, b = sampled(primitive, 0, size, rng), sampled(primitive, primitive.arity - 1, size, rng)
    if lie == "twice":
        b = a
    a, b = a[:1] if lie == "first fixed" else a, b[:1] if lie == "second fixed" else b
    at = np.random.default_rng(3).permutation(size) if lie == "anywhere" else np.arange(size)
    program = lg.Program(lie)
    x = program.parameter("x", a)
    y = x if lie == "twice" else program.parameter("y", b)
    left = x if lie == "first fixed" else x[at]
    right = y if lie == "second fixed" else y[at]
    if primitive.name == "powc":
        right = float(b[0])
    if primitive.arity == 1:
        r = unary(OPCODE[primitive.name], left)
    else:
        r = binary(OPCODE[primitive.name], left, right)
    weights = rng.normal(size=size)
    program.define("r", r)
    program.define("out", lg.sum(weights * r))
    system = lg.build(program)
    value, jacobian = system.function(of=["out"])(system.layout.parameter_vector(None))
    namespace = {
        "np": np,
        "sp": scipy.special,
        "a": a[at] if a.size > 1 else a,
        "b": b[at] if b.size > 1 else b,
    }
    expected = eval(primitive.numpy, namespace) * np.ones(size)
    np.testing.assert_allclose(system.solve()["r"], expected, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(value[0], weights @ expected, rtol=1e-12)
    truth = backprop(program, "out")
    by_tape = np.concatenate([np.ravel(truth.gradient[name]) for name in program.parameters.by_name])
    np.testing.assert_allclose(
        jacobian[0], by_tape, rtol=1e-12, atol=1e-13 * np.abs(by_tape).max(initial=0.0)
    )


# -- what must not slip through -------------------------------------------------------------------------------------
def many(build: Any) -> lg.System:
    """A system whose definitions are all explicit, from `build(program, x)`."""
    program = lg.Program("p")
    x = program.parameter("x", np.linspace(0.5, 1.5, 40))
    build(program, x)
    return lg.build(program)


def test_a_state_that_is_infinite_in_the_middle_is_refused_by_name() -> None:
    """1 / inf is 0 again: the output alone would not tell."""
    program = lg.Program("p")
    x = program.parameter("x", np.ones(40))
    big = program.state("big", shape=40)
    program.constrain(big == lg.exp(x * 600.0))
    program.define("out", lg.sum(1.0 / big))
    function = lg.build(program).function(of=["out"])
    assert np.isfinite(function.value(np.full(40, 1.0))).all()
    with pytest.raises(EvaluationError, match=r"big\[7\]"):
        function(np.where(np.arange(40) == 7, 2.0, 1.0))
    with pytest.raises(EvaluationError, match=r"big\[7\]"):
        function.value(np.where(np.arange(40) == 7, 2.0, 1.0))


def test_an_operation_inside_a_row_may_overflow() -> None:
    function = many(
        lambda program, x: program.define("out", lg.sum(1.0 / (1.0 + lg.exp(x * 1000.0))))
    ).function(of=["out"])
    value, jacobian = function(np.full(40, 2.0))
    assert value[0] == 0.0
    assert (jacobian == 0.0).all()


def test_a_logarithm_of_a_negative_number_names_the_statement() -> None:
    program = lg.Program("p")
    x = program.parameter("x", np.ones(40))
    t = program.define("t", lg.log(x))
    program.define("out", lg.sum(t))
    function = lg.build(program).function(of=["out"])
    with pytest.raises(EvaluationError, match="out = nan"):
        function(np.where(np.arange(40) == 3, -1.0, 1.0))


def test_a_partial_that_is_infinite_is_refused_even_where_nothing_follows() -> None:
    """The derivative of sqrt(floor(x)) at x = 0.5 would come out as 0: floor passes nothing on."""
    program = lg.Program("p")
    x = program.parameter("x", np.full(40, 1.5))
    whole = program.define("whole", lg.floor(x))
    program.define("out", lg.sum(lg.sqrt(whole)))
    function = lg.build(program).function(of=["out"])
    assert function(np.full(40, 1.5))[0][0] == 40.0
    with pytest.raises(EvaluationError, match="out"):
        function(np.where(np.arange(40) == 5, 0.5, 1.5))


def test_an_unselected_branch_passes_nothing_on() -> None:
    program = lg.Program("p")
    x = program.parameter("x", np.linspace(-1.0, 1.0, 40))
    program.define("out", lg.sum(lg.where(x > 0.0, lg.sqrt(lg.maximum(x, 0.0)), 0.0)))
    x = np.linspace(-1.0, 1.0, 40)
    _, jacobian = lg.build(program).function(of=["out"])(x)
    np.testing.assert_allclose(jacobian[0], np.where(x > 0.0, 0.5 / np.sqrt(np.abs(x)), 0.0), rtol=1e-15)


def test_the_sign_of_zero() -> None:
    program = lg.Program("p")
    x = program.parameter("x", 0.0)
    y = program.define("y", -x)
    program.define("angle", lg.arctan2(y, -1.0))
    system = lg.build(program)
    assert system.function(of=["angle"]).value([0.0])[0] == system.solve()["angle"] == -np.pi


def test_bounds_of_explicit_states() -> None:
    program = lg.Program("p")
    x = program.parameter("x", 1.0)
    y = program.state("y", lower=0.0)
    program.constrain(y == x)
    function = lg.build(program).function(of=["y"])
    assert function([2.0])[0][0] == 2.0
    with pytest.raises(ConvergenceError, match="bounds"):
        function([-1.0])


def test_parameters_that_are_not_finite() -> None:
    function = many(lambda program, x: program.define("out", lg.sum(1.0 / x))).function(of=["out"])
    for bad in (np.inf, np.nan):
        with pytest.raises(LagradError):
            function(np.where(np.arange(40) == 3, bad, 1.0))
    assert function(np.ones(40))[0][0] == 40.0


# -- pieces ---------------------------------------------------------------------------------------------------------
def test_a_part_of_the_rows() -> None:
    """Rows [a, b) alone take the states before them as inputs, and hand their adjoints on."""
    rng = np.random.default_rng(5)
    program = lg.Program("p")
    x = program.parameter("x", rng.normal(size=5))
    values = [x[k] for k in range(5)]
    for _ in range(100):
        i, j = rng.integers(max(0, len(values) - 20), len(values), 2)
        values.append(lg.sin(values[i]) * values[j] + 0.5)
    program.share_all = True
    program.define("out", sum(values[-20:], start=lg.cos(x[0])))
    system = lg.build(program)
    layout = system.layout
    n, p = layout.n, layout.parameter_vector(None)
    seeds = np.zeros(n)
    seeds[layout.find_output("out")[0]] = 1.0
    lam, gradient = multipliers(system, p, seeds)
    v = np.concatenate([p, np.zeros(n)])
    pieces = [flatten(layout.machine, lo, hi) for lo, hi in ((0, n // 3), (n // 3, n // 2), (n // 2, n))]
    regs = []
    for piece in pieces:
        regs.append(piece.values())
        regs[-1][: piece.inputs.size] = v[piece.inputs]
        assert piece.evaluate(regs[-1])[0]
        v[layout.m + piece.start : layout.m + piece.stop] = regs[-1][piece.where]
    assert v[layout.m :].tobytes() == flat_states(system, p).tobytes()
    right = np.concatenate([np.zeros(layout.m), seeds])
    for piece, reg in zip(pieces[::-1], regs[::-1], strict=True):
        adj = np.zeros(reg.size)
        adj[piece.where] = right[layout.m + piece.start : layout.m + piece.stop]
        assert piece.pull(reg, adj, clear=False)
        right[layout.m + piece.start : layout.m + piece.stop] = adj[piece.where]
        right[piece.inputs] += adj[: piece.inputs.size]
    np.testing.assert_allclose(right[layout.m :], lam, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(right[: layout.m], gradient, rtol=1e-13)


def explicit_chain(n: int) -> tuple[lg.Program, lg.System]:
    """More rows than it takes for a Solution to use flat code; one is written f == u, and some are kinked."""
    rng = np.random.default_rng(n)
    program = lg.Program("chain")
    x = program.parameter("x", rng.normal(size=7))
    last = program.state("last")
    values = [x[k] for k in range(7)]
    for k in range(n):
        i, j = rng.integers(max(0, len(values) - 20), len(values), 2)
        term = lg.sin(values[i]) * values[j] + 0.5 if k % 3 else lg.abs(values[i]) - 0.1 * values[j]
        values.append(program.define(f"t{k}", term))
    program.constrain(sum(values[-20:], start=lg.cos(x[0])) == last, name="end")
    return program, lg.build(program)


def test_a_solution_of_many_explicit_rows() -> None:
    """States, gradient, multipliers and vjp against the textbook tape, with nothing linearized on the way."""
    program, system = explicit_chain(600)
    solution = system.solve()
    assert solution.v[system.layout.m :].tobytes() == row_major(system, system.layout.values).tobytes()
    truth = backprop(program, "last")
    gradient, multipliers = solution.gradient("last"), solution.multipliers("last")
    np.testing.assert_allclose(gradient["x"], truth.gradient["x"], rtol=1e-12)
    names = list(truth.multipliers)
    by_tape = np.array([truth.multipliers[name] for name in names])
    np.testing.assert_allclose([multipliers[name] for name in names], by_tape, rtol=1e-12, atol=1e-15)
    assert multipliers["end"] == -1.0  # its left side is the sum, its right side the state
    twice = solution.vjp({"last": 2.0, "t7": 0.0})
    assert (twice["x"] == 2.0 * gradient["x"]).all()
    assert "linearization" not in vars(solution)
    for derivative in (gradient, multipliers):
        certificate = derivative.certificate
        assert certificate.linear_residual is not None
        assert certificate.linear_residual <= 1e-14
        assert certificate.residual <= 1e-15
        assert certificate.mode == "adjoint"
        assert certificate.rcond == 1.0
    assert gradient.certificate.value == solution["last"]
    assert gradient.certificate.gradient_error is not None
    bound = gradient.certificate.gradient_error["x"]
    assert np.isfinite(bound).all()
    assert (np.abs(gradient["x"] - truth.gradient["x"]) <= bound).all()
    both = solution.jacobian("last", mode="tangent")["last", "x"].ravel()
    np.testing.assert_allclose(gradient["x"], both, rtol=1e-12)


def test_a_solution_that_was_differentiated_can_be_pickled() -> None:
    _, system = explicit_chain(300)
    solution = system.solve()
    gradient = solution.gradient("last")
    again = pickle.loads(pickle.dumps(solution))
    assert (again.gradient("last")["x"] == gradient["x"]).all()


def test_refusals_of_a_solution_of_many_explicit_rows() -> None:
    program = lg.Program("p")
    x = program.parameter("x", np.full(300, 1.5))
    root = program.define("root", lg.sqrt(x))
    program.define("out", lg.sum(root * root))
    program.define("logs", lg.log(x[0]))
    system = lg.build(program)
    assert system.solve().gradient("out")["x"] == pytest.approx(np.ones(300))
    at_the_edge = system.solve({"x": np.where(np.arange(300) == 9, 0.0, 1.5)})
    assert at_the_edge["out"] == pytest.approx(299 * 1.5)
    with pytest.raises(EvaluationError, match=r"root\[9\]"):
        at_the_edge.gradient("out")
    outside = system.solve({"x": np.where(np.arange(300) == 0, -0.0, 1.5)})
    with pytest.raises(EvaluationError, match="logs"):
        outside["logs"]


def test_constants_are_kept_once_by_their_bits() -> None:
    program = lg.Program("p")
    x = program.parameter("x", np.ones(50))
    program.define("out", x * 0.5 + 0.25 / x - lg.arctan2(-0.0, x) + lg.arctan2(0.0, x))
    code = lg.build(program).layout.flat
    assert isinstance(code, FlatCode)
    assert sorted(map(str, code.constants.tolist())) == ["-0.0", "0.0", "0.25", "0.5"]


def test_operands_in_order_are_found() -> None:
    program = lg.Program("p")
    x = program.parameter("x", np.linspace(1.0, 2.0, 64))
    program.define("y", 2.0 * lg.sin(x) / x)
    code = lg.build(program).layout.flat
    assert code is not None
    assert code.code.group_form.tolist() == [1, 2, 1]
    assert code.code.group_op.tolist() == [OPCODE["sin"], OPCODE["mul"], OPCODE["div"]]


def tiled(build: Any, monkeypatch: pytest.MonkeyPatch, tile: int) -> lg.System:
    """The system with its flat code in tiles of so many slots."""
    monkeypatch.setattr(flat, "TILE", tile)
    monkeypatch.setattr(flat, "NARROW", 2)
    system = lg.build(build())
    assert system.layout.flat is not None
    return system


@pytest.mark.parametrize("tile", [60, 300])
def test_tiles_change_the_order_of_operations_and_nothing_else(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def program() -> lg.Program:
        def f(x: Any, y: Any, s: Any) -> Any:
            a = np.sin(x) * y[::-1] + s  # the last of one array meets the first of the other
            b = a / (1 + x * x)
            c = b[1:] - b[:-1] ** 2
            return {"sum": np.sum(c * np.roll(c, 7)), "all": b * np.exp(-a)}

        rng = np.random.default_rng(0)
        return lg.trace(f, rng.uniform(0.5, 1.5, 90), rng.uniform(0.5, 1.5, 90), 0.3)

    whole = lg.build(program())
    assert whole.layout.flat is not None  # which is made when first asked for
    parts = tiled(program, monkeypatch, tile)
    p = np.random.default_rng(1).uniform(0.5, 1.5, whole.layout.m)
    assert parts.layout.flat is not None
    levels = len(whole.layout.flat.code.level_ptr)
    assert len(parts.layout.flat.code.level_ptr) > 2 * levels  # they are in tiles
    same_as_the_other_ways(parts, p)
    assert np.array_equal(flat_states(parts, p), flat_states(whole, p))
    seeds = np.random.default_rng(2).standard_normal(whole.layout.n)
    for a, b in zip(multipliers(parts, p, seeds), multipliers(whole, p, seeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_random_programs_in_tiles(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def program() -> lg.Program:
        growing = Growing(seed, 40, 0)
        growing.grow(60)
        return declare_recipe(growing.recipe, lambda x: x)

    system = tiled(program, monkeypatch, 12)
    same_as_the_other_ways(system, system.layout.parameter_vector(None))


def wide(n: int, scalar: bool) -> lg.Program:
    """Statements on arrays whose elements have nothing to do with each other; the mean of the last."""

    def f(x: Any, y: Any, s: Any) -> Any:
        a = np.sin(x) * y
        b = np.exp(-a * a) / (1.0 + x * x) + (s if scalar else 0.5)
        return np.mean(a * b - y)

    rng = np.random.default_rng(0)
    return lg.trace(f, rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, n), 0.3)


def test_tiles_that_keep_to_themselves_are_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    system = tiled(lambda: lg.trace(lambda x: np.mean(np.sin(x) * x - np.exp(x)), np.arange(0.5, 2.0, 0.01)),
                   monkeypatch, 100)  # fmt: skip
    code, p = system.layout.flat, system.layout.parameter_vector(None)
    assert code is not None and code.tiles.size > 4
    monkeypatch.setattr(flat, "THREADED", 0)
    ran: list[str] = []
    kernels = {name: getattr(flat, name) for name in ("flat_values", "flat_adjoints")}

    def counted(name: str) -> Any:
        def run(*arguments: Any) -> Any:
            ran.append(name)
            return kernels[name](*arguments)

        return run

    for name in kernels:
        monkeypatch.setattr(flat, name, counted(name))
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("LAGRAD_THREADS", threads)
        ran.clear()
        same_as_the_other_ways(system, p)
        found.append((flat_states(system, p), multipliers(system, p, np.ones(system.layout.n)), ran.copy()))
    (u, (lam, gradient), alone), (u3, (lam3, gradient3), shared) = found
    assert u.tobytes() == u3.tobytes()
    assert lam.tobytes() == lam3.tobytes() and gradient.tobytes() == gradient3.tobytes()
    assert len(shared) == 4 * len(alone)  # three parts and what comes after them


def test_tiles_that_share_an_input_stay_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads would add to its adjoint at once."""
    system = tiled(lambda: wide(150, scalar=True), monkeypatch, 300)
    monkeypatch.setattr(flat, "THREADED", 0)
    monkeypatch.setenv("LAGRAD_THREADS", "3")
    code = system.layout.flat
    assert code is not None and code.tiles.size == 0
    assert (
        np.diff(code.code.group_ptr).max() < 100
    )  # tiles all the same: a number beside arrays does not hold them up
    same_as_the_other_ways(system, system.layout.parameter_vector(None))


def test_threads_give_the_same_bits() -> None:
    def f(x: Any) -> Any:
        t = x
        for _ in range(30):
            t = lg.sin(t) * x[::-1] + 0.1 * t
        return lg.sum(t)

    g = lg.value_and_grad(f)
    points = [np.linspace(0.1, 1.0, 50) + 0.01 * k for k in range(8)]
    alone = [g(x) for x in points]
    together: list[Any] = [None] * 8

    def work(k: int) -> None:
        for _ in range(20):
            together[k] = g(points[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (value, gradient), (other, others) in zip(alone, together, strict=True):
        assert value == other
        assert gradient.tobytes() == others.tobytes()


def test_pickled_systems_run_on() -> None:
    system = many(lambda program, x: program.define("out", lg.sum(lg.exp(x) * x)))
    p = np.linspace(0.1, 1.0, 40)
    value, jacobian = system.function(of=["out"])(p)
    again = pickle.loads(pickle.dumps(system)).function(of=["out"])(p)
    assert again[0] == value
    assert (again[1] == jacobian).all()
