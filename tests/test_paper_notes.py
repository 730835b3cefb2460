"""The notes on papers: what they name exists, and what they claim and no other test shows is shown here.

The partials in the tests of claims come from the textbook tape of `lagrad.compare`, linear algebra is NumPy's;
lagrad's own results are what is compared.
"""

from __future__ import annotations

import ast
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
from example_files import ROOT, load
from fixtures import FIXTURES, declare
from test_docs import DOCUMENT_NAMES, blocks_of

import lagrad as lg
from lagrad.compare.naming import point_of, program_of
from lagrad.compare.tape import backprop, jacobian_rows

NOTES = sorted(path for path in (ROOT / "paper_notes").glob("*.md") if path.name != "README.md")
NAMES = [path.name for path in NOTES]
SUBJECTS = {  # what each note must be about; one note for each
    "backprop_is_not_just_the_chain_rule.md": ("Vieira", "2017"),
    "extended_jacobian.md": ("Griewank", "Walther", "2008"),
    "attractive_fixed_points.md": ("Christianson", "1994"),
    "unified_derivatives_equation.md": ("Hwang", "Martins", "2018"),
    "block_triangularization.md": ("Duff", "Reid", "1978"),
    "block_triangular_form.md": ("Pothen", "Fan", "1990"),
    "sparse_partial_pivoting.md": ("Gilbert", "Peierls", "1988"),
    "corrected_values.md": ("Griewank", "Faure", "2002"),
    "constrained_differential_optimization.md": ("Platt", "Barr", "1987"),
    "theoretical_framework.md": ("LeCun", "1988"),
    "recurrent_backpropagation.md": ("Almeida", "Pineda", "1987"),
}
REFERENCE = re.compile(r"`((?:tests|examples|benchmarks|lagrad)/[\w/]+\.py)(?:::(\w+))?`")


# -- what the notes name -----------------------------------------------------------------------------------------
@cache
def functions_of(path: Path) -> set[str]:
    """The names of the functions and classes at the top level of a file, under an `if` too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [tree.body, *(k.body for k in tree.body if isinstance(k, ast.If))]
    return {k.name for body in bodies for k in body if isinstance(k, (ast.FunctionDef, ast.ClassDef))}


def missing(text: str) -> list[str]:
    """The files and functions that a note names and that do not exist, and names of files that are no reference."""
    named = re.findall(r"`([^`]*(?:\.py|::)[^`]*)`", text)
    out = [name for name in named if not REFERENCE.fullmatch(f"`{name}`")]
    for file, function in REFERENCE.findall(text):
        path = ROOT / file
        if not path.is_file() or (function and function not in functions_of(path)):
            out.append(f"{file}::{function}" if function else file)
    return out


def test_there_is_a_note_for_every_source() -> None:
    assert sorted(SUBJECTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_note_names_its_source_and_shows_its_claims(name: str) -> None:
    text = (ROOT / "paper_notes" / name).read_text(encoding="utf-8")
    source = re.search(r"^Source: (.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    assert source is not None
    assert all(word in source[1] for word in SUBJECTS[name])
    claims = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(claims) >= 3
    for claim in claims:
        shown = re.search(r"^Shown by:(.*?)(?:\n\n|\Z)", claim, re.DOTALL | re.MULTILINE)
        assert shown is not None, claim.splitlines()[0]
        places = REFERENCE.findall(shown[1])
        assert any(file.startswith(("tests/", "examples/")) for file, _ in places), claim.splitlines()[0]
        assert all(  # a test by its own name, not a helper, nor a file of many
            function.startswith(("test_", "law_")) for file, function in places if file.startswith("tests/")
        ), claim.splitlines()[0]
    assert missing(text) == []


def test_a_name_that_does_not_exist_is_found() -> None:
    text = "`tests/test_compare.py::test_nothing_of_the_kind` `examples/none.py` `examples/domke.py::build`"
    assert missing(text) == ["tests/test_compare.py::test_nothing_of_the_kind", "examples/none.py"]
    text = "`test/test_compare.py::test_x` `examples/domke.py:build` `test_compare.py`"  # the wrong form
    assert missing(text) == ["test/test_compare.py::test_x", "examples/domke.py:build", "test_compare.py"]


def test_the_python_of_the_notes_runs_with_that_of_the_other_documents() -> None:
    assert {f"paper_notes/{name}" for name in NAMES} <= set(DOCUMENT_NAMES)
    blocks = [b for path in NOTES for b in blocks_of(path.read_text(encoding="utf-8"))]
    assert sum(b.language == "python" for b in blocks) >= 5


def test_the_index_leads_to_every_note() -> None:
    text = (ROOT / "paper_notes" / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((\w+\.md)\)", text)) == NAMES
    assert missing(text) == []


# -- shared by the claims -------------------------------------------------------------------------------------------
def partials(solution: lg.Solution) -> tuple[np.ndarray, np.ndarray]:
    """R_u and R_p, dense, in order of declaration, from the textbook tape."""
    return jacobian_rows(program_of(solution), *point_of(solution))


def flat(values: Any) -> np.ndarray:
    return np.concatenate([np.empty(0), *(np.ravel(x) for x in values.values())])


def loop_in_chain() -> lg.Solution:
    return lg.build(declare(next(f for f in FIXTURES if f.name == "loop_in_chain"))).solve()


def contraction() -> tuple[lg.Program, Any]:
    """y == Φ(y, p) with Φ = tanh(W y + p) / 2 + b, an unsymmetric contraction; output J = c · y."""
    W = np.array([[0.5, -0.9, 0.2], [0.8, 0.1, -0.7], [0.3, 0.6, -0.4]])
    b, c = np.array([0.2, -0.1, 0.3]), np.array([1.0, -0.4, 0.7])
    program = lg.Program("contraction")
    p = program.parameter("p", [0.3, -0.2, 0.5])
    y = program.state("y", guess=np.zeros(3))
    program.constrain(y == lg.tanh(W @ y + p) / 2 + b, name="law")
    program.define("J", c @ y)
    return program, (W, b, c)


# -- Vieira: what a gradient costs -----------------------------------------------------------------------------------
def test_a_gradient_costs_as_much_for_many_parameters_as_for_few() -> None:
    """Speelpenning's product of n parameters: n − 1 products, 3 (n − 1) − 1 with all derivatives by a program.

    By formulas, each derivative is a product of n − 1 factors, so n (n − 2) operations.
    """
    for n in (3, 12, 60):
        program = lg.Program("product")
        x = program.parameter("x", 0.7 + 0.01 * np.arange(n))
        value = x[0]
        for k in range(1, n):
            value = program.define(f"y{k}", value * x[k])
        swell = lg.expression_swell(program)
        assert swell.value_program == swell.value_formula == n - 1
        assert swell.derivative_formula == n * (n - 2)
        assert swell.derivative_program <= 3 * swell.value_program
        gradient = lg.build(program).solve().gradient(f"y{n - 1}")["x"]
        numbers = 0.7 + 0.01 * np.arange(n)
        np.testing.assert_allclose(gradient, np.prod(numbers) / numbers, rtol=1e-13)


# -- Vieira: the forward pass and the reverse pass as block-coordinate steps ----------------------------------------
def test_one_sweep_in_order_satisfies_all_constraints_of_a_dag_and_a_sweep_against_it_does_not() -> None:
    """Setting each state so that ∂L/∂λ_i = 0, one after the other, is the forward pass."""
    example = load("examples/domke.py")
    program = example.build(0.5)
    names = [item.name for item in program.states.items]
    symbols = {name: sympy.Symbol(name, real=True) for name in ("x", *names)}
    L = program.lagrangian("f").sympy()
    residuals = {name: L.diff(sympy.Symbol(f"λ_{name}", real=True)) for name in names}

    def sweep(order: list[str], values: dict[str, float]) -> dict[str, float]:
        values = dict(values)
        for name in order:
            at = {symbols[k]: v for k, v in values.items() if k != name}
            values[name] = float(sympy.solve(residuals[name].subs(at), symbols[name])[0])
        return values

    start = {"x": 0.5} | dict.fromkeys(names, 1.0)
    solution = lg.build(program).solve()
    forwards = sweep(names, start)
    np.testing.assert_allclose([forwards[n] for n in names], [solution[n] for n in names], rtol=1e-12)
    backwards = sweep(names[::-1], start)
    assert abs(backwards["f"] - solution["f"]) > 1.0
    for _ in range(len(names) - 1):
        backwards = sweep(names[::-1], backwards)
    np.testing.assert_allclose(backwards["f"], solution["f"], rtol=1e-12)


def test_the_adjoint_equations_of_a_dag_are_triangular_with_ones_on_the_diagonal() -> None:
    program = load("examples/domke.py").build(0.5)
    solution = lg.build(program).solve()
    R_u, R_p = partials(solution)
    assert (np.triu(R_u, 1) == 0).all() and (np.diag(R_u) == 1).all()
    lam = np.zeros(6)
    lam[5] = 1.0
    for i in range(5, -1, -1):  # back-substitution, last multiplier first
        lam[:i] -= R_u[i, :i] * lam[i]
    np.testing.assert_allclose(lam, flat(solution.multipliers("f")), rtol=1e-14)
    np.testing.assert_allclose(-R_p.T @ lam, [solution.gradient("f")["x"]], rtol=1e-14)


def test_other_multipliers_than_backprops_reach_the_same_stationary_point() -> None:
    """min J over u and p together, by the method of multipliers on L alone: λ tends to the adjoints.

    J = (w − 1)² + p²/4 with u == p² + 0.5 and w == sin u: nobody solves the constraints on the way.
    """
    program = lg.Program("small")
    p = program.parameter("p", 0.2)
    u = program.define("u", p**2 + 0.5)
    w = program.define("w", lg.sin(u))
    program.define("J", (w - 1) ** 2 + p**2 / 4)
    x = sympy.symbols("p u w J", real=True)
    lam = sympy.symbols("λ_u λ_w λ_J", real=True)
    L = program.lagrangian("J").sympy()
    R = [-L.diff(k) for k in lam]
    penalty = 10.0
    augmented = L + penalty / 2 * sum(r**2 for r in R)
    gradient = sympy.lambdify((x, lam), [augmented.diff(k) for k in x])
    hessian = sympy.lambdify((x, lam), sympy.hessian(augmented, x))
    residual = sympy.lambdify((x,), R)
    point, multipliers = np.array([0.4, 0.4, 0.4, 0.4]), np.zeros(3)
    for _ in range(60):
        for _ in range(20):
            point = point - np.linalg.solve(hessian(point, multipliers), gradient(point, multipliers))
        multipliers = multipliers - penalty * np.array(residual(point))
    assert np.abs(residual(point)).max() < 1e-12
    solution = lg.build(program).solve({"p": point[0]})
    assert abs(float(solution.gradient("J")["p"])) < 1e-10
    assert point[0] ** 2 > 0.1  # not the other stationary point, p = 0
    np.testing.assert_allclose(multipliers, flat(solution.multipliers("J")), rtol=1e-9)


# -- Griewank and Walther: the extended Jacobian and vertex elimination ----------------------------------------------
def test_vertices_eliminated_in_any_order_leave_the_same_jacobian() -> None:
    """Gaussian elimination of the states from [R_u R_p], a pivot at a time; the rows of outputs are left."""
    program = declare(next(f for f in FIXTURES if f.name == "diamond"))
    solution = lg.build(program).solve()
    R_u, R_p = partials(solution)
    n = R_u.shape[0]
    expected = solution.jacobian(of=["c", "d"])
    random = np.random.default_rng(2)
    counts = []
    for order in ([*range(n)], [*range(n)][::-1], *(random.permutation(n).tolist() for _ in range(5))):
        # c_ij = ∂v_i/∂v_j, parameters first: the local partials, one row for each state, and then the outputs
        m = R_p.shape[1]
        C = np.zeros((m + n + 2, m + n))
        C[m : m + n] = np.hstack([-R_p, np.eye(n) - R_u])
        for k, name in enumerate(("c", "d")):
            C[m + n + k, m + program.states.scalar_index(name, "state")] = 1.0
        products = 0
        for vertex in (m + k for k in order):
            above, below = np.flatnonzero(C[vertex]), np.flatnonzero(C[:, vertex])
            products += above.size * below.size
            C[np.ix_(below, above)] += np.outer(C[below, vertex], C[vertex, above])
            C[:, vertex] = 0.0
            C[vertex] = 0.0
        counts.append(products)
        for k, name in enumerate(("c", "d")):
            by_name = np.concatenate([expected[name, item.name].ravel() for item in program.parameters.items])
            np.testing.assert_allclose(C[m + n + k, :m], by_name, rtol=1e-13)
    assert len(set(counts)) > 1  # the order decides the work, not the result


Edges = dict[tuple[str, str], float]


def eliminated(edges: Edges, vertices: list[str], markowitz: bool = False) -> tuple[Edges, int]:
    """The edges that are left without some vertices, and the products it took: in order, or the fewest next."""
    edges, left, products = dict(edges), list(vertices), 0

    def ways(k: str) -> tuple[list[str], list[str]]:
        return [i for i, j in edges if j == k], [j for i, j in edges if i == k]

    while left:
        vertex = min(left, key=lambda k: math.prod(map(len, ways(k)))) if markowitz else left[0]
        left.remove(vertex)
        into, out = ways(vertex)
        for i in into:
            for j in out:
                edges[i, j] = edges.get((i, j), 0.0) + edges[i, vertex] * edges[vertex, j]
                products += 1
        edges = {pair: value for pair, value in edges.items() if vertex not in pair}
    return edges, products


def test_an_order_between_forward_and_reverse_can_be_cheaper_than_both() -> None:
    """Three parameters into a chain v0 … v5, three outputs out of it: 24 products either way, 16 by Markowitz.

    From the parameters on: 3 for each of v0 … v4 and 9 for v5. By the fewest products: 1 for each of v1 … v4, 3, 9.
    """
    program = lg.Program("waist")
    x = program.parameter("x", [0.3, -0.5, 0.8])
    value = program.define("v0", lg.sin(x[0]) * x[1] + x[2] ** 2)
    for k in range(1, 6):
        value = program.define(f"v{k}", lg.sin(value) + 0.1 * k)
    for k in range(3):
        program.define(f"y{k}", lg.exp(-(k + 1.0) * value))
    solution = lg.build(program).solve()
    R_u, R_p = partials(solution)
    names = [item.name for item in program.states.items]
    edges = {
        (before, name): float(c)
        for i, name in enumerate(names)
        for before, c in zip(
            ["x0", "x1", "x2", *names], [*-R_p[i], *(np.eye(len(names)) - R_u)[i]], strict=True
        )
        if c
    }
    vertices, counts = [f"v{k}" for k in range(6)], []
    expected = solution.jacobian(of=["y0", "y1", "y2"])
    for order, markowitz in ((vertices, False), (vertices[::-1], False), (vertices, True)):
        found, products = eliminated(edges, order, markowitz)
        counts.append(products)
        for k in range(3):
            row = [found[f"x{j}", f"y{k}"] for j in range(3)]
            np.testing.assert_allclose(row, expected[f"y{k}", "x"].ravel(), rtol=1e-13)
    assert counts == [24, 24, 16]


# -- Christianson: the adjoint of a fixed point ----------------------------------------------------------------------
def test_the_adjoint_iteration_converges_to_the_multipliers_at_the_rate_of_the_iteration() -> None:
    program, (W, b, c) = contraction()
    solution = lg.build(program).solve()
    y, p = np.asarray(solution["y"]), np.asarray(solution["p"])
    slope = (1 - np.tanh(W @ y + p) ** 2) / 2
    phi_y = slope[:, None] * W
    rate = np.abs(np.linalg.eigvals(phi_y)).max()
    assert 0.2 < rate < 1.0
    x, lam = np.zeros(3), np.zeros(3)
    distance: list[tuple[float, float]] = []
    exact = np.asarray(solution.multipliers("J")["law"])
    for _ in range(60):
        x = np.tanh(W @ x + p) / 2 + b
        lam = phi_y.T @ lam + c
        distance.append((np.abs(x - y).max(), np.abs(lam - exact).max()))
    np.testing.assert_allclose(lam, exact, rtol=1e-12)
    (x1, l1), (x2, l2) = distance[10], distance[25]
    np.testing.assert_allclose([(x2 / x1) ** (1 / 15), (l2 / l1) ** (1 / 15)], rate, rtol=0.05)
    np.testing.assert_allclose(solution.gradient("J")["p"], slope * exact, rtol=1e-12)


def test_the_derivative_of_iterations_is_wrong_where_their_value_is_right() -> None:
    """u ← u + (p − u²)/4 from √2 at p = 2 stays there; its derivative has come to (1 − rⁿ)/(2 √2) after n steps."""
    root = math.sqrt(2.0)
    rate = 1 - root / 2  # ∂Φ/∂u

    def step(u: Any, p: Any) -> Any:
        return u + (p - u * u) / 4

    def iterated(p: Any, n: int) -> Any:
        u = root
        for _ in range(n):
            u = step(u, p)
        return u

    for n in (1, 2, 5, 40):
        value, slope = lg.value_and_grad(lambda p, n=n: iterated(p, n))(2.0)
        np.testing.assert_allclose(value, root, rtol=1e-15)
        np.testing.assert_allclose(slope, (1 - rate**n) / (2 * root), rtol=1e-13)
    limit = lg.grad(lambda p: lg.fixed_point(lambda u: step(u, p), root))(2.0)
    np.testing.assert_allclose(limit, 1 / (2 * root), rtol=1e-14)


def test_the_number_of_iterations_leaves_no_trace_in_the_gradient() -> None:
    """u² == p at p = 2 by Newton's method from near and from far: 1/(2 √2) every time."""
    program = lg.Program("root")
    p = program.parameter("p", 2.0)
    u = program.state("u", guess=1.0)
    program.constrain(u * u == p)
    system = lg.build(program)
    counts = set()
    for start in (math.sqrt(2.0), 1.5, 40.0, 1e6):
        solution = system.solve(start={"u": start})
        counts.add(solution.report.total_iterations)
        # a state is solved until its residual is a few roundings, so its derivative is known to as many
        np.testing.assert_allclose(solution.gradient("u")["p"], 0.35355339059327376, rtol=1e-14)
    assert len(counts) >= 3


# -- Hwang and Martins: one equation -------------------------------------------------------------------------------
def test_the_multipliers_of_all_states_are_the_inverse_of_the_jacobian() -> None:
    """R_u (du/dr) = I = R_uᵀ (du/dr)ᵀ: a row of du/dr is one output's multipliers, a column one response."""
    solution = loop_in_chain()
    program = program_of(solution)
    R_u, R_p = partials(solution)
    inverse = np.array(
        [flat(solution.multipliers(program.state_name(j))) for j in range(program.states.size)]
    )
    identity = np.eye(R_u.shape[0])
    np.testing.assert_allclose(R_u @ inverse, identity, atol=1e-13)
    np.testing.assert_allclose(inverse @ R_u, identity, atol=1e-13)
    for k, name in enumerate(solution.parameters):
        column = flat({s: solution.jacobian(of=[s], wrt=[name])[s, name] for s in solution.states})
        np.testing.assert_allclose(-inverse @ R_p[:, k], column, rtol=1e-12)


def test_direct_and_adjoint_are_the_two_sides_of_one_equation() -> None:
    solution = loop_in_chain()
    outputs = list(solution.states)
    tangent = solution.jacobian(of=outputs, mode="tangent")
    adjoint = solution.jacobian(of=outputs, mode="adjoint")
    for key, values in tangent.items():
        np.testing.assert_allclose(adjoint[key], values, rtol=1e-12, atol=1e-15)


# -- Gilbert and Peierls: where a triangular solve is nonzero --------------------------------------------------------
def test_the_solution_of_a_triangular_system_is_nonzero_where_the_graph_leads() -> None:
    """L x = b: x_i is nonzero for all i that can be reached from the nonzeros of b along the columns of L."""
    random = np.random.default_rng(5)
    n = 40
    L = np.tril((random.random((n, n)) < 0.06) * random.uniform(0.5, 1.5, (n, n)), -1) + np.eye(n)
    b = np.zeros(n)
    b[[3, 11]] = 1.0, -0.7
    reached, stack = set(), [3, 11]
    while stack:
        k = stack.pop()
        if k not in reached:
            reached.add(k)
            stack.extend(np.flatnonzero(L[k + 1 :, k] != 0) + k + 1)
    assert 2 < len(reached) < n
    program = lg.Program("triangular")
    right = program.parameter("b", b)
    x = program.state("x", guess=np.zeros(n))
    program.constrain(L @ x == right)
    solved = np.asarray(lg.build(program).solve()["x"])
    assert set(np.flatnonzero(solved)) == reached


# -- LeCun: layers --------------------------------------------------------------------------------------------------
def network() -> tuple[lg.Program, dict[str, np.ndarray]]:
    """Two layers x_k == tanh(W_k x_{k−1}) and a squared distance, as constraints between layers."""
    rng = np.random.default_rng(1)
    numbers = {"x0": rng.normal(size=3), "W1": rng.normal(size=(4, 3)), "W2": rng.normal(size=(2, 4))}
    program = lg.Program("network")
    x0, W1, W2 = (program.parameter(name, value) for name, value in numbers.items())
    x1 = program.state("x1", guess=np.zeros(4))
    x2 = program.state("x2", guess=np.zeros(2))
    program.constrain(x1 == lg.tanh(W1 @ x0), name="layer1")
    program.constrain(x2 == lg.tanh(W2 @ x1), name="layer2")
    program.define("cost", ((x2 - np.array([0.3, -0.5])) ** 2).sum() / 2)
    return program, numbers


def test_the_multipliers_of_layers_are_the_errors_that_backpropagation_passes_back() -> None:
    program, n = network()
    solution = lg.build(program).solve()
    x1 = np.tanh(n["W1"] @ n["x0"])
    x2 = np.tanh(n["W2"] @ x1)
    error2 = x2 - np.array([0.3, -0.5])
    error1 = n["W2"].T @ (error2 * (1 - x2**2))
    multipliers = solution.multipliers("cost")
    np.testing.assert_allclose(multipliers["layer2"], error2, rtol=1e-13)
    np.testing.assert_allclose(multipliers["layer1"], error1, rtol=1e-13)
    gradient = solution.gradient("cost")
    np.testing.assert_allclose(gradient["W2"], np.outer(error2 * (1 - x2**2), x1), rtol=1e-13)
    np.testing.assert_allclose(gradient["W1"], np.outer(error1 * (1 - x1**2), n["x0"]), rtol=1e-13)


def test_equal_weights_add_their_gradients() -> None:
    """A weight shared by two places: the gradient is the sum of what the places would have each."""

    def program(shared: bool) -> lg.Program:
        out = lg.Program("shared")
        first = out.parameter("w", 0.8)
        second = first if shared else out.parameter("v", 0.8)
        hidden = out.define("hidden", lg.tanh(first * 0.7))
        out.define("cost", lg.sin(second * hidden) * first)
        return out

    apart = backprop(program(False), "cost").gradient
    together = lg.build(program(True)).solve().gradient("cost")
    np.testing.assert_allclose(together["w"], apart["w"] + apart["v"], rtol=1e-14)

    tied = lg.Program("tied")  # v a state, equal to w by one more constraint
    w = tied.parameter("w", 0.8)
    v = tied.define("v", w)
    tied.define("cost", lg.sin(v * tied.define("hidden", lg.tanh(w * 0.7))) * w)
    solution = lg.build(tied).solve()
    np.testing.assert_allclose(solution.multipliers("cost")["v"], apart["v"], rtol=1e-14)
    np.testing.assert_allclose(solution.gradient("cost")["w"], together["w"], rtol=1e-14)


# -- Almeida and Pineda: a network at rest ----------------------------------------------------------------------------
def test_a_relaxing_network_and_its_adjoint_come_to_rest_at_states_and_multipliers() -> None:
    """dy/dt = −y + Φ(y) and dλ/dt = −λ + Φ_yᵀ λ + J_y by Euler steps, long enough."""
    program, (W, b, c) = contraction()
    solution = lg.build(program).solve()
    p = np.asarray(solution["p"])
    y, lam, dt = np.zeros(3), np.zeros(3), 0.2
    for _ in range(600):
        y = y + dt * (-y + np.tanh(W @ y + p) / 2 + b)
    np.testing.assert_allclose(y, solution["y"], rtol=1e-13)
    phi_y = (1 - np.tanh(W @ y + p) ** 2)[:, None] / 2 * W
    for _ in range(600):
        lam = lam + dt * (-lam + phi_y.T @ lam + c)
    np.testing.assert_allclose(lam, solution.multipliers("J")["law"], rtol=1e-13)


def test_an_adjoint_needs_no_stability_that_newtons_method_does_not() -> None:
    """y == 3 tanh(y) + p near 0: the relaxing network runs away, as does its adjoint; λ is 1/(1 − 3 sech² y)."""
    program = lg.Program("unstable")
    p = program.parameter("p", 0.1)
    y = program.state("y", guess=0.0)
    program.constrain(y == 3 * lg.tanh(y) + p, name="law")
    solution = lg.build(program).solve()
    at = float(solution["y"])
    slope = 3 * (1 - math.tanh(at) ** 2)
    multiplier = 1 / (1 - slope)
    np.testing.assert_allclose(solution.multipliers("y")["law"], multiplier, rtol=1e-14)
    assert multiplier < 0
    z, lam, dt = (
        at + 1e-6,
        multiplier + 1e-6,
        0.1,
    )  # dz/dt = −z + Φ(z) and dλ/dt = −λ + Φ_y λ + 1, beside the rest
    for _ in range(200):
        z, lam = z + dt * (-z + 3 * math.tanh(z) + 0.1), lam + dt * (-lam + slope * lam + 1)
    assert abs(z - at) > 1.0 and abs(lam - multiplier) > 1.0


# -- Platt and Barr: the Lagrangian moved on ------------------------------------------------------------------------
def test_the_lagrangian_has_a_saddle_where_the_problem_has_its_minimum() -> None:
    example = load("examples/hock_schittkowski.py")
    for name, case in example.EXPECTED.items():
        program = example.build(name)
        states = {f"x{k + 1}": value for k, value in enumerate(case.x)} | {"f": case.f}
        multipliers = {f"c{k + 1}": value for k, value in enumerate(case.multipliers)} | {"f": 1.0}
        point = program.lagrangian("f").at(states, multipliers=multipliers)
        values = np.linalg.eigvalsh(point.kkt.toarray())
        constraints = len(case.multipliers) + 1  # that of f too
        assert (values < 0.0).sum() == constraints and (values > 1e-9).sum() == values.size - constraints


def _moved(rho: float, steps: int) -> float:
    """How far from (1/2, 1/2) ascent and descent are for min 0 subject to x + 2 y == 3/2, explicit steps of 0.01."""
    z, lam = np.array([0.9, -0.2]), 0.4
    normal = np.array([1.0, 2.0])
    for _ in range(steps):
        c = normal @ z - 1.5
        z, lam = z + 0.01 * normal * (lam - rho * c), lam - 0.01 * (normal @ z - 1.5)
    return abs(float(normal @ z - 1.5)) + abs(float(lam))


def test_descent_and_ascent_circle_without_damping() -> None:
    assert _moved(0.0, 4000) > 0.5 * _moved(0.0, 1)
    assert _moved(2.0, 4000) < 1e-6
    program = lg.Program("plane")
    x = program.state("x", guess=[0.9, -0.2])
    program.constrain(x[0] + 2 * x[1] == 1.5, name="plane")
    program.define("J", (x[0] - 0.5) ** 2 + (x[1] - 0.5) ** 2)
    result = lg.minimize(program, "J", method="primal-dual", tolerance=1e-9)
    assert result.success
    np.testing.assert_allclose(result.states["x"], 0.5, atol=1e-8)


def test_a_penalty_alone_is_off_by_the_multiplier_over_it() -> None:
    """HS7's constraint at the minimum of J + ρ/2 C², by Newton's method of SymPy's formulas, against −λ/ρ."""
    a, b = sympy.symbols("a b", real=True)
    J, C = sympy.log(1 + a**2) - b, (1 + a**2) ** 2 + b**2 - 4
    lam = load("examples/hock_schittkowski.py").EXPECTED["HS7"].multipliers[0]
    for rho in (1e2, 1e4):
        slope = sympy.diff(J + rho / 2 * C**2, b).subs(a, 0)
        root = sympy.nsolve(slope, b, 1.73)
        assert float(C.subs({a: 0, b: root})) == pytest.approx(-lam / rho, rel=2 / rho)
