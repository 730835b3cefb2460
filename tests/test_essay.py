"""The essay, executable: derivative programs that run, the Lagrangian and its equations, expression swell.

Truths: many-digit values of the examples, SymPy differentiating and solving by itself, and for derivative programs
of larger systems the multipliers of the engine, which its own tests check.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
from example_files import load
from fixtures import FIXTURES, Fixture, declare
from test_compare import close, primitives_program, solved

import lagrad as lg
from lagrad.errors import ComparisonError, DeclarationError, ShapeError, StructuralError, UnknownNameError

DETERMINED = [fixture for fixture in FIXTURES if fixture.outputs]


def run(source: str, parameters: dict[str, Any]) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """What the one function of a derivative program returns, besides Newton's method."""
    scope: dict[str, Any] = {}
    exec(compile(source, "<derivative program>", "exec"), scope)
    names = [line[4 : line.index("(")] for line in source.splitlines() if line.startswith("def ")]
    return scope[names[-1]](*parameters.values())


def nearly(actual: Any, expected: Any, rel: float) -> None:
    """As arrays, within `rel` of the largest component."""
    expected = np.asarray(expected, float)
    assert np.shape(actual) == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=rel, atol=rel * np.abs(expected).max(initial=1e-3))


# -- derivative programs ---------------------------------------------------------------------------------------
def test_the_derivative_program_of_the_essays_function() -> None:
    assert lg.adjoint_source(load("examples/domke.py").build()) == (
        "# Program 'domke': f and its derivatives.\n"
        "from numpy import cos, exp, sin\n"
        "\n"
        "\n"
        "def domke(x):\n"
        "    # the constraints, in order\n"
        "    a = exp(x)\n"
        "    b = a ** 2\n"
        "    c = a + b\n"
        "    d = exp(c)\n"
        "    e = sin(c)\n"
        "    f = d + e\n"
        "    # the multipliers, in reverse order: adjoints add, and multiply along edges\n"
        "    λ_f = 1\n"
        "    λ_e = λ_f\n"
        "    λ_d = λ_f\n"
        "    λ_c = λ_d * d + λ_e * cos(c)\n"
        "    λ_b = λ_c\n"
        "    λ_a = λ_b * (2 * a) + λ_c\n"
        "    # the derivatives\n"
        "    d_x = λ_a * a\n"
        "    return f, {'x': d_x}, {'a': λ_a, 'b': λ_b, 'c': λ_c, 'd': λ_d, 'e': λ_e, 'f': λ_f}\n"
    )


def test_it_runs_and_gives_the_numbers() -> None:
    example = load("examples/domke.py")
    source = lg.adjoint_source(example.build())
    for x, expected in example.EXPECTED.items():
        value, gradient, multipliers = run(source, {"x": x})
        close(value, expected["f"], 1e-14)
        close(gradient["x"], expected["df/dx"], 1e-14)
        for name, multiplier in expected["multipliers"].items():
            close(float(multipliers[name]), multiplier, 1e-14)


def test_a_loop_becomes_a_small_linear_solve() -> None:
    example = load("examples/loop2.py")
    source = lg.adjoint_source(example.build(), "J")
    assert "λ_u_law, λ_w_law = solve(transpose(J_1), [λ_J * w, λ_J * u])" in source
    value, gradient, multipliers = run(source, {"theta": 0.7})
    close(value, example.EXPECTED["J"], 1e-14)
    close(gradient["theta"], example.EXPECTED["dJ/dtheta"], 1e-14)
    for name, multiplier in example.EXPECTED["multipliers"].items():
        close(float(multipliers[name]), multiplier, 1e-14)


@pytest.mark.parametrize("fixture", DETERMINED, ids=str)
def test_the_derivative_program_of_every_fixture(fixture: Fixture) -> None:
    program = declare(fixture)
    solution = solved(program)
    start = solution if fixture.name == "bounded" else None  # Newton's method alone leaves the domain there
    for output in fixture.outputs:
        source = lg.adjoint_source(program, output, at=start)
        value, gradient, multipliers = run(source, solution.parameters)
        ours = solution.multipliers(output)
        nearly(value, solution[output], 1e-12)
        assert set(gradient) == set(solution.parameters)
        for name, slope in solution.gradient(output).items():
            nearly(gradient[name], slope, 1e-12)
        for name, multiplier in ours.items():
            if name in multipliers:
                nearly(multipliers[name], multiplier, 1e-12)
            else:
                assert not np.any(multiplier), name  # left out because it has no influence


def test_a_value_of_a_loop_that_is_used_after_it() -> None:
    program = lg.Program("shared")
    p = program.parameter("p", 0.7)
    u, w = program.state("u"), program.state("w")
    shared = lg.exp(-u) * w + 0.2 * p  # in the loop, in another value of the loop, and in the output
    other = lg.sin(shared) * p
    program.constrain(u == p + 0.3 * shared, name="u_law")
    program.constrain(2 * w == other + shared * u, name="w_law")
    program.define("J", shared**2 * p + other * w)
    solution = solved(program)
    value, gradient, multipliers = run(lg.adjoint_source(program), {"p": 0.7})
    close(value, solution["J"], 1e-13)
    close(gradient["p"], solution.gradient("J")["p"], 1e-13)
    for name, multiplier in solution.multipliers("J").items():
        close(float(multipliers[name]), multiplier, 1e-13)


def test_one_line_for_each_multiplier_in_reverse_order() -> None:
    program = declare(next(f for f in FIXTURES if f.name == "diamond"))
    lines = [line.strip() for line in lg.adjoint_source(program, "d").splitlines()]
    forwards = [
        line.split(" = ")[0] for line in lines[: lines.index(next(s for s in lines if "# the mult" in s))]
    ]
    computed = [name for name in forwards if re.fullmatch(r"\w+", name)]
    multipliers = [m[1] for m in (re.match(r"λ_(\w+) = ", line) for line in lines) if m]
    assert multipliers == computed[::-1]
    assert len(set(computed)) == len(computed) >= 4


def test_every_primitive_in_a_derivative_program() -> None:
    program, truth = primitives_program()
    solution = solved(program)
    with np.errstate(all="ignore"):
        value, gradient, _ = run(lg.adjoint_source(program), solution.parameters)
    close(value, solution["y"], 1e-13)
    for name, slopes in truth.items():
        np.testing.assert_allclose(gradient[name], slopes, rtol=1e-11, atol=1e-13, err_msg=name)


def test_names_that_python_cannot_have() -> None:
    program = lg.Program("no name: 1")
    x = program.parameter("lambda", 0.4)
    with program.scope("tank"):
        level = program.define("level", 2.0 * x)
    other = program.define("tank_level", level + 1.0)
    exp = program.define("exp", lg.exp(other))
    twice = program.define("2x", exp * level)
    program.define("größe", lg.sqrt(exp) * twice)
    value, gradient, multipliers = run(lg.adjoint_source(program), {"lambda": 0.4})
    # größe = exp(3/2 (2 x + 1)) 2 x
    close(value, math.exp(2.7) * 0.8, 1e-14)
    close(gradient["lambda"], math.exp(2.7) * (2.0 + 3 * 0.8), 1e-14)
    assert set(multipliers) == {"tank.level", "tank_level", "exp", "2x", "größe"}
    close(float(multipliers["2x"]), math.exp(0.9), 1e-14)


def test_a_branch_that_is_not_taken_is_not_evaluated() -> None:
    program = lg.Program("branch")
    x = program.parameter("x", 0.5)
    program.define("y", lg.where(x > 1, lg.log(x - 1) * 2, 3 * x) + lg.where(x < 1, 1 / (x - 1), 0.0))
    source = lg.adjoint_source(program)
    with np.errstate(all="raise"):
        close(run(source, {"x": 0.5})[0], -0.5, 1e-15)
        close(run(source, {"x": 0.5})[1]["x"], 3 - 4.0, 1e-15)
        close(run(source, {"x": 1.5})[1]["x"], 2 / 0.5, 1e-15)


def test_a_formula_written_the_other_way_round_turns_its_multiplier() -> None:
    program = lg.Program("reversed")
    x, y = program.parameter("x", 0.3), program.state("y")
    program.constrain(lg.sin(x) == y, name="law")
    _, gradient, multipliers = run(lg.adjoint_source(program, "y"), {"x": 0.3})
    close(float(multipliers["law"]), -1.0)
    close(gradient["x"], math.cos(0.3), 1e-15)


def test_a_long_chain_and_a_long_sum() -> None:
    program = lg.Program("long")
    x = program.parameter("x", 0.2)
    w = program.parameter("w", np.linspace(0.1, 1.0, 300))
    value: Any = x
    for _ in range(2000):
        value = value + 1e-3 * lg.sin(value)
    program.define("y", value + (w * w).sum() + lg.exp(-w).sum())
    solution = solved(program)
    got, gradient, _ = run(lg.adjoint_source(program), solution.parameters)
    close(got, solution["y"], 1e-13)
    close(gradient["w"], 2 * solution["w"] - np.exp(-solution["w"]), 1e-14)
    close(gradient["x"], solution.gradient("y")["x"], 1e-12)


def test_a_traced_function_keeps_its_names() -> None:
    def f(x: Any, w: Any) -> Any:
        hidden = np.tanh(w @ x)
        return np.sum(hidden * hidden) + np.sum(hidden)

    x, w = np.array([0.3, -0.5]), np.array([[0.2, 0.4], [0.1, -0.3], [0.7, 0.6]])
    program = lg.trace(f, x, w)
    source = lg.adjoint_source(program)
    assert "hidden_0 = tanh(w[0, 0] * x[0] + w[0, 1] * x[1])" in source
    value, gradient, _ = run(source, {"x": x, "w": w})
    hidden = np.tanh(w @ x)
    slope = (2 * hidden + 1) * (1 - hidden**2)
    close(value, f(x, w), 1e-14)
    close(gradient["w"], np.outer(slope, x), 1e-14)
    close(gradient["x"], w.T @ slope, 1e-14)


def test_what_adjoint_source_refuses() -> None:
    program = lg.Program("refused")
    y = program.state("y", guess=[1.0, 2.0])
    with pytest.raises(StructuralError, match="y"):
        lg.adjoint_source(program, "y[0]")
    program.constrain(y == 3.0)
    with pytest.raises(DeclarationError, match="no scalar definition"):
        lg.adjoint_source(program)
    with pytest.raises(ShapeError, match="y"):
        lg.adjoint_source(program, "y")
    with pytest.raises(UnknownNameError, match="z"):
        lg.adjoint_source(program, "z")


# -- the Lagrangian --------------------------------------------------------------------------------------------
def symbols(names: Any) -> dict[str, Any]:
    return {name: sympy.Symbol(name, real=True) for name in names}


SMALL = [f for f in DETERMINED if f.size <= 14 and not f.name.startswith(("hidden", "branches", "empty"))]


@pytest.mark.parametrize("fixture", SMALL, ids=str)
def test_the_gradients_of_the_lagrangian_are_the_three_systems_of_equations(fixture: Fixture) -> None:
    """SymPy differentiates L: by λ it gives the residuals, by u the adjoint equations, by p the gradient."""
    program = declare(fixture)
    output = fixture.outputs[0]
    L = program.lagrangian(output).sympy()
    solution = solved(program)
    names = {
        **{program.state_name(j): float(np.asarray(v)) for j, v in enumerate(flat(solution.states))},
        **{program.parameter_name(k): float(v) for k, v in enumerate(flat(solution.parameters))},
        **{
            f"λ_{program.constraint_name(i)}": float(v)
            for i, v in enumerate(flat(solution.multipliers(output)))
        },
    }
    here = {sympy.Symbol(name, real=True): value for name, value in names.items()}
    scale = max(1.0, *(abs(v) for v in names.values()))
    for i in range(program.constraints.size):
        slope = L.diff(sympy.Symbol(f"λ_{program.constraint_name(i)}", real=True))
        assert abs(float(slope.evalf(30, subs=here))) <= 1e-9 * scale
    equations = program.adjoint_equations(output).sympy()
    for j in range(program.states.size):
        name = program.state_name(j)
        slope = L.diff(sympy.Symbol(name, real=True))
        assert abs(float(slope.evalf(30, subs=here))) <= 1e-9 * scale  # the multipliers make L stationary
        equation = equations[name]
        assert sympy.simplify(slope - (equation.rhs - equation.lhs)) == 0
    gradient = flat(solution.gradient(output))
    by_parameters = program.adjoint_equations(output).gradient()
    for k, slope in enumerate(gradient):
        name = program.parameter_name(k)
        assert sympy.simplify(L.diff(sympy.Symbol(name, real=True)) - by_parameters[name]) == 0
        np.testing.assert_allclose(
            float(by_parameters[name].evalf(30, subs=here)), slope, rtol=1e-9, atol=1e-12
        )


def flat(values: Any) -> np.ndarray:
    return np.concatenate([np.empty(0), *(np.ravel(x) for x in values.values())])


def test_sympy_solves_the_adjoint_equations() -> None:
    """u == p w, w == q u + 1: SymPy's solution of the linear system is the implicit function theorem's."""
    program = lg.Program("linear")
    p, q = program.parameter("p", 0.6), program.parameter("q", 0.7)
    u, w = program.state("u"), program.state("w")
    program.constrain(u == p * w, name="first")
    program.constrain(w == q * u + 1, name="second")
    s = symbols(("p", "q", "u", "w", "λ_first", "λ_second"))
    equations = program.adjoint_equations("u")
    found = sympy.solve(list(equations.sympy().values()), [s["λ_first"], s["λ_second"]])
    slope = equations.gradient()["q"].subs(found)
    assert sympy.simplify(slope - s["p"] * s["u"] / (1 - s["p"] * s["q"])) == 0


def test_the_lagrangian_as_text() -> None:
    program = load("examples/sellar.py").build()
    assert program.lagrangian("obj").text() == (
        "L = obj\n"
        "  - λ_d1*(y1 - (z[0]**2 + z[1] + x - 0.2 * y2))\n"
        "  - λ_d2*(y2 - (sqrt(y1) + z[0] + z[1]))\n"
        "  - λ_obj*(obj - (x**2 + z[1] + y1 + exp(-y2)))\n"
        "  - λ_con1*(con1 - (3.16 - y1))\n"
        "  - λ_con2*(con2 - (y2 - 24))"
    )
    lines = program.adjoint_equations("obj").text().splitlines()
    assert lines[0] == "y1:    λ_d1 - λ_d2/(2*sqrt(y1)) - λ_obj + λ_con1 = 0"
    assert lines[2] == "obj:   λ_obj = 1"
    assert lines[-1] == "dobj/dx    = λ_d1 + 2*x*λ_obj"


def test_the_lagrangian_of_any_output() -> None:
    program = load("examples/sellar.py").build()
    assert program.lagrangian().text().startswith("L = J\n")
    L = program.lagrangian().sympy()
    assert sympy.Symbol("J", real=True) in L.free_symbols
    assert L.diff(sympy.Symbol("J", real=True)) == 1
    assert "∂J/∂y2" in program.adjoint_equations().text()
    equation = program.adjoint_equations().sympy()["con1"]
    assert str(equation.lhs) == "λ_con1" and str(equation.rhs) == "∂J/∂con1"


def test_the_lagrangian_as_latex() -> None:
    program = load("examples/loop2.py").build()
    latex = program.lagrangian("J").latex()
    assert latex.startswith(r"\begin{align*}") and latex.endswith(r"\end{align*}")
    assert r"L &= J \\" in latex
    assert r"- \lambda_{\mathrm{u\_law}} \left(u - \tanh\left(\theta \, w\right)\right)" in latex
    equations = program.adjoint_equations("J").latex()
    assert equations.count(r"\begin{align*}") == equations.count(r"\end{align*}") == 2
    assert r"\frac{\mathrm{d} J}{\mathrm{d} \theta}" in equations
    assert r"&= 1" in equations and r"&= 0" in equations


@cache
def latex_documents() -> dict[str, str]:
    """What is written of every fixture, of long formulas, and of names that LaTeX reads as commands."""
    some = (
        "tall",
        "hidden",
        "hidden_in_loop",
        "bounded",
        "many_loops",
        "empty",
        "no_parameters",
        "arrays",
        "branches",
    )
    programs = {f.name: (declare(f), f.outputs[:1]) for f in FIXTURES if f.name in some}
    assert len(programs) == len(some)
    programs["decision_process"] = (load("examples/decision_process.py").build(), ())
    programs["every primitive"] = (primitives_program()[0], ("y",))
    odd = lg.Program("50% & $name_ #1 {x} \\ ~ ^")
    x, z, y = (
        odd.parameter("gr\u00f6\u00dfe", 0.3),
        odd.parameter("\u03bb", 1e300),
        odd.state("\u00e9t\u00e9 1_x%"),
    )
    w = odd.state("a&b#c$d{e}", guess=[1.0, 2.0])
    odd.constrain(y * lg.exp(x * y) == 1e-12 + z, name="c_1 & %\u0394x")
    odd.constrain(w == lg.where(x > 0, w * 0.1 + y, -w / 3) ** 2, name="~^\\")
    odd.define("J", lg.sum(w) * y**-1.5 + lg.maximum(x, y) ** 2**3 + lg.exp(-x) ** 2 + lg.abs(x - y) ** x)
    programs["odd"] = (odd, ("J",))
    return {
        name: "\n\n".join(
            text
            for output in (None, *outputs)
            for text in (program.lagrangian(output).latex(), program.adjoint_equations(output).latex())
        )
        for name, (program, outputs) in programs.items()
    }


def test_latex_fits_into_what_tex_can_set() -> None:
    """TeX has boxes of at most 16 384 pt, some 5 000 characters of LaTeX, and breaks no page inside align*."""
    for name, text in latex_documents().items():
        bare = re.sub(r"\\\\|\\[{}]", "", text)
        assert bare.count("{") == bare.count("}"), name
        assert text.count(r"\left") == text.count(r"\right"), name
        assert max(map(len, text.splitlines())) < 5_000, name
        for part in re.findall(r"\\begin\{align\*\}(.*?)\\end\{align\*\}", text, re.DOTALL):
            assert part.count("\\\\\n") < 30, name
        assert not re.search("[\u0370-\u03ff]", text), name  # pdfTeX has no Greek in text fonts


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_is_set_by_tex_without_an_error(tmp_path: Path) -> None:
    document = "\n\n".join(latex_documents().values())
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{amsmath}\n"
        f"\\begin{{document}}\n{document}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    ran = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout[-2000:].decode(errors="replace")


def test_the_lagrangian_is_a_view_of_the_program_as_it_was() -> None:
    program = load("examples/domke.py").build()
    before = program.lagrangian("f")
    text = before.text()
    program.define("g", 2.0 * lg.Expression(program.graph, 0))
    assert before.text() == text
    with pytest.raises(UnknownNameError, match="h"):
        program.lagrangian("h")


# -- expression swell --------------------------------------------------------------------------------------------
def test_a_formula_swells_and_a_program_does_not() -> None:
    example = load("examples/expression_swell.py")
    found = [lg.expression_swell(example.build(n)) for n in range(1, 9)]
    for n, swell in enumerate(found, start=1):
        assert swell.value_formula == 3 * (2**n - 1)  # s(n + 1) = 2 s(n) + 3
        assert swell.value_program == 3 * n
        assert swell.derivative_formula is not None
        if n >= 4:
            assert swell.derivative_formula > n * 2**n
    steps = {b.derivative_program - a.derivative_program for a, b in pairwise(found)}
    assert len(steps) == 1  # as much for every iteration
    assert found[-1].derivative_program < 4 * found[-1].value_program


def test_the_closed_form_of_the_derivative_is_right() -> None:
    example = load("examples/expression_swell.py")
    for n in (1, 4, 6):
        x = sympy.Symbol("x", real=True)
        closed = lg.expression_swell(example.build(n)).derivatives["x"]
        close(float(closed.subs(x, sympy.Rational(3, 10))), example.expected(n)[1], 1e-11)


def test_beyond_a_limit_sympy_is_not_asked() -> None:
    swell = lg.expression_swell(load("examples/expression_swell.py").build(40))
    assert swell.value_formula == 3 * (2**40 - 1)
    assert swell.derivative_formula is None and swell.derivatives == {}
    assert swell.value_program == 120


def test_an_implicit_program_has_no_closed_form() -> None:
    with pytest.raises(ComparisonError, match="no closed form"):
        lg.expression_swell(load("examples/loop2.py").build(), "J")


def test_the_example_of_expression_swell(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("examples/expression_swell.py")
    program = example.build(7)
    solution = solved(program)
    value, slope = example.expected(7)
    close(solution["x7"], value, 1e-11)
    close(solution.gradient("x7")["x"], slope, 1e-11)
    example.main(most=4)
    printed = capsys.readouterr().out
    assert " 4          45         264           12                40" in printed
    assert f"{example.expected(4)[1]:.10g}" in printed
