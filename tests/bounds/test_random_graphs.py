"""Random graphs of neurons under attack: no pair of points contradicts a claim, whatever the property, norm and box."""

from __future__ import annotations

import numpy as np
import pytest

import lipctrl
from lipctrl.activations import _PLAIN, activation
from lipctrl.bounds.barrier import SolverError
from lipctrl.bounds.graph import Network
from lipctrl.rules import Layer, Output

ACTIVATIONS = (
    *_PLAIN,
    *({"name": "leaky_relu", "slope": slope} for slope in (-2.0, 0.3, 1.5)),
    *({"name": "elu", "alpha": alpha} for alpha in (0.4, 2.5)),
    {"name": "clip", "lower": -0.3, "upper": 0.9},
    {"name": "soft_threshold", "threshold": 0.5},
    *({"name": "groupsort", "size": size} for size in (2, 3)),
    *({"name": "averaged", "activation": {"name": name}} for name in ("groupsort", "silu", "abs")),
)


def random_graph(rng: np.random.Generator) -> Network:
    """Layers of any activation that read any earlier ones, some of them through sparse weights."""
    sizes = [int(rng.integers(1, 4))]
    layers = []
    for l in range(1, int(rng.integers(2, 5))):
        sigma = activation(ACTIVATIONS[rng.integers(len(ACTIVATIONS))])
        width = int(rng.choice([1, 3, 6])) if sigma.group == 1 else 6
        sources = {}
        for j in range(l):
            if j == l - 1 or rng.random() < 0.25:
                weight = (
                    rng.standard_normal((width, sizes[j])) * rng.choice([0.3, 1.0, 3.0]) / np.sqrt(sizes[j])
                )
                sources[j] = weight * (rng.random(weight.shape) < rng.choice([0.5, 1.0]))
        layers.append(Layer(sources, sigma, rng.standard_normal(width) * rng.choice([0.0, 1.0, 3.0])))
        sizes.append(width)
    maps = {
        j: rng.standard_normal((sizes[0], sizes[j])) for j in range(len(sizes)) if j % 2 or j == len(layers)
    }
    return Network(sizes[0], tuple(layers), Output(maps, rng.standard_normal(sizes[0])))


def ratios(cert: lipctrl.Certificate, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return what pairs attain of a claim, less what rounding may pretend; an inverse claim is negated."""
    step, rise = x - y, cert.evaluate(x) - cert.evaluate(y)
    blur = 2.0**-45 * (np.abs(cert.evaluate(x)).sum(axis=1) + np.abs(cert.evaluate(y)).sum(axis=1) + 1.0)
    order = np.inf if cert.norm == "linf" else 2
    run = np.linalg.norm(step, ord=order, axis=1)
    if cert.claim == "one-sided":
        found = (rise * step).sum(axis=1) / run - blur
    elif cert.claim == "inverse":
        found = -np.linalg.norm(rise, axis=1) - blur
    else:
        found = np.linalg.norm(rise, ord=order, axis=1) - blur
    return found / run


def attained(cert: lipctrl.Certificate, rng: np.random.Generator) -> float:
    """Climb by random steps from pairs near and far, some of them at corners of the box."""
    box = cert.region or (np.full(cert.in_features, -4.0), np.full(cert.in_features, 4.0))
    width = box[1] - box[0]
    x, y = (
        box[0] + width * np.clip(1.4 * rng.random((120, cert.in_features)) - 0.2, 0.0, 1.0) for _ in range(2)
    )
    best = -np.inf
    for reach in (1.0, 0.3, 0.1, 0.03, 0.01):
        far = (x != y).any(axis=1)
        if not far.any():
            break
        x, y = x[far], y[far]
        value = ratios(cert, x, y)
        best = max(best, float(value.max()))
        top = np.argsort(-value)[:20].repeat(6)
        move = reach * width * rng.standard_normal((len(top), cert.in_features))
        turn = reach * (y - x)[top] * rng.standard_normal((len(top), cert.in_features))
        closer = np.where(rng.random((len(top), 1)) < 0.5, 1.0, 0.2)
        x, y = (np.clip(p, *box) for p in (x[top] + move, x[top] + move + closer * (y - x)[top] + turn))
    return best


def attack(seeds: range) -> int:
    """Return how many of the random graphs were certified; every claim survives the attack."""
    count = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        given = random_graph(rng)
        claim = str(rng.choice(["lipschitz", "lipschitz", "one-sided", "inverse"]))
        norm = "linf" if claim == "lipschitz" and rng.random() < 0.4 else "l2"
        half = 10.0 ** rng.uniform(-6.0, 1.0) * rng.random(given.in_features)
        center = rng.standard_normal(given.in_features)
        box = (center - half, center + half) if rng.random() < 0.7 else None
        try:
            cert = lipctrl.certify(given, region=box, property=claim, norm=norm)
        except (lipctrl.NotProvedError, SolverError):
            continue
        count += 1
        assert lipctrl.check(cert).ok
        limit = -cert.gain if claim == "inverse" else cert.gain
        assert attained(cert, rng) <= limit + 1e-9 * abs(limit), (seed, claim, norm)
    return count


def test_no_pair_contradicts_a_claim_about_a_random_graph():
    assert attack(range(40)) >= 25


@pytest.mark.slow
def test_no_pair_contradicts_claims_about_many_random_graphs():
    assert attack(range(1000, 1300)) >= 200
