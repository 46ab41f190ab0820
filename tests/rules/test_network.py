"""The rule for given networks: linear layers substituted, slopes proved on boxes, linf by comparison."""

from __future__ import annotations

import numpy as np
import pytest

from lipctrl import rules
from lipctrl.checker import check
from lipctrl.rules import Layer, NotProvedError, Output
from lipctrl.rules.local import local_slopes, propagate
from lipctrl.rules.network import graph_of, network

ACTIVATIONS = [
    *("relu", "tanh", "silu", "gelu", "sigmoid", "elu", "sin", "abs", "softplus", "softsign", "arctan"),
    "hardtanh",
    {"name": "leaky_relu", "slope": -0.2},
    {"name": "leaky_relu", "slope": 1.7},
    {"name": "soft_threshold", "threshold": 0.3},
    {"name": "groupsort", "size": 2},
    {"name": "averaged", "activation": {"name": "silu"}},
]


def branched(kind, seed: int = 0) -> tuple[list[Layer], Output]:
    """Layers 2 and 3 both read layer 1; an affine layer reads all; the output skips it."""
    rng = np.random.default_rng(seed)

    def m(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    layers = [
        Layer({0: m(6, 3)}, kind, m(6)),
        Layer({1: m(6, 6)}, kind, m(6)),
        Layer({1: m(6, 6)}, kind, m(6)),
        Layer({0: m(5, 3), 1: m(5, 6), 2: m(5, 6), 3: m(5, 6)}, "identity", m(5)),
    ]
    return layers, Output({1: m(2, 6), 4: m(2, 5)}, m(2))


@pytest.mark.parametrize("kind", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("zonotopes", [True, False])
def test_ranges_of_a_branched_network_hold(kind, zonotopes):
    layers, out = branched(kind)
    graph = graph_of(layers, out, 3)
    rng = np.random.default_rng(1)
    for width in (1e-3, 0.5, 4.0):
        low = rng.standard_normal(3)
        box = (low, low + width)
        drives, (bottom, top) = propagate(graph, box, zonotopes=zonotopes)
        x = low + width * rng.random((3000, 3))
        x[:8] = low + width * np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T
        y = network(layers, out, {}, 1.0, in_features=3, norm="linf").evaluate(x)
        assert (y >= bottom).all()
        assert (y <= top).all()
        first = x @ np.asarray(layers[0].sources[0]).T + layers[0].bias
        assert (first >= drives[0][0] - 1e-12).all()
        assert (first <= drives[0][1] + 1e-12).all()


def test_noise_symbols_of_different_branches_are_never_confused():
    """y = relu(x) - relu(-x)… reads two branches: the same column must not mean two symbols."""
    rng = np.random.default_rng(3)
    for seed in range(30):
        layers, out = branched("abs", seed)
        graph = graph_of(layers, out, 3)
        box = (-np.ones(3), np.ones(3))
        _, (bottom, top) = propagate(graph, box)
        x = rng.uniform(-1, 1, (2000, 3))
        y = network(layers, out, {}, 1.0, in_features=3, norm="linf").evaluate(x)
        assert (y >= bottom).all()
        assert (y <= top).all()


def test_zonotopes_are_sharper_than_intervals_and_exact_for_linear_networks():
    layers, out = branched("identity")
    graph = graph_of(layers, out, 3)
    box = (-np.ones(3), np.ones(3))
    whole = network(layers, out, {}, 1.0, in_features=3, norm="linf")
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), dtype=float).reshape(3, -1).T
    _, (bottom, top) = propagate(graph, box)
    _, (loose, high) = propagate(graph, box, zonotopes=False)
    y = whole.evaluate(corners)
    assert np.allclose(bottom, y.min(axis=0), atol=1e-10)
    assert np.allclose(top, y.max(axis=0), atol=1e-10)
    assert (high - loose > 1.5 * (top - bottom)).all()


def test_a_point_box_has_the_jacobian_as_its_bound():
    layers, out = branched("relu")
    x = np.array([0.3, -0.2, 0.5])
    node = network(layers, out, {}, 1.0, in_features=3, norm="linf")
    step = 1e-6
    jacobian = np.stack(
        [(node.evaluate(x + d) - node.evaluate(x - d)) / (2 * step) for d in step * np.eye(3)], 1
    )
    true = float(np.linalg.norm(jacobian, 2))
    at = network(layers, out, {}, true * (1 + 1e-5), in_features=3, region=(x, x))
    assert check(at).ok
    assert check(at, route="exact").ok
    below = network(layers, out, {}, true * (1 - 1e-5), in_features=3, region=(x, x))
    assert not check(below).ok


def test_a_claim_on_a_box_is_not_a_claim_outside(oracle):
    """ReLU that sleeps on the box: gain 0 there, gain 1 elsewhere."""
    layers, out = [Layer({0: [[1.0]]}, "relu", [-2.0])], Output({1: [[1.0]]})
    asleep = network(layers, out, {}, 0.0, in_features=1, region=([-1.0], [1.0]))
    assert check(asleep).ok
    for region in (None, (np.array([-1.0]), np.array([2.5]))):
        assert not check(oracle.resealed(asleep, region=region)).ok
        with_multiplier = oracle.resealed(asleep, region=region, witness={"multiplier1": [1.0]}, gain=0.9)
        assert not check(with_multiplier).ok
    edge = oracle.resealed(asleep, region=(np.array([-1.0]), np.array([np.nextafter(2.0, 3.0)])))
    assert not check(edge).ok


def test_multipliers_of_linear_neurons_are_refused(oracle):
    layers, out = [Layer({0: np.eye(2)}, "identity"), Layer({1: np.eye(2)}, "relu")], Output({2: np.eye(2)})
    good = network(layers, out, {2: np.ones(2)}, 1.001, in_features=2)
    assert check(good).ok
    assert not check(oracle.resealed(good, witness={**good.witness, "multiplier1": np.ones(2)})).ok
    box = (np.array([1.0, -1.0]), np.array([2.0, 1.0]))
    half = oracle.resealed(good, region=box, witness={"multiplier2": np.array([0.0, 1.0])})
    assert check(half).ok
    assert not check(oracle.resealed(half, witness={"multiplier2": np.ones(2)})).ok


def test_substituted_products_are_those_of_the_stored_weights(oracle):
    """Two affine layers: their product rounds in float64, and the proof is about the exact one."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    layers, out = [Layer({0: a}, "identity")], Output({1: b})
    gain = float(np.linalg.norm(b @ a, 2)) * (1 + 1e-12)
    node = network(layers, out, {}, gain, in_features=3)
    assert check(node).ok
    assert check(node, route="exact").ok
    assert oracle.is_positive_semidefinite(oracle.lmi(node))
    assert not check(oracle.resealed(node, gain=gain * (1 - 1e-11))).ok


@pytest.mark.parametrize("kind", ACTIVATIONS, ids=str)
def test_linf_bounds_hold_globally_and_on_boxes(kind, oracle):
    layers, out = branched(kind)
    rng = np.random.default_rng(0)
    low = rng.standard_normal(3)
    for region in (None, (low, low + 0.3)):
        gain = 1e4
        while check(network(layers, out, {}, 0.9 * gain, in_features=3, norm="linf", region=region)).ok:
            gain *= 0.9
        node = network(layers, out, {}, gain, in_features=3, norm="linf", region=region)
        assert oracle.attacked(node, rng) <= gain


def test_linf_of_a_nested_map_is_refused():
    inner = rules.linear(np.eye(2))
    node = network(
        [Layer({0: np.eye(2)}, inner)], Output({1: np.eye(2)}), {}, 9.0, in_features=2, norm="linf"
    )
    assert not check(node).ok
    boxed = network(
        [Layer({0: np.eye(2)}, inner)],
        Output({1: np.eye(2)}),
        {1: np.ones(2)},
        9.0,
        in_features=2,
        region=(-np.ones(2), np.ones(2)),
    )
    assert not check(boxed).ok


def test_slopes_shrink_with_the_box():
    layers, out = branched("tanh")
    graph = graph_of(layers, out, 3)
    wide = local_slopes(graph, (-np.ones(3), np.ones(3)))
    narrow = local_slopes(graph, (-0.01 * np.ones(3), 0.01 * np.ones(3)))
    for (a, b), (c, d) in zip(wide, narrow, strict=True):
        assert (c >= a - 1e-12).all()
        assert (d <= b + 1e-12).all()
    assert sum(float((d - c).sum()) for c, d in narrow) < 0.2 * sum(float((b - a).sum()) for a, b in wide)


def test_overflowing_ranges_are_not_proved():
    layers, out = [Layer({0: [[1e200]]}, "relu")], Output({1: [[1e200]]})
    with pytest.raises(NotProvedError):
        propagate(graph_of(layers, out, 1), (np.array([-1e10]), np.array([1e10])))
