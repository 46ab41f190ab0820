"""Small gain and the incremental circle criterion, for stable and unstable plants, and the largest slope."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lipctrl.analysis.arguments import finite_number, ordered_slopes
from lipctrl.analysis.hinf import bounded_norm
from lipctrl.analysis.loop import BallTest, close_loop, judge, nominal_loop
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.popov_levels import level_test
from lipctrl.analysis.popov_minimum import popov_minimum
from lipctrl.analysis.spectrum import internal_stability
from lipctrl.analysis.units import in_units
from lipctrl.analysis.verdict import Verdict


@dataclass(frozen=True)
class CriterionResult:
    """What a criterion showed about a plant and a class of static maps; it prints itself.

    `verdict` is one of the four words of `Verdict`; `margin` is the factor by which the class's radius may
    still grow (> 1 when certified); `frequency` [rad/s] is where it is smallest; `center` and `radius` describe
    the class as a ball for u = π(y); `test` holds the details.
    """

    criterion: str
    verdict: Verdict
    margin: float
    frequency: float
    center: np.ndarray
    radius: float
    test: BallTest

    @property
    def certified(self) -> bool:
        """Whether the loop is certified."""
        return self.verdict is Verdict.CERTIFIED

    def __str__(self) -> str:
        hertz = self.frequency / (2.0 * math.pi)
        text = f"{self.criterion}: {self.verdict} — {self.test.reason}; margin {self.margin:.6g} "
        text += f"at {self.frequency:.6g} rad/s ({hertz:.6g} Hz)"
        return in_units(text, self.test.loop.plant.counts_samples)


def _result(criterion: str, plant: Realization, center: np.ndarray, radius: float) -> CriterionResult:
    test = judge(nominal_loop(plant, center), radius)
    return CriterionResult(criterion, test.verdict, test.margin, test.frequency, center, radius, test)


def small_gain(sys: Any, lipschitz: float) -> CriterionResult:
    """Certify a plant with every map of Lipschitz constant ≤ `lipschitz`: lipschitz·‖sys‖_∞ < 1.

    Incremental (Zames 1966): holds for u = π(y) and u = -π(y) alike. The plant must be stable by itself, hidden
    modes included; for an unstable plant use a centre gain (`circle_criterion`, `ball_test`).

    Parameters
    ----------
    sys : plant as `as_realization` takes it, any shape; lipschitz : ℓ₂ Lipschitz constant ≥ 0.

    Raises
    ------
    ValueError
        For bad plant data, or a Lipschitz constant that is negative, NaN or infinite.

    Examples
    --------
    >>> import control
    >>> print(small_gain(control.tf([1], [1, 2]), 1.5).verdict)
    certified
    >>> print(small_gain(control.tf([1], [1, -2]), 1.5).verdict)
    nominally unstable
    """
    plant = as_realization(sys, "sys")
    radius = finite_number(lipschitz, "lipschitz")
    if radius < 0.0:
        raise ValueError(f"lipschitz is {radius}; expected a number ≥ 0")
    return _result("small gain", plant, np.zeros((plant.inputs, plant.outputs)), radius)


def circle_criterion(sys: Any, slopes: tuple[float, float]) -> CriterionResult:
    """Certify u = -φ(y) (negative feedback) for every φ with incremental slopes in [a, b], of any signs.

    The loop is shifted to the centre slope (a+b)/2, which must stabilise the plant; the rest is the small-gain
    theorem with radius (b-a)/2. For one channel this is the circle criterion, incremental and exact for the disc
    (Zames 1966, part II). For a square plant φ may be any map with ‖Δφ - (a+b)/2·Δy‖ ≤ (b-a)/2·‖Δy‖, which
    includes diagonal maps with slopes in [a, b]. An unstable plant is no obstacle if the centre stabilises it.

    Parameters
    ----------
    sys : square plant as `as_realization` takes it; slopes : (a, b), a ≤ b.

    Raises
    ------
    ValueError
        For bad plant data, a plant that is not square, or slopes that are not finite and ordered.

    Examples
    --------
    >>> import control
    >>> print(circle_criterion(control.tf([1], [1, -1]), slopes=(1.5, 8.0)).verdict)   # unstable plant
    certified
    """
    plant = as_realization(sys, "sys")
    low, high = ordered_slopes(slopes)
    center, radius = _disc(low, high)
    return _result("incremental circle criterion", plant, -center * _square(plant), radius)


def _disc(low: float, high: float) -> tuple[float, float]:
    """Return the centre of [low, high] and a radius that covers it despite rounding."""
    center = 0.5 * low + 0.5 * high
    radius = max(high - center, center - low)
    return center, math.nextafter(radius, math.inf) if radius > 0.0 else 0.0


def _square(plant: Realization) -> np.ndarray:
    if plant.inputs != plant.outputs:
        raise ValueError(
            f"sys has {plant.outputs} outputs and {plant.inputs} inputs; slopes need a square plant. State the "
            "policy as a ball instead: lipctrl.IncrementalBall(center, radius) with lipctrl.analyze"
        )
    return np.eye(plant.inputs)


def max_slope(sys: Any, lower: float | Literal["symmetric"] = 0.0) -> float:
    """Return the largest b for which the circle criterion certifies slopes [lower, b], u = -φ(y).

    The value is certified itself (`circle_criterion(sys, (lower, b))` says so) and below the exact one by about
    1e-8 relative, where rounding allows. `inf`: every finite b is certified; where the real part of the loop
    with slope `lower` touches zero, as that of s/(s+1) does, a large finite number stands for it. `lower`
    itself: only the constant slope is certified. The certified slopes [lower, b] grow with b, so the set of b is
    an interval that starts at `lower`; for an unstable plant choose a stabilising `lower`.
    `lower="symmetric"` asks for slopes [-b, b], hence b = 1/‖sys‖_∞. From `lower` = 0 on and "symmetric", 0 says that
    there is no room, as `stability_radius` does: an unstable plant has none.

    Parameters
    ----------
    sys : square plant as `as_realization` takes it.

    Raises
    ------
    ValueError
        For bad plant data, a plant that is not square, a lower slope that is not finite, or where nothing is
        certified because the constant slope `lower` ≠ 0 does not provably stabilise the plant.

    Examples
    --------
    >>> import control
    >>> plant = control.tf([0.1, 0], [1, -1.8, 0.81], True)     # Carrasco, Heath & Wang, discrete example 1
    >>> print(f"{max_slope(plant):.5f}")
    0.79338
    """
    plant = as_realization(sys, "sys")
    eye = _square(plant)
    if isinstance(lower, str):
        if lower != "symmetric":
            raise ValueError(f"lower is {lower!r}; expected a number or 'symmetric'")
        norm = nominal_loop(plant, 0.0 * eye).norm().value
        if math.isinf(norm):
            return _constant(plant, 0.0)
        if norm == 0.0:
            return math.inf
        return _shrunk(plant, 0.0, math.nextafter(1.0 / norm, 0.0), symmetric=True)
    low = finite_number(lower, "lower")
    shifted = close_loop(plant, MidRad(-low * eye))
    spectrum = None if shifted is None else internal_stability(shifted.a, discrete=shifted.is_discrete)
    if shifted is None or spectrum is None or not spectrum.is_stable:
        return _constant(plant, low)
    half = PopovForm(shifted, MidRad.zeros(*eye.shape), MidRad(0.5 * eye), MidRad.zeros(*eye.shape))
    if is_positive_real(half):
        return math.inf
    lowest = popov_minimum(half, 0.0, tightest=1e-9, loosest=1e-1).lower
    if lowest >= 0.0:
        return math.inf
    if math.isfinite(lowest):
        return _shrunk(plant, low, low + 1.0 / -lowest, symmetric=False)
    # Where He T touches zero, as that of s/(s+1), there is no relative accuracy: bound it on the scale of ‖T‖.
    size = bounded_norm(shifted, spectrum).value
    if size == 0.0:
        return math.inf
    for accuracy in (1e-6, 1e-3):
        lowest = popov_minimum(half, size, tightest=accuracy, loosest=accuracy).lower
        if math.isfinite(lowest) and lowest < 0.0:
            slope = _shrunk(plant, low, low + 1.0 / -lowest, symmetric=False)
            if slope > low:
                return slope
    return _constant(plant, low)


def _constant(plant: Realization, slope: float) -> float:
    """Return a constant slope that is certified by itself, or 0, no room; ValueError where nothing is certified."""
    if slope == 0.0:
        return 0.0
    test = circle_criterion(plant, (slope, slope)).test
    if test.verdict is not Verdict.CERTIFIED:
        raise ValueError(
            f"no slopes from {slope:g} on are certified: the loop with u = {0.0 - slope:g}·y is {test.verdict}: "
            f"{test.reason}; expected a `lower` that stabilises the plant (lower=a; the slopes are then [a, b])"
        )
    return slope


def _shrunk(plant: Realization, low: float, high: float, *, symmetric: bool) -> float:
    """Return the largest slope just below `high` that the criterion itself certifies."""
    for give in (0.0, 1e-12, 1e-10, 1e-9, 4e-9, 1e-8, 4e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1):
        slope = high - give * (high - low)
        floor = -slope if symmetric else low
        if slope > floor and circle_criterion(plant, (floor, slope)).certified:
            return slope
    return _constant(plant, low)


def is_positive_real(form: PopovForm) -> bool:
    """Prove He G(jω) ≻ 0 at all finite frequencies of a stable G, which admits every slope."""
    system = form.system
    if system.states == 0 or system.is_discrete or not system.d.is_zero():
        return level_test(form, 0.0).proved
    gain = system.c @ system.b
    if not np.array_equal(gain.mid, gain.mid.T) or (gain.rad is not None and gain.shape[0] > 1):
        return False
    # He G vanishes at infinity. With t a power of two, He[G(1 - s²/t²)] = (1 + ω²/t²)·He G does not, and its
    # polynomial part sCB/t² is skew: C - CA²/t² and -CAB/t² realise the rest.
    balanced, _ = system.balanced()
    size = max(float(np.linalg.norm(balanced.A)), 1e-150)
    factor = 2.0 ** (-2 * round(math.log2(size)))
    ca = balanced.c @ balanced.a
    lifted = replace(
        balanced,
        c=balanced.c - (ca @ balanced.a).scaled(factor),
        d=-(ca @ balanced.b).scaled(factor),
    )
    return level_test(replace(form, system=lifted), 0.0).proved
