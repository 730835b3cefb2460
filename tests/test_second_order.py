"""Second derivatives: what they cost, how a sparse Hessian is put together, and lg.hessian of Python functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import sympy

import lagrad as lg
from lagrad.coupling import coupled
from lagrad.derivatives import Differentiator
from lagrad.errors import DeclarationError, ExpressionError, KinkError, ShapeError, UnknownNameError
from lagrad.structure.colouring import places, star_colouring

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())


# -- cost -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dense_max", [48, 1], ids=["dense", "sparse"])
def test_a_product_costs_at_most_four_gradients_and_no_factorization(
    dense_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = lg.Program("ring")
    p = program.parameter("p", np.linspace(0.5, 1.5, 40))
    y = program.state("y", guess=np.ones(40))
    program.constrain(y**3 + 2.0 * y + 0.3 * y[np.r_[1:40, 0]] * p == p + 1.0)
    program.define("obj", lg.sum(lg.exp(-y)) + y[0] * y[7])
    solution = lg.build(program, dense_max=dense_max).solve()
    counters, seen = solution.layout.pattern.counters, {}
    import lagrad.derivatives

    passes = []
    once = lagrad.derivatives.hessian_times
    monkeypatch.setattr(lagrad.derivatives, "hessian_times", lambda *a: passes.append(1) or once(*a))
    solution.gradient("obj")  # the linearization, which both stand on
    for name, work in (
        ("gradient", lambda: solution.gradient("obj")),
        ("product", lambda: solution.hvp("obj", {"p": np.linspace(-1.0, 2.0, 40)})),
    ):
        before = dict(vars(counters))
        work()
        seen[name] = {k: count - before[k] for k, count in vars(counters).items()}
    gradient, product = seen["gradient"], seen["product"]
    for what in ("analyses", "factorizations", "refactorizations", "evaluations"):
        assert product[what] == 0, what
    for what in ("solves", "sweeps", "refinements"):
        assert product[what] <= 4 * gradient[what], what
    assert product["sweeps"] + product["solves"] > gradient["sweeps"] + gradient["solves"] > 0
    assert len(passes) == 1


# -- colouring ------------------------------------------------------------------------------------------------------
def pattern_of(matrix: Any) -> sp.csr_array:
    out = sp.csr_array(matrix)
    out.sort_indices()
    return out


def recovered(matrix: Any) -> tuple[Any, int]:
    """The matrix from its products with the sums of columns of one colour, and their number."""
    pattern = pattern_of(matrix)
    colours = star_colouring(pattern.indptr, pattern.indices)
    count = int(colours.max()) + 1
    seeds = np.zeros((colours.size, count))
    seeds[np.arange(colours.size), colours] = 1.0
    product = matrix @ seeds
    row, colour = places(pattern.indptr, pattern.indices, colours)
    pattern.data = product[row, colour]
    return pattern.toarray(), count


@pytest.mark.parametrize("seed", range(12))
def test_every_entry_can_be_read_from_a_product(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 40))
    half = np.where(random.uniform(size=(n, n)) < random.uniform(0.02, 0.3), random.normal(size=(n, n)), 0.0)
    matrix = half + half.T + np.diag(random.uniform(1.0, 2.0, n))
    found, count = recovered(matrix)
    np.testing.assert_array_equal(found, matrix)  # one number alone in each place read: to the last bit
    assert count <= n


def test_few_colours_for_arrows_bands_and_diagonals() -> None:
    n = 60
    arrow = np.eye(n) * 2.0
    arrow[17], arrow[:, 17] = 1.5, 1.5
    band = sum(np.diag(np.arange(1.0, n - abs(k) + 1), k) for k in (-2, -1, 0, 1, 2))
    band = band + band.T
    for matrix, most in ((arrow, 2), (band, 5), (np.eye(n), 1)):
        found, count = recovered(matrix)
        np.testing.assert_array_equal(found, matrix)
        assert count <= most


# -- the reduced Hessian --------------------------------------------------------------------------------------------
def chained(n: int, dense_max: int = 48) -> lg.Solution:
    """y_i determined by x_i and a alone; the output couples neighbours, and a with all: an arrow and a band."""
    program = lg.Program("chained")
    x = program.parameter("x", np.linspace(0.5, 1.5, n))
    a = program.parameter("a", 0.3)
    y = program.state("y", guess=np.ones(n))
    program.constrain(y**3 + y == x + a * lg.sin(x))
    program.define("obj", lg.sum((y[1:] * y[:-1]) ** 2) + lg.sum(lg.exp(-y * a)))
    program.define("other", lg.sum(x) ** 3)  # dense, but no part of obj
    program.define("far", x[0] * x[-1])
    return lg.build(program, dense_max=dense_max).solve()


def test_a_sparse_hessian_takes_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 300
    solution = chained(n)
    widths = []
    once = Differentiator.hessian_times

    def counted(self: Any, seed: Any, directions: Any, *how: Any) -> Any:
        widths.append(directions.shape[1])
        return once(self, seed, directions, *how)

    monkeypatch.setattr(Differentiator, "hessian_times", counted)
    hessian = solution.hessian("obj", sparse=True)
    assert sum(widths) <= 6
    assert hessian["x", "x"].nnz == 3 * n - 2
    monkeypatch.setattr("lagrad.derivatives.coupled", lambda *a: None)
    dense = solution.hessian("obj")
    assert sum(widths) >= n + 1
    for pair, block in hessian.items():
        np.testing.assert_allclose(block.toarray(), dense[pair], rtol=1e-12, atol=1e-14, err_msg=str(pair))
    # one entry in closed form: y' = (1 + a cos x)/(3 y² + 1), for d²obj/dx_0 dx_1 = 4 y_0 y_1 y_0' y_1'
    x, y = np.linspace(0.5, 1.5, n)[:2], solution["y"][:2]
    slope = (1.0 + 0.3 * np.cos(x)) / (3.0 * y**2 + 1.0)
    assert hessian["x", "x"][0, 1] == pytest.approx(4.0 * np.prod(y) * np.prod(slope), rel=1e-12)


def test_parameters_by_element_and_twice() -> None:
    solution = chained(6)
    whole = solution.hessian("obj")
    part = solution.hessian("obj", wrt=["x[2]", "a", "x"])
    np.testing.assert_allclose(part["x[2]", "x"], whole["x", "x"][2:3], rtol=1e-13)
    np.testing.assert_allclose(part["x", "x[2]"], whole["x", "x"][:, 2:3], rtol=1e-13)
    assert part["x[2]", "x[2]"][0, 0] == part["x", "x"][2, 2]
    np.testing.assert_allclose(part["a", "a"], whole["a", "a"], rtol=1e-13)
    with pytest.raises(UnknownNameError, match="b"):
        solution.hessian("obj", wrt=["b"])
    with pytest.raises(ShapeError):
        solution.hessian("y")


def test_what_cannot_be_coupled_is_not_in_the_pattern() -> None:
    solution = chained(30)
    layout = solution.layout
    at = layout.find_output("obj")[0]
    columns = np.arange(31)
    pattern = coupled(layout, at, columns).toarray() != 0.0
    x = np.abs(np.subtract.outer(np.arange(30), np.arange(30))) <= 1
    assert (pattern[:30, :30] == x).all() and pattern[30].all() and pattern[:, 30].all()
    assert (coupled(layout, layout.find_output("other")[0], columns).toarray() != 0.0)[:30, :30].all()


def test_coupling_through_definitions() -> None:
    """obj = Σ z³ with z_k = sin x_k + sin x_{k+1}, by hand."""
    program = lg.Program("through")
    at = np.linspace(0.3, 1.2, 9)
    x = program.parameter("x", at)
    y = program.define("y", lg.sin(x))
    z = program.define("z", y[1:] + y[:-1])
    program.define("obj", lg.sum(z**3))
    hessian = lg.build(program).solve().hessian("obj", sparse=True)["x", "x"]
    sums, slope = np.sin(at[1:]) + np.sin(at[:-1]), np.cos(at)
    expected = np.diag(6.0 * sums * slope[1:] * slope[:-1], 1)
    expected += expected.T
    around, squares = (
        np.append(sums, 0.0) + np.append(0.0, sums),
        np.append(sums, 0.0) ** 2 + np.append(0.0, sums) ** 2,
    )
    expected += np.diag(6.0 * around * slope**2 - 3.0 * squares * np.sin(at))
    np.testing.assert_allclose(hessian.toarray(), expected, rtol=1e-12, atol=1e-14)
    assert hessian.nnz == 9 + 2 * 8


def test_large_blocks_couple_what_moves_them() -> None:
    """A loop of 60 states on the sparse path, its parameters beside a separable sum."""
    program = lg.Program("mixed")
    p = program.parameter("p", np.linspace(0.2, 0.9, 6))
    w = program.parameter("w", np.linspace(1.0, 2.0, 50))
    y = program.state("y", guess=np.ones(60))
    program.constrain(y + 0.3 * lg.sin(y[np.r_[1:60, 0]]) == p[np.arange(60) % 6])
    program.define("obj", lg.sum(y**2) + lg.sum(w**4) + w[0] * y[0])
    solution = lg.build(program, dense_max=10).solve()
    hessian = solution.hessian("obj")
    np.testing.assert_allclose(hessian["w", "w"], np.diag(12.0 * np.linspace(1.0, 2.0, 50) ** 2), rtol=1e-12)
    slope = solution.jacobian(["y[0]"], ["p"])["y[0]", "p"][0]
    np.testing.assert_allclose(hessian["w", "p"][0], slope, rtol=1e-10)
    assert (hessian["w", "p"][1:] == 0.0).all() and (hessian["p", "p"] != 0.0).all()
    step, e = 1e-5, np.eye(6)[2]
    base = np.linspace(0.2, 0.9, 6)
    there = [
        solution.layout and lg.build(program, dense_max=10).solve({"p": base + s * step * e}) for s in (1, -1)
    ]
    difference = (there[0].gradient("obj")["p"] - there[1].gradient("obj")["p"]) / (2 * step)
    np.testing.assert_allclose(hessian["p", "p"][2], difference, rtol=1e-6, atol=1e-8)


# -- Python functions -----------------------------------------------------------------------------------------------
def lambert(x: Any) -> Any:
    return lg.implicit(lambda w: w * np.exp(w) - x, 1.0)


@pytest.mark.parametrize("point", REFERENCE["lambertw"]["points"])
def test_lambertw(point: str) -> None:
    expected = float(REFERENCE["lambertw"]["points"][point]["d2w/dx2"])
    assert lg.hessian(lambert)(float(point)) == pytest.approx(expected, rel=1e-13)
    (_,), (product,) = lg.hvp(lambert, (float(point),), (2.0,))
    assert product == pytest.approx(2.0 * expected, rel=1e-13)


def test_cubic() -> None:
    hessian = lg.hessian(lambda p: lg.implicit(lambda y: y**3 + y - p, 0.3))(REFERENCE["cubic"]["p"])
    assert hessian == pytest.approx(-6.0 / 64.0, rel=1e-14) and np.shape(hessian) == ()


def test_nested_implicit_functions() -> None:
    """w(w(x)) by SymPy's Lambert function."""
    x = sympy.Symbol("x", positive=True)
    closed = sympy.diff(sympy.LambertW(sympy.LambertW(x)), x, 2)
    for point in (0.7, 3.0):
        found = lg.hessian(lambda x: lambert(lambert(x)))(point)
        assert found == pytest.approx(float(closed.subs(x, point).evalf(30)), rel=1e-12)


def test_trees_in_and_trees_out() -> None:
    def f(w: dict[str, Any], s: Any, n: int) -> dict[str, Any]:
        inner = np.sum(w["a"] @ w["b"]) * s
        return {"one": inner**2, "two": (np.sin(w["b"]) * s**n, None)}

    w = {"a": np.array([[1.0, 2.0, 0.5], [0.3, -1.0, 2.0]]), "b": np.array([0.4, 0.7, -0.2])}
    s = 1.7
    out = lg.hessian(f, argnums=(0, 1))(w, s, 3)
    assert set(out) == {"one", "two"} and out["two"][1] is None
    by_w, (by_s_w, by_s_s) = out[
        "one"
    ]  # of every leaf, a tuple over the arguments: the structure that JAX gives
    by_w_w = {"a": by_w["a"][0], "b": by_w["b"][0]}
    assert by_w_w["a"]["b"].shape == (2, 3, 3) and by_w_w["b"]["b"].shape == (3, 3)
    total, columns = float((w["a"] @ w["b"]).sum()), w["a"].sum(axis=0)
    np.testing.assert_allclose(by_w_w["b"]["b"], 2 * s**2 * np.outer(columns, columns), rtol=1e-13)
    cross = 2 * s**2 * (np.einsum("j,k->jk", w["b"], columns) + total * np.eye(3))
    np.testing.assert_allclose(by_w_w["a"]["b"], np.stack([cross, cross]), rtol=1e-13)
    np.testing.assert_allclose(by_w["b"][1], 4 * s * total * columns, rtol=1e-13)
    np.testing.assert_allclose(by_s_w["b"], by_w["b"][1], rtol=1e-15)
    assert by_s_s == pytest.approx(2 * total**2, rel=1e-13)
    two, (_, two_s_s) = out["two"][0]
    two_w_w = {"a": two["a"][0], "b": two["b"][0]}
    assert two_w_w["b"]["b"].shape == (3, 3, 3) and two_w_w["a"]["b"].shape == (3, 2, 3, 3)
    diagonal = np.arange(3)
    expected = np.zeros((3, 3, 3))
    expected[diagonal, diagonal, diagonal] = -np.sin(w["b"]) * s**3
    np.testing.assert_allclose(two_w_w["b"]["b"], expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(two_s_s, np.sin(w["b"]) * 6.0 * s, rtol=1e-13)


def test_a_hessian_of_weights_does_not_hold_the_data() -> None:
    """4 weights beside 20 000 numbers of data: nothing of the size of both is made, nothing traced twice."""
    data = np.random.default_rng(0).normal(size=(5_000, 4))
    traced = []

    def loss(w: Any, x: Any) -> Any:
        traced.append(1)
        return np.mean(np.log(1.0 + np.exp(x @ w)))

    w = np.array([0.3, -0.2, 0.1, 0.5])
    second = lg.hessian(loss)
    hessian = second(w, data)
    z = 1.0 / (1.0 + np.exp(-data @ w))
    np.testing.assert_allclose(
        hessian, data.T @ ((z * (1 - z))[:, None] * data) / 5_000, rtol=1e-11, atol=1e-15
    )
    second(w + 0.1, data + 1.0)
    (gradient,), (product,) = lg.hvp(lambda v: loss(v, data[:50]), (w,), (np.ones(4),))
    assert len(traced) == 2
    z = z[:50]
    np.testing.assert_allclose(gradient, data[:50].T @ z / 50, rtol=1e-12)
    np.testing.assert_allclose(
        product, data[:50].T @ (z * (1 - z) * (data[:50] @ np.ones(4))) / 50, rtol=1e-11
    )


def test_misuse_is_told() -> None:
    with pytest.raises(DeclarationError, match=r"lg\.hessian"):
        lg.hessian(lambda x: lg.grad(lambda y: y**2)(x))(1.0)
    with pytest.raises(ShapeError):
        lg.hvp(lambda x: x**2, (np.ones(2),), (np.ones(2),))
    with pytest.raises(DeclarationError, match="hvp"):
        lg.hvp(lambda x: x**2, (1.0,), ())
    with pytest.raises(DeclarationError, match="no number"):
        lg.hessian(lambda n: 1.0 * n)(True)
    with pytest.raises(ExpressionError):
        lg.hessian(lambda x: x if x > 0 else -x)(1.0)


# -- kinks ----------------------------------------------------------------------------------------------------------
def radius_used_twice(x: Any) -> Any:
    r = np.hypot(x[0], x[1])  # a state, whose multiplier 2 r is 0 at the kink
    return r * r


@pytest.mark.parametrize(
    ("f", "at", "primitive"),
    [
        # the truth is 2 I; the rules give diag(2, 0)
        (lambda x: np.hypot(x[0], x[1]) ** 2, np.zeros(2), "hypot"),
        (radius_used_twice, np.zeros(2), "hypot"),
        (lambda x: np.abs(x * x), 0.0, "abs"),  # does not move to first order
        (lambda x: x * np.abs(x), 0.0, "abs"),
        (lambda x: x**2.5, 0.0, r"x\*\*c"),
        (lambda x: np.maximum(x, 0.0) ** 2, 0.0, "maximum"),
        (lambda x: lg.where(x > 0.5, x**3, x), 0.5, "less"),
        (lambda x: lg.where(x > 0.0, x**3, np.abs(x - 1.0)), -0.0 + 1.0, None),
        (lambda x: lg.where(x > 2.0, x**3, np.abs(x - 1.0) ** 3), 1.0, "abs"),
        (lambda p: lg.implicit(lambda y: y + np.abs(y) * y - p, 0.3), 0.0, "abs"),  # y = 0 within rounding
    ],
)
def test_there_is_no_second_derivative_on_a_kink(f: Any, at: Any, primitive: str | None) -> None:
    tangent = (np.ones_like(at),)
    solution = lg.build(lg.trace(f, at)).solve()
    name = next(iter(solution.parameters))
    calls = (
        lambda **how: lg.hessian(f, **how)(at),
        lambda **how: lg.hvp(f, (at,), tangent, **how),
        lambda **how: solution.hessian("out", **how),
        lambda **how: solution.hvp("out", {name: tangent[0]}, **how),
    )
    for call in calls:
        if primitive is None:
            call()
            continue
        with pytest.raises(KinkError, match=rf"{primitive} in constraint .* sits on a kink"):
            call()
        call(one_sided=True)


def test_kinks_elsewhere_do_not_stand_in_the_way() -> None:
    def f(x: Any, y: Any) -> Any:
        return {"beside": np.abs(y) + x**3, "folded": np.abs(y) * x**2}

    hessian = lg.hessian(f)(2.0, 0.0)  # y is given: |y| is a number
    assert (float(hessian["beside"]), float(hessian["folded"])) == (12.0, 0.0)
    with pytest.raises(KinkError):
        lg.hessian(f, 1)(2.0, 0.0)
    solution = lg.build(lg.trace(lambda x: {"rough": np.abs(x), "smooth": x**3 + x**2}, 0.0)).solve()
    assert float(solution.hessian("out.smooth")["x", "x"][0, 0]) == 2.0
    with pytest.raises(KinkError):
        solution.hessian("out.rough")


def test_a_shared_value_in_a_branch_that_is_not_taken_is_no_kink() -> None:
    def f(x: Any) -> Any:
        rough = np.abs(x - 0.5)
        return lg.where(x < 1.0, x**3, rough * rough + rough)

    assert float(lg.hessian(f)(0.5)) == 3.0
