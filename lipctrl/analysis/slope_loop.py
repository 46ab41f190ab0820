"""A linear system in feedback with slope-restricted channels, and the inequality that proves it contracting.

    x⁺ (or x') = A x + B w + E r,   v = C x + D w + H r,   Δw = δ∘Δv,  δ ∈ [lower, upper],   y = Y x + Z w + J r.

With V = [C D] and I_w the rows of w, every channel obeys (Δw - mΔv)(Δw - sΔv) ≤ 0, so multipliers Λ ≥ 0 and a
matrix P ≻ 0 with

    αP ⊕ 0 - [A B]ᵀP[A B] + Σ λ_i[(e_i - m_i v_i)(e_i - s_i v_i)ᵀ + transpose] ⪰ 0        (discrete time)

prove ‖Δx⁺‖_P ≤ √α‖Δx‖_P for every pair of trajectories: the structured loop inequality (Fazlyab et al. 2019 and
Yin, Seiler & Arcak 2021 in incremental form). In continuous time the first terms are -2βP ⊕ 0 - PA - AᵀP - …
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lipctrl.analysis.loop import MidRad
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.policy_graph import PolicyGraph, assembled, zeros
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import NotProvedError, prove_positive_semidefinite


@dataclass(frozen=True)
class SlopeLoop:
    """The matrices of the loop above, as enclosures, with the slopes and owners of the channels."""

    a: Enclosure
    b: Enclosure
    c: Enclosure
    d: Enclosure
    e: Enclosure
    h: Enclosure
    y: Enclosure
    z: Enclosure
    j: Enclosure
    lower: np.ndarray
    upper: np.ndarray
    owner: np.ndarray
    sample_time: float

    @property
    def states(self) -> int:
        return self.a.shape[0]

    @property
    def channels(self) -> int:
        return len(self.lower)

    @property
    def is_discrete(self) -> bool:
        return self.sample_time > 0.0

    def with_slopes(self, lower: np.ndarray, upper: np.ndarray) -> SlopeLoop:
        """Return the loop with other slope intervals."""
        return replace(self, lower=np.asarray(lower, float), upper=np.asarray(upper, float))

    def frozen(self, slopes: np.ndarray) -> np.ndarray:
        """Return the state matrix for fixed slopes, unverified; a matrix of NaN where the loop is ill-posed."""
        d = self.d.middle()
        if self.channels == 0:
            return self.a.middle()
        try:
            inner = np.linalg.solve(
                np.eye(self.channels) - slopes[:, None] * d, slopes[:, None] * self.c.middle()
            )
        except np.linalg.LinAlgError:
            return np.full(self.a.shape, np.nan)
        return self.a.middle() + self.b.middle() @ inner


def enclosure(value: MidRad | np.ndarray) -> Enclosure:
    """Return the real enclosure of a matrix of the loop algebra."""
    if isinstance(value, MidRad):
        return Enclosure(np.real(value.mid).astype(float), value.radius())
    return Enclosure.exact(value)


def _times(factor: float | tuple[float, float], matrix: Enclosure) -> Enclosure:
    if factor == 1.0:
        return matrix
    low, high = factor if isinstance(factor, tuple) else (factor, factor)
    middle = 0.5 * low + 0.5 * high
    radius = max(high - middle, middle - low)
    radius = np.nextafter(radius, np.inf) if radius > 0.0 else 0.0
    return Enclosure(np.full((1, 1), middle), np.full((1, 1), radius)).times(matrix)


def slope_loop(
    plant: Realization,
    graph: PolicyGraph,
    *,
    factor: float | tuple[float, float] = 1.0,
    fixed: np.ndarray | None = None,
) -> SlopeLoop | None:
    """Close u = K₀y + k(π(y) - K₀y) + r around a plant; None where I - F₀D is not provably invertible.

    `factor` is k, or (low, high): the loop then encloses those of every k between. `fixed` is K₀ (zero when None, so
    that the whole policy is scaled). Positive feedback. ValueError where plant and policy do not fit.
    """
    require_fit(plant, graph)
    f0, f1 = graph.f0, _times(factor, graph.f1)
    if factor != 1.0:
        center = Enclosure.exact(np.zeros(f0.shape) if fixed is None else fixed)
        f0 = center + _times(factor, f0 - center)
    a, b, c, d = (enclosure(m) for m in (plant.a, plant.b, plant.c, plant.d))
    well = Enclosure.exact(np.eye(plant.inputs))
    if plant.D.any() or plant.d.rad is not None:
        inverse = MidRad((well - f0 @ d).middle(), (well - f0 @ d).radius).inverse()
        if inverse is None:
            return None
        well = enclosure(inverse)
    by_x, by_w = well @ (f0 @ c), well @ f1
    y_x, y_w, y_r = c + d @ by_x, d @ by_w, d @ well
    return SlopeLoop(
        a=a + b @ by_x,
        b=b @ by_w,
        c=graph.g0 @ y_x,
        d=graph.g1 + graph.g0 @ y_w,
        e=b @ well,
        h=graph.g0 @ y_r,
        y=y_x,
        z=y_w,
        j=y_r,
        lower=graph.lower,
        upper=graph.upper,
        owner=graph.owner,
        sample_time=plant.sample_time,
    )


def require_fit(plant: Realization, graph: PolicyGraph) -> None:
    """Raise ValueError unless the policy maps the plant's outputs to its inputs."""
    actions, observations = graph.f0.shape
    if (actions, observations) != (plant.inputs, plant.outputs):
        raise ValueError(
            f"the policy maps {observations} observations to {actions} actions, the plant has {plant.outputs} outputs "
            f"and {plant.inputs} inputs; expected a policy with {plant.outputs} observations and {plant.inputs} actions"
        )


def _weighted(left: Enclosure, weight: Enclosure, right: Enclosure) -> Enclosure:
    return left.T @ weight.times(right)


def loop_matrix(
    loop: SlopeLoop, p: np.ndarray, multipliers: np.ndarray, decay: float, gain: float | None = None
) -> Enclosure:
    """Assemble the left side of the inequality, every rounding enclosed.

    `decay` is √α in discrete time and β [1/s] in continuous time; `multipliers` has one entry a channel. With
    `gain`, rows of r are added with the supply γ²‖Δr‖² - ‖Δy‖², which proves the incremental ℓ₂ gain γ from r to y.
    """
    n, h = loop.states, loop.channels
    q = loop.e.shape[1] if gain is not None else 0
    tail_x, tail_v, tail_y = ([m] if q else [] for m in (loop.e, loop.h, loop.j))
    step = assembled([[loop.a, loop.b, *tail_x]])
    state = Enclosure.exact(np.eye(n, n + h + q))
    metric = Enclosure.exact(p)
    rate = Enclosure.exact(np.full((1, 1), decay))
    if loop.is_discrete:
        total = (rate.times(rate)).times(state.T @ metric @ state) - step.T @ (metric @ step)
    else:
        cross = state.T @ (metric @ step)
        twice = rate + rate
        total = -(cross + cross.T) - twice.times(state.T @ metric @ state)
    if h:
        v = assembled([[loop.c, loop.d, *tail_v]])
        w = Enclosure.exact(np.eye(h, n + h + q, n))
        low = w - Enclosure.exact(loop.lower).column().times(v)
        high = w - Enclosure.exact(loop.upper).column().times(v)
        product = _weighted(low, Enclosure.exact(multipliers).column(), high)
        total = total + product + product.T
    if gain is not None:
        out = assembled([[loop.y, loop.z, *tail_y]])
        level = Enclosure.exact(np.full((1, 1), gain))
        r = Enclosure.exact(np.eye(q, n + h + q, n + h))
        total = total + level.times(level).times(r.T @ r) - out.T @ out
    return total


def prove_definite(p: np.ndarray) -> None:
    """Prove P ≻ 0, or raise NotProvedError."""
    floor = 2.0**-40 * float(np.abs(np.diag(p)).min(initial=np.inf))
    if p.size == 0:
        return
    if not (np.isfinite(p).all() and (p == p.T).all() and floor > 0.0):
        raise NotProvedError("the Lyapunov matrix is not symmetric, finite and positive")
    shifted = Enclosure.exact(p) - Enclosure.exact(floor * np.eye(len(p)))
    prove_positive_semidefinite({(0, 0): shifted}, [len(p)])


def checked_multipliers(loop: SlopeLoop, multipliers: np.ndarray) -> np.ndarray:
    """Return multipliers that the inequalities of the channels allow, or raise NotProvedError."""
    lam = np.asarray(multipliers, dtype=np.float64)
    if lam.shape != (loop.channels,) or not np.isfinite(lam).all() or (lam < 0.0).any():
        raise NotProvedError("the multipliers are not finite non-negative numbers, one a channel")
    for k in np.unique(loop.owner):
        if np.ptp(lam[loop.owner == k]) != 0.0:
            raise NotProvedError("a multiplier differs between coupled channels")
    return lam


def prove_loop(
    loop: SlopeLoop, p: np.ndarray, multipliers: np.ndarray, decay: float, gain: float | None = None
) -> None:
    """Prove contraction (or the gain) of the loop from stored numbers alone, or raise NotProvedError.

    Nothing about the solver that found P and Λ is assumed.
    """
    lam = checked_multipliers(loop, multipliers)
    if not (0.0 <= decay <= 1.0 if loop.is_discrete else decay >= 0.0):
        raise NotProvedError(f"the rate {decay} is an expansion")
    if gain is None and decay == (1.0 if loop.is_discrete else 0.0):
        raise NotProvedError(f"the rate {decay} is not a contraction")
    if gain is not None and not 0.0 <= gain < np.inf:
        raise NotProvedError(f"the gain {gain} is not a finite number ≥ 0")
    prove_definite(np.asarray(p, dtype=np.float64))
    total = loop_matrix(loop, np.asarray(p, dtype=np.float64), lam, decay, gain)
    prove_positive_semidefinite({(0, 0): total}, [total.shape[0]])


def prove_well_posed(loop: SlopeLoop, multipliers: np.ndarray) -> None:
    """Prove that the channels have one solution at every state and input, or raise NotProvedError.

    v = Cx + Dw + Hr and w = σ(v) have one solution for all σ of the slopes if the multipliers make the form
    Σ λ_i (w_i - m_i v_i)(w_i - s_i v_i) positive definite in w alone: two solutions would differ by a Δw at which it is
    not positive, and the map w - σ(v), injective with a uniform margin, is onto.
    """
    d = loop.d
    # Coupled channels (one owner) are solved together: between them the order decides nothing.
    earlier = loop.owner[None, :] < loop.owner[:, None]
    if not (np.abs(d.middle()) + d.radius)[~earlier].any():
        return  # Solved layer by layer.
    h = loop.channels
    alone = replace(
        loop,
        a=zeros(0, 0),
        b=zeros(0, h),
        c=zeros(h, 0),
        e=zeros(0, loop.e.shape[1]),
        y=zeros(loop.y.shape[0], 0),
    )
    total = loop_matrix(alone, np.zeros((0, 0)), np.asarray(multipliers, dtype=np.float64), 1.0)
    floor = np.diag(2.0**-30 * np.abs(np.diag(total.middle())))
    if not (np.diag(floor) > 0.0).all():
        raise NotProvedError("a channel has no multiplier, so the algebraic loop is not proved solvable")
    prove_positive_semidefinite({(0, 0): total - Enclosure.exact(floor)}, [h])


__all__ = [
    "SlopeLoop",
    "enclosure",
    "loop_matrix",
    "prove_definite",
    "prove_loop",
    "prove_well_posed",
    "slope_loop",
    "zeros",
]
