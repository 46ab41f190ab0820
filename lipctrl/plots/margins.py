"""The margin sweep: ρ‖T_k‖ over the factor k by which a policy is scaled, with certified and falsified ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.analysis.margins import LIMIT
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

FORMS = ("policy", "residual")


@dataclass(frozen=True)
class GainSweep:
    """Small-gain products over k, and the ends of the incremental gain margin.

    `k` (N,) factors; `product` (N,) proved upper bounds of kρ‖T_k‖_∞, inf where the nominal loop of k is not proved
    stable. `certified` = (lower, upper) of the proved interval; `falsified` = (lower, upper) factors at which an
    admissible policy was found to destabilise, NaN or inf where none was found.
    """

    k: np.ndarray
    product: np.ndarray
    certified: tuple[float, float]
    falsified: tuple[float, float]
    form: str


def gain_sweep(
    sys: Any, policy: Any, *, form: str = "policy", k: Any = None, margin: Any = None
) -> GainSweep:
    """Evaluate the small-gain product of k·π (or of K₀y + kφ(y)) over k; every value is a proved bound.

    Parameters
    ----------
    sys, policy : as `lipctrl.analysis.ball_test` takes them; positive feedback u = k π(y).
    form : "policy" scales the whole policy, "residual" only φ.
    k : positive factors; by default about 90 around the margin, close together at its ends.
    margin : the result of `lipctrl.incremental_gain_margin` for the same arguments, computed when None.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> plant, ball = control.tf([1], [1, -1]), IncrementalBall(center=[[-3.0]], radius=1.0)
    >>> sweep = gain_sweep(plant, ball, k=[0.4, 1.0])
    >>> (sweep.product < 1.0).tolist()        # stable for every policy of the ball, above k = 0.5
    [False, True]
    """
    from lipctrl.analysis import as_realization, in_own_units, nominal_loop

    if form not in FORMS:
        raise ValueError(f"form is {form!r}; expected one of {FORMS}")
    system, ball, _ = in_own_units(as_realization(sys, "sys"), policy)
    if margin is None:
        from lipctrl.analysis import incremental_gain_margin

        margin = incremental_gain_margin(sys, policy, form=form)
    certified = (float(margin.lower), float(margin.upper))
    falsified = (float(margin.falsified_lower), float(margin.falsified_upper))
    factors = _default_factors(certified, falsified) if k is None else np.asarray(k, dtype=np.float64)
    if factors.ndim != 1 or not (np.isfinite(factors).all() and (factors > 0.0).all()):
        raise ValueError(f"k is {k!r}; expected a one-dimensional array of positive finite factors")
    if form == "residual":
        norm = nominal_loop(system, ball.center).norm().value
        product = factors * ball.radius * norm
    else:
        product = np.array(
            [f * ball.radius * nominal_loop(system, f * ball.center).norm().value for f in factors]
        )
    return GainSweep(factors, product, certified, falsified, form)


def _default_factors(certified: tuple[float, float], falsified: tuple[float, float]) -> np.ndarray:
    finite = [v for v in (*certified, *falsified) if math.isfinite(v) and v > 0.0]
    low, high = min([*finite, 1.0]), max([*finite, 1.0])
    # Zero is a possible lower end; the axis is logarithmic, so it is shown a decade below everything else.
    low = low / 1.6 if certified[0] > 0.0 else low / 10.0
    # The product turns steeply where the nominal loop is about to lose stability: a corner there would be the grid's.
    steps = np.geomspace(1e-3, 0.3, 9)
    near = [v for end in finite for v in (end * 0.999, end * 1.001)]
    near += [
        v for end in certified for v in (*(end * (1.0 - steps)), *(end * (1.0 + steps))) if low < v < high
    ]
    return np.unique([*np.geomspace(low, 1.6 * high, 49), *near, 1.0])


@styled
def gain_sweep_plot(sweep: GainSweep, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the product over k: certified where it is below 1, falsified where an admissible policy was destabilising.

    Between the two ends nothing is claimed. Factors of -6 dB and +6 dB are 0.5 and 2.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> plant, ball = control.tf([1], [1, -1]), IncrementalBall(center=[[-3.0]], radius=1.0)
    >>> gain_sweep_plot(gain_sweep(plant, ball)).get_ylabel()
    'kρ‖T_k‖ [ratio]'
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes_or_new(ax)
    left, right = sweep.k[0], sweep.k[-1]
    low, high = max(sweep.certified[0], left), min(sweep.certified[1], right)
    if high > low:
        name = f"certified: {sweep.certified[0]:.3g} < k < {sweep.certified[1]:.3g}"
        if sweep.certified[1] >= LIMIT:
            name += " (larger factors were not tried)"
        ax.axvspan(low, high, color=SKY, alpha=0.3, lw=0, label=name)
    finite = np.isfinite(sweep.product)
    ax.plot(sweep.k[finite], sweep.product[finite], "-", color=CERTIFIED, label="proved kρ‖T_k‖")
    ax.axhline(1.0, color=BLACK, ls="--", lw=1.4, label="small-gain limit 1")
    ax.axvline(1.0, color=GREY, lw=1.2, ls=":")
    for side, value in zip(("below", "above"), sweep.falsified, strict=True):
        if math.isfinite(value) and left <= value <= right:
            ax.axvline(value, color=FALSIFIED, lw=2.2, label=f"falsified at k = {value:.3g}")
            edges = (left, value) if side == "below" else (value, right)
            ax.axvspan(*edges, facecolor="none", edgecolor=FALSIFIED, hatch="//", alpha=0.25, lw=0)
    ax.set_xscale("log")
    ax.set_xlim(left, right)
    shown = sweep.product[finite]
    ax.set_ylim(0.0, min(2.5, max(1.3, 1.05 * float(shown.max(initial=1.0)))))
    plain_log_ticks(ax, "x")
    ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    scaled = "policy" if sweep.form == "policy" else "residual"
    ax.set(xlabel=f"factor k on the {scaled} [ratio]", ylabel="kρ‖T_k‖ [ratio]")
    ax.set_title(title or "Incremental gain margin")
    legend_below(ax, 2)
    return ax
