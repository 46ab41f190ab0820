"""Nyquist plots with the region that an incremental ball of policies forbids, and its centre."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lipctrl.plots.response import LoopResponse
from lipctrl.plots.style import (
    BLACK,
    CERTIFIED,
    GREY,
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

PLANES = ("plant", "inverse", "transformed")


@styled
def nyquist_plot(
    response: LoopResponse, *, plane: str | None = None, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw the Nyquist curve of a loop with one input and the set it must avoid for every policy of the ball.

    Parameters
    ----------
    response : from `loop_response`.
    plane : "plant" draws P with the forbidden disc {-1/κ : |κ - c| ≤ ρ}, c = -K₀ (incremental circle criterion in the
        negative-feedback convention u = -φ(y)) and its centre point -1/c; one input and one output only.
        "transformed" draws T = P(I - K₀P)⁻¹, which must stay inside |z| < 1/ρ. "inverse" takes a plant with one
        input and any number of outputs and draws (1 - K₀P)/(ρ‖P‖), the return difference over the reach of the ball,
        which must stay outside the unit disc: its modulus is 1/(ρ‖T(jω)‖), the margin. Default: "plant" for one
        output, else "inverse".

    Avoiding the region is half of the criterion; the other half is that the nominal loop is stable, which
    `response.verdict` includes and the title states.

    Raises
    ------
    ValueError
        For plants with several inputs: draw `sigma_plot` instead.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> from lipctrl.plots import loop_response
    >>> response = loop_response(control.tf([1], [1, -1]), IncrementalBall(center=[[-3.0]], radius=1.0))
    >>> nyquist_plot(response).get_xlabel()
    'Re'
    """
    outputs, inputs = response.plant.shape[1:]
    if plane is None:
        plane = "plant" if outputs == inputs == 1 else "inverse"
    if plane not in PLANES:
        raise ValueError(f"plane is {plane!r}; expected one of {PLANES}")
    if inputs != 1 or (outputs != 1 and plane != "inverse"):
        raise ValueError(
            f"the plant has {inputs} inputs and {outputs} outputs; a Nyquist curve in the plane {plane!r} needs "
            f"one input{'' if plane == 'inverse' else ' and one output'}: draw sigma_plot, which takes any shape"
        )
    created = ax is None
    ax = axes_or_new(ax, (5.6, 5.6))
    if plane == "plant":
        _plant_plane(response, ax)
    elif plane == "transformed":
        _transformed_plane(response, ax)
    else:
        _inverse_plane(response, ax)
    ax.axhline(0.0, color=GREY, lw=0.8)
    ax.axvline(0.0, color=GREY, lw=0.8)
    ax.set_aspect("equal")
    ax.set(xlabel="Re", ylabel="Im")
    ax.set_title(title or f"Nyquist: {response.verdict}")
    if created:
        fit_height(ax, 5 if plane == "plant" else 3)
    legend_below(ax, 1 if plane == "plant" else 2)
    return ax


def _curve(ax: Axes, values: Complex, name: str) -> None:
    first = values[0]
    if abs(first.imag) < 0.25 * abs(first.real):
        # No integrator: both halves meet on the real axis at ω = 0.
        values = np.concatenate([[first.real], values])
    ax.plot(values.real, values.imag, color=CERTIFIED, label=f"{name}, ω > 0")
    ax.plot(values.real, -values.imag, color=CERTIFIED, lw=1.1, ls="--", label="ω < 0")
    middle = len(values) // 2
    step = values[min(middle + 4, len(values) - 1)] - values[middle]
    if np.abs(step) > 0.0:
        arrow = {"arrowstyle": "-|>", "color": CERTIFIED, "lw": 2.0}
        ax.annotate(
            "", _xy(values[middle] + step), _xy(values[middle]), arrowprops=arrow, annotation_clip=True
        )


def _xy(z: complex) -> tuple[float, float]:
    return float(z.real), float(z.imag)


def _limits(ax: Axes, values: Complex, anchors: list[complex], reach: float = 2.5) -> None:
    """Frame the anchors and the part of the curve near them: integrators run off to infinity."""
    points = np.array([*anchors, 0.0])
    far = reach * max(float(np.abs(points).max()), 1e-12)
    shown = np.concatenate([points, values[np.abs(values) <= far]])
    shown = np.concatenate([shown, shown.conj()])
    pad = 0.08 * max(float(np.ptp(shown.real)), float(np.ptp(shown.imag)), 1e-12)
    ax.set_xlim(shown.real.min() - pad, shown.real.max() + pad)
    ax.set_ylim(shown.imag.min() - pad, shown.imag.max() + pad)
    room_across(ax)


def _plant_plane(response: LoopResponse, ax: Axes) -> None:
    """Draw P and {-1/κ : |κ - c| ≤ ρ}: a disc, a half plane, or the outside of a disc, by the sign of |c| - ρ."""
    from matplotlib.patches import Circle

    values = response.plant[:, 0, 0]
    center, radius = -float(response.center[0, 0]), response.radius
    name = f"forbidden: -1/κ for slopes in [{center - radius:.3g}, {center + radius:.3g}]"
    style = forbidden_look(name)
    low, high = center - radius, center + radius
    anchors: list[complex] = []
    if center != 0.0:
        anchors.append(-1.0 / center)
    if low * high > 0.0:
        ends = (-1.0 / low, -1.0 / high)
        middle, size = sum(ends) / 2.0, abs(ends[0] - ends[1]) / 2.0
        anchors += [*ends, middle + 1j * size]
        _curve(ax, values, "P(jω)")
        _limits(ax, values, anchors)
        ax.add_patch(Circle((middle, 0.0), size, **style))
    elif low * high < 0.0:
        ends = (-1.0 / low, -1.0 / high)
        middle, size = sum(ends) / 2.0, abs(ends[0] - ends[1]) / 2.0
        anchors += [1.15 * ends[0], 1.15 * ends[1], middle + 1.15j * size]
        _curve(ax, values, "P(jω)")
        _limits(ax, values, anchors)
        shade_outside(ax, middle, size, style)
    elif radius > 0.0:
        end = -1.0 / (low or high)
        anchors += [end, 2.0 * end]
        _curve(ax, values, "P(jω)")
        _limits(ax, values, anchors)
        far = 50.0 * max(*np.abs(ax.get_xlim()), *np.abs(ax.get_ylim()))
        ax.axvspan(*sorted((end, np.copysign(far, end))), **style)
    else:
        _curve(ax, values, "P(jω)")
        _limits(ax, values, anchors)
    if center != 0.0:
        ax.plot(-1.0 / center, 0.0, "P", color=BLACK, markersize=10, label=f"centre -1/c, c = {center:.3g}")
    _note_poles(response, ax)


def _note_poles(response: LoopResponse, ax: Axes) -> None:
    if response.unstable_poles:
        ax.plot([], [], " ", label=f"unstable poles of P, to be encircled: {response.unstable_poles}")


def _transformed_plane(response: LoopResponse, ax: Axes) -> None:
    if response.transformed is None:
        raise ValueError("T = P(I - K₀P)⁻¹ is ill-posed here; there is no curve to draw")
    values = response.transformed[:, 0, 0]
    size = 1.0 / response.radius if response.radius > 0.0 else 1.5 * float(np.abs(values).max())
    _curve(ax, values, "T(jω)")
    _limits(ax, values, [1.15 * size, -1.15 * size, 1.15j * size])
    if response.radius > 0.0:
        name = f"forbidden: |z| ≥ 1/ρ = {size:.3g}"
        shade_outside(ax, 0.0, size, forbidden_look(name))
    ax.plot(0.0, 0.0, "P", color=BLACK, markersize=10, label="centre")


def _inverse_plane(response: LoopResponse, ax: Axes) -> None:
    """Draw (1 - K₀P)/(ρ‖P‖): its modulus is 1/(ρ‖T(jω)‖), so the unit disc is forbidden at every frequency."""
    from matplotlib.patches import Circle

    if response.radius == 0.0:
        raise ValueError(
            "the ball has radius 0, so that nothing is forbidden; expected a positive radius. Draw sigma_plot instead"
        )
    size = response.radius * np.linalg.norm(response.plant[:, :, 0], axis=1)
    difference = 1.0 - (response.center @ response.plant)[:, 0, 0]
    seen = size > 1e-12 * size.max()
    values = difference[seen] / size[seen]
    k = int(np.argmin(np.abs(values)))
    near = max(2.0, 2.0 * float(np.abs(values[k])))
    _curve(ax, values, "(1 - K₀P)/(ρ‖P‖)")
    _limits(ax, values, [near, -near, 1j * near], reach=1.6)
    name = "forbidden: |z| ≤ 1"
    ax.add_patch(Circle((0.0, 0.0), 1.0, **forbidden_look(name)))
    ax.plot(0.0, 0.0, "P", color=BLACK, markersize=10, label="centre")
    ax.plot(*_xy(values[k]), "o", color=BLACK, zorder=5,
            label=f"closest: {np.abs(values[k]):.3g} at {response.omega[seen][k]:.3g} {response.rate}")  # fmt: skip
