"""Two pendulums, one on the other, on a cart: balance both with one force."""

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
class DoublePendulumCart(MechanicalPlant):
    """Balance a double pendulum on a cart: point masses on massless rods, one force for three coordinates.

    With Δ = θ₁ - θ₂ and angles from the upright,

        (M + m₁ + m₂) ẍ + (m₁ + m₂) l₁ cos θ₁ θ̈₁ + m₂ l₂ cos θ₂ θ̈₂
            = u + d₁ - b ẋ + (m₁ + m₂) l₁ sin θ₁ θ̇₁² + m₂ l₂ sin θ₂ θ̇₂²
        (m₁ + m₂) l₁ cos θ₁ ẍ + (m₁ + m₂) l₁² θ̈₁ + m₂ l₁ l₂ cos Δ θ̈₂
            = (m₁ + m₂) g l₁ sin θ₁ - m₂ l₁ l₂ sin Δ θ̇₂² - c θ̇₁ + c (θ̇₂ - θ̇₁)
        m₂ l₂ cos θ₂ ẍ + m₂ l₁ l₂ cos Δ θ̈₁ + m₂ l₂² θ̈₂
            = m₂ g l₂ sin θ₂ + m₂ l₁ l₂ sin Δ θ̇₁² - c (θ̇₂ - θ̇₁) + d₂ l₂ cos θ₂

    | state               | unit  | starts within | meaning                |
    |---------------------|-------|---------------|------------------------|
    | `position`          | m     | ±0.3          | x of the cart          |
    | `lower_angle`       | rad   | ±0.05         | θ₁ of the lower rod    |
    | `upper_angle`       | rad   | ±0.05         | θ₂ of the upper rod    |
    | `position_rate`     | m/s   | ±0.1          | ẋ                      |
    | `lower_angle_rate`  | rad/s | ±0.05         | θ̇₁                     |
    | `upper_angle_rate`  | rad/s | ±0.05         | θ̇₂                     |

    | action  | unit | limit | meaning                          |
    |---------|------|-------|----------------------------------|
    | `force` | N    | ±20   | u on the cart, positive along +x |

    | disturbance  | unit | standard deviation | meaning                            |
    |--------------|------|--------------------|------------------------------------|
    | `cart_force` | N    | 4                  | d₁ on the cart                     |
    | `tip_force`  | N    | 0.02               | d₂ across the upper rod, at its end |

    The observation is the state. The cost of a step is xᵀQx + uᵀRu + 50 max(0, |x| - 0.2)², plus
    `failure_cost` once when |x| exceeds `track_limit` or an angle exceeds `angle_limit`; 500 steps of 0.02 s.
    The Lur'e form bounds the Jacobian over |θ| ≤ 0.2, |θ̇| ≤ 1, |ẋ| ≤ 1 and the force limit.

    >>> import numpy as np
    >>> int((abs(np.linalg.eigvals(DoublePendulumCart().linearize().A)) > 1.001).sum())     # both rods fall
    2
    """

    cart_mass: float = physical(1.0, "kg")
    lower_mass: float = physical(0.2, "kg")
    upper_mass: float = physical(0.1, "kg")
    lower_length: float = physical(0.5, "m")
    upper_length: float = physical(0.5, "m")
    cart_damping: float = physical(0.1, "N·s/m", positive=False)
    joint_damping: float = physical(0.002, "N·m·s/rad", positive=False)
    gravity: float = physical(9.81, "m/s²", positive=False)
    action_limit: Any = 20.0
    disturbance: Any = (4.0, 0.02)
    track_limit: float = 1.5
    track_soft: float = 0.2
    track_weight: float = 50.0
    angle_limit: float = 0.5
    failure_cost: float = 200.0

    name: ClassVar[str] = "DoublePendulumCart"
    actions: ClassVar[tuple[Signal, ...]] = (Signal("force", "N"),)
    disturbances: ClassVar[tuple[Signal, ...]] = (Signal("cart_force", "N"), Signal("tip_force", "N"))

    @property
    def positions(self) -> tuple[Signal, ...]:
        return Signal("position", "m"), Signal("lower_angle", "rad"), Signal("upper_angle", "rad")

    @property
    def state_weights(self) -> np.ndarray:
        return np.array([0.5, 2.0, 2.0, 0.05, 0.05, 0.05])

    @property
    def action_weights(self) -> np.ndarray:
        return np.array([0.005])

    @property
    def initial_spread(self) -> np.ndarray:
        return np.array([0.3, 0.05, 0.05, 0.1, 0.05, 0.05])

    def acceleration(
        self, position: Columns, velocity: Columns, action: Columns, disturbance: Columns | None, p: Any
    ) -> Columns:
        (_, lower, upper), (speed, lower_rate, upper_rate) = position, velocity
        m1, m2, l1, l2 = p.lower_mass, p.upper_mass, p.lower_length, p.upper_length
        s1, c1, s2, c2 = torch.sin(lower), torch.cos(lower), torch.sin(upper), torch.cos(upper)
        sd, cd = torch.sin(lower - upper), torch.cos(lower - upper)
        joint = (upper_rate - lower_rate) * p.joint_damping
        lower_swing, upper_swing = lower_rate * lower_rate, upper_rate * upper_rate
        # The right-hand sides, the second and the third divided by their lengths.
        f0 = action[0] - speed * p.cart_damping + s1 * lower_swing * ((m1 + m2) * l1)
        f0 = f0 + s2 * upper_swing * (m2 * l2)
        f1 = s1 * ((m1 + m2) * p.gravity) - sd * upper_swing * (m2 * l2)
        f1 = f1 + (joint - lower_rate * p.joint_damping) / l1
        f2 = s2 * (m2 * p.gravity) + sd * lower_swing * (m2 * l1) - joint / l2
        if disturbance is not None:
            f0, f2 = f0 + disturbance[0], f2 + disturbance[1] * c2
        # Eliminate θ̈₂, then θ̈₁; the pivots m₂l₂², l₁²(m₁ + m₂ sin²Δ) and `inertia` ≥ M are positive.
        pivot = sd * sd * m2 + m1
        arm = c1 * m1 - sd * s2 * m2
        inertia = s2 * s2 * m2 + (p.cart_mass + m1) - arm * arm / pivot
        reduced = f1 - cd * f2
        cart = (f0 - c2 * f2 - arm * reduced / pivot) / inertia
        lower_turn = (reduced - arm * cart) / pivot / l1
        upper_turn = (f2 / m2 - c2 * cart - cd * lower_turn * l1) / l2
        return [cart, lower_turn, upper_turn]

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        beyond = excess(state[..., 0], self.track_soft) * self.track_weight
        return self.quadratic_cost(state, action) + beyond + self.failure_cost * self.failed(next_state)

    def failed(self, state: Tensor) -> Tensor:
        fallen = (state[..., 1].abs() > self.angle_limit) | (state[..., 2].abs() > self.angle_limit)
        return fallen | (state[..., 0].abs() > self.track_limit)

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        limits = {
            "lower_angle": 0.2,
            "upper_angle": 0.2,
            "position_rate": 1.0,
            "lower_angle_rate": 1.0,
            "upper_angle_rate": 1.0,
            "force": float(self.action_limit[0]),
        }
        return enclosed_form(self, self.bounds(limits, region), parts=5)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        x, lower, upper = (float(v) for v in state[:3])
        canvas.view(center=(0.0, 0.45), width=2.2 * max(self.track_limit, 1.0))
        canvas.line((-self.track_limit, -0.09), (self.track_limit, -0.09), 0.015, canvas.body)
        for end in (-self.track_limit, self.track_limit):
            canvas.line((end, -0.16), (end, 0.02), 0.03, canvas.dark)
        canvas.box((x, 0.0), (0.36, 0.16), canvas.dark)
        elbow = (x + self.lower_length * math.sin(lower), self.lower_length * math.cos(lower))
        tip = (elbow[0] + self.upper_length * math.sin(upper), elbow[1] + self.upper_length * math.cos(upper))
        canvas.line((x, 0.0), elbow, 0.04, canvas.accent)
        canvas.line(elbow, tip, 0.03, canvas.second)
        canvas.circle(elbow, 0.045, canvas.dark)
        canvas.circle(tip, 0.04, canvas.dark)
        canvas.circle((x, 0.0), 0.03, canvas.paper)
        canvas.arrow((x, -0.22), (0.5 * float(action[0] / self.action_limit[0]), 0.0))
