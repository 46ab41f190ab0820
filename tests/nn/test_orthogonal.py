"""The fused Cayley map against its plain definition: values, derivatives, extremes, and transforms."""

from __future__ import annotations

import pytest
import torch

import lipctrl
from lipctrl.nn import lossless, orthogonal
from lipctrl.nn.orthogonal import Semiorthogonal, matrices


@pytest.fixture
def plain(monkeypatch):
    """Call a function with the plain operations instead of the fused ones."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(orthogonal, "composed", lambda: True)
            patch.setattr(lossless, "composed", lambda: True)
            return function()

    return call


def gradients(outputs, parameters):
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, parameters, weights)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 5), (3, 7), (7, 3), (60, 60), (40, 70)])
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
@pytest.mark.parametrize("small", [0, orthogonal.SMALL])
def test_fused_matrices_are_the_defined_ones(plain, monkeypatch, shape, batch, small):
    """Values and first derivatives agree, for single matrices, batches, and blockwise inverses, in torch and numpy."""
    monkeypatch.setattr(orthogonal, "SMALL", small)
    torch.manual_seed(0)
    factors = [Semiorthogonal(*shape, batch=batch).double() for _ in range(2)]
    parameters = [p for f in factors for p in f.parameters()]
    fused, reference = matrices(*factors), plain(lambda: matrices(*factors))
    for y, z in zip(fused, reference, strict=True):
        assert y.shape == z.shape == (*batch, *shape)
        assert torch.allclose(y, z, rtol=0.0, atol=1e-13)
    for g, h in zip(gradients(fused, parameters), gradients(reference, parameters), strict=True):
        assert torch.allclose(g, h, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("limit", range(0, 9000, 500))
def test_every_limit_of_small_batches_gives_the_same_matrices(plain, monkeypatch, limit):
    monkeypatch.setattr(orthogonal, "SMALL", limit)
    torch.manual_seed(4)
    cases = [((25, 5), ()), ((25, 50), ()), ((25, 25), (2, 4)), ((3, 25), ())]
    factors = [Semiorthogonal(*shape, batch=batch).double() for shape, batch in cases]
    for y, z in zip(matrices(*factors), plain(lambda: matrices(*factors)), strict=True):
        assert torch.allclose(y, z, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_padded_into_one_batch_are_the_defined_ones(plain, dtype):
    torch.manual_seed(3)
    shapes = [(5, 16), (16, 3), (16, 32), (1, 16), (16, 16)]
    factors = [Semiorthogonal(*s, batch=(2,) if s == (16, 32) else ()).to(dtype) for s in shapes]
    assert len(orthogonal._batches(factors)) == 1
    parameters = [p for f in factors for p in f.parameters()]
    fused, reference = matrices(*factors), plain(lambda: matrices(*factors))
    unit = torch.finfo(dtype).eps
    for y, z in zip(fused, reference, strict=True):
        assert torch.allclose(y, z, rtol=0.0, atol=100.0 * unit)
    for g, h in zip(gradients(fused, parameters), gradients(reference, parameters), strict=True):
        assert torch.allclose(g, h, rtol=1e4 * unit, atol=1e3 * unit)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_small_factors_of_extreme_size_take_the_safe_way(plain, size):
    factor = Semiorthogonal(4, 9)
    with torch.no_grad():
        factor.weight.mul_(size)
    (q,), (z,) = matrices(factor), plain(lambda: matrices(factor))
    assert torch.equal(q, z)
    weight, alpha = torch.autograd.grad(q.sum(), list(factor.parameters()))
    assert torch.isfinite(weight).all()
    assert torch.isfinite(alpha).all()


@pytest.mark.parametrize("options", [{}, {"inner_depth": 2}, {"activation": "tanh"}])
def test_fused_folds_are_the_defined_ones(plain, options):
    torch.manual_seed(1)
    net = lipctrl.LipschitzResNet(3, 2, lipschitz=3.0, width=8, depth=3, **options).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    parameters = list(net.parameters())
    y, z = net(x), plain(lambda: net(x))
    assert torch.allclose(y, z, rtol=0.0, atol=1e-13)
    for g, h in zip(gradients([y], parameters), gradients([z], parameters), strict=True):
        assert torch.allclose(g, h, rtol=1e-10, atol=1e-12)


def test_derivatives_of_second_order():
    """`create_graph=True` falls back to plain operations: gradients of gradients are right, not zero."""
    torch.manual_seed(2)
    factor = Semiorthogonal(2, 4, batch=(3,)).double()
    net = lipctrl.LipschitzResNet(2, 1, width=2, depth=2).double()
    x = torch.randn(4, 2, dtype=torch.float64)

    def penalty(weight, alpha):
        (q,) = orthogonal._Contractions.apply(weight, alpha)
        return q

    def penalty_in_numpy(weight, alpha):
        (q,) = orthogonal._Small.apply((True,), weight, alpha)
        return q

    for function in (penalty, penalty_in_numpy):
        assert torch.autograd.gradcheck(function, tuple(factor.parameters()))
        assert torch.autograd.gradgradcheck(function, tuple(factor.parameters()))
    weights = net.trunk.first.weight

    def slope(w):
        return torch.func.functional_call(net, {"trunk.first.weight": w}, x).square().sum()

    (g,) = torch.autograd.grad(slope(weights), weights, create_graph=True)
    direction = torch.randn_like(g)
    (product,) = torch.autograd.grad((g * direction).sum(), weights)
    step = 1e-6
    ahead, behind = (torch.autograd.grad(slope(weights + s * direction), weights)[0] for s in (step, -step))
    assert torch.allclose(product, (ahead - behind) / (2.0 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0, 8.0, 100.0, 1e6])
def test_large_batches_are_contractions_at_every_scale(dtype, alpha):
    """Blockwise inverses without pivoting serve tame matrices only, and stay within the rounding paid for."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        factor = Semiorthogonal(48, 96, batch=(5,)).to(dtype)
        with torch.no_grad():
            noise = torch.randn(factor.weight.shape, generator=generator, dtype=torch.float64)
            # A dominant skew part, a dominant square, and everything at once.
            noise[:2, 48:] *= 1e-3
            noise[2:4, :48] *= 1e-3
            factor.weight.copy_(noise)
            factor.alpha.fill_(alpha)
        q = factor.matrix().detach().double()
        values = torch.linalg.svdvals(q)
        assert values.max().item() <= 1.0
        if alpha <= 8.0:
            assert values.min().item() >= 1.0 - (1e-4 if dtype == torch.float32 else 1e-12)


def test_gradients_of_zero_weights_are_finite():
    factor = Semiorthogonal(3, 5, batch=(4,))
    with torch.no_grad():
        factor.weight.zero_()
    factor.matrix().square().sum().backward()
    assert torch.isfinite(factor.weight.grad).all()
    assert torch.isfinite(factor.alpha.grad).all()


def test_function_transforms_see_plain_operations():
    """Forward mode, and an ensemble of networks under vmap."""
    torch.manual_seed(3)
    net = lipctrl.LipschitzResNet(3, 2, width=4, depth=2).double()
    x = torch.randn(3, dtype=torch.float64)
    forward, reverse = torch.func.jacfwd(net)(x), torch.func.jacrev(net)(x)
    assert torch.allclose(forward, reverse, atol=1e-12)
    twin = lipctrl.LipschitzResNet(3, 2, width=4, depth=2).double()
    stacked, buffers = torch.func.stack_module_state([net, twin])
    together = torch.func.vmap(lambda p, b: torch.func.functional_call(net, (p, b), x))(stacked, buffers)
    assert torch.allclose(together, torch.stack([net(x), twin(x)]), atol=1e-12)
