"""Criteria on frequencies and slopes against what they speak of: sampled graphs, frozen and switched slopes, steps.

Scaled relative graphs are compared with the graph's points of random inputs of one and two frequencies, slopes of
several channels with all their vertices and with sequences that switch against the loop.
"""

from __future__ import annotations

import itertools
import math

import control
import gymnasium
import numpy as np
import pytest

from lipctrl import analyze
from lipctrl.analysis import (
    IncrementalBall,
    circle_criterion,
    diagonal_slope,
    max_slope,
    sampled_box,
    sampled_linearization,
    scaled_relative_graphs,
)
from lipctrl.analysis.continuation import _reach
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.srg import srg_discs
from lipctrl.analysis.synthesis import best_gain, max_lipschitz, trade_off
from lipctrl_envs import sample_model


def stable_plant(rng, size):
    """Return a stable square plant of either time, with feed-through at times."""
    n, m = int(rng.integers(1, 5)), int(rng.integers(1, size + 1))
    a = rng.standard_normal((n, n))
    poles = np.linalg.eigvals(a)
    discrete = bool(rng.integers(2))
    if discrete:
        a *= rng.uniform(0.3, 0.98) / np.abs(poles).max()
    else:
        a -= (poles.real.max() + 10.0 ** rng.uniform(-2.0, 0.0)) * np.eye(n)
    d = rng.choice([0.0, 0.0, 1.0]) * rng.standard_normal((m, m))
    return control.ss(a, rng.standard_normal((n, m)), rng.standard_normal((m, n)), d, 0.1 if discrete else 0)


def grid_of(plant):
    return np.linspace(0.0, 10.0 * np.pi, 100) if plant.dt else np.append(0.0, np.geomspace(1e-3, 1e3, 100))


def responses(plant):
    system = as_realization(plant)
    return np.array([system.response(float(w)) for w in grid_of(plant)])


def graph_points(g, rng, count, center):
    """Return points of the scaled relative graph: inputs of two frequencies, some in the directions that matter."""
    m = g.shape[1]
    first, second = g[rng.integers(len(g), size=(2, count))]
    u, v = rng.standard_normal((2, count, m)) + 1j * rng.standard_normal((2, count, m))
    v *= rng.integers(0, 2, (count, 1))
    _, _, right = np.linalg.svd(first - center * np.eye(m))
    pick = rng.integers(3, size=count)
    u[pick == 0], u[pick == 1] = right[pick == 0, 0].conj(), right[pick == 1, -1].conj()
    y, z = (np.einsum("kij,kj->ki", a, b) for a, b in ((first, u), (second, v)))
    size = (np.abs(u) ** 2 + np.abs(v) ** 2).sum(axis=1)
    along = (u.conj() * y + v.conj() * z).sum(axis=1).real / size
    square = (np.abs(y) ** 2 + np.abs(z) ** 2).sum(axis=1) / size
    return along + 1j * np.sqrt(np.maximum(square - along**2, 0.0))


def to_forbidden(z, a, b):
    """Return the signed distance of points to -SRG(φ)⁻¹, slopes [a, b], (a, b) ≠ 0."""
    if a == 0.0 or b == 0.0:
        return z.real + 1.0 / b if b > 0.0 else -1.0 / a - z.real
    ends = -1.0 / a, -1.0 / b
    gap = np.abs(z - 0.5 * sum(ends)) - 0.5 * abs(ends[0] - ends[1])
    return -gap if a < 0.0 < b else gap


def attack_graph(seed):
    rng = np.random.default_rng(seed)
    plant = stable_plant(rng, 2)
    g = responses(plant)
    ends = (
        rng.uniform(-1.0, 1.0, 2) * 10.0 ** rng.uniform(-0.5, 1.0) / np.linalg.norm(g, 2, axis=(1, 2)).max()
    )
    a, b = [
        sorted(ends), (0.0, abs(ends[1])), (-abs(ends[0]), 0.0), sorted(np.abs(ends)), (ends[0], ends[0])
    ][rng.integers(5)]  # fmt: skip
    graphs = scaled_relative_graphs(plant, (a, b), omega_num=5)
    z = graph_points(g, rng, 1500, -0.5 * (1.0 / a + 1.0 / b) if a * b else 0.0)
    seen = float(to_forbidden(z, a, b).min())
    slack = 1e-9 * (1.0 + abs(seen))
    assert graphs.separation <= seen + slack
    if graphs.separation_all > 0.0:
        tau = np.maximum(rng.random(len(z)) ** 2, 1e-3)
        every = np.array([to_forbidden(p, t * a, t * b) for p, t in zip(z, tau, strict=True)])
        assert graphs.separation_all <= every.min() + slack
    for c, radius in srg_discs(plant, [-1.0, 0.0, 2.0]):
        assert np.abs(z - c).max() <= radius * (1.0 + 1e-9)
    circle = circle_criterion(plant, (a, b))
    if g.shape[1] == 1:
        assert circle.certified == (graphs.verdict == "certified")
    if graphs.verdict == "certified":
        assert circle.certified
        assert graphs.gain == 1.0 / graphs.separation


def test_no_pair_of_signals_comes_nearer_than_the_separation():
    for seed in range(25):
        attack_graph(seed)


@pytest.mark.slow
def test_no_pair_of_signals_comes_nearer_than_the_separation_at_length():
    for seed in range(1000, 1300):
        attack_graph(seed)


def test_a_separation_at_full_scale_alone_certifies_nothing():
    """Slopes that all destabilise are separated too: the loop of the middle slope guards."""
    plant = control.tf([1.0], [1.0, 3.0, 3.0, 1.0])
    graphs = scaled_relative_graphs(plant, (20.0, 21.0))
    assert graphs.separation > 0.0
    assert (graphs.verdict, graphs.guard) == ("inconclusive", False)
    assert graphs.gain == math.inf
    with pytest.raises(ValueError, match="not provably stable"):
        scaled_relative_graphs(control.tf([1.0], [1.0, -1.0]), (2.0, 3.0))


@pytest.mark.parametrize("slopes", [(-1.0, 1.0), (-1.0, 0.3), (-0.99999, 0.0), (-1.0, 0.0)])
def test_graphs_that_touch_are_not_separated(slopes):
    """P(0) = 1: slope -1 makes a pole at zero; rounding decides nothing in its favour."""
    graphs = scaled_relative_graphs(control.tf([1.0], [1.0, 1.0]), slopes)
    assert (graphs.verdict == "certified") == (slopes[0] > -1.0)


@pytest.mark.parametrize(
    "slopes",
    [(-1e-200, 1e-150), (0.0, 1e-320), (-1e308, 1e308), (1.0, 2.0, 3.0), "ab", (math.nan, 1.0), (2, 1)],
)
def test_slopes_that_arithmetic_cannot_hold_are_refused(slopes):
    with pytest.raises(ValueError, match="slopes"):
        scaled_relative_graphs(control.tf([1e250], [1.0, 1.0]), slopes)


def opened(rng, size):
    """Return a plant that the slope `lower` stabilises, and that slope; unstable by itself at times."""
    t, lower = stable_plant(rng, size), float(rng.choice([0.0, -0.3, 0.2, 1.0]))
    m = t.ninputs
    scale = 10.0 ** rng.uniform(-2.0, 2.0, m) if rng.random() < 0.3 else np.ones(m)
    well = np.linalg.inv(np.eye(m) - lower * t.D / scale[:, None] * scale)
    b, c, d = t.B * scale, t.C / scale[:, None], t.D / scale[:, None] * scale
    return control.ss(t.A + lower * b @ well @ c, b @ well, c + lower * d @ well @ c, d @ well, t.dt), lower


def closed(plant, k):
    return plant.A - plant.B @ k @ np.linalg.solve(np.eye(plant.ninputs) + plant.D @ k, plant.C)


def beyond(plant, k):
    poles = np.linalg.eigvals(closed(plant, k))
    return float(np.abs(poles).max() - 1.0 if plant.dt else poles.real.max() / max(1.0, np.abs(poles).max()))


def growth(plant, lower, top, rng, steps=400):
    """Return the growth per step, after the transient, of slopes switched against the loop."""
    m = plant.ninputs
    corners = [
        closed(plant, np.diag(lower + (top - lower) * np.array(t)))
        for t in itertools.product((0, 1), repeat=m)
    ]
    worst = -math.inf
    for _ in range(4):
        x, weight = rng.standard_normal((20, plant.nstates)), rng.standard_normal((plant.nstates,) * 2)
        total = np.zeros(20)
        for k in range(steps):
            after = np.stack([x @ a.T for a in corners])
            x = after[np.linalg.norm(after @ weight, axis=2).argmax(axis=0), np.arange(20)]
            size = np.linalg.norm(x, axis=1) + 1e-300
            total, x = total + np.log(size) * (2 * k > steps), x / size[:, None]
        worst = max(worst, float(np.median(total)) / (steps / 2))
    return worst


def attack_slopes(seed):
    rng = np.random.default_rng(seed)
    plant, lower = opened(rng, 3)
    m = plant.ninputs
    try:
        both = diagonal_slope(plant, lower), max_slope(plant, lower)
    except ValueError as error:
        if "not provably stable" in str(error):
            return
        raise
    assert both[0] == math.inf or both[0] >= both[1] - 1e-5 * (1.0 + abs(both[1]))
    for full, top in enumerate(both):
        end = min(top, lower + 1e6)
        if end <= lower:
            continue
        shares = [
            *itertools.product((0.0, 1.0), repeat=m),
            *rng.random((20, m)),
            *10.0 ** rng.uniform(-4, 0, (20, m)),
        ]
        gains = [np.diag(lower + (end - lower) * np.array(s)) for s in shares]
        if full:
            turn = rng.standard_normal((20, m, m)) + 1j * rng.integers(
                0, 2, (20, 1, 1)
            ) * rng.standard_normal((20, m, m))
            turn /= np.linalg.norm(turn, 2, axis=(1, 2))[:, None, None]
            gains += [0.5 * (lower + end) * np.eye(m) + 0.5 * (end - lower) * t for t in turn]
        assert max(beyond(plant, k) for k in gains) < 1e-9
        # The algebraic loop keeps its sign along the whole class.
        start = np.linalg.det(np.eye(m) + lower * plant.D)
        assert all((np.linalg.det(np.eye(m) + plant.D @ k) / start).real > 0.0 for k in gains[: 2**m + 40])
        if plant.dt and end < 1e5:
            assert growth(plant, lower, lower + 0.99 * (end - lower), rng) < 3e-3


def test_no_slopes_of_the_class_destabilise():
    for seed in range(10):
        attack_slopes(seed)


@pytest.mark.slow
def test_no_slopes_of_the_class_destabilise_at_length():
    for seed in range(1000, 1060):
        attack_slopes(seed)


def test_channels_of_rank_one_are_as_safe_as_a_full_block():
    """He G is semidefinite at all frequencies: the search for multipliers sees a zero there."""
    v = np.array([[0.8], [-0.85]])
    plant = control.ss([[-0.003]], v.T, v, np.zeros((2, 2)))
    assert diagonal_slope(plant, 0.2) >= max_slope(plant, 0.2) > 1e4


@pytest.mark.parametrize(("first", "second"), [(0.3, 0.7), (1e-6, 2.0), (5.0, 5.0)])
def test_two_proofs_cover_what_their_parabola_leaves_positive(first, second):
    """The bound between two proved points is (1-s)λ₁ + sλ₂ - s(1-s)d²: positive just inside the reach, not beyond."""
    reach = math.sqrt(first) + math.sqrt(second)
    s = np.linspace(0.0, 1.0, 200_001)
    for share, covered in ((1.0 - 1e-9, True), (1.0 + 1e-6, False)):
        d = share * reach
        assert _reach(d, first, second) == covered
        assert (((1.0 - s) * first + s * second - s * (1.0 - s) * d * d).min() > 0.0) == covered
    assert not _reach(0.1, first, 0.0)
    assert not _reach(math.nan, first, second)
    assert not _reach(0.1, math.nan, second)


def test_a_step_that_works_in_place_or_reuses_its_buffer_is_linearised_alike():
    a, kept = np.array([[1.0, 0.1], [-0.3, 0.9]]), np.zeros(2)

    def pure(x, u):
        return a @ x + [0.0, 0.1 * u[0]]

    def in_place(x, u):
        x[:] = pure(x, u)
        return x

    def buffered(x, u):
        kept[:] = pure(x, u)
        return kept

    for step in (pure, in_place, buffered):
        model = sampled_linearization(step, [0.4, -0.2], [0.1], dt=0.1)
        np.testing.assert_allclose(model.system.A, a, atol=1e-9)
        assert model.error < 1e-9


@pytest.mark.parametrize(
    "options",
    [{"difference": 0.0}, {"difference": math.nan}, {"dt": math.inf}, {"dt": 0.0}, {"radius": math.inf},
     {"radius": -1.0}, {"samples": 2.5}, {"samples": 0}],
)  # fmt: skip
def test_a_sampled_linearisation_without_a_sample_is_refused(options):
    with pytest.raises(ValueError, match="expected"):
        sampled_linearization(lambda x, u: 0.5 * x + u, [0.0], [0.0], **{"dt": 0.1, **options})


def test_a_report_on_a_sampled_model_says_so():
    model = sampled_linearization(lambda x, u: 0.9 * np.sin(x) + u, [0.5], [0.0], dt=0.1)
    said = " ".join(analyze(model, IncrementalBall([[-0.1]], 0.2), margins=False).scope)
    assert "not certified" in said
    assert "no rest" in said
    rest = sampled_linearization(lambda x, u: 0.9 * np.sin(x) + u, [0.0], [0.0], dt=0.1)
    assert "no rest" not in " ".join(rest.linearization_scope)


class Cart(gymnasium.Env):
    """A double integrator that is undefined beyond a distance, and may keep its state in one array."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,))
    dt = 0.1

    def __init__(self, *, reach=math.inf, in_place=False):
        self.reach, self.in_place, self.state = reach, in_place, np.zeros(2)

    def _set(self, value):
        if self.in_place:
            self.state[:] = value
        else:
            self.state = value
        return self.state

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._set(self.np_random.uniform(-1e-3, 1e-3, 2)), {}

    def step(self, action):
        x, v = self.state
        fine = 1.0 if max(abs(x), abs(v)) < self.reach else math.nan
        return (
            self._set(fine * np.array([x + 0.1 * v, v + 0.1 * (math.sin(x) + action[0])])),
            0.0,
            False,
            False,
            {},
        )


@pytest.mark.parametrize("in_place", [False, True])
def test_a_sampled_environment_is_finite_where_it_is_sampled(in_place):
    model = sample_model(Cart(in_place=in_place))
    np.testing.assert_allclose(model.system.A, [[1.0, 0.1], [0.1, 1.0]], atol=1e-6)
    assert not any("no rest" in line for line in model.linearization_scope)
    assert any("no rest" in line for line in sample_model(Cart(in_place=in_place), [1.0, 0.3]).notes)
    with pytest.raises(ValueError, match="not finite"):
        sample_model(Cart(reach=5e-3, in_place=in_place))
    for options in ({"radius": math.inf}, {"samples": 2.5}, {"samples": 0}):
        with pytest.raises(ValueError, match="expected"):
            sample_model(Cart(), **options)


def test_a_worse_plant_between_corner_and_centre_is_not_called_certified():
    """A margin with a dip inside the box: corners and centre miss it, samples need not."""
    found = sampled_box(
        lambda mass: mass, {"mass": (0.0, 1.0)}, lambda m: 0.5 if abs(m - 0.3) < 0.1 else 2.0, samples=60
    )
    assert 0 < len(found.failed) == found.samples - found.certified
    assert "not certified between samples" in str(found)
    unknown = sampled_box(lambda mass: mass, {"mass": (0.0, 1.0)}, lambda m: math.nan, samples=2)
    assert unknown.certified == 0
    with pytest.raises(ValueError, match="whole number"):
        sampled_box(lambda mass: mass, {"mass": (0.0, 1.0)}, lambda m: 2.0, samples=2.5)


def attack_synthesis(seed):
    rng = np.random.default_rng(seed)
    n, m, dt = 2, int(rng.integers(1, 3)), 0.1 * (seed % 2)
    plant = control.ss(
        rng.standard_normal((n, n)), rng.standard_normal((n, m)), np.eye(n), np.zeros((n, m)), dt
    )
    choices = [best_gain(plant, evaluations=40), *trade_off(plant, prices=[0.1, 10.0]).choices]
    assert np.linalg.norm(choices[0].gain, 2) <= choices[0].limit * (1.0 + 1e-9)
    assert choices[0].bound >= choices[0].lipschitz
    for choice in choices:
        loop = control.ss(plant.A - plant.B @ choice.gain, plant.B, plant.C, plant.D, dt)
        assert np.abs(loop.poles()).max() < 1.0 if dt else loop.poles().real.max() < 0.0
        assert choice.lipschitz * np.linalg.norm(responses(loop), 2, axis=(1, 2)).max() < 1.0 + 1e-9


def test_budgets_of_chosen_gains_hold_on_samples():
    for seed in range(4):
        attack_synthesis(seed)


def test_a_gain_is_searched_inside_its_limit_only():
    plant = control.tf([1.0], [1.0, -1.0])
    for options, match in (
        ({"max_gain": 2.0}, "beyond max_gain"), ({"evaluations": 0}, "evaluations"),
        ({"evaluations": 2.5}, "evaluations"), ({"max_gain": math.nan}, "max_gain"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            best_gain(plant, start=[[3.0]], **options)
    with pytest.raises(ValueError, match="stabilisable"):
        trade_off(control.ss([[1.0, 0.0], [0.0, 2.0]], [[0.0], [1.0]], np.eye(2), np.zeros((2, 1))))
    with pytest.raises(ValueError, match="NaN"):
        best_gain(plant, start=[[math.nan]])
    assert best_gain(control.tf([0.0], [1.0, 1.0])).lipschitz == math.inf
    assert best_gain([[0.5]], evaluations=20).lipschitz >= max_lipschitz([[0.5]], [[0.0]])


def test_the_cost_of_a_gain_counts_the_feedthrough():
    """u = -K(x + u/2) is u = -K/(1 + K/2)·x: the cost is that of the gain that acts."""
    through = control.ss([[1.0]], [[1.0]], [[1.0]], [[0.5]])
    found = best_gain(through, start=[[3.0]], max_gain=3.0, evaluations=30)
    acting = found.gain[0, 0] / (1.0 + 0.5 * found.gain[0, 0])
    assert found.cost == pytest.approx((1.0 + acting**2) / (2.0 * (acting - 1.0)), rel=1e-9)
