"""Incremental disk margins: gain and phase of every channel perturbed at once, for every policy of a ball."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.optimize

from lipctrl.analysis.ball import IncrementalBall, global_ball, with_scope
from lipctrl.analysis.blocks import minimize_logs, realized_blocks, scales, slope, worst_blocks
from lipctrl.analysis.destabilize import Destabilization, MarginSimulation, policy_destabilization
from lipctrl.analysis.disk import disk_policy, gain_interval, phase_of_disk
from lipctrl.analysis.falsify_linear import LinearPolicy, unstable_pole
from lipctrl.analysis.loop import NominalLoop
from lipctrl.analysis.midrad import MidRad, block
from lipctrl.analysis.phase import certified_loop, in_hertz
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.popov import PopovForm, level_test
from lipctrl.analysis.sweep import ModalSweep


@dataclass(frozen=True)
class IncrementalDiskMargin:
    """A loop that stays stable for every policy of the ball and every f = (1 + bδ)/(1 - aδ), |δ| ≤ `alpha`.

    a = (1 + skew)/2, b = (1 - skew)/2; f multiplies the policy's outputs, each channel having a δ of its own: any
    operator of incremental gain at most α, time-varying and nonlinear ones included. `falsified` is an α at which a
    linear policy of the ball with linear δ was seen to be unstable (NaN: none found).

    Attributes
    ----------
    alpha, falsified : the two ends of the disk's size (absolute).
    gain_margin : (lower, upper): gains strictly between, each channel on its own, are certified.
    phase_margin : [rad], certified in every channel.
    frequency : where the certified end is tightest [rad/s].
    scaling : the constants d_i of the proof, relative to the ball's.
    channels : the certified α of one channel perturbed alone, where there are several.
    scope : sentences that say where the claim holds if not everywhere.
    """

    alpha: float
    falsified: float
    skew: float
    gain_margin: tuple[float, float]
    phase_margin: float
    frequency: float
    scaling: np.ndarray
    destabilization: Destabilization | None
    channels: tuple[float, ...] = ()
    scope: tuple[str, ...] = ()

    def simulate(self) -> MarginSimulation:
        """Simulate the loop just inside and just outside the falsified end; ValueError where there is none."""
        if self.destabilization is None:
            raise ValueError(
                "no disk perturbation with a policy of the ball was found to destabilise this loop"
            )
        return self.destabilization.simulate()

    def __str__(self) -> str:
        low, high = self.gain_margin
        text = (
            f"certified α ≤ {self.alpha:.6g} (skew {self.skew:g}): gain {low:.4g} … {high:.4g}, phase "
            f"±{math.degrees(self.phase_margin):.2f}°, tightest at {in_hertz(self.frequency)}"
        )
        if self.channels:
            text += ", single channels α ≤ " + ", ".join(f"{a:.6g}" for a in self.channels)
        text = with_scope(text, self.scope)
        return text if self.destabilization is None else f"{text}; falsified {self.destabilization}"


def incremental_disk_margin(sys: Any, policy: Any, skew: float = 0.0) -> IncrementalDiskMargin:
    """Return the largest disk of gain and phase perturbations that is certified together with the whole ball.

    Two kinds of blocks, the δ_i of the channels and the deviation of the policy from its centre, with one constant
    scaling each: that keeps the statement incremental. Ungridded (level sets). With radius 0 it is the classical disk
    margin of the loop -K₀P at the plant's input, `lipctrl.disk_margin(-K₀, P)`.

    Parameters
    ----------
    sys : plant as `as_realization` takes it; policy : as `as_ball` takes it. Positive feedback, u = f·π(y).
    skew : 0 balances gain increase and decrease; > 0 favours decrease, < 0 increase.

    Raises
    ------
    ValueError
        For bad data, or a loop that is not certified without perturbation.

    Source: Seiler, Packard & Gahinet 2020, Theorem 1, for the disk; constant scalings as in Doyle 1982.

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
    skew = float(skew)
    if not math.isfinite(skew):
        raise ValueError(f"skew is {skew}; expected a finite number (0 is balanced)")
    ball = global_ball(policy)
    loop = certified_loop(sys, ball, "α = 0")
    every = tuple(range(ball.actions))
    problem = _DiskProblem(loop, ball, every, skew)
    alpha, omega, scaling = problem.certified()
    found = problem.falsified(omega)
    margin = IncrementalDiskMargin(
        alpha=alpha,
        falsified=math.nan if found is None else found.value,
        skew=skew,
        gain_margin=gain_interval(alpha, skew),
        phase_margin=phase_of_disk(alpha, skew),
        frequency=omega,
        scaling=scaling,
        destabilization=found,
        scope=ball.scope,
    )
    if len(every) == 1:
        return margin
    singles = tuple(_DiskProblem(loop, ball, (i,), skew).certified()[0] for i in every)
    return replace(margin, channels=singles)


class _DiskProblem:
    """(w, r) ↦ (q, y) around a certified loop: w_i = δ_i q_i, q = v + a·w, v = K₀y + r, r = Xy, y = P(v + w)."""

    def __init__(
        self, loop: NominalLoop, ball: IncrementalBall, chosen: tuple[int, ...], skew: float
    ) -> None:
        t = loop.system
        assert t is not None
        self._loop, self._ball, self._chosen, self._a = loop, ball, chosen, 0.5 * (1.0 + skew)
        pick = MidRad(np.eye(ball.actions)[list(chosen)])
        into = pick.H
        gain = pick @ MidRad(np.asarray(ball.center))
        mine = MidRad(self._a * np.eye(len(chosen)))
        self._system = Realization(
            t.a,
            block([[t.b @ into, t.b]]),
            block([[gain @ t.c], [t.c]]),
            block([[gain @ t.d @ into + mine, gain @ t.d + pick], [t.d @ into, t.d]]),
            t.sample_time,
            t.timebase,
            static=t.static,
        )
        self._shapes = ((1, 1),) * len(chosen) + ((ball.actions, ball.observations),)
        # Without a ball only the disks are left, and the last of them sets the unit of the scalings.
        self._alone = ball.radius == 0.0
        if self._alone:
            k, s = len(chosen), self._system
            self._system = replace(s, b=s.b @ _first(k, s.inputs), c=_first(k, s.outputs).H @ s.c,
                                   d=_first(k, s.outputs).H @ s.d @ _first(k, s.inputs))  # fmt: skip
            self._shapes = self._shapes[:-1]

    def certified(self) -> tuple[float, float, np.ndarray]:
        """Return the proved α, the frequency where it is tightest [rad/s], and the scaling of the proof."""
        points, d = self._first_points(), np.ones(len(self._shapes))
        best, where, kept = 0.0, math.nan, d
        for _ in range(12):
            responses = np.stack([self._system.response(w) for w in sorted(points)])
            responses = responses[np.isfinite(responses).all(axis=(1, 2))]
            d, low = minimize_logs(lambda logs, m=responses: self._sloped(logs, m), d)
            alpha, omega = self._proved(d, 1.0 / math.sqrt(low) if low > 0.0 else math.inf)
            if alpha > best:
                best, where, kept = alpha, omega, d
            if low <= 0.0 or not math.isfinite(low) or best * math.sqrt(low) >= 1.0 - 1e-7 or omega in points:
                break
            points.add(omega)
        return best, where, kept

    def _first_points(self) -> set[float]:
        norm = self._loop.norm()
        top = self._system.highest_frequency
        return {0.0, top} | ({norm.frequency} if math.isfinite(norm.frequency) else set())

    def _inverse_square(self, logs: np.ndarray, responses: np.ndarray) -> float:
        """Return the largest 1/α² over some responses for the scaling (exp(logs), 1); inf where even α = 0 fails."""
        return self._ranked(logs, responses)[0]

    def _ranked(self, logs: np.ndarray, responses: np.ndarray) -> tuple[float, int]:
        """Return the largest 1/α² over some responses, and which of them has it."""
        outer, inner = self._parts(self._scales(scales(logs)), responses)
        values = np.linalg.eigvalsh(outer)
        if not values[:, 0].min() > 1e-14 * values[:, -1].max():
            return 1e300 * (1.0 - values[:, 0].min()), int(np.argmin(values[:, 0]))
        root = np.linalg.cholesky(outer)
        half = np.linalg.solve(root, inner.conj().swapaxes(-1, -2))
        sizes = np.linalg.norm(half, 2, axis=(1, 2))
        return float(sizes.max() ** 2), int(np.argmax(sizes))

    def _sloped(self, logs: np.ndarray, responses: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the largest 1/α² and a normal in log d of the half-space in which it can be smaller."""
        value, k = self._ranked(logs, responses)
        alpha = 1.0 / math.sqrt(value) if 0.0 < value < 1e299 else 0.0
        d = self._scales(scales(logs))
        q, m, p = len(d), self._system.inputs - len(d), self._system.outputs - len(d)
        rows = np.concatenate([alpha * d, np.full(p, self._ball.radius)])
        left, _, right = np.linalg.svd(rows[:, None] * responses[k] / np.append(d, np.ones(m)))
        tails = ([p], [m]) if p else ([], [])
        return value, slope(left[:, 0], [1] * q + tails[0], right[0], [1] * q + tails[1])

    def _scales(self, d: np.ndarray) -> np.ndarray:
        """Return the scalings of the disks from those of all blocks."""
        return d if self._alone else d[:-1]

    def _parts(self, d: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return diag(D², I) - ρ²yᴴy and D·q of the responses."""
        k = len(d)
        weights = np.diag(np.concatenate([d**2, np.ones(m.shape[-1] - k)]))
        y = m[:, k:]
        return weights - self._ball.radius**2 * y.conj().swapaxes(-1, -2) @ y, d[:, None] * m[:, :k]

    def _proved(self, d: np.ndarray, start: float) -> tuple[float, float]:
        """Return the largest α proved with one scaling, from a sampled upper value, and a frequency near its limit."""
        high = min(start, 1e6)
        where = 0.0
        sweep = ModalSweep.of(self._form(self._scales(d), 0.0))
        for _ in range(30):
            for share in (1e-9, 1e-8, 1e-7):
                test = level_test(self._form(self._scales(d), high * (1.0 - share)), 0.0)
                if test.proved:
                    return math.nextafter(high * (1.0 - share), 0.0), self._limit(d, sweep, where)
            points = np.unique(np.abs(test.crossings)) if test.crossings.size else np.zeros(0)
            points = np.unique(np.concatenate([points, 0.5 * (points[1:] + points[:-1]), [where]]))
            samples = np.stack([self._system.response(float(w)) for w in points])
            values = [self._inverse_square(np.log(d[:-1]), m[None]) for m in samples]
            k = int(np.argmax(values))
            lower = 1.0 / math.sqrt(values[k]) if values[k] > 0.0 else math.inf
            where = float(points[k])
            # Where no lower sample is found, rounding forbids the level.
            high = (
                lower if lower < high * (1.0 - 1e-9) else high * (1.0 - 1e-5 if high > 0.5 * start else 0.5)
            )
        return 0.0, where

    def _limit(self, d: np.ndarray, sweep: ModalSweep | None, seen: float) -> float:
        grid = np.array([0.0]) if sweep is None else sweep.grid()
        grid = np.unique(np.concatenate([[0.0], grid[grid >= 0.0], [seen]]))
        value = {
            float(w): self._inverse_square(np.log(d[:-1]), self._system.response(float(w))[None])
            for w in grid
        }
        omega = max(value, key=lambda w: value[w])
        k = int(np.searchsorted(grid, omega))
        left, right = float(grid[max(k - 1, 0)]), float(grid[min(k + 1, len(grid) - 1)])
        for _ in range(8):
            fine = np.linspace(left, right, 13)
            sizes = [
                self._inverse_square(np.log(d[:-1]), self._system.response(float(w))[None]) for w in fine
            ]
            j = int(np.argmax(sizes))
            left, right = float(fine[max(j - 1, 0)]), float(fine[min(j + 1, 12)])
            if sizes[j] > value[omega]:
                omega = float(fine[j])
                value[omega] = sizes[j]
        # Where a peak lies at an end of the axis up to rounding, it lies there: a static perturbation realises it.
        tops = (0.0, self._system.highest_frequency)
        ends = [w for w in tops if value.get(w, 0.0) >= value[omega] * (1.0 - 1e-9)]
        return ends[0] if ends else omega

    def _form(self, d: np.ndarray, alpha: float) -> PopovForm:
        """Return diag(D², I) - α²qᴴD²q - ρ²yᴴy; D, α and ρ are exact, their products enclosed."""
        k = len(d)
        m, p = self._system.inputs - k, self._system.outputs - k
        scale = MidRad(np.diag(d))
        square = scale @ scale
        size = MidRad(np.diag(np.full(k, alpha))) @ scale
        radius = MidRad(self._ball.radius * np.eye(p))
        yy = block(
            [
                [-(size @ size), MidRad.zeros(k, p)],
                [MidRad.zeros(p, k), -(radius @ radius)],
            ]
        )
        uu = block([[square, MidRad.zeros(k, m)], [MidRad.zeros(m, k), MidRad.eye(m)]])
        return PopovForm(self._system, yy, MidRad.zeros(k + p, k + m), uu)

    def falsified(self, near: float) -> Destabilization | None:
        """Return linear δ and a linear policy of the ball that destabilise, as small as was found."""
        top = self._system.highest_frequency
        points = {0.0, near, *(near * s for s in (0.5, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 2.0))}
        points |= {top} if math.isfinite(top) else set()
        usable = sorted(w for w in points if math.isfinite(w) and w <= top)
        omega, best = near, math.inf
        for w in sorted(usable, key=lambda w: abs(w - near)):
            omega, best = self._better(w, omega, best)
        reach = 0.1 * omega
        for _ in range(6):
            for w in np.linspace(max(omega - reach, 0.0), min(omega + reach, top), 5):
                omega, best = self._better(float(w), omega, best)
            reach *= 0.25
        return None if not math.isfinite(best) else self._realized(omega, best)

    def _better(self, omega: float, where: float, best: float) -> tuple[float, float]:
        """Return (omega, its α) if that is smaller than the best α so far, else (where, best)."""
        if not math.isfinite(omega) or (
            math.isfinite(best) and self._excess(best * (1.0 - 1e-12), omega) < 0.0
        ):
            return where, best
        size = self._smallest(omega, best)
        return (omega, size) if size < best else (where, best)

    def _excess(self, alpha: float, omega: float) -> float:
        return worst_blocks(self._weighted(alpha, omega), self._shapes, starts=3).value - 1.0

    def _weighted(self, alpha: float, omega: float) -> np.ndarray:
        k = len(self._chosen)
        weights = np.concatenate([np.full(k, alpha), np.full(self._system.outputs - k, self._ball.radius)])
        return weights[:, None] * self._system.response(omega)

    def _smallest(self, omega: float, best: float) -> float:
        """Return the smallest α found for which blocks of norm at most one make the weighted loop singular at ω."""
        low, high = 0.0, best if math.isfinite(best) else 1.0
        while self._excess(high, omega) < 0.0:
            low, high = high, 2.0 * high
            if high > 1e4:
                return math.inf
        if self._excess(low, omega) >= 0.0:
            return math.inf
        find: Any = scipy.optimize.brentq
        alpha = float(find(self._excess, low, high, args=(omega,), xtol=1e-12, rtol=1e-10, maxiter=60))
        return alpha if alpha > 0.0 else math.inf

    def _realized(self, omega: float, alpha: float) -> Destabilization | None:
        plant, k = self._loop.plant, len(self._chosen)
        worst = worst_blocks(self._weighted(alpha, omega), self._shapes)
        deltas = worst.blocks[:k]
        deviation = None if self._alone else worst.blocks[k]
        size = 0.0 if deviation is None else float(np.linalg.norm(deviation, 2))
        member = LinearPolicy.static(np.asarray(self._ball.center))
        if deviation is not None and size > 0.0:
            share = self._ball.radius * (1.0 - 1e-13) / max(size, 1.0)
            member = realized_blocks([deviation * share], omega, plant.sample_time).plus(self._ball.center)
        filters = realized_blocks(deltas, omega, plant.sample_time)

        def at(size: float) -> LinearPolicy:
            return disk_policy(member, filters.scaled(size), self._chosen, self._a)

        matrix = np.array([complex(delta[0, 0]) * alpha for delta in deltas])
        kind = "disk perturbations of the channels with a linear policy of the ball"
        for step in (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3):
            value = alpha * (1.0 + step)
            pole = unstable_pole(plant, at(value))
            if pole is not None:
                return policy_destabilization(
                    plant, at, value, ("disk size α", "", kind), pole, matrix=matrix
                )
        return None


def _first(count: int, size: int) -> MidRad:
    """Return the first columns of an identity."""
    return MidRad(np.ascontiguousarray(np.eye(size)[:, :count]))
