"""Every exception class: raised as a user would meet it, its message read, its facts in fields, and documented."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lagrad as lg
from lagrad import errors

ROOT = Path(__file__).parents[1]
CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.LagradError)]
BASES = (errors.LagradError, errors.BlockError)


def root(residual: Callable[[Any, Any], Any], p: float, guess: float = 1.0) -> lg.System:
    program = lg.Program("root")
    x = program.parameter("p", p)
    y = program.state("y", guess=guess)
    program.constrain(residual(y, x), name="c")
    return lg.build(program)


def expression() -> None:
    if lg.Program().state("y") > 0.0:
        raise AssertionError("an expression has no truth value")


def shape() -> None:
    lg.Program().parameter("z", [1.0, 2.0]) + np.ones(3)


def declaration() -> None:
    program = lg.Program()
    program.state("level")
    program.parameter("level", 1.0)


def unknown() -> None:
    program = lg.Program()
    program.define("pressure", 2.0 * program.parameter("x", 1.0))
    lg.build(program).solve().gradient("presure")


def structural() -> None:
    program = lg.Program()
    x, _ = program.state("x"), program.state("idle")
    program.constrain(x == 1.0, name="first")
    program.constrain(x**2 == 1.0, name="second")
    lg.build(program)


def convergence() -> None:
    root(lambda y, p: y**2 + p == 0.0, 1.0).solve()


def evaluation() -> None:
    root(lambda y, p: lg.log(y) == p, 1.0, guess=-1.0).solve()


def singular() -> None:
    root(lambda y, p: y**3 == p, 0.0).solve(start={"y": 0.0}).gradient("y")


def ill_conditioned() -> None:
    program = lg.Program()
    p = program.parameter("p", 1.0)
    u = program.state("u", shape=10)
    hilbert = 1.0 / (np.arange(10)[:, None] + np.arange(10) + 1.0)
    program.constrain((hilbert @ hilbert) @ u == p * np.ones(10), name="hilbert")
    lg.build(program).solve().gradient("u[0]")


def not_a_solution() -> None:
    import dataclasses

    solution = root(lambda y, p: y**3 + y == p, 2.0).solve()
    dataclasses.replace(solution, v=solution.v * 1.001).gradient("y")


def kink() -> None:
    program = lg.Program()
    x = program.parameter("x", 0.0)
    program.define("y", abs(x) * x)
    lg.build(program).solve().hessian("y")


def certificate() -> None:
    program = lg.Program()
    x = program.parameter("x", 1e-300)
    y = program.define("y", 1e200 * x)
    program.define("z", 1e200 * y)
    lg.build(program).solve().gradient("z")


def model_file() -> None:
    from lagrad.frontends.model_file import load_model

    load_model("no such model.toml")


def comparison() -> None:
    program = lg.Program()
    program.define("y", 2.0 * program.parameter("x", 1.0))
    lg.to_callable(program, "tensorfow")


# what raises it; what the message must say, as a user looks for it; fields and what they hold
RAISED: dict[type[errors.LagradError], tuple[Callable[[], Any], list[str], dict[str, Any]]] = {
    errors.ExpressionError: (expression, ["truth value", "lg.where(condition, a, b)"], {}),
    errors.ShapeError: (shape, ["(2,)", "(3,)"], {}),
    errors.DeclarationError: (declaration, ["level", "already in use", "scope"], {"name": "level"}),
    errors.UnknownNameError: (
        unknown, ["'presure'", "Did you mean pressure?"], {"name": "presure", "known": ["pressure"]},
    ),
    errors.StructuralError: (
        structural,
        ["2 constraints, 2 states", "first, second", "Remove 1", "idle", "in no constraint"],
        {"over": [(["first", "second"], ["x"])], "under": [([], ["idle"])], "constraints": 2, "states": 2},
    ),
    errors.ConvergenceError: (
        convergence, ["constraints c", "states y", "residual", "guess"],
        {"block": 0, "constraints": ["c"], "states": ["y"]},
    ),
    errors.EvaluationError: (
        evaluation, ["constraint c", "not finite", "log", "guesses"], {"constraints": ["c"], "states": ["y"]},
    ),
    errors.SingularError: (
        singular, ["constraints c", "states y", "Move the parameters"], {"constraints": ["c"], "states": ["y"]},
    ),
    errors.IllConditionedError: (ill_conditioned, ["hilbert[0]", "u[0]", "reciprocal condition"], {"block": 0}),
    errors.NotASolutionError: (
        not_a_solution, ["constraint c", "residual", "should cancel", "at_any_point"], {"constraints": ["c"]},
    ),
    errors.KinkError: (kink, ["constraint y", "abs", "kink", "one_sided=True"], {"constraints": ["y"]}),
    errors.CertificateError: (
        certificate, ["adjoint", "backward error", "solution.certificate"], {"mode": "adjoint", "residual": np.inf},
    ),
    errors.ModelFileError: (
        model_file, ["no such model.toml", "no such file"], {"file": "no such model.toml", "entry": None},
    ),
    errors.ComparisonError: (
        comparison, ["tensorfow", "no such library", "autograd"], {"method": "tensorfow"},
    ),
}  # fmt: skip


def caught(what: Callable[[], Any]) -> errors.LagradError:
    with pytest.raises(errors.LagradError) as info:
        what()
    return info.value


def test_no_class_is_left_out() -> None:
    assert set(RAISED) == set(CLASSES) - set(BASES)


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
def test_the_message_says_what_is_wrong_and_the_fields_hold_it(kind: type[errors.LagradError]) -> None:
    what, words, fields = RAISED[kind]
    error = caught(what)
    assert type(error) is kind
    for word in words:
        assert word in str(error), str(error)
    for name, value in fields.items():
        assert getattr(error, name) == value
    assert "\n\n" not in str(error) and "None" not in str(error) and len(str(error)) < 1500


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_is_in_the_guide_with_its_fields(kind: type[errors.LagradError]) -> None:
    rows = re.findall(
        rf"^\| `{kind.__name__}` \|(.*)$", (ROOT / "docs/guide.md").read_text(encoding="utf-8"), re.M
    )
    assert len(rows) == 1 and kind.__doc__
    if kind not in RAISED:
        return
    own = {name for name in vars(caught(RAISED[kind][0])) if not name.startswith("_")}
    inherited = (
        {"block", "constraints", "states", "reason", "advice", "point"}
        if issubclass(kind, errors.BlockError)
        else set()
    )
    told = set(re.findall(r"`(\w+)`", rows[0]))
    assert own - inherited <= told | {"place", "message"}, own - inherited - told


def test_errors_of_python_are_their_bases() -> None:
    """Code that knows nothing of lagrad catches them as what they are."""
    for what, base in (
        (expression, TypeError),
        (shape, ValueError),
        (declaration, ValueError),
        (unknown, KeyError),
    ):
        assert isinstance(caught(what), base)


def test_what_was_tried_is_in_the_error() -> None:
    error = caught(convergence)
    assert isinstance(error, errors.ConvergenceError)
    methods = [attempt.method for attempt in error.attempts]
    assert methods[0] == "newton" and len(methods) > 1 and set(error.values) == {"y"}
    assert np.isfinite(error.values["y"])
    assert error.point.shape == (2,) and error.point[0] == 1.0


def test_the_condition_is_in_the_error() -> None:
    error = caught(ill_conditioned)
    assert isinstance(error, errors.IllConditionedError) and 0.0 < error.rcond < 1e-14


def test_a_field_keeps_what_a_message_shortens() -> None:
    program = lg.Program()
    x = program.state("x")
    for k in range(40):
        program.constrain(x * (k + 1.0) == 1.0, name=f"row {k}")
    with pytest.raises(errors.StructuralError) as info:
        lg.build(program)
    assert "and 34 more" in str(info.value) and len(info.value.over[0][0]) == 40


def test_messages_survive_a_process_boundary_in_a_batch() -> None:
    """solve_many keeps errors by lane; a Solution's certificate crosses process boundaries whole."""
    system = root(lambda y, p: y**2 == p, 4.0)
    batch = system.solve_many({"p": [4.0, -4.0]})
    assert list(batch.errors) == [1] and "c" in str(batch.errors[1])
    certificate = pickle.loads(pickle.dumps(system.solve().gradient("y"))).certificate
    assert certificate.mode == "adjoint" and certificate.kinks == []


def test_errors_of_another_process_come_whole() -> None:
    program = lg.Program("r")
    x, y = program.parameter("x", -1.0), program.state("y", guess=1.0)
    program.constrain(y * y == x, name="law")
    with pytest.raises(lg.LagradError) as caught:
        lg.build(program).solve(ladder=False)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value) and str(again) == str(caught.value)
    assert again.constraints == caught.value.constraints == ["law"] or tuple(again.constraints) == ("law",)


@pytest.mark.parametrize("bad", ["a", [1 + 1j], [[1.0], [2.0, 3.0]]], ids=["text", "complex", "ragged"])
def test_a_system_function_says_what_it_cannot_take(bad: Any) -> None:
    program = lg.Program("square")
    x = program.parameter("x", 1.0)
    program.define("y", x * x)
    function = lg.build(program).function("y")
    with pytest.raises(lg.errors.DeclarationError, match="is not an array of real numbers"):
        function(bad)
    assert function([3.0])[1].item() == 6.0


def test_a_callable_takes_parameters_by_name() -> None:
    program = lg.Program("square")
    x = program.parameter("x", 1.0)
    program.define("y", x * x)
    with pytest.raises(lg.errors.ComparisonError, match=r"takes \{parameter: value\}, not a ndarray"):
        program.to_callable("numpy")(np.ones(1))


def test_an_integer_of_thousands_of_digits(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text(f'[parameters]\nx = 1.0\n[definitions]\nf = "x + {"9" * 5000}"\n')
    with pytest.raises(lg.LagradError, match=r"thousands of digits(.|\n)*Write it with an exponent"):
        lg.load_model(file)
