"""Popov functions Φ(ω) = [X; I]ᴴ [Q S; Sᴴ R] [X; I] with X = (λI - A)⁻¹B, λ = jω (discrete: e^{jωdt}).

They are given by weights on the outputs and inputs of a system. H∞ norms (Φ = -GᴴG), positive realness, the circle
criterion and every margin of this package ask the same question: for which c is Φ(ω) ≻ cI at all ω?
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization


@dataclass(frozen=True)
class PopovForm:
    """Φ = [G; I]ᴴ [yy yu; yuᴴ uu] [G; I] for a system G: the weights of its outputs and inputs."""

    system: Realization
    yy: MidRad
    yu: MidRad
    uu: MidRad

    @cached_property
    def q(self) -> MidRad:
        return self.system.c.H @ self.yy @ self.system.c

    @cached_property
    def s(self) -> MidRad:
        return self.system.c.H @ (self.yy @ self.system.d + self.yu)

    @cached_property
    def r(self) -> MidRad:
        d = self.system.d
        cross = d.H @ self.yu
        return d.H @ self.yy @ d + cross + cross.H + self.uu

    @property
    def states(self) -> int:
        return self.system.states

    @property
    def size(self) -> int:
        return self.system.inputs

    @cached_property
    def two_sided(self) -> bool:
        """Whether Φ(-ω) is not simply the conjugate of Φ(ω)."""
        system = self.system
        data = (system.a, system.b, system.c, system.d, self.yy, self.yu, self.uu)
        return any(np.iscomplexobj(m.mid) for m in data)

    def of_response(self, g: np.ndarray) -> np.ndarray:
        """Return Φ for frequency responses G of shape (..., p, m), unverified."""
        gh = g.conj().swapaxes(-1, -2)
        cross = gh @ self.yu.mid
        return gh @ (self.yy.mid @ g) + cross + cross.conj().swapaxes(-1, -2) + self.uu.mid

    def lowest(self, omega: float) -> float:
        """Return λ_min(Φ(ω)), unverified; inf where it cannot be evaluated."""
        try:
            value = self.of_response(self.system.response(omega))
        except np.linalg.LinAlgError:
            return math.inf
        return float(np.linalg.eigvalsh(value)[0]) if np.isfinite(value).all() else math.inf
