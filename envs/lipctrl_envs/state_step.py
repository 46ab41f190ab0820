"""One step of any environment whose whole state is its attribute `state`, as a map that can be differentiated."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl_envs.options import numbers_or_zero

if TYPE_CHECKING:
    import control

# Steps in which a rest is found, or there is none.
NEWTON_STEPS = 30
# One-sided differences that disagree by more than this share of a slope are those of a kink.
_KINK = 1e-2
# Resets whose states are looked at: the search for a rest begins at their mean.
_STARTS = 10


def smooth_jacobian(right: np.ndarray, left: np.ndarray, name: str) -> np.ndarray:
    """Return the mean of one-sided difference quotients; ValueError where they disagree, at a kink of the dynamics."""
    kinks = np.flatnonzero(np.any(np.abs(right - left) > _KINK * (1.0 + np.abs(right)), axis=0))
    if len(kinks):
        raise ValueError(
            f"{name} is not differentiable here: a joint limit, a contact or an actuator limit is just met (one-sided "
            f"differences disagree in coordinates {kinks.tolist()}); pass a state and an action away from it"
        )
    return 0.5 * (right + left)


class StateStep:
    """The map (state, action) -> state after one step, of a copy of a Gymnasium environment.

    For environments that keep all they remember in `state`, as those of Gymnasium's classic control do, and step
    without chance. Both are tested here, on one state.

    Raises
    ------
    TypeError : no such state, an action space that is not a Box, or steps that differ from the same state.
    """

    def __init__(self, env: Any, step: float, tolerance: float) -> None:
        self.name, self.tolerance = type(env).__name__, tolerance
        shape = getattr(env.action_space, "shape", None) or ()
        if len(shape) != 1 or not hasattr(env.action_space, "low"):
            raise TypeError(
                f"{self.name} has the action space {env.action_space}; expected a Box of shape (m,)"
            )
        try:
            self.env = copy.deepcopy(env)
            self.starts = np.array([self._started(seed) for seed in range(_STARTS)])
        except (AttributeError, TypeError, ValueError) as error:
            raise TypeError(
                f"the state of {self.name} cannot be set: it is neither a MuJoCo environment nor one whose attribute "
                f"`state` is an array of numbers ({error}); pass the plant as a control.StateSpace instead"
            ) from error
        self.n, self.m = self.starts.shape[1], int(shape[0])
        self._test()
        # Differences must be felt in the precision in which the environment computes.
        coarse = any(np.asarray(v).dtype == np.float32 for v in (self.env.state, self._observed))
        self.step_size = max(step, 5e-3) if coarse else step

    def _started(self, seed: int) -> np.ndarray:
        self.env.reset(seed=seed)
        state = np.array(self.env.state, dtype=np.float64)
        if state.ndim != 1 or not np.isfinite(state).all():
            raise ValueError(f"after a reset it is {self.env.state!r}")
        return state

    def _test(self) -> None:
        u, found = np.zeros(self.m), []
        for seed, start in enumerate((self.starts[0], self.starts[0], self.starts[1]), _STARTS):
            # Another episode each time: chance, and what remains of the episode, would show.
            self.env.reset(seed=seed)
            found.append(np.concatenate([self.advance(start, u), np.ravel(self._observed)]))
        if not np.array_equal(found[0], found[1]):
            raise TypeError(
                f"{self.name} steps from the same state to different ones: it is random, or remembers more than "
                "`state`; pass the plant as a control.StateSpace instead"
            )
        if np.array_equal(found[0], found[2]):
            raise TypeError(
                f"setting `state` of {self.name} has no effect; pass the plant as a control.StateSpace instead"
            )

    def advance(self, state: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return the state after one step; the observation of it is kept."""
        self.env.state = np.array(state, dtype=np.float64)
        self._observed = np.asarray(self.env.step(np.array(u, dtype=np.float64))[0])
        return np.asarray(self.env.state, dtype=np.float64).copy()

    def moved(self, state: np.ndarray, by: np.ndarray) -> np.ndarray:
        return state + by

    def tangent(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        return end - start

    def operating_point(self, state: Any, action: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the state and action to linearise at: those given, or the rest under the action.

        Rest is the origin where that is one, else the one that Newton's method finds from the mean initial state.
        """
        u = numbers_or_zero(action, self.m, "action")
        if state is not None:
            return numbers_or_zero(state, self.n, "state"), u
        for point in (np.zeros(self.n), self.starts.mean(0)):
            for _ in range(1 if not point.any() else NEWTON_STEPS):
                drift = self.advance(point, u) - point
                if np.abs(drift).max() < self.tolerance:
                    return point, u
                if point.any():
                    A = self._jacobians(point, u)[0][:, : self.n]
                    point = point + np.linalg.lstsq(np.eye(self.n) - A, drift, rcond=1e-6)[0]
        raise ValueError(
            f"{self.name} rests neither at the origin nor near its initial states under action {u.tolist()}; pass a "
            "state and an action at which it does"
        )

    def linearize(self, state: Any, action: Any, method: str) -> control.StateSpace:
        """Return x⁺ = A x + B u, y = C x; dt=True (time in samples) where the environment has no `dt` or `tau`."""
        import control

        if method not in ("auto", "differences"):
            raise ValueError(f"method is {method!r}; {self.name} can only be linearised by 'differences'")
        point, u = self.operating_point(state, action)
        joint, seen = self._jacobians(point, u)
        # A step shows the observation of the state that it reached: its Jacobian is C [A B].
        C = seen @ np.linalg.pinv(joint)
        if np.linalg.matrix_rank(joint) < self.n:
            raise ValueError(
                f"{self.name} does not reach every direction of its state in a step; C is not found"
            )
        if np.abs(C @ joint - seen).max() > _KINK * (1.0 + np.abs(seen).max()):
            raise ValueError(f"the observation of {self.name} is no function of its state alone")
        return control.StateSpace(
            joint[:, : self.n],
            joint[:, self.n :],
            C,
            np.zeros((len(C), self.m)),
            self.time_step() or True,  # python-control: time counts in samples
            name=self.name,
        )

    def time_step(self) -> float | None:
        """Return the seconds of a step, None where the environment does not say."""
        for name in ("dt", "tau"):
            value = getattr(self.env, name, None)
            if isinstance(value, (int, float)) and value > 0.0:
                return float(value)
        return None

    def _jacobians(self, point: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the Jacobians (n, n+m) and (p, n+m) of the next state and of its observation."""
        h = self.step_size

        def both(d: np.ndarray) -> np.ndarray:
            state = self.advance(point + d[: self.n], u + d[self.n :])
            return np.concatenate([state, np.ravel(self._observed).astype(np.float64)])

        basis = np.eye(self.n + self.m) * h
        middle = both(np.zeros(self.n + self.m))
        right = np.array([both(e) - middle for e in basis]).T / h
        left = np.array([middle - both(-e) for e in basis]).T / h
        whole = smooth_jacobian(right, left, self.name)
        return whole[: self.n], whole[self.n :]
