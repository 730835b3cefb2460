"""Many points at once, from several threads, through pickle: the same bits as one call after the other."""

import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest

import lagrad as lg
from lagrad import batch, threads
from lagrad.assembly.machine import WIDE, rows_jacobian
from lagrad.errors import DeclarationError, LagradError, ShapeError


def sellar() -> lg.Program:
    program = lg.Program("sellar")
    z = program.parameter("z", [5.0, 2.0])
    x = program.parameter("x", 1.0)
    y1, y2 = program.state("y1", guess=1.0), program.state("y2", guess=1.0)
    program.constrain(y1 == z[0] ** 2 + z[1] + x - 0.2 * y2, name="d1")
    program.constrain(y2 == lg.sqrt(y1) + z[0] + z[1], name="d2")
    program.define("obj", x**2 + z[1] + y1 + lg.exp(-y2))
    return program


def points(lanes: int) -> np.ndarray:
    return np.array([5.0, 2.0]) + 0.4 * np.random.default_rng(3).standard_normal((lanes, 2))


@pytest.mark.parametrize("dense_max", [1, 48], ids=["sparse", "dense"])
def test_every_lane_is_what_a_single_solve_gives(dense_max: int) -> None:
    system, z = lg.build(sellar(), dense_max=dense_max), points(9)
    batch = system.solve_many({"z": z, "x": 0.5}, of=["obj", "y2"])
    assert batch.ok.all() and len(batch) == 9 and batch["z"].shape == (9, 2)
    for lane in range(9):
        solution = system.solve({"z": z[lane], "x": 0.5})
        np.testing.assert_allclose(batch["y1"][lane], solution["y1"], rtol=1e-15)
        single = solution.jacobian(["obj", "y2"])
        for key in single:
            np.testing.assert_allclose(batch.jacobian[key][lane], single[key], rtol=1e-13)


@pytest.mark.parametrize("dense_max", [1, 48], ids=["sparse", "dense"])
def test_a_bad_lane_neither_stops_nor_poisons_the_others(dense_max: int) -> None:
    system, z = lg.build(sellar(), dense_max=dense_max), points(1000 if dense_max > 1 else 20)
    clean = system.solve_many({"z": z}, of=["obj"])
    z = z.copy()
    z[7] = np.nan
    z[11] = [-5.0, -300.0]
    batch = system.solve_many({"z": z}, of=["obj"])
    bad = np.flatnonzero(~batch.ok)
    assert sorted(batch.errors) == bad.tolist() and 7 in batch.errors and 11 in batch.errors
    assert "z" in str(batch.errors[7]) and "d1" in str(batch.errors[11])
    assert np.isnan(batch["obj"][bad]).all() and np.isnan(batch.jacobian["obj", "z"][bad]).all()
    good = np.setdiff1d(np.arange(len(z)), bad)
    assert good.size == len(z) - 2
    assert np.array_equal(batch["obj"][good], clean["obj"][good])
    assert np.array_equal(batch.jacobian["obj", "z"][good], clean.jacobian["obj", "z"][good])


def test_lanes_shared_between_threads_give_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    system, z = lg.build(sellar()), points(300)
    z[40], z[299] = np.nan, [-5.0, -300.0]
    alone = system.solve_many({"z": z}, of=["obj"], threads=1)
    began = threading.Barrier(3, timeout=60)  # three threads at once, or this breaks and the lanes with it
    ran: set[str] = set()
    lanes = batch.solve_lanes

    def counted(*arguments: object) -> object:
        name = threading.current_thread().name
        if name not in ran and len(arguments[-1]) > batch.PROBE:  # a piece, not the first few lanes
            ran.add(name)
            began.wait()
        return lanes(*arguments)

    monkeypatch.setattr(batch, "THREADS_PAY", 0.0)
    monkeypatch.setattr(batch, "solve_lanes", counted)
    shared = system.solve_many({"z": z}, of=["obj"], threads=3)
    assert len(ran) == 3 and shared.errors.keys() == alone.errors.keys() == {40, 299}
    assert np.array_equal(shared["y1"], alone["y1"], equal_nan=True)
    assert np.array_equal(shared.jacobian["obj", "z"], alone.jacobian["obj", "z"], equal_nan=True)
    with pytest.raises(DeclarationError, match="threads"):
        system.solve_many({"z": z}, threads=0)


def test_little_work_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a thread was started")

    system, z = lg.build(sellar()), points(40)
    system.solve_many({"z": z}, of=["obj"])  # what has to be compiled or loaded, is
    monkeypatch.setattr(threads, "_kept", refuse)
    assert system.solve_many({"z": z}, of=["obj"], threads=8).ok.all()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_is_heard_between_pieces_of_the_lanes(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    system = lg.build(sellar())
    z = np.tile([5.0, 2.0], (400, 1))
    whole, pieces = batch.solve_lanes, []

    def interrupted(*arguments: Any) -> None:
        pieces.append(None)
        if len(pieces) == 3:
            raise KeyboardInterrupt
        time.sleep(0.005 * (len(pieces) > 3))
        whole(*arguments)

    monkeypatch.setattr(batch, "solve_lanes", interrupted)
    monkeypatch.setattr(batch, "PATIENCE", 1e-9)
    monkeypatch.setattr(batch, "THREADS_PAY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        system.solve_many({"z": z}, threads=threads)
    assert 3 <= len(pieces) < 100


def test_batches_that_make_no_sense_are_refused() -> None:
    system = lg.build(sellar())
    with pytest.raises(DeclarationError, match="leading batch axis"):
        system.solve_many({"z": [1.0, 2.0]})
    with pytest.raises(ShapeError, match="as many lanes"):
        system.solve_many({"z": points(3), "x": [1.0, 2.0]})
    with pytest.raises(ShapeError, match="z"):
        system.solve_many({"z": np.ones((3, 4))})
    assert len(system.solve_many({"z": np.empty((0, 2))})) == 0


@pytest.mark.parametrize("dense_max", [1, 48], ids=["sparse", "dense"])
def test_eight_threads_give_the_bits_of_one(dense_max: int) -> None:
    system, z = lg.build(sellar(), dense_max=dense_max), points(64)

    def run(p: np.ndarray) -> tuple[bytes, bytes]:
        solution = system.solve({"z": p})
        return solution.v.tobytes(), np.asarray(solution.gradient("obj")["z"]).tobytes()

    alone = [run(p) for p in z]
    together: list[tuple[bytes, bytes] | None] = [None] * len(z)

    def work(first: int) -> None:
        for i in range(first, len(z), 8):
            together[i] = run(z[i])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


@pytest.mark.parametrize("dense_max", [1, 48], ids=["sparse", "dense"])
def test_a_system_survives_pickling(dense_max: int) -> None:
    system = lg.build(sellar(), dense_max=dense_max)
    copy = pickle.loads(pickle.dumps(system))
    assert repr(copy) == repr(system)
    one, other = system.solve({"x": 2.0}), copy.solve({"x": 2.0})
    assert one.v.tobytes() == other.v.tobytes()
    assert np.array_equal(one.gradient("obj")["z"], other.gradient("obj")["z"])


def test_a_system_function_survives_pickling_after_calls() -> None:
    """It holds machine code by then, which another process could not read."""
    function = lg.build(sellar()).function(of=["obj", "y1"])
    points = [[5.0, 2.0, 1.0], [4.9, 2.1, 0.9], [5.1, 2.2, 1.1]]
    for p in points[:2]:
        function(p)
    copy = pickle.loads(pickle.dumps(function))
    for one, other in zip(function(points[2]), copy(points[2]), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_system_does_not_change() -> None:
    system = lg.build(sellar())
    with pytest.raises(AttributeError, match="does not change"):
        object.__getattribute__(system, "__setattr__")("layout", None)
    with pytest.raises(LagradError):
        system.solve(start=lg.build(sellar()).solve())


@pytest.mark.parametrize("rows", [7, 8, 63, 64, 65, 150])
def test_rows_that_are_alike_give_the_bits_that_each_gives_alone(rows: int) -> None:
    """Alike by templates: with a sum in each, with edges (sqrt at 0 behind a zero), and interrupted by another row."""
    program = lg.Program("rows")
    p = program.parameter("p", np.linspace(0.0, 2.0, rows))
    y = program.state("y", shape=rows, guess=0.5)
    after = 0.1 * np.arange(1.0, rows + 1) * lg.cos(np.roll(y, -1) * p)
    program.constrain(y == 0.3 * p * lg.sqrt(p) + after / rows + p[0] * y**2, name="y")
    program.define("total", lg.sum(y))
    system = lg.build(program, dense_max=rows + 1)
    machine, v = system.layout.machine, system.solve().v
    found = []
    for size in (machine.registers, (machine.registers + 1) * WIDE):
        out, magnitude, data = np.empty(machine.n), np.empty(machine.n), np.empty(machine.nnz)
        rows_jacobian(
            np.int64(0), np.int64(machine.n), machine.tapes, machine.terms, machine.rows, machine.nnz_u,
            np.full(size, np.nan), np.full(size, np.nan), v, out, magnitude, data,
        )  # fmt: skip
        found.append((out, magnitude, data))
    for one, together in zip(*found, strict=True):
        assert one.tobytes() == together.tobytes()
    at_zero = found[1][2][machine.nnz_u :][machine.rows.b_ptr[0] : machine.rows.b_ptr[1]]
    assert np.isnan(at_zero).any() == np.isnan(machine.jacobian(v)[2]).any()
