"""Controllers to imitate: LQR of any plant, and energy shaping with LQR for swinging a pendulum up.

An expert is a function from *states* (count, n) to actions (count, m), torch tensors in physical units; it may know
more than the policy that imitates it sees. Sign: u = expert(x), the expert carries its own minus.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Expert = Callable[[Tensor], Tensor]


def lqr_gain(plant: Any) -> np.ndarray:
    """Return the discrete LQR gain K (m, n) of the plant's linearisation and its own weights Q and R; u = -K x.

    Raises
    ------
    ValueError
        When no stabilising gain exists, saying so.

    Examples
    --------
    >>> from lipctrl.training.environments import find_task
    >>> lqr_gain(find_task("lipctrl/CartPole-v0").plant).shape
    (1, 4)
    """
    import control

    system = _weighted(plant).linearize()
    try:
        gain, _, poles = control.dlqr(system.A, system.B, plant.Q, plant.R)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise ValueError(
            f"{plant.name}: no LQR gain exists for its linearisation and weights ({error})"
        ) from error
    if not np.all(np.abs(poles) < 1.0):
        raise ValueError(f"{plant.name}: the LQR loop is not stable; every unstable mode must be reachable")
    return np.atleast_2d(np.asarray(gain))


def _weighted(plant: Any) -> Any:
    """Return a plant with the weights of a cost; ValueError for anything else, an environment with one inside too."""
    if all(hasattr(plant, name) for name in ("linearize", "Q", "R")):
        return plant
    inside = getattr(getattr(plant, "unwrapped", None), "plant", None)
    hint = "an object with linearize(), Q and R" if inside is None else "its plant, env.unwrapped.plant"
    raise ValueError(f"plant is {plant!r}; expected {hint}")


def lqr_expert(plant: Any) -> Expert:
    """Return u = -K x with the gain of `lqr_gain`, clipped to the plant's limits.

    Examples
    --------
    >>> from lipctrl.training.environments import find_task
    >>> act = lqr_expert(find_task("lipctrl/CartPole-v0").plant)
    >>> act(torch.zeros(3, 4)).shape
    torch.Size([3, 1])
    """
    gain = torch.as_tensor(lqr_gain(plant))

    def act(state: Tensor) -> Tensor:
        return plant.saturate(-state @ gain.to(state).mT)

    return act


def swing_up_expert(plant: Any) -> Expert:
    """Return energy shaping far from the upright and LQR near it, for pendulums with states (angle, rate).

    Åström & Furuta (2000), Swinging up a pendulum by energy control, eq. 8: the torque follows the sign of
    (E₀ - E) θ̇. The inertia and gravity torque are read off the plant's own linearisation, so every
    pendulum θ̈ = a sin θ + b u with torque input is served.

    Examples
    --------
    >>> from lipctrl_envs import PendulumSwingUp
    >>> plant = PendulumSwingUp()
    >>> torque = swing_up_expert(plant)(torch.tensor([[3.14, 0.1]]))        # hanging: pump energy, as hard as allowed
    >>> bool(torque.abs() <= plant.action_limit[0])
    True
    """
    system = _weighted(plant).linearize()
    pull, push = float(system.A[1, 0]) / plant.dt, float(system.B[1, 0]) / plant.dt
    limit = float(plant.action_limit[0])
    gain = torch.as_tensor(lqr_gain(plant))

    def act(state: Tensor) -> Tensor:
        angle, rate = state[..., 0], state[..., 1]
        wrapped = torch.remainder(angle + math.pi, 2.0 * math.pi) - math.pi
        balance = -(torch.stack([wrapped, rate], dim=-1) @ gain.to(state).mT)[..., 0]
        # Energy per inertia, zero at rest in the upright.
        energy = 0.5 * rate.square() + pull * (torch.cos(angle) - 1.0)
        direction = torch.where(rate == 0.0, 1.0, torch.sign(rate))
        pump = (-2.0 * energy / push * direction).clamp(-limit, limit)
        # LQR catches what its own saturated torque can hold.
        near = (wrapped.abs() < 0.35) & (
            (wrapped * math.sqrt(pull) + rate).abs() < 0.9 * limit * push / math.sqrt(pull)
        )
        return torch.where(near, balance, pump).clamp(-limit, limit).unsqueeze(-1)

    return act


def default_expert(plant: Any) -> Expert:
    """Return the expert that fits a plant: swing-up where the angle is seen through cos and sin, LQR elsewhere.

    Examples
    --------
    >>> from lipctrl.training.environments import find_task
    >>> default_expert(find_task("lipctrl/Pendulum-v0").plant)(torch.zeros(1, 2)).tolist()
    [[0.0]]
    """
    if _weighted(plant).observation_names[:2] == ("cos_angle", "sin_angle") and plant.state_size == 2:
        return swing_up_expert(plant)
    return lqr_expert(plant)
