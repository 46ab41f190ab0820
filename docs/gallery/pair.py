import numpy as np

from lipctrl.analysis import separating_pair


def step(x, d):
    """An inverted pendulum whose spring-like part of the feedback saturates at 0.6 rad."""
    angle, rate = x[:, 0], x[:, 1]
    command = -12.0 * np.clip(angle, -0.6, 0.6) - 2.0 * rate
    return np.stack([angle + 0.05 * rate, rate + 0.05 * (9.81 * np.sin(angle) + command)], axis=1)


ax = separating_pair(step, states=2, steps=120, scale=0.5).plot()
