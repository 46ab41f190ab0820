"""Products of norms, composed by the rules: the baseline of every other method, and exact for linear networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lipctrl import rules
from lipctrl.bounds.graph import Network, activation_of
from lipctrl.certificate import Certificate
from lipctrl.rules import Layer, Output
from lipctrl.rules.network import is_affine, network


def segments(given: Network) -> Iterator[tuple[int, int]]:
    """Yield (first, last): layers first+1..last read only z_first and each other, and later ones only z_last.

    The last pair ends at K + 1, the read-out. Cutting a network at such layers turns it into a series.
    """
    count = len(given.layers)
    reads = [set(layer.sources) for layer in given.layers] + [set(given.output.sources)]
    lowest = [min(r, default=l) for l, r in enumerate(reads)]
    begin = 0
    for cut in range(1, count + 1):
        if all(lowest[l] >= cut for l in range(cut, count + 1)):
            yield begin, cut
            begin = cut
    yield begin, count + 1


def product_certificate(given: Network, norm: str = "l2") -> Certificate:
    """Certify a network by norms of its weights and slopes of its activations, composed by rules."""
    if all(is_affine(layer) for layer in given.layers):
        return linear_certificate(given, norm)
    parts = [_segment(given, first, last, norm) for first, last in _merged(given)]
    return parts[0] if len(parts) == 1 else rules.series(*parts)


def linear_certificate(given: Network, norm: str = "l2") -> Certificate:
    """Certify an affine network of any depth by the largest singular value of the whole map."""
    if not given.layers and len(given.output.sources) == 1:
        return rules.linear(given.output.sources[0], given.output.bias, norm=norm)
    states: list[Any] = [np.eye(given.in_features)]
    for layer in (*given.layers, given.output):
        states.append(sum(np.asarray(w) @ states[j] for j, w in layer.sources.items()))
    whole = np.asarray(states[-1])
    if not np.isfinite(whole).all():
        raise ValueError("the product of the weights overflows float64; rescale the network")
    estimate = float(np.linalg.norm(whole, 2 if norm == "l2" else np.inf))
    return _proved(given, estimate, norm)


def _proved(given: Network, estimate: float, norm: str) -> Certificate:
    from lipctrl.bounds.proof import smallest_proved

    def build(gain: float) -> Certificate:
        return network(given.layers, given.output, {}, gain, in_features=given.in_features, norm=norm)

    return smallest_proved(build, estimate)


def _merged(given: Network) -> list[tuple[int, int]]:
    """Cut only behind nonlinear layers, so that consecutive affine layers are bounded as one product."""
    out: list[tuple[int, int]] = []
    begin = 0
    for _, last in segments(given):
        if last > len(given.layers) or not is_affine(given.layers[last - 1]):
            out.append((begin, last))
            begin = last
    return out


def _segment(given: Network, first: int, last: int, norm: str) -> Certificate:
    """Certify the map from z_first to z_last (or to the output), by the tree of its sums and compositions."""
    count = len(given.layers)
    size = given.in_features if first == 0 else len(given.layers[first - 1].bias)
    values: dict[int, Certificate | None] = {first: None}
    run: list[int] = [*range(first + 1, min(last, count) + 1)]
    for l in run:
        layer = given.layers[l - 1]
        affine = _affine_sum(layer, values, norm)
        if is_affine(layer):
            values[l] = affine
        else:
            sigma = rules.elementwise(activation_of(layer), len(layer.bias), norm=norm)
            values[l] = _then(affine, sigma)
    if last <= count:
        return values[last] or rules.identity(size, norm=norm)
    return _affine_sum(given.output, values, norm)


def _then(first: Certificate | None, second: Certificate) -> Certificate:
    if first is None:
        return second
    flat = [*(first.parts if first.rule == "series" else (first,)), second]
    return rules.series(*flat)


def _affine_sum(layer: Layer | Output, values: dict[int, Certificate | None], norm: str) -> Certificate:
    """Certify Σ_j W_j z_j + b; the sources whose values pass unchanged through W_j = kI become plain terms."""
    terms = []
    bias = np.asarray(layer.bias)
    for place, (j, weight) in enumerate(layer.sources.items()):
        constant = bias if place == 0 else np.zeros_like(bias)
        terms.append(_then(values[j], rules.linear(weight, constant, norm=norm)))
    if not terms:
        size = next(iter(v.in_features for v in values.values() if v is not None), len(bias))
        return rules.linear(np.zeros((len(bias), size)), bias, norm=norm)
    return terms[0] if len(terms) == 1 else rules.total(*terms)
