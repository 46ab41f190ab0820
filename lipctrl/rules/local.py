"""Pre-activation intervals of a network on a box, with every rounding error on the safe side.

Two enclosures are propagated and intersected: intervals, and zonotopes (affine functions of the input with one noise
symbol for each neuron that is not linear; Singh et al. 2018, "Fast and effective robustness certification"),
which remember that two neurons read the same input. A third, lines substituted backwards, is
intersected where slopes are given for it. All run in `Enclosure` arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lipctrl.activations import Activation
from lipctrl.arithmetic import TINY, UNIT, Enclosure
from lipctrl.rules.backward import Lines, SlopeRule, backward_range, relax
from lipctrl.rules.base import require
from lipctrl.rules.lines import ends, outward
from lipctrl.rules.neurons import Graph
from lipctrl.rules.ranges import Interval, slope_range, value_range


def _affine(sources: Mapping[int, np.ndarray], states: Sequence[Enclosure], bias: np.ndarray) -> Enclosure:
    total = Enclosure.exact(bias[:, None])
    for j, weight in sources.items():
        total = total + Enclosure.exact(weight) @ states[j]
    return total


@dataclass(frozen=True)
class Zonotope:
    """The set {center + generators ε + r : |ε| ≤ 1, |r| ≤ remainder}; columns (h, 1), (h, s), (h, 1)."""

    center: np.ndarray
    generators: np.ndarray
    remainder: np.ndarray

    def interval(self) -> Interval:
        """Return the interval hull, rounded outwards."""
        count = self.generators.shape[1] + 4
        reach = np.abs(self.generators).sum(axis=1) + self.remainder[:, 0]
        reach = reach * (1.0 + 4.0 * count * UNIT) + count * TINY
        return ends(Enclosure(self.center[:, 0], reach))


def _padded(generators: np.ndarray, columns: int) -> np.ndarray:
    return np.pad(generators, ((0, 0), (0, columns - generators.shape[1])))


def _combined(sources: Mapping[int, np.ndarray], states: Sequence[Zonotope], bias: np.ndarray) -> Zonotope:
    columns = max((states[j].generators.shape[1] for j in sources), default=0)
    center = _affine(sources, [Enclosure(z.center, z.remainder) for z in states], bias)
    total = Enclosure.exact(np.zeros((len(bias), columns)))
    for j, weight in sources.items():
        total = total + Enclosure.exact(weight) @ Enclosure.exact(_padded(states[j].generators, columns))
    rounding = total.radius.sum(axis=1, keepdims=True) * (1.0 + 4.0 * (columns + 4) * UNIT)
    remainder = (center.radius + rounding) * (1.0 + 4.0 * UNIT) + 4.0 * TINY
    return Zonotope(center.middle(), total.middle(), remainder)


def _relaxed(
    sigma: Activation, v: Zonotope, low: np.ndarray, high: np.ndarray, values: Interval, symbols: int
) -> Zonotope:
    """Enclose σ(v) by α v + β ± δ, each δ a noise symbol of its own.

    α is the least slope, for which σ(v) - αv never falls, so its range is that of its ends; for ReLU and
    leaky ReLU across zero α is the chord, above which no value lies.
    """
    slopes = slope_range(sigma, low, high)
    alpha = slopes[0].copy()
    chord = np.zeros(low.shape, dtype=bool)
    left = {"relu": 0.0, "leaky_relu": (sigma.params or {}).get("slope", 0.0)}.get(sigma.name)
    if left is not None and left < 1.0:
        chord = (low < 0.0) & (high > 0.0)
        run = np.where(chord, high - low, 1.0)
        alpha = np.where(chord, np.clip((high - left * low) / run, left, 1.0), alpha)
    a, lo, hi = (Enclosure.exact(t) for t in (alpha, low, high))
    end_low = ends(outward(*value_range(sigma, low, low)) - a.times(lo))
    end_high = ends(outward(*value_range(sigma, high, high)) - a.times(hi))
    bottom, top = end_low[0], end_high[1]
    if chord.any():
        # σ(v) - αv of a convex σ is largest at an end and, α lying between the slopes, least at the knee v = 0.
        bottom = np.where(chord, 0.0, bottom)
        top = np.where(chord, np.maximum(end_low[1], end_high[1]), top)
    bottom = np.where(chord, np.minimum(bottom, np.minimum(end_low[0], end_high[0])), bottom)
    offset = outward(bottom, top)
    fixed = slopes[0] == slopes[1]
    # A coupled or very wide relaxation falls back on the interval of values.
    flat = outward(*values)
    use_flat = (flat.radius < offset.radius) & ~fixed
    alpha = np.where(use_flat, 0.0, alpha)
    middle = np.where(use_flat, flat.middle(), offset.middle())
    radius = np.where(use_flat, flat.radius, offset.radius)
    scaled = Enclosure.exact(alpha[:, None])
    center = scaled.times(Enclosure(v.center, v.remainder)) + Enclosure.exact(middle[:, None])
    generators = scaled.times(Enclosure.exact(_padded(v.generators, symbols)))
    new = np.diag(radius)[:, radius > 0.0]
    columns = generators.shape[1]
    rounding = generators.radius.sum(axis=1, keepdims=True) * (1.0 + 4.0 * (columns + 4) * UNIT)
    remainder = (center.radius + rounding) * (1.0 + 4.0 * UNIT) + 4.0 * TINY
    return Zonotope(center.middle(), np.hstack([generators.middle(), new]), remainder)


def _activations(graph: Graph) -> list[Activation]:
    """Return the activations of a graph without nested maps, whose range on a box is not known."""
    sigmas = [sigma for sigma in graph.nonlinear if isinstance(sigma, Activation)]
    require(len(sigmas) == len(graph.nonlinear), "a nested map has no range on a box")
    return sigmas


def propagate(
    graph: Graph, region: Interval, *, zonotopes: bool = True, relaxation: SlopeRule | None = None
) -> tuple[list[Interval], Interval]:
    """Return enclosures of every layer's pre-activations and of the output for inputs from a box.

    With a `relaxation`, lines of its slopes are substituted backwards from every layer
    (`lipctrl.rules.backward`), and the ranges are intersected with the ones that hold without.

    Raises
    ------
    NotProvedError
        When the network holds a nested certified map, or numbers overflow.
    """
    sigmas = _activations(graph)
    box = outward(*region)
    states = [Enclosure(box.middle()[:, None], box.radius[:, None])]
    sets = [Zonotope(box.middle()[:, None], np.diag(box.radius), np.zeros((len(box.radius), 1)))]
    drives: list[Interval] = []
    symbols = sets[0].generators.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        for l, sigma in enumerate(sigmas):
            low, high, drive = _drive(graph, l, states, sets, zonotopes)
            drives.append((low, high))
            values = value_range(sigma, low, high)
            state = outward(*values)
            states.append(Enclosure(state.middle()[:, None], state.radius[:, None]))
            if zonotopes:
                sets.append(_advance(sigma, drive, low, high, values, symbols))
                # A symbol has one meaning in the whole graph: columns are never used twice.
                symbols = max(symbols, sets[-1].generators.shape[1])
        low, high, _ = _drive(graph, len(graph.nonlinear), states, sets, zonotopes)
        if relaxation is None:
            return drives, (low, high)
        ranges = _sharpened(graph, region, [*drives, (low, high)], relaxation)
    return ranges[:-1], ranges[-1]


def _sharpened(
    graph: Graph, region: Interval, ranges: Sequence[Interval], relaxation: SlopeRule
) -> list[Interval]:
    """Intersect ranges of all pre-activations and of the output with those of back-substitution."""
    lines: list[Lines] = []
    out: list[Interval] = []
    sigmas = _activations(graph)
    for l, (low, high) in enumerate(ranges):
        # The first layer reads the box alone: its range is exact already.
        found = backward_range(graph, l, lines, region) if set(graph.sources[l]) - {0} else (low, high)
        low, high = np.maximum(low, found[0]), np.minimum(high, found[1])
        require(np.isfinite(low).all() and np.isfinite(high).all(), "the range on the box overflows float64")
        require((low <= high).all(), "an empty range: the enclosures contradict each other")
        out.append((low, high))
        if l < len(sigmas):
            lines.append(relax(l + 1, sigmas[l], low, high, relaxation))
    return out


def _drive(
    graph: Graph, l: int, states: Sequence[Enclosure], sets: Sequence[Zonotope], zonotopes: bool
) -> tuple[np.ndarray, np.ndarray, Zonotope | None]:
    interval = _affine(graph.sources[l], states, graph.biases[l])
    low, high = ends(Enclosure(interval.middle()[:, 0], interval.radius[:, 0]))
    drive = None
    if zonotopes:
        drive = _combined(graph.sources[l], sets, graph.biases[l])
        tight = drive.interval()
        low, high = np.maximum(low, tight[0]), np.minimum(high, tight[1])
    require(np.isfinite(low).all() and np.isfinite(high).all(), "the range on the box overflows float64")
    require((low <= high).all(), "an empty range: the enclosures contradict each other")
    return low, high, drive


def _advance(
    sigma: Activation,
    drive: Zonotope | None,
    low: np.ndarray,
    high: np.ndarray,
    values: Interval,
    symbols: int,
) -> Zonotope:
    if drive is None:
        raise TypeError("zonotopes propagate from zonotopes")
    if sigma.name == "identity":
        return drive
    if sigma.group > 1:
        flat = outward(*values)
        new = np.hstack([np.zeros((len(low), symbols)), np.diag(flat.radius)])
        return Zonotope(flat.middle()[:, None], new, np.zeros((len(low), 1)))
    return _relaxed(sigma, drive, low, high, values, symbols)


def local_slopes(graph: Graph, region: Interval, relaxation: SlopeRule | None = None) -> list[Interval]:
    """Return slope intervals of every neuron, proved for inputs from a box."""
    drives, _ = propagate(graph, region, relaxation=relaxation)
    return [slope_range(sigma, *drive) for sigma, drive in zip(_activations(graph), drives, strict=True)]
