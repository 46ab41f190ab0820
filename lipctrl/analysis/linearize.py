"""A linear model of an arbitrary gymnasium environment, with a model error that was sampled and not certified."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import positive_numbers, real_array, whole_number

# A drift of a step below this share of the radius is that of an equilibrium found by iteration.
_REST = 1e-2


@dataclass(frozen=True)
class SampledLinearization:
    """x⁺ ≈ Ax + Bu around (state, action) in deviations, and the worst relative error that was seen.

    `error` = max ‖f(x, u) - f(x₀, u₀) - A(x-x₀) - B(u-u₀)‖ / ‖(x-x₀, u-u₀)‖ over `samples` random points within
    `radius`. It is a lower bound of the true model error: **sampled, not certified**. `drift` is how far one step moves
    the operating point itself, zero at an equilibrium.

    It offers `linearize()` and `linearization_scope`, so that `lipctrl.analyze` takes it as a plant and repeats in its
    scope what the verdict does not cover.
    """

    system: Any
    state: np.ndarray = field(repr=False)
    action: np.ndarray = field(repr=False)
    error: float
    samples: int
    radius: float
    drift: float = 0.0
    label: str = "sampled, not certified"

    def linearize(self) -> Any:
        """Return the linear model, a `control.StateSpace`."""
        return self.system

    @property
    def linearization_scope(self) -> tuple[str, ...]:
        """Return what an analysis of the linear model leaves out, one sentence each."""
        said = (
            f"the model was found by differences; its error is {self.label}: up to {self.error:.3g} of the deviation "
            f"in {self.samples} samples within {self.radius:g}",
        )
        if self.drift <= _REST * self.radius:
            return said
        return (
            *said,
            f"the operating point is no rest: one step moves it by {self.drift:.3g}, and the model says nothing about "
            "where the motion goes",
        )

    def __str__(self) -> str:
        size = f"error ≥ {self.error:.4g}·‖(Δx, Δu)‖ within {self.radius:g}"
        return f"linear model, {size} ({self.samples} samples, {self.label})"


def sampled_linearization(
    step: Any, state: Any, action: Any, *, dt: float, radius: float = 0.1, samples: int = 200, difference: float = 1e-5,
    seed: int = 0,
) -> SampledLinearization:  # fmt: skip
    """Linearise a step function x⁺ = step(x, u) by central differences and sample the error of the model.

    For a gymnasium environment, `step` sets the state, calls `env.step(u)` and returns the new state, for example
    `set_state` and `state_vector` of MuJoCo environments. The model's output is its state. An analysis of `system` says
    something about the environment only as far as `error` allows, and that was sampled.

    Parameters
    ----------
    step : (x (n,), u (m,)) ↦ x⁺ (n,). state, action : the operating point. dt : sampling period [s].
    radius : size of the neighbourhood of the samples. difference : step of the central differences.

    Raises
    ------
    ValueError
        For data that is not finite or not positive, or a step function that returns something else than a state.

    Examples
    --------
    >>> import numpy as np
    >>> model = sampled_linearization(lambda x, u: np.sin(x) + u, [0.0], [0.0], dt=0.1)
    >>> model.system.A.round(6).tolist(), model.error < 0.01
    ([[1.0]], True)
    """
    import control

    point = [real_array(values) for values in (state, action)]
    x, u = (np.full(1, np.nan) if values is None else np.atleast_1d(values) for values in point)
    if not (x.ndim == u.ndim == 1 and x.size and np.isfinite(x).all() and np.isfinite(u).all()):
        raise ValueError(
            f"state is {state!r} and action {action!r}; expected lists of finite numbers, an operating point"
        )
    positive = {"dt": dt, "radius": radius, "difference": difference}
    for name, value in positive.items():
        positive_numbers(value, 1, name)
    whole_number(samples, 1, "samples")
    n = len(x)

    def run(z: np.ndarray) -> np.ndarray:
        # Copies both ways: a step may work in place, or return a buffer that the next step overwrites.
        after = np.array(step(z[:n].copy(), z[n:].copy()), dtype=float)
        if after.shape != (n,) or not np.isfinite(after).all():
            raise ValueError(f"step returned {after!r}; expected {n} finite numbers, the next state")
        return after

    center = np.concatenate([x, u])
    shifts = difference * np.eye(len(center))
    jacobian = np.column_stack([(run(center + s) - run(center - s)) / (2.0 * difference) for s in shifts])
    start, rng, worst = run(center), np.random.default_rng(seed), 0.0
    for _ in range(samples):
        d = rng.standard_normal(len(center))
        d *= radius * rng.random() ** (1.0 / len(d)) / np.linalg.norm(d)
        miss = run(center + d) - start - jacobian @ d
        worst = max(worst, float(np.linalg.norm(miss) / np.linalg.norm(d)))
    drift = float(np.linalg.norm(start - x))
    system = control.ss(jacobian[:, :n], jacobian[:, n:], np.eye(n), np.zeros((n, len(u))), dt)
    return SampledLinearization(system, x, u, worst, samples, radius, drift)
