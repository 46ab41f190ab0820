"""The smallest incremental ball around a policy: its best linear centre, found from its own neurons."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from lipctrl.analysis.ball import Ball, IncrementalBall, as_ball, own_ball
from lipctrl.analysis.lmi import require_cvxpy, solved
from lipctrl.analysis.loop import BallTest, ball_test, real_gain
from lipctrl.analysis.policy_graph import PolicyGraph, policy_certificate, policy_graph, zeros
from lipctrl.analysis.slope_loop import SlopeLoop, loop_matrix
from lipctrl.analysis.structured import UNSATURATED
from lipctrl.arithmetic import Enclosure
from lipctrl.positivity import NotProvedError, prove_positive_semidefinite


class NoBallError(ValueError):
    """No ball around a policy was proved; nothing is wrong with the policy's data."""


def recentred_ball(policy: Any, *, center: Any = None) -> IncrementalBall:
    """Return a proved incremental ball of small radius around a policy: ‖π(y)-π(y')-K₀(y-y')‖ ≤ ρ‖y-y'‖.

    K₀, ρ² and the multipliers of the policy's neurons enter one linear matrix inequality (LipSDP, Fazlyab et al. 2019,
    with a free linear part), solved with cvxpy and Clarabel; ρ is then proved for the K₀ that is returned.
    Sign: u = π(y). An outer clip is left out, and the scope says so.

    Parameters
    ----------
    center : a fixed K₀ (actions, observations), or None to choose it.

    Raises
    ------
    ValueError
        When nothing was proved, or K₀ has the wrong shape. ImportError names the extra where cvxpy is missing.

    Examples
    --------
    >>> from lipctrl.rules import elementwise, linear, series
    >>> relu = series(linear([[1.0]]), elementwise("relu", 1))
    >>> ball = recentred_ball(relu)
    >>> print(ball.center.round(3).tolist(), round(ball.radius, 3))     # slopes [0, 1]: centre ½, radius ½
    [[0.5]] 0.5
    """
    cp = require_cvxpy()
    known = as_ball(policy)
    graph = policy_graph(policy_certificate(policy), clip=False)
    m, p = graph.f0.shape
    h, owners = graph.neurons, int(graph.owner.max(initial=-1)) + 1
    if center is None:
        k0: Any = cp.Variable((m, p))
    else:
        k0 = real_gain(center)
        if k0.shape != (m, p) or not np.isfinite(k0).all():
            raise ValueError(
                f"center has shape {k0.shape}; expected finite {(m, p)}, (actions, observations)"
            )
    level, lam = cp.Variable(nonneg=True), cp.Variable(max(owners, 1), nonneg=True)
    y, w = np.eye(p, p + h), np.eye(h, p + h, p)
    v = np.hstack([graph.g0.middle(), graph.g1.middle()])
    total: Any = level * (y.T @ y)
    if h:
        spread = cp.diag(np.eye(owners)[graph.owner] @ lam)
        low, high = w - graph.lower[:, None] * v, w - graph.upper[:, None] * v
        total = total + low.T @ spread @ high + high.T @ spread @ low
    out = np.hstack([graph.f0.middle(), graph.f1.middle()]) - k0 @ y
    matrix = cp.bmat([[0.5 * (total + total.T), out.T], [out, np.eye(m)]])
    problem = cp.Problem(cp.Minimize(level), [matrix >> 1e-9 * np.eye(p + h + m)])
    if not solved(problem) or lam.value is None:
        raise NoBallError("the search found no ball; expected a policy with slope-restricted neurons")
    chosen = k0 if center is not None else np.asarray(k0.value)
    multipliers = np.maximum(lam.value, 0.0)[graph.owner] if h else np.zeros(0)
    radius = _proved_radius(graph, chosen, multipliers, math.sqrt(max(float(level.value), 0.0)))
    inherited = known.scope if isinstance(policy, Ball) else ()
    scope = (UNSATURATED,) if known.limits is not None and not inherited else inherited
    return IncrementalBall(chosen, radius, scope, limits=known.limits, policy=known.policy)


def _proved_radius(graph: PolicyGraph, center: np.ndarray, multipliers: np.ndarray, radius: float) -> float:
    m, p = graph.f0.shape
    h = graph.neurons
    static = SlopeLoop(
        a=zeros(0, 0), b=zeros(0, h), c=zeros(h, 0), d=graph.g1, e=zeros(0, p), h=graph.g0,
        y=zeros(m, 0), z=graph.f1, j=graph.f0 - Enclosure.exact(center),
        lower=graph.lower, upper=graph.upper, owner=graph.owner, sample_time=1.0,
    )  # fmt: skip
    # The optimum is on the boundary; every layer gets a slack of its own, as in `rules.neurons`.
    depth = np.zeros(h)
    for l, (start, stop, _) in enumerate(graph.layers):
        depth[start:stop] = len(graph.layers) - l
    for slack in (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        trial = (radius + 1e-3 * slack) * (1.0 + slack) ** (len(graph.layers) + 1)
        relaxed = multipliers * (1.0 + slack) ** depth
        total = loop_matrix(static, np.zeros((0, 0)), relaxed, 1.0, trial)
        try:
            prove_positive_semidefinite({(0, 0): total}, [h + p])
        except NotProvedError:
            continue
        return trial
    raise NoBallError(
        "a ball was found but not proved; scale the observations so that gains are of order one"
    )


def best_centre(sys: Any, policy: Any) -> BallTest:
    """Return the ball test with the largest margin over centres: the policy's own, the tightest, and none.

    Every candidate ball is proved to hold the policy, so the best verdict is a verdict. Sign: u = π(y).

    Raises
    ------
    ValueError
        For bad data. ImportError where cvxpy is not installed; it names the extra.

    Examples
    --------
    >>> import control
    >>> from lipctrl import rules
    >>> bend = rules.series(rules.elementwise("tanh", 1), rules.linear([[-2.0]]))
    >>> test = best_centre(control.tf([1], [1, -1]), rules.total(rules.linear([[-2.0]]), bend))
    >>> print(test.verdict, round(test.margin, 3))     # slopes -4 … -2 are the ball of radius 1 about -3
    certified 2.0
    """
    return best_ball(sys, policy)[1]


def best_ball(sys: Any, policy: Any) -> tuple[Ball, BallTest]:
    """Return the ball of `best_centre` beside its test; a centre around which no ball is proved is no candidate."""
    own, stated = as_ball(policy), own_ball(policy)
    balls: list[Ball] = [stated]
    tight = _proved_ball(policy, None)
    if tight is not None:
        weights = (0.25, 0.5, 0.75, 1.0)
        centres = [weight * own.center + (1.0 - weight) * tight.center for weight in weights]
        found = [tight, *(_proved_ball(policy, centre) for centre in centres)]
        # A gain that holds on a box only is none of a ball that holds everywhere.
        gain = own.gain if own.region is None else None
        balls += [replace(ball, gain=gain) for ball in found if ball is not None]
    tests = [(ball, ball_test(sys, ball)) for ball in balls]
    return max(tests, key=lambda pair: (pair[1].margin, -pair[1].radius))


def _proved_ball(policy: Any, centre: np.ndarray | None) -> IncrementalBall | None:
    try:
        return recentred_ball(policy, center=centre)
    except NoBallError:
        return None
