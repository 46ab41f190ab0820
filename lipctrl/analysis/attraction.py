"""A proved part of the basin of attraction of a learned policy, saturation included, by a cover of small boxes.

Two ellipsoids carry the proof. In the inner one all pairs of trajectories approach each other, so that there is one
equilibrium; in the outer one a quadratic falls in every step until the inner one is reached. Both are proved on boxes
that together cover them (`cell_proof`), with slopes of plant, neurons and clip that hold box by box (`cells`): far
sharper than slopes of a whole region, at a price that grows with the number of states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import positive_numbers
from lipctrl.analysis.ball import actuator_limits, as_ball
from lipctrl.analysis.cell_proof import Ellipsoid, prove_contraction, prove_decrease
from lipctrl.analysis.cells import CellLoop
from lipctrl.analysis.ellipsoid import lyapunov_guess
from lipctrl.analysis.lure_loop import fixed_point, read_form, state_units
from lipctrl.analysis.policy_graph import policy_certificate, policy_graph
from lipctrl.analysis.psi_samples import require_plausible
from lipctrl.analysis.slope_loop import prove_definite
from lipctrl.analysis.verdict import Verdict
from lipctrl.positivity import NotProvedError


@dataclass(frozen=True)
class Basin:
    """Every trajectory from {x: (x - center)ᵀP(x - center) ≤ 1}, P = `shape`, tends to one equilibrium.

    Certified: the quadratic falls in every step until the trajectory is in the ellipsoid of `inner`, which it never
    leaves and in which any two trajectories approach each other like `decay`ᵗ in the norm of `inner`. The equilibrium
    lies within `offset` of `center` in that norm. The commands may meet the actuator's limits, which are part of the
    loop; only inside `inner` is the claim about pairs (incremental). It concerns the Lur'e form without disturbance,
    the real-arithmetic map of the certificate's weights, and the gains `loop.gain` of the whole policy.
    Inconclusive: nothing was proved, `reason` says which step failed, and the matrices are None.
    """

    verdict: Verdict
    center: np.ndarray
    shape: np.ndarray | None
    inner: np.ndarray | None
    decay: float
    offset: float
    boxes: int
    reason: str
    loop: CellLoop = field(repr=False)

    @property
    def extent(self) -> np.ndarray:
        """Return the largest deviation of each state from `center` in the ellipsoid; zeros where none was proved."""
        return np.zeros(len(self.center)) if self.shape is None else Ellipsoid(self.center, self.shape).extent

    @property
    def volume(self) -> float:
        """Return the volume in the units of the states; 0 where nothing was proved."""
        if self.shape is None:
            return 0.0
        n = len(self.center)
        return math.pi ** (n / 2.0) / math.gamma(n / 2.0 + 1.0) / math.sqrt(float(np.linalg.det(self.shape)))

    def contains(self, states: Any) -> np.ndarray:
        """Whether states (..., n) lie in the ellipsoid; False everywhere where none was proved."""
        x = np.asarray(states, dtype=np.float64)
        if self.shape is None:
            return np.zeros(x.shape[:-1], dtype=bool)
        return Ellipsoid(self.center, self.shape).value(x) <= 1.0

    def boundary(self, count: int = 200, seed: int = 0) -> np.ndarray:
        """Return points (count, n) of the boundary; ValueError where nothing was proved."""
        if self.shape is None:
            raise ValueError(f"no basin was proved: {self.reason}")
        root = np.linalg.cholesky(self.shape)
        sphere = _directions(len(self.center), count, seed)
        return self.center + np.linalg.solve(root.T, sphere.T).T

    def simulate(self, states: Any, steps: int, gain: float = 1.0) -> np.ndarray:
        """Return states (steps + 1, count, n) of the loop with sat(gain·π(y)), in float64."""
        path = [np.array(states, dtype=np.float64)]
        for _ in range(steps):
            path.append(self.loop.step(path[-1], gain))
        return np.array(path)

    def recheck(self, boxes: int = 400_000) -> bool:
        """Prove the claim again from the stored numbers alone; False where they do not prove it."""
        if self.shape is None or self.inner is None or not np.isfinite(self.center).all():
            return False
        command = np.maximum(*map(np.abs, self.loop.actuator))
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                offset = _prove(self.loop, self.center, self.shape, self.inner, self.decay, boxes)
                require_plausible(self.loop.form, np.abs(self.center) + self.extent, command)
        except (NotProvedError, ValueError):
            # Of a ψ that its own samples refute nothing is proved.
            return False
        return offset <= self.offset

    def __str__(self) -> str:
        if self.shape is None:
            return f"basin: {self.verdict} ({self.reason})"
        widths = ", ".join(f"{e:.4g}" for e in self.extent)
        return f"basin: {self.verdict}, half-widths ({widths}), volume {self.volume:.4g}, {self.boxes} boxes"


def basin(
    plant: Any, policy: Any, box: Any, *, action_limit: Any = None, boxes: int = 200_000, seed: int = 0
) -> Basin:
    """Prove an ellipsoid of large volume inside a box from which u = sat(π(y)) drives a plant to one equilibrium.

    Everything found by search (float64, `seed`) is a guess; only the two covers by boxes prove. The policy may have
    any global gain and any bias: its equilibrium is found and enclosed. Two states take seconds; the number of boxes
    grows exponentially with the number of states.

    Parameters
    ----------
    plant : a Lur'e form with its ψ (`lipctrl_envs.Plant.lure_form(...)`), or anything that has one; discrete time. With
        `psi_slopes` the plant's slopes too hold box by box. Many inputs are fine.
    policy : an object with `.certificate()`, or a Certificate; sign u = π(y). Its own clip is an actuator limit.
    box : (n,) positive half-widths about the origin that the ellipsoid must not leave, in the units of the states.
    action_limit : (m,) symmetric limits of the actuator behind the policy's clip, or None.
    boxes : most boxes that a cover may take.

    Raises
    ------
    ValueError
        For bad data, a ψ among them that samples refute (NaN, other slopes, channels that mix, lost digits). A loop of
        which nothing is proved is no error: its verdict is inconclusive.

    Examples
    --------
    >>> import lipctrl_envs
    >>> from lipctrl import rules
    >>> pendulum = lipctrl_envs.Pendulum()
    >>> found = basin(pendulum, rules.linear([[-25.0, -8.0]]), [0.6, 2.0], action_limit=5.0)
    >>> found.verdict, bool(found.contains([0.2, 0.0]))
    (<Verdict.CERTIFIED: 'certified'>, True)
    """
    loop = cell_loop(plant, policy, action_limit)
    limits = positive_numbers(box, loop.form.A.shape[0], "box")
    require_plausible(loop.form, limits, np.maximum(*map(np.abs, loop.actuator)))
    return find_basin(loop, limits, boxes, seed)


def cell_loop(plant: Any, policy: Any, action_limit: Any) -> CellLoop:
    """Return the loop of a plant and a policy; ValueError for bad data."""
    form = read_form(plant)
    if form.psi is None:
        raise ValueError(
            f"this Lur'e form only bounds the plant's Jacobian ({form.note}); a basin needs the exact form with its ψ"
        )
    m, p = form.B.shape[1], form.C.shape[0]
    source = policy_certificate(policy)
    graph = policy_graph(source, clip=False)
    if (graph.f0.shape[1], graph.f0.shape[0]) != (p, m):
        raise ValueError(
            f"the policy maps {graph.f0.shape[1]} observations to {graph.f0.shape[0]} actions; the plant has {p} "
            f"and {m}"
        )
    limit = np.full(m, np.inf) if action_limit is None else positive_numbers(action_limit, m, "action_limit")
    return CellLoop(form, graph, actuator_limits(limit, as_ball(source).limits))


def find_basin(loop: CellLoop, limits: np.ndarray, boxes: int, seed: int) -> Basin:
    """Search and prove; inconclusive with a reason where a step fails."""

    def inconclusive(reason: str) -> Basin:
        return Basin(Verdict.INCONCLUSIVE, center, None, None, 1.0, math.inf, 0, reason, loop)

    rest = equilibrium(loop, 0.5 * (loop.gain[0] + loop.gain[1]))
    center = np.zeros(len(limits)) if rest is None else rest
    if rest is None:
        return inconclusive("no equilibrium was found near the origin")
    room = limits - np.abs(center)
    if not (room > 0.0).all():
        return inconclusive(f"the equilibrium {np.round(center, 6).tolist()} is not inside the box")
    inner = inner_ellipsoid(loop, center, room, boxes)
    if isinstance(inner, str):
        return inconclusive(inner)
    shape, decay, offset, count = inner
    best = shape
    outer, reach = _widest(loop, Ellipsoid(center, shape), room, seed)
    for share in (0.99, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2):
        trial = outer / (share * reach) ** 2
        try:
            count += prove_decrease(loop, Ellipsoid(center, trial), Ellipsoid(center, shape), boxes)
        except NotProvedError:
            continue
        if np.linalg.det(trial) < np.linalg.det(shape):
            best = trial
        break
    reason = "two covers by boxes"
    return Basin(Verdict.CERTIFIED, center, best, shape, decay, offset, count, reason, loop)


def _prove(
    loop: CellLoop, center: np.ndarray, shape: np.ndarray, inner: np.ndarray, decay: float, boxes: int
) -> float:
    """Prove both covers from stored numbers and return the offset, or raise NotProvedError."""
    for p in (shape, inner):
        if p.shape != (len(center),) * 2:
            raise NotProvedError("the matrix of an ellipsoid has the wrong shape")
        prove_definite(p)
    if not 0.0 < decay < 1.0:
        raise NotProvedError(f"the rate {decay} is not a contraction")
    small = Ellipsoid(center, inner)
    offset, _ = prove_contraction(loop, small, decay, boxes)
    if not np.array_equal(shape, inner):
        prove_decrease(loop, Ellipsoid(center, shape), small, boxes)
    return offset


def equilibrium(loop: CellLoop, gain: float) -> np.ndarray | None:
    """Return a fixed point near the origin by Newton's method, unverified; None where it does not converge."""
    units = state_units(loop.form, loop.graph)
    free = replace(
        loop, actuator=(np.full_like(loop.actuator[0], -np.inf), np.full_like(loop.actuator[1], np.inf))
    )
    # Where the command is clipped at the origin, Newton's method starts at the rest of the free loop.
    start = np.zeros(len(units))
    for clipped in (loop, free, loop):
        x = fixed_point(lambda x, clipped=clipped: clipped.step(x, gain), units, start)
        if not np.isfinite(x).all():
            return None
        if (np.abs(loop.step(x, gain) - x) < 1e-11 * (units + np.abs(x))).all():
            return x
        start = x if clipped is free else start
    return None


def frozen(loop: CellLoop, center: np.ndarray) -> np.ndarray:
    """Return the middle of the slopes at a point, unverified."""
    point = loop.enclose(center[:, None], 1e-12 * state_units(loop.form, loop.graph)[:, None])
    return point.slopes.middle()[0]


def inner_ellipsoid(
    loop: CellLoop, center: np.ndarray, room: np.ndarray, boxes: int, reserve: float = 0.1
) -> tuple[np.ndarray, float, float, int] | str:
    """Return (P, decay, offset, boxes) of a proved contracting ellipsoid; a string says why there is none.

    More `reserve` is a faster contraction in a smaller ellipsoid, whose centre may be less near to the equilibrium.
    """
    matrix = frozen(loop, center)
    radius = float(np.abs(np.linalg.eigvals(matrix)).max())
    if not radius < 1.0:
        return "the loop about its equilibrium is not stable"
    # Between the spectral radius and one: a P with some reserve in every direction.
    rate = radius + 0.5 * (1.0 - radius)
    scaled = matrix * room / room[:, None]
    p = lyapunov_guess(scaled.T / rate) / np.outer(room, room)
    decay = 1.0 - reserve * (1.0 - rate)
    p = (p + p.T) / 2.0
    p = p * float((np.sqrt(np.diag(np.linalg.inv(p))) / room).max() ** 2) * (1.0 + 1e-9)
    reason = "no ellipsoid about the equilibrium is contracting"
    found = None
    low, high = 1e-5, 1.0
    for _ in range(12):
        # The largest size that is proved, by bisection of its logarithm.
        size = high if found is None and high == 1.0 else math.sqrt(low * high)
        shape = p / size**2
        try:
            offset, count = prove_contraction(loop, Ellipsoid(center, shape), decay, min(boxes, 5_000))
        except NotProvedError as error:
            reason, high = f"contraction about the equilibrium: {error}", size * (1.0 - 1e-12)
            continue
        found, low = (shape, decay, offset, count), size
        if size == 1.0 or high < 1.1 * low:
            break
    return reason if found is None else found


def _directions(n: int, count: int, seed: int) -> np.ndarray:
    if n == 2:
        angle = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
        return np.column_stack([np.cos(angle), np.sin(angle)])
    sphere = np.random.default_rng(seed).standard_normal((count, n))
    return sphere / np.linalg.norm(sphere, axis=1, keepdims=True)


def _widest(
    loop: CellLoop, inner: Ellipsoid, room: np.ndarray, seed: int, rounds: int = 250
) -> tuple[np.ndarray, float]:
    """Search (P, size): {V ≤ size²} of large volume in which V fell at all samples; unverified.

    P touches the box; random changes of its factor that enlarge the volume are kept.
    """
    n = len(room)
    sphere = _directions(n, 120 if n == 2 else 200 * n, seed)
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(0.02, 1.0, 60)
    reach = _reach(loop, inner, sphere, sizes)

    def fitted(factor: np.ndarray) -> np.ndarray:
        p = factor.T @ factor
        return p * float((np.sqrt(np.diag(np.linalg.inv(p))) / room).max() ** 2) * (1.0 + 1e-9)

    factor = np.linalg.cholesky(inner.shape).T
    shape = fitted(factor)
    size = reach(shape)
    best, step = size**n / math.sqrt(float(np.linalg.det(shape))), 0.3
    for _ in range(rounds):
        trial = (np.eye(n) + step * rng.standard_normal((n, n))) @ factor
        if abs(np.linalg.det(trial)) < 1e-12 * abs(np.linalg.det(factor)):
            continue
        other = fitted(trial)
        reached = reach(other)
        volume = reached**n / math.sqrt(float(np.linalg.det(other)))
        if volume > best:
            best, factor, shape, size, step = volume, trial, other, reached, min(1.5 * step, 1.0)
        else:
            step = max(0.95 * step, 0.02)
    return shape, size


def _reach(
    loop: CellLoop, inner: Ellipsoid, sphere: np.ndarray, sizes: np.ndarray
) -> Callable[[np.ndarray], float]:
    """Return P -> the largest size below which V fell at all samples outside the inner ellipsoid."""
    gain, z_max = 0.5 * (loop.gain[0] + loop.gain[1]), loop.form.z_max

    def reach(p: np.ndarray) -> float:
        rays = np.linalg.solve(np.linalg.cholesky(p).T, sphere.T).T
        x = inner.center + sizes[:, None, None] * rays
        after = Ellipsoid(inner.center, p).value(loop.step(x, gain))
        fine = (after < sizes[:, None] ** 2 * (1.0 - 1e-5)) | (inner.value(x) < 0.9)
        fine &= (np.abs(x @ loop.form.C_z.T) <= z_max).all(axis=-1)
        whole = fine.all(axis=1)
        first = len(sizes) if whole.all() else int(np.argmin(whole))
        return float(sizes[first - 1]) if first else 0.5 * float(sizes[0])

    return reach
