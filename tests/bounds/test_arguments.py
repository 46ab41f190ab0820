"""Calls are read with the arguments that they are given, in whatever order and form torch takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lipctrl
from lipctrl.bounds import UnsupportedOperationError
from tests.bounds.modules import called


def _images(net, x):
    return net.c(net.a(x).view(-1, 1, 6))


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: s.a(x).chunk(dim=1, chunks=2)[1],
        lambda s, x: s.a(x).split(dim=-1, split_size=4)[0],
        lambda s, x: torch.cat(torch.split(s.a(x), [4, 2], dim=1)[::-1], 1),
        lambda s, x: torch.cat(s.a(x).chunk(4, -1), -1),
        lambda s, x: F.prelu(s.a(x), weight=s.b.bias[:1]),
        lambda s, x: s.a(x) * torch.tensor([1, 0, 2, 0, 1, 1]) * (torch.arange(6) > 2),
        lambda s, x: torch.cat([_images(s, x).flatten(1, 1), -_images(s, x)], 1).flatten(1),
        lambda s, x: torch.flatten(_images(s, x).flatten(-1), start_dim=-2),
        lambda s, x: (_images(s, x) * torch.tensor(3.0)).flatten(start_dim=1, end_dim=2),
    ],
)
def test_arguments_are_read_by_their_names(forward):
    net = called(forward)
    cert = lipctrl.certify(net)
    x = torch.randn(20, 4, dtype=torch.float64)
    np.testing.assert_allclose(cert.evaluate(x.numpy()), net(x).detach().numpy(), atol=1e-12)
    assert lipctrl.check(cert).ok
    assert lipctrl.lipschitz_lower_bound(net) <= cert.gain


@pytest.mark.parametrize(
    ("forward", "word"),
    [
        # Flattened along one axis alone, a concatenation along the last one interleaves the numbers of samples.
        (lambda s, x: s.b(torch.cat([_images(s, x).flatten(-1)[..., :3]] * 2, -1).flatten(1)), "getitem"),
        (lambda s, x: torch.cat([_images(s, x).flatten(-1)] * 2, -1).flatten(1), "cat"),
        (lambda s, x: torch.cat([torch.flatten(_images(s, x), 1, 1)] * 2, -1).flatten(1), "cat"),
        (lambda s, x: _images(s, x).flatten(0, 1), "axes 0 to 1"),
        (lambda s, x: s.a(x) * torch.ones(3, 6), "shape"),
        (lambda s, x: _images(s, x) * torch.ones(2, 4), "constant tensor"),
        (lambda s, x: F.hardtanh(s.a(x), 2.0, -2.0), "hardtanh"),
        (lambda s, x: s.a(x).chunk(dim=1), "chunk"),
        (lambda s, x: s.a(x).chunk(2, 1)[2], "getitem"),
    ],
)
def test_arguments_without_a_rule_are_refused_with_the_call(forward, word):
    with pytest.raises(UnsupportedOperationError, match=word):
        lipctrl.certify(called(forward))


def test_a_part_of_the_input_does_not_tell_its_size():
    """Read as a map of two features, x ↦ A x₁₂ - A x₃₄ is zero; of four, its gain is √2 ‖A‖."""

    class Difference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.a(x[..., :2]) - self.a(x[..., -2:])

    net = Difference().double()
    with pytest.raises(UnsupportedOperationError, match="in_features"):
        lipctrl.certify(net)
    true = np.sqrt(2.0) * np.linalg.norm(net.a.weight.detach().numpy(), 2)
    assert lipctrl.certify(net, input_shape=(4,)).gain >= true * (1.0 - 1e-12)
    net.in_features = 4
    assert lipctrl.certify(net).gain >= true * (1.0 - 1e-12)
