"""A chain of masses and springs of any length: many states, several forces, many lightly damped modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lipctrl_envs.canvas import Canvas
from lipctrl_envs.lure import LureForm
from lipctrl_envs.mechanical import MechanicalPlant
from lipctrl_envs.signals import Columns, Signal, excess, physical


def per_mass(value: Any) -> Any:
    """Let a parameter that differs between environments broadcast over the masses of a chain."""
    return value.unsqueeze(-1) if isinstance(value, Tensor) else value


def cube(z: np.ndarray) -> np.ndarray:
    """Return z³."""
    return z**3


@dataclass(frozen=True, kw_only=True, eq=False)
class MassSpringChain(MechanicalPlant):
    """Calm a chain of `masses` equal masses, fixed to a wall at one end, with `actuators` forces spread along it.

    With stretches sᵢ = qᵢ - qᵢ₋₁ (q₀ = 0: the wall) and tensions tᵢ = k sᵢ + h sᵢ³ + c ṡᵢ,

        m q̈ᵢ = tᵢ₊₁ - tᵢ + uᵢ + dᵢ,        t of the free end = 0

    Semi-implicit Euler steps cost a few operations a mass, so chains of hundreds of states stay cheap.

    | state            | unit | starts within | meaning                       |
    |------------------|------|---------------|-------------------------------|
    | `position1` …    | m    | ±0.5          | qᵢ from rest, wall side first |
    | `position1_rate` … | m/s | ±0.5         | q̇ᵢ                            |

    | action      | unit | limit | meaning                                            |
    |-------------|------|-------|----------------------------------------------------|
    | `force1` …  | N    | ±1    | u on evenly spaced masses, the last one included   |

    | disturbance | unit | standard deviation | meaning          |
    |-------------|------|--------------------|------------------|
    | `force1` …  | N    | 1                  | dᵢ on every mass |

    The observation is the state. The cost of a step is

        0.1 |q|² + 0.1 |q̇|² + 0.1 |u|² + 10 Σ max(0, |sᵢ| - 0.2)²:

    springs must not be stretched much. It never fails; 400 steps of 0.05 s. The Lur'e form is exact with
    ψ = s³ for each spring, of slopes [0, 3 s_max²] on |s| ≤ s_max = 1 m (`region={"stretch": …}`); with
    `hardening=0` the plant is linear.

    >>> MassSpringChain(masses=50).linearize().nstates
    100
    """

    masses: int = 4
    actuators: int = 2
    mass: float = physical(1.0, "kg")
    stiffness: float = physical(1.0, "N/m")
    hardening: float = physical(0.5, "N/m³", positive=False)
    damping: float = physical(0.05, "N·s/m", positive=False)
    dt: float = 0.05
    horizon: int = 400
    action_limit: Any = 1.0
    disturbance: Any = 1.0
    stretch_soft: float = 0.2
    stretch_weight: float = 10.0

    name: ClassVar[str] = "MassSpringChain"
    frame_size: ClassVar[tuple[int, int]] = (200, 600)

    def __post_init__(self) -> None:
        for field, value, most in (("masses", self.masses, None), ("actuators", self.actuators, self.masses)):
            if not isinstance(value, int) or value < 1 or (most is not None and value > most):
                span = "at least 1" if most is None else f"from 1 to masses={most}"
                raise ValueError(f"{self.name}: {field} must be a whole number {span}, got {value!r}")
        super().__post_init__()

    @property
    def positions(self) -> tuple[Signal, ...]:
        return tuple(Signal(f"position{i + 1}", "m") for i in range(self.masses))

    @property
    def actions(self) -> tuple[Signal, ...]:
        return tuple(Signal(f"force{i + 1}", "N") for i in range(self.actuators))

    @property
    def disturbances(self) -> tuple[Signal, ...]:
        return tuple(Signal(f"force{i + 1}", "N") for i in range(self.masses))

    @cached_property
    def driven(self) -> list[int]:
        """Return the indices of the masses on which forces act."""
        return [round((i + 1) * self.masses / self.actuators) - 1 for i in range(self.actuators)]

    @property
    def state_weights(self) -> np.ndarray:
        return np.full(2 * self.masses, 0.1)

    @property
    def action_weights(self) -> np.ndarray:
        return np.full(self.actuators, 0.1)

    @property
    def initial_spread(self) -> np.ndarray:
        return np.full(2 * self.masses, 0.5)

    def acceleration(
        self, position: Columns, velocity: Columns, action: Columns, disturbance: Columns | None, p: Any
    ) -> Columns:
        push = None if disturbance is None else torch.stack(list(disturbance), -1)
        q, v, u = (torch.stack(list(part), -1) for part in (position, velocity, action))
        return self._accelerations(q, v, u, push, p).unbind(-1)

    def _accelerations(
        self, position: Tensor, velocity: Tensor, action: Tensor, disturbance: Tensor | None, p: Any
    ) -> Tensor:
        stretch = torch.diff(position, dim=-1, prepend=torch.zeros_like(position[..., :1]))
        closing = torch.diff(velocity, dim=-1, prepend=torch.zeros_like(velocity[..., :1]))
        stiffness, hardening = per_mass(p.stiffness), per_mass(p.hardening)
        tension = stretch * (stretch * stretch * hardening + stiffness) + closing * per_mass(p.damping)
        force = torch.diff(tension, dim=-1, append=torch.zeros_like(tension[..., :1]))
        force = force.index_add(-1, self._driven_index(force.device), action.expand((*force.shape[:-1], -1)))
        if disturbance is not None:
            force = force + disturbance
        return force / per_mass(p.mass)

    @cached_property
    def _indices(self) -> dict[torch.device, Tensor]:
        return {}

    def _driven_index(self, device: torch.device) -> Tensor:
        # Kept on the device: copying it there in every step would make the step wait.
        if device not in self._indices:
            self._indices[device] = torch.tensor(self.driven, device=device)
        return self._indices[device]

    def flow(self, state: Tensor, action: Tensor, disturbance: Tensor | None, p: Any) -> Tensor:
        position, velocity = state[..., : self.masses], state[..., self.masses :]
        velocity = velocity + self.dt * self._accelerations(position, velocity, action, disturbance, p)
        return torch.cat([position + self.dt * velocity, velocity], dim=-1)

    def quadratic_cost(self, state: Tensor, action: Tensor) -> Tensor:
        # All weights of a kind are equal, so two sums do for any number of masses.
        weight, effort = float(self.state_weights[0]), float(self.action_weights[0])
        return state.square().sum(-1) * weight + action.square().sum(-1) * effort

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        position = state[..., : self.masses]
        stretch = torch.diff(position, dim=-1, prepend=torch.zeros_like(position[..., :1]))
        beyond = excess(stretch, self.stretch_soft).sum(-1) * self.stretch_weight
        return self.quadratic_cost(state, action) + beyond

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        n, s_max = self.masses, self.bounds({"stretch": 1.0}, region)["stretch"]
        path, E = self.rates_path()
        stretch = np.eye(n) - np.eye(n, k=-1)
        pull = -stretch.T / self.mass
        drive = np.zeros((n, self.actuators))
        drive[self.driven, range(self.actuators)] = 1.0 / self.mass
        k = n if self.hardening > 0.0 else 0
        internal = pull @ np.hstack([self.stiffness * stretch, self.damping * stretch])
        return LureForm(
            A=path + E @ internal,
            B=E @ drive,
            B_w=(E @ pull * self.hardening)[:, :k],
            C_z=np.hstack([stretch, np.zeros((n, n))])[:k],
            D_zu=np.zeros((k, self.actuators)),
            lower=np.zeros(k),
            upper=np.full(k, 3.0 * s_max**2),
            z_max=np.full(k, s_max),
            C=np.eye(2 * n),
            D_w=np.zeros((2 * n, k)),
            y_0=np.zeros(2 * n),
            dt=self.dt,
            psi=cube,
            note="exact: ψ = cube of the stretch of each spring",
        ).with_delay(self.delay)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        gap = 2.0
        canvas.view(center=(0.5 * gap * (self.masses + 0.5), 0.0), width=gap * (self.masses + 1.5))
        size, last = 0.6, 0.0
        canvas.box((-0.1, 0.0), (0.2, 1.4), canvas.body)
        forces = dict(zip(self.driven, action / self.action_limit, strict=True))
        for i in range(self.masses):
            x = gap * (i + 1) + float(state[i])
            canvas.spring((last, 0.0), (x - size / 2, 0.0), 0.12, canvas.body)
            canvas.box((x, 0.0), (size, size), canvas.accent if i in forces else canvas.dark)
            if i in forces:
                canvas.arrow((x, -0.55), (0.6 * float(forces[i]), 0.0))
            last = x + size / 2
