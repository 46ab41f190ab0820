"""The class of policies an analysis speaks about: an incremental ball around a linear centre."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import finite_number, ordered_pair, real_array
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.scales import Scales, listed, outer_powers
from lipctrl.certificate import Certificate
from lipctrl.checker import check
from lipctrl.rules.base import exact, round_up

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
        given, size = real_array(self.center), real_array(self.radius)
        if given is None or size is None or size.ndim:
            raise ValueError(
                f"center is {self.center!r} and radius {self.radius!r}; expected a real (actions, observations) "
                "array and a number"
            )
        center, radius = np.atleast_2d(given), float(size)
        if center.ndim != 2 or center.size == 0:
            raise ValueError(f"center has shape {center.shape}; expected (actions, observations)")
        if not np.isfinite(center).all():
            raise ValueError("center has NaN or infinite entries; expected finite gains")
        if not math.isfinite(radius) or radius < 0.0:
            raise ValueError(f"radius is {radius}; expected a finite number ≥ 0, an incremental gain")
        if self.gain is not None and finite_number(self.gain, "gain") < 0.0:
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
        object.__setattr__(self, "limits", ordered_pair(self.limits, center.shape[0], "limits"))
        object.__setattr__(self, "region", ordered_pair(self.region, center.shape[1], "region"))

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
        moved = "π(y)-π(y')-K₀(y-y')" if self.center.any() else "π(y)-π(y')"
        return f"‖{moved}‖ ≤ {self.radius:.6g}·‖y-y'‖{_shown_center(self.center)}"


@dataclass(frozen=True)
class ScaledBall:
    """All maps π with ‖(π(y) - π(y') - K₀(y - y')) / a‖₂ ≤ ρ‖(y - y') / s‖₂ for all y, y'; sign: u = π(y).

    One radius for signals in different units: s and a are the sizes of observations and actions. A policy
    u = K₀ y + a ∘ f(y / s) with Lip f ≤ ρ lies in it; the plain ball around it has the radius ρ max(a) / min(s).

    Parameters
    ----------
    center : K₀, (actions, observations), in raw units: a policy u = -K y + φ(y) has K₀ = -K.
    radius : ρ ≥ 0, an incremental ℓ₂ gain between scaled signals.
    observation_scale, action_scale : positive sizes, one for each channel or one for all, or None: 1. Powers of two
        lose nothing; others are rounded to powers of two, by which the ball grows by less than 2 a channel and stays
        inside the plain one; `radius` is then the one that belongs to the rounded sizes.
    scope, limits, policy, region : as in `IncrementalBall`, in raw units.
    clips : whether the clip to `limits` is all that leads out of the ball, so that the whole policy, clip included,
        has the gain ‖K₀‖ + ρ. False, the default, claims nothing about it.

    Raises
    ------
    ValueError
        For sizes that are not positive and finite or do not fit, and what `IncrementalBall` refuses.

    Examples
    --------
    >>> ball = ScaledBall([[-3.0, -40.0]], 1.0, observation_scale=[2.0, 0.125])
    >>> ball.raw().radius, ball.scaled_units().center.tolist()
    (8.0, [[-6.0, -5.0]])
    """

    center: np.ndarray
    radius: float
    observation_scale: Any = None
    action_scale: Any = None
    scope: tuple[str, ...] = ()
    limits: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False, compare=False)
    policy: Callable[[np.ndarray], np.ndarray] | None = field(default=None, repr=False, compare=False)
    region: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False, compare=False)
    clips: bool = field(default=False, repr=False, compare=False)
    scales: Scales = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plain = IncrementalBall(self.center, self.radius, self.scope, limits=self.limits, region=self.region)
        given = (1.0 if size is None else size for size in (self.observation_scale, self.action_scale))
        s, wider = outer_powers(next(given), plain.observations, "observation_scale", divides=True)
        a, narrower = outer_powers(next(given), plain.actions, "action_scale", divides=False)
        for name, value in {
            "center": plain.center,
            "radius": round_up(exact(plain.radius) * max(wider) / min(narrower)),
            "observation_scale": s,
            "action_scale": a,
            "scope": plain.scope,
            "limits": plain.limits,
            "region": plain.region,
            "scales": Scales(s, a),
        }.items():
            object.__setattr__(self, name, value)

    def raw(self) -> IncrementalBall:
        """Return the smallest plain ball around this one: radius ρ max(a) / min(s)."""
        wider = float(self.scales.action.max()) / float(self.scales.observation.min())
        radius = self.radius * wider
        if not math.isfinite(radius) or radius / wider != self.radius:
            raise ValueError(
                f"the radius {self.radius:g} over- or underflows in raw units, a factor of {wider:g}"
            )
        return IncrementalBall(
            self.center,
            radius,
            self.scope,
            limits=self.limits,
            policy=self.policy,
            gain=_whole(self.center, radius) if self.clips else None,
            region=self.region,
        )

    def scaled_units(self) -> IncrementalBall:
        """Return the ball of v = u / a as a function of η = y / s: the same policies, in units of their scales."""
        s, a = self.scales.observation, self.scales.action
        center = self.scales.gain(self.center)
        raw, limits, region = self.policy, self.limits, self.region
        return IncrementalBall(
            center,
            self.radius,
            self.scope,
            limits=None if limits is None else (limits[0] / a, limits[1] / a),
            policy=None if raw is None else lambda eta: raw(eta * s) / a,
            # A clip moves every channel by itself, so it does not expand in any scale.
            gain=_whole(center, self.radius) if self.clips else None,
            region=None if region is None else (region[0] / s, region[1] / s),
        )

    def __str__(self) -> str:
        if self.scales.trivial:
            return str(self.raw())
        moved, seen = ("π(y)-π(y')-K₀(y-y')" if self.center.any() else "π(y)-π(y')"), "‖(y-y')/s‖"
        sizes = f"s = {listed(self.scales.observation)}"
        if (self.scales.action != 1.0).any():
            moved, sizes = f"({moved})/a", f"{sizes}, a = {listed(self.scales.action)}"
        return f"‖{moved}‖ ≤ {self.radius:.6g}·{seen}{_shown_center(self.center)}, {sizes}"


def _whole(center: np.ndarray, radius: float) -> float:
    """Return a gain of the policies of a ball, clipped or not."""
    return math.nextafter(MidRad(center).norm_bound() + radius, math.inf)


def _shown_center(center: np.ndarray) -> str:
    if not center.any():
        return f" ({center.shape[1]} → {center.shape[0]})"
    rows = ", ".join(f"[{', '.join(f'{g:.6g}' for g in row)}]" for row in center)
    shown = f"= [{rows}]" if center.size <= _SHOWN_GAINS else f"{center.shape[0]}×{center.shape[1]}"
    return f", K₀ {shown}"


# What states a ball and has no neurons of its own.
Ball = IncrementalBall | ScaledBall


def as_ball(policy: Any) -> IncrementalBall:
    """Return the incremental ball that a policy is known to lie in; a certificate is checked before it is believed.

    Parameters
    ----------
    policy : `IncrementalBall`, `ScaledBall` (then the plain ball around it), `Certificate`, or an object with
        `.certificate()`.

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
    if isinstance(policy, ScaledBall):
        return policy.raw()
    return _ball_of(_certificate_of(policy))


def in_own_units(sys: Any, policy: Any) -> tuple[Realization, IncrementalBall, Scales]:
    """Return a plant and the ball of a policy in the units in which the policy's certificate bounds it, and these.

    A policy that divides its observations by sizes (or multiplies its actions) is bounded best between scaled signals:
    that ball lies inside the plain one of `as_ball`. Everything else keeps its units.
    """
    system, ball = as_realization(sys, "sys"), own_ball(policy)
    # What does not fit is refused by the loop, in words.
    fits = isinstance(ball, ScaledBall) and ball.center.shape == (system.inputs, system.outputs)
    if isinstance(ball, ScaledBall) and fits and not ball.scales.uniform:
        return ball.scales.plant(system), ball.scaled_units(), ball.scales
    plain = as_ball(ball)
    return system, plain, Scales.none(plain.observations, plain.actions)


def own_ball(policy: Any) -> Ball:
    """Return the tightest ball that a policy states of itself: a `ScaledBall` where its signals have scales.

    Parameters and errors are those of `as_ball`.

    Examples
    --------
    >>> from lipctrl import rules
    >>> f = rules.series(rules.scaling([1.0, 8.0]), rules.linear([[0.5, 0.5]]))      # of y1 and 8 y2
    >>> own_ball(f).observation_scale.tolist(), round(own_ball(f).radius, 3), round(as_ball(f).radius, 3)
    ([1.0, 0.125], 0.707, 5.657)
    """
    if isinstance(policy, Ball):
        return policy
    certificate = _certificate_of(policy)
    return _ball_in_scales(certificate, _ball_of(certificate))


def _ball_in_scales(certificate: Certificate, plain: IncrementalBall) -> Ball:
    """Return the ball of a checked certificate K₀ y + a ∘ f(y / s), clipped or not, in its scales; else `plain`."""
    node = certificate.parts[0] if certificate.rule == "projection" else certificate
    if node.rule == "centered":
        node = node.parts[1]
    if node.rule != "series" or certificate.region is not None:
        return plain
    parts, sizes, gain = list(node.parts), [], Fraction(1)
    for end in (0, -1):
        factors = np.ones(plain.observations if end == 0 else plain.actions)
        if parts and parts[end].rule == "scaling":
            factors = np.abs(parts.pop(end).weights["scale"])
        if not ((factors > 2.0**-200) & (factors < 2.0**200)).all():
            return plain  # A channel that is switched off has no size, and extreme sizes might round.
        # y / s for observations, a ∘ v for actions: powers of two near 1 / factor, and near the factor; the largest
        # factor of either end sets the plain ball.
        powers, ratios = outer_powers(factors, len(factors), "scale", divides=False)
        sizes.append(1.0 / powers if end == 0 else powers)
        gain /= min(ratios)
    for part in parts:
        gain *= exact(part.gain)
    s, a = sizes
    alike = (s == s[0]).all() and (a == a[0]).all()
    entries = np.abs(plain.center[plain.center != 0.0])
    if alike or not ((entries > 2.0**-600) & (entries < 2.0**600)).all():
        return plain
    return ScaledBall(
        plain.center, round_up(gain), s, a, plain.scope, limits=plain.limits, policy=plain.policy, clips=True
    )


def _certificate_of(policy: Any) -> Certificate:
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
    return certificate


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


def global_ball(plant: Any, policy: Any) -> tuple[Realization, IncrementalBall, Scales]:
    """Return `in_own_units` for a claim about every trajectory: ValueError where the policy's bound needs a box."""
    found = in_own_units(as_realization(plant), policy)
    if found[1].region is not None:
        raise ValueError(LOCAL)
    return found


def with_scope(text: str, scope: tuple[str, ...]) -> str:
    """Append what limits a claim to its text."""
    return f"{text}; scope: {'; '.join(scope)}" if scope else text
