"""Pictures show the plant: right size, not blank, moving with the state, unharmed by absurd states."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from lipctrl_envs import environment_id, plant_class, plant_names
from lipctrl_envs.canvas import Canvas
from lipctrl_envs.single import frame

NAMES = plant_names()


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_is_a_picture_of_the_state(name):
    env = gymnasium.make(f"lipctrl_envs:{environment_id(name)}", render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    plant = env.unwrapped.plant
    assert first.shape == (*plant.frame_size, 3)
    assert first.dtype == np.uint8
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 10
    for _ in range(5):
        env.step(env.action_space.high)
    assert np.any(env.render() != first)


@pytest.mark.parametrize("name", NAMES)
def test_a_diverged_state_still_draws(name):
    plant = plant_class(name)()
    for value in (1e12, -1e300, np.nan):
        picture = frame(plant, np.full(plant.state_size, value), np.zeros(plant.action_size))
        assert picture.shape == (*plant.frame_size, 3)


def test_a_batch_renders_one_picture_each():
    env = gymnasium.make_vec("lipctrl_envs:lipctrl/CartPole-v0", num_envs=3, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(torch.ones(3, 1))
    pictures = env.render()
    assert len(pictures) == 3
    assert np.any(pictures[0] != pictures[1])


def test_shapes_cover_the_pixels_they_should():
    canvas = Canvas(100, 100)
    canvas.view((0.0, 0.0), 10.0)
    canvas.circle((0.0, 0.0), 2.0, (0, 0, 0))
    dark = int((canvas.image.sum(axis=-1) < 380).sum())
    assert dark == pytest.approx(np.pi * 20.0**2, rel=0.01)
    canvas = Canvas(100, 100)
    canvas.view((0.0, 0.0), 10.0)
    canvas.box((1.0, 1.0), (4.0, 2.0), (0, 0, 0), angle=0.7)
    assert int((canvas.image.sum(axis=-1) < 380).sum()) == pytest.approx(800, rel=0.02)
    rows, columns = np.nonzero(canvas.image.sum(axis=-1) < 380)
    assert (columns.mean(), rows.mean()) == pytest.approx((59.5, 39.5), abs=0.5)
    canvas.line((-4.0, -4.0), (4.0, -4.0), 0.4, (0, 0, 0))
    assert canvas.image[90, 50].sum() == 0


def test_render_without_a_mode_warns_and_draws_nothing():
    env = gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0").unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="rgb_array"):
        assert env.render() is None
