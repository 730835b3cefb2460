"""What the calls of a System and a Solution take: names, expressions in their place, one or several; nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lagrad as lg
from lagrad.errors import DeclarationError, ShapeError


class Model:
    """y**2 == alpha, w == sum(y) * beta: dw/dbeta = sum(y), dw/dalpha = beta / (2 y)."""

    def __init__(self) -> None:
        program = lg.Program("arguments")
        self.alpha, self.beta = program.parameter("alpha", [4.0, 9.0]), program.parameter("beta", 0.5)
        self.y = program.state("y", shape=2)
        program.constrain(self.y**2 == self.alpha, name="square")
        self.total = program.define("total", self.y.sum() * self.beta)
        self.table = program.define("table", self.y[:, None] * np.ones(2))
        self.system = lg.build(program)
        self.solution = self.system.solve()


def test_one_name_is_a_list_of_one() -> None:
    solution = Model().solution
    gradient = solution.gradient("total", wrt="alpha")
    assert list(gradient) == ["alpha"]
    np.testing.assert_allclose(gradient["alpha"], [0.125, 0.5 / 6.0], rtol=1e-14)
    assert list(solution.jacobian("total", "alpha")) == [("total", "alpha")]
    assert list(solution.hessian("total", "beta")) == [("beta", "beta")]


def test_expressions_stand_for_what_they_are_made_of() -> None:
    model = Model()
    solution = model.solution
    assert float(solution[model.beta]) == 0.5
    assert solution[model.alpha[::-1]].tolist() == [9.0, 4.0]
    assert solution[model.y[1:]].tolist() == [3.0]
    (slope,) = solution.gradient(model.total, wrt=model.alpha[1]).values()
    assert float(slope) == pytest.approx(0.5 / 6.0, rel=1e-14)
    assert list(solution.jacobian(model.y, model.beta)) == [(model.y, model.beta)]
    np.testing.assert_allclose(solution.jvp({model.beta: 2.0})["total"], 10.0)
    moved = model.system.solve({model.alpha[0]: 16.0, "beta": 1.0}, start={model.y[1]: 2.0})
    assert moved["y"].round(12).tolist() == [4.0, 3.0]
    assert float(moved["total"]) == pytest.approx(7.0)


def test_batches_and_branches_take_what_a_solution_takes() -> None:
    model = Model()
    batch = model.system.solve_many({model.beta: [1.0, 2.0]}, of="total", wrt="beta")
    assert batch[model.beta].tolist() == [1.0, 2.0] and batch["alpha[1]"].tolist() == [9.0, 9.0]
    assert batch[model.total].round(12).tolist() == [5.0, 10.0]
    assert batch.jacobian["total", "beta"].round(12).ravel().tolist() == [5.0, 5.0]
    branch = model.system.continuation("beta", to=1.0)
    assert branch[model.beta][[0, -1]].tolist() == [0.5, 1.0]


def test_what_a_person_sees_is_short() -> None:
    model = Model()
    assert repr(model.solution.report) == str(model.solution.report)
    assert (
        repr(model.system.function("total", "beta")) == "SystemFunction: (beta) -> (total) and its Jacobian"
    )
    batch = model.system.solve_many({"beta": [1.0, 2.0]})
    assert repr(batch) == "Batch of 'arguments': 2 lanes, 0 failed"
    for thing in (model.system, model.solution, model.solution.layout, model.solution.linearization):
        assert len(repr(thing)) < 500


MISTAKES: dict[str, tuple[Callable[[Model], Any], type[Exception], str]] = {
    "mode": (lambda k: k.solution.jacobian(["y"], mode="reverse"), DeclarationError, "'adjoint' nor 'tangent'"),
    "an array": (lambda k: k.solution.gradient("table"), ShapeError, r"table\[0,0\]"),
    "parameters as a list": (lambda k: k.system.solve([1.0, 2.0]), DeclarationError, "{name: value}"),
    "a direction as a list": (lambda k: k.solution.jvp([1.0, 2.0]), DeclarationError, "{name: value}"),
    "weights as a list": (lambda k: k.solution.vjp([1.0]), DeclarationError, "{name: value}"),
    "lanes as a list": (lambda k: k.system.solve_many([1.0]), DeclarationError, "{name: value}"),
    "a start as a list": (lambda k: k.system.solve(start=[1.0]), DeclarationError, "{name: value}"),
    "a parameter twice": (lambda k: k.system.function("total", ["beta", "beta"]), DeclarationError, "twice"),
    "a parameter and a part of it": (
        lambda k: k.system.function("total", ["alpha", "alpha[1]"]), DeclarationError, "twice",
    ),
    "a state as a parameter": (lambda k: k.solution.gradient("total", wrt=k.y), DeclarationError, "parameters"),
    "no program": (lambda k: lg.build(k), DeclarationError, "a Program was expected"),
    "dense_max in words": (
        lambda k: lg.build(lg.Program("p"), dense_max="many"), DeclarationError, "dense_max: 'many' is not a whole",
    ),
    "two libraries": (
        lambda k: lg.build(lg.Program("p"), linear=["klu"]), DeclarationError, r"linear: \['klu'\] is none of",
    ),
    "a tolerance in words": (lambda k: k.system.solve(tolerance="low"), DeclarationError, "tolerance: 'low' is not"),
    "a limit in words": (lambda k: k.system.solve(time_limit="1 s"), DeclarationError, "time_limit: '1 s' is not"),
    "a number of lines": (lambda k: k.system.solve(progress=3), DeclarationError, "progress: 3 is not"),
    "a goal in words": (lambda k: k.system.continuation("beta", to="a"), DeclarationError, "to: 'a' is not"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told(case: str) -> None:
    action, kind, words = MISTAKES[case]
    with pytest.raises(kind, match=words):
        action(Model())
