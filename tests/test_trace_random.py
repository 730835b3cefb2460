"""Functions of random operations against autograd, and every NumPy and SciPy function of the table."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import autograd
import autograd.numpy as anp
import autograd.scipy.special as asp
import hypothesis.strategies as st
import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import HealthCheck, given, settings

import lagrad as lg
from lagrad.expr.primitives import PRIMITIVES


def agree(actual: object, expected: object, rel: float = 1e-10) -> None:
    """Same shape; the largest error within `rel` of the largest component."""
    actual, expected = np.asarray(actual), np.asarray(expected, dtype=float)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rel * np.abs(expected).max(initial=1e-300))


# -- every primitive ----------------------------------------------------------------------------------------------
NAMES = [p.name for p in PRIMITIVES if p.ufuncs or p.scipy]


@pytest.mark.parametrize("name", NAMES)
def test_numpy_and_scipy_functions_of_the_table(name: str) -> None:
    """The NumPy or SciPy function of every primitive, traced, against mpmath's numerical derivative or zero."""
    primitive = next(p for p in PRIMITIVES if p.name == name)
    functions = [getattr(np, u) for u in primitive.ufuncs] + [
        getattr(scipy.special, s) for s in primitive.scipy
    ]
    rng = np.random.default_rng(len(name))
    for function in functions:
        at = []
        for intervals in primitive.sample[: function.nin]:
            low, high = intervals[int(rng.integers(len(intervals)))]
            at.append(float(rng.uniform(low, high)))
        if name == "equal":
            continue  # == between traced values makes a constraint
        value, gradient = lg.value_and_grad(lambda *a, f=function: f(*a) * 1.0, tuple(range(len(at))))(*at)
        agree(value, float(function(*at)), 1e-14)
        for k, got in enumerate(gradient):
            step = 1e-4 * max(abs(at[k]), 1e-2)

            def central(h, k=k, f=function, at=at):
                forward, backward = list(at), list(at)
                forward[k] += h
                backward[k] -= h
                return (float(f(*forward)) - float(f(*backward))) / (2 * h)

            richardson = (4 * central(step / 2) - central(step)) / 3
            assert math.isclose(got, richardson, rel_tol=1e-8, abs_tol=1e-9), (function, at, got, richardson)


def test_gammaln_and_digamma_against_mpmath() -> None:
    agree(lg.grad(scipy.special.gammaln)(3.7), float(mpmath.digamma(3.7)), 1e-14)
    agree(lg.grad(scipy.special.digamma)(3.7), float(mpmath.polygamma(1, 3.7)), 1e-13)


# -- random programs against autograd -------------------------------------------------------------------------------
UNARY = {  # name: (ours, autograd's, what keeps the argument inside the domain)
    "sin": (np.sin, anp.sin, None),
    "cos": (np.cos, anp.cos, None),
    "tanh": (np.tanh, anp.tanh, None),
    "exp": (np.exp, anp.exp, "bounded"),
    "expm1": (np.expm1, anp.expm1, "bounded"),
    "sinh": (np.sinh, anp.sinh, "bounded"),
    "cosh": (np.cosh, anp.cosh, "bounded"),
    "exp2": (np.exp2, anp.exp2, "bounded"),
    "log": (np.log, anp.log, "positive"),
    "log2": (np.log2, anp.log2, "positive"),
    "log10": (np.log10, anp.log10, "positive"),
    "log1p": (np.log1p, anp.log1p, "positive"),
    "sqrt": (np.sqrt, anp.sqrt, "positive"),
    "reciprocal": (np.reciprocal, anp.reciprocal, "positive"),
    "arctan": (np.arctan, anp.arctan, None),
    "arcsinh": (np.arcsinh, anp.arcsinh, None),
    "arcsin": (np.arcsin, anp.arcsin, "unit"),
    "arccos": (np.arccos, anp.arccos, "unit"),
    "arctanh": (np.arctanh, anp.arctanh, "unit"),
    "arccosh": (np.arccosh, anp.arccosh, "above one"),
    "tan": (np.tan, anp.tan, "unit"),
    "square": (np.square, anp.square, "bounded"),
    "negative": (np.negative, anp.negative, None),
    "absolute": (np.absolute, anp.absolute, None),
    "erf": (scipy.special.erf, asp.erf, None),
    "erfc": (scipy.special.erfc, asp.erfc, None),
    "gammaln": (scipy.special.gammaln, asp.gammaln, "positive"),
    "digamma": (scipy.special.digamma, asp.digamma, "positive"),
    "expit": (scipy.special.expit, asp.expit, None),
    "cbrt": (np.cbrt, lambda x: x ** (1 / 3), "positive"),  # autograd has no derivative of cbrt
    "sign": (np.sign, anp.sign, None),
    "floor": (np.floor, anp.floor, None),
    "ceil": (np.ceil, anp.ceil, None),
    "rint": (np.rint, anp.rint, None),
    "trunc": (np.trunc, anp.trunc, None),
    "sinc": (np.sinc, anp.sinc, "positive"),
    "deg2rad": (np.deg2rad, anp.deg2rad, None),
}
BINARY = {
    "add": lambda m, x, y: x + y,
    "subtract": lambda m, x, y: x - y,
    "multiply": lambda m, x, y: x * y,
    "divide": lambda m, x, y: x / (2.0 + m.tanh(y)),
    "power": lambda m, x, y: (1.5 + m.sin(x)) ** m.sin(y),
    "constant power": lambda m, x, y: (1.5 + m.sin(x)) ** 2.7 + y**3,
    "maximum": lambda m, x, y: m.maximum(x, y),
    "minimum": lambda m, x, y: m.minimum(x, y),
    "logaddexp": lambda m, x, y: m.logaddexp(x, y),
    "arctan2": lambda m, x, y: m.arctan2(x, 2.0 + m.cos(y)),
    "where": lambda m, x, y: m.where(x > y, x * y, x - y),
    "mod": lambda m, x, y: m.mod(x, 2.5) * y,
    "mod of both": lambda m, x, y: m.mod(x, 1.5 + 0.3 * m.sin(y)),
    "hypot": lambda m, x, y: (m.hypot if m is np else hypot)(x, 1.5 + m.cos(y)),
    "conditions": lambda m, x, y: m.where(((x > y) & (x <= 1.5)) | ~(y < 0.1), x * y, x - y),
    "equal": lambda m, x, y: m.where(m.floor(x) == m.floor(y), x + y, y * x),
    "not equal": lambda m, x, y: m.where(m.floor(x) != m.floor(y), m.sin(x) * y, y - x),
    "logical functions": lambda m, x, y: m.where(
        m.logical_not(m.logical_and(x > 0.0, y >= 0.0)), x + y, 2.0 * y - x
    ),
    "either": lambda m, x, y: m.where(m.logical_or(m.greater(x, 1.0), m.less(y, 0.0)), x * x * y, y + x),
    "squared distance": lambda m, x, y: (x - y) ** 2,
    "constants": lambda m, x, y: 2.0 - x + (y - 1.0) / 3.0 + 1.5 / (2.0 + m.cos(x)) - (-y),
}
REDUCTIONS = {
    "sum": lambda m, x, axis, keep: m.sum(x, axis=axis, keepdims=keep),
    "mean": lambda m, x, axis, keep: m.mean(x, axis=axis, keepdims=keep),
    "prod": lambda m, x, axis, keep: m.prod(m.sin(x) + 1.5, axis=axis, keepdims=keep),
    "max": lambda m, x, axis, keep: m.max(x, axis=axis, keepdims=keep),
    "min": lambda m, x, axis, keep: m.min(x, axis=axis, keepdims=keep),
    "var": lambda m, x, axis, keep: m.var(x, axis=axis, keepdims=keep),
    "norm": lambda m, x, axis, keep: m.linalg.norm(m.cosh(m.tanh(x)), axis=axis),
    "logsumexp": lambda m, x, axis, keep: (
        np.logaddexp.reduce(m.tanh(x), axis=axis, keepdims=keep)
        if m is np
        else m.log(m.sum(m.exp(m.tanh(x)), axis=axis, keepdims=keep))
    ),
    "over all": lambda m, x, axis, keep: m.sum(x) * m.mean(m.sin(x)) + m.max(x) - m.min(x),
    "over two axes": lambda m, x, axis, keep: m.sum(x, axis=(0, x.ndim - 1) if x.ndim > 1 else 0),
    "std": lambda m, x, axis, keep: m.std(m.concatenate([x, x + 1.0], axis=axis), axis=axis, keepdims=keep),
}
MOVES = {
    "transpose": lambda m, x: m.transpose(x),
    "ravel": lambda m, x: m.ravel(x),
    "flip": lambda m, x: x[::-1] if x.ndim else x,
    "expand": lambda m, x: m.expand_dims(x, 0) if x.ndim < 3 else x,
    "drop": lambda m, x: x[0] if x.ndim else x,
    "roll": lambda m, x: m.roll(x, 1, axis=0) if x.ndim else x,
    "cumsum": lambda m, x: m.cumsum(x, axis=0) if x.ndim else x,
    "repeat": lambda m, x: m.repeat(x, 2, axis=0) if x.ndim and x.shape[0] < 3 else x,
    "square matrix": lambda m, x: (x @ m.transpose(x)) * 0.3 if x.ndim == 2 else x,
    "norm": lambda m, x: m.sqrt(m.sum(x * x) + 1.0) * x,
    "outer": lambda m, x: m.outer(x, x) if x.ndim == 1 else x,
    "einsum": lambda m, x: m.einsum("ij,kj->ik", x, m.cos(x)) if x.ndim == 2 else x,
    "tensordot": lambda m, x: m.tensordot(x, m.sin(x), axes=x.ndim) if x.ndim else x,
    "reshape": lambda m, x: m.reshape(x, (-1, 1)),
    "swapaxes": lambda m, x: m.swapaxes(x, 0, -1) if x.ndim else x,
    "moveaxis": lambda m, x: m.moveaxis(x, 0, -1) if x.ndim else x,
    "squeeze": lambda m, x: m.squeeze(x),
    "new axis": lambda m, x: x[..., None] if 0 < x.ndim < 3 else x,
    "last": lambda m, x: x[..., -1] if x.ndim else x,
    "rows by index": lambda m, x: x[np.array([0, -1, 0])] if x.ndim else x,
    "rows by mask": lambda m, x: x[np.arange(x.shape[0]) % 2 == 0] if x.ndim else x,
    "concatenate": lambda m, x: m.concatenate([x, m.sin(x)], axis=0)[1:] if x.ndim and x.shape[0] < 3 else x,
    "stack": lambda m, x: m.stack([x, m.cos(x)], axis=-1) if x.ndim < 3 else x,
    "hstack": lambda m, x: m.hstack([x, x]) if x.ndim == 1 else x,
    "vstack": lambda m, x: m.vstack([x, m.sin(x)]) if x.ndim and x.shape[0] < 3 else x,
    "split": lambda m, x: m.array_split(x, 2, axis=0)[0] if x.ndim else x,
    "diff": lambda m, x: (
        m.diff(m.concatenate([x, m.sin(x)], axis=0), axis=0) if x.ndim and x.shape[0] < 3 else x
    ),
    "tril": lambda m, x: m.tril(x) if x.ndim > 1 else x,
    "triu": lambda m, x: m.triu(x, 1) if x.ndim > 1 else x,
    "diagonal": lambda m, x: m.diagonal(x, 0, -1, -2) if x.ndim == 2 and x.shape[0] == x.shape[1] else x,
    "diag": lambda m, x: m.diag(x) if x.ndim == 1 else x,
    "trace": lambda m, x: m.trace(x) if x.ndim == 2 and x.shape[0] == x.shape[1] else x,
    "pad": lambda m, x: m.pad(x, 1, mode="constant") if x.ndim == 1 else x,
    "tile": lambda m, x: m.tile(x, 2) if x.ndim == 1 else x,
    "rot90": lambda m, x: m.rot90(x) if x.ndim == 2 else x,
    "flips": lambda m, x: m.flipud(m.fliplr(x)) if x.ndim == 2 else x,
    "clip": lambda m, x: m.clip(x, -0.6, 0.8),
    "broadcast": lambda m, x: x + m.zeros((2, 1)) if x.ndim < 2 else x,
    "kron": lambda m, x: m.kron(x, m.ones((1, 2))) if x.ndim == 2 else x,
    "inner": lambda m, x: m.inner(x, m.sin(x)) if x.ndim == 2 else x,
    "dot": lambda m, x: m.dot(x, m.sin(x)) if x.ndim == 1 else x,
    "batched product": lambda m, x: m.matmul(x, m.swapaxes(m.tanh(x), 1, 2)) if x.ndim == 3 else x,
    "numbers times": lambda m, x: np.linspace(-1.0, 1.0, x.shape[0]) @ x if x.ndim in (1, 2) else x,
    "where of numbers": lambda m, x: m.where(np.arange(x.shape[-1]) % 2 == 0, x, m.sin(x)) if x.ndim else x,
}


def hypot(x, y):
    """autograd has none."""
    return anp.sqrt(x * x + y * y)


def inside(m, x, domain):
    """x moved into the domain of a function, smoothly."""
    if domain == "positive":
        return 1.2 + m.sin(x)
    if domain == "above one":
        return 2.2 + m.sin(x)
    if domain == "unit":
        return 0.9 * m.sin(x)
    return 2.0 * m.tanh(x) if domain == "bounded" else x


def peer_function(m, name):
    """JAX's function of a name."""
    return (
        getattr(m, name) if hasattr(m, name) else getattr(importlib.import_module("jax.scipy.special"), name)
    )


def broadcastable(a, b):
    try:
        return len(np.broadcast_shapes(a, b)) <= 3
    except ValueError:
        return False


@st.composite
def programs(draw):
    """(steps, arguments): each step makes one more value of those before; what autograd and we are to run."""
    shapes = draw(st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=3))
    seed = draw(st.integers(0, 2**31))
    count = draw(st.integers(1, 12))
    choices = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["unary", "unary", "binary", "binary", "binary", "reduce", "move"]),
                st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6),
            ),
            min_size=count, max_size=count,
        )
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    return choices, [rng.standard_normal(shape) for shape in shapes]


def run(m, kind, choices, arguments):
    """The program, computed with the NumPy-like module m; `kind` 0 takes our functions, 1 autograd's, 2 m's own."""
    values = list(arguments)
    unary, binary, reductions, moves = (list(t.items()) for t in (UNARY, BINARY, REDUCTIONS, MOVES))
    for what, a, b, c in choices:
        x = values[a % len(values)]
        if what == "unary":
            name, entry = unary[b % len(unary)]
            function = entry[kind] if kind < 2 else peer_function(m, name)
            values.append(function(inside(m, x, entry[2])))
        elif what == "binary":
            fits = [v for v in values if broadcastable(np.shape(x), np.shape(v))]
            values.append(binary[b % len(binary)][1](m, x, fits[c % len(fits)]))
        elif what == "reduce" and np.ndim(x):
            values.append(reductions[b % len(reductions)][1](m, x, c % np.ndim(x), bool(c % 2)))
        elif what == "move":
            moved = moves[b % len(moves)][1](m, x)
            if np.ndim(moved) <= 3 and np.size(moved) <= 64:
                values.append(moved)
    return sum(m.sum(m.tanh(v) * (k + 1.0)) for k, v in enumerate(values))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_random_programs_agree_with_autograd(program) -> None:
    choices, arguments = program
    wanted = tuple(range(len(arguments)))

    def theirs(*args):
        return run(anp, 1, choices, args)

    def ours(*args):
        return run(np, 0, choices, args)

    with np.errstate(all="ignore"):
        expected_value = theirs(*arguments)
        expected = autograd.grad(theirs, wanted)(*arguments)
    value, gradient = lg.value_and_grad(ours, wanted)(*arguments)
    size = max(1.0, abs(expected_value))
    assert abs(value - expected_value) <= 1e-10 * size
    scale = max(1.0, *(float(np.abs(g).max()) for g in expected))
    for actual, wanted_gradient in zip(gradient, expected, strict=True):
        assert np.shape(actual) == np.shape(wanted_gradient)
        np.testing.assert_allclose(actual, wanted_gradient, rtol=1e-10, atol=1e-10 * scale)


def entries():
    """(step, table, place): programs of two steps of one kind, for every entry of the tables."""
    for table, step in ((UNARY, "unary"), (BINARY, "binary"), (REDUCTIONS, "reduce"), (MOVES, "move")):
        for k, name in enumerate(table):
            yield f"{step} {name}", [[(step, start, k, j) for j in range(3)] for start in range(4)]


SAMPLES = [
    np.random.default_rng(seed).standard_normal(shape)
    for seed, shape in ((3, (2, 3)), (4, (2, 1)), (5, (3,)), (6, (2, 2, 3)))
]


def test_every_entry_of_the_random_programs_is_used() -> None:
    """A table entry that no program reaches would be tested by none: each is differentiated here once."""
    wanted = tuple(range(len(SAMPLES)))
    for _, programs_of_one in entries():
        for choices in programs_of_one:
            got = lg.grad(lambda *a, c=choices: run(np, 0, c, a), wanted)(*SAMPLES)
            with np.errstate(over="ignore"):  # inside autograd's derivative of tanh
                expected = autograd.grad(lambda *a, c=choices: run(anp, 1, c, a), wanted)(*SAMPLES)
            for a, b in zip(got, expected, strict=True):
                agree(a, b)


def test_random_programs_reach_every_primitive() -> None:
    """But for the second derivative of gammaln, which no NumPy or SciPy function of the table is."""
    reached = set()
    for _, programs_of_one in entries():
        for choices in programs_of_one:
            reached.update(lg.trace(lambda *a, c=choices: run(np, 0, c, a), *SAMPLES).graph.code)
    assert {p.name for code, p in enumerate(PRIMITIVES) if code not in reached} == {"trigamma"}


def test_the_derivative_programs_of_random_programs_run() -> None:
    """What `adjoint_source` writes, run as it stands, against autograd; all kinds of entries, every seventh."""
    arguments = [a[:2, :2] if a.ndim == 2 else a[:2] for a in SAMPLES[:3]]
    for _, programs_of_one in list(entries())[::7]:
        choices = programs_of_one[0]

        def f(x, y, z, c=choices):
            return run(np, 0, c, (x, y, z))

        scope: dict[str, Any] = {}
        exec(lg.adjoint_source(lg.trace(f, *arguments)), scope)
        value, gradient, _ = scope["f"](*arguments)
        expected_value, expected = autograd.value_and_grad(lambda a, c=choices: run(anp, 1, c, a))(
            tuple(arguments)
        )
        agree(value, expected_value)
        for name, b in zip("xyz", expected, strict=True):
            agree(gradient[name], b)


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None,
    reason="JAX is large to install and not in the test extra, where autograd checks the same programs",
)
@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.long) for k in range(1, 12))])
def test_random_programs_agree_with_jax(seed) -> None:
    jax = importlib.import_module("jax")
    rng = np.random.default_rng(seed)
    arguments = [rng.standard_normal(rng.integers(1, 4, size=k)) for k in (2, 3, 1)]
    steps = ["unary", "binary", "binary", "reduce", "move", "move"]
    choices = [(steps[k % 6], *(int(i) for i in rng.integers(0, 10**6, 3))) for k in range(8)]
    with jax.enable_x64(True):

        def theirs(*args):
            return run(jax.numpy, 2, choices, args)

        value, expected = jax.value_and_grad(theirs, (0, 1, 2))(*(jax.numpy.asarray(a) for a in arguments))
    got_value, got = lg.value_and_grad(lambda *a: run(np, 0, choices, a), (0, 1, 2))(*arguments)
    agree(got_value, float(value))
    for a, b in zip(got, expected, strict=True):
        agree(a, b)
