"""Functions in, programs out: values and derivatives against autograd and closed forms, names, errors, the cache."""

from __future__ import annotations

import enum
import functools
import gc
import importlib
import inspect
import math
import pickle
import sys
import threading
import time
import weakref
from collections import OrderedDict, UserList, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse as sp

import lagrad as lg
from lagrad.errors import ConvergenceError, DeclarationError, ExpressionError, ShapeError


def agree(actual: object, expected: object, rel: float = 1e-10) -> None:
    """Same shape; the largest error within `rel` of the largest component."""
    actual, expected = np.asarray(actual), np.asarray(expected, dtype=float)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rel * np.abs(expected).max(initial=1e-300))


def same_tree(actual: object, expected: object) -> None:
    """The same nested tuples, lists and dicts, types of containers included, with numbers that agree."""
    if isinstance(expected, dict):
        assert type(actual) is type(expected) and list(actual) == list(expected)
        for key in expected:
            same_tree(actual[key], expected[key])
    elif isinstance(expected, (tuple, list)):
        assert type(actual) is type(expected) and len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            same_tree(a, b)
    elif expected is None:
        assert actual is None
    else:
        agree(actual, expected, 1e-14)


# -- the program of a function ----------------------------------------------------------------------------------
Pair = namedtuple("Pair", "first second")


def test_parameters_are_named_after_arguments_and_outputs_after_their_place() -> None:
    def f(x, w, *rest, scale=2.0, **more):
        return {"loss": np.sum(x) * w[0], "parts": (w[1].first * rest[1], more["bias"] * scale)}

    program = lg.trace(f, np.ones(2), [3.0, Pair(4.0, 5.0)], 1.0, 6.0, bias={"b": 1.0, "not one": 2.0}["b"])
    assert [i.name for i in program.parameters.items] == [
        "x", "w[0]", "w[1].first", "w[1].second", "rest[0]", "rest[1]", "bias",
    ]  # fmt: skip
    assert program.outputs == {"loss": "out.loss", "parts": ("out.parts[0]", "out.parts[1]")}
    solution = lg.build(program).solve()
    assert float(solution["out.loss"]) == 6.0
    assert float(solution["out.parts[0]"]) == 24.0
    assert float(solution["out.parts[1]"]) == 2.0
    assert program.inputs["w"] == ["w[0]", Pair("w[1].first", "w[1].second")]


def test_keys_that_are_no_identifiers_and_elements_of_named_arrays() -> None:
    program = lg.trace(lambda p: p["a b"] * p[3][1], {"a b": 2.0, 3: np.array([5.0, 7.0])})
    assert [i.name for i in program.parameters.items] == ["p['a b']", "p[3]"]
    solution = lg.build(program).solve({"p[3][1]": 11.0})
    assert float(solution["out"]) == 22.0
    np.testing.assert_array_equal(solution["p[3]"], [5.0, 11.0])
    assert float(solution["p[3][1]"]) == 11.0


def test_an_argument_called_out_keeps_its_name() -> None:
    program = lg.trace(lambda out: 2 * out, 3.0)
    assert program.outputs == "out#2"
    assert float(lg.build(program).solve()["out#2"]) == 6.0


def test_results_of_every_structure_are_rebuilt() -> None:
    def f(x):
        return [x[0], (x * 2, None, {"k": Pair(x[1], 1)}), OrderedDict(b=x.sum(), a=True)]

    value, _ = lg.vjp(f, np.array([1.0, 2.0]))
    same_tree(value, [1.0, (np.array([2.0, 4.0]), None, {"k": Pair(2.0, 1.0)}), OrderedDict(b=3.0, a=1.0)])


def test_identity_constant_and_repeated_results() -> None:
    def f(x, y):
        return x, x, 3, np.ones(2)

    value, pull = lg.vjp(f, 2.0, 5.0)
    same_tree(value, (2.0, 2.0, 3.0, np.ones(2)))
    same_tree(pull((1.0, 10.0, 7.0, np.ones(2))), (11.0, 0.0))


def test_the_multiplier_of_a_hidden_state_is_the_adjoint_of_the_variable() -> None:
    """t = x y is used twice in t² + sin t: its adjoint is 2t + cos t, and dx = y (2t + cos t)."""

    def f(x, y):
        t = x * y
        return t * t + np.sin(t)

    solution = lg.build(lg.trace(f, 0.3, 0.7)).solve()
    t = 0.3 * 0.7
    assert list(solution.hidden) == ["t"]
    agree(solution.hidden["t"], t, 1e-15)
    assert set(solution.multipliers("out")) == {"out"}
    multipliers = solution.multipliers("out", hidden=True)
    assert set(multipliers) == {"out", "t"}
    agree(multipliers["t"], 2 * t + math.cos(t), 1e-15)
    agree(solution.gradient("out")["x"], 0.7 * (2 * t + math.cos(t)), 1e-15)


def test_every_value_used_twice_is_a_state_and_no_other() -> None:
    def f(x):
        once = np.sin(x)
        twice = np.cos(x)
        return once * twice + twice

    assert set(lg.build(lg.trace(f, 1.0)).solve().hidden) == {"twice"}


def test_hidden_states_are_named_after_variables_elements_and_lines() -> None:
    class Model:
        pass

    def square(u):
        return u * u

    def f(x, w):
        h = square(x)
        for _ in range(2):
            h = h * w + np.sin(h)
        v = x * np.array([1.0, 2.0, 3.0])
        z = np.zeros_like(v)
        z[1] = h * v[0]
        norm = np.linalg.norm(v * v)
        model = Model()
        model.state = norm * norm * w
        return h * h + z[1] * z[1] * norm + (x * w) * (v[2] + np.sum([x * w + 1.0] * 2)) + model.state**2

    names = list(lg.build(lg.trace(f, 0.3, 0.7)).solve().hidden)
    for name in ("h", "h#2", "h#3", "v[0]", "v[2]", "z[1]", "norm"):
        assert name in names, name
    lines, start = inspect.getsourcelines(f)
    line = start + len(lines) - 1
    assert f"x * w + 1.0 (line {line})" in names
    assert len(set(names)) == len(names)


def test_a_name_in_use_is_not_given_twice() -> None:
    def f(x):
        x = x * 2
        out = x * x
        return out * out

    assert list(lg.build(lg.trace(f, 1.0)).solve().hidden) == ["x#2", "out#2"]


def test_names_of_hidden_states_stand_in_messages() -> None:
    def f(x):
        def residual(y):
            squared = y * y
            return squared * squared + squared + y + x

        return lg.implicit(residual, 1.0, name="y")

    with pytest.raises(ConvergenceError) as caught:
        lg.grad(f)(10.0)
    assert caught.value.states == ["y", "‹squared›"]


def test_names_survive_pickling_and_a_function_without_source() -> None:
    scope: dict[str, object] = {}
    exec("def f(x):\n    t = x * x\n    return t * t + (x + 1) * (t + x + 1)", scope)
    program = lg.trace(scope["f"], 2.0)
    system = pickle.loads(pickle.dumps(lg.build(program)))
    assert next(iter(system.solve().hidden)) == "t"
    agree(system.solve()["out"], 16 + 3 * 7, 1e-15)


def test_labels_follow_the_bytecode_of_this_python() -> None:
    """STORE instructions, calls, returns and attributes: what the labels read has names in this version."""
    from lagrad.frontends.lines import _stores

    def f(a, b):
        c = a + b
        d = e = f(a, c)
        c.g = d * e
        return f(e, b)

    assert isinstance(f.__code__, CodeType)
    assert {"c", "d", "g", "return"} <= set(_stores(f.__code__).values())


def test_printing_a_program_with_much_sharing_is_short() -> None:
    def f(x):
        for _ in range(80):
            x = x * x + x
        return x

    assert len(repr(lg.trace(f, 1e-30))) < 10_000


# -- derivatives against closed forms -----------------------------------------------------------------------------
def test_loops_recursion_comprehensions_and_helpers() -> None:
    """x_{k+1} = x_k² five times is x³²; Fibonacci numbers are coefficients; a comprehension is a geometric sum."""

    def power(x):
        for _ in range(5):
            x = x**2
        return x

    def fibonacci(n, a, b):
        return a if n == 0 else fibonacci(n - 1, b, a + b)

    def series(x):
        return sum([x**k for k in range(6)])

    agree(lg.grad(power)(1.1), 32 * 1.1**31, 1e-13)
    value, (by_a, by_b) = lg.value_and_grad(lambda a, b: fibonacci(30, a, b), (0, 1))(2.0, 3.0)
    assert float(value) == 514229 * 2 + 832040 * 3
    assert (float(by_a), float(by_b)) == (514229.0, 832040.0)
    agree(lg.grad(series)(0.5), sum(k * 0.5 ** (k - 1) for k in range(1, 6)), 1e-15)


def test_assignment_in_place_is_numpys() -> None:
    """Aliases, views and augmented assignment: the same function runs on numbers and, traced, on expressions."""

    def f(x):
        alias = x
        alias[0] = x[1] * 3
        view = x[1:].reshape(-1, 1)
        view[0] += x[0]
        view *= 2
        copy = (x * 1.0).copy()
        copy[2] = 100.0
        np.ravel(x)[-1] = x[0] * x[1]
        other = +x
        other -= 5
        flat = np.transpose(x.reshape(3, 1))
        flat[0, 0] **= 2
        x[:2] /= np.array([2.0, 4.0])
        return np.concatenate([x, alias, copy, other])

    at = np.array([1.0, 2.0, 3.0])
    value, _ = lg.vjp(f, at)
    np.testing.assert_array_equal(value, f(at.copy()))
    jacobian = lg.jacobian(f)(at)
    step = 1e-6
    for k in range(3):
        e = step * np.eye(3)[k]
        np.testing.assert_allclose(jacobian[:, k], (f(at + e) - f(at - e)) / (2 * step), rtol=1e-8, atol=1e-8)


def test_arguments_are_not_changed_by_the_function() -> None:
    def f(x):
        x[0] = 0.0
        return np.sum(x)

    at = np.array([3.0, 4.0])
    np.testing.assert_array_equal(lg.grad(f)(at), [0.0, 1.0])
    np.testing.assert_array_equal(at, [3.0, 4.0])


def test_an_array_filled_in_place() -> None:
    def f(x):
        out = lg.zeros((2, 2))
        out[0, 0] = x[0] * x[1]
        out[1] = x
        return out

    np.testing.assert_array_equal(f(np.array([3.0, 5.0])), [[15.0, 0.0], [3.0, 5.0]])
    jacobian = lg.jacobian(f)(np.array([3.0, 5.0]))
    assert jacobian.shape == (2, 2, 2)
    np.testing.assert_array_equal(jacobian[0], [[5.0, 3.0], [0.0, 0.0]])
    np.testing.assert_array_equal(jacobian[1], np.eye(2))


def test_numpy_arrays_of_traced_values() -> None:
    """np.array([…]) of traced values is an array of objects; NumPy's functions work on it all the same."""

    def f(x):
        a = np.array([x[0] * 2, x[1] ** 2])
        b = np.asarray(x)
        matrix = np.array([[x[0], 1.0], [0.0, x[1]]])
        return np.sum(np.sin(a) * np.exp(b)) + (matrix @ a).sum() + np.dot(a, b) + np.full(2, x[0]).sum()

    def g(x):
        return (
            anp.sum(anp.sin(anp.array([x[0] * 2, x[1] ** 2])) * anp.exp(x))
            + x[0] * 2 * x[0] + x[1] ** 2 + x[1] * x[1] ** 2 + 2 * x[0] * x[0] + x[1] ** 3 + 2 * x[0]
        )  # fmt: skip

    at = np.array([0.4, 0.9])
    agree(lg.grad(f)(at), autograd.grad(g)(at), 1e-13)


def test_control_flow_by_where() -> None:
    def leaky(x):
        return np.sum(np.where(x > 0, x**2, 0.1 * x))

    at = np.array([-2.0, 0.5, 3.0])
    np.testing.assert_allclose(lg.grad(leaky)(at), [0.1, 1.0, 6.0], rtol=1e-15)
    agree(lg.grad(lambda x: lg.where(x > 0, lg.sqrt(x), 0.0))(-1.0), 0.0)


def test_the_branch_not_taken_has_no_influence_even_where_its_values_are_shared() -> None:
    """root is nan at −1 and is used twice, so that it is a state; value and derivative are the other branch's."""

    def f(x):
        root = np.sqrt(x)
        return np.where(x > 0, root + root * x, x * 3)

    value, gradient = lg.value_and_grad(f)(-1.0)
    assert (float(value), float(gradient)) == (-3.0, 3.0)
    value, gradient = lg.value_and_grad(f)(4.0)
    agree([value, gradient], [10.0, 0.25 + 2.0 + 4.0 * 0.25], 1e-15)


def test_trees_in_arguments_and_gradients() -> None:
    def f(p, data):
        hidden = np.tanh(data[0] @ p["layers"][0] + p["layers"][1])
        return np.sum((hidden @ p["head"].first - data[1]) ** 2) * p["head"].second

    rng = np.random.default_rng(5)
    p = {
        "layers": [rng.standard_normal((3, 4)), rng.standard_normal(4)],
        "head": Pair(rng.standard_normal(4), 0.7),
        "kind": "tanh",
        "flag": None,
    }
    data = (rng.standard_normal((6, 3)), rng.standard_normal(6))

    def g(w, b, h, s):
        return anp.sum((anp.tanh(data[0] @ w + b) @ h - data[1]) ** 2) * s

    value, gradient = lg.value_and_grad(f)(p, data)
    expected = autograd.grad(g, (0, 1, 2, 3))(*p["layers"], *p["head"])
    agree(value, g(*p["layers"], *p["head"]), 1e-14)
    assert list(gradient) == ["layers", "head", "kind", "flag"]
    assert gradient["kind"] is None and gradient["flag"] is None
    assert isinstance(gradient["head"], Pair) and isinstance(gradient["layers"], list)
    for actual, wanted in zip([*gradient["layers"], *gradient["head"]], expected, strict=True):
        agree(actual, wanted, 1e-13)


def test_argnums() -> None:
    def f(x, y, z=1.0):
        return x * y**2 * z**3

    at = (2.0, 3.0, 5.0)
    by = [9.0 * 125, 2.0 * 6 * 125, 2.0 * 9 * 75]
    for argnums in (0, 1, 2, -1):
        assert float(lg.grad(f, argnums)(*at)) == by[argnums]
    same_tree(lg.grad(f, (2, 0))(*at), (by[2], by[0]))
    same_tree(lg.grad(f, [1])(*at), (by[1],))
    assert float(lg.grad(f)(2.0, 3.0)) == 9.0  # a default value stays what it is
    assert float(lg.grad(f)(2.0, 3.0, z=5.0)) == by[0]
    assert float(lg.grad(f)(2.0, y=3.0, z=5.0)) == by[0]


def test_unused_arguments_have_zero_gradients() -> None:
    _, gradient = lg.value_and_grad(lambda x, y: x[0] ** 2, (0, 1))(np.array([3.0, 4.0]), np.ones((2, 2)))
    same_tree(gradient, (np.array([6.0, 0.0]), np.zeros((2, 2))))
    assert float(lg.grad(lambda x: 4.0)(1.0)) == 0.0


def test_shapes_of_gradients() -> None:
    for shape in ((), (1,), (3,), (2, 3), (2, 1, 3), (0,)):
        gradient = lg.grad(lambda x: np.sum(x * 2))(np.ones(shape))
        assert np.shape(gradient) == shape
        np.testing.assert_array_equal(gradient, np.full(shape, 2.0))
    assert np.shape(lg.grad(lambda x: x * x)(np.float64(3.0))) == ()


def test_integers_are_numbers_where_they_are_differentiated_and_static_elsewhere() -> None:
    assert float(lg.grad(lambda x: x**3)(2)) == 12.0
    np.testing.assert_array_equal(lg.grad(lambda x: np.sum(x**2))(np.arange(3)), [0.0, 2.0, 4.0])
    np.testing.assert_array_equal(
        lg.grad(lambda x: np.sum(x**2))(np.arange(3, dtype=np.uint8)), [0.0, 2.0, 4.0]
    )
    assert lg.grad(lambda x: x / 2)(np.float32(3.0)) == 0.5

    def repeated(x, n, index):
        for _ in range(n):
            x = x * x
        return np.sum(x[index])

    at = np.array([2.0, 3.0, 5.0])
    np.testing.assert_array_equal(lg.grad(repeated)(at, 2, np.array([2, 0])), [32.0, 0.0, 500.0])
    np.testing.assert_array_equal(lg.grad(repeated)(at, 1, np.array([1])), [0.0, 6.0, 0.0])
    np.testing.assert_array_equal(lg.grad(repeated)(at, 1, np.array([True, False, True])), [4.0, 0.0, 10.0])
    assert float(lg.grad(lambda x, n: x**n)(-2.0, 3)) == 12.0


def test_static_arguments() -> None:
    class Kind(enum.Enum):
        SINE = 1
        SQUARE = 2

    def f(x, kind, options, function, where):
        if kind is Kind.SINE:
            return function(x[where][0]) * (2.0 if options["double"] else 1.0)
        return x[0] ** 2 if options["name"] == "first" else x[1] ** 2

    x = np.array([1.0, 2.0])
    options = {"double": True, "name": "first"}
    for function, expected in ((np.sin, 2 * np.cos(1.0)), (np.exp, 2 * np.e)):
        gradient = lg.grad(f)(x, Kind.SINE, options, function, slice(0, 1))
        agree(gradient, [expected, 0.0], 1e-15)
    agree(lg.grad(f)(x, Kind.SQUARE, options, np.sin, slice(0, 1)), [2.0, 0.0])
    agree(lg.grad(f)(x, Kind.SQUARE, {"double": True, "name": "other"}, np.sin, slice(0, 1)), [0.0, 4.0])


def test_jacobian_of_trees() -> None:
    def f(x, w):
        return {"a": np.outer(x, x), "b": w["k"] * x[0]}

    x, w = np.array([2.0, 3.0]), {"k": np.array([1.0, 4.0, 5.0])}
    jacobian = lg.jacobian(f, (0, 1))(x, w)
    by_x, by_w = jacobian["a"]
    outer = np.zeros((2, 2, 2))
    for i, j, k in np.ndindex(2, 2, 2):
        outer[i, j, k] = (i == k) * x[j] + (j == k) * x[i]
    np.testing.assert_array_equal(by_x, outer)
    np.testing.assert_array_equal(by_w["k"], np.zeros((2, 2, 3)))
    np.testing.assert_array_equal(jacobian["b"][0], np.outer(w["k"], [1.0, 0.0]))
    np.testing.assert_array_equal(jacobian["b"][1]["k"], 2.0 * np.eye(3))
    assert np.shape(lg.jacobian(lambda x: x**2)(3.0)) == ()
    np.testing.assert_array_equal(lg.jacobian(lambda x: x * np.ones((2, 1)))(3.0), np.ones((2, 1)))


def test_jvp_and_vjp_are_transposed() -> None:
    """⟨w, J ṗ⟩ = ⟨Jᵀ w, ṗ⟩, and both are what the Jacobian says."""

    def f(x, p):
        return {"y": np.sin(x) * p["s"], "z": np.sum(x**2) / p["s"]}

    rng = np.random.default_rng(8)
    x, p = rng.standard_normal(4), {"s": 1.7, "unit": "m"}
    dx, dp = rng.standard_normal(4), {"s": -0.3, "unit": None}
    wy, wz = rng.standard_normal(4), 0.9
    value, change = lg.jvp(f, (x, p), (dx, dp))
    also, pull = lg.vjp(f, x, p)
    agree(value["y"], np.sin(x) * 1.7, 1e-15)
    agree(also["z"], np.sum(x**2) / 1.7, 1e-15)
    agree(change["y"], np.cos(x) * dx * 1.7 - 0.3 * np.sin(x), 1e-14)
    by_x, by_p = pull({"y": wy, "z": wz})
    assert by_p["unit"] is None
    left = wy @ change["y"] + wz * change["z"]
    right = by_x @ dx + by_p["s"] * dp["s"]
    agree(left, right, 1e-14)
    again, _ = pull({"y": np.zeros(4), "z": 2.0})
    agree(again, 2.0 * 2 * x / 1.7, 1e-14)


def test_jvp_and_vjp_check_structure_and_shape() -> None:
    with pytest.raises(DeclarationError, match="2 primals and 1 tangents"):
        lg.jvp(lambda x, y: x, (1.0, 2.0), (1.0,))
    with pytest.raises(ShapeError):
        lg.jvp(lambda x: x, (np.ones(2),), (np.ones(3),))
    with pytest.raises(DeclarationError, match="was expected"):
        lg.jvp(lambda x: x["a"], ({"a": 1.0},), ({"b": 1.0},))
    _, pull = lg.vjp(lambda x: (x, x), 1.0)
    with pytest.raises(DeclarationError, match="was expected"):
        pull(1.0)


def test_sparse_constants_and_closures() -> None:
    matrix = sp.random_array((5, 4), density=0.5, rng=np.random.default_rng(2), format="csr")
    weights = np.arange(5.0)
    x = np.linspace(0.5, 1.5, 4)
    gradient = lg.grad(lambda x: weights @ (matrix @ np.exp(x)))(x)
    agree(gradient, (matrix.T @ weights) * np.exp(x), 1e-14)


def test_differentiating_inside_a_traced_function_by_its_numbers() -> None:
    """lg.grad of numbers inside a trace is a number; of traced values it is refused by name."""
    agree(lg.grad(lambda x: lg.grad(lambda y: y**3)(2.0) * x)(1.0), 12.0)
    with pytest.raises(DeclarationError, match=r"lg\.hessian"):
        lg.grad(lambda x: lg.grad(lambda y: y**2)(x))(1.0)
    with pytest.raises(ExpressionError, match="mixing two programs"):
        lg.grad(lambda x: lg.grad(lambda y: y * x)(2.0))(1.0)


def test_methods_and_partial_functions() -> None:
    class Model:
        def __init__(self, scale):
            self.scale = scale

        def loss(self, x):
            return self.scale * np.sum(x**2)

        def __call__(self, x):
            return self.scale * x

    agree(lg.grad(Model(3.0).loss)(np.array([1.0, 2.0])), [6.0, 12.0])
    agree(lg.grad(Model(3.0))(5.0), 3.0)
    agree(lg.grad(functools.partial(lambda n, x: x**n, 4))(2.0), 32.0)
    agree(lg.grad(np.sin)(0.3), math.cos(0.3), 1e-15)
    assert lg.grad(Model(1.0).loss).__name__ == "loss"


# -- the cache ------------------------------------------------------------------------------------------------------
def counted(f):
    """f, and the list that grows by one each time its Python runs."""
    runs = []

    @functools.wraps(f)
    def inner(*args, **kwargs):
        runs.append(1)
        return f(*args, **kwargs)

    return inner, runs


def test_the_second_call_does_not_trace() -> None:
    f, runs = counted(lambda x, p: np.sum(x * p["a"]))
    gradient = lg.grad(f)
    for k in range(5):
        same = gradient(np.arange(3.0) + k, {"a": float(k)})
        np.testing.assert_array_equal(same, np.full(3, float(k)))
    assert len(runs) == 1
    lg.value_and_grad(f, (0, 1))(np.ones(3), {"a": 2.0})
    lg.jacobian(f)(np.ones(3), {"a": 2.0})
    lg.vjp(f, np.ones(3), {"a": 2.0})
    lg.grad(f)(np.ones(3, dtype=np.float32), {"a": np.float64(2.0)})
    assert len(runs) == 1


@pytest.mark.parametrize(
    "other",
    [
        (np.ones(4), {"a": 1.0}, "k"),
        (np.ones((3, 1)), {"a": 1.0}, "k"),
        (np.ones(3), {"b": 1.0}, "k"),
        (np.ones(3), {"a": np.ones(1)}, "k"),
        (np.ones(3), {"a": 1.0, "b": 2.0}, "k"),
        (np.ones(3), {"a": 1.0}, "other"),
        (np.ones(3), {"a": 1.0}, None),
        (np.ones(3), {"a": 1.0}, 1),
        (np.ones(3), {"a": 1.0}, True),
        ([1.0, 1.0, 1.0], {"a": 1.0}, "k"),
        ((1.0, 1.0, 1.0), {"a": 1.0}, "k"),
    ],
)
def test_what_makes_a_new_trace(other) -> None:
    f, runs = counted(lambda x, p, s: sum(x[k] * x[k] for k in range(len(x))) * 1.0 if s else x[0])
    gradient = lg.grad(lambda *a: np.sum(f(*a)))
    gradient(np.ones(3), {"a": 1.0}, "k")
    gradient(*other)
    assert len(runs) == 2
    gradient(*other)
    gradient(np.ones(3), {"a": 1.0}, "k")
    assert len(runs) == 2


GAIN = 2.0


def read_everywhere():
    """A function, and for everything that it reads besides its argument a way to change it; x(1.0) is known."""
    shift, table, settings = np.array([1.0, 2.0]), [3.0, 4.0], {"power": 2}

    class Model:
        scale = 5.0

        def __init__(self) -> None:
            self.weight, self.history = np.float64(6.0), []

        @property
        def both(self):
            return self.weight * self.scale

        def __call__(self, x):
            return self.both * x

    model = Model()
    factor = 7.0

    start = [0.5]

    def helper(x, bias=start):
        return factor * x + bias[0]

    def f(x):
        squares = [x * s for s in shift]
        return GAIN * squares[1] + table[0] * x ** settings["power"] + model(x) + helper(x)

    def new_factor() -> None:
        nonlocal factor
        factor = 8.0

    changes = {
        "an array in place": lambda: shift.__setitem__(1, 10.0),
        "an element of a list": lambda: table.__setitem__(0, 11.0),
        "a value in a dict": lambda: settings.__setitem__("power", 3),
        "an attribute": lambda: setattr(model, "weight", np.float64(12.0)),
        "an attribute of a class": lambda: setattr(Model, "scale", 13.0),
        "a variable of a helper": new_factor,
        "a default": lambda: start.__setitem__(0, 14.0),
        "a global": lambda: globals().__setitem__("GAIN", 15.0),
    }
    return f, changes, model


@pytest.mark.parametrize("what", read_everywhere()[1])
def test_what_a_function_reads_besides_its_arguments_may_change(what, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "GAIN", 2.0)
    f, changes, _ = read_everywhere()
    both = lg.value_and_grad(f)

    def expected():
        step = 1e-6
        return f(1.5), (f(1.5 + step) - f(1.5 - step)) / (2 * step)

    before = both(1.5)
    agree(before[0], expected()[0], 1e-14)
    changes[what]()
    after = both(1.5)
    assert abs(float(after[0]) - float(before[0])) > 0.1
    agree(after[0], expected()[0], 1e-14)
    agree(after[1], expected()[1], 1e-8)


def test_what_a_function_does_not_read_may_change_without_a_new_trace() -> None:
    f, _, model = read_everywhere()
    count = 0

    def counted(x):
        nonlocal count
        count += 1
        return f(x)

    gradient = lg.grad(counted)
    for step in range(4):
        gradient(float(step))
        model.history.append(step)
        model.other = step
    assert count == 1


def test_a_number_that_takes_the_place_of_another_in_memory_is_seen() -> None:
    """The second of two NumPy scalars may be put where the first was: identity says nothing."""

    held = []

    def f(x):
        return x * held[0]

    gradient = lg.grad(f)
    for k in range(20):
        held.clear()
        held.append(np.float64(k))
        assert gradient(1.0) == k


def test_true_and_one_are_different_static_values() -> None:
    f = lg.grad(lambda x, s: x * (2.0 if s is True else 3.0))
    assert (float(f(1.0, True)), float(f(1.0, 1))) == (2.0, 3.0)


def test_traces_go_with_their_function() -> None:
    def f(x):
        return x * x

    lg.grad(f)(1.0)
    gone = weakref.ref(f)
    del f
    gc.collect()
    assert gone() is None


def test_the_oldest_traces_are_dropped() -> None:
    f, runs = counted(lambda x, n: x * n)
    gradient = lg.grad(f)
    for n in range(70):
        gradient(1.0, n)
        gradient(1.0, 0)
    gradient(1.0, 69)
    assert len(runs) == 70
    gradient(1.0, 1)
    assert len(runs) == 71


def test_a_result_does_not_depend_on_the_calls_before() -> None:
    """y² = x has two roots: from the guess 1 it is the positive one, whatever was solved before."""

    def f(x):
        return lg.implicit(lambda y: (y - 0.5) * (y + 3.0) * (y - 4.0) - x, 1.0)

    gradient = lg.value_and_grad(f)
    first = gradient(0.0)
    for x in (20.0, -30.0, 50.0):
        gradient(x)
    assert gradient(0.0) == first


def test_calls_from_several_threads() -> None:
    gradient = lg.grad(lambda x: np.sum(np.sin(x) * x[::-1]))
    points = [np.linspace(0, k, 50) for k in range(1, 9)]
    expected = [np.cos(x) * x[::-1] + np.sin(x[::-1]) for x in points]
    gradient(points[0])
    wrong = []

    def work(k):
        for _ in range(50):
            if not np.allclose(gradient(points[k]), expected[k], rtol=1e-13, atol=1e-13):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# -- size -------------------------------------------------------------------------------------------------------------
def test_a_loop_of_1e5_statements() -> None:
    """Value and gradient of an Euler integration, against the recurrence run on numbers; and it does not take long."""
    steps = 50_000

    def f(x, k):
        for _ in range(steps):
            x = x - k * x * 1e-5
        return x

    began = time.process_time()
    program = lg.trace(f, 1.0, 0.5)
    system = lg.build(program)
    took = time.process_time() - began
    solution = system.solve()
    agree(solution["out"], (1 - 0.5e-5) ** steps, 1e-10)
    agree(solution.gradient("out")["k"], -steps * 1e-5 * (1 - 0.5e-5) ** (steps - 1), 1e-10)
    assert took < 20.0  # some 0.5 s on an idle machine, kernels compiled


def test_watching_ends_before_it_costs() -> None:
    from lagrad.frontends.lines import EVENTS

    def f(x):
        for _ in range(4 * EVENTS):
            x = x * 1.0001
        return x

    labels = lg.trace(f, 1.0).labels
    assert 0 < len(labels) <= EVENTS + 1


def test_import_is_light() -> None:
    import subprocess

    code = "import lagrad, sys; lagrad.grad; lagrad.implicit; print('numba' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


def test_a_function_is_traced_again_where_what_it_reads_was_changed_in_place() -> None:
    matrix = scipy.sparse.csr_array(2.0 * np.eye(2))
    table = OrderedDict(a=2.0)
    many = [[float(k)] for k in range(2500)]  # more than are looked into
    functions = [
        (lambda x: (matrix @ x).sum(), lambda: matrix.data.fill(5.0), 2.0, 5.0),
        (lambda x: (table["a"] * x).sum(), lambda: table.update(a=5.0), 2.0, 5.0),
        (
            lambda x: (many[0][0] * x).sum() + 0 * sum(k[0] for k in many),
            lambda: many[0].insert(0, 5.0),
            0.0,
            5.0,
        ),
    ]
    for f, change, before, after in functions:
        gradient = lg.grad(f)
        np.testing.assert_array_equal(gradient(np.ones(2)), before)
        change()
        np.testing.assert_array_equal(gradient(np.ones(2)), after)


class Operators:
    """A number that a function reads by operators alone, never by name."""

    def __init__(self, number):
        self.number = number

    def __getitem__(self, k):
        return self.number

    def __mul__(self, x):
        return self.number * x

    def __iter__(self):
        return iter([self.number])

    def __float__(self):
        return self.number

    def __enter__(self):
        return self.number

    def __exit__(self, *_):
        return None


class Scaled(list):
    scale = 1.0

    def total(self):
        return sum(self) * self.scale


def inside_with(box):
    def f(x):
        with box as number:
            return number * x

    return f


def test_a_function_is_traced_again_whatever_it_reads_with() -> None:
    box, parts, scaled = Operators(2.0), namedtuple("Parts", "w b")(np.array([2.0]), [2.0]), Scaled([2.0])
    users, octets, plain = UserList([2.0]), bytearray([2]), {"a": 2.0}
    held, seen, pair = memoryview(np.array([2.0])), plain.values(), [deque([1.0]), deque([1.0])]

    def five():
        return setattr(box, "number", 5.0)

    cases = [
        (lambda x: box[0] * x, five),
        (lambda x: x * float(box), five),
        (lambda x: box * x, five),
        (lambda x: sum(x * b for b in box), five),
        (inside_with(box), five),
        (lambda x: parts.w[0] * x, lambda: parts.w.fill(5.0)),
        (lambda x: parts[1][0] * x, lambda: parts.b.__setitem__(0, 5.0)),
        (lambda x: scaled[0] * x, lambda: scaled.__setitem__(0, 5.0)),
        (lambda x: scaled.total() * x, lambda: (scaled.__setitem__(0, 2.0), setattr(scaled, "scale", 2.5))),
        (lambda x: users[0] * x, lambda: users.__setitem__(0, 5.0)),
        (lambda x: octets[0] * x, lambda: octets.__setitem__(0, 5)),
        (lambda x: held[0] * x, lambda: held.__setitem__(0, 5.0)),
        (lambda x: sum(seen) * x, lambda: plain.update(a=5.0)),
        (lambda x: sum(d[0] for d in pair) * x, lambda: pair[0].__setitem__(0, 4.0)),
    ]
    for f, change in cases:
        box.number, scaled[0] = 2.0, 2.0
        gradient = lg.grad(f)
        assert gradient(1.0) == 2.0
        change()
        assert gradient(1.0) == 5.0, inspect.getsource(f)


def test_a_function_is_traced_again_where_one_that_is_passed_to_it_has_changed() -> None:
    class Layer:
        def __init__(self):
            self.weight, self.calls = np.array([2.0]), 0

        def __call__(self, x):
            self.calls += 1
            return self.weight[0] * x

    layer, level = Layer(), [2.0]
    gradient = lg.grad(lambda x, model: model["layers"][0](x))
    for passed in (layer, layer.__call__, lambda x: level[0] * x):
        layer.weight[0] = level[0] = 2.0
        model = {"layers": [passed]}
        assert gradient(1.0, model) == 2.0
        calls = layer.calls
        assert gradient(3.0, model) == 2.0 and layer.calls == calls  # traced once
        layer.weight[0] = level[0] = 5.0
        assert gradient(1.0, model) == 5.0


@pytest.mark.parametrize("packaged", [True, False])
def test_a_function_is_traced_again_where_a_module_has_changed(tmp_path, monkeypatch, packaged) -> None:
    name = f"physics_{packaged}"
    (tmp_path / name).mkdir()
    if packaged:
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "settings.py").write_text("gravity = 2.0\ndef weight(x):\n    return gravity * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = importlib.import_module(f"{name}.settings")
    package = sys.modules[name]
    inside = {}
    exec(f"def f(x):\n    from {name}.settings import gravity\n    return gravity * x", inside)
    functions = [
        lambda x: package.settings.gravity * x,
        lambda x: settings.gravity * x,
        lambda x: settings.weight(x),
        lambda x, held=(settings,): held[0].gravity * x,
        inside["f"],
        functools.singledispatch(lambda x: settings.gravity * x),
        np.vectorize(lambda x: settings.gravity * x),
    ]
    for k, f in enumerate(functions):
        settings.gravity = 2.0
        gradient = lg.grad(f)
        assert gradient(1.0) == 2.0
        settings.gravity = 5.0
        assert gradient(1.0) == 5.0, k


def test_what_a_function_does_not_read_makes_no_new_trace() -> None:
    @dataclass
    class Model:
        scale: float = 2.0
        step: int = 0

    model, runs = Model(), []

    def f(x):
        runs.append(1)
        return model.scale * x

    gradient = lg.grad(f)
    for _ in range(3):
        gradient(1.0)
        model.step += 1
    assert len(runs) == 1


def test_a_printed_program_names_what_is_used_twice() -> None:
    def f(x, y):
        t = x * y
        angle = np.sin(t)
        return {"a": t * angle, "b": angle}

    program = lg.trace(f, 0.3, 0.7)
    assert str(program).split("\n") == [
        "Program 'f': 2 parameters, 2 states, 2 constraints; 2 shared values",
        "  t == x * y",
        "  angle == sin(t)",
        "  out.a == t * angle",
        "  out.b == angle",
    ]
    solution = lg.build(program).solve()
    assert list(program.shared().values()) == list(solution.hidden)


def test_the_shared_values_are_the_hidden_states() -> None:
    """Counted in `expr.walk`, decided in `assembly.lower`: the same."""

    def cell(x, w):
        h = np.zeros(3)
        for k in range(6):
            h = np.tanh(w @ h + x[k]) * (1 + 0.1 * h)
        y = lg.implicit(lambda y: y**3 + y * h[0] - h[1], 0.5)
        return np.sum(h * h) + y * y + lg.where(y > h[0], y, h[0])

    program = lg.trace(cell, np.linspace(0.0, 1.0, 6), np.eye(3) + 0.1)
    assert set(program.shared()) == set(lg.build(program).layout.hidden.tolist())
    assert not lg.Program("declared").shared()


def test_arrays_without_an_axis_and_round() -> None:
    assert float(lg.grad(lambda x: np.array(x * x))(np.array(3.0))) == 6.0
    assert float(lg.grad(lambda x: np.array(x) * np.asarray(x * 2.0))(3.0)) == 12.0
    assert float(lg.grad(lambda x: round(x) * x)(1.7)) == 2.0
    assert float(lg.grad(lambda x: round(x, 1) * x)(1.74)) == pytest.approx(1.7)


def in_place_by_another_name(x: Any) -> Any:
    y = x
    y += 1.0
    return x * x


def through_an_index(x: Any) -> Any:
    y = x
    y[...] = 3.0 * x
    return x * y


def of_a_copy(x: Any) -> Any:
    y = x.copy()
    y *= 2.0
    return x * y


@pytest.mark.parametrize("f", [in_place_by_another_name, through_an_index, of_a_copy])
def test_a_0d_array_is_one_object_for_all_names_of_it(f: Callable[..., Any]) -> None:
    given = 2.0
    value, slope = lg.value_and_grad(f)(np.array(given))
    h = 1e-30
    complex_step = f(np.array(given + 1j * h))
    assert float(value) == f(np.array(given))
    np.testing.assert_allclose(slope, complex_step.imag / h, rtol=1e-15)


def test_a_number_and_a_0d_array_share_no_trace() -> None:
    gradient = lg.grad(in_place_by_another_name)
    assert float(gradient(2.0)) == 4.0  # y is another number: x stays
    assert float(gradient(np.array(2.0))) == 6.0
    assert float(gradient(2.0)) == 4.0


def test_cycles_are_looked_for_again_after_a_trace() -> None:
    seen = []

    def f(x: Any) -> Any:
        seen.append(gc.isenabled())
        return lg.grad(lambda y: y * y)(x) if isinstance(x, float) else x * x

    def fails(x: Any) -> Any:
        raise RuntimeError("as it may")

    lg.trace(f, 2.0)
    with pytest.raises(RuntimeError):
        lg.trace(fails, 2.0)
    assert gc.isenabled() and seen == [False]
    gc.disable()
    try:
        lg.trace(f, 2.0)
        assert not gc.isenabled()
    finally:
        gc.enable()
