"""Basins by covers of boxes: enclosures hold, boundaries converge, altered numbers are not proved."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import lipctrl_envs
from lipctrl import rules
from lipctrl.analysis import IncrementalBall, Verdict, basin, basin_gains
from lipctrl.analysis.attraction import cell_loop
from lipctrl.analysis.cell_proof import Ellipsoid, halves, positive_definite, prove_cover
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import NotProvedError
from lipctrl_envs.lure import LureForm
from tests.analysis.nonlinear.test_region import pendulum
from tests.analysis.nonlinear.test_saturated_region import unstable_scalar


def swing_up_policy(activation="relu", bias=0.02, limit=5.0, gain=(24.0, 8.0)):
    """Return a clipped policy of (cos θ, sin θ, θ̇) with kinks near the upright and a shifted equilibrium."""
    rng = np.random.default_rng(3)
    net = rules.series(
        rules.linear(0.4 * rng.standard_normal((6, 3)), 0.1 * rng.standard_normal(6)),
        rules.elementwise(activation, 6),
        rules.linear(0.3 * rng.standard_normal((6, 6)), 0.1 * rng.standard_normal(6)),
        rules.elementwise(activation, 6),
        rules.linear(0.5 * rng.standard_normal((1, 6)), np.array([bias])),
    )
    center = np.array([[0.0, -gain[0], -gain[1]]])
    return rules.projection(rules.centered(center, net), [-limit], [limit])


@pytest.fixture(scope="module")
def found():
    return basin(lipctrl_envs.PendulumSwingUp(), swing_up_policy(), [1.2, 6.0])


@pytest.mark.parametrize("activation", ["relu", "tanh", {"name": "groupsort", "size": 2}])
@pytest.mark.parametrize("gain", [(1.0, 1.0), (0.8, 1.1)])
def test_steps_and_slopes_are_enclosed(activation, gain):
    """Attack: points and pairs of a box, commands beyond the limits included, against the enclosure."""
    loop = replace(cell_loop(lipctrl_envs.PendulumSwingUp(), swing_up_policy(activation), None), gain=gain)
    rng = np.random.default_rng(0)
    m, r = rng.uniform(-1.0, 1.0, (2, 40)), rng.uniform(0.001, 0.2, (2, 40))
    known = loop.enclose(m, r)
    assert known.saturated.any()
    assert not known.saturated.all()
    low, high = (known.slopes.middle() + s * known.slopes.radius for s in (-1.0, 1.0))
    for k in rng.uniform(gain[0], gain[1], 4):
        at = loop.step(m.T, k).T
        assert (np.abs(at - known.image.middle()) <= known.image.radius + 1e-14).all()
        for _ in range(30):
            a, b = (m + r * rng.uniform(-1.0, 1.0, m.shape) for _ in range(2))
            d = (a - b).T
            moved = loop.step(a.T, k) - loop.step(b.T, k)
            ends = np.stack([low * d[:, None, :], high * d[:, None, :]])
            slack = 1e-12
            assert (ends.min(0).sum(-1) - slack <= moved).all()
            assert (moved <= ends.max(0).sum(-1) + slack).all()


def test_a_plant_whose_nonlinearity_sees_the_action():
    """D_zu: the argument of ψ = tanh holds the command; slopes as differences of pairs."""
    plant = lipctrl_envs.LateralVehicle()
    form = plant.lure_form()
    n, p = form.A.shape[0], form.C.shape[0]
    assert form.D_zu.any()
    loop = cell_loop(plant, rules.linear(-0.3 * np.ones((1, p))), plant.action_limit)
    rng = np.random.default_rng(0)
    m, r = 0.1 * rng.standard_normal((n, 30)), np.full((n, 30), 0.02)
    known = loop.enclose(m, r)
    low, high = (known.slopes.middle() + s * known.slopes.radius for s in (-1.0, 1.0))
    assert (np.abs(loop.step(m.T).T - known.image.middle()) <= known.image.radius + 1e-14).all()
    for _ in range(100):
        a, b = (m + r * rng.uniform(-1.0, 1.0, m.shape) for _ in range(2))
        moved = loop.step(a.T) - loop.step(b.T)
        ends = np.stack([low * (a - b).T[:, None, :], high * (a - b).T[:, None, :]])
        assert (ends.min(0).sum(-1) - 1e-12 <= moved).all()
        assert (moved <= ends.max(0).sum(-1) + 1e-12).all()


def test_the_form_is_the_environment():
    plant = lipctrl_envs.PendulumSwingUp()
    import torch

    loop = cell_loop(plant, swing_up_policy(), None)
    x = np.random.default_rng(1).uniform(-3.0, 3.0, (50, 2))
    y = np.stack([np.cos(x[:, 0]), np.sin(x[:, 0]), x[:, 1]], axis=1)
    u = torch.as_tensor(np.clip(loop.graph.values(y)[0], -5.0, 5.0))
    after = plant.transition(torch.as_tensor(x), u)
    assert np.abs(after.numpy() - loop.step(x)).max() < 1e-12


def test_every_boundary_start_converges(found):
    """Attack: starts on the boundary, and uphill in the quadratic from there, never leave and all reach one point."""
    assert found.verdict == Verdict.CERTIFIED
    assert found.extent[0] > 0.3
    assert np.abs(found.center[0]) > 1e-5
    starts = found.boundary(400)
    value = Ellipsoid(found.center, found.shape).value
    rng = np.random.default_rng(0)
    worst = starts
    for _ in range(40):
        moved = worst + 0.02 * found.extent * rng.standard_normal(worst.shape)
        moved = found.center + (moved - found.center) / np.sqrt(value(moved))[:, None]
        better = value(found.loop.step(moved)) > value(found.loop.step(worst))
        worst = np.where(better[:, None], moved, worst)
    assert (value(found.loop.step(worst)) < 1.0).all()
    path = found.simulate(np.vstack([starts, worst]), 1500)
    assert found.contains(found.center + (path - found.center) * (1.0 - 1e-12)).all()
    assert np.ptp(path[-1], axis=0).max() < 1e-8


def test_pairs_approach_inside_the_inner_ellipsoid(found):
    small = Ellipsoid(np.zeros(2), found.inner)
    rng = np.random.default_rng(2)
    directions = rng.standard_normal((4000, 2))
    directions /= np.sqrt(small.value(directions))[:, None]
    x = found.center + directions * rng.uniform(0.0, 1.0, (4000, 1))
    a, b = x[:2000], x[2000:]
    ratio = np.sqrt(small.value(found.loop.step(a) - found.loop.step(b)) / small.value(a - b))
    assert ratio.max() <= found.decay * (1.0 + 1e-9)


def test_stored_numbers_prove_it_again_and_altered_ones_do_not(found):
    assert found.recheck()
    assert not replace(found, shape=found.shape / 4.0).recheck()
    assert not replace(found, inner=found.inner / 1e4).recheck()
    assert not replace(found, shape=found.shape * np.array([[1.0, -1.0], [-1.0, 1.0]])).recheck()
    assert not replace(found, shape=-found.shape).recheck()
    assert not replace(found, shape=found.shape * np.nan).recheck()
    assert not replace(found, center=found.center + np.array([0.05, 0.0])).recheck()
    assert not replace(found, decay=1.0).recheck()
    assert not replace(found, decay=0.5).recheck()
    graph = found.loop.graph
    f0 = Enclosure.exact(graph.f0.middle() * [[1.0, 0.3, 1.0]])
    assert not replace(found, loop=replace(found.loop, graph=replace(graph, f0=f0))).recheck()
    weaker = tuple(0.7 * side for side in found.loop.actuator)
    assert not replace(found, loop=replace(found.loop, actuator=weaker)).recheck()


def test_the_gains_of_the_loop(found):
    gains = basin_gains(found, share=0.4, resolution=0.05)
    assert gains.lower < 0.6
    assert gains.upper > 3.0
    joined = sorted(gains.pieces)
    assert joined[0][0] == gains.lower
    assert joined[-1][1] == gains.upper
    assert all(a[1] == b[0] for a, b in itertools.pairwise(joined))
    rays = found.boundary(60) - found.center
    for k in np.linspace(gains.lower, gains.upper, 9):
        path = found.simulate(found.center + 0.4 * rays, 3000, gain=k)
        assert np.ptp(path[-1], axis=0).max() < 1e-6
    assert gains.unstable_below is not None
    assert gains.unstable_below < gains.lower
    fallen = found.simulate(found.center + 0.01 * rays, 6000, gain=0.98 * gains.unstable_below)
    assert np.abs(fallen[-1] - found.center).max() > 0.02


def test_a_known_limit_of_saturated_control():
    """x⁺ = a x + sat(u), a > 1: nothing beyond |x| = 1/(a - 1) = 5 returns, and nearly all of it is proved."""
    found = basin(unstable_scalar(), rules.linear([[-0.7]]), 10.0, action_limit=1.0)
    assert 4.5 < found.extent[0] < 5.0
    # |a - 0.7k| < 1 without saturation: 2/7 < k < 22/7; at k slightly above 2/7 the equilibria of sat close in.
    gains = basin_gains(found, share=0.2)
    assert gains.lower > 2.0 / 7.0
    assert gains.upper < 22.0 / 7.0
    assert gains.upper > 1.4
    assert gains.unstable_below == pytest.approx(2.0 / 7.0, rel=1e-3)
    assert gains.unstable_above == pytest.approx(22.0 / 7.0, rel=1e-3)


def test_two_inputs_and_global_slopes():
    """Without ψ's own slopes the form's are used; each input has its own limit."""
    dt, zero = 0.1, np.zeros((2, 2))
    form = LureForm(
        A=np.eye(2), B=dt * np.eye(2), B_w=0.02 * np.eye(2), C_z=np.eye(2), D_zu=zero, lower=np.zeros(2),
        upper=np.ones(2), z_max=np.full(2, np.inf), C=np.eye(2), D_w=zero, y_0=np.zeros(2), dt=dt, psi=np.tanh,
    )  # fmt: skip
    found = basin(form, rules.linear([[-2.0, 0.1], [0.0, -1.0]]), [1.0, 1.0], action_limit=[1.0, 0.5])
    assert found.verdict == Verdict.CERTIFIED
    path = found.simulate(found.boundary(50), 800)
    assert np.abs(path[-1]).max() < 1e-6


def test_the_region_of_the_form_is_kept():
    policy = rules.linear([[-1.2, -0.15]])
    free = basin(pendulum(), policy, [2.5, 6.0], action_limit=0.7)
    kept = basin(pendulum(0.3), policy, [2.5, 6.0], action_limit=0.7)
    assert free.extent[0] > 0.31
    assert kept.extent[0] <= 0.3


def test_inconclusive_with_a_reason():
    plant = lipctrl_envs.PendulumSwingUp()
    weak = basin(plant, swing_up_policy(gain=(5.0, 8.0)), [1.2, 6.0])
    assert weak.verdict == Verdict.INCONCLUSIVE
    assert weak.shape is None
    assert "stable" in weak.reason or "equilibrium" in weak.reason
    assert not weak.contains([0.0, 0.0])
    assert not weak.recheck()
    with pytest.raises(ValueError, match="no basin was proved"):
        weak.boundary()
    with pytest.raises(ValueError, match="expected a certified one"):
        basin_gains(weak)


def test_bad_data_is_refused(found):
    plant, policy = lipctrl_envs.PendulumSwingUp(), swing_up_policy()
    for box in ([1.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf]):
        with pytest.raises(ValueError, match="box"):
            basin(plant, policy, box)
    with pytest.raises(ValueError, match="action_limit"):
        basin(plant, policy, [1.0, 1.0], action_limit=0.0)
    with pytest.raises(ValueError, match="observations"):
        basin(lipctrl_envs.Pendulum(), policy, [1.0, 1.0])
    with pytest.raises(ValueError, match="only a gain"):
        basin(pendulum(), IncrementalBall([[-1.2, -0.15]], 0.01), [1.0, 1.0])
    with pytest.raises(ValueError, match="exact form"):
        basin(lipctrl_envs.DoublePendulumCart(), rules.linear(np.ones((1, 6))), np.ones(6))
    for wrong in ({"share": 0.0}, {"share": 1.0}, {"resolution": 0.0}, {"widest": (1.0, 2.0)}):
        with pytest.raises(ValueError, match="expected"):
            basin_gains(found, **wrong)


def test_covers_leave_no_gap_and_definiteness_is_proved():
    rng = np.random.default_rng(0)
    m, r = rng.standard_normal((3, 20)), rng.uniform(0.0, 1.0, (3, 20))
    parts, widths = halves(m, r, np.ones(3))
    points = m + r * rng.uniform(-1.0, 1.0, m.shape)
    inside = (np.abs(points[:, None, :] - parts.reshape(3, 2, 20)) <= widths.reshape(3, 2, 20)).all(axis=0)
    assert inside.any(axis=0).all()
    with pytest.raises(NotProvedError, match="boxes"):
        prove_cover(
            (np.zeros((1, 1)), np.ones((1, 1))), lambda m, r: np.zeros(m.shape[1], bool), np.ones(1), 5
        )
    good = np.array([[2.0, 1.0], [1.0, 2.0]])
    stack = np.stack([good, good - np.eye(2), np.diag([1.0, -1e-9]), np.full((2, 2), np.nan)])
    assert positive_definite(Enclosure.exact(stack)).tolist() == [True, False, False, False]
    assert not positive_definite(Enclosure(good[None], np.full((1, 2, 2), 0.51)))[0]
