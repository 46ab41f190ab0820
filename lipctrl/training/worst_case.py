"""The worst of several adversaries: gradients, search over the true cost, and waves that know nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lipctrl.training.attack import Attack, Wave
from lipctrl.training.environments import Task
from lipctrl.training.evaluation import Evaluation, describe, evaluate

# Episodes on which a wave is tried, and the share of waves that are constant.
TRIAL_EPISODES = 8
CONSTANT_SHARE = 0.3
# Periods of the others, in samples, drawn uniformly in the logarithm.
PERIODS = (2.0, 100.0)


@dataclass(frozen=True)
class WorstCase:
    """What each adversary left of the return, on the same episodes; `name` is the one that left least.

    Attributes
    ----------
    epsilon : size of the attacks.
    evaluations : adversary -> `Evaluation`. "nothing" is no attack, so that no adversary is ever said to help.
    """

    epsilon: float
    evaluations: Mapping[str, Evaluation]

    @property
    def name(self) -> str:
        return min(self.evaluations, key=lambda key: self.evaluations[key].mean)

    @property
    def worst(self) -> Evaluation:
        """Return the evaluation under the adversary that left least."""
        return self.evaluations[self.name]

    @property
    def lost(self) -> float:
        """Return how much of the mean return the worst adversary took, >= 0."""
        return self.evaluations["nothing"].mean - self.worst.mean

    def __str__(self) -> str:
        taken = ", ".join(f"{name} {e.mean:.4g}" for name, e in self.evaluations.items())
        return f"ε = {self.epsilon:g}: worst is {self.name}, return {self.worst.mean:.4g} ({taken})"


def worst_case(
    policy: Any,
    env_id: str | Task,
    epsilon: float,
    *,
    episodes: int = 100,
    seed: int = 0,
    scale: tuple[float, ...] | None = None,
    waves: int = 48,
    lookahead: int = 10,
    env_options: Mapping[str, Any] | None = None,
    delay: int = 0,
    gain_scale: float = 1.0,
    device: torch.device | str = "cpu",
) -> WorstCase:
    """Attack every observation in an l2 ball by all the means at hand, and return what each of them left.

    - action: gradient ascent on the change of the (limited) action, from the best of many starts; torch policies.
    - cost: search, in every step, for the offset that costs most when shown for the next `lookahead` steps of the true
      dynamics; one-step cost: the same when shown in one step only; plants of lipctrl_envs.
    - wave: the worst of `waves` constant and periodic offsets, found on other episodes; any policy and environment.

    These are lower bounds of the harm that is possible: none of them proves that there is no worse attack.

    Parameters
    ----------
    policy, env_id, episodes, seed, env_options, delay, gain_scale, device : as in `evaluate`.
    epsilon : radius of the ball of δ / scale, in units of the observation.
    scale : None, or positive (p,): sizes of the observations where their units differ.

    Raises
    ------
    ValueError
        As `evaluate` and `Attack`, and for fewer than one wave.

    Examples
    --------
    >>> import lipctrl_envs, numpy as np
    >>> found = worst_case(lambda y: -8 * y[:, :1] - 2 * y[:, 1:], "lipctrl/Pendulum-v0", 0.05, episodes=4, waves=2)
    >>> sorted(found.evaluations), found.lost > 0.0
    (['cost', 'nothing', 'one-step cost', 'wave'], True)
    """
    if isinstance(waves, bool) or not isinstance(waves, int) or waves < 1:
        raise ValueError(f"waves is {waves!r}; expected how many to try, at least 1")
    given: dict[str, Any] = {
        "env_options": env_options,
        "delay": delay,
        "gain_scale": gain_scale,
        "device": device,
    }
    found = {"nothing": evaluate(policy, env_id, episodes=episodes, seed=seed, **given)}
    attacks: dict[str, Attack | Wave] = {}
    if isinstance(policy, nn.Module):
        attacks["action"] = Attack(epsilon, 5, scale=scale)
    features, has_plant = describe(env_id, env_options)
    if has_plant:
        for name, hold in (("cost", True), ("one-step cost", False)):
            attacks[name] = Attack(epsilon, 0, objective="cost", lookahead=lookahead, hold=hold, scale=scale)
    attacks["wave"] = _worst_wave(policy, env_id, epsilon, waves, features, scale, seed, given)
    for name, attack in attacks.items():
        found[name] = evaluate(policy, env_id, episodes=episodes, seed=seed, attack=attack, **given)
    return WorstCase(epsilon, found)


def _worst_wave(
    policy: Any,
    env_id: str | Task,
    epsilon: float,
    count: int,
    features: int,
    scale: tuple[float, ...] | None,
    seed: int,
    given: Mapping[str, Any],
) -> Wave:
    """Return the wave with the lowest mean return on trial episodes that the report does not use."""
    random = np.random.default_rng([seed, 0x57A7E])
    direction = random.standard_normal((count, features))
    periods = np.exp(random.uniform(math.log(PERIODS[0]), math.log(PERIODS[1]), count))
    periods[random.random(count) < CONSTANT_SHARE] = math.inf
    phases = random.random(count)
    each = [np.repeat(v, TRIAL_EPISODES, 0) for v in (direction, periods, phases)]
    trials = evaluate(
        policy,
        env_id,
        episodes=count * TRIAL_EPISODES,
        seed=seed + 104_729,
        attack=Wave(epsilon, each[0], each[1], each[2], scale),
        **given,
    )
    worst = int(trials.returns.reshape(count, TRIAL_EPISODES).mean(1).argmin())
    return Wave(epsilon, direction[worst], periods[worst], phases[worst], scale)
