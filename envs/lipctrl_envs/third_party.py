"""Linearise environments we did not write: by their own step, Gymnasium's pendulum by its twin."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lipctrl_envs.options import numbers_or_zero
from lipctrl_envs.state_step import NEWTON_STEPS, StateStep, smooth_jacobian

if TYPE_CHECKING:
    import control
    import gymnasium

Point = tuple[np.ndarray, np.ndarray, np.ndarray]


def linearize_gymnasium(
    env: gymnasium.Env[Any, Any],
    state: Any = None,
    action: Any = None,
    *,
    method: str = "auto",
    step: float = 1e-6,
    tolerance: float = 1e-6,
) -> control.StateSpace:
    """Return the discrete linearisation of an environment from action to observation, at the environment's dt.

    Environments of lipctrl_envs and Gymnasium's Pendulum-v1 answer with exact Jacobians. A MuJoCo environment
    is linearised through its own step over all `frame_skip` sub-steps, in the tangent space of MuJoCo's
    coordinates (positions nv, velocities nv, activations na); any other through its own step where its whole state is
    the attribute `state`, as in Gymnasium's classic control. The environment itself is left untouched.
    Wrappers are ignored: the system maps raw actions to raw observations.

    Parameters
    ----------
    state : (qpos, qvel, act) in one array; where it is not given, the rest position next to the model's initial
        one is found by Newton's method (for `state`: the origin, if it is a rest). A given state is taken as it is,
        at rest or not.
    action : (m,) held constant; zeros where it is not given.
    method : "auto" | "transition" (`mjd_transitionFD` on every sub-step, refused by the RK4 integrator) |
        "differences" (centred differences of the whole step).
    step : size of the differences.
    tolerance : the largest change of the state in one step that still counts as rest.

    Raises
    ------
    TypeError : an environment with no linearisation here.
    ValueError : no rest position found, a kink of the dynamics there (a joint limit or a contact just met), or
        "transition" asked of an RK4 model.

    Examples
    --------
    >>> import gymnasium
    >>> system = linearize_gymnasium(gymnasium.make("Pendulum-v1"))
    >>> system.nstates, system.ninputs, system.dt
    (2, 1, 0.05)
    """
    raw = env.unwrapped
    own = getattr(raw, "linearize", None)
    if own is not None:
        return own(state, action)
    from gymnasium.envs.classic_control.pendulum import PendulumEnv

    if isinstance(raw, PendulumEnv):
        from lipctrl_envs.gym_pendulum import GymPendulum

        twin = GymPendulum(mass=raw.m, length=raw.l, gravity=raw.g, dt=raw.dt, action_limit=raw.max_torque)
        return twin.linearize(state, action)
    return find_step(env, step, tolerance).linearize(state, action, method)


def find_step(
    env: gymnasium.Env[Any, Any], step: float = 1e-6, tolerance: float = 1e-6
) -> MujocoStep | StateStep:
    """Return the step of an environment as a map that can be called at any state; TypeError where there is none."""
    raw = env.unwrapped
    if hasattr(raw, "model") and hasattr(raw, "data") and hasattr(raw, "frame_skip"):
        return MujocoStep(raw, step, tolerance)
    return StateStep(raw, step, tolerance)


class MujocoStep:
    """The map (position, velocity, activation, control) -> the same after one environment step."""

    def __init__(self, env: Any, step: float, tolerance: float) -> None:
        self.mujoco: Any = importlib.import_module("mujoco")
        self.env, self.model, self.step_size, self.tolerance = env, env.model, step, tolerance
        self.data = self.mujoco.MjData(env.model)
        nq, nv, na, nu = (int(getattr(env.model, k)) for k in ("nq", "nv", "na", "nu"))
        self.nq, self.nv, self.na, self.nu = nq, nv, na, nu

    def linearize(self, state: Any, action: Any, method: str) -> control.StateSpace:
        import control

        runge_kutta = self.model.opt.integrator == self.mujoco.mjtIntegrator.mjINT_RK4
        if method not in ("auto", "transition", "differences"):
            raise ValueError(f"method must be 'auto', 'transition' or 'differences', got {method!r}")
        if method == "transition" and runge_kutta:
            raise ValueError("mjd_transitionFD refuses the RK4 integrator; use method='differences'")
        point, u = self.operating_point(state, action)
        A, B = self._differences(point, u)
        if method == "transition" or (method == "auto" and not runge_kutta):
            A, B = self._transitions(point, u)
        C = self._observation_jacobian(point)
        positions = [f"{kind}_{i}" for kind in ("position", "velocity") for i in range(self.nv)]
        return control.StateSpace(
            A,
            B,
            C,
            np.zeros((len(C), self.nu)),
            float(self.env.dt),
            states=positions + [f"activation_{i}" for i in range(self.na)],
            inputs=[f"action_{i}" for i in range(self.nu)],
            outputs=[f"observation_{i}" for i in range(len(C))],
            name=type(self.env).__name__,
        )

    def operating_point(self, state: Any, action: Any) -> tuple[Point, np.ndarray]:
        """Return the state and action to linearise at: those given, or the rest position under the action."""
        u = numbers_or_zero(action, self.nu, "action")
        return (self._rest(u) if state is None else self._given(state)), u

    def _given(self, state: Any) -> Point:
        x = numbers_or_zero(state, self.nq + self.nv + self.na, "state (qpos, qvel, act)")
        return x[: self.nq], x[self.nq : self.nq + self.nv], x[self.nq + self.nv :]

    def _load(self, point: Point, u: np.ndarray) -> None:
        self.mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:], self.data.act[:] = point
        self.data.ctrl[:] = u

    def moved(self, point: Point, tangent: np.ndarray) -> Point:
        q = point[0].copy()
        self.mujoco.mj_integratePos(self.model, q, tangent[: self.nv], 1.0)
        return q, point[1] + tangent[self.nv : 2 * self.nv], point[2] + tangent[2 * self.nv :]

    def tangent(
        self,
        start: Point,
        end: Point,
    ) -> np.ndarray:
        dq = np.zeros(self.nv)
        self.mujoco.mj_differentiatePos(self.model, dq, 1.0, start[0], end[0])
        return np.concatenate([dq, end[1] - start[1], end[2] - start[2]])

    def advance(self, point: Point, u: np.ndarray) -> Point:
        self._load(point, u)
        self.mujoco.mj_step(self.model, self.data, nstep=self.env.frame_skip)
        return self.data.qpos.copy(), self.data.qvel.copy(), self.data.act.copy()

    def _differences(self, point: Point, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (A, B) by centred differences; ValueError where one-sided ones disagree (a kink)."""
        n, h = 2 * self.nv + self.na, self.step_size
        middle = self.advance(point, u)
        ahead, behind = [], []
        for e in np.eye(n + self.nu) * h:
            ahead.append(self.tangent(middle, self.advance(self.moved(point, e[:n]), u + e[n:])) / h)
            behind.append(self.tangent(self.advance(self.moved(point, -e[:n]), u - e[n:]), middle) / h)
        right, left = np.array(ahead).T, np.array(behind).T
        jacobian = smooth_jacobian(right, left, type(self.env).__name__)
        return jacobian[:, :n], jacobian[:, n:]

    def _transitions(self, point: Point, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compose the Jacobians of the sub-steps along the trajectory that one environment step takes."""
        n = 2 * self.nv + self.na
        A, B = np.eye(n), np.zeros((n, self.nu))
        A_sub, B_sub = np.zeros((n, n)), np.zeros((n, self.nu))
        self._load(point, u)
        for _ in range(self.env.frame_skip):
            self.mujoco.mjd_transitionFD(
                self.model, self.data, self.step_size, True, A_sub, B_sub, None, None
            )
            A, B = A_sub @ A, A_sub @ B + B_sub
            self.mujoco.mj_step(self.model, self.data)
        return A, B

    def _rest(self, u: np.ndarray) -> Point:
        """Find the rest position nearest to the initial one by Newton's method on step(x) = x."""
        point = (np.array(self.env.init_qpos), np.zeros(self.nv), np.zeros(self.na))
        moved = math.inf
        for _ in range(NEWTON_STEPS):
            drift = self.tangent(point, self.advance(point, u))
            moved = float(np.abs(drift).max())
            if moved < self.tolerance:
                return point
            A, _ = self._differences(point, u)
            point = self.moved(point, np.linalg.lstsq(np.eye(len(A)) - A, drift, rcond=1e-6)[0])
        raise ValueError(
            f"{type(self.env).__name__} does not rest near its initial position under action {u.tolist()} (it still "
            f"moves by {moved:.3g} a step); pass a state and an action, such as a rest position with its torques"
        )

    def _observation_jacobian(self, point: Point) -> np.ndarray:
        """Differentiate the environment's own observation; its simulation state is put back afterwards."""
        live = self.env.data
        kept = [live.qpos.copy(), live.qvel.copy(), live.act.copy(), live.ctrl.copy(), float(live.time)]
        h, columns = self.step_size, []
        try:
            for e in np.eye(2 * self.nv + self.na) * h:
                ahead, behind = (self._observed(self.moved(point, s * e)) for s in (1.0, -1.0))
                columns.append((ahead - behind) / (2.0 * h))
        finally:
            live.qpos[:], live.qvel[:], live.act[:], live.ctrl[:], live.time = kept
            self.mujoco.mj_forward(self.model, live)
        return np.array(columns).T

    def _observed(self, point: Point) -> np.ndarray:
        live = self.env.data
        live.qpos[:], live.qvel[:], live.act[:] = point
        self.mujoco.mj_forward(self.model, live)
        return np.asarray(self.env._get_obs(), dtype=np.float64).copy()
