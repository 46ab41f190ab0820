"""Policies: sign, scale and limits inside the certificate, round trips, and the incremental ball."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lipctrl
from lipctrl import LipschitzPolicy, LipschitzResNet, ResidualPolicy
from lipctrl.analysis import own_ball
from lipctrl.policies import policy_from_spec
from lipctrl.training.algorithm import actor

K = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


def network(dtype=torch.float64, **options):
    torch.manual_seed(0)
    return LipschitzResNet(3, 2, lipschitz=0.7, width=8, depth=2, **options).to(dtype)


def residual(dtype=torch.float64, **options):
    return ResidualPolicy(K, network(dtype), **options)


POLICIES = {
    "residual": residual,
    "residual scaled": lambda dtype=torch.float64: residual(dtype, observation_scale=[0.5, 2.0, 4.0]),
    "residual clipped": lambda dtype=torch.float64: residual(dtype, action_limits=np.array([1.0, 2.0])),
    "residual whole": lambda dtype=torch.float64: residual(
        dtype, observation_scale=2.0, action_limits=([-1.0, -0.5], [2.0, 0.25])
    ),
    "residual in units": lambda dtype=torch.float64: residual(
        dtype, observation_scale=[0.5, 2.0, 4.0], action_scale=[8.0, 0.1], action_limits=[9.0, 0.2]
    ),
    "lipschitz in units": lambda dtype=torch.float64: LipschitzPolicy(
        network(dtype), action_scale=[8.0, 0.1], action_limits=[9.0, 0.2]
    ),
    "lipschitz": lambda dtype=torch.float64: LipschitzPolicy(network(dtype)),
    "lipschitz whole": lambda dtype=torch.float64: LipschitzPolicy(
        network(dtype), observation_scale=[0.5, 2.0, 4.0], action_limits=0.4
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", POLICIES)
def test_certificates_describe_and_bound_the_policy(name, dtype):
    policy = POLICIES[name](dtype)
    certificate = policy.certificate()
    assert lipctrl.check(certificate).ok
    y = 3.0 * torch.randn(50, 3, dtype=dtype)
    with torch.no_grad():
        u, exported = policy(y), policy.export()(y)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    assert np.abs(certificate.evaluate(y.numpy()) - u.numpy()).max() < tolerance
    assert (exported - u).abs().max().item() < tolerance
    du, dy = (u[1:] - u[:-1]).norm(dim=-1), (y[1:] - y[:-1]).norm(dim=-1)
    assert (du <= certificate.gain * dy * (1.0 + 1e-6)).all()


def test_a_residual_policy_carries_its_own_sign():
    """u = -K y + f(y): the centre of the ball is -K, the radius the gain of the scaled residual."""
    policy = residual(observation_scale=[0.5, 2.0, 4.0], action_limits=100.0)
    certificate = policy.certificate()
    assert np.array_equal(certificate.center, -K)
    assert certificate.radius <= 0.7 / 0.5
    assert [b.tolist() for b in certificate.limits] == [[-100.0, -100.0], [100.0, 100.0]]
    y = torch.randn(40, 3, dtype=torch.float64)
    with torch.no_grad():
        rest = policy(y) + y @ torch.from_numpy(K).mT
    dr, dy = (rest[1:] - rest[:-1]).norm(dim=-1), (y[1:] - y[:-1]).norm(dim=-1)
    assert (dr <= certificate.radius * dy * (1.0 + 1e-9)).all()
    assert certificate.gain >= np.linalg.norm(K, 2)


def test_limits_are_respected_and_do_not_enlarge_the_gain():
    free, clipped = residual(), residual(action_limits=0.3)
    y = 10.0 * torch.randn(100, 3, dtype=torch.float64)
    with torch.no_grad():
        assert clipped(y).abs().max().item() == 0.3
        assert torch.equal(clipped(y), free(y).clamp(-0.3, 0.3))
    assert clipped.certificate().gain == free.certificate().gain


@pytest.mark.parametrize("name", POLICIES)
def test_spec_and_safetensors_rebuild_the_policy(name, tmp_path):
    policy = POLICIES[name](torch.float32)
    save_file(policy.state_dict(), tmp_path / "weights.safetensors")
    twin = policy_from_spec(policy.spec())
    twin.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    y = torch.randn(5, 3)
    assert torch.equal(policy(y), twin(y))
    assert twin.certificate().digest == policy.certificate().digest


def test_an_action_scale_counts_in_the_gain_and_stays_in_its_channel():
    policy = residual(action_scale=[8.0, 0.125], observation_scale=[1.0, 1.0, 0.25])
    certificate, inner = policy.certificate(), policy.network.certificate().gain
    assert certificate.radius == pytest.approx(inner * 8.0 / 0.25)
    ball = own_ball(policy)
    assert ball.radius == pytest.approx(inner)
    assert ball.action_scale.tolist() == [8.0, 0.125]
    # What training runs before the clip is the same map.
    y = torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(actor(policy)(y), policy(y))
    slope = torch.func.jacrev(policy)(y[0]).detach().numpy() + K
    assert np.linalg.norm(slope / np.array([[8.0], [0.125]]) * [1.0, 1.0, 0.25], 2) <= inner


def test_a_spec_from_before_action_scales_is_read():
    spec = POLICIES["residual whole"]().spec()
    del spec["action_scale"]
    assert policy_from_spec(spec).action_scale is None


def test_bad_policies_are_refused_in_words():
    with pytest.raises(ValueError, match=r"action_scale has shape \(3,\); expected one number, or 2"):
        LipschitzPolicy(network(), action_scale=[1.0, 2.0, 3.0])
    with pytest.raises(
        ValueError, match=r"action_scale is -1\.0; expected positive finite numbers, scale ∘ f"
    ):
        LipschitzPolicy(network(), action_scale=-1.0)
    with pytest.raises(ValueError, match="gain has shape"):
        ResidualPolicy(np.ones((3, 2)), network())
    with pytest.raises(ValueError, match="NaN"):
        ResidualPolicy(np.full((2, 3), np.nan), network())
    with pytest.raises(ValueError, match="observation_scale"):
        LipschitzPolicy(network(), observation_scale=[1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="action_limits"):
        LipschitzPolicy(network(), action_limits=(1.0, -1.0))
    with pytest.raises(ValueError, match=r"action_limits have shape \(4,\)"):
        LipschitzPolicy(network(), action_limits=[1.0, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"observation_scale has shape \(2,\); expected one number, or 3"):
        LipschitzPolicy(network(), observation_scale=[1.0, 2.0])
    with pytest.raises(TypeError, match="CertifiedModule"):
        LipschitzPolicy(torch.nn.Linear(3, 2))
    with pytest.raises(ValueError, match="policy is"):
        policy_from_spec({"policy": "Magic", "network": network().spec()})


def test_backpropagation_through_time_shares_one_fold():
    policy = residual(torch.float32, action_limits=1.0)
    y, total = torch.randn(16, 3), torch.zeros(())
    with policy.fold_once():
        for _ in range(5):
            u = policy(y)
            y = 0.9 * y + 0.1 * torch.cat((u, u[:, :1]), -1)
            total = total + y.square().mean()
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters())
