"""The gains and phases that a disk margin allows at once, and the perturbation found beyond them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.analysis.disk import DiskMargin
from lipctrl.analysis.disk_ends import gain_interval
from lipctrl.analysis.incremental_disk import IncrementalDiskMargin
from lipctrl.analysis.units import in_units
from lipctrl.plots.style import (
    BLACK,
    BLUE,
    CERTIFIED,
    FALSIFIED,
    GREY,
    SKY,
    Complex,
    axes_or_new,
    legend_below,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ends farther off than _NONE are drawn as none: the region runs off the sheet, _FAR beyond what else is shown [dB].
_FAR, _NONE = 20.0, 80.0


@styled
def disk_margin_plot(
    margin: DiskMargin | IncrementalDiskMargin, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw the gains and phases of f that a disk margin certifies together, and the f found to destabilise.

    Parameters
    ----------
    margin : from `lipctrl.disk_margin` or `lipctrl.analysis.incremental_disk_margin`. Each channel is multiplied by an
        f = (1 + bδ)/(1 - aδ) of its own. Blue: f may be anywhere in it, in every channel at once, uncertain but fixed.
        Sky blue, where that is smaller: f may also vary in time. Dashed: the weakest channel, perturbed alone. The
        crosses, one a channel, destabilise together at the frequency in the legend. A phase of either sign is drawn
        upwards.

    Raises
    ------
    ValueError
        For any other margin; `gain_sweep_plot` draws that of the gain alone.

    Examples
    --------
    >>> import control
    >>> import lipctrl
    >>> ax = disk_margin_plot(lipctrl.disk_margin(control.tf([25], [1, 10, 10, 10])))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('gain of f [dB]', 'phase of f [°]')
    """
    if not isinstance(margin, DiskMargin | IncrementalDiskMargin):
        raise ValueError(
            f"the margin is a {type(margin).__name__}; expected a DiskMargin (disk_margin) or an IncrementalDiskMargin "
            "(incremental_disk_margin). Draw a gain margin with gain_sweep_plot or margin_intervals_plot"
        )
    ax = axes_or_new(ax, (6.4, 4.4))
    found, alone = _falsified(margin), _alone(margin)
    weakest = int(np.argmin(alone))
    gains, phases = _grid(float(alone[weakest]), margin.skew, found)
    handles = [_region(ax, margin.alpha, margin.skew, (gains, phases), (BLUE, 0.45, "certified"))]
    if margin.alpha_varying < margin.alpha * (1.0 - 1e-5):
        look = (SKY, 1.0, "also varying in time")
        handles.append(_region(ax, margin.alpha_varying, margin.skew, (gains, phases), look))
    if len(alone) > 1:
        name = margin.channel_names[weakest] if margin.channel_names else f"channel {weakest + 1}"
        handles += _outline(ax, name, float(alone[weakest]), margin.skew, (gains, phases))
    handles += _ends(ax, margin)
    ax.set(
        xlim=(gains[0], gains[-1]), ylim=(0.0, phases[-1]), xlabel="gain of f [dB]", ylabel="phase of f [°]"
    )
    if found.size:
        handles += _crosses(ax, margin, found)
    ax.set_title(title or f"Disk margin, skew {margin.skew:g}")
    legend_below(ax, 2, handles=handles)
    return ax


def _falsified(margin: DiskMargin | IncrementalDiskMargin) -> Complex:
    """Return the f = (1 + bδ)/(1 - aδ) that destabilise, one a channel; none where none were found."""
    if isinstance(margin, DiskMargin):
        delta = np.diag(margin.perturbation).astype(np.complex128)
    elif margin.destabilization is None or margin.destabilization.matrix is None:
        return np.zeros(0, dtype=np.complex128)
    else:
        delta = np.asarray(margin.destabilization.matrix, dtype=np.complex128)
    a, b = 0.5 * (1.0 + margin.skew), 0.5 * (1.0 - margin.skew)
    with np.errstate(divide="ignore", invalid="ignore"):
        f = (1.0 + b * delta) / (1.0 - a * delta)
    return f if all(_has_place(abs(z)) for z in f) else np.zeros(0, dtype=np.complex128)


def _alone(margin: DiskMargin | IncrementalDiskMargin) -> np.ndarray:
    """Return the certified α of each channel perturbed alone."""
    singles = [m.alpha if isinstance(m, DiskMargin) else m for m in margin.channels]
    return np.array(singles or [margin.alpha])


def _decibels(gain: float | Complex) -> np.ndarray:
    return 20.0 * np.log10(np.abs(gain))


def _has_place(gain: float) -> bool:
    return 0.0 < gain < math.inf and abs(float(_decibels(gain))) < _NONE


def _degrees(f: Complex) -> np.ndarray:
    return np.degrees(np.abs(np.angle(f)))


def _inside(alpha: float, skew: float, f: Complex) -> np.ndarray:
    """Return numbers that are positive where f = (1 + bδ)/(1 - aδ) has |δ| < α."""
    reach = np.abs(0.5 * (1.0 + skew) * f + 0.5 * (1.0 - skew))
    return reach if math.isinf(alpha) else alpha * reach - np.abs(f - 1.0)


def _grid(alpha: float, skew: float, found: Complex) -> tuple[np.ndarray, np.ndarray]:
    """Return gains [dB] and phases [°] that frame a disk and the crosses."""
    least, largest = gain_interval(alpha, skew)
    shown = [0.0, *(float(_decibels(g)) for g in (least, largest) if _has_place(g)), *_decibels(found)]
    low, high = min(shown), max(shown)
    pad = 0.12 * max(high - low, 1.0)
    low -= pad if _has_place(least) else _FAR
    high += pad if _has_place(largest) else _FAR
    gains, phases = np.linspace(low, high, 401), np.linspace(0.0, 180.0, 721)
    inside = _inside(alpha, skew, _polar(gains, phases)).max(axis=1) > 0.0
    top = min(1.15 * max(float(phases[inside].max(initial=1.0)), *_degrees(found), 1.0), 180.0)
    return gains, np.linspace(0.0, top, 401)


def _polar(gains: np.ndarray, phases: np.ndarray) -> Complex:
    return np.exp(gains * (math.log(10.0) / 20.0) + 1j * np.radians(phases)[:, None])


def _region(ax: Axes, alpha: float, skew: float, where: tuple[np.ndarray, np.ndarray], look: Any) -> Any:
    """Fill the gains and phases of a disk; returns what the legend shows of it."""
    from matplotlib.patches import Patch

    color, opacity, words = look
    inside = _inside(alpha, skew, _polar(*where))
    ax.contourf(*where, inside, levels=[0.0, np.inf], colors=[color], alpha=opacity)
    ax.contour(*where, inside, levels=[0.0], colors=[CERTIFIED], linewidths=1.6)
    name = f"{words}: α < {alpha:.4g}" if math.isfinite(alpha) else f"{words}: every α"
    return Patch(facecolor=color, edgecolor=CERTIFIED, alpha=opacity, label=name)


def _outline(ax: Axes, name: str, alpha: float, skew: float, where: tuple[np.ndarray, np.ndarray]) -> Any:
    """Draw the border of the disk of one channel alone; returns what the legend shows of it."""
    inside = _inside(alpha, skew, _polar(*where))
    ax.contour(*where, inside, levels=[0.0], colors=[GREY], linewidths=1.4, linestyles="--")
    return ax.plot([], [], "--", color=GREY, lw=1.4, label=f"{name} alone: α < {alpha:.4g}")


def _ends(ax: Axes, margin: DiskMargin | IncrementalDiskMargin) -> list[Any]:
    """Mark the gains that are certified without a phase, and the phase that is certified without a gain."""
    low, high = margin.gain_margin
    dots = [float(_decibels(g)) for g in (low, high) if _has_place(g)]
    phase = math.degrees(margin.phase_margin)
    words = (f"gain alone: {low:.3g} … {_written(high)}", f"phase alone: ±{phase:.3g}°")
    look: dict[str, Any] = {"color": BLACK, "linestyle": "none", "zorder": 4}
    # Marks on the border of the sheet are drawn whole; an empty line that is not clipped has no size to lay out.
    return [
        *ax.plot(dots, np.zeros(len(dots)), marker="o", label=words[0], clip_on=not dots, **look),
        *ax.plot(0.0, phase, marker="s", label=words[1], clip_on=False, **look),
    ]


def _written(number: float) -> str:
    return "∞" if math.isinf(number) else f"{number:.3g}"


def _crosses(ax: Axes, margin: DiskMargin | IncrementalDiskMargin, found: Complex) -> list[Any]:
    """Mark the f that destabilise; several are named with their phases."""
    size = margin.alpha_upper if isinstance(margin, DiskMargin) else margin.falsified
    rate = in_units(f"{_written(margin.frequency)} rad/s", margin.counts_samples)
    places = np.column_stack([_decibels(found), _degrees(found)])
    (left, right), top = ax.get_xlim(), ax.get_ylim()[1]
    for i, (gain, phase) in enumerate(places if len(places) > 1 else ()):
        # Low ones beside the disk where there is room, others inside it, at two heights: alike channels' crosses touch.
        share, low = (gain - left) / (right - left), phase < 0.3 * top
        outwards = low and min(share, 1.0 - share) > 0.25
        side, away = ("left", 9) if (share > 0.5) == outwards else ("right", -9)
        up = 4 + 15 * (i % 2) if low else -15 - 15 * (i % 2)
        # Rounding gives a static f a phase of 1e-18°.
        degrees = round(float(np.degrees(np.angle(found[i]))), 6) + 0.0
        name = margin.channel_names[i] if margin.channel_names else f"f{i + 1}"
        ax.annotate(
            f"{name}: {degrees:+.3g}°", (gain, phase), (away, up), textcoords="offset points", ha=side
        )
    look: dict[str, Any] = {"color": FALSIFIED, "markersize": 10, "clip_on": False, "zorder": 5}
    label = f"falsified: α = {size:.4g} at {rate}"
    return ax.plot(*places.T, marker="X", linestyle="none", label=label, **look)
