"""Traps: nothing that some admissible policy destabilises is ever certified, and no word is used wrongly."""

from __future__ import annotations

import math

import control
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lipctrl.analysis import IncrementalBall, as_ball, as_realization, ball_test, nominal_loop
from lipctrl.analysis.falsify_linear import falsify_ball, unstable_pole
from lipctrl.rules import centered, linear, projection
from tests.analysis.linear.systems import random_system

s = control.tf("s")
HARD = settings(max_examples=120, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31)


def _any_plant(rng, states, inputs, outputs, dt, feedthrough, scale):
    """Return a plant of any stability, in states and signals of very different size."""
    a = rng.normal(size=(states, states)) * rng.choice([0.3, 1.0, 3.0])
    if dt:
        a = a / np.sqrt(states)
    t = scale ** rng.uniform(-0.5, 0.5, size=states)
    b = rng.normal(size=(states, inputs)) * scale ** rng.uniform(-0.3, 0.3)
    d = rng.normal(size=(outputs, inputs)) * feedthrough
    return control.ss(
        a * t[:, None] / t[None, :], b * t[:, None], rng.normal(size=(outputs, states)) / t, d, dt
    )


@HARD
@given(
    seed=SEEDS,
    states=st.integers(1, 5),
    inputs=st.integers(1, 2),
    outputs=st.integers(1, 3),
    dt=st.sampled_from([0, 0.1, True]),
    feedthrough=st.sampled_from([0.0, 0.0, 0.5]),
    scale=st.sampled_from([1.0, 1e6]),
    size=st.floats(0.0, 3.0),
)
def test_no_linear_member_of_a_certified_ball_destabilises(
    seed, states, inputs, outputs, dt, feedthrough, scale, size
):
    rng = np.random.default_rng(seed)
    plant = _any_plant(rng, states, inputs, outputs, dt, feedthrough, scale)
    center = rng.normal(size=(inputs, outputs)) * rng.choice([0.0, 0.5, 2.0])
    loop = nominal_loop(plant, center)
    # A radius around the critical one: the interesting cases are the near misses.
    norm = loop.norm().value
    ball = IncrementalBall(center, size * rng.choice([0.5, 1.0]) / norm if math.isfinite(norm) else size)
    test = ball_test(plant, ball)
    system = as_realization(plant)
    points = [0.0, test.frequency if math.isfinite(test.frequency) else 1.0, 1.0]
    falsifier = falsify_ball(system, ball, 1.0, "policy", points)
    if test.verdict == "certified":
        assert falsifier is None
        assert ball.radius * norm < 1.0
        for _ in range(10):
            delta = rng.normal(size=center.shape)
            member = center + ball.radius * delta / np.linalg.norm(delta, 2)
            poles = np.linalg.eigvals(
                plant.A + plant.B @ member @ np.linalg.inv(np.eye(outputs) - plant.D @ member) @ plant.C
            )
            assert (
                (np.abs(poles).max() < 1.0 + 1e-9) if dt else (poles.real.max() < 1e-9 * np.abs(poles).max())
            )
    if test.verdict == "nominally unstable":
        k0d = np.linalg.inv(np.eye(outputs) - plant.D @ center)
        poles = np.linalg.eigvals(plant.A + plant.B @ center @ k0d @ plant.C)
        assert (np.abs(poles).max() > 1.0 - 1e-7) if dt else (poles.real.max() > -1e-7 * np.abs(poles).max())


@HARD
@given(seed=SEEDS, dt=st.sampled_from([0, 0.1]), kind=st.sampled_from(["input", "output", "both"]))
def test_hidden_unstable_modes_are_never_certified(seed, dt, kind):
    rng = np.random.default_rng(seed)
    good = random_system(rng, 3, 1, 1, dt)
    pole = 1.0 + rng.uniform(0.0, 0.2) if dt else rng.uniform(0.0, 2.0)
    a = np.zeros((4, 4))
    a[:3, :3], a[3, 3] = good.A, pole
    b = np.vstack([good.B, [[0.0 if kind in ("input", "both") else 1.0]]])
    c = np.hstack([good.C, [[0.0 if kind in ("output", "both") else 1.0]]])
    t = rng.normal(size=(4, 4)) + 3.0 * np.eye(4)
    inverse = np.linalg.inv(t)
    plant = control.ss(t @ a @ inverse, t @ b, c @ inverse, 0, dt)
    for radius in (0.0, 1e-6, 0.1):
        assert ball_test(plant, IncrementalBall([[0.0]], radius)).verdict in (
            "nominally unstable",
            "inconclusive",
        )


@HARD
@given(seed=SEEDS, gap=st.sampled_from([0.0, 1e-17, 1e-3, -1e-3]), around=st.sampled_from(["centre", "edge"]))
def test_algebraic_loops_are_ill_posed_both_ways(seed, gap, around):
    rng = np.random.default_rng(seed)
    d = float(rng.choice([-1.0, 1.0]) * 2.0 ** rng.integers(-3, 4))
    plant = control.ss([[-1.0]], [[0.1]], [[0.1]], [[d]])
    if around == "centre":
        test = ball_test(plant, IncrementalBall([[(1.0 + gap) / d]], 0.0))
        assert (test.verdict == "ill-posed") == (abs(gap) < 1e-10)
    else:
        test = ball_test(plant, IncrementalBall([[0.0]], (1.0 + gap) / abs(d)))
        # Just inside the edge the rest of the plant decides.
        assert (test.verdict == "ill-posed") == (gap > -1e-10)


@HARD
@given(seed=SEEDS, power=st.sampled_from([-6, 0, 6]), dt=st.sampled_from([0, 0.1]))
def test_units_do_not_change_a_verdict(seed, power, dt):
    rng = np.random.default_rng(seed)
    plant = random_system(rng, 3, 1, 1, dt)
    norm = nominal_loop(plant, [[0.0]]).norm().value
    unit = 10.0**power
    scaled = control.ss(plant.A, plant.B * unit, plant.C, 0, dt)
    for share in (0.999, 1.001):
        here = ball_test(plant, IncrementalBall([[0.0]], share / norm)).verdict
        assert ball_test(scaled, IncrementalBall([[0.0]], share / norm / unit)).verdict == here
        assert (here == "certified") == (share < 1.0)


@HARD
@given(zeta=st.sampled_from([1e-5, 1e-3]), omega=st.floats(0.1, 1e4), share=st.sampled_from([0.999, 1.001]))
def test_sharp_resonances_decide(zeta, omega, share):
    plant = control.tf([omega**2], [1.0, 2.0 * zeta * omega, omega**2])
    peak = 1.0 / (2.0 * zeta * math.sqrt(1.0 - zeta**2))
    test = ball_test(plant, IncrementalBall([[0.0]], share / peak))
    assert (test.verdict == "certified") == (share < 1.0)


def test_sign_of_feedback():
    plant = 1 / (s - 1)
    assert ball_test(plant, IncrementalBall([[-3.0]], 1.0)).verdict == "certified"
    assert ball_test(plant, IncrementalBall([[3.0]], 1.0)).verdict == "nominally unstable"


@pytest.mark.parametrize("radius", [0.0, 0.1])
@pytest.mark.parametrize("plant", [1 / s, 1 / s**2, control.tf([1], [1, -1], True), 1 / (s**2 + 1)])
def test_integrators_and_oscillators_alone_are_not_stable(plant, radius):
    assert ball_test(plant, IncrementalBall([[0.0]], radius)).verdict == "nominally unstable"


def test_dt_true_is_discrete():
    # Stable read as continuous time, unstable in samples, and the other way round.
    assert ball_test(
        control.ss([[-1.5]], [[1.0]], [[1.0]], 0, True), IncrementalBall([[0.0]], 0.1)
    ).verdict == ("nominally unstable")
    assert ball_test(
        control.ss([[0.5]], [[1.0]], [[1.0]], 0, True), IncrementalBall([[0.0]], 0.1)
    ).verdict == ("certified")
    assert ball_test(
        control.ss([[0.5]], [[1.0]], [[1.0]], 0, None), IncrementalBall([[0.0]], 0.1)
    ).verdict == ("nominally unstable")


@pytest.mark.parametrize(
    ("center", "radius", "word"),
    [
        ([[np.nan]], 1.0, "NaN"),
        ([[np.inf]], 1.0, "infinite"),
        ([[1.0]], -1.0, "≥ 0"),
        ([[1.0]], math.nan, "finite"),
        ([[1.0]], math.inf, "finite"),
        ([["a"]], 1.0, "real"),
        (np.zeros((1, 1, 1)), 1.0, "shape"),
    ],
)
def test_balls_refuse_what_is_no_ball(center, radius, word):
    with pytest.raises(ValueError, match=word):
        IncrementalBall(center, radius)


def test_dimension_mismatch_says_both_sides():
    with pytest.raises(ValueError, match=r"2 observations to 1 actions.*1 outputs and 1 inputs"):
        ball_test(1 / (s + 1), IncrementalBall([[1.0, 2.0]], 0.1))


def test_nan_plants_are_errors_not_verdicts():
    with pytest.raises(ValueError, match="NaN"):
        ball_test(control.ss([[np.nan]], [[1.0]], [[1.0]], 0), IncrementalBall([[0.0]], 0.1))


def test_certificates_are_checked_before_they_are_believed():
    certificate = centered([[-2.0, -1.0]], linear([[0.1, 0.2]]))
    ball = as_ball(certificate)
    assert np.array_equal(ball.center, [[-2.0, -1.0]])
    assert ball.radius >= math.hypot(0.1, 0.2)
    forged = type(certificate)(**{**certificate.__dict__, "gain": 0.1, "digest": ""})
    with pytest.raises(ValueError, match="not proved"):
        as_ball(forged)
    with pytest.raises(ValueError, match="IncrementalBall"):
        as_ball(object())


def test_a_gain_in_another_norm_is_refused():
    certificate = linear([[1.0, 2.0]])
    other = type(certificate)(**{**certificate.__dict__, "norm": "linf", "digest": ""})
    with pytest.raises(ValueError, match="l2"):
        as_ball(other)


def test_a_saturated_residual_policy_carries_its_scope():
    clipped = as_ball(projection(centered([[-2.0]], linear([[0.1]])), [-1.0], [1.0]))
    assert any("limits are inactive" in line for line in clipped.scope)
    plain = as_ball(projection(linear([[0.5]]), [-1.0], [1.0]))
    assert plain.scope == ()
    assert plain.radius >= 0.5


@HARD
@given(seed=SEEDS)
def test_certified_gain_bounds_the_response_of_members(seed):
    rng = np.random.default_rng(seed)
    plant = random_system(rng, 3, 1, 1)
    norm = nominal_loop(plant, [[0.0]]).norm().value
    radius = rng.uniform(0.1, 0.9) / norm
    test = ball_test(plant, IncrementalBall([[0.0]], radius))
    assume(test.verdict == "certified")
    for sign in (-1.0, 1.0):
        member = control.ss(plant.A + sign * radius * plant.B @ plant.C, plant.B, plant.C, 0)
        assert unstable_pole(as_realization(member), _zero()) is None
        peak = nominal_loop(member, [[0.0]]).norm().lower
        assert peak <= test.gain * (1.0 + 1e-9)


def _zero():
    from lipctrl.analysis.falsify_linear import LinearPolicy

    return LinearPolicy.static(np.zeros((1, 1)))
