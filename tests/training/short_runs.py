"""Runs of a second, and what compares them."""

from __future__ import annotations

import torch

import lipctrl
from lipctrl.runs import Schedule
from lipctrl.runs.files import read_tensors
from lipctrl.training import APGConfig, ImitationConfig, PPOConfig

SMALL = {
    "apg": APGConfig(environments=4, horizon=8, value_width=8),
    "ppo": PPOConfig(environments=4, horizon=16, epochs=2, minibatches=2, value_width=8),
    "imitation": ImitationConfig(environments=4, horizon=10, updates=5, minibatch=16),
}
OFTEN = Schedule(evaluate_every=2, checkpoint_every=2, validation_episodes=4, evaluation_episodes=4)
ENV = "lipctrl/Pendulum-v0"
GAIN = [[15.0, 5.0]]


def small_policy(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = lipctrl.LipschitzResNet(2, 1, lipschitz=1.0, width=8, depth=1)
        return lipctrl.ResidualPolicy(GAIN, network, action_limits=5.0)


def short_run(out, algorithm="apg", iterations=6, **arguments):
    config = SMALL[algorithm]
    steps = iterations * config.environments * config.horizon
    arguments = {
        "schedule": OFTEN,
        "config": config,
        "policy": small_policy(),
        "progress": False,
        **arguments,
    }
    return lipctrl.train(ENV, algorithm=algorithm, steps=steps, out=out, **arguments)


def weights(path):
    return read_tensors(path / "weights.safetensors", "weights")[0]


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it and nothing is saved after it."""
