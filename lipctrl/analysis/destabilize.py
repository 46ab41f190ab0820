"""What a margin stops: a perturbation that destabilises the loop, and a time simulation on either side of it."""

from __future__ import annotations

import cmath
import importlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.linalg

from lipctrl.analysis.falsify_linear import LinearPolicy, algebraic_loop, closed_loop_matrix
from lipctrl.analysis.plant import Realization
from lipctrl.analysis.units import in_units

# Shares of the way from the nominal loop to the perturbation by which a simulation keeps off its size.
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
# A simulation is long enough to see this factor of growth and of decay, or this many oscillations.
_FACTOR, _PERIODS, _SAMPLES = 20.0, 60.0, 1500


@dataclass(frozen=True)
class LinearLoop:
    """An autonomous real loop x' = Ax (x⁺ = Ax with a sample time), seen through y = Cx.

    The first `shared` states (None: all of them) mean the same for every size of a perturbation.
    """

    a: np.ndarray
    c: np.ndarray
    sample_time: float
    shared: int | None = None

    def rate(self) -> float:
        """Return the growth rate [1/s] of the fastest growing (slowest decaying) mode."""
        poles = np.linalg.eigvals(self.a)
        if self.sample_time == 0.0:
            return float(np.real(poles).max())
        largest = float(np.abs(poles).max())
        return math.log(largest) / self.sample_time if largest > 0.0 else -math.inf

    def rate_near(self, pole: complex) -> float:
        """Return the growth rate [1/s] of the mode nearest to a pole of a neighbouring loop."""
        poles = np.atleast_1d(np.linalg.eigvals(self.a))
        nearest = complex(poles[int(np.argmin(np.abs(poles - pole)))])
        if self.sample_time == 0.0:
            return nearest.real
        return math.log(abs(nearest)) / self.sample_time if nearest != 0.0 else -math.inf

    def mode(self) -> tuple[complex, np.ndarray]:
        """Return the dominant pole and a real state that excites it."""
        values, vectors = np.linalg.eig(self.a)
        poles = np.atleast_1d(values)
        size = np.abs(poles) if self.sample_time else np.real(poles)
        worst = int(np.argmax(size))
        vector = vectors[:, worst]
        seen = self.c @ vector
        turn = seen[int(np.argmax(np.abs(seen)))]
        state = np.real(vector / turn) if abs(turn) > 1e-12 else np.real(vector)
        return complex(poles[worst]), state

    def run(self, state: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the outputs (N, outputs) at evenly spaced times, exact up to rounding; missing states start at 0."""
        if self.shared is not None:
            state = np.concatenate([state[: self.shared], np.zeros(len(self.a) - self.shared)])
        step = self.a if self.sample_time else scipy.linalg.expm(self.a * float(time[1] - time[0]))
        out = np.empty((len(time), len(self.c)))
        for k in range(len(time)):
            out[k] = self.c @ state
            state = step @ state
        return out


def linear_loop(plant: Realization, policy: LinearPolicy) -> LinearLoop | None:
    """Close u = π(y) (positive feedback); a complex policy becomes a real loop of two copies of the plant.

    A complex gain z acts on the pair of copies as the real matrix [Re z, -Im z; Im z, Re z]: a rotation of the
    controls between the copies where |z| = 1.
    """
    a, e = closed_loop_matrix(plant, policy), algebraic_loop(plant, policy)
    if a is None or e is None:
        return None
    c = np.hstack([plant.C + plant.D @ e @ policy.d @ plant.C, plant.D @ e @ policy.c])
    if np.iscomplexobj(a):
        re, im = np.real(a), np.imag(a)
        a, c = np.block([[re, -im], [im, re]]), np.hstack([np.real(c), -np.imag(c)])
    return LinearLoop(a, np.real(c), plant.sample_time)


@dataclass(frozen=True)
class MarginSimulation:
    """Outputs of a loop with a perturbation a little smaller and a little larger than the one that destabilises.

    `time` (N,) [s] (samples where `counts_samples`: dt=True), `inside` and `outside` (N, outputs), from the same state;
    `inside_value`, `outside_value` are the sizes of the perturbation, in `unit`; `output_names` are the plant's
    output_labels, empty where it has none.
    """

    time: np.ndarray
    inside: np.ndarray
    outside: np.ndarray
    inside_value: float
    outside_value: float
    quantity: str
    unit: str
    frequency: float
    sample_time: float
    output_names: tuple[str, ...] = ()
    counts_samples: bool = False

    @property
    def largest(self) -> int:
        """Return which output grows largest outside."""
        return int(np.argmax(np.abs(self.outside).max(axis=0)))

    def name_of(self, output: int) -> str:
        """Return the name of an output, primed for the second copy of a plant; y1, y2, … where they have none."""
        if not self.output_names:
            return f"y{output + 1}"
        copy, index = divmod(output, len(self.output_names))
        return self.output_names[index] + "'" * copy

    @property
    def growth(self) -> tuple[float, float]:
        """Largest output in the last quarter over that in the first quarter: (inside, outside)."""
        quarter = max(len(self.time) // 4, 1)
        sizes = [
            (float(np.abs(y[-quarter:]).max()), float(np.abs(y[:quarter]).max()))
            for y in (self.inside, self.outside)
        ]
        inside, outside = (late / early if early > 0.0 else math.nan for late, early in sizes)
        return inside, outside

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        inside, outside = self.growth
        largest = f" (largest: {self.name_of(self.largest)})" if self.output_names else ""
        return (
            f"{self.quantity} {self.inside_value:.6g}{unit}: the output{largest} shrinks to {inside:.3g} of its size; "
            f"{self.outside_value:.6g}{unit}: it grows to {outside:.3g} times"
        )

    def plot(self, *, ax: Any = None) -> Any:
        """Draw both runs (`lipctrl.plots.margin_simulation_plot`); returns the axes."""
        return importlib.import_module("lipctrl.plots.margin_simulation").margin_simulation_plot(self, ax=ax)


@dataclass(frozen=True)
class Destabilization:
    """A perturbation of the class, of size `value`, with which the loop was seen to be unstable.

    Attributes
    ----------
    quantity, unit, value : what is perturbed and by how much; `nominal` is its value in the nominal loop.
    kind : the perturbation in words.
    frequency : where the unstable pole oscillates [rad/s]; pole : that pole (of the z-plane in discrete time).
    policy : the linear policy of the class in the loop (u = π(y), positive feedback), or None.
    matrix : the perturbation as a matrix (real where it is static, complex at `frequency` otherwise), or None.
    """

    quantity: str
    unit: str
    value: float
    nominal: float
    kind: str
    frequency: float
    pole: complex
    policy: LinearPolicy | None = field(default=None, repr=False)
    matrix: np.ndarray | None = field(default=None, repr=False)
    loop: Callable[[float], LinearLoop | None] | None = field(default=None, repr=False, compare=False)
    counts_samples: bool = field(default=False, repr=False, compare=False, kw_only=True)
    output_names: tuple[str, ...] = field(default=(), repr=False, compare=False, kw_only=True)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        text = f"{self.quantity} {self.value:.6g}{unit} by {self.kind} (pole {self.pole:.6g}, "
        return in_units(f"{text}{self.frequency:.6g} rad/s)", self.counts_samples)

    def _sides(self) -> list[tuple[float, float]]:
        if self.unit == "samples":
            # The falsified number is the first unstable one.
            steps = sorted(itertools.product(range(4), repeat=2), key=sum)
            return [(self.value - 1.0 - i, self.value + j) for i, j in steps if self.value - 1.0 - i >= 0.0]
        away = [step * (self.value - self.nominal) for step in _STEPS]
        return [(self.value - d, self.value + d) for d in away]

    def simulate(self) -> MarginSimulation:
        """Simulate the loop a little inside and a little outside this perturbation, from the same state.

        Inside, the output decays; outside, it grows. The distance is the smallest of 1 % … 80 % of the way from
        the nominal loop at which the mode that crosses shows both within 60 oscillations. For one end of a margin
        where another member of the class is worse, "inside" is inside for this member.

        Raises
        ------
        ValueError
            If no pair of stable and unstable loops was found on this way.
        """
        chosen, fastest = None, 0.0
        build = self.loop
        if build is None:
            raise ValueError("this destabilisation was read from a file: it holds no loop to simulate")
        for values in self._sides():
            inside, outside = build(values[0]), build(values[1])
            if inside is None or outside is None or not inside.rate() < 0.0 < outside.rate():
                continue
            slow = _visible_rate(inside, outside)
            if slow > fastest:
                chosen, fastest = (values, inside, outside), slow
            if self.frequency == 0.0 or slow * _PERIODS * 2.0 * math.pi / self.frequency > math.log(_FACTOR):
                break
        if chosen is None:
            raise ValueError(
                f"no stable loop just inside and unstable loop just outside {self} was found; the perturbation acts "
                "through a mode that it does not move"
            )
        (low, high), inside, outside = chosen
        pole, state = outside.mode()
        time = _times(inside, outside, pole)
        return MarginSimulation(
            time=time,
            inside=inside.run(state, time),
            outside=outside.run(state, time),
            inside_value=low,
            outside_value=high,
            quantity=self.quantity,
            unit=self.unit,
            frequency=self.frequency,
            sample_time=outside.sample_time,
            output_names=self.output_names,
            counts_samples=self.counts_samples,
        )


def _visible_rate(inside: LinearLoop, outside: LinearLoop) -> float:
    # The mode that crosses: slower ones, which no size of the perturbation moves, are hardly excited.
    pole, _ = outside.mode()
    return min(-inside.rate_near(pole), outside.rate())


def _times(inside: LinearLoop, outside: LinearLoop, pole: complex) -> np.ndarray:
    span = math.log(_FACTOR) / max(_visible_rate(inside, outside), 1e-300)
    omega = oscillation(pole, outside.sample_time)
    if omega > 0.0:
        span = min(span, _PERIODS * 2.0 * math.pi / omega)
    # Fast growth must not overflow.
    span = min(span, 25.0 / outside.rate())
    if outside.sample_time:
        return outside.sample_time * np.arange(
            int(min(max(span / outside.sample_time, 12), 100 * _SAMPLES)) + 1
        )
    return np.linspace(0.0, span, _SAMPLES)


def oscillation(pole: complex, sample_time: float) -> float:
    """Return the frequency [rad/s] at which a mode oscillates."""
    return abs(cmath.phase(pole)) / sample_time if sample_time else abs(pole.imag)


def with_names_of(found: Destabilization | None, plant: Realization) -> Destabilization | None:
    """Return what destabilises a plant with the names of the outputs through which it is seen, and the unit of time."""
    if found is None:
        return None
    return replace(found, output_names=plant.output_names, counts_samples=plant.counts_samples)


def policy_destabilization(
    plant: Realization,
    policy_at: Callable[[float], LinearPolicy],
    value: float,
    words: tuple[str, str, str],
    pole: complex,
    *,
    nominal: float = 0.0,
    matrix: np.ndarray | None = None,
) -> Destabilization:
    """Return the destabilisation by a family of linear policies; words = (quantity, unit, kind)."""
    quantity, unit, kind = words
    return Destabilization(
        quantity=quantity,
        unit=unit,
        value=value,
        nominal=nominal,
        kind=kind,
        frequency=oscillation(pole, plant.sample_time),
        pole=pole,
        policy=policy_at(value),
        matrix=matrix,
        loop=lambda size: linear_loop(plant, policy_at(size)),
        counts_samples=plant.counts_samples,
        output_names=plant.output_names,
    )
