"""Imitation by dataset aggregation (Ross, Gordon & Bagnell 2011): the learner drives, the expert says what it would do.

Experience comes from the mixture that the learner itself visits, so its errors do not compound. The certified policy
is the learner from the first step on; only the labels come from the expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lipctrl.training.algorithm import Algorithm, Descent, Settings, actor, gain_share, require_finite
from lipctrl.training.experts import Expert, default_expert
from lipctrl.training.rollout import PlantSimulator, Simulator


@dataclass(frozen=True)
class ImitationConfig(Settings):
    """Settings of dataset aggregation."""

    environments: int = 64
    """copies of the plant stepped together"""
    horizon: int = 50
    """steps collected in each iteration"""
    expert_share: float = 0.5
    """initial share of environments that the expert drives, falling linearly to zero at half the budget"""
    memory: int = 60_000
    """most observations kept; the oldest are dropped first"""
    updates: int = 100
    """optimiser steps in each iteration"""
    minibatch: int = 512
    """observations in each optimiser step"""
    rate: float = 3e-3
    """initial learning rate, falling linearly to a twentieth"""
    gradient_clip: float = 1.0
    """largest norm of a gradient"""
    gain_price: float = 0.0
    """loss for using all of the gain; a network with trainable_lipschitz=True trades performance for it"""


class Imitation(Algorithm):
    """Regress the clipped action of the policy on the expert's, over the states that the policy visits."""

    name: ClassVar[str] = "imitation"
    simulator: PlantSimulator
    Config: ClassVar[type[ImitationConfig]] = ImitationConfig

    def __init__(
        self,
        policy: nn.Module,
        simulator: Simulator,
        config: ImitationConfig,
        seeds: dict[str, int],
        expert: Expert | None = None,
    ) -> None:
        if not isinstance(simulator, PlantSimulator):
            raise ValueError(
                "imitation asks the expert about states, which a black-box environment does not show; "
                'use algorithm="ppo"'
            )
        self.policy, self.simulator, self.config = policy, simulator, config
        self.expert = default_expert(simulator.plant) if expert is None else expert
        self.share = gain_share(policy, config.gain_price)
        self.steps_per_iteration = config.environments * config.horizon
        self.generator = torch.Generator().manual_seed(seeds["minibatch"])
        limit = torch.tensor(simulator.plant.action_limit).to(simulator.observation)
        self.unit = torch.where(torch.isfinite(limit), limit, 1.0)
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.descent = Descent(trained, config.rate, config.gradient_clip)
        empty = simulator.observation[:0]
        self.observations = empty
        self.labels = empty.new_zeros((0, len(self.unit)))

    def iterate(self, progress: float) -> dict[str, float]:
        config, simulator = self.config, self.simulator
        self.descent.set_rate(config.rate * (1.0 - 0.95 * progress))

        # 1. Drive: the first environments by the expert, the others by the policy; label all.
        share = config.expert_share * max(0.0, 1.0 - 2.0 * progress)
        driven = torch.arange(simulator.count, device=simulator.device) < round(share * simulator.count)
        seen, labels, rewards = [], [], []
        with torch.no_grad():
            act = actor(self.policy)
            for _ in range(config.horizon):
                label = self._label(simulator.physical)
                seen.append(simulator.observation)
                labels.append(label)
                action = torch.where(driven[:, None], label, act(simulator.observation))
                rewards.append(simulator.step(action).reward)
        reward, fresh = torch.stack(rewards), torch.cat(labels)
        self.observations = torch.cat([self.observations, *seen])[-config.memory :]
        self.labels = torch.cat([self.labels, fresh])[-config.memory :]

        # 2. Regress. Beyond the limits the clip hides the command, so only commands short of the expert's count.
        losses = []
        for _ in range(config.updates):
            part = torch.randint(0, len(self.labels), (config.minibatch,), generator=self.generator)
            part = part.to(simulator.device)
            wanted, command = self.labels[part], actor(self.policy)(self.observations[part])
            saturated = (wanted.abs() >= self.unit) & (command * wanted.sign() >= self.unit)
            error = torch.where(saturated, 0.0, (command - wanted) / self.unit)
            loss = nn.functional.huber_loss(error, torch.zeros_like(error), delta=0.5)
            if self.share is not None:
                loss = loss + config.gain_price * self.share()
            loss.backward()
            norm = self.descent.step()
            losses.append(loss.detach() + 0.0 * norm)
        loss = torch.stack(losses).mean()
        require_finite(experts_action=fresh, reward=reward, loss=loss)
        numbers = torch.stack([reward.mean(), loss]).tolist()
        return {"mean_reward": numbers[0], "imitation_loss": numbers[1], "expert_share": share}

    def _label(self, state: Tensor) -> Tensor:
        label = self.expert(state)
        if label.shape != (self.simulator.count, len(self.unit)):
            raise ValueError(
                f"the expert returned actions of shape {tuple(label.shape)} for states {tuple(state.shape)}; expected "
                f"{(self.simulator.count, len(self.unit))}"
            )
        return label

    def state(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.descent.state(),
            "observations": self.observations,
            "labels": self.labels,
            "generator": self.generator.get_state(),
            "simulator": self.simulator.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.descent.load_state(state["optimizer"])
        self.observations = state["observations"].to(self.simulator.device)
        self.labels = state["labels"].to(self.simulator.device)
        self.generator.set_state(state["generator"])
        self.simulator.load_state(state["simulator"])
