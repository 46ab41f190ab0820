"""`analyze`: verdicts, scopes, criteria and files, from LTI plants and environments."""

from __future__ import annotations

import json
import subprocess
import sys

import control
import numpy as np
import pytest

import lipctrl
from lipctrl.analysis import IncrementalBall
from lipctrl.rules import centered, linear, projection
from tests.analysis.linear.systems import random_system

s = control.tf("s")


def test_a_certified_report_is_complete():
    report = lipctrl.analyze(1 / (s - 1), IncrementalBall([[-3.0]], 1.0))
    assert report.verdict == "certified"
    assert report.certified
    assert report.hinf.value == pytest.approx(0.5)
    assert report.stability_radius == pytest.approx(2.0)
    assert report.incremental_gain_margin.lower == pytest.approx(0.5)
    assert report.residual_gain_margin.upper == pytest.approx(2.0)
    assert report.scope == ()
    text = report.summary()
    for word in ("verdict: certified", "rad/s", "Hz", "dB", "u = π(y)", "falsified", "Euclidean"):
        assert word in text


@pytest.mark.parametrize(
    ("plant", "ball", "verdict"),
    [
        (1 / (s - 1), IncrementalBall([[-3.0]], 2.5), "inconclusive"),
        (1 / (s - 1), IncrementalBall([[0.0]], 0.1), "nominally unstable"),
        (1 / s, IncrementalBall([[0.0]], 0.1), "nominally unstable"),
        (s / (s + 1), IncrementalBall([[1.0]], 0.1), "ill-posed"),
        (s / (s + 1), IncrementalBall([[0.0]], 1.5), "ill-posed"),
    ],
)
def test_every_other_verdict_has_no_margin(plant, ball, verdict):
    report = lipctrl.analyze(plant, ball)
    assert report.verdict == verdict
    assert not report.certified
    assert report.incremental_gain_margin is None
    assert verdict in report.summary()


@pytest.mark.parametrize(
    "plant", [control.ss([[np.nan]], [[1.0]], [[1.0]], 0), control.tf([1, 0, 0], [1, 1]), np.ones((2, 2))]
)
def test_data_errors_are_value_errors(plant):
    with pytest.raises(ValueError, match=r"expected|improper"):
        lipctrl.analyze(plant, IncrementalBall([[-1.0]], 0.1))


def test_a_zero_centre_on_an_unstable_plant_says_what_can_be_done():
    unstable = 1 / (s - 1)
    assert (
        "a residual around a stabilising gain"
        in lipctrl.analyze(unstable, IncrementalBall([[0.0]], 0.1)).summary()
    )
    assert "a residual around" not in lipctrl.analyze(unstable, IncrementalBall([[-0.5]], 0.1)).summary()


def test_the_widest_certified_claim_is_the_verdicts():
    # The whole policy passes the small-gain test, so saturation does not limit the claim.
    weak = projection(centered([[-0.2]], linear([[0.1]])), [-1.0], [1.0])
    report = lipctrl.analyze(1 / (s + 1), weak)
    assert report.verdict == "certified"
    assert report.scope == ()
    strong = projection(centered([[-3.0]], linear([[0.1]])), [-1.0], [1.0])
    narrow = lipctrl.analyze(1 / (s - 1), strong)
    assert narrow.verdict == "certified"
    assert any("limits are inactive" in line for line in narrow.scope)


def test_environments_are_linearised_and_the_scope_says_so():
    envs = pytest.importorskip("lipctrl_envs")
    plant = envs.CartPole()
    system = plant.linearize()
    gain = control.dlqr(system.A, system.B, np.eye(4), np.eye(1))[0]
    radius = 0.5 * lipctrl.stability_radius(system, gain)
    report = lipctrl.analyze(plant, IncrementalBall(-gain, radius))
    assert report.verdict == "certified"
    assert any("linearisation" in line for line in report.scope)
    margin = report.incremental_gain_margin
    assert 0.0 < margin.falsified_lower < margin.lower < 1.0 < margin.upper < margin.falsified_upper


def test_the_policys_own_linearisation_lies_outside():
    plant = control.ss([[1.0, 0.1], [0.0, 1.0]], [[0.0], [0.1]], np.eye(2), np.zeros((2, 1)), 0.1)
    policy = centered([[-2.0, -2.0]], linear([[0.2, -0.1]]))
    margin = lipctrl.analyze(plant, policy).incremental_gain_margin
    own = [f for f in margin.falsifiers if "own linearisation" in f.kind]
    assert own
    assert all(f.k >= margin.upper or f.k <= margin.lower for f in own)


def test_files(tmp_path):
    report = lipctrl.analyze(1 / (s - 1), IncrementalBall([[-3.0]], 1.0))
    data = json.loads(report.save(tmp_path / "report.json").read_text())
    assert data["verdict"] == "certified"
    assert data["incremental_gain_margin"]["lower"] == pytest.approx(0.5)
    assert "verdict: certified" in report.save(tmp_path / "report.txt").read_text()
    with pytest.raises(ValueError, match="html"):
        report.save(tmp_path / "report.pdf")


@pytest.mark.parametrize("dt", [0, 0.05])
def test_twenty_states_are_certified(dt):
    rng = np.random.default_rng(0)
    plant = random_system(rng, 20, 2, 3, dt)
    gain = 0.02 * rng.normal(size=(2, 3))
    ball = IncrementalBall(-gain, 0.5 * lipctrl.stability_radius(plant, gain))
    report = lipctrl.analyze(plant, ball)
    assert report.verdict == "certified"
    assert report.incremental_gain_margin.lower < 1.0 < report.incremental_gain_margin.upper


def test_unknown_arguments_raise():
    with pytest.raises(TypeError):
        lipctrl.analyze(1 / (s + 1), IncrementalBall([[0.0]], 0.1), speed=1)
    with pytest.raises(ValueError, match="structured"):
        lipctrl.analyze(1 / (s + 1), IncrementalBall([[0.0]], 0.1), structured="maybe")


def test_analysis_never_imports_torch():
    code = (
        "import sys, control, lipctrl; "
        "r = lipctrl.analyze(control.tf([1], [1, -1]), lipctrl.IncrementalBall([[-3.0]], 1.0)); "
        "assert 'torch' not in sys.modules and r.verdict == 'certified'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_environment_without_a_linearisation_is_told_where_to_get_one():
    class Black:
        action_space = observation_space = None

    with pytest.raises(ValueError, match="sample_model"):
        lipctrl.analyze(Black(), IncrementalBall([[0.0]], 0.1))


def test_a_gain_of_the_wrong_sign_is_told():
    """u = -K y is the centre -K; whoever gives K closes the loop the other way round."""
    plant = control.ss([[0.0, 1.0], [1.0, 0.0]], [[0.0], [1.0]], np.eye(2), np.zeros((2, 1)))
    K = np.array([[4.0, 2.0]])
    wrong = lipctrl.analyze(plant, IncrementalBall(K, 0.1))
    assert wrong.verdict == "nominally unstable"
    assert "with -K₀ it is stable" in wrong.summary()
    neither = lipctrl.analyze(plant, IncrementalBall(np.array([[4.0, -2.0]]), 0.1))
    assert neither.verdict == "nominally unstable"
    assert "-K₀ it is stable" not in neither.summary()
