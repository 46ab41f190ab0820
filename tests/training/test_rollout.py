"""Simulators step as Gymnasium does: limits, failures, restarts, seeds and gradients."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from lipctrl.training import (
    EnvironmentFailedError,
    PlantSimulator,
    evaluate,
    find_task,
    measure_observation_scale,
    split_seed,
)
from lipctrl.training.rollout import GymSimulator


def test_streams_are_independent_of_each_other():
    streams = split_seed(7)
    assert len(set(streams.values())) == len(streams)
    assert split_seed(7, ("simulator",))["simulator"] == streams["simulator"]
    assert split_seed(8)["simulator"] != streams["simulator"]
    with pytest.raises(ValueError, match=r"seed is 1\.5"):
        split_seed(1.5)


def test_the_twin_of_pendulum_is_the_same_environment(pendulum):
    assert pendulum.twin == "lipctrl_envs:lipctrl/GymPendulum-v1"
    gym = GymSimulator(dataclasses.replace(pendulum, plant=None), 5, 3, dtype=torch.float64)
    copy = PlantSimulator(pendulum.plant, 5, 0, dtype=torch.float64, staggered=False)
    y = gym.observation
    copy.physical = torch.stack([torch.atan2(y[:, 1], y[:, 0]), y[:, 2]], dim=-1)
    action = torch.randn(60, 5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for u in action:
        a, b = gym.step(u), copy.step(u)
        # Gymnasium hands out float32 observations.
        torch.testing.assert_close(a.observation, b.observation, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(a.reward, b.reward, atol=2e-2, rtol=2e-3)


@pytest.mark.parametrize("black_box", [True, False])
def test_time_limits_truncate_and_show_the_observation_reached(pendulum, black_box):
    if black_box:
        simulator = GymSimulator(dataclasses.replace(pendulum, plant=None), 3, 0)
    else:
        simulator = PlantSimulator(pendulum.plant, 3, 0, staggered=False)
    total = torch.zeros(3)
    for t in range(200):
        step = simulator.step(torch.zeros(3, 1))
        total += step.reward
        assert bool(step.truncated.all()) == (t == 199)
        assert not step.terminated.any()
        if t < 199:
            assert torch.equal(step.observation, simulator.observation)
    assert not torch.isclose(step.observation, simulator.observation).all(dim=1).any()
    assert simulator.mean_return() == pytest.approx(total.mean().item(), rel=1e-5)
    assert simulator.mean_return() is None


def test_failures_terminate_and_restart_only_the_failed(cartpole):
    simulator = PlantSimulator(cartpole.plant, 2, 0, dtype=torch.float64, staggered=False)
    simulator.physical = torch.tensor([[0.0, 0.499, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    step = simulator.step(torch.zeros(2, 1, dtype=torch.float64))
    assert step.terminated.tolist() == [True, False]
    assert step.reward[0] < -200.0
    assert step.observation[0, 1] > 0.5
    assert simulator.observation[0, 1].abs() <= 0.1
    assert simulator.clock.tolist() == [0, 1]
    assert torch.equal(simulator.observation[1], step.observation[1])


def test_a_simulator_continues_from_its_state_exactly(cartpole):
    options = {"randomization": {"pole_mass": 0.3}, "observation_noise": 0.01, "delay": 1}
    task = find_task("lipctrl/CartPole-v0", options)
    first = PlantSimulator(task.plant, 4, 1)
    action = 10.0 * torch.randn(80, 4, 1, generator=torch.Generator().manual_seed(1))
    for u in action[:40]:
        first.step(u)
    second = PlantSimulator(task.plant, 4, 99)
    second.load_state({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in first.state().items()})
    for u in action[40:]:
        a, b = first.step(u), second.step(u)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_gradients_of_a_rollout_match_finite_differences(pendulum):
    gain = torch.tensor([[0.3, -0.4, 0.2]], dtype=torch.float64, requires_grad=True)

    def cost(k):
        simulator = PlantSimulator(pendulum.plant, 4, 5, dtype=torch.float64)
        return -sum(simulator.step(simulator.observation @ k.T).reward.sum() for _ in range(12))

    assert torch.autograd.gradcheck(cost, gain, atol=1e-4)


class Faulty(gymnasium.Env):
    """A double integrator that fails as it is told to, at the `at`-th step of the copy."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), dtype=np.float64)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))

    def __init__(self, fault: str = "", at: int = 40):
        if fault == "constructor":
            raise FileNotFoundError("model.xml")
        self.action_space = {
            "whole": gymnasium.spaces.Box(-3, 3, (1,), dtype=np.int64),
            "none": gymnasium.spaces.Box(0.0, 1.0, (0,)),
            "fixed": gymnasium.spaces.Box(np.float32([1.0]), np.float32([1.0])),
        }.get(fault, self.action_space)
        self.fault, self.at, self.steps = fault, at, 0

    def _due(self, fault):
        return self.fault == fault and self.steps >= self.at

    def _observation(self):
        if self._due("shape"):
            return np.zeros(3)
        return np.array([np.nan, self.x[1]]) if self._due("nan") else self.x.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self._due("reset"):
            raise OSError("the simulator is gone")
        self.x = self.np_random.uniform(-1.0, 1.0, 2)
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        if self._due("step"):
            raise KeyError("joint")
        self.x = self.x + 0.05 * np.array([self.x[1], float(action[0])])
        return self._observation(), -float(self.x @ self.x), False, False, {}


gymnasium.register("test/Faulty-v0", Faulty, max_episode_steps=30)


def walk(simulator, steps):
    for _ in range(steps):
        simulator.step(torch.zeros(simulator.count, 1))


def test_an_environment_that_cannot_be_made_is_named():
    with pytest.raises(
        EnvironmentFailedError, match=r"Faulty-v0 failed in its constructor: FileNotFoundError: model"
    ):
        find_task("test/Faulty-v0", {"fault": "constructor"})


@pytest.mark.filterwarnings("ignore:.*obs returned:UserWarning")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("step", "failed in step: KeyError: 'joint'"),
        ("reset", "failed in step: OSError: the simulator is gone"),
        ("shape", "failed in step: ValueError"),
    ],
)
def test_a_failure_of_somebody_elses_environment_says_whose_and_where(fault, message):
    simulator = GymSimulator(find_task("test/Faulty-v0", {"fault": fault}), 2, 0)
    with pytest.raises(EnvironmentFailedError, match=message):
        walk(simulator, 61)


def test_an_evaluation_names_the_environment_that_failed():
    with pytest.raises(EnvironmentFailedError, match="test/Faulty-v0 failed in step: KeyError"):
        evaluate(
            lambda y: 0.0 * y[:, :1], "test/Faulty-v0", episodes=2, env_options={"fault": "step", "at": 5}
        )


@pytest.mark.filterwarnings("ignore:.*obs returned:UserWarning")
@pytest.mark.parametrize(
    ("at", "message"), [(0, "infinite after 0 random actions, in entries"), (40, "infinite, in entries")]
)
def test_observations_that_are_not_finite_are_the_environments(at, message):
    with pytest.raises(EnvironmentFailedError, match=rf"NaN or {message} \[0\]"):
        measure_observation_scale(find_task("test/Faulty-v0", {"fault": "nan", "at": at}), 0)


@pytest.mark.filterwarnings("ignore:.*A Box action space:UserWarning")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("whole", "type int64; rounding to whole numbers"),
        ("none", r"shape \(n,\), n ≥ 1"),
        ("fixed", "low < high"),
    ],
)
def test_actions_that_no_gain_describes_are_refused(fault, message):
    with pytest.raises(ValueError, match=message):
        find_task("test/Faulty-v0", {"fault": fault})
    with pytest.raises(ValueError, match=message):
        evaluate(lambda y: y[:, :1], "test/Faulty-v0", env_options={"fault": fault})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_episode_steps": 7}, "give horizon=7"),
        ({"render_mode": "human"}, "nothing is drawn"),
        ({"mass": object()}, "the option mass is a object, which a run folder cannot hold"),
    ],
)
def test_options_that_training_would_not_see_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        find_task("lipctrl/Pendulum-v0", options)
    if "mass" not in options and "render_mode" not in options:
        # A black box is stepped as Gymnasium makes it, limit included.
        assert find_task("Pendulum-v1", options).options == options


def test_options_are_kept_as_plain_values():
    task = find_task(
        "lipctrl/LateralVehicle-v0", {"disturbance": (0.0, np.float64(1.0)), "action_limit": np.array([0.2])}
    )
    assert task.options == {"disturbance": [0.0, 1.0], "action_limit": [0.2]}


def test_an_evaluation_says_what_it_cannot_make():
    def idle(y):
        return 0.0 * y[:, :1]

    with pytest.raises(ValueError, match="no environment 'NoSuch-v0'"):
        evaluate(idle, "NoSuch-v0")
    with pytest.raises(
        ValueError, match=r"does not take the options \{'colour': 1\}: Pendulum has no parameter"
    ):
        evaluate(idle, "lipctrl/Pendulum-v0", env_options={"colour": 1})
    with pytest.raises(ValueError, match="env_id is a TimeLimit; expected the name"):
        find_task(gymnasium.make("Pendulum-v1"))


def test_a_nan_in_the_middle_of_an_episode_is_the_environments():
    simulator = GymSimulator(find_task("test/Faulty-v0", {"fault": "nan", "at": 12}), 2, 0)
    walk(simulator, 11)
    with pytest.raises(
        EnvironmentFailedError, match=r"gave observations that are NaN or infinite, in entries \[0\]"
    ):
        walk(simulator, 1)
