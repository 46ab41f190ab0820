"""Evaluation of a controller: complete episodes on unseen seeds, undisturbed and perturbed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from lipctrl.training.arguments import choose_device, named_values, whole_number
from lipctrl.training.attack import Attack, Wave
from lipctrl.training.environments import Task, vector_box
from lipctrl.training.episodes import Episodes, as_controller, make_batch
from lipctrl.training.perturbation import Perturbation
from lipctrl.training.seeds import split_seed


@dataclass(frozen=True)
class Evaluation:
    """Returns of complete episodes: undiscounted sums of rewards, one number an episode.

    Attributes
    ----------
    returns, lengths : (episodes,) sum of rewards, and number of steps.
    terminated : (episodes,) bool; True where the episode ended of its own (a failure), False where a time limit
        cut it.
    seed : the seed given; `reset_seeds` are those that the environments were reset with.
    """

    env_id: str
    returns: np.ndarray = field(repr=False)
    lengths: np.ndarray = field(repr=False)
    terminated: np.ndarray = field(repr=False)
    seed: int
    reset_seeds: tuple[int, ...] = field(repr=False)
    perturbation: Perturbation = field(default_factory=Perturbation)

    @property
    def episodes(self) -> int:
        return len(self.returns)

    @property
    def mean(self) -> float:
        """Return the mean return."""
        return float(self.returns.mean())

    @property
    def cost(self) -> float:
        """Return the mean cost, minus the mean return."""
        return -self.mean

    @property
    def standard_error(self) -> float:
        """Return the standard error of the mean; NaN for a single episode, which says nothing about it."""
        n = self.episodes
        return float(self.returns.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "env_id": self.env_id,
            "episodes": self.episodes,
            "mean_return": self.mean,
            "standard_error": self.standard_error if self.episodes > 1 else None,
            "worst_return": float(self.returns.min()),
            "failed_episodes": int(self.terminated.sum()),
            "seed": self.seed,
            "reset_seeds": list(self.reset_seeds),
            "perturbation": self.perturbation.to_dict(),
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
        }

    def __str__(self) -> str:
        ended = int(self.terminated.sum())
        return (
            f"{self.env_id}: return {self.mean:.4g} ± {self.standard_error:.3g} ({self.episodes} episodes, "
            f"median {np.median(self.returns):.4g}, worst {self.returns.min():.4g}), "
            f"{ended} ended before the time limit, mean length {self.lengths.mean():.4g} steps"
        )


def evaluate(
    policy: Any,
    env_id: str | Task,
    *,
    episodes: int = 100,
    seed: int = 0,
    num_envs: int | None = None,
    env_options: Mapping[str, Any] | None = None,
    observation_noise: Any = 0.0,
    attack: Attack | Wave | tuple[float, int] | None = None,
    delay: int = 0,
    gain_scale: float = 1.0,
    disturbance: Any = 0.0,
    max_steps: int = 10_000,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Run a controller for complete episodes, deterministically, and return what it earned.

    Every episode is counted once and to its end, so short (failed) episodes weigh no more than long ones.
    The seeds belong to a stream of their own: no training run sees these starts.

    Parameters
    ----------
    policy : a policy of lipctrl or any torch module (n, p) -> (n, m) in physical units, u = π(y); a `Certificate`
        (the described map runs in numpy); or a function of numpy arrays (n, p) -> (n, m).
    env_id : a Gymnasium id with Box observations and actions of one dimension. Ids that register a vector
        environment of tensors run as one batch, all others in Gymnasium's `SyncVectorEnv`. A `Task` stands for its
        id and options; the environment itself runs, never a copy of its dynamics.
    episodes, seed : number of episodes, and the seed they and all perturbations derive from.
    num_envs : environments at a time; all episodes at once for batched environments, at most 16 otherwise.
    env_options : keywords of the environment, such as {"mass": 1.2}.
    observation_noise, delay, gain_scale, disturbance : see `Perturbation`.
    attack : an `Attack`, or (epsilon, steps) for an l2 attack on the action: these need a torch policy. Or a
        `Wave`, which takes any policy. `worst_case` runs all of them and reports the worst.
    max_steps : episodes of environments without a time limit are cut here.
    device : of batched environments and torch policies; "auto" is a GPU where there is one.

    Raises
    ------
    ValueError
        For spaces or shapes that do not fit, numbers out of range, an attack on a policy without gradients, and for
        actions or returns that are NaN or inf.

    Examples
    --------
    >>> import numpy as np
    >>> result = evaluate(lambda y: np.zeros((len(y), 1)), "Pendulum-v1", episodes=2, seed=1)
    >>> result.lengths.tolist(), result.terminated.tolist(), result.mean < -500.0
    ([200, 200], [False, False], True)
    """
    episodes, max_steps = whole_number(episodes, "episodes", 1), whole_number(max_steps, "max_steps", 1)
    num_envs = None if num_envs is None else whole_number(num_envs, "num_envs", 1)
    env_id, options = _named(env_id, env_options)
    if isinstance(attack, tuple):
        if len(attack) != 2:
            raise ValueError(f"attack is {attack!r}; expected (epsilon, steps), an Attack or a Wave")
        attack = Attack(*attack)
    perturbation = Perturbation(observation_noise, attack, delay, gain_scale, disturbance)
    device = choose_device(device)
    controller = as_controller(policy, device)
    if isinstance(attack, Attack) and attack.steps and not isinstance(controller, nn.Module):
        raise ValueError(
            f"an attack needs gradients, and a {type(policy).__name__} has none; pass the torch policy of the run, "
            "or use steps=0 or a Wave"
        )
    reset_seeds, generator = _streams(seed, episodes, device)
    parts: list[tuple[np.ndarray, ...]] = []
    used: list[int] = []
    done = 0
    while done < episodes:
        left = episodes - done
        env = make_batch(env_id, min(left, num_envs or left), options, device, num_envs is None)
        try:
            seeds = reset_seeds[done : done + env.num_envs]
            # A batch of tensors has one generator; standard vector environments take a seed each.
            batched = bool(env.metadata.get("torch", False))
            used += seeds[:1] if batched else seeds
            here = perturbation
            if isinstance(attack, Wave):
                here = dataclasses.replace(perturbation, attack=attack.episodes(done, done + env.num_envs))
            loop = Episodes(env_id, env, controller, here, generator, device)
            parts.append(loop.run(seeds[0] if batched else seeds, max_steps))
        finally:
            env.close()
        done += len(seeds)
    returns, lengths, terminated = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Evaluation(env_id, returns, lengths, terminated, seed, tuple(used), perturbation)


def describe(env_id: str | Task, env_options: Mapping[str, Any] | None = None) -> tuple[int, bool]:
    """Return (p, whether its dynamics can be simulated ahead) of the environment that `evaluate` would run."""
    env_id, options = _named(env_id, env_options)
    env = make_batch(env_id, 1, options, torch.device("cpu"), True)
    try:
        seen = vector_box(env_id, "observation", env.single_observation_space)
        return seen.shape[0], hasattr(env.unwrapped, "plant")
    finally:
        env.close()


def _named(env_id: str | Task, env_options: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Return the id and the options of an environment; options that are given replace those of a task."""
    options = named_values(env_options, "env_options")
    return (env_id.env_id, {**env_id.options, **options}) if isinstance(env_id, Task) else (env_id, options)


def _streams(seed: int, episodes: int, device: torch.device) -> tuple[list[int], torch.Generator]:
    """Return the seed of each episode's reset, and the generator of all perturbations."""
    streams = np.random.SeedSequence(split_seed(seed)["evaluation"]).spawn(2)
    reset_seeds = [int(s) for s in streams[0].generate_state(episodes) % 2**31]
    generator = torch.Generator(device).manual_seed(int(streams[1].generate_state(1, np.uint64)[0] >> 1))
    return reset_seeds, generator
