"""Lines below and above an activation on an interval, proved for any slopes that are handed in.

For a slope a, σ(v) ≥ a v + min (σ(w) - a w) over the interval. Between its knots an activation is convex, concave or
straight: on concave and straight pieces the minimum lies at an end, on a convex one the tangent at any point t of it
is a lower bound, tight where σ'(t) = a. The point t is found by bisection in float64 and proves nothing; values and
slopes at t are enclosed by `lipctrl.rules.ranges`. Lines above follow for -σ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.activations import Activation
from lipctrl.arithmetic import TINY, UNIT, Enclosure
from lipctrl.rules.ranges import Interval, slope_range, value_range

_CONVEX, _STRAIGHT, _CONCAVE, _UNKNOWN = 1, 0, -1, 2
_BISECTIONS = 60
# Left of the knot of ELU, where its slope is that of the exponential.
_LEFT_OF_ZERO = -(2.0**-1000)


@dataclass(frozen=True)
class _Shape:
    """Pieces between `knots`, each convex, straight, concave or of unknown curvature; σ' in float64, for steering."""

    knots: tuple[float, ...]
    pieces: tuple[int, ...]
    slope: Callable[[np.ndarray], np.ndarray] | None = None


def _logistic(v: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * v))


def _bell(v: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * v * v) / math.sqrt(2.0 * math.pi)


def _gelu_slope(v: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return ndtr(v) + v * _bell(v)


def _waved(outer: float, inner: float, slope: Callable[[np.ndarray], np.ndarray]) -> _Shape:
    pieces = (_CONCAVE, _UNKNOWN, _CONVEX, _UNKNOWN, _CONCAVE)
    return _Shape((-outer, -inner, inner, outer), pieces, slope)


_KINKED = _Shape((0.0,), (_STRAIGHT, _STRAIGHT))
_S_SHAPED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda v: 1.0 - np.tanh(v) ** 2,
    "sigmoid": lambda v: _logistic(v) * _logistic(-v),
    "arctan": lambda v: 1.0 / (1.0 + v * v),
    "softsign": lambda v: 1.0 / (1.0 + np.abs(v)) ** 2,
}
_SHAPES: dict[str, _Shape] = {
    **dict.fromkeys(("relu", "leaky_relu", "abs"), _KINKED),
    "hardtanh": _Shape((-1.0, 1.0), (_STRAIGHT,) * 3),
    **{name: _Shape((0.0,), (_CONVEX, _CONCAVE), slope) for name, slope in _S_SHAPED.items()},
    "softplus": _Shape((), (_CONVEX,), _logistic),
    "silu": _waved(2.399358, 2.399357, lambda v: _logistic(v) * (1.0 + v * _logistic(-v))),
    "gelu": _waved(1.414214, 1.414213, _gelu_slope),
}


def _shape(sigma: Activation) -> _Shape | None:
    params: Any = sigma.params or {}
    if sigma.name == "clip":
        return _Shape((params["lower"], params["upper"]), (_STRAIGHT,) * 3)
    if sigma.name == "soft_threshold":
        return _Shape((-params["threshold"], params["threshold"]), (_STRAIGHT,) * 3)
    if sigma.name == "elu":
        alpha = float(params.get("alpha", 1.0))
        return _Shape((0.0,), (_CONVEX, _STRAIGHT), lambda v: alpha * np.exp(np.minimum(v, 0.0)))
    return _SHAPES.get(sigma.name)


def has_lines(sigma: Activation) -> bool:
    """Tell whether lines beside this activation can be proved; other ones keep their interval of values."""
    return _shape(sigma) is not None


def outward(low: np.ndarray, high: np.ndarray) -> Enclosure:
    """Return the midpoint-radius form that contains [low, high]."""
    middle = 0.5 * low + 0.5 * high
    radius = np.maximum(high - middle, middle - low)
    radius = radius * (1.0 + 8.0 * UNIT) + 8.0 * UNIT * np.abs(middle) + 4.0 * TINY
    return Enclosure(middle, np.where(low == high, np.where(middle == low, 0.0, radius), radius))


def ends(box: Enclosure) -> Interval:
    """Return interval ends that contain a midpoint-radius form."""
    middle, radius = box.middle(), box.radius
    low, high = middle - radius, middle + radius
    exact = radius == 0.0
    return (
        np.where(exact, low, np.nextafter(low, -np.inf)),
        np.where(exact, high, np.nextafter(high, np.inf)),
    )


def offsets(sigma: Activation, slopes: np.ndarray, low: np.ndarray, high: np.ndarray) -> Interval:
    """Return (β, β') with slopes[:, 0] v + β ≤ σ(v) ≤ slopes[:, 1] v + β' for v in [low, high], neuron by neuron.

    Raises
    ------
    ValueError
        For an activation without known pieces (`has_lines` tells).
    """
    shape = _shape(sigma)
    if shape is None:
        raise ValueError(f"there are no lines beside the activation {sigma.name!r}")
    below = _least(sigma, shape, slopes[:, 0], low, high, 1.0)
    return below, -_least(sigma, shape, slopes[:, 1], low, high, -1.0)


def _least(
    sigma: Activation, shape: _Shape, slope: np.ndarray, low: np.ndarray, high: np.ndarray, sign: float
) -> np.ndarray:
    """Return a lower bound of sign · (σ(v) - slope v) over [low, high]."""
    found = np.full(low.shape, np.inf)
    borders = [-np.inf, *shape.knots, np.inf]
    for kind, left, right in zip(shape.pieces, borders[:-1], borders[1:], strict=True):
        start, stop = np.maximum(low, left), np.minimum(high, right)
        inside = np.flatnonzero(start <= stop)
        if len(inside):
            curve = kind if kind == _UNKNOWN else int(sign) * kind
            piece = _least_on_piece(sigma, shape, curve, slope[inside], start[inside], stop[inside], sign)
            found[inside] = np.minimum(found[inside], piece)
    return found


def _least_on_piece(
    sigma: Activation,
    shape: _Shape,
    curve: int,
    slope: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    sign: float,
) -> np.ndarray:
    if curve == _CONVEX:
        return _tangent(sigma, shape, slope, start, stop, sign)
    bound = np.minimum(_height(sigma, slope, start, sign)[0], _height(sigma, slope, stop, sign)[0])
    if curve == _UNKNOWN:
        steep = np.maximum(np.abs(slope - sigma.lower), np.abs(slope - sigma.upper))
        bound = np.nextafter(bound - 1.001 * steep * (stop - start) - TINY, -np.inf)
    return bound


def _height(sigma: Activation, slope: np.ndarray, at: np.ndarray, sign: float) -> Interval:
    """Enclose sign · (σ(v) - slope v) at points."""
    value = outward(*value_range(sigma, at, at)) - Enclosure.exact(slope).times(Enclosure.exact(at))
    return ends(value if sign > 0.0 else -value)


def _tangent(
    sigma: Activation, shape: _Shape, slope: np.ndarray, start: np.ndarray, stop: np.ndarray, sign: float
) -> np.ndarray:
    """Bound a convex g = sign · (σ(v) - slope v) from below by its tangent at an almost lowest point."""
    at = _flattest(shape, slope, start, stop, sign)
    if sigma.name == "elu":
        at = np.minimum(at, _LEFT_OF_ZERO)
    steep = outward(*slope_range(sigma, at, at)) - Enclosure.exact(slope)
    least, most = ends(steep if sign > 0.0 else -steep)
    point = Enclosure.exact(at)
    forth = ends(Enclosure.exact(least).times(Enclosure.exact(stop) - point))[0]
    back = ends(Enclosure.exact(most).times(Enclosure.exact(start) - point))[0]
    fall = np.minimum(0.0, np.minimum(forth, back))
    return np.nextafter(_height(sigma, slope, at, sign)[0] + fall, -np.inf)


def _flattest(
    shape: _Shape, slope: np.ndarray, start: np.ndarray, stop: np.ndarray, sign: float
) -> np.ndarray:
    """Return points of [start, stop] where σ' is close to `slope`; sign · σ' rises there."""
    if shape.slope is None:
        raise TypeError("a curved piece needs its derivative")
    left, right = start.copy(), stop.copy()
    for _ in range(_BISECTIONS):
        middle = 0.5 * left + 0.5 * right
        falls = sign * (shape.slope(middle) - slope) < 0.0
        left, right = np.where(falls, middle, left), np.where(falls, right, middle)
    return np.clip(0.5 * left + 0.5 * right, start, stop)
