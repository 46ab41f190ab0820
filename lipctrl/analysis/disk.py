"""Disk margins: how much gain and phase a linear loop stands at once, without a frequency grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import finite_number
from lipctrl.analysis.blocks import block_diagonal, realized_blocks
from lipctrl.analysis.destabilize import Destabilization, MarginSimulation, policy_destabilization
from lipctrl.analysis.disk_ends import DiskEnds, disk_policy, gain_interval, phase_of_disk
from lipctrl.analysis.disk_falsifier import smallest_disks
from lipctrl.analysis.disk_loop import DiskLoop
from lipctrl.analysis.falsify_linear import STEPS, LinearPolicy, unstable_pole
from lipctrl.analysis.interconnection import open_loop
from lipctrl.analysis.loop import close_loop
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.names import listed_by_name
from lipctrl.analysis.periodic import periodic_destabilization
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.pointwise import pointwise_alpha
from lipctrl.analysis.scaled_gain import scaled_norm
from lipctrl.analysis.spectrum import internal_stability
from lipctrl.analysis.units import in_units

# Beyond it a disk is a half-plane up to rounding.
_MOST_SKEWED = 1e8


@dataclass(frozen=True)
class DiskMargin(DiskEnds):
    """A loop that stays stable for every linear time-invariant f = (1 + bδ)/(1 - aδ), |δ| < α, in every channel.

    a = (1 + skew)/2 and b = (1 - skew)/2. The perturbation multiplies the loop's signals before the plant's
    measurement is fed back; with several channels, each has a δ of its own. α is proved with scalings that differ
    from band to band of frequencies; up to three channels that is the exact margin, but for the proof's rounding.

    Attributes
    ----------
    alpha, alpha_varying, falsified_varying, gain_margin, phase_margin, frequency : as in `DiskEnds`.
    alpha_upper : a value at which linear time-invariant δ of the channels were found to destabilise (equal to the exact
        margin for a single channel, where it differs from `alpha` by the proof's rounding only).
    perturbation : the complex δ of the channels (a diagonal matrix) of smallest size found that makes the loop
        singular at `frequency`.
    channels : the margins of one channel at a time, where there are several.
    """

    alpha_upper: float
    perturbation: np.ndarray
    channels: tuple[DiskMargin, ...] = ()
    loop: Realization | None = field(default=None, repr=False, compare=False)

    def destabilization(self) -> Destabilization:
        """Return the perturbation of the channels at `alpha_upper` as all-pass filters in the loop.

        Raises
        ------
        ValueError
            Where no disk is too large, or no filter was seen to destabilise.
        """
        if self.loop is None or not np.isfinite(self.perturbation).all():
            raise ValueError("nothing was found to destabilise this loop")
        loop, n = self.loop, self.loop.outputs
        blocks = [self.perturbation[i : i + 1, i : i + 1] / self.alpha_upper for i in range(n)]
        delta = realized_blocks(blocks, self.frequency, loop.sample_time)
        centre = LinearPolicy.static(-np.eye(n))

        def at(size: float) -> LinearPolicy:
            return disk_policy(centre, delta.scaled(size), tuple(range(n)), 0.5 * (1.0 + self.skew))

        for step in STEPS:
            value = self.alpha_upper * (1.0 + step)
            pole = unstable_pole(loop, at(value))
            if pole is not None:
                words = ("disk size α", "", "all-pass perturbations in the disk")
                return policy_destabilization(loop, at, value, words, pole, matrix=self.perturbation)
        raise ValueError("the perturbation makes the loop singular, but no pole was seen to cross")

    def simulate(self) -> MarginSimulation:
        """Simulate the loop just inside and just outside `alpha_upper`; ValueError where there is nothing to show."""
        return self.destabilization().simulate()

    def __str__(self) -> str:
        low, high = self.gain_margin
        decibel = [_decibel(g) for g in (low, high)]
        hertz = self.frequency / (2.0 * math.pi)
        text = (
            f"disk margin α ≥ {self.alpha:.6g} (skew {self.skew:g}), at {self.frequency:.6g} rad/s ({hertz:.6g} Hz): "
            f"gain {low:.4g} … {high:.4g} ({decibel[0]:.2f} … {decibel[1]:.2f} dB){self._limit()}, "
            f"phase ±{math.degrees(self.phase_margin):.2f}°{self._varying_text()}"
        )
        if self.channels:
            each = (f"α ≥ {margin.alpha:.6g}" for margin in self.channels)
            text += "; single channels " + listed_by_name(each, self.channel_names)
        return in_units(text, self.counts_samples)

    def _limit(self) -> str:
        """Say what the gains are without the proof's rounding, where that decides about their size."""
        ends = gain_interval(self.alpha_upper, self.skew, inwards=False)
        alike = all(math.isclose(a, b, rel_tol=1e-2) for a, b in zip(self.gain_margin, ends, strict=True))
        if alike or not math.isclose(self.alpha, self.alpha_upper, rel_tol=1e-7):
            return ""
        return f", proved; {ends[0]:.4g} … {ends[1]:.4g} up to the rounding of α"


def _decibel(gain: float) -> float:
    return 20.0 * math.log10(gain) if 0.0 < gain < math.inf else (-math.inf if gain <= 0.0 else gain)


def disk_margin(sys: Any, gain: Any = None, skew: float = 0.0) -> DiskMargin:
    """Return a proved disk margin of the loop sys·gain under negative feedback, u = -gain·y.

    α = 1/max_ω ‖D(S + (skew-1)/2 I)D⁻¹‖ with S = (I + sys·gain)⁻¹ and a D for every frequency (D = I for one channel);
    `alpha_varying` has one D for all of them. Every band of frequencies is proved, so no peak between grid points is
    missed, and α is never above the true margin.

    Parameters
    ----------
    sys : plant as `as_realization` takes it; its outputs are perturbed. For perturbations of a plant's inputs give
        the controller as `sys` and the plant as `gain`.
    gain : array (inputs, outputs), or a linear controller; None is the identity: `sys` is then the whole loop.
    skew : 0 balances gain increase and decrease; > 0 leaves more room for increase, < 0 for decrease (in dB).

    Raises
    ------
    ValueError
        For an unstable, marginal or ill-posed loop (it has no margin), bad data or shapes.

    Source: Seiler, Packard & Gahinet 2020, "An introduction to disk margins", Theorem 1, eq. (11)-(14); scalings as in
    Doyle 1982, exact up to three channels (Packard & Doyle 1993, section 9); constant ones as in Shamma 1994.

    Examples
    --------
    >>> import control
    >>> loop = control.tf([25], [1, 10, 10, 10])     # the example of the source's section 2
    >>> margin = disk_margin(loop)
    >>> print(round(margin.alpha, 3), [round(g, 2) for g in margin.gain_margin])
    0.458 [0.63, 1.59]
    """
    skew = finite_skew(skew)
    plant = as_realization(sys, "sys")
    loop = open_loop(plant, as_realization(np.eye(plant.outputs) if gain is None else gain, "gain"))
    n = loop.outputs
    whole = _margin(loop, tuple(range(n)), skew)
    if n == 1:
        return whole
    singles = tuple(_margin(loop, (i,), skew) for i in range(n))
    return DiskMargin(**{**whole.__dict__, "channels": singles})


def finite_skew(skew: Any) -> float:
    """Return a skew as a finite number, or say that it is none."""
    value = finite_number(skew, "skew")
    if not abs(value) <= _MOST_SKEWED:
        raise ValueError(
            f"skew is {skew!r}; expected a number between -{_MOST_SKEWED:g} and {_MOST_SKEWED:g} (0 is balanced)"
        )
    return value


def _sensitivity(loop: Realization, channels: tuple[int, ...], skew: float) -> Realization:
    """Return S + (skew-1)/2 I seen at the chosen channels, all channels being closed."""
    closed = close_loop(loop, MidRad(-np.eye(loop.outputs)))
    if closed is None:
        raise ValueError(
            "the loop is ill-posed: I + sys·gain is singular at infinite frequency, up to rounding. Break the "
            "algebraic loop, for example with the actuator's pole or a sample of delay"
        )
    # From a signal added to the loop's input to that input: S = I - L(I + L)⁻¹.
    pick = np.eye(loop.outputs)[list(channels)]
    rows, columns = MidRad(pick), MidRad(np.ascontiguousarray(pick.T))
    shift = MidRad(0.5 * (skew + 1.0) * np.eye(len(channels)))
    return Realization(
        closed.a,
        closed.b @ columns,
        -(rows @ closed.c),
        shift - rows @ closed.d @ columns,
        closed.sample_time,
        closed.timebase,
        static=closed.static,
    )


def _margin(loop: Realization, channels: tuple[int, ...], skew: float) -> DiskMargin:
    system = _sensitivity(loop, channels, skew)
    spectrum = internal_stability(system.a, discrete=system.is_discrete)
    if not spectrum.is_stable:
        raise ValueError(
            f"the closed loop is {spectrum.stability}: its pole {spectrum.critical:.6g} is not provably stable, so it "
            "has no margin. Check the sign (feedback is negative, u = -gain·y) and stabilise the loop first"
        )
    shapes = ((1, 1),) * len(channels)
    norm, d = scaled_norm(system, spectrum, shapes)
    if not math.isfinite(norm.value):
        raise ValueError(f"no finite bound of the loop's sensitivity could be proved: {norm.note}")
    varying = math.inf if norm.value == 0.0 else math.nextafter(1.0 / norm.value, 0.0)
    if len(channels) == 1:
        omega, peak = norm.frequency, complex(system.response(norm.frequency)[0, 0])
        attained, delta = math.inf, np.full((1, 1), np.nan, dtype=np.complex128)
        if peak != 0.0:
            attained, delta = 1.0 / abs(peak), np.full((1, 1), 1.0 / peak)
        alpha, outside, moving = varying, max(attained, varying), None
    else:
        problem = DiskLoop(system, len(channels), 0.0)
        found = pointwise_alpha(problem, varying, norm.frequency, d)
        alpha = found.alpha
        worst = smallest_disks(problem, found)
        attained = math.inf if worst is None else worst.alpha
        omega = found.frequency if worst is None else worst.frequency
        delta = np.full((len(shapes),) * 2, np.nan, dtype=np.complex128)
        if worst is not None:
            delta = attained * block_diagonal(worst.blocks)
        moving = None if attained <= varying * (1.0 + 1e-6) else periodic_destabilization(problem, d, varying)
        outside = attained if moving is None else min(attained, moving.value)
    return DiskMargin(
        alpha=alpha,
        alpha_varying=varying,
        alpha_upper=max(attained, alpha),
        falsified_varying=outside if math.isfinite(outside) else math.nan,
        skew=skew,
        gain_margin=gain_interval(alpha, skew),
        phase_margin=phase_of_disk(alpha, skew),
        frequency=omega,
        perturbation=delta,
        loop=loop if len(channels) == loop.outputs else None,
        varying=moving,
        counts_samples=loop.counts_samples,
        channel_names=tuple(loop.output_names[i] for i in channels) if loop.output_names else (),
    )
