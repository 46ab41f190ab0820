import gymnasium

from lipctrl import IncrementalBall, plots
from lipctrl.training import lqr_gain

env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
K = lqr_gain(env.unwrapped.plant)
response = plots.loop_response(env.unwrapped.linearize(), IncrementalBall(center=-K, radius=2.5))
ax = plots.sigma_plot(response)
