"""Lines beside activations and back-substitution: true for any slopes, never looser, refused when torn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lipctrl
from lipctrl.activations import activation
from lipctrl.bounds.relaxation import ChosenSlopes, envelope_slopes
from lipctrl.rules import Layer, NotProvedError, Output
from lipctrl.rules.backward import stored_slopes
from lipctrl.rules.lines import offsets
from lipctrl.rules.local import propagate
from lipctrl.rules.network import graph_of, network

LINED = [
    *("relu", "tanh", "silu", "gelu", "sigmoid", "elu", "abs", "softplus", "softsign", "arctan", "hardtanh"),
    {"name": "leaky_relu", "slope": -0.2},
    {"name": "leaky_relu", "slope": 1.7},
    {"name": "elu", "alpha": 2.5},
    {"name": "elu", "alpha": 0.3},
    {"name": "clip", "lower": -0.2, "upper": 0.9},
    {"name": "soft_threshold", "threshold": 0.3},
]
OTHER = [
    "sin",
    {"name": "groupsort", "size": 2},
    {"name": "averaged", "activation": {"name": "silu"}},
    "identity",
]


def deep(kind, seed: int) -> tuple[list[Layer], Output]:
    """Three layers with a skip from the first to the third and from the input to the output."""
    rng = np.random.default_rng(seed)

    def m(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) / 1.5

    layers = [
        Layer({0: m(8, 3)}, kind, m(8)),
        Layer({1: m(8, 8)}, kind, m(8)),
        Layer({1: m(8, 8), 2: m(8, 8)}, kind, m(8)),
    ]
    return layers, Output({0: m(2, 3), 3: m(2, 8)}, m(2))


@pytest.mark.parametrize("kind", LINED, ids=str)
def test_lines_lie_beside_the_activation_for_any_slopes(kind):
    sigma = activation(kind)
    rng = np.random.default_rng(0)
    low = np.concatenate([rng.uniform(-6, 6, 60), [0.0, -1.0, -3.0, -2.3993575, 1e3, -1e-300]])
    run = np.concatenate([rng.uniform(0, 6, 60) ** 2 / 6, [0.0, 1.0, 3.0, 4.798715, 1e4, 2e-300]])
    high = low + run
    drawn = rng.normal(0.3, 1.0, (len(low), 2))
    for slopes in (drawn, envelope_slopes(sigma, low, high), np.full_like(drawn, sigma.upper)):
        below, above = offsets(sigma, slopes, low, high)
        part = np.linspace(0.0, 1.0, 4001)[:, None]
        v = np.clip(low + run * part, low, high)
        w = sigma.value(v)
        slack = 1e-13 * (1.0 + np.abs(w) + np.abs(slopes[:, 0] * v))
        assert (slopes[:, 0] * v + below <= w + slack).all()
        assert (slopes[:, 1] * v + above >= w - slack * (1.0 + np.abs(slopes[:, 1]))).all()
        # Not only true but touching: the gap at the closest grid point is of the second order of the grid.
        touch = 1e-4 * (1.0 + np.abs(slopes).max(axis=1)) * (1.0 + run) + 1e-6
        assert ((w - slopes[:, 0] * v - below).min(axis=0) <= touch).all()
        assert ((slopes[:, 1] * v + above - w).min(axis=0) <= touch).all()


@pytest.mark.parametrize("kind", [*LINED, *OTHER], ids=str)
def test_back_substitution_holds_and_is_never_looser(kind):
    rng = np.random.default_rng(1)
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1]), dtype=float).reshape(3, -1).T
    sharper = False
    for seed, width in enumerate((1e-6, 0.3, 1.5, 5.0)):
        layers, out = deep(kind, seed)
        graph = graph_of(layers, out, 3)
        low = rng.standard_normal(3)
        box = (low, low + width)
        forward, (bottom, top) = propagate(graph, box)
        drives, (least, most) = propagate(graph, box, relaxation=ChosenSlopes())
        for (a, b), (c, d) in zip([*forward, (bottom, top)], [*drives, (least, most)], strict=True):
            assert (c >= a).all()
            assert (d <= b).all()
        sharper |= bool((most - least < 0.9 * (top - bottom)).any())
        run = network(layers, out, {}, 1.0, in_features=3, norm="linf")
        x = climb(run, box, np.vstack([low + width * corners, low + width * rng.random((500, 3))]), rng)
        y = run.evaluate(x)
        slack = 1e-12 * (1.0 + np.abs(y).max())
        assert (y >= least - slack).all()
        assert (y <= most + slack).all()
    if kind in ("tanh", "softplus", "elu", "hardtanh"):
        assert sharper


def climb(run, box, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random steps of shrinking size that keep what is extreme in each output, from samples and corners."""
    best = x
    for step in 0.3 ** np.arange(6):
        width = box[1] - box[0]
        moved = np.clip(best + step * width * rng.standard_normal(best.shape), *box)
        both = np.vstack([best, moved])
        y = run.evaluate(both)
        order = np.concatenate([np.argsort(s * y[:, i])[:100] for i in range(y.shape[1]) for s in (1, -1)])
        best = np.vstack([both[order], box[0] + width * rng.random((200, 3))])
    return np.vstack([x, best])


def test_slopes_from_elsewhere_only_widen():
    layers, out = deep("tanh", 0)
    graph = graph_of(layers, out, 3)
    rng = np.random.default_rng(2)
    box = (-np.ones(3), np.ones(3))
    y = network(layers, out, {}, 1.0, in_features=3, norm="linf").evaluate(rng.uniform(-1, 1, (5000, 3)))
    for spread in (0.1, 1.0, 100.0):
        slopes = {l: rng.normal(0.5, spread, (8, 2)) for l in (1, 2, 3)}
        _, (low, high) = propagate(graph, box, relaxation=stored_slopes(slopes))
        assert (y >= low).all()
        assert (y <= high).all()


@pytest.mark.parametrize(
    "torn",
    [
        {},
        {1: np.zeros((8, 2))},
        {l: np.zeros((8, 3)) for l in (1, 2, 3)},
        {l: np.full((8, 2), np.nan) for l in (1, 2, 3)},
    ],
)
def test_torn_relaxations_are_refused(torn):
    layers, out = deep("relu", 0)
    with pytest.raises(NotProvedError, match="relaxation"):
        propagate(graph_of(layers, out, 3), (-np.ones(3), np.ones(3)), relaxation=stored_slopes(torn))


def test_a_certificate_keeps_its_slopes_and_falls_without_them():
    rng = np.random.default_rng(0)
    layers = [(rng.standard_normal((8, n)) / 1.5, rng.standard_normal(8)) for n in (3, 8, 8)]
    layers.append((rng.standard_normal((1, 8)), np.zeros(1)))
    for norm in ("l2", "linf"):
        cert = lipctrl.certify(layers, region=(-1.0, 1.0), activation="tanh", norm=norm)
        assert {"relaxation1", "relaxation2", "relaxation3"} <= set(cert.witness)
        assert lipctrl.check(dataclasses.replace(cert, witness=dict(cert.witness))).ok
        assert lipctrl.check(cert, route="exact").ok
        plain = {k: v for k, v in cert.witness.items() if not k.startswith("relaxation")}
        assert not lipctrl.check(dataclasses.replace(cert, witness=plain)).ok
        for name, value in (
            ("relaxation4", np.zeros((8, 2))),
            ("relaxation1", np.zeros((8, 1))),
            ("relaxation2", np.full((8, 2), np.inf)),
            ("relaxation2", np.full((8, 2), 5.0)),
        ):
            torn = dataclasses.replace(cert, witness={**cert.witness, name: value})
            assert not lipctrl.check(torn).ok
        partial = {k: v for k, v in cert.witness.items() if k != "relaxation2"}
        assert not lipctrl.check(dataclasses.replace(cert, witness=partial)).ok
