"""Popov and Zames-Falb searches: larger slopes for *time-invariant* φ, and no incremental statement at all.

These criteria prove ℓ₂ (L₂) stability of u = -φ(y) around zero for memoryless, time-invariant φ with φ(0) = 0. They do
not prove that trajectories approach one another: with the very same plant and slope, two solutions driven by
the same input may stay apart (Kulkarni & Safonov 2002; Fromion & Safonov 2004). They stand here so that a user sees
the difference; the incremental criterion is `lipctrl.max_slope`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.optimize

from lipctrl.analysis.channels import popov_channels, require_popov, square_stable
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.spectrum import internal_stability
from lipctrl.analysis.transfer import exact_transfer_function
from lipctrl.analysis.trigonometric import positive_on_circle, positive_on_half_line, rational
from lipctrl.analysis.zames_falb_channels import largest_slope

CLAIM = "non-incremental: stability about zero for memoryless time-invariant φ with φ(0) = 0"


@dataclass(frozen=True)
class MultiplierTest:
    """The largest slope (or sector bound) k for which a multiplier was proved; `claim` says what that means.

    `coefficients` are those of M = 1 - Σ c_i H_i over `basis` (Zames-Falb), or η of M = 1 + ηs (Popov). With several
    channels they are the diagonals of T and N of M = T + Ns (Popov, shape (2, m)), or the stack of H₀ and the matrices
    that are subtracted (Zames-Falb, shape (1 + basis, m, m)). `incremental` is always False.
    """

    slope: float
    criterion: str
    coefficients: np.ndarray
    basis: tuple[str, ...]
    claim: str = CLAIM
    incremental: bool = False

    def __str__(self) -> str:
        end = f"{self.slope:.6g}]" if math.isfinite(self.slope) else "inf)"
        return f"{self.criterion}: slopes [0, {end} ({self.claim})"


def _transfer_function(plant: Any, system: Realization) -> tuple[np.ndarray, np.ndarray] | None:
    """Return exact numerator and denominator of a stable SISO plant; None where only its realisation can be used."""
    if (system.inputs, system.outputs) != (1, 1):
        raise ValueError(
            f"the plant has {system.inputs} inputs and {system.outputs} outputs; expected as many of one as of the "
            "other"
        )
    if not internal_stability(system.a, discrete=system.is_discrete).is_stable:
        raise ValueError(
            "the plant is not provably stable; expected a stable plant. Close a nominal loop first (slopes [a, b] "
            "with a > 0: use the plant feedback(P, a) and the slope b - a)"
        )
    return exact_transfer_function(plant, system)


def popov_criterion(plant: Any) -> MultiplierTest:
    """Return the largest sector [0, k] that the Popov criterion proves; continuous time, u = -φ(y).

    Re[(1 + jωη)G(jω)] + 1/k > 0 for all ω with a real η ≥ 0 is decided exactly, as positivity of a polynomial in ω²
    (Sturm). φ is memoryless and time-invariant. **Not incremental.** A square plant with several channels takes
    diagonal φ, all in [0, k]: k⁻¹T + He (T + jωN)G ≻ 0, diagonal T ≻ 0, N ⪰ 0 (searched, then proved by level sets).

    Raises
    ------
    ValueError
        For unstable, discrete, biproper plants, or ones that are not square.

    Examples
    --------
    >>> import control
    >>> popov_criterion(control.tf([1], [1, 2, 1])).slope        # the circle criterion stops at 8
    inf
    >>> print(f"{popov_criterion(control.tf([1], [1, 3, 3, 1])).slope:.8f}")
    8.00000000
    """
    system = as_realization(plant)
    require_popov(system)
    if system.inputs == system.outputs > 1:
        if system.b.is_zero() or system.c.is_zero():
            square_stable(system)
            constant = np.array([np.ones(system.inputs), np.zeros(system.inputs)])
            return MultiplierTest(math.inf, "Popov", constant, ("1", "s"))
        k, t, eta = popov_channels(square_stable(system))
        return MultiplierTest(k, "Popov", np.array([t, eta]), ("1", "s"))
    exact = _transfer_function(plant, system)
    by_line = MultiplierTest(0.0, "Popov", np.zeros(1), ("s",)) if exact is None else _popov_line(*exact)
    if math.isinf(by_line.slope):
        return by_line
    # A second search follows the frequencies that limit its own proof; it finds what samples between them miss.
    k, _, eta = popov_channels(square_stable(system))
    if k > by_line.slope * (1.0 + 1e-12):
        return MultiplierTest(k, "Popov", eta, ("s",))
    return by_line


def _popov_line(num: np.ndarray, den: np.ndarray) -> MultiplierTest:
    """Return the bound of one channel (exact polynomials): the best η by tangents, proved by Sturm's theorem."""
    if not num.any():
        return MultiplierTest(math.inf, "Popov", np.zeros(1), ("s",))
    line = _PopovLine(num.astype(float), den.astype(float))
    kappa, eta = line.best()
    if kappa <= 1e-14 * line.size and _never_negative(_popov_polynomial(num, den, eta, 0.0)):
        return MultiplierTest(math.inf, "Popov", np.array([eta]), ("s",))
    kappa = max(kappa, 0.0)
    failed = kappa
    for slack in (1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-7, 1e-5, 1e-3, 0.1, 10.0):
        # The slack is relative to the size of the response, too, so that a plant with unbounded k stays finite.
        level = kappa * (1.0 + slack) + 1e-3 * slack * line.size
        if positive_on_half_line(_popov_polynomial(num, den, eta, level)):
            break
        failed = level
    else:
        return MultiplierTest(0.0, "Popov", np.zeros(1), ("s",))
    for _ in range(20):
        middle = 0.5 * (failed + level)
        if positive_on_half_line(_popov_polynomial(num, den, eta, middle)):
            level = middle
        else:
            failed = middle
    return MultiplierTest(math.nextafter(1.0 / level, 0.0), "Popov", np.array([eta]), ("s",))


def _never_negative(polynomial: np.ndarray) -> bool:
    """Prove p(x) ≥ 0 for x ≥ 0, zeros at x = 0 being divided out; with any 1/k > 0 that is positive."""
    nonzero = [i for i, c in enumerate(polynomial) if c != 0]
    return not nonzero or positive_on_half_line(polynomial[nonzero[0] :])


class _PopovLine:
    """κ(η) = max over ω of ηω Im G - Re G, convex in η: the smallest 1/k of a multiplier 1 + ηs, unverified."""

    def __init__(self, num: np.ndarray, den: np.ndarray) -> None:
        self._num, self._den, self._omega = num, den, _frequencies(den)
        self._samples = self._parts(self._omega)
        self.size = float(np.abs(self._response(self._omega)).max())
        poles = np.abs(np.roots(den))
        self._unit = 1.0 / float(poles.max(initial=1e-300))

    def _response(self, omega: np.ndarray) -> np.ndarray:
        return np.polyval(self._num, 1j * omega) / np.polyval(self._den, 1j * omega)

    def _parts(self, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return -Re G and ω Im G."""
        g: Any = self._response(omega)
        return -g.real, omega * g.imag

    def at(self, eta: float) -> tuple[float, float]:
        """Return κ(η) and a subgradient, the highest peaks refined between samples."""
        values = self._samples[0] + eta * self._samples[1]
        inner = np.flatnonzero((values[1:-1] >= values[:-2]) & (values[1:-1] >= values[2:])) + 1
        candidates = np.concatenate([inner[np.argsort(values[inner])[-3:]], [0, len(values) - 1]])
        best, slope = -math.inf, 0.0
        for k in candidates:
            left, right = self._omega[max(k - 1, 0)], self._omega[min(k + 1, len(values) - 1)]
            for _ in range(14):
                fine = np.linspace(left, right, 13)
                constant, linear = self._parts(fine)
                heights = constant + eta * linear
                j = int(np.argmax(heights))
                if heights[j] > best:
                    best, slope = float(heights[j]), float(linear[j])
                left, right = fine[max(j - 1, 0)], fine[min(j + 1, 12)]
        return best, slope

    def best(self) -> tuple[float, float]:
        """Return the smallest κ and its η ≥ 0; where some κ ≤ 0 is found, that is enough."""
        left = 0.0
        low, fall = self.at(left)
        if fall >= 0.0 or low <= 0.0:
            return low, left
        right = self._unit
        high, rise = self.at(right)
        while rise < 0.0 < high and right < 1e12 * self._unit:
            left, low, fall = right, high, rise
            right *= 4.0
            high, rise = self.at(right)
        if rise <= 0.0 or high <= 0.0:
            return high, right
        for _ in range(80):
            # Where the two tangents meet: no κ is below.
            eta = (low - high + rise * right - fall * left) / (rise - fall)
            bound = low + fall * (eta - left)
            if not left < eta < right:
                break
            value, slope = self.at(eta)
            if slope < 0.0:
                left, low, fall = eta, value, slope
            else:
                right, high, rise = eta, value, slope
            if value <= 0.0 or value - bound <= 1e-14 * abs(value):
                break
        return min((low, left), (high, right))


def _frequencies(den: np.ndarray) -> np.ndarray:
    poles = np.abs(np.roots(den)) if len(den) > 1 else np.ones(1)
    poles = poles[poles > 0.0] if (poles > 0.0).any() else np.ones(1)
    wide = np.geomspace(poles.min() * 1e-3, poles.max() * 1e3, 1200)
    near = np.concatenate([p * np.geomspace(0.7, 1.4, 80) for p in poles])
    return np.unique(np.concatenate([[0.0], wide, near]))


def _even_part(polynomial: np.ndarray) -> np.ndarray:
    """Return Re p(jω) as a polynomial in ω², lowest power first (p: highest power first)."""
    low = polynomial[::-1]
    even = low[0::2]
    return even * (-1) ** np.arange(len(even))


def _mirrored(polynomial: np.ndarray) -> np.ndarray:
    """Return p(-s)."""
    return polynomial * (-1) ** np.arange(len(polynomial) - 1, -1, -1)


def _popov_polynomial(num: np.ndarray, den: np.ndarray, eta: float, kappa: float) -> np.ndarray:
    """Return |den|²(Re[(1 + jωη)G] + κ) in exact rational arithmetic."""
    top, bottom = rational(num), rational(den)
    multiplied = np.convolve(rational([eta, 1.0]), top)
    return _even_part(np.convolve(_sum(multiplied, Fraction(kappa) * bottom), _mirrored(bottom)))


def zames_falb(
    plant: Any,
    *,
    order: int | None = None,
    odd: bool = False,
    repeated: bool = False,
    tolerance: float | None = None,
) -> MultiplierTest:
    """Return the largest slope k of time-invariant φ with slopes in [0, k] proved by a Zames-Falb multiplier.

    Searches M = 1 - Σ c_i H_i with Σ|c_i| ≤ 1 (c ≥ 0 unless φ is odd) such that Re[M(1/k + G)] > 0 at all frequencies:
    shifts z^{±i} in discrete time (finite impulse response, Carrasco et al. 2019), exponentials a/(a ± s) in
    continuous time. The search is a linear programme on samples; the result is proved between them. φ is memoryless
    and time-invariant, φ(0) = 0, u = -φ(y). **Not incremental.** A square plant with several channels takes diagonal
    φ; `repeated` says that all channels share the same φ, which admits full matrices of coefficients.

    Parameters
    ----------
    order : number of causal, and of anticausal terms (default 12; 3 with several channels or very many states).
    odd : whether φ is odd, which admits coefficients of both signs.
    repeated : whether φ_1 = φ_2 = …; only this justifies full multipliers.
    tolerance : relative accuracy of k (default 1e-5, or 1e-2 where the order is 3).

    Raises
    ------
    ValueError
        For unstable plants, plants that are not square, or an order below 1.

    Examples
    --------
    >>> import control
    >>> plant = control.tf([0.1, 0], [1, -1.8, 0.81], True)       # Carrasco et al. (2019), example 1
    >>> zames_falb(plant, order=4).slope > 10                     # incremental circle criterion: 0.79338
    True
    """
    system = as_realization(plant)
    several = system.inputs == system.outputs > 1
    exact = None if several else _transfer_function(plant, system)
    order = (3 if exact is None else 12) if order is None else order
    tolerance = (1e-2 if exact is None else 1e-5) if tolerance is None else tolerance
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
        raise ValueError(f"order is {order!r}; expected an integer of at least 1")
    if not (math.isfinite(tolerance) and tolerance > 0.0):
        raise ValueError(f"tolerance is {tolerance!r}; expected a positive number")
    if exact is None:
        return _several(square_stable(system), order, odd, repeated, tolerance)
    kind: Any = _DiscreteSearch if system.is_discrete else _ContinuousSearch
    search: _Search = kind(*exact, order, odd)
    ceiling = _nyquist_value(exact[0].astype(float), exact[1].astype(float), system.sample_time)
    if math.isinf(ceiling):
        # Every slope may be safe: a loop gain (or a slope) of a million is enough.
        ceiling = 1e6 / min(max(float(np.abs(search.response).max()), 1e-280), 1.0)
    k, c = _largest(search.prove, ceiling, tolerance)
    return MultiplierTest(k, "Zames-Falb", c, search.names)


def _several(system: Realization, order: int, odd: bool, repeated: bool, tolerance: float) -> MultiplierTest:
    k, found = largest_slope(system, order, odd=odd, repeated=repeated, tolerance=tolerance)
    name = "Zames-Falb (repeated φ)" if repeated else "Zames-Falb"
    claim = CLAIM + (", the same φ in every channel" if repeated else "")
    if found is None:
        return MultiplierTest(k, name, np.zeros((1, 0, 0)), (), claim)
    stack = np.concatenate([found.h[None], found.causal, found.anticausal])
    terms = tuple(f"F{r + 1}" for r in range(order)) + tuple(f"F{r + 1}*" for r in range(order))
    return MultiplierTest(k, name, stack, terms, claim)


def _nyquist_value(num: np.ndarray, den: np.ndarray, sample_time: float) -> float:
    """Return the smallest k > 0 at which 1 + kG has a root on the boundary (from sign changes), or inf."""
    if sample_time:
        omega = np.linspace(0.0, np.pi, 20001)
        points = np.exp(1j * omega)
    else:
        points = 1j * _frequencies(den)
    g = np.polyval(num, points) / np.polyval(den, points)
    crossing = np.flatnonzero(np.sign(g.imag[:-1]) * np.sign(g.imag[1:]) <= 0.0)
    real = np.concatenate([np.minimum(g.real[crossing], g.real[crossing + 1]), g.real[[0, -1]]])
    return float(-1.0 / real.min()) * 1.01 if real.min() < 0.0 else math.inf


def _largest(
    prove: Callable[[float], np.ndarray | None], ceiling: float, tolerance: float
) -> tuple[float, np.ndarray]:
    """Bisect (in the logarithm) for the largest proved k."""
    best, coefficients = 0.0, np.zeros(0)
    low, high = ceiling * 1e-6, ceiling
    found = prove(high)
    if found is not None:
        return high, found
    while high / low > 1.0 + tolerance:
        middle = math.sqrt(low * high)
        found = prove(middle)
        if found is None:
            high = middle
        else:
            low = best = middle
            coefficients = found
    return best, coefficients


class _Search(ABC):
    """A linear programme for the coefficients at sampled frequencies, and a proof for all of them."""

    names: tuple[str, ...]

    def __init__(self, response: np.ndarray, basis: np.ndarray, odd: bool) -> None:
        self.response, self.basis, self.odd = response, basis, odd

    def guess(self, k: float) -> np.ndarray | None:
        """Maximise t with Re[(1 - Σ c_i H_i)(1 + kG)] ≥ t·|1 + kG| at the samples, Σ|c_i| ≤ 1."""
        loop = 1.0 + k * self.response
        size = np.maximum(np.abs(loop), 1e-12)
        columns = (self.basis * loop[:, None]).real / size[:, None]
        signed = np.hstack([columns, -columns]) if self.odd else columns
        count = signed.shape[1]
        rows = np.vstack([np.hstack([signed, np.ones((len(loop), 1))]), np.append(np.ones(count), 0.0)])
        limits = np.append(loop.real / size, 1.0 - 1e-9)
        cost = np.append(np.zeros(count), -1.0)
        solution = scipy.optimize.linprog(cost, rows, limits, bounds=[(0.0, None)] * count + [(None, 1.0)])
        if not solution.success or solution.x[-1] <= 0.0:
            return None
        c = solution.x[:-1]
        return c[: count // 2] - c[count // 2 :] if self.odd else c

    def prove(self, k: float) -> np.ndarray | None:
        """Return proved coefficients at slope k, or None."""
        c = self.guess(k)
        if c is None or np.abs(c).sum() > 1.0:
            return None
        return c if self.positive(k, c) else None

    @abstractmethod
    def positive(self, k: float, c: np.ndarray) -> bool:
        """Prove that the multiplier with coefficients c is positive at slope k."""


class _DiscreteSearch(_Search):
    def __init__(self, top: np.ndarray, bottom: np.ndarray, order: int, odd: bool) -> None:
        # Rounded to doubles: what `positive_on_circle` allows for holds more than that.
        num, den = top.astype(float), bottom.astype(float)
        self.num, self.den, self.order = num, den, order
        angles = np.abs(np.angle(np.roots(den))) if len(den) > 1 else np.zeros(0)
        near = [a + np.linspace(-0.15, 0.15, 60) for a in angles]
        omega = np.concatenate([np.linspace(0.0, np.pi, 500), *near])
        omega = np.unique(omega[(omega >= 0.0) & (omega <= np.pi)])
        z = np.exp(1j * omega)
        shifts = np.array([*range(1, order + 1), *range(-1, -order - 1, -1)])
        super().__init__(np.polyval(num, z) / np.polyval(den, z), z[:, None] ** -shifts[None, :], odd)
        self.shifts = shifts
        self.names = tuple(f"z^{-i}" for i in shifts)

    def positive(self, k: float, c: np.ndarray) -> bool:
        padded = np.concatenate([np.zeros(len(self.den) - len(self.num)), self.num])
        # (den + k·num)·conj(den): coefficients of e^{jωi}, i = -n…n, highest first.
        loop = np.convolve(self.den + k * padded, self.den[::-1])
        if len(self.num) == len(self.den) and not 1.0 + k * self.num[0] / self.den[0] > 1e-9:
            return False  # Some slope of the class has no unique solution at a sample.
        multiplier = np.zeros(2 * self.order + 1)
        multiplier[self.order] = 1.0
        multiplier[self.order + self.shifts] -= c
        terms = np.abs(self.den).sum() * (np.abs(self.den).sum() + k * np.abs(self.num).sum())
        return positive_on_circle(np.convolve(multiplier, loop), float(np.abs(multiplier).sum() * terms))


class _ContinuousSearch(_Search):
    def __init__(self, top: np.ndarray, bottom: np.ndarray, order: int, odd: bool) -> None:
        self.exact = top, bottom
        num, den = top.astype(float), bottom.astype(float)
        poles = np.abs(np.roots(den)) if len(den) > 1 else np.ones(1)
        poles = poles[poles > 0.0]
        self.rates = np.geomspace(0.2 * poles.min(), 5.0 * poles.max(), min(order, 6))
        s = 1j * _frequencies(den)
        causal = self.rates / (self.rates + s[:, None])
        super().__init__(np.polyval(num, s) / np.polyval(den, s), np.hstack([causal, causal.conj()]), odd)
        self.names = tuple(f"{a:.4g}/({a:.4g}{sign}s)" for sign in "+-" for a in self.rates)

    def positive(self, k: float, c: np.ndarray) -> bool:
        # Multiplied by Π(a² + ω²)·|den|², in rational arithmetic, a polynomial in ω² remains.
        rates, weights = rational(self.rates), rational(c)
        num, den = self.exact
        if len(num) == len(den) and not 1 + Fraction(k) * num[0] / den[0] > 0:
            return False  # Ill-posed for some slope of the class.
        factors = [rational([-1.0, 0.0, 0.0]) for _ in rates]
        for factor, a in zip(factors, rates, strict=True):
            factor[2] = a * a
        multiplier = _product(factors)
        for i, a in enumerate(rates):
            rest = _product([f for j, f in enumerate(factors) if j != i])
            for sign, weight in ((-1, weights[i]), (1, weights[len(rates) + i])):
                side = rational([sign, 0.0])
                side[1] = a
                multiplier = _sum(multiplier, -weight * a * np.convolve(side, rest))
        loop = np.convolve(_sum(den, Fraction(k) * num), _mirrored(den))
        return positive_on_half_line(_even_part(np.convolve(multiplier, loop)))


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Add polynomials, highest power first."""
    size = max(len(a), len(b))
    zero = rational(np.zeros(size))
    left, right = zero.copy(), zero
    left[size - len(a) :] += a
    right[size - len(b) :] += b
    return left + right


def _product(factors: list[np.ndarray]) -> np.ndarray:
    total = rational([1.0])
    for factor in factors:
        total = np.convolve(total, factor)
    return total
