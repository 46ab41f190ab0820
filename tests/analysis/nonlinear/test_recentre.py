"""Best centres, and linear models with a sampled error."""

from __future__ import annotations

import control
import numpy as np
import pytest

from lipctrl import rules
from lipctrl.analysis import as_ball, ball_test
from lipctrl.analysis.linearize import sampled_linearization
from lipctrl.analysis.recentre import best_centre, recentred_ball


@pytest.mark.parametrize("seed", range(3))
def test_the_recentred_ball_holds_the_policy_and_is_smaller(seed, network):
    policy = network(seed, 3, 2, 6, 1.0)
    ball = recentred_ball(policy)
    assert ball.radius < policy.gain
    rng = np.random.default_rng(seed)
    y, z = 3.0 * rng.standard_normal((2, 2000, 3))
    change = policy.evaluate(y) - policy.evaluate(z) - (y - z) @ ball.center.T
    ratio = np.linalg.norm(change, axis=1) / np.linalg.norm(y - z, axis=1)
    assert ratio.max() <= ball.radius
    assert recentred_ball(policy, center=np.zeros((2, 3))).radius <= policy.gain * (1 + 1e-6)


def test_a_centre_makes_an_unstable_plant_certifiable():
    """A one-signed slope interval [2, 4] around an unstable plant: no gain bound helps, a centre does."""
    plant = control.ss([[1.0]], [[1.0]], [[1.0]], [[0.0]])
    policy = rules.total(
        rules.linear([[-2.0]]), rules.series(rules.linear([[-2.0]]), rules.elementwise("tanh", 1))
    )
    assert ball_test(plant, policy).verdict == "nominally unstable"
    test = best_centre(plant, policy)
    assert test.verdict == "certified"
    assert test.margin == pytest.approx(2.0, rel=1e-3)


def test_best_centre_is_never_worse_than_the_own_one(network, double_integrator):
    policy = rules.centered([[-2.0, -3.0]], network(0, 2, 1, 5, 0.6))
    assert (
        best_centre(double_integrator, policy).margin >= ball_test(double_integrator, as_ball(policy)).margin
    )


def test_sampled_linearization_bounds_are_what_they_say():
    model = sampled_linearization(
        lambda x, u: np.array([x[0] + 0.1 * x[1], x[1] + 0.1 * np.sin(x[0]) + 0.1 * u[0]]),
        [0.0, 0.0], [0.0], dt=0.1, radius=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(model.system.A, [[1.0, 0.1], [0.1, 1.0]], atol=1e-8)
    assert 0.0 < model.error < 0.1 * (1.0 - np.sin(1.0)) * 1.01
    assert "not certified" in str(model)
    with pytest.raises(ValueError, match="next state"):
        sampled_linearization(lambda x, u: np.array([np.nan]), [0.0], [0.0], dt=0.1)
