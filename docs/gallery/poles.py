import gymnasium

from lipctrl import IncrementalBall, plots
from lipctrl.training import lqr_gain

env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
K = lqr_gain(env.unwrapped.plant)
spread = plots.pole_spread(env.unwrapped.linearize(), IncrementalBall(center=-K, radius=2.5))
ax = plots.pole_spread_plot(spread)
