"""Ellipsoidal regions of attraction for plants in Lur'e form under learned policies with actuator limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import positive_numbers
from lipctrl.analysis.ball import actuator_limits, as_ball
from lipctrl.analysis.ellipsoid import Limit, largest_ellipsoid, natural_widths, prove_limit
from lipctrl.analysis.lure_loop import (
    LureLoop,
    action_of,
    equilibrium_of,
    lure_loop,
    offset_of,
    read_form,
    widened,
)
from lipctrl.analysis.policy_graph import PolicyGraph, policy_certificate, policy_graph
from lipctrl.analysis.region_proof import (
    limits_of,
    local_slopes,
    prove_incremental,
    prove_saturated,
    prove_within,
)
from lipctrl.analysis.saturated_region import SaturatedLoop, SectorEllipsoid, is_exact, largest_saturated
from lipctrl.analysis.slope_loop import SlopeLoop, prove_loop
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import NotProvedError


@dataclass(frozen=True)
class Evidence:
    """What proves a region beside its matrices: limits of the applied actions, half-widths of a box, multipliers.

    `limits` has the multipliers of every limit; `inner` is the region of contraction in which the trajectories of a
    region beyond saturation end (None: its equilibrium is exact).
    """

    actuator: tuple[np.ndarray, np.ndarray]
    cage: np.ndarray | None
    limits: tuple[np.ndarray, ...]
    inner: RegionOfAttraction | None = None


@dataclass(frozen=True)
class RegionOfAttraction:
    """The ellipsoid {x: (x - center)ᵀP(x - center) ≤ 1}, proved invariant and contracting.

    Every trajectory from it stays in it, never saturates the actuator, never leaves the region in which the plant's
    slopes hold, and any two of them approach one another like `decay`ᵗ per sample in the norm of P; hence all
    converge to one equilibrium, within `offset` (in that norm) of `center`. The claim concerns the Lur'e form and
    the real-arithmetic map of the certificate's weights.
    `is_global` is True only if no limit restricts the claim (then P is only a metric and the volume is infinite).

    With `incremental` False the claim is weaker and the ellipsoid larger: every trajectory from it stays in it and
    converges to the one equilibrium, also while the actuator saturates at `actuator`; nothing is said about pairs of
    trajectories. `slopes` are then sectors about the equilibrium (plant, neurons, dead zones) and `comparison` is the
    gain G of the dead zones' argument Δu - GΔx.
    """

    center: np.ndarray
    shape: np.ndarray
    decay: float
    offset: float
    is_global: bool
    scope: tuple[str, ...]
    slopes: tuple[np.ndarray, np.ndarray] = field(repr=False)
    multipliers: np.ndarray = field(repr=False)
    form: Any = field(repr=False)
    graph: PolicyGraph = field(repr=False)
    incremental: bool = True
    actuator: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    comparison: np.ndarray | None = field(default=None, repr=False)
    evidence: Evidence | None = field(default=None, repr=False)

    @property
    def volume(self) -> float:
        """Return the volume of the ellipsoid in the units of the states; inf for a global claim."""
        if self.is_global:
            return math.inf
        n = len(self.center)
        unit = math.pi ** (n / 2.0) / math.gamma(n / 2.0 + 1.0)
        return unit / math.sqrt(float(np.linalg.det(self.shape)))

    @property
    def extent(self) -> np.ndarray:
        """Return the largest deviation of each state inside the ellipsoid."""
        return np.sqrt(np.diag(np.linalg.inv(self.shape)))

    def contains(self, states: Any) -> np.ndarray:
        """Whether states (..., n) lie in the ellipsoid."""
        d = np.asarray(states, dtype=np.float64) - self.center
        return np.einsum("...i,ij,...j->...", d, self.shape, d) <= 1.0

    def boundary(self, count: int = 200, seed: int = 0) -> np.ndarray:
        """Return points (count, n) of the boundary: evenly spaced in two dimensions, random directions in more."""
        n = len(self.center)
        if n == 2:
            angle = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
            sphere = np.column_stack([np.cos(angle), np.sin(angle)])
        else:
            sphere = np.random.default_rng(seed).standard_normal((count, n))
            sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
        root = np.linalg.cholesky(self.shape)
        return self.center + np.linalg.solve(root.T, sphere.T).T

    def simulate(self, states: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Run the loop from states (count, n); return states (steps+1, count, n) and the actions that were applied.

        Without any clip for an incremental claim (no command reaches a limit), with `actuator` for the other.
        """
        x = np.array(states, dtype=np.float64)
        path, actions = [x], []
        for _ in range(steps):
            u, _, x = action_of(self.form, self.graph, x, self.actuator)
            path.append(x)
            actions.append(u)
        return np.array(path), np.array(actions)

    def recheck(self) -> bool:
        """Prove the claim again from the stored numbers alone; False where they do not prove it."""
        if self.evidence is None or not self._is_complete(self.evidence) or not 0.0 < self.decay < 1.0:
            return False
        try:
            lure = lure_loop(self.form, self.graph, self.center)
            if self.incremental:
                prove_incremental(lure, self, self.evidence)
            else:
                prove_saturated(lure, self, self.evidence)
        except (NotProvedError, ValueError):
            return False
        return True

    def _is_complete(self, evidence: Evidence) -> bool:
        """Whether the stored numbers are numbers, as many as the loop asks for, and finite where they must be."""
        n, m = self.form.B.shape
        limits = ((side, (m,)) for side in (*evidence.actuator, *(self.actuator or ())))
        cages = [] if evidence.cage is None else [(evidence.cage, (n,))]
        known = [(self.center, (n,)), (self.shape, (n, n)), (self.decay, ()), (self.offset, ())]
        known += [(side, np.shape(self.multipliers)) for side in self.slopes]
        right = (
            np.asarray(part).dtype.kind == "f" and np.shape(part) == shape and not np.isnan(part).any()
            for part, shape in (*known, *limits, *cages)
        )
        return all(right) and all(bool(np.isfinite(part).all()) for part, _ in known)

    def __str__(self) -> str:
        extent = ", ".join(f"{e:.4g}" for e in self.extent)
        size = "global" if self.is_global else f"volume {self.volume:.6g}, half-widths ({extent})"
        kind = "region of attraction" if self.incremental else "region of attraction (not incremental)"
        return f"{kind}: {size}, contraction {self.decay:.6g} a step; {'; '.join(self.scope)}"


def region_of_attraction(
    plant: Any,
    policy: Any,
    *,
    action_limit: Any = None,
    state_limits: Any = None,
    decay: float = 0.9999,
    local: bool = True,
    incremental: bool = True,
) -> RegionOfAttraction:
    """Return a proved ellipsoidal region of attraction of large volume for u = π(y) on a plant in Lur'e form.

    One inequality with two kinds of multipliers, of the plant's nonlinearity on its region and of the policy's neurons,
    is searched by cvxpy with Clarabel for the largest ellipsoid in which nothing saturates, then proved with bounds on
    every rounding error (the solver is not trusted). By default all statements are incremental: slopes, not sectors.

    Parameters
    ----------
    plant : a Lur'e form (`lipctrl_envs.Plant.lure_form(...)`), or anything that has one; discrete time.
    policy : an object with `.certificate()`, a Certificate; sign u = π(y). Its outermost clip is taken as an action
        limit; clips inside it are neurons.
    action_limit : (m,) symmetric limits of the actuator in the units of the action, or None.
    state_limits : (n,) |x_i| that must not be exceeded, or None; with them `local` sharpens the neurons' slopes on a
        sequence of boxes (Yin, Seiler & Arcak 2021) and keeps the largest ellipsoid.
    decay : √α < 1, contraction a sample that must be proved; a number nearer 1 gives a larger region.
    incremental : False asks for convergence to the equilibrium alone. Commands may then exceed the actuator limits (a
        dead zone with a free comparison gain, Gomes da Silva & Tarbouriech 2005), plant and neurons enter by sectors
        about the equilibrium, and the ellipsoid is larger. The result says that it is not incremental.

    Raises
    ------
    ValueError
        For bad data, or when no ellipsoid is proved (the message says which step failed).
    ImportError
        Where cvxpy is not installed; names the extra.

    Examples
    --------
    >>> import lipctrl_envs
    >>> from lipctrl import rules
    >>> region = region_of_attraction(lipctrl_envs.Pendulum(), rules.linear([[-25.0, -8.0]]), action_limit=5.0)
    >>> bool(region.contains([0.1, 0.0]))
    True
    """
    if not (math.isfinite(decay) and 0.0 < decay < 1.0):
        raise ValueError(f"decay is {decay}; expected 0 < decay < 1, a contraction per sample")
    form = read_form(plant)
    n, m = form.B.shape
    graph = policy_graph(policy_certificate(policy), clip=False)
    if (graph.f0.shape[1], graph.f0.shape[0]) != (form.C.shape[0], m):
        raise ValueError(
            f"the policy maps {graph.f0.shape[1]} observations to {graph.f0.shape[0]} actions; the plant has "
            f"{form.C.shape[0]} and {m}"
        )
    actuator = _actuator(policy, action_limit, m)
    limit_x = (
        None if state_limits is None else positive_numbers(state_limits, n, "state_limits", finite=False)
    )
    lure = lure_loop(form, graph, equilibrium_of(form, graph, np.zeros(n)))
    # What is left around the equilibrium, rounded downwards.
    cage = None if limit_x is None else (limit_x - np.abs(lure.state)) * (1.0 - 1e-15)
    found: RegionOfAttraction | str
    if incremental:
        found = _largest(lure, form, actuator, cage, decay, local)
    else:
        found = _saturated(lure, form, actuator, cage, decay)
    if isinstance(found, str):
        raise ValueError(
            f"no region of attraction was proved: {found}. Lower the policy's gain, widen the limits, give "
            "state_limits so that slopes are bounded locally, or take decay nearer to 1"
        )
    return found


def _largest(
    lure: LureLoop,
    form: Any,
    actuator: tuple[np.ndarray, np.ndarray],
    cage: np.ndarray | None,
    decay: float,
    local: bool,
) -> RegionOfAttraction | str:
    """Return the largest incremental region over a sequence of boxes; a string says why there is none."""
    found = _try_box(lure, form, actuator, cage, decay, local=False)
    if not local or (cage is not None and not np.isfinite(cage).all()):
        return found
    boxes = [] if cage is None else [t * cage for t in (1.0, 0.7, 0.5, 0.35, 0.2)]
    if cage is None and isinstance(found, str):
        natural = _natural(lure.loop, limits_of(lure, form, actuator, None))
        boxes = [] if natural is None else [t * natural for t in (4.0, 1.0, 0.25)]
    for box in boxes:
        other = _try_box(lure, form, actuator, box, decay, local=True)
        if not isinstance(other, str) and (isinstance(found, str) or other.volume > found.volume):
            found = other
    return found


def _saturated(
    lure: LureLoop,
    form: Any,
    actuator: tuple[np.ndarray, np.ndarray],
    cage: np.ndarray | None,
    decay: float,
) -> RegionOfAttraction | str:
    """Return the largest region of convergence to the equilibrium with saturation; a string says why there is none."""
    top = np.full(len(lure.state), np.inf) if cage is None else cage
    if not (top > 0.0).all():
        return "the equilibrium is not inside the state limits"
    problem = SaturatedLoop.of(lure, form, actuator)
    found = largest_saturated(problem, top, decay)
    if isinstance(found, str):
        return found
    inner = None if is_exact(lure, form) else _ends_in_contraction(lure, form, actuator, found)
    if inner is None and not is_exact(lure, form):
        return "trajectories reach a neighbourhood of the equilibrium in which no contraction was proved"
    scope = ("about one equilibrium: sectors, nothing about pairs of trajectories",)
    if len(problem.zones):
        shown = [np.round(side, 6).tolist() for side in actuator]
        scope += (f"the actuator may saturate (applied actions within {shown[0]} … {shown[1]})",)
    if np.isfinite(problem.argument_room).any():
        scope += ("slopes of the plant on |C_z x + D_zu u| ≤ z_max",)
    if np.isfinite(found.cage).all():
        scope += (f"deviations within ±{np.round(found.cage, 6).tolist()}",)
    return RegionOfAttraction(
        lure.state, found.shape, decay, found.offset, False, scope, found.sectors, found.multipliers, form, lure.graph,
        incremental=False, actuator=actuator, comparison=found.comparison,
        evidence=Evidence(actuator, found.cage, found.limits, inner),
    )  # fmt: skip


def _ends_in_contraction(
    lure: LureLoop, form: Any, actuator: tuple[np.ndarray, np.ndarray], found: SectorEllipsoid
) -> RegionOfAttraction | None:
    """Return a proved region in which the loop contracts and which holds the ball where trajectories end, or None."""
    for size in (1e-2, 1e-4, 1e-6):
        inner = _try_box(lure, form, actuator, size * found.extent, 1.0 - 1e-6, local=True)
        if isinstance(inner, str):
            continue
        try:
            prove_within(found.shape, found.offset, inner.shape)
        except NotProvedError:
            continue
        return inner
    return None


def _actuator(policy: Any, given: Any, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits (low, high) of what reaches the plant: the given ones and the policy's own clip."""
    limit = np.full(m, np.inf) if given is None else positive_numbers(given, m, "action_limit", finite=False)
    return actuator_limits(limit, as_ball(policy).limits)


def _try_box(
    lure: LureLoop,
    form: Any,
    actuator: tuple[np.ndarray, np.ndarray],
    cage: np.ndarray | None,
    decay: float,
    *,
    local: bool,
) -> RegionOfAttraction | str:
    """Search and prove an ellipsoid of deviations within `cage`; a string says why there is none.

    With `local` the slopes of plant and neurons are those of that (finite) box.
    """
    loop = lure.loop
    if cage is not None and local:
        loop = loop.with_slopes(*local_slopes(lure, form, actuator, cage))
    loop = loop.with_slopes(*widened(loop.lower, loop.upper))
    limits = limits_of(lure, form, actuator, cage)
    free = not limits
    natural = _natural(loop, limits)
    if cage is not None and np.isfinite(cage).all():
        natural = cage if natural is None else np.minimum(cage, natural)
    scale = np.ones(loop.states) if natural is None else natural
    if free:
        rows = np.eye(loop.states, loop.states + loop.channels) / scale[:, None]
        limits = [Limit(Enclosure.exact(r[None, :]), 1.0, "scale") for r in rows]
    reason = "the search found no ellipsoid"
    for reserve in (1e-7, 1e-6, 1e-5, 1e-4):
        found = largest_ellipsoid(loop, limits, decay * (1.0 - 1e-7), reserve, scale)
        if found is None:
            continue
        p, multipliers = found.shape, found.multipliers
        try:
            prove_loop(loop, p, multipliers, decay)
            for limit, row in zip(limits, found.limit_multipliers, strict=True):
                prove_limit(loop, limit, p, row)
        except NotProvedError as error:
            reason = f"an ellipsoid was found but not proved ({error})"
            continue
        offset = offset_of(lure, p, decay)
        if not offset < 0.5:
            return "no equilibrium of the loop was found near the origin"
        scope = _scope(form, actuator, cage, free)
        return RegionOfAttraction(
            lure.state, p, decay, offset, free, scope, (loop.lower, loop.upper), multipliers, form, lure.graph,
            evidence=Evidence(actuator, cage, () if free else tuple(found.limit_multipliers)),
        )  # fmt: skip
    return reason


def _natural(loop: SlopeLoop, limits: list[Limit]) -> np.ndarray | None:
    rows = np.array([limit.row.middle()[0] / limit.bound for limit in limits])
    slopes = 0.5 * (loop.lower + loop.upper)
    return natural_widths(loop, slopes, rows.reshape(-1, loop.states + loop.channels))


def _scope(
    form: Any,
    actuator: tuple[np.ndarray, np.ndarray],
    cage: np.ndarray | None,
    free: bool,
) -> tuple[str, ...]:
    if free:
        return ("global: no limit on states or actions, slopes of the plant hold everywhere",)
    scope = []
    if np.isfinite(form.z_max).any():
        scope.append("slopes of the plant on |C_z x + D_zu u| ≤ z_max")
    if np.isfinite(actuator).any():
        low, high = (np.round(side, 6).tolist() for side in actuator)
        scope.append(f"the actuator never saturates (actions within {low} … {high})")
    if cage is not None:
        scope.append(f"deviations of the states within ±{np.round(cage, 6).tolist()}")
    return tuple(scope)
