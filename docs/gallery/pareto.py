import tempfile

import gymnasium
import torch

import lipctrl
from lipctrl import plots
from lipctrl.training import lqr_gain

env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
plant, K = env.unwrapped.linearize(), lqr_gain(env.unwrapped.plant)
points = []
for parametrization in ("lossless", "gershgorin"):
    for lipschitz in (0.4, 0.8, 1.6, 2.8):
        torch.manual_seed(0)
        network = lipctrl.LipschitzResNet(
            4, 1, lipschitz=lipschitz, width=16, depth=2, parametrization=parametrization, zero_at_origin=True
        )
        policy = lipctrl.ResidualPolicy(gain=K, network=network, action_limits=10.0)
        with tempfile.TemporaryDirectory() as folder:
            run = lipctrl.train(
                "lipctrl/CartPole-v0",
                policy,
                algorithm="apg",
                steps=150_000,
                out=folder + "/run",
                progress=False,
            )
            radius, mean = run.certificate.radius, run.evaluation["mean_return"]
        margin = lipctrl.stability_radius(plant, gain=K) / radius
        points.append(plots.SweepPoint(mean, margin, parametrization, f"L = {lipschitz}"))
ax = plots.pareto_plot(points, margin="certified margin of the residual [ratio]")
