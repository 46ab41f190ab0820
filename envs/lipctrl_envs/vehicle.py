"""A car at constant speed keeps its lane: lateral dynamics with tyres that saturate."""

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
from lipctrl_envs.mechanical import MechanicalPlant
from lipctrl_envs.signals import Columns, Signal, excess, physical


@dataclass(frozen=True, kw_only=True, eq=False)
class LateralVehicle(MechanicalPlant):
    """Keep a car in its lane at constant speed U: the bicycle model in errors from the lane, tyres that saturate.

    With lateral offset e, heading error ψ, yaw rate r = ψ̇ + U κ, distances a, b of the axles (front, rear),
    slip angles and axle forces

        α_f = δ - (ė - U ψ + a r)/U,    α_r = -(ė - U ψ - b r)/U,    F = μ N tanh(C α / (μ N)),

    the motion is (Rajamani, Vehicle Dynamics and Control, eqs. 2.45-2.46, there with F = C α)

        m ë = F_f + F_r - m U² κ + w,        J ψ̈ = a F_f - b F_r.

    | state          | unit  | starts within | meaning                        |
    |----------------|-------|---------------|--------------------------------|
    | `offset`       | m     | ±1            | e, to the left of the lane     |
    | `heading`      | rad   | ±0.05         | ψ, counter-clockwise           |
    | `offset_rate`  | m/s   | ±0.5          | ė                              |
    | `heading_rate` | rad/s | ±0.05         | ψ̇                              |

    | action     | unit | limit | meaning                                |
    |------------|------|-------|----------------------------------------|
    | `steering` | rad  | ±0.1  | δ of the front wheels, counter-clockwise |

    | disturbance | unit | standard deviation | meaning                     |
    |-------------|------|--------------------|-----------------------------|
    | `curvature` | 1/m  | 0.003              | κ of the lane               |
    | `wind`      | N    | 2000               | w, a side force             |

    The observation is the state. The cost of a step is

        e² + 5 ψ² + 0.02 ė² + 0.1 ψ̇² + 50 δ² + 50 max(0, |e| - 0.2)²;

    leaving the lane (|e| > `lane`) fails and costs `failure_cost` once; 500 steps of 0.02 s. The Lur'e form
    is exact: ψ = tanh for each axle, slopes [1 - tanh²(z_max), 1] on |C α/(μ N)| ≤ z_max = 1
    (`region={"front_slip": …, "rear_slip": …}`, in this normalised slip; math.inf is allowed: slopes [0, 1]).

    >>> form = LateralVehicle(speed=30.0).lure_form({"front_slip": math.inf, "rear_slip": math.inf})
    >>> form.lower.tolist(), form.upper.tolist()
    ([0.0, 0.0], [1.0, 1.0])
    """

    mass: float = physical(1500.0, "kg")
    inertia: float = physical(2500.0, "kg·m²")
    front: float = physical(1.2, "m")
    rear: float = physical(1.5, "m")
    front_stiffness: float = physical(80e3, "N/rad")
    rear_stiffness: float = physical(90e3, "N/rad")
    friction: float = physical(0.9, "1")
    speed: float = physical(25.0, "m/s")
    gravity: float = physical(9.81, "m/s²")
    action_limit: Any = 0.1
    disturbance: Any = (0.003, 2000.0)
    lane: float = 1.75
    offset_soft: float = 0.2
    offset_weight: float = 50.0
    failure_cost: float = 200.0

    name: ClassVar[str] = "LateralVehicle"
    actions: ClassVar[tuple[Signal, ...]] = (Signal("steering", "rad"),)
    disturbances: ClassVar[tuple[Signal, ...]] = (Signal("curvature", "1/m"), Signal("wind", "N"))
    frame_size: ClassVar[tuple[int, int]] = (300, 600)

    @property
    def positions(self) -> tuple[Signal, ...]:
        return Signal("offset", "m"), Signal("heading", "rad")

    @property
    def state_weights(self) -> np.ndarray:
        return np.array([1.0, 5.0, 0.02, 0.1])

    @property
    def action_weights(self) -> np.ndarray:
        return np.array([50.0])

    @property
    def initial_spread(self) -> np.ndarray:
        return np.array([1.0, 0.05, 0.5, 0.05])

    @staticmethod
    def grips(p: Any) -> tuple[Any, Any]:
        """Return the largest lateral force of each axle, μ N [N]."""
        share = p.friction * p.mass * p.gravity / (p.front + p.rear)
        return share * p.rear, share * p.front

    def acceleration(
        self, position: Columns, velocity: Columns, action: Columns, disturbance: Columns | None, p: Any
    ) -> Columns:
        yaw = velocity[1] if disturbance is None else velocity[1] + disturbance[0] * p.speed
        drift = velocity[0] / p.speed - position[1]
        front_slip = action[0] - drift - yaw * (p.front / p.speed)
        rear_slip = yaw * (p.rear / p.speed) - drift
        front_grip, rear_grip = self.grips(p)
        front = torch.tanh(front_slip * (p.front_stiffness / front_grip)) * front_grip
        rear = torch.tanh(rear_slip * (p.rear_stiffness / rear_grip)) * rear_grip
        sideways = (front + rear) / p.mass
        if disturbance is not None:
            sideways = sideways - disturbance[0] * p.speed**2 + disturbance[1] / p.mass
        return [sideways, (front * p.front - rear * p.rear) / p.inertia]

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        beyond = excess(state[..., 0], self.offset_soft) * self.offset_weight
        return self.quadratic_cost(state, action) + beyond + self.failure_cost * self.failed(next_state)

    def failed(self, state: Tensor) -> Tensor:
        return state[..., 0].abs() > self.lane

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        limits = self.bounds({"front_slip": 1.0, "rear_slip": 1.0}, region)
        z_max = np.array([limits["front_slip"], limits["rear_slip"]])
        path, E = self.rates_path()
        grips = np.array(self.grips(self))
        scale = np.array([self.front_stiffness, self.rear_stiffness]) / grips
        slips = np.array(
            [
                [0.0, 1.0, -1.0 / self.speed, -self.front / self.speed],
                [0.0, 1.0, -1.0 / self.speed, self.rear / self.speed],
            ]
        )
        forces = np.array(
            [[1.0 / self.mass, 1.0 / self.mass], [self.front / self.inertia, -self.rear / self.inertia]]
        )
        return LureForm(
            A=path,
            B=np.zeros((4, 1)),
            B_w=E @ forces * grips,
            C_z=slips * scale[:, None],
            D_zu=np.array([[scale[0]], [0.0]]),
            lower=1.0 - np.tanh(z_max) ** 2,
            upper=np.ones(2),
            z_max=z_max,
            C=np.eye(4),
            D_w=np.zeros((4, 2)),
            y_0=np.zeros(4),
            dt=self.dt,
            psi=np.tanh,
            note="exact: ψ = tanh of the normalised slip of each axle",
        ).with_delay(self.delay)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        offset, heading = float(state[0]), float(state[1])
        canvas.view(center=(1.0, 0.0), width=12.0)
        for side in (-self.lane - 0.9, self.lane + 0.9):
            canvas.line((-6.0, side), (8.0, side), 0.12, canvas.body)
        for start in np.arange(-5.0, 8.0, 1.5):
            canvas.line((start, 0.0), (start + 0.6, 0.0), 0.05, canvas.faint)
        c, s = math.cos(heading), math.sin(heading)
        canvas.box((0.0, offset), (4.4, 1.8), canvas.accent, heading)
        canvas.box((-0.3 * c, offset - 0.3 * s), (2.0, 1.5), canvas.dark, heading)
        for along, turn in ((self.front, float(action[0])), (-self.rear, 0.0)):
            for across in (-0.85, 0.85):
                wheel = (along * c - across * s, offset + along * s + across * c)
                canvas.box(wheel, (0.7, 0.25), canvas.dark, heading + 3.0 * turn)
