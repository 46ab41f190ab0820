"""The cart-pole with a continuous force: balance the pole, stay on the track."""

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
class CartPole(MechanicalPlant):
    """Balance a pole on a cart that must stay on its track, under gusts and with a limited force.

        (M + m) ẍ + m l θ̈ cos θ - m l θ̇² sin θ = u + d₁ + d₂ - b ẋ
        (4/3) m l² θ̈ + m l ẍ cos θ - m g l sin θ = d₂ l cos θ - c θ̇

    with a uniform pole of length 2l, θ = 0 upright and positive towards +x; semi-implicit Euler steps of `dt`.

    | state           | unit  | starts within | meaning                    |
    |-----------------|-------|---------------|----------------------------|
    | `position`      | m     | ±0.8          | x of the cart              |
    | `angle`         | rad   | ±0.1          | θ of the pole, not wrapped |
    | `position_rate` | m/s   | ±0.3          | ẋ                          |
    | `angle_rate`    | rad/s | ±0.1          | θ̇                          |

    | action  | unit | limit | meaning                          |
    |---------|------|-------|----------------------------------|
    | `force` | N    | ±10   | u on the cart, positive along +x |

    | disturbance  | unit | standard deviation | meaning                                        |
    |--------------|------|--------------------|------------------------------------------------|
    | `cart_force` | N    | 4                  | d₁ on the cart                                 |
    | `pole_force` | N    | 0.4                | d₂ at the centre of the pole, along +x         |

    The observation is the state. The cost of a step is

        xᵀQx + uᵀRu + track_weight · max(0, |x| - track_soft)²  (+ failure_cost, once)

    with Q = diag(0.2, 2, 0.05, 0.05), R = 0.01. The quadratic part is what an LQR design sees; the penalty for
    nearing the end of the track and the saturation of the force are what it does not see. The episode ends
    in failure when |x| exceeds `track_limit` or |θ| exceeds `angle_limit`, and is truncated after 500 steps (10 s).

    The mass matrix couples the accelerations through cos θ, so there is no element-wise exact Lur'e form; `lure_form`
    bounds the Jacobian of the accelerations over a box: |θ| ≤ angle_limit, |ẋ| ≤ 3, |θ̇| ≤ 3, |u| ≤ action_limit.

    >>> CartPole(pole_mass=0.2, delay=1).state_names       # the command under way is a state
    ('position', 'angle', 'position_rate', 'angle_rate', 'force_1_ago')
    """

    cart_mass: float = physical(1.0, "kg")
    pole_mass: float = physical(0.1, "kg")
    half_length: float = physical(0.5, "m")
    cart_damping: float = physical(0.1, "N·s/m", positive=False)
    pole_damping: float = physical(0.001, "N·m·s/rad", positive=False)
    gravity: float = physical(9.81, "m/s²", positive=False)
    action_limit: Any = 10.0
    disturbance: Any = (4.0, 0.4)
    track_limit: float = 2.4
    track_soft: float = 0.6
    track_weight: float = 20.0
    angle_limit: float = 0.5
    failure_cost: float = 200.0

    name: ClassVar[str] = "CartPole"
    actions: ClassVar[tuple[Signal, ...]] = (Signal("force", "N"),)
    disturbances: ClassVar[tuple[Signal, ...]] = (Signal("cart_force", "N"), Signal("pole_force", "N"))
    frame_size: ClassVar[tuple[int, int]] = (300, 600)

    @property
    def positions(self) -> tuple[Signal, ...]:
        return (Signal("position", "m"), Signal("angle", "rad"))

    @property
    def state_weights(self) -> np.ndarray:
        return np.array([0.2, 2.0, 0.05, 0.05])

    @property
    def action_weights(self) -> np.ndarray:
        return np.array([0.01])

    @property
    def initial_spread(self) -> np.ndarray:
        return np.array([0.8, 0.1, 0.3, 0.1])

    def acceleration(
        self, position: Columns, velocity: Columns, action: Columns, disturbance: Columns | None, p: Any
    ) -> Columns:
        angle, (speed, rate), force = position[1], velocity, action[0]
        sine, cosine = torch.sin(angle), torch.cos(angle)
        total = p.cart_mass + p.pole_mass
        ml = p.pole_mass * p.half_length
        force = force - speed * p.cart_damping + rate * rate * sine * ml
        lever = sine * p.gravity - rate * (p.pole_damping / ml)
        if disturbance is not None:
            force = force + disturbance[0] + disturbance[1]
            lever = lever + disturbance[1] * cosine / p.pole_mass
        shared = force / total
        turning = (lever - cosine * shared) / (
            p.half_length * (4.0 / 3.0) - cosine * cosine * (p.half_length * p.pole_mass / total)
        )
        return [shared - turning * cosine * (ml / total), turning]

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        beyond = excess(state[..., 0], self.track_soft)
        cost = self.quadratic_cost(state, action).add(beyond, alpha=self.track_weight)
        return cost + self.failure_cost * self.failed(next_state)

    def failed(self, state: Tensor) -> Tensor:
        return (state[..., 0].abs() > self.track_limit) | (state[..., 1].abs() > self.angle_limit)

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        limits = {
            "angle": self.angle_limit,
            "position_rate": 3.0,
            "angle_rate": 3.0,
            "force": float(self.action_limit[0]),
        }
        return enclosed_form(self, self.bounds(limits, region), parts=8)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        x, angle, length = float(state[0]), float(state[1]), 2.0 * self.half_length
        canvas.view(center=(0.0, 0.35), width=2.4 * max(self.track_limit, 1.0) + 0.4)
        canvas.line((-self.track_limit, -0.12), (self.track_limit, -0.12), 0.02, canvas.body)
        for end in (-self.track_limit, self.track_limit):
            canvas.line((end, -0.22), (end, 0.02), 0.04, canvas.dark)
        for soft in (-self.track_soft, self.track_soft):
            canvas.line((soft, -0.17), (soft, -0.12), 0.015, canvas.faint)
        canvas.box((x, 0.0), (0.5, 0.22), canvas.dark)
        tip = (x + length * math.sin(angle), length * math.cos(angle))
        canvas.line((x, 0.0), tip, 0.07, canvas.accent)
        canvas.circle((x, 0.0), 0.04, canvas.paper)
        canvas.arrow((x, -0.3), (0.8 * float(action[0] / self.action_limit[0]), 0.0))
