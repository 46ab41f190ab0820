"""The class of policies an analysis speaks about: an incremental ball around a linear centre."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.certificate import Certificate
from lipctrl.checker import check

# Entries of a centre gain up to which it is printed in numbers.
_SHOWN_GAINS = 12


@dataclass(frozen=True)
class IncrementalBall:
    """All maps π with ‖π(y) - π(y') - K₀(y - y')‖₂ ≤ ρ‖y - y'‖₂ for all y, y'; sign: u = π(y).

    Parameters
    ----------
    center : K₀, (actions, observations); a policy u = -K y + φ(y) has K₀ = -K.
    radius : ρ ≥ 0, an incremental ℓ₂ gain.
    scope : sentences that limit where the inequality is known to hold; every report repeats them.
    limits : (lower, upper) of an actuator clip behind the policy, or None; informative.
    policy : the actual map y (..., p) ↦ u (..., m) in numpy, for falsification, or None.
    gain : a proved incremental gain of the whole policy, actuator limits included, or None (then ‖K₀‖ + ρ).
    region : (lower, upper) of the only box of observations in which the inequality is known, or None: everywhere.

    Examples
    --------
    >>> IncrementalBall(center=[[-3.0, -1.0]], radius=0.5).radius
    0.5
    """

    center: np.ndarray
    radius: float
    scope: tuple[str, ...] = ()
    limits: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False, compare=False)
    policy: Callable[[np.ndarray], np.ndarray] | None = field(default=None, repr=False, compare=False)
    gain: float | None = field(default=None, repr=False, compare=False)
    region: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            if np.iscomplexobj(self.center):
                raise TypeError  # numpy would drop the imaginary part of an array
            center = np.atleast_2d(np.asarray(self.center, dtype=np.float64))
            radius = float(self.radius)
        except (TypeError, ValueError):
            raise ValueError(
                f"center is {self.center!r} and radius {self.radius!r}; expected a real (actions, observations) "
                "array and a number"
            ) from None
        if center.ndim != 2 or center.size == 0:
            raise ValueError(f"center has shape {center.shape}; expected (actions, observations)")
        if not np.isfinite(center).all():
            raise ValueError("center has NaN or infinite entries; expected finite gains")
        if not math.isfinite(radius) or radius < 0.0:
            raise ValueError(f"radius is {radius}; expected a finite number ≥ 0, an incremental gain")
        if self.gain is not None and not 0.0 <= float(self.gain) < math.inf:
            raise ValueError(
                f"gain is {self.gain}; expected a finite number ≥ 0 or None, an incremental gain"
            )
        if isinstance(self.scope, str):
            raise ValueError(f"scope is the text {self.scope!r}; expected a tuple of sentences")
        center = center.copy()
        center.setflags(write=False)
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "radius", radius)
        object.__setattr__(self, "scope", tuple(self.scope))

    @property
    def actions(self) -> int:
        return self.center.shape[0]

    @property
    def observations(self) -> int:
        return self.center.shape[1]

    def scaled(self, k: float) -> IncrementalBall:
        """Return the ball of the policies k·π."""
        return IncrementalBall(k * self.center, abs(k) * self.radius, self.scope, region=self.region)

    def __str__(self) -> str:
        if self.center.any():
            rows = ", ".join(f"[{', '.join(f'{g:.6g}' for g in row)}]" for row in self.center)
            small = self.center.size <= _SHOWN_GAINS
            shown = f"= [{rows}]" if small else f"{self.actions}×{self.observations}"
            return f"‖π(y)-π(y')-K₀(y-y')‖ ≤ {self.radius:.6g}·‖y-y'‖, K₀ {shown}"
        return f"‖π(y)-π(y')‖ ≤ {self.radius:.6g}·‖y-y'‖ ({self.observations} → {self.actions})"


def as_ball(policy: Any) -> IncrementalBall:
    """Return the incremental ball that a policy is known to lie in; a certificate is checked before it is believed.

    Parameters
    ----------
    policy : `IncrementalBall`, `Certificate`, or an object with `.certificate()`.

    Raises
    ------
    ValueError
        When the certificate does not prove its claim, claims something other than an incremental ℓ₂ gain, or
        the object has no certificate.

    Examples
    --------
    >>> from lipctrl import rules
    >>> ball = as_ball(rules.linear([[3.0, 4.0]]))
    >>> print(round(ball.radius, 6), ball.center.tolist())
    5.0 [[0.0, 0.0]]
    """
    if isinstance(policy, IncrementalBall):
        return policy
    certificate = policy
    if not isinstance(policy, Certificate):
        produce = getattr(policy, "certificate", None)
        if not callable(produce):
            raise ValueError(
                f"policy is a {type(policy).__name__}; expected lipctrl.IncrementalBall(center, radius), a "
                "Certificate, or an object with .certificate(). Use lipctrl.certify for a plain network, "
                "IncrementalBall(-K, 0.0) for a gain u = -K y; a dynamic controller becomes part of the plant"
            )
        certificate = produce()
        if not isinstance(certificate, Certificate):
            raise ValueError(
                f".certificate() of {type(policy).__name__} returned a {type(certificate).__name__}; "
                "expected a lipctrl Certificate"
            )
    return _ball_of(certificate)


def _ball_of(certificate: Certificate) -> IncrementalBall:
    if certificate.claim != "lipschitz":
        raise ValueError(
            f"the certificate claims {certificate.claim!r}; expected 'lipschitz', the incremental gain that a "
            "loop analysis needs"
        )
    if certificate.norm != "l2":
        raise ValueError(
            f"the certificate bounds the gain in the norm {certificate.norm!r}; expected 'l2'. A gain in one "
            "norm says nothing about the other without a dimension factor: certify in l2"
        )
    report = check(certificate)
    if not report.ok:
        raise ValueError(
            f"the certificate is not proved: {'; '.join(report.failures)}. Certify the policy again; an edited "
            "or stale certificate is never believed"
        )
    scope: list[str] = []
    runs = certificate
    if certificate.region is not None:
        scope.append("the policy's bound holds only for observations inside the box of its certificate")
    center, radius = certificate.center, certificate.radius
    if center is None or radius is None:
        # A projection does not expand: the gain of a clipped map holds without restriction.
        center = np.zeros((certificate.out_features, certificate.in_features))
        radius = certificate.gain
    elif certificate.limits is not None:
        scope.append(
            "while the actuator limits are inactive: around a centre K₀ ≠ 0 a saturated policy leaves the ball"
        )
        # Inside that scope the policy is the part behind the clip.
        runs = certificate.parts[0]
    return IncrementalBall(
        center,
        radius,
        tuple(scope),
        limits=certificate.limits,
        policy=runs.evaluate,
        gain=certificate.gain,
        region=certificate.region,
    )


def actuator_limits(
    limit: np.ndarray, clip: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits (low, high) of a symmetric limit behind a policy's own clip (None: it has none)."""
    if clip is None:
        return -limit, limit
    # A clip that lies beyond the limit leaves one value.
    return np.clip(clip[0], -limit, limit), np.clip(clip[1], -limit, limit)


LOCAL = (
    "the policy's gain is proved for observations inside a box only, and nothing keeps the loop inside it: certify the "
    "policy without a region, or use structured_test (slopes of its neurons) or region_of_attraction"
)


def global_ball(policy: Any) -> IncrementalBall:
    """Return the ball of a policy for a claim about every trajectory: ValueError where its bound needs a box."""
    ball = as_ball(policy)
    if ball.region is not None:
        raise ValueError(LOCAL)
    return ball


def with_scope(text: str, scope: tuple[str, ...]) -> str:
    """Append what limits a claim to its text."""
    return f"{text}; scope: {'; '.join(scope)}" if scope else text
