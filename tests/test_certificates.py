"""Certificates: what they claim is held against arithmetic of 80 digits, and kinks against their one-sided limits."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

import lagrad as lg
from lagrad.errors import CertificateError, DeclarationError, IllConditionedError, LagradError, SingularError

Program = tuple[lg.Program, Callable[[np.ndarray], dict[str, mpmath.matrix]]]


# -- the claimed bound of a gradient's error -------------------------------------------------------------------
def random_system(seed: int, condition: float, nonlinear: bool) -> Program:
    """A u + c sin(u) == B p + d with a Jacobian of this condition number near a root; J = Σ u²/2 and its gradient."""
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 10))
    left, right = (np.linalg.qr(random.standard_normal((n, n)))[0] for _ in range(2))
    c = random.standard_normal(n) if nonlinear else np.zeros(n)
    u0, p0, b = random.standard_normal(n), random.standard_normal(3), random.standard_normal((n, 3))
    a = left @ np.diag(np.logspace(0.0, -np.log10(condition), n)) @ right - np.diag(c * np.cos(u0))
    d = a @ u0 + c * np.sin(u0) - b @ p0
    program = lg.Program("random")
    p = program.parameter("p", p0)
    u = program.state("u", u0 * (1.0 + 1e-3 / condition * random.standard_normal(n)))
    program.constrain(a @ u + c * lg.sin(u) == b @ p + d, name="eq")
    program.define("J", 0.5 * lg.sum(u * u))

    def exact(near: np.ndarray) -> dict[str, mpmath.matrix]:
        """Derivatives of J and u at the root that Newton's method in 80 digits finds from `near`."""
        matrix, by_p = mpmath.matrix(a.tolist()), mpmath.matrix(b.tolist())
        rest = by_p * mpmath.matrix(p0.tolist()) + mpmath.matrix(d.tolist())
        at = mpmath.matrix(near.tolist())
        for _ in range(40):
            jacobian = matrix + mpmath.diag([mpmath.mpf(c[i]) * mpmath.cos(at[i]) for i in range(n)])
            value = (
                matrix * at - rest + mpmath.matrix([mpmath.mpf(c[i]) * mpmath.sin(at[i]) for i in range(n)])
            )
            step = mpmath.lu_solve(jacobian, value)
            at -= step
            if mpmath.norm(step) < mpmath.mpf(10) ** -60:
                lam = mpmath.lu_solve(jacobian.T, at)
                u_p = mpmath.matrix(n, 3)
                for j in range(3):
                    u_p[:, j] = mpmath.lu_solve(jacobian, by_p[:, j])
                # (A + diag(c cos u)) u_pq = c sin(u) u_p u_q, and J_pq = u_pᵀ u_q + uᵀ u_pq
                bend = mpmath.diag([lam[i] * mpmath.mpf(c[i]) * mpmath.sin(at[i]) for i in range(n)])
                one = mpmath.matrix([1, 1, 1])
                hessian = u_p.T * u_p + u_p.T * bend * u_p
                return {
                    "gradient": by_p.T * lam, "multipliers": lam, "jacobian": u_p, "jvp": u_p * one,
                    "vjp": by_p.T * lam, "hessian": hessian, "hvp": hessian * one,
                }  # fmt: skip
        raise AssertionError("80 digits find no root there")

    return program, exact


@pytest.mark.parametrize("nonlinear", [False, True], ids=["linear", "nonlinear"])
@pytest.mark.parametrize("exponent", range(17))
def test_the_true_error_stays_within_the_claimed_bound_or_the_call_refuses(
    exponent: int, nonlinear: bool
) -> None:
    """Conditions from 1 to 1e16, dense and sparse blocks; bounds are no larger than they need to be."""
    certified, sharp = 0, []
    with mpmath.workdps(80):
        for k in range(5):
            program, exact = random_system(1000 * exponent + k, 10.0**exponent, nonlinear)
            try:
                solution = lg.build(program, dense_max=(1, 48)[k % 2]).solve()
                gradient = solution.gradient("J")
            except LagradError:
                assert exponent >= 7 or not nonlinear or exponent >= 13
                continue
            certified += 1
            bound = gradient.certificate.gradient_error
            assert bound is not None
            if not np.isfinite(bound["p"]).all():
                assert exponent >= 7
                continue
            truth = list(exact(solution["u"])["gradient"])
            error = np.array(
                [abs(float(g - mpmath.mpf(float(x)))) for g, x in zip(truth, gradient["p"], strict=True)]
            )
            assert (error <= bound["p"]).all(), (error, bound["p"])
            size = max(abs(float(g)) for g in truth)
            sharp.append(float(bound["p"].max()) / size)
    if exponent <= 6:
        assert certified == 5
        if not nonlinear:
            assert max(sharp) < 1e-11 * 10.0**exponent
    if exponent == 16:
        assert certified == 0


def test_bounds_are_there_for_gradient_vjp_and_jacobian_alike() -> None:
    program, _ = random_system(5, 1e3, True)
    solution = lg.build(program).solve()
    one = solution.gradient("J").certificate.gradient_error
    weighted = solution.vjp({"J": 1.0}).certificate.gradient_error
    matrix = solution.jacobian(["J", "u"]).certificate.gradient_error
    assert one is not None and weighted is not None and matrix is not None
    np.testing.assert_array_equal(one["p"], weighted["p"])
    np.testing.assert_array_equal(one["p"], matrix["J", "p"][0])
    assert matrix["u", "p"].shape == (*solution["u"].shape, 3) and (matrix["u", "p"] > 0.0).all()


MODES: dict[str, Callable[[lg.Solution], tuple[Any, Any]]] = {
    "gradient": lambda s: (s.gradient("J"), "p"),
    "multipliers": lambda s: (s.multipliers("J"), "eq"),
    "jacobian": lambda s: (s.jacobian(["u"]), ("u", "p")),
    "jvp": lambda s: (s.jvp({"p": np.ones(3)}), "u"),
    "vjp": lambda s: (s.vjp({"J": 1.0}), "p"),
    "hessian": lambda s: (s.hessian("J"), ("p", "p")),
    "hvp": lambda s: (s.hvp("J", {"p": np.ones(3)}), "p"),
}


@pytest.mark.parametrize("exponent", range(17))
def test_every_derivative_stays_within_what_its_certificate_says_or_is_refused(exponent: int) -> None:
    certified = 0
    with mpmath.workdps(80):
        for k in range(2):
            program, exact = random_system(7000 * exponent + k, 10.0**exponent, True)
            try:
                solution = lg.build(program, dense_max=(1, 64)[k % 2]).solve()
            except LagradError:
                assert exponent >= 7
                continue
            truths: dict[str, mpmath.matrix] = {}
            for mode, ask in MODES.items():
                try:
                    found, key = ask(solution)
                except LagradError:
                    assert exponent >= 7
                    continue
                errors = found.certificate.gradient_error
                assert errors is not None and errors.keys() == found.keys()
                bound = np.ravel(errors[key])
                assert np.shape(errors[key]) == np.shape(found[key])
                if not np.isfinite(bound).all():  # there may be no root near to this point
                    assert exponent >= 7
                    continue
                truths = truths or exact(solution["u"])
                truth = list(truths[mode])
                for got, exactly, most in zip(np.ravel(found[key]), truth, bound, strict=True):
                    assert abs(mpmath.mpf(float(got)) - exactly) <= most, (mode, k)
                size = max(abs(float(x)) for x in truth)
                if exponent <= 2:
                    assert bound.max() <= 1e-8 * size, mode  # no larger than it need be
                certified += 1
    if exponent <= 6:
        assert certified == 2 * len(MODES)
    if exponent == 16:
        assert certified == 0


@pytest.mark.parametrize("mode", MODES)
def test_strict_refuses_what_the_bounds_do_not_vouch_for(mode: str) -> None:
    calls: dict[str, Callable[..., Any]] = {
        "gradient": lambda s, **o: s.gradient("J", **o),
        "multipliers": lambda s, **o: s.multipliers("J", **o),
        "jacobian": lambda s, **o: s.jacobian(["u"], **o),
        "jvp": lambda s, **o: s.jvp({"p": np.ones(3)}, **o),
        "vjp": lambda s, **o: s.vjp({"J": 1.0}, **o),
        "hessian": lambda s, **o: s.hessian("J", **o),
        "hvp": lambda s, **o: s.hvp("J", {"p": np.ones(3)}, **o),
    }
    ask = calls[mode]
    good = lg.build(random_system(5, 10.0, True)[0]).solve()
    ask(good, strict=True)
    with pytest.raises(
        CertificateError, match=r"not certified as strictly as asked.*may be wrong by"
    ) as caught:
        ask(good, strict=1e-17)
    assert caught.value.limit == 1e-17 < caught.value.residual and caught.value.where
    for nonsense in (0.0, 2.0, "high"):
        with pytest.raises(DeclarationError, match="strict"):
            ask(good, strict=nonsense)


def test_strict_refuses_where_default_only_tells() -> None:
    """Kepler's equation at 1e12, of which E keeps 4 digits of its phase; and abs at 0."""
    program = lg.Program("kepler")
    mean = program.parameter("M", 1e12)
    anomaly = program.state("E", guess=1e12)
    program.constrain(anomaly - 0.6 * lg.sin(anomaly) == mean)
    solution = lg.build(program).solve()
    assert np.isfinite(solution.gradient("E")["M"])
    with pytest.raises(CertificateError, match="M: not certified"):
        solution.gradient("E", strict=True)
    program = lg.Program("kink")
    x = program.parameter("x", 0.0)
    program.define("y", abs(x))
    solution = lg.build(program).solve()
    assert solution.gradient("y")["x"] == 1.0
    with pytest.raises(CertificateError, match="one-sided"):
        solution.gradient("y", strict=True)


def test_a_phase_of_which_no_digit_is_known_has_no_certified_gradient() -> None:
    """Kepler's equation at M = 1e16: neighbouring doubles E are 2 radians apart."""
    program = lg.Program("kepler")
    mean = program.parameter("M", 1e16)
    anomaly = program.state("E", guess=1e16)
    program.constrain(anomaly - 0.6 * lg.sin(anomaly) == mean)
    try:
        gradient = lg.build(program).solve().gradient("E")
    except SingularError as error:
        assert "E" in str(error)
    else:
        bound = gradient.certificate.gradient_error
        assert bound is not None and bound["M"] > 0.1 * abs(gradient["M"])


@pytest.mark.parametrize("dense_max", [64, 1], ids=["dense", "sparse"])
@pytest.mark.parametrize("size", [1e15, 1e20, 1e100])
def test_the_reason_is_rounding_where_it_is_no_multiple_root(size: float, dense_max: int) -> None:
    """1 - 0.6 cos(E) is 0.4 at least: Kepler's equation has no multiple root. At 1e15 E is known to 1/8 radian.

    Two of them, each with the other's anomaly, so that the block is one of two.
    """
    program = lg.Program("kepler")
    mean = program.parameter("M", size)
    one, two = program.state("E", guess=size), program.state("F", guess=2.0 * size)
    program.constrain(one - 0.6 * lg.sin(two) == mean, name="kepler")
    program.constrain(two - 0.5 * lg.sin(one) == 2.0 * mean, name="kepler too")
    with pytest.raises(SingularError, match="known to their last digits only") as caught:
        lg.build(program, dense_max=dense_max).solve().gradient("E")
    assert "multiple" not in str(caught.value) and caught.value.states == ["E", "F"]
    assert "Restate the block" in caught.value.advice


def test_a_multiple_root_is_called_one_where_a_difference_keeps_its_digits() -> None:
    """(y - 1)**9 = 0: y is found to its last digits, and yet the Jacobian vanishes there."""
    program = lg.Program("ninefold")
    p = program.parameter("p", 0.0)
    y = program.state("y", guess=0.7)
    program.constrain((y - 1.0) ** 9 == p, name="power")
    with pytest.raises(SingularError, match="multiple root"):
        lg.build(program).solve().gradient("y")


@pytest.mark.parametrize("guess", [2.0, 3.0, 1.5, 10.0])
def test_a_double_root_never_has_a_certified_gradient(guess: float) -> None:
    """y = 1 ± sqrt(1 - p): no derivative at p = 1, and 1 - y known to half of the digits only."""
    program = lg.Program("double root")
    p = program.parameter("p", 1.0)
    y = program.state("y", guess=guess)
    program.constrain(y**2 - 2.0 * y + p == 0.0, name="parabola")
    solution = lg.build(program).solve()
    assert solution["y"] == pytest.approx(1.0, abs=1e-6)
    with pytest.raises((SingularError, IllConditionedError)) as caught:
        solution.gradient("y")
    assert "parabola" in str(caught.value) and caught.value.states == ["y"]


@pytest.mark.parametrize("gap", [1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
def test_near_a_double_root_the_bound_holds(gap: float) -> None:
    """dy/dp = -1 / (2 sqrt(1 - p)), from p as it is in doubles."""
    program = lg.Program("nearly double root")
    p = program.parameter("p", 1.0 - gap)
    y = program.state("y", guess=2.0)
    program.constrain(y**2 - 2.0 * y + p == 0.0)
    try:
        gradient = lg.build(program).solve().gradient("y")
    except LagradError:
        assert gap < 1e-9
        return
    bound = gradient.certificate.gradient_error
    assert bound is not None
    with mpmath.workdps(50):
        truth = -1 / (2 * mpmath.sqrt(1 - mpmath.mpf(1.0 - gap)))
        assert abs(float(truth - mpmath.mpf(float(gradient["p"])))) <= bound["p"]


# -- kinks -------------------------------------------------------------------------------------------------------
KINKS: dict[str, tuple[Callable[..., lg.Expression], float, float]] = {
    # function of y at y = x, where it has a kink, and the derivative that the rule chooses there
    "abs": (lambda y: abs(y), 0.0, 1.0),
    "maximum of y first": (lambda y: lg.maximum(y, 2.0 * y), 0.0, 1.0),
    "maximum of y second": (lambda y: lg.maximum(2.0 * y, y), 0.0, 2.0),
    "minimum": (lambda y: lg.minimum(3.0 * y, y + 2.0), 1.0, 3.0),
    "floor below": (lambda y: lg.floor(y) + y, 2.0, 1.0),
    "sign": (lambda y: lg.sign(y - 1.0) * 2.0 + y, 1.0, 1.0),
    "where": (lambda y: lg.where(y < 1.0, 5.0 * y, 7.0 * y - 2.0), 1.0, 7.0),
    "power": (lambda y: y**1.5, 0.0, 0.0),
    "hypot": (lambda y: lg.hypot(y, 0.0 * y), 0.0, 1.0),
    "modulo": (lambda y: lg.mod(y, 3.0), 6.0, 1.0),
}


@pytest.mark.parametrize("name", KINKS)
def test_a_kink_is_named_and_its_derivative_is_the_one_of_the_rule(name: str) -> None:
    function, x0, slope = KINKS[name]
    program = lg.Program("kink")
    x = program.parameter("x", x0)
    y = program.state("y", guess=x0)
    program.constrain(y == x, name="same")
    program.define("smooth", y * y)
    program.define("kinked", function(y))
    solution = lg.build(program).solve()
    gradient = solution.gradient("kinked")
    assert solution.certificate.kinks == ["kinked"] and gradient.certificate.kinks == ["kinked"]
    assert "one-sided at a kink of kinked" in str(gradient.certificate)
    assert float(gradient["x"]) == slope
    away = lg.build(program).solve({"x": x0 + 0.25})
    assert away.certificate.kinks == [] and "kink" not in str(away.certificate)


def test_a_kink_is_met_within_rounding() -> None:
    """y == 0 is reached as some 1e-17, on either side; |y - 0.3| is met where 0.1 + 0.2 is."""
    program = lg.Program("rounded")
    x = program.parameter("x", 0.1)
    y, z = program.state("y", guess=1.0), program.state("z", guess=0.5)
    program.constrain(y**3 + y == x + (0.2 - 0.3), name="cubic")
    program.constrain(z + 0.1 * z**3 == 3.0 + 2.7, name="whole")
    program.define("a", abs(y))
    program.define("f", lg.floor(z))
    program.define("far", abs(y - 1e-6) + lg.floor(z + 1e-6))
    solution = lg.build(program).solve()
    assert 0.0 < abs(float(solution["y"])) < 1e-15
    assert solution.certificate.kinks == ["a", "f"]


def test_kinks_in_a_family_name_the_elements_concerned() -> None:
    program = lg.Program("family")
    x = program.parameter("x", np.linspace(-1.0, 1.0, 201))
    y = program.state("y", shape=201)
    program.constrain(y + 0.5 * abs(y) == x, name="c")
    certificate = lg.build(program).solve().certificate
    assert certificate.kinks == ["c[100]"]
    assert pickle.loads(pickle.dumps(certificate)).kinks == ["c[100]"]


# -- strict on functions ---------------------------------------------------------------------------------------------
def distance(x: Any) -> Any:
    return np.abs(x[0]) + x[1] ** 2


STRICT_CALLS: dict[str, Callable[..., Any]] = {
    "grad": lambda f, x, **strict: lg.grad(f, **strict)(x),
    "value_and_grad": lambda f, x, **strict: lg.value_and_grad(f, **strict)(x)[1],
    "jacobian": lambda f, x, **strict: lg.jacobian(lambda x: {"a": f(x)}, **strict)(x)["a"],
    "jvp": lambda f, x, **strict: lg.jvp(f, (x,), (np.ones(2),), **strict)[1],
    "vjp": lambda f, x, **strict: lg.vjp(f, x, **strict)[1](1.0)[0],
    "hvp": lambda f, x, **strict: lg.hvp(f, (x,), (np.ones(2),), one_sided=True, **strict)[1][0],
    "hessian": lambda f, x, **strict: lg.hessian(lambda x: np.stack([x[1], f(x)]), one_sided=True, **strict)(
        x
    )[1],
}


@pytest.mark.parametrize("name", STRICT_CALLS)
def test_functions_can_be_asked_strictly(name: str) -> None:
    """On the kink of |x| each gives one side, or refuses; beside it, strict or not is the same."""
    call, kink, beside = STRICT_CALLS[name], np.array([0.0, 2.0]), np.array([0.5, 2.0])
    assert np.isfinite(call(distance, kink)).all()
    for strict in (True, 1e-6):
        with pytest.raises(CertificateError, match="one-sided"):
            call(distance, kink, strict=strict)
        np.testing.assert_array_equal(call(distance, beside, strict=strict), call(distance, beside))
    with pytest.raises(DeclarationError, match="strict"):
        call(distance, beside, strict="very")


# -- the claimed error of a value ------------------------------------------------------------------------------
def test_a_value_is_no_surer_than_what_rounding_hides() -> None:
    """R is 0 for any y within 2e-6 of p: that it reads 0 says nothing."""
    program = lg.Program("hidden")
    p = program.parameter("p", 0.3)
    y = program.state("y", guess=0.3 + 2e-7)
    program.constrain(1.0 + 1e-10 * (y - p) - 1.0 == 0.0)
    solution = lg.build(program).solve()
    certificate = solution.gradient("y").certificate
    assert certificate.error is not None
    assert abs(solution["y"] - 0.3) <= certificate.error < 1e-5
    assert f"output error about {certificate.error:.1e}" in str(certificate)


@pytest.mark.parametrize("condition", [1e0, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("seed", range(4))
def test_the_claimed_error_of_a_value_holds(seed: int, condition: float) -> None:
    """y = A⁻¹ p and J = Σ w y, in fractions."""
    random = np.random.default_rng(seed)
    n = 4
    left, right = (np.linalg.qr(random.standard_normal((n, n)))[0] for _ in range(2))
    a = left @ np.diag(np.logspace(0.0, -np.log10(condition), n)) @ right
    w, p0 = random.standard_normal(n), random.standard_normal(n)
    program = lg.Program("linear")
    p = program.parameter("p", p0)
    y = program.state("y", guess=np.zeros(n))
    program.constrain(a @ y == p)
    program.define("J", lg.sum(w * y))
    solution = lg.build(program).solve()
    certificate = solution.gradient("J").certificate
    with mpmath.workdps(60):
        exact = mpmath.lu_solve(mpmath.matrix(a.tolist()), mpmath.matrix(p0.tolist()))
        off = abs(mpmath.fdot(w.tolist(), exact) - mpmath.mpf(float(solution["J"])))
        size = float(mpmath.norm(exact))
    assert certificate.error is not None
    assert off <= certificate.error
    assert certificate.error <= 1e-13 * condition * max(1.0, size)
