"""Expressions as LaTeX and SymPy: that what is written means what was declared."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import sympy

import lagrad as lg
from lagrad.expr import expression
from lagrad.expr.latex import name_latex, node_latex, number_latex
from lagrad.expr.primitives import PRIMITIVES
from lagrad.expr.symbolic import node_sympy, partial
from lagrad.expr.walk import written_size
from lagrad.lagrangian.lagrangian import SEARCHED, SHOWN
from lagrad.lagrangian.latex import program_latex
from lagrad.lagrangian.text import equation_lines
from lagrad.view.text import printable, value_text


@pytest.fixture
def program() -> lg.Program:
    made = lg.Program("view")
    made.parameter("x", 1.0)
    made.state("y1", guess=1.0)
    made.state("theta", guess=1.0)
    return made


def leaves(program: lg.Program) -> tuple[lg.Expression, lg.Expression, lg.Expression]:
    graph = program.graph
    return lg.Expression(graph, 0), lg.Expression(graph, 1), lg.Expression(graph, 2)


def latex(x: lg.Expression) -> str:
    return node_latex(x.graph, int(x.ids))


def balanced(text: str) -> bool:
    bare = re.sub(r"\\[{}]", "", text)
    depth = 0
    for c in bare:
        depth += (c == "{") - (c == "}")
        if depth < 0:
            return False
    return depth == 0 and len(re.findall(r"\\left\b", text)) == len(re.findall(r"\\right\b", text))


def test_latex_of_formulas(program: lg.Program):
    x, y1, theta = leaves(program)
    assert latex((x + y1) * theta) == r"\left(x + y_{1}\right) \, \theta"
    assert latex(x - (y1 - theta)) == r"x - \left(y_{1} - \theta\right)"
    assert latex(-((x + y1) ** 2)) == r"-\left(x + y_{1}\right)^{2}"
    assert latex((-x) ** 2) == r"\left(-x\right)^{2}"
    assert latex(x / (y1 * theta)) == r"\frac{x}{y_{1} \, \theta}"
    assert latex(lg.exp(x) ** 2) == r"\left(e^{x}\right)^{2}"  # two exponents in a row would not compile
    assert latex(lg.floor(x)) == r"\left\lfloor x\right\rfloor"
    assert latex(x * 2.0) == r"x \cdot 2"
    assert latex(1.5e-7 * x) == r"1.5 \cdot 10^{-7} \, x"
    assert latex(lg.where(x < y1, x, -y1)) == (
        r"\begin{cases} x & \text{if } x < y_{1} \\ -y_{1} & \text{otherwise} \end{cases}"
    )


@pytest.mark.parametrize("primitive", PRIMITIVES, ids=lambda p: p.name)
def test_every_primitive_makes_latex_that_is_balanced(program: lg.Program, primitive):
    x, y1, theta = leaves(program)
    code = PRIMITIVES.index(primitive)
    for a, b in ((x, y1), (x + y1, theta - 1.0), (x**2, -y1)):
        made = expression.unary(code, a) if primitive.arity == 1 else expression.binary(code, a, b)
        for outer in (made, made**2, 2.0 * made, x - made):
            text = latex(outer)
            assert balanced(text)
            assert not re.search(r"\^\{[^{}]*\}\s*\^", text)  # two exponents in a row do not compile
            assert not re.search(r"\\[lr](floor|ceil)[a-z]", text)  # \lfloorx is no command


def test_names():
    assert name_latex("y1") == "y_{1}"
    assert name_latex("alpha") == r"\alpha"
    assert name_latex("lambda_2") == r"\lambda_{2}"
    assert name_latex("z[0]") == "z_{0}"
    assert name_latex("A[1,2]") == "A_{1,2}"
    assert name_latex("x3[4]") == "x_{3,4}"
    assert name_latex("tank.level") == r"\mathrm{tank.level}"
    assert name_latex("a_b") == r"\mathrm{a\_b}"
    assert name_latex("\u03b8") == r"\theta" and name_latex("\u0394_2") == r"\Delta_{2}"
    assert name_latex("\u0394T") == r"\mathrm{\Delta T}"
    assert balanced(name_latex("odd{name}\\x_1 %"))


def test_numbers():
    assert number_latex(0.2) == "0.2"
    assert number_latex(-3.0) == "-3"
    assert number_latex(1e20) == r"1 \cdot 10^{20}"
    assert number_latex(math.inf) == r"\infty"
    assert value_text(0.1) == "0.1"
    assert value_text([[1, 2], [3, 4]]) == "[[1, 2], [3, 4]]"
    assert value_text(np.zeros((3, 4))) == "array of shape 3 x 4, 0 to 0"
    assert printable("a\x1b[31m\nb\u03bb") == "a\\x1b[31m\nb\u03bb"


def test_sympy_is_the_expression(program: lg.Program):
    x, y1, theta = leaves(program)
    made = lg.where(x < y1, lg.exp(x) * theta**2, lg.arctan2(y1, x)) + lg.sum(lg.stack([x, y1, theta])) / 3
    found = node_sympy(made.graph, int(made.ids))
    sx, sy, st = sympy.symbols("x y1 theta", real=True)
    for values in ((0.3, 0.7, 1.1), (0.9, 0.2, -0.4)):
        a, b, c = values
        truth = (math.exp(a) * c**2 if a < b else math.atan2(b, a)) + (a + b + c) / 3
        assert float(found.subs({sx: a, sy: b, st: c})) == pytest.approx(truth, rel=1e-14)


def test_partials_hold_the_rest_and_steps_have_none(program: lg.Program):
    x, y1, _ = leaves(program)
    a, b = sympy.symbols("x y1", real=True)
    cases = {
        lg.exp(x) * y1: a * 0 + sympy.exp(a) * b,
        lg.floor(x) * y1: sympy.Integer(0),
        lg.sign(x) * x: sympy.sign(a),
        lg.gammaln(x): sympy.digamma(a),
        lg.cbrt(x): a ** sympy.Rational(-2, 3) / 3,
        y1**2: sympy.Integer(0),
    }
    for made, truth in cases.items():
        assert sympy.simplify(partial(node_sympy(made.graph, int(made.ids)), "x") - truth) == 0


def test_a_value_used_twice_sixty_times_over_is_not_written_out(program: lg.Program):
    x, *_ = leaves(program)
    square = x
    for _ in range(60):
        square = square * square
    program.define("huge", square)
    assert written_size(program.graph, int(square.ids)) == 2**61 - 1
    assert latex(square) == r"\dots"
    lines = list(equation_lines(program.lagrangian().equations()))
    assert any("huge == …" in line for line in lines)
    assert max(map(len, lines)) < 200
    assert all(len(line) < 2_000 for line in program_latex(program.lagrangian().equations()))


def test_a_deep_expression_is_walked_without_recursion(program: lg.Program):
    x, *_ = leaves(program)
    deep = x
    for _ in range(100_000):
        deep = lg.sin(deep)
    assert written_size(program.graph, int(deep.ids)) == 100_001
    assert latex(deep) == r"\dots"


@pytest.mark.parametrize("count", [SHOWN + 5, SEARCHED + 1])
def test_large_programs_are_cut(count: int):
    program = lg.Program("large")
    y = program.state("y", guess=np.ones(count))
    program.constrain(y**2 == 2.0, name="c")
    lines = list(equation_lines(program.lagrangian().equations()))
    assert f"  … and {count - SHOWN} more" in lines
    assert any("not written out" in line for line in lines) is (count > SEARCHED)
    assert balanced("\n".join(program_latex(program.lagrangian().equations())))


def test_the_adjoint_equations_are_the_transposed_partials():
    """The adjoint equation of every state against partials taken by hand; more rows than parameters."""
    program = lg.Program("by hand")
    p = program.parameter("p", 2.0)
    u, w = program.state("u", guess=1.0), program.state("w", guess=1.0)
    program.constrain(u == lg.tanh(p * w), name="a")
    program.constrain(w * w + 3.0 * u == p, name="b")
    program.define("J", u * w)
    lines = [" ".join(line.split()) for line in equation_lines(program.lagrangian().equations())]
    assert "u: λ_a + 3*λ_b - w*λ_J = ∂J/∂u" in lines
    assert "w: -p*λ_a*(1 - tanh(p*w)**2) + 2*w*λ_b - u*λ_J = ∂J/∂w" in lines
    assert "J: λ_J = ∂J/∂J" in lines
    assert "dJ/dp = ∂J/∂p + w*λ_a*(1 - tanh(p*w)**2) + λ_b" in lines
