"""Stacks of residual blocks: one LMI over all of them, by Newton where it is small and by descent where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import lipctrl
from lipctrl.bounds.descent import _Objective
from lipctrl.bounds.eclipse import layer_wise
from lipctrl.bounds.problem import dense_program, reduce_network


class Block(nn.Module):
    def __init__(self, width: int, activation: nn.Module, scale: float) -> None:
        super().__init__()
        self.a, self.b, self.activation, self.scale = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            activation,
            scale,
        )
        for layer in (self.a, self.b):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, x):
        return x + self.scale * self.b(self.activation(self.a(x)))


def stack(depth: int, width: int, activation: type[nn.Module] = nn.ReLU, scale: float = 0.25) -> nn.Module:
    torch.manual_seed(0)
    blocks = [Block(width, activation(), scale) for _ in range(depth)]
    return nn.Sequential(nn.Linear(8, width), *blocks, nn.Linear(width, 4)).double()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU, nn.LeakyReLU])
def test_descent_comes_close_to_the_optimum(activation):
    net = stack(4, 12, activation)
    best = lipctrl.certify(net, "lipsdp")
    cert = lipctrl.certify(net, "descent")
    assert lipctrl.check(cert).ok
    assert best.gain * (1.0 - 1e-6) <= cert.gain <= 1.02 * best.gain
    assert lipctrl.lipschitz_lower_bound(net) <= cert.gain
    assert cert.gain < lipctrl.certify(net, "eclipse-fast").gain < lipctrl.certify(net, "product").gain


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_the_gradient_of_the_bound_is_exact(activation):
    reduction = reduce_network(lipctrl.bounds.read_network(stack(2, 5, activation)))
    program = dense_program(reduction, "lipschitz")
    start = layer_wise(reduction, fast=True)
    point = np.log(1.5 * start.rho * np.concatenate(list(start.multipliers.values())))
    objective = _Objective(program)
    _, gradient = objective(point)
    for i in range(len(point)):
        step = np.zeros(len(point))
        step[i] = 1e-5
        measured = (objective(point + step)[0] - objective(point - step)[0]) / 2e-5
        assert measured == pytest.approx(gradient[i], abs=1e-7 + 1e-5 * np.abs(gradient).max())


def test_other_properties_are_refused_by_descent():
    with pytest.raises(ValueError, match="descent"):
        lipctrl.certify([np.eye(2), np.eye(2)], "descent", activation="relu", property="one-sided")


@pytest.mark.slow
def test_twenty_blocks_of_64_are_far_below_the_product():
    net = stack(20, 64)
    cert = lipctrl.certify(net)
    assert cert.note["method"] == "descent"
    assert lipctrl.check(cert).ok
    assert lipctrl.lipschitz_lower_bound(net) <= cert.gain < 1e-4 * lipctrl.certify(net, "product").gain
