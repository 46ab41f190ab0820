"""Plants with direct feed-through: margins and gains from the policy's neurons, and unsolvable algebraic loops."""

from __future__ import annotations

import control
import numpy as np
import pytest

from lipctrl import rules
from lipctrl.analysis import IncrementalBall, as_realization
from lipctrl.analysis.l2_gain import structured_gain
from lipctrl.analysis.policy_graph import policy_graph
from lipctrl.analysis.slope_loop import prove_well_posed, slope_loop
from lipctrl.analysis.structured import structured_gain_margin, structured_test
from lipctrl.positivity import NotProvedError


def plant(direct=0.2):
    return control.ss([[0.9, 0.1], [-0.1, 0.8]], [[0.0], [0.1]], np.eye(2), [[0.0], [direct]], 0.1)


@pytest.mark.parametrize("seed", range(2))
def test_margins_with_feedthrough_hold_every_frozen_slope(seed, network):
    policy = rules.centered([[-0.5, -0.6]], network(seed, 2, 1, 5, 0.6))
    margin = structured_gain_margin(plant(), policy, tolerance=2e-2, limit=20.0)
    assert margin.lower <= margin.ball_lower
    assert margin.upper >= margin.ball_upper > 1.0
    system, graph = as_realization(plant()), policy_graph(policy)
    rng = np.random.default_rng(seed)
    slopes = np.vstack([rng.integers(0, 2, (300, 5)), rng.random((300, 5))]).astype(float)
    for k in (margin.lower, 1.0, 0.5 * (1.0 + margin.upper), margin.upper):
        loop = slope_loop(system, graph, factor=k)
        poles = [np.abs(np.linalg.eigvals(loop.frozen(s))).max() for s in slopes]
        assert max(poles) < 1.0
        # I - ΔD keeps the sign of its determinant: no slope of the class meets a singular algebraic loop.
        d = loop.d.middle()
        assert min(np.linalg.det(np.eye(5) - s[:, None] * d) for s in slopes) > 0.0


def test_gain_with_feedthrough_bounds_random_linear_policies(network):
    policy = rules.centered([[-0.5, -0.6]], network(1, 2, 1, 5, 0.6))
    bound = structured_gain(plant(), policy)
    graph, system = policy_graph(policy), as_realization(plant())
    loop = slope_loop(system, graph)
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(60):
        s = rng.integers(0, 2, 5).astype(float)
        inner = np.linalg.inv(np.eye(5) - s[:, None] * loop.d.middle()) * s
        parts = [m.middle() for m in (loop.a, loop.b, loop.c, loop.e, loop.h, loop.y, loop.z, loop.j)]
        a, b, c, e, h, y, z, j = parts
        for omega in np.linspace(0.0, np.pi, 60):
            x = np.linalg.solve(np.exp(1j * omega) * np.eye(2) - a - b @ inner @ c, e + b @ inner @ h)
            worst = max(worst, np.linalg.norm(y @ x + z @ inner @ (c @ x + h) + j, 2))
    assert 0.3 * bound < worst <= bound


def test_unsolvable_algebraic_loops_are_never_certified():
    """u = δy, y = x + u with slopes up to 1.5: at δ = 1 there is no solution, though both ends are stable gains."""
    direct = control.ss([[0.2]], [[0.1]], [[1.0]], [[1.0]], 1.0)
    gain = rules.series(rules.linear([[1.5]]), rules.elementwise("tanh", 1))
    assert structured_test(direct, gain).verdict != "certified"
    loop = slope_loop(as_realization(direct), policy_graph(gain))
    with pytest.raises(NotProvedError):
        prove_well_posed(loop, np.ones(1))
    small = slope_loop(as_realization(direct), policy_graph(rules.elementwise("tanh", 1)))
    with pytest.raises(NotProvedError):
        prove_well_posed(small, np.zeros(1))
    half = slope_loop(as_realization(direct), policy_graph(IncrementalBall([[0.0]], 0.5)))
    prove_well_posed(half, np.ones(1))
    assert structured_test(direct, IncrementalBall([[0.0]], 0.5)).verdict == "certified"
