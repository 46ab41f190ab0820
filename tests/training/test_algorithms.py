"""Targets, designs and experts compute what they say; training improves what it should."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

import lipctrl
import lipctrl_envs
from lipctrl.runs import Schedule, build_policy, design_policy, output_gain
from lipctrl.runs.loop import ALGORITHMS
from lipctrl.training import (
    APG,
    PPO,
    APGConfig,
    Imitation,
    ImitationConfig,
    PlantSimulator,
    PPOConfig,
    default_expert,
    evaluate,
    find_task,
    lqr_gain,
    make_simulator,
    measure_observation_scale,
    split_seed,
)
from lipctrl.training.algorithm import (
    Critic,
    Descent,
    ReturnScale,
    TrainingDivergedError,
    actor,
    require_finite,
)
from lipctrl.training.apg import _InwardClip

SEEDS = split_seed(0)


def test_advantages_agree_with_the_definition(pendulum):
    config = PPOConfig(environments=3, horizon=6, discount=0.9, trace=0.8)
    learner = _learner(PPO, pendulum, config)
    g = torch.Generator().manual_seed(0)
    reward, value, follow = (torch.randn(6, 3, generator=g) for _ in range(3))
    ended = torch.zeros(6, 3, dtype=torch.bool)
    late = ended.clone()
    ended[2, 0], late[3, 1] = True, True
    advantage = learner._advantages(reward, value, follow, ended, late)
    for i in range(3):
        for t in range(6):
            expected, weight = 0.0, 1.0
            for s in range(t, 6):
                after = 0.0 if ended[s, i] else follow[s, i].item()
                expected += weight * (reward[s, i].item() + 0.9 * after - value[s, i].item())
                weight *= 0.9 * 0.8
                if ended[s, i] or late[s, i]:
                    break
            assert advantage[t, i].item() == pytest.approx(expected, abs=1e-5)


def test_value_targets_bootstrap_after_truncation_and_not_after_termination(pendulum):
    config = APGConfig(environments=2, horizon=3, discount=0.5, trace=0.0)
    learner = _learner(APG, pendulum, config)
    ended = [torch.tensor([False, False]), torch.tensor([True, False]), torch.tensor([False, False])]
    late = [torch.tensor([False, False]), torch.tensor([False, True]), torch.tensor([False, False])]
    targets = learner._targets(torch.ones(3, 2), torch.full((3, 2), 4.0), ended, late)
    assert targets.tolist() == [[3.0, 3.0], [1.0, 3.0], [3.0, 3.0]]


def _learner(kind, task, config, policy=None):
    torch.manual_seed(0)
    if policy is None:
        network = lipctrl.LipschitzResNet(
            task.observation_size, task.action_size, lipschitz=10.0, width=8, depth=1
        )
        policy = lipctrl.LipschitzPolicy(network, action_limits=task.action_limit)
    simulator = make_simulator(task, config.environments, SEEDS["simulator"])
    if kind is PPO:
        return PPO(policy, simulator, config, SEEDS, torch.tensor(task.action_limit))
    return kind(policy, simulator, config, SEEDS)


def test_the_actor_is_the_policy_without_its_clip(cartpole):
    policy = build_policy("lipctrl/CartPole-v0", width=8)
    y = 0.05 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        command = actor(policy)(y)
        torch.testing.assert_close(command.clamp(-10.0, 10.0), policy(y))
        assert actor(policy)(100.0 * y).abs().max() > 100.0
    assert actor(torch.nn.Linear(4, 1))(y).shape == (50, 1)


def test_training_needs_a_plant_where_it_differentiates_one(pendulum):
    task = dataclasses.replace(pendulum, plant=None, twin=None)
    with pytest.raises(ValueError, match='use algorithm="ppo"'):
        _learner(APG, task, APGConfig(environments=2))
    with pytest.raises(ValueError, match='use algorithm="ppo"'):
        _learner(Imitation, task, ImitationConfig(environments=2))


def test_experts_do_their_task(pendulum, cartpole):
    expert = default_expert(pendulum.plant)
    simulator = PlantSimulator(pendulum.plant, 64, 2, dtype=torch.float64, staggered=False)
    for _ in range(200):
        simulator.step(expert(simulator.physical))
    swung = simulator.mean_return()
    assert swung is not None
    assert swung > -200.0
    K = lqr_gain(cartpole.plant)
    np.testing.assert_allclose(output_gain(cartpole.plant), K, rtol=1e-6)
    poles = np.linalg.eigvals(cartpole.plant.linearize().A - cartpole.plant.linearize().B @ K)
    assert np.abs(poles).max() < 1.0
    state = torch.tensor([[0.1, 0.02, 0.0, 0.0]], dtype=torch.float64)
    expected = np.clip(-K @ state.numpy()[0], -10, 10)
    np.testing.assert_allclose(default_expert(cartpole.plant)(state).numpy()[0], expected)


def test_the_critic_standardises_and_the_scale_follows_the_rewards():
    critic = Critic(2, 8, torch.Generator().manual_seed(0), torch.float32)
    data = torch.tensor([3.0, -1.0]) + torch.tensor([2.0, 0.1]) * torch.randn(500, 2)
    critic.observe(data)
    torch.testing.assert_close(critic.mean, data.mean(0))
    scale = ReturnScale(0.9)
    assert scale.value == 1.0
    scale.observe(torch.full((4, 3), -2.0))
    assert scale.value == pytest.approx(20.0)
    again = ReturnScale(0.9)
    again.load_state(scale.state())
    assert again.value == scale.value


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_step_is_taken_with_a_gradient_that_is_not_finite(bad):
    weight = torch.nn.Parameter(torch.ones(2))
    descent = Descent([weight], rate=0.1, clip=1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    assert descent.step() == 5.0
    moved, moments = weight.detach().clone(), descent.state()["state"][0]["exp_avg"].clone()
    weight.grad = torch.tensor([1.0, bad])
    norm = descent.step()
    assert torch.equal(weight, moved)
    assert torch.equal(descent.state()["state"][0]["exp_avg"], moments)
    with pytest.raises(TrainingDivergedError, match="the gradient became NaN or infinite"):
        require_finite(loss=torch.zeros(()), gradient=norm)


def test_a_step_clips_the_gradient_as_torch_does():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (
        [torch.nn.Parameter(torch.full(shape, 0.5)) for shape in ((3, 2), (4,))] for _ in range(2)
    )
    descent, adam = Descent(ours, 0.01, 0.5, betas=(0.8, 0.9)), torch.optim.Adam(theirs, 0.01, (0.8, 0.9))
    for size in (10.0, 0.01, 1.0):
        for a, b in zip(ours, theirs, strict=True):
            b.grad = size * torch.randn(b.shape, generator=generator)
            a.grad = b.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        adam.step()
        torch.testing.assert_close(descent.step(), norm)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("algorithm", ["apg", "ppo", "imitation"])
def test_a_price_lowers_the_proved_gain_of_every_algorithm(tmp_path, algorithm):
    found = {}
    for price in (0.0, 20.0):
        torch.manual_seed(0)
        network = lipctrl.LipschitzResNet(2, 1, lipschitz=2.0, width=8, depth=1, trainable_lipschitz=True)
        config = {"environments": 4, "horizon": 8, "gain_price": price}
        config |= {"policy_rate": 0.1, "value_epochs": 1} if algorithm == "apg" else {"rate": 0.1}
        config |= {"updates": 5} if algorithm == "imitation" else {}
        run = lipctrl.train(
            "lipctrl/Pendulum-v0",
            lipctrl.ResidualPolicy([[15.0, 5.0]], network, action_limits=5.0),
            algorithm,
            steps=32 * 20,
            out=tmp_path / str(price),
            config=ALGORITHMS[algorithm].Config(**config),
            schedule=Schedule(evaluate_every=100, validation_episodes=2, evaluation_episodes=2),
            progress=False,
        )
        # Of the last policy: without a price the best one is kept, which may be an earlier one.
        found[price] = run.metrics["certified_radius"][-1]
    assert found[20.0] < 0.8 * found[0.0] < 2.0


class _Throttle(gymnasium.Env):
    """A reward for pressing just so: [0, 4] × [-1, 3], best at (3, 2)."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(np.float32([0.0, -1.0]), np.float32([4.0, 3.0]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action.astype(np.float32))
        return np.zeros(2, dtype=np.float32), -float(np.square(action - [3.0, 2.0]).sum()), False, False, {}


def test_a_box_that_is_not_symmetric_counts_its_middle_and_its_limits(tmp_path):
    if "test/Throttle-v0" not in gymnasium.registry:
        gymnasium.register("test/Throttle-v0", _Throttle, max_episode_steps=16)
    task = find_task("test/Throttle-v0")
    assert np.array_equal(task.action_limit, [2.0, 2.0])
    assert np.array_equal(task.action_center, [2.0, 1.0])
    design = design_policy(task, width=8, depth=1)
    assert [limit.tolist() for limit in design.policy.action_limits] == [[0.0, -1.0], [4.0, 3.0]]
    assert np.abs(design.policy(torch.zeros(2)).detach().numpy() - [2.0, 1.0]).max() < 1.0
    run = lipctrl.train(
        "test/Throttle-v0",
        design.policy,
        "ppo",
        steps=256 * 30,
        out=tmp_path / "run",
        config=PPOConfig(environments=16, horizon=16, rate=1e-2),
        schedule=Schedule(evaluation_episodes=2, validation_episodes=2),
        progress=False,
    )
    assert lipctrl.check(run.certificate).ok
    assert run.evaluation["mean_return"] > -0.2 * 16


def test_a_price_of_a_fixed_gain_is_refused(tmp_path):
    policy = build_policy("lipctrl/Pendulum-v0", width=8)
    with pytest.raises(ValueError, match="trainable_lipschitz=True"):
        lipctrl.train("lipctrl/Pendulum-v0", policy, "ppo", 1, out=tmp_path, config=PPOConfig(gain_price=0.1))


def test_the_written_out_gradients_are_those_of_the_surrogate(pendulum):
    config = PPOConfig(environments=2, horizon=4, ratio_clip=0.2, entropy_weight=0.01, value_weight=0.7)
    learner = _learner(PPO, pendulum, config)
    g = torch.Generator().manual_seed(3)
    mean, value, action, old, advantage, target = (torch.randn(40, 1, generator=g) for _ in range(6))
    old = learner._log_probability(action - mean)[:, None].detach() + 0.3 * old
    mean.requires_grad_(), value.requires_grad_()
    deviation = learner.log_deviation.exp()
    density = torch.distributions.Normal(mean, deviation).log_prob(action)
    ratio = (density - old).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    loss = 0.7 * (value - target).square().mean() - surrogate - 0.01 * learner.log_deviation.sum()
    expected = torch.autograd.grad(loss, (mean, learner.log_deviation, value))
    with torch.no_grad():
        found = learner._gradients(mean, value, action, old, advantage, target)
    assert 0 < (ratio.clamp(0.8, 1.2) == ratio).sum() < 40
    torch.testing.assert_close(found[0], surrogate)
    for a, b in zip(found[3], expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("CartPole-v1", None, r"action space Discrete\(2\).*lipctrl/CartPole-v0"),
        ("NoSuch-v0", None, "no environment 'NoSuch-v0'"),
        ("lipctrl/CartPole-v0", {"colour": 1}, "does not take the options"),
    ],
)
def test_environments_that_do_not_fit_are_refused_with_a_remedy(env_id, options, message):
    with pytest.raises(ValueError, match=message):
        find_task(env_id, options)


def test_a_residual_on_a_black_box_needs_a_gain_of_its_own():
    with pytest.raises(ValueError, match="black box without weights for an LQR gain"):
        design_policy(find_task("MountainCarContinuous-v0"), kind="residual")


def test_designs_count_every_factor(cartpole, pendulum):
    design = design_policy(cartpole, width=8)
    assert design.guarantee is not None
    certificate = design.policy.certificate()
    assert certificate.radius <= 0.5 * design.guarantee.radius * (1 + 1e-3)
    assert design.guarantee.prove(certificate) > 1.99
    plain = design_policy(pendulum, lipschitz=6.0, width=8)
    assert plain.guarantee is None
    assert 5.0 < plain.policy.certificate().gain <= 6.0 * (1 + 1e-3)
    assert np.all(measure_observation_scale(pendulum, 0) > 0.3)
    with pytest.raises(ValueError, match="not below the stability radius"):
        design_policy(cartpole, lipschitz=100.0)
    with pytest.raises(ValueError, match="expected a positive finite number, 'auto' or 'scaled'"):
        design_policy(cartpole, lipschitz=-1.0)
    with pytest.raises(ValueError, match="expected auto, residual or plain"):
        design_policy(cartpole, kind="best")


@pytest.mark.parametrize("name", ["CartPole", "LateralVehicle", "PlanarQuadrotor"])
def test_scaled_budgets_leave_more_room_under_the_same_guarantee(name):
    task = find_task(lipctrl_envs.environment_id(name))
    one_for_all, scaled = (design_policy(task, lipschitz=b, width=8) for b in ("auto", "scaled"))
    assert scaled.guarantee is not None
    certificate = scaled.policy.certificate()
    assert 1.99 < scaled.guarantee.prove(certificate) < 2.01
    # Channel by channel the network may be steeper: its bound over each size.
    steeper = scaled.policy.network.certificate().gain / one_for_all.policy.network.certificate().gain
    assert steeper > 1.5
    report = lipctrl.analyze(task.plant.linearize(), certificate, structured=False)
    assert report.verdict == "certified"
    assert report.residual_gain_margin.upper == pytest.approx(2.0, rel=5e-3)


def test_actions_with_sizes_start_at_the_middle_of_their_box():
    task = find_task(lipctrl_envs.environment_id("PlanarQuadrotor"))
    middle = np.array([1.0, 0.02])
    asymmetric = dataclasses.replace(task, action_center=middle)
    found = [design_policy(t, lipschitz="scaled", width=8).policy for t in (task, asymmetric)]
    assert found[0].action_scale.tolist() == [1.0, 0.03125]
    rest = [policy(torch.zeros(task.observation_size)).detach().numpy() for policy in found]
    np.testing.assert_allclose(rest[1] - rest[0], middle, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "delay"), [("Pendulum", 2), ("CartPole", 4), ("DoublePendulumCart", 2), ("GymPendulum", 1)]
)
def test_a_delayed_plant_keeps_a_stabilising_gain(name, delay):
    task = find_task(lipctrl_envs.environment_id(name), {"delay": delay})
    gain = output_gain(task.plant)
    system = task.plant.linearize()
    poles = np.linalg.eigvals(system.A - system.B @ gain @ system.C)
    assert np.abs(poles).max() < 1.0
    design = design_policy(task, kind="residual", width=8, depth=1)
    assert design.guarantee is not None
    assert design.guarantee.prove(design.policy.certificate()) > 1.0


def test_a_delay_that_no_gain_survives_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match="behind a delay of 4 samples"):
        output_gain(find_task("lipctrl/DoublePendulumCart-v0", {"delay": 4}).plant)


def test_equal_seeds_give_equal_designs(cartpole):
    before = torch.random.get_rng_state()
    a, b, c = (design_policy(cartpole, width=8, seed=s).policy.state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_imitation_solves_the_swing_up_in_gymnasium(pendulum):
    policy = build_policy("Pendulum-v1", lipschitz=10.0, width=32)
    config = ImitationConfig(updates=60)
    learner = _learner(Imitation, pendulum, config, policy)
    for i in range(8):
        learner.iterate(i / 8)
    assert evaluate(policy, "Pendulum-v1", episodes=30, seed=5).mean > -250.0
    assert policy.certificate().gain <= 10.0 * (1 + 1e-3)


@pytest.mark.slow
def test_ppo_solves_the_swing_up_in_gymnasium_with_a_certified_bound(tmp_path):
    policy = build_policy("Pendulum-v1", lipschitz=10.0)
    run = lipctrl.train("Pendulum-v1", policy, "ppo", 600_000, out=tmp_path / "run", progress=False)
    assert run.evaluation["mean_return"] > -250.0
    assert run.evaluation["env_id"] == "Pendulum-v1"
    assert lipctrl.check(run.certificate).ok
    assert run.certificate.gain <= 10.0 * (1 + 1e-3)


def test_beyond_the_limits_only_gradients_that_lead_back_pass():
    command = torch.tensor([-3.0, -3.0, 0.5, 3.0, 3.0], requires_grad=True)
    clipped = _InwardClip.apply(command, torch.tensor(2.0))
    assert clipped.tolist() == [-2.0, -2.0, 0.5, 2.0, 2.0]
    # Descent moves against the gradient: -1 pushes a command up, +1 pushes it down.
    clipped.backward(torch.tensor([-1.0, 1.0, 1.0, 1.0, -1.0]))
    assert command.grad is not None
    assert command.grad.tolist() == [-1.0, 0.0, 1.0, 1.0, 0.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("algorithm", ["apg", "ppo", "imitation"])
def test_training_on_a_gpu_ends_in_a_certificate(tmp_path, algorithm):
    policy = build_policy("lipctrl/CartPole-v0", width=8)
    run = lipctrl.train(
        "lipctrl/CartPole-v0", policy, algorithm, 8192, device="cuda", out=tmp_path / "run", progress=False
    )
    assert lipctrl.check(run.certificate).ok


def test_the_gradient_lowers_the_cost_of_lqr(cartpole):
    policy = build_policy("lipctrl/CartPole-v0", width=16)
    learner = _learner(APG, cartpole, APGConfig(environments=64, horizon=64, policy_rate=1e-2), policy)
    K = output_gain(cartpole.plant)
    lqr = evaluate(lambda y: np.clip(-y @ K.T, -10.0, 10.0), cartpole, episodes=128, seed=3)
    for i in range(30):
        learner.iterate(i / 30)
    trained = evaluate(policy, cartpole, episodes=128, seed=3)
    assert trained.cost < 0.95 * lqr.cost


@pytest.mark.parametrize(
    "wrong", [{"discount": "a"}, {"environments": True}, {"rate": None}, {"epochs": 1.5}, {"trace": 2.0}]
)
def test_settings_name_what_is_wrong(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"setting {name} is .*; expected a"):
        PPOConfig(**wrong)
