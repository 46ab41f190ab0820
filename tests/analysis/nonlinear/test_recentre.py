"""Best centres, and linear models with a sampled error."""

from __future__ import annotations

import control
import numpy as np
import pytest

from lipctrl import rules
from lipctrl.analysis import analyze, as_ball, ball_test
from lipctrl.analysis.linearize import sampled_linearization
from lipctrl.analysis.recentre import best_ball, best_centre, recentred_ball
from tests.analysis.attacks.test_hostile_certificates import on_a_box


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


def test_analyze_finds_the_centre_of_a_policy_that_states_none():
    """A network that learned to stabilise: its gain bound alone says "nominally unstable", its neurons do not."""
    plant = control.ss([[1.0]], [[1.0]], [[1.0]], [[0.0]])
    policy = rules.total(
        rules.linear([[-2.0]]), rules.series(rules.linear([[-2.0]]), rules.elementwise("tanh", 1))
    )
    report = analyze(plant, policy)
    assert report.verdict == "certified"
    # Slopes of u = -φ(y) fill [2, 4]: the centre is 3, and k·[2, 4] exceeds the plant's 1 for k > 1/2.
    assert report.ball.center[0, 0] == pytest.approx(-3.0, rel=1e-3)
    assert report.incremental_gain_margin.lower == pytest.approx(0.5, rel=1e-3)
    assert "found from the policy's neurons" in report.summary()
    assert analyze(plant, policy, structured=False).verdict == "nominally unstable"


def test_a_policy_of_the_wrong_sign_stays_nominally_unstable():
    plant = control.ss([[1.0]], [[1.0]], [[1.0]], [[0.0]])
    policy = rules.total(
        rules.linear([[2.0]]), rules.series(rules.linear([[2.0]]), rules.elementwise("tanh", 1))
    )
    assert analyze(plant, policy).verdict == "nominally unstable"


def test_a_loop_that_only_its_neurons_certify_has_their_gain_margin(network):
    """Forty neurons are too many for the search of a centre, and few enough for the structured inequality."""
    plant = control.ss([[0.9, 0.5], [0.0, 0.9]], [[0.0], [0.1]], np.eye(2), 0.0, 0.1)
    report = analyze(plant, network(0, 2, 1, 40, 0.3))
    assert report.certified
    assert report.incremental_gain_margin is None
    (margin,) = [extra for name, extra in report.extras.items() if "own neurons" in name]
    assert margin.lower <= 1.0 < margin.upper
    assert "own neurons" in report.summary()
    assert not analyze(plant, network(0, 2, 1, 40, 0.3), margins=False).extras


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


@pytest.mark.parametrize("seed", [2, 5, 9, 10, 26])
def test_no_frozen_slope_refutes_a_centre_that_was_found(seed):
    """Attack: pairs against the ball, and the policy's slopes at many points, scaled by the ends of the gain margin."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((2, 2))
    a -= (np.linalg.eigvals(a).real.max() + 0.2) * np.eye(2)
    b, c = rng.standard_normal((2, 1)), np.eye(2)
    net = rules.series(
        rules.linear(0.6 * rng.standard_normal((5, 2)), 0.3 * rng.standard_normal(5)),
        rules.elementwise(("tanh", "relu")[seed % 2], 5),
        rules.linear(0.6 * rng.standard_normal((1, 5))),
    )
    policy = rules.total(net, rules.linear(-1.5 * np.linalg.pinv(b)))
    report = analyze(control.ss(a, b, c, np.zeros((2, 1))), policy)
    y = rng.standard_normal((500, 2)) * 10.0 ** rng.uniform(-2.0, 1.5, (500, 1))
    d = rng.standard_normal((500, 2)) * 10.0 ** rng.uniform(-4.0, 1.0, (500, 1))
    change = policy.evaluate(y + d) - policy.evaluate(y) - d @ report.ball.center.T
    assert (
        np.linalg.norm(change, axis=1) <= report.ball.radius * np.linalg.norm(d, axis=1) * (1.0 + 1e-6)
    ).all()
    if not report.certified:
        return
    margin = report.incremental_gain_margin
    if margin is None:
        margin = next(m for name, m in report.extras.items() if "neurons" in name)
    e = 1e-5 * np.eye(2)
    slopes = np.stack(
        [(policy.evaluate(y + e[i]) - policy.evaluate(y - e[i])) / 2e-5 for i in range(2)], axis=-1
    )
    for k in (margin.lower * (1.0 + 1e-6), 1.0, min(margin.upper, 50.0) * (1.0 - 1e-6)):
        poles = np.linalg.eigvals(a + k * b @ slopes)
        assert poles.real.max() < 1e-6


def test_a_ball_that_holds_everywhere_inherits_no_gain_of_a_box():
    local = on_a_box()
    ball, test = best_ball(control.tf([0.1], [1, 2, 1]), local)
    assert test.verdict == "certified"
    assert ball.region is None
    assert ball.gain is None
    assert local.gain < 1.0
