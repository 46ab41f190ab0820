"""Bounds of given networks: against cvxpy, against the eclipse-nn package, local against global."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

import lipctrl

Row = dict[str, Any]


def _mlp(sizes: list[int], seed: int, scale: float = 1.0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        (scale * rng.standard_normal((b, a)) / np.sqrt(a), rng.standard_normal(b)) for a, b in pairwise(sizes)
    ]


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def _cvxpy(layers: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """LipSDP-Neuron for ReLU by cvxpy and Clarabel."""
    import cvxpy as cp

    inputs = layers[0][0].shape[1]
    heights = [w.shape[0] for w, _ in layers[:-1]]
    total = inputs + sum(heights)
    drive, row, column = np.zeros((sum(heights), total)), 0, 0
    for w, _ in layers[:-1]:
        drive[row : row + w.shape[0], column : column + w.shape[1]] = w
        row, column = row + w.shape[0], column + w.shape[1]
    output = np.zeros((layers[-1][0].shape[0], total))
    output[:, -heights[-1] :] = layers[-1][0]
    eye = np.eye(total)
    rho, lam = cp.Variable(), cp.Variable(sum(heights), nonneg=True)
    half = eye[inputs:].T @ cp.diag(lam) @ (eye[inputs:] - drive)
    n = rho * (eye[:inputs].T @ eye[:inputs]) - output.T @ output + half + half.T
    cp.Problem(cp.Minimize(rho), [0.5 * (n + n.T) >> 0]).solve(solver="CLARABEL")
    return float(np.sqrt(rho.value))


def solvers(fast: bool) -> list[Row]:
    """LipSDP: the barrier method against cvxpy + Clarabel (medians over seeds, ReLU)."""
    shapes = [[4, 8, 8, 2], [4, 16, 16, 2]] if fast else [[4, 8, 8, 2], [4, 20, 20, 3], [6, 30, 30, 3]]
    rows: list[Row] = []
    for sizes in shapes:
        runs = []
        for seed in range(1 if fast else 3):
            layers = _mlp(sizes, seed)
            cert, ours = _timed(lambda layers=layers: lipctrl.certify(layers, "lipsdp", activation="relu"))
            peer, theirs = _timed(lambda layers=layers: _cvxpy(layers))
            runs.append((cert.gain, cert.gain / peer - 1.0, ours, theirs))
        gain, difference, ours, theirs = (statistics.median(c) for c in zip(*runs, strict=True))
        rows.append(
            {
                "layers": "-".join(map(str, sizes)),
                "bound": gain,
                "relative to cvxpy": difference,
                "ours [s]": ours,
                "cvxpy [s]": theirs,
            }
        )
    if not fast:
        sizes = [10, 64, 64, 64, 64, 64, 4]
        cert, ours = _timed(lambda: lipctrl.certify(_mlp(sizes, 0), "lipsdp", activation="relu"))
        rows.append(
            {
                "layers": "10-5×64-4",
                "bound": cert.gain,
                "relative to cvxpy": "not run",
                "ours [s]": ours,
                "cvxpy [s]": "not run",
            }
        )
    return rows


def _eclipse_nn(layers: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Any, Any]:
    """Bound and seconds of the eclipse-nn package, or a plain word where it is not installed."""
    if importlib.util.find_spec("eclipse_nn") is None:
        return "not installed", "not installed"
    import torch
    from eclipse_nn.LipConstEstimator import LipConstEstimator

    modules: list[torch.nn.Module] = []
    for weight, bias in layers:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0]).double()
        linear.weight.data, linear.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        modules += [linear, torch.nn.ReLU()]
    estimator = LipConstEstimator(model=torch.nn.Sequential(*modules[:-1]))
    value, seconds = _timed(lambda: estimator.estimate(method="ECLipsE_Fast"))
    return float(value), seconds


def depth(fast: bool) -> list[Row]:
    """Depth 5 to 100, width 32, ReLU: product, ECLipsE-Fast, ECLipsE, and the eclipse-nn package."""
    rows: list[Row] = []
    for layers_count in (5, 20) if fast else (5, 20, 50, 100):
        runs: list[list[Any]] = []
        for seed in range(1 if fast else 3):
            layers = _mlp([4, *[32] * layers_count, 2], seed)
            record: list[Any] = []
            for method in ("product", "eclipse-fast", "eclipse"):
                cert, seconds = _timed(
                    lambda method=method, layers=layers: lipctrl.certify(layers, method, activation="relu")
                )
                record += [cert.gain, seconds]
            runs.append([*record, *_eclipse_nn(layers)])
        middle = [c[0] if isinstance(c[0], str) else statistics.median(c) for c in zip(*runs, strict=True)]
        names = ("product", "ECLipsE-Fast", "ECLipsE", "eclipse-nn Fast")
        row: Row = {"depth": layers_count}
        for i, name in enumerate(names):
            row |= {name: middle[2 * i], f"{name} [s]": middle[2 * i + 1]}
        rows.append(row)
    return rows


def local(fast: bool) -> list[Row]:
    """Local bounds on boxes of half-width r against the global bound and the ascent from below (tanh)."""
    rows: list[Row] = []
    layers = _mlp([4, 16, 16, 2] if fast else [4, 32, 32, 32, 2], 0)
    everywhere = lipctrl.certify(layers, "lipsdp", activation="tanh")
    for radius in (1.0, 0.1) if fast else (3.0, 1.0, 0.3, 0.1, 0.03, 0.01):
        cert, seconds = _timed(
            lambda radius=radius: lipctrl.certify(
                layers, "local", region=(-radius, radius), activation="tanh"
            )
        )
        lower = lipctrl.lipschitz_lower_bound(cert, region=(-radius, radius))
        rows.append(
            {
                "r": radius,
                "global": everywhere.gain,
                "local": cert.gain,
                "lower": lower,
                "tightness": lower / cert.gain,
                "seconds": seconds,
            }
        )
    return rows


def run(fast: bool) -> list[Row]:
    """Run all tables of this file, one after the other."""
    return [*solvers(fast), *depth(fast), *local(fast)]


TABLES = {"bounds-solvers": solvers, "bounds-depth": depth, "bounds-local": local}
