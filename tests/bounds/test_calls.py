"""A network is read as its next call runs it: stale copies of weights, calls of its class, changes of its own state."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import lipctrl
from lipctrl.bounds import UnsupportedOperationError


class Own(nn.Module):
    """A layer with a weight of its own."""

    in_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return F.linear(x, self.weight)


class Steep(nn.Linear):
    def __call__(self, x):
        return 7.0 * super().__call__(x)


class Defaulted(nn.Linear):
    def forward(self, x, deterministic=True):
        return super().forward(x)


def _stretched(net: nn.Module) -> nn.Module:
    """Change the parameters as an optimiser does: what hooks computed from them is stale until the next call."""
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3.0)
    return net


def _behind(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), layer, nn.Tanh(), nn.Linear(4, 2))


NETWORKS = {
    "weight norm of the whole": lambda: nn.utils.weight_norm(nn.Linear(4, 3)),
    "spectral norm of the whole": lambda: nn.utils.spectral_norm(nn.Linear(4, 3)),
    "weight norm of the whole, of one's own class": lambda: nn.utils.weight_norm(Own()),
    "weight norm of one's own class": lambda: _behind(nn.utils.weight_norm(Own())),
    "weight norm of a bias": lambda: _behind(nn.utils.weight_norm(nn.Linear(4, 4), "bias", dim=None)),
    "weight norm of a batch norm": lambda: _behind(nn.utils.weight_norm(nn.BatchNorm1d(4), dim=None)),
    "weight norm of a prelu": lambda: _behind(nn.utils.weight_norm(nn.PReLU(4, 2.0), dim=None)),
    "pruned": lambda: _behind(prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)),
    "pruned of one's own class": lambda: _behind(prune.random_unstructured(Own(), "weight", 0.5)),
    "parametrised whole": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "a call of its own": lambda: Steep(4, 3),
    "a call with a default": lambda: Defaulted(4, 3),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_read_as_its_next_call_runs_it(name):
    torch.manual_seed(0)
    net = _stretched(NETWORKS[name]().double().eval())
    cert = lipctrl.certify(net, region=(-1.0, 1.0))
    copy.deepcopy(net.state_dict())
    x = torch.rand(50, 4, dtype=torch.float64) * 2.0 - 1.0
    with torch.no_grad():
        np.testing.assert_allclose(cert.evaluate(x.numpy()), net(x).numpy(), rtol=1e-12, atol=1e-12)
    assert lipctrl.lipschitz_lower_bound(cert, region=(-1.0, 1.0)) <= cert.gain
    assert not any(isinstance(v, torch.fx.Proxy) for part in net.modules() for v in vars(part).values())


class Stateful(nn.Module):
    def __init__(self, step) -> None:
        super().__init__()
        self.a, self.drop, self.times = nn.Linear(2, 2), nn.Dropout(0.5), 1.0
        self.state = torch.ones(2)
        self.register_buffer("count", torch.ones(1))
        self.step = step

    def forward(self, x):
        return self.step(self, self.a(x))


def _counts(net, h):
    net.times += 1.0
    return h * net.times


def _counts_in_a_buffer(net, h):
    net.count += 1.0
    return h * net.count


def _remembers(net, h):
    h = h + net.state
    net.state = h
    return h


def _drops(net, h):
    net.drop.train()
    return net.drop(h)


@pytest.mark.parametrize(
    ("step", "word"),
    [
        (_counts, "every call"),
        (_counts_in_a_buffer, "every call"),
        (lambda net, h: h * torch.rand(1), "every call"),
        (lambda net, h: net.count.mul_(h), "calls before"),
        (_remembers, "calls before"),
        (_drops, "Dropout"),
    ],
)
def test_a_network_that_is_another_one_at_the_next_call_is_refused(step, word):
    with pytest.raises(UnsupportedOperationError, match=word):
        lipctrl.certify(Stateful(step))


def _looks(net, h):
    net.seen = h
    return h


def test_a_network_that_keeps_what_it_saw_is_left_as_it_was():
    net = Stateful(_looks)
    assert lipctrl.check(lipctrl.certify(net)).ok
    assert not hasattr(net, "seen")


def test_hooks_of_all_modules_are_refused():
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, y: 3.0 * y)
    try:
        with pytest.raises(UnsupportedOperationError, match="all modules"):
            lipctrl.certify(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    finally:
        handle.remove()


def test_methods_of_others_that_bear_our_names_are_not_ours():
    class Shipped(nn.Linear):
        def export(self):
            return nn.Linear(4, 3)

        def forward(self, x):
            return 5.0 * super().forward(x)

    net = Shipped(4, 3)
    assert lipctrl.certify(net).gain >= lipctrl.certify([5.0 * net.weight.detach().numpy()]).gain * (1 - 1e-9)
    assert lipctrl.lipschitz_lower_bound(net) > 0.99 * lipctrl.certify(net).gain
    proved = lipctrl.certify([np.eye(2)])
    forged = dataclasses.replace(proved, gain=0.5, digest="")
    assert lipctrl.certify(proved) is proved
    net.certificate = lambda: forged
    for source in (forged, net):
        with pytest.raises(lipctrl.NotProvedError, match="does not check"):
            lipctrl.certify(source)


def test_networks_of_lipctrl_are_parts_of_others():
    torch.manual_seed(0)
    inner = lipctrl.nn.Concat(
        lipctrl.nn.LosslessBlock(4, 2, width=4), lipctrl.nn.OrthogonalLinear(4, 3, lipschitz=2.0)
    )
    net = nn.Sequential(nn.Linear(4, 4), inner, nn.Tanh(), lipctrl.LipschitzResNet(5, 2, width=4)).double()
    cert, x = lipctrl.certify(net), torch.randn(20, 4, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(cert.evaluate(x.numpy()), net(x).numpy(), atol=1e-12)
    assert lipctrl.lipschitz_lower_bound(net) <= cert.gain
    inner.register_forward_hook(lambda m, args, y: 3.0 * y)
    with pytest.raises(ValueError, match="hook"):
        lipctrl.certify(net)
