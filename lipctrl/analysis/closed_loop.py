"""One call from a plant and a policy to a verdict, margins, what limits them, and for what exactly."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from lipctrl.analysis.ball import Ball, IncrementalBall, ScaledBall, in_own_units, own_ball
from lipctrl.analysis.loop import BallTest, NominalLoop, judge, judge_ball, nominal_loop
from lipctrl.analysis.margins import incremental_gain_margin
from lipctrl.analysis.midrad import MidRad
from lipctrl.analysis.plant import Realization, as_realization
from lipctrl.analysis.report import StabilityReport, TestResult
from lipctrl.analysis.verdict import Verdict
from lipctrl.certificate import Certificate
from lipctrl.wrappers import require_raw_units

# Rows up to which the structured inequality is tried unasked; beyond, it takes many seconds.
_STRUCTURED_ROWS = 80
# Neurons up to which another centre is searched unasked: six inequalities, about a second together.
_CENTRE_NEURONS = 36
# Channels up to which classical margins are added: each costs norms of its own.
_CLASSICAL_CHANNELS = 3
# States up to which the phase margin is added unasked.
_QUICK_STATES = 10


def analyze(
    plant: Any,
    policy: Any,
    *,
    structured: bool | Literal["auto"] = "auto",
    margins: bool | Literal["all"] = True,
) -> StabilityReport:
    """Return the stability report of the loop u = π(y) + r: verdict, incremental margins, criteria and scope.

    The verdict is `certified` if some criterion proves that every policy of the certified class gives an
    incrementally stable loop with this linear plant; `nominally unstable` and `ill-posed` speak of the class's
    centre K₀ and its algebraic loop; `inconclusive` never means unstable. For an environment the plant is its
    linearisation at the equilibrium, and the scope says so.

    Parameters
    ----------
    plant : LTI plant as `as_realization` takes it (action → observation), or an environment or plant with
        `linearize()` (also behind `.unwrapped`).
    policy : policy object with `.certificate()`, `Certificate`, or `IncrementalBall`. Positive feedback: the
        policy carries its sign.
    structured : whether to use the policy's own neurons: "auto" does so for small networks when the ball of the
        certificate does not prove the loop. First another centre K₀ with a proved radius is searched (at most 36
        neurons, cvxpy installed; the report then speaks of that ball), then the inequality over the neurons.
    margins : whether to compute the gain margins with their falsifiers, for small loops the phase margin, and the
        classical margins; "all" adds the incremental phase, delay and disk margins, which can take seconds.

    Raises
    ------
    ValueError
        For data no theorem applies to: NaN, improper or empty models, a certificate that does not prove, shapes
        that do not fit. The message says what was expected and how to mend it.

    Examples
    --------
    >>> import control
    >>> from lipctrl.analysis import IncrementalBall
    >>> report = analyze(control.tf([1], [1, -1]), IncrementalBall(center=[[-3.0]], radius=1.0))
    >>> print(report.verdict, round(report.incremental_gain_margin.lower, 4))
    certified 0.5
    """
    if structured not in (True, False, "auto"):
        raise ValueError(f"structured is {structured!r}; expected True, False or 'auto'")
    if margins not in (True, False, "all"):
        raise ValueError(f"margins is {margins!r}; expected True, False or 'all'")
    raw, described, scope = _read_plant(plant)
    stated = own_ball(policy)
    system, ball, scales = in_own_units(raw, stated)
    loop = nominal_loop(system, ball.center)
    ball_test = judge_ball(loop, ball)
    tests = [_ball_result(ball, ball_test), *_whole_policy(raw, stated, system, ball)]
    described_policy = str(stated)
    moved = _moved(structured, raw, policy, ball_test)
    if moved is not None:
        stated, ball_test = moved
        _, ball, scales = in_own_units(raw, stated)
        loop = ball_test.loop
        tests.append(
            replace(_ball_result(ball, ball_test), name="incremental ball around the best centre found")
        )
        described_policy = f"{stated} (K₀ and the radius were found from the policy's neurons)"
    by_neurons = None
    if _wants_structured(structured, policy, ball_test, raw):
        by_neurons = _structured(raw, policy)
        tests.append(by_neurons)
    chosen = _decisive(tests)
    certified = ball_test.verdict is Verdict.CERTIFIED
    norm = ball_test.norm
    found: dict[str, Any] = {}
    if margins:
        found = _margins(raw, stated, ball_test, every=margins == "all")
        found["extras"] = {**_classical(loop, ball), **_by_neurons(raw, policy, by_neurons, certified)}
    return StabilityReport(
        verdict=chosen.verdict,
        scope=(*scope, *chosen.scope),
        plant=described,
        policy=described_policy,
        ball=ball,
        scales=scales,
        loop=loop,
        hinf=norm,
        tests=tuple(tests),
        stability_radius=_radius(norm.value) if math.isfinite(norm.value) else None,
        **found,
    )


def _margins(system: Realization, ball: Ball, test: BallTest, *, every: bool) -> dict[str, Any]:
    """Return the gain margins, and the phase margin of a small loop; with `every` all margins of the ball."""
    found: dict[str, Any] = {}
    if test.verdict is Verdict.CERTIFIED:
        found["incremental_gain_margin"] = incremental_gain_margin(system, ball)
    if math.isfinite(test.norm.value) and ball.center.any() and ball.radius > 0.0 and ball.region is None:
        found["residual_gain_margin"] = incremental_gain_margin(system, ball, "residual")
    if test.verdict is Verdict.CERTIFIED and (every or system.states <= _QUICK_STATES):
        from lipctrl.analysis.phase import incremental_phase_margin

        found["incremental_phase_margin"] = incremental_phase_margin(system, ball)
    if test.verdict is Verdict.CERTIFIED and every:
        from lipctrl.analysis.delay_margin import incremental_delay_margin
        from lipctrl.analysis.incremental_disk import incremental_disk_margin

        found["incremental_delay_margin"] = incremental_delay_margin(system, ball)
        found["incremental_disk_margin"] = incremental_disk_margin(system, ball)
    return found


def _read_plant(plant: Any) -> tuple[Realization, str, tuple[str, ...]]:
    require_raw_units(plant)
    source = getattr(plant, "unwrapped", plant)
    linearize = getattr(source, "linearize", None)
    if not callable(linearize) and hasattr(source, "action_space"):
        raise ValueError(
            f"plant is the environment {type(source).__name__}, which has no linearize(); expected a linear "
            "plant. Analyse lipctrl_envs.sample_model(env), or lipctrl.analysis.sampled_linearization(step, …): linear "
            "models whose error is sampled and not certified"
        )
    if not callable(linearize) or hasattr(plant, "ninputs"):
        system = as_realization(plant)
        return system, f"linear, {_size(system)}", ()
    system = as_realization(linearize(), "the linearisation of the environment")
    truth = getattr(source, "plant", source)
    name = getattr(truth, "name", type(truth).__name__)
    scope = (
        f"the linearisation of {name} at its equilibrium, not the nonlinear plant: nothing is claimed about large "
        "motions",
    )
    limit = getattr(truth, "action_limit", None)
    if limit is not None and np.isfinite(np.asarray(limit, dtype=float)).any():
        scope += ("the environment's own actuator limits are not part of the linear plant",)
    # A model of a black box says itself how it was found and how far it was off.
    scope += tuple(getattr(source, "linearization_scope", ()))
    return system, f"{name}, linearised, {_size(system)}", scope


def _size(system: Realization) -> str:
    inputs, outputs = (
        f" ({', '.join(names)})" if names else "" for names in (system.input_names, system.output_names)
    )
    signals = f"{_count(system.inputs, 'input')}{inputs}, {_count(system.outputs, 'output')}{outputs}"
    return f"{_count(system.states, 'state')}, {signals}, {system.timebase}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _ball_result(ball: IncrementalBall, test: BallTest) -> TestResult:
    name = "incremental small gain" if not ball.center.any() else "incremental ball around the centre gain"
    return TestResult(name, test.verdict, test.reason, test.margin, test.frequency, ball.scope)


def _whole_policy(
    raw: Realization, stated: Ball, system: Realization, ball: IncrementalBall
) -> list[TestResult]:
    """Test the whole policy in its own units and in raw ones: the norm of a centre may be smaller in either."""
    found = list(_small_gain(system, ball))
    if isinstance(stated, ScaledBall) and system is not raw:
        found += _small_gain(raw, stated.raw())
    return [max(found, key=lambda test: (test.verdict is Verdict.CERTIFIED, test.margin))] if found else []


def _small_gain(system: Realization, ball: IncrementalBall) -> Iterator[TestResult]:
    """Test the whole policy without a centre: weaker, but it holds also where an actuator limit is active."""
    if not ball.center.any() or ball.region is not None:
        return
    gain = ball.gain
    if gain is None:
        gain = math.nextafter(MidRad(ball.center).norm_bound() + ball.radius, math.inf)
    test = judge(nominal_loop(system, np.zeros_like(ball.center)), gain)
    # Without a centre "nominally unstable" speaks of the plant alone, which decides nothing about this loop.
    verdict = test.verdict if test.verdict is Verdict.CERTIFIED else Verdict.INCONCLUSIVE
    reason = (
        test.reason if test.verdict in (Verdict.CERTIFIED, Verdict.INCONCLUSIVE) else "needs a stable plant"
    )
    scope = tuple(line for line in ball.scope if ball.gain is None or "actuator limits" not in line)
    yield TestResult(
        "small gain of the whole policy", verdict, reason, test.margin or math.nan, test.frequency, scope
    )


def _wants_structured(structured: bool | str, policy: Any, test: BallTest, system: Realization) -> bool:
    if structured != "auto":
        return bool(structured)
    if not _undecided(policy, test) or system.D.any():
        return False
    return system.states + _neurons(policy) <= _STRUCTURED_ROWS


def _undecided(policy: Any, test: BallTest) -> bool:
    """Whether the ball left open what the policy's own neurons may decide: a centre may be wrong, or not stated."""
    open_ended = test.verdict in (Verdict.INCONCLUSIVE, Verdict.NOMINALLY_UNSTABLE)
    return open_ended and not isinstance(policy, Ball)


def _neurons(policy: Any) -> int:
    from lipctrl.analysis.policy_graph import policy_graph

    return policy_graph(policy if isinstance(policy, Certificate) else policy.certificate()).neurons


def _moved(
    structured: bool | str, system: Realization, policy: Any, test: BallTest
) -> tuple[Ball, BallTest] | None:
    """Return a ball around another centre that certifies a small policy whose own ball does not, or None."""
    if structured is False or not _undecided(policy, test) or importlib.util.find_spec("cvxpy") is None:
        return None
    if _neurons(policy) > _CENTRE_NEURONS:
        return None
    from lipctrl.analysis.recentre import best_ball

    found = best_ball(system, policy)
    return found if found[1].verdict is Verdict.CERTIFIED else None


def _by_neurons(system: Realization, policy: Any, test: TestResult | None, certified: bool) -> dict[str, Any]:
    """Return the gain margin of a loop that only the structured inequality certifies."""
    if certified or test is None or test.verdict is not Verdict.CERTIFIED:
        return {}
    from lipctrl.analysis.structured import structured_gain_margin

    margin = structured_gain_margin(system, policy)
    return {"incremental gain margin from the policy's own neurons, whole policy k·π": margin}


def _structured(system: Realization, policy: Any) -> TestResult:
    from lipctrl.analysis.structured import structured_test

    found = structured_test(system, policy)
    return TestResult(
        "structured inequality over the policy's neurons", found.verdict, found.reason, scope=found.scope
    )


def _decisive(tests: list[TestResult]) -> TestResult:
    """Return the certified test with the fewest restrictions, else the first one, about the ball."""
    certified = [test for test in tests if test.verdict is Verdict.CERTIFIED]
    return min(certified, key=lambda test: len(test.scope)) if certified else tests[0]


def _radius(norm: float) -> float:
    return math.inf if norm == 0.0 else math.nextafter(1.0 / norm, 0.0)


def _classical(loop: NominalLoop, ball: IncrementalBall) -> dict[str, Any]:
    """Return the classical margins of the centre's loop, seen at the plant's input."""
    if not loop.is_stable or not ball.center.any() or loop.plant.inputs > _CLASSICAL_CHANNELS:
        return {}
    if not math.isfinite(loop.norm().value):
        return {}
    from lipctrl.analysis.classical import classical_margins
    from lipctrl.analysis.disk import disk_margin

    # Broken at the actuator: the loop transfer is -K₀P, in the order (gain)(plant).
    margin = disk_margin(-ball.center, loop.plant)
    found: dict[str, Any] = {
        "classical disk margin of the linear centre, at the plant's input (non-incremental)": margin
    }
    if loop.plant.inputs == 1:
        classical = classical_margins(-ball.center, loop.plant)
        found["classical gain and phase margins of the linear centre (non-incremental, not proved)"] = (
            classical
        )
    return found
