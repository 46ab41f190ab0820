"""A linear model of an environment we did not write, with its error as it was sampled: stated, not certified."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl_envs.state_step import StateStep
from lipctrl_envs.third_party import find_step

if TYPE_CHECKING:
    import control
    import gymnasium

# A drift of a step below this share of the radius is that of a rest found by iteration.
_REST = 1e-2


@dataclass(frozen=True)
class SampledModel:
    """x⁺ ≈ A x + B u, y = C x about a rest of an environment, and the worst relative error that was seen.

    `error` = max ‖f(x, u) - A x - B u‖ / ‖(x, u)‖ over `samples` random deviations (x, u) no longer than `radius`.
    The true maximum is at least that; how much larger it is, nobody knows.

    It offers `linearize()` and `linearization_scope`, so that `lipctrl.analyze` takes it as a plant and repeats in its
    scope what the verdict does not cover.
    """

    name: str
    system: control.StateSpace = field(repr=False)
    error: float
    radius: float
    samples: int
    notes: tuple[str, ...] = ()

    def linearize(self) -> control.StateSpace:
        """Return the linear model, raw actions to raw observations; dt=True where the environment has no seconds."""
        return self.system

    @property
    def linearization_scope(self) -> tuple[str, ...]:
        """Return what an analysis of the linear model leaves out, one sentence each."""
        return (
            "the model was found by finite differences; its error is sampled, not certified: up to "
            f"{self.error:.3g} of the deviation in {self.samples} samples within {self.radius:g}",
            "the environment's own actuator limits are not part of the linear plant",
            *self.notes,
        )

    def __str__(self) -> str:
        return (
            f"{self.name}, linear model with error ≥ {self.error:.3g}·‖(Δx, Δu)‖ within {self.radius:g} "
            f"({self.samples} samples, sampled and not certified)"
        )


def _left_out(env: gymnasium.Env[Any, Any]) -> list[str]:
    """Return the names of the wrappers, those aside that `gymnasium.make` puts around every environment."""
    from gymnasium import Wrapper, wrappers

    usual = (
        wrappers.OrderEnforcing,
        wrappers.PassiveEnvChecker,
        wrappers.RecordEpisodeStatistics,
        wrappers.TimeLimit,
    )
    layer: Any = env
    found = []
    while isinstance(layer, Wrapper):
        found += [] if isinstance(layer, usual) else [type(layer).__name__]
        layer = layer.env
    return found


def sample_model(
    env: gymnasium.Env[Any, Any],
    state: Any = None,
    action: Any = None,
    *,
    radius: float = 0.01,
    samples: int = 200,
    seed: int = 0,
) -> SampledModel:
    """Return the linearisation of a black box at rest together with its sampled error.

    For MuJoCo environments, and for those whose whole state is the attribute `state`. State and action as in
    `linearize_gymnasium`.

    Parameters
    ----------
    radius : length of the deviations (state in its tangent space, action), in the environment's own units.
    samples : random deviations at which the linear model is compared with a step of the environment.
    seed : of the deviations.

    Raises
    ------
    TypeError : an environment whose state cannot be set.
    ValueError : no rest position found, or a kink of the dynamics there; radius or samples not positive; a step that is
        not finite.

    Examples
    --------
    >>> import gymnasium
    >>> model = sample_model(gymnasium.make("InvertedPendulum-v5"))
    >>> model.linearize().nstates, 0.0 < model.error < 0.01
    (4, True)
    """
    if not (0.0 < radius < math.inf) or type(samples) is not int or samples < 1:
        raise ValueError(
            f"radius is {radius} and samples {samples!r}; expected a finite positive number and a whole number of at "
            "least 1"
        )
    step = find_step(env)
    system = step.linearize(state, action, "auto")
    point, u = step.operating_point(state, action)
    notes: list[str] = []
    wrapped = _left_out(env)
    if wrapped:
        notes.append(
            f"the model is of the environment inside {', '.join(wrapped)}: what these do to observations and actions "
            "is not in it"
        )
    if isinstance(step, StateStep) and step.time_step() is None:
        notes.append("the environment gives no length of its step: frequencies are in radians a step")
    rng = np.random.default_rng(seed)
    joint = np.hstack([system.A, system.B])
    n, worst = system.nstates, 0.0
    walk: Any = step  # points of MuJoCo are tuples, others arrays; each step takes its own
    rest = walk.advance(point, u)
    drift = float(np.linalg.norm(walk.tangent(point, rest)))
    if not drift <= _REST * radius:
        notes.append(
            f"the given state is no rest: one step moves it by {drift:.3g}, and the model says nothing about where the "
            "motion goes"
        )
    for _ in range(samples):
        d = rng.standard_normal(joint.shape[1])
        d *= radius * rng.random() ** (1.0 / len(d)) / np.linalg.norm(d)
        miss = walk.tangent(rest, walk.advance(walk.moved(point, d[:n]), u + d[n:])) - joint @ d
        if not np.isfinite(miss).all():
            raise ValueError(
                f"a step of {type(env.unwrapped).__name__} from within {radius:g} of the given state is not finite; "
                "expected a smaller radius, inside which the environment is defined"
            )
        worst = max(worst, float(np.linalg.norm(miss) / np.linalg.norm(d)))
    return SampledModel(type(env.unwrapped).__name__, system, worst, radius, samples, tuple(notes))
