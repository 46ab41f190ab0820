"""Generated traps: loops on which a plausible wrong theorem says "stable". None may be certified."""

from __future__ import annotations

import math

import control
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lipctrl import rules
from lipctrl.analysis import IncrementalBall, circle_criterion, max_slope
from lipctrl.analysis.falsify import periodic_slopes
from lipctrl.analysis.multipliers import popov_criterion, zames_falb
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.policy_graph import policy_graph
from lipctrl.analysis.slope_loop import slope_loop
from lipctrl.analysis.srg import scaled_relative_graphs
from lipctrl.analysis.structured import structured_gain_margin, structured_test

MANY = settings(max_examples=50, deadline=None, derandomize=True)
FEW = settings(max_examples=4, deadline=None, derandomize=True)
number = st.integers(-200, 200).map(lambda k: 0.01 * k)


def plant_of(values, n, m, dt):
    data = np.array(values, dtype=float)
    a = data[: n * n].reshape(n, n)
    b = data[n * n : n * n + n * m].reshape(n, m)
    c = data[n * n + n * m :][: m * n].reshape(m, n)
    return control.ss(a, b, c, np.zeros((m, m)), dt)


@MANY
@given(st.lists(number, min_size=8, max_size=8), st.integers(0, 3), st.floats(0.05, 1.5))
def test_whatever_is_certified_survives_every_frozen_slope(values, seed, scale):
    """Soundness: certified loops are stable for random admissible slopes, constant and periodic."""
    plant = plant_of([v * 0.6 for v in values], 2, 1, 0.1)
    rng = np.random.default_rng(seed)
    first, last = rng.standard_normal((3, 1)), scale * rng.standard_normal((1, 3)) / 3.0
    policy = rules.series(rules.linear(first), rules.elementwise("relu", 3), rules.linear(last))
    test = structured_test(plant, policy)
    if test.verdict != "certified":
        return
    loop = slope_loop(as_realization(plant), policy_graph(policy))
    assert loop is not None
    for slopes in np.vstack([rng.integers(0, 2, (30, 3)), rng.random((30, 3))]):
        assert np.abs(np.linalg.eigvals(loop.frozen(slopes.astype(float)))).max() < 1.0
    assert not periodic_slopes(plant, policy, period=2, tries=3, sweeps=2).separates


@MANY
@given(st.floats(1.0001, 3.0), st.floats(0.001, 0.3), st.booleans())
def test_no_small_policy_stabilises_an_unstable_plant(pole, gain, discrete):
    """Naive small gain with the L∞ norm, and saturation that is forgotten."""
    plant = control.ss([[pole]], [[1.0]], [[1.0]], [[0.0]], 0.1 if discrete else 0.0)
    gain = min(gain, 0.99 * (pole - 1.0) if discrete else gain)
    assert structured_test(plant, IncrementalBall([[0.0]], gain)).verdict == "nominally unstable"
    clip = rules.projection(rules.linear([[-pole]]), [-1.0], [1.0])
    test = structured_test(plant, clip)
    # A bounded action cannot hold an unstable plant from far away: no unconditional claim.
    assert test.verdict != "certified" or "inactive" in " ".join(test.scope)


@MANY
@given(st.integers(2, 8), st.floats(0.3, 0.95))
def test_an_l_infinity_gain_is_not_an_l2_gain(size, level):
    """Gain `level` in ℓ∞ is up to √size times that in ℓ₂: the loop is refused, not certified."""
    weight = np.zeros((size, size))
    weight[:, 0] = level
    claim = rules.linear(weight, norm="linf")
    assert claim.gain == pytest.approx(level)
    plant = control.ss(np.zeros((size, size)), np.eye(size), np.eye(size), np.zeros((size, size)), 1.0)
    with pytest.raises(ValueError, match="l2"):
        structured_test(plant, claim)
    honest = structured_test(plant, IncrementalBall(np.zeros((size, size)), level * math.sqrt(size)))
    assert (honest.verdict == "certified") is (level * math.sqrt(size) < 1.0)


@FEW
@given(st.floats(0.3, 0.9), st.floats(0.2, 2.8))
def test_zames_falb_slopes_are_not_incremental_slopes(radius, angle):
    """Between the circle value and the Zames-Falb value lie loops that must stay inconclusive."""
    poles = np.poly([radius * np.exp(1j * angle), radius * np.exp(-1j * angle)]).real
    plant = control.tf([1.0, 0.3], poles, True)
    incremental = max_slope(plant)
    assume(math.isfinite(incremental) and incremental < 1e3)
    wide = zames_falb(plant, order=3, odd=True, tolerance=1e-2).slope
    assume(wide > 1.05 * incremental)
    between = 0.5 * (wide + incremental)
    assert circle_criterion(plant, (0.0, between)).verdict != "certified"
    assert scaled_relative_graphs(plant, (0.0, between), omega_num=20).verdict != "certified"
    ball = IncrementalBall([[-0.5 * between]], 0.5 * between)
    assert structured_test(plant, ball).verdict != "certified"


@MANY
@given(st.floats(8.2, 200.0), st.floats(1.001, 1.2))
def test_separation_at_one_scaling_only_is_not_believed(gain, width):
    """1/(s+1)³ with slopes beyond 8: the disc is separated at τ = 1 from far inside, every loop is unstable."""
    graph = scaled_relative_graphs(
        control.tf([1.0], [1.0, 3.0, 3.0, 1.0]), (gain, gain * width), omega_num=20
    )
    assert graph.verdict != "certified"
    assert not graph.guard


@FEW
@given(st.floats(0.05, 0.6), st.floats(0.5, 3.0))
def test_margins_hold_where_the_policy_is_scaled(center, radius_factor):
    dt = 0.1
    plant = control.ss([[1.0, dt], [0.0, 1.0]], [[0.0], [dt]], np.eye(2), np.zeros((2, 1)), dt)
    rng = np.random.default_rng(int(1e6 * center))
    first = rng.standard_normal((3, 2))
    last = 0.1 * radius_factor * rng.standard_normal((1, 3))
    net = rules.series(rules.linear(first), rules.elementwise("tanh", 3), rules.linear(last))
    policy = rules.centered([[-2.0 * center, -3.0 * center]], net)
    if structured_test(plant, policy).verdict != "certified":
        return
    margin = structured_gain_margin(plant, policy, tolerance=0.1, limit=4.0)
    assert margin.lower <= 1.0 <= margin.upper
    graph = policy_graph(policy)
    for k in np.linspace(max(margin.lower, 1e-9), margin.upper, 7):
        loop = slope_loop(as_realization(plant), graph, factor=float(k))
        assert loop is not None
        for slopes in rng.random((10, 3)).round():
            assert np.abs(np.linalg.eigvals(loop.frozen(slopes))).max() < 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("entry", ["A", "B", "C", "radius", "center", "slopes"])
def test_nan_and_inf_are_refused_by_every_door(bad, entry):
    data = {"A": 0.5, "B": 1.0, "C": 1.0, "radius": 0.1, "center": 0.0, "slopes": 1.0}
    data[entry] = bad

    def plant():
        return control.ss([[data["A"]]], [[data["B"]]], [[data["C"]]], [[0.0]], 0.1)

    if entry in "ABC":
        for judge in (
            lambda: structured_test(plant(), IncrementalBall([[0.0]], 0.1)),
            lambda: scaled_relative_graphs(plant(), (0.0, 1.0)),
            lambda: zames_falb(plant()),
            lambda: popov_criterion(plant()),
        ):
            with pytest.raises(ValueError, match=r"NaN|infinite|finite"):
                judge()
    elif entry == "slopes":
        with pytest.raises(ValueError, match="finite"):
            scaled_relative_graphs(plant(), (0.0, bad))
    else:
        with pytest.raises(ValueError, match=r"finite|NaN"):
            structured_test(plant(), IncrementalBall([[data["center"]]], data["radius"]))


def test_the_wrong_sampling_time_is_seen():
    """A gain that is safe at one rate is not certified at a slower one; dt is read from the plant, never assumed."""
    continuous = control.ss([[0.0, 1.0], [2.0, 0.0]], [[0.0], [1.0]], np.eye(2), np.zeros((2, 1)))
    ball = IncrementalBall([[-12.0, -7.0]], 0.5)
    fast, slow = (control.c2d(continuous, dt) for dt in (0.01, 0.5))
    assert structured_test(fast, ball).verdict == "certified"
    assert structured_test(slow, ball).verdict == "nominally unstable"
    with pytest.raises(ValueError, match=r"dt|sampling"):
        structured_test(control.ss(fast.A, fast.B, fast.C, fast.D, math.inf), ball)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_units_do_not_change_a_verdict(scale):
    """The same loop in other units of state, action and observation."""
    dt = 0.1
    t = np.diag([1.0, scale])
    a, b = np.array([[1.0, dt], [0.0, 1.0]]), np.array([[0.0], [dt]])
    plant = control.ss(t @ a @ np.linalg.inv(t), t @ b / scale, np.linalg.inv(t), np.zeros((2, 1)), dt)
    test = structured_test(plant, IncrementalBall(scale * np.array([[-1.0, -2.0]]), 0.3 * scale))
    assert test.verdict == "certified"
    assert test.method == "structured"
