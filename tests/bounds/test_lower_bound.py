"""Ascent from below: it finds what is there and leaves the module alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import lipctrl


def test_the_ascent_finds_the_norm_of_linear_maps():
    torch.manual_seed(0)
    net = nn.Linear(20, 10)
    norm = np.linalg.norm(net.weight.detach().double().numpy(), 2)
    assert lipctrl.lipschitz_lower_bound(net) == pytest.approx(norm, rel=1e-4)
    assert lipctrl.lipschitz_lower_bound(lipctrl.certify(net)) == pytest.approx(norm, rel=1e-4)


def test_the_ascent_finds_a_steep_place():
    """tanh(8 x): the slope 8 is attained near zero only."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
    nn.init.constant_(net[0].weight, 8.0)
    nn.init.constant_(net[0].bias, 0.0)
    assert lipctrl.lipschitz_lower_bound(net) > 7.5
    assert lipctrl.lipschitz_lower_bound(net, region=(2.0, 3.0)) < 1e-6


def test_the_ascent_is_reproducible_and_leaves_the_module_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    before = [p.clone() for p in net.parameters()]
    assert lipctrl.lipschitz_lower_bound(net, seed=4) == lipctrl.lipschitz_lower_bound(net, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.requires_grad for p in net.parameters())
    assert net[0].weight.dtype == torch.float32


def test_what_the_ascent_cannot_read_is_named():
    with pytest.raises(TypeError, match="float"):
        lipctrl.lipschitz_lower_bound(3.0)
    with pytest.raises(ValueError, match="region"):
        lipctrl.lipschitz_lower_bound(nn.Linear(2, 2), region=(1.0, 0.0))


def test_pairs_stay_in_a_ball_as_they_do_in_a_box():
    """max(x₁ + x₂ - 1.2, 0): its slope lies beyond the ball of radius 0.8, in a corner of its enclosing box."""
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    nn.init.constant_(net[0].weight, 1.0)
    nn.init.constant_(net[0].bias, -1.2)
    assert lipctrl.lipschitz_lower_bound(net, region=(-0.8, 0.8)) > 1.3
    assert lipctrl.lipschitz_lower_bound(net, region={"center": 0.0, "radius": 0.8}) == 0.0
    assert lipctrl.lipschitz_lower_bound(net, region={"center": [0.5, 0.5], "radius": 0.5}) > 1.3
    for wrong in ({"center": 0.0}, "everywhere", (1.0, 2.0, 3.0), {"center": 0.0, "radius": -1.0}):
        with pytest.raises(ValueError, match="region"):
            lipctrl.lipschitz_lower_bound(net, region=wrong)


def test_a_certified_network_is_measured_as_it_is_folded():
    """In float32 the folded weights, not a new fold in float64, are what the certificate bounds: exactly, if linear."""
    for seed in range(4):
        torch.manual_seed(seed)
        net = lipctrl.LipschitzResNet(3, 2, lipschitz=1.0, width=16, depth=7, activation="identity")
        gain = net.certificate().gain
        assert gain * (1.0 - 1e-6) < lipctrl.lipschitz_lower_bound(net) <= gain


def test_a_parametrised_weight_is_measured_as_it_is_computed():
    """In float32, as the certificate reads it; computed anew in float64 it is another one, by some 1e-8."""
    for seed in range(8):
        torch.manual_seed(seed)
        net = nn.Linear(3, 4)
        nn.utils.parametrizations.weight_norm(net)
        gain = lipctrl.certify(net).gain
        assert gain * (1.0 - 1e-9) < lipctrl.lipschitz_lower_bound(net) <= gain
        assert len(net.parametrizations) == 1
