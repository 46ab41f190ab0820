"""What stands between a policy and its environment while it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.training.arguments import deviations, real_number, whole_number
from lipctrl.training.attack import Attack, Wave


@dataclass(frozen=True)
class Perturbation:
    """What stands between the policy and its environment; the defaults change nothing.

    Parameters
    ----------
    observation_noise : standard deviation of Gaussian noise on the observation: one number or one each (its units).
    attack : the adversary that moves the (noisy) observation, an `Attack` or a `Wave`, or None.
    delay : samples by which every action arrives late; zero actions are under way at the start.
    gain_scale : k of the policy k·π, applied before the actuator limits of the environment.
    disturbance : standard deviation of a Gaussian disturbance, drawn in each step and added to the action before
        the actuator limits. A plant's own disturbances are options of the environment.

    Raises
    ------
    ValueError
        For numbers out of range.

    Examples
    --------
    >>> Perturbation(delay=2).to_dict()["delay"]
    2
    """

    observation_noise: Any = 0.0
    attack: Attack | Wave | None = None
    delay: int = 0
    gain_scale: float = 1.0
    disturbance: Any = 0.0

    def __post_init__(self) -> None:
        for name in ("observation_noise", "disturbance"):
            deviations(getattr(self, name), name)
        if self.attack is not None and not isinstance(self.attack, Attack | Wave):
            raise ValueError(f"attack is {self.attack!r}; expected an Attack, a Wave or None")
        object.__setattr__(self, "delay", whole_number(self.delay, "delay (in samples)"))
        real_number(self.gain_scale, "gain_scale")

    def to_dict(self) -> dict[str, Any]:
        """Return the perturbation as JSON values."""
        return {
            "observation_noise": np.asarray(self.observation_noise, dtype=np.float64).tolist(),
            "attack": None if self.attack is None else self.attack.to_dict(),
            "delay": self.delay,
            "gain_scale": float(self.gain_scale),
            "disturbance": np.asarray(self.disturbance, dtype=np.float64).tolist(),
        }
