"""The H∞ norm, bounded from above with proof."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lipctrl.analysis.cover import GainBound, cover_gain
from lipctrl.analysis.delay_chains import filter_norm, is_nilpotent, without_common_delay
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.modal import ModalForm, modal_form
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.popov_minimum import popov_minimum
from lipctrl.analysis.spectrum import SpectrumReport, Stability, internal_stability
from lipctrl.analysis.units import in_units
from lipctrl.arithmetic import UNIT

# Relative distance of the two bounds that is aimed at, and the one beyond which the level-set test is tried, too.
TOLERANCE = 1e-9
_ENOUGH = 1e-6
_TOLERABLE = 1e-4


@dataclass(frozen=True)
class HinfNorm:
    """An enclosure of the H∞ norm: `lower` ≤ ‖G‖_∞ ≤ `value`, the peak near `frequency` [rad/s].

    `value` is inf for a system that is not internally stable, and where no bound could be proved; `note` says
    which. `lower` is the gain at one frequency, proved. `stability` reports the poles, hidden ones included.
    """

    value: float
    lower: float
    frequency: float
    stability: Stability
    note: str
    counts_samples: bool = field(default=False, repr=False, compare=False)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if math.isinf(self.value):
            return f"H∞ norm: inf ({self.note})"
        decibel = "" if self.value == 0.0 else f" ({20.0 * math.log10(self.value):.2f} dB)"
        hertz = self.frequency / (2.0 * math.pi)
        text = (
            f"H∞ norm ≤ {self.value:.9g}{decibel}, ≥ {self.lower:.9g}, "
            f"at {self.frequency:.6g} rad/s ({hertz:.6g} Hz)"
        )
        return in_units(text, self.counts_samples)


def hinf_norm(sys: Any) -> HinfNorm:
    """Return a proved upper bound of the H∞ norm of a system, with the frequency of its peak.

    The bound holds for the stored numbers in exact arithmetic, with bounds on every rounding error: internal
    stability and partial fractions from the modes, the gain from intervals that cover the frequency axis, and a
    level-set test where there is no basis of modes. It aims at 1e-9 relative; `value` against `lower` says what was
    reached. Systems whose realisation has poles on the boundary or beyond, also hidden ones, have norm inf.

    Parameters
    ----------
    sys : plant as `as_realization` takes it: state space, transfer function, nested list or static gain, any
        shape, continuous or discrete time. Frequencies in rad/s (`dt=True`: rad/sample).

    Raises
    ------
    ValueError
        For NaN or infinite data, improper transfer functions, empty models.

    Source: `lipctrl.analysis.cover`; FIR filters and delays `lipctrl.analysis.delay_chains`; level sets after Boyd,
    Balakrishnan & Kabamba (1989) and Bruinsma & Steinbuch (1990).

    Examples
    --------
    >>> import control
    >>> norm = hinf_norm(control.tf([1], [1, 0.1, 1]))
    >>> print(round(norm.value, 5), round(norm.frequency, 5))
    10.01252 0.9975
    >>> hinf_norm(control.tf([1], [1, -1])).value       # unstable: the L∞ norm would be 1
    inf
    """
    system = as_realization(sys, "sys")
    balanced, _ = system.balanced()
    spectrum = internal_stability(system.a, discrete=system.is_discrete, balanced=balanced.a)
    found = bounded_norm(system, spectrum)
    return replace(found, counts_samples=True) if system.counts_samples else found


def bounded_norm(system: Realization, spectrum: SpectrumReport) -> HinfNorm:
    """Return the enclosure of the H∞ norm of a realisation whose spectrum was examined before."""
    if not spectrum.is_stable:
        assert spectrum.critical is not None  # only a system with poles can fail
        pole = spectrum.critical
        frequency = abs(cmath.phase(pole)) / system.sample_time if system.is_discrete else abs(pole.imag)
        word = "is not stable" if spectrum.stability is Stability.UNSTABLE else "is not provably stable"
        note = f"the pole {_format(pole)} {word}"
        return HinfNorm(math.inf, math.inf, float(frequency), spectrum.stability, note)
    if system.d.is_zero() and (system.b.is_zero() or system.c.is_zero()):
        return HinfNorm(0.0, 0.0, 0.0, Stability.STABLE, "zero system")
    if system.states == 0:
        bound = system.d.norm_bound()
        return HinfNorm(bound, _attained(system, math.inf), 0.0, Stability.STABLE, "static gain")
    if system.is_discrete and spectrum.basis is None:
        if is_nilpotent(system.a):
            bound = filter_norm(system, TOLERANCE)
            at = bound.at / system.sample_time
            return HinfNorm(bound.upper, bound.lower, at, Stability.STABLE, "circle covered")
        shorter = without_common_delay(system)
        if shorter.states < system.states:
            return bounded_norm(shorter, internal_stability(shorter.a, discrete=True))
    return _dynamic_bound(system, spectrum)


def _dynamic_bound(system: Realization, spectrum: SpectrumReport) -> HinfNorm:
    """Cover the frequency axis in modal coordinates; where these are too coarse, prove a level set."""
    balanced, t = system.balanced()
    covered = None
    if spectrum.basis is not None:
        form = modal_form(balanced, spectrum.basis)
        covered = None if form is None else cover_gain(form, TOLERANCE)
        if form is not None and covered is not None and _good(covered, form):
            at = form.frequency(covered.at)
            return HinfNorm(covered.upper, covered.lower, at, Stability.STABLE, "frequency axis covered")
    # What overflows ends in infinite or undefined bounds, which prove nothing.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = _level_set_bound(balanced, t, spectrum)
    if covered is None:
        return found
    lower = max(found.lower, covered.lower)
    if covered.upper < found.value:
        return replace(found, value=covered.upper, lower=lower, note="frequency axis covered")
    return replace(found, lower=lower)


def _good(covered: GainBound, form: ModalForm) -> bool:
    """Tell whether another proof is not worth its time: tight, or as tight as rounding of the data allows."""
    gap = covered.upper - covered.lower
    return gap <= _ENOUGH * covered.lower or gap <= min(4.0 * form.slack, _TOLERABLE * covered.lower)


def _level_set_bound(balanced: Realization, t: np.ndarray, spectrum: SpectrumReport) -> HinfNorm:
    form, shift = _gain_form(balanced)
    modes = None if spectrum.modes is None else (spectrum.modes[0], spectrum.modes[1] / t[:, None])
    # The scaled form has gains of order one; -Φ = GᴴG, so a proved minimum of Φ is minus the squared norm.
    result = popov_minimum(form, 0.0, modes=modes, tightest=2e-9, loosest=1e3)
    if not math.isfinite(result.lower):
        # A gain near zero, as of modes that cancel: bound it on the scale of the data instead.
        result = popov_minimum(form, 1.0, modes=modes, tightest=1e-24, loosest=1.0)
    omega = abs(result.frequency)
    # Where even samples fail, a pole is within rounding of the boundary.
    lower = _attained(balanced, omega) if math.isfinite(result.upper) else 0.0
    if not math.isfinite(result.lower):
        note = "the level-set test could not be proved at any level; rescale or reduce the model"
        return HinfNorm(math.inf, lower, omega, Stability.STABLE, note)
    value = math.nextafter(math.sqrt(max(-result.lower, 0.0)), math.inf)
    # Upwards by more than the rounding of a subnormal result; what overflows is infinite.
    value = math.nextafter(float(np.ldexp(value, -shift)), math.inf)
    if math.isinf(value):
        return HinfNorm(math.inf, lower, omega, Stability.STABLE, "the gain exceeds the largest double")
    return HinfNorm(value, min(lower, value), omega, Stability.STABLE, "level set proved")


def _attained(system: Realization, omega: float) -> float:
    """Return a proved lower bound of ‖G‖ at a frequency, from one input; 0 where rounding hides the response."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _attained_unguarded(system, omega)


def _attained_unguarded(system: Realization, omega: float) -> float:
    response = system.d
    if math.isfinite(omega):
        point, eye = complex(system.point(omega)), np.eye(system.states)
        # Whatever the rounding of e^{jωdt}, it stands for a point of the circle.
        rounded = 4.0 * UNIT * eye if system.is_discrete else None
        inverse = (MidRad(point * eye, rounded) - system.a).inverse()
        if inverse is None:
            return 0.0
        response = system.c @ inverse @ system.b + system.d
    if not np.isfinite(response.mid).all():
        return 0.0
    direction = np.linalg.svd(response.mid)[2][:1].conj().T
    moved = response @ MidRad(direction)
    # Squares of numbers of order one neither overflow nor underflow.
    shift = _exponent(float(np.abs(moved.mid).max()))
    gain, loose = (
        float(np.linalg.norm(np.ldexp(part, shift))) for part in (np.abs(moved.mid), moved.radius())
    )
    share = (gain - loose) / float(np.linalg.norm(direction)) * (1.0 - 1e-14 * (1.0 + sum(response.shape)))
    return max(math.nextafter(float(np.ldexp(share, -shift)), 0.0), 0.0) if math.isfinite(share) else 0.0


def _gain_form(system: Realization) -> tuple[PopovForm, int]:
    """Return the Popov form of -GᴴG scaled to order one, and the exponent of the power of two that scaled G."""
    shift_b, shift_c = (_exponent(float(np.abs(m).max())) for m in (system.B, system.C))
    if system.D.any():
        # D is scaled by both, and shall not overflow.
        excess = max(shift_b + shift_c - _exponent(float(np.abs(system.D).max())), 0)
        shift_b, shift_c = shift_b - excess // 2, shift_c - (excess - excess // 2)
    half = (shift_b + shift_c) // 2
    d = system.d.scaled(2.0**half).scaled(2.0 ** (shift_b + shift_c - half))
    scaled = replace(system, b=system.b.scaled(2.0**shift_b), c=system.c.scaled(2.0**shift_c), d=d)
    outputs, inputs = system.outputs, system.inputs
    weights = -MidRad.eye(outputs), MidRad.zeros(outputs, inputs), MidRad.zeros(inputs, inputs)
    return PopovForm(scaled, *weights), shift_b + shift_c


def _exponent(size: float) -> int:
    """Return k for which 2ᵏ·size is about one, within ±1000: what is left then is far from the ends of a double."""
    return min(max(-round(math.log2(size)), -1000), 1000) if 0.0 < size < math.inf else 0


def _format(pole: complex) -> str:
    if pole.imag == 0.0:
        return f"{pole.real + 0.0:.6g}"
    return f"{pole.real + 0.0:.6g} ± {abs(pole.imag):.6g}j"
