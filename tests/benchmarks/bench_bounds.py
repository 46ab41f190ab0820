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
    """Return a value and the CPU seconds that it took."""
    start = time.process_time()
    value = function()
    return value, time.process_time() - start


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
    deep = _mlp([10, 64, 64, 64, 64, 64, 4], 0)
    for kind in () if fast else ("relu", "silu"):
        cert, ours = _timed(lambda kind=kind: lipctrl.certify(deep, "lipsdp", activation=kind))
        rows.append(
            {
                "layers": f"10-5×64-4, {kind}",
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


def _bound_only(layers: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """ECLipsE-Fast as numbers, without certificate and proof: what eclipse-nn computes."""
    from lipctrl.bounds.eclipse import layer_wise
    from lipctrl.bounds.problem import reduce_network

    return float(
        np.sqrt(layer_wise(reduce_network(lipctrl.bounds.read_network(layers, "relu")), fast=True).rho)
    )


def depth(fast: bool) -> list[Row]:
    """Depth 5 to 100, widths 32 and 64, ReLU: ECLipsE-Fast as numbers, with its proof, and by eclipse-nn (CPU s)."""
    rows: list[Row] = []
    for width in (32, 64):
        for layers_count in (5, 20) if fast else (5, 20, 50, 100):
            runs: list[list[Any]] = []
            for seed in range(1 if fast else 5):
                layers = _mlp([4, *[width] * layers_count, 2], seed)
                record: list[Any] = [*_timed(lambda layers=layers: _bound_only(layers))]
                cert, seconds = _timed(
                    lambda layers=layers: lipctrl.certify(layers, "eclipse-fast", activation="relu")
                )
                record += [cert.gain, seconds, *_eclipse_nn(layers)]
                runs.append(record)
            middle = [
                c[0] if isinstance(c[0], str) else statistics.median(c) for c in zip(*runs, strict=True)
            ]
            row: Row = {"width": width, "depth": layers_count}
            for i, name in enumerate(("ECLipsE-Fast", "proved", "eclipse-nn")):
                row |= {name: middle[2 * i], f"{name} [s]": middle[2 * i + 1]}
            rows.append(row)
    return rows


def greedy(fast: bool) -> list[Row]:
    """Depth 5 to 100, width 32, ReLU: product, ECLipsE-Fast and ECLipsE, all proved (CPU s)."""
    rows: list[Row] = []
    for layers_count in (5, 20) if fast else (5, 20, 50, 100):
        layers = _mlp([4, *[32] * layers_count, 2], 0)
        row: Row = {"depth": layers_count}
        for method in ("product", "eclipse-fast", "eclipse"):
            cert, seconds = _timed(
                lambda method=method, layers=layers: lipctrl.certify(layers, method, activation="relu")
            )
            row |= {method: cert.gain, f"{method} [s]": seconds}
        rows.append(row)
    return rows


def residual(fast: bool) -> list[Row]:
    """Stacks of residual blocks x + B σ(A x)/4, ReLU: product, layer-wise, descent on the whole LMI (CPU s)."""
    from lipctrl.bounds.graph import Builder

    rows: list[Row] = []
    for blocks, width in ((3, 16), (5, 32)) if fast else ((5, 32), (10, 64), (20, 64)):
        rng = np.random.default_rng(0)
        build = Builder(8)
        x = build.linear(build.input(), rng.standard_normal((width, 8)) / np.sqrt(8))
        for _ in range(blocks):
            a, b = rng.standard_normal((2, width, width)) / np.sqrt(width)
            x = build.add(x, build.linear(build.activate(build.linear(x, a), "relu"), 0.25 * b))
        given = build.finish(build.linear(x, rng.standard_normal((4, width)) / np.sqrt(width)))
        row: Row = {"blocks × width": f"{blocks}×{width}"}
        cert = None
        for method in ("product", "eclipse-fast", "descent"):
            cert, seconds = _timed(lambda method=method, given=given: lipctrl.certify(given, method))
            row |= {method: cert.gain, f"{method} [s]": seconds}
        row["lower"] = lipctrl.lipschitz_lower_bound(cert)
        rows.append(row)
    return rows


def local(fast: bool) -> list[Row]:
    """Local bounds on boxes of half-width r against the global bound and the ascent from below (tanh)."""
    rows: list[Row] = []
    layers = _mlp([4, 16, 16, 2] if fast else [4, 32, 32, 32, 2], 0)
    everywhere = lipctrl.certify(layers, "lipsdp", activation="tanh")
    for radius in (1.0, 0.1) if fast else (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-4, 1e-6, 1e-8):
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


def ranges(fast: bool) -> list[Row]:
    """Width of the output range over a box of half-width r: intervals, zonotopes, CROWN, 20,000 samples (CPU s)."""
    rows: list[Row] = []
    sizes = [4, 16, 16, 2] if fast else [4, 32, 32, 32, 2]
    for kind in ("relu", "tanh") if fast else ("relu", "tanh", "silu", "softplus"):
        layers = _mlp(sizes, 0)
        given = lipctrl.bounds.read_network(layers, kind)
        for radius in (0.3,) if fast else (0.1, 0.3, 1.0):
            row: Row = {"activation": kind, "r": radius}
            for method in ("interval", "linear", "crown"):
                (low, high), seconds = _timed(
                    lambda method=method, given=given, radius=radius: lipctrl.output_range(
                        given, -radius, radius, method
                    )
                )
                row |= {method: float((high - low).mean()), f"{method} [s]": seconds}
            x = np.random.default_rng(1).uniform(-radius, radius, (20000, sizes[0]))
            row["sampled"] = float(np.ptp(given(x), axis=0).mean())
            rows.append(row)
    return rows


def run(fast: bool) -> list[Row]:
    """Run all tables of this file, one after the other."""
    return [*solvers(fast), *depth(fast), *greedy(fast), *residual(fast), *local(fast), *ranges(fast)]


TABLES = {
    "bounds-solvers": solvers,
    "bounds-depth": depth,
    "bounds-greedy": greedy,
    "bounds-residual": residual,
    "bounds-local": local,
    "bounds-ranges": ranges,
}
