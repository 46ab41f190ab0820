"""The nominal loop of a plant and the centre of a ball, with hidden modes and algebraic loops accounted for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import real_array
from lipctrl.analysis.ball import LOCAL, IncrementalBall, in_own_units, with_scope
from lipctrl.analysis.hinf import HinfNorm, bounded_norm
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.scales import Scales
from lipctrl.analysis.spectrum import SpectrumReport, Stability, internal_stability
from lipctrl.analysis.units import in_units
from lipctrl.analysis.verdict import Verdict

_REDUNDANT = (
    "; the plant was assembled entry by entry, so an unstable pole that entries share is held in several copies, of "
    "which feedback reaches one: give a minimal state-space model, control.minreal(control.ss(plant))"
)
_SIGN = "; with -K₀ it is stable: policies act as u = π(y), so the gain of u = -K y is the centre -K"


@dataclass(frozen=True)
class NominalLoop:
    """T = P(I - K₀P)⁻¹, from a signal added to the plant's input to the plant's output; u = K₀y + r.

    `system`, in balanced states, is None where I - K₀D could not be proved invertible.
    """

    plant: Realization
    center: np.ndarray
    system: Realization | None
    spectrum: SpectrumReport | None

    @property
    def is_stable(self) -> bool:
        """Whether the loop is proved well posed and internally stable."""
        return self.spectrum is not None and self.spectrum.is_stable

    def norm(self) -> HinfNorm:
        """Return the enclosure of ‖T‖_∞ (inf unless the loop is proved stable)."""
        if self.system is None or self.spectrum is None:
            note = "I - K₀D is not provably invertible"
            return HinfNorm(math.inf, math.inf, math.inf, Stability.UNDECIDED, note)
        found = bounded_norm(self.system, self.spectrum)
        return replace(found, counts_samples=True) if self.plant.counts_samples else found


def nominal_loop(sys: Any, center: Any) -> NominalLoop:
    """Close the loop u = K₀y + r around a plant in state space, keeping every mode of the given realisation.

    Parameters
    ----------
    sys : plant as `as_realization` takes it.
    center : K₀, (plant inputs, plant outputs); positive feedback, so u = -K y is K₀ = -K.

    Raises
    ------
    ValueError
        For bad plant data or a centre of the wrong shape.

    Examples
    --------
    >>> import control
    >>> round(nominal_loop(control.tf([1], [1, -1]), [[-3.0]]).norm().value, 6)      # 1/(s + 2)
    0.5
    """
    system = as_realization(sys, "sys")
    k0 = real_gain(center)
    if k0.shape != (system.inputs, system.outputs):
        raise ValueError(
            f"the policy maps {k0.shape[1]} observations to {k0.shape[0]} actions, the plant has "
            f"{system.outputs} outputs and {system.inputs} inputs; expected a policy with {system.outputs} "
            f"observations and {system.inputs} actions"
        )
    if not np.isfinite(k0).all():
        raise ValueError("the centre gain has NaN or infinite entries; expected finite gains")
    closed = close_loop(system, MidRad(k0))
    if closed is None:
        return NominalLoop(system, k0, None, None)
    # Powers of two: no rounding, and later proofs see no units of the states.
    closed, _ = closed.balanced()
    return NominalLoop(system, k0, closed, internal_stability(closed.a, discrete=closed.is_discrete))


def real_gain(gain: Any) -> np.ndarray:
    """Return a constant gain as a real matrix, or say that it is none."""
    values = real_array(gain)
    if values is None:
        raise ValueError(
            f"the gain is {gain!r}; expected a real (inputs, outputs) array. Close the loop of a dynamic controller "
            "first (control.feedback) and pass the result as the plant"
        )
    return np.atleast_2d(values)


def close_loop(system: Realization, gain: MidRad) -> Realization | None:
    """Return P(I - KP)⁻¹ with all its rounding enclosed, or None where I - KD is not provably invertible."""
    if not gain.mid.any() and gain.rad is None:
        return system
    if not system.D.any() and system.d.rad is None:
        feed = system.b @ gain
        return Realization(
            system.a + feed @ system.c, system.b, system.c, system.d, system.sample_time, system.timebase,
            static=system.static,
        )  # fmt: skip
    inverse = (MidRad.eye(system.inputs) - gain @ system.d).inverse()
    if inverse is None:
        return None
    b = system.b @ inverse
    d = system.d @ inverse
    kc = gain @ system.c
    return Realization(
        system.a + b @ kc, b, system.c + d @ kc, d, system.sample_time, system.timebase, static=system.static
    )


@dataclass(frozen=True)
class BallTest:
    """The small-gain test of a plant against a ball of policies, recentred at K₀.

    `verdict` is `certified` exactly if the nominal loop is proved well posed and stable and ρ‖T‖_∞ < 1.
    `margin` is 1/(ρ‖T‖_∞), the factor by which ρ may still grow (> 1 when certified); `gain` bounds the
    incremental ℓ₂ gain from r (added to the plant's input) to y by ‖T‖/(1 - ρ‖T‖); `frequency` [rad/s] is
    where the margin is smallest. `scope` says where the claim holds if not everywhere. `norm`, `radius` and `loop`
    speak of signals divided by the sizes `scales` (None: 1), in which the policy's certificate bounds it; `gain` is in
    raw units.
    """

    verdict: Verdict
    margin: float
    frequency: float
    norm: HinfNorm
    radius: float
    gain: float
    reason: str
    loop: NominalLoop
    scope: tuple[str, ...] = ()
    scales: Scales | None = None

    def __str__(self) -> str:
        hertz = self.frequency / (2.0 * math.pi)
        where = f"margin {self.margin:.6g}, {self.frequency:.6g} rad/s = {hertz:.6g} Hz"
        text = with_scope(f"{self.verdict}: {self.reason} ({where})", self.scope)
        return in_units(text, self.loop.plant.counts_samples)


def ball_test(sys: Any, policy: Any) -> BallTest:
    """Certify that every policy of an incremental ball stabilises the plant incrementally, or say what is missing.

    Let T = P(I - K₀P)⁻¹, u = π(y) + r. If the nominal loop is well posed and internally stable, hidden modes
    included, and ρ‖T‖_∞ < 1, then for every π in the ball the loop is well posed and incrementally ℓ₂ stable
    (Zames 1966; Desoer & Vidyasagar 1975). Continuous and discrete time, any shape. A bound that holds on a box of
    observations only decides nothing: inconclusive.

    Parameters
    ----------
    sys : plant as `as_realization` takes it; policy : as `as_ball` takes it. Positive feedback: u = π(y).

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> ball_test(control.tf([1], [1, -1]), IncrementalBall([[-3.0]], 1.5)).verdict.value
    'certified'
    """
    system, ball, scales = in_own_units(as_realization(sys, "sys"), policy)
    test = judge_ball(nominal_loop(system, ball.center), ball)
    return test if scales.trivial else replace(test, gain=scales.raw_norm(test.gain), scales=scales)


def judge_ball(loop: NominalLoop, ball: IncrementalBall) -> BallTest:
    """Apply the small-gain theorem to a nominal loop and a ball; what limits the ball limits the verdict."""
    test = replace(judge(loop, ball.radius), scope=ball.scope)
    if test.verdict is Verdict.NOMINALLY_UNSTABLE and _stable_the_other_way(loop, ball):
        test = replace(test, reason=test.reason + _SIGN)
    if ball.region is None or test.verdict is not Verdict.CERTIFIED:
        return test
    return replace(test, verdict=Verdict.INCONCLUSIVE, reason=LOCAL, margin=0.0, gain=math.inf)


def _stable_the_other_way(loop: NominalLoop, ball: IncrementalBall) -> bool:
    return (
        bool(ball.center.any())
        and nominal_loop(loop.plant, -ball.center).norm().stability is Stability.STABLE
    )


def judge(loop: NominalLoop, radius: float) -> BallTest:
    """Apply the small-gain theorem to a nominal loop and a radius ρ."""
    norm = loop.norm()

    def result(verdict: Verdict, reason: str, margin: float = 0.0, gain: float = math.inf) -> BallTest:
        return BallTest(verdict, margin, norm.frequency, norm, radius, gain, reason, loop)

    if loop.system is None or loop.spectrum is None:
        return result(
            Verdict.ILL_POSED,
            "I - K₀D is singular or too near singular for a proof: the algebraic loop of the centre and the "
            "plant's feed-through has no unique solution",
        )
    if loop.spectrum.stability is Stability.UNSTABLE:
        remedy = _REDUNDANT if loop.plant.redundant else ""
        return result(Verdict.NOMINALLY_UNSTABLE, f"in the nominal loop {norm.note}{remedy}")
    if radius > 0.0 and not radius * loop.system.d.norm_bound() < 1.0:
        return result(
            Verdict.ILL_POSED,
            f"ρ‖D_T‖ = {radius * loop.system.d.norm_bound():.6g} ≥ 1: some policy of the ball closes a singular "
            "algebraic loop through the plant's feed-through",
        )
    if not math.isfinite(norm.value):
        return result(Verdict.INCONCLUSIVE, f"no finite bound of ‖T‖_∞ could be proved: {norm.note}")
    product = math.nextafter(radius * norm.value, math.inf) if radius > 0.0 else 0.0
    margin = math.inf if product == 0.0 else math.nextafter(1.0 / product, 0.0)
    if product < 1.0:
        gain = norm.value / (1.0 - product) * (1.0 + 1e-15)
        return result(Verdict.CERTIFIED, f"ρ‖T‖_∞ ≤ {product:.6g} < 1", margin, gain)
    return result(Verdict.INCONCLUSIVE, f"ρ‖T‖_∞ ≤ {product:.6g} is not below 1", margin)
