"""Incremental delay margins: every delay up to a length is proved, and one just beyond is shown."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lipctrl.analysis.ball import IncrementalBall, global_ball, with_scope
from lipctrl.analysis.delay_proof import dies_out, tolerates_delays
from lipctrl.analysis.delays import delayed_realization
from lipctrl.analysis.destabilize import (
    Destabilization,
    LinearLoop,
    MarginSimulation,
    linear_loop,
    oscillation,
    with_names_of,
)
from lipctrl.analysis.falsify_linear import (
    STEPS,
    LinearPolicy,
    nearest_beyond,
    unstable_pole,
    worst_matrix,
)
from lipctrl.analysis.lag import LagSearch
from lipctrl.analysis.loop import NominalLoop, judge, nominal_loop
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.names import listed_by_name
from lipctrl.analysis.pade_delay import pade
from lipctrl.analysis.phase import ball_member, certified_angle, certified_loop, in_hertz, rotated_response
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.units import in_units
from lipctrl.analysis.verdict import Verdict

# Delays of more samples are not tried; a margin equal to it means "at least".
MOST_SAMPLES = 64
_NEUTRAL = (
    "through the plant's feed-through the delayed signal returns at infinite frequency without being damped: "
    "however short a delay, it is not proved tolerated (and not tolerated where the feed-through exceeds 1). Add the "
    "actuator's pole"
)
# The order of the Padé filter behind a simulated delay.
_ORDER = 10


@dataclass(frozen=True)
class DelayMargin:
    """The delays that a loop tolerates: certified up to `delay` [s], falsified just beyond.

    Every constant delay 0 ≤ τ ≤ `delay` between the policy and the plant (the same in all channels that are delayed) is
    proved stable for every policy of the ball, in discrete time every delay of whole samples (a delay between samples
    is another sampled plant); inf means any delay. Delays that vary in time are not covered. `falsified` is the
    smallest delay at which a linear policy of the ball was seen to be unstable (NaN: none found). `frequency` [rad/s]
    is where it oscillates.

    In discrete time `samples` is the certified whole number (`delay` = samples·dt; 64 means "at least") and
    `fractional` the delay in samples at which a rotation by ωτ first reaches a policy of the ball: sampled, not proved,
    and the number to compare with `samples` + 1. `channels` are the certified delays of one channel alone; `scope` says
    where the claim holds if not everywhere.
    """

    delay: float
    falsified: float
    frequency: float
    destabilization: Destabilization | None
    sample_time: float
    samples: int | None = None
    fractional: float = math.nan
    channels: tuple[float, ...] = ()
    note: str = ""
    scope: tuple[str, ...] = ()
    counts_samples: bool = field(default=False, repr=False, compare=False, kw_only=True)
    channel_names: tuple[str, ...] = field(default=(), repr=False, compare=False, kw_only=True)

    def simulate(self) -> MarginSimulation:
        """Simulate the loop just inside and just outside the falsified delay; ValueError where there is none.

        In continuous time the delay of the simulation is a Padé filter of order 10 (the falsified delay itself is
        a root of the exact equation).
        """
        if self.destabilization is None:
            raise ValueError(
                "nothing of the class was found to destabilise this loop, so there is nothing to show"
            )
        return self.destabilization.simulate()

    @property
    def _unit(self) -> str:
        return "samples" if self.counts_samples else "s"

    def __str__(self) -> str:
        if math.isinf(self.delay):
            return with_scope("certified for any delay", self.scope)
        if self.note:
            return f"no delay is certified: {self.note}"
        more = "at least " if self.samples == MOST_SAMPLES else ""
        text = f"certified up to {more}{self.delay:.6g} s"
        if self.samples is not None:
            text += f" ({self.samples} samples; {self.fractional:.4g} by the phase)"
        text += f", limited at {in_hertz(self.frequency)}"
        if self.channels:
            each = (f"{d:.6g} {self._unit}" for d in self.channels)
            text += ", single channels " + listed_by_name(each, self.channel_names)
        text = with_scope(text, self.scope)
        text = text if self.destabilization is None else f"{text}; falsified {self.destabilization}"
        return in_units(text, self.counts_samples)


def incremental_delay_margin(sys: Any, policy: Any, *, channels: bool = False) -> DelayMargin:
    """Return the largest delay up to which the loop is certified for every policy of the ball.

    Continuous time: u(t) = π(y(t - τ)) or, the same for a linear plant, a delayed actuator. *Every* τ up to the
    certified one is proved, at every frequency (`lipctrl.analysis.delay_proof`): no grid of delays and no Padé
    approximation. A plant whose feed-through lets arbitrarily short delays destabilise has margin 0.
    Discrete time: the delays of 0, 1, 2, … whole samples are exact models; each is tested in turn.

    Parameters
    ----------
    sys : plant as `as_realization` takes it; policy : as `as_ball` takes it. Positive feedback, u = π(y).
    channels : also give the margin of each actuator delayed alone, in `.channels`.

    Raises
    ------
    ValueError
        For bad data, or a loop that is not certified without delay.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> margin = incremental_delay_margin(control.tf([1], [1, -1]), IncrementalBall([[-3.0]], 0.3))
    >>> print(f"{margin.delay:.5f} {margin.falsified:.5f} s at {margin.frequency:.3f} rad/s")
    0.38845 0.38845 s at 3.042 rad/s
    """
    system, ball, scales = global_ball(sys, policy)
    loop = certified_loop(system, ball, "zero delay")
    margin = _margin(loop, ball, np.eye(ball.actions), falsify=True)
    margin = replace(
        margin,
        destabilization=with_names_of(scales.raw_destabilization(margin.destabilization), loop.plant),
        scope=ball.scope,
        counts_samples=loop.plant.counts_samples,
    )
    if not channels:
        return margin
    each = [_margin(loop, ball, np.diag(row), falsify=False).delay for row in np.eye(ball.actions)]
    return replace(margin, channels=tuple(each), channel_names=loop.plant.input_names)


def _margin(loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray, *, falsify: bool) -> DelayMargin:
    step = loop.plant.sample_time
    angle, _ = certified_angle(loop, ball, chosen)
    if angle >= math.pi and dies_out(loop, ball, chosen):
        samples = MOST_SAMPLES if step else None
        return DelayMargin(math.inf, math.nan, math.nan, None, step, samples, math.inf if step else math.nan)
    sampled, omega = LagSearch(loop, ball, chosen).first()
    if step:
        return _discrete(loop, ball, chosen, sampled / step, omega)
    if not dies_out(loop, ball, chosen):
        return DelayMargin(0.0, math.nan, math.inf, None, step, note=_NEUTRAL)
    certified = _certified_delay(loop, ball, chosen, sampled, angle)
    found = _first_unstable(loop, ball, chosen, sampled, omega) if falsify else None
    return DelayMargin(certified, math.nan if found is None else found.value, omega, found, step)


def _certified_delay(
    loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray, sampled: float, angle: float
) -> float:
    if not math.isfinite(sampled):
        # Nothing was found on the way; look for the longest delay that can be proved.
        pole = float(np.abs(np.linalg.eigvals(loop.plant.A)).max(initial=0.0)) or 1.0
        sampled = 1e3 / pole

    def proved(share: float) -> float | None:
        delay = sampled * (1.0 - share)
        return delay if tolerates_delays(loop, ball, chosen, delay, angle) else None

    return nearest_beyond(proved, (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.6, 0.9, 0.99)) or 0.0


def _discrete(
    loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray, fractional: float, omega: float
) -> DelayMargin:
    plant, certified, found = loop.plant, 0, None
    for samples in range(1, MOST_SAMPLES + 1):
        late = _late(plant, chosen, samples)
        closed = nominal_loop(late, ball.center)
        test = judge(closed, ball.radius)
        if test.verdict is not Verdict.CERTIFIED:
            found = _falsified_samples(plant, ball, chosen, samples)
            omega = test.frequency if found is None else found.frequency
            break
        certified = samples
    step = plant.sample_time
    value = math.nan if found is None else found.value
    return DelayMargin(certified * step, value * step, omega, found, step, certified, fractional)


def _late(plant: Realization, chosen: np.ndarray, samples: int) -> Realization:
    return delayed_realization(plant, (samples * np.diag(chosen).astype(int)).tolist())


def _falsified_samples(
    plant: Realization, ball: IncrementalBall, chosen: np.ndarray, first: int
) -> Destabilization | None:
    for samples in range(first, min(2 * first, MOST_SAMPLES) + 4):
        late = _late(plant, chosen, samples)
        loop = nominal_loop(late, ball.center)
        policy = ball_member(ball, None, 0.0, plant.sample_time)
        if loop.is_stable and loop.system is not None:
            omega = loop.norm().frequency
            policy = ball_member(ball, worst_matrix(loop.system.response(omega)), omega, plant.sample_time)
        pole = unstable_pole(late, policy)
        if pole is None:
            continue

        def at(value: float, policy: LinearPolicy = policy) -> LinearLoop | None:
            closed = linear_loop(_late(plant, chosen, round(value)), policy)
            return None if closed is None else replace(closed, shared=plant.states)

        omega = oscillation(pole, plant.sample_time)
        found = _destabilization("samples", float(samples), ball, policy, pole, omega, at)
        return replace(found, counts_samples=plant.counts_samples)
    return None


def _destabilization(
    unit: str, value: float, ball: IncrementalBall, policy: LinearPolicy, pole: complex, omega: float, at: Any
) -> Destabilization:
    member = "the centre of the ball" if ball.radius == 0.0 else "a linear policy of the ball"
    return Destabilization(
        "delay", unit, value, 0.0, f"a pure delay, with {member}", omega, pole, policy, loop=at
    )


def _first_unstable(
    loop: NominalLoop, ball: IncrementalBall, chosen: np.ndarray, delay: float, omega: float
) -> Destabilization | None:
    """Return the shortest delay found at which the exact characteristic equation has a root in the right half-plane."""
    if not (math.isfinite(delay) and omega > 0.0):
        return None
    plant = loop.plant
    looped = rotated_response(loop, ball.center, chosen, cmath.exp(-1j * omega * delay), omega)
    policy = ball_member(ball, None if looped is None else worst_matrix(looped), omega, 0.0)

    def at(value: float) -> LinearLoop | None:
        return _pade_loop(plant, policy, chosen, value)

    def attempt(step: float) -> Destabilization | None:
        late = delay * (1.0 + step)
        root = _root(loop, ball, policy, chosen, late, 1j * omega)
        if root is None or not root.real > 1e-13 * abs(root):
            return None
        return _destabilization("s", late, ball, policy, root, abs(root.imag), at)

    return nearest_beyond(attempt, (*STEPS, 0.03, 0.1, 0.3))


def _root(
    loop: NominalLoop,
    ball: IncrementalBall,
    policy: LinearPolicy,
    chosen: np.ndarray,
    delay: float,
    start: complex,
) -> complex | None:
    """Solve det(I - (D(s)π(s) - K₀)T(s)) = 0, D the delay, by the secant method from a point near the root."""
    system = loop.system
    assert system is not None
    eye_x, eye_p = np.eye(system.states), np.eye(len(policy.a))

    def value(s: complex) -> complex:
        t = system.C @ np.linalg.solve(s * eye_x - system.A, system.B) + system.D
        pi = policy.d + policy.c @ np.linalg.solve(s * eye_p - policy.a, policy.b)
        late = pi + (cmath.exp(-s * delay) - 1.0) * chosen @ pi
        return complex(np.linalg.det(np.eye(len(chosen)) - (late - ball.center) @ t))

    old, new = start, start * (1.0 + 1e-6) + 1e-9 * abs(start)
    f_old, f_new = value(old), value(new)
    for _ in range(40):
        if f_new == f_old:
            break
        old, new, f_old = new, new - f_new * (new - old) / (f_new - f_old), f_new
        if not cmath.isfinite(new) or abs(new - start) > 0.5 * abs(start):
            return None
        f_new = value(new)
        if abs(new - old) <= 1e-14 * abs(new):
            break
    return new if abs(f_new) <= 1e-9 else None


def _pade_loop(
    plant: Realization, policy: LinearPolicy, chosen: np.ndarray, delay: float
) -> LinearLoop | None:
    """Close the loop with the chosen actuators behind a Padé delay."""
    filters = pade(np.eye(1), delay, _ORDER).filter
    channels = np.flatnonzero(np.diag(chosen))
    n, f = plant.states, filters.states
    count = len(channels)
    a, b = np.kron(np.eye(count), filters.A), np.zeros((count * f, plant.inputs))
    c, d = np.zeros((plant.inputs, count * f)), np.eye(plant.inputs)
    for k, j in enumerate(channels):
        b[k * f : (k + 1) * f, j], c[j, k * f : (k + 1) * f] = filters.B[:, 0], filters.C[0]
        d[j, j] = filters.D[0, 0]
    whole = replace(
        plant,
        a=MidRad(np.block([[plant.A, plant.B @ c], [np.zeros((count * f, n)), a]])),
        b=MidRad(np.vstack([plant.B @ d, b])),
        c=MidRad(np.hstack([plant.C, plant.D @ c])),
        d=MidRad(plant.D @ d),
    )
    return linear_loop(whole, policy)
