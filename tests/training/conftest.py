"""Tasks that several files of this room train on."""

from __future__ import annotations

import pytest

from lipctrl.training import find_task
from lipctrl.training.environments import Task


@pytest.fixture(scope="module")
def cartpole() -> Task:
    return find_task("lipctrl/CartPole-v0")


@pytest.fixture(scope="module")
def pendulum() -> Task:
    return find_task("Pendulum-v1")
