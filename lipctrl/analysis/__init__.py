"""Closed-loop analysis: from a plant and an incremental ball of policies to verdicts and margins."""

from lipctrl.analysis.ball import IncrementalBall, as_ball
from lipctrl.analysis.hinf import HinfNorm, hinf_norm
from lipctrl.analysis.loop import BallTest, ball_test, nominal_loop
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.verdict import Verdict

__all__ = [
    "BallTest",
    "HinfNorm",
    "IncrementalBall",
    "Realization",
    "Verdict",
    "as_ball",
    "as_realization",
    "ball_test",
    "hinf_norm",
    "nominal_loop",
]
