"""Regions of attraction: proved, simulated from their boundary, and never global without reason."""

from __future__ import annotations

import builtins
import math
from dataclasses import replace

import control
import numpy as np
import pytest

from lipctrl import rules
from lipctrl.analysis import IncrementalBall, ball_test
from lipctrl.analysis.l2_gain import regional_gain, structured_gain
from lipctrl.analysis.region import region_of_attraction
from lipctrl.rules import Layer, Output
from lipctrl_envs.lure import LureForm

MASS, LENGTH, FRICTION, DT = 0.15, 0.5, 0.5, 0.02


def pendulum(z_max: float = math.pi / 2) -> LureForm:
    """Return the inverted pendulum of Yin, Seiler & Arcak (2021), §V-A: explicit Euler, ψ = sin."""
    inertia = MASS * LENGTH**2
    lower = math.cos(z_max) if z_max < math.pi else -1.0
    return LureForm(
        A=np.array([[1.0, DT], [0.0, 1.0 - DT * FRICTION / inertia]]),
        B=np.array([[0.0], [DT / inertia]]),
        B_w=np.array([[0.0], [DT * 9.81 / LENGTH]]),
        C_z=np.array([[1.0, 0.0]]),
        D_zu=np.zeros((1, 1)),
        lower=np.array([lower]),
        upper=np.array([1.0]),
        z_max=np.array([z_max]),
        C=np.eye(2),
        D_w=np.zeros((2, 1)),
        y_0=np.zeros(2),
        dt=DT,
        psi=np.sin,
    )


@pytest.fixture
def policy(network):
    return rules.centered([[-1.2, -0.15]], network(0, 2, 1, 4, 0.1))


def test_boundary_converges_without_saturation(policy):
    region = region_of_attraction(pendulum(), policy, action_limit=0.7, state_limits=[2.5, 6.0])
    path, actions = region.simulate(region.boundary(48), 1500)
    assert np.abs(actions).max() <= 0.7
    assert region.contains(path[1:]).all()
    assert np.abs(path[-1] - region.center).max() < 1e-9
    offsets = path - region.center
    energy = np.einsum("tni,ij,tnj->tn", offsets, region.shape, offsets)
    moving = energy[:-1] > 1e-12
    assert (energy[1:][moving] <= region.decay**2 * energy[:-1][moving] * (1 + 1e-6)).all()
    assert region.volume > 2.0
    assert not region.is_global
    assert "volume" in str(region)


def test_limits_shrink_the_region_and_bind(policy):
    wide = region_of_attraction(pendulum(), policy, action_limit=0.7, state_limits=[2.5, 6.0])
    narrow = region_of_attraction(pendulum(), policy, action_limit=0.3, state_limits=[2.5, 6.0])
    assert narrow.volume < wide.volume
    small = region_of_attraction(pendulum(), policy, state_limits=[0.1, 6.0])
    assert small.extent[0] <= 0.1 * (1 + 1e-9)
    assert small.extent[0] > 0.095


def test_a_global_claim_only_where_nothing_limits(network):
    """With heavy gravity compensation the slope interval [-1, 1] of sin is contracted everywhere."""
    form = replace(pendulum(math.inf), A=np.array([[0.9, DT], [0.0, 0.5]]), B_w=np.array([[0.0], [0.01]]))
    quiet = rules.centered([[0.0, 0.0]], network(1, 2, 1, 4, 0.01))
    region = region_of_attraction(form, quiet, local=False)
    assert region.is_global
    assert region.volume == math.inf
    limited = region_of_attraction(form, quiet, action_limit=0.5, local=False)
    assert not limited.is_global


def test_a_bias_moves_the_equilibrium():
    layers = [Layer({0: 0.3 * np.eye(2)}, "tanh", np.array([0.2, -0.1]))]
    net = rules.prove_neurons(layers, Output({1: [[0.1, 0.05]]}), [[1.0, 1.0]], 0.5, in_features=2, limit=1.0)
    region = region_of_attraction(
        pendulum(), rules.centered([[-1.2, -0.15]], net), action_limit=0.7, state_limits=[2.5, 6.0]
    )
    assert np.abs(region.center).max() > 1e-4
    path, _ = region.simulate(region.boundary(16), 1500)
    assert np.abs(path[-1] - region.center).max() < 1e-9


def test_unstable_policies_get_no_region(network):
    weak = rules.centered([[-0.1, -0.05]], network(0, 2, 1, 4, 0.01))
    with pytest.raises(ValueError, match="no region of attraction was proved"):
        region_of_attraction(pendulum(), weak, action_limit=0.7, state_limits=[2.5, 6.0], local=False)


def test_bad_data_is_refused(policy):
    with pytest.raises(ValueError, match="positive numbers"):
        region_of_attraction(pendulum(), policy, action_limit=-1.0)
    with pytest.raises(ValueError, match="decay"):
        region_of_attraction(pendulum(), policy, decay=1.0)
    with pytest.raises(ValueError, match="Lur'e form"):
        region_of_attraction(control.tf([1], [1, 1]), policy)
    with pytest.raises(ValueError, match="observations"):
        region_of_attraction(pendulum(), rules.linear([[1.0]]))
    with pytest.raises(ValueError, match="finite"):
        region_of_attraction(replace(pendulum(), upper=np.array([np.inf])), policy)


def test_a_missing_solver_names_the_extra(policy, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "cvxpy":
            raise ImportError("no cvxpy")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"lipctrl\[lmi\]"):
        region_of_attraction(pendulum(), policy)


def test_regional_gain_bounds_what_simulation_shows(policy):
    region = region_of_attraction(pendulum(), policy, action_limit=0.7, state_limits=[2.5, 6.0])
    bound = regional_gain(region)
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(5):
        d = 0.05 * np.repeat(rng.standard_normal((40, 1, 2)), 10, axis=0)
        x = np.zeros((2, 2))
        dy = du = 0.0
        for r in d:
            u = np.array([policy.evaluate(s) for s in x])[:, 0] + r[0]
            y = x
            x = x @ region.form.A.T + u[:, None] @ region.form.B.T + np.sin(x[:, :1]) @ region.form.B_w.T
            dy, du = dy + float(((y[0] - y[1]) ** 2).sum()), du + float((r[0][0] - r[0][1]) ** 2)
        worst = max(worst, math.sqrt(dy / du))
    assert 0.1 * bound < worst <= bound


def test_structured_gain_equals_the_balls_where_only_the_ball_is_known(double_integrator):
    ball = IncrementalBall([[-1.0, -2.0]], 0.2)
    bound = ball_test(double_integrator, ball).gain
    assert structured_gain(double_integrator, ball) == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize("dt", [0.0, 0.1])
def test_units_do_not_change_the_gain(dt):
    a, b = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.005], [0.1]])
    if dt == 0.0:
        a = np.array([[0.0, 1.0], [0.0, -0.5]])
    bend = rules.series(rules.linear([[0.0, 0.3]]), rules.elementwise("tanh", 1))

    def gain(units, newton):
        """Return the gain in the first units of a loop whose states and action are measured in others."""
        system = control.ss(
            a * units[:, None] / units,
            b * units[:, None] / newton,
            np.diag(1.0 / units),
            np.zeros((2, 1)),
            dt,
        )
        policy = rules.centered(
            newton * np.array([[-1.0, -1.7]]), rules.series(bend, rules.linear([[-0.2 * newton]]))
        )
        return newton * structured_gain(system, policy)

    plain = gain(np.ones(2), 1.0)
    assert plain < 1.1
    for units, newton in (([1e6, 1.0], 1.0), ([1e-5, 1e5], 1e-3), ([1e-8, 1e-8], 1e6)):
        assert gain(np.array(units), newton) == pytest.approx(plain, rel=1e-4)
