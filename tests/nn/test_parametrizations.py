"""One table drives all parametrisations: proved, executable, exportable, never beaten by an attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack import attack
from cases import ACTIVATIONS, BLOCKS, DEGENERATE, deform

import lipctrl
from lipctrl.nn.resnet import TRUNKS

SLACK = {torch.float64: 1e-6, torch.float32: 1e-3}


def prove(module, lipschitz, dtype=torch.float64):
    """Check the certificate of a module, its size and that it describes the module."""
    certificate = module.certificate()
    report = lipctrl.check(certificate)
    assert report.ok, report
    assert report.gain <= lipschitz * (1.0 + SLACK[dtype])
    x = torch.randn(5, module.in_features, dtype=dtype)
    with torch.no_grad():
        y, exported = module(x), module.export()(x)
    scale = 1.0 + y.abs().max().item()
    tolerance = (1e-12 if dtype == torch.float64 else 3e-4) * scale
    assert np.abs(certificate.evaluate(x.numpy()) - y.numpy()).max() <= tolerance
    assert (exported - y).abs().max().item() <= tolerance
    return certificate


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_is_proved_for_every_activation(name, activation):
    torch.manual_seed(1)
    for inner_depth in (1, 2, 3):
        block = BLOCKS[name](3, 6, inner_depth, activation, 2.0).double()
        deform(block, "random")
        certificate = prove(block, 2.0)
        assert attack(block, 3, steps=6, starts=8) <= certificate.gain * (1.0 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_is_proved_for_degenerate_parameters(name, kind, dtype):
    torch.manual_seed(2)
    for inner_depth, activation in ((1, "relu"), (2, "tanh"), (3, "leaky_relu")):
        block = BLOCKS[name](4, 6, inner_depth, activation, 1.0).to(dtype)
        prove(deform(block, kind), 1.0, dtype)


@pytest.mark.parametrize("lipschitz", [1e-3, 0.1, 30.0, 1e3])
@pytest.mark.parametrize("name", BLOCKS)
def test_the_bound_holds_far_from_one(name, lipschitz):
    torch.manual_seed(3)
    block = BLOCKS[name](3, 8, 2, "relu", lipschitz).double()
    certificate = prove(block, lipschitz)
    assert attack(block, 3, steps=6, starts=8) <= certificate.gain * (1.0 + 1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 4), (5, 1, 2), (3, 7, 1), (2, 2, 17)])
@pytest.mark.parametrize("parametrization", TRUNKS)
def test_networks_of_every_shape(parametrization, shape):
    n, m, width = shape
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(4)
        net = lipctrl.LipschitzResNet(
            n, m, lipschitz=3.0, width=width, depth=2, parametrization=parametrization
        ).to(dtype)
        prove(net, 3.0, dtype)


@pytest.mark.parametrize("parametrization", TRUNKS)
def test_a_linear_network_is_certified_by_its_largest_singular_value(parametrization):
    torch.manual_seed(5)
    net = lipctrl.LipschitzResNet(
        4, 3, lipschitz=2.0, width=6, depth=3, parametrization=parametrization, activation="identity"
    ).double()
    certificate = net.certificate()
    assert lipctrl.check(certificate).ok
    jacobian = torch.func.jacrev(net)(torch.zeros(4, dtype=torch.float64))
    assert certificate.gain == pytest.approx(torch.linalg.matrix_norm(jacobian, 2).item(), rel=1e-9)


@pytest.mark.parametrize("parametrization", TRUNKS)
def test_outputs_take_both_signs(parametrization):
    torch.manual_seed(6)
    net = lipctrl.LipschitzResNet(3, 4, lipschitz=5.0, width=16, depth=2, parametrization=parametrization)
    y = net(3.0 * torch.randn(500, 3))
    assert y.min() < 0.0 < y.max()


def test_lossless_jacobians_lose_nothing():
    """With ReLU the Jacobian of v ↦ (e, t) has orthonormal columns: M's own singular values remain."""
    torch.manual_seed(7)
    block = lipctrl.nn.LosslessBlock(4, 4 + 3 * 5, width=5, inner_depth=3).double()
    # As many outputs as signals: M is square and orthogonal, nothing is discarded.
    jacobian = torch.func.jacrev(block)(torch.randn(4, dtype=torch.float64))
    values = torch.linalg.svdvals(jacobian)
    assert torch.allclose(values, torch.ones_like(values), atol=1e-6)


def test_a_deep_network_starts_alive():
    """The input gradient is of order L at depth 128, where a Sandwich network's underflows."""
    x = torch.randn(64, 2, requires_grad=True)
    norms = {}
    for parametrization in ("lossless", "sandwich"):
        torch.manual_seed(8)
        net = lipctrl.LipschitzResNet(2, 1, width=32, depth=128, parametrization=parametrization)
        (gradient,) = torch.autograd.grad(net(x).sum(), x)
        norms[parametrization] = gradient.norm(dim=-1).mean().item()
    assert norms["lossless"] > 0.05
    assert norms["sandwich"] < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_slack_does_not_grow_with_depth(dtype):
    torch.manual_seed(9)
    for depth in (16, 128):
        net = lipctrl.LipschitzResNet(4, 1, width=64, depth=depth, parametrization="lossless").to(dtype)
        report = lipctrl.check(net.certificate())
        assert report.ok
        assert report.gain <= 1.0 + SLACK[dtype]


def test_a_deep_dense_block_is_proved_by_one_inequality():
    torch.manual_seed(10)
    block = lipctrl.nn.LosslessBlock(2, 1, width=32, inner_depth=96, lipschitz=4.0).double()
    certificate = prove(block, 4.0)
    assert certificate.rule == "neurons"


def test_corrupted_numbers_are_never_proved_for_a_smaller_gain():
    """Shrinking the gain, or growing a weight, breaks the seal; without the seal the proof itself refuses."""
    import dataclasses

    torch.manual_seed(11)
    for name in BLOCKS:
        certificate = BLOCKS[name](3, 6, 1, "relu", 1.0).double().certificate()
        assert not lipctrl.check(
            dataclasses.replace(certificate, gain=certificate.gain / 2, digest="stale")
        ).ok
        leaf = next(n for n in certificate.nodes() if n.weights)
        key = next(k for k in leaf.weights if k.endswith(("from0", "weight")))
        weights = {k: (10.0 * v if k == key else v) for k, v in leaf.weights.items()}
        forged = dataclasses.replace(leaf, weights=weights, digest="")
        if name not in ("gershgorin", "gershgorin-scaled"):
            # Exact parametrisations have no room: the forged leaf must fail by its own numbers.
            assert not lipctrl.check(forged).ok, name
        assert not lipctrl.check(dataclasses.replace(leaf, weights=weights)).ok


def _random_module(rng):
    """Draw a block alone or a whole network with its default start, of any parametrisation, and its gain."""
    activation = ACTIVATIONS[rng.integers(len(ACTIVATIONS))]
    lipschitz = float(10.0 ** rng.uniform(-3, 3))
    inner_depth, width, size = int(rng.integers(1, 4)), 2 * int(rng.integers(1, 13)), int(rng.integers(1, 7))
    if rng.random() < 0.6:
        name = list(BLOCKS)[rng.integers(len(BLOCKS))]
        return BLOCKS[name](size, width, inner_depth, activation, lipschitz), lipschitz, (name, activation)
    name = list(TRUNKS)[rng.integers(len(TRUNKS))]
    trainable = bool(rng.random() < 0.3)
    net = lipctrl.LipschitzResNet(
        size,
        int(rng.integers(1, 5)),
        lipschitz=lipschitz,
        width=width,
        depth=int(rng.integers(1, 6)),
        inner_depth=inner_depth,
        parametrization=name,
        activation=activation,
        zero_at_origin=bool(rng.random() < 0.3),
        trainable_lipschitz=trainable,
        initial_factor=float(rng.uniform(0.01, 0.99)) if trainable else None,
    )
    return net, lipschitz, ("network", name, activation)


def _withstands(trial, rng):
    """Draw one network, prove it in its own precision, and attack what was proved."""
    torch.manual_seed(trial)
    module, lipschitz, case = _random_module(rng)
    dtype = torch.float32 if rng.random() < 0.4 else torch.float64
    kind = ("as built", *DEGENERATE)[rng.integers(len(DEGENERATE) + 1)]
    module = module.to(dtype)
    if kind != "as built":
        deform(module, kind, seed=trial)
    case = (trial, *case, lipschitz, dtype, kind)
    report = lipctrl.check(module.certificate())
    assert report.ok, (case, report)
    assert report.gain <= lipschitz * (1.0 + SLACK[dtype]), case
    # The claim concerns the real-arithmetic map of the stored weights: attack it in float64, whose rounding
    # of large biases is paid for by the last term.
    ratio = attack(module.export().double(), module.in_features, seed=trial, steps=3, starts=4)
    assert ratio <= report.gain + 1e-8 * lipschitz, case


def test_sixty_random_networks_are_proved_and_withstand_the_attack():
    rng = np.random.default_rng(1)
    for trial in range(60):
        _withstands(trial, rng)


@pytest.mark.slow
def test_two_thousand_random_networks_are_proved_and_withstand_the_attack():
    """All parametrisations, activations, both dtypes, L from 1e-3 to 1e3, degenerate weights: no violation."""
    rng = np.random.default_rng(0)
    for trial in range(2000):
        _withstands(trial, rng)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gershgorin", "gershgorin-scaled", "lossless"])
def test_two_hundred_instances_over_depth_width_slopes_and_gain(name):
    rng = np.random.default_rng(1)
    for trial in range(200):
        slope = float(rng.uniform(-1.0, 0.99))
        torch.manual_seed(trial)
        depth, width = int(rng.integers(1, 9)), int(rng.integers(1, 33))
        lipschitz = float(10.0 ** rng.uniform(-2, 2))
        net = lipctrl.LipschitzResNet(
            int(rng.integers(1, 6)),
            int(rng.integers(1, 4)),
            lipschitz=lipschitz,
            width=width,
            depth=depth,
            inner_depth=int(rng.integers(1, 4)),
            parametrization=name,
            activation={"name": "leaky_relu", "slope": slope},
        ).double()
        deform(net, "random", seed=trial)
        report = lipctrl.check(net.certificate())
        assert report.ok, (trial, report)
        assert report.gain <= lipschitz * (1.0 + 1e-6)
        assert attack(net, net.in_features, seed=trial, steps=5, starts=4) <= report.gain + 1e-8 * lipschitz


@pytest.mark.parametrize("name", [n for n in BLOCKS if n not in ("sandwich", "aol")])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu"])
def test_pruned_blocks_are_proved(name, activation):
    """Neurons that nothing reads have the multiplier zero, and exactly zero rows of N, curved slopes or not."""
    for seed in range(4):
        torch.manual_seed(seed)
        block = BLOCKS[name](2, 6, 2, activation, 0.5).double()
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.mul_(torch.rand_like(parameter) < 0.3)
        prove(block, 0.5)
