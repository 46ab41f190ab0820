"""Modules, layers and files are read as they run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lipctrl
from lipctrl.bounds import UnsupportedOperationError, read_network
from tests.bounds.modules import Block, called


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(10, 4)
        self.register_buffer("k", torch.tensor([1.0, 2.0, -3.0, 0.1]))

    def forward(self, x):
        h = torch.cat([torch.tanh(self.a(x)), x], -1)
        u, v = self.b(h).chunk(2, -1)
        return torch.cat([v - 1.0, -u], dim=-1) / 2 + self.k * x[..., 0:4] - self.k


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_features = 4
        self.w = nn.Parameter(torch.randn(5, 4))
        self.v = nn.Parameter(torch.randn(5, 2))

    def forward(self, x):
        h = F.leaky_relu(F.linear(x, self.w), 0.2)
        h = F.dropout(h, 0.5, training=self.training)
        h = torch.add(h, F.softplus(h), alpha=0.5).sigmoid()
        return torch.flatten(h @ self.v, 1)


MODULES = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
    "resnet": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(4, 6), Block(6, 9), nn.SiLU(), Block(6, 9), nn.Linear(6, 2)
    ),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 8, bias=False), nn.GELU(), nn.Linear(8, 3, bias=False)),
    "dropout": lambda: nn.Sequential(
        nn.Linear(4, 8), nn.Dropout(0.9), nn.ELU(), nn.Identity(), nn.Linear(8, 3)
    ),
    "linear twice": lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Softsign(), nn.Linear(8, 3)),
    "branches": Branches,
    "functional": Functional,
    "activation last": lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
    "activation first": lambda: nn.Sequential(nn.Hardtanh(), nn.Linear(4, 3), nn.Softshrink(0.2)),
    "linear": lambda: nn.Linear(4, 2),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_read_as_it_runs(name):
    torch.manual_seed(3)
    net = MODULES[name]()
    cert = lipctrl.certify(net)
    assert lipctrl.check(cert).ok
    assert net.training
    x = torch.randn(64, cert.in_features, dtype=torch.float64)
    expected = net.double().eval()(x).detach().numpy()
    assert np.allclose(cert.evaluate(x.numpy()), expected, atol=1e-10, rtol=1e-10)
    assert lipctrl.lipschitz_lower_bound(net, seed=2) <= cert.gain
    product = lipctrl.certify(net.float(), "product")
    assert product.gain >= lipctrl.lipschitz_lower_bound(product)
    assert np.allclose(product.evaluate(x.numpy()), expected, atol=1e-5)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x)


class Cat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 3), nn.Parameter(torch.ones(1, 7))
        self.register_buffer("slope", torch.tensor([0.3]))

    def forward(self, x):
        h = torch.cat((F.relu6(self.a(x)), x.clamp(-0.5, 0.25)), dim=1)
        return torch.sub(h, self.c) * 0.5 + F.prelu(h, self.slope) + torch.clamp(h, min=0)


def _shared() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.ReLU(), layer)


def _normalised() -> nn.Module:
    net = nn.Sequential(
        nn.BatchNorm1d(4), nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 2)
    )
    for _ in range(5):
        net(3.0 * torch.randn(50, 4) + 1.0)
    return net.eval()


def _stale(normalise) -> nn.Module:
    """A weight whose stored copy is older than its parameters, as after a step of an optimiser."""
    net = nn.Sequential(normalise(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2))
    net(torch.randn(3, 4))
    with torch.no_grad():
        for p in net[0].parameters():
            p.mul_(1.7)
    return net.eval()


MATRIX = {
    "shared weights": _shared,
    "batch norm": _normalised,
    "subclassed linear": lambda: nn.Sequential(Scaled(4, 3), nn.ReLU(), nn.Linear(3, 2)),
    "old weight norm": lambda: _stale(nn.utils.weight_norm),
    "old spectral norm": lambda: _stale(nn.utils.spectral_norm),
    "weight norm": lambda: _stale(nn.utils.parametrizations.weight_norm),
    "spectral norm": lambda: _stale(nn.utils.parametrizations.spectral_norm),
    "orthogonal": lambda: nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.ReLU()),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(4, 3)), nn.Identity()), nn.Tanh()),
    "functional": Cat,
    "prelu": lambda: nn.Sequential(nn.Linear(4, 3), nn.PReLU(3, 0.4), nn.Linear(3, 2)),
    "prelu steep": lambda: nn.Sequential(nn.PReLU(init=-1.5), nn.Linear(4, 2)),
    "relu6": lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU6(), nn.Hardtanh(-0.5, 2.0), nn.Linear(3, 2)),
    "elu": lambda: nn.Sequential(nn.Linear(4, 3), nn.ELU(2.5), nn.ELU(0.25), nn.Linear(3, 2)),
    "log sigmoid": lambda: nn.Sequential(nn.Linear(4, 3), nn.LogSigmoid(), nn.Tanhshrink(), nn.Linear(3, 2)),
    "float64": lambda: nn.Sequential(nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 2)).double(),
    "half": lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).half(),
    "leaky": lambda: nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(1.5), nn.LeakyReLU(-0.2), nn.Linear(3, 2)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:.*deprecated.*:FutureWarning")
@pytest.mark.parametrize("name", MATRIX)
def test_what_other_people_bring_is_read_as_it_runs(name):
    torch.manual_seed(0)
    net = MATRIX[name]()
    training = [part.training for part in net.modules()]
    certs = [lipctrl.certify(net, method) for method in ("lipsdp", "eclipse-fast", "product")]
    certs.append(lipctrl.certify(net, region=(-0.5, 0.75)))
    assert [part.training for part in net.modules()] == training
    x = torch.randn(64, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = net.eval().double()(x).numpy()
    for cert in certs:
        assert lipctrl.check(cert).ok
        assert np.allclose(cert.evaluate(x.numpy()), expected, atol=1e-6, rtol=1e-6)
        assert lipctrl.lipschitz_lower_bound(cert, region=cert.region) <= cert.gain


def test_convolutions_are_certified_when_their_input_has_a_shape():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.PReLU(3), nn.Flatten(), nn.Linear(6, 2)),
    )
    net(torch.randn(20, 2, 8, 4))
    net.eval()
    cert = lipctrl.certify(net, input_shape=(2, 8, 4))
    assert lipctrl.check(cert).ok
    x = torch.randn(9, 2, 8, 4, dtype=torch.float64)
    with torch.no_grad():
        assert np.allclose(cert.evaluate(x.reshape(9, -1).numpy()), net.double()(x).numpy(), atol=1e-6)
    assert lipctrl.lipschitz_lower_bound(cert) <= cert.gain
    line = nn.Sequential(nn.Conv1d(1, 2, 3, groups=1, dilation=2), nn.Tanh(), nn.Conv1d(2, 1, 2, bias=False))
    cert = lipctrl.certify(line, "product", input_shape=(1, 9))
    x = torch.randn(5, 1, 9, dtype=torch.float64)
    with torch.no_grad():
        assert np.allclose(cert.evaluate(x[:, 0].numpy()), line.double()(x).flatten(1).numpy(), atol=1e-6)


def test_lipctrl_networks_bring_their_own_certificate_or_are_bounded_anew():
    torch.manual_seed(0)
    net = lipctrl.LipschitzResNet(3, 2, lipschitz=2.0, width=8, depth=2)
    assert lipctrl.certify(net).digest == net.certificate().digest
    for method in ("product", "eclipse-fast", "lipsdp"):
        cert = lipctrl.certify(net.export(), method)
        assert lipctrl.check(cert).ok
        assert cert.gain >= lipctrl.lipschitz_lower_bound(net)
    assert cert.gain <= net.certificate().gain * (1 + 1e-5)
    x = torch.randn(16, 3)
    assert np.allclose(cert.evaluate(x.numpy()), net(x).detach().numpy(), atol=1e-5)
    assert lipctrl.certify(net, region=(-0.1, 0.1)).gain <= 2.0 * (1 + 1e-5)


def test_layers_and_safetensors_agree_with_torch(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = nn.Sequential(*(m for i in range(11) for m in (nn.Linear(3, 3), nn.Tanh()))).append(nn.Linear(3, 2))
    save_file(net.state_dict(), tmp_path / "n.safetensors")
    cert = lipctrl.certify(tmp_path / "n.safetensors", "eclipse-fast", activation="tanh")
    x = torch.randn(9, 3, dtype=torch.float64)
    assert np.allclose(cert.evaluate(x.numpy()), net.double()(x).detach().numpy(), atol=1e-12)
    save_file({"conv.weight": torch.zeros(2, 2, 3)}, tmp_path / "bad.safetensors")
    with pytest.raises(UnsupportedOperationError, match=r"conv\.weight"):
        lipctrl.certify(tmp_path / "bad.safetensors", activation="relu")
    with pytest.raises(ValueError, match=r"\.onnx"):
        lipctrl.certify(tmp_path / "n.pickle")


def test_neutral_networks_report_their_size():
    net = read_network([np.ones((5, 3)), np.ones((4, 5)), np.ones((2, 4))], "relu")
    assert (net.in_features, net.out_features, net.neurons) == (3, 2, 9)


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: s.b(F.relu(s.a(x.view(x.size(0), -1)))),
        lambda s, x: s.b(F.relu(s.a(x)).reshape(x.shape[0], 6)),
        lambda s, x: s.b(torch.reshape(F.relu(s.a(x)), (-1, 6))) * x.shape[-1],
        lambda s, x: s.b(s.c(s.a(x).view(x.size(0), 1, 6)).view(x.size(0), -1)[:, 0:6]),
        lambda s, x: s.b(F.selu(s.a(x))),
        lambda s, x: s.b(F.celu(s.a(x), 0.7)),
        lambda s, x: s.b(F.softplus(s.a(x), beta=3.0)),
        lambda s, x: s.b(F.logsigmoid(s.a(x)) + F.tanhshrink(s.a(x))),
        lambda s, x: s.b(s.a(x).clamp(min=0.3)),
        lambda s, x: (lambda v: s.b(v * torch.sigmoid(v) + torch.sigmoid(v) * v))(s.a(x)),
        lambda s, x: s.b(torch.clamp_max(s.a(x), 0.3)),
    ],
)
def test_reshapes_and_composed_activations_are_read_as_they_run(forward):
    net = called(forward)
    certificate = lipctrl.certify(net)
    x = torch.randn(20, 4, dtype=torch.float64)
    assert np.allclose(certificate.evaluate(x.numpy()), net(x).detach().numpy(), atol=1e-12)
    assert lipctrl.check(certificate).ok
    assert lipctrl.lipschitz_lower_bound(net) <= certificate.gain


def test_steep_prelus_keep_their_slope_of_one():
    """1 - a of a large slope a is no float64 number: the positive side must not lose its 1 to it."""
    net = nn.Sequential(nn.Identity(), nn.PReLU(2), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([-(2.0**60), 2.0**-40]))
        net[2].weight.copy_(torch.eye(2))
    given = read_network(net)
    maps = [w for layer in (*given.layers, given.output) for w in layer.sources.values()]
    assert set(np.concatenate([np.asarray(w).ravel() for w in maps])) <= {
        0.0,
        1.0,
        -(2.0**60),
        2.0**60,
        2.0**-40,
        -(2.0**-40),
    }


def test_a_value_plus_a_part_of_itself_is_read_exactly():
    """1 + 0.1 is no float64 number, so the sum stays a sum of layers."""
    net = called(lambda self, x: 0.7 * (self.a(x) + 0.1 * self.a(x)) + (0.1 * self.a(x) + self.a(x)))
    cert = lipctrl.certify(net)
    assert lipctrl.check(cert).ok
    x = np.random.default_rng(0).normal(size=(20, 4))
    expected = net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(cert.evaluate(x), expected, rtol=1e-12)


def test_integers_that_float64_would_round_are_refused():
    with pytest.raises(ValueError, match=r"2\*\*53"):
        lipctrl.certify([np.array([[2**53 + 1]])])


class Limited(nn.Module):
    """Commands within limits of their own, as exported policies are."""

    def __init__(self, lower, upper) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)

    def forward(self, x):
        return torch.clamp(self.inner(x), self.lower, self.upper)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        (torch.tensor([-0.3, -1.0, -0.3, 0.1]), torch.tensor([0.2, 1.0, 0.2, 0.3])),
        (torch.tensor(-0.5), torch.tensor([0.5])),
        (torch.tensor([-0.3, -1.0, -0.3, 0.1]), None),
        (None, torch.tensor([-0.3, -1.0, -0.3, 0.1])),
    ],
)
def test_clamps_between_tensors_are_read_as_they_run(lower, upper):
    torch.manual_seed(0)
    net = Limited(lower, upper)
    cert = lipctrl.certify(net)
    x = torch.randn(200, 3)
    assert np.allclose(cert.evaluate(x.numpy()), net(x).detach().numpy(), atol=1e-6)
    assert lipctrl.check(cert).ok
    norm = np.linalg.norm(net.inner.weight.detach().double().numpy(), 2)
    assert lipctrl.lipschitz_lower_bound(net) <= cert.gain < norm * 1.01


def test_an_exported_policy_with_limits_is_certified_no_looser_than_built():
    torch.manual_seed(0)
    inner = lipctrl.LipschitzResNet(3, 2, width=8, depth=2)
    policy = lipctrl.ResidualPolicy(np.ones((2, 3)), inner, action_limits=([-1.0, -2.0], [3.0, 0.5]))
    cert = lipctrl.certify(policy.export())
    x = 3.0 * torch.randn(100, 3)
    assert np.allclose(cert.evaluate(x.numpy()), policy(x).detach().numpy(), atol=1e-5)
    assert cert.gain <= policy.certificate().gain


class Between(nn.Module):
    def forward(self, x):
        return torch.clamp(x, min=-x)


def test_a_clamp_at_a_value_is_refused():
    with pytest.raises(UnsupportedOperationError, match="clamp"):
        lipctrl.certify(nn.Sequential(nn.Linear(2, 2), Between()))
    with pytest.raises(ValueError, match="lower limit above"):
        lipctrl.certify(Limited(torch.tensor(1.0), torch.tensor([0.0, 2.0, 2.0, 2.0])))
