"""Wrappers that change units are never forgotten: not by training, not by analysis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import lipctrl
import lipctrl_envs
from lipctrl.cli.loop import environment_of
from lipctrl.runs import Schedule, build_policy
from lipctrl.training import PPOConfig, find_task

# Gymnasium's RescaleAction says so of every box that is not of float32.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting.*")

PLANT = "lipctrl_envs:lipctrl/Pendulum-v0"
NAMES = {
    "test/Rescaled-v0": lambda **k: gymnasium.wrappers.RescaleAction(gymnasium.make(PLANT, **k), -1.0, 1.0),
    "test/Renormalised-v0": lambda **k: gymnasium.wrappers.NormalizeObservation(gymnasium.make(PLANT, **k)),
    "test/Rewarded-v0": lambda **k: gymnasium.wrappers.TransformReward(
        gymnasium.make(PLANT, **k), lambda r: 3.0 * r
    ),
    "test/Counted-v0": lambda **k: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(PLANT, **k)),
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, make in NAMES.items():
        gymnasium.register(name, entry_point=make)
    yield
    for name in NAMES:
        del gymnasium.registry[name]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Rescaled", False),
        ("Renormalised", False),
        ("Rewarded", False),
        ("Counted", True),
    ],
)
def test_a_plant_stands_for_an_environment_only_where_nothing_is_between(name: str, known: bool) -> None:
    task = find_task(f"test/{name}-v0")
    assert (task.plant is not None) is known
    assert type(build_policy(f"test/{name}-v0", width=4)).__name__ == (
        "ResidualPolicy" if known else "LipschitzPolicy"
    )


@pytest.mark.parametrize("name", ["Rescaled", "Renormalised"])
def test_a_loop_with_a_hidden_factor_is_not_analysed(tmp_path: Path, name: str) -> None:
    few = Schedule(validation_episodes=1, evaluation_episodes=1)
    settings = PPOConfig(environments=2, horizon=4)
    policy = build_policy(f"test/{name}-v0", width=4, depth=1)
    words = {"config": settings, "schedule": few, "steps": 8, "progress": False}
    lipctrl.train(f"test/{name}-v0", policy, "ppo", out=tmp_path / "run", **words)
    with pytest.raises(ValueError, match=r"wrapped in .*, which may change the units"):
        environment_of(tmp_path / "run")


def test_rescaled_actions_are_not_certified_with_the_gain_of_the_plain_plant() -> None:
    certificate = build_policy(PLANT, width=4).certificate()
    assert str(lipctrl.analyze(gymnasium.make(PLANT), certificate).verdict) == "certified"
    wrapped = gymnasium.make("test/Rescaled-v0")
    for refused in (lipctrl.analyze, lipctrl.region_of_attraction):
        with pytest.raises(ValueError, match="wrapped in RescaleAction"):
            refused(wrapped, certificate)
    # What keeps the units is no obstacle.
    kept = gymnasium.make("test/Rewarded-v0")
    assert str(lipctrl.analyze(kept, certificate).verdict) == "certified"


def test_a_sampled_model_says_which_wrappers_it_leaves_out() -> None:
    class Spring(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        state = np.zeros(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.state = self.np_random.normal(size=2)
            return self.state, {}

        def step(self, action):
            x, v = self.state
            self.state = np.array([x + 0.1 * v, v - 0.1 * x + 0.1 * float(action[0])])
            return self.state, 0.0, False, False, {}

    plain = lipctrl_envs.sample_model(gymnasium.wrappers.TimeLimit(Spring(), 10))
    assert not any("inside" in line for line in plain.linearization_scope)
    model = lipctrl_envs.sample_model(gymnasium.wrappers.RescaleAction(Spring(), -5.0, 5.0))
    assert any("inside RescaleAction" in line for line in model.linearization_scope)
