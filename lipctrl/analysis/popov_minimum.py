"""The smallest eigenvalue of a Popov function over all frequencies, bounded from below with proof."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lipctrl.analysis.kyp import kyp_proof
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.popov_levels import LevelTest, level_test
from lipctrl.analysis.sweep import ModalSweep, Modes
from lipctrl.arithmetic import UNIT

# Up to this many states a Riccati equation is affordable as a second way to a proof; where A has no basis of
# eigenvectors, as with delays, it is the only way, and worth more.
_KYP_STATES = 40
_KYP_STATES_DEFECTIVE = 120
# Rounds of better samples before the gap grows: convergence is quadratic, so more only chase rounding.
_SAMPLES = 30


@dataclass(frozen=True)
class PopovMinimum:
    """min over ω of λ_min(Φ): `lower` is proved (-inf if nothing could be), `upper` was sampled at `frequency`."""

    lower: float
    upper: float
    frequency: float


def popov_minimum(
    form: PopovForm,
    scale: float,
    *,
    modes: Modes | None = None,
    tightest: float = 1e-9,
    loosest: float = 1.0,
) -> PopovMinimum:
    """Bound min over ω of λ_min(Φ(ω)) from both sides, the lower bound with proof.

    The level-set iteration of Bruinsma & Steinbuch: samples give an upper bound v; a level just below it,
    v - gap·scale, is tested; frequencies where the test fails give better samples; the loop ends with a proof.
    The gap grows from `tightest` to `loosest` when rounding forbids less. A must have no eigenvalue on the
    boundary. `scale = 0` means the magnitude of v. `modes` are eigenvalues and eigenvectors of A, if known.
    """
    sweep = ModalSweep.of(form, modes)
    where = 0.0 if sweep is None else sweep.minimizer()
    best = form.lowest(where)
    gap = tightest if sweep is None else max(tightest, _attainable_gap(form, sweep, where))
    failed, samples = 0.0, 0
    # A minimum of exactly zero has no magnitude: only a scale helps.
    while gap <= loosest and math.isfinite(best) and (scale or best != 0.0):
        depth = gap * (scale or abs(best))
        test = level_test(form, best - depth)
        if test.proved:
            return PopovMinimum(_tighten(form, best, failed, depth), best, where)
        if sweep is not None:
            improved, best, where = _improve(form, test, sweep, best, where)
            samples += 1
            if improved and samples < _SAMPLES:
                continue
            affordable = _KYP_STATES_DEFECTIVE if sweep.direct else _KYP_STATES
            if form.states <= affordable and kyp_proof(form, best - depth, best, sweep):
                return PopovMinimum(best - depth, best, where)
        failed = depth
        gap *= _growth(form, test, best, where, depth)
    return PopovMinimum(-math.inf, best, where)


def _tighten(form: PopovForm, best: float, failed: float, proved: float) -> float:
    """Return a higher proved level than best - proved, given that best - failed could not be proved."""
    for _ in range(2):
        between = math.sqrt(failed * proved)
        if not 0.0 < 3.0 * failed < between:
            break
        if level_test(form, best - between).proved:
            proved = between
        else:
            failed = between
    return best - proved


def _attainable_gap(form: PopovForm, sweep: ModalSweep, omega: float) -> float:
    """Estimate the relative gap that rounding allows: a resonance amplifies it by ‖A‖ over its decay rate."""
    if form.states <= _KYP_STATES or math.isinf(omega):
        return 0.0
    distance = np.abs(form.system.point(omega) - sweep.poles).min()
    return min(4e3 * UNIT * float(np.abs(sweep.poles).max()) / max(distance, 1e-300), 1e-6)


def _growth(form: PopovForm, test: LevelTest, best: float, where: float, depth: float) -> float:
    """Return by what factor to enlarge the gap: until Φ rises by as much within the radius of the discs."""
    if test.radii.size == 0 or not np.isfinite(test.radii).all() or depth == 0.0:
        return 10.0
    critical = int(np.argmin(np.abs(np.abs(test.crossings) - abs(where))))
    omega, radius = float(test.crossings[critical]), 0.7 * float(test.radii[critical])
    rise = min(form.lowest(omega - radius), form.lowest(omega + radius)) - best
    return min(max(rise / depth, 4.0), 100.0)


def _improve(
    form: PopovForm, test: LevelTest, sweep: ModalSweep, best: float, where: float
) -> tuple[bool, float, float]:
    """Sample Φ at the crossings and between them; say whether anything lower than `best` was found."""
    points = np.unique(test.crossings if form.two_sided else np.abs(test.crossings))
    if points.size == 0:
        return False, best, where
    points = np.unique(np.concatenate([points, (points[1:] + points[:-1]) / 2.0]))
    start = best
    values = sweep.lowest(points)
    for omega in points[np.argsort(values)[:2]]:
        sample = form.lowest(float(omega))
        if sample < best:
            best, where = sample, float(omega)
    return best < start - 1e-12 * abs(start), best, where
