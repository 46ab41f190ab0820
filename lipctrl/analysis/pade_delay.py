"""Delays of continuous-time systems as Padé all-pass filters, and what a loop with the true delay can do at most."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lipctrl.analysis.all_pass import all_pass, error_polynomial, high_pass, sections
from lipctrl.analysis.arguments import one_of, whole_number
from lipctrl.analysis.hinf import hinf_norm
from lipctrl.analysis.interconnection import inputs, outputs, repeated, series, stacked
from lipctrl.analysis.loop import close_loop, real_gain
from lipctrl.analysis.midrad import MidRad, block
from lipctrl.analysis.plant import Realization, as_realization, to_control
from lipctrl.analysis.spectrum import internal_stability

_HIGHEST_ORDER = 12


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

    def __str__(self) -> str:
        return (
            f"Padé model of order {self.order} of a delay of {self.tau:.6g} s at the plant's {self.at}: "
            f"{self.system.nstates} states, {self.system.ninputs} inputs, {self.system.noutputs} outputs"
        )

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
        return to_control(self._weight(), 0)

    def _weight(self) -> Realization:
        """Realise W = g(s + εω₀)^q/(Butterworth polynomial of order q), g = 2√(1 + η²).

        With v = ω/ω₀, |W| = g(v² + ε²)^(q/2)/√(1 + v^2q). Below the frequency x̄/τ at which the error bound reaches
        2, the leading term of the bound is at most 2η·v^q, ω₀ = η^(1/q)x̄/τ, as 2·order + 1 ≥ q; the rest, rounding of
        coefficients, is at most 2ηε^q. Beyond, v^q ≥ 1/η and |W| ≥ 2.
        """
        top, q, eta = self._saturation(), min(2 * self.order + 1, 9), 0.25
        rest = float(self.coefficients[:-1] @ top ** (2.0 * np.arange(self.order) + 1.0))
        floor = max(2.0 * rest / eta, 1e-14) ** (1.0 / q)
        return high_pass(
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
        k0 = -real_gain(gain)
        if k0.shape != (plant.inputs, plant.outputs):
            raise ValueError(f"gain has shape {k0.shape}; expected ({plant.inputs}, {plant.outputs})")
        if not np.isfinite(k0).all():
            raise ValueError(f"gain is {gain!r}; expected finite numbers")
        nominal = series(plant, delay) if self.at == "input" else series(delay, plant)
        closed = close_loop(nominal, MidRad(k0))
        if closed is None or not internal_stability(closed.a, discrete=False).is_stable:
            return math.inf
        channels = plant.inputs if self.at == "input" else plant.outputs
        weight = repeated(self._weight(), channels)
        around, into, out = self._perturbed(k0, weight)
        loop = hinf_norm(around).value
        if not loop < 1.0:
            return math.inf
        ends = hinf_norm(out).value * hinf_norm(into).value
        rest = hinf_norm(series(out, series(around, into))).value + ends * loop**2 / (1.0 - loop)
        once = series(out, into)
        sums = (hinf_norm(stacked(closed, once, beta)).value for beta in (1e-3, 1e-2, 0.1, 1.0))
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
        seen = outputs(closed, slice(p, None))
        command, added = slice(0, m), slice(m, None)
        around = series(weight, inputs(seen, added))
        return around, series(weight, inputs(seen, command)), inputs(outputs(closed, slice(0, p)), added)


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
    one_of(at, ("input", "output"), "at")
    whole_number(order, 1, "order", most=_HIGHEST_ORDER)
    if not isinstance(tau, int | float | np.integer | np.floating) or not 1e-60 <= tau <= 1e60:
        raise ValueError(f"tau is {tau!r}; expected a positive finite delay [s], between 1e-60 and 1e60")
    tau = float(tau)
    parts = sections(int(order), tau)
    channels = system.inputs if at == "input" else system.outputs
    one = all_pass(parts)
    delay = repeated(one, channels)
    whole = series(system, delay) if at == "input" else series(delay, system)
    return PadeDelay(to_control(whole, 0), tau, int(order), at, system, delay, error_polynomial(parts, tau))


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
