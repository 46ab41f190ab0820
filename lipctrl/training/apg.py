"""Analytic policy gradient: backpropagate the cost of short rollouts through the plant's own dynamics.

The horizon is short and ends in a learned value (Xu et al. 2022, Accelerated Policy Learning with Parallel
Differentiable Simulation, eq. 4-7), so gradients neither explode nor end at the window. With a residual policy inside
the stability radius the loop contracts from the first iteration on, and so do the gradients.
"""

from __future__ import annotations

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
from lipctrl.training.rollout import PlantSimulator, Simulator


@dataclass(frozen=True)
class APGConfig(Settings):
    """Settings of the analytic policy gradient."""

    environments: int = 64
    """copies of the plant stepped together"""
    horizon: int = 32
    """steps of each window through which gradients flow"""
    discount: float = 0.99
    """weight of the next step's cost against this one's"""
    trace: float = 0.95
    """λ of the λ-returns that the value learns from"""
    policy_rate: float = 3e-3
    """initial learning rate of the policy, falling linearly to a tenth"""
    value_rate: float = 4e-3
    """initial learning rate of the value, falling linearly to a tenth"""
    value_epochs: int = 4
    """passes over each window when fitting the value"""
    value_minibatches: int = 8
    """parts that a pass is cut into"""
    value_width: int = 64
    """neurons in each of the two hidden layers of the value"""
    gradient_clip: float = 1.0
    """largest norm of a policy gradient, in units of the scaled return"""
    exploration: float = 0.0
    """initial standard deviation of noise on the command, as a fraction of the action limit, falling to zero"""
    gain_price: float = 0.0
    """loss for using all of the gain; a network with trainable_lipschitz=True trades performance for it"""


class _InwardClip(torch.autograd.Function):
    """clip(u, -limit, limit) whose gradient passes inside, and outside where descent leads back inside.

    The exact gradient outside is zero: a command beyond the limits would stay there, however bad.
    """

    @staticmethod
    def forward(ctx: Any, command: Tensor, limit: Tensor) -> Tensor:
        ctx.save_for_backward(command, limit)
        return torch.clamp(command, -limit, limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        command, limit = ctx.saved_tensors
        (gradient,) = gradients
        outward = (command.abs() > limit) & (command * gradient < 0.0)
        return torch.where(outward, 0.0, gradient), None


class APG(Algorithm):
    """Descend the gradient of -Σ γᵗ r_t - γʰ V(y_h) in the policy's parameters."""

    name: ClassVar[str] = "apg"
    simulator: PlantSimulator
    Config: ClassVar[type[APGConfig]] = APGConfig

    def __init__(
        self, policy: nn.Module, simulator: Simulator, config: APGConfig, seeds: dict[str, int]
    ) -> None:
        if not isinstance(simulator, PlantSimulator):
            raise ValueError(
                "the analytic policy gradient needs a differentiable plant, and this environment is a black box; "
                'use algorithm="ppo"'
            )
        self.policy, self.simulator, self.config = policy, simulator, config
        self.share = gain_share(policy, config.gain_price)
        self.steps_per_iteration = config.environments * config.horizon
        self.generator = torch.Generator().manual_seed(seeds["minibatch"])
        self.exploration = torch.Generator(device=simulator.device).manual_seed(seeds["exploration"])
        self.limit = torch.as_tensor(simulator.plant.action_limit.copy()).to(simulator.observation)
        self.critic = Critic(
            simulator.observation.shape[-1], config.value_width, self.generator, simulator.dtype, nn.Tanh
        ).to(simulator.device)
        self.scale = ReturnScale(config.discount, simulator.device)
        self.policy_descent = Descent(
            [p for p in policy.parameters() if p.requires_grad],
            config.policy_rate,
            config.gradient_clip,
            betas=(0.9, 0.95),
        )
        self.value_descent = Descent(list(self.critic.parameters()), config.value_rate, 1.0)

    def iterate(self, progress: float) -> dict[str, float]:
        config, simulator = self.config, self.simulator
        decay = 1.0 - 0.9 * progress
        self.policy_descent.set_rate(config.policy_rate * decay)
        self.value_descent.set_rate(config.value_rate * decay)

        # 1. Roll out one window, keeping the graph from rewards to parameters.
        simulator.detach()
        act = actor(self.policy)
        before, after, rewards, ended, late = [], [], [], [], []
        for noise in self._noise(1.0 - progress):
            before.append(simulator.observation.detach())
            step = simulator.step(_InwardClip.apply(act(simulator.observation) + noise, self.limit))
            after.append(step.observation)
            rewards.append(step.reward)
            ended.append(step.terminated)
            late.append(step.truncated)
        reward = torch.stack(rewards)
        self.critic.observe(torch.stack(before))
        self.scale.observe(reward)

        # 2. The discounted return of every stretch, closed by the value where it was cut and not ended.
        scale = self.scale.value.to(simulator.dtype)
        values = self.critic(torch.stack(after))
        gain = torch.zeros((), device=simulator.device, dtype=simulator.dtype)
        weight = torch.ones(simulator.count, device=simulator.device, dtype=simulator.dtype)
        for t in range(config.horizon):
            gain = gain + (weight * reward[t]).sum() / scale
            weight = weight * config.discount
            cut = late[t] if t + 1 < config.horizon else ~ended[t]
            gain = gain + (weight * values[t] * cut).sum()
            weight = torch.where(ended[t] | late[t], 1.0, weight)
        loss = -gain / self.steps_per_iteration
        if self.share is not None:
            loss = loss + config.gain_price * self.share()
        loss.backward()
        norm = self.policy_descent.step()
        simulator.detach()

        # 3. Fit the value to λ-returns of the same window.
        targets = self._targets(reward.detach() / scale, values.detach(), ended, late)
        value_loss = self._fit_value(torch.stack(before), targets)
        require_finite(reward=reward, policy_loss=loss, gradient=norm, value_loss=value_loss)
        numbers = torch.stack([reward.detach().mean(), loss.detach(), value_loss, norm]).tolist()
        names = ("mean_reward", "policy_loss", "value_loss", "gradient_norm")
        return dict(zip(names, numbers, strict=True))

    def _noise(self, share: float) -> Tensor:
        """Return the noise of one window, (steps, count, m); zeros cost no draws."""
        shape = (self.config.horizon, self.simulator.count, len(self.limit))
        if self.config.exploration == 0.0:
            return self.limit.new_zeros(()).expand(shape)
        white = torch.randn(
            shape, generator=self.exploration, device=self.limit.device, dtype=self.limit.dtype
        )
        unit = torch.where(torch.isfinite(self.limit), self.limit, 1.0)
        return white * unit * (share * self.config.exploration)

    def _targets(self, reward: Tensor, values: Tensor, ended: list[Tensor], late: list[Tensor]) -> Tensor:
        """Return λ-returns (steps, count); `values[t]` belongs to the observation reached by step t."""
        targets = torch.empty_like(reward)
        follow = values[-1]
        for t in reversed(range(len(reward))):
            mixed = torch.lerp(values[t], follow, self.config.trace)
            mixed = torch.where(late[t], values[t], mixed)
            targets[t] = follow = reward[t] + self.config.discount * mixed * ~ended[t]
        return targets

    def _fit_value(self, observations: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over all minibatches, which is NaN when any gradient was."""
        table = torch.cat([self.critic.standardised(observations), targets[..., None]], -1).flatten(0, 1)
        parts, losses = self.config.value_minibatches, []
        for _ in range(self.config.value_epochs):
            order = torch.randperm(len(table), generator=self.generator).to(table.device)
            for part in table[order].chunk(parts):
                loss = (self.critic.value(part[:, :-1]) - part[:, -1]).square().mean()
                loss.backward()
                norm = self.value_descent.step()
                losses.append(loss.detach() + 0.0 * norm)
        return torch.stack(losses).mean()

    def state(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "policy_optimizer": self.policy_descent.state(),
            "value_optimizer": self.value_descent.state(),
            "scale": self.scale.state(),
            "generator": self.generator.get_state(),
            "exploration": self.exploration.get_state(),
            "simulator": self.simulator.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        self.policy_descent.load_state(state["policy_optimizer"])
        self.value_descent.load_state(state["value_optimizer"])
        self.scale.load_state(state["scale"])
        self.generator.set_state(state["generator"])
        self.exploration.set_state(state["exploration"])
        self.simulator.load_state(state["simulator"])
