"""Defects measured in published code, each reproduced as a test that ours must pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack import attack

import lipctrl
from lipctrl import nn
from lipctrl.nn.orthogonal import Semiorthogonal, cayley
from lipctrl.nn.resnet import TRUNKS


@pytest.mark.parametrize("parametrization", TRUNKS)
def test_output_through_relu(parametrization):
    """A last layer inside a ReLU can only push one way: the output must reach negative values by training."""
    torch.manual_seed(0)
    net = lipctrl.LipschitzResNet(1, 1, lipschitz=2.0, width=8, depth=1, parametrization=parametrization)
    x = torch.linspace(-1.0, 1.0, 32)[:, None]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (net(x) + 1.5).square().mean().backward()
        optimizer.step()
    assert net(x).max().item() < -1.0


@pytest.mark.parametrize("parametrization", TRUNKS)
def test_dividing_by_the_gain(parametrization):
    """A peer asked for 0.1 and got 7.18: the attained slope must follow L down and up."""
    for lipschitz in (0.1, 10.0):
        torch.manual_seed(1)
        net = lipctrl.LipschitzResNet(
            2, 2, lipschitz=lipschitz, width=8, depth=2, parametrization=parametrization
        ).double()
        assert attack(net, 2, steps=5, starts=4) <= lipschitz * (1.0 + 1e-9)


def test_gain_is_used_and_not_only_respected():
    """Dividing where one should multiply leaves a bound that holds and is never reached."""
    for lipschitz in (0.1, 10.0):
        torch.manual_seed(2)
        net = lipctrl.LipschitzResNet(1, 1, lipschitz=lipschitz, width=16, depth=2)
        x = torch.linspace(-1.0, 1.0, 64)[:, None]
        target = 5.0 * lipschitz * x
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(300):
            optimizer.zero_grad()
            ((net(x) - target) / lipschitz).square().mean().backward()
            optimizer.step()
        assert attack(net.double(), 1, steps=5, starts=8) > 0.97 * lipschitz


@pytest.mark.parametrize("kind", ["zero", "huge", "rank one"])
def test_cholesky_that_clips_eigenvalues(kind):
    """LDLᵀ never needs a repair: its pivots are bounded below for all parameters, degenerate ones included."""
    from cases import deform

    for inner_depth in (2, 3, 4):
        block = nn.LDLTBlock(4, 3, width=6, inner_depth=inner_depth).double()
        deform(block, kind)
        with torch.no_grad():
            corner, coupling, current = block._schur(block._inner(block.first.matrix()))
        schur = torch.cat(
            (torch.cat((corner, -coupling), -1), torch.cat((-coupling.mT, current.expand(1, -1, -1)), -1)), -2
        )
        assert torch.linalg.eigvalsh(schur).min().item() > 1e-6
        assert lipctrl.check(block.certificate()).ok


def test_cached_weights_that_survive_load_state_dict():
    """The proof and the evaluation follow the loaded parameters, also after an evaluation had cached a fold."""
    torch.manual_seed(3)
    net, other = (lipctrl.LipschitzResNet(2, 1, width=6, depth=1).double() for _ in range(2))
    x = torch.randn(9, 2, dtype=torch.float64)
    with torch.no_grad():
        net(x)
        net.load_state_dict(other.state_dict())
        assert torch.equal(net(x), other(x))
    assert net.certificate().digest == other.certificate().digest


def test_epsilon_in_sll():
    """An epsilon added to T breaks or loosens the bound of tiny weights (3.6 instead of 1 measured)."""
    for scale in (1e-20, 1e-8, 1e-3, 1.0, 1e3, 1e8):
        torch.manual_seed(4)
        block = nn.SLLBlock(4, 4, width=6).double()
        with torch.no_grad():
            block.weight.mul_(scale)
        report = lipctrl.check(block.certificate())
        assert report.ok
        assert report.gain <= 1.0 + 1e-9
        assert attack(block, 4, steps=5, starts=4) <= 1.0 + 1e-9


@pytest.mark.parametrize("name", ["lossless", "gershgorin-scaled", "ldlt", "sandwich", "sll"])
def test_square_roots_of_the_gain(name):
    """L and not √L or L²: the certified gain scales exactly with the requested one."""
    from cases import BLOCKS

    gains = []
    for lipschitz in (1.0, 49.0):
        torch.manual_seed(5)
        gains.append(BLOCKS[name](3, 6, 1, "relu", lipschitz).double().certificate().gain)
    assert gains[1] / gains[0] == pytest.approx(49.0, rel=1e-6)


def test_zero_columns_in_aol():
    """A zero column gives finite values, gradients and a proof, not NaN."""
    torch.manual_seed(6)
    layer = nn.AOLLayer(4, 5)
    with torch.no_grad():
        layer.weight[:, 1] = 0.0
    x = torch.randn(3, 4)
    layer(x).sum().backward()
    assert torch.isfinite(layer(x)).all()
    assert torch.isfinite(layer.weight.grad).all()
    assert lipctrl.check(layer.certificate()).ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iterative_orthogonalisation_that_drifts(dtype):
    """Björck iterations drift to 1.386 on hard inputs; the Cayley map is a contraction for every matrix."""
    generator = torch.Generator().manual_seed(7)
    for size in (1e-20, 1e-3, 1.0, 1e3, 1e15):
        for rank in (1, 8):
            factor = Semiorthogonal(8, 12).to(dtype)
            left = torch.randn(12, rank, generator=generator, dtype=dtype)
            with torch.no_grad():
                factor.weight.copy_(size * left @ torch.randn(rank, 8, generator=generator, dtype=dtype))
                factor.alpha.fill_(size)
            q = factor.matrix().detach().double()
            assert torch.linalg.matrix_norm(q, 2).item() <= 1.0
    plain = cayley(torch.randn(12, 8, generator=generator, dtype=dtype)).detach().double()
    gram = plain.mT @ plain
    assert torch.allclose(
        gram, torch.eye(8, dtype=torch.float64), atol=1e-4 if dtype == torch.float32 else 1e-12
    )


def test_power_iteration_in_training():
    """Spectral normalisation by power iteration is at 1.24 in mid-training; ours is below L after every step."""
    torch.manual_seed(8)
    net = lipctrl.LipschitzResNet(2, 1, lipschitz=1.0, width=12, depth=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.3)
    x = torch.randn(64, 2)
    for _ in range(12):
        optimizer.zero_grad()
        (net(x) - 50.0 * x[:, :1]).square().mean().backward()
        optimizer.step()
        report = lipctrl.check(net.certificate())
        assert report.ok
        assert report.gain <= 1.0


def test_heads_that_are_not_contractions():
    """A 1-Lipschitz trunk under a head of norm 1.8: the head is inside the certificate, and bounded."""
    for out_features in (1, 3, 40):
        torch.manual_seed(9)
        net = lipctrl.LipschitzResNet(3, out_features, width=8, depth=1).double()
        with torch.no_grad():
            net.head.weight.mul_(100.0)
            net.head.alpha.mul_(100.0)
        certificate = net.certificate()
        assert certificate.out_features == out_features
        assert lipctrl.check(certificate).gain <= 1.0
        assert attack(net, 3, steps=5, starts=4) <= 1.0


def test_observation_scales_are_part_of_the_gain():
    """A normaliser left out of the bound hides a factor: the certificate of a policy counts it."""
    torch.manual_seed(10)
    network = lipctrl.LipschitzResNet(2, 1, lipschitz=1.0, width=8, depth=1).double()
    policy = lipctrl.LipschitzPolicy(network, observation_scale=[0.1, 10.0])
    certificate = policy.certificate()
    assert certificate.gain == pytest.approx(10.0 * network.certificate().gain)
    y = np.random.default_rng(0).standard_normal((5, 2))
    with torch.no_grad():
        assert np.abs(certificate.evaluate(y) - policy(torch.from_numpy(y)).numpy()).max() < 1e-12
