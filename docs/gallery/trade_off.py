import gymnasium

from lipctrl import plots
from lipctrl.analysis import trade_off

env = gymnasium.make("lipctrl_envs:lipctrl/CartPole-v0")
curve = trade_off(env.unwrapped.plant.linearize())
ax = plots.trade_off_plot(curve, used=2.0)
