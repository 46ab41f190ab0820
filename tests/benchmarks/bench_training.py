"""Training: time to solve a swing-up beside Stable-Baselines3, the price of a certificate, plants against LQR."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

import lipctrl
from lipctrl.runs import StabilityGuarantee, design_policy, output_gain
from lipctrl.training import (
    APG,
    PPO,
    Algorithm,
    APGConfig,
    Imitation,
    ImitationConfig,
    PPOConfig,
    Task,
    evaluate,
    find_task,
    make_simulator,
    split_seed,
)

Rows = list[dict[str, Any]]
SOLVED = -200.0


class PlainPolicy(nn.Module):
    """-K y + MLP(y / scale): the same shape as a certified policy, without any bound."""

    def __init__(
        self, features: int, actions: int, width: int, layers: int, scale: Tensor, gain: Any
    ) -> None:
        super().__init__()
        sizes = [features, *[width] * layers, actions]
        stack: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            stack += [nn.Linear(a, b), nn.ReLU()]
        self.net = nn.Sequential(*stack[:-1])
        self.register_buffer("scale", scale)
        self.register_buffer("gain", torch.zeros(actions, features) if gain is None else gain)

    def forward(self, y: Tensor) -> Tensor:
        return self.net(y / self.scale) - y @ self.gain.mT


def plain_like(policy: Any, width: int, layers: int, seed: int) -> PlainPolicy:
    """Return an unconstrained policy with the scaling and the linear part of a certified one."""
    torch.manual_seed(seed)
    gain = getattr(policy, "gain", None)
    return PlainPolicy(
        policy.in_features, policy.out_features, width, layers, policy.observation_scale.clone(), gain
    )


def learner_of(kind: Any, policy: nn.Module, task: Task, config: Any, seed: int) -> Algorithm:
    """Return an algorithm on a fresh simulator."""
    seeds = split_seed(seed)
    simulator = make_simulator(task, config.environments, seeds["simulator"])
    if kind is PPO:
        return PPO(policy, simulator, config, seeds, torch.tensor(task.action_limit))
    return kind(policy, simulator, config, seeds)


def seconds_to_solve(learner: Algorithm, total: int, every: int) -> tuple[float | None, float]:
    """Return (CPU-seconds until 100 unseen episodes of Gymnasium's own environment earn SOLVED, last mean return)."""
    used, last = 0.0, float("-inf")
    for i in range(total):
        start = time.process_time()
        learner.iterate(i / total)
        used += time.process_time() - start
        if (i + 1) % every == 0 or i + 1 == total:
            last = evaluate(learner.policy, "Pendulum-v1", episodes=100, seed=1000).mean
            if last > SOLVED:
                return used, last
    return None, last


def _ours(kind: Any, config: Any, total: int, every: int, seed: int) -> tuple[float | None, float, float]:
    task = find_task("Pendulum-v1")
    policy = design_policy(task, lipschitz=10.0, seed=seed).policy
    solved, last = seconds_to_solve(learner_of(kind, policy, task, config, seed), total, every)
    return solved, last, policy.certificate().gain


def _stable_baselines(steps: int, seed: int) -> tuple[float | None, float, float]:
    """SB3 PPO with the settings of rl-baselines3-zoo for Pendulum-v1."""
    from stable_baselines3 import PPO as Peer
    from stable_baselines3.common.env_util import make_vec_env

    model = Peer(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", n_envs=4, seed=seed),
        n_steps=1024,
        gae_lambda=0.95,
        gamma=0.9,
        n_epochs=10,
        ent_coef=0.0,
        learning_rate=1e-3,
        clip_range=0.2,
        use_sde=True,
        sde_sample_freq=4,
        seed=seed,
        device="cpu",
    )
    used, last = 0.0, float("-inf")
    while model.num_timesteps < steps:
        start = time.process_time()
        model.learn(4096, reset_num_timesteps=False)
        used += time.process_time() - start
        if model.num_timesteps >= 20_000:
            last = evaluate(
                lambda y: model.predict(y.astype(np.float32), deterministic=True)[0],
                "Pendulum-v1",
                episodes=100,
                seed=1000,
            ).mean
            if last > SOLVED:
                return used, last, float("nan")
    return None, last, float("nan")


def pendulum_time_to_solve(fast: bool) -> Rows:
    """CPU-seconds to solve Gymnasium's Pendulum-v1: mean return above -200 over 100 unseen episodes."""
    torch.set_num_threads(1)
    seeds = range(1 if fast else 3)
    limit = 8_192 if fast else 150_000
    routes: dict[str, Callable[[int], tuple[float | None, float, float]]] = {
        "imitation (certified)": lambda s: _ours(
            Imitation, ImitationConfig(updates=60), 4 if fast else 20, 1, s
        ),
        "PPO (certified)": lambda s: _ours(PPO, PPOConfig(), 4 if fast else 100, 3, s),
        "APG from scratch (certified)": lambda s: _ours(
            APG,
            APGConfig(environments=256, horizon=24, discount=0.97, policy_rate=3e-3, value_width=128),
            4 if fast else 200,
            5,
            s,
        ),
        "SB3 PPO, rl-zoo settings (plain MLP)": lambda s: _stable_baselines(limit, s),
    }
    rows = []
    for name, route in routes.items():
        found = [route(seed) for seed in seeds]
        solved = [f[0] for f in found if f[0] is not None]
        rows.append(
            {
                "route": name,
                "solved": f"{len(solved)}/{len(found)}",
                "median CPU-s to solve": statistics.median(solved) if solved else float("nan"),
                "worst CPU-s": max(solved) if solved else float("nan"),
                "mean return when stopped": statistics.mean(f[1] for f in found),
                "certified gain": max(f[2] for f in found),
            }
        )
    return rows


def _trained(
    kind: Any, policy: nn.Module, task: Task, config: Any, total: int, seed: int
) -> tuple[float, int]:
    """Return (cost, failures) on 256 unseen episodes of the best of ten snapshots, chosen on other episodes."""
    learner = learner_of(kind, policy, task, config, seed)
    best, weights = float("inf"), policy.state_dict()
    for i in range(total):
        learner.iterate(i / total)
        if (i + 1) % max(total // 10, 1) == 0:
            cost = evaluate(policy, _copy(task), episodes=128, seed=77).cost
            if cost < best:
                best, weights = cost, {k: v.clone() for k, v in policy.state_dict().items()}
    policy.load_state_dict(weights)
    final = evaluate(policy, _copy(task), episodes=256, seed=4242)
    return final.cost, int(final.terminated.sum())


def _copy(task: Task) -> Task:
    import dataclasses

    return task if task.twin is None else dataclasses.replace(task, env_id=task.twin, twin=None)


LONG = APGConfig(
    environments=128, horizon=64, policy_rate=5e-3, value_rate=2e-3, value_epochs=2, value_minibatches=16
)


def cost_of_certainty(fast: bool) -> Rows:
    """Cost of certified policies for several bounds, beside an unconstrained MLP: same algorithm, budget and size."""
    torch.set_num_threads(1)
    seeds = range(1 if fast else 3)
    cases: list[tuple[str, Any, Any, int, tuple[float, ...]]] = [
        ("Pendulum-v1", PPO, PPOConfig(), 2 if fast else 70, (6.0, 10.0, 20.0)),
        ("lipctrl/CartPole-v0", APG, LONG, 2 if fast else 60, (0.25, 0.5, 0.9)),
        ("lipctrl/MassSpringChain-v0", APG, LONG, 2 if fast else 60, (0.25, 0.5, 0.9)),
    ]
    rows: Rows = []
    for env_id, kind, config, total, bounds in cases:
        task = find_task(env_id)
        for bound in (*bounds, None):
            found = []
            for seed in seeds:
                policy: Any = _bounded(task, bounds[0] if bound is None else bound, seed)
                if bound is None:
                    policy = plain_like(policy, 32, 3, seed)
                found.append(_trained(kind, policy, task, config, total, seed))
            costs = [f[0] for f in found]
            rows.append(
                {
                    "environment": env_id,
                    "algorithm": kind.name,
                    "bound": "none (MLP)" if bound is None else _named(task, bound),
                    "cost": statistics.mean(costs),
                    "worst seed": max(costs),
                    "failures in 256": sum(f[1] for f in found) / len(found),
                }
            )
    return rows


def _bounded(task: Task, bound: float, seed: int) -> Any:
    """Return a policy of gain `bound`, or, around LQR, of residual gain `bound` × stability radius."""
    if task.twin is not None:
        return design_policy(task, lipschitz=bound, seed=seed).policy
    radius = StabilityGuarantee.of(task.plant.linearize(), output_gain(task.plant)).radius
    return design_policy(task, lipschitz=bound * radius, seed=seed).policy


def _named(task: Task, bound: float) -> str:
    return f"gain {bound:g}" if task.twin is not None else f"{bound:g} × stability radius"


def policy_throughput(fast: bool) -> Rows:
    """Environment steps per CPU-second of whole PPO iterations, certified against plain, about 8,500 weights each."""
    torch.set_num_threads(1)
    rows: Rows = []
    task = find_task("Pendulum-v1")
    for environments in (256, 1024) if fast else (256, 1024, 4096):
        config = PPOConfig(environments=environments)
        speed, sizes = {}, {}
        for name in ("plain", "certified"):
            policy: Any = design_policy(task, width=32, depth=2, lipschitz=10.0).policy
            if name == "plain":
                policy = plain_like(policy, 64, 3, 0)
            sizes[name] = sum(p.numel() for p in policy.parameters())
            learner = learner_of(PPO, policy, task, config, 0)
            learner.iterate(0.0)
            times = []
            for _ in range(2 if fast else 5):
                start = time.process_time()
                learner.iterate(0.0)
                times.append(time.process_time() - start)
            speed[name] = learner.steps_per_iteration / statistics.median(times)
        rows.append(
            {
                "environments": environments,
                "weights, plain / certified": " / ".join(map(str, sizes.values())),
                "minibatch": learner.steps_per_iteration // config.minibatches,
                "plain, steps/CPU-s": speed["plain"],
                "certified, steps/CPU-s": speed["certified"],
                "ratio": speed["certified"] / speed["plain"],
            }
        )
    return rows


def residual_everywhere(fast: bool) -> Rows:
    """Every plant: a certified residual (half the stability radius) against its LQR, 256 unseen disturbed episodes."""
    torch.set_num_threads(1)
    import lipctrl_envs

    rows: Rows = []
    for name in lipctrl_envs.plant_names():
        task = find_task(lipctrl_envs.environment_id(name))
        design = design_policy(task)
        if design.guarantee is None:
            continue
        K, limit = design.guarantee.gain, task.action_limit
        lqr = evaluate(lambda y, K=K, u=limit: np.clip(-y @ K.T, -u, u), task, episodes=256, seed=4242)
        start = time.process_time()
        cost, failures = _trained(APG, design.policy, task, LONG, 2 if fast else 120, 0)
        seconds = time.process_time() - start
        certificate = design.policy.certificate()
        margin = lipctrl.incremental_gain_margin(task.plant.linearize(), certificate, form="policy")
        rows.append(
            {
                "environment": name,
                "LQR cost": lqr.cost,
                "certified cost": cost,
                "change %": 100.0 * (cost / lqr.cost - 1.0),
                "failures": f"{int(lqr.terminated.sum())} → {failures}",
                "Lip φ": certificate.radius,
                "radius": design.guarantee.radius,
                "gain margin": f"{margin.lower:.3g} … {margin.upper:.3g}",
                "CPU-s": seconds,
            }
        )
    return rows


def third_party(fast: bool) -> Rows:
    """Gymnasium and MuJoCo environments as black boxes: PPO with a certified policy."""
    torch.set_num_threads(1)
    rows: Rows = []
    for env_id, total in (("InvertedPendulum-v5", 120), ("MountainCarContinuous-v0", 60)):
        task = find_task(env_id)
        policy = design_policy(task).policy
        config = PPOConfig(environments=16, horizon=128, discount=0.99, rate=1e-3, minibatches=8)
        learner = learner_of(PPO, policy, task, config, 0)
        before = evaluate(policy, task, episodes=16, seed=5).mean
        iterations = 2 if fast else total
        start = time.process_time()
        for i in range(iterations):
            learner.iterate(i / iterations)
        seconds = time.process_time() - start
        rows.append(
            {
                "environment": env_id,
                "steps": iterations * learner.steps_per_iteration,
                "return before": before,
                "return after": evaluate(policy, task, episodes=16, seed=5).mean,
                "certified gain": policy.certificate().gain,
                "CPU-s": seconds,
                "steps limit": gymnasium.spec(env_id).max_episode_steps,
            }
        )
    return rows


TABLES = {
    "pendulum_time_to_solve": pendulum_time_to_solve,
    "cost_of_certainty": cost_of_certainty,
    "policy_throughput": policy_throughput,
    "residual_everywhere": residual_everywhere,
    "third_party": third_party,
}
