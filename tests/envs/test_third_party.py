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
    with pytest.raises(TypeError, match="MountainCar"):
        linearize_gymnasium(gymnasium.make("MountainCarContinuous-v0"))


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
        (lambda: gymnasium.make("MountainCarContinuous-v0"), TypeError, "no MuJoCo environment"),
        (lambda: gymnasium.make("Hopper-v5"), ValueError, "not differentiable here"),
    ],
)
def test_black_boxes_without_a_model_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        sample_model(make())
    with pytest.raises(ValueError, match="radius is 0"):
        sample_model(make(), radius=0.0)
