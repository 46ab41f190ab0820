"""Simulators step as Gymnasium does: limits, failures, restarts, seeds and gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lipctrl.training import PlantSimulator, find_task, split_seed
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
