"""Clips and couplings inside a policy: no analysis may mistake them for the actuator's, or for neurons of their own."""

from __future__ import annotations

from dataclasses import replace

import control
import numpy as np
import pytest

from lipctrl import rules
from lipctrl.analysis import analyze
from lipctrl.analysis.ball import as_ball
from lipctrl.analysis.lure_loop import lure_loop, neuron_slopes
from lipctrl.analysis.policy_graph import policy_graph
from lipctrl.analysis.recentre import recentred_ball
from lipctrl.analysis.region import region_of_attraction
from lipctrl.analysis.sectors import neuron_sectors
from lipctrl_envs.lure import LureForm
from tests.analysis.nonlinear.conftest import random_network


def linear_form(a, b, c=None):
    """Return x⁺ = Ax + Bu, y = Cx without any nonlinearity of the plant."""
    n, m = np.shape(b)
    c = np.eye(n) if c is None else np.asarray(c)
    return LureForm(
        A=np.asarray(a), B=np.asarray(b), B_w=np.zeros((n, 0)), C_z=np.zeros((0, n)), D_zu=np.zeros((0, m)),
        lower=np.zeros(0), upper=np.zeros(0), z_max=np.zeros(0), C=c, D_w=np.zeros((len(c), 0)),
        y_0=np.zeros(len(c)), dt=0.1, psi=np.sin,
    )  # fmt: skip


SATURATED = rules.projection(rules.linear([[-0.5]]), [-0.1], [0.1])
HIDDEN_CLIPS = {
    "before a gain": rules.series(SATURATED, rules.linear([[1.0]])),
    "in a residual": rules.centered([[0.0]], SATURATED),
    "inside a wider clip": rules.projection(SATURATED, [-5.0], [5.0]),
    "in a sum": rules.total(SATURATED, rules.linear([[0.0]])),
}


@pytest.mark.parametrize("where", HIDDEN_CLIPS)
@pytest.mark.parametrize("incremental", [True, False])
def test_a_clip_inside_the_policy_stays_in_its_region(where, incremental):
    """x⁺ = 1.1x + clip(-x/2, ±0.1) diverges from |x| > 1: a region that reaches farther is false."""
    form, policy = linear_form([[1.1]], [[1.0]]), HIDDEN_CLIPS[where]
    # Pairs contract where the clip is a line; one equilibrium attracts as far as sectors tell.
    region = region_of_attraction(form, policy, incremental=incremental, state_limits=[0.5])
    assert region.extent[0] < 0.2 if incremental else region.extent[0] < 1.0
    if incremental:
        with pytest.raises(ValueError, match="no region"):
            region_of_attraction(form, policy, local=False)
    else:
        assert region_of_attraction(form, policy, incremental=False).extent[0] < 1.0
    # The very clip, outermost, is an actuator limit, and has a region.
    assert region_of_attraction(form, SATURATED, incremental=incremental).extent[0] < 1.0


@pytest.mark.parametrize("where", HIDDEN_CLIPS)
def test_a_recentred_ball_holds_the_clip_inside(where):
    policy = HIDDEN_CLIPS[where]
    ball = recentred_ball(policy)
    y = np.linspace(-3.0, 3.0, 61)[:, None]
    if ball.scope:
        # What lies outside the scope is the actuator's clip, at ±5.
        assert (np.abs(policy.evaluate(y)) < 5.0).all()
    slopes = np.diff(policy.evaluate(y), axis=0) / np.diff(y, axis=0)
    assert (np.abs(slopes - ball.center[0, 0]) <= ball.radius * (1 + 1e-9)).all()


def test_only_the_outermost_clip_is_left_out_of_a_graph():
    inner = HIDDEN_CLIPS["inside a wider clip"]
    assert policy_graph(inner).neurons == 2
    assert policy_graph(inner, clip=False).neurons == 1
    assert policy_graph(SATURATED, clip=False).neurons == 0
    assert policy_graph(inner).clipped
    assert not policy_graph(HIDDEN_CLIPS["in a residual"]).clipped


def sorted_then_squashed(seed):
    """Return a policy whose second layer sees neurons that sorting exchanged."""
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((4, 2)), rng.standard_normal((3, 4))
    first[0] = 0.0  # this neuron moves only because its neighbour does
    return rules.series(
        rules.linear(first),
        rules.elementwise({"name": "groupsort", "size": 2 if seed % 2 else 4}, 4),
        rules.linear(second, rng.standard_normal(3)),
        rules.elementwise("tanh", 3),
        rules.linear(0.01 * rng.standard_normal((1, 3))),
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["slopes", "sectors"])
def test_local_slopes_count_what_sorting_passes_on(seed, kind):
    form = linear_form(0.5 * np.eye(2), [[0.1], [0.1]])
    graph = policy_graph(sorted_then_squashed(seed))
    lure = replace(lure_loop(form, graph, np.zeros(2)), state=np.zeros(2))
    radius = np.array([0.4, 0.7])
    if kind == "slopes":
        low, high = neuron_slopes(lure, form, radius)
    else:
        low, high = neuron_sectors(lure, form, radius, np.zeros(0))
    x = np.random.default_rng(seed).uniform(-1.0, 1.0, (4000, 2)) * radius
    x = np.vstack([x, radius * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]])])
    _, v, w = graph.values(x)
    last = slice(4, 7)
    rest = graph.values(np.zeros(2))
    step_v, step_w = v[:, last] - rest[1][last], w[:, last] - rest[2][last]
    moved = np.abs(step_v) > 1e-9
    quotient = np.where(moved, step_w / np.where(moved, step_v, 1.0), 0.5 * (low + high)[last])
    assert (quotient >= low[last] - 1e-12).all()
    assert (quotient <= high[last] + 1e-12).all()
    # The slopes at single points, too.
    if kind == "slopes":
        assert (1.0 / np.cosh(v[:, last]) ** 2 >= low[last] - 1e-12).all()


def scaled_policies():
    """Return policies whose observation scale and limits change their gain by orders of magnitude."""
    rng = np.random.default_rng(3)
    scale = np.array([1e-2, 50.0, 0.3])
    net = random_network(7, 3, 2, 5, 1.0)
    small = rules.series(rules.scaling(1.0 / scale), net)
    limited = rules.projection(small, [-0.2, -0.5], [0.1, 3.0])
    gain = 0.3 * rng.standard_normal((2, 3))
    return {
        "scaled": small,
        "limited": limited,
        "residual": rules.projection(rules.centered(gain, small), [-1, -2], [2, 1]),
    }


@pytest.mark.parametrize("name", ["scaled", "limited", "residual"])
def test_the_scale_of_observations_and_the_limits_are_in_every_reading(name):
    policy = scaled_policies()[name]
    y = np.random.default_rng(0).standard_normal((500, 3)) * [1e-2, 50.0, 0.3]
    near = y + 1e-4 * np.random.default_rng(1).standard_normal(y.shape) * [1e-2, 50.0, 0.3]
    ball = as_ball(policy)
    steps = ball.policy(near) - ball.policy(y) - (near - y) @ ball.center.T
    ratios = np.linalg.norm(steps, axis=1) / np.linalg.norm(near - y, axis=1)
    assert ratios.max() <= ball.radius * (1 + 1e-9)
    assert ratios.max() > 1.0  # in scaled units it would be below one
    assert np.allclose(policy_graph(policy).values(y)[0], policy.evaluate(y), atol=1e-12)
    # A claim about the ball of a clipped residual is limited to where the clip rests, and says so.
    assert bool(ball.scope) == (name == "residual")
    if name == "residual":
        plant = control.ss(0.5 * np.eye(3), np.zeros((3, 2)), np.eye(3), np.zeros((3, 2)), 0.1)
        report = analyze(plant, policy, margins=False)
        assert all(
            "actuator limits" in " ".join(t.scope)
            for t in report.tests
            if t.name.startswith("incremental ball")
        )
