"""Scaled relative graphs of a loop: the plant's, the nonlinearity's, and the distance between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.plots.style import (
    BLACK,
    CERTIFIED,
    FALSIFIED,
    GREY,
    SKY,
    Complex,
    axes_or_new,
    fit_height,
    forbidden_look,
    legend_below,
    room_across,
    shade_outside,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def srg_plot(
    graphs: Any, *, taus: Sequence[float] = (1.0, 0.7, 0.5), ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw SRG(P) with its Nyquist curve, and the boundary of -SRG(τφ)⁻¹ for several scalings τ.

    With several channels the shape is a proved bound of SRG(P), and dots are points of random inputs.
    The loop u = -φ(y) (negative feedback) is proved by separation for *every* τ in (0, 1], or at τ = 1 together with
    the nominal loop; the curves for τ < 1 show what separation at τ = 1 alone leaves open.

    Parameters
    ----------
    graphs : `lipctrl.analysis.ScaledRelativeGraphs`.
    taus : scalings to draw, each in (0, 1].

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import scaled_relative_graphs
    >>> srg_plot(scaled_relative_graphs(control.tf([1], [1, 2, 1]), (0.0, 7.9))).get_ylabel()
    'Im'
    """
    created = ax is None
    ax = axes_or_new(ax, (5.6, 6.0))
    hull = _points(graphs.hull)
    curve = _points(graphs.nyquist)
    several = curve.ndim > 1
    for mirror, name in ((hull, "bound of the SRG of P" if several else "SRG of P"), (hull.conj(), None)):
        ax.fill(mirror.real, mirror.imag, facecolor=SKY, alpha=0.35, edgecolor=CERTIFIED, lw=1.2, label=name)
    if several:
        dots = curve.ravel()
        ax.plot(
            dots.real, np.abs(dots.imag), ".", color=CERTIFIED, markersize=2, label="pairs of random inputs"
        )
    else:
        ax.plot(curve.real, np.abs(curve.imag), color=CERTIFIED, lw=2.0, label="Nyquist curve of P")
    first = _points([0.0])
    for k, tau in enumerate(taus):
        edge = _points(graphs.forbidden(tau))
        ax.plot(
            edge.real, edge.imag, color=FALSIFIED, ls=("-", "--", ":", "-.")[k % 4], lw=2.0 if k == 0 else 1.3,
            label=f"-SRG(τφ)⁻¹, τ = {tau:g}",
        )  # fmt: skip
        if k == 0:
            first = edge
    _frame(ax, hull, first, graphs.slopes)
    room_across(ax)
    _shade(ax, first, graphs.slopes)
    ax.axhline(0.0, color=GREY, lw=0.8)
    ax.axvline(0.0, color=GREY, lw=0.8)
    ax.plot(0.0, 0.0, ".", color=BLACK)
    ax.set_aspect("equal")
    ax.set(xlabel="Re", ylabel="Im")
    found = f"{_proved(graphs.separation)} at τ = 1, {_proved(graphs.separation_all)} over all τ"
    ax.plot([], [], " ", label=f"proved separation: {found}")
    ax.set_title(title or f"SRG: {graphs.verdict}")
    if created:
        fit_height(ax, 6)
    legend_below(ax)
    return ax


def _frame(ax: Axes, hull: Complex, edge: Complex, slopes: tuple[float, float]) -> None:
    """Show the graph of P, the origin, and what of the edge is near them."""
    shown = _points(np.concatenate([hull, hull.conj(), [0.0]]))
    span = max(float(np.ptp(shown.real)), float(np.ptp(shown.imag)), 1e-12)
    straight = slopes[0] * slopes[1] == 0.0
    near = _points(edge.real) if straight else edge[np.abs(edge) <= 4.0 * span]
    shown = _points(np.concatenate([shown, near]))
    pad = 0.08 * max(float(np.ptp(shown.real)), float(np.ptp(shown.imag)), span)
    ax.set(
        xlim=(shown.real.min() - pad, shown.real.max() + pad),
        ylim=(shown.imag.min() - pad, shown.imag.max() + pad),
    )


def _proved(separation: float) -> str:
    return f"{separation:.3g}" if separation > 0.0 else "none"


def _points(values: Any) -> Complex:
    return np.asarray(values, dtype=np.complex128)


def _shade(ax: Axes, edge: Complex, slopes: tuple[float, float]) -> None:
    """Shade -SRG(φ)⁻¹: a disc for slopes of one sign, the outside of a disc for both signs, a half plane between."""
    look = {**forbidden_look(""), "label": None, "lw": 0.0, "alpha": 0.2}
    if slopes[0] * slopes[1] > 0.0:
        ax.fill(edge.real, edge.imag, **look)
    elif slopes[0] * slopes[1] < 0.0:
        middle = 0.5 * float(edge.real.min() + edge.real.max())
        shade_outside(ax, middle, 0.5 * float(np.ptp(edge.real)), look)
    elif any(slopes):
        side = float(edge.real[0])
        ax.axvspan(*sorted((side, 50.0 * side)), **look)
