"""Classical gain, phase and delay margins, as python-control computes them, for stable loops only."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.analysis.interconnection import open_loop
from lipctrl.analysis.loop import close_loop
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.spectrum import Stability, internal_stability
from lipctrl.analysis.units import in_units
from lipctrl.analysis.verdict import Verdict


@dataclass(frozen=True)
class ClassicalMargins:
    """Gain, phase and stability margin of one linear loop, negative feedback, or the verdict why there are none.

    `gain` [ratio] and `phase` [rad] are those nearest to the critical point, `modulus` is the smallest distance
    |1 + L|, with their frequencies [rad/s]; NaN unless `verdict` is certified (the loop is proved stable). They are
    non-incremental and computed by `control.stability_margins`, not proved.
    """

    verdict: Verdict
    gain: float = math.nan
    phase: float = math.nan
    modulus: float = math.nan
    frequencies: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    counts_samples: bool = field(default=False, repr=False, compare=False, kw_only=True)

    def __str__(self) -> str:
        if self.verdict is not Verdict.CERTIFIED:
            return f"none: the loop is {self.verdict}"
        decibel = 20.0 * math.log10(self.gain) if 0.0 < self.gain < math.inf else math.inf
        shown = (f"gain {self.gain:.4g} ({decibel:.2f} dB)", f"phase {math.degrees(self.phase):.2f}°",
                 f"modulus {self.modulus:.4g}")  # fmt: skip
        # A margin that no frequency limits is infinite; python-control gives it the frequency nan.
        text = ", ".join(
            text + (f" at {omega:.4g} rad/s" if not math.isnan(omega) else " (nowhere)")
            for text, omega in zip(shown, self.frequencies, strict=True)
        )
        return in_units(text, self.counts_samples)


def classical_margins(sys: Any, gain: Any = 1.0) -> ClassicalMargins:
    """Return the classical margins of one loop sys·gain (negative feedback), guarded by a proof of its stability.

    python-control's function gives numbers for unstable loops as well; here they come with the verdict `certified`
    or not at all.

    Parameters
    ----------
    sys : plant as `as_realization` takes it; gain : array (inputs, outputs) or a linear controller, such that
        sys·gain has one channel.

    Raises
    ------
    ValueError
        For bad data or a loop with several channels (see `disk_margin`, `incremental_phase_margin`).

    Examples
    --------
    >>> import control
    >>> margins = classical_margins(control.tf([25], [1, 10, 10, 10]))
    >>> print(round(margins.gain, 3), round(margins.phase, 4), round(margins.modulus, 4))
    3.6 0.5081 0.4021
    >>> print(classical_margins(control.tf([1], [1, -1]), 0.5))
    none: the loop is nominally unstable
    """
    loop = open_loop(as_realization(sys, "sys"), as_realization(gain, "gain"))
    if loop.outputs != 1:
        raise ValueError(
            f"sys·gain has {loop.outputs} channels; classical margins are those of a single loop. For several at once "
            "use disk_margin, incremental_phase_margin or incremental_delay_margin"
        )
    closed = close_loop(loop, MidRad(-np.eye(1)))
    if closed is None:
        return ClassicalMargins(Verdict.ILL_POSED)
    stability = internal_stability(closed.a, discrete=closed.is_discrete).stability
    if stability is not Stability.STABLE:
        unstable = stability is Stability.UNSTABLE
        return ClassicalMargins(Verdict.NOMINALLY_UNSTABLE if unstable else Verdict.INCONCLUSIVE)
    control: Any = importlib.import_module("control")
    model = control.ss(loop.A, loop.B, loop.C, loop.D, loop.sample_time)
    gain_margin, phase, modulus, *where = (float(x) for x in control.stability_margins(model))
    w_phase_crossing, w_gain_crossing, w_modulus = where
    # python-control looks for stationary points only; the curve may be nearest where it ends.
    end = abs(1.0 + complex(loop.response(loop.highest_frequency)[0, 0]))
    if end < modulus:
        modulus, w_modulus = end, loop.highest_frequency
    return ClassicalMargins(
        Verdict.CERTIFIED,
        gain_margin,
        math.radians(phase),
        modulus,
        (w_phase_crossing, w_gain_crossing, w_modulus),
        counts_samples=loop.counts_samples,
    )
