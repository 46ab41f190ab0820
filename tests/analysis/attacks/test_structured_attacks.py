"""Loops judged by a policy's own neurons, against what such policies do: pairs of trajectories, gains, hulls, scopes.

The oracle evaluates the policy itself (`Certificate.evaluate`), never its graph of neurons.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import control
import numpy as np
import pytest

from lipctrl import rules
from lipctrl.analysis import IncrementalBall, as_realization, ball_test
from lipctrl.analysis.contraction import find_contraction
from lipctrl.analysis.l2_gain import structured_gain
from lipctrl.analysis.parameter_box import hull_test
from lipctrl.analysis.policy_graph import policy_graph
from lipctrl.analysis.recentre import recentred_ball
from lipctrl.analysis.slope_loop import prove_loop, prove_well_posed, slope_loop
from lipctrl.analysis.structured import structured_gain_margin, structured_test
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import NotProvedError

ACTIVATIONS: list[Any] = [
    "relu", "tanh", "abs", "sin", "silu", "gelu", "softplus", "identity",
    {"name": "groupsort", "size": 2}, {"name": "groupsort", "size": 4},
    {"name": "averaged", "activation": {"name": "groupsort", "size": 2}},
    {"name": "leaky_relu", "slope": -0.4}, {"name": "elu", "alpha": 2.0},
    {"name": "soft_threshold", "threshold": 0.3}, {"name": "clip", "lower": -0.3, "upper": 0.2},
]  # fmt: skip


def leaf(rng, p, m, gain):
    """Return a network of one hidden layer whose activation is drawn from all that are known."""
    h = 4 * int(rng.integers(1, 3))
    first, last = rng.standard_normal((h, p)), rng.standard_normal((m, h))
    return rules.series(
        rules.linear(first / np.linalg.norm(first, 2), 0.5 * rng.standard_normal(h)),
        rules.elementwise(ACTIVATIONS[rng.integers(len(ACTIVATIONS))], h),
        rules.linear(last * gain / np.linalg.norm(last, 2), rng.standard_normal(m)),
    )


def module(rng, p, m, gain):
    """Return the certificate of a network of some parametrisation, with weights away from their start."""
    import torch

    from lipctrl import nn

    sort = {"name": "groupsort", "size": 2}
    builders = [
        lambda: nn.LipschitzResNet(p, m, lipschitz=gain, width=6, depth=2),
        lambda: nn.LosslessBlock(p, m, lipschitz=gain, width=4, inner_depth=2, activation=sort),
        lambda: nn.LDLTBlock(p, m, lipschitz=gain, width=4, inner_depth=2),
        lambda: nn.GershgorinBlock(p, m, lipschitz=gain, width=4),
        lambda: nn.SandwichLayer(p, m, lipschitz=gain),
        lambda: nn.ImplicitBlock(p, m, lipschitz=gain, width=4),
        lambda: nn.Sequential(
            nn.AOLLayer(p, 4), nn.Recursive(nn.LosslessBlock(4, 4, width=4), 4, m, lipschitz=gain)
        ),
        lambda: nn.SLLBlock(p, p, width=6),
        lambda: nn.Residual(nn.LosslessBlock(p, p, width=4, lipschitz=0.3)),
        lambda: nn.Repeat(nn.SLLBlock(p, p, width=4, lipschitz=0.8), 2),
    ]
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(10**6)))
        net = builders[rng.integers(len(builders))]().double()
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(0.5 * torch.randn_like(weight))
        found = net.certificate()
    if found.out_features == m:
        return found
    return rules.series(found, rules.linear(gain * rng.standard_normal((m, found.out_features)) / 3.0))


def composed(rng, p, m, gain, depth):
    """Return a tree of networks: in series, summed, side by side, repeated, clipped inside."""
    kind = rng.integers(8) if depth else 0
    if kind == 2:
        q = int(rng.integers(1, 4))
        return rules.series(composed(rng, p, q, 1.0, depth - 1), composed(rng, q, m, gain, depth - 1))
    if kind == 3:
        plain = rules.linear(0.3 * gain * rng.standard_normal((m, p)))
        return rules.total(composed(rng, p, m, gain, depth - 1), plain, coefficients=[0.7, -0.5])
    if kind == 4 and m > 1:
        return rules.concat(
            composed(rng, p, 1, gain / 2, depth - 1), composed(rng, p, m - 1, gain / 2, depth - 1)
        )
    if kind == 5:
        return rules.projection(composed(rng, p, m, gain, depth - 1), -rng.random(m), rng.random(m))
    if kind == 6:
        return module(rng, p, m, gain)
    if kind == 7 and p == m:
        return rules.repeat(composed(rng, p, m, min(gain, 0.8), depth - 1), 2)
    return leaf(rng, p, m, gain)


def random_loop(seed):
    """Return a plant (of both times, some unstable, some with feed-through), a policy and a generator."""
    rng = np.random.default_rng(seed)
    n, m, p = int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(1, 4))
    a = rng.standard_normal((n, n))
    poles = np.linalg.eigvals(a)
    discrete = bool(rng.integers(2))
    if discrete:
        a *= rng.uniform(0.6, 1.02) / np.abs(poles).max()
    else:
        a -= (poles.real.max() + rng.uniform(-0.02, 0.6)) * np.eye(n)
    b, c = rng.standard_normal((n, m)), rng.standard_normal((p, n))
    d = (rng.random() < 0.4) * 0.3 * rng.standard_normal((p, m))
    policy = composed(rng, p, m, 10.0 ** rng.uniform(-1.0, 0.3), 3)
    if rng.random() < 0.4:
        policy = rules.centered(0.2 * rng.standard_normal((m, p)), policy)
    if rng.random() < 0.3:
        policy = rules.projection(policy, -rng.random(m) - 0.1, rng.random(m) + 0.1)
    if rng.random() < 0.4:
        policy = rules.series(rules.scaling(10.0 ** rng.uniform(-1.0, 1.0, p)), policy)
    return control.ss(a, b, c, d, 0.1 if discrete else 0), policy, rng


def actions(plant, policy, x, r):
    """Return u = π(Cx + Du) + r by damped iteration; NaN where it did not settle."""
    u = np.zeros((len(x), plant.ninputs))
    for _ in range(200 if plant.D.any() else 1):
        after = policy.evaluate(x @ plant.C.T + u @ plant.D.T) + r
        u = 0.5 * u + 0.5 * after if plant.D.any() else after
    if plant.D.any():
        u[np.abs(u - policy.evaluate(x @ plant.C.T + u @ plant.D.T) - r).max(axis=1) > 1e-9] = np.nan
    return u


def energy(p, x, y):
    return np.einsum("ij,jk,ik->i", x, p, y)


def attack_contraction(seed):
    """Pairs of states at distances of 1e-6 to 1e3, with a common constant disturbance, contract as was proved."""
    plant, policy, rng = random_loop(seed)
    test = structured_test(plant, policy, fastest=seed % 2 == 0)
    if test.method != "structured" or test.verdict != "certified":
        return
    if any("inactive" in line for line in test.scope):
        policy = policy.parts[0]
    p, rate = test.lyapunov, test.decay
    assert p is not None
    assert rate is not None
    for scale in 10.0 ** np.array([-4.0, -2.0, -0.5, 0.0, 1.0, 2.0]):
        x = scale * rng.standard_normal((300, plant.nstates)) + rng.choice([0.0, 1.0, 10.0])
        gap = scale * 10.0 ** rng.uniform(-3.0, 1.0, (300, 1)) * rng.standard_normal(x.shape)
        r = scale * rng.standard_normal((300, plant.ninputs))
        step = actions(plant, policy, x + gap, r) - actions(plant, policy, x, r)
        motion = gap @ plant.A.T + step @ plant.B.T
        rounding = 1e-8 * (1.0 + np.abs(x).max() / np.linalg.norm(gap, axis=1)) * (1.0 + np.linalg.norm(p))
        with np.errstate(invalid="ignore"):
            if plant.dt:
                excess = energy(p, motion, motion) / energy(p, gap, gap) - rate**2
            else:
                excess = 2.0 * energy(p, gap, motion) / energy(p, gap, gap) + 2.0 * rate
        assert not (excess > rounding).any(), f"by {np.nanmax(excess)} at scale {scale}"


def jacobians(policy, rng, count=30):
    found = []
    for scale in (1e-2, 0.3, 3.0, 30.0):
        y = scale * rng.standard_normal((count, policy.in_features))
        h = 1e-5 * scale
        rises = [policy.evaluate(y + h * e) - policy.evaluate(y - h * e) for e in np.eye(policy.in_features)]
        found.append(np.stack(rises, axis=2) / (2.0 * h))
    return np.concatenate(found)


def frozen(plant, k):
    """Return T = P(I - kP)⁻¹ of a constant gain."""
    w = np.linalg.inv(np.eye(plant.ninputs) - k @ plant.D)
    a, b = plant.A + plant.B @ w @ k @ plant.C, plant.B @ w
    return a, b, plant.C + plant.D @ w @ k @ plant.C, plant.D @ w


def excess_pole(a, discrete):
    poles = np.linalg.eigvals(a)
    return float(np.abs(poles).max() - 1.0 if discrete else poles.real.max())


def attack_margin(seed):
    """Every gain inside a margin leaves the loop of every Jacobian of the policy stable."""
    plant, policy, rng = random_loop(seed)
    form = "policy" if seed % 2 else "residual"
    if structured_test(plant, policy).verdict != "certified":
        return
    margin = structured_gain_margin(plant, policy, form, tolerance=0.05, limit=8.0)
    centre = policy.center if policy.center is not None and form == "residual" else np.zeros((1, 1))
    if any("inactive" in line for line in margin.scope):
        policy = policy.parts[0]
    for k in (margin.lower, margin.upper, *rng.uniform(margin.lower, margin.upper, 3)):
        for slope in jacobians(policy, rng):
            assert excess_pole(frozen(plant, centre + k * (slope - centre))[0], plant.dt) < 1e-5


def attack_gain(seed):
    """No Jacobian's frequency response and no pair of disturbances exceeds the incremental gain."""
    plant, policy, rng = random_loop(seed)
    bound = structured_gain(plant, policy)
    if math.isinf(bound):
        return
    grid = np.linspace(0.0, np.pi, 25) if plant.dt else np.append(0.0, np.geomspace(1e-2, 1e2, 25))
    for slope in jacobians(policy, rng, 8):
        a, b, c, d = frozen(plant, slope)
        assert excess_pole(a, plant.dt) < 0.0
        for omega in grid:
            s = np.exp(1j * omega) if plant.dt else 1j * omega
            response = c @ np.linalg.solve(s * np.eye(len(a)) - a, b) + d
            assert np.linalg.norm(response, 2) <= bound * (1.0 + 1e-5)
    if not plant.dt:
        return
    x, z = np.zeros((2, 40, plant.nstates))
    out = into = 0.0
    level = 10.0 ** rng.uniform(-2.0, 1.5, (40, 1))
    for k in range(150):
        r = level * rng.standard_normal((40, plant.ninputs))
        d = level * rng.standard_normal(r.shape) * (k < 30)
        u, v = actions(plant, policy, x, r), actions(plant, policy, z, r + d)
        out = out + (((x - z) @ plant.C.T + (u - v) @ plant.D.T) ** 2).sum(axis=1)
        into = into + (d**2).sum(axis=1)
        x, z = x @ plant.A.T + u @ plant.B.T, z @ plant.A.T + v @ plant.B.T
    ratio = np.sqrt(out / into)
    assert not (ratio > bound * (1.0 + 1e-6)).any()


def attack_hull(seed):
    """Every plant of the hull, drawn anew at each pair, contracts in the one proved norm."""
    plant, policy, rng = random_loop(seed)
    if plant.D.any():
        return
    models = [
        control.ss(
            plant.A + 0.05 * rng.standard_normal(plant.A.shape),
            plant.B * (1.0 + 0.1 * rng.standard_normal()), plant.C, plant.D, plant.dt,
        )
        for _ in range(3)
    ]  # fmt: skip
    test = hull_test(models, policy)
    if test.verdict != "certified":
        return
    p = test.lyapunov
    for weights in rng.dirichlet(0.5 * np.ones(3), 60):
        a, b = (sum(w * getattr(g, f) for w, g in zip(weights, models, strict=True)) for f in "AB")
        x, gap = 10.0 ** rng.uniform(-2.0, 1.5) * rng.standard_normal((2, 20, plant.nstates))
        gap = gap * 10.0 ** rng.uniform(-3.0, 0.0)
        step = policy.evaluate((x + gap) @ plant.C.T) - policy.evaluate(x @ plant.C.T)
        motion = gap @ a.T + step @ b.T
        now = energy(p, gap, gap)
        if plant.dt:
            assert (energy(p, motion, motion) < now * (1.0 + 1e-7)).all()
        else:
            assert (energy(p, gap, motion) < 1e-7 * now * np.linalg.norm(a)).all()


ATTACKS = {
    "contraction": attack_contraction,
    "margin": attack_margin,
    "gain": attack_gain,
    "hull": attack_hull,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_policy_breaks_what_its_neurons_prove(name):
    for seed in range(8):
        ATTACKS[name](random_seed(name, seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_no_policy_breaks_what_its_neurons_prove_at_length(name):
    for seed in range(100, 130):
        ATTACKS[name](random_seed(name, seed))


def random_seed(name, seed):
    return 1000 * list(ATTACKS).index(name) + seed


STABLE = control.ss([[0.9]], [[1.0]], [[1.0]], [[0.0]], 0.1)


def test_a_ball_on_a_box_proves_nothing_about_a_structured_loop():
    """u = -0.5y + 0.1 sin inside |y| ≤ 1 and anything beyond: no claim about every trajectory follows."""
    local = IncrementalBall([[-0.5]], 0.1, region=(np.array([-1.0]), np.array([1.0])))
    test = structured_test(STABLE, local)
    assert (test.verdict, test.method) == ("inconclusive", "ball")
    for claim in (structured_gain_margin, structured_gain, lambda p, b: hull_test([p], b)):
        with pytest.raises(ValueError, match="box"):
            claim(STABLE, local)
    with pytest.raises(ValueError, match="box"):
        recentred_ball(local)


def test_the_scope_of_a_ball_limits_every_claim_about_it():
    ball = IncrementalBall([[-0.5]], 0.1, scope=("for odd observations",))
    assert structured_test(STABLE, ball).scope == ball.scope
    assert structured_gain_margin(STABLE, ball).scope == ball.scope
    assert "odd observations" in str(hull_test([STABLE], ball))
    assert recentred_ball(ball).scope == ball.scope


def test_coupled_channels_are_not_solved_one_after_the_other():
    """max(v₁, v₂) with v₂ = 2·max(v₁, v₂) has two solutions, though the loop's matrix is strictly triangular."""
    static = as_realization(control.ss([], [], [], [[0.0, 0.0], [2.0, 0.0]], 0.1))
    sort = rules.elementwise({"name": "groupsort", "size": 2}, 2)
    for policy in (sort, IncrementalBall(np.zeros((2, 2)), 1.0)):
        loop = replace(slope_loop(static, policy_graph(policy)), d=Enclosure.exact(static.D))
        for multipliers in (np.zeros(2), np.ones(2)):
            with pytest.raises(NotProvedError):
                prove_well_posed(loop, multipliers)
        assert structured_test(static, policy).verdict == "ill-posed"
        assert structured_gain(static, policy) == math.inf
        halved = control.ss([], [], [], [[0.0, 0.0], [0.5, 0.0]], 0.1)
        assert 0.5 < structured_gain(halved, policy) <= 1.0 + 1e-3
    # Without coupling the first neuron is solved before the second one.
    apart = slope_loop(static, policy_graph(rules.elementwise("tanh", 2)))
    prove_well_posed(replace(apart, d=Enclosure.exact(static.D)), np.zeros(2))
    prove_well_posed(apart, np.array([5.0, 1.0]))


def test_rates_and_gains_that_bound_nothing_are_not_proved():
    policy = rules.series(rules.linear([[-0.5]]), rules.elementwise("tanh", 1))
    system = as_realization(STABLE)
    loop = slope_loop(system, policy_graph(policy))
    found = find_contraction(loop, 0.999)
    assert found is not None
    gain = structured_gain(system, policy)
    big = 1e3 * found.lyapunov, 1e3 * found.multipliers
    prove_loop(loop, *big, 1.0, 100.0 * gain)
    # With a rate beyond one the state may grow without end.
    for decay, level in (
        (1.5, 100.0 * gain), (math.nan, 100.0 * gain), (-0.5, 100.0 * gain),
        (1.0, 0.5 * gain), (1.0, -100.0 * gain), (1.0, math.nan), (1.0, math.inf), (1.0, None),
    ):  # fmt: skip
        with pytest.raises(NotProvedError):
            prove_loop(loop, *big, decay, level)


@pytest.mark.parametrize("gain", [1e150, 1e200, 1e300])
def test_plants_beyond_float64_are_left_undecided(gain):
    policy = rules.series(rules.linear([[-0.5]]), rules.elementwise("tanh", 1))
    plant = control.tf([gain], [1.0, 1.0])
    assert structured_test(plant, policy).verdict == "inconclusive"
    assert hull_test([plant], policy).verdict == "inconclusive"
    assert structured_gain(plant, policy) == math.inf


def test_coupled_channels_share_their_multiplier():
    sort = rules.series(
        rules.linear([[0.3, 0.1], [0.2, -0.1]]), rules.elementwise({"name": "groupsort", "size": 2}, 2)
    )
    plant = as_realization(control.ss(0.5 * np.eye(2), np.eye(2), np.eye(2), np.zeros((2, 2)), 0.1))
    loop = slope_loop(plant, policy_graph(sort))
    found = find_contraction(loop, 0.999)
    assert found is not None
    prove_loop(loop, found.lyapunov, found.multipliers, 0.999)
    with pytest.raises(NotProvedError, match="coupled"):
        prove_loop(loop, found.lyapunov, found.multipliers * [1.0, 1.0 + 1e-9], 0.999)


def test_a_plant_whose_feedthrough_is_known_up_to_rounding_is_in_no_hull():
    system = as_realization(STABLE)
    loose = replace(system, d=type(system.d)(np.zeros((1, 1)), np.full((1, 1), 1e-3)))
    assert ball_test(loose, IncrementalBall([[-0.5]], 0.1)).verdict == "certified"
    with pytest.raises(ValueError, match="feed-through"):
        hull_test([STABLE, loose], IncrementalBall([[-0.5]], 0.1))
