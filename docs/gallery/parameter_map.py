import gymnasium
import numpy as np

from lipctrl import IncrementalBall, plots
from lipctrl.training import lqr_gain

name = "lipctrl_envs:lipctrl/CartPole-v0"
nominal = gymnasium.make(name).unwrapped.plant
ball = IncrementalBall(center=-lqr_gain(nominal), radius=1.5)  # designed once, for the nominal plant


def plant(half_length, cart_mass):
    return gymnasium.make(name, half_length=half_length, cart_mass=cart_mass).unwrapped.linearize()


data = plots.robustness_map(
    plant,
    ball,
    np.linspace(0.2, 1.8, 17),
    np.linspace(0.2, 5.0, 13),
    names=("pole half length", "cart mass"),
    units=("m", "kg"),
)
ax = plots.robustness_map_plot(data, nominal=(nominal.half_length, nominal.cart_mass))
