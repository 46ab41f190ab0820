"""What a network runs is the activation that its certificate names, parameters included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lipctrl
from lipctrl.activations import _FAMILIES, _PLAIN, activation
from lipctrl.nn import LipschitzResNet
from lipctrl.nn.activations import _MODULES, activation_module

SPECS = [
    *({"name": "elu", "alpha": a} for a in (0.25, 1.0, 2.5)),
    *({"name": "leaky_relu", "slope": a} for a in (-0.5, 1.5)),
    *({"name": "clip", "lower": a, "upper": b} for a, b in ((-0.5, 2.0), (0.1, 0.1))),
    *({"name": "soft_threshold", "threshold": t} for t in (0.0, 0.3)),
    {"name": "smooth_soft_threshold", "threshold": 0.5, "smoothing": 0.2},
    {"name": "averaged", "activation": {"name": "elu", "alpha": 2.5}},
    {"name": "averaged", "activation": {"name": "leaky_relu", "slope": -0.5}},
]


def test_every_activation_has_a_twin():
    assert _MODULES.keys() == _PLAIN.keys() | _FAMILIES.keys()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_parameters_reach_the_network(spec):
    v = torch.linspace(-30.0, 30.0, 601, dtype=torch.float64)
    assert np.abs(activation_module(spec)(v).numpy() - activation(spec).value(v.numpy())).max() < 1e-13
    torch.manual_seed(0)
    net = LipschitzResNet(2, 2, width=4, activation=spec).double()
    cert, x = net.certificate(), 5.0 * torch.randn(40, 2, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(cert.evaluate(x.numpy()), net(x).numpy(), atol=1e-12)
        np.testing.assert_allclose(
            lipctrl.certify(net.export(), "product").evaluate(x.numpy()), net(x).numpy(), atol=1e-12
        )
