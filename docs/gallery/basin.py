import gymnasium
import numpy as np
import torch

import lipctrl
from lipctrl import plots
from lipctrl.analysis import basin
from lipctrl.runs import output_gain
from lipctrl.training import Imitation, ImitationConfig, find_task, make_simulator, split_seed

env = gymnasium.make("lipctrl_envs:lipctrl/GymPendulum-v1")
plant, seeds = env.unwrapped.plant, split_seed(0)
torch.manual_seed(seeds["network"])
network = lipctrl.LipschitzResNet(3, 1, lipschitz=40.0, width=16, depth=2)
policy = lipctrl.ResidualPolicy(
    output_gain(plant), network, [1.0, 1.0, 4.0], action_limits=plant.action_limit
)

# A few seconds with a teacher that pumps energy; the bound of the gain holds all the while.
config = ImitationConfig(updates=60)
simulator = make_simulator(find_task("lipctrl/GymPendulum-v1"), config.environments, seeds["simulator"])
learner = Imitation(policy, simulator, config, seeds)
for i in range(20):
    learner.iterate(i / 20)

found = basin(plant, policy, box=[1.2, 6.0])
starts = np.column_stack([np.linspace(-np.pi, np.pi, 14), np.zeros(14)])
portrait = plots.portrait_data(
    found, plant.state_names, plant.state_units, starts, steps=200, turns=["angle"]
)
ax = plots.portrait_plot(portrait, title="Swing-up into a certified basin")
