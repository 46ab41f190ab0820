"""From a certificate to an analysis: what is edited, stale, of another kind or of another size ends in words."""

from __future__ import annotations

import dataclasses
import math

import control
import numpy as np
import pytest

from lipctrl import analysis, rules
from lipctrl.analysis import IncrementalBall
from lipctrl.certificate import Certificate
from lipctrl.checker import check

PLANT = control.tf([1], [1, 2, 1])
SAMPLED = control.ss([[0.5]], [[1.0]], [[1.0]], [[0.0]], 0.1)
NET = rules.series(rules.linear([[0.3]]), rules.elementwise("tanh", 1), rules.linear([[0.5]]))
CENTERED = rules.centered([[-0.5]], NET)
LAYERS = [rules.Layer({0: [[0.4]]}, "tanh", [0.0])]

MARGINS = {
    "gain": analysis.incremental_gain_margin,
    "phase": analysis.incremental_phase_margin,
    "delay": analysis.incremental_delay_margin,
    "disk": analysis.incremental_disk_margin,
}
DOORS = {
    **MARGINS,
    "analyze": analysis.analyze,
    "ball": analysis.ball_test,
    "structured": analysis.structured_test,
    "structured margin": analysis.structured_gain_margin,
    "gain of the loop": analysis.structured_gain,
}
SAMPLED_DOORS = {"slopes": analysis.periodic_slopes, "gains": analysis.falsified_gains}


def resealed(node: Certificate, **changes) -> Certificate:
    return dataclasses.replace(node, **changes, digest="")


def rescaled(factor: float) -> Certificate:
    """A policy behind an observation scale, the scale edited and the gain left."""
    whole = rules.series(rules.scaling([0.5]), NET)
    scale = resealed(whole.parts[0], weights={"scale": np.array([0.5 * factor])})
    return resealed(whole, parts=(scale, *whole.parts[1:]))


def recentred(gain: float) -> Certificate:
    center = CENTERED.parts[0]
    weights = {**center.weights, "weight": np.array([[gain]])}
    return resealed(CENTERED, parts=(resealed(center, weights=weights), CENTERED.parts[1]))


def of_claim(claim: str, gain: float) -> Certificate:
    metric = [[1.0]] if claim.startswith("contraction") else None
    return rules.network(
        LAYERS, rules.Output({1: [[0.5]]}), {1: [1.0]}, gain, in_features=1, claim=claim, metric=metric
    )


def limited(lower: float, upper: float) -> Certificate:
    weights = {"lower": np.array([lower]), "upper": np.array([upper])}
    return resealed(rules.projection(NET, [-1.0], [1.0]), weights=weights)


NOT_PROVED = {
    "a smaller gain": resealed(NET, gain=0.1 * NET.gain),
    "one digit of the gain": resealed(NET, gain=NET.gain - 1e-9),
    "one digit, seal broken": dataclasses.replace(NET, gain=NET.gain * (1.0 + 1e-9)),
    "a gain of nan": resealed(NET, gain=math.nan),
    "an infinite gain": resealed(NET, gain=math.inf),
    "a negative gain": resealed(NET, gain=-0.1),
    "another observation scale": rescaled(100.0),
    "another observation scale, one digit": rescaled(1.0 + 1e-9),
    "another centre": recentred(-50.0),
    "another centre, one digit": recentred(-0.5 * (1.0 + 1e-9)),
    "exchanged limits": limited(1.0, -1.0),
    "a limit of nan": limited(math.nan, 1.0),
    "an unknown rule": resealed(NET, rule="magic"),
    "a part too few": resealed(CENTERED, parts=CENTERED.parts[:1]),
    "a forged radius": resealed(CENTERED, parts=(CENTERED.parts[0], resealed(CENTERED.parts[1], gain=1e-6))),
}
OF_ANOTHER_KIND = {
    "linf": (rules.linear([[0.3]], norm="linf"), "l2"),
    "one-sided": (of_claim("one-sided", 0.5), "claims 'one-sided'"),
    "inverse": (of_claim("inverse", 0.0), "claims 'inverse'"),
    "contraction": (of_claim("contraction", 0.5), "claims 'contraction'"),
    "contraction-rate": (of_claim("contraction-rate", 0.5), "claims 'contraction-rate'"),
    "two observations": (rules.linear([[0.1, 0.1]]), "2 observations"),
    "two actions": (rules.linear([[0.1], [0.1]]), "2 actions"),
}


@pytest.mark.parametrize("case", NOT_PROVED)
def test_an_edited_certificate_is_believed_by_no_analysis(case):
    for name, door in DOORS.items():
        with pytest.raises(ValueError, match="not proved"):
            print(name, door(PLANT, NOT_PROVED[case]))
    for name, door in SAMPLED_DOORS.items():
        with pytest.raises(ValueError, match="not proved"):
            print(name, door(SAMPLED, NOT_PROVED[case]))


@pytest.mark.parametrize("case", OF_ANOTHER_KIND)
def test_a_claim_of_another_kind_or_size_is_named(case):
    certificate, word = OF_ANOTHER_KIND[case]
    for name, door in DOORS.items():
        with pytest.raises(ValueError, match=word):
            print(name, door(PLANT, certificate))
    for name, door in SAMPLED_DOORS.items():
        with pytest.raises(ValueError, match=word):
            print(name, door(SAMPLED, certificate))


def on_a_box() -> Certificate:
    """Slopes of tanh on [2, 3] are below 0.2: a gain that is far from true elsewhere."""
    layers = [rules.Layer({0: [[1.0]]}, "tanh", [0.0])]
    box = (np.array([2.0]), np.array([3.0]))
    for gain in (0.08, 0.1, 0.15, 0.3):
        for weight in (0.1, 0.3, 1.0, 3.0):
            node = rules.network(
                layers, rules.Output({1: [[1.0]]}), {1: [weight]}, gain, in_features=1, region=box
            )
            if check(node).ok:
                return node
    raise AssertionError("nothing proves the gain on the box")


@pytest.mark.parametrize("door", MARGINS)
def test_a_gain_on_a_box_gives_no_margin(door):
    """2/(s + 1)²: gain 2 at frequency 0, lost with the slope 1 that tanh has at 0 and not with those of the box."""
    plant = control.tf([2], [1, 2, 1])
    for certificate in (on_a_box(), rules.centered([[0.0]], on_a_box())):
        with pytest.raises(ValueError, match="inside a box"):
            print(MARGINS[door](plant, certificate))


def test_a_gain_on_a_box_certifies_no_loop():
    plant = control.tf([2], [1, 2, 1])
    for certificate in (on_a_box(), rules.centered([[0.0]], on_a_box())):
        assert analysis.as_ball(certificate).region is not None
        test = analysis.ball_test(plant, certificate)
        assert test.verdict == "inconclusive"
        assert "inside a box" in test.reason
        assert analysis.analyze(plant, certificate).verdict != "certified"
        assert analysis.structured_test(plant, certificate).verdict != "certified"
        assert analysis.best_centre(plant, certificate).verdict != "certified"
    scaled = analysis.as_ball(on_a_box()).scaled(2.0)
    with pytest.raises(ValueError, match="inside a box"):
        analysis.incremental_gain_margin(plant, scaled)


def test_margins_of_a_clipped_policy_say_where_they_hold():
    """Around a centre a saturated policy leaves the ball: the numbers say that the limits must be inactive."""
    clipped = rules.projection(rules.centered([[-3.0]], NET), [-1.0], [1.0])
    plant = control.tf([1], [1, -1])
    for margin in (door(plant, clipped) for door in MARGINS.values()):
        assert any("limits are inactive" in line for line in margin.scope)
        assert "limits are inactive" in str(margin)
    test = analysis.ball_test(plant, clipped)
    assert "limits are inactive" in str(test)
    open_ended = analysis.incremental_gain_margin(plant, rules.centered([[-3.0]], NET))
    assert open_ended.scope == ()
    assert "scope" not in str(open_ended)


def test_timebases_that_differ_are_refused():
    slow, fast = control.tf([1], [1, -0.5], 0.1), control.tf([0.2], [1, -0.1], 0.01)
    for call in (analysis.disk_margin, analysis.classical_margins):
        for controller in (fast, control.tf([1], [1, 1])):
            with pytest.raises(ValueError, match="timebase"):
                call(slow, controller)
    with pytest.raises(ValueError, match="timebase"):
        analysis.ball_test([[slow, fast]], IncrementalBall([[0.0], [0.0]], 0.1))


@pytest.mark.parametrize(
    "call",
    [
        lambda: IncrementalBall(np.array([[-3.0 + 1j]]), 0.1),
        lambda: IncrementalBall([[0.0]], 0.1j),
        lambda: IncrementalBall([[0.0]], -0.1),
        lambda: IncrementalBall([[0.0]], 0.1, gain=math.nan),
        lambda: IncrementalBall([[0.0]], 0.1, gain=-1.0),
        lambda: IncrementalBall([[0.0]], 0.1, scope="somewhere"),
        lambda: IncrementalBall([[[0.0]]], 0.1),
        lambda: analysis.structured_radius(PLANT, np.array([[3.0 + 1j]])),
        lambda: analysis.structured_radius(PLANT, [[1.0]], left=np.array([[1j]])),
        lambda: analysis.structured_radius(PLANT, "a"),
        lambda: analysis.incremental_disk_margin(PLANT, IncrementalBall([[0.0]], 0.1), skew=None),
        lambda: analysis.disk_margin(PLANT, [[1.0]], skew=math.nan),
    ],
)
@pytest.mark.filterwarnings("error")
def test_balls_and_gains_of_the_wrong_kind_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
