"""Plants as linear systems in feedback with slope-restricted nonlinearities (Lur'e form)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LureForm:
    """x⁺ = A x + B u + B_w w, w = ψ(z), z = C_z x + D_zu u, y = y_0 + C x + D_w w, slopes of ψ in [lower, upper].

    The claim, which holds for every pair of points of the region |z| ≤ z_max (entry by entry): there are
    slopes δ ∈ [lower, upper], one for each channel, with

        Δx⁺ = A Δx + B Δu + B_w diag(δ) (C_z Δx + D_zu Δu),      Δy = C Δx + D_w diag(δ) (C_z Δx + D_zu Δu).

    When `psi` is given, ψ is that function, element by element, and the form reproduces the transition
    exactly. When `psi` is None, the plant has no finite element-wise form; the slopes then bound the
    entries of its Jacobian over the region (with outward-rounded interval arithmetic) and the claim
    above, a mean-value argument, is what remains. Saturation of the actuator is not part of the form: it
    holds while |u| ≤ action_limit. Disturbances are left out.

    Attributes
    ----------
    A, B, C : (n, n), (n, m), (p, n).     B_w : (n, k).     C_z, D_zu : (k, n), (k, m).     D_w : (p, k).
    lower, upper, z_max : (k,); z_max may be infinite (a global claim).     y_0 : (p,).
    dt : sampling period [s].     note : one sentence on how the slopes were found.
    psi_slopes : (low, high) -> (lower, upper), arrays (..., k): bounds of the difference quotients of ψ between points
        of [low, high], channel by channel, for analyses that cut the region into cells; None keeps `lower`, `upper`.

    A channel with a zero column in B_w and D_w only limits the region.
    """

    A: np.ndarray
    B: np.ndarray
    B_w: np.ndarray
    C_z: np.ndarray
    D_zu: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    z_max: np.ndarray
    C: np.ndarray
    D_w: np.ndarray
    y_0: np.ndarray
    dt: float
    psi: Callable[[np.ndarray], np.ndarray] | None = None
    note: str = ""
    psi_slopes: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None

    def __post_init__(self) -> None:
        n, m = np.shape(self.B)
        k, p = np.shape(self.C_z)[0], np.shape(self.C)[0]
        shapes = {
            "A": (n, n),
            "B": (n, m),
            "B_w": (n, k),
            "C_z": (k, n),
            "D_zu": (k, m),
            "lower": (k,),
            "upper": (k,),
            "z_max": (k,),
            "C": (p, n),
            "D_w": (p, k),
            "y_0": (p,),
        }
        for name, shape in shapes.items():
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != shape:
                raise ValueError(f"LureForm: {name} must have shape {shape}, got {value.shape}")
            if np.any(np.isnan(value)):
                raise ValueError(f"LureForm: {name} holds NaN")
            object.__setattr__(self, name, value)
        if np.any(self.lower > self.upper):
            raise ValueError(f"LureForm: lower slopes {self.lower} exceed upper slopes {self.upper}")

    @property
    def exact(self) -> bool:
        """Whether ψ is known as a function, so that the form reproduces the transition and not only bounds it."""
        return self.psi is not None

    def argument(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return z = C_z x + D_zu u (..., k)."""
        return state @ self.C_z.T + action @ self.D_zu.T

    def contains(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Whether |z| ≤ z_max, as bool (...,)."""
        return np.all(np.abs(self.argument(state, action)) <= self.z_max, axis=-1)

    def _known(self) -> Callable[[np.ndarray], np.ndarray]:
        if self.psi is None:
            raise ValueError(
                "this Lur'e form bounds the slopes of a plant that has no finite element-wise form, so it cannot be "
                f"stepped ({self.note}); step the plant's own transition instead"
            )
        return self.psi

    def step(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return x⁺ (..., n) of an exact form; ValueError for one that only bounds."""
        w = self._known()(self.argument(state, action))
        return state @ self.A.T + action @ self.B.T + w @ self.B_w.T

    def output(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Return y (..., p) of an exact form; ValueError for one that only bounds."""
        w = self._known()(self.argument(state, action))
        return self.y_0 + state @ self.C.T + w @ self.D_w.T

    def with_delay(self, delay: int) -> LureForm:
        """Return the form of the same plant behind an actuator delay of whole samples (commands join the state)."""
        if delay == 0:
            return self
        (n, m), k, p = self.B.shape, len(self.lower), len(self.C)
        q = delay * m
        A = np.zeros((n + q, n + q))
        A[:n, :n], A[:n, n : n + m] = self.A, self.B
        A[n : n + q - m, n + m :] = np.eye(q - m)
        B = np.vstack([np.zeros((n + q - m, m)), np.eye(m)])
        C_z = np.hstack([self.C_z, self.D_zu, np.zeros((k, q - m))])
        return LureForm(
            A=A,
            B=B,
            B_w=np.vstack([self.B_w, np.zeros((q, k))]),
            C_z=C_z,
            D_zu=np.zeros((k, m)),
            lower=self.lower,
            upper=self.upper,
            z_max=self.z_max,
            C=np.hstack([self.C, np.zeros((p, q))]),
            D_w=self.D_w,
            y_0=self.y_0,
            dt=self.dt,
            psi=self.psi,
            note=self.note,
            psi_slopes=self.psi_slopes,
        )


def sine_slopes(bound: float) -> tuple[float, float]:
    """Return the least and the greatest slope of sin on |z| ≤ bound [rad]."""
    return (float(np.cos(bound)) if bound < np.pi else -1.0), 1.0
