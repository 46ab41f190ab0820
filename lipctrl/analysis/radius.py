"""Stability radii: how far a linear policy may be from its nominal gain before a loop can be lost."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from lipctrl.analysis.arguments import one_of, positive_numbers
from lipctrl.analysis.ball import ScaledBall
from lipctrl.analysis.destabilize import Destabilization, policy_destabilization
from lipctrl.analysis.falsify_linear import (
    LinearPolicy,
    all_pass,
    nearest_beyond,
    unstable_pole,
    worst_matrix,
)
from lipctrl.analysis.hinf import HinfNorm, bounded_norm
from lipctrl.analysis.loop import NominalLoop, nominal_loop, real_gain
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.real_radius import real_peak, scalar_ends, worst_real
from lipctrl.analysis.scales import Scales
from lipctrl.analysis.sweep import ModalSweep


def stability_radius(
    sys: Any,
    gain: Any = None,
    field: Literal["complex", "real"] = "complex",
    *,
    observation_scale: Any = None,
    action_scale: Any = None,
) -> float:
    """Return the largest ρ such that u = -gain·y + φ(y) is stable for all φ of that size, from the safe side.

    `field="complex"`: ρ = 1/‖T‖_∞, T = P(I + gain·P)⁻¹ (Hinrichsen & Pritchard 1986). Every φ with incremental ℓ₂
    gain below the value, nonlinear, time-varying or dynamic, leaves the loop incrementally stable; the value is
    itself certified and below the exact radius by about 1e-9 relative, where rounding allows.
    `field="real"`: φ(y) = Δy with a constant real matrix Δ, ‖Δ‖ < ρ (Qiu et al. 1995). It is at least the complex
    radius and says nothing about nonlinear φ. For one input and one output it is proved (and 1e4 times the complex
    radius means at least that); otherwise its level sets are found numerically, not proved.

    Parameters
    ----------
    sys : plant P as `as_realization` takes it; gain : (inputs, outputs) array or None (zero).
        Sign: negative feedback for `gain`, as in u = -Ky + φ(y).
    observation_scale, action_scale : sizes s, a of the channels: ρ is then the largest gain of f in
        φ(y) = a ∘ f(y / s), as in `ScaledBall`, which allows much more than one radius for all units, and never less.
        Powers of two lose nothing, others less than a factor of 2 for each of s and a.

    Returns 0 where the nominal loop is not provably well posed and stable (hidden modes included); inf where
    no φ can act, as with T = 0.

    Raises
    ------
    ValueError
        For bad plant data, a gain of the wrong shape, or an unknown field.

    Examples
    --------
    >>> import control
    >>> print(f"{stability_radius(control.tf([1], [1, -1]), gain=3.0):.6f}")
    2.000000
    """
    one_of(field, ("complex", "real"), "field")
    if observation_scale is not None or action_scale is not None:
        return _scaled_radius(sys, gain, field, observation_scale, action_scale)
    loop, norm = _nominal(sys, gain)
    if not math.isfinite(norm.value) or loop.system is None:
        return 0.0
    if norm.value == 0.0:
        return math.inf
    if field == "real" and _is_scalar(loop.system):
        return min(map(abs, scalar_ends(loop.system, norm)))
    peak = norm.value if field == "complex" else real_peak(loop.system, norm)
    return math.inf if peak == 0.0 else math.nextafter(math.nextafter(1.0 / peak, 0.0), 0.0)


def _scaled_radius(sys: Any, gain: Any, field: Literal["complex", "real"], s: Any, a: Any) -> float:
    plant = as_realization(sys, "sys")
    k = np.zeros((plant.inputs, plant.outputs)) if gain is None else real_gain(gain)
    nominal_loop(plant, -k)  # refuses a gain that does not fit
    # The ball of radius 1: rounding its scales to powers of two makes it larger by a factor.
    unit = ScaledBall(-k, 1.0, s, a)
    radius = stability_radius(unit.scales.plant(plant), unit.scales.gain(k), field)
    exact = unit.radius == 1.0 or radius == math.inf
    return radius if exact else math.nextafter(radius / unit.radius, 0.0)


def worst_deviation(
    sys: Any,
    gain: Any = None,
    field: Literal["complex", "real"] = "complex",
    *,
    observation_scale: Any = None,
    action_scale: Any = None,
) -> Destabilization:
    """Return the smallest linear φ found with which u = -gain·y + φ(y) is unstable: what `stability_radius` stops.

    `field="complex"`: an all-pass filter (static where the peak is at zero frequency) of ‖φ‖_∞ = `.value`.
    `field="real"`: a constant real matrix φ(y) = Δy, ‖Δ‖ = `.value`, in `.matrix` (Qiu et al. 1995).
    `.simulate()` runs the loop with φ a little smaller and a little larger.

    Parameters
    ----------
    sys, gain : as for `stability_radius`. Sign: negative feedback for `gain`.
    observation_scale, action_scale : sizes s, a of the channels, any positive numbers: `.value` is then the gain of f
        in the φ(y) = a ∘ f(y / s) whose f is smallest; `.matrix` and `.policy` are in raw units.

    Raises
    ------
    ValueError
        For bad data, an unknown field, a nominal loop that is not stable, or where nothing destabilises.

    Examples
    --------
    >>> import control
    >>> worst = worst_deviation(control.tf([1], [1, -1]), gain=3.0, field="real")
    >>> print(round(worst.value, 6), worst.matrix.round(6))
    2.0 [[2.]]
    """
    one_of(field, ("complex", "real"), "field")
    loop, norm = _nominal(sys, gain)
    if not math.isfinite(norm.value) or loop.system is None or loop.spectrum is None:
        raise ValueError(f"the nominal loop is not stable ({norm.note}); it has no stability radius")
    if norm.value == 0.0:
        raise ValueError("no deviation acts on this loop (T = 0)")
    scales = _sizes(loop.system, observation_scale, action_scale)
    seen = _seen(loop.system, scales)
    if field == "real" and _is_scalar(loop.system):
        found = _real_number(loop, norm, scales)
    else:
        search = _complex if field == "complex" else _real
        peak = norm if scales.trivial else bounded_norm(seen, loop.spectrum)
        found = search(loop, seen, peak.frequency, scales)
    if found is None:
        raise ValueError(f"no {field} deviation was found that destabilises this loop")
    return found


def _nominal(sys: Any, gain: Any) -> tuple[NominalLoop, HinfNorm]:
    plant = as_realization(sys, "sys")
    k = np.zeros((plant.inputs, plant.outputs)) if gain is None else real_gain(gain)
    loop = nominal_loop(plant, -k)
    return loop, loop.norm()


def _sizes(system: Realization, observation_scale: Any, action_scale: Any) -> Scales:
    given = (1.0 if size is None else size for size in (observation_scale, action_scale))
    return Scales(
        positive_numbers(next(given), system.outputs, "observation_scale"),
        positive_numbers(next(given), system.inputs, "action_scale"),
    )


def _seen(system: Realization, scales: Scales) -> Realization:
    """Return a loop between scaled signals, rounded: enough to search on, as every find is tried in raw units."""
    if scales.trivial:
        return system
    into, out = scales.action[None, :], 1.0 / scales.observation[:, None]
    with np.errstate(over="ignore"):  # refused below
        b, c, d = system.B * into, out * system.C, out * system.D * into
    if not all(np.isfinite(matrix).all() for matrix in (b, c, d)):
        raise ValueError("the scales are too large or too small for this plant: a scaled entry overflows")
    return replace(system, b=MidRad(b), c=MidRad(c), d=MidRad(d))


def _is_scalar(system: Realization) -> bool:
    return system.inputs == system.outputs == 1


def _real_number(loop: NominalLoop, norm: HinfNorm, scales: Scales) -> Destabilization | None:
    """Return the first unstable k beyond the nearer end of the proved interval, then beyond the other one."""
    assert loop.system is not None
    for k in sorted(scalar_ends(loop.system, norm), key=abs):
        delta = np.full((1, 1), k)
        size = abs(k) * float(scales.observation[0] / scales.action[0])
        found = _scaled_until_unstable(loop, LinearPolicy.static(delta), size, delta)
        if found is not None:
            return found
    return None


def _complex(loop: NominalLoop, seen: Realization, omega: float, scales: Scales) -> Destabilization | None:
    delta = worst_matrix(seen.response(omega))
    if not np.isfinite(delta).all():
        return None
    policy = scales.raw_policy(all_pass(delta, omega, loop.plant.sample_time))
    return _scaled_until_unstable(loop, policy, float(np.linalg.norm(delta, 2)), scales.raw_gain(delta))


def _real(loop: NominalLoop, seen: Realization, peak: float, scales: Scales) -> Destabilization | None:
    """Look for the frequency of the smallest real Δ on a grid, and refine it."""
    system = seen
    p, m = system.outputs, system.inputs
    sweep = ModalSweep.of(PopovForm(system, MidRad.eye(p), MidRad.zeros(p, m), MidRad.zeros(m, m)))
    grid = np.zeros(1) if sweep is None else sweep.grid()
    top = system.highest_frequency
    points = [0.0, *grid[grid > 0.0], *(w for w in (peak, top) if math.isfinite(w))]
    grid = np.unique(np.concatenate([points, 0.5 * (np.sort(points)[1:] + np.sort(points)[:-1])]))
    for _ in range(10):
        deltas = [worst_real(system.response(float(w))) for w in grid]
        sizes = [math.inf if d is None else float(np.linalg.norm(d, 2)) for d in deltas]
        k = int(np.argmin(sizes))
        best = deltas[k]
        if best is None:
            return None
        left, right = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
        raw = scales.raw_gain(best)
        found = _scaled_until_unstable(loop, LinearPolicy.static(raw), sizes[k], raw)
        if right - left <= 1e-10 * right or (found is not None and grid[k] in (0.0, top)):
            break
        grid = np.unique(np.append(np.linspace(left, right, 13), grid[k]))
    return found


def _scaled_until_unstable(
    loop: NominalLoop, policy: LinearPolicy, size: float, matrix: np.ndarray
) -> Destabilization | None:
    plant: Realization = loop.plant

    def at(radius: float) -> LinearPolicy:
        return policy.scaled(radius / size).plus(loop.center)

    kind = "a constant real matrix" if policy.a.size == 0 else "an all-pass filter"

    def attempt(step: float) -> Destabilization | None:
        value = size * (1.0 + step)
        pole = unstable_pole(plant, at(value))
        words = ("deviation ‖φ‖", "", kind)
        return None if pole is None else policy_destabilization(plant, at, value, words, pole, matrix=matrix)

    return nearest_beyond(attempt)
