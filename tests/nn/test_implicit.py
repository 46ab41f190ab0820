"""Implicit blocks: well posed, bounded in their norm, attacked, corrupted, and the derivative is right."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import lipctrl
from lipctrl import rules
from lipctrl.nn.implicit import ImplicitBlock

CASES = list(
    itertools.product(("l2", "linf"), (1e-3, 1.0, 1e3), ("relu", "tanh", "leaky_relu"), (0.0, 1.0, 1e6))
)


def block(norm, lipschitz, sigma, size, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    net = ImplicitBlock(3, 2, width=10, lipschitz=lipschitz, norm=norm, activation=sigma).to(dtype)
    with torch.no_grad():
        net.free.mul_(size)
        net.log_scale.normal_().mul_(size)
    return net


@pytest.mark.parametrize(("norm", "lipschitz", "sigma", "size"), CASES)
def test_every_block_proves_its_gain_and_runs_what_it_certifies(norm, lipschitz, sigma, size):
    net = block(norm, lipschitz, sigma, size)
    certificate = net.certificate()
    assert lipctrl.check(certificate).ok
    assert certificate.norm == norm
    assert certificate.gain <= lipschitz * (1 + 1e-6)
    x = torch.randn(7, 3, dtype=torch.float64)
    expected = net(x).detach().numpy()
    np.testing.assert_allclose(certificate.evaluate(x.numpy()), expected, rtol=1e-9, atol=1e-9 * lipschitz)
    np.testing.assert_allclose(net.export()(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9 * lipschitz)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_float32_weights_are_certified_as_they_run(norm):
    net = block(norm, 1.0, "relu", 1.0, torch.float32)
    certificate = net.certificate()
    assert lipctrl.check(certificate).ok
    assert certificate.gain <= 1.0 + 1e-3


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_ascent_on_pairs_stays_below_the_gain(norm):
    net = block(norm, 2.0, "relu", 1.0)
    order = 2 if norm == "l2" else float("inf")
    x = torch.randn(64, 3, dtype=torch.float64, requires_grad=True)
    step = torch.randn(64, 3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([x, step], lr=0.05)
    best = 0.0
    for _ in range(60):
        ratio = torch.linalg.vector_norm(net(x + step) - net(x), order, -1) / torch.linalg.vector_norm(
            step, order, -1
        )
        best = max(best, float(ratio.detach().max()))
        optimiser.zero_grad()
        (-ratio.sum()).backward()
        optimiser.step()
    assert 0.01 < best / 2.0 <= 1.0


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_implicit_derivative_is_exact(norm):
    net = block(norm, 1.0, "tanh", 1.0)
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, (x,), eps=1e-6, atol=1e-6)
    net(x).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_altered_claim_is_not_proved(norm):
    certificate = block(norm, 1.0, "relu", 1.0).certificate()
    # A tenth of the gain is below what the l2 block attains, and below the exact l∞ bound.
    lower = dataclasses.replace(certificate, gain=0.1 * certificate.gain, digest="")
    assert not lipctrl.check(lower).ok
    # W = 2 I has no unique solution: whatever the gain, it must be refused.
    weights = {**certificate.weights, "state": 2.0 * np.eye(10)}
    report = lipctrl.check(dataclasses.replace(certificate, weights=weights, gain=1e6, digest=""))
    assert not report.ok
    assert "well posed" in str(report) or "measure" in str(report)


def test_an_ill_posed_equation_is_refused_by_the_builder():
    ones, zero = np.ones((1, 1)), np.zeros(1)
    for norm in ("l2", "linf"):
        with pytest.raises(lipctrl.NotProvedError):
            rules.implicit(
                ones, ones, zero, ones, zero, activation="relu", witness=np.ones(1), gain=100.0, norm=norm
            )


def test_an_linf_gain_is_not_an_l2_gain():
    certificate = block("linf", 1.0, "relu", 1.0).certificate()
    relabelled = dataclasses.replace(certificate, norm="l2", digest="")
    assert not lipctrl.check(relabelled).ok
    mixed = rules.series(certificate, rules.scaling([1.0, 1.0]))
    with pytest.raises(lipctrl.NotProvedError, match="norm"):
        rules.RULES["series"].prove(mixed, lipctrl.checker.ROUTES["float"])


def test_unknown_norms_and_coupled_activations_are_refused():
    with pytest.raises(ValueError, match="norm"):
        ImplicitBlock(2, 2, norm="l1")
    with pytest.raises(ValueError, match="element-wise"):
        ImplicitBlock(2, 2, activation="groupsort")
