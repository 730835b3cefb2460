"""The command: what it prints, on which stream, with which exit status; that no traceback gets out."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lagrad.cli import main

ROOT = Path(__file__).parent.parent
REFERENCE = json.loads((ROOT / "tests" / "reference.json").read_text())

SELLAR = """\
name = "sellar"
[parameters]
x = 1.0
z = [5.0, 2.0]
[states]
y1 = 1.0
y2 = { guess = 1.0, lower = 0.0, upper = 50.0 }
[constraints]
d1 = "y1 == z[0]**2 + z[1] + x - 0.2*y2"
d2 = "y2 == sqrt(y1) + z[0] + z[1]"
[definitions]
obj = "x**2 + z[1] + y1 + exp(-y2)"
"""

PROGRAM = """\
import lagrad as lg

print("said while loading")
program = lg.Program("from python")
p = program.parameter("p", 2.0)
y = program.state("y", guess=1.0)
program.constrain(y**3 + y == p, name="cubic")
number = 3


def build():
    print("said while building")
    return program


def needs(x):
    return program


def nothing():
    return None


def fails():
    values = {}
    return values["missing"]


def declares_twice():
    program.state("y")


def leaves():
    raise SystemExit(0)
"""


def line_of(piece: str) -> int:
    """The last line of PROGRAM that holds this piece."""
    return max(k for k, line in enumerate(PROGRAM.splitlines(), start=1) if piece in line)


class Run:
    """Exit status, stdout and stderr of one call of the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
        self.status = main([str(a) for a in arguments])
        self.out, self.err = capsys.readouterr()
        assert "Traceback" not in self.out + self.err
        assert "internal error" not in self.err

    def refused(self, status: int, *pieces: str) -> Run:
        """Assert that nothing but one message on stderr came out."""
        assert (self.status, self.out) == (status, "")
        assert self.err.startswith("lagrad: ")
        for piece in pieces:
            assert piece in self.err
        return self


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    return lambda *arguments: Run(capsys, *arguments)


@pytest.fixture
def sellar(tmp_path: Path) -> Path:
    file = tmp_path / "sellar.toml"
    file.write_text(SELLAR)
    return file


@pytest.fixture
def python_file(tmp_path: Path) -> Path:
    file = tmp_path / "model.py"
    file.write_text(PROGRAM)
    return file


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "lagrad", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, env=environment, **options,
    )  # fmt: skip


# -- solve ---------------------------------------------------------------------------------------------------
def test_json_of_sellar_agrees_with_the_reference(run, sellar: Path):
    result = run("solve", sellar, "--gradient", "obj", "--json")
    assert result.status == 0
    assert result.err == ""
    found = json.loads(result.out)
    assert list(found) == [
        "model", "converged", "parameters", "states", "definitions", "gradients", "multipliers",
        "certificate",
        "structure", "seconds",
    ]  # fmt: skip
    truth = REFERENCE["sellar"]
    assert found["model"] == "sellar"
    assert found["converged"] is True
    assert found["parameters"] == {"x": 1.0, "z": [5.0, 2.0]}
    for name in ("y1", "y2"):
        assert found["states"][name] == pytest.approx(float(truth[name]), rel=1e-12)
    assert list(found["definitions"]) == ["obj"]
    gradient, total = found["gradients"]["obj"], truth["totals"]["obj"]
    assert gradient["x"] == pytest.approx(float(total["x"]), rel=1e-12)
    np.testing.assert_allclose(gradient["z"], [float(total["z1"]), float(total["z2"])], rtol=1e-12)
    # The multiplier of y1 == f(…) is the adjoint of y1: ∂obj/∂y1 plus what d2 passes on, λ_d2 ∂sqrt(y1)/∂y1.
    multipliers = found["multipliers"]["obj"]
    assert multipliers["obj"] == 1.0
    y1 = found["states"]["y1"]
    assert multipliers["d1"] == pytest.approx(1 + multipliers["d2"] / (2 * math.sqrt(y1)), rel=1e-12)
    assert found["structure"] == {"states": 3, "constraints": 3, "blocks": 2, "largest_block": 2}
    assert found["certificate"]["residual"] < 1e-12
    assert found["certificate"]["gradients"]["obj"]["linear_residual"] < 1e-12
    assert found["certificate"]["kinks"] == [] and 1.0 <= found["certificate"]["condition"] < 100.0
    errors = found["certificate"]["gradients"]["obj"]["gradient_error"]
    assert 0.0 < errors["x"] < 1e-12 and len(errors["z"]) == 2
    assert 0 < found["seconds"] < 300


def test_json_is_one_object_and_keeps_every_digit(run, sellar: Path):
    import lagrad as lg
    from lagrad.frontends.model_file import load_model

    result = run("solve", sellar, "--json")
    assert result.out.count("\n") == 1
    found = json.loads(result.out)
    assert found["gradients"] == found["multipliers"] == {}
    assert found["states"]["y1"] == float(lg.build(load_model(sellar)).solve()["y1"])


def test_tables(run, sellar: Path):
    result = run("solve", sellar, "--gradient", "obj")
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0] == "sellar: 3 states, 1 explicit, 1 cyclic block of 2: d1, d2"
    assert "y1     25.5883023699" in lines
    assert "obj         28.588308165" in lines
    assert "z          [5, 2]  [9.61001055699, 1.78448533563]" in lines
    assert any(line.startswith("d1  ") and "0.980613913" in line for line in lines)
    assert any(line.startswith("certified: residual ") for line in lines)
    assert "\x1b" not in result.out


def test_set(run, sellar: Path):
    assert json.loads(run("solve", sellar, "--json", "--set", "x=2").out)["parameters"]["x"] == 2.0
    whole = json.loads(run("solve", sellar, "--json", "--set", "z=[4, 3]", "--set", "x = pi/2").out)
    assert whole["parameters"] == {"z": [4.0, 3.0], "x": math.pi / 2}
    part = json.loads(run("solve", sellar, "--json", "--set", "z[0]=4", "--set", "z[-1]=3").out)
    assert part["parameters"]["z"] == [4.0, 3.0]


@pytest.mark.parametrize(
    ("value", "pieces"),
    [
        ("q=1", ["no parameter is named 'q'"]),
        ("y1=1", ["y1 is a state"]),
        ("x", ["write NAME=VALUE"]),
        ("=3", ["write NAME=VALUE"]),
        ("x=", ["write NAME=VALUE"]),
        ("x=y1", ["y1 is not a declared name"]),
        ("x=abc(", ["--set x=abc(", "not a formula"]),
        ("x=__import__('os').system('true')", ["attributes cannot be read"]),
        ("x=[1,2]", ["x: got shape (2,)"]),
        ("z=[1,2,3]", ["z: got shape (3,)"]),
        ("z[7]=1", ["index [7]"]),
        ("z[0][0]=1", ["no parameter is named 'z[0]'"]),
        ("x=1e999", ["double precision"]),
        ("x=inf", ["not finite"]),
        ("x=0/0", ["nan"]),
        ("x=\x1b[31m", ["control character"]),
    ],
)
def test_set_to_what_cannot_be(run, sellar: Path, value: str, pieces: list[str]):
    result = run("solve", sellar, "--set", value).refused(2, *pieces)
    assert "\x1b" not in result.err


def test_gradient_of_what_there_is_not(run, sellar: Path):
    run("solve", sellar, "--gradient", "obk").refused(2, "obk", "Did you mean obj?")
    run("solve", sellar, "--gradient", "x").refused(2, "no state or definition is named 'x'")
    run("solve", sellar, "--gradient", "y1[0]").refused(2, "index [0]")


def test_gradient_of_an_array_by_element(run, tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text('[parameters]\nx = [1, 2]\n[definitions]\nd = "x**2"\n')
    run("solve", file, "--gradient", "d").refused(2, "d[0]")
    found = json.loads(run("solve", file, "--gradient", "d[1]", "--gradient", "d[0]", "--json").out)
    assert found["gradients"] == {"d[1]": {"x": [0.0, 4.0]}, "d[0]": {"x": [2.0, 0.0]}}
    assert found["definitions"] == {"d": [1.0, 4.0]}


UNSOLVABLE = """
[parameters]
p = 1.0
[states]
y = 2.0
[constraints]
c = "y**2 + p == 0"
[definitions]
d = "2*y"
"""
NEARLY_PARALLEL = """
[parameters]
p = 1.0
[states]
a = 2.0
b = 3.0
[constraints]
first = "a + b == p"
second = "a + 1.000000000000001*b == p"
"""
STRUCTURAL = '[states]\na = 1.0\nb = 1.0\n[constraints]\nc1 = "a == 1"\nc2 = "a == 2"\n'


@pytest.mark.parametrize("extra", [[], ["--json"]])
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (UNSOLVABLE, ["not solved", "constraints c", "states y"]),
        (STRUCTURAL, ["Over-determined", "c1, c2", "Under-determined", "(b)"]),
    ],
    ids=["no root", "structural"],
)
def test_a_model_that_cannot_be_solved(run, tmp_path: Path, text: str, pieces: list[str], extra: list[str]):
    file = tmp_path / "model.toml"
    file.write_text(text)
    run("solve", file, *extra).refused(1, *pieces)


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_gradient_that_cannot_be_certified(run, tmp_path: Path, extra: list[str]):
    file = tmp_path / "model.toml"
    file.write_text(NEARLY_PARALLEL)
    run("solve", file, "--gradient", "b", *extra).refused(1, "ill conditioned", "first, second", "a, b")


def test_more_states_than_anybody_reads(run, tmp_path: Path):
    file = tmp_path / "many.toml"
    states = "\n".join(f"y{i} = 1.0" for i in range(60))
    constraints = "\n".join(f'c{i} = "y{i} == {i}"' for i in range(60))
    file.write_text(
        f"[parameters]\nbig = {list(range(1, 30))}\n[states]\n{states}\n[constraints]\n{constraints}\n"
        '[definitions]\nd = "2*big"\n'
    )
    result = run("solve", file, "--gradient", "d[2]")
    assert result.status == 0
    assert "… and 10 more" in result.out
    assert "array of shape 29, 2 to 58" in result.out
    for name in ("check", "show"):
        result = run(name, file)
        assert result.status == 0
        assert "more" in result.out


# -- check and show ------------------------------------------------------------------------------------------
def test_check(run, sellar: Path):
    result = run("check", sellar)
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[:2] == [
        "sellar: 3 parameters, 3 states, 3 constraints",
        "3 states, 1 explicit, 1 cyclic block of 2: d1, d2",
    ]
    assert "1      cyclic of 2  d1, d2       y1, y2" in lines
    assert lines[-1] == "structure: every state is determined by the constraints"


def test_check_does_not_solve(run, tmp_path: Path):
    file = tmp_path / "model.toml"
    file.write_text(UNSOLVABLE)
    assert run("check", file).status == 0
    result = run("check", file, "--derivatives")
    assert result.status == 1
    assert "not solved" in result.err


def test_check_names_parameters_that_nothing_mentions(run, tmp_path: Path):
    file = tmp_path / "model.toml"
    file.write_text(SELLAR.replace("x = 1.0", "x = 1.0\nidle = 2.0"))
    assert "note: no constraint mentions idle" in run("check", file).out


def test_check_says_which_constraints_are_too_many(run, tmp_path: Path):
    file = tmp_path / "model.toml"
    file.write_text(STRUCTURAL)
    result = run("check", file)
    assert result.status == 1
    assert "Over-determined: 2 constraints (c1, c2) for 1 state (a)" in result.err


def test_check_derivatives(run, sellar: Path):
    result = run("check", sellar, "--derivatives", "--set", "x=2")
    assert result.status == 0
    for method in ("tape", "finite-differences", "complex-step"):
        assert re.search(rf"^obj +{method} +\d\.\de(-1\d|\+00) .*agrees$", result.out, re.MULTILINE)
    assert result.out.splitlines()[-1] == "derivatives: the methods agree"


def test_check_derivatives_of_states_where_nothing_is_defined(run, tmp_path: Path):
    file = tmp_path / "model.toml"
    file.write_text('[parameters]\np = 2.0\n[states]\ny = 1.0\n[constraints]\nc = "y**3 + y == p"\n')
    result = run("check", file, "--derivatives")
    assert result.status == 0
    assert re.search(r"^y +tape .* agrees$", result.out, re.MULTILINE)


def test_check_derivatives_of_many_outputs(run, tmp_path: Path):
    file = tmp_path / "model.toml"
    file.write_text(
        "[parameters]\np = [1, 2, 3, 4, 5]\n[definitions]\n" + "".join(f'd{i} = "{i}*p"\n' for i in range(6))
    )
    result = run("check", file, "--derivatives")
    assert result.status == 0
    assert "checked: 20 of 30 outputs" in result.out


def test_check_derivatives_where_the_model_cannot_be_solved_beside_the_point(run, tmp_path: Path):
    file = tmp_path / "model.toml"
    file.write_text(
        "[parameters]\np = 2.0\n[states]\ny = { guess = 1.5, upper = 2.0000000000001 }\n"
        '[constraints]\nc = "y**3 + y == p + 8"\n'
    )
    result = run("check", file, "--derivatives")
    assert result.status == 0
    assert re.search(r"^y +finite-differences +not compared: .*beside the point", result.out, re.MULTILINE)


def test_check_derivatives_at_a_kink(run, tmp_path: Path):
    file = tmp_path / "model.toml"
    file.write_text('[parameters]\nq = 0.0\n[definitions]\nk = "abs(q)"\n')
    result = run("check", file, "--derivatives")
    assert re.search(r"^k +finite-differences +1\.0e\+00 +q +DISAGREES$", result.out, re.MULTILINE)
    assert result.status == 1
    assert "finite-differences of k. At a kink" in result.err


def test_check_derivatives_sees_a_wrong_gradient(run, sellar: Path, monkeypatch: pytest.MonkeyPatch):
    from lagrad.solve import Solution

    right = Solution.gradient
    monkeypatch.setattr(
        Solution, "gradient", lambda self, of: {n: 1.00001 * g for n, g in right(self, of).items()}
    )
    result = run("check", sellar, "--derivatives")
    assert result.status == 1
    assert "derivatives disagree: tape of obj, finite-differences of obj, complex-step of obj" in result.err
    assert "DISAGREES" in result.out


def test_show(run, sellar: Path):
    result = run("show", sellar)
    assert result.status == 0
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    for line in (
        "d1: y1 == z[0]**2 + z[1] + x - 0.2 * y2",
        "- λ_d2*(y2 - (sqrt(y1) + z[0] + z[1]))",
        "y1: λ_d1 - λ_d2/(2*sqrt(y1)) - λ_obj = ∂J/∂y1",
        "y2: 0.2*λ_d1 + λ_d2 + λ_obj*exp(-y2) = ∂J/∂y2",
        "dJ/dz[0] = ∂J/∂z[0] + 2*z[0]*λ_d1 + λ_d2",
        "For J = obj the right side is 1 at obj and 0 elsewhere.",
        "1 cyclic of 2 d1, d2 y1, y2",
    ):
        assert line in lines


def test_the_equations_shown_hold_at_the_solution(run, sellar: Path):
    """The adjoint equations and the gradient as printed, evaluated by SymPy at the numbers of --json."""
    import sympy

    found = json.loads(run("solve", sellar, "--gradient", "obj", "--json").out)
    values = {"x": 1.0, "z0": 5.0, "z1": 2.0, **found["states"], **found["definitions"]}
    values |= {f"λ_{name}": value for name, value in found["multipliers"]["obj"].items()}
    text = re.sub(r"z\[(\d)\]", r"z\1", run("show", sellar).out)
    adjoint = re.findall(r"^  (\w+): +(.*) = ∂J/∂\1$", text, re.MULTILINE)
    assert [name for name, _ in adjoint] == ["y1", "y2", "obj"]
    for name, left in adjoint:
        assert float(sympy.sympify(left).subs(values)) == pytest.approx(float(name == "obj"), abs=1e-12)
    gradient = dict(re.findall(r"^  dJ/d(\w+) += ∂J/∂\w+(.*)$", text, re.MULTILINE))
    ours = found["gradients"]["obj"]
    totals = {"x": ours["x"], "z0": ours["z"][0], "z1": ours["z"][1]}
    assert set(gradient) == set(totals)
    for name, right in gradient.items():
        assert float(sympy.sympify("0" + right).subs(values)) == pytest.approx(totals[name], rel=1e-12)


def test_show_latex(run, sellar: Path):
    result = run("show", sellar, "--latex")
    assert result.status == 0
    assert r"y_{1} &= z_{0}^{2} + z_{1} + x - 0.2 \, y_{2} && (\text{d1}) \\" in result.out
    assert r"\lambda_{d_{1}} - \frac{\lambda_{d_{2}}}{2 \sqrt{y_{1}}} - \lambda_{\mathrm{obj}}" in result.out
    assert r"\frac{\mathrm{d} J}{\mathrm{d} x} &= \frac{\partial J}{\partial x}" in result.out
    assert result.out.count(r"\begin{align*}") == result.out.count(r"\end{align*}") == 4
    bare = result.out.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert result.out.count(r"\left") == result.out.count(r"\right")


def test_show_still_writes_the_constraints_of_a_singular_structure(run, tmp_path: Path):
    file = tmp_path / "model.toml"
    file.write_text(STRUCTURAL)
    result = run("show", file)
    assert result.status == 1
    assert "c2:  a == 2" in result.out
    assert "Over-determined" in result.err


# -- Python files --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["program", "build"])
def test_a_program_from_python(run, python_file: Path, name: str):
    result = run("solve", f"{python_file}:{name}", "--gradient", "y", "--json")
    assert result.status == 0
    found = json.loads(result.out)  # what the file printed went to stderr
    assert "said while loading" in result.err
    assert found["states"]["y"] == pytest.approx(1.0, rel=1e-12)
    assert found["gradients"]["y"]["p"] == pytest.approx(0.25, rel=1e-12)
    assert found["multipliers"]["y"]["cubic"] == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("programme", ["nothing is called 'programme'", "There is program and build"]),
        ("", ["nothing is called ''"]),
        ("number", ["is a int, not a Program"]),
        ("nothing", ["returned a NoneType"]),
        ("needs", ["TypeError", "missing 1 required positional argument"]),
        ("fails", [f"model.py:{line_of('values[')}: KeyError: 'missing'"]),
        (
            "declares_twice",
            [f"model.py:{line_of('state(')}: DeclarationError: y: this name is already in use"],
        ),
        ("leaves", [f"model.py:{line_of('SystemExit')}: SystemExit: 0"]),
    ],
)
def test_python_that_gives_no_program(run, python_file: Path, name: str, pieces: list[str]):
    result = run("solve", f"{python_file}:{name}")
    assert (result.status, result.out) == (2, "")
    for piece in pieces:
        assert piece in result.err


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("x = 1 +\n", "broken.py:1: SyntaxError"),
        ("\n\nraise ValueError('no\\nway')\n", "broken.py:3: ValueError: no way"),
        ("import no_such_module_anywhere\n", "broken.py:1: ModuleNotFoundError"),
        ("def f():\n    return f()\nf()\n", "broken.py:2: RecursionError"),
        ("import sys\nsys.exit(0)\n", "broken.py:2: SystemExit"),
        ("\x00", "broken.py"),
        ("assert False", "broken.py:1: AssertionError"),
    ],
)
def test_errors_in_the_users_code_are_told_with_its_own_line(run, tmp_path: Path, text: str, piece: str):
    file = tmp_path / "broken.py"
    file.write_text(text)
    run("solve", f"{file}:program").refused(2, piece)


def test_python_without_a_name_or_without_a_file(run, python_file: Path, tmp_path: Path):
    run("solve", python_file).refused(2, f"{python_file}:program")
    run("solve", f"{tmp_path / 'no.py'}:program").refused(2, "no such file")


def test_a_python_file_imports_its_neighbours(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_it.py").write_text(
        "import lagrad as lg\nprogram = lg.Program('beside')\nprogram.define('d', 2.0)\n"
    )
    (tmp_path / "main_file.py").write_text("from beside_it import program\n")
    result = run("solve", f"{tmp_path / 'main_file.py'}:program", "--json")
    assert json.loads(result.out)["definitions"] == {"d": 2.0}


# -- the command line itself ---------------------------------------------------------------------------------
def test_usage(run, capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert main(["solve"]) == 2
    assert main(["slove", "a.toml"]) == 2
    assert main(["solve", "a.toml", "--jsn"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert re.fullmatch(r"lagrad \d+\.\d+\.\d+\n", capsys.readouterr().out)
    for name in ("solve", "check", "show"):
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert "RUNS" in out
        assert "exit status" in out


def test_files_that_are_no_models(run, tmp_path: Path):
    (tmp_path / "empty.toml").write_text("")
    (tmp_path / "bytes.toml").write_bytes(bytes(range(256)))
    (tmp_path / "evil.toml").write_text("[definitions]\nd = \"__import__('os').system('touch PWNED')\"\n")
    for name in ("empty.toml", "bytes.toml", "evil.toml", "missing.toml", "."):
        for command_name in ("solve", "check", "show"):
            run(command_name, tmp_path / name).refused(2, str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["bytes.toml", "empty.toml", "evil.toml"]


def test_names_with_control_characters_do_not_reach_the_terminal(run, tmp_path: Path):
    file = tmp_path / "odd.py"
    file.write_text(
        "import lagrad as lg\nprogram = lg.Program('a\\x1b[31m')\nprogram.define('d\\x07 [bold]', 2.0)\n"
    )
    for name in ("solve", "check", "show"):
        result = run(name, f"{file}:program")
        assert result.status == 0
        assert "\\x1b[31m" in result.out
        assert "\x1b" not in result.out
        assert "\x07" not in result.out
    assert run("show", f"{file}:program", "--latex").status == 0
    assert run("solve", f"{file}:program", "--gradient", "d\x07 [bold]").status == 0


def test_an_unexpected_exception_is_one_line(
    sellar: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    import lagrad

    def broken(program: object) -> object:
        raise RuntimeError("the inside\nof lagrad")

    monkeypatch.setattr(lagrad, "build", broken)
    assert main(["solve", str(sellar)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"lagrad: internal error, please report it: RuntimeError: the inside of lagrad "
        r"\(test_cli\.py, line \d+\)\n",
        err,
    )


# -- as a process --------------------------------------------------------------------------------------------
def test_exit_statuses_of_the_process(sellar: Path, tmp_path: Path):
    (tmp_path / "none.toml").write_text(UNSOLVABLE)
    solved = command("solve", sellar, "--gradient", "obj", "--json")
    assert (solved.returncode, solved.stderr) == (0, "")
    assert json.loads(solved.stdout)["model"] == "sellar"
    unsolved = command("solve", tmp_path / "none.toml", "--json")
    assert (unsolved.returncode, unsolved.stdout) == (1, "")
    assert re.fullmatch(r"lagrad: not solved: [^\n]*\n", unsolved.stderr)  # one message, and no warnings
    wrong = command("solve", tmp_path / "missing.toml")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no such file" in wrong.stderr
    for result in (unsolved, wrong):
        assert "Traceback" not in result.stderr


def test_a_reader_that_goes_away(sellar: Path):
    result = subprocess.run(
        f'"{sys.executable}" -m lagrad show "{sellar}" | head -n 1',
        shell=True, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.stdout == "sellar: 3 parameters, 3 states, 3 constraints\n"
    assert result.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device that is always full is Linux's")
def test_a_full_disk(sellar: Path):
    for options in ("", "--json"):
        result = subprocess.run(
            f'"{sys.executable}" -m lagrad solve "{sellar}" {options} > /dev/full',
            shell=True, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert result.stderr.startswith("lagrad: the output could not be written: ")


def test_a_terminal_without_unicode(sellar: Path):
    result = command("show", sellar, env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert "?_d1" in result.stdout


def test_control_c(tmp_path: Path):
    file = tmp_path / "slow.py"
    file.write_text("import sys, time\nprint('ready', file=sys.stderr, flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "lagrad", "solve", f"{file}:program"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err == "lagrad: interrupted\n"


@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_terminal(sellar: Path, no_color: bool):
    """Ruled tables on a terminal, and no control code at all with NO_COLOR."""
    leader, follower = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100"}
    if no_color:
        environment["NO_COLOR"] = "1"
    process = subprocess.Popen(
        [sys.executable, "-m", "lagrad", "solve", str(sellar), "--gradient", "obj"],
        stdout=follower,
        env=environment,
    )
    os.close(follower)
    pieces = []
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    assert process.wait(timeout=300) == 0
    os.close(leader)
    text = b"".join(pieces).decode()
    assert "25.5883023699" in text
    assert ("─" in text) is not no_color
    assert ("\x1b" in text) is not no_color


# -- fuzzing -------------------------------------------------------------------------------------------------
FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
WORDS = """
y1 y2 x z 0 -1 1e9 1e308 sqrt( log(x) exp(y1) / ** * - == < [0] lower guess inf nan [ ] " obj abs(y1) )
"""
PIECES = st.sampled_from([*WORDS.split(), "upper = -1", "shape = 2", "shape = 0", "\n"])


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(SELLAR)), st.integers(0, 10), PIECES), min_size=1, max_size=3))
def test_mutated_models_through_the_command(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    changes: list[tuple[int, int, str]],
):
    text = SELLAR
    for at, removed, piece in changes:
        text = text[:at] + piece + text[at + removed :]
    file = tmp_path_factory.getbasetemp() / "mutated.toml"
    file.write_text(text)
    start = time.perf_counter()
    status = main(["solve", str(file), "--gradient", "obj", "--json"])
    out, err = capsys.readouterr()
    assert time.perf_counter() - start < 120  # the first call may compile the kernels
    assert "Traceback" not in err
    assert "internal error" not in err, text
    if status == 0:
        found = json.loads(out, parse_constant=lambda c: pytest.fail(f"bare {c}"))
        assert found["certificate"]["residual"] <= 1e-9
        assert err == ""
    else:
        assert status in (1, 2)
        assert out == ""
        assert err.startswith("lagrad: ")
