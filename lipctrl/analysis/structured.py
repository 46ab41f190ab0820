"""The loop judged by the policy's own neurons, and by the ball around it: the better of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lipctrl.analysis.arguments import finite_number, one_of
from lipctrl.analysis.ball import Ball, own_ball
from lipctrl.analysis.contraction import Contraction, fastest_contraction, find_contraction, marginal_decay
from lipctrl.analysis.loop import BallTest, ball_test
from lipctrl.analysis.margins import incremental_gain_margin
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.policy_graph import PolicyGraph, policy_certificate, policy_graph
from lipctrl.analysis.slope_loop import SlopeLoop, prove_loop, prove_well_posed, slope_loop
from lipctrl.analysis.verdict import Verdict
from lipctrl.positivity import NotProvedError

LARGEST_SIZE = 400
# Gains below -40 dB are not walked through: zero is reached by a step or not at all.
SMALLEST_GAIN = 0.01
SATURATED = "with and without actuator saturation"
UNSATURATED = "while the actuator limits are inactive"


@dataclass(frozen=True)
class StructuredTest:
    """The verdict on a loop from one inequality over the plant's states and the policy's neurons.

    `verdict` is certified if the structured inequality or the ball test proves the loop; `method` names the one that
    did ("structured" or "ball"). `decay` is the proved contraction per step (discrete, < 1) or in 1/s (continuous,
    > 0) in the norm of `lyapunov`, None when only the ball test decides. `scope` limits the claim.
    """

    verdict: Verdict
    method: str
    reason: str
    decay: float | None
    ball: BallTest
    scope: tuple[str, ...] = ()
    lyapunov: np.ndarray | None = field(default=None, repr=False)
    multipliers: np.ndarray | None = field(default=None, repr=False)
    neurons: int = 0

    def __str__(self) -> str:
        return f"{self.verdict} by the {self.method} test: {self.reason}"


@dataclass(frozen=True)
class StructuredMargin:
    """The interval of policy gains k around 1 for which the loop is certified; `ball_*` are what the ball alone gives.

    Ratios; `limit` is the largest k that was tried, and `upper == limit` means at least that.
    """

    lower: float
    upper: float
    ball_lower: float
    ball_upper: float
    form: str
    limit: float
    scope: tuple[str, ...] = ()

    @property
    def lower_db(self) -> float:
        return _decibel(self.lower)

    @property
    def upper_db(self) -> float:
        return _decibel(self.upper)

    def __str__(self) -> str:
        return (
            f"gain margin ({self.form} form) [{self.lower:.6g}, {self.upper:.6g}] = [{self.lower_db:.3f} dB, "
            f"{self.upper_db:.3f} dB]; the ball alone [{self.ball_lower:.6g}, {self.ball_upper:.6g}]"
        )


def _decibel(ratio: float) -> float:
    if not ratio > 0.0:
        return -math.inf
    return 20.0 * math.log10(ratio)


@dataclass(frozen=True)
class _Candidate:
    graph: PolicyGraph
    scope: tuple[str, ...]


def _candidates(policy: Any) -> list[_Candidate]:
    """Return the graphs to try: with the clip as neurons, then without it (a narrower claim)."""
    source = policy_certificate(policy)
    if isinstance(source, Ball) and source.region is not None:
        return []  # No neurons to speak of, and a bound that holds on a box only.
    full = policy_graph(source)
    if isinstance(source, Ball):
        return [_Candidate(full, source.scope)]
    # Slopes of neurons hold everywhere, also where the certificate's own bound needs a box.
    if not full.clipped:
        return [_Candidate(full, ())]
    return [
        _Candidate(full, (SATURATED,)),
        _Candidate(policy_graph(source, clip=False), (UNSATURATED,)),
    ]


def _check_size(system: Realization, graph: PolicyGraph) -> None:
    size = system.states + graph.neurons
    if size > LARGEST_SIZE:
        raise ValueError(
            f"the structured inequality would have {size} rows ({system.states} states, {graph.neurons} neurons); "
            f"expected at most {LARGEST_SIZE}. Use ball_test, or a network of smaller width or depth"
        )


def _attempt(
    system: Realization,
    graph: PolicyGraph,
    factor: float,
    fixed: np.ndarray | None,
    search: Callable[[Any], Contraction | None],
) -> Contraction | None:
    loop = slope_loop(system, graph, factor=factor, fixed=fixed)
    if loop is None:
        return None
    found = search(loop)
    return found if found is not None and _well_posed(loop, found) else None


def _well_posed(loop: SlopeLoop, found: Contraction) -> bool:
    """Prove that the algebraic loop through the plant's feed-through has one solution."""
    try:
        prove_well_posed(loop, found.multipliers)
    except NotProvedError:
        return False
    return True


def _feasible(loop: Any) -> Contraction | None:
    return find_contraction(loop, marginal_decay(loop))


def structured_test(sys: Any, policy: Any, *, fastest: bool = False) -> StructuredTest:
    """Certify a loop by its plant and the policy's own neurons; never worse than the ball test.

    One inequality in a Lyapunov matrix P and multipliers Λ of the neurons proves that any two trajectories contract
    (hence incremental stability, finite incremental gain and convergence). The solver's output is only a guess:
    P ≻ 0 and the inequality are proved with bounds on every rounding error. Sign: u = π(y), positive feedback.

    Parameters
    ----------
    sys : plant as `as_realization` takes it, discrete or continuous time.
    policy : an object with `.certificate()`, a Certificate, or a ball (then both tests coincide).
    fastest : also search the fastest contraction that can be proved (about ten times the work).

    With a plant of direct feed-through the same multipliers must also prove that the algebraic loop has one solution;
    if the ball test finds it ill-posed, no structured claim is made.

    Raises
    ------
    ValueError
        For plant data or certificates that prove nothing, dimensions that differ, or more than 400 rows.

    Examples
    --------
    >>> import control, numpy as np
    >>> from lipctrl.analysis import IncrementalBall
    >>> plant = control.ss([[1.0, 0.1], [0.0, 1.0]], [[0.0], [0.1]], np.eye(2), np.zeros((2, 1)), 0.1)
    >>> structured_test(plant, IncrementalBall([[-1.0, -2.0]], 0.3)).verdict.value
    'certified'
    """
    system = as_realization(sys, "sys")
    ball = own_ball(policy)
    by_ball = ball_test(system, ball)
    candidates = _candidates(policy)
    search = fastest_contraction if fastest else _feasible
    for candidate in candidates:
        _check_size(system, candidate.graph)
    if by_ball.verdict is not Verdict.ILL_POSED:
        for candidate in candidates:
            found = _attempt(system, candidate.graph, 1.0, None, search)
            if found is not None:
                rate = (
                    f"√α = {found.decay:.9g} a step" if system.is_discrete else f"rate {found.decay:.6g} 1/s"
                )
                return StructuredTest(
                    Verdict.CERTIFIED,
                    "structured",
                    f"all pairs of trajectories contract ({rate})",
                    found.decay,
                    by_ball,
                    candidate.scope,
                    found.lyapunov,
                    found.multipliers,
                    candidate.graph.neurons,
                )
    return StructuredTest(
        by_ball.verdict,
        "ball",
        by_ball.reason,
        None,
        by_ball,
        ball.scope,
        neurons=candidates[0].graph.neurons if candidates else 0,
    )


def _ball_interval(system: Realization, ball: Ball, form: str, limit: float) -> tuple[float, float]:
    """Return the proved ends of the ball's gain margin, (nan, nan) when the ball test fails at 1."""
    if ball_test(system, ball).verdict is not Verdict.CERTIFIED:
        return math.nan, math.nan
    margin = incremental_gain_margin(system, ball, "policy" if form == "policy" else "residual")
    return margin.lower, min(margin.upper, limit)


class _Walk:
    """Extends an interval of gains step by step, each step proved for every k between its ends.

    The inequality is affine (continuous time) or concave (discrete time) in k for fixed P and Λ, where the plant has
    no feed-through: what holds at both ends of a step with the same P and Λ holds between them. With feed-through the
    inequality and the solvability of the algebraic loop are proved for an enclosure of all loops of a step.
    """

    def __init__(self, loop_at: Callable[[Any], SlopeLoop | None], tolerance: float, direct: bool) -> None:
        self.loop_at, self.tolerance, self.direct = loop_at, tolerance, direct

    def _encloses(self, near: float, far: float) -> bool:
        middle, every = self.loop_at(0.5 * (near + far)), self.loop_at((min(near, far), max(near, far)))
        found = None if middle is None else find_contraction(middle, marginal_decay(middle), tight=True)
        if found is None or every is None or not _well_posed(every, found):
            return False
        try:
            prove_loop(every, found.lyapunov, found.multipliers, found.decay)
        except NotProvedError:
            return False
        return True

    def _covers(self, near: float, far: float) -> bool:
        if self.direct:
            return self._encloses(near, far)
        loops = [self.loop_at(near), self.loop_at(far)]
        for k, loop in enumerate(loops):
            found = None if loop is None else _feasible(loop)
            if found is None:
                if k == 0:
                    return False
                continue
            other = loops[1 - k]
            try:
                if other is not None:
                    prove_loop(other, found.lyapunov, found.multipliers, found.decay)
                    return True
            except NotProvedError:
                continue
        return False

    def run(self, target: float) -> float:
        """Return the farthest k towards `target` that the steps reach from 1."""
        at, step = 1.0, 0.5 * (target - 1.0) if abs(target - 1.0) <= 1.0 else math.copysign(1.0, target - 1.0)
        while at != target and abs(step) > self.tolerance * at and at > SMALLEST_GAIN:
            far = at + step
            if (far - target) * step >= 0.0:
                far = target
            if self._covers(at, far):
                at, step = far, 2.0 * step
            else:
                step *= 0.4
        return at


def structured_gain_margin(
    sys: Any, policy: Any, form: str = "policy", *, limit: float = 100.0, tolerance: float = 1e-3
) -> StructuredMargin:
    """Return gains k by which the policy may be scaled with the loop still certified, from its own neurons.

    `lower` and `upper` bound an interval of which every k is proved: each step of the search carries one P and Λ that
    prove both of its ends, and with them all gains between. `ball_*` are the ends of `incremental_gain_margin`,
    and the interval is never smaller than theirs. Sign: u = π(y).

    Parameters
    ----------
    form : "policy" scales the whole policy, "residual" scales π(y) - K₀y around the ball's centre K₀.
    limit : the largest k that is tried. tolerance : relative distance to the first k that fails.

    Raises
    ------
    ValueError
        For an unknown form, bad data, or a loop that is not certified at k = 1.

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> plant = control.ss([[1.1]], [[1.0]], [[1.0]], [[0.0]], True)
    >>> bend = rules.series(rules.elementwise("tanh", 1), rules.linear([[-0.5]]))
    >>> margin = structured_gain_margin(plant, rules.total(rules.linear([[-0.9]]), bend), limit=5.0)
    >>> print(round(margin.lower, 2), round(margin.upper, 2))     # slopes 0.9 … 1.4: 0.1/0.9 < k < 2.1/1.4
    0.11 1.5
    """
    one_of(form, ("policy", "residual"), "form")
    limit, tolerance = finite_number(limit, "limit"), finite_number(tolerance, "tolerance")
    if not (limit > 1.0 and 0.0 < tolerance < 1.0):
        raise ValueError(
            f"limit is {limit} and tolerance {tolerance}; expected limit > 1 and 0 < tolerance < 1"
        )
    system, ball = as_realization(sys, "sys"), own_ball(policy)
    test = structured_test(system, policy)
    if test.verdict is not Verdict.CERTIFIED:
        raise ValueError(
            f"the loop is {test.verdict} at k = 1 ({test.reason}); a margin needs a certified loop"
        )
    candidates = _candidates(policy)
    fixed = None if form == "policy" else ball.center
    lower, upper = 1.0, 1.0
    if test.method == "structured":
        chosen = next(c for c in candidates if c.scope == test.scope)

        def loop_at(k: Any) -> SlopeLoop | None:
            return slope_loop(system, chosen.graph, factor=k, fixed=fixed)

        walk = _Walk(loop_at, tolerance, not system.d.is_zero())
        lower, upper = walk.run(0.0), walk.run(limit)
    ball_lower, ball_upper = _ball_interval(system, ball, form, limit)
    if test.scope != (SATURATED,) or not ball.scope:
        lower, upper = np.fmin(lower, ball_lower), np.fmax(upper, ball_upper)
    return StructuredMargin(float(lower), float(upper), ball_lower, ball_upper, form, limit, test.scope)
