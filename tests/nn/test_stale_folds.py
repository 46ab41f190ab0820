"""What runs without gradients is what is certified, however the network was changed before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lipctrl
from lipctrl.nn import Feedback, LipschitzResNet, LosslessBlock, Scale, Sequential


def _mirrored(net):
    """Sums of bit patterns do not see the order of entries."""
    for p in net.parameters():
        p.data.copy_(p.data.flip(0))


def _negated(net):
    for p in net.parameters():
        p.data.neg_()


def _lowered(net):
    for part in net.modules():
        if isinstance(part, LosslessBlock | LipschitzResNet):
            part.lipschitz = 0.25


def _scaled(net):
    for part in net.modules():
        if isinstance(part, Scale):
            part.factor = 0.01


@pytest.mark.parametrize("change", [_mirrored, _negated, _lowered, _scaled])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_change_that_leaves_no_trace_in_versions_is_seen(change, dtype):
    torch.manual_seed(0)
    loop = Scale(LosslessBlock(2, 2, width=4), 0.1)
    net = Sequential(
        LipschitzResNet(3, 2, lipschitz=4.0, width=8, depth=2),
        Feedback(loop, Scale(LosslessBlock(2, 2, width=6), 2.0)),
    )
    net = net.to(dtype)
    x = torch.randn(50, 3, dtype=dtype)
    with torch.no_grad():
        before = net(x)
        change(net)
        after = net(x)
    cert = net.certificate()
    assert not torch.equal(before, after)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    np.testing.assert_allclose(cert.evaluate(x.numpy()), after.numpy(), rtol=tolerance, atol=tolerance)
    assert lipctrl.lipschitz_lower_bound(net) <= cert.gain
