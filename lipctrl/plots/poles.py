"""Closed-loop poles of the linear policies in an incremental ball: the family that one certificate covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import BLACK, CERTIFIED, FALSIFIED, GREY, Complex, axes_or_new, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class PoleSpread:
    """Poles of the nominal loop, (n,), and of sampled linear policies K₀ + Δ, ‖Δ‖ ≤ ρ, (samples, n).

    `scaled` says whether K₀, Δ and ρ are those of signals divided by the policy's scales; poles have no such units.
    """

    nominal: Complex
    poles: Complex
    radius: float
    sample_time: float
    scaled: bool = False

    @property
    def unstable(self) -> int:
        """Number of samples with a pole on or beyond the stability boundary."""
        if self.sample_time > 0.0:
            return int((np.abs(self.poles) >= 1.0).any(axis=1).sum())
        return int((self.poles.real >= 0.0).any(axis=1).sum())


def pole_spread(sys: Any, policy: Any, *, samples: int = 400, seed: int = 0) -> PoleSpread:
    """Sample linear policies u = (K₀ + Δ)y of a ball and return their closed-loop poles.

    Half of the Δ lie on the sphere ‖Δ‖₂ = ρ, half inside; all are real. Sampling finds instabilities, it never proves
    their absence.

    Parameters
    ----------
    sys, policy : as `lipctrl.analysis.ball_test` takes them; positive feedback u = π(y).

    Raises
    ------
    ValueError
        For an ill-posed nominal loop.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> plant, ball = control.tf([1], [1, -1]), IncrementalBall(center=[[-3.0]], radius=1.0)
    >>> spread = pole_spread(plant, ball, samples=20)
    >>> spread.nominal.real.tolist(), bool((spread.poles.real < 0.0).all())
    ([-2.0], True)
    """
    from lipctrl.analysis import as_realization, in_own_units

    if samples < 1:
        raise ValueError(f"samples is {samples}; expected at least one policy")
    system, ball, scales = in_own_units(as_realization(sys, "sys"), policy)
    rng = np.random.default_rng(seed)
    shape = (samples, ball.actions, ball.observations)
    delta = rng.normal(size=shape)
    delta /= np.linalg.norm(delta, ord=2, axis=(1, 2), keepdims=True)
    size = np.where(np.arange(samples) % 2 == 0, 1.0, rng.uniform(size=samples))
    gains = ball.center + ball.radius * size[:, None, None] * delta

    def closed(gain: np.ndarray) -> Complex:
        inner = gain
        if system.D.any():
            through = np.eye(system.inputs) - gain @ system.D
            if np.linalg.cond(through) > 1e12:
                raw = scales.raw_gain(gain).tolist()
                raise ValueError(
                    f"I - KD is singular for the policy K = {raw} of the ball: the loop is ill-posed, and "
                    "has no poles. Break the algebraic loop, for example with a sample of delay"
                )
            inner = np.linalg.solve(through, gain)
        return np.linalg.eigvals(system.A + system.B @ inner @ system.C).astype(np.complex128)

    return PoleSpread(
        closed(ball.center),
        np.stack([closed(g) for g in gains]),
        ball.radius,
        system.sample_time,
        not scales.trivial,
    )


@styled
def pole_spread_plot(spread: PoleSpread, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the poles of the policy family with the stability boundary.

    Discrete time: the unit circle; continuous time: the imaginary axis, both axes in rad/s.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> plant, ball = control.tf([1], [1, -1]), IncrementalBall(center=[[-3.0]], radius=1.0)
    >>> pole_spread_plot(pole_spread(plant, ball, samples=20)).get_xlabel()
    'Re [rad/s]'
    """
    ax = axes_or_new(ax, (5.8, 5.2))
    between = " between scaled signals" if spread.scaled else ""
    cloud = spread.poles.ravel()
    everything = np.concatenate([cloud, spread.nominal])
    ax.plot(cloud.real, cloud.imag, ".", color=CERTIFIED, alpha=0.35, markersize=4,
            label=f"{len(spread.poles)} linear policies, ‖Δ‖ ≤ {spread.radius:.3g}{between}")  # fmt: skip
    ax.plot(spread.nominal.real, spread.nominal.imag, "x", color=BLACK, markersize=10, markeredgewidth=2.5,
            label="nominal loop, Δ = 0")  # fmt: skip
    span = max(float(np.ptp(everything.real)), 2.0 * float(np.abs(everything.imag).max()), 1e-3)
    left, right = everything.real.min() - 0.12 * span, everything.real.max() + 0.12 * span
    top = float(np.abs(everything.imag).max()) + 0.12 * span
    if spread.sample_time > 0.0:
        angle = np.linspace(0.0, 2.0 * np.pi, 721)
        ax.plot(np.cos(angle), np.sin(angle), color=FALSIFIED, ls="--", label="unit circle")
        right = max(right, 1.0 + 0.05 * span)
        units = ""
    else:
        ax.axvline(0.0, color=FALSIFIED, ls="--", label="imaginary axis")
        right = max(right, 0.08 * span)
        units = " [rad/s]"
    ax.axhline(0.0, color=GREY, lw=0.8)
    ax.set(xlim=(left, right), ylim=(-top, top), xlabel=f"Re{units}", ylabel=f"Im{units}")
    ax.set_title(title or f"Poles of the policy family: {spread.unstable} unstable")
    legend_below(ax)
    legend = ax.get_legend()
    cloud_handle = legend.legend_handles[0] if legend is not None else None
    if cloud_handle is not None:
        cloud_handle.set(markersize=9, alpha=1.0)  # a dot of the cloud is too small to be recognised
    return ax
