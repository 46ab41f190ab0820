"""Rigorous bounds of a plant's Jacobian over a box, by interval arithmetic on the plant's own code.

`Jet` carries an interval of values and intervals of partial derivatives through the very function that
steps the plant (it answers `torch.sin` and its kin), so the bounded and the simulated dynamics are one.
Every operation rounds outward: the enclosures hold in exact arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from lipctrl_envs.lure import LureForm

# numpy's sin, cos and tanh are within a few units in the last place of 1.
_LIBM = 4e-15


@dataclass(frozen=True, eq=False)
class Interval:
    """Arrays of closed intervals [low, high]."""

    low: np.ndarray
    high: np.ndarray

    def __add__(self, other: Interval) -> Interval:
        return _outward(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Interval) -> Interval:
        return _outward(self.low - other.high, self.high - other.low)

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __mul__(self, other: Interval) -> Interval:
        with np.errstate(invalid="ignore"):
            products = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        # 0·∞ is NaN: zero times an unbounded interval is zero.
        products = [np.where(np.isnan(p), 0.0, p) for p in products]
        return _outward(np.minimum.reduce(products), np.maximum.reduce(products))

    def square(self) -> Interval:
        """Return {x² : x in the interval}."""
        a, b = self.low * self.low, self.high * self.high
        around = (self.low <= 0.0) & (self.high >= 0.0)
        found = _outward(np.where(around, 0.0, np.minimum(a, b)), np.maximum(a, b))
        return Interval(np.maximum(found.low, 0.0), found.high)

    def inverse(self) -> Interval:
        """Return 1/x; ValueError if an interval holds zero."""
        if np.any((self.low <= 0.0) & (self.high >= 0.0)):
            raise ValueError("a denominator may vanish on this region; ask for a smaller one")
        return _outward(1.0 / self.high, 1.0 / self.low)

    def sine(self) -> Interval:
        """Return the range of sin, exact up to outward rounding."""
        ends = np.stack([np.sin(self.low), np.sin(self.high)])
        low, high = ends.min(axis=0) - _LIBM, ends.max(axis=0) + _LIBM
        high = np.where(self._meets(0.5 * math.pi), 1.0, high)
        low = np.where(self._meets(-0.5 * math.pi), -1.0, low)
        return Interval(np.maximum(low, -1.0), np.minimum(high, 1.0))

    def cosine(self) -> Interval:
        """Return the range of cos, exact up to outward rounding."""
        shift = np.full_like(self.low, 0.5 * math.pi)
        return (self + _outward(shift, shift)).sine()

    def tanh(self) -> Interval:
        """Return the range of tanh, which is monotone."""
        return Interval(
            np.maximum(np.tanh(self.low) - _LIBM, -1.0), np.minimum(np.tanh(self.high) + _LIBM, 1.0)
        )

    def _meets(self, point: float) -> np.ndarray:
        """Whether an interval may hold `point` + 2πk for a whole number k (true when in doubt)."""
        turns, doubt = 2.0 * math.pi, 1e-9
        with np.errstate(invalid="ignore"):
            first = np.ceil((self.low - point) / turns - doubt)
            last = np.floor((self.high - point) / turns + doubt)
        return ~np.isfinite(self.low) | ~np.isfinite(self.high) | (first <= last)


def _outward(low: np.ndarray, high: np.ndarray) -> Interval:
    return Interval(np.nextafter(low, -np.inf), np.nextafter(high, np.inf))


def _constant(value: float, like: Interval) -> Interval:
    full = np.full_like(like.low, value)
    return Interval(full, full)


@dataclass(frozen=True, eq=False)
class Jet:
    """A function's values (boxes,) and its partial derivatives (variables, boxes), as intervals."""

    value: Interval
    slope: Interval

    def _lift(self, other: Jet | float) -> Jet:
        if isinstance(other, Jet):
            return other
        return Jet(_constant(float(other), self.value), _constant(0.0, self.slope))

    def __add__(self, other: Jet | float) -> Jet:
        right = self._lift(other)
        return Jet(self.value + right.value, self.slope + right.slope)

    def __neg__(self) -> Jet:
        return Jet(-self.value, -self.slope)

    def __sub__(self, other: Jet | float) -> Jet:
        right = self._lift(other)
        return Jet(self.value - right.value, self.slope - right.slope)

    def __rsub__(self, other: float) -> Jet:
        return self._lift(other) - self

    def __mul__(self, other: Jet | float) -> Jet:
        if not isinstance(other, Jet):
            factor = float(other)
            return Jet(self.value * _constant(factor, self.value), self.slope * _constant(factor, self.slope))
        if other is self:
            doubled = self.value * _constant(2.0, self.value)
            return Jet(self.value.square(), doubled * self.slope)
        return Jet(self.value * other.value, self.slope * other.value + other.slope * self.value)

    def __truediv__(self, other: Jet | float) -> Jet:
        if not isinstance(other, Jet):
            return Jet(
                self.value * _constant(float(other), self.value).inverse(),
                self.slope * _constant(float(other), self.slope).inverse(),
            )
        inverse = other.value.inverse()
        return self * Jet(inverse, -(inverse.square() * other.slope))

    def __rtruediv__(self, other: float) -> Jet:
        return self._lift(other) / self

    def __pow__(self, exponent: int) -> Jet:
        if exponent != 2:
            raise TypeError(f"only squares are bounded, got the power {exponent}")
        return self * self

    __radd__ = __add__
    __rmul__ = __mul__

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Jet:
        if function not in _FUNCTIONS or kwargs:
            name = getattr(function, "__name__", str(function))
            known = ", ".join(f.__name__ for f in _FUNCTIONS)
            raise TypeError(f"no interval rule for torch.{name}; there are rules for {known}")
        return _FUNCTIONS[function](*args)


def _sine(x: Jet) -> Jet:
    return Jet(x.value.sine(), x.value.cosine() * x.slope)


def _cosine(x: Jet) -> Jet:
    return Jet(x.value.cosine(), -(x.value.sine() * x.slope))


def _tanh(x: Jet) -> Jet:
    value = x.value.tanh()
    return Jet(value, (_constant(1.0, value) - value.square()) * x.slope)


_FUNCTIONS: dict[Callable[..., Any], Callable[..., Jet]] = {
    torch.sin: _sine,
    torch.cos: _cosine,
    torch.tanh: _tanh,
}


class RatePlant(Protocol):
    """What a plant offers to be enclosed: x⁺ = A_0 x + E r(x, u) with nonlinear rates r."""

    name: str
    dt: float
    delay: int

    @property
    def physical_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...
    @property
    def state_names(self) -> tuple[str, ...]: ...
    @property
    def action_names(self) -> tuple[str, ...]: ...
    def rates(self, state: Sequence[Any], action: Sequence[Any]) -> Sequence[Any]: ...
    def rates_path(self) -> tuple[np.ndarray, np.ndarray]: ...


def slopes_over_box(
    plant: RatePlant, limits: Mapping[str, float], parts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (J_0, low, high), each (rates, n + m): the Jacobian of the rates at rest, and its entries' bounds.

    The box |signal| ≤ limit is cut into `parts` pieces along every limited signal; a signal without a limit
    is taken as unbounded, which is harmless where it enters linearly and otherwise a ValueError.
    """
    names = (*plant.state_names[: plant.physical_size], *plant.action_names)
    bounded = [n for n in names if n in limits]
    cuts = [np.linspace(-limits[n], limits[n], parts + 1) for n in bounded]
    boxes = np.array(list(itertools.product(range(parts), repeat=len(bounded)))).reshape(-1, len(bounded))
    count = len(boxes)

    def jets(low: np.ndarray, high: np.ndarray) -> list[Jet]:
        eye = np.eye(len(names))
        return [
            Jet(Interval(low[i], high[i]), Interval(*(np.repeat(eye[i][:, None], low.shape[1], 1),) * 2))
            for i in range(len(names))
        ]

    def slope(low: np.ndarray, high: np.ndarray) -> Interval:
        inputs = jets(low, high)
        rates = plant.rates(inputs[: plant.physical_size], inputs[plant.physical_size :])
        return Interval(np.stack([r.slope.low for r in rates]), np.stack([r.slope.high for r in rates]))

    rest = slope(*(np.zeros((len(names), 1)),) * 2)
    middle = 0.5 * (rest.low + rest.high)[..., 0]
    low, high = np.full((len(names), count), -np.inf), np.full((len(names), count), np.inf)
    for column, name in enumerate(bounded):
        row = names.index(name)
        low[row], high[row] = cuts[column][boxes[:, column]], cuts[column][boxes[:, column] + 1]
    found = slope(low, high)
    least, most = found.low.min(axis=-1), found.high.max(axis=-1)
    if not (np.isfinite(least).all() and np.isfinite(most).all()):
        free = [n for n in names if n not in limits]
        raise ValueError(
            f"{plant.name}: the Jacobian is unbounded on this region; limit more signals (free: {free})"
        )
    return middle, least, most


def enclosed_form(
    plant: Any, limits: Mapping[str, float], *, parts: int = 8, observation: np.ndarray | None = None
) -> LureForm:
    """Return a sound Lur'e form of a plant without an exact one: a channel for each varying Jacobian entry.

    A and B are the linearisation at rest; channel (i, j) carries the deviation of ∂rate_i/∂signal_j from
    its value at rest, bounded over the box `limits` (mean-value theorem on a convex box). An entry that moves
    by less than 1e-12 of its size is taken as constant: so much is the rounding of the simulation itself.
    observation : C (p, n), the identity where it is not given.
    """
    n, m = plant.physical_size, plant.action_size
    names = (*plant.state_names[:n], *plant.action_names)
    J_0, low, high = slopes_over_box(plant, limits, parts)
    A_0, E = plant.rates_path()
    deviation = Interval(low, high) - Interval(J_0, J_0)
    width = np.maximum(np.abs(deviation.low), np.abs(deviation.high))
    varying = width > 1e-12 * (1.0 + np.abs(J_0))
    channels = [(i, j) for i, j in itertools.product(*map(range, J_0.shape)) if varying[i, j]]
    seen = {j for _, j in channels}
    idle = [j for j, name in enumerate(names) if name in limits and j not in seen]
    eye = np.eye(n + m)
    rows = np.array([eye[j] for _, j in channels] + [eye[j] for j in idle]).reshape(-1, n + m)
    columns = [E[:, i] for i, _ in channels] + [np.zeros(n) for _ in idle]
    C = np.eye(n) if observation is None else observation
    return LureForm(
        A=A_0 + E @ J_0[:, :n],
        B=E @ J_0[:, n:],
        B_w=np.array(columns).reshape(-1, n).T,
        C_z=rows[:, :n],
        D_zu=rows[:, n:],
        lower=np.array([deviation.low[c] for c in channels] + [0.0] * len(idle)),
        upper=np.array([deviation.high[c] for c in channels] + [0.0] * len(idle)),
        z_max=np.array([limits.get(names[j], math.inf) for j in [j for _, j in channels] + idle]),
        C=C,
        D_w=np.zeros((len(C), len(rows))),
        y_0=np.zeros(len(C)),
        dt=plant.dt,
        note=f"bounds of the Jacobian over {dict(limits)}, by interval arithmetic",
    ).with_delay(plant.delay)
