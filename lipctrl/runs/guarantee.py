"""Proves, at every checkpoint of a training, that the policy as it is now keeps the linearised loop stable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.certificate import Certificate


class GuaranteeBrokenError(RuntimeError):
    """A policy left the class that was proved to be stabilising."""


@dataclass(frozen=True)
class StabilityGuarantee:
    """Every policy u = -K y + a ∘ f(y / s), Lip f < `radius`, stabilises the plant that `radius` was computed for.

    Small-gain theorem in incremental form with the loop recentred at K: the complex stability radius of Hinrichsen
    & Pritchard (1986). The claim concerns the linear plant, all inputs, while the actuator does not saturate.

    Attributes
    ----------
    gain : K, (m, p); sign: u = -K y.
    radius : stability radius of the loop with u = -K y, from `lipctrl.stability_radius(plant, gain, ...)`.
    observation_scale, action_scale : sizes s (p,) and a (m,) of the channels, powers of two, or None: 1. With sizes
        that suit the plant the radius allows much more than one bound for all units.
    """

    gain: np.ndarray
    radius: float
    observation_scale: np.ndarray | None = None
    action_scale: np.ndarray | None = None

    @classmethod
    def of(
        cls, plant: Any, gain: Any, observation_scale: Any = None, action_scale: Any = None
    ) -> StabilityGuarantee:
        """Compute the radius of a linear plant (`control.StateSpace`) with u = -gain y.

        Raises
        ------
        ValueError
            When the nominal loop is not stable, so that no radius exists, or for sizes that are no powers of two.
        """
        from lipctrl.analysis import stability_radius

        gain = _matrix(gain, "gain")
        s = _powers_of_two(observation_scale, gain.shape[1], "observation_scale")
        a = _powers_of_two(action_scale, gain.shape[0], "action_scale")
        radius = float(stability_radius(plant, gain, observation_scale=s, action_scale=a))
        if not (math.isfinite(radius) and radius > 0.0):
            raise ValueError(
                f"the loop with u = -K y has the stability radius {radius}; "
                "expected a stabilising gain K (an LQR gain of the linearised plant, for instance)"
            )
        return cls(gain, radius, s, a)

    def prove(self, certificate: Certificate) -> float:
        """Return radius / certified radius (> 1), from a certificate that has been checked.

        A centre -K' that is not quite -K (a gain rounded to float32) counts: the policy lies in the ball about -K whose
        radius is larger by the Frobenius norm of K - K'.

        Raises
        ------
        GuaranteeBrokenError
            When the certificate does not place the policy strictly inside the ball.
        ValueError
            For stored sizes that are no powers of two.
        """
        if not isinstance(certificate, Certificate):
            raise ValueError(f"certificate is {certificate!r}; expected what policy.certificate() returns")
        center, radius = certificate.center, certificate.radius
        if center is None or radius is None:
            raise GuaranteeBrokenError("the policy is not residual: its certificate has no centre")
        if center.shape != self.gain.shape:
            raise GuaranteeBrokenError(
                f"the centre of the policy has shape {center.shape}, the gain of the guarantee {self.gain.shape}"
            )
        away = center + self.gain
        if self.observation_scale is not None or self.action_scale is not None:
            (s, a), radius = self._sizes(), self._scaled_radius(certificate)
            with np.errstate(over="ignore"):  # what is infinitely far away is refused below
                away = away * (s / a[:, None])
        shift = _size(away)
        # A NaN is no shift of zero: it fails every comparison below.
        reach = radius if shift == 0.0 else math.nextafter(radius + shift, math.inf)
        if not radius < self.radius:
            raise GuaranteeBrokenError(
                f"the residual has gain ≤ {radius:.9g}, not below the stability radius {self.radius:.9g}; "
                "build the network with a smaller lipschitz (the policy's scales count: max(a) / min(s), or each in "
                "its own channel where the guarantee has scales)"
            )
        if not reach < self.radius:
            raise GuaranteeBrokenError(
                f"the centre of the policy is {shift:.6g} away from the gain K that the radius {self.radius:.9g} was "
                "computed for; compute the radius for the policy's own gain"
            )
        return self.radius / reach if reach > 0.0 else math.inf

    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        m, p = self.gain.shape
        s = _powers_of_two(self.observation_scale, p, "observation_scale")
        a = _powers_of_two(self.action_scale, m, "action_scale")
        return np.ones(p) if s is None else s, np.ones(m) if a is None else a

    def _scaled_radius(self, certificate: Certificate) -> float:
        """Return the radius of the policy's ball between signals in the sizes of the guarantee."""
        from lipctrl.analysis import ScaledBall, own_ball

        ball, (s, a) = own_ball(certificate), self._sizes()
        if isinstance(ball, ScaledBall):
            s, a = s / ball.observation_scale, a / ball.action_scale
        # Powers of two: the ratio is exact, and the product rounds upwards.
        return math.nextafter(ball.radius * float(s.max() / a.min()), math.inf)

    def recheck(self, plant: Any) -> bool:
        """Prove again that the stored radius holds for a linear plant; False where that is not proved.

        A guarantee that was read from a file is believed as it stands: this says whether it is one of this plant. The
        radius is computed anew, so on another machine its last digits may prove a little less than what was stored.
        """
        try:
            found = StabilityGuarantee.of(plant, self.gain, self.observation_scale, self.action_scale)
        except ValueError:
            return False
        return 0.0 < self.radius <= found.radius

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> StabilityGuarantee:
        """Return what `to_dict` stored; ValueError for anything else."""
        known = {"gain", "radius", "observation_scale", "action_scale"}
        if not isinstance(saved, Mapping) or not {"gain", "radius"} <= set(saved) <= known:
            raise ValueError(f"a guarantee is stored as {saved!r}; expected what to_dict() returns")
        gain = _matrix(saved["gain"], "gain")
        return cls(
            gain,
            _matrix(saved["radius"], "radius").item(),
            _powers_of_two(saved.get("observation_scale"), gain.shape[1], "observation_scale"),
            _powers_of_two(saved.get("action_scale"), gain.shape[0], "action_scale"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        scales = {"observation_scale": self.observation_scale, "action_scale": self.action_scale}
        return {
            "gain": self.gain.tolist(),
            "radius": self.radius,
            **{name: None if scale is None else scale.tolist() for name, scale in scales.items()},
        }


def _size(matrix: np.ndarray) -> float:
    """Return a bound of ‖matrix‖, by far more than its rounding above; squares of tiny entries do not vanish."""
    most = float(np.abs(matrix).max())
    if most == 0.0 or not math.isfinite(most):
        return most
    return most * float(np.linalg.norm(matrix / most)) * (1.0 + 1e-9)


def _matrix(value: Any, name: str) -> np.ndarray:
    try:
        found = np.atleast_2d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        found = np.empty((0, 0))
    if value is None or found.ndim != 2 or found.size == 0 or not np.isfinite(found).all():
        raise ValueError(f"{name} is {value!r}; expected a matrix of finite numbers")
    return found


def _powers_of_two(sizes: Any, count: int, name: str) -> np.ndarray | None:
    if sizes is None:
        return None
    try:
        given = np.asarray(sizes, dtype=np.float64)
    except (TypeError, ValueError):
        given = np.array(np.nan)
    if given.shape not in ((), (1,), (count,)) or not (np.frexp(given)[0] == 0.5).all():
        raise ValueError(
            f"{name} is {sizes!r}; expected {count} powers of two, by which signals are divided without rounding"
        )
    return np.broadcast_to(given, (count,)).copy()
