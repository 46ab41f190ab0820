"""Mechanical plants: positions and velocities, integrated by semi-implicit Euler steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipctrl_envs.plant import Plant
from lipctrl_envs.signals import Columns, Signal, join


@dataclass(frozen=True, kw_only=True, eq=False)
class MechanicalPlant(Plant):
    """A plant with state [positions, velocities]:  v⁺ = v + dt·a(q, v, u, d),  q⁺ = q + dt·v⁺.

    The semi-implicit (symplectic) Euler step evaluates the acceleration once, so an element-wise
    nonlinearity of the acceleration is an element-wise nonlinearity of the step, and the Lur'e form of
    the step is exact. It neither adds nor removes energy on average.
    """

    @property
    @abstractmethod
    def positions(self) -> tuple[Signal, ...]:
        """Return the generalised positions."""

    @property
    def physical_states(self) -> tuple[Signal, ...]:
        rates = tuple(Signal(f"{s.name}_rate", f"{s.unit}/s") for s in self.positions)
        return self.positions + rates

    @abstractmethod
    def acceleration(
        self, position: Columns, velocity: Columns, action: Columns, disturbance: Columns | None, p: Any
    ) -> Columns:
        """Return the accelerations, one column (...,) for each position."""

    def flow(self, state: Tensor, action: Tensor, disturbance: Tensor | None, p: Any) -> Tensor:
        columns = state.unbind(-1)
        half = len(columns) // 2
        position, velocity = columns[:half], columns[half:]
        push = None if disturbance is None else disturbance.unbind(-1)
        acceleration = self.acceleration(position, velocity, action.unbind(-1), push, p)
        moving = [torch.add(v, a, alpha=self.dt) for v, a in zip(velocity, acceleration, strict=True)]
        moved = [torch.add(q, v, alpha=self.dt) for q, v in zip(position, moving, strict=True)]
        return join(moved + moving)

    def rates(self, state: Sequence[Any], action: Sequence[Any]) -> Sequence[Any]:
        """Return the accelerations, the only part of the step that may be nonlinear, without disturbance."""
        half = len(self.positions)
        return self.acceleration(state[:half], state[half:], action, None, self)

    def rates_path(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (A_0, E) with x⁺ = A_0 x + E a: how accelerations (k,) enter the next physical state."""
        k = len(self.positions)
        eye, zero = np.eye(k), np.zeros((k, k))
        return np.block([[eye, self.dt * eye], [zero, eye]]), np.vstack([self.dt**2 * eye, self.dt * eye])
