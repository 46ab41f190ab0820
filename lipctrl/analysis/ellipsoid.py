"""Largest invariant ellipsoids of loops of slope- or sector-bounded channels: a convex search, and proofs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from lipctrl.analysis.lmi import require_cvxpy, solved
from lipctrl.analysis.slope_loop import SlopeLoop, checked_multipliers, loop_matrix
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import prove_positive_semidefinite


@dataclass(frozen=True)
class Limit:
    """|row·(Δx, Δw)| ≤ bound must hold in the ellipsoid."""

    row: Enclosure
    bound: float
    what: str


@dataclass(frozen=True)
class Found:
    """An unverified ellipsoid {ΔxᵀPΔx ≤ 1}: multipliers of the step and of each limit, comparison gains G."""

    shape: np.ndarray
    multipliers: np.ndarray
    limit_multipliers: list[np.ndarray]
    comparison: np.ndarray


@dataclass(frozen=True)
class _UnitSlopes:
    """The loop after the transformation w = m v + (s - m) w̃ to slopes [0, 1], in float64."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    d: np.ndarray
    to_w: np.ndarray
    width: np.ndarray

    @classmethod
    def of(cls, loop: SlopeLoop) -> _UnitSlopes:
        m, s = loop.lower, loop.upper - loop.lower
        a, b, c, d = (x.middle() for x in (loop.a, loop.b, loop.c, loop.d))
        inner = np.linalg.inv(np.eye(len(m)) - d * m)
        v_x, v_w = inner @ c, inner @ (d * s)
        to_w = np.hstack([m[:, None] * v_x, np.diag(s) + m[:, None] * v_w])
        n = len(a)
        step = np.hstack([a, np.zeros((n, len(m)))]) + b @ to_w
        return cls(step[:, :n], step[:, n:], v_x, v_w, to_w, s)

    def row(self, row: np.ndarray) -> np.ndarray:
        """Rewrite a row in (Δx, Δw) as one in (Δx, Δw̃)."""
        n = len(self.a)
        out = row[n:] @ self.to_w
        out[:n] += row[:n]
        return out


def largest_ellipsoid(
    loop: SlopeLoop,
    limits: list[Limit],
    decay: float,
    reserve: float,
    scale: np.ndarray,
    *,
    dead_zones: np.ndarray | None = None,
    room: np.ndarray | None = None,
) -> Found | None:
    """Maximise log det Q over Q = P⁻¹ and inverse multipliers; unverified, None where the solver failed.

    In Q and M = Λ⁻¹ the inequalities are linear and the volume is concave (Yin, Seiler & Arcak 2021, §III-C, use the
    trace of P instead). Coordinates are scaled by `scale`. `dead_zones` are channels with slopes [0, 1] from whose
    argument a free linear comparison GΔx with |G_iΔx| ≤ room_i in the ellipsoid is subtracted; Z = GQ is one more
    linear unknown (Gomes da Silva & Tarbouriech 2005, Lemma 1).
    """
    cp = require_cvxpy()
    search = _Search(cp, loop, scale, reserve)
    if dead_zones is not None and len(dead_zones):
        assert room is not None
        search.subtract_comparisons(dead_zones, room)
    search.require_decay(decay)
    for limit in limits:
        search.require_limit(limit)
    if not solved(cp.Problem(cp.Maximize(cp.log_det(search.q)), search.constraints)):
        return None
    return search.found()


class _Search:
    """The convex problem: unknowns Q, M and Z, and the matrix inequalities so far."""

    def __init__(self, cp: Any, loop: SlopeLoop, scale: np.ndarray, reserve: float) -> None:
        self.cp, self.loop, self.scale, self.reserve = cp, loop, scale, reserve
        self.unit = unit = _UnitSlopes.of(loop)
        self.owners = int(loop.owner.max(initial=-1)) + 1
        # Channels too: what a scaled state does to them is then what they do to it.
        self.reach = reach = self._reaches(unit.b.T / scale, unit.c * scale, unit.d)
        self.a, self.b = unit.a * scale / scale[:, None], unit.b * reach / scale[:, None]
        self.d = unit.d * reach / reach[:, None]
        self.q = cp.Variable((loop.states, loop.states), symmetric=True)
        self.m, self.corner = self._slopes()
        self.cross = -self.q @ (unit.c * scale / reach[:, None]).T
        self.z: Any = None
        self.room = np.zeros(0)
        self.constraints: list[Any] = []
        self.of_limits: list[Any] = []

    def _slopes(self) -> tuple[Any, Any]:
        """Return new inverse multipliers M, one an owner of channels, and what they add to an inequality."""
        gather = np.eye(self.owners)[self.loop.owner]
        m = self.cp.diag(gather @ self.cp.Variable(self.owners, nonneg=True))
        return m, 2.0 * m - self.d @ m - m @ self.d.T

    def _reaches(self, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Return a size of every channel's argument, one for those that share a multiplier."""

        def passed(own: np.ndarray, couplings: np.ndarray) -> np.ndarray:
            size = own
            for _ in range(min(len(own), 8)):
                size = np.minimum(own + couplings @ size, 1e6 * own.max(initial=1e-12))
            return np.array([size[self.loop.owner == k].max() for k in self.loop.owner])

        seen = passed(np.sqrt((c * c).sum(axis=1)), np.abs(d))
        effect = passed(np.sqrt((b * b).sum(axis=1)), np.abs(d).T)
        moved = np.where(seen > 1e-9 * seen.max(initial=0.0), seen, 1.0)
        return moved / np.sqrt(np.clip(moved * effect, 1e-8, 1.0))

    def _require_positive(self, rows: list[list[Any]], size: int) -> None:
        self.constraints.append(self.cp.bmat(rows) >> self.reserve * np.eye(size))

    def subtract_comparisons(self, zones: np.ndarray, room: np.ndarray) -> None:
        cp, n = self.cp, self.loop.states
        self.z, self.room = cp.Variable((len(zones), n)), room
        place = np.eye(self.loop.channels)[zones]
        room = room / self.reach[zones]
        self.cross = self.cross + (place.T @ cp.multiply(room[:, None], self.z)).T
        for i in range(len(zones)):
            side = cp.reshape(self.z[i], (n, 1), order="F")
            self._require_positive([[self.q, side], [side.T, np.ones((1, 1))]], n + 1)

    def require_decay(self, decay: float) -> None:
        a, b, q, m, cross = self.a, self.b, self.q, self.m, self.cross
        self._require_positive(
            [[decay**2 * q, cross, q @ a.T], [cross.T, self.corner, m @ b.T], [a @ q, b @ m, q]],
            2 * self.loop.states + self.loop.channels,
        )

    def require_limit(self, limit: Limit) -> None:
        cp, n, h, q, cross = self.cp, self.loop.states, self.loop.channels, self.q, self.cross
        row = self.unit.row(limit.row.middle()[0])
        row_x, row_w = row[:n] * self.scale / limit.bound, row[n:] * self.reach / limit.bound
        if not np.abs(row_w).max(initial=0.0) > 0.0:
            self.constraints.append(row_x @ q @ row_x <= 1.0 - self.reserve)
            self.of_limits.append(None)
            return
        m, corner = self._slopes()
        right = cp.reshape(q @ row_x, (n, 1), order="F")
        below = cp.reshape(m @ row_w, (h, 1), order="F")
        self._require_positive(
            [[q, cross, right], [cross.T, corner, below], [right.T, below.T, np.ones((1, 1))]], n + h + 1
        )
        self.of_limits.append(m)

    def found(self) -> Found | None:
        """Return the solution in the coordinates of the loop."""
        if self.q.value is None:
            return None
        n, h, scale = self.loop.states, self.loop.channels, self.scale
        inverse = np.linalg.inv(self.q.value)
        gain = np.zeros((0, n)) if self.z is None else self.room[:, None] * (self.z.value @ inverse) / scale
        inverse = inverse / np.outer(scale, scale)
        rows = [np.zeros(h) if m is None else self._multipliers(m.value) for m in self.of_limits]
        own = self._multipliers(self.m.value) if h else np.zeros(0)
        return Found((inverse + inverse.T) / 2.0, own, rows, gain)

    def _multipliers(self, value: np.ndarray) -> np.ndarray:
        found = 1.0 / np.maximum(np.diag(value), 1e-12) / (self.reach * self.unit.width) ** 2
        owner = self.loop.owner
        return np.array([found[owner == k].min() for k in range(self.owners)])[owner]


def lyapunov_guess(matrix: np.ndarray) -> np.ndarray:
    """Return X with X - MXMᵀ = I, up to rounding; without a warning about its accuracy, because nothing trusts it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
        return scipy.linalg.solve_discrete_lyapunov(matrix, np.eye(len(matrix)))


def natural_widths(loop: SlopeLoop, slopes: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """Return half-widths of an ellipsoid of the loop with fixed slopes in which |row·(Δx, Δw)| = 1 is reached.

    A guess in which units a search should work, independent of those of the data; None where that loop is not stable.
    """
    n = loop.states
    matrix = loop.frozen(slopes)
    if not np.isfinite(matrix).all() or np.abs(np.linalg.eigvals(matrix)).max(initial=0.0) >= 1.0 - 1e-9:
        return None
    balanced, (units, _) = scipy.linalg.matrix_balance(matrix, permute=False, separate=True)
    spread = lyapunov_guess(balanced)
    inner = np.linalg.solve(
        np.eye(len(slopes)) - slopes[:, None] * loop.d.middle(), slopes[:, None] * loop.c.middle()
    )
    drive = (rows[:, :n] + rows[:, n:] @ inner) * units
    reach = float(np.sqrt(np.einsum("ri,ij,rj->r", drive, spread, drive)).max(initial=0.0))
    widths = units * np.sqrt(np.diag(spread)) / (reach if reach > 0.0 else 1.0)
    return widths if np.isfinite(widths).all() and (widths > 0.0).all() else None


def prove_limit(loop: SlopeLoop, limit: Limit, p: np.ndarray, multipliers: np.ndarray) -> None:
    """Prove |row·(Δx, Δw)| ≤ bound wherever ΔxᵀPΔx ≤ 1 and the channels obey their slopes, or raise NotProvedError.

    A limit on a channel's own argument, which its slopes rely on, is no vicious circle: along the segment from the
    centre the bound holds strictly before it could first be reached.
    """
    n, h = loop.states, loop.channels
    still = replace(loop, a=Enclosure.exact(np.zeros((n, n))), b=Enclosure.exact(np.zeros((n, h))))
    bound = Enclosure.exact(np.full((1, 1), limit.bound))
    # Scaled so that the row keeps its size: bound²(P + multipliers) - rowᵀrow.
    lam = checked_multipliers(loop, multipliers)
    total = bound.times(bound).times(loop_matrix(still, p, lam, 1.0)) - limit.row.T @ limit.row
    prove_positive_semidefinite({(0, 0): total}, [n + h])
