import gymnasium

from lipctrl import IncrementalBall, plots
from lipctrl.training import lqr_gain

env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
K = lqr_gain(env.unwrapped.plant)
sweep = plots.gain_sweep(env.unwrapped.linearize(), IncrementalBall(center=-K, radius=1.5))
ax = plots.gain_sweep_plot(sweep)
