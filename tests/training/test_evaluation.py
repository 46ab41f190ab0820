"""Evaluation: complete episodes, unseen seeds, and disturbances that do what they say."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import lipctrl
from lipctrl.training.attack import Attack, Wave
from lipctrl.training.evaluation import evaluate
from lipctrl.training.rollout import PlantSimulator
from lipctrl.training.worst_case import worst_case

PENDULUM = "lipctrl/Pendulum-v0"


def lqr_gain(env_id: str, **options: object) -> np.ndarray:
    import control

    plant = gymnasium.make(f"lipctrl_envs:{env_id}", **options).unwrapped.plant
    system = plant.linearize()
    return np.asarray(control.dlqr(system.A, system.B, plant.Q, plant.R)[0])


class Linear(nn.Module):
    def __init__(self, gain: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(-gain, dtype=torch.float64))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y @ self.weight.mT


@pytest.fixture(scope="module")
def certified() -> lipctrl.LipschitzPolicy:
    torch.manual_seed(0)
    network = lipctrl.LipschitzResNet(3, 1, lipschitz=6.0, width=16, depth=2)
    return lipctrl.LipschitzPolicy(network, observation_scale=[1.0, 1.0, 4.0], action_limits=2.0)


def test_returns_equal_a_hand_written_episode_of_the_single_environment() -> None:
    def controller(y: np.ndarray) -> np.ndarray:
        return -4.0 * y[:, 1:2] - 0.5 * y[:, 2:3]

    result = evaluate(controller, "Pendulum-v1", episodes=3, seed=5)
    env = gymnasium.make("Pendulum-v1")
    for total, seed in zip(result.returns, result.reset_seeds, strict=True):
        observation, _ = env.reset(seed=seed)
        expected, over = 0.0, False
        while not over:
            action = np.clip(controller(observation[None].astype(float))[0], -2.0, 2.0)
            observation, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
            expected += float(reward)
            over = terminated or truncated
        assert total == pytest.approx(expected, rel=1e-5)


def test_module_exported_copy_and_certificate_earn_the_same(certified: lipctrl.LipschitzPolicy) -> None:
    module = evaluate(certified, "Pendulum-v1", episodes=4)
    stored = evaluate(certified.certificate(), "Pendulum-v1", episodes=4)
    np.testing.assert_allclose(module.returns, stored.returns, rtol=2e-3)
    assert module.reset_seeds == stored.reset_seeds


def test_batched_twin_agrees_with_gymnasium_in_distribution(certified: lipctrl.LipschitzPolicy) -> None:
    ours = evaluate(certified, "lipctrl/GymPendulum-v1", episodes=200)
    theirs = evaluate(certified, "Pendulum-v1", episodes=40)
    assert abs(ours.mean - theirs.mean) < 4.0 * np.hypot(ours.standard_error, theirs.standard_error)


def test_failure_is_termination_and_a_time_limit_is_not() -> None:
    gain = lqr_gain("lipctrl/CartPole-v0")
    good = evaluate(Linear(gain), "lipctrl/CartPole-v0", episodes=20, env_options={"horizon": 50})
    bad = evaluate(Linear(-gain), "lipctrl/CartPole-v0", episodes=20, env_options={"horizon": 50})
    assert not good.terminated.any()
    assert (good.lengths == 50).all()
    assert bad.terminated.all()
    assert (bad.lengths < 50).all()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_every_episode_counts_once_whatever_the_batch(count: int) -> None:
    gain = lqr_gain("lipctrl/CartPole-v0")
    result = evaluate(
        Linear(-gain), "lipctrl/CartPole-v0", episodes=7, num_envs=count, env_options={"horizon": 50}
    )
    assert result.episodes == 7
    assert len(set(result.returns.tolist())) == 7, "episodes with distinct starts cannot be equal"


def test_same_seed_same_result_and_other_seed_other_starts() -> None:
    policy = Linear(lqr_gain(PENDULUM))
    conditions = {"observation_noise": 0.01, "disturbance": 0.1, "attack": (0.01, 2)}
    one, two = (evaluate(policy, PENDULUM, episodes=5, seed=1, **conditions) for _ in range(2))
    other = evaluate(policy, PENDULUM, episodes=5, seed=2, **conditions)
    np.testing.assert_array_equal(one.returns, two.returns)
    assert not np.isin(one.returns, other.returns).any()


def test_starts_differ_from_those_of_a_training_run_with_the_same_seed() -> None:
    env = gymnasium.make_vec(f"lipctrl_envs:{PENDULUM}", num_envs=8, dtype="float64")
    seed = evaluate(Linear(lqr_gain(PENDULUM)), PENDULUM, episodes=8, seed=0).reset_seeds[0]
    unseen, _ = env.reset(seed=seed)
    from lipctrl.training.seeds import split_seed

    plant = env.unwrapped.plant
    seen = PlantSimulator(plant, 8, split_seed(0)["simulator"], dtype=torch.float64).observation
    assert not torch.isin(unseen, seen).any()


def test_gain_scale_zero_is_no_control_and_one_is_the_policy() -> None:
    policy = Linear(lqr_gain(PENDULUM))
    nothing = evaluate(lambda y: np.zeros((len(y), 1)), PENDULUM, episodes=4)
    np.testing.assert_allclose(
        evaluate(policy, PENDULUM, episodes=4, gain_scale=0.0).returns, nothing.returns, rtol=1e-12
    )
    plain = evaluate(policy, PENDULUM, episodes=4)
    doubled = evaluate(Linear(2.0 * lqr_gain(PENDULUM)), PENDULUM, episodes=4)
    np.testing.assert_allclose(
        evaluate(policy, PENDULUM, episodes=4, gain_scale=2.0).returns, doubled.returns
    )
    assert plain.mean > doubled.mean > nothing.mean


def test_delay_in_the_loop_equals_the_delay_of_the_plant() -> None:
    policy = Linear(lqr_gain(PENDULUM))
    for delay in (1, 3):
        # Undisturbed: the plant charges a command when it is given, the loop when it arrives, so the last ones differ.
        inside = evaluate(policy, PENDULUM, episodes=4, env_options={"delay": delay, "disturbance": 0.0})
        outside = evaluate(policy, PENDULUM, episodes=4, delay=delay, env_options={"disturbance": 0.0})
        np.testing.assert_allclose(inside.returns, outside.returns, rtol=1e-5)


@pytest.mark.parametrize(
    "conditions", [{"observation_noise": 0.1}, {"disturbance": 1.0}, {"attack": Attack(0.1, 3)}, {"delay": 4}]
)
def test_every_bad_condition_costs_an_optimal_controller(conditions: dict[str, object]) -> None:
    policy = Linear(lqr_gain(PENDULUM))
    clean = evaluate(policy, PENDULUM, episodes=16)
    assert evaluate(policy, PENDULUM, episodes=16, **conditions).mean < clean.mean


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_attack_reaches_the_worst_case_of_a_linear_map_and_no_more(norm: str) -> None:
    gain = torch.tensor([[3.0, -4.0, 12.0]], dtype=torch.float64)
    attack = Attack(0.2, steps=20, norm=norm)
    y = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def change(z: torch.Tensor) -> torch.Tensor:
        return ((z - y) @ gain.mT).square().sum(-1)

    worst = attack.perturb(change, y, torch.Generator().manual_seed(0))
    ball = torch.linalg.vector_norm(worst - y, dim=-1, ord=2 if norm == "l2" else torch.inf)
    assert (ball <= 0.2 * (1.0 + 1e-12)).all()
    dual = 13.0 if norm == "l2" else 19.0
    torch.testing.assert_close(
        change(worst).sqrt(), torch.full((6,), 0.2 * dual, dtype=torch.float64), rtol=3e-2, atol=0
    )


def test_no_attack_moves_a_certified_policy_beyond_its_gain(certified: lipctrl.LipschitzPolicy) -> None:
    gain, epsilon = certified.certificate().gain, 0.3
    y = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    policy = certified.export()
    true_action = policy(y)

    def change(z: torch.Tensor) -> torch.Tensor:
        return (policy(z) - true_action).square().sum(-1)

    worst = Attack(epsilon, steps=30).perturb(change, y, torch.Generator().manual_seed(0))
    moved = change(worst).sqrt()
    assert moved.max() <= gain * epsilon * (1.0 + 1e-5)
    assert moved.max() > 0.1 * gain * epsilon, "the attack is too weak to test anything"


def test_attack_on_the_cost_hurts_more_than_random_noise_of_the_same_size() -> None:
    policy, short = Linear(lqr_gain(PENDULUM)), {"env_options": {"horizon": 100}}
    clean = evaluate(policy, PENDULUM, episodes=8, **short).mean
    noise = evaluate(policy, PENDULUM, episodes=8, observation_noise=0.1 / np.sqrt(2.0), **short).mean
    for hold in (False, True):
        attack = Attack(0.1, steps=3, objective="cost", lookahead=4, hold=hold)
        hit = evaluate(policy, PENDULUM, episodes=8, attack=attack, **short).mean
        assert hit < noise < clean


def test_third_party_environments_run_in_standard_vector_environments() -> None:
    pytest.importorskip("mujoco")
    result = evaluate(lambda y: np.zeros((len(y), 1)), "InvertedPendulum-v5", episodes=3)
    assert result.terminated.all()
    assert (result.returns > 0.0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env_id": "CartPole-v1"}, "action space"),
        ({"episodes": 0}, "episodes"),
        ({"delay": -1}, "delay"),
        ({"gain_scale": float("nan")}, "gain_scale"),
        ({"observation_noise": [-1.0, 0.0, 0.0]}, "observation_noise"),
        ({"observation_noise": [1.0, 0.0]}, "2 entries"),
        ({"disturbance": float("inf")}, "disturbance"),
        ({"attack": (0.1, 3)}, "gradients"),
        ({"policy": lambda y: y}, "shape"),
        ({"policy": lambda y: y[:, :1] * np.nan}, "NaN"),
        ({"policy": 3}, "expected a torch module"),
    ],
)
def test_errors_say_what_is_wrong(arguments: dict[str, object], message: str) -> None:
    defaults: dict[str, object] = {
        "policy": lambda y: np.zeros((len(y), 1)),
        "env_id": "Pendulum-v1",
        "episodes": 1,
    }
    with pytest.raises(ValueError, match=message):
        evaluate(**{**defaults, **arguments})


def test_attack_on_the_cost_needs_a_plant(certified: lipctrl.LipschitzPolicy) -> None:
    with pytest.raises(ValueError, match="differentiates through the plant"):
        evaluate(certified, "Pendulum-v1", episodes=1, attack=Attack(0.1, objective="cost"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"epsilon": -1.0},
        {"epsilon": 1.0, "steps": 0, "starts": 0},
        {"epsilon": 1.0, "steps": -1},
        {"epsilon": 1.0, "starts": -1},
        {"epsilon": 1.0, "scale": (1.0, 0.0)},
        {"epsilon": 1.0, "norm": "l1"},
        {"epsilon": 1.0, "objective": "fun"},
    ],
)
def test_attack_refuses_nonsense(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Attack(**arguments)


def test_a_module_is_left_as_it_was(certified: lipctrl.LipschitzPolicy) -> None:
    policy = Linear(lqr_gain(PENDULUM))
    policy.train()
    evaluate(policy, PENDULUM, episodes=2, attack=(0.1, 2))
    assert policy.training
    assert policy.weight.requires_grad
    assert policy.weight.grad is None


# -- adversaries that need no gradient ----------------------------------------------------------------


class Bang(nn.Module):
    """The sign of a linear law: saturated everywhere, so that every gradient is zero."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return 5.0 * torch.sign(-8.0 * y[:, :1] - 2.0 * y[:, 1:])


def test_a_search_moves_an_action_whose_gradient_is_hidden() -> None:
    policy, y = Bang(), torch.full((4, 2), 0.05)

    def loss(z: torch.Tensor) -> torch.Tensor:
        return (policy(z.reshape(-1, 2)).reshape(*z.shape[:-1], 1) - policy(y)).square().sum(-1)

    for norm in ("l2", "linf"):
        moved = Attack(0.2, steps=0, norm=norm).perturb(loss, y, torch.Generator().manual_seed(0))
        assert (loss(moved) > 0.0).all(), norm
        assert (
            torch.linalg.vector_norm(moved - y, dim=-1, ord=2 if norm == "l2" else torch.inf).max() < 0.2001
        )


def test_scale_makes_the_ball_an_ellipsoid() -> None:
    y = torch.zeros(1, 2, dtype=torch.float64)
    gain = torch.tensor([1.0, 1.0], dtype=torch.float64)
    worst = Attack(0.5, 40, scale=(1.0, 100.0)).perturb(
        lambda z: (z * gain).sum(-1), y, torch.Generator().manual_seed(0)
    )
    # argmax of δ₁ + δ₂ over δ₁² + (δ₂ / 100)² <= ε² is ε (1, 100²) / sqrt(1 + 100²).
    assert (worst * gain).sum() == pytest.approx(0.5 * np.sqrt(1.0 + 100.0**2), rel=1e-3)
    with pytest.raises(ValueError, match="scale has 3 entries"):
        Attack(0.5, scale=(1.0, 1.0, 1.0)).perturb(lambda z: z.sum(-1), y, torch.Generator())


def test_a_wave_is_seen_by_the_policy_and_by_nothing_else() -> None:
    seen: list[np.ndarray] = []

    def idle(y: np.ndarray) -> np.ndarray:
        seen.append(y.copy())
        return np.zeros((len(y), 1))

    clean = evaluate(idle, PENDULUM, episodes=2, env_options={"horizon": 6})
    honest, seen = seen, []
    wave = Wave(0.3, [[0.0, 2.0], [1.0, 0.0]], period=[4.0, np.inf], phase=[0.0, 0.5])
    moved = evaluate(idle, PENDULUM, episodes=2, env_options={"horizon": 6}, attack=wave)
    np.testing.assert_array_equal(clean.returns, moved.returns)
    delta = np.stack(seen) - np.stack(honest)
    np.testing.assert_allclose(delta[:, 0, 1], [0.3, -0.3, -0.3, 0.3, 0.3, -0.3], atol=1e-6)
    np.testing.assert_allclose(delta[:, 1, 0], -0.3, atol=1e-6)
    np.testing.assert_allclose(delta[:, 0, 0], 0.0, atol=1e-6)
    # In parts, every episode keeps its own wave.
    seen = []
    evaluate(
        idle, PENDULUM, episodes=2, num_envs=1, env_options={"horizon": 1, "disturbance": 0.0}, attack=wave
    )
    assert len(seen) == 2
    assert moved.to_dict()["perturbation"]["attack"]["period"] == [4.0, None]


def test_a_bias_shifts_the_equilibrium_as_linear_theory_says() -> None:
    # θ̈ = a θ + b u, u = -K (θ + δ): at rest θ = -δ K b / (K b - a); a low gain near the limit a / b is hurt most.
    system = gymnasium.make(f"lipctrl_envs:{PENDULUM}").unwrapped.linearize()
    shift = []
    for gain in (np.array([[13.0, 3.0]]), np.array([[30.0, 4.0]])):
        K = gain
        closed = np.linalg.solve(np.eye(2) - (system.A - system.B @ K), -system.B @ K @ np.array([0.01, 0.0]))
        shift.append(abs(float(closed[0])))
    assert shift[0] > shift[1] > 0.01
    costs = [
        -evaluate(
            Linear(K), PENDULUM, episodes=4, attack=Wave(0.1, (1.0, 0.0)), env_options={"disturbance": 0.0}
        ).mean
        for K in (np.array([[13.0, 3.0]]), np.array([[30.0, 4.0]]))
    ]
    assert costs[0] > costs[1]


def test_the_worst_case_is_never_better_than_nothing_and_names_its_adversary() -> None:
    policy = Linear(lqr_gain(PENDULUM))
    found = worst_case(policy, PENDULUM, 0.1, episodes=6, waves=6, env_options={"horizon": 60})
    assert set(found.evaluations) == {"nothing", "action", "cost", "one-step cost", "wave"}
    assert found.worst.mean == min(e.mean for e in found.evaluations.values())
    assert found.lost > 0.0
    assert found.name in str(found)
    assert len({e.reset_seeds for e in found.evaluations.values()}) == 1
    again = worst_case(policy, PENDULUM, 0.1, episodes=6, waves=6, env_options={"horizon": 60})
    assert again.worst.mean == found.worst.mean
    none = worst_case(policy, PENDULUM, 0.0, episodes=4, waves=2, env_options={"horizon": 60})
    assert none.lost == 0.0


def test_the_worst_case_of_a_black_box_is_a_wave() -> None:
    found = worst_case(lambda y: -y[:, 1:2] * 8.0, "Pendulum-v1", 0.3, episodes=2, waves=2)
    assert set(found.evaluations) == {"nothing", "wave"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"direction": (0.0, 0.0)},
        {"direction": (1.0, float("nan"))},
        {"period": 0.0},
        {"phase": float("inf")},
        {"epsilon": -1.0},
    ],
)
def test_wave_refuses_nonsense(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Wave(**{"epsilon": 0.1, "direction": (1.0, 0.0), **arguments})
