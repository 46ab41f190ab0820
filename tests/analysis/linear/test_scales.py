"""Balls between scaled signals: the same loops in other units, never worse than the plain ball, sound at any size."""

from __future__ import annotations

import math
from fractions import Fraction

import control
import numpy as np
import pytest
import torch

import lipctrl
from lipctrl import rules
from lipctrl.analysis import (
    IncrementalBall,
    ScaledBall,
    as_ball,
    as_realization,
    ball_test,
    in_own_units,
    incremental_delay_margin,
    incremental_disk_margin,
    incremental_gain_margin,
    incremental_phase_margin,
    own_ball,
    stability_radius,
    structured_test,
    worst_deviation,
)
from lipctrl.analysis.scales import outer_powers
from tests.analysis.linear.systems import random_system


def case(seed, dt=0, inputs=2, outputs=3, feedthrough=False):
    """Return a plant in mixed units, a stabilising centre (small: the plant is stable), scales and the scaled plant."""
    rng = np.random.default_rng(seed)
    s, a = 2.0 ** rng.integers(-8, 9, outputs), 2.0 ** rng.integers(-8, 9, inputs)
    plain = random_system(rng, 4, inputs, outputs, dt, feedthrough=feedthrough)
    center = -0.02 * rng.normal(size=(inputs, outputs))
    mixed = control.ss(
        plain.A, plain.B / a, s[:, None] * np.asarray(plain.C), s[:, None] * plain.D / a, plain.dt
    )
    return plain, mixed, center, a[:, None] * center / s, s, a


@pytest.mark.parametrize("dt", [0, 0.1, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_scaled_ball_is_the_plain_one_of_the_scaled_plant(seed, dt):
    plain, mixed, center, raw_center, s, a = case(seed, dt, feedthrough=seed == 1)
    radius = 0.5 * stability_radius(plain, -center)
    here, there = IncrementalBall(center, radius), ScaledBall(raw_center, radius, s, a)
    # The same numbers to the last bit: powers of two round nothing.
    assert ball_test(mixed, there).margin == ball_test(plain, here).margin
    for margin in (incremental_gain_margin, incremental_phase_margin, incremental_delay_margin):
        ours, known = margin(mixed, there), margin(plain, here)
        for name in ("lower", "upper", "falsified_lower", "falsified_upper", "angle", "delay", "falsified"):
            np.testing.assert_equal(getattr(ours, name, None), getattr(known, name, None))
    assert stability_radius(mixed, -raw_center, observation_scale=s, action_scale=a) == stability_radius(
        plain, -center
    )


def test_disks_do_not_see_the_scales():
    plain, mixed, center, raw_center, s, a = case(5)
    radius = 0.5 * stability_radius(plain, -center)
    ours = incremental_disk_margin(mixed, ScaledBall(raw_center, radius, s, a))
    known = incremental_disk_margin(plain, IncrementalBall(center, radius))
    assert (ours.alpha, ours.alpha_varying, ours.falsified) == (
        known.alpha,
        known.alpha_varying,
        known.falsified,
    )


@pytest.mark.parametrize("seed", range(4))
def test_what_destabilises_is_returned_in_raw_units(seed):
    _, mixed, _, raw_center, s, a = case(seed, inputs=1 + seed % 2)
    radius = 0.6 * stability_radius(mixed, -raw_center, observation_scale=s, action_scale=a)
    margin = incremental_gain_margin(mixed, ScaledBall(raw_center, radius, s, a), "residual")
    assert margin.falsifiers
    np.testing.assert_array_equal(margin.center, raw_center)
    for found in margin.falsifiers:
        policy, A, B, C = found.policy, *(np.asarray(m) for m in (mixed.A, mixed.B, mixed.C))
        loop = np.block([[A + B @ policy.d @ C, B @ policy.c], [policy.b @ C, policy.a]])
        assert np.linalg.eigvals(loop).real.max() > 0.0
    seen = margin.simulate()
    assert seen.inside.shape[1] == mixed.noutputs
    # The outputs of the plant that was given, not of the scaled one.
    build = margin.destabilization().loop
    np.testing.assert_array_equal(build(1.0).c[:, :4], np.asarray(mixed.C))


def test_simulations_of_phase_and_delay_show_raw_outputs():
    plain, mixed, center, raw_center, s, a = case(3, inputs=1)
    radius = 0.5 * stability_radius(plain, -center)
    for margin in (incremental_phase_margin, incremental_delay_margin):
        ours, known = (
            margin(mixed, ScaledBall(raw_center, radius, s, a)),
            margin(plain, IncrementalBall(center, radius)),
        )
        if known.destabilization is None:
            continue
        given, scaled = ours.simulate(), known.simulate()
        ratio = np.abs(given.outside).max(0) / np.abs(scaled.outside).max(0)
        np.testing.assert_allclose(ratio / ratio[0], s / s[0], rtol=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_other_sizes_are_rounded_outwards(seed):
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.normal(size=(2, 3)) * 5.0)
    if seed == 0:
        sizes = np.nextafter([[2.0, 4.0, 1.0], [8.0, 0.5, 1.0]], [[0.0], [99.0]])
    ball = ScaledBall(np.zeros((3, 3)), 0.7, *sizes)
    s, a = ball.observation_scale, ball.action_scale
    assert (np.frexp([*s, *a])[0] == 0.5).all()
    # Every map of the ball as given is in the rounded one: the worst are those that read and move one channel.
    for i in range(3):
        for j in range(3):
            gain = Fraction(0.7) * Fraction(float(sizes[1, i])) / Fraction(float(sizes[0, j]))
            inside = gain * Fraction(float(s[j])) / Fraction(float(a[i]))
            assert inside <= Fraction(ball.radius) <= 4 * Fraction(0.7)
    # And the rounded ball is no larger than the plain one around what was given.
    plain = Fraction(0.7) * Fraction(float(sizes[1].max())) / Fraction(float(sizes[0].min()))
    assert Fraction(ball.raw().radius) <= plain * (1 + Fraction(1, 2**51))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_equal_sizes_lose_nothing(count):
    for divides in (True, False):
        powers, ratios = outer_powers(np.full(count, 0.3), count, "sizes", divides=divides)
        assert len(set(powers)) == len(set(ratios)) == 1


def residual(seed, scale, limits=None, gain=((1.0, 20.0),)):
    torch.manual_seed(seed)
    network = lipctrl.LipschitzResNet(2, 1, lipschitz=0.6, width=8, depth=2)
    return lipctrl.ResidualPolicy(gain, network, observation_scale=scale, action_limits=limits)


@pytest.mark.parametrize("limits", [None, 0.7])
@pytest.mark.parametrize("scale", [[4.0, 0.125], [3.0, 0.1], [1e-3, 1e3], [2.0, 2.0]])
@pytest.mark.parametrize("seed", range(2))
def test_a_policy_lies_in_the_ball_it_states(seed, scale, limits):
    policy = residual(seed, scale, limits).double()
    ball, plain = own_ball(policy), as_ball(policy)
    assert isinstance(ball, ScaledBall) == (scale[0] != scale[1])
    inner = ball.scaled_units() if isinstance(ball, ScaledBall) else ball
    s = ball.observation_scale if isinstance(ball, ScaledBall) else np.ones(2)
    # Gradient ascent on the slope between scaled signals, from many starts.
    y = (torch.randn(64, 2, dtype=torch.float64) * torch.as_tensor(scale)).requires_grad_()
    ascent = torch.optim.Adam([y], 0.1 * min(scale))
    worst = 0.0
    for _ in range(40):
        free = lipctrl.ResidualPolicy(policy.gain, policy.network, policy.observation_scale)
        slopes = torch.vmap(torch.func.jacrev(lambda x, free=free: free(x)))(y)
        deviation = (slopes - torch.tensor(plain.center)) * torch.tensor(s)
        size = torch.linalg.matrix_norm(deviation, 2)
        worst = max(worst, float(size.detach().max()))
        ascent.zero_grad()
        (-size.sum()).backward()
        ascent.step()
    assert worst <= inner.radius * (1.0 + 1e-9)
    assert worst > 0.2 * inner.radius
    # And it is inside the plain ball.
    raw = ball.raw() if isinstance(ball, ScaledBall) else ball
    assert plain.radius * (1.0 - 1e-6) <= raw.radius <= plain.radius


@pytest.mark.parametrize("seed", range(6))
def test_scales_never_certify_less(seed):
    rng = np.random.default_rng(seed)
    plant = control.ss([[0.0, 1.0], [1.0, -0.1]], [[0.0], [1.0]], np.diag([1.0, 0.05]), 0)
    sizes = 2.0 ** (rng.integers(-4, 3, 2) if seed < 4 else rng.uniform(-4.0, 3.0, 2))
    policy = residual(seed, sizes, gain=[[3.0, 40.0]])
    plain = ball_test(plant, as_ball(policy))
    assert ball_test(plant, policy).margin >= plain.margin
    if plain.verdict == "certified":
        ours, known = (incremental_gain_margin(plant, b) for b in (policy, as_ball(policy)))
        assert ours.lower <= known.lower
        assert ours.upper >= known.upper


def test_mixed_units_are_certified_where_one_radius_for_all_is_not():
    plant = control.ss([[0.0, 1.0], [1.0, 0.0]], [[0.0], [1.0]], np.diag([1.0, 0.01]), 0)
    policy = residual(0, [1.0, 2.0**-7], gain=[[3.0, 200.0]])
    assert ball_test(plant, as_ball(policy)).verdict == "inconclusive"
    report = lipctrl.analyze(plant, policy, structured=False)
    assert report.verdict == "certified"
    assert report.scales.observation.tolist() == [1.0, 2.0**-7]
    units = "units: norm and radii below are between scaled signals, observations / [1, 0.0078125];"
    assert units in report.summary()
    assert "·‖(y-y')/s‖, K₀ = [[-3, -200]], s = [1, 0.0078125]" in report.policy
    # A simulation with the stored weights, as far from the claim as a single loop can be: pairs contract.
    step = control.c2d(plant, 1e-3)
    A, B, C = (np.asarray(m) for m in (step.A, step.B, step.C))
    x = np.array([[0.5, -0.5], [0.4, 0.3]])
    start = np.linalg.norm(x[0] - x[1])
    with torch.no_grad():
        for _ in range(6000):
            u = policy(torch.as_tensor(x @ C.T, dtype=torch.float32)).double().numpy()
            x = x @ A.T + u @ B.T
    assert np.linalg.norm(x[0] - x[1]) < 0.05 * start


def test_rounded_sizes_are_no_worse_than_none():
    # The radius belongs to the first observation alone; nearer powers of two than these would widen it.
    plant = control.ss([[-1.0]], [[1.0]], [[1.0], [0.0]], 0)
    for sizes in ([1.0, 1.5], [1.0, 3.9], [3.0, 4.1], [5.0, 3.0]):
        margin = ball_test(plant, ScaledBall([[0.0, 0.0]], 0.8, sizes)).margin
        assert margin >= sizes[0] / 0.8 * (1.0 - 1e-6) or sizes[0] > sizes[1]
        assert margin >= min(sizes) / 0.8 * (1.0 - 1e-6)
        radius = stability_radius(plant, observation_scale=sizes)
        assert radius >= min(sizes) * stability_radius(plant) * (1.0 - 1e-12)
    nothing = control.ss([[-1.0]], [[0.0]], [[1.0], [0.0]], 0)
    assert stability_radius(nothing, observation_scale=[1.0, 3.0]) == math.inf


def test_factors_of_the_actuators_are_no_gains_and_keep_their_numbers():
    # As many inputs as outputs: a rotation has the shape of a gain.
    plain, mixed, center, raw_center, s, a = case(1, inputs=3)
    center, raw_center = 6.0 * center, 6.0 * raw_center
    radius = 0.5 * stability_radius(plain, -center)
    ours = incremental_phase_margin(mixed, ScaledBall(raw_center, radius, s, a)).destabilization
    known = incremental_phase_margin(plain, IncrementalBall(center, radius)).destabilization
    assert known is not None
    np.testing.assert_array_equal(ours.matrix, known.matrix)


def test_the_gain_to_the_outputs_is_in_raw_units():
    plain, mixed, center, raw_center, s, a = case(4)
    radius = 0.5 * stability_radius(plain, -center)
    test = ball_test(mixed, ScaledBall(raw_center, radius, s, a))
    loop = control.feedback(mixed, control.ss([], [], [], -raw_center), sign=-1)
    gains = [np.linalg.norm(loop(1j * w), 2) for w in np.geomspace(1e-3, 1e3, 400)]
    assert test.verdict == "certified"
    assert max(gains) <= test.gain < math.inf
    assert test.scales.observation.tolist() == s.tolist()


def test_small_gain_of_the_whole_policy_is_tried_in_both_units():
    # The centre reads the first observation; a small size of the second one makes the scaled plant large.
    plant = control.ss([[-1.0]], [[1.0]], [[1.0], [1.0]], 0)
    network = lipctrl.LipschitzResNet(2, 1, lipschitz=2e-4, width=4, depth=1)
    policy = lipctrl.ResidualPolicy(
        [[0.3, 0.0]], network, observation_scale=[1.0, 2.0**-6], action_limits=1.0
    )
    report = lipctrl.analyze(plant, policy, margins=False)
    assert report.tests[1].name == "small gain of the whole policy"
    # No "while the actuator limits are inactive": the clipped policy has this gain too.
    assert (report.verdict, report.scope) == ("certified", ())


def test_what_limits_a_stated_ball_limits_the_report():
    plant = control.ss([[-1.0]], [[1.0]], [[1.0], [1.0]], 0)
    scope = ("while the actuator limits are inactive: beyond them another controller acts",)
    ball = ScaledBall([[0.3, 0.0]], 1e-3, [1.0, 0.5], scope=scope)
    assert lipctrl.analyze(plant, ball, margins=False).scope == scope
    assert ball.scaled_units().gain is None is ball.raw().gain


def test_an_algebraic_loop_in_mixed_units_can_be_simulated():
    plain, mixed, center, raw_center, s, a = case(1, 0.1, feedthrough=True)
    wide = np.array([2.0**-30, 2.0**30])  # far apart: I - ΔD of raw actions only looks singular
    mixed = control.ss(mixed.A, mixed.B / wide, mixed.C, mixed.D / wide, 0.1)
    radius = 0.5 * stability_radius(plain, -center)
    margin = incremental_gain_margin(
        mixed, ScaledBall(wide[:, None] * raw_center, radius, s, wide * a), "residual"
    )
    inside, outside = margin.simulate().growth
    assert inside < 1.0 < outside


def altered(certificate, change):
    """Return the certificate of a policy with one part of its residual replaced."""
    part = certificate.parts[1]
    parts = change(list(part.parts))
    return rules.centered(certificate.center, rules.series(*parts))


def test_a_forged_scale_or_gain_changes_the_ball_or_is_refused():
    certificate = residual(1, [1.0, 0.125]).certificate()
    honest = own_ball(certificate)
    # Another scale is another policy, and its ball says so.
    other = own_ball(altered(certificate, lambda p: [rules.scaling([1.0, 16.0]), *p[1:]]))
    assert other.observation_scale.tolist() == [1.0, 0.0625]
    assert (
        own_ball(altered(certificate, lambda p: [rules.scaling([-1.0, 8.0]), *p[1:]])).radius == honest.radius
    )
    # A channel that is switched off has no size: the plain ball remains.
    assert isinstance(
        own_ball(altered(certificate, lambda p: [rules.scaling([1.0, 0.0]), *p[1:]])), IncrementalBall
    )
    inner = certificate.parts[1].parts[1]
    forged = lipctrl.Certificate(
        inner.rule, 0.5 * inner.gain, inner.in_features, inner.out_features, parts=inner.parts,
        weights=inner.weights, params=inner.params,
    )  # fmt: skip
    with pytest.raises(ValueError, match="not proved"):
        own_ball(altered(certificate, lambda p: [p[0], forged]))


def test_a_ball_without_neurons_enters_the_structured_test_with_its_scales():
    plant = control.ss([[0.9, 0.1], [0.0, 1.05]], [[0.0], [0.1]], np.diag([1.0, 0.05]), 0, 0.1)
    center = [[-0.5, -60.0]]
    scales = {"observation_scale": [1.0, 2.0**-4]}
    radius = 0.9 * stability_radius(plant, -np.asarray(center), **scales)
    assert structured_test(plant, ScaledBall(center, radius, **scales)).verdict == "certified"
    assert ball_test(plant, ScaledBall(center, 1.2 * radius, **scales).raw()).verdict == "inconclusive"


@pytest.mark.parametrize(
    "sizes", [0.0, -1.0, math.nan, math.inf, [1.0, 2.0, 3.0], "many", None, [[1.0], [2.0]]]
)
def test_sizes_that_are_none_are_refused(sizes):
    if sizes is None:
        assert ScaledBall([[1.0, 2.0]], 1.0).scales.trivial
        return
    with pytest.raises(ValueError, match="observation_scale is"):
        ScaledBall([[1.0, 2.0]], 1.0, observation_scale=sizes)
    with pytest.raises(ValueError, match="observation_scale is"):
        stability_radius(control.ss([[-1.0]], [[1.0]], [[1.0], [1.0]], 0), observation_scale=sizes)


def test_extreme_scales_are_refused_or_left_out():
    with pytest.raises(ValueError, match="under"):
        ScaledBall([[1e-300]], 1.0, observation_scale=1e-300).scaled_units()
    plant = as_realization(control.ss([[-1.0]], [[1.0]], [[1.0], [1e200]], 0))
    with pytest.raises(ValueError, match="overflows"):
        ScaledBall([[0.0, 0.0]], 1.0, observation_scale=[1.0, 1e-200]).scales.plant(plant)
    # Sizes whose product underflows where the scaled entry does not.
    through = as_realization(control.ss([], [], [], [[2.0**900]]))
    scaled = ScaledBall([[0.0]], 1.0, 2.0**600, 2.0**-500).scales.plant(through)
    assert abs(scaled.D[0, 0] - 2.0**-200) <= scaled.d.radius()[0, 0]
    system, ball, scales = in_own_units(plant, IncrementalBall([[0.0, 0.0]], 1.0))
    assert (system is plant, scales.trivial, ball.radius) == (True, True, 1.0)


@pytest.mark.parametrize("field", ["complex", "real"])
@pytest.mark.parametrize("seed", range(6))
def test_the_worst_deviation_is_the_smallest_in_the_sizes_that_were_given(seed, field):
    rng = np.random.default_rng(seed)
    n, m, p = (int(k) for k in rng.integers(1, 4, 3))
    a = rng.standard_normal((n, n))
    a -= (np.linalg.eigvals(a).real.max() + 0.3) * np.eye(n)
    s, size = 10.0 ** rng.uniform(-3, 3, p), 10.0 ** rng.uniform(-3, 3, m)
    b, c = rng.standard_normal((n, m)) / size, s[:, None] * rng.standard_normal((p, n))
    plant = control.ss(a, b, c, np.zeros((p, m)))
    scaled = control.ss(a, b * size, c / s[:, None], np.zeros((p, m)))
    worst = worst_deviation(plant, field=field, observation_scale=s, action_scale=size)
    # Of an equal loop in units of one, and no smaller than what is proved for these sizes.
    assert worst.value == pytest.approx(worst_deviation(scaled, field=field).value, rel=1e-6)
    proved = stability_radius(plant, field=field, observation_scale=s, action_scale=size)
    assert 0.0 < proved <= worst.value * (1.0 + 1e-9)
    # In raw units it destabilises the raw plant, and has that size between scaled signals.
    assert np.linalg.norm(worst.matrix * s / size[:, None], 2) == pytest.approx(worst.value, rel=1e-6)
    inside, outside = worst.simulate().growth
    assert inside < 1.0 < outside
    if field == "real":
        assert np.linalg.eigvals(a + (1.0 + 1e-6) * b @ worst.matrix @ c).real.max() > 0.0


def test_sizes_of_a_deviation_are_positive_numbers_that_fit():
    plant = control.tf([1.0], [1.0, 1.0])
    for sizes in ([1.0, 2.0], 0.0, -1.0, math.nan, "a", [[1.0]]):
        with pytest.raises(ValueError, match=r"observation_scale is .*; expected 1 positive finite numbers"):
            worst_deviation(plant, observation_scale=sizes)
    with pytest.raises(ValueError, match="overflows"):
        worst_deviation(control.ss([[-1.0]], [[1e200]], [[1.0]], [[0.0]]), action_scale=1e200)
