"""Ranges on a box by substituting lines backwards from a layer to the input (CROWN, Zhang et al. 2018, Theorem 3.2).

A linear function Λ z_l of a layer of neurons lies above Λ⁺(a v_l + β) + Λ⁻(a' v_l + β'), where a v + β and a' v + β'
are lines below and above the activation on its interval, and v_l is affine in earlier layers. From the last layer
back to the input this leaves an affine function of x, whose range on a box is known. Slopes a, a' may be any numbers:
the offsets are proved for them (`lipctrl.rules.lines`), so that stored slopes decide how sharp a range is and never
whether it is true. All sums run in `Enclosure` arithmetic; what rounding leaves of a coefficient is charged with the
largest value that its neuron takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lipctrl.activations import Activation
from lipctrl.arithmetic import TINY, UNIT, Enclosure
from lipctrl.rules.base import require
from lipctrl.rules.lines import ends, has_lines, offsets
from lipctrl.rules.neurons import Graph
from lipctrl.rules.ranges import Interval, value_range

# Slopes (h, 2) of the lines below and above the activation of layer l = 1, 2, … on intervals of its pre-activations.
SlopeRule = Callable[[int, Activation, np.ndarray, np.ndarray], np.ndarray]


def needs_lines(sigma: object) -> bool:
    """Tell whether back-substitution through a layer reads slopes: not through affine or coupled neurons."""
    return isinstance(sigma, Activation) and sigma.name != "identity" and has_lines(sigma)


def stored_slopes(slopes: Mapping[int, np.ndarray]) -> SlopeRule:
    """Return the rule that reads slopes of given arrays, one (h, 2) for each layer that needs lines."""

    def read(l: int, sigma: Activation, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        found = slopes.get(l)
        require(found is not None, f"relaxation{l} is missing")
        assert found is not None
        require(found.shape == (len(low), 2), f"relaxation{l} has the wrong shape")
        require(np.isfinite(found).all(), f"relaxation{l} has NaN or inf entries")
        return found

    return read


@dataclass(frozen=True)
class Lines:
    """Lines below (column 0) and above (column 1) the values of a layer, and a bound of |values|."""

    slopes: np.ndarray
    offsets: np.ndarray
    size: np.ndarray


def relax(l: int, sigma: Activation, low: np.ndarray, high: np.ndarray, rule: SlopeRule) -> Lines:
    """Return proved lines of layer l on its pre-activation intervals; flat ones where no line is known."""
    bottom, top = value_range(sigma, low, high)
    size = np.maximum(np.abs(bottom), np.abs(top))
    if sigma.name == "identity":
        return Lines(np.ones((len(low), 2)), np.zeros((len(low), 2)), size)
    if not needs_lines(sigma):
        return Lines(np.zeros((len(low), 2)), np.stack([bottom, top], axis=1), size)
    slopes = rule(l, sigma, low, high)
    return Lines(slopes, np.stack(offsets(sigma, slopes, low, high), axis=1), size)


def backward_range(graph: Graph, l: int, lines: Sequence[Lines], box: Interval) -> Interval:
    """Enclose the pre-activations of layer l (the output for l = the number of layers) on a box.

    `lines[k]` describes layer k + 1. Lower ends of v and of -v are substituted together.
    """
    targets = {j: Enclosure.exact(np.vstack([w, -w])) for j, w in graph.sources[l].items()}
    bias = graph.biases[l]
    total = Enclosure.exact(np.concatenate([bias, -bias])[:, None])
    lost = np.zeros(2 * len(bias))
    for k in range(l, 0, -1):
        if k not in targets:
            continue
        rows, line = targets.pop(k), lines[k - 1]
        lost = lost + _charged(rows, line.size)
        middle = rows.middle()
        rises = middle >= 0.0
        scaled = Enclosure.exact(middle).times(_chosen(rises, line.slopes))
        shifts = Enclosure.exact(middle).times(_chosen(rises, line.offsets))
        ones = Enclosure.exact(np.ones((middle.shape[1], 1)))
        total = total + shifts @ ones + scaled @ Enclosure.exact(graph.biases[k - 1][:, None])
        for j, weight in graph.sources[k - 1].items():
            term = scaled @ Enclosure.exact(weight)
            targets[j] = targets[j] + term if j in targets else term
    if 0 in targets:
        corner = np.maximum(np.abs(box[0]), np.abs(box[1]))
        lost = lost + _charged(targets[0], corner)
        middle = Enclosure.exact(targets[0].middle())
        lowest = _chosen(middle.middle() >= 0.0, np.stack(box, axis=1))
        total = total + middle.times(lowest) @ Enclosure.exact(np.ones((len(corner), 1)))
    least = ends(Enclosure(total.middle()[:, 0], total.radius[:, 0]))[0]
    least = np.nextafter(least - lost * (1.0 + 8.0 * (len(lines) + 4) * UNIT), -np.inf)
    return least[: len(bias)], -least[len(bias) :]


def _chosen(rises: np.ndarray, pair: np.ndarray) -> Enclosure:
    """Return entry 0 of a neuron's pair where a coefficient is not negative, entry 1 elsewhere."""
    return Enclosure.exact(np.where(rises, pair[:, 0], pair[:, 1]))


def _charged(rows: Enclosure, size: np.ndarray) -> np.ndarray:
    """Bound what uncertain coefficients add at most, given bounds of the values that they multiply."""
    count = len(size) + 4
    return (rows.radius @ size) * (1.0 + 4.0 * count * UNIT) + count * TINY
