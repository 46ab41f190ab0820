"""Incremental gain margins: every gain between two ends is proved, and what lies just outside is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lipctrl.analysis.arguments import one_of
from lipctrl.analysis.ball import IncrementalBall, global_ball, with_scope
from lipctrl.analysis.continuation import Path, Quadratic, march
from lipctrl.analysis.destabilize import Destabilization, MarginSimulation, policy_destabilization
from lipctrl.analysis.falsify_linear import (
    Falsifier,
    falsify_policy,
    first_falsified,
    looped_response,
    worst_matrix,
)
from lipctrl.analysis.loop import NominalLoop, judge, nominal_loop
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.names import listed_by_name
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.scales import Scales
from lipctrl.analysis.units import in_units
from lipctrl.analysis.verdict import Verdict

# No gain beyond this factor is tried; an `upper` equal to it means "at least".
LIMIT = 1e4


@dataclass(frozen=True)
class GainMargin:
    """The factors k by which a policy may be scaled: certified between the ends, falsified outside.

    Every k with lower ≤ k ≤ upper is proved incrementally stable for every policy of the ball (`lower = 0`
    includes switching the policy off; `upper` = 1e4 means that larger factors were not tried). `falsified_lower` and
    `falsified_upper` are the factors nearest to 1 at which an admissible policy was seen to be unstable (NaN: none
    found), with `falsifiers` describing them. `frequency` [rad/s] = (at lower, at upper) is where each end is
    reached and `perturbations` the complex rank-one deviations from the scaled centre that reach it. `scope` says where
    the claim holds if not everywhere.
    """

    form: str
    lower: float
    upper: float
    frequency: tuple[float, float]
    perturbations: tuple[np.ndarray | None, np.ndarray | None]
    falsified_lower: float
    falsified_upper: float
    falsifiers: tuple[Falsifier, ...]
    channels: tuple[tuple[float, float], ...] = ()
    scope: tuple[str, ...] = ()
    plant: Realization | None = field(default=None, repr=False, compare=False)
    center: np.ndarray | None = field(default=None, repr=False, compare=False)

    def destabilization(self, end: Literal["upper", "lower"] = "upper") -> Destabilization:
        """Return the falsifier nearest to one end as a perturbation that can be simulated.

        Raises
        ------
        ValueError
            Where nothing was found to destabilise beyond that end, or for another word.
        """
        one_of(end, ("upper", "lower"), "end")
        beyond = [f for f in self.falsifiers if (f.k > 1.0 or f.k > self.upper) == (end == "upper")]
        if not beyond or self.plant is None or self.center is None:
            raise ValueError(f"nothing of the class was found to destabilise this loop at the {end} end")
        nearest = min(beyond, key=lambda f: abs(math.log(f.k)))
        fixed = self.center if self.form == "residual" else np.zeros_like(self.center)
        moving = nearest.policy.plus(-fixed).scaled(1.0 / nearest.k)
        return policy_destabilization(
            self.plant,
            lambda k: moving.scaled(k).plus(fixed),
            nearest.k,
            ("gain factor k", "", nearest.kind),
            nearest.pole,
            nominal=0.0 if self.form == "residual" else 1.0,
            matrix=self.perturbations[0 if end == "lower" else 1],
        )

    def simulate(self, end: Literal["upper", "lower"] = "upper") -> MarginSimulation:
        """Simulate the loop just inside and just outside the falsified end; ValueError where there is none."""
        return self.destabilization(end).simulate()

    @property
    def lower_db(self) -> float:
        """The lower end in dB; -inf for 0."""
        return -math.inf if self.lower <= 0.0 else 20.0 * math.log10(self.lower)

    @property
    def upper_db(self) -> float:
        """The upper end in dB."""
        return 20.0 * math.log10(self.upper) if 0.0 < self.upper < math.inf else self.upper

    def __str__(self) -> str:
        more = "≥ " if self.upper == LIMIT else ""
        text = (
            f"certified {self.lower:.6g} … {more}{self.upper:.6g} ({self.lower_db:.2f} … {self.upper_db:.2f} dB), "
            f"ends at {_hertz(self.frequency[0])} and {_hertz(self.frequency[1])}"
        )
        if self.channels:
            each = (f"{low:.6g} … {'≥ ' if high == LIMIT else ''}{high:.6g}" for low, high in self.channels)
            text += ", single channels " + listed_by_name(
                each, () if self.plant is None else self.plant.input_names
            )
        outside = [f"falsified {f}" for f in self.falsifiers]
        text = "; ".join([with_scope(text, self.scope), *outside])
        return in_units(text, self.plant is not None and self.plant.counts_samples)


def _hertz(omega: float) -> str:
    return (
        "no frequency" if not math.isfinite(omega) else f"{omega:.6g} rad/s ({omega / (2 * math.pi):.6g} Hz)"
    )


def incremental_gain_margin(
    sys: Any, policy: Any, form: Literal["policy", "residual"] = "policy", *, channels: bool = False
) -> GainMargin:
    """Return the interval of factors k for which k·π (or K₀y + kφ(y)) is certified, and falsified ends outside.

    `form="policy"`: u = kπ(y). The largest interval around k = 1 on which T_k = P(I - kK₀P)⁻¹ is stable, well posed
    and kρ‖T_k‖_∞ < 1; the lower end of an unstable plant is positive. Every k in the interval is proved, not a
    grid: the condition is quadratic in 1/k, and proofs at two gains cover all gains between them
    (`lipctrl.analysis.continuation`).
    `form="residual"`: u = K₀y + kφ(y), 0 ≤ k < 1/(ρ‖T‖_∞).

    Parameters
    ----------
    sys : plant as `as_realization` takes it; policy : as `as_ball` takes it. Positive feedback, u = π(y).
    channels : also give the margin of each actuator scaled alone (the other channels at 1), in `.channels`.

    Raises
    ------
    ValueError
        For bad data, an unknown form, or (policy form) a loop that is not certified at k = 1.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> margin = incremental_gain_margin(control.tf([1], [1, 2, 1, 1]), IncrementalBall([[-0.2]], 0.1))
    >>> print(f"{margin.lower:.3f} {margin.upper:.3f}")
    0.000 2.224
    """
    one_of(form, ("policy", "residual"), "form")
    system, ball, scales = global_ball(sys, policy)
    loop = nominal_loop(system, ball.center)
    test = judge(loop, ball.radius)
    if form == "residual":
        if loop.system is None or not math.isfinite(test.norm.value):
            raise ValueError(f"the nominal loop is {test.verdict}: {test.reason}; it has no margin")
        upper = LIMIT if test.margin > LIMIT else test.margin
        ends = _Ends(0.0, upper, math.nan, test.frequency)
    else:
        if test.verdict is not Verdict.CERTIFIED:
            raise ValueError(
                f"the loop is {test.verdict} at k = 1: {test.reason}. A margin needs a certified loop; make the "
                "policy's radius smaller or choose another centre gain"
            )
        ends = _policy_ends(loop, ball, np.eye(ball.actions))
    margin = _raw(_with_falsifiers(loop, ball, form, ends), as_realization(sys), scales)
    if not channels or form == "residual":
        return margin
    each = [_policy_ends(loop, ball, np.diag(row)) for row in np.eye(ball.actions)]
    return replace(margin, channels=tuple((ends.lower, ends.upper) for ends in each))


def _raw(margin: GainMargin, plant: Realization, scales: Scales) -> GainMargin:
    """Return a margin found in a policy's own units with all its matrices in raw units."""
    if scales.trivial or margin.center is None:
        return margin
    low, high = (None if matrix is None else scales.raw_gain(matrix) for matrix in margin.perturbations)
    return replace(
        margin,
        perturbations=(low, high),
        falsifiers=tuple(replace(f, policy=scales.raw_policy(f.policy)) for f in margin.falsifiers),
        plant=plant,
        center=scales.raw_gain(margin.center),
    )


@dataclass(frozen=True)
class _Ends:
    lower: float
    upper: float
    low_frequency: float
    high_frequency: float


def _policy_ends(loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray) -> _Ends:
    """Return the certified ends of D·π, D = I + (k-1)·E, for a diagonal 0/1 matrix E = `chosen`.

    Upwards, with ν = 1/k and T = P(I - K₀P)⁻¹, ρ‖P(I - DK₀P)⁻¹D‖ < 1 reads
    (J + LT)ᴴ(J + LT) - ρ²TᴴT ≻ 0, J = I - (1-ν)E, L = -(1-ν)EK₀. Downwards, with δ = k-1 and G = Tᵀ, it reads
    (I - δK₀ᵀEG)ᴴ(I - δK₀ᵀEG) - ρ²GᴴD²G ≻ 0, which includes k = 0. A stable T keeps stability along each path.
    """
    assert loop.system is not None
    t, m, p = loop.system, ball.actions, ball.observations
    e, k0 = MidRad(chosen), MidRad(np.asarray(ball.center))
    ek = MidRad(chosen @ ball.center)

    def upward(nu: float) -> Quadratic:
        eta = e - MidRad(nu * chosen)
        return Quadratic(MidRad.eye(m) - eta, -(eta @ k0), MidRad(ball.radius * np.eye(p)))

    def downward(delta: float) -> Quadratic:
        d = MidRad.eye(m) + MidRad(delta * chosen)
        return Quadratic(MidRad.eye(p), -ek.H.scaled(delta), d.scaled(ball.radius))

    def scaled_down(delta: float) -> Quadratic:
        k = (MidRad.eye(p) + MidRad(delta * np.eye(p))).scaled(ball.radius)
        return Quadratic(MidRad.eye(m), -ek.scaled(delta), k)

    dual = replace(t, a=t.a.H, b=t.c.H, c=t.b.H, d=t.d.H)
    up = march(Path(t, upward, e, ek), 1.0, 1.0 / LIMIT)
    if m < p and np.array_equal(chosen, np.eye(m)):
        # All channels alike: D = kI commutes, and (I - δK₀T)ᴴ(I - δK₀T) ≻ ρ²k²TᴴT is the smaller form.
        shrinking = Path(t, scaled_down, MidRad.zeros(m, m), ek)
    else:
        shrinking = Path(dual, downward, MidRad.zeros(p, p), ek.H)
    down = march(shrinking, 0.0, -1.0)
    lower = 0.0 if down.end == -1.0 else math.nextafter(1.0 + down.end, math.inf)
    upper = LIMIT if up.end == 1.0 / LIMIT else math.nextafter(1.0 / up.end, 0.0)
    # k = 1 itself is certified before any walk.
    return _Ends(min(lower, 1.0), max(upper, 1.0), down.frequency, up.frequency)


def _with_falsifiers(loop: NominalLoop, ball: IncrementalBall, form: str, ends: _Ends) -> GainMargin:
    plant = loop.plant
    low = _outside(plant, ball, form, ends.lower, ends.low_frequency, upward=False)
    high = _outside(plant, ball, form, ends.upper, ends.high_frequency, upward=True)
    return GainMargin(
        form=form,
        lower=ends.lower,
        upper=ends.upper,
        frequency=(
            _settled(plant, ball, form, ends.lower, ends.low_frequency),
            _settled(plant, ball, form, ends.upper, ends.high_frequency),
        ),
        perturbations=(
            _perturbation(plant, ball, form, ends.lower, ends.low_frequency),
            _perturbation(plant, ball, form, ends.upper, ends.high_frequency),
        ),
        falsified_lower=max((f.k for f in low), default=math.nan),
        falsified_upper=min((f.k for f in high), default=math.nan),
        falsifiers=(*low, *high),
        scope=ball.scope,
        plant=plant,
        center=ball.center,
    )


def _outside(
    plant: Realization, ball: IncrementalBall, form: str, end: float, omega: float, *, upward: bool
) -> list[Falsifier]:
    if end == 0.0 or end >= LIMIT or plant.states == 0:
        return []
    points = {0.0, plant.highest_frequency} | ({omega} if math.isfinite(omega) else set())
    finite = sorted(w for w in points if math.isfinite(w))
    found = [first_falsified(plant, ball, form, end, finite, upward=upward)]
    found.append(falsify_policy(plant, ball, form, upward=upward))
    return [f for f in found if f is not None]


def _settled(plant: Realization, ball: IncrementalBall, form: str, k: float, omega: float) -> float:
    """Return the frequency of an end, 0 where a static policy reaches it as well to the last digits."""
    if not (math.isfinite(omega) and omega > 0.0 and k > 0.0):
        return omega
    center = k * ball.center if form == "policy" else ball.center
    sizes = [looped_response(plant, center, w) for w in (0.0, omega)]
    static, here = (
        0.0 if t is None or not np.isfinite(t).all() else float(np.linalg.norm(t, 2)) for t in sizes
    )
    return 0.0 if static >= here * (1.0 - 1e-9) else omega


def _perturbation(
    plant: Realization, ball: IncrementalBall, form: str, k: float, omega: float
) -> np.ndarray | None:
    """Return the complex deviation from the centre that makes the loop singular at the end of the margin."""
    if not math.isfinite(omega) or k <= 0.0:
        return None
    center = k * ball.center if form == "policy" else ball.center
    looped = looped_response(plant, center, omega)
    return None if looped is None else worst_matrix(looped)
