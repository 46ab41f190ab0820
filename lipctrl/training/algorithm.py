"""What training algorithms share: one iteration at a time, a state that continues it exactly, finite numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lipctrl.nn.series import training_form
from lipctrl.policies import LipschitzPolicy, ResidualPolicy
from lipctrl.training.rollout import Simulator


class TrainingDivergedError(ArithmeticError):
    """A number that training needs became NaN or infinite; no parameter was updated with it."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of an algorithm, a frozen dataclass: counts are whole and positive, rates positive, shares in [0, 1].

    Raises
    ------
    ValueError
        At construction, naming the setting, what it is, and what was expected.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # NaN, what is no number included, lies in no interval.
            size = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
            if isinstance(field.default, int):
                fine, wanted = (
                    isinstance(value, int) and 1 <= size < 2**31,
                    "a whole number from 1 to 2147483647",
                )
            elif field.name == "discount":
                fine, wanted = 0.0 <= size < 1.0, "a number in [0, 1)"
            elif field.name in ("trace", "expert_share"):
                fine, wanted = 0.0 <= size <= 1.0, "a number in [0, 1]"
            elif field.name.endswith(("rate", "clip")):
                fine, wanted = 0.0 < size < math.inf, "a positive finite number"
            else:
                fine, wanted = 0.0 <= size < math.inf, "a finite number, not negative"
            if not fine:
                raise ValueError(f"setting {field.name} is {value!r}; expected {wanted}")


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
    network = training_form(policy.network)
    scale, after = policy.observation_scale, policy.action_scale
    factor = None if scale is None else 1.0 / scale
    gain = policy.gain if isinstance(policy, ResidualPolicy) else None

    def act(observation: Tensor) -> Tensor:
        command = network.run(observation if factor is None else observation * factor)
        command = command if after is None else command * after
        return command if gain is None else command - observation @ gain.mT

    return act


def gain_share(policy: nn.Module, price: float) -> Callable[[], Tensor] | None:
    """Return what gives the share in (0, 1) of its gain that a network uses now, where that share has a price.

    Raises
    ------
    ValueError
        When the share has a price and the policy's network does not learn it.
    """
    if price == 0.0:
        return None
    factor = getattr(getattr(policy, "network", None), "raw_factor", None)
    if factor is None:
        raise ValueError(
            f"setting gain_price is {price:g}, and the gain of this policy is fixed; build its network with "
            "trainable_lipschitz=True (--trade-off), or leave the price at 0"
        )
    return lambda: torch.sigmoid(factor).sum()


def require_finite(**values: Tensor) -> None:
    """Raise TrainingDivergedError naming the first of `values` that holds NaN or inf; the device is asked once."""
    finite = torch.stack([torch.isfinite(v).all() for v in values.values()]).tolist()
    for name, fine in zip(values, finite, strict=True):
        if not fine:
            raise TrainingDivergedError(f"the {name.replace('_', ' ')} became NaN or infinite")


class Descent:
    """Adam along a gradient clipped in norm, without asking the device: a gradient that is not finite takes no step.

    A caller learns of skipped steps from the norms that `step` returns; one look an iteration is enough.

    Parameters
    ----------
    parameters : what is trained; `step` reads their `.grad` and clears it.
    rate : learning rate, see `set_rate`.
    clip : largest norm of a gradient.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        rate: float,
        clip: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters, self.clip = list(parameters), clip
        self._adam: Any = torch.optim.Adam(self.parameters, lr=rate, betas=betas, eps=eps, fused=True)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self._adam.param_groups:
            group["lr"] = rate

    def step(self) -> Tensor:
        """Take one step along the gradients found in `.grad`; return their norm before clipping, a scalar tensor."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        # The fused kernel divides by `grad_scale` and leaves everything alone where `found_inf` is 1.
        # It reads both in float32, whatever the parameters are.
        self._adam.grad_scale = (norm / self.clip).clamp_min(1.0).float()
        self._adam.found_inf = torch.logical_not(torch.isfinite(norm)).float()
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Any]:
        return self._adam.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state)


class Critic(nn.Module):
    """V(y): a plain network on observations standardised with running statistics; it never acts.

    Predicts returns divided by `ReturnScale`, so that its learning rate does not depend on the units of reward.

    Parameters
    ----------
    activation : ReLU is several times faster than tanh on a CPU; where the value's gradient in the observation is
        used, take a smooth one.
    """

    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(
        self,
        features: int,
        width: int,
        generator: torch.Generator,
        dtype: torch.dtype,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        sizes = [features, width, width, 1]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layer: Any = nn.utils.skip_init(nn.Linear, a, b, dtype=dtype)
            with torch.no_grad():
                layer.weight.normal_(0.0, a**-0.5, generator=generator)
                layer.bias.zero_()
            layers += [layer, activation()]
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

    def standardised(self, observation: Tensor) -> Tensor:
        """Return what the network sees of observations (..., p)."""
        deviation = (self.square - self.mean**2).clamp_min(1e-8).sqrt()
        return (observation - self.mean) / deviation

    def value(self, standardised: Tensor) -> Tensor:
        """Return the value (...,) of observations that were standardised before."""
        return self.net(standardised).squeeze(-1)

    def forward(self, observation: Tensor) -> Tensor:
        return self.value(self.standardised(observation))


class ReturnScale:
    """The size of discounted returns so far: root mean square about zero, in the units of reward."""

    def __init__(self, discount: float, device: torch.device | str = "cpu") -> None:
        self.discount = discount
        self._count = 0
        self._square = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def value(self) -> Tensor:
        """Return the scale as a scalar tensor, 1 before anything was seen."""
        return self._square.clamp_min(1e-12).sqrt() if self._count else torch.ones_like(self._square)

    def observe(self, rewards: Tensor) -> None:
        """Update with rewards (steps, count) of one rollout, as if each were kept up for 1/(1 - discount) steps."""
        sums = rewards.detach().double().mean(0) / (1.0 - self.discount)
        self._count += 1
        self._square = torch.lerp(self._square, sums.square().mean(), max(1.0 / self._count, 0.02))

    def state(self) -> dict[str, Any]:
        return {"count": self._count, "square": self._square}

    def load_state(self, state: dict[str, Any]) -> None:
        self._count, self._square = state["count"], state["square"].to(self._square)
