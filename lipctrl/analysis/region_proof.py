"""The proof of an ellipsoidal region from stored numbers: its limits, the slopes in its box, and both inequalities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.analysis.cells import plant_slopes
from lipctrl.analysis.ellipsoid import Limit, prove_limit
from lipctrl.analysis.lure_loop import LureLoop, neuron_slopes, offset_of, weighted_reach
from lipctrl.analysis.saturated_region import SaturatedLoop, SectorEllipsoid, is_exact
from lipctrl.analysis.slope_loop import prove_loop
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import NotProvedError, prove_positive_semidefinite

if TYPE_CHECKING:
    from lipctrl.analysis.region import Evidence, RegionOfAttraction


def limits_of(
    lure: LureLoop, form: Any, actuator: tuple[np.ndarray, np.ndarray], cage: np.ndarray | None
) -> list[Limit]:
    """Return what must hold in the ellipsoid: arguments, commands and states (cage: of deviations) within limits."""
    limits: list[Limit] = []
    columns = np.arange(lure.action_rows.shape[1])
    room_z = (form.z_max - np.abs(lure.argument)) * (1.0 - 1e-15) - lure.rest.argument
    # The nearer of two limits that need not be symmetric.
    room_u = np.minimum(lure.action - actuator[0], actuator[1] - lure.action)
    room_u = room_u * (1.0 - 1e-15) - lure.rest.action
    for rows, room, what in (
        (lure.argument_rows, room_z, "the plant's slope region"),
        (lure.action_rows, room_u, "the actuator limit"),
    ):
        for i in np.flatnonzero(room < np.inf):
            limits.append(Limit(rows.take(np.array([i]), columns), float(room[i]), what))
    if cage is not None:
        eye = np.eye(lure.loop.states, len(columns))
        for i in np.flatnonzero(cage < np.inf):
            limits.append(Limit(Enclosure.exact(eye[i : i + 1]), float(cage[i]), "the state limits"))
    for limit in limits:
        if not limit.bound > 0.0:
            raise ValueError(
                f"the operating point {np.round(lure.state, 6).tolist()} with the action "
                f"{np.round(lure.action, 6).tolist()} already violates {limit.what}; widen the limits or train a "
                "policy that rests inside them"
            )
    return limits


def local_slopes(
    lure: LureLoop, form: Any, actuator: tuple[np.ndarray, np.ndarray], cage: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes of all channels while |Δx| ≤ cage and the applied action is within the actuator's limits."""
    lower, upper = neuron_slopes(lure, form, cage)
    swing = np.maximum(lure.action - actuator[0], actuator[1] - lure.action)
    reach = weighted_reach(form.C_z, cage) + weighted_reach(form.D_zu, swing)
    reach = np.minimum(reach * (1.0 + 1e-9) + lure.rest.argument, form.z_max + np.abs(lure.argument))
    known, k = np.isfinite(reach), lure.plant_channels
    reach = np.where(known, reach, 0.0)
    low, high = plant_slopes(form, lure.argument - reach, lure.argument + reach)
    lower[:k] = np.where(known, np.maximum(lower[:k], low), lower[:k])
    upper[:k] = np.where(known, np.minimum(upper[:k], high), upper[:k])
    return lower, upper


def prove_within(shape: np.ndarray, radius: float, inner: np.ndarray) -> None:
    """Prove that the ball of a radius in the norm of `shape` lies in the ellipsoid of `inner`, or raise."""
    size = Enclosure.exact(np.full((1, 1), radius))
    gap = Enclosure.exact(shape) - size.times(size).times(Enclosure.exact(inner))
    prove_positive_semidefinite({(0, 0): gap}, [len(inner)])


def prove_incremental(lure: LureLoop, region: RegionOfAttraction, evidence: Evidence) -> None:
    cage, form = evidence.cage, region.form
    limits = limits_of(lure, form, evidence.actuator, cage)
    known = lure.loop.lower, lure.loop.upper
    if cage is not None and np.isfinite(cage).all():
        known = local_slopes(lure, form, evidence.actuator, cage)
    if (region.slopes[0] > known[0]).any() or (region.slopes[1] < known[1]).any():
        raise NotProvedError("a slope interval is narrower than what was derived")
    if region.is_global != (not limits) or len(limits) != len(evidence.limits):
        raise NotProvedError("the limits are not those that were proved")
    loop = lure.loop.with_slopes(*region.slopes)
    prove_loop(loop, region.shape, region.multipliers, region.decay)
    for limit, row in zip(limits, evidence.limits, strict=True):
        prove_limit(loop, limit, region.shape, row)
    if not offset_of(lure, region.shape, region.decay) <= region.offset < 0.5:
        raise NotProvedError("the equilibrium is not proved to be within the offset")


def prove_saturated(lure: LureLoop, region: RegionOfAttraction, evidence: Evidence) -> None:
    cage, inner, comparison = evidence.cage, evidence.inner, region.comparison
    if cage is None or comparison is None or region.actuator is None or region.is_global:
        raise NotProvedError("a region beyond saturation needs its box, comparison gain and actuator")
    exact = is_exact(lure, region.form)
    if not (0.0 if exact else offset_of(lure, region.shape, region.decay)) <= region.offset < 0.5:
        raise NotProvedError("the equilibrium is not proved to be within the offset")
    problem = SaturatedLoop.of(lure, region.form, region.actuator)
    found = SectorEllipsoid(
        region.shape, region.slopes, region.multipliers, comparison, region.offset, cage, evidence.limits
    )
    problem.prove(found, list(evidence.limits), region.decay)
    if exact:
        return
    if inner is None or not (
        inner.incremental and inner.recheck() and np.array_equal(inner.center, region.center)
    ):
        raise NotProvedError("no region of contraction about the equilibrium is proved")
    same = inner.evidence is not None and all(
        np.array_equal(a, b) for a, b in zip(inner.evidence.actuator, region.actuator, strict=True)
    )
    if not (same and inner.form is region.form and inner.graph is region.graph):
        raise NotProvedError("the region of contraction belongs to another loop")
    prove_within(region.shape, region.offset, inner.shape)
