"""A quadrotor in the vertical plane: hover against the wind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lipctrl_envs.canvas import Canvas
from lipctrl_envs.enclosure import enclosed_form
from lipctrl_envs.lure import LureForm
from lipctrl_envs.mechanical import MechanicalPlant
from lipctrl_envs.signals import Columns, Signal, excess, physical


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanarQuadrotor(MechanicalPlant):
    """Hover at a point in the vertical plane: total thrust and torque, tilted thrust moves it sideways.

        m ẍ = -(m g + u₁) sin φ - c ẋ + d₁,     m z̈ = (m g + u₁) cos φ - m g - c ż + d₂,     J φ̈ = u₂

    | state           | unit  | starts within | meaning                       |
    |-----------------|-------|---------------|-------------------------------|
    | `position`      | m     | ±1            | x, to the right               |
    | `height`        | m     | ±1            | z, up, from the hover point   |
    | `tilt`          | rad   | ±0.2          | φ, counter-clockwise          |
    | `position_rate` | m/s   | ±0.3          | ẋ                             |
    | `height_rate`   | m/s   | ±0.3          | ż                             |
    | `tilt_rate`     | rad/s | ±0.3          | φ̇                             |

    | action   | unit | limit | meaning                           |
    |----------|------|-------|-----------------------------------|
    | `thrust` | N    | ±3    | u₁, beyond the weight             |
    | `torque` | N·m  | ±0.1  | u₂, counter-clockwise             |

    | disturbance       | unit | standard deviation | meaning       |
    |-------------------|------|--------------------|---------------|
    | `sideways_wind`   | N    | 1                  | d₁            |
    | `vertical_wind`   | N    | 1                  | d₂            |

    The observation is the state. The cost of a step is 0.5 x² + 0.5 z² + φ² + 0.1 (ẋ² + ż² + φ̇²) + 0.02 u₁² + 20 u₂²
    + 30 max(0, |x| - 0.2)² + 30 max(0, |z| - 0.2)²; |x| or |z| beyond `cage` or |φ| beyond `tilt_limit` fails and costs
    `failure_cost` once; 500 steps of 0.02 s. The products of thrust with sin φ and cos φ have no element-wise Lur'e
    form; the Jacobian is bounded over |φ| ≤ 0.5 and the thrust limit.

    >>> plant = PlanarQuadrotor(mass=0.6)
    >>> dict(zip(plant.action_names, plant.action_limit.tolist()))
    {'thrust': 3.0, 'torque': 0.1}
    """

    mass: float = physical(0.5, "kg")
    inertia: float = physical(0.005, "kg·m²")
    drag: float = physical(0.1, "N·s/m", positive=False)
    gravity: float = physical(9.81, "m/s²")
    action_limit: Any = (3.0, 0.1)
    disturbance: Any = (1.0, 1.0)
    cage: float = 3.0
    soft: float = 0.2
    soft_weight: float = 30.0
    tilt_limit: float = 1.2
    failure_cost: float = 200.0

    name: ClassVar[str] = "PlanarQuadrotor"
    actions: ClassVar[tuple[Signal, ...]] = (Signal("thrust", "N"), Signal("torque", "N·m"))
    disturbances: ClassVar[tuple[Signal, ...]] = (Signal("sideways_wind", "N"), Signal("vertical_wind", "N"))

    @property
    def positions(self) -> tuple[Signal, ...]:
        return Signal("position", "m"), Signal("height", "m"), Signal("tilt", "rad")

    @property
    def state_weights(self) -> np.ndarray:
        return np.array([0.5, 0.5, 1.0, 0.1, 0.1, 0.1])

    @property
    def action_weights(self) -> np.ndarray:
        return np.array([0.02, 20.0])

    @property
    def initial_spread(self) -> np.ndarray:
        return np.array([1.0, 1.0, 0.2, 0.3, 0.3, 0.3])

    def acceleration(
        self, position: Columns, velocity: Columns, action: Columns, disturbance: Columns | None, p: Any
    ) -> Columns:
        tilt, lift = position[2], action[0] / p.mass + p.gravity
        drag = p.drag / p.mass
        sideways = -(lift * torch.sin(tilt)) - velocity[0] * drag
        upward = lift * torch.cos(tilt) - p.gravity - velocity[1] * drag
        if disturbance is not None:
            sideways, upward = sideways + disturbance[0] / p.mass, upward + disturbance[1] / p.mass
        return [sideways, upward, action[1] / p.inertia]

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        away = excess(state[..., 0], self.soft) + excess(state[..., 1], self.soft)
        cost = self.quadratic_cost(state, action) + away * self.soft_weight
        return cost + self.failure_cost * self.failed(next_state)

    def failed(self, state: Tensor) -> Tensor:
        outside = (state[..., 0].abs() > self.cage) | (state[..., 1].abs() > self.cage)
        return outside | (state[..., 2].abs() > self.tilt_limit)

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        limits = {"tilt": 0.5, "thrust": float(self.action_limit[0])}
        return enclosed_form(self, self.bounds(limits, region), parts=32)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        x, z, tilt = (float(v) for v in state[:3])
        canvas.view(center=(0.0, 0.0), width=2.2 * self.cage)
        canvas.circle((0.0, 0.0), 0.08, canvas.second, outline=0.03)
        c, s = math.cos(tilt), math.sin(tilt)
        span = 0.45
        canvas.line((x - span * c, z - span * s), (x + span * c, z + span * s), 0.06, canvas.dark)
        canvas.circle((x, z), 0.11, canvas.accent)
        hover = self.mass * self.gravity
        for side in (-1.0, 1.0):
            arm = np.array([x + side * span * c, z + side * span * s])
            push = 0.5 * (hover + float(action[0])) + 0.5 * side * float(action[1]) / span
            up = np.array([-s, c])
            hub = arm + 0.1 * up
            canvas.line(arm, hub, 0.04, canvas.dark)
            canvas.line(hub - 0.22 * np.array([c, s]), hub + 0.22 * np.array([c, s]), 0.03, canvas.body)
            canvas.arrow(hub, up * 0.8 * push / hover)
