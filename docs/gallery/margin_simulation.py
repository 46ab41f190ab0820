import gymnasium

from lipctrl import IncrementalBall, plots
from lipctrl.analysis import incremental_delay_margin
from lipctrl.training import lqr_gain

env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
plant, K = env.unwrapped.linearize(), lqr_gain(env.unwrapped.plant)
margin = incremental_delay_margin(plant, IncrementalBall(center=-K, radius=1.5))
names = ["position [m]", "angle [rad]", "speed [m/s]", "angular rate [rad/s]"]
ax = plots.margin_simulation_plot(margin.simulate(), names=names)
