"""Largest invariant ellipsoids of loops of slope- or sector-bounded channels: a convex search, and proofs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lipctrl.analysis.lmi import require_cvxpy, solved
from lipctrl.analysis.slope_loop import SlopeLoop, loop_matrix
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
    unit = _UnitSlopes.of(loop)
    n, h = loop.states, loop.channels
    zones = np.zeros(0, dtype=int) if dead_zones is None else dead_zones
    a, b, c = unit.a * scale / scale[:, None], unit.b / scale[:, None], unit.c * scale
    owners = int(loop.owner.max(initial=-1)) + 1
    gather = np.eye(owners)[loop.owner]
    q = cp.Variable((n, n), symmetric=True)

    def inverse_multipliers() -> Any:
        return cp.diag(gather @ cp.Variable(owners, nonneg=True))

    m = inverse_multipliers()
    corner = 2.0 * m - unit.d @ m - m @ unit.d.T
    cross = -q @ c.T
    constraints: list[Any] = []
    z: Any = None
    if len(zones):
        assert room is not None
        z = cp.Variable((len(zones), n))
        place = np.eye(h)[zones]
        cross = cross + (place.T @ cp.multiply(room[:, None], z)).T
        for i in range(len(zones)):
            side = cp.reshape(z[i], (n, 1), order="F")
            bound = cp.bmat([[q, side], [side.T, np.ones((1, 1))]])
            constraints.append(bound >> reserve * np.eye(n + 1))
    main = cp.bmat([[decay**2 * q, cross, q @ a.T], [cross.T, corner, m @ b.T], [a @ q, b @ m, q]])
    constraints.append(main >> reserve * np.eye(2 * n + h))
    used: list[Any] = []
    for limit in limits:
        row = unit.row(limit.row.middle()[0])
        row_x, row_w = row[:n] * scale / limit.bound, row[n:] / limit.bound
        if not np.abs(row_w).max(initial=0.0) > 0.0:
            constraints.append(row_x @ q @ row_x <= 1.0 - reserve)
            used.append(None)
            continue
        m_row = inverse_multipliers()
        block = 2.0 * m_row - unit.d @ m_row - m_row @ unit.d.T
        right = cp.reshape(q @ row_x, (n, 1), order="F")
        below = cp.reshape(m_row @ row_w, (h, 1), order="F")
        matrix = cp.bmat([[q, cross, right], [cross.T, block, below], [right.T, below.T, np.ones((1, 1))]])
        constraints.append(matrix >> reserve * np.eye(n + h + 1))
        used.append(m_row)
    problem = cp.Problem(cp.Maximize(cp.log_det(q)), constraints)
    if not solved(problem) or q.value is None:
        return None

    def multipliers(value: np.ndarray) -> np.ndarray:
        found = 1.0 / np.maximum(np.diag(value), 1e-12) / unit.width**2
        return np.array([found[loop.owner == k].min() for k in range(owners)])[loop.owner]

    inverse = np.linalg.inv(q.value)
    gain = np.zeros((0, n)) if z is None or room is None else room[:, None] * (z.value @ inverse) / scale
    inverse = inverse / np.outer(scale, scale)
    rows = [np.zeros(h) if m_row is None else multipliers(m_row.value) for m_row in used]
    own = multipliers(m.value) if h else np.zeros(0)
    return Found((inverse + inverse.T) / 2.0, own, rows, gain)


def prove_limit(loop: SlopeLoop, limit: Limit, p: np.ndarray, multipliers: np.ndarray) -> None:
    """Prove |row·(Δx, Δw)| ≤ bound wherever ΔxᵀPΔx ≤ 1 and the channels obey their slopes, or raise NotProvedError.

    A limit on a channel's own argument, which its slopes rely on, is no vicious circle: along the segment from the
    centre the bound holds strictly before it could first be reached.
    """
    n, h = loop.states, loop.channels
    still = replace(loop, a=Enclosure.exact(np.zeros((n, n))), b=Enclosure.exact(np.zeros((n, h))))
    bound = Enclosure.exact(np.full((1, 1), limit.bound))
    # Scaled so that the row keeps its size: bound²(P + multipliers) - rowᵀrow.
    total = bound.times(bound).times(loop_matrix(still, p, multipliers, 1.0)) - limit.row.T @ limit.row
    prove_positive_semidefinite({(0, 0): total}, [n + h])
