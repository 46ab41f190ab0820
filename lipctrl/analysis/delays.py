"""Delays as models: exact in discrete time, Padé with a proved error in continuous time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from lipctrl.analysis.hinf import hinf_norm
from lipctrl.analysis.loop import close_loop
from lipctrl.analysis.midrad import UNIT, MidRad, block
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.spectrum import internal_stability

_HIGHEST_ORDER = 12
# A delay has one state a sample: beyond so many, matrices fill the memory.
_MOST_SAMPLES = 5000


def delayed(sys: Any, samples: int | Sequence[int], at: Literal["input", "output"] = "input") -> Any:
    """Return a discrete-time system behind a delay of whole samples: exact, with one state a sample and channel.

    Parameters
    ----------
    sys : discrete plant as `as_realization` takes it; samples : ≥ 0, one number or one for each channel.
    at : "input" delays the inputs, "output" the outputs.

    Raises
    ------
    ValueError
        For a continuous-time system (see `pade`), negative or fractional samples, or the wrong number of them.

    Returns a `control.StateSpace` with the sampling time of `sys`.

    Examples
    --------
    >>> import control
    >>> late = delayed(control.tf([1], [1, -0.5], 0.1), 2)
    >>> late.nstates, bool(abs(late(1j) - control.tf([1], [1, -0.5, 0, 0], 0.1)(1j)) < 1e-12)
    (3, True)
    """
    system = delayed_realization(as_realization(sys, "sys"), samples, at)
    return _to_control(system, getattr(sys, "dt", system.sample_time))


def delayed_realization(system: Realization, samples: int | Sequence[int], at: str = "input") -> Realization:
    """Do what `delayed` does for a realisation, keeping its rounding radii."""
    if at not in ("input", "output"):
        raise ValueError(f"at is {at!r}; expected 'input' or 'output'")
    if not system.is_discrete:
        raise ValueError(
            "sys is a continuous-time system, in which a delay has no finite state: use pade(sys, tau, order), or "
            "sample the system first (control.sample_system)"
        )
    channels = system.inputs if at == "input" else system.outputs
    values = np.asarray(samples, dtype=np.float64)
    given = [float(d) for d in (np.full(channels, values) if values.ndim == 0 else values.ravel())]
    if len(given) != channels or any(not d.is_integer() or d < 0 for d in given):
        raise ValueError(
            f"samples is {samples!r}; expected a whole number ≥ 0, or one for each of {channels} {at}s"
        )
    if sum(given) > _MOST_SAMPLES:
        raise ValueError(
            f"samples is {samples!r}, {sum(given):g} in all; expected at most {_MOST_SAMPLES}, each is a state. "
            "Sample more slowly"
        )
    chain = _shift_registers([int(d) for d in given], system.sample_time, system.timebase)
    return series(system, chain) if at == "input" else series(chain, system)


def _shift_registers(counts: list[int], sample_time: float, timebase: str) -> Realization:
    n, m = sum(counts), len(counts)
    a, b, c, d = np.zeros((n, n)), np.zeros((n, m)), np.zeros((m, n)), np.zeros((m, m))
    start = 0
    for j, count in enumerate(counts):
        if count == 0:
            d[j, j] = 1.0
            continue
        b[start, j] = c[j, start + count - 1] = 1.0
        a[np.arange(start + 1, start + count), np.arange(start, start + count - 1)] = 1.0
        start += count
    return Realization(MidRad(a), MidRad(b), MidRad(c), MidRad(d), sample_time, timebase)


def series(last: Realization, first: Realization) -> Realization:
    """Return last·first of one timebase with every mode kept and every rounding enclosed."""
    zero = MidRad.zeros(first.states, last.states)
    return Realization(
        block([[last.a, last.b @ first.c], [zero, first.a]]),
        block([[last.b @ first.d], [first.b]]),
        block([[last.c, last.d @ first.c]]),
        last.d @ first.d,
        last.sample_time,
        last.timebase,
    )


def _to_control(system: Realization, dt: Any) -> Any:
    import control

    return control.ss(system.A, system.B, system.C, system.D, dt)


@dataclass(frozen=True)
class PadeDelay:
    """A system whose delay is replaced by an all-pass filter F, and how wrong that is at each frequency.

    `system` (`control.StateSpace`) is sys·F (or F·sys); `error(omega)` is a proved bound of |e^{-jωτ} - F(jω)| for the
    stored coefficients of F; `weight()` is a filter W with |W(jω)| ≥ error at every frequency, so that the delay is
    F + W·δ with some |δ| ≤ 1; `hinf_norm(gain)` bounds the closed loop with the *true* delay.
    """

    system: Any
    tau: float
    order: int
    at: str
    plant: Realization = field(repr=False)
    filter: Realization = field(repr=False)
    coefficients: np.ndarray = field(repr=False)

    def error(self, omega: Any) -> np.ndarray:
        """Return a proved bound of |e^{-jωτ} - F(jω)| at frequencies [rad/s], at most 2; ValueError for NaN."""
        x = np.abs(np.asarray(omega, dtype=np.float64)) * self.tau
        if np.isnan(x).any():
            raise ValueError("omega holds NaN; expected frequencies [rad/s]")
        with np.errstate(over="ignore", invalid="ignore"):
            powers = x[..., None] ** (2.0 * np.arange(len(self.coefficients)) + 1.0)
            bound = (powers @ self.coefficients) * (1.0 + 1e-12)
        # A coefficient of zero times an infinite power is no statement: two all-pass filters differ by at most 2.
        return np.where(bound < 2.0, bound, 2.0)

    def weight(self) -> Any:
        """Return W as a `control.StateSpace`: a high-pass filter of one channel, |W(jω)| ≥ error(ω) everywhere."""
        return _to_control(self._weight(), 0)

    def _weight(self) -> Realization:
        """Realise W = g(s + εω₀)^q/(Butterworth polynomial of order q), g = 2√(1 + η²).

        With v = ω/ω₀, |W| = g(v² + ε²)^(q/2)/√(1 + v^2q). Below the frequency x̄/τ at which the error bound reaches
        2, the leading term of the bound is at most 2η·v^q, ω₀ = η^(1/q)x̄/τ, as 2·order + 1 ≥ q; the rest, rounding of
        coefficients, is at most 2ηε^q. Beyond, v^q ≥ 1/η and |W| ≥ 2.
        """
        top, q, eta = self._saturation(), min(2 * self.order + 1, 9), 0.25
        rest = float(self.coefficients[:-1] @ top ** (2.0 * np.arange(self.order) + 1.0))
        floor = max(2.0 * rest / eta, 1e-14) ** (1.0 / q)
        return _high_pass(
            q, eta ** (1.0 / q) * top / self.tau, floor, 2.0 * math.hypot(1.0, eta) * (1.0 + 1e-9)
        )

    def _saturation(self) -> float:
        """Return an x = ωτ up to which the bound of the error is below 2."""
        low, high = 0.0, 1e3
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.error(middle / self.tau) < 2.0 else (low, middle)
        return low

    def hinf_norm(self, gain: Any) -> float:
        """Return a proved bound of ‖P(I + gain·P)⁻¹‖_∞, P the plant with the *true* delay: r to y of u = -gain·y + r.

        With the delay F + Wδ the loop is M₂₂ + δM₂₁(I - δM₁₁)⁻¹M₁₂, δ being one number at each frequency. Its norm is
        bounded by that of (M₂₂, M₂₁M₁₂) stacked, (|x| + |y|)² ≤ (1 + β)|x|² + (1 + 1/β)|y|², plus ‖M₂₁M₁₁M₁₂‖ and the
        rest of the series. inf where the loop with F is not stable or ‖M₁₁‖ ≥ 1: nothing is claimed then.
        """
        plant, delay = self.plant, self.filter
        k0 = -np.atleast_2d(np.asarray(gain, dtype=np.float64))
        if k0.shape != (plant.inputs, plant.outputs):
            raise ValueError(f"gain has shape {k0.shape}; expected ({plant.inputs}, {plant.outputs})")
        if not np.isfinite(k0).all():
            raise ValueError(f"gain is {gain!r}; expected finite numbers")
        nominal = series(plant, delay) if self.at == "input" else series(delay, plant)
        closed = close_loop(nominal, MidRad(k0))
        if closed is None or not internal_stability(closed.a, discrete=False).is_stable:
            return math.inf
        channels = plant.inputs if self.at == "input" else plant.outputs
        weight = _repeated(self._weight(), channels)
        around, into, out = self._perturbed(k0, weight)
        loop = hinf_norm(around).value
        if not loop < 1.0:
            return math.inf
        ends = hinf_norm(out).value * hinf_norm(into).value
        rest = hinf_norm(series(out, series(around, into))).value + ends * loop**2 / (1.0 - loop)
        once = series(out, into)
        sums = (hinf_norm(_stacked(closed, once, beta)).value for beta in (1e-3, 1e-2, 0.1, 1.0))
        return (min(sums) + rest) * (1.0 + 1e-14)

    def _perturbed(self, k0: np.ndarray, weight: Realization) -> tuple[Realization, Realization, Realization]:
        """Return (w → z, r → z, w → y), where w = δz stands for the error of the delay."""
        m, p = self.plant.inputs, self.plant.outputs
        front = _opened(self.plant, self.filter, self.at)
        extra = front.inputs - m
        zero = MidRad.zeros
        closing = block(
            [[MidRad(k0), zero(m, front.outputs - p)], [zero(extra, p), zero(extra, front.outputs - p)]]
        )
        closed = close_loop(front, closing)
        assert closed is not None
        seen = _rows(closed, slice(p, None))
        command, added = slice(0, m), slice(m, None)
        around = series(weight, _columns(seen, added))
        return around, series(weight, _columns(seen, command)), _columns(_rows(closed, slice(0, p)), added)


def pade(sys: Any, tau: float, order: int = 4, at: Literal["input", "output"] = "input") -> PadeDelay:
    """Replace the delay e^{-sτ} of a continuous-time system by its Padé all-pass, with a proved bound of the error.

    The filter F has numerator and denominator of the given order, alike in every channel. Its phase differs from -ωτ by
    at most (n!/(2n)!)²(ωτ)^{2n+1}/(2n+1), n = order, since the derivative of the difference is
    (n!/(2n)!)²x^{2n}/|Q(jx)|² and |Q| ≥ 1; the same is evaluated in rational arithmetic for the coefficients
    as stored.

    Parameters
    ----------
    sys : continuous plant as `as_realization` takes it; tau : delay [s] > 0; order : 1 … 12.
    at : "input" delays every input, "output" every output.

    Raises
    ------
    ValueError
        For a discrete-time system (see `delayed`), a delay that is not positive and finite, or another order.

    Examples
    --------
    >>> import control
    >>> late = pade(control.tf([1], [1, 1]), tau=0.2, order=3)
    >>> bool(late.error(1.0) < 1e-9), round(late.hinf_norm(gain=[[2.0]]), 4)
    (True, 0.3724)
    """
    system = as_realization(sys, "sys")
    if system.is_discrete:
        raise ValueError("sys is in discrete time, in which a delay is exact: use delayed(sys, samples)")
    if at not in ("input", "output"):
        raise ValueError(f"at is {at!r}; expected 'input' or 'output'")
    if isinstance(order, bool) or not (isinstance(order, int | np.integer) and 1 <= order <= _HIGHEST_ORDER):
        raise ValueError(f"order is {order!r}; expected a whole number from 1 to {_HIGHEST_ORDER}")
    if not isinstance(tau, int | float | np.integer | np.floating) or not 1e-60 <= tau <= 1e60:
        raise ValueError(f"tau is {tau!r}; expected a positive finite delay [s], between 1e-60 and 1e60")
    tau = float(tau)
    parts = _sections(int(order), tau)
    channels = system.inputs if at == "input" else system.outputs
    one = _all_pass(parts)
    delay = _repeated(one, channels)
    whole = series(system, delay) if at == "input" else series(delay, system)
    return PadeDelay(_to_control(whole, 0), tau, int(order), at, system, delay, _error_polynomial(parts, tau))


# Factors s² + a·s + b as (a, b), or s + a as (a, None).
Section = tuple[float, float | None]


def _sections(order: int, tau: float) -> list[Section]:
    """Return the factors of the denominator of the Padé approximant of e^{-sτ}."""
    n = order
    polynomial = [
        math.factorial(2 * n - k) / (math.factorial(k) * math.factorial(n - k)) for k in range(n, -1, -1)
    ]
    roots = np.roots(np.array(polynomial) / polynomial[0])
    parts: list[Section] = [
        (-2.0 * float(z.real) / tau, float(abs(z)) ** 2 / tau**2) for z in roots if z.imag > 0.0
    ]
    return parts + [(-float(z.real) / tau, None) for z in roots if z.imag == 0.0]


def _all_pass(parts: list[Section]) -> Realization:
    """Realise Π (s² - as + b)/(s² + as + b) · Π (a - s)/(a + s); entries are exact multiples of the coefficients."""
    systems = []
    for a, b in parts:
        if b is None:
            unit = 2.0 ** round(math.log2(a))
            data = [[-a]], [[unit]], [[2.0 * (a / unit)]], [[-1.0]]
        else:
            unit = 2.0 ** round(0.5 * math.log2(b))
            data = [[-a, -b / unit], [unit, 0.0]], [[unit], [0.0]], [[-2.0 * (a / unit), 0.0]], [[1.0]]
        systems.append(_realized(*data))
    return _chain(systems)


def _realized(a: Any, b: Any, c: Any, d: Any) -> Realization:
    e, f, g, h = (MidRad(np.array(x, dtype=np.float64)) for x in (a, b, c, d))
    return Realization(e, f, g, h, 0.0, "continuous time")


def _chain(systems: list[Realization]) -> Realization:
    whole = systems[0]
    for system in systems[1:]:
        whole = series(system, whole)
    return whole


def _error_polynomial(parts: list[Section], tau: float) -> np.ndarray:
    """Return c with |e^{-jx} - F(jx/τ)| ≤ Σ c_k x^{2k+1}, in exact arithmetic up to its rounding upwards.

    The phase of F has the derivative -Σ 2a(b + ω²)/|s² + as + b|² (real factors: -2a/(a² + ω²)); τ minus this sum is
    N(ω²)/D(ω²) with D a product of positive factors. |D| is bounded from below by D(0) where no coefficient
    is negative, and factor by factor otherwise.
    """
    tops, bottoms, lowest = [], [], Fraction(1)
    for a, b in ((Fraction(a), None if b is None else Fraction(b)) for a, b in parts):
        if b is None:
            tops.append([2 * a])
            bottoms.append([a * a, Fraction(1)])
            lowest *= a * a
            continue
        slope = a * a - 2 * b
        tops.append([2 * a * b, 2 * a])
        bottoms.append([b * b, slope, Fraction(1)])
        lowest *= b * b if slope >= 0 else b * b - slope * slope / 4
    product = _product(bottoms)
    difference = [-Fraction(tau) * c for c in product]
    for i, top in enumerate(tops):
        for k, c in enumerate(_product([top, *bottoms[:i], *bottoms[i + 1 :]])):
            difference[k] += c
    least = product[0] if all(c >= 0 for c in product) else lowest
    scale = [abs(c) / least / (2 * k + 1) / Fraction(tau) ** (2 * k + 1) for k, c in enumerate(difference)]
    return np.array([float(c) for c in scale]) * (1.0 + 8.0 * UNIT)


def _product(polynomials: list[list[Fraction]]) -> list[Fraction]:
    out = [Fraction(1)]
    for factor in polynomials:
        new = [Fraction(0)] * (len(out) + len(factor) - 1)
        for i, x in enumerate(out):
            for j, y in enumerate(factor):
                new[i + j] += x * y
        out = new
    return out


def _high_pass(order: int, corner: float, floor: float, gain: float) -> Realization:
    """Realise gain·(s + floor·corner)^order over the Butterworth polynomial of an odd order."""
    first = _realized([[-corner]], [[corner]], [[gain * (floor - 1.0)]], [[gain]])
    systems = [first]
    for k in range(1, (order + 1) // 2):
        zeta = math.cos(math.pi * k / order)
        # (s + f)² - (s² + 2ζs + 1) over s² + 2ζs + 1, in units of the corner
        rest = [[2.0 * (floor - zeta), floor * floor - 1.0]]
        a = [[-2.0 * zeta * corner, -corner], [corner, 0.0]]
        systems.append(_realized(a, [[corner], [0.0]], rest, [[1.0]]))
    return _chain(systems)


def _repeated(one: Realization, channels: int) -> Realization:
    def diagonal(part: MidRad) -> MidRad:
        eye = np.eye(channels)
        return MidRad(np.kron(eye, part.mid), None if part.rad is None else np.kron(eye, part.rad))

    return Realization(diagonal(one.a), diagonal(one.b), diagonal(one.c), diagonal(one.d), 0.0, one.timebase)


def _opened(plant: Realization, delay: Realization, at: str) -> Realization:
    """Return [u; w] ↦ [y; x]: x enters the delay, w is added to what leaves it, u is the command and y the output."""
    whole = series(plant, delay) if at == "input" else series(delay, plant)
    m, p = plant.inputs, plant.outputs
    eye, zero = MidRad.eye, MidRad.zeros
    if at == "input":
        b = block([[plant.b], [zero(delay.states, m)]])
        seen, direct = zero(m, whole.states), [[whole.d, plant.d], [eye(m), zero(m, m)]]
    else:
        b = zero(whole.states, p)
        seen = block([[zero(p, delay.states), plant.c]])
        direct = [[whole.d, eye(p)], [plant.d, zero(p, p)]]
    return Realization(
        whole.a, block([[whole.b, b]]), block([[whole.c], [seen]]), block(direct), 0.0, whole.timebase
    )


def _stacked(first: Realization, second: Realization, beta: float) -> Realization:
    """Return [√(1 + β)·first; √(1 + 1/β)·second] on the same input."""
    sizes = [math.sqrt(x) * (1.0 + 1e-15) for x in (1.0 + beta, 1.0 + 1.0 / beta)]
    zero = MidRad.zeros
    left, right = first.c.scaled(sizes[0]), second.c.scaled(sizes[1])
    return Realization(
        block([[first.a, zero(first.states, second.states)], [zero(second.states, first.states), second.a]]),
        block([[first.b], [second.b]]),
        block([[left, zero(first.outputs, second.states)], [zero(second.outputs, first.states), right]]),
        block([[first.d.scaled(sizes[0])], [second.d.scaled(sizes[1])]]),
        first.sample_time,
        first.timebase,
    )


def _rows(system: Realization, rows: slice) -> Realization:
    return Realization(
        system.a, system.b, _part(system.c, rows, slice(None)), _part(system.d, rows, slice(None)),
        system.sample_time, system.timebase,
    )  # fmt: skip


def _columns(system: Realization, columns: slice) -> Realization:
    return Realization(
        system.a, _part(system.b, slice(None), columns), system.c, _part(system.d, slice(None), columns),
        system.sample_time, system.timebase,
    )  # fmt: skip


def _part(matrix: MidRad, rows: slice, columns: slice) -> MidRad:
    return MidRad(matrix.mid[rows, columns], None if matrix.rad is None else matrix.rad[rows, columns])
