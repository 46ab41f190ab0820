"""The interval of loop gains for which a proved basin keeps a part of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from lipctrl.analysis.attraction import Basin, equilibrium, frozen, inner_ellipsoid
from lipctrl.analysis.cell_proof import Ellipsoid, prove_decrease
from lipctrl.analysis.cells import CellLoop
from lipctrl.positivity import NotProvedError

# Steps are at most this part of the gain, halved where a proof fails.
_STEP = 0.15


@dataclass(frozen=True)
class BasinGains:
    """For every constant k in [lower, upper], u = sat(kπ(y)) drives all of {V ≤ share²} to one equilibrium.

    The gain acts before the limits: π is the policy without its own clip, which belongs to sat. V is the quadratic of
    the basin, so that `share` is the part of its half-widths that is kept. `pieces` are the
    intervals of k of which each was proved at once, every k in it included; [1, 1] where nothing more was proved.
    `unstable_below` and `unstable_above` are gains at which the linearisation about the equilibrium has an eigenvalue
    outside the unit circle (float64; None: none was found): beyond them no proof is possible.
    """

    lower: float
    upper: float
    share: float
    pieces: tuple[tuple[float, float], ...] = field(repr=False)
    unstable_below: float | None
    unstable_above: float | None

    def __str__(self) -> str:
        ends = f"unstable at {_shown(self.unstable_below)} and {_shown(self.unstable_above)}"
        return (
            f"gains {self.lower:.4g} … {self.upper:.4g} of the loop keep {self.share:g} of the basin; {ends}"
        )


def _shown(gain: float | None) -> str:
    return "no gain found" if gain is None else f"{gain:.4g}"


def basin_gains(
    found: Basin,
    *,
    share: float = 0.5,
    resolution: float = 0.01,
    widest: tuple[float, float] = (0.05, 20.0),
    boxes: int = 20_000,
) -> BasinGains:
    """Return the proved interval of gains k for which `share` of a basin remains, with ends that are unstable.

    The interval is covered by pieces, each proved with k enclosed, so nothing is left out between them. The equilibrium
    may move with k where the policy does not vanish there.

    Parameters
    ----------
    found : a certified `basin`, of gain one.
    share : in (0, 1), the part of the half-widths that must be kept; a smaller part allows more gains.
    resolution : pieces are not made shorter than this part of k.
    widest : gains beyond which nothing is asked.

    Raises
    ------
    ValueError
        For a basin that is not certified or of other gains, or parameters out of range.

    Examples
    --------
    >>> import lipctrl_envs
    >>> from lipctrl import rules
    >>> from lipctrl.analysis import basin
    >>> found = basin(lipctrl_envs.Pendulum(), rules.linear([[-25.0, -8.0]]), [0.6, 2.0], action_limit=5.0)
    >>> gains = basin_gains(found, share=0.4, resolution=0.1, widest=(0.8, 1.25))
    >>> gains.lower, gains.upper
    (0.8, 1.25)
    """
    if found.shape is None or found.inner is None or found.loop.gain != (1.0, 1.0):
        raise ValueError(
            f"the basin is {found.verdict} ({found.reason}); expected a certified one of gain one"
        )
    if not 0.0 < share < 1.0:
        raise ValueError(
            f"share is {share}; expected a number between 0 and 1, the part of the basin to keep"
        )
    if not 0.0 < resolution < 1.0 or not 0.0 < widest[0] < 1.0 < widest[1] < math.inf:
        raise ValueError(
            f"resolution is {resolution}, widest {widest}; expected 0 < resolution < 1, 0 < low < 1 < high"
        )
    core = Ellipsoid(found.center, found.shape / share**2)
    room = core.extent
    pieces: list[tuple[float, float]] = []
    ends = []
    for up in (False, True):
        k, bound, step = 1.0, widest[int(up)], _STEP
        while k != bound and step >= resolution:
            following = min(k * (1.0 + step), bound) if up else max(k / (1.0 + step), bound)
            piece = (min(k, following), max(k, following))
            if keeps(found.loop, core, room, piece, boxes):
                pieces.append(piece)
                k, step = following, min(1.5 * step, _STEP)
            else:
                step *= 0.5
        ends.append(k)
    loose = tuple(_unstable(found.loop, end, limit) for end, limit in zip(ends, widest, strict=True))
    return BasinGains(ends[0], ends[1], share, tuple(sorted(pieces)), *loose)


def keeps(loop: CellLoop, core: Ellipsoid, room: np.ndarray, piece: tuple[float, float], boxes: int) -> bool:
    """Whether it is proved that for each gain of a piece all of `core` tends to one equilibrium."""
    scaled = replace(loop, gain=piece)
    center = equilibrium(scaled, 0.5 * (piece[0] + piece[1]))
    if center is None:
        return False
    # A fast contraction bears an equilibrium that moves with k, a slow one holds in a larger ellipsoid.
    for reserve in (0.6, 0.1):
        inner = inner_ellipsoid(scaled, center, room, boxes, reserve)
        if isinstance(inner, str):
            continue
        try:
            prove_decrease(scaled, core, Ellipsoid(center, inner[0]), boxes)
        except NotProvedError:
            continue
        return True
    return False


def _unstable(loop: CellLoop, inside: float, limit: float) -> float | None:
    """Return the gain nearest to `inside` towards `limit` at which the linearisation is seen unstable, or None."""

    def grows(gain: float) -> bool:
        center = equilibrium(loop, gain)
        if center is None:
            return False
        return bool(np.abs(np.linalg.eigvals(frozen(replace(loop, gain=(gain, gain)), center))).max() > 1.0)

    beyond = next((k for k in np.geomspace(inside, limit, 40)[1:] if grows(float(k))), None)
    if beyond is None:
        return None
    near, far = inside, float(beyond)
    for _ in range(30):
        middle = math.sqrt(near * far)
        near, far = (near, middle) if grows(middle) else (middle, far)
    return far
