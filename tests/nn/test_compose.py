"""The recursive algebra: every combinator runs what it certifies, and its bound follows from its blocks'."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import lipctrl
from lipctrl import nn


def block(n, m, lipschitz, width=6):
    return nn.LosslessBlock(n, m, width=width, lipschitz=lipschitz)


def hierarchy(depth):
    net = block(3, 3, 0.7)
    for _ in range(depth):
        net = nn.Recursive(net, 3, 3, lipschitz=1.3)
    return net


CASES = {
    "sequential": lambda: nn.Sequential(block(3, 4, 2.0), block(4, 2, 0.5)),
    "sum": lambda: nn.Sum(block(3, 2, 1.0), block(3, 2, 2.0), coefficients=[1.0, -3.0]),
    "mix": lambda: nn.Mix(block(3, 2, 1.0), block(3, 2, 1.0)),
    "residual": lambda: nn.Residual(block(3, 3, 0.1)),
    "concat": lambda: nn.Concat(block(3, 1, 3.0), block(3, 2, 4.0)),
    "parallel": lambda: nn.Parallel(block(1, 1, 3.0), block(2, 2, 4.0)),
    "scale": lambda: nn.Scale(block(3, 2, 2.0), -0.25),
    "metric": lambda: nn.Metric(block(3, 2, 2.0), torch.diag(torch.tensor([1.0, 2.0, 4.0])), [[3.0, 0.0]]),
    "repeat": lambda: nn.Repeat(block(3, 3, 0.9), 5),
    "feedback": lambda: nn.Feedback(block(3, 3, 0.5), block(3, 3, 1.0)),
    "recursive": lambda: nn.Recursive(block(4, 4, 3.0), 3, 2, lipschitz=5.0),
    "hierarchy": lambda: hierarchy(6),
    "everything": lambda: nn.Sequential(
        nn.Concat(nn.Residual(block(3, 3, 0.5)), nn.Scale(block(3, 2, 1.0), 2.0)),
        nn.Parallel(nn.Recursive(block(4, 4, 1.0), 3, 3), nn.Repeat(block(2, 2, 1.1), 3)),
        nn.Sum(block(5, 2, 1.0), nn.OrthogonalLinear(5, 2)),
    ),
}


def build(name, dtype=torch.float64):
    torch.manual_seed(3)
    return CASES[name]().to(dtype)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_combinators_prove_their_gain_and_run_what_they_certify(name, dtype):
    net = build(name, dtype)
    certificate = net.certificate()
    assert lipctrl.check(certificate).ok
    slack = 1e-6 if dtype == torch.float64 else 1e-3
    assert certificate.gain <= net.lipschitz * (1.0 + slack)
    x = torch.randn(8, 3, dtype=dtype)
    close = 1e-9 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(certificate.evaluate(x.numpy()), net(x).detach().numpy(), atol=close)
    torch.testing.assert_close(net.export()(x).detach(), net(x).detach(), atol=close, rtol=close)


@pytest.mark.parametrize("name", CASES)
def test_ascent_never_exceeds_the_proved_gain(name):
    net = build(name)
    assert lipctrl.lipschitz_lower_bound(net, seed=1) <= net.certificate().gain


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_receives_a_gradient(name):
    net = build(name)
    net(torch.randn(16, 3, dtype=torch.float64)).square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", CASES)
def test_a_composed_claim_below_its_parts_is_refused(name):
    certificate = build(name).certificate()
    forged = dataclasses.replace(certificate, gain=0.5 * certificate.gain, digest="")
    report = lipctrl.check(forged)
    assert not report.ok or lipctrl.lipschitz_lower_bound(forged, seed=0) <= report.gain


def test_nesting_loses_nothing():
    # A product rule through six levels would claim 1.3⁶; the energy split keeps 1.3.
    certificate = build("hierarchy").certificate()
    assert certificate.gain <= 1.3 * (1.0 + 1e-6)
    assert str(certificate).count("nested") == 6


def test_the_feedback_solves_its_equation_and_differentiates_it():
    net = build("feedback")
    loop, drive = net.blocks
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    w = net(x)
    torch.testing.assert_close(w, loop(w) + drive(x), atol=1e-12, rtol=0.0)
    assert torch.autograd.gradcheck(net, (x,), eps=1e-6, atol=1e-5)


def test_wrong_compositions_are_refused_with_their_reason():
    with pytest.raises(ValueError, match="4 outputs meet 3 inputs"):
        nn.Sequential(block(3, 4, 1.0), block(3, 2, 1.0))
    with pytest.raises(ValueError, match="equal in_features"):
        nn.Sum(block(3, 2, 1.0), block(4, 2, 1.0))
    with pytest.raises(ValueError, match="expected below 1"):
        nn.Feedback(block(3, 3, 1.0), block(3, 3, 1.0))
    with pytest.raises(ValueError, match="the loop maps 3 to 2 features, the drive to 2"):
        nn.Feedback(block(3, 2, 0.5), block(3, 2, 1.0))
    with pytest.raises(ValueError, match=r"Sum: coefficients are .* one for each of 2 blocks"):
        nn.Sum(block(3, 2, 1.0), block(3, 2, 1.0), coefficients=[1.0])
    with pytest.raises(ValueError, match=r"input_metric has shape \(2, 2\) .* expected \(3, 3\)"):
        nn.Metric(block(3, 2, 1.0), input_metric=torch.eye(2))
    for name, make in {
        "Residual": nn.Residual,
        "Repeat": lambda f: nn.Repeat(f, times=2),
        "Recursive": lambda f: nn.Recursive(f, 2, 2),
    }.items():
        with pytest.raises(
            ValueError, match=f"{name}: the block maps 3 to 2 features; expected equally many"
        ):
            make(block(3, 2, 1.0))
    with pytest.raises(TypeError, match="certify"):
        nn.Residual(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="one norm"):
        nn.Sequential(nn.ImplicitBlock(3, 3, width=4, norm="linf"), block(3, 2, 1.0))
    with pytest.raises(ValueError, match="l2 bound"):
        nn.Recursive(nn.ImplicitBlock(3, 3, width=4, norm="linf"), 2, 2)


def test_linf_blocks_compose_in_linf():
    net = nn.Concat(*(nn.ImplicitBlock(3, 2, width=4, norm="linf", lipschitz=k) for k in (1.0, 2.0))).double()
    certificate = net.certificate()
    assert lipctrl.check(certificate).ok
    assert certificate.norm == "linf"
    assert certificate.gain <= net.lipschitz == 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shrink", [0.0, 1e-30, 1e-3])
def test_a_nested_block_far_below_its_gain_is_certified(dtype, shrink):
    """Weights of zero ended in a division by zero: the multiplier was that of the proved gain, not the promised one."""
    torch.manual_seed(0)
    network = nn.Recursive(nn.AOLLayer(3, 3, activation="relu"), 2, 2, lipschitz=3.0).to(dtype)
    with torch.no_grad():
        network.blocks[0].weight.mul_(shrink)
    certificate = network.certificate()
    assert certificate.gain <= 3.0
    assert lipctrl.check(certificate).ok


def test_a_block_that_promises_the_gain_zero():
    """It divides a nested block, which is refused; a loop of gain zero needs one step, not the logarithm of zero."""
    nothing = nn.Scale(nn.OrthogonalLinear(2, 2), 0.0)
    with pytest.raises(ValueError, match="gain of the nested block is 0"):
        nn.Recursive(nothing, 2, 2)
    loop = nn.Feedback(nothing, nn.OrthogonalLinear(3, 2))
    x = torch.randn(4, 3, requires_grad=True)
    torch.testing.assert_close(loop(x), loop.blocks[1](x))
    assert lipctrl.check(loop.certificate()).ok
