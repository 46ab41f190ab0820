"""Incremental phase margins: every rotation of the loop up to an angle is proved, and one just beyond is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lipctrl.analysis.arguments import one_of
from lipctrl.analysis.ball import IncrementalBall, global_ball, with_scope
from lipctrl.analysis.continuation import Path, Quadratic, march
from lipctrl.analysis.destabilize import (
    Destabilization,
    MarginSimulation,
    policy_destabilization,
    with_names_of,
)
from lipctrl.analysis.falsify_linear import (
    STEPS,
    LinearPolicy,
    all_pass,
    nearest_beyond,
    unstable_pole,
    worst_matrix,
)
from lipctrl.analysis.loop import NominalLoop, judge, nominal_loop
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.names import listed_by_name
from lipctrl.analysis.units import in_units
from lipctrl.analysis.verdict import Verdict

# Gains beyond it have no finite squares.
_LARGEST = 1e140


def rotation_path(
    loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray, band: tuple[float, float] | None = None
) -> Path:
    """Return the family of the loops rotated by θ = π/2 + 2·arctan(t), t from -1 (no rotation) to 1 (half a turn).

    With T = P(I - K₀P)⁻¹, E = diag of the rotated channels and z = e^{jθ} = j(1 + jt)/(1 - jt), the condition
    ρ‖P(I - (I + (z-1)E)K₀P)⁻¹‖ < 1 reads (I - (z-1)EK₀T)ᴴ(I - (z-1)EK₀T) ≻ ρ²TᴴT; times |1 - jt|² it is
    quadratic in t.
    """
    assert loop.system is not None
    m, p = ball.actions, ball.observations
    gain = chosen @ ball.center
    turned = MidRad(gain - 1j * gain)
    eye = np.eye(m)

    def at(t: float) -> Quadratic:
        size = math.nextafter(math.nextafter(math.hypot(1.0, t), math.inf) * ball.radius, math.inf)
        return Quadratic(
            MidRad(eye - 1j * t * eye), turned + turned.scaled(t), MidRad(size * (1.0 + 1e-15) * np.eye(p))
        )

    return Path(loop.system, at, MidRad(-1j * eye), turned, band)


@dataclass(frozen=True)
class PhaseMargin:
    """The angles by which a loop may be rotated: certified up to `angle`, falsified just beyond.

    Every rotation e^{jθ} of the policy's outputs (or, equally, of the plant's inputs) with |θ| ≤ `angle` [rad] is
    proved stable for every policy of the ball; π means any rotation. `falsified` is the smallest angle at
    which a linear policy of the ball was seen to be unstable (NaN: none found; none exists for `angle` = π).
    `frequency` [rad/s] is where the end is reached, `perturbation` the complex deviation from the centre that reaches
    it. `channels` are the certified angles of one channel rotated alone; `scope` says where the claim holds if not
    everywhere.
    """

    angle: float
    falsified: float
    frequency: float
    perturbation: np.ndarray | None
    destabilization: Destabilization | None
    form: str = "policy"
    channels: tuple[float, ...] = ()
    scope: tuple[str, ...] = ()
    counts_samples: bool = field(default=False, repr=False, compare=False, kw_only=True)
    channel_names: tuple[str, ...] = field(default=(), repr=False, compare=False, kw_only=True)

    @property
    def degrees(self) -> float:
        """The certified angle in degrees."""
        return math.degrees(self.angle)

    def simulate(self) -> MarginSimulation:
        """Simulate the loop just inside and just outside the falsified end; ValueError where there is none."""
        if self.destabilization is None:
            raise ValueError(
                "nothing of the class was found to destabilise this loop, so there is nothing to show"
            )
        return self.destabilization.simulate()

    def __str__(self) -> str:
        if self.angle >= math.pi:
            return with_scope("certified for any phase", self.scope)
        text = f"certified ±{self.angle:.6g} rad (±{self.degrees:.2f}°), end at {in_hertz(self.frequency)}"
        if self.channels:
            each = (f"±{math.degrees(a):.2f}°" for a in self.channels)
            text += ", single channels " + listed_by_name(each, self.channel_names)
        text = with_scope(text, self.scope)
        text = text if self.destabilization is None else f"{text}; falsified {self.destabilization}"
        return in_units(text, self.counts_samples)


def in_hertz(omega: float) -> str:
    """Return a frequency in both units."""
    return (
        "no frequency" if not math.isfinite(omega) else f"{omega:.6g} rad/s ({omega / (2 * math.pi):.6g} Hz)"
    )


def incremental_phase_margin(
    sys: Any, policy: Any, form: Literal["policy", "residual"] = "policy", *, channels: bool = False
) -> PhaseMargin:
    """Return the largest φ such that the loop P·e^{jθ}, |θ| ≤ φ, is certified for every policy of the ball.

    `form="policy"`: u = e^{jθ}π(y), all channels alike. Every θ is proved, not a grid: the condition ρ‖T_θ‖_∞ < 1 is
    quadratic in tan, and proofs at two angles cover all angles between them (`lipctrl.analysis.continuation`);
    a stable T stays stable along the path. As for the classical margin, a constant rotation is an idealisation
    (signals are complex); what is proved holds frequency by frequency. With ρ = 0 it is the classical phase margin
    of the loop K₀P, smallest over both directions.
    `form="residual"`: u = K₀y + e^{jθ}φ(y). A rotation does not change the norm of φ, so a certified loop has
    margin π.

    Parameters
    ----------
    sys : plant as `as_realization` takes it; policy : as `as_ball` takes it. Positive feedback, u = π(y).
    channels : also give the margin of each actuator rotated alone (the others at 0), in `.channels`.

    Raises
    ------
    ValueError
        For bad data, an unknown form, or a loop that is not certified at θ = 0.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> margin = incremental_phase_margin(control.tf([1], [1, -1]), IncrementalBall([[-3.0]], 0.3))
    >>> print(round(margin.degrees, 2), round(margin.frequency, 3))
    64.32 2.704
    """
    one_of(form, ("policy", "residual"), "form")
    system, ball, scales = global_ball(sys, policy)
    loop = certified_loop(system, ball, "θ = 0")
    if form == "residual":
        return PhaseMargin(math.pi, math.nan, math.nan, None, None, form, scope=ball.scope)
    margin = _with_falsifier(loop, ball, np.eye(ball.actions))
    margin = replace(
        margin,
        perturbation=None if margin.perturbation is None else scales.raw_gain(margin.perturbation),
        destabilization=with_names_of(scales.raw_destabilization(margin.destabilization), loop.plant),
        scope=ball.scope,
        counts_samples=loop.plant.counts_samples,
    )
    if not channels:
        return margin
    each = tuple(certified_angle(loop, ball, np.diag(row))[0] for row in np.eye(ball.actions))
    return replace(margin, channels=each, channel_names=loop.plant.input_names)


def certified_loop(sys: Any, ball: IncrementalBall, where: str) -> NominalLoop:
    """Return the nominal loop of a certified ball; ValueError says why a loop has no margin."""
    largest = max(ball.radius, float(np.abs(ball.center).max()))
    if largest > _LARGEST:
        raise ValueError(
            f"the policy has gains up to {largest:g}; expected at most {_LARGEST:g}, whose squares are finite. Choose "
            "other units of observations or actions"
        )
    loop = nominal_loop(sys, ball.center)
    test = judge(loop, ball.radius)
    if test.verdict is not Verdict.CERTIFIED:
        raise ValueError(
            f"the loop is {test.verdict} at {where}: {test.reason}. A margin needs a certified loop; make the "
            "policy's radius smaller or choose another centre gain"
        )
    return loop


def certified_angle(loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray) -> tuple[float, float]:
    """Return the certified angle [rad] of the channels in `chosen` (diagonal 0/1) and the signed frequency."""
    if not (chosen @ ball.center).any():
        return math.pi, math.nan
    walk = march(rotation_path(loop, ball, chosen), -1.0, 1.0)
    if walk.end == 1.0:
        return math.pi, math.nan
    angle = 2.0 * math.atan(walk.end) + 0.5 * math.pi
    # Rounding of the arc tangent, of π/2 and of their sum, which is below π.
    return max(angle - 1e-15, 0.0), walk.frequency


def _with_falsifier(loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray) -> PhaseMargin:
    angle, omega = certified_angle(loop, ball, chosen)
    if angle >= math.pi or not math.isfinite(omega):
        return PhaseMargin(angle, math.nan, abs(omega), None, None)
    # A lag at ω > 0 is a lead at -ω: take the direction in which the frequency is positive.
    sign = -1.0 if omega < 0.0 else 1.0
    omega = abs(omega)
    looped = rotated_response(loop, ball.center, chosen, np.exp(1j * sign * angle), omega)
    worst = None if looped is None else worst_matrix(looped)
    found = _first_unstable(loop, ball, chosen, sign * angle, omega)
    return PhaseMargin(angle, math.nan if found is None else abs(found.value), omega, worst, found)


def rotated_response(
    loop: NominalLoop, center: np.ndarray, chosen: np.ndarray, z: complex, omega: float
) -> np.ndarray | None:
    """Return T_z·Z at a frequency, Z = I + (z-1)E, T_z = T(I - (z-1)EK₀T)⁻¹, unverified; None where singular.

    It is what a deviation of the policy from its centre sees when Z multiplies the policy's outputs.
    """
    assert loop.system is not None
    t = loop.system.response(omega)
    factor = (z - 1.0) * chosen
    try:
        return t @ np.linalg.solve(np.eye(t.shape[1]) - factor @ center @ t, np.eye(t.shape[1]) + factor)
    except np.linalg.LinAlgError:
        return None


def ball_member(
    ball: IncrementalBall, direction: np.ndarray | None, omega: float, step: float
) -> LinearPolicy:
    """Return the linear policy of the ball whose deviation from the centre has the given direction at ω."""
    center = LinearPolicy.static(np.asarray(ball.center))
    if direction is None or ball.radius == 0.0 or not np.isfinite(direction).all():
        return center
    size = ball.radius * (1.0 - 1e-13) / float(np.linalg.norm(direction, 2))
    return all_pass(direction * size, omega, step).plus(ball.center)


def _first_unstable(
    loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray, angle: float, omega: float
) -> Destabilization | None:
    """Return the smallest rotation found beyond the certified one that destabilises a policy of the ball."""
    plant = loop.plant

    def attempt(step: float) -> Destabilization | None:
        turn = angle * (1.0 + step)
        z = np.exp(1j * turn)
        looped = rotated_response(loop, ball.center, chosen, z, omega)
        if looped is None:
            return None
        policy = ball_member(ball, worst_matrix(looped), omega, plant.sample_time)

        def rotated(theta: float) -> LinearPolicy:
            turned = np.eye(len(chosen)) + (np.exp(1j * theta) - 1.0) * chosen
            return LinearPolicy(policy.a, policy.b, turned @ policy.c, turned @ policy.d)

        pole = unstable_pole(plant, rotated(turn))
        if pole is None:
            return None
        kind = "a rotation between two copies of the loop, with "
        kind += "the centre of the ball" if ball.radius == 0.0 else "a linear policy of the ball"
        words = ("phase", "rad", kind)
        return policy_destabilization(plant, rotated, turn, words, pole, matrix=z * chosen)

    return nearest_beyond(attempt, (*STEPS, 0.03, 0.1, 0.3))
