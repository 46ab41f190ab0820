"""The gain that several independent perturbations see, from both sides: a scaled norm, proved, and worst blocks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lipctrl.analysis.blocks import Shapes, WorstBlocks, best_scaling, spread, worst_blocks
from lipctrl.analysis.hinf import HinfNorm, bounded_norm
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.spectrum import SpectrumReport
from lipctrl.analysis.sweep import ModalSweep


def scaled_norm(system: Realization, spectrum: SpectrumReport, shapes: Shapes) -> tuple[HinfNorm, np.ndarray]:
    """Return the proved norm of D_q M D_w⁻¹ for a good constant D, by adding the frequency of each proved peak."""
    d = np.ones(len(shapes))
    norm = bounded_norm(system, spectrum)
    best, kept = norm, d
    points = {0.0}
    for _ in range(12 if len(shapes) > 1 else 0):
        if not math.isfinite(norm.frequency) and not system.is_discrete:
            points.add(math.inf)
        else:
            points.add(norm.frequency)
        responses = np.stack([system.response(w) for w in sorted(points)])
        if not np.isfinite(responses).all():
            break
        d, low = best_scaling(responses, shapes, kept)
        out = MidRad(np.diag(spread(d, [c for _, c in shapes])))
        into = MidRad(np.diag(1.0 / spread(d, [r for r, _ in shapes])))
        norm = bounded_norm(_rescaled(system, out, into), spectrum)
        if norm.value < best.value:
            best, kept = norm, d
        if best.value <= low * (1.0 + 1e-7):
            break
    return best, kept


def _rescaled(system: Realization, out: MidRad, into: MidRad) -> Realization:
    # 1/d is rounded, so D_w⁻¹ is not exactly the inverse of D_q: the product d·(1/d) is at most 1 + u away from 1,
    # which the factor on the outputs covers.
    margin = MidRad(np.eye(out.shape[0]) * (1.0 + 4e-16))
    left = margin @ out
    return replace(system, b=system.b @ into, c=left @ system.c, d=left @ system.d @ into)


def worst_frequency(system: Realization, shapes: Shapes, peak: float) -> tuple[float, WorstBlocks]:
    """Return the frequency at which the largest structured gain was found, and its blocks."""
    p, m = system.outputs, system.inputs
    sweep = ModalSweep.of(PopovForm(system, MidRad.eye(p), MidRad.zeros(p, m), MidRad.zeros(m, m)))
    grid = np.zeros(1) if sweep is None else sweep.grid()
    grid = np.unique(np.append(grid[grid >= 0.0], [w for w in (peak,) if math.isfinite(w)]))
    found = [(w, worst_blocks(system.response(float(w)), shapes, starts=2)) for w in grid]
    omega, best = max(found, key=lambda pair: pair[1].value)
    k = int(np.argmin(np.abs(grid - omega)))
    left, right = float(grid[max(k - 1, 0)]), float(grid[min(k + 1, len(grid) - 1)])
    for _ in range(6):
        if not right > left:
            break
        fine = np.linspace(left, right, 9)
        values = [worst_blocks(system.response(float(w)), shapes, starts=3) for w in fine]
        j = int(np.argmax([v.value for v in values]))
        if values[j].value > best.value:
            omega, best = float(fine[j]), values[j]
        left, right = float(fine[max(j - 1, 0)]), float(fine[min(j + 1, 8)])
    # A peak at zero frequency up to rounding is one there: static blocks realise it.
    static = worst_blocks(system.response(0.0), shapes, starts=3)
    return (0.0, static) if static.value >= best.value * (1.0 - 1e-9) else (omega, best)
