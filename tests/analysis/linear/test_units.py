"""What is printed where dt=True counts time in samples: no margin speaks of seconds."""

import control
import numpy as np
import pytest

from lipctrl.analysis import (
    IncrementalBall,
    ball_test,
    circle_criterion,
    classical_margins,
    disk_margin,
    hinf_norm,
    incremental_delay_margin,
    incremental_disk_margin,
    incremental_gain_margin,
    incremental_phase_margin,
    scaled_relative_graphs,
    structured_radius,
    worst_deviation,
)
from lipctrl.analysis.units import in_units

BALL = IncrementalBall([[-1.2]], 0.05)
RESULTS = {
    "ball": lambda plant: ball_test(plant, BALL),
    "circle": lambda plant: circle_criterion(plant, (0.1, 0.4)),
    "classical": classical_margins,
    "delay": lambda plant: incremental_delay_margin(plant, BALL, channels=True),
    "disk": lambda plant: disk_margin(plant, 1.0),
    "incremental disk": lambda plant: incremental_disk_margin(plant, BALL),
    "gain": lambda plant: incremental_gain_margin(plant, BALL),
    "phase": lambda plant: incremental_phase_margin(plant, BALL),
    "radius": lambda plant: structured_radius(plant, 0.5),
    "deviation": lambda plant: worst_deviation(plant, 0.5),
    "delay falsifier": lambda plant: incremental_delay_margin(plant, BALL).destabilization,
    "norm": hinf_norm,
    "loop's norm": lambda plant: ball_test(plant, BALL).norm,
    "scaled relative graphs": lambda plant: scaled_relative_graphs(plant, (0.1, 0.4)),
    "gain falsifier": lambda plant: incremental_gain_margin(plant, BALL).destabilization(),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_margin_printed_alone_counts_in_samples_where_the_plant_does(name):
    plants = [control.tf([0.4], [1.0, -0.9, 0.3], dt) for dt in (True, 1.0)]
    samples, seconds = (str(RESULTS[name](plant)) for plant in plants)
    assert "rad/s" in seconds
    assert "rad/sample" not in seconds
    assert "rad/sample" in samples
    assert "rad/s " not in samples.replace("rad/sample", "")
    assert "Hz" not in samples
    assert " s " not in samples


def test_perturbations_of_several_channels_count_in_samples():
    plant = control.ss(
        [[0.5, 0.4], [-0.3, 0.6]], np.eye(2), np.array([[1.0, 2.0], [0.0, 1.0]]), np.zeros((2, 2)), True
    )
    margin = incremental_disk_margin(plant, IncrementalBall(-0.1 * np.eye(2), 0.02))
    for text in (str(margin), str(margin.destabilization), str(margin.varying or "rad/sample")):
        assert "rad/sample" in text
        assert " s," not in text


def test_words_are_changed_once():
    text = "certified up to at least 64 s (64 samples; 70 by the phase), limited at 0.1 rad/s (0.0159155 Hz)"
    once = in_units(text, counts_samples=True)
    assert (
        once
        == "certified up to at least 64 samples (70 by the phase), limited at 0.1 rad/sample (0.0159155 cycles/sample)"
    )
    assert in_units(once, counts_samples=True) == once
    assert in_units(text, counts_samples=False) == text
