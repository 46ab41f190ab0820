"""What training algorithms share: one iteration at a time, a state that continues it exactly, finite numbers."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lipctrl.policies import LipschitzPolicy, ResidualPolicy
from lipctrl.training.rollout import Simulator


class TrainingDivergedError(ArithmeticError):
    """A number that training needs became NaN or infinite; no parameter was updated with it."""


class Algorithm(ABC):
    """An algorithm that improves `policy`, one `iterate()` at a time.

    Attributes
    ----------
    policy : the torch module that is trained in place.
    simulator : where experience comes from.
    steps_per_iteration : environment transitions one iteration consumes.
    """

    name: ClassVar[str]
    policy: nn.Module
    simulator: Simulator
    steps_per_iteration: int

    @abstractmethod
    def iterate(self, progress: float) -> dict[str, float]:
        """Run one iteration at `progress` in [0, 1) of the budget; return its metrics.

        Raises
        ------
        TrainingDivergedError
            Before any update with a number that is not finite.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything that continues the training bit by bit, as a tree of tensors and numbers."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""


def actor(policy: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return y -> command *before* the clip of the policy, with one differentiable fold for all calls.

    Outside the limits the clip has gradient zero, so a policy trained through it could never come back. Any
    other torch module is taken as it is.
    """
    if not isinstance(policy, (LipschitzPolicy, ResidualPolicy)):
        return policy
    network = policy.network.explicit()
    scale = policy.observation_scale
    factor = None if scale is None else 1.0 / scale
    gain = policy.gain if isinstance(policy, ResidualPolicy) else None

    def act(observation: Tensor) -> Tensor:
        command = network.run(observation if factor is None else observation * factor)
        return command if gain is None else command - observation @ gain.mT

    return act


def require_finite(name: str, value: Tensor) -> Tensor:
    """Return `value`, or raise TrainingDivergedError naming it when it holds NaN or inf."""
    if not bool(torch.isfinite(value).all()):
        raise TrainingDivergedError(f"the {name} became NaN or infinite")
    return value


def descend(
    optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[Tensor], clip: float
) -> float:
    """Take one step along the clipped gradient of a finite loss; return the gradient's norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, clip, error_if_nonfinite=False)
    require_finite("gradient", norm)
    optimizer.step()
    return float(norm)


class Critic(nn.Module):
    """V(y): a plain network on observations standardised with running statistics; it never acts.

    Predicts returns divided by `ReturnScale`, so that its learning rate does not depend on the units of reward.
    """

    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(self, features: int, width: int, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        sizes = [features, width, width, 1]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layer: Any = nn.utils.skip_init(nn.Linear, a, b, dtype=dtype)
            with torch.no_grad():
                layer.weight.normal_(0.0, a**-0.5, generator=generator)
                layer.bias.zero_()
            layers += [layer, nn.Tanh()]
        self.net = nn.Sequential(*layers[:-1])
        self.register_buffer("mean", torch.zeros(features, dtype=dtype))
        self.register_buffer("square", torch.ones(features, dtype=dtype))
        self.register_buffer("seen", torch.zeros((), dtype=dtype))

    def observe(self, observation: Tensor) -> None:
        """Update the running statistics with observations (..., p)."""
        flat = observation.detach().reshape(-1, observation.shape[-1])
        self.seen += 1.0
        # A plain average at first, then a slow exponential one.
        weight = torch.clamp(1.0 / self.seen, min=0.01)
        self.mean.lerp_(flat.mean(0), weight)
        self.square.lerp_(flat.square().mean(0), weight)

    def forward(self, observation: Tensor) -> Tensor:
        deviation = (self.square - self.mean**2).clamp_min(1e-8).sqrt()
        return self.net((observation - self.mean) / deviation).squeeze(-1)


class ReturnScale:
    """The size of discounted returns so far: root mean square about the mean, in the units of reward."""

    def __init__(self, discount: float) -> None:
        self.discount = discount
        self._count, self._mean, self._square = 0, 0.0, 0.0

    @property
    def value(self) -> float:
        """Return the scale, 1 before anything was seen."""
        return math.sqrt(max(self._square, 1e-12)) if self._count else 1.0

    def observe(self, rewards: Tensor) -> None:
        """Update with rewards (steps, count) of one rollout, as if each were kept up for 1/(1 - discount) steps."""
        sums = rewards.detach().double().mean(0) / (1.0 - self.discount)
        mean, square = sums.mean().item(), sums.square().mean().item()
        self._count += 1
        weight = max(1.0 / self._count, 0.02)
        self._mean += weight * (mean - self._mean)
        self._square += weight * (square - self._square)

    def state(self) -> dict[str, float | int]:
        return {"count": self._count, "mean": self._mean, "square": self._square}

    def load_state(self, state: dict[str, Any]) -> None:
        self._count, self._mean, self._square = state["count"], state["mean"], state["square"]


def learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = value
