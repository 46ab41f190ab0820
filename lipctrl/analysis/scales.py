"""The scales in which a policy's ball is stated, and the way of a loop into these units and of its results back.

Gains are Euclidean: one number bounds all channels, so units matter. In η = y / s and v = u / a a plant P becomes
diag(1/s) P diag(a) and a policy v = π(s η) / a; loops, gain factors, phases and delays stay what they are. Scales are
powers of two, so nothing is rounded on either way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl.analysis.arguments import positive_numbers
from lipctrl.analysis.plant import Realization

if TYPE_CHECKING:
    from lipctrl.analysis.destabilize import Destabilization, LinearLoop
    from lipctrl.analysis.falsify_linear import LinearPolicy


@dataclass(frozen=True)
class Scales:
    """Sizes s (p,) of observations and a (m,) of actions, powers of two: signals are counted as y / s and u / a."""

    observation: np.ndarray
    action: np.ndarray

    @classmethod
    def none(cls, observations: int, actions: int) -> Scales:
        """Return the scales that change nothing."""
        return cls(np.ones(observations), np.ones(actions))

    @property
    def trivial(self) -> bool:
        """Whether nothing is scaled."""
        return bool((self.observation == 1.0).all() and (self.action == 1.0).all())

    @property
    def uniform(self) -> bool:
        """Whether all observations have one size and all actions have one: then a plain ball is the same class."""
        return bool((self.observation == self.observation[0]).all() and (self.action == self.action[0]).all())

    def raw_norm(self, norm: float) -> float:
        """Return a bound of the gain from u to y of a map whose gain from v to η is at most `norm`."""
        return norm * (float(self.observation.max()) / float(self.action.min()))

    def plant(self, system: Realization) -> Realization:
        """Return diag(1/s) P diag(a); the states stay."""
        if self.trivial:
            return system
        left, right = 1.0 / self.observation[:, None], self.action[None, :]
        with np.errstate(over="ignore"):  # refused below
            b = system.b.rescaled(np.broadcast_to(right, system.b.shape))
            c = system.c.rescaled(np.broadcast_to(left, system.c.shape))
            # One after the other: their product could underflow where the scaled entry does not.
            d = system.d.rescaled(np.broadcast_to(left, system.d.shape))
            d = d.rescaled(np.broadcast_to(right, system.d.shape))
        if not all(np.isfinite(matrix.mid).all() for matrix in (b, c, d)):
            raise ValueError("the scales are too large or too small for this plant: a scaled entry overflows")
        return replace(system, b=b, c=c, d=d)

    def gain(self, gain: np.ndarray) -> np.ndarray:
        """Return a gain u = K y as the gain of v = u / a on η = y / s; ValueError where that would round."""
        with np.errstate(over="ignore", under="ignore"):
            scaled = gain * self.observation[None, :] / self.action[:, None]
        if not np.array_equal(self.raw_gain(scaled), gain):
            raise ValueError(
                f"the scales {self.observation.tolist()} and {self.action.tolist()} are too far from the gain's units: "
                "a scaled entry over- or underflows"
            )
        return scaled

    def raw_gain(self, gain: np.ndarray) -> np.ndarray:
        """Return a gain of v on η as one of u on y."""
        return self.action[:, None] * gain / self.observation[None, :]

    def raw_policy(self, policy: LinearPolicy) -> LinearPolicy:
        """Return a linear policy of v on η as one of u on y."""
        return replace(
            policy,
            b=policy.b / self.observation[None, :],
            c=self.action[:, None] * policy.c,
            d=self.raw_gain(policy.d),
        )

    def raw_destabilization(
        self, found: Destabilization | None, seen: np.ndarray | None = None
    ) -> Destabilization | None:
        """Return what destabilises a loop in η and v as what destabilises it in y and u.

        `seen` are the sizes of the signals through which the loop is seen, where these are not copies of y. Its matrix
        is that of factors of the actuators, one a channel, which no scale changes.
        """
        if found is None or self.trivial:
            return found
        build = found.loop

        def raw_loop(value: float) -> LinearLoop | None:
            loop = None if build is None else build(value)
            if loop is None:
                return None
            sizes = np.tile(self.observation, len(loop.c) // len(self.observation)) if seen is None else seen
            return replace(loop, c=sizes[:, None] * loop.c)

        return replace(
            found,
            policy=None if found.policy is None else self.raw_policy(found.policy),
            loop=None if build is None else raw_loop,
        )

    def __str__(self) -> str:
        parts = []
        if (self.observation != 1.0).any():
            parts.append(f"observations / {listed(self.observation)}")
        if (self.action != 1.0).any():
            parts.append(f"actions / {listed(self.action)}")
        return ", ".join(parts)


def listed(sizes: np.ndarray) -> str:
    """Return sizes as text."""
    return f"[{', '.join(f'{size:g}' for size in sizes)}]"


def outer_powers(sizes: Any, count: int, name: str, *, divides: bool) -> tuple[np.ndarray, list[Fraction]]:
    """Return powers of two p beside positive sizes v and the ratios p / v, exactly: a ball in p holds the one in v.

    The channel that sets the plain ball around it (the smallest size where signals are divided by them, else the
    largest) keeps the extreme ratio, and the others are rounded towards it, by less than 2. So the ball in p lies in
    that plain ball: scales, rounded, are never worse than none.

    Raises
    ------
    ValueError
        For sizes that are not positive, finite, and one for each channel (or one for all).
    """
    values = positive_numbers(sizes, count, name)
    mantissa, exponent = np.frexp(values)
    first = mantissa[np.argmin(values) if divides else np.argmax(values)]
    outwards = -(mantissa < first).astype(int) if divides else (mantissa > first).astype(int)
    with np.errstate(over="ignore", under="ignore"):  # refused below
        powers = np.ldexp(1.0, exponent - 1 + outwards)
    if not (np.isfinite(powers) & (powers >= np.finfo(float).tiny)).all():
        raise ValueError(f"{name} is {sizes!r}; expected sizes within the normal range of float64")
    return powers, [Fraction(float(p)) / Fraction(float(v)) for p, v in zip(powers, values, strict=True)]
