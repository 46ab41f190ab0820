"""Regions of attraction against simulation: random Lur'e forms, limits of every kind, points of the boundary."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg

from lipctrl import rules
from lipctrl.analysis.ellipsoid import Limit, prove_limit
from lipctrl.analysis.l2_gain import regional_gain
from lipctrl.analysis.lure_loop import lure_loop
from lipctrl.analysis.policy_graph import policy_graph
from lipctrl.analysis.region import region_of_attraction
from lipctrl.analysis.saturated_region import is_exact
from lipctrl.analysis.slope_loop import prove_loop
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import NotProvedError
from lipctrl_envs.lure import LureForm
from tests.analysis.nonlinear.conftest import random_network
from tests.analysis.nonlinear.test_region import pendulum


def random_form(rng):
    """Return a plant, unstable as often as not, with sines or tanh behind the state, the input or the output."""
    n, m, k = int(rng.integers(1, 3)), int(rng.integers(1, 3)), int(rng.integers(0, 3))
    a = rng.standard_normal((n, n))
    a *= rng.uniform(0.7, 1.1) / np.abs(np.linalg.eigvals(a)).max()
    psi = (np.sin, np.tanh)[rng.integers(2)]
    z_max = rng.uniform(0.5, 3.0, k) if rng.random() < 0.6 else np.full(k, np.inf)
    slope = np.cos if psi is np.sin else (lambda z: 1.0 / np.cosh(z) ** 2)
    everywhere = -1.0 if psi is np.sin else 0.0
    kind = rng.random()
    return LureForm(
        A=a, B=rng.standard_normal((n, m)), B_w=0.2 * rng.standard_normal((n, k)), C_z=rng.standard_normal((k, n)),
        D_zu=0.3 * rng.standard_normal((k, m)) * (kind < 0.35),
        lower=np.where(np.isfinite(z_max), slope(np.minimum(z_max, np.pi)), everywhere) - 1e-12, upper=np.ones(k),
        z_max=z_max, C=np.eye(n), D_w=0.1 * rng.standard_normal((n, k)) * (kind > 0.65),
        y_0=0.05 * rng.standard_normal(n) * (rng.random() < 0.4), dt=0.1, psi=psi,
    )  # fmt: skip


def random_task(seed):
    """Return a form, an unclipped policy, the policy, limits of the actuator, and the arguments of the call."""
    rng = np.random.default_rng(seed)
    form = random_form(rng)
    n, m = form.B.shape
    x = scipy.linalg.solve_discrete_are(form.A, form.B, np.eye(n), np.eye(m))
    gain = np.linalg.solve(np.eye(m) + form.B.T @ x @ form.B, form.B.T @ x @ form.A)
    activation = ("tanh", "relu", "sigmoid")[rng.integers(3)]
    core = rules.centered(-gain, random_network(seed, n, m, 4, 0.1, activation))
    low, high = -rng.uniform(0.3, 3.0, m), rng.uniform(0.3, 3.0, m)
    limit = rng.uniform(0.3, 3.0, m) if rng.random() < 0.5 else None
    policy = rules.projection(core, low, high) if rng.random() < 0.6 else core
    if policy is core:
        low, high = np.full(m, -np.inf), np.full(m, np.inf)
    if limit is not None:
        low, high = np.maximum(low, -limit), np.minimum(high, limit)
    cage = np.where(rng.random(n) < 0.3, np.inf, rng.uniform(0.5, 4.0, n)) if rng.random() < 0.6 else None
    return form, core, policy, (low, high), {"action_limit": limit, "state_limits": cage, "decay": 0.999}


def step(form, core, actuator, x):
    """Return x⁺, the command, the applied action and z, from the equations and the certificate's own map."""
    y = form.y_0 + x @ form.C.T + form.psi(x @ form.C_z.T) @ form.D_w.T
    command = core.evaluate(y)
    applied = np.clip(command, *actuator)
    z = x @ form.C_z.T + applied @ form.D_zu.T
    return x @ form.A.T + applied @ form.B.T + form.psi(z) @ form.B_w.T, command, applied, z


def attack(seed, incremental):
    form, core, policy, actuator, limits = random_task(seed)
    try:
        region = region_of_attraction(form, policy, incremental=incremental, **limits)
    except ValueError:
        return False
    rng = np.random.default_rng(seed)
    if region.is_global:
        x = 10.0 * rng.standard_normal((60, len(region.center)))
    else:
        edge = region.boundary(120, 1)
        x = np.vstack([edge, region.center + rng.random((40, 1)) * (edge[:40] - region.center)])
    top = np.inf if limits["state_limits"] is None else limits["state_limits"]
    energy = np.full(len(x), np.inf)
    for _ in range(400):
        after, command, applied, z = step(form, core, actuator, x)
        d = after - region.center
        if not region.is_global:
            assert (np.abs(x) <= top * (1 + 1e-9) + 1e-12).all()
            assert (np.abs(z) <= form.z_max * (1 + 1e-9)).all()
            assert not incremental or (command == applied).all()
            energy = np.einsum("ni,ij,nj->n", d, region.shape, d)
            assert (energy <= 1.0 + 1e-9).all()
        x = after
    before = np.einsum("ni,ij,nj->n", *(lambda d: (d, region.shape, d))(x - region.center))
    # 0.999^400 = 0.67 of the way is guaranteed, and the offset of the centre.
    assert (np.sqrt(before) <= (0.68 + region.offset) * (30.0 if region.is_global else 1.0) + 1e-9).all()
    return True


def test_no_trajectory_refutes_a_region():
    assert sum(attack(seed, bool(seed % 2)) for seed in range(20, 28)) > 3


@pytest.mark.slow
def test_no_trajectory_refutes_many_regions():
    assert sum(attack(seed, bool(seed % 2)) for seed in range(16)) > 5


@pytest.fixture(scope="module")
def swing():
    """Return a region of the pendulum."""
    policy = rules.centered([[-1.2, -0.15]], random_network(0, 2, 1, 4, 0.1))
    return region_of_attraction(pendulum(), policy, action_limit=0.7, state_limits=[2.5, 6.0])


def test_a_changed_region_is_not_proved(swing):
    loop = lure_loop(swing.form, swing.graph, swing.center).loop.with_slopes(*swing.slopes)
    prove_loop(loop, swing.shape, swing.multipliers, swing.decay)
    mirrored = swing.shape * np.array([[1.0, -1.0], [-1.0, 1.0]])
    for shape, multipliers, decay in (
        (mirrored, swing.multipliers, swing.decay),
        (swing.shape, 0.0 * swing.multipliers, swing.decay),
        (swing.shape, -swing.multipliers, swing.decay),
        (swing.shape, swing.multipliers, 0.5),
        (-swing.shape, swing.multipliers, swing.decay),
    ):
        with pytest.raises(NotProvedError):
            prove_loop(loop, shape, multipliers, decay)
    with pytest.raises(NotProvedError):
        prove_loop(
            loop.with_slopes(*(1.3 * s for s in swing.slopes)), swing.shape, swing.multipliers, swing.decay
        )


def test_a_limit_inside_the_ellipsoid_is_not_proved(swing):
    loop = lure_loop(swing.form, swing.graph, swing.center).loop.with_slopes(*swing.slopes)
    none = np.zeros(loop.channels)
    for i, extent in enumerate(swing.extent):
        row = Enclosure.exact(np.eye(loop.states, loop.states + loop.channels)[i : i + 1])
        prove_limit(loop, Limit(row, 1.0001 * float(extent), "state"), swing.shape, none)
        with pytest.raises(NotProvedError):
            prove_limit(loop, Limit(row, 0.999 * float(extent), "state"), swing.shape, none)
        with pytest.raises(NotProvedError):
            prove_limit(loop, Limit(row, 1.0001 * float(extent), "state"), 0.9 * swing.shape, none)


def test_no_disturbance_refutes_the_gain_in_a_region(swing):
    """Power iteration on the linearisation about the centre and about other points gives the worst small signals."""
    gain = regional_gain(swing)
    assert np.isfinite(gain)
    form, core = swing.form, swing.graph
    points = np.vstack([swing.center, 0.5 * swing.boundary(6)])
    worst = 0.0
    for point in points:
        slope = np.cos(point[:1])  # of the sine at this angle, frozen: one admissible slope
        y = form.y_0 + point @ form.C.T
        k = np.array([(core.values(y + e)[0] - core.values(y - e)[0]) / 2e-6 for e in 1e-6 * np.eye(2)]).T
        a = form.A + form.B @ k + form.B_w @ (slope[:, None] * form.C_z)
        for omega in np.linspace(0.0, np.pi, 400):
            response = form.C @ np.linalg.solve(np.exp(1j * omega) * np.eye(2) - a, form.B)
            worst = max(worst, float(np.linalg.norm(response, 2)))
    assert 0.3 * gain < worst <= gain * (1 + 1e-6)


def test_slopes_in_the_wrong_order_are_refused():
    """A form of somebody else's making, unchecked: reversed intervals would turn into narrow ones."""
    form = SimpleNamespace(**{**vars(pendulum()), "lower": np.ones(1), "upper": -np.ones(1)})
    with pytest.raises(ValueError, match="lower ≤ upper"):
        region_of_attraction(form, rules.linear([[-1.2, -0.15]]))


def test_neurons_that_do_not_rest_at_zero_have_no_exact_equilibrium():
    form = pendulum()
    pair = rules.series(
        rules.linear([[0.1, 0.0], [0.1, 0.0]]), rules.elementwise("sigmoid", 2), rules.linear([[-1.0, 1.0]])
    )
    policy = rules.centered([[-1.2, -0.15]], pair)
    lure = lure_loop(form, policy_graph(policy), np.zeros(2))
    assert not lure.action.any()
    assert not is_exact(lure, form)
    assert is_exact(lure_loop(form, policy_graph(rules.linear([[-1.2, -0.15]])), np.zeros(2)), form)


def test_a_region_of_a_smaller_box_does_not_pass_for_a_larger(swing):
    grown = replace(swing, shape=0.25 * swing.shape)
    path, actions = grown.simulate(grown.boundary(60), 400)
    outside = np.abs(actions).max() > 0.7 or not grown.contains(path[1:]).all()
    assert outside


def linear_form(a, b):
    """Return x⁺ = Ax + Bu, y = x."""
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    n, m = b.shape
    return LureForm(
        A=a, B=b, B_w=np.zeros((n, 0)), C_z=np.zeros((0, n)), D_zu=np.zeros((0, m)), lower=np.zeros(0),
        upper=np.zeros(0), z_max=np.zeros(0), C=np.eye(n), D_w=np.zeros((n, 0)), y_0=np.zeros(n), dt=0.1,
        psi=np.positive,
    )  # fmt: skip


@pytest.mark.parametrize("incremental", [True, False])
def test_the_equilibrium_is_within_the_offset_in_exact_arithmetic(incremental):
    """No double is the equilibrium of these loops, and float64 may see no residual where there is one."""
    for a, b, k, f in (
        (0.9, 0.1, -2.0, 1.0),
        (0.5, 3.0, -0.1, 7.0),
        (0.3, 0.7, -0.9, 1e6),
        (0.7, 1e8, -1e-9, 0.3),
    ):
        region = region_of_attraction(
            linear_form(a, b), rules.linear([[k]], [f]), action_limit=1e9, incremental=incremental
        )
        a, b, k, f = (Fraction(v) for v in (a, b, k, f))
        rest = b * f / (1 - a - b * k)
        away = (rest - Fraction(float(region.center[0]))) ** 2 * Fraction(float(region.shape[0, 0]))
        assert away > 0
        assert away <= Fraction(region.offset) ** 2
        assert region.offset < 1e-6


@pytest.mark.parametrize("incremental", [True, False])
def test_a_valve_that_opens_from_zero_to_ten(incremental):
    """Limits on one side of zero, and an equilibrium between them that is far from the origin."""
    valve = rules.projection(rules.linear([[-2.0]], [15.0]), [0.0], [10.0])
    region = region_of_attraction(linear_form(0.9, 0.1), valve, incremental=incremental)
    assert region.center[0] == pytest.approx(5.0)
    if incremental:
        assert region.extent[0] == pytest.approx(2.5, rel=1e-4)  # u = 15 - 2x reaches both limits there
    else:
        assert region.extent[0] > 100.0


@pytest.mark.parametrize("incremental", [True, False])
def test_state_limits_hold_around_an_equilibrium_away_from_the_origin(incremental):
    bent = rules.total(
        rules.linear([[-1.5]], [15.0]), rules.series(rules.elementwise("tanh", 1), rules.linear([[-0.5]]))
    )
    for limit in (6.0, 20.0):
        region = region_of_attraction(
            linear_form(0.9, 0.1), bent, state_limits=[limit], incremental=incremental
        )
        assert 5.0 < region.center[0] < 6.0
        room = limit - region.center[0]
        assert 0.9 * room < region.extent[0] <= room


@pytest.mark.parametrize("incremental", [True, False])
def test_units_of_the_states_do_not_matter(incremental):
    a, b = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.005], [0.1]])
    gain = np.array([[-1.0, -1.7]])
    bend = rules.series(rules.linear([[0.0, 0.3]]), rules.elementwise("tanh", 1), rules.linear([[-0.2]]))

    def volume(units):
        inside = rules.series(rules.linear(np.diag(1.0 / units)), bend)
        region = region_of_attraction(
            linear_form(a * units[:, None] / units, b * units[:, None]),
            rules.centered(gain / units, inside),
            action_limit=1.0,
            incremental=incremental,
        )
        return region.volume / np.prod(units)

    plain = volume(np.ones(2))
    assert plain > 4.0
    for units in ([1e6, 1.0], [1e-5, 1e5], [1e-8, 1e-7]):
        assert volume(np.array(units)) == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("incremental", [True, False])
def test_a_clip_inside_the_policy_is_a_line_where_it_is_not_reached(incremental):
    inner = rules.series(
        rules.projection(rules.linear([[-0.7], [-0.1]]), [-0.7, -5.0], [1.4, 5.0]), rules.linear([[1.0, 0.0]])
    )
    region = region_of_attraction(linear_form(1.2, 1.0), inner, state_limits=[4.0], incremental=incremental)
    x = region.boundary(2)
    for _ in range(300):
        x = 1.2 * x + inner.evaluate(x)
    assert np.abs(x).max() < 1e-9
    # Pairs contract as far as the line goes, one equilibrium attracts as far as 1.2x - 0.7 < x.
    assert (0.7 if incremental else 3.1) < region.extent[0] < (1.0 if incremental else 3.5)


def test_a_biased_policy_that_hardly_acts_has_a_region():
    """Channels whose effect is a millionth of what they see must not spoil the search."""
    net = rules.series(
        rules.linear([[0.02], [-0.03]], [0.3, -0.5]),
        rules.elementwise("elu", 2),
        rules.linear([[1e-6, 2e-6]]),
    )
    policy = rules.projection(rules.centered([[-1e-4]], net), [-0.005], [0.004])
    for incremental in (True, False):
        region = region_of_attraction(linear_form(-0.8, 1.0), policy, incremental=incremental)
        assert region.extent[0] > 10.0


def test_stored_numbers_prove_a_region_again_and_altered_ones_do_not(swing):
    biased = rules.centered(
        [[-1.2, -0.15]],
        rules.series(rules.linear([[0.3, 0.0]], [0.2]), rules.elementwise("tanh", 1), rules.linear([[0.1]])),
    )
    beyond = region_of_attraction(pendulum(), biased, action_limit=0.5, incremental=False)
    assert beyond.evidence is not None
    assert beyond.evidence.inner is not None
    grown = {"slopes": tuple(0.9 * side for side in beyond.slopes), "comparison": 3.0 * beyond.comparison}
    for region, more in ((swing, {"slopes": tuple(0.9 * side for side in swing.slopes)}), (beyond, grown)):
        assert region.recheck()
        limits = region.evidence.limits
        changes = {
            "shape": 0.8 * region.shape,
            "center": region.center + 0.01,
            "decay": 0.9,
            "offset": 0.1 * region.offset - 1e-18,
            "multipliers": -region.multipliers,
            "is_global": True,
            "incremental": not region.incremental,
            "evidence": None,
            **more,
        }
        for name, value in changes.items():
            assert not replace(region, **{name: value}).recheck(), name
        for evidence in (
            replace(region.evidence, limits=limits[1:]),
            replace(region.evidence, limits=tuple(np.full_like(row, np.nan) for row in limits)),
            replace(region.evidence, cage=0.5 * region.extent),
        ):
            assert not replace(region, evidence=evidence).recheck()
        for name in ("center", "shape", "decay", "offset", "multipliers"):
            for value in (None, "1", np.append(getattr(region, name), 0.0), getattr(region, name) * np.nan):
                assert not replace(region, **{name: value}).recheck(), (name, value)
        for value in ("1", np.full(3, 0.5), np.full((2, 1), 0.5)):
            pairs = (region.evidence.actuator[0], value), (value, region.evidence.actuator[1])
            changed = [
                replace(region.evidence, cage=value),
                *(replace(region.evidence, actuator=p) for p in pairs),
            ]
            assert not any(replace(region, evidence=evidence).recheck() for evidence in changed), value
        unlimited = tuple(side * np.nan for side in region.evidence.actuator)
        nowhere = replace(region.evidence, actuator=unlimited, cage=None, limits=limits[:1])
        assert not replace(region, evidence=nowhere).recheck()
    tight = tuple(0.5 * side for side in swing.evidence.actuator)
    assert not replace(swing, evidence=replace(swing.evidence, actuator=tight)).recheck()
    assert not replace(beyond, evidence=replace(beyond.evidence, inner=None)).recheck()
    assert not replace(beyond, evidence=replace(beyond.evidence, inner=swing)).recheck()


def test_biases_that_only_round_to_zero_leave_the_equilibrium_open():
    """0.1·3 - 0.30000000000000004 is zero in float64 and -2.8e-17 exactly: the origin is no equilibrium."""
    gain = [[-12.0, -1.5]]
    rounded = rules.series(rules.linear(gain, [3.0]), rules.linear([[0.1]], [-(0.1 * 3.0)]))
    unbiased = rules.series(rules.linear(gain), rules.linear([[0.1]]))
    open_, exact = (
        region_of_attraction(pendulum(), policy, action_limit=0.5, incremental=False)
        for policy in (rounded, unbiased)
    )
    assert Fraction(0.1) * 3 != Fraction(0.1 * 3.0)
    assert 0.0 < open_.offset < 1e-9
    assert open_.evidence.inner is not None
    assert open_.recheck()
    assert not replace(open_, offset=0.0).recheck()
    assert exact.offset == 0.0


def test_a_limit_of_coupled_channels_has_one_multiplier():
    """Sorting moves a neuron whose own argument rests: weights of its own would prove that it does not move."""
    policy = rules.series(
        rules.linear([[0.0], [1.0]]),
        rules.elementwise({"name": "groupsort", "size": 2}, 2),
        rules.linear([[0.1, 0.1]]),
    )
    loop = lure_loop(linear_form(0.5, 1.0), policy_graph(policy), np.zeros(1)).loop
    limit = Limit(Enclosure.exact(np.array([[0.0, 1.0, 0.0]])), 0.01, "the first neuron")
    for multipliers in (np.array([1e6, 1e-3]), np.array([-1.0, -1.0]), np.array([np.nan, np.nan])):
        with pytest.raises(NotProvedError):
            prove_limit(loop, limit, np.eye(1), multipliers)
    assert policy_graph(policy).values(np.array([-1.0]))[2][0] == -1.0
