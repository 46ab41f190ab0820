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

    def plant(self, system: Realization) -> Realization:
        """Return diag(1/s) P diag(a); the states stay."""
        if self.trivial:
            return system
        left, right = 1.0 / self.observation[:, None], self.action[None, :]
        with np.errstate(over="ignore"):  # refused below
            b = system.b.rescaled(np.broadcast_to(right, system.b.shape))
            c = system.c.rescaled(np.broadcast_to(left, system.c.shape))
            d = system.d.rescaled(left * right)
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

        `seen` are the sizes of the signals through which the loop is seen, where these are not copies of y.
        """
        if found is None or self.trivial:
            return found
        build, matrix = found.loop, found.matrix
        shape = (len(self.action), len(self.observation))

        def raw_loop(value: float) -> LinearLoop | None:
            loop = None if build is None else build(value)
            if loop is None:
                return None
            sizes = np.tile(self.observation, len(loop.c) // len(self.observation)) if seen is None else seen
            return replace(loop, c=sizes[:, None] * loop.c)

        return replace(
            found,
            policy=None if found.policy is None else self.raw_policy(found.policy),
            matrix=self.raw_gain(matrix) if matrix is not None and matrix.shape == shape else matrix,
            loop=None if build is None else raw_loop,
        )

    def __str__(self) -> str:
        parts = []
        if (self.observation != 1.0).any():
            parts.append(f"observations / [{', '.join(f'{s:g}' for s in self.observation)}]")
        if (self.action != 1.0).any():
            parts.append(f"actions / [{', '.join(f'{a:g}' for a in self.action)}]")
        return ", ".join(parts)


def nearest_powers(sizes: Any, count: int, name: str) -> tuple[np.ndarray, list[Fraction]]:
    """Return powers of two whose ratios to positive sizes are nearly alike (within 2), and these ratios, exactly.

    Raises
    ------
    ValueError
        For sizes that are not positive, finite, and one for each channel (or one for all).
    """
    try:
        values = np.broadcast_to(np.asarray(sizes, dtype=np.float64), (count,)).copy()
    except (TypeError, ValueError):
        values = np.zeros(count)
    if not (np.isfinite(values) & (values > 0.0)).all():
        raise ValueError(
            f"{name} is {sizes!r}; expected {count} positive finite numbers, the size of each channel in its unit"
        )
    mantissa, exponent = np.frexp(values)
    choices = [np.ldexp(1.0, exponent - (mantissa <= threshold)) for threshold in np.unique(mantissa)]
    powers = min(choices, key=lambda choice: float((choice / values).max() / (choice / values).min()))
    if not (np.isfinite(powers) & (powers >= np.finfo(float).tiny)).all():
        raise ValueError(f"{name} is {sizes!r}; expected sizes within the normal range of float64")
    return powers, [Fraction(float(p)) / Fraction(float(v)) for p, v in zip(powers, values, strict=True)]
