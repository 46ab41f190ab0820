"""The torch twin of Gymnasium's Pendulum-v1 gives Gymnasium's numbers."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from lipctrl_envs import TorchVectorEnv


def test_it_matches_gymnasium_step_by_step():
    theirs = gymnasium.make("Pendulum-v1")
    ours = gymnasium.make("lipctrl_envs:lipctrl/GymPendulum-v1")
    assert theirs.observation_space == ours.observation_space
    assert theirs.action_space == ours.action_space
    for seed in range(5):
        rng = np.random.default_rng(seed)
        theirs.reset(seed=seed)
        first, _ = ours.reset(seed=seed, options={"state": theirs.unwrapped.state})
        np.testing.assert_allclose(first, theirs.unwrapped._get_obs(), rtol=0, atol=1e-7)
        for step in range(200):
            # Double precision, because Gymnasium computes in that of the action.
            action = rng.uniform(-3.0, 3.0, size=1)
            a, b = theirs.unwrapped.step(action), ours.unwrapped.step(action)
            np.testing.assert_allclose(b[0], a[0], rtol=0, atol=1e-6)
            assert abs(a[1] - b[1]) < 1e-9
            assert b[2:4] == (False, step == 199)


def test_the_batch_matches_gymnasium_in_double_precision():
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    batch = TorchVectorEnv("GymPendulum", 3, dtype=torch.float64)
    starts = np.array([[3.0, 0.9], [-0.2, -1.0], [0.01, 7.9]])
    rng = np.random.default_rng(0)
    actions = rng.uniform(-2.5, 2.5, size=(100, 3, 1))
    batch.reset(seed=0, options={"state": starts})
    rewards = torch.stack([batch.step(a)[1] for a in actions]).numpy()
    for k, start in enumerate(starts):
        theirs.reset(seed=0)
        theirs.state = start.copy()
        expected = [theirs.step(a[k])[1] for a in actions]
        np.testing.assert_allclose(rewards[:, k], expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(batch.state[k].numpy(), theirs.state, rtol=1e-12, atol=1e-12)


def test_starts_fill_gymnasium_s_box():
    batch = TorchVectorEnv("GymPendulum", 20_000)
    batch.reset(seed=0)
    high = batch.state.abs().amax(dim=0)
    assert 3.1 < float(high[0]) <= np.pi + 1e-6
    assert 0.99 < float(high[1]) <= 1.0
    assert abs(float(batch.state[:, 0].mean())) < 0.05
