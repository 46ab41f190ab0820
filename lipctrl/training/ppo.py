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
    Descent,
    ReturnScale,
    Settings,
    actor,
    gain_share,
    require_finite,
)
from lipctrl.training.rollout import Simulator


@dataclass(frozen=True)
class PPOConfig(Settings):
    """Settings of proximal policy optimisation."""

    environments: int = 96
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
    minibatches: int = 2
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
    gain_price: float = 0.0
    """loss for using all of the gain; a network with trainable_lipschitz=True trades performance for it"""


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
        if self.steps_per_iteration < 2 * config.minibatches:
            raise ValueError(
                f"{config.environments} environments of {config.horizon} steps make {self.steps_per_iteration} "
                f"transitions, too few for {config.minibatches} minibatches of two or more; raise environments or "
                "horizon, or lower minibatches"
            )
        if config.exploration == 0.0:
            raise ValueError("setting exploration is 0; the policy gradient needs noise, a positive number")
        self.share = gain_share(policy, config.gain_price)
        self.exploration = torch.Generator(device=simulator.device).manual_seed(seeds["exploration"])
        self.generator = torch.Generator().manual_seed(seeds["minibatch"])
        features = simulator.observation.shape[-1]
        self.critic = Critic(features, config.value_width, self.generator, simulator.dtype)
        self.critic.to(simulator.device)
        unit = torch.where(torch.isfinite(action_limit), action_limit, 1.0)
        unit = unit.to(device=simulator.device, dtype=simulator.dtype)
        self.log_deviation = nn.Parameter(torch.log(unit * config.exploration))
        self.scale = ReturnScale(config.discount, simulator.device)
        self.descent = Descent(
            [
                *(p for p in policy.parameters() if p.requires_grad),
                *self.critic.parameters(),
                self.log_deviation,
            ],
            config.rate,
            config.gradient_clip,
            eps=1e-5,
        )

    def iterate(self, progress: float) -> dict[str, float]:
        config, simulator = self.config, self.simulator
        self.descent.set_rate(config.rate * (1.0 - progress))

        # 1. Roll out with noise about the command; the environment clips, the policy's own clip is applied there too.
        seen, reached, actions, rewards, ended, late = [], [], [], [], [], []
        with torch.no_grad():
            act = actor(self.policy)
            deviation = self.log_deviation.exp()
            noise = torch.randn(
                (config.horizon, simulator.count, len(deviation)),
                generator=self.exploration,
                device=simulator.device,
                dtype=simulator.dtype,
            )
            for white in noise.unbind(0):
                seen.append(simulator.observation)
                actions.append(torch.addcmul(act(simulator.observation), deviation, white))
                step = simulator.step(actions[-1])
                reached.append(step.observation)
                rewards.append(step.reward)
                ended.append(step.terminated)
                late.append(step.truncated)
            observation, action, reward = torch.stack(seen), torch.stack(actions), torch.stack(rewards)

            # 2. Advantages, with the value of the observation reached before any restart.
            self.critic.observe(observation)
            self.scale.observe(reward)
            standard = self.critic.standardised(observation)
            value, follow = self.critic.value(standard), self.critic(torch.stack(reached))
            scaled = (reward / self.scale.value).to(reward.dtype)
            advantage = self._advantages(scaled, value, follow, torch.stack(ended), torch.stack(late))
            target = advantage + value
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            old = self._log_probability(noise)

        # 3. Several epochs of minibatches, each cut out of one shuffled table.
        columns = (observation, standard, action, old[..., None], advantage[..., None], target[..., None])
        widths = [c.shape[-1] for c in columns]
        table = torch.cat(columns, -1).flatten(0, 1)
        totals: list[Tensor] = []
        for _ in range(config.epochs):
            order = torch.randperm(len(table), generator=self.generator).to(simulator.device)
            for part in table[order].chunk(config.minibatches):
                totals.append(self._update(*part.split(widths, -1)))
        losses = torch.stack(totals).mean(0)
        require_finite(reward=reward, observation=observation, gradient=losses)
        numbers = torch.stack([reward.mean(), *losses, self.log_deviation.detach().exp().mean()]).tolist()
        names = ("mean_reward", "policy_loss", "value_loss", "ratio_change", "gradient_norm", "exploration")
        return dict(zip(names, numbers, strict=True))

    def _log_probability(self, white: Tensor) -> Tensor:
        """Return the log density of actions `white` standard deviations from the mean."""
        return (-0.5 * white.square() - self.log_deviation - 0.5 * math.log(2.0 * math.pi)).sum(-1)

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
            running = torch.addcmul(surprise[t], onward[t], running, out=advantage[t])
        return advantage

    @torch.enable_grad()
    def _update(
        self,
        observation: Tensor,
        standard: Tensor,
        action: Tensor,
        old: Tensor,
        advantage: Tensor,
        target: Tensor,
    ) -> Tensor:
        """Take one optimiser step; return (policy loss, value loss, change of ratio, gradient norm)."""
        config, mean = self.config, actor(self.policy)(observation)
        value = self.critic.value(standard)[..., None]
        with torch.no_grad():
            found = self._gradients(mean, value, action, old, advantage, target)
        surrogate, change, error, (by_mean, by_deviation, by_value) = found
        self.log_deviation.grad = by_deviation
        torch.autograd.backward((mean, value), (by_mean, by_value))
        if self.share is not None:
            (config.gain_price * self.share()).backward()
        norm = self.descent.step()
        return torch.stack([-surrogate, error.square().mean(), change, norm])

    def _gradients(
        self, mean: Tensor, value: Tensor, action: Tensor, old: Tensor, advantage: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return the clipped surrogate (Schulman et al. 2017, eq. 7) and the loss' gradients, written out.

        By hand because that takes a third of the kernels that autograd would launch; the tests compare the two.
        """
        config, count = self.config, len(mean)
        white = (action - mean) * torch.exp(-self.log_deviation)
        ratio = (self._log_probability(white)[..., None] - old).exp()
        gain = ratio * advantage
        bound = ratio.clamp(1.0 - config.ratio_clip, 1.0 + config.ratio_clip) * advantage
        # Where the clipped branch is the smaller one the surrogate is flat.
        weight = torch.where(gain <= bound, gain, 0.0) / -count
        by_mean = weight * white * torch.exp(-self.log_deviation)
        by_deviation = (weight * (white.square() - 1.0)).sum(0) - config.entropy_weight
        error = value - target
        by_value = error * (2.0 * config.value_weight / count)
        surrogate, change = torch.minimum(gain, bound).mean(), (ratio - 1.0).abs().mean()
        return surrogate, change, error, (by_mean, by_deviation, by_value)

    def state(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "log_deviation": self.log_deviation.detach(),
            "optimizer": self.descent.state(),
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
        self.descent.load_state(state["optimizer"])
        self.scale.load_state(state["scale"])
        self.exploration.set_state(state["exploration"])
        self.generator.set_state(state["generator"])
        self.simulator.load_state(state["simulator"])
