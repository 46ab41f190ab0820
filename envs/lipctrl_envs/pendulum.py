"""The pendulum with a torque at its pivot: keep it upright, or swing it up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lipctrl_envs.canvas import Canvas
from lipctrl_envs.lure import LureForm, sine_slopes
from lipctrl_envs.mechanical import MechanicalPlant
from lipctrl_envs.signals import Columns, Signal, excess, join, physical


@dataclass(frozen=True, kw_only=True, eq=False)
class Pendulum(MechanicalPlant):
    """Keep a pendulum upright: a point mass on a massless rod, driven by a torque at the pivot.

        m l² θ̈ = m g l sin θ - b θ̇ + u + d,        θ = 0 upright, semi-implicit Euler steps of `dt`

    | state        | unit  | starts within | meaning                          |
    |--------------|-------|---------------|----------------------------------|
    | `angle`      | rad   | ±0.3          | θ, from the upright, not wrapped |
    | `angle_rate` | rad/s | ±0.3          | θ̇                                |

    | action   | unit | limit | meaning             |
    |----------|------|-------|---------------------|
    | `torque` | N·m  | ±5    | u, positive along θ |

    | disturbance | unit | standard deviation | meaning               |
    |-------------|------|--------------------|-----------------------|
    | `torque`    | N·m  | 3                  | d, adds to the torque |

    The observation is the state. The cost of a step is

        θ² + 0.1 θ̇² + 0.01 u² + angle_weight · max(0, |θ| - angle_soft)²  (+ failure_cost, once);

    the first three terms are what an LQR design sees. The episode ends in failure when |θ| exceeds `angle_limit`
    and is truncated after 500 steps (10 s).

    The Lur'e form is exact with ψ = sin: slopes [cos θ_max, 1] on |θ| ≤ θ_max (the angle limit by default;
    pass `region={"angle": math.inf}` for the global form with slopes [-1, 1]).

    >>> import gymnasium
    >>> env = gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0", length=0.5)
    >>> env.unwrapped.plant.parameter_units["length"]
    'm'
    """

    mass: float = physical(1.0, "kg")
    length: float = physical(1.0, "m")
    damping: float = physical(0.1, "N·m·s/rad", positive=False)
    gravity: float = physical(9.81, "m/s²", positive=False)
    action_limit: Any = 5.0
    disturbance: Any = 3.0
    angle_soft: float = 0.1
    angle_weight: float = 200.0
    angle_limit: float = math.pi / 2
    failure_cost: float = 200.0

    name: ClassVar[str] = "Pendulum"
    actions: ClassVar[tuple[Signal, ...]] = (Signal("torque", "N·m"),)
    disturbances: ClassVar[tuple[Signal, ...]] = (Signal("torque", "N·m"),)
    frame_size: ClassVar[tuple[int, int]] = (400, 400)

    @property
    def positions(self) -> tuple[Signal, ...]:
        return (Signal("angle", "rad"),)

    @property
    def state_weights(self) -> np.ndarray:
        return np.array([1.0, 0.1])

    @property
    def action_weights(self) -> np.ndarray:
        return np.array([0.01])

    @property
    def initial_spread(self) -> np.ndarray:
        return np.array([0.3, 0.3])

    def acceleration(
        self, position: Columns, velocity: Columns, action: Columns, disturbance: Columns | None, p: Any
    ) -> Columns:
        torque = action[0] if disturbance is None else action[0] + disturbance[0]
        inertia = p.mass * p.length**2
        return [
            torch.sin(position[0]) * (p.gravity / p.length) + (torque - velocity[0] * p.damping) / inertia
        ]

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        beyond = excess(state[..., 0], self.angle_soft)
        cost = self.quadratic_cost(state, action).add(beyond, alpha=self.angle_weight)
        return cost + self.failure_cost * self.failed(next_state)

    def failed(self, state: Tensor) -> Tensor:
        return state[..., 0].abs() > self.angle_limit

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        z_max = self.bounds({"angle": self.angle_limit}, region)["angle"]
        path, E = self.rates_path()
        inertia = self.mass * self.length**2
        lower, upper = sine_slopes(z_max)
        return LureForm(
            A=path + E @ np.array([[0.0, -self.damping / inertia]]),
            B=E / inertia,
            B_w=E * self.gravity / self.length,
            C_z=np.array([[1.0, 0.0]]),
            D_zu=np.zeros((1, 1)),
            lower=np.array([lower]),
            upper=np.array([upper]),
            z_max=np.array([z_max]),
            C=np.eye(2),
            D_w=np.zeros((2, 1)),
            y_0=np.zeros(2),
            dt=self.dt,
            psi=np.sin,
            note="exact: ψ = sin of the angle",
        ).with_delay(self.delay)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        canvas.view(center=(0.0, 0.0), width=2.8 * self.length)
        tip = self.length * np.array([math.sin(state[0]), math.cos(state[0])])
        canvas.circle((0.0, 0.0), self.length, canvas.faint, outline=0.006 * self.length)
        canvas.line((0.0, 0.0), tip, 0.05 * self.length, canvas.body)
        canvas.circle(tip, 0.12 * self.length, canvas.accent)
        canvas.circle((0.0, 0.0), 0.05 * self.length, canvas.dark)
        canvas.turn((0.0, 0.0), 0.3 * self.length, float(action[0] / self.action_limit[0]))


@dataclass(frozen=True, kw_only=True, eq=False)
class PendulumSwingUp(Pendulum):
    """Swing a pendulum up and keep it there: the dynamics of `Pendulum`, started hanging, never ended early.

    | state        | unit  | starts within | meaning                          |
    |--------------|-------|---------------|----------------------------------|
    | `angle`      | rad   | π ± 0.5       | θ, from the upright, not wrapped |
    | `angle_rate` | rad/s | ±0.5          | θ̇                                |

    | action   | unit | limit | meaning             |
    |----------|------|-------|---------------------|
    | `torque` | N·m  | ±5    | u, positive along θ |

    | observation  | unit  | range   |
    |--------------|-------|---------|
    | `cos_angle`  | 1     | [-1, 1] |
    | `sin_angle`  | 1     | [-1, 1] |
    | `angle_rate` | rad/s | free    |

    The cost of a step, 2 (1 - cos θ) + 0.1 θ̇² + 0.01 u², is smooth on the circle and agrees to second order with that
    of `Pendulum` near the upright. Weak torque (5 N·m against m g l = 9.81 N·m) makes pumping necessary.
    The Lur'e form has two exact channels, sin θ and cos θ - 1 (the latter enters the observation only).

    >>> plant = PendulumSwingUp()
    >>> plant.observation_names, plant.lure_form().exact
    (('cos_angle', 'sin_angle', 'angle_rate'), True)
    """

    disturbance: Any = 0.0
    angle_limit: float = math.inf

    name: ClassVar[str] = "PendulumSwingUp"

    @property
    def observations(self) -> tuple[Signal, ...]:
        return (Signal("cos_angle", "1"), Signal("sin_angle", "1"), Signal("angle_rate", "rad/s"))

    @property
    def observation_bounds(self) -> np.ndarray:
        return np.array([1.0, 1.0, np.inf])

    @property
    def initial_spread(self) -> np.ndarray:
        return np.array([0.5, 0.5])

    def initial_state(
        self,
        count: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        state = super().initial_state(count, generator, device, dtype)
        state[..., 0] += math.pi
        return state

    def sense(self, state: Tensor) -> Tensor:
        angle = state[..., 0]
        return join([torch.cos(angle), torch.sin(angle), state[..., 1]])

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        angle, rate = state.unbind(-1)
        (q_angle, q_rate), (r,) = self.state_weights.tolist(), self.action_weights.tolist()
        return (1.0 - torch.cos(angle)) * (2.0 * q_angle) + rate**2 * q_rate + action[..., 0] ** 2 * r

    def failed(self, state: Tensor) -> Tensor:
        return torch.zeros(state.shape[:-1], dtype=torch.bool, device=state.device)

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        return circle_form(
            self.rates_path(),
            gravity=self.gravity / self.length,
            damping=self.damping / (self.mass * self.length**2),
            gain=1.0 / (self.mass * self.length**2),
            z_max=self.bounds({"angle": self.angle_limit}, region)["angle"],
            dt=self.dt,
        ).with_delay(self.delay)


def sine_and_cosine(z: np.ndarray) -> np.ndarray:
    """Return (sin z₁, cos z₂ - 1, 0): the channels of a pendulum observed on the circle."""
    return np.stack([np.sin(z[..., 0]), np.cos(z[..., 1]) - 1.0, np.zeros_like(z[..., 2])], axis=-1)


def circle_slopes(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Enclose the difference quotients of `sine_and_cosine` between points of [low, high], entry by entry."""
    zero = np.zeros_like(low[..., 2])
    sine, cosine = (
        _cosine_range(low[..., 0], high[..., 0]),
        _cosine_range(low[..., 1], high[..., 1], math.pi / 2),
    )
    return np.stack([sine[0], cosine[0], zero], axis=-1), np.stack([sine[1], cosine[1], zero], axis=-1)


def _cosine_range(low: np.ndarray, high: np.ndarray, phase: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Enclose cos(z + phase) for z in [low, high]: its ends, and ±1 where a multiple of π may lie between."""
    a, b = low + phase, high + phase
    ends = np.cos(a), np.cos(b)
    slack = 1e-15 * (1.0 + np.maximum(np.abs(a), np.abs(b)))

    def holds(offset: float) -> np.ndarray:
        return np.floor((b - offset) / (2.0 * np.pi) + 1e-12) >= np.ceil((a - offset) / (2.0 * np.pi) - 1e-12)

    bottom = np.where(holds(np.pi), -1.0, np.minimum(*ends) - slack)
    top = np.where(holds(0.0), 1.0, np.maximum(*ends) + slack)
    return np.maximum(bottom, -1.0), np.minimum(top, 1.0)


def circle_form(
    path: tuple[np.ndarray, np.ndarray],
    *,
    gravity: float,
    damping: float,
    gain: float,
    z_max: float,
    dt: float,
    rate_max: float = math.inf,
) -> LureForm:
    """Return the form of θ̈ = gravity·sin θ - damping·θ̇ + gain·u observed as [cos θ, sin θ, θ̇].

    `rate_max` adds a channel that only limits the region, |θ̇| ≤ rate_max.
    """
    A_0, E = path
    low, high = sine_slopes(z_max)
    steepest = math.sin(min(z_max, math.pi / 2))
    zero = np.zeros((2, 1))

    return LureForm(
        A=A_0 - E @ np.array([[0.0, damping]]),
        B=E * gain,
        B_w=np.hstack([E * gravity, zero, zero]),
        C_z=np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        D_zu=np.zeros((3, 1)),
        lower=np.array([low, -steepest, 0.0]),
        upper=np.array([high, steepest, 0.0]),
        z_max=np.array([z_max, z_max, rate_max]),
        C=np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]),
        D_w=np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        y_0=np.array([1.0, 0.0, 0.0]),
        dt=dt,
        psi=sine_and_cosine,
        note="exact: ψ = (sin, cos - 1) of the angle",
        psi_slopes=circle_slopes,
    )
