"""The incremental ℓ₂ gain of a loop of slope-restricted channels, from its own neurons."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lipctrl.analysis.ball import as_ball
from lipctrl.analysis.lmi import require_cvxpy, solved
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.policy_graph import policy_certificate, policy_graph
from lipctrl.analysis.region import RegionOfAttraction
from lipctrl.analysis.slope_loop import SlopeLoop, prove_loop, prove_well_posed, slope_loop
from lipctrl.positivity import NotProvedError

# Entries whose squares float64 does not hold are not searched.
LARGEST = 1e150


def structured_gain(plant: Any, policy: Any) -> float:
    """Return a proved bound of the incremental ℓ₂ gain from r (added to the plant's input) to y, or inf.

    u = π(y) + r, positive feedback. Minimises γ over P and the multipliers of the policy's own neurons (cvxpy with
    Clarabel), then proves the inequality of the returned number. An outer clip counts as neurons, so the bound holds
    with saturation; the bound for an `IncrementalBall` holds within its scope. inf means that nothing was proved.

    Raises
    ------
    ValueError
        For bad data, or a ball that is known on a box only. ImportError where cvxpy is not installed; it names the
        extra.

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> plant = control.ss([[1.1]], [[1.0]], [[1.0]], [[0.0]], True)
    >>> bend = rules.series(rules.elementwise("tanh", 1), rules.linear([[-0.5]]))
    >>> print(round(structured_gain(plant, rules.total(rules.linear([[-0.9]]), bend)), 3))
    1.429
    """
    system = as_realization(plant)
    as_ball(policy)
    graph = policy_graph(policy_certificate(policy))
    loop = slope_loop(system, graph)
    # None: the algebraic loop through the feed-through is not provably solvable.
    return math.inf if loop is None else _proved_gain(loop)


def regional_gain(region: RegionOfAttraction) -> float:
    """Return a proved incremental ℓ₂ gain from a disturbance added to the action to y, inside a region, or inf.

    It holds for pairs of trajectories that stay in the region while what the disturbance adds to the action keeps it
    within the actuator's limits and the plant's argument C_z x + D_zu u within z_max; the disturbances that do so are
    not bounded here.

    Raises
    ------
    ValueError
        For a region that is not incremental: its sectors say nothing about pairs of trajectories.

    Examples
    --------
    >>> from lipctrl import rules
    >>> from lipctrl.analysis import region_of_attraction
    >>> from lipctrl_envs import Pendulum
    >>> policy = rules.projection(rules.linear([[-20.0, -3.0]]), -5.0, 5.0)
    >>> region = region_of_attraction(Pendulum(), policy, incremental=True)
    >>> 0.0 < regional_gain(region) < 10.0
    True
    """
    if not region.incremental:
        raise ValueError(
            "the region is not incremental (sectors about one equilibrium); expected "
            "region_of_attraction(..., incremental=True), whose slopes hold for pairs"
        )
    from lipctrl.analysis.lure_loop import lure_loop

    lure = lure_loop(region.form, region.graph, region.center)
    return _proved_gain(lure.loop.with_slopes(*region.slopes))


def _proved_gain(loop: SlopeLoop) -> float:
    cp = require_cvxpy()
    n, h, q = loop.states, loop.channels, loop.e.shape[1]
    size = n + h + q
    p = cp.Variable((n, n), symmetric=True) if n else None
    owners = int(loop.owner.max(initial=-1)) + 1
    lam = cp.Variable(max(owners, 1), nonneg=True)
    level = cp.Variable(nonneg=True)
    step = np.hstack([m.middle() for m in (loop.a, loop.b, loop.e)])
    state, w, r = np.eye(n, size), np.eye(h, size, n), np.eye(q, size, n + h)
    v = np.hstack([m.middle() for m in (loop.c, loop.d, loop.h)])
    out = np.hstack([m.middle() for m in (loop.y, loop.z, loop.j)])
    if not all(np.abs(m).max(initial=0.0) < LARGEST for m in (step, v, out)):
        return math.inf
    total: Any = np.zeros((size, size))
    if p is not None and loop.is_discrete:
        total = state.T @ p @ state - step.T @ p @ step
    elif p is not None:
        cross = state.T @ p @ step
        total = -(cross + cross.T)
    if h:
        spread = cp.diag(np.eye(owners)[loop.owner] @ lam)
        low, high = w - loop.lower[:, None] * v, w - loop.upper[:, None] * v
        total = total + low.T @ spread @ high + high.T @ spread @ low
    total = total + level * (r.T @ r) - out.T @ out
    constraints = [0.5 * (total + total.T) >> 1e-8 * np.eye(size)]
    if p is not None:
        constraints.append(p >> 1e-8 * np.eye(n))
    problem = cp.Problem(cp.Minimize(level), constraints)
    if not solved(problem):
        return math.inf
    found = np.zeros((0, 0)) if p is None else (p.value + p.value.T) / 2.0
    multipliers = np.maximum(lam.value, 0.0)[loop.owner] if h else np.zeros(0)
    for slack in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        gain = math.sqrt(float(level.value) * (1.0 + slack))
        try:
            prove_loop(loop, found, multipliers, 1.0 if loop.is_discrete else 0.0, gain)
            prove_well_posed(loop, multipliers)
        except NotProvedError:
            continue
        return gain
    return math.inf


__all__ = ["regional_gain", "structured_gain"]
