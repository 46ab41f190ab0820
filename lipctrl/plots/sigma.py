"""Singular values of T over frequency with the line 1/ρ that they must stay below."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lipctrl.plots.response import LoopResponse
from lipctrl.plots.style import (
    BLACK,
    CERTIFIED,
    FALSIFIED,
    GREY,
    SKY,
    axes_or_new,
    legend_below,
    plain_log_ticks,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def sigma_plot(
    response: LoopResponse, *, db: bool = False, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw σ(T(jω)) against ω [rad/s] with the line 1/ρ: the ball is certified when the proved peak is below it.

    `db=True` labels the vertical axis in decibel; the default is ratios on a logarithmic axis.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> from lipctrl.plots import loop_response
    >>> response = loop_response(control.tf([1], [1, -1]), IncrementalBall(center=[[-3.0]], radius=1.0))
    >>> sigma_plot(response).get_ylabel()
    'σ of T [ratio]'
    """
    ax = axes_or_new(ax)
    scale = (lambda v: 20.0 * np.log10(v)) if db else (lambda v: v)
    values = np.maximum(response.singular_values, np.finfo(float).tiny)
    shown = values[:, values.max(axis=0) > 1e-12 * values.max()]
    ax.semilogx(response.omega, scale(shown[:, 0]), color=CERTIFIED, label="largest σ of T(jω)")
    for k in range(1, shown.shape[1]):
        ax.plot(response.omega, scale(shown[:, k]), color=SKY, lw=1.3, label="other σ" if k == 1 else None)
    finite = math.isfinite(response.norm)
    if finite:
        name = f"proved peak {response.norm:.4g}"
        if math.isfinite(response.peak) and response.omega[0] <= response.peak <= response.omega[-1]:
            ax.plot(response.peak, scale(response.norm), "o", color=BLACK, zorder=5,
                    label=f"{name} at {response.peak:.3g} {response.rate}")  # fmt: skip
        else:
            ax.axhline(scale(response.norm), color=BLACK, lw=1.2, ls=":", label=name)
    tops = [float(values.max())]
    if response.radius > 0.0:
        line = 1.0 / response.radius
        tops.append(line)
        ax.axhline(scale(line), color=FALSIFIED, ls="--", label=f"1/ρ = {line:.4g}")
    if not db:
        ax.set_yscale("log")
    high, low = 3.0 * max(tops), max(float(shown.min()), 1e-4 * max(tops)) / 1.5
    ax.set_ylim(scale(low), scale(high))
    if response.radius > 0.0:
        ax.axhspan(scale(1.0 / response.radius), scale(high), color=FALSIFIED, alpha=0.12, lw=0)
    if response.sample_time > 0.0:
        ax.axvline(math.pi / response.sample_time, color=GREY, lw=1.2, ls="-.", label="Nyquist frequency")
    if not db:
        plain_log_ticks(ax)
    quantity = "σ of T between scaled signals" if response.scaled else "σ of T"
    ax.set(xlabel=f"frequency ω [{response.rate}]", ylabel=f"{quantity} {'[dB]' if db else '[ratio]'}")
    ax.set_xlim(response.omega[0], response.omega[-1] * 1.05)
    ax.set_title(title or f"Small gain around the centre: {response.verdict}")
    legend_below(ax, 2)
    return ax
