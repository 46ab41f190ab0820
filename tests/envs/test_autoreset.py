"""Episodes end and begin as Gymnasium says, in all three autoreset modes, each environment on its own clock."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch.utils._python_dispatch import TorchDispatchMode

from lipctrl_envs import CartPole, Pendulum, TorchVectorEnv, plant_names


def fallen_and_upright() -> torch.Tensor:
    """Two pendulums about to fall (in one and in three steps) and one at rest."""
    return torch.tensor([[1.56, 2.0], [1.50, 1.0], [0.0, 0.0]], dtype=torch.float64)


def make(mode: str | AutoresetMode = "NextStep", horizon: int = 5, **options) -> TorchVectorEnv:
    options.setdefault("disturbance", 0.0)
    return TorchVectorEnv(
        "Pendulum", 3, autoreset_mode=mode, max_episode_steps=horizon, dtype="float64", **options
    )


ZERO = torch.zeros(3, 1)


def test_next_step_returns_the_last_observation_first_and_then_ignores_one_action():
    env = make()
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=0, options={"state": fallen_and_upright()})
    observation, reward, terminated, truncated, info = env.step(ZERO)
    assert terminated.tolist() == [True, False, False]
    assert truncated.tolist() == [False, False, False]
    assert info == {}
    assert float(observation[0, 0]) > np.pi / 2, "the observation that ends the episode is the fallen one"
    assert float(reward[0]) < -env.plant.failure_cost
    before = env.state.clone()
    observation, reward, terminated, truncated, _ = env.step(torch.full((3, 1), 4.0))
    assert float(observation[0].abs().max()) <= 0.3
    assert float(reward[0]) == 0.0
    assert not bool(terminated[0])
    assert env.elapsed.tolist() == [0, 2, 2]
    expected = env.plant.transition(before[1:], torch.full((2, 1), 4.0, dtype=torch.float64))
    torch.testing.assert_close(env.state[1:], expected)


def test_each_environment_is_truncated_by_its_own_clock():
    env = make(horizon=5)
    env.reset(seed=0, options={"state": fallen_and_upright()})
    ends = []
    for step in range(1, 12):
        _, _, terminated, truncated, _ = env.step(ZERO)
        ends += [(step, k, "failed") for k in range(3) if terminated[k]]
        ends += [(step, k, "time") for k in range(3) if truncated[k] and not terminated[k]]
    assert (1, 0, "failed") in ends
    assert (5, 2, "time") in ends
    assert (7, 0, "time") in ends, "one step to fail, one to restart, five to run"
    assert (11, 2, "time") in ends, "five to run, one to restart, five to run"


def test_same_step_hands_over_the_last_observation_in_info():
    env = make("SameStep")
    env.reset(seed=0, options={"state": fallen_and_upright()})
    reference = env.plant.transition(fallen_and_upright(), ZERO.double())
    observation, reward, terminated, _, info = env.step(ZERO)
    assert info["_final_obs"].tolist() == [True, False, False]
    torch.testing.assert_close(info["final_obs"][0], reference[0])
    assert float(observation[0].abs().max()) <= 0.3
    torch.testing.assert_close(observation[1:], reference[1:])
    assert bool(terminated[0])
    assert float(reward[0]) < -env.plant.failure_cost
    assert env.elapsed.tolist() == [0, 1, 1]
    *_, info = env.step(ZERO)
    assert "final_obs" not in info or not bool(info["_final_obs"].any())


def test_disabled_waits_for_a_reset_mask():
    env = make("Disabled")
    env.reset(seed=0, options={"state": fallen_and_upright()})
    _, _, terminated, _, _ = env.step(ZERO)
    assert terminated.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="reset_mask"):
        env.step(ZERO)
    before = env.state.clone()
    env.reset(options={"reset_mask": terminated.numpy()})
    assert env.elapsed.tolist() == [0, 1, 1]
    torch.testing.assert_close(env.state[1:], before[1:])
    assert float(env.state[0].abs().max()) <= 0.3
    env.step(ZERO)
    with pytest.raises(ValueError, match="bool of shape"):
        env.reset(options={"reset_mask": np.array([1.0, 0.0, 0.0])})


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_drawing_for_all_and_drawing_for_the_ended_agree_on_what_goes_on(mode):
    """The accelerator's path (select, never look) must end and begin the same episodes as the CPU's path."""
    looking, selecting = (make(mode, horizon=7, disturbance=0.0) for _ in range(2))
    selecting._host = False
    for env in (looking, selecting):
        env.reset(seed=1, options={"state": fallen_and_upright()})
    fresh = torch.zeros(3, dtype=torch.bool)
    for _ in range(20):
        a, b = looking.step(ZERO), selecting.step(ZERO)
        fresh |= (looking.elapsed == 0) & (looking.elapsed == selecting.elapsed)
        for left, right in zip(a[2:4], b[2:4], strict=True):
            assert torch.equal(left[2:], right[2:])
        assert torch.equal(looking.elapsed[2:], selecting.elapsed[2:])
        kept = ~fresh
        torch.testing.assert_close(a[0][kept], b[0][kept])
        torch.testing.assert_close(a[1][kept], b[1][kept])
        # Starts are drawn differently, so put both on one path again after each beginning.
        selecting._state = looking._state.clone()
        fresh[:] = False


def test_the_batch_ends_episodes_exactly_as_gymnasium_s_own_vectoriser_does():
    """Same starts, same actions: SyncVectorEnv over the single environment is the reference."""
    horizon, count, steps = 6, 3, 25
    sync = gymnasium.make_vec(
        "lipctrl_envs:lipctrl/Pendulum-v0",
        count,
        vectorization_mode="sync",
        max_episode_steps=horizon,
        disturbance=0.0,
    )
    batch = make(horizon=horizon)
    sync.reset(seed=3)
    start = np.array([e.unwrapped._state[0].numpy() for e in sync.envs])
    batch.reset(seed=3, options={"state": start})
    rng = np.random.default_rng(0)
    for _ in range(steps):
        action = rng.uniform(-5, 5, size=(count, 1)).astype(np.float32)
        expected, found = sync.step(action), batch.step(torch.as_tensor(action))
        for wanted, got in zip(expected[1:4], found[1:4], strict=True):
            np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-5)
        batch._state = torch.as_tensor(np.array([e.unwrapped._state[0].numpy() for e in sync.envs]))


def test_noise_and_randomisation_are_redrawn_for_the_environments_that_begin():
    env = make(horizon=3, randomization={"mass": 0.5})
    env.reset(seed=0, options={"state": fallen_and_upright()})
    first = env.parameters["mass"].clone()
    assert bool(((first >= 0.5) & (first <= 1.5)).all())
    env.step(ZERO)
    env.step(ZERO)
    assert float(env.parameters["mass"][0]) != float(first[0])
    assert torch.equal(env.parameters["mass"][1:], first[1:])


def test_observations_are_the_caller_s_to_change():
    env = TorchVectorEnv(CartPole(), 4)
    observation, _ = env.reset(seed=0)
    state = env.state.clone()
    observation.zero_()
    assert torch.equal(env.state, state)
    observation, *_ = env.step(torch.zeros(4, 1))
    state = env.state.clone()
    observation.fill_(7.0)
    assert torch.equal(env.state, state)


def test_nothing_of_a_step_carries_gradients():
    env = TorchVectorEnv(Pendulum(), 2)
    env.reset(seed=0)
    observation, reward, *_ = env.step(torch.zeros(2, 1, requires_grad=True))
    assert not observation.requires_grad
    assert not reward.requires_grad


@pytest.mark.parametrize(
    ("actions", "message"),
    [(torch.zeros(2, 1), "shape"), (torch.zeros(3), "shape"), (torch.full((3, 1), torch.nan), "finite")],
)
def test_wrong_actions_are_refused(actions, message):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(actions)


def test_a_step_before_reset_is_refused():
    with pytest.raises(gymnasium.error.ResetNeeded):
        make().step(ZERO)


class NeverLooks(TorchDispatchMode):
    """Refuse every operation that would make a host wait for an accelerator or copy to it."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "is_nonzero", "lift_fresh", "masked_select", "item")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.FORBIDDEN, f"{name} makes the host wait for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("name", plant_names())
def test_the_accelerator_s_path_never_waits_for_the_device(name, mode):
    env = TorchVectorEnv(name, 4, autoreset_mode=mode, max_episode_steps=2, observation_noise=0.1, delay=1)
    env._host = False
    env.reset(seed=0)
    action = torch.zeros(4, env.plant.action_size)
    env.step(action)
    with NeverLooks():
        for _ in range(4):
            env.step(action)


def test_the_check_above_would_notice():
    env = make()
    env.reset(seed=0)
    with NeverLooks(), pytest.raises(AssertionError, match="makes the host wait"):
        env.step(ZERO)


def test_numpy_output_suits_gymnasium_s_own_wrappers():
    env = make("SameStep", output="numpy")
    assert env.metadata["torch"] is False
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    observation, _ = recorded.reset(seed=0, options={"state": np.zeros(2)})
    assert isinstance(observation, np.ndarray)
    total = np.zeros(3)
    for _ in range(5):
        observation, reward, terminated, truncated, info = recorded.step(np.ones((3, 1), dtype=np.float32))
        total += reward
    assert {type(v) for v in (observation, reward, terminated, truncated)} == {np.ndarray}
    assert truncated.all()
    assert info["final_obs"].shape == (3, 2)
    np.testing.assert_allclose(info["episode"]["r"], total)
    np.testing.assert_array_equal(info["episode"]["l"], 5)
    with pytest.raises(ValueError, match="output"):
        make(output="jax")
