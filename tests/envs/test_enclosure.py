"""The interval enclosures hold: every sampled value and slope lies inside, and the bounds are not idle."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lipctrl_envs import plant_class, plant_names
from lipctrl_envs.enclosure import Interval, Jet, slopes_over_box

ENCLOSED = [n for n in plant_names() if not plant_class(n)().lure_form().exact]


def random_intervals(count: int, seed: int, scale: float = 5.0) -> Interval:
    rng = np.random.default_rng(seed)
    ends = np.sort(
        rng.normal(scale=scale, size=(2, count)) * rng.choice([1e-3, 1.0], size=(1, count)), axis=0
    )
    return Interval(ends[0], ends[1])


@pytest.mark.parametrize(
    ("on_intervals", "on_numbers"),
    [
        (lambda x: x.sine(), np.sin),
        (lambda x: x.cosine(), np.cos),
        (lambda x: x.tanh(), np.tanh),
        (lambda x: x.square(), np.square),
        (lambda x: -x, np.negative),
    ],
)
def test_functions_of_intervals_hold_the_functions_of_their_points(on_intervals, on_numbers):
    x = random_intervals(3000, seed=1)
    found = on_intervals(x)
    grid = np.clip(x.low + np.linspace(0, 1, 41)[:, None] * (x.high - x.low), x.low, x.high)
    values = on_numbers(grid)
    assert np.all(values >= found.low)
    assert np.all(values <= found.high)
    # Tight: the ends are reached on the grid up to its resolution.
    slack = np.maximum(found.high - values.max(axis=0), values.min(axis=0) - found.low)
    step = (x.high - x.low) / 40 * (1.0 + 2.0 * np.maximum(np.abs(x.low), np.abs(x.high)))
    assert np.all(slack <= step + 1e-14)


def test_arithmetic_rounds_outward_in_exact_arithmetic():
    a, b = random_intervals(300, seed=2), random_intervals(300, seed=3)
    total, product = a + b, a * b
    for k in range(300):
        ends = [
            (Fraction(float(p[k])), Fraction(float(q[k]))) for p in (a.low, a.high) for q in (b.low, b.high)
        ]
        assert Fraction(float(total.low[k])) <= min(x + y for x, y in ends)
        assert Fraction(float(total.high[k])) >= max(x + y for x, y in ends)
        assert Fraction(float(product.low[k])) <= min(x * y for x, y in ends)
        assert Fraction(float(product.high[k])) >= max(x * y for x, y in ends)


def test_dividing_by_an_interval_that_holds_zero_is_refused():
    with pytest.raises(ValueError, match="vanish"):
        Interval(np.array([-1.0]), np.array([1.0])).inverse()


def test_a_function_without_a_rule_is_refused_by_name():
    one = Interval(np.array([1.0]), np.array([1.0]))
    jet = Jet(one, Interval(np.ones((1, 1)), np.ones((1, 1))))
    with pytest.raises(TypeError, match=r"torch\.exp"):
        torch.exp(jet)


@pytest.mark.parametrize("name", ENCLOSED)
def test_sampled_jacobians_lie_within_the_bounds_and_reach_for_them(name):
    plant = plant_class(name)()
    form = plant.lure_form()
    n = plant.physical_size
    names = (*plant.state_names[:n], *plant.action_names)
    limits = {}
    for row, bound in zip(np.hstack([form.C_z, form.D_zu]), form.z_max, strict=True):
        limits[names[int(np.argmax(row))]] = float(bound)
    J_0, low, high = slopes_over_box(plant, limits, 4 if len(limits) <= 6 else 2)
    reach = torch.tensor([limits.get(s, 1.0) for s in names], dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    points = (2 * torch.rand((3000, len(names)), generator=rng, dtype=torch.float64) - 1) * reach
    corners = torch.rand(points.shape, generator=rng) < 0.4
    points = torch.where(corners, points.sign() * reach, points)

    def rates(z):
        return torch.stack(list(plant.rates(z[:n].unbind(), z[n:].unbind())))

    jacobians = torch.vmap(torch.func.jacrev(rates))(points).numpy()
    assert np.all(jacobians >= low - 1e-12)
    assert np.all(jacobians <= high + 1e-12)
    np.testing.assert_allclose(
        torch.func.jacrev(rates)(torch.zeros(len(names), dtype=torch.float64)), J_0, atol=1e-12
    )
    seen = jacobians.max(axis=0) - jacobians.min(axis=0)
    varying = (high - low) > 1e-9
    ratio = (seen / np.where(varying, high - low, 1.0))[varying]
    assert np.median(ratio) > 0.3, "bounds much wider than what is seen would prove nothing"


def test_more_parts_bound_more_tightly():
    plant = plant_class("CartPole")()
    limits = {"angle": 0.5, "position_rate": 1.0, "angle_rate": 1.0, "force": 5.0}
    widths = []
    for parts in (1, 4, 8):
        _, low, high = slopes_over_box(plant, limits, parts)
        widths.append(float((high - low).sum()))
    assert widths[0] > widths[1] > widths[2]


def test_a_signal_left_free_where_it_matters_is_refused():
    with pytest.raises(ValueError, match="limit more signals"):
        slopes_over_box(plant_class("CartPole")(), {"angle": 0.5}, 2)


def test_sine_of_wide_and_of_shifted_intervals():
    low = np.array([-100.0, math.pi / 2 - 1e-3, -1e-3, 3 * math.pi / 2 - 1e-3])
    high = np.array([100.0, math.pi / 2 + 1e-3, 1e-3, 3 * math.pi / 2 + 1e-3])
    found = Interval(low, high).sine()
    np.testing.assert_allclose(found.low, [-1, math.sin(math.pi / 2 - 1e-3), -math.sin(1e-3), -1], atol=1e-14)
    np.testing.assert_allclose(found.high, [1, 1, math.sin(1e-3), -math.cos(1e-3)], atol=1e-14)
