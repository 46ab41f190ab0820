"""What the tests of this room draw: small plants, networks, runs and reports."""

from __future__ import annotations

from types import SimpleNamespace

import control
import numpy as np

from lipctrl import plots
from lipctrl.analysis import IncrementalBall, StabilityReport, ball_test, incremental_gain_margin
from lipctrl.analysis.report import TestResult
from lipctrl.analysis.scales import Scales
from lipctrl.rules import Layer, Output, linear, neurons, series

MARGIN = SimpleNamespace(lower=0.4, upper=1.8, falsified_lower=0.3, falsified_upper=2.5, falsifiers=())
PLANT = control.tf([1], [1, -1])
BALL = IncrementalBall([[-3.0]], 1.5)


def network():
    rng = np.random.default_rng(0)
    c, b = 0.5 * rng.normal(size=(4, 3)), 0.3 * rng.normal(size=(3, 4))
    block = neurons(
        [Layer({0: c}, "relu")], Output({0: 0.2 * np.eye(3), 1: b}), [np.full(4, 2.0)], 3.0, in_features=3
    )
    return series(block, block, linear([[1.0, 0.0, 2.0]]))


def metrics(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("steps,validation_return,certified_gain\n0,-500,\n100,-200,1.5\n200,-150,1.4\n")
    return plots.training_metrics(file)


def grid_of_verdicts():
    verdict = np.array([["certified", "inconclusive"], ["nominally unstable", "ill-posed"]])
    return plots.RobustnessMap(
        np.array([1.0, 2.0]),
        np.array([0.1, 0.2]),
        np.array([[1.7, 0.8], [0.0, 0.0]]),
        verdict,
        ("m", "l"),
        ("kg", "m"),
    )


def trajectories():
    time = np.linspace(0.0, 1.0, 11)
    return plots.Trajectories(
        time, np.zeros((3, 11, 2)) + time[None, :, None], ("angle", "torque"), ("rad", "N·m")
    )


def ellipsoid():
    root = np.array([[2.0, 0.3, 0.1], [0.0, 1.0, -0.4], [0.0, 0.0, 0.5]])
    return plots.Ellipsoid(
        root.T @ root, ("a", "b", "c"), ("m", "m/s", "N"), center=np.array([1.0, 0.0, -1.0])
    )


def portrait():
    outer, paths = ellipsoid(), np.zeros((2, 11, 3)) + np.linspace(3.0, 0.0, 11)[None, :, None]
    inner = plots.Ellipsoid(9.0 * outer.shape, outer.names, outer.units, outer.center)
    return plots.Portrait(outer, inner, paths, np.array([8, -1]))


def double_integrator():
    return control.ss([[1.0, 0.1], [0.0, 1.0]], [[0.0], [0.1]], np.eye(2), np.zeros((2, 1)), 0.1)


def curves():
    levels = np.array([0.0, 0.1, 0.2])
    return [plots.Degradation(name, "noise", levels, np.array([[-1.0, -2.0, -3.0]] * 2)) for name in "ab"]


def simulation():
    return incremental_gain_margin(PLANT, BALL).simulate("lower")


def stability_report(plant, ball, **changes):
    test = ball_test(plant, ball)
    return StabilityReport(
        verdict=test.verdict,
        scope=("while <limits> are inactive",),
        plant="a plant",
        policy=str(ball),
        ball=ball,
        scales=Scales.none(ball.observations, ball.actions),
        loop=test.loop,
        hinf=test.norm,
        tests=(TestResult("ball", test.verdict, test.reason, test.margin, test.frequency),),
        **changes,
    )
