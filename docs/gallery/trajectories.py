import gymnasium
import torch

import lipctrl
from lipctrl import plots
from lipctrl.training import lqr_gain

env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
plant, K = env.unwrapped.plant, lqr_gain(env.unwrapped.plant)
torch.manual_seed(0)
network = lipctrl.LipschitzResNet(4, 1, lipschitz=2.5, width=16, depth=2, zero_at_origin=True)
policy = lipctrl.ResidualPolicy(gain=K, network=network, action_limits=10.0)  # untrained, and already safe
linear = torch.as_tensor(K)

axes = plots.trajectory_plot(
    plots.simulate_plant(plant, policy, starts=8, steps=250, disturbed=False),
    baseline=plots.simulate_plant(
        plant, lambda y: -y.double() @ linear.T, starts=8, steps=250, disturbed=False
    ),
    channels=["position", "angle", "force"],
    limits={"force": 10.0},
    names=("residual policy", "LQR"),
)
