"""python-control's labels reach what is printed and drawn; without labels channels are numbered."""

import control
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lipctrl.analysis import (
    IncrementalBall,
    ScaledBall,
    analyze,
    as_realization,
    disk_margin,
    incremental_delay_margin,
    incremental_disk_margin,
    incremental_gain_margin,
    incremental_phase_margin,
    worst_deviation,
)
from lipctrl.plots import disk_margin_plot, margin_simulation_plot

INPUTS, OUTPUTS = ["throttle", "rudder"], ["speed [m/s]", "heading [rad]"]
BALL = IncrementalBall([[-1.0, 0.0], [0.2, -1.0]], 0.1)
MARGINS = {
    "gain": lambda plant, ball: incremental_gain_margin(plant, ball, channels=True),
    "phase": lambda plant, ball: incremental_phase_margin(plant, ball, channels=True),
    "delay": lambda plant, ball: incremental_delay_margin(plant, ball, channels=True),
    "disk": incremental_disk_margin,
}


def plant(dt=0, **labels):
    return control.ss([[-1.0, 2.0], [0.0, -2.0]] if not dt else [[0.3, 0.4], [0.0, 0.2]], [[1.0, 0.3], [0.0, 1.0]],
                      [[1.0, 0.0], [0.5, 1.0]], np.zeros((2, 2)), dt, **labels)  # fmt: skip


def named(dt=0):
    return plant(dt, inputs=INPUTS, outputs=OUTPUTS, states=["a", "b"], name="boat")


@pytest.mark.parametrize("dt", [0, True])
@pytest.mark.parametrize("kind", MARGINS)
@pytest.mark.parametrize("ball", [BALL, ScaledBall(BALL.center, 0.1, [1.0, 4.0], [2.0, 1.0])])
def test_margins_of_single_channels_carry_the_names_of_the_actuators(kind, dt, ball):
    with_names, without = (str(MARGINS[kind](system, ball)) for system in (named(dt), plant(dt)))
    assert "single channels" in without
    assert "throttle" in with_names
    assert "rudder" in with_names
    # Names change words, no numbers.
    assert with_names.replace("throttle ", "").replace("rudder ", "") == without
    assert ("rad/sample" in with_names) == (dt is True)


@pytest.mark.parametrize("loop", [lambda p: (p, np.eye(2)), lambda p: (np.eye(2), p)])
def test_disk_margins_name_the_signals_where_the_loop_is_broken(loop):
    first = loop(named())
    expected = OUTPUTS if first[0].__class__ is not np.ndarray else INPUTS
    margin = disk_margin(*first)
    assert margin.channel_names == tuple(expected)
    assert [single.channel_names for single in margin.channels] == [(name,) for name in expected]
    assert all(name in str(margin) for name in expected)
    assert "throttle" not in str(disk_margin(*loop(plant())))


@pytest.mark.parametrize("dt", [0, 0.1, 1.0, True])
def test_simulations_know_their_outputs_and_their_clock(dt):
    deviation = worst_deviation(named(dt), -BALL.center)
    simulation = deviation.simulate()
    assert simulation.output_names == tuple(OUTPUTS)
    assert simulation.counts_samples == (dt is True)
    assert OUTPUTS[simulation.largest] in str(simulation)
    axes = margin_simulation_plot(simulation)
    assert axes.get_ylabel() == OUTPUTS[simulation.largest]
    # One second a sample is not the same as one sample.
    assert axes.get_xlabel() == ("time [samples]" if dt is True else "time [s]")
    plt.close(axes.figure)
    axes = margin_simulation_plot(worst_deviation(plant(dt), -BALL.center).simulate())
    assert axes.get_ylabel() in ("output y1 [plant's unit]", "output y2 [plant's unit]")
    plt.close(axes.figure)


def test_every_simulation_of_a_margin_is_named():
    for kind in MARGINS.values():
        margin = kind(named(), IncrementalBall(4.0 * BALL.center, 0.5))
        try:
            simulation = margin.simulate()
        except ValueError:
            continue  # nothing destabilises
        assert simulation.output_names == tuple(OUTPUTS)
        # A complex rotation runs two copies of the plant.
        assert simulation.name_of(0) == OUTPUTS[0]
        assert simulation.name_of(2) == OUTPUTS[0] + "'"


def test_the_legend_of_a_disk_names_the_weakest_channel():
    margin = disk_margin(named(), [[1.0, 0.0], [0.2, 1.0]])
    axes = disk_margin_plot(margin)
    words = [text.get_text() for text in axes.figure.findobj(plt.Text)]
    assert any(name in word for name in OUTPUTS for word in words if "alone" in word)
    plt.close(axes.figure)


def test_the_report_names_the_signals_of_the_plant():
    report = analyze(named(), BALL)
    assert "2 inputs (throttle, rudder), 2 outputs (speed [m/s], heading [rad])" in report.summary()
    assert "2 inputs, 2 outputs" in analyze(plant(), BALL).summary()


def test_names_survive_connections_and_default_labels_are_none():
    assert as_realization(named()).output_names == tuple(OUTPUTS)
    assert as_realization(named()).balanced()[0].input_names == tuple(INPUTS)
    assert as_realization(plant()).output_names == ()
    assert as_realization(control.tf([1.0], [1.0, 1.0], inputs="u", outputs="y")).input_names == ("u",)
    joined = control.interconnect(
        [control.tf([1.0], [1.0, 1.0], inputs="force", outputs="speed", name="body")],
        inputs=["force"], outputs=["speed"],
    )  # fmt: skip
    assert as_realization(joined).input_names == ("force",)
