"""Stable-Baselines3 models with a certified actor: the map that acts is the map that is proved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import lipctrl

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from lipctrl.nn.squashed import Squashed
from lipctrl.policies import LipschitzPolicy, policy_from_spec
from lipctrl.training.evaluation import evaluate
from lipctrl.training.sb3 import CertifiedActorCriticPolicy, CertifiedSACPolicy, certified_policy

SMALL = {"width": 16, "depth": 2}
ALGORITHMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ppo": (PPO, CertifiedActorCriticPolicy, {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
    "sac": (SAC, CertifiedSACPolicy, {"learning_starts": 64, "batch_size": 32}),
}


def make(name: str, env: Any = "Pendulum-v1", **settings: Any) -> Any:
    algorithm, policy, arguments = ALGORITHMS[name]
    return algorithm(
        policy,
        env,
        policy_kwargs={**SMALL, **settings},
        device="cpu",
        seed=0,
        learning_rate=3e-3,
        **arguments,
    )


def observations(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).uniform(-3.0, 3.0, (count, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=sorted(ALGORITHMS))
def trained(request: pytest.FixtureRequest) -> Any:
    model = make(request.param, lipschitz=4.0, observation_scale=[1.0, 1.0, 8.0], initial_fraction=0.8)
    before = [p.detach().clone() for p in certified_policy(model).network.parameters()]
    model.learn(192)
    after = list(certified_policy(model).network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), "nothing was trained"
    return model


def test_deterministic_actions_are_the_certified_map(trained: Any) -> None:
    y = observations()
    actions, _ = trained.predict(y, deterministic=True)
    policy = certified_policy(trained)
    assert actions.std() > 0.05
    np.testing.assert_allclose(policy(torch.from_numpy(y)).detach().numpy(), actions, atol=1e-5)
    np.testing.assert_allclose(policy.certificate().evaluate(y), actions, atol=1e-5)


def test_the_certificate_proves_the_requested_gain(trained: Any) -> None:
    certificate = certified_policy(trained).certificate()
    report = lipctrl.check(certificate)
    assert report.ok, report.failures
    assert certificate.gain <= 4.0 * (1.0 + 1e-3)


def test_a_saved_model_loads_back_and_certifies(trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    loaded = type(trained).load(tmp_path / "model", device="cpu")
    certificate = certified_policy(loaded).certificate()
    assert certificate.digest == certified_policy(trained).certificate().digest
    certificate.save(tmp_path / "certificate.json")
    assert lipctrl.check(lipctrl.load_certificate(tmp_path / "certificate.json")).ok
    y = observations()
    np.testing.assert_array_equal(
        loaded.predict(y, deterministic=True)[0], trained.predict(y, deterministic=True)[0]
    )


def test_a_saved_policy_loads_without_its_algorithm(trained: Any, tmp_path: Path) -> None:
    trained.policy.save(tmp_path / "policy")
    loaded = type(trained.policy).load(tmp_path / "policy", device="cpu")
    assert loaded.certified().certificate().digest == certified_policy(trained).certificate().digest


def test_training_goes_on_after_loading(trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    loaded = type(trained).load(tmp_path / "model", env=gymnasium.make("Pendulum-v1"), device="cpu")
    loaded.learn(96, reset_num_timesteps=False)
    changed = certified_policy(loaded).certificate()
    assert changed.digest != certified_policy(trained).certificate().digest
    assert lipctrl.check(changed).ok


def test_evaluation_takes_the_extracted_policy(trained: Any) -> None:
    policy = certified_policy(trained)
    result = evaluate(policy, "Pendulum-v1", episodes=2)
    assert (result.lengths == 200).all()
    stored = evaluate(policy.certificate(), "Pendulum-v1", episodes=2)
    np.testing.assert_allclose(stored.returns, result.returns, rtol=1e-2)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_huge_weights_do_not_break_the_bound(name: str) -> None:
    model = make(name, lipschitz=0.1, initial_fraction=None)
    policy = certified_policy(model)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.mul_(100.0)
    certificate = certified_policy(model).certificate()
    assert lipctrl.check(certificate).ok
    assert certificate.gain <= 0.1 * (1.0 + 1e-3)


def test_the_gain_starts_at_its_fraction_and_is_trained_below_its_cap() -> None:
    model = make("ppo", lipschitz=4.0, initial_fraction=0.25)
    assert certified_policy(model).certificate().gain == pytest.approx(1.0, rel=1e-3)
    start = certified_policy(model).network.raw_factor.item()
    model.learn(128)
    assert certified_policy(model).network.raw_factor.item() != start
    gain = certified_policy(model).certificate().gain
    assert gain <= 4.0 * (1.0 + 1e-3)
    with pytest.raises(ValueError, match="initial_fraction"):
        make("ppo", initial_fraction=1.5)


def test_observation_scale_counts_in_the_gain() -> None:
    model = make("ppo", lipschitz=4.0, observation_scale=[0.1, 1.0, 1.0], initial_fraction=None)
    assert certified_policy(model).certificate().gain == pytest.approx(40.0, rel=1e-3)


def test_ppo_trains_a_residual_policy_around_a_given_gain() -> None:
    gain = [[0.0, 12.0, 3.0]]
    model = make("ppo", lipschitz=0.5, gain=gain)
    model.learn(128)
    policy = certified_policy(model)
    certificate = policy.certificate()
    assert isinstance(policy, lipctrl.ResidualPolicy)
    assert lipctrl.check(certificate).ok
    np.testing.assert_array_equal(certificate.center, -np.array(gain))
    assert certificate.radius is not None
    assert certificate.radius <= 0.5 * (1.0 + 1e-3)
    y = observations()
    np.testing.assert_allclose(certificate.evaluate(y), model.predict(y, deterministic=True)[0], atol=1e-4)


def test_unequal_limits_cost_nothing() -> None:
    network = lipctrl.LipschitzResNet(3, 2, lipschitz=5.0, **SMALL)
    squashed = Squashed(network, [-1.0, 0.0], [1.0, 200.0])
    certificate = squashed.certificate()
    assert lipctrl.check(certificate).ok
    assert certificate.gain <= 5.0 * (1.0 + 1e-3)
    u = certificate.evaluate(1e3 * observations())
    assert (u >= [-1.0, 0.0]).all()
    assert (u <= [1.0, 200.0]).all()


def test_a_squashed_policy_travels_as_spec_and_weights() -> None:
    squashed = Squashed(lipctrl.LipschitzResNet(3, 2, lipschitz=5.0, **SMALL), [-1.0, 0.0], [1.0, 200.0])
    policy = LipschitzPolicy(squashed, [1.0, 2.0, 0.5])
    again = policy_from_spec(json.loads(json.dumps(policy.spec())))
    again.load_state_dict(policy.state_dict())
    y = torch.as_tensor(observations(), dtype=torch.float32)
    assert torch.equal(policy(y), again(y))
    assert again.certificate().gain == policy.certificate().gain


@pytest.mark.parametrize("limits", [([0.0], [0.0]), ([-np.inf], [1.0]), ([0.0, 0.0], [1.0, 1.0])])
def test_squashing_refuses_impossible_limits(limits: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="finite lower < upper"):
        Squashed(lipctrl.LipschitzResNet(2, 1, width=4), *limits)


def test_hidden_factors_are_refused() -> None:
    normalized = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
    with pytest.raises(ValueError, match="VecNormalize"):
        certified_policy(make("ppo", normalized))
    rewards_only = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]), norm_obs=False)
    assert certified_policy(make("ppo", rewards_only)).certificate().gain <= 1.001
    rescaled = gymnasium.wrappers.RescaleAction(
        gymnasium.make("Pendulum-v1"), np.float32(-1.0), np.float32(1.0)
    )
    with pytest.raises(ValueError, match="RescaleAction"):
        certified_policy(make("sac", rescaled))
    normalized_env = gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="NormalizeObservation"):
        certified_policy(make("ppo", normalized_env))


def test_a_plain_policy_has_no_certificate() -> None:
    with pytest.raises(ValueError, match=r"lipctrl\.certify"):
        certified_policy(PPO("MlpPolicy", "Pendulum-v1", device="cpu"))


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_settings_that_make_no_sense(name: str) -> None:
    algorithm, policy, _ = ALGORITHMS[name]
    with pytest.raises(ValueError, match="use_sde"):
        algorithm(policy, "Pendulum-v1", use_sde=True, device="cpu")
    with pytest.raises(TypeError, match="ortho"):
        algorithm(policy, "Pendulum-v1", policy_kwargs={"ortho_init": True}, device="cpu")
    with pytest.raises(ValueError, match="lipschitz"):
        make(name, lipschitz=-1.0)
    with pytest.raises(ValueError, match=r"observation_scale has shape \(2,\); expected one number, or 3"):
        make(name, observation_scale=[1.0, 2.0])
    whole = gymnasium.make("Pendulum-v1")
    whole.action_space = gymnasium.spaces.Box(-2, 2, (1,), dtype=np.int64)
    with pytest.raises(ValueError, match="type int64; rounding"):
        make(name, whole)


def test_an_actor_of_other_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"net_arch is .*layers of the critic"):
        make("ppo", net_arch={"pi": [8], "vf": [8]})


class _Louder(gymnasium.Wrapper):
    """Scales what it passes on, and says so nowhere."""

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return (100.0 * observation, *rest)


class _LouderVector(VecEnvWrapper):
    def reset(self) -> Any:
        return 100.0 * self.venv.reset()

    def step_wait(self) -> Any:
        observation, *rest = self.venv.step_wait()
        return (100.0 * observation, *rest)


def test_wrappers_that_nobody_knows_are_refused_unless_trusted() -> None:
    model = make("ppo", _Louder(gymnasium.make("Pendulum-v1")))
    with pytest.raises(ValueError, match=r"_Louder.*trusted"):
        certified_policy(model)
    assert certified_policy(model, trusted=(_Louder,)).certificate().gain <= 1.001
    vector = make("ppo", _LouderVector(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")])))
    with pytest.raises(ValueError, match="_LouderVector"):
        certified_policy(vector)


def test_usual_wrappers_are_no_obstacle() -> None:
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0"))
    stacked = VecFrameStack(VecMonitor(DummyVecEnv([lambda: env])), 2)
    certificate = certified_policy(make("ppo", stacked)).certificate()
    assert certificate.in_features == 8
    assert lipctrl.check(certificate).ok
    # Gymnasium's own stack of frames is no other.
    frames = gymnasium.wrappers.FlattenObservation(gymnasium.wrappers.FrameStackObservation(env, 3))
    assert certified_policy(make("ppo", frames)).certificate().in_features == 12


def test_a2c_trains_a_certified_actor_too(tmp_path: Path) -> None:
    model = A2C(CertifiedActorCriticPolicy, "Pendulum-v1", policy_kwargs=SMALL, device="cpu", seed=0)
    before = certified_policy(model).certificate().digest
    model.learn(20)
    model.save(tmp_path / "a2c")
    certificate = certified_policy(A2C.load(tmp_path / "a2c", device="cpu")).certificate()
    assert certificate.digest != before
    assert lipctrl.check(certificate).ok


@pytest.mark.parametrize("policy", [CertifiedActorCriticPolicy, CertifiedSACPolicy])
def test_algorithms_that_do_not_fit_say_which_do(policy: Any) -> None:
    with pytest.raises(AttributeError, match=r"it fits .*TD3 and DDPG"):
        TD3(policy, "Pendulum-v1", policy_kwargs=SMALL, device="cpu")


def test_ppo_says_that_a_policy_is_of_sac() -> None:
    model = PPO(CertifiedSACPolicy, "Pendulum-v1", policy_kwargs=SMALL, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match=r"fits SAC; use CertifiedActorCriticPolicy"):
        model.learn(8)
