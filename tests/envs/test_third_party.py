"""Environments we did not write are linearised by their own step, or refused with a reason."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from lipctrl_envs import GymPendulum, linearize_gymnasium, sample_model
from lipctrl_envs.third_party import find_step

mujoco = pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def inverted():
    env = gymnasium.make("InvertedPendulum-v5")
    env.reset(seed=0)
    return env


def test_the_linearisation_predicts_mujoco_s_own_step(inverted):
    system = linearize_gymnasium(inverted)
    raw = inverted.unwrapped
    assert system.dt == raw.dt == pytest.approx(0.04)
    assert (system.nstates, system.ninputs, system.noutputs) == (4, 1, 4)
    assert np.abs(system.poles()).max() > 1.1, "the pole falls"
    # The model's pole is slightly bent: it rests a little off zero, which linearize_gymnasium finds.
    rest = np.array([0.0, -0.001 / 0.6, 0.0, 0.0])
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, u = 1e-4 * rng.normal(size=4), 1e-4 * rng.normal(size=1)
        raw.set_state(rest[:2] + x[:2], x[2:])
        observation = raw.step(u)[0]
        np.testing.assert_allclose(observation - rest, system.A @ x + system.B @ u, atol=2e-6)


def test_the_environment_is_left_as_it_was(inverted):
    inverted.reset(seed=3)
    inverted.step(np.array([0.5], dtype=np.float32))
    raw = inverted.unwrapped
    before = [raw.data.qpos.copy(), raw.data.qvel.copy(), raw.data.ctrl.copy(), raw.data.time]
    linearize_gymnasium(inverted)
    after = [raw.data.qpos, raw.data.qvel, raw.data.ctrl, raw.data.time]
    for kept, found in zip(before, after, strict=True):
        np.testing.assert_array_equal(kept, found)


def test_an_lqr_of_the_linearisation_balances_mujoco_s_pendulum(inverted):
    import control

    system = linearize_gymnasium(inverted)
    K, *_ = control.dlqr(system.A, system.B, np.eye(4), 0.1 * np.eye(1))
    observation, _ = inverted.reset(seed=1)
    for _ in range(200):
        observation, _, terminated, _, _ = inverted.step((-K @ observation).astype(np.float32))
        assert not terminated
    assert abs(observation[1]) < 0.01


def test_mujoco_s_own_jacobians_agree_where_the_integrator_allows_them():
    env = gymnasium.make("InvertedPendulum-v5")
    env.reset(seed=0)
    env.unwrapped.model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
    by_step = linearize_gymnasium(env, method="differences")
    by_mujoco = linearize_gymnasium(env, method="transition")
    np.testing.assert_allclose(by_mujoco.A, by_step.A, atol=1e-6)
    np.testing.assert_allclose(by_mujoco.B, by_step.B, atol=1e-6)
    np.testing.assert_allclose(linearize_gymnasium(env).A, by_mujoco.A, atol=1e-9)


def test_transition_derivatives_of_a_runge_kutta_model_are_refused(inverted):
    with pytest.raises(ValueError, match="RK4"):
        linearize_gymnasium(inverted, method="transition")


def test_a_kink_at_the_rest_position_is_refused():
    env = gymnasium.make("Pusher-v5")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not differentiable"):
        linearize_gymnasium(env)


def test_a_model_that_does_not_rest_is_refused():
    env = gymnasium.make("Hopper-v5")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"does not rest|not differentiable"):
        linearize_gymnasium(env)


def test_gymnasium_s_pendulum_answers_with_its_twin():
    env = gymnasium.make("Pendulum-v1", g=9.0)
    expected = GymPendulum(gravity=9.0).linearize()
    found = linearize_gymnasium(env)
    np.testing.assert_array_equal(found.A, expected.A)
    np.testing.assert_array_equal(found.B, expected.B)


def test_our_environments_answer_for_themselves():
    env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
    np.testing.assert_array_equal(linearize_gymnasium(env).A, env.unwrapped.linearize().A)


def test_anything_else_is_refused_by_name():
    with pytest.raises(TypeError, match="CartPole"):
        linearize_gymnasium(gymnasium.make("CartPole-v1"))


def test_states_that_do_not_fit_are_refused(inverted):
    with pytest.raises(ValueError, match="finite numbers"):
        linearize_gymnasium(inverted, state=np.zeros(3))
    with pytest.raises(ValueError, match="method"):
        linearize_gymnasium(inverted, method="guess")


def test_a_sampled_model_states_an_error_that_grows_with_the_deviation():
    env = gymnasium.make("InvertedPendulum-v5")
    near, far = (sample_model(env, radius=r, samples=50) for r in (1e-3, 0.3))
    assert 0.0 < near.error < 0.1 * far.error
    assert near.linearize().noutputs == 4
    assert "sampled, not certified" in near.linearization_scope[0]
    # At a deviation of our own, the linear model is off by what was stated, to the order of magnitude.
    step = find_step(env)
    point, u = step.operating_point(None, None)
    d = np.array([0.0, 0.2, 0.0, 0.0])
    moved = step.tangent(step.advance(point, u), step.advance(step.moved(point, d), u))
    miss = np.linalg.norm(moved - far.linearize().A @ d) / np.linalg.norm(d)
    assert 0.01 * far.error < miss < 2.0 * far.error


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gymnasium.make("CartPole-v1"), TypeError, "action space Discrete"),
        (lambda: gymnasium.make("Hopper-v5"), ValueError, "not differentiable here"),
    ],
)
def test_black_boxes_without_a_model_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        sample_model(make())
    with pytest.raises(ValueError, match="radius is 0"):
        sample_model(make(), radius=0.0)


def test_an_environment_with_a_state_is_linearised_through_its_own_step():
    """Gymnasium's continuous mountain car rests where cos 3x = 0; its Jacobians by hand (semi-implicit Euler)."""
    env = gymnasium.make("MountainCarContinuous-v0")
    env.reset(seed=3)
    before = env.unwrapped.state.copy()
    model = sample_model(env)
    assert np.array_equal(env.unwrapped.state, before)
    curve = -3.0 * 0.0025
    system = model.linearize()
    assert system.dt is True
    assert "radians a step" in model.linearization_scope[-1]
    np.testing.assert_allclose(system.A, [[1.0 + curve, 1.0], [curve, 1.0]], atol=1e-4)
    np.testing.assert_allclose(system.B, [[0.0015], [0.0015]], atol=1e-5)
    np.testing.assert_allclose(system.C, np.eye(2), atol=1e-3)


def test_the_step_of_gymnasiums_pendulum_agrees_with_its_twin():
    env = gymnasium.make("Pendulum-v1")
    by_step, exact = sample_model(env).linearize(), linearize_gymnasium(env)
    for name in "ABC":
        np.testing.assert_allclose(getattr(by_step, name), getattr(exact, name), atol=1e-4)


class Own(gymnasium.Env):
    """x⁺ = (x_1 + h x_2, x_2 + h (u - x_2)), rests at the origin; `fault` breaks what a state step needs."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    dt = 0.1

    def __init__(self, fault=""):
        self.fault, self.state, self.hidden = fault, np.zeros(2), 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1.0, 1.0, 2)
        self.hidden = self.state[0]
        if self.fault == "name":
            self.state = {"x": self.state}
        return self.state, {}

    def step(self, action):
        x = self.state if self.fault != "deaf" else np.ones(2)
        push = float(np.clip(action, -1.0, 1.0)[0])
        push += {"chance": self.np_random.normal(), "memory": self.hidden, "drift": 0.5}.get(self.fault, 0.0)
        bend = 20.0 * abs(x[0]) if self.fault == "kink" else 0.0
        self.hidden += 1.0
        self.state = np.array([x[0] + 0.1 * x[1], x[1] + 0.1 * (push - x[1] - bend)])
        if self.fault == "drift":
            self.state[0] += 0.1
        return self.state[:1] * 2.0, 0.0, False, False, {}


def test_an_environment_of_ones_own_is_linearised():
    system = sample_model(Own()).linearize()
    np.testing.assert_allclose(system.A, [[1.0, 0.1], [0.0, 0.9]], atol=1e-8)
    np.testing.assert_allclose(system.B, [[0.0], [0.1]], atol=1e-8)
    np.testing.assert_allclose(system.C, [[2.0, 0.0]], atol=1e-6)
    assert system.dt == 0.1


@pytest.mark.parametrize(
    ("fault", "kind", "match"),
    [
        ("name", TypeError, "cannot be set"),
        ("chance", TypeError, "random"),
        ("memory", TypeError, "remembers more|random"),
        ("deaf", TypeError, "no effect"),
        ("kink", ValueError, "not differentiable"),
    ],
)
def test_an_environment_that_cannot_be_linearised_says_why(fault, kind, match):
    with pytest.raises(kind, match=match):
        sample_model(Own(fault))
