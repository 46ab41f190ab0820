"""A spinning satellite: hold the attitude of a body that turns at a constant rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lipctrl_envs.canvas import Canvas
from lipctrl_envs.enclosure import enclosed_form
from lipctrl_envs.lure import LureForm
from lipctrl_envs.plant import Plant
from lipctrl_envs.signals import Signal, join, physical


@dataclass(frozen=True, kw_only=True, eq=False)
class SpinningSatellite(Plant):
    """Keep a rigid body on a reference attitude that spins about its third axis at a constant rate Ω.

    With modified Rodrigues parameters σ = e tan(Φ/4) of the body relative to the spinning reference and
    δ = ω - (0, 0, Ω) in body axes (Schaub and Junkins, Analytical Mechanics of Space Systems, eqs. 3.150 and 4.34),

        σ̇ = σ × (0, 0, Ω) + ¼ [(1 - |σ|²) δ + 2 σ × δ + 2 σ (σᵀδ)],        J ω̇ = -ω × J ω + u + d.

    The spin couples the two cross axes gyroscopically, which makes the plant truly multivariable. A step updates
    ω₁, ω₂, ω₃ in turn, each from the newest values, then turns σ by two shears and moves it with the new rates: like a
    semi-implicit step, it neither adds nor removes energy to first order.

    | state        | unit  | starts within | meaning                                 |
    |--------------|-------|---------------|-----------------------------------------|
    | `attitude1`  | 1     | ±0.1          | σ₁, a quarter of the small angle in rad |
    | `attitude2`  | 1     | ±0.1          | σ₂                                      |
    | `attitude3`  | 1     | ±0.1          | σ₃, the phase of the spin               |
    | `rate1`      | rad/s | ±0.05         | δ₁                                      |
    | `rate2`      | rad/s | ±0.05         | δ₂                                      |
    | `rate3`      | rad/s | ±0.05         | δ₃                                      |

    | action    | unit | limit | meaning                      |
    |-----------|------|-------|------------------------------|
    | `torque1` | N·m  | ±0.5  | u₁ about the first body axis |
    | `torque2` | N·m  | ±0.5  | u₂                           |
    | `torque3` | N·m  | ±0.5  | u₃                           |

    | disturbance | unit | standard deviation | meaning |
    |-------------|------|--------------------|---------|
    | `torque1`   | N·m  | 0.15               | d₁      |
    | `torque2`   | N·m  | 0.15               | d₂      |
    | `torque3`   | N·m  | 0.15               | d₃      |

    The observation is the state. The cost of a step is

        16 |σ|² + |δ|² + 0.2 |u|² + 1000 max(0, |σ| - 0.03)²;

    an error beyond 90°, |σ| > tan(π/8), fails and costs `failure_cost` once; 400 steps of 0.1 s. The products
    have no element-wise Lur'e form; the Jacobian is bounded over |σᵢ| ≤ 0.2, |δᵢ| ≤ 0.2 and the torque limits.

    >>> A = SpinningSatellite(spin=0.0).linearize().A
    >>> A[3:, 3:].round(12).tolist()                      # without spin the axes are uncoupled
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """

    inertia1: float = physical(12.0, "kg·m²")
    inertia2: float = physical(10.0, "kg·m²")
    inertia3: float = physical(6.0, "kg·m²")
    spin: float = physical(0.5, "rad/s", positive=False)
    dt: float = 0.1
    horizon: int = 400
    action_limit: Any = 0.5
    disturbance: Any = 0.15
    pointing_soft: float = 0.03
    pointing_weight: float = 1000.0
    failure_cost: float = 200.0

    name: ClassVar[str] = "SpinningSatellite"
    actions: ClassVar[tuple[Signal, ...]] = tuple(Signal(f"torque{i}", "N·m") for i in (1, 2, 3))
    disturbances: ClassVar[tuple[Signal, ...]] = tuple(Signal(f"torque{i}", "N·m") for i in (1, 2, 3))
    frame_size: ClassVar[tuple[int, int]] = (400, 400)

    @property
    def physical_states(self) -> tuple[Signal, ...]:
        attitude = tuple(Signal(f"attitude{i}", "1") for i in (1, 2, 3))
        return attitude + tuple(Signal(f"rate{i}", "rad/s") for i in (1, 2, 3))

    @property
    def state_weights(self) -> np.ndarray:
        return np.array([16.0, 16.0, 16.0, 1.0, 1.0, 1.0])

    @property
    def action_weights(self) -> np.ndarray:
        return np.array([0.2, 0.2, 0.2])

    @property
    def initial_spread(self) -> np.ndarray:
        return np.array([0.1, 0.1, 0.1, 0.05, 0.05, 0.05])

    def flow(self, state: Tensor, action: Tensor, disturbance: Tensor | None, p: Any) -> Tensor:
        torque = action if disturbance is None else action + disturbance
        return join(self._advance(state.unbind(-1), torque.unbind(-1), p))

    def _advance(self, state: Sequence[Tensor], torque: Sequence[Tensor], p: Any) -> list[Tensor]:
        a1, a2, a3, r1, r2, r3 = state
        J1, J2, J3 = p.inertia1, p.inertia2, p.inertia3
        spinning = r3 + p.spin
        r1 = r1 + (r2 * spinning * (J2 - J3) + torque[0]) * (self.dt / J1)
        r2 = r2 + (r1 * spinning * (J3 - J1) + torque[1]) * (self.dt / J2)
        r3 = r3 + (r1 * r2 * (J1 - J2) + torque[2]) * (self.dt / J3)
        turn = p.spin * self.dt
        a1 = a1 + a2 * turn
        a2 = a2 - a1 * turn
        along = (a1 * r1 + a2 * r2 + a3 * r3) * 2.0
        shrink = 1.0 - (a1 * a1 + a2 * a2 + a3 * a3)
        quarter = 0.25 * self.dt
        return [
            a1 + (shrink * r1 + (a2 * r3 - a3 * r2) * 2.0 + a1 * along) * quarter,
            a2 + (shrink * r2 + (a3 * r1 - a1 * r3) * 2.0 + a2 * along) * quarter,
            a3 + (shrink * r3 + (a1 * r2 - a2 * r1) * 2.0 + a3 * along) * quarter,
            r1,
            r2,
            r3,
        ]

    def cost(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        a1, a2, a3 = state[..., :3].unbind(-1)
        # The tiny offset keeps the derivative of the norm finite at the target, where the penalty is zero anyway.
        error = torch.sqrt(a1 * a1 + a2 * a2 + a3 * a3 + 1e-12)
        beyond = (error - self.pointing_soft).clamp_min(0.0).square() * self.pointing_weight
        return self.quadratic_cost(state, action) + beyond + self.failure_cost * self.failed(next_state)

    def failed(self, state: Tensor) -> Tensor:
        return state[..., :3].square().sum(-1) > math.tan(math.pi / 8) ** 2

    def rates(self, state: Sequence[Any], action: Sequence[Any]) -> Sequence[Any]:
        """Return the next state itself: every component of it may be nonlinear."""
        return self._advance(state, action, self)

    def rates_path(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (0, I): x⁺ = rates."""
        return np.zeros((6, 6)), np.eye(6)

    def lure_form(self, region: Mapping[str, float] | None = None) -> LureForm:
        limits = dict.fromkeys(self.state_names[:6], 0.2)
        limits |= {
            name: float(bound) for name, bound in zip(self.action_names, self.action_limit, strict=True)
        }
        return enclosed_form(self, self.bounds(limits, region), parts=2)

    def draw(self, canvas: Canvas, state: np.ndarray, action: np.ndarray) -> None:
        canvas.view(center=(0.0, 0.0), width=4.0)
        sigma = np.nan_to_num(np.clip(state[:3], -10.0, 10.0))
        axes = _view() @ rotation(sigma).T
        reference = _view() @ np.eye(3)
        for i, color in enumerate((canvas.faint, canvas.faint, canvas.body)):
            canvas.line((0.0, 0.0), 1.5 * reference[:2, i], 0.02, color)
        size = np.array([0.55, 0.7, 0.9])
        faces = [(i, s) for i in range(3) for s in (-1.0, 1.0)]
        faces.sort(key=lambda face: face[1] * axes[2, face[0]])
        for i, side in faces[3:]:
            j, k = [a for a in range(3) if a != i]
            middle = side * size[i] * axes[:2, i]
            u, v = size[j] * axes[:2, j], size[k] * axes[:2, k]
            shade = 0.55 + 0.45 * max(0.0, side * float(axes[2, i]))
            red, green, blue = (int(shade * c) for c in (canvas.accent if i == 2 else canvas.body))
            canvas.polygon(
                [middle + u + v, middle + u - v, middle - u - v, middle - u + v], (red, green, blue)
            )
        canvas.arrow(size[2] * axes[:2, 2], 0.9 * axes[:2, 2], canvas.accent)
        for i in range(3):
            share = float(action[i] / self.action_limit[i])
            canvas.arrow((-1.7, -1.2 - 0.2 * i), (0.8 * share, 0.0))


def rotation(sigma: np.ndarray) -> np.ndarray:
    """Return the direction cosine matrix (reference to body) of modified Rodrigues parameters (3,)."""
    s = float(sigma @ sigma)
    cross = np.array([[0, -sigma[2], sigma[1]], [sigma[2], 0, -sigma[0]], [-sigma[1], sigma[0], 0]])
    return np.eye(3) + (8.0 * cross @ cross - 4.0 * (1.0 - s) * cross) / (1.0 + s) ** 2


def _view() -> np.ndarray:
    """Return a rotation that shows the third axis upward and a little towards the viewer."""
    turn, lean = 0.6, 0.5
    c, s = math.cos(turn), math.sin(turn)
    level = np.array([[c, s, 0.0], [0.0, 0.0, 1.0], [s, -c, 0.0]])
    c, s = math.cos(lean), math.sin(lean)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]) @ level
