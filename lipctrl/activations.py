"""Activations, their slope intervals and their values in numpy: one table that networks and proofs share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Activation:
    """A nonlinearity σ with (Δw - lower·Δv)(Δw - upper·Δv) ≤ 0.

    For `group == 1` the inequality holds neuron by neuron. For `group > 1` neurons are coupled and it
    holds for the sum over each group of that many neighbours, so a group shares one multiplier.
    `value` maps (..., h) to (..., h) in float64.
    """

    name: str
    lower: float
    upper: float
    value: Callable[[np.ndarray], np.ndarray]
    group: int = 1
    params: Mapping[str, Any] | None = None

    @property
    def gain(self) -> float:
        """Return the Lipschitz constant of σ in the l2 norm."""
        return max(abs(self.lower), abs(self.upper))

    def __reduce__(self) -> tuple[Any, ...]:
        # The table is the identity of an activation; its function cannot travel.
        return activation, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that certificates hold."""
        return {"name": self.name, **(self.params or {})}


def _sigmoid(v: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * v))


def _gelu(v: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return v * ndtr(v)


# Slope intervals of SiLU and GELU have irrational ends: rounded outwards in the seventh digit.
_SILU = (-0.0998394, 1.0998394)
_GELU = (-0.1289044, 1.1289044)

_PLAIN: dict[str, tuple[float, float, Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (1.0, 1.0, lambda v: v),
    "relu": (0.0, 1.0, lambda v: np.maximum(v, 0.0)),
    "tanh": (0.0, 1.0, np.tanh),
    "softplus": (0.0, 1.0, lambda v: np.logaddexp(0.0, v)),
    "sigmoid": (0.0, 0.25, _sigmoid),
    "elu": (0.0, 1.0, lambda v: np.where(v > 0.0, v, np.expm1(np.minimum(v, 0.0)))),
    "abs": (-1.0, 1.0, np.abs),
    "softsign": (0.0, 1.0, lambda v: v / (1.0 + np.abs(v))),
    "hardtanh": (0.0, 1.0, lambda v: np.clip(v, -1.0, 1.0)),
    "arctan": (0.0, 1.0, np.arctan),
    "sin": (-1.0, 1.0, np.sin),
    "silu": (*_SILU, lambda v: v * _sigmoid(v)),
    "gelu": (*_GELU, _gelu),
}


def _finite(name: str, key: str, value: Any) -> float:
    # Integers of a file may be beyond float64; NaN compares false.
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"activation {name!r}: {key} is {value!r}; expected a finite number")
    return float(value)


def _leaky_relu(slope: Any) -> Activation:
    """Return v for v > 0 and slope·v below."""
    a = _finite("leaky_relu", "slope", slope)
    return Activation(
        "leaky_relu", min(a, 1.0), max(a, 1.0), lambda v: np.where(v > 0.0, v, a * v), params={"slope": a}
    )


def _elu(alpha: Any) -> Activation:
    """Return v for v > 0 and alpha (exp(v) - 1) below, of slopes between 0 and the larger of 1 and alpha."""
    a = _finite("elu", "alpha", alpha)
    if a < 0.0:
        raise ValueError(f"activation 'elu': alpha is {a}; expected at least 0")
    return Activation(
        "elu",
        0.0,
        max(1.0, a),
        lambda v: np.where(v > 0.0, v, a * np.expm1(np.minimum(v, 0.0))),
        params={"alpha": a},
    )


def _clip(lower: Any, upper: Any) -> Activation:
    """Return v clipped to [lower, upper]."""
    low, high = _finite("clip", "lower", lower), _finite("clip", "upper", upper)
    if not low <= high:
        raise ValueError(f"activation 'clip': got lower {low}, upper {high}; expected lower ≤ upper")
    return Activation("clip", 0.0, 1.0, lambda v: np.clip(v, low, high), params={"lower": low, "upper": high})


def _soft_threshold(threshold: Any) -> Activation:
    """Return v moved towards zero by the threshold, and zero where that is nearer."""
    t = _finite("soft_threshold", "threshold", threshold)
    if t < 0.0:
        raise ValueError(f"activation 'soft_threshold': threshold is {t}; expected at least 0")
    return Activation(
        "soft_threshold",
        0.0,
        1.0,
        lambda v: np.sign(v) * np.maximum(np.abs(v) - t, 0.0),
        params={"threshold": t},
    )


def _smooth_soft_threshold(threshold: Any, smoothing: Any) -> Activation:
    """Return v + ½√((v-t)²+ε²) - ½√((v+t)²+ε²): soft-thresholding as ε → 0, smooth and increasing before."""
    name = "smooth_soft_threshold"
    t, e = _finite(name, "threshold", threshold), _finite(name, "smoothing", smoothing)
    if t < 0.0 or e <= 0.0:
        raise ValueError(f"activation {name!r}: got threshold {t}, smoothing {e}; expected t ≥ 0 and ε > 0")

    def value(v: np.ndarray) -> np.ndarray:
        return v + 0.5 * (np.hypot(v - t, e) - np.hypot(v + t, e))

    return Activation(name, 0.0, 1.0, value, params={"threshold": t, "smoothing": e})


def _groupsort(size: Any) -> Activation:
    """Return groups of `size` neighbours sorted in increasing order."""
    if type(size) is not int or size < 2:
        raise ValueError(f"activation 'groupsort': size is {size!r}; expected an integer of at least 2")

    def value(v: np.ndarray) -> np.ndarray:
        grouped = v.reshape(*v.shape[:-1], v.shape[-1] // size, size)
        return np.sort(grouped, axis=-1).reshape(v.shape)

    return Activation("groupsort", -1.0, 1.0, value, group=size, params={"size": size})


def _averaged(spec: Any) -> Activation:
    """Return (σ(v) - lower·v) / (upper - lower), the same nonlinearity moved to the slopes [0, 1]."""
    sigma = activation(spec)
    lower, width = sigma.lower, sigma.upper - sigma.lower
    if width <= 0.0:
        raise ValueError(f"activation 'averaged': {sigma.name!r} is linear; expected lower < upper slopes")
    return Activation(
        "averaged",
        0.0,
        1.0,
        lambda v: (sigma.value(v) - lower * v) / width,
        group=sigma.group,
        params={"activation": sigma.to_dict()},
    )


# name -> (constructor, its parameters with their defaults; None: must be given)
_FAMILIES: dict[str, tuple[Callable[..., Activation], dict[str, Any]]] = {
    "leaky_relu": (_leaky_relu, {"slope": 0.01}),
    "elu": (_elu, {"alpha": None}),
    "clip": (_clip, {"lower": None, "upper": None}),
    "soft_threshold": (_soft_threshold, {"threshold": 1.0}),
    "smooth_soft_threshold": (_smooth_soft_threshold, {"threshold": 1.0, "smoothing": 0.1}),
    "groupsort": (_groupsort, {"size": 2}),
    "averaged": (_averaged, {"activation": None}),
}


def activation(spec: str | Mapping[str, Any] | Activation) -> Activation:
    """Return the activation that a name or a table such as {"name": "leaky_relu", "slope": 0.1} describes.

    Raises
    ------
    ValueError
        For an unknown name or parameter; the message lists the known names.

    Examples
    --------
    >>> activation("relu").lower, activation("relu").upper
    (0.0, 1.0)
    >>> activation({"name": "leaky_relu", "slope": 0.1}).lower
    0.1
    """
    if isinstance(spec, Activation):
        return spec
    # Anything else, such as a module or a function of torch, is unknown: its slopes are.
    table = dict(spec) if isinstance(spec, Mapping) else {"name": spec if isinstance(spec, str) else None}
    name = table.pop("name", None)
    if name in _PLAIN and not table:
        lower, upper, value = _PLAIN[name]
        return Activation(name, lower, upper, value)
    if name in _FAMILIES:
        family, defaults = _FAMILIES[name]
        required = {key for key, value in defaults.items() if value is None}
        if required <= set(table) <= set(defaults):
            return family(*(table.get(key, value) for key, value in defaults.items()))
    known = [*_PLAIN, *(f"{name} ({', '.join(defaults)})" for name, (_, defaults) in _FAMILIES.items())]
    raise ValueError(f"unknown activation {spec!r}; known are {', '.join(known)}")
