"""Values and slopes of activations on intervals, enclosed outwards.

Transcendental functions are evaluated in the decimal arithmetic of the standard library, whose exp, ln and
sqrt are correctly rounded, with fifty digits; one unit in the last place and 1e-38 are then added outwards. No
claim rests on the accuracy of a C library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal, Inexact, Overflow, Rounded, Underflow, localcontext

import numpy as np

from lipctrl.activations import Activation, activation
from lipctrl.arithmetic import TINY, UNIT

_DIGITS = Context(prec=50, Emin=-999999, Emax=999999, traps=[])
_SLACK = Decimal("1e-38")
_NEGLIGIBLE = (Inexact, Rounded, Underflow, Overflow)
_ONE = Decimal(1)

Interval = tuple[np.ndarray, np.ndarray]


def _down(value: Decimal) -> float:
    return math.nextafter(float(value - _SLACK), -math.inf)


def _above(value: Decimal) -> float:
    return math.nextafter(float(value + _SLACK), math.inf)


def _decay(v: Decimal) -> Decimal:
    """Return exp(-|v|); below 1e-350 a zero is within the slack."""
    return Decimal(0) if abs(v) > 800 else (-abs(v)).exp()


def _sigmoid(v: Decimal) -> Decimal:
    e = _decay(v)
    return _ONE / (_ONE + e) if v >= 0 else e / (_ONE + e)


def _tanh(v: Decimal) -> Decimal:
    e = _decay(2 * v)
    return ((_ONE - e) / (_ONE + e)).copy_sign(v)


def _softplus(v: Decimal) -> Decimal:
    return max(v, Decimal(0)) + (_ONE + _decay(v)).ln()


def _expm1(v: Decimal) -> Decimal:
    """Return exp(v) - 1 for v ≤ 0 to forty digits of *itself*: near zero a difference would keep none of them."""
    if v < Decimal("-0.001"):
        return _decay(v) - _ONE
    total, term = Decimal(0), v
    for k in range(2, 20):
        total += term
        term *= v / k
    return total


def _elu(v: Decimal) -> Decimal:
    return v if v >= 0 else _expm1(v)


def _arctan(v: Decimal) -> Decimal:
    """Halve the argument below 1/8 with atan x = 2 atan(x/(1+√(1+x²))), then sum the alternating series."""
    doublings = 0
    while abs(v) > Decimal("0.125"):
        v = v / (_ONE + (_ONE + v * v).sqrt())
        doublings += 1
    total, power, square = Decimal(0), v, v * v
    for k in range(25):
        total += power / (2 * k + 1) * (1 - 2 * (k % 2))
        power *= square
    return total * 2**doublings


_PI = Decimal("3.1415926535897932384626433832795028841971693993751")


def _sine(v: Decimal) -> Decimal:
    """Reduce |v| < 1e6 by multiples of π, then sum the alternating series."""
    turns = (v / _PI).to_integral_value()
    rest = v - turns * _PI
    total, term, square = Decimal(0), rest, rest * rest
    for k in range(2, 60, 2):
        total += term
        term *= -square / (k * (k + 1))
    return total if turns % 2 == 0 else -total


_ROOT_TWO_PI = Decimal("2.5066282746310005024157652848110452530069867406099")


def _bell(v: Decimal) -> Decimal:
    """Return the standard normal density."""
    return Decimal(0) if abs(v) > 40 else (-v * v / 2).exp() / _ROOT_TWO_PI


def _normal(v: Decimal) -> Decimal:
    """Return the standard normal distribution, 1/2 + density · (v + v³/3 + v⁵/15 + …), whose terms have one sign."""
    if abs(v) > 14:
        # The tail beyond 14 is below 1e-44.
        return _ONE if v > 0 else Decimal(0)
    term, total, k = v, v, 1
    while abs(term) > Decimal("1e-45"):
        k += 2
        term = term * v * v / k
        total += term
    return _ONE / 2 + _bell(v) * total


def _gelu_slope(v: Decimal) -> Decimal:
    return _normal(v) + v * _bell(v)


def _silu_slope(v: Decimal) -> Decimal:
    s, rest = _sigmoid(v), _sigmoid(-v)
    return s * (_ONE + v * rest)


_VALUES: dict[str, Callable[[Decimal], Decimal]] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "elu": _elu,
    "arctan": _arctan,
    "softsign": lambda v: v / (_ONE + abs(v)),
    "silu": lambda v: v * _sigmoid(v),
    "gelu": lambda v: v * _normal(v),
}
# Derivatives that fall with |v|, and derivatives that rise with v.
_PEAKED: dict[str, Callable[[Decimal], Decimal]] = {
    "tanh": lambda v: 4 * _decay(2 * v) / (_ONE + _decay(2 * v)) ** 2,
    "sigmoid": lambda v: _decay(v) / (_ONE + _decay(v)) ** 2,
    "arctan": lambda v: _ONE / (_ONE + v * v),
    "softsign": lambda v: _ONE / (_ONE + abs(v)) ** 2,
}
_RISING: dict[str, Callable[[Decimal], Decimal]] = {
    "softplus": _sigmoid,
    "elu": lambda v: _ONE if v >= 0 else _decay(v),
}
# Derivatives that rise between two extremes ±e and fall outside; e lies in the interval given.
_WAVED: dict[str, tuple[Callable[[Decimal], Decimal], float, float]] = {
    "silu": (_silu_slope, 2.399357, 2.399358),
    "gelu": (_gelu_slope, 1.414213, 1.414214),
}
# Functions that fall up to an argument in the interval given and rise behind it, and a number below their minimum.
_DIPPED: dict[str, tuple[float, float, float]] = {
    "silu": (-1.278465, -1.278464, -0.278464543),
    "gelu": (-0.751792, -0.751791, -0.169971208),
}


def _enclose(function: Callable[[Decimal], Decimal], points: np.ndarray) -> Interval:
    with localcontext(_DIGITS) as context:
        for signal in _NEGLIGIBLE:
            context.traps[signal] = False
        exact = [function(Decimal(float(p))) for p in points.ravel()]
        low = np.array([_down(v) for v in exact]).reshape(points.shape)
        high = np.array([_above(v) for v in exact]).reshape(points.shape)
    return low, high


def slope_range(sigma: Activation, low: np.ndarray, high: np.ndarray) -> Interval:
    """Enclose the slopes (σ(v)-σ(v'))/(v-v') for v, v' in [low, high], neuron by neuron.

    Activations without a rule for their derivative keep their global slopes.
    """
    least, most = np.full(low.shape, sigma.lower), np.full(low.shape, sigma.upper)
    name = sigma.name
    if name in ("relu", "leaky_relu", "abs"):
        left = (
            {"relu": 0.0, "abs": -1.0}[name] if name != "leaky_relu" else float((sigma.params or {})["slope"])
        )
        return (
            np.where(low >= 0.0, 1.0, np.where(high <= 0.0, left, least)),
            np.where(low >= 0.0, 1.0, np.where(high <= 0.0, left, most)),
        )
    if name == "clip" and not sigma.params:
        # Limits of their own for every neuron: they show in the values at the ends.
        ends = sigma.value(low), sigma.value(high)
        within, flat = (ends[0] == low) & (ends[1] == high), ends[0] == ends[1]
        return np.where(within, 1.0, 0.0), np.where(within, 1.0, np.where(flat, 0.0, 1.0))
    if name == "clip":
        bottom, top = (sigma.params or {})["lower"], (sigma.params or {})["upper"]
        within, beyond = (low >= bottom) & (high <= top), (low >= top) | (high <= bottom)
        return (
            np.where(beyond, 0.0, np.where(within, 1.0, least)),
            np.where(beyond, 0.0, np.where(within, 1.0, most)),
        )
    if name == "elu" and sigma.params:
        return _elu_slopes(float(sigma.params["alpha"]), low, high)
    if name in ("hardtanh", "soft_threshold"):
        knee = 1.0 if name == "hardtanh" else (sigma.params or {})["threshold"]
        within, beyond = (low >= -knee) & (high <= knee), (low >= knee) | (high <= -knee)
        inner, outer = (1.0, 0.0) if name == "hardtanh" else (0.0, 1.0)
        return (
            np.where(within, inner, np.where(beyond, outer, least)),
            np.where(within, inner, np.where(beyond, outer, most)),
        )
    if name in _PEAKED:
        far = np.maximum(np.abs(low), np.abs(high))
        near = np.where((low <= 0.0) & (high >= 0.0), 0.0, np.minimum(np.abs(low), np.abs(high)))
        found = _enclose(_PEAKED[name], far)[0], _enclose(_PEAKED[name], near)[1]
    elif name in _RISING:
        found = _enclose(_RISING[name], low)[0], _enclose(_RISING[name], high)[1]
    elif name in _WAVED:
        found = _waved_slopes(name, low, high, least, most)
    else:
        return least, most
    if name == "elu":
        found = np.where(low >= 0.0, 1.0, found[0]), found[1]
    return np.maximum(least, found[0]), np.minimum(most, found[1])


def _elu_slopes(alpha: float, low: np.ndarray, high: np.ndarray) -> Interval:
    """σ' = alpha·exp(v) below zero and 1 above: not monotone when alpha exceeds 1."""
    factor = Decimal(alpha)
    at_low = _enclose(lambda v: factor * _decay(min(v, Decimal(0))), low)[0]
    at_high = _enclose(lambda v: factor * _decay(min(v, Decimal(0))), high)[1]
    positive, across = low >= 0.0, high > 0.0
    least = np.where(positive, 1.0, np.where(across, np.minimum(1.0, at_low), at_low))
    most = np.where(positive, 1.0, np.where(across, max(1.0, alpha), at_high))
    return np.maximum(least, 0.0), np.minimum(most, max(1.0, alpha))


def _waved_slopes(
    name: str, low: np.ndarray, high: np.ndarray, least: np.ndarray, most: np.ndarray
) -> Interval:
    """σ' rises between its extremes and falls outside, so its range is that of its ends beside the extremes."""
    slope, before, behind = _WAVED[name]
    at_low, at_high = _enclose(slope, low), _enclose(slope, high)
    minimum = np.where(low >= -before, np.minimum(at_low[0], at_high[0]), least)
    minimum = np.where((high <= -behind) | (low >= behind), at_high[0], minimum)
    maximum = np.where(high <= before, np.maximum(at_low[1], at_high[1]), most)
    maximum = np.where((high <= -behind) | (low >= behind), at_low[1], maximum)
    return minimum, maximum


def value_range(sigma: Activation, low: np.ndarray, high: np.ndarray) -> Interval:
    """Enclose σ(v) for v in [low, high], neuron by neuron (for GroupSort: order statistics, exactly).

    Raises
    ------
    ValueError
        For an activation without a rule; the message names it.
    """
    name, params = sigma.name, sigma.params or {}
    if name in ("identity", "relu", "hardtanh", "clip", "groupsort"):
        return sigma.value(low), sigma.value(high)
    if name == "abs":
        across = (low <= 0.0) & (high >= 0.0)
        return np.where(across, 0.0, np.minimum(np.abs(low), np.abs(high))), np.maximum(-low, high)
    if name == "leaky_relu":
        ends = [np.where(v > 0.0, v, params["slope"] * v) for v in (low, high)]
        across = (low <= 0.0) & (high >= 0.0)
        bottom, top = np.minimum(*ends), np.maximum(*ends)
        bottom = np.where(across, np.minimum(bottom, 0.0), bottom)
        top = np.where(across, np.maximum(top, 0.0), top)
        return np.nextafter(bottom, -np.inf), np.nextafter(top, np.inf)
    if name == "soft_threshold":
        return np.nextafter(sigma.value(low), -np.inf), np.nextafter(sigma.value(high), np.inf)
    if name == "smooth_soft_threshold":
        # A sum of three terms, each accurate to a few units in its last place, or to a subnormal number.
        reach = np.maximum(np.abs(low), np.abs(high)) + params["threshold"] + params["smoothing"]
        slack = 16.0 * UNIT * reach + TINY
        return sigma.value(low) - slack, sigma.value(high) + slack
    if name in _DIPPED:
        before, behind, lowest = _DIPPED[name]
        ends = _enclose(_VALUES[name], low), _enclose(_VALUES[name], high)
        bottom = np.where((low <= behind) & (high >= before), lowest, np.inf)
        return np.minimum(bottom, np.minimum(ends[0][0], ends[1][0])), np.maximum(ends[0][1], ends[1][1])
    if name == "elu" and params:
        factor = Decimal(float(params["alpha"]))

        def value(v: Decimal) -> Decimal:
            return v if v >= 0 else factor * _expm1(v)

        return _enclose(value, low)[0], _enclose(value, high)[1]
    if name in _VALUES:
        return _enclose(_VALUES[name], low)[0], _enclose(_VALUES[name], high)[1]
    if name == "sin":
        return _sine_range(low, high)
    if name == "averaged":
        return _averaged_range(activation(params["activation"]), low, high)
    raise ValueError(f"there is no value range for the activation {name!r} on an interval")


def _sine_range(low: np.ndarray, high: np.ndarray) -> Interval:
    """Enclose sin, of slopes in [-1, 1], around the value at one end; far away by 1 alone."""
    reach = np.minimum(1.0, np.maximum(np.abs(low), np.abs(high)))
    near = np.abs(low) < 1e6
    start = _enclose(_sine, np.where(near, low, 0.0))
    width = np.where(near, np.nextafter(high - low, np.inf), np.inf)
    bottom, top = np.nextafter(start[0] - width, -np.inf), np.nextafter(start[1] + width, np.inf)
    return np.maximum(-reach, bottom), np.minimum(reach, top)


def _averaged_range(sigma: Activation, low: np.ndarray, high: np.ndarray) -> Interval:
    """Enclose (σ(v) - m v)/(s - m), which never falls when σ acts on each neuron alone."""
    bottom, top = value_range(sigma, low, high)
    m, width = sigma.lower, sigma.upper - sigma.lower
    reach = np.maximum(np.abs(low), np.abs(high))
    slack = 8.0 * UNIT * (np.maximum(np.abs(bottom), np.abs(top)) + abs(m) * reach) / width + 2.0**-1000
    shift = np.minimum(m * low, m * high), np.maximum(m * low, m * high)
    return (bottom - shift[1]) / width - slack, (top - shift[0]) / width + slack
