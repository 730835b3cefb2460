"""Model files: what they can say, and that what they cannot say is refused by name, with nothing run.

Formulas are compared with Python's own arithmetic on the same text; hostile files are real files.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lagrad.errors import ModelFileError
from lagrad.frontends import formula as formula_module
from lagrad.frontends.formula import FUNCTIONS, Budget, FormulaError, evaluate, parse_formula
from lagrad.frontends.model_file import MAX_FILE, MAX_KEY_PARTS, load_model, parse_model, parse_number

SELLAR = """\
name = "sellar"
[parameters]
x = 1.0
z = [5.0, 2.0]
[states]
y1 = 1.0                                          # a starting guess
y2 = { guess = 1.0, lower = 0.0, upper = 50.0 }
[constraints]
d1 = "y1 == z[0]**2 + z[1] + x - 0.2*y2"
d2 = "y2 == sqrt(y1) + z[0] + z[1]"
[definitions]
obj = "x**2 + z[1] + y1 + exp(-y2)"
"""

# -- what a file can say -------------------------------------------------------------------------------------


def constraint_lines(text: str) -> list[str]:
    return [line.strip() for line in repr(parse_model(text)).splitlines()[1:]]


def with_definition(formula: str) -> str:
    return SELLAR + f"\nextra = '''{formula}'''\n"


def refusal(text: str) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        parse_model(text, "model.toml")
    assert caught.value.file == "model.toml"
    assert str(caught.value).startswith("model.toml: ")
    return caught.value


def test_sellar_declares_what_the_same_program_in_python_declares():
    import lagrad as lg

    program = lg.Program("sellar")
    x, z = program.parameter("x", 1.0), program.parameter("z", [5.0, 2.0])
    y1, y2 = program.state("y1", guess=1.0), program.state("y2", guess=1.0, lower=0.0, upper=50.0)
    program.constrain(y1 == z[0] ** 2 + z[1] + x - 0.2 * y2, name="d1")
    program.constrain(y2 == lg.sqrt(y1) + z[0] + z[1], name="d2")
    program.define("obj", x**2 + z[1] + y1 + lg.exp(-y2))
    read = parse_model(SELLAR)
    assert read.name == "sellar"
    assert repr(read) == repr(program)
    for mine, theirs in zip(read.values + read.guesses, program.values + program.guesses, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert read.bounds[1] == (0.0, 50.0)


def test_the_name_is_the_files_when_none_is_given(tmp_path: Path):
    file = tmp_path / "half.toml"
    file.write_text('[parameters]\nx = 1\n[definitions]\nh = "x/2"\n')
    assert load_model(file).name == "half"
    assert load_model(str(file)).name == "half"


def test_arrays_shapes_and_bounds():
    program = parse_model(
        """
        [parameters]
        A = [[1, 2], [3, 4]]
        [states]
        a = [1.0, 2.0]
        b = { shape = 3 }
        c = { guess = 2, shape = [2, 3], lower = -inf, upper = [3, 4, 5] }
        d = { lower = 2 }
        [definitions]
        s = "A @ a"
        """
    )
    assert [s.shape for s in program.states.items] == [(2,), (3,), (2, 3), (), (2,)]
    np.testing.assert_array_equal(program.guesses[2], np.full((2, 3), 2.0))
    low, high = program.bounds[2]
    assert np.isneginf(low).all()
    np.testing.assert_array_equal(high, [[3, 4, 5], [3, 4, 5]])
    assert program.guesses[3] >= 2


def test_scopes_by_tables_and_by_quoted_keys():
    lines = constraint_lines(
        """
        [parameters.tank]
        area = 2.0
        [states]
        "tank.level" = 1.0
        [states.tank.pump]
        speed = { guess = 3.0 }
        [constraints.tank]
        balance = "tank.level * tank.area == tank.pump.speed"
        pump.rule = "tank.pump.speed == sqrt(tank.level)"
        """
    )
    assert lines == [
        "tank.balance: tank.level * tank.area == tank.pump.speed",
        "tank.pump.rule: tank.pump.speed == sqrt(tank.level)",
    ]


def test_definitions_come_before_what_uses_them_whatever_their_order():
    program = parse_model(
        """
        [parameters]
        x = 1.0
        [states]
        y = 1.0
        [definitions]
        last = "first + middle"
        middle = "2 * first"
        first = "x + 1"
        unrelated = "x"
        [constraints]
        c = "y == last"
        """
    )
    assert [c.name for c in program.constraints.items] == ["first", "middle", "last", "c", "unrelated"]


def test_a_chain_of_ten_thousand_definitions_in_reverse_order():
    count = 10_000
    lines = [f'd{i} = "d{i + 1} + 1"' for i in range(count)]
    program = parse_model("[parameters]\nx = 1\n[definitions]\n" + "\n".join(lines) + f'\nd{count} = "x"\n')
    assert program.constraints.items[0].name == f"d{count}"
    assert program.constraints.items[-1].name == "d0"


@pytest.mark.parametrize("name", ["y", "square", "lambda", "pi"])
def test_a_constraint_may_be_called_as_its_state_or_a_function(name: str):
    assert constraint_lines(f'[states]\ny = 1\n[constraints]\n{name} = "y**2 == 2"') == [f"{name}: y**2 == 2"]


def test_a_letter_that_unicode_writes_in_two_ways_is_one_name():
    # U+00B5, the micro sign on keyboards, and U+03BC, the Greek letter: Python's parser makes them one.
    program = parse_model('[parameters]\n"\u00b5" = 2.0\n[definitions]\nd = "2*\u00b5 + \u03bc"')
    assert program.parameters.items[0].name == "\u00b5"
    error = refusal('[parameters]\n"\u00b5" = 1\n"\u03bc" = 2\n[definitions]\nd = "1"')
    assert "already declared" in error.reason


def test_formulas_over_several_lines():
    assert constraint_lines('[parameters]\nx = 1\n[definitions]\nd = """\n  x\n  + 1\n"""') == ["d == x + 1"]


def test_e_may_be_declared_and_then_is_what_it_was_declared_to_be():
    assert parse_number("e") == math.e
    assert constraint_lines('[parameters]\nx = 1\n[definitions]\ne = "sin(x)"\nf = "e + pi"') == [
        "e == sin(x)",
        f"f == e + {math.pi:.12g}",
    ]


# -- formulas mean what Python means by them -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3*4 - 5/8", 13.375),
        ("-2**2", -4),
        ("2**-1", 0.5),
        ("2**3**2", 512),
        ("(1 + 2)*-(3 - 4)", 3),
        ("7 % 3 + -7 % 3", 3),
        ("1e3 + 0x10 + 1_000", 2016),
        ("10.0**300 * 1e-300", 1),
        ("[[1, 2], [3, 4]] @ [5, 6]", [17, 39]),
        ("[1, 2, 3][1] + [4, 5, 6][-1]", 8),
        ("[[1, 2, 3], [4, 5, 6]][1, 0:2]", [4, 5]),
        ("[[1, 2, 3], [4, 5, 6]][:, ::-1]", [[3, 2, 1], [6, 5, 4]]),
        ("[1, 2] + [[10], [20]]", [[11, 12], [21, 22]]),
        ("sum([[1, 2], [3, 4]], 0)", [4, 6]),
        ("sum([[1, 2], [3, 5]])", 11),
        ("mean([1, 2, 6]) + prod([2, 3, 4]) + max([1, 5]) - min([3, 2])", 30),
        ("concatenate([[1, 2], [3]])", [1, 2, 3]),
        ("stack([[1, 2], [3, 4]], 1)", [[1, 3], [2, 4]]),
        ("dot([1, 2], [3, 4]) + norm([3, 4])", 16),
        ("where([1, 5] < [2, 3], [10, 20], [30, 40])", [10, 40]),
        ("where(2 >= 2, 1, 0) + where(2 > 2, 10, 0) + where(2 <= 1, 100, 0)", 1),
        ("minimum(maximum(2, 3), 4) + clip(9, 0, 5)", 8),
        ("arctan2(1, 2) + hypot(3, 4) + log1p(0.5)", math.atan2(1, 2) + 5 + math.log(1.5)),
        ("erf(0.3) + gammaln(4.5) - abs(-2)", math.erf(0.3) + math.lgamma(4.5) - 2),
        ("minimum(1, inf) + 2*pi - e", 1 + 2 * math.pi - math.e),
    ],
)
def test_numbers(text: str, value: object):
    found = parse_number(text)
    assert np.shape(found) == np.shape(value)
    np.testing.assert_allclose(found, value, rtol=1e-15)


numbers = st.floats(0.1, 4.0).map(lambda x: repr(round(x, 3))) | st.integers(1, 9).map(str)
formulas = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/"]), inner).map(" ".join),
        inner.map(lambda a: f"({a})"),
        inner.map(lambda a: f"-{a}"),
        inner.map(lambda a: f"sin({a})"),
        st.tuples(inner, inner).map(lambda t: f"maximum({t[0]}, {t[1]})"),
        st.tuples(inner, st.sampled_from(["2", "3", "-1"])).map(lambda t: f"({t[0]})**{t[1]}"),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(formulas)
def test_formulas_agree_with_python(text: str):
    try:
        expected = float(eval(text, {"sin": math.sin, "maximum": max}))
    except (ZeroDivisionError, OverflowError):
        return
    if math.isfinite(expected):
        assert parse_number(text) == pytest.approx(expected, rel=1e-12, abs=1e-300)


@settings(max_examples=100, deadline=None)
@given(formulas)
@example("-(1.0 - 1.0)**-1")
def test_the_text_of_an_expression_reads_back_as_the_same_expression(text: str):
    try:
        finite = math.isfinite(eval(text, {"sin": math.sin, "maximum": max}))
    except (ZeroDivisionError, OverflowError):
        finite = False
    if not finite:  # no file may hold it: see `REFUSED`
        return
    head = "[parameters]\nx = 1\n[definitions]\nd = "
    (once,) = constraint_lines(f'{head}"x * ({text}) - x/({text})"')
    (again,) = constraint_lines(f'{head}"{once.removeprefix("d == ")}"')
    assert once == again


# -- what a formula cannot say -------------------------------------------------------------------------------
REFUSED = {
    "__import__('os').system('touch PWNED')": "attributes cannot be read",
    "__import__('os')": "__import__ is not a function",
    "eval('1')": "eval is not a function",
    "open('PWNED', 'w')": "open is not a function",
    "x.__class__.__mro__": "x.__class__.__mro__ is not a declared name",
    "(1).__class__": "attributes cannot be read",
    "y1.T": "y1.T is not a declared name",
    "np.exp(x)": "np.exp is not a function",
    "[y for y in z]": "a comprehension",
    "{y for y in z}": "a comprehension",
    "(y for y in z)": "a comprehension",
    "sum(y for y in z)": "a comprehension",
    "{x: 1}": "braces",
    "lambda x: x": "a lambda",
    "(lambda: x)()": "only a function's name can be called",
    "x if y1 else 2": "if … else",
    "x and y1": "and/or",
    "not x": "not has no place",
    "(x := 2)": ":= has no place",
    "f'{x}'": "text in quotes",
    "'x'": "text in quotes",
    "b'x'": "text in quotes",
    "x ^ 2": "^ has no place",
    "x // 2": "// has no place",
    "x << 2": "<< has no place",
    "x | y1": "| has no place",
    "~x": "~ has no place",
    "x is y1": "is has no place",
    "x in z": "in has no place",
    "where(x != 1, 1, 2)": "!= has no place",
    "where(x == 1, 1, 2)": "an == inside an expression",
    "where(0 < x < 1, 1, 2)": "a chained comparison",
    "x == 1": "an == where an expression is wanted",
    "x = 1": "an = in an expression",
    "True": "True is not a number",
    "None": "None is not a number",
    "...": "… has no place",
    "2j": "an imaginary number",
    "2x": "a number followed by a letter",
    "x $ 2": "a character that has no meaning",
    "x && y1": "&& or ||",
    "x # comment": "a comment inside a formula",
    "import os": "not a formula",
    "x; y1": "not a formula",
    "x +": "not a formula",
    "(x": "not a formula",
    "": "it is empty",
    "   ": "it is empty",
    "exp": "exp is a function",
    "exp(y3)": "y3 is not a declared name",
    "exp(x, 2)": "exp takes 1 argument, and 2 are given",
    "arctan2(x)": "arctan2 takes 2 arguments, and 1 is given",
    "sum(axis=0)": "arguments have no names",
    "sum(z, axis=0)": "arguments have no names",
    "sum(**z)": "arguments have no names",
    "sum(*z)": "* has no place",
    "max(x, 0)": "max takes 1 argument",
    "sum(x, y1)": "the axis of sum must be a whole number",
    "z[x]": "an index must be a whole number written out",
    "z[0.5]": "an index must be a whole number written out",
    "z[1+0]": "an index must be a whole number written out",
    "z['a']": "an index must be a whole number written out",
    "z[True]": "an index must be a whole number written out",
    "z[0:x]": "the end of a slice must be a whole number",
    "z[::0]": "a slice with step 0",
    "z[10**10]": "an index must be a whole number",
    "z[99999999999999999999]": "larger than any array",
    "z[2]": "index 2 is out of bounds",
    "z[0, 0]": "too many indices",
    "2[0]": "a number has no elements",
    "[]": "an empty list",
    "[[1, 2], [3]]": "different shapes",
    "[z, x]": "different shapes",
    "z + [1, 2, 3]": "broadcast",
    "[1, 2, 3] @ z": "@",
    "x @ y1": "@",
    "1e999": "double precision",
    "0x" + "f" * 400: "double precision",
    "9" * 5000: "",
    "10**10**10": "infinite",
    "10.0**400": "infinite",
    "9**9**9**9**9**9": "infinite",
    "(-1)**0.5": "not a number (nan)",
    "log(-1) + x": "not a number (nan)",
    "1/0": "infinite",
    "inf - inf": "not a number (nan)",
    "x\u0007": "control character",
    "x\u0000": "control character",
    "x\u202ey1": "not a formula",
    "((((((" * 60 + "x" + "))))))" * 60: "nested",
    "-" * 20_000 + "x": "nested",
    "x**" * 20_000 + "x": "nested",
    "x + " * 20_000 + "x": "nested",
    "z" + "[0]" * 20_000: "nested",
    "sin(" * 150 + "x" + ")" * 150 + ")": "not a formula",
    "[" * 5_000: "",
    "x" * (formula_module.MAX_FORMULA + 1): "the limit for one formula",
}


@pytest.mark.parametrize("formula", REFUSED, ids=lambda f: repr(f)[:40])
def test_a_formula_outside_the_language_is_refused(
    formula: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    quoted = "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in formula)
    start = time.perf_counter()
    error = refusal(SELLAR + f'extra = "{quoted}"\n')
    assert time.perf_counter() - start < 5.0
    assert error.entry == "definitions.extra"
    assert REFUSED[formula] in error.reason
    assert error.reason.endswith((".", "?", "…"))
    assert error.advice or error.excerpt
    assert str(error).isprintable() or all(c.isprintable() or c == "\n" for c in str(error))
    assert len(str(error)) < 2_000
    assert os.listdir(tmp_path) == []


def test_a_refusal_reads_well():
    error = refusal(SELLAR.replace("sqrt(y1)", "sqr(y1)"))
    assert str(error).splitlines()[:4] == [
        "model.toml: constraints.d2: at column 7: sqr is not a function of model files.",
        "    y2 == sqr(y1) + z[0] + z[1]",
        "          ^",
        "Did you mean sqrt? A product needs a *. The functions are: " + ", ".join(sorted(FUNCTIONS)) + ".",
    ]


def test_how_deep_a_formula_may_be():
    limit = formula_module.MAX_DEPTH
    assert parse_number(" + ".join(["1"] * limit)) == limit
    assert parse_number("sum([" + ", ".join(["1"] * 10 * limit) + "])") == 10 * limit
    with pytest.raises(FormulaError, match="nested more than"):
        parse_number(" + ".join(["1"] * (limit + 1)))


def test_columns_count_characters_not_bytes():
    error = refusal('[parameters]\n"\u03b1\u03b2" = 1\n[definitions]\nd = "  \u03b1\u03b2 + foo(1)"')
    assert "at column 8:" in error.reason
    assert error.excerpt.splitlines()[1].index("^") - 4 == error.excerpt.splitlines()[0].index("foo")


@pytest.mark.parametrize(
    ("wrote", "meant"),
    [
        ("ln(x)", "log"),
        ("atan2(x, 1)", "arctan2"),
        ("np.tanh(x)", "tanh"),
        ("sqroot(x)", "sqrt"),
        ("sigmoid(x)", "expit"),
    ],
)
def test_the_name_that_was_meant(wrote: str, meant: str):
    assert f"Did you mean {meant}?" in refusal(with_definition(wrote)).advice


def test_a_constraint_has_exactly_one_equation():
    for sides, reason in {
        "y1": "no ==",
        "y1 < 2": "no ==",
        "y1 = 2": "a single =",
        "y1 == 2 == y2": "exactly one ==",
        "y1 == 2 < y2": "exactly one ==",
        "(y1 == 2) + 1": "no ==",
        "y1 == where(y2 == 1, 1, 2)": "an == inside an expression",
        "1 == 1": "mentions no declared name",
        "[1, 2] == [1, 2]": "mentions no declared name",
        "z == [1, 2, 3]": "broadcast",
    }.items():
        error = refusal(SELLAR.replace('d2 = "y2 == sqrt(y1) + z[0] + z[1]"', f'd2 = "{sides}"'))
        assert error.entry == "constraints.d2"
        assert reason in error.reason


# -- what a file cannot say ----------------------------------------------------------------------------------
FILES = {
    "": (None, "neither constraints nor definitions"),
    "# nothing": (None, "neither constraints nor definitions"),
    "[states]\ny = 1": (None, "neither constraints nor definitions"),
    '[constraints]\nc = "1 == 1"': ("constraints", "no [states]"),
    SELLAR.replace("[states]", "[state]"): ("state", "no such section"),
    SELLAR + "[solver]\ntol = 1": ("solver", "no such section"),
    "states = 3\n": ("states", "must be a table, not a number"),
    "[[states]]\ny = 1\n": ("states", "must be a table, not a list"),
    'name = 3\n[definitions]\nd = "1"': ("name", "must be text"),
    f'name = "{"n" * 300}"\n[definitions]\nd = "1"': ("name", "longer than 200"),
    SELLAR.replace("x = 1.0", "x = 1.0\nx = 2.0"): ("parameters.x", "Cannot overwrite a value"),
    SELLAR.replace("[states]", "[parameters]"): (None, "Cannot declare"),
    SELLAR.replace("x = 1.0", "y1 = 1.0"): ("states.y1", "already declared under [parameters]"),
    SELLAR + 'x = "1"': ("definitions.x", "already declared under [parameters]"),
    SELLAR + 'y1 = "1"': ("definitions.y1", "already declared under [states]"),
    SELLAR + 'd1 = "1"': ("definitions.d1", "already declared under [constraints]"),
    SELLAR + '"t.a" = "1"\nt.a = "2"': ("definitions.t.a", "already declared"),
    SELLAR.replace("x = 1.0", "sin = 1.0"): ("parameters.sin", "the name of a function"),
    SELLAR.replace("x = 1.0", "pi = 1.0"): ("parameters.pi", "the name of a constant"),
    SELLAR.replace("x = 1.0", "lambda = 1.0"): ("parameters.lambda", "a word of Python's"),
    SELLAR.replace("x = 1.0", "None = 1.0"): ("parameters.None", "a word of Python's"),
    SELLAR.replace("x = 1.0", '"a b" = 1.0'): ("parameters.a b", "not a name"),
    SELLAR.replace("x = 1.0", '"" = 1.0'): ("parameters.", "not a name"),
    SELLAR.replace("x = 1.0", "2x = 1.0"): ("parameters.2x", "not a name"),
    SELLAR.replace("x = 1.0", '"a..b" = 1.0'): ("parameters.a..b", "not a name"),
    SELLAR.replace("x = 1.0", '"\\u001b[31m" = 1.0'): ("parameters.\\x1b[31m", "not a name"),
    SELLAR.replace("x = 1.0", f"{'n' * 300} = 1.0"): ("parameters." + "n" * 59 + "…", "longer than 200"),
    SELLAR.replace("x = 1.0", "x = nan"): ("parameters.x", "nan where a finite number belongs"),
    SELLAR.replace("x = 1.0", "x = -inf"): ("parameters.x", "inf where a finite number belongs"),
    SELLAR.replace("x = 1.0", "x = 1e999"): ("parameters.x", "inf where a finite number belongs"),
    SELLAR.replace("x = 1.0", "x = 1" + "0" * 400): ("parameters.x", "double precision cannot hold"),
    SELLAR.replace("x = 1.0", "x = 1" + "0" * 5000): (None, "very many digits"),
    SELLAR.replace("x = 1.0", "x = true"): ("parameters.x", "true or false where a number belongs"),
    SELLAR.replace("x = 1.0", 'x = "1.0"'): ("parameters.x", "text where a number belongs"),
    SELLAR.replace("x = 1.0", "x = 1979-05-27"): ("parameters.x", "a date or a time"),
    SELLAR.replace("x = 1.0", "x = [1, [2, 3]]"): ("parameters.x", "rows of the array differ"),
    SELLAR.replace("x = 1.0", "x = [1, 'a']"): ("parameters.x", "text where a number belongs"),
    SELLAR.replace("x = 1.0", "x = [{a = 1}]"): ("parameters.x", "a table where a number belongs"),
    SELLAR.replace("x = 1.0", "x = " + "[" * 40 + "1" + "]" * 40): ("parameters.x", "nested more than 32"),
    SELLAR.replace("x = 1.0", "x = " + "[" * 4000 + "1" + "]" * 4000): (None, "nested too deeply"),
    SELLAR.replace("lower", "lowr"): ("states.y2.lowr", "no such option"),
    SELLAR.replace("lower = 0.0", "lower = nan"): ("states.y2.lower", "nan"),
    SELLAR.replace("lower = 0.0", 'lower = "0"'): ("states.y2.lower", "text where a number belongs"),
    SELLAR.replace("upper = 50.0", "upper = -50.0"): ("states.y2", "not below its upper bound"),
    SELLAR.replace("upper = 50.0", "upper = 0.5"): ("states.y2", "outside the bounds"),
    SELLAR.replace("upper = 50.0", "upper = [1, 2]"): ("states.y2", "does not fit the shape"),
    SELLAR.replace("upper = 50.0", "shape = -1"): ("states.y2.shape", "whole numbers"),
    SELLAR.replace("upper = 50.0", "shape = 1.5"): ("states.y2.shape", "whole numbers"),
    SELLAR.replace("upper = 50.0", "shape = true"): ("states.y2.shape", "whole numbers"),
    SELLAR.replace("upper = 50.0", "shape = [100000, 100000]"): (
        "states.y2.shape",
        "more than 10000000 elements",
    ),
    SELLAR.replace("guess = 1.0", "guess = [1, 2], shape = 3"): ("states.y2", "expected (3,)"),
    SELLAR.replace("y1 = 1.0 ", "y1 = {} "): ("states.y1", "the table is empty"),
    SELLAR.replace("y1 = 1.0 ", "y1 = inf "): ("states.y1.guess", "inf where a finite number belongs"),
    SELLAR.replace('d1 = "', 'd1 = 3 # "'): ("constraints.d1", "a number where a formula in quotes belongs"),
    SELLAR.replace('d1 = "', 'd1 = [] # "'): ("constraints.d1", "a list where a formula in quotes belongs"),
    SELLAR.replace('d1 = "y1', "d1 = y1"): ("constraints.d1", "not TOML"),
    SELLAR + 'a = "b"\nb = "c + 1"\nc = "2*a"': ("definitions.c", "in a circle: a -> b -> c -> a"),
    SELLAR + 'a = "a + 1"': ("definitions.a", "in a circle: a -> a"),
    "x = {a = {": ("x", "not TOML"),
    "a." * 500 + "b = 1": (None, "a key of more than 32 parts"),
    "[" + '"a" . ' * 500 + "b]": (None, "a key of more than 32 parts"),
    "x = {k = '''\n''', " + "'='.\"=\"." * 500 + "b = 1}": (None, "a key of more than 32 parts"),
    "[parameters]\nt" + "[0]" * 1000: (None, "not TOML"),
    "\u00e9 = 1": (None, "not TOML"),
}


@pytest.mark.parametrize("text", FILES, ids=lambda t: repr(t)[-50:])
def test_a_file_that_is_no_model_is_refused(text: str):
    entry, reason = FILES[text]
    error = refusal(text)
    assert error.entry == entry
    assert reason in error.reason
    assert error.advice or error.excerpt or "bound" in reason or "fit" in reason or "expected" in reason
    assert len(str(error)) < 2_000


# tomllib keeps every prefix of a dotted key: 4·10⁵ parts would need some 600 GB of memory.
@pytest.mark.parametrize(
    "key",
    [
        "a." * 400_000 + "b=1",
        "1." * 400_000 + "1=1",
        '"="."#".' * 100_000 + "b=1",
        "[" + "a . " * 200_000 + "b]",
    ],
    ids=["bare", "digits", "quoted", "header"],
)
def test_a_key_of_very_many_parts_costs_nothing(key: str):
    start = time.perf_counter()
    assert "parts" in refusal(key).reason
    assert time.perf_counter() - start < 5.0


def test_what_makes_too_many_elements_is_refused_before_it_is_made():
    head = "[states]\na = { shape = [5000, 1] }\nb = { shape = [1, 5000] }\n[definitions]\n"
    for formula in ("a * b", "a @ b", "a - b", "maximum(a, b)", "where(a < b, 1, 0)"):
        error = refusal(head + f'd = "{formula}"')
        assert error.entry == "definitions.d"
        assert "25000000 elements" in error.reason
    error = refusal("[states]\na = { shape = 1000000 }\n[definitions]\nd = '" + "a + " * 100 + "a'")
    assert "operations of this file make more than" in error.reason


# -- files on disk -------------------------------------------------------------------------------------------
def file_refusal(path: Path) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    return caught.value


def test_a_missing_file_names_the_one_beside_it(tmp_path: Path):
    (tmp_path / "sellar.toml").write_text(SELLAR)
    error = file_refusal(tmp_path / "selar.toml")
    assert "no such file" in error.reason
    assert str(tmp_path / "sellar.toml") in error.advice
    assert "no such file" in file_refusal(tmp_path / "nowhere" / "a.toml").reason


def test_a_directory_is_not_a_model(tmp_path: Path):
    assert "directory" in file_refusal(tmp_path).reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xef\xbb\xbf" + SELLAR.encode(), "byte order mark"),
        (SELLAR.encode("utf-16"), "UTF-16"),
        (SELLAR.encode() + b'\nnaive = "\xe9"', "byte 0xe9 at position"),
        (b"\x00\x01\x02", "not TOML"),
        (bytes(range(256)), "not UTF-8"),
    ],
)
def test_bytes_that_are_not_utf8(tmp_path: Path, data: bytes, reason: str):
    file = tmp_path / "model.toml"
    file.write_bytes(data)
    assert reason in file_refusal(file).reason


def test_crlf_line_ends(tmp_path: Path):
    file = tmp_path / "sellar.toml"
    file.write_bytes(SELLAR.replace("\n", "\r\n").encode())
    assert repr(load_model(file)) == repr(parse_model(SELLAR))


def test_a_huge_file_is_not_even_read(tmp_path: Path):
    file = tmp_path / "huge.toml"
    with file.open("wb") as stream:
        stream.write(b'[definitions]\nd = "')
        stream.truncate(50 * 2**20)
    start = time.perf_counter()
    assert f"larger than {MAX_FILE // 2**20} MiB" in file_refusal(file).reason
    assert time.perf_counter() - start < 5.0


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="a file without an end")
def test_a_file_without_an_end():
    with pytest.raises(ModelFileError, match="larger than"):
        load_model("/dev/zero")


def test_a_name_no_file_can_have():
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_model("a\0b.toml")


def test_a_file_in_a_deep_stack_and_in_a_thread():
    def down(levels: int) -> object:
        return down(levels - 1) if levels else parse_model(SELLAR)

    assert repr(down(300)) == repr(parse_model(SELLAR))
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(repr(parse_model(SELLAR))))
    thread.start()
    thread.join()
    assert seen == [repr(parse_model(SELLAR))]


def test_reading_a_model_imports_neither_numba_nor_sympy():
    code = (
        "import sys\nfrom lagrad.frontends.model_file import parse_model\n"
        f"parse_model({SELLAR!r})\n"
        "print([m for m in ('numba', 'sympy', 'matplotlib', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# -- fuzzing -------------------------------------------------------------------------------------------------
FUZZ = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)


def read_or_refuse(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    start = time.perf_counter()
    try:
        load_model(path)
    except ModelFileError as error:
        assert str(path) in str(error)
        assert all(c.isprintable() or c == "\n" for c in str(error))
    assert time.perf_counter() - start < 10.0


@FUZZ
@given(st.binary(max_size=400))
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    read_or_refuse(data, tmp_path_factory.getbasetemp() / "bytes.toml")


WORDS = """
y1 y2 x z z[0] obj tank. . .. ( ) [ ] { } == = < > <= != ** * / % @ + - ~ , : ; ' " \'\'\' \\ # 0 1 2.5 1e9
1e999 nan inf true 2024-01-01 0x1F sum( exp( where( max( stack([ lambda for in if else not and import
__class__ guess [states] [constraints] [definitions] [parameters] [states.y1] [[a]] shape lower µ é
"""
PIECES = st.sampled_from([*WORDS.split(), "\n", "\t", "\u202e", "\x00", "\x1b", '"""'])


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, len(SELLAR)), st.integers(0, 12), PIECES), min_size=1, max_size=4),
)
@example([(SELLAR.index("sqrt"), 4, "__import__")])
def test_mutated_models(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int, str]]):
    text = SELLAR
    for at, removed, piece in changes:
        text = text[:at] + piece + text[at + removed :]
    read_or_refuse(text.encode(), tmp_path_factory.getbasetemp() / "mutated.toml")


@FUZZ
@given(st.lists(PIECES, max_size=12).map(" ".join) | st.text(max_size=60))
def test_random_formulas(text: str):
    known = dict.fromkeys(["y1", "y2", "x"], 1.5) | {"z": np.array([1.0, 2.0])}
    try:
        evaluate(parse_formula(text, constraint=False), known.get, Budget())
    except FormulaError as error:
        assert error.reason
        assert error.column is None or 1 <= error.column <= max(len(text), 1)


# -- the documentation ---------------------------------------------------------------------------------------
DOCUMENT = (Path(__file__).parent.parent / "docs" / "model_files.md").read_text(encoding="utf-8")


def test_the_document_names_every_function_and_every_limit():
    words = set(re.findall(r"\w+", DOCUMENT))
    assert set(FUNCTIONS) <= words
    plain = DOCUMENT.replace(" ", "")
    for limit in (formula_module.MAX_FORMULA, formula_module.MAX_ELEMENTS, formula_module.MAX_WORK):
        assert str(limit) in plain
    assert f"{MAX_FILE // 2**20}MiB" in plain
    assert f"{formula_module.MAX_DEPTH // 1000}000levels" in plain
    assert f"|{MAX_KEY_PARTS};" in plain


def test_the_documents_examples_are_models():
    first, *scopes = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert constraint_lines(first) == constraint_lines(SELLAR)
    ending = '\n[definitions]\nd = "2*tank.level"'
    assert [constraint_lines(s + ending) for s in scopes] == [["d == 2 * tank.level"]] * 3
