"""The incremental ℓ₂ gain of a loop of slope-restricted channels, from its own neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipctrl.analysis.ball import as_ball
from lipctrl.analysis.contraction import lyapunov_coordinates
from lipctrl.analysis.lmi import require_cvxpy, solved
from lipctrl.analysis.plant import as_realization
from lipctrl.analysis.policy_graph import policy_certificate, policy_graph
from lipctrl.analysis.region import RegionOfAttraction
from lipctrl.analysis.slope_loop import SlopeLoop, prove_loop, prove_well_posed, slope_loop
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import NotProvedError

# Entries whose squares float64 does not hold are not searched.
LARGEST = 1e150


def structured_gain(sys: Any, policy: Any) -> float:
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
    system = as_realization(sys, "sys")
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
    units = _Units.of(loop)
    if units is None:
        return math.inf
    found = _search(loop, units)
    if found is None:
        return math.inf
    level, p, multipliers = found
    for slack in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        gain = math.sqrt(level * (1.0 + slack))
        try:
            prove_loop(loop, p, multipliers, 1.0 if loop.is_discrete else 0.0, gain)
            prove_well_posed(loop, multipliers)
        except NotProvedError:
            continue
        return gain
    return math.inf


@dataclass(frozen=True)
class _Units:
    """Coordinates in which an input of size one moves states, channels and outputs by about one; a guess.

    `root` x are the states and `back` its inverse, channels are divided by `channels`, outputs by `output`.
    """

    root: np.ndarray
    back: np.ndarray
    channels: np.ndarray
    output: float

    @classmethod
    def of(cls, loop: SlopeLoop) -> _Units | None:
        """Measure the loop of middle slopes; None where it is unstable or beyond float64, so that nothing is proved."""
        maps = [m.middle() for m in (loop.a, loop.b, loop.c, loop.d, loop.e, loop.h, loop.y, loop.z, loop.j)]
        if not all(np.abs(m).max(initial=0.0) < LARGEST for m in maps):
            return None
        _, b, c, d, e, h, y, z, j = maps
        slopes = 0.5 * (loop.lower + loop.upper)
        middle = loop.frozen(slopes)
        if not np.isfinite(middle).all():
            return None
        poles = np.linalg.eigvals(middle)
        if np.abs(poles).max(initial=0.0) >= 1.0 if loop.is_discrete else poles.real.max(initial=-1.0) >= 0.0:
            return None
        inner = np.linalg.solve(
            np.eye(len(slopes)) - slopes[:, None] * d, slopes[:, None] * np.hstack([c, h])
        )
        n = loop.states
        by_x, by_r = inner[:, :n], inner[:, n:]
        root, back = lyapunov_coordinates(middle, 1.0 if loop.is_discrete else 0.0, loop.is_discrete)
        if root is None:
            root, back = np.eye(n), np.eye(n)
        points = _frequencies(poles, loop.is_discrete)
        inside, drive = root @ middle @ back, root @ (e + b @ by_r)
        x = np.linalg.solve(
            points[:, None, None] * np.eye(n) - inside, np.broadcast_to(drive, (len(points), *drive.shape))
        )
        v = (c + d @ by_x) @ back @ x + (h + d @ by_r)
        out = (y + z @ by_x) @ back @ x + (j + z @ by_r)
        size = _size(x)
        rows = np.sqrt((np.abs(v) ** 2).sum(axis=2)).max(axis=0, initial=0.0)
        shared = np.array([rows[loop.owner == k].max() for k in loop.owner])
        least = 1e-9 * float(shared.max(initial=0.0))
        channels = np.where(shared > least, shared, least or 1.0)
        return cls(root / size, back * size, channels, _size(out))


def _size(responses: np.ndarray) -> float:
    """Return the largest norm of the responses, or 1 where there is none."""
    largest = float(np.abs(responses).max(initial=0.0))
    return largest if largest > 0.0 else 1.0


def _frequencies(poles: np.ndarray, discrete: bool) -> np.ndarray:
    """Return some points on the border of stability, near the poles among them."""
    if discrete:
        return np.exp(1j * np.concatenate([np.linspace(0.0, np.pi, 17), np.abs(np.angle(poles))]))
    return 1j * np.concatenate([np.zeros(1), np.abs(poles), np.abs(np.imag(poles))])


def _search(loop: SlopeLoop, units: _Units) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Return (γ², P, multipliers) in the loop's own units, unverified; None where the solver failed."""
    cp = require_cvxpy()
    n, h, q = loop.states, loop.channels, loop.e.shape[1]
    size = n + h + q
    p = cp.Variable((n, n), symmetric=True) if n else None
    owners = int(loop.owner.max(initial=-1)) + 1
    lam = cp.Variable(max(owners, 1), nonneg=True)
    level = cp.Variable(nonneg=True)
    columns = np.hstack([np.ones(n), units.channels, np.ones(q)])

    def rows(maps: tuple[Enclosure, ...], left: np.ndarray) -> np.ndarray:
        x, w, r = (m.middle() for m in maps)
        return left @ np.hstack([x @ units.back, w, r]) * columns

    step = rows((loop.a, loop.b, loop.e), units.root)
    v = rows((loop.c, loop.d, loop.h), np.diag(1.0 / units.channels))
    out = rows((loop.y, loop.z, loop.j), np.eye(loop.y.shape[0]) / units.output)
    state, w, r = np.eye(n, size), np.eye(h, size, n), np.eye(q, size, n + h)
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
    if not solved(cp.Problem(cp.Minimize(level), constraints)):
        return None
    scale = units.output**2
    scaled = np.zeros((0, 0)) if p is None else np.asarray(p.value)
    found = scale * units.root.T @ scaled @ units.root
    weights = np.maximum(lam.value, 0.0)[loop.owner] / units.channels**2 if h else np.zeros(0)
    return scale * float(level.value), (found + found.T) / 2.0, scale * weights


__all__ = ["regional_gain", "structured_gain"]
