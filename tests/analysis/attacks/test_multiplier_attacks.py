"""Popov and Zames-Falb against linear gains: a slope beyond the first unstable gain would be false at once."""

from __future__ import annotations

import math
from fractions import Fraction

import control
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lipctrl.analysis import diagonal_slope, popov_criterion, zames_falb
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.polynomials import rational
from lipctrl.analysis.spectrum import internal_stability
from lipctrl.analysis.transfer import exact_transfer_function
from lipctrl.analysis.zames_falb_channels import ChannelSearch, Multiplier
from lipctrl.analysis.zames_falb_search import ContinuousSearch, DiscreteSearch

LAG = control.tf([1.0], [1.0, 3.0, 3.0, 1.0])
SAMPLED = control.tf([1.0], [1.0, -0.5], 0.1)


def spellings(plant):
    """Return the same plant in every way in which it may be written."""
    return [plant, [[plant]], control.ss(plant), [[control.ss(plant)]], as_realization(plant)]


@pytest.mark.parametrize("criterion", [popov_criterion, zames_falb])
def test_every_way_to_write_a_plant_gives_the_same_slope(criterion):
    found = [criterion(p).slope for p in spellings(LAG)]
    # The last of them is known up to rounding only, which costs accuracy and nothing else.
    assert found == pytest.approx([found[0]] * 5, rel=2e-3)
    assert max(found) < 8.0


def test_every_way_to_write_a_sampled_plant_gives_the_same_slope():
    assert [zames_falb(p).slope for p in spellings(SAMPLED)] == pytest.approx([1.5] * 5, rel=1e-4)
    assert max(zames_falb(p).slope for p in spellings(SAMPLED)) < 1.5
    with pytest.raises(ValueError, match="continuous"):
        popov_criterion([[SAMPLED]])


@pytest.mark.parametrize("size", [1, 3, 6])
def test_transfer_functions_of_state_space_models_are_exact(size):
    rng = np.random.default_rng(size)
    a = rng.standard_normal((size, size)) * np.geomspace(1.0, 1e6, size)[:, None]
    model = control.ss(a, rng.standard_normal((size, 1)), rng.standard_normal((1, size)), [[0.3]])
    num, den = exact_transfer_function(model, as_realization(model))
    for point in (Fraction(-7, 3), Fraction(5)):
        pencil = [
            [point * (i == j) - Fraction(float(a[i, j])) for j in range(size)]
            + [Fraction(float(model.B[i, 0]))]
            for i in range(size)
        ]
        x = solved(pencil)
        value = sum((Fraction(float(c)) * v for c, v in zip(model.C[0], x, strict=True)), Fraction(0.3))
        top, bottom = (sum((c * point**k for k, c in enumerate(p[::-1])), Fraction(0)) for p in (num, den))
        assert top / bottom == value


def solved(rows):
    """Return the solution of a linear system in fractions, by elimination."""
    n = len(rows)
    for i in range(n):
        pivot = next(k for k in range(i, n) if rows[k][i] != 0)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for k in range(n):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def random_plant(seed, discrete, order, through=0.0):
    """Return a stable plant of one channel with real and lightly damped poles."""
    rng = np.random.default_rng(seed)
    poles: list[complex] = []
    while len(poles) < order:
        pair = order - len(poles) > 1 and rng.random() < 0.6
        damping, speed = 10.0 ** rng.uniform(-3, 0), 10.0 ** rng.uniform(-1.5, 1.5)
        pole = complex(-damping * speed, speed * math.sqrt(max(1.0 - damping**2, 0.0))) if pair else -speed
        poles += [pole, pole.conjugate()] if pair else [pole]
    values = np.array(poles)
    if discrete:
        values = np.exp(0.05 * values)
    zeros = rng.standard_normal(rng.integers(0, order)) * 2.0
    top, bottom = rng.choice([-1.0, 1.0]) * np.poly(zeros), np.real(np.poly(values))
    return control.tf(np.polyadd(top, through * bottom), bottom, 0.05 if discrete else 0)


def worst_pole(num, den, discrete, gain):
    """Return how far a pole of the linear loop u = -gain·y is beyond the boundary; inf where it is ill-posed."""
    padded = np.concatenate([np.zeros(len(den) - len(num)), num])
    poles = np.roots(np.trim_zeros(den + gain * padded, "f"))
    lead = den[0] + gain * padded[0]
    if not lead * den[0] > 0.0:
        return math.inf
    return float(
        (np.abs(poles) - 1.0 if discrete else poles.real / (1e-300 + np.abs(poles))).max(initial=-1.0)
    )


def assert_no_gain_refutes(given_as, slope, *, count=200):
    # The polynomials of the very model that was given: converting it in float64 would make another plant in the last
    # digits (with seven states and seed 1390 the largest gains of the two differ by 1e-11).
    if isinstance(given_as, control.StateSpace):
        exact = exact_transfer_function(given_as, as_realization(given_as))
        num, den = (np.array([float(c) for c in polynomial]) for polynomial in exact)
    else:
        num, den = given_as.num[0][0], given_as.den[0][0]
    top = slope * (1.0 - 1e-12) if math.isfinite(slope) else 1e6
    for gain in top * np.concatenate([np.geomspace(1e-4, 1.0, count), np.linspace(0.0, 1.0, count)]):
        found = worst_pole(num, den, bool(given_as.dt), gain)
        assert found < 1e-7, f"gain {gain} of slopes [0, {slope}]"


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.integers(1, 5), discrete=st.booleans(), state=st.booleans())
def test_no_linear_gain_refutes_a_multiplier(seed, order, discrete, state):
    through = 0.3 * (seed % 3 - 1) if discrete else 0.0
    plant = random_plant(seed, discrete, order, through)
    given_as = control.ss(plant) if state else plant
    known = as_realization(given_as)
    # Poles too close to one another and to the boundary are refused, which is sound.
    assume(internal_stability(known.a, discrete=discrete).is_stable)
    assert_no_gain_refutes(given_as, zames_falb(given_as, order=2, odd=bool(seed % 2), tolerance=1e-2).slope)
    if not discrete:
        assert_no_gain_refutes(given_as, popov_criterion(given_as).slope)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.integers(1, 7), discrete=st.booleans(), state=st.booleans())
def test_no_linear_gain_refutes_a_multiplier_at_length(seed, order, discrete, state):
    through = 0.3 * (seed % 3 - 1)
    plant = random_plant(seed, discrete, order, through)
    given_as = control.ss(plant) if state else plant
    known = as_realization(given_as)
    # Poles too close to one another and to the boundary are refused, which is sound.
    assume(internal_stability(known.a, discrete=discrete).is_stable)
    assert_no_gain_refutes(given_as, zames_falb(given_as, order=6, odd=bool(seed % 2), tolerance=1e-3).slope)
    if not discrete and not through:
        assert_no_gain_refutes(given_as, popov_criterion(given_as).slope)


@pytest.mark.parametrize("discrete", [True, False])
def test_a_changed_multiplier_is_not_proved(discrete):
    """At nine tenths of the best slope the found coefficients are proved; spoiled or at a larger slope they are not."""
    plant = SAMPLED if discrete else LAG
    top, bottom = (rational(p[0][0]) for p in (plant.num, plant.den))
    search = (DiscreteSearch if discrete else ContinuousSearch)(top, bottom, 3, False)
    limit = 1.5 if discrete else 8.0
    found = search.guess(0.9 * limit)
    assert search.positive(0.9 * limit, found)
    assert not search.positive(1.001 * limit, found)
    spoiled = found.copy()
    spoiled[np.argmax(np.abs(spoiled))] += 2.0
    assert not search.positive(0.9 * limit, spoiled)
    heavy = type(search)(top, bottom, 3, False)
    heavy.guess = lambda k: np.full(len(found), 0.4)  # Σ|c| > 1 preserves no positivity
    assert heavy.prove(0.01) is None


@pytest.mark.parametrize("kind", [DiscreteSearch, ContinuousSearch])
def test_coefficients_a_tolerance_outside_their_class_are_not_proved(kind, monkeypatch):
    """Solvers keep to bounds up to 1e-7: a negative coefficient needs an odd φ, and 1 + 2⁻⁶⁰ is more than 1."""
    num, den = (np.array(p, dtype=object) for p in ([Fraction(1)], [Fraction(1), Fraction(1, 2)]))
    for odd in (False, True):
        search = kind(num, den, 2, odd)
        size = len(search.names)
        for c, allowed in (
            (np.full(size, 1e-3), True),
            (np.append(np.full(size - 1, 1e-3), -1e-9), odd),
            (np.append(np.zeros(size - 2), [1.0, 2.0**-60]), False),
        ):
            monkeypatch.setattr(search, "guess", lambda k, c=c: c)
            monkeypatch.setattr(search, "positive", lambda k, c: True)
            assert (search.prove(0.1) is not None) == allowed, (odd, c)


def test_a_slope_that_makes_the_loop_ill_posed_is_not_certified():
    """G = -s/(s+1): at k = 1 the loop has no solution, in discrete time G = -z/(z - 0.5) as well."""
    for plant in (control.tf([-1.0, 0.0], [1.0, 1.0]), control.tf([-1.0, 0.0], [1.0, -0.5], True)):
        assert zames_falb(plant, order=2).slope < 1.0
        exact = tuple(rational(p[0][0]) for p in (plant.num, plant.den))
        search = (DiscreteSearch if plant.dt else ContinuousSearch)(*exact, 2, False)
        assert not search.positive(1.0, np.zeros(len(search.names)))


@pytest.mark.parametrize("level", [1e-100, 1e-12, 1e12])
def test_units_do_not_change_what_is_proved(level):
    plant = control.tf([level], LAG.den[0][0])
    found = [
        f(plant) * level if f is diagonal_slope else f(plant).slope * level
        for f in (popov_criterion, zames_falb, diagonal_slope)
    ]
    assert found[0] == pytest.approx(8.0, rel=1e-6)
    assert 7.9 < found[1] < 8.0
    assert found[2] == pytest.approx(4.0, rel=1e-5)


def random_square(seed, discrete, through):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((3, 3))
    poles = np.linalg.eigvals(a)
    a = 0.8 * a / np.abs(poles).max() if discrete else a - (poles.real.max() + 0.4) * np.eye(3)
    b, c = rng.standard_normal((3, 2)), rng.standard_normal((2, 3))
    return control.ss(a, b, c, through * rng.standard_normal((2, 2)), 0.1 if discrete else 0)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_proved_of_full_multipliers_is_the_multiplier(discrete, seed):
    """He M(I/k + G), written out at single frequencies, is the function whose minimum is proved."""
    rng = np.random.default_rng(seed)
    plant = random_square(seed, discrete, 0.1)
    search = ChannelSearch(as_realization(plant), 2, odd=True, repeated=True)
    found = Multiplier(*(rng.standard_normal(s) for s in ((2, 2), (2, 2, 2), (2, 2, 2))))
    k = 0.7
    form = search.form(k, found)
    for omega in rng.uniform(0.0, 10.0, 5):
        filters = search.filters(omega)
        m = found.h - sum(
            c * f + e * np.conj(f) for c, e, f in zip(found.causal, found.anticausal, filters, strict=True)
        )
        value = m @ (np.eye(2) / k + search.system.response(omega))
        expected = np.linalg.eigvalsh(0.5 * (value + value.conj().T))[0]
        assert form.lowest(omega) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def switched(plant, slope, same, rng, count=300, steps=1500):
    """Return how much of its start a population of loops keeps, with piecewise linear maps of slopes [0, slope]."""
    knots = np.concatenate(
        [np.zeros((count, 2, 1)), np.cumsum(rng.exponential(0.5, (count, 2, 5)), axis=2)], axis=2
    )
    slopes = slope * rng.choice([0.0, 1.0, 0.5], (2, count, 2, 6), p=[0.45, 0.45, 0.1])
    if same:
        knots[:, 1], slopes[:, :, 1] = knots[:, 0], slopes[:, :, 0]
    widths = np.concatenate([np.diff(knots, axis=2), np.full((count, 2, 1), np.inf)], axis=2)
    x = rng.standard_normal((count, plant.nstates)) * 10.0 ** rng.uniform(-1, 2, (count, 1))
    start = np.linalg.norm(x, axis=1)
    for _ in range(steps):
        y = x @ plant.C.T
        pieces = np.clip(np.abs(y)[:, :, None] - knots, 0.0, widths)
        u = np.where(y > 0.0, (pieces * slopes[0]).sum(axis=2), -(pieces * slopes[1]).sum(axis=2))
        x = x @ plant.A.T - u @ plant.B.T
    return float((np.linalg.norm(x, axis=1) / start).max())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("same", [True, False])
def test_no_piecewise_linear_map_refutes_a_slope_of_several_channels(seed, same):
    plant = random_square(seed, discrete=True, through=0.0)
    slope = zames_falb(plant, order=2, repeated=same, tolerance=0.05).slope
    # A little inside, where decay is fast enough to be seen.
    assert switched(plant, 0.95 * min(slope, 1e3), same, np.random.default_rng(seed)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_no_piecewise_linear_map_refutes_a_slope(seed):
    one = random_square(seed, discrete=True, through=0.0)
    plant = control.ss(one.A, one.B[:, :1], one.C[:1], [[0.0]], 0.1)
    both = control.append(plant, plant)
    both.dt = 0.1
    slope = zames_falb(plant, order=5, tolerance=1e-3).slope
    assert switched(both, 0.95 * min(slope, 1e3), False, np.random.default_rng(seed)) < 1e-3
