"""What "auto" means as an algorithm: the same in a training and in each environment of a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from short_runs import SMALL, small_policy

import lipctrl
from lipctrl.runs.sweeps import sweep

BLACK_BOX = "MountainCarContinuous-v0"
FEW: dict[str, Any] = {"steps": 1, "episodes": 1, "width": 4, "depth": 1, "workers": 0}


def test_a_sweep_chooses_for_each_environment_what_a_training_would(tmp_path: Path) -> None:
    settings = {"environments": 2, "horizon": 4, "validation_episodes": 1}
    grid = {"env_id": ["lipctrl/Pendulum-v0", BLACK_BOX], "seed": [0], "algorithm": ["auto", "ppo"]}
    result = sweep(BLACK_BOX, grid=grid, settings=settings, out=tmp_path, **FEW)
    assert not result.failures, str(result)
    # What "auto" means in a black box is ppo, which is then one run and not two.
    chosen = [(row["env_id"], row["algorithm"]) for row in result.rows]
    assert chosen == [("lipctrl/Pendulum-v0", "apg"), ("lipctrl/Pendulum-v0", "ppo"), (BLACK_BOX, "ppo")]
    assert json.loads((tmp_path / "sweep.json").read_text())[0]["algorithm"] == "apg"


@pytest.mark.parametrize("algorithm", ["apg", "imitation"])
def test_a_sweep_refuses_what_cannot_train_a_black_box_before_it_begins(
    tmp_path: Path, algorithm: str
) -> None:
    with pytest.raises(ValueError, match=f"{algorithm} needs a differentiable plant.*use ppo, or auto"):
        sweep(BLACK_BOX, algorithm=algorithm, out=tmp_path / "none", **FEW)
    assert not (tmp_path / "none").exists()


def test_auto_is_an_algorithm_of_a_training_and_a_resumed_run_keeps_its_own(tmp_path: Path) -> None:
    few = lipctrl.runs.Schedule(validation_episodes=1, evaluation_episodes=1)
    words: dict[str, Any] = {"schedule": few, "progress": False, "out": tmp_path / "run"}
    run = lipctrl.train("lipctrl/Pendulum-v0", small_policy(), "auto", steps=1, config=SMALL["apg"], **words)
    assert run.config["algorithm"] == "apg"
    # Without a policy "auto" would be ppo; the run says what it is.
    again = lipctrl.train("lipctrl/Pendulum-v0", algorithm="auto", steps=64, resume=True, **words)
    assert again.metrics["steps"].tolist() == [32.0, 64.0]
