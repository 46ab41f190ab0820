"""Mistakes that published tools make on other people's networks, each one a test here."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import lipctrl
from tests.bounds.modules import Block


def test_residual_connections_count():
    """A tool that collects nn.Linear only certified 0.07 for a residual network of gain 1."""
    net = Block(4, 4)
    for p in net.parameters():
        nn.init.constant_(p, 0.01)
    cert = lipctrl.certify(net)
    assert cert.gain >= lipctrl.lipschitz_lower_bound(net) >= 1.0 - 1e-6


def test_silu_is_steeper_than_one():
    net = nn.Sequential(nn.Linear(1, 1), nn.SiLU())
    nn.init.constant_(net[0].weight, 1.0)
    for method in ("product", "eclipse-fast", "lipsdp"):
        assert lipctrl.certify(net, method).gain >= 1.0998


def test_layers_without_bias():
    cert = lipctrl.certify(nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False)))
    assert lipctrl.check(cert).ok


def test_a_fallback_is_announced(monkeypatch):
    from lipctrl.bounds import methods
    from lipctrl.bounds.barrier import SolverError

    def broken(*_args, **_keywords):
        raise SolverError("no progress")

    monkeypatch.setattr(methods, "solve", broken)
    layers = [np.eye(2), np.eye(2)]
    cert = lipctrl.certify(layers, activation="relu")
    assert cert.note["failed"] == {"lipsdp": "no progress"}
    assert cert.note["method"] == "eclipse-fast"
    with pytest.raises(SolverError, match="no progress"):
        lipctrl.certify(layers, "lipsdp", activation="relu")


def test_multipliers_that_couple_neurons_are_not_believed():
    """LipSDP's "network" form adds λ_ij(e_i - e_j)(e_i - e_j)ᵀ and is unsound: its bound fails on this network."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        w1, w2 = rng.standard_normal((4, 2)), rng.standard_normal((1, 4))
        cert = lipctrl.certify([w1, w2], "lipsdp", activation="relu")
        assert lipctrl.lipschitz_lower_bound(cert, seed=seed) <= cert.gain
        assert set(cert.witness) == {"multiplier1"}


def test_norms_are_not_bounded_by_unfinished_power_iteration():
    """Nearly equal singular values: a few power steps from a bad start report too little."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((50, 50)))
    p, _ = np.linalg.qr(rng.standard_normal((50, 50)))
    w = q @ np.diag(np.concatenate([[1.0], np.full(49, 0.999)])) @ p
    assert lipctrl.certify([w]).gain >= 1.0
    assert lipctrl.certify([w]).gain <= 1.0 + 1e-9
