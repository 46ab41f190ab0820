"""The structured loop inequality: proved, never worse than the ball, and never wrong."""

from __future__ import annotations

import control
import numpy as np
import pytest

from lipctrl import rules
from lipctrl.analysis import IncrementalBall, as_realization, ball_test
from lipctrl.analysis.contraction import find_contraction
from lipctrl.analysis.policy_graph import policy_graph
from lipctrl.analysis.slope_loop import prove_loop, slope_loop
from lipctrl.analysis.structured import structured_gain_margin, structured_test
from lipctrl.positivity import NotProvedError


@pytest.mark.parametrize("seed", range(4))
def test_graph_runs_the_certified_map(seed, network):
    net = network(seed, 3, 2, 5, 1.5)
    policy = rules.projection(
        rules.centered(np.ones((2, 3)), rules.series(rules.scaling([1.0, 2.0, 0.5]), net)), [-1, -1], [1, 2]
    )
    graph = policy_graph(policy)
    for y in np.random.default_rng(seed).standard_normal((5, 3)):
        np.testing.assert_allclose(graph.values(y)[0], policy.evaluate(y), atol=1e-12)
    assert graph.neurons == 7
    assert graph.clipped


def test_concat_parallel_sum_and_repeat_are_flattened(network):
    f, g = network(0, 2, 2, 4, 1.0), network(1, 2, 2, 4, 1.0)
    for policy in (
        rules.concat(f, g),
        rules.total(f, g, coefficients=[0.5, -2.0]),
        rules.repeat(f, 3),
        rules.parallel(f, g),
    ):
        graph = policy_graph(policy)
        y = np.linspace(-1.0, 1.0, policy.in_features)
        np.testing.assert_allclose(graph.values(y)[0], policy.evaluate(y), atol=1e-12)


def test_ball_and_structured_agree_where_only_the_ball_is_known(double_integrator):
    """With one full-block channel the inequality is the bounded-real lemma: the same threshold 1/‖T‖∞."""
    center = np.array([[-1.0, -2.0]])
    threshold = ball_test(double_integrator, IncrementalBall(center, 1.0)).margin
    graph = policy_graph(IncrementalBall(center, 0.999 * threshold))
    system = as_realization(double_integrator)
    assert find_contraction(slope_loop(system, graph), 1.0 - 1e-7) is not None
    graph = policy_graph(IncrementalBall(center, 1.001 * threshold))
    assert find_contraction(slope_loop(system, graph), 1.0 - 1e-7) is None


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("discrete", [True, False])
def test_margins_are_never_smaller_than_the_balls(seed, discrete, double_integrator, network):
    plant = double_integrator
    if not discrete:
        plant = control.ss([[0.0, 1.0], [1.0, -0.5]], [[0.0], [1.0]], np.eye(2), np.zeros((2, 1)))
    policy = rules.centered([[-2.0, -3.0]], network(seed, 2, 1, 6, 0.6))
    for form in ("policy", "residual"):
        margin = structured_gain_margin(plant, policy, form, tolerance=1e-2, limit=20.0)
        assert margin.lower <= margin.ball_lower
        assert margin.upper >= margin.ball_upper
    assert margin.upper > 1.2 * margin.ball_upper


@pytest.mark.parametrize("seed", range(3))
def test_trajectories_contract_in_the_proved_norm(seed, double_integrator, network):
    policy = rules.centered([[-2.0, -3.0]], network(seed, 2, 1, 6, 1.2))
    test = structured_test(double_integrator, policy, fastest=True)
    assert test.verdict == "certified"
    assert test.method == "structured"
    rng = np.random.default_rng(seed)
    a, b = np.asarray(double_integrator.A), np.asarray(double_integrator.B)
    for scale in (1e-3, 1.0, 100.0):
        x, z = scale * rng.standard_normal((2, 50, 2))
        r = rng.standard_normal((50, 1))
        after = [s @ a.T + (policy.evaluate(s) + r) @ b.T for s in (x, z)]
        before, later = x - z, after[0] - after[1]
        energy = [np.einsum("ij,jk,ik->i", d, test.lyapunov, d) for d in (before, later)]
        assert (energy[1] <= test.decay**2 * energy[0] * (1 + 1e-9)).all()


def test_every_admissible_slope_is_stable_inside_the_margin_and_some_is_not_far_outside(
    double_integrator, network
):
    policy = rules.centered([[-2.0, -3.0]], network(3, 2, 1, 6, 0.6))
    margin = structured_gain_margin(double_integrator, policy, tolerance=1e-2, limit=50.0)
    system, graph = as_realization(double_integrator), policy_graph(policy)
    rng = np.random.default_rng(0)
    slopes = np.vstack([rng.integers(0, 2, (200, 6)), rng.random((200, 6))]).astype(float)

    def worst(k: float) -> float:
        loop = slope_loop(system, graph, factor=k)
        return max(np.abs(np.linalg.eigvals(loop.frozen(s))).max() for s in slopes)

    assert worst(margin.upper) < 1.0
    assert worst(margin.lower) < 1.0
    assert worst(2.0 * margin.upper) > 1.0


def test_saturation_is_unconditional_only_for_stable_plants(double_integrator, network):
    clipped = rules.projection(rules.centered([[-2.0, -3.0]], network(0, 2, 1, 6, 0.5)), [-1.0], [1.0])
    test = structured_test(double_integrator, clipped)
    assert test.verdict == "certified"
    assert "inactive" in " ".join(test.scope)
    stable = control.ss([[0.9, 0.1], [-0.2, 0.8]], [[0.0], [0.1]], np.eye(2), np.zeros((2, 1)), 0.1)
    assert structured_test(stable, clipped).scope == ("with and without actuator saturation",)
    unstable = control.ss([[1.05]], [[1.0]], [[1.0]], [[0.0]], 0.1)
    policy = rules.projection(rules.centered([[-0.5]], network(0, 1, 1, 4, 0.1)), [-1.0], [1.0])
    assert "inactive" in " ".join(structured_test(unstable, policy).scope)


def test_tampered_numbers_are_not_proved(double_integrator, network):
    policy = rules.centered([[-2.0, -3.0]], network(0, 2, 1, 6, 0.5))
    loop = slope_loop(as_realization(double_integrator), policy_graph(policy))
    found = find_contraction(loop, 0.99)
    prove_loop(loop, found.lyapunov, found.multipliers, 0.99)
    for p, lam, decay in (
        (-found.lyapunov, found.multipliers, 0.99),
        (found.lyapunov, -found.multipliers, 0.99),
        (found.lyapunov, found.multipliers, 0.5),
        (found.lyapunov, found.multipliers, 1.0),
        (found.lyapunov * np.nan, found.multipliers, 0.99),
    ):
        with pytest.raises(NotProvedError):
            prove_loop(loop, p, lam, decay)


def test_unstable_centre_and_algebraic_loops_are_not_certified():
    unstable = control.ss([[1.2]], [[1.0]], [[1.0]], [[0.0]], 1.0)
    assert structured_test(unstable, IncrementalBall([[0.0]], 0.01)).verdict == "nominally unstable"
    feedthrough = control.ss([[0.5]], [[1.0]], [[1.0]], [[2.0]], 1.0)
    assert structured_test(feedthrough, IncrementalBall([[0.0]], 0.6)).verdict == "ill-posed"


def test_errors_say_the_remedy(double_integrator):
    with pytest.raises(ValueError, match="form"):
        structured_gain_margin(double_integrator, IncrementalBall([[-1.0, -2.0]], 0.1), "both")
    with pytest.raises(ValueError, match="certified loop"):
        structured_gain_margin(double_integrator, IncrementalBall([[0.0, 0.0]], 0.1))
    with pytest.raises(ValueError, match="observations"):
        structured_test(double_integrator, IncrementalBall([[-1.0]], 0.1))


def test_a_gain_of_zero_is_reached_through_deep_networks(network):
    """At k = 0 no neuron acts on the plant any more: the search must not divide by that."""
    stable = control.ss([[0.9, 0.1], [-0.2, 0.8]], [[0.0], [0.1]], np.eye(2), np.zeros((2, 1)), 0.1)
    inner = rules.series(network(0, 2, 2, 4, 1.0), network(1, 2, 1, 4, 0.5))
    margin = structured_gain_margin(stable, rules.centered([[-0.1, -0.1]], inner), tolerance=0.1, limit=2.0)
    assert margin.lower == 0.0
