"""A warm start sees what a cold one sees of a root: where it is multiple, no derivative comes out.

The systems are large blocks (`dense_max=1`), so that steps on factors of the solution before are tried first.
"""

from __future__ import annotations

import numpy as np
import pytest

import lagrad as lg


def crossing(a: float, others: int) -> lg.System:
    """(y - a)(y - a - p) = 0, y written as y and z / b: two branches that cross at p = 0, where the root is double.

    From the solution a + 1 at p = 1 one step on the old factors lands on the crossing. `others` move farther.
    """
    b = 1 / 3
    program = lg.Program("crossing")
    p = program.parameter("p", 1.0)
    y, z = program.state("y", guess=a + 1.0), program.state("z", guess=(a + 1.0) * b)
    product = (y - a) * (z / b - a - p)
    if others:
        x = program.state("x", guess=np.ones(others))
        program.constrain(x == 100.0 * (1.0 - p) + 1.0 + 1e-9 * y, name="x")
        product = product + 1e-300 * lg.sum(x)
    program.constrain(product == 0.0, name="product")
    program.constrain(y * b == z, name="tie")
    return lg.build(program, dense_max=1)


@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("a", [0.3, 1.7, 0.1, 0.7])
def test_a_step_on_old_factors_that_lands_on_a_double_root_shows_no_simple_one(a: float, others: int) -> None:
    system = crossing(a, others)
    before = system.solve()
    np.testing.assert_allclose(before.gradient("y")["p"], 1.0, rtol=1e-12)
    warm = system.solve({"p": 0.0}, start=before)
    assert abs(warm["y"] - a) < 1e-13
    assert warm.report.total_iterations >= 1  # the step that was taken
    with pytest.raises(lg.errors.SingularError, match="product"):
        warm.gradient("y")


def test_off_the_crossing_a_warm_start_still_takes_old_factors() -> None:
    system = crossing(0.3, 0)
    before = system.solve()
    warm = system.solve({"p": 0.97}, start=before)
    assert warm.report.counters.refactorizations == 0
    np.testing.assert_allclose(warm.gradient("y")["p"], 1.0, rtol=1e-12)
