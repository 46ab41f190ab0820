"""Scaled relative graphs: where an LTI plant and a nonlinearity lie in the complex plane, and how far apart.

The SRG of an operator holds the complex numbers (‖Δy‖/‖Δu‖)e^{±j∠(Δu, Δy)} of all pairs of inputs (Ryu, Hannah & Yin
2022). For a stable SISO LTI plant it is the hyperbolically convex hull of the Nyquist curve, for slopes [a, b] the
disc on that diameter (Chaffey, Forni & Sepulchre 2023, Theorems 4 and 5). The boundary of -SRG(φ)⁻¹ is a circle
centred on the real axis or a vertical line, a geodesic of the half-plane model: a hull lies on one side of it exactly
if the curve does, so that distances to it are proved on the Nyquist curve by level sets, not on the picture.
With several inputs and outputs |z - c| is at least min σ_min(P(jω) - cI) and at most ‖P - cI‖_∞ for every real c: the
same level sets bound the graph, and the separation is a proved lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import ordered_slopes, real_array, whole_number
from lipctrl.analysis.frequencies import resonance_grid
from lipctrl.analysis.hinf import hinf_norm
from lipctrl.analysis.loop import nominal_loop
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.popov import PopovForm
from lipctrl.analysis.popov_minimum import popov_minimum
from lipctrl.analysis.spectrum import internal_stability
from lipctrl.analysis.units import in_units
from lipctrl.analysis.verdict import Verdict
from lipctrl.arithmetic import UNIT

# Squares of reciprocals of slopes must not overflow.
_SMALLEST = 1e-100


@dataclass(frozen=True)
class ScaledRelativeGraphs:
    """The SRGs of a loop u = -φ(y) (negative feedback), their proved separation, and points to draw.

    `separation` is a proved lower bound of the distance r between SRG(P) and -SRG(φ)⁻¹ (τ = 1), `separation_all` of
    the least distance to -SRG(τφ)⁻¹ over τ ∈ (0, 1] (≤ 0 or nan: not proved). `frequency` [rad/s] is where r is
    attained. `gain` = 1/r bounds the incremental gain from a disturbance added to y to the action, when
    certified. `guard` says whether the loop of P with the constant slope (a+b)/2 is proved stable. `omega`, `nyquist`
    and `hull` (a polygon in the upper half-plane) are samples: a picture, no proof. With several channels `nyquist`
    holds the graph's points of random inputs, one row a frequency, and `hull` outlines an intersection of discs that
    holds it.
    """

    verdict: Verdict
    reason: str
    slopes: tuple[float, float]
    separation: float
    separation_all: float
    frequency: float
    guard: bool
    omega: np.ndarray = field(repr=False)
    nyquist: np.ndarray = field(repr=False)
    hull: np.ndarray = field(repr=False)
    counts_samples: bool = field(default=False, repr=False, compare=False)

    @property
    def gain(self) -> float:
        return 1.0 / self.separation if self.verdict is Verdict.CERTIFIED else math.inf

    def forbidden(self, tau: float = 1.0, points: int = 181) -> np.ndarray:
        """Return points of the boundary of -SRG(τφ)⁻¹ (a circle; for a zero slope a vertical line's two ends)."""
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"tau is {tau}; expected 0 < tau ≤ 1")
        a, b = (s * tau for s in self.slopes)
        if a == 0.0 or b == 0.0:
            edge = -1.0 / (b if b != 0.0 else a)
            reach = 2.0 * float(np.abs(self.nyquist).max()) + abs(edge)
            return np.array([edge - 1j * reach, edge + 1j * reach])
        ends = -1.0 / a, -1.0 / b
        angle = np.linspace(-np.pi, np.pi, points)
        return 0.5 * (ends[0] + ends[1]) + 0.5 * abs(ends[0] - ends[1]) * np.exp(1j * angle)

    def __str__(self) -> str:
        text = (
            f"{self.verdict}: {self.reason}; separation ≥ {self.separation:.6g} "
            f"(τ = 1, at {self.frequency:.6g} rad/s), "
            f"≥ {self.separation_all:.6g} (all τ)"
        )
        return in_units(text, self.counts_samples)


@dataclass(frozen=True)
class _Distance:
    value: float
    frequency: float


class _Curve:
    """Proved extreme distances of the graph of a stable square plant from points of the real axis."""

    def __init__(self, system: Realization) -> None:
        self.system = system

    def _minimum(self, yy: float, yu: float, uu: float) -> tuple[float, float]:
        """Return a proved minimum over ω of λ_min(yy PᴴP + 2yu He P + uu|uu|I), and where it is attained."""
        eye = np.eye(self.system.inputs)
        first, second = (MidRad(v * eye) for v in (yy, yu))
        # The square of a stored number is not a stored number: its rounding is enclosed.
        square = MidRad(abs(uu) * eye) @ MidRad(uu * eye)
        found = popov_minimum(PopovForm(self.system, first, second, square), max(1.0, uu * uu))
        return found.lower, abs(found.frequency)

    def nearest(self, point: float) -> _Distance:
        """Return a lower bound of min σ_min(P(jω) - point)."""
        low, where = self._minimum(1.0, -point, abs(point))
        return _Distance(math.sqrt(max(low, 0.0)) * (1.0 - 1e-15), where)

    def farthest(self, point: float) -> _Distance:
        """Return an upper bound of ‖P - point‖_∞."""
        low, where = self._minimum(-1.0, point, -abs(point))
        return _Distance(math.sqrt(max(-low, 0.0)) * (1.0 + 1e-15), where)

    def leftmost(self, sign: float) -> _Distance:
        """Return a lower bound of min λ_min(sign·He P(jω))."""
        low, where = self._minimum(0.0, 0.5 * sign, 0.0)
        return _Distance(low, where)


def _separation(curve: _Curve, a: float, b: float) -> _Distance:
    """Return a lower bound of the distance between the hull of the curve and -SRG(φ)⁻¹; ≤ 0 when it is not proved."""
    if a == 0.0 and b == 0.0:
        return _Distance(math.inf, 0.0)
    if a == 0.0 or b == 0.0:
        edge, sign = (-1.0 / b, 1.0) if b > 0.0 else (-1.0 / a, -1.0)
        found = curve.leftmost(sign)
        return _Distance(_below(found.value, -sign * edge), found.frequency)
    center, radius = _disc(a, b)
    if a < 0.0 < b:
        far = curve.farthest(center)
        return _Distance(_below(radius, -far.value, abs(center)), far.frequency)
    near = curve.nearest(center)
    return _Distance(_below(near.value, -radius, abs(center)), near.frequency)


def _disc(a: float, b: float) -> tuple[float, float]:
    """Return centre and radius of the circle through -1/a and -1/b, rounded."""
    ends = (-1.0 / a, -1.0 / b)
    return 0.5 * ends[0] + 0.5 * ends[1], abs(0.5 * ends[0] - 0.5 * ends[1])


def _below(value: float, other: float, center: float = 0.0) -> float:
    """Return value + other less what rounding of ends, centre and radius of a disc may have added."""
    return value + other - 4.0 * UNIT * (abs(value) + 2.0 * abs(other) + 2.0 * center)


def _separation_for_all_scalings(curve: _Curve, a: float, b: float, first: float, norm: float) -> float:
    """Return a lower bound of the separation over τ ∈ (0, 1] for slopes of one sign (discs s·D, s = 1/τ ≥ 1).

    The distance to s·D is Lipschitz in s with constant |c| + R (c, R of D) and grows beyond a known s; a branch and
    bound over s takes the rest. Each value is proved on the curve.
    """
    if a <= 0.0 <= b:
        return first  # The forbidden region only recedes as τ falls.
    center, radius = _disc(a, b)
    slope, growth = abs(center) + radius, abs(center) - radius
    if not first > 0.0 or not growth > 0.0:
        return math.nan
    top = max((norm + first) / growth, 1.0)
    values = {1.0: first}

    def value(s: float) -> float:
        if s not in values:
            values[s] = _below(curve.nearest(center * s).value, -radius * s, abs(center) * s)
        return values[s]

    intervals, bound = [(1.0, top)], math.inf
    floor = 0.02 * first
    while intervals:
        low, high = intervals.pop()
        lowest = 0.5 * (value(low) + value(high)) - 0.5 * slope * (high - low)
        if lowest >= floor:
            bound = min(bound, lowest)
        elif min(value(low), value(high)) <= floor or len(values) > 120:
            return math.nan
        else:
            middle = 0.5 * (low + high)
            intervals += [(low, middle), (middle, high)]
    return min(bound, first)


def scaled_relative_graphs(
    sys: Any, slopes: tuple[float, float], *, omega: Any = None, omega_num: int = 400
) -> ScaledRelativeGraphs:
    """Judge a square loop u = -φ(y), slopes of φ in [a, b], by the separation of scaled relative graphs.

    Certified (incrementally ℓ₂ stable) when the plant is proved stable and either the SRGs are separated for every
    scaling τφ, τ ∈ (0, 1] (Chaffey, Forni & Sepulchre 2023, Theorem 2), or they are separated at τ = 1 and the loop of
    a constant slope inside [a, b] is proved stable (the Nyquist winding). Separation at τ = 1 alone proves nothing.
    Continuous and discrete time. With several channels φ may be any map with ‖Δφ - (a+b)/2·Δy‖ ≤ (b-a)/2·‖Δy‖, diagonal
    maps included, and the plant's graph enters by proved bounds: the true separation may be larger.

    Parameters
    ----------
    sys : square plant, as `as_realization` takes it; slopes : (a, b), negative feedback.
    omega : frequencies [rad/s] of the picture; omega_num : how many, when they are chosen automatically.

    Raises
    ------
    ValueError
        For plants that are not square or not provably stable (close a nominal loop first), bad slopes, or
        frequencies that are empty, negative or not finite.

    Examples
    --------
    >>> import control
    >>> scaled_relative_graphs(control.tf([1], [1, 2, 1]), (0.0, 7.9)).verdict.value
    'certified'
    """
    a, b = _ordered(slopes)
    system = as_realization(sys, "sys")
    if system.inputs != system.outputs:
        raise ValueError(
            f"the plant has {system.inputs} inputs and {system.outputs} outputs; a scaled relative graph compares "
            "signals of one size: expected a square plant, or use structured_test"
        )
    if not internal_stability(system.a, discrete=system.is_discrete).is_stable:
        raise ValueError(
            "the plant is not provably stable, so its SRG is unbounded; close a loop with a constant gain inside the "
            "slopes first and shift the slopes by it, or use circle_criterion, which does that"
        )
    points = _frequencies(system, omega, omega_num)
    curve = _Curve(system)
    first = _separation(curve, a, b)
    middle = 0.5 * (a + b)
    guard = nominal_loop(system, -middle * np.eye(system.inputs)).is_stable
    norm = hinf_norm(system).value
    every = _separation_for_all_scalings(curve, a, b, first.value, norm)
    verdict, reason = _judged(every, first.value, guard)
    if system.inputs == 1:
        response = np.array([system.response(w)[0, 0] for w in points])
        hull = _hull(response)
    else:
        response, hull = _sampled_graph(system, points), _outline(system, norm)
    return ScaledRelativeGraphs(
        verdict,
        reason,
        (a, b),
        first.value,
        every,
        first.frequency,
        guard,
        points,
        response,
        hull,
        counts_samples=system.counts_samples,
    )


def _judged(separation_all: float, separation: float, guard: bool) -> tuple[Verdict, str]:
    if separation_all > 0.0:
        return Verdict.CERTIFIED, "separated for every τ in (0, 1]"
    if separation > 0.0 and guard:
        return Verdict.CERTIFIED, "separated at τ = 1 and stable with a constant slope inside [a, b]"
    if separation > 0.0:
        reason = "separated at τ = 1 only, which proves nothing: the loop of the middle slope is not stable"
        return Verdict.INCONCLUSIVE, reason
    return Verdict.INCONCLUSIVE, "the graphs are not provably separated at τ = 1"


def _ordered(slopes: Any) -> tuple[float, float]:
    """Return slopes a ≤ b whose reciprocals and their squares float64 holds."""
    a, b = ordered_slopes(slopes)
    if any(s != 0.0 and not _SMALLEST <= abs(s) <= 1.0 / _SMALLEST for s in (a, b)):
        raise ValueError(
            f"slopes are {slopes!r}; expected zero or sizes between {_SMALLEST:g} and {1.0 / _SMALLEST:g}: choose "
            "units of the plant's signals in which gains are of order one"
        )
    return a, b


def _frequencies(system: Realization, omega: Any, count: int) -> np.ndarray:
    """Return the frequencies of a picture, chosen or checked."""
    if omega is None:
        return resonance_grid(system, whole_number(count, 2, "omega_num", most=1_000_000))
    given = real_array(omega)
    points = np.zeros(0) if given is None else np.atleast_1d(given)
    if points.ndim != 1 or not points.size or not np.isfinite(points).all() or (points < 0.0).any():
        raise ValueError(
            f"omega is {omega!r}; expected a list of at least one finite frequency ≥ 0 [rad/s] for the picture, or "
            "None to have them chosen (omega_num says how many)"
        )
    return points


def _sampled_graph(system: Realization, points: np.ndarray, count: int = 8) -> np.ndarray:
    """Return (frequencies, count) points of the graph in the upper half-plane, for random inputs of one frequency."""
    rng = np.random.default_rng(0)
    rows = []
    for omega in points:
        u = rng.standard_normal((system.inputs, count)) + 1j * rng.standard_normal((system.inputs, count))
        y = system.response(float(omega)) @ u
        size = np.linalg.norm(u, axis=0)
        ratio, along = np.linalg.norm(y, axis=0) / size, np.real((u.conj() * y).sum(axis=0)) / size**2
        rows.append(along + 1j * np.sqrt(np.maximum(ratio**2 - along**2, 0.0)))
    return np.array(rows)


def _outline(system: Realization, norm: float, count: int = 9) -> np.ndarray:
    """Return the upper edge of the intersection of discs that hold the graph, as points."""
    discs = srg_discs(system, norm * np.linspace(-1.0, 1.0, count))
    left, right = max(c - r for c, r in discs), min(c + r for c, r in discs)
    x = np.linspace(left, max(left, right), 181)
    height = np.min([np.sqrt(np.maximum(r**2 - (x - c) ** 2, 0.0)) for c, r in discs], axis=0)
    return x + 1j * height


def _hull(response: np.ndarray) -> np.ndarray:
    """Return the hyperbolically convex hull of samples: the Euclidean hull in the Beltrami-Klein disc, mapped back."""
    from scipy.spatial import ConvexHull, QhullError

    values: Any = response
    upper: Any = values.real + 1j * np.abs(values.imag)
    upper = np.concatenate([upper, upper.real[np.abs(upper.imag) < 1e-12] + 0j])
    size = max(float(np.abs(upper).max()), 1e-300)
    w = upper / size
    cayley = (w - 1j) / (w + 1j)
    klein: Any = 2.0 * cayley / (1.0 + np.abs(cayley) ** 2)
    planar = np.column_stack([klein.real, klein.imag])
    try:
        hull = ConvexHull(planar)
    except QhullError:
        return upper  # All samples on one geodesic: the curve is its own hull.
    corners = planar[hull.vertices] @ np.array([1.0, 1j])
    following = np.roll(corners, -1)
    edges = np.linspace(0.0, 1.0, 12, endpoint=False)
    chain = (corners[:, None] * (1.0 - edges) + following[:, None] * edges).ravel()
    inside = chain / (1.0 + np.sqrt(np.maximum(1.0 - np.abs(chain) ** 2, 0.0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        back = 1j * (1.0 + inside) / (1.0 - inside)
    return size * back[np.isfinite(back)]


def srg_discs(sys: Any, centers: Any) -> list[tuple[float, float]]:
    """Bound the SRG of a square stable plant: it lies in every disc |z - c| ≤ ‖P - cI‖_∞, c real; returns (c, radius).

    For several inputs and outputs this intersection replaces the hull (radii are proved H∞ norms; inf if P is not
    stable).

    Examples
    --------
    >>> import control
    >>> [(c, round(r, 6)) for c, r in srg_discs(control.tf([1], [1, 1]), [0.0, 0.5])]
    [(0.0, 1.0), (0.5, 0.5)]
    """
    system = as_realization(sys, "sys")
    if system.inputs != system.outputs:
        raise ValueError(f"the plant is {system.outputs}×{system.inputs}; expected a square one")
    points = real_array(centers)
    if points is None or points.ndim > 1 or not np.isfinite(points).all():
        raise ValueError(f"centers is {centers!r}; expected a list of finite real numbers")
    found = []
    for center in np.atleast_1d(points):
        shifted = Realization(
            system.a, system.b, system.c, system.d - MidRad(center * np.eye(system.inputs)),
            system.sample_time, system.timebase,
        )  # fmt: skip
        found.append((float(center), hinf_norm(shifted).value))
    return found
