"""The benchmarks in sizes that take no time: every case runs, every peer that is installed agrees."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_files import ROOT

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
cases = importlib.import_module("benchmarks.cases")
harness = importlib.import_module("benchmarks.harness")
memory = importlib.import_module("benchmarks.memory")
report = importlib.import_module("benchmarks.report")

Entrant, Work, Case, Goal = harness.Entrant, harness.Work, harness.Case, harness.Goal
IN_PROCESS = [name for name in cases.NAMES if name != "start"]


def measured(case: Any, size: Any, rounds: int = 2) -> Any:
    return harness.measure(case, size, budget=0.0, rounds=rounds, log=lambda _: None)


@pytest.mark.parametrize("name", IN_PROCESS)
def test_every_peer_gives_the_answers_of_lagrad(name: str) -> None:
    case = cases.case(name)
    found = measured(case, case.small)
    assert found.refused == []
    compared = [gap for peers in found.differences.values() for gap in peers.values()]
    assert compared, "no answer was compared with any peer's"
    assert max(compared) <= 1e-8
    for phase, entrants in found.times.items():
        assert all(value > 0.0 for samples in entrants.values() for value in samples.values()), phase


def test_difference_is_relative_to_the_largest_component() -> None:
    exact = {"value": 2.0, "gradient": [1e6, 1.0]}
    assert harness.difference(exact, exact) == 0.0
    assert harness.difference({"gradient": [1e6, 1.5]}, exact) == pytest.approx(0.5e-6)
    assert harness.difference({"value": 2.2, "gradient": [1e6, 1.0]}, exact) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "ours",
    [{"value": math.nan}, {"value": [2.0, 2.0]}, {"other": 2.0}, {}],
    ids=["nan", "shape", "name", "none"],
)
def test_nothing_comparable_is_no_agreement(ours: dict[str, Any]) -> None:
    assert harness.difference(ours, {"value": 2.0}) == math.inf


def test_two_zeros_are_no_agreement() -> None:
    """A gradient that has vanished everywhere shows nothing."""
    assert harness.difference({"gradient": [0.0, 0.0]}, {"gradient": [0.0, 0.0]}) == math.inf


def fake(log: list[str], peer_answer: float, goals: tuple[Any, ...] = ()) -> Any:
    """Two entrants: ours takes 2 ms, the peer 1 ms, and every run leaves its name in the log."""

    def entrant(name: str, answer: float, seconds: float) -> Any:
        def run(_: Any) -> dict[str, Any]:
            log.append(name)
            time.sleep(seconds)
            return {"value": answer, "seconds": seconds}

        return Entrant(name, {"declare": lambda _: time.sleep(seconds)}, {"value": Work(run)})

    return Case(
        name="fake", summary="", unit="unit", sizes=(1,), quick=(1,), small=1, goals=goals, memory=False,
        entrants=lambda _: [entrant("lagrad", 1.0, 0.002), entrant("peer", peer_answer, 0.001)],
    )  # fmt: skip


def test_entrants_are_timed_in_turn_and_ratios_are_of_medians() -> None:
    log: list[str] = []
    found = harness.measure(fake(log, 1.0), 1, budget=10.0, rounds=3, log=lambda _: None)
    names = [name for k, name in enumerate(log) if k == 0 or log[k - 1] != name]
    assert names[-6:] == ["lagrad", "peer"] * 3
    assert found.ratio("value", "peer") == pytest.approx((2.0, 2.0, 2.0))
    ratio, low, high = found.ratio("declare", "peer")
    assert 0.0 < low <= ratio <= high


def test_a_peer_that_disagrees_is_not_timed() -> None:
    found = measured(fake([], 1.0 + 2e-8), 1)
    assert found.times["value"].keys() == {"lagrad"}
    assert found.times["declare"].keys() == {"lagrad"}
    assert len(found.refused) == 1 and "peer, value" in found.refused[0]


def test_goals_say_whether_they_are_met() -> None:
    goals = (Goal("value", 1.5, "peer"), Goal("value", 3.0, "peer"), Goal("value", 0.01))
    found = measured(fake([], 1.0, goals), 1)
    assert [report.reached(goal, found)[1] for goal in goals] == [False, True, True]
    assert report.reached(Goal("value", 1.0, "absent"), found) is None
    assert report.reached(Goal("value", 1.0, "peer", sizes=(2,)), found) is None


def test_points_are_taken_one_after_the_other() -> None:
    seen: list[int] = []
    work = Work(lambda _, point: seen.append(point) or {"value": point}, (10, 20, 30))
    harness.sample(work, None, 2)
    harness.sample(work, None, 3, 2)
    assert seen == [10, 20, 30, 10, 20]


def test_what_comes_before_is_not_timed() -> None:
    work = Work(lambda _, made: {"value": made}, before=lambda _: time.sleep(0.05) or 7)
    seconds, answer = harness.sample(work, None, 1)
    assert answer == {"value": 7} and seconds < 0.04


def test_exponent_of_a_power_law() -> None:
    counts = [1e4, 1e5, 1e6]
    assert harness.exponent(counts, [3e-9 * n**1.25 for n in counts]) == pytest.approx(1.25)
    assert math.isnan(harness.exponent([1e4], [1.0]))


def test_high_water_sees_what_was_held() -> None:
    before = memory.high_water()
    held = np.ones(int(before / 8) + 10_000_000)
    assert memory.high_water() >= held.nbytes
    del held
    assert memory.high_water() >= before


def test_peak_of_one_entrant_in_its_own_process() -> None:
    peak = memory.peak(cases.case("wide"), 20_000, "numpy")
    assert peak is not None
    assert peak["total"] > peak["loaded"] > 1e6
    assert memory.peak(cases.case("wide"), 20_000, "nobody") is None


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--case", "tiny", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tiny" in done.stdout and "numpy" in done.stdout
    written = json.loads(file.read_text())
    assert written["about"]["versions"]["numpy"] == np.__version__
    (case,) = written["cases"]
    ratio = case["ratios"]["solve+gradient"]["numpy"]
    assert ratio["ratio"] > 0.0
    assert len(case["seconds"]["solve+gradient"]["lagrad"]["samples"]) >= 2


def test_a_case_that_does_not_exist() -> None:
    command = [sys.executable, "-m", "benchmarks", "--case", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'nothing'" in done.stderr


def test_the_price_of_a_gradient_is_taken_against_its_own_value() -> None:
    found = harness.Measured("dag", 1_000, 1_000)
    found.times = {
        "value": {"lagrad": {0: 1.0, 1: 2.0, 2: 2.0}, "peer": {0: 1.0}, "half": {0: 1.0}},
        "value+gradient": {"lagrad": {0: 5.0, 1: 5.0, 2: 5.0}, "peer": {0: 4.0}},
    }
    ratios = report.cheap([(cases.case("dag"), found)])
    assert ratios == {"dag": {1_000: {"lagrad": 2.5, "peer": 4.0}}}
    assert report.cheap_table(ratios).row_count == 1
    assert report.cheap_table({}) is None


def test_methods_times_problems() -> None:
    from benchmarks import optimise

    found = optimise.rows(["HS7"])
    assert set(found) == {("HS7", method) for method in (*optimise.OURS, *optimise.PEERS)}
    for row in found.values():
        assert row["outcome"] == "solved" and row["x"] < 1e-5
    # a point elsewhere is not counted, nor one that the method itself gave up
    assert optimise._judged(True, 3, 0.1, None)["outcome"] == "elsewhere"
    assert optimise._judged(False, 3, 0.0, None)["outcome"] == "refused"
