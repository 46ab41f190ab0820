import gymnasium
import torch

import lipctrl
from lipctrl import plots
from lipctrl.analysis import region_of_attraction
from lipctrl.training import lqr_gain

env = gymnasium.make("lipctrl_envs:lipctrl/Pendulum-v0")
plant = env.unwrapped.plant
torch.manual_seed(0)
network = lipctrl.LipschitzResNet(2, 1, lipschitz=0.5, width=4, depth=1, zero_at_origin=True).double()
policy = lipctrl.ResidualPolicy(gain=lqr_gain(plant), network=network)

# The nonlinear plant with its actuator limit: its Lur'e form, not the linearisation.
region = region_of_attraction(plant, policy, action_limit=plant.action_limit)
ellipsoid, simulated = plots.region_data(region, plant.state_names, plant.state_units, steps=300)
ax = plots.region_plot(ellipsoid, trajectories=simulated)
