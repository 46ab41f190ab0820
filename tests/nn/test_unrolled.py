"""Unrolled proximal iterations: bounded for all parameters, and they solve the problem they unroll."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import lipctrl
from lipctrl.nn.unrolled import UnrolledISTA


@pytest.mark.parametrize(
    ("lipschitz", "sigma", "iterations", "size"),
    list(
        itertools.product(
            (1e-3, 1.0, 1e3),
            ("soft_threshold", "smooth_soft_threshold", "hardtanh"),
            (1, 6),
            (0.0, 1.0, 1e6),
        )
    ),
)
def test_every_layer_proves_its_gain_and_runs_what_it_certifies(lipschitz, sigma, iterations, size):
    torch.manual_seed(1)
    net = UnrolledISTA(
        3, 2, width=8, residuals=6, iterations=iterations, lipschitz=lipschitz, activation=sigma
    )
    net = net.double()
    with torch.no_grad():
        net.dictionary.mul_(size)
        net.input.mul_(size)
    certificate = net.certificate()
    assert lipctrl.check(certificate).ok
    assert certificate.gain <= lipschitz
    x = torch.randn(5, 3, dtype=torch.float64)
    np.testing.assert_allclose(
        certificate.evaluate(x.numpy()), net(x).detach().numpy(), rtol=1e-10, atol=1e-12 * lipschitz
    )
    torch.testing.assert_close(net.export()(x), net(x).detach())
    assert lipctrl.lipschitz_lower_bound(net, seed=0) <= certificate.gain


def test_float32_keeps_its_promise():
    net = UnrolledISTA(4, 1, width=16, iterations=10, lipschitz=2.0)
    assert net.certificate().gain <= 2.0 * (1 + 1e-3)


def test_many_iterations_solve_the_box_constrained_least_squares_problem():
    from scipy.optimize import lsq_linear

    torch.manual_seed(0)
    net = UnrolledISTA(3, 6, width=6, residuals=6, iterations=4000, activation="hardtanh").double()
    graph = net.fold()
    x = torch.randn(3, dtype=torch.float64)
    # The fixed point of w = clip(W w + U x) minimises ½wᵀ(I-W)w - wᵀUx over the box.
    hessian = (torch.eye(6, dtype=torch.float64) - graph.state).detach().numpy()
    drive = (graph.input @ x + graph.bias).detach().numpy()
    root = np.linalg.cholesky(hessian + 1e-15 * np.eye(6)).T
    expected = lsq_linear(root, np.linalg.solve(root.T, drive), bounds=(-1.0, 1.0), tol=1e-14).x
    found = np.linalg.lstsq(
        graph.output.detach().numpy(), (net(x) - graph.output_bias).detach().numpy(), rcond=None
    )[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_expansive_or_coupled_activations_are_refused():
    for sigma in ("abs", "groupsort", {"name": "leaky_relu", "slope": -0.5}):
        with pytest.raises(ValueError, match="proximal"):
            UnrolledISTA(2, 1, activation=sigma)
