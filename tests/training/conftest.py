"""Tasks that several files of this room train on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lipctrl.training import find_task
from lipctrl.training.environments import Task

# Tests share `short_runs`; pytest imports them by path and adds no folder of theirs.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def cartpole() -> Task:
    return find_task("lipctrl/CartPole-v0")


@pytest.fixture(scope="module")
def pendulum() -> Task:
    return find_task("Pendulum-v1")
