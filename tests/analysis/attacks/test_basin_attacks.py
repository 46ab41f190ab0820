"""Basins against simulation: policies of every activation, plants of every kind, points searched, not only drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg

import lipctrl_envs
from lipctrl import rules
from lipctrl.analysis import Verdict, basin, basin_gains
from lipctrl.analysis.attraction import cell_loop
from lipctrl.analysis.region import region_of_attraction
from lipctrl.analysis.sectors import sine_slopes
from lipctrl_envs.lure import LureForm
from tests.analysis.nonlinear.test_region import pendulum

ACTIVATIONS = (
    "relu", "tanh", "sigmoid", "elu", "softplus", "silu", "gelu", "arctan", "softsign", "hardtanh", "abs", "sin",
    {"name": "leaky_relu", "slope": -0.3}, {"name": "groupsort", "size": 2}, {"name": "groupsort", "size": 3},
    {"name": "elu", "alpha": 1.7}, {"name": "clip", "lower": -0.3, "upper": 0.6}, {"name": "soft_threshold"},
    {"name": "averaged", "activation": "silu"},
)  # fmt: skip
# Values and slopes without decimal arithmetic: fast.
STRAIGHT = (
    "relu",
    "hardtanh",
    "abs",
    {"name": "groupsort", "size": 2},
    {"name": "leaky_relu", "slope": -0.3},
)
# ψ with its slopes: smooth, with kinks, with jumps of the slope.
NONLINEARITIES = (
    (np.sin, -1.0, 1.0),
    (np.tanh, 0.0, 1.0),
    (np.abs, -1.0, 1.0),
    (lambda z: np.clip(z, -0.4, 0.5), 0.0, 1.0),
    (lambda z: z / (1.0 + np.abs(z)), 0.0, 1.0),
    (lambda z: np.maximum(z, 0.0) - 0.1 * z, -0.1, 0.9),
)


def random_plant(rng):
    """Return a form of one or two states, with the command inside ψ, ψ inside the output, or neither."""
    n, m, k = (int(rng.integers(1, 3)) for _ in range(3))
    a = rng.standard_normal((n, n))
    a *= rng.uniform(0.7, 1.15) / np.abs(np.linalg.eigvals(a)).max()
    psi, lower, upper = NONLINEARITIES[rng.integers(len(NONLINEARITIES))]
    kind = rng.random()
    return LureForm(
        A=a, B=rng.standard_normal((n, m)), B_w=0.2 * rng.standard_normal((n, k)), C_z=rng.standard_normal((k, n)),
        D_zu=0.3 * rng.standard_normal((k, m)) * (kind < 0.35), lower=np.full(k, lower), upper=np.full(k, upper),
        z_max=np.full(k, np.inf) if rng.random() < 0.5 else rng.uniform(0.5, 3.0, k), C=np.eye(n),
        D_w=0.1 * rng.standard_normal((n, k)) * (kind > 0.65),
        y_0=0.05 * rng.standard_normal(n) * (rng.random() < 0.4), dt=0.1, psi=psi,
    )  # fmt: skip


def random_policy(rng, form, activations):
    """Return a steep, biased policy, clipped inside, outside or not, and its limits."""
    n, m = form.B.shape
    p = len(form.C)
    slope = 0.5 * (form.lower + form.upper)
    if p == 3:
        slope = np.array([1.0, 0.0, 0.0])
    a = form.A + form.B_w @ (slope[:, None] * form.C_z)
    x = scipy.linalg.solve_discrete_are(a, form.B, np.eye(n), rng.uniform(0.01, 1.0) * np.eye(m))
    gain = np.linalg.solve(0.3 * np.eye(m) + form.B.T @ x @ form.B, form.B.T @ x @ a)
    gain = np.hstack([np.zeros((m, p - n)), gain])
    first, second = (activations[i] for i in rng.integers(len(activations), size=2))
    net = rules.series(
        rules.linear(0.4 * rng.standard_normal((6, p)), 0.3 * rng.standard_normal(6)),
        rules.elementwise(first, 6),
        rules.linear(0.5 * rng.standard_normal((6, 6)), 0.3 * rng.standard_normal(6)),
        rules.elementwise(second, 6),
        rules.linear(0.2 * rng.standard_normal((m, 6)), 0.05 * rng.standard_normal(m)),
    )
    if rng.random() < 0.3:
        net = rules.projection(net, -rng.uniform(0.05, 0.5, m), rng.uniform(0.05, 0.5, m))
    core = rules.centered(-gain, net)
    low, high = -rng.uniform(0.2, 4.0, m), rng.uniform(0.2, 4.0, m)
    if rng.random() < 0.6:
        return core, rules.projection(core, low, high), (low, high)
    return core, core, (np.full(m, -np.inf), np.full(m, np.inf))


class Oracle:
    """The loop from its equations and the certificate's own map, and quadratics about a basin's centre."""

    def __init__(self, form, core, limits, found):
        self.form, self.core, self.limits, self.found = form, core, limits, found

    def step(self, x, gain=1.0):
        form = self.form
        z = x @ form.C_z.T
        y = form.y_0 + x @ form.C.T + form.psi(z) @ form.D_w.T
        u = np.clip(gain * self.core.evaluate(y), *self.limits)
        z = z + u @ form.D_zu.T
        assert (gain != 1.0) | (np.abs(z) <= form.z_max * (1.0 + 1e-9) + 1e-9).all()
        return x @ form.A.T + u @ form.B.T + form.psi(z) @ form.B_w.T

    def size(self, d, p):
        return np.einsum("...i,ij,...j->...", d, p, d)

    def worst_rise(self, points, rng):
        """Climb to where the quadratic falls least, outside the inner ellipsoid."""
        found, n = self.found, len(self.found.center)

        def kept(x):
            outside = self.size(x - found.center, found.inner) > 1.0 + 1e-9
            return x[outside & (self.size(x - found.center, found.shape) <= 1.0)]

        rise, worst = np.full(1, -np.inf), kept(points)
        for reach in (0.1, 0.03, 0.01, 0.003):
            rise = self.size(self.step(worst) - found.center, found.shape)
            rise = rise - self.size(worst - found.center, found.shape)
            worst = worst[np.argsort(-rise)[:40]]
            moved = worst[:, None, :] + reach * found.extent * rng.standard_normal((len(worst), 40, n))
            worst = np.vstack([worst, kept(moved.reshape(-1, n))])
        return rise.max(initial=-np.inf)

    def worst_pairs(self, rng):
        """Return the largest ratio of distances after and before, over pairs of the inner ellipsoid."""
        found, n = self.found, len(self.found.center)
        root = np.linalg.cholesky(found.inner).T
        sphere = rng.standard_normal((2000, n))
        sphere *= rng.random((2000, 1)) ** 0.5 / np.linalg.norm(sphere, axis=1, keepdims=True)
        a = found.center + np.linalg.solve(root, sphere.T).T
        assert (self.size(self.step(a) - found.center, found.inner) <= 1.0 + 1e-9).all()
        worst = 0.0
        for reach in (1e-4, 1e-2, 1.0):
            b = a + reach * np.linalg.solve(root, rng.standard_normal((n, 2000))).T
            inside = self.size(b - found.center, found.inner) <= 1.0
            after = self.size(self.step(a[inside]) - self.step(b[inside]), found.inner)
            before = self.size(a[inside] - b[inside], found.inner)
            worst = max(worst, float(np.sqrt(after / before).max(initial=0.0)))
        return worst


def attack(seed, activations, *, gains=False):
    """Return whether a basin was certified; assert that nothing refutes it."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(6)
    swings = lipctrl_envs.Pendulum(), lipctrl_envs.PendulumSwingUp()
    form = swings[kind].lure_form() if kind < 2 else random_plant(rng)
    box = (
        np.array([rng.uniform(0.3, 1.4), rng.uniform(1.0, 6.0)])
        if kind < 2
        else rng.uniform(0.3, 4.0, len(form.A))
    )
    core, policy, limits = random_policy(rng, form, activations)
    limit = rng.uniform(0.3, 4.0, form.B.shape[1]) if rng.random() < 0.5 else None
    if limit is not None:
        limits = tuple(np.clip(side, -limit, limit) for side in limits)
    found = basin(form, policy, box, action_limit=limit, boxes=2000)
    if found.verdict != Verdict.CERTIFIED:
        return False
    oracle = Oracle(form, core, limits, found)
    edge = found.boundary(300)
    points = np.vstack(
        [
            edge,
            found.center + rng.random((1500, 1)) ** 0.5 * (edge[rng.integers(300, size=1500)] - found.center),
        ]
    )
    assert (np.abs(found.center) + found.extent <= box * (1.0 + 1e-12)).all()
    assert oracle.worst_rise(points, rng) < 1e-12
    assert oracle.worst_pairs(rng) <= found.decay + 1e-9
    x = points
    for _ in range(2000):
        x = oracle.step(x)
    rest = x.mean(axis=0)
    assert np.ptp(x, axis=0).max() < 1e-6 + 4.0 * found.decay**1500 * found.extent.max()
    assert (
        np.sqrt(oracle.size(rest - found.center, found.inner))
        <= found.offset + 1e-8 + 4.0 * found.decay**1500
    )
    if gains:
        interval = basin_gains(found, share=0.5)
        for k in (interval.lower, interval.upper, rng.uniform(interval.lower, interval.upper)):
            x = found.center + 0.5 * (edge - found.center)
            for _ in range(4000):
                x = oracle.step(x, k)
            assert np.ptp(x, axis=0).max() < 1e-4
    return True


def test_no_point_refutes_a_basin():
    assert sum(attack(seed, STRAIGHT) for seed in range(24, 28)) > 2


@pytest.mark.slow
def test_no_point_refutes_many_basins():
    assert sum(attack(seed, STRAIGHT, gains=seed % 8 == 0) for seed in range(24)) > 6
    assert sum(attack(seed, ACTIVATIONS) for seed in range(30, 34)) > 0


def two_inputs(**changes):
    """Return a plant of two inputs."""
    zero = np.zeros((2, 2))
    data = {
        "A": np.eye(2), "B": 0.1 * np.eye(2), "B_w": 0.02 * np.eye(2), "C_z": np.eye(2), "D_zu": zero,
        "lower": np.zeros(2), "upper": np.ones(2), "z_max": np.full(2, np.inf), "C": np.eye(2), "D_w": zero,
        "y_0": np.zeros(2), "dt": 0.1, "psi": np.tanh,
    }  # fmt: skip
    return LureForm(**{**data, **changes})


def test_clips_inside_a_policy_have_limits_of_their_own_for_each_output():
    """As many boxes as outputs, so that limits laid along the wrong axis would go unnoticed."""
    inner = rules.projection(rules.linear([[-1.0, 0.1], [0.0, -1.0]]), [-0.1, -0.5], [0.2, 0.7])
    policy = rules.centered([[-2.0, 0.1], [0.0, -1.0]], inner)
    loop = cell_loop(two_inputs(), policy, None)
    for count in (1, 2, 3):
        m = np.array([[0.5, -0.5, 0.3], [1.0, -1.0, 0.9]])[:, :count]
        known = loop.enclose(m, np.full(m.shape, 0.01))
        assert (np.abs(loop.step(m.T).T - known.image.middle()) <= known.image.radius + 1e-15).all()
    found = basin(two_inputs(), policy, [1.0, 1.0])
    assert found.verdict == Verdict.CERTIFIED
    assert np.abs(found.simulate(found.boundary(60), 800)[-1]).max() < 1e-6


def test_a_limit_behind_a_clip_is_their_composition():
    """clip(u, -7, -6), then a limit of 5, is -5 and not -6."""
    away = rules.projection(rules.linear([[-1.0]]), [-7.0], [-6.0])
    form = two_inputs(
        A=np.eye(1), B=0.1 * np.eye(1), B_w=np.zeros((1, 0)), C_z=np.zeros((0, 1)), D_zu=np.zeros((0, 1)),
        lower=np.zeros(0), upper=np.zeros(0), z_max=np.zeros(0), C=np.eye(1), D_w=np.zeros((1, 0)), y_0=np.zeros(1),
    )  # fmt: skip
    loop = cell_loop(form, away, 5.0)
    assert loop.step(np.zeros(1)) == pytest.approx(-0.5)
    with pytest.raises(ValueError, match=r"operating point|equilibrium|actuator"):
        region_of_attraction(form, away, action_limit=5.0)


@pytest.fixture(scope="module")
def steep():
    """Return a basin with a biased policy."""
    return basin(pendulum(), rules.linear([[-1.2, -0.15]], [0.02]), [2.5, 6.0], action_limit=0.7)


def test_every_stored_number_of_a_basin_matters(steep):
    assert steep.recheck()
    assert 0.0 < steep.offset < 1.0
    for changes in (
        {"offset": 0.999 * steep.offset * 0.5},
        {"offset": -1.0},
        {"offset": np.nan},
        {"center": steep.center + 0.5 * steep.extent},
        {"center": np.full(2, np.nan)},
        {"center": np.full(2, np.inf)},
        {"center": steep.center[:1]},
        {"shape": 0.02 * steep.shape},
        {"shape": -steep.shape},
        {"shape": steep.shape * [[1.0, 0.9], [1.0, 1.0]]},
        {"inner": 1e-3 * steep.inner},
        {"inner": 1e-3 * steep.inner, "shape": 1e-3 * steep.inner},
        {"decay": 0.9 * steep.decay},
        {"decay": np.nan},
    ):
        assert not replace(steep, **changes).recheck(), changes
    form = steep.loop.form
    for changes in (
        {"A": 1.2 * form.A}, {"B": -form.B}, {"B_w": 5.0 * form.B_w}, {"z_max": 0.1 * steep.extent[:1]},
        {"psi": lambda z: 3.0 * np.sin(z)}, {"psi": lambda z: np.full_like(z, np.nan)}, {"y_0": form.y_0 + 0.3},
    ):  # fmt: skip
        assert not replace(steep, loop=replace(steep.loop, form=replace(form, **changes))).recheck(), changes


def test_a_nonlinearity_that_its_samples_refute_is_refused():
    """NaN at zero, wrong slopes, channels that mix, lost digits near 0/0, slopes in the wrong place, another shape."""
    policy, box = rules.linear([[-2.0, 0.1], [0.0, -1.0]]), [1.0, 1.0]
    assert basin(two_inputs(), policy, box).verdict == Verdict.CERTIFIED

    def unsafe(z):
        with np.errstate(all="ignore"):
            return np.sin(z) ** 2 / z

    def cancelling(z):
        return np.where(z == 0.0, 0.0, (1.0 - np.cos(z)) / np.where(z == 0.0, 1.0, z))

    def exact(z):
        return np.where(z == 0.0, 0.0, 2.0 * np.sin(0.5 * z) ** 2 / np.where(z == 0.0, 1.0, z))

    def narrow(low, high):
        return np.full(low.shape, 0.9), np.ones(low.shape)

    wide = {"lower": -np.ones(2), "upper": np.ones(2)}
    for changes, words in (
        ({"psi": unsafe, **wide}, "not finite"),
        ({"psi": lambda z: 1.01 * np.tanh(z) + 0.02 * z}, "leaves the form's slopes"),
        ({"psi": lambda z: np.tanh(z + 0.1 * z[..., ::-1]), **wide}, "other channels"),
        ({"psi": cancelling, "lower": -0.1 * np.ones(2), "upper": 0.5 * np.ones(2)}, "loses digits"),
        ({"psi_slopes": narrow}, "leaves the form's slopes"),
        ({"psi_slopes": lambda low, high: (low, high)}, "leaves the form's slopes|unordered"),
        ({"psi_slopes": lambda low, high: (np.zeros(2), np.ones(2))}, "shape"),
        ({"psi": lambda z: np.tanh(z).sum(axis=-1), **wide}, "shape"),
    ):
        with pytest.raises(ValueError, match=words):
            basin(two_inputs(**changes), policy, box)
    honest = two_inputs(psi=exact, lower=-0.1 * np.ones(2), upper=0.5 * np.ones(2))
    assert basin(honest, policy, box).verdict == Verdict.CERTIFIED


def test_equilibria_at_the_edge_and_boxes_of_any_size():
    policy = rules.linear([[-1.2, -0.15]], [0.1])
    wide = basin(pendulum(), policy, [2.5, 6.0], action_limit=0.7)
    at = abs(wide.center[0])
    assert wide.verdict == Verdict.CERTIFIED
    for width in (0.5 * at, at, 1.3 * at):
        found = basin(pendulum(), policy, [width, 6.0], action_limit=0.7, boxes=4000)
        assert (found.verdict == Verdict.CERTIFIED) <= (width > at)
        assert found.center[0] + found.extent[0] <= width * (1.0 + 1e-6) or found.shape is None
    for box in ([1e-9, 1e-9], [1e-3, 1e6], [1e9, 1e9]):
        found = basin(pendulum(), rules.linear([[-1.2, -0.15]]), box, action_limit=0.7, boxes=4000)
        if found.verdict == Verdict.CERTIFIED:
            assert np.abs(found.simulate(found.boundary(40), 3000)[-1]).max() < 1e-6
            assert found.recheck()


def test_slopes_of_a_sine_hold_far_from_zero():
    rng = np.random.default_rng(0)
    for size in (1.0, 1e4, 1e9, 1e13):
        low = size * rng.uniform(-1.0, 1.0, 4000)
        high = low + np.abs(low) * 1e-15 * rng.integers(0, 50, 4000) + rng.choice([0.0, 1e-3, 1.0], 4000)
        least, most = sine_slopes(low, high)
        for share in (0.0, 0.37, 1.0):
            slope = np.cos(low + share * (high - low))
            assert ((least <= slope) & (slope <= most)).all()


def double_integrator(units):
    """Return x⁺ = Ax + Bu in units of the states, and a clipped and biased policy for it."""
    a, b = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.005], [0.1]])
    zeros = {
        "B_w": np.zeros((2, 0)),
        "C_z": np.zeros((0, 2)),
        "D_zu": np.zeros((0, 1)),
        "D_w": np.zeros((2, 0)),
    }
    form = LureForm(
        A=a * units[:, None] / units, B=b * units[:, None], C=np.eye(2), y_0=np.zeros(2), dt=0.1, psi=np.sin,
        lower=np.zeros(0), upper=np.zeros(0), z_max=np.zeros(0), **zeros,
    )  # fmt: skip
    bend = rules.series(
        rules.linear([[0.0, 0.3]]), rules.elementwise("relu", 1), rules.linear([[-0.2]], [0.1])
    )
    inside = rules.series(rules.linear(np.diag(1.0 / units)), bend)
    return form, rules.projection(rules.centered(np.array([[-1.0, -1.7]]) / units, inside), [-1.0], [1.5])


def test_units_of_the_states_do_not_matter():
    volumes = []
    for units in ([1.0, 1.0], [1e6, 1.0], [1e-8, 1e-7], [1e8, 1e8]):
        scale = np.array(units)
        found = basin(*double_integrator(scale), np.array([5.0, 3.0]) * scale)
        assert found.verdict is Verdict.CERTIFIED, found.reason
        assert found.recheck()
        volumes.append(found.volume / np.prod(scale))
    assert np.ptp(volumes) < 1e-3 * volumes[0]


def test_a_command_that_is_clipped_at_the_origin_hides_no_equilibrium():
    """A valve between 0 and 10 that is wide open at the origin, and half open where the loop rests."""
    form, _ = double_integrator(np.ones(2))
    tank = replace(
        form, A=np.array([[0.9]]), B=np.array([[0.1]]), C=np.eye(1), y_0=np.zeros(1), B_w=np.zeros((1, 0)),
        C_z=np.zeros((0, 1)), D_w=np.zeros((1, 0)),
    )  # fmt: skip
    found = basin(tank, rules.projection(rules.linear([[-2.0]], [15.0]), [0.0], [10.0]), [20.0])
    assert found.verdict is Verdict.CERTIFIED, found.reason
    assert found.center[0] == pytest.approx(5.0)
    assert found.extent[0] > 14.0
    x = found.simulate(found.boundary(2), 200)
    assert np.abs(x[-1] - 5.0).max() < 1e-6
