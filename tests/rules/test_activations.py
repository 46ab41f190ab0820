"""The table of activations: slope intervals hold on dense grids, and ranges on intervals enclose."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lipctrl.activations import activation
from lipctrl.rules.ranges import slope_range, value_range

SPECS = [
    *("identity", "relu", "tanh", "softplus", "sigmoid", "elu", "abs", "softsign", "hardtanh", "arctan"),
    *("sin", "silu", "gelu"),
    {"name": "elu", "alpha": 0.3},
    {"name": "elu", "alpha": 2.5},
    {"name": "clip", "lower": 0.0, "upper": 6.0},
    {"name": "clip", "lower": -0.5, "upper": 0.25},
    {"name": "leaky_relu", "slope": 0.1},
    {"name": "leaky_relu", "slope": -0.4},
    {"name": "leaky_relu", "slope": 1.5},
    {"name": "soft_threshold", "threshold": 0.7},
    {"name": "soft_threshold", "threshold": 0.0},
    {"name": "averaged", "activation": {"name": "silu"}},
]
GRID = np.concatenate([np.linspace(-8, 8, 40001), np.linspace(-60, 60, 2001), [-745.0, 745.0]])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_slopes_lie_in_the_stated_interval(spec):
    sigma = activation(spec)
    v = np.sort(GRID)
    v = v[np.concatenate([[True], np.diff(v) > 1e-6])]
    slopes = np.diff(sigma.value(v)) / np.diff(v)
    assert slopes.min() >= sigma.lower - 1e-7
    assert slopes.max() <= sigma.upper + 1e-7


@pytest.mark.parametrize(
    ("name", "ends"), [("silu", (-0.09983937, 1.09983937)), ("gelu", (-0.12890432, 1.12890432))]
)
def test_irrational_ends_are_rounded_outwards(name, ends):
    sigma = activation(name)
    v = np.linspace(-6, 6, 200_001)
    slopes = np.gradient(sigma.value(v), v)
    assert sigma.lower < slopes.min() + 1e-9
    assert sigma.upper > slopes.max() - 1e-9
    assert sigma.lower == pytest.approx(ends[0], abs=2e-6)
    assert sigma.upper == pytest.approx(ends[1], abs=2e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_groupsort_satisfies_its_summed_inequality(size):
    sigma = activation({"name": "groupsort", "size": size})
    rng = np.random.default_rng(0)
    v, u = rng.standard_normal((2, 500, 2 * size))
    dw, dv = sigma.value(v) - sigma.value(u), v - u
    terms = (dw - sigma.lower * dv) * (dw - sigma.upper * dv)
    assert terms.reshape(500, 2, size).sum(axis=-1).max() <= 1e-12
    assert terms.max() > 0.1  # neuron by neuron it is false: the multiplier must be shared


def intervals(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    center = np.concatenate([rng.uniform(-6, 6, count), rng.uniform(-80, 80, count // 4), [0.0, 1.0, -1.0]])
    width = 10.0 ** rng.uniform(-6, 1, len(center))
    return center - width * rng.random(len(center)), center + width * rng.random(len(center))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_ranges_on_intervals_enclose_values_and_slopes(spec):
    sigma = activation(spec)
    low, high = intervals(np.random.default_rng(2), 150)
    bottom, top = value_range(sigma, low, high)
    least, most = slope_range(sigma, low, high)
    assert (least <= most).all()
    assert (least >= sigma.lower).all()
    assert (most <= sigma.upper).all()
    points = low + (high - low) * np.linspace(0, 1, 101)[:, None]
    values = sigma.value(points)
    tolerance = 1e-14 * (1.0 + np.abs(values).max())
    assert (values >= bottom - tolerance).all()
    assert (values <= top + tolerance).all()
    wide = (high - low) > 1e-4
    steps = np.diff(points, axis=0)[:, wide]
    slopes = np.diff(values, axis=0)[:, wide] / steps
    noise = 1e-13 * (1.0 + np.abs(values).max()) / steps
    assert (slopes >= least[wide] - noise).all()
    assert (slopes <= most[wide] + noise).all()


@pytest.mark.parametrize("spec", ["tanh", "sigmoid", "softplus", "elu", "softsign", "arctan", "silu", "gelu"])
def test_smooth_ranges_are_sharp(spec):
    """The enclosures are not merely the global ones: on a short interval they shrink to the derivative."""
    sigma = activation(spec)
    low = np.array([-3.0, -0.5, 0.2, 2.5])
    high = low + 1e-3
    least, most = slope_range(sigma, low, high)
    assert (most - least < 2e-3).all()
    bottom, top = value_range(sigma, low, high)
    assert (top - bottom < 1.2e-3).all()


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_slopes_and_values_that_rise_and_fall_hold_to_the_last_digit(name):
    """Non-monotone functions: the extremes of value and slope lie inside the interval, not at its ends."""
    v = np.linspace(-3.5, 3.5, 200_001)
    values = activation(name).value(v)
    slopes = np.diff(values) / np.diff(v)
    rng = np.random.default_rng(0)
    for low, high in np.sort(rng.uniform(-3.5, 3.5, (80, 2)), axis=1):
        inside = np.flatnonzero((v >= low) & (v <= high))
        if len(inside) < 3:
            continue
        least, most = slope_range(activation(name), np.array([low]), np.array([high]))
        bottom, top = value_range(activation(name), np.array([low]), np.array([high]))
        seen = slopes[inside[:-1]]
        assert least[0] - 1e-8 <= seen.min()
        assert seen.max() <= most[0] + 1e-8
        assert most[0] - least[0] <= seen.max() - seen.min() + 1e-4
        assert bottom[0] <= values[inside].min()
        assert values[inside].max() <= top[0]
        assert top[0] - bottom[0] <= values[inside].max() - values[inside].min() + 1e-4


@pytest.mark.parametrize("spec", ["relu", "abs", "hardtanh", {"name": "soft_threshold", "threshold": 0.5}])
def test_piecewise_linear_neurons_of_known_sign_are_linear(spec):
    sigma = activation(spec)
    least, most = slope_range(sigma, np.array([2.0, -3.0]), np.array([3.0, -2.0]))
    assert (least == most).all()


def test_extreme_arguments_stay_enclosed():
    for spec in ("tanh", "sigmoid", "softplus", "elu", "softsign", "arctan", "silu", "gelu"):
        sigma = activation(spec)
        low = np.array([-1e300, -1e5, 5e-324, -5e-324, 1e5])
        high = np.array([-1e299, 1e5, 1e-300, 5e-324, 1e300])
        bottom, top = value_range(sigma, low, high)
        assert np.isfinite(bottom).all()
        assert np.isfinite(top).all()
        assert (sigma.value(low) <= top).all()
        assert (sigma.value(high) >= bottom).all()


@pytest.mark.parametrize("alpha", [1.0, 3.0, 1e60, 1e300])
@pytest.mark.parametrize("v", [-1e-3, -1e-20, -1e-40, -1e-60, -1e-300])
def test_steep_exponentials_are_enclosed_next_to_zero(alpha, v):
    """exp(v) - 1 is v to the last digit there, which fifty digits of exp(v) do not show; a steep alpha does."""
    point = np.array([v])
    bottom, top = value_range(activation({"name": "elu", "alpha": alpha}), point, point)
    assert Fraction(bottom[0]) <= Fraction(alpha) * (Fraction(v) + Fraction(v) ** 2 / 2)
    assert Fraction(top[0]) >= Fraction(alpha) * Fraction(v)
    assert top[0] - bottom[0] <= 1e-15 * alpha * abs(v) + alpha * v**2 + 1e-37


def test_smooth_thresholds_of_the_smallest_doubles_are_enclosed():
    """With t = ε = v = 2⁻¹⁰⁷⁴ =: s the value is (3 - √5)/2·s, which rounds to nothing."""
    tiny = np.array([5e-324])
    sigma = activation({"name": "smooth_soft_threshold", "threshold": 5e-324, "smoothing": 5e-324})
    bottom, top = value_range(sigma, tiny, tiny)
    assert bottom[0] <= 0.0 < 5e-324 <= top[0]


def test_unknown_activations_are_refused_with_the_known_names():
    with pytest.raises(ValueError, match="relu"):
        activation("swish2")
    with pytest.raises(ValueError, match="slope"):
        activation({"name": "leaky_relu", "slope": float("nan")})
    with pytest.raises(ValueError, match="slope"):
        activation({"name": "leaky_relu", "slope": 10**400})
    with pytest.raises(ValueError, match="at least 0"):
        activation({"name": "soft_threshold", "threshold": -1.0})
