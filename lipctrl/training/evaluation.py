"""Returns over unseen episodes, undisturbed or under noise, attack, delay and a change of gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipctrl.training.environments import Task, find_task
from lipctrl.training.rollout import GymSimulator, PlantSimulator

Controller = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Perturbation:
    """What stands between plant and policy in an evaluation; the default is nothing.

    Attributes
    ----------
    noise : standard deviation of Gaussian noise on every observation, in `unit`s.
    attack : l2 radius of an adversarial change of every observation, in `unit`s: the change within the ball that
        moves the action most, found by projected gradient ascent.
    delay : samples by which every action arrives late; the first ones are zero.
    gain : factor on every action.
    unit : scale of each observation for noise and attack; 1 by default.
    attack_steps : gradient steps of the attack.
    """

    noise: float = 0.0
    attack: float = 0.0
    delay: int = 0
    gain: float = 1.0
    unit: tuple[float, ...] | float = 1.0
    attack_steps: int = 5

    def __post_init__(self) -> None:
        for name in ("noise", "attack"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} is {value!r}; expected a finite number of at least 0")
        if not isinstance(self.delay, int) or self.delay < 0:
            raise ValueError(f"delay is {self.delay!r}; expected a whole number of samples")
        if not np.isfinite(self.gain):
            raise ValueError(f"gain is {self.gain!r}; expected a finite factor")


@dataclass(frozen=True)
class Evaluation:
    """Returns (episodes,) and lengths (episodes,) of one evaluation, with the seed that repeats it."""

    returns: np.ndarray = field(repr=False)
    lengths: np.ndarray = field(repr=False)
    terminated: np.ndarray = field(repr=False)
    env_id: str
    seed: int

    @property
    def mean(self) -> float:
        """Return the mean return."""
        return float(self.returns.mean())

    @property
    def cost(self) -> float:
        """Return the mean cost, minus the mean return."""
        return -self.mean

    @property
    def cost(self) -> float:
        """Return the mean cost, minus the mean return."""
        return -self.mean

    @property
    def standard_error(self) -> float:
        """Return the standard error of the mean."""
        return float(self.returns.std(ddof=1) / np.sqrt(len(self.returns))) if len(self.returns) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "env_id": self.env_id,
            "seed": self.seed,
            "episodes": len(self.returns),
            "mean_return": self.mean,
            "standard_error": self.standard_error,
            "worst_return": float(self.returns.min()),
            "failed_episodes": int(self.terminated.sum()),
            "returns": self.returns.tolist(),
        }

    def __str__(self) -> str:
        failed = int(self.terminated.sum())
        tail = f", {failed} ended early" if failed else ""
        return (
            f"mean return {self.mean:.4g} ± {self.standard_error:.2g} over {len(self.returns)} episodes{tail}"
        )


def evaluate(
    policy: Controller,
    env_id: str | Task,
    *,
    episodes: int = 100,
    seed: int = 0,
    perturbation: Perturbation | None = None,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Run whole episodes from seeds that training never used, and return what they earned.

    The environment named is the one that runs: for Gymnasium's own names it is Gymnasium's environment, never a
    copy. Equal seeds give equal starts and disturbances, so two policies can be compared episode by episode.

    Parameters
    ----------
    policy : observation (count, p) -> action (count, m), torch; u = policy(y).
    perturbation : noise, attack, delay and gain between plant and policy.

    Examples
    --------
    >>> evaluate(lambda y: -3.0 * y[:, :1], "lipctrl/Pendulum-v0", episodes=4).returns.shape
    (4,)
    """
    task = find_task(env_id) if isinstance(env_id, str) else env_id
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; expected at least 1")
    dtype = (
        next((p.dtype for p in policy.parameters()), torch.float32)
        if isinstance(policy, nn.Module)
        else torch.float64
    )
    if task.plant is not None and task.twin is None:
        simulator: Any = PlantSimulator(
            task.plant, episodes, seed, device=device, dtype=dtype, staggered=False
        )
        limit = task.plant.horizon
    else:
        simulator = GymSimulator(task, episodes, seed, device=device, dtype=dtype)
        limit = None
    act = _Perturbed(_frozen(policy), perturbation or Perturbation(), seed)
    returns = torch.zeros(episodes, dtype=torch.float64, device=device)
    lengths = torch.zeros(episodes, dtype=torch.int64, device=device)
    failed = torch.zeros(episodes, dtype=torch.bool, device=device)
    alive = torch.ones(episodes, dtype=torch.bool, device=device)
    steps = 0
    while limit is None or steps < limit:
        with torch.no_grad():
            step = simulator.step(act(simulator.observation))
        steps += 1
        returns += torch.where(alive, step.reward.double(), 0.0)
        lengths += alive
        failed |= alive & step.terminated
        alive &= ~(step.terminated | step.truncated)
        if not bool(alive.any()):
            break
        if steps >= 100_000:
            raise ValueError(
                f"{task.env_id}: an episode has not ended after {steps} steps; give the environment a time limit "
                "(max_episode_steps)"
            )
    return Evaluation(returns.cpu().numpy(), lengths.cpu().numpy(), failed.cpu().numpy(), task.env_id, seed)


def _frozen(policy: Controller) -> Controller:
    """Fold once for the whole evaluation where the policy can be exported."""
    export = getattr(policy, "export", None)
    return policy if export is None else export()


class _Perturbed:
    """The policy behind a perturbed channel; keeps the actions under way and its own generator."""

    def __init__(self, policy: Controller, perturbation: Perturbation, seed: int) -> None:
        self.policy, self.perturbation = policy, perturbation
        self.generator = torch.Generator().manual_seed(seed)
        self.queue: list[Tensor] = []

    def __call__(self, observation: Tensor) -> Tensor:
        p = self.perturbation
        unit = torch.as_tensor(p.unit).to(observation)
        if p.noise:
            observation = observation + p.noise * unit * self._normal(observation)
        if p.attack:
            observation = self._attacked(observation, unit)
        action = p.gain * self.policy(observation)
        self.queue.append(action)
        return self.queue.pop(0) if len(self.queue) > p.delay else torch.zeros_like(action)

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype).to(like.device)

    def _attacked(self, observation: Tensor, unit: Tensor) -> Tensor:
        radius, steps = self.perturbation.attack, self.perturbation.attack_steps
        honest = self.policy(observation).detach()
        change = self._normal(observation)
        change = change * (0.5 * radius / change.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        for _ in range(steps):
            change.requires_grad_(True)
            with torch.enable_grad():
                moved = (self.policy(observation + unit * change) - honest).square().sum()
                (slope,) = torch.autograd.grad(moved, change)
            step = slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            change = change.detach() + radius * step
            change = change * (radius / change.norm(dim=-1, keepdim=True).clamp_min(radius))
        return observation + unit * change
