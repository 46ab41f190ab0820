"""Two masses joined by a spring: the benchmark problem of the American Control Conference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from lipctrl_envs.canvas import Canvas
from lipctrl_envs.lure import LureForm
from lipctrl_envs.mechanical import MechanicalPlant
from lipctrl_envs.signals import Columns, Signal, excess, physical


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoMassDrive(MechanicalPlant):
    """Position a load through a flexible shaft: force on the first mass, the second one is what matters.

        m₁ q̈₁ = -k (q₁ - q₂) - c (q̇₁ - q̇₂) + u + d₁,        m₂ q̈₂ = k (q₁ - q₂) + c (q̇₁ - q̇₂) + d₂

    The benchmark of Wie and Bernstein (Benchmark Problems for Robust Control Design, J. Guidance 15(5), 1992) has
    m₁ = m₂ = k = 1, c = 0 and asks for robustness against k from 0.5 to 2: pass `randomization={"stiffness": 0.5}`.

    | state                 | unit | starts within | meaning               |
    |-----------------------|------|---------------|-----------------------|
    | `motor_position`      | m    | ±1            | q₁ of the driven mass |
    | `load_position`       | m    | ±1            | q₂ of the load        |
    | `motor_position_rate` | m/s  | ±0.2          | q̇₁                    |
    | `load_position_rate`  | m/s  | ±0.2          | q̇₂                    |

    | action  | unit | limit | meaning              |
    |---------|------|-------|----------------------|
    | `force` | N    | ±1    | u on the driven mass |

    | disturbance   | unit | standard deviation | meaning         |
    |---------------|------|--------------------|-----------------|
    | `motor_force` | N    | 0.3                | d₁              |
    | `load_force`  | N    | 0.3                | d₂              |

    The observation is the state. The cost of a step is

        q₂² + 0.1 (q₁² + q̇₁² + q̇₂²) + 0.2 u² + 10 max(0, |q₁ - q₂| - 0.2)²:

    the shaft must not be twisted much. It never fails; 400 steps of 0.05 s. The plant is linear: its Lur'e
    form has no channel.

    >>> TwoMassDrive(stiffness=0.5, damping=0.0).lure_form().lower.size
    0
    """

    motor_mass: float = physical(1.0, "kg")
    load_mass: float = physical(1.0, "kg")
    stiffness: float = physical(1.0, "N/m")
    damping: float = physical(0.01, "N·s/m", positive=False)
    dt: float = 0.05
    horizon: int = 400
    action_limit: Any = 1.0
    disturbance: Any = 0.3
    twist_soft: float = 0.2
    twist_weight: float = 10.0

    name: ClassVar[str] = "TwoMassDrive"
    actions: ClassVar[tuple[Signal, ...]] = (Signal("force", "N"),)
    disturbances: ClassVar[tuple[Signal, ...]] = (Signal("motor_force", "N"), Signal("load_force", "N"))
    frame_size: ClassVar[tuple[int, int]] = (200, 600)

    @property
    def positions(self) -> tuple[Signal, ...]:
        return Signal("motor_position", "m"), Signal("load_position", "m")

    @property
    def state_weights(self) -> np.ndarray:
        return np.array([0.1, 1.0, 0.1, 0.1])

    @property
    def action_weights(self) -> np.ndarray:
        return np.array([0.2])

    @property
    def initial_spread(self) -> np.ndarray:
        return np.array([1.0, 1.0, 0.2, 0.2])

    def acceleration(
        self, position: Columns, velocity: Columns, action: Columns, disturbance: Columns | None, p: Any
    ) -> Columns:
        shaft = (position[0] - position[1]) * p.stiffness + (velocity[0] - velocity[1]) * p.damping
        motor, load = action[0] - shaft, shaft
        if disturbance is not None:
            motor, load = motor + disturbance[0], load + disturbance[1]
        return [motor / p.motor_mass, load / p.load_mass]

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        twist = excess(state[..., 0] - state[..., 1], self.twist_soft) * self.twist_weight
        return self.quadratic_cost(state, action) + twist

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        self.bounds({}, region)
        path, E = self.rates_path()
        shaft = np.array([[self.stiffness, -self.stiffness, self.damping, -self.damping]])
        masses = np.array([[-1.0 / self.motor_mass], [1.0 / self.load_mass]])
        return LureForm(
            A=path + E @ masses @ shaft,
            B=E @ np.array([[1.0 / self.motor_mass], [0.0]]),
            B_w=np.zeros((4, 0)),
            C_z=np.zeros((0, 4)),
            D_zu=np.zeros((0, 1)),
            lower=np.zeros(0),
            upper=np.zeros(0),
            z_max=np.zeros(0),
            C=np.eye(4),
            D_w=np.zeros((4, 0)),
            y_0=np.zeros(4),
            dt=self.dt,
            psi=np.positive,
            note="exact: the plant is linear",
        ).with_delay(self.delay)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        motor, load = -1.2 + float(state[0]), 1.2 + float(state[1])
        canvas.view(center=(0.0, 0.0), width=7.0)
        canvas.line((-3.4, -0.32), (3.4, -0.32), 0.02, canvas.faint)
        canvas.line((1.2, -0.42), (1.2, -0.32), 0.04, canvas.second)
        canvas.spring((motor + 0.25, 0.0), (load - 0.25, 0.0), 0.1, canvas.body)
        canvas.box((motor, 0.0), (0.5, 0.5), canvas.dark)
        canvas.box((load, 0.0), (0.5, 0.5), canvas.accent)
        canvas.arrow((motor, 0.45), (0.6 * float(action[0] / self.action_limit[0]), 0.0))
