"""Attacks find what is there, and certified loops resist them."""

from __future__ import annotations

import itertools

import control
import numpy as np
import pytest
from matplotlib import pyplot as plt

from lipctrl import rules
from lipctrl.analysis import IncrementalBall, ball_test
from lipctrl.analysis.falsify import (
    falsified_gains,
    loop_step,
    periodic_slopes,
    separating_pair,
    unstable_equilibrium,
)
from lipctrl.analysis.parameter_box import hull_test, sampled_box
from lipctrl.analysis.structured import structured_gain_margin, structured_test
from lipctrl.analysis.synthesis import best_gain, hinf_optimum, max_lipschitz, trade_off


@pytest.fixture
def policy(network):
    return rules.centered([[-2.0, -3.0]], network(1, 2, 1, 6, 0.6))


def test_certified_is_below_falsified(policy, double_integrator):
    margin = structured_gain_margin(double_integrator, policy, tolerance=1e-2, limit=50.0)
    _, above = falsified_gains(double_integrator, policy)
    assert above is not None
    assert margin.upper <= above.factor
    assert above.factor <= 3.0 * margin.upper


def test_an_unstable_equilibrium_is_shown_by_simulation(policy, double_integrator):
    point = unstable_equilibrium(double_integrator, policy, factor=10.0)
    assert point is not None
    a, b = np.asarray(double_integrator.A), np.asarray(double_integrator.B)
    x = point.state + 1e-6
    for _ in range(200):
        x = a @ x + b @ (10.0 * policy.evaluate(x) + point.offset)
    assert np.linalg.norm(x - point.state) > 1e-3


def test_certified_loops_resist_periodic_slopes_and_pairs(policy, double_integrator):
    assert structured_test(double_integrator, policy).verdict == "certified"
    assert not periodic_slopes(double_integrator, policy, period=3, tries=5).separates
    pair = separating_pair(loop_step(double_integrator, policy), 2, disturbances=1, tries=5)
    assert not pair.separates


def test_periodic_slopes_find_a_switching_instability():
    """Each constant slope is stable, switching between them is not: the class is not incrementally stable."""
    plant = control.ss([[0.0, 1.0], [-0.995, 1.2]], [[0.0], [1.0]], [[0.0, 1.0]], [[0.0]], 1.0)
    ball = IncrementalBall([[-1.2]], 1.6)
    constant = periodic_slopes(plant, ball, period=1, tries=4)
    switching = periodic_slopes(plant, ball, period=8, tries=20)
    assert constant.growth < 1.0 < switching.growth
    product = np.eye(2)
    for s in switching.slopes[:, 0]:
        a = np.asarray(plant.A) + np.asarray(plant.B) @ (np.array([[-1.2]]) + s) @ np.asarray(plant.C)
        product = a @ product
    assert np.abs(np.linalg.eigvals(product)).max() == pytest.approx(switching.growth**8, rel=1e-6)
    assert structured_test(plant, ball).verdict == "inconclusive"
    assert ball_test(plant, ball).verdict == "inconclusive"


def test_pairs_that_separate_are_found():
    def step(x, d):
        return x @ np.array([[1.02, 0.0], [0.3, 0.5]])

    pair = separating_pair(step, 2, steps=100, tries=3)
    assert pair.separates
    assert pair.growth == pytest.approx(1.02, rel=1e-3)


def test_hull_of_plants(policy, double_integrator):
    dt = 0.1

    def plant(gain):
        return control.ss([[1.0, dt], [0.0, 1.0]], [[0.0], [gain]], np.eye(2), np.zeros((2, 1)), dt)

    assert hull_test([plant(0.08), plant(0.12)], policy).verdict == "certified"
    assert hull_test([plant(0.08), plant(1.5)], policy).verdict == "inconclusive"
    with pytest.raises(ValueError, match="same states"):
        hull_test([plant(0.1), control.ss([[0.5]], [[1.0]], [[1.0]], [[0.0]], dt)], policy)


def test_sampled_boxes_say_that_they_are_sampled(double_integrator):
    def build(gain):
        return control.ss([[1.0, 0.1], [0.0, 1.0]], [[0.0], [gain]], np.eye(2), np.zeros((2, 1)), 0.1)

    ball = IncrementalBall([[-2.0, -3.0]], 0.5)
    found = sampled_box(build, {"gain": (0.05, 1.0)}, lambda p: ball_test(p, ball).margin, samples=10)
    assert 0 < found.certified < found.samples == 13
    assert "not certified" in str(found)
    assert found.failed
    with pytest.raises(ValueError, match="finite"):
        sampled_box(build, {"gain": (0.0, np.inf)}, lambda p: 1.0)


def test_max_lipschitz_and_trade_off():
    plant = control.ss([[0.0, 1.0], [1.0, -0.5]], [[0.0], [1.0]], np.eye(2), np.zeros((2, 1)))
    assert max_lipschitz(control.tf([1.0], [1.0, -1.0]), [[3.0]]) == pytest.approx(2.0, rel=1e-6)
    assert max_lipschitz(plant, [[0.0, 0.0]]) == 0.0
    curve = trade_off(plant, prices=[0.01, 0.1, 1.0, 10.0])
    front = curve.pareto()
    assert all(a.cost < b.cost and a.lipschitz < b.lipschitz for a, b in itertools.pairwise(front))
    for choice in curve.choices:
        assert (
            ball_test(plant, IncrementalBall(-choice.gain, 0.999 * choice.lipschitz)).verdict == "certified"
        )


def test_a_trade_off_prints_a_table_and_a_gain_says_what_limits_it():
    plant = control.ss(control.tf([1.0], [1.0, -1.0]))
    table = str(trade_off(plant, prices=[0.1, 1.0, 10.0])).splitlines()
    assert len(table) == 4
    assert "cost" in table[0]
    assert "beaten" in table[2]
    found = best_gain(plant)
    assert found.limited
    assert "max_gain" in str(found)
    inner = best_gain(control.ss(control.tf([1.0], [1.0, 1.0])), start=[[0.1]], max_gain=5.0, evaluations=1)
    assert not inner.limited
    assert "max_gain" not in str(inner)


def test_best_gain_beats_its_start_and_respects_the_limit(double_integrator):
    start = [[1.0, 2.0]]
    found = best_gain(double_integrator, start=start, max_gain=6.0, evaluations=80)
    assert found.lipschitz > max_lipschitz(double_integrator, start)
    assert np.linalg.norm(found.gain, 2) <= 6.0
    with pytest.raises(ValueError, match="stabilise"):
        best_gain(double_integrator, start=[[-1.0, 0.0]])


def test_no_static_gain_passes_the_hinf_optimum():
    plant = control.ss([[0.0, 1.0], [1.0, -0.5]], [[0.0], [1.0]], [[1.0, 0.2]], [[0.0]])
    bound = hinf_optimum(plant)
    assert np.isfinite(bound)
    for k in (1.5, 3.0, 10.0):
        assert max_lipschitz(plant, [[k]]) <= bound * (1 + 1e-4)


def test_every_whole_delay_of_a_box_is_judged():
    """A delay is a whole number of samples: all of them are built exactly, with the corners of the other parameters."""
    built = []

    def build(gain, delay):
        assert isinstance(delay, int)
        built.append((gain, delay))
        # x⁺ = 0.9x + gain·u, u delayed by whole samples: poles at zero, exact.
        return control.tf([gain], np.concatenate([[1.0, -0.9], np.zeros(delay)]), 0.1)

    ball = IncrementalBall([[-0.3]], 0.1)
    box = sampled_box(
        build,
        {"gain": (0.5, 1.0), "delay": (0, 6)},
        lambda p: ball_test(p, ball).margin,
        integers=["delay"],
        samples=5,
    )
    assert {d for _, d in built} == set(range(7))
    assert box.samples == 7 * 3 + 5
    # The longest delay with the largest gain is the worst, and is not certified.
    assert box.at == {"gain": 1.0, "delay": 6}
    assert box.failed
    assert box.certified > 0
    for bad in ({"integers": ["mass"]}, {"integers": ["gain"]}):
        with pytest.raises(ValueError, match=r"box|whole"):
            sampled_box(build, {"gain": (0.2, 0.8), "delay": (0, 2)}, lambda p: 2.0, **bad)


def test_a_stable_plant_with_some_states_unmeasured_needs_no_starting_gain():
    plant = control.ss(
        [[0, 1, 0], [-2, -0.6, 1], [0, 0, -3]], [[0], [0], [3]], [[1, 0, 0], [0, 1, 0]], np.zeros((2, 1))
    )
    found = best_gain(plant)
    assert found.lipschitz > 3.0 * max_lipschitz(plant, np.zeros((1, 2)))
    assert found.lipschitz == max_lipschitz(plant, found.gain)
    # sb10ad claims 0.0078 for this plant at its smallest regularisation: a proved budget refutes it.
    assert found.bound >= found.lipschitz
    with pytest.raises(ValueError, match="start=K"):
        best_gain(control.tf([1], [1, 1, -1]))


def test_attacks_say_what_they_found():
    def apart(x, d):
        return 1.1 * x

    def together(x, d):
        return 0.9 * x

    grown, shrunk = (separating_pair(step, 2, steps=20, tries=2) for step in (apart, together))
    assert grown.separates
    assert "separates" in str(grown)
    np.testing.assert_allclose(grown.distance, 1e-3 * 1.1 ** np.arange(21), rtol=1e-6)
    assert "proves nothing" in str(shrunk)
    ax = grown.plot()
    assert "separates" in ax.get_title(loc="left")
    assert "nothing found" in shrunk.plot().get_title(loc="left")
    plt.close("all")
