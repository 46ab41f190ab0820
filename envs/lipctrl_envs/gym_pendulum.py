"""Gymnasium's Pendulum-v1, rewritten in torch: the same numbers, batched and differentiable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lipctrl_envs.canvas import Canvas
from lipctrl_envs.lure import LureForm
from lipctrl_envs.pendulum import circle_form
from lipctrl_envs.plant import Plant
from lipctrl_envs.signals import Signal, join, physical


@dataclass(frozen=True, kw_only=True, eq=False)
class GymPendulum(Plant):
    """Reproduce Gymnasium's Pendulum-v1 step by step: a rod swung up by a weak torque.

        θ̇⁺ = clip(θ̇ + (3g/(2l) sin θ + 3/(m l²) (u + d)) dt, ±8),     θ⁺ = θ + dt θ̇⁺

    | state        | unit  | starts within | meaning                          |
    |--------------|-------|---------------|----------------------------------|
    | `angle`      | rad   | ±π            | θ, from the upright, not wrapped |
    | `angle_rate` | rad/s | ±1            | θ̇, never beyond ±8               |

    | action   | unit | limit | meaning             |
    |----------|------|-------|---------------------|
    | `torque` | N·m  | ±2    | u, positive along θ |

    | observation  | unit  | range   |
    |--------------|-------|---------|
    | `cos_angle`  | 1     | [-1, 1] |
    | `sin_angle`  | 1     | [-1, 1] |
    | `angle_rate` | rad/s | [-8, 8] |

    | disturbance | unit | standard deviation | meaning               |
    |-------------|------|--------------------|-----------------------|
    | `torque`    | N·m  | 0                  | d, adds to the torque |

    The cost of a step is θ² + 0.1 θ̇² + 0.001 u², θ wrapped to ±π, as in Gymnasium; 200 steps of 0.05 s, no failure.
    The Lur'e form is exact while the speed is not clipped, which its third channel states as a region.

    >>> import torch
    >>> GymPendulum().transition(torch.tensor([0.0, 0.0]), torch.tensor([5.0]))    # the torque is clipped to 2 N·m
    tensor([0.0150, 0.3000])
    """

    mass: float = physical(1.0, "kg")
    length: float = physical(1.0, "m")
    gravity: float = physical(10.0, "m/s²", positive=False)
    dt: float = 0.05
    horizon: int = 200
    action_limit: Any = 2.0
    speed_limit: float = 8.0

    name: ClassVar[str] = "GymPendulum"
    actions: ClassVar[tuple[Signal, ...]] = (Signal("torque", "N·m"),)
    disturbances: ClassVar[tuple[Signal, ...]] = (Signal("torque", "N·m"),)
    frame_size: ClassVar[tuple[int, int]] = (400, 400)

    @property
    def physical_states(self) -> tuple[Signal, ...]:
        return (Signal("angle", "rad"), Signal("angle_rate", "rad/s"))

    @property
    def observations(self) -> tuple[Signal, ...]:
        return (Signal("cos_angle", "1"), Signal("sin_angle", "1"), Signal("angle_rate", "rad/s"))

    @property
    def observation_bounds(self) -> np.ndarray:
        return np.array([1.0, 1.0, self.speed_limit])

    @property
    def state_weights(self) -> np.ndarray:
        return np.array([1.0, 0.1])

    @property
    def action_weights(self) -> np.ndarray:
        return np.array([0.001])

    @property
    def initial_spread(self) -> np.ndarray:
        return np.array([math.pi, 1.0])

    def flow(self, state: Tensor, action: Tensor, disturbance: Tensor | None, p: Any) -> Tensor:
        angle, rate = state.unbind(-1)
        torque = action[..., 0] if disturbance is None else action[..., 0] + disturbance[..., 0]
        pull, push = 1.5 * p.gravity / p.length, 3.0 / (p.mass * p.length**2)
        rate = torch.add(rate, torch.sin(angle) * pull + torque * push, alpha=self.dt)
        rate = rate.clamp(-self.speed_limit, self.speed_limit)
        return join([torch.add(angle, rate, alpha=self.dt), rate])

    def sense(self, state: Tensor) -> Tensor:
        angle, rate = state.unbind(-1)
        return join([torch.cos(angle), torch.sin(angle), rate])

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        angle, rate = state.unbind(-1)
        wrapped = torch.sub(angle, torch.round(angle * (0.5 / math.pi)), alpha=2.0 * math.pi)
        (q_angle, q_rate), (r,) = self.state_weights.tolist(), self.action_weights.tolist()
        torque = action[..., 0]
        cost = torch.addcmul(wrapped * wrapped * q_angle, rate, rate, value=q_rate)
        return torch.addcmul(cost, torque, torque, value=r)

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        # No step from below this speed reaches the clip, whatever the angle and the admissible torque.
        pull, push = 1.5 * self.gravity / self.length, 3.0 / (self.mass * self.length**2)
        unclipped = self.speed_limit - self.dt * (pull + push * float(self.action_limit[0]))
        if not unclipped > 0.0:
            raise ValueError(
                "GymPendulum: every step may clip the speed, so no region has an exact Lur'e form; "
                f"lower action_limit (now {self.action_limit[0]} N·m) or dt (now {self.dt} s)"
            )
        limits = self.bounds({"angle": math.inf, "angle_rate": unclipped}, region)
        if limits["angle_rate"] > unclipped:
            raise ValueError(
                f"GymPendulum: beyond {unclipped:.6g} rad/s the speed may be clipped; ask for less"
            )
        form = circle_form(
            (
                np.array([[1.0, self.dt], [0.0, 1.0]]),
                np.array([[self.dt**2], [self.dt]]),
            ),
            gravity=pull,
            damping=0.0,
            gain=push,
            z_max=limits["angle"],
            dt=self.dt,
            rate_max=limits["angle_rate"],
        )
        return form.with_delay(self.delay)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        canvas.view(center=(0.0, 0.0), width=2.8 * self.length)
        tip = self.length * np.array([math.sin(state[0]), math.cos(state[0])])
        canvas.line((0.0, 0.0), tip, 0.18 * self.length, canvas.accent)
        canvas.circle((0.0, 0.0), 0.05 * self.length, canvas.dark)
        canvas.turn((0.0, 0.0), 0.3 * self.length, float(action[0] / self.action_limit[0]))
