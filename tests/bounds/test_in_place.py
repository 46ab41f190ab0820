"""Networks that overwrite their values: what a trace shows is not what runs, unless nothing stale is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lipctrl
from lipctrl.bounds import UnsupportedOperationError


class _Net(nn.Module):
    """x ↦ after(h, g) with h = f(x), f and g linear."""

    def __init__(self, after) -> None:
        super().__init__()
        self.f, self.g = nn.Linear(2, 2), nn.Linear(2, 2)
        self.act = nn.LeakyReLU(-3.0, inplace=True)
        self.drop = nn.Dropout(0.5, inplace=True)
        self.after = after

    def forward(self, x):
        return self.after(self, self.f(x))


def _skip_over_an_overwritten_value(net, h):
    return net.act(h) + h


def _augmented_sum(net, h):
    kept = h
    h += net.g(h)
    return h + kept


def _view_before(net, h):
    part = h[..., :1]
    h *= 5.0
    return part


def _view_written(net, h):
    part = h[..., :1]
    part -= 5.0 * part
    return h


def _statement(net, h):
    h.mul_(3.0)
    return h


def _flagged_call(net, h):
    return F.leaky_relu(h, 0.1, True) + h


@pytest.mark.parametrize(
    "after",
    [
        _skip_over_an_overwritten_value,
        _augmented_sum,
        _view_before,
        _view_written,
        _statement,
        _flagged_call,
        lambda net, h: F.relu_(h) + h,
        lambda net, h: net.drop(h).add_(1.0) - h,
        lambda net, h: torch.cat([h, torch.relu_(h.view(-1, 2))], dim=-1),
    ],
)
def test_a_value_that_is_read_after_it_was_overwritten_is_refused(after):
    """fx takes `x += y` for `x + y`: the certificate would describe another map, whose gain may be less."""
    with pytest.raises(UnsupportedOperationError, match="written in place"):
        lipctrl.certify(_Net(after))


def _fresh(net, h):
    h = F.relu_(h)
    out = net.g(h)
    out += h
    out /= 2.0
    out -= 1.0
    out = out.mul_(3.0).sub_(0.5).div_(4.0)
    return net.act(net.drop(out))


def test_values_that_nobody_reads_again_may_be_overwritten():
    net = _Net(_fresh).double().eval()
    cert = lipctrl.certify(net)
    x = torch.randn(50, 2, dtype=torch.float64)
    np.testing.assert_allclose(
        cert.evaluate(x.numpy()), net(x.clone()).detach().numpy(), rtol=1e-12, atol=1e-12
    )
    assert lipctrl.check(cert).ok
