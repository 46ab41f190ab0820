"""Incremental disk margins: gain and phase of every channel perturbed at once, for every policy of a ball."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lipctrl.analysis.ball import IncrementalBall, global_ball, with_scope
from lipctrl.analysis.blocks import realized_blocks
from lipctrl.analysis.destabilize import (
    Destabilization,
    MarginSimulation,
    policy_destabilization,
    with_names_of,
)
from lipctrl.analysis.disk import finite_skew
from lipctrl.analysis.disk_ends import DiskEnds, disk_policy, gain_interval, phase_of_disk
from lipctrl.analysis.disk_falsifier import SingularDisks, smallest_disks
from lipctrl.analysis.disk_loop import DiskLoop
from lipctrl.analysis.falsify_linear import WIDE_STEPS, LinearPolicy, unstable_pole
from lipctrl.analysis.loop import NominalLoop
from lipctrl.analysis.midrad import MidRad, block
from lipctrl.analysis.names import listed_by_name
from lipctrl.analysis.periodic import periodic_destabilization
from lipctrl.analysis.phase import certified_loop, in_hertz
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.pointwise import pointwise_alpha
from lipctrl.analysis.units import in_units


@dataclass(frozen=True)
class IncrementalDiskMargin(DiskEnds):
    """A loop that is incrementally stable for every policy of the ball and every f = (1 + bδ)/(1 - aδ) of two classes.

    a = (1 + skew)/2, b = (1 - skew)/2; f multiplies the policy's outputs, each channel having a δ of its own. The
    policies are arbitrary incremental ones for both classes. Linear time-invariant δ of gain ≤ `alpha`: gains, phases
    and dynamics that are uncertain but fixed. Any operators δ of incremental gain ≤ `alpha_varying`. `falsified` is an
    α at which a linear policy of the ball with linear time-invariant δ was seen to be unstable (NaN: none found).

    Attributes
    ----------
    alpha, alpha_varying, falsified_varying, gain_margin, phase_margin, frequency : as in `DiskEnds`.
    falsified : the other end of `alpha`.
    scaling : the constants d_i of the proof of `alpha_varying`, relative to the ball's, in the policy's own scales.
    destabilization : what is seen at `falsified`.
    channels : the certified `alpha` of one channel perturbed alone, where there are several.
    scope : sentences that say where the claim holds if not everywhere.
    """

    falsified: float
    scaling: np.ndarray
    destabilization: Destabilization | None
    channels: tuple[float, ...] = ()
    scope: tuple[str, ...] = ()

    def simulate(self, *, varying: bool = False) -> MarginSimulation:
        """Simulate the loop just inside and just outside the falsified end; ValueError where there is none.

        With `varying`, for the perturbation that varies in time at `falsified_varying`: the loop is seen once a period.
        """
        found = self.varying if varying else self.destabilization
        if found is None:
            raise ValueError(
                "no such disk perturbation with a policy of the ball was found to destabilise this loop"
            )
        return found.simulate()

    def __str__(self) -> str:
        low, high = self.gain_margin
        text = (
            f"certified α ≤ {self.alpha:.6g} (skew {self.skew:g}): gain {low:.4g} … {high:.4g}, phase "
            f"±{math.degrees(self.phase_margin):.2f}°, tightest at {in_hertz(self.frequency)}"
        )
        if self.channels:
            each = (f"{a:.6g}" for a in self.channels)
            text += ", single channels α ≤ " + listed_by_name(each, self.channel_names)
        text = with_scope(text, self.scope)
        if self.destabilization is not None:
            text += f"; falsified {self.destabilization}"
        return in_units(text + self._varying_text(), self.counts_samples)


def incremental_disk_margin(sys: Any, policy: Any, skew: float = 0.0) -> IncrementalDiskMargin:
    """Return the largest disk of gain and phase perturbations that is certified together with the whole ball.

    Two kinds of blocks: the δ_i of the channels and the deviation of the policy from its centre. Where the δ_i are
    linear and time-invariant, the scalings may differ from frequency to frequency (`alpha`): for each such δ the loop
    that the policies see is linear, and its proved norm is below 1/ρ. Where the δ_i may be anything, the scalings
    are constants (`alpha_varying`), and what lies beyond is shown by perturbations that vary periodically. Ungridded
    (level sets, bands). With radius 0 it is the classical disk margin of the loop -K₀P at the plant's input,
    `lipctrl.disk_margin(-K₀, P)`.

    Parameters
    ----------
    sys : plant as `as_realization` takes it; policy : as `as_ball` takes it. Positive feedback, u = f·π(y).
    skew : 0 balances gain increase and decrease; > 0 leaves more room for increase, < 0 for decrease (in dB).

    Raises
    ------
    ValueError
        For bad data, or a loop that is not certified without perturbation.

    Source: Seiler, Packard & Gahinet 2020, Theorem 1, for the disk; scalings as in Doyle 1982 and Packard & Doyle 1993;
    constant ones are exact for time-varying blocks (Shamma 1994).

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> loop = control.tf([25], [1, 10, 10, 10])
    >>> for radius in (0.0, 0.1):
    ...     print(round(incremental_disk_margin(loop, IncrementalBall([[-1.0]], radius)).alpha, 4))
    0.4581
    0.3576
    """
    skew = finite_skew(skew)
    system, ball, scales = global_ball(sys, policy)
    loop = certified_loop(system, ball, "α = 0")
    every = tuple(range(ball.actions))
    problem = disk_problem(loop, ball, every, skew)
    varying, omega, scaling = problem.constant(_first_points(loop))
    found = pointwise_alpha(problem, varying, omega, scaling)
    worst = smallest_disks(problem, found)
    fixed = None if worst is None else _realized(loop, ball, worst, skew)
    outside = math.inf if fixed is None else fixed.value
    moving = (
        None if outside <= varying * (1.0 + 1e-6) else periodic_destabilization(problem, scaling, varying)
    )
    last = outside if moving is None else min(outside, moving.value)
    margin = IncrementalDiskMargin(
        alpha=found.alpha,
        alpha_varying=varying,
        falsified=outside if math.isfinite(outside) else math.nan,
        falsified_varying=last if math.isfinite(last) else math.nan,
        skew=skew,
        gain_margin=gain_interval(found.alpha, skew),
        phase_margin=phase_of_disk(found.alpha, skew),
        frequency=found.frequency,
        scaling=scaling,
        destabilization=with_names_of(scales.raw_destabilization(fixed), loop.plant),
        varying=scales.raw_destabilization(moving, np.concatenate([scales.action, scales.observation])),
        scope=ball.scope,
        counts_samples=loop.plant.counts_samples,
        channel_names=loop.plant.input_names,
    )
    if len(every) == 1:
        return margin
    return replace(margin, channels=tuple(_single(loop, ball, i, skew) for i in every))


def _single(loop: NominalLoop, ball: IncrementalBall, channel: int, skew: float) -> float:
    problem = disk_problem(loop, ball, (channel,), skew)
    return pointwise_alpha(problem, *problem.constant(_first_points(loop))).alpha


def _first_points(loop: NominalLoop) -> set[float]:
    norm = loop.norm()
    return {norm.frequency} if math.isfinite(norm.frequency) else set()


def disk_problem(loop: NominalLoop, ball: IncrementalBall, chosen: tuple[int, ...], skew: float) -> DiskLoop:
    """Return (w, r) ↦ (q, y) around a loop: w_i = δ_i q_i, q = v + a·w, v = K₀y + r, r = Xy, y = P(v + w)."""
    t = loop.system
    assert t is not None
    pick = MidRad(np.eye(ball.actions)[list(chosen)])
    into = pick.H
    gain = pick @ MidRad(np.asarray(ball.center))
    mine = MidRad(0.5 * (1.0 + skew) * np.eye(len(chosen)))
    system = Realization(
        t.a,
        block([[t.b @ into, t.b]]),
        block([[gain @ t.c], [t.c]]),
        block([[gain @ t.d @ into + mine, gain @ t.d + pick], [t.d @ into, t.d]]),
        t.sample_time,
        t.timebase,
        static=t.static,
    )
    return DiskLoop(system, len(chosen), ball.radius)


def _realized(
    loop: NominalLoop, ball: IncrementalBall, worst: SingularDisks, skew: float
) -> Destabilization | None:
    plant, k = loop.plant, ball.actions
    deltas, omega = worst.blocks[:k], worst.frequency
    member = LinearPolicy.static(np.asarray(ball.center))
    if len(worst.blocks) > k and worst.blocks[k].any():
        share = ball.radius * (1.0 - 1e-13)
        member = realized_blocks([worst.blocks[k] * share], omega, plant.sample_time).plus(ball.center)
    filters = realized_blocks(deltas, omega, plant.sample_time)

    def at(size: float) -> LinearPolicy:
        return disk_policy(member, filters.scaled(size), tuple(range(k)), 0.5 * (1.0 + skew))

    matrix = np.array([complex(delta[0, 0]) * worst.alpha for delta in deltas])
    kind = "disk perturbations of the channels with a linear policy of the ball"
    for step in WIDE_STEPS:
        value = worst.alpha * (1.0 + step)
        pole = unstable_pole(plant, at(value))
        if pole is not None:
            return policy_destabilization(plant, at, value, ("disk size α", "", kind), pole, matrix=matrix)
    return None
