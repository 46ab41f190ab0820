"""Linear policies that destabilise a loop: the outer side of every margin.

A certificate says what cannot happen; these constructions show what does. The worst member of a ball at a
frequency is a rank-one complex matrix; a real-rational all-pass of the same norm takes its value there, and the
closed loop of plant and all-pass is a finite system whose poles anybody can compute.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lipctrl.analysis.ball import IncrementalBall
from lipctrl.analysis.loop import close_loop
from lipctrl.analysis.midrad import MidRad, equilibrate
from lipctrl.analysis.plant import Realization

Found = TypeVar("Found")
# Relative steps beyond a proved end at which a destabilising member is looked for.
STEPS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
WIDE_STEPS = (*STEPS, 0.03, 0.1, 0.3)


def nearest_beyond(attempt: Callable[[float], Found | None], steps: Sequence[float] = STEPS) -> Found | None:
    """Return what the smallest step found to work gives: steps grow until one works, then the last gap is halved.

    It serves the searches for what destabilises, and those for what is proved on the other side.
    """
    failed, found = 0.0, None
    for working in steps:
        found = attempt(working)
        if found is not None:
            break
        failed = working
    if found is None or failed == 0.0:
        return found
    while working > 1.1 * failed:
        middle = math.sqrt(failed * working)
        nearer = attempt(middle)
        if nearer is None:
            failed = middle
        else:
            working, found = middle, nearer
    return found


@dataclass(frozen=True)
class LinearPolicy:
    """A linear policy u = π(y): static (no states) or a stable filter; positive feedback, with its own sign."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    d: np.ndarray

    @classmethod
    def static(cls, gain: np.ndarray) -> LinearPolicy:
        """Return u = gain·y."""
        m, p = gain.shape
        return cls(np.zeros((0, 0)), np.zeros((0, p)), np.zeros((m, 0)), gain)

    def plus(self, gain: np.ndarray) -> LinearPolicy:
        """Return the policy with a static gain added."""
        return LinearPolicy(self.a, self.b, self.c, self.d + gain)

    def scaled(self, k: float) -> LinearPolicy:
        """Return k times the policy."""
        return LinearPolicy(self.a, self.b, k * self.c, k * self.d)


@dataclass(frozen=True)
class Falsifier:
    """A policy of the class, scaled by k, whose loop with the plant is not stable: `pole` shows it.

    `kind` says what sort of policy it is; `frequency` [rad/s] where the unstable pole oscillates.
    """

    k: float
    kind: str
    policy: LinearPolicy
    pole: complex
    frequency: float

    def __str__(self) -> str:
        return f"k = {self.k:.6g} by {self.kind} (pole {self.pole:.6g})"


def algebraic_loop(plant: Realization, policy: LinearPolicy) -> np.ndarray | None:
    """Return E = (I - D_π D)⁻¹, or None where the loop is ill-posed, whatever the units of the actions."""
    well = np.eye(plant.inputs) - policy.d @ plant.D
    t = equilibrate(well)
    balanced = well * t[None, :] / t[:, None]
    if np.linalg.cond(balanced) > 1e12:
        return None
    return t[:, None] * np.linalg.inv(balanced) / t[None, :]


def closed_loop_matrix(plant: Realization, policy: LinearPolicy) -> np.ndarray | None:
    """Return the state matrix of the loop u = π(y) (positive feedback), or None if it is ill-posed."""
    # u = E(D_π C x + C_π ξ), E = (I - D_π D)⁻¹
    e = algebraic_loop(plant, policy)
    if e is None:
        return None
    from_x, from_xi = e @ policy.d @ plant.C, e @ policy.c
    y_x, y_xi = plant.C + plant.D @ from_x, plant.D @ from_xi
    return np.block(
        [
            [plant.A + plant.B @ from_x, plant.B @ from_xi],
            [policy.b @ y_x, policy.a + policy.b @ y_xi],
        ]
    )


def unstable_pole(plant: Realization, policy: LinearPolicy) -> complex | None:
    """Return the pole that makes the loop unstable beyond rounding, or None."""
    matrix = closed_loop_matrix(plant, policy)
    if matrix is None or matrix.size == 0:
        return None
    poles = np.linalg.eigvals(matrix)
    excess = np.abs(poles) - 1.0 if plant.is_discrete else poles.real
    worst = int(np.argmax(excess))
    size = 1.0 if plant.is_discrete else float(np.abs(poles).max())
    return complex(poles[worst]) if excess[worst] > 1e-12 * size else None


def looped_response(plant: Realization, center: np.ndarray, omega: float) -> np.ndarray | None:
    """Return P(I - center·P)⁻¹ at a frequency, also where P has a pole there; None where it is singular."""
    closed = close_loop(plant, MidRad(np.asarray(center, dtype=np.float64)))
    if closed is None:
        return None
    try:
        return closed.response(omega)
    except np.linalg.LinAlgError:
        return None


def worst_matrix(response: np.ndarray) -> np.ndarray:
    """Return the smallest complex Δ with det(I - Δ·response) = 0: rank one, ‖Δ‖ = 1/σ_max."""
    left, sizes, right = np.linalg.svd(response)
    if sizes[0] == 0.0:
        return np.full(response.T.shape, np.nan, dtype=np.complex128)
    return np.outer(right[0].conj(), left[:, 0].conj()) / sizes[0]


def all_pass(direction: np.ndarray, omega: float, sample_time: float) -> LinearPolicy:
    """Return a stable real-rational filter of constant norm that equals a complex rank-one matrix at omega.

    Each factor e^{jφ} is realised by ±(α - s)/(α + s) (discrete: its bilinear image), whose modulus is one at
    every frequency; hence ‖filter‖_∞ = ‖direction‖.
    """
    left, sizes, right = np.linalg.svd(direction)
    column, row = left[:, 0], right[0]
    # Put the common phase into the column so that a real matrix needs no filter at all.
    turn = np.exp(-1j * np.angle(row[int(np.argmax(np.abs(row)))]))
    row, column = row * turn, column / turn
    top = math.inf if sample_time == 0.0 else math.pi / sample_time
    if omega == 0.0 or omega >= top * (1.0 - 1e-12):
        return LinearPolicy.static(float(sizes[0]) * np.real(np.outer(column, row)))
    nu = omega if sample_time == 0.0 else math.tan(0.5 * omega * sample_time)
    first = [_phase_filter(complex(z), nu, sample_time > 0.0) for z in row]
    second = [_phase_filter(complex(z), nu, sample_time > 0.0) for z in column]
    a1, b1, c1, d1 = _stack(first)
    a2, b2, c2, d2 = _stack(second)
    ones1, ones2 = np.ones((1, len(first))), np.ones((len(second), 1))
    # y → diag of filters → sum → fan out → diag of filters
    into, through = ones1 @ c1, ones1 @ d1
    a = np.block([[a1, np.zeros((len(a1), len(a2)))], [b2 @ ones2 @ into, a2]])
    b = np.vstack([b1, b2 @ ones2 @ through])
    c = np.hstack([d2 @ ones2 @ into, c2])
    size = float(sizes[0])
    return LinearPolicy(a, b, size * c, size * (d2 @ ones2 @ through))


Section = tuple[float | None, float, float, float]


def _phase_filter(value: complex, nu: float, discrete: bool) -> Section:
    """Return (pole, b, c, d) of |value| times an all-pass with the phase of `value` at jν; pole None is static."""
    size, phase = abs(value), math.atan2(value.imag, value.real)
    if size == 0.0 or abs(math.sin(phase)) < 1e-12:
        return None, 0.0, 0.0, value.real
    sign = 1.0
    if phase > 0.0:
        phase, sign = phase - math.pi, -1.0
    alpha = nu / math.tan(-0.5 * phase)
    if not discrete:
        # (α - s)/(α + s) = -1 + 2α/(s + α)
        return -alpha, 2.0 * alpha, sign * size, -sign * size
    # ((α-1)z + (α+1))/((α+1)z + (α-1)): pole (1-α)/(1+α), value (α-1)/(α+1) at z = ∞
    pole, feed = (1.0 - alpha) / (1.0 + alpha), (alpha - 1.0) / (alpha + 1.0)
    return pole, 1.0 - feed**2, sign * size, sign * size * feed


def _stack(sections: list[Section]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    count = len(sections)
    dynamic = [i for i, s in enumerate(sections) if s[0] is not None]
    a = np.diag([float(sections[i][0] or 0.0) for i in dynamic]) if dynamic else np.zeros((0, 0))
    b, c = np.zeros((len(dynamic), count)), np.zeros((count, len(dynamic)))
    for k, i in enumerate(dynamic):
        b[k, i], c[i, k] = sections[i][1], sections[i][2]
    return a, b, c, np.diag([s[3] for s in sections])


def falsify_ball(
    plant: Realization, ball: IncrementalBall, k: float, form: str, frequencies: Iterable[float]
) -> Falsifier | None:
    """Search the ball of the scaled policy for an unstable linear member: all-pass and static, rank one."""
    center = k * ball.center if form == "policy" else ball.center
    # A hair inside the ball, so that membership survives rounding.
    radius = k * ball.radius * (1.0 - 1e-13)
    for kind, policy in _members(plant, center, radius, frequencies):
        pole = unstable_pole(plant, policy)
        if pole is not None:
            return Falsifier(k, kind, policy, pole, _oscillation(pole, plant))
    return None


def _members(
    plant: Realization, center: np.ndarray, radius: float, frequencies: Iterable[float]
) -> Iterable[tuple[str, LinearPolicy]]:
    yield "the centre of the ball", LinearPolicy.static(center)
    if radius == 0.0:
        return
    for omega in frequencies:
        looped = looped_response(plant, center, omega)
        if looped is None:
            continue
        direction = worst_matrix(looped)
        if not np.isfinite(direction).all():
            continue
        direction *= radius / np.linalg.norm(direction, 2)
        policy = all_pass(direction, omega, plant.sample_time)
        kind = (
            "a static linear policy in the ball" if policy.a.size == 0 else "an all-pass policy in the ball"
        )
        yield kind, policy.plus(center)
        left, _, right = np.linalg.svd(np.real(looped))
        real = radius * np.outer(right[0], left[:, 0])
        yield "a static linear policy in the ball", LinearPolicy.static(center + real)
        yield "a static linear policy in the ball", LinearPolicy.static(center - real)


def _oscillation(pole: complex, plant: Realization) -> float:
    if plant.is_discrete:
        return abs(cmath.phase(pole)) / plant.sample_time
    return abs(pole.imag)


def first_falsified(
    plant: Realization,
    ball: IncrementalBall,
    form: str,
    end: float,
    frequencies: Iterable[float],
    *,
    upward: bool,
) -> Falsifier | None:
    """Return a falsifier with k as near to the certified end as was found, above it or below it."""
    points = list(frequencies)

    def attempt(step: float) -> Falsifier | None:
        k = end * (1.0 + step) if upward else end / (1.0 + step)
        found = falsify_ball(plant, ball, k, form, points)
        if found is not None and found.frequency not in points:
            # Where the pole crossed is the better frequency for a member nearer to the end.
            points.append(found.frequency)
        return found

    return nearest_beyond(attempt, (*STEPS, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0))


def jacobians(
    policy: Callable[[np.ndarray], np.ndarray], observations: int, samples: int, seed: int, scale: np.ndarray
) -> np.ndarray:
    """Return difference Jacobians (samples, m, p) of a policy at random observations of the given scale."""
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(samples, observations)) * scale
    points[0] = 0.0
    step = 1e-6 * np.maximum(scale, 1e-12)
    columns = [
        (policy(points + h) - policy(points - h)) / (2.0 * step[i]) for i, h in enumerate(np.diag(step))
    ]
    return np.stack(columns, axis=-1)


def falsify_policy(
    plant: Realization,
    ball: IncrementalBall,
    form: str,
    *,
    upward: bool,
    samples: int = 64,
    seed: int = 0,
    limit: float = 1e3,
) -> Falsifier | None:
    """Return the k nearest to 1 at which a linearisation of the actual policy, scaled, is seen to be unstable.

    The policy is linearised at the origin and at random observations; for each, k grows (or shrinks) until the
    loop loses stability. Only the linearisation at the origin is an equilibrium of the loop; the others
    are frozen-time loops, which speak about the class and not about a trajectory. They are named accordingly.
    """
    if ball.policy is None:
        return None
    slopes = jacobians(ball.policy, ball.observations, samples, seed, np.ones(ball.observations))
    best: Falsifier | None = None
    tried: list[np.ndarray] = []
    for index, slope in enumerate(slopes):
        if any(np.allclose(slope, other, rtol=1e-6, atol=1e-9) for other in tried):
            continue
        tried.append(slope)
        # Beyond the best scale found so far nothing matters.
        if best is not None:
            limit = best.k if upward else 1.0 / max(best.k, 1e-300)
        found = _critical_scale(plant, ball, form, slope, upward, limit)
        if found is None:
            continue
        k, policy, pole = found
        if best is None or (k < best.k if upward else k > best.k):
            where = "the origin" if index == 0 else "a sampled observation"
            kind = f"the policy's own linearisation at {where}"
            best = Falsifier(k, kind, policy, pole, _oscillation(pole, plant))
    return best


def _critical_scale(
    plant: Realization, ball: IncrementalBall, form: str, slope: np.ndarray, upward: bool, limit: float
) -> tuple[float, LinearPolicy, complex] | None:
    def at(k: float) -> LinearPolicy:
        gain = k * slope if form == "policy" else ball.center + k * (slope - ball.center)
        return LinearPolicy.static(gain)

    grid = np.geomspace(1.0, limit if upward else 1.0 / limit, 60)
    previous = 1.0
    for k in grid:
        if unstable_pole(plant, at(float(k))) is not None:
            stable, unstable = previous, float(k)
            for _ in range(40):
                middle = math.sqrt(stable * unstable)
                if unstable_pole(plant, at(middle)) is None:
                    stable = middle
                else:
                    unstable = middle
            policy = at(unstable)
            pole = unstable_pole(plant, policy)
            return None if pole is None else (unstable, policy, pole)
        previous = float(k)
    return None
