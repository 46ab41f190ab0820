"""Proves, at every checkpoint of a training, that the policy as it is now keeps the linearised loop stable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.certificate import Certificate


class GuaranteeBrokenError(RuntimeError):
    """A policy left the class that was proved to be stabilising."""


@dataclass(frozen=True)
class StabilityGuarantee:
    """Every policy u = -K y + φ(y) with Lip φ < `radius` stabilises the plant that `radius` was computed for.

    Small-gain theorem in incremental form with the loop recentred at K: the complex stability radius of Hinrichsen
    & Pritchard (1986). The claim concerns the linear plant, all inputs, while the actuator does not saturate.

    Attributes
    ----------
    gain : K, (m, p); sign: u = -K y.
    radius : stability radius of the loop with u = -K y, from `lipctrl.stability_radius(plant, gain)`.
    """

    gain: np.ndarray
    radius: float

    @classmethod
    def of(cls, plant: Any, gain: Any) -> StabilityGuarantee:
        """Compute the radius of a linear plant (`control.StateSpace`) with u = -gain y.

        Raises
        ------
        ValueError
            When the nominal loop is not stable, so that no radius exists.
        """
        from lipctrl.analysis import stability_radius

        gain = np.atleast_2d(np.asarray(gain, dtype=np.float64))
        radius = float(stability_radius(plant, gain))
        if not (math.isfinite(radius) and radius > 0.0):
            raise ValueError(
                f"the loop with u = -K y has the stability radius {radius}; "
                "expected a stabilising gain K (an LQR gain of the linearised plant, for instance)"
            )
        return cls(gain, radius)

    def prove(self, certificate: Certificate) -> float:
        """Return radius / certified radius (> 1), from a certificate that has been checked.

        A centre -K' that is not quite -K (a gain rounded to float32) counts: the policy lies in the ball about -K whose
        radius is larger by the Frobenius norm of K - K'.

        Raises
        ------
        GuaranteeBrokenError
            When the certificate does not place the policy strictly inside the ball.
        """
        center, radius = certificate.center, certificate.radius
        if center is None or radius is None:
            raise GuaranteeBrokenError("the policy is not residual: its certificate has no centre")
        if center.shape != self.gain.shape:
            raise GuaranteeBrokenError(
                f"the centre of the policy has shape {center.shape}, the gain of the guarantee {self.gain.shape}"
            )
        # Enlarged by far more than a difference and a norm can round.
        shift = float(np.linalg.norm(center + self.gain)) * (1.0 + 1e-9)
        reach = math.nextafter(radius + shift, math.inf) if shift > 0.0 else radius
        if not radius < self.radius:
            raise GuaranteeBrokenError(
                f"the residual has gain ≤ {radius:.9g}, not below the stability radius {self.radius:.9g}; "
                "build the network with a smaller lipschitz (it counts 1 / min(observation_scale))"
            )
        if not reach < self.radius:
            raise GuaranteeBrokenError(
                f"the centre of the policy is {shift:.6g} away from the gain K that the radius {self.radius:.9g} was "
                "computed for; compute the radius for the policy's own gain"
            )
        return self.radius / reach if reach > 0.0 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"gain": self.gain.tolist(), "radius": self.radius}
