"""A definition may determine another state, when its own is given by a constraint of an earlier block."""

from __future__ import annotations

import numpy as np

import lagrad as lg

FEED = 0.5


def tank() -> lg.Program:
    """Torricelli's outflow is defined from the level, and the balance demands what it must be."""
    program = lg.Program("tank")
    feed = program.parameter("feed", FEED)
    level = program.state("level", guess=1.0)
    outflow = program.define("outflow", 0.1 * lg.sqrt(2 * 9.81 * level))
    program.constrain(outflow == feed, name="balance")
    return program


def test_a_guess_does_not_overwrite_a_state_that_an_earlier_block_determined() -> None:
    solution = lg.build(tank()).solve()
    level = (FEED / 0.1) ** 2 / (2 * 9.81)
    np.testing.assert_allclose(float(solution["outflow"]), FEED, rtol=1e-15)
    np.testing.assert_allclose(float(solution["level"]), level, rtol=1e-14)
    assert solution.certificate.residual < 1e-14
    np.testing.assert_allclose(float(solution.gradient("level")["feed"]), 2 * level / FEED, rtol=1e-13)


def meeting(load: float) -> lg.Program:
    """Two currents leave a node at voltage e + j f; they are zero where nothing is drawn there."""
    program = lg.Program("meeting")
    drawn = program.parameter("drawn", load)
    source = program.parameter("source", 1.1)
    e = program.state("e", guess=1.0)
    f = program.state("f", guess=0.0)
    a = program.define("a", 0.7 * (source - e) + 2.1 * f)
    b = program.define("b", -0.7 * f + 2.1 * (source - e))
    program.constrain(e * a + f * b == drawn, name="active")
    program.constrain(f * a - e * b == 0.4 * drawn, name="reactive")
    return program


def test_a_root_at_which_all_terms_of_a_constraint_vanish_is_found_and_differentiated() -> None:
    """With nothing drawn both currents are zero and e = 1.1, f = 0: e a + f b is rounding and nothing else."""
    for dense_max in (1, 48):
        solution = lg.build(meeting(0.0), dense_max=dense_max).solve()
        np.testing.assert_allclose([float(solution["e"]), float(solution["f"])], [1.1, 0.0], atol=1e-15)
        assert solution.certificate.residual < 1e-13
        # there a = (y_r drawn + y_i 0.4 drawn) … by hand: e a = drawn, −e b = 0.4 drawn, and a, b linear in e, f
        e, y = 1.1, np.array([[-0.7, 2.1], [-2.1, -0.7]])
        slope = np.linalg.solve(y, np.array([1.0 / e, -0.4 / e]))
        for name, wanted in zip("ef", slope, strict=True):
            np.testing.assert_allclose(float(solution.gradient(name)["drawn"]), wanted, rtol=1e-12)


def test_a_definition_that_another_state_follows_from_is_guessed_from_the_users_guesses() -> None:
    """log r is solved for, and r follows from its definition backwards; only the guess of r is near the right root."""
    program = lg.Program("radius")
    target = program.parameter("target", -0.99)
    r = program.state("r", guess=float(np.exp(-2.9)))
    x = program.define("x", lg.log(r))
    program.constrain(lg.cos(x) == target, name="turn")
    solution = lg.build(program).solve()
    np.testing.assert_allclose(float(solution["x"]), -np.arccos(-0.99), rtol=1e-14)
