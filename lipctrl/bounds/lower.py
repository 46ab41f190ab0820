"""Lower bounds of Lipschitz constants by ascent: every certificate must lie above them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.certificate import Certificate

Map = Callable[[np.ndarray], np.ndarray]


def lipschitz_lower_bound(
    module: Any, region: Any = None, seed: int = 0, *, steps: int = 40, starts: int = 32
) -> float:
    """Return a ratio ‖f(x)-f(x')‖/‖x-x'‖ (l2) that `module` attains: a lower bound of its Lipschitz constant.

    Many starts climb at once. Each alternates a power iteration on the local Jacobian, which turns the
    direction of a pair, with moves of the pair's centre along the gradient of ‖J(x)d‖ and along random
    steps; the best measured ratio wins. For torch modules the weights, of a certified network the folded ones, are
    taken to float64 first. Not a proof of an upper bound, and exact only up to the rounding of the evaluation (ratios
    over steps of 1e-3 and more).

    Parameters
    ----------
    module : torch module, Certificate (no torch needed), object with `.certificate()`, or callable on float64 arrays
        (..., n) with `in_features`. For a list of (W, b) pass its certificate.
    region : None, (lower, upper) of a box that the pairs stay in, or {"center": c, "radius": r} of an l2 ball.
    seed : of the random starts.
    steps, starts : effort.

    Examples
    --------
    >>> from lipctrl.rules import linear
    >>> abs(lipschitz_lower_bound(linear([[3.0, 0.0], [0.0, 1.0]])) - 3.0) < 1e-6
    True
    """
    rng = np.random.default_rng(seed)
    f, features, gradient = _as_map(module)
    within = _as_region(region, features)
    best = 0.0
    for scale in (1.0, 0.1, 10.0) if within is None else (1.0,):
        points = scale * rng.standard_normal((starts, features))
        if within is not None:
            points = within.lower + (within.upper - within.lower) * rng.random((starts, features))
        best = max(best, _ascend(f, gradient, points, scale, within, rng, steps))
    return best


@dataclass(frozen=True)
class _Region:
    """A box, or the l2 ball in it when there is a radius."""

    lower: np.ndarray
    upper: np.ndarray
    radius: float | None = None

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """Return points moved into the region."""
        if self.radius is None:
            return np.clip(points, self.lower, self.upper)
        center = 0.5 * (self.lower + self.upper)
        far = np.linalg.norm(points - center, axis=1, keepdims=True)
        return center + (points - center) * np.minimum(1.0, self.radius / np.maximum(far, 1e-300))


def _as_region(region: Any, features: int) -> _Region | None:
    if region is None:
        return None
    if isinstance(region, dict) and set(region) != {"center", "radius"}:
        raise ValueError(f"region has the keys {sorted(region)}; expected center and radius")
    radius, ends = None, region
    try:
        if isinstance(region, dict):
            radius = float(region["radius"])
            ends = np.subtract(region["center"], radius), np.add(region["center"], radius)
        lower, upper = (np.broadcast_to(np.asarray(r, dtype=np.float64), (features,)) for r in ends)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"region is {region!r}; expected (lower, upper), or center and radius, of {features} features"
        ) from error
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower <= upper).all()):
        raise ValueError(f"region is {region!r}; expected finite (lower, upper) with lower ≤ upper")
    return _Region(lower, upper, radius)


def _as_map(module: Any) -> tuple[Map, int, Callable[..., Any] | None]:
    """Return f on float64 arrays, its input dimension, and a vector-Jacobian product where there is one."""
    if isinstance(module, Certificate):
        return module.evaluate, module.in_features, None
    if hasattr(module, "parameters") and hasattr(module, "state_dict"):
        from lipctrl.bounds.torch_map import torch_map

        return torch_map(module)
    if hasattr(module, "certificate"):
        return _as_map(module.certificate())
    features = getattr(module, "in_features", None)
    if callable(module) and isinstance(features, int):
        call: Any = module
        return call, features, None
    raise TypeError(
        f"lipschitz_lower_bound takes a torch module, a Certificate or a callable with in_features, "
        f"got {type(module).__name__}"
    )


def _ratios(f: Map, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    run = np.linalg.norm(a - b, axis=1)
    high, low = f(a), f(b)
    # Rounding of the two values may pretend a difference; that much is taken off.
    rounding = 2.0**-46 * (np.linalg.norm(high, axis=1) + np.linalg.norm(low, axis=1))
    rise = np.maximum(np.linalg.norm(high - low, axis=1) - rounding, 0.0)
    return np.divide(rise, run, out=np.zeros_like(run), where=run > 0.0)


def _ascend(
    f: Map,
    pullback: Callable[..., Any] | None,
    points: np.ndarray,
    scale: float,
    within: _Region | None,
    rng: np.random.Generator,
    steps: int,
) -> float:
    """Climb from all points at once and return the largest ratio met."""
    count, n = points.shape
    reach = scale if within is None else float(np.max(within.upper - within.lower, initial=0.0))
    if reach == 0.0:
        return 0.0
    direction = rng.standard_normal((count, n))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    value = np.zeros(count)
    for step in range(steps):
        width = reach * 10.0 ** (-1.0 - 2.0 * step / steps)
        if step % 2 and value.any():
            moved = points + width * 3.0 * rng.standard_normal((count, n)) / math.sqrt(n)
            turned = direction + 0.3 * rng.standard_normal((count, n)) / math.sqrt(n)
        else:
            moved, turned = points, _turn(f, pullback, points, direction, width, rng)
        turned = turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-300)
        a, b = moved - width * turned, moved + width * turned
        if within is not None:
            a, b = within.nearest(a), within.nearest(b)
        ratio = _ratios(f, a, b)
        better = ratio >= value
        value = np.where(better, ratio, value)
        points = np.where(better[:, None], 0.5 * (a + b), points)
        direction = np.where(better[:, None], turned, direction)
        if step == steps // 2:
            # The weaker half restarts beside the best: most of the effort goes where the slope is.
            order = np.argsort(-value)
            keep = order[: max(1, count // 2)]
            pick = keep[rng.integers(len(keep), size=count - len(keep))]
            points = np.concatenate([points[keep], points[pick]])
            direction = np.concatenate([direction[keep], direction[pick]])
            value = np.concatenate([value[keep], value[pick]])
    return float(value.max(initial=0.0))


def _turn(
    f: Map,
    pullback: Callable[..., Any] | None,
    points: np.ndarray,
    direction: np.ndarray,
    width: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return JᵀJd, one power step on secants of f; without derivatives J comes from central differences."""
    rise = f(points + width * direction) - f(points - width * direction)
    if pullback is not None:
        return pullback(points, rise)
    count, n = points.shape
    probes = np.eye(n) if n <= 64 else np.linalg.qr(rng.standard_normal((n, 64)))[0].T
    ahead = points[:, None, :] + width * probes
    behind = points[:, None, :] - width * probes
    slopes = (f(ahead.reshape(-1, n)) - f(behind.reshape(-1, n))).reshape(count, len(probes), -1)
    if n <= 64:
        _, _, right = np.linalg.svd(slopes.transpose(0, 2, 1), full_matrices=False)
        return right[:, 0, :]
    return direction * 0.2 * np.linalg.norm(rise, axis=1, keepdims=True) + np.einsum(
        "cpm,cm,pn->cn", slopes, rise, probes
    )
