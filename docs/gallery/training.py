import tempfile

import gymnasium
import torch

import lipctrl
from lipctrl import plots
from lipctrl.training import lqr_gain

env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
K = lqr_gain(env.unwrapped.plant)
torch.manual_seed(0)
network = lipctrl.LipschitzResNet(4, 1, lipschitz=3.0, width=16, depth=2, zero_at_origin=True)
policy = lipctrl.ResidualPolicy(gain=K, network=network, action_limits=10.0)
with tempfile.TemporaryDirectory() as folder:
    run = lipctrl.train(
        "lipctrl/CartPole-v0",
        policy,
        algorithm="apg",
        steps=150_000,
        seed=0,
        out=folder + "/run",
        progress=False,
    )
    axes = plots.training_curve(plots.training_metrics(run.path), bound="certified_radius")
