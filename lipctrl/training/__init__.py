"""Training of certified policies: analytic policy gradient, PPO and imitation, one file each.

`lipctrl.train` runs any of them into a run folder; this room holds the algorithms and knows nothing of files.
"""

from lipctrl.training.algorithm import Algorithm, TrainingDivergedError
from lipctrl.training.apg import APG, APGConfig
from lipctrl.training.attack import Attack, Wave
from lipctrl.training.environments import EnvironmentFailedError, Task, find_task
from lipctrl.training.evaluation import Evaluation, evaluate
from lipctrl.training.experts import default_expert, lqr_expert, lqr_gain, swing_up_expert
from lipctrl.training.imitation import Imitation, ImitationConfig
from lipctrl.training.perturbation import Perturbation
from lipctrl.training.ppo import PPO, PPOConfig
from lipctrl.training.rollout import (
    GymSimulator,
    PlantSimulator,
    Simulator,
    make_simulator,
    measure_observation_scale,
)
from lipctrl.training.seeds import split_seed
from lipctrl.training.worst_case import WorstCase, worst_case

__all__ = [
    "APG",
    "APGConfig",
    "Algorithm",
    "Attack",
    "EnvironmentFailedError",
    "Evaluation",
    "GymSimulator",
    "Imitation",
    "ImitationConfig",
    "PPO",
    "PPOConfig",
    "Perturbation",
    "PlantSimulator",
    "Simulator",
    "Task",
    "TrainingDivergedError",
    "Wave",
    "WorstCase",
    "default_expert",
    "evaluate",
    "find_task",
    "lqr_expert",
    "lqr_gain",
    "make_simulator",
    "measure_observation_scale",
    "split_seed",
    "swing_up_expert",
    "worst_case",
]
