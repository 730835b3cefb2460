"""What a traced function cannot do: the error shows the line of the user's code, and what to write there."""

from __future__ import annotations

import functools
import inspect
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import scipy.special

import lagrad as lg
from lagrad.errors import DeclarationError, EvaluationError, ExpressionError, ShapeError
from lagrad.expr.expression import Expression


# -- errors -----------------------------------------------------------------------------------------------------------
def line_of(function, text):
    """The number of the first line of a function's source that holds some text."""
    lines, start = inspect.getsourcelines(function)
    return start + next(k for k, line in enumerate(lines) if text in line and not line.startswith("def"))


def with_if(x):
    if x > 0:
        return x
    return -x


def with_ternary(x):
    return x if x < 1 else 2 * x


def with_while(x):
    while x < 10:
        x = 2 * x
    return x


def with_max(x):
    return max(x, 1.0)


def with_and(x):
    big = x > 1 and x < 3
    return big * x


def with_chain(x):
    return x if 0 < x < 1 else 0.0


def with_equality(x):
    if x == 1.0:
        return x
    return 2 * x


def with_math(x):
    return math.sin(x) * 2


def with_range(x):
    return sum(1.0 for _ in range(x))


def with_index(x):
    return [1.0, 2.0][x]


def with_index_of_numbers(x):
    return np.arange(3.0)[x]


def with_two_indices_of_numbers(x):
    table = np.ones((2, 2))
    return table[0, 2 * x]


def with_list_of_indices(x):
    return np.arange(3.0)[[x, x]].sum()


def with_key(x):
    return {1.0: 2.0}[x]


def with_set(x):
    return sum({x, 1.0 * x})


def with_membership(x):
    return x * (2.0 if x in {2.0} else 3.0)


def with_counts(x):
    counts = {}
    for value in (x, x):
        counts[value] = counts.get(value, 0) + 1
    return x * len(counts)


@functools.cache
def squared(x):
    return x * x


def with_cache(x):
    return squared(x)


def with_float(x):
    return float(x) * 2


def with_zeros(x):
    z = np.zeros(3)
    z[0] = x
    return z.sum()


def with_zeros_slice(x):
    z = np.zeros(3)
    z[:2] = np.array([x, x])
    return z.sum()


def with_out(x):
    z = np.zeros(3)
    z += x
    return z.sum()


def with_solve(x):
    return np.linalg.solve(np.eye(2) * x, np.ones(2))[0]


def with_assert(x):
    assert x > 0
    return x


def with_sort(x):
    return sorted([x, 1.0])[0]


def with_object_maximum(x):
    return np.maximum(np.array([x, 2 * x]), 0.5).sum()


def with_format(x):
    return len(f"{x:.3f}") * x


def with_unknown_function(x):
    return np.fft.rfft(np.stack([x, x]))


def with_median(x):
    return np.median(np.stack([x, x]))


def with_argmax_method(x):
    return np.stack([x, x]).argmax() * x


def with_masked_assignment(x):
    y = np.stack([x, 2 * x])
    y[y > 3.0] = 0.0
    return y.sum()


def with_mixed_list(x):
    return np.exp([x, 1.0]).sum()


def with_nan(x):
    y = np.stack([x, 2 * x])
    y[0] = np.nan
    return y.sum()


def with_fmod(x):
    return math.fmod(x, 2.0)


def with_logsumexp(x):
    return scipy.special.logsumexp(np.stack([x, 1.0]))


def with_scipy(x):
    return scipy.linalg.solve(np.stack([np.stack([x, 1.0]), np.stack([1.0, -x])]), np.ones(2))[0]


def with_iterator(x):
    return sum(np.nditer(np.stack([x, x])))


@pytest.mark.parametrize(
    ("f", "line", "advice"),
    [
        (with_if, "if x > 0", "lg.where(x > 0, a, b)"),
        (with_ternary, "return x if", "lg.where(x < 1, a, b)"),
        (with_while, "while x < 10", "lg.fixed_point"),
        (with_max, "max(x", "np.maximum"),
        (with_and, "and", "&"),
        (with_chain, "0 < x < 1", "(a < x) & (x < b)"),
        (with_equality, "if x == 1.0", "lg.where(x == 1.0, a, b)"),
        (with_math, "math.sin", "np.sin"),
        (with_range, "range", "functools.partial"),
        (with_index, "[x]", "lg.where"),
        (with_index_of_numbers, "[x]", "lg.where"),
        (with_two_indices_of_numbers, "2 * x", "lg.where"),
        (with_list_of_indices, "[[x, x]]", "lg.where"),
        (with_key, "[x]", "functools.partial"),
        (with_set, "sum({", "lists, by position"),
        (with_membership, "in {2.0}", "lg.where"),
        (with_counts, "counts[value]", "lists, by position"),
        (with_cache, "squared(x)", "lists, by position"),
        (with_float, "float(x)", "Leave the conversion out"),
        (with_zeros, "z[0] = x", "lg.zeros"),
        (with_zeros_slice, "z[:2]", "lg.zeros"),
        (with_out, "z += x", "z = z + x"),
        (with_solve, "solve", "lg.implicit"),
        (with_assert, "assert x", "before or after"),
        (with_sort, "sorted", "np.minimum"),
        (with_object_maximum, "np.maximum", "np.stack"),
        (with_format, 'f"', "lagrad's functions"),
        (with_unknown_function, "np.fft", "docs/functions.md"),
        (with_median, "np.median", "order of traced values"),
        (with_argmax_method, "argmax", "Which element"),
        (with_masked_assignment, "y[y > 3.0]", "x = lg.where(condition, value, x)"),
        (with_mixed_list, "np.exp", "np.stack"),
        (with_nan, "y[0]", "the constant nan"),
        (with_fmod, "math.fmod", "np.fmod(…)"),
        (with_logsumexp, "logsumexp", "np.logaddexp.reduce"),
        (with_scipy, "scipy.linalg.solve", "no rules"),
        (with_iterator, "np.nditer", "no rules"),
    ],
)
def test_errors_show_the_line_and_what_to_write_instead(f, line, advice) -> None:
    with pytest.raises(ExpressionError) as caught:
        lg.grad(f)(2.0)
    message = str(caught.value)
    number = line_of(f, line)
    assert f"line {number}, in {f.__name__}" in message
    assert line in message
    assert advice in message
    assert caught.value.place == (__file__, number, f.__name__)


def test_equal_numbers_are_not_told_apart_in_a_long_trace() -> None:
    """The watch over lines ends after some thousand operations; a set of 1 and 1 is {1}, with the sum 1."""

    def f(x):
        for _ in range(10_000):
            x = x + 0.0 * x
        return sum({x, 1.0 * x})

    with pytest.raises(ExpressionError, match="in a set"):
        lg.grad(f)(1.0)
    with pytest.raises(ExpressionError, match="in a set"):
        lg.implicit(lambda y: sum({y, 1.0 * y}) - 1.0, 0.5)
    program = lg.Program()  # declared, an expression names what it is made of
    x = program.parameter("x", 1.0)
    program.define("y", 2 * x)
    assert float(lg.build(program).solve({x: 3.0})["y"]) == 6.0


def test_the_line_shown_is_the_innermost_of_the_user() -> None:
    def outer(x):
        return with_if(x) + 1

    with pytest.raises(ExpressionError) as caught:
        lg.trace(outer, 1.0)
    assert caught.value.place[2] == "with_if"


def test_exceptions_of_the_function_itself_are_passed_on() -> None:
    def f(x):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        lg.grad(f)(1.0)

    def g(x):
        return {}["missing"]

    with pytest.raises(KeyError):
        lg.grad(g)(1.0)
    assert float(lg.grad(lambda x: x * 2)(1.0)) == 2.0  # and nothing is left behind

    def h(x):
        where = 1.5
        return np.arange(3.0)[where] * x

    with pytest.raises(IndexError, match="only integers"):  # no traced value takes part
        lg.grad(h)(1.0)


def test_a_value_that_escapes_is_refused() -> None:
    kept: list[Expression] = []

    def f(x):
        kept.append(x * 2)
        return x

    lg.grad(f)(1.0)
    with pytest.raises(ExpressionError, match="a value from inside f"):
        kept[0] + 1
    with pytest.raises(ExpressionError, match="a value from inside f"):
        lg.grad(lambda x: x * kept[0])(1.0)
    with pytest.raises(ExpressionError, match="a value from inside f"):
        lg.grad(lambda x: kept[0])(1.0)
    program = lg.Program()
    with pytest.raises(ExpressionError, match="a value from inside f"):
        program.parameter("p", 1.0) + kept[0]


def test_results_that_are_no_single_number() -> None:
    for f, pattern in (
        (lambda x: x * np.ones(3), r"got shape \(3,\), expected \(\)"),
        (lambda x: (x, x), "not a tuple"),
        (lambda x: None, "not None"),
    ):
        with pytest.raises((ShapeError, DeclarationError), match=pattern):
            lg.grad(f)(1.0)
    for f in (lambda x: "text", lambda x: object(), lambda x: 1j * np.ones(2)):
        with pytest.raises(DeclarationError, match="the function returns"):
            lg.trace(f, 1.0)


@pytest.mark.parametrize(
    ("argument", "pattern"),
    [
        (1j, "complex"),
        (np.ones(2) * 1j, "complex128"),
        (object(), "neither a real number"),
        ({1, 2}, "neither a real number"),
        (sp.csr_array(np.eye(2)), "neither a real number"),
        (np.array(["a"]), "no real numbers"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), "rules of a numpy MaskedArray"),
        (np.asmatrix(np.eye(2)), "rules of a numpy matrix"),
        (math.nan, "not finite"),
        (np.array([1.0, np.inf]), "not finite"),
        ("text", "no number"),
        (None, "no number"),
        ({"a": [], "b": ()}, "no number"),
    ],
)
def test_arguments_that_cannot_be_differentiated_by(argument, pattern) -> None:
    with pytest.raises(DeclarationError, match=pattern):
        lg.grad(lambda x: 1.0)(argument)


def test_values_that_are_not_finite_name_the_argument_also_in_later_calls() -> None:
    gradient = lg.grad(lambda x, w: x * w["b"][1])
    gradient(1.0, {"b": np.ones(2)})
    with pytest.raises(DeclarationError, match=r"w\.b\[1\]"):
        gradient(1.0, {"b": np.array([1.0, np.nan])})


def test_argnums_and_tangents_that_are_none() -> None:
    with pytest.raises(DeclarationError, match="'x' is no whole number"):
        lg.grad(lambda x: x, argnums="x")(1.0)
    with pytest.raises(DeclarationError, match=r"lg\.jvp\(f, \(x,\), \(dx,\)\)"):
        lg.jvp(lambda x: x, np.ones(2), np.ones(2))


def test_argnums_out_of_range() -> None:
    with pytest.raises(DeclarationError, match="called with 1 positional argument"):
        lg.grad(lambda x: x, 1)(1.0)
    with pytest.raises(DeclarationError, match="a function was expected"):
        lg.grad(3.0)


def test_a_derivative_that_does_not_exist_is_refused_and_one_not_asked_for_is_not() -> None:
    with pytest.raises(EvaluationError, match="derivative of constraint out by x"):
        lg.grad(np.sqrt)(0.0)
    with pytest.raises(EvaluationError, match=r"derivative of constraint out\[1\] by x\[1\]"):
        lg.jacobian(lambda x: np.stack([x[0], np.sqrt(x[1])]))(np.array([1.0, 0.0]))
    assert float(lg.grad(lambda x, n: x**n)(-2.0, 3.0)) == 12.0  # the derivative by n is not a number
    with pytest.raises(EvaluationError):
        lg.grad(lambda x, n: x**n, 1)(-2.0, 3.0)


def test_the_error_of_a_large_loop_is_the_same() -> None:
    """Past the operations that are watched, errors still show their line."""

    def f(x):
        for _ in range(5000):
            x = x * 1.0001
        if x > 0:
            return x
        return -x

    with pytest.raises(ExpressionError, match=r"lg\.where\(x > 0, a, b\)"):
        lg.trace(f, 1.0)
