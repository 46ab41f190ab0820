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
