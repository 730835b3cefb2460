"""Every primitive against truths that the table does not contain.

Values come from NumPy and SciPy, and to 30 digits from mpmath through the SymPy view; derivatives of first
and second order are mpmath's numerical differentiation of that at 40 digits. The kernels are run as a model
runs them: on a tape of two operations, f(a, b)², where the adjoint of f is not 1 and has a tangent.
"""

import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
import sympy
from numpy.typing import NDArray

from lagrad.assembly import dispatch, generate, special
from lagrad.expr.primitives import OPCODE, PRIMITIVES, Primitive
from lagrad.kernel import kernel

ROOT = Path(__file__).resolve().parents[1]
DRAWS = 8
KERNEL_NAMES = {"math": math, "np": np} | {name: getattr(special, name) for name in generate.SPECIAL}

Floats = NDArray[np.float64]

every = pytest.mark.parametrize("primitive", PRIMITIVES, ids=lambda primitive: primitive.name)


@kernel
def run_tape(op, arg_a, arg_b, out, reg, tan, adj, adj2, adj_tan):
    stop = op.size
    dispatch.tape_values(op, arg_a, arg_b, 0, stop, out, reg)
    dispatch.tape_partials(op, arg_a, arg_b, 0, stop, out, reg, adj)
    dispatch.tape_seconds(op, arg_a, arg_b, 0, stop, out, reg, tan, adj2, adj_tan)


@kernel
def run_block(op, arg_a, arg_b, out, width, reg, tan, adj, adj2, adj_tan):
    stop = op.size
    dispatch.block_values(op, arg_a, arg_b, 0, stop, out, width, reg)
    dispatch.block_partials(op, arg_a, arg_b, 0, stop, out, width, reg, adj)
    dispatch.block_seconds(op, arg_a, arg_b, 0, stop, out, width, reg, tan, adj2, adj_tan)


Tape = list[tuple[str, int, int]]
Registers = tuple[Floats, Floats, Floats, Floats, Floats]


def run(tape: Tape, leaves: Floats, direction: Floats, block: bool = False) -> Registers:
    """reg, adj, tan, adj and adj_tan again from the second-order kernel; all (registers, instances)."""
    op = np.array([OPCODE[name] for name, _, _ in tape], np.int32)
    arg_a = np.array([x for _, x, _ in tape], np.int32)
    arg_b = np.array([y for _, _, y in tape], np.int32)
    n_leaves, width = leaves.shape
    n = n_leaves + len(tape)
    reg, tan, adj, adj2, adj_tan = (np.zeros((n, width)) for _ in range(5))
    reg[:n_leaves] = leaves
    tan[:n_leaves] = direction
    adj[-1] = adj2[-1] = 1.0
    if block:
        run_block(op, arg_a, arg_b, n_leaves, width, reg, tan, adj, adj2, adj_tan)
        return reg, adj, tan, adj2, adj_tan
    for i in range(width):
        columns = [np.ascontiguousarray(array[:, i]) for array in (reg, tan, adj, adj2, adj_tan)]
        run_tape(op, arg_a, arg_b, n_leaves, *columns)
        for array, column in zip((reg, tan, adj, adj2, adj_tan), columns, strict=True):
            array[:, i] = column
    return reg, adj, tan, adj2, adj_tan


def draws(primitive: Primitive) -> Floats:
    """(2, DRAWS) arguments from the table's intervals, the same in every run; row 1 is 0.5 where unary."""
    rng = random.Random(primitive.name)
    rows = [[rng.uniform(*rng.choice(intervals)) for _ in range(DRAWS)] for intervals in primitive.sample]
    return np.array(rows if primitive.arity == 2 else [rows[0], [0.5] * DRAWS])


def is_held(primitive: Primitive, argument: int) -> bool:
    """True for an argument that has no derivative by its meaning: a condition, or the exponent of powc."""
    condition = all(low == high for low, high in primitive.sample[argument])
    return condition or (primitive.name == "powc" and argument == 1)


def exact(primitive: Primitive) -> Callable[..., Any]:
    """The primitive as a function of many-digit numbers, from its SymPy source."""
    a, b = sympy.symbols("a b", real=True)
    expression = eval(primitive.sympy, {"sympy": sympy, "a": a, "b": b})
    return sympy.lambdify((a, b)[: primitive.arity], expression, "mpmath")


def exact_derivatives(primitive: Primitive, point: Floats) -> tuple[Any, list[Any], list[list[Any]]]:
    """Value, gradient (2) and Hessian (2, 2) at a point."""
    f = exact(primitive)
    at = tuple(mpmath.mpf(float(x)) for x in point[: primitive.arity])
    gradient, hessian = [mpmath.mpf(0)] * 2, [[mpmath.mpf(0)] * 2 for _ in range(2)]

    def diff(*orders: int) -> Any:
        if any(order and is_held(primitive, i) for i, order in enumerate(orders)):
            return mpmath.mpf(0)
        return mpmath.diff(
            f, at if primitive.arity == 2 else at[0], orders if primitive.arity == 2 else orders[0]
        )

    for i in range(primitive.arity):
        gradient[i] = diff(*(int(k == i) for k in range(primitive.arity)))
        for j in range(primitive.arity):
            hessian[i][j] = diff(*(int(k == i) + int(k == j) for k in range(primitive.arity)))
    return f(*at), gradient, hessian


def assert_close(got: float, truth: Any, tolerance: float, scale: Any = 1) -> None:
    assert abs(mpmath.mpf(float(got)) - truth) <= tolerance * (abs(truth) + abs(scale)), (got, truth)


@every
def test_values_are_those_of_numpy_and_of_many_digits(primitive: Primitive) -> None:
    leaves = draws(primitive)
    reg = run([(primitive.name, 0, 1)], leaves, np.zeros_like(leaves))[0]
    by_numpy = eval(primitive.numpy, {"np": np, "sp": scipy.special, "a": leaves[0], "b": leaves[1]})
    np.testing.assert_allclose(reg[2], by_numpy, rtol=2e-14, atol=1e-14)
    f = exact(primitive)
    with mpmath.workdps(30):
        for i in range(DRAWS):
            truth = f(*(mpmath.mpf(float(x)) for x in leaves[: primitive.arity, i]))
            assert_close(reg[2, i], truth, 2e-15)


@every
def test_derivatives_are_those_of_many_digits(primitive: Primitive) -> None:
    leaves = draws(primitive)
    direction = np.array([[0.7], [-1.3 if primitive.arity == 2 else 0.0]]) * np.ones(DRAWS)
    for i in range(primitive.arity):
        if is_held(primitive, i):
            direction[i] = 0.0
    _, adj, tan, adj2, adj_tan = run([(primitive.name, 0, 1), ("square", 2, 2)], leaves, direction)
    np.testing.assert_array_equal(adj, adj2)
    for i in range(DRAWS):
        with mpmath.workdps(40):
            r, g, h = exact_derivatives(primitive, leaves[:, i])
            v = [mpmath.mpf(float(x)) for x in direction[:, i]]
            assert_close(tan[2, i], g[0] * v[0] + g[1] * v[1], 1e-14, abs(g[0]) + abs(g[1]) + 1)
            # J = r²: ∇J = 2 r g and ∇²J v = 2 g (g·v) + 2 r h v
            for j in range(2):
                assert_close(adj[j, i], 2 * r * g[j], 1e-14, 1 + abs(r))
                truth = 2 * g[j] * (g[0] * v[0] + g[1] * v[1]) + 2 * r * (h[j][0] * v[0] + h[j][1] * v[1])
                size = 1 + abs(r) * (abs(h[j][0]) + abs(h[j][1])) + g[0] ** 2 + g[1] ** 2
                assert_close(adj_tan[j, i], truth, 2e-14, size)


@every
def test_a_block_computes_what_the_tape_computes(primitive: Primitive) -> None:
    leaves = draws(primitive)
    direction = np.random.default_rng(3).normal(size=leaves.shape)
    tape = [(primitive.name, 0, 1), ("mul", 2, 2), ("sub", 3, 0)]
    for one, many in zip(run(tape, leaves, direction), run(tape, leaves, direction, block=True), strict=True):
        np.testing.assert_array_max_ulp(one, many, maxulp=1)


@every
def test_the_domain_is_where_value_and_partials_are_finite(primitive: Primitive) -> None:
    numbers = [-2.5, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0]
    pairs = [(a, b) for a in numbers for b in (numbers if primitive.arity == 2 else [0.0])]
    leaves = np.array(pairs).T.copy()
    reg, adj, *_ = run([(primitive.name, 0, 1)], leaves, np.zeros_like(leaves))
    finite = np.isfinite(reg[2]) & np.isfinite(adj[0]) & np.isfinite(adj[1])
    for i, (a, b) in enumerate(pairs):
        assert eval(primitive.domain, KERNEL_NAMES | {"a": a, "b": b}) == finite[i], (
            a,
            b,
            reg[:, i],
            adj[:, i],
        )
    for a, b in draws(primitive).T:
        assert eval(primitive.domain, KERNEL_NAMES | {"a": a, "b": b})


# A point where the function has a kink or a jump, and the side whose derivative the table's rule promises.
KINKS: dict[str, list[tuple[tuple[float, float], tuple[float, float]]]] = {
    "powc": [((0.0, 2.5), (1.0, 0.0)), ((0.0, 1.5), (1.0, 0.0))],
    "abs": [((0.0, 0.0), (1.0, 0.0))],
    "minimum": [((1.25, 1.25), (-1.0, 0.0))],
    "maximum": [((1.25, 1.25), (1.0, 0.0))],
    "power": [((0.0, 1.0), (1.0, 0.0)), ((0.0, 2.5), (1.0, 0.0))],
    "arctan2": [((0.0, -1.5), (1.0, 0.0)), ((0.0, -1.5), (-1.0, 0.0))],
    "hypot": [((0.0, 0.0), (1.0, 0.0))],
    "mod": [((1.5, 0.5), (1.0, 0.0)), ((-1.5, 0.5), (1.0, 0.0)), ((1.5, -0.5), (-1.0, 0.0))],
    "sign": [((0.0, 0.0), (1.0, 0.0))],
    "floor": [((2.0, 0.0), (1.0, 0.0))],
    "ceil": [((2.0, 0.0), (1.0, 0.0))],
    "rint": [((2.5, 0.0), (1.0, 0.0))],
    "trunc": [((-2.0, 0.0), (1.0, 0.0))],
    "less": [((0.5, 0.5), (1.0, 0.0))],
    "less_equal": [((0.5, 0.5), (1.0, 0.0))],
    "equal": [((0.5, 0.5), (1.0, 0.0))],
    "not_equal": [((0.5, 0.5), (1.0, 0.0))],
}


def test_every_kink_has_a_rule_and_a_test() -> None:
    assert {p.name for p in PRIMITIVES if p.kink != "False"} == set(KINKS)
    assert {p.name for p in PRIMITIVES if p.rule} == set(KINKS)


@pytest.mark.parametrize("name", KINKS)
def test_the_derivative_at_a_kink_is_that_of_the_stated_side(name: str) -> None:
    primitive = PRIMITIVES[OPCODE[name]]
    for point, side in KINKS[name]:
        near = [x + 1e-12 * s for x, s in zip(point, side, strict=True)]
        assert eval(primitive.kink, KERNEL_NAMES | {"a": point[0], "b": point[1]})
        assert not eval(primitive.kink, KERNEL_NAMES | {"a": near[0], "b": near[1]})
        reg, adj, *_ = run([(name, 0, 1)], np.array([point]).T.copy(), np.zeros((2, 1)))
        by_numpy = eval(primitive.numpy, {"np": np, "sp": scipy.special, "a": point[0], "b": point[1]})
        assert reg[2, 0] == pytest.approx(by_numpy, abs=1e-15)
        with mpmath.workdps(60):
            gradient = exact_derivatives(primitive, np.array(near))[1]
        # a**b ln(a) and a**0.5 are still of size 1e-11 and 1e-6 this near to the kink
        np.testing.assert_allclose(adj[:2, 0], [float(x) for x in gradient], atol=3e-6)


def test_rounding_and_comparing_at_the_jump_is_numpys() -> None:
    ties = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.0, -3.0])
    for name in ("rint", "floor", "ceil", "trunc", "sign"):
        reg = run([(name, 0, 0)], ties[None, :], np.zeros((1, ties.size)))[0]
        np.testing.assert_array_equal(reg[1], getattr(np, name)(ties))
        a = sympy.Symbol("a", real=True)
        view = eval(PRIMITIVES[OPCODE[name]].sympy, {"sympy": sympy, "a": a})
        assert [float(view.subs(a, sympy.Rational(float(x)))) for x in ties] == list(reg[1])


SATURATED = {
    "tanh": [(30.0,), (-25.0,), (300.0,)],
    "expit": [(40.0,), (-40.0,), (600.0,), (1e-9,)],
    "arctan2": [(3e200, 4e200), (-3e-200, 4e-200), (5.0, 1e190), (1e160, 2.0)],
    "arcsinh": [(1e180,), (-3e170,)],
    "arccosh": [(1e180,), (3e170,)],
}


@pytest.mark.parametrize("name", SATURATED)
def test_partials_keep_their_relative_accuracy_at_the_ends(name: str) -> None:
    # 1 - tanh(30)² is 3.5e-26 and rounds to 0 from the value; a² + b² overflows from 1e154 on.
    primitive = PRIMITIVES[OPCODE[name]]
    for point in SATURATED[name]:
        leaves = np.array([point if len(point) == 2 else (*point, 0.5)]).T.copy()
        adj = run([(name, 0, 1)], leaves, np.zeros((2, 1)))[1]
        with mpmath.workdps(500):
            f = exact(primitive)
            at = [mpmath.mpf(x) for x in point]
            for k in range(primitive.arity):
                # exact to 100 digits: the third derivative beside the first is at most 1 / (least argument)²
                h = mpmath.mpf(10) ** -100 * max(map(abs, at))
                two = [f(*(x + s * h * (i == k) for i, x in enumerate(at))) for s in (1, -1)]
                assert_close(float(adj[k, 0]), (two[0] - two[1]) / (2 * h), 4e-15, 1e-300)


def test_nan_is_not_lost() -> None:
    nan = np.full((2, 1), math.nan)
    for first, second in ((math.nan, 1.0), (1.0, math.nan)):
        leaves = np.array([[first], [second]])
        for name in ("minimum", "maximum", "add", "hypot", "mod", "logaddexp", "arctan2"):
            assert math.isnan(run([(name, 0, 1)], leaves, np.zeros((2, 1)))[0][2, 0]), name
    for name in ("abs", "sign", "floor", "digamma", "trigamma", "expit"):
        assert math.isnan(run([(name, 0, 0)], nan, np.zeros((2, 1)))[0][2, 0]), name


@pytest.mark.parametrize("block", [False, True])
def test_a_branch_that_is_not_taken_passes_nothing_on(block: bool) -> None:
    # where(x > 0, 1/x, 3 x²) at x = 0: value 0, slope 0, curvature 6; 1/x and its slope are infinite there.
    # Registers: x, 0, 3 | x > 0, 1/x, picked, x², 3 x², picked, sum.
    tape = [("less", 1, 0), ("reciprocal", 0, 0), ("pick", 3, 4), ("square", 0, 0), ("mul", 2, 6)]
    tape += [("picknot", 3, 7), ("add", 5, 8)]
    leaves = np.array([[0.0, 0.0, 3.0], [2.0, 0.0, 3.0]]).T.copy()
    direction = np.array([[1.0, 0.0, 0.0]] * 2).T.copy()
    reg, adj, tan, _, adj_tan = run(tape, leaves, direction, block)
    np.testing.assert_allclose(reg[-1], [0.0, 1 / 2])
    np.testing.assert_allclose(adj[0], [0.0, -1 / 4])
    np.testing.assert_allclose(tan[-1], [0.0, -1 / 4])
    np.testing.assert_allclose(adj_tan[0], [6.0, 2 / 8])


@pytest.mark.parametrize("name", ["pick", "picknot", "minimum", "maximum"])
@pytest.mark.parametrize("block", [False, True])
def test_an_infinite_adjoint_reaches_only_the_argument_that_is_selected(name: str, block: bool) -> None:
    # The slope of sqrt at 0 is infinite; the argument that was not selected has no part in it.
    values = {"pick": (1.0, 0.0), "picknot": (0.0, 0.0), "minimum": (0.0, 4.0), "maximum": (0.0, -4.0)}[name]
    taken = 0 if name in ("minimum", "maximum") else 1
    tape = [(name, 0, 1), ("sqrt", 2, 2)]
    _, adj, _, adj2, _ = run(tape, np.array([values]).T.copy(), np.zeros((2, 1)), block)
    for adjoint in (adj, adj2):
        assert adjoint[taken, 0] == math.inf
        assert adjoint[1 - taken, 0] == 0.0


@pytest.mark.parametrize("block", [False, True])
def test_a_zero_adjoint_stops_an_infinite_partial(block: bool) -> None:
    # 0 * sqrt(x) at x = 0, written with a product
    tape = [("sqrt", 0, 0), ("mul", 2, 1), ("cbrt", 0, 0), ("mul", 4, 1), ("add", 3, 5)]
    _, adj, _, adj2, _ = run(tape, np.zeros((2, 1)), np.array([[0.0], [1.0]]), block)
    assert adj[0, 0] == 0.0 and adj2[0, 0] == 0.0


@pytest.mark.parametrize(
    ("base", "exponent", "slope", "curvature"),
    [
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 1.0, 1.0, 0.0),
        (0.0, 2.0, 0.0, 2.0),
        (0.0, 3.0, 0.0, 0.0),
        (0.0, 2.5, 0.0, 0.0),
        (-2.0, 3.0, 12.0, -12.0),
        (-2.0, -2.0, 2 / 8, 6 / 16),
        (-2.0, 0.0, 0.0, 0.0),
    ],
)
def test_a_constant_exponent_where_logarithms_fail(
    base: float, exponent: float, slope: float, curvature: float
) -> None:
    leaves = np.array([[base], [exponent]])
    reg, adj, _, _, adj_tan = run([("powc", 0, 1)], leaves, np.array([[1.0], [0.0]]))
    assert reg[2, 0] == base**exponent
    assert (adj[0, 0], adj_tan[0, 0]) == pytest.approx((slope, curvature), abs=1e-15)
    assert adj[1, 0] == 0.0


def test_second_order_of_hypot_at_the_origin_is_the_limit_along_the_first_argument() -> None:
    reg, _, _, _, adj_tan = run([("hypot", 0, 1)], np.zeros((2, 1)), np.array([[1.0], [0.0]]))
    assert reg[2, 0] == 0.0 and adj_tan[0, 0] == 0.0


# ------------------------------------------------------------------------------------------------------------
# Special functions
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "function"),
    list(enumerate((special.digamma, special.trigamma, special.polygamma2, special.polygamma3))),
    ids=["digamma", "trigamma", "polygamma2", "polygamma3"],
)
def test_polygamma_functions(order: int, function: Callable[[float], float]) -> None:
    rng = np.random.default_rng(order)
    points = [
        *rng.uniform(0.01, 40, 60),
        *rng.uniform(-30, 0, 60),
        *10 ** rng.uniform(-8, 8, 30),
        20.0,
        0.5,
        -1e4 - 0.3,
    ]
    with mpmath.workdps(40):
        for x in points:
            # near a zero the error is that of the terms, which are of size π^(order + 1)
            assert_close(function(float(x)), mpmath.polygamma(order, mpmath.mpf(float(x))), 1e-14, 1)
    for pole in (0.0, -1.0, -7.0):
        assert not math.isfinite(function(pole))
    assert math.isnan(function(math.nan))


def test_logarithm_of_sums_and_logistic_at_the_ends_of_the_range() -> None:
    for a, b in (
        (1000.0, 1000.5),
        (-1000.0, -1000.5),
        (800.0, -800.0),
        (math.inf, 1.0),
        (-math.inf, -math.inf),
    ):
        assert special.logaddexp(a, b) == pytest.approx(np.logaddexp(a, b), rel=1e-15)
    points = np.array([-1000.0, -745.0, -708.0, -40.0, 0.0, 40.0, 800.0])
    for x in points:
        assert special.expit(float(x)) == pytest.approx(scipy.special.expit(x), rel=1e-15, abs=1e-300)
    leaves = np.array([[1000.0], [999.0]])
    adj = run([("logaddexp", 0, 1)], leaves, np.zeros((2, 1)))[1]
    np.testing.assert_allclose(adj[:2, 0], scipy.special.softmax([1000.0, 999.0]), rtol=1e-15)


# ------------------------------------------------------------------------------------------------------------
# The table's other columns, and the generated files
# ------------------------------------------------------------------------------------------------------------


def test_names_of_numpy_and_scipy_mean_the_primitive() -> None:
    seen: set[str] = set()
    for primitive in PRIMITIVES:
        a, b = draws(primitive)
        value = eval(primitive.numpy, {"np": np, "sp": scipy.special, "a": a, "b": b})
        for module, names in ((np, primitive.ufuncs), (scipy.special, primitive.scipy)):
            functions = [getattr(module, name) for name in names]
            for function in functions:
                assert isinstance(function, np.ufunc)
                assert function.__name__ in names
                got = function(a) if primitive.arity == 1 else function(a, b)
                np.testing.assert_allclose(got, value, rtol=1e-14)
        assert not seen & set(primitive.ufuncs)
        seen |= set(primitive.ufuncs)


def test_opcodes_are_positions_and_names_are_unique() -> None:
    assert [OPCODE[p.name] for p in PRIMITIVES] == list(range(len(PRIMITIVES)))
    for p in PRIMITIVES:
        assert len(p.partials) == len(p.sample) == len(p.binds) == len(p.latex_binds) == p.arity
        assert len(p.seconds) == (1, 3)[p.arity - 1]


def written(primitive: Primitive, arguments: list[tuple[str, int]]) -> tuple[str, int]:
    """Text and precedence of a primitive of printed arguments."""
    texts = [
        text if precedence >= bind else f"({text})"
        for (text, precedence), bind in zip(arguments, primitive.binds, strict=True)
    ]
    return primitive.format.format(**dict(zip("ab", texts, strict=False))), primitive.precedence


def test_printed_forms_read_back_as_the_same_expression() -> None:
    names: dict[str, Any] = {"x": 1.3, "y": 0.7, "z": 2.1, "where": np.where}
    apply: dict[str, Callable[..., Any]] = {}
    for p in PRIMITIVES:
        scope = {"np": np, "sp": scipy.special}
        # a comparison that is read back is a bool, which NumPy would take for half precision
        function = eval(f"lambda a, b=0: (lambda a, b: {p.numpy})(a * 1.0, b * 1.0)", scope)
        names[p.name] = apply[p.name] = function
    letters = [(letter, 6) for letter in "xyz"]
    values = [1.3, 0.7, 2.1]
    infix = [p for p in PRIMITIVES if "(" not in p.format]
    assert len(infix) == 12
    with np.errstate(all="ignore"):
        for outer in PRIMITIVES:
            for inner in infix:
                for slot in range(outer.arity):
                    text = [*letters[:slot], written(inner, letters[1 : 1 + inner.arity]), *letters[slot:]]
                    numbers = [
                        *values[:slot],
                        apply[inner.name](*values[1 : 1 + inner.arity]),
                        *values[slot:],
                    ]
                    got = eval(written(outer, text[: outer.arity])[0], names)
                    wanted = apply[outer.name](*numbers[: outer.arity])
                    np.testing.assert_allclose(np.nan if np.iscomplex(got) else got, wanted, rtol=1e-14)


def test_latex_forms_have_balanced_braces() -> None:
    for p in PRIMITIVES:
        text = p.latex.format(a="u", b="v")
        assert text.count("{") == text.count("}") and text.count(r"\left") == text.count(r"\right")
        assert "u" in text.replace(r"\u", "") and (p.arity == 1 or "v" in text)


def test_the_table_needs_no_library() -> None:
    script = (
        "import runpy, sys; runpy.run_path(sys.argv[1]);"
        "raise SystemExit(bool({'numpy', 'numba', 'sympy', 'scipy'} & set(sys.modules)))"
    )
    table = ROOT / "lagrad" / "expr" / "primitives.py"
    assert subprocess.run([sys.executable, "-c", script, str(table)], check=False).returncode == 0


@pytest.mark.parametrize("path", generate.targets(ROOT), ids=lambda path: path.name)
def test_generated_files_are_those_of_the_table(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generate.targets(ROOT)[path]
