"""Proximal policy optimisation (Schulman et al. 2017) of a certified policy, for any environment.

The policy stays certified at every update: exploration adds noise to its command, it does not change the map. Scales of
the observation live in the policy and count in its gain. Time limits bootstrap (Pardo et al. 2018); only
termination has value zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lipctrl.training.algorithm import (
    Algorithm,
    Critic,
    ReturnScale,
    actor,
    descend,
    learning_rate,
    require_finite,
)
from lipctrl.training.rollout import Simulator


@dataclass(frozen=True)
class PPOConfig:
    """Settings of proximal policy optimisation."""

    environments: int = 256
    """copies of the environment stepped together"""
    horizon: int = 32
    """steps of each rollout"""
    discount: float = 0.95
    """weight of the next step's reward against this one's"""
    trace: float = 0.95
    """λ of generalised advantage estimation"""
    rate: float = 2e-3
    """initial learning rate, falling linearly to zero"""
    epochs: int = 8
    """passes over each rollout"""
    minibatches: int = 4
    """parts that a pass is cut into"""
    ratio_clip: float = 0.2
    """largest useful change of an action's probability"""
    exploration: float = 1.0
    """initial standard deviation of the exploration noise, as a fraction of the action limit"""
    value_width: int = 64
    """neurons in each of the two hidden layers of the value"""
    value_weight: float = 0.5
    """weight of the value's loss"""
    entropy_weight: float = 0.0
    """weight of the entropy bonus"""
    gradient_clip: float = 0.5
    """largest norm of a gradient"""


class PPO(Algorithm):
    """Ascend the clipped surrogate with a Gaussian about the policy's command."""

    name: ClassVar[str] = "ppo"
    Config: ClassVar[type[PPOConfig]] = PPOConfig

    def __init__(
        self,
        policy: nn.Module,
        simulator: Simulator,
        config: PPOConfig,
        seeds: dict[str, int],
        action_limit: Tensor,
    ) -> None:
        self.policy, self.simulator, self.config = policy, simulator, config
        self.steps_per_iteration = config.environments * config.horizon
        self.exploration = torch.Generator(device=simulator.device).manual_seed(seeds["exploration"])
        self.generator = torch.Generator().manual_seed(seeds["minibatch"])
        features = simulator.observation.shape[-1]
        self.critic = Critic(features, config.value_width, self.generator, simulator.dtype)
        self.critic.to(simulator.device)
        unit = torch.where(torch.isfinite(action_limit), action_limit, 1.0)
        unit = unit.to(device=simulator.device, dtype=simulator.dtype)
        self.log_deviation = nn.Parameter(torch.log(unit * config.exploration))
        self.scale = ReturnScale(config.discount)
        self.parameters: list[Tensor] = [
            *(p for p in policy.parameters() if p.requires_grad),
            *self.critic.parameters(),
            self.log_deviation,
        ]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.rate, eps=1e-5, fused=True)

    def iterate(self, progress: float) -> dict[str, float]:
        config, simulator = self.config, self.simulator
        learning_rate(self.optimizer, config.rate * (1.0 - progress))

        # 1. Roll out with noise about the command; the environment clips, the policy's own clip is applied there too.
        seen, reached, actions, rewards, ended, late = [], [], [], [], [], []
        with torch.no_grad():
            act = actor(self.policy)
            deviation = self.log_deviation.exp()
            for _ in range(config.horizon):
                seen.append(simulator.observation)
                mean = act(simulator.observation)
                noise = torch.randn(
                    mean.shape, generator=self.exploration, device=mean.device, dtype=mean.dtype
                )
                actions.append(mean + deviation * noise)
                step = simulator.step(actions[-1])
                reached.append(step.observation)
                rewards.append(step.reward)
                ended.append(step.terminated)
                late.append(step.truncated)
            observation, action = torch.stack(seen), torch.stack(actions)
            reward = require_finite("reward", torch.stack(rewards))
            require_finite("observation", observation)

            # 2. Advantages, with the value of the observation reached before any restart.
            self.critic.observe(observation)
            self.scale.observe(reward)
            value, follow = self.critic(observation), self.critic(torch.stack(reached))
            advantage = self._advantages(
                reward / self.scale.value, value, follow, torch.stack(ended), torch.stack(late)
            )
            old = self._log_probability(act(observation), action)

        # 3. Several epochs of minibatches.
        batch = [x.flatten(0, 1) for x in (observation, action, old, advantage, advantage + value)]
        totals = torch.zeros(4)
        for _ in range(config.epochs):
            order = torch.randperm(len(batch[0]), generator=self.generator).to(simulator.device)
            for part in order.chunk(config.minibatches):
                totals += torch.tensor(self._update(*(x[part] for x in batch)))
        means = (totals / (config.epochs * config.minibatches)).tolist()
        names = ("policy_loss", "value_loss", "ratio_change", "gradient_norm")
        return {
            "mean_reward": reward.mean().item(),
            **dict(zip(names, means, strict=True)),
            "exploration": self.log_deviation.detach().exp().mean().item(),
        }

    def _log_probability(self, mean: Tensor, action: Tensor) -> Tensor:
        z = (action - mean) / self.log_deviation.exp()
        return (-0.5 * z.square() - self.log_deviation - 0.5 * math.log(2.0 * math.pi)).sum(-1)

    def _advantages(
        self, reward: Tensor, value: Tensor, follow: Tensor, ended: Tensor, late: Tensor
    ) -> Tensor:
        """Generalised advantages (Schulman et al. 2016, eq. 16); the trace stops at every restart."""
        discount, trace = self.config.discount, self.config.trace
        surprise = reward + discount * follow * ~ended - value
        onward = discount * trace * ~(ended | late)
        advantage = torch.empty_like(reward)
        running = torch.zeros_like(reward[0])
        for t in reversed(range(len(reward))):
            advantage[t] = running = surprise[t] + onward[t] * running
        return advantage

    def _update(
        self, observation: Tensor, action: Tensor, old: Tensor, advantage: Tensor, target: Tensor
    ) -> tuple[float, float, float, float]:
        config = self.config
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        ratio = (self._log_probability(actor(self.policy)(observation), action) - old).exp()
        clipped = ratio.clamp(1.0 - config.ratio_clip, 1.0 + config.ratio_clip)
        surrogate = torch.minimum(ratio * advantage, clipped * advantage).mean()
        value_loss = (self.critic(observation) - target).square().mean()
        entropy = self.log_deviation.sum()
        loss = config.value_weight * value_loss - surrogate - config.entropy_weight * entropy
        require_finite("loss", loss)
        norm = descend(self.optimizer, loss, self.parameters, config.gradient_clip)
        return -surrogate.item(), value_loss.item(), (ratio.detach() - 1.0).abs().mean().item(), norm

    def state(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "log_deviation": self.log_deviation.detach(),
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale.state(),
            "exploration": self.exploration.get_state(),
            "generator": self.generator.get_state(),
            "simulator": self.simulator.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        with torch.no_grad():
            self.log_deviation.copy_(state["log_deviation"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scale.load_state(state["scale"])
        self.exploration.set_state(state["exploration"])
        self.generator.set_state(state["generator"])
        self.simulator.load_state(state["simulator"])
