"""Gymnasium spaces of a plant."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from lipctrl_envs.plant import Plant


def action_space(plant: Plant) -> Box:
    """Return the actuator's box in physical units, float32."""
    limit = plant.action_limit.astype(np.float32)
    return Box(-limit, limit, dtype=np.float32)


def observation_space(plant: Plant) -> Box:
    """Return the box of observations, float32; a signal is bounded only where its physics is."""
    bound = np.asarray(plant.observation_bounds, dtype=np.float32)
    bound = np.where(plant.observation_noise > 0.0, np.float32(np.inf), bound)
    return Box(-bound, bound, dtype=np.float32)
