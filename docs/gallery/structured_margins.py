import gymnasium
import torch

import lipctrl
from lipctrl import plots
from lipctrl.analysis import structured_gain_margin
from lipctrl.training import lqr_gain

env = gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0")
plant = env.unwrapped.plant
torch.manual_seed(0)
network = lipctrl.LipschitzResNet(2, 1, lipschitz=3.0, width=6, depth=1)
policy = lipctrl.ResidualPolicy(gain=lqr_gain(plant), network=network)

linear = plant.linearize()
forms = {"whole policy": "policy", "network alone": "residual"}
margins = {
    name: structured_gain_margin(linear, policy, form, limit=20.0, tolerance=0.02)
    for name, form in forms.items()
}
ax = plots.margin_intervals_plot(margins)
