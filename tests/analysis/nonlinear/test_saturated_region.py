"""Regions beyond saturation: larger than without, proved from stored numbers, never called incremental."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lipctrl import rules
from lipctrl.activations import activation
from lipctrl.analysis.l2_gain import regional_gain
from lipctrl.analysis.lure_loop import equilibrium_of, lure_loop
from lipctrl.analysis.policy_graph import policy_graph
from lipctrl.analysis.region import region_of_attraction
from lipctrl.analysis.saturated_region import SaturatedLoop, search
from lipctrl.analysis.sectors import sector_bounds, sine_slopes
from lipctrl.positivity import NotProvedError
from lipctrl.rules import Layer, Output
from lipctrl.rules.ranges import slope_range
from lipctrl_envs.lure import LureForm
from tests.analysis.nonlinear.test_region import pendulum


@pytest.fixture
def policy(network):
    return rules.centered([[-1.2, -0.15]], network(0, 2, 1, 4, 0.1))


def converges(region, steps=2000, count=100):
    path, actions = region.simulate(region.boundary(count), steps)
    assert region.contains(path[1:]).all()
    assert np.abs(path[-1] - region.center).max() < 1e-8
    return np.abs(actions)


@pytest.mark.parametrize("torque", [0.7, 0.3])
def test_the_region_reaches_past_saturation(policy, torque):
    plain = region_of_attraction(pendulum(), policy, action_limit=torque, state_limits=[2.5, 6.0])
    wide = region_of_attraction(
        pendulum(), policy, action_limit=torque, state_limits=[2.5, 6.0], incremental=False
    )
    assert wide.volume > 1.5 * plain.volume
    # Commands do saturate on the way.
    assert converges(wide).max() == torque
    assert not wide.incremental
    assert not wide.is_global
    assert "not incremental" in str(wide)
    assert "pairs of trajectories" in str(wide)
    with pytest.raises(ValueError, match="not incremental"):
        regional_gain(wide)


def test_no_state_limits_are_needed(policy):
    wide = region_of_attraction(pendulum(), policy, action_limit=0.3, incremental=False)
    plain = region_of_attraction(pendulum(), policy, action_limit=0.3)
    assert wide.volume > 5.0 * plain.volume
    converges(wide)


def unstable_scalar():
    """Return x⁺ = 1.2 x + u."""
    return LureForm(
        A=np.array([[1.2]]), B=np.eye(1), B_w=np.zeros((1, 0)), C_z=np.zeros((0, 1)), D_zu=np.zeros((0, 1)),
        lower=np.zeros(0), upper=np.zeros(0), z_max=np.zeros(0), C=np.eye(1), D_w=np.zeros((1, 0)), y_0=np.zeros(1),
        dt=0.1, psi=np.positive,
    )  # fmt: skip


def test_a_known_limit_of_saturated_control():
    """x⁺ = a x + sat(u), a > 1: nothing beyond |x| = 1/(a - 1) can return, and most of it is proved."""
    form = unstable_scalar()
    region = region_of_attraction(form, rules.linear([[-0.7]]), action_limit=1.0, incremental=False)
    assert 0.99 / 0.2 < region.extent[0] < 1.0 / 0.2
    plain = region_of_attraction(form, rules.linear([[-0.7]]), action_limit=1.0)
    assert plain.extent[0] < 1.0 / 0.7


def test_a_bias_and_an_uneven_clip(policy):
    layers = [Layer({0: 0.3 * np.eye(2)}, "tanh", np.array([0.2, -0.1]))]
    net = rules.prove_neurons(layers, Output({1: [[0.1, 0.05]]}), [[1.0, 1.0]], 0.5, in_features=2, limit=1.0)
    clipped = rules.projection(rules.centered([[-1.2, -0.15]], net), [-0.4], [0.9])
    wide = region_of_attraction(pendulum(), clipped, incremental=False)
    assert np.abs(wide.center).max() > 1e-4
    _, actions = wide.simulate(wide.boundary(60), 2500)
    assert actions.min() == -0.4
    assert actions.max() <= 0.9
    converges(wide, 2500)


def test_unstable_loops_and_busy_actuators_get_no_region(network, policy):
    weak = rules.centered([[-0.1, -0.05]], network(0, 2, 1, 4, 0.01))
    with pytest.raises(ValueError, match="not stable"):
        region_of_attraction(pendulum(), weak, action_limit=0.7, incremental=False)
    away = rules.projection(policy, [0.1], [0.7])
    with pytest.raises(ValueError, match="rests inside"):
        region_of_attraction(pendulum(), away, incremental=False)


def test_corrupted_numbers_are_not_proved(policy):
    form = pendulum()
    graph = policy_graph(policy)
    lure = lure_loop(form, graph, equilibrium_of(form, graph, np.zeros(2)))
    problem = SaturatedLoop.of(lure, form, (np.array([-0.5]), np.array([0.5])))
    cage = np.array([1.0, 6.0])
    found = search(problem, cage, 0.9999, cage)
    assert not isinstance(found, str)
    limits = [np.zeros(problem.loop.channels) for _ in problem.limits(cage)]
    problem.prove(found, limits, 0.9999)
    low, high = found.sectors
    for spoiled, decay in (
        (replace(found, shape=0.8 * found.shape), 0.9999),
        (replace(found, comparison=3.0 * found.comparison), 0.9999),
        (replace(found, comparison=found.comparison[:, :0]), 0.9999),
        (replace(found, multipliers=-found.multipliers), 0.9999),
        (replace(found, sectors=(low + 0.05, high)), 0.9999),
        (replace(found, cage=0.5 * cage), 0.9999),
        (found, 0.5),
        (found, 1.0),
    ):
        with pytest.raises((NotProvedError, ValueError)):
            problem.prove(spoiled, limits, decay)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu", "leaky_relu", "softplus"])
def test_sectors_hold_every_quotient_and_are_narrower_than_slopes(name):
    sigma = activation(name)
    rng = np.random.default_rng(0)
    center, reach = rng.normal(size=6), rng.uniform(0.05, 4.0, size=6)

    def slopes(low, high):
        return slope_range(sigma, low, high)

    low, high = sector_bounds(slopes, center, reach)
    d = rng.uniform(-1.0, 1.0, (4000, 6)) * reach
    quotient = (sigma.value(center + d) - sigma.value(center)) / d
    assert (quotient >= low - 1e-9).all()
    assert (quotient <= high + 1e-9).all()
    widest = slopes(center - reach, center + reach)
    assert (low >= widest[0] - 1e-9).all()
    assert (high <= widest[1] + 1e-9).all()


def test_sectors_of_the_sine():
    center, reach = np.array([0.0, 1.0, -2.0, 0.5]), np.array([3.0, 4.0, 1.0, 0.01])
    low, high = sector_bounds(sine_slopes, center, reach)
    d = np.linspace(-1.0, 1.0, 4001)[:, None] * reach
    d = d[np.abs(d).min(axis=1) > 0.0]
    quotient = (np.sin(center + d) - np.sin(center)) / d
    assert (quotient.min(axis=0) >= low).all()
    assert (quotient.max(axis=0) <= high).all()
    assert (low >= quotient.min(axis=0) - 0.06).all()
